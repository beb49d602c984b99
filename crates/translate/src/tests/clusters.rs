//! Clusters and endpoints.

use super::{names, pod, reviews, shop, summary::show, visitor};
use crate::ResourceKind;

const RULE: &str = "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool: {tcp: {maxConnections: 5, connectTimeout: 2s}, http: {http1MaxPendingRequests: 7, idleTimeout: 30s}}
    outlierDetection: {consecutive5xxErrors: 3, consecutiveGatewayErrors: 2}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {tls: {mode: DISABLE}, loadBalancer: {simple: RANDOM}}}
";

const ENTRIES: &str = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: listed, namespace: shop}
spec:
  hosts: [listed.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.1.1, serviceAccount: listed, labels: {security.istio.io/tlsMode: istio}, locality: eu/a, ports: {http: 8081}}
  - {address: 10.0.1.2, locality: eu/b, weight: 3}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: any, namespace: shop}
spec:
  hosts: ['*.example.org']
  resolution: NONE
  ports: [{number: 443, name: tls, protocol: TLS}]
";

fn all(more: &[&str], kind: ResourceKind, names: &[&str]) -> String {
    let snapshot = shop(more);
    names.iter().map(|name| show(&snapshot, &visitor(), kind, name)).collect::<Vec<_>>().join("\n")
}

#[test]
fn protocols_and_tls() {
    insta::assert_snapshot!(all(
        &[ENTRIES],
        ResourceKind::Cluster,
        &[
            "outbound|9080||reviews.shop.svc.cluster.local",
            "outbound|9090||ratings.shop.svc.cluster.local",
            "outbound|5000||anything.shop.svc.cluster.local",
            "outbound|7000||store.shop.svc.cluster.local",
            "outbound|80||api.example.com",
            "outbound|80||listed.example.com",
            "outbound|443||*.example.org",
            "BlackHoleCluster",
            "PassthroughCluster",
        ]
    ));
}

#[test]
fn rules_and_subsets() {
    insta::assert_snapshot!(all(
        &[RULE],
        ResourceKind::Cluster,
        &[
            "outbound|9080||reviews.shop.svc.cluster.local",
            "outbound|9080|v1|reviews.shop.svc.cluster.local",
            "outbound|9080|v2|reviews.shop.svc.cluster.local"
        ]
    ));
}

#[test]
fn ready_endpoints() {
    let extra = [pod("reviews-v1-1", "app: reviews, version: v1", "10.0.0.21", "{name: web, containerPort: 8082}", false)];
    insta::assert_snapshot!(all(
        &[RULE, ENTRIES, &extra[0]],
        ResourceKind::Endpoints,
        &[
            "outbound|9080||reviews.shop.svc.cluster.local",
            "outbound|9080|v1|reviews.shop.svc.cluster.local",
            "outbound|9080|v2|reviews.shop.svc.cluster.local",
            "outbound|80||listed.example.com",
        ]
    ));
}

#[test]
fn nobody_there() {
    let empty = "
kind: Service
apiVersion: v1
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.0.50, selector: {app: empty}, ports: [{name: http, port: 80}]}
";
    let name = "outbound|80||empty.shop.svc.cluster.local";
    assert_eq!(all(&[empty], ResourceKind::Endpoints, &[name]), name);
}

#[test]
fn no_tls_to_who_takes_none() {
    let off = |scope: &str, selector: &str| {
        format!(
            "
kind: PeerAuthentication
apiVersion: security.istio.io/v1
metadata: {{name: plain, namespace: {scope}}}
spec: {{mtls: {{mode: DISABLE}}{selector}}}
"
        )
    };
    let one = ", selector: {matchLabels: {version: v2}}";
    let endpoints = |policy: &str| all(&[policy], ResourceKind::Endpoints, &["outbound|9080||reviews.shop.svc.cluster.local"]);
    let mtls = |text: &str| text.matches("tlsMode: istio").count();
    assert_eq!(mtls(&endpoints(&off("visit", ""))), 2);
    assert_eq!(mtls(&endpoints(&off("shop", one))), 1);
    assert_eq!(mtls(&endpoints(&off("shop", ""))), 0);
    assert_eq!(mtls(&endpoints(&off("istio-system", ""))), 0);
    assert!(!all(&[&off("shop", "")], ResourceKind::Cluster, &["outbound|9080||reviews.shop.svc.cluster.local"]).contains("mtls"));
}

#[test]
fn lists() {
    let snapshot = shop(&[RULE, ENTRIES]);
    let text = [ResourceKind::Cluster, ResourceKind::Endpoints].map(|kind| names(&snapshot, &reviews(), kind).join("\n"));
    insta::assert_snapshot!(text.join("\n--\n"));
}
