//! Active checks of hosts: what becomes of a host by how its checks end, and when the next one is.
//!
//! One worker of the process checks all hosts, over connections of its own; what it finds is held against the hosts, for all workers. See
//! `worker/checks.rs` for how a check is made.

pub(crate) mod answer;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use mizzen_ir::config::{Cluster, EndpointCheck, HealthCheck, Pace};
use mizzen_types::Name;

use crate::{
    ConnId, DialId, HealthFlags, Target, address,
    clusters::Host,
    id::{CheckId, PoolId, Slab, StreamId},
    lb::{ClusterState, HostState, Rng},
};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The host is well.
    Well {
        /// It says that it is degraded.
        degraded: bool,
    },
    /// It answered, and not well.
    Ill {
        /// This counts towards the threshold, and does not reach it by itself.
        retriable: bool,
    },
    /// It was not reached, or the connection was cut off.
    Lost,
    /// No answer came in time.
    TooLong,
}

/// The hosts that are checked, by cluster.
#[derive(Default)]
pub(crate) struct Checks {
    /// The configuration's clusters that are checked.
    pub(crate) names: BTreeSet<Name>,
    pub(crate) clusters: HashMap<Name, Checked>,
    pub(crate) sessions: Slab<Session>,
}

/// A cluster whose hosts are checked.
pub(crate) struct Checked {
    pub(crate) cluster: Arc<Cluster>,
    /// Its hosts as they were found the last time.
    pub(crate) hosts: Arc<Vec<Vec<Arc<Host>>>>,
    pub(crate) sessions: HashMap<Name, CheckId>,
}

/// A host that is checked.
pub(crate) struct Session {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) check: Arc<HealthCheck>,
    pub(crate) state: Arc<ClusterState>,
    pub(crate) host: Arc<HostState>,
    /// Where and how it is reached: with counts of its own, since checks are no traffic.
    pub(crate) probe: Host,
    pub(crate) tracker: Tracker,
    pub(crate) running: Running,
    /// A connection of TCP that is kept for the next check.
    pub(crate) kept: Option<ConnId>,
    /// Where requests get their connections.
    pub(crate) pool: Option<PoolId>,
    /// When the next check is, or the present one has taken too long.
    pub(crate) due: Option<Duration>,
}

/// What a check is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Running {
    /// Nothing: the time for the next one has not come.
    No,
    /// A request.
    Call(StreamId),
    /// Dials.
    Dial(DialId),
    /// Waits for bytes, or for a handshake.
    Conn(ConnId),
}

/// What the checks so far come to.
#[derive(Debug)]
pub(crate) struct Tracker {
    /// Not once yet.
    is_first: bool,
    /// In a row, as long as the host is not what they would make of it.
    well: u32,
    ill: u32,
    /// Whether the host was failed after the last one.
    was_failed: bool,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) well: bool,
    /// More of the same will change what the host is.
    pub(crate) pending: bool,
}

impl Tracker {
    pub(crate) fn new() -> Self {
        Tracker { is_first: true, well: 0, ill: 0, was_failed: true }
    }

    /// Takes a check's outcome over to the host.
    pub(crate) fn take(&mut self, host: &HostState, check: &HealthCheck, outcome: Outcome) -> Verdict {
        use HealthFlags as F;
        let flags = host.health.get();
        let failed = flags.any(F::FAILED_ACTIVE);
        if failed && !self.was_failed {
            // It asked to be left out meanwhile.
            self.well = 0;
        }
        let mut pending = false;
        let well = match outcome {
            Outcome::Well { degraded } => {
                self.ill = 0;
                if failed {
                    self.well = self.well.saturating_add(1);
                    if self.is_first || self.well >= check.healthy_threshold {
                        host.health.set(F::FAILED_ACTIVE.with(F::ACTIVE_TIMEOUT).with(F::LEFT_OUT), false);
                        self.well = 0;
                    } else {
                        pending = true;
                    }
                }
                host.health.set(F::DEGRADED_ACTIVE, degraded);
                true
            }
            Outcome::Ill { .. } | Outcome::Lost | Outcome::TooLong => {
                self.well = 0;
                if !failed {
                    self.ill = self.ill.saturating_add(1);
                    if outcome == (Outcome::Ill { retriable: false }) || self.ill >= check.unhealthy_threshold {
                        host.health.set(F::FAILED_ACTIVE, true);
                        self.ill = 0;
                    } else {
                        pending = true;
                    }
                }
                let is_late = outcome == Outcome::TooLong && host.health.get().any(F::FAILED_ACTIVE);
                host.health.set(F::ACTIVE_TIMEOUT, is_late);
                false
            }
        };
        if host.health.set(F::PENDING_ACTIVE, false) {
            pending = false;
        }
        self.is_first = false;
        self.was_failed = host.health.get().any(F::FAILED_ACTIVE);
        Verdict { well, pending }
    }
}

/// How long it is to the next check.
pub(crate) fn wait(pace: &Pace, verdict: Verdict, has_traffic: bool, rng: &mut Rng) -> Duration {
    let base = match (has_traffic, verdict.well, verdict.pending) {
        (true, true, false) => pace.interval,
        (true, true, true) => pace.healthy_edge,
        (true, false, false) => pace.unhealthy,
        (true, false, true) => pace.unhealthy_edge,
        (false, true, false) => pace.no_traffic_healthy,
        (false, ..) => pace.no_traffic,
    };
    let share = base.saturating_mul(pace.jitter_percent) / 100;
    // Never at once, or it would go round in a circle.
    base.saturating_add(within(share, rng)).saturating_add(within(pace.jitter, rng)).max(Duration::from_millis(1))
}

/// How long the first check is put off.
pub(crate) fn first(pace: &Pace, rng: &mut Rng) -> Duration {
    within(pace.initial_jitter, rng)
}

/// A time of whole milliseconds below `most`, at random.
fn within(most: Duration, rng: &mut Rng) -> Duration {
    match u64::try_from(most.as_millis()).unwrap_or(u64::MAX) {
        0 => Duration::ZERO,
        most => Duration::from_millis(rng.next() % most),
    }
}

/// What is held against a host of which nothing is known yet.
pub(crate) fn unchecked(cluster: &Cluster, endpoint: Option<&EndpointCheck>) -> HealthFlags {
    match (&cluster.health_check, endpoint.is_some_and(|check| check.is_off)) {
        (Some(_), false) if cluster.ignores_unchecked => HealthFlags::FAILED_ACTIVE.with(HealthFlags::PENDING_ACTIVE),
        (Some(_), false) => HealthFlags::FAILED_ACTIVE,
        _ => HealthFlags::default(),
    }
}

/// What only checks hold against a host.
pub(crate) const BY_CHECKS: HealthFlags = HealthFlags::FAILED_ACTIVE
    .with(HealthFlags::DEGRADED_ACTIVE)
    .with(HealthFlags::PENDING_ACTIVE)
    .with(HealthFlags::LEFT_OUT)
    .with(HealthFlags::ACTIVE_TIMEOUT);

/// Where and how a host is reached by checks; none: it is not checked.
pub(crate) fn probe(host: &Host, check: &HealthCheck) -> Option<Host> {
    let endpoint = host.endpoint.as_ref()?;
    let own = endpoint.check.as_deref();
    if own.is_some_and(|own| own.is_off) {
        return None;
    }
    let mut target = host.target.clone();
    if let Some(own) = own {
        match (&mut target, own.address) {
            (Target::Tcp(address), ip) => {
                address.set_ip(ip.unwrap_or(address.ip()));
                if own.port > 0 {
                    address.set_port(own.port);
                }
            }
            (other, Some(ip)) => *other = Target::Tcp((ip, own.port).into()),
            (Target::Pipe(_) | Target::Internal(..), None) => {}
        }
    }
    let mut endpoint = endpoint.clone();
    if let Some(labels) = &check.transport_labels {
        endpoint = Arc::new(mizzen_ir::config::Endpoint { labels: labels.clone(), ..(*endpoint).clone() });
    }
    let state = HostState::alone(&address::target(&target));
    let mut probe = Host::direct(target, state);
    probe.endpoint = Some(endpoint);
    Some(probe)
}

impl Session {
    /// The authority of a check that has this one, which may be empty.
    pub(crate) fn authority<'a>(&'a self, own: &'a Name) -> &'a str {
        let of_host = self.probe.endpoint.as_ref().and_then(|endpoint| endpoint.check.as_ref()).map(|check| &check.hostname);
        of_host.filter(|name| !name.is_empty()).or(Some(own).filter(|name| !name.is_empty())).unwrap_or(&self.cluster.name)
    }
}
