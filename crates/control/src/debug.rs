//! What the control plane tells of itself: everything on `debug.sock`, metrics and readiness on the monitoring port.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use mizzen_analyze::{Id, Message, Sort};
use mizzen_api::{Key, Kind, Object, Pos, Problem, istio};
use mizzen_model::{Reader, Snapshot};
use mizzen_types::IpRange;
use serde::Deserialize;
use tokio::{sync::watch, time::Instant};

use crate::{
    admission::Admission,
    analysis::Analyzed,
    ca::Authority,
    connection::{Connection, Connections},
    dump,
    kube::Standing,
    logging::{Logging, ScopeStatus},
    memo::Memo,
    metrics::{Gauges, Metrics},
    names,
    source::{Fault, Refused, SourceId},
    status::{
        ConfigStatus, Configz, ConnectionStatus, ElectionStatus, IssuerKeysStatus, Live, MemoStatus, ObjectStatus, QueueStatus,
        RefusedStatus, Rejected, Selfz, ServiceStatus, SyncState, Syncz, WaitingFor, WaitingStatus,
    },
    writer::{self, Faults, Published},
};

/// What is told about.
pub(crate) struct About {
    /// What is wrong with the configuration; none if nobody looks.
    pub(crate) analyzed: Option<Arc<Analyzed>>,
    pub(crate) version: String,
    /// What is logged.
    pub(crate) logging: Logging,
    pub(crate) started: Instant,
    pub(crate) published: watch::Receiver<Option<Published>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) faults: Arc<Mutex<Faults>>,
    pub(crate) memo: Arc<Memo>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) ca: Authority,
    /// Which of a cluster's control planes writes into it.
    pub(crate) standing: Option<watch::Receiver<Standing>>,
}

/// All of it; for a socket that only its owner reaches.
pub(crate) fn debug(about: Arc<About>) -> Router {
    questions().route("/debug/log", get(log).post(set_log)).with_state(about)
}

/// The same without what changes anything; for whoever is inside the pod.
pub(crate) fn told(about: Arc<About>) -> Router {
    questions().route("/debug/log", get(log)).with_state(about)
}

fn questions() -> Router<Arc<About>> {
    Router::new()
        .route("/debug/syncz", get(syncz))
        .route("/debug/configz", get(configz))
        .route("/debug/keysz", get(keysz))
        .route("/debug/connections", get(connections))
        .route("/debug/registryz", get(registryz))
        .route("/debug/live", get(live))
        .route("/debug/selfz", get(selfz))
        .route("/debug/config_dump", get(config_dump))
        .route("/debug/analyze", get(analyze))
        .merge(shared())
}

/// What the monitoring port tells to everybody: nothing of the configuration.
pub(crate) fn monitoring(about: Arc<About>) -> Router {
    shared().with_state(about)
}

fn shared() -> Router<Arc<About>> {
    Router::new().route("/metrics", get(metrics)).route("/ready", get(ready)).route("/version", get(version))
}

impl About {
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.published.borrow().as_ref().map(|p| p.snapshot.clone())
    }
}

async fn ready(State(about): State<Arc<About>>) -> Response {
    match about.snapshot() {
        Some(_) => "ready\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the configuration is not read yet\n").into_response(),
    }
}

async fn version(State(about): State<Arc<About>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({"component": "mizzend", "version": about.version}))
}

async fn metrics(State(about): State<Arc<About>>) -> Response {
    let counts = about.memo.counts();
    let (mut services, mut endpoints, mut virtual_services) = (0, 0, 0);
    if let Some(snapshot) = about.snapshot() {
        let reader = Reader::new(&snapshot);
        for service in reader.services() {
            services += 1;
            endpoints += reader.endpoints(service).by_port.values().map(Vec::len).sum::<usize>();
        }
        virtual_services = snapshot.objects::<istio::VirtualService>().count();
    }
    let waits: Vec<Duration> = about.connections.all().iter().filter_map(|c| c.waits()).map(|(waited, _)| waited).collect();
    let gauges = Gauges {
        version: about.version.clone(),
        connections: about.connections.len(),
        services,
        endpoints,
        virtual_services,
        refused: writer::lock(&about.faults).refused.len(),
        root_expiry: about.ca.borrow().not_after().as_secs(),
        built: counts.built,
        shared: counts.shared,
        asked_again: counts.asked_again,
        memo: counts.slots,
        waiting: about.admission.waiting(),
        uptime: about.started.elapsed(),
        behind: waits.len(),
        longest: waits.into_iter().max().unwrap_or_default(),
        messages: about.analyzed.as_ref().map(|analyzed| analyzed.counts()).unwrap_or_default(),
        leads: about.standing.as_ref().map(|standing| standing.borrow().leads),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], about.metrics.render(&gauges)).into_response()
}

/// Names of resources that are told of each type that waits, at most.
const NAMES: usize = 5;
/// Proxies that are told of, at most: those that wait longest.
const PROXIES: usize = 100;

/// How the control plane itself is, and whom it keeps waiting.
async fn selfz(State(about): State<Arc<About>>) -> Json<Selfz> {
    let counts = about.memo.counts();
    let asked = counts.built + counts.shared;
    let memo = MemoStatus {
        held: counts.slots,
        built: counts.built,
        shared: counts.shared,
        asked_again: counts.asked_again,
        hit_rate: (asked > 0).then(|| counts.shared as f64 / asked as f64),
    };
    let mut queue =
        QueueStatus { connected: about.connections.len(), first_syncs_at_once: about.admission.at_once(), ..QueueStatus::default() };
    let mut waiting = Vec::new();
    for connection in about.connections.all() {
        let Some((waited, nothing_sent)) = connection.waits() else { continue };
        let (reason, waited) = match about.admission.waits_since(connection.number) {
            Some(since) => (WaitingFor::FirstSync, since.elapsed()),
            None if nothing_sent => (WaitingFor::Due, waited),
            None => (WaitingFor::Answer, waited),
        };
        match reason {
            WaitingFor::FirstSync => queue.first_syncs += 1,
            WaitingFor::Due => queue.due += 1,
            WaitingFor::Answer => queue.unanswered += 1,
        }
        waiting.push((waited, reason, connection));
    }
    waiting.sort_by_key(|(waited, _, connection)| (std::cmp::Reverse(*waited), connection.number));
    let election = about.standing.as_ref().map(|standing| {
        let standing = standing.borrow().clone();
        ElectionStatus { lease: names::LEASE.to_owned(), leads: standing.leads, leader: standing.leader }
    });
    let status = |(waited, reason, connection): &(Duration, WaitingFor, Arc<Connection>)| WaitingStatus {
        proxy: connection.proxy(),
        connection: connection.number,
        seconds: waited.as_secs_f64(),
        reason: *reason,
        unanswered: connection.unanswered(NAMES),
    };
    Json(Selfz {
        version: about.version.clone(),
        log: about.logging.directives(),
        uptime_seconds: about.started.elapsed().as_secs(),
        snapshot: about.snapshot().map_or(0, |s| s.version()),
        memo,
        queue,
        election,
        waiting: waiting.iter().take(PROXIES).map(status).collect(),
    })
}

#[derive(Deserialize)]
struct SyncQuery {
    /// Only proxies of this name: `NAME.NAMESPACE`.
    #[serde(rename = "proxyID")]
    proxy: Option<String>,
}

async fn syncz(State(about): State<Arc<About>>, Query(query): Query<SyncQuery>) -> Json<Syncz> {
    let snapshot = about.snapshot().map_or(0, |s| s.version());
    let mut proxies = about.connections.proxies(snapshot);
    proxies.retain(|p| query.proxy.as_ref().is_none_or(|wanted| *wanted == p.proxy));
    Json(Syncz { snapshot, proxies })
}

#[derive(Deserialize)]
struct DumpQuery {
    /// The proxy: `NAME.NAMESPACE`.
    #[serde(rename = "proxyID")]
    proxy: String,
    /// One section only: `clusters`, `endpoints`, `listeners`, `routes`.
    section: Option<String>,
    /// Only what the proxy was sent, as it should be now.
    #[serde(default)]
    sent: bool,
}

/// All that there is for a proxy, also what one that fetches on first use does not hold.
async fn config_dump(State(about): State<Arc<About>>, Query(query): Query<DumpQuery>) -> Response {
    let only = match query.section.as_deref().map(|section| (section, dump::kind(section))) {
        Some((section, None)) => {
            let message = format!("`{section}` is no section; there are clusters, endpoints, listeners, routes\n");
            return (StatusCode::BAD_REQUEST, message).into_response();
        }
        Some((_, kind)) => kind,
        None => None,
    };
    // Of several streams of one proxy the newest speaks for it.
    let Some(connection) = about.connections.all().into_iter().rfind(|c| c.proxy() == query.proxy) else {
        return (StatusCode::NOT_FOUND, format!("no proxy {} is connected\n", query.proxy)).into_response();
    };
    let Some(snapshot) = about.snapshot() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    // All of a large mesh takes seconds: not on a thread that serves streams.
    let made = tokio::task::spawn_blocking(move || match query.sent {
        true => dump::sent(&snapshot, connection.view(), &connection.sent(), only),
        false => dump::dump(&snapshot, connection.view(), only),
    });
    match made.await {
        Ok(dump) => Json(dump).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The scopes of the log, with their levels.
async fn log(State(about): State<Arc<About>>) -> Json<Vec<ScopeStatus>> {
    Json(about.logging.scopes())
}

#[derive(Deserialize)]
struct LogQuery {
    /// `SCOPE:LEVEL` with commas, or one level for all.
    level: Option<String>,
    /// Back to what the process was started with, before anything is set.
    #[serde(default)]
    reset: bool,
}

/// Sets levels, and tells of all.
async fn set_log(State(about): State<Arc<About>>, Query(query): Query<LogQuery>) -> Response {
    let reset = if query.reset { about.logging.reset() } else { Ok(()) };
    match reset.and_then(|()| query.level.as_deref().map_or(Ok(()), |level| about.logging.set(level))) {
        Ok(()) => Json(about.logging.scopes()).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn connections(State(about): State<Arc<About>>) -> Json<Vec<ConnectionStatus>> {
    let status = |c: &Arc<Connection>| ConnectionStatus {
        number: c.number,
        proxy: c.proxy(),
        node: c.view().facts().id.to_string(),
        identity: c.identity.to_string(),
        peer: c.peer.to_string(),
        seconds: c.since.elapsed().unwrap_or_default().as_secs(),
    };
    Json(about.connections.all().iter().map(status).collect())
}

async fn configz(State(about): State<Arc<About>>) -> Json<Configz> {
    let snapshot = about.snapshot().unwrap_or_else(Snapshot::empty);
    let object = |key: Key| {
        Some(ObjectStatus {
            kind: key.kind.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            origin: snapshot.object(&key)?.meta().origin.to_string(),
            version: snapshot.content_version(&key)?,
        })
    };
    let faults = writer::lock(&about.faults);
    let refused = |((_, fault), refused): (&(SourceId, Fault), &Refused)| RefusedStatus {
        file: fault.file.to_string(),
        object: fault.key.as_ref().map(ToString::to_string),
        problems: refused.problems.iter().map(ToString::to_string).collect(),
        kept: refused.kept,
    };
    let mesh = snapshot.mesh();
    Json(Configz {
        snapshot: snapshot.version(),
        mesh: ConfigStatus { trust_domain: mesh.trust_domain.to_string(), root_namespace: mesh.root_namespace.clone() },
        objects: snapshot.keys().filter_map(object).collect(),
        refused: faults.refused.iter().map(refused).collect(),
        closed: snapshot.closed().map(|c| c.key.to_string()).collect(),
        warnings: faults.warnings.values().flatten().chain(&faults.hidden).chain(&faults.together).map(ToString::to_string).collect(),
    })
}

/// What proxies do not take, told of their pods.
fn rejected_by_proxies(connections: &[Arc<Connection>], version: u64) -> Vec<Message> {
    let mut messages = Vec::new();
    for connection in connections {
        let facts = connection.view().facts();
        let id = Id::new(Sort::Pod, facts.namespace.clone(), facts.pod.clone());
        for of_type in connection.status(version).types {
            for (name, why) in of_type.resources.into_iter().filter_map(|resource| Some((resource.name, resource.rejected?))) {
                let text = format!("the proxy refuses {} {name}: {why}", of_type.name).replace('\n', " ");
                messages.push(mizzen_analyze::refused_by_proxy(id.clone(), Pos::default(), text));
            }
        }
    }
    messages
}

/// What is wrong with what is in force, and with what is refused.
async fn analyze(State(about): State<Arc<About>>) -> Response {
    let Some(analyzed) = about.analyzed.clone() else {
        return (StatusCode::NOT_FOUND, "the control plane was started with --no-analysis\n").into_response();
    };
    let snapshot = about.snapshot().unwrap_or_else(Snapshot::empty);
    let (refused, together) = {
        let faults = writer::lock(&about.faults);
        let refused: Vec<Vec<Problem>> = faults.refused.values().map(|refused| refused.problems.clone()).collect();
        (refused, faults.warnings.values().flatten().chain(&faults.hidden).chain(&faults.together).cloned().collect::<Vec<_>>())
    };
    let rejected = rejected_by_proxies(&about.connections.all(), snapshot.version());
    let made = tokio::task::spawn_blocking(move || {
        let mut messages = analyzed.messages(&snapshot);
        messages.extend(rejected);
        messages.extend(refused.iter().flat_map(|problems| mizzen_analyze::refused(problems)));
        mizzen_analyze::add(&mut messages, mizzen_analyze::warned(&together));
        messages
    });
    match made.await {
        Ok(messages) => Json(messages).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// What was fetched for RequestAuthentications.
async fn keysz(State(about): State<Arc<About>>) -> Json<Vec<IssuerKeysStatus>> {
    let snapshot = about.snapshot().unwrap_or_else(Snapshot::empty);
    let all = snapshot.objects::<istio::IssuerKeys>();
    Json(all.map(|fetched| IssuerKeysStatus { from: fetched.meta.name.to_string(), keys: fetched.keys.clone() }).collect())
}

async fn registryz(State(about): State<Arc<About>>) -> Json<Vec<ServiceStatus>> {
    let Some(snapshot) = about.snapshot() else { return Json(Vec::new()) };
    let reader = Reader::new(&snapshot);
    let allocated = |service: &mizzen_model::ServiceView| service.allocated.clone().into_iter().map(IpRange::from);
    let status = |service: &Arc<mizzen_model::ServiceView>| ServiceStatus {
        host: service.host.to_string(),
        namespace: service.namespace().to_string(),
        addresses: service.addresses.iter().copied().chain(allocated(service)).map(|range| range.to_string()).collect(),
        ports: service.ports.iter().map(|p| p.port).collect(),
        endpoints: reader.endpoints(service).by_port.values().map(Vec::len).sum(),
    };
    Json(reader.services().map(status).collect())
}

#[derive(Deserialize)]
struct LiveQuery {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
}

/// Whether an object's newest version is in every proxy, where not, and why.
async fn live(State(about): State<Arc<About>>, Query(query): Query<LiveQuery>) -> Response {
    let Some(kind) = Kind::called(&query.kind) else {
        return (StatusCode::BAD_REQUEST, format!("`{}` is no kind\n", query.kind)).into_response();
    };
    let Some(snapshot) = about.snapshot() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let key = Key::new(kind, query.namespace, query.name);
    // What is gone is live where the snapshot without it is; without a record of when that was, the newest one is asked for.
    let version = snapshot.content_version(&key);
    let needed = version.unwrap_or_else(|| snapshot.version());
    let ready = match snapshot.object(&key).map(AsRef::as_ref) {
        Some(Object::Pod(pod)) => Some(pod.status.ready),
        _ => None,
    };
    let mut answer = Live { version, ready, ..Live::default() };
    for proxy in about.connections.proxies(snapshot.version()) {
        let errors: Vec<String> = proxy.types.into_iter().filter(|t| t.state == SyncState::Error).filter_map(|t| t.error).collect();
        if proxy.snapshot < needed {
            answer.pending.push(proxy.proxy);
        } else if errors.is_empty() {
            answer.live.push(proxy.proxy);
        } else {
            answer.rejected.push(Rejected { proxy: proxy.proxy, errors });
        }
    }
    Json(answer).into_response()
}
