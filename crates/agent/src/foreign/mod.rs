//! Beside a proxy that somebody else wrote: an Envoy, unmodified, as a process of its own.
//!
//! [`run`] starts an agent, writes a [`bootstrap`](bootstrap()), starts the proxy with it, follows its readiness by its admin interface, and
//! ends with it. What the proxy can be told to change answers on a Unix socket alone ([`ADMIN_SOCKET`]); on 127.0.0.1:15000, which the workload
//! reaches too, the agent lets questions pass and nothing else.
//!
//! Deliberately absent: namespaces, capabilities and the capture. Who starts the agent gives it CAP_NET_ADMIN if sockets are to be marked.

mod admin;
mod bootstrap;

use std::{
    io,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use http::{Method, StatusCode};
use mizzen_net::Reply;
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::Instant,
};
use tracing::{info, warn};

pub use bootstrap::bootstrap;

use crate::{ADMIN_SOCKET, Agent, AgentError, Options, ProxyType};

/// What is to be known of the proxy besides what its agent knows.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// Whom the proxy asks for the names of clusters that have one; none, those of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// Where the proxy's admin interface answers questions: 127.0.0.1:15000.
    pub admin: SocketAddr,
    /// How long connections are still taken after the agent was told to end, while clients are asked to leave; zero: until none is open.
    pub farewell: Duration,
    /// How long connections may go on after that, 0 to 3600 s; none: for as long as they like.
    pub drain: Option<Duration>,
}

/// Why a proxy could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The bootstrap.
    #[error("bootstrap of the proxy: {0}")]
    Bootstrap(#[from] mizzen_protos::json::JsonError),
    /// The file that holds it.
    #[error("{}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An argument that is the agent's to give.
    #[error("{0}: the agent writes the proxy's bootstrap and names it itself")]
    Argument(String),
    /// The proxy.
    #[error("{program}: {source}")]
    Start {
        /// What was to be run.
        program: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The bootstrap's file, in [`Options::dir`].
const BOOTSTRAP: &str = "envoy.json";
/// How long an answer of the admin interface may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How often the proxy is asked whether it is ready: until it is, and from then on.
const ASK_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often it is said that the proxy is still not ready.
const COMPLAIN_EVERY: Duration = Duration::from_secs(15);
/// How long the proxy may take from SIGTERM to its end.
const END_WITHIN: Duration = Duration::from_secs(2);
/// The statistics' names of the bootstrap's own listeners begin so.
const OWN_LISTENERS: &str = "agent_";

/// Runs `program` with these arguments and an agent beside it, until it ends or `stop` does; then drains it first. Returns how it ended.
///
/// `prepare` gets the command last: to tie the proxy's life to this process, say. Its environment is this process' without `MIZZEN_*`.
///
/// # Errors
/// If the agent or the proxy cannot be started.
pub async fn run(
    mut options: Options,
    foreign: Foreign,
    (program, arguments): (&str, &[String]),
    prepare: impl FnOnce(&mut std::process::Command),
    stop: impl Future<Output = ()>,
) -> Result<ExitStatus, ForeignError> {
    let (ready, is_ready) = watch::channel(false);
    options.dataplane_ready = Some(is_ready);
    // The proxy has the port, and asks the agent: that it answers there shows that its workers run.
    options.readiness = None;
    let file = options.dir.join(BOOTSTRAP);
    let arguments = complete(arguments, &file, &foreign)?;
    write(&file, &bootstrap(&options, &foreign)?)?;
    let (kind, socket) = (options.proxy_type, options.dir.join(ADMIN_SOCKET));
    let agent = Agent::start(options).await?;
    let reading = admin::listen(foreign.admin).map_err(|source| AgentError::Socket { what: "admin port", source })?;
    let reading = tokio::spawn(admin::serve(reading, socket.clone()));

    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null());
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("MIZZEN_")) {
        command.env_remove(name);
    }
    prepare(&mut command);
    let start_error = |source| ForeignError::Start { program: program.to_owned(), source };
    let mut child = Command::from(command).kill_on_drop(true).spawn().map_err(start_error)?;
    info!(program, pid = child.id(), "proxy started");
    let ended = tokio::select! {
        ended = child.wait() => ended,
        never = follow(&socket, &ready) => match never {},
        () = async { tokio::select! { () = stop => {}, () = agent.quit() => {} } } => {
            ready.send_replace(false);
            end(&mut child, &socket, kind, &foreign).await
        }
    };
    let ended = ended.map_err(start_error)?;
    info!(%ended, "proxy ended");
    reading.abort();
    agent.shutdown().await;
    Ok(ended)
}

/// The exit code by which a shell tells how a process ended: its own, or 128 and the signal's number.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(1)
}

/// The arguments as given, and what an Envoy beside an agent needs besides, unless they say otherwise.
fn complete(given: &[String], file: &Path, foreign: &Foreign) -> Result<Vec<String>, ForeignError> {
    let says = |flag: &str| given.iter().any(|arg| arg == flag || arg.strip_prefix(flag).is_some_and(|rest| rest.starts_with('=')));
    if let Some(flag) = ["-c", "--config-path", "--config-yaml"].into_iter().find(|flag| says(flag)) {
        return Err(ForeignError::Argument(flag.to_owned()));
    }
    // When the proxy closes what listens, and with it what a change of its configuration leaves behind.
    let closes = if foreign.farewell.is_zero() { foreign.drain.unwrap_or_default() } else { foreign.farewell };
    let mut all = given.to_vec();
    all.extend(["--config-path".to_owned(), file.display().to_string()]);
    // A hot restart needs shared memory and an abstract socket by a number that two proxies of one host would have to agree on.
    if !says("--disable-hot-restart") && !says("--base-id") && !says("--use-dynamic-base-id") {
        all.push("--disable-hot-restart".to_owned());
    }
    for (flag, short, value) in [
        ("--concurrency", "--concurrency", "1".to_owned()),
        ("--log-level", "-l", "warning".to_owned()),
        ("--drain-time-s", "--drain-time-s", closes.as_secs().max(1).to_string()),
        ("--drain-strategy", "--drain-strategy", "immediate".to_owned()),
        // How long a line of the access log may wait for others.
        ("--file-flush-interval-msec", "--file-flush-interval-msec", "1000".to_owned()),
    ] {
        if !says(flag) && !says(short) {
            all.extend([flag.to_owned(), value]);
        }
    }
    Ok(all)
}

fn write(file: &Path, bootstrap: &serde_json::Value) -> Result<(), ForeignError> {
    let error = |source| ForeignError::File { path: file.to_owned(), source };
    std::fs::write(file, format!("{bootstrap:#}\n")).map_err(error)
}

async fn ask(socket: &Path, method: Method, target: &str) -> Result<Reply, String> {
    mizzen_net::fetch_unix(socket, method, target, "", ANSWER_WITHIN).await.map_err(|error| error.to_string())
}

/// Asks the proxy again and again whether it is ready.
async fn follow(socket: &Path, ready: &watch::Sender<bool>) -> std::convert::Infallible {
    let mut since = Instant::now();
    loop {
        let state = match ask(socket, Method::GET, "/ready").await {
            Ok(reply) if reply.status == StatusCode::OK => Ok(()),
            Ok(reply) => Err(String::from_utf8_lossy(&reply.body).trim().to_owned()),
            Err(error) => Err(error),
        };
        let now = state.is_ok();
        let changed = ready.send_if_modified(|before| std::mem::replace(before, now) != now);
        match state {
            Ok(()) if changed => info!("the proxy is ready"),
            Err(reason) if changed || since.elapsed() >= COMPLAIN_EVERY => {
                warn!(reason, "the proxy is not ready");
                since = Instant::now();
            }
            _ => {}
        }
        tokio::time::sleep(if now { ASK_EVERY.1 } else { ASK_EVERY.0 }).await;
    }
}

/// Drains the proxy and ends it.
async fn end(child: &mut Child, socket: &Path, kind: ProxyType, foreign: &Foreign) -> io::Result<ExitStatus> {
    tokio::select! {
        ended = child.wait() => return ended,
        () = drained(socket, kind, foreign) => {}
    }
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    if let Ok(ended) = tokio::time::timeout(END_WITHIN, child.wait()).await {
        return ended;
    }
    warn!("the proxy has not ended after {END_WITHIN:?}; it is killed");
    child.kill().await?;
    child.wait().await
}

/// Tells clients to go elsewhere, and waits until none is left, for as long as the options say.
async fn drained(socket: &Path, kind: ProxyType, foreign: &Foreign) {
    // What the workload itself still has to say goes on; a gateway has no workload.
    let target = if kind == ProxyType::Sidecar { "/drain_listeners?graceful&inboundonly" } else { "/drain_listeners?graceful" };
    match ask(socket, Method::POST, target).await {
        Ok(reply) if reply.status == StatusCode::OK => {}
        Ok(reply) => return warn!(status = %reply.status, "the proxy does not drain"),
        Err(error) => return warn!(error, "the proxy does not drain"),
    }
    // Who has not heard yet that this one goes still comes.
    tokio::time::sleep(foreign.farewell).await;
    let none_left = async {
        loop {
            match ask(socket, Method::GET, "/stats?filter=downstream_cx_active").await {
                Ok(reply) if open_connections(&String::from_utf8_lossy(&reply.body)) > 0 => tokio::time::sleep(ASK_EVERY.0).await,
                _ => return,
            }
        }
    };
    match foreign.drain {
        None => none_left.await,
        Some(within) if tokio::time::timeout(within, none_left).await.is_err() => info!(?within, "connections are left"),
        Some(_) => {}
    }
}

/// The open connections of all listeners but the agent's own and the admin interface's, by lines such as
/// `listener.0.0.0.0_15006.downstream_cx_active: 2`.
fn open_connections(stats: &str) -> u64 {
    let gauge = |line: &str| {
        let (name, value) = line.strip_prefix("listener.")?.split_once(": ")?;
        let listener = name.strip_suffix(".downstream_cx_active")?;
        let counts = !listener.starts_with(OWN_LISTENERS) && !listener.starts_with("admin") && !listener.contains(".worker_");
        if counts { value.parse::<u64>().ok() } else { None }
    };
    stats.lines().filter_map(gauge).sum()
}

#[cfg(test)]
mod tests;
