//! What a pod's author wrote of the proxy's own containers: it is laid over what injection makes, as Kubernetes' strategic merge does.

use serde_json::{Map, Value};

use super::{
    InjectError,
    annotations::{OVERRIDES, wrong},
    pod::{CONTAINERS, INIT, INIT_CONTAINERS, PROXY, Pod, container_name},
};

/// The author's own containers of the proxy's names, taken out of the pod.
#[derive(Default)]
pub(super) struct Given {
    /// `istio-proxy`, in whichever list it was.
    pub(super) proxy: Option<Map<String, Value>>,
    /// `istio-init`.
    pub(super) init: Option<Map<String, Value>>,
    /// How they are noted on the pod, so that another injection would find them again; `None`: there were none, or it is there already.
    pub(super) note: Option<String>,
}

impl Given {
    pub(super) fn take(pod: &mut Pod) -> Result<Given, InjectError> {
        let mut given = noted(pod)?;
        let mut note = Map::new();
        for list in [CONTAINERS, INIT_CONTAINERS] {
            let Some(items) = pod.spec_mut()?.get_mut(list).and_then(Value::as_array_mut) else { continue };
            let mut taken = Vec::new();
            items.retain(|item| {
                let ours = item.as_object().is_some_and(|container| matches!(container_name(container), PROXY | INIT));
                if ours {
                    taken.push(item.clone());
                }
                !ours
            });
            if taken.is_empty() {
                continue;
            }
            for container in taken.iter().filter_map(Value::as_object) {
                let own = if container_name(container) == PROXY { &mut given.proxy } else { &mut given.init };
                *own = Some(container.clone());
            }
            note.insert(list.to_owned(), taken.into());
        }
        given.note = (!note.is_empty()).then(|| Value::Object(note).to_string());
        Ok(given)
    }
}

/// What the annotation notes.
fn noted(pod: &Pod) -> Result<Given, InjectError> {
    let mut given = Given::default();
    let Some(text) = pod.annotation(OVERRIDES).filter(|text| !text.trim().is_empty()) else { return Ok(given) };
    let malformed = || wrong(OVERRIDES, "must be JSON with containers and initContainers, lists of containers");
    let mut value: Map<String, Value> = serde_json::from_str(text).map_err(|_| malformed())?;
    for list in [CONTAINERS, INIT_CONTAINERS] {
        let items = match value.remove(list) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => items,
            Some(_) => return Err(malformed()),
        };
        for item in items {
            let Value::Object(container) = item else { return Err(malformed()) };
            match container_name(&container) {
                PROXY => given.proxy = Some(container),
                INIT => given.init = Some(container),
                _ => return Err(wrong(OVERRIDES, format!("only {PROXY} and {INIT} can be overridden"))),
            }
        }
    }
    Ok(given)
}

/// The lists of a container that are merged item by item, and by what; all others are replaced as a whole.
const KEYED: [(&str, &str); 5] = [
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("resizePolicy", "resourceName"),
];

/// What a probe does.
const ACTIONS: [&str; 4] = ["httpGet", "tcpSocket", "grpc", "exec"];

/// Lays the author's container over the one that was made. An image `auto`, or none, is left to injection.
pub(super) fn over(made: &mut Map<String, Value>, given: &Map<String, Value>) {
    let is_auto = given.get("image").and_then(Value::as_str).is_none_or(|image| image == "auto" || image.is_empty());
    for (key, value) in given {
        // What the API server fills in for a word without a tag is nobody's wish.
        if is_auto && key == "imagePullPolicy" {
            continue;
        }
        let keyed = KEYED.iter().find(|(list, _)| list == key).map(|(_, by)| *by);
        match (made.get_mut(key), value) {
            (_, Value::Null) => {}
            (_, Value::String(image)) if key == "image" && (image == "auto" || image.is_empty()) => {}
            (Some(Value::Array(old)), Value::Array(new)) if keyed.is_some() => items(old, new, keyed.unwrap_or_default()),
            // Each hook is the author's or ours.
            (Some(Value::Object(old)), Value::Object(new)) if key == "lifecycle" => old.extend(new.clone()),
            (Some(Value::Object(old)), Value::Object(new)) => {
                // A probe acts in one way: with the author's, ours goes.
                if ACTIONS.iter().any(|action| new.contains_key(*action)) {
                    ACTIONS.iter().for_each(|action| drop(old.shift_remove(*action)));
                }
                maps(old, new);
            }
            _ => {
                made.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Lays one list over another: items of the same key are one.
pub(super) fn items(old: &mut Vec<Value>, new: &[Value], by: &str) {
    let key = |item: &Value| item.get(by).map(ToString::to_string);
    let mut at: std::collections::BTreeMap<String, usize> =
        old.iter().enumerate().filter_map(|(i, item)| key(item).map(|key| (key, i))).collect();
    for item in new {
        let place = key(item).and_then(|key| match at.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => Some(*entry.get()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(old.len());
                None
            }
        });
        match (place.and_then(|place| old.get_mut(place)), item) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                // A value and where it comes from exclude each other.
                for (one, other) in [("value", "valueFrom"), ("valueFrom", "value")] {
                    if new.contains_key(one) {
                        old.shift_remove(other);
                    }
                }
                maps(old, new);
            }
            _ => old.push(item.clone()),
        }
    }
}

/// Lays one map over another, member by member.
fn maps(old: &mut Map<String, Value>, new: &Map<String, Value>) {
    for (key, value) in new {
        match (old.get_mut(key), value) {
            (_, Value::Null) => {
                old.shift_remove(key);
            }
            (Some(Value::Object(old)), Value::Object(new)) => maps(old, new),
            _ => {
                old.insert(key.clone(), value.clone());
            }
        }
    }
}
