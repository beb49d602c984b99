//! One worker's thread.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mizzen_engine::{Accepted, Action, Addrs, Command, ConnId, Dial, DialError, DialId, Eof, How, Options, Target, Worker};
use mizzen_ir::Config;
use mizzen_net::ListenOptions;
use mizzen_types::Name;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    runtime::LocalOptions,
    sync::mpsc,
    task::{AbortHandle, spawn_local},
};

use super::{
    Order, Report,
    listening::Listening,
    shared::Shared,
    sockets::{self, Socket, Stream},
};

/// What a worker starts with.
pub(super) struct Start {
    pub(super) number: usize,
    /// Whether several workers share each listening address.
    pub(super) several: bool,
    pub(super) options: Options,
    pub(super) config: Arc<Config>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
}

/// One worker: the engine, its sockets and dials, and the listening sockets. Nothing borrows across an await.
struct Driver {
    number: usize,
    several: bool,
    shared: Rc<Shared>,
    sockets: RefCell<HashMap<ConnId, Rc<Socket>>>,
    dials: RefCell<HashMap<DialId, AbortHandle>>,
    /// Tasks that accept, by address; several sockets may share one (inherited).
    accepting: RefCell<BTreeMap<SocketAddr, Vec<Accepting>>>,
    config: RefCell<Arc<Config>>,
    /// What is to be listened on.
    listening: RefCell<Listening>,
    /// What could not be opened, and why.
    failed: RefCell<BTreeMap<SocketAddr, String>>,
    reports: mpsc::UnboundedSender<Report>,
    draining: Cell<bool>,
    /// The control thread knows that the draining is over.
    reported_idle: Cell<bool>,
}

struct Accepting {
    task: AbortHandle,
    inherited: bool,
}

/// Orders taken in one go, so that a burst of them cannot stall the traffic.
const ORDERS: usize = 64;
/// Turns without looking at the sockets: an engine that is always ready would starve them.
const TURNS: usize = 16;

pub(super) fn run(start: Start, orders: mpsc::UnboundedReceiver<Order>) {
    // Not a `LocalSet`: it is one task of its runtime, so that each of its own tasks that is woken by a socket would wake the thread too, by a
    // write to an eventfd.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker cannot start");
            return;
        }
    };
    runtime.block_on(Driver::run(start, orders));
}

impl Driver {
    async fn run(start: Start, mut orders: mpsc::UnboundedReceiver<Order>) {
        let shared = Shared::new(|now| Worker::new(start.options, start.config.clone(), now));
        let driver = Rc::new(Driver {
            number: start.number,
            several: start.several,
            shared: Rc::new(shared),
            sockets: RefCell::default(),
            dials: RefCell::default(),
            accepting: RefCell::default(),
            config: RefCell::default(),
            listening: RefCell::default(),
            failed: RefCell::default(),
            reports: start.reports,
            draining: Cell::new(false),
            reported_idle: Cell::new(false),
        });
        driver.follow(start.config);
        let mut flusher = spawn_local(driver.clone().flush());
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                // It never ends but by a panic, which has been printed.
                _ = &mut flusher => {
                    driver.report(Report::Died { worker: driver.number });
                    return;
                }
            };
            let Some(order) = order else { break };
            let more = std::iter::from_fn(|| orders.try_recv().ok()).take(ORDERS);
            let go_on = std::iter::once(order).chain(more).all(|order| driver.order(order));
            if !go_on {
                break;
            }
            driver.shared.due.tell();
        }
        flusher.abort();
    }

    /// Returns whether to go on.
    fn order(self: &Rc<Self>, order: Order) -> bool {
        match order {
            Order::Command(command) => {
                let config = if let Command::Config(config) = &command { Some(config.clone()) } else { None };
                self.shared.worker().command(command);
                if let Some(config) = config {
                    self.follow(config);
                }
            }
            Order::Inherited(address, socket) => self.inherit(address, socket),
            Order::Disinherited(address) => self.disinherit(&address),
            Order::Reopen => {
                let all = self.listening.borrow().addresses();
                self.listen(all);
            }
            Order::Farewell(listener) => {
                let listening = self.listening.borrow();
                let open = listening.addresses().into_iter().filter_map(|address| listening.at(&address).map(|(name, _)| name.clone()));
                let names: BTreeSet<Name> = open.filter(|name| listener.as_ref().is_none_or(|only| only == name)).collect();
                names.into_iter().for_each(|name| self.shared.worker().command(Command::Drain(Some(name))));
            }
            Order::Drain => {
                self.draining.set(true);
                self.reported_idle.set(false);
                self.stop_accepting(|_| true);
                self.shared.worker().command(Command::Drain(None));
            }
            Order::Stop => return false,
        }
        true
    }

    /// Takes turns whenever something has happened or is due.
    async fn flush(self: Rc<Self>) {
        // One timer, set anew only where the deadline is another one: it mostly stays from turn to turn.
        let mut sleep = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut set = None;
        loop {
            let deadline = self.shared.deadline();
            if let Some(at) = deadline
                && set != deadline
            {
                sleep.as_mut().reset(at.into());
                set = deadline;
            }
            tokio::select! {
                biased;
                () = self.shared.due.told() => {}
                () = &mut sleep, if deadline.is_some() => set = None,
            }
            // Whatever else is ready is read first, so that one turn serves all of it.
            tokio::task::yield_now().await;
            for _ in 0..TURNS {
                self.turn();
                if !self.shared.ready() {
                    break;
                }
            }
            if self.shared.ready() || self.shared.handshakes_wait() {
                self.shared.due.tell();
            }
            // Idle connections to upstreams need not be waited for.
            if self.draining.get() && !self.reported_idle.get() && !self.sockets.borrow().values().any(|socket| socket.accepted) {
                self.reported_idle.set(true);
                self.report(Report::Idle { worker: self.number });
            }
        }
    }

    fn turn(self: &Rc<Self>) {
        for id in self.shared.broken.take() {
            tracing::error!(?id, "a connection is given up after a fault of our own");
            self.sockets.borrow_mut().remove(&id);
            self.shared.worker().ended(id, Eof::Error);
        }
        let mut actions = Vec::new();
        self.shared.worker().turn(&mut actions);
        for action in actions {
            self.act(action);
        }
        self.shared.turned();
    }

    fn act(self: &Rc<Self>, action: Action) {
        match action {
            Action::Dial(dial) => self.dial(dial),
            Action::Cancel(id) => {
                if let Some(task) = self.dials.borrow_mut().remove(&id) {
                    task.abort();
                }
            }
            Action::Write(id) => {
                let socket = self.sockets.borrow().get(&id).cloned();
                if let Some(socket) = socket {
                    sockets::write(&self.shared, id, &socket);
                }
            }
            Action::Read(id, on) => {
                if let Some(socket) = self.sockets.borrow().get(&id) {
                    socket.read(on);
                }
            }
            Action::Close(id, How::Write) => {
                if let Some(socket) = self.sockets.borrow().get(&id) {
                    socket.shut();
                }
            }
            Action::Close(id, how) => {
                let socket = self.sockets.borrow_mut().remove(&id);
                if let Some(socket) = socket {
                    socket.close(how == How::Reset);
                }
            }
            Action::Ask(wait, question, why) => self.report(Report::Ask { worker: self.number, wait, question, why }),
            Action::Log(file, bytes) => self.report(Report::Log(file, bytes)),
            Action::Snapshot(request, snapshot) => self.report(Report::Snapshot { worker: self.number, request, snapshot }),
            // Nobody on the control thread calls yet.
            Action::Answer(number, _) => tracing::debug!(number, "a call was answered that nobody waits for"),
            Action::Dispose(config) => self.report(Report::Dispose(config)),
        }
    }

    fn report(&self, report: Report) {
        // Without a control thread the process is about to end.
        let _ = self.reports.send(report);
    }

    /// Takes a configuration over: what it changed in listeners' addresses, and what could not be opened before, is looked at.
    fn follow(self: &Rc<Self>, config: Arc<Config>) {
        let old = self.config.replace(config.clone());
        let mut touched = self.listening.borrow_mut().follow(&old, &config);
        touched.extend(self.failed.borrow().keys());
        self.listen(touched);
    }

    /// Opens those of these sockets that are wanted and closes those that are not.
    fn listen(self: &Rc<Self>, addresses: BTreeSet<SocketAddr>) {
        let (listening, mut failed) = (self.listening.borrow(), self.failed.borrow_mut());
        let is_gone = |address: &SocketAddr| addresses.contains(address) && listening.at(address).is_none();
        if addresses.iter().any(is_gone) {
            self.stop_accepting(is_gone);
        }
        for address in &addresses {
            failed.remove(address);
            let Some((_, options)) = listening.at(address).filter(|_| !self.draining.get()) else { continue };
            if self.accepting.borrow().get(address).is_some_and(|sockets| sockets.iter().any(|s| !s.inherited)) {
                continue;
            }
            let options = ListenOptions { reuse_port: self.several, ..options.clone() };
            match mizzen_net::listen(*address, &options).and_then(TcpListener::from_std) {
                Ok(socket) => self.accept_from(*address, socket, false),
                Err(error) => drop(failed.insert(*address, error.to_string())),
            }
        }
        let failed = failed.iter().map(|(address, reason)| (*address, reason.clone())).collect();
        self.report(Report::Listening { worker: self.number, generation: self.config.borrow().generation, failed });
    }

    fn inherit(self: &Rc<Self>, address: SocketAddr, socket: std::net::TcpListener) {
        let listener = socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket));
        match listener {
            Ok(listener) => self.accept_from(address, listener, true),
            Err(error) => tracing::error!(%address, %error, "an inherited socket cannot be used"),
        }
    }

    fn disinherit(&self, address: &SocketAddr) {
        if let Some(sockets) = self.accepting.borrow_mut().get_mut(address) {
            sockets.retain(|socket| {
                if socket.inherited {
                    socket.task.abort();
                }
                !socket.inherited
            });
        }
    }

    fn accept_from(self: &Rc<Self>, address: SocketAddr, socket: TcpListener, inherited: bool) {
        let task = spawn_local(self.clone().accept(address, socket)).abort_handle();
        self.accepting.borrow_mut().entry(address).or_default().push(Accepting { task, inherited });
    }

    /// Inherited sockets stay: their listener may come back, and nobody could open them again.
    fn stop_accepting(&self, which: impl Fn(&SocketAddr) -> bool) {
        let draining = self.draining.get();
        self.accepting.borrow_mut().retain(|address, sockets| {
            if which(address) {
                sockets.retain(|socket| {
                    let stays = socket.inherited && !draining;
                    if !stays {
                        socket.task.abort();
                    }
                    stays
                });
            }
            !sockets.is_empty()
        });
    }

    async fn accept(self: Rc<Self>, address: SocketAddr, socket: TcpListener) {
        loop {
            let (stream, peer) = match socket.accept().await {
                Ok(accepted) => accepted,
                // The client has given up already, or descriptors are short for a moment.
                Err(error) if is_passing(&error) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%address, %error, "a listener cannot accept any more");
                    return;
                }
            };
            let found = self.listening.borrow().at(&address).map(|(name, _)| name.clone());
            let Some(listener) = found else { continue };
            if let Err(error) = self.accepted(&listener, stream, peer) {
                tracing::debug!(%address, %error, "a connection went away while it was accepted");
            }
        }
    }

    fn accepted(self: &Rc<Self>, listener: &Name, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let accepted = Accepted { peer, local: stream.local_addr()?, original: mizzen_net::original_dst(&stream) };
        let id = self.shared.worker().accept(listener, accepted);
        self.register(id, Stream::Tcp(stream), true);
        Ok(())
    }

    fn register(self: &Rc<Self>, id: ConnId, stream: Stream, accepted: bool) {
        let socket = Rc::new(Socket::new(stream, accepted));
        self.sockets.borrow_mut().insert(id, socket.clone());
        let driver = self.clone();
        spawn_local(sockets::serve(self.shared.clone(), id, socket, move || driver.turn()));
        self.shared.due.tell();
    }

    fn dial(self: &Rc<Self>, dial: Dial) {
        let (driver, id) = (self.clone(), dial.id);
        let task = spawn_local(async move {
            let result = connect(&dial).await;
            driver.dials.borrow_mut().remove(&id);
            let (stream, result) = match result {
                Ok((stream, addrs)) => (Some(stream), Ok(addrs)),
                Err(error) => (None, Err(DialError(error.to_string()))),
            };
            let conn = driver.shared.worker().dialed(id, result);
            if let (Some(conn), Some(stream)) = (conn, stream) {
                driver.register(conn, stream, false);
            }
            driver.shared.due.tell();
        });
        self.dials.borrow_mut().insert(id, task.abort_handle());
    }
}

/// Errors of `accept` that concern one connection, or a shortage that passes.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    // ENFILE and EMFILE, ENOBUFS, ENOMEM have no kind of their own.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
        || matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}

async fn connect(dial: &Dial) -> io::Result<(Stream, Addrs)> {
    match &dial.target {
        Target::Tcp(address) => {
            let options = mizzen_net::ConnectOptions {
                mark: (dial.mark != 0).then_some(dial.mark),
                source: dial.source,
                transparent: dial.transparent,
                // The engine bounds the time.
                timeout: Duration::from_secs(3600),
                keepalive: None,
            };
            let stream = mizzen_net::connect(*address, &options).await?;
            if let Some(keepalive) = dial.keepalive {
                let mut wanted = socket2::TcpKeepalive::new();
                wanted = keepalive.idle.map_or(wanted.clone(), |t| wanted.clone().with_time(t));
                wanted = keepalive.interval.map_or(wanted.clone(), |t| wanted.clone().with_interval(t));
                wanted = keepalive.probes.map_or(wanted.clone(), |n| wanted.clone().with_retries(n));
                SockRef::from(&stream).set_tcp_keepalive(&wanted)?;
            }
            let addrs = Addrs { local: stream.local_addr()?, peer: stream.peer_addr()? };
            Ok((Stream::Tcp(stream), addrs))
        }
        Target::Internal(listener, _) => Err(io::Error::other(format!("the internal listener `{listener}` has no socket"))),
        Target::Pipe(path) => {
            let stream = UnixStream::connect(path).await?;
            let none = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
            Ok((Stream::Unix(stream), Addrs { local: none, peer: none }))
        }
    }
}
