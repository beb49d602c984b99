mod mesh;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use mizzen_ir::ResourceKind;
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_protos::{
    Any,
    envoy::envoy::config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
        },
        core::v3::{
            Address, AggregatedConfigSource, ConfigSource, DataSource, SocketAddress, TransportSocket, address,
            config_source::ConfigSourceSpecifier, data_source, socket_address, transport_socket,
        },
        endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action::ClusterSpecifier,
            route_match::PathSpecifier,
        },
    },
    envoy::envoy::extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, SdsSecretConfig, Secret, UpstreamTlsContext,
        common_tls_context::ValidationContextType, secret,
    },
    wkt,
};
use mizzen_types::Name;
use proptest::prelude::*;
use prost::Message;

use super::{FETCH_TIMEOUT, LATE, LINGER, ResourceState, Store};

fn cluster(name: &str) -> Any {
    let ads = ConfigSource { config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})), ..Default::default() };
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), service_name: String::new() }),
        ..Default::default()
    };
    any(ResourceKind::Cluster, &cluster)
}

fn assignment(name: &str) -> Any {
    any(ResourceKind::Assignment, &ClusterLoadAssignment { cluster_name: name.to_owned(), ..Default::default() })
}

fn route(name: &str, cluster: &str) -> Any {
    let action = RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())), ..Default::default() };
    let matching = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() };
    let route = Route { r#match: Some(matching), action: Some(route::Action::Route(action)), ..Default::default() };
    let host = VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes: vec![route], ..Default::default() };
    any(ResourceKind::Route, &RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..Default::default() })
}

fn any(kind: ResourceKind, message: &impl Message) -> Any {
    Any { type_url: kind.type_url().to_owned(), value: message.encode_to_vec() }
}

fn name(text: &str) -> Name {
    Name::from(text)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn put(store: &mut Store, called: &str, body: Any, now: Duration) {
    store.put(&name(called), "1", body, now).unwrap();
}

fn state(store: &Store, kind: ResourceKind, called: &str) -> Option<ResourceState> {
    store.resources(kind).find(|(n, _)| &***n == called).map(|(_, stored)| stored.state())
}

#[test]
fn a_resource_waits_for_what_it_names() {
    let mut store = Store::new([]);
    put(&mut store, "r", route("r", "a"), at(0));
    assert!(store.next(at(0)).is_none(), "its cluster may still come");
    put(&mut store, "a", cluster("a"), at(1));
    assert!(store.next(at(1)).is_none(), "the cluster waits for its endpoints");
    assert_eq!(store.wanted().assignments.into_iter().collect::<Vec<_>>(), [name("a")]);
    put(&mut store, "a", assignment("a"), at(2));
    let config = store.next(at(2)).unwrap();
    assert!(config.clusters.contains_key("a") && config.routes.contains_key("r") && config.assignments.contains_key("a"));
    assert!(store.is_warm() && store.next(at(3)).is_none());
}

#[test]
fn it_waits_no_longer_for_what_is_absent_or_late() {
    let mut store = Store::new([]);
    put(&mut store, "a", cluster("a"), at(0));
    store.remove(ResourceKind::Assignment, &name("a"), at(0));
    assert!(store.next(at(0)).unwrap().clusters.contains_key("a"), "there are no endpoints: that is known");
    put(&mut store, "b", cluster("b"), at(1));
    assert!(store.next(at(1)).is_none());
    assert_eq!(store.deadline(at(1)), Some(at(1) + FETCH_TIMEOUT));
    assert!(store.next(at(1) + FETCH_TIMEOUT).unwrap().clusters.contains_key("b"));
    put(&mut store, "r", route("r", "none"), at(20));
    assert!(store.next(at(20)).is_none());
    store.set_complete(ResourceKind::Cluster);
    assert!(store.next(at(20)).unwrap().routes.contains_key("r"), "all clusters are known");
}

#[test]
fn the_last_version_stays_until_the_next_is_warm() {
    let mut store = Store::new([]);
    put(&mut store, "a", assignment("a"), at(0));
    put(&mut store, "a", cluster("a"), at(0));
    put(&mut store, "r", route("r", "a"), at(0));
    let first = store.next(at(0)).unwrap();
    put(&mut store, "r", route("r", "b"), at(1));
    assert!(store.next(at(1)).is_none());
    assert_eq!(state(&store, ResourceKind::Route, "r"), Some(ResourceState::Warming));
    put(&mut store, "b", assignment("b"), at(2));
    put(&mut store, "b", cluster("b"), at(2));
    let second = store.next(at(2)).unwrap();
    assert!(!Arc::ptr_eq(&first.routes["r"], &second.routes["r"]));
    assert!(Arc::ptr_eq(&first.clusters["a"], &second.clusters["a"]), "what did not change is shared");
}

#[test]
fn what_is_removed_leaves_after_what_refers_to_it() {
    let mut store = Store::new([]);
    put(&mut store, "a", assignment("a"), at(0));
    put(&mut store, "a", cluster("a"), at(0));
    put(&mut store, "r", route("r", "a"), at(0));
    store.next(at(0)).unwrap();
    store.remove(ResourceKind::Cluster, &name("a"), at(1));
    store.remove(ResourceKind::Assignment, &name("a"), at(1));
    assert!(store.next(at(1)).is_none(), "the route still refers to it");
    assert_eq!(state(&store, ResourceKind::Cluster, "a"), Some(ResourceState::Draining));
    let config = store.next(at(1) + LINGER).unwrap();
    assert!(config.clusters.is_empty() && config.assignments.is_empty() && config.routes.contains_key("r"));

    let mut store = Store::new([]);
    put(&mut store, "a", assignment("a"), at(0));
    put(&mut store, "a", cluster("a"), at(0));
    put(&mut store, "r", route("r", "a"), at(0));
    store.next(at(0)).unwrap();
    store.remove(ResourceKind::Cluster, &name("a"), at(1));
    store.remove(ResourceKind::Route, &name("r"), at(1));
    let config = store.next(at(1)).unwrap();
    assert!(config.clusters.is_empty() && config.routes.is_empty());
}

#[test]
fn a_bad_resource_is_refused_alone() {
    let mut store = Store::new([]);
    put(&mut store, "a", assignment("a"), at(0));
    put(&mut store, "a", cluster("a"), at(0));
    store.next(at(0)).unwrap();
    let bad = Any { type_url: ResourceKind::Cluster.type_url().to_owned(), value: vec![0xff] };
    assert!(store.put(&name("a"), "2", bad.clone(), at(1)).is_err());
    assert!(store.put(&name("other"), "1", cluster("a"), at(1)).is_err(), "a name that is not its own");
    assert!(store.put(&name("x"), "1", Any { type_url: "type.googleapis.com/x".to_owned(), value: Vec::new() }, at(1)).is_err());
    assert!(store.next(at(1)).is_none());
    let (_, stored) = store.resources(ResourceKind::Cluster).next().unwrap();
    assert_eq!((stored.state(), stored.rejected.as_ref().map(|r| &*r.version)), (ResourceState::Active, Some("2")));
    put(&mut store, "a", cluster("a"), at(2));
    assert!(store.resources(ResourceKind::Cluster).next().unwrap().1.rejected.is_none());
}

#[test]
fn a_bad_part_is_closed_and_the_rest_comes_into_force() {
    let routes = |hosts: &[(&str, &str)]| {
        let host = |(host, match_of): &(&str, &str)| {
            let path = match *match_of {
                "unknown" => PathSpecifier::ConnectMatcher(Default::default()),
                prefix => PathSpecifier::Prefix(prefix.to_owned()),
            };
            let action = RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster("a".to_owned())), ..Default::default() };
            let matching = RouteMatch { path_specifier: Some(path), ..Default::default() };
            let route = Route { r#match: Some(matching), action: Some(route::Action::Route(action)), ..Default::default() };
            VirtualHost { name: (*host).to_owned(), domains: vec![(*host).to_owned()], routes: vec![route], ..Default::default() }
        };
        let hosts = hosts.iter().map(host).collect();
        any(ResourceKind::Route, &RouteConfiguration { name: "r".to_owned(), virtual_hosts: hosts, ..Default::default() })
    };
    let mut store = Store::new([ResourceKind::Cluster]);
    put(&mut store, "r", routes(&[("one", "/"), ("two", "/")]), at(0));
    store.next(at(0)).unwrap();
    let lame = |store: &Store| store.resources(ResourceKind::Route).next().unwrap().1.is_lame();
    assert!(!lame(&store));
    let reason = store.put(&name("r"), "2", routes(&[("one", "/new"), ("two", "unknown")]), at(1)).unwrap_err();
    assert!(reason.contains("virtual_hosts[two].routes[0].match"), "{reason}");
    let config = store.next(at(1)).expect("it comes into force all the same");
    let hosts = &config.routes["r"].hosts;
    assert_eq!(hosts[0].routes[0].matching.path.describe(), "begins with `/new`");
    assert!(matches!(&hosts[1].routes[0].action, mizzen_ir::config::Action::Direct(direct) if direct.status == 503));
    let (_, stored) = store.resources(ResourceKind::Route).next().unwrap();
    assert_eq!((stored.state(), stored.rejected.as_ref().map(|r| &*r.version)), (ResourceState::Active, Some("2")));
    assert!(lame(&store));
    put(&mut store, "r", routes(&[("one", "/new"), ("two", "/")]), at(2));
    store.next(at(2)).unwrap();
    assert!(!lame(&store) && store.resources(ResourceKind::Route).next().unwrap().1.rejected.is_none());
}

/// A cluster whose roots come by SDS, with this `initial_fetch_timeout` in seconds.
fn secure(name: &str, secret: &str, timeout: Option<i64>) -> Any {
    let ads = ConfigSource {
        initial_fetch_timeout: timeout.map(|seconds| wkt::Duration { seconds, nanos: 0 }),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    };
    let roots = SdsSecretConfig { name: secret.to_owned(), sds_config: Some(ads) };
    let tls = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(roots)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let tls = Any {
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext".to_owned(),
        value: tls.encode_to_vec(),
    };
    let socket = TransportSocket { name: "tls".to_owned(), config_type: Some(transport_socket::ConfigType::TypedConfig(tls)) };
    any(ResourceKind::Cluster, &Cluster { name: name.to_owned(), transport_socket: Some(socket), ..Default::default() })
}

#[test]
fn a_secret_is_waited_for_as_long_as_the_resource_says() {
    for (timeout, ends) in [(Some(0), None), (Some(5), Some(5)), (Some(60), Some(60)), (None, Some(15))] {
        let mut store = Store::new([]);
        put(&mut store, "a", secure("a", "file-root:/x", timeout), at(0));
        assert!(store.next(at(0)).is_none());
        for now in (1..200).map(at) {
            let in_force = store.next(now).is_some();
            assert_eq!(in_force, ends.map(at) == Some(now), "{timeout:?} after {now:?}");
        }
    }
}

#[test]
fn a_late_secret_holds_up_nothing_else() {
    let mut store = Store::new([]);
    put(&mut store, "a", secure("a", "file-root:/x", Some(0)), at(0));
    put(&mut store, "r", route("r", "a"), at(0));
    assert!(store.next(at(0)).is_none(), "it may still come");
    assert_eq!(store.deadline(at(0)), Some(LATE));
    let config = store.next(LATE).unwrap();
    assert!(config.routes.contains_key("r") && !config.clusters.contains_key("a"));
    assert!(store.is_blocked(ResourceKind::Cluster, &name("a")) && !store.is_blocked(ResourceKind::Route, &name("r")));

    // The workload's own are no late secrets: all waits for them.
    let mut store = Store::new([]);
    put(&mut store, "a", secure("a", "ROOTCA", Some(0)), at(0));
    put(&mut store, "r", route("r", "a"), at(0));
    store.next(at(0));
    assert!(store.next(LATE).is_none() && !store.is_blocked(ResourceKind::Cluster, &name("a")));
}

/// Looks at everything again, whatever has changed.
fn next_by_all(store: &mut Store, now: Duration) -> Option<Arc<mizzen_ir::Config>> {
    store.doubt_all();
    store.next(now)
}

/// What may be told from outside.
fn told(store: &Store) -> String {
    let config = store.config();
    let mut hashes: Vec<String> = Vec::new();
    hashes.extend(config.clusters.iter().map(|(name, r)| format!("c {name} {:?}", r.hash)));
    hashes.extend(config.routes.iter().map(|(name, r)| format!("r {name} {:?}", r.hash)));
    hashes.extend(config.assignments.iter().map(|(name, r)| format!("a {name} {:?}", r.hash)));
    hashes.extend(config.validations.iter().map(|(name, r)| format!("s {name} {:?}", r.hash)));
    hashes.sort();
    let kinds = [ResourceKind::Secret, ResourceKind::Assignment, ResourceKind::Cluster, ResourceKind::Route];
    let states: Vec<_> = kinds
        .into_iter()
        .flat_map(|kind| {
            store.resources(kind).map(move |(name, stored)| (kind, name.clone(), stored.state(), store.is_blocked(kind, name)))
        })
        .collect();
    format!("{hashes:?} {states:?} {:?} {}", store.wanted(), store.is_warm())
}

fn roots(name: &str, other: bool) -> Any {
    let pem = if other { OTHER.clone() } else { ROOTS.clone() };
    let trusted = DataSource { specifier: Some(data_source::Specifier::InlineString(pem)), ..Default::default() };
    let context = CertificateValidationContext { trusted_ca: Some(trusted), ..Default::default() };
    any(ResourceKind::Secret, &Secret { name: name.to_owned(), r#type: Some(secret::Type::ValidationContext(context)) })
}

fn pem() -> String {
    let now = UnixTime::since_unix_epoch(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap());
    Ca::self_signed(&Default::default(), now, CaLimits::default()).unwrap().roots().to_pem()
}

static ROOTS: LazyLock<String> = LazyLock::new(pem);
static OTHER: LazyLock<String> = LazyLock::new(pem);

/// One of a few resources, in one of their versions.
fn some(number: u8) -> (&'static str, Any) {
    match number % 14 {
        0 => ("r", route("r", "a")),
        1 => ("r", route("r", "b")),
        2 => ("q", route("q", "b")),
        3 => ("a", cluster("a")),
        4 => ("a", secure("a", "file-root:/x", Some(5))),
        5 => ("b", secure("b", "file-root:/x", None)),
        6 => ("b", secure("b", "ROOTCA", Some(0))),
        7 => ("b", cluster("b")),
        8 => ("a", assignment("a")),
        9 => ("b", assignment("b")),
        10 => ("file-root:/x", roots("file-root:/x", false)),
        11 => ("file-root:/x", roots("file-root:/x", true)),
        12 => ("ROOTCA", roots("ROOTCA", false)),
        _ => ("r", Any { type_url: ResourceKind::Route.type_url().to_owned(), value: vec![0xff] }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_not_looked_at_would_not_have_changed(ops in prop::collection::vec((0..8u8, 0..=u8::MAX, 0..4000u64), 1..60)) {
        let (mut one, mut all) = (Store::new([]), Store::new([]));
        let mut now = Duration::ZERO;
        for (number, (op, which, wait)) in ops.into_iter().enumerate() {
            let (name, body) = some(which);
            let (name, kind) = (Name::from(name), ResourceKind::of(&body.type_url).unwrap());
            for store in [&mut one, &mut all] {
                match op {
                    0..=3 => drop(store.put(&name, &number.to_string(), body.clone(), now)),
                    4 => store.remove(kind, &name, now),
                    5 => store.forget(kind, &name, now),
                    6 if which % 8 == 0 => store.set_complete(kind),
                    _ => {}
                }
            }
            now += Duration::from_millis(if op == 7 { wait } else { wait % 3 });
            let (a, b) = (one.next(now), next_by_all(&mut all, now));
            prop_assert_eq!(a.is_some(), b.is_some());
            prop_assert_eq!(told(&one), told(&all));
            prop_assert_eq!(one.deadline(now), all.deadline(now));
            prop_assert_eq!(one.take_wants(), all.take_wants());
        }
        // Time alone brings the rest about, at the times that are told.
        while let Some(at) = one.deadline(now) {
            now = at;
            prop_assert_eq!(one.next(now).is_some(), next_by_all(&mut all, now).is_some());
            prop_assert_eq!(told(&one), told(&all));
        }
        // With all of them gone, nothing is left.
        for number in 0..14 {
            let (name, body) = some(number);
            one.forget(ResourceKind::of(&body.type_url).unwrap(), &name.into(), now);
        }
        one.next(now);
        one.next(now + LINGER);
        one.take_wants();
        prop_assert_eq!(one.size(), 0);
    }
}

/// Services, each with a cluster and endpoints, and a route table for all of them.
fn services(count: usize) -> Store {
    let mut store = Store::new([]);
    for n in 0..count {
        put(&mut store, &format!("c{n}"), cluster(&format!("c{n}")), at(0));
        put(&mut store, &format!("c{n}"), endpoints(&format!("c{n}"), 10), at(0));
        put(&mut store, &format!("r{n}"), route(&format!("r{n}"), &format!("c{n}")), at(0));
    }
    store.next(at(0)).unwrap();
    store.take_wants();
    store
}

fn endpoints(name: &str, count: u32) -> Any {
    let address = |n: u32| Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: "10.0.0.1".to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(80 + n)),
            ..Default::default()
        })),
    };
    let endpoint = |n| LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint { address: Some(address(n)), ..Default::default() })),
        ..Default::default()
    };
    let locality = LocalityLbEndpoints { lb_endpoints: (0..count).map(endpoint).collect(), ..Default::default() };
    any(ResourceKind::Assignment, &ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![locality], ..Default::default() })
}

/// What one endpoint's change costs among so many services: allocations and their bytes, and resources that are looked at.
fn one_endpoint(count: usize) -> (u64, u64, u64) {
    let mut store = services(count);
    let body = endpoints("c7", 11);
    let before = store.looked();
    let seen = allocation_counter::measure(|| {
        put(&mut store, "c7", body.clone(), at(1));
        let config = store.next(at(1)).unwrap();
        assert!(store.take_wants().is_empty() && store.deadline(at(1)).is_none() && store.lame_listener().is_none());
        assert_eq!(config.assignments["c7"].endpoints().count(), 11);
    });
    println!("{count} services: {} allocations, {} bytes, {} looked at", seen.count_total, seen.bytes_total, store.looked() - before);
    (seen.count_total, seen.bytes_total, store.looked() - before)
}

#[test]
fn one_endpoint_costs_the_same_among_few_and_many() {
    let few = one_endpoint(100);
    for count in [1_000, 5_000] {
        let many = one_endpoint(count);
        // A few nodes more on the way to it.
        assert!(many.0 <= few.0 + 20 && many.1 <= few.1 + 8 * 1024 && many.2 == 1, "{count}: {many:?}, of few: {few:?}");
    }
}
