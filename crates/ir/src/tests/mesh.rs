//! What the index of the mesh decides, and route configurations whose virtual hosts come one by one.

use std::net::{IpAddr, SocketAddr};

use mizzen_protos::index;
use prost::Message;
use serde_json::{Value, json};

use super::{compiled, request, resource};
use crate::config::{Action, MeshHost, MeshIndex, RouteConfig};
use crate::{Config, Draft, Known, RequestFacts, Resource, ResourceKind, Trace, find_route, mesh_host, wanted_host, wanted_listener};

/// A host from `NAME [ADDRESS…] http=80,81 own=1 any=2 kubernetes headless`.
fn host(text: &str) -> MeshHost {
    let mut words = text.split(' ');
    let name = words.next().unwrap();
    let mut entry = index::Host::default();
    let ports = |list: &str| list.split(',').map(|port| port.parse().unwrap()).collect();
    for word in words {
        match word.split_once('=') {
            Some(("http", list)) => entry.http = ports(list),
            Some(("own", list)) => entry.own = ports(list),
            Some(("any", list)) => entry.any = ports(list),
            None if word == "kubernetes" => entry.kubernetes = true,
            None if word == "headless" => entry.headless = true,
            _ => match word.parse::<IpAddr>().unwrap() {
                IpAddr::V4(ip) => entry.addresses.push(ip.octets().into()),
                IpAddr::V6(ip) => entry.addresses.push(ip.octets().into()),
            },
        }
    }
    mesh_host(&name.into(), &entry.encode_to_vec()).unwrap()
}

fn index(hosts: &[&str]) -> MeshIndex {
    let mut index = MeshIndex::new("shop".into());
    hosts.iter().for_each(|text| assert!(index.put(host(text)), "{text}"));
    index
}

const HOSTS: [&str; 8] = [
    "reviews.shop.svc.cluster.local 10.96.0.1 fd00::1 http=80,9080 own=7000 kubernetes",
    "ratings.other.svc.cluster.local 10.96.0.2 http=80 kubernetes",
    "db.shop.svc.cluster.local 10.96.0.3 http=80 own=5432 kubernetes headless",
    "example.com 240.0.0.1 http=80 any=443",
    "*.example.com http=80 any=443",
    "a.b.example.com 240.0.0.1 http=81 own=9000",
    "*.b.example.com http=80",
    "reviews.other 240.0.0.2 http=80",
];

#[test]
fn hosts_of_the_index_are_read() {
    let entry = index::Host { addresses: vec![vec![10, 0, 0, 1], vec![10, 0, 0, 0, 8]], http: vec![81, 80, 81], ..Default::default() };
    let read = mesh_host(&"a.example".into(), &entry.encode_to_vec()).unwrap();
    assert_eq!((read.addresses.len(), &*read.http), (1, &[80, 81][..]), "a range is asked for by nothing");
    let refused = |name: &str, entry: index::Host| mesh_host(&name.into(), &entry.encode_to_vec()).unwrap_err().to_string();
    assert_eq!(refused("", index::Host::default()), "name: `` is no host");
    let addresses = |bytes: &[u8]| index::Host { addresses: vec![bytes.to_vec()], ..Default::default() };
    assert_eq!(refused("a", addresses(&[1, 2, 3])), "addresses: 3 bytes are no address");
    assert_eq!(refused("a", addresses(&[10, 0, 0, 0, 33])), "addresses: 10.0.0.0/33 is no range");
    assert_eq!(refused("a", index::Host { own: vec![65_536], ..Default::default() }), "own: 65536 is not a port");
    assert!(mesh_host(&"a".into(), &[0xff]).is_err());
}

#[test]
fn hosts_are_found_by_all_their_names() {
    let index = index(&HOSTS);
    let table = [
        ("reviews.shop.svc.cluster.local", 80, "reviews.shop.svc.cluster.local"),
        ("reviews.shop.svc.cluster.local.", 80, "reviews.shop.svc.cluster.local"),
        ("reviews.shop.svc", 9080, "reviews.shop.svc.cluster.local"),
        ("reviews.shop", 80, "reviews.shop.svc.cluster.local"),
        ("reviews", 80, "reviews.shop.svc.cluster.local"),
        ("reviews", 81, ""),
        ("ratings", 80, ""),
        ("ratings.other", 80, "ratings.other.svc.cluster.local"),
        ("reviews.other", 80, "reviews.other"),
        ("10.96.0.1", 80, "reviews.shop.svc.cluster.local"),
        ("[fd00::1]", 80, "reviews.shop.svc.cluster.local"),
        ("fd00::1", 80, ""),
        ("10.96.0.1", 7000, ""),
        ("pod-0.db.shop.svc.cluster.local", 80, "db.shop.svc.cluster.local"),
        ("pod-0.db.shop.svc", 80, "db.shop.svc.cluster.local"),
        ("pod-0.db.shop", 80, "db.shop.svc.cluster.local"),
        ("pod-0.db", 80, "db.shop.svc.cluster.local"),
        ("pod-0.db", 81, ""),
        ("pod-0.reviews", 80, ""),
        ("pod-0.reviews.shop.svc.cluster.local", 80, ""),
        ("example.com", 80, "example.com"),
        ("x.example.com", 80, "*.example.com"),
        ("x.y.example.com", 80, "*.example.com"),
        ("x.b.example.com", 80, "*.b.example.com"),
        ("b.example.com", 80, "*.example.com"),
        ("a.b.example.com", 80, "*.b.example.com"),
        ("a.b.example.com", 81, "a.b.example.com"),
        ("240.0.0.1", 81, "a.b.example.com"),
        ("*.example.com", 80, ""),
        ("", 80, ""),
        (".", 80, ""),
        ("notexample.com", 80, ""),
    ];
    for (name, port, expected) in table {
        assert_eq!(index.find(name, port).map_or("", |host| &host.name), expected, "{name}:{port}");
    }
}

#[test]
fn a_connection_asks_for_what_the_index_has() {
    use Known::{Absent, Held, Unasked};
    let index = index(&HOSTS);
    let table = [
        ("10.96.0.1:7000", Unasked, Unasked, "10.96.0.1_7000"),
        ("10.96.0.1:7000", Held, Unasked, ""),
        ("[::ffff:10.96.0.1]:7000", Unasked, Unasked, "10.96.0.1_7000"),
        ("[fd00::1]:7000", Unasked, Unasked, "fd00::1_7000"),
        ("10.96.0.1:7000", Absent, Unasked, ""),
        ("10.96.0.1:9080", Unasked, Unasked, "0.0.0.0_9080"),
        ("1.2.3.4:9080", Unasked, Unasked, "0.0.0.0_9080"),
        ("1.2.3.4:9080", Unasked, Held, ""),
        ("1.2.3.4:9080", Unasked, Absent, ""),
        ("1.2.3.4:443", Unasked, Unasked, "0.0.0.0_443"),
        ("10.96.0.3:7000", Unasked, Unasked, ""),
        // The exact one comes before the one of all addresses, which is there.
        ("10.96.0.3:5432", Unasked, Held, "10.96.0.3_5432"),
        ("10.96.0.3:5432", Absent, Held, ""),
    ];
    for (at, own, any, expected) in table {
        let mut notes = Vec::new();
        let wanted = wanted_listener(&index, at.parse().unwrap(), own, any, &mut Trace::to(&mut notes));
        assert_eq!(wanted.as_ref().map_or("", |wanted| &wanted.name), expected, "{at} {own:?} {any:?} {notes:?}");
        assert_eq!(wanted.is_some_and(|wanted| wanted.own), expected.len() > 1 && !expected.starts_with("0.0.0.0_"));
        assert!(!notes.is_empty());
    }
}

#[test]
fn a_host_that_leaves_takes_only_itself_along() {
    let mut index = index(&HOSTS);
    let address: SocketAddr = "240.0.0.1:9000".parse().unwrap();
    assert!(index.has_own(address) && index.has_anywhere(81));
    assert!(!index.put(host(HOSTS[5])), "nothing has changed");
    assert!(index.put(host("a.b.example.com 240.0.0.9 own=9001")));
    assert!(!index.has_own(address) && !index.has_anywhere(81) && index.has_own("240.0.0.9:9001".parse().unwrap()));
    assert!(index.remove("example.com") && !index.remove("example.com"));
    assert!(index.has_anywhere(443), "another one is there");
    assert!(index.remove("*.example.com") && !index.has_anywhere(443));
    let names: Vec<_> = index.hosts().map(|host| host.name.clone()).collect();
    names.iter().for_each(|name| assert!(index.remove(name)));
    assert!(index.is_empty() && !index.has_anywhere(80) && !index.has_own("240.0.0.9:9001".parse().unwrap()));
}

fn head(more: Value) -> Resource {
    let mut value = json!({"name": "80", "vhds": {"configSource": {"ads": {}}}, "ignorePortInHostMatching": true,
        "virtualHosts": [{"name": "allow_any", "domains": ["*"], "routes": [to("passthrough")]}]});
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    resource(ResourceKind::Route, &value)
}

fn to(cluster: &str) -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}})
}

fn own(name: &str, domains: &[&str]) -> Resource {
    resource(ResourceKind::VirtualHost, &json!({"name": format!("{name}:80"), "domains": domains, "routes": [to(name)]}))
}

fn config(resources: &[Resource], index: Option<MeshIndex>) -> Config {
    let mut draft = Draft::new(&Config::default());
    resources.iter().for_each(|resource| assert!(draft.put(resource)));
    draft.set_mesh(index);
    Config::clone(&draft.finish().0)
}

/// The virtual host that a request gets.
fn found(routes: &RouteConfig, authority: &str) -> String {
    let head = request(&format!("GET {authority}/"));
    let facts = RequestFacts { head: &head, secure: false, metadata: None };
    find_route(routes, &facts, 0, &mut Trace::off()).unwrap().host.name.to_string()
}

#[test]
fn virtual_hosts_join_their_routes() {
    let a = own("a.example", &["a.example", "a", "10.0.0.1", "*"]);
    let b = own("b.example", &["b.example", "a", "a.example", "*.b.example"]);
    let wild = own("*.example", &["*.example"]);
    let first = config(&[a.clone(), wild.clone(), b.clone()], None);
    assert!(first.routes.is_empty(), "their route configuration is not there");
    let config = config(&[b.clone(), head(json!({})), wild.clone(), a.clone()], None);
    let names: Vec<_> = config.routes["80"].hosts.iter().map(|host| &*host.name).collect();
    assert_eq!(names, ["*.example:80", "a.example:80", "b.example:80", "allow_any"], "whatever came first");
    let table = [
        ("a.example", "a.example:80"),
        ("A.example:8080", "a.example:80"),
        ("b.example", "b.example:80"),
        // The first that claims it.
        ("a", "a.example:80"),
        ("c.b.example", "b.example:80"),
        ("c.example", "*.example:80"),
        ("10.0.0.1", "a.example:80"),
        // Nobody takes the place of the one for all else.
        ("elsewhere", "allow_any"),
    ];
    table.into_iter().for_each(|(authority, host)| assert_eq!(found(&config.routes["80"], authority), host, "{authority}"));

    // They come and go without the others; what is again what it was is no change.
    let mut draft = Draft::new(&config);
    assert!(draft.remove(ResourceKind::VirtualHost, "80/a.example") && !draft.remove(ResourceKind::VirtualHost, "80/a.example"));
    let (next, _) = draft.finish();
    assert_eq!(next.changes_since(&config).routes.iter().map(|n| &**n).collect::<Vec<_>>(), ["80"]);
    assert_eq!(found(&next.routes["80"], "a.example"), "b.example:80");
    assert!(next.own_host("80/a.example").is_none() && ResourceKind::VirtualHost.is_in(&next, "80/b.example"));
    let mut draft = Draft::new(&next);
    assert!(!draft.put(&b) && draft.put(&a) && draft.remove(ResourceKind::VirtualHost, "80/a.example"));
    let (same, _) = draft.finish();
    assert!(same.changes_since(&next).is_empty());
    // Without its head there is none, and the head finds them again.
    let mut draft = Draft::new(&next);
    assert!(draft.remove(ResourceKind::Route, "80"));
    let (gone, _) = draft.finish();
    assert!(gone.routes.is_empty());
    let mut draft = Draft::new(&gone);
    draft.put(&head(json!({})));
    assert_eq!(draft.finish().0.routes["80"].hash, next.routes["80"].hash);
}

#[test]
fn virtual_hosts_inherit_what_their_routes_pass_on() {
    let header = json!({"requestHeadersToAdd": [{"header": {"key": "x", "value": "1"}}]});
    let config = config(&[head(header), own("a.example", &["a.example"])], None);
    assert_eq!(config.routes["80"].hosts[0].routes[0].headers.request.ops.len(), 1);
    let long = json!({"name": "a.example:80", "domains": ["a.example"], "routes": [
        {"match": {"prefix": "/"}, "directResponse": {"status": 200, "body": {"inlineString": "x".repeat(5000)}}}]});
    let long = resource(ResourceKind::VirtualHost, &long);
    let status = |more: Value| {
        let config = self::config(&[head(more), long.clone()], None);
        match &config.routes["80"].hosts[0].routes[0].action {
            Action::Direct(direct) => direct.status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((status(json!({})), status(json!({"maxDirectResponseBodySizeBytes": 5000}))), (503, 200));
}

#[test]
fn bad_virtual_hosts_are_refused_or_closed_alone() {
    let refused = |value: Value| compiled(ResourceKind::VirtualHost, &value).unwrap_err().to_string();
    assert_eq!(refused(json!({"name": "a"})), "VirtualHost ``: name: `a` is not of the form HOST:PORT");
    assert_eq!(refused(json!({"name": "a:80"})), "VirtualHost `80/a`: domains: there is none");
    assert_eq!(
        refused(json!({"name": "a:80", "domains": ["*a*"]})),
        "VirtualHost `80/a`: domains: domain `*a*` has more than one wildcard"
    );
    let closed = compiled(ResourceKind::VirtualHost, &json!({"name": "a:80", "domains": ["a"], "routes": [{"match": {}}]})).unwrap();
    assert_eq!(closed.closed.len(), 1);
    assert_eq!(&**closed.resource.name(), "80/a");
    let config = config(&[head(json!({})), closed.resource], None);
    assert!(matches!(&config.routes["80"].hosts[0].routes[0].action, Action::Direct(direct) if direct.status == 503));
    let inline = json!({"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 1}}, "filterChains": [
        {"filters": [super::hcm(json!({"rds": null, "routeConfig": {"name": "80", "vhds": {"configSource": {"ads": {}}}}}))]}]});
    let compiled = compiled(ResourceKind::Listener, &inline).unwrap();
    assert!(compiled.closed[0].field.ends_with("route_config.vhds"), "{:?}", compiled.closed);
}

#[test]
fn a_request_asks_for_what_the_index_has() {
    let index = index(&HOSTS);
    let held = [head(json!({})), own("*.example.com", &["*.example.com"]), own("ratings.other.svc.cluster.local", &["ratings.other"])];
    let config = config(&held, Some(index));
    let routes = &config.routes["80"];
    let table = [
        ("reviews", "80/reviews.shop.svc.cluster.local"),
        ("REVIEWS.shop:9080", "80/reviews.shop.svc.cluster.local"),
        // It is there: by its domain, and by a name of the index that is none of its domains.
        ("ratings.other", ""),
        ("ratings.other.svc", ""),
        // A wildcard that is there, and what is closer.
        ("x.example.com", ""),
        ("x.b.example.com", "80/*.b.example.com"),
        ("example.com", "80/example.com"),
        ("unknown.example", ""),
        ("240.0.0.1", "80/example.com"),
    ];
    for (authority, expected) in table {
        let mut notes = Vec::new();
        let wanted = wanted_host(&config, routes, authority, &mut Trace::to(&mut notes));
        assert_eq!(wanted.as_deref().unwrap_or_default(), expected, "{authority} {notes:?}");
    }
    // Where nothing is on demand nothing is asked for.
    let config = self::config(&held, None);
    assert_eq!(wanted_host(&config, &config.routes["80"], "reviews", &mut Trace::off()), None);
}

#[test]
fn versions_share_whether_they_are_used() {
    let mut first = own("a.example", &["a.example"]);
    first.follow(None);
    let mut second = own("a.example", &["a.example", "a"]);
    second.follow(Some(&first));
    let config = config(&[head(json!({"requestHeadersToAdd": [{"header": {"key": "x", "value": "1"}}]})), second], None);
    assert!(!first.used().unwrap().take());
    config.routes["80"].hosts[0].used.mark();
    assert!(first.used().unwrap().take() && !first.used().unwrap().take());
}
