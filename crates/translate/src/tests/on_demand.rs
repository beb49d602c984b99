//! What a proxy that fetches on demand knows beforehand, and what its questions bring along; and what a Sidecar narrows.

use std::collections::BTreeSet;

use mizzen_model::{ALLOCATED, ON_DEMAND, ProxyType, ProxyView, Reader, Snapshot};
use mizzen_protos::{envoy::envoy::config::route::v3 as route, index::Host};

use super::{
    facts, names,
    outbound::allocated,
    reviews, shop,
    summary::{decode, show},
    visitor,
};
use crate::{ResourceKind, build};

fn on_demand(view: &ProxyView) -> ProxyView {
    let mut facts = view.facts().clone();
    facts.extensions.insert(ON_DEMAND.to_owned());
    facts.into()
}

fn entry(snapshot: &Snapshot, view: &ProxyView, host: &str) -> String {
    let made = build(&Reader::new(snapshot), view, ResourceKind::Index, &host.into());
    let Some(made) = made else { return "none".into() };
    let Host { addresses, http, own, any, kubernetes, headless, alias_of } = decode(&made.any);
    let addresses: Vec<String> =
        addresses.iter().map(|bytes| bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")).collect();
    format!(
        "{} http={http:?} own={own:?} any={any:?}{}{}{}",
        addresses.join(" "),
        if kubernetes { " k8s" } else { "" },
        if headless { " headless" } else { "" },
        if alias_of.is_empty() { String::new() } else { format!(" = {alias_of}") },
    )
}

const EXTERNAL: &str = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: tcp, namespace: shop}
spec: {hosts: ['db.example.com'], addresses: [10.9.0.0/16, 10.8.0.1], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: NONE}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: wide, namespace: shop}
spec: {hosts: ['*.example.org'], ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}], resolution: NONE}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: private, namespace: shop}
spec: {hosts: [private.example.com], exportTo: ['.'], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: alone, namespace: shop}
spec: {hosts: [alone.example.com], http: [{route: [{destination: {host: reviews, port: {number: 9080}}}]}]}
";

/// A proxy knows beforehand what was allocated, if its workload gets to know it.
#[test]
fn the_index_of_allocated_addresses() {
    let snapshot = allocated();
    let other = on_demand(&visitor());
    let mut facts = other.facts().clone();
    facts.extensions.insert(ALLOCATED.to_owned());
    let knows = ProxyView::from(facts);
    for (host, known, unknown) in [
        ("db", "240.240.0.1 http=[] own=[5432] any=[]", " http=[] own=[] any=[5432]"),
        ("web", "240.240.0.3 http=[80] own=[] any=[]", " http=[80] own=[] any=[]"),
        ("auto", "240.240.0.4 http=[] own=[81] any=[]", " http=[81] own=[] any=[]"),
    ] {
        let host = format!("{host}.example.com");
        assert_eq!([entry(&snapshot, &knows, &host), entry(&snapshot, &other, &host)], [known, unknown], "{host}");
    }
}

#[test]
fn the_index() {
    let snapshot = shop(&[EXTERNAL]);
    let (view, own) = (on_demand(&visitor()), on_demand(&reviews()));
    for (host, expected) in [
        ("reviews.shop.svc.cluster.local", "10.96.0.11 http=[9080] own=[] any=[] k8s"),
        ("stock.shop.svc.cluster.local", "10.96.0.13 http=[] own=[6379] any=[] k8s"),
        ("anything.shop.svc.cluster.local", "10.96.0.14 http=[] own=[5000] any=[] k8s"),
        ("store.shop.svc.cluster.local", "10.0.0.15 10.0.0.16 http=[] own=[7000] any=[] k8s headless"),
        ("db.example.com", "10.9.0.0.16 10.8.0.1 http=[] own=[5432] any=[5432]"),
        ("*.example.org", " http=[80] own=[] any=[443]"),
        ("alone.example.com", " http=[80] own=[] any=[]"),
        ("private.example.com", "none"),
        ("nobody.example.com", "none"),
    ] {
        assert_eq!(entry(&snapshot, &view, host), expected, "{host}");
        let listed = names(&snapshot, &view, ResourceKind::Index).contains(&host.to_owned());
        assert_eq!(listed, expected != "none", "{host}");
    }
    assert_eq!(entry(&snapshot, &own, "private.example.com"), " http=[80] own=[] any=[]");
    assert!(names(&snapshot, &visitor(), ResourceKind::Index).is_empty(), "others have no index");
    let gateway = facts(ProxyType::Router, "10.0.0.90", "edge", &[]);
    assert!(names(&snapshot, &on_demand(&gateway.into()), ResourceKind::Index).is_empty(), "gateways have what their Gateways name");
}

/// What the index says there is, there is, and the reverse: every listener and virtual host of a proxy that gets all.
#[test]
fn the_index_says_what_there_is() {
    let snapshot = shop(&[EXTERNAL]);
    let view = on_demand(&visitor());
    let mut expected = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for host in names(&snapshot, &view, ResourceKind::Index) {
        let made = build(&Reader::new(&snapshot), &view, ResourceKind::Index, &host.as_str().into()).unwrap();
        let Host { addresses, http, own, any, .. } = decode(&made.any);
        expected.extend(http.iter().chain(&any).map(|port| format!("0.0.0.0_{port}")));
        let single = addresses.iter().filter(|bytes| bytes.len() == 4);
        expected.extend(single.flat_map(|ip| own.iter().map(move |port| format!("{}.{}.{}.{}_{port}", ip[0], ip[1], ip[2], ip[3]))));
        hosts.extend(http.iter().map(|port| format!("{host}:{port}")));
    }
    let mut all: BTreeSet<String> = names(&snapshot, &visitor(), ResourceKind::Listener).into_iter().collect();
    all.retain(|name| !name.starts_with("virtual"));
    assert_eq!(expected, all);
    let of_table = |name: &str| -> Vec<String> {
        let routes: route::RouteConfiguration =
            decode(&build(&Reader::new(&snapshot), &visitor(), ResourceKind::Route, &name.into()).unwrap().any);
        routes.virtual_hosts.into_iter().map(|host| host.name).collect()
    };
    let tables = ["80", "9080", "9090"].iter().flat_map(|port| of_table(port));
    assert_eq!(hosts, tables.filter(|name| name != "allow_any").collect());
}

#[test]
fn what_comes_without_a_question() {
    let snapshot = shop(&[EXTERNAL]);
    let check = |kind, expected: &[&str]| assert_eq!(names(&snapshot, &on_demand(&reviews()), kind), expected, "{kind:?}");
    check(ResourceKind::Cluster, &["BlackHoleCluster", "PassthroughCluster", "inbound|8080||", "InboundPassthroughCluster"]);
    check(
        ResourceKind::Listener,
        &["0.0.0.0_80", "0.0.0.0_443", "0.0.0.0_5432", "0.0.0.0_9080", "0.0.0.0_9090", "virtualOutbound", "virtualInbound"],
    );
    check(ResourceKind::NameTable, &[]);
    check(ResourceKind::VirtualHost, &[]);
}

#[test]
fn answers_bring_along_what_they_name() {
    const SPLIT: &str = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: reviews, subset: v2}, weight: 10}]}]}
---
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";
    let snapshot = shop(&[EXTERNAL, SPLIT]);
    let view = on_demand(&visitor());
    let check = |kind: ResourceKind, name: &str, expected: &[&str]| {
        let made = build(&Reader::new(&snapshot), &view, kind, &name.into()).unwrap_or_else(|| panic!("{kind:?} {name}"));
        let brings: Vec<String> = made.brings.iter().map(|(kind, name)| format!("{kind:?} {name}")).collect();
        assert_eq!(brings, expected, "{kind:?} {name}");
    };
    let (v1, v2) = ("outbound|9080|v1|reviews.shop.svc.cluster.local", "outbound|9080|v2|reviews.shop.svc.cluster.local");
    check(ResourceKind::VirtualHost, "9080/reviews.shop.svc.cluster.local", &[&format!("Cluster {v1}"), &format!("Cluster {v2}")]);
    check(ResourceKind::Cluster, v1, &[&format!("Endpoints {v1}")]);
    check(ResourceKind::Cluster, "outbound|5432||db.example.com", &[]);
    check(ResourceKind::Endpoints, v1, &[]);
    check(ResourceKind::Listener, "0.0.0.0_9080", &["Route 9080"]);
    check(ResourceKind::Listener, "10.96.0.13_6379", &["Cluster outbound|6379||stock.shop.svc.cluster.local"]);
    let anything = "outbound|5000||anything.shop.svc.cluster.local";
    check(ResourceKind::Listener, "10.96.0.14_5000", &[&format!("Cluster {anything}"), "Route anything.shop.svc.cluster.local:5000"]);
    check(ResourceKind::Route, "anything.shop.svc.cluster.local:5000", &[&format!("Cluster {anything}")]);
    check(ResourceKind::Route, "9080", &[]);
    let head: route::RouteConfiguration = decode(&build(&Reader::new(&snapshot), &view, ResourceKind::Route, &"9080".into()).unwrap().any);
    assert!(head.vhds.is_some() && head.virtual_hosts.iter().map(|host| host.name.as_str()).eq(["allow_any"]));
    let whole = build(&Reader::new(&snapshot), &visitor(), ResourceKind::Listener, &"10.96.0.13_6379".into()).unwrap();
    assert!(whole.brings.is_empty(), "who gets all needs nothing along");
    for absent in ["9080/nobody", "9081/reviews.shop.svc.cluster.local", "6379/stock.shop.svc.cluster.local", "9080", "x/y"] {
        assert!(build(&Reader::new(&snapshot), &view, ResourceKind::VirtualHost, &absent.into()).is_none(), "{absent}");
    }
}

/// One virtual host is the same, whether it comes alone or in its table.
#[test]
fn alone_as_in_the_table() {
    let snapshot = shop(&[EXTERNAL]);
    for (table, host) in [("9080", "reviews.shop.svc.cluster.local"), ("80", "*.example.org"), ("80", "alone.example.com")] {
        let routes: route::RouteConfiguration =
            decode(&build(&Reader::new(&snapshot), &visitor(), ResourceKind::Route, &table.into()).unwrap().any);
        let name = format!("{table}/{host}").as_str().into();
        let alone: route::VirtualHost =
            decode(&build(&Reader::new(&snapshot), &on_demand(&visitor()), ResourceKind::VirtualHost, &name).unwrap().any);
        assert!(routes.virtual_hosts.contains(&alone), "{host}");
    }
}

/// What is joined from parts is what is built as a whole.
#[test]
fn parts_make_the_whole() {
    let clash = "{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: clash, namespace: shop}, \
                 spec: {hosts: [reviews], addresses: [10.96.0.11], ports: [{number: 9080, name: http, protocol: HTTP}], resolution: NONE}}";
    let snapshot = shop(&[EXTERNAL, clash]);
    for view in [reviews(), visitor()] {
        for (kind, name) in [(ResourceKind::Route, "80"), (ResourceKind::Route, "9080"), (ResourceKind::NameTable, "")] {
            let joined = crate::joined(&view, kind, name).unwrap();
            let reader = Reader::new(&snapshot);
            let mut value = crate::build_head(&reader, &view, kind, &name.into()).unwrap().any.value;
            for part in crate::parts(&reader, &view, kind, name).unwrap() {
                assert_eq!(crate::whole_of(joined.part, &part), Some((kind, name.into())));
                let made = build(&reader, &view, joined.part, &part);
                made.iter().for_each(|made| prost::encoding::bytes::encode(joined.field, &made.any.value, &mut value));
            }
            let whole = build(&Reader::new(&snapshot), &view, kind, &name.into()).unwrap().any.value;
            if kind == ResourceKind::Route {
                let decode = |bytes: &[u8]| <route::RouteConfiguration as prost::Message>::decode(bytes).unwrap();
                assert_eq!(decode(&value), decode(&whole), "{name}");
                let domains: Vec<String> = decode(&value).virtual_hosts.into_iter().flat_map(|host| host.domains).collect();
                assert_eq!(domains.len(), domains.iter().collect::<BTreeSet<_>>().len(), "{domains:?}");
            } else {
                assert_eq!(value, whole);
            }
            assert!(crate::joined(&on_demand(&view), kind, name).is_none());
        }
    }
}

fn sidecar(name: &str, namespace: &str, spec: &str) -> String {
    format!("{{kind: Sidecar, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}")
}

#[test]
fn what_a_sidecar_lets_its_workloads_see() {
    let check = |sidecars: &[String], expected: &str| {
        let mut texts = vec![EXTERNAL];
        texts.extend(sidecars.iter().map(String::as_str));
        let snapshot = shop(&texts);
        let view = on_demand(&visitor());
        let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let seen: Vec<String> = names(&snapshot, &view, ResourceKind::Index).iter().map(|host| short(host)).collect();
        assert_eq!(seen.join(" "), expected, "{sidecars:?}");
        // What there is for an Envoy is the same.
        let clusters = names(&snapshot, &visitor(), ResourceKind::Cluster);
        let hosts: BTreeSet<String> =
            clusters.iter().filter_map(|name| name.strip_prefix("outbound|")?.rsplit('|').next().map(short)).collect();
        let of_services = seen.iter().filter(|host| *host != "alone").cloned().collect();
        assert_eq!(hosts, of_services, "{sidecars:?}");
        let gateway = facts(ProxyType::Router, "10.0.0.90", "visit", &[]).into();
        assert!(names(&snapshot, &gateway, ResourceKind::Cluster).len() > 7, "gateways are not concerned");
    };
    let all = "* alone anything db ratings reviews stock store";
    let of = |hosts: &str| format!("egress: [{{hosts: [{hosts}]}}]");
    check(&[], all);
    check(&[sidecar("s", "shop", &of("'~/*'"))], all);
    check(&[sidecar("s", "visit", "")], all);
    check(&[sidecar("s", "visit", &of("'*/*'"))], all);
    check(&[sidecar("s", "visit", &of("'~/*'"))], "");
    check(&[sidecar("s", "visit", &of("./*"))], "");
    check(&[sidecar("s", "visit", &of("shop/reviews.shop.svc.cluster.local, 'shop/*.example.org'"))], "* reviews");
    check(&[sidecar("s", "visit", &of("'shop/*', ~shop/stock.shop.svc.cluster.local"))], "* alone anything db ratings reviews store");
    check(&[sidecar("s", "visit", &of("other/reviews.shop.svc.cluster.local"))], "");
    // The root namespace's, the namespace's, the workload's own.
    let (root, space) = (
        sidecar("r", "istio-system", &of("shop/stock.shop.svc.cluster.local")),
        sidecar("nn", "visit", &of("shop/ratings.shop.svc.cluster.local")),
    );
    let own = |app: &str| {
        sidecar("w", "visit", &format!("workloadSelector: {{labels: {{app: {app}}}}}, {}", of("shop/reviews.shop.svc.cluster.local")))
    };
    check(std::slice::from_ref(&root), "stock");
    check(&[root.clone(), space.clone()], "ratings");
    check(&[root.clone(), space.clone(), own("visitor")], "reviews");
    check(&[root, space, own("other")], "ratings");
}

#[test]
fn what_rules_send_to_is_reached() {
    let texts = [sidecar("s", "visit", "egress: [{hosts: [shop/alone.example.com]}]")];
    let snapshot = shop(&[EXTERNAL, &texts[0]]);
    let clusters = names(&snapshot, &visitor(), ResourceKind::Cluster);
    assert!(clusters.contains(&"outbound|9080||reviews.shop.svc.cluster.local".to_owned()), "{clusters:?}");
    assert_eq!(names(&snapshot, &on_demand(&visitor()), ResourceKind::Index), ["alone.example.com"]);
    assert!(!names(&snapshot, &visitor(), ResourceKind::Route).contains(&"9080".to_owned()));
}

#[test]
fn where_unknown_calls_go_by_a_sidecar() {
    let check = |spec: &str, expected: &str| {
        let snapshot = shop(&[&sidecar("s", "visit", spec)]);
        let routes: route::RouteConfiguration =
            decode(&build(&Reader::new(&snapshot), &visitor(), ResourceKind::Route, &"9080".into()).unwrap().any);
        assert_eq!(routes.virtual_hosts.last().map(|host| host.name.as_str()), Some(expected), "{spec}");
    };
    check("", "allow_any");
    check("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "block_all");
    check("outboundTrafficPolicy: {mode: ALLOW_ANY}", "allow_any");
}

#[test]
fn unknown_calls_through_a_service() {
    let check = |proxy: &str, more: &str, expected: &str| {
        let spec = format!("outboundTrafficPolicy: {{mode: ALLOW_ANY, egressProxy: {{{proxy}}}}}");
        let snapshot = shop(&[&sidecar("s", "visit", &(spec + more)), SUBSET]);
        for (view, fetches) in [(visitor(), false), (on_demand(&visitor()), true)] {
            let listener = build(&Reader::new(&snapshot), &view, ResourceKind::Listener, &"virtualOutbound".into()).unwrap();
            let shown = show(&snapshot, &view, ResourceKind::Listener, "virtualOutbound");
            assert!(shown.contains(expected) && !shown.contains("PassthroughCluster"), "{shown}");
            // What is not listed for a proxy that fetches comes with the listener.
            let brought = listener.brings.contains(&(ResourceKind::Cluster, expected.into()));
            assert_eq!(brought, fetches && expected != "BlackHoleCluster");
            let table = build(&Reader::new(&snapshot), &view, ResourceKind::Route, &"9080".into()).unwrap();
            let last = format!("{:?}", decode::<route::RouteConfiguration>(&table.any).virtual_hosts.last().unwrap());
            assert!(last.contains("allow_any") && last.contains(&format!("Cluster(\"{expected}\")")), "{last}");
        }
    };
    check("host: stock.shop.svc.cluster.local, port: {number: 6379}", "", "outbound|6379||stock.shop.svc.cluster.local");
    check("host: reviews.shop.svc.cluster.local, subset: v1, port: {number: 9080}", "", "outbound|9080|v1|reviews.shop.svc.cluster.local");
    // What is not there, or not seen, is no way out.
    check("host: stock.shop.svc.cluster.local, port: {number: 1}", "", "BlackHoleCluster");
    check("host: reviews.shop.svc.cluster.local, subset: v9, port: {number: 9080}", "", "BlackHoleCluster");
    let unseen = ", egress: [{hosts: [shop/reviews.shop.svc.cluster.local]}]";
    check("host: stock.shop.svc.cluster.local, port: {number: 6379}", unseen, "BlackHoleCluster");
}

const SUBSET: &str = "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
";
