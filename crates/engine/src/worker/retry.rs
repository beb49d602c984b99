//! Whether what failed is tried again.

use std::{sync::Arc, time::Duration};

use mizzen_http::{Head, Reason};
use mizzen_ir::{Outcome, config::RetryLimit, should_retry};

use super::Worker;
use crate::{
    event::{Event, Lost},
    flags::Flags,
    id::StreamId,
    lb::{ClusterState, Limit},
    stream::{Progress, Step},
};

/// How a try ended, where that may be a reason for another.
pub(crate) enum Ended<'a> {
    Lost(&'a Lost),
    PerTry,
    Response(&'a Head),
}

impl Worker {
    /// Tries again if the route's policy, the budgets and what is kept of the request allow it.
    pub(crate) fn retry(&mut self, id: StreamId, ended: Ended<'_>) -> bool {
        let random = self.cx.rng.next();
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return false };
        if stream.answered() {
            return false;
        }
        let sent = stream.upstream().is_some();
        let Some(request) = stream.traffic.request_mut() else { return false };
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
        let breakers = request.route.as_ref().and_then(|r| {
            let high = r.forward.as_ref().is_some_and(|f| f.high_priority);
            r.cluster.as_ref().map(|c| if high { c.breakers_high.retries } else { c.breakers.retries })
        });
        if request.retry_guard.is_none() {
            let state = stream.up.as_ref().map(|up| up.state.clone());
            let acquire = |(state, limit): (Arc<ClusterState>, RetryLimit)| {
                let most = limit.most(state.count(Limit::Requests));
                state.acquire(Limit::Retries, most)
            };
            request.retry_guard = state.zip(breakers).and_then(acquire);
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
        stream.req.sent = Progress::Nothing;
        stream.req.pause = None;
        stream.resp.end = false;
        stream.resp.buf.clear();
        stream.resp.bytes = 0;
        stream.resp.trailers = None;
        request.heads.clear();
        request.step = Step::Backoff;
        let up = stream.up.take();
        if let Some(up) = &up {
            request.tried_at(up);
        }
        let at = up.map(|up| up.at);
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
    pub(crate) fn again_elsewhere(&mut self, id: StreamId, lost: &Lost) -> bool {
        let Some(stream) = self.streams.get_mut(id) else { return false };
        let answered = stream.answered();
        let Some(request) = stream.traffic.request_mut() else { return false };
        let Some(up) = &stream.up else { return false };
        let bare = stream.req.bytes == 0 && stream.req.end && stream.req.trailers.is_none();
        let allowed = request.route.as_ref().and_then(|r| r.forward.as_ref()).is_some_and(|f| f.retry.is_some());
        let safe = matches!(request.head.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE") && bare && allowed && !request.is_upgrade;
        let whole = bare || !stream.req.open() || request.replay.is_some();
        let dead = match lost {
            Lost::Unsent | Lost::Reset(true) | Lost::Crossed => whole,
            Lost::Closed => up.reused && safe && request.stale == 0,
            _ => false,
        };
        if !dead || answered || !request.heads.is_empty() || request.stale >= 3 {
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
        stream.req.sent = Progress::Nothing;
        stream.req.pause = None;
        request.tried_at(up);
        stream.up = None;
        request.step = Step::Picking(None);
        self.cx.inbox.push_back(Event::Attempt(id));
        true
    }
}
