//! Readiness and metrics by HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mizzen_net::ConnectOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::metrics::Metrics;
use crate::{Identity, NameTable, Options, probes};

/// What the ports report.
pub(crate) struct Status {
    pub(crate) options: Arc<Options>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) identity: watch::Receiver<Option<Identity>>,
    pub(crate) names: watch::Receiver<NameTable>,
    pub(crate) quit: watch::Sender<bool>,
}

impl Status {
    /// What is still missing; nothing means ready.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let now = self.options.now();
        let valid = self.identity.borrow().as_ref().is_some_and(|i| i.svid.validity().contains(now));
        if !valid {
            Some("no valid certificate")
        } else if self.options.dns.is_some() && !self.names.borrow().is_known() {
            Some("no names yet")
        } else if self.options.dataplane_ready.as_ref().is_some_and(|ready| !*ready.borrow()) {
            Some("the proxy is not ready")
        } else {
            None
        }
    }
}

/// Serves one port, for ever. `full` is the agent's own port, the other only tells readiness.
pub(crate) async fn serve(listener: TcpListener, status: Arc<Status>, full: bool) {
    let mut router = Router::new().route("/healthz/ready", get(ready));
    if full {
        router = router.route("/metrics", get(metrics)).route("/stats/prometheus", get(metrics)).route("/quitquitquit", post(quit));
        router = router.route("/app-health/{*probe}", get(probe)).route("/app-lifecycle/{*probe}", get(probe));
    }
    let service = router.with_state(status).into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).await {
        warn!(%error, "status port");
    }
}

async fn ready(State(status): State<Arc<Status>>) -> Response {
    match status.missing() {
        None => (StatusCode::OK, "ready\n").into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Asks a probe of the program for kubelet.
async fn probe(State(status): State<Arc<Status>>, uri: Uri, headers: HeaderMap) -> Response {
    let asked = status.options.probes.ask(uri.path(), headers.get(header::USER_AGENT)).await;
    probes::status(uri.path(), asked).into_response()
}

/// The agent's metrics, and the proxy's and the program's as they are.
async fn metrics(State(status): State<Arc<Status>>) -> Response {
    let mut text = status.metrics.render(status.options.now().as_secs());
    let address = status.options.proxy_metrics;
    let options = ConnectOptions { mark: status.options.mark, ..ConnectOptions::default() };
    match mizzen_net::fetch_tcp(address, Method::GET, "/stats/prometheus", "", Duration::from_secs(5), &options).await {
        Ok(reply) if reply.status.is_success() => text.push_str(&String::from_utf8_lossy(&reply.body)),
        Ok(reply) => debug!(status = %reply.status, "the proxy's metrics"),
        Err(error) => debug!(%error, "the proxy's metrics"),
    }
    if let Some(program) = &status.options.program_metrics {
        match program.fetch().await {
            Ok(metrics) => text.push_str(&metrics),
            Err(error) => {
                status.metrics.program_scrape_failures.inc();
                debug!(%error, "the program's metrics");
            }
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn quit(ConnectInfo(from): ConnectInfo<SocketAddr>, State(status): State<Arc<Status>>) -> Response {
    if !from.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "only from localhost\n").into_response();
    }
    if !status.options.allow_quit {
        return (StatusCode::FORBIDDEN, "not allowed here: MIZZEN_ALLOW_QUIT is not true\n").into_response();
    }
    status.quit.send_replace(true);
    (StatusCode::OK, "OK\n").into_response()
}
