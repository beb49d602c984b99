//! All objects of an installation, as data: nothing here asks a cluster.

mod gateway;
mod pilot;
mod rbac;
mod webhooks;

use mizzen_api::{Kind, crd};
use serde_json::{Value, json};

use super::settings::{NAMESPACE, Profile, Settings, merge};

pub(super) use rbac::reasons;

/// The label by which all that was installed is found again, and its value.
pub(super) const OWNER: (&str, &str) = ("install.operator.istio.io/owning-resource", "mizzen");
/// The label that says to which part something belongs.
pub(super) const COMPONENT: &str = "operator.istio.io/component";
/// The config map with the settings of the installation.
pub(super) const STATE: &str = "mizzen-installed-state";

/// A part of an installation, in the order in which they are made: each needs what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Component {
    /// Kinds, the namespace, and what is the whole cluster's.
    Base,
    /// The control plane.
    Pilot,
    /// Policies: the control plane judges them, and they hold before anybody can come in.
    Policies,
    /// The gateway at the entrance, which the control plane has to inject.
    IngressGateways,
}

impl Component {
    /// As Istio's installer has it in labels.
    pub(super) fn name(self) -> &'static str {
        match self {
            Component::Base | Component::Policies => "Base",
            Component::Pilot => "Pilot",
            Component::IngressGateways => "IngressGateways",
        }
    }

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Component::Base => "kinds and roles",
            Component::Pilot => "control plane",
            Component::IngressGateways => "ingress gateway",
            Component::Policies => "policies",
        }
    }
}

/// An object and the part to which it belongs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) component: Component,
    pub(super) object: Value,
}

/// All objects, in the order in which they are applied.
pub(super) fn objects(settings: &Settings) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut add = |component: Component, objects: Vec<Value>| {
        parts.extend(objects.into_iter().map(|object| Part { component, object: labelled(object, component) }));
    };
    add(Component::Base, vec![json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } })]);
    add(Component::Base, Kind::ALL.iter().filter_map(|kind| crd(*kind)).collect());
    add(Component::Base, rbac::objects(settings));
    add(Component::Base, webhooks::objects());
    add(Component::Pilot, pilot::objects(settings));
    if settings.profile == Profile::Secure {
        add(Component::Policies, closed());
    }
    if settings.profile != Profile::Minimal {
        add(Component::IngressGateways, gateway::objects(settings));
    }
    parts
}

/// What closes the mesh for whoever is not allowed in, as `mizzen up --secure` has it.
fn closed() -> Vec<Value> {
    let specs = [json!({ "mtls": { "mode": "STRICT" } }), json!({})];
    let objects = crate::up::CLOSED.into_iter().zip(specs);
    let object = |((kind, namespace, name), spec): ((Kind, &str, &str), Value)| {
        json!({
            "apiVersion": format!("{}/{}", kind.group(), kind.stored_version().unwrap_or_default()),
            "kind": kind.name(),
            "metadata": { "name": name, "namespace": namespace },
            "spec": spec,
        })
    };
    objects.map(object).collect()
}

fn labelled(mut object: Value, component: Component) -> Value {
    let labels = json!({ "metadata": { "labels": {
        COMPONENT: component.name(),
        "operator.istio.io/managed": "Reconcile",
        "operator.istio.io/version": env!("CARGO_PKG_VERSION"),
        OWNER.0: OWNER.1,
        "install.operator.istio.io/owning-resource-namespace": NAMESPACE,
        "istio.io/rev": "default",
    } } });
    merge(&mut object, labels);
    object
}

/// Metadata of something in the control plane's namespace.
fn meta(name: &str, labels: Value) -> Value {
    json!({ "name": name, "namespace": NAMESPACE, "labels": labels })
}

/// A budget by which a drained node leaves one of several.
fn budget(name: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta(name, selector.clone()),
        "spec": { "minAvailable": 1, "selector": { "matchLabels": selector } },
    })
}

/// What a pod's spec says of where it may run, by the values of a part.
fn placed(spec: &mut Value, settings: &Settings, part: &str) {
    for name in ["nodeSelector", "tolerations"] {
        if let Some(value) = settings.value(&format!("{part}.{name}")) {
            spec[name] = value.clone();
        }
    }
    if let Some(secrets) = settings.value("global.imagePullSecrets").and_then(Value::as_array) {
        // Istio's charts have had both: names, and objects with a name.
        let object = |secret: &Value| if secret.is_string() { json!({ "name": secret }) } else { secret.clone() };
        spec["imagePullSecrets"] = secrets.iter().map(object).collect();
    }
}

/// A number of replicas, one unless it is said.
fn replicas(settings: &Settings, part: &str) -> Value {
    settings.value(&format!("{part}.replicaCount")).cloned().unwrap_or_else(|| json!(1))
}

/// What a container is given at least and at most; these requests unless it is said.
fn resources(settings: &Settings, part: &str, cpu: &str, memory: &str) -> Value {
    let default = json!({ "requests": { "cpu": cpu, "memory": memory } });
    settings.value(&format!("{part}.resources")).cloned().unwrap_or(default)
}

fn annotations(settings: &Settings, path: &str) -> Value {
    settings.value(path).cloned().unwrap_or_else(|| json!({}))
}

/// `apiVersion`, `kind` and name of an object, with its namespace, for people.
pub(super) fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind").unwrap_or("object"), text("/metadata/name").unwrap_or("-"));
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests;
