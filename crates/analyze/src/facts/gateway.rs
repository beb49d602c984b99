//! Gateways, Istio's and those of the Gateway API.

use mizzen_api::{Labels, Node};
use mizzen_types::Name;

use super::{labels, list, number, text, texts};

/// An Istio Gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewayFacts {
    /// `selector`; empty selects all.
    pub selector: Labels,
    /// The servers.
    pub servers: Vec<ServerFacts>,
}

/// A server of a Gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerFacts {
    /// `port.number`.
    pub port: u16,
    /// Whether a port is written.
    pub has_port: bool,
    /// `port.name`.
    pub name: Name,
    /// `port.protocol`, in upper case.
    pub protocol: Name,
    /// `bind`.
    pub bind: Name,
    /// The hosts as written, with the namespace before a `/`, in lower case.
    pub hosts: Vec<Name>,
    /// `tls.mode`; empty if there is no `tls` or no mode.
    pub tls_mode: Name,
    /// `tls.credentialName`.
    pub credential: Option<Name>,
    /// The credential, or else the file of the certificate.
    pub certificate: Option<Name>,
    /// `tls.privateKey`.
    pub key: Option<Name>,
    /// `tls.httpsRedirect`.
    pub redirects: bool,
}

/// A listener of a Gateway of the Gateway API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerFacts {
    /// The name.
    pub name: Name,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Name,
    /// The host; empty is any.
    pub host: Name,
}

impl GatewayFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        GatewayFacts { selector: labels(spec.get("selector")), servers: list(spec.get("servers"), ServerFacts::read) }
    }
}

impl ServerFacts {
    fn read(server: &Node) -> Self {
        let written = |path: &str| Some(text(server, path)).filter(|text| !text.is_empty());
        let credential = written("tls.credentialName");
        ServerFacts {
            port: number(server, "port.number"),
            has_port: server.get("port").is_some(),
            name: text(server, "port.name"),
            protocol: text(server, "port.protocol").to_ascii_uppercase().into(),
            bind: text(server, "bind"),
            hosts: texts(server.get("hosts")).iter().map(|host| host.to_ascii_lowercase().into()).collect(),
            tls_mode: text(server, "tls.mode"),
            certificate: credential.clone().or_else(|| written("tls.serverCertificate")),
            credential,
            key: written("tls.privateKey"),
            redirects: server.at("tls.httpsRedirect").is_some_and(Node::is_true),
        }
    }
}

impl ListenerFacts {
    pub(crate) fn read(listener: &Node) -> Self {
        ListenerFacts {
            name: text(listener, "name"),
            port: number(listener, "port"),
            protocol: text(listener, "protocol"),
            host: text(listener, "hostname"),
        }
    }
}
