//! `mizzen-proxy request` and `mizzend request`: one question or one change at the socket that a program of the mesh has in its own pod.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is wanted.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Method {
    /// Ask.
    #[value(name = "GET", alias = "get")]
    Get,
    /// Change.
    #[value(name = "POST", alias = "post")]
    Post,
}

/// Arguments of `request`.
#[derive(Debug, clap::Args)]
pub(crate) struct RequestArgs {
    /// Ask, or change.
    #[arg(value_enum)]
    method: Method,
    /// The path, such as /logging?level=debug.
    #[arg(value_name = "PATH")]
    path: String,
    /// The program's socket, if it is not where it is in a pod.
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

/// Prints the answer. `socket` is where the program has it in a pod.
pub(crate) fn main(name: &str, args: RequestArgs, socket: &str) -> ExitCode {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        super::print(&runtime.block_on(ask(args, socket))?)
    };
    super::exit(name, run())
}

async fn ask(args: RequestArgs, usual: &str) -> Result<String> {
    let socket = args.socket.unwrap_or_else(|| usual.into());
    let method = match args.method {
        Method::Get => http::Method::GET,
        Method::Post => http::Method::POST,
    };
    let reply = mizzen_net::fetch_unix(&socket, method, &args.path, "", PATIENCE).await;
    let reply = reply.with_context(|| socket.display().to_string())?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    if reply.status != http::StatusCode::OK {
        bail!("{}: {}: {}", args.path, reply.status, text.trim());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing};

    use super::*;

    #[tokio::test]
    async fn questions_and_changes() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a.sock");
        let listener = mizzen_net::listen_unix(&socket).unwrap();
        let router = Router::new().route("/logging", routing::get(async || "info").post(async || "debug"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let usual = socket.to_str().unwrap();
        let asked = async |method, path: &str, socket: Option<&str>| {
            let args = RequestArgs { method, path: path.to_owned(), socket: socket.map(PathBuf::from) };
            ask(args, usual).await.map_err(|error| format!("{error:#}"))
        };
        assert_eq!(asked(Method::Get, "/logging", None).await.as_deref(), Ok("info"));
        assert_eq!(asked(Method::Post, "/logging", Some(usual)).await.as_deref(), Ok("debug"));
        assert_eq!(asked(Method::Get, "/other", None).await.unwrap_err(), "/other: 404 Not Found: ");
        assert!(asked(Method::Get, "/logging", Some("/nowhere")).await.unwrap_err().starts_with("/nowhere: "));
    }
}
