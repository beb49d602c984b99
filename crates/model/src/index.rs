//! Stamps: which version last changed an answer; and look-up by host.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use mizzen_types::Hostname;

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

/// Where a new value equals the old one, the old one stays, with its stamp.
pub(crate) fn restamp<K: Ord, T: PartialEq>(
    old: &BTreeMap<K, Stamped<T>>,
    new: BTreeMap<K, Arc<T>>,
    version: u64,
) -> BTreeMap<K, Stamped<T>> {
    new.into_iter()
        .map(|(key, value)| {
            let kept = old.get(&key).filter(|s| s.value == value).cloned();
            (key, kept.unwrap_or(Stamped { stamp: version, value }))
        })
        .collect()
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
    exact: BTreeMap<Hostname, Vec<T>>,
    wild: Vec<(Hostname, T)>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        HostIndex { exact: BTreeMap::new(), wild: Vec::new() }
    }
}

impl<T: Clone> HostIndex<T> {
    pub(crate) fn insert(&mut self, host: Hostname, item: T) {
        if host.is_wildcard() {
            self.wild.push((host, item));
        } else {
            self.exact.entry(host).or_default().push(item);
        }
    }

    /// All items with a host that covers `host`, each with that host, in the order of insertion within exact and wildcard ones.
    pub(crate) fn find<'a>(&'a self, host: &Hostname) -> Vec<(&'a Hostname, &'a T)> {
        let exact = self.exact.get_key_value(host).into_iter().flat_map(|(key, items)| items.iter().map(move |item| (key, item)));
        exact.chain(self.wild.iter().filter(|(wide, _)| wide.covers(host)).map(|(wide, item)| (wide, item))).collect()
    }

    /// All hosts without wildcard.
    pub(crate) fn exact_hosts(&self) -> impl Iterator<Item = &Hostname> {
        self.exact.keys()
    }
}
