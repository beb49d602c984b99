//! Puts the parts together, and takes them apart again.

use std::{
    future::Future,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use mizzen_api::istio::{MeshConfig, OutboundTrafficPolicy};
use mizzen_net::{ListenOptions, listen, listen_unix};
use mizzen_pki::{CaLimits, UnixTime};
use mizzen_protos::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use mizzen_types::TrustDomain;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Error, Options,
    admission::Admission,
    ads::Discovery,
    analysis::{self, Analyzed},
    authn::{Authenticator, Judge},
    ca::CaService,
    connection::Connections,
    debug::{self, About},
    keys,
    kube::{self, Cluster, Injector, WebhookServer},
    listener::{self, Identity, Serves},
    logging::Logging,
    memo::Memo,
    metrics::Metrics,
    policies, refusals,
    source::{self, Event, Files, Merge, SourceId},
    token::Tokens,
    token_api,
    wire::Ads,
    writer,
};

/// How long streams may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// Dead connections are found after these two.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// So much of a request is taken before it is read: who comes back names all that it holds, and thousands that come back at once wait for their turn.
const WINDOW: u32 = 32 << 10;
const CONNECTION_WINDOW: u32 = 64 << 10;
const DAYS_90: Duration = Duration::from_secs(90 * 24 * 3600);

/// A control plane that is running. Dropping it ends it at once; [`Running::stop`] does so with words to its clients.
#[derive(Debug)]
pub struct Running {
    /// Where xDS and the CA are served.
    pub xds: SocketAddr,
    /// Where metrics are served.
    pub monitoring: SocketAddr,
    /// Where the API server's webhooks are served, in a cluster.
    pub webhooks: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<(&'static str, Result<(), String>)>,
    /// How many of them know no end of their own: sources, the writer, and what follows it.
    endless: usize,
}

/// Runs a control plane until `shutdown` is done.
///
/// # Errors
/// If it cannot start, or a part of it ends.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    tokio::pin!(shutdown);
    let mut running = tokio::select! {
        running = start(options) => running?,
        () = &mut shutdown => return Ok(()),
    };
    tokio::select! {
        error = running.failed() => {
            running.stop().await;
            Err(error)
        }
        () = shutdown => {
            running.stop().await;
            Ok(())
        }
    }
}

/// Starts a control plane; done when it is ready: the folders are read and the ports are open.
///
/// # Errors
/// If a folder is given twice, or a file, a key or a port is not as it must be. Wrong objects in the folders are no error.
pub async fn start(options: Options) -> Result<Running, Error> {
    let dirs = options.config_dirs.clone();
    if let Some((_, twice)) = dirs.iter().enumerate().find(|(at, dir)| dirs[..*at].contains(dir)) {
        return Err(Error::Twice(twice.clone()));
    }
    let (sender, events) = mpsc::unbounded_channel();
    let cluster = match &options.cluster {
        Some(cluster) => Some(Cluster::new(cluster.clone(), options.root_namespace.clone()).await?),
        None => None,
    };
    let of_cluster = if cluster.is_some() { Cluster::sources() } else { 0 };
    let (merge, mut ids) = Merge::new(dirs.len() + of_cluster);
    let told = sender.downgrade();
    let mut following = JoinSet::new();
    // Files come first: whoever gives both wants them to.
    let rest = ids.split_off(dirs.len());
    if let Some(cluster) = &cluster {
        following = cluster.follow(&rest, &sender);
    }
    for (id, dir) in ids.into_iter().zip(dirs) {
        let last_good = options.last_good.as_deref().map(|folder| source::files::last_good_of(folder, &dir));
        let files = Files::follow(source::Options { last_good, ..source::Options::new(vec![dir.clone()]) });
        following.spawn(forward(id, dir, files, sender.clone()));
    }
    // The control plane does not outlive one of them: a folder that nobody follows any more would grow old in silence.
    let sources = async move {
        if following.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    };
    start_with(options, cluster, merge, (told, events), sources).await
}

/// Passes a folder's events on to the writer.
async fn forward(id: SourceId, dir: PathBuf, mut files: Files, writer: mpsc::UnboundedSender<(SourceId, Event)>) {
    while let Some(event) = files.next().await {
        if writer.send((id, event)).is_err() {
            return;
        }
    }
    tracing::error!(folder = %dir.display(), "is not followed any more");
}

/// As [`start`], with events from elsewhere; `sources` is driven as long as the control plane runs.
pub(crate) async fn start_with(
    options: Options,
    cluster: Option<Cluster>,
    mut merge: Merge,
    (told, events): (mpsc::WeakUnboundedSender<(SourceId, Event)>, writer::Events),
    sources: impl Future<Output = ()> + Send + 'static,
) -> Result<Running, Error> {
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(ends("a source", sources));
    let faults = Arc::new(Mutex::default());
    let memo = Arc::new(Memo::default());
    let metrics = Arc::new(Metrics::default());
    let (publish, mut published) = watch::channel(None);
    let base = mesh_config(&options)?;
    let overrides = writer::Overrides { registry_only: options.registry_only, https_credential: options.https_credential.clone() };
    let roots = options.jwks.roots.clone().unwrap_or_else(source::key_fetch::system_roots);
    let following = source::jwks::Following {
        id: merge.join(),
        refresh: options.jwks.refresh,
        fetch: source::key_fetch::fetcher(&roots),
        writer: told,
    };
    tasks.spawn(ends("the source of keys", source::jwks::follow(following, published.clone())));
    tasks.spawn(ends("the writer", writer::run(merge, events, (base, overrides), faults.clone(), memo.clone(), metrics.clone(), publish)));
    // Nobody is served from half a configuration.
    let trust_domain = match published.wait_for(Option::is_some).await {
        Ok(first) => first.as_ref().map_or_else(TrustDomain::default, |p| p.snapshot.mesh().trust_domain.clone()),
        Err(_) => return Err(Error::Ended("the writer", "no configuration came".to_owned())),
    };

    let limits =
        CaLimits { default_ttl: options.workload_cert_ttl, max_ttl: DAYS_90.max(options.workload_cert_ttl), ..CaLimits::default() };
    let (ca, judge, tokens) = match &cluster {
        Some(cluster) => (cluster.ca(&trust_domain, limits).await?, Judge::Cluster(cluster.reviewer()), None),
        None => {
            let keys = keys::load(options.state.as_ref(), &trust_domain, limits, UnixTime::now())?;
            let tokens = Arc::new(Tokens::new(&keys.token_key, &trust_domain)?);
            (keys.ca, Judge::Own(tokens.clone()), Some(tokens))
        }
    };
    let (authority, ca) = watch::channel(Arc::new(ca));
    let connections = Arc::new(Connections::new(memo.clone(), cluster.as_ref().map(Cluster::credentials)));
    let admission = Arc::new(Admission::default());
    tasks.spawn(ends("the log of policies", policies::tell(published.clone(), connections.clone())));
    if let Some(cluster) = &cluster {
        let told = refusals::follow(published.clone(), connections.clone(), cluster.refused());
        tasks.spawn(ends("what proxies refuse", told));
    }
    let own = cluster.as_ref().filter(|cluster| cluster.options.first_party_tokens).map(Cluster::takes_first_party_tokens);
    let analyzed = options.analysis.then(|| Arc::new(Analyzed::new(options.cluster.is_none(), own.into_iter().collect())));
    if let Some(analyzed) = &analyzed {
        tasks.spawn(ends("analysis", analysis::follow(published.clone(), Arc::clone(analyzed), admission.clone())));
    }
    let about = Arc::new(About {
        analyzed,
        version: options.version.clone(),
        logging: Logging::new(options.log.clone(), options.set_log.clone()),
        started: Instant::now(),
        published,
        connections: connections.clone(),
        faults,
        memo: memo.clone(),
        metrics: metrics.clone(),
        admission: admission.clone(),
        ca: ca.clone(),
        standing: cluster.as_ref().map(Cluster::standing),
    });
    let authenticator = Authenticator { judge, trust_domain: trust_domain.clone() };
    let discovery = Discovery {
        authenticator: authenticator.clone(),
        stopping: stopping.clone(),
        connections,
        memo,
        metrics: metrics.clone(),
        admission: admission.clone(),
        identifier: format!("mizzend {}", options.version).into(),
    };
    let service = CaService { ca: ca.clone(), authenticator, ttl: options.workload_cert_ttl, metrics: metrics.clone() };

    if let Some(path) = &options.root_cert_file {
        replace(path, ca.borrow().roots().to_pem().as_bytes())?;
    }
    let xds = tcp(SocketAddr::new(options.address, options.xds_port))?;
    let monitoring = tcp(SocketAddr::new(options.address, options.monitoring_port))?;
    let (xds_address, monitoring_address) = (address(&xds)?, address(&monitoring)?);
    let mut webhooks = None;
    if let Some(cluster) = &cluster {
        tasks.spawn(ends("the follower of the CA", cluster.follow_ca(authority)));
        tasks.spawn(ends("the keeper of roots", cluster.keep_roots(ca.clone())));
        if let Some(port) = cluster.options.webhook_port {
            let (injector, values) = cluster.injector(about.published.clone()).await;
            tasks.spawn(ends("the values of the installation", values));
            webhooks = Some((tcp(SocketAddr::new(options.address, port))?, cluster.keep_webhooks(ca.clone()), injector));
        }
    }
    // What was started so far knows no end of its own.
    let mut endless = tasks.len() + 1;
    let mut webhook_address = None;
    if let Some((listener, keeper, injector)) = webhooks {
        webhook_address = Some(address(&listener)?);
        let identity = Identity::new(ca.clone(), trust_domain.clone(), names(&options), Serves::ApiServer)?;
        endless += 2;
        serve_webhooks(&mut tasks, listener, identity, (trust_domain.clone(), metrics.clone()), injector, &stopping)?;
        tasks.spawn(ends("the keeper of webhooks", keeper));
    }
    // It ends by itself: others need not wait for what this one does not need any more.
    if let Some(cluster) = &cluster {
        tasks.spawn(ends("the election", cluster.elect(stopping.clone())));
    }
    let identity = Identity::new(ca, trust_domain.clone(), names(&options), Serves::Proxies)?;
    serve_grpc(&mut tasks, xds, identity, trust_domain, discovery, service, metrics, &stopping);
    let debug_socket = listen_unix(&options.socket_dir.join("debug.sock")).map_err(Error::Listen)?;
    if let Some(port) = options.debug_port {
        let local = tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
        tasks.spawn(serve_http("the debug port", local, debug::told(about.clone()), stopping.clone()));
    }
    tasks.spawn(serve_http("debug.sock", debug_socket, debug::debug(about.clone()), stopping.clone()));
    // In a cluster its API server gives tokens.
    if let Some(tokens) = tokens {
        let token_socket = listen_unix(&options.socket_dir.join("token.sock")).map_err(Error::Listen)?;
        tasks.spawn(serve_http("token.sock", token_socket, token_api::router(tokens), stopping.clone()));
    }
    tasks.spawn(serve_http("the monitoring port", monitoring, debug::monitoring(about), stopping));
    tracing::info!(xds = %xds_address, monitoring = %monitoring_address, version = options.version, "ready");
    Ok(Running { xds: xds_address, monitoring: monitoring_address, webhooks: webhook_address, stop, tasks, endless })
}

impl Running {
    /// Done when a part of it has ended, which never should.
    pub async fn failed(&mut self) -> Error {
        match self.tasks.join_next().await {
            Some(Ok((part, result))) => Error::Ended(part, result.err().unwrap_or_else(|| "without a reason".to_owned())),
            Some(Err(panic)) => Error::Ended("a part", panic.to_string()),
            None => Error::Ended("everything", "nothing was started".to_owned()),
        }
    }

    /// Ends all streams with a word to the clients, then everything.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let rest = async { while self.tasks.len() > self.endless && self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, rest).await;
        self.tasks.shutdown().await;
    }
}

type Part = (&'static str, Result<(), String>);

async fn ends(part: &'static str, future: impl Future<Output = ()>) -> Part {
    future.await;
    (part, Ok(()))
}

#[allow(clippy::too_many_arguments)]
fn serve_grpc(
    tasks: &mut JoinSet<Part>,
    listener: TcpListener,
    identity: Identity,
    trust_domain: TrustDomain,
    discovery: Discovery,
    ca: CaService,
    metrics: Arc<Metrics>,
    stopping: &watch::Receiver<bool>,
) {
    let (sender, accepted) = mpsc::channel(64);
    let acceptor = identity.acceptor.clone();
    let mut stopping = stopping.clone();
    tasks.spawn(ends("rotation", identity.rotate()));
    tasks.spawn(async move {
        let accepting = tokio::spawn(listener::accept(listener, acceptor, trust_domain, metrics, sender));
        let served = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(Ads(discovery))
            .add_service(IstioCertificateServiceServer::new(ca))
            .serve_with_incoming_shutdown(ReceiverStream::new(accepted), async move {
                let _ = stopping.wait_for(|stopping| *stopping).await;
            })
            .await;
        accepting.abort();
        ("the xDS port", served.map_err(|e| e.to_string()))
    });
}

/// Answers the API server.
fn serve_webhooks(
    tasks: &mut JoinSet<Part>,
    listener: TcpListener,
    identity: Identity,
    (trust_domain, metrics): (TrustDomain, Arc<Metrics>),
    injector: Injector,
    stopping: &watch::Receiver<bool>,
) -> Result<(), Error> {
    let (sender, accepted) = mpsc::channel(64);
    let address = address(&listener)?;
    let acceptor = identity.acceptor.clone();
    tasks.spawn(ends("rotation for webhooks", identity.rotate()));
    let mut stopping = stopping.clone();
    tasks.spawn(async move {
        let accepting = tokio::spawn(listener::accept(listener, acceptor, trust_domain, metrics, sender));
        let stopped = async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let server = WebhookServer { accepted, address };
        let served = axum::serve(server, kube::webhook_router(injector)).with_graceful_shutdown(stopped).await;
        accepting.abort();
        ("the webhooks' port", served.map_err(|e| e.to_string()))
    });
    Ok(())
}

async fn serve_http<L>(part: &'static str, listener: L, router: Router, mut stopping: watch::Receiver<bool>) -> Part
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let stopped = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let served = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
    (part, served.map_err(|e| e.to_string()))
}

/// The settings that hold while the folders have none.
fn mesh_config(options: &Options) -> Result<MeshConfig, Error> {
    let mut config = match &options.mesh_config {
        None => MeshConfig::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.clone(), source })?;
            let name: Arc<str> = path.to_string_lossy().into();
            let lines = |problems: Vec<mizzen_api::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            let (config, warnings) = mizzen_api::parse_mesh_config(&text, &name).map_err(|p| Error::MeshConfig(lines(p)))?;
            warnings.iter().for_each(|problem| tracing::info!(%problem, "not acted on"));
            config
        }
    };
    if config.trust_domain == TrustDomain::default() {
        config.trust_domain = options.trust_domain.clone();
    }
    config.jwks_by = options.jwks.by;
    config.gateways_stay_home = options.gateways_stay_home;
    if options.registry_only {
        config.outbound_traffic_policy = OutboundTrafficPolicy::RegistryOnly;
    }
    Ok(config)
}

/// The names under which agents dial, Istio's.
fn names(options: &Options) -> Vec<String> {
    let namespace = &options.root_namespace;
    let mut names: Vec<String> = ["", ".cluster.local"].iter().map(|end| format!("istiod.{namespace}.svc{end}")).collect();
    names.push(format!("istiod.{namespace}"));
    names.push(format!("istio-pilot.{namespace}.svc"));
    names.push(options.address.to_string());
    names
}

fn tcp(address: SocketAddr) -> Result<TcpListener, Error> {
    let socket = listen(address, &ListenOptions { dual_stack: true, ..ListenOptions::default() }).map_err(Error::Listen)?;
    TcpListener::from_std(socket).map_err(Error::Listen)
}

fn address(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(Error::Listen)
}

/// Writes a file so that readers see the old text or the new one.
fn replace(path: &Path, text: &[u8]) -> Result<(), Error> {
    let write = || {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let mut file = std::fs::File::create(&name)?;
        file.write_all(text)?;
        std::fs::rename(&name, path)
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}
