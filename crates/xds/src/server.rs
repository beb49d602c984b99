//! The server's end of one delta stream.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use mizzen_protos::{
    Any,
    envoy::{
        envoy::service::discovery::v3::{self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        google::rpc::Status,
    },
};
use mizzen_types::Name;

use crate::{Version, nack::rejections, types};

/// Names that one stream may subscribe to per type.
pub const MAX_NAMES: usize = 100_000;
/// Types that one stream may subscribe to.
pub const MAX_TYPES: usize = 64;
/// Responses per type whose answer is still awaited; the oldest is forgotten beyond it.
pub const MAX_IN_FLIGHT: usize = 256;

/// A resource as it goes to a client. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The hash of its content.
    pub version: Version,
    /// The content, shared by all sessions that send it.
    pub body: Arc<Any>,
}

impl Resource {
    /// With the version that its content has.
    pub fn new(body: Any) -> Self {
        Resource { version: Version::of(&body.value), body: Arc::new(body) }
    }
}

/// Where a session reads what its client should have.
pub trait ResourceSource {
    /// The names of all resources of a type, for a wildcard subscription.
    fn names(&mut self, type_url: &str) -> Vec<Name>;
    /// One resource, or `None` if there is no such.
    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource>;
    /// Whether it is not known yet if there is such a resource: then its absence is not answered, and others do not wait for it. When it becomes
    /// known, [`Session::changed`] says so.
    fn is_pending(&mut self, _type_url: &str, _name: &str) -> bool {
        false
    }
}

/// A request that no client may send. The stream must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Without a type.
    #[error("a request names no resource type")]
    NoType,
    /// More than [`MAX_TYPES`].
    #[error("a stream may ask for at most {MAX_TYPES} resource types")]
    TooManyTypes,
    /// More than [`MAX_NAMES`].
    #[error("a stream may ask for at most {MAX_NAMES} resources of type {0}")]
    TooManyNames(String),
}

/// What a request said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The type that it is about.
    pub type_url: Name,
    /// Its verdict on an earlier response.
    pub verdict: Option<Verdict>,
    /// Whether it changed the subscription.
    pub subscription: bool,
}

/// A client's answer to a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it was taken.
    Ack,
    /// Something was rejected.
    Nack {
        /// The client's words.
        message: String,
        /// The resources that were rejected, with the reason of each.
        rejected: Vec<(Name, String)>,
    },
    /// It answers a response that this stream did not send, or sent too long ago.
    Unknown,
}

/// One client's stream.
#[derive(Debug, Default)]
pub struct Session {
    watches: BTreeMap<(u8, Name), Watch>,
    nonces: u64,
}

/// What the client has under a name, as far as it was sent or the client said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentVersion {
    Absent,
    Foreign,
    Version(Version),
}

#[derive(Clone, Debug)]
struct Sent {
    version: SentVersion,
    acked: Option<Version>,
    rejected: Option<(Version, String)>,
}

#[derive(Debug)]
struct Flight {
    nonce: u64,
    sent: Vec<(Name, Version)>,
}

/// The state of one type.
#[derive(Debug, Default)]
struct Watch {
    wildcard: bool,
    explicit: BTreeSet<Name>,
    sent: BTreeMap<Name, Sent>,
    /// Must be answered even if the client seems to hold it.
    forced: BTreeSet<Name>,
    /// Everything must be compared with the state.
    due: bool,
    /// A response must be sent even if it is empty: the first one to a wildcard.
    owed: bool,
    in_flight: VecDeque<Flight>,
    responses: u64,
    acks: u64,
    nacks: u64,
    error: Option<String>,
}

/// What differs between the state and the client.
#[derive(Default)]
struct Diff {
    added: Vec<(Name, Resource)>,
    removed: Vec<Name>,
    /// Of `added`, those of which the client had another version.
    changed: Vec<Name>,
    owed: bool,
}

/// The state of one type on one stream, for people and tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeStatus {
    /// The type.
    pub type_url: Name,
    /// Whether all resources are subscribed to.
    pub wildcard: bool,
    /// The names that are subscribed to one by one.
    pub explicit: usize,
    /// Responses that were sent.
    pub responses: u64,
    /// Responses that were taken whole.
    pub acks: u64,
    /// Responses of which something was rejected.
    pub nacks: u64,
    /// Responses that were not answered yet.
    pub pending: usize,
    /// The words of the latest rejection, until something is taken again.
    pub error: Option<String>,
    /// What was sent of each resource.
    pub resources: Vec<ResourceStatus>,
}

/// The state of one resource on one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceStatus {
    /// Its name.
    pub name: Name,
    /// The version that was sent, or that the client came with; `None` if the answer was that there is no such resource.
    pub sent: Option<Version>,
    /// The latest version that the client took.
    pub acked: Option<Version>,
    /// The version that the client rejected, and why; it still uses `acked`.
    pub rejected: Option<(Version, String)>,
}

/// How far a client is with a type, in the words of `proxy-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing was sent.
    NotSent,
    /// All that was sent was taken.
    Synced,
    /// An answer is awaited.
    Stale,
    /// A resource was rejected, and its last good version is in use.
    Rejected,
}

impl TypeStatus {
    /// How far the client is.
    pub fn sync(&self) -> Sync {
        if self.resources.iter().any(|r| r.rejected.is_some()) {
            Sync::Rejected
        } else if self.pending > 0 {
            Sync::Stale
        } else if self.responses == 0 && self.resources.is_empty() {
            Sync::NotSent
        } else {
            Sync::Synced
        }
    }
}

impl Session {
    /// A stream that has just been opened.
    pub fn new() -> Self {
        Session::default()
    }

    /// Takes one request. What it asks for comes with the next [`Session::poll`].
    ///
    /// # Errors
    /// If no client may send this; the stream must then be closed.
    pub fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Heard, ProtocolError> {
        if request.type_url.is_empty() {
            return Err(ProtocolError::NoType);
        }
        let type_url: Name = request.type_url.as_str().into();
        let key = (types::rank(&type_url), type_url.clone());
        let first = !self.watches.contains_key(&key);
        if first && self.watches.len() >= MAX_TYPES {
            return Err(ProtocolError::TooManyTypes);
        }
        let watch = self.watches.entry(key).or_default();
        let verdict = watch.verdict(&request.response_nonce, request.error_detail.as_ref());
        let subscription = first || !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        if first {
            watch.open(&type_url, &request);
        } else {
            watch.unsubscribe(&request.resource_names_unsubscribe);
        }
        watch.subscribe(&request.resource_names_subscribe);
        if watch.explicit.len() > MAX_NAMES {
            return Err(ProtocolError::TooManyNames(request.type_url));
        }
        Ok(Heard { type_url, verdict, subscription })
    }

    /// Notes that the state has changed: everything is compared at the next [`Session::poll`].
    pub fn changed(&mut self) {
        self.watches.values_mut().for_each(|w| w.due = true);
    }

    /// Whether [`Session::poll`] has something to do.
    pub fn is_due(&self) -> bool {
        self.watches.values().any(Watch::is_due)
    }

    /// The responses that are due, in the order in which they must be sent: what is referred to before what refers to it, and removed
    /// after what referred to it. They count as sent.
    pub fn poll(&mut self, state: &mut dyn ResourceSource) -> Vec<DeltaDiscoveryResponse> {
        let keys: Vec<_> = self.watches.keys().cloned().collect();
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for key in keys {
            let Some(watch) = self.watches.get_mut(&key) else { continue };
            if !watch.is_due() {
                continue;
            }
            let diff = watch.diff(&key.1, state);
            if &*key.1 == types::CLUSTER {
                self.resend_endpoints(&diff.changed);
            }
            let last = types::removed_last(&key.1);
            let (removed, after) = if last { (Vec::new(), diff.removed) } else { (diff.removed, Vec::new()) };
            if diff.owed && diff.added.is_empty() && removed.is_empty() && after.is_empty() || !diff.added.is_empty() || !removed.is_empty()
            {
                now.extend(self.response(&key, diff.added, removed));
            }
            if !after.is_empty() {
                later.push((key, after));
            }
        }
        for (key, removed) in later.into_iter().rev() {
            now.extend(self.response(&key, Vec::new(), removed));
        }
        now
    }

    /// Responses that were not answered yet.
    pub fn in_flight(&self) -> usize {
        self.watches.values().map(|w| w.in_flight.len()).sum()
    }

    /// Whether the client's last word on some resource was a rejection.
    pub fn has_rejections(&self) -> bool {
        self.watches.values().any(|w| w.sent.values().any(|t| t.rejected.is_some()))
    }

    /// How far the client is, by type.
    pub fn status(&self) -> Vec<TypeStatus> {
        self.watches.iter().map(|((_, type_url), watch)| watch.status(type_url)).collect()
    }

    /// A cluster that is replaced waits for its endpoints anew, though the client does not ask for them again.
    fn resend_endpoints(&mut self, clusters: &[Name]) {
        let key = (types::rank(types::ENDPOINT), Name::from(types::ENDPOINT));
        if let Some(endpoints) = self.watches.get_mut(&key) {
            endpoints.forced.extend(clusters.iter().filter(|c| endpoints.explicit.contains(*c)).cloned());
        }
    }

    fn response(&mut self, key: &(u8, Name), added: Vec<(Name, Resource)>, removed: Vec<Name>) -> Option<DeltaDiscoveryResponse> {
        let watch = self.watches.get_mut(key)?;
        self.nonces += 1;
        watch.responses += 1;
        if watch.in_flight.len() >= MAX_IN_FLIGHT {
            watch.in_flight.pop_front();
        }
        watch.in_flight.push_back(Flight { nonce: self.nonces, sent: added.iter().map(|(n, r)| (n.clone(), r.version)).collect() });
        let resource = |(name, resource): (Name, Resource)| discovery::Resource {
            name: name.to_string(),
            version: resource.version.to_string(),
            resource: Some((*resource.body).clone()),
            ..Default::default()
        };
        Some(DeltaDiscoveryResponse {
            type_url: key.1.to_string(),
            nonce: self.nonces.to_string(),
            resources: added.into_iter().map(resource).collect(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    }
}

impl Watch {
    fn is_due(&self) -> bool {
        self.due || self.owed || !self.forced.is_empty()
    }

    /// The first request of a type.
    fn open(&mut self, type_url: &str, request: &DeltaDiscoveryRequest) {
        if request.resource_names_subscribe.is_empty() && types::empty_means_all(type_url) {
            self.wildcard = true;
            self.owed = true;
        }
        self.due = true;
        let all = self.wildcard || request.resource_names_subscribe.iter().any(|n| n == types::WILDCARD);
        let asked: BTreeSet<&str> = request.resource_names_subscribe.iter().map(String::as_str).collect();
        for (name, version) in &request.initial_resource_versions {
            if all || asked.contains(name.as_str()) {
                let version: Option<Version> = version.parse().ok();
                let sent = version.map_or(SentVersion::Foreign, SentVersion::Version);
                self.sent.insert(name.as_str().into(), Sent { version: sent, acked: version, rejected: None });
            }
        }
    }

    fn subscribe(&mut self, names: &[String]) {
        // The names of a first request that came with a version are compared, not forced: the client surely holds that version.
        let first = self.responses == 0 && self.acks == 0 && self.nacks == 0;
        for name in names {
            if name == types::WILDCARD {
                self.wildcard = true;
                self.due = true;
                self.owed = true;
                continue;
            }
            let name: Name = name.as_str().into();
            let new = self.explicit.insert(name.clone());
            if !(first && new && self.sent.contains_key(&name)) {
                self.forced.insert(name);
            }
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == types::WILDCARD {
                self.wildcard = false;
                self.sent.retain(|name, _| self.explicit.contains(name));
            } else if self.explicit.remove(name.as_str()) {
                if self.wildcard {
                    // The client cannot know whether the wildcard covers it, so it must be answered.
                    self.forced.insert(name.as_str().into());
                    self.due = true;
                } else {
                    self.sent.remove(name.as_str());
                    self.forced.remove(name.as_str());
                }
            }
        }
    }

    fn verdict(&mut self, nonce: &str, error: Option<&Status>) -> Option<Verdict> {
        if nonce.is_empty() {
            return None;
        }
        let at = nonce.parse().ok().and_then(|nonce: u64| self.in_flight.iter().position(|f| f.nonce == nonce));
        let Some(flight) = at.and_then(|at| self.in_flight.remove(at)) else { return Some(Verdict::Unknown) };
        let Some(error) = error else {
            self.acks += 1;
            flight.sent.iter().for_each(|(name, version)| self.accepted(name, *version));
            if self.sent.values().all(|t| t.rejected.is_none()) {
                self.error = None;
            }
            return Some(Verdict::Ack);
        };
        self.nacks += 1;
        self.error = Some(error.message.clone());
        let rejected = rejections(error, flight.sent.iter().map(|(name, _)| name));
        for (name, version) in &flight.sent {
            match rejected.iter().find(|(n, _)| n == name) {
                None => self.accepted(name, *version),
                Some((_, reason)) => {
                    // A rejection of what was replaced in the meantime says nothing about what is there now.
                    if let Some(sent) = self.sent.get_mut(name).filter(|t| t.version == SentVersion::Version(*version)) {
                        sent.rejected = Some((*version, reason.clone()));
                    }
                }
            }
        }
        Some(Verdict::Nack { message: error.message.clone(), rejected })
    }

    fn accepted(&mut self, name: &Name, version: Version) {
        if let Some(sent) = self.sent.get_mut(name).filter(|t| t.version != SentVersion::Absent) {
            sent.acked = Some(version);
            if sent.version == SentVersion::Version(version) {
                sent.rejected = None;
            }
        }
    }

    /// Compares with the state, and notes the difference as sent.
    fn diff(&mut self, type_url: &str, state: &mut dyn ResourceSource) -> Diff {
        let mut diff = Diff { owed: std::mem::take(&mut self.owed), ..Diff::default() };
        let forced = std::mem::take(&mut self.forced);
        let all = std::mem::take(&mut self.due) || diff.owed;
        let mut wanted: BTreeSet<Name> = if all { self.explicit.clone() } else { forced.clone() };
        if all && self.wildcard {
            wanted.extend(state.names(type_url));
        }
        for name in &wanted {
            match state.resource(type_url, name) {
                Some(resource) => self.compare(name, resource, forced.contains(name), &mut diff),
                None if state.is_pending(type_url, name) => {
                    if forced.contains(name) {
                        self.forced.insert(name.clone());
                    }
                }
                None => self.missing(name, forced.contains(name), &mut diff),
            }
        }
        if all {
            let gone: Vec<Name> = self.sent.keys().chain(&forced).filter(|n| !wanted.contains(*n)).cloned().collect();
            let gone: BTreeSet<Name> = gone.into_iter().collect();
            gone.iter().for_each(|name| self.missing(name, forced.contains(name), &mut diff));
        }
        diff
    }

    fn compare(&mut self, name: &Name, resource: Resource, forced: bool, diff: &mut Diff) {
        let version = SentVersion::Version(resource.version);
        match self.sent.get_mut(name) {
            Some(sent) if sent.version == version && !forced => return,
            Some(sent) => {
                if sent.version != SentVersion::Absent {
                    diff.changed.push(name.clone());
                }
                if sent.version != version {
                    sent.version = version;
                    sent.rejected = None;
                }
            }
            None => {
                self.sent.insert(name.clone(), Sent { version, acked: None, rejected: None });
            }
        }
        diff.added.push((name.clone(), resource));
    }

    fn missing(&mut self, name: &Name, forced: bool, diff: &mut Diff) {
        let explicit = self.explicit.contains(name);
        let before = self.sent.get(name).map(|t| t.version);
        if forced || before.is_some_and(|version| version != SentVersion::Absent) || (explicit && before.is_none()) {
            diff.removed.push(name.clone());
        }
        if explicit {
            self.sent.insert(name.clone(), Sent { version: SentVersion::Absent, acked: None, rejected: None });
        } else {
            self.sent.remove(name);
        }
    }

    fn status(&self, type_url: &Name) -> TypeStatus {
        let resource = |(name, sent): (&Name, &Sent)| ResourceStatus {
            name: name.clone(),
            sent: match sent.version {
                SentVersion::Version(version) => Some(version),
                SentVersion::Absent | SentVersion::Foreign => None,
            },
            acked: sent.acked,
            rejected: sent.rejected.clone(),
        };
        TypeStatus {
            type_url: type_url.clone(),
            wildcard: self.wildcard,
            explicit: self.explicit.len(),
            responses: self.responses,
            acks: self.acks,
            nacks: self.nacks,
            pending: self.in_flight.len(),
            error: self.error.clone(),
            resources: self.sent.iter().map(resource).collect(),
        }
    }
}
