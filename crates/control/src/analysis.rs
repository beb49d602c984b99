//! Looks at what is in force, beside the way of a change to the proxies, and keeps what is to be said of it: for the log, for metrics, and for
//! `mizzen analyze`.
//!
//! A change costs what it changes: objects are found by the stamps of their kinds and namespaces, and an object's messages are made again when an answer
//! to what was asked for them has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mizzen_analyze::{Analysis, Item, Level, Message, Options, Sort, id_of_key};
use mizzen_api::{Kind, Object};
use mizzen_model::Snapshot;
use mizzen_types::Name;
use tokio::sync::watch;

use crate::{admission::Admission, writer::Published};

/// What is in force is looked at when nothing has changed for so long.
const QUIET: Duration = Duration::from_millis(300);
/// The scope of its lines in the log.
pub(crate) const SCOPE: &str = "analysis";

/// What is known of the mesh, and what is to be said of it.
#[derive(Debug)]
struct Analyzer {
    analysis: Analysis,
    /// What is to be said of the control plane itself, whatever else there is.
    own: Vec<Message>,
    /// The newest snapshot that was looked at.
    version: u64,
    /// Names and stamps of what was seen, by kind and namespace.
    seen: BTreeMap<(Kind, Name), BTreeMap<Name, u64>>,
    /// What was said last.
    told: BTreeSet<Message>,
}

impl Analyzer {
    fn new(stand_alone: bool, own: Vec<Message>) -> Self {
        // In a cluster those Secrets alone are known that gateways have asked for, and not as documents.
        let analysis = Analysis::new(Options { follows: true, stand_alone, without_secrets: !stand_alone, ..Options::default() });
        Analyzer { analysis, own, version: 0, seen: BTreeMap::new(), told: BTreeSet::new() }
    }

    fn said(&self) -> impl Iterator<Item = &Message> {
        self.analysis.messages().into_iter().chain(&self.own)
    }
}

/// What is known, for all who ask.
#[derive(Debug)]
pub(crate) struct Analyzed {
    /// Held for as long as something is looked at.
    analyzer: Mutex<Analyzer>,
    /// Held for a moment, since metrics do not wait for that.
    counts: Mutex<Counts>,
}

/// How many messages there are, by code and level.
pub(crate) type Counts = BTreeMap<(&'static str, &'static str), u64>;

impl Analyzed {
    /// Nothing yet but what is to be said of the control plane itself. On a host of its own every workload has a proxy.
    pub(crate) fn new(stand_alone: bool, own: Vec<Message>) -> Analyzed {
        Analyzed { analyzer: Mutex::new(Analyzer::new(stand_alone, own)), counts: Mutex::default() }
    }

    /// Blocks while something is looked at.
    pub(crate) fn messages(&self, snapshot: &Snapshot) -> Vec<Message> {
        lock(&self.analyzer).messages(snapshot)
    }

    /// As they were when something was last looked at.
    pub(crate) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    fn look(&self, snapshot: &Snapshot) {
        let mut analyzer = lock(&self.analyzer);
        analyzer.look(snapshot);
        analyzer.news();
        *lock(&self.counts) = analyzer.counts();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows what is published until the control plane ends.
pub(crate) async fn follow(mut published: watch::Receiver<Option<Published>>, analyzed: Arc<Analyzed>, admission: Arc<Admission>) {
    loop {
        // Proxies come first.
        while admission.waiting() > 0 {
            tokio::time::sleep(QUIET).await;
        }
        let snapshot = published.borrow_and_update().as_ref().map(|published| published.snapshot.clone());
        if let Some(snapshot) = snapshot {
            let analyzed = analyzed.clone();
            let looked = tokio::task::spawn_blocking(move || analyzed.look(&snapshot));
            if let Err(error) = looked.await {
                tracing::error!(%error, "the configuration could not be analyzed");
            }
        }
        if published.changed().await.is_err() {
            return;
        }
        while let Ok(changed) = tokio::time::timeout(QUIET, published.changed()).await {
            if changed.is_err() {
                return;
            }
        }
    }
}

impl Analyzer {
    /// Takes what has changed since the snapshot that was looked at last.
    fn look(&mut self, snapshot: &Snapshot) {
        let changed: Vec<(Kind, Name)> = snapshot
            .changed_since(self.version)
            .filter(|(kind, _)| !matches!(kind, Kind::IssuerKeys | Kind::EndpointSlice))
            .map(|(k, ns)| (k, ns.clone()))
            .collect();
        for place in changed {
            let mut now = BTreeMap::new();
            let before = self.seen.remove(&place).unwrap_or_default();
            for (object, stamp) in snapshot.within(place.0, &place.1) {
                let name = object.meta().name.clone();
                if before.get(&name) != Some(&stamp) {
                    self.put(object);
                }
                now.insert(name, stamp);
            }
            for name in before.keys().filter(|name| !now.contains_key(*name)) {
                self.analysis.remove(&id_of_key(&mizzen_api::Key::new(place.0, place.1.clone(), name.clone())));
            }
            if !now.is_empty() {
                self.seen.insert(place, now);
            }
        }
        self.version = snapshot.version();
        self.analysis.update();
    }

    fn put(&mut self, object: &Object) {
        let meta = object.meta();
        // What the API server has was never a document.
        let node = if meta.source.is_empty() { mizzen_api::core::cluster::document(object) } else { meta.source.node() };
        let (id, pos, source) = (id_of_key(&object.key()), meta.origin.clone(), meta.source.clone());
        self.analysis.put(&Item { id, pos, node: &node, source, problems: &[], warnings: &[] });
    }

    /// Says in the log what is new, and what is over.
    fn news(&mut self) {
        let now: BTreeSet<Message> = self.said().filter(|message| message.code.level > Level::Info).cloned().collect();
        for message in now.difference(&self.told) {
            match message.code.level {
                Level::Error => tracing::error!(target: SCOPE, "{message}"),
                _ => tracing::warn!(target: SCOPE, "{message}"),
            }
        }
        for message in self.told.difference(&now) {
            tracing::info!(target: SCOPE, "no more: {message}");
        }
        self.told = now;
    }

    /// All that is to be said now, with places as they are in this snapshot: an object that has only moved within its file is not looked at again.
    fn messages(&self, snapshot: &Snapshot) -> Vec<Message> {
        let mut messages: Vec<Message> = self.said().cloned().collect();
        let mut last: Option<(mizzen_analyze::Id, Arc<Object>, mizzen_api::Node)> = None;
        for message in messages.iter_mut().filter(|message| message.pos.line > 0) {
            if last.as_ref().is_none_or(|(id, ..)| *id != message.id) {
                let key = key_of(&message.id);
                last = key
                    .and_then(|key| snapshot.object(&key))
                    .map(|object| (message.id.clone(), object.clone(), object.meta().source.node()));
            }
            if let Some((_, object, node)) = last.as_ref().filter(|(id, ..)| *id == message.id) {
                let (line, column) = node.position(&message.field);
                message.pos = mizzen_api::Pos { file: object.meta().origin.file.clone(), line, column };
            }
        }
        messages.sort();
        messages
    }

    /// How many messages there are of each code.
    fn counts(&self) -> Counts {
        let mut counts = BTreeMap::new();
        for message in self.said() {
            *counts.entry((message.code.id, message.code.level.name())).or_default() += 1;
        }
        counts
    }
}

fn key_of(id: &mizzen_analyze::Id) -> Option<mizzen_api::Key> {
    let kind = match id.sort() {
        Sort::MeshConfig => Kind::MeshConfig,
        _ => Kind::of_group(&id.group, &id.kind)?,
    };
    Some(mizzen_api::Key::new(kind, id.namespace.clone(), id.name.clone()))
}

#[cfg(test)]
mod tests {
    use mizzen_model::Change;

    use super::*;

    fn objects(yaml: &str) -> Vec<Arc<Object>> {
        let parsed = mizzen_api::parse_documents(yaml, &"test.yaml".into());
        parsed.objects.into_iter().map(|object| Arc::new(object.unwrap())).collect()
    }

    fn apply(snapshot: &Arc<Snapshot>, yaml: &str) -> Arc<Snapshot> {
        snapshot.apply(objects(yaml).into_iter().map(Change::Apply).collect::<Vec<_>>())
    }

    fn service(number: usize) -> String {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: n{}}}, spec: {{selector: {{app: s{number}}}, ports: [{{name: http, port: 80}}]}}}}\n---\n",
            number % 50
        )
    }

    fn policy(number: usize, spec: &str) -> String {
        let namespace = number % 50;
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{number}, namespace: n{namespace}}}, spec: {{{spec}}}}}\n---\n"
        )
    }

    #[test]
    fn a_change_costs_what_it_changes() {
        let work = |size: usize| {
            let text: String =
                (0..size).map(|number| service(number) + &policy(number, "rules: [{to: [{operation: {methods: [GET]}}]}]")).collect();
            let snapshot = apply(&Snapshot::empty(), &text);
            let mut analyzer = Analyzer::new(true, Vec::new());
            analyzer.look(&snapshot);
            let before = analyzer.analysis.work();
            let next = apply(&snapshot, &policy(7, "rules: [{to: [{operation: {methods: [get]}}]}]"));
            analyzer.look(&next);
            assert!(analyzer.messages(&next).iter().any(|message| message.code.id == "MZ0103" && &*message.id.name == "p7"));
            analyzer.analysis.work() - before
        };
        // Of one namespace of fifty, whatever else there is.
        let (small, large) = (work(500), work(2000));
        assert!(small <= 30 && large <= 90, "{small} {large}");
    }

    #[test]
    fn tokens_of_the_first_party() {
        let id = mizzen_analyze::Id::new(Sort::Deployment, "istio-system", "istiod");
        let mut analyzer = Analyzer::new(false, vec![mizzen_analyze::takes_first_party_tokens(id)]);
        let snapshot = Snapshot::empty();
        analyzer.look(&snapshot);
        let said: Vec<String> = analyzer.messages(&snapshot).iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].starts_with("Warning [MZ0111] (Deployment istio-system/istiod) first-party tokens"), "{said:?}");
        assert_eq!(analyzer.counts(), BTreeMap::from([(("MZ0111", "Warning"), 1)]));
        assert!(Analyzer::new(false, Vec::new()).messages(&snapshot).is_empty());
    }

    #[test]
    fn what_goes_is_no_more_said_of() {
        let snapshot = apply(&Snapshot::empty(), &policy(1, "rules: [{to: [{operation: {methods: [get]}}]}]"));
        let mut analyzer = Analyzer::new(true, Vec::new());
        analyzer.look(&snapshot);
        assert_eq!(analyzer.counts().get(&("MZ0103", "Warning")), Some(&1));
        analyzer.news();
        let next = snapshot.apply([Change::Delete(mizzen_api::Key::new(Kind::AuthorizationPolicy, "n1", "p1"))]);
        analyzer.look(&next);
        assert_eq!(analyzer.counts().get(&("MZ0103", "Warning")), None);
        assert!(analyzer.analysis.is_empty());
    }
}
