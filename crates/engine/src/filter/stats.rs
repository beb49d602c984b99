//! Istio's standard metrics and their labels.

use std::{collections::HashMap, sync::Arc};

use mizzen_ir::{
    Changes, Config,
    config::{Cluster, Direction, Endpoint, StatsConfig},
};
use mizzen_types::Name;

use super::Filters;
use crate::{
    address,
    conn::Conn,
    kept::{TcpCounters, TcpStats},
    metrics::{Handle, Table},
    peer::{PeerInfo, clip},
    same::Same,
    view::View,
};

/// Endpoints whose workloads are kept.
const MOST_ENDPOINTS: usize = 4096;

/// Handles by what tells series apart, so that labels are made once. What it holds of a cluster goes with that.
#[derive(Debug, Default)]
pub(crate) struct StatsCache {
    http: HashMap<Option<Same<Cluster>>, HashMap<Key, HttpHandles>>,
    /// How many handles' keys there are.
    keys: usize,
    /// Clusters that are new in it: they may be of an older configuration.
    fresh: Vec<Same<Cluster>>,
    /// What the control plane says of endpoints.
    endpoints: HashMap<Same<Endpoint>, Option<Arc<PeerInfo>>>,
}

/// What tells the series of two requests apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    config: Same<StatsConfig>,
    outbound: bool,
    source: Option<Same<PeerInfo>>,
    destination: Option<Same<PeerInfo>>,
    principals: (Option<Name>, Option<Name>),
    host: Option<Name>,
    blocked: bool,
    status: u16,
    grpc: Option<(bool, u32)>,
    flags: crate::flags::Flags,
}

#[derive(Clone, Copy, Debug)]
struct HttpHandles {
    requests: Option<Handle>,
    duration: Option<Handle>,
    request_bytes: Option<Handle>,
    response_bytes: Option<Handle>,
    request_messages: Option<Handle>,
    response_messages: Option<Handle>,
}

/// The labels of a series.
type Labels = Vec<(&'static str, String)>;

/// Who talks to whom.
struct Parties<'a> {
    direction: Direction,
    source: Option<&'a Arc<PeerInfo>>,
    destination: Option<&'a Arc<PeerInfo>>,
    source_principal: Option<&'a Name>,
    destination_principal: Option<&'a Name>,
    host: Option<&'a str>,
}

fn or_unknown(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or("unknown").to_owned()
}

/// Whether the route is the one for hosts that the registry does not know.
fn is_blocked(view: &View<'_>) -> bool {
    view.request.and_then(|r| r.route.as_ref()).is_some_and(|r| &*r.route.name == "block_all")
}

/// The labels that requests and connections share.
fn labels(parties: &Parties<'_>, view: &View<'_>, config: &StatsConfig, protocol: &str) -> Labels {
    let (source, destination) = (parties.source, parties.destination);
    let outbound = parties.direction != Direction::Inbound;
    let cluster = view.record.and_then(|r| r.cluster.as_ref());
    let service = cluster.and_then(|c| c.services.first());
    let special =
        cluster.map(|c| &*c.name).filter(|n| matches!(*n, "PassthroughCluster" | "BlackHoleCluster" | "InboundPassthroughCluster"));
    // Who calls nobody that is known may not choose names for series.
    let blocked = is_blocked(view);
    let special = special.or(blocked.then_some("BlackHoleCluster"));
    let host = parties.host.filter(|_| !config.disable_host_header_fallback && !blocked).map(clip);
    let of = |peer: Option<&Arc<PeerInfo>>, f: fn(&PeerInfo) -> &String| or_unknown(peer.map(|p| f(p).as_str()));
    let mutual = parties.source_principal.is_some() && parties.destination_principal.is_some();
    let security = if outbound {
        "unknown"
    } else if mutual {
        "mutual_tls"
    } else {
        "none"
    };
    let service_host = service.map(|s| &*s.host).or(host).or(special);
    let service_name = special.or(service.map(|s| &*s.name)).or(host);
    let flags = view.record.map(|r| r.flags.to_string()).unwrap_or_else(|| "-".to_owned());
    vec![
        ("reporter", if outbound { "source" } else { "destination" }.to_owned()),
        ("source_workload", of(source, |p| &p.workload)),
        ("source_canonical_service", of(source, |p| &p.canonical)),
        ("source_canonical_revision", of(source, |p| &p.revision)),
        ("source_workload_namespace", of(source, |p| &p.namespace)),
        ("source_principal", or_unknown(parties.source_principal.map(|n| &**n))),
        ("source_app", of(source, |p| &p.app)),
        ("source_version", of(source, |p| &p.version)),
        ("source_cluster", of(source, |p| &p.cluster)),
        ("destination_workload", of(destination, |p| &p.workload)),
        ("destination_workload_namespace", of(destination, |p| &p.namespace)),
        ("destination_principal", or_unknown(parties.destination_principal.map(|n| &**n))),
        ("destination_app", of(destination, |p| &p.app)),
        ("destination_version", of(destination, |p| &p.version)),
        ("destination_service", or_unknown(service_host)),
        ("destination_canonical_service", of(destination, |p| &p.canonical)),
        ("destination_canonical_revision", of(destination, |p| &p.revision)),
        ("destination_service_name", or_unknown(service_name)),
        (
            "destination_service_namespace",
            or_unknown(service.map(|s| &*s.namespace).or(destination.map(|d| d.namespace.as_str()).filter(|_| !outbound))),
        ),
        ("destination_cluster", of(destination, |p| &p.cluster)),
        ("request_protocol", protocol.to_owned()),
        ("response_flags", flags),
        ("connection_security_policy", security.to_owned()),
    ]
}

/// A metric's labels after the configuration took some away; none if the metric itself is dropped.
fn kept(name: &str, labels: &Labels, config: &StatsConfig) -> Option<Labels> {
    let short = name.strip_prefix("istio_").unwrap_or(name);
    let is = |n: &Name| matches!(&**n, "*") || **n == *short || short.strip_suffix("_total") == Some(&**n);
    if config.dropped_metrics.iter().any(is) {
        return None;
    }
    let dropped = |tag: &str| config.dropped_tags.iter().any(|(metric, t)| is(metric) && **t == *tag);
    Some(labels.iter().filter(|(tag, _)| !dropped(tag)).cloned().collect())
}

impl StatsCache {
    /// A new configuration: what is kept of clusters and endpoints that it changed goes.
    pub(super) fn take_config(&mut self, old: &Config, config: &Config, changes: &Changes) {
        if !changes.listeners.is_empty() {
            // Theirs are the options that keys hold.
            self.clear();
        }
        let changed = changes.clusters.iter().filter_map(|name| old.clusters.get(name)).cloned().map(Same);
        let is_old = |cluster: &Same<Cluster>| config.clusters.get(&cluster.0.name).is_none_or(|new| !Arc::ptr_eq(new, &cluster.0));
        for cluster in std::mem::take(&mut self.fresh).into_iter().chain(changed).filter(is_old) {
            self.keys -= self.http.remove(&Some(cluster)).map_or(0, |of_cluster| of_cluster.len());
        }
        let gone = changes.reached.iter().filter_map(|name| old.assignment_of(old.clusters.get(name)?));
        for endpoint in gone.flat_map(|assignment| assignment.endpoints()) {
            self.endpoints.remove(&Same(endpoint.clone()));
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [(&'static str, usize); 3] {
        let keys = self.http.values().map(HashMap::len).sum();
        assert_eq!(self.keys, keys);
        [("clusters of metrics", self.http.len()), ("keys of metrics", keys), ("endpoints of metrics", self.endpoints.len())]
    }

    fn clear(&mut self) {
        self.http.clear();
        self.fresh.clear();
        self.keys = 0;
    }

    /// Counts a request.
    fn request(&mut self, table: &mut Table, config: &Arc<StatsConfig>, parties: &Parties<'_>, view: &View<'_>) {
        let (Some(record), Some(stream), Some(request)) = (view.record, view.stream, view.request) else { return };
        let blocked = is_blocked(view);
        let needs_host = !blocked && record.cluster.as_ref().is_none_or(|c| c.services.is_empty());
        let key = Key {
            config: Same(config.clone()),
            outbound: parties.direction != Direction::Inbound,
            source: parties.source.cloned().map(Same),
            destination: parties.destination.cloned().map(Same),
            principals: (parties.source_principal.cloned(), parties.destination_principal.cloned()),
            host: parties.host.filter(|_| needs_host).map(clip).map(Name::from),
            blocked,
            status: record.status,
            grpc: request.is_grpc.then(|| (record.grpc_status.is_some(), record.grpc_status.unwrap_or(0))),
            flags: record.flags,
        };
        if self.keys > Table::MOST {
            self.clear();
        }
        let cluster = record.cluster.clone().map(Same);
        let of_cluster = self.http.entry(cluster).or_insert_with_key(|cluster| {
            self.fresh.extend(cluster.clone());
            HashMap::new()
        });
        let handles = *of_cluster.entry(key).or_insert_with(|| {
            self.keys += 1;
            let mut labels = labels(parties, view, config, if request.is_grpc { "grpc" } else { "http" });
            labels.push(("response_code", record.status.to_string()));
            if let Some(grpc) = record.grpc_status.filter(|_| request.is_grpc) {
                labels.push(("grpc_response_status", grpc.to_string()));
            }
            let counter = |table: &mut Table, name| kept(name, &labels, config).map(|l| table.counter(name, l));
            let histogram = |table: &mut Table, name| kept(name, &labels, config).map(|l| table.histogram(name, l));
            let grpc = request.is_grpc;
            HttpHandles {
                requests: counter(table, "istio_requests_total"),
                duration: histogram(table, "istio_request_duration_milliseconds"),
                request_bytes: histogram(table, "istio_request_bytes"),
                response_bytes: histogram(table, "istio_response_bytes"),
                request_messages: if grpc { counter(table, "istio_request_messages_total") } else { None },
                response_messages: if grpc { counter(table, "istio_response_messages_total") } else { None },
            }
        });
        let duration = view.now.mono.saturating_sub(record.begun).as_secs_f64() * 1000.0;
        let mut add = |handle: Option<Handle>, n: u64| handle.map(|h| table.add(h, n));
        let [up, down] = request.facts.grpc;
        add(handles.requests, 1);
        add(handles.request_messages, up.messages);
        add(handles.response_messages, down.messages);
        let mut observe = |handle: Option<Handle>, n: f64| handle.map(|h| table.observe(h, n));
        observe(handles.duration, duration);
        observe(handles.request_bytes, (stream.req.bytes + request.head.size() as u64) as f64);
        observe(handles.response_bytes, (stream.resp.bytes + request.response.size() as u64) as f64);
    }
}

impl StatsCache {
    /// What the control plane says of the endpoint that was used.
    fn endpoint(&mut self, view: &View<'_>) -> Option<Arc<PeerInfo>> {
        let endpoint = view.record?.endpoint.as_ref()?;
        let workload = endpoint.workload.as_ref()?;
        if self.endpoints.len() >= MOST_ENDPOINTS {
            self.endpoints.clear();
        }
        let made = || Some(Arc::new(PeerInfo::from_workload(workload)));
        self.endpoints.entry(Same(endpoint.clone())).or_insert_with(made).clone()
    }
}

/// The end of a request.
pub(super) fn finish(config: &Arc<StatsConfig>, filters: &mut Filters, table: &mut Table, view: &View<'_>) {
    let Some(request) = view.request else { return };
    let endpoint = filters.stats.endpoint(view);
    let (down, up) = (request.facts.peers.down.as_ref(), request.facts.peers.up.as_ref().or(endpoint.as_ref()));
    let parties = Parties { host: Some(address::without_port(request.head.authority())), ..parties(view, down, up, &filters.node.info) };
    filters.stats.request(table, config, &parties, view);
}

/// Who talks to whom, as this side knows it.
fn parties<'a>(
    view: &View<'a>,
    down_peer: Option<&'a Arc<PeerInfo>>,
    up_peer: Option<&'a Arc<PeerInfo>>,
    local: &'a Arc<PeerInfo>,
) -> Parties<'a> {
    let down = view.conn.and_then(Conn::down);
    let direction = down.map_or(Direction::Unspecified, |d| d.listener.direction);
    if direction == Direction::Inbound {
        let peer = down.and_then(|d| d.peer.as_ref()).and_then(|p| p.uris.first());
        let mine = down.and_then(|d| d.local_uri.as_ref()).filter(|_| peer.is_some());
        Parties { direction, source: down_peer, destination: Some(local), source_principal: peer, destination_principal: mine, host: None }
    } else {
        let theirs = view.record.and_then(|r| r.upstream_uri());
        let mine = view.record.and_then(|r| r.upstream_local_uri.as_ref()).filter(|_| theirs.is_some());
        Parties { direction, source: Some(local), destination: up_peer, source_principal: mine, destination_principal: theirs, host: None }
    }
}

/// A connection has its partner: counted.
pub(super) fn tcp_opened(filters: &mut Filters, table: &mut Table, stats: &mut TcpStats, view: &View<'_>) {
    let endpoint = filters.stats.endpoint(view);
    let parties = parties(view, None, endpoint.as_ref(), &filters.node.info);
    let labels = labels(&parties, view, &stats.config, "tcp");
    let mut counter = |name| kept(name, &labels, &stats.config).map(|l| table.counter(name, l));
    let opened = counter("istio_tcp_connections_opened_total");
    let closed = counter("istio_tcp_connections_closed_total");
    let (sent, received) = (counter("istio_tcp_sent_bytes_total"), counter("istio_tcp_received_bytes_total"));
    stats.counters = Some(TcpCounters { sent, received, closed });
    if let Some(opened) = opened {
        table.add(opened, 1);
    }
}

/// Adds what a connection carried since the last report; and that it is closed, if this is its end. Received is what came from the client, at
/// either reporter.
pub(super) fn tcp_progress(table: &mut Table, stats: &mut TcpStats, sent: u64, received: u64, over: bool) {
    let Some(counters) = stats.counters else { return };
    let (sent_before, received_before) = std::mem::replace(&mut stats.reported, (sent, received));
    let mut add = |handle: Option<Handle>, n: u64| handle.map(|h| table.add(h, n));
    add(counters.received, received.saturating_sub(received_before));
    add(counters.sent, sent.saturating_sub(sent_before));
    if over {
        add(counters.closed, 1);
    }
}
