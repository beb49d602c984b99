//! Services, endpoints and pods, from the objects that declare them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mizzen_api::{
    Kind, Object,
    core::{self, ClusterIp, PodPhase, TargetPort},
    istio::{self, EndpointAddress, ExportTo, Location, Resolution},
};
use mizzen_types::{Hostname, IpRange, Locality, Name, NamespacedName, Protocol};

use crate::{
    index::{Stamped, restamp, stamp_of},
    objects::{Objects, Typed, VIPS},
    query::Query,
    service::{Endpoint, Endpoints, Instance, PodView, PortView, Registry, Resolve, ServiceKey, ServiceView, TLS_MODE_LABEL, locality_of},
};

/// The domain of Kubernetes services.
pub(crate) const DOMAIN: &str = "cluster.local";

/// What follows from services, ServiceEntries, pods and allocated addresses.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    services: BTreeMap<ServiceKey, Stamped<ServiceView>>,
    endpoints: BTreeMap<ServiceKey, Stamped<Endpoints>>,
    ports: BTreeMap<u16, Vec<ServiceKey>>,
    pods: BTreeMap<IpAddr, Stamped<PodView>>,
    instances: BTreeMap<IpAddr, Stamped<Vec<Instance>>>,
}

impl Derived {
    pub(crate) fn build(objects: &Objects, old: &Derived) -> Derived {
        let version = objects.version;
        let pods = restamp(&old.pods, pods(objects), version);
        let services = restamp(&old.services, services(objects), version);
        let mut by_namespace: BTreeMap<Name, Vec<Arc<PodView>>> = BTreeMap::new();
        for pod in pods.values() {
            by_namespace.entry(pod.value.object.namespace.clone()).or_default().push(pod.value.clone());
        }
        let mut endpoints = BTreeMap::new();
        let mut instances: BTreeMap<IpAddr, Vec<Instance>> = BTreeMap::new();
        let mut ports: BTreeMap<u16, Vec<ServiceKey>> = BTreeMap::new();
        for (key, service) in &services {
            let service = &service.value;
            let found = endpoints_of(objects, service, by_namespace.get(service.namespace()).map_or(&[], Vec::as_slice));
            for port in &service.ports {
                let keys = ports.entry(port.port).or_default();
                if keys.last() != Some(key) {
                    keys.push(key.clone());
                }
                for endpoint in found.by_port.get(&port.port).into_iter().flatten() {
                    if let EndpointAddress::Ip(ip) = endpoint.address
                        && serves(&pods, ip, service)
                    {
                        let instance =
                            Instance { service: service.clone(), port: port.port, target: endpoint.port, protocol: port.protocol };
                        instances.entry(ip).or_default().push(instance);
                    }
                }
            }
            endpoints.insert(key.clone(), Arc::new(found));
        }
        let instances = instances.into_iter().map(|(ip, list)| (ip, Arc::new(list))).collect();
        Derived {
            pods,
            endpoints: restamp(&old.endpoints, endpoints, version),
            instances: restamp(&old.instances, instances, version),
            services,
            ports,
        }
    }

    pub(crate) fn stamp(&self, query: &Query) -> u64 {
        match query {
            Query::Services => stamp_of(self.services.values().map(|s| s.stamp)),
            Query::Service(host) => stamp_of(self.under_host(host).map(|s| s.stamp)),
            Query::Port(port) => stamp_of(self.at_port(*port).map(|s| s.stamp)),
            Query::Accounts(key) => stamp_of(self.accounts(key)),
            Query::Endpoints(key) => self.endpoints.get(key).map_or(0, |s| s.stamp),
            Query::Instances(ip) => self.instances.get(ip).map_or(0, |s| s.stamp),
            Query::Pod(ip) => self.pods.get(ip).map_or(0, |s| s.stamp),
            _ => 0,
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Stamped<ServiceView>> {
        self.services.values()
    }

    pub(crate) fn under_host(&self, host: &Hostname) -> impl Iterator<Item = &Stamped<ServiceView>> {
        let first = NamespacedName { namespace: Name::from(""), name: Name::from("") };
        let from = (host.clone(), Registry::Kubernetes, first);
        let host = host.clone();
        self.services.range(from..).take_while(move |((h, ..), _)| *h == host).map(|(_, stored)| stored)
    }

    pub(crate) fn at_port(&self, port: u16) -> impl Iterator<Item = &Stamped<ServiceView>> {
        self.ports.get(&port).into_iter().flatten().filter_map(|key| self.services.get(key))
    }

    pub(crate) fn endpoints(&self, key: &ServiceKey) -> Option<&Arc<Endpoints>> {
        self.endpoints.get(key).map(|s| &s.value)
    }

    /// The service accounts of all endpoints, ready or not: who is about to come may already be called.
    pub(crate) fn accounts(&self, key: &ServiceKey) -> BTreeSet<NamespacedName> {
        let all = self.endpoints(key).into_iter().flat_map(|found| found.by_port.values().flatten());
        all.filter_map(|endpoint| Some(NamespacedName { namespace: endpoint.namespace.clone(), name: endpoint.service_account.clone()? }))
            .collect()
    }

    pub(crate) fn instances(&self, ip: IpAddr) -> &[Instance] {
        self.instances.get(&ip).map_or(&[], |s| s.value.as_slice())
    }

    pub(crate) fn pod(&self, ip: IpAddr) -> Option<&Arc<PodView>> {
        self.pods.get(&ip).map(|s| &s.value)
    }
}

fn pods(objects: &Objects) -> BTreeMap<IpAddr, Arc<PodView>> {
    let live = |phase| matches!(phase, PodPhase::Running | PodPhase::Pending);
    typed::<core::Pod>(objects)
        .filter(|pod| live(pod.status.phase))
        .filter_map(|pod| {
            let ip = pod.status.pod_ip?.to_canonical();
            let named = pod.spec.containers.iter().flat_map(|c| &c.ports).filter(|p| !p.udp && !p.name.is_empty());
            let view = PodView {
                object: pod.meta.namespaced_name(),
                ip,
                ready: pod.status.ready && pod.status.phase == PodPhase::Running,
                service_account: pod.spec.service_account.as_str().into(),
                workload: workload_of(&pod.meta).into(),
                tls: pod.meta.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio"),
                named_ports: named.map(|p| (p.name.clone(), p.port)).collect(),
                labels: Arc::new(pod.meta.labels.clone()),
            };
            Some((ip, Arc::new(view)))
        })
        .collect()
}

/// The Deployment's name: by label, or the pod's name without the two parts that Kubernetes appends.
fn workload_of(meta: &mizzen_api::Meta) -> &str {
    if let Some(name) = meta.labels.get("service.istio.io/workload-name") {
        return name;
    }
    let Some(hash) = meta.labels.get("pod-template-hash") else { return &meta.name };
    meta.name.rsplit_once('-').and_then(|(rest, _)| rest.strip_suffix(hash.as_str())?.strip_suffix('-')).unwrap_or(&meta.name)
}

fn services(objects: &Objects) -> BTreeMap<ServiceKey, Arc<ServiceView>> {
    let default_export = &objects.mesh().default_service_export_to;
    let vips = Vips::read(objects);
    let entries = typed::<istio::ServiceEntry>(objects)
        .flat_map(|entry| entry.hosts.iter().map(move |host| (entry, host)))
        .map(|(entry, host)| of_entry(entry, host, default_export, &vips));
    let services = typed::<core::Service>(objects).filter_map(|service| of_service(service, default_export, &vips));
    services.chain(entries).map(|view| (view.key(), Arc::new(view))).collect()
}

/// Whether the pod at an address is one of a service's own: no entry says what a pod of another namespace serves.
fn serves(pods: &BTreeMap<IpAddr, Stamped<PodView>>, ip: IpAddr, service: &ServiceView) -> bool {
    pods.get(&ip).is_none_or(|pod| pod.value.object.namespace == *service.namespace())
}

/// Allocated addresses, by a service's host name or by `namespace/name` of its object.
struct Vips(BTreeMap<String, IpAddr>);

impl Vips {
    fn read(objects: &Objects) -> Vips {
        let key = mizzen_api::Key::new(Kind::ConfigMap, VIPS.0, VIPS.1);
        let Some(Object::ConfigMap(map)) = objects.object(&key) else { return Vips(BTreeMap::new()) };
        Vips(map.data.iter().filter_map(|(name, ip)| Some((name.clone(), ip.parse().ok()?))).collect())
    }

    fn of(&self, host: &Hostname, object: &NamespacedName) -> Option<IpAddr> {
        self.0.get(host.as_str()).or_else(|| self.0.get(&object.to_string())).copied()
    }
}

fn of_service(service: &core::Service, default_export: &[ExportTo], vips: &Vips) -> Option<ServiceView> {
    let meta = &service.meta;
    let host: Hostname = format!("{}.{}.svc.{DOMAIN}", meta.name, meta.namespace).parse().ok()?;
    let address = match service.cluster_ip {
        ClusterIp::Address(ip) => Some(ip),
        ClusterIp::Auto => vips.of(&host, &meta.namespaced_name()),
        ClusterIp::Headless => None,
    };
    let ports = service.ports.iter().map(|port| PortView {
        name: port.name.clone(),
        port: port.port,
        target: port.target_port.clone(),
        protocol: port.protocol,
    });
    Some(ServiceView {
        host,
        object: meta.namespaced_name(),
        registry: Registry::Kubernetes,
        created: meta.created,
        addresses: address.map(IpRange::from).into_iter().collect(),
        headless: service.cluster_ip == ClusterIp::Headless,
        ports: ports.collect(),
        resolve: if service.cluster_ip == ClusterIp::Headless { Resolve::OriginalDestination } else { Resolve::Endpoints },
        external: false,
        export_to: or_default(&service.export_to, default_export),
        selector: (!service.selector.is_empty()).then(|| mizzen_api::Selector { labels: service.selector.clone() }),
        publish_not_ready: service.publish_not_ready_addresses,
        distribution: service.distribution,
    })
}

fn of_entry(entry: &istio::ServiceEntry, host: &Hostname, default_export: &[ExportTo], vips: &Vips) -> ServiceView {
    let mut addresses = entry.addresses.clone();
    if addresses.is_empty() && !host.is_wildcard() {
        addresses.extend(vips.of(host, &entry.meta.namespaced_name()).map(IpRange::from));
    }
    let ports = entry.ports.iter().map(|port| PortView {
        name: port.name.clone(),
        port: port.number,
        target: TargetPort::Number(port.target_port),
        protocol: port.protocol,
    });
    ServiceView {
        host: host.clone(),
        object: entry.meta.namespaced_name(),
        registry: Registry::External,
        created: entry.meta.created,
        addresses,
        headless: false,
        ports: ports.collect(),
        resolve: match entry.resolution {
            Resolution::None => Resolve::OriginalDestination,
            Resolution::Static => Resolve::Endpoints,
            Resolution::Dns => Resolve::Dns,
            Resolution::DnsRoundRobin => Resolve::DnsRoundRobin,
        },
        external: entry.location == Location::MeshExternal,
        export_to: or_default(&entry.export_to, default_export),
        selector: entry.workload_selector.clone(),
        publish_not_ready: false,
        distribution: entry.distribution,
    }
}

pub(crate) fn or_default(own: &[ExportTo], default: &[ExportTo]) -> Vec<ExportTo> {
    if own.is_empty() { default.to_vec() } else { own.to_vec() }
}

fn endpoints_of(objects: &Objects, service: &ServiceView, pods: &[Arc<PodView>]) -> Endpoints {
    let mut found = Endpoints::default();
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
        let mut list = Vec::new();
        if let Some(selector) = &service.selector {
            let selected = pods.iter().filter(|pod| selector.matches(&pod.labels));
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
    Some(Endpoint {
        address: EndpointAddress::Ip(pod.ip),
        port: number,
        ready: pod.ready || publish_not_ready,
        labels: pod.labels.clone(),
        namespace: pod.object.namespace.clone(),
        service_account: Some(pod.service_account.clone()),
        workload: pod.workload.clone(),
        tls: pod.tls,
        locality: locality_of(&pod.labels),
        weight: 1,
    })
}

fn of_workload_entries(entry: &istio::ServiceEntry, service: &ServiceView, port: &PortView) -> Vec<Endpoint> {
    let target = match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.port,
    };
    let endpoint = |address: EndpointAddress| Endpoint {
        address,
        port: target,
        ready: true,
        labels: Arc::default(),
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
        labels: Arc::new(workload.labels.clone()),
        service_account: workload.service_account.as_deref().map(Name::from),
        tls: workload.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio"),
        locality: if workload.locality == Locality::default() { locality_of(&workload.labels) } else { workload.locality.clone() },
        weight: workload.weight.max(1),
        ..endpoint(workload.address.clone())
    };
    entry.endpoints.iter().map(of).collect()
}

fn typed<T: Typed + 'static>(objects: &Objects) -> impl Iterator<Item = &T> {
    objects.of_kind(T::KIND).filter_map(|stored| T::of(&stored.value))
}
