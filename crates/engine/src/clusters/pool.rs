//! Connections that are kept, and who waits for one.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use mizzen_ir::config::HttpProtocol;
use mizzen_types::Name;

use super::spec::UpSpec;
use crate::{
    ConnId, DialId, Target,
    id::{CheckId, StreamId},
};

/// Everything that makes two connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    cluster: Name,
    target: Target,
    source: Option<IpAddr>,
    protocol: HttpProtocol,
    /// Checks have connections of their own.
    check: Option<CheckId>,
    /// The TLS configuration's address (the pool keeps it alive), server name, ALPN.
    tls: Option<(usize, String, Vec<Vec<u8>>)>,
}

impl PoolKey {
    pub(super) fn of(spec: &UpSpec) -> Self {
        PoolKey {
            cluster: spec.cluster.clone(),
            target: spec.target.clone(),
            source: spec.source,
            protocol: spec.protocol,
            check: spec.check,
            tls: spec.tls.as_ref().map(|tls| (Arc::as_ptr(&tls.config) as usize, tls.sni.clone(), tls.alpn.clone())),
        }
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
    /// An empty one.
    pub(super) fn new(spec: Arc<UpSpec>) -> Self {
        let h2 = spec.protocol == HttpProtocol::Http2;
        Pool { spec, conns: Vec::new(), dials: Vec::new(), shaking: Vec::new(), queue: VecDeque::new(), h2 }
    }

    /// Whether nothing is left of it.
    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty() && self.coming() == 0 && self.queue.is_empty()
    }

    /// How many connections may be there soon.
    pub(crate) fn coming(&self) -> usize {
        self.dials.len() + self.shaking.len()
    }

    /// How many should be, for those who wait.
    pub(crate) fn wanted(&self) -> usize {
        if self.h2 { usize::from(!self.queue.is_empty()) } else { self.queue.len() }
    }
}
