//! Missing resources, and who waits for them.

use std::{collections::BTreeMap, time::Duration};

use mizzen_ir::{Refs, ResourceKind};

use super::{FETCH_TIMEOUT, Key, LATE};

/// Istio's names of the workload's own secrets.
const OWN: [&str; 2] = ["default", "ROOTCA"];

/// A missing resource.
#[derive(Debug)]
pub(super) struct Wait {
    since: Duration,
    /// Who waits for it, and how long; none: for ever.
    by: BTreeMap<Key, Option<Duration>>,
    /// The longest that somebody waits for it.
    timeout: Option<Duration>,
    /// When next something changes for somebody.
    due: Option<Duration>,
    /// That it is late, or was waited for in vain, is said once each.
    said: (bool, bool),
}

impl Wait {
    pub(super) fn new(now: Duration) -> Self {
        Wait { since: now, by: BTreeMap::new(), timeout: None, due: None, said: (false, false) }
    }

    /// Somebody waits for it.
    pub(super) fn join(&mut self, who: &Key, timeout: Option<Duration>) {
        self.by.insert(who.clone(), timeout);
    }

    /// Somebody does not any more; whether nobody is left.
    pub(super) fn leave(&mut self, who: &Key) -> bool {
        self.by.remove(who);
        self.by.is_empty()
    }

    pub(super) fn waiters(&self) -> impl Iterator<Item = &Key> {
        self.by.keys()
    }

    fn late_at(&self, key: &Key) -> Option<Duration> {
        (key.0 == ResourceKind::Secret && !OWN.contains(&&*key.1)).then(|| self.since + LATE)
    }

    /// Whether it holds up nothing but what names it.
    pub(super) fn is_late(&self, key: &Key, now: Duration) -> bool {
        self.late_at(key).is_some_and(|at| now >= at)
    }

    /// When it is not waited for any more by who waits so long.
    fn ends(&self, timeout: Option<Duration>) -> Option<Duration> {
        timeout.and_then(|timeout| self.since.checked_add(timeout))
    }

    /// Whether who waits so long waits no more.
    pub(super) fn is_over(&self, timeout: Option<Duration>, now: Duration) -> bool {
        self.ends(timeout).is_some_and(|at| now >= at)
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Who waits has changed, or time has gone by: says when it has become late, and when the wait has ended.
    pub(super) fn settle(&mut self, key: &Key, now: Duration) {
        let (kind, name) = key;
        // Who waits longest counts: none is for ever.
        self.timeout = self.by.values().copied().reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
        let noted = self.late_at(key).unwrap_or(self.since + FETCH_TIMEOUT);
        if self.is_over(self.timeout, now) {
            if !std::mem::replace(&mut self.said, (true, true)).1 {
                tracing::warn!(?kind, %name, "did not come in time: what names it comes into force without it");
            }
        } else if now >= noted && !std::mem::replace(&mut self.said.0, true) {
            tracing::warn!(?kind, %name, timeout = ?self.timeout, "does not come; what names it waits for it");
        }
        let ends = self.by.values().filter_map(|timeout| self.ends(*timeout));
        self.due = ends.chain([noted]).filter(|at| *at > now).min();
    }
}

/// How long what names a resource waits for it; none: for ever.
pub(super) fn timeout(refs: &Refs, key: &Key) -> Option<Duration> {
    let secrets = refs.secrets.iter().filter(|secret| key.0 == ResourceKind::Secret && secret.name == key.1);
    let longest = secrets.map(|secret| secret.fetch_timeout).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)));
    longest.unwrap_or(Some(FETCH_TIMEOUT))
}
