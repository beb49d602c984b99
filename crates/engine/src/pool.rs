//! Where connections go to, and those that are kept.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use mizzen_ir::config::{Endpoint, HttpProtocol, UpstreamHttp};
use mizzen_types::Name;
use rustls::{ClientConfig, pki_types::ServerName};

use crate::{ConnId, DialId, Keepalive, Target, id::Id, lb::HostState, stream::StreamId};

/// Names the ids of pools.
#[derive(Debug)]
pub(crate) enum PoolTag {}
/// A pool's id.
pub(crate) type PoolId = Id<PoolTag>;

/// Everything that makes two connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) cluster: Name,
    pub(crate) target: Target,
    pub(crate) source: Option<IpAddr>,
    pub(crate) protocol: HttpProtocol,
    /// The TLS configuration's address (the pool keeps it alive), server name, ALPN.
    pub(crate) tls: Option<(usize, String, Vec<Vec<u8>>)>,
}

/// How to make a connection.
#[derive(Debug)]
pub(crate) struct UpSpec {
    pub(crate) cluster: Name,
    pub(crate) target: Target,
    pub(crate) source: Option<IpAddr>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_connections: u32,
    pub(crate) tls: Option<UpTls>,
    pub(crate) protocol: HttpProtocol,
    pub(crate) http: UpstreamHttp,
    pub(crate) host: Arc<HostState>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
}

/// TLS of a connection to be made.
#[derive(Debug)]
pub(crate) struct UpTls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    pub(crate) sni: String,
    pub(crate) alpn: Vec<Vec<u8>>,
}

impl UpSpec {
    pub(crate) fn key(&self) -> PoolKey {
        PoolKey {
            cluster: self.cluster.clone(),
            target: self.target.clone(),
            source: self.source,
            protocol: self.protocol,
            tls: self.tls.as_ref().map(|tls| (Arc::as_ptr(&tls.config) as usize, tls.sni.clone(), tls.alpn.clone())),
        }
    }

    /// The target as it is logged.
    pub(crate) fn address(&self) -> String {
        crate::worker::address_of(&self.target)
    }
}

/// Connections of one kind to one endpoint, and the requests that wait for one.
pub(crate) struct Pool {
    pub(crate) spec: Arc<UpSpec>,
    pub(crate) conns: Vec<ConnId>,
    /// Dials and handshakes in progress.
    pub(crate) dials: Vec<DialId>,
    pub(crate) shaking: Vec<ConnId>,
    pub(crate) queue: VecDeque<StreamId>,
    /// Whether the last connection spoke HTTP/2: then one dial serves many.
    pub(crate) h2: bool,
}

impl Pool {
    /// How many connections may be there soon.
    pub(crate) fn coming(&self) -> usize {
        self.dials.len() + self.shaking.len()
    }

    /// How many should be, for those who wait.
    pub(crate) fn wanted(&self) -> usize {
        if self.h2 { usize::from(!self.queue.is_empty()) } else { self.queue.len() }
    }
}
