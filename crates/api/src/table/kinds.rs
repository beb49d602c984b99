//! Which table is a kind's, and how the API server has it.

use super::{
    AUTHORIZATION_POLICY, DESTINATION_RULE, GATEWAY, MESH_CONFIG, PEER_AUTHENTICATION, SERVICE_ENTRY, SIDECAR, Type, VIRTUAL_SERVICE,
};
use crate::Kind;

/// The table of a kind.
pub(crate) struct KindTable {
    /// Its `spec`, or all of it if it is no custom resource.
    pub(crate) of: &'static Type,
    pub(crate) resource: Option<Resource>,
}

/// A custom resource, as the API server has it.
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) short: Option<&'static str>,
    /// All that are served; the first is stored.
    pub(crate) versions: &'static [&'static str],
    /// What `kubectl get` shows: names and paths. The age is added if there are any.
    pub(crate) columns: &'static [(&'static str, &'static str)],
}

/// None for Kubernetes' own kinds.
pub(crate) fn kind_table(kind: Kind) -> Option<KindTable> {
    let (networking, security) = (NETWORKING, SECURITY);
    let (of, resource) = match kind {
        Kind::PeerAuthentication => (
            &PEER_AUTHENTICATION,
            Resource { plural: "peerauthentications", short: Some("pa"), columns: &[("Mode", ".spec.mtls.mode")], ..security },
        ),
        Kind::AuthorizationPolicy => (
            &AUTHORIZATION_POLICY,
            Resource { plural: "authorizationpolicies", short: Some("ap"), columns: &[("Action", ".spec.action")], ..security },
        ),
        Kind::Sidecar => (&SIDECAR, Resource { plural: "sidecars", ..networking }),
        Kind::Gateway => (&GATEWAY, Resource { plural: "gateways", short: Some("gw"), ..networking }),
        Kind::ServiceEntry => {
            let columns = &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution")];
            (&SERVICE_ENTRY, Resource { plural: "serviceentries", short: Some("se"), columns, ..networking })
        }
        Kind::DestinationRule => (
            &DESTINATION_RULE,
            Resource { plural: "destinationrules", short: Some("dr"), columns: &[("Host", ".spec.host")], ..networking },
        ),
        Kind::VirtualService => {
            let columns = &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")];
            (&VIRTUAL_SERVICE, Resource { plural: "virtualservices", short: Some("vs"), columns, ..networking })
        }
        Kind::MeshConfig => return Some(KindTable { of: &MESH_CONFIG, resource: None }),
        Kind::Namespace | Kind::Service | Kind::ServiceAccount | Kind::Deployment | Kind::Pod | Kind::ConfigMap | Kind::Secret => {
            return None;
        }
    };
    Some(KindTable { of, resource: Some(resource) })
}

const NETWORKING: Resource =
    Resource { group: "networking.istio.io", plural: "", short: None, versions: &["v1", "v1beta1", "v1alpha3"], columns: &[] };
const SECURITY: Resource = Resource { group: "security.istio.io", plural: "", short: None, versions: &["v1", "v1beta1"], columns: &[] };
