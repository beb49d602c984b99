//! Gateways.

use mizzen_model::{ProxyType, ProxyView};

use super::{facts, names, shop, summary::show};
use crate::ResourceKind;

const GATEWAY: &str = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: shop, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com, './*.shop.example.com', 'ops/ops.example.com']}
  - {port: {number: 8080, name: http2, protocol: HTTP2}, hosts: ['*']}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: other, namespace: shop}
spec:
  selector: {istio: other}
  servers: [{port: {number: 81, name: http, protocol: HTTP}, hosts: ['*']}]
";

fn rule(name: &str, namespace: &str, hosts: &str, http: &str) -> String {
    format!(
        "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: [{hosts}], gateways: [shop/shop], http: [{http}]}}
"
    )
}

fn gateway() -> ProxyView {
    facts(ProxyType::Router, "10.0.0.98", "istio-system", &[("istio", "ingressgateway")]).into()
}

#[test]
fn hosts_in_common() {
    let to = |name: &str| format!("{{name: {name}, route: [{{destination: {{host: reviews.shop.svc.cluster.local}}}}]}}");
    let snapshot = shop(&[
        GATEWAY,
        &rule("b", "shop", "shop.example.com", &to("b")),
        &rule("a", "shop", "shop.example.com", "{name: a, match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}"),
        &rule("wide", "shop", "'*.example.com'", &to("wide")),
        &rule("theirs", "ops", "ops.example.com", &to("theirs")),
        &rule("not-theirs", "shop", "ops.example.com", &to("not-theirs")),
    ]);
    insta::assert_snapshot!(show(&snapshot, &gateway(), ResourceKind::Route, "http.80"));
}

#[test]
fn the_gateway_is_the_source() {
    let rules = "
      {name: theirs, match: [{sourceLabels: {team: blue}}, {sourceNamespace: shop}], route: [{destination: {host: reviews}}]},
      {name: ours, match: [{sourceLabels: {istio: ingressgateway}, sourceNamespace: istio-system}], route: [{destination: {host: reviews}}]}";
    let text = show(&shop(&[GATEWAY, &rule("a", "shop", "'*'", rules)]), &gateway(), ResourceKind::Route, "http.8080");
    assert!(text.contains("    ours: ") && !text.contains("    theirs"), "{text}");
}

#[test]
fn rules_for_all_paths_come_last() {
    let to = |name: &str, matching: &str| format!("{{name: {name}, {matching} route: [{{destination: {{host: reviews}}}}]}}");
    let snapshot = shop(&[
        GATEWAY,
        &rule("a", "shop", "'*'", &(to("a1", "match: [{uri: {prefix: /a}}],") + ", " + &to("all-of-a", ""))),
        &rule("b", "shop", "'*'", &to("all-of-b", "match: [{uri: {prefix: /}}],")),
        &rule(
            "c",
            "shop",
            "'*'",
            &(to("c1", "match: [{uri: {prefix: /}, headers: {x: {exact: one}}}],") + ", " + &to("c2", "match: [{uri: {exact: /c}}],")),
        ),
    ]);
    let text = show(&snapshot, &gateway(), ResourceKind::Route, "http.8080");
    let places: Vec<_> = ["a1", "c1", "c2", "all-of-a", "all-of-b"].map(|name| text.find(&format!("    {name}: "))).into();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}\n{text}");
}

#[test]
fn resources() {
    let policy = "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: entry, namespace: istio-system}
spec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {paths: [/private]}}]}]}
";
    let snapshot = shop(&[GATEWAY, policy]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Listener), ["0.0.0.0_80", "0.0.0.0_8080"]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Route), ["http.80", "http.8080"]);
    assert!(
        !names(&snapshot, &gateway(), ResourceKind::Cluster).iter().any(|name| name.starts_with("inbound") || name.contains("Passthrough"))
    );
    let store = "outbound|7000||store.shop.svc.cluster.local";
    assert!(show(&snapshot, &gateway(), ResourceKind::Cluster, store).contains(" EDS "));
    assert_eq!(show(&snapshot, &gateway(), ResourceKind::Endpoints, store).lines().count(), 3);
    insta::assert_snapshot!(
        [show(&snapshot, &gateway(), ResourceKind::Listener, "0.0.0.0_80"), show(&snapshot, &gateway(), ResourceKind::Route, "http.8080")]
            .join("\n")
    );
}

#[test]
fn ports_of_the_gateways_own_service() {
    let service = "
kind: Service
apiVersion: v1
metadata: {name: ingress, namespace: istio-system}
spec: {clusterIP: 10.96.0.90, selector: {istio: ingressgateway}, ports: [{name: http, port: 80, targetPort: 18080}]}
---
kind: Pod
apiVersion: v1
metadata: {name: ingress-0, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.98, conditions: [{type: Ready, status: 'True'}]}
";
    let snapshot = shop(&[GATEWAY, service]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Listener), ["0.0.0.0_8080", "0.0.0.0_18080"]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Route), ["http.80", "http.8080"]);
}
