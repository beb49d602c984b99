//! Gateway.

use mizzen_types::{Hostname, Protocol, check_dns_label};

use super::{
    Passthrough, ServerTls, ServerTlsMode, TlsVersion,
    server_tls::{TlsAt, server_tls},
};
use crate::{
    Meta, Selector,
    metadata::labels,
    read::{At, Fields, quoted},
    table,
};

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
    /// Whether requests in plain text are sent to `https://`; only of a server of plain HTTP.
    pub https_redirect: bool,
    /// How TLS is ended here: before HTTP if the protocol is HTTPS, else before bytes.
    pub tls: Option<ServerTls>,
    /// TLS that is not ended here: by its server name alone it is known where it goes. Excludes `tls`.
    pub passthrough: Option<Passthrough>,
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
    /// The protocol: anything but UDP.
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

impl Gateway {
    /// The Gateway with one server more, which serves the hosts of its servers of plain text over HTTPS on port 443 with this Secret's certificate; `None`
    /// if it has none of plain text, or ends TLS already.
    pub fn also_https(&self, credential: &str) -> Option<Gateway> {
        let plain = self.servers.iter().filter(|server| server.port.protocol.is_http());
        let mut hosts: Vec<GatewayHost> = plain.flat_map(|server| server.hosts.iter().cloned()).collect();
        hosts.sort();
        hosts.dedup();
        if hosts.is_empty() || self.servers.iter().any(|server| server.is_tls() || server.port.number == 443) {
            return None;
        }
        let mut more = self.clone();
        more.servers.push(Server {
            port: ServerPort { number: 443, name: "https".to_owned(), protocol: Protocol::Https },
            hosts,
            https_redirect: false,
            tls: Some(ServerTls {
                mode: ServerTlsMode::Simple,
                credentials: vec![credential.to_owned()],
                ca_credential: None,
                files: None,
                subject_alt_names: Vec::new(),
                min: TlsVersion::Auto,
                max: TlsVersion::Auto,
                cipher_suites: Vec::new(),
            }),
            passthrough: None,
            name: None,
        });
        Some(more)
    }

    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::GATEWAY, |f| {
            let selector = Selector { labels: f.get("selector").map(|at| labels(&at)).unwrap_or_default() };
            let mut servers = Vec::new();
            if let Some(at) = f.need("servers") {
                servers = at.list().iter().map(|at| at.fields(Server::read)).collect();
                if servers.is_empty() {
                    at.fail("must have at least one server");
                }
            }
            Gateway { meta, selector, servers }
        })
    }
}

impl Server {
    /// Whether TLS comes to it, ended here or not.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some() || self.passthrough.is_some()
    }

    /// Whether requests are seen.
    pub fn is_http(&self) -> bool {
        self.port.protocol.is_http() || (self.port.protocol == Protocol::Https && self.passthrough.is_none())
    }

    fn read(f: &Fields<'_>) -> Server {
        let port = f.need("port").map(|at| at.fields(ServerPort::read));
        let hosts = f.need("hosts").map(|at| at.list()).unwrap_or_default();
        if hosts.is_empty()
            && let Some(at) = f.get("hosts")
        {
            at.fail("must have at least one host");
        }
        let port = port.unwrap_or(ServerPort { number: 0, name: String::new(), protocol: Protocol::Http });
        let (mut tls, mut passthrough, mut https_redirect) = (None, None, false);
        match server_tls(f, port.protocol) {
            TlsAt::Ended(ended) => tls = Some(ended),
            TlsAt::Passed(mode) => passthrough = Some(mode),
            TlsAt::Nowhere { redirect } => https_redirect = redirect,
        }
        let hosts = hosts.iter().filter_map(GatewayHost::read).collect();
        Server { port, https_redirect, tls, passthrough, hosts, name: f.opt_text("name") }
    }
}

impl ServerPort {
    fn read(f: &Fields<'_>) -> ServerPort {
        let number = f.need("number").map(|at| at.port()).unwrap_or_default();
        let protocol = f.need("protocol").map(|at| {
            let text = at.text();
            let protocol = super::protocol_name(&at, &text);
            if protocol == Protocol::Udp {
                at.fail("is no protocol of a gateway's port: HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, TLS, TCP, Mongo, MySQL or Redis");
            }
            protocol
        });
        ServerPort { number, name: f.text("name"), protocol: protocol.unwrap_or(Protocol::Http) }
    }
}

impl GatewayHost {
    /// `host` or `namespace/host`.
    fn read(at: &At<'_>) -> Option<GatewayHost> {
        let text = at.word();
        let (namespace, host) = text.split_once('/').unwrap_or(("*", &text));
        let namespace = match namespace {
            "*" => GatewayNamespace::Any,
            "." => GatewayNamespace::Own,
            name => {
                if check_dns_label(name).is_err() {
                    at.fail(format!("{} is no namespace, `*` or `.`", quoted(name)));
                }
                GatewayNamespace::Named(name.to_owned())
            }
        };
        let host = host.parse().map_err(|error: mizzen_types::HostnameError| at.fail(error.to_string())).ok()?;
        Some(GatewayHost { namespace, host })
    }
}
