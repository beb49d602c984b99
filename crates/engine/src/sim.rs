//! A network in memory: workers, clients and servers, joined by byte streams that are split at seeded points, on a virtual clock.
//!
//! Everything is decided by the seed: the same one gives the same run, byte by byte.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mizzen_ir::Config;

use crate::{
    Accepted, Action, Addrs, Answer, CallAnswer, Command, ConnId, DialError, DialId, Eof, How, Node, Now, Options, Question, Target,
    WaitId, Worker,
    lb::{Rng, Shared},
    metrics::Snapshot,
};

/// What a server does with the bytes of one connection: (connection, what was received and not taken yet, whether the client has ended, answer).
/// Returns whether it closes after that answer.
pub type Serve = Box<dyn FnMut(u64, &mut Vec<u8>, bool, &mut Vec<u8>) -> bool>;

/// Who holds an end of a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Worker(usize, ConnId),
    Client(usize),
    Server(SocketAddr, u64),
}

/// One direction of a byte stream.
#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// The writer ended; and the reader was told.
    fin: bool,
    fin_told: bool,
}

#[derive(Debug)]
struct Link {
    ends: [End; 2],
    /// From the first end to the second, and back.
    pipes: [Pipe; 2],
    /// Cut: no more bytes either way; both ends are told.
    cut: bool,
}

/// A worker and its place in the network.
struct Host {
    ip: IpAddr,
    worker: Worker,
    stopped: HashSet<ConnId>,
    log: Vec<u8>,
}

/// A client's side of a connection.
#[derive(Debug, Default)]
struct Client {
    received: Vec<u8>,
    /// The other side has ended, in order or by a reset.
    ended: Option<Eof>,
}

/// Steps within one moment beyond which something goes round in a circle.
const STEPS: usize = 5_000_000;

/// The network.
pub struct Sim {
    now: Now,
    rng: Rng,
    hosts: Vec<Host>,
    links: Vec<Link>,
    clients: Vec<Client>,
    servers: HashMap<SocketAddr, Serve>,
    buffers: HashMap<(SocketAddr, u64), Vec<u8>>,
    /// Dials to these are refused; dials to those never end.
    pub refused: HashSet<SocketAddr>,
    /// Dials to these never end.
    pub silent: HashSet<SocketAddr>,
    /// Servers and clients that read nothing.
    pub deaf_servers: HashSet<SocketAddr>,
    /// The same.
    pub deaf_clients: HashSet<usize>,
    /// What names resolve to.
    pub names: HashMap<String, Vec<IpAddr>>,
    waiting: Vec<(usize, DialId)>,
    next_port: u16,
    next_conn: u64,
    /// The largest piece in which bytes arrive; 0: whole.
    pub split: usize,
    /// Servers write no more than they have been asked; links hold at most this many bytes per direction before writers wait.
    pub window: usize,
    /// Dials made so far, by target.
    pub dials: Vec<Target>,
    /// Where they came from: the address that was bound, whether it is a client's, the mark.
    pub sources: Vec<(Option<IpAddr>, bool, u32)>,
    /// Resources that proxies have asked for: the proxy, the question, the resource.
    asked: Vec<(usize, WaitId, String)>,
    /// What the proxies' calls for the control thread were answered, by number.
    pub answers: Vec<(u64, CallAnswer)>,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("now", &self.now).field("links", &self.links.len()).finish_non_exhaustive()
    }
}

impl Sim {
    /// The resources that a proxy has asked for so far: kind and name.
    pub fn asked(&self, proxy: usize) -> Vec<&str> {
        self.asked.iter().filter(|(at, ..)| *at == proxy).map(|(.., what)| &**what).collect()
    }

    /// Tells a proxy that there is no such resource, by how [`Sim::asked`] names it.
    pub fn absent(&mut self, proxy: usize, what: &str) {
        let asked = self.asked.iter().filter(|(at, _, name)| *at == proxy && name == what).map(|(_, wait, _)| *wait);
        for wait in asked.collect::<Vec<_>>() {
            self.command(proxy, Command::Answer(wait, Answer::Absent));
        }
    }

    /// An empty network at `wall`.
    pub fn new(seed: u64, wall: Duration) -> Sim {
        Sim {
            now: Now { mono: Duration::from_secs(1), wall },
            rng: Rng::new(seed),
            hosts: Vec::new(),
            links: Vec::new(),
            clients: Vec::new(),
            servers: HashMap::new(),
            buffers: HashMap::new(),
            refused: HashSet::new(),
            silent: HashSet::new(),
            deaf_servers: HashSet::new(),
            deaf_clients: HashSet::new(),
            names: HashMap::new(),
            waiting: Vec::new(),
            next_port: 30_000,
            next_conn: 0,
            split: 0,
            window: 256 * 1024,
            dials: Vec::new(),
            sources: Vec::new(),
            asked: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Adds a proxy at an address. What is dialled at that address comes to its listener `virtualInbound`.
    pub fn proxy(&mut self, ip: &str, node: Node, config: Arc<Config>) -> usize {
        self.worker(ip, node, config, Arc::default())
    }

    /// The same with the state of a process, of which it is one worker.
    pub fn worker(&mut self, ip: &str, node: Node, config: Arc<Config>, shared: Arc<Shared>) -> usize {
        let options = Options { node, limits: Default::default(), seed: self.rng.next(), shared, mark: 1337 };
        let ip = ip.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        self.hosts.push(Host { ip, worker: Worker::new(options, config, self.now), stopped: HashSet::new(), log: Vec::new() });
        self.hosts.len() - 1
    }

    /// Adds a server.
    pub fn serve(&mut self, address: &str, serve: Serve) {
        if let Ok(address) = address.parse() {
            self.servers.insert(address, serve);
        }
    }

    /// Removes a server; its connections are cut.
    pub fn stop(&mut self, address: &str) {
        let Ok(address) = address.parse::<SocketAddr>() else { return };
        self.servers.remove(&address);
        for link in &mut self.links {
            if matches!(link.ends[1], End::Server(a, _) if a == address) {
                link.cut = true;
            }
        }
        self.refused.insert(address);
        self.run();
    }

    /// A program beside a proxy connects to `to`; the capture hands it to the proxy's listener `virtualOutbound`.
    pub fn connect(&mut self, proxy: usize, to: &str) -> usize {
        self.connect_by(proxy, "virtualOutbound", to)
    }

    /// A program connects to a proxy's listener.
    pub fn connect_by(&mut self, proxy: usize, listener: &str, to: &str) -> usize {
        let ip = self.hosts.get(proxy).map_or(IpAddr::from([127, 0, 0, 1]), |h| h.ip);
        let from = SocketAddr::new(ip, self.port());
        self.connect_from(proxy, listener, from, to)
    }

    /// The same from a given address.
    pub fn connect_from(&mut self, proxy: usize, listener: &str, from: SocketAddr, to: &str) -> usize {
        let original: Option<SocketAddr> = to.parse().ok();
        let client = self.clients.len();
        self.clients.push(Client::default());
        if let Some(host) = self.hosts.get_mut(proxy) {
            host.worker.tick(self.now);
            let local = original.unwrap_or(from);
            let conn = host.worker.accept(&listener.into(), Accepted { peer: from, local, original });
            self.link(End::Client(client), End::Worker(proxy, conn));
        }
        self.turn_all();
        client
    }

    /// Sends bytes as a client.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        if let Some(link) = self.links.iter_mut().find(|l| l.ends[0] == End::Client(client)) {
            link.pipes[0].bytes.extend(bytes);
        }
    }

    /// Ends a client's sending.
    pub fn finish(&mut self, client: usize) {
        if let Some(link) = self.links.iter_mut().find(|l| l.ends[0] == End::Client(client)) {
            link.pipes[0].fin = true;
        }
    }

    /// A client goes away.
    pub fn abort(&mut self, client: usize) {
        if let Some(link) = self.links.iter_mut().find(|l| l.ends[0] == End::Client(client)) {
            link.cut = true;
        }
    }

    /// Takes what a client has received.
    pub fn received(&mut self, client: usize) -> Vec<u8> {
        self.clients.get_mut(client).map(|c| std::mem::take(&mut c.received)).unwrap_or_default()
    }

    /// How a client's connection was ended by the other side.
    pub fn ended(&self, client: usize) -> Option<Eof> {
        self.clients.get(client).and_then(|c| c.ended)
    }

    /// Takes a proxy's log.
    pub fn log(&mut self, proxy: usize) -> String {
        self.hosts.get_mut(proxy).map(|h| String::from_utf8_lossy(&std::mem::take(&mut h.log)).into_owned()).unwrap_or_default()
    }

    /// Gives a proxy a command.
    pub fn command(&mut self, proxy: usize, command: Command) {
        if let Some(host) = self.hosts.get_mut(proxy) {
            host.worker.tick(self.now);
            host.worker.command(command);
        }
        self.turn_all();
    }

    /// Gives a proxy several commands at once.
    #[cfg(test)]
    pub(crate) fn commands(&mut self, proxy: usize, commands: impl IntoIterator<Item = Command>) {
        if let Some(host) = self.hosts.get_mut(proxy) {
            host.worker.tick(self.now);
            commands.into_iter().for_each(|command| host.worker.command(command));
        }
        self.turn_all();
    }

    /// A proxy's counters.
    pub fn snapshot(&mut self, proxy: usize) -> Snapshot {
        let Some(host) = self.hosts.get_mut(proxy) else { return Snapshot::default() };
        host.worker.command(Command::Snapshot(7));
        let mut actions = Vec::new();
        host.worker.turn(&mut actions);
        let mut found = Snapshot::default();
        let mut rest = Vec::new();
        for action in actions {
            match action {
                Action::Snapshot(7, snapshot) => found = *snapshot,
                other => rest.push(other),
            }
        }
        self.act(proxy, rest);
        found
    }

    /// Has a server look at its connections though nothing has come.
    pub fn poke(&mut self, address: &str) {
        let Ok(address) = address.parse::<SocketAddr>() else { return };
        let ids: Vec<u64> = self.buffers.keys().filter(|(at, _)| *at == address).map(|(_, id)| *id).collect();
        for id in ids {
            self.server(address, id, false);
        }
    }

    /// Dials that neither end nor were taken back.
    pub fn dialing(&self) -> usize {
        self.waiting.len()
    }

    /// Connections of a proxy.
    pub fn connections(&self, proxy: usize) -> usize {
        self.hosts.get(proxy).map_or(0, |h| h.worker.connections())
    }

    /// The sizes of a proxy's tables.
    #[cfg(test)]
    pub(crate) fn sizes(&self, proxy: usize) -> Vec<(&'static str, usize)> {
        self.hosts.get(proxy).map(|h| h.worker.sizes()).unwrap_or_default()
    }

    /// A proxy's breaker guards by limit, and its connections to servers, each of which has one of them.
    #[cfg(test)]
    pub(crate) fn guards(&self, proxy: usize) -> Option<([u32; 4], u32)> {
        self.hosts.get(proxy).map(|h| h.worker.guards())
    }

    /// The clock.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Moves bytes until nothing moves. The clock stands.
    pub fn run(&mut self) {
        self.turn_all();
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < STEPS, "there is no end to what moves: {STEPS} steps");
        }
    }

    /// Lets time go by, stopping at every deadline on the way.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now.mono + time;
        self.run();
        loop {
            let next = self.hosts.iter().filter_map(|h| h.worker.deadline()).min().filter(|at| *at <= end).unwrap_or(end);
            let step = next.saturating_sub(self.now.mono);
            self.now.mono += step;
            self.now.wall += step;
            self.run();
            if self.now.mono >= end && self.hosts.iter().all(|h| h.worker.deadline().is_none_or(|at| at > end)) {
                return;
            }
        }
    }

    fn port(&mut self) -> u16 {
        self.next_port = self.next_port.wrapping_add(1).max(30_000);
        self.next_port
    }

    fn link(&mut self, a: End, b: End) {
        self.links.push(Link { ends: [a, b], pipes: Default::default(), cut: false });
    }

    fn turn_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.turn(host);
        }
    }

    fn turn(&mut self, host: usize) {
        for _ in 0..10_000 {
            let Some(h) = self.hosts.get_mut(host) else { return };
            h.worker.tick(self.now);
            let mut actions = Vec::new();
            h.worker.turn(&mut actions);
            let over = h.worker.over_bound();
            assert!(over.is_none(), "a buffer without bound: {over:?}");
            let idle = actions.is_empty() && !h.worker.ready() && !h.worker.handshakes_wait();
            self.act(host, actions);
            if idle {
                return;
            }
        }
    }

    fn act(&mut self, host: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Dial(dial) => {
                    self.dials.push(dial.target.clone());
                    self.sources.push((dial.source, dial.transparent, dial.mark));
                    self.dial(host, dial.id, &dial.target, dial.source);
                }
                Action::Cancel(id) => self.waiting.retain(|(h, d)| (*h, *d) != (host, id)),
                Action::Write(conn) => self.write(host, conn),
                Action::Read(conn, on) => {
                    if let Some(h) = self.hosts.get_mut(host) {
                        if on {
                            h.stopped.remove(&conn)
                        } else {
                            h.stopped.insert(conn)
                        };
                    }
                }
                Action::Close(conn, how) => self.close(host, conn, how),
                Action::Ask(id, Question::Dns { host: name }, _) => {
                    let addresses = self.names.get(&*name).cloned();
                    let ttl = Duration::from_secs(30);
                    let answer = addresses.map_or(Answer::Absent, |addresses| Answer::Dns { addresses, ttl });
                    if let Some(h) = self.hosts.get_mut(host) {
                        h.worker.command(Command::Answer(id, answer));
                    }
                }
                // Answered by the next configuration that has it.
                Action::Ask(wait, Question::Resource { kind, name }, _) => self.asked.push((host, wait, format!("{kind:?} {name}"))),
                Action::Log(_, lines) => {
                    if let Some(h) = self.hosts.get_mut(host) {
                        h.log.extend(lines);
                    }
                }
                Action::Answer(number, answer) => self.answers.push((number, *answer)),
                Action::Snapshot(..) | Action::Dispose(_) => {}
            }
        }
    }

    fn dial(&mut self, host: usize, id: DialId, target: &Target, source: Option<IpAddr>) {
        let Target::Tcp(to) = target else { return };
        if self.silent.contains(to) {
            self.waiting.push((host, id));
            return;
        }
        let own = self.hosts.get(host).map_or(IpAddr::from([0, 0, 0, 0]), |h| h.ip);
        let from = SocketAddr::new(source.unwrap_or(own), self.port());
        // What a proxy dials at its own address is its application; elsewhere another proxy captures it.
        let other = self.hosts.iter().position(|h| h.ip == to.ip()).filter(|o| *o != host && !self.refused.contains(to));
        let known = self.servers.contains_key(to) && !self.refused.contains(to);
        if other.is_none() && !known {
            if let Some(h) = self.hosts.get_mut(host) {
                h.worker.dialed(id, Err(DialError("Connection refused".to_owned())));
            }
            return;
        }
        let Some(h) = self.hosts.get_mut(host) else { return };
        let Some(conn) = h.worker.dialed(id, Ok(Addrs { local: from, peer: *to })) else { return };
        match other {
            Some(other) => {
                let Some(h) = self.hosts.get_mut(other) else { return };
                h.worker.tick(self.now);
                let local = SocketAddr::new(h.ip, 15006);
                let theirs = h.worker.accept(&"virtualInbound".into(), Accepted { peer: from, local, original: Some(*to) });
                self.link(End::Worker(host, conn), End::Worker(other, theirs));
            }
            None => {
                self.next_conn += 1;
                self.link(End::Worker(host, conn), End::Server(*to, self.next_conn));
                // A server may speak first.
                self.server(*to, self.next_conn, false);
            }
        }
    }

    fn find(&self, end: End) -> Option<(usize, usize)> {
        self.links.iter().enumerate().find_map(|(at, link)| link.ends.iter().position(|e| *e == end).map(|side| (at, side)))
    }

    fn write(&mut self, host: usize, conn: ConnId) {
        let Some((at, side)) = self.find(End::Worker(host, conn)) else { return };
        let window = self.window;
        let (Some(link), Some(h)) = (self.links.get_mut(at), self.hosts.get_mut(host)) else { return };
        let Some(pipe) = link.pipes.get_mut(side) else { return };
        let room = window.saturating_sub(pipe.bytes.len());
        let pending = h.worker.pending(conn);
        let n = pending.len().min(room);
        pipe.bytes.extend(pending.get(..n).unwrap_or_default());
        h.worker.wrote(conn, n);
    }

    fn close(&mut self, host: usize, conn: ConnId, how: How) {
        let Some((at, side)) = self.find(End::Worker(host, conn)) else { return };
        let Some(link) = self.links.get_mut(at) else { return };
        match how {
            How::Write | How::Close => {
                if let Some(pipe) = link.pipes.get_mut(side) {
                    pipe.fin = true;
                }
            }
            How::Reset => link.cut = true,
        }
    }

    fn server(&mut self, address: SocketAddr, conn: u64, eof: bool) {
        let end = End::Server(address, conn);
        let Some(serve) = self.servers.get_mut(&address) else { return };
        let input = self.buffers.entry((address, conn)).or_default();
        let mut out = Vec::new();
        let close = serve(conn, input, eof, &mut out);
        if let Some((at, side)) = self.find(end)
            && let Some(pipe) = self.links.get_mut(at).and_then(|l| l.pipes.get_mut(side))
        {
            if !pipe.fin {
                pipe.bytes.extend(out);
            }
            pipe.fin |= close;
        }
    }

    /// Delivers one piece of one stream; false if there is nothing to deliver.
    fn step(&mut self) -> bool {
        let mut ready = Vec::new();
        for (at, link) in self.links.iter().enumerate() {
            for side in 0..2 {
                let (Some(pipe), Some(to)) = (link.pipes.get(side), link.ends.get(1 - side)) else { continue };
                let stopped = match to {
                    End::Worker(host, conn) => self.hosts.get(*host).is_some_and(|h| h.stopped.contains(conn)),
                    End::Client(client) => self.deaf_clients.contains(client),
                    End::Server(address, _) => self.deaf_servers.contains(address),
                };
                let news = (!pipe.bytes.is_empty() && !stopped) || (pipe.fin && !pipe.fin_told && pipe.bytes.is_empty()) || link.cut;
                if news {
                    ready.push((at, side));
                }
            }
        }
        if ready.is_empty() {
            return false;
        }
        let (at, side) = ready.get((self.rng.next() % ready.len() as u64) as usize).copied().unwrap_or_default();
        self.deliver(at, side);
        true
    }

    fn deliver(&mut self, at: usize, side: usize) {
        let most = self.split;
        let piece = if most == 0 { usize::MAX } else { 1 + (self.rng.next() % most as u64) as usize };
        let Some(link) = self.links.get_mut(at) else { return };
        let ends = link.ends;
        if link.cut {
            self.links.swap_remove(at);
            for end in ends {
                self.tell(end, Some(Eof::Reset));
            }
            return;
        }
        let (Some(from), Some(to)) = (ends.get(side).copied(), ends.get(1 - side).copied()) else { return };
        let Some(pipe) = link.pipes.get_mut(side) else { return };
        let n = piece.min(pipe.bytes.len()).min(64 * 1024);
        let mut bytes: Vec<u8> = pipe.bytes.drain(..n).collect();
        let taken = self.offer(to, &mut bytes);
        let Some(link) = self.links.get_mut(at) else { return };
        let Some(pipe) = link.pipes.get_mut(side) else { return };
        // What was not taken is presented again.
        for byte in bytes.drain(..).skip(taken).rev() {
            pipe.bytes.push_front(byte);
        }
        let fin = pipe.fin && pipe.bytes.is_empty() && !pipe.fin_told;
        pipe.fin_told |= fin;
        let over = link.pipes.iter().all(|p| p.fin_told);
        if over {
            self.links.swap_remove(at);
        }
        self.tell(to, fin.then_some(Eof::Half));
        if let End::Worker(host, conn) = from {
            self.write(host, conn);
            self.turn(host);
        }
    }

    /// Presents bytes, and returns how many were taken; `tell` has them acted upon.
    fn offer(&mut self, to: End, bytes: &mut [u8]) -> usize {
        match to {
            End::Client(client) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.received.extend_from_slice(bytes);
                }
            }
            End::Server(address, conn) => self.buffers.entry((address, conn)).or_default().extend_from_slice(bytes),
            End::Worker(host, conn) => {
                if let Some(h) = self.hosts.get_mut(host).filter(|_| !bytes.is_empty()) {
                    h.worker.tick(self.now);
                    let room = h.worker.room(conn).min(bytes.len());
                    // As a driver does with much: into the connection's own buffer.
                    let lent = if bytes.len() % 2 == 1 { h.worker.lend(conn, room) } else { None };
                    let taken = match lent {
                        Some(mut buffer) => {
                            buffer.extend(bytes.iter().take(room));
                            h.worker.filled(conn, buffer, room);
                            room
                        }
                        None => h.worker.bytes(conn, bytes),
                    };
                    assert_eq!(taken, room, "what there is room for is taken");
                    if taken < bytes.len() {
                        h.stopped.insert(conn);
                    }
                    return taken;
                }
            }
        }
        bytes.len()
    }

    /// Has what was presented acted upon, and the end as well if it has come.
    fn tell(&mut self, to: End, eof: Option<Eof>) {
        match to {
            End::Client(client) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.ended = client.ended.or(eof);
                }
            }
            End::Server(address, conn) => self.server(address, conn, eof.is_some()),
            End::Worker(host, conn) => {
                if let Some(h) = self.hosts.get_mut(host) {
                    h.worker.tick(self.now);
                    if let Some(eof) = eof {
                        h.worker.ended(conn, eof);
                    }
                }
                self.turn(host);
            }
        }
    }
}
