//! `/debug/config_dump`: all that there is for a proxy, in the shape of `envoy.admin.v3.ConfigDump`, whether or not it has asked for it.
//!
//! A proxy that fetches on first use holds a part of this. It is made anew for whoever looks, past the memory of the connections, so that a look
//! keeps nothing.

use mizzen_model::{ON_DEMAND, ProxyView, Reader, Snapshot};
use mizzen_protos::json::{Descriptors, JsonError, Names};
use mizzen_translate::ResourceKind;
use mizzen_types::Name;
use serde_json::{Value, json};

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";

/// A kind's section in the dump, the list in it, and the field of the resource.
fn shape(kind: ResourceKind) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match kind {
        ResourceKind::Cluster => ("ClustersConfigDump", "dynamic_active_clusters", "cluster"),
        ResourceKind::Endpoints => ("EndpointsConfigDump", "dynamic_endpoint_configs", "endpoint_config"),
        ResourceKind::Listener => ("ListenersConfigDump", "dynamic_listeners", "listener"),
        ResourceKind::Route => ("RoutesConfigDump", "dynamic_route_configs", "route_config"),
        // Secrets are told by the proxy that has them.
        ResourceKind::VirtualHost | ResourceKind::NameTable | ResourceKind::NameEntry | ResourceKind::Index | ResourceKind::Secret => {
            return None;
        }
    })
}

/// The kind whose section is called so: `clusters`, `endpoints`, `listeners`, `routes`.
pub(crate) fn kind(section: &str) -> Option<ResourceKind> {
    let of = |kind: &ResourceKind| {
        shape(*kind).is_some_and(|(name, ..)| name.strip_suffix("ConfigDump").is_some_and(|n| n.eq_ignore_ascii_case(section)))
    };
    ResourceKind::ALL.into_iter().find(of)
}

/// The proxy as it would be served if it did not fetch on first use.
fn whole(view: &ProxyView) -> ProxyView {
    let mut facts = view.facts().clone();
    facts.extensions.remove(ON_DEMAND);
    ProxyView::from(facts)
}

/// Everything of a proxy, or one kind of it.
pub(crate) fn dump(snapshot: &Snapshot, view: &ProxyView, only: Option<ResourceKind>) -> Value {
    let view = whole(view);
    let descriptors = Descriptors::load();
    let names = |kind: ResourceKind| mizzen_translate::list(&Reader::new(snapshot), &view, kind);
    let body = |kind: ResourceKind, name: &Name| built(snapshot, &view, &descriptors, kind, name);
    sections(snapshot, only, names, body)
}

/// What of a proxy was sent to it, as it should be now. What is not any more is left out; virtual hosts that came by themselves stand in their routes,
/// before those that these have: where a proxy has them.
pub(crate) fn sent(snapshot: &Snapshot, view: &ProxyView, sent: &[(ResourceKind, Name)], only: Option<ResourceKind>) -> Value {
    let descriptors = Descriptors::load();
    let names = |kind: ResourceKind| {
        let mut names: Vec<Name> = sent.iter().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    };
    let body = |kind: ResourceKind, name: &Name| {
        let mut made = built(snapshot, view, &descriptors, kind, name)?;
        if kind == ResourceKind::Route {
            let is_part = |part: &Name| part.strip_prefix(&**name).is_some_and(|rest| rest.starts_with('/'));
            let parts = names(ResourceKind::VirtualHost).into_iter().filter(is_part);
            let mut hosts: Vec<Value> =
                parts.filter_map(|part| built(snapshot, view, &descriptors, ResourceKind::VirtualHost, &part)).map(untyped).collect();
            if !hosts.is_empty() {
                hosts.extend(made["virtual_hosts"].as_array().into_iter().flatten().cloned());
                made["virtual_hosts"] = hosts.into();
            }
        }
        Some(made)
    };
    sections(snapshot, only, names, body)
}

/// A resource as JSON; `None` if the proxy has none of that name.
fn built(snapshot: &Snapshot, view: &ProxyView, descriptors: &Descriptors, kind: ResourceKind, name: &Name) -> Option<Value> {
    let any = mizzen_translate::build(&Reader::new(snapshot), view, kind, name)?.any;
    let failed = |error: JsonError| json!({"@type": any.type_url, "error": error.to_string()});
    Some(descriptors.any_to_value(&any, Names::Proto).unwrap_or_else(failed))
}

/// A message as it stands in another one.
fn untyped(mut body: Value) -> Value {
    if let Some(members) = body.as_object_mut() {
        members.shift_remove("@type");
    }
    body
}

fn sections(
    snapshot: &Snapshot,
    only: Option<ResourceKind>,
    names: impl Fn(ResourceKind) -> Vec<Name>,
    body: impl Fn(ResourceKind, &Name) -> Option<Value>,
) -> Value {
    let version = snapshot.version().to_string();
    let section = |kind: ResourceKind| {
        let (section, list, field) = shape(kind)?;
        let entry = |name: Name| {
            let inner = json!({"version_info": version, field: body(kind, &name)?});
            Some(if kind == ResourceKind::Listener { json!({"name": &*name, "active_state": inner}) } else { inner })
        };
        let entries: Vec<Value> = names(kind).into_iter().filter_map(entry).collect();
        Some(json!({"@type": format!("{ADMIN}{section}"), list: entries}))
    };
    let kinds = ResourceKind::ALL.into_iter().filter(|kind| only.is_none_or(|only| only == *kind));
    json!({"configs": kinds.filter_map(section).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections() {
        let kinds = ["clusters", "endpoints", "listeners", "routes", "secrets", ""].map(kind);
        let [clusters, endpoints, listeners, routes] =
            [ResourceKind::Cluster, ResourceKind::Endpoints, ResourceKind::Listener, ResourceKind::Route].map(Some);
        assert_eq!(kinds, [clusters, endpoints, listeners, routes, None, None]);
    }
}
