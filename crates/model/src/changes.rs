//! What one snapshot changes of the one before it.

use std::collections::{BTreeSet, HashSet};

use foldhash::fast::RandomState;
use mizzen_types::Hostname;

use crate::query::Query;

/// The queries whose answers may differ from one snapshot to another. What is not among them has the answer that it had.
#[derive(Clone, Debug, Default)]
pub struct ChangeSet {
    queries: HashSet<Query, RandomState>,
    /// Hosts for which routes came, went or changed; a wildcard stands for all that it covers.
    routed: BTreeSet<Hostname>,
    /// The same for DestinationRules.
    ruled: BTreeSet<Hostname>,
}

impl ChangeSet {
    pub(crate) fn insert(&mut self, query: Query) {
        self.queries.insert(query);
    }

    pub(crate) fn routed(&mut self, host: &Hostname) {
        self.routed.insert(host.clone());
    }

    pub(crate) fn ruled(&mut self, host: &Hostname) {
        self.ruled.insert(host.clone());
    }

    /// Adds what a later snapshot changed.
    pub fn merge(&mut self, later: &ChangeSet) {
        self.queries.extend(later.queries.iter().cloned());
        self.routed.extend(later.routed.iter().cloned());
        self.ruled.extend(later.ruled.iter().cloned());
    }

    /// Whether nothing may differ.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty() && self.routed.is_empty() && self.ruled.is_empty()
    }

    /// Whether a query's answer may differ.
    pub fn touches(&self, query: &Query) -> bool {
        match query {
            Query::Routes(host) => self.routed.iter().any(|touched| touched.covers(host)),
            Query::DestinationRules(host) => self.ruled.iter().any(|touched| touched.covers(host)),
            other => self.queries.contains(other),
        }
    }

    /// The queries other than those for rules of a host.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        self.queries.iter()
    }

    /// Hosts for which routes came, went or changed. A wildcard stands for all that it covers.
    pub fn routed_hosts(&self) -> impl Iterator<Item = &Hostname> {
        self.routed.iter()
    }

    /// The same for DestinationRules.
    pub fn ruled_hosts(&self) -> impl Iterator<Item = &Hostname> {
        self.ruled.iter()
    }
}
