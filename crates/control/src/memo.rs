//! Resources that were built already, shared by all proxies that read the same.
//!
//! Each entry is a result with the record of what was read for it. The record is the key: an entry serves a proxy whose fields read the same, and
//! a snapshot in which every query has the answer that it had.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mizzen_model::{ProxyView, Reader, Reads, Snapshot};
use mizzen_protos::canonical::canonicalize;
use mizzen_translate::ResourceKind;
use mizzen_types::Name;
use mizzen_xds::server::Resource;

/// Entries that no proxy asked for during so many snapshots are dropped.
const UNUSED: u64 = 64;

#[derive(Debug)]
struct Entry<T> {
    reads: Reads,
    value: T,
    /// The newest snapshot in which all queries are known to have the same answers.
    checked: u64,
    used: u64,
}

#[derive(Debug)]
struct Table<K, T>(HashMap<K, Vec<Entry<T>>>);

impl<K: std::hash::Hash + Eq, T: Clone> Table<K, T> {
    fn find(&mut self, key: &K, snapshot: &Snapshot, view: &ProxyView) -> Option<T> {
        let version = snapshot.version();
        let entry = self
            .0
            .get_mut(key)?
            .iter_mut()
            .find(|entry| entry.reads.agrees_with(view) && (entry.checked == version || entry.reads.valid_in(snapshot)))?;
        entry.checked = entry.checked.max(version);
        entry.used = entry.used.max(version);
        Some(entry.value.clone())
    }

    fn insert(&mut self, key: K, reads: Reads, value: T, version: u64) {
        let entries = self.0.entry(key).or_default();
        entries.retain(|entry| entry.reads != reads);
        entries.push(Entry { reads, value, checked: version, used: version });
    }

    fn advance(&mut self, snapshot: &Snapshot) {
        let version = snapshot.version();
        self.0.retain(|_, entries| {
            entries.retain_mut(|entry| {
                let keep = entry.used.saturating_add(UNUSED) > version && entry.reads.valid_in(snapshot);
                entry.checked = version;
                keep
            });
            !entries.is_empty()
        });
    }
}

/// The memory of all connections.
#[derive(Debug)]
pub(crate) struct Memo {
    names: Mutex<Table<ResourceKind, Arc<[Name]>>>,
    resources: Mutex<Table<(ResourceKind, Name), Option<Resource>>>,
    built: AtomicU64,
    shared: AtomicU64,
}

impl Default for Memo {
    fn default() -> Self {
        Memo {
            names: Mutex::new(Table(HashMap::new())),
            resources: Mutex::new(Table(HashMap::new())),
            built: AtomicU64::new(0),
            shared: AtomicU64::new(0),
        }
    }
}

impl Memo {
    /// The names of a proxy's resources of a kind.
    pub(crate) fn names(&self, snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind) -> Arc<[Name]> {
        if let Some(names) = lock(&self.names).find(&kind, snapshot, view) {
            return names;
        }
        let reader = Reader::new(snapshot);
        let names: Arc<[Name]> = mizzen_translate::list(&reader, view, kind).into();
        lock(&self.names).insert(kind, reader.finish(), names.clone(), snapshot.version());
        names
    }

    /// One resource of a proxy.
    pub(crate) fn resource(&self, snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, name: &Name) -> Option<Resource> {
        let key = (kind, name.clone());
        if let Some(found) = lock(&self.resources).find(&key, snapshot, view) {
            self.shared.fetch_add(1, Ordering::Relaxed);
            return found;
        }
        self.built.fetch_add(1, Ordering::Relaxed);
        let reader = Reader::new(snapshot);
        let built = mizzen_translate::build(&reader, view, kind, name).map(|resource| {
            let mut any = resource.any;
            canonicalize(&mut any);
            Resource::new(any)
        });
        lock(&self.resources).insert(key, reader.finish(), built.clone(), snapshot.version());
        built
    }

    /// Forgets what does not hold in a new snapshot.
    pub(crate) fn advance(&self, snapshot: &Snapshot) {
        lock(&self.names).advance(snapshot);
        lock(&self.resources).advance(snapshot);
    }

    /// How many resources were built, how many taken from memory, and how many are in it.
    pub(crate) fn counts(&self) -> (u64, u64, usize) {
        let entries = lock(&self.resources).0.values().map(Vec::len).sum();
        (self.built.load(Ordering::Relaxed), self.shared.load(Ordering::Relaxed), entries)
    }
}

/// A table stays whole if a build panics: nothing is built under the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
