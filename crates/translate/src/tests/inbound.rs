//! The inbound listener: modes of mutual TLS by protocols.

use mizzen_model::{ProxyType, Reader};
use mizzen_protos::json::{Names, to_value};

use super::{facts, reviews, shop, summary::show};
use crate::ResourceKind;

/// Ports of all three kinds at one workload.
const THREE: &str = "
kind: Service
apiVersion: v1
metadata: {name: three, namespace: shop}
spec: {clusterIP: 10.96.0.30, selector: {app: reviews}, ports: [{name: tcp-a, port: 7000}, {name: unknown, port: 7001}]}
";

fn peer(mode: &str, ports: &str) -> String {
    format!(
        "
kind: PeerAuthentication
apiVersion: security.istio.io/v1
metadata: {{name: reviews, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: reviews}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{{ports}}}}}
"
    )
}

#[test]
fn modes_by_protocols() {
    for mode in ["STRICT", "PERMISSIVE", "DISABLE"] {
        let snapshot = shop(&[THREE, &peer(mode, "")]);
        insta::assert_snapshot!(format!("inbound_{mode}"), show(&snapshot, &reviews(), ResourceKind::Listener, "virtualInbound"));
    }
}

#[test]
fn modes_of_single_ports() {
    let snapshot = shop(&[&peer("STRICT", "8080: {mode: DISABLE}, 9999: {mode: PERMISSIVE}")]);
    insta::assert_snapshot!(show(&snapshot, &reviews(), ResourceKind::Listener, "virtualInbound"));
}

#[test]
fn clusters_of_the_workload() {
    let limits = "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 10}}}}
";
    let snapshot = shop(&[THREE, limits]);
    let clusters = ["inbound|8080||", "inbound|7001||", "InboundPassthroughCluster"];
    insta::assert_snapshot!(clusters.map(|name| show(&snapshot, &reviews(), ResourceKind::Cluster, name)).join("\n"));
}

#[test]
fn an_address_is_not_believed() {
    let mut other = facts(ProxyType::Sidecar, "10.0.0.11", "shop", &[("app", "ratings")]);
    assert!(show(&shop(&[]), &reviews(), ResourceKind::Listener, "virtualInbound").contains("inbound|8080||"));
    assert!(!show(&shop(&[]), &other.clone().into(), ResourceKind::Listener, "virtualInbound").contains("inbound|8080||"));
    other.service_account = "reviews".into();
    other.namespace = "visit".into();
    assert!(!show(&shop(&[]), &other.into(), ResourceKind::Listener, "virtualInbound").contains("inbound|8080||"));
}

#[test]
fn paths_before_policies() {
    for (normalization, expected) in [
        ("NONE", (false, false, false)),
        ("DEFAULT", (true, false, false)),
        ("BASE", (true, false, false)),
        ("MERGE_SLASHES", (true, true, false)),
        ("DECODE_AND_MERGE_SLASHES", (true, true, true)),
    ] {
        let config = format!(
            "{{kind: ConfigMap, apiVersion: v1, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: 'pathNormalization: {{normalization: {normalization}}}'}}}}"
        );
        let snapshot = shop(&[&config]);
        let resource = crate::build(&Reader::new(&snapshot), &reviews(), ResourceKind::Listener, &"virtualInbound".into()).unwrap();
        let text = to_value(&resource.any, Names::Json).unwrap().to_string();
        let has = |field: &str| text.contains(field);
        assert_eq!((has("\"normalizePath\":true"), has("\"mergeSlashes\":true"), has("UNESCAPE_AND_FORWARD")), expected, "{normalization}");
    }
}
