//! The mesh's own programs besides the CLI: thin mains over the libraries.

mod agent;
pub(crate) mod cni;
mod envoy_flags;
mod iptables;
pub(crate) mod mizzend;
mod pod;
pub(crate) mod proxy;
mod request;
mod validation;

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// Ends with the first SIGTERM or SIGINT.
fn stopped() -> Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    })
}

/// Changes what is logged; says what holds now, or why it cannot be.
type SetLogging = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// What is logged unless a flag says otherwise.
fn directives() -> String {
    std::env::var("MIZZEN_LOG").unwrap_or_else(|_| "info".to_owned())
}

/// Logs to standard error, as the directives of `MIZZEN_LOG` say, until they are changed.
fn log() -> Result<SetLogging> {
    log_to(None, None)
}

/// As [`log`], with these directives instead, or to the end of this file.
fn log_to(directives: Option<&str>, file: Option<&std::path::Path>) -> Result<SetLogging> {
    let directives = directives.map_or_else(self::directives, str::to_owned);
    EnvFilter::try_new(&directives).with_context(|| format!("MIZZEN_LOG={directives}"))?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(EnvFilter::try_new(quiet(&directives))?);
    let writer = match file {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            BoxMakeWriter::new(std::sync::Mutex::new(file.with_context(|| path.display().to_string())?))
        }
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(Arc::new(move |directives| {
        let filter = EnvFilter::try_new(directives).map_err(|e| e.to_string())?;
        let now = filter.to_string();
        let filter = EnvFilter::try_new(quiet(directives)).map_err(|e| e.to_string())?;
        handle.reload(filter).map_err(|e| e.to_string())?;
        Ok(now)
    }))
}

/// The directives, before which stands what others log that is told by us: the client of Kubernetes warns of each answer that is no success.
fn quiet(directives: &str) -> String {
    format!("kube_client=error,{directives}")
}

/// Prints a result.
fn print(text: &str) -> Result<()> {
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).context("standard output")
}

/// Turns a program's result into an exit code.
fn exit(name: &str, result: Result<()>) -> ExitCode {
    exit_with(name, result.map(|()| 0))
}

/// As [`exit`], of a program that has a code of its own.
fn exit_with(name: &str, result: Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The servers behind the agent's own, which the data plane asks as well: `MIZZEN_DNS_UPSTREAMS`, with commas.
fn name_servers() -> Result<Vec<SocketAddr>> {
    let text = std::env::var("MIZZEN_DNS_UPSTREAMS").unwrap_or_default();
    let parse = |one: &str| one.parse().or_else(|_| one.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    text.split(',').filter(|one| !one.is_empty()).map(parse).collect::<Result<_, _>>().context("MIZZEN_DNS_UPSTREAMS")
}
