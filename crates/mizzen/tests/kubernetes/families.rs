//! Pods with addresses of both families: what is called by IPv6 goes through both proxies, and whoever goes past one gets no answer by either family.

use std::path::Path;

use mizzen_capture::has_ipv6;
use mizzen_testkit::{
    Output, eventually,
    kube::{Cluster, ClusterOptions, Programs, image},
};

use super::{CaptureBy, MIZZEN, ONE_AT_A_TIME};

/// The control plane's own Service has both families.
const INSTALL: [&str; 6] = ["install", "-y", "--set", "profile=minimal", "--set", "values.global.ipFamilyPolicy=RequireDualStack"];

/// Who is called is so by IPv6 before IPv4, and by one account alone.
const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio-injection: enabled}}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: STRICT}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: server, namespace: shop}
spec: {selector: {matchLabels: {app: server}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec: {ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4], selector: {app: server}, ports: [{name: http, port: 8080}]}
";

/// On a node of its own, so that calls cross the wire between them; its agent answers questions for names.
fn pod(name: &str, node: usize, command: &str) -> String {
    format!(
        "
---
{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: shop}}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {{app: {name}}}
  annotations: {{proxy.istio.io/config: '{{proxyMetadata: {{ISTIO_META_DNS_CAPTURE: \"true\"}}}}'}}
spec:
  serviceAccountName: {name}
  nodeName: node{node}
  containers:
  - name: app
    image: mizzen.test/echo:1
    imagePullPolicy: IfNotPresent
    args: [{command}]
    ports: [{{containerPort: 8080}}]
    readinessProbe: {{httpGet: {{path: /ready, port: 8080}}}}
"
    )
}

/// A program that only calls has nothing to be asked.
fn caller(name: &str) -> String {
    pod(name, 1, "sleep").replace("    readinessProbe: {httpGet: {path: /ready, port: 8080}}\n", "")
}

fn get(cluster: &Cluster, from: &str, url: &str) -> Output {
    cluster.exec("shop", from, "app", &["/usr/local/bin/echo", "get", url])
}

#[test]
fn calls_by_ipv6() {
    check(CaptureBy::Pod);
}

#[test]
fn calls_by_ipv6_where_nodes_capture() {
    check(CaptureBy::Node);
}

fn check(capture: CaptureBy) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if Programs::for_cluster().is_none() {
        return;
    }
    if !has_ipv6() {
        return mizzen_testkit::skip("this machine has no IPv6");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = image::without_debug(Path::new(MIZZEN), folder.path()).expect("a copy");
    let written = image::mesh(&image::Source::MultiCall(&program), None, "mizzen", env!("CARGO_PKG_VERSION"), folder.path());
    let images = written.expect("images").into_iter().map(|written| written.archive).collect();
    let Some(cluster) = Cluster::start(&ClusterOptions { nodes: 2, images, dual_stack: true }) else { return };
    cluster.run(&[&[MIZZEN], &INSTALL[..], capture.settings()].concat(), "").ok();
    let shop = SHOP.to_owned() + &pod("server", 2, "serve") + &caller("client") + &caller("stranger");
    // The node's proxy of Services may learn a moment later than the installer that the control plane answers.
    eventually("a shop", || match cluster.kubectl(&["apply", "--server-side", "-f", "-"], &shop) {
        applied if applied.code == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Ready", "pod", "--all", "--timeout=240s"], "").ok();
    let field = |what: &[&str], path: &str| {
        let path = format!("jsonpath={path}");
        cluster.kubectl(&[&["get", "-n", "shop"], what, &["-o", &path]].concat(), "").ok()
    };
    let service = field(&["service", "server"], "{.spec.clusterIPs[*]}");
    let (six, four) = service.split_once(' ').unwrap_or_else(|| panic!("{service}"));
    assert!(six.contains(':') && !four.contains(':'), "{service}");

    // By its address of either family the service's pod is called by IPv6, and handed the request from its proxy's address of that; whom the policy
    // admits by identity and whom it refuses shows that it is mutual TLS.
    for url in [format!("http://[{six}]:8080/"), format!("http://{four}:8080/"), "http://server.shop:8080/".to_owned()] {
        eventually("an answer by IPv6", || match get(&cluster, "client", &url) {
            found if found.out.starts_with("200 ") && found.out.contains("from=[::6]:") => Ok(()),
            other => Err(format!("{url}: {other:?}")),
        });
        let refused = get(&cluster, "stranger", &url);
        assert!(refused.out.starts_with("403 "), "{url}: {refused:?}");
    }

    // Who is not of the mesh gets nothing, whichever of the pod's addresses is called.
    let addresses = field(&["pod", "server"], "{.status.podIPs[*].ip}");
    assert_eq!(addresses.split(' ').count(), 2, "{addresses}");
    for address in addresses.split(' ') {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let plain = cluster.run(&["curl", "-g", "-sS", "-m", "10", &format!("http://{host}:8080/")], "");
        assert!(matches!(plain.code, 52 | 55 | 56) && plain.out.is_empty(), "{host}: {plain:?}");
    }
    cluster.down().expect("it ends");
}
