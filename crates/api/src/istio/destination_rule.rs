//! DestinationRule.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::Hostname;

use super::{ExportTo, timeout};
use crate::{
    Meta,
    metadata::labels,
    read::{At, Fields, Why, quoted},
};

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

impl DestinationRule {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.sub("spec", |f| {
            let host = f.need("host").map(|at| at.hostname()).unwrap_or_else(crate::read::any_host);
            f.refuse(Why::Where, &["workloadSelector"]);
            let mut subsets: Vec<Subset> = Vec::new();
            for at in f.list("subsets") {
                let subset = at.fields(Subset::read);
                if !subset.name.is_empty() && subsets.iter().any(|other| other.name == subset.name) {
                    at.fail(format!("there are two subsets {}", quoted(&subset.name)));
                }
                subsets.push(subset);
            }
            DestinationRule {
                meta,
                host,
                export_to: ExportTo::read_list(f, "exportTo"),
                subsets,
                traffic_policy: f.opt_sub("trafficPolicy", TrafficPolicy::read),
            }
        })
    }
}

impl Subset {
    fn read(f: &Fields<'_>) -> Subset {
        let name = f.need("name").map(|at| {
            let name = at.word();
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                at.fail(format!("{} is no name of a subset: letters, digits, `-`, `_`, `.`", quoted(&name)));
            }
            name
        });
        Subset {
            name: name.unwrap_or_default(),
            labels: f.get("labels").map(|at| labels(&at)).unwrap_or_default(),
            traffic_policy: f.opt_sub("trafficPolicy", TrafficPolicy::read),
        }
    }
}

impl TrafficPolicy {
    fn read(f: &Fields<'_>) -> TrafficPolicy {
        let mut policy = TrafficPolicy::blocks(f);
        f.refuse(Why::What, &["tunnel", "proxyProtocol", "retryBudget"]);
        for at in f.list("portLevelSettings") {
            let (port, blocks) = at.fields(|f| {
                let port = f.need("port").and_then(|at| at.fields(|f| f.need("number").map(|at| at.port())));
                (port.unwrap_or_default(), TrafficPolicy::blocks(f))
            });
            if policy.port_level_settings.insert(port, blocks).is_some() && port != 0 {
                at.fail(format!("port {port} is set twice"));
            }
        }
        policy
    }

    fn blocks(f: &Fields<'_>) -> TrafficPolicy {
        TrafficPolicy {
            load_balancer: f.get("loadBalancer").and_then(|at| at.fields(LoadBalancer::read)),
            connection_pool: f.opt_sub("connectionPool", ConnectionPool::read),
            outlier_detection: f.opt_sub("outlierDetection", OutlierDetection::read),
            tls: f.opt_sub("tls", ClientTls::read),
            port_level_settings: BTreeMap::new(),
        }
    }
}

const BALANCERS: &[(&str, i64, Option<LoadBalancer>)] = &[
    ("UNSPECIFIED", 0, Some(LoadBalancer::LeastRequest)),
    ("LEAST_CONN", 1, Some(LoadBalancer::LeastRequest)),
    ("RANDOM", 2, Some(LoadBalancer::Random)),
    ("PASSTHROUGH", 3, Some(LoadBalancer::Passthrough)),
    ("ROUND_ROBIN", 4, Some(LoadBalancer::RoundRobin)),
    ("LEAST_REQUEST", 5, Some(LoadBalancer::LeastRequest)),
];

impl LoadBalancer {
    fn read(f: &Fields<'_>) -> Option<LoadBalancer> {
        f.refuse(Why::Where, &["consistentHash", "localityLbSetting", "zoneAwareLbSetting", "backendUtilization"]);
        f.harmless(&["warmup", "warmupDurationSecs"]);
        f.get("simple").and_then(|at| at.enumeration(BALANCERS, Why::Where))
    }
}

/// A limit of Istio's, in which 0 is the same as none.
fn limit(f: &Fields<'_>, name: &'static str) -> Option<u32> {
    f.count(name).filter(|count| *count > 0)
}

impl ConnectionPool {
    fn read(f: &Fields<'_>) -> ConnectionPool {
        let tcp = f.opt_sub("tcp", |f| {
            f.harmless(&["tcpKeepalive", "maxConnectionDuration"]);
            TcpPool {
                max_connections: limit(f, "maxConnections"),
                connect_timeout: f.get("connectTimeout").map(|at| positive(&at)),
                idle_timeout: f.get("idleTimeout").map(|at| timeout(&at)),
            }
        });
        let http = f.opt_sub("http", |f| {
            if let Some(at) = f.get("h2UpgradePolicy") {
                at.enumeration(&[("DEFAULT", 0, Some(())), ("DO_NOT_UPGRADE", 1, Some(())), ("UPGRADE", 2, None)], Why::What);
            }
            f.refuse_true(Why::What, "useClientProtocol");
            f.harmless(&["http2KeepAlive"]);
            HttpPool {
                http1_max_pending_requests: limit(f, "http1MaxPendingRequests"),
                http2_max_requests: limit(f, "http2MaxRequests"),
                max_requests_per_connection: limit(f, "maxRequestsPerConnection"),
                max_retries: limit(f, "maxRetries"),
                idle_timeout: f.get("idleTimeout").map(|at| timeout(&at)),
                max_concurrent_streams: limit(f, "maxConcurrentStreams"),
            }
        });
        ConnectionPool { tcp: tcp.unwrap_or_default(), http: http.unwrap_or_default() }
    }
}

/// At least a millisecond.
fn positive(at: &At<'_>) -> Duration {
    let duration = timeout(at);
    if duration.is_zero() && at.node.text().is_some() {
        at.fail("must be at least 1ms");
    }
    duration
}

impl OutlierDetection {
    fn read(f: &Fields<'_>) -> OutlierDetection {
        f.harmless(&["consecutiveErrors", "consecutiveLocalOriginFailures", "splitExternalLocalOriginErrors"]);
        f.refuse(Why::Where, &["outlierDetectionHttpErrorCodes"]);
        let percent = |name| f.get(name).map(|at| u32::try_from(at.int(0..=100)).unwrap_or_default()).filter(|percent| *percent > 0);
        OutlierDetection {
            consecutive_5xx_errors: f.get("consecutive5xxErrors").map(|at| at.u32()),
            consecutive_gateway_errors: f.get("consecutiveGatewayErrors").map(|at| at.u32()),
            interval: f.get("interval").map(|at| positive(&at)),
            base_ejection_time: f.get("baseEjectionTime").map(|at| positive(&at)),
            max_ejection_percent: percent("maxEjectionPercent"),
            min_health_percent: percent("minHealthPercent"),
        }
    }
}

impl ClientTls {
    fn read(f: &Fields<'_>) -> ClientTls {
        const MODES: &[(&str, i64, Option<ClientTls>)] = &[
            ("DISABLE", 0, Some(ClientTls::Disable)),
            ("SIMPLE", 1, None),
            ("MUTUAL", 2, None),
            ("ISTIO_MUTUAL", 3, Some(ClientTls::IstioMutual)),
        ];
        f.refuse(
            Why::Who,
            &[
                "clientCertificate",
                "privateKey",
                "caCertificates",
                "caCrl",
                "credentialName",
                "subjectAltNames",
                "insecureSkipVerify",
                "sni",
            ],
        );
        f.get("mode").and_then(|at| at.enumeration(MODES, Why::Who)).unwrap_or(ClientTls::Disable)
    }
}
