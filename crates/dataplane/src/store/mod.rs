//! The resources that this proxy has, and which of them are in force.
//!
//! A resource is compiled when it arrives ([`Store::put`]); a bad one is refused alone and its last good version stays, unless what is bad is a
//! part that can be closed alone: then the new version is refused towards its sender, and comes into force all the same. It comes into force
//! ([`Store::next`]) when all that it names is in force or known to be absent, or was waited for long enough: [`FETCH_TIMEOUT`], and for a secret
//! what the resource says. Until then its last version stays. A secret that is [`LATE`] holds up what names it and nothing else. What
//! is removed leaves after what refers to it, at the latest after [`LINGER`]. Times are given by the caller, since any fixed point.

mod choose;
mod graph;
mod kept;
mod mesh;
mod stored;
#[cfg(test)]
mod tests;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mizzen_ir::{Config, Draft, Refs, Resource, ResourceKind, TlsRefusal, config::MeshIndex, config::SecretRef};
use mizzen_protos::Any;
use mizzen_types::Name;

use choose::Doubts;
use graph::Graph;
use wait::Wait;

pub(crate) use graph::Want;
pub use kept::Kept;
pub use stored::{Entry, Rejected, ResourceState, Stored};

/// How long a resource waits for what it names (Envoy's default for `initial_fetch_timeout`).
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// After this a missing secret is late: only what names it still waits for it, neither what refers to that nor the proxy's readiness. The
/// workload's own certificate and the mesh's roots are never late: without them nothing works.
pub const LATE: Duration = Duration::from_secs(2);
/// How long a removed resource stays for those that still refer to it.
pub const LINGER: Duration = Duration::from_secs(10);

type Key = (ResourceKind, Name);

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
    /// Resources that were removed, when, and that others still name.
    draining: BTreeMap<Key, Duration>,
    /// Listeners that do not serve as they were meant, and those that wait.
    lame: BTreeSet<Name>,
    warming: BTreeSet<Name>,
    graph: Graph,
    /// The index of the mesh, where what is in it is there on demand.
    mesh: Option<MeshIndex>,
    /// Whether it has changed since the last configuration.
    mesh_changed: bool,
    /// What has to be looked at by [`Store::next`]: what changed, and what depends on it.
    doubts: Doubts,
    looked: u64,
    config: Arc<Config>,
    unfit: Vec<(Name, TlsRefusal)>,
}

/// What has to be asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Clusters, where not all of them come without being asked for.
    pub clusters: BTreeSet<Name>,
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
            resources: BTreeMap::new(),
            complete: fixed.clone(),
            fixed,
            absent: BTreeSet::new(),
            waiting: BTreeMap::new(),
            blocked: BTreeSet::new(),
            draining: BTreeMap::new(),
            lame: BTreeSet::new(),
            warming: BTreeSet::new(),
            graph: Graph::default(),
            mesh: None,
            mesh_changed: false,
            doubts: Doubts::default(),
            looked: 0,
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
        let compiled = compiled.and_then(|compiled| match &compiled.resource {
            Resource::Route(route) if route.open.is_some() && self.mesh.is_none() => {
                Err("vhds: the server has told no index of the mesh to ask by".to_owned())
            }
            _ => Ok(compiled),
        });
        let key = (kind, name.clone());
        let reject = |reason: &str| Some(Box::new(Rejected { version: version.to_owned(), reason: reason.to_owned(), at: now }));
        match compiled {
            Ok(compiled) => {
                let closed: Vec<String> = compiled.closed.iter().map(ToString::to_string).collect();
                let mut compiled = compiled;
                compiled.resource.share_name(name);
                if self.mesh.is_some() {
                    let before = self.resources.get(&kind).and_then(|all| all.get(name)).and_then(Stored::any);
                    compiled.resource.follow(before.map(|entry| &entry.compiled.resource));
                }
                let entry = Entry { version: version.to_owned(), body: Kept::of(&compiled.resource, body.value), compiled, arrived: now };
                let reason = format!("{} (this part is closed, the rest is taken)", closed.join("; "));
                self.change(&key, |stored| {
                    stored.take(entry);
                    stored.rejected = reject(&reason).filter(|_| !closed.is_empty());
                });
                self.absent.remove(&key);
                if closed.is_empty() { Ok(()) } else { Err(reason) }
            }
            Err(reason) => {
                self.change(&key, |stored| stored.rejected = reject(&reason));
                Err(reason)
            }
        }
    }

    /// The server says that there is no such resource (any more).
    pub fn remove(&mut self, kind: ResourceKind, name: &Name, now: Duration) {
        self.drop(&(kind, name.clone()), true, now);
    }

    /// Nobody asks for this resource any more. Unlike a removed one it is not known to be absent.
    pub fn forget(&mut self, kind: ResourceKind, name: &Name, now: Duration) {
        self.drop(&(kind, name.clone()), false, now);
    }

    fn drop(&mut self, key: &Key, absent: bool, now: Duration) {
        let was_absent = self.is_absent(key);
        if absent {
            self.absent.insert(key.clone());
        } else {
            self.absent.remove(key);
        }
        if self.resources.get(&key.0).is_some_and(|all| all.contains_key(&key.1)) {
            self.change(key, |stored| stored.remove(now));
        }
        if self.is_absent(key) != was_absent {
            self.doubt_users(key);
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
        if !self.complete.insert(kind) {
            return;
        }
        let missing = self.waiting.iter().filter(|(key, _)| key.0 == kind);
        missing.flat_map(|(_, wait)| wait.waiters()).cloned().for_each(|waiter| self.doubts.add(waiter));
    }

    /// Whether all resources of a kind are known.
    pub fn is_complete(&self, kind: ResourceKind) -> bool {
        self.complete.contains(&kind)
    }

    /// What has to be asked for by name, for all resources, in force or not yet.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for want in self.graph.wants() {
            match want {
                Want::Cluster(name) => drop(wanted.clusters.insert(name.clone())),
                Want::Route(name) => drop(wanted.routes.insert(name.clone())),
                Want::Assignment(name) => drop(wanted.assignments.insert(name.clone())),
                Want::Secret(secret) => drop(wanted.secrets.insert(secret.clone())),
            }
        }
        wanted
    }

    /// What has to be asked for since the last call (`true`), and what not any more.
    pub(crate) fn take_wants(&mut self) -> Vec<(Want, bool)> {
        self.graph.take_news()
    }

    /// The resources of a kind, by name.
    pub fn resources(&self, kind: ResourceKind) -> impl Iterator<Item = (&Name, &Stored)> {
        self.resources.get(&kind).into_iter().flatten()
    }

    /// All versions that are held.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.resources.values().flat_map(BTreeMap::values).flat_map(|stored| stored.latest.iter().chain(&stored.active))
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

    /// A listener that does not serve as it was meant: see [`Stored::is_lame`].
    pub fn lame_listener(&self) -> Option<&Name> {
        self.lame.first()
    }

    /// Whether a listener waits for something else than late secrets.
    pub fn awaits_listeners(&self) -> bool {
        self.warming.iter().any(|name| !self.is_blocked(ResourceKind::Listener, name))
    }

    /// How many resources [`Store::next`] has looked at so far: what its work is measured by.
    pub fn looked(&self) -> u64 {
        self.looked
    }

    /// Has everything looked at again.
    #[cfg(test)]
    fn doubt_all(&mut self) {
        let all = self.resources.iter().flat_map(|(kind, all)| all.keys().map(|name| (*kind, name.clone())));
        all.for_each(|key| self.doubts.add(key));
    }

    /// How much is kept.
    #[cfg(test)]
    fn size(&self) -> usize {
        let resources: usize = self.resources.values().map(BTreeMap::len).sum();
        let noted = self.absent.len() + self.waiting.len() + self.blocked.len() + self.draining.len();
        resources + noted + self.lame.len() + self.warming.len() + self.graph.len()
    }

    /// When [`Store::next`] has something to do without anything having arrived; none of it lies in the past.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let waits = self.waiting.values().filter_map(Wait::due);
        let removed = self.draining.values().map(|at| *at + LINGER);
        waits.chain(removed).filter(|at| *at > now).min()
    }

    /// Brings into force what can be; returns the next configuration if it differs from the last.
    pub fn next(&mut self, now: Duration) -> Option<Arc<Config>> {
        let mut draft = Draft::new(&self.config);
        if std::mem::take(&mut self.mesh_changed) {
            draft.set_mesh(self.mesh.clone());
        }
        self.round(now, &mut draft);
        if !draft.changed() {
            return None;
        }
        let (config, unfit) = draft.finish();
        for (name, why) in unfit.iter().filter(|one| !self.unfit.contains(one)) {
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

    fn is_absent(&self, key: &Key) -> bool {
        let there = self.resources.get(&key.0).and_then(|all| all.get(&key.1)).is_some_and(|stored| stored.latest.is_some());
        // That all clusters were told that come without being asked for says nothing of the others.
        let told = if self.mesh.is_some() { &self.fixed } else { &self.complete };
        !there && (self.absent.contains(key) || told.contains(&key.0))
    }
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
