//! The state of clusters and hosts that all workers share: breakers, outlier counts, request counts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
    time::Duration,
};

use mizzen_ir::config::{ContentHash, Endpoint, Health};
use mizzen_types::Name;

use crate::{
    ConnectionLimits,
    bucket::Bucket,
    ceiling::Ceilings,
    health::{Fitness, HealthBits, HealthFlags},
    metrics::{ClusterStats, HostStats},
    outlier::{Detector, Monitor},
};

/// Clusters' states, as long as somebody has them.
type States = Mutex<HashMap<Name, Weak<ClusterState>>>;

/// The clusters' state, by name: it survives changes of the configuration, and goes when neither a worker's configuration nor a connection or stream
/// has it. One per process.
#[derive(Debug, Default)]
pub struct Shared {
    clusters: Arc<States>,
    /// Guards out, over all clusters.
    guards: Arc<AtomicU32>,
    /// Requests under a fault.
    faults: Arc<AtomicU32>,
    /// Whether some worker checks hosts.
    checks: AtomicBool,
    /// Token buckets of local rate limits.
    buckets: Mutex<HashMap<ContentHash, Arc<Bucket>>>,
    /// How many connections listeners may have.
    ceilings: Ceilings,
}

/// Token buckets beyond which those that only this table holds are forgotten.
const MOST_BUCKETS: usize = 4096;

impl Shared {
    /// The state of a process whose listeners may have so many connections.
    pub fn limited(limits: &ConnectionLimits) -> Shared {
        Shared { ceilings: Ceilings::new(limits), ..Shared::default() }
    }

    /// How many connections listeners may have.
    pub(crate) fn ceilings(&self) -> &Ceilings {
        &self.ceilings
    }

    /// The state of a cluster. Workers keep it, so that the lock is taken once per worker and cluster.
    pub(crate) fn cluster(&self, name: &Name) -> Arc<ClusterState> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = clusters.get(name).and_then(Weak::upgrade) {
            return state;
        }
        let place = Place { name: name.clone(), states: Arc::downgrade(&self.clusters) };
        let state = Arc::new(ClusterState { place, guards: self.guards.clone(), ..ClusterState::default() });
        clusters.insert(name.clone(), Arc::downgrade(&state));
        state
    }

    /// The sizes of the tables.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 2] {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner).len();
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).len();
        [("states of clusters", clusters), ("buckets", buckets)]
    }

    /// All states. Taken out of the lock: the last one who has a state takes it when it lets go.
    fn states(&self) -> Vec<Arc<ClusterState>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
    }

    /// Guards out by limit, in the order of [`Limit`], over all clusters.
    #[cfg(test)]
    pub(crate) fn guards_by_limit(&self) -> [u32; 4] {
        let states = self.states();
        let limits = [Limit::Connections, Limit::Pending, Limit::Requests, Limit::Retries];
        limits.map(|limit| states.iter().map(|state| state.count(limit)).sum())
    }

    /// Whether the caller is to check the hosts, for all workers: the first that asks.
    pub(crate) fn takes_checks(&self) -> bool {
        !self.checks.swap(true, Relaxed)
    }

    /// Requests under a fault.
    pub(crate) fn faults(&self) -> &Arc<AtomicU32> {
        &self.faults
    }

    /// The bucket of a local rate limit; it lives on over changes of everything else. Workers keep it, so that the lock is taken once for each
    /// configuration.
    pub(crate) fn bucket(&self, of: ContentHash) -> Arc<Bucket> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST_BUCKETS && !buckets.contains_key(&of) {
            buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1);
        }
        buckets.entry(of).or_insert_with(|| Arc::new(Bucket::new())).clone()
    }

    /// Forgets the buckets that nobody uses and that are as full as new ones.
    pub(crate) fn forget_buckets(&self, now: Duration) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full(now));
    }

    /// Breaker guards out.
    pub fn guards(&self) -> u32 {
        self.guards.load(Relaxed)
    }

    /// Whether outlier detection leaves out a host of a cluster.
    pub fn ejects(&self, cluster: &str) -> bool {
        let state = self.clusters.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).and_then(Weak::upgrade);
        state.is_some_and(|state| state.members().iter().any(|host| host.is_ejected()))
    }

    /// The state of every cluster used so far, with its hosts.
    pub fn clusters(&self) -> Vec<ClusterStats> {
        let one = |state: &Arc<ClusterState>| ClusterStats { name: state.place.name.clone(), rates: state.rates(), hosts: state.stats() };
        let mut all: Vec<_> = self.states().iter().map(one).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// Hosts of one cluster of which those are kept too that nobody uses at the moment.
const MOST_HOSTS: usize = 4096;

/// What a breaker counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Connections,
    Pending,
    Requests,
    Retries,
}

/// Hosts, and what the configuration says of each.
type Members = (Arc<[Arc<HostState>]>, Vec<Option<Arc<Endpoint>>>);

/// One cluster's counts.
#[derive(Debug, Default)]
pub(crate) struct ClusterState {
    place: Place,
    counts: [AtomicU32; 4],
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
    guards: Arc<AtomicU32>,
    age: Arc<AtomicU64>,
    /// The hosts that the configuration names; none: it names none, or nobody has looked yet.
    members: Mutex<Option<Members>>,
    pub(crate) detector: Detector,
    /// Whether it ever had a connection.
    has_traffic: AtomicBool,
}

/// A state's place in the table: free once the state is gone.
#[derive(Debug, Default)]
struct Place {
    name: Name,
    states: Weak<States>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(states) = self.states.upgrade() else { return };
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        // A new one may have taken its place.
        if states.get(&self.name).is_some_and(|state| state.strong_count() == 0) {
            states.remove(&self.name);
        }
    }
}

impl ClusterState {
    /// Takes one of `limit`, if fewer than `most` are out. Given back when the guard goes, exactly once.
    pub(crate) fn acquire(self: &Arc<Self>, limit: Limit, most: u32) -> Option<Guard> {
        self.counts[limit as usize].fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).ok()?;
        self.guards.fetch_add(1, Relaxed);
        if limit == Limit::Connections && !self.has_traffic.load(Relaxed) {
            self.has_traffic.store(true, Relaxed);
        }
        Some(Guard { cluster: self.clone(), limit })
    }

    /// Whether it ever had a connection, those of checks not counted.
    pub(crate) fn has_traffic(&self) -> bool {
        self.has_traffic.load(Relaxed)
    }

    /// How many of `limit` are out.
    pub(crate) fn count(&self, limit: Limit) -> u32 {
        self.counts[limit as usize].load(Relaxed)
    }

    pub(crate) fn host(&self, address: &str) -> Arc<HostState> {
        self.host_with(address, HealthFlags::default())
    }

    /// The same; these are held against it if it is new.
    pub(crate) fn host_with(&self, address: &str, flags: HealthFlags) -> Arc<HostState> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MOST_HOSTS && !hosts.contains_key(address) {
            // Where clients choose the address there is no end of hosts: those that nobody uses are forgotten.
            hosts.retain(|_, host| Arc::strong_count(host) > 1);
        }
        hosts
            .entry(address.to_owned())
            .or_insert_with(|| {
                let health = HealthBits::new(self.age.clone());
                health.set(flags, true);
                Arc::new(HostState { address: Name::from(address), health, ..HostState::default() })
            })
            .clone()
    }

    /// Grows whenever something else is held against one of its hosts: what was made of their health is to be made anew.
    pub(crate) fn health_age(&self) -> u64 {
        self.age.load(Acquire)
    }

    /// Forgets hosts that are gone and idle.
    pub(crate) fn prune(&self, keep: impl Fn(&str) -> bool) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|address, host| keep(address) || host.is_used());
    }

    /// Says which hosts the configuration names, with their names resolved.
    pub(crate) fn set_members(&self, hosts: impl Iterator<Item = (Arc<HostState>, Option<Arc<Endpoint>>)>) {
        let (hosts, endpoints): (Vec<_>, Vec<_>) = hosts.unzip();
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = Some((hosts.into(), endpoints));
    }

    /// The hosts that the configuration names; where it names none, those that were used.
    pub(crate) fn members(&self) -> Arc<[Arc<HostState>]> {
        if let Some((members, _)) = &*self.members.lock().unwrap_or_else(PoisonError::into_inner) {
            return members.clone();
        }
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = hosts.values().cloned().collect();
        all.sort_by(|a, b| a.address.cmp(&b.address));
        all.into()
    }

    /// The hosts that the configuration names, and those that it names no more as long as they are used.
    fn stats(&self) -> Vec<HostStats> {
        let members = self.members();
        let endpoints = self.members.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, endpoints)| endpoints.clone());
        let mut endpoints = endpoints.unwrap_or_default().into_iter();
        let one = |host: &Arc<HostState>| HostStats { is_named: true, endpoint: endpoints.next().flatten(), ..host.stats() };
        let mut all: Vec<_> = members.iter().map(one).collect();
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_member = |host: &Arc<HostState>| members.iter().any(|member| Arc::ptr_eq(member, host));
        let mut rest: Vec<_> = hosts.values().filter(|host| host.is_used() && !is_member(host)).map(|host| host.stats()).collect();
        rest.sort_by(|a, b| a.address.cmp(&b.address));
        all.extend(rest);
        all
    }
}

/// One of a limit, taken.
#[derive(Debug)]
pub(crate) struct Guard {
    cluster: Arc<ClusterState>,
    limit: Limit,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cluster.counts[self.limit as usize].fetch_sub(1, Relaxed);
        self.cluster.guards.fetch_sub(1, Relaxed);
    }
}

/// One host's counts and its health; it lives on over changes of the configuration.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    pub(crate) address: Name,
    pub(crate) connections: AtomicU32,
    pub(crate) connections_total: AtomicU64,
    pub(crate) connect_failures: AtomicU64,
    pub(crate) active: AtomicU32,
    /// Since when it is well, in milliseconds of the monotonic clock, plus one; 0: nobody has looked yet.
    well: AtomicU64,
    requests: AtomicU64,
    success: AtomicU64,
    error: AtomicU64,
    timeouts: AtomicU64,
    pub(crate) health: HealthBits,
    pub(crate) monitor: Monitor,
}

impl HostState {
    /// One that belongs to no cluster.
    pub(crate) fn alone(address: &str) -> Arc<Self> {
        Arc::new(HostState { address: Name::from(address), ..HostState::default() })
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        Active(self.clone())
    }

    /// Whether requests or connections are there.
    fn is_used(&self) -> bool {
        self.active.load(Relaxed) > 0 || self.connections.load(Relaxed) > 0
    }

    pub(crate) fn load(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Since when it serves, as far as slow start is concerned: since somebody has first looked, which may be now.
    pub(crate) fn well_since(&self, now: Duration) -> Duration {
        let new = now.as_millis() as u64 + 1;
        let known = self.well.compare_exchange(0, new, Relaxed, Relaxed);
        Duration::from_millis(known.err().unwrap_or(new) - 1)
    }

    /// What is held against it, with what the control plane says of it.
    pub(crate) fn flags(&self, eds: Health) -> HealthFlags {
        self.health.get().with(HealthFlags::of_eds(eds))
    }

    /// How fit it is, with what the control plane says of it.
    pub(crate) fn fitness(&self, eds: Health) -> Fitness {
        self.flags(eds).fitness()
    }

    /// Whether outlier detection leaves it out.
    pub(crate) fn is_ejected(&self) -> bool {
        self.health.get().any(HealthFlags::FAILED_OUTLIER)
    }

    /// Counts that an answer took too long.
    pub(crate) fn too_long(&self) {
        self.timeouts.fetch_add(1, Relaxed);
    }

    /// Counts how a request ended: well, which is below 500, or not.
    pub(crate) fn ended(&self, well: bool) {
        let counter = if well { &self.success } else { &self.error };
        counter.fetch_add(1, Relaxed);
    }

    fn stats(&self) -> HostStats {
        HostStats {
            address: self.address.to_string(),
            flags: self.health.get(),
            success_rates: self.monitor.rates(),
            connections: self.connections.load(Relaxed).into(),
            connections_total: self.connections_total.load(Relaxed),
            connect_failures: self.connect_failures.load(Relaxed),
            active: self.active.load(Relaxed).into(),
            requests: self.requests.load(Relaxed),
            success: self.success.load(Relaxed),
            error: self.error.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            is_named: false,
            endpoint: None,
        }
    }
}

/// A request in flight to a host.
#[derive(Debug)]
pub(crate) struct Active(Arc<HostState>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// The worker's random numbers, for balancing and ids, never for secrets; of one seed always the same.
#[derive(Debug)]
pub(crate) struct Rng(fastrand::Rng);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(fastrand::Rng::with_seed(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.u64(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_come_back_once() {
        let shared = Shared::default();
        let cluster = shared.cluster(&"c".into());
        let a = cluster.acquire(Limit::Requests, 1);
        assert!(a.is_some() && cluster.acquire(Limit::Requests, 1).is_none());
        assert_eq!((shared.guards(), cluster.count(Limit::Requests)), (1, 1));
        drop(a);
        assert_eq!((shared.guards(), cluster.count(Limit::Requests)), (0, 0));
        assert!(cluster.acquire(Limit::Requests, 0).is_none());
    }
}
