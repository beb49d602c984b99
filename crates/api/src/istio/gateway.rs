//! Gateway.

use mizzen_types::{Hostname, Protocol, check_dns_label};

use super::{ServerTls, ServerTlsMode, TlsVersion, server_tls};
use crate::{
    Meta, Selector,
    metadata::labels,
    read::{At, Fields, Why, quoted},
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
    /// How TLS is ended here; of a server whose protocol is HTTPS, and of no other.
    pub tls: Option<ServerTls>,
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
    /// The protocol: HTTP, HTTPS, HTTP2 or gRPC so far.
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
        if hosts.is_empty() || self.servers.iter().any(|server| server.tls.is_some() || server.port.number == 443) {
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
                subject_alt_names: Vec::new(),
                min: TlsVersion::Auto,
                max: TlsVersion::Auto,
                cipher_suites: Vec::new(),
            }),
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
    fn read(f: &Fields<'_>) -> Server {
        let port = f.need("port").map(|at| at.fields(ServerPort::read));
        let hosts = f.need("hosts").map(|at| at.list()).unwrap_or_default();
        if hosts.is_empty()
            && let Some(at) = f.get("hosts")
        {
            at.fail("must have at least one host");
        }
        let port = port.unwrap_or(ServerPort { number: 0, name: String::new(), protocol: Protocol::Http });
        let (tls, https_redirect) = server_tls(f, port.protocol);
        Server { port, https_redirect, tls, hosts: hosts.iter().filter_map(GatewayHost::read).collect(), name: f.opt_text("name") }
    }
}

impl ServerPort {
    fn read(f: &Fields<'_>) -> ServerPort {
        let number = f.need("number").map(|at| at.port()).unwrap_or_default();
        let protocol = f.need("protocol").map(|at| {
            let text = at.text();
            let protocol = super::protocol_name(&at, &text);
            if !protocol.is_http() && !matches!(protocol, Protocol::Auto | Protocol::Https) {
                at.fail(format!("{protocol} {}: a gateway's port is HTTP, HTTPS, HTTP2 or GRPC", Why::Where.text()));
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
