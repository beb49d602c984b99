//! What filters keep of a stream between their hooks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use mizzen_ir::config::StatsConfig;

use crate::metrics::Handle;

/// How often an open connection's bytes are reported, unless configured.
const REPORT: Duration = Duration::from_secs(15);

/// What filters keep of a stream between their hooks, each in its own place.
#[derive(Debug, Default)]
pub(crate) enum State {
    #[default]
    None,
    /// A delay is under way, or a response that is slowed down.
    Fault(FaultState),
}

/// What a request under a fault keeps. It counts as one as long as this is kept.
#[derive(Debug)]
pub(crate) struct FaultState {
    pub(crate) _active: ActiveFault,
    /// How fast the response may go.
    pub(crate) rate: Option<Rate>,
}

/// How often a slowed body may go on: Envoy's interval.
const SLICE: Duration = Duration::from_millis(50);
/// How many slices of a body that was slower than it might have been may go on at once.
const MOST_SLICES: u64 = 20;

/// A bound on the bytes of a body by time.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Bytes of one slice.
    slice: u64,
    /// Bytes that may have gone on by now.
    granted: u64,
    /// When the next slice is granted; none: the body has not begun.
    next: Option<Duration>,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Rate { slice: (bytes_per_second / (1000 / SLICE.as_millis() as u64)).max(1), granted: 0, next: None }
    }

    /// How many bytes may go on beyond the `passed` ones, and when there will be more.
    pub(crate) fn room(&mut self, passed: u64, now: Duration) -> (u64, Duration) {
        let mut next = self.next.unwrap_or(now);
        while next <= now && self.granted.saturating_sub(passed) < self.slice.saturating_mul(MOST_SLICES) {
            self.granted = self.granted.saturating_add(self.slice);
            next += SLICE;
        }
        if next <= now {
            next = now + SLICE;
        }
        self.next = Some(next);
        (self.granted.saturating_sub(passed), next)
    }
}

/// What is kept of one relayed connection.
#[derive(Debug)]
pub(crate) struct TcpStats {
    pub(crate) config: Arc<StatsConfig>,
    /// Of connections that have a partner.
    pub(crate) counters: Option<TcpCounters>,
    /// Bytes that were counted already: sent, received.
    pub(crate) reported: (u64, u64),
}

/// The counters of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpCounters {
    pub(crate) sent: Option<Handle>,
    pub(crate) received: Option<Handle>,
    pub(crate) closed: Option<Handle>,
}

impl TcpStats {
    pub(crate) fn new(config: Arc<StatsConfig>) -> Self {
        TcpStats { config, counters: None, reported: (0, 0) }
    }

    /// How often the bytes are reported.
    pub(crate) fn every(&self) -> Duration {
        self.config.tcp_reporting.unwrap_or(REPORT)
    }
}

/// One of the faults under way, which was counted; it is none any more when this goes.
#[derive(Debug)]
pub(crate) struct ActiveFault(Arc<AtomicU32>);

impl ActiveFault {
    pub(crate) fn begun(count: Arc<AtomicU32>) -> Self {
        ActiveFault(count)
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate() {
        let ms = Duration::from_millis;
        let mut rate = Rate::new(20_000);
        // Bytes that have passed, at which time; how many may go on, and when more.
        for (passed, at, room, next) in [
            (0, 1000, 1000, 1050),
            (0, 1049, 1000, 1050),
            (1000, 1049, 0, 1050),
            (1000, 1050, 1000, 1100),
            (2000, 1200, 3000, 1250),
            // What was not used is kept, up to a second's worth.
            (2000, 9000, 20_000, 9050),
            (22_000, 9050, 1000, 9100),
        ] {
            assert_eq!(rate.room(passed, ms(at)), (room, ms(next)), "{passed} at {at}");
        }
    }
}
