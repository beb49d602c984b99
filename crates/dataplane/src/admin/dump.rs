//! `/config_dump`: every resource as JSON, in the shape of `envoy.admin.v3.ConfigDump`.

use std::time::SystemTime;

use mizzen_ir::{ResourceKind, Warning};
use mizzen_protos::{
    Any,
    envoy::envoy::config::bootstrap::v3::Bootstrap,
    json::{Descriptors, Names},
};
use prost::Message;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::view::{Known, View};

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";

/// What of a dump is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// One list only, such as `dynamic_active_clusters`.
    pub(super) resource: Option<String>,
    /// Endpoints as well.
    pub(super) endpoints: bool,
}

/// A kind's names in the dump: its section, the list of static and of dynamic ones, the field of the resource.
struct Shape {
    section: &'static str,
    fixed: &'static str,
    dynamic: &'static str,
    warming: &'static str,
    field: &'static str,
    /// The types of one entry in the static and the dynamic list.
    entries: (&'static str, &'static str),
}

fn shape(kind: ResourceKind) -> Shape {
    let (section, fixed, dynamic, warming, field, entries) = match kind {
        ResourceKind::Cluster => (
            "ClustersConfigDump",
            "static_clusters",
            "dynamic_active_clusters",
            "dynamic_warming_clusters",
            "cluster",
            ("StaticCluster", "DynamicCluster"),
        ),
        ResourceKind::Assignment => (
            "EndpointsConfigDump",
            "static_endpoint_configs",
            "dynamic_endpoint_configs",
            "dynamic_endpoint_configs",
            "endpoint_config",
            ("StaticEndpointConfig", "DynamicEndpointConfig"),
        ),
        ResourceKind::Listener => (
            "ListenersConfigDump",
            "static_listeners",
            "dynamic_listeners",
            "dynamic_listeners",
            "listener",
            ("StaticListener", "DynamicListener"),
        ),
        // Those that come on their own are told within their route configurations.
        ResourceKind::Route | ResourceKind::VirtualHost => (
            "RoutesConfigDump",
            "static_route_configs",
            "dynamic_route_configs",
            "dynamic_route_configs",
            "route_config",
            ("StaticRouteConfig", "DynamicRouteConfig"),
        ),
        ResourceKind::Secret => (
            "SecretsConfigDump",
            "static_secrets",
            "dynamic_active_secrets",
            "dynamic_warming_secrets",
            "secret",
            ("StaticSecret", "DynamicSecret"),
        ),
    };
    Shape { section, fixed, dynamic, warming, field, entries }
}

/// The dump.
pub(super) fn dump(descriptors: &Descriptors, view: &View, bootstrap: &[u8], wanted: &Wanted) -> Value {
    let mut configs = Vec::new();
    if wanted.resource.is_none() {
        let bootstrap = Bootstrap::decode(bootstrap).unwrap_or_default();
        let bootstrap = descriptors.to_value(&bootstrap, Names::Proto).unwrap_or_default();
        configs.push(json!({"@type": format!("{ADMIN}BootstrapConfigDump"), "bootstrap": bootstrap}));
    }
    for kind in [ResourceKind::Cluster, ResourceKind::Assignment, ResourceKind::Listener, ResourceKind::Route, ResourceKind::Secret] {
        let asked = wanted.resource.as_deref().is_some_and(|r| r == shape(kind).dynamic || r == shape(kind).fixed);
        if kind != ResourceKind::Assignment || wanted.endpoints || asked {
            configs.extend(section(descriptors, view, kind, wanted));
        }
    }
    let mut all = json!({ "configs": configs });
    if wanted.resource.is_none() {
        all["warnings"] = warnings(view);
    }
    all
}

/// The section of a kind; or, if one list is wanted, its entries.
fn section(descriptors: &Descriptors, view: &View, kind: ResourceKind, wanted: &Wanted) -> Vec<Value> {
    let shape = shape(kind);
    let (mut fixed, mut dynamic, mut warming) = (Vec::new(), Vec::new(), Vec::new());
    for known in view.resources.iter().filter(|r| r.kind == kind) {
        let entry = entry(descriptors, known, &shape);
        let list = match known {
            Known { fixed: true, .. } => &mut fixed,
            Known { warming: true, .. } if shape.warming != shape.dynamic => &mut warming,
            _ => &mut dynamic,
        };
        list.push(entry);
    }
    let Some(list) = &wanted.resource else {
        let mut section = Map::new();
        section.insert("@type".to_owned(), format!("{ADMIN}{}", shape.section).into());
        for (name, list) in [(shape.fixed, fixed), (shape.dynamic, dynamic), (shape.warming, warming)] {
            if !list.is_empty() {
                section.insert(name.to_owned(), list.into());
            }
        }
        return vec![section.into()];
    };
    let (list, kind) = match list.as_str() {
        l if l == shape.fixed => (fixed, shape.entries.0),
        l if l == shape.dynamic => (dynamic, shape.entries.1),
        l if l == shape.warming => (warming, shape.entries.1),
        _ => return Vec::new(),
    };
    let with_type = |mut entry: Value| {
        entry["@type"] = format!("{ADMIN}{}.{kind}", shape.section).into();
        entry
    };
    list.into_iter().map(with_type).collect()
}

fn entry(descriptors: &Descriptors, known: &Known, shape: &Shape) -> Value {
    let mut inner = Map::new();
    if let Some((entry, arrived)) = &known.entry {
        if !entry.version.is_empty() {
            inner.insert("version_info".to_owned(), entry.version.as_str().into());
        }
        inner.insert(shape.field.to_owned(), resource(descriptors, &entry.message()));
        inner.insert("last_updated".to_owned(), timestamp(*arrived).into());
    }
    let error = known
        .refused
        .as_ref()
        .map(|(version, reason, at)| json!({"last_update_attempt": timestamp(*at), "details": reason, "version_info": version}));
    let mut outer = match known.kind {
        ResourceKind::Listener if !known.fixed => {
            let mut outer = Map::new();
            outer.insert("name".to_owned(), (&*known.name).into());
            if known.entry.is_some() {
                let state = if known.warming { "warming_state" } else { "active_state" };
                outer.insert(state.to_owned(), inner.into());
            }
            outer
        }
        ResourceKind::Secret => {
            inner.insert("name".to_owned(), (&*known.name).into());
            inner
        }
        _ => inner,
    };
    if let Some(error) = error {
        outer.insert("error_state".to_owned(), error);
        outer.insert("client_status".to_owned(), "NACKED".into());
    } else if !known.fixed {
        outer.insert("client_status".to_owned(), "ACKED".into());
    }
    outer.into()
}

fn resource(descriptors: &Descriptors, body: &Any) -> Value {
    descriptors.any_to_value(body, Names::Proto).unwrap_or_else(|error| json!({"@type": body.type_url, "error": error.to_string()}))
}

/// What was accepted and does nothing, by resource and field; what TLS could not be built, and which sockets could not be opened.
fn warnings(view: &View) -> Value {
    let fields = view.resources.iter().flat_map(|known| {
        let one = |w: &Warning| json!({"type": known.kind.type_url(), "resource": &*known.name, "field": w.field, "reason": w.reason});
        known.warnings().iter().map(one)
    });
    let unfit = view.unfit.iter().map(|(name, reason)| json!({"resource": &**name, "field": "transport_socket", "reason": reason}));
    let failed = view.failed.iter().map(|(address, reason)| json!({"resource": address.to_string(), "field": "address", "reason": reason}));
    fields.chain(unfit).chain(failed).collect::<Vec<_>>().into()
}

/// As protojson writes timestamps.
pub(super) fn timestamp(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}
