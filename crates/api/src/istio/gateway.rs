//! Gateway.

use mizzen_types::{Hostname, Protocol};

use crate::{Meta, Selector};

/// The ports of a gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The gateway's pods, in any namespace.
    pub selector: Selector,
    /// The servers; never empty.
    pub servers: Vec<Server>,
}

/// One port with its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The port.
    pub port: ServerPort,
    /// The hosts; never empty.
    pub hosts: Vec<GatewayHost>,
    /// For logs.
    pub name: Option<String>,
}

/// The port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPort {
    /// The number.
    pub number: u16,
    /// The name; empty if none was written.
    pub name: String,
    /// The protocol: HTTP, HTTP2 or gRPC so far.
    pub protocol: Protocol,
}

/// A host, and which namespaces' VirtualServices may bind to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayHost {
    /// From which namespaces.
    pub namespace: GatewayNamespace,
    /// The host; may be a wildcard.
    pub host: Hostname,
}

/// From which namespaces a VirtualService may bind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayNamespace {
    /// All.
    Any,
    /// The Gateway's.
    Own,
    /// This one.
    Named(String),
}
