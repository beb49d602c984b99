//! Listeners and routes of a gateway.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::istio::{Gateway, GatewayRef, ServerTls};
use mizzen_model::{OpenServer, RouteRules, by_age, narrower, standing};
use mizzen_protos::envoy::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, FilterChainMatch, Listener as Head},
    route::v3::{Route, RouteConfiguration, VirtualHost, route_match::PathSpecifier, virtual_host::TlsRequirementType},
};
use mizzen_types::{Hostname, Name};

use crate::{
    access_log,
    draft::{Chain, Http, Listener},
    dynamic,
    filters::{self, Routes, Side},
    gateway_tcp,
    listener::{self, ANY},
    names, rbac, rds,
    route::{self, Caller},
    scope::{DOMAIN, Scope},
    tls, wire,
};

/// The routes of its own that a server of HTTP has which ends TLS; those of plain text on a port share theirs. None where no requests are seen.
pub(crate) fn route_name(open: &OpenServer<'_>) -> Option<String> {
    let (port, meta) = (&open.server.port, &open.gateway.meta);
    open.server.is_http().then(|| match open.server.tls {
        Some(_) => format!("https.{}.{}.{}.{}", port.number, port.name, meta.name, meta.namespace),
        None => format!("http.{}", port.number),
    })
}

/// The servers that this gateway serves, by their port; the oldest Gateway first. The first on a port decides what comes there, and takes the hosts that
/// it names from later ones: those are left out as a whole, as with Istio.
pub(crate) fn servers<'a>(scope: &Scope<'_, 'a>) -> BTreeMap<u16, Vec<OpenServer<'a>>> {
    let mut gateways: Vec<&Gateway> = scope.reader.all::<Gateway>().collect();
    let may = |gateway: &Gateway| !scope.mesh().gateways_stay_home || scope.view.is_in(scope.reader, &gateway.meta.namespace);
    gateways.retain(|gateway| may(gateway) && scope.view.selected(scope.reader, &gateway.selector.labels));
    gateways.sort_by(|a, b| by_age(&a.meta, &b.meta));
    standing(gateways)
}

/// How TLS is ended by the servers that this gateway serves.
pub(crate) fn ended<'a>(scope: &Scope<'_, 'a>) -> impl Iterator<Item = &'a ServerTls> {
    servers(scope).into_values().flatten().filter_map(|open| open.server.tls.as_ref())
}

/// The port on which a server listens: the one to which the gateway's own service sends that port.
fn target(scope: &Scope<'_, '_>, port: u16) -> u16 {
    scope.view.target(scope.reader, port)
}

pub(crate) fn list_listeners(scope: &Scope<'_, '_>) -> Vec<Name> {
    // Where nothing leads anywhere, nothing listens: a listener without chains is none.
    let open = servers(scope).into_iter().filter(|(_, open)| has_chains(scope, open));
    let mut ports: Vec<u16> = open.map(|(port, _)| target(scope, port)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|port| names::listener(ANY, port).into()).collect()
}

pub(crate) fn list_routes(scope: &Scope<'_, '_>) -> Vec<Name> {
    let names = servers(scope).into_values().flat_map(|open| open.iter().filter_map(route_name).collect::<BTreeSet<_>>());
    names.map(Name::from).collect()
}

fn has_chains(scope: &Scope<'_, '_>, open: &[OpenServer<'_>]) -> bool {
    open.iter().any(|open| open.server.is_http()) || !gateway_tcp::chains(scope, open).is_empty()
}

pub(crate) fn build_listener(scope: &Scope<'_, '_>, name: &str) -> Option<Listener> {
    let (_, number) = names::parse_listener(name).filter(|(bind, _)| *bind == ANY)?;
    let mut on_port = servers(scope).into_iter().filter(|(port, _)| target(scope, *port) == number);
    let (_, open) = on_port.find(|(_, open)| has_chains(scope, open))?;
    let mut http: Vec<&OpenServer<'_>> = open.iter().filter(|open| open.server.is_http()).collect();
    if open.iter().all(|open| !open.server.is_tls()) {
        // All of plain text have one chain.
        http.truncate(1);
    }
    let last = if is_dynamic(scope, &open) { dynamic::http_filters(scope) } else { Vec::new() };
    let mut chains: Vec<Chain> = http.into_iter().filter_map(|open| chain(scope, name, open, last.clone())).collect();
    chains.extend(gateway_tcp::chains(scope, &open));
    let inspects = chains.iter().any(listener::needs_tls);
    let told = scope.view.topology(scope.reader).proxy_protocol == Some(true);
    Some(Listener {
        head: Head {
            name: name.into(),
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::u32_value(1)),
            ..listener::at(scope, ANY, number)
        },
        chains,
        // The header comes before all that can be looked at.
        filters: told.then(listener::proxy_protocol).into_iter().chain(inspects.then(|| listener::tls_inspector(None))).collect(),
        log: access_log::listener_log(scope.mesh()),
        ..Default::default()
    })
}

/// By which server names a server's chain is found; none where it serves all.
pub(crate) fn server_names(open: &OpenServer<'_>) -> Option<FilterChainMatch> {
    gateway_tcp::named(open.server.hosts.iter().map(|host| host.host.to_string()).collect())
}

/// Whether routes for requests of these servers lead to names that are found on demand.
fn is_dynamic(scope: &Scope<'_, '_>, open: &[OpenServer<'_>]) -> bool {
    let http: Vec<OpenServer<'_>> = open.iter().filter(|open| open.server.is_http()).copied().collect();
    let Some(port) = http.first().map(|open| open.server.port.number) else { return false };
    bound(scope, &http, |rules| !rules.http.is_empty())
        .into_iter()
        .any(|(rules, gateways)| dynamic::is_led_to(scope, rules, &Caller { gateways: &gateways, port, host: None }))
}

fn chain(scope: &Scope<'_, '_>, listener: &str, open: &OpenServer<'_>, last: Vec<Http>) -> Option<Chain> {
    let stat = names::stat(&format!("outbound_{listener}"));
    let rbac = rbac::filters(scope, Side::Gateway).http;
    let manager = filters::http_manager(scope, Side::Gateway, stat, Routes::Rds(route_name(open)?), (rbac, last));
    Some(Chain {
        head: FilterChain {
            filter_chain_match: open.server.tls.as_ref().and_then(|_| server_names(open)),
            transport_socket_connect_timeout: Some(wire::seconds(15)),
            ..Default::default()
        },
        socket: open.server.tls.as_ref().map(|tls| tls::gateway(scope.mesh(), tls, false)),
        filters: vec![manager].into(),
    })
}

/// What is served under a host.
#[derive(Default)]
struct Served {
    routes: Vec<Route>,
    /// Plain text is sent to https.
    redirect: bool,
}

pub(crate) fn build_route(scope: &Scope<'_, '_>, name: &str) -> Option<RouteConfiguration> {
    let is_it = |open: &OpenServer<'_>| route_name(open).is_some_and(|own| own == name);
    let (port, mut open) = servers(scope).into_iter().find(|(_, open)| open.iter().any(is_it))?;
    open.retain(is_it);
    let mut hosts: BTreeMap<Hostname, Served> = BTreeMap::new();
    for (rules, gateways) in bound(scope, &open, |rules| !rules.http.is_empty()) {
        let caller = Caller { gateways: &gateways, port, host: None };
        let routes = route::of_rules(scope, rules, &caller);
        if routes.is_empty() {
            // It does not concern this gateway, and takes no host from those that do.
            continue;
        }
        for (host, redirect) in common_hosts(rules, &open) {
            // Rules of one host follow each other by age.
            let served = hosts.entry(host).or_default();
            served.routes.extend(routes.iter().cloned());
            served.redirect |= redirect;
        }
    }
    // Where all is sent away, nothing has to be routed.
    for host in open.iter().filter(|open| open.server.https_redirect).flat_map(|open| &open.server.hosts) {
        hosts.entry(host.host.clone()).or_default().redirect = true;
    }
    let virtual_host = |(host, mut served): (Hostname, Served)| {
        // Rules for all paths shadow none of another object, however old it is.
        served.routes.sort_by_key(takes_all);
        let require_tls = if served.redirect { TlsRequirementType::All } else { TlsRequirementType::None };
        VirtualHost {
            require_tls: require_tls.into(),
            ..rds::virtual_host(format!("{host}:{port}"), vec![host.to_string()], served.routes)
        }
    };
    let mut made: Vec<VirtualHost> = hosts.into_iter().map(virtual_host).collect();
    if made.is_empty() {
        made.push(VirtualHost { name: format!("blackhole:{port}"), domains: vec!["*".into()], ..Default::default() });
    }
    Some(rds::configuration(name, made))
}

/// Whether a route takes every request.
fn takes_all(route: &Route) -> bool {
    let Some(matched) = &route.r#match else { return true };
    let any_path = match &matched.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(pattern)) => pattern.regex == "*",
        _ => false,
    };
    any_path && matched.headers.is_empty() && matched.query_parameters.is_empty()
}

/// The routes that concern these servers, are bound to their Gateways and are visible here, the oldest first, each with the Gateways that it names.
pub(crate) fn bound<'a>(
    scope: &Scope<'_, 'a>,
    open: &[OpenServer<'a>],
    concern: impl Fn(&RouteRules<'a>) -> bool,
) -> Vec<(RouteRules<'a>, Vec<GatewayRef>)> {
    let mut found: Vec<RouteRules<'a>> = Vec::new();
    let mut refs: Vec<GatewayRef> = open.iter().map(|o| GatewayRef::Named(o.gateway.meta.namespaced_name())).collect();
    refs.dedup();
    for gateway in &refs {
        if let GatewayRef::Named(name) = gateway {
            found.extend(scope.reader.bound_to(name));
        }
    }
    found.retain(|rules| concern(rules) && scope.view.sees(scope.reader, *rules));
    found.sort_by(|a, b| by_age(a.meta, b.meta));
    found.dedup_by(|a, b| std::ptr::eq(a.meta, b.meta));
    let named = |rules: RouteRules<'a>| refs.iter().filter(|r| rules.parents.contains(r)).cloned().collect();
    found.into_iter().map(|rules| (rules, named(rules))).collect()
}

/// The hosts that routes and the servers of their Gateways have in common: of two that overlap, the narrower one. With each, whether plain text is sent to
/// https there.
pub(crate) fn common_hosts(rules: RouteRules<'_>, open: &[OpenServer<'_>]) -> BTreeMap<Hostname, bool> {
    let mut found = BTreeMap::new();
    for open in open {
        for server in open.welcoming(rules) {
            let own = rules.hosts.iter().map(|host| host.qualify(&rules.meta.namespace, DOMAIN));
            for narrow in own.filter_map(|host| narrower(server, &host)) {
                *found.entry(narrow).or_default() |= open.server.https_redirect;
            }
        }
    }
    found
}
