//! The resource types by their URLs, and their order.

/// Clusters (CDS).
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints (EDS).
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners (LDS).
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Route configurations (RDS).
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Virtual hosts on demand (VHDS).
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
/// Certificates and trust bundles (SDS).
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Filter configurations (ECDS).
pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// The agent's name table (NDS).
pub const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";
/// The index of the hosts that a proxy sees, of Mizzen's own.
pub const INDEX: &str = "type.googleapis.com/mizzen.index.v1.Host";

/// The name that subscribes to every resource of a type.
pub const WILDCARD: &str = "*";

/// The place of a type when resources are sent: what is referred to comes before what refers to it.
pub fn rank(type_url: &str) -> u8 {
    match type_url {
        // What it names is asked for by who has it: nothing waits for it, and all that is decided by it does.
        INDEX => 0,
        CLUSTER => 1,
        ENDPOINT => 2,
        SECRET => 3,
        EXTENSION => 4,
        LISTENER => 5,
        ROUTE => 6,
        VIRTUAL_HOST => 7,
        _ => 8,
    }
}

/// Whether removals of this type wait until the additions of all others were sent, since others refer to it.
pub fn removed_last(type_url: &str) -> bool {
    matches!(type_url, CLUSTER | ENDPOINT | SECRET | EXTENSION)
}

/// Whether a first request without names asks for every resource, as it does for the types that are roots.
pub fn empty_means_all(type_url: &str) -> bool {
    !matches!(type_url, ENDPOINT | SECRET | EXTENSION | ROUTE | VIRTUAL_HOST)
}

/// Whether resources of this type name others that a client has to ask for.
pub fn names_others(type_url: &str) -> bool {
    !matches!(type_url, INDEX | ENDPOINT | SECRET | EXTENSION | NAME_TABLE)
}

/// The part of a type's URL by which people know it: `Cluster`, `Listener`.
pub fn short(type_url: &str) -> &str {
    type_url.rsplit(['.', '/']).next().unwrap_or(type_url)
}
