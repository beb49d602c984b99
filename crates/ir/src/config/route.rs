//! Routes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mizzen_types::Name;

use super::{ContentHash, Criteria, Fraction, HashPolicy, HeaderMatch, MetadataMatch, Mutations, ParamMatch, Regex, Used};
use crate::{compile::inherited::Inherited, filter::Overrides};

/// A route configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// Its name.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// The virtual hosts in the order given. Which one a host belongs to is decided by [`crate::find_route`].
    pub hosts: Arc<[Arc<VirtualHost>]>,
    /// Whether the port of a request's host is left out when it is looked up.
    pub ignore_port: bool,
    /// The port of which it is, if its virtual hosts come one by one (VHDS) and are among `hosts` when they are there.
    pub open: Option<u16>,
    /// What virtual hosts that come on their own inherit, where it is open.
    pub(crate) above: Option<Arc<Inherited>>,
    /// Index into `hosts` by exact domain, lower case.
    pub(crate) exact: HashMap<Name, u32>,
    /// By suffix (`*.x` is kept as `.x`), the longest first.
    pub(crate) suffixes: Arc<[(Name, u32)]>,
    /// By prefix (`x.*` is kept as `x.`), the longest first.
    pub(crate) prefixes: Arc<[(Name, u32)]>,
    /// Of `*`.
    pub(crate) any: Option<u32>,
}

/// A virtual host.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// Its name.
    pub name: Name,
    /// Its domains as they were given.
    pub domains: Arc<[Name]>,
    /// The first that matches is taken.
    pub routes: Arc<[Arc<Route>]>,
    /// Whether plain HTTP is answered by a redirect to HTTPS.
    pub require_tls: bool,
    /// Whether a request carries `x-envoy-attempt-count`.
    pub attempt_count: bool,
    /// Whether a response carries `x-envoy-attempt-count`.
    pub attempt_count_in_response: bool,
    /// Whether it is in use, where that is followed.
    pub used: Used,
}

/// A virtual host that came on its own, for an open route configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnHost {
    /// Its name as a resource, `PORT/HOST`.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// As it is where the route configuration passes nothing on to it.
    pub host: Arc<VirtualHost>,
    /// To be compiled again where it does.
    pub(crate) bytes: Arc<[u8]>,
}

impl OwnHost {
    /// Its route configuration and its host.
    pub fn parts(&self) -> (&str, &str) {
        self.name.split_once('/').unwrap_or_default()
    }
}

/// A route: what it matches and what happens then.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name; may be empty.
    pub name: Name,
    /// The Istio object it was made from (metadata `istio.config`), if known.
    pub origin: Option<Name>,
    /// What it matches.
    pub matching: RouteMatch,
    /// What happens.
    pub action: Action,
    /// What happens to the headers where no cluster adds to it: the route's own, then the virtual host's, then the configuration's. A
    /// cluster's whole list is in its [`Target`].
    pub headers: Arc<Mutations>,
    /// What filters do otherwise here.
    pub filters: Overrides,
}

/// What a route matches: all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Whether case matters in it.
    pub case_sensitive: bool,
    /// Headers.
    pub headers: Arc<[HeaderMatch]>,
    /// Query parameters.
    pub params: Arc<[ParamMatch]>,
    /// What the request's filters have left behind, where the route is chosen after them.
    pub metadata: Arc<[MetadataMatch]>,
    /// A share of the requests.
    pub fraction: Option<Fraction>,
    /// Only gRPC.
    pub grpc: bool,
}

/// A path. The query does not count. Texts are in their one spelling, and so is what is compared with them.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// Begins with.
    Prefix(Arc<str>),
    /// Is.
    Exact(Arc<str>),
    /// Is, or goes on with a slash.
    Segments(Arc<str>),
    /// Matches wholly.
    Regex(Regex),
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It goes to a cluster.
    Forward(Arc<Forward>),
    /// It is redirected.
    Redirect(Arc<Redirect>),
    /// It is answered here.
    Direct(Arc<Direct>),
}

/// It goes to a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Which.
    pub cluster: ClusterChoice,
    /// The status if that cluster is not known.
    pub not_found_status: u16,
    /// How long the whole response may take; none: for ever. 15 s by default.
    pub timeout: Option<Duration>,
    /// How long the stream may stand still; none: as the connection manager says; zero: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long the stream may last; zero: for ever; none: as the connection manager says.
    pub max_stream_duration: Option<Duration>,
    /// The most that a `grpc-timeout` header may ask for, in place of `timeout`: zero for any; none: the header is not looked at.
    pub grpc_timeout_max: Option<Duration>,
    /// What is taken off what a `grpc-timeout` header asks for.
    pub grpc_timeout_offset: Duration,
    /// When it is tried again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// What becomes of the path.
    pub path_rewrite: PathRewrite,
    /// What becomes of the host.
    pub host_rewrite: HostRewrite,
    /// Whether the host from before is appended to `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// Upgrades that this route allows or forbids, whatever the connection manager says; lower case.
    pub upgrades: Arc<[(Name, bool)]>,
    /// Whether it has high priority.
    pub high_priority: bool,
    /// What the request is hashed by, for balancers that need it.
    pub hash: Arc<[HashPolicy]>,
}

/// Which cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterChoice {
    /// This one.
    One(Target),
    /// One of these by its weight: for each the sum of the weights up to and with its own. The last one's is the total.
    Weighted(Arc<[(u64, Target)]>),
    /// The one that a (lower case) request header names.
    Header(Arc<str>, Arc<Mutations>, Option<Criteria>),
}

/// A cluster and what it does to the headers.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The cluster.
    pub cluster: Name,
    /// All changes to headers: its own and those of the levels above, in order.
    pub headers: Arc<Mutations>,
    /// A host in place of the request's, before the route's own rewrite.
    pub host: Option<Name>,
    /// What its endpoints must have, where it has groups of them.
    pub subset: Option<Criteria>,
}

/// What becomes of the path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    /// It stays.
    Keep,
    /// What matched (a prefix, or the whole path) is replaced.
    Matched(Arc<str>),
    /// Every match is replaced.
    Regex(RegexRewrite),
}

/// Every match of an expression is replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct RegexRewrite {
    /// The expression, not anchored.
    pub pattern: Regex,
    /// In the regex crate's syntax: `${1}`.
    pub(crate) replacement: Arc<[u8]>,
}

/// What becomes of the host.
#[derive(Clone, Debug, PartialEq)]
pub enum HostRewrite {
    /// It stays.
    Keep,
    /// It becomes this.
    Literal(Name),
    /// It becomes the endpoint's host name.
    Endpoint,
    /// It becomes the value of this (lower case) header.
    Header(Arc<str>),
    /// It becomes the path after a rewrite.
    Path(RegexRewrite),
}

/// When and how a request is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// On what.
    pub on: RetryOn,
    /// How often.
    pub attempts: u32,
    /// How long each try may take; none: no limit of its own.
    pub per_try_timeout: Option<Duration>,
    /// How long each try may stand still.
    pub per_try_idle_timeout: Option<Duration>,
    /// For [`RetryOn::statuses`].
    pub statuses: Arc<[u16]>,
    /// For [`RetryOn::headers`]: response headers of which one must match.
    pub headers: Arc<[HeaderMatch]>,
    /// Only requests of which one of these matches; empty: all.
    pub request_headers: Arc<[HeaderMatch]>,
    /// The back-off's base, 25 ms by default.
    pub backoff_base: Duration,
    /// The back-off's limit, ten times the base by default.
    pub backoff_max: Duration,
    /// Where.
    pub elsewhere: Elsewhere,
}

/// Where a request is tried again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Elsewhere {
    /// Whether an endpoint that was tried is avoided.
    pub avoid_previous_hosts: bool,
    /// Whether endpoints are avoided that say `canary` of themselves.
    pub avoid_canaries: bool,
    /// Endpoints with this metadata are avoided.
    pub avoid: Option<Criteria>,
    /// How often the balancer is asked again for an endpoint that is not avoided.
    pub host_attempts: u32,
    /// After so many tries, and again after as many, the priorities tried so far are left out; 0: they are not.
    pub priorities_after: u32,
}

impl Elsewhere {
    /// Whether it matters where a request was tried before.
    pub fn is_any(&self) -> bool {
        self.avoid_previous_hosts || self.avoid_canaries || self.avoid.is_some() || self.priorities_after > 0
    }
}

/// On what a request is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct RetryOn {
    /// Any 5xx, a reset, a timeout, no connection.
    pub any_5xx: bool,
    /// 502, 503, 504.
    pub gateway_error: bool,
    /// The stream ended before a response, or the try timed out.
    pub reset: bool,
    /// As `reset`, only where the request's head had not been sent.
    pub reset_before_request: bool,
    /// No connection was made.
    pub connect_failure: bool,
    /// 409.
    pub retriable_4xx: bool,
    /// HTTP/2's REFUSED_STREAM.
    pub refused_stream: bool,
    /// A status of [`RetryPolicy::statuses`].
    pub statuses: bool,
    /// A header of [`RetryPolicy::headers`].
    pub headers: bool,
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}

/// It is redirected.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The scheme; none: the request's.
    pub scheme: Option<Name>,
    /// The host; none: the request's.
    pub host: Option<Name>,
    /// The port; none: the request's, or none where the scheme changes.
    pub port: Option<u16>,
    /// The path.
    pub path: RedirectPath,
    /// Whether the query is left out.
    pub strip_query: bool,
}

/// Where a redirect's path comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum RedirectPath {
    /// The request's.
    Keep,
    /// This one, which may have a query of its own.
    Path(Arc<str>),
    /// The request's, with what matched replaced.
    Matched(Arc<str>),
    /// The request's, with every match replaced.
    Regex(RegexRewrite),
}

/// It is answered here.
#[derive(Clone, Debug, PartialEq)]
pub struct Direct {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Arc<[u8]>,
}

impl RouteMatch {
    /// What every request matches.
    pub fn any() -> RouteMatch {
        RouteMatch {
            path: PathMatch::Prefix("".into()),
            case_sensitive: true,
            headers: Arc::from([]),
            params: Arc::from([]),
            metadata: Arc::from([]),
            fraction: None,
            grpc: false,
        }
    }
}

impl Forward {
    /// To one cluster, with nothing else.
    pub fn to(target: Target, timeout: Option<Duration>) -> Forward {
        Forward {
            cluster: ClusterChoice::One(target),
            not_found_status: 503,
            timeout,
            idle_timeout: None,
            max_stream_duration: None,
            grpc_timeout_max: None,
            grpc_timeout_offset: Duration::ZERO,
            retry: None,
            path_rewrite: PathRewrite::Keep,
            host_rewrite: HostRewrite::Keep,
            append_forwarded_host: false,
            upgrades: Arc::from([]),
            high_priority: false,
            hash: Arc::from([]),
        }
    }
}
