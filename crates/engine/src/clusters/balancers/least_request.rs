//! The least busy.

use std::{sync::Arc, time::Duration};

use mizzen_ir::config::SlowStart;

use super::{super::hosts::Host, Pick, edf::Edf, random, same_weights, slow_start};
use crate::lb::Rng;

/// The least busy of some; of endpoints with different weights, in turn by weight and load.
#[derive(Debug)]
pub(super) struct LeastRequest {
    /// How many are looked at; none: all.
    choices: Option<u32>,
    weighing: Weighing,
    weighted: Option<Edf>,
}

/// What a weight depends on.
#[derive(Clone, Copy, Debug)]
struct Weighing {
    bias: f64,
    slow_start: Option<SlowStart>,
}

impl LeastRequest {
    pub(super) fn new(
        choices: Option<u32>,
        bias: f64,
        slow_start: Option<SlowStart>,
        hosts: &[Arc<Host>],
        seed: u64,
        now: Duration,
    ) -> Self {
        let even = same_weights(hosts) && slow_start::ends(slow_start.as_ref(), hosts.iter().map(|host| &**host), now).is_none();
        let weighing = Weighing { bias, slow_start };
        let weighted = (!even && hosts.len() > 1).then(|| Edf::new(hosts.len(), seed, |at| weighing.of(hosts, at, now)));
        LeastRequest { choices, weighing, weighted }
    }

    pub(super) fn next(&mut self, hosts: &[Arc<Host>], pick: &mut Pick<'_>) -> Option<usize> {
        let now = pick.now;
        match (&mut self.weighted, self.choices) {
            (Some(edf), _) => edf.next(|at| self.weighing.of(hosts, at, now)),
            (None, None) => least_of_all(hosts, pick.rng),
            (None, Some(choices)) => {
                // More than this see all of them anyway.
                let choices = u64::from(choices).min(64 * hosts.len() as u64);
                (0..choices).filter_map(|_| random::next(hosts.len(), pick.rng)).min_by_key(|at| load(hosts, *at))
            }
        }
    }
}

impl Weighing {
    fn of(self, hosts: &[Arc<Host>], at: usize, now: Duration) -> f64 {
        let Some(host) = hosts.get(at) else { return 0.0 };
        let (weight, load) = (f64::from(host.weight), f64::from(host.state.load()) + 1.0);
        let weight = if self.bias == 1.0 { weight / load } else { weight / load.powf(self.bias) };
        weight * slow_start::factor(self.slow_start.as_ref(), host, now)
    }
}

fn load(hosts: &[Arc<Host>], at: usize) -> u32 {
    hosts.get(at).map_or(u32::MAX, |host| host.state.load())
}

/// Of several that are equally idle, each as likely as any other.
fn least_of_all(hosts: &[Arc<Host>], rng: &mut Rng) -> Option<usize> {
    let mut best: Option<(usize, u32)> = None;
    let mut ties = 0;
    for at in 0..hosts.len() {
        let load = load(hosts, at);
        match best {
            Some((_, least)) if load > least => continue,
            Some((_, least)) if load == least => ties += 1,
            _ => ties = 1,
        }
        if ties == 1 || rng.next().is_multiple_of(ties) {
            best = Some((at, load));
        }
    }
    best.map(|(at, _)| at)
}
