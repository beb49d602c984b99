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
    /// A delay is under way, which counts as long as this is kept.
    Fault(#[allow(dead_code)] ActiveFault),
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
