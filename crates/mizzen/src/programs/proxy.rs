//! `mizzen-proxy`: the data plane. With an Envoy bootstrap it is only that; without one it starts the agent that gets its certificates and
//! configuration, from Istio's environment variables.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use mizzen_agent::Agent;
use mizzen_dataplane::{Places, Unknown};
use mizzen_protos::envoy::envoy::config::bootstrap::v3::Bootstrap;
use mizzen_types::Name;
use prost::Message;
use tokio::sync::watch;

use super::envoy_flags::{EnvoyFlags, Level, Mode};

/// The data plane of a Mizzen mesh: sidecar or gateway, by its configuration alone.
///
/// Without --config-path it gets certificates and configuration through the agent in it, as the variables POD_NAME, POD_NAMESPACE,
/// INSTANCE_IP, CA_ADDR, CA_ROOT_CERT, PROXY_CONFIG_DIR and ISTIO_META_* say.
#[derive(Debug, Parser)]
#[command(name = "mizzen-proxy", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct ProxyArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// An Envoy bootstrap, as YAML or JSON: the proxy is then run by it, without an agent.
    #[arg(short, long, value_name = "FILE")]
    config_path: Option<PathBuf>,
    /// Worker threads, at least one.
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
    /// Have the control plane send all that there is at once. By default a sidecar fetches what it uses when it first uses it, if its control plane
    /// has an index of the mesh.
    #[arg(long)]
    no_on_demand: bool,
    /// What a sidecar has fetched on first use and has not used for so many seconds is let go.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    on_demand_idle: u64,
    /// Envoy's way to tell a start from a start after a restart in place, of which there is none here.
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    restart_epoch: u32,
    #[command(flatten)]
    envoy: EnvoyFlags,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Run the proxy of a pod with its agent, as an injector of sidecars starts it.
    Proxy(super::pod::PodArgs),
    /// Set the capture of a pod's connections, or remove it. Needs CAP_NET_ADMIN.
    IstioIptables(Box<super::iptables::IptablesArgs>),
    /// Wait until the proxy is ready.
    Wait(super::pod::WaitArgs),
    /// Ask the running proxy's admin interface, or change something there, as its levels of logging.
    Request(super::request::RequestArgs),
    /// Run only the agent, beside a proxy that somebody else wrote: an Envoy, which is started with a bootstrap that the agent makes.
    Agent(super::agent::AgentArgs),
}

/// Where a proxy has its admin socket in a pod.
const ADMIN_SOCKET: &str = "/etc/istio/proxy/admin.sock";

/// Runs until SIGTERM.
pub(crate) fn main() -> ExitCode {
    let mut args = ProxyArgs::parse();
    match args.verb.take() {
        Some(Verb::Agent(args)) => super::agent::main(args),
        Some(Verb::Proxy(args)) => super::pod::main(&args),
        Some(Verb::IstioIptables(args)) => super::iptables::main(&args),
        Some(Verb::Request(args)) => super::request::main("mizzen-proxy request", args, ADMIN_SOCKET),
        Some(Verb::Wait(args)) => super::pod::wait(&args),
        None => super::exit("mizzen-proxy", run(&args)),
    }
}

fn run(args: &ProxyArgs) -> Result<()> {
    // Descriptors first: a number that nobody holds yet could be given to something else.
    let inherited = mizzen_net::inherited_fd_from_env("MIZZEN_LISTEN_FD").context("MIZZEN_LISTEN_FD")?;
    let flags = &args.envoy;
    let idle = flags.judge()?;
    if args.restart_epoch != 0 {
        bail!("--restart-epoch {}: a proxy does not take over from another", args.restart_epoch);
    }
    let written = args.config_path.is_some() || flags.config_yaml.is_some();
    let agent = if written { None } else { Some(mizzen_agent::Options::from_env()?) };
    if let (Some(_), Some(flag)) = (&agent, flags.concern_a_bootstrap()) {
        bail!("{flag} is for a bootstrap: --config-path or --config-yaml");
    }
    let written = if written { Some(bootstrap(args.config_path.as_deref(), flags)?) } else { None };
    if flags.mode == Mode::Validate {
        let (bootstrap, places, skipped) = written.unwrap_or_default();
        skipped.iter().for_each(|field| eprintln!("{field}: it is passed over"));
        idle.iter().for_each(|flag| eprintln!("{flag}: it does nothing here"));
        return validate(&bootstrap, &places);
    }
    let level = flags.log_level.map(Level::directives);
    let logging = super::log_to(level, flags.log_path.as_deref())?;
    for flag in idle {
        tracing::warn!(flag, "it does nothing here");
    }
    let (written, places) = match written {
        Some((bootstrap, places, skipped)) => {
            if let Some(skipped) = skipped {
                tracing::warn!(skipped, "unknown fields of the bootstrap are passed over");
            }
            (Some(bootstrap), places)
        }
        None => (None, Places::default()),
    };
    let (ready, is_ready) = watch::channel(false);
    let dataplane = mizzen_dataplane::Options {
        workers: args.concurrency.max(1),
        admin_socket: args.admin_socket.clone().or_else(|| agent.as_ref().map(|agent| agent.dir.join("admin.sock"))),
        metrics: Some(args.metrics),
        mark: args.mark,
        on_demand: !args.no_on_demand,
        remembered: agent.as_ref().map(remembered).unwrap_or_default(),
        on_demand_idle: Duration::from_secs(args.on_demand_idle),
        inherited: inherited.map(Arc::new),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: Some(ready),
        log: level.map_or_else(super::directives, str::to_owned),
        logging: Some(logging),
        name_servers: super::name_servers()?,
        drain_time: flags.drain_time_s.map_or(mizzen_dataplane::Options::default().drain_time, Duration::from_secs),
        places,
        ..mizzen_dataplane::Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stopped = super::stopped()?;
        match (agent, written) {
            (Some(mut options), _) => {
                options.dataplane_ready = Some(is_ready);
                run_with_agent(options, dataplane, stopped).await
            }
            (None, bootstrap) => Ok(mizzen_dataplane::run(bootstrap.unwrap_or_default(), dataplane, stopped).await?),
        }
    })
}

/// Runs the agent and the data plane, until `stopped` or until somebody asks the agent to end.
pub(super) async fn run_with_agent(
    options: mizzen_agent::Options,
    dataplane: mizzen_dataplane::Options,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let bootstrap = mizzen_agent::bootstrap(&options);
    let agent = Agent::start(options).await?;
    let ended = async {
        tokio::select! {
            () = stopped => {}
            () = agent.quit() => tracing::info!("asked to end"),
        }
    };
    let result = mizzen_dataplane::run(bootstrap, dataplane, ended).await;
    agent.shutdown().await;
    Ok(result?)
}

/// What the data plane fetched on first use when it last ran, as its agent remembers it.
pub(super) fn remembered(agent: &mizzen_agent::Options) -> Vec<(String, Name)> {
    mizzen_agent::remembered(agent).into_iter().map(|(type_url, name)| (type_url, name.into())).collect()
}

/// The bootstrap of the file, with what the flags add to it; where its fields are written; and the first unknown field that was passed over.
fn bootstrap(path: Option<&Path>, flags: &EnvoyFlags) -> Result<(Bootstrap, Places, Option<String>)> {
    let mut skipped = None;
    let mut read = |name: &str, text: &str| {
        let strict = mizzen_dataplane::parse_bootstrap(text, Unknown::Refused);
        let read = match strict {
            Err(error) if flags.allow_unknown_static_fields => {
                skipped = Some(format!("{name}:{error}"));
                mizzen_dataplane::parse_bootstrap(text, Unknown::Skipped)
            }
            strict => strict,
        };
        read.map_err(|error| anyhow!("{name}:{error}"))
    };
    let (mut bootstrap, mut places) = (Bootstrap::default(), Places::default());
    if let Some(path) = path {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
        bootstrap = read(&name, &text)?;
        places = Places::new(name, &text);
    }
    if let Some(text) = &flags.config_yaml {
        let more = read("--config-yaml", text)?;
        if path.is_none() {
            places = Places::new("--config-yaml", text);
        }
        // What a message says twice is merged: single fields by the last one, lists by all.
        bootstrap.merge(more.encode_to_vec().as_slice())?;
    }
    let node = bootstrap.node.get_or_insert_default();
    let set = |field: &mut String, flag: &Option<String>| {
        if let (true, Some(value)) = (field.is_empty(), flag) {
            field.clone_from(value);
        }
    };
    set(&mut node.id, &flags.service_node);
    set(&mut node.cluster, &flags.service_cluster);
    if flags.service_zone.is_some() {
        set(&mut node.locality.get_or_insert_default().zone, &flags.service_zone);
    }
    Ok((bootstrap, places, skipped))
}

/// Says whether a bootstrap can be used.
fn validate(bootstrap: &Bootstrap, places: &Places) -> Result<()> {
    let faults = mizzen_dataplane::validate(bootstrap, places)?;
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("the bootstrap cannot be used");
    }
    println!("the bootstrap is good");
    Ok(())
}
