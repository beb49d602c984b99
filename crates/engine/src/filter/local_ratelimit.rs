//! A bound on the rate of requests: `envoy.filters.http.local_ratelimit`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use mizzen_ir::config::{FilterOverride, LocalRateLimit, TokenBucket};

use super::{Cx, Flow, Reply};
use crate::{facts::Change, flags::Flags};

/// A token bucket that all workers share: one number says all. It is the time at which the bucket would have been empty, in nanoseconds since the
/// monotonic clock's start plus [`Bucket::BEFORE`].
#[derive(Debug)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// So far back may a bucket have been empty that is full at the clock's start.
    const BEFORE: u64 = 1 << 62;

    /// Full.
    pub(crate) fn new() -> Self {
        Bucket(AtomicU64::new(0))
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self, tokens: TokenBucket, now: Duration) -> bool {
        // Time for one token; a bucket is full when it has been filling for as long as all of them take.
        let one = ((tokens.interval.as_nanos() / u128::from(tokens.fill.max(1))) as u64).max(1);
        let whole = one.saturating_mul(tokens.most.into()).min(Bucket::BEFORE);
        let now = (now.as_nanos() as u64).saturating_add(Bucket::BEFORE);
        let taken = self.0.fetch_update(Relaxed, Relaxed, |empty| {
            let empty = empty.max(now - whole);
            (now.saturating_sub(empty) >= one).then(|| empty + one)
        });
        taken.is_ok()
    }
}

pub(super) fn request(own: &LocalRateLimit, cx: &mut Cx<'_>) -> Flow {
    let limit = match cx.route {
        Some(FilterOverride::LocalRateLimit(other)) => other,
        _ => own,
    };
    let Some(tokens) = limit.tokens.filter(|_| limit.enabled.holds(cx.rng.next())) else { return Flow::Go };
    let shared = cx.shared;
    if cx.buckets.entry(limit.bucket).or_insert_with(|| shared.bucket(limit.bucket)).take(tokens, cx.now.mono) {
        return Flow::Go;
    }
    if !limit.enforced.holds(cx.rng.next()) {
        mizzen_ir::apply_headers(&limit.request_headers, cx.head, mizzen_ir::config::HeaderSource::Request, &Nothing);
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

/// Commands that do not read the request's own headers have no value yet.
struct Nothing;

impl mizzen_ir::Values for Nothing {
    fn value(&self, _: &mizzen_ir::config::Command, _: &mut Vec<u8>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets() {
        let tokens = TokenBucket { most: 3, fill: 2, interval: Duration::from_secs(1) };
        for start in [0, 1, 1_000_000] {
            let bucket = Bucket::new();
            let at = |ms: u64| Duration::from_millis(start + ms);
            let takes = |ms: u64, n: usize| (0..n).filter(|_| bucket.take(tokens, at(ms))).count();
            assert_eq!(takes(0, 9), 3, "it is full at first");
            assert_eq!(takes(499, 9), 0);
            assert_eq!(takes(500, 9), 1, "two come in a second, evenly");
            assert_eq!(takes(1_600, 9), 2);
            assert_eq!(takes(100_000, 9), 3, "it holds no more");
        }
    }
}
