//! Whose turn it is: everything for a proxy that has just come is made for a bounded number of them at once.
//!
//! After a restart all proxies come together. Those that are served have their configuration soon; those that wait keep nothing but their stream; and who
//! would have to wait for too long is told when to come again.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tonic::{Status, metadata::MetadataValue};

/// So many are served at once,
const AT_ONCE: usize = 8;
/// so many wait,
const WAITING: usize = 4096;
/// and so long.
const LONGEST: Duration = Duration::from_secs(30);
/// When to come again who cannot wait here; spread, so that not all come together again.
const AGAIN: Duration = Duration::from_secs(5);
const SPREAD: u64 = 10;
/// So many first syncs are many: what they need for a moment is worth giving back.
const MANY: u64 = 64;

/// Turns for first syncs.
#[derive(Debug)]
pub(crate) struct Admission {
    turns: Semaphore,
    at_once: usize,
    /// Since when, by the connection's number.
    waiting: Mutex<BTreeMap<u64, Instant>>,
    most: usize,
    /// How many turns there were, and how many of those before many of them were last said to end.
    begun: AtomicU64,
    ended: AtomicU64,
    is_ending: AtomicBool,
}

impl Default for Admission {
    fn default() -> Self {
        Admission::of(AT_ONCE, WAITING)
    }
}

/// One who waits, until it is dropped.
struct Waiting<'a>(&'a Admission, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Admission {
    fn of(at_once: usize, most: usize) -> Self {
        Admission {
            turns: Semaphore::new(at_once),
            at_once,
            waiting: Mutex::default(),
            most,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
        }
    }

    /// Waits for a turn; it lasts until the permit is dropped. `number` is the connection's.
    pub(crate) async fn turn(&self, number: u64) -> Result<SemaphorePermit<'_>, Status> {
        {
            let mut waiting = self.lock();
            if waiting.len() >= self.most {
                return Err(full("too many proxies wait for their first configuration", number));
            }
            waiting.insert(number, Instant::now());
        }
        let _waiting = Waiting(self, number);
        match tokio::time::timeout(LONGEST, self.turns.acquire()).await {
            Ok(Ok(permit)) => {
                self.begun.fetch_add(1, Ordering::Relaxed);
                Ok(permit)
            }
            Ok(Err(_)) => Err(Status::unavailable("the control plane is stopping")),
            Err(_) => Err(full("the first configuration would have to wait for too long", number)),
        }
    }

    /// Whether there were many first syncs, and nobody waits for one any more. Says so once, until [`Admission::begin_anew`].
    pub(crate) fn ends(&self) -> bool {
        let many = self.turns() - self.ended.load(Ordering::Relaxed) >= MANY;
        many && self.waiting() == 0 && !self.is_ending.swap(true, Ordering::Relaxed)
    }

    /// They have ended.
    pub(crate) fn begin_anew(&self) {
        self.ended.store(self.turns(), Ordering::Relaxed);
        self.is_ending.store(false, Ordering::Relaxed);
    }

    /// How many first syncs have begun so far.
    pub(crate) fn turns(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Since when a connection waits, if it does.
    pub(crate) fn waits_since(&self, number: u64) -> Option<Instant> {
        self.lock().get(&number).copied()
    }

    /// How many are served at once.
    pub(crate) fn at_once(&self) -> usize {
        self.at_once
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(why: &str, number: u64) -> Status {
    let again = AGAIN + Duration::from_secs(number % SPREAD);
    let mut status = Status::resource_exhausted(format!("{why}: come again in {} s", again.as_secs()));
    status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(u64::try_from(again.as_millis()).unwrap_or(u64::MAX)));
    status
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_many_is_said_once() {
        let admission = Admission::of(2, 100);
        for number in 1..MANY {
            drop(admission.turn(number).await.unwrap());
            assert!(!admission.ends(), "{number} are few");
        }
        drop(admission.turn(MANY).await.unwrap());
        assert!(admission.ends() && !admission.ends());
        admission.begin_anew();
        assert!(!admission.ends(), "none since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bounded_number_at_once() {
        let admission = Admission::of(2, 3);
        let (first, _second) = (admission.turn(1).await.unwrap(), admission.turn(2).await.unwrap());
        assert_eq!(admission.waiting(), 0);
        // The third waits until the first is done.
        let (third, ()) = tokio::join!(admission.turn(3), async {
            tokio::task::yield_now().await;
            assert_eq!((admission.waiting(), admission.waits_since(3)), (1, Some(Instant::now())));
            assert_eq!(admission.waits_since(1), None, "it has its turn");
            drop(first);
        });
        let _third = third.unwrap();
        // Who waits for too long, and who is one too many, are told when to come again.
        let begun = Instant::now();
        let many = tokio::join!(admission.turn(4), admission.turn(5), admission.turn(6), admission.turn(7));
        for (refused, pushback) in [(many.0, "9000"), (many.1, "10000"), (many.2, "11000"), (many.3, "12000")] {
            let status = refused.unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), pushback, "{status}");
        }
        assert_eq!(begun.elapsed(), LONGEST);
        assert_eq!(admission.waiting(), 0);
    }
}
