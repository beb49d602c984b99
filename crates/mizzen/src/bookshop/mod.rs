//! The services of the sample `samples/bookshop`, small and real: an HTTP page, two HTTP services, a gRPC service and a plain TCP one.
//!
//! They know nothing of the mesh: they read environment variables, call each other by name, and pass on the headers that carry a
//! user and a trace.

mod catalogue;
mod doorman;
mod page;
mod ratings;
mod reviews;
mod stock;
mod storefront;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, signal::unix};

/// The names under which `up` puts the sample's services on the workloads' `PATH`.
pub(crate) const PROGRAMS: [&str; 6] =
    ["bookshop-catalogue", "bookshop-doorman", "bookshop-ratings", "bookshop-reviews", "bookshop-stock", "bookshop-storefront"];

/// A book's whole description fits easily; a larger answer is no answer of these services.
const MAX_BODY: usize = 1 << 20;
/// How long a service waits for another before it says so in its own answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Headers that a service passes on to those that it calls.
const PASSED_ON: [&str; 5] = ["x-request-id", "x-user", "traceparent", "tracestate", "baggage"];

/// Runs the service called `program` until SIGTERM or SIGINT.
pub(crate) fn main(program: &str) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{program}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(program: &str) -> Result<()> {
    match program {
        "bookshop-catalogue" => serve_http(program, 9080, catalogue::routes()).await,
        "bookshop-doorman" => serve_http(program, 9000, doorman::routes()).await,
        "bookshop-reviews" => serve_http(program, 9080, reviews::routes()?).await,
        "bookshop-storefront" => serve_http(program, 8080, storefront::routes()).await,
        "bookshop-ratings" => ratings::serve(program, listen(program, 9090).await?).await,
        "bookshop-stock" => stock::serve(listen(program, 7070).await?).await,
        other => bail!("there is no service of this name: {other}"),
    }
}

/// Opens the port of the variable `PORT`, or the service's own.
async fn listen(program: &str, default: u16) -> Result<TcpListener> {
    let port = match std::env::var("PORT") {
        Ok(text) => text.parse().with_context(|| format!("PORT={text} is not a port number"))?,
        Err(_) => default,
    };
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    println!("{program}: listening on {address}");
    Ok(listener)
}

async fn serve_http(program: &str, port: u16, routes: Router) -> Result<()> {
    let routes = routes.route("/healthz", axum::routing::get(|| async { "ok\n" }));
    let listener = listen(program, port).await?;
    axum::serve(listener, routes).with_graceful_shutdown(stopped()).await?;
    Ok(())
}

/// Ends with the first SIGTERM or SIGINT.
async fn stopped() {
    let (Ok(mut term), Ok(mut int)) = (unix::signal(unix::SignalKind::terminate()), unix::signal(unix::SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

/// The address of another service: the variable if it is set, else its name in the mesh.
fn peer(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// A caller of the other services over HTTP/1.1, with connections kept alive.
#[derive(Clone)]
struct Caller(Client<hyper_util::client::legacy::connect::HttpConnector, Empty<Bytes>>);

/// What another service answered, or why it did not.
type Answer<T> = std::result::Result<T, String>;

impl Caller {
    fn new() -> Self {
        Caller(Client::builder(TokioExecutor::new()).build_http())
    }

    /// GETs `url` with the headers that are passed on, and reads JSON.
    async fn json<T: serde::de::DeserializeOwned>(&self, url: &str, from: &HeaderMap) -> Answer<T> {
        let (status, body) =
            tokio::time::timeout(CALL_TIMEOUT, self.get(url, from)).await.map_err(|_| "no answer in time".to_owned())??;
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&body);
            return Err(format!("{}: {}", status.as_u16(), text.lines().next().unwrap_or_default()));
        }
        serde_json::from_slice(&body).map_err(|e| format!("not the expected JSON: {e}"))
    }

    async fn get(&self, url: &str, from: &HeaderMap) -> Answer<(StatusCode, Bytes)> {
        let mut request = Request::get(url);
        for (name, value) in from.iter().filter(|(name, _)| PASSED_ON.contains(&name.as_str())) {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
        let response = self.0.request(request).await.map_err(|e| format!("cannot reach {url}: {e}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    }
}
