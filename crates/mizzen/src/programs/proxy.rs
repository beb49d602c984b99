//! `mizzen-proxy`: the data plane. With an Envoy bootstrap it is only that; without one it starts the agent that gets its certificates and
//! configuration, from Istio's environment variables.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::Parser;
use mizzen_agent::Agent;
use tokio::sync::watch;

/// The data plane of a Mizzen mesh: sidecar or gateway, by its configuration alone.
///
/// Without --config-path it gets certificates and configuration through the agent in it, as the variables POD_NAME, POD_NAMESPACE,
/// INSTANCE_IP, CA_ADDR, CA_ROOT_CERT, PROXY_CONFIG_DIR and ISTIO_META_* say.
#[derive(Debug, Parser)]
#[command(name = "mizzen-proxy", version, max_term_width = 100)]
struct Args {
    /// An Envoy bootstrap, as JSON: the proxy is then run by it, without an agent.
    #[arg(short, long, value_name = "FILE")]
    config_path: Option<PathBuf>,
    /// Worker threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    concurrency: usize,
    /// A Unix socket for the admin verbs that change something; with an agent it is in its folder.
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
    /// Where metrics are served, besides the admin interface.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15090")]
    metrics: SocketAddr,
    /// The mark of the proxy's own connections, which keeps them out of the capture; 0 for none. Any other needs CAP_NET_ADMIN.
    #[arg(long, value_name = "NUMBER", default_value_t = mizzen_types::ports::PROXY_MARK)]
    mark: u32,
}

/// Runs until SIGTERM.
pub(crate) fn main() -> ExitCode {
    super::exit("mizzen-proxy", run(Args::parse()))
}

fn run(args: Args) -> Result<()> {
    // Descriptors first: a number that nobody holds yet could be given to something else.
    let inherited = mizzen_net::inherited_fd_from_env("MIZZEN_LISTEN_FD").context("MIZZEN_LISTEN_FD")?;
    let agent = match &args.config_path {
        None => Some(mizzen_agent::Options::from_env()?),
        Some(_) => None,
    };
    let logging = super::log()?;
    let (ready, is_ready) = watch::channel(false);
    let dataplane = mizzen_dataplane::Options {
        workers: args.concurrency,
        admin_socket: args.admin_socket.or_else(|| agent.as_ref().map(|agent| agent.dir.join("admin.sock"))),
        metrics: Some(args.metrics),
        mark: args.mark,
        inherited: inherited.map(Arc::new),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: Some(ready),
        logging: Some(logging),
        name_servers: name_servers()?,
        ..mizzen_dataplane::Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stopped = super::stopped()?;
        match (agent, args.config_path) {
            (Some(mut options), _) => {
                options.dataplane_ready = Some(is_ready);
                let bootstrap = mizzen_agent::bootstrap(&options);
                let agent = Agent::start(options).await?;
                let result = mizzen_dataplane::run(bootstrap, dataplane, stopped).await;
                agent.shutdown().await;
                Ok(result?)
            }
            (None, path) => Ok(mizzen_dataplane::run(bootstrap(&path.unwrap_or_default())?, dataplane, stopped).await?),
        }
    })
}

fn bootstrap(path: &Path) -> Result<mizzen_protos::envoy::envoy::config::bootstrap::v3::Bootstrap> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    mizzen_dataplane::parse_bootstrap(&text).with_context(|| path.display().to_string())
}

/// The servers behind the agent's own, which the data plane asks as well: `MIZZEN_DNS_UPSTREAMS`, with commas.
fn name_servers() -> Result<Vec<SocketAddr>> {
    let text = std::env::var("MIZZEN_DNS_UPSTREAMS").unwrap_or_default();
    let parse = |one: &str| one.parse().or_else(|_| one.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    text.split(',').filter(|one| !one.is_empty()).map(parse).collect::<Result<_, _>>().context("MIZZEN_DNS_UPSTREAMS")
}
