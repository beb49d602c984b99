//! Where a request was tried before, and what it avoids because of that.

use mizzen_ir::config::Elsewhere;
use mizzen_types::Name;

use super::Host;

/// What a request that was tried before avoids.
pub(crate) struct Again<'a> {
    pub(crate) policy: &'a Elsewhere,
    pub(crate) tried: &'a mut Tried,
    /// How often it was tried so far.
    pub(crate) attempts: u32,
}

/// Where a request was tried.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    hosts: Vec<Name>,
    /// Bits by priority, and those of them that are left out.
    priorities: u128,
    left_out: u128,
    /// Tries before that count no more, since no priority was left.
    before: u32,
}

impl Tried {
    /// Notes where a try went.
    pub(crate) fn note(&mut self, host: &Name, priority: usize) {
        if !self.hosts.contains(host) {
            self.hosts.push(host.clone());
        }
        self.priorities |= u32::try_from(priority).ok().and_then(|at| 1u128.checked_shl(at)).unwrap_or(0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl Again<'_> {
    /// The priorities that are left out, as bits (Envoy's `previous_priorities`).
    pub(super) fn left_out(&mut self) -> u128 {
        let tries = self.attempts.saturating_sub(self.tried.before);
        if tries > 0 && tries.checked_rem(self.policy.priorities_after) == Some(0) {
            self.tried.left_out = self.tried.priorities;
        }
        self.tried.left_out
    }

    /// No priority was left: all may be tried again.
    pub(super) fn start_over(&mut self) {
        (self.tried.priorities, self.tried.left_out, self.tried.before) = (0, 0, self.attempts);
    }

    pub(super) fn avoids(&self, host: &Host) -> bool {
        let policy = self.policy;
        (policy.avoid_previous_hosts && self.tried.hosts.contains(host.address()))
            || (policy.avoid_canaries && host.is_canary())
            || policy.avoid.as_ref().is_some_and(|wanted| host.has(wanted, true))
    }
}
