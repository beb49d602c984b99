//! Endpoints among which the cluster's policy chooses.

use std::{sync::Arc, time::Duration};

use mizzen_ir::config::LbPolicy;

use super::{
    super::hosts::Host, Pick, least_request::LeastRequest, maglev::Table, random, ring_hash::Ring, round_robin::RoundRobin,
    weights::Weights,
};

/// Endpoints, of which one is chosen.
#[derive(Debug)]
pub(super) struct Group {
    hosts: Box<[Arc<Host>]>,
    how: How,
}

#[derive(Debug)]
enum How {
    RoundRobin(RoundRobin),
    LeastRequest(LeastRequest),
    Random,
    Ring(Box<Ring>),
    Table(Box<Table>),
}

impl Group {
    /// By a policy that does not hash. `turn` is where a round goes on.
    pub(super) fn in_turn(policy: &LbPolicy, hosts: Vec<Arc<Host>>, turn: u64, now: Duration) -> Self {
        let hosts = hosts.into_boxed_slice();
        let how = match policy {
            LbPolicy::RoundRobin { slow_start } => How::RoundRobin(RoundRobin::new(*slow_start, &hosts, turn, now)),
            LbPolicy::LeastRequest { choices, bias, slow_start } => {
                How::LeastRequest(LeastRequest::new(*choices, *bias, *slow_start, &hosts, turn, now))
            }
            LbPolicy::Random | LbPolicy::Provided | LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => How::Random,
        };
        Group { hosts, how }
    }

    /// By a policy that hashes, with the endpoints' shares of the whole; none: the policy does not.
    pub(super) fn hashed(policy: &LbPolicy, weights: Weights) -> Option<Self> {
        let how = match policy {
            LbPolicy::RingHash { min, max, murmur, hashing } => How::Ring(Ring::new([*min, *max], *murmur, *hashing, &weights).into()),
            LbPolicy::Maglev { size, hashing } => How::Table(Table::new(*size, *hashing, &weights).into()),
            LbPolicy::RoundRobin { .. } | LbPolicy::LeastRequest { .. } | LbPolicy::Random | LbPolicy::Provided => return None,
        };
        Some(Group { hosts: weights.into_hosts(), how })
    }

    /// The next one. `attempt` counts how often one was refused for this request before.
    pub(super) fn pick(&mut self, pick: &mut Pick<'_>, hash: u64, attempt: u32) -> Option<Arc<Host>> {
        let hosts = &self.hosts;
        let at = match &mut self.how {
            How::RoundRobin(turns) => turns.next(hosts, pick.now),
            How::LeastRequest(least) => least.next(hosts, pick),
            How::Random => random::next(hosts.len(), pick.rng),
            How::Ring(ring) => ring.at(hash, attempt, hosts, pick.active),
            How::Table(table) => table.at(hash, attempt, hosts, pick.active),
        }?;
        self.hosts.get(at).cloned()
    }

    /// Where a round goes on when the group is made anew.
    pub(super) fn turn(&self) -> Option<u64> {
        match &self.how {
            How::RoundRobin(turns) => Some(turns.turn()),
            _ => None,
        }
    }
}
