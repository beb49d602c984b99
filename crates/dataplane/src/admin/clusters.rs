//! `/clusters` and `/listeners`.

use std::{
    collections::HashMap,
    fmt::{Display, Write},
    net::SocketAddr,
};

use mizzen_engine::{
    HealthFlags,
    metrics::{ClusterStats, HostStats, Snapshot},
};
use mizzen_ir::config::{Assignment, Breakers, Cluster, Discovery, Endpoint, EndpointAddress, Health, ListenerAddress};
use mizzen_types::Locality;
use serde_json::{Value, json};

use super::view::View;

/// A host of a cluster, as it is told of.
struct Host<'a> {
    address: String,
    /// What the configuration says of it, and where it stands there.
    endpoint: Option<&'a Endpoint>,
    locality: Option<&'a Locality>,
    priority: usize,
    /// What was counted, if it was used.
    stats: Option<&'a HostStats>,
}

impl Host<'_> {
    fn flags(&self) -> HealthFlags {
        let eds = self.endpoint.map_or(HealthFlags::default(), |e| HealthFlags::of_eds(e.health));
        self.stats.map_or(HealthFlags::default(), |s| s.flags).with(eds)
    }
}

/// The hosts of a cluster that the configuration names, with what was counted; those of names as far as they are resolved, and those found by
/// original destination, or by the names that requests brought.
fn hosts<'a>(view: &'a View, cluster: &'a Cluster, stats: Option<&'a ClusterStats>) -> Vec<Host<'a>> {
    let assignment: Option<&Assignment> = match &cluster.discovery {
        Discovery::Eds { service } => view.config.assignments.get(service).map(|a| &**a),
        other => other.inline().map(|a| &**a),
    };
    let used = stats.map(|s| s.hosts.as_slice()).unwrap_or_default();
    let mut all = Vec::new();
    let priorities = assignment.into_iter().flat_map(|a| a.priorities.iter().enumerate());
    let groups = priorities.flat_map(|(priority, p)| p.localities.iter().map(move |group| (priority, group)));
    for (priority, group) in groups {
        for endpoint in group.endpoints.iter() {
            let mut add = |address: String, stats| {
                all.push(Host { address, endpoint: Some(&**endpoint), locality: Some(&group.locality), priority, stats });
            };
            let address = match &endpoint.address {
                EndpointAddress::Socket(address) => address.to_string(),
                EndpointAddress::Pipe(path) => path.to_string(),
                EndpointAddress::Internal(listener, id) => format!("envoy://{listener}/{id}"),
                EndpointAddress::Dns(..) => {
                    // As many as the name has addresses.
                    let of_it = |h: &&HostStats| h.endpoint.as_ref().is_some_and(|own| **own == **endpoint) && h.is_named;
                    used.iter().filter(of_it).for_each(|h| add(h.address.clone(), Some(h)));
                    continue;
                }
            };
            let stats = used.iter().find(|h| h.address == address);
            add(address, stats);
        }
    }
    if matches!(cluster.discovery, Discovery::OriginalDst { .. } | Discovery::Dynamic(_)) {
        let direct = |h: &'a HostStats| Host { address: h.address.clone(), endpoint: None, locality: None, priority: 0, stats: Some(h) };
        all.extend(used.iter().map(direct));
    }
    all
}

fn used(counters: &Snapshot) -> HashMap<&str, &ClusterStats> {
    counters.clusters.iter().map(|c| (&*c.name, c)).collect()
}

/// Requests in flight to a cluster.
fn active(stats: Option<&ClusterStats>) -> u32 {
    let hosts = stats.map(|s| s.hosts.as_slice()).unwrap_or_default();
    u32::try_from(hosts.iter().map(|host| host.active).sum::<u64>()).unwrap_or(u32::MAX)
}

fn sorted(view: &View) -> Vec<&Cluster> {
    let mut all: Vec<&Cluster> = view.config.clusters.values().map(|c| &**c).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn is_by_api(view: &View, cluster: &Cluster) -> bool {
    !view.resources.iter().any(|r| r.fixed && r.name == cluster.name)
}

/// As `envoy.admin.v3.Clusters`.
pub(super) fn json(view: &View, counters: &Snapshot) -> Value {
    let used = used(counters);
    let cluster = |cluster: &Cluster| {
        let stats = used.get(&*cluster.name).copied();
        let active = active(stats);
        let mut status = json!({
            "name": &*cluster.name,
            "added_via_api": is_by_api(view, cluster),
            "observability_name": &*cluster.stat_name,
            "circuit_breakers": {"thresholds": [
                thresholds("DEFAULT", &cluster.breakers, active), thresholds("HIGH", &cluster.breakers_high, active),
            ]},
            "host_statuses": hosts(view, cluster, stats).iter().map(host).collect::<Vec<_>>(),
        });
        if let Discovery::Eds { service } = &cluster.discovery {
            status["eds_service_name"] = (&**service).into();
        }
        let rates = stats.map(|s| s.rates).unwrap_or_default();
        for (field, rate) in
            [("success_rate_ejection_threshold", rates.answers), ("local_origin_success_rate_ejection_threshold", rates.way)]
        {
            if let Some((_, least)) = rate.filter(|(_, least)| *least >= 0.0) {
                status[field] = json!({"value": least});
            }
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

fn host(host: &Host<'_>) -> Value {
    let mut health = json!({"eds_health_status": health(host.endpoint)});
    for (field, flag) in [
        ("failed_active_health_check", HealthFlags::FAILED_ACTIVE),
        ("failed_outlier_check", HealthFlags::FAILED_OUTLIER),
        ("failed_active_degraded_check", HealthFlags::DEGRADED_ACTIVE),
        ("pending_dynamic_removal", HealthFlags::PENDING_REMOVAL),
        ("pending_active_hc", HealthFlags::PENDING_ACTIVE),
        ("excluded_via_immediate_hc_fail", HealthFlags::LEFT_OUT),
        ("active_hc_timeout", HealthFlags::ACTIVE_TIMEOUT),
        ("failed_degraded_outlier_detection", HealthFlags::DEGRADED_OUTLIER),
    ] {
        if host.flags().any(flag) {
            health[field] = true.into();
        }
    }
    let mut status = json!({"address": address_json(&host.address), "health_status": health, "stats": counts(host.stats)});
    if let Some(endpoint) = host.endpoint {
        status["weight"] = endpoint.weight.into();
        if !endpoint.hostname.is_empty() {
            status["hostname"] = (&*endpoint.hostname).into();
        }
    }
    if host.priority > 0 {
        status["priority"] = host.priority.into();
    }
    if let Some(Locality { region, zone, subzone }) = host.locality {
        let mut locality = json!({});
        for (field, text) in [("region", region), ("zone", zone), ("sub_zone", subzone)] {
            if !text.is_empty() {
                locality[field] = text.as_str().into();
            }
        }
        status["locality"] = locality;
    }
    let [answers, way] = host.stats.map(|s| s.success_rates).unwrap_or_default();
    for (field, rate) in [("success_rate", answers), ("local_origin_success_rate", way)] {
        if let Some(rate) = rate {
            status[field] = json!({"value": rate});
        }
    }
    status
}

fn health(endpoint: Option<&Endpoint>) -> &'static str {
    match endpoint.map(|e| e.health) {
        None | Some(Health::Unknown | Health::Healthy) => "HEALTHY",
        Some(Health::Degraded) => "DEGRADED",
        // Envoy keeps no more of it.
        Some(Health::Unhealthy | Health::Timeout) => "UNHEALTHY",
        Some(Health::Draining) => "DRAINING",
    }
}

fn numbers(stats: Option<&HostStats>) -> [(&'static str, u64, bool); 8] {
    let none = HostStats::default();
    let s = stats.unwrap_or(&none);
    [
        ("cx_active", s.connections, true),
        ("cx_connect_fail", s.connect_failures, false),
        ("cx_total", s.connections_total, false),
        ("rq_active", s.active, true),
        ("rq_error", s.error, false),
        ("rq_success", s.success, false),
        ("rq_timeout", s.timeouts, false),
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
        let stats = used.get(&**name).copied();
        let _ = writeln!(out, "{name}::observability_name::{}", cluster.stat_name);
        let active = active(stats);
        if cluster.outlier.is_some() {
            let rates = stats.map(|s| s.rates).unwrap_or_default();
            for (what, rate) in [("success_rate", rates.answers), ("local_origin_success_rate", rates.way)] {
                // Minus one is Envoy's word for none.
                let (mean, least) = rate.unwrap_or((-1.0, -1.0));
                let _ = writeln!(out, "{name}::outlier::{what}_average::{mean}");
                let _ = writeln!(out, "{name}::outlier::{what}_ejection_threshold::{least}");
            }
        }
        for (priority, b) in [("default", &cluster.breakers), ("high", &cluster.breakers_high)] {
            let retries = b.retries.most(active);
            for (limit, n) in
                [("connections", b.connections), ("pending_requests", b.pending), ("requests", b.requests), ("retries", retries)]
            {
                let _ = writeln!(out, "{name}::{priority}_priority::max_{limit}::{n}");
            }
        }
        let _ = writeln!(out, "{name}::added_via_api::{}", is_by_api(view, cluster));
        for host in hosts(view, cluster, stats) {
            host_text(&mut out, name, &host);
        }
    }
    out
}

fn host_text(out: &mut String, cluster: &str, host: &Host<'_>) {
    let address = &host.address;
    let mut line = |what: &str, value: &dyn Display| {
        let _ = writeln!(out, "{cluster}::{address}::{what}::{value}");
    };
    for (what, value, _) in numbers(host.stats) {
        line(what, &value);
    }
    let none = Locality::default();
    let Locality { region, zone, subzone } = host.locality.unwrap_or(&none);
    line("hostname", &host.endpoint.map_or("", |e| &*e.hostname));
    line("health_flags", &host.flags());
    line("weight", &host.endpoint.map_or(1, |e| e.weight));
    line("region", region);
    line("zone", zone);
    line("sub_zone", subzone);
    line("priority", &host.priority);
    let [answers, way] = host.stats.map(|s| s.success_rates).unwrap_or_default();
    line("success_rate", &answers.unwrap_or(-1.0));
    line("local_origin_success_rate", &way.unwrap_or(-1.0));
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
