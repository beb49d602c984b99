//! By a hash, in a table (Maglev): each endpoint takes places in turn in an order of its own, until all are taken. Which endpoint a request gets is
//! the same as with Envoy.

use std::sync::Arc;

use mizzen_ir::config::Hashing;
use twox_hash::XxHash64;

use super::{
    super::hosts::Host,
    bounded::Bounded,
    weights::{Weights, key},
};

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    owners: Owners,
    bounded: Option<Bounded>,
}

/// Whose each place is, in as few bytes as will do.
#[derive(Debug)]
enum Owners {
    Few(Box<[u8]>),
    Some(Box<[u16]>),
    Many(Box<[u32]>),
}

/// An endpoint that takes places.
struct Taker {
    host: u32,
    offset: u64,
    skip: u64,
    weight: f64,
    /// The weight that it needs to be served again.
    target: f64,
    next: u64,
}

/// A place that nobody has taken yet.
const FREE: u32 = u32::MAX;

impl Table {
    /// With `size` places, a prime.
    pub(super) fn new(size: u32, hashing: Hashing, weights: &Weights) -> Self {
        let owners = if weights.all.is_empty() { Vec::new() } else { fill(size, hashing, weights) };
        let owners = match weights.all.len() {
            0..=256 => Owners::Few(owners.into_iter().map(|owner| owner as u8).collect()),
            257..=65_536 => Owners::Some(owners.into_iter().map(|owner| owner as u16).collect()),
            _ => Owners::Many(owners.into()),
        };
        Table { owners, bounded: Bounded::new(hashing, weights) }
    }

    /// The endpoint for a hash; each `attempt` is another one.
    pub(super) fn at(&mut self, hash: u64, attempt: u32, hosts: &[Arc<Host>], active: u32) -> Option<usize> {
        let turned = if attempt > 0 { hash ^ (u64::MAX - u64::from(attempt) + 1) } else { hash };
        let host = self.owners.at(turned)?;
        Some(match &mut self.bounded {
            Some(bounded) => bounded.at(host, hash, hosts, active),
            None => host,
        })
    }
}

impl Owners {
    fn at(&self, hash: u64) -> Option<usize> {
        let place = |len: usize| hash.checked_rem(len as u64).map(|at| at as usize);
        Some(match self {
            Owners::Few(all) => usize::from(*all.get(place(all.len())?)?),
            Owners::Some(all) => usize::from(*all.get(place(all.len())?)?),
            Owners::Many(all) => *all.get(place(all.len())?)? as usize,
        })
    }
}

fn fill(size: u32, hashing: Hashing, weights: &Weights) -> Vec<u32> {
    let mut hosts: Vec<(&str, u32, f64)> = Vec::with_capacity(weights.all.len());
    hosts.extend((0u32..).zip(&weights.all).map(|(at, (host, weight))| (key(host, hashing), at, *weight)));
    // In an order of their own, so that the table does not depend on the order in which they were told.
    hosts.sort_by(|a, b| a.0.cmp(b.0));
    let (places, size) = (size as usize, u64::from(size));
    let taker = |(key, host, weight): (&str, u32, f64)| Taker {
        host,
        offset: XxHash64::oneshot(0, key.as_bytes()) % size,
        skip: XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1,
        weight,
        target: 0.0,
        next: 0,
    };
    let mut takers: Vec<Taker> = hosts.into_iter().map(taker).collect();
    let mut table = vec![FREE; places];
    let mut left = places;
    let mut round = 0.0;
    while left > 0 {
        round += 1.0;
        for taker in &mut takers {
            if left == 0 {
                break;
            }
            // The heaviest is served in every round, one of half its weight in every other.
            if round * taker.weight < taker.target {
                continue;
            }
            taker.target += weights.most;
            loop {
                let at = (taker.offset + taker.skip * taker.next) % size;
                taker.next += 1;
                let Some(place) = table.get_mut(at as usize) else { continue };
                if *place == FREE {
                    *place = taker.host;
                    left -= 1;
                    break;
                }
            }
        }
    }
    table
}
