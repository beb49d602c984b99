//! The one writer: events of the sources in, snapshots out.
//!
//! A burst of events becomes one snapshot. A pod's event does not wait for the rest of a burst: an endpoint that is gone must be known at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mizzen_api::{Kind, Object, Problem, istio::MeshConfig};
use mizzen_model::{Change, ChangeSet, Closed, Query, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    memo::Memo,
    metrics::Metrics,
    source::{Event, Fault, Refused},
};

/// A burst has ended when nothing came for so long,
const QUIET: Duration = Duration::from_millis(20);
/// and is taken as it is after so long.
const MOST: Duration = Duration::from_millis(150);

/// All objects are looked at together, which costs more than most changes, when nothing came for so long.
const CALM: Duration = Duration::from_millis(500);
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The newest snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) snapshot: Arc<Snapshot>,
}

/// What is wrong with the configuration, for people.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) refused: BTreeMap<Fault, Refused>,
    pub(crate) warnings: BTreeMap<Arc<str>, Vec<Problem>>,
    /// What the objects of the newest snapshot together show, in order.
    pub(crate) together: Vec<Problem>,
    /// Which snapshot that was.
    together_of: u64,
}

/// Makes the next snapshot from events; knows no clock.
#[derive(Debug)]
struct SnapshotBuilder {
    current: Arc<Snapshot>,
    /// The settings that hold while no source has any.
    base: Arc<Object>,
    relisting: bool,
    pending: Vec<Change>,
    ready: bool,
    /// What differs from the snapshot that was published last.
    changes: ChangeSet,
    metrics: Arc<Metrics>,
}

impl SnapshotBuilder {
    fn new(base: MeshConfig, metrics: Arc<Metrics>) -> Self {
        let base: Arc<Object> = Arc::new(base.into());
        let current = Snapshot::empty().apply([Change::Apply(base.clone())]);
        SnapshotBuilder { current, base, relisting: false, pending: Vec::new(), ready: false, changes: ChangeSet::default(), metrics }
    }

    /// Takes an event. Returns whether it must not wait.
    fn event(&mut self, event: Event, faults: &Mutex<Faults>) -> bool {
        let mut urgent = false;
        self.count(&event);
        match event {
            Event::Init => {
                self.relisting = true;
                self.pending.clear();
            }
            Event::InitDone => {
                self.relist();
                urgent = true;
            }
            Event::Apply(object) => {
                urgent = object.kind() == Kind::Pod;
                self.pending.push(Change::Apply(self.domain_of_base(object)));
            }
            Event::Delete(key) => {
                urgent = key.kind == Kind::Pod;
                let base = key == self.base.key();
                self.pending.push(if base { Change::Apply(self.base.clone()) } else { Change::Delete(key) });
            }
            Event::Closed(closed) => {
                tracing::warn!(policy = %closed.key, reason = %closed.problem, "refused, and there is no good version: what it selects is closed");
                self.pending.push(Change::Close(Closed { key: closed.key, selector: closed.selector }));
            }
            Event::Refused(refused) => {
                for problem in &refused.problems {
                    tracing::warn!(%problem, kept = refused.kept, "refused");
                }
                lock(faults).refused.insert(refused.fault.clone(), refused);
            }
            Event::Mended(fault) => {
                lock(faults).refused.remove(&fault);
            }
            Event::Warnings(file, warnings) => {
                for problem in &warnings {
                    tracing::info!(%problem, "not acted on");
                }
                let mut faults = lock(faults);
                if warnings.is_empty() { drop(faults.warnings.remove(&file)) } else { drop(faults.warnings.insert(file, warnings)) }
            }
        }
        urgent && !self.relisting
    }

    fn count(&self, event: &Event) {
        match event {
            Event::Apply(object) => match self.current.object(&object.key()) {
                None => self.metrics.event(object.kind(), "add"),
                // What has only moved within its files is no news.
                Some(known) if **known == **object => {}
                Some(_) => self.metrics.event(object.kind(), "update"),
            },
            Event::Delete(key) => self.metrics.event(key.kind, "delete"),
            Event::Refused(refused) => self.metrics.refused(refused.fault.key.as_ref().map(|key| key.kind)),
            _ => {}
        }
    }

    /// The trust domain is one for a process's life: the CA and everybody's names hang on it. A MeshConfig that is silent about it gets the one
    /// that the control plane was started with, and a change waits for the next start.
    fn domain_of_base(&self, object: Arc<Object>) -> Arc<Object> {
        let Object::MeshConfig(given) = &*object else { return object };
        let ours = match &*self.base {
            Object::MeshConfig(base) if !self.ready => &base.trust_domain,
            _ => &self.current.mesh().trust_domain,
        };
        let silent = given.trust_domain == Default::default();
        if given.trust_domain == *ours || !(silent || self.ready) {
            return object;
        }
        if !silent {
            tracing::warn!(wished = %given.trust_domain, kept = %ours, "another trust domain needs a restart of the control plane");
        }
        Arc::new(MeshConfig { trust_domain: ours.clone(), ..given.clone() }.into())
    }

    fn relist(&mut self) {
        self.relisting = false;
        self.ready = true;
        let mut objects = vec![self.base.clone()];
        let mut closed = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Apply(object) => objects.push(object),
                Change::Close(refused) => closed.push(refused),
                Change::Delete(key) => objects.retain(|o| o.key() != key),
            }
        }
        let next = self.current.replace(objects, closed);
        self.go_to(next);
    }

    fn go_to(&mut self, next: Arc<Snapshot>) {
        if next.version() != self.current.version() {
            self.changes.merge(next.changes());
            self.current = next;
        }
    }

    fn has_work(&self) -> bool {
        !self.relisting && !self.pending.is_empty()
    }

    fn flush(&mut self) -> Arc<Snapshot> {
        if self.has_work() {
            let next = self.current.apply(std::mem::take(&mut self.pending));
            self.go_to(next);
        }
        self.current.clone()
    }
}

/// Writes until the sources end. `published` holds `None` until the first state is complete.
pub(crate) async fn run(
    mut events: mpsc::UnboundedReceiver<Event>,
    base: MeshConfig,
    faults: Arc<Mutex<Faults>>,
    memo: Arc<Memo>,
    metrics: Arc<Metrics>,
    published: watch::Sender<Option<Published>>,
) {
    let mut builder = SnapshotBuilder::new(base, metrics.clone());
    let mut first: Option<Instant> = None;
    let mut unseen: Option<Arc<Snapshot>> = None;
    loop {
        let urgent = match first {
            None => match tokio::time::timeout(if unseen.is_some() { CALM } else { FOR_EVER }, events.recv()).await {
                Ok(None) => return,
                Ok(Some(event)) => builder.event(event, &faults),
                Err(_) => {
                    if let Some(snapshot) = unseen.take() {
                        let faults = faults.clone();
                        tokio::task::spawn_blocking(move || look_over(&snapshot, &faults));
                    }
                    continue;
                }
            },
            Some(first) => match tokio::time::timeout_at((first + MOST).min(Instant::now() + QUIET), events.recv()).await {
                Ok(None) => return,
                Ok(Some(event)) => builder.event(event, &faults),
                Err(_) => true,
            },
        };
        if !urgent {
            first = first.or_else(|| builder.has_work().then(Instant::now));
            continue;
        }
        let gathered = first.take().map_or(Duration::ZERO, |first| first.elapsed());
        while let Ok(event) = events.try_recv() {
            builder.event(event, &faults);
        }
        let begun = Instant::now();
        let next = builder.flush();
        let changes = publish(&published, next.clone(), &mut builder, &memo).await;
        if changes.is_some() {
            metrics.published(gathered, begun.elapsed());
        }
        if unseen.is_some() || changes.is_some_and(|changes| is_looked_over(&changes)) {
            unseen = Some(next);
        }
    }
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
    for problem in found.iter().filter(|problem| before.binary_search(problem).is_err()) {
        tracing::warn!(%problem, "has no effect");
    }
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
mod tests {
    use mizzen_api::{Key, Pos};

    use super::*;

    fn event(yaml: &str) -> Event {
        let parsed = mizzen_api::parse_documents(yaml, &"test.yaml".into());
        Event::Apply(Arc::new(parsed.objects.into_iter().last().unwrap().unwrap()))
    }

    fn namespace(name: &str) -> Event {
        event(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"))
    }

    fn pod(name: &str) -> Event {
        event(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, spec: {{containers: [{{name: app}}]}}}}"))
    }

    fn mesh(domain: &str) -> Event {
        let mesh = format!("trustDomain: {domain}");
        event(&format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: \"{mesh}\"}}}}"
        ))
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        snapshot.keys().filter(|k| k.kind != Kind::MeshConfig).map(|k| k.name.to_string()).collect()
    }

    struct Running {
        events: mpsc::UnboundedSender<Event>,
        published: watch::Receiver<Option<Published>>,
    }

    impl Running {
        fn start(base: MeshConfig) -> Self {
            let (events, received) = mpsc::unbounded_channel();
            let (publish, published) = watch::channel(None);
            tokio::spawn(run(received, base, Arc::default(), Arc::default(), Arc::default(), publish));
            Running { events, published }
        }

        fn send(&self, events: impl IntoIterator<Item = Event>) {
            events.into_iter().for_each(|e| self.events.send(e).unwrap());
        }

        async fn next(&mut self) -> Arc<Snapshot> {
            self.published.changed().await.unwrap();
            self.published.borrow_and_update().as_ref().unwrap().snapshot.clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_snapshot() {
        let mut running = Running::start(MeshConfig::default());
        running.send([Event::Init, namespace("a"), pod("p")]);
        running.send([namespace("b"), Event::InitDone]);
        let first = running.next().await;
        assert_eq!(names(&first), ["a", "b", "p"]);
        let start = Instant::now();
        for name in ["c", "d", "e"] {
            running.send([namespace(name)]);
            tokio::time::advance(QUIET / 2).await;
        }
        let second = running.next().await;
        assert_eq!(names(&second), ["a", "b", "c", "d", "e", "p"]);
        assert_eq!(second.version(), first.version() + 1);
        assert!(start.elapsed() <= QUIET * 3);
        // A pod does not wait, and takes along what came before it.
        let start = Instant::now();
        running.send([namespace("f"), pod("q")]);
        assert_eq!(names(&*running.next().await), ["a", "b", "c", "d", "e", "f", "p", "q"]);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_without_end_is_taken_as_it_is() {
        let mut running = Running::start(MeshConfig::default());
        running.send([Event::Init, Event::InitDone]);
        running.next().await;
        let start = Instant::now();
        for i in 0..40 {
            running.send([namespace(&format!("n{i}"))]);
            tokio::time::advance(QUIET / 4).await;
            tokio::task::yield_now().await;
        }
        assert!(running.published.has_changed().unwrap());
        assert!(start.elapsed() >= MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_relist_is_swapped_in_whole() {
        let mut running = Running::start(MeshConfig::default());
        running.send([Event::Init, namespace("a"), namespace("b"), Event::InitDone]);
        running.next().await;
        running.send([Event::Init, namespace("b"), pod("p"), namespace("c"), Event::InitDone]);
        assert_eq!(names(&*running.next().await), ["b", "c", "p"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_trust_domain_for_life() {
        let base = MeshConfig { trust_domain: "started.example".parse().unwrap(), ..MeshConfig::default() };
        let mut running = Running::start(base);
        running.send([Event::Init, Event::InitDone]);
        assert_eq!(running.next().await.mesh().trust_domain.as_str(), "started.example");
        running.send([mesh("other.example"), namespace("a")]);
        assert_eq!(running.next().await.mesh().trust_domain.as_str(), "started.example");
        running.send([Event::Delete(Key::new(Kind::MeshConfig, "istio-system", "istio")), namespace("b")]);
        let snapshot = running.next().await;
        assert_eq!((snapshot.mesh().trust_domain.as_str(), names(&snapshot).len()), ("started.example", 2));
        let mut running = Running::start(MeshConfig::default());
        running.send([Event::Init, mesh("first.example"), Event::InitDone]);
        assert_eq!(running.next().await.mesh().trust_domain.as_str(), "first.example");
    }

    fn counts(faults: &Mutex<Faults>) -> (usize, usize) {
        let faults = lock(faults);
        (faults.refused.len(), faults.warnings.len())
    }

    #[test]
    fn what_objects_show_together_is_told() {
        let faults = Mutex::default();
        let mut builder = SnapshotBuilder::new(MeshConfig::default(), Arc::default());
        let rules = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: r, namespace: shop}, \
                     spec: {hosts: [a.example], http: [{route: [{destination: {host: web}}]}]}}";
        builder.event(event(rules), &faults);
        look_over(&builder.flush(), &faults);
        let lines: Vec<String> = lock(&faults).together.iter().map(ToString::to_string).collect();
        let place = "test.yaml:1: VirtualService shop/r: spec.http[0].route[0].destination.host";
        assert_eq!(lines, [format!("{place}: there is no service web.shop.svc.cluster.local")]);
        builder.event(Event::Delete(Key::new(Kind::VirtualService, "shop", "r")), &faults);
        look_over(&builder.flush(), &faults);
        assert!(lock(&faults).together.is_empty());
    }

    #[test]
    fn events_are_counted() {
        let metrics = Arc::new(Metrics::default());
        let (faults, mut builder) = (Mutex::default(), SnapshotBuilder::new(MeshConfig::default(), metrics.clone()));
        let service = |port: u16| {
            let head = "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {ports: [{name: http, port: ";
            event(&format!("{head}{port}}}]}}}}"))
        };
        let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: shop}, \
                     spec: {hosts: [a.example], ports: [{number: 80, name: http}], resolution: DNS}}";
        for event in [service(80), service(80), service(81), event(entry), namespace("shop")] {
            builder.event(event, &faults);
            builder.flush();
        }
        builder.event(Event::Delete(Key::new(Kind::ServiceEntry, "shop", "e")), &faults);
        let problem = Problem { pos: Pos::new("a.yaml", 3, 1), object: None, field: String::new(), message: "bad".into() };
        for key in [None, Some(Key::new(Kind::Gateway, "shop", "g"))] {
            let fault = Fault { file: "a.yaml".into(), key, document: 0 };
            builder.event(Event::Refused(Refused { fault, problems: vec![problem.clone()], kept: false }), &faults);
        }
        for (line, there) in [
            ("pilot_k8s_reg_events{event=\"add\",type=\"Services\"} 1", true),
            ("pilot_k8s_reg_events{event=\"update\",type=\"Services\"} 1", true),
            ("pilot_k8s_cfg_events{event=\"add\",type=\"ServiceEntry\"} 1", true),
            ("pilot_k8s_cfg_events{event=\"delete\",type=\"ServiceEntry\"} 1", true),
            ("pilot_total_rejected_configs{type=\"Gateway\"} 1", true),
            ("pilot_total_rejected_configs{type=\"unknown\"} 1", true),
            ("Namespace", false),
        ] {
            assert_eq!(metrics.render(&Default::default()).contains(line), there, "{line}");
        }
    }

    #[test]
    fn faults_come_and_go() {
        let faults = Mutex::default();
        let mut builder = SnapshotBuilder::new(MeshConfig::default(), Arc::default());
        let fault = Fault { file: "a.yaml".into(), key: None, document: 1 };
        let problem = Problem { pos: Pos::new("a.yaml", 3, 1), object: None, field: String::new(), message: "bad".into() };
        builder.event(Event::Refused(Refused { fault: fault.clone(), problems: vec![problem.clone()], kept: true }), &faults);
        builder.event(Event::Warnings("a.yaml".into(), vec![problem.clone()]), &faults);
        assert_eq!(counts(&faults), (1, 1));
        builder.event(Event::Mended(fault), &faults);
        builder.event(Event::Warnings("a.yaml".into(), vec![]), &faults);
        assert_eq!(counts(&faults), (0, 0));
        let key = Key::new(Kind::AuthorizationPolicy, "shop", "deny");
        builder.event(Event::Closed(crate::source::Closed { key: key.clone(), selector: None, problem }), &faults);
        assert_eq!(builder.flush().closed().count(), 1);
        builder.event(Event::Delete(key), &faults);
        assert_eq!(builder.flush().closed().count(), 0);
    }
}
