//! Reading a snapshot, with a record of every read.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use mizzen_api::{Key, istio};
use mizzen_types::{Hostname, NamespacedName, Protocol};

use crate::{
    objects::{Closed, Typed},
    proxy::{ProxyView, ViewField},
    query::Query,
    service::{Endpoints, Instance, PodView, ServiceView},
    snapshot::Snapshot,
};

/// What was read: queries with the stamps of their answers, and fields of the proxy with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    queries: BTreeMap<Query, u64>,
    view: BTreeMap<ViewField, Option<Box<str>>>,
}

impl Reads {
    /// Whether every query has the same answer in this snapshot.
    pub fn valid_in(&self, snapshot: &Snapshot) -> bool {
        self.queries.iter().all(|(query, stamp)| snapshot.stamp(query) == *stamp)
    }

    /// Whether every field that was read has the same value in this proxy.
    pub fn agrees_with(&self, view: &ProxyView) -> bool {
        self.view.iter().all(|(field, value)| view.field(field).as_deref() == value.as_deref())
    }

    /// Whether a result made by these reads is what this proxy would get from this snapshot.
    pub fn fits(&self, snapshot: &Snapshot, view: &ProxyView) -> bool {
        self.agrees_with(view) && self.valid_in(snapshot)
    }

    /// Whether every query has the same answer in both snapshots: cheaper than building anew, and independent of when the record was made.
    pub fn untouched(&self, old: &Snapshot, new: &Snapshot) -> bool {
        self.queries.keys().all(|query| old.stamp(query) == new.stamp(query))
    }

    /// A hash of the whole record: equal for proxies whose reads agree.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.queries.hash(&mut hasher);
        self.view.hash(&mut hasher);
        hasher.finish()
    }

    /// The queries, in order.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        self.queries.keys()
    }

    /// The fields of the proxy that were read, with their values.
    pub fn view(&self) -> impl Iterator<Item = (&ViewField, Option<&str>)> {
        self.view.iter().map(|(field, value)| (field, value.as_deref()))
    }
}

/// One pass over a snapshot.
#[derive(Debug)]
pub struct Reader<'a> {
    snapshot: &'a Snapshot,
    reads: RefCell<Reads>,
}

impl<'a> Reader<'a> {
    /// Starts with an empty record.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Reader { snapshot, reads: RefCell::default() }
    }

    /// What was read so far.
    pub fn finish(self) -> Reads {
        self.reads.into_inner()
    }

    /// Notes a query and gives the snapshot for its answer.
    pub(crate) fn ask(&self, query: Query) -> &'a Snapshot {
        let mut reads = self.reads.borrow_mut();
        if let Entry::Vacant(entry) = reads.queries.entry(query) {
            let stamp = self.snapshot.stamp(entry.key());
            entry.insert(stamp);
        }
        self.snapshot
    }

    pub(crate) fn note_view(&self, view: &ProxyView, field: ViewField) {
        let mut reads = self.reads.borrow_mut();
        if let Entry::Vacant(entry) = reads.view.entry(field) {
            let value = view.field(entry.key()).map(|text| text.as_ref().into());
            entry.insert(value);
        }
    }

    /// The mesh's settings.
    pub fn mesh(&self) -> &'a Arc<istio::MeshConfig> {
        self.ask(Query::Mesh).mesh()
    }

    /// One object.
    pub fn get<T: Typed + 'static>(&self, name: &NamespacedName) -> Option<&'a T> {
        let key = Key { kind: T::KIND, namespace: name.namespace.clone(), name: name.name.clone() };
        T::of(self.ask(Query::Object(key.clone())).object(&key)?)
    }

    /// All objects of a type in a namespace, by name.
    pub fn in_namespace<T: Typed + 'static>(&self, namespace: &str) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let snapshot = self.ask(Query::Namespace(T::KIND, namespace.into()));
        let found: Vec<&'a T> = snapshot.all().in_namespace(T::KIND, namespace).filter_map(|stored| T::of(&stored.value)).collect();
        found.into_iter()
    }

    /// All objects of a type, by namespace and name.
    pub fn all<T: Typed + 'static>(&self) -> impl Iterator<Item = &'a T> + use<'a, T> {
        self.ask(Query::Kind(T::KIND)).objects()
    }

    /// The refused policies of a namespace.
    pub fn closed(&self, namespace: &str) -> Vec<&'a Closed> {
        self.ask(Query::Closed(namespace.into())).all().closed_in(namespace).map(|stored| &*stored.value).collect()
    }

    /// All services, by host and namespace.
    pub fn services(&self) -> impl Iterator<Item = &'a Arc<ServiceView>> {
        self.ask(Query::Services).derived().all().map(|stored| &stored.value)
    }

    /// The service that a host name means for those in `namespace`: their own namespace's, else Kubernetes' before others, else the oldest.
    pub fn service(&self, host: &Hostname, namespace: &str) -> Option<&'a Arc<ServiceView>> {
        self.of_host(host, namespace, |_| true)
    }

    /// The service that one port of a host name means for those in `namespace`, in the order of [`Reader::service`]: several may share a host, each with
    /// ports of its own. UDP does not count.
    pub fn service_at(&self, host: &Hostname, port: u16, namespace: &str) -> Option<&'a Arc<ServiceView>> {
        self.of_host(host, namespace, |service| service.port(port).is_some_and(|port| port.protocol != Protocol::Udp))
    }

    /// All services under a host name that are visible in `namespace`.
    pub fn services_under(&self, host: &Hostname, namespace: &str) -> impl Iterator<Item = &'a Arc<ServiceView>> {
        let found = self.ask(Query::Service(host.clone())).derived().under_host(host).map(|stored| &stored.value);
        found.filter(move |service| service.visible_in(namespace))
    }

    fn of_host(&self, host: &Hostname, namespace: &str, wanted: impl Fn(&ServiceView) -> bool) -> Option<&'a Arc<ServiceView>> {
        self.services_under(host, namespace)
            .filter(|service| wanted(service))
            .min_by_key(|service| (&**service.namespace() != namespace, service.registry, service.created, service.object.clone()))
    }

    /// The services that have a port, by host and namespace.
    pub fn services_at(&self, port: u16) -> impl Iterator<Item = &'a Arc<ServiceView>> {
        self.ask(Query::Port(port)).derived().at_port(port).map(|stored| &stored.value)
    }

    /// The endpoints of a service.
    pub fn endpoints(&self, service: &ServiceView) -> &'a Endpoints {
        static NONE: Endpoints = Endpoints { by_port: BTreeMap::new() };
        let key = service.key();
        let snapshot = self.ask(Query::Endpoints(key.clone()));
        snapshot.derived().endpoints(&key).map_or(&NONE, |found| found)
    }

    /// The service accounts of a service's endpoints, whether ready or not.
    pub fn accounts(&self, service: &ServiceView) -> BTreeSet<NamespacedName> {
        let key = service.key();
        self.ask(Query::Accounts(key.clone())).derived().accounts(&key)
    }

    /// The services' ports that are served at an address, whether ready or not.
    pub fn instances(&self, ip: IpAddr) -> &'a [Instance] {
        self.ask(Query::Instances(ip)).derived().instances(ip)
    }

    /// The pod at an address.
    pub fn pod(&self, ip: IpAddr) -> Option<&'a Arc<PodView>> {
        self.ask(Query::Pod(ip)).derived().pod(ip)
    }
}
