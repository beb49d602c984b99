//! Reading VirtualServices and DestinationRules by host.

use std::{cmp::Reverse, sync::Arc};

use mizzen_api::{
    Meta,
    istio::{DestinationRule, ExportTo, Subset, TrafficPolicy, VirtualService},
};
use mizzen_types::{Hostname, NamespacedName};

use crate::{derive::or_default, objects::Typed, query::Query, reader::Reader, service::ServiceView};

/// The DestinationRules of one namespace for one host, as one.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveRule {
    /// The oldest of them, by which telemetry knows the whole.
    pub object: NamespacedName,
    /// Its `apiVersion`.
    pub api_version: Arc<str>,
    /// All subsets; of equal names the oldest.
    pub subsets: Vec<Subset>,
    /// The oldest policy.
    pub traffic_policy: Option<TrafficPolicy>,
}

impl<'a> Reader<'a> {
    /// The VirtualServices with a host that covers `host` and that are visible in `namespace`, each with that host: the most specific host first,
    /// of equal ones the oldest.
    pub fn virtual_services(&self, host: &Hostname, namespace: &str) -> Vec<(&'a Hostname, &'a VirtualService)> {
        let snapshot = self.ask(Query::VirtualServices(host.clone()));
        let default = &self.mesh().default_virtual_service_export_to;
        let mut found: Vec<_> = snapshot
            .rules()
            .virtual_services
            .find(host)
            .into_iter()
            .filter_map(|(wide, stored)| Some((wide, VirtualService::of(&stored.value)?)))
            .filter(|(_, service)| visible(&service.export_to, default, &service.meta, namespace))
            .collect();
        found.sort_by_key(|(wide, _)| specificity(wide));
        found
    }

    /// All hosts without wildcard that VirtualServices name, short names completed.
    pub fn routed_hosts(&self) -> impl Iterator<Item = &'a Hostname> {
        self.ask(Query::RoutedHosts).rules().virtual_services.exact_hosts()
    }

    /// The VirtualServices that name a Gateway, oldest first.
    pub fn bound_to(&self, gateway: &NamespacedName) -> Vec<&'a VirtualService> {
        let found = self.ask(Query::BoundTo(gateway.clone())).rules().bound.get(gateway);
        found.into_iter().flatten().filter_map(|stored| VirtualService::of(&stored.value)).collect()
    }

    /// Whether a VirtualService is visible in a namespace, by its own list or the mesh's default.
    pub fn sees(&self, service: &VirtualService, namespace: &str) -> bool {
        visible(&service.export_to, &self.mesh().default_virtual_service_export_to, &service.meta, namespace)
    }

    /// The rule by which those in `namespace` connect to a service: of their own namespace, else of the service's, else of the root namespace;
    /// in each the most specific host.
    pub fn destination_rule(&self, service: &ServiceView, namespace: &str) -> Option<EffectiveRule> {
        let host = &service.host;
        let snapshot = self.ask(Query::DestinationRules(host.clone()));
        let mesh = self.mesh();
        let found: Vec<(&Hostname, &DestinationRule)> = snapshot
            .rules()
            .destination_rules
            .find(host)
            .into_iter()
            .filter_map(|(wide, stored)| Some((wide, DestinationRule::of(&stored.value)?)))
            .filter(|(_, rule)| visible(&rule.export_to, &mesh.default_destination_rule_export_to, &rule.meta, namespace))
            .collect();
        [namespace, service.namespace(), &mesh.root_namespace].into_iter().find_map(|scope| {
            let here = found.iter().filter(|(_, rule)| &*rule.meta.namespace == scope);
            let best = here.clone().map(|(wide, _)| *wide).min_by_key(|wide| specificity(wide))?;
            merge(here.filter(|(wide, _)| *wide == best).map(|(_, rule)| *rule))
        })
    }
}

/// Sorts the most specific host first: exact before wildcard, long before short.
fn specificity(host: &Hostname) -> (bool, Reverse<usize>) {
    (host.is_wildcard(), Reverse(host.as_str().len()))
}

fn visible(own: &[ExportTo], default: &[ExportTo], meta: &Meta, namespace: &str) -> bool {
    ExportTo::visible(&or_default(own, default), &meta.namespace, namespace)
}

fn merge<'a>(rules: impl Iterator<Item = &'a DestinationRule>) -> Option<EffectiveRule> {
    let mut merged: Option<EffectiveRule> = None;
    for rule in rules {
        match &mut merged {
            None => {
                merged = Some(EffectiveRule {
                    object: rule.meta.namespaced_name(),
                    api_version: rule.meta.api_version.clone(),
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
