//! The index of routes and DestinationRules by host.

use std::{cmp::Ordering, collections::BTreeSet};

use mizzen_api::{
    Key, Kind, Meta, Object,
    istio::{DestinationRule, GatewayRef},
};
use mizzen_types::{Hostname, NamespacedName};
use rpds::RedBlackTreeMapSync as Map;

use crate::{
    changes::ChangeSet,
    delegates,
    derive::DOMAIN,
    index::{HostIndex, Stamped, stamp_of},
    objects::{Objects, Typed},
    query::Query,
    routes::RouteRules,
};

/// Istio's order where the oldest wins: by age, then by name and namespace.
pub fn by_age(a: &Meta, b: &Meta) -> Ordering {
    (a.created, &a.name, &a.namespace).cmp(&(b.created, &b.name, &b.namespace))
}

/// Rules by the hosts they bear on, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) routes: HostIndex<Stamped<Object>>,
    pub(crate) bound: Map<NamespacedName, Vec<Stamped<Object>>>,
    pub(crate) destination_rules: HostIndex<Stamped<Object>>,
    /// Objects that leave routes to others, with these.
    pub(crate) merged: Map<Key, Stamped<Object>>,
    /// Objects with routes of requests that lead to a host with a wildcard, with those that they leave to others.
    pub(crate) to_wildcards: Map<Key, Stamped<Object>>,
    /// Objects with routes of TLS.
    pub(crate) tls: Map<Key, Stamped<Object>>,
    /// By whom routes are left to an object, whether it is there or not.
    delegating: Map<Key, BTreeSet<Key>>,
    /// The version that last changed for which hosts there are routes.
    hosts: u64,
}

impl Rules {
    /// The next rules: only lists of hosts and gateways that touched objects name, before or now, are made anew.
    pub(crate) fn update(&self, old: &Objects, new: &Objects, touched: &[Key], changes: &mut ChangeSet) -> Rules {
        let mut next = self.clone();
        for key in touched {
            match key.kind {
                kind if RouteRules::KINDS.contains(&kind) => next.routes(old, new, key, changes),
                Kind::DestinationRule => next.destination_rule(old, new, key, changes),
                _ => {}
            }
        }
        for root in next.to_merge_again(old, new, touched) {
            next.routes(old, new, &root, changes);
        }
        next
    }

    /// Whether anybody leaves routes to others.
    pub(crate) fn has_delegates(&self) -> bool {
        !self.delegating.is_empty()
    }

    /// Who leaves routes to a touched object, and was not touched itself.
    fn to_merge_again(&self, old: &Objects, new: &Objects, touched: &[Key]) -> BTreeSet<Key> {
        let mut roots: BTreeSet<Key> = touched.iter().filter_map(|key| self.delegating.get(key)).flatten().cloned().collect();
        if old.mesh().default_virtual_service_export_to != new.mesh().default_virtual_service_export_to {
            roots.extend(self.delegating.values().flatten().cloned());
        }
        touched.iter().for_each(|key| _ = roots.remove(key));
        roots
    }

    /// Keeps who leaves routes to whom.
    fn delegates(&mut self, old: &Objects, key: &Key, stored: Option<&Stamped<Object>>) {
        for delegate in old.object(key).map(delegates::named).unwrap_or_default() {
            let mut roots = self.delegating.get(&delegate).cloned().unwrap_or_default();
            roots.remove(key);
            self.delegating.remove_mut(&delegate);
            if !roots.is_empty() {
                self.delegating.insert_mut(delegate, roots);
            }
        }
        for delegate in stored.map(|stored| delegates::named(&stored.value)).unwrap_or_default() {
            let mut roots = self.delegating.get(&delegate).cloned().unwrap_or_default();
            roots.insert(key.clone());
            self.delegating.insert_mut(delegate, roots);
        }
    }

    fn routes(&mut self, old: &Objects, new: &Objects, key: &Key, changes: &mut ChangeSet) {
        self.delegates(old, key, new.stored(key));
        let stored = new.stored(key).map(|stored| delegates::merged(new, stored));
        self.merged.remove_mut(key);
        if let Some(merged) = stored.as_ref().filter(|_| new.object(key).is_some_and(|object| !delegates::named(object).is_empty())) {
            self.merged.insert_mut(key.clone(), merged.clone());
        }
        let rules = stored.as_ref().and_then(|stored| RouteRules::of(&stored.value)).filter(|rules| !rules.hosts.is_empty());
        for (kept, query, belongs) in [
            (&mut self.to_wildcards, Query::RoutesToWildcards, rules.is_some_and(|rules| rules.lead_to_wildcards())),
            (&mut self.tls, Query::TlsRoutes, rules.is_some_and(|rules| !rules.tls.is_empty())),
        ] {
            let was = kept.remove_mut(key);
            if let Some(stored) = stored.as_ref().filter(|_| belongs) {
                kept.insert_mut(key.clone(), stored.clone());
            }
            if was || belongs {
                changes.insert(query);
            }
        }
        let was = old.object(key).and_then(RouteRules::of);
        let is = stored.as_ref().and_then(|stored| RouteRules::of(&stored.value));
        let hosts =
            |rules: RouteRules<'_>| -> Vec<Hostname> { rules.hosts.iter().map(|h| h.qualify(&rules.meta.namespace, DOMAIN)).collect() };
        let gateways = |rules: RouteRules<'_>| -> Vec<NamespacedName> {
            let named = rules.parents.iter().filter_map(|gateway| match gateway {
                GatewayRef::Named(name) => Some(name.clone()),
                GatewayRef::Mesh => None,
            });
            named.collect()
        };
        for host in was.map(hosts).unwrap_or_default() {
            if self.routes.change(&host, |list| remove(list, key)) {
                self.hosts = new.version;
            }
            changes.routed(&host);
        }
        for host in is.map(hosts).unwrap_or_default() {
            if self.routes.change(&host, |list| add(list, stored.as_ref())) {
                self.hosts = new.version;
            }
            changes.routed(&host);
        }
        for gateway in was.map(gateways).unwrap_or_default() {
            let mut list = self.bound.get(&gateway).cloned().unwrap_or_default();
            remove(&mut list, key);
            self.bound.remove_mut(&gateway);
            if !list.is_empty() {
                self.bound.insert_mut(gateway.clone(), list);
            }
            changes.insert(Query::BoundTo(gateway));
        }
        for gateway in is.map(gateways).unwrap_or_default() {
            let mut list = self.bound.get(&gateway).cloned().unwrap_or_default();
            add(&mut list, stored.as_ref());
            self.bound.insert_mut(gateway.clone(), list);
            changes.insert(Query::BoundTo(gateway));
        }
        if self.hosts == new.version {
            changes.insert(Query::RoutedHosts);
        }
    }

    fn destination_rule(&mut self, old: &Objects, new: &Objects, key: &Key, changes: &mut ChangeSet) {
        let host = |object: &Object| DestinationRule::of(object).map(|rule| rule.host.qualify(&rule.meta.namespace, DOMAIN));
        if let Some(host) = old.object(key).and_then(host) {
            self.destination_rules.change(&host, |list| remove(list, key));
            changes.ruled(&host);
        }
        let stored = new.stored(key);
        if let Some(host) = stored.and_then(|stored| host(&stored.value)) {
            self.destination_rules.change(&host, |list| add(list, stored));
            changes.ruled(&host);
        }
    }

    pub(crate) fn stamp(&self, query: &Query) -> u64 {
        match query {
            Query::Routes(host) => stamp_of(self.routes.find(host).into_iter().map(|(wide, s)| (wide, s.stamp))),
            Query::DestinationRules(host) => stamp_of(self.destination_rules.find(host).into_iter().map(|(wide, s)| (wide, s.stamp))),
            Query::BoundTo(gateway) => stamp_of(self.bound.get(gateway).into_iter().flatten().map(|s| s.stamp)),
            Query::RoutedHosts => self.hosts,
            Query::RoutesToWildcards => stamp_of(self.to_wildcards.iter().map(|(key, stored)| (key, stored.stamp))),
            Query::TlsRoutes => stamp_of(self.tls.iter().map(|(key, stored)| (key, stored.stamp))),
            _ => 0,
        }
    }
}

fn remove(list: &mut Vec<Stamped<Object>>, key: &Key) {
    list.retain(|stored| stored.value.key() != *key);
}

fn add(list: &mut Vec<Stamped<Object>>, new: Option<&Stamped<Object>>) {
    let Some(new) = new else { return };
    let at = list.partition_point(|stored| by_age(stored.value.meta(), new.value.meta()).is_le());
    list.insert(at, new.clone());
}
