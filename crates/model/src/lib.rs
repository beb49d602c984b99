//! The mesh as the control plane knows it at one moment, and the record of what was read of it.
//!
//! Objects flow in as [`Change`]s; [`Snapshot::apply`] makes the next immutable [`Snapshot`], which shares with the last one all that did not change.
//! Services, their endpoints and the rules that bear on a host are indexes of the snapshot, each entry stamped with the version that last changed
//! its *content*. A translation reads through a [`Reader`], which notes every query with the stamp of its answer, misses and scans included, and every
//! field of the [`ProxyView`]. The note, [`Reads`], is both the cache key and the invalidation set: a result still holds where each query still has
//! the answer it had, and another proxy may share it if its fields read the same.
//!
//! Deliberately absent: sources and their IO, anything of the wire, and findings about bad configuration, which are `analyze`'s.

mod changes;
mod check;
mod check_dynamic;
mod check_names;
mod delegates;
mod derive;
mod index;
mod objects;
mod policy;
mod provider;
mod proxy;
mod query;
mod question;
mod reader;
mod routes;
mod routing;
mod rules;
mod servers;
mod service;
mod sidecar;
mod sight;
mod snapshot;
#[cfg(test)]
mod tests;
mod tokens;
mod view;
mod workload;

pub use changes::ChangeSet;
pub use check::check;
pub use check_dynamic::dynamic_name;
pub use objects::{Closed, Typed, VIPS};
pub use policy::{PeerModes, PeerSources, WorkloadPolicies};
pub use provider::Asked;
pub use proxy::{
    ALLOCATED, DYNAMIC_HOSTS, Families, IPV6, NO_IPV4, ON_DEMAND, ProxyFacts, ProxyType, ProxyView, UnknownProxyType, ViewField,
};
pub use query::Query;
pub use question::{Answer, Item, Question, Reach};
pub use reader::{Reader, Reads};
pub use routes::RouteRules;
pub use routing::EffectiveRule;
pub use rules::by_age;
pub use servers::{Conflict, OpenServer, narrower, standing};
pub use service::{
    AliasView, CLUSTER, Endpoint, Endpoints, Instance, NODE_LABEL, PodView, PortView, REGION_LABEL, Registry, Resolve, SUBZONE_LABEL,
    ServiceKey, ServiceView, TLS_MODE_LABEL, ZONE_LABEL, locality_of, single,
};
pub use snapshot::{Change, Snapshot};
pub use tokens::{WantedKeys, wanted_keys};
