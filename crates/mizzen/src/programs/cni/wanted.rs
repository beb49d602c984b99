//! Which pods' connections are captured, and how: by what injection has written on them.

use std::collections::BTreeMap;

use mizzen_capture::{Dns, Owner, Settings};
use mizzen_control::inject::{DNS_CAPTURE, PROXY_ID, STATUS, VALIDATION};
use serde_json::Value;

use crate::programs::iptables::DNS_PORT;

/// Annotations of a pod.
pub(super) type Annotations = BTreeMap<String, String>;

/// What is to be captured of a pod; `None`: nothing, since it has no sidecar, or sets the capture itself.
///
/// # Errors
/// If the annotations are not what injection writes: the pod must not run.
pub(super) fn wanted(annotations: &Annotations) -> Result<Option<Settings>, String> {
    let Some(text) = annotations.get(STATUS) else { return Ok(None) };
    let status: Value = serde_json::from_str(text).map_err(|error| format!("annotation {STATUS}: {error}"))?;
    // A gateway has no such container, and neither has a pod that was injected while its own container set the capture.
    let looks = status["initContainers"].as_array().is_some_and(|names| names.iter().any(|name| name == VALIDATION));
    if !looks {
        return Ok(None);
    }
    let settings = Settings::from_annotations(annotations).map_err(|error| error.to_string())?;
    // Which servers the pod asks for names is not known before its containers start.
    let dns = (status[DNS_CAPTURE] == true).then_some(Dns { port: DNS_PORT, servers: None });
    Ok(Some(Settings { owner: Owner::User { uid: PROXY_ID, gid: PROXY_ID }, dns, ..settings }))
}

#[cfg(test)]
pub(super) mod tests {
    use mizzen_api::istio::MeshConfig;
    use mizzen_capture::{Ports, Ranges};
    use mizzen_control::inject::{InjectConfig, NamespaceFacts, Outcome, inject};
    use serde_json::json;

    use super::*;
    use crate::programs::iptables::tests::of_words;

    /// A pod with these annotations, after injection into a mesh with these settings and values.
    fn pod(mesh: &str, own: &Value, values: &Value) -> Value {
        let (mesh, _) = mizzen_api::parse_mesh_config(mesh, &"mesh".into()).unwrap();
        let mesh: MeshConfig = mesh;
        let config = InjectConfig::new(&mesh, values, true).unwrap();
        let pod = json!({ "metadata": { "name": "a", "annotations": own }, "spec": { "containers": [{ "name": "a", "image": "a" }] } });
        let namespace = NamespaceFacts { name: "shop".into(), ..NamespaceFacts::default() };
        match inject(&pod, &namespace, &config).unwrap() {
            Outcome::Patched { pod, .. } => pod,
            Outcome::Skip(_) => pod,
        }
    }

    fn annotations(pod: &Value) -> Annotations {
        serde_json::from_value(pod["metadata"]["annotations"].clone()).unwrap()
    }

    const NAMES: &str = "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true'}}";

    /// The annotations of a pod with these, after injection with these values, where names are captured.
    pub(in super::super) fn injected(own: Value, values: Value) -> Annotations {
        annotations(&pod(NAMES, &own, &values))
    }

    pub(in super::super) fn by_plugin() -> Value {
        json!({ "pilot": { "cni": { "enabled": true } } })
    }

    fn user() -> Settings {
        Settings { owner: Owner::User { uid: 1337, gid: 1337 }, ..Settings::default() }
    }

    #[test]
    fn what_injection_writes_is_understood() {
        let dns = Some(Dns { port: 15053, servers: None });
        let all = Settings { exclude_inbound: vec![15090, 15021, 15020], dns, ..user() };
        assert_eq!(wanted(&injected(json!({}), by_plugin())), Ok(Some(all.clone())));
        let own = json!({
            "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8,fd00::/8", "traffic.sidecar.istio.io/includeInboundPorts": "80",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "25", "traffic.sidecar.istio.io/includeOutboundPorts": "3306",
        });
        let some = Settings {
            include_ranges: Ranges::Only(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]),
            include_inbound: Ports::Only(vec![80]),
            exclude_outbound: vec![25],
            include_outbound: vec![3306],
            ..all
        };
        assert_eq!(wanted(&injected(own, by_plugin())), Ok(Some(some)));
    }

    /// What a container of a pod says to `istio-iptables`, by its arguments and its environment.
    fn said(pod: &Value, container: &str) -> Settings {
        let containers = pod["spec"]["initContainers"].as_array().unwrap();
        let container = containers.iter().find(|found| found["name"] == container).unwrap();
        let words: Vec<&str> = container["args"].as_array().unwrap().iter().skip(1).map(|word| word.as_str().unwrap()).collect();
        // No test changes the environment of its process: what stands there a flag says, too.
        let names = container["env"].as_array().into_iter().flatten().find(|variable| variable["name"] == "ISTIO_META_DNS_CAPTURE");
        let names = names.map(|variable| format!("--redirect-dns={}", variable["value"].as_str().unwrap()));
        of_words(words.into_iter().chain(names.as_deref())).unwrap()
    }

    /// Whoever sets a pod's capture, its own container or its node, sets the same; but that a node does not know the pod's servers of names.
    #[test]
    fn a_node_captures_what_a_pods_own_container_does() {
        let names = |text: &str| json!({ "proxy.istio.io/config": format!("{{proxyMetadata: {{ISTIO_META_DNS_CAPTURE: '{text}'}}}}") });
        let more = json!({
            "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8,fd00::/8", "traffic.sidecar.istio.io/excludeOutboundIPRanges": "fd00:1::/32",
            "traffic.sidecar.istio.io/includeInboundPorts": "80,443", "traffic.sidecar.istio.io/excludeOutboundPorts": "25",
            "traffic.sidecar.istio.io/includeOutboundPorts": "3306", "status.sidecar.istio.io/port": "16020",
        });
        let none = json!({ "traffic.sidecar.istio.io/includeInboundPorts": "", "traffic.sidecar.istio.io/includeOutboundIPRanges": "" });
        let transparent = json!({ "sidecar.istio.io/interceptionMode": "TPROXY" });
        let of_all = json!({ "global": { "proxy": { "includeIPRanges": "172.16.0.0/12", "excludeInboundPorts": "22" } } });
        for (mesh, own, values, captures) in [
            ("{}", json!({}), json!({}), false),
            (NAMES, json!({}), json!({}), true),
            (NAMES, names("false"), json!({}), false),
            (NAMES, names(""), json!({}), false),
            ("{}", names("true"), of_all.clone(), true),
            ("{}", more.clone(), json!({}), false),
            (NAMES, more, of_all, true),
            (NAMES, none, json!({}), true),
            (NAMES, transparent, json!({}), true),
            ("defaultConfig: {interceptionMode: TPROXY}", json!({}), json!({}), false),
        ] {
            let mut by_node = values.clone();
            by_node["pilot"] = by_plugin()["pilot"].clone();
            let by_node = pod(mesh, &own, &by_node);
            let mut itself = said(&pod(mesh, &own, &values), "istio-init");
            assert_eq!(itself.dns.is_some(), captures, "{mesh} {own}");
            itself.dns.iter_mut().for_each(|dns| dns.servers = None);
            assert_eq!(wanted(&annotations(&by_node)), Ok(Some(itself.clone())), "{mesh} {own} {values}");
            // Who looks looks for that.
            assert_eq!(said(&by_node, VALIDATION), Settings { dns: None, ..itself }, "{mesh} {own} {values}");
        }
    }

    #[test]
    fn who_is_left_alone() {
        assert_eq!(wanted(&Annotations::new()), Ok(None));
        assert_eq!(wanted(&injected(json!({ "sidecar.istio.io/inject": "false" }), by_plugin())), Ok(None));
        assert_eq!(wanted(&injected(json!({ "inject.istio.io/templates": "gateway" }), by_plugin())), Ok(None));
        // Its istio-init does it.
        assert_eq!(wanted(&injected(json!({}), json!(null))), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_no_reason_to_leave_a_pod_alone() {
        let mut annotations = injected(json!({}), by_plugin());
        annotations.insert("traffic.sidecar.istio.io/excludeInboundPorts".to_owned(), "http".to_owned());
        let why = wanted(&annotations).unwrap_err();
        assert!(why.contains("`http` is not a port"), "{why}");
        annotations.insert(STATUS.to_owned(), "{".to_owned());
        assert!(wanted(&annotations).unwrap_err().starts_with("annotation sidecar.istio.io/status: "));
    }
}
