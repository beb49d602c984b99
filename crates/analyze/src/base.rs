//! All objects, found by words; and the record of what was asked of them.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
};

use mizzen_api::{Labels, Pos, Source};
use mizzen_types::Name;

use crate::{
    Code, Facts, Fix, Id, Message, Sort,
    facts::{
        self, EntryFacts, GatewayFacts, MeshFacts, Of, PolicyFacts, RouteFacts, RuleOfHost, SelectedFacts, ServiceFacts, WorkloadFacts,
    },
};

/// By what objects are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    /// All of a kind; the word is empty.
    All(Sort),
    /// Those of a kind in a namespace.
    In(Sort),
    /// The one of a kind with this `namespace/name`, or this name.
    Named(Sort),
    /// Services and ServiceEntries by host, wildcards as they stand.
    Host,
    /// What runs in a namespace: pods, controllers, WorkloadEntries, WorkloadGroups; with an empty word, in all.
    Workloads,
    /// What runs, by one label, `name=value`.
    Labelled,
    /// VirtualServices by host in full.
    RoutedHost,
    /// VirtualServices for the mesh that some namespaces alone see, by the wildcards above their hosts.
    ScopedBelow,
    /// VirtualServices by those of their hosts, as written, that they route to a subset.
    SubsetOfHost,
    /// DestinationRules by host in full.
    RuledHost,
    /// Gateways by credential or file of a certificate.
    Certificate,
    /// Services by `namespace/label=value`, with one label of their selectors: who has all of them has that one.
    Selecting,
    /// Those of a kind that selects workloads (Sidecars, Telemetries, RequestAuthentications, …), by such a word.
    SelectingLike(Sort),
    /// The settings of injection by the name of their config map, wherever it is.
    Injector,
    /// Secrets that name other clusters, by those.
    Registry,
    /// Istio's Gateways by port and host, as written, with a space between.
    Listener,
    /// EnvoyFilters by what a patch for some versions of proxies is about.
    VersionedPatch,
    /// VirtualServices by the Gateways that they name, each with its namespace.
    Bound,
    /// VirtualServices that route by claims of tokens; the word is empty.
    ByClaims,
}

/// An object.
#[derive(Debug)]
pub struct Entry {
    /// What identifies it.
    pub id: Id,
    /// Where it starts.
    pub pos: Pos,
    /// What rules ask of it.
    pub facts: Facts,
    /// Whether it is taken to be there without having been written: then it answers, and nothing is said of it.
    pub(crate) is_assumed: bool,
    pub(crate) source: Source,
    /// What is said of it alone.
    pub(crate) own: Vec<Message>,
    /// What is said of it among others, and what was asked for that.
    pub(crate) cross: Vec<Message>,
    pub(crate) asked: Vec<u64>,
    /// Codes that its annotation silences.
    pub(crate) silenced: Vec<Name>,
}

impl Entry {
    /// With nothing said of it.
    pub(crate) fn new(id: Id, pos: Pos, facts: Facts) -> Entry {
        let (own, cross, asked, silenced) = Default::default();
        Entry { id, pos, facts, is_assumed: false, source: Source::default(), own, cross, asked, silenced }
    }

    /// Whether it is there as a document.
    pub(crate) fn is_written(&self) -> bool {
        !self.is_assumed && self.facts.of != Of::ImpliedNamespace
    }

    /// The kind.
    pub fn sort(&self) -> Sort {
        self.id.sort()
    }

    pub(crate) fn service(&self) -> Option<&ServiceFacts> {
        if let Of::Service(service) = &self.facts.of { Some(service) } else { None }
    }

    pub(crate) fn workload(&self) -> Option<&WorkloadFacts> {
        if let Of::Workload(workload) = &self.facts.of { Some(workload) } else { None }
    }

    pub(crate) fn route(&self) -> Option<&RouteFacts> {
        if let Of::Route(route) = &self.facts.of { Some(route) } else { None }
    }

    pub(crate) fn gateway(&self) -> Option<&GatewayFacts> {
        if let Of::Gateway(gateway) = &self.facts.of { Some(gateway) } else { None }
    }

    pub(crate) fn entry_of_service(&self) -> Option<&EntryFacts> {
        if let Of::Entry(entry) = &self.facts.of { Some(entry) } else { None }
    }

    pub(crate) fn rule_of_host(&self) -> Option<&RuleOfHost> {
        if let Of::Destination(rule) = &self.facts.of { Some(rule) } else { None }
    }

    /// Whom it is for, if it is of a kind that selects workloads.
    pub(crate) fn selected(&self) -> Option<&SelectedFacts> {
        match &self.facts.of {
            Of::Selected(selected) => Some(selected),
            Of::Telemetry(telemetry) => Some(&telemetry.selected),
            Of::Filter(filter) => Some(&filter.selected),
            Of::Peer(peer) => Some(&peer.selected),
            Of::Policy(policy) => Some(&policy.selected),
            _ => None,
        }
    }

    /// Whether it is a pod, or what pods are made from.
    pub(crate) fn is_pod(&self) -> bool {
        self.sort() == Sort::Pod || self.sort().is_controller()
    }

    pub(crate) fn policy(&self) -> Option<&PolicyFacts> {
        if let Of::Policy(policy) = &self.facts.of { Some(policy) } else { None }
    }
}

/// Hashes alike in every run, so that nothing depends on chance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fixed;

impl BuildHasher for Fixed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        DefaultHasher::new()
    }
}

/// A question: an index and a word. Two questions that are taken for one make work, and no fault.
pub(crate) fn question(index: Index, word: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (index, word).hash(&mut hasher);
    hasher.finish()
}

/// The objects.
#[derive(Debug, Default)]
pub(crate) struct Base {
    pub(crate) stand_alone: bool,
    /// Whether Secrets are not among the objects.
    pub(crate) without_secrets: bool,
    pub(crate) entries: HashMap<Id, Arc<Entry>, Fixed>,
    /// The time, in seconds since 1970, if it is told.
    pub(crate) now: Option<i64>,
    /// In the order of ids.
    words: HashMap<u64, Vec<Id>, Fixed>,
}

/// Where the mesh's settings stand.
const MESH: (&str, &str) = ("istio-system", "istio");
static DEFAULT_MESH: LazyLock<MeshFacts> = LazyLock::new(|| MeshFacts::read(&facts::NOTHING));

impl Base {
    pub(crate) fn list<'s>(&'s self, index: Index, word: &str) -> impl Iterator<Item = &'s Arc<Entry>> + use<'s> {
        let ids = self.words.get(&question(index, word)).into_iter().flatten();
        ids.filter_map(|id| self.entries.get(id))
    }

    pub(crate) fn count(&self, index: Index, word: &str) -> usize {
        self.words.get(&question(index, word)).map_or(0, Vec::len)
    }

    pub(crate) fn add(&mut self, id: &Id, words: &[(Index, Name)]) {
        for (index, word) in words {
            let ids = self.words.entry(question(*index, word)).or_default();
            // Files are mostly read in this order.
            if ids.last().is_none_or(|last| last < id) {
                ids.push(id.clone());
            } else if let Err(at) = ids.binary_search(id) {
                ids.insert(at, id.clone());
            }
        }
    }

    pub(crate) fn take(&mut self, id: &Id, words: &[(Index, Name)]) {
        for (index, word) in words {
            let key = question(*index, word);
            let Some(ids) = self.words.get_mut(&key) else { continue };
            if let Ok(at) = ids.binary_search(id) {
                ids.remove(at);
            }
            if ids.is_empty() {
                self.words.remove(&key);
            }
        }
    }
}

/// What a rule about several objects sees, and where it says what it has found. Each question is noted.
#[derive(Debug)]
pub struct Cx<'a> {
    base: &'a Base,
    /// The object that is looked at.
    pub entry: &'a Entry,
    asked: RefCell<Vec<u64>>,
    found: RefCell<Vec<Message>>,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(base: &'a Base, entry: &'a Entry) -> Self {
        Cx { base, entry, asked: RefCell::default(), found: RefCell::default() }
    }

    /// What was asked, and what was found.
    pub(crate) fn end(self) -> (Vec<u64>, Vec<Message>) {
        let mut asked = self.asked.into_inner();
        asked.sort_unstable();
        asked.dedup();
        (asked, self.found.into_inner())
    }

    /// The time, in seconds since 1970, if it is told.
    pub(crate) fn now(&self) -> Option<i64> {
        self.base.now
    }

    /// The objects that are found under a word, in the order of their ids.
    pub fn list(&self, index: Index, word: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.asked.borrow_mut().push(question(index, word));
        self.base.list(index, word).map(|entry| &**entry)
    }

    /// All objects of a kind: asked with care, since each change of any of them asks again.
    pub fn all(&self, sort: Sort) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.list(Index::All(sort), "")
    }

    /// The objects of a kind in a namespace.
    pub fn within(&self, sort: Sort, namespace: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.list(Index::In(sort), namespace)
    }

    /// The object of a kind with this name.
    pub fn named(&self, sort: Sort, namespace: &str, name: &str) -> Option<&'a Entry> {
        let word = if sort.is_of_cluster() { name.to_owned() } else { format!("{namespace}/{name}") };
        self.list(Index::Named(sort), &word).next()
    }

    /// The Services and ServiceEntries with a host that covers this one, which is in full: first those that have it exactly, then by wildcards, the
    /// longest first. With a wildcard, those that have that wildcard or a wider one.
    pub fn hosts(&self, host: &str) -> Vec<&'a Entry> {
        covering(host).into_iter().flat_map(|word| self.list(Index::Host, &word)).collect()
    }

    /// What runs in a namespace and has these labels; no labels are anything's. What a controller's pods stand for themselves is told once, by the pods.
    pub fn workloads(&self, namespace: &str, selector: &Labels) -> Vec<&'a Entry> {
        let all = self.list(Index::Workloads, namespace).filter(|entry| entry.workload().is_some_and(|w| selector.is_within(&w.labels)));
        let all: Vec<&Entry> = all.collect();
        let of_pods: Vec<&Labels> =
            all.iter().filter(|entry| entry.sort() == Sort::Pod).filter_map(|entry| entry.workload().map(|w| &w.labels)).collect();
        let stands = |entry: &&Entry| match entry.workload() {
            Some(workload) if entry.sort().is_controller() => !of_pods.iter().any(|pod| workload.labels.is_within(*pod)),
            _ => true,
        };
        all.iter().copied().filter(stands).collect()
    }

    /// What runs in any namespace and has these labels, found by the rarest of them; no labels are anything's.
    pub fn labelled(&self, selector: &Labels) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let words = selector.iter().map(|(name, value)| facts::label_word(name, value));
        let rarest = words.min_by_key(|word| self.base.count(Index::Labelled, word));
        let selector = selector.clone();
        let all = match rarest {
            Some(word) => self.list(Index::Labelled, &word),
            None => self.list(Index::Workloads, ""),
        };
        all.filter(move |entry| entry.workload().is_some_and(|workload| selector.is_within(&workload.labels)))
    }

    /// The pods with these labels, in a namespace or in all, and what pods would be made from: a controller only where none of its pods is there.
    pub fn pods(&self, namespace: Option<&str>, selector: &Labels) -> Vec<&'a Entry> {
        let in_place = |entry: &&Entry| entry.is_pod() && namespace.is_none_or(|namespace| &*entry.id.namespace == namespace);
        let all: Vec<&Entry> = match namespace {
            Some(namespace) if selector.iter().next().is_none() => self.list(Index::Workloads, namespace).filter(in_place).collect(),
            _ => self.labelled(selector).filter(in_place).collect(),
        };
        let is_of = |pod: &&Entry, controller: &Entry| {
            let labels = (pod.workload().map(|pod| &pod.labels), controller.workload().map(|controller| &controller.labels));
            let fits = matches!(labels, (Some(pod), Some(template)) if template.is_within(pod));
            pod.sort() == Sort::Pod && fits && pod.id.namespace == controller.id.namespace
        };
        let stands = |entry: &&Entry| !entry.sort().is_controller() || !all.iter().any(|pod| is_of(pod, entry));
        all.iter().copied().filter(stands).collect()
    }

    /// Whether it is known which Secrets there are.
    pub(crate) fn knows_secrets(&self) -> bool {
        !self.base.without_secrets
    }

    /// Whether there is no Kubernetes.
    pub(crate) fn is_stand_alone(&self) -> bool {
        self.base.stand_alone
    }

    /// The mesh's settings; Istio's defaults if there are none.
    pub fn mesh(&self) -> &'a MeshFacts {
        let (namespace, name) = MESH;
        let settings = [Sort::MeshConfig, Sort::ConfigMap].into_iter().filter_map(|sort| self.named(sort, namespace, name));
        let mut meshes = settings.filter_map(|entry| if let Of::Mesh(mesh) = &entry.facts.of { Some(mesh) } else { None });
        meshes.next().unwrap_or(&DEFAULT_MESH)
    }

    /// Says something of the object that is looked at, about the field with this path.
    pub(crate) fn say(&self, code: &'static Code, field: impl Into<String>, text: impl Into<String>) {
        self.say_with(code, field, text, None);
    }

    /// The same, with what would mend it.
    pub(crate) fn say_with(&self, code: &'static Code, field: impl Into<String>, text: impl Into<String>, fix: Option<Fix>) {
        let message = Message { code, id: self.entry.id.clone(), pos: Pos::default(), field: field.into(), text: text.into(), fix };
        self.found.borrow_mut().push(message);
    }
}

/// A host, and the wildcards that cover it, the longest first.
pub(crate) fn covering(host: &str) -> Vec<String> {
    let host = host.to_ascii_lowercase();
    let mut words = vec![host.clone()];
    let name = host.strip_prefix("*").unwrap_or(&host);
    let dots = name.match_indices('.').filter_map(|(at, _)| name.get(at..));
    words.extend(dots.map(|rest| format!("*{rest}")));
    words.push("*".to_owned());
    words.dedup();
    words
}
