//! DestinationRule.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::Hostname;

use super::ExportTo;
use crate::Meta;

/// How connections to a host are made.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The service, as written: a short name is completed by the namespace of this object.
    pub host: Hostname,
    /// To whom it is visible; empty is the mesh's default.
    pub export_to: Vec<ExportTo>,
    /// Named parts of the service; names are unique.
    pub subsets: Vec<Subset>,
    /// For all ports and subsets.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Those endpoints of a service that carry some labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// The name.
    pub name: String,
    /// The labels; none: all endpoints.
    pub labels: BTreeMap<String, String>,
    /// Overrides the rule's own, block by block.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Settings of connections; a missing block is inherited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits.
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are set aside.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS to the endpoints; none: automatic mutual TLS.
    pub tls: Option<ClientTls>,
    /// For single ports of the service: replaces all four blocks, inherits none. Their own maps are empty.
    pub port_level_settings: BTreeMap<u16, TrafficPolicy>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LoadBalancer {
    /// The one with the fewest requests of two at random; Istio's default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The address that the caller asked for.
    Passthrough,
}

/// Limits of connections and requests; what is missing has no limit, or Istio's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// For connections.
    pub tcp: TcpPool,
    /// For requests.
    pub http: HttpPool,
}

/// Limits of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpPool {
    /// To one service, HTTP/1.1 and TCP.
    pub max_connections: Option<u32>,
    /// Default 10 s.
    pub connect_timeout: Option<Duration>,
    /// Of a TCP connection without traffic; zero: none. Default 1 h.
    pub idle_timeout: Option<Duration>,
}

/// Limits of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPool {
    /// Requests that wait for a connection.
    pub http1_max_pending_requests: Option<u32>,
    /// Requests at once.
    pub http2_max_requests: Option<u32>,
    /// Then the connection is closed; 0: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Retries at once.
    pub max_retries: Option<u32>,
    /// Of a connection without requests. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// Requests at once on one HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
}

/// When endpoints are set aside; what is missing has Istio's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 5xx in a row, default 5; 0: never.
    pub consecutive_5xx_errors: Option<u32>,
    /// 502, 503 and 504 in a row, default 0: never.
    pub consecutive_gateway_errors: Option<u32>,
    /// Failures of the connection's own in a row, default 5; only if split.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Whether failures of the connection's own are counted apart.
    pub split_external_local_origin_errors: bool,
    /// Between sweeps, default 10 s.
    pub interval: Option<Duration>,
    /// Times the number of ejections, default 30 s.
    pub base_ejection_time: Option<Duration>,
    /// At most this part of the endpoints, default 10.
    pub max_ejection_percent: Option<u32>,
    /// Below this part of healthy endpoints none is set aside, default 0.
    pub min_health_percent: Option<u32>,
}

/// TLS to a service's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientTls {
    /// Plain text.
    Disable,
    /// Mutual TLS with the workload's identity.
    IstioMutual,
}
