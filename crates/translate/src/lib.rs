//! From a mesh to one proxy's configuration: one pure function per xDS resource.
//!
//! [`list`] names the resources of a kind that a proxy has, [`build`] makes one of them; both read through a [`Reader`], whose record says when the
//! result is stale and which other proxies may share it. Names, orders, fields and defaults are Istio's, so that an unmodified Envoy can be driven and
//! `proxy-config` reads as ever. Bytes of equal content are equal: see `draft`.
//!
//! Deliberately absent: sessions, versions and caches (control's), and what a proxy does with a resource (`ir`'s).

mod access_log;
mod authz;
mod cds;
mod cluster_settings;
mod discovery;
mod draft;
mod dynamic;
mod eds;
mod filters;
mod gateway;
mod gateway_tcp;
mod hash;
mod inbound;
mod index;
mod jwt;
mod lds;
mod listener;
mod locality;
mod mtls;
mod names;
mod nds;
mod origination;
mod outbound;
mod rbac;
mod rbac_match;
mod rds;
mod route;
mod scope;
mod secrets;
#[cfg(test)]
mod tests;
mod tls;
mod traffic;
mod wire;

use mizzen_model::{ON_DEMAND, ProxyType, ProxyView, Reader};
use mizzen_protos::{Any, envoy::envoy, nds::NameTable};
use mizzen_types::Name;
use prost::Name as _;

use draft::Draft;
use scope::Scope;

/// A type of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.config.route.v3.VirtualHost`, called `PORT/HOST`: of the routes of a port, for proxies that fetch on demand.
    VirtualHost,
    /// `istio.networking.nds.v1.NameTable`: one resource, with the empty name.
    NameTable,
    /// `mizzen.index.v1.Host`, called by its host, for proxies that fetch on demand.
    Index,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`, called `kubernetes://NAME`: given to a proxy that asks for it by name, and never listed.
    Secret,
    /// An entry of the name table, called by its host: a part, never sent alone.
    NameEntry,
}

impl ResourceKind {
    /// All kinds that are sent, in that order.
    pub const ALL: [ResourceKind; 8] = [
        ResourceKind::Index,
        ResourceKind::Cluster,
        ResourceKind::Endpoints,
        ResourceKind::Secret,
        ResourceKind::Listener,
        ResourceKind::Route,
        ResourceKind::VirtualHost,
        ResourceKind::NameTable,
    ];

    /// The type URL of its resources.
    pub fn type_url(self) -> String {
        match self {
            ResourceKind::Cluster => envoy::config::cluster::v3::Cluster::type_url(),
            ResourceKind::Endpoints => envoy::config::endpoint::v3::ClusterLoadAssignment::type_url(),
            ResourceKind::Listener => envoy::config::listener::v3::Listener::type_url(),
            ResourceKind::Route => envoy::config::route::v3::RouteConfiguration::type_url(),
            ResourceKind::VirtualHost => envoy::config::route::v3::VirtualHost::type_url(),
            ResourceKind::Secret => envoy::extensions::transport_sockets::tls::v3::Secret::type_url(),
            ResourceKind::Index => "type.googleapis.com/mizzen.index.v1.Host".into(),
            ResourceKind::NameEntry => "type.googleapis.com/istio.networking.nds.v1.NameTable.TableEntry".into(),
            ResourceKind::NameTable => "type.googleapis.com/istio.networking.nds.v1.NameTable".into(),
        }
    }

    /// The kind with this type URL.
    pub fn from_type_url(url: &str) -> Option<ResourceKind> {
        ResourceKind::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: Name,
    /// Type URL and bytes.
    pub any: Any,
    /// What it names and has to be there first, for a proxy that fetches on demand; for others empty, since they have all.
    pub brings: Vec<(ResourceKind, Name)>,
}

/// The names of a proxy's resources of a kind, each once, in the order in which they are sent.
pub fn list(reader: &Reader<'_>, view: &ProxyView, kind: ResourceKind) -> Vec<Name> {
    let scope = Scope::new(reader, view);
    match (kind, view.kind(reader)) {
        (ResourceKind::Cluster, _) => cds::list(&scope),
        (ResourceKind::Endpoints, _) => eds::list(&scope),
        (ResourceKind::Listener, ProxyType::Sidecar) => lds::list(&scope),
        (ResourceKind::Route, ProxyType::Sidecar) => rds::list(&scope),
        (ResourceKind::Listener, ProxyType::Router) => gateway::list_listeners(&scope),
        (ResourceKind::Route, ProxyType::Router) => gateway::list_routes(&scope),
        (ResourceKind::NameTable, ProxyType::Sidecar) if !scope.is_on_demand() => vec![Name::from("")],
        (ResourceKind::Index, ProxyType::Sidecar) if scope.is_on_demand() => index::list(&scope),
        // Virtual hosts are asked for by name, and so are secrets: who asks for everything gets none.
        (ResourceKind::NameTable | ResourceKind::Index | ResourceKind::VirtualHost | ResourceKind::Secret | ResourceKind::NameEntry, _) => {
            Vec::new()
        }
    }
}

/// A part of [`list`]: so that what hangs on a proxy's own workload does not keep it from sharing the rest with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// What the mesh's services lead to.
    Mesh,
    /// What the proxy's own workload leads to.
    Own,
}

impl Part {
    /// Both.
    pub const ALL: [Part; 2] = [Part::Mesh, Part::Own];
}

/// The names of one part of [`list`]. Together the parts have the names that it has; one may be in both.
pub fn list_part(reader: &Reader<'_>, view: &ProxyView, kind: ResourceKind, part: Part) -> Vec<Name> {
    let scope = Scope::new(reader, view);
    match (kind, part, view.kind(reader)) {
        (ResourceKind::Cluster, Part::Mesh, _) => cds::list_mesh(&scope),
        (ResourceKind::Cluster, Part::Own, _) => cds::list_own(&scope),
        (ResourceKind::Endpoints, Part::Mesh, _) => eds::list_mesh(&scope),
        (ResourceKind::Endpoints, Part::Own, _) => eds::list_own(&scope),
        // A gateway's listeners and routes are by what selects its workload; those of a sidecar are not.
        (_, Part::Mesh, ProxyType::Sidecar) | (_, Part::Own, ProxyType::Router) => list(reader, view, kind),
        (_, Part::Own, ProxyType::Sidecar) | (_, Part::Mesh, ProxyType::Router) => Vec::new(),
    }
}

/// One resource of a proxy; `None` if it has none of that name.
pub fn build(reader: &Reader<'_>, view: &ProxyView, kind: ResourceKind, name: &Name) -> Option<Resource> {
    let scope = Scope::new(reader, view);
    let draft = draft(&scope, kind, name)?;
    let brings = if scope.is_on_demand() { index::brings(&draft) } else { Vec::new() };
    Some(Resource { name: name.clone(), any: draft.encode(), brings })
}

/// The Secrets of the proxy's own namespace in which a [`ResourceKind::Secret`] of this name may be found; none if the proxy may have none of that name.
pub fn secrets_behind(reader: &Reader<'_>, view: &ProxyView, name: &str) -> Vec<Name> {
    secrets::behind(&Scope::new(reader, view), name)
}

/// What [`build`] encodes. Between the two is the place to change it.
fn draft(scope: &Scope<'_, '_>, kind: ResourceKind, name: &str) -> Option<Draft> {
    Some(match (kind, scope.view.kind(scope.reader)) {
        (ResourceKind::Cluster, _) => Draft::Cluster(cds::build(scope, name)?.into()),
        (ResourceKind::Endpoints, _) => Draft::Endpoints(eds::build(scope, name)?),
        (ResourceKind::Listener, ProxyType::Sidecar) => Draft::Listener(lds::build(scope, name)?.into()),
        (ResourceKind::Route, ProxyType::Sidecar) => Draft::Route(rds::build(scope, name)?.into()),
        (ResourceKind::Listener, ProxyType::Router) => Draft::Listener(gateway::build_listener(scope, name)?.into()),
        (ResourceKind::Route, ProxyType::Router) => Draft::Route(gateway::build_route(scope, name)?.into()),
        (ResourceKind::VirtualHost, ProxyType::Sidecar) => Draft::VirtualHost(rds::build_host(scope, name)?.into()),
        (ResourceKind::Index, ProxyType::Sidecar) if scope.is_on_demand() => Draft::Index(index::build(scope, name)?),
        (ResourceKind::NameEntry, _) => Draft::NameEntry(nds::build_entry(scope, name)?),
        (ResourceKind::Secret, _) => Draft::Secret(secrets::build(scope, name)?),
        (ResourceKind::VirtualHost | ResourceKind::Index, _) => return None,
        (ResourceKind::NameTable, _) => Draft::NameTable(name.is_empty().then(|| nds::table(scope))?),
    })
}

/// How a resource that holds many things is joined: a message without them, and the parts as one repeated field of it. A part is built, and changes, by
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The kind of its parts, whose bytes are the field's.
    pub part: ResourceKind,
    /// The field's number.
    pub field: u32,
}

/// Whether a resource of a proxy is joined from parts. That hangs on its type and its extensions alone.
pub fn joined(view: &ProxyView, kind: ResourceKind, name: &str) -> Option<Joined> {
    let facts = view.facts();
    let whole = facts.kind != ProxyType::Sidecar || facts.extensions.contains(ON_DEMAND);
    match kind {
        ResourceKind::Route if !whole && names::number(name).is_some() => Some(Joined { part: ResourceKind::VirtualHost, field: 2 }),
        ResourceKind::NameTable if !whole && name.is_empty() => Some(Joined { part: ResourceKind::NameEntry, field: 1 }),
        _ => None,
    }
}

/// The resource that is joined from a part.
pub fn whole_of(kind: ResourceKind, part: &str) -> Option<(ResourceKind, Name)> {
    match kind {
        ResourceKind::VirtualHost => part.split_once('/').map(|(port, _)| (ResourceKind::Route, port.into())),
        ResourceKind::NameEntry => Some((ResourceKind::NameTable, "".into())),
        _ => None,
    }
}

/// The parts of a [`joined`] resource, in order; `None` if there is no such resource.
pub fn parts(reader: &Reader<'_>, view: &ProxyView, kind: ResourceKind, name: &str) -> Option<Vec<Name>> {
    let scope = Scope::new(reader, view);
    match kind {
        ResourceKind::Route => rds::parts(&scope, names::number(name)?),
        ResourceKind::NameTable => Some(nds::parts(&scope)),
        _ => None,
    }
}

/// A [`joined`] resource without its parts.
pub fn build_head(reader: &Reader<'_>, view: &ProxyView, kind: ResourceKind, name: &Name) -> Option<Resource> {
    let scope = Scope::new(reader, view);
    let draft = match kind {
        ResourceKind::Route => Draft::Route(rds::head(&scope, name).into()),
        ResourceKind::NameTable => Draft::NameTable(NameTable::default()),
        _ => return None,
    };
    Some(Resource { name: name.clone(), any: draft.encode(), brings: Vec::new() })
}

/// The name table that a proxy's DNS answers from.
pub fn name_table(reader: &Reader<'_>, view: &ProxyView) -> NameTable {
    nds::table(&Scope::new(reader, view))
}
