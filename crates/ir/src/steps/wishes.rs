//! What a request wishes for its own way by Envoy's headers: time and retries. Whoever may not wish has had these headers taken away before.

use std::{sync::Arc, time::Duration};

use mizzen_http::Head;

use crate::config::Forward;

const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
const PER_TRY: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
const RETRY_ON: &str = "x-envoy-retry-on";
const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const STATUSES: &str = "x-envoy-retriable-status-codes";

/// The most retries that a request may wish for.
const MOST: u64 = 100;

/// The route's action with the request's wishes, which are taken off the request.
pub fn with_wishes(forward: &Arc<Forward>, request: &mut Head) -> Arc<Forward> {
    let all = [TIMEOUT, PER_TRY, RETRY_ON, RETRY_GRPC_ON, MAX_RETRIES, STATUSES];
    if !request.iter().any(|(name, _)| name.starts_with("x-envoy-") && all.contains(&name)) {
        return forward.clone();
    }
    let number = |name: &str| request.get_str(name).and_then(|text| text.trim().parse::<u64>().ok());
    let time = |name: &str| number(name).map(|millis| Duration::from_millis(millis.min(u32::MAX.into())));
    let mut wished = Forward::clone(forward);
    if let Some(timeout) = time(TIMEOUT) {
        wished.timeout = (!timeout.is_zero()).then_some(timeout);
        wished.grpc_timeout_max = None;
    }
    let mut policy = wished.retry.as_deref().cloned();
    let mut on = policy.as_ref().map(|policy| policy.on).unwrap_or_default();
    let words = [RETRY_ON, RETRY_GRPC_ON].into_iter().filter_map(|name| request.get_str(name));
    let any = words.flat_map(|text| text.split(',')).filter(|word| on.add(word.trim())).count() > 0;
    if any {
        policy.get_or_insert_default().on = on;
    }
    if let Some(policy) = &mut policy {
        if let Some(attempts) = number(MAX_RETRIES) {
            policy.attempts = attempts.min(MOST) as u32;
        }
        if let Some(statuses) = request.get_str(STATUSES) {
            policy.statuses = statuses.split(',').filter_map(|status| status.trim().parse().ok()).collect();
        }
        if let Some(per_try) = time(PER_TRY) {
            policy.per_try_timeout = (!per_try.is_zero()).then_some(per_try);
        }
        // A try that may take longer than all of them together has no time of its own.
        policy.per_try_timeout = policy.per_try_timeout.filter(|per_try| wished.timeout.is_none_or(|all| *per_try < all));
    }
    wished.retry = policy.map(Arc::new);
    all.iter().for_each(|name| {
        request.remove(name);
    });
    Arc::new(wished)
}
