//! The end of streams: the one place that removes them, and their one record.

use std::sync::Arc;

use mizzen_ir::config::AccessLog;

use super::{Worker, view_of};
use crate::{
    ConnId,
    event::Event,
    filter::{self, network},
    id::StreamId,
    questions::Waiter,
    record::Record,
    stream::{TcpStep, Traffic},
    view::View,
};

impl Worker {
    /// Removes a stream, gives its guards back and emits its record. What concerns its connections is for the caller.
    pub(crate) fn finish(&mut self, id: StreamId) {
        let Some(mut stream) = self.streams.remove(id) else { return };
        self.cx.inbox.extend(stream.calls().map(Event::Cancel));
        if let Some(wait) = stream.waits_for() {
            self.questions.leave(wait, Waiter::Stream(id));
        }
        let logs: Arc<[Arc<AccessLog>]> = match &mut stream.traffic {
            Traffic::Tcp(tcp) => {
                if let Some(stats) = &mut tcp.stats {
                    network::progress(&mut self.telemetry.table, stats, (stream.req.bytes, stream.resp.bytes), true);
                }
                tcp.proxy.access_log.clone()
            }
            Traffic::Http(request) => {
                if let Some(up) = &stream.up {
                    // Names used in lines stay valid after the guards went.
                    stream.record.cluster.get_or_insert_with(|| up.cluster.clone());
                }
                request.hcm.access_log.clone()
            }
        };
        if let Some(up) = &mut stream.up {
            up.active = None;
        }
        let conn = stream.client.conn().and_then(|conn| self.conns.get(conn));
        let view = View { record: Some(&stream.record), stream: Some(&stream), request: stream.traffic.http(), conn, now: self.cx.now };
        self.telemetry.write(&logs, &view);
        if let Some(request) = view.request {
            filter::finish(&request.hcm, &mut self.filters, &mut self.telemetry.table, &view);
        }
    }

    /// The record of a connection that never became a stream.
    pub(crate) fn log_connection(&mut self, id: ConnId, logs: &[Arc<AccessLog>], record: &Record) {
        let view = View { record: Some(record), stream: None, request: None, conn: self.conns.get(id), now: self.cx.now };
        self.telemetry.write(logs, &view);
    }

    /// A TCP stream has its partner: counted.
    pub(crate) fn tcp_opened(&mut self, id: StreamId) {
        let Some(tcp) = self.streams.get_mut(id).and_then(|s| s.traffic.tcp_mut()) else { return };
        tcp.step = TcpStep::Open;
        let Some(mut stats) = tcp.stats.take() else { return };
        let view = view_of(&self.streams, &self.conns, self.cx.now, id);
        network::opened(&mut self.filters, &mut self.telemetry.table, &mut stats, &view);
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.due.report = Some(now + stats.every());
        if let Some(tcp) = stream.traffic.tcp_mut() {
            tcp.stats = Some(stats);
        }
        self.arm_stream(id);
    }

    /// Counts what a TCP stream has carried since the last time.
    pub(crate) fn tcp_report(&mut self, id: StreamId) {
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let bytes = (stream.req.bytes, stream.resp.bytes);
        let Some(stats) = stream.traffic.tcp_mut().and_then(|tcp| tcp.stats.as_mut()) else { return };
        network::progress(&mut self.telemetry.table, stats, bytes, false);
        stream.due.report = Some(now + stats.every());
    }
}
