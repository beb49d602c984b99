//! The traffic policy of one cluster: DestinationRule, subset and port put together.

use mizzen_api::istio::{ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, Subset, TrafficPolicy};
use mizzen_model::{EffectiveRule, ServiceView};

use crate::scope::Scope;

/// What holds for one port of a service, or of a subset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) pool: ConnectionPool,
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) tls: Option<ClientTls>,
}

/// The rule for a service as this proxy sees it.
pub(crate) fn rule(scope: &Scope<'_, '_>, service: &ServiceView) -> Option<EffectiveRule> {
    scope.reader.destination_rule(service, scope.namespace())
}

/// The policy of a service's port, or of that port of a subset.
pub(crate) fn policy(scope: &Scope<'_, '_>, service: &ServiceView, port: u16, subset: &str) -> Policy {
    match rule(scope, service) {
        Some(rule) => of_rule(&rule, port, rule.subsets.iter().find(|s| s.name == subset && !subset.is_empty())),
        None => Policy::default(),
    }
}

/// The policy that a rule has for a port.
pub(crate) fn of_rule(rule: &EffectiveRule, port: u16, subset: Option<&Subset>) -> Policy {
    let mut policy = Policy::default();
    let layers = [rule.traffic_policy.as_ref(), subset.and_then(|s| s.traffic_policy.as_ref())];
    for layer in layers.into_iter().flatten() {
        match layer.port_level_settings.get(&port) {
            // What is said of a port is all that is said of it: nothing is inherited.
            Some(exact) => policy = overlay(Policy::default(), exact),
            None => policy = overlay(policy, layer),
        }
    }
    policy
}

fn overlay(under: Policy, over: &TrafficPolicy) -> Policy {
    Policy {
        load_balancer: over.load_balancer.or(under.load_balancer),
        pool: over.connection_pool.clone().unwrap_or(under.pool),
        outlier: over.outlier_detection.clone().or(under.outlier),
        tls: over.tls.or(under.tls),
    }
}
