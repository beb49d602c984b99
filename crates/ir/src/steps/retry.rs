//! When a request is tried again, and how long it may take.

use std::time::Duration;

use mizzen_http::Head;

use crate::config::{Forward, RetryOn, RetryPolicy};
use crate::steps::route::is_grpc;

/// How a try ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The response's head arrived; for gRPC it may be its only one, with the status in it.
    Response(&'a Head),
    /// No connection was made.
    ConnectFailure,
    /// The upstream refused the stream unseen (HTTP/2).
    Refused,
    /// The stream or its connection ended before a response.
    Reset {
        /// Whether the request's head had been sent by then.
        sent: bool,
    },
    /// The try took too long.
    PerTryTimeout,
}

/// Whether a request may be tried again, as far as the policy goes. Its number of attempts, budgets and whether the request can be sent
/// again are for the caller to check.
pub fn should_retry(policy: &RetryPolicy, request: &Head, outcome: &Outcome<'_>) -> bool {
    if !policy.request_headers.is_empty() && !policy.request_headers.iter().any(|m| m.matches(request)) {
        return false;
    }
    let on = &policy.on;
    let reset = on.reset || on.any_5xx || on.gateway_error;
    match outcome {
        Outcome::Response(head) => retry_response(policy, head),
        Outcome::ConnectFailure => reset || on.connect_failure || on.reset_before_request,
        Outcome::Refused => reset || on.refused_stream,
        Outcome::Reset { sent } => reset || (on.reset_before_request && !sent),
        Outcome::PerTryTimeout => reset,
    }
}

fn retry_response(policy: &RetryPolicy, head: &Head) -> bool {
    let (on, status) = (&policy.on, head.status());
    (on.any_5xx && (500..600).contains(&status))
        || (on.gateway_error && (502..=504).contains(&status))
        || (on.retriable_4xx && status == 409)
        || (on.statuses && policy.statuses.contains(&status))
        || (on.headers && policy.headers.iter().any(|m| m.matches(head)))
        || head.get_str("grpc-status").and_then(|s| s.parse().ok()).is_some_and(|s| on.grpc(s))
}

impl RetryOn {
    /// Whether a gRPC status is tried again.
    pub fn grpc(&self, status: u32) -> bool {
        match status {
            1 => self.grpc_cancelled,
            4 => self.grpc_deadline_exceeded,
            8 => self.grpc_resource_exhausted,
            13 => self.grpc_internal,
            14 => self.grpc_unavailable,
            _ => false,
        }
    }
}

/// How long the whole response may take: the route's timeout, or what a gRPC request asks for within the route's bounds. None: for ever.
pub fn request_timeout(forward: &Forward, request: &Head) -> Option<Duration> {
    let Some(max) = forward.grpc_timeout_max.filter(|_| is_grpc(request)) else { return forward.timeout };
    let mut asked = request.get_str("grpc-timeout").and_then(grpc_timeout).unwrap_or_default();
    if forward.grpc_timeout_offset < asked {
        asked -= forward.grpc_timeout_offset;
    }
    // Zero is without end, on both sides.
    let timeout = if max.is_zero() || (!asked.is_zero() && asked < max) { asked } else { max };
    (!timeout.is_zero()).then_some(timeout)
}

/// A `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}
