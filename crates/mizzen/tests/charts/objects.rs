//! Objects of an installation, without what only says who installed them, and where two installations differ.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// Objects by kind, namespace and name.
pub(crate) struct Objects(BTreeMap<String, Value>);

impl Objects {
    /// What `mizzen manifest generate` prints. The namespace is made by whoever calls Helm, and the memory of the installer is the release of Helm.
    pub(crate) fn of_installer(text: &str) -> Objects {
        let mut objects = Objects::read(text);
        for own in ["Namespace istio-system", "ConfigMap istio-system/mizzen-installed-state"] {
            assert!(objects.0.remove(own).is_some(), "no {own}");
        }
        for (title, object) in &mut objects.0 {
            let labels = labels(object);
            for (name, value) in [
                ("operator.istio.io/managed", "Reconcile"),
                ("operator.istio.io/version", env!("CARGO_PKG_VERSION")),
                ("install.operator.istio.io/owning-resource", "mizzen"),
                ("install.operator.istio.io/owning-resource-namespace", "istio-system"),
            ] {
                assert_eq!(labels.remove(name), Some(value.into()), "{title}: {name}");
            }
        }
        objects.0.values_mut().for_each(normalize);
        objects
    }

    /// What `helm template` prints.
    pub(crate) fn of_charts(text: &str) -> Objects {
        let mut objects = Objects::read(text);
        for (title, object) in &mut objects.0 {
            assert_eq!(labels(object).remove("app.kubernetes.io/part-of"), Some("istio".into()), "{title}");
            labels(object).retain(|name, _| !name.starts_with("app.kubernetes.io/") && name != "helm.sh/chart");
            if object["kind"] == "CustomResourceDefinition" {
                let notes = object["metadata"]["annotations"].as_object_mut().expect("annotations");
                assert_eq!(notes.remove("helm.sh/resource-policy"), Some("keep".into()), "{title}: it would take all its objects along");
            }
        }
        objects.0.values_mut().for_each(normalize);
        objects
    }

    fn read(text: &str) -> Objects {
        let mut objects = BTreeMap::new();
        let mut document = String::new();
        for line in text.lines().chain(["---"]) {
            if line.trim_end() != "---" {
                document += &format!("{line}\n");
                continue;
            }
            let whole = std::mem::take(&mut document);
            if whole.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
                continue;
            }
            let object: Value = serde_saphyr::from_str(&whole).unwrap_or_else(|error| panic!("{error}:\n{whole}"));
            let title = title(&object);
            assert!(objects.insert(title.clone(), object).is_none(), "{title} is there twice");
        }
        Objects(objects)
    }

    /// In their order.
    pub(crate) fn titles(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, title: &str) -> &Value {
        self.0.get(title).unwrap_or_else(|| panic!("no {title}"))
    }
}

fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind").expect("a kind"), text("/metadata/name").expect("a name"));
    text("/metadata/namespace").map_or_else(|| format!("{kind} {name}"), |namespace| format!("{kind} {namespace}/{name}"))
}

fn labels(object: &mut Value) -> &mut Map<String, Value> {
    object["metadata"]["labels"].as_object_mut().expect("labels")
}

/// Two ways to write the same become one.
fn normalize(object: &mut Value) {
    for pointer in ["/metadata", "/spec/template/metadata"] {
        let Some(metadata) = object.pointer_mut(pointer).and_then(Value::as_object_mut) else { continue };
        if metadata.get("annotations").and_then(Value::as_object).is_some_and(Map::is_empty) {
            metadata.remove("annotations");
        }
    }
    for container in object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut).into_iter().flatten() {
        if container["resources"].as_object().is_some_and(Map::is_empty) {
            container.as_object_mut().expect("a map").remove("resources");
        }
    }
    if object["kind"] == "ConfigMap" {
        for text in object["data"].as_object_mut().expect("data").values_mut() {
            *text = serde_saphyr::from_str(text.as_str().expect("a text")).expect("YAML, of which JSON is a part");
        }
    }
    numbers(object);
}

/// A whole number is the same with and without a fraction of nothing.
fn numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0
                && let Ok(whole) = format!("{float:.0}").parse::<i64>()
            {
                *value = Value::Number(Number::from(whole));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(numbers),
        Value::Object(map) => map.values_mut().for_each(numbers),
        _ => {}
    }
}

/// Where two installations differ, a line each: by object and path.
pub(crate) fn differences(installed: &Objects, rendered: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    for title in installed.0.keys().filter(|title| !rendered.0.contains_key(*title)) {
        found.push(format!("{title} is not rendered"));
    }
    for (title, rendered) in &rendered.0 {
        match installed.0.get(title) {
            Some(installed) => walk(title, installed, rendered, &mut found),
            None => found.push(format!("{title} is not installed")),
        }
    }
    found
}

fn walk(path: &str, installed: &Value, rendered: &Value, found: &mut Vec<String>) {
    match (installed, rendered) {
        (Value::Object(one), Value::Object(other)) => {
            let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            let at = |map: &'_ Map<String, Value>, name: &str| map.get(name).cloned().unwrap_or(Value::Null);
            names.into_iter().for_each(|name| walk(&format!("{path} {name}"), &at(one, name), &at(other, name), found));
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).enumerate().for_each(|(at, (one, other))| walk(&format!("{path} [{at}]"), one, other, found));
        }
        _ if installed == rendered => {}
        _ => found.push(format!("{path}: {installed} is installed, {rendered} is rendered")),
    }
}

#[test]
fn differences_are_found() {
    let objects = |text: &str| Objects::read(text);
    let one = objects("{kind: A, metadata: {name: a}, spec: {x: [1, {y: 2}]}}\n---\n{kind: B, metadata: {name: b, namespace: ns}}\n");
    let other = objects("# Source\n---\n{kind: A, metadata: {name: a}, spec: {x: [1, {y: 3}], z: 1}}\n");
    let expected =
        ["B ns/b is not rendered", "A a spec x [1] y: 2 is installed, 3 is rendered", "A a spec z: null is installed, 1 is rendered"];
    assert_eq!(differences(&one, &other), expected);
    assert_eq!(differences(&one, &one), [""; 0]);
}
