//! What is found out of a cluster's hosts, and when one is left out for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mizzen_types::Name;

use super::{HeaderOps, StringMatch};

/// When a host is left out for a while by what its answers and connections show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// How often hosts are looked at: to let them back in, and to compare them.
    pub interval: Duration,
    /// How long at first; times the number of ejections.
    pub base_ejection: Duration,
    /// How long at most, but for the jitter.
    pub max_ejection: Duration,
    /// Up to how much is added at random.
    pub max_jitter: Duration,
    /// At most this share of hosts (percent) is left out at a time.
    pub max_percent: u32,
    /// Whether one host may always be left out.
    pub always_one: bool,
    /// Whether failures of the way to a host (connections, timeouts, resets) are counted apart from what it answers; else they count as 503 and 504.
    pub split: bool,
    /// Answers of 500 and more in a row.
    pub consecutive_5xx: Consecutive,
    /// 502, 503 and 504 in a row.
    pub consecutive_gateway: Consecutive,
    /// Failures of the way in a row, where they are counted apart.
    pub consecutive_local: Consecutive,
    /// Hosts that do worse than the others.
    pub success_rate: SuccessRate,
    /// Hosts that do badly.
    pub failure_percentage: FailurePercentage,
    /// Whether an active check that succeeds lets a host back in.
    pub is_ended_by_checks: bool,
    /// Whether hosts that answer with `x-envoy-degraded` are degraded for a while.
    pub finds_degraded: bool,
}

/// So many in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consecutive {
    /// How many; 0: never.
    pub count: u32,
    /// How often it is acted upon, in percent.
    pub enforcing: u32,
}

/// Within an interval, a host's share of successes lies far below the mean of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Only if so many hosts had enough requests.
    pub minimum_hosts: u32,
    /// How many requests are enough.
    pub request_volume: u32,
    /// How far below: this many thousandths of the standard deviation.
    pub stdev_factor: u32,
    /// How often it is acted upon, in percent.
    pub enforcing: u32,
    /// The same for failures of the way, where they are counted apart.
    pub enforcing_local: u32,
}

/// Within an interval, a host's share of failures is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// From which share on, in percent.
    pub threshold: u32,
    /// Only if so many hosts had enough requests.
    pub minimum_hosts: u32,
    /// How many requests are enough.
    pub request_volume: u32,
    /// How often it is acted upon, in percent.
    pub enforcing: u32,
    /// The same for failures of the way, where they are counted apart.
    pub enforcing_local: u32,
}

/// How a cluster's hosts are asked whether they are well.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// How long an answer may take.
    pub timeout: Duration,
    /// When the next check is.
    pub pace: Pace,
    /// After so many failures in a row a host is not used; 1 where a host answers that it is ill.
    pub unhealthy_threshold: u32,
    /// After so many successes in a row it is used again; the first check of all needs one alone.
    pub healthy_threshold: u32,
    /// Whether the connection is kept for the next check.
    pub reuse_connection: bool,
    /// ALPN names in place of the transport's; none: the transport's.
    pub alpn: Option<Arc<[Name]>>,
    /// What chooses the transport in place of the host's own labels.
    pub transport_labels: Option<Arc<[(Name, Name)]>>,
    /// What is asked, and what is an answer.
    pub kind: CheckKind,
}

/// How long it is from the end of one check to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// As a rule.
    pub interval: Duration,
    /// Up to how much the first check is put off, at random.
    pub initial_jitter: Duration,
    /// Up to how much is added each time, at random.
    pub jitter: Duration,
    /// The same, in percent of what it is added to.
    pub jitter_percent: u32,
    /// As long as the cluster had no connection, and the host is not well.
    pub no_traffic: Duration,
    /// As long as the cluster had no connection, and the host is well.
    pub no_traffic_healthy: Duration,
    /// After a failure.
    pub unhealthy: Duration,
    /// After a failure that was not the last one of a threshold.
    pub unhealthy_edge: Duration,
    /// After a success that was not the last one of a threshold.
    pub healthy_edge: Duration,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// A request.
    Http(Box<HttpCheck>),
    /// Bytes, or a connection alone.
    Tcp(TcpCheck),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck),
}

/// A request, and which answers are good.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpCheck {
    /// The authority; empty: the cluster's name.
    pub host: Name,
    /// The path.
    pub path: Name,
    /// The method.
    pub method: &'static str,
    /// The body.
    pub send: Arc<[u8]>,
    /// What the body of the answer has to contain, in this order.
    pub receive: Arc<[Arc<[u8]>]>,
    /// How much of the body is looked at, in bytes; 0: all.
    pub response_buffer: u64,
    /// Changes to the request's head.
    pub headers: HeaderOps,
    /// Statuses of an answer that is good: from, up to without.
    pub expected: Arc<[(u16, u16)]>,
    /// Statuses that are failures of which the threshold allows some.
    pub retriable: Arc<[(u16, u16)]>,
    /// Whether HTTP/2 is spoken.
    pub is_h2: bool,
    /// What the answer's `x-envoy-upstream-healthchecked-cluster` has to be.
    pub service_name: Option<StringMatch>,
}

/// Bytes to be sent, and to be received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpCheck {
    /// Sent at once, if something is to be received.
    pub send: Arc<[u8]>,
    /// What has to come, in this order; nothing: the connection is enough.
    pub receive: Arc<[Arc<[u8]>]>,
}

/// A question to gRPC's health service.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcCheck {
    /// About which service; empty: the server.
    pub service: Name,
    /// The authority; empty: the cluster's name.
    pub authority: Name,
    /// Changes to the request's head.
    pub headers: HeaderOps,
}

/// How one host is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCheck {
    /// Where, in place of where it serves.
    pub address: Option<IpAddr>,
    /// At which port, in place of that one; 0: at that one.
    pub port: u16,
    /// The authority in place of the check's; empty: the check's.
    pub hostname: Name,
    /// It is not checked.
    pub is_off: bool,
}
