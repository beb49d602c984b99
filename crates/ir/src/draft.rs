//! The next configuration, put together.

use std::sync::Arc;

use mizzen_pki::TimeProvider;
use mizzen_types::Name;

use crate::changes::Changes;
use crate::compile::{Resource, ResourceKind};
use crate::config::Names;
use crate::runtime::Config;
use crate::tls::TlsRefusal;

/// Changes to a configuration. What does not change is shared with it, and costs nothing.
#[derive(Clone, Debug)]
pub struct Draft {
    config: Config,
    before: Config,
    touched: Changes,
}

impl Draft {
    /// Begins with what there is.
    pub fn new(previous: &Config) -> Draft {
        Draft { config: previous.clone(), before: previous.clone(), touched: Changes::default() }
    }

    /// Adds a resource, or puts it in place of the one of its name. Whether anything changed: the same content changes nothing.
    pub fn put(&mut self, resource: &Resource) -> bool {
        let (config, touched) = (&mut self.config, &mut self.touched);
        let (changed, names) = match resource {
            Resource::Listener(r) => (put(&mut config.listeners, &r.name, r, |old| old.hash == r.hash), &mut touched.listeners),
            Resource::Route(r) => (put(&mut config.routes, &r.name, r, |old| old.hash == r.hash), &mut touched.routes),
            Resource::Cluster(r) => (put(&mut config.clusters, &r.name, r, |old| old.hash == r.hash), &mut touched.clusters),
            Resource::Assignment(r) => (put(&mut config.assignments, &r.name, r, |old| old.hash == r.hash), &mut touched.assignments),
            Resource::Certificate(r) => (put(&mut config.certificates, &r.name, r, |old| old.hash == r.hash), &mut touched.secrets),
            Resource::Validation(r) => (put(&mut config.validations, &r.name, r, |old| old.hash == r.hash), &mut touched.secrets),
        };
        if changed {
            names.insert(resource.name().clone());
        }
        changed
    }

    /// Removes a resource; whether it was there.
    pub fn remove(&mut self, kind: ResourceKind, name: &str) -> bool {
        let (config, touched) = (&mut self.config, &mut self.touched);
        let (changed, names) = match kind {
            ResourceKind::Listener => (config.listeners.remove_mut(name), &mut touched.listeners),
            ResourceKind::Route => (config.routes.remove_mut(name), &mut touched.routes),
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
        !self.touched.is_empty()
    }

    /// The next configuration, TLS built, and what of TLS could not be: the listener or cluster, and why. Those are then without TLS
    /// configuration, and their connections fail. What it changed is [`Config::changes_since`] what the draft began with.
    pub fn finish(self) -> (Arc<Config>, Vec<(Name, TlsRefusal)>) {
        self.finish_by(&mizzen_pki::system_time())
    }

    /// As [`Draft::finish`], with a clock by which certificates are judged. It has to be the same one from draft to draft, since what is
    /// already built keeps its own.
    pub fn finish_by(self, time: &Arc<dyn TimeProvider>) -> (Arc<Config>, Vec<(Name, TlsRefusal)>) {
        let Draft { mut config, before, touched: mut changes } = self;
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
