//! A pod as JSON, of which so much is sure that the rest can take it for granted.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::InjectError;

/// The name of the proxy's container.
pub(super) const PROXY: &str = "istio-proxy";
/// The name of the container that sets the capture.
pub(super) const INIT: &str = "istio-init";
/// The name of the container that looks whether the node's plugin has set the capture.
pub const VALIDATION: &str = "istio-validation";
/// The user and group of the proxy, which the capture leaves alone.
pub const PROXY_ID: u32 = 1337;

/// The lists of containers.
pub(super) const CONTAINERS: &str = "containers";
pub(super) const INIT_CONTAINERS: &str = "initContainers";

/// A pod: `metadata` and `spec` are maps, the lists of containers are lists of maps that have a name each, all different.
pub(super) struct Pod(Map<String, Value>);

pub(super) fn wrong(path: impl Into<String>, reason: impl Into<String>) -> InjectError {
    InjectError::Pod { path: path.into(), reason: reason.into() }
}

/// What a value is, for messages.
pub(super) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

impl Pod {
    pub(super) fn read(value: Value) -> Result<Pod, InjectError> {
        let Value::Object(mut pod) = value else { return Err(wrong("pod", format!("must be a map, is {}", describe(&value)))) };
        if let Some(kind) = pod.get("kind").filter(|kind| !kind.is_null() && *kind != "Pod") {
            return Err(wrong("kind", format!("must be Pod, is {kind}")));
        }
        let spec = map_of(&mut pod, "spec", "spec")?;
        if spec.get(CONTAINERS).and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(wrong("spec.containers", "must be a list of at least one container"));
        }
        let mut names = BTreeSet::new();
        for list in [CONTAINERS, INIT_CONTAINERS] {
            let path = format!("spec.{list}");
            let items = list_of(spec, list, &path)?;
            for (at, container) in items.iter().enumerate() {
                let name = container.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| wrong(format!("{path}[{at}].name"), "must be the container's name"))?;
                if !names.insert(name.to_owned()) {
                    return Err(wrong(format!("{path}[{at}].name"), format!("{name} is the name of another container too")));
                }
            }
            if items.is_empty() {
                spec.shift_remove(list);
            }
        }
        let metadata = map_of(&mut pod, "metadata", "metadata")?;
        for kind in ["labels", "annotations"] {
            let texts = map_of(metadata, kind, &format!("metadata.{kind}"))?;
            if let Some((key, value)) = texts.iter().find(|(_, value)| !value.is_string()) {
                return Err(wrong(format!("metadata.{kind}.{key}"), format!("must be a text, is {}: put it in quotes", describe(value))));
            }
        }
        Ok(Pod(pod))
    }

    pub(super) fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    pub(super) fn metadata(&self) -> &Map<String, Value> {
        at(&self.0, "metadata")
    }

    pub(super) fn spec(&self) -> &Map<String, Value> {
        at(&self.0, "spec")
    }

    pub(super) fn spec_mut(&mut self) -> Result<&mut Map<String, Value>, InjectError> {
        map_of(&mut self.0, "spec", "spec")
    }

    pub(super) fn label(&self, name: &str) -> Option<&str> {
        at(self.metadata(), "labels").get(name).and_then(Value::as_str)
    }

    pub(super) fn annotations(&self) -> &Map<String, Value> {
        at(self.metadata(), "annotations")
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations().get(name).and_then(Value::as_str)
    }

    /// The labels or annotations, to be changed.
    pub(super) fn texts_mut(&mut self, kind: &'static str) -> Result<&mut Map<String, Value>, InjectError> {
        map_of(map_of(&mut self.0, "metadata", "metadata")?, kind, &format!("metadata.{kind}"))
    }

    /// The containers of a list.
    pub(super) fn containers(&self, list: &str) -> &[Value] {
        self.spec().get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// A list of the spec, to be changed; one that is not there is made.
    pub(super) fn list_mut(&mut self, list: &str) -> Result<&mut Vec<Value>, InjectError> {
        list_of(self.spec_mut()?, list, &format!("spec.{list}"))
    }

    /// Warns of programs that run as the proxy's user: the capture takes their connections for the proxy's.
    pub(super) fn warn_of_reserved_user(&self, warnings: &mut Vec<String>) {
        let user = |of: &Map<String, Value>| of.get("securityContext").and_then(|sc| sc.get("runAsUser")).and_then(Value::as_i64);
        let of_pod = user(self.spec());
        for list in [CONTAINERS, INIT_CONTAINERS] {
            for container in self.containers(list).iter().filter_map(Value::as_object) {
                let name = container_name(container);
                if ![PROXY, INIT, VALIDATION].contains(&name) && user(container).or(of_pod) == Some(i64::from(PROXY_ID)) {
                    warnings.push(format!(
                        "container {name} runs as user {PROXY_ID}, which is the proxy's own: its connections are not captured, and go out without \
                         mutual TLS and policies"
                    ));
                }
            }
        }
    }
}

pub(super) fn container_name(container: &Map<String, Value>) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn at<'a>(map: &'a Map<String, Value>, key: &str) -> &'a Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    map.get(key).and_then(Value::as_object).unwrap_or(&EMPTY)
}

/// The map at a key, made where there is none.
pub(super) fn map_of<'a>(map: &'a mut Map<String, Value>, key: &str, path: &str) -> Result<&'a mut Map<String, Value>, InjectError> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    let described = describe(value);
    value.as_object_mut().ok_or_else(|| wrong(path, format!("must be a map, is {described}")))
}

/// The list of maps at a key, made where there is none.
pub(super) fn list_of<'a>(map: &'a mut Map<String, Value>, key: &str, path: &str) -> Result<&'a mut Vec<Value>, InjectError> {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    let described = describe(value);
    let list = value.as_array_mut().ok_or_else(|| wrong(path, format!("must be a list, is {described}")))?;
    match list.iter().position(|item| !item.is_object()) {
        Some(wrong_one) => Err(wrong(format!("{path}[{wrong_one}]"), "must be a map")),
        None => Ok(list),
    }
}
