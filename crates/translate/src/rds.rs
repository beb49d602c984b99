//! Routes of a sidecar: one resource for each HTTP port of the mesh, and one for each service whose protocol is detected.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::istio::{GatewayRef, OutboundTrafficPolicy};
use mizzen_model::{PortView, Registry, ServiceView};
use mizzen_protos::{
    Any,
    envoy::envoy::config::route::v3::{Route, RouteConfiguration, Vhds, VirtualHost},
};
use mizzen_types::{Hostname, Name, Protocol};

use crate::{
    names,
    route::{self, Caller},
    scope::{DOMAIN, Scope},
    tls, wire,
};

pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let (mut ports, mut sniffed) = (BTreeSet::new(), BTreeSet::new());
    for (service, port) in scope.ports() {
        let own_address = service.headless || service.vips().next().is_some();
        if port.protocol.is_http() || (port.protocol == Protocol::Auto && !own_address) {
            ports.insert(port.port);
        } else if port.protocol == Protocol::Auto {
            sniffed.insert(Name::from(format!("{}:{}", service.host, port.port)));
        }
    }
    ports.into_iter().map(|port| Name::from(port.to_string())).chain(sniffed).collect()
}

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Any> {
    let hosts = match names::number(name) {
        Some(_) if scope.is_on_demand() => {
            let vhds = Some(Vhds { config_source: Some(tls::ads()) });
            return Some(wire::any(&RouteConfiguration { vhds, ..configuration(name, vec![unknown(scope)]) }));
        }
        Some(port) => of_port(scope, port)?,
        None => {
            let (host, port) = names::parse_sniffed_route(name)?;
            let service = scope.service_at(&host, port)?;
            service.port(port).filter(|port| port.protocol == Protocol::Auto)?;
            // The address says already whom the call is for.
            vec![VirtualHost { domains: vec!["*".into()], ..of_service(scope, service, port) }]
        }
    };
    Some(wire::any(&configuration(name, hosts)))
}

/// One virtual host of a port's routes, by `PORT/HOST`.
pub(crate) fn build_host(scope: &Scope<'_, '_>, name: &str) -> Option<Any> {
    let (port, host) = name.split_once('/')?;
    let (number, host) = (names::number(port)?, host.parse().ok()?);
    let served = scope.ports_of(&host).into_iter().find(|(_, port)| port.port == number);
    let made = match served {
        Some((service, port)) if is_routed_by_host(port) => of_service(scope, service, number),
        None if number == 80 && scope.service(&host).is_none() => routed(scope, &host)?,
        _ => return None,
    };
    Some(wire::any(&made))
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

fn of_port(scope: &Scope<'_, '_>, number: u16) -> Option<Vec<VirtualHost>> {
    let mut services = scope.services_at(number);
    services.retain(|service| service.port(number).is_some_and(is_routed_by_host));
    if services.is_empty() {
        return None;
    }
    // One name may stand for one service only: the oldest that claims it.
    services.sort_by_key(|service| (service.registry, service.created, service.host.clone()));
    let mut taken = BTreeSet::new();
    let mut hosts: Vec<VirtualHost> = services.into_iter().map(|service| of_service(scope, service, number)).collect();
    if number == 80 {
        hosts.extend(routed_only(scope));
    }
    for host in &mut hosts {
        host.domains.retain(|domain| taken.insert(domain.clone()));
    }
    hosts.retain(|host| !host.domains.is_empty());
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts.push(unknown(scope));
    Some(hosts)
}

fn of_service(scope: &Scope<'_, '_>, service: &Arc<ServiceView>, number: u16) -> VirtualHost {
    let name = format!("{}:{number}", service.host);
    let routes = ruled(scope, &service.host, number)
        .unwrap_or_else(|| vec![route::default_in(scope, names::outbound(number, "", &service.host), format!("{name}/*"))]);
    virtual_host(name, domains(scope, service), routes)
}

/// The routes of the first VirtualService of a host that has any for this caller.
fn ruled(scope: &Scope<'_, '_>, host: &Hostname, port: u16) -> Option<Vec<Route>> {
    let caller = Caller { gateways: &[GatewayRef::Mesh], port, host: Some(host) };
    scope.mesh_rules(host).map(|rules| route::of_rules(scope, rules, &caller)).find(|routes| !routes.is_empty())
}

/// Hosts that VirtualServices name and no service has: reachable on port 80.
fn routed_only(scope: &Scope<'_, '_>) -> Vec<VirtualHost> {
    let mut hosts = Vec::new();
    for host in scope.reader.routed_hosts() {
        if scope.service(host).is_none() {
            hosts.extend(routed(scope, host));
        }
    }
    hosts
}

fn routed(scope: &Scope<'_, '_>, host: &Hostname) -> Option<VirtualHost> {
    ruled(scope, host, 80).map(|routes| virtual_host(format!("{host}:80"), vec![host.to_string()], routes))
}

fn unknown(scope: &Scope<'_, '_>) -> VirtualHost {
    let (name, route) = match scope.view.outbound(scope.reader) {
        OutboundTrafficPolicy::AllowAny => ("allow_any", route::allow_any(names::PASSTHROUGH)),
        OutboundTrafficPolicy::RegistryOnly => ("block_all", route::block_all()),
    };
    virtual_host(name.into(), vec!["*".into()], vec![route])
}

/// The names under which a service is called from the proxy's namespace.
fn domains(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<String> {
    let host = service.host.as_str();
    let mut domains = vec![host.to_owned()];
    if !service.host.is_wildcard() {
        domains.push(format!("{host}."));
        domains.extend(short_names(scope, service));
    }
    domains.extend(service.vips().map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }));
    if service.headless && service.registry == Registry::Kubernetes {
        // Pods of a headless service have names of their own under it.
        domains.push(format!("*.{host}"));
    }
    domains
}

/// `reviews` (in its own namespace), `reviews.shop.svc`, `reviews.shop`.
fn short_names(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<String> {
    let Some(in_cluster) = service.host.as_str().strip_suffix(&format!(".svc.{DOMAIN}")) else { return Vec::new() };
    // Whose host ends in another namespace has no name of one word there.
    let of = in_cluster.rsplit_once('.').filter(|(name, _)| !name.is_empty());
    let own = of.filter(|(_, namespace)| scope.is_in(namespace)).map(|(name, _)| name.to_owned());
    own.into_iter().chain([format!("{in_cluster}.svc"), in_cluster.to_owned()]).collect()
}
