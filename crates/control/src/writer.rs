//! The one writer: events of the sources in, snapshots out.
//!
//! A burst of events becomes one snapshot. A pod's event does not wait for the rest of a burst: an endpoint that is gone must be known at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mizzen_api::{Kind, Object, Problem, istio::MeshConfig};
use mizzen_model::{Change, Closed, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    memo::Memo,
    source::{Event, Fault, Refused},
};

/// A burst has ended when nothing came for so long,
const QUIET: Duration = Duration::from_millis(20);
/// and is taken as it is after so long.
const MOST: Duration = Duration::from_millis(150);

/// A snapshot, and since when it is the newest.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) since: Instant,
}

/// What is wrong with the configuration, for people.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) refused: BTreeMap<Fault, Refused>,
    pub(crate) warnings: BTreeMap<Arc<str>, Vec<Problem>>,
}

/// The fold of events into changes; knows no clock.
#[derive(Debug)]
struct Fold {
    current: Arc<Snapshot>,
    /// The settings that hold while no source has any.
    base: Arc<Object>,
    relisting: bool,
    pending: Vec<Change>,
    ready: bool,
}

impl Fold {
    fn new(base: MeshConfig) -> Self {
        let base: Arc<Object> = Arc::new(base.into());
        let current = Snapshot::empty().apply([Change::Apply(base.clone())]);
        Fold { current, base, relisting: false, pending: Vec::new(), ready: false }
    }

    /// Takes an event. Returns whether it must not wait.
    fn event(&mut self, event: Event, faults: &Mutex<Faults>) -> bool {
        let mut urgent = false;
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

    /// A MeshConfig that is silent about its trust domain gets the one that the control plane was started with.
    fn domain_of_base(&self, object: Arc<Object>) -> Arc<Object> {
        match (&*object, &*self.base) {
            (Object::MeshConfig(given), Object::MeshConfig(base))
                if given.trust_domain == Default::default() && given.trust_domain != base.trust_domain =>
            {
                Arc::new(MeshConfig { trust_domain: base.trust_domain.clone(), ..given.clone() }.into())
            }
            _ => object,
        }
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
        self.current = self.current.replace(objects, closed);
    }

    fn has_work(&self) -> bool {
        !self.relisting && !self.pending.is_empty()
    }

    fn flush(&mut self) -> Arc<Snapshot> {
        if self.has_work() {
            self.current = self.current.apply(std::mem::take(&mut self.pending));
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
    published: watch::Sender<Option<Published>>,
) {
    let mut fold = Fold::new(base);
    let mut first: Option<Instant> = None;
    loop {
        let urgent = match first {
            None => match events.recv().await {
                None => return,
                Some(event) => fold.event(event, &faults),
            },
            Some(first) => match tokio::time::timeout_at((first + MOST).min(Instant::now() + QUIET), events.recv()).await {
                Ok(None) => return,
                Ok(Some(event)) => fold.event(event, &faults),
                Err(_) => true,
            },
        };
        if !urgent {
            first = first.or_else(|| fold.has_work().then(Instant::now));
            continue;
        }
        first = None;
        while let Ok(event) = events.try_recv() {
            fold.event(event, &faults);
        }
        let next = fold.flush();
        publish(&published, next, fold.ready, &memo);
    }
}

fn publish(published: &watch::Sender<Option<Published>>, next: Arc<Snapshot>, ready: bool, memo: &Memo) {
    let same = published.borrow().as_ref().is_some_and(|p| p.snapshot.version() == next.version());
    if !ready || same {
        return;
    }
    memo.advance(&next);
    tracing::debug!(version = next.version(), "new snapshot");
    published.send_replace(Some(Published { snapshot: next, since: Instant::now() }));
}

pub(crate) fn lock(faults: &Mutex<Faults>) -> std::sync::MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}
