//! Reading a snapshot, with a record of every read.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use foldhash::fast::RandomState;
use mizzen_api::{Key, Kind, istio};
use mizzen_types::{Hostname, NamespacedName, Protocol};

use crate::{
    objects::{Closed, Typed},
    proxy::{ProxyView, ViewField},
    query::Query,
    question::{Answer, Item, Question, Reach},
    routes::RouteRules,
    service::{AliasView, Endpoints, Instance, PodView, Registry, ServiceKey, ServiceView},
    snapshot::Snapshot,
};

/// How many aliases may lead from a name to what it means. Kubernetes' DNS servers follow about as many.
const ALIASES: usize = 8;

/// What was read: queries to the snapshot with the stamps of their answers, and questions about the proxy with their answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    queries: Box<[(Query, u64)]>,
    /// What the questions' answers follow from.
    under: Box<[Query]>,
    /// The same of questions that only this proxy gets this answer to for these reasons: another with the same answers has others.
    own: Box<[Query]>,
    /// Questions that all proxies of a kind get the same answer to.
    shared: Arc<[(Question, Answer)]>,
    /// The others, in the order in which they were asked: the next one depends on nothing but the answers before it and what is the same for all.
    asked: Box<[(Question, Answer)]>,
    reach: Reach,
}

impl Reads {
    /// Whether all that does not depend on who asks is as it was: every query has the same answer, and so has every question to which all proxies get
    /// the same.
    pub fn stands_in(&self, snapshot: &Snapshot, view: &ProxyView) -> bool {
        self.queries.iter().all(|(query, stamp)| snapshot.stamp(query) == *stamp)
            && self.shared.iter().all(|(question, answer)| {
                let (now, reach) = question.answer(snapshot, view);
                reach == Reach::All && now == *answer
            })
    }

    /// Whether a result made by these reads is what this proxy would get from this snapshot.
    pub fn fits(&self, snapshot: &Snapshot, view: &ProxyView) -> bool {
        let same = |(question, answer): &(Question, Answer)| question.answer(snapshot, view).0 == *answer;
        self.queries.iter().all(|(query, stamp)| snapshot.stamp(query) == *stamp)
            && self.shared.iter().all(same)
            && self.asked.iter().all(same)
    }

    /// For whom else the result is the same, as long as nothing changes.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// All queries on which the result depends, those that lie under the questions included, each once.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        self.common().chain(&self.own)
    }

    /// Those of [`Reads::queries`] that do not hang on which proxy it was made for.
    pub fn common(&self) -> impl Iterator<Item = &Query> {
        self.queries.iter().map(|(query, _)| query).chain(&self.under)
    }

    /// The others.
    pub fn own(&self) -> &[Query] {
        &self.own
    }

    /// The queries that the answers to all questions follow from, as far as nothing else asked for them.
    pub fn under(&self) -> impl Iterator<Item = &Query> {
        self.under.iter().chain(&self.own)
    }

    /// The questions that not all proxies get the same answer to, in the order in which they were asked, with the answers.
    pub fn asked(&self) -> &[(Question, Answer)] {
        &self.asked
    }

    /// The objects that were found: asked for by name, or parts of answers, the objects behind services included. Each once.
    pub fn objects(&self) -> BTreeSet<Key> {
        let service = |(_, registry, object): &ServiceKey| {
            let kind = match registry {
                Registry::Kubernetes => Kind::Service,
                Registry::External => Kind::ServiceEntry,
            };
            Key::new(kind, object.namespace.clone(), object.name.clone())
        };
        let of_query = |query: &Query| match query {
            Query::Object(key) => Some(key.clone()),
            Query::ServiceView(key) | Query::Endpoints(key) | Query::Accounts(key) => Some(service(key)),
            _ => None,
        };
        let of_item = |item: &Item| match item {
            Item::Object(key, _) => Some(key.clone()),
            Item::Service(key, _) => Some(service(key)),
            Item::Number(_) | Item::Text(_) => None,
        };
        let answers = self.shared.iter().chain(&*self.asked).filter_map(|(_, answer)| match answer {
            Answer::Items(items) => Some(items),
            Answer::Flag(_) => None,
        });
        let asked = self.queries.iter().filter(|(_, stamp)| *stamp > 0).filter_map(|(query, _)| of_query(query));
        asked.chain(answers.flat_map(|items| items.iter()).filter_map(of_item)).collect()
    }

    /// Takes the part that is the same for all from another record, if it is equal: many records then hold it once.
    pub fn share(&mut self, with: &Reads) {
        if self.shared == with.shared {
            self.shared = with.shared.clone();
        }
    }
}

/// A record that is being made.
#[derive(Debug, Default)]
struct Record {
    queries: HashMap<Query, u64, RandomState>,
    under: HashSet<Query, RandomState>,
    own: HashSet<Query, RandomState>,
    /// What was read for the question that is being answered.
    open: Vec<Query>,
    shared: Vec<(Question, Answer)>,
    asked: Vec<(Question, Answer)>,
    seen: HashSet<Question, RandomState>,
    reach: Reach,
    last: Option<(Answer, Reach)>,
}

impl Record {
    /// What was read for a question lies under its answer.
    fn close(&mut self, reach: Reach) {
        let list = if reach == Reach::Own { &mut self.own } else { &mut self.under };
        list.extend(self.open.drain(..));
    }
}

/// One pass over a snapshot.
#[derive(Debug)]
pub struct Reader<'a> {
    snapshot: &'a Snapshot,
    record: RefCell<Record>,
    /// How many questions deep: what is read to answer one is covered by its answer.
    depth: Cell<u32>,
}

impl<'a> Reader<'a> {
    /// Starts with an empty record.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Reader { snapshot, record: RefCell::default(), depth: Cell::new(0) }
    }

    /// What was read so far.
    pub fn finish(self) -> Reads {
        let Record { queries, mut under, mut own, shared, asked, reach, .. } = self.record.into_inner();
        under.retain(|query| !queries.contains_key(query));
        own.retain(|query| !queries.contains_key(query) && !under.contains(query));
        Reads {
            queries: queries.into_iter().collect(),
            under: under.into_iter().collect(),
            own: own.into_iter().collect(),
            shared: shared.into(),
            asked: asked.into(),
            reach,
        }
    }

    /// Notes a query and gives the snapshot for its answer.
    pub(crate) fn ask(&self, query: Query) -> &'a Snapshot {
        let mut record = self.record.borrow_mut();
        if self.depth.get() > 0 {
            record.open.push(query);
        } else if let Entry::Vacant(entry) = record.queries.entry(query) {
            let stamp = self.snapshot.stamp(entry.key());
            entry.insert(stamp);
        }
        self.snapshot
    }

    /// Answers a question about a proxy: `find` gives what is found, what identifies it, and who would find the same.
    pub(crate) fn question<T>(&self, question: Question, find: impl FnOnce() -> (T, Answer, Reach)) -> T {
        self.depth.set(self.depth.get() + 1);
        let (found, answer, reach) = find();
        self.depth.set(self.depth.get() - 1);
        if self.depth.get() == 0 {
            self.note(question, answer, reach);
        }
        found
    }

    /// Reads what lies under a question that is asked as well.
    pub(crate) fn under<T>(&self, read: impl FnOnce() -> T) -> T {
        self.depth.set(self.depth.get() + 1);
        let found = read();
        self.depth.set(self.depth.get() - 1);
        if self.depth.get() == 0 {
            self.record.borrow_mut().close(Reach::All);
        }
        found
    }

    fn note(&self, question: Question, answer: Answer, reach: Reach) {
        let record = &mut *self.record.borrow_mut();
        record.close(reach);
        record.last = Some((answer.clone(), reach));
        if record.seen.insert(question.clone()) {
            record.reach = record.reach.max(reach);
            let list = if reach == Reach::All { &mut record.shared } else { &mut record.asked };
            list.push((question, answer));
        }
    }

    /// The answer that was noted last, and the queries under it.
    pub(crate) fn last_answer(self) -> (Answer, Reach, Vec<Query>) {
        let record = self.record.into_inner();
        let (answer, reach) = record.last.unwrap_or((Answer::Flag(false), Reach::Own));
        (answer, reach, record.under.into_iter().chain(record.own).collect())
    }

    pub(crate) fn note_view(&self, view: &ProxyView, field: ViewField) {
        let reach = match field {
            ViewField::Kind | ViewField::Extension(_) => Reach::All,
            // Who is alike is so without regard to metadata.
            ViewField::Ip | ViewField::Id | ViewField::Pod | ViewField::Metadata(_) => Reach::Own,
            _ => Reach::Alike,
        };
        let value = view.field(&field).map(|text| Item::Text(text.as_ref().into()));
        self.question(Question::Field(field), || ((), value.into_iter().collect(), reach));
    }

    /// The snapshot, for stamps.
    pub(crate) fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
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

    /// The routes of one object.
    pub(crate) fn routes_of(&self, key: &Key) -> Option<RouteRules<'a>> {
        RouteRules::of(self.ask(Query::Object(key.clone())).object(key)?)
    }

    /// All routes, of whatever kind, each where it holds.
    pub fn all_routes(&self) -> impl Iterator<Item = RouteRules<'a>> + use<'a> {
        // Whether one object may leave routes to another hangs on the mesh's defaults.
        self.ask(Query::Mesh);
        let of_kind = |kind: &Kind| self.ask(Query::Kind(*kind)).all().of_kind(*kind);
        let found: Vec<_> = RouteRules::KINDS.iter().flat_map(of_kind).collect();
        let rules = self.snapshot().rules();
        let merged = move |key: Key| rules.merged.get(&key);
        let found = found.into_iter().map(move |stored| merged(stored.value.key()).unwrap_or(stored));
        found.filter_map(|stored| RouteRules::of(&stored.value)).filter(|rules| !rules.hosts.is_empty())
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

    /// The alias of a name, whoever sees it.
    pub fn alias(&self, host: &Hostname) -> Option<&'a Arc<AliasView>> {
        self.ask(Query::Alias(host.clone())).derived().alias(host).map(|stored| &stored.value)
    }

    /// The host that a name means: itself, or what aliases lead to from there. Aliases that lead nowhere but to each other mean nothing: such a name
    /// means itself.
    pub fn meaning(&self, host: &Hostname) -> Hostname {
        let mut meant = host;
        for _ in 0..ALIASES {
            match self.alias(meant) {
                Some(alias) => meant = &alias.target,
                None => return meant.clone(),
            }
        }
        host.clone()
    }

    fn of_host(&self, host: &Hostname, namespace: &str, wanted: impl Fn(&ServiceView) -> bool) -> Option<&'a Arc<ServiceView>> {
        let found = self.services_under(host, namespace).filter(|service| wanted(service));
        found.min_by(|a, b| a.before(b, namespace))
    }

    /// The services that a namespace declares, by host.
    pub fn services_of(&self, namespace: &str) -> impl Iterator<Item = &'a Arc<ServiceView>> + use<'a> {
        self.ask(Query::ServicesOf(namespace.into())).derived().of_namespace(namespace).map(|stored| &stored.value)
    }

    /// The services that have a port, by host and namespace.
    pub fn services_at(&self, port: u16) -> impl Iterator<Item = &'a Arc<ServiceView>> {
        self.ask(Query::Port(port)).derived().at_port(port).map(|stored| &stored.value)
    }

    /// The endpoints of a service.
    pub fn endpoints(&self, service: &ServiceView) -> &'a Endpoints {
        self.endpoints_of(&service.key())
    }

    pub(crate) fn endpoints_of(&self, service: &ServiceKey) -> &'a Endpoints {
        static NONE: Endpoints = Endpoints { by_port: BTreeMap::new() };
        let snapshot = self.ask(Query::Endpoints(service.clone()));
        snapshot.derived().endpoints(service).map_or(&NONE, |found| found)
    }

    /// The service accounts of a service's endpoints, whether ready or not.
    pub fn accounts(&self, service: &ServiceView) -> BTreeSet<NamespacedName> {
        let key = service.key();
        self.ask(Query::Accounts(key.clone())).derived().accounts(&key).map(|found| (**found).clone()).unwrap_or_default()
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
