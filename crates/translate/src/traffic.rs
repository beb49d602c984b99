//! The traffic policy of one cluster: DestinationRule, subset and port put together.

use mizzen_api::istio::{
    ClientTls, ConnectionPool, ConsistentHash, H2Upgrade, HashKey, LbPolicy, LoadBalancer, OutlierDetection, RetryBudget, Subset,
    TrafficPolicy,
};
use mizzen_model::{EffectiveRule, ServiceView};
use mizzen_types::Protocol;

use crate::{names, scope::Scope};

/// What holds for one port of a service, or of a subset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) pool: ConnectionPool,
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) retry_budget: Option<RetryBudget>,
    /// Whether the rule is for some workloads alone, this one among them.
    pub(crate) is_selective: bool,
}

impl Policy {
    /// How keys of requests lead to endpoints, if they do.
    pub(crate) fn hash(&self) -> Option<&ConsistentHash> {
        match self.load_balancer.as_ref().map(|balancer| &balancer.policy) {
            Some(LbPolicy::Hash(hash)) => Some(hash),
            Some(LbPolicy::Simple(_)) | None => None,
        }
    }

    /// Whether the caller's address is the key.
    pub(crate) fn hashes_source(&self) -> bool {
        self.hash().is_some_and(|hash| hash.key == Some(HashKey::SourceIp))
    }

    /// Whether requests to a port are written as HTTP/2, however they came.
    pub(crate) fn is_http2(&self, scope: &Scope<'_, '_>, protocol: Protocol) -> bool {
        let http = &self.pool.http;
        !http.use_client_protocol
            && (protocol.is_http2()
                || match http.h2_upgrade {
                    H2Upgrade::Always => true,
                    H2Upgrade::Never => false,
                    H2Upgrade::Default => protocol.is_http() && scope.mesh().h2_upgrade,
                })
    }
}

/// The rule for a service as this proxy sees it.
pub(crate) fn rule(scope: &Scope<'_, '_>, service: &ServiceView) -> Option<EffectiveRule> {
    scope.view.rule(scope.reader, service)
}

/// The rule for a service as who serves it sees it.
pub(crate) fn rule_inbound(scope: &Scope<'_, '_>, service: &ServiceView) -> Option<EffectiveRule> {
    scope.view.rule_inbound(scope.reader, service)
}

/// The policy of a service's port, or of that port of a subset.
pub(crate) fn policy(scope: &Scope<'_, '_>, service: &ServiceView, port: u16, subset: &str) -> Policy {
    match rule(scope, service) {
        Some(rule) => of_rule(&rule, port, rule.subsets.iter().find(|s| s.name == subset && !subset.is_empty())),
        None => Policy::default(),
    }
}

/// The policy of a cluster by its name; the default where there is no such service.
pub(crate) fn of_cluster(scope: &Scope<'_, '_>, cluster: &str) -> Policy {
    let Some((port, subset, host)) = names::parse_outbound(cluster) else { return Policy::default() };
    scope.service_at(&host, port).map(|service| policy(scope, service, port, subset)).unwrap_or_default()
}

/// The policy that a rule has for a port.
pub(crate) fn of_rule(rule: &EffectiveRule, port: u16, subset: Option<&Subset>) -> Policy {
    let mut policy = Policy { is_selective: rule.is_selective, ..Policy::default() };
    let layers = [rule.traffic_policy.as_deref(), subset.and_then(|s| s.traffic_policy.as_deref())];
    for layer in layers.into_iter().flatten() {
        match layer.port_level_settings.get(&port) {
            // What is said of a port is all that is said of it: nothing is inherited.
            Some(exact) => {
                let retry_budget = layer.retry_budget.or(policy.retry_budget);
                policy = overlay(Policy { retry_budget, is_selective: rule.is_selective, ..Policy::default() }, exact);
            }
            None => policy = overlay(policy, layer),
        }
    }
    policy
}

fn overlay(under: Policy, over: &TrafficPolicy) -> Policy {
    Policy {
        load_balancer: over.load_balancer.clone().or(under.load_balancer),
        pool: over.connection_pool.clone().unwrap_or(under.pool),
        outlier: over.outlier_detection.clone().or(under.outlier),
        tls: over.tls.clone().or(under.tls),
        retry_budget: over.retry_budget.or(under.retry_budget),
        is_selective: under.is_selective,
    }
}
