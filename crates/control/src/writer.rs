//! The one writer: events of the sources in, snapshots out.
//!
//! A burst of events becomes one snapshot. A change of nothing but endpoints, as any pod's, does not wait for the rest of a burst: one that is
//! gone must be known at once. Those of a service that is new itself come with it: a thousand of them that are made one after the other are a few
//! snapshots, not a thousand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mizzen_api::{
    Key, Kind, Object, Problem,
    istio::{MeshConfig, OutboundTrafficPolicy, ServiceEntry},
};
use mizzen_model::{Change, ChangeSet, Closed, Query, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    memo::Memo,
    metrics::Metrics,
    source::{Changed, Event, Fault, Held, Merge, Refused, SourceId},
};

/// A burst has ended when nothing came for so long, or for less if there was none for a while: one save comes at once,
const QUIET: Duration = Duration::from_millis(20);
const AT_ONCE: Duration = Duration::from_millis(1);
/// and is taken as it is after so long.
const MOST: Duration = Duration::from_millis(150);

/// All objects are looked at together, which costs more than most changes, when nothing came for so long.
const CALM: Duration = Duration::from_millis(500);
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the sources say.
pub(crate) type Events = mpsc::UnboundedReceiver<(SourceId, Event)>;

/// The newest snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) snapshot: Arc<Snapshot>,
}

/// What is wrong with the configuration, for people.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) refused: BTreeMap<(SourceId, Fault), Refused>,
    pub(crate) warnings: BTreeMap<(SourceId, Arc<str>), Vec<Problem>>,
    /// What an earlier source's object keeps out of force, in order.
    pub(crate) hidden: Vec<Problem>,
    /// What the objects of the newest snapshot together show, in order.
    pub(crate) together: Vec<Problem>,
    /// Which snapshot that was.
    together_of: u64,
}

/// What the process was started with, and holds whatever the sources say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// Whether only what the registry names can be called.
    pub(crate) registry_only: bool,
    /// The Secret with which Gateways of plain text are served over HTTPS, too.
    pub(crate) https_credential: Option<String>,
}

/// Makes the next snapshot from events; knows no clock.
#[derive(Debug)]
struct SnapshotBuilder {
    merge: Merge,
    /// What was told of what is hidden.
    hidden: u64,
    current: Arc<Snapshot>,
    /// The settings that hold while no source has any.
    base: Arc<Object>,
    overrides: Overrides,
    /// Whether there has been a whole state.
    ready: bool,
    /// What differs from the snapshot that was published last.
    changes: ChangeSet,
    metrics: Arc<Metrics>,
}

impl SnapshotBuilder {
    fn new(merge: Merge, base: MeshConfig, metrics: Arc<Metrics>) -> Self {
        let base: Arc<Object> = Arc::new(base.into());
        let current = Snapshot::empty().apply([Change::Apply(base.clone())]);
        let overrides = Overrides::default();
        SnapshotBuilder { merge, hidden: 0, current, base, overrides, ready: false, changes: ChangeSet::default(), metrics }
    }

    /// Takes an event. Returns whether it must not wait.
    fn event(&mut self, source: SourceId, event: Event, faults: &Mutex<Faults>) -> bool {
        self.count(source, &event);
        let urgent = match &event {
            Event::InitDone => true,
            Event::Apply(object) => self.moves_endpoints(object),
            Event::Delete(key) => matches!(key.kind, Kind::Pod | Kind::EndpointSlice),
            Event::Refused(refused) => {
                for problem in &refused.problems {
                    tracing::warn!(%problem, kept = refused.kept, "refused");
                }
                lock(faults).refused.insert((source, refused.fault.clone()), refused.clone());
                false
            }
            Event::Mended(fault) => {
                lock(faults).refused.remove(&(source, fault.clone()));
                false
            }
            Event::Warnings(file, warnings) => {
                // Whoever is about no object, and in no file, has said it already.
                for problem in warnings.iter().filter(|problem| problem.object.is_some() || !problem.pos.file.is_empty()) {
                    tracing::info!(%problem, "not acted on");
                }
                let (mut faults, key) = (lock(faults), (source, file.clone()));
                if warnings.is_empty() {
                    drop(faults.warnings.remove(&key))
                } else {
                    drop(faults.warnings.insert(key, warnings.clone()))
                }
                false
            }
            Event::Init | Event::Closed(_) => false,
        };
        self.merge.take(source, event);
        urgent && self.merge.is_complete() && !self.merge.is_listing(source)
    }

    /// Whether an object changes nothing but where calls go: such a change must not wait for others.
    fn moves_endpoints(&self, object: &Object) -> bool {
        match (object, self.current.object(&object.key()).map(|known| &**known)) {
            (Object::Pod(_), _) | (Object::EndpointSlice(_), Some(_)) => true,
            // The first ones of a service that comes in the same burst: nobody calls it yet.
            (Object::EndpointSlice(new), None) => {
                new.service().is_some_and(|service| self.current.object(&Key::new(Kind::Service, &*new.meta.namespace, service)).is_some())
            }
            (Object::ServiceEntry(new), Some(Object::ServiceEntry(old))) => {
                ServiceEntry { endpoints: old.endpoints.clone(), ..new.clone() } == *old
            }
            _ => false,
        }
    }

    /// Counts what is new to its source.
    fn count(&self, source: SourceId, event: &Event) {
        let known = |key: &Key| match self.merge.of(source, key) {
            Some(Held::Object(known)) => Some(known),
            Some(Held::Closed(_)) | None => None,
        };
        match event {
            Event::Apply(object) => match known(&object.key()) {
                None => self.metrics.event(object.kind(), "add"),
                // What has only moved within its files is no news.
                Some(known) if **known == **object => {}
                Some(_) => self.metrics.event(object.kind(), "update"),
            },
            Event::Delete(key) if known(key).is_some() => self.metrics.event(key.kind, "delete"),
            Event::Refused(refused) => self.metrics.refused(refused.fault.key.as_ref().map(|key| key.kind)),
            _ => {}
        }
    }

    /// The trust domain is one for a process's life: the CA and everybody's names hang on it. A MeshConfig that is silent about it gets the one
    /// that the control plane was started with, and a change waits for the next start. Who fetches keys is a setting of the process too, and whom Gateways select.
    fn domain_of_base(&self, object: Arc<Object>) -> Arc<Object> {
        let Object::MeshConfig(given) = &*object else { return object };
        let (jwks_by, gateways_stay_home) = match &*self.base {
            Object::MeshConfig(base) => (base.jwks_by, base.gateways_stay_home),
            _ => (given.jwks_by, given.gateways_stay_home),
        };
        let ours = match &*self.base {
            Object::MeshConfig(base) if !self.ready => &base.trust_domain,
            _ => &self.current.mesh().trust_domain,
        };
        let silent = given.trust_domain == Default::default();
        if given.trust_domain == *ours || !(silent || self.ready) {
            let is_right = (jwks_by, gateways_stay_home) == (given.jwks_by, given.gateways_stay_home);
            return if is_right { object } else { Arc::new(MeshConfig { jwks_by, gateways_stay_home, ..(**given).clone() }.into()) };
        }
        if !silent {
            tracing::warn!(wished = %given.trust_domain, kept = %ours, "another trust domain needs a restart of the control plane");
        }
        Arc::new(MeshConfig { trust_domain: ours.clone(), jwks_by, gateways_stay_home, ..(**given).clone() }.into())
    }

    /// A MeshConfig under which nothing leaves the mesh that the registry does not name, and a Gateway that is served over HTTPS, too, if that is asked for.
    fn overridden(&self, object: Arc<Object>) -> Arc<Object> {
        match (&*object, &self.overrides.https_credential) {
            (Object::Gateway(given), Some(credential)) => match given.also_https(credential) {
                Some(more) => Arc::new(more.into()),
                None => object,
            },
            (Object::MeshConfig(given), _)
                if self.overrides.registry_only && given.outbound_traffic_policy != OutboundTrafficPolicy::RegistryOnly =>
            {
                tracing::warn!("outboundTrafficPolicy stays REGISTRY_ONLY, as the control plane was started");
                Arc::new(MeshConfig { outbound_traffic_policy: OutboundTrafficPolicy::RegistryOnly, ..(**given).clone() }.into())
            }
            _ => object,
        }
    }

    /// What has changed in the merged sources, as changes of the snapshot.
    fn pending(&mut self) -> Vec<Change> {
        let mut pending = Vec::new();
        for Changed { key, now } in self.merge.changes() {
            match now {
                Some(Held::Object(object)) => pending.push(Change::Apply(self.domain_of_base(self.overridden(object)))),
                Some(Held::Closed(closed)) => {
                    tracing::warn!(policy = %key, reason = %closed.problem, "refused, and there is no good version: what it selects is closed");
                    // It may hide another source's good version, which has been in force.
                    if self.current.object(&key).is_some() {
                        pending.push(Change::Delete(key.clone()));
                    }
                    pending.push(Change::Close(Closed { key, selector: closed.selector.clone() }));
                }
                None if key == self.base.key() => pending.push(Change::Apply(self.base.clone())),
                None => pending.push(Change::Delete(key)),
            }
        }
        pending
    }

    fn has_work(&self) -> bool {
        self.merge.has_changes()
    }

    fn flush(&mut self, faults: &Mutex<Faults>) -> Arc<Snapshot> {
        if self.has_work() {
            let pending = self.pending();
            let next = self.current.apply(pending);
            if next.version() != self.current.version() {
                self.changes.merge(next.changes());
                self.current = next;
            }
        }
        self.ready |= self.merge.is_complete();
        if self.ready && self.hidden != self.merge.hidden_version() {
            self.hidden = self.merge.hidden_version();
            let hidden = self.merge.hidden();
            let before = std::mem::replace(&mut lock(faults).hidden, hidden.clone());
            tell(&before, &hidden, |problem| tracing::info!(%problem, "hidden"));
        }
        self.current.clone()
    }
}

/// Writes until the sources end. `published` holds `None` until every source has listed.
pub(crate) async fn run(
    merge: Merge,
    mut events: Events,
    (base, overrides): (MeshConfig, Overrides),
    faults: Arc<Mutex<Faults>>,
    memo: Arc<Memo>,
    metrics: Arc<Metrics>,
    published: watch::Sender<Option<Published>>,
) {
    let mut builder = SnapshotBuilder { overrides, ..SnapshotBuilder::new(merge, base, metrics.clone()) };
    let mut first: Option<Instant> = None;
    let mut last: Option<Instant> = None;
    let mut unseen: Option<Arc<Snapshot>> = None;
    if builder.merge.is_complete() {
        // Without a source there is nothing to wait for.
        let empty = builder.flush(&faults);
        publish(&published, empty, &mut builder, &memo).await;
    }
    loop {
        let urgent = match first {
            None => match tokio::time::timeout(if unseen.is_some() { CALM } else { FOR_EVER }, events.recv()).await {
                Ok(None) => return,
                Ok(Some((source, event))) => builder.event(source, event, &faults),
                Err(_) => {
                    if let Some(snapshot) = unseen.take() {
                        let faults = faults.clone();
                        tokio::task::spawn_blocking(move || look_over(&snapshot, &faults));
                    }
                    continue;
                }
            },
            Some(first) => match tokio::time::timeout_at((first + MOST).min(Instant::now() + quiet(first, last)), events.recv()).await {
                Ok(None) => return,
                Ok(Some((source, event))) => builder.event(source, event, &faults),
                Err(_) => true,
            },
        };
        if !urgent {
            first = first.or_else(|| builder.has_work().then(Instant::now));
            continue;
        }
        let gathered = first.take().map_or(Duration::ZERO, |first| first.elapsed());
        while let Ok((source, event)) = events.try_recv() {
            builder.event(source, event, &faults);
        }
        let begun = Instant::now();
        let next = builder.flush(&faults);
        let changes = publish(&published, next.clone(), &mut builder, &memo).await;
        if changes.is_some() {
            metrics.published(gathered, begun.elapsed());
            last = Some(Instant::now());
        }
        if unseen.is_some() || changes.is_some_and(|changes| is_looked_over(&changes)) {
            unseen = Some(next);
        }
    }
}

/// How long nothing must come for a burst to have ended that began at `first`, if something was last published at `last`.
fn quiet(first: Instant, last: Option<Instant>) -> Duration {
    if last.is_some_and(|last| first.saturating_duration_since(last) < CALM) { QUIET } else { AT_ONCE }
}

/// Tells what a snapshot shows that the one before did not.
fn look_over(snapshot: &Snapshot, faults: &Mutex<Faults>) {
    let found = mizzen_model::check(snapshot);
    let before = {
        let mut faults = lock(faults);
        // A newer one may have been looked at meanwhile.
        if faults.together_of > snapshot.version() {
            return;
        }
        faults.together_of = snapshot.version();
        std::mem::replace(&mut faults.together, found.clone())
    };
    tell(&before, &found, |problem| tracing::warn!(%problem, "has no effect"));
}

/// Says what is in an ordered list and was not in the one before.
fn tell(before: &[Problem], now: &[Problem], say: impl Fn(&Problem)) {
    now.iter().filter(|problem| before.binary_search(problem).is_err()).for_each(say);
}

/// Whether what objects show together may hang on this.
fn is_looked_over(changes: &ChangeSet) -> bool {
    let alone = |kind: &Kind| matches!(kind, Kind::Namespace | Kind::ServiceAccount | Kind::ConfigMap | Kind::Secret);
    changes.queries().any(|query| match query {
        Query::Kind(kind) => !alone(kind),
        query => matches!(query, Query::Mesh | Query::Services),
    })
}

/// Returns what was published of which somebody may be told.
async fn publish(
    published: &watch::Sender<Option<Published>>,
    next: Arc<Snapshot>,
    builder: &mut SnapshotBuilder,
    memo: &Arc<Memo>,
) -> Option<Arc<ChangeSet>> {
    let same = published.borrow().as_ref().is_some_and(|p| p.snapshot.version() == next.version());
    if !builder.ready || same {
        return None;
    }
    let changes = Arc::new(std::mem::take(&mut builder.changes));
    if memo.is_empty() {
        memo.advance(&next, &changes);
    } else {
        let (memo, next, differs) = (memo.clone(), next.clone(), changes.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || memo.advance(&next, &differs)).await {
            tracing::error!(%error, "a change could not be taken");
            // The next change brings it along.
            builder.changes.merge(&changes);
            return None;
        }
    }
    tracing::debug!(version = next.version(), "new snapshot");
    published.send_replace(Some(Published { snapshot: next }));
    Some(changes)
}

pub(crate) fn lock(faults: &Mutex<Faults>) -> std::sync::MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
