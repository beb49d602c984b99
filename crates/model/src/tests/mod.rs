//! Snapshots from YAML.

mod delegates;
mod incremental;

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{Key, Kind, Object, Selector, istio::MtlsMode};
use mizzen_types::Hostname;

use crate::{Change, Closed, Query, Reader, Resolve, Snapshot};

fn parse(text: &str) -> Vec<Change> {
    let parsed = mizzen_api::parse_documents(text, &Arc::from("test.yaml"));
    parsed.objects.into_iter().map(|object| Change::from(object.unwrap_or_else(|refusal| panic!("{:#?}", refusal.problems)))).collect()
}

fn snapshot(texts: &[&str]) -> Arc<Snapshot> {
    texts.iter().fold(Snapshot::empty(), |snapshot, text| snapshot.apply(parse(text)))
}

fn host(text: &str) -> Hostname {
    text.parse().unwrap()
}

const REVIEWS: &str = "
kind: Service
apiVersion: v1
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080, targetPort: web}, {name: udp, port: 53, protocol: UDP}]}
";
const POD: &str = "
kind: Pod
apiVersion: v1
metadata: {name: reviews-7d-x1, namespace: shop, labels: {app: reviews, pod-template-hash: 7d, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: reviews, containers: [{name: main, image: x, ports: [{name: web, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}
";

fn pod(name: &str, ip: &str, ready: &str) -> String {
    POD.replace("reviews-7d-x1", name).replace("10.0.0.1", ip).replace("'True'", ready)
}

#[test]
fn services_and_their_endpoints() {
    let late = pod("reviews-7d-x2", "10.0.0.2", "'False'");
    let vips = "{kind: ConfigMap, apiVersion: v1, metadata: {name: mizzen-vips, namespace: kube-system}, data: {reviews.shop.svc.cluster.local: 10.96.0.1}}";
    let snapshot = snapshot(&[REVIEWS, POD, &late, vips]);
    let reader = Reader::new(&snapshot);
    let service = reader.service(&host("reviews.shop.svc.cluster.local"), "elsewhere").unwrap();
    assert_eq!(service.vips().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["10.96.0.1"]);
    assert_eq!((service.resolve, service.name(), service.external), (Resolve::Endpoints, "reviews", false));
    let endpoints = reader.endpoints(service);
    let ready: Vec<_> = endpoints.ready(9080).collect();
    assert_eq!((ready.len(), endpoints.by_port[&9080].len(), endpoints.by_port.contains_key(&53)), (1, 2, false));
    assert_eq!((ready[0].port, &*ready[0].workload, ready[0].tls, ready[0].canonical_name()), (8080, "reviews", true, "reviews"));
    assert_eq!(reader.accounts(service).iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/reviews"]);
    // Who is not ready serves its ports all the same.
    let served = reader.instances("10.0.0.2".parse().unwrap());
    assert_eq!((served.len(), served[0].port, served[0].target), (1, 9080, 8080));
}

/// What was allocated to a host is kept apart from what the entry names, and counts where there is nothing else.
#[test]
fn allocated_addresses() {
    let check = |hosts: &str, rest: &str, more: &[&str], expected: [&str; 2]| {
        let entry = format!(
            "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: e, namespace: shop}}, \
             spec: {{hosts: [{hosts}], ports: [{{number: 443, name: tls, protocol: TLS}}], {rest}}}}}"
        );
        let Some(Change::Apply(object)) = parse(&entry).pop() else { panic!("{entry}") };
        let Object::ServiceEntry(mut entry) = Object::clone(&object) else { panic!("{object:?}") };
        let given = [("a.example", "240.240.0.1"), ("*.example", "240.240.0.2"), ("a.example", "2001:2::1"), ("b.example", "240.240.0.3")];
        entry.allocated = given.map(|(of, ip)| (host(of), ip.parse().unwrap())).into();
        let snapshot = snapshot(more).apply([Change::from(Object::from(entry))]);
        let reader = Reader::new(&snapshot);
        let service = reader.service(&host(hosts.trim_matches('\'')), "shop").unwrap();
        let join = |all: Vec<String>| all.join(" ");
        let found =
            [join(service.vips().map(|ip| ip.to_string()).collect()), join(service.allocated.iter().map(ToString::to_string).collect())];
        assert_eq!(found, expected, "{hosts} {rest}");
    };
    check("a.example", "resolution: DNS", &[], ["", "240.240.0.1 2001:2::1"]);
    check("c.example", "resolution: DNS", &[], ["", ""]);
    check("a.example", "resolution: DNS, addresses: [192.0.2.1]", &[], ["192.0.2.1", ""]);
    // Whom a call of a wildcard is for is told by name.
    check("'*.example'", "resolution: DYNAMIC_DNS", &[], ["", ""]);
    for (given, expected) in
        [("10.96.0.1", "10.96.0.1"), ("240.240.0.9,2001:2::9", "240.240.0.9 2001:2::9"), ("what, 240.240.0.9", "240.240.0.9")]
    {
        let vips = format!(
            "{{kind: ConfigMap, apiVersion: v1, metadata: {{name: mizzen-vips, namespace: kube-system}}, data: {{a.example: '{given}'}}}}"
        );
        check("a.example", "resolution: DNS", &[&vips], [expected, ""]);
    }
}

#[test]
fn endpoints_by_slices() {
    const SLICE: &str = "
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
addressType: IPv4
metadata: {name: reviews-1, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: reviews-7d-x1}, conditions: {ready: true}}
- {addresses: [10.9.9.9], zone: east}
";
    let check = |texts: &[&str], expected: &[&str]| {
        let snapshot = snapshot(texts);
        let reader = Reader::new(&snapshot);
        let service = reader.service(&host("reviews.shop.svc.cluster.local"), "shop").unwrap();
        let endpoints = reader.endpoints(service);
        let line = |e: &crate::Endpoint| {
            let account = e.service_account.as_deref().unwrap_or("nobody");
            format!("{:?}:{} {} {account} {}{}", e.address, e.port, e.workload, e.locality.zone, if e.ready { "" } else { " not ready" })
        };
        let found: Vec<String> = endpoints.by_port[&9080].iter().map(line).collect();
        assert_eq!(found, expected, "{texts:?}");
    };
    let other = "Ip(10.9.9.9):8080 reviews nobody east";
    check(&[REVIEWS, POD, SLICE], &["Ip(10.0.0.1):8080 reviews reviews ", other]);
    // The pod says sooner than the slice that it is not ready, and the slice may know the pod before us.
    check(&[REVIEWS, SLICE, &POD.replace("'True'", "'False'")], &["Ip(10.0.0.1):8080 reviews reviews  not ready", other]);
    check(&[SLICE, REVIEWS], &["Ip(10.0.0.1):8080 reviews nobody ", other]);
    let unready = SLICE.replace("ready: true", "ready: false");
    check(&[REVIEWS, POD, &unready], &["Ip(10.0.0.1):8080 reviews reviews  not ready", other]);
    // On a node's address every pod is itself.
    let neighbour = POD.replace("reviews-7d-x1", "zzz").replace("serviceAccountName: reviews", "serviceAccountName: agent");
    check(&[REVIEWS, POD, &neighbour, SLICE], &["Ip(10.0.0.1):8080 reviews reviews ", other]);
    // A slice of another service, or of none, is nothing to this one.
    check(&[REVIEWS, POD, &SLICE.replace("service-name: reviews", "service-name: ratings")], &["Ip(10.0.0.1):8080 reviews reviews "]);
}

#[test]
fn one_host_of_several_namespaces() {
    let entry = |namespace: &str, export: &str| {
        format!(
            "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {{name: e, namespace: {namespace}}}
spec: {{hosts: [reviews.shop.svc.cluster.local], exportTo: ['{export}'], resolution: STATIC, ports: [{{number: 80, name: http}}], endpoints: [{{address: 10.1.1.1}}]}}
"
        )
    };
    let snapshot = snapshot(&[REVIEWS, &entry("own", "."), &entry("other", "*")]);
    for (from, expected) in [("own", "own"), ("other", "other"), ("shop", "shop"), ("elsewhere", "shop")] {
        let reader = Reader::new(&snapshot);
        let found = reader.service(&host("reviews.shop.svc.cluster.local"), from).unwrap();
        assert_eq!(&**found.namespace(), expected, "from {from}");
    }
}

fn peer(name: &str, namespace: &str, created: &str, spec: &str) -> String {
    format!(
        "
kind: PeerAuthentication
apiVersion: security.istio.io/v1
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}
spec: {spec}
"
    )
}

#[test]
fn the_nearest_mode_of_mutual_tls() {
    let workload = "selector: {matchLabels: {app: a}}";
    let check = |policies: &[String], expected: MtlsMode, port: MtlsMode| {
        let texts: Vec<&str> = policies.iter().map(String::as_str).collect();
        let snapshot = snapshot(&texts);
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        let modes = Reader::new(&snapshot).peer_modes("shop", |selector| selector.matches(&labels));
        assert_eq!((modes.workload, modes.port(80)), (expected, port), "{policies:?}");
    };
    use MtlsMode::{Disable, Permissive, Strict};
    let mesh = peer("m", "istio-system", "1", "{mtls: {mode: STRICT}}");
    check(&[], Permissive, Permissive);
    check(std::slice::from_ref(&mesh), Strict, Strict);
    check(&[mesh.clone(), peer("space", "shop", "1", "{mtls: {mode: DISABLE}}")], Disable, Disable);
    check(&[mesh.clone(), peer("space", "shop", "1", "{mtls: {mode: UNSET}}")], Strict, Strict);
    check(&[mesh.clone(), peer("space", "other", "1", "{mtls: {mode: DISABLE}}")], Strict, Strict);
    let own = |ports: &str| peer("w", "shop", "1", &format!("{{{workload}, mtls: {{mode: PERMISSIVE}}, portLevelMtls: {ports}}}"));
    check(&[mesh.clone(), own("{}")], Permissive, Permissive);
    check(&[mesh.clone(), own("{80: {mode: DISABLE}}")], Permissive, Disable);
    check(&[mesh.clone(), own("{80: {mode: UNSET}}")], Permissive, Permissive);
    check(&[peer("b", "shop", "1", "{mtls: {mode: STRICT}}"), peer("a", "shop", "2", "{mtls: {mode: DISABLE}}")], Strict, Strict);
    // The oldest of each scope, and of two of an age the first by name; one that says nothing of the mode is one nevertheless.
    let of = |name: &str, created: &str, mode: &str| peer(name, "shop", created, &format!("{{{workload}, mtls: {{mode: {mode}}}}}"));
    check(&[of("b", "1", "STRICT"), of("a", "2", "DISABLE")], Strict, Strict);
    check(&[of("b", "2", "STRICT"), of("a", "2", "DISABLE")], Disable, Disable);
    check(&[of("b", "1", "UNSET"), of("a", "2", "DISABLE"), mesh.clone()], Strict, Strict);
    check(
        &[peer("b", "istio-system", "1", "{mtls: {mode: DISABLE}}"), peer("a", "istio-system", "2", "{mtls: {mode: STRICT}}")],
        Disable,
        Disable,
    );
    // A selector without labels selects as none does.
    check(&[peer("a", "shop", "1", "{selector: {}, mtls: {mode: STRICT}}")], Strict, Strict);
    check(&[peer("a", "shop", "1", "{selector: {matchLabels: {app: b}}, mtls: {mode: STRICT}}")], Permissive, Permissive);
    check(&[mesh.clone(), own("{81: {mode: DISABLE}}"), peer("space", "shop", "1", "{mtls: {mode: STRICT}}")], Permissive, Permissive);
    check(&[peer("w", "istio-system", "1", &format!("{{{workload}, mtls: {{mode: STRICT}}}}"))], Permissive, Permissive);
}

#[test]
fn the_policies_that_say_a_mode() {
    let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
    let check = |policies: &[String], closed: Option<&str>, workload: &str, port: &str| {
        let texts: Vec<&str> = policies.iter().map(String::as_str).collect();
        let close = |namespace: &str| Closed { key: Key::new(Kind::PeerAuthentication, namespace, "broken"), selector: None };
        let snapshot = snapshot(&texts).apply(closed.map(close).map(Change::Close));
        let (_, sources) = Reader::new(&snapshot).peer_sources("shop", |selector| selector.matches(&labels));
        let name = |key: Option<&Key>| key.map_or_else(String::new, |key| format!("{}/{}", key.namespace, key.name));
        assert_eq!([name(sources.port(81)), name(sources.port(80))], [workload, port], "{policies:?} {closed:?}");
    };
    let mesh = peer("m", "istio-system", "1", "{mtls: {mode: STRICT}}");
    let unset = peer("u", "shop", "1", "{mtls: {mode: UNSET}}");
    let own = |ports: &str| peer("w", "shop", "1", &format!("{{selector: {{matchLabels: {{app: a}}}}, portLevelMtls: {ports}}}"));
    check(&[], None, "", "");
    check(std::slice::from_ref(&mesh), None, "istio-system/m", "istio-system/m");
    check(&[mesh.clone(), unset], None, "istio-system/m", "istio-system/m");
    check(&[mesh.clone(), own("{80: {mode: DISABLE}}")], None, "istio-system/m", "shop/w");
    check(&[mesh.clone(), own("{80: {mode: UNSET}}")], None, "istio-system/m", "istio-system/m");
    check(&[mesh], Some("shop"), "shop/broken", "shop/broken");
}

#[test]
fn a_refused_mode_of_mutual_tls_is_strict_in_its_scope() {
    use MtlsMode::{Disable, Permissive, Strict};
    let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let check = |policies: &[String], namespace: &str, selector: Option<&str>, expected: MtlsMode, port: MtlsMode| {
        let texts: Vec<&str> = policies.iter().map(String::as_str).collect();
        let key = Key::new(Kind::PeerAuthentication, namespace, "broken");
        let selector = selector.map(|app| Selector { labels: labels(app) });
        let snapshot = snapshot(&texts).apply([Change::Close(Closed { key, selector: selector.clone() })]);
        let reader = Reader::new(&snapshot);
        let modes = reader.peer_modes("shop", |selector| selector.matches(&labels("a")));
        assert_eq!((modes.workload, modes.port(80)), (expected, port), "{namespace} {selector:?} {policies:?}");
        assert!(reader.policies("shop", None, |_| true).closed.is_empty(), "it closes no door to those who come over mutual TLS");
    };
    check(&[], "istio-system", None, Strict, Strict);
    check(&[], "shop", None, Strict, Strict);
    check(&[], "shop", Some("a"), Strict, Strict);
    check(&[], "shop", Some("b"), Permissive, Permissive);
    check(&[], "other", None, Permissive, Permissive);
    let own = peer("w", "shop", "1", "{selector: {matchLabels: {app: a}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: DISABLE}}}");
    check(std::slice::from_ref(&own), "shop", None, Permissive, Disable);
    check(&[own], "shop", Some("a"), Strict, Strict);
    check(&[peer("space", "shop", "1", "{mtls: {mode: DISABLE}}")], "istio-system", None, Disable, Disable);
}

fn rule(name: &str, namespace: &str, host: &str, subset: &str) -> String {
    format!(
        "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{host: '{host}', subsets: [{{name: {subset}}}]}}
"
    )
}

#[test]
fn the_nearest_destination_rule() {
    let check = |rules: &[String], expected: &[&str]| {
        let texts: Vec<&str> = std::iter::once(REVIEWS).chain(rules.iter().map(String::as_str)).collect();
        let snapshot = snapshot(&texts);
        let reader = Reader::new(&snapshot);
        let service = reader.service(&host("reviews.shop.svc.cluster.local"), "client").unwrap();
        let found = reader.destination_rule(service, "client");
        let names: Vec<_> = found.iter().flat_map(|rule| &rule.subsets).map(|subset| subset.name.as_str()).collect();
        assert_eq!(names, expected, "{rules:?}");
    };
    let full = "reviews.shop.svc.cluster.local";
    check(&[], &[]);
    check(&[rule("r", "istio-system", full, "root")], &["root"]);
    check(&[rule("r", "istio-system", full, "root"), rule("s", "shop", "reviews", "service")], &["service"]);
    check(&[rule("s", "shop", "reviews", "service"), rule("c", "client", "*.cluster.local", "client")], &["client"]);
    check(&[rule("a", "shop", "*.shop.svc.cluster.local", "wide"), rule("b", "shop", "reviews", "exact")], &["exact"]);
    check(&[rule("b", "shop", "reviews", "second"), rule("a", "shop", full, "first")], &["first", "second"]);
    check(&[rule("o", "other", full, "other")], &[]);
}

#[test]
fn stamps_follow_content() {
    let before = snapshot(&[REVIEWS, POD]);
    let service = Query::Service(host("reviews.shop.svc.cluster.local"));
    let reader = Reader::new(&before);
    let endpoints = Query::Endpoints(reader.service(&host("reviews.shop.svc.cluster.local"), "shop").unwrap().key());
    let unready = before.apply(parse(&pod("reviews-7d-x1", "10.0.0.1", "'False'")));
    assert_eq!(before.stamp(&service), unready.stamp(&service));
    assert_ne!(before.stamp(&endpoints), unready.stamp(&endpoints));
    let elsewhere = before.apply(parse(&POD.replace("namespace: shop", "namespace: other").replace("10.0.0.1", "10.0.0.9")));
    assert_eq!(before.stamp(&endpoints), elsewhere.stamp(&endpoints));
    // A scan sees what comes and goes, even if the bucket is empty again.
    let scan = Query::Namespace(Kind::Pod, "shop".into());
    let gone = before.apply([Change::Delete(Key::new(Kind::Pod, "shop", "reviews-7d-x1"))]);
    let back = gone.apply(parse(POD));
    assert!(before.stamp(&scan) != gone.stamp(&scan) && gone.stamp(&scan) != back.stamp(&scan) && before.stamp(&scan) != back.stamp(&scan));
}

#[test]
fn moved_is_not_changed() {
    let before = snapshot(&[REVIEWS, POD]);
    let after = before.apply(parse(&format!("\n\n{REVIEWS}")));
    let key = Key::new(Kind::Service, "shop", "reviews");
    assert_eq!(before.content_version(&key), after.content_version(&key));
    assert_eq!(before.object(&key).unwrap().meta().origin.line + 2, after.object(&key).unwrap().meta().origin.line);
    assert!(Arc::ptr_eq(&after, &after.apply(parse(&format!("\n\n{REVIEWS}")))));
}

#[test]
fn a_relist_is_swapped_in_whole() {
    let closed = |name: &str| Closed { key: Key::new(Kind::AuthorizationPolicy, "shop", name), selector: None };
    let before = snapshot(&[REVIEWS, POD]).apply([Change::Close(closed("a"))]);
    let objects: Vec<Arc<Object>> = parse(REVIEWS)
        .into_iter()
        .map(|change| match change {
            Change::Apply(object) => object,
            other => panic!("{other:?}"),
        })
        .collect();
    let after = before.replace(objects, [closed("b")]);
    assert_eq!(after.keys().map(|key| key.to_string()).collect::<Vec<_>>(), ["Service shop/reviews"]);
    assert_eq!(after.closed().map(|c| c.key.to_string()).collect::<Vec<_>>(), ["AuthorizationPolicy shop/b"]);
    let key = Key::new(Kind::Service, "shop", "reviews");
    assert_eq!(before.content_version(&key), after.content_version(&key));
}

#[test]
fn server_names_that_lead_nowhere() {
    let gateway = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: a, protocol: TLS}, hosts: ['*.example', shop/own.test, bank/other.test], tls: {mode: PASSTHROUGH}}
  - {port: {number: 443, name: b, protocol: HTTPS}, hosts: [web.example], tls: {mode: SIMPLE, credentialName: web}}
  - {port: {number: 444, name: c, protocol: TLS}, hosts: [d.example], tls: {mode: PASSTHROUGH}}
";
    let service = |name: &str, matches: &str| {
        format!(
            "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: shop}}
spec: {{hosts: ['*'], gateways: [edge], tls: [{{match: [{matches}], route: [{{destination: {{host: a}}}}]}}]}}
"
        )
    };
    let first = service("a", "{sniHosts: [a.example], port: 443}, {sniHosts: [own.test]}, {sniHosts: [d.example], port: 444}");
    let second = service(
        "b",
        "{sniHosts: [b.example, a.example]}, {sniHosts: [web.example]}, {sniHosts: [other.test]}, {sniHosts: [d.example], port: 443}, {sniHosts: [x.test]}",
    );
    let snapshot = snapshot(&[gateway, &first, &second]);
    let said: Vec<String> = crate::check(&snapshot).iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
    let nowhere = "none of these is a host of a server with mode PASSTHROUGH to which this object may bind";
    let expected = [
        ("spec.tls[0].match[0].sniHosts: is left out on port 443: a.example belongs to VirtualService shop/a (test.yaml:", ")"),
        (
            "spec.tls[0].match[1].sniHosts: is left out on port 443: web.example belongs to Gateway shop/edge (test.yaml:",
            "), which ends its TLS",
        ),
        ("spec.tls[0].match[2].sniHosts: ", nowhere),
        ("spec.tls[0].match[4].sniHosts: ", nowhere),
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (start, end) in expected {
        assert!(said.iter().any(|line| line.starts_with(start) && line.ends_with(end)), "{start} {end}: {said:#?}");
    }
}

#[test]
fn servers_that_are_left_out() {
    let gateway = |name: &str, servers: &str| {
        format!(
            "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}
"
        )
    };
    let server = |port: u16, name: &str, host: &str| {
        format!("{{port: {{number: {port}, name: {name}, protocol: HTTPS}}, hosts: [{host}], tls: {{mode: SIMPLE, credentialName: c}}}}")
    };
    let plain = |port: u16| format!("{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: [d.example]}}");
    let older = [server(443, "a", "a.example"), server(443, "b", "b.example"), plain(80)].join(", ");
    let younger =
        [server(443, "x", "c.example"), server(443, "w", "'*/a.example'"), plain(443), server(80, "z", "e.example"), plain(80)].join(", ");
    let twice = [server(8443, "a", "a.example"), server(8443, "a", "b.example")].join(", ");
    let bytes = |port: u16, host: &str, tls: &str| {
        format!("{{port: {{number: {port}, name: x, protocol: TLS}}, hosts: [{host}], tls: {{mode: {tls}}}}}")
    };
    let tcp = |port: u16| format!("{{port: {{number: {port}, name: x, protocol: TCP}}, hosts: ['*']}}");
    // TLS that goes on as it came stands beside TLS that is ended; plain TCP has its port alone.
    let mixed = [
        server(9443, "x", "a.example"),
        bytes(9443, "b.example", "PASSTHROUGH"),
        bytes(9443, "c.example", "ISTIO_MUTUAL"),
        bytes(9443, "c.example", "PASSTHROUGH"),
        tcp(9443),
        tcp(9000),
        tcp(9000),
        plain(9000),
        bytes(9000, "b.example", "PASSTHROUGH"),
    ]
    .join(", ");
    let snapshot = snapshot(&[&gateway("a", &older), &gateway("b", &younger), &gateway("c", &twice), &gateway("d", &mixed)]);
    let said: Vec<String> = crate::check(&snapshot).iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
    let expected = [
        ("spec.servers[1]", "shop/a", "host a.example over HTTPS on port 443"),
        ("spec.servers[1]", "shop/c", "a port of the same name, a, by which routes are told apart"),
        ("spec.servers[2]", "shop/a", "HTTPS on port 443"),
        ("spec.servers[3]", "shop/a", "plain text on port 80"),
        ("spec.servers[3]", "shop/d", "host c.example over TLS on port 9443"),
        ("spec.servers[4]", "shop/d", "HTTPS on port 9443"),
        ("spec.servers[6]", "shop/d", "TCP on port 9000"),
        ("spec.servers[7]", "shop/d", "TCP on port 9000"),
        ("spec.servers[8]", "shop/d", "TCP on port 9000"),
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (field, gateway, why) in expected {
        let is_it =
            |line: &&String| line.starts_with(&format!("{field}: is left out: Gateway {gateway} (test.yaml:")) && line.ends_with(why);
        assert_eq!(said.iter().filter(is_it).count(), 1, "{why}: {said:#?}");
    }
}
