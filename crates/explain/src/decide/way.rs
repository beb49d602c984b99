//! From a cluster to its endpoints.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use mizzen_ir::config::{
    AlpnOverride, Assignment, Cluster, Discovery, Dynamic, Endpoint, EndpointAddress, Health, HttpProtocol, Transport, UpstreamTls,
};
use mizzen_types::Name;

use super::{Carried, EPHEMERAL, Explainer, Flow, Given, Hello};
use crate::{
    call::{ResourceType, Security, Share, Side, Step, StepKind, To, Verdict, Way},
    proxy::{Found, Proxy},
};

/// Where a proxy sends a call.
pub(super) struct Target {
    pub(super) cluster: Name,
    /// Its weight, and that of all.
    pub(super) share: Option<(u64, u64)>,
    pub(super) when: Option<String>,
    pub(super) flow: Flow,
    pub(super) http: Option<ByHttp>,
}

/// What is different where HTTP is sent.
pub(super) struct ByHttp {
    /// The status if there is no such cluster.
    pub(super) not_found: u16,
    pub(super) alpn: Option<Arc<AlpnOverride>>,
    /// Whether endpoints are chosen by their metadata.
    pub(super) subset: bool,
    /// What happened to the request before.
    pub(super) steps: Vec<Step>,
}

impl Explainer {
    pub(super) fn way(&mut self, proxy: &Rc<Proxy>, side: Side, mut target: Target, given: Given) -> Way {
        let share = target.share.map(|(weight, of)| Share { weight, of });
        let steps = target.http.as_mut().map(|http| std::mem::take(&mut http.steps)).unwrap_or_default();
        let when = target.when.take();
        let mut way = Way { cluster: target.cluster.to_string(), share, when, steps, to: Vec::new(), verdict: Verdict::Delivered };
        way.verdict = self.followed(proxy, side, &target, given, &mut way).unwrap_or_else(|verdict| verdict);
        way
    }

    fn followed(&mut self, proxy: &Rc<Proxy>, side: Side, target: &Target, given: Given, way: &mut Way) -> Result<Verdict, Verdict> {
        let failed = |why: String| match &target.http {
            Some(_) => Verdict::answered(503, why),
            None => Verdict::closed(why),
        };
        let cluster = match proxy.cluster(&target.cluster) {
            Found::There(cluster) => cluster,
            Found::Absent => {
                let why = format!("the proxy has no cluster {}", target.cluster);
                return Err(target.http.as_ref().map_or_else(|| Verdict::closed(&*why), |http| Verdict::answered(http.not_found, &*why)));
            }
            Found::Refused(why) => {
                return Err(Verdict::unknown(format!("the proxy refuses the cluster, and keeps the last good one: {why}")));
            }
        };
        match way.steps.iter_mut().find(|step| step.step == StepKind::Cluster) {
            Some(step) => *step = step.clone().by(ResourceType::Cluster, &*target.cluster),
            None => way.steps.push(Step::new(StepKind::Cluster, &target.cluster).by(ResourceType::Cluster, &*target.cluster)),
        }
        if side == Side::Inbound {
            // What is behind an inbound cluster is the program beside the proxy.
            return Ok(Verdict::Delivered);
        }
        let endpoints = match &cluster.discovery {
            Discovery::Dynamic(dynamic) => vec![(by_name(dynamic, &cluster, target, &mut way.steps).map_err(&failed)?, true, None)],
            _ => endpoints(proxy, &cluster, target.flow.destination, &mut way.steps).map_err(&failed)?,
        };
        if cluster.lb.subsets.is_some() && target.http.as_ref().is_some_and(|http| http.subset) {
            way.steps.push(Step::new(StepKind::Endpoints, "the route chooses among them by their metadata: all are followed"));
        }
        let mut followed = 0;
        for (at, used, endpoint) in &endpoints {
            let (security, hello) = security(proxy, &cluster, endpoint.as_deref(), target);
            let mut to =
                To { address: at.to_string(), workload: None, used: *used, security, steps: Vec::new(), next: None, verdict: None };
            if let At::Socket(address) = at {
                to.workload = self.pods.get(&address.ip()).map(|pod| pod.name.clone());
            }
            if *used && followed < given.endpoints {
                followed += 1;
                self.send(proxy, &cluster, (at, endpoint.as_deref()), hello, target, given, &mut to);
            }
            way.to.push(to);
        }
        let verdict = Verdict::of(way.to.iter().filter_map(|to| to.verdict.clone()));
        verdict.ok_or_else(|| failed(format!("cluster {} has no endpoint that is well", cluster.name)))
    }

    /// A call is sent to an endpoint.
    #[allow(clippy::too_many_arguments)]
    fn send(
        &mut self,
        proxy: &Rc<Proxy>,
        cluster: &Cluster,
        (at, endpoint): (&At, Option<&Endpoint>),
        hello: Option<Hello>,
        target: &Target,
        given: Given,
        to: &mut To,
    ) {
        let address = match at {
            At::Socket(address) => *address,
            At::Name(..) => {
                // Names are resolved by proxies where they lead out of the mesh.
                let meshed = hello.is_some_and(|hello| hello.peer.is_some());
                to.verdict = Some(match meshed {
                    true => Verdict::unknown("whether it takes the mesh's mutual TLS, outside of the mesh"),
                    false => Verdict::Delivered,
                });
                return;
            }
            At::Other(_) => {
                to.verdict = Some(Verdict::unknown("what is behind a socket or a listener of the proxy's own"));
                return;
            }
        };
        if let Some(why) = self.distrusted(cluster, endpoint, address) {
            to.steps.push(Step::new(StepKind::Tls, &why));
            to.verdict = Some(match target.http {
                Some(_) => Verdict::answered(503, why),
                None => Verdict::closed(why),
            });
            return;
        }
        let mut flow = target.flow.clone();
        flow.source = SocketAddr::new(proxy.view.facts().ip, EPHEMERAL);
        flow.destination = address;
        flow.layers.extend(hello);
        if let (Carried::Http { http2, .. }, Some(_)) = (&mut flow.payload, &target.http) {
            *http2 = match cluster.http.protocol {
                HttpProtocol::Http1 => false,
                HttpProtocol::Http2 => true,
                HttpProtocol::Downstream | HttpProtocol::Alpn => *http2,
            };
        }
        self.arrive(to, address, flow, given);
    }

    /// Why the client does not believe the server, if it does not.
    fn distrusted(&self, cluster: &Cluster, endpoint: Option<&Endpoint>, address: SocketAddr) -> Option<String> {
        let Transport::Tls(tls) = transport(cluster, endpoint) else { return None };
        let server = &self.pods.get(&address.ip()).filter(|pod| pod.proxy.is_some())?.id.to_string();
        let asked = tls.common.validation.as_ref().filter(|_| is_mutual(tls))?;
        (!asked.names(server)).then(|| format!("the server's certificate is of {server}, which is none of those that are expected"))
    }
}

/// Where an endpoint is.
pub(super) enum At {
    Socket(SocketAddr),
    Name(Name, u16),
    Other(String),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Socket(address) => write!(f, "{address}"),
            At::Name(name, port) => write!(f, "{name}:{port}"),
            At::Other(text) => f.write_str(text),
        }
    }
}

type Endpoints = Vec<(At, bool, Option<Arc<Endpoint>>)>;

/// Where the name leads that a call brings.
fn by_name(dynamic: &Dynamic, cluster: &Cluster, target: &Target, steps: &mut Vec<Step>) -> Result<At, String> {
    let authority = match (&target.flow.payload, &target.http) {
        (Carried::Http { head, .. }, Some(_)) => Some(head.authority()),
        _ => None,
    };
    let server_name = || target.flow.layers.last().and_then(|hello| hello.server_name.as_deref());
    let asked = authority.or_else(server_name).unwrap_or_default();
    let is_tls = !matches!(cluster.transport.default, Transport::Raw);
    let Some((name, port)) = dynamic.place(asked, None, is_tls) else {
        return Err(format!("cluster {} is not for `{asked}`", cluster.name));
    };
    steps.push(Step::new(StepKind::Endpoints, format!("the name that is asked for, {name}, whatever DNS says of it")));
    Ok(At::Name(name, port))
}

/// A cluster's endpoints, and which of them are called.
fn endpoints(proxy: &Proxy, cluster: &Cluster, destination: SocketAddr, steps: &mut Vec<Step>) -> Result<Endpoints, String> {
    let assignment = match &cluster.discovery {
        Discovery::OriginalDst { port } => {
            let to = SocketAddr::new(destination.ip(), port.unwrap_or(destination.port()));
            steps.push(Step::new(StepKind::Endpoints, format!("the address that was called, {to}")));
            return Ok(vec![(At::Socket(to), true, None)]);
        }
        Discovery::Static(inline) | Discovery::StrictDns(inline, _) | Discovery::LogicalDns(inline, _) => inline.clone(),
        Discovery::Dynamic(_) => return Ok(Vec::new()),
        Discovery::Eds { service } => match proxy.assignment(service) {
            Found::There(assignment) => assignment,
            Found::Absent => return Err(format!("the control plane knows no endpoints of {service}")),
            Found::Refused(why) => return Err(format!("the proxy refuses the endpoints: {why}")),
        },
    };
    let well = |endpoint: &Endpoint| matches!(endpoint.health, Health::Unknown | Health::Healthy | Health::Degraded);
    let all = |priority: &mizzen_ir::config::Priority| -> Vec<Arc<Endpoint>> {
        priority.localities.iter().flat_map(|group| group.endpoints.iter().cloned()).collect()
    };
    let first = assignment.priorities.iter().position(|priority| all(priority).iter().any(|endpoint| well(endpoint)));
    let mut found = Vec::new();
    for (at, priority) in assignment.priorities.iter().enumerate() {
        let of_priority = all(priority);
        found.extend(of_priority.into_iter().map(|endpoint| (place(&endpoint), Some(at) == first && well(&endpoint), Some(endpoint))));
    }
    let step = Step::new(StepKind::Endpoints, counted(&assignment, first));
    steps.push(match &cluster.discovery {
        Discovery::Eds { service } => step.by(ResourceType::Endpoints, &**service),
        _ => step,
    });
    Ok(found)
}

fn counted(assignment: &Assignment, first: Option<usize>) -> String {
    let all = assignment.endpoints().count();
    match first {
        None => format!("none of {all} is well"),
        Some(0) => format!("{all}"),
        Some(first) => format!("{all}, of which those of priority {first} are the first that are well"),
    }
}

fn place(endpoint: &Endpoint) -> At {
    match &endpoint.address {
        EndpointAddress::Socket(address) => At::Socket(*address),
        EndpointAddress::Dns(name, port) => At::Name(name.clone(), *port),
        EndpointAddress::Pipe(path) => At::Other(format!("socket {path}")),
        EndpointAddress::Internal(listener, _) => At::Other(format!("listener {listener} of the proxy")),
    }
}

fn transport<'c>(cluster: &'c Cluster, endpoint: Option<&Endpoint>) -> &'c Transport {
    endpoint.map_or(&cluster.transport.default, |endpoint| cluster.transport.of(endpoint))
}

/// Whether the client shows the workload's own certificate.
fn is_mutual(tls: &UpstreamTls) -> bool {
    tls.common.certificates.iter().any(|secret| &*secret.name == "default")
}

/// How an endpoint is called, and the TLS that is begun for it.
fn security(proxy: &Proxy, cluster: &Cluster, endpoint: Option<&Endpoint>, target: &Target) -> (Security, Option<Hello>) {
    let Transport::Tls(tls) = transport(cluster, endpoint) else { return (Security::Plaintext, None) };
    let authority = match (&target.flow.payload, &target.http) {
        (Carried::Http { head, .. }, Some(_)) => Some(head.authority()),
        _ => None,
    };
    let hostname = endpoint.map_or("", |endpoint| &*endpoint.hostname);
    let server_name = match authority {
        Some(authority) if cluster.http.auto_sni => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
        _ if tls.auto_host_sni && !hostname.is_empty() => hostname,
        _ => &tls.sni,
    };
    let protocols = offered(cluster, tls, target);
    let server_name = server_name.to_owned();
    let mutual = is_mutual(tls);
    let hello = Hello {
        server_name: Some(server_name.clone()).filter(|name| !name.is_empty()),
        protocols: protocols.iter().map(|name| name.clone().into_bytes()).collect(),
        peer: mutual.then(|| proxy.id.clone()),
        certificate: false,
    };
    let security = match mutual {
        true => Security::MutualTls { identity: proxy.id.to_string(), server_name, protocols },
        false => Security::Tls { server_name },
    };
    (security, Some(hello))
}

/// The protocols that are offered: those that Istio's filter wishes for, else the cluster's, else what the version of HTTP is called.
fn offered(cluster: &Cluster, tls: &UpstreamTls, target: &Target) -> Vec<String> {
    let came2 = matches!(target.flow.payload, Carried::Http { http2: true, .. });
    let protocol = match cluster.http.protocol {
        HttpProtocol::Downstream if came2 => HttpProtocol::Http2,
        HttpProtocol::Downstream => HttpProtocol::Http1,
        other => other,
    };
    let wished = target.http.as_ref().filter(|_| cluster.alpn_override).and_then(|http| http.alpn.as_ref());
    let wished = wished.and_then(|alpn| match protocol {
        HttpProtocol::Http2 => Some(&alpn.http2),
        HttpProtocol::Http1 => Some(&alpn.http11),
        HttpProtocol::Alpn | HttpProtocol::Downstream => None,
    });
    let names: Vec<String> = wished.filter(|names| !names.is_empty()).unwrap_or(&tls.common.alpn).iter().map(ToString::to_string).collect();
    match protocol {
        HttpProtocol::Http2 if names.is_empty() && target.http.is_some() => vec!["h2".to_owned()],
        HttpProtocol::Alpn if names.is_empty() && target.http.is_some() => vec!["h2".to_owned(), "http/1.1".to_owned()],
        _ => names,
    }
}
