//! The HTTP connection manager and its filters.

use std::sync::Arc;
use std::time::Duration;

use mizzen_types::Name;

use super::{AccessLog, H2Options, RouteConfig};
use crate::filter::{HttpFilter, RouterOptions};

/// Serves HTTP on a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Hcm {
    /// Which version of HTTP.
    pub codec: CodecKind,
    /// Where its routes are.
    pub routes: HttpRoutes,
    /// The filters in order. The router is not among them: it is always last.
    pub filters: Arc<[HttpFilter]>,
    /// Whether one of the filters is refused: nobody knows what it would have kept out, so every request is answered 503.
    pub closed: bool,
    /// The router's options.
    pub router: RouterOptions,
    /// Its logs.
    pub access_log: Arc<[Arc<AccessLog>]>,
    /// The `server` header's value.
    pub server_name: Name,
    /// What happens to a `server` header of the response.
    pub server_header: ServerHeader,
    /// Whether the client's address is the connection's (an edge), and X-Forwarded-For is written; else it is taken from there.
    pub use_remote_address: bool,
    /// How many trusted proxies are in front.
    pub xff_trusted_hops: u32,
    /// Whether X-Forwarded-For is left as it is.
    pub skip_xff_append: bool,
    /// The pseudonym for the `via` header; empty: none is written.
    pub via: Name,
    /// Whether a request without an id gets one.
    pub generate_request_id: bool,
    /// Whether an edge keeps the client's request id.
    pub preserve_external_request_id: bool,
    /// Whether the response carries the request id.
    pub request_id_in_response: bool,
    /// What happens to `x-forwarded-client-cert`.
    pub client_cert: ForwardClientCert,
    /// What of the peer's certificate is written there.
    pub cert_details: CertDetails,
    /// What happens to the path first.
    pub path: PathOptions,
    /// Whether the authority loses its port.
    pub strip_port: StripPort,
    /// Whether the authority loses a trailing dot.
    pub strip_trailing_dot: bool,
    /// How long a connection without a request is kept; none: for ever. One hour by default.
    pub idle_timeout: Option<Duration>,
    /// How long a stream may stand still; none: for ever. Five minutes by default.
    pub stream_idle_timeout: Option<Duration>,
    /// How long a request may take to arrive.
    pub request_timeout: Option<Duration>,
    /// How long a request's head may take to arrive.
    pub request_headers_timeout: Option<Duration>,
    /// How long a connection may last at most.
    pub max_connection_duration: Option<Duration>,
    /// How long a stream may last at most.
    pub max_stream_duration: Option<Duration>,
    /// How long between the two GOAWAYs, or to the close.
    pub drain_timeout: Duration,
    /// After so many requests the connection is drained; 0: never.
    pub max_requests_per_connection: u32,
    /// The most headers.
    pub max_headers: u32,
    /// The largest head in KiB.
    pub max_headers_kb: u32,
    /// HTTP/2's settings.
    pub h2: H2Options,
    /// Whether HTTP/1.0 is served.
    pub accept_http_10: bool,
    /// The host of an HTTP/1.0 request that names none.
    pub default_host: Name,
    /// Upgrades that are served (`websocket`), lower case.
    pub upgrades: Arc<[Name]>,
    /// Whether `100 Continue` of the upstream is passed on; else the proxy says it itself.
    pub proxy_100_continue: bool,
}

/// Which version of HTTP is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecKind {
    /// As ALPN or the first bytes say.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where routes are.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpRoutes {
    /// By name in [`crate::Config::routes`].
    Named(Name),
    /// Given in place.
    Inline(Arc<RouteConfig>),
}

/// What happens to a `server` header of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    /// It is replaced.
    Overwrite,
    /// It is written if there is none.
    AppendIfAbsent,
    /// It is left alone.
    PassThrough,
}

/// What happens to `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Removed.
    Sanitize,
    /// Kept if the connection is mutual TLS, else removed.
    ForwardOnly,
    /// Appended to if the connection is mutual TLS, else removed.
    AppendForward,
    /// Set if the connection is mutual TLS, else removed.
    SanitizeSet,
    /// Kept always.
    AlwaysForward,
}

/// What of the peer's certificate is written to `x-forwarded-client-cert`, besides its hash and our own URI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertDetails {
    /// The subject.
    pub subject: bool,
    /// The certificate, URL-encoded PEM.
    pub cert: bool,
    /// The chain, URL-encoded PEM.
    pub chain: bool,
    /// The DNS names.
    pub dns: bool,
    /// The URI names.
    pub uri: bool,
}

/// What happens to the path before anything looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathOptions {
    /// Dot segments are removed and needless escapes decoded.
    pub normalize: bool,
    /// Slashes next to each other become one.
    pub merge_slashes: bool,
    /// What `%2F` and `%5C` mean.
    pub escaped_slashes: EscapedSlashes,
}

/// What `%2F` and `%5C` in a path mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is refused with 400.
    Reject,
    /// The client is redirected to the decoded path.
    Redirect,
    /// They are decoded.
    Forward,
}

/// Whether the authority loses its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripPort {
    /// No.
    No,
    /// If it is the listener's.
    Matching,
    /// Whatever it is.
    Any,
}

impl Hcm {
    /// For calls of the proxy's own, which no listener accepted: nothing is added, logged or limited.
    pub fn internal() -> Hcm {
        Hcm {
            codec: CodecKind::Auto,
            routes: HttpRoutes::Named(Name::default()),
            filters: Arc::from([]),
            closed: false,
            router: RouterOptions { suppress_envoy_headers: true },
            access_log: Arc::from([]),
            server_name: Name::default(),
            server_header: ServerHeader::PassThrough,
            use_remote_address: false,
            xff_trusted_hops: 0,
            skip_xff_append: true,
            via: Name::default(),
            generate_request_id: false,
            preserve_external_request_id: false,
            request_id_in_response: false,
            client_cert: ForwardClientCert::AlwaysForward,
            cert_details: CertDetails::default(),
            path: PathOptions::default(),
            strip_port: StripPort::No,
            strip_trailing_dot: false,
            idle_timeout: None,
            stream_idle_timeout: None,
            request_timeout: None,
            request_headers_timeout: None,
            max_connection_duration: None,
            max_stream_duration: None,
            drain_timeout: Duration::ZERO,
            max_requests_per_connection: 0,
            max_headers: 0,
            max_headers_kb: 0,
            h2: H2Options::default(),
            accept_http_10: false,
            default_host: Name::default(),
            upgrades: Arc::from([]),
            proxy_100_continue: false,
        }
    }
}
