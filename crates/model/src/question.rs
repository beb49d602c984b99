//! What can be asked about a proxy, and how an answer is told from others.
//!
//! A translation asks as little of a proxy as it can: not which namespace it is of, but which rule holds for it there. Proxies that get the same answers
//! get the same bytes. An answer is identified by the keys of its objects with the versions that last changed their contents.

use std::collections::BTreeMap;

use mizzen_api::Key;
use mizzen_types::{Hostname, Name};

use crate::{
    proxy::{ProxyView, ViewField},
    query::Query,
    reader::Reader,
    service::ServiceKey,
    snapshot::Snapshot,
};

/// A question whose answer may depend on the proxy that asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// The value of a field: asked only where the bytes hold it.
    Field(ViewField),
    /// Whether one of these extensions is there.
    Extension(&'static [&'static str]),
    /// Whether the proxy is of a namespace.
    InNamespace(Name),
    /// Whether the proxy has these labels.
    Selected(BTreeMap<String, String>),
    /// The service that a host means here.
    Service(Hostname),
    /// The service that a port of a host means here.
    ServiceAt(Hostname, u16),
    /// The only port that a host has here.
    OnlyPort(Hostname),
    /// The services under a host that are visible here.
    Under(Hostname),
    /// The alias of this name, if it is visible here.
    Alias(Hostname),
    /// The aliases that are visible here.
    Aliases,
    /// Of the services that not all see alike, those whose ports are theirs here.
    Ports,
    /// The same of those that have a port.
    ServicesAt(u16),
    /// The DestinationRules by which a service is connected to from here, or else served.
    Rule(ServiceKey, bool),
    /// The routes for a host that are visible here.
    Routes(Hostname),
    /// Where calls to unknown destinations go, if a Sidecar says so.
    Outbound,
    /// Services that routes send to and no Sidecar lists.
    RoutedTo,
    /// Whether the routes of an object are visible here.
    Sees(Key),
    /// The AuthorizationPolicies of the proxy's own workload.
    Policies,
    /// The RequestAuthentications of the proxy's own workload.
    Tokens,
    /// The modes of mutual TLS of the proxy's own workload.
    PeerModes,
    /// The services' ports that the proxy's own workload serves.
    Served,
    /// The workload's port to which its service sends a port.
    Target(u16),
    /// A Secret of the proxy's own namespace.
    OwnSecret(Name),
    /// Those of the proxy's own addresses that are ready endpoints of a service's port.
    OwnEndpoints(ServiceKey, u16),
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A number.
    Number(u64),
    /// A text.
    Text(Box<str>),
    /// An object, and the version that last changed it.
    Object(Key, u64),
    /// A service, and the version that last changed it.
    Service(ServiceKey, u64),
}

/// What identifies an answer: equal ones lead to equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Yes or no.
    Flag(bool),
    /// What was found, in order.
    Items(Box<[Item]>),
}

impl FromIterator<Item> for Answer {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        Answer::Items(items.into_iter().collect())
    }
}

/// To whom else an answer is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// All proxies of the same type with the same extensions, in this snapshot.
    #[default]
    All,
    /// Those that are alike in everything but address and name.
    Alike,
    /// This one.
    Own,
}

impl Reach {
    /// All, if it is so for all.
    pub(crate) fn all_if(everybody: bool) -> Reach {
        if everybody { Reach::All } else { Reach::Alike }
    }
}

impl Question {
    /// The answer that a proxy gets in a snapshot, and who gets the same.
    pub fn answer(&self, snapshot: &Snapshot, view: &ProxyView) -> (Answer, Reach) {
        let (answer, reach, _) = self.answer_with(snapshot, view);
        (answer, reach)
    }

    /// The same, with the queries that lie under the answer: which they are may depend on the proxy.
    pub fn answer_with(&self, snapshot: &Snapshot, view: &ProxyView) -> (Answer, Reach, Vec<Query>) {
        let reader = Reader::new(snapshot);
        self.ask(&reader, view);
        reader.last_answer()
    }

    fn ask(&self, reader: &Reader<'_>, view: &ProxyView) {
        match self {
            Question::Field(field) => reader.note_view(view, field.clone()),
            Question::Extension(names) => drop(view.has_extension(reader, names)),
            Question::InNamespace(namespace) => drop(view.is_in(reader, namespace)),
            Question::Selected(labels) => drop(view.selected(reader, labels)),
            Question::Service(host) => drop(view.service(reader, host)),
            Question::ServiceAt(host, port) => drop(view.service_at(reader, host, *port)),
            Question::OnlyPort(host) => drop(view.only_port(reader, host)),
            Question::Under(host) => drop(view.under(reader, host)),
            Question::Alias(host) => drop(view.alias(reader, host)),
            Question::Aliases => drop(view.aliases(reader)),
            Question::Ports => view.choice(reader),
            Question::ServicesAt(port) => drop(view.services_at(reader, *port)),
            Question::Rule(key, outbound) => drop(view.rule_of(reader, key, *outbound)),
            Question::Routes(host) => drop(view.routes(reader, host)),
            Question::Outbound => {
                view.outbound(reader);
            }
            Question::RoutedTo => drop(view.routed_to(reader)),
            Question::Sees(key) => drop(view.sees_key(reader, key)),
            Question::Policies => drop(view.policies(reader)),
            Question::Tokens => drop(view.jwt_rules(reader)),
            Question::PeerModes => drop(view.peer_modes(reader)),
            Question::Served => drop(view.served(reader)),
            Question::Target(port) => drop(view.target(reader, *port)),
            Question::OwnSecret(name) => drop(view.own_secret(reader, name)),
            Question::OwnEndpoints(key, port) => drop(view.own_endpoints(reader, key, *port)),
        }
    }
}
