//! The settings of one proxy: the mesh's, and over them those of its pod's annotation.

use std::collections::BTreeMap;

use mizzen_api::{Key, Kind, Object, Problem, istio::ProxyConfig};
use serde_json::{Map, Value, json};

use super::{
    desired::{Objects, Wanted},
    proxy::Role,
};

/// The annotation with which a pod's proxy is set.
const SETTINGS: &str = "proxy.istio.io/config";

/// What a pod's annotation says of its proxy, with a line for each part that is not acted on.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn own(annotations: &BTreeMap<String, String>) -> Result<(ProxyConfig, Vec<String>), String> {
    over(ProxyConfig::default(), annotations)
}

fn over(base: ProxyConfig, annotations: &BTreeMap<String, String>) -> Result<(ProxyConfig, Vec<String>), String> {
    let text = annotations.get(SETTINGS).map(String::as_str).filter(|text| !text.trim().is_empty());
    let Some(text) = text else { return Ok((base, Vec::new())) };
    let read = mizzen_api::parse_proxy_config(text, &base, &"".into());
    let say = |problem: &Problem| format!("{SETTINGS}: {problem}");
    read.map(|(read, told)| (read, told.iter().map(say).collect())).map_err(|all| all.first().map(say).unwrap_or_default())
}

/// What a proxy's agent is told of its settings, in protojson. What stands before a gateway is told only as far as its own annotation says so: over
/// MeshConfig's, which may change while it runs, the control plane lays that.
///
/// # Errors
/// What is wrong with the annotation.
pub(crate) fn told(objects: &Objects, pod: &Wanted, role: Role) -> Result<Map<String, Value>, String> {
    let mesh = match objects.get(&Key::new(Kind::MeshConfig, "istio-system", "istio")).map(|object| &**object) {
        Some(Object::MeshConfig(mesh)) => mesh.default_config.runtime_values.clone(),
        _ => BTreeMap::new(),
    };
    let (settings, _) = over(ProxyConfig { runtime_values: mesh, ..ProxyConfig::default() }, &pod.annotations)?;
    let mut map = Map::new();
    if !settings.runtime_values.is_empty() {
        map.insert("runtimeValues".to_owned(), json!(settings.runtime_values));
    }
    let topology = mizzen_control::inject::gateway_topology(settings.gateway_topology);
    if role == Role::Router && !topology.is_empty() {
        map.insert("gatewayTopology".to_owned(), Value::Object(topology));
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use mizzen_api::{core::PodSpec, istio::GatewayTopology};

    use super::*;

    #[test]
    fn of_one_annotation() {
        let read = |text: &str| own(&[(SETTINGS.to_owned(), text.to_owned())].into());
        assert_eq!(read(" ").map(|(read, told)| (read.gateway_topology, told)), Ok((GatewayTopology::default(), Vec::new())));
        let (read_well, told) = read("gatewayTopology: {numTrustedProxies: 2}\nconcurrency: 4").expect("settings");
        assert_eq!(read_well.gateway_topology.trusted_proxies, Some(2));
        assert!(told.len() == 1 && told[0].contains("proxy.istio.io/config: ") && told[0].contains("concurrency"), "{told:?}");
        assert!(read("gatewayTopology: {numTrustedProxies: many}").is_err_and(|e| e.starts_with("proxy.istio.io/config: ")));
        let limit = "runtimeValues: {overload.global_downstream_max_connections: few}";
        assert!(read(limit).is_err_and(|e| e.contains("must be a number of connections")));
    }

    #[test]
    fn of_the_mesh_and_of_the_pod() {
        let check = |mesh: &str, annotation: &str, role: Role, expected: Value| {
            let (mesh, _) = mizzen_api::parse_mesh_config(mesh, &"mesh.yaml".into()).expect("settings");
            let object = Object::from(mesh);
            let objects = Objects::from([(object.key(), object.into())]);
            let pod = Wanted {
                name: "a-0".to_owned(),
                namespace: "shop".to_owned(),
                workload: "a".to_owned(),
                labels: BTreeMap::new(),
                annotations: [(SETTINGS.to_owned(), annotation.to_owned())].into(),
                spec: PodSpec::default(),
                is_gateway: role == Role::Router,
            };
            assert_eq!(told(&objects, &pod, role).map(Value::Object), Ok(expected), "{annotation}");
        };
        let mesh = "defaultConfig: {runtimeValues: {a: '1', b: ''}, gatewayTopology: {numTrustedProxies: 1}}\n";
        check("rootNamespace: istio-system\n", "", Role::Sidecar, json!({}));
        check(mesh, "", Role::Router, json!({ "runtimeValues": { "a": "1", "b": "" } }));
        // One of its own takes the place of all of them.
        check(mesh, "runtimeValues: {c: '3'}", Role::Sidecar, json!({ "runtimeValues": { "c": "3" } }));
        let trusted = "gatewayTopology: {numTrustedProxies: 2}";
        let topology = json!({ "numTrustedProxies": 2 });
        check(mesh, trusted, Role::Router, json!({ "runtimeValues": { "a": "1", "b": "" }, "gatewayTopology": topology }));
        check("rootNamespace: istio-system\n", trusted, Role::Sidecar, json!({}));
    }
}
