//! Deadlines. One lazy entry per owner at its earliest deadline: the owner keeps its deadlines as numbers and arms again when the entry fires.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// The owners' queue. Entries of dead or re-armed owners fire for nothing.
#[derive(Debug)]
pub(crate) struct Timers<K: Ord> {
    heap: BinaryHeap<Reverse<(Duration, K)>>,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Timers { heap: BinaryHeap::new() }
    }
}

impl<K: Ord> Timers<K> {
    pub(crate) fn arm(&mut self, at: Duration, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    /// Entries, those that will fire for nothing included.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Drops the entries that will fire for nothing.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Duration, &K) -> bool) {
        self.heap.retain(|Reverse((at, key))| keep(*at, key));
    }

    /// The earliest entry.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the earliest entry if it is due.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<(Duration, K)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
