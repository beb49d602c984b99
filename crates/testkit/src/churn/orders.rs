//! What the load inside a mesh is told, and what it tells: JSON, a line each, over its standard input and output.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::PATIENCE;

/// How the load's lines begin, among whatever else its program writes.
const LINE: &str = "LOAD ";

/// What a destination speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Speaks {
    H1,
    H2,
    /// Lines over TCP.
    Lines,
}

/// A destination: a host name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) speaks: Speaks,
}

/// Requests one after the other, each so long after the one before began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) target: Target,
    /// In microseconds.
    pub(super) every: u64,
    /// Requests that a connection is used for; 0 for as many as there are.
    pub(super) per_connection: u64,
}

/// What the load is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// To keep this up to the end.
    Keep(Lane),
    /// To wait until the name is known, and then to ask there now and then: at most so many milliseconds after the request before, each on a new connection.
    Use(Target, u64),
    /// To wait until the name is known, and not to ask there.
    Await(Target),
    /// To ask there no more.
    Leave(String),
    /// To make one request to each on a new connection, one after the other.
    Ask(Vec<Target>),
    /// To end.
    End,
}

/// What the load tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// The name is known.
    Known(String),
    /// It will not ask there again.
    Left(String),
    /// How far it is.
    Tally(Tally),
    /// How long each request took, or why it was lost.
    Asked(Vec<Result<Took, String>>),
}

/// What a load has done so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// By the lane's name, or `rare`.
    pub lanes: BTreeMap<String, LaneTally>,
    /// The first of those that had no good answer.
    pub lost: Vec<Lost>,
}

/// What a lane has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneTally {
    /// Requests that were begun and have ended.
    pub requests: u64,
    /// Those of them that had no good answer.
    pub lost: u64,
    /// Connections.
    pub connections: u64,
    /// By who answered.
    pub answers: BTreeMap<String, u64>,
    /// Requests by how long they took: each number counts those of up to 2^n / 4 microseconds.
    pub took: Vec<u64>,
    /// The longest, in microseconds.
    pub slowest: u64,
}

/// A request that was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// When it began, in milliseconds since 1970.
    pub at: u64,
    /// By which it is found in the proxies' logs: `LANE-NUMBER`.
    pub id: String,
    /// Where to.
    pub target: String,
    /// What came instead of an answer, after how long.
    pub what: String,
}

/// How long a request took, in microseconds from the begin of connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Took {
    /// Until the connection was there.
    pub(super) connected: u64,
    /// Until the first byte of the answer.
    pub(super) first_byte: u64,
}

impl LaneTally {
    pub(super) fn count(&mut self, took: Duration, answer: Option<String>) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Quarters of a microsecond have no meaning: they only shift the first class to one microsecond's.
        let class = (64 - micros.saturating_mul(4).leading_zeros()) as usize;
        self.took.resize(self.took.len().max(class + 1), 0);
        self.took[class] += 1;
        self.requests += 1;
        self.slowest = self.slowest.max(micros);
        match answer {
            Some(answer) => *self.answers.entry(answer).or_default() += 1,
            None => self.lost += 1,
        }
    }

    /// The upper bound of the class that holds this part of all requests, in microseconds.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = (self.requests as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (class, count) in self.took.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (1_u64 << class.min(63)) / 4;
            }
        }
        self.slowest
    }
}

impl Tally {
    /// Takes in what another load has done, over other lanes.
    pub(super) fn add(&mut self, other: Tally) {
        self.lanes.extend(other.lanes);
        self.lost.extend(other.lost);
    }
}

/// Milliseconds since 1970: load and changes are in different processes.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes one line to whoever started this program.
pub(super) fn tell(told: &Told) {
    if let Ok(text) = serde_json::to_string(told) {
        let mut out = std::io::stdout().lock();
        // A test's harness may have begun a line of its own. Whoever listened may have gone.
        let _ = writeln!(out, "\n{LINE}{text}").and_then(|()| out.flush());
    }
}

/// A load inside a mesh, as seen from outside.
pub(super) struct Remote {
    child: Child,
    orders: ChildStdin,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

#[derive(Default)]
struct Heard {
    tally: Tally,
    events: VecDeque<Told>,
    /// What else it wrote.
    said: String,
    ended: bool,
}

impl Remote {
    /// Starts the program of a load.
    pub(super) fn start(mut command: Command) -> Remote {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start the load");
        let heard = Arc::new((Mutex::<Heard>::default(), Condvar::new()));
        let (lines, into) = (BufReader::new(child.stdout.take().expect("a pipe")), heard.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut heard = lock(&into.0);
                match line.strip_prefix(LINE).map(serde_json::from_str) {
                    Some(Ok(Told::Tally(tally))) => heard.tally = tally,
                    Some(Ok(told)) => heard.events.push_back(told),
                    _ => heard.said += &format!("{line}\n"),
                }
                into.1.notify_all();
            }
            lock(&into.0).ended = true;
            into.1.notify_all();
        });
        Remote { orders: child.stdin.take().expect("a pipe"), child, heard }
    }

    pub(super) fn order(&mut self, order: &Order) {
        let text = serde_json::to_string(order).expect("JSON");
        if let Err(error) = writeln!(self.orders, "{text}") {
            panic!("the load inside does not listen: {error}\n{}", lock(&self.heard.0).said);
        }
    }

    /// How far it is.
    pub(super) fn tally(&self) -> Tally {
        lock(&self.heard.0).tally.clone()
    }

    /// What it has told since this was last asked.
    pub(super) fn events(&self) -> Vec<Told> {
        lock(&self.heard.0).events.drain(..).collect()
    }

    /// Waits for the next thing that it tells.
    pub(super) fn event(&self, patience: Duration) -> Told {
        let until = Instant::now() + patience;
        let mut heard = lock(&self.heard.0);
        loop {
            if let Some(told) = heard.events.pop_front() {
                return told;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!heard.ended && !left.is_zero(), "the load inside says nothing more: {}", heard.said);
            heard = self.heard.1.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends it. What it has done.
    pub(super) fn end(mut self) -> Tally {
        self.order(&Order::End);
        let until = Instant::now() + PATIENCE;
        let mut heard = lock(&self.heard.0);
        while !heard.ended {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the load inside does not end: {}", heard.said);
            heard = self.heard.1.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let tally = heard.tally.clone();
        drop(heard);
        let status = self.child.wait().expect("the load's end");
        assert!(status.success(), "the load inside ended with {status}: {}", lock(&self.heard.0).said);
        tally
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // One that has ended already does not mind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_latencies() {
        let mut lane = LaneTally::default();
        for micros in [100, 200, 300, 5_000] {
            lane.count(Duration::from_micros(micros), Some("a".to_owned()));
        }
        // 100 is below 128, 200 below 256, 300 below 512, 5,000 below 8,192.
        assert_eq!([0.25, 0.5, 0.75, 1.0].map(|part| lane.quantile(part)), [128, 256, 512, 8192]);
        assert_eq!((lane.requests, lane.slowest, lane.answers["a"]), (4, 5_000, 4));
        assert_eq!(LaneTally::default().quantile(0.5), 0);
    }
}
