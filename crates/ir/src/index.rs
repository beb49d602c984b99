//! Which clusters name what: found without looking at all of them.

use mizzen_types::Name;
use rpds::{HashTrieMapSync, RedBlackTreeSetSync};

use crate::config::{Cluster, Discovery};

/// Clusters by what they name. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_assignment: Users,
    by_host: Users,
}

type Users = HashTrieMapSync<Name, RedBlackTreeSetSync<Name>>;

impl Index {
    /// A cluster is there instead of another one, or of none; or is gone.
    pub(crate) fn replace(&mut self, old: Option<&Cluster>, new: Option<&Cluster>) {
        if let Some(cluster) = old {
            named(cluster, |host, name| remove(self.side(host), name, &cluster.name));
        }
        if let Some(cluster) = new {
            named(cluster, |host, name| insert(self.side(host), name, &cluster.name));
        }
    }

    /// The clusters whose endpoints have this name.
    pub(crate) fn of_assignment(&self, name: &str) -> impl Iterator<Item = &Name> {
        self.by_assignment.get(name).into_iter().flat_map(|users| users.iter())
    }

    /// The clusters that have this host resolved: those that name it, and those that may be asked for it.
    pub(crate) fn of_host(&self, host: &str) -> impl Iterator<Item = &Name> {
        let above = host.match_indices('.').filter_map(|(at, _)| self.by_host.get(&*format!("*{}", host.get(at..)?)));
        let all: Vec<_> = self.by_host.get(host).into_iter().chain(above).chain(self.by_host.get("*")).collect();
        all.into_iter().flat_map(|users| users.iter())
    }

    fn side(&mut self, host: bool) -> &mut Users {
        if host { &mut self.by_host } else { &mut self.by_assignment }
    }
}

/// Visits what a cluster names: hosts (`true`) and endpoints.
fn named(cluster: &Cluster, mut visit: impl FnMut(bool, &Name)) {
    if let Discovery::Eds { service } = &cluster.discovery {
        visit(false, service);
    }
    if let Discovery::Dynamic(dynamic) = &cluster.discovery {
        visit(true, &dynamic.covers());
    }
    for (host, _) in cluster.discovery.dns_names() {
        visit(true, &host);
    }
}

fn insert(users: &mut Users, name: &Name, user: &Name) {
    match users.get_mut(name) {
        Some(set) => set.insert_mut(user.clone()),
        None => users.insert_mut(name.clone(), RedBlackTreeSetSync::new_sync().insert(user.clone())),
    }
}

fn remove(users: &mut Users, name: &Name, user: &Name) {
    let Some(set) = users.get_mut(name) else { return };
    set.remove_mut(user);
    if set.is_empty() {
        users.remove_mut(name);
    }
}
