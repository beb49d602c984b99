//! What the proxy is started with, and how it names itself.

use mizzen_protos::envoy::envoy::config::{
    bootstrap::v3::{Admin, Bootstrap, LayeredRuntime, RuntimeLayer, bootstrap, runtime_layer},
    cluster::v3::{Cluster, cluster},
    core::v3::{
        self as core, Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService, Http2ProtocolOptions, Node,
        Pipe, SocketAddress, address, api_config_source, config_source, grpc_service, socket_address,
    },
    endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint},
};
use mizzen_protos::wkt::{self, value::Kind};
use mizzen_types::ports;
use serde_json::Value;
use std::collections::HashMap;

use crate::{Options, SDS_SOCKET, XDS_SOCKET};

/// The version of Istio whose behaviour control planes may expect of this proxy.
const ISTIO_VERSION: &str = "1.30.0";

/// An Envoy bootstrap: the node, ADS from the relay's socket, SDS from the agent's, the admin port on localhost, and the values of the proxy's runtime.
pub fn bootstrap(options: &Options) -> Bootstrap {
    let pipe = |name: &str| options.dir.join(name).to_string_lossy().into_owned();
    let ads = ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        // What is needed to start must not be given up on while the control plane is away.
        initial_fetch_timeout: Some(wkt::Duration::default()),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        ..Default::default()
    };
    let variant = if options.delta { api_config_source::ApiType::DeltaGrpc } else { api_config_source::ApiType::Grpc };
    Bootstrap {
        node: Some(node(options)),
        static_resources: Some(bootstrap::StaticResources {
            clusters: vec![cluster("xds-grpc", pipe(XDS_SOCKET)), cluster("sds-grpc", pipe(SDS_SOCKET))],
            ..Default::default()
        }),
        dynamic_resources: Some(bootstrap::DynamicResources {
            lds_config: Some(ads.clone()),
            cds_config: Some(ads),
            ads_config: Some(ApiConfigSource {
                api_type: variant.into(),
                transport_api_version: ApiVersion::V3.into(),
                set_node_on_first_message_only: true,
                grpc_services: vec![GrpcService {
                    target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
                        cluster_name: "xds-grpc".to_owned(),
                        ..Default::default()
                    })),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
        admin: Some(Admin {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: "127.0.0.1".to_owned(),
                    port_specifier: Some(socket_address::PortSpecifier::PortValue(ports::ADMIN.into())),
                    ..Default::default()
                })),
            }),
            ..Default::default()
        }),
        layered_runtime: runtime(options),
        ..Default::default()
    }
}

/// The layers that Istio's have where the proxy's settings (`PROXY_CONFIG` in the node's metadata) have `runtimeValues`; an empty value is none.
fn runtime(options: &Options) -> Option<LayeredRuntime> {
    let values = options.metadata.get("PROXY_CONFIG")?.get("runtimeValues")?.as_object()?;
    let typed = |given: &Value| match given.as_str() {
        Some("") => None,
        // What is a switch Envoy does not take as a text.
        Some("true") => Some(Value::Bool(true)),
        Some("false") => Some(Value::Bool(false)),
        _ => Some(given.clone()),
    };
    let fields: HashMap<_, _> = values.iter().filter_map(|(key, given)| Some((key.clone(), value(&typed(given)?)))).collect();
    let layer = |name: &str, of| RuntimeLayer { name: name.to_owned(), layer_specifier: Some(of) };
    (!fields.is_empty()).then(|| LayeredRuntime {
        layers: vec![
            layer("global config", runtime_layer::LayerSpecifier::StaticLayer(wkt::Struct { fields })),
            layer("admin", runtime_layer::LayerSpecifier::AdminLayer(runtime_layer::AdminLayer {})),
        ],
    })
}

/// The node: `sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN`, with Istio's metadata.
pub fn node(options: &Options) -> Node {
    let ip = options.instance_ips.first().map(ToString::to_string).unwrap_or_default();
    let (pod, ns, domain) = (&options.pod_name, &options.namespace, &options.domain);
    let app = options.labels.get("app").or_else(|| options.labels.get("service.istio.io/canonical-name"));
    let metadata = metadata(options);
    let app = app.map(String::as_str).or_else(|| metadata.get("WORKLOAD_NAME").and_then(Value::as_str)).unwrap_or("istio-proxy");
    Node {
        id: format!("{}~{ip}~{pod}.{ns}~{ns}.svc.{domain}", options.proxy_type.as_str()),
        cluster: format!("{app}.{ns}"),
        metadata: Some(structure(&metadata)),
        locality: Some(core::Locality::default()),
        ..Default::default()
    }
}

/// The metadata; what was set in the environment wins over what follows from the rest.
fn metadata(options: &Options) -> serde_json::Map<String, Value> {
    let text = |t: &str| Value::String(t.to_owned());
    let ips: Vec<String> = options.instance_ips.iter().map(ToString::to_string).collect();
    let mut all = serde_json::Map::new();
    let dns = if options.dns.is_some() { "true" } else { "" };
    for (key, value) in [
        ("NAME", options.pod_name.as_str()),
        ("NAMESPACE", &options.namespace),
        ("SERVICE_ACCOUNT", &options.service_account),
        ("INSTANCE_IPS", &ips.join(",")),
        ("CLUSTER_ID", "Kubernetes"),
        ("MESH_ID", options.trust_domain.as_str()),
        ("ISTIO_VERSION", ISTIO_VERSION),
        ("INTERCEPTION_MODE", "REDIRECT"),
        ("DNS_CAPTURE", dns),
    ] {
        if !value.is_empty() {
            all.insert(key.to_owned(), text(value));
        }
    }
    all.insert("LABELS".to_owned(), Value::Object(options.labels.iter().map(|(k, v)| (k.clone(), text(v))).collect()));
    all.extend(options.metadata.iter().map(|(k, v)| (k.clone(), v.clone())));
    if !all.contains_key("WORKLOAD_NAME") {
        // A Deployment's pods are NAME-HASH-ID; without being told, the pod's own name is the honest answer.
        all.insert("WORKLOAD_NAME".to_owned(), text(&options.pod_name));
    }
    all
}

fn structure(map: &serde_json::Map<String, Value>) -> wkt::Struct {
    let fields: HashMap<String, wkt::Value> = map.iter().map(|(k, v)| (k.clone(), value(v))).collect();
    wkt::Struct { fields }
}

fn value(json: &Value) -> wkt::Value {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(a) => Kind::ListValue(wkt::ListValue { values: a.iter().map(value).collect() }),
        Value::Object(o) => Kind::StructValue(structure(o)),
    };
    wkt::Value { kind: Some(kind) }
}

/// A static cluster of one Unix socket, spoken to in HTTP/2.
fn cluster(name: &str, pipe: String) -> Cluster {
    let endpoint =
        Endpoint { address: Some(Address { address: Some(address::Address::Pipe(Pipe { path: pipe, mode: 0 })) }), ..Default::default() };
    // Deprecated in Envoy's protos in favour of a typed extension, and understood by all: a bootstrap must load everywhere.
    #[allow(deprecated)]
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into())),
        connect_timeout: Some(wkt::Duration { seconds: 1, nanos: 0 }),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![LbEndpoint {
                    host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}
