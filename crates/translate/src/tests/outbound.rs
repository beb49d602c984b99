//! Outbound listeners and the name table.

use std::sync::Arc;

use mizzen_api::Object;
use mizzen_model::{ALLOCATED, Change, IPV6, NO_IPV4, ProxyType, ProxyView, Reader, Snapshot};

use super::{facts, names, parse, reviews, shop, summary::show, visitor};
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

/// Two entries with a port of plain TCP, and one with HTTP and one that says no protocol: with what a control plane has allocated to them.
pub(super) fn allocated() -> Arc<Snapshot> {
    let entry = |name: &str, ports: &str| {
        format!(
            "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: shop}}
spec: {{hosts: [{name}.example.com], ports: [{ports}], resolution: DNS}}
"
        )
    };
    let tcp = "{number: 5432, name: tcp, protocol: TCP}";
    let all = [
        entry("db", tcp),
        entry("other", tcp),
        entry("web", "{number: 80, name: http, protocol: HTTP}"),
        entry("auto", "{number: 81, name: a}"),
    ];
    let mut last = 0;
    let give = |change: Change| match change {
        Change::Apply(object) => {
            let Object::ServiceEntry(mut entry) = (*object).clone() else { panic!("{object:?}") };
            last += 1;
            let host = entry.hosts[0].clone();
            entry.allocated = ["240.240.0", "2001:2::"]
                .map(|start| format!("{start}{}{last}", if start.ends_with(':') { "" } else { "." }))
                .map(|text| (host.clone(), text.parse().unwrap()))
                .into();
            Change::from(Object::from(entry))
        }
        other => panic!("{other:?}"),
    };
    let changes: Vec<Change> = all.iter().flat_map(|text| parse(text)).map(give).collect();
    shop(&[]).apply(changes)
}

/// What was allocated tells connections apart, where the proxy's agent answers questions for names: by the families that the proxy has.
#[test]
fn allocated_addresses() {
    let snapshot = allocated();
    let check = |extensions: &[&str], expected: [&[&str]; 3]| {
        let mut facts = visitor().facts().clone();
        facts.extensions.extend(extensions.iter().map(|name| (*name).to_owned()));
        let view = ProxyView::from(facts);
        let table = name_table(&Reader::new(&snapshot), &view).table;
        let mut answers: Vec<String> = table
            .iter()
            .filter(|(host, _)| host.ends_with("example.com"))
            .map(|(host, info)| format!("{} {}", host.split('.').next().unwrap(), info.ips.join(",")))
            .collect();
        answers.sort();
        assert_eq!(answers, expected[0], "{extensions:?}: the name table");
        let port = |name: &String| ["_5432", "_80", "_81"].iter().any(|end| name.ends_with(end));
        let mut listeners: Vec<String> = names(&snapshot, &view, ResourceKind::Listener).into_iter().filter(port).collect();
        listeners.sort();
        assert_eq!(listeners, expected[1], "{extensions:?}: listeners");
        let own = |name: &String| ["80", "81"].contains(&name.as_str()) || name.contains("example.com");
        let mut routes: Vec<String> = names(&snapshot, &view, ResourceKind::Route).into_iter().filter(own).collect();
        routes.sort();
        assert_eq!(routes, expected[2], "{extensions:?}: routes");
        for (listener, host) in [("240.240.0.1_5432", "db"), ("240.240.0.2_5432", "other"), ("2001:2::1_5432", "db")] {
            if listeners.iter().any(|name| name == listener) {
                let shown = show(&snapshot, &view, ResourceKind::Listener, listener);
                let other = if host == "db" { "other" } else { "db" };
                assert!(shown.contains(&format!("{host}.example.com")) && !shown.contains(&format!("{other}.example.com")), "{shown}");
            }
        }
    };
    let any: &[&str] = &["0.0.0.0_5432", "0.0.0.0_80", "0.0.0.0_81"];
    check(&[], [&[], any, &["80", "81"]]);
    check(
        &[ALLOCATED],
        [
            &["auto 240.240.0.4", "db 240.240.0.1", "other 240.240.0.2", "web 240.240.0.3"],
            &["0.0.0.0_80", "240.240.0.1_5432", "240.240.0.2_5432", "240.240.0.4_81"],
            &["80", "auto.example.com:81"],
        ],
    );
    check(
        &[ALLOCATED, IPV6, NO_IPV4],
        [
            &["auto 2001:2::4", "db 2001:2::1", "other 2001:2::2", "web 2001:2::3"],
            &["0.0.0.0_80", "2001:2::1_5432", "2001:2::2_5432", "2001:2::4_81"],
            &["80", "auto.example.com:81"],
        ],
    );
    let both = [ALLOCATED, IPV6];
    check(
        &both,
        [
            &["auto 240.240.0.4,2001:2::4", "db 240.240.0.1,2001:2::1", "other 240.240.0.2,2001:2::2", "web 240.240.0.3,2001:2::3"],
            &["0.0.0.0_80", "2001:2::1_5432", "2001:2::2_5432", "2001:2::4_81", "240.240.0.1_5432", "240.240.0.2_5432", "240.240.0.4_81"],
            &["80", "auto.example.com:81"],
        ],
    );
}
