//! Outlier detection: a host is left out for a while by what its answers and connections show, as Envoy does it.
//!
//! Workers count what they see at the hosts. One of them, whichever saw something first, looks at all of a cluster's hosts once an interval: lets
//! back in whose time is over, and compares the hosts.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Relaxed, Release},
        },
    },
    time::Duration,
};

use mizzen_ir::config::Outlier;

use crate::{
    HealthFlags,
    lb::{ClusterState, HostState, Rng},
};

/// What was seen of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It answered, with this status (that of gRPC as HTTP's).
    Answer(u16),
    /// A request found a connection.
    Connected,
    /// A stream of TCP is connected, which is all that can be seen of it.
    Served,
    /// It was not reached, or cut a connection or a stream off.
    Failed,
    /// It took too long to connect or to answer.
    TooLong,
}

/// What makes a host an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocal,
    SuccessRate(Origin),
    FailurePercentage(Origin),
}

/// Which failures a share of successes is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// All, or those that the host answered where the way's are counted apart.
    Answers,
    /// Those of the way to it.
    Way,
}

/// What is known of one host.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    row_5xx: AtomicU32,
    row_gateway: AtomicU32,
    row_local: AtomicU32,
    answers: Tally,
    way: Tally,
    judged: Mutex<Judged>,
}

/// Successes since the last sweep.
#[derive(Debug, Default)]
struct Tally {
    good: AtomicU64,
    all: AtomicU64,
}

/// What came of it.
#[derive(Debug, Default)]
struct Judged {
    ejection: Term,
    degradation: Term,
    /// Shares of successes in the last interval (percent), where there was enough to tell: of answers, of the way.
    rates: [Option<f64>; 2],
}

/// When something was held against a host, and how often of late.
#[derive(Debug, Default)]
struct Term {
    /// When it began the last time.
    since: Duration,
    /// When it ended the last time.
    ended: Option<Duration>,
    /// By what the base time is multiplied.
    times: u32,
    jitter: Duration,
}

/// What is known of a cluster's hosts together.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    /// Whether some worker will sweep.
    armed: AtomicBool,
    /// One is ejected at a time: the share that may be is counted before.
    turn: Mutex<Rates>,
}

/// The mean of the shares of successes in the last interval, and the share below which a host is an outlier, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Of answers; none: too few hosts had enough requests.
    pub answers: Option<(f64, f64)>,
    /// Of the way to the hosts.
    pub way: Option<(f64, f64)>,
}

impl Tally {
    fn count(&self, good: bool) {
        self.all.fetch_add(1, Relaxed);
        if good {
            self.good.fetch_add(1, Relaxed);
        }
    }

    /// Successes and all; begins anew.
    fn take(&self) -> (u64, u64) {
        let good = self.good.swap(0, Relaxed);
        (good, self.all.swap(0, Relaxed).max(good))
    }
}

impl Term {
    /// Begins once more: for longer each time, up to the longest.
    fn begin(&mut self, outlier: &Outlier, now: Duration, rng: &mut Rng) {
        self.since = now;
        let most = u64::try_from(outlier.max_jitter.as_millis()).unwrap_or(u64::MAX);
        self.jitter = if most == 0 { Duration::ZERO } else { Duration::from_millis(rng.next() % most.saturating_add(1)) };
        if outlier.base_ejection.saturating_mul(self.times) < outlier.max_ejection.saturating_add(outlier.base_ejection) {
            self.times += 1;
        }
    }

    fn is_over(&self, outlier: &Outlier, now: Duration) -> bool {
        let time = outlier.base_ejection.saturating_mul(self.times).min(outlier.max_ejection).saturating_add(self.jitter);
        now.saturating_sub(self.since) >= time
    }

    /// An interval has passed without it.
    fn shrink(&mut self, outlier: &Outlier, now: Duration) {
        if self.ended.is_some_and(|ended| now.saturating_sub(ended) >= outlier.interval) {
            self.times = self.times.saturating_sub(1);
        }
    }
}

impl Monitor {
    /// Counts what was seen; what that makes it an outlier by, if anything.
    fn count(&self, seen: Seen, outlier: &Outlier) -> [Option<Why>; 2] {
        match (seen, outlier.split) {
            (Seen::Answer(status), false) => self.answer(status, outlier),
            (Seen::Answer(status), true) => {
                if status < 500 {
                    self.reached();
                }
                self.answer(status, outlier)
            }
            (Seen::Connected, false) => [None, None],
            (Seen::Served, false) => self.answer(200, outlier),
            (Seen::Failed, false) => self.answer(503, outlier),
            (Seen::TooLong, false) => self.answer(504, outlier),
            (Seen::Connected | Seen::Served, true) => {
                self.reached();
                [None, None]
            }
            (Seen::Failed | Seen::TooLong, true) => {
                self.way.count(false);
                [trips(&self.row_local, outlier.consecutive_local.count).then_some(Why::ConsecutiveLocal), None]
            }
        }
    }

    fn reached(&self) {
        self.way.count(true);
        self.row_local.store(0, Relaxed);
    }

    fn answer(&self, status: u16, outlier: &Outlier) -> [Option<Why>; 2] {
        self.answers.count(status < 500);
        if status < 500 {
            self.row_5xx.store(0, Relaxed);
            self.row_gateway.store(0, Relaxed);
            return [None, None];
        }
        let gateway = (502..=504).contains(&status) && trips(&self.row_gateway, outlier.consecutive_gateway.count);
        if !(502..=504).contains(&status) {
            self.row_gateway.store(0, Relaxed);
        }
        let any = trips(&self.row_5xx, outlier.consecutive_5xx.count);
        [gateway.then_some(Why::ConsecutiveGateway), any.then_some(Why::Consecutive5xx)]
    }

    /// Begins to count anew what comes in a row.
    fn reset(&self) {
        for row in [&self.row_5xx, &self.row_gateway, &self.row_local] {
            row.store(0, Relaxed);
        }
    }

    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shares of successes in the last interval, in percent: of answers, of the way.
    pub(crate) fn rates(&self) -> [Option<f64>; 2] {
        self.judged().rates
    }
}

/// Counts one more in a row; whether they are enough.
fn trips(row: &AtomicU32, count: u32) -> bool {
    let n = row.fetch_add(1, Relaxed).saturating_add(1);
    count > 0 && n >= count
}

impl Why {
    fn enforcing(self, outlier: &Outlier) -> u32 {
        match self {
            Why::Consecutive5xx => outlier.consecutive_5xx.enforcing,
            Why::ConsecutiveGateway => outlier.consecutive_gateway.enforcing,
            Why::ConsecutiveLocal => outlier.consecutive_local.enforcing,
            Why::SuccessRate(Origin::Answers) => outlier.success_rate.enforcing,
            Why::SuccessRate(Origin::Way) => outlier.success_rate.enforcing_local,
            Why::FailurePercentage(Origin::Answers) => outlier.failure_percentage.enforcing,
            Why::FailurePercentage(Origin::Way) => outlier.failure_percentage.enforcing_local,
        }
    }
}

/// A host's successes in the last interval.
struct Counted<'a> {
    host: &'a Arc<HostState>,
    /// Of answers, of the way: successes and all.
    tallies: [(u64, u64); 2],
}

impl ClusterState {
    /// Something was seen of a host. `true`: nobody sweeps yet, the caller is to.
    pub(crate) fn saw(&self, host: &Arc<HostState>, outlier: &Outlier, seen: Seen, now: Duration, rng: &mut Rng) -> bool {
        for why in host.monitor.count(seen, outlier).into_iter().flatten() {
            if host.is_ejected() {
                break;
            }
            self.eject(&mut self.detector_turn(), host, outlier, why, now, rng);
            let row = match why {
                Why::Consecutive5xx => &host.monitor.row_5xx,
                Why::ConsecutiveGateway => &host.monitor.row_gateway,
                _ => &host.monitor.row_local,
            };
            row.store(0, Relaxed);
        }
        self.arm_sweep()
    }

    /// A host says of itself that it is degraded.
    pub(crate) fn saw_degraded(&self, host: &HostState, outlier: &Outlier, now: Duration, rng: &mut Rng) {
        if outlier.finds_degraded && host.health.set(HealthFlags::DEGRADED_OUTLIER, true) {
            host.monitor.judged().degradation.begin(outlier, now, rng);
        }
    }

    /// Whether the caller is to sweep: nobody else does.
    fn arm_sweep(&self) -> bool {
        !self.detector.armed.load(Relaxed) && !self.detector.armed.swap(true, AcqRel)
    }

    fn detector_turn(&self) -> MutexGuard<'_, Rates> {
        self.detector.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the hosts' shares of successes were measured by in the last interval.
    pub(crate) fn rates(&self) -> Rates {
        *self.detector_turn()
    }

    /// Leaves a host out, if it may be. The guard makes sure that nobody else does so at the same time.
    fn eject(&self, _turn: &mut Rates, host: &HostState, outlier: &Outlier, why: Why, now: Duration, rng: &mut Rng) {
        let members = self.members();
        let out = members.iter().filter(|member| member.is_ejected()).count() as u64;
        let within = (out + 1) * 100 <= members.len() as u64 * u64::from(outlier.max_percent);
        let is_member = members.iter().any(|member| std::ptr::eq(&**member, host));
        let allowed = is_member && (within || outlier.always_one && out == 0);
        if allowed && !host.is_ejected() && rng.next() % 100 < u64::from(why.enforcing(outlier)) {
            host.monitor.judged().ejection.begin(outlier, now, rng);
            host.health.set(HealthFlags::FAILED_OUTLIER, true);
        }
    }

    /// A host may be used again.
    fn let_in(host: &HostState, now: Duration) {
        if host.health.set(HealthFlags::FAILED_OUTLIER, false) {
            host.monitor.judged().ejection.ended = Some(now);
            host.monitor.reset();
        }
    }

    /// Looks at all hosts, once an interval. `true`: the caller is to do so again after the next one. Without outlier detection everything that it
    /// held against hosts is forgotten.
    pub(crate) fn sweep(&self, outlier: Option<&Outlier>, now: Duration, rng: &mut Rng) -> bool {
        // From here on who sees something arms it again; if nobody does, what is left decides.
        self.detector.armed.store(false, Release);
        let members = self.members();
        let Some(outlier) = outlier else {
            for host in members.iter() {
                host.health.set(HealthFlags::FAILED_OUTLIER.with(HealthFlags::DEGRADED_OUTLIER), false);
                host.monitor.reset();
                *host.monitor.judged() = Judged::default();
            }
            *self.detector_turn() = Rates::default();
            return false;
        };
        let mut turn = self.detector_turn();
        let mut goes_on = false;
        let mut counted = Vec::with_capacity(members.len());
        for host in members.iter() {
            if host.is_ejected() && host.monitor.judged().ejection.is_over(outlier, now) {
                Self::let_in(host, now);
            }
            let is_degraded = host.health.get().any(HealthFlags::DEGRADED_OUTLIER);
            let mut judged = host.monitor.judged();
            if is_degraded && judged.degradation.is_over(outlier, now) {
                host.health.set(HealthFlags::DEGRADED_OUTLIER, false);
                judged.degradation.ended = Some(now);
            }
            judged.rates = [None, None];
            let tallies = [host.monitor.answers.take(), host.monitor.way.take()];
            goes_on |= tallies.iter().any(|(_, all)| *all > 0);
            counted.push(Counted { host, tallies });
        }
        turn.answers = self.compare(&mut turn, outlier, Origin::Answers, &counted, now, rng);
        turn.way = self.compare(&mut turn, outlier, Origin::Way, &counted, now, rng);
        for host in members.iter() {
            let flags = host.health.get();
            let mut judged = host.monitor.judged();
            let Judged { ejection, degradation, .. } = &mut *judged;
            for (term, flag) in [(ejection, HealthFlags::FAILED_OUTLIER), (degradation, HealthFlags::DEGRADED_OUTLIER)] {
                if !flags.any(flag) {
                    term.shrink(outlier, now);
                }
                goes_on |= flags.any(flag) || term.times > 0;
            }
        }
        goes_on && self.arm_sweep()
    }

    /// Compares hosts by their shares of successes; the mean of them, and the share below which a host is an outlier, if enough hosts had requests.
    fn compare(
        &self,
        turn: &mut Rates,
        outlier: &Outlier,
        origin: Origin,
        hosts: &[Counted<'_>],
        now: Duration,
        rng: &mut Rng,
    ) -> Option<(f64, f64)> {
        let (rate, share) = (outlier.success_rate, outlier.failure_percentage);
        if hosts.len() < rate.minimum_hosts.min(share.minimum_hosts) as usize {
            return None;
        }
        let (mut for_rate, mut for_share) = (Vec::new(), Vec::new());
        for Counted { host, tallies: [answers, way] } in hosts {
            let (at, (good, all)) = if origin == Origin::Answers { (0, *answers) } else { (1, *way) };
            if all == 0 || host.is_ejected() {
                continue;
            }
            let percent = good as f64 * 100.0 / all as f64;
            if all >= u64::from(rate.request_volume.min(share.request_volume))
                && let Some(kept) = host.monitor.judged().rates.get_mut(at)
            {
                *kept = Some(percent);
            }
            if all >= rate.request_volume.into() {
                for_rate.push((*host, percent));
            }
            if all >= share.request_volume.into() {
                for_share.push((*host, percent));
            }
        }
        let mut found = None;
        if !for_rate.is_empty() && for_rate.len() >= rate.minimum_hosts as usize {
            let n = for_rate.len() as f64;
            let mean = for_rate.iter().map(|(_, percent)| percent).sum::<f64>() / n;
            let variance = for_rate.iter().map(|(_, percent)| (percent - mean).powi(2)).sum::<f64>() / n;
            let least = mean - f64::from(rate.stdev_factor) / 1000.0 * variance.sqrt();
            for (host, _) in for_rate.iter().filter(|(_, percent)| *percent < least) {
                self.eject(turn, host, outlier, Why::SuccessRate(origin), now, rng);
            }
            found = Some((mean, least));
        }
        if !for_share.is_empty() && for_share.len() >= share.minimum_hosts as usize {
            for (host, _) in for_share.iter().filter(|(_, percent)| 100.0 - percent >= f64::from(share.threshold)) {
                self.eject(turn, host, outlier, Why::FailurePercentage(origin), now, rng);
            }
        }
        found
    }

    /// An active check found a host well: what it was left out for is over.
    pub(crate) fn checked_well(&self, host: &HostState, outlier: &Outlier, now: Duration) {
        if outlier.is_ended_by_checks {
            Self::let_in(host, now);
        }
    }
}
