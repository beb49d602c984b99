//! Balancers: made of a cluster's endpoints when they, their health or the policy change, so that a pick finds all ready and allocates nothing.
//!
//! A cluster has priorities ([`Levels`]), or groups of endpoints with priorities each ([`Subsets`]). A priority's endpoints are one [`Group`], or one
//! for each locality, in which the policy chooses. What is chosen, and of what, is as in Envoy.

mod bounded;
mod edf;
mod group;
mod least_request;
mod levels;
mod maglev;
mod random;
mod ring_hash;
mod round_robin;
mod slow_start;
mod subsets;
mod weights;

use std::{sync::Arc, time::Duration};

use mizzen_ir::config::{Assignment, Balancing, Criteria};

use super::hosts::{Host, Priorities};
use crate::lb::Rng;
use group::Group;
use levels::{Levels, Making};
use subsets::Subsets;

/// What a choice depends on beside the endpoints.
pub(super) struct Pick<'a> {
    pub(super) now: Duration,
    pub(super) rng: &'a mut Rng,
    /// The cluster's requests in flight.
    pub(super) active: u32,
    /// Priorities that are left out, as bits; emptied if no other can serve.
    pub(super) left_out: u128,
}

/// A cluster's balancer.
#[derive(Debug)]
pub(super) struct Balancer {
    hosts: Arc<Priorities>,
    lb: Arc<Balancing>,
    /// The age of the hosts' health that it is made of.
    age: u64,
    /// When it is to be made anew in any case.
    until: Option<Duration>,
    among: Among,
}

#[derive(Debug)]
enum Among {
    All(Levels),
    Subsets(Box<Subsets>),
}

impl Balancer {
    /// Of these endpoints, in the place of `old`.
    pub(super) fn new(
        assignment: &Assignment,
        hosts: &Arc<Priorities>,
        lb: &Arc<Balancing>,
        age: u64,
        pick: &mut Pick<'_>,
        old: Option<Balancer>,
    ) -> Self {
        let making = Making { assignment, lb, all: hosts, now: pick.now, seed: pick.rng.next() };
        let until = making.until();
        let among = match &lb.subsets {
            Some(subsets) => Among::Subsets(Subsets::new(subsets.clone(), &making).into()),
            None => {
                let old = old.as_ref().and_then(|old| match &old.among {
                    Among::All(levels) => Some(levels),
                    Among::Subsets(_) => None,
                });
                Among::All(Levels::new(&making, hosts, lb.locality_weighted.then_some(false), old))
            }
        };
        Balancer { hosts: hosts.clone(), lb: lb.clone(), age, until, among }
    }

    /// Whether it is made of all this.
    pub(super) fn is_of(&mut self, hosts: &Arc<Priorities>, lb: &Arc<Balancing>, age: u64, now: Duration) -> bool {
        if !Arc::ptr_eq(&self.lb, lb) {
            if self.lb != *lb {
                return false;
            }
            // The same in other words: it is not compared again.
            self.lb = lb.clone();
        }
        self.age == age && Arc::ptr_eq(&self.hosts, hosts) && self.until.is_none_or(|until| now < until)
    }

    /// Chooses an endpoint for a request with this hash that goes to endpoints with this metadata. `attempt` counts how often one was refused for it.
    pub(super) fn pick(&mut self, pick: &mut Pick<'_>, hash: Option<u64>, subset: Option<&Criteria>, attempt: u32) -> Option<Arc<Host>> {
        match &mut self.among {
            Among::All(levels) => levels.pick(pick, hash, attempt),
            Among::Subsets(subsets) => subsets.pick(pick, hash, subset, attempt),
        }
    }
}

/// Whether all weigh the same.
fn same_weights(hosts: &[Arc<Host>]) -> bool {
    hosts.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight))
}
