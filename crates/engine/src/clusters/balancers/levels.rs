//! Priorities: which one a request goes to, by the health of all, and which of its endpoints may serve.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mizzen_ir::config::{Assignment, Balancing};

use super::{
    super::hosts::{Host, Priorities},
    Group, Pick,
    edf::Edf,
    weights::Weights,
};
use crate::health::Fitness;

/// What balancers are made of.
pub(super) struct Making<'a> {
    pub(super) assignment: &'a Assignment,
    pub(super) lb: &'a Balancing,
    /// All endpoints by priority.
    pub(super) all: &'a Priorities,
    pub(super) now: Duration,
    /// Where rounds begin.
    pub(super) seed: u64,
}

/// Endpoints by priority.
#[derive(Debug)]
pub(super) struct Levels {
    levels: Box<[Level]>,
    /// Whether the policy hashes.
    hashes: bool,
}

/// One priority.
#[derive(Debug)]
struct Level {
    /// How fit its endpoints are, for those who leave priorities out.
    health: Health,
    /// What share of the requests goes to its healthy and to its degraded endpoints, in percent; the first to all of them in a panic.
    load: [u32; 2],
    /// None: nobody serves.
    among: [Option<Source>; 2],
}

/// Where a priority's endpoint is chosen.
#[derive(Debug)]
enum Source {
    Flat(Group),
    /// By locality.
    Localities(Edf, Box<[(f64, Group)]>),
}

/// How fit a priority's endpoints are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Health {
    /// Endpoints, and those of them that do not count.
    hosts: u64,
    excluded: u64,
    healthy: u64,
    degraded: u64,
    /// The first two in percent of what counts, times the overprovisioning factor, at most 100.
    available: [u32; 2],
}

/// What goes to each priority, and whether it is in a panic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Loads {
    loads: Vec<[u32; 2]>,
    panics: Vec<bool>,
}

impl Making<'_> {
    /// When an endpoint that is new stops being so: the last one of each priority counts, since from then on all are alike.
    pub(super) fn until(&self) -> Option<Duration> {
        self.all.iter().filter_map(|hosts| super::slow_start::ends_of(&self.lb.policy, hosts, self.now)).min()
    }

    /// A priority's localities, as they are to be told apart, with the endpoints of each and its weight.
    fn localities<'h>(&self, priority: usize, hosts: &'h [Arc<Host>]) -> Vec<(u32, Vec<&'h Arc<Host>>, usize)> {
        let Some(given) = self.assignment.priorities.get(priority) else { return Vec::new() };
        let mut sorted = BTreeMap::new();
        for group in given.localities.iter() {
            // One that is given twice is one; the later weight counts.
            sorted.entry(&group.locality).or_insert((0, Vec::new(), 0)).0 = group.weight;
        }
        let of = |host: &Host| given.localities.get(host.locality).map(|group| &group.locality);
        for host in self.all.get(priority).into_iter().flatten() {
            if let Some(entry) = of(host).and_then(|locality| sorted.get_mut(locality)) {
                entry.2 += 1;
            }
        }
        for host in hosts {
            if let Some(entry) = of(host).and_then(|locality| sorted.get_mut(locality)) {
                entry.1.push(host);
            }
        }
        sorted.into_values().collect()
    }
}

impl Levels {
    /// Of `members`, which are some or all endpoints. `weighted`: whether localities are chosen by weight, and if so, whether that is scaled by how
    /// many of a locality's endpoints are members.
    pub(super) fn new(making: &Making<'_>, members: &Priorities, weighted: Option<bool>, old: Option<&Levels>) -> Self {
        let lb = making.lb;
        let health: Vec<Health> = members.iter().map(|hosts| Health::of(hosts, making.assignment)).collect();
        let loads = Loads::of(&health, lb.panic_threshold);
        let level = |(at, hosts): (usize, &Vec<Arc<Host>>)| {
            let panic = loads.panics.get(at).copied().unwrap_or(false);
            let old = old.and_then(|old| old.levels.get(at));
            let among = if lb.hashes() {
                // Degraded endpoints are on no ring; the share of a priority that has only those goes nowhere.
                let ring = hashed(making, at, hosts, panic, weighted).map(Source::Flat);
                [ring, None]
            } else if panic {
                let all = (!lb.fail_on_panic).then(|| Source::flat(making, hosts.clone(), old, 0));
                [all, None]
            } else {
                [Fitness::Healthy, Fitness::Degraded].map(|fitness| Some(source(making, at, hosts, fitness, weighted, old)))
            };
            Level { health: health.get(at).copied().unwrap_or_default(), load: loads.loads.get(at).copied().unwrap_or_default(), among }
        };
        Levels { levels: members.iter().enumerate().map(level).collect(), hashes: lb.hashes() }
    }

    pub(super) fn pick(&mut self, pick: &mut Pick<'_>, hash: Option<u64>, attempt: u32) -> Option<Arc<Host>> {
        let hash = hash.filter(|_| self.hashes).unwrap_or_else(|| pick.rng.next());
        let loads = self.loads_without(&mut pick.left_out);
        let (level, degraded) = self.level_for(hash, loads.as_deref())?;
        let level = self.levels.get_mut(level)?;
        let [healthy, other] = &mut level.among;
        let source = if degraded && !self.hashes { other } else { healthy };
        match source.as_mut()? {
            Source::Flat(group) => group.pick(pick, hash, attempt),
            Source::Localities(turns, groups) => {
                let at = turns.next(|at| groups.get(at).map_or(0.0, |(weight, _)| *weight))?;
                groups.get_mut(at)?.1.pick(pick, hash, attempt)
            }
        }
    }

    /// What goes to each priority where some are left out; none: what always does, also if nobody else could serve.
    fn loads_without(&self, left_out: &mut u128) -> Option<Vec<[u32; 2]>> {
        if *left_out == 0 {
            return None;
        }
        let is_out = |at: usize| u32::try_from(at).ok().and_then(|at| left_out.checked_shr(at)).is_some_and(|bits| bits & 1 == 1);
        let of =
            |(at, level): (usize, &Level)| Health { available: if is_out(at) { [0; 2] } else { level.health.available }, ..level.health };
        let health: Vec<Health> = self.levels.iter().enumerate().map(of).collect();
        if health.iter().flat_map(|health| health.available).all(|share| share == 0) {
            *left_out = 0;
            return None;
        }
        Some(Loads::of(&health, 0).loads)
    }

    /// The priority for a hash, and whether its degraded endpoints are meant: healthy ones of all priorities come first.
    fn level_for(&self, hash: u64, loads: Option<&[[u32; 2]]>) -> Option<(usize, bool)> {
        let mut rest = hash % 100;
        for degraded in [false, true] {
            for (at, level) in self.levels.iter().enumerate() {
                let [healthy, other] = loads.map_or(Some(level.load), |loads| loads.get(at).copied())?;
                match rest.checked_sub(u64::from(if degraded { other } else { healthy })) {
                    Some(less) => rest = less,
                    None => return Some((at, degraded)),
                }
            }
        }
        None
    }
}

impl Source {
    /// In the place of the `which`th group of `old`.
    fn flat(making: &Making<'_>, hosts: Vec<Arc<Host>>, old: Option<&Level>, which: usize) -> Self {
        let turn = old.and_then(|old| match old.among.get(which)? {
            Some(Source::Flat(group)) => group.turn(),
            _ => None,
        });
        Source::Flat(Group::in_turn(&making.lb.policy, hosts, turn.unwrap_or(making.seed), making.now))
    }
}

/// Endpoints that are this fit, by locality if that is wished for and any has a weight.
fn source(
    making: &Making<'_>,
    priority: usize,
    hosts: &[Arc<Host>],
    fitness: Fitness,
    weighted: Option<bool>,
    old: Option<&Level>,
) -> Source {
    let fit = |host: &&Arc<Host>| host.fitness() == fitness;
    let localities = weighted.map(|scaled| localities(making, priority, hosts, fitness, scaled)).unwrap_or_default();
    if localities.is_empty() {
        let which = usize::from(fitness == Fitness::Degraded);
        return Source::flat(making, hosts.iter().filter(fit).cloned().collect(), old, which);
    }
    let group = |(weight, hosts)| (weight, Group::in_turn(&making.lb.policy, hosts, making.seed, making.now));
    let groups: Box<[(f64, Group)]> = localities.into_iter().map(group).collect();
    let turns = Edf::new(groups.len(), making.seed, |at| groups.get(at).map_or(0.0, |(weight, _)| *weight));
    Source::Localities(turns, groups)
}

/// Localities with a weight above zero, which is as much of theirs as their health allows, and those of their endpoints that are this fit.
fn localities(making: &Making<'_>, priority: usize, hosts: &[Arc<Host>], fitness: Fitness, scaled: bool) -> Vec<(f64, Vec<Arc<Host>>)> {
    let factor = f64::from(making.assignment.overprovisioning) / 100.0;
    let mut all = Vec::new();
    for (weight, members, of) in making.localities(priority, hosts) {
        let weight = scaled_weight(weight, scaled, members.len(), of);
        let counted = members.iter().filter(|host| !host.is_excluded()).count();
        let fit: Vec<Arc<Host>> = members.into_iter().filter(|host| host.fitness() == fitness).cloned().collect();
        if counted == 0 {
            continue;
        }
        let share = (factor * (fit.len() as f64 / counted as f64)).min(1.0);
        let weight = f64::from(weight) * share;
        if weight > 0.0 {
            all.push((weight, fit));
        }
    }
    all
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn scaled_weight(weight: u32, scaled: bool, members: usize, of: usize) -> u32 {
    if !scaled {
        return weight;
    }
    let share = members as f64 / (of.max(1)) as f64;
    (f64::from(weight) * share).round() as u32
}

/// The ring or table of a priority: its healthy endpoints, or all in a panic.
fn hashed(making: &Making<'_>, priority: usize, hosts: &[Arc<Host>], panic: bool, weighted: Option<bool>) -> Option<Group> {
    let serves = |host: &&Arc<Host>| panic || host.fitness() == Fitness::Healthy;
    let mut weights = Weights::default();
    match weighted {
        None => {
            let hosts: Vec<Arc<Host>> = hosts.iter().filter(serves).cloned().collect();
            weights.add(&hosts, 1.0);
        }
        Some(scaled) => {
            let all = making.localities(priority, hosts);
            let weight = |(weight, members, of): &(u32, Vec<&Arc<Host>>, usize)| scaled_weight(*weight, scaled, members.len(), *of);
            let sum: u64 = all.iter().map(|entry| u64::from(weight(entry))).sum();
            for entry in all.iter().filter(|entry| weight(entry) > 0) {
                let hosts: Vec<Arc<Host>> = entry.1.iter().copied().filter(serves).cloned().collect();
                weights.add(&hosts, f64::from(weight(entry)) / sum as f64);
            }
        }
    }
    Group::hashed(&making.lb.policy, weights)
}

impl Health {
    fn of(hosts: &[Arc<Host>], assignment: &Assignment) -> Self {
        let mut health = Health { hosts: hosts.len() as u64, ..Health::default() };
        let mut weighed = [0u64; 3];
        let [total, healthy, degraded] = &mut weighed;
        for host in hosts {
            let weight = if assignment.weighted_health { u64::from(host.weight) } else { 1 };
            if host.is_excluded() {
                health.excluded += 1;
            } else {
                *total += weight;
            }
            match host.fitness() {
                Fitness::Healthy => {
                    health.healthy += 1;
                    *healthy += weight;
                }
                Fitness::Degraded => {
                    health.degraded += 1;
                    *degraded += weight;
                }
                Fitness::Unhealthy => {}
            }
        }
        let share = |of: u64| (of * u64::from(assignment.overprovisioning)).checked_div(*total).unwrap_or(0).min(100) as u32;
        health.available = [share(*healthy), share(*degraded)];
        health
    }

    /// Whether too few are fit.
    fn is_short(&self, threshold: u32) -> bool {
        let counted = self.hosts - self.excluded;
        let fit = if counted == 0 { 0.0 } else { 100.0 * (self.healthy + self.degraded) as f64 / counted as f64 };
        fit < f64::from(threshold)
    }
}

impl Loads {
    /// Each priority takes as much as its health allows of what those before it have left, healthy endpoints of all of them first. If all together
    /// cannot take everything, shares grow in proportion, and a priority with too few fit endpoints uses all it has: better some answers than none.
    fn of(health: &[Health], threshold: u32) -> Self {
        let total = health.iter().map(|h| h.available.iter().sum::<u32>()).sum::<u32>().min(100);
        let mut all = Loads { loads: vec![[0; 2]; health.len()], panics: vec![false; health.len()] };
        let mut left = 100;
        for which in [0, 1] {
            for (load, health) in all.loads.iter_mut().zip(health) {
                if let (Some(load), Some(available)) = (load.get_mut(which), health.available.get(which)) {
                    *load = left.min((available * 100).checked_div(total).unwrap_or(0));
                    left -= *load;
                }
            }
        }
        // What rounding has left over goes to the first that can take it.
        for which in [0, 1] {
            let able = |(_, health): &(&mut [u32; 2], &Health)| health.available.get(which).is_some_and(|a| *a > 0);
            if let Some((load, _)) = all.loads.iter_mut().zip(health).find(able) {
                if let Some(load) = load.get_mut(which) {
                    *load += left;
                }
                break;
            }
        }
        if total < 100 && threshold > 0 {
            all.panics = health.iter().map(|health| health.is_short(threshold)).collect();
            if all.panics.iter().all(|panic| *panic) {
                all.by_number(health);
            }
        }
        all
    }

    /// All are in a panic: each priority gets what it has endpoints for, however fit.
    fn by_number(&mut self, health: &[Health]) {
        let hosts: u64 = health.iter().map(|health| health.hosts).sum();
        let mut left = 100;
        for (load, health) in self.loads.iter_mut().zip(health) {
            let share = (100 * health.hosts).checked_div(hosts).unwrap_or(0) as u32;
            *load = [share, 0];
            left -= share;
        }
        if let Some(([load, _], _)) = self.loads.iter_mut().zip(health).find(|(_, health)| health.hosts > 0) {
            *load += left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A priority of ten endpoints, so many of them healthy and degraded.
    fn ten(healthy: u64, degraded: u64) -> Health {
        let share = |n: u64| (n * 14).min(100) as u32;
        Health { hosts: 10, excluded: 0, healthy, degraded, available: [share(healthy), share(degraded)] }
    }

    #[test]
    fn loads_by_health() {
        let check = |health: &[(u64, u64)], threshold: u32, loads: &[[u32; 2]], panics: &[bool]| {
            let health: Vec<Health> = health.iter().map(|(healthy, degraded)| ten(*healthy, *degraded)).collect();
            let expected = Loads { loads: loads.to_vec(), panics: panics.to_vec() };
            assert_eq!(Loads::of(&health, threshold), expected, "{health:?} {threshold}");
        };
        let calm = [false; 3];
        check(&[(10, 0), (10, 0)], 50, &[[100, 0], [0, 0]], &calm[..2]);
        // The factor of 140 % makes up for the loss of 28 %.
        check(&[(8, 0), (10, 0)], 50, &[[100, 0], [0, 0]], &calm[..2]);
        check(&[(7, 0), (10, 0)], 50, &[[98, 0], [2, 0]], &calm[..2]);
        check(&[(5, 0), (10, 0)], 50, &[[70, 0], [30, 0]], &calm[..2]);
        check(&[(0, 0), (10, 0)], 50, &[[0, 0], [100, 0]], &calm[..2]);
        check(&[(2, 0), (2, 0), (10, 0)], 50, &[[28, 0], [28, 0], [44, 0]], &calm);
        // Healthy ones of a lower priority before degraded ones of a higher.
        check(&[(5, 5), (10, 0)], 50, &[[70, 0], [30, 0]], &calm[..2]);
        check(&[(5, 5)], 50, &[[70, 30]], &calm[..1]);
        check(&[(0, 10)], 50, &[[0, 100]], &calm[..1]);
        check(&[(1, 1), (1, 1)], 0, &[[25, 25], [25, 25]], &calm[..2]);
        check(&[(1, 0), (1, 0), (1, 0)], 0, &[[34, 0], [33, 0], [33, 0]], &calm);
        check(&[(0, 1), (0, 1), (0, 1)], 0, &[[0, 34], [0, 33], [0, 33]], &calm);
        // Together they can take everything, so that none is in a panic.
        check(&[(3, 0), (5, 0)], 50, &[[42, 0], [58, 0]], &calm[..2]);
        // They cannot: shares grow in proportion, and who has too few uses all.
        check(&[(2, 0), (5, 0)], 50, &[[29, 0], [71, 0]], &[true, false]);
        check(&[(2, 0), (5, 0)], 10, &[[29, 0], [71, 0]], &calm[..2]);
        // All are in a panic: by their number.
        check(&[(2, 0), (2, 0)], 50, &[[50, 0], [50, 0]], &[true, true]);
        check(&[(0, 0), (0, 0), (0, 0)], 50, &[[34, 0], [33, 0], [33, 0]], &[true; 3]);
        check(&[(0, 0)], 0, &[[0, 0]], &calm[..1]);
        check(&[], 50, &[], &[]);
    }

    #[test]
    fn what_is_excluded_does_not_count() {
        let health = |excluded, healthy| Health { hosts: 10, excluded, healthy, ..Health::default() };
        for (health, threshold, short) in [
            (health(0, 4), 50, true),
            (health(0, 5), 50, false),
            (health(4, 3), 50, false),
            (health(10, 0), 50, true),
            (health(0, 0), 0, false),
        ] {
            assert_eq!(health.is_short(threshold), short, "{health:?}");
        }
    }
}
