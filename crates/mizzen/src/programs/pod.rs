//! `mizzen-proxy proxy`: the proxy of a pod, with its agent, as an injector starts it; and `mizzen-proxy wait`, by which a pod's program waits for it.

use std::{net::ToSocketAddrs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use mizzen_agent::{
    ProxyType, TokenSource,
    foreign::Foreign,
    pod::{Places, Pod, Termination},
};
use tokio::sync::watch;

use super::envoy_flags::Level;
use crate::up::data_plane::{self, DataPlane};

/// Arguments of `proxy`.
#[derive(Debug, clap::Args)]
pub(crate) struct PodArgs {
    /// What kind of proxy: beside the pod's program, or a gateway.
    #[arg(value_name = "ROLE", default_value = "sidecar", value_parser = ["sidecar", "router"])]
    role: String,
    /// The pod's DNS domain, as shop.svc.cluster.local.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Which proxy: Mizzen's own, or an Envoy by the path of its program. An image that holds an Envoy says it by the variable.
    #[arg(long, env = "MIZZEN_DATA_PLANE", value_name = "mizzen|envoy=PATH", default_value_t, value_parser = data_plane::parse)]
    data_plane: DataPlane,
    /// What the data plane logs; `MIZZEN_LOG` says it more finely.
    #[arg(long = "proxyLogLevel", value_name = "LEVEL", default_value = "warning")]
    proxy_level: Level,
    /// What parts of an Envoy log: it does nothing with Mizzen's own proxy.
    #[arg(long = "proxyComponentLogLevel", value_name = "PART:LEVEL", hide = true)]
    component_level: Option<String>,
    /// What the agent logs, as Istio writes it: default:info.
    #[arg(long = "log_output_level", value_name = "SCOPE:LEVEL", default_value = "default:info")]
    agent_level: String,
    /// Worker threads; 0: one for each processor. Without it, as PROXY_CONFIG or the container's limit says.
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// The port of a token service, of which there is none: 0.
    #[arg(long = "stsPort", value_name = "PORT", default_value_t = 0, hide = true)]
    sts_port: u16,
    /// The node's cluster: it follows from the pod's labels.
    #[arg(long = "serviceCluster", value_name = "NAME", hide = true)]
    service_cluster: Option<String>,
    /// A template of Envoy's bootstrap: there is none here.
    #[arg(long = "templateFile", value_name = "FILE", hide = true)]
    template: Option<String>,
    /// A log of ejected hosts: not supported.
    #[arg(long = "outlierLogPath", value_name = "FILE", hide = true)]
    outlier_log: Option<String>,
    /// Logs as JSON: not supported.
    #[arg(long = "log_as_json", hide = true)]
    log_as_json: bool,
    /// Where settings of the mesh are: PROXY_CONFIG has them.
    #[arg(long = "meshConfig", value_name = "FILE", hide = true)]
    mesh_config: Option<String>,
}

impl PodArgs {
    /// Flags that do nothing here.
    ///
    /// # Errors
    /// Names the first flag whose effect somebody would wait for.
    fn judge(&self) -> Result<Vec<&'static str>> {
        let refused = [
            (self.sts_port != 0, "--stsPort", "there is no token service"),
            (self.template.as_ref().is_some_and(|t| !t.is_empty()), "--templateFile", "the proxy has no template of its bootstrap"),
            (self.outlier_log.as_ref().is_some_and(|t| !t.is_empty()), "--outlierLogPath", "ejected hosts are told in metrics alone"),
        ];
        if let Some((_, flag, reason)) = refused.into_iter().find(|(is, ..)| *is) {
            bail!("{flag}: {reason}");
        }
        // What injectors pass anyway says nothing.
        let usual = self.component_level.as_deref().is_none_or(|level| level.is_empty() || level == "misc:error");
        let idle = [
            (!usual && self.data_plane == DataPlane::Mizzen, "--proxyComponentLogLevel"),
            (self.service_cluster.is_some(), "--serviceCluster"),
            (self.log_as_json, "--log_as_json"),
            (self.mesh_config.is_some(), "--meshConfig"),
        ];
        Ok(idle.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).collect())
    }
}

/// Runs until SIGTERM, and then until connections have drained.
pub(crate) fn main(args: &PodArgs) -> ExitCode {
    super::exit_with("mizzen-proxy", run(args))
}

fn run(args: &PodArgs) -> Result<u8> {
    // Descriptors first: a number that nobody holds yet could be given to something else.
    let token = TokenSource::from_env().context("MIZZEN_TOKEN_FD")?;
    let idle = args.judge()?;
    let mut pod = Pod::from_vars(std::env::vars(), args.domain.as_deref(), &Places::default(), token)?;
    pod.options.proxy_type = if args.role == "router" { ProxyType::Router } else { ProxyType::Sidecar };
    let level = match std::env::var("MIZZEN_LOG") {
        Ok(level) => level,
        Err(_) => levels(&agent_level(&args.agent_level)?, args.proxy_level),
    };
    let logging = super::log_to(Some(&level), None)?;
    idle.into_iter().for_each(|flag| tracing::warn!(flag, "it does nothing here"));
    pod.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let (ready, is_ready) = watch::channel(false);
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = args.concurrency.map(|n| if n == 0 { all() } else { n }).or(pod.concurrency).unwrap_or(2).max(1);
    if let DataPlane::Envoy(program) = args.data_plane.find().context("--data-plane")? {
        return with_envoy(pod, &program, args, workers);
    }
    let dataplane = mizzen_dataplane::Options {
        workers,
        admin_socket: Some(pod.options.dir.join(mizzen_agent::ADMIN_SOCKET)),
        // The proxy has no capability: the capture knows it by its user.
        mark: 0,
        remembered: super::proxy::remembered(&pod.options),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: Some(ready),
        log: level,
        logging: Some(logging),
        farewell: pod.termination.farewell,
        until_deserted: pod.termination.until_deserted,
        metrics: Some((mizzen_net::any_address(), mizzen_types::ports::METRICS).into()),
        ..mizzen_dataplane::Options::default()
    };
    pod.options.dataplane_ready = Some(is_ready);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stopped = super::stopped()?;
        super::proxy::run_with_agent(pod.options, dataplane, stopped).await.map(|()| 0)
    })
}

/// An Envoy in the place of the proxy. It runs as the agent's user, by which the capture knows it, so that no socket needs a mark.
fn with_envoy(pod: Pod, program: &Path, args: &PodArgs, workers: usize) -> Result<u8> {
    let Termination { farewell, until_deserted } = pod.termination;
    let foreign = Foreign {
        // The pod's search list is for its programs: what the mesh names is a whole name.
        name_servers: pod.name_servers,
        admin: super::agent::ADMIN,
        farewell,
        drain: (!until_deserted).then_some(mizzen_dataplane::Options::default().drain_time),
    };
    let mut arguments = vec!["--concurrency".to_owned(), workers.to_string()];
    arguments.extend(["--log-level".to_owned(), args.proxy_level.of_envoy().to_owned()]);
    if let Some(levels) = args.component_level.clone().filter(|levels| !levels.is_empty()) {
        arguments.extend(["--component-log-level".to_owned(), levels]);
    }
    let program = program.to_str().context("--data-plane: the path is not UTF-8")?;
    super::agent::beside(pod.options, foreign, program, &arguments)
}

/// The agent's level, of Istio's list of scopes and levels: that of `default` or `all`, else of the first.
///
/// # Errors
/// If a level is none.
pub(super) fn agent_level(text: &str) -> Result<String> {
    let mut level = None;
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (scope, of) = item.split_once(':').unwrap_or(("default", item));
        let of = match of {
            "debug" | "info" | "warn" | "error" => of,
            "none" => "off",
            "fatal" => "error",
            other => bail!("--log_output_level {text}: {other} is none of debug, info, warn, error, fatal, none"),
        };
        if level.is_none() || matches!(scope, "default" | "all") {
            level = Some(of.to_owned());
        }
    }
    Ok(level.unwrap_or_else(|| "info".to_owned()))
}

/// The agent's level for all but the data path.
fn levels(agent: &str, proxy: Level) -> String {
    let proxy = proxy.directives();
    ["mizzen_dataplane", "mizzen_engine", "mizzen_ir", "mizzen_http"]
        .iter()
        .fold(agent.to_owned(), |all, part| format!("{all},{part}={proxy}"))
}

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// How long to wait, in seconds.
    #[arg(long = "timeoutSeconds", value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// How long one question may take, in milliseconds.
    #[arg(long = "requestTimeoutMillis", value_name = "MILLISECONDS", default_value_t = 500)]
    request: u64,
    /// How long between two questions, in milliseconds.
    #[arg(long = "periodMillis", value_name = "MILLISECONDS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    period: u64,
    /// Who is asked.
    #[arg(long, value_name = "URL", default_value = "http://localhost:15021/healthz/ready")]
    url: String,
}

/// Waits until the proxy is ready.
pub(crate) fn wait(args: &WaitArgs) -> ExitCode {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(until_ready(args))
    };
    super::exit("mizzen-proxy wait", run())
}

async fn until_ready(args: &WaitArgs) -> Result<()> {
    let url: http::Uri = args.url.parse().with_context(|| args.url.clone())?;
    let host =
        url.host().filter(|_| url.scheme_str() == Some("http")).ok_or_else(|| anyhow!("{}: must be http://HOST:PORT/PATH", args.url))?;
    let target = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let limit = Duration::from_millis(args.request);
    let options = mizzen_net::ConnectOptions { timeout: limit, ..mizzen_net::ConnectOptions::default() };
    let until = tokio::time::Instant::now() + Duration::from_secs(args.timeout);
    let mut period = tokio::time::interval(Duration::from_millis(args.period));
    let mut last = anyhow!("nobody was asked");
    loop {
        if tokio::time::timeout_at(until, period.tick()).await.is_err() {
            return Err(last.context(format!("the proxy was not ready within {} s", args.timeout)));
        }
        // The proxy listens on IPv4; a name such as localhost may have both.
        let addresses: Vec<_> = target.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        let Some(address) = addresses.iter().find(|a| a.is_ipv4()).or(addresses.first()) else {
            last = anyhow!("{host}: the name has no address");
            continue;
        };
        match mizzen_net::fetch_tcp(*address, http::Method::GET, path, "", limit, &options).await {
            Ok(reply) if reply.status.is_success() => return Ok(()),
            Ok(reply) => last = anyhow!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body).trim()),
            Err(error) => last = error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PodArgs,
    }

    fn judged(line: &str) -> Result<Vec<&'static str>, String> {
        let line = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).map_err(|error| error.to_string())?;
        line.args.judge().map_err(|error| error.to_string())
    }

    #[test]
    fn flags() {
        let usual = "sidecar --domain shop.svc.cluster.local --proxyLogLevel=warning --proxyComponentLogLevel=misc:error --log_output_level=default:info";
        assert_eq!(judged(usual), Ok(vec![]));
        assert_eq!(judged("router --concurrency 0 --stsPort 0 --outlierLogPath= --templateFile="), Ok(vec![]));
        assert_eq!(judged("--proxyComponentLogLevel http:debug --log_as_json"), Ok(vec!["--proxyComponentLogLevel", "--log_as_json"]));
        assert_eq!(judged("sidecar --stsPort 15463"), Err("--stsPort: there is no token service".to_owned()));
        assert!(judged("waypoint").unwrap_err().contains("sidecar, router"));
        // An Envoy's parts log as they are told to.
        assert_eq!(judged("--data-plane envoy=/envoy --proxyComponentLogLevel http:debug"), Ok(vec![]));
        assert!(judged("--data-plane nginx=/x").unwrap_err().contains("envoy=PATH"));
    }

    #[test]
    fn levels_of_logs() {
        let check = |text: &str, want: &str| assert_eq!(agent_level(text).unwrap_or_else(|error| error.to_string()), want, "{text}");
        check("default:info", "info");
        check("xds:debug,default:warn", "warn");
        check("all:none", "off");
        check("ca:debug", "debug");
        check("debug", "debug");
        check("", "info");
        check("default:loud", "--log_output_level default:loud: loud is none of debug, info, warn, error, fatal, none");
        assert!(levels("info", Level::Warning).starts_with("info,mizzen_dataplane="));
    }

    #[tokio::test]
    async fn waiting() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}/healthz/ready", listener.local_addr().unwrap().port());
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = asked.clone();
        // Ready when it is asked for the third time.
        let answer = async move || {
            let before = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if before < 2 { (http::StatusCode::SERVICE_UNAVAILABLE, "no valid certificate\n") } else { (http::StatusCode::OK, "ready\n") }
        };
        let router = axum::Router::new().route("/healthz/ready", axum::routing::get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let args = WaitArgs { timeout: 60, request: 60_000, period: 1, url };
        until_ready(&args).await.unwrap();
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 3);
        let nobody = WaitArgs { timeout: 0, url: "http://localhost:1/".to_owned(), ..args };
        let error = format!("{:#}", until_ready(&nobody).await.unwrap_err());
        assert!(error.starts_with("the proxy was not ready within 0 s"), "{error}");
        let other = WaitArgs { url: "https://a/".to_owned(), ..nobody };
        assert!(until_ready(&other).await.unwrap_err().to_string().contains("must be http://"));
    }
}
