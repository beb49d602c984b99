//! Clusters: where requests go and how.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mizzen_types::Name;

use super::{Assignment, Balancing, ContentHash, Dynamic, Endpoint, EndpointAddress, HealthCheck, Outlier, UpstreamTls};

/// A cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// Its name in statistics; [`Cluster::name`] if none is given. Istio ends it with a `;`.
    pub stat_name: Name,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// Which endpoint is taken.
    pub lb: Arc<Balancing>,
    /// How long a connection may take to be made, TLS not included.
    pub connect_timeout: Duration,
    /// Limits for requests of default priority.
    pub breakers: Breakers,
    /// Limits for requests of high priority.
    pub breakers_high: Breakers,
    /// When an endpoint is left out for a while.
    pub outlier: Option<Arc<Outlier>>,
    /// How its hosts are asked whether they are well.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Hosts that were not checked yet are not counted until they are.
    pub ignores_unchecked: bool,
    /// Plain or TLS, by endpoint.
    pub transport: TransportSelect,
    /// HTTP towards the endpoints.
    pub http: UpstreamHttp,
    /// The address to connect from.
    pub bind: Option<BindFrom>,
    /// Keep-alive of TCP.
    pub keepalive: Option<Keepalive>,
    /// Istio's services behind it.
    pub services: Arc<[IstioService]>,
    /// Whether Istio says that it lies outside the mesh.
    pub external: bool,
    /// Whether Istio's choice of ALPN holds for it: the mesh's own names are not offered to others.
    pub alpn_override: bool,
}

/// How endpoints are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// By name in [`crate::Config::assignments`].
    Eds {
        /// That name.
        service: Name,
    },
    /// Given in place.
    Static(Arc<Assignment>),
    /// Given in place by names; every address of each is an endpoint.
    StrictDns(Arc<Assignment>, Dns),
    /// One name; one connection target at a time, whichever address came first.
    LogicalDns(Arc<Assignment>, Dns),
    /// The address that the client meant.
    OriginalDst {
        /// A port in place of the one that the client meant.
        port: Option<u16>,
    },
    /// By the names that requests and connections bring.
    Dynamic(Arc<Dynamic>),
}

/// How names are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dns {
    /// How often.
    pub refresh: Duration,
    /// Up to how much is added at random.
    pub jitter: Duration,
    /// How often after a failure: at first, at most; none: as often as ever.
    pub on_failure: Option<Fallible>,
    /// Whether the answer's time to live counts instead of `refresh`.
    pub respect_ttl: bool,
    /// For how long an answer holds at least whose time to live counts.
    pub least: Duration,
    /// Which addresses.
    pub family: DnsFamily,
}

/// A back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallible {
    /// At first.
    pub base: Duration,
    /// At most.
    pub max: Duration,
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, else IPv4.
    Auto,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// IPv4, else IPv6.
    V4Preferred,
    /// Both.
    All,
}

/// Limits of a cluster, counted over the whole process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breakers {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Retries in flight.
    pub retries: RetryLimit,
}

/// How many retries may be in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryLimit {
    /// So many.
    Most(u32),
    /// A share of the requests in flight, but so many always.
    Budget {
        /// In percent.
        percent: f64,
        /// The least that is allowed.
        least: u32,
    },
}

impl RetryLimit {
    /// How many may be in flight beside so many requests, those that are tried again included.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float is cut off at the bounds of an integer, and NaN is 0"
    )]
    pub fn most(self, requests: u32) -> u32 {
        match self {
            RetryLimit::Most(most) => most,
            RetryLimit::Budget { percent, least } => least.max((percent / 100.0 * f64::from(requests)) as u32),
        }
    }
}

/// Plain or TLS.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// Plain.
    Raw,
    /// TLS.
    Tls(Arc<UpstreamTls>),
}

/// The transport for an endpoint: the first whose labels the endpoint has, else the default.
#[derive(Clone, Debug, PartialEq)]
pub struct TransportSelect {
    /// In order.
    pub matches: Arc<[TransportMatch]>,
    /// If none matches.
    pub default: Transport,
}

/// A transport for endpoints that have all of these labels.
#[derive(Clone, Debug, PartialEq)]
pub struct TransportMatch {
    /// Its name, such as `tlsMode-istio`.
    pub name: Name,
    /// The labels.
    pub labels: Arc<[(Name, Name)]>,
    /// The transport.
    pub transport: Transport,
}

impl TransportSelect {
    /// All transports, the default one last.
    pub fn all(&self) -> impl Iterator<Item = &Transport> {
        self.matches.iter().map(|m| &m.transport).chain([&self.default])
    }

    /// The transport for an endpoint with these labels.
    pub fn of(&self, endpoint: &Endpoint) -> &Transport {
        let has = |l: &(Name, Name)| endpoint.labels.contains(l);
        self.matches.iter().find(|m| m.labels.iter().all(has)).map_or(&self.default, |m| &m.transport)
    }
}

/// HTTP towards endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamHttp {
    /// Which version.
    pub protocol: HttpProtocol,
    /// How long a connection without a request is kept; none: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a connection is kept at most.
    pub max_connection_duration: Option<Duration>,
    /// How long a stream may last.
    pub max_stream_duration: Option<Duration>,
    /// After so many requests a connection is drained; 0: never.
    pub max_requests_per_connection: u32,
    /// The most headers of a response.
    pub max_headers: u32,
    /// The largest head of a response in KiB.
    pub max_headers_kb: u32,
    /// HTTP/2's settings.
    pub h2: H2Options,
    /// Whether the TLS server name is the request's authority.
    pub auto_sni: bool,
}

/// Which version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// As the request came.
    Downstream,
    /// As ALPN says.
    Alpn,
}

/// Settings of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct H2Options {
    /// Streams at a time.
    pub max_streams: u32,
    /// The window of a stream.
    pub stream_window: u32,
    /// The window of a connection.
    pub connection_window: u32,
    /// How often a PING is sent; none: never.
    pub ping_interval: Option<Duration>,
    /// How long its answer may take.
    pub ping_timeout: Duration,
    /// Whether extended CONNECT is allowed.
    pub allow_connect: bool,
}

impl Default for H2Options {
    fn default() -> Self {
        H2Options {
            max_streams: 1024,
            stream_window: 16 << 20,
            connection_window: 24 << 20,
            ping_interval: None,
            ping_timeout: Duration::from_secs(10),
            allow_connect: false,
        }
    }
}

/// The address to connect from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindFrom {
    /// Tried first, where its family is the target's.
    pub source: SocketAddr,
    /// For the other family.
    pub extra: Arc<[SocketAddr]>,
}

/// Keep-alive of TCP; what is not given is the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// How many probes.
    pub probes: Option<u32>,
    /// After how long a silence.
    pub time: Option<Duration>,
    /// How far apart.
    pub interval: Option<Duration>,
}

/// One of Istio's services behind a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstioService {
    /// Its host.
    pub host: Name,
    /// Its name.
    pub name: Name,
    /// Its namespace.
    pub namespace: Name,
}

impl Discovery {
    /// The endpoints given in place.
    pub fn inline(&self) -> Option<&Arc<Assignment>> {
        match self {
            Discovery::Static(a) | Discovery::StrictDns(a, _) | Discovery::LogicalDns(a, _) => Some(a),
            Discovery::Eds { .. } | Discovery::OriginalDst { .. } | Discovery::Dynamic(_) => None,
        }
    }

    /// The names to resolve.
    pub fn dns_names(&self) -> Vec<(Name, u16)> {
        let (Discovery::StrictDns(a, _) | Discovery::LogicalDns(a, _)) = self else { return Vec::new() };
        let name = |e: &Arc<Endpoint>| match &e.address {
            EndpointAddress::Dns(name, port) => Some((name.clone(), *port)),
            EndpointAddress::Socket(_) | EndpointAddress::Pipe(_) | EndpointAddress::Internal(..) => None,
        };
        a.endpoints().filter_map(name).collect()
    }
}
