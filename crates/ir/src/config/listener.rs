//! Listeners, filter chains and network filters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mizzen_types::{IpRange, Name};

use super::{AccessLog, ContentHash, Criteria, DownstreamTls, Hcm, HeaderOps, Template, Used};
use crate::filter::{ExtAuthz, RbacFilter, StatsConfig};

/// A listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Its name.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// Its addresses; those after the first are additional ones.
    pub addresses: Arc<[ListenerAddress]>,
    /// Whether it has no address: clusters reach it by its name (`internal_listener`).
    pub internal: bool,
    /// Whether a socket is opened; else connections are only handed to it by `use_original_dst` of another.
    pub bind: bool,
    /// Whether a connection is handed to the listener of its original destination, if there is one.
    pub use_original_dst: bool,
    /// What is looked at before the filter chain is chosen, in order.
    pub listener_filters: Arc<[ListenerFilter]>,
    /// How long the peeking may take; none: for ever.
    pub peek_timeout: Option<Duration>,
    /// Whether the connection goes on when that time is over; else it is closed.
    pub continue_on_timeout: bool,
    /// Chains in the order given. Which one matches is decided by [`crate::find_chain`].
    pub chains: Arc<[Arc<FilterChain>]>,
    /// If none matches.
    pub default_chain: Option<Arc<FilterChain>>,
    /// Whether its traffic enters or leaves the workload.
    pub direction: Direction,
    /// Logs of connections for which no chain was found.
    pub access_log: Arc<[Arc<AccessLog>]>,
    /// The socket's backlog, if given.
    pub backlog: Option<u32>,
    /// Keep-alive of accepted connections.
    pub keepalive: Option<super::Keepalive>,
    /// Whether the socket may be bound to an address that the host does not have.
    pub freebind: bool,
    /// Whether the socket is transparent (IP_TRANSPARENT).
    pub transparent: bool,
    /// Whether it accepts connections though there are as many as all listeners together may have.
    pub ignores_global_limit: bool,
    /// Whether it is in use, where that is followed.
    pub used: Used,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenerAddress {
    /// A TCP address.
    Socket(SocketAddr),
    /// A Unix socket.
    Pipe(Name),
}

/// Whether traffic enters or leaves the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A gateway's listener, mostly.
    Unspecified,
    /// Into the workload.
    Inbound,
    /// Out of the workload.
    Outbound,
}

/// What is looked at before the chain is chosen; skipped where the predicate holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerFilter {
    /// The connection's destination is the one from before the redirect.
    OriginalDst(PortPredicate),
    /// What is dialled for it comes from its client's address, on sockets with this mark; 0: with that of all others.
    OriginalSrc(PortPredicate, u32),
    /// It begins with a header of the PROXY protocol, which says where it comes from and was going to.
    ProxyProtocol(PortPredicate),
    /// Is it TLS, with which server name and ALPN?
    TlsInspector(PortPredicate),
    /// Is it HTTP/1 or HTTP/2?
    HttpInspector(PortPredicate),
}

/// A predicate over the destination port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PortPredicate {
    /// Never.
    #[default]
    Never,
    /// Always.
    Always,
    /// From the first up to the second, that one excluded.
    Range(i32, i32),
    /// All of these.
    And(Arc<[PortPredicate]>),
    /// One of these.
    Or(Arc<[PortPredicate]>),
    /// Not this.
    Not(Arc<PortPredicate>),
}

impl Listener {
    /// Whether what is dialled for connections to this port comes from their client's address, and the mark of its sockets.
    pub fn original_src(&self, port: u16) -> Option<u32> {
        self.listener_filters.iter().find_map(|filter| match filter {
            ListenerFilter::OriginalSrc(off, mark) if !off.holds(port) => Some(*mark),
            _ => None,
        })
    }
}

impl PortPredicate {
    /// Whether it holds for a destination port.
    pub fn holds(&self, port: u16) -> bool {
        match self {
            PortPredicate::Never => false,
            PortPredicate::Always => true,
            PortPredicate::Range(from, to) => (*from..*to).contains(&i32::from(port)),
            PortPredicate::And(all) => all.iter().all(|p| p.holds(port)),
            PortPredicate::Or(any) => any.iter().any(|p| p.holds(port)),
            PortPredicate::Not(p) => !p.holds(port),
        }
    }
}

/// A filter chain: whom it is for, its TLS, its filters.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    /// Its name; may be empty.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// Whom it is for.
    pub matching: ChainMatch,
    /// TLS; none: plain.
    pub tls: Option<Arc<DownstreamTls>>,
    /// How long the handshake may take; none: for ever.
    pub handshake_timeout: Option<Duration>,
    /// The filters.
    pub filters: Filters,
}

/// The network filters of a chain: some that only look or judge, then one that serves.
#[derive(Clone, Debug, PartialEq)]
pub struct Filters {
    /// In order.
    pub before: Arc<[NetworkFilter]>,
    /// The last one, which serves the connection.
    pub last: Terminal,
}

/// The filter that serves a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Terminal {
    /// Bytes are relayed.
    Tcp(Arc<TcpProxy>),
    /// HTTP is spoken.
    Http(Arc<Hcm>),
    /// There is none: the connection is closed at once.
    Close,
}

/// A network filter that does not serve.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkFilter {
    /// Judges the connection.
    Rbac(Arc<RbacFilter>),
    /// Asks somebody else about the connection.
    ExtAuthz(Arc<ExtAuthz>),
    /// Istio's metrics.
    Stats(Arc<StatsConfig>),
}

/// Whom a chain is for; what is empty or none does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainMatch {
    /// The destination's port.
    pub destination_port: Option<u16>,
    /// The destination's address.
    pub destination: Arc<[IpRange]>,
    /// The server name: exact, or `*.suffix`; lower case.
    pub server_names: Arc<[Name]>,
    /// Plain or TLS.
    pub transport: Option<TransportProtocol>,
    /// ALPN protocols, or what the HTTP inspector found.
    pub application_protocols: Arc<[Name]>,
    /// The connection's peer.
    pub direct_source: Arc<[IpRange]>,
    /// Whether the source is this host.
    pub source_type: SourceType,
    /// The source's address.
    pub source: Arc<[IpRange]>,
    /// The source's ports.
    pub source_ports: Arc<[u16]>,
}

/// Plain or TLS, as far as the peeking knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TransportProtocol {
    /// Not TLS, or nobody looked.
    #[default]
    RawBuffer,
    /// TLS.
    Tls,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// This host.
    Local,
    /// Another host.
    External,
}

/// Relays bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProxy {
    /// Where to: at least one.
    pub clusters: Arc<[TcpTarget]>,
    /// Whether a connection is hashed by its client's address, for balancers that need it.
    pub hash_source: bool,
    /// How long neither side may send; none: for ever. One hour by default.
    pub idle_timeout: Option<Duration>,
    /// How many endpoints are tried.
    pub max_connect_attempts: u32,
    /// How long a connection may last at most.
    pub max_duration: Option<Duration>,
    /// Its logs.
    pub access_log: Arc<[Arc<AccessLog>]>,
    /// The bytes go through an HTTP proxy.
    pub tunnel: Option<Arc<Tunnel>>,
    /// The port of server names that are found on demand, where their cluster says none.
    pub named_port: Option<u16>,
}

/// One of the clusters of a [`TcpProxy`].
#[derive(Clone, Debug, PartialEq)]
pub struct TcpTarget {
    /// The cluster.
    pub cluster: Name,
    /// Its share.
    pub weight: u32,
    /// What its endpoints must have, where it has groups of them.
    pub subset: Option<Criteria>,
}

/// The way through an HTTP proxy, by CONNECT (`tunneling_config`).
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// Where the proxy is to connect to: `host:port`.
    pub authority: Template,
    /// More headers of the request.
    pub headers: HeaderOps,
}

impl Listener {
    /// All chains, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(self.default_chain.as_ref())
    }
}
