//! Services of type ExternalName: other names of a host.

use mizzen_model::{ON_DEMAND, ProxyView, Reader, Snapshot};
use mizzen_protos::envoy::envoy::config::{listener::v3::Listener, route::v3 as route};

use super::{names, reviews, shop, summary::decode, visitor};
use crate::{ResourceKind, build, name_table};

/// An alias of `reviews`, one of that one, one that only its namespace sees, one of a headless service, one of an entry, one of nothing in the mesh, two that
/// lead to each other, and one whose name a ServiceEntry has.
const ALIASES: &str = "
{kind: Service, apiVersion: v1, metadata: {name: opinions, namespace: visit}, spec: {type: ExternalName, externalName: reviews.shop.svc.cluster.local}}
---
{kind: Service, apiVersion: v1, metadata: {name: views, namespace: shop}, spec: {type: ExternalName, externalName: opinions.visit.svc.cluster.local}}
---
kind: Service
apiVersion: v1
metadata: {name: secret, namespace: shop, annotations: {networking.istio.io/exportTo: .}}
spec: {type: ExternalName, externalName: reviews.shop.svc.cluster.local}
---
{kind: Service, apiVersion: v1, metadata: {name: keep, namespace: shop}, spec: {type: ExternalName, externalName: store.shop.svc.cluster.local}}
---
{kind: Service, apiVersion: v1, metadata: {name: bank, namespace: shop}, spec: {type: ExternalName, externalName: bank.example.com}}
---
{kind: Service, apiVersion: v1, metadata: {name: mail, namespace: shop}, spec: {type: ExternalName, externalName: mail.example.net}}
---
{kind: Service, apiVersion: v1, metadata: {name: round, namespace: shop}, spec: {type: ExternalName, externalName: about.shop.svc.cluster.local}}
---
{kind: Service, apiVersion: v1, metadata: {name: about, namespace: shop}, spec: {type: ExternalName, externalName: round.shop.svc.cluster.local}}
---
{kind: Service, apiVersion: v1, metadata: {name: taken, namespace: shop}, spec: {type: ExternalName, externalName: reviews.shop.svc.cluster.local}}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: taken, namespace: shop}
spec: {hosts: [taken.shop.svc.cluster.local], addresses: [10.7.0.1], ports: [{number: 9080, name: http, protocol: HTTP}], resolution: DNS}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: bank, namespace: shop}
spec: {hosts: [bank.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
";

fn table(snapshot: &Snapshot, view: &ProxyView, name: &str) -> Vec<route::VirtualHost> {
    let made = build(&Reader::new(snapshot), view, ResourceKind::Route, &name.into()).unwrap();
    decode::<route::RouteConfiguration>(&made.any).virtual_hosts
}

fn cluster(host: &route::VirtualHost) -> String {
    match &host.routes[0].action {
        Some(route::route::Action::Route(to)) => match &to.cluster_specifier {
            Some(route::route_action::ClusterSpecifier::Cluster(name)) => name.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_alias_has_the_routes_of_what_it_names() {
    let snapshot = shop(&[ALIASES]);
    let hosts = |view: &ProxyView| -> Vec<String> {
        let all = table(&snapshot, view, "9080");
        all.iter().map(|host| format!("{} {} {}", host.name, cluster_or_none(host), host.domains.join(","))).collect()
    };
    fn cluster_or_none(host: &route::VirtualHost) -> String {
        if host.name == "allow_any" { "-".into() } else { cluster(host) }
    }
    const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";
    let long = |name: &str, namespace: &str| format!("{name}.{namespace}.svc.cluster.local");
    let line = |name: &str, namespace: &str, cluster: &str, more: &str, less: &str| {
        let host = long(name, namespace);
        format!("{host}:9080 {cluster} {host},{host}.,{more}{name}.{namespace}.svc,{name}.{namespace}{less}")
    };
    let expected = [
        line("opinions", "visit", REVIEWS, "opinions,", ""),
        line("reviews", "shop", REVIEWS, "", ",10.96.0.11"),
        line("taken", "shop", "outbound|9080||taken.shop.svc.cluster.local", "", ",10.7.0.1"),
        line("views", "shop", REVIEWS, "", ""),
        "allow_any - *".to_owned(),
    ];
    assert_eq!(hosts(&visitor()), expected);
    let own = hosts(&reviews());
    assert!(own.contains(&line("secret", "shop", REVIEWS, "secret,", "")), "{own:#?}");
    assert!(own.contains(&line("views", "shop", REVIEWS, "views,", "")), "{own:#?}");
    // It has no clusters and no listeners of its own.
    for kind in [ResourceKind::Cluster, ResourceKind::Endpoints, ResourceKind::Listener] {
        let all = names(&snapshot, &visitor(), kind);
        assert!(
            all.iter().all(|name| !["opinions", "views", "keep", "mail"].iter().any(|alias| name.contains(&format!("|{alias}.")))),
            "{all:?}"
        );
    }
}

#[test]
fn rules_of_the_alias_are_nothing_and_rules_that_send_to_it_reach_what_it_names() {
    const RULES: &str = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: a, namespace: visit}
spec: {hosts: [opinions], http: [{route: [{destination: {host: ratings.shop.svc.cluster.local, port: {number: 9090}}}]}]}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: b, namespace: shop}
spec: {hosts: [ratings], http: [{route: [{destination: {host: views}}]}]}
";
    let snapshot = shop(&[ALIASES, RULES]);
    let at = |port: &str, name: &str| {
        let all = table(&snapshot, &visitor(), port);
        cluster(all.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("{all:#?}")))
    };
    assert_eq!(at("9080", "opinions.visit.svc.cluster.local:9080"), "outbound|9080||reviews.shop.svc.cluster.local");
    assert_eq!(at("9090", "ratings.shop.svc.cluster.local:9090"), "outbound|9080||reviews.shop.svc.cluster.local");
    // The mutual TLS of what it names: its names, its endpoints.
    let split = shop(&[ALIASES, &RULES.replace("host: reviews", "host: x")]);
    let all = names(&split, &visitor(), ResourceKind::Cluster);
    assert_eq!(all.iter().filter(|name| name.contains("reviews")).count(), 1, "{all:?}");
}

#[test]
fn connections_by_server_name() {
    let snapshot = shop(&[ALIASES]);
    let made = build(&Reader::new(&snapshot), &visitor(), ResourceKind::Listener, &"0.0.0.0_443".into()).unwrap();
    let listener: Listener = decode(&made.any);
    let found: Vec<_> =
        listener.filter_chains.iter().filter_map(|chain| Some(chain.filter_chain_match.as_ref()?.server_names.clone())).collect();
    assert!(found.contains(&vec!["bank.example.com".to_owned(), "bank.shop.svc.cluster.local".to_owned()]), "{found:?}");
}

#[test]
fn names_and_the_index() {
    let snapshot = shop(&[ALIASES]);
    let table = name_table(&Reader::new(&snapshot), &visitor()).table;
    let mut facts = visitor().facts().clone();
    facts.extensions.insert(ON_DEMAND.to_owned());
    let view: ProxyView = facts.into();
    for (host, ips, target, index) in [
        ("opinions.visit.svc.cluster.local", "10.96.0.11", "reviews.shop.svc.cluster.local", "[9080]"),
        ("views.shop.svc.cluster.local", "10.96.0.11", "reviews.shop.svc.cluster.local", "[9080]"),
        ("keep.shop.svc.cluster.local", "10.0.0.15 10.0.0.16", "store.shop.svc.cluster.local", "[]"),
        ("mail.shop.svc.cluster.local", "", "mail.example.net", "[]"),
        // Nothing that could be asked for: DNS says that there is none.
        ("round.shop.svc.cluster.local", "", "round.shop.svc.cluster.local", "[]"),
        ("taken.shop.svc.cluster.local", "10.7.0.1", "", "[9080]"),
    ] {
        let info = &table[host];
        assert_eq!((info.ips.join(" ").as_str(), info.alias_of.as_str()), (ips, target), "{host}");
        let made = build(&Reader::new(&snapshot), &view, ResourceKind::Index, &host.into()).unwrap();
        let entry: mizzen_protos::index::Host = decode(&made.any);
        assert_eq!((entry.alias_of.as_str(), format!("{:?}", entry.http).as_str()), (target, index), "{host}");
        assert_eq!(entry.addresses.is_empty(), !target.is_empty(), "{host}");
        assert!(names(&snapshot, &view, ResourceKind::Index).contains(&host.to_owned()), "{host}");
    }
    assert!(!table.contains_key("secret.shop.svc.cluster.local"));
    assert!(!names(&snapshot, &view, ResourceKind::Index).contains(&"secret.shop.svc.cluster.local".to_owned()));
    // What the index has is there when it is asked for, and brings what it names.
    let made = build(&Reader::new(&snapshot), &view, ResourceKind::VirtualHost, &"9080/opinions.visit.svc.cluster.local".into()).unwrap();
    assert_eq!(made.brings, [(ResourceKind::Cluster, "outbound|9080||reviews.shop.svc.cluster.local".into())]);
}

/// A change of an alias changes what names it, and no more.
#[test]
fn an_alias_comes_and_goes() {
    let before = shop(&[]);
    let after = shop(&[ALIASES]);
    let build_with = |snapshot: &Snapshot, kind, name: &str| {
        let reader = Reader::new(snapshot);
        let made = build(&reader, &visitor(), kind, &name.into());
        (made, reader.finish())
    };
    let (_, stock) = build_with(&before, ResourceKind::Cluster, "outbound|6379||stock.shop.svc.cluster.local");
    let (_, routes) = build_with(&before, ResourceKind::Route, "9080");
    assert!(stock.fits(&after, &visitor()) && !routes.fits(&after, &visitor()));
    let gone = mizzen_model::Change::Delete(mizzen_api::Key::new(mizzen_api::Kind::Service, "visit", "opinions"));
    let without = after.apply([gone]);
    let (made, reads) = build_with(&after, ResourceKind::VirtualHost, "9080/views.shop.svc.cluster.local");
    assert!(made.is_some() && !reads.fits(&without, &visitor()));
    let (made, _) = build_with(&without, ResourceKind::VirtualHost, "9080/views.shop.svc.cluster.local");
    assert_eq!(made, None, "what it named is no name any more");
}
