//! Which virtual host and route a request gets.

use std::borrow::Cow;
use std::sync::Arc;

use mizzen_http::Head;

use crate::config::{MetadataMatch, PathMatch, Route, RouteConfig, RouteMatch, VirtualHost};
use crate::steps::matchers::without_query;
use crate::steps::spelling::spelled;
use crate::{Metadata, RequestFacts, Trace};

/// A route and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundRoute<'c> {
    /// The virtual host.
    pub host: &'c Arc<VirtualHost>,
    /// The route.
    pub route: &'c Arc<Route>,
}

/// The route of a request: the virtual host by its authority (exact, longest suffix, longest prefix, `*`), then the first route that
/// matches. None is a 404. `random` decides routes for a share of requests.
///
/// Where [`VirtualHost::require_tls`] is set and the request came in plaintext, the caller answers with a redirect instead.
pub fn find_route<'c>(config: &'c RouteConfig, request: &RequestFacts<'_>, random: u64, trace: &mut Trace<'_>) -> Option<FoundRoute<'c>> {
    let authority = request.head.authority();
    let Some((host, domain)) = config.host_of(authority) else {
        trace.note(false, || format!("no virtual host of `{}` is for `{authority}`, but for {}", config.name, domains(config)));
        return None;
    };
    trace.note(true, || format!("virtual host `{}` by domain `{}` for `{authority}`", host.name, domain.concat()));
    let path = spelled(without_query(request.head.path()));
    trace.deeper(|trace| {
        let found = host.routes.iter().find(|r| match r.matching.lacking(request.head, request.metadata, &path, random) {
            None => {
                trace.note(true, || title(r));
                true
            }
            Some(lacking) => {
                trace.note(false, || format!("{}: {}", title(r), lacking.describe(&r.matching, request.head)));
                false
            }
        });
        found.map(|route| FoundRoute { host, route })
    })
}

/// A route's name, and the Istio object that it was made from.
fn title(route: &Route) -> String {
    match &route.origin {
        Some(origin) => format!("route `{}` of {origin}", route.name),
        None => format!("route `{}`", route.name),
    }
}

/// The domains of all virtual hosts, as far as a line can hold them.
fn domains(config: &RouteConfig) -> String {
    let mut all = config.hosts.iter().flat_map(|host| host.domains.iter());
    let first: Vec<String> = all.by_ref().take(SHOWN).map(|domain| format!("`{domain}`")).collect();
    match (first.is_empty(), all.count()) {
        (true, _) => "none".to_owned(),
        (false, 0) => first.join(", "),
        (false, more) => format!("{} and {more} more", first.join(", ")),
    }
}

/// How many domains a line shows.
const SHOWN: usize = 8;

impl RouteConfig {
    /// An authority as domains are compared with it.
    pub(crate) fn called<'a>(&self, authority: &'a str) -> Cow<'a, str> {
        let name = if self.ignore_port { without_port(authority) } else { authority };
        if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
    }

    /// The virtual host for an authority, and the domain by which it was found.
    fn host_of(&self, authority: &str) -> Option<(&Arc<VirtualHost>, [&str; 2])> {
        let name = &*self.called(authority);
        let host = |i: u32| self.hosts.get(i as usize);
        if let Some((domain, i)) = self.exact.get_key_value(name) {
            return Some((host(*i)?, [domain, ""]));
        }
        if let Some((suffix, i)) = self.suffixes.iter().find(|(s, _)| name.len() > s.len() && name.ends_with(&**s)) {
            return Some((host(*i)?, ["*", suffix]));
        }
        if let Some((prefix, i)) = self.prefixes.iter().find(|(p, _)| name.len() > p.len() && name.starts_with(&**p)) {
            return Some((host(*i)?, [prefix, "*"]));
        }
        Some((host(self.any?)?, ["*", ""]))
    }
}

/// What keeps a route from matching.
enum Lacking<'c> {
    Path,
    Fraction,
    Grpc,
    Header(&'c crate::config::HeaderMatch),
    Param(&'c crate::config::ParamMatch),
    Metadata(&'c crate::config::MetadataMatch),
}

impl Lacking<'_> {
    fn describe(&self, matching: &RouteMatch, head: &Head) -> String {
        match self {
            Lacking::Path => format!("path {} (it is `{}`)", matching.path.describe(), without_query(head.path())),
            Lacking::Fraction => "it is only for a share of the requests, which this one is not in".to_owned(),
            Lacking::Grpc => "it is only for gRPC".to_owned(),
            Lacking::Header(m) => {
                let was = head.get_joined(&m.name);
                let was = was.map_or("absent".to_owned(), |v| format!("\"{}\"", String::from_utf8_lossy(&v)));
                format!("{} (it is {was})", m.describe())
            }
            Lacking::Param(p) => p.describe(),
            // Tokens' claims may be in there: nothing of them goes into a log.
            Lacking::Metadata(m) => m.describe(),
        }
    }
}

impl RouteMatch {
    /// Whether a request matches, of which no filter has left anything yet.
    pub(crate) fn matches(&self, head: &Head, random: u64) -> bool {
        let path = spelled(without_query(head.path()));
        self.lacking(head, None, &path, random).is_none()
    }

    /// What keeps a request from matching; `path` is its path without the query, in its one spelling.
    fn lacking(&self, head: &Head, metadata: Option<&Metadata>, path: &str, random: u64) -> Option<Lacking<'_>> {
        // What an expression may match is its author's affair.
        let path = if matches!(self.path, PathMatch::Regex(_)) { without_query(head.path()) } else { path };
        if !self.path.matches(path, self.case_sensitive) {
            return Some(Lacking::Path);
        }
        if self.fraction.is_some_and(|f| !f.holds(random)) {
            return Some(Lacking::Fraction);
        }
        if self.grpc && !is_grpc(head) {
            return Some(Lacking::Grpc);
        }
        let header = self.headers.iter().find(|m| !m.matches(head)).map(Lacking::Header);
        let param = || self.params.iter().find(|m| !m.matches(head.path())).map(Lacking::Param);
        let left = |m: &&MetadataMatch| !metadata.map_or_else(|| m.matches(&Metadata::default()), |metadata| m.matches(metadata));
        header.or_else(param).or_else(|| self.metadata.iter().find(left).map(Lacking::Metadata))
    }
}

impl PathMatch {
    /// Whether a path without its query, in its one spelling, matches. The empty path of CONNECT matches nothing.
    pub fn matches(&self, path: &str, case_sensitive: bool) -> bool {
        let same = |a: &str, b: &str| if case_sensitive { a == b } else { a.eq_ignore_ascii_case(b) };
        let begins = |p: &str| path.get(..p.len()).is_some_and(|start| same(start, p));
        match self {
            _ if path.is_empty() => false,
            PathMatch::Prefix(p) => begins(p),
            PathMatch::Exact(p) => same(path, p),
            PathMatch::Segments(p) => begins(p) && matches!(path.as_bytes().get(p.len()), None | Some(b'/')),
            PathMatch::Regex(r) => r.matches(path.as_bytes()),
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            PathMatch::Prefix(p) => format!("begins with `{p}`"),
            PathMatch::Exact(p) => format!("is `{p}`"),
            PathMatch::Segments(p) => format!("is `{p}` or below it"),
            PathMatch::Regex(r) => format!("matches /{}/", r.source()),
        }
    }
}

/// Whether a request is gRPC.
pub(crate) fn is_grpc(head: &Head) -> bool {
    let rest = head.get("content-type").and_then(|v| v.strip_prefix(b"application/grpc".as_slice()));
    matches!(rest, Some([] | [b'+', ..]))
}

/// An authority without its port.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) => host,
        _ => authority,
    }
}
