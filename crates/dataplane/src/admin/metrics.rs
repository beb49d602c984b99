//! `/stats`: what the workers counted, and a few numbers about the process itself.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use mizzen_engine::metrics::{Series, Snapshot, Value};
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
    log_dropped: AtomicU64,
}

impl Process {
    /// Resources that came.
    pub(crate) fn updated(&self, taken: u64, rejected: u64) {
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
    let mut all: Vec<Series> = [
        ("envoy_cluster_manager_active_clusters", size(view.config.clusters.len())),
        ("envoy_control_plane_connected_state", gauge(view.connected.into())),
        ("envoy_listener_manager_total_listeners_active", size(view.config.listeners.len())),
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
    for (listener, n) in &counters.downstream {
        all.push(Series {
            name: "envoy_listener_downstream_cx_active",
            labels: vec![("listener", listener.to_string())],
            value: gauge(*n),
        });
    }
    for (cluster, hosts) in &counters.hosts {
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

fn everything(view: &View, counters: &Snapshot, admin: &Admin) -> Snapshot {
    let mut series = process(view, counters, admin);
    series.extend(counters.series.iter().cloned());
    Snapshot { series, ..Snapshot::default() }
}

pub(super) fn prometheus(view: &View, counters: &Snapshot, admin: &Admin) -> String {
    let mut out = String::new();
    everything(view, counters, admin).prometheus(&mut out);
    out
}

/// Name (with labels) and number of each; histograms by their count and sum.
fn flat(view: &View, counters: &Snapshot, admin: &Admin) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    for series in everything(view, counters, admin).series {
        let mut name = series.name.to_owned();
        for (key, value) in &series.labels {
            let _ = write!(name, ".{key}.{value}");
        }
        match series.value {
            Value::Counter(n) => all.push((name, n as f64)),
            Value::Gauge(n) => all.push((name, n as f64)),
            Value::Histogram { buckets, sum } => {
                all.push((format!("{name}.count"), buckets.iter().sum::<u64>() as f64));
                all.push((format!("{name}.sum"), sum));
            }
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

pub(super) fn text(view: &View, counters: &Snapshot, admin: &Admin) -> String {
    flat(view, counters, admin).into_iter().map(|(name, n)| format!("{name}: {n}\n")).collect()
}

pub(super) fn json(view: &View, counters: &Snapshot, admin: &Admin) -> serde_json::Value {
    let all = flat(view, counters, admin).into_iter().map(|(name, value)| json!({"name": name, "value": value}));
    json!({"stats": all.collect::<Vec<_>>()})
}
