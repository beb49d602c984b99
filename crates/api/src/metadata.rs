//! Reading `metadata`, labels and selectors.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use mizzen_types::{check_dns_label, check_dns_subdomain};

use crate::{
    Kind, Labels, Meta, Selector, Source,
    read::{At, Fields, quoted},
};

/// Namespaced objects that name no namespace belong to this one, as with kubectl.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Reads `metadata` of an object of this kind.
pub(crate) fn read(root: &Fields<'_>, kind: Kind, source: Source) -> Meta {
    let at = &root.at;
    let mut meta = Meta {
        api_version: root.text("apiVersion").into(),
        origin: crate::Pos { file: at.cx.file.clone(), line: at.place.0, column: at.place.1 },
        source,
        ..Meta::default()
    };
    root.sub("metadata", |f| {
        if let Some(at) = f.need("name") {
            let name = at.text();
            let label = matches!(kind, Kind::Namespace | Kind::Service);
            let checked = if label { check_dns_label(&name) } else { check_dns_subdomain(&name) };
            if let Err(error) = checked {
                at.fail(error.to_string());
            }
            meta.name = name.into();
        }
        meta.namespace = if kind.is_namespaced() { DEFAULT_NAMESPACE } else { "" }.into();
        if let Some(at) = f.get("namespace") {
            let namespace = at.text();
            if !kind.is_namespaced() {
                at.fail(format!("a {kind} belongs to no namespace"));
            } else if !namespace.is_empty() {
                if let Err(error) = check_dns_label(&namespace) {
                    at.fail(error.to_string());
                }
                meta.namespace = namespace.into();
            }
        }
        meta.labels = f.get("labels").map(|at| labels(&at)).unwrap_or_default();
        meta.annotations = f.text_map("annotations");
        if let Some(at) = f.get("creationTimestamp") {
            let text = at.text();
            match text.parse::<Timestamp>() {
                Ok(time) => meta.created = time.as_second(),
                Err(_) => at.fail(format!("{} is no time such as 2026-01-31T12:00:00Z", quoted(&text))),
            }
        }
        f.ignore(&[
            "uid",
            "resourceVersion",
            "generation",
            "generateName",
            "managedFields",
            "ownerReferences",
            "finalizers",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ]);
    });
    meta
}

/// Labels, checked as Kubernetes does.
pub(crate) fn labels(at: &At<'_>) -> BTreeMap<String, String> {
    checked(at).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The same where there are many of them.
pub(crate) fn shared_labels(at: &At<'_>) -> Labels {
    at.cx.known.labels(checked(at))
}

fn checked<'a>(at: &At<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    at.entries().into_iter().map(|(key, value)| {
        if !label_name(key) {
            value
                .fail(format!("{} is no label name: letters, digits, `-`, `_`, `.`, at most 63, after an optional `domain/`", quoted(key)));
        }
        let text = value.str();
        if !label_text(text) {
            value.fail(format!("{} is no label value: letters, digits and inner `-`, `_`, `.`, at most 63", quoted(text)));
        }
        (key, text)
    })
}

/// Whether it may be a label's name.
pub fn label_name(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("", key));
    label_text(name) && !name.is_empty() && (!key.contains('/') || check_dns_subdomain(prefix).is_ok())
}

/// Whether it may be a label's value.
pub fn label_text(text: &str) -> bool {
    let end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let inner = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    text.len() <= 63 && inner && end(text.chars().next()) && end(text.chars().next_back())
}

/// A selector whose labels stand in field `name`: `matchLabels` in security, `labels` in networking.
pub(crate) fn selector(at: &At<'_>, name: &'static str) -> Selector {
    at.fields(|f| Selector { labels: f.get(name).map(|at| labels(&at)).unwrap_or_default() })
}
