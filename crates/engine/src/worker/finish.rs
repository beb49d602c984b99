//! The end of streams: the one place that removes them, and their one record.

use std::sync::Arc;

use mizzen_ir::config::{AccessLog, Direction, HttpFilterKind, NetworkFilter, StatsConfig};
use mizzen_types::Name;

use super::Worker;
use crate::{
    ConnId,
    conn::Conn,
    log::{self, View},
    peer::PeerInfo,
    stats::{Parties, kept, labels},
    stream::{Kind, Record, Stream, StreamId, TcpCounters},
};

impl Worker {
    /// Removes a stream, gives its guards back and emits its record. What concerns its connections is for the caller.
    pub(crate) fn finish(&mut self, id: StreamId) {
        if matches!(self.streams.get(id).map(|s| &s.kind), Some(Kind::Tcp(_))) {
            self.tcp_report(id);
            self.tcp_closed(id);
        }
        let Some(mut stream) = self.streams.remove(id) else { return };
        if let Kind::Http(request) = &stream.kind
            && let Some(call) = request.call
        {
            self.inbox.push_back(super::Event::Cancel(call));
        }
        if let (Kind::Http(_), Some(up)) = (&stream.kind, &stream.up) {
            // Names used in lines stay valid after the guards went.
            stream.record.cluster.get_or_insert_with(|| up.cluster.clone());
        }
        let wait = match &stream.kind {
            Kind::Http(request) => request.wait,
            Kind::Tcp(tcp) => tcp.wait,
            Kind::Taken => None,
        };
        if let Some(wait) = wait.and_then(|wait| self.waits.get_mut(wait)) {
            wait.streams.retain(|s| *s != id);
        }
        stream.up = stream.up.take().map(|mut up| {
            up.active = None;
            up
        });
        let conn = self.conns.get(stream.down).and_then(Option::as_deref);
        let request = match &stream.kind {
            Kind::Http(request) => Some(&**request),
            Kind::Tcp(_) | Kind::Taken => None,
        };
        let local_uri = self.own_uri.as_deref();
        let view = View { record: Some(&stream.record), stream: Some(&stream), request, conn, now: self.now, local_uri };
        let none: Arc<[Arc<AccessLog>]> = Arc::default();
        let logs = match &stream.kind {
            Kind::Http(request) => request.hcm.access_log.clone(),
            Kind::Tcp(tcp) => tcp.proxy.access_log.clone(),
            Kind::Taken => none,
        };
        write(&mut self.logs, &logs, &view);
        if let Some(request) = request {
            let stats = request.hcm.filters.iter().find_map(|filter| match &filter.kind {
                HttpFilterKind::Stats(stats) => Some(stats.clone()),
                _ => None,
            });
            if let Some(stats) = stats {
                let endpoint = endpoint_info(&stream);
                let found = parties(
                    conn,
                    &stream,
                    request.facts.peers.down.as_ref(),
                    request.facts.peers.up.as_ref().or(endpoint.as_ref()),
                    &self.local.info,
                    self.own_uri.as_ref(),
                );
                let host = super::upstream::without_port(request.head.authority());
                self.stats.request(&mut self.table, &stats, &Parties { host: Some(host), ..found }, &view);
            }
        }
    }

    /// The record of a connection that never became a stream.
    pub(crate) fn log_connection(&mut self, id: ConnId, logs: &[Arc<AccessLog>], record: &Record) {
        let conn = self.conns.get(id).and_then(Option::as_deref);
        let view = View { record: Some(record), stream: None, request: None, conn, now: self.now, local_uri: self.own_uri.as_deref() };
        write(&mut self.logs, logs, &view);
    }

    /// A TCP stream has its partner: counted.
    pub(crate) fn tcp_opened(&mut self, id: StreamId) {
        let now = self.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Kind::Tcp(tcp) = &mut stream.kind else { return };
        tcp.opened = true;
        let Some(every) = tcp.report else { return };
        stream.due.report = Some(now + every);
        let Some(stream) = self.streams.get(id) else { return };
        let conn = self.conns.get(stream.down).and_then(Option::as_deref);
        let Some(config) = tcp_stats(conn) else { return };
        let endpoint = endpoint_info(stream);
        let found = parties(conn, stream, None, endpoint.as_ref(), &self.local.info, self.own_uri.as_ref());
        let view = View { record: Some(&stream.record), stream: Some(stream), request: None, conn, now: self.now, local_uri: None };
        let labels = labels(&found, &view, &config, "tcp");
        let table = &mut self.table;
        let mut counter = |name| kept(name, &labels, &config).map(|l| table.counter(name, l));
        let (opened, closed) = (counter("istio_tcp_connections_opened_total"), counter("istio_tcp_connections_closed_total"));
        let (sent, received) = (counter("istio_tcp_sent_bytes_total"), counter("istio_tcp_received_bytes_total"));
        if let Some(opened) = opened {
            self.table.add(opened, 1);
        }
        if let (Some(sent), Some(received), Some(closed)) = (sent, received, closed)
            && let Some(Kind::Tcp(tcp)) = self.streams.get_mut(id).map(|s| &mut s.kind)
        {
            tcp.counters = Some(TcpCounters { sent, received, closed });
        }
        self.arm_stream(id);
    }

    /// Adds what a TCP stream carried since the last report; and that it is closed, if this is its end.
    pub(crate) fn tcp_report(&mut self, id: StreamId) {
        let now = self.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let (up, down) = (stream.req.bytes, stream.resp.bytes);
        let Kind::Tcp(tcp) = &mut stream.kind else { return };
        let Some(counters) = tcp.counters else { return };
        let (before_up, before_down) = std::mem::replace(&mut tcp.reported, (up, down));
        stream.due.report = tcp.report.map(|every| now + every);
        // Received is what came from the client, at either reporter.
        self.table.add(counters.received, up.saturating_sub(before_up));
        self.table.add(counters.sent, down.saturating_sub(before_down));
    }

    /// The end of a TCP stream that was counted as opened.
    pub(crate) fn tcp_closed(&mut self, id: StreamId) {
        if let Some(Kind::Tcp(tcp)) = self.streams.get(id).map(|s| &s.kind)
            && let Some(counters) = tcp.counters
        {
            self.table.add(counters.closed, 1);
        }
    }
}

fn tcp_stats(conn: Option<&Conn>) -> Option<Arc<StatsConfig>> {
    conn?.down()?.chain.as_ref()?.filters.before.iter().find_map(|filter| match filter {
        NetworkFilter::Stats(stats) => Some(stats.clone()),
        NetworkFilter::Rbac(_) | NetworkFilter::MetadataExchange { .. } => None,
    })
}

/// What the control plane says of the endpoint.
fn endpoint_info(stream: &Stream) -> Option<Arc<PeerInfo>> {
    let workload = stream.record.endpoint.as_ref()?.workload.as_ref()?;
    Some(Arc::new(PeerInfo::from_workload(workload)))
}

/// Who talks to whom, as this side knows it.
fn parties<'a>(
    conn: Option<&'a Conn>,
    stream: &'a Stream,
    down_peer: Option<&'a Arc<PeerInfo>>,
    up_peer: Option<&'a Arc<PeerInfo>>,
    local: &'a Arc<PeerInfo>,
    own: Option<&'a Name>,
) -> Parties<'a> {
    let down = conn.and_then(Conn::down);
    let direction = down.map_or(Direction::Unspecified, |d| d.listener.direction);
    if direction == Direction::Inbound {
        let peer = down.and_then(|d| d.peer.as_ref()).and_then(|p| p.uris.first());
        let mine = down.and_then(|d| d.local_uri.as_ref()).filter(|_| peer.is_some());
        Parties { direction, source: down_peer, destination: Some(local), source_principal: peer, destination_principal: mine, host: None }
    } else {
        let theirs = stream.record.upstream_uri.as_ref();
        let mine = own.filter(|_| theirs.is_some());
        Parties { direction, source: Some(local), destination: up_peer, source_principal: mine, destination_principal: theirs, host: None }
    }
}

fn write(logs: &mut std::collections::HashMap<Arc<str>, Vec<u8>>, wanted: &[Arc<AccessLog>], view: &View<'_>) {
    for one in wanted {
        if one.filter.as_ref().is_none_or(|filter| log::wanted(filter, view)) {
            let target = log::target(one);
            if !logs.contains_key(target) {
                logs.insert(target.into(), Vec::new());
            }
            if let Some(lines) = logs.get_mut(target) {
                log::line(&one.format, view, lines);
            }
        }
    }
}
