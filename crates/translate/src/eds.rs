//! Endpoints.

use mizzen_api::istio::{EndpointAddress, Subset};
use mizzen_model::{Endpoint, ServiceView};
use mizzen_protos::envoy::envoy::config::{
    core::v3::Locality,
    endpoint::v3::{ClusterLoadAssignment, Endpoint as Address, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
};
use mizzen_types::Name;

use crate::{
    authz, discovery, gateway_tcp, listener,
    locality::{self, Group},
    mtls, names,
    scope::Scope,
    traffic, wire,
};

/// The assignments of all clusters that ask for one.
pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found = list_mesh(scope);
    let own = list_own(scope).into_iter().filter(|name| !found.contains(name)).collect::<Vec<_>>();
    found.extend(own);
    found
}

/// Those of [`list`] that have nothing to do with the proxy's own workload.
pub(crate) fn list_mesh(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found = Vec::new();
    for (service, port) in scope.cluster_ports() {
        let rule = traffic::rule(scope, service);
        let subsets = rule.iter().flat_map(|rule| rule.subsets.iter().map(|subset| (subset.name.as_str(), Some(subset))));
        for (name, subset) in [("", None), (names::ALL, None)].into_iter().chain(subsets) {
            let policy = rule.as_ref().map(|rule| traffic::of_rule(rule, port.port, subset)).unwrap_or_default();
            if (name != names::ALL || discovery::has_all(scope, service)) && discovery::is_eds(scope, service, name, &policy) {
                found.push(names::outbound(port.port, name, &service.host).into());
            }
        }
    }
    found
}

/// The others: that of whom the workload's policies ask, and those to which a gateway passes mutual TLS on.
pub(crate) fn list_own(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found = Vec::new();
    if let Some((asked, cluster)) = authz::own(scope) {
        let policy = traffic::policy(scope, asked.service, asked.port.port, "");
        let subset = if discovery::has_all(scope, asked.service) { names::ALL } else { "" };
        found.extend(discovery::is_eds(scope, asked.service, subset, &policy).then(|| Name::from(cluster)));
    }
    for (service, port, subset) in gateway_tcp::clusters(scope) {
        let policy = traffic::policy(scope, service, port, &subset);
        if discovery::is_eds(scope, service, &subset, &policy) {
            found.push(names::sni(port, &subset, &service.host).into());
        }
    }
    found
}

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<ClusterLoadAssignment> {
    let (port, subset, host) = names::parse_outbound(name).or_else(|| names::parse_sni(name))?;
    let service = match is_passed(name) {
        true => gateway_tcp::passed_to(scope, &host, port)?,
        false => authz::service_of(scope, &host, port)?,
    };
    let rule = traffic::rule(scope, service);
    let part = match (&rule, subset) {
        (_, "") => None,
        (_, names::ALL) => discovery::has_all(scope, service).then_some(None)?,
        (rule, name) => Some(rule.as_ref()?.subsets.iter().find(|subset| subset.name == name)?),
    };
    let policy = rule.as_ref().map(|rule| traffic::of_rule(rule, port, part)).unwrap_or_default();
    discovery::is_eds(scope, service, subset, &policy).then(|| assignment(scope, name, service, port, part))
}

/// Whether the name is that of a cluster to which a gateway passes mutual TLS on as it came.
fn is_passed(name: &str) -> bool {
    names::parse_sni(name).is_some()
}

/// The ready endpoints by locality. None: an empty assignment, so that a call is answered at once.
pub(crate) fn assignment(
    scope: &Scope<'_, '_>,
    name: &str,
    service: &ServiceView,
    port: u16,
    subset: Option<&Subset>,
) -> ClusterLoadAssignment {
    let policy = traffic::policy(scope, service, port, subset.map_or("", |s| &s.name));
    let passed = is_passed(name);
    let auto = !passed && policy.tls.is_none() && mtls::is_auto(scope, service);
    let chosen = |e: &&Endpoint| {
        subset.is_none_or(|subset| subset.labels.is_within(&e.labels))
            && locality::is_reached(scope, service, e)
            // What is passed on is taken for mutual TLS without being looked at: it goes nowhere else.
            && (!passed || mtls::is_taken(scope, e))
    };
    let ready = scope.reader.endpoints(service).ready(port).filter(chosen);
    let of = |endpoint: &Endpoint| {
        let mtls = auto && mtls::is_taken(scope, endpoint);
        of(scope, endpoint, mtls)
    };
    let group = |Group { locality, priority, weight, endpoints }: Group<'_>| LocalityLbEndpoints {
        locality: Some(Locality { region: locality.region.clone(), zone: locality.zone.clone(), sub_zone: locality.subzone.clone() }),
        load_balancing_weight: Some(wire::u32_value(weight)),
        priority,
        lb_endpoints: endpoints.into_iter().map(of).collect(),
        ..Default::default()
    };
    let endpoints = locality::groups(scope, service, &policy, ready).into_iter().map(group).collect();
    ClusterLoadAssignment { cluster_name: name.into(), endpoints, ..Default::default() }
}

fn of(scope: &Scope<'_, '_>, endpoint: &Endpoint, mtls: bool) -> LbEndpoint {
    let address = match &endpoint.address {
        // Of a pod's two addresses the first that the proxy can reach: a pod is one endpoint.
        EndpointAddress::Ip(ip) => {
            let chosen = endpoint.second_ip.map(|_| scope.reachable(endpoint.ips().collect())).and_then(|all| all.first().copied());
            listener::address(chosen.unwrap_or(*ip), endpoint.port)
        }
        EndpointAddress::Host(host) => listener::address(host, endpoint.port),
    };
    let workload = format!(
        "{};{};{};{};{}",
        endpoint.workload,
        endpoint.namespace,
        endpoint.canonical_name(),
        endpoint.canonical_revision(),
        mizzen_model::CLUSTER,
    );
    let own = [("istio", wire::object([("workload", wire::text(workload))]))];
    let chosen = mtls.then(|| ("envoy.transport_socket_match", wire::object([("tlsMode", wire::text("istio"))])));
    LbEndpoint {
        load_balancing_weight: Some(wire::u32_value(endpoint.weight)),
        metadata: Some(wire::metadata(own.into_iter().chain(chosen))),
        host_identifier: Some(HostIdentifier::Endpoint(Address { address: Some(address), ..Default::default() })),
        ..Default::default()
    }
}
