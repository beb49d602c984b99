//! What a gateway does with bytes: TLS that is not ended here, by its server name; TLS that is; and plain TCP.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::{
    istio::{GatewayRef, Passthrough},
    routing::{TcpMatch, TcpRoute},
};
use mizzen_model::{OpenServer, PortView, ProxyType, RouteRules, ServiceView};
use mizzen_protos::envoy::envoy::{
    config::listener::v3::{FilterChain, FilterChainMatch},
    extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier,
};
use mizzen_types::Hostname;

use crate::{
    access_log,
    draft::{Chain, Socket},
    dynamic,
    filters::{self, Side},
    gateway::{self, bound},
    inbound, names, outbound, rbac,
    route::Caller,
    scope::Scope,
    tls,
    traffic::{self, Policy},
    wire,
};

/// The chains of the servers on one port that see no requests.
pub(crate) fn chains(scope: &Scope<'_, '_>, open: &[OpenServer<'_>]) -> Vec<Chain> {
    // Names at which TLS is ended are no route's: each has one chain, whoever comes first.
    let ended = open.iter().filter(|open| open.server.tls.is_some()).flat_map(|open| &open.server.hosts);
    let mut taken: BTreeSet<String> = ended.map(|host| host.host.to_string()).collect();
    let mut found = Vec::new();
    for open in open.iter().filter(|open| !open.server.is_http()) {
        match open.server.passthrough {
            Some(Passthrough::Auto) => found.extend(by_themselves(scope, open, &mut taken)),
            Some(Passthrough::Routes) => found.extend(by_routes(scope, open, &mut taken)),
            None => found.extend(ended_or_plain(scope, open)),
        }
    }
    found
}

/// Matches server names; `*` is any, also none at all.
pub(crate) fn named(names: BTreeSet<String>) -> Option<FilterChainMatch> {
    let all = names.contains("*");
    (!all).then(|| FilterChainMatch { server_names: names.into_iter().collect(), ..Default::default() })
}

/// Whether a condition concerns a server: its port, its Gateway, and the gateway itself as the source.
fn applies(scope: &Scope<'_, '_>, m: &TcpMatch, open: &OpenServer<'_>) -> bool {
    open.is_meant(m) && scope.is_source(m.source_namespace.as_deref(), &m.source_labels)
}

/// The objects with routes for a server's connections, the oldest first: they have a host in common with it.
fn concerning<'a>(
    scope: &Scope<'_, 'a>,
    open: &OpenServer<'a>,
    has_routes: impl Fn(&RouteRules<'a>) -> bool,
) -> impl Iterator<Item = (RouteRules<'a>, Vec<GatewayRef>)> {
    let found = bound(scope, std::slice::from_ref(open), |rules| has_routes(rules) && !gateway::common_hosts(*rules, &[*open]).is_empty());
    found.into_iter()
}

/// The server names of routes lead to their destinations. A condition of which a name has a chain already is left out as a whole, as with Istio.
fn by_routes(scope: &Scope<'_, '_>, open: &OpenServer<'_>, taken: &mut BTreeSet<String>) -> Vec<Chain> {
    let mut found = Vec::new();
    for (rules, gateways) in concerning(scope, open, |rules| !rules.tls.is_empty()) {
        let caller = Caller { gateways: &gateways, port: open.server.port.number, host: None };
        for route in rules.tls {
            for m in route.matches.iter().filter(|m| applies(scope, &m.connection, open)) {
                let names: BTreeSet<String> = open.passed(rules, m).iter().map(ToString::to_string).collect();
                if names.is_empty() || names.iter().any(|name| taken.contains(name)) {
                    continue;
                }
                taken.extend(names.iter().cloned());
                let (stat, to) = outbound::destinations(scope, rules, &route.route, &caller);
                found.push(chain(scope, named(names), None, &stat, &outbound::policy_to(scope, &to), to));
            }
        }
    }
    found
}

/// One chain by the first route for TCP that concerns the server, after TLS if it has any.
fn ended_or_plain(scope: &Scope<'_, '_>, open: &OpenServer<'_>) -> Option<Chain> {
    let meets = |route: &&TcpRoute| route.matches.is_empty() || route.matches.iter().any(|m| applies(scope, m, open));
    let (rules, gateways, route) = concerning(scope, open, |rules| !rules.tcp.is_empty())
        .find_map(|(rules, gateways)| rules.tcp.iter().find(meets).map(|route| (rules, gateways, route)))?;
    let caller = Caller { gateways: &gateways, port: open.server.port.number, host: None };
    let (stat, to) = outbound::destinations(scope, rules, &route.route, &caller);
    let socket = open.server.tls.as_ref().map(|tls| tls::gateway(scope.mesh(), tls, true));
    let matched = open.server.tls.as_ref().and_then(|_| gateway::server_names(open));
    Some(chain(scope, matched, socket, &stat, &outbound::policy_to(scope, &to), to))
}

/// Mutual TLS of the mesh goes where its own server name says: to services of the mesh that the server's hosts cover.
fn by_themselves(scope: &Scope<'_, '_>, open: &OpenServer<'_>, taken: &mut BTreeSet<String>) -> Vec<Chain> {
    let mut found = Vec::new();
    for (service, port) in passable(scope).into_iter().filter(|(service, _)| is_passed(open, service)) {
        for subset in subsets(scope, service) {
            let name = names::sni(port.port, &subset, &service.host);
            if !taken.insert(name.clone()) {
                continue;
            }
            let matched = FilterChainMatch {
                server_names: vec![name.clone()],
                application_protocols: inbound::mtls_protocols().map(str::to_owned).collect(),
                ..Default::default()
            };
            let policy = traffic::policy(scope, service, port.port, &subset);
            found.push(chain(scope, Some(matched), None, &name, &policy, ClusterSpecifier::Cluster(name.clone())));
        }
    }
    found
}

/// The ports to which mutual TLS may be passed on. A wildcard is no server name.
fn passable<'a>(scope: &Scope<'_, 'a>) -> Vec<(&'a Arc<ServiceView>, &'a PortView)> {
    let mut found = scope.ports();
    found.retain(|(service, _)| !service.external && !service.host.is_wildcard());
    found
}

/// The whole of a service, and its subsets.
fn subsets(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<String> {
    let rule = traffic::rule(scope, service);
    let subsets = rule.iter().flat_map(|rule| rule.subsets.iter().map(|subset| subset.name.clone()));
    std::iter::once(String::new()).chain(subsets).collect()
}

fn is_passed(open: &OpenServer<'_>, service: &ServiceView) -> bool {
    open.server.hosts.iter().any(|host| host.host.covers(&service.host))
}

/// Whether this gateway passes mutual TLS on by its own server name.
fn passes_by_itself(scope: &Scope<'_, '_>) -> bool {
    let passes = |open: &OpenServer<'_>| open.server.passthrough == Some(Passthrough::Auto);
    scope.view.kind(scope.reader) == ProxyType::Router && gateway::servers(scope).values().flatten().any(passes)
}

/// The service to which mutual TLS is passed on that asks for this host and port.
pub(crate) fn passed_to<'a>(scope: &Scope<'_, 'a>, host: &Hostname, port: u16) -> Option<&'a Arc<ServiceView>> {
    let service = scope.service_at(host, port).filter(|service| !service.external && !service.host.is_wildcard())?;
    passes_by_itself(scope).then_some(service)
}

/// The clusters to which mutual TLS is passed on by its own server name, after which they are called: of all services, if any server does so, as with Istio.
pub(crate) fn clusters<'a>(scope: &Scope<'_, 'a>) -> Vec<(&'a Arc<ServiceView>, u16, String)> {
    if !passes_by_itself(scope) {
        return Vec::new();
    }
    let of = |(service, port): (&'a Arc<ServiceView>, &'a PortView)| {
        subsets(scope, service).into_iter().map(move |subset| (service, port.port, subset))
    };
    passable(scope).into_iter().flat_map(of).collect()
}

fn chain(
    scope: &Scope<'_, '_>,
    matched: Option<FilterChainMatch>,
    socket: Option<Socket>,
    stat: &str,
    policy: &Policy,
    to: ClusterSpecifier,
) -> Chain {
    let (before, to) = dynamic::of_chain(scope, matched.as_ref(), to);
    let mut list = rbac::filters(scope, Side::Gateway).tcp;
    list.extend(filters::tcp_stats(scope, Side::Gateway));
    list.extend(before);
    list.push(filters::tcp_proxy(stat, to, access_log::log(scope.mesh()), policy));
    Chain {
        head: FilterChain { filter_chain_match: matched, transport_socket_connect_timeout: Some(wire::seconds(15)), ..Default::default() },
        socket,
        filters: list.into(),
    }
}
