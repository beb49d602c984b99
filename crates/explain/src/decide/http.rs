//! What a proxy does with a request: connection manager, route, filters, the way to a cluster.

use std::{rc::Rc, sync::Arc};

use mizzen_ir::{
    FoundRoute, Head, PathOutcome, RequestFacts, Trace, apply_headers, client_address,
    config::{Action, ClusterChoice, Forward, Hcm, HeaderSource, HostRewrite, HttpRoutes, Mutations, RouteConfig, StripPort},
    find_route, normalize_path, pick_cluster, redirect_location, rewrite_path,
};

use super::{
    Carried, Explainer, Given,
    conn::Conn,
    filters::{Filtered, Unvalued, filtered},
    way::{ByHttp, Target},
};
use crate::{
    call::{Hop, ResourceType, Step, StepKind, Verdict},
    proxy::{Found, Proxy},
};

/// In no share that is less than all, whatever its denominator.
const LAST: u64 = 999_999;

/// A request on its way through a proxy.
pub(super) struct Request {
    pub(super) head: Head,
    /// The client.
    pub(super) remote: std::net::IpAddr,
    pub(super) http2: bool,
    pub(super) secure: bool,
}

impl Explainer {
    pub(super) fn requests(
        &mut self,
        proxy: &Rc<Proxy>,
        hop: &mut Hop,
        hcm: &Arc<Hcm>,
        conn: Conn,
        given: Given,
    ) -> Result<Verdict, Verdict> {
        if !conn.flow.layers.is_empty() {
            return Err(Verdict::closed("HTTP is expected, and TLS came"));
        }
        let (head, http2) = match &conn.flow.payload {
            Carried::Http { head, http2 } => (head.clone(), *http2),
            Carried::Bytes => return Err(Verdict::closed("HTTP is expected, and other bytes came")),
            Carried::Unknown => return Err(Verdict::unknown("which request is sent within TLS")),
        };
        let remote = client_address(&head, hcm, conn.flow.source.ip());
        let mut request = Request { head, remote, http2, secure: conn.secure };
        accepted(hcm, &conn, &mut request, &mut hop.steps)?;
        let routes = match &hcm.routes {
            HttpRoutes::Inline(routes) => routes.clone(),
            HttpRoutes::Named(name) => match proxy.routes(name) {
                Found::There(routes) => routes,
                Found::Absent => return Err(Verdict::answered(404, format!("the proxy has no routes `{name}`"))),
                Found::Refused(why) => {
                    return Err(Verdict::unknown(format!("the proxy refuses the routes, and keeps the last good ones: {why}")));
                }
            },
        };
        let mut verdicts = Vec::new();
        let is_named = matches!(hcm.routes, HttpRoutes::Named(_));
        for (when, found) in found_routes(&routes, is_named, &request, given, &mut hop.steps) {
            let end = self.routed(proxy, hop, (hcm, &conn, &routes), &request, (when, found), given);
            verdicts.push(end.unwrap_or_else(|verdict| verdict));
        }
        Verdict::of(verdicts).ok_or_else(|| Verdict::unknown("which route is taken"))
    }

    fn routed(
        &mut self,
        proxy: &Rc<Proxy>,
        hop: &mut Hop,
        (hcm, conn, routes): (&Arc<Hcm>, &Conn, &RouteConfig),
        request: &Request,
        (when, found): (Option<String>, Option<FoundRoute<'_>>),
        given: Given,
    ) -> Result<Verdict, Verdict> {
        if found.is_some_and(|found| found.host.require_tls) && !request.secure {
            return Err(Verdict::answered(
                301,
                format!("the client is sent to https://{}{}", request.head.authority(), request.head.path()),
            ));
        }
        let overrides = found.map_or(&[][..], |found| &found.route.filters);
        let Filtered { head, alpn, unknown, reroute, also } =
            filtered(hcm, overrides, conn, request, given, &self.snapshot, &mut hop.steps)?;
        let found = match reroute {
            Some(metadata) => {
                let facts = RequestFacts { head: &head, secure: request.secure, metadata: Some(&metadata) };
                let mut notes = Vec::new();
                let found = find_route(routes, &facts, given.random.unwrap_or(0), &mut Trace::to(&mut notes));
                let title = found.map_or_else(|| format!("none of `{}`", routes.name), |found| format!("`{}`", found.route.name));
                hop.steps.push(Step::new(StepKind::Route, format!("{title}, by what the token says")).because(notes));
                found
            }
            None => found,
        };
        let Some(found) = found else { return Err(Verdict::answered(404, "no route matches")) };
        let forward = match &found.route.action {
            Action::Direct(direct) => return Err(sure(unknown, Verdict::answered(direct.status, "the route says so"))),
            Action::Redirect(redirect) => {
                let location = redirect_location(redirect, &found.route.matching, &head, request.secure);
                return Err(sure(unknown, Verdict::answered(redirect.status, format!("the client is sent to {location}"))));
            }
            Action::Forward(forward) => forward,
        };
        let mut verdicts = also;
        for (random, share) in choices(forward, given) {
            let mut notes = Vec::new();
            let Some(picked) = pick_cluster(forward, &head, random, &mut Trace::to(&mut notes)) else {
                verdicts.push(Verdict::answered(forward.not_found_status, "the header that names the cluster is not there"));
                continue;
            };
            let mut steps = vec![Step::new(StepKind::Cluster, &picked.cluster).because(notes)];
            let changed = changed(&head, found, forward, picked.headers, picked.host.map(|host| &**host), &mut steps);
            let mut flow = conn.flow.clone();
            flow.payload = Carried::Http { head: changed, http2: request.http2 };
            let http = ByHttp { not_found: forward.not_found_status, alpn: alpn.clone(), subset: picked.subset.is_some(), steps };
            let target = Target { cluster: picked.cluster.clone(), share, when: when.clone(), flow, http: Some(http) };
            let way = self.way(proxy, hop.side, target, given);
            verdicts.push(way.verdict.clone());
            hop.ways.push(way);
        }
        let verdict = Verdict::of(verdicts).unwrap_or_else(|| Verdict::answered(forward.not_found_status, "no cluster has a weight"));
        Ok(sure(unknown, verdict))
    }
}

/// What remains of a verdict if somebody else may have refused the request before.
fn sure(unknown: Option<String>, verdict: Verdict) -> Verdict {
    let Some(why) = unknown else { return verdict };
    match verdict {
        Verdict::Denied { .. } | Verdict::Unknown { .. } => verdict,
        Verdict::Differs { verdicts } => {
            Verdict::of(verdicts.into_iter().map(|one| sure(Some(why.clone()), one))).unwrap_or_else(|| Verdict::unknown(why.clone()))
        }
        _ => Verdict::unknown(why),
    }
}

/// The connection manager's part.
pub(super) fn accepted(hcm: &Hcm, conn: &Conn, request: &mut Request, steps: &mut Vec<Step>) -> Result<(), Verdict> {
    if hcm.closed {
        return Err(Verdict::answered(503, "the proxy refuses one of the filters, and serves nobody here"));
    }
    if request.head.method() == "CONNECT" {
        return Err(Verdict::answered(403, "CONNECT is not served"));
    }
    if hcm.use_remote_address && !hcm.skip_xff_append {
        let before = request.head.get_joined("x-forwarded-for").map(|chain| String::from_utf8_lossy(&chain).into_owned());
        let peer = conn.flow.source.ip().to_string();
        request.head.set("x-forwarded-for", before.map_or(peer.clone(), |before| format!("{before}, {peer}")));
    }
    strip_host(hcm, conn.flow.destination.port(), &mut request.head);
    match normalize_path(request.head.path(), &hcm.path) {
        PathOutcome::Keep => {}
        PathOutcome::Changed(path) => {
            steps.push(Step::new(StepKind::Rewrite, format!("path {} is {path}", request.head.path())));
            request.head.set_path(&path);
        }
        PathOutcome::Redirect(path) => {
            return Err(Verdict::answered(307, format!("the client is sent to {path}, as the path should be written")));
        }
        PathOutcome::Reject => return Err(Verdict::answered(400, "the path is not one that is let through")),
    }
    Ok(())
}

fn strip_host(hcm: &Hcm, port: u16, head: &mut Head) {
    let authority = head.authority().to_owned();
    let (host, written) = match authority.rsplit_once(':') {
        Some((host, written)) if written.bytes().all(|b| b.is_ascii_digit()) => (host, Some(written)),
        _ => (authority.as_str(), None),
    };
    let stripped = match hcm.strip_port {
        StripPort::No => false,
        StripPort::Any => true,
        StripPort::Matching => written.and_then(|written| written.parse().ok()) == Some(port),
    };
    let host = if hcm.strip_trailing_dot { host.strip_suffix('.').unwrap_or(host) } else { host };
    let left = written.filter(|_| !stripped).map_or_else(|| host.to_owned(), |written| format!("{host}:{written}"));
    head.set_authority(&left);
}

/// The routes that a request may get: one, unless a share decides and nobody says how.
fn found_routes<'c>(
    routes: &'c RouteConfig,
    is_named: bool,
    request: &Request,
    given: Given,
    steps: &mut Vec<Step>,
) -> Vec<(Option<String>, Option<FoundRoute<'c>>)> {
    let facts = RequestFacts { head: &request.head, secure: request.secure, metadata: None };
    let find = |random: u64, when: Option<&str>| {
        let mut notes = Vec::new();
        let found = find_route(routes, &facts, random, &mut Trace::to(&mut notes));
        let title = found.map_or_else(
            || format!("none of `{}`", routes.name),
            |found| {
                let origin = found.route.origin.as_ref().map(|origin| format!(" of {origin}")).unwrap_or_default();
                format!("`{}`{origin}, in virtual host `{}`", found.route.name, found.host.name)
            },
        );
        let when = when.map(|when| format!(", {when}")).unwrap_or_default();
        let step = Step::new(StepKind::Route, format!("{title}{when}")).because(notes);
        match found.filter(|_| is_named) {
            Some(found) => (Some(found), step.by(ResourceType::VirtualHost, format!("{}/{}", routes.name, found.host.name))),
            None => (found, step),
        }
    };
    let same = |a: Option<FoundRoute<'_>>, b: Option<FoundRoute<'_>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a.route, b.route),
        (a, b) => a.is_none() && b.is_none(),
    };
    if let Some(random) = given.random {
        let (found, step) = find(random, None);
        steps.push(step);
        return vec![(None, found)];
    }
    let (first, step) = find(0, None);
    let (last, _) = find(LAST, None);
    if same(first, last) {
        steps.push(step);
        return vec![(None, first)];
    }
    let whens = ["in the routes' shares", "outside of the routes' shares"];
    let both = [0, LAST].into_iter().zip(whens).map(|(random, when)| {
        let (found, step) = find(random, Some(when));
        steps.push(step);
        (Some(when.to_owned()), found)
    });
    both.collect()
}

/// The random numbers by which each cluster with a weight is picked, and its share; with a random number given, that one.
fn choices(forward: &Forward, given: Given) -> Vec<(u64, Option<(u64, u64)>)> {
    let ClusterChoice::Weighted(all) = &forward.cluster else { return vec![(given.random.unwrap_or(0), None)] };
    let total = all.last().map_or(0, |(sum, _)| *sum);
    let mut lower = 0;
    let mut found = Vec::new();
    for (sum, _) in all.iter() {
        let weight = sum - lower;
        let here = given.random.is_none_or(|random| random.checked_rem(total).is_some_and(|at| (lower..*sum).contains(&at)));
        if weight > 0 && here {
            found.push((given.random.unwrap_or(lower), Some((weight, total))));
        }
        lower = *sum;
    }
    found
}

/// What the route makes of the request.
fn changed(head: &Head, found: FoundRoute<'_>, forward: &Forward, headers: &Mutations, host: Option<&str>, steps: &mut Vec<Step>) -> Head {
    let mut changed = head.clone();
    let original = head.path().to_owned();
    apply_headers(&headers.request, &mut changed, HeaderSource::Request, &Unvalued);
    if let Some(path) = rewrite_path(forward, &found.route.matching, &original) {
        changed.set_path(&path);
    }
    let rewritten = match (&forward.host_rewrite, host) {
        (_, Some(host)) => Some(host.to_owned()),
        (HostRewrite::Literal(host), None) => Some(host.to_string()),
        (HostRewrite::Header(name), None) => changed.get_str(name).map(str::to_owned),
        (HostRewrite::Path(regex), None) => Some(regex.apply(original.split('?').next().unwrap_or_default())),
        (HostRewrite::Keep | HostRewrite::Endpoint, None) => None,
    };
    if let Some(host) = rewritten.filter(|host| !host.is_empty()) {
        changed.set_authority(&host);
    }
    let mut say = |what: &str, before: &str, after: &str| {
        if before != after {
            steps.push(Step::new(StepKind::Rewrite, format!("{what} {before} becomes {after}")));
        }
    };
    say("path", head.path(), changed.path());
    say("authority", head.authority(), changed.authority());
    changed
}
