//! By a hash, on a ring (ketama): each endpoint has places on it in proportion to its weight, and a request goes to the first place at or after its
//! own. Which one that is is the same as with Envoy.

use std::{io::Write, sync::Arc};

use mizzen_ir::config::Hashing;
use twox_hash::XxHash64;

use super::{
    super::hosts::Host,
    bounded::Bounded,
    weights::{Weights, key},
};

/// The ring: places with their owners, by hash.
#[derive(Debug)]
pub(super) struct Ring {
    hashes: Box<[u64]>,
    owners: Box<[u32]>,
    bounded: Option<Bounded>,
}

impl Ring {
    /// With `min` to `max` places.
    pub(super) fn new([min, max]: [u64; 2], murmur: bool, hashing: Hashing, weights: &Weights) -> Self {
        // The lightest endpoint gets a whole number of places.
        let scale = ((weights.least * min as f64).ceil() / weights.least).min(max as f64);
        let mut places = Vec::with_capacity(scale.ceil() as usize);
        let mut text = Vec::new();
        let (mut made, mut wanted) = (0.0, 0.0);
        for (owner, (host, weight)) in (0u32..).zip(&weights.all) {
            wanted += scale * weight;
            text.clear();
            text.extend_from_slice(key(host, hashing).as_bytes());
            text.push(b'_');
            let stem = text.len();
            let mut i = 0u64;
            while made < wanted {
                text.truncate(stem);
                let _ = write!(text, "{i}");
                let hash = if murmur { murmur2(&text) } else { XxHash64::oneshot(0, &text) };
                places.push((hash, owner));
                i += 1;
                made += 1.0;
            }
        }
        places.sort_unstable();
        let (hashes, owners): (Vec<u64>, Vec<u32>) = places.into_iter().unzip();
        Ring { hashes: hashes.into(), owners: owners.into(), bounded: Bounded::new(hashing, weights) }
    }

    /// The endpoint for a hash; `attempt`: so many places further on.
    pub(super) fn at(&mut self, hash: u64, attempt: u32, hosts: &[Arc<Host>], active: u32) -> Option<usize> {
        let at = (self.hashes.partition_point(|place| *place < hash) + attempt as usize).checked_rem(self.hashes.len())?;
        let host = *self.owners.get(at)? as usize;
        Some(match &mut self.bounded {
            Some(bounded) => bounded.at(host, hash, hosts, active),
            None => host,
        })
    }
}

/// MurmurHash64A as the GNU C++ library's `std::hash` of a string has it, by which the rings of old were made.
fn murmur2(bytes: &[u8]) -> u64 {
    const MUL: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let mix = |v: u64| v ^ (v >> 47);
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MUL);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let data = mix(u64::from_le_bytes(*word).wrapping_mul(MUL)).wrapping_mul(MUL);
        hash = (hash ^ data).wrapping_mul(MUL);
    }
    if !rest.is_empty() {
        let data = rest.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        hash = (hash ^ data).wrapping_mul(MUL);
    }
    mix(mix(hash).wrapping_mul(MUL))
}
