//! Where requests and connections may go: the clusters' endpoints, what is known of them, dials and pools.

mod again;
mod balancers;
mod dial;
mod dynamic;
mod hosts;
mod pool;
mod spec;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mizzen_ir::{
    Changes, Config,
    config::{AlpnOverride, Cluster, Criteria, Discovery, HttpProtocol},
};
use mizzen_types::Name;

use crate::{
    Action, Dial, DialId, DialTag, Target, address,
    context::Context,
    event::{Event, TimerKey},
    id::{PoolId, Slab},
    lb::{ClusterState, Guard, Limit},
    questions::Questions,
    same::Same,
};

pub(crate) use again::{Again, Tried};
pub(crate) use dial::{Dialing, Owner};
pub(crate) use hosts::{Host, NoHost};
pub(crate) use pool::Pool;
pub(crate) use spec::{ClientAddress, ConnKey, Judge, UpSpec, Wish, certificate_subject, certificate_uri};

use balancers::{Balancer, Pick};
use dynamic::Brought;
use hosts::{Flat, KnownNames, fixed_target};
use watch::Sweep;

/// How long a name that cannot be resolved is waited for.
pub(crate) const DNS_WAIT: Duration = Duration::from_secs(10);

/// How to connect, by endpoint, protocol and the ALPN names that are wished for in place of the cluster's.
type SpecKey = (Target, HttpProtocol, Option<Same<AlpnOverride>>);

/// A cluster's living state as this worker knows it.
struct ClusterView {
    state: Arc<ClusterState>,
    /// Its endpoints, as long as they are what they were.
    flat: Option<Flat>,
    /// What chooses among them, as long as they and their health are what they were.
    balancer: Option<Balancer>,
    /// Until the next configuration.
    specs: HashMap<SpecKey, (Arc<UpSpec>, PoolId)>,
    /// The names that it was asked for, where it finds such on demand.
    brought: Brought,
}

/// What an endpoint is wanted for.
pub(crate) struct Ask<'a> {
    /// Where the client wanted to go.
    pub(crate) destination: SocketAddr,
    /// What a request that was tried before avoids.
    pub(crate) again: Option<Again<'a>>,
    /// The request's hash, for balancers that need one; none: they choose at random.
    pub(crate) hash: Option<u64>,
    /// Whom the client asks for by name, where the cluster finds names on demand: a Host header's value or a server name; and the port, if something else
    /// than that says it.
    pub(crate) named: Option<(&'a str, Option<u16>)>,
    /// What the endpoint must have, where the cluster has groups.
    pub(crate) subset: Option<&'a Criteria>,
}

/// All clusters that a worker has used.
#[derive(Default)]
pub(crate) struct Clusters {
    views: HashMap<Name, ClusterView>,
    pools: Slab<Pool>,
    pool_of: HashMap<ConnKey, PoolId>,
    /// Each cluster's pools, those that retire included.
    pools_of: HashMap<Name, Vec<PoolId>>,
    dials: Slab<Dialing>,
    names: KnownNames,
    sweeps: Slab<Sweep>,
    /// Clusters and hosts that were met although the newest configuration did not name them: gone with the next one.
    strays: Vec<Name>,
}

impl Clusters {
    fn view(&mut self, cx: &Context, name: &Name) -> &mut ClusterView {
        let shared = &cx.options.shared;
        let strays = &mut self.strays;
        self.views.entry(name.clone()).or_insert_with(|| {
            if !cx.config.clusters.contains_key(name) {
                strays.push(name.clone());
            }
            ClusterView { state: shared.cluster(name), flat: None, balancer: None, specs: HashMap::new(), brought: Brought::new() }
        })
    }

    /// The counts of a cluster that all workers share.
    pub(crate) fn state(&mut self, cx: &Context, name: &Name) -> Arc<ClusterState> {
        self.view(cx, name).state.clone()
    }

    /// Picks an endpoint of `cluster`.
    pub(crate) fn pick(
        &mut self,
        cx: &mut Context,
        questions: &mut Questions,
        config: &Config,
        cluster: &Arc<Cluster>,
        mut ask: Ask<'_>,
    ) -> Result<Arc<Host>, NoHost> {
        if let Discovery::OriginalDst { port } = cluster.discovery {
            let mut address = ask.destination;
            address.set_port(port.unwrap_or(address.port()));
            let state = self.view(cx, &cluster.name).state.host(&address.to_string());
            return Ok(Arc::new(Host::direct(Target::Tcp(address), state)));
        }
        if let Discovery::Dynamic(dynamic) = &cluster.discovery {
            return self.by_name(cx, questions, cluster, dynamic, &ask);
        }
        let newest = cx.config.assignment_of(cluster);
        let assignment = newest.or_else(|| config.assignment_of(cluster)).cloned().ok_or(NoHost::None)?;
        let now = cx.now.mono;
        let hosts = self.hosts(cx, questions, cluster, &assignment)?;
        let view = self.view(cx, &cluster.name);
        let age = view.state.health_age();
        let mut pick = Pick { now, rng: &mut cx.rng, active: view.state.count(Limit::Requests), left_out: 0 };
        if !view.balancer.as_mut().is_some_and(|balancer| balancer.is_of(&hosts, &cluster.lb, age, now)) {
            let old = view.balancer.take();
            view.balancer = Some(Balancer::new(&assignment, &hosts, &cluster.lb, age, &mut pick, old));
        }
        let Some(balancer) = &mut view.balancer else { return Err(NoHost::None) };
        let mut found = None;
        for attempt in 0..=ask.again.as_ref().map_or(0, |again| again.policy.host_attempts) {
            let left_out = ask.again.as_mut().map_or(0, Again::left_out);
            pick.left_out = left_out;
            let host = balancer.pick(&mut pick, ask.hash, ask.subset, attempt).ok_or(NoHost::None)?;
            if let Some(again) = ask.again.as_mut().filter(|_| pick.left_out != left_out) {
                again.start_over();
            }
            let avoided = ask.again.as_ref().is_some_and(|again| again.avoids(&host));
            found = Some(host);
            if !avoided {
                break;
            }
        }
        found.ok_or(NoHost::None)
    }

    /// A name was resolved, or could not be.
    pub(crate) fn resolved(&mut self, cx: &Context, host: &Name, answer: crate::Answer) {
        if cx.config.clusters_of_host(host).next().is_none() {
            self.strays.push(host.clone());
        } else if !self.is_wanted(&cx.config, host) {
            return;
        }
        self.names.resolved(cx.now.mono, host, answer);
    }

    /// A kept way to connect, with its pool.
    pub(crate) fn known_spec(&mut self, cx: &Context, cluster: &Name, key: &SpecKey) -> Option<(Arc<UpSpec>, PoolId)> {
        let (spec, pool) = self.view(cx, cluster).specs.get(key).cloned()?;
        let pool = if self.pools.get(pool).is_some() { pool } else { self.pool_for(&spec) };
        Some((spec, pool))
    }

    /// Keeps a way to connect.
    pub(crate) fn keep_spec(&mut self, cx: &Context, cluster: &Name, key: SpecKey, spec: Arc<UpSpec>, pool: PoolId) {
        self.view(cx, cluster).specs.insert(key, (spec, pool));
    }

    /// A new configuration: what is kept of changed clusters' ways and hosts goes, and all of clusters that are gone. Connections and streams that
    /// go on keep of it what they need.
    pub(crate) fn take_config(&mut self, old: &Config, config: &Config, changes: &Changes) {
        for name in std::mem::take(&mut self.strays).iter().chain(&changes.reached) {
            self.forget_names(old, config, name);
            let kept = config.clusters.get(name);
            if kept.is_none_or(|cluster| dynamic::of(cluster).is_none())
                && let Some(brought) = self.views.get_mut(name).map(|view| std::mem::take(&mut view.brought))
            {
                brought.keys().for_each(|host| self.forget_unwanted(config, host));
            }
            let Some(cluster) = kept else {
                self.views.remove(name);
                continue;
            };
            let Some(view) = self.views.get_mut(name) else { continue };
            view.specs.clear();
            if !matches!(cluster.discovery, Discovery::Eds { .. } | Discovery::Static(_)) {
                continue;
            }
            let endpoints = config.assignment_of(cluster).into_iter().flat_map(|assignment| assignment.endpoints());
            let keep: HashSet<String> =
                endpoints.filter_map(|endpoint| fixed_target(&endpoint.address)).map(|target| address::target(&target)).collect();
            view.state.prune(|address| keep.contains(address));
        }
    }

    /// What hosts stand for that only this cluster had resolved, or that are of this name.
    fn forget_names(&mut self, old: &Config, config: &Config, name: &Name) {
        let of_cluster = old.clusters.get(name).map(|cluster| cluster.discovery.dns_names()).unwrap_or_default();
        for host in of_cluster.into_iter().map(|(host, _)| host).chain([name.clone()]) {
            self.forget_unwanted(config, &host);
        }
    }

    /// A connection of the cluster's, if its breaker allows.
    pub(crate) fn connection_guard(&mut self, cx: &Context, spec: &UpSpec) -> Option<Guard> {
        self.view(cx, &spec.cluster).state.acquire(Limit::Connections, spec.max_connections)
    }

    /// The pools of a cluster.
    pub(crate) fn pools_of(&self, cluster: &str) -> &[PoolId] {
        self.pools_of.get(cluster).map(Vec::as_slice).unwrap_or_default()
    }

    /// Starts a dial.
    pub(crate) fn dial(&mut self, cx: &mut Context, spec: Arc<UpSpec>, owner: Owner, guard: Option<Guard>) -> DialId {
        let deadline = cx.now.mono + spec.connect_timeout;
        let (target, client, keepalive) = (spec.target.clone(), spec.client, spec.keepalive);
        let source = client.map(|client| client.ip).or(spec.source);
        let mark = client.map(|client| client.mark).filter(|mark| *mark != 0).unwrap_or(cx.options.mark);
        let id = self.dials.insert::<DialTag>(Dialing { spec, owner, guard, deadline });
        cx.timers.arm(deadline, TimerKey::Dial(id));
        match target {
            Target::Internal(..) => cx.inbox.push_back(Event::DialInside(id)),
            Target::Tcp(_) | Target::Pipe(_) => {
                cx.actions.push(Action::Dial(Dial { id, target, source, transparent: client.is_some(), mark, keepalive }));
            }
        }
        id
    }

    /// Where a dial goes to.
    pub(crate) fn dial_target(&self, id: DialId) -> Option<&Target> {
        self.dials.get(id).map(|dialing| &dialing.spec.target)
    }

    /// A dial has ended, in one way or another: it is off its owner's list.
    pub(crate) fn dial_over(&mut self, id: DialId) -> Option<Dialing> {
        let dialing = self.dials.remove(id)?;
        if let Owner::Pool(pool) = dialing.owner
            && let Some(pool) = self.pools.get_mut(pool)
        {
            pool.dials.retain(|dial| *dial != id);
        }
        Some(dialing)
    }

    /// Nobody wants this dial any more.
    pub(crate) fn cancel_dial(&mut self, cx: &mut Context, id: DialId) {
        if let Some(dialing) = self.dials.remove(id) {
            dialing.cancel(cx, id);
        }
    }

    /// Whether a dial is in progress.
    pub(crate) fn is_dialing(&self, id: DialId) -> bool {
        self.dials.get(id).is_some()
    }

    /// Dials in progress.
    pub(crate) fn dials(&self) -> usize {
        self.dials.len()
    }

    /// Whether too many dials are in progress.
    pub(crate) fn dials_full(&self, cx: &Context) -> bool {
        self.dials.len() >= cx.options.limits.dials
    }

    pub(crate) fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(id)
    }

    pub(crate) fn pool_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.pools.get_mut(id)
    }

    /// All pools.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn pools(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        self.pools.ids().filter_map(|id| Some((id, self.pools.get(id)?)))
    }

    /// The sizes of the tables.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 6] {
        [
            ("clusters", self.views.len()),
            ("pools", self.pools.len()),
            ("pools by key", self.pool_of.len()),
            ("pools by cluster", self.pools_of.len()),
            ("names", self.names.len()),
            ("strays", self.strays.len()),
        ]
    }

    /// The ids of all pools.
    pub(crate) fn pool_ids(&self) -> Vec<PoolId> {
        self.pools.ids().collect()
    }

    /// Whether a cluster has pools.
    pub(crate) fn has_pools(&self, cluster: &str) -> bool {
        self.pools_of.contains_key(cluster)
    }

    /// The pools of a cluster that are not as a configuration wants them, and how many it has.
    pub(crate) fn stale_pools(&self, config: &Config, cluster: &str) -> (Vec<PoolId>, usize) {
        let Some(pools) = self.pools_of.get(cluster) else { return (Vec::new(), 0) };
        let judge = Judge::new(config, cluster);
        // Pools of checks belong to their checker.
        let stale = |id: &PoolId| self.pools.get(*id).is_some_and(|pool| pool.spec.check.is_none() && !judge.wants(&pool.spec));
        (pools.iter().copied().filter(stale).collect(), pools.len())
    }

    /// The pool for connections like this.
    pub(crate) fn pool_for(&mut self, spec: &Arc<UpSpec>) -> PoolId {
        if let Some(id) = self.pool_of.get(&spec.key) {
            return *id;
        }
        let id = self.pools.insert(Pool::new(spec.clone()));
        self.pool_of.insert(spec.key.clone(), id);
        self.pools_of.entry(spec.cluster.clone()).or_default().push(id);
        id
    }

    /// No request comes to this pool any more.
    pub(crate) fn close_pool(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get(id) else { return };
        if self.pool_of.get(&pool.spec.key) == Some(&id) {
            self.pool_of.remove(&pool.spec.key);
        }
    }

    /// Forgets an empty pool.
    pub(crate) fn tidy_pool(&mut self, id: PoolId) {
        if !self.pools.get(id).is_some_and(Pool::is_empty) {
            return;
        }
        self.close_pool(id);
        let Some(pool) = self.pools.remove(id) else { return };
        if let Some(pools) = self.pools_of.get_mut(&pool.spec.cluster) {
            pools.retain(|other| *other != id);
            if pools.is_empty() {
                self.pools_of.remove(&pool.spec.cluster);
            }
        }
    }
}
