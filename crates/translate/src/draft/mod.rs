//! Resources before they are encoded: what goes into an `Any` is still typed, so that it can be read and changed.
//!
//! A `head` is a message without what stands beside it here. Nothing else of the crate packs these, or asks for the order of a map: [`Draft::encode`]
//! packs from the inside out, and then puts all maps in order, once.

mod cluster;
mod http;
mod listener;
mod secret;

use std::sync::OnceLock;

use mizzen_protos::{
    Any,
    canonical::canonicalize,
    envoy::envoy::config::{
        endpoint::v3::ClusterLoadAssignment,
        route::v3::{RouteConfiguration, VirtualHost},
    },
    index::Host,
    nds::{NameTable, name_table::NameInfo},
    udpa::TypedStruct,
};
use prost::Message;

pub(crate) use cluster::{Cluster, Socket, SocketMatch};
pub(crate) use http::{FAULT, HEADER_TO_METADATA, Http, Manager, SET_FILTER_STATE};
pub(crate) use listener::{Chain, Inspector, Listener, ListenerFilter, Log, NetworkFilter, Tcp};
pub(crate) use secret::Secret;

use crate::ResourceKind;

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Draft {
    Cluster(Box<Cluster>),
    Endpoints(ClusterLoadAssignment),
    Listener(Box<Listener>),
    Route(Box<RouteConfiguration>),
    VirtualHost(Box<VirtualHost>),
    NameTable(NameTable),
    NameEntry(NameEntry),
    Index(Host),
    Secret(Secret),
}

/// An entry of the name table, as the table's field has it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NameEntry {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) info: Option<NameInfo>,
}

impl Draft {
    pub(crate) fn kind(&self) -> ResourceKind {
        match self {
            Draft::Cluster(_) => ResourceKind::Cluster,
            Draft::Endpoints(_) => ResourceKind::Endpoints,
            Draft::Listener(_) => ResourceKind::Listener,
            Draft::Route(_) => ResourceKind::Route,
            Draft::VirtualHost(_) => ResourceKind::VirtualHost,
            Draft::NameTable(_) => ResourceKind::NameTable,
            Draft::NameEntry(_) => ResourceKind::NameEntry,
            Draft::Index(_) => ResourceKind::Index,
            Draft::Secret(_) => ResourceKind::Secret,
        }
    }

    /// Type URL and bytes: equal drafts have equal bytes.
    pub(crate) fn encode(self) -> Any {
        let type_url = self.kind().type_url();
        let mut value = match self {
            Draft::Cluster(cluster) => cluster.pack().encode_to_vec(),
            Draft::Endpoints(endpoints) => endpoints.encode_to_vec(),
            Draft::Listener(listener) => listener.pack().encode_to_vec(),
            Draft::Route(routes) => routes.encode_to_vec(),
            Draft::VirtualHost(host) => host.encode_to_vec(),
            Draft::NameTable(table) => table.encode_to_vec(),
            Draft::NameEntry(entry) => entry.encode_to_vec(),
            Draft::Index(host) => host.encode_to_vec(),
            Draft::Secret(secret) => secret.0.encode_to_vec(),
        };
        canonicalize(&type_url, &mut value);
        Any { type_url, value }
    }
}

/// A message as an `Any`. What a draft has a place for is packed by [`Draft::encode`] alone.
pub(crate) fn pack<M: Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// The same of a message that does not know its name.
fn pack_as(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// The configuration of a filter whose message is not published, in Istio's way to write it. It is the same wherever it stands: made once, and packed once.
#[derive(Debug)]
pub(crate) struct Istio {
    config: TypedStruct,
    packed: OnceLock<Any>,
}

impl Istio {
    pub(crate) fn new(config: TypedStruct) -> Istio {
        Istio { config, packed: OnceLock::new() }
    }

    fn pack(&self) -> Any {
        self.packed.get_or_init(|| pack_as("udpa.type.v1.TypedStruct", &self.config)).clone()
    }
}

impl PartialEq for Istio {
    fn eq(&self, other: &Istio) -> bool {
        self.config == other.config
    }
}
