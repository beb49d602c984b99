//! A VirtualService's faults: requests that are delayed or answered on purpose, for tests of those who call.

use std::time::Duration;

use crate::read::{At, Fields, nearest, quoted};

/// Faults of a route; at least one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// A share of the requests is delayed.
    pub delay: Option<FaultDelay>,
    /// A share of the requests, delayed or not, is answered here.
    pub abort: Option<FaultAbort>,
}

/// A delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// How long; at least 1 ms.
    pub fixed: Duration,
    /// How many of a million requests.
    pub of_a_million: u32,
}

/// An answer in place of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// With which status.
    pub status: FaultStatus,
    /// How many of a million requests.
    pub of_a_million: u32,
}

/// The status of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStatus {
    /// Of HTTP, from 200 to 599.
    Http(u16),
    /// Of gRPC, by its number.
    Grpc(u32),
}

/// gRPC's statuses, by their numbers.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Fault {
    pub(crate) fn read(f: &Fields<'_>) -> Fault {
        let fault = Fault {
            delay: f.opt_sub("delay", |f| FaultDelay {
                fixed: f.need("fixedDelay").map(|at| at.duration()).unwrap_or_default(),
                of_a_million: share(f),
            }),
            abort: f.opt_sub("abort", |f| {
                let status = match f.one_of(&["httpStatus", "grpcStatus"]) {
                    Some(("grpcStatus", at)) => FaultStatus::Grpc(grpc(&at)),
                    Some((_, at)) => FaultStatus::Http(u16::try_from(at.whole()).unwrap_or(503)),
                    None => {
                        f.at.fail("must have httpStatus or grpcStatus");
                        FaultStatus::Http(503)
                    }
                };
                FaultAbort { status, of_a_million: share(f) }
            }),
        };
        if fault == Fault::default() {
            f.at.fail("must have delay or abort");
        }
        fault
    }
}

/// The share of requests, by `percentage` or by its deprecated predecessor; without either no request is meant.
fn share(f: &Fields<'_>) -> u32 {
    let percent = f.count("percent").map(f64::from);
    let value = f.opt_sub("percentage", |f| f.get("value").map_or(0.0, |at| at.number()));
    let Some(share) = value.or(percent) else {
        f.at.warn("no request is meant: there is no percentage");
        return 0;
    };
    (share * 10_000.0).round() as u32
}

fn grpc(at: &At<'_>) -> u32 {
    let text = at.text();
    let number = GRPC.iter().position(|name| *name == text).or_else(|| text.parse().ok().filter(|n| *n < GRPC.len()));
    let Some(number) = number else {
        match nearest(&text, GRPC.into_iter()) {
            Some(near) => at.fail(format!("unknown gRPC status {}, did you mean `{near}`?", quoted(&text))),
            None => at.fail(format!("{} is no gRPC status", quoted(&text))),
        }
        return 14;
    };
    u32::try_from(number).unwrap_or(14)
}
