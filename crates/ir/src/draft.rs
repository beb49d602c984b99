//! The next configuration, put together.

use std::collections::HashMap;
use std::sync::Arc;

use mizzen_pki::TimeProvider;
use mizzen_types::Name;

use crate::compile::{Resource, ResourceKind};
use crate::config::Names;
use crate::runtime::Config;
use crate::tls::{TlsRefusal, TlsTable};

/// Changes to a configuration. Maps that do not change are shared with it.
#[derive(Clone, Debug)]
pub struct Draft {
    config: Config,
    previous: TlsTable,
    changed: bool,
}

impl Draft {
    /// Begins with what there is.
    pub fn new(previous: &Config) -> Draft {
        Draft { config: previous.clone(), previous: previous.tls.clone(), changed: false }
    }

    /// Adds a resource, or puts it in place of the one of its name. Whether anything changed: the same content changes nothing.
    pub fn put(&mut self, resource: &Resource) -> bool {
        let config = &mut self.config;
        let changed = match resource {
            Resource::Listener(r) => put(&mut config.listeners, &r.name, r, |old| old.hash == r.hash),
            Resource::Route(r) => put(&mut config.routes, &r.name, r, |old| old.hash == r.hash),
            Resource::Cluster(r) => put(&mut config.clusters, &r.name, r, |old| old.hash == r.hash),
            Resource::Assignment(r) => put(&mut config.assignments, &r.name, r, |old| old.hash == r.hash),
            Resource::Certificate(r) => put(&mut config.certificates, &r.name, r, |old| old.hash == r.hash),
            Resource::Validation(r) => put(&mut config.validations, &r.name, r, |old| old.hash == r.hash),
        };
        self.changed |= changed;
        changed
    }

    /// Removes a resource; whether it was there.
    pub fn remove(&mut self, kind: ResourceKind, name: &str) -> bool {
        let config = &mut self.config;
        let changed = match kind {
            ResourceKind::Listener => remove(&mut config.listeners, name),
            ResourceKind::Route => remove(&mut config.routes, name),
            ResourceKind::Cluster => remove(&mut config.clusters, name),
            ResourceKind::Assignment => remove(&mut config.assignments, name),
            ResourceKind::Secret => remove(&mut config.certificates, name) | remove(&mut config.validations, name),
        };
        self.changed |= changed;
        changed
    }

    /// Whether anything differs from what there was.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// The next configuration, TLS built, and what of TLS could not be: the listener or cluster, and why. Those are then without TLS
    /// configuration, and their connections fail.
    pub fn finish(self) -> (Arc<Config>, Vec<(Name, TlsRefusal)>) {
        self.finish_by(&mizzen_pki::system_time())
    }

    /// As [`Draft::finish`], with a clock by which certificates are judged. It has to be the same one from draft to draft, since what is
    /// already built keeps its own.
    pub fn finish_by(mut self, time: &Arc<dyn TimeProvider>) -> (Arc<Config>, Vec<(Name, TlsRefusal)>) {
        self.config.generation += 1;
        let problems = self.config.build_tls(&self.previous, time);
        (Arc::new(self.config), problems)
    }
}

fn put<T>(map: &mut Names<T>, name: &Name, value: &Arc<T>, same: impl Fn(&T) -> bool) -> bool {
    if map.get(name).is_some_and(|old| same(old)) {
        return false;
    }
    Arc::make_mut(map).insert(name.clone(), value.clone());
    true
}

fn remove<T>(map: &mut Names<T>, name: &str) -> bool {
    map.contains_key(name) && HashMap::remove(Arc::make_mut(map), name).is_some()
}
