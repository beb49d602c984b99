//! Routes of a sidecar: one resource for each HTTP port of the mesh, and one for each service whose protocol is detected.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::istio::{GatewayRef, OutboundTrafficPolicy};
use mizzen_model::{PortView, Registry, ServiceView};
use mizzen_protos::envoy::envoy::config::route::v3::{Route, RouteConfiguration, Vhds, VirtualHost};
use mizzen_types::{Hostname, Name, Protocol};

use crate::{
    names, outbound,
    route::{self, Caller},
    scope::{DOMAIN, Scope},
    tls, wire,
};

pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let (mut ports, mut sniffed) = (BTreeSet::new(), BTreeSet::new());
    for (service, port) in scope.ports() {
        let own_address = service.headless || !scope.vips(service).is_empty();
        if port.protocol.is_http() || (port.protocol == Protocol::Auto && !own_address) {
            ports.insert(port.port);
        } else if port.protocol == Protocol::Auto {
            sniffed.insert(Name::from(format!("{}:{}", service.host, port.port)));
        }
    }
    ports.into_iter().map(|port| Name::from(port.to_string())).chain(sniffed).collect()
}

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<RouteConfiguration> {
    let hosts = match names::number(name) {
        Some(_) if scope.is_on_demand() => return Some(head(scope, name)),
        Some(port) => parts(scope, port)?.iter().filter_map(|part| build_host(scope, part)).collect(),
        None => {
            let (host, port) = names::parse_sniffed_route(name)?;
            let service = scope.service_at(&host, port)?;
            service.port(port).filter(|port| port.protocol == Protocol::Auto)?;
            // The address says already whom the call is for.
            vec![VirtualHost { domains: vec!["*".into()], ..of_service(scope, service, port) }]
        }
    };
    Some(configuration(name, hosts))
}

/// A port's routes without their virtual hosts: those come as parts, or where they are fetched on demand one by one, beside the last one.
pub(crate) fn head(scope: &Scope<'_, '_>, name: &str) -> RouteConfiguration {
    let mut made = configuration(name, Vec::new());
    if scope.is_on_demand() {
        made.vhds = Some(Vhds { config_source: Some(tls::ads()) });
        made.virtual_hosts = vec![unknown(scope)];
    }
    made
}

/// The virtual hosts of a port's routes, in order: `PORT/HOST`, with `!` and the domains that another one has. The last one, `PORT/`, is for all other
/// hosts.
pub(crate) fn parts(scope: &Scope<'_, '_>, number: u16) -> Option<Vec<Name>> {
    let mut services = scope.services_at(number);
    services.retain(|service| service.port(number).is_some_and(is_routed_by_host));
    if services.is_empty() {
        return None;
    }
    // One name may stand for one service only: the oldest that claims it.
    services.sort_by_key(|service| (service.registry, service.created, service.host.clone()));
    // Names of one word hang on who asks, and are nobody else's unless a host is such.
    let words = services.iter().any(|service| !service.host.as_str().contains('.'));
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut found: Vec<(&Hostname, Vec<String>)> = Vec::new();
    for service in services {
        let all = domains(scope, service, words);
        let (own, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(|domain| !taken.contains(domain));
        if !own.is_empty() {
            found.push((&service.host, lost));
        }
        taken.extend(own);
    }
    // Other names of these: what a service is called comes first.
    let aliases = scope.view.aliases(scope.reader).into_iter().map(|alias| (&alias.host, scope.reader.meaning(&alias.host)));
    let here: BTreeSet<Hostname> = found.iter().map(|(host, _)| (*host).clone()).collect();
    for (alias, _) in aliases.filter(|(alias, target)| here.contains(target) && scope.service(alias).is_none()) {
        let (own, lost): (Vec<_>, Vec<_>) = names_of(scope, alias, words).into_iter().partition(|domain| !taken.contains(domain));
        if !own.is_empty() {
            found.push((alias, lost));
        }
        taken.extend(own);
    }
    if number == 80 {
        let alone = scope.reader.routed_hosts().filter(|host| !taken.contains(host.as_str()) && scope.service(host).is_none());
        found.extend(alone.filter(|host| is_routed(scope, host, 80)).map(|host| (host, Vec::new())));
    }
    found.sort();
    let name = |(host, lost): (&Hostname, Vec<String>)| match lost.as_slice() {
        [] => Name::from(format!("{number}/{host}")),
        lost => Name::from(format!("{number}/{host}!{}", lost.join(","))),
    };
    Some(found.into_iter().map(name).chain([Name::from(format!("{number}/"))]).collect())
}

/// One virtual host of a port's routes, by its name among [`parts`].
pub(crate) fn build_host(scope: &Scope<'_, '_>, name: &str) -> Option<VirtualHost> {
    let (port, host) = name.split_once('/')?;
    let (host, lost) = host.split_once('!').unwrap_or((host, ""));
    let number = names::number(port)?;
    if host.is_empty() {
        return Some(unknown(scope));
    }
    let host = host.parse().ok()?;
    let served = scope.ports_of(&host).into_iter().find(|(_, port)| port.port == number);
    let mut made = match served {
        Some((service, port)) if is_routed_by_host(port) => of_service(scope, service, number),
        None if scope.service(&host).is_none() && scope.view.alias(scope.reader, &host).is_some() => of_alias(scope, &host, number)?,
        None if number == 80 && scope.service(&host).is_none() => routed(scope, &host)?,
        _ => return None,
    };
    made.domains.retain(|domain| lost.split(',').all(|lost| lost != domain));
    Some(made)
}

/// Whether a port's calls are told apart by their hosts.
fn is_routed_by_host(port: &PortView) -> bool {
    port.protocol.is_http() || port.protocol == Protocol::Auto
}

/// Whether rules say where calls to a host go.
pub(crate) fn is_routed(scope: &Scope<'_, '_>, host: &Hostname, port: u16) -> bool {
    ruled(scope, host, port).is_some()
}

/// A route configuration as Istio sends them.
pub(crate) fn configuration(name: &str, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.into(),
        virtual_hosts,
        validate_clusters: Some(wire::bool_value(false)),
        max_direct_response_body_size_bytes: Some(wire::u32_value(1 << 20)),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// A virtual host as Istio sends them.
pub(crate) fn virtual_host(name: String, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name, domains, routes, include_request_attempt_count: true, ..Default::default() }
}

fn of_service(scope: &Scope<'_, '_>, service: &Arc<ServiceView>, number: u16) -> VirtualHost {
    let name = format!("{}:{number}", service.host);
    let caller = Caller { gateways: &[GatewayRef::Mesh], port: number, host: Some(&service.host) };
    let default = || vec![route::default_in(scope, names::outbound(number, "", &service.host), format!("{name}/*"), &caller)];
    let routes = ruled(scope, &service.host, number).unwrap_or_else(default);
    virtual_host(name, domains(scope, service, true), routes)
}

/// A service under another name of it: the same routes.
fn of_alias(scope: &Scope<'_, '_>, host: &Hostname, number: u16) -> Option<VirtualHost> {
    let target = scope.reader.meaning(host);
    let (service, _) = scope.ports_of(&target).into_iter().find(|(_, port)| port.port == number && is_routed_by_host(port))?;
    Some(VirtualHost { name: format!("{host}:{number}"), domains: names_of(scope, host, true), ..of_service(scope, service, number) })
}

/// The routes of the first object of a host that has any for this caller.
fn ruled(scope: &Scope<'_, '_>, host: &Hostname, port: u16) -> Option<Vec<Route>> {
    let caller = Caller { gateways: &[GatewayRef::Mesh], port, host: Some(host) };
    scope.mesh_rules(host).map(|rules| route::of_rules(scope, rules, &caller)).find(|routes| !routes.is_empty())
}

/// A host that routes name and no service has: reachable on port 80.
fn routed(scope: &Scope<'_, '_>, host: &Hostname) -> Option<VirtualHost> {
    ruled(scope, host, 80).map(|routes| virtual_host(format!("{host}:80"), vec![host.to_string()], routes))
}

fn unknown(scope: &Scope<'_, '_>) -> VirtualHost {
    let (name, route) = match scope.view.outbound(scope.reader).0 {
        OutboundTrafficPolicy::AllowAny => ("allow_any", route::allow_any(&outbound::unknown_cluster(scope))),
        OutboundTrafficPolicy::RegistryOnly => ("block_all", route::block_all()),
    };
    virtual_host(name.into(), vec!["*".into()], vec![route])
}

/// The names under which a service is called from the proxy's namespace; those of one word with `words` alone.
fn domains(scope: &Scope<'_, '_>, service: &ServiceView, words: bool) -> Vec<String> {
    let mut domains = names_of(scope, &service.host, words);
    if service.headless && service.registry == Registry::Kubernetes {
        // Pods of a headless service have names of their own under each of its names, as with Istio.
        let below: Vec<String> = domains.iter().map(|name| format!("*.{name}")).collect();
        domains.extend(below);
    }
    domains.extend(scope.vips(service).into_iter().map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }));
    domains
}

/// A host and its short names.
fn names_of(scope: &Scope<'_, '_>, host: &Hostname, words: bool) -> Vec<String> {
    let mut names = vec![host.to_string()];
    if !host.is_wildcard() {
        names.push(format!("{host}."));
        names.extend(short_names(scope, host, words));
    }
    names
}

/// `reviews` (in its own namespace), `reviews.shop.svc`, `reviews.shop`.
fn short_names(scope: &Scope<'_, '_>, host: &Hostname, words: bool) -> Vec<String> {
    let Some(in_cluster) = host.as_str().strip_suffix(&format!(".svc.{DOMAIN}")) else { return Vec::new() };
    // Whose host ends in another namespace has no name of one word there.
    let of = in_cluster.rsplit_once('.').filter(|(name, _)| !name.is_empty());
    let own = of.filter(|(_, namespace)| words && scope.is_in(namespace)).map(|(name, _)| name.to_owned());
    own.into_iter().chain([format!("{in_cluster}.svc"), in_cluster.to_owned()]).collect()
}
