//! How long to wait after a failure.

use std::time::Duration;

/// Waits that double up to a longest one. It does no waiting itself, and starts anew when it is told to: the crates for retries
/// drive a future to its end instead, and their random part comes on top of the longest wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// From the first wait to the longest.
    pub const fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, next: first }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next.min(self.longest);
        self.next = wait.saturating_mul(2);
        wait
    }

    /// The next wait, never longer than `most`, of which up to a half is left out at random, so that the proxies of a mesh do not come back
    /// all at once.
    pub fn spread_wait(&mut self, most: Duration) -> Duration {
        self.wait().min(most).mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// After a success: from the first wait again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(15);

    #[test]
    fn doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let waits: Vec<u128> = (0..9).map(|_| backoff.wait().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]);
        backoff.reset();
        assert_eq!(backoff.wait(), FIRST);
        assert_eq!(Backoff::new(LONGEST, FIRST).wait(), FIRST);
        let mut endless = Backoff::new(FIRST, Duration::MAX);
        assert_eq!((0..100).map(|_| endless.wait()).last(), Some(Duration::MAX));
    }

    #[test]
    fn spreads_between_the_half_and_all() {
        let (mut even, mut spread) = (Backoff::new(FIRST, LONGEST), Backoff::new(FIRST, LONGEST));
        let mut different = false;
        for n in 0..40 {
            let (full, wait) = (even.wait(), spread.spread_wait(Duration::MAX));
            assert!(wait >= full / 2 && wait <= full, "{n}: {wait:?}");
            different |= wait != full;
        }
        assert!(different, "all the same, forty times");
        assert!(spread.spread_wait(FIRST) <= FIRST);
    }
}
