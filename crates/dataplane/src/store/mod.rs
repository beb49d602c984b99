//! The resources that this proxy has, and which of them are in force.
//!
//! A resource is compiled when it arrives ([`Store::put`]); a bad one is refused alone and its last good version stays, unless what is bad is a
//! part that can be closed alone: then the new version is refused towards its sender, and comes into force all the same. It comes into force
//! ([`Store::next`]) when all that it names is in force or known to be absent, or was waited for long enough: [`FETCH_TIMEOUT`], and for a secret
//! what the resource says. Until then its last version stays. A secret that is [`LATE`] holds up what names it and nothing else. What
//! is removed leaves after what refers to it, at the latest after [`LINGER`]. Times are given by the caller, since any fixed point.

mod stored;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mizzen_ir::{Config, Draft, Refs, ResourceKind, TlsRefusal, config::SecretRef};
use mizzen_protos::Any;
use mizzen_types::Name;

pub use stored::{Entry, Rejected, ResourceState, Stored};

/// How long a resource waits for what it names (Envoy's default for `initial_fetch_timeout`).
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// After this a missing secret is late: only what names it still waits for it, neither what refers to that nor the proxy's readiness. The
/// workload's own certificate and the mesh's roots are never late: without them nothing works.
pub const LATE: Duration = Duration::from_secs(2);
/// Istio's names of those.
const OWN: [&str; 2] = ["default", "ROOTCA"];
/// How long a removed resource stays for those that still refer to it.
pub const LINGER: Duration = Duration::from_secs(10);

/// Resources in the order in which they depend on each other: none names a later one.
const ORDER: [ResourceKind; 5] =
    [ResourceKind::Secret, ResourceKind::Assignment, ResourceKind::Cluster, ResourceKind::Route, ResourceKind::Listener];

type Key = (ResourceKind, Name);

/// A missing resource.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Duration,
    /// The longest that somebody waits for it; none: for ever.
    timeout: Option<Duration>,
    /// That it is late, or was waited for in vain, is said once each.
    said: (bool, bool),
}

impl Wait {
    fn late_at(&self, key: &Key) -> Option<Duration> {
        (key.0 == ResourceKind::Secret && !OWN.contains(&&*key.1)).then(|| self.since + LATE)
    }

    /// When it is not waited for any more by who waits so long.
    fn ends(&self, timeout: Option<Duration>) -> Option<Duration> {
        timeout.and_then(|timeout| self.since.checked_add(timeout))
    }

    /// Says when it has become late, and when the wait has ended.
    fn report(&mut self, key: &Key, now: Duration) {
        let (kind, name) = key;
        if self.ends(self.timeout).is_some_and(|at| now >= at) {
            if !std::mem::replace(&mut self.said, (true, true)).1 {
                tracing::warn!(?kind, %name, "did not come in time: what names it comes into force without it");
            }
        } else if now >= self.late_at(key).unwrap_or(self.since + FETCH_TIMEOUT) && !std::mem::replace(&mut self.said.0, true) {
            tracing::warn!(?kind, %name, timeout = ?self.timeout, "does not come; what names it waits for it");
        }
    }
}

/// All resources of the proxy.
#[derive(Debug)]
pub struct Store {
    resources: BTreeMap<ResourceKind, BTreeMap<Name, Stored>>,
    /// Kinds of which everything was told: what is not there does not exist.
    complete: BTreeSet<ResourceKind>,
    /// Kinds that nobody sends: there is nobody to ask for one by name.
    fixed: BTreeSet<ResourceKind>,
    /// Named resources of which the server said that there is none.
    absent: BTreeSet<Key>,
    /// Missing resources that are waited for.
    waiting: BTreeMap<Key, Wait>,
    /// Resources whose last version waits for late secrets, and for nothing else.
    blocked: BTreeSet<Key>,
    config: Arc<Config>,
    unfit: Vec<(Name, TlsRefusal)>,
}

/// What has to be asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Route configurations.
    pub routes: BTreeSet<Name>,
    /// Endpoints.
    pub assignments: BTreeSet<Name>,
    /// Secrets, each with where it is asked for.
    pub secrets: BTreeSet<SecretRef>,
}

impl Store {
    /// Empty; `complete` names the kinds that nobody will send, as listeners in a static configuration.
    pub fn new(complete: impl IntoIterator<Item = ResourceKind>) -> Store {
        let fixed: BTreeSet<ResourceKind> = complete.into_iter().collect();
        Store {
            resources: ORDER.into_iter().map(|kind| (kind, BTreeMap::new())).collect(),
            complete: fixed.clone(),
            fixed,
            absent: BTreeSet::new(),
            waiting: BTreeMap::new(),
            blocked: BTreeSet::new(),
            config: Arc::default(),
            unfit: Vec::new(),
        }
    }

    /// Takes a new version of a resource.
    ///
    /// # Errors
    /// Why it is refused; the last good version stays. Or what in it is refused: then it is taken, with those parts closed.
    pub fn put(&mut self, name: &Name, version: &str, body: Any, now: Duration) -> Result<(), String> {
        let Some(kind) = ResourceKind::of(&body.type_url) else { return Err(format!("type {} is not supported", body.type_url)) };
        let compiled = mizzen_ir::compile(kind, &body.value).map_err(|refusal| refusal.to_string());
        let compiled = compiled.and_then(|compiled| {
            if compiled.resource.name() == name { Ok(compiled) } else { Err(format!("it is called `{}` inside", compiled.resource.name())) }
        });
        let stored = self.resources.entry(kind).or_default().entry(name.clone()).or_default();
        match compiled {
            Ok(compiled) => {
                self.absent.remove(&(kind, name.clone()));
                let closed: Vec<String> = compiled.closed.iter().map(ToString::to_string).collect();
                stored.take(Entry { version: version.to_owned(), body, compiled, arrived: now });
                if closed.is_empty() {
                    return Ok(());
                }
                let reason = format!("{} (this part is closed, the rest is taken)", closed.join("; "));
                stored.rejected = Some(Rejected { version: version.to_owned(), reason: reason.clone(), at: now });
                Err(reason)
            }
            Err(reason) => {
                stored.rejected = Some(Rejected { version: version.to_owned(), reason: reason.clone(), at: now });
                Err(reason)
            }
        }
    }

    /// The server says that there is no such resource (any more).
    pub fn remove(&mut self, kind: ResourceKind, name: &Name, now: Duration) {
        self.absent.insert((kind, name.clone()));
        if let Some(stored) = self.resources.entry(kind).or_default().get_mut(name) {
            stored.remove(now);
        }
    }

    /// Nobody asks for this resource any more. Unlike a removed one it is not known to be absent.
    pub fn forget(&mut self, kind: ResourceKind, name: &Name, now: Duration) {
        self.absent.remove(&(kind, name.clone()));
        if let Some(stored) = self.resources.entry(kind).or_default().get_mut(name) {
            stored.remove(now);
        }
    }

    /// Whether it is known that there is no such resource for who asks for it by name: that all were told which come without being asked for says
    /// nothing of it.
    pub fn knows_absent(&self, kind: ResourceKind, name: &Name) -> bool {
        let key = (kind, name.clone());
        self.is_absent(&key) && (self.absent.contains(&key) || self.fixed.contains(&kind))
    }

    /// The server has told all resources of a kind.
    pub fn set_complete(&mut self, kind: ResourceKind) {
        self.complete.insert(kind);
    }

    /// Whether all resources of a kind are known.
    pub fn is_complete(&self, kind: ResourceKind) -> bool {
        self.complete.contains(&kind)
    }

    /// What has to be asked for by name, for all resources, in force or not yet.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for refs in self.resources.values().flat_map(BTreeMap::values).flat_map(Stored::refs) {
            wanted.routes.extend(refs.routes.iter().cloned());
            wanted.assignments.extend(refs.assignments.iter().cloned());
            wanted.secrets.extend(refs.secrets.iter().cloned());
        }
        wanted
    }

    /// The resources of a kind, by name.
    pub fn resources(&self, kind: ResourceKind) -> impl Iterator<Item = (&Name, &Stored)> {
        self.resources.get(&kind).into_iter().flatten()
    }

    /// What is in force.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Whether nothing waits for something else.
    pub fn is_warm(&self) -> bool {
        self.resources.values().flat_map(BTreeMap::values).all(|stored| stored.state() != ResourceState::Warming)
    }

    /// Whether a resource's last version waits for late secrets, and for nothing else.
    pub fn is_blocked(&self, kind: ResourceKind, name: &Name) -> bool {
        self.blocked.contains(&(kind, name.clone()))
    }

    /// When [`Store::next`] has something to do without anything having arrived; none of it lies in the past.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let waits = self.waiting.iter().flat_map(|(key, wait)| {
            [wait.ends(wait.timeout), Some(wait.late_at(key).unwrap_or(wait.since + FETCH_TIMEOUT))].into_iter().flatten()
        });
        let removed = self.resources.values().flat_map(BTreeMap::values).filter_map(|stored| stored.removed.map(|at| at + LINGER));
        waits.chain(removed).filter(|at| *at > now).min()
    }

    /// Brings into force what can be; returns the next configuration if it differs from the last.
    pub fn next(&mut self, now: Duration) -> Option<Arc<Config>> {
        let chosen = self.choose(now);
        let mut draft = Draft::new(&self.config);
        for (kind, all) in &mut self.resources {
            all.retain(|name, stored| {
                let entry = chosen.get(&(*kind, name.clone()));
                if stored.activate(entry) {
                    match entry {
                        Some(entry) => draft.put(&entry.compiled.resource),
                        None => draft.remove(*kind, name),
                    };
                }
                !stored.is_gone()
            });
        }
        if !draft.changed() {
            return None;
        }
        let (config, unfit) = draft.finish();
        for (name, why) in &unfit {
            tracing::warn!(%name, %why, "TLS cannot be built: connections will fail");
        }
        self.unfit = unfit;
        self.config = config;
        Some(self.config.clone())
    }

    /// What of TLS could not be built in the configuration in force: the listener or cluster, and why.
    pub fn unfit(&self) -> &[(Name, TlsRefusal)] {
        &self.unfit
    }

    /// For each resource the version that is to be in force.
    fn choose(&mut self, now: Duration) -> BTreeMap<Key, Arc<Entry>> {
        let mut chosen: BTreeMap<Key, Arc<Entry>> = BTreeMap::new();
        let mut missing: BTreeMap<Key, Option<Duration>> = BTreeMap::new();
        let mut blocked: BTreeSet<Key> = BTreeSet::new();
        for kind in ORDER {
            let Some(all) = self.resources.get(&kind) else { continue };
            for (name, stored) in all {
                let Some(latest) = &stored.latest else { continue };
                let refs = &latest.compiled.refs;
                let open: Vec<Key> = names(refs).filter(|key| !chosen.contains_key(key) && !self.is_absent(key)).collect();
                let given_up = |key: &Key| {
                    let ends = self.waiting.get(key).and_then(|wait| wait.ends(timeout(refs, key)));
                    blocked.contains(key) || ends.is_some_and(|at| now >= at)
                };
                let late = |key: &Key| self.waiting.get(key).and_then(|wait| wait.late_at(key)).is_some_and(|at| now >= at);
                let entry = if open.iter().all(given_up) { Some(latest) } else { stored.active.as_ref() };
                if !open.iter().all(given_up) && open.iter().all(|key| given_up(key) || late(key)) {
                    blocked.insert((kind, name.clone()));
                }
                for key in open {
                    let timeout = timeout(refs, &key);
                    // Who waits longest counts: none is for ever.
                    missing.entry(key).and_modify(|most| *most = most.zip(timeout).map(|(a, b)| a.max(b))).or_insert(timeout);
                }
                if let Some(entry) = entry {
                    chosen.insert((kind, name.clone()), entry.clone());
                }
            }
        }
        self.blocked = blocked;
        self.waiting.retain(|key, _| missing.contains_key(key));
        for (key, timeout) in missing {
            let wait = self.waiting.entry(key.clone()).or_insert(Wait { since: now, timeout, said: (false, false) });
            wait.timeout = timeout;
            wait.report(&key, now);
        }
        self.keep_referred(&mut chosen, now);
        chosen
    }

    /// Adds what was removed and is still referred to, from the referring kinds downwards.
    fn keep_referred(&self, chosen: &mut BTreeMap<Key, Arc<Entry>>, now: Duration) {
        for kind in ORDER.into_iter().rev() {
            let referred: BTreeSet<Key> =
                chosen.values().flat_map(|entry| names(&entry.compiled.refs)).filter(|key| key.0 == kind).collect();
            for key in referred {
                let stored = self.resources.get(&kind).and_then(|all| all.get(&key.1));
                let lingers = |stored: &Stored| stored.latest.is_none() && stored.removed.is_some_and(|at| now < at + LINGER);
                if let Some(active) = stored.filter(|h| lingers(h)).and_then(|h| h.active.clone()) {
                    chosen.entry(key).or_insert(active);
                }
            }
        }
    }

    fn is_absent(&self, key: &Key) -> bool {
        let there = self.resources.get(&key.0).and_then(|all| all.get(&key.1)).is_some_and(|stored| stored.latest.is_some());
        !there && (self.absent.contains(key) || self.complete.contains(&key.0))
    }
}

/// How long what names a resource waits for it; none: for ever.
fn timeout(refs: &Refs, key: &Key) -> Option<Duration> {
    let secrets = refs.secrets.iter().filter(|secret| key.0 == ResourceKind::Secret && secret.name == key.1);
    let longest = secrets.map(|secret| secret.fetch_timeout).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)));
    longest.unwrap_or(Some(FETCH_TIMEOUT))
}

/// All resources that are named.
fn names(refs: &Refs) -> impl Iterator<Item = Key> {
    let secrets = refs.secrets.iter().map(|secret| (ResourceKind::Secret, secret.name.clone()));
    let of = |kind: ResourceKind, all: &BTreeSet<Name>| all.iter().map(|name| (kind, name.clone())).collect::<Vec<_>>();
    secrets
        .chain(of(ResourceKind::Assignment, &refs.assignments))
        .chain(of(ResourceKind::Cluster, &refs.clusters))
        .chain(of(ResourceKind::Route, &refs.routes))
}
