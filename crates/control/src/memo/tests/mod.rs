//! What a change costs, counted; and whatever changes, every proxy ends with what it would get from the beginning.

mod on_demand;
mod parts;

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, sync::Arc};

use mizzen_api::Object;
use mizzen_model::{Change, ProxyFacts, ProxyType, Reader, Snapshot};
use mizzen_protos::envoy::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mizzen_translate::ResourceKind;
use mizzen_types::Name;
use mizzen_xds::{
    server::{Resource, Response},
    types::{CLUSTER, ENDPOINT, LISTENER, NAME_TABLE},
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::Memo;
use crate::connection::{Connection, Connections, Push, Registered};

fn objects(yaml: &str) -> Vec<Change> {
    let parsed = mizzen_api::parse_documents(yaml, &"test.yaml".into());
    parsed.objects.into_iter().map(|o: Result<Object, _>| Change::from(o.unwrap())).collect()
}

/// A service of a mesh in which each has a rule with two subsets and a route.
fn service(i: usize, endpoint: &str, weight: u32) -> String {
    let (namespace, host) = (format!("ns{}", i / 10), format!("s{i}.example"));
    let meta = |name: &str| format!("metadata: {{name: {name}{i}, namespace: {namespace}}}");
    let mut text = format!(
        "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, {}, spec: {{hosts: [{host}], resolution: STATIC, location: MESH_INTERNAL, \
         ports: [{{number: {}, name: tcp, protocol: TCP}}], addresses: [10.{}.{}.{}], endpoints: [{{address: {endpoint}, labels: {{version: v1}}}}]}}}}\n---\n",
        meta("e"),
        1000 + i % 50,
        100 + i / 60_000,
        i / 250 % 250,
        i % 250 + 1
    );
    let subsets = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]";
    write!(text, "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, {}, spec: {{host: {host}, {subsets}}}}}\n---\n", meta("d"))
        .unwrap();
    let route = format!(
        "tcp: [{{route: [{{destination: {{host: {host}, subset: v1}}, weight: {weight}}}, {{destination: {{host: {host}, subset: v2}}, weight: {}}}]}}]",
        100 - weight
    );
    write!(text, "{{kind: VirtualService, apiVersion: networking.istio.io/v1, {}, spec: {{hosts: [{host}], {route}}}}}\n---\n", meta("v"))
        .unwrap();
    text
}

fn facts(number: usize, namespace: &str) -> ProxyFacts {
    let ip: IpAddr = format!("10.200.{}.{}", number / 250, number % 250 + 1).parse().unwrap();
    ProxyFacts {
        kind: ProxyType::Sidecar,
        ip,
        more_ips: Vec::new(),
        id: format!("sidecar~{ip}~p{number}.{namespace}~x").into(),
        pod: format!("p{number}").into(),
        namespace: namespace.into(),
        service_account: "default".into(),
        workload: "w".into(),
        cluster: "Kubernetes".into(),
        locality: Default::default(),
        labels: BTreeMap::from([("app".to_owned(), format!("a{number}"))]),
        extensions: Default::default(),
        topology: Default::default(),
        metadata: BTreeMap::new(),
    }
}

/// What is due, sent as a stream's task sends it.
fn push(connection: &Connection, memo: &Memo) -> Push {
    let built = memo.counts().built;
    let at_once = connection.push_at_once(memo);
    assert!(at_once.is_none() || memo.counts().built == built, "what is sent at once was there");
    at_once.unwrap_or_else(|| connection.push(memo))
}

/// A proxy that takes all that it is sent, and asks for what that names.
struct Proxy {
    registered: Registered,
    has: BTreeMap<(Name, Name), Resource>,
}

impl Proxy {
    fn new(connections: &Arc<Connections>, facts: ProxyFacts) -> Proxy {
        let identity = format!("spiffe://cluster.local/ns/{}/sa/default", facts.namespace).parse().unwrap();
        let registered = connections.register(facts.into(), identity, "127.0.0.1:1".parse().unwrap(), String::new());
        let proxy = Proxy { registered, has: BTreeMap::new() };
        for type_url in [CLUSTER, LISTENER, NAME_TABLE] {
            proxy.request(DeltaDiscoveryRequest { type_url: type_url.into(), ..Default::default() });
        }
        proxy
    }

    fn request(&self, request: DeltaDiscoveryRequest) {
        self.registered.connection.progress().session.request(request).unwrap();
    }

    /// Takes what is due until nothing is. Returns how many resources came or went.
    fn sync(&mut self, memo: &Memo) -> usize {
        let mut count = 0;
        loop {
            let responses = push(&self.registered.connection, memo).responses;
            if responses.is_empty() {
                return count;
            }
            for response in responses {
                count += response.all().count() + response.removed.len();
                self.take(response);
            }
        }
    }

    fn take(&mut self, response: Response) {
        let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
        self.request(DeltaDiscoveryRequest { type_url: type_url.to_string(), response_nonce: nonce, ..Default::default() });
        let refers = if &*type_url == CLUSTER { Some(ENDPOINT) } else { None };
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for (name, resource) in response.all().cloned() {
            if self.has.insert((type_url.clone(), name.clone()), resource).is_none() && name.starts_with("outbound") {
                new.push(name.to_string());
            }
        }
        for name in response.removed {
            if self.has.remove(&(type_url.clone(), name.clone())).is_some() {
                old.push(name.to_string());
            }
        }
        if let Some(refers) = refers.filter(|_| !new.is_empty() || !old.is_empty()) {
            old.iter().for_each(|name| drop(self.has.remove(&(refers.into(), name.as_str().into()))));
            self.request(DeltaDiscoveryRequest {
                type_url: refers.into(),
                resource_names_subscribe: new,
                resource_names_unsubscribe: old,
                ..Default::default()
            });
        }
    }

    fn is_due(&self) -> bool {
        self.registered.connection.asker.due_since().is_some()
    }
}

struct Mesh {
    memo: Arc<Memo>,
    connections: Arc<Connections>,
    snapshot: Arc<Snapshot>,
    proxies: Vec<Proxy>,
}

/// What a change has cost.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    built: u64,
    asked_again: u64,
    woken: usize,
    sent: usize,
}

impl Mesh {
    fn new(yaml: &str) -> Mesh {
        let memo = Arc::new(Memo::default());
        let connections = Arc::new(Connections::new(memo.clone(), None));
        let mut mesh = Mesh { memo, connections, snapshot: Snapshot::empty(), proxies: Vec::new() };
        mesh.apply(objects(yaml));
        mesh
    }

    fn connect(&mut self, facts: ProxyFacts) {
        self.proxies.push(Proxy::new(&self.connections, facts));
        self.proxies.last_mut().unwrap().sync(&self.memo);
    }

    fn apply(&mut self, changes: Vec<Change>) -> usize {
        let next = self.snapshot.apply(changes);
        let before = std::mem::replace(&mut self.snapshot, next);
        if Arc::ptr_eq(&before, &self.snapshot) { 0 } else { self.memo.advance(&self.snapshot, self.snapshot.changes()) }
    }

    fn cost(&mut self, changes: Vec<Change>) -> Cost {
        let before = self.memo.counts();
        let told = self.apply(changes);
        let woken: Vec<usize> = (0..self.proxies.len()).filter(|at| self.proxies[*at].is_due()).collect();
        assert_eq!(told, woken.len());
        let sent = woken.iter().map(|at| self.proxies[*at].sync(&self.memo)).sum();
        let after = self.memo.counts();
        Cost { built: after.built - before.built, asked_again: after.asked_again - before.asked_again, woken: woken.len(), sent }
    }
}

fn mesh(services: usize, proxies: usize) -> Mesh {
    let yaml: String = (0..services).map(|i| service(i, "192.0.2.1", 50)).collect();
    let mut mesh = Mesh::new(&yaml);
    (0..proxies).for_each(|i| mesh.connect(facts(i, &format!("ns{}", i % 100))));
    mesh
}

#[test]
fn a_change_costs_what_it_changes() {
    let check = |services: usize, proxies: usize| {
        let mut mesh = mesh(services, proxies);
        // Three clusters and three assignments a service, a listener; whatever is the same for all is built once.
        let counts = mesh.memo.counts();
        assert!(counts.built <= 7 * services as u64 + 8 + 2 * proxies as u64, "{counts:?} for {services} services");
        let one = &mesh.proxies[0].has;
        for other in &mesh.proxies[1..] {
            for (key, resource) in one.iter().filter(|((type_url, _), _)| &**type_url != LISTENER) {
                let same = &other.has[key];
                assert!(Arc::ptr_eq(&resource.body, &same.body), "{key:?} is there twice");
            }
        }
        // One endpoint: the assignments of the service and of the subset that has it, to all that have them.
        let endpoint = mesh.cost(objects(&service(7, "192.0.2.2", 50)));
        assert_eq!(endpoint, Cost { built: 3, asked_again: 3, woken: proxies, sent: 2 * proxies });
        // A weight: the one listener whose bytes hold it.
        let weight = mesh.cost(objects(&service(7, "192.0.2.2", 60)));
        assert_eq!((weight.woken, weight.sent, weight.built <= 2), (proxies, proxies, true), "{weight:?}");
        // Nothing that anybody has.
        let nothing = mesh.cost(objects("{kind: ConfigMap, apiVersion: v1, metadata: {name: x, namespace: ns0}, data: {a: b}}"));
        assert_eq!(nothing, Cost { built: 0, asked_again: 0, woken: 0, sent: 0 });
        // A rule for one namespace: its proxies have a result of their own, all others are not woken.
        let private = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: own, namespace: ns1}, \
                       spec: {host: s7.example, exportTo: ['.'], trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}, \
                       subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}";
        let own = mesh.cost(objects(private));
        assert_eq!(own.woken, proxies / 100, "{own:?}");
        endpoint
    };
    assert_eq!(check(100, 200), check(200, 200), "the services that a change does not touch cost nothing");
    if std::env::var_os("MIZZEN_LARGE").is_some() {
        check(5000, 200);
    }
}

#[test]
fn what_is_there_is_sent_at_once() {
    let mut mesh = mesh(10, 3);
    let at_once = |mesh: &Mesh, at: usize| mesh.proxies[at].registered.connection.push_at_once(&mesh.memo).map(|push| push.responses.len());
    assert_eq!(at_once(&mesh, 0), Some(0));
    // A change has built what it changes.
    mesh.apply(objects(&service(7, "192.0.2.2", 50)));
    assert_eq!([0, 1, 2].map(|at| at_once(&mesh, at)), [Some(1); 3]);
    // What is new is built for the first one that asks.
    mesh.apply(objects(&service(10, "192.0.2.1", 50)));
    assert_eq!([0, 1, 2].map(|at| at_once(&mesh, at)), [None; 3]);
    mesh.proxies[0].sync(&mesh.memo);
    assert!(at_once(&mesh, 1).is_some_and(|responses| responses > 0));
    // Who is new gets much.
    let new = Proxy::new(&mesh.connections, facts(9, "ns9"));
    assert!(new.registered.connection.push_at_once(&mesh.memo).is_none());
}

#[test]
fn a_pod_concerns_its_own_proxy() {
    let pod = |i: usize, ready: &str| {
        let ip = facts(i, "shop").ip;
        format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: p{i}, namespace: shop, labels: {{app: a, security.istio.io/tlsMode: istio}}}}, \
             spec: {{serviceAccountName: default, containers: [{{name: c, image: x}}]}}, \
             status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: '{ready}'}}]}}}}\n---\n"
        )
    };
    let check = |proxies: usize| {
        let service = "{kind: Service, apiVersion: v1, metadata: {name: s, namespace: shop}, spec: {selector: {app: a}, ports: [{name: http, port: 80}]}}\n---\n";
        let mut mesh = Mesh::new(&(0..=proxies).fold(service.to_owned(), |all, i| all + &pod(i, "True")));
        (0..proxies).for_each(|i| mesh.connect(facts(i, "shop")));
        let mut change = |change: Vec<Change>| {
            let before = mesh.memo.counts().walked;
            mesh.apply(change);
            mesh.proxies.iter_mut().for_each(|proxy| _ = proxy.sync(&mesh.memo));
            mesh.memo.counts().walked - before
        };
        [change(objects(&pod(0, "False"))), change(objects(&pod(proxies, "False"))), change(objects(&pod(proxies + 1, "True")))]
    };
    let few = check(20);
    assert_eq!(few, check(40));
    assert!(few.iter().all(|walked| *walked < 20), "{few:?}");
}

/// Processor time and memory of a mesh without its sockets, for people and profilers: `cargo test -p mizzen-control --lib load -- --ignored --nocapture`.
#[test]
#[ignore = "it prints, and proves nothing"]
fn load() {
    let number = |name: &str, default: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (services, proxies) = (number("MIZZEN_SERVICES", 1000), number("MIZZEN_PROXIES", 200));
    let tell = |what: &str| {
        let ticks = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks: u64 = ticks.split(' ').skip(13).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = status.lines().find(|line| line.starts_with("RssAnon")).unwrap_or_default().to_owned();
        println!("{what}: {} ms of CPU so far, {memory}", ticks * 10);
    };
    let mut mesh = Mesh::new(&(0..services).map(|i| service(i, "192.0.2.1", 50)).collect::<String>());
    tell("read");
    for i in 0..proxies {
        mesh.connect(facts(i, &format!("ns{}", i % 100)));
        // What the proxies hold is not the control plane's.
        mesh.proxies[i].has.clear();
    }
    tell("all are served");
    let mut change = |what: &str, yaml: &str| {
        let cost = mesh.cost(objects(yaml));
        tell(&format!("{what} {cost:?} {:?}", mesh.memo.counts()));
    };
    change("endpoint", &service(7, "192.0.2.2", 50));
    change("weight", &service(7, "192.0.2.2", 60));
    change(
        "mode",
        "{kind: PeerAuthentication, apiVersion: security.istio.io/v1, metadata: {name: d, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}",
    );
    change("nothing", "{kind: ConfigMap, apiVersion: v1, metadata: {name: x, namespace: ns0}, data: {a: b}}");
}

/// An object of a small world, in one of several forms.
fn form(kind: usize, name: usize, form: usize) -> String {
    let namespace = ["shop", "bank"][name % 2];
    let (kind, version, spec) = match kind {
        0 => {
            let spec = [
                "selector: {app: a}, ports: [{name: http, port: 80}]",
                "clusterIP: 10.96.0.1, selector: {app: b}, ports: [{name: tcp, port: 90}, {name: http, port: 80}]",
                "clusterIP: None, selector: {app: a}, ports: [{name: tcp, port: 90}]",
                "clusterIP: 10.96.0.2, selector: {app: a}, ports: [{name: any, port: 70}]",
            ];
            ("Service", "v1", spec[form % 4])
        }
        1 => {
            let spec = [
                "hosts: [x.example], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]",
                "hosts: [x.example, y.example], ports: [{number: 90, name: tcp}], resolution: STATIC, endpoints: [{address: 192.0.2.2}], exportTo: ['.']",
                "hosts: [n0.shop.svc.cluster.local], ports: [{number: 80, name: http}], resolution: DNS",
                "hosts: ['*.example'], ports: [{number: 80, name: http}], resolution: NONE",
            ];
            ("ServiceEntry", "networking.istio.io/v1", spec[form % 4])
        }
        2 => {
            let spec = [
                "host: n0.shop.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]",
                "host: '*.example', exportTo: ['.'], trafficPolicy: {tls: {mode: DISABLE}}",
                "host: x.example, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}",
                "host: '*.local', trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: h}}}",
            ];
            ("DestinationRule", "networking.istio.io/v1", spec[form % 4])
        }
        3 => {
            let spec = [
                "hosts: [n0.shop.svc.cluster.local], http: [{route: [{destination: {host: x.example}}]}]",
                "hosts: ['*.example'], exportTo: ['.'], http: [{timeout: 3s, route: [{destination: {host: x.example}}]}]",
                "hosts: [x.example], http: [{match: [{sourceLabels: {app: a}}], redirect: {uri: /}}, {route: [{destination: {host: x.example}}]}]",
                "hosts: [z.example], http: [{match: [{sourceNamespace: bank}], redirect: {uri: /}}]",
            ];
            ("VirtualService", "networking.istio.io/v1", spec[form % 4])
        }
        4 => {
            let spec = ["mtls: {mode: STRICT}", "mtls: {mode: DISABLE}", "selector: {matchLabels: {app: a}}, mtls: {mode: DISABLE}"];
            ("PeerAuthentication", "security.istio.io/v1", spec[form % 3])
        }
        5 => {
            let spec =
                ["rules: [{}]", "selector: {matchLabels: {app: a}}, action: DENY, rules: [{from: [{source: {namespaces: [bank]}}]}]"];
            ("AuthorizationPolicy", "security.istio.io/v1", spec[form % 2])
        }
        6 => {
            let spec = [
                "egress: [{hosts: ['./*']}]",
                "workloadSelector: {labels: {app: a}}, egress: [{hosts: ['*/*.example', '~shop/x.example']}]",
                "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
                "egress: [{hosts: ['shop/*', '~/*']}]",
            ];
            ("Sidecar", "networking.istio.io/v1", spec[form % 4])
        }
        _ => {
            let (app, ready) = (["a", "b"][form % 2], ["True", "False"][form / 2 % 2]);
            return format!(
                "{{kind: Pod, apiVersion: v1, metadata: {{name: p{name}, namespace: {namespace}, labels: {{app: {app}, version: v1, security.istio.io/tlsMode: istio}}}}, \
                 spec: {{serviceAccountName: default, containers: [{{name: c, image: x}}]}}, \
                 status: {{phase: Running, podIP: 10.200.0.{}, conditions: [{{type: Ready, status: '{ready}'}}]}}}}",
                name + 1
            );
        }
    };
    format!("{{kind: {kind}, apiVersion: {version}, metadata: {{name: n{name}, namespace: {namespace}}}, spec: {{{spec}}}}}")
}

/// Everything that a proxy would get now, as bytes.
fn from_the_beginning(snapshot: &Snapshot, proxy: &Proxy) -> BTreeMap<(Name, Name), Vec<u8>> {
    let view = proxy.registered.connection.view();
    let mut found = BTreeMap::new();
    for kind in [ResourceKind::Cluster, ResourceKind::Listener, ResourceKind::NameTable, ResourceKind::Endpoints] {
        for name in mizzen_translate::list(&Reader::new(snapshot), view, kind) {
            let any = mizzen_translate::build(&Reader::new(snapshot), view, kind, &name).unwrap().any;
            found.insert((kind.type_url().into(), name), any.value);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn as_from_the_beginning(steps in prop::collection::vec(prop::collection::vec((0..8usize, 0..3usize, 0..4usize, any::<bool>()), 1..4), 1..14)) {
        let mut mesh = Mesh::new("");
        for (at, namespace) in ["shop", "bank", "shop", "else"].into_iter().enumerate() {
            let labels = BTreeMap::from([("app".to_owned(), ["a", "b", "a", "a"][at].to_owned())]);
            mesh.connect(ProxyFacts { labels, ..facts(at, namespace) });
        }
        for step in steps {
            let change = |(kind, name, number, there): (usize, usize, usize, bool)| {
                let Change::Apply(object) = objects(&form(kind, name, number)).remove(0) else { unreachable!("it is there") };
                if there { Change::Apply(object) } else { Change::Delete(object.key()) }
            };
            mesh.apply(step.into_iter().map(change).collect());
            for proxy in mesh.proxies.iter_mut().filter(|proxy| proxy.is_due()) {
                proxy.sync(&mesh.memo);
            }
            for proxy in &mesh.proxies {
                let has: BTreeMap<_, _> = proxy.has.iter().map(|(key, resource)| (key.clone(), resource.whole().value)).collect();
                let fresh = from_the_beginning(&mesh.snapshot, proxy);
                let (has_keys, fresh_keys): (Vec<_>, Vec<_>) = (has.keys().collect(), fresh.keys().collect());
                prop_assert_eq!(has_keys, fresh_keys);
                prop_assert!(has == fresh, "{} has other bytes", proxy.registered.connection.proxy());
            }
        }
    }
}

#[test]
fn what_many_ask_for_at_once_is_built_once() {
    let mut mesh = Mesh::new(&service(0, "192.0.2.1", 50));
    let proxies: Vec<Proxy> = (0..8).map(|i| Proxy::new(&mesh.connections, facts(i, &format!("ns{i}")))).collect();
    let (memo, start) = (mesh.memo.clone(), std::sync::Barrier::new(proxies.len()));
    let ask = |proxy: &Proxy| {
        start.wait();
        let asker = &proxy.registered.connection.asker;
        memo.read().resource(asker, ResourceKind::Cluster, "outbound|1000||s0.example").unwrap()
    };
    let found: Vec<Resource> = std::thread::scope(|scope| {
        let ask = &ask;
        let threads: Vec<_> = proxies.iter().map(|proxy| scope.spawn(move || ask(proxy))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(memo.counts().built, 1);
    assert!(found.iter().all(|other| Arc::ptr_eq(&found[0].body, &other.body)));
    // When all are gone, the next change drops what nobody has.
    drop(proxies);
    mesh.apply(objects(&service(1, "192.0.2.1", 50)));
    assert!(memo.is_empty());
}

/// Who takes what another has had, while a change is prepared, is told of the change.
#[test]
fn taken_while_a_change_is_prepared() {
    let private = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: own, namespace: ns1}, \
                   spec: {host: s0.example, exportTo: ['.'], trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}}";
    let rule = |limit: u32| private.replace("ns1", "ns0").replace("'.'", "'*'").replace('7', &limit.to_string());
    let mesh = Mesh::new(&[&service(0, "192.0.2.1", 50), private, "\n---\n", &rule(8)].concat());
    let (memo, name) = (&mesh.memo, "outbound|1000||s0.example");
    let [one, other] = [(1, "ns2"), (2, "ns3")].map(|(number, namespace)| memo.enter(facts(number, namespace).into()));
    // It waits for it, and somebody else is first.
    assert!(memo.read().find_built(&one, ResourceKind::Cluster, name, false).is_none());
    let first = memo.read().resource(&other, ResourceKind::Cluster, name).unwrap();
    let new = mesh.snapshot.apply(objects(&rule(9)));
    let (touched, steps) = memo.prepared(&new, new.changes());
    assert!(memo.read().resource(&one, ResourceKind::Cluster, name).unwrap().version == first.version);
    assert_eq!(memo.swap_in(&new, new.changes(), Instant::now(), &touched, steps), 2);
    assert!([&one, &other].iter().all(|asker| asker.due_since().is_some()));
}
