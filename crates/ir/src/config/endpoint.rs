//! Endpoints.

use std::net::SocketAddr;
use std::sync::Arc;

use mizzen_types::{Locality, Name};

use super::{ContentHash, Criteria, EndpointCheck};

/// The endpoints of one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The name by which clusters refer to it.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// By priority, the most wanted first.
    pub priorities: Arc<[Priority]>,
    /// By how much a priority's health is multiplied before traffic flows over to the next, in percent (140 by default).
    pub overprovisioning: u32,
    /// Whether the endpoints' weights count for a priority's health, and not only their number.
    pub weighted_health: bool,
}

/// Localities of one priority.
#[derive(Clone, Debug, PartialEq)]
pub struct Priority {
    /// In the order given.
    pub localities: Arc<[LocalityGroup]>,
}

/// Endpoints in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityGroup {
    /// Where.
    pub locality: Locality,
    /// Its share if localities are weighted; 0: none.
    pub weight: u32,
    /// The endpoints.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// Its host name if it has one, for host rewriting and server names.
    pub hostname: Name,
    /// Its share within its locality, at least 1.
    pub weight: u32,
    /// What the control plane says of it.
    pub health: Health,
    /// How it is checked, if not as the cluster says.
    pub check: Option<Arc<EndpointCheck>>,
    /// Metadata of `envoy.transport_socket_match`, sorted: what chooses the transport socket.
    pub labels: Arc<[(Name, Name)]>,
    /// Which workload it is.
    pub workload: Option<Arc<Workload>>,
    /// Metadata of `envoy.lb`: what it is hashed by, and in which groups it is.
    pub lb: Option<Criteria>,
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An address.
    Socket(SocketAddr),
    /// A name to resolve, in clusters of the DNS kinds.
    Dns(Name, u16),
    /// A Unix socket.
    Pipe(Name),
    /// A listener of this proxy without a socket, and the endpoint's own id beside it; may be empty.
    Internal(Name, Name),
}

/// What the control plane says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing is known: it is used as a healthy one.
    Unknown,
    /// Healthy.
    Healthy,
    /// To be used only if the healthy ones do not suffice.
    Degraded,
    /// Not to be used.
    Unhealthy,
    /// Not to be used: it did not answer the control plane's check in time.
    Timeout,
    /// On its way out: no new connections.
    Draining,
}

/// Istio's label of an endpoint (metadata `istio.workload`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The workload's name.
    pub name: Name,
    /// Its namespace.
    pub namespace: Name,
    /// Its canonical service.
    pub canonical_name: Name,
    /// Its canonical revision.
    pub canonical_revision: Name,
    /// Its Kubernetes cluster.
    pub cluster: Name,
}

impl Assignment {
    /// One without endpoints.
    pub fn empty(name: Name) -> Assignment {
        Assignment { name, hash: ContentHash::default(), priorities: Arc::from([]), overprovisioning: 140, weighted_health: false }
    }

    /// All endpoints, by priority.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities.iter().flat_map(|p| p.localities.iter()).flat_map(|l| l.endpoints.iter())
    }
}
