//! How long to wait after a failure.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(15);

/// Waits that double, each with a random part, so that the proxies of a mesh do not come back all at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff(u32);

impl Backoff {
    /// The next wait; never longer than `limit`.
    pub(crate) fn next(&mut self, limit: Duration) -> Duration {
        let full = FIRST.saturating_mul(1 << self.0.min(10)).min(LAST).min(limit.max(FIRST));
        self.0 = self.0.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * random())
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}

/// From 0 to 1. For spreading load, not for secrets.
pub(crate) fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits() {
        let mut backoff = Backoff::default();
        let mut longest = Duration::ZERO;
        for n in 0..40u32 {
            let full = FIRST.saturating_mul(1 << n.min(10)).min(LAST);
            let wait = backoff.next(Duration::MAX);
            assert!(wait >= full / 2 && wait <= full, "{n}: {wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest > LAST / 2);
        assert!(backoff.next(Duration::from_secs(1)) <= Duration::from_secs(1));
        assert!(backoff.next(Duration::ZERO) <= FIRST);
        backoff.reset();
        assert!(backoff.next(Duration::MAX) <= FIRST);
        assert!((0..100).map(|_| random()).all(|r| (0.0..1.0).contains(&r)));
    }
}
