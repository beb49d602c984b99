//! Stamps: which version last changed an answer; and look-up by host. All maps share with the maps before them what did not change.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use mizzen_types::Hostname;
use rpds::RedBlackTreeMapSync as Map;

/// Something of a snapshot, and the version that last changed its content.
#[derive(Debug)]
pub(crate) struct Stamped<T> {
    pub(crate) stamp: u64,
    pub(crate) value: Arc<T>,
}

impl<T> Clone for Stamped<T> {
    fn clone(&self) -> Self {
        Stamped { stamp: self.stamp, value: self.value.clone() }
    }
}

/// Keeps a map's value where it equals the new one, with its stamp. Returns whether it differs.
pub(crate) fn restamp<K: Ord + Clone, T: PartialEq>(map: &mut Map<K, Stamped<T>>, key: &K, new: Option<T>, version: u64) -> bool {
    match (map.get(key), new) {
        (None, None) => false,
        (Some(old), Some(new)) if *old.value == new => false,
        (_, Some(new)) => {
            map.insert_mut(key.clone(), Stamped { stamp: version, value: Arc::new(new) });
            true
        }
        (Some(_), None) => map.remove_mut(key),
    }
}

/// The stamp of an answer that is a list: a hash of what identifies its items. Never 0, which is the stamp of nothing.
pub(crate) fn stamp_of<I: Hash>(items: impl IntoIterator<Item = I>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut count = 0u64;
    for item in items {
        item.hash(&mut hasher);
        count += 1;
    }
    if count == 0 { 0 } else { hasher.finish() | 1 }
}

/// Things with hosts, found by a name that one of their hosts covers.
#[derive(Clone, Debug)]
pub(crate) struct HostIndex<T> {
    exact: Map<Hostname, Vec<T>>,
    /// By what follows the star.
    wild: Map<Box<str>, (Hostname, Vec<T>)>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        HostIndex { exact: Map::new_sync(), wild: Map::new_sync() }
    }
}

impl<T: Clone> HostIndex<T> {
    pub(crate) fn insert(&mut self, host: Hostname, item: T) {
        self.change(&host, |items| items.push(item));
    }

    /// Changes the list of one host. Returns whether the host came or went.
    pub(crate) fn change(&mut self, host: &Hostname, by: impl FnOnce(&mut Vec<T>)) -> bool {
        let mut items = match after_star(host) {
            Some(rest) => self.wild.get(rest).map(|(_, items)| items),
            None => self.exact.get(host),
        }
        .cloned()
        .unwrap_or_default();
        let before = items.is_empty();
        by(&mut items);
        let after = items.is_empty();
        match (after_star(host), after) {
            (Some(rest), false) => self.wild.insert_mut(rest.into(), (host.clone(), items)),
            (Some(rest), true) => _ = self.wild.remove_mut(rest),
            (None, false) => self.exact.insert_mut(host.clone(), items),
            (None, true) => _ = self.exact.remove_mut(host),
        }
        before != after
    }

    /// All items with a host that covers `host`, each with that host: exact ones first, then the longest wildcards, in the order of insertion for each host.
    pub(crate) fn find<'a>(&'a self, host: &Hostname) -> Vec<(&'a Hostname, &'a T)> {
        let exact = self.exact.get_key_value(host).into_iter().flat_map(|(key, items)| items.iter().map(move |item| (key, item)));
        let mut found: Vec<(&'a Hostname, &'a T)> = exact.collect();
        if !self.wild.is_empty() {
            let name = after_star(host).unwrap_or(host.as_str());
            let dots = name.match_indices('.').filter_map(|(at, _)| name.get(at..));
            for rest in dots.chain([""]) {
                let here = self.wild.get(rest).into_iter();
                found.extend(here.flat_map(|(wide, items)| items.iter().map(move |item| (wide, item))));
            }
        }
        found
    }

    /// All hosts without wildcard.
    pub(crate) fn exact_hosts(&self) -> impl Iterator<Item = &Hostname> {
        self.exact.keys()
    }
}

fn after_star(host: &Hostname) -> Option<&str> {
    host.as_str().strip_prefix('*')
}
