//! Rules of routing, as they are whatever kind of object they were written as: a VirtualService's today.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::{Hostname, IpRange, NamespacedName};

use crate::istio::{Fault, GatewayRef, Headers, StringMatch};

/// A route for HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// For logs.
    pub name: Option<String>,
    /// One of these must match; none: all requests.
    pub matches: Vec<HttpMatch>,
    /// What happens with a request.
    pub action: HttpAction,
    /// Header operations, before those of the destination.
    pub headers: Headers,
    /// For the whole request, retries included; none or zero: no limit.
    pub timeout: Option<Duration>,
    /// Retries; `None` is the mesh's default.
    pub retries: Option<Retries>,
    /// Of the path and the host, for [`HttpAction::Route`].
    pub rewrite: Option<Rewrite>,
    /// Faults on purpose.
    pub fault: Option<Fault>,
}

/// What happens with a matching request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAction {
    /// Sent to one of these by weight; never empty.
    Route(Vec<HttpDestination>),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered here.
    DirectResponse(DirectResponse),
    /// Left to the routes of another object, which has no hosts.
    Delegate(NamespacedName),
}

/// A condition on a request: all that is written must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// For logs.
    pub name: Option<String>,
    /// The path (with [`StringMatch::Regex`] and others: without the query).
    pub uri: Option<StringMatch>,
    /// The scheme.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The host with its port, if one was written.
    pub authority: Option<StringMatch>,
    /// Headers that must match; names are lower case. A name of which [`claim_path`] knows a path is none: it stands for a token's claim.
    pub headers: BTreeMap<String, StringMatch>,
    /// Headers that must not match; names are lower case.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Parameters of the query.
    pub query_params: BTreeMap<String, StringMatch>,
    /// `uri` without regard to case; never set with a regex.
    pub ignore_uri_case: bool,
    /// The destination's port.
    pub port: Option<u16>,
    /// Labels of the caller's workload; for sidecars.
    pub source_labels: BTreeMap<String, String>,
    /// The caller's namespace; for sidecars.
    pub source_namespace: Option<String>,
    /// Only for these; empty: those of the whole object.
    pub gateways: Vec<GatewayRef>,
}

/// What stands before the name of a claim in the place of a header's name.
const CLAIMS: &str = "@request.auth.claims";

/// The path to a token's claim, where one stands in the place of a header: `@request.auth.claims.a.b`, or `@request.auth.claims[a][b]` for names that
/// have dots. `None`: it is a header's name; the error: it is neither.
///
/// # Errors
/// If it begins as one and has no path, or an empty name in it.
pub fn claim_path(name: &str) -> Option<Result<Vec<String>, ()>> {
    let start = name.get(..CLAIMS.len()).filter(|start| start.eq_ignore_ascii_case(CLAIMS))?;
    let rest = &name[start.len()..];
    let path: Option<Vec<String>> = match rest.strip_prefix('.') {
        Some(path) => Some(path.split('.').map(str::to_owned).collect()),
        None => rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(|names| names.split("][").map(str::to_owned).collect()),
    };
    let good = |path: &Vec<String>| path.iter().all(|part| !part.is_empty() && !part.contains(['[', ']']));
    Some(path.filter(good).ok_or(()))
}

/// Where requests or connections go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The service, as written: short names are completed by the namespace of the object.
    pub host: Hostname,
    /// The subset, declared in a DestinationRule.
    pub subset: Option<String>,
    /// The service's port; may be missing where the service has only one.
    pub port: Option<u16>,
}

/// One weighted destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpDestination {
    /// Where to.
    pub destination: Destination,
    /// Its share of the sum; a single destination always has 100, and the sum is never 0.
    pub weight: u32,
    /// Header operations for this destination alone.
    pub headers: Headers,
}

/// Retries of failed requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often at most; 0: none.
    pub attempts: u32,
    /// For each attempt; none: the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// The conditions, by Envoy's names, and status codes; empty is the mesh's default.
    pub retry_on: Vec<String>,
    /// Also in other localities.
    pub retry_remote_localities: bool,
    /// Not on a host that has failed; none: so it is, unless the destination takes hosts by a key of the request.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// The least time between attempts.
    pub backoff: Option<Duration>,
}

/// A changed path and host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// In place of the matched prefix, or of the path.
    pub uri: Option<String>,
    /// In place of the host.
    pub authority: Option<String>,
    /// In place of what an expression finds.
    pub uri_regex: Option<RegexRewrite>,
}

/// A rewrite by expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexRewrite {
    /// An RE2 expression; it compiles.
    pub pattern: String,
    /// In its place; `\1` is the first group.
    pub substitution: String,
}

/// A redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// The whole path.
    pub uri: Option<String>,
    /// In place of the matched prefix.
    pub prefix_rewrite: Option<String>,
    /// The host.
    pub authority: Option<String>,
    /// The port.
    pub port: Option<RedirectPort>,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The status: 301, 302, 303, 307 or 308.
    pub code: u16,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// This one.
    Number(u16),
    /// The scheme's.
    ProtocolDefault,
    /// The request's.
    Request,
}

/// An answer without a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectResponse {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// A route for TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// One of these must match; none: all connections.
    pub matches: Vec<TcpMatch>,
    /// One of these by weight; never empty.
    pub route: Vec<TcpDestination>,
}

/// A condition on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpMatch {
    /// The destination's port.
    pub port: Option<u16>,
    /// Ranges of the destination's address.
    pub destination_subnets: Vec<IpRange>,
    /// Labels of the caller's workload.
    pub source_labels: BTreeMap<String, String>,
    /// The caller's namespace.
    pub source_namespace: Option<String>,
    /// Only for these; empty: those of the whole object.
    pub gateways: Vec<GatewayRef>,
}

/// A route for TLS that is not ended on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRoute {
    /// One of these must match; never empty.
    pub matches: Vec<TlsMatch>,
    /// One of these by weight; never empty.
    pub route: Vec<TcpDestination>,
}

/// A condition on a connection with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMatch {
    /// The client asks for one of these; never empty.
    pub sni_hosts: Vec<Hostname>,
    /// What else is asked of the connection.
    pub connection: TcpMatch,
}

/// One weighted destination of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpDestination {
    /// Where to.
    pub destination: Destination,
    /// Its share of the sum; a single destination always has 100.
    pub weight: u32,
}
