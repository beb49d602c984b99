//! Endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::config::endpoint::v3 as endpoint;
use mizzen_protos::wkt;
use mizzen_types::{Locality, Name};

use super::cx::{Cx, Res, harmless, name, number, refused, silent};
use super::{Resource, address, cluster_health, cluster_lb};
use crate::config::{Assignment, ContentHash, Criteria, Endpoint, Health, LocalityGroup, Priority, Workload};

/// The most priorities.
const PRIORITIES: u32 = 128;

pub(super) fn compile(cx: &mut Cx, bytes: &[u8], hash: ContentHash) -> Res<Resource> {
    let m: endpoint::ClusterLoadAssignment = cx.decode(bytes)?;
    cx.resource = name(&m.cluster_name);
    assignment(cx, m, hash, false).map(|a| Resource::Assignment(a.into()))
}

/// `names`: endpoints may have names to resolve.
pub(super) fn assignment(cx: &mut Cx, m: endpoint::ClusterLoadAssignment, hash: ContentHash, names: bool) -> Res<Assignment> {
    let endpoint::ClusterLoadAssignment { cluster_name, endpoints, named_endpoints, policy } = m;
    refused!(cx; named_endpoints);
    let policy = cx.some("policy", policy, |cx, p| {
        let endpoint::cluster_load_assignment::Policy {
            drop_overloads,
            overprovisioning_factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = p;
        refused!(cx; drop_overloads);
        harmless!(cx; endpoint_stale_after);
        Ok((number(overprovisioning_factor), weighted_priority_health))
    })?;
    let (overprovisioning, weighted_health) = policy.unwrap_or_default();
    let mut priorities: BTreeMap<u32, Vec<LocalityGroup>> = BTreeMap::new();
    for (priority, group) in cx.each("endpoints", endpoints, |cx, e| locality(cx, e, names))? {
        priorities.entry(priority).or_default().push(group);
    }
    // Priorities without endpoints count too: they are at zero health.
    let count = priorities.keys().next_back().map_or(0, |last| last + 1);
    let priorities = (0..count).map(|p| Priority { localities: priorities.remove(&p).unwrap_or_default().into() }).collect();
    Ok(Assignment { name: name(&cluster_name), hash, priorities, overprovisioning: overprovisioning.unwrap_or(140), weighted_health })
}

fn locality(cx: &mut Cx, m: endpoint::LocalityLbEndpoints, names: bool) -> Res<(u32, LocalityGroup)> {
    let endpoint::LocalityLbEndpoints { locality, metadata, lb_endpoints, load_balancing_weight, priority, proximity, lb_config } = m;
    refused!(cx; lb_config);
    silent!(metadata, proximity);
    if priority >= PRIORITIES {
        return cx.refuse("priority", format!("at most {}", PRIORITIES - 1));
    }
    let core::Locality { region, zone, sub_zone } = locality.unwrap_or_default();
    let endpoints = cx.each("lb_endpoints", lb_endpoints, |cx, e| one(cx, e, names).map(Arc::new))?;
    let group = LocalityGroup {
        locality: Locality { region, zone, subzone: sub_zone },
        weight: number(load_balancing_weight).unwrap_or(0),
        endpoints: endpoints.into(),
    };
    Ok((priority, group))
}

fn one(cx: &mut Cx, m: endpoint::LbEndpoint, names: bool) -> Res<Endpoint> {
    use endpoint::lb_endpoint::HostIdentifier as H;
    let endpoint::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = m;
    let endpoint = match host_identifier {
        Some(H::Endpoint(e)) => e,
        Some(H::EndpointName(_)) => return cx.refuse("endpoint_name", "not supported"),
        None => return cx.refuse("host_identifier", "it is required"),
    };
    let endpoint::Endpoint { address, health_check_config, hostname, additional_addresses, observability_name } = endpoint;
    silent!(observability_name);
    harmless!(cx; additional_addresses);
    let check = cx.some("endpoint.health_check_config", health_check_config, cluster_health::endpoint)?;
    let address = cx.must("endpoint.address", address, |cx, a| address::address(cx, a, names))?;
    let health = match cx.choice("health_status", health_status)? {
        core::HealthStatus::Unknown => Health::Unknown,
        core::HealthStatus::Healthy => Health::Healthy,
        core::HealthStatus::Degraded => Health::Degraded,
        core::HealthStatus::Unhealthy => Health::Unhealthy,
        core::HealthStatus::Timeout => Health::Timeout,
        core::HealthStatus::Draining => Health::Draining,
    };
    let (labels, workload, lb) = metadata.map(metadata_of).unwrap_or_default();
    Ok(Endpoint {
        address,
        hostname: name(&hostname),
        weight: number(load_balancing_weight).unwrap_or(1).max(1),
        health,
        check: check.map(Arc::new),
        labels: labels.into(),
        workload: workload.map(Arc::new),
        lb,
    })
}

fn metadata_of(mut m: core::Metadata) -> (Vec<(Name, Name)>, Option<Workload>, Option<Criteria>) {
    let labels = m.filter_metadata.remove("envoy.transport_socket_match").map(labels).unwrap_or_default();
    let workload = m.filter_metadata.remove("istio").and_then(|m| workload(m.fields));
    // Other metadata only concerns what asks for it by name.
    (labels, workload, cluster_lb::criteria(m))
}

/// Plain values as text, sorted.
pub(super) fn labels(m: wkt::Struct) -> Vec<(Name, Name)> {
    use wkt::value::Kind as K;
    let text = |v: wkt::Value| match v.kind {
        Some(K::StringValue(s)) => s,
        Some(K::BoolValue(b)) => b.to_string(),
        Some(K::NumberValue(n)) => n.to_string(),
        other => format!("{other:?}"),
    };
    let mut labels: Vec<_> = m.fields.into_iter().map(|(k, v)| (name(&k), name(&text(v)))).collect();
    labels.sort();
    labels
}

/// `workload;namespace;canonical name;canonical revision;cluster`.
fn workload(mut fields: HashMap<String, wkt::Value>) -> Option<Workload> {
    let Some(wkt::value::Kind::StringValue(text)) = fields.remove("workload")?.kind else { return None };
    let mut parts = text.split(';').map(name);
    let mut next = || parts.next().unwrap_or_default();
    Some(Workload { name: next(), namespace: next(), canonical_name: next(), canonical_revision: next(), cluster: next() })
}
