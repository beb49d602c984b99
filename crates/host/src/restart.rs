//! How long to wait before a process is started again.

use std::time::{Duration, Instant};

use mizzen_net::Backoff;

/// After a run of this length a process' past is forgotten.
const RESET_AFTER: Duration = Duration::from_secs(30);

/// The delays of one process. Pure: the caller gives the time.
#[derive(Clone, Debug)]
pub struct RestartDelay {
    backoff: Backoff,
    started: Option<Instant>,
}

impl Default for RestartDelay {
    /// 250 ms, doubled up to 10 s, and from the start again after a run of 30 s.
    fn default() -> Self {
        RestartDelay { backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(10)), started: None }
    }
}

impl RestartDelay {
    /// The process was started.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// The process ended or did not start: how long to wait before the next attempt.
    pub fn ended(&mut self, now: Instant) -> Duration {
        let ran = self.started.take().map(|started| now.saturating_duration_since(started));
        if ran.is_some_and(|ran| ran >= RESET_AFTER) {
            self.backoff.reset();
        }
        self.backoff.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_and_forgets_after_a_long_run() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut delay = RestartDelay::default();
        // (started, ended, delay in milliseconds)
        let runs = [(0, 0, 250), (1, 1, 500), (3, 4, 1000), (8, 8, 2000), (13, 42, 4000), (47, 77, 250), (78, 78, 500)];
        for (started, ended, wanted) in runs {
            delay.started(at(started));
            assert_eq!(delay.ended(at(ended)).as_millis(), wanted, "after {started}..{ended}");
        }
        assert_eq!(delay.ended(at(80)).as_millis(), 1000, "not even started");
    }
}
