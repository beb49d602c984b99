//! The index: what a proxy that fetches on demand knows of the mesh beforehand, a few bytes a host. Also which resources come to it without a question,
//! and what those that it asks for bring along.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mizzen_api::istio::EndpointAddress;
use mizzen_model::{PortView, Registry, ServiceView};
use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            listener::v3::{Filter, Listener, filter::ConfigType},
            route::v3::{RouteConfiguration, VirtualHost, route, route_action},
        },
        extensions::filters::network::{
            http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
            tcp_proxy::v3::{TcpProxy, tcp_proxy},
        },
    },
    index::Host,
};
use mizzen_types::{Hostname, IpRange, Name, Protocol};
use prost::Message as _;

use crate::{ResourceKind, eds, listener::ANY, names, rds, scope::Scope, wire};

/// Listeners at any address that come without a question: of so many ports, the lowest. Calls out of the mesh mostly go to such, and must not wait.
const GIVEN: usize = 32;

/// The hosts that the proxy sees.
pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut hosts: BTreeSet<&Hostname> = scope.ports().into_iter().map(|(service, _)| &service.host).collect();
    // Hosts that rules alone name are called at port 80.
    hosts.extend(scope.reader.routed_hosts().filter(|host| scope.service(host).is_none() && rds::is_routed(scope, host, 80)));
    hosts.into_iter().map(|host| Name::from(host.as_str())).collect()
}

/// One host's entry.
pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Any> {
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
        let at_any = at_any(service, port);
        if port.protocol.is_http() || (port.protocol == Protocol::Auto && at_any) {
            entry.http.push(port.port.into());
        } else if at_any {
            entry.any.push(port.port.into());
        }
        if !port.protocol.is_http() && (service.headless || service.vips().next().is_some()) {
            entry.own.push(port.port.into());
        }
    }
    if !known {
        (scope.service(&host).is_none() && rds::is_routed(scope, &host, 80)).then(|| entry.http.push(80))?;
    }
    for ports in [&mut entry.http, &mut entry.own, &mut entry.any] {
        ports.sort_unstable();
        ports.dedup();
    }
    entry.addresses = addresses.into_iter().map(bytes).collect();
    Some(Any { type_url: ResourceKind::Index.type_url(), value: entry.encode_to_vec() })
}

/// Whether a service's port is served by the listener at any address.
fn at_any(service: &ServiceView, port: &PortView) -> bool {
    let ranges = service.addresses.len() > service.vips().count();
    port.protocol.is_http() || (!service.headless && (service.addresses.is_empty() || ranges))
}

/// A service's addresses, of a headless one those of its pods.
fn addresses_of(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<IpRange> {
    if !service.headless {
        return service.addresses.clone();
    }
    let endpoints = scope.reader.endpoints(service);
    let ready = endpoints.by_port.keys().flat_map(|port| endpoints.ready(*port));
    let ips = ready.filter_map(|endpoint| match endpoint.address {
        EndpointAddress::Ip(ip) => Some(ip),
        EndpointAddress::Host(_) => None,
    });
    ips.collect::<BTreeSet<IpAddr>>().into_iter().map(IpRange::from).collect()
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
        scope.ports().into_iter().filter(|(service, port)| at_any(service, port)).map(|(_, port)| port.port).collect();
    ports.into_iter().take(GIVEN).map(|port| names::listener(ANY, port).into()).collect()
}

/// What a resource names, and must be there before it.
pub(crate) fn brings(scope: &Scope<'_, '_>, kind: ResourceKind, name: &str, any: &Any) -> Vec<(ResourceKind, Name)> {
    let mut found: BTreeMap<ResourceKind, BTreeSet<Name>> = BTreeMap::new();
    let bytes = any.value.as_slice();
    // What was just encoded can be decoded.
    match kind {
        ResourceKind::VirtualHost => VirtualHost::decode(bytes).iter().for_each(|host| of_host(host, &mut found)),
        ResourceKind::Route => {
            RouteConfiguration::decode(bytes).iter().flat_map(|routes| &routes.virtual_hosts).for_each(|host| of_host(host, &mut found));
        }
        ResourceKind::Listener => {
            for listener in Listener::decode(bytes).iter() {
                let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
                chains.flat_map(|chain| &chain.filters).for_each(|filter| of_filter(filter, &mut found));
            }
        }
        ResourceKind::Cluster if eds::build(scope, name).is_some() => {
            found.entry(ResourceKind::Endpoints).or_default().insert(name.into());
        }

        ResourceKind::Cluster | ResourceKind::Endpoints | ResourceKind::NameTable | ResourceKind::NameEntry | ResourceKind::Index => {}
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

fn of_filter(filter: &Filter, found: &mut Names) {
    let Some(ConfigType::TypedConfig(config)) = &filter.config_type else { return };
    if config.type_url == wire::type_url::<TcpProxy>() {
        match TcpProxy::decode(config.value.as_slice()).ok().and_then(|proxy| proxy.cluster_specifier) {
            Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => cluster(&name, found),
            Some(tcp_proxy::ClusterSpecifier::WeightedClusters(several)) => {
                several.clusters.iter().for_each(|one| cluster(&one.name, found))
            }
            None => {}
        }
    } else if config.type_url == wire::type_url::<HttpConnectionManager>()
        && let Ok(HttpConnectionManager { route_specifier: Some(RouteSpecifier::Rds(rds)), .. }) =
            HttpConnectionManager::decode(config.value.as_slice())
    {
        found.entry(ResourceKind::Route).or_default().insert(rds.route_config_name.as_str().into());
    }
}
