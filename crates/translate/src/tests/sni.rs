//! Routes by server name, and bytes at gateways.

use mizzen_model::{ProxyType, ProxyView, Snapshot};

use super::{facts, names, pod, reviews, shop, summary::show, visitor};
use crate::ResourceKind;

/// Hosts beyond the mesh that are spoken to over TLS, without addresses, and a service of the mesh with one.
const HOSTS: &str = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: a, namespace: shop}
spec: {hosts: [a.example], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: b, namespace: shop}
spec: {hosts: [b.example], resolution: DNS, ports: [{number: 443, name: https, protocol: HTTPS}]}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: c, namespace: shop}
spec: {hosts: [c.example], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
---
kind: Service
apiVersion: v1
metadata: {name: vault, namespace: shop}
spec: {clusterIP: 10.96.0.30, selector: {app: vault}, ports: [{name: tls, port: 443}]}
";

fn rule(name: &str, hosts: &str, spec: &str) -> String {
    format!(
        "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: shop}}
spec: {{hosts: [{hosts}], {spec}}}
"
    )
}

fn show_all(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, names: &[&str]) -> String {
    names.iter().map(|name| show(snapshot, view, kind, name)).collect::<Vec<_>>().join("\n")
}

#[test]
fn sidecars() {
    let away = rule(
        "away",
        "a.example, b.example",
        "tls: [{match: [{sniHosts: [a.example]}],
           route: [{destination: {host: a.example}, weight: 90}, {destination: {host: b.example}, weight: 10}]},
          {match: [{sniHosts: [b.example], port: 444}, {sniHosts: [b.example], gateways: [shop/other]}], route: [{destination: {host: c.example}}]},
          {match: [{sniHosts: [b.example], sourceNamespace: elsewhere}, {sniHosts: [a.example], sourceNamespace: visit}],
           route: [{destination: {host: c.example}}]},
          {match: [{sniHosts: [a.example, b.example], sourceNamespace: visit}], route: [{destination: {host: vault}}]}]",
    );
    let vault = rule(
        "vault",
        "vault.shop.svc.cluster.local, '*.vault.example'",
        "tls: [{match: [{sniHosts: [vault.shop.svc.cluster.local]}, {sniHosts: ['*.vault.example'], destinationSubnets: [10.0.0.0/8]}],
           route: [{destination: {host: vault, subset: v1}}]}],
         tcp: [{route: [{destination: {host: a.example}}]}]",
    );
    let snapshot = shop(&[HOSTS, &away, &vault]);
    let listeners = ["0.0.0.0_443", "10.96.0.30_443"];
    insta::assert_snapshot!(
        [
            show_all(&snapshot, &visitor(), ResourceKind::Listener, &listeners),
            show_all(&snapshot, &reviews(), ResourceKind::Listener, &listeners)
        ]
        .join("\n\n")
    );
}

#[test]
fn ports_of_tls_have_no_routes_for_tcp() {
    let tcp = rule("tcp", "vault, a.example", "tcp: [{route: [{destination: {host: c.example}}]}]");
    let snapshot = shop(&[HOSTS, &tcp]);
    insta::assert_snapshot!(show_all(&snapshot, &visitor(), ResourceKind::Listener, &["0.0.0.0_443", "10.96.0.30_443"]));
}

/// Each way in which a gateway has bytes.
const GATEWAY: &str = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: passed, protocol: TLS}, hosts: ['*.pass.example', 'ops/ops.example'], tls: {mode: PASSTHROUGH}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [web.example, x.pass.example], tls: {mode: SIMPLE, credentialName: web}}
  - {port: {number: 443, name: ended, protocol: TLS}, hosts: [db.example], tls: {mode: MUTUAL, credentialName: db}}
  - {port: {number: 443, name: mesh, protocol: TCP}, hosts: [mesh.example], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 444, name: any, protocol: HTTPS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 9001, name: tcp-2, protocol: TCP}, hosts: ['*']}
  - {port: {number: 9002, name: nowhere, protocol: TCP}, hosts: ['*']}
  - {port: {number: 9443, name: nobody, protocol: TLS}, hosts: ['*.nobody.example'], tls: {mode: PASSTHROUGH}}
";

fn gateway() -> ProxyView {
    facts(ProxyType::Router, "10.0.0.98", "istio-system", &[("istio", "ingressgateway")]).into()
}

#[test]
fn gateways() {
    let rules = rule(
        "r",
        "'*'",
        "gateways: [edge],
         http: [{route: [{destination: {host: reviews}}]}],
         tls: [{match: [{sniHosts: [a.pass.example, b.pass.example]}, {sniHosts: [x.pass.example]}, {sniHosts: [ops.example]}],
             route: [{destination: {host: stock, subset: a}, weight: 75}, {destination: {host: stock, subset: b}, weight: 25}]},
           {match: [{sniHosts: [b.pass.example]}, {sniHosts: ['*.pass.example'], port: 443}], route: [{destination: {host: ratings}}]},
           {match: [{sniHosts: ['*'], port: 444}], route: [{destination: {host: vault}}]}],
         tcp: [{match: [{port: 9000}], route: [{destination: {host: stock}}]},
           {match: [{port: 9001, sourceLabels: {istio: other}}], route: [{destination: {host: stock}}]},
           {match: [{port: 9001, gateways: [edge]}, {port: 443}],
            route: [{destination: {host: stock, subset: a}, weight: 1}, {destination: {host: stock, subset: b}, weight: 2}]}]",
    );
    let snapshot = shop(&[HOSTS, GATEWAY, &rules]);
    let listeners = ["0.0.0.0_443", "0.0.0.0_444", "0.0.0.0_9000", "0.0.0.0_9001"];
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Listener), listeners, "where nothing leads anywhere, nothing listens");
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Route), ["https.443.https.edge.shop"]);
    insta::assert_snapshot!(show_all(&snapshot, &gateway(), ResourceKind::Listener, &listeners));
}

#[test]
fn policies_of_a_gateway_judge_connections() {
    let policy = "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: entry, namespace: istio-system}
spec: {selector: {matchLabels: {istio: ingressgateway}}, rules: [{to: [{operation: {ports: ['9000']}}]}]}
";
    let rules = rule("r", "'*'", "gateways: [edge], tcp: [{route: [{destination: {host: stock}}]}]");
    let snapshot = shop(&[GATEWAY, policy, &rules]);
    for name in ["0.0.0.0_443", "0.0.0.0_9000"] {
        let text = show(&snapshot, &gateway(), ResourceKind::Listener, name);
        let chains = text.lines().filter(|line| line.contains("tcp(")).count();
        assert!(chains > 0 && text.matches("=> ALLOW(ns[istio-system]-policy[entry]-rule[0])").count() == chains, "{text}");
    }
}

#[test]
fn mutual_tls_that_says_itself_where_it_goes() {
    let passing = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: cross, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 15443, name: tls, protocol: TLS}, hosts: ['reviews.shop.svc.cluster.local', 'a.example', '*.visit.svc.cluster.local'], tls: {mode: AUTO_PASSTHROUGH}}
  - {port: {number: 15443, name: again, protocol: TLS}, hosts: ['*.shop.svc.cluster.local'], tls: {mode: AUTO_PASSTHROUGH}}
---
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {maxConnectionDuration: 5s}}}, subsets: [{name: v1, labels: {version: v1}}]}
";
    let plain = pod("reviews-v0-0", "app: reviews, version: v1", "10.0.0.19", "{name: web, containerPort: 8080}", true)
        .replace("security.istio.io/tlsMode: istio, ", "");
    let snapshot = shop(&[HOSTS, &plain, passing]);
    let view = gateway();
    let all = names(&snapshot, &view, ResourceKind::Cluster);
    let own: Vec<&String> = all.iter().filter(|name| name.starts_with("outbound_.")).collect();
    assert!(own.iter().all(|name| !name.contains(".example")), "{own:?}");
    let names_of_endpoints = names(&snapshot, &view, ResourceKind::Endpoints);
    assert!(own.iter().all(|name| names_of_endpoints.contains(name)), "{names_of_endpoints:?}");
    let clusters = ["outbound_.9080_._.reviews.shop.svc.cluster.local", "outbound_.9080_.v1_.reviews.shop.svc.cluster.local"];
    insta::assert_snapshot!(
        [
            show(&snapshot, &view, ResourceKind::Listener, "0.0.0.0_15443"),
            show_all(&snapshot, &view, ResourceKind::Cluster, &clusters),
            show_all(&snapshot, &view, ResourceKind::Endpoints, &clusters),
        ]
        .join("\n")
    );
    // Who passes nothing on has no such clusters.
    let without = shop(&[HOSTS, &plain]);
    for view in [view, visitor()] {
        let reader = mizzen_model::Reader::new(&without);
        assert!(crate::build(&reader, &view, ResourceKind::Cluster, &clusters[0].into()).is_none());
        assert!(crate::build(&reader, &view, ResourceKind::Endpoints, &clusters[0].into()).is_none());
    }
    let sidecar = mizzen_model::Reader::new(&snapshot);
    assert!(crate::build(&sidecar, &visitor(), ResourceKind::Cluster, &clusters[0].into()).is_none());
}
