//! Istio's kinds as the API server has them.

use kube::core::DynamicObject;
use mizzen_api::{Key, Kind, Pos, Problem, Refusal, parse_documents};

use super::fold::Reading;

/// What tools write for themselves, of any size.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Which object of this kind it is.
pub(crate) fn key(kind: Kind, object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    Key::new(kind, metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// Reads an object of this kind, as a file's document is read.
pub(crate) fn read(kind: Kind, mut object: DynamicObject) -> Reading {
    let key = key(kind, &object);
    object.metadata.managed_fields = None;
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(fields) = object.data.as_object_mut() {
        fields.remove("status");
    }
    let refused = |message: String| {
        let problem = Problem { pos: Pos::default(), object: Some(key.clone()), field: String::new(), message };
        Refusal { key: Some(key.clone()), is_other: false, closes: None, problems: vec![problem] }
    };
    let text = match serde_json::to_string(&object) {
        Ok(text) => text,
        Err(error) => return Reading { object: Err(refused(error.to_string())), key, warnings: Vec::new() },
    };
    let mut parsed = parse_documents(&text, &"".into());
    let object = match parsed.objects.pop() {
        Some(object) => object,
        None => Err(refused("is empty".to_owned())),
    };
    Reading { key, object, warnings: parsed.warnings }
}
