//! At random, whatever the weights.

use crate::lb::Rng;

pub(super) fn next(n: usize, rng: &mut Rng) -> Option<usize> {
    rng.next().checked_rem(n as u64).map(|at| at as usize)
}
