//! The YAML of the mesh under load.

use std::fs;

use mizzen_testkit::echo::{echo, stock};

/// Where all of it is.
pub(crate) const NAMESPACE: &str = "shop";

/// `echo` in three versions, behind the gateway and for the account `client`; and `stock`.
pub(crate) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let versions = ["a", "b", "c"].map(|version| (format!("echo-{version}.yaml"), echo(NAMESPACE, version, 1)));
    let others = [
        ("mesh.yaml", BASE.to_owned()),
        ("mtls.yaml", mtls("STRICT")),
        ("gateway.yaml", GATEWAY.to_owned()),
        ("routing.yaml", routing(&[("a", 100)])),
        ("allow.yaml", allow("")),
        ("stock.yaml", stock(NAMESPACE, 1)),
    ];
    for (name, text) in others.map(|(name, text)| (name.to_owned(), text)).iter().chain(&versions) {
        fs::write(dir.path().join(name), text).expect("write a file");
    }
    dir
}

const BASE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: echo, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: client, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: visitor, namespace: shop}}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 9080}
  - {name: http2, port: 9081, targetPort: 9080}
";

pub(crate) const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
";

/// Routes to these versions with these weights, the same for the gateway and inside. A subset exists only while it is in use.
pub(crate) fn routing(versions: &[(&str, u32)]) -> String {
    let subsets: String = versions.iter().map(|(v, _)| format!("  - {{name: {v}, labels: {{version: {v}}}}}\n")).collect();
    let route = |port: &str| -> String {
        let to = |(v, weight): &(&str, u32)| format!("    - {{destination: {{host: echo, subset: {v}{port}}}, weight: {weight}}}\n");
        versions.iter().map(to).collect()
    };
    let rule = |name: &str, hosts: &str, gateways: &str, http: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{hosts}]
  gateways: [{gateways}]
  http:
{http}"
        )
    };
    let (first, second) = (route(", port: {number: 9080}"), route(", port: {number: 9081}"));
    let outside = format!("  - match: [{{uri: {{exact: /reviews/1}}}}]\n    route:\n{first}  - route:\n{second}");
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: echo, namespace: shop}}
spec:
  host: echo
  subsets:
{subsets}{}{}",
        rule("outside", "'*'", "shop", &outside),
        rule("inside", "echo", "mesh", &format!("  - route:\n{}", route("")))
    )
}

pub(crate) fn mtls(mode: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: {mode}}}}}
"
    )
}

/// Who may call `echo`: the gateway, the client, and who is named here.
pub(crate) fn allow(more: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: echo, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account, cluster.local/ns/shop/sa/client{more}]
"
    )
}

/// Two routes for the same connections: a proxy would refuse a listener of which two chains have the same match.
pub(crate) const AMBIGUOUS: &str = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: stock, namespace: shop}
spec:
  hosts: [stock]
  tcp:
  - match: [{destinationSubnets: [10.0.0.0/8]}]
    route: [{destination: {host: stock}}]
  - match: [{destinationSubnets: [10.0.0.0/8]}]
    route: [{destination: {host: echo, port: {number: 9080}}}]
";

/// One more listener and one more cluster.
pub(crate) const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: more, namespace: shop}
spec:
  hosts: [more.example]
  addresses: [240.1.1.1]
  ports: [{number: 8000, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.1.1.1}]
";
