//! Which version of each resource is in force: looked at again where something changed that it depends on, and nowhere else.
//!
//! First upwards, from what names nothing: which version is wanted ([`Store::judge`]). Then downwards: which is in force, since what was removed
//! stays for a while for those in force that name it ([`Store::enforce`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mizzen_ir::{Draft, ResourceKind};
use mizzen_types::Name;

use super::{
    Entry, Key, LINGER, Store, names,
    stored::Stored,
    wait::{Wait, timeout},
};

/// Resources by kind, in the order in which they depend on each other: none names a later one, nor one of its kind.
const ORDER: [ResourceKind; 6] = [
    ResourceKind::Secret,
    ResourceKind::Assignment,
    ResourceKind::Cluster,
    ResourceKind::VirtualHost,
    ResourceKind::Route,
    ResourceKind::Listener,
];

/// Resources to be looked at.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<ResourceKind, BTreeSet<Name>>);

impl Doubts {
    pub(super) fn add(&mut self, key: Key) {
        self.0.entry(key.0).or_default().insert(key.1);
    }

    fn pop(&mut self, kind: ResourceKind) -> Option<Name> {
        self.0.get_mut(&kind)?.pop_first()
    }
}

/// What a resource came to the last time that it was looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    /// The version that is wanted.
    pub(super) entry: Option<Arc<Entry>>,
    /// What it names that is missing.
    open: Vec<Key>,
}

impl Store {
    /// Changes a resource, and has looked at again what depends on it.
    pub(super) fn change<T>(&mut self, key: &Key, how: impl FnOnce(&mut Stored) -> T) -> T {
        let absent = self.is_absent(key);
        let stored = self.resources.entry(key.0).or_default().entry(key.1.clone()).or_default();
        let old = self.graph.named(stored);
        let result = how(stored);
        let new = self.graph.named(stored);
        self.graph.replace(key, &old, &new);
        self.note(key);
        self.doubts.add(key.clone());
        if self.is_absent(key) != absent {
            self.doubt_users(key);
        }
        result
    }

    /// Has looked at again what names a resource.
    pub(super) fn doubt_users(&mut self, key: &Key) {
        self.graph.users(key).cloned().for_each(|user| self.doubts.add(user));
    }

    /// Keeps what is said of listeners as a whole.
    fn note(&mut self, key: &Key) {
        let stored = self.resources.get(&key.0).and_then(|all| all.get(&key.1));
        if key.0 == ResourceKind::Listener {
            let (lame, warming) = stored.map_or((false, false), |s| (s.is_lame(), s.state() == super::ResourceState::Warming));
            let mut keep = |is: bool, set: fn(&mut Store) -> &mut BTreeSet<Name>| {
                if is { set(self).insert(key.1.clone()) } else { set(self).remove(&key.1) }
            };
            keep(lame, |store| &mut store.lame);
            keep(warming, |store| &mut store.warming);
        }
    }

    /// Brings into force what can be, and puts it into the draft.
    pub(super) fn round(&mut self, now: Duration, draft: &mut Draft) {
        let due = self.waiting.iter().filter(|(_, wait)| wait.due().is_some_and(|at| at <= now));
        let due: Vec<Key> = due.map(|(key, _)| key.clone()).collect();
        let waiters = due.iter().filter_map(|key| self.waiting.get(key)).flat_map(Wait::waiters);
        waiters.cloned().for_each(|waiter| self.doubts.add(waiter));
        let mut touched: BTreeSet<Key> = due.into_iter().collect();
        let mut judged = Doubts::default();
        for kind in ORDER {
            while let Some(name) = self.doubts.pop(kind) {
                let key = (kind, name);
                self.judge(&key, now, &mut touched);
                judged.add(key);
            }
        }
        for key in touched {
            if let Some(wait) = self.waiting.get_mut(&key) {
                wait.settle(&key, now);
            }
        }
        self.draining.iter().filter(|(_, at)| now >= **at + LINGER).for_each(|(key, _)| judged.add(key.clone()));
        for kind in ORDER.into_iter().rev() {
            while let Some(name) = judged.pop(kind) {
                self.enforce(&(kind, name), now, draft, &mut judged);
            }
        }
    }

    /// Chooses the version that is wanted of a resource. `touched` takes the waits that change by it.
    fn judge(&mut self, key: &Key, now: Duration, touched: &mut BTreeSet<Key>) {
        self.looked += 1;
        let Some(stored) = self.resources.get(&key.0).and_then(|all| all.get(&key.1)) else { return };
        let mut choice = Choice::default();
        let mut waits: Vec<(Key, Option<Duration>)> = Vec::new();
        let mut is_blocked = false;
        if let Some(latest) = &stored.latest {
            let refs = &latest.compiled.refs;
            let open: Vec<Key> = names(refs).filter(|named| !self.is_chosen(named) && !self.is_absent(named)).collect();
            let given_up = |named: &Key| {
                let over = |wait: &Wait| wait.is_over(timeout(refs, named), now);
                self.blocked.contains(named) || self.waiting.get(named).is_some_and(over)
            };
            let is_late = |named: &Key| self.waiting.get(named).is_some_and(|wait| wait.is_late(named, now));
            let is_ready = open.iter().all(given_up);
            is_blocked = !is_ready && open.iter().all(|named| given_up(named) || is_late(named));
            choice.entry = if is_ready { Some(latest.clone()) } else { stored.active.clone() };
            waits = open.iter().map(|named| (named.clone(), timeout(refs, named))).collect();
            choice.open = open;
        }
        let was_chosen = stored.choice.entry.is_some();
        let turned = was_chosen != choice.entry.is_some() || self.blocked.contains(key) != is_blocked;
        let stayed: BTreeSet<&Key> = choice.open.iter().collect();
        let left: Vec<Key> = stored.choice.open.iter().filter(|named| !stayed.contains(named)).cloned().collect();
        for named in left {
            if self.waiting.get_mut(&named).is_some_and(|wait| wait.leave(key)) {
                self.waiting.remove(&named);
            }
            touched.insert(named);
        }
        for (named, timeout) in waits {
            self.waiting.entry(named.clone()).or_insert_with(|| Wait::new(now)).join(key, timeout);
            touched.insert(named);
        }
        if is_blocked {
            self.blocked.insert(key.clone());
        } else {
            self.blocked.remove(key);
        }
        if let Some(stored) = self.resources.get_mut(&key.0).and_then(|all| all.get_mut(&key.1)) {
            stored.choice = choice;
        }
        if turned {
            self.doubt_users(key);
        }
    }

    /// Puts into force what was chosen of a resource, or what was removed and is still referred to. `judged` takes what that may concern.
    fn enforce(&mut self, key: &Key, now: Duration, draft: &mut Draft, judged: &mut Doubts) {
        let Some(stored) = self.resources.get(&key.0).and_then(|all| all.get(&key.1)) else { return };
        let lingers = stored.latest.is_none() && stored.removed.is_some_and(|at| now < at + LINGER);
        let kept = || stored.active.clone().filter(|_| lingers && self.is_referred(key));
        let entry = stored.choice.entry.clone().or_else(kept);
        let old = stored.active.clone();
        if old.as_ref().map(Arc::as_ptr) != entry.as_ref().map(Arc::as_ptr) {
            match &entry {
                Some(entry) => draft.put(&entry.compiled.resource),
                None => draft.remove(key.0, &key.1),
            };
            self.change(key, |stored| stored.active = entry);
            // What it does not name any more may have stayed for it alone. Itself is looked at already.
            for named in old.iter().flat_map(|old| names(&old.compiled.refs)).filter(|named| self.draining.contains_key(named)) {
                judged.add(named);
            }
            self.doubts.settled(key);
        }
        let Some(all) = self.resources.get_mut(&key.0) else { return };
        let Some(stored) = all.get(&key.1) else { return };
        match stored.removed.filter(|_| stored.latest.is_none() && stored.active.is_some()) {
            Some(at) => self.draining.insert(key.clone(), at),
            None => self.draining.remove(key),
        };
        if stored.is_gone() {
            all.remove(&key.1);
            self.note(key);
        }
    }

    /// Whether something in force names it.
    fn is_referred(&self, key: &Key) -> bool {
        let in_force = |user: &Key| self.resources.get(&user.0).and_then(|all| all.get(&user.1)).and_then(|stored| stored.active.as_ref());
        self.graph.users(key).filter_map(in_force).any(|entry| names_it(entry, key))
    }

    fn is_chosen(&self, key: &Key) -> bool {
        self.resources.get(&key.0).and_then(|all| all.get(&key.1)).is_some_and(|stored| stored.choice.entry.is_some())
    }
}

impl Doubts {
    /// What was looked at just now needs no second look.
    fn settled(&mut self, key: &Key) {
        if let Some(names) = self.0.get_mut(&key.0) {
            names.remove(&key.1);
        }
    }
}

/// Whether a version names a resource.
fn names_it(entry: &Entry, (kind, name): &Key) -> bool {
    let refs = &entry.compiled.refs;
    match kind {
        ResourceKind::Cluster => refs.clusters.contains(name),
        ResourceKind::Assignment => refs.assignments.contains(name),
        ResourceKind::Route => refs.routes.contains(name),
        ResourceKind::Secret => refs.secrets.iter().any(|secret| secret.name == *name),
        ResourceKind::Listener | ResourceKind::VirtualHost => false,
    }
}
