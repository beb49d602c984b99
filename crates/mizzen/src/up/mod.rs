//! `mizzen up`: a whole mesh on one host, from a folder of YAML.
//!
//! Two processes. The outer one ([`main`]) checks the folder, makes the run folder, starts the inner one and serves it from the host's
//! network namespace. The inner one ([`inner::main`]) is pid 1 of the mesh: it runs the control plane, a proxy beside each program, and the
//! programs, and follows the folder.

mod address;
mod announce;
mod control_plane;
pub(crate) mod data_plane;
mod desired;
mod entrance;
mod findings;
mod gateway;
mod https;
pub(crate) mod inner;
mod mesh;
mod objects;
mod pod;
mod proxy;
pub(crate) mod requests;
mod runnable;
pub(crate) mod say;
pub(crate) mod second_layer;
mod settings;
mod workload;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mizzen_analyze::netpol::Through;
use mizzen_host::{Alias, Outer, RelayPolicy, RunDir};
use mizzen_types::IpRange;
use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::AccessFlags,
};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use data_plane::DataPlane;
pub(crate) use objects::CLOSED;

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// The folder of Kubernetes and Istio YAML, subfolders included.
    dir: PathBuf,
    /// Start closed: only mutual TLS (STRICT), nobody may call anybody unless an AuthorizationPolicy of the folder allows it (the Gateway included), and
    /// only what the folder names can be called outside of the mesh (REGISTRY_ONLY). Objects of the folder do not undo it for the whole mesh.
    #[arg(long)]
    secure: bool,
    /// Serve Gateways of plain HTTP over HTTPS, too, on their port 443 (8443 on this host), with a certificate of an authority of your own that is made at the
    /// first start; how to trust it is said.
    #[arg(long)]
    https: bool,
    /// Have the network stop, too, what policies do not let through at L4: also a program that goes around its proxy is stopped, and what it tried is
    /// counted (`mizzen x second-layer`). Where nothing may leave the mesh that is not named (REGISTRY_ONLY) this is held as well. Whom no policy lets come is
    /// refused a connection then, and gets no answer that says why.
    #[arg(long)]
    second_layer: bool,
    /// The pods through which alone all others may leave the mesh, by their namespace and a label, as `mizzen netpol` has it.
    #[arg(long, value_name = "NAMESPACE/LABEL=VALUE", requires = "second_layer", value_parser = through)]
    egress_through: Option<String>,
    /// An address or a block of addresses that all pods may reach besides. May be repeated.
    #[arg(long, value_name = "ADDRESS", requires = "second_layer")]
    egress_to: Vec<IpRange>,
    /// When every program is ready and a call to the Gateway succeeds, write a description of the mesh here, as JSON.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// How long workload certificates live.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    workload_cert_ttl: Duration,
    /// Let the mesh reach a port of this host, such as a database on loopback, at an address outside of the mesh: 192.0.2.1:5432=127.0.0.1:5432.
    #[arg(long, value_name = "ADDRESS=TARGET", value_parser = alias)]
    outside: Vec<Alias>,
    /// Who is asked for names that the mesh does not know, instead of the servers of /etc/resolv.conf.
    #[arg(long, value_name = "ADDRESS")]
    name_server: Vec<SocketAddr>,
    /// Which proxy stands beside each program and at the Gateway: Mizzen's own, or an unmodified Envoy with Mizzen's agent beside it.
    #[arg(long, value_name = "mizzen|envoy=PATH", default_value_t, value_parser = data_plane::parse)]
    data_plane: DataPlane,
    /// What a sidecar has fetched on first use and has not used for so long is let go.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration)]
    on_demand_idle: Duration,
    /// Tell a client that is refused why, in this header of the answer: which policy, and what was missing. Off by default, since that names identities.
    #[arg(long, value_name = "HEADER")]
    denial_header: Option<http::HeaderName>,
    /// What the mesh's programs log: a level, or `tracing` directives.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MIZZEN_LOG", value_parser = directives)]
    log: String,
}

/// What the inner process needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Payload {
    /// The folder that is followed.
    pub(crate) folder: PathBuf,
    /// Where sockets and logs are.
    pub(crate) run_dir: PathBuf,
    /// This binary.
    pub(crate) program: PathBuf,
    /// Whether the mesh starts closed.
    #[serde(default)]
    pub(crate) secure: bool,
    /// The folder of the local certificate authority, if Gateways are served over HTTPS, too.
    #[serde(default)]
    pub(crate) https: Option<PathBuf>,
    /// What the network is to stop, too.
    #[serde(default)]
    pub(crate) second_layer: Option<second_layer::Settings>,
    /// Lifetime of workload certificates, in seconds.
    pub(crate) cert_ttl: u64,
    /// What sidecars have not used for so many seconds they let go.
    pub(crate) on_demand_idle: u64,
    /// In which header a client that is refused is told why.
    #[serde(default)]
    pub(crate) denial_header: Option<String>,
    /// What the programs log.
    pub(crate) log: String,
    /// Which proxy is used.
    pub(crate) data_plane: DataPlane,
    /// The outer process, for the description of the mesh.
    pub(crate) pid: u32,
}

/// The name of a mesh that was given none.
const NAME: &str = "mesh";

/// `90s`, `10m`, `24h`, as Go writes durations.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 90s, 10m or 24h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..split].parse().map_err(|_| bad())?;
    let seconds = match &text[split..] {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    seconds.filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(bad)
}

fn directives(text: &str) -> Result<String, String> {
    for part in text.split(',').map(str::trim) {
        // A word alone would be taken for a module, and a misspelt level so log nothing at all.
        let empty = part.is_empty() && !text.is_empty();
        let bare = !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err();
        if empty || bare || EnvFilter::try_new(part).is_err() {
            return Err(format!("`{part}` is neither a level (off, error, warn, info, debug, trace) nor of the form TARGET=LEVEL"));
        }
    }
    Ok(text.to_owned())
}

fn through(text: &str) -> Result<String, String> {
    text.parse::<Through>().map(|_| text.to_owned())
}

fn alias(text: &str) -> Result<Alias, String> {
    let address = |text: &str| text.parse::<SocketAddr>().map_err(|_| format!("`{text}` is not of the form IP:PORT"));
    let (from, to) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form ADDRESS=TARGET"))?;
    Ok(Alias { from: address(from)?, to: address(to)? })
}

/// Runs the mesh until Ctrl-C, SIGTERM, SIGQUIT or SIGHUP.
pub(crate) fn main(name: Option<&str>, args: &UpArgs) -> ExitCode {
    match outer(name.unwrap_or(NAME), args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn outer(name: &str, args: &UpArgs) -> Result<u8> {
    mizzen_types::check_dns_label(name).context("--mesh")?;
    let folder = std::fs::canonicalize(&args.dir).with_context(|| format!("cannot read {}", args.dir.display()))?;
    args.ready_file.as_deref().map_or(Ok(()), check_ready_file)?;
    let data_plane = args.data_plane.find().context("--data-plane")?;
    check(&args.dir)?;
    let https = if args.https { Some(https::prepare()?) } else { None };
    if let Some(path) = &args.ready_file {
        // Of an earlier mesh: whoever waits for it would be told too early.
        let _ = std::fs::remove_file(path);
    }
    enough_files()?;
    fits_sockets(&RunDir::base().join(name))?;
    let run = RunDir::create(&RunDir::base(), name)?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let payload = Payload {
        folder: folder.clone(),
        run_dir: run.path().to_owned(),
        program,
        secure: args.secure,
        https,
        second_layer: args.second_layer.then(|| second_layer::Settings {
            through: args.egress_through.clone(),
            reach: args.egress_to.iter().map(ToString::to_string).collect(),
        }),
        cert_ttl: args.workload_cert_ttl.as_secs(),
        on_demand_idle: args.on_demand_idle.as_secs(),
        denial_header: args.denial_header.as_ref().map(ToString::to_string),
        log: args.log.clone(),
        data_plane,
        pid: std::process::id(),
    };
    let outer = Outer::start(&serde_json::to_value(&payload)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let policy = RelayPolicy { aliases: args.outside.clone(), nameservers: args.name_server.clone(), ..RelayPolicy::default() };
    let code = runtime.block_on(async {
        let stop = stopped()?;
        let announce = tokio::spawn(announce::announce(run.path().to_owned(), args.ready_file.clone(), args.dir.clone()));
        let code = outer.serve(policy, stop).await.context("cannot wait for the mesh")?;
        announce.abort();
        anyhow::Ok(code)
    })?;
    run.remove();
    Ok(code)
}

/// Ends with the first Ctrl-C or SIGTERM, or when the terminal is closed or asks to quit.
fn stopped() -> Result<impl Future<Output = ()>> {
    let (mut term, mut int, mut quit) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
    // Who started the mesh with `nohup` wants it to outlive the terminal.
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let mut hangup = if ignores_hangup(&status) { None } else { Some(signal(SignalKind::hangup())?) };
    let hung_up = async move {
        match &mut hangup {
            Some(hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    };
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, _ = quit.recv() => {}, () = hung_up => {} }
        say::step("stopping");
    })
}

/// Whether a process of this `/proc/PID/status` ignores SIGHUP.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

/// That the system lets this user open as many files as a small mesh needs: each proxy and program takes a few.
fn enough_files() -> Result<()> {
    const FEWEST: u64 = 1024;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    if most < FEWEST {
        bail!("at most {most} files may be open at a time here, a mesh needs {FEWEST}: raise the limit (`ulimit -n`, LimitNOFILE=)");
    }
    Ok(())
}

/// That the longest path of the mesh's sockets is one that the kernel takes.
fn fits_sockets(run_dir: &Path) -> Result<()> {
    let socket = proxy::folder_in(run_dir, &desired::short("")).join(proxy::LONGEST_SOCKET);
    mizzen_net::unix_path(&socket).context("the name of the mesh or XDG_RUNTIME_DIR is too long for its sockets")?;
    Ok(())
}

/// That the file can be written when the mesh is ready.
fn check_ready_file(path: &Path) -> Result<()> {
    let shown = path.display();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() || path.file_name().is_none() {
        bail!("--ready-file {shown}: is a folder, must be a file");
    }
    if !parent.is_dir() {
        bail!("--ready-file {shown}: there is no folder {}", parent.display());
    }
    nix::unistd::access(parent, AccessFlags::W_OK | AccessFlags::X_OK)
        .with_context(|| format!("--ready-file {shown}: cannot write into {}", parent.display()))
}

/// Reads the folder once: a mesh is not started on objects that are refused.
fn check(dir: &Path) -> Result<()> {
    let mut loaded = mizzen_control::source::load_once(&[dir.to_owned()]);
    let mut folder = runnable::Folder::default();
    loaded.problems.extend(loaded.objects.iter().filter_map(|object| folder.apply(object.clone()).err()));
    loaded.problems.sort();
    for warning in &loaded.warnings {
        say::warning(&warning.to_string());
    }
    for problem in &loaded.problems {
        say::problem(&problem.to_string());
    }
    match loaded.problems.len() {
        0 if loaded.objects.is_empty() => bail!("{} holds no objects: put YAML files into it", dir.display()),
        0 => Ok(()),
        1 => bail!("{}: one object is refused", dir.display()),
        n => bail!("{}: {n} problems", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_seen() {
        assert!(ignores_hangup("Name:\tmizzen\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tmizzen\nSigIgn:\t0000000000001000\n"));
    }

    #[test]
    fn directives_are_checked() {
        for text in ["info", "WARN", "off", "info,mizzen_engine=debug", "mizzen_xds[span{field=1}]=trace"] {
            assert_eq!(directives(text).as_deref(), Ok(text));
        }
        for (text, part) in [("foo=bar=baz,,", "`foo=bar=baz`"), ("debgu", "`debgu`"), ("info,", "``"), ("info,a=lots", "`a=lots`")] {
            assert!(directives(text).is_err_and(|e| e.starts_with(part)), "{text}");
        }
    }

    #[test]
    fn sockets_fit_or_the_start_says_so() {
        let check = |base: &str, name: &str, fits: bool| {
            let said = fits_sockets(&Path::new(base).join(name));
            assert_eq!(said.as_ref().map_err(|e| format!("{e:#}")).is_ok(), fits, "{base} {name}: {said:?}");
        };
        check("/run/user/1000/mizzen", "mesh", true);
        check("/tmp/mizzen-4294967294", &"m".repeat(48), true);
        check("/run/user/1000/mizzen", &"m".repeat(63), false);
        check(&format!("/{}", "x".repeat(80)), "mesh", false);
    }

    #[test]
    fn ready_files_are_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let said = |path: &Path| check_ready_file(path).map_err(|e| format!("{e:#}"));
        assert_eq!(said(&folder.path().join("ready.json")), Ok(()));
        assert_eq!(said(Path::new("ready.json")), Ok(()));
        assert!(said(folder.path()).is_err_and(|e| e.ends_with("is a folder, must be a file")));
        let none = folder.path().join("none");
        assert!(said(&none.join("ready.json")).is_err_and(|e| e.ends_with(&format!("there is no folder {}", none.display()))));
    }

    #[test]
    fn durations() {
        for (text, seconds) in
            [("90s", Some(90)), ("10m", Some(600)), ("24h", Some(86_400)), ("0s", None), ("5", None), ("h", None), ("-1s", None)]
        {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
    }
}
