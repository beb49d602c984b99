//! The index of VirtualServices and DestinationRules by host.

use std::{cmp::Ordering, collections::BTreeMap};

use mizzen_api::{
    Meta, Object,
    istio::{DestinationRule, GatewayRef, VirtualService},
};
use mizzen_types::NamespacedName;

use crate::{
    derive::DOMAIN,
    index::{HostIndex, Stamped, stamp_of},
    objects::{Objects, Typed},
    query::Query,
};

/// Istio's order where the oldest wins: by age, then by name and namespace.
pub fn by_age(a: &Meta, b: &Meta) -> Ordering {
    (a.created, &a.name, &a.namespace).cmp(&(b.created, &b.name, &b.namespace))
}

/// Rules by the hosts they bear on, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) virtual_services: HostIndex<Stamped<Object>>,
    pub(crate) bound: BTreeMap<NamespacedName, Vec<Stamped<Object>>>,
    pub(crate) destination_rules: HostIndex<Stamped<Object>>,
}

impl Rules {
    pub(crate) fn build(objects: &Objects) -> Rules {
        let mut rules = Rules::default();
        for stored in sorted::<VirtualService>(objects) {
            let Some(service) = VirtualService::of(&stored.value) else { continue };
            for gateway in &service.gateways {
                if let GatewayRef::Named(name) = gateway {
                    rules.bound.entry(name.clone()).or_default().push(stored.clone());
                }
            }
            for host in &service.hosts {
                rules.virtual_services.insert(host.qualify(&service.meta.namespace, DOMAIN), stored.clone());
            }
        }
        for stored in sorted::<DestinationRule>(objects) {
            let Some(rule) = DestinationRule::of(&stored.value) else { continue };
            rules.destination_rules.insert(rule.host.qualify(&rule.meta.namespace, DOMAIN), stored.clone());
        }
        rules
    }

    pub(crate) fn stamp(&self, query: &Query) -> u64 {
        match query {
            Query::VirtualServices(host) => stamp_of(self.virtual_services.find(host).into_iter().map(|(wide, s)| (wide, s.stamp))),
            Query::DestinationRules(host) => stamp_of(self.destination_rules.find(host).into_iter().map(|(wide, s)| (wide, s.stamp))),
            Query::BoundTo(gateway) => stamp_of(self.bound.get(gateway).into_iter().flatten().map(|s| s.stamp)),
            Query::RoutedHosts => stamp_of(self.virtual_services.exact_hosts()),
            _ => 0,
        }
    }
}

fn sorted<T: Typed + 'static>(objects: &Objects) -> Vec<Stamped<Object>> {
    let mut found: Vec<Stamped<Object>> = objects.of_kind(T::KIND).cloned().collect();
    found.sort_by(|a, b| by_age(a.value.meta(), b.value.meta()));
    found
}
