//! What the client's ends of both variants share: what they subscribe to, over one stream after the other.

use std::collections::BTreeMap;

use mizzen_protos::{Any, envoy::envoy::config::core::v3::Node};
use mizzen_types::Name;

use crate::types;

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

/// What remains to be said about a response; give it to the client's `settle` when its events were judged.
#[derive(Debug)]
#[must_use = "a response that is never settled is never acknowledged"]
pub struct Receipt<V> {
    pub(crate) key: (u8, Name),
    pub(crate) stream: u64,
    pub(crate) nonce: String,
    /// The response's version, or those of its resources.
    pub(crate) version: V,
    pub(crate) rejected: Vec<(Name, String)>,
}

impl<V> Receipt<V> {
    /// The type of the response's resources.
    pub fn type_url(&self) -> &Name {
        &self.key.1
    }
}

/// A response to nothing that was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a response of type `{0}`, which was not asked for")]
pub struct Unasked(pub String);

/// What is known of the server of one stream, beside the subscriptions themselves.
pub(crate) trait Subscription: Default {
    /// The stream is gone: nothing was requested on the next one yet.
    fn reset(&mut self);
}

/// The subscriptions of each type, in the order in which types are requested, and the stream of the moment.
#[derive(Debug)]
pub(crate) struct Streams<S> {
    node: Node,
    pub(crate) subscriptions: BTreeMap<(u8, Name), S>,
    /// Counts streams, so that late verdicts on responses of an earlier one send nothing.
    pub(crate) number: u64,
    pub(crate) connected: bool,
    introduced: bool,
}

impl<S: Subscription> Streams<S> {
    pub(crate) fn new(node: Node) -> Self {
        Streams { node, subscriptions: BTreeMap::new(), number: 0, connected: false, introduced: false }
    }

    pub(crate) fn connected(&mut self) {
        self.disconnected();
        self.number += 1;
        self.connected = true;
    }

    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.introduced = false;
        self.subscriptions.values_mut().for_each(S::reset);
    }

    /// The node, for the first request of a stream.
    pub(crate) fn introduce(&mut self) -> Option<Node> {
        (!std::mem::replace(&mut self.introduced, true)).then(|| self.node.clone())
    }

    /// Whether a response came on the stream of the moment.
    pub(crate) fn is_current<V>(&self, receipt: &Receipt<V>) -> bool {
        self.connected && receipt.stream == self.number
    }

    pub(crate) fn of(&mut self, type_url: &str) -> &mut S {
        self.subscriptions.entry(key(type_url)).or_default()
    }
}

pub(crate) fn key(type_url: &str) -> (u8, Name) {
    (types::rank(type_url), type_url.into())
}
