//! New endpoints get less than their share at first.

use std::{sync::Arc, time::Duration};

use mizzen_ir::config::{LbPolicy, SlowStart};

use crate::{health::Fitness, lb::HostState};

use super::super::hosts::Host;

/// When the last of these is no longer new; none: none is.
pub(super) fn ends<'h>(slow: Option<&SlowStart>, hosts: impl Iterator<Item = &'h Host>, now: Duration) -> Option<Duration> {
    let slow = slow?;
    hosts.filter(|host| host.fitness() == Fitness::Healthy).map(|host| began(&host.state, now) + slow.window).max().filter(|end| *end > now)
}

/// The same for a policy that may know none of it.
pub(super) fn ends_of(policy: &LbPolicy, hosts: &[Arc<Host>], now: Duration) -> Option<Duration> {
    match policy {
        LbPolicy::RoundRobin { slow_start } | LbPolicy::LeastRequest { slow_start, .. } => {
            ends(slow_start.as_ref(), hosts.iter().map(|host| &**host), now)
        }
        LbPolicy::Random | LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } | LbPolicy::Provided => None,
    }
}

/// By what the weight of an endpoint is multiplied.
pub(super) fn factor(slow: Option<&SlowStart>, host: &Host, now: Duration) -> f64 {
    let Some(slow) = slow else { return 1.0 };
    let since = now.saturating_sub(began(&host.state, now));
    if since >= slow.window || host.fitness() != Fitness::Healthy {
        return 1.0;
    }
    let time = since.max(Duration::from_millis(1)).as_secs_f64() / slow.window.as_secs_f64();
    let share = if slow.aggression == 1.0 { time } else { time.powf(slow.aggression.recip()) };
    share.min(1.0).max(slow.min_share)
}

/// When it began to serve: when a worker has first seen it, or an active check has found it well again.
fn began(host: &HostState, now: Duration) -> Duration {
    host.well_since(now)
}
