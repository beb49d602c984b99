//! Starting a `mizzen-proxy`, as a sidecar or as a gateway, or as the agent beside an Envoy, and keeping it running.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, anyhow};
use mizzen_host::{Host, Io, LogFile, Process, ProcessKind, RestartDelay, Spec, probe};
use mizzen_types::ports;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::watch,
    time::Instant,
};

use super::{
    address::ROUTER,
    control_plane,
    desired::Wanted,
    mesh::{Mesh, is_set},
    say, settings,
};

/// A proxy's log is kept up to this size, twice.
const LOG_LIMIT: u64 = 16 << 20;
/// How long a proxy may take to end before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How long an Envoy may let its connections go on before it is told to end.
const DRAIN: Duration = Duration::from_secs(3);
/// How often a proxy is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Beside a program.
    Sidecar,
    /// A gateway's.
    Router,
}

/// A proxy beside a workload, from its start to its end.
pub(crate) struct Proxy {
    /// Whether it is ready.
    pub(crate) ready: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Starts it, and starts it again whenever it ends. `inherit` is the socket over which it gets listening sockets.
    pub(crate) fn start(mesh: Arc<Mesh>, host: Arc<Host>, pod: Arc<Wanted>, role: Role, inherit: Option<OwnedFd>) -> Proxy {
        let (ready_sender, ready) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            if let Err(error) = keep(&mesh, &host, &pod, role, inherit, &ready_sender, stopped).await {
                say::error(&format!("the proxy of {}/{} cannot be kept: {error:#}", pod.namespace, pod.name));
            }
            ready_sender.send_replace(false);
        });
        Proxy { ready, stop, task }
    }

    /// Waits until it is ready.
    pub(crate) async fn is_ready(&mut self) {
        is_set(&mut self.ready).await;
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

async fn keep(
    mesh: &Arc<Mesh>,
    host: &Arc<Host>,
    pod: &Arc<Wanted>,
    role: Role,
    inherit: Option<OwnedFd>,
    ready: &watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let log = LogFile::open(&folder(mesh, pod).join("proxy.log"), LOG_LIMIT)?;
    let mut restart = RestartDelay::default();
    loop {
        let (ours, theirs) = UnixStream::pair()?;
        let tokens = tokio::spawn(serve_tokens(mesh.clone(), pod.clone(), ours));
        let mut io = Io::to(log.pipe()?)?;
        io.others.push((3, OwnedFd::from(theirs.into_std()?)));
        if let Some(socket) = &inherit {
            io.others.push((4, socket.as_fd().try_clone_to_owned()?));
        }
        restart.started(Instant::now().into_std());
        let started = match spec(mesh, pod, (host.address(), host.address_v6()), role) {
            Ok(spec) => mesh.supervisor.spawn(host, &spec, io).await.map_err(Into::into),
            Err(error) => Err(error),
        };
        match started {
            Ok(process) => {
                let ended = tokio::select! {
                    ended = process.wait() => ended,
                    never = follow(host, ready) => match never {},
                    () = is_set(&mut stop) => {
                        let at_once = *mesh.ending.borrow();
                        stop_gently(&process, at_once).await;
                        tokens.abort();
                        return Ok(());
                    }
                };
                ready.send_replace(false);
                let ended = say::end(ended, &log).await;
                log.note(&format!("ended: {ended}"));
                say::error(&format!("the proxy of {}/{} ended, it is started again: {ended}", pod.namespace, pod.name));
            }
            Err(error) => say::error(&format!("the proxy of {}/{} does not start: {error:#}", pod.namespace, pod.name)),
        }
        tokens.abort();
        let delay = restart.ended(Instant::now().into_std());
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = is_set(&mut stop) => return Ok(()),
        }
    }
}

async fn stop_gently(process: &Process, at_once: bool) {
    process.stop(if at_once { Duration::from_secs(1) } else { GRACE }).await;
}

/// Asks the proxy again and again whether it is ready.
async fn follow(host: &Host, ready: &watch::Sender<bool>) -> std::convert::Infallible {
    let probe = probe::Http { port: ports::READINESS, path: "/healthz/ready".to_owned(), headers: Vec::new() };
    loop {
        let now = probe::http(host, &probe, Duration::from_secs(1)).await.is_ok();
        ready.send_if_modified(|before| std::mem::replace(before, now) != now);
        let pause = if now { Duration::from_secs(2) } else { ASK_EVERY };
        tokio::time::sleep(pause).await;
    }
}

/// The longest name of a socket in a workload's folder.
pub(crate) const LONGEST_SOCKET: &str = "admin.sock";

/// The folder of a workload. Whose it is says a file in it.
pub(crate) fn folder(mesh: &Mesh, pod: &Wanted) -> PathBuf {
    folder_in(&mesh.payload.run_dir, &pod.short())
}

/// As [`folder`], by the workload's short name.
pub(crate) fn folder_in(run_dir: &Path, short: &str) -> PathBuf {
    run_dir.join("pods").join(short)
}

/// Answers each line `token` with a fresh token of the workload's.
async fn serve_tokens(mesh: Arc<Mesh>, pod: Arc<Wanted>, socket: UnixStream) {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line != "token" {
            return;
        }
        let token = loop {
            match control_plane::token(&mesh, &pod.namespace, &pod.spec.service_account, &pod.name).await {
                Ok(token) => break token,
                // The control plane is not there yet, or starts again.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        if write.write_all(format!("{token}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

fn spec(mesh: &Mesh, pod: &Wanted, (address, address_v6): (Ipv4Addr, Option<Ipv6Addr>), role: Role) -> Result<Spec> {
    let labels: BTreeMap<&String, &String> = pod.labels.iter().collect();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let folder = folder(mesh, pod);
    let mut env: Vec<(String, String)> = [
        ("POD_NAME", pod.name.clone()),
        ("POD_NAMESPACE", pod.namespace.clone()),
        ("SERVICE_ACCOUNT", pod.spec.service_account.clone()),
        ("INSTANCE_IP", address.to_string()),
        ("CA_ADDR", format!("{}:{}", control_plane::address(), ports::XDS)),
        ("CA_ROOT_CERT", text(mesh.dir("mizzend/root-cert.pem"))),
        ("PROXY_CONFIG_DIR", text(folder.clone())),
        ("MIZZEN_TOKEN_FD", "3".to_owned()),
        ("MIZZEN_DNS_UPSTREAMS", format!("{ROUTER}:53")),
        ("MIZZEN_LOG", mesh.payload.log.clone()),
        ("PROXY_TYPE", if role == Role::Router { "router" } else { "sidecar" }.to_owned()),
        ("ISTIO_META_WORKLOAD_NAME", pod.workload.clone()),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes".to_owned()),
        ("ISTIO_METAJSON_LABELS", serde_json::to_string(&labels).unwrap_or_default()),
        ("ISTIO_METAJSON_ANNOTATIONS", serde_json::to_string(&pod.annotations).unwrap_or_default()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    // By this the control plane knows that programs here call virtual addresses of IPv6; a gateway has no programs.
    let all = address_v6.filter(|_| role == Role::Sidecar).map(|v6| format!("{address},{v6}"));
    env.extend(all.map(|all| ("INSTANCE_IPS".to_owned(), all)));
    // Istio's switch to the older variant of xDS.
    env.extend(std::env::var("ISTIO_DELTA_XDS").ok().map(|value| ("ISTIO_DELTA_XDS".to_owned(), value)));
    env.extend(mesh.payload.denial_header.clone().map(|name| ("ISTIO_META_MIZZEN_DENIAL_HEADER".to_owned(), name)));
    let told = settings::told(&mesh.objects.borrow(), pod, role).map_err(|error| anyhow!(error))?;
    if !told.is_empty() {
        env.push(("ISTIO_METAJSON_PROXY_CONFIG".to_owned(), Value::Object(told).to_string()));
    }
    let foreign = mesh.payload.data_plane.foreign();
    if foreign.is_some() {
        // Less than it gets before it is killed.
        env.push(("TERMINATION_DRAIN_DURATION_SECONDS".to_owned(), DRAIN.as_secs().to_string()));
    }
    if role == Role::Router {
        if foreign.is_none() {
            env.push(("MIZZEN_LISTEN_FD".to_owned(), "4".to_owned()));
        }
        // No program asks for names there, and the control plane has no table for a gateway.
        env.push(("DNS_PROXY_ADDR".to_owned(), "off".to_owned()));
        of_gateway(mesh, pod, address, &mut env)?;
    }
    let mut argv = vec![text(mesh.dir("bin/mizzen-proxy"))];
    if let Some(program) = foreign {
        argv.extend(["agent".to_owned(), "--".to_owned(), text(program.to_owned())]);
    } else {
        argv.extend(["--on-demand-idle".to_owned(), mesh.payload.on_demand_idle.to_string()]);
    }
    Ok(Spec { name: format!("{}/{} proxy", pod.namespace, pod.name), argv, env, cwd: Some(folder), kind: ProcessKind::Proxy })
}

/// Adds what a gateway's manifest says of its proxy, which is not who it is and where its own things are.
fn of_gateway(mesh: &Mesh, pod: &Wanted, address: Ipv4Addr, env: &mut Vec<(String, String)>) -> Result<()> {
    let objects = mesh.objects.borrow().clone();
    for (name, value) in pod.env(&objects, address, ROUTER).map_err(|error| anyhow!(error))? {
        if env.iter().any(|(known, own)| *known == name && *own != value) {
            say::warning(&format!("{}/{}: the variable {name} is not acted on: the mesh sets it", pod.namespace, pod.name));
        } else {
            env.push((name, value));
        }
    }
    Ok(())
}
