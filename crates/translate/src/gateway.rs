//! Listeners and routes of a gateway.

use std::collections::BTreeMap;

use mizzen_api::istio::{Gateway, GatewayHost, GatewayNamespace, GatewayRef};
use mizzen_model::{RouteRules, by_age};
use mizzen_protos::envoy::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, Listener as Head},
    route::v3::{Route, RouteConfiguration, VirtualHost, route_match::PathSpecifier},
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
    wire,
};

/// One host of a server that stands on a port.
struct Open<'a> {
    gateway: &'a Gateway,
    host: &'a GatewayHost,
}

/// The hosts of all servers that this gateway serves, by the servers' port; the oldest Gateway first.
fn servers<'a>(scope: &Scope<'_, 'a>) -> BTreeMap<u16, Vec<Open<'a>>> {
    let mut gateways: Vec<&Gateway> = scope.reader.all::<Gateway>().collect();
    gateways.retain(|gateway| scope.view.selected(scope.reader, &gateway.selector.labels));
    gateways.sort_by(|a, b| by_age(&a.meta, &b.meta));
    let mut found: BTreeMap<u16, Vec<Open<'_>>> = BTreeMap::new();
    for gateway in gateways {
        for server in gateway.servers.iter().filter(|server| server.port.protocol.is_http()) {
            let hosts = found.entry(server.port.number).or_default();
            hosts.extend(server.hosts.iter().map(|host| Open { gateway, host }));
        }
    }
    found
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
    servers(scope).into_keys().map(|port| route_name(port).into()).collect()
}

fn route_name(port: u16) -> String {
    format!("http.{port}")
}

pub(crate) fn build_listener(scope: &Scope<'_, '_>, name: &str) -> Option<Listener> {
    let (_, number) = names::parse_listener(name).filter(|(bind, _)| *bind == ANY)?;
    let served = servers(scope).into_keys().find(|port| target(scope, *port) == number)?;
    let stat = names::stat(&format!("outbound_{name}"));
    let manager =
        filters::http_manager(scope, Side::Gateway, stat, Routes::Rds(route_name(served)), rbac::filters(scope, Side::Gateway).http);
    let head = FilterChain { transport_socket_connect_timeout: Some(wire::seconds(15)), ..Default::default() };
    Some(Listener {
        head: Head {
            name: name.into(),
            address: Some(listener::address(ANY, number)),
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::u32_value(1)),
            ..Default::default()
        },
        chains: vec![Chain { head, filters: vec![manager], ..Default::default() }],
        log: access_log::listener_log(scope.mesh()),
        ..Default::default()
    })
}

pub(crate) fn build_route(scope: &Scope<'_, '_>, name: &str) -> Option<RouteConfiguration> {
    let port = names::number(name.strip_prefix("http.")?)?;
    let open = servers(scope).remove(&port)?;
    let mut hosts: BTreeMap<Hostname, Vec<Route>> = BTreeMap::new();
    for (rules, gateways) in bound(scope, &open) {
        let caller = Caller { gateways: &gateways, port, host: None };
        let routes = route::of_rules(scope, rules, &caller);
        if routes.is_empty() {
            // It does not concern this gateway, and takes no host from those that do.
            continue;
        }
        for host in common_hosts(rules, &open) {
            // Rules of one host follow each other by age.
            hosts.entry(host).or_default().extend(routes.iter().cloned());
        }
    }
    for routes in hosts.values_mut() {
        // Rules for all paths shadow none of another object, however old it is.
        routes.sort_by_key(takes_all);
    }
    let mut made: Vec<VirtualHost> =
        hosts.into_iter().map(|(host, routes)| rds::virtual_host(format!("{host}:{port}"), vec![host.to_string()], routes)).collect();
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

/// The hosts that routes and the servers of their Gateways have in common: of two that overlap, the narrower one.
fn common_hosts(rules: RouteRules<'_>, open: &[Open<'_>]) -> Vec<Hostname> {
    let mut found = Vec::new();
    for Open { gateway, host: server } in open {
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
            if !found.contains(&narrow) {
                found.push(narrow);
            }
        }
    }
    found
}
