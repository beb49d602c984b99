//! The state of clusters and hosts that all workers share: breakers, outlier counts, request counts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
    time::Duration,
};

use mizzen_ir::config::{ContentHash, Health, Outlier};
use mizzen_types::Name;

use crate::{
    bucket::Bucket,
    health::{Fitness, HealthBits, HealthFlags},
    metrics::HostStats,
};

/// The clusters' state, by name: it survives changes of the configuration. One per process.
#[derive(Debug, Default)]
pub struct Shared {
    clusters: Mutex<HashMap<Name, Arc<ClusterState>>>,
    /// Guards out, over all clusters.
    guards: Arc<AtomicU32>,
    /// Requests under a fault.
    faults: Arc<AtomicU32>,
    /// Token buckets of local rate limits.
    buckets: Mutex<HashMap<ContentHash, Arc<Bucket>>>,
}

/// Token buckets beyond which those that only this table holds are forgotten.
const MOST_BUCKETS: usize = 4096;

impl Shared {
    /// The state of a cluster. Workers keep it, so that the lock is taken once per worker and cluster.
    pub(crate) fn cluster(&self, name: &Name) -> Arc<ClusterState> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters
            .entry(name.clone())
            .or_insert_with(|| Arc::new(ClusterState { guards: self.guards.clone(), ..ClusterState::default() }))
            .clone()
    }

    /// Guards out by limit, in the order of [`Limit`], over all clusters.
    #[cfg(test)]
    pub(crate) fn guards_by_limit(&self) -> [u32; 4] {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = [Limit::Connections, Limit::Pending, Limit::Requests, Limit::Retries];
        limits.map(|limit| clusters.values().map(|state| state.count(limit)).sum())
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

    /// Breaker guards out.
    pub fn guards(&self) -> u32 {
        self.guards.load(Relaxed)
    }

    /// The state of every host used so far, by cluster; `now` is the workers' monotonic clock.
    pub fn hosts(&self, now: Duration) -> Vec<(Name, Vec<HostStats>)> {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = clusters.iter().map(|(name, state)| (name.clone(), state.stats(now))).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
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

/// One cluster's counts.
#[derive(Debug, Default)]
pub(crate) struct ClusterState {
    counts: [AtomicU32; 4],
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
    guards: Arc<AtomicU32>,
    age: Arc<AtomicU64>,
}

impl ClusterState {
    /// Takes one of `limit`, if fewer than `most` are out. Given back when the guard goes, exactly once.
    pub(crate) fn acquire(self: &Arc<Self>, limit: Limit, most: u32) -> Option<Guard> {
        self.counts[limit as usize].fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).ok()?;
        self.guards.fetch_add(1, Relaxed);
        Some(Guard { cluster: self.clone(), limit })
    }

    /// How many of `limit` are out.
    pub(crate) fn count(&self, limit: Limit) -> u32 {
        self.counts[limit as usize].load(Relaxed)
    }

    pub(crate) fn host(&self, address: &str) -> Arc<HostState> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MOST_HOSTS && !hosts.contains_key(address) {
            // Where clients choose the address there is no end of hosts: those that nobody uses are forgotten.
            hosts.retain(|_, host| Arc::strong_count(host) > 1);
        }
        hosts
            .entry(address.to_owned())
            .or_insert_with(|| {
                let health = HealthBits::new(self.age.clone());
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
        hosts.retain(|address, host| keep(address) || host.active.load(Relaxed) > 0 || host.connections.load(Relaxed) > 0);
    }

    /// How many hosts are ejected now.
    pub(crate) fn ejected(&self, now: Duration) -> usize {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.values().filter(|host| host.is_ejected(now)).count()
    }

    fn stats(&self, now: Duration) -> Vec<HostStats> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = hosts.values().map(|host| host.stats(now)).collect();
        all.sort_by(|a, b| a.address.cmp(&b.address));
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
    /// Failures in a row: of any kind (5xx, resets), and gateway failures (502, 503, 504, resets).
    row_5xx: AtomicU32,
    row_gateway: AtomicU32,
    pub(crate) health: HealthBits,
    /// Ejected until, in milliseconds of the monotonic clock; 0: it never was.
    until: AtomicU64,
    /// By what the base time was multiplied the last time.
    multiplier: AtomicU32,
}

impl HostState {
    pub(crate) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        Active(self.clone())
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

    /// Whether it is ejected; lets it back in when its time is over.
    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        let ejected = self.ejected_until(now).is_some();
        self.health.set(HealthFlags::FAILED_OUTLIER, ejected);
        ejected
    }

    /// When it is let back in, if it is ejected.
    pub(crate) fn ejected_until(&self, now: Duration) -> Option<Duration> {
        Some(Duration::from_millis(self.until.load(Relaxed))).filter(|until| until.as_millis() > now.as_millis())
    }

    /// Counts an answer's status, or a reset as 503; `true` if the host is to be ejected by it.
    pub(crate) fn answered(&self, status: u16, outlier: Option<&Outlier>) -> bool {
        if status < 500 {
            self.success.fetch_add(1, Relaxed);
            self.row_5xx.store(0, Relaxed);
            self.row_gateway.store(0, Relaxed);
            return false;
        }
        self.error.fetch_add(1, Relaxed);
        let row = self.row_5xx.fetch_add(1, Relaxed) + 1;
        let gateway = if (502..=504).contains(&status) {
            self.row_gateway.fetch_add(1, Relaxed) + 1
        } else {
            self.row_gateway.store(0, Relaxed);
            0
        };
        let reached = |n: u32, most: u32| most > 0 && n >= most;
        outlier.is_some_and(|o| reached(row, o.consecutive_5xx) || reached(gateway, o.consecutive_gateway))
    }

    /// Leaves it out for the base time, times a multiplier: one more for each ejection, one less for each interval that it was not ejected.
    pub(crate) fn eject(&self, now: Duration, outlier: &Outlier) {
        let (base, most) = (outlier.base_ejection, outlier.max_ejection.max(outlier.base_ejection));
        let well = now.saturating_sub(Duration::from_millis(self.until.load(Relaxed)));
        let intervals = well.as_millis().checked_div(outlier.interval.as_millis()).unwrap_or(0);
        let last = self.multiplier.load(Relaxed).saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX));
        // Past the longest time it grows no more, or it would take as long to shrink.
        let times = if base.saturating_mul(last) < most { last + 1 } else { last };
        self.multiplier.store(times, Relaxed);
        let time = base.saturating_mul(times).min(most);
        self.until.store(now.saturating_add(time).as_millis() as u64, Relaxed);
        self.health.set(HealthFlags::FAILED_OUTLIER, true);
        self.row_5xx.store(0, Relaxed);
        self.row_gateway.store(0, Relaxed);
    }

    fn stats(&self, now: Duration) -> HostStats {
        self.is_ejected(now);
        HostStats {
            address: self.address.to_string(),
            flags: self.health.get(),
            connections: self.connections.load(Relaxed).into(),
            connections_total: self.connections_total.load(Relaxed),
            connect_failures: self.connect_failures.load(Relaxed),
            active: self.active.load(Relaxed).into(),
            requests: self.requests.load(Relaxed),
            success: self.success.load(Relaxed),
            error: self.error.load(Relaxed),
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

    #[test]
    fn ejection() {
        let host = HostState::default();
        let outlier = Outlier {
            consecutive_5xx: 2,
            consecutive_gateway: 0,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_percent: 10,
        };
        assert!(!host.answered(500, Some(&outlier)));
        assert!(!host.answered(200, Some(&outlier)));
        assert!(!host.answered(503, Some(&outlier)));
        assert!(host.answered(503, Some(&outlier)));
        let at = Duration::from_secs;
        // When it fails, and until when it is then left out.
        for (fails, until) in
            [(1, 31), (32, 92), (101, 191), (199, 319), (340, 430), (2000, 2030), (2030, 2090), (2095, 2185), (2185, 2305)]
        {
            host.eject(at(fails), &outlier);
            assert!(host.is_ejected(at(until) - Duration::from_millis(1)) && !host.is_ejected(at(until)), "{fails}");
            let ejected = |now| host.stats(at(now)).flags.any(HealthFlags::FAILED_OUTLIER);
            assert_eq!((ejected(until - 1), ejected(until)), (true, false), "{fails}");
        }
        // One after the other: five minutes at most, and not long to shrink.
        let mut now = 3000;
        for times in 1..=20 {
            host.eject(at(now), &outlier);
            now += 30 * times.min(10);
            assert!(host.is_ejected(at(now) - Duration::from_millis(1)) && !host.is_ejected(at(now)), "{times}");
        }
        host.eject(at(now + 70), &outlier);
        assert!(host.is_ejected(at(now + 70 + 119)) && !host.is_ejected(at(now + 70 + 120)));
    }
}
