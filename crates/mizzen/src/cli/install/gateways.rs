//! The gateways of an installation: which there are, and what each of them is, by `components.ingressGateways` and `components.egressGateways`.

use anyhow::{Context, Result, bail, ensure};
use mizzen_api::{label_name, label_text};
use serde_json::{Map, Value, json};

use super::{
    manifest,
    overlays::{self, Overlay},
    settings::{NAMESPACE, Profile},
    values::{
        self, EVICTION, FAMILIES, POLICY, SERVICE, Shape,
        Shape::{Count, List, Only, Share, Text, Words},
        TRAFFIC, Table,
    },
};

/// At which border of the mesh a gateway stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Border {
    /// Others come in.
    Ingress,
    /// The mesh's own programs go out.
    Egress,
}

impl Border {
    pub(super) const ALL: [Border; 2] = [Border::Ingress, Border::Egress];

    /// Its list in the settings.
    pub(super) fn list(self) -> &'static str {
        match self {
            Border::Ingress => "ingressGateways",
            Border::Egress => "egressGateways",
        }
    }

    /// The name of the gateway that a profile has there, below which the values of all gateways of this border stand.
    pub(super) fn name(self) -> &'static str {
        match self {
            Border::Ingress => "istio-ingressgateway",
            Border::Egress => "istio-egressgateway",
        }
    }

    /// Istio's label `istio` of its pods, by which Gateways select them.
    fn role(self) -> &'static str {
        match self {
            Border::Ingress => "ingressgateway",
            Border::Egress => "egressgateway",
        }
    }
}

/// A gateway that is installed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gateway {
    pub(super) border: Border,
    /// Its place in the settings, for people.
    pub(super) at: String,
    pub(super) name: String,
    pub(super) namespace: String,
    /// Of all its objects.
    pub(super) labels: Value,
    /// Where its values stand among those of the settings.
    pub(super) values: String,
    /// What is changed of its objects.
    pub(super) overlays: Vec<Overlay>,
}

impl Gateway {
    /// The labels by which its own objects find its pods. Kubernetes lets nobody change them, so that they are no more than these.
    pub(super) fn selector(&self) -> Value {
        json!({ "app": self.labels["app"], "istio": self.labels["istio"] })
    }
}

/// Whether values say that gateways of a border are installed which do not say it themselves.
pub(super) fn enabled(values: &Value, border: Border) -> Option<bool> {
    values.pointer(&format!("/gateways/{}/enabled", border.name())).and_then(Value::as_bool)
}

/// The lists of a profile, where values do not say otherwise.
pub(super) fn of_profile(profile: Profile, values: &Value) -> Value {
    let list = |border: Border, is_default: bool| {
        let enabled = enabled(values, border).unwrap_or(is_default);
        json!([{ "name": border.name(), "enabled": enabled }])
    };
    json!({
        (Border::Ingress.list()): list(Border::Ingress, profile != Profile::Minimal),
        (Border::Egress.list()): list(Border::Egress, false),
    })
}

/// Labels that say what an object is for the installer and the injector.
const OWN_LABELS: [&str; 7] = [
    manifest::COMPONENT,
    manifest::OWNER.0,
    "install.operator.istio.io/owning-resource-namespace",
    "istio.io/rev",
    "operator.istio.io/managed",
    "operator.istio.io/version",
    "sidecar.istio.io/inject",
];

/// The gateways of both lists that are enabled. Of `values` what was said; `complete` gets each one's own, those of its border with its `k8s` over them.
///
/// # Errors
/// One line that names what is not known, not good, or another gateway's.
pub(super) fn read(lists: &Value, values: &Value, complete: &mut Value) -> Result<Vec<Gateway>> {
    let mut found: Vec<Gateway> = Vec::new();
    for border in Border::ALL {
        let said = &lists[border.list()];
        let list = said.as_array().with_context(|| format!("components.{}: must be a list", border.list()))?;
        for (n, entry) in list.iter().enumerate() {
            let at = format!("components.{}[{n}]", border.list());
            let is_default = enabled(values, border).unwrap_or(true);
            let Some((gateway, k8s)) = one(border, at, n, entry, is_default)? else { continue };
            ensure_alone(&gateway, &found)?;
            let common = |name: &str| values.pointer(&format!("/gateways/{}/{name}", border.name()));
            let mut own = complete["gateways"][border.name()].clone();
            // Whoever says how it is scaled wants it to be.
            if k8s.get("hpaSpec").is_some_and(Value::is_object) && common("autoscaleEnabled") != Some(&json!(false)) {
                own["autoscaleEnabled"] = json!(true);
            }
            let over = as_values(&gateway, &k8s)?;
            forget_variables(&mut own, &over["env"]);
            values::overlay(&mut own, &over);
            ensure_one_on_each_node(&gateway, &own)?;
            *values::place(complete, &gateway.values) = own;
            found.push(gateway);
        }
    }
    Ok(found)
}

/// Refuses a number of pods where each node has one.
fn ensure_one_on_each_node(gateway: &Gateway, own: &Value) -> Result<()> {
    let counts = own["autoscaleEnabled"] == true || !(own["replicaCount"].is_null() || own["replicaCount"] == 1);
    let (at, border) = (&gateway.at, gateway.border.name());
    ensure!(
        own["kind"] != "DaemonSet" || !counts,
        "{at}: values.gateways.{border}.kind: a DaemonSet has a pod on each node: autoscaleEnabled, hpaSpec and replicaCount must not be said with it"
    );
    Ok(())
}

/// One entry of a list, with its `k8s`. None if it is not enabled; what is wrong in it is wrong all the same.
fn one(border: Border, at: String, n: usize, said: &Value, is_default: bool) -> Result<Option<(Gateway, Value)>> {
    let Value::Object(fields) = said else { bail!("{at}: must be a map") };
    for name in fields.keys() {
        let known = ["name", "namespace", "enabled", "label", "k8s"].contains(&name.as_str());
        ensure!(known, "{at}.{name} is not supported: must be name, namespace, enabled, label or k8s");
    }
    let said = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let name = label_of(&at, "name", said("name"))?.unwrap_or(border.name()).to_owned();
    let namespace = label_of(&at, "namespace", said("namespace"))?.unwrap_or(NAMESPACE).to_owned();
    let enabled =
        said("enabled").map_or(Some(is_default), Value::as_bool).with_context(|| format!("{at}.enabled: must be true or false"))?;
    let mut labels = json!({ "app": name, "istio": border.role() });
    let label = said("label").cloned().unwrap_or_else(|| json!({}));
    let label = label.as_object().with_context(|| format!("{at}.label: must be a map of texts"))?;
    for (key, value) in label {
        ensure!(!OWN_LABELS.contains(&key.as_str()), "{at}.label: {key} is the installer's own: must be another label");
        let is_word = value.is_string() || value.is_number() || value.is_boolean();
        ensure!(is_word, "{at}.label: must be a map of texts");
        let word = manifest::word(value);
        ensure!(
            label_name(key),
            "{at}.label: {key} is no label name: must be letters, digits, -, _ and ., at most 63, after an optional domain/"
        );
        ensure!(label_text(&word), "{at}.label: {key}: {word} is no label value: must be letters, digits and inner -, _ and ., at most 63");
        let selects = key == "app" || key == "istio";
        ensure!(!selects || !word.is_empty(), "{at}.label: {key} is empty: must be a text by which the gateway's pods are found");
        labels[key] = json!(word);
    }
    let k8s = said("k8s").cloned().unwrap_or_else(|| json!({}));
    let values = format!("components.{}.{n}", border.list());
    let mut gateway = Gateway { border, at, name, namespace, labels, values, overlays: Vec::new() };
    judge(&gateway, &k8s)?;
    gateway.overlays = overlays::read(&format!("{}.k8s.overlays", gateway.at), &k8s["overlays"])?;
    Ok(enabled.then_some((gateway, k8s)))
}

/// A name of Kubernetes', if it is said.
fn label_of<'a>(at: &str, field: &str, said: Option<&'a Value>) -> Result<Option<&'a str>> {
    let Some(said) = said else { return Ok(None) };
    let text = said.as_str().with_context(|| format!("{at}.{field}: must be a text"))?;
    // A Service's name begins with a letter.
    let begins = |first: char| first.is_ascii_lowercase() || field == "namespace" && first.is_ascii_digit();
    let is_name = text.len() <= 63
        && text.starts_with(begins)
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    // Istio takes an empty one for none.
    ensure!(
        text.is_empty() || is_name,
        "{at}.{field}: {text}: must be a letter and then small letters, digits and -, 63 at most, as payments"
    );
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Refuses a gateway whose objects, or whose pods, would be another one's too.
fn ensure_alone(gateway: &Gateway, others: &[Gateway]) -> Result<()> {
    let Gateway { at, name, namespace, .. } = gateway;
    let control = (NAMESPACE, "istiod", json!({ "app": "istiod", "istio": "pilot" }), "the control plane");
    let others = others.iter().map(|other| (&*other.namespace, &*other.name, other.selector(), &*other.at));
    for (its_namespace, its_name, selector, whose) in std::iter::once(control).chain(others) {
        if namespace != its_namespace {
            continue;
        }
        ensure!(name != its_name, "{at}.name: {namespace}/{name} is {whose}: must be another name, or in another namespace");
        ensure!(
            gateway.selector() != selector,
            "{at}.label: app and istio are those of {namespace}/{its_name}, so that each one's Service would lead to the pods of both: \
             one of the two must be another"
        );
    }
    Ok(())
}

/// What `k8s` may say, what that may be, and the value that it is (empty: it is translated by hand).
const K8S: &[(&str, Shape, &str)] = &[
    ("affinity", Shape::Map, "affinity"),
    ("env", List, ""),
    ("hpaSpec.behavior", Shape::Map, "autoscaleBehavior"),
    ("hpaSpec.maxReplicas", Count, "autoscaleMax"),
    ("hpaSpec.metrics", List, ""),
    ("hpaSpec.minReplicas", Count, "autoscaleMin"),
    ("hpaSpec.scaleTargetRef", Shape::Map, ""),
    ("imagePullPolicy", Only(&[r#""Always""#, r#""IfNotPresent""#, r#""Never""#]), "imagePullPolicy"),
    ("nodeSelector", Words, "nodeSelector"),
    ("overlays", List, ""),
    ("podAnnotations", Words, "podAnnotations"),
    ("podDisruptionBudget.maxUnavailable", Share, "podDisruptionBudget.maxUnavailable"),
    ("podDisruptionBudget.minAvailable", Share, "podDisruptionBudget.minAvailable"),
    ("podDisruptionBudget.unhealthyPodEvictionPolicy", EVICTION, "podDisruptionBudget.unhealthyPodEvictionPolicy"),
    ("priorityClassName", Text, "priorityClassName"),
    ("replicaCount", Count, "replicaCount"),
    ("resources", Shape::Map, "resources"),
    ("service.externalTrafficPolicy", TRAFFIC, "externalTrafficPolicy"),
    ("service.ipFamilies", FAMILIES, "ipFamilies"),
    ("service.ipFamilyPolicy", POLICY, "ipFamilyPolicy"),
    ("service.loadBalancerIP", Text, "loadBalancerIP"),
    ("service.loadBalancerSourceRanges", List, "loadBalancerSourceRanges"),
    ("service.ports", List, "ports"),
    ("service.type", SERVICE, "type"),
    ("serviceAnnotations", Words, "serviceAnnotations"),
    ("strategy.rollingUpdate.maxSurge", Share, "rollingMaxSurge"),
    ("strategy.rollingUpdate.maxUnavailable", Share, "rollingMaxUnavailable"),
    ("strategy.type", Only(&[r#""RollingUpdate""#]), ""),
    ("tolerations", List, "tolerations"),
    ("volumeMounts", List, "volumeMounts"),
    ("volumes", List, "volumes"),
];

/// Refuses in `k8s` what nothing acts on, and what is not what it has to be.
fn judge(gateway: &Gateway, k8s: &Value) -> Result<()> {
    let at = format!("{}.k8s", gateway.at);
    let rows = K8S.iter().map(|(path, shape, _)| ((*path).to_owned(), *shape)).collect();
    Table { at: at.clone(), rows, is_small: true }.judge(k8s)?;
    values::one_bound(|| format!("{at}.podDisruptionBudget"), &k8s["podDisruptionBudget"])?;
    as_values(gateway, k8s).map(drop)
}

/// `k8s` as values, to be laid over those of the gateway's border.
fn as_values(gateway: &Gateway, k8s: &Value) -> Result<Value> {
    let at = format!("{}.k8s", gateway.at);
    let mut values = json!({});
    let said = |path: &str| k8s.pointer(&format!("/{}", path.replace('.', "/"))).filter(|value| !value.is_null());
    for (path, _, value) in K8S.iter().filter(|(_, _, value)| !value.is_empty()) {
        if let Some(said) = said(path) {
            *values::place(&mut values, value) = said.clone();
        }
    }
    // Of the two bounds of a budget this one takes the other's place.
    for (bound, other) in [("minAvailable", "maxUnavailable"), ("maxUnavailable", "minAvailable")] {
        if said(&format!("podDisruptionBudget.{bound}")).is_some() {
            values["podDisruptionBudget"][other] = Value::Null;
        }
    }
    if let Some(list) = said("env").and_then(Value::as_array) {
        environment(&at, list, &mut values)?;
    }
    if let Some(list) = said("hpaSpec.metrics").and_then(Value::as_array) {
        metrics(&at, list, &mut values)?;
    }
    if let Some(target) = said("hpaSpec.scaleTargetRef") {
        let own = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": gateway.name });
        let name = &gateway.name;
        ensure!(*target == own, "{at}.hpaSpec.scaleTargetRef: must be Deployment {name} of apps/v1, which is the gateway's own");
    }
    Ok(values)
}

/// Variables as Kubernetes writes them: those with a value take the places of values' own of the same names.
fn environment(at: &str, list: &[Value], values: &mut Value) -> Result<()> {
    let (mut plain, mut others) = (Map::new(), Vec::new());
    for (n, variable) in list.iter().enumerate() {
        let at = format!("{at}.env[{n}]");
        let fields = variable.as_object().with_context(|| format!("{at}: must be a map with name and value"))?;
        for field in fields.keys() {
            ensure!(
                ["name", "value", "valueFrom"].contains(&field.as_str()),
                "{at}.{field} is not supported: must be name, value or valueFrom"
            );
        }
        let name = variable["name"].as_str().filter(|name| !name.is_empty()).with_context(|| format!("{at}.name: must be a text"))?;
        ensure!(!plain.contains_key(name), "{at}.name: {name} is there twice: must be another variable");
        match (fields.get("value"), fields.get("valueFrom")) {
            (Some(_), Some(_)) => bail!("{at}: must have one of value and valueFrom"),
            (_, Some(from)) => {
                ensure!(from.is_object(), "{at}.valueFrom: must be a map");
                others.push(variable.clone());
                plain.insert(name.to_owned(), Value::Null);
            }
            (None | Some(Value::Null), None) => drop(plain.insert(name.to_owned(), json!(""))),
            (Some(value), None) => {
                let is_word = value.is_string() || value.is_number() || value.is_boolean();
                ensure!(is_word, "{at}.value: must be a text");
                plain.insert(name.to_owned(), value.clone());
            }
        }
    }
    values["env"] = Value::Object(plain);
    if !others.is_empty() {
        values["envVarFrom"] = json!(others);
    }
    Ok(())
}

/// Takes what these variables take the places of out of those with other sources.
fn forget_variables(values: &mut Value, env: &Value) {
    if let Some(list) = values.get_mut("envVarFrom").and_then(Value::as_array_mut) {
        list.retain(|variable| variable["name"].as_str().is_none_or(|name| env.get(name).is_none()));
    }
}

/// What the gateway is scaled by, in the place of what values say.
fn metrics(at: &str, list: &[Value], values: &mut Value) -> Result<()> {
    values["cpu"] = Value::Null;
    values["memory"] = Value::Null;
    for (n, metric) in list.iter().enumerate() {
        let name = metric.pointer("/resource/name").and_then(Value::as_str).filter(|name| ["cpu", "memory"].contains(name));
        let share = metric.pointer("/resource/target/averageUtilization").and_then(Value::as_u64);
        let known = name.zip(share).filter(|(name, share)| {
            let target = json!({ "type": "Utilization", "averageUtilization": share });
            *metric == json!({ "type": "Resource", "resource": { "name": name, "target": target } })
        });
        let (name, share) = known.with_context(|| {
            format!(
                "{at}.hpaSpec.metrics[{n}]: must be the utilization of cpu or memory, as \
                 {{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 80}}}}}}"
            )
        })?;
        values[name] = json!({ "targetAverageUtilization": share });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
