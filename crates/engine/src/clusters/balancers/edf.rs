//! Turns by weight: whoever's deadline is the earliest is next, and the heavier one is, the sooner its next deadline comes (earliest deadline
//! first). Of equal deadlines the older one counts, so that the order is even.

use std::{cmp::Ordering, collections::BinaryHeap};

/// Who is next among so many.
#[derive(Debug)]
pub(super) struct Edf {
    now: f64,
    inserted: u64,
    queue: BinaryHeap<Entry>,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    inserted: u64,
    place: usize,
}

impl Edf {
    /// One of `n` with these weights, begun somewhere in the round that `seed` says: proxies that begin together are not to agree.
    pub(super) fn new(n: usize, seed: u64, weight: impl Fn(usize) -> f64) -> Self {
        let entry = |place| Entry { deadline: wait(weight(place)), inserted: place as u64, place };
        let mut edf = Edf { now: 0.0, inserted: n as u64, queue: (0..n).map(entry).collect() };
        for _ in 0..seed.checked_rem(n as u64).unwrap_or(0) {
            edf.next(&weight);
        }
        edf
    }

    /// The next one. Its weight from now on is asked for.
    pub(super) fn next(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let mut first = self.queue.peek_mut()?;
        self.now = first.deadline;
        let place = first.place;
        first.deadline = self.now + wait(weight(place));
        first.inserted = self.inserted;
        self.inserted += 1;
        Some(place)
    }
}

/// How long until the next turn; a weight of nearly nothing is one too.
fn wait(weight: f64) -> f64 {
    1.0 / weight.max(1e-9)
}

/// The earliest is the greatest: the heap gives that first.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.inserted.cmp(&self.inserted))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_by_weight() {
        for (weights, turns) in
            [(&[1.0, 1.0, 1.0][..], "012012012"), (&[2.0, 1.0], "010010010"), (&[1.0, 4.0], "11101111011110"), (&[5.0], "000"), (&[], "")]
        {
            let mut edf = Edf::new(weights.len(), 0, |at| weights[at]);
            let seen: String = (0..turns.len()).map(|_| edf.next(|at| weights[at]).unwrap().to_string()).collect();
            assert_eq!(seen, turns, "{weights:?}");
            assert!(!weights.is_empty() || edf.next(|_| 1.0).is_none());
        }
    }

    #[test]
    fn a_seed_begins_elsewhere() {
        let mut edf = Edf::new(3, 7, |_| 1.0);
        assert_eq!([1, 2, 0, 1].map(Some), [(); 4].map(|()| edf.next(|_| 1.0)));
    }
}
