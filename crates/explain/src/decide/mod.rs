//! Walking a call from proxy to proxy.

mod conn;
mod filters;
mod http;
mod recorded;
mod resolve;
mod way;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use mizzen_api::core::Pod;
use mizzen_ir::Head;
use mizzen_model::{ProxyType, Snapshot};
use mizzen_types::SpiffeId;

use crate::{
    call::{Call, CallError, Explanation, Hop, Payload, Side, Source, Verdict},
    mesh, places,
    proxy::Proxy,
};

pub use recorded::{Caller, Inputs, Recorded, RecordedRequest, Replayed};

/// An address beyond the mesh, for hosts whose address nobody here knows.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The port from which connections come.
const EPHEMERAL: u16 = 40_000;
/// So many proxies in a row are a circle.
const MOST_HOPS: usize = 5;

/// Explains calls in one mesh. What was built for one call serves the next.
pub struct Explainer {
    snapshot: Arc<Snapshot>,
    /// Pods by address.
    pods: BTreeMap<IpAddr, Neighbour>,
    proxies: HashMap<IpAddr, Rc<Proxy>>,
    depth: usize,
}

impl std::fmt::Debug for Explainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explainer").field("pods", &self.pods.len()).field("built", &self.built()).finish_non_exhaustive()
    }
}

/// A pod, as others see it.
#[derive(Clone, Debug)]
struct Neighbour {
    /// `namespace/pod`
    name: String,
    proxy: Option<ProxyType>,
    id: SpiffeId,
}

/// What is on a connection.
#[derive(Clone, Debug)]
struct Flow {
    source: SocketAddr,
    destination: SocketAddr,
    /// TLS around the payload, the outermost last.
    layers: Vec<Hello>,
    payload: Carried,
}

/// TLS as it is begun.
#[derive(Clone, Debug)]
struct Hello {
    server_name: Option<String>,
    protocols: Vec<Vec<u8>>,
    /// Whose certificate the client shows.
    peer: Option<SpiffeId>,
    /// Whether it shows one of nobody of the mesh, which is as good as it has to be.
    certificate: bool,
}

/// What is carried.
#[derive(Clone, Debug)]
enum Carried {
    Http {
        head: Head,
        http2: bool,
    },
    /// Neither HTTP nor TLS.
    Bytes,
    /// What is within a program's own TLS.
    Unknown,
}

/// What the call itself gives for what a mesh does not know.
#[derive(Clone, Copy, Debug)]
struct Given {
    random: Option<u64>,
    outside: Option<bool>,
    at: Option<u64>,
    endpoints: usize,
}

impl Explainer {
    /// Explains calls in this mesh.
    pub fn new(snapshot: &Arc<Snapshot>) -> Explainer {
        let trust_domain = &snapshot.mesh().trust_domain;
        let neighbours = |pod: &Pod| {
            let id = SpiffeId {
                trust_domain: trust_domain.clone(),
                namespace: pod.meta.namespace.clone(),
                service_account: pod.spec.service_account.as_str().into(),
            };
            let name = format!("{}/{}", pod.meta.namespace, pod.meta.name);
            let neighbour = Neighbour { name, proxy: mesh::proxy_type(snapshot, pod), id };
            let addresses = [pod.status.pod_ip, pod.status.second_ip].into_iter().flatten();
            addresses.map(|ip| (ip, neighbour.clone())).collect::<Vec<_>>()
        };
        let pods = snapshot.objects::<Pod>().flat_map(neighbours).collect();
        Explainer { snapshot: snapshot.clone(), pods, proxies: HashMap::new(), depth: 0 }
    }

    /// How many resources have been built so far: those that the steps of the calls named.
    pub fn built(&self) -> usize {
        self.proxies.values().map(|proxy| proxy.built()).sum()
    }

    /// How a call would be decided.
    ///
    /// # Errors
    /// If there is no such caller, or it cannot send that.
    pub fn call(&mut self, call: &Call) -> Result<Explanation, CallError> {
        let (ip, caller, namespace) = match &call.from {
            Source::Address(ip) => (*ip, None, "default".to_owned()),
            Source::Workload(text) => {
                let (namespace, name) = text.split_once('/').ok_or_else(|| CallError::Form(text.clone()))?;
                let pod = mesh::workload_of(&self.snapshot, namespace, name);
                let ip = pod.and_then(|pod| pod.status.pod_ip).ok_or_else(|| CallError::Workload(text.clone()))?;
                (ip, self.pods.get(&ip).cloned(), namespace.to_owned())
            }
        };
        let mut steps = Vec::new();
        let destination = self.resolve(&call.host, call.port, (namespace.as_str(), ip), &mut steps)?;
        let (layers, payload) = sent(call)?;
        let flow = Flow { source: SocketAddr::new(ip, EPHEMERAL), destination, layers, payload };
        let given = Given { random: call.random, outside: call.outside, at: call.at, endpoints: call.endpoints };
        let hop = match caller {
            Some(Neighbour { proxy: Some(ProxyType::Sidecar), .. }) => self.hop(ip, Side::Outbound, flow, given),
            caller => self.bare(caller.map_or_else(|| ip.to_string(), |caller| caller.name), &flow, given),
        };
        let verdict = hop.verdict.clone();
        let mut explanation = Explanation { call: call.clone(), steps, hop, verdict, places: BTreeMap::new() };
        explanation.places = places::of(&self.snapshot, &explanation);
        Ok(explanation)
    }

    /// What a pod's proxy does.
    fn hop(&mut self, ip: IpAddr, side: Side, flow: Flow, given: Given) -> Hop {
        let mut hop = Hop { proxy: ip.to_string(), side, steps: Vec::new(), ways: Vec::new(), verdict: Verdict::Delivered };
        let Some(proxy) = self.proxy(ip) else {
            hop.verdict = Verdict::unknown(format!("there is no proxy at {ip}"));
            return hop;
        };
        hop.proxy.clone_from(&proxy.name);
        if self.depth >= MOST_HOPS {
            hop.verdict = Verdict::unknown(format!("it has been through {MOST_HOPS} proxies, and goes on"));
            return hop;
        }
        self.depth += 1;
        hop.verdict = self.serve(&proxy, &mut hop, flow, given).unwrap_or_else(|verdict| verdict);
        self.depth -= 1;
        hop
    }

    fn proxy(&mut self, ip: IpAddr) -> Option<Rc<Proxy>> {
        if let Some(known) = self.proxies.get(&ip) {
            return Some(known.clone());
        }
        let neighbour = self.pods.get(&ip)?;
        let kind = neighbour.proxy?;
        let (namespace, name) = neighbour.name.split_once('/')?;
        let pod = mesh::pod(&self.snapshot, namespace, name)?;
        let proxy = Rc::new(Proxy::new(&self.snapshot, mesh::view_of(&self.snapshot, pod, ip, kind)));
        self.proxies.insert(ip, proxy.clone());
        Some(proxy)
    }
}

/// What a program sends.
fn sent(call: &Call) -> Result<(Vec<Hello>, Carried), CallError> {
    // An address is no server name: who calls one asks for the host that is wanted of it.
    let named = |name: &str| name.parse::<IpAddr>().is_err().then(|| name.to_owned());
    Ok(match &call.payload {
        Payload::Tcp => (Vec::new(), Carried::Bytes),
        Payload::Tls { server_name } => {
            let hello = Hello {
                server_name: server_name.clone().or_else(|| named(&call.host)),
                protocols: Vec::new(),
                peer: None,
                certificate: false,
            };
            (vec![hello], Carried::Unknown)
        }
        Payload::Http { method, path, headers, http2, tls, server_name, certificate } => {
            let usual = if *tls { 443 } else { 80 };
            let authority = if call.port == usual { call.host.clone() } else { format!("{}:{}", call.host, call.port) };
            let scheme = if *tls { "https" } else { "http" };
            let mut head = Head::request("GET", scheme, &authority, "/");
            if !head.set_method(method) || !head.set_path(path) {
                return Err(CallError::Request(method.clone(), path.clone()));
            }
            for (name, value) in headers {
                let lower = name.to_ascii_lowercase();
                let set = if lower == "host" { head.set_authority(value) } else { head.append(&lower, value) };
                if !set {
                    return Err(CallError::Header(name.clone(), value.clone()));
                }
            }
            let protocols = if *http2 { vec![b"h2".to_vec()] } else { vec![b"http/1.1".to_vec()] };
            let wanted = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, host)| host.as_str());
            let wanted = wanted.map(|host| host.rsplit_once(':').map_or(host, |(host, _)| host)).and_then(named);
            let server_name = server_name.clone().or_else(|| named(&call.host)).or(wanted);
            let hello = Hello { server_name, protocols, peer: None, certificate: *certificate };
            (if *tls { vec![hello] } else { Vec::new() }, Carried::Http { head, http2: *http2 })
        }
    })
}
