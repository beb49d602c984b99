use std::{sync::Arc, time::Duration};

use mizzen_ir::ResourceKind;
use mizzen_protos::{
    Any,
    envoy::envoy::config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
        },
        core::v3::{AggregatedConfigSource, ConfigSource, TransportSocket, config_source::ConfigSourceSpecifier, transport_socket},
        endpoint::v3::ClusterLoadAssignment,
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action::ClusterSpecifier,
            route_match::PathSpecifier,
        },
    },
    envoy::envoy::extensions::transport_sockets::tls::v3::{
        CommonTlsContext, SdsSecretConfig, UpstreamTlsContext, common_tls_context::ValidationContextType,
    },
    wkt,
};
use mizzen_types::Name;
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
