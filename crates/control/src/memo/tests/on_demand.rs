//! Proxies that fetch on demand.

use std::collections::BTreeSet;

use mizzen_model::ON_DEMAND;
use mizzen_xds::types::{INDEX, ROUTE, VIRTUAL_HOST};

use super::*;

fn on_demand(number: usize, namespace: &str) -> ProxyFacts {
    ProxyFacts { extensions: [ON_DEMAND.to_owned()].into(), ..facts(number, namespace) }
}

/// One that takes what comes along as asked for.
struct Fetcher {
    registered: Registered,
    has: BTreeMap<(Name, Name), Resource>,
    /// The types of the responses, in the order in which they came.
    order: Vec<Name>,
}

impl Fetcher {
    fn new(connections: &Arc<Connections>, facts: ProxyFacts) -> Fetcher {
        let identity = format!("spiffe://cluster.local/ns/{}/sa/default", facts.namespace).parse().unwrap();
        let registered = connections.register(facts.into(), identity, "127.0.0.1:1".parse().unwrap(), String::new());
        let fetcher = Fetcher { registered, has: BTreeMap::new(), order: Vec::new() };
        [INDEX, CLUSTER, LISTENER].into_iter().for_each(|type_url| fetcher.ask(type_url, &[]));
        fetcher
    }

    fn request(&self, request: DeltaDiscoveryRequest) {
        self.registered.connection.progress().session.request(request).unwrap();
    }

    fn ask(&self, type_url: &str, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        self.request(DeltaDiscoveryRequest { type_url: type_url.into(), resource_names_subscribe: names, ..Default::default() });
    }

    /// Takes what is due. Returns what came and went, in short.
    fn sync(&mut self, memo: &Memo) -> Vec<String> {
        let mut news = Vec::new();
        for response in push(&self.registered.connection, memo).responses {
            let short = mizzen_xds::types::short(&response.type_url).to_owned();
            self.order.push(response.type_url.clone());
            // What others get alike comes first in a response; here all is by name.
            let names: BTreeSet<&Name> = response.all().map(|(name, _)| name).collect();
            news.extend(names.into_iter().map(|name| format!("{short} {name}")));
            news.extend(response.removed.iter().map(|name| format!("no {short} {name}")));
            let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
            self.request(DeltaDiscoveryRequest { type_url: type_url.to_string(), response_nonce: nonce, ..Default::default() });
            self.has.extend(response.all().cloned().map(|(name, resource)| ((type_url.clone(), name), resource)));
            response.removed.into_iter().for_each(|name| drop(self.has.remove(&(type_url.clone(), name))));
        }
        news
    }
}

fn fetch(mesh: &Mesh, fetcher: &mut Fetcher, type_url: &str, name: &str) -> Vec<String> {
    fetcher.ask(type_url, &[name]);
    fetcher.sync(&mesh.memo)
}

fn web(name: &str, route: &str) -> String {
    let meta = format!("apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}");
    format!(
        "{{kind: ServiceEntry, {meta}, spec: {{hosts: [{name}.example], resolution: STATIC, endpoints: [{{address: 192.0.2.7}}], \
         ports: [{{number: 80, name: http, protocol: HTTP}}]}}}}\n---\n\
         {{kind: VirtualService, {meta}, spec: {{hosts: [{name}.example], http: [{{route: [{{destination: {{host: {route}.example}}}}]}}]}}}}\n---\n"
    )
}

#[test]
fn one_round_trip() {
    let mut mesh = Mesh::new(&format!("{}{}{}", web("a", "a"), web("b", "b"), service(3, "192.0.2.1", 50)));
    let mut one = Fetcher::new(&mesh.connections, on_demand(0, "shop"));
    let first = one.sync(&mesh.memo);
    let listeners = ["Listener 0.0.0.0_80", "Listener virtualInbound", "Listener virtualOutbound"];
    let clusters = ["Cluster BlackHoleCluster", "Cluster InboundPassthroughCluster", "Cluster PassthroughCluster"];
    let expected =
        [&["Host a.example", "Host b.example", "Host s3.example"][..], &clusters, &listeners, &["RouteConfiguration 80"]].concat();
    assert_eq!(first, expected);
    assert!(one.order.iter().map(|t| &**t).eq([INDEX, CLUSTER, LISTENER, ROUTE]));
    // All that it names comes in the same push, and before it.
    let cluster = "outbound|80||a.example";
    let expected = [format!("Cluster {cluster}"), format!("ClusterLoadAssignment {cluster}"), "VirtualHost 80/a.example".into()];
    assert_eq!(fetch(&mesh, &mut one, VIRTUAL_HOST, "80/a.example"), expected);
    let listener = fetch(&mesh, &mut one, LISTENER, "10.100.0.4_1003");
    let subset = |v: &str| format!("outbound|1003|{v}|s3.example");
    let mut expected: Vec<String> = ["v1", "v2"].iter().map(|v| format!("Cluster {}", subset(v))).collect();
    expected.extend(["v1", "v2"].iter().map(|v| format!("ClusterLoadAssignment {}", subset(v))));
    expected.push("Listener 10.100.0.4_1003".into());
    assert_eq!(listener, expected);
    // What there is not is answered, too.
    assert_eq!(fetch(&mesh, &mut one, VIRTUAL_HOST, "80/nobody.example"), ["no VirtualHost 80/nobody.example"]);
    // A change that names something new brings it along.
    mesh.apply(objects(&web("a", "b")));
    let other = "outbound|80||b.example";
    let expected = [format!("Cluster {other}"), format!("ClusterLoadAssignment {other}"), "VirtualHost 80/a.example".into()];
    assert_eq!(one.sync(&mesh.memo), expected);
    // And when there is one at last, it comes.
    mesh.apply(objects(&web("nobody", "b")));
    assert_eq!(one.sync(&mesh.memo), ["Host nobody.example", "VirtualHost 80/nobody.example"]);
    // Whoever asks for the same gets the same bytes.
    let mut two = Fetcher::new(&mesh.connections, on_demand(1, "other"));
    two.sync(&mesh.memo);
    fetch(&mesh, &mut two, VIRTUAL_HOST, "80/a.example");
    for key in two.has.keys().filter(|(_, name)| !name.starts_with("virtual")) {
        assert!(Arc::ptr_eq(&one.has[key].body, &two.has[key].body), "{key:?} is there twice");
    }
}

#[test]
fn a_change_elsewhere_is_an_index_entry_at_most() {
    let check = |services: usize| {
        let mut mesh = Mesh::new(&(0..services).map(|i| service(i, "192.0.2.1", 50)).collect::<String>());
        let mut fetchers: Vec<Fetcher> = (0..20).map(|i| Fetcher::new(&mesh.connections, on_demand(i, &format!("ns{i}")))).collect();
        for fetcher in &mut fetchers {
            fetcher.sync(&mesh.memo);
            fetch(&mesh, fetcher, LISTENER, "10.100.0.4_1003");
        }
        let entries = fetchers[0].has.keys().filter(|(type_url, _)| &**type_url == INDEX).count();
        assert_eq!(entries, services);
        let others = fetchers[0].has.len() - entries;
        let mut change = |yaml: &str, what: &str, expected: &[&str]| {
            let before = mesh.memo.counts().built;
            let told = mesh.apply(objects(yaml));
            let news: Vec<Vec<String>> = fetchers.iter_mut().map(|fetcher| fetcher.sync(&mesh.memo)).collect();
            assert!(news.iter().all(|news| news == expected), "{what}: {news:?}");
            assert_eq!(told, if expected.is_empty() { 0 } else { 20 }, "{what}");
            mesh.memo.counts().built - before
        };
        let built = [
            change(&service(9, "192.0.2.9", 50), "an endpoint of what nobody uses", &[]),
            change(&service(9, "192.0.2.9", 60), "a weight of what nobody uses", &[]),
            change(&service(3, "192.0.2.9", 50), "an endpoint of what all use", &["ClusterLoadAssignment outbound|1003|v1|s3.example"]),
            change(&service(services, "192.0.2.1", 50), "a new service", &[&format!("Host s{services}.example")]),
        ];
        (others, built)
    };
    let small = check(100);
    assert_eq!(small, check(200));
    if std::env::var_os("MIZZEN_LARGE").is_some() {
        assert_eq!(small, check(5000));
    }
}

type Step = (usize, usize, usize, bool);

/// After any changes all that is held is what would be built now, and nothing that it names is missing.
fn check_steps(steps: Vec<Vec<Step>>) -> Result<(), TestCaseError> {
    let asked = [
        (VIRTUAL_HOST, "80/x.example"),
        (VIRTUAL_HOST, "80/n0.shop.svc.cluster.local"),
        (VIRTUAL_HOST, "80/*.example"),
        (LISTENER, "10.96.0.1_90"),
        (LISTENER, "10.96.0.2_70"),
        (LISTENER, "0.0.0.0_90"),
        (LISTENER, "10.200.0.1_90"),
    ];
    let mut mesh = Mesh::new("");
    let mut fetchers: Vec<Fetcher> = ["shop", "bank", "else"]
        .iter()
        .enumerate()
        .map(|(at, namespace)| {
            let labels = BTreeMap::from([("app".to_owned(), ["a", "b", "a"][at].to_owned())]);
            let mut fetcher = Fetcher::new(&mesh.connections, ProxyFacts { labels, ..on_demand(at, namespace) });
            fetcher.sync(&mesh.memo);
            asked.iter().for_each(|(type_url, name)| fetcher.ask(type_url, &[name]));
            fetcher.sync(&mesh.memo);
            fetcher
        })
        .collect();
    for step in steps {
        let change = |(kind, name, number, there): (usize, usize, usize, bool)| {
            let Change::Apply(object) = objects(&form(kind, name, number)).remove(0) else { unreachable!("it is there") };
            if there { Change::Apply(object) } else { Change::Delete(object.key()) }
        };
        mesh.apply(step.into_iter().map(change).collect());
        for fetcher in &mut fetchers {
            fetcher.sync(&mesh.memo);
            let view = fetcher.registered.connection.view();
            let fresh = |kind: ResourceKind, name: &Name| mizzen_translate::build(&Reader::new(&mesh.snapshot), view, kind, name);
            let kind = |type_url: &str| ResourceKind::from_type_url(type_url).unwrap();
            let mut expected: Vec<(ResourceKind, Name)> =
                asked.iter().map(|(type_url, name)| (kind(type_url), Name::from(*name))).collect();
            for kind in [ResourceKind::Index, ResourceKind::Cluster, ResourceKind::Listener] {
                expected.extend(mizzen_translate::list(&Reader::new(&mesh.snapshot), view, kind).into_iter().map(|name| (kind, name)));
            }
            while let Some((kind, name)) = expected.pop() {
                let found = fetcher.has.get(&(kind.type_url().into(), name.clone()));
                let made = fresh(kind, &name);
                prop_assert_eq!(found.is_some(), made.is_some(), "{:?} {}", kind, name);
                expected.extend(made.into_iter().flat_map(|made| made.brings));
            }
            for ((type_url, name), held) in &fetcher.has {
                let any = fresh(kind(type_url), name).unwrap_or_else(|| panic!("{type_url} {name} is gone")).any;
                prop_assert!(any.value == held.whole().value, "{} {} has other bytes", type_url, name);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_held_is_fresh_and_whole(steps in prop::collection::vec(prop::collection::vec((0..8usize, 0..3usize, 0..4usize, any::<bool>()), 1..4), 1..14)) {
        check_steps(steps)?;
    }
}

/// Who had something, lost it and gets it again has not kept what it was in between.
#[test]
fn lost_and_found() {
    check_steps(vec![vec![(0, 1, 0, true)], vec![(6, 2, 0, true)], vec![(0, 2, 0, true)]]).unwrap();
}

/// A question to which all get the same answer again is not in the way of results that ask it still.
#[test]
fn seen_by_all_again() {
    check_steps(vec![vec![(3, 0, 1, true)], vec![(6, 0, 2, true)], vec![(6, 0, 0, false)], vec![(1, 2, 1, true)], vec![(1, 2, 2, false)]])
        .unwrap();
}
