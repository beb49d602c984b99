//! Reading routes and DestinationRules by host.

use std::{cmp::Reverse, sync::Arc};

use mizzen_api::{
    Meta, Object, Selector,
    istio::{DestinationRule, ExportTo, MeshConfig, Subset, TrafficPolicy},
};
use mizzen_types::{Hostname, NamespacedName};

use crate::{index::Stamped, objects::Typed, query::Query, reader::Reader, routes::RouteRules, service::ServiceView};

/// The DestinationRules of one namespace for one host, as one.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveRule {
    /// The oldest of them, by which telemetry knows the whole.
    pub object: NamespacedName,
    /// Its `apiVersion`.
    pub api_version: Arc<str>,
    /// Whether it is for some workloads alone.
    pub is_selective: bool,
    /// All subsets; of equal names the oldest.
    pub subsets: Vec<Subset>,
    /// The oldest policy.
    pub traffic_policy: Option<Box<TrafficPolicy>>,
}

type Found<'a> = Vec<(&'a Hostname, &'a Stamped<Object>)>;

impl<'a> Reader<'a> {
    /// All routes with a host that covers `host`, the most specific host first, of equal ones the oldest.
    pub(crate) fn routes_for(&self, host: &Hostname) -> Found<'a> {
        let mut found = self.ask(Query::Routes(host.clone())).rules().routes.find(host);
        found.sort_by_key(|(wide, _)| specificity(wide));
        found
    }

    /// All DestinationRules with a host that covers `host`, exact ones before wildcards, each oldest first.
    pub(crate) fn destination_rules_for(&self, host: &Hostname) -> Found<'a> {
        self.ask(Query::DestinationRules(host.clone())).rules().destination_rules.find(host)
    }

    /// All hosts without wildcard that routes name, short names completed.
    pub fn routed_hosts(&self) -> impl Iterator<Item = &'a Hostname> {
        self.ask(Query::RoutedHosts).rules().routes.exact_hosts()
    }

    /// The routes of requests that lead to a host with a wildcard, each object's where it holds.
    pub fn routes_to_wildcards(&self) -> impl Iterator<Item = RouteRules<'a>> {
        self.ask(Query::RoutesToWildcards).rules().to_wildcards.values().filter_map(|stored| RouteRules::of(&stored.value))
    }

    /// The routes of TLS that is not ended on the way.
    pub fn tls_routes(&self) -> impl Iterator<Item = RouteRules<'a>> {
        self.ask(Query::TlsRoutes).rules().tls.values().filter_map(|stored| RouteRules::of(&stored.value))
    }

    /// The routes that name a Gateway, oldest first.
    pub fn bound_to(&self, gateway: &NamespacedName) -> Vec<RouteRules<'a>> {
        let found = self.ask(Query::BoundTo(gateway.clone())).rules().bound.get(gateway);
        found.into_iter().flatten().filter_map(|stored| RouteRules::of(&stored.value)).collect()
    }

    /// The rule by which those in `namespace` connect to a service, whatever their labels: of their own namespace, else of the service's, else of the root
    /// namespace; in each the most specific host.
    pub fn destination_rule(&self, service: &ServiceView, namespace: &str) -> Option<EffectiveRule> {
        let found = self.destination_rules_for(&service.host);
        merge(
            choose(self.mesh(), &found, service.namespace(), namespace, |_| false)
                .into_iter()
                .filter_map(|stored| DestinationRule::of(&stored.value)),
        )
    }
}

/// Of the DestinationRules for a host of a service those that hold for a namespace, in the order in which they are merged. Those with a selector hold in
/// their own namespace where it `selects`, and come before those without one.
pub(crate) fn choose<'a>(
    mesh: &MeshConfig,
    found: &Found<'a>,
    of_service: &str,
    namespace: &str,
    selects: impl Fn(&Selector) -> bool,
) -> Vec<&'a Stamped<Object>> {
    let default = &mesh.default_destination_rule_export_to;
    let seen: Vec<(&Hostname, &Stamped<Object>, &DestinationRule)> = found
        .iter()
        .filter_map(|(wide, stored)| Some((*wide, *stored, DestinationRule::of(&stored.value)?)))
        .filter(|(_, _, rule)| match &rule.selector {
            None => visible(&rule.export_to, default, &rule.meta, namespace),
            Some(selector) => *rule.meta.namespace == *namespace && selects(selector),
        })
        .collect();
    let chosen = [namespace, of_service, &mesh.root_namespace].into_iter().find_map(|scope| {
        let here = seen.iter().filter(|(_, _, rule)| &*rule.meta.namespace == scope);
        let best = here.clone().map(|(wide, ..)| *wide).min_by_key(|wide| specificity(wide))?;
        let here = here.filter(|(wide, ..)| *wide == best);
        let selector = here.clone().find_map(|(_, _, rule)| rule.selector.as_ref());
        Some(here.filter(|(_, _, rule)| rule.selector.as_ref() == selector).map(|(_, stored, _)| *stored).collect())
    });
    chosen.unwrap_or_default()
}

/// Sorts the most specific host first: exact before wildcard, long before short.
fn specificity(host: &Hostname) -> (bool, Reverse<usize>) {
    (host.is_wildcard(), Reverse(host.as_str().len()))
}

/// Whether an object is visible in a namespace, by its own list or the mesh's default.
pub(crate) fn visible(own: &[ExportTo], default: &[ExportTo], meta: &Meta, namespace: &str) -> bool {
    ExportTo::visible(if own.is_empty() { default } else { own }, &meta.namespace, namespace)
}

/// Whether an object is visible everywhere.
pub(crate) fn visible_to_all(own: &[ExportTo], default: &[ExportTo]) -> bool {
    let list = if own.is_empty() { default } else { own };
    list.is_empty() || list.contains(&ExportTo::All)
}

/// Several rules as one.
pub(crate) fn merge<'a>(rules: impl Iterator<Item = &'a DestinationRule>) -> Option<EffectiveRule> {
    let mut merged: Option<EffectiveRule> = None;
    for rule in rules {
        match &mut merged {
            None => {
                merged = Some(EffectiveRule {
                    object: rule.meta.namespaced_name(),
                    api_version: rule.meta.api_version.clone(),
                    is_selective: rule.selector.is_some(),
                    subsets: rule.subsets.clone(),
                    traffic_policy: rule.traffic_policy.clone(),
                });
            }
            Some(first) => {
                for subset in &rule.subsets {
                    if first.subsets.iter().all(|known| known.name != subset.name) {
                        first.subsets.push(subset.clone());
                    }
                }
                if first.traffic_policy.is_none() {
                    first.traffic_policy.clone_from(&rule.traffic_policy);
                }
            }
        }
    }
    merged
}
