//! What comes back from a server: responses, failures, retries.

use std::time::Duration;

use mizzen_http::{Head, Reason};
use mizzen_ir::{
    Outcome, apply_headers,
    config::{HeaderSource, ServerHeader},
    should_retry,
};

use super::{Dir, Gone, Lost, Worker};
use crate::{
    filter,
    flags::Flags,
    headers,
    lb::Limit,
    log::View,
    peer::LocalNode,
    stream::{Kind, Step, StreamId},
};

/// How a try ended, where that may be a reason for another.
pub(crate) enum Ended<'a> {
    Lost(&'a Lost),
    PerTry,
    Response(&'a Head),
}

impl Worker {
    /// Heads of a response arrived.
    pub(crate) fn response(&mut self, id: StreamId) {
        let Some(Kind::Http(request)) = self.streams.get_mut(id).map(|s| &mut s.kind) else { return };
        for (head, end) in std::mem::take(&mut request.heads) {
            let status = head.status();
            if status == 101 || status >= 200 {
                self.final_response(id, head, end);
                return;
            }
            // Interim answers are passed on (RFC 9110, section 15.2), but for a 100 where this side has sent its own. They say nothing that a
            // client must know: one that does not read gets none.
            let most = self.options.limits.stream_buffer;
            let Some(stream) = self.streams.get(id) else { return };
            let Kind::Http(request) = &stream.kind else { return };
            let reads = self.conn_ref(stream.down).is_some_and(|conn| conn.backlog() < most);
            if reads && !stream.resp.open && (status != 100 || request.hcm.proxy_100_continue) {
                let mut head = head;
                LocalNode::hide_exchange(&mut head);
                self.interim(id, &head);
            }
        }
    }

    fn final_response(&mut self, id: StreamId, head: Head, end: bool) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.resp.open {
            return;
        }
        let Some(up) = &stream.up else { return };
        let (cluster, host, started) = (up.cluster.clone(), up.spec.host.clone(), up.started);
        let grpc: Option<u32> = head.get_str("grpc-status").and_then(|v| v.parse().ok());
        self.host_answered(&cluster, &host, if grpc.is_some() { grpc_http(grpc) } else { head.status() });
        if self.retry(id, Ended::Response(&head)) {
            return;
        }
        if self.streams.get(id).is_some_and(|s| s.origin.is_some()) {
            return self.call_answered(id, head);
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.record.grpc_status = grpc;
        stream.record.status = head.status();
        stream.record.response_first = Some(now.mono);
        stream.record.details.get_or_insert_with(|| "via_upstream".to_owned());
        stream.due.per_try = None;
        stream.due.try_idle = None;
        let Some(mut request) = self.take_request(id) else { return };
        request.step = Step::Responding;
        request.replay = None;
        request.retry_guard = None;
        request.switched = head.status() == 101;
        let mut head = head;
        let hcm = request.hcm.clone();
        filter::response(&hcm, &mut request.facts, &mut self.local, &mut head);
        if !hcm.router.suppress_envoy_headers {
            head.set("x-envoy-upstream-service-time", now.mono.saturating_sub(started).as_millis().to_string());
        }
        if !head.contains("date") {
            head.set("date", headers::date(now.wall));
        }
        let server = match hcm.server_header {
            ServerHeader::Overwrite => true,
            ServerHeader::AppendIfAbsent => !head.contains("server"),
            ServerHeader::PassThrough => false,
        };
        if server && !hcm.server_name.is_empty() {
            head.set("server", hcm.server_name.as_bytes());
        }
        if hcm.request_id_in_response
            && let Some(value) = request.head.get("x-request-id").map(<[u8]>::to_vec)
        {
            head.set("x-request-id", value);
        }
        if request.route.as_ref().is_some_and(|r| r.host.attempt_count_in_response) {
            head.set("x-envoy-attempt-count", request.attempts.to_string());
        }
        if let Some(ops) = request.route.as_ref().map(|r| r.mutations.clone()) {
            apply_headers(&ops.response, &mut head, HeaderSource::Response, &View::of(self, id, Some(&request)));
        }
        self.answer_filters(id, &request, &mut head);
        request.response = head;
        self.send_response(id, request, end);
    }

    fn send_response(&mut self, id: StreamId, request: Box<crate::stream::Request>, end: bool) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let (down, sid) = (stream.down, stream.down_sid);
        let end = end && stream.resp.buf.is_empty() && stream.resp.trailers.is_none();
        if let Some((codec, tx)) = self.conns.get_mut(down).and_then(Option::as_mut).and_then(|c| c.codec()) {
            codec.send_head(sid, &request.response, end, tx);
        }
        stream.resp.open = true;
        stream.resp.done = end;
        let switched = request.switched;
        stream.kind = Kind::Http(request);
        self.mark(down);
        if switched {
            // Bytes behind the offer have waited for this.
            self.queue_parse(down);
        }
        self.pump(id, Dir::Down);
    }

    /// Tries again if the route's policy, the budgets and what is kept of the request allow it.
    pub(crate) fn retry(&mut self, id: StreamId, ended: Ended<'_>) -> bool {
        let random = self.rng.next();
        let now = self.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return false };
        if stream.resp.open {
            return false;
        }
        let sent = stream.up.as_ref().is_some_and(|up| up.sent);
        let Kind::Http(request) = &mut stream.kind else { return false };
        let Some(policy) = request.route.as_ref().and_then(|r| r.forward.as_ref()).and_then(|f| f.retry.clone()) else { return false };
        let outcome = match ended {
            Ended::Response(head) => Outcome::Response(head),
            Ended::PerTry => Outcome::PerTryTimeout,
            Ended::Lost(Lost::Connect(_) | Lost::ConnectTimeout) => Outcome::ConnectFailure,
            Ended::Lost(Lost::Reset(true) | Lost::Crossed) => Outcome::Refused,
            Ended::Lost(Lost::Closed | Lost::Unsent | Lost::Reset(false) | Lost::Protocol(_)) => Outcome::Reset { sent },
            Ended::Lost(Lost::Overflow) => return false,
        };
        if !should_retry(&policy, &request.head, &outcome) {
            return false;
        }
        if request.attempts > policy.attempts {
            if policy.attempts > 0 {
                stream.record.flags.set(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            }
            return false;
        }
        if request.replay.is_none() {
            return false;
        }
        let breakers = request.route.as_ref().and_then(|r| r.cluster.as_ref()).map(|c| c.breakers.retries);
        if request.retry_guard.is_none() {
            let state = stream.up.as_ref().map(|up| up.state.clone());
            request.retry_guard = state.zip(breakers).and_then(|(state, most)| state.acquire(Limit::Retries, most));
            if request.retry_guard.is_none() {
                stream.record.flags.set(Flags::UPSTREAM_OVERFLOW);
                return false;
            }
        }
        // Back to before the first byte was sent.
        let mut whole = request.replay.replace(Vec::new()).unwrap_or_default();
        whole.extend_from_slice(stream.req.buf.as_slice());
        stream.req.buf.clear();
        stream.req.buf.append(&mut whole);
        stream.req.open = false;
        stream.req.done = false;
        stream.resp.end = false;
        stream.resp.buf.clear();
        stream.resp.trailers = None;
        request.heads.clear();
        request.step = Step::Backoff;
        let at = stream.up.take().map(|up| up.at);
        // Exponential with full jitter, as Envoy.
        let factor = 1u32 << request.attempts.saturating_sub(1).min(16);
        let most = policy.backoff_base.saturating_mul(factor).min(policy.backoff_max).max(Duration::from_millis(1));
        let wait = Duration::from_nanos(random % (most.as_nanos() as u64).max(1));
        stream.due.backoff = Some(now + wait);
        stream.due.per_try = None;
        stream.due.try_idle = None;
        self.leave_upstream(id, at, Some(Reason::CANCEL));
        self.arm_stream(id);
        true
    }

    /// A kept connection that turned out to be dead is nobody's failure: what was not sent goes on another one, whatever the policy. What was sent
    /// may have been acted upon: it is sent once more only if it changes nothing by HTTP's own rules (RFC 9110, section 9.2.1), has no body, and
    /// its route allows retries at all.
    fn again_elsewhere(&mut self, id: StreamId, lost: &Lost) -> bool {
        let Some(stream) = self.streams.get_mut(id) else { return false };
        let Kind::Http(request) = &mut stream.kind else { return false };
        let Some(up) = &stream.up else { return false };
        let bare = stream.req.bytes == 0 && stream.req.end && stream.req.trailers.is_none();
        let allowed = request.route.as_ref().and_then(|r| r.forward.as_ref()).is_some_and(|f| f.retry.is_some());
        let safe = matches!(request.head.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE") && bare && allowed && !request.is_upgrade;
        let whole = bare || !stream.req.open || request.replay.is_some();
        let dead = match lost {
            Lost::Unsent | Lost::Reset(true) | Lost::Crossed => whole,
            Lost::Closed => up.reused && safe && request.stale == 0,
            _ => false,
        };
        if !dead || stream.resp.open || !request.heads.is_empty() || request.stale >= 3 {
            return false;
        }
        // A server that ends each connection after a few streams turns a long queue away many times, but answers some of it each time: that ends
        // by itself.
        request.stale += u8::from(*lost != Lost::Crossed);
        request.attempts = request.attempts.saturating_sub(1);
        let mut sent = request.replay.as_mut().map(std::mem::take).unwrap_or_default();
        sent.extend_from_slice(stream.req.buf.as_slice());
        stream.req.buf.clear();
        stream.req.buf.append(&mut sent);
        stream.req.open = false;
        stream.req.done = false;
        stream.up = None;
        self.attempt_now(id);
        true
    }

    /// The server's side of a stream is gone.
    pub(crate) fn up_lost(&mut self, id: StreamId, lost: Lost) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if matches!(stream.kind, Kind::Tcp(_)) {
            return self.tcp_up_lost(id, lost);
        }
        if stream.up.is_none() && !matches!(lost, Lost::Connect(_)) {
            return;
        }
        let Kind::Http(request) = &stream.kind else { return };
        if matches!(request.step, Step::Local | Step::Waiting | Step::Backoff) {
            return;
        }
        // All of the response is here already: it only has to be sent on.
        if stream.resp.end && stream.resp.open && !request.switched {
            return;
        }
        if request.switched {
            return self.finish_http(id, false);
        }
        if self.again_elsewhere(id, &lost) {
            return;
        }
        self.host_failed(id, 503);
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
        let open = self.streams.get(id).is_some_and(|s| s.resp.open);
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
        if matches!(stream.kind, Kind::Tcp(_)) {
            return self.tcp_down_lost(id, gone);
        }
        let (flag, details) = match gone {
            Gone::Closed => (Flags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect".to_owned()),
            Gone::Reset => (Flags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_reset".to_owned()),
            Gone::Protocol(what) => (Flags::DOWNSTREAM_PROTOCOL_ERROR, codec_error(what)),
        };
        stream.record.flags.set(flag);
        if !stream.resp.done {
            stream.record.details = Some(details);
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
