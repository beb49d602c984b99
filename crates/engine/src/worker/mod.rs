//! The worker: one thread's whole data path. It hands events to what they concern.

mod answer;
mod below;
mod bounds;
mod calls;
mod checks;
mod close;
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
mod retry;
mod router;
mod tcp;
mod timer;
mod upstream;

#[cfg(test)]
pub(crate) use config::EACH_TURN;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mizzen_ir::Config;
use mizzen_types::Name;

use crate::{
    Action, Addrs, Answer, Command, ConnId, DialError, DialId, ListenerId, Now, Options, Question, WaitId, call::Caller, checks::Checks,
    clusters::Clusters, conn::Conn, conns::Conns, context::Context, event::Event, filter::Filters, id::StreamId, lb::Rng,
    metrics::Snapshot, questions::Questions, streams::Streams, telemetry::Telemetry, timers::Timers, view::View,
};

/// One thread's whole data path: no clock, no socket, no blocking. See the crate's page for the order of calls.
///
/// What lives belongs to one of its owners; what concerns several of them is done here, one event after the other.
pub struct Worker {
    cx: Context,
    conns: Conns,
    streams: Streams,
    clusters: Clusters,
    questions: Questions,
    filters: Filters,
    telemetry: Telemetry,
    /// Listeners that connections are handed to, by address: of several, the last.
    by_address: HashMap<SocketAddr, Vec<Name>>,
    /// What is still to be done for the newest configuration.
    behind: config::Behind,
    /// How many connections and pools were looked at for new configurations.
    looked: u64,
    /// What calls of our own have in place of a listener's.
    own: calls::Own,
    /// The checks of all hosts, if this is the worker that makes them.
    checks: Option<Checks>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("conns", &self.conns.len()).field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker with its first configuration.
    pub fn new(options: Options, config: Arc<Config>, now: Now) -> Self {
        let checks = options.shared.takes_checks().then(Checks::default);
        let mut worker = Worker {
            filters: Filters::new(&options.node),
            cx: Context {
                rng: Rng::new(options.seed),
                options,
                now,
                config: Arc::default(),
                inbox: VecDeque::new(),
                actions: Vec::new(),
                timers: Timers::default(),
                draining: false,
            },
            conns: Conns::default(),
            streams: Streams::default(),
            clusters: Clusters::default(),
            questions: Questions::default(),
            telemetry: Telemetry::default(),
            by_address: HashMap::new(),
            behind: config::Behind::default(),
            looked: 0,
            own: calls::Own::new(),
            checks,
        };
        worker.take_config(config);
        // There was nothing before it to be freed.
        worker.cx.actions.retain(|action| !matches!(action, Action::Dispose(_)));
        worker
    }

    /// Sets the clocks; once a turn, first.
    pub fn tick(&mut self, now: Now) {
        self.cx.now = Now { mono: now.mono.max(self.cx.now.mono), wall: now.wall };
    }

    /// Something from the control thread.
    pub fn command(&mut self, command: Command) {
        match command {
            Command::Config(config) => self.take_config(config),
            Command::Answer(wait, answer) => self.answered(wait, answer),
            Command::MarkUsed => self.mark_used(),
            Command::Drain(listener) => self.drain(listener.as_ref()),
            Command::Call(number, call) => {
                self.open_call(*call, Caller::Control(number));
            }
            Command::Snapshot(id) => {
                let snapshot = self.snapshot();
                self.cx.actions.push(Action::Snapshot(id, Box::new(snapshot)));
            }
        }
    }

    /// A dial has ended. `None`: nobody waits for it any more, close the socket; always so for an error.
    pub fn dialed(&mut self, dial: DialId, result: Result<Addrs, DialError>) -> Option<ConnId> {
        self.dial_ended(dial, result)
    }

    /// Runs what is due and appends what is to be done to `actions`.
    pub fn turn(&mut self, actions: &mut Vec<Action>) {
        self.run_inbox();
        self.catch_up();
        self.run_handshakes();
        self.run_inbox();
        self.run_timers();
        self.run_inbox();
        self.flush();
        // Sealing may have found a broken session.
        self.run_inbox();
        self.flush();
        self.tidy_timers();
        actions.append(&mut self.cx.actions);
    }

    /// Whether `turn` has something to do at once; see also [`Worker::handshakes_wait`].
    pub fn ready(&self) -> bool {
        !self.cx.inbox.is_empty() || self.conns.has_dirty() || !self.cx.actions.is_empty() || !self.behind.is_empty()
    }

    /// When `turn` has something to do at the latest, on the monotonic clock.
    pub fn deadline(&self) -> Option<Duration> {
        self.cx.timers.next()
    }

    /// How many connections and pools were looked at for new configurations so far: what that work is measured by.
    pub fn looked(&self) -> u64 {
        self.looked
    }

    /// Connections open, both directions.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Streams in flight.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// The sizes of what is kept by the names of clusters, hosts, endpoints and limits.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> Vec<(&'static str, usize)> {
        let shared = self.cx.options.shared.sizes();
        shared.into_iter().chain(self.clusters.sizes()).chain(self.filters.sizes()).collect()
    }

    #[cfg(test)]
    pub(crate) fn guards(&self) -> ([u32; 4], u32) {
        let up = self.conns.iter().filter(|conn| conn.up().is_some()).count() as u32;
        (self.cx.options.shared.guards_by_limit(), up)
    }

    fn run_inbox(&mut self) {
        while let Some(event) = self.cx.inbox.pop_front() {
            match event {
                Event::Accepted(conn) => self.begin(conn),
                Event::Parse(conn) => self.parse(conn),
                Event::Room(conn) => self.has_room(conn),
                Event::Secured(conn) => self.secured(conn),
                Event::Request(stream) => self.request(stream),
                Event::Reroute(stream) => self.find(stream),
                Event::Body(stream, dir) => self.body_is_there(stream, dir),
                Event::Attempt(stream) => self.attempt(stream),
                Event::Response(stream) => self.response(stream),
                Event::Pump(stream, dir) => self.pump(stream, dir),
                Event::UpLost(stream, lost) => self.up_lost(stream, lost),
                Event::DownLost(stream, gone) => self.down_lost(stream, gone),
                Event::Idle(conn) => self.idle(conn),
                Event::Answered(stream) => self.look_again(stream),
                Event::ConnAnswered(conn) => self.conn_looks_again(conn),
                Event::Call(stream) => self.start_call(stream),
                Event::Called(stream, answer) => self.called(stream, answer),
                Event::Passed(conn, answer) => self.gate_answered(conn, &answer),
                Event::Checked(check, stream, answer) => self.check_answered(check, stream, answer),
                Event::Cancel(stream) => self.give_up(stream),
                Event::DialInside(dial) => self.dial_inside(dial),
                Event::Carry(conn) => self.carry(conn),
                Event::Ended(conn, eof) => self.ended(conn, eof),
                Event::Deserted => self.retire_all(),
            }
        }
    }

    /// A listener by the address that a client meant: exact, else any address with the port. Only listeners without a socket.
    fn listener_at(&self, address: SocketAddr) -> Option<&Name> {
        let (own, any) = self.listeners_at(address);
        own.or(any)
    }

    /// The listener of an address alone, and the one of any address with its port.
    fn listeners_at(&self, address: SocketAddr) -> (Option<&Name>, Option<&Name>) {
        let any = |ip: IpAddr| self.by_address.get(&SocketAddr::new(ip, address.port()));
        let unspecified: IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let all = any(unspecified).or_else(|| any(std::net::Ipv6Addr::UNSPECIFIED.into()));
        (self.by_address.get(&address).and_then(|names| names.last()), all.and_then(|names| names.last()))
    }

    /// What logs and header formats see of a stream.
    fn view(&self, id: StreamId) -> View<'_> {
        view_of(&self.streams, &self.conns, self.cx.now, id)
    }

    fn answered(&mut self, id: WaitId, answer: Answer) {
        if let Some(Question::Dns { host }) = self.questions.answered(&mut self.cx, id) {
            self.clusters.resolved(&self.cx, &host, answer);
            self.check_clusters();
        }
    }

    /// Marks what open connections and streams use: a long one would else look as if it used nothing.
    fn mark_used(&self) {
        self.conns.iter().filter_map(Conn::down).for_each(|down| down.listener.used.mark());
        let requests = self.streams.iter().filter_map(|stream| stream.traffic.http());
        requests.filter_map(|request| request.route.as_ref()).for_each(|routed| routed.host.used.mark());
    }

    /// Starts draining a listener's connections, or all.
    fn drain(&mut self, listener: Option<&ListenerId>) {
        if listener.is_none() {
            self.cx.draining = true;
        }
        for id in self.conns.ids() {
            let hit =
                self.conns.get(id).and_then(Conn::down).is_some_and(|d| listener.is_none_or(|l| d.socket == *l || d.listener.name == *l));
            if hit {
                self.drain_conn(id, self.cx.options.limits.drain);
            }
        }
        if self.cx.draining && self.conns.downs() == 0 {
            self.cx.inbox.push_back(Event::Deserted);
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut downstream: HashMap<Name, u64> = HashMap::new();
        let mut buffered = 0;
        for conn in self.conns.iter() {
            buffered += (conn.stored() + conn.backlog()) as u64;
            if let Some(down) = conn.down() {
                *downstream.entry(down.listener.name.clone()).or_default() += 1;
            }
        }
        for stream in self.streams.iter() {
            buffered += (stream.req.buf.len() + stream.resp.buf.len()) as u64;
        }
        let mut downstream: Vec<_> = downstream.into_iter().collect();
        downstream.sort();
        let shared = &self.cx.options.shared;
        Snapshot {
            series: self.telemetry.table.series().to_vec(),
            clusters: shared.clusters(),
            downstream,
            streams: self.streams.len() as u64,
            buffered,
            guards: shared.guards().into(),
        }
    }
}

/// What logs, header formats and metrics see of a stream.
fn view_of<'a>(streams: &'a Streams, conns: &'a Conns, now: Now, id: StreamId) -> View<'a> {
    let stream = streams.get(id);
    View {
        record: stream.map(|s| &s.record),
        stream,
        request: stream.and_then(|s| s.traffic.http()),
        conn: stream.and_then(|s| s.client.conn()).and_then(|conn| conns.get(conn)),
        now,
    }
}
