//! What differs between two configurations.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_types::Name;

use crate::config::{Names, Transport};
use crate::runtime::Config;

/// What a configuration changed in the one that it was made of, by name. Whoever follows it looks at nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Listeners that are new, different or gone.
    pub listeners: BTreeSet<Name>,
    /// Route configurations.
    pub routes: BTreeSet<Name>,
    /// Clusters.
    pub clusters: BTreeSet<Name>,
    /// Endpoints, by the name that clusters have for them.
    pub assignments: BTreeSet<Name>,
    /// Certificates, roots.
    pub secrets: BTreeSet<Name>,
    /// Clusters whose connections may be made otherwise, or to others: they, their endpoints or their TLS have changed.
    pub reached: BTreeSet<Name>,
    /// Whether the index of the mesh may be another one.
    pub mesh: bool,
}

impl Changes {
    /// Compares two configurations as a whole: the work is that of their size. What both share is seen by its address.
    pub(crate) fn between(old: &Config, new: &Config) -> Changes {
        let mut changes = Changes {
            listeners: differing(&old.listeners, &new.listeners, |a, b| a.hash == b.hash),
            routes: differing(&old.routes, &new.routes, |a, b| a.hash == b.hash),
            clusters: differing(&old.clusters, &new.clusters, |a, b| a.hash == b.hash),
            assignments: differing(&old.assignments, &new.assignments, |a, b| a.hash == b.hash),
            secrets: differing(&old.certificates, &new.certificates, |a, b| a.hash == b.hash),
            reached: BTreeSet::new(),
            mesh: old.mesh.as_ref().map(Arc::as_ptr) != new.mesh.as_ref().map(Arc::as_ptr),
        };
        changes.secrets.extend(differing(&old.validations, &new.validations, |a, b| a.hash == b.hash));
        changes.reach(old, new);
        for (name, cluster) in new.clusters.iter().filter(|(name, _)| !changes.clusters.contains(*name)) {
            let same = |transport: &Transport| match transport {
                Transport::Raw => true,
                Transport::Tls(tls) => match (old.client_tls(tls), new.client_tls(tls)) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                },
            };
            if !cluster.transport.all().all(same) {
                changes.reached.insert(name.clone());
            }
        }
        changes
    }

    /// Takes out what is again what it was.
    pub(crate) fn settle(&mut self, old: &Config, new: &Config) {
        let same = |a: Option<_>, b: Option<_>| a == b;
        self.listeners.retain(|n| !same(old.listeners.get(n).map(|r| r.hash), new.listeners.get(n).map(|r| r.hash)));
        self.routes.retain(|n| !same(old.routes.get(n).map(|r| r.hash), new.routes.get(n).map(|r| r.hash)));
        self.clusters.retain(|n| !same(old.clusters.get(n).map(|r| r.hash), new.clusters.get(n).map(|r| r.hash)));
        self.assignments.retain(|n| !same(old.assignments.get(n).map(|r| r.hash), new.assignments.get(n).map(|r| r.hash)));
        let secret = |c: &Config, n: &Name| (c.certificates.get(n).map(|r| r.hash), c.validations.get(n).map(|r| r.hash));
        self.secrets.retain(|n| secret(old, n) != secret(new, n));
    }

    /// Finds the clusters that the changed clusters and endpoints reach.
    pub(crate) fn reach(&mut self, old: &Config, new: &Config) {
        self.reached.extend(self.clusters.iter().cloned());
        for name in &self.assignments {
            self.reached.extend([old, new].into_iter().flat_map(|config| config.index.of_assignment(name)).cloned());
        }
    }

    /// How many names it holds.
    pub fn len(&self) -> usize {
        let Changes { listeners, routes, clusters, assignments, secrets, reached, mesh: _ } = self;
        [listeners, routes, clusters, assignments, secrets, reached].into_iter().map(BTreeSet::len).sum()
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.mesh
    }
}

fn differing<T>(old: &Names<T>, new: &Names<T>, same: impl Fn(&T, &T) -> bool) -> BTreeSet<Name> {
    let is_same = |name: &Name, value: &Arc<T>| old.get(name).is_some_and(|before| Arc::ptr_eq(before, value) || same(before, value));
    let changed = new.iter().filter(|(name, value)| !is_same(name, value)).map(|(name, _)| name);
    changed.chain(old.keys().filter(|name| !new.contains_key(*name))).cloned().collect()
}
