//! Limits of connections and requests, and when endpoints are set aside.

use std::time::Duration;

use crate::read::Fields;

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
    /// Of a connection without traffic, or without requests if [`HttpPool::idle_timeout`] says nothing; zero: none. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// How long a connection is kept at most.
    pub max_connection_duration: Option<Duration>,
    /// Member by member, the mesh's is what this does not say.
    pub keepalive: Keepalive,
}

/// Probes of silent TCP connections; what is missing is the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// After so many without an answer the connection is closed.
    pub probes: Option<u32>,
    /// After how long a silence, in whole seconds.
    pub time: Option<Duration>,
    /// How far apart, in whole seconds.
    pub interval: Option<Duration>,
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
    /// Whether HTTP/1.1 goes on as HTTP/2.
    pub h2_upgrade: H2Upgrade,
    /// Whether requests go on in the version in which they came.
    pub use_client_protocol: bool,
}

/// Whether requests to a port of HTTP/1.1 go on as HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum H2Upgrade {
    /// As the mesh says.
    #[default]
    Default,
    /// No.
    Never,
    /// Yes.
    Always,
}

/// When endpoints are set aside; what is missing has Istio's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 5xx in a row, default 5; 0: never.
    pub consecutive_5xx_errors: Option<u32>,
    /// 502, 503 and 504 in a row, default 0: never.
    pub consecutive_gateway_errors: Option<u32>,
    /// Whether failures to connect, time-outs and resets are counted apart from errors that the endpoint answers.
    pub split_external_local_origin_errors: bool,
    /// So many of those in a row, default 5. Only set if they are counted apart.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Between sweeps, default 10 s.
    pub interval: Option<Duration>,
    /// Times the number of ejections, default 30 s.
    pub base_ejection_time: Option<Duration>,
    /// At most this part of the endpoints, default 10.
    pub max_ejection_percent: Option<u32>,
    /// Below this part of healthy endpoints none is set aside, default 0.
    pub min_health_percent: Option<u32>,
}

/// A limit of Istio's, in which 0 is the same as none.
fn limit(f: &Fields<'_>, name: &'static str) -> Option<u32> {
    f.count(name).filter(|count| *count > 0)
}

impl ConnectionPool {
    pub(crate) fn read(f: &Fields<'_>) -> ConnectionPool {
        let tcp = f.opt_sub("tcp", |f| TcpPool {
            max_connections: limit(f, "maxConnections"),
            connect_timeout: f.duration("connectTimeout"),
            idle_timeout: f.duration("idleTimeout"),
            max_connection_duration: f.duration("maxConnectionDuration"),
            keepalive: f.opt_sub("tcpKeepalive", Keepalive::read).unwrap_or_default(),
        });
        ConnectionPool { tcp: tcp.unwrap_or_default(), http: f.opt_sub("http", HttpPool::read).unwrap_or_default() }
    }
}

pub(crate) const POOL_UPGRADES: &[(&str, i64, Option<H2Upgrade>); 3] =
    &[("DEFAULT", 0, Some(H2Upgrade::Default)), ("DO_NOT_UPGRADE", 1, Some(H2Upgrade::Never)), ("UPGRADE", 2, Some(H2Upgrade::Always))];

impl HttpPool {
    fn read(f: &Fields<'_>) -> HttpPool {
        let pool = HttpPool {
            http1_max_pending_requests: limit(f, "http1MaxPendingRequests"),
            http2_max_requests: limit(f, "http2MaxRequests"),
            max_requests_per_connection: limit(f, "maxRequestsPerConnection"),
            max_retries: limit(f, "maxRetries"),
            idle_timeout: f.duration("idleTimeout"),
            max_concurrent_streams: limit(f, "maxConcurrentStreams"),
            h2_upgrade: f.get("h2UpgradePolicy").and_then(|at| at.choice(POOL_UPGRADES)).unwrap_or_default(),
            use_client_protocol: f.flag("useClientProtocol"),
        };
        if pool.use_client_protocol && pool.h2_upgrade == H2Upgrade::Always {
            f.slot("useClientProtocol").fail("excludes h2UpgradePolicy UPGRADE");
        }
        pool
    }
}

impl Keepalive {
    pub(crate) fn read(f: &Fields<'_>) -> Keepalive {
        Keepalive { probes: limit(f, "probes"), time: f.duration("time"), interval: f.duration("interval") }
    }

    /// This one, with what it does not say from `other`.
    pub fn or(self, other: Keepalive) -> Keepalive {
        Keepalive { probes: self.probes.or(other.probes), time: self.time.or(other.time), interval: self.interval.or(other.interval) }
    }
}

impl OutlierDetection {
    pub(crate) fn read(f: &Fields<'_>) -> OutlierDetection {
        let split = f.flag("splitExternalLocalOriginErrors");
        let local = f.get("consecutiveLocalOriginFailures").map(|at| (at.count(), at));
        if let Some((1.., at)) = &local
            && !split
        {
            at.fail("counts only with splitExternalLocalOriginErrors");
        }
        OutlierDetection {
            consecutive_5xx_errors: f.count("consecutive5xxErrors"),
            consecutive_gateway_errors: f.count("consecutiveGatewayErrors"),
            split_external_local_origin_errors: split,
            consecutive_local_origin_failures: local.map(|(count, _)| count).filter(|count| *count > 0),
            interval: f.duration("interval"),
            base_ejection_time: f.duration("baseEjectionTime"),
            max_ejection_percent: limit(f, "maxEjectionPercent"),
            min_health_percent: limit(f, "minHealthPercent"),
        }
    }
}
