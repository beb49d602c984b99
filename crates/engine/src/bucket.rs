//! Token buckets of local rate limits.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use mizzen_ir::config::TokenBucket;

/// A token bucket that all workers share: one number says all. It is the time at which the bucket would have been empty, in nanoseconds since the
/// monotonic clock's start plus [`Bucket::BEFORE`].
#[derive(Debug)]
pub(crate) struct Bucket {
    empty: AtomicU64,
    /// How long it fills until it is full, as it was said the last time.
    whole: AtomicU64,
}

impl Bucket {
    /// So far back may a bucket have been empty that is full at the clock's start.
    const BEFORE: u64 = 1 << 62;

    /// Full.
    pub(crate) fn new() -> Self {
        Bucket { empty: AtomicU64::new(0), whole: AtomicU64::new(0) }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self, tokens: TokenBucket, now: Duration) -> bool {
        // Time for one token; a bucket is full when it has been filling for as long as all of them take.
        let one = ((tokens.interval.as_nanos() / u128::from(tokens.fill.max(1))) as u64).max(1);
        let whole = one.saturating_mul(tokens.most.into()).min(Bucket::BEFORE);
        let now = (now.as_nanos() as u64).saturating_add(Bucket::BEFORE);
        self.whole.store(whole, Relaxed);
        let taken = self.empty.fetch_update(Relaxed, Relaxed, |empty| {
            let empty = empty.max(now - whole);
            (now.saturating_sub(empty) >= one).then(|| empty + one)
        });
        taken.is_ok()
    }

    /// Whether it is as full as a new one.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        let now = (now.as_nanos() as u64).saturating_add(Bucket::BEFORE);
        self.empty.load(Relaxed) <= now.saturating_sub(self.whole.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets() {
        let tokens = TokenBucket { most: 3, fill: 2, interval: Duration::from_secs(1) };
        for start in [0, 1, 1_000_000] {
            let bucket = Bucket::new();
            let at = |ms: u64| Duration::from_millis(start + ms);
            let takes = |ms: u64, n: usize| (0..n).filter(|_| bucket.take(tokens, at(ms))).count();
            assert!(bucket.is_full(at(0)));
            assert_eq!(takes(0, 9), 3, "it is full at first");
            assert!(!bucket.is_full(at(1_499)) && bucket.is_full(at(1_500)));
            assert_eq!(takes(499, 9), 0);
            assert_eq!(takes(500, 9), 1, "two come in a second, evenly");
            assert_eq!(takes(1_600, 9), 2);
            assert_eq!(takes(100_000, 9), 3, "it holds no more");
        }
    }
}
