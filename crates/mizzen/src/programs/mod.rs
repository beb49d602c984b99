//! The mesh's own programs besides the CLI: thin mains over the libraries.

pub(crate) mod mizzend;
pub(crate) mod proxy;

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Ends with the first SIGTERM or SIGINT.
fn stopped() -> Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    })
}

/// Logs to standard error, as the directives of `MIZZEN_LOG` say.
fn log() -> Result<()> {
    let directives = std::env::var("MIZZEN_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&directives).with_context(|| format!("MIZZEN_LOG={directives}"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

/// Runs a program and turns its result into an exit code.
fn exit(name: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
