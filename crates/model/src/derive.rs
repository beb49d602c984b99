//! Services, endpoints and pods, from the objects that declare them.

mod endpoints;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mizzen_api::{
    Key, Kind, LabelSet, Labels, Meta, Object, Selector,
    core::{self, ClusterIp, PodPhase, TargetPort},
    istio::{self, ExportTo, Location, Resolution},
};
use mizzen_types::{Hostname, IpRange, Locality, Name, NamespacedName, Protocol};
use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};

use self::endpoints::endpoints_of;
use crate::{
    changes::ChangeSet,
    index::{Stamped, restamp, stamp_of},
    objects::{Objects, Typed, VIPS},
    query::Query,
    service::{
        AliasView, Endpoint, Endpoints, Instance, PodView, PortView, Registry, Resolve, ServiceKey, ServiceView, TLS_MODE_LABEL,
        locality_of,
    },
};

/// The domain of Kubernetes services.
pub(crate) const DOMAIN: &str = "cluster.local";

/// Keys of services that have something in common, and the version that last changed one of them.
#[derive(Clone, Debug, Default)]
struct Keys {
    stamp: u64,
    keys: Set<ServiceKey>,
}

/// A label of a namespace's pods; an empty one stands for all pods.
type Label = (Name, Box<str>, Box<str>);

/// What follows from services, ServiceEntries, pods and allocated addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Derived {
    vips: Arc<Vips>,
    services: Map<ServiceKey, Stamped<ServiceView>>,
    /// The version that last changed any service.
    services_stamp: u64,
    aliases: Map<Hostname, Stamped<AliasView>>,
    /// The version that last changed any alias.
    aliases_stamp: u64,
    endpoints: Map<ServiceKey, Stamped<Endpoints>>,
    /// The service accounts of all endpoints, ready or not: who is about to come may already be called.
    accounts: Map<ServiceKey, Stamped<BTreeSet<NamespacedName>>>,
    namespaces: Map<Name, Keys>,
    ports: Map<u16, Keys>,
    /// Services with a selector, by one label that it names.
    selecting: Map<Label, Set<ServiceKey>>,
    /// Services with an endpoint at an address.
    serving: Map<IpAddr, Set<ServiceKey>>,
    /// All pods at an address: of several the last one counts.
    pods_at: Map<IpAddr, Map<NamespacedName, Arc<PodView>>>,
    pods: Map<IpAddr, Stamped<PodView>>,
    labelled: Map<Label, Set<IpAddr>>,
    /// Names of the slices that have endpoints of a Kubernetes service.
    slices: Map<NamespacedName, Set<Name>>,
    /// Services whose slices name a pod, each with the slice.
    behind: Map<NamespacedName, Set<(ServiceKey, Name)>>,
    instances: Map<IpAddr, Stamped<Vec<Instance>>>,
}

/// One step from a snapshot's derived things to the next one's.
struct Update<'u> {
    next: Derived,
    objects: &'u Objects,
    changes: &'u mut ChangeSet,
    /// Services whose endpoints may differ.
    services: BTreeSet<ServiceKey>,
    /// Addresses whose instances may differ.
    addresses: BTreeSet<IpAddr>,
}

impl Derived {
    /// The next state: what touched objects lead to is made anew, all else is shared.
    pub(crate) fn update(&self, old: &Objects, new: &Objects, touched: &[Key], changes: &mut ChangeSet) -> Derived {
        let mut update = Update { next: self.clone(), objects: new, changes, services: BTreeSet::new(), addresses: BTreeSet::new() };
        for key in touched.iter().filter(|key| key.kind == Kind::Pod) {
            update.pod(old.object(key), new.object(key));
        }
        for key in touched.iter().filter(|key| key.kind == Kind::EndpointSlice) {
            update.slice(old.object(key), new.object(key));
        }
        let vips = Vips::read(new);
        let everything = vips != *self.vips || old.mesh().default_service_export_to != new.mesh().default_service_export_to;
        update.next.vips = Arc::new(vips);
        if everything {
            let kinds = [Kind::Service, Kind::ServiceEntry];
            let all: BTreeSet<Key> = kinds.iter().flat_map(|kind| new.of_kind(*kind)).map(|stored| stored.value.key()).collect();
            let gone = touched.iter().filter(|key| kinds.contains(&key.kind) && !all.contains(key));
            gone.chain(&all).for_each(|key| update.service(old.object(key), new.object(key)));
        } else {
            let services = touched.iter().filter(|key| matches!(key.kind, Kind::Service | Kind::ServiceEntry));
            services.for_each(|key| update.service(old.object(key), new.object(key)));
        }
        for key in std::mem::take(&mut update.services) {
            update.endpoints(&key);
        }
        for ip in std::mem::take(&mut update.addresses) {
            update.instances(ip);
        }
        update.next
    }

    pub(crate) fn stamp(&self, query: &Query) -> u64 {
        match query {
            Query::Services => self.services_stamp,
            Query::ServicesOf(namespace) => self.namespaces.get(namespace).map_or(0, |keys| keys.stamp),
            Query::ServiceView(key) => self.services.get(key).map_or(0, |s| s.stamp),
            Query::Service(host) => stamp_of(self.under_host(host).map(|s| s.stamp)),
            Query::Alias(host) => self.aliases.get(host).map_or(0, |alias| alias.stamp),
            Query::Aliases => self.aliases_stamp,
            Query::Port(port) => self.ports.get(port).map_or(0, |keys| keys.stamp),
            Query::Accounts(key) => self.accounts.get(key).map_or(0, |s| s.stamp),
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

    pub(crate) fn of_namespace<'d>(&'d self, namespace: &str) -> impl Iterator<Item = &'d Stamped<ServiceView>> + use<'d> {
        self.namespaces.get(namespace).into_iter().flat_map(|keys| keys.keys.iter()).filter_map(|key| self.services.get(key))
    }

    pub(crate) fn at_port(&self, port: u16) -> impl Iterator<Item = &Stamped<ServiceView>> {
        self.ports.get(&port).into_iter().flat_map(|keys| keys.keys.iter()).filter_map(|key| self.services.get(key))
    }

    pub(crate) fn alias(&self, host: &Hostname) -> Option<&Stamped<AliasView>> {
        self.aliases.get(host)
    }

    pub(crate) fn aliases(&self) -> impl Iterator<Item = &Stamped<AliasView>> {
        self.aliases.values()
    }

    pub(crate) fn endpoints(&self, key: &ServiceKey) -> Option<&Arc<Endpoints>> {
        self.endpoints.get(key).map(|s| &s.value)
    }

    pub(crate) fn accounts(&self, key: &ServiceKey) -> Option<&Arc<BTreeSet<NamespacedName>>> {
        self.accounts.get(key).map(|s| &s.value)
    }

    pub(crate) fn instances(&self, ip: IpAddr) -> &[Instance] {
        self.instances.get(&ip).map_or(&[], |s| s.value.as_slice())
    }

    pub(crate) fn pod(&self, ip: IpAddr) -> Option<&Arc<PodView>> {
        self.pods.get(&ip).map(|s| &s.value)
    }

    /// A pod by its address and name: several may have a node's address.
    fn pod_named(&self, ip: IpAddr, name: &NamespacedName) -> Option<&Arc<PodView>> {
        self.pods_at.get(&ip)?.get(name)
    }

    /// The pods of a namespace that a selector means, by address.
    fn selected(&self, namespace: &Name, selector: &Selector) -> impl Iterator<Item = &PodView> {
        let addresses = self.labelled.get(&label_of(namespace, selector));
        let pods = addresses.into_iter().flat_map(|addresses| addresses.iter()).filter_map(|ip| self.pod(*ip));
        pods.filter(|pod| selector.matches(&pod.labels)).map(|pod| &**pod)
    }
}

impl Update<'_> {
    fn version(&self) -> u64 {
        self.objects.version
    }

    fn pod(&mut self, was: Option<&Object>, is: Option<&Object>) {
        let view = |object: Option<&Object>| object.and_then(core::Pod::of).and_then(pod_view);
        let mut addresses = BTreeSet::new();
        for object in was.iter().chain(&is) {
            let name = object.meta().namespaced_name();
            let behind = self.next.behind.get(&name).into_iter().flat_map(|slices| slices.iter());
            self.services.extend(behind.map(|(service, _)| service.clone()));
        }
        if let Some(was) = view(was) {
            for ip in was.ips() {
                let mut here = self.next.pods_at.get(&ip).cloned().unwrap_or_default();
                here.remove_mut(&was.object);
                self.next.pods_at.remove_mut(&ip);
                if !here.is_empty() {
                    self.next.pods_at.insert_mut(ip, here);
                }
                addresses.insert(ip);
            }
        }
        if let Some(is) = view(is) {
            let is = Arc::new(is);
            for ip in is.ips() {
                let mut here = self.next.pods_at.get(&ip).cloned().unwrap_or_default();
                here.insert_mut(is.object.clone(), is.clone());
                self.next.pods_at.insert_mut(ip, here);
                addresses.insert(ip);
            }
        }
        addresses.into_iter().for_each(|ip| self.address(ip));
    }

    /// Chooses the pod that counts at an address anew.
    fn address(&mut self, ip: IpAddr) {
        let is = self.next.pods_at.get(&ip).and_then(|here| here.last()).map(|(_, pod)| pod.clone());
        let was = self.next.pod(ip).cloned();
        if was == is {
            return;
        }
        // One with two addresses is found by its labels at the first.
        for pod in was.iter().filter(|pod| pod.ip == ip) {
            for label in labels_of(pod) {
                member(&mut self.next.labelled, &label, &ip, false);
            }
        }
        for pod in is.iter().filter(|pod| pod.ip == ip) {
            for label in labels_of(pod) {
                member(&mut self.next.labelled, &label, &ip, true);
            }
        }
        for pod in was.iter().chain(&is) {
            let keys: Vec<ServiceKey> =
                labels_of(pod).filter_map(|label| self.next.selecting.get(&label)).flat_map(|keys| keys.iter().cloned()).collect();
            self.services.extend(keys);
        }
        match is {
            Some(pod) => self.next.pods.insert_mut(ip, Stamped { stamp: self.version(), value: pod }),
            None => {
                self.next.pods.remove_mut(&ip);
            }
        }
        self.changes.insert(Query::Pod(ip));
        // Entries may serve at an address, or not, by whose it is.
        self.addresses.insert(ip);
    }

    /// A slice of a service's endpoints, before and now.
    fn slice(&mut self, was: Option<&Object>, is: Option<&Object>) {
        for (object, there) in was.iter().map(|object| (object, false)).chain(is.iter().map(|object| (object, true))) {
            let Some(slice) = core::EndpointSlice::of(object) else { continue };
            let Some(service) = slice.service() else { continue };
            let service = NamespacedName { namespace: slice.meta.namespace.clone(), name: service.into() };
            let Some(key) = kubernetes_key(&service) else { continue };
            member(&mut self.next.slices, &service, &slice.meta.name, there);
            for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_deref()) {
                let pod = NamespacedName { namespace: slice.meta.namespace.clone(), name: pod.into() };
                member(&mut self.next.behind, &pod, &(key.clone(), slice.meta.name.clone()), there);
            }
            self.services.insert(key);
        }
    }

    /// The services of one object, before and now.
    fn service(&mut self, was: Option<&Object>, is: Option<&Object>) {
        let now = is.map(|object| views(object, self.objects, &self.next.vips)).unwrap_or_default();
        let before = was.map(keys).unwrap_or_default();
        for key in before.iter().filter(|key| !now.contains_key(*key)) {
            self.view(key, None);
        }
        for (key, view) in now {
            self.view(&key, Some(view));
        }
        self.alias(was, is);
    }

    fn alias(&mut self, was: Option<&Object>, is: Option<&Object>) {
        let default_export = &self.objects.mesh().default_service_export_to;
        let alias = |object: Option<&Object>| object.and_then(core::Service::of).and_then(|service| alias_of(service, default_export));
        let (was, is, version) = (alias(was), alias(is), self.objects.version);
        let Some(host) = was.as_ref().or(is.as_ref()).map(|alias| alias.host.clone()) else { return };
        if restamp(&mut self.next.aliases, &host, is, version) {
            self.next.aliases_stamp = version;
            self.changes.insert(Query::Alias(host));
            self.changes.insert(Query::Aliases);
        }
    }

    fn view(&mut self, key: &ServiceKey, new: Option<ServiceView>) {
        self.services.insert(key.clone());
        let version = self.version();
        let before = self.next.services.get(key).map(|stored| stored.value.clone());
        if !restamp(&mut self.next.services, key, new, version) {
            return;
        }
        let after = self.next.services.get(key).map(|stored| stored.value.clone());
        for (service, there) in before.iter().map(|s| (s, false)).chain(after.iter().map(|s| (s, true))) {
            keep(&mut self.next.namespaces, service.namespace(), key, there, version);
            for port in &service.ports {
                keep(&mut self.next.ports, &port.port, key, there, version);
                self.changes.insert(Query::Port(port.port));
            }
            if let Some(selector) = &service.selector {
                member(&mut self.next.selecting, &label_of(service.namespace(), selector), key, there);
            }
            self.changes.insert(Query::ServicesOf(service.namespace().clone()));
        }
        self.next.services_stamp = version;
        let (host, ..) = key;
        for query in [Query::Services, Query::ServiceView(key.clone()), Query::Service(host.clone())] {
            self.changes.insert(query);
        }
        // What serves it holds its view.
        let addresses = self.next.endpoints(key).map(|endpoints| addresses(endpoints)).unwrap_or_default();
        self.addresses.extend(addresses);
    }

    fn endpoints(&mut self, key: &ServiceKey) {
        let version = self.version();
        let service = self.next.services.get(key).map(|stored| stored.value.clone());
        let found = service.map(|service| endpoints_of(self.objects, &service, &self.next));
        let before = self.next.endpoints(key).map(|old| addresses(old)).unwrap_or_default();
        let accounts = found.as_ref().map(accounts);
        if !restamp(&mut self.next.endpoints, key, found, version) {
            return;
        }
        self.changes.insert(Query::Endpoints(key.clone()));
        if restamp(&mut self.next.accounts, key, accounts, version) {
            self.changes.insert(Query::Accounts(key.clone()));
        }
        let after = self.next.endpoints(key).map(|new| addresses(new)).unwrap_or_default();
        before.difference(&after).for_each(|ip| member(&mut self.next.serving, ip, key, false));
        after.difference(&before).for_each(|ip| member(&mut self.next.serving, ip, key, true));
        self.addresses.extend(before);
        self.addresses.extend(after);
    }

    fn instances(&mut self, ip: IpAddr) {
        let mut found = Vec::new();
        for key in self.next.serving.get(&ip).into_iter().flat_map(|keys| keys.iter()) {
            let (Some(service), Some(endpoints)) = (self.next.services.get(key), self.next.endpoints(key)) else { continue };
            let service = &service.value;
            // No entry says what a pod of another namespace serves.
            if self.next.pod(ip).is_some_and(|pod| pod.object.namespace != *service.namespace()) {
                continue;
            }
            for port in &service.ports {
                let here = endpoints.by_port.get(&port.port).into_iter().flatten().filter(|e| e.ips().any(|own| own == ip));
                found.extend(here.map(|endpoint| Instance {
                    service: service.clone(),
                    port: port.port,
                    target: endpoint.port,
                    protocol: port.protocol,
                }));
            }
        }
        let version = self.version();
        if restamp(&mut self.next.instances, &ip, (!found.is_empty()).then_some(found), version) {
            self.changes.insert(Query::Instances(ip));
        }
    }
}

/// Puts a member into a set of a map, or takes it out.
fn member<K: Ord + Clone, M: Ord + Clone>(map: &mut Map<K, Set<M>>, key: &K, member: &M, there: bool) {
    let mut set = map.get(key).cloned().unwrap_or_default();
    map.remove_mut(key);
    if there {
        set.insert_mut(member.clone());
    } else {
        set.remove_mut(member);
    }
    if !set.is_empty() {
        map.insert_mut(key.clone(), set);
    }
}

/// The same for keys that have a stamp.
fn keep<K: Ord + Clone>(map: &mut Map<K, Keys>, key: &K, member: &ServiceKey, there: bool, version: u64) {
    let mut keys = map.get(key).cloned().unwrap_or_default();
    map.remove_mut(key);
    if there {
        keys.keys.insert_mut(member.clone());
    } else {
        keys.keys.remove_mut(member);
    }
    if !keys.keys.is_empty() {
        map.insert_mut(key.clone(), Keys { stamp: version, ..keys });
    }
}

fn labels_of(pod: &PodView) -> impl Iterator<Item = Label> {
    let namespace = pod.object.namespace.clone();
    let of = move |(key, value): (&str, &str)| (namespace.clone(), Box::from(key), Box::from(value));
    std::iter::once(("", "")).chain(pod.labels.iter()).map(of)
}

fn label_of(namespace: &Name, selector: &Selector) -> Label {
    let first = selector.labels.iter().next();
    let (key, value) = first.map_or(("", ""), |(key, value)| (key.as_str(), value.as_str()));
    (namespace.clone(), Box::from(key), Box::from(value))
}

fn addresses(endpoints: &Endpoints) -> BTreeSet<IpAddr> {
    endpoints.by_port.values().flatten().flat_map(Endpoint::ips).collect()
}

fn accounts(endpoints: &Endpoints) -> BTreeSet<NamespacedName> {
    let all = endpoints.by_port.values().flatten();
    all.filter_map(|endpoint| Some(NamespacedName { namespace: endpoint.namespace.clone(), name: endpoint.service_account.clone()? }))
        .collect()
}

fn pod_view(pod: &core::Pod) -> Option<PodView> {
    if !matches!(pod.status.phase, PodPhase::Running | PodPhase::Pending) {
        return None;
    }
    let named = pod.spec.containers.iter().flat_map(|c| &c.ports).filter(|p| !p.udp && !p.name.is_empty());
    Some(PodView {
        object: pod.meta.namespaced_name(),
        ip: pod.status.pod_ip?.to_canonical(),
        second_ip: pod.status.second_ip,
        ready: pod.status.ready && pod.status.phase == PodPhase::Running,
        service_account: pod.spec.service_account.as_str().into(),
        workload: pod
            .controller
            .as_deref()
            .filter(|_| !pod.meta.labels.contains_key(WORKLOAD_LABEL))
            .unwrap_or(workload_of(&pod.meta))
            .into(),
        tls: pod.meta.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio"),
        named_ports: named.map(|p| (p.name.clone(), p.port)).collect(),
        labels: pod.meta.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
    })
}

/// Istio's label with a workload's name.
const WORKLOAD_LABEL: &str = "service.istio.io/workload-name";

/// The Deployment's name: by label, or the pod's name without the two parts that Kubernetes appends.
fn workload_of(meta: &Meta) -> &str {
    if let Some(name) = meta.labels.get(WORKLOAD_LABEL) {
        return name;
    }
    let Some(hash) = meta.labels.get("pod-template-hash") else { return &meta.name };
    meta.name.rsplit_once('-').and_then(|(rest, _)| rest.strip_suffix(hash.as_str())?.strip_suffix('-')).unwrap_or(&meta.name)
}

/// The services that an object declares.
fn views(object: &Object, objects: &Objects, vips: &Vips) -> BTreeMap<ServiceKey, ServiceView> {
    let default_export = &objects.mesh().default_service_export_to;
    let found: Vec<ServiceView> = match object {
        Object::Service(service) => of_service(service, default_export, vips).into_iter().collect(),
        Object::ServiceEntry(entry) => entry.hosts.iter().map(|host| of_entry(entry, host, default_export, vips)).collect(),
        _ => Vec::new(),
    };
    found.into_iter().map(|view| (view.key(), view)).collect()
}

/// What tells them from others.
fn keys(object: &Object) -> Vec<ServiceKey> {
    match object {
        Object::Service(service) => kubernetes_key(&service.meta.namespaced_name()).into_iter().collect(),
        Object::ServiceEntry(entry) => {
            entry.hosts.iter().map(|host| (host.clone(), Registry::External, entry.meta.namespaced_name())).collect()
        }
        _ => Vec::new(),
    }
}

/// Allocated addresses, by a service's host name or by `namespace/name` of its object.
#[derive(Debug, Default, PartialEq)]
struct Vips(BTreeMap<String, Vec<IpAddr>>);

impl Vips {
    fn read(objects: &Objects) -> Vips {
        let key = mizzen_api::Key::new(Kind::ConfigMap, VIPS.0, VIPS.1);
        let Some(Object::ConfigMap(map)) = objects.object(&key) else { return Vips(BTreeMap::new()) };
        let all = |text: &str| text.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
        Vips(map.data.iter().map(|(name, text)| (name.clone(), all(text))).collect())
    }

    fn of(&self, host: &Hostname, object: &NamespacedName) -> impl Iterator<Item = IpAddr> {
        let found = self.0.get(host.as_str()).or_else(|| self.0.get(&object.to_string()));
        found.into_iter().flatten().copied()
    }
}

fn host_of(object: &NamespacedName) -> Option<Hostname> {
    format!("{}.{}.svc.{DOMAIN}", object.name, object.namespace).parse().ok()
}

fn kubernetes_key(object: &NamespacedName) -> Option<ServiceKey> {
    Some((host_of(object)?, Registry::Kubernetes, object.clone()))
}

fn alias_of(service: &core::Service, default_export: &[ExportTo]) -> Option<AliasView> {
    let object = service.meta.namespaced_name();
    let target = service.external_name.clone()?;
    Some(AliasView { host: host_of(&object)?, object, target, export_to: or_default(&service.export_to, default_export) })
}

fn of_service(service: &core::Service, default_export: &[ExportTo], vips: &Vips) -> Option<ServiceView> {
    if service.external_name.is_some() {
        return None;
    }
    let meta = &service.meta;
    let host = host_of(&meta.namespaced_name())?;
    // The second one stands where the first one does.
    let address = match service.cluster_ip {
        ClusterIp::Address(ip) => Some(ip),
        ClusterIp::Auto => vips.of(&host, &meta.namespaced_name()).next(),
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
        addresses: address.into_iter().chain(service.second_ip).map(IpRange::from).collect(),
        allocated: Vec::new(),
        headless: service.cluster_ip == ClusterIp::Headless,
        ports: ports.collect(),
        resolve: if service.cluster_ip == ClusterIp::Headless { Resolve::OriginalDestination } else { Resolve::Endpoints },
        external: false,
        export_to: or_default(&service.export_to, default_export),
        subject_alt_names: Vec::new(),
        selector: (!service.selector.is_empty()).then(|| mizzen_api::Selector { labels: service.selector.clone() }),
        publish_not_ready: service.publish_not_ready_addresses,
        node_local: service.node_local,
        distribution: service.distribution,
    })
}

fn of_entry(entry: &istio::ServiceEntry, host: &Hostname, default_export: &[ExportTo], vips: &Vips) -> ServiceView {
    let (mut addresses, mut allocated) = (entry.addresses.clone(), Vec::new());
    // Whom a call of a wildcard is for is told by name, whatever address was dialled.
    if addresses.is_empty() && !host.is_wildcard() {
        addresses.extend(vips.of(host, &entry.meta.namespaced_name()).map(IpRange::from));
        let of_host = entry.allocated.iter().filter(|(of, _)| of == host).map(|(_, ip)| *ip);
        allocated.extend(of_host.filter(|_| addresses.is_empty()));
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
        allocated,
        headless: false,
        ports: ports.collect(),
        resolve: match entry.resolution {
            Resolution::None => Resolve::OriginalDestination,
            Resolution::Static => Resolve::Endpoints,
            Resolution::Dns => Resolve::Dns,
            Resolution::DnsRoundRobin => Resolve::DnsRoundRobin,
            Resolution::DynamicDns => Resolve::DynamicDns,
        },
        external: entry.location == Location::MeshExternal,
        export_to: or_default(&entry.export_to, default_export),
        subject_alt_names: entry.subject_alt_names.clone(),
        selector: entry.workload_selector.clone(),
        publish_not_ready: false,
        node_local: false,
        distribution: entry.distribution,
    }
}

pub(crate) fn or_default(own: &[ExportTo], default: &[ExportTo]) -> Vec<ExportTo> {
    if own.is_empty() { default.to_vec() } else { own.to_vec() }
}
