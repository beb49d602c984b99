//! `mizzen-proxy`: the data plane, with the agent that gets its certificates and configuration. Started with Istio's environment variables.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use mizzen_agent::Agent;
use tokio::sync::watch;

/// Runs until SIGTERM.
pub(crate) fn main() -> ExitCode {
    super::exit("mizzen-proxy", run())
}

fn run() -> Result<()> {
    // Descriptors first: a number that nobody holds yet could be given to something else.
    let mut options = mizzen_agent::Options::from_env()?;
    let inherited = mizzen_net::inherited_fd_from_env("MIZZEN_LISTEN_FD").context("MIZZEN_LISTEN_FD")?;
    super::log()?;
    let (ready, is_ready) = watch::channel(false);
    options.dataplane_ready = Some(is_ready);
    let bootstrap = mizzen_agent::bootstrap(&options);
    let dataplane = mizzen_dataplane::Options {
        admin_socket: Some(options.dir.join("admin.sock")),
        inherited: inherited.map(Arc::new),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: Some(ready),
        name_servers: name_servers()?,
        ..mizzen_dataplane::Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stopped = super::stopped()?;
        let agent = Agent::start(options).await?;
        let result = mizzen_dataplane::run(bootstrap, dataplane, stopped).await;
        agent.shutdown().await;
        Ok(result?)
    })
}

/// The servers behind the agent's own, which the data plane asks as well: `MIZZEN_DNS_UPSTREAMS`, with commas.
fn name_servers() -> Result<Vec<SocketAddr>> {
    let text = std::env::var("MIZZEN_DNS_UPSTREAMS").unwrap_or_default();
    let parse = |one: &str| one.parse().or_else(|_| one.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    text.split(',').filter(|one| !one.is_empty()).map(parse).collect::<Result<_, _>>().context("MIZZEN_DNS_UPSTREAMS")
}
