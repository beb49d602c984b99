//! Keys of issuers of tokens, fetched from where RequestAuthentications say: a source like the folders, whose objects nobody writes.
//!
//! What is wanted is read from each snapshot. Keys that were fetched stay in force until there are others, however long their issuer is silent: a
//! token that was good must not fail because somebody else is down. Keys that were never there are absent, and no token passes by them.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use mizzen_api::{
    Key, Kind, Meta, Object, Problem,
    istio::{IssuerKeys, JwksBy, KeySource, check_key_set},
};
use mizzen_model::{Snapshot, WantedKeys, wanted_keys};
use mizzen_net::Backoff;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use super::{Event, SourceId};
use crate::writer::Published;

/// The first wait after a failure, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Fetches at one time.
const MOST: usize = 16;

/// Fetches a key set, or says why there is none, in so much time.
pub(crate) type Fetch = Arc<dyn Fn(KeySource, Duration) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

/// How keys are followed.
pub(crate) struct Following {
    pub(crate) id: SourceId,
    pub(crate) refresh: Duration,
    pub(crate) fetch: Fetch,
    /// Where what has changed is told. Weak: this source ends nobody's wait for the others.
    pub(crate) writer: mpsc::WeakUnboundedSender<(SourceId, Event)>,
}

/// A key set that is wanted.
struct Entry {
    wanted: WantedKeys,
    /// What is in force.
    keys: Option<String>,
    /// What is wrong with the last fetch.
    fault: Option<String>,
    /// When it is fetched; none: it is being fetched.
    due: Option<Instant>,
    backoff: Backoff,
}

struct Follower {
    following: Following,
    entries: BTreeMap<String, Entry>,
    snapshot: Arc<Snapshot>,
    /// What was told, by file.
    told: BTreeMap<Arc<str>, Vec<Problem>>,
    fetches: JoinSet<(String, Result<String, String>)>,
}

/// Follows what snapshots want, until nobody makes any more.
pub(crate) async fn follow(following: Following, mut published: watch::Receiver<Option<Published>>) {
    let mut follower =
        Follower { following, entries: BTreeMap::new(), snapshot: Snapshot::empty(), told: BTreeMap::new(), fetches: JoinSet::new() };
    published.mark_changed();
    loop {
        follower.start();
        let due = follower.entries.values().filter_map(|entry| entry.due).min().filter(|_| follower.fetches.len() < MOST);
        let time = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = published.borrow_and_update().as_ref().map(|published| published.snapshot.clone());
                if let Some(snapshot) = snapshot {
                    follower.want(snapshot);
                }
            }
            () = time => {}
            Some(ended) = follower.fetches.join_next() => match ended {
                Ok((name, result)) => follower.fetched(&name, result),
                Err(error) => {
                    tracing::error!(%error, "a fetch of keys has failed");
                    // Whichever it was: all that are under way are made once more.
                    let again = Instant::now() + WAITS.1;
                    follower.entries.values_mut().for_each(|entry| entry.due = entry.due.or(Some(again)));
                }
            },
        }
    }
}

fn key(name: &str) -> Key {
    Key::new(Kind::IssuerKeys, "", name)
}

impl Follower {
    fn send(&self, event: Event) {
        if let Some(writer) = self.following.writer.upgrade() {
            // Without a writer everything ends.
            let _ = writer.send((self.following.id, event));
        }
    }

    /// Takes what a snapshot wants.
    fn want(&mut self, snapshot: Arc<Snapshot>) {
        let mut wanted = wanted_keys(&snapshot);
        if snapshot.mesh().jwks_by == JwksBy::Envoy {
            // Only what no proxy can find out for itself.
            wanted.retain(|_, wanted| matches!(wanted.source, KeySource::Discovery(_)));
        }
        self.snapshot = snapshot;
        let gone: Vec<String> = self.entries.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            if self.entries.remove(&name).is_some_and(|entry| entry.keys.is_some()) {
                self.send(Event::Delete(key(&name)));
            }
        }
        for (name, wanted) in wanted {
            let entry = self.entries.entry(name).or_insert_with(|| Entry {
                wanted: wanted.clone(),
                keys: None,
                fault: None,
                due: Some(Instant::now()),
                backoff: Backoff::new(WAITS.0, WAITS.1),
            });
            entry.wanted = wanted;
        }
        self.tell();
    }

    /// Starts what is due.
    fn start(&mut self) {
        let now = Instant::now();
        for (name, entry) in &mut self.entries {
            if entry.due.is_some_and(|due| due <= now) && self.fetches.len() < MOST {
                entry.due = None;
                let (name, timeout) = (name.clone(), entry.wanted.timeout);
                let fetch = (self.following.fetch)(entry.wanted.source.clone(), timeout);
                self.fetches.spawn(async move {
                    let result = tokio::time::timeout(timeout, fetch).await;
                    (name, result.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}"))))
                });
            }
        }
    }

    /// Takes the end of a fetch.
    fn fetched(&mut self, name: &str, result: Result<String, String>) {
        // Nobody may want it any more.
        let Some(entry) = self.entries.get_mut(name) else { return };
        let result = result.and_then(|keys| match check_key_set(&keys) {
            Ok(_) => Ok(keys),
            Err(why) => Err(format!("what was fetched {why}")),
        });
        let now = Instant::now();
        match result {
            Ok(keys) => {
                entry.backoff.reset();
                // Not all at once, where all have begun at once.
                entry.due = Some(now + self.following.refresh.mul_f64(0.9 + 0.1 * fastrand::f64()));
                entry.fault = None;
                if entry.keys.as_ref() != Some(&keys) {
                    tracing::info!(from = name, "keys of an issuer of tokens are new");
                    entry.keys = Some(keys.clone());
                    let meta = Meta { name: name.into(), ..Meta::default() };
                    self.send(Event::Apply(Arc::new(Object::IssuerKeys(IssuerKeys { meta, keys }))));
                }
            }
            Err(why) => {
                entry.due = Some(now + entry.backoff.spread_wait(WAITS.1));
                if entry.fault.as_ref() != Some(&why) {
                    tracing::warn!(from = name, why, "keys of an issuer of tokens cannot be fetched");
                }
                entry.fault = Some(why);
            }
        }
        self.tell();
    }

    /// Tells what is wrong beside the objects that ask for it.
    fn tell(&mut self) {
        let mut found: BTreeMap<Arc<str>, Vec<Problem>> = BTreeMap::new();
        for entry in self.entries.values() {
            let Some(why) = &entry.fault else { continue };
            let effect = if entry.keys.is_some() { "the last good ones stay" } else { "no token of this issuer passes" };
            let (from, field) = match &entry.wanted.source {
                KeySource::Discovery(url) => (url.to_string(), "issuer"),
                KeySource::Url(url) => (url.to_string(), "jwksUri"),
                KeySource::Inline(_) => continue,
            };
            for (key, at) in &entry.wanted.by {
                let Some(object) = self.snapshot.object(key) else { continue };
                let field = format!("spec.jwtRules[{at}].{field}");
                let pos = object.meta().position(&field);
                let message = format!("the keys cannot be fetched from {from}: {why}: {effect}");
                found.entry(pos.file.clone()).or_default().push(Problem { pos, object: Some(key.clone()), field, message });
            }
        }
        let before = std::mem::replace(&mut self.told, found);
        for file in before.keys().filter(|file| !self.told.contains_key(*file)) {
            self.send(Event::Warnings(file.clone(), Vec::new()));
        }
        for (file, problems) in self.told.iter().filter(|(file, problems)| before.get(*file) != Some(problems)) {
            self.send(Event::Warnings(file.clone(), problems.clone()));
        }
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
