//! Listeners and routes of a gateway.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::istio::{Gateway, GatewayHost, GatewayNamespace, GatewayRef, Server, ServerTls};
use mizzen_model::{RouteRules, by_age};
use mizzen_protos::envoy::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, FilterChainMatch, Listener as Head},
    route::v3::{Route, RouteConfiguration, VirtualHost, route_match::PathSpecifier, virtual_host::TlsRequirementType},
};
use mizzen_types::{Hostname, Name};

use crate::{
    access_log,
    draft::{Chain, Listener},
    filters::{self, Routes, Side},
    listener::{self, ANY},
    names, rbac, rds,
    route::{self, Caller},
    scope::{DOMAIN, Scope},
    tls, wire,
};

/// A server that stands on a port.
struct Open<'a> {
    gateway: &'a Gateway,
    server: &'a Server,
}

impl Open<'_> {
    /// The routes of its own that a server has which ends TLS; those of plain text on a port share theirs.
    fn route_name(&self) -> String {
        let (port, meta) = (&self.server.port, &self.gateway.meta);
        match self.server.tls {
            Some(_) => format!("https.{}.{}.{}.{}", port.number, port.name, meta.name, meta.namespace),
            None => format!("http.{}", port.number),
        }
    }

    /// By which server names its chain is found; none where it serves all.
    fn server_names(&self) -> Option<FilterChainMatch> {
        let names: BTreeSet<String> = self.server.hosts.iter().map(|host| host.host.to_string()).collect();
        let all = names.contains("*");
        (!all).then(|| FilterChainMatch { server_names: names.into_iter().collect(), ..Default::default() })
    }
}

/// The servers that this gateway serves, by their port; the oldest Gateway first. The first on a port decides whether TLS is ended there, and takes the
/// hosts that it names from later ones: those are left out as a whole, as with Istio.
fn servers<'a>(scope: &Scope<'_, 'a>) -> BTreeMap<u16, Vec<Open<'a>>> {
    let mut gateways: Vec<&Gateway> = scope.reader.all::<Gateway>().collect();
    let may = |gateway: &Gateway| !scope.mesh().gateways_stay_home || scope.view.is_in(scope.reader, &gateway.meta.namespace);
    gateways.retain(|gateway| may(gateway) && scope.view.selected(scope.reader, &gateway.selector.labels));
    gateways.sort_by(|a, b| by_age(&a.meta, &b.meta));
    let mut found: BTreeMap<u16, Vec<Open<'_>>> = BTreeMap::new();
    for gateway in gateways {
        for server in gateway.servers.iter().filter(|server| server.tls.is_some() || server.port.protocol.is_http()) {
            let (open, on_port) = (Open { gateway, server }, found.entry(server.port.number).or_default());
            let stands = |other: &Open<'_>| match (&other.server.tls, &server.tls) {
                (None, None) => true,
                (Some(_), Some(_)) => {
                    let taken = |host: &GatewayHost| other.server.hosts.iter().any(|theirs| theirs.host == host.host);
                    !server.hosts.iter().any(taken) && other.route_name() != open.route_name()
                }
                _ => false,
            };
            if on_port.iter().all(stands) {
                on_port.push(open);
            }
        }
    }
    found
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
    let mut ports: Vec<u16> = servers(scope).into_keys().map(|port| target(scope, port)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|port| names::listener(ANY, port).into()).collect()
}

pub(crate) fn list_routes(scope: &Scope<'_, '_>) -> Vec<Name> {
    let names = servers(scope).into_values().flat_map(|open| open.iter().map(Open::route_name).collect::<BTreeSet<_>>());
    names.map(Name::from).collect()
}

pub(crate) fn build_listener(scope: &Scope<'_, '_>, name: &str) -> Option<Listener> {
    let (_, number) = names::parse_listener(name).filter(|(bind, _)| *bind == ANY)?;
    let (_, mut open) = servers(scope).into_iter().find(|(port, _)| target(scope, *port) == number)?;
    if open.first()?.server.tls.is_none() {
        // All of plain text have one chain.
        open.truncate(1);
    }
    let chains: Vec<Chain> = open.iter().map(|open| chain(scope, name, open)).collect();
    let inspects = chains.iter().any(listener::needs_tls);
    Some(Listener {
        head: Head {
            name: name.into(),
            address: Some(listener::address(ANY, number)),
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::u32_value(1)),
            ..Default::default()
        },
        chains,
        filters: inspects.then(|| listener::tls_inspector(None)).into_iter().collect(),
        log: access_log::listener_log(scope.mesh()),
        ..Default::default()
    })
}

fn chain(scope: &Scope<'_, '_>, listener: &str, open: &Open<'_>) -> Chain {
    let stat = names::stat(&format!("outbound_{listener}"));
    let rbac = rbac::filters(scope, Side::Gateway).http;
    let manager = filters::http_manager(scope, Side::Gateway, stat, Routes::Rds(open.route_name()), rbac);
    Chain {
        head: FilterChain {
            filter_chain_match: open.server.tls.as_ref().and_then(|_| open.server_names()),
            transport_socket_connect_timeout: Some(wire::seconds(15)),
            ..Default::default()
        },
        socket: open.server.tls.as_ref().map(|tls| tls::gateway(scope.mesh(), tls)),
        filters: vec![manager],
    }
}

/// What is served under a host.
#[derive(Default)]
struct Served {
    routes: Vec<Route>,
    /// Plain text is sent to https.
    redirect: bool,
}

pub(crate) fn build_route(scope: &Scope<'_, '_>, name: &str) -> Option<RouteConfiguration> {
    let (port, mut open) = servers(scope).into_iter().find(|(_, open)| open.iter().any(|open| open.route_name() == name))?;
    open.retain(|open| open.route_name() == name);
    let mut hosts: BTreeMap<Hostname, Served> = BTreeMap::new();
    for (rules, gateways) in bound(scope, &open) {
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

/// The routes bound to these servers' Gateways that are visible here, the oldest first, each with the Gateways that it names.
fn bound<'a>(scope: &Scope<'_, 'a>, open: &[Open<'a>]) -> Vec<(RouteRules<'a>, Vec<GatewayRef>)> {
    let mut found: Vec<RouteRules<'a>> = Vec::new();
    let mut refs: Vec<GatewayRef> = open.iter().map(|o| GatewayRef::Named(o.gateway.meta.namespaced_name())).collect();
    refs.dedup();
    for gateway in &refs {
        if let GatewayRef::Named(name) = gateway {
            found.extend(scope.reader.bound_to(name));
        }
    }
    found.retain(|rules| !rules.http.is_empty() && scope.view.sees(scope.reader, *rules));
    found.sort_by(|a, b| by_age(a.meta, b.meta));
    found.dedup_by(|a, b| std::ptr::eq(a.meta, b.meta));
    let named = |rules: RouteRules<'a>| refs.iter().filter(|r| rules.parents.contains(r)).cloned().collect();
    found.into_iter().map(|rules| (rules, named(rules))).collect()
}

/// The hosts that routes and the servers of their Gateways have in common: of two that overlap, the narrower one. With each, whether plain text is sent to
/// https there.
fn common_hosts(rules: RouteRules<'_>, open: &[Open<'_>]) -> BTreeMap<Hostname, bool> {
    let mut found = BTreeMap::new();
    let hosts = open.iter().flat_map(|open| open.server.hosts.iter().map(move |host| (open.gateway, open.server, host)));
    for (gateway, of, server) in hosts {
        let name = GatewayRef::Named(gateway.meta.namespaced_name());
        let welcome = match &server.namespace {
            GatewayNamespace::Any => true,
            GatewayNamespace::Own => gateway.meta.namespace == rules.meta.namespace,
            GatewayNamespace::Named(namespace) => **namespace == *rules.meta.namespace,
        };
        if !welcome || !rules.parents.contains(&name) {
            continue;
        }
        for host in rules.hosts {
            let host = host.qualify(&rules.meta.namespace, DOMAIN);
            let narrow = if server.host.covers(&host) {
                host
            } else if host.covers(&server.host) {
                server.host.clone()
            } else {
                continue;
            };
            *found.entry(narrow).or_default() |= of.https_redirect;
        }
    }
    found
}
