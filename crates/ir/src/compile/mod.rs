//! xDS resources to configuration: every field is done, harmless (a [`Warning`]) or refused by name (a [`Refusal`]).
//!
//! A field is refused if ignoring it could change who may talk, where traffic goes or what is sent. Messages are taken apart without `..`, so
//! that a field that is new in the descriptors does not compile until somebody has decided.
//!
//! What is refused in one filter chain or one virtual host closes that part alone ([`Compiled::closed`]): an old version that stays whole
//! would keep out the policies that came with the new one.

// Deprecated fields are decided like any other: control planes still send them.
#![allow(deprecated)]

mod access_log;
mod address;
mod cluster;
mod cluster_health;
mod cluster_http;
mod cluster_lb;
pub(crate) mod cx;
pub(crate) mod dynamic;
mod endpoint;
mod format;
mod hash_policy;
mod hcm;
pub(crate) mod headers;
pub(crate) mod inherited;
mod listener;
pub(crate) mod matchers;
pub(crate) mod mesh;
mod parts;
pub(crate) mod rbac;
mod refs;
pub(crate) mod route;
mod route_action;
mod secret;
mod template;
mod tls;
pub(crate) mod virtual_host;

use std::sync::Arc;

use mizzen_types::Name;

use crate::config::{Assignment, CertificateSecret, Cluster, ContentHash, Listener, OwnHost, RouteConfig, Used, ValidationSecret};
use crate::runtime::Config;

pub use refs::Refs;

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Assignment,
    /// `envoy.config.listener.v3.Listener`.
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`.
    Secret,
    /// `envoy.config.route.v3.VirtualHost`, of a route configuration that is open.
    VirtualHost,
}

impl ResourceKind {
    /// All kinds, in the order in which they depend on each other least.
    pub const ALL: [ResourceKind; 6] = [
        ResourceKind::Secret,
        ResourceKind::Cluster,
        ResourceKind::Assignment,
        ResourceKind::VirtualHost,
        ResourceKind::Route,
        ResourceKind::Listener,
    ];

    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            ResourceKind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceKind::Assignment => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            ResourceKind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceKind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            ResourceKind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            ResourceKind::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }

    /// The kind of a type URL.
    pub fn of(type_url: &str) -> Option<ResourceKind> {
        ResourceKind::ALL.into_iter().find(|k| k.type_url() == type_url)
    }

    /// Whether a configuration has a resource of this kind and name.
    pub fn is_in(self, config: &Config, name: &str) -> bool {
        match self {
            ResourceKind::Cluster => config.clusters.contains_key(name),
            ResourceKind::Assignment => config.assignments.contains_key(name),
            ResourceKind::Listener => config.listeners.contains_key(name),
            ResourceKind::Route => config.routes.contains_key(name),
            ResourceKind::Secret => config.certificates.contains_key(name) || config.validations.contains_key(name),
            ResourceKind::VirtualHost => config.own_host(name).is_some(),
        }
    }
}

/// A compiled resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A listener.
    Listener(Arc<Listener>),
    /// A route configuration.
    Route(Arc<RouteConfig>),
    /// A cluster.
    Cluster(Arc<Cluster>),
    /// Endpoints.
    Assignment(Arc<Assignment>),
    /// A certificate with its key.
    Certificate(Arc<CertificateSecret>),
    /// Roots.
    Validation(Arc<ValidationSecret>),
    /// A virtual host of an open route configuration.
    VirtualHost(Arc<OwnHost>),
}

impl PartialEq for CertificateSecret {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.hash) == (&other.name, other.hash)
    }
}

impl Resource {
    /// Its name.
    pub fn name(&self) -> &Name {
        match self {
            Resource::Listener(r) => &r.name,
            Resource::Route(r) => &r.name,
            Resource::Cluster(r) => &r.name,
            Resource::Assignment(r) => &r.name,
            Resource::Certificate(r) => &r.name,
            Resource::Validation(r) => &r.name,
            Resource::VirtualHost(r) => &r.name,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Resource::Listener(_) => ResourceKind::Listener,
            Resource::Route(_) => ResourceKind::Route,
            Resource::Cluster(_) => ResourceKind::Cluster,
            Resource::Assignment(_) => ResourceKind::Assignment,
            Resource::Certificate(_) | Resource::Validation(_) => ResourceKind::Secret,
            Resource::VirtualHost(_) => ResourceKind::VirtualHost,
        }
    }

    /// Of the content.
    pub fn hash(&self) -> ContentHash {
        match self {
            Resource::Listener(r) => r.hash,
            Resource::Route(r) => r.hash,
            Resource::Cluster(r) => r.hash,
            Resource::Assignment(r) => r.hash,
            Resource::Certificate(r) => r.hash,
            Resource::Validation(r) => r.hash,
            Resource::VirtualHost(r) => r.hash,
        }
    }

    /// Has it hold this name, which is equal to its own, in place of that. Nothing once it is shared.
    pub fn share_name(&mut self, name: &Name) {
        let own = match self {
            Resource::Listener(r) => Arc::get_mut(r).map(|r| &mut r.name),
            Resource::Route(r) => Arc::get_mut(r).map(|r| &mut r.name),
            Resource::Cluster(r) => Arc::get_mut(r).map(|r| &mut r.name),
            Resource::Assignment(r) => Arc::get_mut(r).map(|r| &mut r.name),
            Resource::Certificate(r) => Arc::get_mut(r).map(|r| &mut r.name),
            Resource::Validation(r) => Arc::get_mut(r).map(|r| &mut r.name),
            Resource::VirtualHost(r) => Arc::get_mut(r).map(|r| &mut r.name),
        };
        if let Some(own) = own.filter(|own| **own == *name) {
            own.clone_from(name);
        }
    }

    /// Whether it is in use, if that is followed: see [`Resource::follow`].
    pub fn used(&self) -> Option<&Used> {
        match self {
            Resource::Listener(r) => Some(&r.used),
            Resource::VirtualHost(r) => Some(&r.host.used),
            _ => None,
        }
    }

    /// From now on it is known whether it is in use, together with a version before it. Nothing once it is shared.
    pub fn follow(&mut self, before: Option<&Resource>) {
        let used = before.and_then(Resource::used).filter(|used| used.is_followed()).cloned().unwrap_or_else(Used::followed);
        match self {
            Resource::Listener(r) => drop(Arc::get_mut(r).map(|r| r.used = used)),
            Resource::VirtualHost(r) => drop(Arc::get_mut(r).and_then(|r| Arc::get_mut(&mut r.host)).map(|host| host.used = used)),
            _ => {}
        }
    }
}

/// Something that was accepted and does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where: `filter_chains[0].filters[1].tracing`.
    pub field: String,
    /// Why it does nothing.
    pub reason: String,
}

/// Why a resource was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} `{resource}`: {field}: {reason}")]
pub struct Refusal {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name, if it could be read.
    pub resource: Name,
    /// Where.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// A resource that was compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The resource.
    pub resource: Resource,
    /// What it names.
    pub refs: Refs,
    /// What in it does nothing.
    pub warnings: Vec<Warning>,
    /// What in it is refused without refusing the rest: a filter chain that answers 503 or, where it cannot speak HTTP, closes its
    /// connections; a virtual host that answers 503.
    pub closed: Vec<Refusal>,
}

/// Compiles the bytes of one resource (an `Any`'s value).
///
/// # Errors
/// If a field of it cannot be honoured.
pub fn compile(kind: ResourceKind, bytes: &[u8]) -> Result<Compiled, Refusal> {
    let mut cx = cx::Cx::default();
    let hash = cx::stable_hash(kind.type_url(), bytes.to_vec());
    let compiled = match kind {
        ResourceKind::Listener => listener::compile(&mut cx, bytes, hash),
        ResourceKind::Route => route::compile(&mut cx, bytes, hash),
        ResourceKind::Cluster => cluster::compile(&mut cx, bytes, hash),
        ResourceKind::Assignment => endpoint::compile(&mut cx, bytes, hash),
        ResourceKind::Secret => secret::compile(&mut cx, bytes, hash),
        ResourceKind::VirtualHost => virtual_host::compile(&mut cx, bytes, hash),
    };
    let called = cx.resource.clone();
    let refusal = |bad: cx::Bad| Refusal { kind, resource: called.clone(), field: bad.field, reason: bad.reason };
    match compiled {
        Ok(resource) => {
            let closed = cx.closed.into_iter().map(refusal).collect();
            Ok(Compiled { refs: Refs::of(&resource), resource, warnings: cx.warnings, closed })
        }
        Err(bad) => Err(refusal(bad)),
    }
}
