//! The worker: one thread's whole data path.

mod bounds;
mod calls;
mod config;
mod down;
mod filters;
mod finish;
mod hcm;
mod io;
mod pools;
mod relay;
mod reply;
mod respond;
mod router;
mod tcp;
mod timer;
mod upstream;

pub(crate) use hcm::parse_address;
use upstream::Flat;
pub(crate) use upstream::address_of;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mizzen_ir::{
    Config,
    config::{ContentHash, HttpProtocol},
};
use mizzen_types::Name;

use crate::{
    Action, Addrs, Answer, Command, ConnId, DialError, DialId, DialTag, How, ListenerId, Now, Options, Question, Target, WaitId, WaitTag,
    buf::Spare,
    call::{CallAnswer, Caller},
    conn::{Conn, Dialing},
    filter::Bucket,
    id::Slab,
    lb::{ClusterState, Rng},
    metrics::{Snapshot, Table},
    peer::LocalNode,
    pool::{Pool, PoolId, PoolKey, UpSpec},
    stats::StatsCache,
    stream::{Stream, StreamId},
    timers::Timers,
};

/// One thread's whole data path: no clock, no socket, no blocking. See the crate's page for the order of calls.
pub struct Worker {
    pub(crate) options: Options,
    pub(crate) now: Now,
    pub(crate) rng: Rng,
    pub(crate) config: Arc<Config>,
    /// Listeners that connections are handed to, by address.
    pub(crate) by_address: HashMap<SocketAddr, Name>,
    pub(crate) conns: Slab<Option<Box<Conn>>>,
    pub(crate) streams: Slab<Stream>,
    pub(crate) dials: Slab<Dialing>,
    pub(crate) waits: Slab<Wait>,
    /// Questions asked and not answered yet.
    pub(crate) asked: HashMap<Question, WaitId>,
    pub(crate) names: HashMap<Name, Resolved>,
    /// Token buckets by what they are of, looked up once for each configuration: the process' table has a lock.
    pub(crate) buckets: HashMap<ContentHash, Arc<Bucket>>,
    /// Grows with every answer of DNS.
    pub(crate) names_age: u64,
    pub(crate) pools: Slab<Pool>,
    pub(crate) pool_of: HashMap<PoolKey, PoolId>,
    pub(crate) clusters: HashMap<Name, ClusterView>,
    pub(crate) timers: Timers<TimerKey>,
    pub(crate) inbox: VecDeque<Event>,
    pub(crate) dirty: Vec<ConnId>,
    /// Connections whose TLS handshake has something to do: to servers, and of clients.
    pub(crate) handshakes: [VecDeque<ConnId>; 2],
    pub(crate) actions: Vec<Action>,
    pub(crate) table: Table,
    pub(crate) stats: StatsCache,
    pub(crate) local: LocalNode,
    /// The first URI name of our certificates, by secret; and of `default`.
    pub(crate) uris: HashMap<Name, (ContentHash, Option<Name>)>,
    pub(crate) own_uri: Option<Name>,
    pub(crate) logs: HashMap<Arc<str>, Vec<u8>>,
    pub(crate) spare: Spare,
    /// What calls of our own have in place of a listener's.
    pub(crate) own: calls::Own,
    /// Everything drains.
    pub(crate) draining: bool,
    /// Connections of clients.
    pub(crate) downs: usize,
}

/// What the worker tells itself; never handled while a connection is in hand.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection was accepted.
    Accepted(ConnId),
    /// Run what is spoken on a connection over its input.
    Parse(ConnId),
    /// A connection's backlog has room again.
    Room(ConnId),
    /// TLS is set up.
    Secured(ConnId),
    /// A new request.
    Request(StreamId),
    /// Something of the response arrived.
    Response(StreamId),
    /// Move body bytes: towards the server, or back.
    Pump(StreamId, Dir),
    /// The server's side of a stream is gone.
    UpLost(StreamId, Lost),
    /// The client's side of a stream is gone.
    DownLost(StreamId, Gone),
    /// An upstream connection may take requests, or has gone idle.
    Idle(ConnId),
    /// What waited for a configuration looks again.
    Retry(StreamId),
    /// A call of our own begins.
    Call(StreamId),
    /// A filter's call was answered.
    Called(StreamId, CallAnswer),
    /// Nobody waits for a call any more.
    Cancel(StreamId),
    /// Everything drains and the last client has gone.
    Deserted,
}

/// Why the client's side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The connection ended.
    Closed,
    /// The client reset the stream.
    Reset,
    /// The client broke the protocol; how.
    Protocol(&'static str),
}

/// Why a try failed before or within its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// No connection was made; why.
    Connect(String),
    /// It took too long to make one.
    ConnectTimeout,
    /// The connection ended.
    Closed,
    /// The connection ended before anything of the request was sent.
    Unsent,
    /// The stream was reset by the server; refused unseen.
    Reset(bool),
    /// The stream crossed the GOAWAY of a server that took others: refused unseen, in good order.
    Crossed,
    /// The server broke the protocol; how.
    Protocol(&'static str),
    /// A breaker.
    Overflow,
}

/// A direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dir {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Whose timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    Conn(ConnId),
    Dial(DialId),
    /// Of a stream without a client's connection.
    Call(StreamId),
}

/// Somebody waits for an answer.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) question: Question,
    pub(crate) streams: Vec<StreamId>,
}

/// A resolved name.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) until: Duration,
}

/// A cluster's living state as this worker knows it.
pub(crate) struct ClusterView {
    pub(crate) state: Arc<ClusterState>,
    /// Round robin's place.
    pub(crate) turn: usize,
    /// Its endpoints, as long as they are what they were.
    pub(crate) flat: Option<Flat>,
    /// How to connect, by endpoint, protocol and ALPN filter; until the next configuration.
    pub(crate) specs: HashMap<(Target, HttpProtocol, usize), (Arc<UpSpec>, PoolId)>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("conns", &self.conns.len()).field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker with its first configuration.
    pub fn new(options: Options, config: Arc<Config>, now: Now) -> Self {
        let mut worker = Worker {
            rng: Rng::new(options.seed),
            local: LocalNode::new(&options.node),
            options,
            now,
            config: Arc::default(),
            by_address: HashMap::new(),
            conns: Slab::default(),
            streams: Slab::default(),
            dials: Slab::default(),
            waits: Slab::default(),
            asked: HashMap::new(),
            names: HashMap::new(),
            buckets: HashMap::new(),
            names_age: 0,
            pools: Slab::default(),
            pool_of: HashMap::new(),
            clusters: HashMap::new(),
            timers: Timers::default(),
            inbox: VecDeque::new(),
            dirty: Vec::new(),
            handshakes: Default::default(),
            actions: Vec::new(),
            table: Table::default(),
            stats: StatsCache::default(),
            uris: HashMap::new(),
            own_uri: None,
            logs: HashMap::new(),
            spare: Spare::default(),
            own: calls::Own::new(),
            draining: false,
            downs: 0,
        };
        worker.take_config(config);
        worker.actions.clear();
        worker
    }

    /// Sets the clocks; once a turn, first.
    pub fn tick(&mut self, now: Now) {
        self.now = Now { mono: now.mono.max(self.now.mono), wall: now.wall };
    }

    /// Something from the control thread.
    pub fn command(&mut self, command: Command) {
        match command {
            Command::Config(config) => self.take_config(config),
            Command::Answer(wait, answer) => self.answered(wait, answer),
            Command::Drain(listener) => self.drain(listener.as_ref()),
            Command::Call(number, call) => {
                self.open_call(*call, Caller::Control(number));
            }
            Command::Snapshot(id) => {
                let snapshot = self.snapshot();
                self.actions.push(Action::Snapshot(id, Box::new(snapshot)));
            }
        }
    }

    /// Runs what is due and appends what is to be done to `actions`.
    pub fn turn(&mut self, actions: &mut Vec<Action>) {
        self.run_inbox();
        self.run_handshakes();
        self.run_inbox();
        self.run_timers();
        self.run_inbox();
        self.flush();
        // Sealing may have found a broken session.
        self.run_inbox();
        self.flush();
        actions.append(&mut self.actions);
    }

    /// Whether `turn` has something to do at once; see also [`Worker::handshakes_wait`].
    pub fn ready(&self) -> bool {
        !self.inbox.is_empty() || !self.dirty.is_empty() || !self.actions.is_empty()
    }

    /// When `turn` has something to do at the latest, on the monotonic clock.
    pub fn deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Connections open, both directions.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    #[cfg(test)]
    pub(crate) fn guards(&self) -> ([u32; 4], u32) {
        let up = self.conns.values().flatten().filter(|conn| conn.up().is_some()).count() as u32;
        (self.options.shared.guards_by_limit(), up)
    }

    /// Streams in flight.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    fn run_inbox(&mut self) {
        while let Some(event) = self.inbox.pop_front() {
            match event {
                Event::Accepted(conn) => self.begin(conn),
                Event::Parse(conn) => self.parse(conn),
                Event::Room(conn) => self.room(conn),
                Event::Secured(conn) => self.secured(conn),
                Event::Request(stream) => self.request(stream),
                Event::Response(stream) => self.response(stream),
                Event::Pump(stream, dir) => self.pump(stream, dir),
                Event::UpLost(stream, lost) => self.up_lost(stream, lost),
                Event::DownLost(stream, gone) => self.down_lost(stream, gone),
                Event::Idle(conn) => self.idle(conn),
                Event::Retry(stream) => self.route_again(stream),
                Event::Call(stream) => self.start_call(stream),
                Event::Called(stream, answer) => self.called(stream, answer),
                Event::Cancel(stream) => self.finish_http(stream, false),
                Event::Deserted => self.retire_pools(|_| true),
            }
        }
    }

    /// A listener by the address that a client meant: exact, else any address with the port. Only listeners without a socket.
    pub(crate) fn listener_at(&self, address: SocketAddr) -> Option<&Name> {
        let any = |ip: IpAddr| self.by_address.get(&SocketAddr::new(ip, address.port()));
        let unspecified: IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        self.by_address.get(&address).or_else(|| any(unspecified)).or_else(|| any(std::net::Ipv6Addr::UNSPECIFIED.into()))
    }

    /// The living state of a cluster.
    pub(crate) fn cluster_view(&mut self, name: &Name) -> &mut ClusterView {
        let shared = &self.options.shared;
        self.clusters.entry(name.clone()).or_insert_with(|| ClusterView {
            state: shared.cluster(name),
            turn: 0,
            flat: None,
            specs: HashMap::new(),
        })
    }

    pub(crate) fn conn(&mut self, id: ConnId) -> Option<&mut Box<Conn>> {
        self.conns.get_mut(id).and_then(Option::as_mut)
    }

    pub(crate) fn conn_ref(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(id).and_then(Option::as_deref)
    }

    /// Asks a question, once for all who wait for its answer.
    pub(crate) fn ask(&mut self, question: Question, stream: Option<StreamId>) -> WaitId {
        let id = match self.asked.get(&question) {
            Some(id) => *id,
            None => {
                let id = self.waits.insert::<WaitTag>(Wait { question: question.clone(), streams: Vec::new() });
                self.asked.insert(question.clone(), id);
                self.actions.push(Action::Ask(id, question));
                id
            }
        };
        if let (Some(wait), Some(stream)) = (self.waits.get_mut(id), stream) {
            wait.streams.push(stream);
        }
        id
    }

    fn answered(&mut self, id: WaitId, answer: Answer) {
        let Some(wait) = self.waits.remove(id) else { return };
        self.asked.remove(&wait.question);
        if let (Question::Dns { host }, answer) = (&wait.question, answer) {
            let (addresses, ttl) = match answer {
                Answer::Dns { addresses, ttl } => (addresses, ttl),
                // What is known of the name goes on being used.
                Answer::Absent => (self.names.get(host).map(|r| r.addresses.clone()).unwrap_or_default(), Duration::from_secs(5)),
            };
            let until = self.now.mono + ttl.max(Duration::from_secs(1));
            self.names.insert(host.clone(), Resolved { addresses, until });
            self.names_age += 1;
        }
        self.inbox.extend(wait.streams.into_iter().map(Event::Retry));
    }

    pub(crate) fn dial_id(&mut self, dialing: Dialing) -> DialId {
        self.dials.insert::<DialTag>(dialing)
    }

    /// Starts draining a listener's connections, or all.
    fn drain(&mut self, listener: Option<&ListenerId>) {
        if listener.is_none() {
            self.draining = true;
        }
        let ids: Vec<ConnId> = self.conns.ids().collect();
        for id in ids {
            let hit =
                self.conn_ref(id).and_then(Conn::down).is_some_and(|d| listener.is_none_or(|l| d.socket == *l || d.listener.name == *l));
            if hit {
                self.drain_conn(id, self.options.limits.drain);
            }
        }
        if self.draining && self.downs == 0 {
            self.inbox.push_back(Event::Deserted);
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut downstream: HashMap<Name, u64> = HashMap::new();
        let mut buffered = 0;
        for conn in self.conns.values().flatten() {
            buffered += (conn.stored() + conn.backlog()) as u64;
            if let Some(down) = conn.down() {
                *downstream.entry(down.listener.name.clone()).or_default() += 1;
            }
        }
        for stream in self.streams.values() {
            buffered += (stream.req.buf.len() + stream.resp.buf.len()) as u64;
        }
        let mut downstream: Vec<_> = downstream.into_iter().collect();
        downstream.sort();
        Snapshot {
            series: self.table.series().to_vec(),
            hosts: self.options.shared.hosts(self.now.mono),
            downstream,
            streams: self.streams.len() as u64,
            buffered,
            guards: self.options.shared.guards().into(),
        }
    }

    /// Closes a connection that is out of every table already or never was in one.
    pub(crate) fn close_action(&mut self, id: ConnId, how: How) {
        self.actions.push(Action::Close(id, how));
    }

    /// A dial has ended. `None`: nobody waits for it any more, close the socket; always so for an error.
    pub fn dialed(&mut self, dial: DialId, result: Result<Addrs, DialError>) -> Option<ConnId> {
        self.dial_ended(dial, result)
    }
}
