//! Endpoints.

use mizzen_api::istio::{ClientTls, EndpointAddress, Subset};
use mizzen_model::{Endpoint, ServiceView};
use mizzen_protos::{
    Any,
    envoy::envoy::config::{
        core::v3::Locality,
        endpoint::v3::{ClusterLoadAssignment, Endpoint as Address, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
    },
};
use mizzen_types::Name;
use prost::Message as _;

use crate::{
    authz, discovery, listener,
    locality::{self, Group},
    mtls, names,
    scope::Scope,
    traffic,
    wire::{self, Val},
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

/// The others: that of whom the workload's policies ask.
pub(crate) fn list_own(scope: &Scope<'_, '_>) -> Vec<Name> {
    let Some((asked, cluster)) = authz::own(scope) else { return Vec::new() };
    let policy = traffic::policy(scope, asked.service, asked.port.port, "");
    let subset = if discovery::has_all(scope, asked.service) { names::ALL } else { "" };
    discovery::is_eds(scope, asked.service, subset, &policy).then(|| Name::from(cluster)).into_iter().collect()
}

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Any> {
    let (port, subset, host) = names::parse_outbound(name)?;
    let service = authz::service_of(scope, &host, port)?;
    let rule = traffic::rule(scope, service);
    let part = match (&rule, subset) {
        (_, "") => None,
        (_, names::ALL) => discovery::has_all(scope, service).then_some(None)?,
        (rule, name) => Some(rule.as_ref()?.subsets.iter().find(|subset| subset.name == name)?),
    };
    let policy = rule.as_ref().map(|rule| traffic::of_rule(rule, port, part)).unwrap_or_default();
    discovery::is_eds(scope, service, subset, &policy)
        .then(|| Any { type_url: wire::type_url::<ClusterLoadAssignment>(), value: assignment(scope, name, service, port, part) })
}

/// A `ClusterLoadAssignment`: the ready endpoints by locality. None: an empty one, so that a call is answered at once.
pub(crate) fn assignment(scope: &Scope<'_, '_>, name: &str, service: &ServiceView, port: u16, subset: Option<&Subset>) -> Vec<u8> {
    let policy = traffic::policy(scope, service, port, subset.map_or("", |s| &s.name));
    let auto = policy.tls.is_none() && mtls::is_auto(scope, service);
    let chosen = |e: &&Endpoint| subset.is_none_or(|subset| subset.labels.iter().all(|(key, value)| e.labels.get(key) == Some(value)));
    let ready = scope.reader.endpoints(service).ready(port).filter(chosen);
    let mut out = ClusterLoadAssignment { cluster_name: name.into(), ..Default::default() }.encode_to_vec();
    for Group { locality, priority, weight, endpoints } in locality::groups(scope, service, &policy, ready) {
        let group = LocalityLbEndpoints {
            locality: Some(Locality { region: locality.region.clone(), zone: locality.zone.clone(), sub_zone: locality.subzone.clone() }),
            load_balancing_weight: Some(wire::u32_value(weight)),
            priority,
            ..Default::default()
        };
        let mut bytes = group.encode_to_vec();
        for endpoint in endpoints {
            let mtls = policy.tls != Some(ClientTls::Disable) && auto && mtls::is_taken(scope, endpoint);
            wire::field(&mut bytes, 2, &of(endpoint, mtls));
        }
        wire::field(&mut out, 2, &bytes);
    }
    out
}

fn of(endpoint: &Endpoint, mtls: bool) -> Vec<u8> {
    let address = match &endpoint.address {
        EndpointAddress::Ip(ip) => listener::address(ip, endpoint.port),
        EndpointAddress::Host(host) => listener::address(host, endpoint.port),
    };
    let message = LbEndpoint {
        load_balancing_weight: Some(wire::u32_value(endpoint.weight)),
        host_identifier: Some(HostIdentifier::Endpoint(Address { address: Some(address), ..Default::default() })),
        ..Default::default()
    };
    let workload = format!(
        "{};{};{};{};{}",
        endpoint.workload,
        endpoint.namespace,
        endpoint.canonical_name(),
        endpoint.canonical_revision(),
        mizzen_model::CLUSTER,
    );
    let mut spaces = Vec::new();
    if mtls {
        spaces.push(("envoy.transport_socket_match", Val::Obj(vec![("tlsMode", "istio".into())])));
    }
    spaces.push(("istio", Val::Obj(vec![("workload", Val::Str(workload))])));
    let mut out = message.encode_to_vec();
    wire::field(&mut out, 3, &wire::metadata(&spaces));
    out
}
