//! The control thread: resources in, configurations out to the workers; answers to their questions; the admin interface; the end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mizzen_engine::{Answer, Question, WaitId, lb::Shared, metrics::Snapshot};
use mizzen_ir::{Config, ResourceKind, config::ListenerAddress};
use mizzen_protos::{Any, envoy::envoy::config::bootstrap::v3::Bootstrap};
use mizzen_types::Name;
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    admin::{self, Admin, Control, Fetched, Known, Levels, Process, Query, Stage, View},
    bootstrap::Plan,
    dns::{self, Resolver},
    driver::{Report, Workers},
    error::BootstrapError,
    fixed::Fixed,
    inherited::{self, Inherited},
    logs::Logs,
    on_demand::Demand,
    options::Options,
    secrets,
    sources::Sources,
    store::{Entry, Kept, Store},
    text::Places,
};

/// Why the data plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bootstrap cannot be used.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A worker has panicked: what it carried is lost, and the process must begin anew.
    #[error("a worker has died")]
    Worker,
    /// Something that must be open is not.
    #[error("{what}: {error}")]
    Io {
        /// What.
        what: &'static str,
        /// The system's words.
        error: io::Error,
    },
}

/// Events that are taken together before the next configuration is made of them.
const BURST: usize = 256;
/// Sockets that could not be opened are tried again after this.
const REOPEN: Duration = Duration::from_secs(1);
/// How long no configuration has come before memory is given back: while they come one after the other it is needed again.
const SETTLED: Duration = Duration::from_secs(2);
/// How often connections that have come since the order to stop are asked to end.
const LOOK: Duration = Duration::from_secs(1);
/// The listener of a sidecar on which others call.
const INBOUND: &str = "virtualInbound";

/// Runs a proxy by this bootstrap until `shutdown` resolves and connections have drained.
///
/// # Errors
/// If it cannot start, or a worker dies by a fault of its own; nothing else but `shutdown` ends it.
pub async fn run(bootstrap: Bootstrap, options: Options, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let kept = Kept::new(bootstrap.encode_to_vec());
    let plan = Plan::new(bootstrap)?;
    for field in &plan.unused {
        tracing::warn!(place = options.places.at(field), field, "it does nothing here");
    }
    let mut proxy = Proxy::start(Arc::new(kept), plan, options)?;
    proxy.until(shutdown).await;
    if proxy.farewell().await {
        proxy.drain().await;
    }
    let dead = proxy.dead;
    proxy.end().await;
    if dead { Err(RunError::Worker) } else { Ok(()) }
}

struct Proxy {
    options: Options,
    store: Store,
    /// Resources of the bootstrap.
    fixed: BTreeSet<(ResourceKind, Name)>,
    /// Those of them that cannot be used, and why.
    faults: BTreeMap<(ResourceKind, Name), String>,
    /// Secrets of the bootstrap whose files have changed.
    changes: mpsc::Receiver<(Name, Result<Any, String>)>,
    sources: Sources,
    streams: mpsc::Receiver<(crate::sources::Source, crate::ads::Happened)>,
    workers: Workers,
    reports: mpsc::UnboundedReceiver<Report>,
    queries: mpsc::Receiver<Query>,
    answers: (mpsc::UnboundedSender<Answered>, mpsc::UnboundedReceiver<Answered>),
    inherited: mpsc::Receiver<Inherited>,
    resolver: Resolver,
    /// Questions for resources that are not answered yet.
    pending: Vec<(usize, WaitId, ResourceKind, Name)>,
    scrapes: Scrapes,
    /// What is counted for all workers together.
    shared: Arc<Shared>,
    /// Listeners that may have so many connections, and that have not been seen yet.
    limited: BTreeSet<Name>,
    logs: (Logs, std::thread::JoinHandle<()>),
    process: Process,
    stage: watch::Sender<Stage>,
    /// For each worker, the configuration whose listeners are open, and those that could not be opened.
    listening: BTreeMap<usize, (u64, Vec<(SocketAddr, String)>)>,
    idle: BTreeSet<usize>,
    /// When the resources were looked at last.
    refreshed: Duration,
    /// When sockets that could not be opened are tried again.
    reopen: Option<Duration>,
    /// When memory that only making a configuration has needed is given back.
    release: Option<Duration>,
    /// The listener whose connections are asked to end first; `None`: all.
    farewell_to: Option<Name>,
    /// A worker is dead.
    dead: bool,
    pages: Vec<tokio::task::AbortHandle>,
    /// For dumps.
    bootstrap: Arc<Kept>,
    clock: (Instant, SystemTime),
}

/// The answer to a worker's question.
type Answered = (usize, WaitId, Answer);

/// Scrapes that wait for the workers' numbers.
#[derive(Default)]
struct Scrapes {
    last: u64,
    open: HashMap<u64, (usize, Snapshot, oneshot::Sender<Snapshot>)>,
}

/// What happened.
enum Happening {
    Stream(crate::sources::Source, crate::ads::Happened),
    Report(Report),
    Query(Query),
    Answered(Answered),
    Inherited(Inherited),
    Secret(Name, Result<Any, String>),
    Due,
}

impl Proxy {
    fn start(bootstrap: Arc<Kept>, mut plan: Plan, mut options: Options) -> Result<Proxy, RunError> {
        let failed = |what: &'static str| move |error: io::Error| RunError::Io { what, error };
        let clock = (Instant::now(), SystemTime::now());
        let Fixed { mut store, names: fixed, faults, secrets } = Fixed::new(&mut plan, &options.places);
        // Where what the bootstrap says was written is not asked any more.
        options.places = Places::default();
        let process = Process::default();
        let (reporter, reports) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::limited(&plan.connections));
        let engine = mizzen_engine::Options {
            node: plan.engine_node(),
            limits: options.limits.clone(),
            seed: seed(clock.1),
            shared: shared.clone(),
            mark: options.mark,
        };
        let config = store.next(Duration::ZERO).unwrap_or_else(|| store.config().clone());
        let workers = Workers::start(options.workers, &engine, &config, &reporter).map_err(failed("workers"))?;
        let (sources, streams) = Sources::new(&plan, process.clone(), &options);
        let (asker, queries) = mpsc::channel(64);
        // The program of a sidecar goes on calling others until it ends.
        let is_sidecar = plan.node.id.starts_with("sidecar~");
        let (stage, stage_seen) = watch::channel(Stage::Initializing);
        let admin = Admin {
            control: Control(asker),
            bootstrap: bootstrap.clone(),
            stage: stage_seen,
            started: clock.0,
            version: options.version.clone(),
            levels: Arc::new(Levels::new(options.log.clone(), options.logging.clone())),
            process: process.clone(),
        };
        let mut pages = serve_pages(&plan, &options, &admin)?;
        let (changed, changes) = mpsc::channel(16);
        pages.push(tokio::spawn(secrets::follow(secrets, changed)).abort_handle());
        let inherited = inherited::receive(&mut options).map_err(failed("inherited sockets"))?;
        let resolver = Resolver::new(&options.name_servers);
        let mut proxy = Proxy {
            options,
            store,
            fixed,
            faults,
            changes,
            sources,
            streams,
            workers,
            reports,
            queries,
            answers: mpsc::unbounded_channel(),
            inherited,
            resolver,
            pending: Vec::new(),
            scrapes: Scrapes::default(),
            shared,
            limited: plan.connections.listeners.into_keys().collect(),
            logs: Logs::start().map_err(failed("access log"))?,
            process,
            stage,
            listening: BTreeMap::new(),
            idle: BTreeSet::new(),
            refreshed: Duration::ZERO,
            reopen: None,
            release: None,
            farewell_to: is_sidecar.then(|| INBOUND.into()),
            dead: false,
            pages,
            bootstrap,
            clock,
        };
        proxy.release = Some(SETTLED);
        proxy.look_at_limits(&config);
        proxy.refresh();
        Ok(proxy)
    }

    /// Works until `shutdown`, or until the admin interface says so.
    async fn until(&mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let happening = tokio::select! {
                () = &mut shutdown => return,
                happening = self.next() => happening,
            };
            if !self.take(happening) || self.dead {
                return;
            }
        }
    }

    async fn next(&mut self) -> Happening {
        let due = self.store.deadline(self.refreshed).into_iter().chain(self.reopen).chain(self.release).chain(self.sources.sweep()).min();
        let due = due.map(|at| tokio::time::Instant::from_std(self.clock.0 + at));
        let due = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((source, event)) = self.streams.recv() => Happening::Stream(source, event),
            Some(report) = self.reports.recv() => Happening::Report(report),
            Some(query) = self.queries.recv() => Happening::Query(query),
            Some(answered) = self.answers.1.recv() => Happening::Answered(answered),
            Some(inherited) = self.inherited.recv() => Happening::Inherited(inherited),
            Some((name, secret)) = self.changes.recv() => Happening::Secret(name, secret),
            () = due => Happening::Due,
        }
    }

    /// Returns whether to go on.
    fn take(&mut self, happening: Happening) -> bool {
        match happening {
            Happening::Stream(source, event) => {
                let now = self.now();
                self.sources.happened(&source, event, &mut self.store, now);
                // What has come with it is taken before the next configuration is made: fewer, larger steps.
                for _ in 1..BURST {
                    let Ok((source, event)) = self.streams.try_recv() else { break };
                    self.sources.happened(&source, event, &mut self.store, now);
                }
                self.refresh();
            }
            Happening::Due => {
                if self.reopen.is_some_and(|at| at <= self.now()) {
                    self.reopen = None;
                    self.workers.reopen();
                }
                self.let_go();
                if self.release.is_some_and(|at| at <= self.now()) {
                    self.release = None;
                    self.pack();
                }
                self.refresh();
            }
            Happening::Report(report) => self.report(report),
            Happening::Answered((worker, wait, answer)) => self.workers.answer(worker, wait, answer),
            Happening::Inherited(Inherited::Closed(address)) => {
                tracing::info!(%address, "an inherited socket is served no more");
                self.workers.disinherit(address);
            }
            Happening::Inherited(Inherited::Opened(address, socket)) => {
                tracing::info!(%address, "serving an inherited socket");
                if let Err(error) = self.workers.inherit(address, &socket) {
                    tracing::error!(%address, %error, "an inherited socket cannot be used");
                }
            }
            Happening::Secret(name, secret) => {
                self.secret(name, secret);
                self.refresh();
            }
            Happening::Query(Query::Quit) => return false,
            Happening::Query(Query::DrainListeners) => {
                self.set_stage(Stage::Draining);
                self.workers.drain();
            }
            Happening::Query(Query::View(sender)) => {
                // Whoever asked may have gone away.
                let _ = sender.send(self.view());
            }
            Happening::Query(Query::Counters(sender)) => self.scrape(sender),
        }
        true
    }

    /// Packs what is kept for dumps alone, and gives back the memory that is free.
    fn pack(&self) {
        let (entries, bootstrap) = (self.store.entries().cloned().collect::<Vec<_>>(), self.bootstrap.clone());
        tokio::task::spawn_blocking(move || {
            bootstrap.pack();
            entries.iter().for_each(|entry| entry.body.pack());
            drop(entries);
            mizzen_net::release_memory();
        });
    }

    /// Lets go what came on demand and nothing uses any more: no connection, no request, no host that is left out for a while.
    fn let_go(&mut self) {
        let now = self.now();
        if self.sources.sweep().is_none_or(|at| at > now) {
            return;
        }
        let (store, shared) = (&self.store, &self.shared);
        let is_used = |kind: ResourceKind, name: &Name| {
            let ejects = || store.clusters_of(kind, name).iter().any(|cluster| shared.ejects(cluster));
            store.take_used(kind, name) || ejects()
        };
        self.sources.let_go(now, store, is_used);
        // What is open for long is marked until the next look.
        self.workers.mark_used();
    }

    /// A secret of the bootstrap has another content.
    fn secret(&mut self, name: Name, secret: Result<Any, String>) {
        let put = secret.and_then(|body| self.store.put(&name, "", body, self.now()));
        match put {
            Ok(()) => {
                tracing::info!(%name, "a certificate or its roots have been read again");
                self.faults.remove(&(ResourceKind::Secret, name));
            }
            Err(reason) => {
                tracing::error!(%name, reason, "a secret cannot be used; its last good version stays");
                self.faults.insert((ResourceKind::Secret, name), reason);
            }
        }
    }

    fn now(&self) -> Duration {
        self.clock.0.elapsed()
    }

    /// Asks for what is missing, and publishes what can be in force.
    fn refresh(&mut self) {
        let now = self.now();
        self.refreshed = now;
        self.sources.ask(&mut self.store, now);
        if let Some(config) = self.store.next(now) {
            tracing::debug!(
                generation = config.generation,
                listeners = config.listeners.size(),
                clusters = config.clusters.size(),
                routes = config.routes.size(),
                looked = self.store.looked(),
                "a new configuration"
            );
            self.look_at_limits(&config);
            self.workers.publish(&config);
            self.release = Some(now + SETTLED);
            // What left the configuration may leave more names that nobody asks for.
            self.sources.ask(&mut self.store, now);
        }
        self.sources.published();
        self.answer_pending();
        self.check_ready();
    }

    /// Says that there is no such resource where that is now known; where it came, the configuration itself has said so.
    fn answer_pending(&mut self) {
        let (store, workers, sources) = (&self.store, &self.workers, &mut self.sources);
        self.pending.retain(|(worker, wait, kind, name)| {
            let there = kind.is_in(store.config(), name);
            let absent = !there && store.knows_absent(*kind, name);
            if absent {
                workers.answer(*worker, *wait, Answer::Absent);
                sources.demand_no_more(*kind, name);
            }
            !there && !absent
        });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Log(file, lines) => {
                self.logs.0.send(file, lines);
                self.process.set_log_dropped(self.logs.0.dropped());
            }
            Report::Ask { worker, wait, question: Question::Dns { host }, .. } => {
                let (resolver, answers) = (self.resolver.clone(), self.answers.0.clone());
                let terms = dns::terms(self.store.config(), &host);
                tokio::spawn(async move {
                    // Without a control thread the process is about to end.
                    let _ = answers.send((worker, wait, resolver.lookup(&host, terms).await));
                });
            }
            Report::Ask { worker, wait, question: Question::Resource { kind, name }, why } => {
                self.sources.demand(kind, &name, &why, self.now());
                self.pending.push((worker, wait, kind, name));
                // Asked for before it is judged whether it is known to be absent.
                self.refresh();
            }
            Report::Snapshot { request, snapshot, .. } => self.scraped(request, *snapshot),
            Report::Dispose(config) => {
                // A large configuration takes a while to free.
                tokio::task::spawn_blocking(move || drop(config));
            }
            Report::Listening { worker, generation, failed } => {
                for (address, reason) in &failed {
                    tracing::error!(%address, reason, "a listener cannot be opened");
                    self.reopen = Some(self.now() + REOPEN);
                }
                self.listening.insert(worker, (generation, failed));
                self.check_ready();
            }
            Report::Idle { worker } => {
                self.idle.insert(worker);
            }
            Report::Died { worker } => {
                tracing::error!(worker, "a worker has died");
                self.dead = true;
            }
        }
    }

    /// Says of a listener that may have so many connections if it never refuses one: where it has no socket, another one has accepted them, as in Envoy.
    fn look_at_limits(&mut self, config: &Config) {
        self.limited.retain(|name| {
            let Some(listener) = config.listeners.get(name) else { return true };
            if !listener.bind {
                tracing::warn!(%name, "the limit of its connections does nothing: it has no socket, and those of others are handed to it");
            }
            false
        });
    }

    fn scrape(&mut self, sender: oneshot::Sender<Snapshot>) {
        self.scrapes.last += 1;
        self.scrapes.open.retain(|_, (_, _, waiting)| !waiting.is_closed());
        self.scrapes.open.insert(self.scrapes.last, (self.workers.len(), Snapshot::default(), sender));
        self.workers.snapshot(self.scrapes.last);
    }

    fn scraped(&mut self, request: u64, snapshot: Snapshot) {
        let Some((missing, sum, _)) = self.scrapes.open.get_mut(&request) else { return };
        sum.merge(snapshot);
        *missing -= 1;
        if *missing == 0
            && let Some((_, mut sum, sender)) = self.scrapes.open.remove(&request)
        {
            // Every worker tells the hosts' counts of the whole process.
            sum.clusters = self.shared.clusters();
            let _ = sender.send(sum);
        }
    }

    /// What of the bootstrap cannot be used: resources that are refused, files that cannot be read, sockets that cannot be opened.
    fn faults(&self) -> Vec<String> {
        let config = self.store.config();
        let ours = |address: &SocketAddr| {
            let listeners =
                self.fixed.iter().filter(|(kind, _)| *kind == ResourceKind::Listener).filter_map(|(_, name)| config.listeners.get(name));
            listeners.flat_map(|l| l.addresses.iter()).any(|a| matches!(a, ListenerAddress::Socket(socket) if socket == address))
        };
        let closed: BTreeSet<_> = self.listening.values().flat_map(|(_, failed)| failed).filter(|(address, _)| ours(address)).collect();
        let closed = closed.into_iter().map(|(address, reason)| format!("{address}: {reason}"));
        self.faults.values().cloned().chain(closed).collect()
    }

    /// Live once listeners and clusters were told, none waits but for a secret that is late, and their sockets are open in every worker; and
    /// only as long as no listener is refused for want of a good version or has a part that is closed.
    fn check_ready(&mut self) {
        let stage = *self.stage.borrow();
        let lame = self.store.lame_listener();
        match (stage, lame) {
            (Stage::Live, Some(name)) => {
                tracing::warn!(%name, "the proxy is not ready any more: a listener is refused, wholly or in part");
                return self.set_stage(Stage::Initializing);
            }
            (Stage::Initializing, None) => {}
            _ => return,
        }
        let complete = self.store.is_complete(ResourceKind::Listener) && self.store.is_complete(ResourceKind::Cluster);
        let warm = !self.store.awaits_listeners();
        let generation = self.store.config().generation;
        let open = (0..self.workers.len()).all(|w| self.listening.get(&w).is_some_and(|(seen, _)| *seen >= generation));
        if complete && warm && open && self.faults().is_empty() {
            tracing::info!("the proxy is ready");
            self.set_stage(Stage::Live);
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        self.stage.send_replace(stage);
        if let Some(ready) = &self.options.ready {
            ready.send_replace(stage == Stage::Live);
        }
    }

    fn view(&self) -> View {
        let wall = |at: Duration| self.clock.1 + at;
        let kinds = [ResourceKind::Cluster, ResourceKind::Assignment, ResourceKind::Listener, ResourceKind::Route, ResourceKind::Secret];
        let whole = |kind: ResourceKind, name: &Name, entry: &Arc<Entry>| match kind {
            ResourceKind::Route => match self.store.whole_route(name) {
                Some(body) => Arc::new(Entry { body, ..(**entry).clone() }),
                None => entry.clone(),
            },
            _ => entry.clone(),
        };
        let known = |kind: ResourceKind, name: &Name, stored: &crate::store::Stored| Known {
            kind,
            name: name.clone(),
            fixed: self.fixed.contains(&(kind, name.clone())),
            entry: stored.active.as_ref().or(stored.latest.as_ref()).map(|e| (whole(kind, name, e), wall(e.arrived))),
            warming: stored.active.is_none(),
            refused: stored.rejected.as_ref().map(|r| (r.version.clone(), r.reason.clone(), wall(r.at))),
        };
        let fetched = |((kind, name), demand): (&(ResourceKind, Name), &Demand)| Fetched {
            kind: *kind,
            name: name.clone(),
            since: wall(demand.since),
            used: wall(demand.used),
            why: demand.why.clone(),
            there: kind.is_in(self.store.config(), name),
            clusters: self.store.clusters_of(*kind, name).into_iter().collect(),
        };
        View {
            config: self.store.config().clone(),
            resources: kinds.into_iter().flat_map(|kind| self.store.resources(kind).map(move |(n, h)| known(kind, n, h))).collect(),
            failed: self.listening.values().flat_map(|(_, failed)| failed.iter().cloned()).collect(),
            unfit: self.store.unfit().iter().map(|(name, why)| (name.clone(), why.to_string())).collect(),
            connected: self.sources.connected(),
            faults: self.faults(),
            fetched: self.sources.demands().iter().map(fetched).collect(),
        }
    }

    /// Goes on for a while as if nothing had been said, but that open connections are asked to end. Returns whether there is more to do than to end.
    async fn farewell(&mut self) -> bool {
        let Options { farewell, until_deserted, .. } = self.options;
        if self.dead || (farewell.is_zero() && !until_deserted) {
            return true;
        }
        tracing::info!(seconds = farewell.as_secs(), until_deserted, "no longer ready; connections are still taken");
        self.set_stage(Stage::Draining);
        let until = tokio::time::Instant::now() + farewell;
        let mut look = tokio::time::interval(LOOK);
        let mut counted: Option<oneshot::Receiver<Snapshot>> = None;
        loop {
            let count = async {
                match &mut counted {
                    Some(counted) => counted.await.ok(),
                    None => std::future::pending().await,
                }
            };
            let happening = tokio::select! {
                () = tokio::time::sleep_until(until), if !until_deserted => return true,
                _ = look.tick() => {
                    self.workers.farewell(self.farewell_to.as_ref());
                    if until_deserted && tokio::time::Instant::now() >= until {
                        let (sender, receiver) = oneshot::channel();
                        self.scrape(sender);
                        counted = Some(receiver);
                    }
                    continue;
                }
                snapshot = count => {
                    counted = None;
                    if snapshot.is_some_and(|snapshot| snapshot.downstream.iter().all(|(_, open)| *open == 0)) {
                        return false;
                    }
                    continue;
                }
                happening = self.next() => happening,
            };
            if !self.take(happening) || self.dead {
                return false;
            }
        }
    }

    /// Accepts no more and waits for connections to end, for as long as that may take.
    async fn drain(&mut self) {
        tracing::info!(seconds = self.options.drain_time.as_secs(), "draining");
        self.set_stage(Stage::Draining);
        self.idle.clear();
        self.workers.drain();
        let until = tokio::time::Instant::now() + self.options.drain_time;
        while self.idle.len() < self.workers.len() && !self.dead {
            match tokio::time::timeout_at(until, self.next()).await {
                Ok(Happening::Query(Query::Quit)) | Err(_) => return,
                Ok(happening) => {
                    self.take(happening);
                }
            }
        }
    }

    async fn end(self) {
        let Proxy { workers, mut reports, logs: (logs, thread), pages, .. } = self;
        let stopped = tokio::task::spawn_blocking(move || workers.stop());
        if stopped.await.is_err() {
            tracing::error!("a worker could not be stopped");
        }
        while let Ok(report) = reports.try_recv() {
            if let Report::Log(file, lines) = report {
                logs.send(file, lines);
            }
        }
        drop(logs);
        // A panic of the writer has been reported by itself.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        pages.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

fn serve_pages(plan: &Plan, options: &Options, admin: &Admin) -> Result<Vec<tokio::task::AbortHandle>, RunError> {
    let failed = |what: &'static str| move |error: io::Error| RunError::Io { what, error };
    let mut tasks = Vec::new();
    let open = |address: SocketAddr| {
        let options = mizzen_net::ListenOptions { dual_stack: true, ..mizzen_net::ListenOptions::default() };
        let socket = mizzen_net::listen(address, &options)?;
        tokio::net::TcpListener::from_std(socket)
    };
    if let Some(address) = plan.admin {
        let listener = open(address).map_err(failed("admin interface"))?;
        tasks.push(tokio::spawn(admin::serve(listener, admin::reading(admin.clone()))).abort_handle());
    }
    if let Some(address) = options.metrics {
        let listener = open(address).map_err(failed("metrics"))?;
        tasks.push(tokio::spawn(admin::serve(listener, admin::scraping(admin.clone()))).abort_handle());
    }
    if let Some(path) = &options.admin_socket {
        let listener = mizzen_net::listen_unix(path).map_err(|e| failed("admin socket")(io::Error::other(e)))?;
        tasks.push(tokio::spawn(admin::serve(listener, admin::all(admin.clone()))).abort_handle());
    }
    Ok(tasks)
}

/// Differs from process to process; good enough for balancing and request ids.
fn seed(now: SystemTime) -> u64 {
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    nanos ^ (u64::from(std::process::id()) << 32)
}
