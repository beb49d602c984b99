//! A whole mesh in memory: YAML → resources → bytes on the wire → each proxy's configuration → proxies joined by the engine's [`Sim`].
//!
//! Every pod with an address is in it: with a sidecar if its label says so, as a gateway if a Gateway selects it, else as a bare program.
//! A program answers on each of its pod's ports, and says what it sees. Deliberately absent: the agents, the capture, and the folder's source.

mod http;
mod proxy;
mod resources;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mizzen_api::core::Pod;
use mizzen_engine::{Command, Node, sim::Sim};
use mizzen_http::Head;
use mizzen_model::{ProxyFacts, ProxyType, ProxyView, Snapshot, TLS_MODE_LABEL};
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_protos::wkt::{Struct, Value, value::Kind as Wkt};
use mizzen_types::SpiffeId;
use serde_json::Value as Json;

pub use http::{FAILS, SERVED_BY};
pub use mizzen_explain::{Loaded, load, proxy_of};
pub use resources::{Resources, load_folder, resources};

/// The longest that an answer is waited for, on the mesh's own clock.
const PATIENCE: Duration = Duration::from_secs(30);
/// How exactly that clock is read.
const STEP: Duration = Duration::from_millis(100);

/// The mesh.
pub struct MemoryMesh {
    /// The network.
    pub sim: Sim,
    ca: Ca,
    began: Duration,
    members: BTreeMap<String, Member>,
    /// What was refused of the YAML.
    pub problems: Vec<mizzen_api::Problem>,
}

/// A pod with a proxy.
struct Member {
    at: usize,
    ip: IpAddr,
    kind: ProxyType,
    view: ProxyView,
    stream: proxy::Stream,
    resources: Resources,
}

/// A request of a program.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The pod, `namespace/name`; anything else is somebody outside of the mesh.
    pub from: &'a str,
    /// The method.
    pub method: &'a str,
    /// `http://host[:port]/path`. Pods without a sidecar and others outside have no DNS: they call addresses.
    pub url: &'a str,
    /// Headers; `host` is in the place of the URL's.
    pub headers: &'a [(&'a str, &'a str)],
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The answer's head; none if the connection was closed, or nothing came.
    pub head: Option<Head>,
    /// The fields of the request as the program saw them, pseudo fields included; empty if it saw none.
    pub seen: Vec<(String, String)>,
    /// The lines that the proxies wrote meanwhile: those of the later hops first.
    pub lines: Vec<Json>,
    /// How long it took on the mesh's clock, within a tenth of a second.
    pub took: Duration,
}

impl std::fmt::Debug for MemoryMesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryMesh").field("sim", &self.sim).field("members", &self.members.keys()).finish_non_exhaustive()
    }
}

impl MemoryMesh {
    /// Starts a mesh; everything is decided by `seed`.
    ///
    /// # Panics
    /// If a proxy refuses a resource that was made for it, or waits for one.
    pub fn start(seed: u64, files: &[(&str, &str)]) -> MemoryMesh {
        // Certificates are judged by the machine's clock, which rustls reads.
        let now = UnixTime::now();
        let began = Duration::from_secs(now.as_secs());
        let ca = Ca::self_signed(&Default::default(), now, CaLimits::default()).expect("a certificate authority");
        let mut mesh = MemoryMesh { sim: Sim::new(seed, began), ca, began, members: BTreeMap::new(), problems: Vec::new() };
        mesh.apply(files);
        mesh
    }

    /// Puts other YAML in the place of what there is.
    ///
    /// # Panics
    /// As [`MemoryMesh::start`].
    pub fn apply(&mut self, files: &[(&str, &str)]) {
        let Loaded { snapshot, problems } = load(files.iter().copied());
        self.problems = problems;
        for pod in snapshot.objects::<Pod>() {
            self.place(&snapshot, pod);
        }
        let now = self.sim.now().wall.saturating_sub(self.began);
        for (name, member) in &mut self.members {
            member.resources = resources(&snapshot, &member.view);
            let config = member.stream.sync(&member.resources, now);
            assert!(member.stream.rejected.is_empty(), "{name} rejects what was made for it: {:#?}", member.stream.rejected);
            assert!(member.stream.is_warm(), "{name} waits for what does not come");
            self.sim.command(member.at, Command::Config(config));
        }
        self.sim.run();
    }

    /// A program somewhere else.
    pub fn serve(&mut self, address: &str, name: &str) {
        self.sim.serve(address, http::program(name.to_owned()));
    }

    /// The number of a pod's proxy in the network.
    pub fn proxy(&self, pod: &str) -> Option<usize> {
        self.members.get(pod).map(|member| member.at)
    }

    /// What a pod's proxy was sent.
    pub fn resources(&self, pod: &str) -> Option<&Resources> {
        self.members.get(pod).map(|member| &member.resources)
    }

    /// One request on a connection of its own.
    ///
    /// # Panics
    /// If the URL is none, or leads nowhere.
    pub fn call(&mut self, call: &Call<'_>) -> Answer {
        let rest = call.url.strip_prefix("http://").expect("a URL");
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let mut head = Head::request(call.method, "http", authority, if path.is_empty() { "/" } else { path });
        for (name, value) in call.headers {
            let name = if *name == "host" { ":authority" } else { name };
            assert!(head.set(name, value), "{name}: {value}");
        }
        let (exchange, bytes) = http::Exchange::new(&head);
        self.exchange(call.from, authority, exchange, &bytes)
    }

    /// Bytes on a connection of their own to `authority`, which may be a request or anything, and what is answered if they were one.
    ///
    /// # Panics
    /// As [`MemoryMesh::call`].
    pub fn raw(&mut self, from: &str, authority: &str, bytes: &[u8]) -> Answer {
        // A request whose answer may be of any length.
        let (exchange, _) = http::Exchange::new(&Head::request("GET", "http", "x", "/"));
        self.exchange(from, authority, exchange, bytes)
    }

    fn exchange(&mut self, from: &str, authority: &str, mut exchange: http::Exchange, bytes: &[u8]) -> Answer {
        for member in self.members.values() {
            self.sim.log(member.at);
        }
        let client = self.connect(from, authority);
        let began = self.sim.now().mono;
        self.sim.send(client, bytes);
        self.sim.run();
        while !exchange.done && self.sim.now().mono < began + PATIENCE {
            exchange.receive(&self.sim.received(client));
            if exchange.done || self.sim.ended(client).is_some() {
                break;
            }
            self.sim.run_for(STEP);
        }
        let took = self.sim.now().mono - began;
        self.sim.abort(client);
        // Lines are handed over within a second.
        self.sim.run_for(Duration::from_secs(1));
        let served = exchange.head.as_ref().is_some_and(|head| head.contains(SERVED_BY));
        let body = String::from_utf8_lossy(&exchange.body).into_owned();
        let field = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned()));
        let seen = body.lines().filter(|_| served).filter_map(field).collect();
        Answer { head: exchange.head, seen, lines: self.lines(from), took }
    }

    /// The lines of all proxies, the caller's last.
    fn lines(&mut self, from: &str) -> Vec<Json> {
        let mut all: Vec<_> = self.members.iter().map(|(name, member)| (name == from, member.at)).collect();
        all.sort_unstable();
        let logs: Vec<String> = all.into_iter().map(|(_, at)| self.sim.log(at)).collect();
        logs.iter().flat_map(|log| log.lines()).filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Opens a connection as a program does: through its own sidecar if it has one, else straight to whom it calls.
    fn connect(&mut self, from: &str, authority: &str) -> usize {
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let address = |ip: &str| format!("{ip}:{port}");
        if let Some(member) = self.members.get(from).filter(|member| member.kind == ProxyType::Sidecar) {
            let known = member.resources.addresses(host);
            let to = address(known.first().map_or(host, String::as_str));
            assert!(to.parse::<SocketAddr>().is_ok(), "{from} knows no address of {host}");
            return self.sim.connect(member.at, &to);
        }
        let to: SocketAddr = address(host).parse().expect("an address");
        let called = self.members.values().find(|member| member.ip == to.ip()).expect("a pod with a proxy");
        let listener = match called.kind {
            ProxyType::Sidecar => "virtualInbound".to_owned(),
            ProxyType::Router => format!("0.0.0.0_{port}"),
        };
        self.sim.connect_from(called.at, &listener, SocketAddr::from(([192, 0, 2, 1], 40_000)), &to.to_string())
    }

    /// Gives a pod its programs and its proxy, unless it has them.
    fn place(&mut self, snapshot: &Arc<Snapshot>, pod: &Pod) {
        let name = format!("{}/{}", pod.meta.namespace, pod.meta.name);
        let Some(ip) = pod.status.pod_ip.filter(|_| !self.members.contains_key(&name)) else { return };
        for port in pod.spec.containers.iter().flat_map(|container| &container.ports).filter(|port| !port.udp) {
            self.serve(&SocketAddr::new(ip, port.port).to_string(), &pod.meta.name);
        }
        let Some(view) = proxy_of(snapshot, &pod.meta.namespace, &pod.meta.name) else { return };
        let facts = view.facts().clone();
        if facts.kind == ProxyType::Sidecar && pod.meta.labels.get(TLS_MODE_LABEL).is_none_or(|mode| mode != "istio") {
            return;
        }
        let id = SpiffeId {
            trust_domain: snapshot.mesh().trust_domain.clone(),
            namespace: facts.namespace.clone(),
            service_account: facts.service_account.clone(),
        };
        let stream = proxy::Stream::new(&self.ca, &id, UnixTime::since_unix_epoch(self.began));
        let at = self.sim.proxy(&ip.to_string(), node(&facts), Arc::default());
        self.members.insert(name, Member { at, ip, kind: facts.kind, view, stream, resources: Resources::default() });
    }
}

impl Answer {
    /// The status; 0 if there is no answer.
    pub fn status(&self) -> u16 {
        self.head.as_ref().map_or(0, Head::status)
    }

    /// The pod, or other program, that answered.
    pub fn served_by(&self) -> Option<&str> {
        self.head.as_ref()?.get_str(SERVED_BY)
    }

    /// A field of the request as the program saw it.
    pub fn saw(&self, name: &str) -> Option<&str> {
        self.seen.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A member of the lines, of the first in which it says something.
    pub fn line(&self, key: &str) -> Option<&str> {
        self.lines.iter().filter_map(|line| line[key].as_str()).find(|value| !value.is_empty() && *value != "-")
    }

    /// The whole in a few words: `200 POD METHOD PATH`, with `as ACCOUNT` if the program's proxy knows who called; `301 LOCATION`; or what a
    /// proxy says of why there is no more: `403 rbac_access_denied_matched_policy[none]`.
    pub fn summary(&self) -> String {
        let status = self.status();
        if let Some(pod) = self.served_by() {
            let uri = self.saw("x-forwarded-client-cert").and_then(|xfcc| xfcc.rsplit_once("URI=")).map(|(_, uri)| uri);
            let caller = uri.and_then(|uri| uri.rsplit('/').next()).map(|account| format!(" as {account}")).unwrap_or_default();
            let field = |name| self.saw(name).unwrap_or_default();
            return format!("{status} {pod} {} {}{caller}", field(":method"), field(":path"));
        }
        if let Some(location) = self.head.as_ref().and_then(|head| head.get_str("location")) {
            return format!("{status} {location}");
        }
        let said = |line: &Json| line["response_code_details"].as_str().filter(|why| *why != "via_upstream").map(str::to_owned);
        let why = self.lines.iter().find_map(said).unwrap_or_else(|| "closed".to_owned());
        format!("{status} {why}")
    }
}

/// The node that a proxy's bootstrap would have.
fn node(facts: &ProxyFacts) -> Node {
    let text = |text: &str| Value { kind: Some(Wkt::StringValue(text.to_owned())) };
    let labels = Struct { fields: facts.labels.iter().map(|(key, value)| (key.clone(), text(value))).collect() };
    let named = [
        ("NAMESPACE", &facts.namespace),
        ("SERVICE_ACCOUNT", &facts.service_account),
        ("WORKLOAD_NAME", &facts.workload),
        ("CLUSTER_ID", &facts.cluster),
    ];
    let mut metadata = Struct { fields: named.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect() };
    metadata.fields.insert("LABELS".to_owned(), Value { kind: Some(Wkt::StructValue(labels)) });
    Node { id: facts.id.to_string(), cluster: format!("{}.{}", facts.workload, facts.namespace), metadata }
}
