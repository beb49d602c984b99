//! `cargo xtask kube`: Kubernetes on this machine, for tests and for trying things by hand. What starts it is in `mizzen-testkit`.

mod build;

use std::{os::unix::process::CommandExt, path::PathBuf, time::Duration};

use anyhow::{Error, Result, bail};
use clap::{Args, Subcommand};
use mizzen_testkit::kube::{ApiOptions, ApiServer, Cluster, ClusterOptions, Life, Programs};

/// Kubernetes on this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Kube {
    /// Makes the programs from Go modules, where they are not made yet: ten minutes and 5 GB at first. `MIZZEN_KUBE_BIN` names another folder of
    /// them for all that needs them.
    Build,
    /// Starts a cluster and returns when its nodes and its DNS are ready. As root.
    Up(UpArgs),
    /// Runs a command on a node of a cluster, by default the first: `enter DIR kubectl get pods -A`.
    Enter(EnterArgs),
    /// Puts images on all nodes of a cluster.
    Load(LoadArgs),
    /// Ends a cluster. What its nodes held stays in its folder.
    Down(DirArgs),
    /// Runs an API server and its store, without nodes, until this ends; as any user. Prints the path of a client's configuration when it is ready.
    Api(ApiArgs),
}

/// A cluster's folder.
#[derive(Debug, Args)]
pub(crate) struct DirArgs {
    /// The folder with all that is the cluster's.
    dir: PathBuf,
}

/// Arguments of `kube up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The folder for all that is the cluster's; not below /etc, /opt or /var.
    dir: PathBuf,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: usize,
    /// Archives of images for all nodes.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Addresses of IPv6 beside those of IPv4.
    #[arg(long)]
    dual_stack: bool,
}

/// Arguments of `kube enter`.
#[derive(Debug, Args)]
pub(crate) struct EnterArgs {
    /// The cluster's folder.
    dir: PathBuf,
    /// On which node.
    #[arg(long, value_name = "N", default_value_t = 1)]
    node: usize,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Arguments of `kube load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The cluster's folder.
    dir: PathBuf,
    /// Archives, as `cargo xtask image` makes them.
    #[arg(required = true)]
    archives: Vec<PathBuf>,
}

/// Arguments of `kube api`.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// The folder for its state, its keys and its logs.
    dir: PathBuf,
    /// Controllers too: service accounts, EndpointSlices, garbage collection.
    #[arg(long)]
    controllers: bool,
}

pub(crate) fn run(kube: Kube) -> Result<()> {
    match kube {
        Kube::Build => build::build(),
        Kube::Up(args) => up(args),
        Kube::Enter(args) => {
            let words: Vec<&str> = args.command.iter().map(String::as_str).collect();
            let error = at(&args.dir)?.on(args.node, &words).exec();
            bail!("nsenter: {error}")
        }
        Kube::Load(args) => {
            let cluster = at(&args.dir)?;
            args.archives.iter().try_for_each(|archive| cluster.load(archive)).map_err(Error::msg)
        }
        Kube::Down(args) => at(&args.dir)?.down().map_err(Error::msg),
        Kube::Api(args) => api(&args),
    }
}

fn at(dir: &std::path::Path) -> Result<Cluster> {
    let programs = Programs::find_for_cluster().map_err(Error::msg)?;
    Cluster::at(&programs, dir).map_err(Error::msg)
}

fn up(args: UpArgs) -> Result<()> {
    let programs = Programs::find_for_cluster().map_err(Error::msg)?;
    let options = ClusterOptions { nodes: args.nodes, images: args.image, dual_stack: args.dual_stack };
    let cluster = Cluster::launch(&programs, &options, &args.dir, Life::UntilDown).map_err(Error::msg)?;
    println!("ready: cargo xtask kube enter {} kubectl get pods -A", cluster.dir().display());
    Ok(())
}

fn api(args: &ApiArgs) -> Result<()> {
    let programs = Programs::find_for_api().map_err(Error::msg)?;
    let options = ApiOptions { controllers: if args.controllers { "*" } else { "" }, ..ApiOptions::default() };
    let mut api = ApiServer::launch(&programs, options, &args.dir).map_err(Error::msg)?;
    println!("{}", api.kubeconfig_file().display());
    loop {
        if let Some(how) = api.ended() {
            bail!("the API server ended: {how}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
