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

/// Where inbound connections are not redirected, their socket is transparent, and they go on from their client's address; nothing else differs.
#[test]
fn transparent() {
    let snapshot = shop(&[]);
    let build = |mode: Option<&str>, kind: ResourceKind, name: &str| {
        let mut facts = reviews().facts().clone();
        facts.metadata.extend(mode.map(|mode| ("INTERCEPTION_MODE".to_owned(), mode.to_owned())));
        let resource = crate::build(&Reader::new(&snapshot), &facts.into(), kind, &name.into()).unwrap();
        to_value(&resource.any, Names::Json).unwrap()
    };
    let inbound = |mode| build(mode, ResourceKind::Listener, "virtualInbound");
    let names = |listener: &serde_json::Value| {
        let filters = listener["listenerFilters"].as_array().unwrap().iter().map(|filter| filter["name"].as_str().unwrap());
        filters.map(|name| name.trim_start_matches("envoy.filters.listener.").to_owned()).collect::<Vec<_>>().join(" ")
    };
    let usual = inbound(None);
    assert_eq!(usual, inbound(Some("REDIRECT")));
    assert_eq!((names(&usual).as_str(), usual.get("transparent")), ("original_dst tls_inspector http_inspector", None));
    let mut other = inbound(Some("TPROXY"));
    assert_eq!(names(&other), "original_dst original_src tls_inspector http_inspector");
    let config = &other["listenerFilters"][1]["typedConfig"];
    assert_eq!(
        *config,
        serde_json::json!({"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc", "mark": 1337})
    );
    assert_eq!(other["transparent"], true);
    other["listenerFilters"].as_array_mut().unwrap().remove(1);
    other.as_object_mut().unwrap().remove("transparent");
    assert_eq!(other, usual);
    for (kind, name) in [
        (ResourceKind::Cluster, "inbound|8080||"),
        (ResourceKind::Cluster, "InboundPassthroughCluster"),
        (ResourceKind::Listener, "virtualOutbound"),
    ] {
        assert_eq!(build(Some("TPROXY"), kind, name), build(None, kind, name), "{name}");
    }
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
