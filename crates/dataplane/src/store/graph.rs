//! Who names whom, and what has to be asked for because it is named.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_ir::{Few, Refs, ResourceKind, config::SecretRef};
use mizzen_types::Name;

use super::{Key, Stored, names};

/// Something that has to be asked for by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Want {
    /// A cluster, where not all of them come without being asked for.
    Cluster(Name),
    /// A route configuration.
    Route(Name),
    /// Endpoints.
    Assignment(Name),
    /// A secret, with where it is asked for.
    Secret(SecretRef),
}

impl Want {
    /// The resource that it is.
    pub(crate) fn key(&self) -> Key {
        match self {
            Want::Cluster(name) => (ResourceKind::Cluster, name.clone()),
            Want::Route(name) => (ResourceKind::Route, name.clone()),
            Want::Assignment(name) => (ResourceKind::Assignment, name.clone()),
            Want::Secret(secret) => (ResourceKind::Secret, secret.name.clone()),
        }
    }

    fn all(refs: &Refs, clusters: bool) -> impl Iterator<Item = Want> {
        let secrets = refs.secrets.iter().cloned().map(Want::Secret);
        let assignments = refs.assignments.iter().cloned().map(Want::Assignment);
        let clusters = refs.clusters.iter().filter(move |_| clusters).cloned().map(Want::Cluster);
        secrets.chain(assignments).chain(clusters).chain(refs.routes.iter().cloned().map(Want::Route))
    }
}

/// The resources that others name, in the version that arrived last or in the one in force.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Nearly always it is one.
    users: BTreeMap<Key, Few<Key>>,
    /// How many versions of resources want it.
    wants: BTreeMap<Want, usize>,
    /// Wants of which there was none, or is none any more.
    news: BTreeSet<Want>,
    /// Whether clusters are wanted by name.
    clusters: bool,
}

/// What a resource's versions name.
#[derive(Default)]
pub(super) struct Named {
    keys: BTreeSet<Key>,
    wants: BTreeSet<Want>,
}

impl Graph {
    /// What a resource's versions name.
    pub(super) fn named(&self, stored: &Stored) -> Named {
        Named {
            keys: stored.refs().flat_map(names).collect(),
            wants: stored.refs().flat_map(|refs| Want::all(refs, self.clusters)).collect(),
        }
    }

    /// Has clusters wanted by name, or not any more: the same resources make another graph.
    pub(super) fn want_clusters<'s>(&mut self, clusters: bool, resources: impl Iterator<Item = (Key, &'s Stored)>) {
        let old = std::mem::take(self);
        self.clusters = clusters;
        for (key, stored) in resources {
            let named = self.named(stored);
            self.replace(&key, &Named::default(), &named);
        }
        self.news.extend(old.news);
        self.news.extend(old.wants.into_keys());
    }

    /// A resource names other ones than before.
    pub(super) fn replace(&mut self, user: &Key, old: &Named, new: &Named) {
        for key in new.keys.difference(&old.keys) {
            self.users.entry(key.clone()).or_insert(Few::None).insert(user.clone());
        }
        for key in old.keys.difference(&new.keys) {
            let Some(users) = self.users.get_mut(key) else { continue };
            users.remove(user);
            if users.is_empty() {
                self.users.remove(key);
            }
        }
        for want in new.wants.difference(&old.wants) {
            let count = self.wants.entry(want.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.news.insert(want.clone());
            }
        }
        for want in old.wants.difference(&new.wants) {
            if let Some(count) = self.wants.get_mut(want) {
                *count -= 1;
                if *count == 0 {
                    self.wants.remove(want);
                    self.news.insert(want.clone());
                }
            }
        }
    }

    /// Who names a resource.
    pub(super) fn users(&self, key: &Key) -> impl Iterator<Item = &Key> {
        self.users.get(key).into_iter().flat_map(Few::iter)
    }

    /// All that is wanted.
    pub(super) fn wants(&self) -> impl Iterator<Item = &Want> {
        self.wants.keys()
    }

    /// What may be wanted now and was not the last time, or the other way round; with whether it is.
    pub(super) fn take_news(&mut self) -> Vec<(Want, bool)> {
        let news = std::mem::take(&mut self.news);
        news.into_iter().map(|want| (self.wants.contains_key(&want), want)).map(|(is, want)| (want, is)).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.users.len() + self.wants.len() + self.news.len()
    }
}
