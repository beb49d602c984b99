//! The index: what a proxy that fetches on demand knows of the mesh beforehand, a few bytes a host. Also which resources come to it without a question,
//! and what those that it asks for bring along.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mizzen_model::{Endpoint, PortView, Registry, ServiceView, single};
use mizzen_protos::{
    envoy::envoy::{
        config::{
            cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType},
            route::v3::{VirtualHost, route, route_action},
        },
        extensions::filters::network::{http_connection_manager::v3::http_connection_manager::RouteSpecifier, tcp_proxy::v3::tcp_proxy},
    },
    index::Host,
};
use mizzen_types::{Hostname, IpRange, Name, Protocol};

use crate::{
    ResourceKind,
    draft::{Draft, NetworkFilter},
    listener::ANY,
    names, rds,
    scope::Scope,
};

/// Listeners at any address that come without a question: of so many ports, the lowest. Calls out of the mesh mostly go to such, and must not wait.
const GIVEN: usize = 32;

/// The hosts that the proxy sees.
pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut hosts: BTreeSet<&Hostname> = scope.ports().into_iter().map(|(service, _)| &service.host).collect();
    hosts.extend(scope.view.aliases(scope.reader).into_iter().map(|alias| &alias.host));
    // Hosts that rules alone name are called at port 80.
    hosts.extend(scope.reader.routed_hosts().filter(|host| scope.service(host).is_none() && rds::is_routed(scope, host, 80)));
    hosts.into_iter().map(|host| Name::from(host.as_str())).collect()
}

/// One host's entry.
pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Host> {
    let host: Hostname = name.parse().ok()?;
    let mut entry = Host::default();
    let (mut addresses, mut known) = (Vec::new(), false);
    for (service, port) in scope.ports_of(&host) {
        known = true;
        entry.kubernetes |= service.registry == Registry::Kubernetes;
        entry.headless |= service.registry == Registry::Kubernetes && service.headless;
        for address in addresses_of(scope, service) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let at_any = at_any(scope, service, port);
        if has_virtual_host(scope, service, port) {
            entry.http.push(port.port.into());
        } else if at_any {
            entry.any.push(port.port.into());
        }
        if !port.protocol.is_http() && (service.headless || !scope.vips(service).is_empty()) {
            entry.own.push(port.port.into());
        }
    }
    if !known {
        if scope.view.alias(scope.reader, &host).is_some() {
            return Some(alias(scope, &host));
        }
        (scope.service(&host).is_none() && rds::is_routed(scope, &host, 80)).then(|| entry.http.push(80))?;
    }
    for ports in [&mut entry.http, &mut entry.own, &mut entry.any] {
        ports.sort_unstable();
        ports.dedup();
    }
    entry.addresses = addresses.into_iter().map(bytes).collect();
    Some(entry)
}

/// The entry of another name of a host: it has the host's virtual hosts. Connections are told apart by the host's own addresses.
fn alias(scope: &Scope<'_, '_>, host: &Hostname) -> Host {
    let target = scope.reader.meaning(host);
    let ports = scope.ports_of(&target).into_iter();
    let mut http: Vec<u32> =
        ports.filter(|(service, port)| has_virtual_host(scope, service, port)).map(|(_, port)| port.port.into()).collect();
    http.sort_unstable();
    Host { http, kubernetes: true, alias_of: target.to_string(), ..Host::default() }
}

/// Whether a service's port has a virtual host in the routes of that port.
fn has_virtual_host(scope: &Scope<'_, '_>, service: &ServiceView, port: &PortView) -> bool {
    port.protocol.is_http() || (port.protocol == Protocol::Auto && at_any(scope, service, port))
}

/// Whether a service's port is served by the listener at any address.
fn at_any(scope: &Scope<'_, '_>, service: &ServiceView, port: &PortView) -> bool {
    if port.protocol.is_http() || service.headless {
        return port.protocol.is_http();
    }
    let addresses = scope.addresses(service);
    addresses.is_empty() || addresses.len() > single(&addresses).count()
}

/// A service's addresses, of a headless one those of its pods.
fn addresses_of(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<IpRange> {
    if !service.headless {
        let all = scope.addresses(service);
        let vips: Vec<IpAddr> = single(&all).collect();
        let reached = scope.reachable(vips.clone());
        let is_reached = |range: &&IpRange| reached.contains(&range.address()) || !vips.iter().any(|ip| IpRange::from(*ip) == **range);
        return all.iter().filter(is_reached).copied().collect();
    }
    let endpoints = scope.reader.endpoints(service);
    let ready = endpoints.by_port.keys().flat_map(|port| endpoints.ready(*port));
    let ips = ready.flat_map(Endpoint::ips).collect::<BTreeSet<IpAddr>>();
    scope.reachable(ips.into_iter().collect()).into_iter().map(IpRange::from).collect()
}

fn bytes(range: IpRange) -> Vec<u8> {
    let (mut bytes, whole) = match range.address() {
        IpAddr::V4(ip) => (ip.octets().to_vec(), 32),
        IpAddr::V6(ip) => (ip.octets().to_vec(), 128),
    };
    bytes.extend((range.prefix() != whole).then_some(range.prefix()));
    bytes
}

/// The listeners of the mesh that come without a question.
pub(crate) fn given_listeners(scope: &Scope<'_, '_>) -> Vec<Name> {
    let ports: BTreeSet<u16> =
        scope.ports().into_iter().filter(|(service, port)| at_any(scope, service, port)).map(|(_, port)| port.port).collect();
    ports.into_iter().take(GIVEN).map(|port| names::listener(ANY, port).into()).collect()
}

/// What a resource names, and must be there before it.
pub(crate) fn brings(draft: &Draft) -> Vec<(ResourceKind, Name)> {
    let mut found = Names::new();
    match draft {
        Draft::VirtualHost(host) => of_host(host, &mut found),
        Draft::Route(routes) => routes.virtual_hosts.iter().for_each(|host| of_host(host, &mut found)),
        Draft::Listener(listener) => {
            let chains = listener.chains.iter().chain(&listener.default);
            chains.flat_map(|chain| chain.filters.iter()).for_each(|filter| of_filter(filter, &mut found));
        }
        Draft::Cluster(cluster) => {
            if cluster.head.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())) {
                found.entry(ResourceKind::Endpoints).or_default().insert(cluster.head.name.as_str().into());
            }
        }
        Draft::Endpoints(_) | Draft::NameTable(_) | Draft::NameEntry(_) | Draft::Index(_) | Draft::Secret(_) => {}
    }
    let all = found.into_iter().flat_map(|(kind, names)| names.into_iter().map(move |name| (kind, name)));
    // Others are everybody's.
    all.filter(|(kind, name)| *kind != ResourceKind::Cluster || names::parse_outbound(name).is_some()).collect()
}

type Names = BTreeMap<ResourceKind, BTreeSet<Name>>;

fn cluster(name: &str, found: &mut Names) {
    found.entry(ResourceKind::Cluster).or_default().insert(name.into());
}

fn of_host(host: &VirtualHost, found: &mut Names) {
    for route in &host.routes {
        let Some(route::Action::Route(to)) = &route.action else { continue };
        match &to.cluster_specifier {
            Some(route_action::ClusterSpecifier::Cluster(name)) => cluster(name, found),
            Some(route_action::ClusterSpecifier::WeightedClusters(several)) => {
                several.clusters.iter().for_each(|one| cluster(&one.name, found))
            }
            _ => {}
        }
    }
}

fn of_filter(filter: &NetworkFilter, found: &mut Names) {
    match filter {
        NetworkFilter::Tcp(proxy) => match &proxy.head.cluster_specifier {
            Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => cluster(name, found),
            Some(tcp_proxy::ClusterSpecifier::WeightedClusters(several)) => {
                several.clusters.iter().for_each(|one| cluster(&one.name, found))
            }
            None => {}
        },
        NetworkFilter::Http(manager) => {
            if let Some(RouteSpecifier::Rds(rds)) = &manager.head.route_specifier {
                found.entry(ResourceKind::Route).or_default().insert(rds.route_config_name.as_str().into());
            }
        }
        NetworkFilter::MetadataExchange(_)
        | NetworkFilter::Rbac(_)
        | NetworkFilter::ExtAuthz(_)
        | NetworkFilter::Stats(_)
        | NetworkFilter::SniForwardProxy(_) => {}
    }
}
