//! The proxy's environment, in Istio's names: whoever overrides a variable or reads one finds it.

use std::time::Duration;

use mizzen_api::istio::{GatewayTopology, ProxyConfig};
use serde_json::{Map, Value, json};

use super::{
    InjectConfig,
    annotations::{Template, Wanted},
    merge::Given,
    metadata::Owner,
    pod::{CONTAINERS, Pod, container_name},
};

/// All variables but those that come of the pod's probes and metrics.
pub(super) fn env(pod: &Pod, given: &Given, wanted: &Wanted, owner: &Owner, config: &InjectConfig) -> Vec<Value> {
    let values = &config.proxy;
    let text = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    // A gateway's pod has nothing but the proxy: its ports are the proxy's own.
    let own = if wanted.template == Template::Gateway { given.proxy.as_ref() } else { None };
    let programs = pod.containers(CONTAINERS).iter().filter_map(Value::as_object).chain(own);
    let programs: Vec<&Map<String, Value>> = programs.collect();
    let ports: Vec<&Value> = programs.iter().filter_map(|c| c.get("ports")).filter_map(Value::as_array).flatten().collect();
    let ports: Vec<Value> = ports.into_iter().filter_map(pod_port).collect();
    let names: Vec<&str> = programs.iter().map(|c| container_name(c)).collect();
    let mut env = vec![
        text("PILOT_CERT_PROVIDER", "istiod"),
        text("CA_ADDR", &values.ca_address),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        // All of them: by these the control plane knows of which families the proxy's listeners are to be.
        field("INSTANCE_IPS", "status.podIPs"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        json!({ "name": "ISTIO_CPU_LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } }),
        text("PROXY_CONFIG", &Value::Object(written(&wanted.proxy)).to_string()),
        text("ISTIO_META_POD_PORTS", &Value::Array(ports).to_string()),
        text("ISTIO_META_APP_CONTAINERS", &names.join(",")),
        text("ISTIO_META_CLUSTER_ID", &values.cluster_id),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        text("ISTIO_META_INTERCEPTION_MODE", wanted.interception.name()),
        text("ISTIO_META_WORKLOAD_NAME", &owner.name),
        text("ISTIO_META_OWNER", &owner.uri),
        text("ISTIO_META_MESH_ID", mesh_id(wanted, config)),
        text("TRUST_DOMAIN", config.mesh.trust_domain.as_str()),
    ];
    if !values.network.is_empty() {
        env.push(text("ISTIO_META_NETWORK", &values.network));
    }
    if config.first_party_token {
        env.push(text("JWT_POLICY", "first-party-jwt"));
    }
    let more: Vec<Value> = wanted.proxy.proxy_metadata.iter().map(|(name, value)| text(name, value)).collect();
    super::merge::items(&mut env, &more, "name");
    env
}

fn mesh_id<'a>(wanted: &'a Wanted, config: &'a InjectConfig) -> &'a str {
    let own = Some(wanted.proxy.mesh_id.as_str()).filter(|id| !id.is_empty());
    config.proxy.mesh_id.as_deref().or(own).unwrap_or(config.mesh.trust_domain.as_str())
}

/// What the control plane wants to know of a port.
fn pod_port(port: &Value) -> Option<Value> {
    let number = port.get("containerPort")?.as_u64()?;
    let mut map = Map::new();
    if let Some(name) = port.get("name").and_then(Value::as_str) {
        map.insert("name".to_owned(), name.into());
    }
    map.insert("containerPort".to_owned(), number.into());
    if let Some(protocol) = port.get("protocol").and_then(Value::as_str) {
        map.insert("protocol".to_owned(), protocol.into());
    }
    Some(map.into())
}

/// The pod's settings in protojson, as far as they are no defaults.
fn written(proxy: &ProxyConfig) -> Map<String, Value> {
    let default = ProxyConfig::default();
    let mut map = Map::new();
    let mut put = |name: &str, differs: bool, value: Value| {
        if differs {
            map.insert(name.to_owned(), value);
        }
    };
    let seconds = |time: Duration| json!(format!("{}s", time.as_secs_f64()));
    put("discoveryAddress", proxy.discovery_address != default.discovery_address, json!(proxy.discovery_address));
    put("drainDuration", proxy.drain_duration != default.drain_duration, seconds(proxy.drain_duration));
    let drain = proxy.termination_drain_duration;
    put("terminationDrainDuration", drain != default.termination_drain_duration, seconds(drain));
    put("concurrency", proxy.concurrency.is_some(), json!(proxy.concurrency));
    put("proxyMetadata", !proxy.proxy_metadata.is_empty(), json!(proxy.proxy_metadata));
    put("holdApplicationUntilProxyStarts", proxy.hold_application, json!(true));
    put("statusPort", proxy.status_port != default.status_port, json!(proxy.status_port));
    put("interceptionMode", proxy.interception != default.interception, json!(proxy.interception.name()));
    put("meshId", !proxy.mesh_id.is_empty(), json!(proxy.mesh_id));
    put("runtimeValues", !proxy.runtime_values.is_empty(), json!(proxy.runtime_values));
    let topology = topology(proxy.gateway_topology);
    put("gatewayTopology", !topology.is_empty(), Value::Object(topology));
    map
}

/// What stands before a gateway, as its agent tells the control plane; empty if nothing is said of it.
pub fn topology(topology: GatewayTopology) -> Map<String, Value> {
    let said = [
        ("numTrustedProxies", topology.trusted_proxies.map(Value::from)),
        ("forwardClientCertDetails", topology.client_cert.map(|forward| forward.name().into())),
        ("proxyProtocol", topology.proxy_protocol.filter(|expected| *expected).map(|_| json!({}))),
    ];
    said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
