//! A bound on the rate of requests that the proxy keeps by itself.

use std::time::Duration;

use mizzen_protos::envoy::envoy::extensions::filters::http::local_ratelimit::v3 as limit;
use mizzen_protos::envoy::envoy::r#type::v3 as types;

use crate::compile::cx::{Cx, Res, hash, hash_of, number, refused, silent};
use crate::compile::{headers, matchers};
use crate::config::{ContentHash, Fraction, HeaderOps};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// A bound on the rate of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalRateLimit {
    /// Of its place and content: where both stay, the bucket keeps its tokens over changes of everything else.
    pub bucket: ContentHash,
    /// How many, how fast; none: there is no bound.
    pub tokens: Option<TokenBucket>,
    /// The status of a refusal, 429 by default.
    pub status: u16,
    /// Of which share of the requests tokens are taken; none by default, as Envoy's.
    pub enabled: Fraction,
    /// Which share of those without a token is refused; none by default, as Envoy's.
    pub enforced: Fraction,
    /// What a request without a token that is let through carries.
    pub request_headers: HeaderOps,
    /// What the answer of a refusal carries.
    pub response_headers: HeaderOps,
    /// Whether gRPC is refused by RESOURCE_EXHAUSTED, not UNAVAILABLE.
    pub resource_exhausted: bool,
}

/// A bucket that is full at first and fills evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// How many it holds.
    pub most: u32,
    /// How many come with each interval.
    pub fill: u32,
    /// The interval: at least 50 ms.
    pub interval: Duration,
}

pub(super) fn compile(cx: &mut Cx, m: limit::LocalRateLimit) -> Res<LocalRateLimit> {
    let place = format!("{}\n{}\n", cx.resource, cx.at(""));
    let bucket = hash(&[place.as_bytes(), &hash_of(&m).0.to_le_bytes()].concat());
    let limit::LocalRateLimit {
        stat_prefix,
        status,
        token_bucket,
        filter_enabled,
        filter_enforced,
        request_headers_to_add_when_not_enforced,
        response_headers_to_add,
        descriptors,
        stage,
        local_rate_limit_per_downstream_connection,
        local_cluster_rate_limit,
        enable_x_ratelimit_headers,
        vh_rate_limits,
        always_consume_default_token_bucket,
        rate_limited_as_resource_exhausted,
        rate_limits,
        max_dynamic_descriptors,
        enable_retry_after_header,
    } = m;
    // What only concerns descriptors, of which there are none.
    silent!(stat_prefix, stage, vh_rate_limits, always_consume_default_token_bucket, max_dynamic_descriptors);
    refused!(cx; descriptors, local_rate_limit_per_downstream_connection, local_cluster_rate_limit, enable_x_ratelimit_headers, rate_limits,
        enable_retry_after_header);
    let never = Fraction { numerator: 0, denominator: 100 };
    let status = match status.map(|types::HttpStatus { code }| code) {
        // Envoy's floor: what refuses must not look like success.
        Some(code @ 400..=599) => u16::try_from(code).unwrap_or(429),
        _ => 429,
    };
    Ok(LocalRateLimit {
        bucket,
        tokens: cx.some("token_bucket", token_bucket, tokens)?,
        status,
        enabled: cx.some("filter_enabled", filter_enabled, matchers::runtime_fraction)?.unwrap_or(never),
        enforced: cx.some("filter_enforced", filter_enforced, matchers::runtime_fraction)?.unwrap_or(never),
        request_headers: headers::additions(cx, "request_headers_to_add_when_not_enforced", request_headers_to_add_when_not_enforced)?,
        response_headers: headers::additions(cx, "response_headers_to_add", response_headers_to_add)?,
        resource_exhausted: rate_limited_as_resource_exhausted,
    })
}

fn tokens(cx: &mut Cx, m: types::TokenBucket) -> Res<TokenBucket> {
    let types::TokenBucket { max_tokens, tokens_per_fill, fill_interval } = m;
    let interval = cx.duration("fill_interval", fill_interval)?.unwrap_or_default();
    if interval < Duration::from_millis(50) {
        return cx.refuse("fill_interval", "it has to be at least 50 ms");
    }
    let fill = number(tokens_per_fill).unwrap_or(1);
    if max_tokens == 0 || fill == 0 {
        return cx.refuse("max_tokens", "tokens and their filling have to be more than 0");
    }
    Ok(TokenBucket { most: max_tokens, fill, interval })
}
