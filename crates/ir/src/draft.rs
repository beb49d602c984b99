//! The next configuration, put together.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_pki::TimeProvider;
use mizzen_types::Name;

use crate::changes::Changes;
use crate::compile::{Resource, ResourceKind, virtual_host::compose};
use crate::config::{MeshIndex, Names, OwnHost, RouteConfig};
use crate::runtime::{Config, Table};
use crate::tls::TlsRefusal;

/// Changes to a configuration. What does not change is shared with it, and costs nothing.
#[derive(Clone, Debug)]
pub struct Draft {
    config: Config,
    before: Config,
    touched: Changes,
    /// Open route configurations that are to be put together anew.
    tables: BTreeSet<Name>,
}

impl Draft {
    /// Begins with what there is.
    pub fn new(previous: &Config) -> Draft {
        Draft { config: previous.clone(), before: previous.clone(), touched: Changes::default(), tables: BTreeSet::new() }
    }

    /// Takes over an index of the mesh, or none: nothing is asked for on demand then.
    pub fn set_mesh(&mut self, mesh: Option<MeshIndex>) {
        self.touched.mesh = true;
        self.config.mesh = mesh.map(Arc::new);
    }

    /// Adds a resource, or puts it in place of the one of its name. Whether anything changed: the same content changes nothing.
    pub fn put(&mut self, resource: &Resource) -> bool {
        let (config, touched) = (&mut self.config, &mut self.touched);
        match resource {
            Resource::Route(r) if r.open.is_some() => return self.put_head(r),
            Resource::VirtualHost(r) => return self.put_host(r),
            // It was open before.
            Resource::Route(r) => drop(config.heads.remove_mut(&r.name)),
            _ => {}
        }
        let (changed, names) = match resource {
            Resource::Listener(r) => (put(&mut config.listeners, &r.name, r, |old| old.hash == r.hash), &mut touched.listeners),
            Resource::Route(r) => (put(&mut config.routes, &r.name, r, |old| old.hash == r.hash), &mut touched.routes),
            Resource::Cluster(r) => (put(&mut config.clusters, &r.name, r, |old| old.hash == r.hash), &mut touched.clusters),
            Resource::Assignment(r) => (put(&mut config.assignments, &r.name, r, |old| old.hash == r.hash), &mut touched.assignments),
            Resource::Certificate(r) => (put(&mut config.certificates, &r.name, r, |old| old.hash == r.hash), &mut touched.secrets),
            Resource::Validation(r) => (put(&mut config.validations, &r.name, r, |old| old.hash == r.hash), &mut touched.secrets),
            Resource::VirtualHost(_) => return false,
        };
        if changed {
            names.insert(resource.name().clone());
        }
        changed
    }

    fn put_head(&mut self, head: &Arc<RouteConfig>) -> bool {
        let changed = put(&mut self.config.heads, &head.name, head, |old| old.hash == head.hash);
        if changed {
            self.tables.insert(head.name.clone());
        }
        changed
    }

    fn put_host(&mut self, own: &Arc<OwnHost>) -> bool {
        let (table, host) = own.parts();
        if self.config.own_host(&own.name).is_some_and(|old| old.hash == own.hash) {
            return false;
        }
        match self.config.own_hosts.get_mut(table) {
            Some(hosts) => hosts.insert_mut(host.into(), own.clone()),
            None => self.config.own_hosts.insert_mut(table.into(), Table::new_sync().insert(host.into(), own.clone())),
        }
        self.tables.insert(table.into());
        true
    }

    fn remove_host(&mut self, name: &str) -> bool {
        let Some((table, host)) = name.split_once('/') else { return false };
        let Some(hosts) = self.config.own_hosts.get_mut(table) else { return false };
        let was_there = hosts.remove_mut(host);
        if hosts.is_empty() {
            self.config.own_hosts.remove_mut(table);
        }
        if was_there {
            self.tables.insert(table.into());
        }
        was_there
    }

    /// Puts the open route configurations together whose parts have changed.
    fn compose(&mut self) {
        for table in std::mem::take(&mut self.tables) {
            let Some(head) = self.config.heads.get(&table) else { continue };
            let own = self.config.own_hosts.get(&table);
            let composed = Arc::new(compose(head, own.into_iter().flat_map(|hosts| hosts.values())));
            if put(&mut self.config.routes, &table, &composed, |old| old.hash == composed.hash) {
                self.touched.routes.insert(table);
            }
        }
    }

    /// Removes a resource; whether it was there.
    pub fn remove(&mut self, kind: ResourceKind, name: &str) -> bool {
        let (config, touched) = (&mut self.config, &mut self.touched);
        let (changed, names) = match kind {
            ResourceKind::Listener => (config.listeners.remove_mut(name), &mut touched.listeners),
            ResourceKind::VirtualHost => return self.remove_host(name),
            ResourceKind::Route => {
                config.heads.remove_mut(name);
                self.tables.remove(name);
                (config.routes.remove_mut(name), &mut touched.routes)
            }
            ResourceKind::Cluster => (config.clusters.remove_mut(name), &mut touched.clusters),
            ResourceKind::Assignment => (config.assignments.remove_mut(name), &mut touched.assignments),
            ResourceKind::Secret => (config.certificates.remove_mut(name) | config.validations.remove_mut(name), &mut touched.secrets),
        };
        if changed {
            names.insert(name.into());
        }
        changed
    }

    /// Whether anything was put or removed.
    pub fn changed(&self) -> bool {
        !self.touched.is_empty() || !self.tables.is_empty()
    }

    /// The next configuration, TLS built, and what of TLS could not be: the listener or cluster, and why. Those are then without TLS
    /// configuration, and their connections fail. What it changed is [`Config::changes_since`] what the draft began with.
    pub fn finish(self) -> (Arc<Config>, Vec<(Name, TlsRefusal)>) {
        self.finish_by(&mizzen_pki::system_time())
    }

    /// As [`Draft::finish`], with a clock by which certificates are judged. It has to be the same one from draft to draft, since what is
    /// already built keeps its own.
    pub fn finish_by(mut self, time: &Arc<dyn TimeProvider>) -> (Arc<Config>, Vec<(Name, TlsRefusal)>) {
        self.compose();
        let Draft { mut config, before, touched: mut changes, tables: _ } = self;
        changes.settle(&before, &config);
        config.generation += 1;
        for name in &changes.clusters {
            config.index.replace(before.clusters.get(name).map(|c| &**c), config.clusters.get(name).map(|c| &**c));
        }
        changes.reach(&before, &config);
        config.build_tls(&before, &mut changes, time);
        let problems = config.unfit();
        (Arc::new(config.made_of(&before, changes)), problems)
    }
}

fn put<T>(map: &mut Names<T>, name: &Name, value: &Arc<T>, same: impl Fn(&T) -> bool) -> bool {
    if map.get(name).is_some_and(|old| same(old)) {
        return false;
    }
    map.insert_mut(name.clone(), value.clone());
    true
}
