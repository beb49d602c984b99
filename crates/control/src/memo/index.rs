//! Which results asked what: from changed answers to the results that may differ.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use foldhash::fast::RandomState;
use mizzen_model::{ChangeSet, Query};
use mizzen_types::Hostname;

/// The number of a slot.
pub(super) type Number = u32;

/// Slots by the queries on which they depend.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_query: HashMap<Query, BTreeSet<Number>, RandomState>,
    /// Rules of hosts, by the host's labels in reverse: what a wildcard covers lies next to each other.
    routed: BTreeMap<Box<str>, (Hostname, BTreeSet<Number>)>,
    ruled: BTreeMap<Box<str>, (Hostname, BTreeSet<Number>)>,
    of_slot: HashMap<Number, HashSet<Query, RandomState>>,
}

impl Index {
    /// Adds what a slot depends on.
    pub(super) fn add<'q>(&mut self, slot: Number, queries: impl Iterator<Item = &'q Query>) {
        let mut known = self.of_slot.remove(&slot).unwrap_or_default();
        for query in queries {
            if !known.contains(query) {
                known.insert(query.clone());
                self.link(slot, query);
            }
        }
        self.of_slot.insert(slot, known);
    }

    /// Replaces what a slot depends on.
    pub(super) fn set<'q>(&mut self, slot: Number, queries: impl Iterator<Item = &'q Query>) {
        let now: HashSet<&Query, RandomState> = queries.collect();
        let mut known = self.of_slot.remove(&slot).unwrap_or_default();
        let gone: Vec<Query> = known.extract_if(|query| !now.contains(query)).collect();
        gone.iter().for_each(|query| self.unlink(slot, query));
        for query in now {
            if !known.contains(query) {
                known.insert(query.clone());
                self.link(slot, query);
            }
        }
        if !known.is_empty() {
            self.of_slot.insert(slot, known);
        }
    }

    /// The slots of which something may differ.
    pub(super) fn touched(&self, changes: &ChangeSet) -> BTreeSet<Number> {
        let mut found = BTreeSet::new();
        for query in changes.queries() {
            found.extend(self.by_query.get(query).into_iter().flatten());
        }
        changes.routed_hosts().for_each(|host| covered(&self.routed, host, &mut found));
        changes.ruled_hosts().for_each(|host| covered(&self.ruled, host, &mut found));
        found
    }

    fn link(&mut self, slot: Number, query: &Query) {
        let slots = match query {
            Query::Routes(host) => &mut self.routed.entry(reversed(host)).or_insert_with(|| (host.clone(), BTreeSet::new())).1,
            Query::DestinationRules(host) => &mut self.ruled.entry(reversed(host)).or_insert_with(|| (host.clone(), BTreeSet::new())).1,
            other => self.by_query.entry(other.clone()).or_default(),
        };
        slots.insert(slot);
    }

    fn unlink(&mut self, slot: Number, query: &Query) {
        let by_host = match query {
            Query::Routes(host) => Some((&mut self.routed, host)),
            Query::DestinationRules(host) => Some((&mut self.ruled, host)),
            _ => None,
        };
        if let Some((map, host)) = by_host {
            let key = reversed(host);
            if let Some((_, slots)) = map.get_mut(&key) {
                slots.remove(&slot);
                if slots.is_empty() {
                    map.remove(&key);
                }
            }
        } else if let Some(slots) = self.by_query.get_mut(query) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.by_query.remove(query);
            }
        }
    }
}

/// `a.b.c` as `c.b.a.`
fn reversed(host: &Hostname) -> Box<str> {
    let mut text = String::with_capacity(host.as_str().len() + 1);
    for label in host.as_str().rsplit('.') {
        text.push_str(label);
        text.push('.');
    }
    text.into()
}

fn covered(map: &BTreeMap<Box<str>, (Hostname, BTreeSet<Number>)>, host: &Hostname, found: &mut BTreeSet<Number>) {
    let whole = reversed(host);
    let Some(prefix) = whole.strip_suffix("*.") else {
        found.extend(map.get(&whole).into_iter().flat_map(|(_, slots)| slots));
        return;
    };
    let range = map.range(Box::from(prefix)..).take_while(|(key, _)| key.starts_with(prefix));
    for (_, (there, slots)) in range {
        if host.covers(there) {
            found.extend(slots);
        }
    }
}
