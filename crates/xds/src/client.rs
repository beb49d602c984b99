//! The client's end of delta streams, one after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mizzen_protos::{
    Any,
    envoy::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        },
        google::rpc::Status,
    },
    wkt::{self, value::Kind},
};
use mizzen_types::Name;
use prost::Message;

use crate::types;

/// Code `INVALID_ARGUMENT`, which every rejection has.
const INVALID_ARGUMENT: i32 = 3;
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

/// What is wanted from a server, and what is held.
#[derive(Debug)]
pub struct Client {
    node: Node,
    wants: BTreeMap<(u8, Name), Want>,
    /// Counts streams, so that late verdicts on responses of an earlier one send nothing.
    stream: u64,
    connected: bool,
    introduced: bool,
    answers: VecDeque<DeltaDiscoveryRequest>,
}

#[derive(Debug, Default)]
struct Want {
    wildcard: bool,
    names: BTreeSet<Name>,
    /// The versions of what was accepted, as the server named them.
    held: BTreeMap<Name, String>,
    /// What this stream's server knows of the two first fields.
    started: bool,
    told_wildcard: bool,
    told: BTreeSet<Name>,
    /// Names that must be asked for again though the server was told of them.
    again: BTreeSet<Name>,
}

/// A change of one resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// There is a new version.
    Added {
        /// The resource's name.
        name: Name,
        /// The server's version of it.
        version: String,
        /// The content.
        body: Any,
    },
    /// There is no such resource (any more).
    Removed {
        /// The resource's name.
        name: Name,
    },
}

impl Event {
    /// The resource's name.
    pub fn name(&self) -> &Name {
        match self {
            Event::Added { name, .. } | Event::Removed { name } => name,
        }
    }
}

/// What remains to be said about a response; give it to [`Client::settle`] when its events were judged.
#[derive(Debug)]
#[must_use = "a response that is never settled is never acknowledged"]
pub struct Receipt {
    key: (u8, Name),
    stream: u64,
    nonce: String,
    versions: Vec<(Name, String)>,
    rejected: Vec<(Name, String)>,
}

impl Receipt {
    /// The type of the response's resources.
    pub fn type_url(&self) -> &Name {
        &self.key.1
    }
}

/// A response to nothing that was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a response of type `{0}`, which was not asked for")]
pub struct Unasked(pub String);

impl Client {
    /// Without a stream; `node` introduces it on each.
    pub fn new(node: Node) -> Self {
        Client { node, wants: BTreeMap::new(), stream: 0, connected: false, introduced: false, answers: VecDeque::new() }
    }

    /// A new stream is open. What is wanted is told anew, with the versions that are held.
    pub fn connected(&mut self) {
        self.disconnected();
        self.stream += 1;
        self.connected = true;
    }

    /// The stream is gone. Everything held stays held.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.introduced = false;
        self.answers.clear();
        for want in self.wants.values_mut() {
            want.started = false;
            want.told_wildcard = false;
            want.told.clear();
            want.again.clear();
        }
    }

    /// Wants every resource of a type.
    pub fn watch_all(&mut self, type_url: &str) {
        self.want(type_url).wildcard = true;
    }

    /// Wants these resources of a type, now or when they come to be.
    pub fn subscribe(&mut self, type_url: &str, names: impl IntoIterator<Item = Name>) {
        let want = self.want(type_url);
        for name in names {
            if want.names.insert(name.clone()) && want.told.contains(&name) {
                want.again.insert(name);
            }
        }
    }

    /// Wants these resources no longer, but for those that [`Client::watch_all`] covers.
    pub fn unsubscribe(&mut self, type_url: &str, names: impl IntoIterator<Item = Name>) {
        let want = self.want(type_url);
        for name in names {
            want.names.remove(&name);
            if !want.wildcard {
                want.held.remove(&name);
            }
        }
    }

    /// Whether this resource is wanted.
    pub fn wants(&self, type_url: &str, name: &str) -> bool {
        self.wants.get(&key(type_url)).is_some_and(|w| w.wildcard || w.names.contains(name))
    }

    /// The version of a resource that was accepted last.
    pub fn held(&self, type_url: &str, name: &str) -> Option<&str> {
        self.wants.get(&key(type_url))?.held.get(name).map(String::as_str)
    }

    /// The next request that must be sent, if the stream is open.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.connected {
            return None;
        }
        let mut request = self.answers.pop_front().or_else(|| self.wants.iter_mut().find_map(|(key, want)| want.request(&key.1)))?;
        if !self.introduced {
            self.introduced = true;
            request.node = Some(self.node.clone());
        }
        Some(request)
    }

    /// Takes a response apart. What nobody wants any more is left out.
    ///
    /// # Errors
    /// If nothing of that type was asked for; the stream should then be closed.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<(Receipt, Vec<Event>), Unasked> {
        let key = key(&response.type_url);
        let Some(want) = self.wants.get(&key).filter(|w| w.started) else { return Err(Unasked(response.type_url)) };
        let mut receipt = Receipt { key, stream: self.stream, nonce: response.nonce, versions: Vec::new(), rejected: Vec::new() };
        let mut events = Vec::new();
        let mut seen = BTreeSet::new();
        for resource in response.resources {
            let name: Name = resource.name.as_str().into();
            if !(want.wildcard || want.names.contains(&name)) {
                continue;
            }
            match body(resource, &response.type_url, seen.insert(name.clone())) {
                Err(reason) => receipt.rejected.push((name, reason.to_owned())),
                Ok((version, body)) => {
                    receipt.versions.push((name.clone(), version.clone()));
                    events.push(Event::Added { name, version, body });
                }
            }
        }
        for name in response.removed_resources {
            let name: Name = name.into();
            if want.wildcard || want.names.contains(&name) {
                events.push(Event::Removed { name });
            }
        }
        if let Some(want) = self.wants.get_mut(&receipt.key) {
            for event in &events {
                if let Event::Removed { name } = event {
                    want.held.remove(name);
                }
            }
        }
        Ok((receipt, events))
    }

    /// Judges a response: all of it was taken, but for `rejected`, each with its reason. The last good version of those stays held, so that
    /// the server sends them again on the next stream.
    pub fn settle(&mut self, receipt: Receipt, rejected: impl IntoIterator<Item = (Name, String)>) {
        let mut bad = receipt.rejected;
        bad.extend(rejected);
        let Some(want) = self.wants.get_mut(&receipt.key) else { return };
        for (name, version) in receipt.versions {
            let wanted = want.wildcard || want.names.contains(&name);
            if wanted && !bad.iter().any(|(n, _)| *n == name) {
                want.held.insert(name, version);
            }
        }
        if self.connected && receipt.stream == self.stream {
            self.answers.push_back(DeltaDiscoveryRequest {
                type_url: receipt.key.1.to_string(),
                response_nonce: receipt.nonce,
                error_detail: (!bad.is_empty()).then(|| rejection(&bad)),
                ..Default::default()
            });
        }
    }

    fn want(&mut self, type_url: &str) -> &mut Want {
        self.wants.entry(key(type_url)).or_default()
    }
}

impl Want {
    /// The request that tells the server what it does not know yet.
    fn request(&mut self, type_url: &Name) -> Option<DeltaDiscoveryRequest> {
        if !self.started && !self.wildcard && self.names.is_empty() {
            return None;
        }
        let mut subscribe: Vec<String> =
            self.names.iter().filter(|n| !self.told.contains(*n) || self.again.contains(*n)).map(ToString::to_string).collect();
        let unsubscribe: Vec<String> = self.told.iter().filter(|n| !self.names.contains(*n)).map(ToString::to_string).collect();
        // An empty first request is the form that every server understands.
        let legacy = !self.started && self.wildcard && subscribe.is_empty() && types::empty_means_all(type_url);
        if self.wildcard && !self.told_wildcard && !legacy {
            subscribe.insert(0, types::WILDCARD.to_owned());
        }
        if self.started && subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        let mut request = DeltaDiscoveryRequest {
            type_url: type_url.to_string(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Default::default()
        };
        if !self.started {
            request.initial_resource_versions = self.held.iter().map(|(name, version)| (name.to_string(), version.clone())).collect();
        }
        self.started = true;
        self.told_wildcard = self.wildcard;
        self.told.clone_from(&self.names);
        self.again.clear();
        Some(request)
    }
}

pub(crate) fn key(type_url: &str) -> (u8, Name) {
    (types::rank(type_url), type_url.into())
}

fn body(resource: discovery::Resource, type_url: &str, new: bool) -> Result<(String, Any), &'static str> {
    let body = resource.resource.ok_or("has no content")?;
    if !new {
        return Err("is there twice");
    }
    if body.type_url != type_url {
        return Err("is of another type than its response");
    }
    Ok((resource.version, body))
}

/// The error of a NACK: a sentence for people, and a struct of reasons by resource for [`rejections`].
pub(crate) fn rejection(rejected: &[(Name, String)]) -> Status {
    let text = |s: &str| wkt::Value { kind: Some(Kind::StringValue(s.to_owned())) };
    let fields = rejected.iter().map(|(name, reason)| (name.to_string(), text(reason))).collect();
    let sentences: Vec<String> = rejected.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    let detail = Any { type_url: STRUCT.to_owned(), value: wkt::Struct { fields }.encode_to_vec() };
    Status { code: INVALID_ARGUMENT, message: sentences.join("; "), details: vec![detail] }
}

/// Which of the `sent` resources an error rejects, and why: by our own detail; else those that its message names, as Envoy's does; else all.
pub fn rejections<'a>(error: &Status, sent: impl Iterator<Item = &'a Name>) -> Vec<(Name, String)> {
    let detail = error.details.iter().find(|d| d.type_url == STRUCT).and_then(|d| wkt::Struct::decode(d.value.as_slice()).ok());
    let sent: Vec<Name> = sent.cloned().collect();
    let reason = |name: &Name| match detail.as_ref()?.fields.get(&**name)?.kind.as_ref()? {
        Kind::StringValue(reason) => Some(reason.clone()),
        _ => None,
    };
    let mut found: Vec<(Name, String)> = sent.iter().filter_map(|n| Some((n.clone(), reason(n)?))).collect();
    if found.is_empty() && detail.is_none() {
        found = sent.iter().filter(|n| names(&error.message, n)).map(|n| (n.clone(), error.message.clone())).collect();
    }
    if found.is_empty() && detail.is_none() {
        found = sent.into_iter().map(|n| (n, error.message.clone())).collect();
    }
    found
}

/// Whether a message names a resource, as a whole word.
fn names(message: &str, name: &str) -> bool {
    let inner = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '|' | '-'));
    !name.is_empty()
        && message
            .match_indices(name)
            .any(|(at, _)| !inner(message[..at].chars().next_back()) && !inner(message[at + name.len()..].chars().next()))
}
