//! How long to wait before a process is started again.

use std::time::{Duration, Instant};

/// Doubling delays with a cap. Pure: the caller gives the time.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    reset_after: Duration,
    next: Duration,
    started: Option<Instant>,
}

impl Default for Backoff {
    /// 250 ms, doubled up to 10 s, and from the start again after a run of 30 s.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(250), Duration::from_secs(10), Duration::from_secs(30))
    }
}

impl Backoff {
    /// The first delay, the longest one, and how long a process must have run for its past to be forgotten.
    pub fn new(first: Duration, cap: Duration, reset_after: Duration) -> Self {
        Backoff { first, cap, reset_after, next: first, started: None }
    }

    /// The process was started.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// The process ended or did not start: how long to wait before the next attempt.
    pub fn ended(&mut self, now: Instant) -> Duration {
        let ran = self.started.take().map(|started| now.saturating_duration_since(started));
        if ran.is_some_and(|ran| ran >= self.reset_after) {
            self.next = self.first;
        }
        let delay = self.next.min(self.cap);
        self.next = (delay * 2).min(self.cap);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_forgets_after_a_long_run() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30));
        // (started, ended, delay)
        let runs = [(0, 0, 1), (1, 1, 2), (3, 4, 4), (8, 8, 5), (13, 42, 5), (47, 77, 1), (78, 78, 2)];
        for (started, ended, delay) in runs {
            backoff.started(at(started));
            assert_eq!(backoff.ended(at(ended)).as_secs(), delay, "after {started}..{ended}");
        }
        assert_eq!(backoff.ended(at(80)).as_secs(), 4, "not even started");
    }
}
