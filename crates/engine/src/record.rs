//! What will be logged and counted of a stream, or of a connection that never became one.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use mizzen_ir::{
    Peer,
    config::{Cluster, Discovery, Endpoint},
};
use mizzen_types::Name;

use crate::flags::Flags;

/// What will be logged and counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) wall: Duration,
    pub(crate) begun: Duration,
    pub(crate) request_done: Option<Duration>,
    pub(crate) response_first: Option<Duration>,
    pub(crate) flags: Flags,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) details: Option<Cow<'static, str>>,
    pub(crate) termination: Option<String>,
    pub(crate) upstream_failure: Option<String>,
    pub(crate) downstream_failure: Option<String>,
    /// The policy that decided, and why, in words.
    pub(crate) policy: Option<String>,
    /// What a dry run would have refused, and why, in words.
    pub(crate) dry_run: Option<String>,
    pub(crate) route: Option<Name>,
    pub(crate) vhost: Option<Name>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) upstream: Option<Name>,
    pub(crate) upstream_local: Option<SocketAddr>,
    pub(crate) upstream_peer: Option<Arc<Peer>>,
    /// Our own name towards the server.
    pub(crate) upstream_local_uri: Option<Name>,
    /// Version and cipher suite.
    pub(crate) upstream_tls: [Option<&'static str>; 2],
    pub(crate) upstream_h2: Option<bool>,
    pub(crate) attempts: u32,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
}

impl Record {
    /// Whether its cluster finds on demand the names that it is asked for.
    pub(crate) fn finds_names(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| matches!(cluster.discovery, Discovery::Dynamic(_)))
    }

    /// The first URI name of the server.
    pub(crate) fn upstream_uri(&self) -> Option<&Name> {
        self.upstream_peer.as_ref()?.uris.first()
    }
}
