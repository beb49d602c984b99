//! One resource: the version that arrived last, the version in force, and what was refused.

use std::{sync::Arc, time::Duration};

use mizzen_ir::{Compiled, Refs, Warning};
use mizzen_protos::Any;

use super::choose::Choice;
use super::kept::Kept;

/// One version of a resource.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The server's name of it.
    pub version: String,
    /// As it arrived, for dumps; without a key, of which they only say that it is there.
    pub body: Kept,
    /// As it is used.
    pub compiled: Compiled,
    /// When it arrived.
    pub arrived: Duration,
}

impl Entry {
    /// The message as it arrived.
    pub fn message(&self) -> Any {
        Any { type_url: self.compiled.resource.kind().type_url().to_owned(), value: self.body.bytes() }
    }
}

/// A version that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The server's name of it.
    pub version: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Duration,
}

/// Where a resource stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceState {
    /// Its last version is in force.
    Active,
    /// Its last version waits for what it names.
    Warming,
    /// It was removed, and is still referred to.
    Draining,
    /// It has never had a good version.
    Refused,
}

/// A resource.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The last good version; none once it was removed.
    pub latest: Option<Arc<Entry>>,
    /// The version in force.
    pub active: Option<Arc<Entry>>,
    /// The last refused version, until a good one arrives.
    pub rejected: Option<Box<Rejected>>,
    /// When it was removed.
    pub removed: Option<Duration>,
    pub(super) choice: Choice,
}

impl Stored {
    /// Where it stands.
    pub fn state(&self) -> ResourceState {
        match (&self.latest, &self.active) {
            (Some(latest), Some(active)) if Arc::ptr_eq(latest, active) => ResourceState::Active,
            (Some(_), _) => ResourceState::Warming,
            (None, Some(_)) => ResourceState::Draining,
            (None, None) => ResourceState::Refused,
        }
    }

    /// Whether it does not serve as it was meant: it has never had a good version, or a part of the version in force is closed.
    pub fn is_lame(&self) -> bool {
        self.state() == ResourceState::Refused || self.active.as_ref().is_some_and(|entry| !entry.compiled.closed.is_empty())
    }

    /// What does nothing in the version that arrived last.
    pub fn warnings(&self) -> &[Warning] {
        self.latest.as_ref().map(|entry| entry.compiled.warnings.as_slice()).unwrap_or_default()
    }

    /// A version of it: the last good one, else the one in force.
    pub(super) fn any(&self) -> Option<&Arc<Entry>> {
        self.latest.as_ref().or(self.active.as_ref())
    }

    pub(super) fn take(&mut self, entry: Entry) {
        self.rejected = None;
        self.removed = None;
        // The same content again is no change, whatever its version is called.
        match &self.latest {
            Some(latest) if latest.compiled.resource.hash() == entry.compiled.resource.hash() => {}
            _ => self.latest = Some(Arc::new(entry)),
        }
    }

    pub(super) fn remove(&mut self, now: Duration) {
        self.latest = None;
        self.rejected = None;
        self.removed = Some(now);
    }

    /// Whether nothing is left of it.
    pub(super) fn is_gone(&self) -> bool {
        self.latest.is_none() && self.active.is_none() && self.rejected.is_none()
    }

    /// What its versions name.
    pub(super) fn refs(&self) -> impl Iterator<Item = &Refs> {
        self.latest.iter().chain(&self.active).map(|entry| &entry.compiled.refs)
    }
}
