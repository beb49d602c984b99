//! `mizzen-proxy agent`: the agent beside a proxy that somebody else wrote.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use mizzen_agent::{
    Options,
    foreign::{self, Foreign},
};
use mizzen_types::ports;

/// Arguments of `agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    /// The mark of the agent's and the proxy's own connections, which keeps them out of the capture; 0 for none. Any other needs CAP_NET_ADMIN.
    #[arg(long, value_name = "NUMBER", default_value_t = ports::PROXY_MARK)]
    mark: u32,
    /// How long connections may go on after SIGTERM, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, env = "TERMINATION_DRAIN_DURATION_SECONDS", value_parser = clap::value_parser!(u64).range(..=3600))]
    drain: u64,
    /// An Envoy and its arguments. --config-path is added, and unless they are there --disable-hot-restart, --concurrency 1, --log-level warning,
    /// --drain-time-s, --drain-strategy immediate and --file-flush-interval-msec 1000.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs until the proxy ends, or after SIGTERM until it has drained; the exit code is the proxy's.
pub(crate) fn main(args: AgentArgs) -> ExitCode {
    super::exit_with("mizzen-proxy agent", run(args))
}

fn run(args: AgentArgs) -> Result<u8> {
    // Descriptors first: a number that nobody holds yet could be given to something else.
    let mut options = Options::from_env()?;
    options.mark = (args.mark != 0).then_some(args.mark);
    let foreign = Foreign {
        name_servers: super::name_servers()?,
        admin: ADMIN,
        farewell: Duration::ZERO,
        drain: Some(Duration::from_secs(args.drain)),
    };
    super::log()?;
    let Some((program, arguments)) = args.command.split_first() else { anyhow::bail!("no command") };
    beside(options, foreign, program, arguments)
}

/// Where the proxy's admin interface answers questions.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ports::ADMIN);

/// Runs the agent and the proxy; the result is the proxy's exit code.
pub(super) fn beside(options: Options, foreign: Foreign, program: &str, arguments: &[String]) -> Result<u8> {
    // One thread, so that the one that starts the proxy lives as long as this process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stopped = super::stopped()?;
        let tie = mizzen_host::stage::end_with_parent;
        let ended = foreign::run(options, foreign, (program, arguments), tie, stopped).await?;
        Ok(foreign::exit_code(ended))
    })
}
