//! How a cluster finds its endpoints.

use mizzen_api::istio::{LbPolicy, SimpleLb};
use mizzen_model::{ProxyType, Resolve, ServiceView};
use mizzen_protos::envoy::envoy::config::cluster::v3::cluster::DiscoveryType;

use crate::{dynamic, origination, scope::Scope, traffic::Policy};

/// Whether there are clusters [`names::ALL`]: of headless services, for calls that were not meant for one of their pods from the start.
pub(crate) fn has_all(scope: &Scope<'_, '_>, service: &ServiceView) -> bool {
    service.headless && scope.view.kind(scope.reader) == ProxyType::Sidecar
}

pub(crate) fn kind(scope: &Scope<'_, '_>, service: &ServiceView, subset: &str, policy: &Policy) -> DiscoveryType {
    // Only a rule sends to a part of a headless service, or from elsewhere: what was dialled is no address of that part.
    let chosen = service.headless && !subset.is_empty();
    let passes = policy.load_balancer.as_ref().is_some_and(|balancer| balancer.policy == LbPolicy::Simple(SimpleLb::Passthrough));
    let asked = passes && !chosen;
    let original = asked || (service.resolve == Resolve::OriginalDestination && !chosen);
    match service.resolve {
        // It has no endpoints: nothing goes where it would go without its certificate, or unverified.
        _ if origination::is_barred(scope, policy) => DiscoveryType::Static,
        // What a client dialled is not what its request names: nobody is passed through.
        Resolve::DynamicDns => DiscoveryType::Static,
        // A connection to a gateway was meant for the gateway: it has no other destination.
        _ if original && scope.view.kind(scope.reader) == ProxyType::Router => DiscoveryType::Eds,
        _ if original => DiscoveryType::OriginalDst,
        Resolve::Endpoints => DiscoveryType::Eds,
        _ if chosen => DiscoveryType::Eds,
        Resolve::Dns => DiscoveryType::StrictDns,
        Resolve::DnsRoundRobin => DiscoveryType::LogicalDns,
        Resolve::OriginalDestination => DiscoveryType::OriginalDst,
    }
}

/// Whether a cluster's names are found on demand, which is none of the kinds.
pub(crate) fn is_dynamic(scope: &Scope<'_, '_>, service: &ServiceView, policy: &Policy) -> bool {
    dynamic::is_one(service) && !origination::is_barred(scope, policy)
}

/// Whether the endpoints of a cluster come by EDS.
pub(crate) fn is_eds(scope: &Scope<'_, '_>, service: &ServiceView, subset: &str, policy: &Policy) -> bool {
    kind(scope, service, subset, policy) == DiscoveryType::Eds
}

/// Whether a cluster's connections go where the caller's went.
pub(crate) fn is_original(scope: &Scope<'_, '_>, service: &ServiceView, subset: &str, policy: &Policy) -> bool {
    kind(scope, service, subset, policy) == DiscoveryType::OriginalDst
}
