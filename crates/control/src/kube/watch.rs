//! Following one kind in the API server.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, future::ready};
use kube::{
    Api, Resource,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use mizzen_api::{Key, Kind, Pos, Problem};
use mizzen_types::Name;
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    allocate::Allocations,
    fold::{Fold, Reading},
    namespaces::{Came, Discovery, Within},
};
use crate::{
    names::{CLUSTER_ROLE, CONTROL_PLANE},
    source::{Event, SourceId},
};

/// After how long it is tried again to read what may not be read, or is not there.
pub(crate) const AGAIN: Duration = Duration::from_secs(5);
/// How many objects of a namespace that comes into the mesh are asked for at a time.
const PAGE: u32 = 500;

/// Where what a kind's followers find goes.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pub(crate) id: SourceId,
    pub(crate) writer: mpsc::UnboundedSender<(SourceId, Event)>,
    /// Who finds out by this kind which namespaces belong to the mesh.
    pub(crate) told: Option<(Arc<Discovery>, Kind)>,
    /// Who allocates addresses to these.
    pub(crate) allocations: Option<Arc<Allocations>>,
}

impl Sink {
    /// Whether anybody is still there to be told.
    pub(crate) fn send(&self, events: Vec<Event>) -> bool {
        if let Some((discovery, kind)) = &self.told {
            discovery.hear(*kind, &events);
        }
        if let Some(allocations) = &self.allocations {
            allocations.hear(&events);
        }
        events.into_iter().all(|event| self.writer.send((self.id, event)).is_ok())
    }
}

/// Why a kind cannot be followed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A right is missing.
    Forbidden(String),
    /// The cluster does not have the kind.
    Missing,
    /// The API server does not answer, or not as it should.
    Unreachable(String),
}

impl Trouble {
    /// What follows from it, for people: of a right that is missing this.
    fn said(&self, follows: &str) -> String {
        match self {
            Trouble::Forbidden(reason) => format!("may not be read, and {follows} must allow list and watch ({reason})"),
            Trouble::Missing => "the cluster does not have this kind: its definition is not installed".to_owned(),
            Trouble::Unreachable(reason) => format!("is not followed now, and what is known stays in force: {reason}"),
        }
    }
}

/// Says what is wrong when it begins, and once.
#[derive(Debug)]
pub(crate) struct Told {
    /// `virtualservices.networking.istio.io`
    what: String,
    /// What follows where it may not be read, and which role must allow it.
    follows: String,
    last: Option<Trouble>,
}

impl Told {
    pub(crate) fn new(what: String) -> Told {
        Told { what, follows: format!("nothing of it is in force: ClusterRole {CLUSTER_ROLE}"), last: None }
    }

    /// Of what is followed in the control plane's own namespace, and `stays` as it is where that is not allowed.
    pub(crate) fn of_own(what: String, stays: &str) -> Told {
        Told { follows: format!("{stays}: Role {CONTROL_PLANE} in its namespace"), ..Told::new(what) }
    }

    /// It is followed, perhaps again.
    pub(crate) fn well(&mut self) -> Vec<Event> {
        if self.last.take().is_none() {
            return Vec::new();
        }
        tracing::info!(kind = self.what, "is followed again");
        vec![Event::Warnings(self.what.as_str().into(), Vec::new())]
    }

    /// A watch has failed.
    pub(crate) fn failed(&mut self, error: &watcher::Error) -> Vec<Event> {
        trouble(error).map(|trouble| self.trouble(&trouble)).unwrap_or_default()
    }

    /// It is not.
    pub(crate) fn trouble(&mut self, trouble: &Trouble) -> Vec<Event> {
        if self.last.as_ref() == Some(trouble) {
            return Vec::new();
        }
        self.last = Some(trouble.clone());
        let message = trouble.said(&self.follows);
        match trouble {
            Trouble::Forbidden(_) => tracing::error!(kind = self.what, "{message}"),
            Trouble::Missing | Trouble::Unreachable(_) => tracing::warn!(kind = self.what, "{message}"),
        }
        let problem = Problem { pos: Pos::default(), object: None, field: self.what.clone(), message };
        vec![Event::Warnings(self.what.as_str().into(), vec![problem])]
    }
}

/// One object by its name, or that there is none, at first and whenever that changes. What keeps it from being followed is said.
pub(crate) fn one<K>(api: Api<K>, name: &str, mut told: Told) -> impl Stream<Item = Option<K>> + Send + use<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let found = watcher::watch_object(api, name).default_backoff();
    found.filter_map(move |found| {
        ready(match found {
            Ok(found) => {
                told.well();
                Some(found)
            }
            Err(error) => {
                told.failed(&error);
                None
            }
        })
    })
}

/// What an error of a watch means; `None` if the next list mends it.
pub(crate) fn trouble(error: &watcher::Error) -> Option<Trouble> {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => Some(of_client(error)),
        watcher::Error::WatchFailed(error) => Some(Trouble::Unreachable(words(error))),
        watcher::Error::WatchError(status) if status.code == 410 => None,
        watcher::Error::WatchError(status) => Some(Trouble::Unreachable(status.message.clone())),
        watcher::Error::NoResourceVersion => Some(Trouble::Unreachable("its list has no version".to_owned())),
    }
}

pub(crate) fn of_client(error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) if status.code == 403 => Trouble::Forbidden(status.message.clone()),
        kube::Error::Api(status) if status.code == 404 => Trouble::Missing,
        error => Trouble::Unreachable(words(error)),
    }
}

/// An error of a cluster's client in one line: what the API server has refused, or why it could not be asked.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            text
        }
    }
}

/// What a namespace has of a kind that has come into the mesh, in pages.
pub(crate) async fn list_of<K>(api: &Api<K>, namespace: &str) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut all = Vec::new();
    let mut params = ListParams::default().fields(&format!("metadata.namespace={namespace}")).limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// Namespaces that have come into the mesh and are still to be listed.
#[derive(Debug)]
pub(crate) struct Due {
    namespaces: BTreeSet<Name>,
    at: Instant,
}

impl Due {
    pub(crate) fn new() -> Due {
        Due { namespaces: BTreeSet::new(), at: Instant::now() }
    }

    pub(crate) fn add(&mut self, namespaces: Vec<Name>) {
        self.namespaces.extend(namespaces);
        self.at = Instant::now();
    }

    /// The next one, when it is time; never if there is none.
    pub(crate) async fn next(&self) -> Name {
        match self.namespaces.first() {
            Some(namespace) => {
                sleep_until(self.at).await;
                namespace.clone()
            }
            None => std::future::pending().await,
        }
    }

    /// It was listed, or left again.
    pub(crate) fn done(&mut self, namespace: &str) {
        self.namespaces.remove(namespace);
    }

    /// It could not be listed.
    pub(crate) fn later(&mut self) {
        self.at = Instant::now() + AGAIN;
    }

    /// All is listed anew.
    pub(crate) fn clear(&mut self) {
        self.namespaces.clear();
    }
}

/// A kind that is followed: what is known of it, and what was said.
struct Following<R, K> {
    fold: Fold,
    told: Told,
    listed: bool,
    pause: Duration,
    read: R,
    key: K,
}

impl<R, N> Following<R, N> {
    fn event<K>(&mut self, event: watcher::Result<watcher::Event<K>>, within: &Within) -> Vec<Event>
    where
        N: Fn(&K) -> Key,
        R: Fn(K) -> Option<Reading>,
    {
        match event {
            Ok(watcher::Event::Init) => self.fold.init(),
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => self.apply(object, within),
            Ok(watcher::Event::Delete(object)) => {
                let key = (self.key)(&object);
                if within.has(&key.namespace) { self.fold.delete(&key) } else { Vec::new() }
            }
            Ok(watcher::Event::InitDone) => {
                self.listed = true;
                [self.told.well(), self.fold.done()].concat()
            }
            Err(error) => trouble(&error).map(|trouble| self.trouble(&trouble)).unwrap_or_default(),
        }
    }

    fn apply<K>(&mut self, object: K, within: &Within) -> Vec<Event>
    where
        N: Fn(&K) -> Key,
        R: Fn(K) -> Option<Reading>,
    {
        let key = (self.key)(&object);
        if !within.has(&key.namespace) {
            return Vec::new();
        }
        match (self.read)(object) {
            Some(reading) => self.fold.apply(reading),
            // It may have been one that is read.
            None => self.fold.delete(&key),
        }
    }

    fn trouble(&mut self, trouble: &Trouble) -> Vec<Event> {
        // The watcher's own patience ends with each list that begins.
        if !matches!(trouble, Trouble::Unreachable(_)) {
            self.pause = AGAIN;
        }
        let mut events = self.told.trouble(trouble);
        let empty = *trouble == Trouble::Missing || (!self.listed && matches!(trouble, Trouble::Forbidden(_)));
        if empty {
            self.listed = true;
            events.extend([self.fold.init(), self.fold.done()].concat());
        }
        events
    }
}

/// Follows a kind for as long as somebody wants to know, in the namespaces of the mesh. A kind that may not be read, or that the cluster does not have,
/// counts as listed and empty: what else there is must not wait for it. One that has been read stays as it was when the right is withdrawn.
pub(crate) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    what: String,
    key: impl Fn(&K) -> Key,
    read: impl Fn(K) -> Option<Reading>,
    mut within: Within,
    sink: Sink,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut following = Following { fold: Fold::default(), told: Told::new(what), listed: false, pause: Duration::ZERO, read, key };
    let watch = || watcher(api.clone(), config.clone()).default_backoff().boxed();
    let (mut stream, mut due) = (watch(), Due::new());
    loop {
        let events = tokio::select! {
            biased;
            came = within.changed() => {
                match came {
                    Came::These(namespaces) => due.add(namespaces),
                    Came::Everything => {
                        due.clear();
                        stream = watch();
                    }
                }
                following.fold.keep(|key| within.has(&key.namespace))
            }
            // Nothing of the watch is looked at meanwhile: it may tell of what is older than the list, and catches up, and of nothing that is newer.
            namespace = due.next() => match list_of(&api, &namespace).await {
                Ok(objects) => {
                    due.done(&namespace);
                    let mut events = following.told.well();
                    events.extend(objects.into_iter().flat_map(|object| following.apply(object, &within)));
                    events
                }
                Err(error) => {
                    due.later();
                    following.told.trouble(&of_client(&error))
                }
            },
            event = stream.next() => match event {
                Some(event) => following.event(event, &within),
                None => return,
            },
        };
        if !sink.send(events) {
            return;
        }
        tokio::time::sleep(std::mem::take(&mut following.pause)).await;
    }
}
