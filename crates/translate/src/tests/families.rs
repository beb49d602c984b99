//! Proxies with addresses of IPv6, alone or beside IPv4: where they listen, whom they call, and from where they hand on.

use std::net::IpAddr;

use mizzen_model::{Families, ProxyFacts, ProxyType, ProxyView, Reader, Snapshot};
use mizzen_protos::envoy::envoy::config::{
    cluster::v3::{Cluster, cluster::DnsLookupFamily},
    endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
    listener::v3::Listener,
};

use super::{facts, names, shop, summary};
use crate::{ResourceKind, build, name_table};

/// Services of both families, of one, and of both without an address; their endpoints, as Kubernetes lists them; and a host beyond the mesh. Of the pods
/// two have both families, the last one IPv4 alone.
const BOTH: &str = "
kind: Service
apiVersion: v1
metadata: {name: both, namespace: shop}
spec: {clusterIP: 10.96.0.50, clusterIPs: [10.96.0.50, 'fd00:96::50'], selector: {app: both}, ports: [{name: tcp, port: 7070}, {name: http, port: 8080}]}
---
kind: Service
apiVersion: v1
metadata: {name: six, namespace: shop}
spec: {clusterIP: 'fd00:96::60', clusterIPs: ['fd00:96::60', 10.96.0.60], selector: {app: both}, ports: [{name: tcp, port: 7070}]}
---
kind: Service
apiVersion: v1
metadata: {name: bare, namespace: shop}
spec: {clusterIP: None, clusterIPs: [None], selector: {app: both}, ports: [{name: tcp, port: 7071}]}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: outside, namespace: shop}
spec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 8443, name: tls, protocol: TLS}]}
---
kind: Pod
apiVersion: v1
metadata: {name: both-0, namespace: shop, labels: {app: both}}
spec: {serviceAccountName: both, containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.70, podIPs: [{ip: 10.0.0.70}, {ip: 'fd00::70'}], conditions: [{type: Ready, status: 'True'}]}
---
kind: Pod
apiVersion: v1
metadata: {name: both-1, namespace: shop, labels: {app: both}}
spec: {serviceAccountName: both, containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.71, podIPs: [{ip: 10.0.0.71}, {ip: 'fd00::71'}], conditions: [{type: Ready, status: 'True'}]}
---
kind: Pod
apiVersion: v1
metadata: {name: old-0, namespace: shop, labels: {app: both}}
spec: {serviceAccountName: both, containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.72, podIPs: [{ip: 10.0.0.72}], conditions: [{type: Ready, status: 'True'}]}
";

/// A service's slice of one family.
fn slice(service: &str, port: u16, family: &str, endpoints: &[(&str, &str)]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|(pod, ip)| format!("{{addresses: ['{ip}'], targetRef: {{kind: Pod, name: {pod}}}}}")).collect();
    format!(
        "
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {{name: {service}-{}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {family}
ports: [{{name: tcp, port: {port}}}]
endpoints: [{}]
",
        family.to_lowercase(),
        endpoints.join(", ")
    )
}

fn mesh() -> std::sync::Arc<Snapshot> {
    let v4 = [("both-0", "10.0.0.70"), ("both-1", "10.0.0.71"), ("old-0", "10.0.0.72")];
    let v6 = [("both-0", "fd00::70"), ("both-1", "fd00::71")];
    let of = |service, port| [slice(service, port, "IPv4", &v4), slice(service, port, "IPv6", &v6)];
    let slices = [of("both", 7070), of("six", 7070), of("bare", 7071)].concat();
    let mut texts = vec![BOTH];
    texts.extend(slices.iter().map(String::as_str));
    shop(&texts)
}

fn with_ips(ips: &[&str], app: &str) -> ProxyFacts {
    let all: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    let mut facts = facts(ProxyType::Sidecar, ips[0], "shop", &[("app", app)]);
    facts.more_ips = all[1..].to_vec();
    facts.extensions.extend(Families::of(&all).extensions().map(str::to_owned));
    facts
}

fn visitor(ips: &[&str]) -> ProxyView {
    with_ips(ips, "visitor").into()
}

const V4: &[&str] = &["10.0.0.99"];
const V6: &[&str] = &["fd00::99"];
const DUAL: &[&str] = &["10.0.0.99", "fd00::99"];
const DUAL_6: &[&str] = &["fd00::99", "10.0.0.99"];

fn made<M: prost::Message + Default>(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, name: &str) -> M {
    summary::decode(&build(&Reader::new(snapshot), view, kind, &name.into()).unwrap_or_else(|| panic!("no {name}")).any)
}

/// All addresses at which a listener listens, without the port.
fn addresses(snapshot: &Snapshot, view: &ProxyView, name: &str) -> Vec<String> {
    let listener: Listener = made(snapshot, view, ResourceKind::Listener, name);
    let all = std::iter::once(listener.address.as_ref()).chain(listener.additional_addresses.iter().map(|more| more.address.as_ref()));
    all.map(|address| summary::socket(address).rsplit_once(':').unwrap().0.to_owned()).collect()
}

#[test]
fn where_a_sidecar_listens() {
    let snapshot = mesh();
    for (ips, any, own) in [
        (V4, &["0.0.0.0"][..], &["10.96.0.50", "10.96.0.60"][..]),
        (V6, &["::"], &["fd00:96::50", "fd00:96::60"]),
        (DUAL, &["0.0.0.0", "::"], &["10.96.0.50", "10.96.0.60", "fd00:96::50", "fd00:96::60"]),
        (DUAL_6, &["0.0.0.0", "::"], &["10.96.0.50", "10.96.0.60", "fd00:96::50", "fd00:96::60"]),
    ] {
        let view = visitor(ips);
        // What is called by any address has one name for all proxies.
        for name in ["virtualOutbound", "virtualInbound", "0.0.0.0_8080", "0.0.0.0_8443"] {
            assert_eq!(addresses(&snapshot, &view, name), any, "{ips:?} {name}");
        }
        let all = names(&snapshot, &view, ResourceKind::Listener);
        let mut found: Vec<&str> = all.iter().filter_map(|name| name.strip_suffix("_7070")).collect();
        found.sort_unstable();
        assert_eq!(found, own, "{ips:?}");
        for ip in found {
            assert_eq!(addresses(&snapshot, &view, &format!("{ip}_7070")), [ip], "{ips:?}");
        }
    }
}

#[test]
fn pods_without_a_service_address() {
    let snapshot = mesh();
    let check = |view: ProxyView, expected: &[&str]| {
        let all = names(&snapshot, &view, ResourceKind::Listener);
        let mut found: Vec<&str> = all.iter().filter_map(|name| name.strip_suffix("_7071")).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    };
    check(visitor(V4), &["10.0.0.70", "10.0.0.71", "10.0.0.72"]);
    check(visitor(V6), &["fd00::70", "fd00::71"]);
    check(visitor(DUAL), &["10.0.0.70", "10.0.0.71", "10.0.0.72", "fd00::70", "fd00::71"]);
    // Nobody has a listener for itself, by whichever of its addresses.
    check(with_ips(&["10.0.0.70", "fd00::70"], "both").into(), &["10.0.0.71", "10.0.0.72", "fd00::71"]);
}

#[test]
fn a_gateway_listens_at_all_of_its_addresses() {
    let gateway = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: door, namespace: shop}
spec: {selector: {istio: door}, servers: [{port: {number: 8081, name: http, protocol: HTTP}, hosts: ['*']}]}
";
    let snapshot = shop(&[gateway]);
    for (ips, expected) in [(V4, &["0.0.0.0"][..]), (V6, &["::"]), (DUAL, &["0.0.0.0", "::"])] {
        let mut facts = with_ips(ips, "door");
        facts.kind = ProxyType::Router;
        facts.labels.insert("istio".to_owned(), "door".to_owned());
        assert_eq!(addresses(&snapshot, &facts.into(), "0.0.0.0_8081"), expected, "{ips:?}");
    }
}

/// From where connections are handed to the workload: of each family from an address of it, since none connects to the other.
#[test]
fn from_where_a_workload_is_called() {
    let snapshot = mesh();
    let workload = |ips: &[&str]| ProxyView::from(with_ips(ips, "both"));
    for (view, expected) in [
        (workload(&["10.0.0.72"]), &["127.0.0.6"][..]),
        (workload(&["fd00::70"]), &["::6"]),
        (workload(&["10.0.0.70", "fd00::70"]), &["127.0.0.6", "::6"]),
        (workload(&["fd00::70", "10.0.0.70"]), &["127.0.0.6", "::6"]),
    ] {
        for name in ["InboundPassthroughCluster", "inbound|7070||"] {
            let cluster: Cluster = made(&snapshot, &view, ResourceKind::Cluster, name);
            let bind = cluster.upstream_bind_config.unwrap();
            let more = bind.extra_source_addresses.into_iter().filter_map(|more| more.address);
            let found: Vec<String> = bind.source_address.into_iter().chain(more).map(|address| address.address).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}

/// A pod is one endpoint, at the address of the service's first family that the caller has, too.
#[test]
fn endpoints_of_two_families() {
    let snapshot = mesh();
    let check = |ips: &[&str], service: &str, expected: &[&str]| {
        let name = format!("outbound|7070||{service}.shop.svc.cluster.local");
        let assignment: ClusterLoadAssignment = made(&snapshot, &visitor(ips), ResourceKind::Endpoints, &name);
        let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        let address = |endpoint: &Option<HostIdentifier>| match endpoint {
            Some(HostIdentifier::Endpoint(endpoint)) => summary::socket(endpoint.address.as_ref()),
            _ => panic!("{name}: no address"),
        };
        let mut found: Vec<String> = endpoints.map(|endpoint| address(&endpoint.host_identifier)).collect();
        found.sort();
        assert_eq!(found, expected, "{ips:?} {service}");
    };
    let (v4, v6) = (["10.0.0.70:7070", "10.0.0.71:7070", "10.0.0.72:7070"], ["10.0.0.72:7070", "fd00::70:7070", "fd00::71:7070"]);
    check(V4, "both", &v4);
    check(V4, "six", &v4);
    check(DUAL, "both", &v4);
    check(DUAL_6, "both", &v4);
    // The one that has no other address is called by it.
    check(V6, "both", &v6);
    check(V6, "six", &v6);
    check(DUAL, "six", &v6);
}

#[test]
fn names_have_the_addresses_that_a_proxy_reaches() {
    let snapshot = mesh();
    for (ips, both, six, bare) in [
        (V4, "10.96.0.50", "10.96.0.60", "10.0.0.70,10.0.0.71,10.0.0.72"),
        (V6, "fd00:96::50", "fd00:96::60", "fd00::70,fd00::71"),
        (DUAL, "10.96.0.50,fd00:96::50", "fd00:96::60,10.96.0.60", "10.0.0.70,10.0.0.71,10.0.0.72,fd00::70,fd00::71"),
    ] {
        let table = name_table(&Reader::new(&snapshot), &visitor(ips)).table;
        let found = ["both", "six", "bare"].map(|name| table[&format!("{name}.shop.svc.cluster.local")].ips.join(","));
        assert_eq!(found, [both, six, bare], "{ips:?}");
        // Who has the other family alone is told of what there is.
        assert_eq!(table["reviews.shop.svc.cluster.local"].ips, ["10.96.0.11"], "{ips:?}");
    }
}

#[test]
fn which_addresses_of_hosts_beyond_the_mesh_are_called() {
    let snapshot = mesh();
    for (ips, expected) in [(V4, DnsLookupFamily::V4Only), (V6, DnsLookupFamily::V6Only), (DUAL, DnsLookupFamily::V4Preferred)] {
        let cluster: Cluster = made(&snapshot, &visitor(ips), ResourceKind::Cluster, "outbound|8443||api.example.com");
        assert_eq!(cluster.dns_lookup_family(), expected, "{ips:?}");
    }
}

/// By whichever of its addresses a workload is known; and by none of somebody else's.
#[test]
fn who_a_proxy_is_by_its_addresses() {
    let snapshot = mesh();
    let serves = |facts: ProxyFacts| {
        let listener = summary::show(&snapshot, &facts.into(), ResourceKind::Listener, "virtualInbound");
        listener.matches("port=7070").count()
    };
    let once = serves(with_ips(&["10.0.0.70"], "both"));
    assert!(once > 0);
    for ips in [&["fd00::70"][..], &["10.0.0.70", "fd00::70"], &["fd00::70", "10.0.0.70"], &["10.0.0.70", "2001:db8::1"]] {
        assert_eq!(serves(with_ips(ips, "both")), once, "{ips:?}");
    }
    for ips in [&["fd00::70"][..], &["10.0.0.200", "fd00::70"], &["fd00::200", "10.0.0.70"]] {
        assert_eq!(serves(with_ips(ips, "stock")), 0, "{ips:?}");
    }
}
