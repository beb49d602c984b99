//! The proxies that are connected, and how far each is.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use mizzen_model::ProxyView;
use mizzen_types::SpiffeId;
use mizzen_xds::{
    server::{Session, Sync},
    types,
};

use crate::status::{ProxyStatus, ResourceStatus, SyncState, TypeStatus};

/// One proxy's stream.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) view: ProxyView,
    pub(crate) identity: SpiffeId,
    pub(crate) peer: SocketAddr,
    pub(crate) version: String,
    pub(crate) since: SystemTime,
    progress: Mutex<Progress>,
}

/// How far a stream is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) session: Session,
    /// The newest snapshot of which everything was sent.
    pub(crate) sent: u64,
    /// The newest snapshot of which everything was sent and answered.
    pub(crate) settled: u64,
}

impl Progress {
    /// Notes that what was sent is answered, if it is. Returns whether that is news.
    pub(crate) fn settle(&mut self) -> bool {
        let news = self.settled < self.sent && !self.session.is_due() && self.session.in_flight() == 0;
        if news {
            self.settled = self.sent;
        }
        news
    }
}

impl Connection {
    /// The name by which people know the proxy.
    pub(crate) fn proxy(&self) -> String {
        let facts = self.view.facts();
        format!("{}.{}", facts.pod, facts.namespace)
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> ProxyStatus {
        let (types, snapshot) = {
            let progress = self.progress();
            (progress.session.status(), progress.settled)
        };
        let resource = |r: mizzen_xds::server::ResourceStatus| ResourceStatus {
            name: r.name.to_string(),
            sent: r.sent.map(|v| v.to_string()),
            acked: r.acked.map(|v| v.to_string()),
            rejected: r.rejected.map(|(_, why)| why),
        };
        let of_type = |t: mizzen_xds::server::TypeStatus| TypeStatus {
            name: types::short(&t.type_url).to_owned(),
            type_url: t.type_url.to_string(),
            state: match t.sync() {
                Sync::NotSent => SyncState::NotSent,
                Sync::Synced => SyncState::Synced,
                Sync::Stale => SyncState::Stale,
                Sync::Rejected => SyncState::Error,
            },
            sent: t.responses,
            acked: t.acks,
            nacked: t.nacks,
            error: t.error,
            resources: t.resources.into_iter().map(resource).collect(),
        };
        ProxyStatus {
            proxy: self.proxy(),
            node: self.view.facts().id.to_string(),
            connection: self.number,
            identity: self.identity.to_string(),
            address: self.view.facts().ip.to_string(),
            proxy_version: self.version.clone(),
            snapshot,
            types: types.into_iter().map(of_type).collect(),
        }
    }
}

/// All that are open.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    numbers: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
}

/// Keeps a connection among the open ones until it is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    all: Arc<Connections>,
    pub(crate) connection: Arc<Connection>,
}

impl Connections {
    pub(crate) fn register(self: &Arc<Self>, view: ProxyView, identity: SpiffeId, peer: SocketAddr, version: String) -> Registered {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let since = SystemTime::now();
        let connection = Arc::new(Connection { number, view, identity, peer, version, since, progress: Mutex::default() });
        self.lock().insert(number, connection.clone());
        Registered { all: self.clone(), connection }
    }

    /// All open connections, by proxy.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|c| (c.proxy(), c.number));
        all
    }

    /// All proxies, by name. One may have several streams: its agent's own beside its own, or an old one whose end is not known yet. The newest
    /// stream that speaks of a type counts, and a stream of which nothing counts is left out.
    pub(crate) fn proxies(&self) -> Vec<ProxyStatus> {
        let mut merged: BTreeMap<String, ProxyStatus> = BTreeMap::new();
        let mut all = self.all();
        all.sort_by_key(|c| std::cmp::Reverse(c.number));
        for status in all.iter().map(|c| c.status()) {
            match merged.get_mut(&status.node) {
                None => drop(merged.insert(status.node.clone(), status)),
                Some(known) => {
                    let news = status.types.into_iter().filter(|t| known.types.iter().all(|k| k.type_url != t.type_url));
                    let before = known.types.len();
                    known.types.extend(news.collect::<Vec<_>>());
                    if known.types.len() > before {
                        known.snapshot = known.snapshot.min(status.snapshot);
                        known.types.sort_by_key(|t| (types::rank(&t.type_url), t.name.clone()));
                    }
                }
            }
        }
        let mut proxies: Vec<_> = merged.into_values().collect();
        proxies.sort_by(|a, b| (&a.proxy, a.connection).cmp(&(&b.proxy, b.connection)));
        proxies
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.all.lock().remove(&self.connection.number);
    }
}
