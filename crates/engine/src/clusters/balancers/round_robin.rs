//! In turn, by weight.

use std::{sync::Arc, time::Duration};

use mizzen_ir::config::SlowStart;

use super::{super::hosts::Host, edf::Edf, same_weights, slow_start};

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct RoundRobin {
    turn: u64,
    /// Where they do not all weigh the same.
    weighted: Option<Edf>,
    slow_start: Option<SlowStart>,
}

impl RoundRobin {
    pub(super) fn new(slow_start: Option<SlowStart>, hosts: &[Arc<Host>], turn: u64, now: Duration) -> Self {
        let even = same_weights(hosts) && slow_start::ends(slow_start.as_ref(), hosts.iter().map(|host| &**host), now).is_none();
        let weight = |at: usize| hosts.get(at).map_or(0.0, |host| weight(host, slow_start.as_ref(), now));
        let weighted = (!even && hosts.len() > 1).then(|| Edf::new(hosts.len(), turn, weight));
        RoundRobin { turn, weighted, slow_start }
    }

    pub(super) fn next(&mut self, hosts: &[Arc<Host>], now: Duration) -> Option<usize> {
        let at = (self.turn.checked_rem(hosts.len() as u64)?) as usize;
        self.turn = self.turn.wrapping_add(1);
        match &mut self.weighted {
            Some(edf) => edf.next(|at| hosts.get(at).map_or(0.0, |host| weight(host, self.slow_start.as_ref(), now))),
            None => Some(at),
        }
    }

    pub(super) fn turn(&self) -> u64 {
        self.turn
    }
}

fn weight(host: &Host, slow: Option<&SlowStart>, now: Duration) -> f64 {
    f64::from(host.weight) * slow_start::factor(slow, host, now)
}
