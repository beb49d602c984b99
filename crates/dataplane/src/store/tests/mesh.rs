//! What is there on demand.

use mizzen_ir::config::MeshIndex;
use mizzen_protos::{envoy::envoy::config::route::v3::Vhds, index};

use super::*;

/// The routes of a port without virtual hosts of the mesh.
fn head(port: &str) -> Any {
    let ads = ConfigSource { config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})), ..Default::default() };
    let mut routes = RouteConfiguration::decode(route(port, "passthrough").value.as_slice()).unwrap();
    routes.vhds = Some(Vhds { config_source: Some(ads) });
    any(ResourceKind::Route, &routes)
}

fn virtual_host(host: &str, cluster: &str) -> Any {
    let routes = RouteConfiguration::decode(route("80", cluster).value.as_slice()).unwrap();
    let mut body = routes.virtual_hosts[0].clone();
    (body.name, body.domains) = (format!("{host}:80"), vec![host.to_owned()]);
    any(ResourceKind::VirtualHost, &body)
}

fn entry(port: u32) -> Vec<u8> {
    index::Host { addresses: vec![vec![10, 0, 0, 1]], http: vec![port], ..Default::default() }.encode_to_vec()
}

/// On demand, with the cluster for all else.
fn store() -> Store {
    let mut store = Store::new([]);
    store.set_mesh(Some(MeshIndex::new("shop".into())));
    put(&mut store, "passthrough", assignment("passthrough"), at(0));
    put(&mut store, "passthrough", cluster("passthrough"), at(0));
    store.set_complete(ResourceKind::Cluster);
    store.set_complete(ResourceKind::Listener);
    store
}

fn hosts(store: &Store) -> Vec<String> {
    let routes = store.config().routes.get("80").cloned();
    routes.iter().flat_map(|routes| routes.hosts.iter()).map(|host| host.name.to_string()).collect()
}

#[test]
fn a_virtual_host_joins_when_what_it_names_is_there() {
    let mut store = store();
    put(&mut store, "80", head("80"), at(0));
    put(&mut store, "80/b", virtual_host("b", "b"), at(0));
    store.next(at(0)).unwrap();
    assert_eq!(hosts(&store), ["all"], "its cluster is not there, and not known to be absent though all were told");
    assert_eq!(store.wanted().clusters.iter().map(|n| &**n).collect::<Vec<_>>(), ["b", "passthrough"]);
    put(&mut store, "80/a", virtual_host("a", "passthrough"), at(1));
    store.next(at(1)).unwrap();
    assert_eq!(hosts(&store), ["a:80", "all"], "one does not hold up the other");
    put(&mut store, "b", assignment("b"), at(2));
    put(&mut store, "b", cluster("b"), at(2));
    let config = store.next(at(2)).unwrap();
    assert_eq!(hosts(&store), ["a:80", "b:80", "all"]);
    assert!(ResourceKind::VirtualHost.is_in(&config, "80/b"));
    // The next version waits for what it names; until then the last one holds.
    put(&mut store, "80/b", virtual_host("b", "c"), at(3));
    assert!(store.next(at(3)).is_none());
    store.remove(ResourceKind::Cluster, &name("c"), at(4));
    store.next(at(4)).unwrap();
    let whole = RouteConfiguration::decode(store.whole_route(&"80".into()).unwrap().bytes().as_slice()).unwrap();
    assert_eq!(whole.virtual_hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["a:80", "b:80", "all"]);
    // What is let go takes its wants along.
    store.forget(ResourceKind::VirtualHost, &name("80/b"), at(5));
    store.next(at(5)).unwrap();
    assert_eq!(hosts(&store), ["a:80", "all"]);
    assert!(!store.wanted().clusters.contains("c") && !store.knows_absent(ResourceKind::VirtualHost, &name("80/b")));
}

#[test]
fn a_bad_virtual_host_is_refused_alone_and_closed_alone() {
    let mut store = store();
    put(&mut store, "80", head("80"), at(0));
    put(&mut store, "80/a", virtual_host("a", "passthrough"), at(0));
    let bad = VirtualHost { name: "b:80".into(), domains: vec!["b".into()], routes: vec![Route::default()], ..Default::default() };
    let refused = store.put(&name("80/b"), "1", any(ResourceKind::VirtualHost, &bad), at(0)).unwrap_err();
    assert!(refused.contains("this part is closed"), "{refused}");
    store.next(at(0)).unwrap();
    assert_eq!(hosts(&store), ["a:80", "b:80", "all"]);
    let other = store.put(&name("80/c"), "1", virtual_host("d", "passthrough"), at(0)).unwrap_err();
    assert!(other.contains("it is called `80/d` inside"), "{other}");
}

#[test]
fn nothing_is_on_demand_without_an_index() {
    let mut store = Store::new([]);
    let refused = store.put(&name("80"), "1", head("80"), at(0)).unwrap_err();
    assert!(refused.contains("vhds"), "{refused}");
    put(&mut store, "r", route("r", "a"), at(0));
    store.put_host(&name("a"), &entry(80)).unwrap();
    assert!(store.mesh().is_none() && store.wanted().clusters.is_empty());
    store.set_complete(ResourceKind::Cluster);
    assert!(store.next(at(0)).unwrap().routes.contains_key("r"), "there is no such cluster");
    store.take_wants();

    // An index comes later: what is named is asked for.
    store.set_mesh(Some(MeshIndex::default()));
    assert!(store.next(at(1)).unwrap().mesh().is_some());
    assert_eq!(store.take_wants(), [(super::super::Want::Cluster(name("a")), true)]);
    put(&mut store, "s", route("s", "b"), at(2));
    assert!(store.next(at(2)).is_none(), "it may come");
    // And none again.
    store.set_mesh(None);
    let config = store.next(at(3)).unwrap();
    assert!(config.mesh().is_none() && config.routes.contains_key("s"));
    let wants = store.take_wants();
    assert!(wants.iter().all(|(_, wanted)| !wanted) && wants.len() == 2, "{wants:?}");
}

#[test]
fn a_host_of_the_index_costs_itself() {
    let mut store = store();
    put(&mut store, "80", head("80"), at(0));
    for n in 0..5000 {
        store.put_host(&name(&format!("h{n}.example")), &entry(80)).unwrap();
    }
    for n in 0..100 {
        let host = format!("h{n}.example");
        put(&mut store, &format!("80/{host}"), virtual_host(&host, "passthrough"), at(0));
    }
    let first = store.next(at(0)).unwrap();
    assert_eq!((first.mesh().unwrap().len(), first.routes["80"].hosts.len()), (5000, 101));
    let looked = store.looked();
    store.put_host(&name("h7.example"), &entry(81)).unwrap();
    let second = store.next(at(1)).unwrap();
    let changes = second.changes_since(&first);
    assert!(changes.mesh && store.looked() == looked, "nothing else is looked at");
    assert_eq!(changes.len(), 0);
    assert!(Arc::ptr_eq(&first.routes["80"], &second.routes["80"]));
    assert!(second.mesh().unwrap().has_anywhere(81) && !first.mesh().unwrap().has_anywhere(81));
    store.put_host(&name("h7.example"), &entry(81)).unwrap();
    assert!(store.next(at(2)).is_none(), "the same again is no change");
    // A virtual host is compiled alone, and looked at alone.
    put(&mut store, "80/h7.example", virtual_host("h7.example", "other"), at(3));
    store.remove(ResourceKind::Cluster, &name("other"), at(3));
    let third = store.next(at(3)).unwrap();
    assert!(store.looked() - looked <= 2, "{}", store.looked() - looked);
    let same = first.routes["80"].hosts.iter().zip(third.routes["80"].hosts.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!(same, 100);
    // What is in use is known, over versions.
    assert!(!store.take_used(ResourceKind::VirtualHost, &name("80/h7.example")));
    first.own_host("80/h7.example").unwrap().host.used.mark();
    assert!(store.take_used(ResourceKind::VirtualHost, &name("80/h7.example")));
}
