//! `/clusters` and `/listeners`.

use std::{collections::HashMap, fmt::Write, net::SocketAddr};

use mizzen_engine::{
    HealthFlags,
    metrics::{HostStats, Snapshot},
};
use mizzen_ir::config::{Assignment, Breakers, Cluster, Discovery, Endpoint, EndpointAddress, Health, ListenerAddress};
use serde_json::{Value, json};

use super::view::View;

/// The hosts of a cluster: those that its endpoints name, with what was counted, and those found by name or by original destination.
fn hosts<'a>(
    view: &'a View,
    cluster: &Cluster,
    used: &'a HashMap<&str, &'a [HostStats]>,
) -> Vec<(String, Option<&'a Endpoint>, Option<&'a HostStats>)> {
    let assignment: Option<&Assignment> = match &cluster.discovery {
        Discovery::Eds { service } => view.config.assignments.get(service).map(|a| &**a),
        Discovery::Static(_) | Discovery::StrictDns(..) | Discovery::LogicalDns(..) => None,
        Discovery::OriginalDst { .. } => None,
    };
    let inline = view.config.clusters.get(&cluster.name).and_then(|c| c.discovery.inline());
    let stats = used.get(&*cluster.name).copied().unwrap_or_default();
    let mut all = Vec::new();
    for endpoint in assignment.into_iter().chain(inline.map(|a| &**a)).flat_map(Assignment::endpoints) {
        let address = match &endpoint.address {
            EndpointAddress::Socket(address) => address.to_string(),
            EndpointAddress::Pipe(path) => path.to_string(),
            EndpointAddress::Internal(listener, id) => format!("envoy://{listener}/{id}"),
            // The addresses that were found for it are among the hosts used.
            EndpointAddress::Dns(..) => continue,
        };
        let stats = stats.iter().find(|h| h.address == address);
        all.push((address, Some(&**endpoint), stats));
    }
    for host in stats {
        if !all.iter().any(|(address, ..)| *address == host.address) {
            all.push((host.address.clone(), None, Some(host)));
        }
    }
    all
}

fn used(counters: &Snapshot) -> HashMap<&str, &[HostStats]> {
    counters.hosts.iter().map(|(name, hosts)| (&**name, hosts.as_slice())).collect()
}

/// Requests in flight to a cluster.
fn active(cluster: &Cluster, used: &HashMap<&str, &[HostStats]>) -> u32 {
    let hosts = used.get(&*cluster.name).copied().unwrap_or_default();
    u32::try_from(hosts.iter().map(|host| host.active).sum::<u64>()).unwrap_or(u32::MAX)
}

fn sorted(view: &View) -> Vec<&Cluster> {
    let mut all: Vec<&Cluster> = view.config.clusters.values().map(|c| &**c).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// As `envoy.admin.v3.Clusters`.
pub(super) fn json(view: &View, counters: &Snapshot) -> Value {
    let used = used(counters);
    let cluster = |cluster: &Cluster| {
        let hosts = hosts(view, cluster, &used);
        let active = active(cluster, &used);
        let mut status = json!({
            "name": &*cluster.name,
            "added_via_api": !view.resources.iter().any(|r| r.fixed && r.name == cluster.name),
            "observability_name": &*cluster.stat_name,
            "circuit_breakers": {"thresholds": [
                thresholds("DEFAULT", &cluster.breakers, active), thresholds("HIGH", &cluster.breakers_high, active),
            ]},
            "host_statuses": hosts.iter().map(|(address, endpoint, stats)| host(address, *endpoint, *stats)).collect::<Vec<_>>(),
        });
        if let Discovery::Eds { service } = &cluster.discovery {
            status["eds_service_name"] = (&**service).into();
        }
        status
    };
    json!({"cluster_statuses": sorted(view).into_iter().map(cluster).collect::<Vec<_>>()})
}

fn thresholds(priority: &str, b: &Breakers, active: u32) -> Value {
    json!({
        "priority": priority,
        "max_connections": b.connections,
        "max_pending_requests": b.pending,
        "max_requests": b.requests,
        "max_retries": b.retries.most(active),
    })
}

fn host(address: &str, endpoint: Option<&Endpoint>, stats: Option<&HostStats>) -> Value {
    let mut health = json!({"eds_health_status": health(endpoint)});
    if stats.is_some_and(|s| s.flags.any(HealthFlags::FAILED_OUTLIER)) {
        health["failed_outlier_check"] = true.into();
    }
    let mut status = json!({"address": address_json(address), "health_status": health, "stats": counts(stats)});
    if let Some(endpoint) = endpoint {
        status["weight"] = endpoint.weight.into();
        if !endpoint.hostname.is_empty() {
            status["hostname"] = (&*endpoint.hostname).into();
        }
    }
    status
}

fn health(endpoint: Option<&Endpoint>) -> &'static str {
    match endpoint.map(|e| e.health) {
        None | Some(Health::Unknown | Health::Healthy) => "HEALTHY",
        Some(Health::Degraded) => "DEGRADED",
        Some(Health::Unhealthy) => "UNHEALTHY",
        Some(Health::Timeout) => "TIMEOUT",
        Some(Health::Draining) => "DRAINING",
    }
}

fn numbers(stats: Option<&HostStats>) -> [(&'static str, u64, bool); 7] {
    let none = HostStats::default();
    let s = stats.unwrap_or(&none);
    [
        ("cx_active", s.connections, true),
        ("cx_connect_fail", s.connect_failures, false),
        ("cx_total", s.connections_total, false),
        ("rq_active", s.active, true),
        ("rq_error", s.error, false),
        ("rq_success", s.success, false),
        ("rq_total", s.requests, false),
    ]
}

/// Protojson writes 64-bit numbers as text.
fn counts(stats: Option<&HostStats>) -> Value {
    let one = |(name, value, gauge): (&str, u64, bool)| {
        let mut one = json!({"name": name, "value": value.to_string()});
        if gauge {
            one["type"] = "GAUGE".into();
        }
        one
    };
    numbers(stats).into_iter().map(one).collect::<Vec<_>>().into()
}

pub(super) fn address_json(address: &str) -> Value {
    match address.parse::<SocketAddr>() {
        Ok(a) => json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}}),
        Err(_) => json!({"pipe": {"path": address}}),
    }
}

/// As Envoy's text.
pub(super) fn text(view: &View, counters: &Snapshot) -> String {
    let used = used(counters);
    let mut out = String::new();
    for cluster in sorted(view) {
        let name = &cluster.name;
        let _ = writeln!(out, "{name}::observability_name::{}", cluster.stat_name);
        let active = active(cluster, &used);
        for (priority, b) in [("default", &cluster.breakers), ("high", &cluster.breakers_high)] {
            let retries = b.retries.most(active);
            for (limit, n) in
                [("connections", b.connections), ("pending_requests", b.pending), ("requests", b.requests), ("retries", retries)]
            {
                let _ = writeln!(out, "{name}::{priority}_priority::max_{limit}::{n}");
            }
        }
        for (address, endpoint, stats) in hosts(view, cluster, &used) {
            for (what, value, _) in numbers(stats) {
                let _ = writeln!(out, "{name}::{address}::{what}::{value}");
            }
            let eds = endpoint.map_or(HealthFlags::default(), |e| HealthFlags::of_eds(e.health));
            let flags = stats.map_or(HealthFlags::default(), |s| s.flags).with(eds);
            let _ = writeln!(out, "{name}::{address}::health_flags::{flags}");
            let _ = writeln!(out, "{name}::{address}::weight::{}", endpoint.map_or(1, |e| e.weight));
        }
    }
    out
}

/// Name and addresses of each listener.
fn listeners(view: &View) -> Vec<(String, Vec<String>)> {
    let address = |a: &ListenerAddress| match a {
        ListenerAddress::Socket(address) => Some(address.to_string()),
        _ => None,
    };
    let one = |l: &mizzen_ir::config::Listener| (l.name.to_string(), l.addresses.iter().filter_map(address).collect());
    let mut all: Vec<(String, Vec<String>)> = view.config.listeners.values().map(|l| one(l)).collect();
    all.sort();
    all
}

/// As `envoy.admin.v3.Listeners`.
pub(super) fn listeners_json(view: &View) -> Value {
    let one = |(name, addresses): (String, Vec<String>)| {
        let mut status = json!({"name": name});
        let mut addresses = addresses.iter().map(|a| address_json(a));
        if let Some(first) = addresses.next() {
            status["local_address"] = first;
        }
        let more: Vec<Value> = addresses.collect();
        if !more.is_empty() {
            status["additional_local_addresses"] = more.into();
        }
        status
    };
    json!({"listener_statuses": listeners(view).into_iter().map(one).collect::<Vec<_>>()})
}

/// As Envoy's text.
pub(super) fn listeners_text(view: &View) -> String {
    listeners(view).into_iter().flat_map(|(name, addresses)| addresses.into_iter().map(move |a| format!("{name}::{a}\n"))).collect()
}
