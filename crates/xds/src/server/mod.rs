//! The server's end of one stream.

mod held;
mod resource;
mod sheet;
mod sotw;
mod watch;

use std::{collections::BTreeMap, sync::Arc};

use mizzen_protos::envoy::envoy::service::discovery::v3::{self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mizzen_types::Name;

pub use held::Shared;
pub use resource::{Parts, Resource};
pub use sheet::{Sheet, Whole};
use watch::{Diff, Watch};

use crate::{Version, types};

/// Names that one stream may subscribe to per type.
pub const MAX_NAMES: usize = 100_000;
/// Types that one stream may subscribe to.
pub const MAX_TYPES: usize = 64;
/// Responses per type whose answer is still awaited; the oldest is forgotten beyond it.
pub const MAX_IN_FLIGHT: usize = 256;

/// So many names are worth a pass over all; in tests, few are many.
const MANY: usize = if cfg!(test) { 3 } else { 64 };

/// Where a session reads what its client should have.
pub trait ResourceSource {
    /// The names of all resources of a type, for a wildcard subscription.
    fn names(&mut self, type_url: &str) -> Vec<Name>;
    /// Whether a resource is among [`ResourceSource::names`].
    fn is_listed(&mut self, type_url: &str, name: &str) -> bool {
        self.names(type_url).iter().any(|listed| **listed == *name)
    }
    /// One resource, or `None` if there is no such.
    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource>;
    /// All of a type that is listed, or these names, which are in order, if other clients get much of it alike. `None`: it is looked up name by name.
    fn whole(&mut self, _type_url: &str, _asked: Option<&Arc<[Name]>>) -> Option<Whole> {
        None
    }
    /// What a resource names and has to be there first: (type, name). For clients that do not ask for everything.
    fn brings(&mut self, _type_url: &str, _name: &str) -> Vec<(Name, Name)> {
        Vec::new()
    }
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
    watches: BTreeMap<Key, Watch>,
    nonces: u64,
    shared: Arc<Shared>,
    /// Of a client that speaks the state-of-the-world variant.
    sotw: Option<sotw::Sotw>,
    /// The client has answered something. It says at once all that it wants of a new stream, so that by then all of that is known.
    answered: bool,
    /// What is gone and is told when the client has answered: what it came with and still refers to it may not be asked for yet.
    kept: Vec<(Key, Vec<Name>)>,
}

type Key = (u8, Name);

/// A response, with contents that are shared with other sessions.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The type of all resources.
    pub type_url: Name,
    /// By which it is answered.
    pub nonce: String,
    /// What is new and others get alike; only where the client had nothing of the type.
    pub sheet: Option<Arc<Sheet>>,
    /// What is new or has changed beside it.
    pub resources: Vec<(Name, Resource)>,
    /// What is gone.
    pub removed: Vec<Name>,
}

impl Response {
    /// All resources that it holds.
    pub fn all(&self) -> impl Iterator<Item = &(Name, Resource)> {
        self.sheet.iter().flat_map(|sheet| sheet.lines()).chain(&self.resources)
    }

    /// The length of their contents, as [`Resource::len`] has it.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.sheet.as_ref().map_or(0, |sheet| sheet.len()) + self.resources.iter().map(|(_, resource)| resource.len()).sum::<usize>()
    }
}

impl From<Response> for DeltaDiscoveryResponse {
    fn from(response: Response) -> Self {
        let resource = |(name, resource): &(Name, Resource)| discovery::Resource {
            name: name.to_string(),
            version: resource.version.to_string(),
            resource: Some(resource.whole()),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            type_url: response.type_url.to_string(),
            resources: response.all().map(resource).collect(),
            nonce: response.nonce,
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }
}

/// One pass over the types of a session. What a type needs is looked up outside of the session, so that nobody waits for it meanwhile.
#[derive(Debug)]
pub struct Round {
    keys: std::vec::IntoIter<Key>,
    now: Vec<Response>,
    later: Vec<(Key, Vec<Name>)>,
}

/// What a session needs to know of one type.
#[derive(Debug)]
pub struct Wanted {
    key: Key,
    /// Everything is compared, so that what is not found is gone.
    all: bool,
    /// All names are to be listed.
    list: bool,
    /// Names, and whether they are subscribed to one by one.
    names: Vec<(Name, bool)>,
    /// In their place all names that are subscribed to, of which there are none where everything is.
    asked: Option<Option<Arc<[Name]>>>,
    forced: std::collections::BTreeSet<Name>,
}

/// What was found of it.
#[derive(Debug)]
pub struct Found {
    wanted: Wanted,
    sheet: Option<Arc<Sheet>>,
    /// What is not in the sheet.
    resources: Vec<(Name, LookUp)>,
}

#[derive(Debug)]
enum LookUp {
    Found(Resource),
    Missing,
    Pending,
}

impl Wanted {
    /// The type.
    pub fn type_url(&self) -> &str {
        &self.key.1
    }

    /// Whether everything of the type is compared, as after a first request.
    pub fn is_whole(&self) -> bool {
        self.all
    }

    /// Looks everything up.
    pub fn look_up(mut self, state: &mut dyn ResourceSource) -> Found {
        let type_url = self.key.1.clone();
        let found = |state: &mut dyn ResourceSource, name: &Name, found| match found {
            Some(resource) => LookUp::Found(resource),
            None if state.is_pending(&type_url, name) => LookUp::Pending,
            None => LookUp::Missing,
        };
        if let Some(asked) = &self.asked {
            if let Some(Whole { sheet, own }) = state.whole(&type_url, asked.as_ref()) {
                let resources = own.into_iter().map(|(name, resource)| {
                    let look_up = found(state, &name, resource);
                    (name, look_up)
                });
                return Found { sheet: Some(sheet), resources: resources.collect(), wanted: self };
            }
            self.names.extend(asked.iter().flat_map(|names| names.iter()).map(|name| (name.clone(), true)));
        }
        let mut names = std::mem::take(&mut self.names);
        if self.list {
            names.extend(state.names(&type_url).into_iter().map(|name| (name, true)));
            names.sort_unstable();
            names.dedup_by(|b, a| a.0 == b.0);
        }
        let mut resources: Vec<(Name, LookUp)> = Vec::with_capacity(names.len());
        for (name, sure) in names {
            let resource = if sure || state.is_listed(&type_url, &name) { state.resource(&type_url, &name) } else { None };
            let look_up = found(state, &name, resource);
            resources.push((name, look_up));
        }
        Found { sheet: None, resources, wanted: self }
    }
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

    /// A stream that shares lists with others.
    pub fn sharing(shared: Arc<Shared>) -> Self {
        Session { shared, ..Session::default() }
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
        self.answered |= verdict.is_some();
        watch.settle(&self.shared);
        let subscription = first || !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        let mut is_subscribed = false;
        if first {
            is_subscribed = watch.open(&type_url, &request, &self.shared);
        } else {
            // Who takes everything from now on has to be told of what it lets go by name.
            watch.widen(&request.resource_names_subscribe);
            watch.unsubscribe(&request.resource_names_unsubscribe);
        }
        if !is_subscribed {
            watch.subscribe(&request.resource_names_subscribe, &self.shared);
        }
        if watch.explicit() > MAX_NAMES {
            return Err(ProtocolError::TooManyNames(request.type_url));
        }
        Ok(Heard { type_url, verdict, subscription })
    }

    /// Notes that the state has changed: everything is compared at the next [`Session::poll`].
    pub fn changed(&mut self) {
        self.watches.values_mut().for_each(Watch::changed);
    }

    /// Notes that one resource has changed, came or went: it is compared at the next [`Session::poll`]. Returns whether the client is subscribed to it.
    pub fn touch(&mut self, type_url: &str, name: &Name) -> bool {
        let watch = self.watches.iter_mut().find(|((_, watched), _)| **watched == *type_url);
        watch.is_some_and(|(_, watch)| watch.touch(name))
    }

    /// What the client was subscribed to when this was last asked, and is not any more: types and names.
    pub fn take_let_go(&mut self) -> Vec<(Name, Name)> {
        // As ever but for a few times in a stream's life.
        if !self.watches.values().any(Watch::has_let_go) {
            return Vec::new();
        }
        let of = |((_, type_url), watch): (&Key, &mut Watch)| {
            let type_url = type_url.clone();
            watch.take_let_go().into_iter().map(move |name| (type_url.clone(), name))
        };
        self.watches.iter_mut().flat_map(of).collect()
    }

    /// Whether the client is subscribed to a resource by its name.
    pub fn is_explicit(&self, type_url: &str, name: &Name) -> bool {
        self.watches.iter().any(|((_, watched), watch)| **watched == *type_url && watch.is_explicit(name))
    }

    /// Whether [`Session::poll`] has something to do.
    pub fn is_due(&self) -> bool {
        self.watches.values().any(Watch::is_due) || self.answered && !self.kept.is_empty()
    }

    /// Whether everything of a type is due, as after its first request.
    pub fn is_whole_due(&self) -> bool {
        self.watches.values().any(Watch::is_whole_due)
    }

    /// The names that are due one by one, each with its type and whether it is there only if it is among all of its type. `None` if everything of a type
    /// is due, or more names than `most`.
    pub fn due_names(&self, most: usize) -> Option<Vec<(&str, &Name, bool)>> {
        let mut due = Vec::new();
        for ((_, type_url), watch) in &self.watches {
            due.extend(watch.due_names()?.map(|name| (&**type_url, name, !watch.is_explicit(name))));
            if due.len() > most {
                return None;
            }
        }
        Some(due)
    }

    /// The responses that are due, in the order in which they must be sent: what is referred to before what refers to it, and removed
    /// after what referred to it. They count as sent.
    pub fn poll(&mut self, state: &mut dyn ResourceSource) -> Vec<DeltaDiscoveryResponse> {
        self.pass(state).into_iter().map(Into::into).collect()
    }

    fn pass(&mut self, state: &mut dyn ResourceSource) -> Vec<Response> {
        let mut round = self.begin();
        while let Some(wanted) = self.next(&mut round) {
            let found = wanted.look_up(state);
            self.take(&mut round, found);
        }
        self.end(round)
    }

    /// Subscribes the client to what the resources that are due to it name, as [`ResourceSource::brings`] says, so that all of it comes at once and in
    /// order. The client counts it as subscribed when it comes.
    pub fn bring(&mut self, state: &mut dyn ResourceSource) {
        let mut open: Vec<(Name, Name)> = Vec::new();
        for ((_, type_url), watch) in self.watches.iter().filter(|((_, type_url), _)| types::names_others(type_url)) {
            let due = watch.due(|| state.names(type_url));
            open.extend(due.into_iter().map(|name| (type_url.clone(), name)));
        }
        while let Some((type_url, name)) = open.pop() {
            for (type_url, name) in state.brings(&type_url, &name) {
                let watch = self.watches.entry((types::rank(&type_url), type_url.clone())).or_default();
                if watch.explicit() < MAX_NAMES && watch.bring(&name) && types::names_others(&type_url) {
                    open.push((type_url, name));
                }
            }
        }
    }

    /// [`Session::poll`] in steps: begins a pass over all types.
    pub fn begin(&self) -> Round {
        let keys: Vec<Key> = self.watches.keys().cloned().collect();
        Round { keys: keys.into_iter(), now: Vec::new(), later: Vec::new() }
    }

    /// What has to be looked up next; `None` at the end of the pass.
    pub fn next(&mut self, round: &mut Round) -> Option<Wanted> {
        let watches = &mut self.watches;
        round.keys.find_map(|key| watches.get_mut(&key).filter(|watch| watch.is_due()).map(|watch| watch.wanted(key)))
    }

    /// Takes what was looked up.
    pub fn take(&mut self, round: &mut Round, found: Found) {
        let key = found.wanted.key.clone();
        let Some(watch) = self.watches.get_mut(&key) else { return };
        let is_first = !self.answered && watch.has_said_nothing();
        let diff = watch.diff(found, &self.shared);
        let keeps = is_first && diff.lost;
        if &*key.1 == types::CLUSTER {
            self.resend_endpoints(&diff.changed);
        }
        let Diff { sheet, added, removed, owed, .. } = diff;
        let (removed, after) = if types::removed_last(&key.1) { (Vec::new(), removed) } else { (removed, Vec::new()) };
        if sheet.is_some() || !added.is_empty() || !removed.is_empty() || (owed && (after.is_empty() || keeps)) {
            round.now.extend(self.response(&key, sheet, added, removed));
        }
        if !after.is_empty() {
            if keeps { self.kept.push((key, after)) } else { round.later.push((key, after)) }
        }
    }

    /// The responses of a pass.
    pub fn end(&mut self, round: Round) -> Vec<Response> {
        let mut responses = round.now;
        for (key, removed) in round.later.into_iter().rev() {
            responses.extend(self.response(&key, None, Vec::new(), removed));
        }
        // Where nothing else is said there will be no answer to wait for.
        if !self.answered && (!responses.is_empty() || self.in_flight() > 0) {
            return responses;
        }
        for (key, mut removed) in std::mem::take(&mut self.kept).into_iter().rev() {
            // What has come back meanwhile stays.
            removed.retain(|name| self.watches.get(&key).is_some_and(|watch| !watch.has(name)));
            if !removed.is_empty() {
                responses.extend(self.response(&key, None, Vec::new(), removed));
            }
        }
        responses
    }

    /// Responses that were not answered yet.
    pub fn in_flight(&self) -> usize {
        self.watches.values().map(Watch::in_flight).sum()
    }

    /// Whether the client's last word on some resource was a rejection.
    pub fn has_rejections(&self) -> bool {
        self.watches.values().any(Watch::has_rejections)
    }

    /// What the client's last word on was a rejection: type, name and reason.
    pub fn rejections(&self) -> impl Iterator<Item = (&Name, &Name, &str)> {
        self.watches.iter().flat_map(|((_, type_url), watch)| watch.rejections().map(move |(name, why)| (type_url, name, why)))
    }

    /// How far the client is, by type.
    pub fn status(&self) -> Vec<TypeStatus> {
        self.watches.iter().map(|((_, type_url), watch)| watch.status(type_url)).collect()
    }

    /// A cluster that is replaced waits for its endpoints anew, though the client does not ask for them again.
    fn resend_endpoints(&mut self, clusters: &[Name]) {
        let key = (types::rank(types::ENDPOINT), Name::from(types::ENDPOINT));
        if let Some(endpoints) = self.watches.get_mut(&key) {
            endpoints.resend(clusters);
        }
    }

    fn response(&mut self, key: &Key, sheet: Option<Arc<Sheet>>, resources: Vec<(Name, Resource)>, removed: Vec<Name>) -> Option<Response> {
        let watch = self.watches.get_mut(key)?;
        self.nonces += 1;
        watch.sent(self.nonces, sheet.as_ref(), &resources);
        let response = Response { type_url: key.1.clone(), nonce: self.nonces.to_string(), sheet, resources, removed };
        Some(match &mut self.sotw {
            Some(sotw) => sotw.response(response),
            None => response,
        })
    }
}
