use serde_json::json;

use super::*;
use crate::envoy::envoy::{
    admin::v3::ConfigDump,
    config::{bootstrap::v3::Bootstrap, cluster::v3::Cluster, listener::v3::Listener},
    extensions::transport_sockets::tls::v3::Secret,
};

fn check<M: Message + MessageName + Default>(descriptors: &Descriptors, read: Value, written: Value) -> M {
    let message: M = descriptors.from_value(read).unwrap();
    assert_eq!(descriptors.to_value(&message, Names::Proto).unwrap(), written);
    let again: M = descriptors.from_value(written).unwrap();
    assert_eq!(again.encoded_len(), message.encoded_len());
    message
}

#[test]
fn bootstrap_in_both_styles() {
    let descriptors = Descriptors::load();
    let read = json!({
        "node": {"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "cluster": "a.b", "metadata": {"N": 3, "F": 0.5, "L": [true, null, {"x": "y"}]}},
        "dynamicResources": {"adsConfig": {"apiType": "DELTA_GRPC", "transport_api_version": 2, "grpcServices": [{"envoyGrpc": {"clusterName": "xds-grpc"}}]}},
        "static_resources": {"clusters": [{
            "name": "xds-grpc", "connectTimeout": "0.250s", "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicitHttpConfig": {"http2ProtocolOptions": {"maxConcurrentStreams": 100}}}},
            "loadAssignment": {"clusterName": "xds-grpc", "endpoints": [{"lbEndpoints": [{"endpoint": {"address": {"pipe": {"path": "./XDS"}}}}]}]},
        }]},
        "stats_flush_interval": "1.5s",
    });
    let written = json!({
        "node": {"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "cluster": "a.b", "metadata": {"F": 0.5, "L": [true, null, {"x": "y"}], "N": 3}},
        "static_resources": {"clusters": [{
            "name": "xds-grpc", "type": "STATIC", "connect_timeout": "0.250s",
            "load_assignment": {"cluster_name": "xds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "./XDS"}}}}]}]},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}}}},
        }]},
        "dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]}},
        "stats_flush_interval": "1.500s",
    });
    let bootstrap: Bootstrap = check(&descriptors, read, written);
    assert_eq!(bootstrap.static_resources.unwrap().clusters[0].name, "xds-grpc");
}

#[test]
fn unknown_any_is_kept() {
    let descriptors = Descriptors::load();
    let mut dump = ConfigDump::default();
    dump.configs.push(Any { type_url: "type.googleapis.com/nobody.Knows".into(), value: vec![1, 2, 255] });
    dump.configs.push(Any { type_url: "type.googleapis.com/google.protobuf.Duration".into(), value: vec![8, 3] });
    dump.configs.push(Any { type_url: Cluster::type_url(), value: vec![255] });
    let expected = json!({"configs": [
        {"@type": "type.googleapis.com/nobody.Knows", "value": "AQL/"},
        {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"},
        {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "value": "/w=="},
    ]});
    assert_eq!(descriptors.to_value(&dump, Names::Json).unwrap(), expected);
    assert!(descriptors.any_to_value(&dump.configs[2], Names::Json).is_err());
    assert_eq!(to_value(&dump.configs[0], Names::Json).unwrap(), expected["configs"][0]);
}

#[test]
fn secrets_are_not_written() {
    let descriptors = Descriptors::load();
    let secret: Secret = descriptors
        .from_value(json!({"name": "default", "tlsCertificate": {"certificateChain": {"inlineString": "open"}, "privateKey": {"inlineBytes": "a2V5"}}}))
        .unwrap();
    let expected = json!({"name": "default", "tls_certificate": {"certificate_chain": {"inline_string": "open"}, "private_key": {"inline_bytes": "[redacted]"}}});
    assert_eq!(descriptors.to_value(&secret, Names::Proto).unwrap(), expected);
    let any = Any { type_url: Secret::type_url(), value: secret.encode_to_vec() };
    assert!(!descriptors.any_to_value(&any, Names::Json).unwrap().to_string().contains("a2V5"));
}

#[test]
fn what_is_no_such_message() {
    let descriptors = Descriptors::load();
    for (value, part) in [
        (json!({"name": "a", "nane": "b"}), "nane"),
        (json!({"name": 3}), "string"),
        (json!({"connectTimeout": "soon"}), "duration"),
        (json!({"type": "STATICC"}), "STATICC"),
        (json!([]), "map"),
    ] {
        let error = descriptors.from_value::<Cluster, _>(value.clone()).unwrap_err().to_string();
        assert!(error.contains(part), "{value}: {error}");
    }
    assert!(matches!(descriptors.any_from_value("a.B", json!({})), Err(JsonError::UnknownType(_))));
    assert!(descriptors.any_from_value("envoy.config.cluster.v3.Cluster", json!({"name": "x"})).is_ok());
}

/// What this project speaks of must be among the descriptors.
#[test]
fn all_that_is_needed_is_known() {
    let descriptors = Descriptors::load();
    for name in [
        Bootstrap::full_name().as_str(),
        ConfigDump::full_name().as_str(),
        Listener::full_name().as_str(),
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        "envoy.extensions.filters.network.rbac.v3.RBAC",
        "envoy.extensions.filters.http.router.v3.Router",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "envoy.service.discovery.v3.DeltaDiscoveryResponse",
        "istio.networking.nds.v1.NameTable",
        "udpa.type.v1.TypedStruct",
        "xds.type.matcher.v3.Matcher",
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    ] {
        assert!(descriptors.knows(name), "{name}");
    }
}

#[test]
fn numbers_and_dates() {
    for (number, text) in
        [(3.0, "3"), (-0.5, "-0.5"), (1e21, "1e+21"), (f64::NAN, "\"NaN\""), (f64::NEG_INFINITY, "\"-Infinity\""), (0.0, "0")]
    {
        assert_eq!(float(number).to_string(), text);
    }
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00"),
        (951_825_599, "2000-02-29T11:59:59"),
        (-1, "1969-12-31T23:59:59"),
        (4_102_444_800, "2100-01-01T00:00:00"),
        (1_709_251_200, "2024-03-01T00:00:00"),
    ] {
        assert_eq!(date(seconds), text);
    }
    for (nanos, text) in [(0, ""), (500_000_000, ".500"), (1_000, ".000001"), (1, ".000000001")] {
        assert_eq!(fraction(nanos), text);
    }
}

/// The descriptors were made from the version of the types that is linked.
#[test]
fn descriptors_are_of_the_linked_version() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
    assert!(lock.contains(&format!("name = \"envoy-types\"\nversion = \"{}\"", env!("ENVOY_TYPES_VERSION"))));
}
