//! A bound on the rate of requests: `envoy.filters.http.local_ratelimit`.

use mizzen_ir::config::{FilterOverride, LocalRateLimit};

use super::{Cx, Flow, Reply};
use crate::{facts::Change, flags::Flags};

pub(super) fn request(own: &LocalRateLimit, cx: &mut Cx<'_>) -> Flow {
    let limit = match cx.route {
        Some(FilterOverride::LocalRateLimit(other)) => other,
        _ => own,
    };
    let Some(tokens) = limit.tokens.filter(|_| limit.enabled.holds(cx.rng.next())) else { return Flow::Go };
    let shared = cx.shared;
    if cx.filters.buckets.entry(limit.bucket).or_insert_with(|| shared.bucket(limit.bucket)).take(tokens, cx.now.mono) {
        return Flow::Go;
    }
    if !limit.enforced.holds(cx.rng.next()) {
        cx.changes.push(limit.request_headers.clone());
        return Flow::Go;
    }
    cx.facts.response.push(Change::Ops(limit.response_headers.clone()));
    Flow::Reply(Box::new(Reply {
        status: limit.status,
        body: b"local_rate_limited".to_vec(),
        flags: Flags::RATE_LIMITED,
        details: "local_rate_limited".to_owned(),
        grpc: limit.resource_exhausted.then_some(8),
        ..Reply::default()
    }))
}
