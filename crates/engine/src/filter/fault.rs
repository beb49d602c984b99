//! Faults on purpose: `envoy.filters.http.fault`.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use mizzen_http::Head;
use mizzen_ir::config::{Abort, AbortWith, DelayWith, Fault, FilterOverride, Fraction, RateWith};

use super::{Cx, Flow, News, Pass, Reply, State, Wait};
use crate::{
    flags::Flags,
    kept::{ActiveFault, FaultState, Rate},
};

pub(super) fn request(own: &Fault, state: &mut State, news: News, cx: &mut Cx<'_>) -> Flow {
    let fault = match cx.route {
        Some(FilterOverride::Fault(other)) => other,
        _ => own,
    };
    if let News::Head = news {
        if !fault.headers.iter().all(|m| m.matches(cx.head)) {
            return Flow::Go;
        }
        if let Some(rate) = rate_of(fault, cx) {
            begin(fault, state, cx, Some(Rate::new(rate)));
        }
        if let Some(delay) = delay_of(fault, cx)
            && begin(fault, state, cx, None)
        {
            cx.record.flags.set(Flags::DELAY_INJECTED);
            return Flow::Wait(Wait::Until(cx.now.mono + delay));
        }
    } else if !watches(state) {
        *state = State::None;
    }
    match &fault.abort {
        Some(abort) => aborted(abort, fault, state, cx),
        None => Flow::Go,
    }
}

/// Whether the response is slowed down.
pub(super) fn watches(state: &State) -> bool {
    matches!(state, State::Fault(FaultState { rate: Some(_), .. }))
}

/// Some of a response that is slowed down.
pub(super) fn body(state: &mut State, cx: &mut Cx<'_>) -> Pass {
    let State::Fault(FaultState { rate: Some(rate), .. }) = state else { return Pass::Go };
    let (room, next) = rate.room(cx.passed, cx.now.mono);
    cx.most = usize::try_from(room).unwrap_or(usize::MAX);
    if cx.body.len() > cx.most { Pass::Until(next) } else { Pass::Go }
}

/// The request is one under a fault, if it may be.
fn begin(fault: &Fault, state: &mut State, cx: &Cx<'_>, rate: Option<Rate>) -> bool {
    if matches!(state, State::Fault(_)) {
        return true;
    }
    let active = cx.shared.faults();
    let most = fault.max_active.unwrap_or(u32::MAX);
    let begun = active.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).is_ok();
    if begun {
        *state = State::Fault(FaultState { _active: ActiveFault::begun(active.clone()), rate });
    }
    begun
}

/// How many bytes of the response a second.
fn rate_of(fault: &Fault, cx: &mut Cx<'_>) -> Option<u64> {
    let rate = fault.response_rate.as_ref()?;
    let kib = match rate.with {
        RateWith::Fixed(kib) => kib,
        RateWith::Header => number(cx.head, "x-envoy-fault-throughput-response").filter(|kib| *kib > 0)?,
    };
    let of_header = matches!(rate.with, RateWith::Header).then_some("x-envoy-fault-throughput-response-percentage");
    hits(rate.share, of_header, cx).then(|| kib.saturating_mul(1024))
}

fn delay_of(fault: &Fault, cx: &mut Cx<'_>) -> Option<Duration> {
    let delay = fault.delay.as_ref()?;
    let wanted = match delay.with {
        DelayWith::Fixed(time) => time,
        DelayWith::Header => Duration::from_millis(number(cx.head, "x-envoy-fault-delay-request")?),
    };
    let of_header = matches!(delay.with, DelayWith::Header).then_some("x-envoy-fault-delay-request-percentage");
    (hits(delay.share, of_header, cx) && !wanted.is_zero()).then_some(wanted)
}

fn aborted(abort: &Abort, fault: &Fault, state: &mut State, cx: &mut Cx<'_>) -> Flow {
    let (status, grpc) = match abort.with {
        AbortWith::Http(status) => (Some(status), None),
        AbortWith::Grpc(status) => (None, Some(status)),
        AbortWith::Header => {
            let http =
                number(cx.head, "x-envoy-fault-abort-request").and_then(|n| u16::try_from(n).ok()).filter(|n| (200..600).contains(n));
            (http, number(cx.head, "x-envoy-fault-abort-grpc-request").and_then(|n| u32::try_from(n).ok()))
        }
    };
    if status.is_none() && grpc.is_none() {
        return Flow::Go;
    }
    let of_header = matches!(abort.with, AbortWith::Header).then_some("x-envoy-fault-abort-request-percentage");
    if !hits(abort.share, of_header, cx) || !begin(fault, state, cx, None) {
        return Flow::Go;
    }
    let body = if abort.body.is_empty() { "fault filter abort" } else { &abort.body };
    Flow::Reply(Box::new(Reply {
        status: status.or(grpc.map(http_of)).unwrap_or(503),
        body: body.as_bytes().to_vec(),
        flags: Flags::FAULT_INJECTED,
        details: "fault_filter_abort".to_owned(),
        grpc: grpc.filter(|_| status.is_none()),
        ..Reply::default()
    }))
}

/// Whether the request belongs to the share; a header may ask for a smaller one.
fn hits(share: Fraction, header: Option<&str>, cx: &mut Cx<'_>) -> bool {
    let wished = header.and_then(|name| number(cx.head, name)).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let numerator = share.numerator.min(wished.unwrap_or(u32::MAX));
    Fraction { numerator, ..share }.holds(cx.rng.next())
}

fn number(head: &Head, name: &str) -> Option<u64> {
    head.get_str(name)?.trim().parse().ok()
}

/// The HTTP status for a client that does not speak gRPC.
fn http_of(grpc: u32) -> u16 {
    match grpc {
        0 => 200,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
