//! The endpoints of a service: pods that it selects, what slices say, and what a ServiceEntry lists.

use std::{collections::HashMap, net::IpAddr};

use mizzen_api::{
    core::{self, TargetPort},
    istio::{self, EndpointAddress},
};

use super::*;

pub(super) fn endpoints_of(objects: &Objects, service: &ServiceView, derived: &Derived) -> Endpoints {
    let mut found = Endpoints::default();
    let slices = match service.registry {
        Registry::Kubernetes => derived.slices.get(&service.object),
        Registry::External => None,
    };
    let slices: Vec<&core::EndpointSlice> = slices
        .into_iter()
        .flat_map(|names| names.iter())
        .filter_map(|name| {
            core::EndpointSlice::of(objects.object(&Key::new(Kind::EndpointSlice, service.namespace().clone(), name.clone()))?)
        })
        .collect();
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
        let mut list = Vec::new();
        if !slices.is_empty() {
            list.extend(paired(service, slices.iter().flat_map(|slice| of_slice(slice, port, service, derived)).collect()));
            list.sort_by(|a: &Endpoint, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
            list.dedup_by(|a, b| (&a.address, a.port) == (&b.address, b.port));
        } else if let Some(selector) = &service.selector {
            let selected = derived.selected(service.namespace(), selector);
            list.extend(selected.filter_map(|pod| of_pod(pod, port, service.publish_not_ready)));
        } else if service.registry == Registry::External {
            let key = mizzen_api::Key::new(Kind::ServiceEntry, service.object.namespace.clone(), service.object.name.clone());
            let entry = objects.object(&key).and_then(istio::ServiceEntry::of);
            list.extend(entry.into_iter().flat_map(|entry| of_workload_entries(entry, service, port)));
        }
        found.by_port.insert(port.port, list);
    }
    found
}

fn of_pod(pod: &PodView, port: &PortView, publish_not_ready: bool) -> Option<Endpoint> {
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => *pod.named_ports.get(name)?,
    };
    Some(Endpoint { port: number, ready: pod.ready || publish_not_ready, ..endpoint_of_pod(pod) })
}

/// Without a port.
fn endpoint_of_pod(pod: &PodView) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Ip(pod.ip),
        second_ip: pod.second_ip,
        port: 0,
        ready: pod.ready,
        labels: pod.labels.clone(),
        namespace: pod.object.namespace.clone(),
        service_account: Some(pod.service_account.clone()),
        workload: pod.workload.clone(),
        tls: pod.tls,
        locality: locality_of(&pod.labels),
        weight: 1,
    }
}

/// A pod of two families stands in two slices: one endpoint of both, at the address of the service's first family.
fn paired(service: &ServiceView, found: Vec<(Option<&str>, Endpoint)>) -> Vec<Endpoint> {
    let is_v4 = |endpoint: &Endpoint| matches!(endpoint.address, EndpointAddress::Ip(IpAddr::V4(_)));
    let of_two = found.iter().any(|(_, endpoint)| is_v4(endpoint)) && found.iter().any(|(_, endpoint)| !is_v4(endpoint));
    if !of_two {
        return found.into_iter().map(|(_, endpoint)| endpoint).collect();
    }
    let v4_first = service.addresses.first().is_none_or(|range| range.address().is_ipv4());
    let (first, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, endpoint)| is_v4(endpoint) == v4_first);
    let mut by_pod: HashMap<&str, &Endpoint> = other.iter().filter_map(|(pod, endpoint)| Some(((*pod)?, endpoint))).collect();
    let mut all: Vec<Endpoint> = Vec::new();
    for (pod, endpoint) in first {
        let is_beside = |pod: &&str| by_pod.get(pod).is_some_and(|beside| beside.port == endpoint.port);
        let beside = pod.filter(is_beside).and_then(|pod| by_pod.remove(pod));
        // What leaves goes out of one slice after the other.
        let ready = endpoint.ready && beside.is_none_or(|beside| beside.ready);
        all.push(Endpoint { second_ip: beside.and_then(|beside| beside.ips().next()), ready, ..endpoint });
    }
    let is_alone = |pod: &Option<&str>| pod.is_none_or(|pod| by_pod.contains_key(pod));
    all.extend(other.iter().filter(|(pod, _)| is_alone(pod)).map(|(_, endpoint)| endpoint.clone()));
    all
}

/// The endpoints that a slice has of a service's port, with the names of the pods behind them. What Kubernetes says of a pod is late: whichever of both
/// says that it is not ready is right.
fn of_slice<'s>(
    slice: &'s core::EndpointSlice,
    port: &PortView,
    service: &ServiceView,
    derived: &Derived,
) -> Vec<(Option<&'s str>, Endpoint)> {
    let Some(number) = slice.ports.iter().find(|of| !of.udp && of.name == port.name).map(|of| of.port) else { return Vec::new() };
    let endpoint = |found: &'s core::SliceEndpoint| {
        let address = EndpointAddress::Ip(found.address);
        let ready = found.ready || service.publish_not_ready;
        let pod = found.pod.as_deref().and_then(|pod| {
            let name = NamespacedName { namespace: slice.meta.namespace.clone(), name: pod.into() };
            derived.pod_named(found.address, &name)
        });
        let endpoint = match pod {
            Some(pod) => {
                let ready = ready && (pod.ready || service.publish_not_ready);
                Endpoint { address, second_ip: None, port: number, ready, ..endpoint_of_pod(pod) }
            }
            None => Endpoint {
                address,
                second_ip: None,
                port: number,
                ready,
                labels: Labels::default(),
                namespace: service.namespace().clone(),
                service_account: None,
                workload: service.object.name.clone(),
                tls: false,
                locality: Locality { zone: found.zone.clone(), ..Locality::default() },
                weight: 1,
            },
        };
        (found.pod.as_deref(), endpoint)
    };
    slice.endpoints.iter().map(endpoint).collect()
}

fn of_workload_entries(entry: &istio::ServiceEntry, service: &ServiceView, port: &PortView) -> Vec<Endpoint> {
    let target = match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.port,
    };
    let endpoint = |address: EndpointAddress| Endpoint {
        address,
        second_ip: None,
        port: target,
        ready: true,
        labels: Labels::default(),
        namespace: entry.meta.namespace.clone(),
        service_account: None,
        workload: entry.meta.name.clone(),
        tls: false,
        locality: Locality::default(),
        weight: 1,
    };
    let by_dns = matches!(service.resolve, Resolve::Dns | Resolve::DnsRoundRobin);
    if entry.endpoints.is_empty() && by_dns && !service.host.is_wildcard() {
        return vec![endpoint(EndpointAddress::Host(service.host.clone()))];
    }
    let of = |workload: &istio::WorkloadEntry| Endpoint {
        port: workload.ports.get(&port.name).copied().unwrap_or(target),
        labels: workload.labels.clone(),
        service_account: workload.service_account.as_deref().map(Name::from),
        tls: workload.labels.label(TLS_MODE_LABEL) == Some("istio"),
        locality: if workload.locality == Locality::default() { locality_of(&workload.labels) } else { workload.locality.clone() },
        weight: workload.weight.max(1),
        ..endpoint(workload.address.clone())
    };
    entry.endpoints.iter().map(of).collect()
}
