//! All objects of an installation, as data: nothing here asks a cluster.

mod cni;
mod gateway;
mod pilot;
mod rbac;
mod scaled;
mod webhooks;

use std::collections::BTreeMap;

use anyhow::Result;
use mizzen_api::{Kind, crd};
use serde_json::{Value, json};

use super::{
    gateways::Border,
    overlays::{self, Overlay},
    settings::{NAMESPACE, Profile, Settings, merge},
};

pub(super) use rbac::objects as roles;
pub(super) use webhooks::validator;

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
    /// What captures pods on their nodes: there before anybody needs it.
    Cni,
    /// The control plane.
    Pilot,
    /// Policies: the control plane judges them, and they hold before anybody can come in.
    Policies,
    /// The gateways at the entrance, which the control plane has to inject.
    IngressGateways,
    /// Those at the exit.
    EgressGateways,
}

impl Component {
    /// In their order.
    pub(super) const ALL: [Component; 6] =
        [Component::Base, Component::Cni, Component::Pilot, Component::Policies, Component::IngressGateways, Component::EgressGateways];

    /// The part of a border's gateways.
    fn of(border: Border) -> Component {
        match border {
            Border::Ingress => Component::IngressGateways,
            Border::Egress => Component::EgressGateways,
        }
    }

    pub(super) fn is_gateways(self) -> bool {
        matches!(self, Component::IngressGateways | Component::EgressGateways)
    }

    /// As Istio's installer has it in labels.
    pub(super) fn name(self) -> &'static str {
        match self {
            Component::Base => "Base",
            Component::Cni => "Cni",
            Component::Pilot | Component::Policies => "Pilot",
            Component::IngressGateways => "IngressGateways",
            Component::EgressGateways => "EgressGateways",
        }
    }

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Component::Base => "kinds and roles",
            Component::Cni => "node agent",
            Component::Pilot => "control plane",
            Component::IngressGateways => "ingress gateway",
            Component::EgressGateways => "egress gateway",
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
///
/// # Errors
/// One line that names an overlay that changes nothing.
pub(super) fn objects(settings: &Settings) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut add = |component: Component, overlays: &[Overlay], mut objects: Vec<Value>| {
        overlays::apply(overlays, &mut objects)?;
        parts.extend(objects.into_iter().map(|object| Part { component, object: labelled(object, component) }));
        anyhow::Ok(())
    };
    let mut base = vec![json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } })];
    base.extend(kinds());
    base.extend(rbac::objects());
    base.push(validator());
    add(Component::Base, settings.overlays(Component::Base), base)?;
    if settings.cni {
        add(Component::Cni, settings.overlays(Component::Cni), cni::objects(settings))?;
    }
    let mut pilot = if pilot::takes_taints(settings) { rbac::untaint() } else { Vec::new() };
    pilot.push(webhooks::injector(settings));
    pilot.extend(pilot::objects(settings));
    add(Component::Pilot, settings.overlays(Component::Pilot), pilot)?;
    if settings.profile == Profile::Secure {
        add(Component::Policies, &[], closed())?;
    }
    for gateway in &settings.gateways {
        add(Component::of(gateway.border), &gateway.overlays, gateway::objects(settings, gateway))?;
    }
    Ok(parts)
}

/// For a role of this name: its rules in words, for whoever reads the manifest.
pub(super) fn reasons(name: &str) -> Vec<String> {
    [rbac::reasons(name), cni::reasons(name)].concat()
}

/// An image of a part: a name below its hub, or a whole one.
fn image(settings: &Settings, part: &str, default: &str) -> String {
    let image = settings.text(&format!("{part}.image")).unwrap_or_else(|| default.to_owned());
    if image.contains('/') {
        return image;
    }
    let hub = settings.text(&format!("{part}.hub")).unwrap_or_else(|| settings.hub.clone());
    format!("{hub}/{image}:{}", settings.text(&format!("{part}.tag")).unwrap_or_else(|| settings.tag.clone()))
}

/// The CustomResourceDefinitions of Istio's kinds.
pub(super) fn kinds() -> Vec<Value> {
    Kind::ALL.iter().filter_map(|kind| crd(*kind)).collect()
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

/// The families of addresses of a Service: those that are asked for it, else those that are for all. Without either it has the cluster's first one.
fn families(spec: &mut Value, settings: &Settings, own: impl Fn(&str) -> String) {
    for name in ["ipFamilies", "ipFamilyPolicy"] {
        let said = |path: String| settings.filled(&path).filter(|value| value.as_str() != Some(""));
        if let Some(value) = said(own(name)).or_else(|| said(format!("global.{name}"))) {
            spec[name] = value.clone();
        }
    }
}

/// What a pod's spec says of where it may run, and by whom its images are pulled, by the values of a part.
fn placed(spec: &mut Value, settings: &Settings, part: &str) {
    if let Some(class) = settings.text("global.priorityClassName") {
        spec["priorityClassName"] = json!(class);
    }
    on_nodes(spec, settings, part);
}

/// The same, of somebody whose class of priority is not the mesh's choice.
fn on_nodes(spec: &mut Value, settings: &Settings, part: &str) {
    for name in ["nodeSelector", "tolerations", "affinity", "topologySpreadConstraints"] {
        if let Some(value) = settings.filled(&format!("{part}.{name}")) {
            spec[name] = value.clone();
        }
    }
    if let Some(secrets) = settings.filled("global.imagePullSecrets").and_then(Value::as_array) {
        // Istio's charts have had both: names, and objects with a name.
        let object = |secret: &Value| if secret.is_string() { json!({ "name": secret }) } else { secret.clone() };
        spec["imagePullSecrets"] = secrets.iter().map(object).collect();
    }
}

/// Variables of a container, in the order of their names.
fn environment(settings: &Settings, path: &str) -> Vec<Value> {
    let said = settings.value(path).and_then(Value::as_object);
    let sorted: BTreeMap<&String, &Value> = said.into_iter().flatten().collect();
    sorted.into_iter().map(|(name, value)| json!({ "name": name, "value": word(value) })).collect()
}

/// A map of texts; numbers and flags are texts there, too.
fn words(settings: &Settings, path: &str) -> Value {
    let said = settings.value(path).and_then(Value::as_object);
    Value::Object(said.into_iter().flatten().map(|(name, value)| (name.clone(), json!(word(value)))).collect())
}

/// A text, a number or a flag as a text.
pub(super) fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
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
