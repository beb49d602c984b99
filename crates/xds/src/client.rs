//! The client's end of delta streams, one after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
};
use mizzen_types::Name;

use crate::{
    nack::rejection,
    stream::{Streams, Subscription, key},
    types,
};

pub use crate::{
    nack::rejections,
    stream::{Event, Unasked},
};

/// A response that is to be settled; with the versions of its resources.
pub type Receipt = crate::stream::Receipt<Vec<(Name, String)>>;

/// What is subscribed to at a server, and what was accepted of it.
#[derive(Debug)]
pub struct Client {
    streams: Streams<Subscribed>,
    answers: VecDeque<DeltaDiscoveryRequest>,
    /// See [`Client::set_brings_along`].
    brings_along: bool,
}

#[derive(Debug, Default)]
struct Subscribed {
    wildcard: bool,
    names: BTreeSet<Name>,
    /// The versions of what was accepted, as the server named them.
    accepted: BTreeMap<Name, String>,
    /// What was requested on this stream of the two first fields.
    started: bool,
    requested_wildcard: bool,
    requested: BTreeSet<Name>,
    /// Names that must be requested again though they were already.
    again: BTreeSet<Name>,
    /// Names whose subscription has changed since the last request.
    touched: BTreeSet<Name>,
    /// Names whose subscription was ended on this stream. What still comes of them may have crossed that, so that the server has it no more.
    left: BTreeSet<Name>,
    /// Names whose subscription was ended on this stream while there is one to everything: the server answers that, if with nothing else by saying that
    /// there is none for the client.
    ended: BTreeSet<Name>,
}

impl Client {
    /// Without a stream; `node` introduces it on each.
    pub fn new(node: Node) -> Self {
        Client { streams: Streams::new(node), answers: VecDeque::new(), brings_along: false }
    }

    /// Whether the server's answers bring along what they name: what comes without being asked for is then subscribed to, on both sides, from there on.
    pub fn set_brings_along(&mut self, brings_along: bool) {
        self.brings_along = brings_along;
    }

    /// A new stream is open. All subscriptions are requested anew, with the versions that were accepted.
    pub fn connected(&mut self) {
        self.answers.clear();
        self.streams.connected();
    }

    /// The stream is gone. What was accepted stays so.
    pub fn disconnected(&mut self) {
        self.answers.clear();
        self.streams.disconnected();
    }

    /// Subscribes to every resource of a type.
    pub fn watch_all(&mut self, type_url: &str) {
        self.streams.of(type_url).wildcard = true;
    }

    /// Subscribes to these resources of a type, now or when they come to be.
    pub fn subscribe(&mut self, type_url: &str, names: impl IntoIterator<Item = Name>) {
        let brings_along = self.brings_along;
        let subscribed = self.streams.of(type_url);
        for name in names {
            if brings_along && subscribed.is_brought(&name) {
                subscribed.requested.insert(name.clone());
                subscribed.names.insert(name);
            } else if subscribed.names.insert(name.clone()) {
                if subscribed.requested.contains(&name) {
                    subscribed.again.insert(name.clone());
                }
                subscribed.touched.insert(name);
            }
        }
    }

    /// Ends the subscription to these resources, but for those that [`Client::watch_all`] covers.
    pub fn unsubscribe(&mut self, type_url: &str, names: impl IntoIterator<Item = Name>) {
        let brings_along = self.brings_along;
        let subscribed = self.streams.of(type_url);
        for name in names {
            subscribed.names.remove(&name);
            // What came along is not among what comes unasked.
            if !subscribed.wildcard || brings_along {
                subscribed.accepted.remove(&name);
            }
            if subscribed.requested.contains(&name) {
                subscribed.left.insert(name.clone());
            }
            subscribed.touched.insert(name);
        }
    }

    /// Whether this resource is subscribed to.
    pub fn is_subscribed(&self, type_url: &str, name: &str) -> bool {
        self.streams.subscriptions.get(&key(type_url)).is_some_and(|s| s.covers(name))
    }

    /// The version of a resource that was accepted last.
    pub fn accepted(&self, type_url: &str, name: &str) -> Option<&str> {
        self.streams.subscriptions.get(&key(type_url))?.accepted.get(name).map(String::as_str)
    }

    /// The next request that must be sent, if the stream is open.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.streams.connected {
            return None;
        }
        let due = |streams: &mut Streams<Subscribed>| streams.subscriptions.iter_mut().find_map(|(key, s)| s.request(&key.1));
        let mut request = self.answers.pop_front().or_else(|| due(&mut self.streams))?;
        request.node = self.streams.introduce();
        Some(request)
    }

    /// Takes a response apart. What is not subscribed to any more is left out.
    ///
    /// # Errors
    /// If nothing of that type was asked for; the stream should then be closed.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<(Receipt, Vec<Event>), Unasked> {
        let key = key(&response.type_url);
        let stream = self.streams.number;
        if self.brings_along {
            self.streams.of(&response.type_url).adopt(&response);
        }
        let Some(subscribed) = self.streams.subscriptions.get_mut(&key).filter(|s| s.started) else {
            return Err(Unasked(response.type_url));
        };
        let mut receipt = Receipt { key, stream, nonce: response.nonce, version: Vec::new(), rejected: Vec::new() };
        let mut events = Vec::new();
        let mut seen = BTreeSet::new();
        for resource in response.resources {
            let name: Name = resource.name.as_str().into();
            if !subscribed.takes(&name) {
                continue;
            }
            match body(resource, &response.type_url, seen.insert(name.clone())) {
                Err(reason) => receipt.rejected.push((name, reason.to_owned())),
                Ok((version, body)) => {
                    receipt.version.push((name.clone(), version.clone()));
                    events.push(Event::Added { name, version, body });
                }
            }
        }
        for name in response.removed_resources {
            let name: Name = name.into();
            // It may answer the end of the subscription before this one, and then says nothing of the resource: asked once more, the server tells.
            if subscribed.ended.remove(&name) && subscribed.names.contains(&name) {
                subscribed.again.insert(name.clone());
                subscribed.touched.insert(name);
            } else if subscribed.covers(&name) {
                subscribed.accepted.remove(&name);
                events.push(Event::Removed { name });
            }
        }
        Ok((receipt, events))
    }

    /// Judges a response: all of it was taken, but for `rejected`, each with its reason. Of those the version that was accepted before stays, so
    /// that the server sends them again on the next stream.
    pub fn settle(&mut self, receipt: Receipt, rejected: impl IntoIterator<Item = (Name, String)>) {
        let current = self.streams.is_current(&receipt);
        let mut bad = receipt.rejected;
        bad.extend(rejected);
        let Some(subscribed) = self.streams.subscriptions.get_mut(&receipt.key) else { return };
        for (name, version) in receipt.version {
            if subscribed.covers(&name) && !bad.iter().any(|(n, _)| *n == name) {
                subscribed.accepted.insert(name, version);
            }
        }
        if current {
            self.answers.push_back(DeltaDiscoveryRequest {
                type_url: receipt.key.1.to_string(),
                response_nonce: receipt.nonce,
                error_detail: (!bad.is_empty()).then(|| rejection(&bad)),
                ..Default::default()
            });
        }
    }
}

impl Subscription for Subscribed {
    fn reset(&mut self) {
        self.started = false;
        self.requested_wildcard = false;
        self.requested.clear();
        self.again.clear();
        self.touched.clear();
        self.left.clear();
        self.ended.clear();
    }
}

impl Subscribed {
    fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether a resource that comes now is taken. One that was let go does not come because everything is wanted before the server was told so: it crossed
    /// the end of its subscription, and comes once more if it is there.
    fn takes(&self, name: &str) -> bool {
        self.names.contains(name) || (self.wildcard && (self.requested_wildcard || !self.left.contains(name)))
    }

    /// Whether a resource came along with another one, so that the server has it as subscribed without a request.
    fn is_brought(&self, name: &Name) -> bool {
        self.started && self.wildcard && self.accepted.contains_key(name) && !self.requested.contains(name) && !self.left.contains(name)
    }

    /// Subscribes to what a response brings without being asked for.
    fn adopt(&mut self, response: &DeltaDiscoveryResponse) {
        for resource in &response.resources {
            let name: Name = resource.name.as_str().into();
            // Of what all are subscribed to, only that counts which is wanted by name: see `subscribe`.
            if self.wildcard || self.names.contains(&name) {
                continue;
            }
            if self.left.contains(&name) || self.requested.contains(&name) {
                self.again.insert(name.clone());
                self.touched.insert(name.clone());
            } else {
                self.requested.insert(name.clone());
            }
            self.names.insert(name);
            // The server has begun with this type.
            self.started = true;
        }
    }

    /// The request that tells the server what it does not know yet.
    fn request(&mut self, type_url: &Name) -> Option<DeltaDiscoveryRequest> {
        if !self.started && !self.wildcard && self.names.is_empty() {
            return None;
        }
        // A new stream is told of all names; then of those that have changed.
        let touched = std::mem::take(&mut self.touched);
        let candidates = if self.started { &touched } else { &self.names };
        let is_new = |name: &&Name| self.names.contains(*name) && (!self.requested.contains(*name) || self.again.contains(*name));
        let mut subscribe: Vec<String> = candidates.iter().filter(is_new).map(ToString::to_string).collect();
        let is_left = |name: &&Name| self.requested.contains(*name) && !self.names.contains(*name);
        let unsubscribe: Vec<String> = touched.iter().filter(is_left).map(ToString::to_string).collect();
        // An empty first request is the form that every server understands.
        let legacy = !self.started && self.wildcard && subscribe.is_empty() && types::empty_means_all(type_url);
        if self.wildcard && !self.requested_wildcard && !legacy {
            subscribe.insert(0, types::WILDCARD.to_owned());
        }
        if self.started && subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        if self.started {
            for name in touched {
                if self.names.contains(&name) {
                    self.left.remove(&name);
                    self.requested.insert(name);
                } else if self.requested.remove(&name) && self.wildcard {
                    self.ended.insert(name);
                }
            }
        } else {
            self.requested.clone_from(&self.names);
        }
        let mut request = DeltaDiscoveryRequest {
            type_url: type_url.to_string(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Default::default()
        };
        if !self.started {
            request.initial_resource_versions = self.accepted.iter().map(|(name, version)| (name.to_string(), version.clone())).collect();
        }
        self.started = true;
        self.requested_wildcard = self.wildcard;
        self.again.clear();
        Some(request)
    }
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
