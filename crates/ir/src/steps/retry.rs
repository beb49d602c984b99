//! When a request is tried again, and how long it may take.

use std::time::Duration;

use mizzen_http::Head;

use crate::config::{Forward, RetryPolicy};

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
    let _ = (policy, request, outcome);
    unimplemented!()
}

/// How long the whole response may take: the route's timeout, or what a gRPC request asks for within the route's bounds. None: for ever.
pub fn request_timeout(forward: &Forward, request: &Head) -> Option<Duration> {
    let _ = (forward, request);
    unimplemented!()
}
