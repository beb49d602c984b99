//! Reading a VirtualService.

use base64::{Engine, prelude::BASE64_STANDARD};

use mizzen_types::{Hostname, NamespacedName};

use super::*;
use crate::{
    Meta,
    metadata::labels,
    read::{At, Fields, quoted},
    routing::{
        Destination, DirectResponse, HttpAction, HttpDestination, HttpMatch, HttpRoute, Redirect, RedirectPort, RegexRewrite, Retries,
        Rewrite, TcpDestination, TcpMatch, TcpRoute, TlsMatch, TlsRoute, claim_path,
    },
    table,
};

impl VirtualService {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::VIRTUAL_SERVICE, |f| {
            let hosts = hosts(f);
            let mut gateways = GatewayRef::read_list(f, &meta.namespace);
            if gateways.is_empty() {
                gateways.push(GatewayRef::Mesh);
            }
            if gateways.contains(&GatewayRef::Mesh) && hosts.iter().any(|host| host.as_str() == "*") {
                f.at.fail("host `*` is not allowed for the sidecars: name `gateways` without `mesh`, or the host");
            }
            let namespace = meta.namespace.clone();
            let http: Vec<_> = f.list("http").iter().map(|at| at.fields(|f| HttpRoute::read(f, &namespace))).collect();
            let of_gateways = gateways.iter().any(|gateway| *gateway != GatewayRef::Mesh);
            let tls: Vec<_> = f.list("tls").iter().map(|at| at.fields(|f| TlsRoute::read(f, &namespace, &hosts, of_gateways))).collect();
            let tcp: Vec<_> = f.list("tcp").iter().map(|at| at.fields(|f| TcpRoute::read(f, &namespace, of_gateways))).collect();
            if http.is_empty() && tls.is_empty() && tcp.is_empty() {
                f.at.fail("must have at least one route in http, tls or tcp");
            }
            if hosts.is_empty() && f.get("hosts").is_none_or(|at| at.is_empty_list()) {
                delegated(f, &http);
            }
            // Where there is no gateway there is no filter that knows claims, and what is asked for without one would always match.
            let asks = |m: &HttpMatch| m.headers.keys().chain(m.without_headers.keys()).any(|name| claim_path(name).is_some());
            let in_mesh = |m: &HttpMatch| !m.gateways.is_empty() && m.gateways.iter().all(|gateway| *gateway == GatewayRef::Mesh);
            if http.iter().flat_map(|rule: &HttpRoute| &rule.matches).any(|m| asks(m) && (!of_gateways || in_mesh(m))) {
                f.slot("gateways").fail("must name a gateway: only gateways route by claims (`@request.auth.claims`)");
            }
            VirtualService { meta, hosts, gateways, export_to: ExportTo::read_list(f, "exportTo"), http, tls, tcp }
        })
    }
}

/// Of an object without hosts, to whose routes others delegate: it says neither for whom they are nor leaves them to a third.
fn delegated(f: &Fields<'_>, http: &[HttpRoute]) {
    for name in ["gateways", "tls", "tcp"].into_iter().filter(|name| f.written(name)) {
        f.slot(name).fail("has no place without hosts: then others delegate to the routes in http");
    }
    for (at, _) in http.iter().enumerate().filter(|(_, route)| matches!(route.action, HttpAction::Delegate(_))) {
        f.slot("http").fail(format!("route {at} delegates, and without hosts it is itself what others delegate to: there is one level"));
    }
}

/// Hosts that are different.
fn hosts(f: &Fields<'_>) -> Vec<Hostname> {
    let list = f.get("hosts").map(|at| at.list()).unwrap_or_default();
    let mut hosts: Vec<Hostname> = Vec::new();
    for at in list {
        let Some(host) = at.parse::<Hostname>() else { continue };
        if hosts.contains(&host) {
            at.fail(format!("{host} is listed twice"));
        }
        hosts.push(host);
    }
    hosts
}

impl HttpRoute {
    fn read(f: &Fields<'_>, namespace: &str) -> HttpRoute {
        let rewrite = f.opt_sub("rewrite", Rewrite::read);
        let action = match f.one_of(&["route", "redirect", "directResponse", "delegate"]) {
            Some(("redirect", at)) => HttpAction::Redirect(at.fields(Redirect::read)),
            Some(("directResponse", at)) => HttpAction::DirectResponse(at.fields(DirectResponse::read)),
            Some(("delegate", at)) => HttpAction::Delegate(at.fields(|f| {
                let name = f.need("name").map(|at| at.word()).unwrap_or_default();
                let of = f.opt_text("namespace").filter(|namespace| !namespace.is_empty());
                NamespacedName::new(of.as_deref().unwrap_or(namespace), &*name)
            })),
            Some((_, at)) => HttpAction::Route(http_destinations(&at)),
            None => {
                f.at.fail("must have one of route, redirect, directResponse, delegate");
                HttpAction::Route(Vec::new())
            }
        };
        if rewrite.is_some() && !matches!(action, HttpAction::Route(_) | HttpAction::Delegate(_)) {
            f.at.fail("rewrite needs a route");
        }
        HttpRoute {
            name: f.opt_text("name"),
            matches: f.list("match").iter().map(|at| at.fields(|f| HttpMatch::read(f, namespace))).collect(),
            action,
            headers: Headers::read(f),
            timeout: f.duration("timeout"),
            retries: f.opt_sub("retries", Retries::read),
            rewrite,
            fault: f.opt_sub("fault", Fault::read),
        }
    }
}

impl HttpMatch {
    fn read(f: &Fields<'_>, namespace: &str) -> HttpMatch {
        let one = |name| f.get(name).map(|at| StringMatch::read_some(&at));
        let uri = one("uri");
        let ignore_uri_case = f.flag("ignoreUriCase");
        if ignore_uri_case && matches!(uri, Some(StringMatch::Regex(_))) {
            f.at.warn("ignoreUriCase has no effect on a regex");
        }
        let headers = |name| {
            let entries = f.get(name).map(|at| at.entries()).unwrap_or_default();
            entries.into_iter().map(|(key, at)| (match_header(&at, key), StringMatch::read(&at))).collect()
        };
        let params = f.get("queryParams").map(|at| at.entries()).unwrap_or_default();
        HttpMatch {
            name: f.opt_text("name"),
            ignore_uri_case: ignore_uri_case && !matches!(uri, Some(StringMatch::Regex(_))),
            uri,
            scheme: one("scheme"),
            method: one("method"),
            authority: one("authority"),
            headers: headers("headers"),
            without_headers: headers("withoutHeaders"),
            query_params: params.into_iter().map(|(key, at)| (key.to_owned(), StringMatch::read(&at))).collect(),
            port: f.port("port"),
            source_labels: f.get("sourceLabels").map(|at| labels(&at)).unwrap_or_default(),
            source_namespace: f.opt_text("sourceNamespace"),
            gateways: GatewayRef::read_list(f, namespace),
        }
    }
}

/// A header to match on; the parts of the request line have fields of their own.
fn match_header(at: &At<'_>, name: &str) -> String {
    match claim_path(name) {
        Some(Ok(_)) => return name.to_owned(),
        Some(Err(())) => {
            at.fail(format!("{} is no claim: write `@request.auth.claims.NAME` or `@request.auth.claims[NAME][NAME]`", quoted(name)));
            return name.to_owned();
        }
        None => {}
    }
    if name.starts_with(':') {
        at.fail(format!("{} has a field of its own: uri, scheme, method or authority", quoted(name)));
        return name.to_owned();
    }
    header_name(at, name)
}

/// Destinations whose weights mean something.
fn weigh(at: &At<'_>, weights: &mut [&mut u32]) {
    match weights {
        [] => at.fail("must have at least one destination"),
        [only] => **only = 100,
        several => {
            let sum: u64 = several.iter().map(|weight| u64::from(**weight)).sum();
            if sum == 0 {
                at.fail("the sum of the weights must not be 0");
            } else if sum > u64::from(u32::MAX) {
                at.fail(format!("the sum of the weights must be below 2^32, is {sum}"));
            }
        }
    }
}

fn http_destinations(at: &At<'_>) -> Vec<HttpDestination> {
    let read = |f: &Fields<'_>| HttpDestination {
        destination: Destination::read(f),
        weight: f.count("weight").unwrap_or_default(),
        headers: Headers::read(f),
    };
    let mut list: Vec<_> = at.list().iter().map(|at| at.fields(read)).collect();
    weigh(at, &mut list.iter_mut().map(|d| &mut d.weight).collect::<Vec<_>>());
    list
}

impl Destination {
    fn read(f: &Fields<'_>) -> Destination {
        let present = f.need("destination").is_some();
        f.sub("destination", |f| {
            let host = if present { f.need("host") } else { None };
            if let Some(at) = &host
                && at.node.text() == Some("*")
            {
                at.fail("must name a host, or those below one, not all");
            }
            Destination {
                host: host.map(|at| at.hostname()).unwrap_or_else(crate::read::any_host),
                subset: f.opt_text("subset"),
                port: f.opt_sub("port", |f| f.need("number").map(|at| at.port())).flatten(),
            }
        })
    }
}

/// Envoy's retry conditions, for HTTP and gRPC.
const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

impl Retries {
    pub(crate) fn read(f: &Fields<'_>) -> Retries {
        let mut retry_on = Vec::new();
        if let Some(at) = f.get("retryOn") {
            let text = at.text();
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let status = part.len() == 3 && part.parse().is_ok_and(|code: u16| (100..600).contains(&code));
                if !status && !RETRY_ON.contains(&part) {
                    match crate::read::nearest(part, RETRY_ON.iter().copied()) {
                        Some(near) => at.fail(format!("unknown condition {}, did you mean `{near}`?", quoted(part))),
                        None => at.fail(format!("{} is neither a retry condition nor a status code", quoted(part))),
                    }
                }
                if matches!(part, "envoy-ratelimited" | "http3-post-connect-failure") {
                    at.warn(format!("{part} is not acted on yet"));
                }
                retry_on.push(part.to_owned());
            }
        }
        let retries = Retries {
            attempts: f.count("attempts").unwrap_or_default(),
            per_try_timeout: f.duration("perTryTimeout"),
            retry_on,
            retry_remote_localities: f.flag("retryRemoteLocalities"),
            retry_ignore_previous_hosts: f.get("retryIgnorePreviousHosts").map(|at| at.flag()),
            backoff: f.duration("backoff"),
        };
        if retries.attempts == 0 && (retries.per_try_timeout.is_some() || !retries.retry_on.is_empty()) {
            f.at.fail("attempts is 0, so that nothing is retried; leave the other fields out or raise it");
        }
        retries
    }
}

impl Rewrite {
    fn read(f: &Fields<'_>) -> Rewrite {
        let rewrite = Rewrite {
            uri: f.opt_text("uri"),
            authority: f.opt_text("authority"),
            uri_regex: f.opt_sub("uriRegexRewrite", |f| {
                let pattern = f.need("match").map(|at| regex(&at)).unwrap_or_default();
                let substitution = f.get("rewrite").map(|at| substitution(&at, &pattern)).unwrap_or_default();
                RegexRewrite { pattern, substitution }
            }),
        };
        if rewrite.uri.is_some() && rewrite.uri_regex.is_some() {
            f.at.fail("uri and uriRegexRewrite exclude each other");
        }
        if rewrite == Rewrite::default() {
            f.at.fail("must have uri, authority or uriRegexRewrite");
        }
        rewrite
    }
}

pub(crate) const REDIRECT_PORTS: &[(&str, i64, Option<RedirectPort>); 2] =
    &[("FROM_PROTOCOL_DEFAULT", 0, Some(RedirectPort::ProtocolDefault)), ("FROM_REQUEST_PORT", 1, Some(RedirectPort::Request))];

impl Redirect {
    fn read(f: &Fields<'_>) -> Redirect {
        let port = match f.one_of(&["port", "derivePort"]) {
            Some(("port", at)) => Some(RedirectPort::Number(at.port())),
            Some((_, at)) => at.choice(REDIRECT_PORTS),
            None => None,
        };
        let code = f.get("redirectCode").map(|at| (at.whole(), at));
        if let Some((code, at)) = &code
            && !matches!(code, 301 | 302 | 303 | 307 | 308)
        {
            at.expected("one of 301, 302, 303, 307, 308");
        }
        if let Some(at) = f.get("scheme")
            && !matches!(at.text().as_str(), "http" | "https")
        {
            at.expected("http or https");
        }
        let redirect = Redirect {
            uri: f.opt_text("uri"),
            prefix_rewrite: f.opt_text("prefixRewrite"),
            authority: f.opt_text("authority"),
            port,
            scheme: f.opt_text("scheme"),
            code: code.map_or(301, |(code, _)| u16::try_from(code).unwrap_or(301)),
        };
        if redirect.uri.is_some() && redirect.prefix_rewrite.is_some() {
            f.at.fail("uri and prefixRewrite exclude each other");
        }
        redirect
    }
}

impl DirectResponse {
    fn read(f: &Fields<'_>) -> DirectResponse {
        let status = f.need("status").map(|at| at.whole()).unwrap_or(200);
        let body = f.opt_sub("body", |f| match f.one_of(&["string", "bytes"]) {
            Some(("bytes", at)) => match BASE64_STANDARD.decode(at.text()) {
                Ok(bytes) => bytes,
                Err(_) => {
                    at.fail("is no base64");
                    Vec::new()
                }
            },
            Some((_, at)) => at.text().into_bytes(),
            None => Vec::new(),
        });
        let body = body.unwrap_or_default();
        if body.len() > 1 << 20 {
            f.at.fail("the body is longer than 1 MiB");
        }
        DirectResponse { status: u16::try_from(status).unwrap_or(200), body }
    }
}

/// Destinations of connections.
fn tcp_destinations(f: &Fields<'_>) -> Vec<TcpDestination> {
    let read = |f: &Fields<'_>| TcpDestination { destination: Destination::read(f), weight: f.count("weight").unwrap_or_default() };
    let Some(at) = f.need("route") else { return Vec::new() };
    let mut route: Vec<TcpDestination> = at.list().iter().map(|at| at.fields(read)).collect();
    weigh(&at, &mut route.iter_mut().map(|d| &mut d.weight).collect::<Vec<_>>());
    route
}

impl TcpRoute {
    fn read(f: &Fields<'_>, namespace: &str, of_gateways: bool) -> TcpRoute {
        let matches = f.list("match").iter().map(|at| at.fields(|f| TcpMatch::read(f, namespace, of_gateways))).collect();
        TcpRoute { matches, route: tcp_destinations(f) }
    }
}

impl TcpMatch {
    /// `of_gateways`: where no gateways are named here, there are some among those of the whole object.
    fn read(f: &Fields<'_>, namespace: &str, of_gateways: bool) -> TcpMatch {
        let gateways = GatewayRef::read_list(f, namespace);
        let at_gateway = if gateways.is_empty() { of_gateways } else { gateways.iter().any(|gateway| *gateway != GatewayRef::Mesh) };
        if at_gateway && let Some(at) = f.get("destinationSubnets") {
            at.warn("has no effect at a gateway, which is called at its own address");
        }
        TcpMatch {
            port: f.port("port"),
            destination_subnets: f.parse_list("destinationSubnets"),
            source_labels: f.get("sourceLabels").map(|at| labels(&at)).unwrap_or_default(),
            source_namespace: f.opt_text("sourceNamespace"),
            gateways,
        }
    }
}

impl TlsRoute {
    fn read(f: &Fields<'_>, namespace: &str, hosts: &[Hostname], of_gateways: bool) -> TlsRoute {
        let matches = f.need("match").map(|at| at.list()).unwrap_or_default();
        if f.get("match").is_some_and(|at| at.is_empty_list()) {
            f.slot("match").fail("must have at least one condition: a route for TLS is chosen by server names");
        }
        let matches = matches.iter().map(|at| at.fields(|f| TlsMatch::read(f, namespace, hosts, of_gateways))).collect();
        TlsRoute { matches, route: tcp_destinations(f) }
    }
}

impl TlsMatch {
    fn read(f: &Fields<'_>, namespace: &str, hosts: &[Hostname], of_gateways: bool) -> TlsMatch {
        let names = f.need("sniHosts").map(|at| at.list()).unwrap_or_default();
        if f.get("sniHosts").is_some_and(|at| at.is_empty_list()) {
            f.slot("sniHosts").fail("must have at least one server name");
        }
        let mut sni_hosts = Vec::new();
        for at in names {
            let Some(name) = at.parse::<Hostname>() else { continue };
            if !hosts.is_empty() && !hosts.iter().any(|host| host.covers(&name)) {
                let hosts: Vec<&str> = hosts.iter().map(Hostname::as_str).collect();
                at.fail(format!("{name} is covered by none of the VirtualService's hosts: {}", hosts.join(", ")));
            }
            if sni_hosts.contains(&name) {
                at.warn(format!("{name} is there twice"));
            } else {
                sni_hosts.push(name);
            }
        }
        TlsMatch { sni_hosts, connection: TcpMatch::read(f, namespace, of_gateways) }
    }
}
