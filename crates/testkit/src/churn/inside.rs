//! The load: a program that runs in the mesh, asks at a bounded rate, and counts.
//!
//! What a client may notice by itself before it asks is not lost: a connection that has ended, or that takes no more requests, is replaced first.
//! Everything after the first byte of a request counts: another answer than 200, none, half of one, or none in time.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    os::fd::AsRawFd,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nix::sys::socket::{MsgFlags, recv};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Notify,
    task::{AbortHandle, spawn_local},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::orders::{Lane, Lost, Order, Speaks, Tally, Target, Told, Took, now, tell};
use crate::echo::{Head, version};

/// How long an answer is waited for: longer than a proxy waits for a name while its control plane is away.
const TIMEOUT: Duration = Duration::from_secs(25);
/// How often it is told how far the load is.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often a name that is not known yet is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So many lost requests are told one by one.
const MOST_LOST: usize = 200;

/// Runs a load as standard input says, until it says that it is enough.
///
/// # Panics
/// If it cannot even begin.
pub fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let load = Rc::new(Load { tally: RefCell::default(), numbers: Cell::new(0), ended: Cell::new(false) });
    tokio::task::LocalSet::new().block_on(&runtime, load.clone().obey());
    tell(&Told::Tally(load.tally.borrow().clone()));
    // Names may be looked up still.
    runtime.shutdown_background();
}

struct Load {
    tally: RefCell<Tally>,
    numbers: Cell<u64>,
    ended: Cell<bool>,
}

impl Load {
    async fn obey(self: Rc<Self>) {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut rare: HashMap<String, Rc<Notify>> = HashMap::new();
        let mut lanes = Vec::new();
        let teller = spawn_local(self.clone().tell()).abort_handle();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(Order::Keep(lane)) => lanes.push(spawn_local(self.clone().keep(lane))),
                Ok(Order::Use(target, pause)) => {
                    let leave = Rc::new(Notify::new());
                    rare.insert(target.host.clone(), leave.clone());
                    spawn_local(self.clone().now_and_then(target, pause, leave));
                }
                Ok(Order::Await(target)) => drop(spawn_local(until_known(target))),
                Ok(Order::Leave(host)) => rare.remove(&host).iter().for_each(|leave| leave.notify_one()),
                Ok(Order::Ask(targets)) => {
                    let mut asked = Vec::new();
                    for target in &targets {
                        asked.push(self.ask(target).await);
                    }
                    tell(&Told::Asked(asked));
                }
                Ok(Order::End) => break,
                Err(error) => eprintln!("not an order: {error}: {line}"),
            }
        }
        // What is on its way is waited for.
        self.ended.set(true);
        for lane in lanes {
            let _ = lane.await;
        }
        teller.abort();
    }

    /// Says again and again how far it is.
    async fn tell(self: Rc<Self>) {
        loop {
            sleep(TELL_EVERY).await;
            tell(&Told::Tally(self.tally.borrow().clone()));
        }
    }

    /// A new request's name.
    fn id(&self, lane: &str) -> String {
        self.numbers.set(self.numbers.get() + 1);
        format!("{lane}-{}", self.numbers.get())
    }

    fn count(&self, lane: &str, id: String, target: &Target, begun: Instant, answer: Result<String, String>) {
        let (mut tally, took) = (self.tally.borrow_mut(), begun.elapsed());
        let (answer, error) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error)),
        };
        tally.lanes.entry(lane.to_owned()).or_default().count(took, answer);
        if let (Some(error), true) = (error, tally.lost.len() < MOST_LOST) {
            let at = now().saturating_sub(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            let target = format!("{}:{}", target.host, target.port);
            tally.lost.push(Lost { at, id, target, what: format!("{error}, after {took:?}") });
        }
    }

    fn connected(&self, lane: &str) {
        self.tally.borrow_mut().lanes.entry(lane.to_owned()).or_default().connections += 1;
    }

    async fn keep(self: Rc<Self>, lane: Lane) {
        let mut ticks = interval(Duration::from_micros(lane.every.max(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut connection: Option<Connection> = None;
        let mut used = 0;
        loop {
            ticks.tick().await;
            if self.ended.get() {
                return;
            }
            connection = match connection.take() {
                Some(held) => held.still_good().await,
                None => None,
            };
            let begun = Instant::now();
            let id = self.id(&lane.name);
            let ready = match connection.take() {
                Some(connection) => Ok(connection),
                None => {
                    used = 0;
                    self.connected(&lane.name);
                    in_time(Connection::open(&lane.target)).await
                }
            };
            used += 1;
            let last = used == lane.per_connection;
            let answer = match ready {
                Ok(ready) => in_time(ready.ask(&lane.target, &id, last)).await,
                Err(error) => Err(format!("cannot connect: {error}")),
            };
            let answer = answer.map(|(kept, who)| {
                connection = kept;
                who
            });
            let answer = answer.map_err(|e| format!("{e}; the {used}th of its connection"));
            self.count(&lane.name, id, &lane.target, begun, answer);
        }
    }

    async fn now_and_then(self: Rc<Self>, target: Target, pause: u64, leave: Rc<Notify>) {
        let mut hasher = DefaultHasher::new();
        target.host.hash(&mut hasher);
        let mut rng = fastrand::Rng::with_seed(hasher.finish());
        // From here on whoever asks is answered.
        until_known(target.clone()).await;
        while !self.ended.get() {
            let (begun, id) = (Instant::now(), self.id("rare"));
            self.connected("rare");
            let answer = in_time(async { Connection::open(&target).await?.ask(&target, &id, true).await }).await;
            self.count("rare", id, &target, begun, answer.map(|(_, who)| who));
            let wait = Duration::from_millis(rng.u64(0..=pause));
            if timeout(wait, leave.notified()).await.is_ok() {
                break;
            }
        }
        tell(&Told::Left(target.host));
    }

    /// One request on a new connection. The name is looked up before.
    async fn ask(&self, target: &Target) -> Result<Took, String> {
        let address = look_up(target).await?;
        let begun = Instant::now();
        let micros = || u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        in_time(async {
            let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
            let connected = micros();
            let mut stream = BufReader::new(stream);
            let request = if target.speaks == Speaks::Lines { "1\n".to_owned() } else { head(target, &self.id("ask"), true) };
            stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
            stream.fill_buf().await.map_err(|e| e.to_string())?;
            let first_byte = micros();
            if target.speaks == Speaks::Lines {
                line(&mut stream).await?
            } else {
                answer(&mut stream).await?.0
            };
            Ok(Took { connected, first_byte })
        })
        .await
    }
}

async fn in_time<T>(what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(TIMEOUT, what).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Waits until the name is known, and says so.
async fn until_known(target: Target) {
    while look_up(&target).await.is_err() {
        sleep(LOOK_EVERY).await;
    }
    tell(&Told::Known(target.host));
}

async fn look_up(target: &Target) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    found.map_err(|e| e.to_string())?.next().ok_or_else(|| "no address".to_owned())
}

enum Connection {
    H1(BufReader<TcpStream>),
    H2(h2::client::SendRequest<Bytes>, AbortHandle),
    Lines(BufReader<TcpStream>),
}

impl Connection {
    async fn open(target: &Target) -> Result<Connection, String> {
        let stream = TcpStream::connect(look_up(target).await?).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(match target.speaks {
            Speaks::H1 => Connection::H1(BufReader::new(stream)),
            Speaks::Lines => Connection::Lines(BufReader::new(stream)),
            Speaks::H2 => {
                let (send, connection) = h2::client::handshake(stream).await.map_err(|e| e.to_string())?;
                let driver = spawn_local(async move { drop(connection.await) });
                Connection::H2(send, driver.abort_handle())
            }
        })
    }

    /// Itself, unless the other side has ended it.
    async fn still_good(self) -> Option<Connection> {
        match self {
            Connection::H1(stream) => is_open(&stream).then_some(Connection::H1(stream)),
            // Raw TCP has no way to say that it ends: an end is a loss, which the next request finds.
            Connection::Lines(stream) => Some(Connection::Lines(stream)),
            Connection::H2(send, driver) => match send.ready().await {
                Ok(send) => Some(Connection::H2(send, driver)),
                Err(_) => {
                    driver.abort();
                    None
                }
            },
        }
    }

    /// One request: itself, if both sides keep it, and who answered. `last`: it is not used again.
    async fn ask(self, target: &Target, id: &str, last: bool) -> Result<(Option<Connection>, String), String> {
        match self {
            Connection::H1(mut stream) => {
                stream.write_all(head(target, id, last).as_bytes()).await.map_err(|e| format!("cannot send: {e}"))?;
                let (who, keep) = answer(&mut stream).await?;
                Ok(((keep && !last).then_some(Connection::H1(stream)), who))
            }
            Connection::Lines(mut stream) => {
                stream.write_all(b"1\n").await.map_err(|e| format!("cannot send: {e}"))?;
                let who = line(&mut stream).await?;
                Ok(((!last).then_some(Connection::Lines(stream)), who))
            }
            Connection::H2(mut send, driver) => {
                let uri = format!("http://{}:{}/reviews/1?{id}", target.host, target.port);
                let request = http::Request::get(uri).body(()).map_err(|e| e.to_string())?;
                let (response, _) = send.send_request(request, true).map_err(|e| format!("cannot send: {e}"))?;
                let (head, mut body) = response.await.map_err(|e| format!("no answer: {e}"))?.into_parts();
                let mut bytes = Vec::new();
                while let Some(part) = body.data().await {
                    let part = part.map_err(|e| format!("half an answer: {e}"))?;
                    let _ = body.flow_control().release_capacity(part.len());
                    bytes.extend_from_slice(&part);
                }
                let who = version(head.status.as_u16(), &bytes)?;
                if last {
                    driver.abort();
                }
                Ok(((!last).then_some(Connection::H2(send, driver)), who))
            }
        }
    }
}

/// Whether the other side has neither ended it nor said anything unasked.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(recv(stream.get_ref().as_raw_fd(), &mut [0], flags), Err(nix::errno::Errno::EAGAIN))
}

fn head(target: &Target, id: &str, last: bool) -> String {
    let close = if last { "connection: close\r\n" } else { "" };
    format!("GET /reviews/1?{id} HTTP/1.1\r\nhost: {}:{}\r\n{close}\r\n", target.host, target.port)
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = String::new();
    stream.read_line(&mut line).await.map_err(|e| format!("no answer: {e}"))?;
    if line.trim().parse::<u32>().is_ok() { Ok("stock".to_owned()) } else { Err(format!("{line:?} is no answer")) }
}

/// Who answered over HTTP/1.1, and whether the connection is kept.
async fn answer(stream: &mut BufReader<TcpStream>) -> Result<(String, bool), String> {
    let (mut head, mut line) = (Head::default(), String::new());
    while !head.line(stream.read_line(&mut line).await, &line)? {
        line.clear();
    }
    let mut body = vec![0; head.length()?];
    stream.read_exact(&mut body).await.map_err(|e| format!("half an answer: {e}"))?;
    Ok((version(head.status()?, &body)?, head.keeps()))
}
