//! Faults on purpose: a share of requests is delayed, or answered here.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::extensions::filters::common::fault::v3 as common;
use mizzen_protos::envoy::envoy::extensions::filters::http::fault::v3 as fault;

use crate::compile::cx::{Cx, Res, harmless, number, refused, silent};
use crate::compile::matchers;
use crate::config::{Fraction, HeaderMatch};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

/// Delays, aborts and slow responses. A delayed request may be aborted afterwards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// The delay.
    pub delay: Option<Delay>,
    /// The abort.
    pub abort: Option<Abort>,
    /// How fast the response's body may go.
    pub response_rate: Option<ResponseRate>,
    /// Only requests that match all of these.
    pub headers: Arc<[HeaderMatch]>,
    /// How many requests of one worker may be under a fault at a time; none: any number.
    pub max_active: Option<u32>,
}

/// A delay.
#[derive(Clone, Debug, PartialEq)]
pub struct Delay {
    /// Of which share of the requests.
    pub share: Fraction,
    /// How long.
    pub with: DelayWith,
}

/// How long a delay lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayWith {
    /// Always as long.
    Fixed(Duration),
    /// As many milliseconds as `x-envoy-fault-delay-request` says, for at most the share in `x-envoy-fault-delay-request-percentage`.
    Header,
}

/// A bound on the rate of the response's body.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseRate {
    /// For which share of the requests.
    pub share: Fraction,
    /// How fast.
    pub with: RateWith,
}

/// How fast a body may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateWith {
    /// KiB a second, at least 1.
    Fixed(u64),
    /// As many KiB a second as `x-envoy-fault-throughput-response` says, for at most the share in
    /// `x-envoy-fault-throughput-response-percentage`.
    Header,
}

/// An abort.
#[derive(Clone, Debug, PartialEq)]
pub struct Abort {
    /// Of which share of the requests.
    pub share: Fraction,
    /// With what.
    pub with: AbortWith,
    /// The body of the answer.
    pub body: Arc<str>,
}

/// The status of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortWith {
    /// Of HTTP: 200 to 599.
    Http(u16),
    /// Of gRPC; the HTTP status is then 200.
    Grpc(u32),
    /// As `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` says, for at most the share in
    /// `x-envoy-fault-abort-request-percentage`.
    Header,
}

pub(super) fn compile(cx: &mut Cx, m: fault::HttpFault) -> Res<Fault> {
    let fault::HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        disable_downstream_cluster_stats,
        filter_metadata,
    } = m;
    refused!(cx; upstream_cluster, downstream_nodes);
    harmless!(cx; filter_metadata);
    // There is no runtime that could override what is given.
    silent!(delay_percent_runtime, abort_percent_runtime, delay_duration_runtime, abort_http_status_runtime, max_active_faults_runtime);
    silent!(response_rate_limit_percent_runtime, abort_grpc_status_runtime, disable_downstream_cluster_stats);
    Ok(Fault {
        delay: cx.some("delay", delay, delay_of)?,
        abort: cx.some("abort", abort, abort_of)?,
        response_rate: cx.some("response_rate_limit", response_rate_limit, rate_of)?,
        headers: cx.each("headers", headers, matchers::header)?.into(),
        max_active: number(max_active_faults),
    })
}

/// A share that nobody gave is none at all.
fn share(cx: &mut Cx, percentage: Option<mizzen_protos::envoy::envoy::r#type::v3::FractionalPercent>) -> Res<Fraction> {
    let share = cx.some("percentage", percentage, |cx, m| matchers::fraction(cx, m))?;
    Ok(share.unwrap_or(Fraction { numerator: 0, denominator: 100 }))
}

fn delay_of(cx: &mut Cx, m: common::FaultDelay) -> Res<Delay> {
    use common::fault_delay::FaultDelaySecifier as D;
    let common::FaultDelay { percentage, fault_delay_secifier } = m;
    let with = match fault_delay_secifier {
        Some(D::FixedDelay(d)) => DelayWith::Fixed(cx.duration("fixed_delay", Some(d))?.unwrap_or_default()),
        Some(D::HeaderDelay(_)) => DelayWith::Header,
        None => return cx.refuse("fixed_delay", "it is required"),
    };
    Ok(Delay { share: share(cx, percentage)?, with })
}

fn rate_of(cx: &mut Cx, m: common::FaultRateLimit) -> Res<ResponseRate> {
    use common::fault_rate_limit::{FixedLimit, LimitType as L};
    let common::FaultRateLimit { percentage, limit_type } = m;
    let with = match limit_type {
        Some(L::FixedLimit(FixedLimit { limit_kbps: 0 })) => return cx.refuse("fixed_limit.limit_kbps", "0 is not at least 1"),
        Some(L::FixedLimit(FixedLimit { limit_kbps })) => RateWith::Fixed(limit_kbps),
        Some(L::HeaderLimit(_)) => RateWith::Header,
        None => return cx.refuse("fixed_limit", "it is required"),
    };
    Ok(ResponseRate { share: share(cx, percentage)?, with })
}

fn abort_of(cx: &mut Cx, m: fault::FaultAbort) -> Res<Abort> {
    use fault::fault_abort::ErrorType as E;
    let fault::FaultAbort { percentage, response_body, error_type } = m;
    let with = match error_type {
        Some(E::HttpStatus(status)) => match u16::try_from(status) {
            Ok(status @ 200..=599) => AbortWith::Http(status),
            _ => return cx.refuse("http_status", format!("{status} is not from 200 to 599")),
        },
        Some(E::GrpcStatus(status)) => AbortWith::Grpc(status),
        Some(E::HeaderAbort(_)) => AbortWith::Header,
        None => return cx.refuse("http_status", "it is required"),
    };
    Ok(Abort { share: share(cx, percentage)?, with, body: response_body.into() })
}
