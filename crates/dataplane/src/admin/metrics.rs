//! `/stats`: what the workers counted, and a few numbers about the process itself.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use mizzen_engine::metrics::{ClusterStats, Series, Snapshot, Value};
use mizzen_ir::ResourceKind;
use mizzen_xds::types;
use regex::{Regex, RegexBuilder};
use serde_json::json;

use super::{
    Admin,
    view::{Stage, View},
};

/// What the control thread counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    updates: AtomicU64,
    rejected: AtomicU64,
    /// Answers about clusters and about listeners that were taken as a whole, and those of which a part was refused.
    clusters: [AtomicU64; 2],
    listeners: [AtomicU64; 2],
    log_dropped: AtomicU64,
    /// What servers have sent, by the short name of its type.
    received: Mutex<BTreeMap<String, Received>>,
}

/// Responses, the resources and names of removed ones in them, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Received {
    responses: u64,
    resources: u64,
    bytes: u64,
}

/// Types that are counted apart: a server may invent more.
const MOST_TYPES: usize = 16;

impl Process {
    /// A server has sent so many resources, or names of removed ones, of a type, in a message of so many bytes.
    pub(crate) fn received(&self, type_url: &str, resources: usize, bytes: usize) {
        let mut all = self.0.received.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.contains_key(types::short(type_url)) || all.len() < MOST_TYPES;
        let one = all.entry(if known { types::short(type_url).to_owned() } else { "other".to_owned() }).or_default();
        one.responses += 1;
        one.resources += resources as u64;
        one.bytes += bytes as u64;
    }

    /// Resources of a kind that came in one answer.
    pub(crate) fn updated(&self, kind: ResourceKind, taken: u64, rejected: u64) {
        let answers = match kind {
            ResourceKind::Cluster => Some(&self.0.clusters),
            ResourceKind::Listener => Some(&self.0.listeners),
            ResourceKind::Assignment | ResourceKind::Route | ResourceKind::Secret | ResourceKind::VirtualHost => None,
        };
        if let Some(answers) = answers {
            answers[usize::from(rejected > 0)].fetch_add(1, Relaxed);
        }
        self.0.updates.fetch_add(taken, Relaxed);
        self.0.rejected.fetch_add(rejected, Relaxed);
    }

    /// Batches of access-log lines that were dropped.
    pub(crate) fn set_log_dropped(&self, n: u64) {
        self.0.log_dropped.store(n, Relaxed);
    }
}

/// The numbers about the process as series, in the order of their names.
fn process(view: &View, counters: &Snapshot, admin: &Admin) -> Vec<Series> {
    let gauge = |n: u64| Value::Gauge(i64::try_from(n).unwrap_or(i64::MAX));
    let c = &admin.process.0;
    let state = match *admin.stage.borrow() {
        Stage::Live => 0,
        Stage::Draining => 1,
        Stage::Initializing => 2,
    };
    let size = |n: usize| gauge(n as u64);
    let warnings = view.resources.iter().map(|r| r.warnings().len()).sum();
    let refused = view.resources.iter().filter(|r| r.refused.is_some()).count();
    let count = |n: &AtomicU64| Value::Counter(n.load(Relaxed));
    let mut all: Vec<Series> = [
        ("envoy_cluster_manager_active_clusters", size(view.config.clusters.size())),
        ("envoy_cluster_manager_cds_update_rejected", count(&c.clusters[1])),
        ("envoy_cluster_manager_cds_update_success", count(&c.clusters[0])),
        ("envoy_control_plane_connected_state", gauge(view.connected.into())),
        ("envoy_listener_manager_lds_update_rejected", count(&c.listeners[1])),
        ("envoy_listener_manager_lds_update_success", count(&c.listeners[0])),
        ("envoy_listener_manager_workers_started", gauge(u64::from(state != 2))),
        ("envoy_listener_manager_total_listeners_active", size(view.config.listeners.size())),
        ("envoy_server_live", gauge(u64::from(state == 0))),
        ("envoy_server_state", gauge(state)),
        ("envoy_server_uptime", gauge(admin.started.elapsed().as_secs())),
        ("mizzen_access_log_dropped_total", Value::Counter(c.log_dropped.load(Relaxed))),
        ("mizzen_breaker_guards", gauge(counters.guards)),
        ("mizzen_buffered_bytes", gauge(counters.buffered)),
        ("mizzen_config_generation", gauge(view.config.generation)),
        ("mizzen_config_rejected_total", Value::Counter(c.rejected.load(Relaxed))),
        ("mizzen_config_updates_total", Value::Counter(c.updates.load(Relaxed))),
        ("mizzen_config_warnings", size(warnings)),
        ("mizzen_resources_refused", size(refused)),
        ("mizzen_streams_active", gauge(counters.streams)),
    ]
    .into_iter()
    .map(|(name, value)| Series { name, labels: Vec::new(), value })
    .collect();
    all.push(Series {
        name: "istio_build",
        labels: vec![("component", "proxy".to_owned()), ("tag", format!("mizzen-{}", admin.version))],
        value: Value::Gauge(1),
    });
    // Nothing waits while it holds the lock.
    for (kind, received) in &*c.received.lock().unwrap_or_else(PoisonError::into_inner) {
        for (name, n) in [
            ("mizzen_xds_received_bytes_total", received.bytes),
            ("mizzen_xds_received_resources_total", received.resources),
            ("mizzen_xds_received_responses_total", received.responses),
        ] {
            all.push(Series { name, labels: vec![("type", kind.clone())], value: Value::Counter(n) });
        }
    }
    for (listener, n) in &counters.downstream {
        all.push(Series {
            name: "envoy_listener_downstream_cx_active",
            labels: vec![("listener", listener.to_string())],
            value: gauge(*n),
        });
    }
    for ClusterStats { name: cluster, hosts, .. } in &counters.clusters {
        let sum = |f: fn(&mizzen_engine::metrics::HostStats) -> u64| hosts.iter().map(f).sum::<u64>();
        for (name, value) in [
            ("envoy_cluster_upstream_cx_active", gauge(sum(|h| h.connections))),
            ("envoy_cluster_upstream_cx_connect_fail", Value::Counter(sum(|h| h.connect_failures))),
            ("envoy_cluster_upstream_cx_total", Value::Counter(sum(|h| h.connections_total))),
            ("envoy_cluster_upstream_rq_active", gauge(sum(|h| h.active))),
            ("envoy_cluster_upstream_rq_total", Value::Counter(sum(|h| h.requests))),
        ] {
            all.push(Series { name, labels: vec![("cluster_name", cluster.to_string())], value });
        }
    }
    all
}

/// The names without labels that Envoy has for them, where taking `envoy_` and the first `_` apart is not enough.
const PLAIN: [(&str, &str); 6] = [
    ("cluster_manager_cds_", "cluster_manager.cds."),
    ("cluster_manager_", "cluster_manager."),
    ("control_plane_", "control_plane."),
    ("listener_manager_lds_", "listener_manager.lds."),
    ("listener_manager_", "listener_manager."),
    ("server_", "server."),
];

/// A series' name in Envoy's plain form: `cluster_manager.cds.update_success`, `cluster.NAME.upstream_cx_total`. Labels that have no place there
/// are appended.
fn plain(series: &Series) -> String {
    let labelled = |mut name: String| {
        for (key, value) in &series.labels {
            let _ = write!(name, ".{key}.{value}");
        }
        name
    };
    let Some(name) = series.name.strip_prefix("envoy_") else { return labelled(series.name.to_owned()) };
    if let Some((prefix, plain)) = PLAIN.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return labelled(format!("{plain}{}", &name[prefix.len()..]));
    }
    match (name.split_once('_'), series.labels.as_slice()) {
        (Some((kind @ ("cluster" | "listener"), rest)), [(_, of)]) => format!("{kind}.{of}.{rest}"),
        _ => labelled(name.to_owned()),
    }
}

/// What of the numbers is wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Only those whose plain name has a match.
    filter: Option<Regex>,
    /// Only what has been counted at least once.
    used: bool,
}

/// The largest compiled filter, in bytes.
const MAX_FILTER: usize = 1 << 20;

impl Wanted {
    /// From a page's parameters.
    pub(super) fn new(params: &std::collections::HashMap<String, String>) -> Result<Wanted, String> {
        let regex = |text: &String| {
            RegexBuilder::new(text).size_limit(MAX_FILTER).build().map_err(|_| format!("filter `{text}` is no regular expression"))
        };
        Ok(Wanted { filter: params.get("filter").map(regex).transpose()?, used: params.contains_key("usedonly") })
    }

    fn takes(&self, series: &Series) -> bool {
        let used = match &series.value {
            Value::Counter(n) => *n > 0,
            Value::Gauge(_) => true,
            Value::Histogram { buckets, .. } => buckets.iter().any(|n| *n > 0),
        };
        (used || !self.used) && self.filter.as_ref().is_none_or(|filter| filter.is_match(&plain(series)))
    }
}

fn everything(view: &View, counters: &Snapshot, admin: &Admin, wanted: &Wanted) -> Snapshot {
    let mut series = process(view, counters, admin);
    series.extend(counters.series.iter().cloned());
    series.retain(|series| wanted.takes(series));
    Snapshot { series, ..Snapshot::default() }
}

pub(super) fn prometheus(view: &View, counters: &Snapshot, admin: &Admin, wanted: &Wanted) -> String {
    let mut out = String::new();
    everything(view, counters, admin, wanted).prometheus(&mut out);
    out
}

/// Name and number of each; histograms by their count and sum.
fn flat(all: Snapshot) -> Vec<(String, f64)> {
    let mut flat = Vec::new();
    for series in all.series {
        let name = plain(&series);
        match series.value {
            Value::Counter(n) => flat.push((name, n as f64)),
            Value::Gauge(n) => flat.push((name, n as f64)),
            Value::Histogram { buckets, sum } => {
                flat.push((format!("{name}.count"), buckets.iter().sum::<u64>() as f64));
                flat.push((format!("{name}.sum"), sum));
            }
        }
    }
    flat.sort_by(|a, b| a.0.cmp(&b.0));
    flat
}

pub(super) fn text(view: &View, counters: &Snapshot, admin: &Admin, wanted: &Wanted) -> String {
    flat(everything(view, counters, admin, wanted)).into_iter().map(|(name, n)| format!("{name}: {n}\n")).collect()
}

pub(super) fn json(view: &View, counters: &Snapshot, admin: &Admin, wanted: &Wanted) -> serde_json::Value {
    let all = flat(everything(view, counters, admin, wanted)).into_iter();
    json!({"stats": all.map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(filter: &str, used: bool) -> Result<Wanted, String> {
        let used = used.then(|| ("usedonly".to_owned(), String::new()));
        Wanted::new(&used.into_iter().chain([("filter".to_owned(), filter.to_owned())]).collect())
    }

    #[test]
    fn names_are_envoys() {
        for (name, labels, expected) in [
            ("envoy_cluster_manager_cds_update_success", vec![], "cluster_manager.cds.update_success"),
            ("envoy_listener_manager_lds_update_rejected", vec![], "listener_manager.lds.update_rejected"),
            ("envoy_listener_manager_workers_started", vec![], "listener_manager.workers_started"),
            ("envoy_server_state", vec![], "server.state"),
            ("envoy_control_plane_connected_state", vec![], "control_plane.connected_state"),
            ("envoy_cluster_upstream_cx_total", vec![("cluster_name", "a".to_owned())], "cluster.a.upstream_cx_total"),
            (
                "envoy_listener_downstream_cx_active",
                vec![("listener", "0.0.0.0_80".to_owned())],
                "listener.0.0.0.0_80.downstream_cx_active",
            ),
            ("istio_requests_total", vec![("response_code", "200".to_owned())], "istio_requests_total.response_code.200"),
        ] {
            assert_eq!(plain(&Series { name, labels, value: Value::Gauge(0) }), expected);
        }
    }

    #[test]
    fn a_server_does_not_make_series_without_end() {
        let process = Process::default();
        for n in 0..100 {
            process.received(&format!("type.googleapis.com/a.b{n}"), 2, 10);
        }
        process.received("type.googleapis.com/x.b1", 1, 5);
        let all = process.0.received.lock().unwrap();
        assert_eq!(all.len(), MOST_TYPES + 1);
        assert_eq!(all["b1"], Received { responses: 2, resources: 3, bytes: 15 });
        assert_eq!(all["other"].responses, 84);
    }

    #[test]
    fn filters() {
        let series = |name, value| Series { name, labels: Vec::new(), value };
        let (success, state) =
            (series("envoy_cluster_manager_cds_update_success", Value::Counter(0)), series("envoy_server_state", Value::Gauge(0)));
        let agents =
            r"^(server\.state|listener_manager\.workers_started|(cluster_manager\.cds|listener_manager\.lds)\.update_(success|rejected))$";
        for (filter, used, takes) in [(agents, true, [false, true]), (agents, false, [true, true]), ("state", false, [false, true])] {
            let wanted = wanted(filter, used).unwrap();
            assert_eq!([wanted.takes(&success), wanted.takes(&state)], takes, "{filter} {used}");
        }
        for filter in ["(", "((a{1000}){1000}){1000}"] {
            assert!(wanted(filter, false).is_err(), "{filter}");
        }
    }
}
