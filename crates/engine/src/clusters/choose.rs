//! Which of a cluster's endpoints it is.

use mizzen_ir::config::{Assignment, Cluster, LbPolicy};

use super::{Clusters, hosts::Host};
use crate::{context::Context, health::Fitness};

impl Clusters {
    /// Chooses among the endpoints: the priority by health, then by the cluster's policy.
    pub(super) fn choose(
        &mut self,
        cx: &mut Context,
        cluster: &Cluster,
        assignment: &Assignment,
        priorities: &[Vec<Host>],
    ) -> Option<Host> {
        let now = cx.now.mono;
        let is_usable = |h: &&Host| !h.state.is_ejected(now) && h.fitness() != Fitness::Unhealthy;
        let health = |hosts: &Vec<Host>| {
            let usable = hosts.iter().filter(is_usable).count() as u64;
            if hosts.is_empty() { 0 } else { (usable * u64::from(assignment.overprovisioning.max(100)) / hosts.len() as u64).min(100) }
        };
        // Each priority takes as much of the traffic as its health allows of what is left.
        let total = priorities.iter().map(health).sum::<u64>().min(100);
        let mut rest = if total == 0 { 0 } else { cx.rng.next() % total };
        let level = priorities.iter().find(|hosts| {
            let share = health(hosts);
            let hit = share > rest;
            rest = rest.saturating_sub(share);
            hit
        });
        let level = level.or_else(|| priorities.iter().find(|hosts| !hosts.is_empty()))?;
        let usable: Vec<&Host> = level.iter().filter(is_usable).collect();
        let share = usable.len() as f32 * 100.0 / level.len().max(1) as f32;
        // Where too few are healthy, all are used: better some answers than none.
        let panic = cluster.panic_threshold > 0.0 && share < cluster.panic_threshold;
        let mut among: Vec<&Host> = if panic { level.iter().collect() } else { usable };
        if cluster.locality_weighted && !panic {
            within_locality(cx, level, assignment.overprovisioning, &mut among);
        }
        let weights: u64 = among.iter().map(|h| u64::from(h.weight)).sum();
        if weights == 0 {
            return None;
        }
        let at = |mut place: u64| {
            among.iter().find(|h| {
                let hit = place < u64::from(h.weight);
                place = place.saturating_sub(u64::from(h.weight));
                hit
            })
        };
        let picked = match cluster.lb {
            LbPolicy::RoundRobin => {
                let view = self.view(cx, &cluster.name);
                view.turn = view.turn.wrapping_add(1);
                at((view.turn as u64).wrapping_mul(spread(weights)) % weights)
            }
            LbPolicy::LeastRequest { choices } => {
                let mut best: Option<&&Host> = None;
                for _ in 0..choices.max(2) {
                    let candidate = at(cx.rng.next() % weights)?;
                    // Compared as fractions, so that a heavier host may hold more.
                    let load = |h: &Host, other: &Host| u64::from(h.state.load()) * u64::from(other.weight);
                    if best.is_none_or(|b| load(candidate, b) < load(b, candidate)) {
                        best = Some(candidate);
                    }
                }
                best
            }
            LbPolicy::Random | LbPolicy::Provided => at(cx.rng.next() % weights),
        };
        picked.map(|host| (*host).clone())
    }
}

/// Keeps the endpoints of one locality: by the localities' weights, each as far as its health allows.
fn within_locality(cx: &mut Context, level: &[Host], overprovisioning: u32, among: &mut Vec<&Host>) {
    let mut shares: Vec<(usize, u64)> = Vec::new();
    for host in among.iter() {
        if shares.iter().any(|(at, _)| *at == host.locality.0) {
            continue;
        }
        let all = level.iter().filter(|h| h.locality.0 == host.locality.0).count() as u64;
        let usable = among.iter().filter(|h| h.locality.0 == host.locality.0).count() as u64;
        let health = (usable * u64::from(overprovisioning.max(100)) / all.max(1)).min(100);
        shares.push((host.locality.0, health * u64::from(host.locality.1)));
    }
    let total: u64 = shares.iter().map(|(_, share)| share).sum();
    if total == 0 {
        return;
    }
    let mut place = cx.rng.next() % total;
    let picked = shares.iter().find(|(_, share)| {
        let hit = place < *share;
        place = place.saturating_sub(*share);
        hit
    });
    if let Some((at, _)) = picked {
        among.retain(|h| h.locality.0 == *at);
    }
}

/// A step that visits all places below `n` in an even order.
fn spread(n: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let mut step = (n as f64 * 0.618) as u64;
    while step > 1 && gcd(step, n) != 1 {
        step -= 1;
    }
    step.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_visits_all() {
        for n in 1..200 {
            let step = spread(n);
            let seen: std::collections::HashSet<u64> = (0..n).map(|turn| turn * step % n).collect();
            assert_eq!(seen.len() as u64, n, "{n}");
        }
    }
}
