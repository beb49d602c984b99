//! Outbound listeners and the name table.

use mizzen_model::{ProxyType, Reader};

use super::{facts, names, reviews, shop, summary::show, visitor};
use crate::{ResourceKind, name_table};

const EXTERNAL: &str = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: block, namespace: shop}
spec:
  hosts: [block.example.com]
  addresses: [192.0.2.0/24]
  resolution: NONE
  ports: [{number: 5432, name: tcp, protocol: TCP}]
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: private, namespace: shop}
spec:
  hosts: [private.example.com]
  exportTo: ['.']
  resolution: DNS
  ports: [{number: 8000, name: http, protocol: HTTP}]
";

const REGISTRY_ONLY: &str = "
kind: ConfigMap
apiVersion: v1
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}
";

fn listeners(snapshot: &mizzen_model::Snapshot, view: &mizzen_model::ProxyView) -> String {
    let all = names(snapshot, view, ResourceKind::Listener);
    all.iter()
        .filter(|name| *name != "virtualInbound")
        .map(|name| show(snapshot, view, ResourceKind::Listener, name))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn one_listener_for_each_address() {
    insta::assert_snapshot!(listeners(&shop(&[EXTERNAL]), &visitor()));
}

#[test]
fn registry_only() {
    let snapshot = shop(&[REGISTRY_ONLY]);
    let text = ["virtualOutbound", "0.0.0.0_9080"].map(|name| show(&snapshot, &visitor(), ResourceKind::Listener, name)).join("\n");
    insta::assert_snapshot!(text + "\n" + &show(&snapshot, &visitor(), ResourceKind::Route, "9080"));
}

#[test]
fn a_pod_has_no_listener_for_itself() {
    let store = facts(ProxyType::Sidecar, "10.0.0.15", "shop", &[("app", "store")]).into();
    let names = names(&shop(&[]), &store, ResourceKind::Listener);
    assert!(names.contains(&"10.0.0.16_7000".to_owned()) && !names.contains(&"10.0.0.15_7000".to_owned()), "{names:?}");
}

#[test]
fn visibility() {
    let snapshot = shop(&[EXTERNAL]);
    assert!(names(&snapshot, &reviews(), ResourceKind::Listener).contains(&"0.0.0.0_8000".to_owned()));
    assert!(!names(&snapshot, &visitor(), ResourceKind::Listener).contains(&"0.0.0.0_8000".to_owned()));
    assert!(!names(&snapshot, &visitor(), ResourceKind::Cluster).iter().any(|name| name.contains("private")));
}

#[test]
fn tcp_routes() {
    let rule = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: stock, namespace: shop}
spec:
  hosts: [stock]
  tcp:
  - match: [{sourceNamespace: elsewhere}]
    route: [{destination: {host: ratings, port: {number: 9090}}}]
  - match: [{port: 6379}]
    route: [{destination: {host: stock, subset: a}, weight: 75}, {destination: {host: stock, subset: b}, weight: 25}]
";
    insta::assert_snapshot!(show(&shop(&[rule]), &visitor(), ResourceKind::Listener, "10.96.0.13_6379"));
}

#[test]
fn names_and_addresses() {
    let vips = "
kind: ConfigMap
apiVersion: v1
metadata: {name: mizzen-vips, namespace: kube-system}
data: {api.example.com: 240.240.0.1, late.shop.svc.cluster.local: 10.96.0.40}
---
kind: Service
apiVersion: v1
metadata: {name: late, namespace: shop}
spec: {selector: {app: late}, ports: [{name: http, port: 80}]}
";
    let snapshot = shop(&[EXTERNAL, vips]);
    let table = name_table(&Reader::new(&snapshot), &visitor()).table;
    let mut lines: Vec<String> = table
        .iter()
        .map(|(host, info)| format!("{host} {} {} {}/{}", info.ips.join(","), info.registry, info.namespace, info.shortname))
        .collect();
    lines.sort();
    insta::assert_snapshot!(lines.join("\n"));
}
