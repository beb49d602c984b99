//! Probes of the program are asked through the agent: kubelet has no certificate, and behind the capture every TCP port is open.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    InjectError,
    pod::{CONTAINERS, INIT_CONTAINERS, Pod, container_name},
};

/// Where the agent finds the probes as they were.
const VARIABLE: &str = "ISTIO_KUBE_APP_PROBERS";

/// A probe or hook: its field, and the last part of its path.
const PROBES: [(&str, &str); 3] = [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
const HOOKS: [(&str, &str); 2] = [("postStart", "poststartz"), ("preStop", "prestopz")];

/// Turns all probes that ask by network to the agent's port, and gives the variable that has them as they were; `None`: there are none.
pub(super) fn rewrite(pod: &mut Pod, status_port: u16, warnings: &mut Vec<String>) -> Result<Option<Value>, InjectError> {
    let mut all = Map::new();
    for list in [INIT_CONTAINERS, CONTAINERS] {
        let Some(items) = pod.spec_mut()?.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in items.iter_mut().filter_map(Value::as_object_mut) {
            // Only init containers that go on running have probes.
            if list == INIT_CONTAINERS && container.get("restartPolicy").and_then(Value::as_str) != Some("Always") {
                continue;
            }
            let name = container_name(container).to_owned();
            let ports = named_ports(container);
            let mut one =
                |action: &mut Map<String, Value>, path: String, timeout: Option<Value>| match ask(action, &ports, status_port, &path) {
                    Ok(None) => {}
                    Ok(Some(mut was)) => {
                        if let Some(timeout) = timeout {
                            was.insert("timeoutSeconds".to_owned(), timeout);
                        }
                        all.insert(path, was.into());
                    }
                    Err(reason) => warnings.push(format!("container {name}: {reason}, so that this probe is not asked through the agent")),
                };
            for (field, end) in PROBES {
                if let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) {
                    let timeout = probe.get("timeoutSeconds").cloned();
                    one(probe, format!("/app-health/{name}/{end}"), timeout);
                }
            }
            for (field, end) in HOOKS {
                let hook = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(field)).and_then(Value::as_object_mut);
                if let Some(hook) = hook {
                    one(hook, format!("/app-lifecycle/{name}/{end}"), None);
                }
            }
        }
    }
    Ok((!all.is_empty()).then(|| json!({ "name": VARIABLE, "value": Value::Object(all).to_string() })))
}

/// Numbers of the container's ports by their names.
fn named_ports(container: &Map<String, Value>) -> BTreeMap<String, u64> {
    let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| Some((port.get("name")?.as_str()?.to_owned(), port.get("containerPort")?.as_u64()?))).collect()
}

/// Turns one action to the agent; what it was, with the port as a number. `None`: it does not ask by network, or asks the agent already.
fn ask(
    probe: &mut Map<String, Value>,
    ports: &BTreeMap<String, u64>,
    status_port: u16,
    path: &str,
) -> Result<Option<Map<String, Value>>, String> {
    let Some(kind) = ["httpGet", "tcpSocket", "grpc"].into_iter().find(|kind| probe.get(*kind).is_some_and(Value::is_object)) else {
        return Ok(None);
    };
    let mut was = probe.get(kind).and_then(Value::as_object).cloned().unwrap_or_default();
    let port = match was.get("port") {
        Some(Value::Number(number)) => number.as_u64(),
        // Kubernetes takes numbers in quotes for names, which have a letter: none can be meant.
        Some(Value::String(name)) => {
            Some(*ports.get(name).ok_or_else(|| format!("{kind} names port {name}, which the container does not have"))?)
        }
        _ => None,
    };
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("{kind} has no port between 1 and 65535"))?;
    if port == status_port {
        return Ok(None);
    }
    was.insert("port".to_owned(), port.into());
    probe.shift_remove(kind);
    probe.insert("httpGet".to_owned(), json!({ "path": path, "port": status_port, "scheme": "HTTP" }));
    Ok(Some(Map::from_iter([(kind.to_owned(), Value::Object(was))])))
}
