//! Which table is a kind's, and what `kubectl get` shows of its objects.

use super::{
    AUTHORIZATION_POLICY, DESTINATION_RULE, GATEWAY, MESH_CONFIG, PEER_AUTHENTICATION, REQUEST_AUTHENTICATION, SERVICE_ENTRY, SIDECAR,
    Type, VIRTUAL_SERVICE, WORKLOAD_PROXY_CONFIG,
};
use crate::Kind;

/// The table of a kind.
pub(crate) struct KindTable {
    /// Its `spec`; all of it if it is no document of its own.
    pub(crate) of: &'static Type,
    /// Names and paths. The age is added if there are any.
    pub(crate) columns: &'static [(&'static str, &'static str)],
}

/// None for Kubernetes' own kinds.
pub(crate) fn kind_table(kind: Kind) -> Option<KindTable> {
    let (of, columns): (_, &[_]) = match kind {
        Kind::PeerAuthentication => (&PEER_AUTHENTICATION, &[("Mode", ".spec.mtls.mode")]),
        Kind::AuthorizationPolicy => (&AUTHORIZATION_POLICY, &[("Action", ".spec.action")]),
        Kind::RequestAuthentication => (&REQUEST_AUTHENTICATION, &[]),
        Kind::Sidecar => (&SIDECAR, &[]),
        Kind::Gateway => (&GATEWAY, &[]),
        Kind::ServiceEntry => {
            (&SERVICE_ENTRY, &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution")])
        }
        Kind::DestinationRule => (&DESTINATION_RULE, &[("Host", ".spec.host")]),
        Kind::VirtualService => (&VIRTUAL_SERVICE, &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")]),
        Kind::ProxyConfig => (&WORKLOAD_PROXY_CONFIG, &[]),
        Kind::MeshConfig => (&MESH_CONFIG, &[]),
        Kind::Namespace
        | Kind::Service
        | Kind::ServiceAccount
        | Kind::Deployment
        | Kind::Pod
        | Kind::EndpointSlice
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::IssuerKeys => {
            return None;
        }
    };
    Some(KindTable { of, columns })
}
