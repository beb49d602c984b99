//! The analysis: objects come and go, messages follow.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mizzen_api::{Node, Pos, Source};
use mizzen_types::Name;

use crate::{
    Facts, Id, Item, Message, Sort,
    base::{Base, Cx, Entry, Fixed, question},
    code, cross,
    facts::Of,
    own,
};

/// On an object: codes that are not told of it, by commas, or `*` for all.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

/// How analysis is done.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether objects will change: then what was asked is kept, so that a change costs what it changes.
    pub follows: bool,
    /// Whether Istio's ingress gateway is taken to run, as when files alone are looked at, which seldom hold it: a Pod and a Service with the label
    /// `istio: ingressgateway` in `istio-system`. They are not listed, nothing is said of them, and what is put under their names takes their place.
    pub default_gateway: bool,
    /// Whether it is a mesh without Kubernetes: each pod has its proxy beside it, a gateway needs no Service, and a namespace needs no document.
    pub stand_alone: bool,
    /// Whether Secrets are not among the objects: then nothing is said of those that are not there.
    pub without_secrets: bool,
    /// The time, in seconds since 1970: certificates have to be valid then. Without it they are taken to be.
    pub now: Option<i64>,
}

/// All objects, and what is to be said of them.
#[derive(Debug, Default)]
pub struct Analysis {
    options: Options,
    base: Base,
    /// By question, who has asked it, in order: most have one, for which a tree would be ten times as large.
    askers: HashMap<u64, Vec<Id>, Fixed>,
    /// Whose messages are to be made again.
    stale: BTreeSet<Id>,
    /// Documents that claim an object that another has: they are read and not in force.
    twice: BTreeMap<Id, Vec<Message>>,
    /// How many objects a namespace has.
    inhabitants: BTreeMap<Name, usize>,
    work: usize,
}

impl Analysis {
    /// Of nothing.
    pub fn new(options: Options) -> Analysis {
        let mut analysis = Analysis { options, ..Analysis::default() };
        analysis.base.stand_alone = analysis.options.stand_alone;
        analysis.base.without_secrets = analysis.options.without_secrets;
        analysis.base.now = analysis.options.now;
        analysis.assume(|_| true);
        analysis
    }

    /// Puts what is taken to be there, where it is not.
    fn assume(&mut self, is_meant: impl Fn(&Id) -> bool) {
        if !self.options.default_gateway {
            return;
        }
        for node in assumed() {
            let item = Item::of(&node, Source::default(), &Arc::from(""), "");
            if is_meant(&item.id) && !self.base.entries.contains_key(&item.id) {
                let entry = Entry { is_assumed: true, ..Entry::new(item.id.clone(), Pos::default(), Facts::read(&item.id, &node)) };
                self.place(entry);
            }
        }
    }

    /// Puts an object, in place of the one with its id.
    pub fn put(&mut self, item: &Item<'_>) {
        let facts = Facts::read(&item.id, item.node);
        let own = own::look(item, &facts);
        let suppress = item.node.at("metadata.annotations").and_then(|all| all.get(SUPPRESS)).and_then(|node| node.text());
        let silenced = suppress.map(|codes| codes.split(',').map(|code| code.trim().into()).collect()).unwrap_or_default();
        let entry = Entry::new(item.id.clone(), item.pos.clone(), facts);
        self.place(Entry { source: item.source.clone(), own, silenced, ..entry });
    }

    /// Puts an object unless there is one with its id: then that one stays, and this one is told to be written twice.
    pub fn put_first(&mut self, item: &Item<'_>) {
        let Some(first) = self.base.entries.get(&item.id).filter(|entry| entry.is_written()) else {
            return self.put(item);
        };
        let text = format!("{} stands at {} already: only one can hold", item.id, first.pos);
        let (id, pos) = (item.id.clone(), item.pos.clone());
        let message = Message { code: &code::MZ0003, id, pos, field: String::new(), text, fix: None };
        self.twice.entry(item.id.clone()).or_default().push(message);
    }

    /// Removes an object.
    pub fn remove(&mut self, id: &Id) {
        self.twice.remove(id);
        if self.base.entries.get(id).is_some_and(|entry| !entry.is_written()) {
            return;
        }
        if let Some(entry) = self.base.entries.remove(id) {
            self.index(&entry, false);
            self.inhabit(&entry, false);
            self.assume(|assumed| assumed == id);
        }
    }

    /// Makes the messages again whose answers have changed, and tells whose.
    pub fn update(&mut self) -> Vec<Id> {
        let stale = std::mem::take(&mut self.stale);
        let mut done = Vec::with_capacity(stale.len());
        for id in stale {
            let Some(entry) = self.base.entries.get(&id).cloned() else {
                done.push(id);
                continue;
            };
            if entry.is_assumed {
                continue;
            }
            self.work += 1;
            let cx = Cx::new(&self.base, &entry);
            cross::look(&cx);
            let (asked, mut cross) = cx.end();
            place(&entry, &mut cross);
            drop(entry);
            if self.options.follows {
                self.ask(&id, asked, cross);
            } else if let Some(entry) = self.base.entries.get_mut(&id).and_then(Arc::get_mut) {
                entry.cross = cross;
            }
            done.push(id);
        }
        done
    }

    /// All that is to be said, in the order of places, objects and codes.
    pub fn messages(&self) -> Vec<&Message> {
        let told = self.base.entries.values().flat_map(|entry| messages_of(entry));
        let mut all: Vec<&Message> = told.chain(self.twice.values().flatten()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// What is said of one object.
    pub fn messages_of(&self, id: &Id) -> Vec<&Message> {
        let told = self.base.entries.get(id).into_iter().flat_map(|entry| messages_of(entry));
        let mut all: Vec<&Message> = told.chain(self.twice.get(id).into_iter().flatten()).collect();
        all.sort();
        all
    }

    /// How many objects were looked at among others so far: it grows with what changes, not with what there is.
    pub fn work(&self) -> usize {
        self.work
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.base.entries.values().filter(|entry| entry.is_written()).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&mut self, entry: Entry) {
        let old = self.base.entries.remove(&entry.id);
        if let Some(old) = &old {
            // What stands elsewhere and says the same changes nobody's answers.
            let asked = if old.facts == entry.facts && !old.is_assumed { old.asked.clone() } else { Vec::new() };
            if !asked.is_empty() {
                self.stale.insert(entry.id.clone());
                let entry = Entry { asked, ..entry };
                self.base.entries.insert(entry.id.clone(), Arc::new(entry));
                return;
            }
            self.index(old, false);
            if old.is_written() {
                self.inhabit(old, false);
            }
        }
        self.index(&entry, true);
        if !entry.is_assumed {
            self.inhabit(&entry, true);
        }
        self.stale.insert(entry.id.clone());
        self.base.entries.insert(entry.id.clone(), Arc::new(entry));
    }

    /// An object under its words, or no more; who has asked for one of them is asked again.
    fn index(&mut self, entry: &Entry, is_there: bool) {
        let words = entry.facts.words(&entry.id);
        if is_there {
            self.base.add(&entry.id, &words);
        } else {
            self.base.take(&entry.id, &words);
            for asked in &entry.asked {
                forget(&mut self.askers, *asked, &entry.id);
            }
            self.stale.insert(entry.id.clone());
        }
        for (index, word) in words {
            if let Some(askers) = self.askers.get(&question(index, &word)) {
                self.stale.extend(askers.iter().cloned());
            }
        }
    }

    fn ask(&mut self, id: &Id, asked: Vec<u64>, cross: Vec<Message>) {
        let Some(entry) = self.base.entries.get_mut(id).and_then(Arc::get_mut) else { return };
        let before = std::mem::replace(&mut entry.asked, asked);
        entry.cross = cross;
        for gone in before.iter().filter(|question| entry.asked.binary_search(question).is_err()) {
            forget(&mut self.askers, *gone, id);
        }
        for new in entry.asked.iter().filter(|question| before.binary_search(question).is_err()) {
            let askers = self.askers.entry(*new).or_default();
            if let Err(at) = askers.binary_search(id) {
                if askers.is_empty() {
                    askers.reserve_exact(1);
                }
                askers.insert(at, id.clone());
            }
        }
    }

    /// A namespace is there as long as it has a document or objects.
    fn inhabit(&mut self, entry: &Entry, comes: bool) {
        let namespace = if entry.sort() == Sort::Namespace { &entry.id.name } else { &entry.id.namespace };
        if namespace.is_empty() {
            return;
        }
        let id = Id::new(Sort::Namespace, "", namespace.clone());
        let count = self.inhabitants.entry(namespace.clone()).or_default();
        *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        let is_inhabited = *count > 0;
        if !is_inhabited {
            self.inhabitants.remove(namespace);
        }
        let there = self.base.entries.get(&id).cloned();
        match there {
            // A document comes or goes itself.
            None if is_inhabited && !(entry.id == id && comes) => {
                let facts = Facts { of: Of::ImpliedNamespace, ..Facts::default() };
                let implied = Entry::new(id.clone(), Pos::default(), facts);
                self.index(&implied, true);
                self.stale.insert(id.clone());
                self.base.entries.insert(id, Arc::new(implied));
            }
            Some(implied) if !is_inhabited && implied.facts.of == Of::ImpliedNamespace => {
                self.base.entries.remove(&id);
                self.index(&implied, false);
            }
            _ => {}
        }
    }
}

/// Notes that somebody has not asked a question any more.
fn forget(askers: &mut HashMap<u64, Vec<Id>, Fixed>, question: u64, id: &Id) {
    let Some(all) = askers.get_mut(&question) else { return };
    if let Ok(at) = all.binary_search(id) {
        all.remove(at);
    }
    if all.is_empty() {
        askers.remove(&question);
    }
}

/// Gives messages their places: the tree is made again once, and only if there is something to say.
fn place(entry: &Entry, messages: &mut [Message]) {
    if messages.is_empty() || entry.pos.line == 0 {
        return;
    }
    let node = entry.source.node();
    for message in messages {
        let (line, column) = node.position(&message.field);
        message.pos = mizzen_api::Pos { file: entry.pos.file.clone(), line, column };
    }
}

/// Istio's ingress gateway, as its installation has it by default.
fn assumed() -> impl Iterator<Item = Node> {
    [
        "{apiVersion: v1, kind: Pod, metadata: {name: istio-ingressgateway-dummypod, namespace: istio-system, labels: {istio: ingressgateway}}}",
        "{apiVersion: v1, kind: Service, metadata: {name: istio-ingressgateway, namespace: istio-system}, spec: {selector: {istio: ingressgateway}, \
         ports: [{name: http2, port: 80}, {name: https, port: 443}, {name: tcp, port: 31400}, {name: tls, port: 15443}]}}",
    ]
    .into_iter()
    .filter_map(|text| Node::of_text(text, 0))
}

fn messages_of(entry: &Entry) -> impl Iterator<Item = &Message> {
    let is_told = |message: &&Message| !entry.silenced.iter().any(|code| &**code == "*" || &**code == message.code.id);
    entry.own.iter().chain(&entry.cross).filter(is_told)
}
