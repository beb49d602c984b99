//! What can be asked of a snapshot.

use std::net::IpAddr;

use mizzen_api::{Key, Kind};
use mizzen_types::{Hostname, Name, NamespacedName};

use crate::service::ServiceKey;

/// A question to a snapshot. The stamp of its answer changes exactly when the answer's content does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Query {
    /// One object; a miss is an answer too.
    Object(Key),
    /// All objects of a kind in a namespace.
    Namespace(Kind, Name),
    /// All objects of a kind.
    Kind(Kind),
    /// Whether there is any Sidecar.
    AnySidecar,
    /// Whether a PeerAuthentication of a namespace says DISABLE of anything.
    Plain(Name),
    /// The mesh's settings.
    Mesh,
    /// The refused policies of a namespace.
    Closed(Name),
    /// All services.
    Services,
    /// The services that a namespace declares.
    ServicesOf(Name),
    /// One service.
    ServiceView(ServiceKey),
    /// The services under one host name.
    Service(Hostname),
    /// The alias of this name.
    Alias(Hostname),
    /// All aliases.
    Aliases,
    /// The services that have a port.
    Port(u16),
    /// The endpoints of a service.
    Endpoints(ServiceKey),
    /// The service accounts of a service's endpoints.
    Accounts(ServiceKey),
    /// The services' ports that are served at an address.
    Instances(IpAddr),
    /// The pod at an address.
    Pod(IpAddr),
    /// The routes with a host that covers this one.
    Routes(Hostname),
    /// The routes bound to a Gateway.
    BoundTo(NamespacedName),
    /// The DestinationRules with a host that covers this one.
    DestinationRules(Hostname),
    /// All hosts without wildcard that routes name.
    RoutedHosts,
    /// The routes of requests that lead to a host with a wildcard.
    RoutesToWildcards,
    /// The routes of TLS that is not ended on the way.
    TlsRoutes,
}
