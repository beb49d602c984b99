//! A load: threads which ask as fast as they are answered, and count.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use mizzen_testkit::echo::{Head, version};
use serde::{Deserialize, Serialize};

/// No load goes on for longer, whatever happens.
const LONGEST: Duration = Duration::from_secs(120);
/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests in flight on a connection of HTTP/2.
const STREAMS: u64 = 4;
/// Requests that a connection is used for.
pub(crate) const PER_CONNECTION: u64 = 500;

/// What a load has done so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) connections: u64,
    pub(crate) slowest: Duration,
    /// By the version of `echo` that answered, and those of `stock`.
    pub(crate) answers: BTreeMap<String, u64>,
    /// The first failures, in words.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, took: Duration, result: Result<String, String>) {
        self.requests += 1;
        self.slowest = self.slowest.max(took);
        match result {
            Ok(version) => *self.answers.entry(version).or_default() += 1,
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < 20 {
                    self.failures.push(format!("request {}, after {took:?}: {error}", self.requests));
                }
            }
        }
    }
}

/// What one thread asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lane {
    /// HTTP/1.1: the address, and the path.
    H1(&'static str, &'static str),
    /// HTTP/2, likewise.
    H2(&'static str, &'static str),
    /// Lines over TCP.
    Lines(&'static str),
}

/// Through the gateway: by the path to a port of HTTP/1.1 or of HTTP/2.
pub(crate) const OUTSIDE: &[Lane] =
    &[Lane::H1("", "/reviews/1"), Lane::H1("", "/reviews/1"), Lane::H1("", "/reviews/2"), Lane::H2("", "/reviews/2")];
/// Inside: the same, and a connection of TCP.
pub(crate) const INSIDE: &[Lane] = &[
    Lane::H1("echo:9080", "/reviews/1"),
    Lane::H1("echo:9080", "/reviews/1"),
    Lane::H1("echo:9081", "/reviews/1"),
    Lane::H2("echo:9081", "/reviews/1"),
    Lane::Lines("stock:7070"),
];

/// A load: threads with a connection each, which ask as fast as they are answered.
pub(crate) struct Generator {
    pub(crate) tally: Arc<Mutex<Tally>>,
    pub(crate) stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Generator {
    /// `gateway` is the address of the lanes that have none.
    pub(crate) fn start(lanes: &[Lane], gateway: &str) -> Generator {
        let (tally, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let threads = lanes.iter().map(|lane| {
            let (lane, gateway, tally, stop) = (*lane, gateway.to_owned(), tally.clone(), stop.clone());
            std::thread::spawn(move || match lane {
                Lane::H1(at, path) => ask_h1(if at.is_empty() { &gateway } else { at }, path, &tally, &stop),
                Lane::H2(at, path) => ask_h2(if at.is_empty() { &gateway } else { at }, path, &tally, &stop),
                Lane::Lines(at) => ask_lines(at, &tally, &stop),
            })
        });
        Generator { tally: tally.clone(), stop: stop.clone(), threads: threads.collect() }
    }

    pub(crate) fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().expect("a thread of the load");
        }
        lock(&self.tally).clone()
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether to go on.
fn going(stop: &AtomicBool, start: Instant) -> bool {
    !stop.load(Ordering::Relaxed) && start.elapsed() < LONGEST
}

fn ask_h1(target: &str, path: &str, tally: &Mutex<Tally>, stop: &AtomicBool) {
    let begin = Instant::now();
    let mut connection: Option<BufReader<TcpStream>> = None;
    let mut used = 0;
    while going(stop, begin) {
        let start = Instant::now();
        let result = match connection.take() {
            Some(connection) => Ok(connection),
            None => {
                used = 0;
                lock(tally).connections += 1;
                connect(target)
            }
        };
        used += 1;
        let result = result.and_then(|stream| get(stream, target, path, used == PER_CONNECTION));
        let answer = result.map(|(kept, version)| {
            connection = kept;
            version
        });
        rest(&answer);
        lock(tally).count(start.elapsed(), answer.map_err(|e| format!("HTTP/1.1 {target}{path}: {e}; the {used}th of its connection")));
    }
}

/// After a failure: else a mesh that is down would be asked a million times.
fn rest<T>(answer: &Result<T, String>) {
    if answer.is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ask_h2(target: &str, path: &str, tally: &Mutex<Tally>, stop: &AtomicBool) {
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    while going(stop, begin) {
        let start = Instant::now();
        lock(tally).connections += 1;
        let result = runtime.block_on(async {
            let stream = tokio::time::timeout(TIMEOUT, tokio::net::TcpStream::connect(target)).await.map_err(|e| e.to_string())?;
            let stream = stream.map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let (send, connection) = h2::client::handshake(stream).await.map_err(|e| e.to_string())?;
            let driver = tokio::spawn(connection);
            let streams = (0..STREAMS).map(|_| async {
                for number in 0..PER_CONNECTION / STREAMS {
                    // A connection that takes no more requests has said so: another one is made.
                    let Ok(ready) = send.clone().ready().await else { return };
                    if !going(stop, begin) {
                        return;
                    }
                    let start = Instant::now();
                    let answer =
                        tokio::time::timeout(TIMEOUT, get_h2(ready, target, path)).await.unwrap_or(Err("no answer in time".to_owned()));
                    let answer = answer.map_err(|e| format!("HTTP/2 {target}{path}: {e}; the {number}th of its quarter"));
                    lock(tally).count(start.elapsed(), answer);
                }
            });
            join_all(streams).await;
            driver.abort();
            Ok(())
        });
        rest(&result);
        if let Err(error) = result {
            lock(tally).count(start.elapsed(), Err(format!("HTTP/2 {target}: cannot connect: {error}")));
        }
    }
}

async fn get_h2(mut send: h2::client::SendRequest<Bytes>, target: &str, path: &str) -> Result<String, String> {
    let request = http::Request::get(format!("http://{target}{path}")).body(()).map_err(|e| e.to_string())?;
    let (response, _) = send.send_request(request, true).map_err(|e| e.to_string())?;
    let (head, mut body) = response.await.map_err(|e| format!("no answer: {e}"))?.into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|e| format!("half an answer: {e}"))?;
        let _ = body.flow_control().release_capacity(part.len());
        bytes.extend_from_slice(&part);
    }
    version(head.status.as_u16(), &bytes)
}

fn ask_lines(target: &str, tally: &Mutex<Tally>, stop: &AtomicBool) {
    let begin = Instant::now();
    lock(tally).connections += 1;
    let mut stream = connect(target);
    while going(stop, begin) {
        let start = Instant::now();
        let answer = stream.as_mut().map_err(|e| e.clone()).and_then(|stream| {
            let mut line = String::new();
            stream.get_mut().write_all(b"1\n").and_then(|()| stream.read_line(&mut line)).map_err(|e| e.to_string())?;
            if line.trim().parse::<u32>().is_ok() { Ok("stock".to_owned()) } else { Err(format!("{line:?} is no answer")) }
        });
        rest(&answer);
        lock(tally).count(start.elapsed(), answer.map_err(|e| format!("TCP {target}: {e}")));
        // It is there to be kept, not to keep the mesh busy.
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn connect(target: &str) -> Result<BufReader<TcpStream>, String> {
    let stream = TcpStream::connect(target).map_err(|e| format!("cannot connect: {e}"))?;
    let set = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(TIMEOUT)))
        .and_then(|()| stream.set_write_timeout(Some(TIMEOUT)));
    set.map_err(|e| e.to_string())?;
    Ok(BufReader::new(stream))
}

/// One GET. Returns the connection, if both sides keep it, and the version that answered.
pub(crate) fn get(
    mut stream: BufReader<TcpStream>,
    host: &str,
    path: &str,
    last: bool,
) -> Result<(Option<BufReader<TcpStream>>, String), String> {
    let words = if last { "connection: close\r\n" } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{words}\r\n");
    stream.get_mut().write_all(request.as_bytes()).map_err(|e| format!("cannot send: {e}"))?;
    let (mut head, mut line) = (Head::default(), String::new());
    while !head.line(stream.read_line(&mut line), &line)? {
        line.clear();
    }
    let mut body = vec![0; head.length()?];
    stream.read_exact(&mut body).map_err(|e| format!("half an answer: {e}"))?;
    let version = version(head.status()?, &body)?;
    let keep = !last && head.keeps();
    Ok((keep.then_some(stream), version))
}
