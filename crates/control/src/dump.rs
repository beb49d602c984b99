//! `/debug/config_dump`: all that there is for a proxy, in the shape of `envoy.admin.v3.ConfigDump`, whether or not it has asked for it.
//!
//! A proxy that fetches on first use holds a part of this. It is made anew for whoever looks, past the memory of the connections, so that a look
//! keeps nothing.

use mizzen_model::{ON_DEMAND, ProxyView, Reader, Snapshot};
use mizzen_protos::json::{Descriptors, Names};
use mizzen_translate::ResourceKind;
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
    let version = snapshot.version().to_string();
    let reader = || Reader::new(snapshot);
    let section = |kind: ResourceKind| {
        let (section, list, field) = shape(kind)?;
        let entry = |name| {
            let built = mizzen_translate::build(&reader(), &view, kind, &name)?;
            let body = descriptors
                .any_to_value(&built.any, Names::Proto)
                .unwrap_or_else(|error| json!({"@type": built.any.type_url, "error": error.to_string()}));
            let inner = json!({"version_info": version, field: body});
            Some(if kind == ResourceKind::Listener { json!({"name": &*name, "active_state": inner}) } else { inner })
        };
        let entries: Vec<Value> = mizzen_translate::list(&reader(), &view, kind).into_iter().filter_map(entry).collect();
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
