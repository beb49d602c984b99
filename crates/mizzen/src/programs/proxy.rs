//! `mizzen-proxy`: the data plane, with the agent that gets its certificates and configuration. Started with Istio's environment variables.

use std::{process::ExitCode, sync::Arc};

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
