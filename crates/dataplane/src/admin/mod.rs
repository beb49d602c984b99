//! The admin interface: Envoy's paths and shapes.
//!
//! On TCP it only reads: localhost belongs to the workload too. Verbs that change something answer on the Unix socket alone.

mod certs;
mod clusters;
mod dump;
mod levels;
mod metrics;
mod view;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    extract::{Query as Params, State},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use mizzen_protos::{
    envoy::envoy::{config::bootstrap::v3::Bootstrap, config::core::v3::Node},
    json::{Descriptors, Names},
};
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::store::Kept;

pub(crate) use levels::Levels;
pub(crate) use metrics::Process;
pub(crate) use view::{Control, Fetched, Known, Query, Stage, View};

/// What every page may need.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) control: Control,
    /// Encoded and packed, which is much smaller: it is looked at for dumps only.
    pub(crate) bootstrap: Arc<Kept>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) started: Instant,
    pub(crate) version: String,
    pub(crate) levels: Arc<Levels>,
    pub(crate) process: Process,
}

type Query1 = Params<HashMap<String, String>>;

const HELP: &str = "\
/certs: certificates in use
/clusters: clusters and their hosts (?format=json)
/config_dump: all resources (?resource=LIST, ?include_eds)
/listeners: addresses of listeners (?format=json)
/logging: what is logged, by loggers
/on_demand: what was asked for on first use, why, and whether it is there (JSON)
/ready: 200 once listeners and clusters are there
/server_info: version, state, node
/stats: counters (?format=json, ?format=prometheus, ?filter=REGEX, ?usedonly)
/stats/prometheus: counters for Prometheus
on the Unix socket also, by POST: /drain_listeners, /logging?level=LEVEL, /logging?paths=LOGGER:LEVEL, /logging?reset, /quitquitquit
";

/// The pages that only read.
pub(crate) fn reading(admin: Admin) -> Router {
    pages().route("/logging", get(levels).post(unknown)).fallback(unknown).with_state(admin)
}

/// Those and the verbs that change something.
pub(crate) fn all(admin: Admin) -> Router {
    pages()
        .route("/quitquitquit", post(quit))
        .route("/drain_listeners", post(drain))
        .route("/logging", get(levels).post(logging))
        .fallback(unknown)
        .with_state(admin)
}

/// The metrics' port: nothing but them.
pub(crate) fn scraping(admin: Admin) -> Router {
    Router::new().route("/stats/prometheus", get(prometheus)).route("/metrics", get(prometheus)).with_state(admin)
}

fn pages() -> Router<Admin> {
    Router::new()
        .route("/", get(HELP))
        .route("/help", get(HELP))
        .route("/ready", get(ready))
        .route("/server_info", get(server_info))
        .route("/config_dump", get(config_dump))
        .route("/clusters", get(list_clusters))
        .route("/listeners", get(list_listeners))
        .route("/certs", get(list_certs))
        .route("/on_demand", get(on_demand))
        .route("/stats", get(stats))
        .route("/stats/prometheus", get(prometheus))
}

async fn unknown(method: Method, uri: Uri) -> Response {
    let changes = matches!(uri.path(), "/quitquitquit" | "/drain_listeners" | "/logging" | "/healthcheck/fail" | "/reset_counters");
    if changes && method == Method::POST {
        return (StatusCode::FORBIDDEN, "only on the admin socket\n").into_response();
    }
    (StatusCode::NOT_FOUND, format!("invalid path. admin commands are:\n{HELP}")).into_response()
}

fn json_page(value: &Value) -> Response {
    json_response(json_text(value))
}

fn json_text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn json_response(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn ending() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the process is ending\n").into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let stage = *admin.stage.borrow();
    let status = if stage == Stage::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = format!("{}\n", stage.name());
    if stage == Stage::Initializing
        && let Some(view) = admin.control.view().await
    {
        text.extend(view.faults.iter().map(|fault| format!("{fault}\n")));
    }
    (status, text).into_response()
}

async fn server_info(State(admin): State<Admin>) -> Response {
    let stage = *admin.stage.borrow();
    let bootstrap = admin.bootstrap.clone();
    let node = with_descriptors(move |descriptors| {
        let node: Node = Bootstrap::decode(bootstrap.bytes().as_slice()).unwrap_or_default().node.unwrap_or_default();
        descriptors.to_value(&node, Names::Proto).unwrap_or_default()
    });
    let node = node.await;
    let uptime = format!("{}s", admin.started.elapsed().as_secs());
    json_page(&json!({
        "version": format!("mizzen/{}", admin.version),
        "state": stage.name(),
        "hot_restart_version": "disabled",
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "node": node.unwrap_or_default(),
    }))
}

async fn config_dump(State(admin): State<Admin>, Params(params): Query1) -> Response {
    if let Some(other) = params.keys().find(|k| !matches!(k.as_str(), "resource" | "include_eds" | "format")) {
        return (StatusCode::BAD_REQUEST, format!("`{other}` is not supported\n")).into_response();
    }
    let wanted = dump::Wanted { resource: params.get("resource").cloned(), endpoints: params.contains_key("include_eds") };
    let Some(view) = admin.control.view().await else { return ending() };
    let bootstrap = admin.bootstrap.clone();
    match with_descriptors(move |descriptors| json_text(&dump::dump(descriptors, &view, &bootstrap.bytes(), &wanted))).await {
        Some(dump) => json_response(dump),
        None => ending(),
    }
}

/// Makes something of the descriptors of all messages, which takes some tens of milliseconds, and gives back the memory that they take. `None`: the
/// process is ending.
async fn with_descriptors<T: Send + 'static>(make: impl FnOnce(&Descriptors) -> T + Send + 'static) -> Option<T> {
    let all = move || {
        // A thread of its own: what the allocator keeps at hand for a thread is spread over all that the thread has ever had, and holds it.
        let made = std::thread::spawn(move || make(&Descriptors::load())).join();
        mizzen_net::release_memory();
        made.ok()
    };
    tokio::task::spawn_blocking(all).await.ok().flatten()
}

async fn list_clusters(State(admin): State<Admin>, Params(params): Query1) -> Response {
    let (Some(view), Some(counters)) = (admin.control.view().await, admin.control.counters().await) else { return ending() };
    if is_json(&params) { json_page(&clusters::json(&view, &counters)) } else { clusters::text(&view, &counters).into_response() }
}

async fn list_listeners(State(admin): State<Admin>, Params(params): Query1) -> Response {
    let Some(view) = admin.control.view().await else { return ending() };
    if is_json(&params) { json_page(&clusters::listeners_json(&view)) } else { clusters::listeners_text(&view).into_response() }
}

async fn on_demand(State(admin): State<Admin>) -> Response {
    let Some(view) = admin.control.view().await else { return ending() };
    let time = |at: SystemTime| dump::timestamp(at);
    let fetched: Vec<Value> = view
        .fetched
        .iter()
        .map(|one| {
            json!({
                "type": one.kind.type_url().rsplit('.').next(),
                "name": one.name,
                "there": one.there,
                "for": one.why,
                "since": time(one.since),
                "last_used": time(one.used),
                "clusters": one.clusters,
            })
        })
        .collect();
    json_page(&json!({
        "on_demand": view.config.mesh().is_some(),
        "hosts_known": view.config.mesh().map_or(0, mizzen_ir::config::MeshIndex::len),
        "fetched": fetched,
    }))
}

async fn list_certs(State(admin): State<Admin>) -> Response {
    let Some(view) = admin.control.view().await else { return ending() };
    json_page(&certs::json(&view.config, SystemTime::now()))
}

async fn stats(State(admin): State<Admin>, Params(params): Query1) -> Response {
    let (Some(view), Some(counters)) = (admin.control.view().await, admin.control.counters().await) else { return ending() };
    let wanted = match metrics::Wanted::new(&params) {
        Ok(wanted) => wanted,
        Err(reason) => return (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    };
    match params.get("format").map(String::as_str) {
        Some("prometheus") => prometheus_page(metrics::prometheus(&view, &counters, &admin, &wanted)),
        Some("json") => json_page(&metrics::json(&view, &counters, &admin, &wanted)),
        None | Some("text") => metrics::text(&view, &counters, &admin, &wanted).into_response(),
        Some(other) => (StatusCode::BAD_REQUEST, format!("format `{other}` is not supported\n")).into_response(),
    }
}

async fn prometheus(State(admin): State<Admin>, Params(params): Query1) -> Response {
    let (Some(view), Some(counters)) = (admin.control.view().await, admin.control.counters().await) else { return ending() };
    match metrics::Wanted::new(&params) {
        Ok(wanted) => prometheus_page(metrics::prometheus(&view, &counters, &admin, &wanted)),
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    }
}

fn prometheus_page(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn is_json(params: &HashMap<String, String>) -> bool {
    params.get("format").is_some_and(|f| f == "json")
}

async fn quit(State(admin): State<Admin>) -> Response {
    if admin.control.tell(Query::Quit).await { "OK\n".into_response() } else { ending() }
}

async fn drain(State(admin): State<Admin>) -> Response {
    if admin.control.tell(Query::DrainListeners).await { "OK\n".into_response() } else { ending() }
}

/// Tells the levels. What would change something is no question.
async fn levels(State(admin): State<Admin>, Params(params): Query1) -> Response {
    if !params.is_empty() {
        return (StatusCode::METHOD_NOT_ALLOWED, "levels are changed by POST, on the Unix socket\n").into_response();
    }
    admin.levels.text().into_response()
}

async fn logging(State(admin): State<Admin>, Params(params): Query1) -> Response {
    match admin.levels.change(&params) {
        Ok(()) => admin.levels.text().into_response(),
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    }
}

/// Serves pages on a listener until the process ends. Idle connections are not kept for ever.
pub(crate) async fn serve<L>(listener: L, pages: Router)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    if let Err(error) = axum::serve(listener, pages).await {
        tracing::error!(%error, "the admin interface has ended");
    }
}

/// How long a scrape waits for the workers.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
