//! Istio's kinds as the API server has them.

use kube::core::DynamicObject;
use mizzen_api::{Kind, Pos, Problem, Refusal, core::cluster::LAST_APPLIED, parse_documents};

use super::{fold::Reading, key_of};

/// Reads an object of this kind, as a file's document is read. What tools have written for themselves is removed from it.
pub(crate) fn read(kind: Kind, object: &mut DynamicObject) -> Reading {
    let key = key_of(kind, &object.metadata);
    object.metadata.managed_fields = None;
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    // It is no part of what is read, and its reader may want it.
    let status = object.data.as_object_mut().and_then(|fields| fields.shift_remove("status"));
    let refused = |message: String| {
        let problem = Problem { pos: Pos::default(), object: Some(key.clone()), field: String::new(), message };
        Refusal { key: Some(key.clone()), is_other: false, closes: None, problems: vec![problem] }
    };
    let text = serde_json::to_string(&*object);
    if let (Some(status), Some(fields)) = (status, object.data.as_object_mut()) {
        fields.insert("status".to_owned(), status);
    }
    let text = match text {
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
