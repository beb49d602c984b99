//! Hashing with bounded loads: an endpoint that has more than its share of the requests in flight gives way to another one, always in the same order
//! for the same request.

use std::sync::Arc;

use mizzen_ir::config::Hashing;

use super::{super::hosts::Host, weights::Weights};

/// Which other endpoint serves, where one is overloaded.
#[derive(Debug)]
pub(super) struct Bounded {
    /// Percent of the average.
    factor: u32,
    weights: Box<[f64]>,
    /// Room for the order in which others are asked.
    order: Box<[u32]>,
    twister: Box<Twister>,
}

impl Bounded {
    /// None: there is no bound.
    pub(super) fn new(hashing: Hashing, weights: &Weights) -> Option<Self> {
        (hashing.balance_factor > 0).then(|| Bounded {
            factor: hashing.balance_factor,
            weights: weights.all.iter().map(|(_, weight)| *weight).collect(),
            order: vec![0; weights.all.len()].into(),
            twister: Twister::new().into(),
        })
    }

    /// The first that is not overloaded, `first` before all others; else the one that is the least. `active`: requests in flight, all in all.
    pub(super) fn at(&mut self, first: usize, hash: u64, hosts: &[Arc<Host>], active: u32) -> usize {
        let slots = ((u64::from(active) + 1) * u64::from(self.factor)).div_ceil(100) as f64;
        let weights = &self.weights;
        let load = |at: usize| {
            let own = (slots * weights.get(at).copied().unwrap_or(0.0)).ceil().max(1.0);
            hosts.get(at).map_or(f64::MAX, |host| f64::from(host.state.load()) / own)
        };
        let mut least = (first, load(first));
        if least.1 <= 1.0 {
            return first;
        }
        // Only the low half of the hash is the seed.
        self.twister.seed(hash as u32);
        for (at, place) in (0u32..).zip(self.order.iter_mut()) {
            *place = at;
        }
        let n = self.order.len();
        for i in 0..n {
            let j = self.twister.below((n - i) as u32) as usize;
            self.order.swap(i, i + j);
            let at = self.order.get(i).map_or(first, |at| *at as usize);
            if at == first {
                continue;
            }
            let load = load(at);
            if load <= 1.0 {
                return at;
            }
            if load < least.1 {
                least = (at, load);
            }
        }
        least.0
    }
}

/// The generator MT19937, which gives the same order here as in Envoy.
#[derive(Debug)]
struct Twister {
    state: [u32; Twister::N],
    at: usize,
}

impl Twister {
    const N: usize = 624;

    fn new() -> Self {
        Twister { state: [0; Self::N], at: Self::N }
    }

    fn seed(&mut self, seed: u32) {
        let mut last = seed;
        for (i, word) in (0u32..).zip(self.state.iter_mut()) {
            if i > 0 {
                last = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i);
            }
            *word = last;
        }
        self.at = Self::N;
    }

    fn word(&self, at: usize) -> u32 {
        self.state.get(at % Self::N).copied().unwrap_or(0)
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let mixed = (self.word(i) & 0x8000_0000) | (self.word(i + 1) & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            let word = self.word(i + 397) ^ (mixed >> 1) ^ odd;
            if let Some(place) = self.state.get_mut(i) {
                *place = word;
            }
        }
        self.at = 0;
    }

    fn next(&mut self) -> u32 {
        if self.at >= Self::N {
            self.twist();
        }
        let mut y = self.word(self.at);
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// One of the numbers below `n`, which is at least 1, each as likely as any other.
    fn below(&mut self, n: u32) -> u32 {
        let width = ((1u64 << 32) / u64::from(n.max(1))) as u32;
        loop {
            let x = self.next().checked_div(width).unwrap_or(0);
            if x < n.max(1) {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 10,000th number of the default seed is in the C++ standard ([rand.predef]).
    #[test]
    fn the_standard_s_generator() {
        let mut twister = Twister::new();
        twister.seed(5489);
        let all: Vec<u32> = (0..10_000).map(|_| twister.next()).collect();
        assert_eq!(all.last(), Some(&4_123_659_995));
        twister.seed(5489);
        assert_eq!(twister.next(), all[0], "the same seed begins anew");
    }
}
