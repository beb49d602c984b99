//! What comes back from a server: responses and failures.

use std::borrow::Cow;

use mizzen_http::Head;
use mizzen_ir::{apply_headers, config::HeaderSource};

use super::{Worker, retry::Ended};
use crate::{
    checks::answer::LEAVE_OUT,
    event::{Gone, Lost},
    filter,
    flags::Flags,
    id::StreamId,
    outlier::Seen,
    stream::Step,
};

impl Worker {
    /// Heads of a response arrived.
    pub(crate) fn response(&mut self, id: StreamId) {
        let Some(request) = self.streams.request_mut(id) else { return };
        for head in std::mem::take(&mut request.heads) {
            let status = head.status();
            if status == 101 || status >= 200 {
                self.final_response(id, head);
                return;
            }
            // Interim answers are passed on (RFC 9110, section 15.2), but for a 100 where this side has sent its own. They say nothing that a
            // client must know: one that does not read gets none.
            let most = self.cx.options.limits.stream_buffer;
            let Some(stream) = self.streams.get(id) else { return };
            let Some(request) = stream.traffic.request() else { return };
            let reads = stream.client.conn().and_then(|conn| self.conns.get(conn)).is_some_and(|conn| conn.backlog() < most);
            if reads && !stream.resp.open() && (status != 100 || request.hcm.proxy_100_continue) {
                let mut head = head;
                filter::interim(&mut head);
                self.interim(id, &head);
            }
        }
    }

    fn final_response(&mut self, id: StreamId, head: Head) {
        let now = self.cx.now;
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.answered() {
            return;
        }
        let Some(up) = &stream.up else { return };
        let started = up.started;
        let grpc: Option<u32> = head.get_str("grpc-status").and_then(|v| v.parse().ok());
        self.host_seen(id, Seen::Answer(if grpc.is_some() { grpc_http(grpc) } else { head.status() }));
        if head.contains("x-envoy-degraded") {
            self.host_degraded(id);
        }
        if head.contains(LEAVE_OUT) {
            self.host_leaves(id);
        }
        if self.retry(id, Ended::Response(&head)) {
            return;
        }
        if self.streams.get(id).is_some_and(|s| s.client.is_call()) {
            return self.call_answered(id, head);
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.record.grpc_status = grpc;
        stream.record.status = head.status();
        stream.record.response_first = Some(now.mono);
        stream.record.details.get_or_insert(Cow::Borrowed("via_upstream"));
        stream.due.per_try = None;
        stream.due.try_idle = None;
        let Some(request) = stream.traffic.request_mut() else { return };
        request.step = if head.status() == 101 { Step::Tunnel } else { Step::Responding };
        request.replay = None;
        request.retry_guard = None;
        let mut head = head;
        filter::answered(&mut request.facts, &mut self.filters, &mut head);
        if !request.hcm.router.suppress_envoy_headers {
            head.set("x-envoy-upstream-service-time", itoa::Buffer::new().format(now.mono.saturating_sub(started).as_millis()));
        }
        if request.route.as_ref().is_some_and(|r| r.host.attempt_count_in_response) {
            head.set("x-envoy-attempt-count", request.attempts.to_string());
        }
        if let Some(ops) = request.route.as_ref().map(|r| r.mutations.clone()) {
            apply_headers(&ops.response, &mut head, HeaderSource::Response, &self.view(id));
        }
        if let Some(request) = self.streams.request_mut(id) {
            request.response = head;
        }
        self.answer(id);
    }

    /// The server's side of a stream is gone.
    pub(crate) fn up_lost(&mut self, id: StreamId, lost: Lost) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.traffic.is_tcp() {
            return self.tcp_up_lost(id, lost);
        }
        if stream.up.is_none() && !matches!(lost, Lost::Connect(_)) {
            return;
        }
        let Some(request) = stream.traffic.request() else { return };
        if matches!(request.step, Step::Local | Step::Waiting(_) | Step::Backoff) {
            return;
        }
        if request.step == Step::Tunnel {
            return self.finish_http(id, false);
        }
        // All of the response is here already: it only has to be sent on.
        if stream.resp.end && stream.answered() {
            return;
        }
        let check = stream.client.check();
        if check.is_none() && self.again_elsewhere(id, &lost) {
            return;
        }
        // A breaker is the cluster's business: leaving hosts out would make it worse.
        if lost != Lost::Overflow {
            self.host_seen(id, Seen::Failed);
        }
        let failure = match &lost {
            Lost::Connect(why) => Some(why.clone()),
            Lost::ConnectTimeout => Some("connection timeout".to_owned()),
            Lost::Protocol(what) => Some((*what).to_owned()),
            _ => None,
        };
        if let Some(stream) = self.streams.get_mut(id) {
            stream.record.upstream_failure = failure.clone().or(stream.record.upstream_failure.take());
        }
        if self.retry(id, Ended::Lost(&lost)) {
            return;
        }
        let (flag, reason, detail) = match &lost {
            Lost::Connect(_) => (Flags::UPSTREAM_CONNECTION_FAILURE, "remote connection failure", "remote_connection_failure"),
            Lost::ConnectTimeout => (Flags::UPSTREAM_CONNECTION_FAILURE, "connection timeout", "connection_timeout"),
            Lost::Closed | Lost::Unsent => (Flags::UPSTREAM_CONNECTION_TERMINATION, "connection termination", "connection_termination"),
            Lost::Reset(true) | Lost::Crossed => {
                (Flags::UPSTREAM_REMOTE_RESET, "remote refused stream reset", "remote_refused_stream_reset")
            }
            Lost::Reset(false) => (Flags::UPSTREAM_REMOTE_RESET, "remote reset", "remote_reset"),
            Lost::Protocol(_) => (Flags::UPSTREAM_PROTOCOL_ERROR, "protocol error", "protocol_error"),
            Lost::Overflow => (Flags::UPSTREAM_OVERFLOW, "overflow", "overflow"),
        };
        let refused = matches!(lost, Lost::Protocol(_));
        let status = if refused { 502 } else { 503 };
        let open = self.streams.get(id).is_some_and(|s| s.resp.open());
        let when = if open { "after_response_started" } else { "before_response_started" };
        let mut body = format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}");
        let mut details = if lost == Lost::Overflow {
            format!("upstream_reset_{when}{{overflow}}")
        } else {
            format!("upstream_reset_{when}{{{detail}}}")
        };
        if let Some(failure) = failure.filter(|f| !f.is_empty()) {
            let dashed = failure.replace(' ', "_");
            // What is wrong with an answer is for the log, not for clients.
            if !refused {
                body.push_str(&format!(", transport failure reason: {failure}"));
            }
            details = format!("upstream_reset_{when}{{{detail}|{dashed}}}");
        }
        if lost == Lost::Overflow {
            let more = [("x-envoy-overloaded", "true")];
            return self.reply_with(id, status, body.as_bytes(), flag, &details, &more);
        }
        self.reply(id, status, &body, flag, &details);
    }

    /// The client's side of a stream is gone.
    pub(crate) fn down_lost(&mut self, id: StreamId, gone: Gone) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.traffic.is_tcp() {
            return self.tcp_down_lost(id, gone);
        }
        let (flag, details) = match gone {
            Gone::Closed => (Flags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect".to_owned()),
            Gone::Reset => (Flags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_reset".to_owned()),
            Gone::Protocol(what) => (Flags::DOWNSTREAM_PROTOCOL_ERROR, codec_error(what)),
        };
        stream.record.flags.set(flag);
        if !stream.resp.done() {
            stream.record.details = Some(details.into());
        }
        self.finish_http(id, true);
    }
}

/// Why a codec refused what a client sent, as it is logged.
pub(crate) fn codec_error(what: &str) -> String {
    format!("http.codec_error:{}", what.replace(' ', "_"))
}

/// The HTTP status that a gRPC status counts as for outlier detection.
fn grpc_http(status: Option<u32>) -> u16 {
    match status {
        Some(4) => 504,
        Some(8) => 429,
        Some(2 | 13 | 15) => 500,
        Some(12) => 501,
        Some(14) => 503,
        _ => 200,
    }
}
