//! What the admin interface shows, as the control thread hands it over.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use mizzen_engine::metrics::Snapshot;
use mizzen_ir::{Config, ResourceKind, Warning};
use mizzen_types::Name;
use tokio::sync::{mpsc, oneshot};

use super::ANSWER_WITHIN;
use crate::store::Entry;

/// A resource as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) kind: ResourceKind,
    pub(crate) name: Name,
    /// From the bootstrap.
    pub(crate) fixed: bool,
    /// The version in force, else the one that waits; and when it came.
    pub(crate) entry: Option<(Arc<Entry>, SystemTime)>,
    /// Something that it names is not there yet.
    pub(crate) warming: bool,
    /// The last version, if it was refused: its name, the reason, and when.
    pub(crate) refused: Option<(String, String, SystemTime)>,
}

impl Known {
    /// What in it does nothing.
    pub(crate) fn warnings(&self) -> &[Warning] {
        self.entry.as_ref().map(|(entry, _)| entry.compiled.warnings.as_slice()).unwrap_or_default()
    }
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// What is published.
    pub(crate) config: Arc<Config>,
    pub(crate) resources: Vec<Known>,
    /// Sockets that could not be opened, and why.
    pub(crate) failed: Vec<(SocketAddr, String)>,
    /// Listeners and clusters whose TLS could not be built, and why.
    pub(crate) unfit: Vec<(Name, String)>,
    /// Whether the connection to the server of resources is up.
    pub(crate) connected: bool,
    /// What of the bootstrap cannot be used, and why.
    pub(crate) faults: Vec<String>,
    /// What was asked for on first use.
    pub(crate) fetched: Vec<Fetched>,
}

/// A resource that was asked for on first use, or a part of a resource.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) kind: ResourceKind,
    pub(crate) name: Name,
    /// When it was asked for, and when it was last seen to be in use.
    pub(crate) since: SystemTime,
    pub(crate) used: SystemTime,
    /// What for.
    pub(crate) why: Name,
    /// Whether it has come.
    pub(crate) there: bool,
    /// The clusters that it names.
    pub(crate) clusters: Vec<Name>,
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for listeners and clusters.
    Initializing,
    Live,
    Draining,
}

impl Stage {
    /// Envoy's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Initializing => "PRE_INITIALIZING",
            Stage::Live => "LIVE",
            Stage::Draining => "DRAINING",
        }
    }
}

/// What the admin interface asks of the control thread.
#[derive(Debug)]
pub(crate) enum Query {
    View(oneshot::Sender<View>),
    Counters(oneshot::Sender<Snapshot>),
    DrainListeners,
    Quit,
}

/// The way to the control thread.
#[derive(Clone, Debug)]
pub(crate) struct Control(pub(crate) mpsc::Sender<Query>);

impl Control {
    /// `None` while the process ends.
    pub(crate) async fn view(&self) -> Option<View> {
        self.ask(Query::View).await
    }

    pub(crate) async fn counters(&self) -> Option<Snapshot> {
        self.ask(Query::Counters).await
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(query(sender)).await.ok()?;
        tokio::time::timeout(ANSWER_WITHIN, receiver).await.ok()?.ok()
    }

    pub(crate) async fn tell(&self, query: Query) -> bool {
        self.0.send(query).await.is_ok()
    }
}
