//! Following one kind in the API server.

use std::{fmt::Debug, time::Duration};

use futures_util::{StreamExt, pin_mut};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher},
};
use mizzen_api::{Key, Pos, Problem};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::fold::{Fold, Reading};
use crate::source::{Event, SourceId};

/// After how long it is tried again to read what may not be read, or is not there.
const AGAIN: Duration = Duration::from_secs(5);

/// Where what a kind's followers find goes.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pub(crate) id: SourceId,
    pub(crate) writer: mpsc::UnboundedSender<(SourceId, Event)>,
}

impl Sink {
    /// Whether anybody is still there to be told.
    pub(crate) fn send(&self, events: Vec<Event>) -> bool {
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
    /// What follows from it, for people.
    fn said(&self) -> String {
        match self {
            Trouble::Forbidden(reason) => format!(
                "may not be read, and nothing of it is in force: ClusterRole {} must allow get, list and watch ({reason})",
                crate::names::CLUSTER_ROLE
            ),
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
    last: Option<Trouble>,
}

impl Told {
    pub(crate) fn new(what: String) -> Told {
        Told { what, last: None }
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
        let message = trouble.said();
        match trouble {
            Trouble::Forbidden(_) => tracing::error!(kind = self.what, "{message}"),
            Trouble::Missing | Trouble::Unreachable(_) => tracing::warn!(kind = self.what, "{message}"),
        }
        let problem = Problem { pos: Pos::default(), object: None, field: self.what.clone(), message };
        vec![Event::Warnings(self.what.as_str().into(), vec![problem])]
    }
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

fn of_client(error: &kube::Error) -> Trouble {
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

/// Follows a kind for as long as somebody wants to know. A kind that may not be read, or that the cluster does not have, counts as listed and empty: what
/// else there is must not wait for it. One that has been read stays as it was when the right is withdrawn.
pub(crate) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    what: String,
    key: impl Fn(&K) -> Key,
    read: impl Fn(K) -> Option<Reading>,
    sink: Sink,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (mut fold, mut told, mut listed) = (Fold::default(), Told::new(what), false);
    let mut pause = Duration::ZERO;
    let stream = watcher(api, config).default_backoff();
    pin_mut!(stream);
    while let Some(event) = stream.next().await {
        let events = match event {
            Ok(watcher::Event::Init) => fold.init(),
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                let key = key(&object);
                match read(object) {
                    Some(reading) => fold.apply(reading),
                    // It may have been one that is read.
                    None => fold.delete(&key),
                }
            }
            Ok(watcher::Event::Delete(object)) => fold.delete(&key(&object)),
            Ok(watcher::Event::InitDone) => {
                listed = true;
                [told.well(), fold.done()].concat()
            }
            Err(error) => match trouble(&error) {
                None => Vec::new(),
                Some(trouble) => {
                    // The watcher's own patience ends with each list that begins.
                    if !matches!(trouble, Trouble::Unreachable(_)) {
                        pause = AGAIN;
                    }
                    let mut events = told.trouble(&trouble);
                    let empty = trouble == Trouble::Missing || (!listed && matches!(trouble, Trouble::Forbidden(_)));
                    if empty {
                        listed = true;
                        events.extend([fold.init(), fold.done()].concat());
                    }
                    events
                }
            },
        };
        if !sink.send(events) {
            return;
        }
        tokio::time::sleep(std::mem::take(&mut pause)).await;
    }
}
