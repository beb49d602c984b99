//! A stream: a request and its response, or a TCP connection and its partner.

use std::{net::IpAddr, sync::Arc, time::Duration};

use mizzen_http::{Head, StreamId as Sid};
use mizzen_ir::{
    Config,
    config::{Cluster, Forward, Hcm, Mutations, Route, TcpProxy, VirtualHost},
};
use mizzen_types::Name;

use crate::{
    ConnId, DialId, WaitId,
    buf::Buf,
    call::Origin,
    facts::Facts,
    filter,
    flags::Flags,
    id::Id,
    lb::{Active, ClusterState, Guard},
    metrics::Handle,
    pool::{PoolId, UpSpec},
};

/// Names the ids of streams.
#[derive(Debug)]
pub(crate) enum StreamTag {}
/// A stream's id.
pub(crate) type StreamId = Id<StreamTag>;

/// One stream.
pub(crate) struct Stream {
    pub(crate) config: Arc<Config>,
    /// The client's connection; a dead id for a call of our own.
    pub(crate) down: ConnId,
    /// The codec's number downstream; 1 for TCP.
    pub(crate) down_sid: Sid,
    pub(crate) kind: Kind,
    /// Who called, if nobody's connection did.
    pub(crate) origin: Option<Box<Origin>>,
    pub(crate) up: Option<Attempt>,
    /// From the client to the server, and back.
    pub(crate) req: Half,
    pub(crate) resp: Half,
    pub(crate) due: Due,
    pub(crate) record: Record,
}

/// What it carries.
pub(crate) enum Kind {
    Tcp(Box<Tcp>),
    Http(Box<Request>),
    /// A request that is being changed.
    Taken,
}

/// A TCP connection to be relayed.
pub(crate) struct Tcp {
    pub(crate) proxy: Arc<TcpProxy>,
    pub(crate) attempts: u32,
    /// The handles of its counters, and what they were told already.
    pub(crate) counters: Option<TcpCounters>,
    pub(crate) report: Option<Duration>,
    pub(crate) reported: (u64, u64),
    pub(crate) opened: bool,
    pub(crate) wait: Option<WaitId>,
}

/// The counters of one TCP connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpCounters {
    pub(crate) sent: Handle,
    pub(crate) received: Handle,
    pub(crate) closed: Handle,
}

/// A request.
pub(crate) struct Request {
    pub(crate) hcm: Arc<Hcm>,
    /// The head as it is by now.
    pub(crate) head: Head,
    /// The head as policies have seen it, if the route has changed it since.
    pub(crate) came: Option<Box<Head>>,
    pub(crate) step: Step,
    pub(crate) route: Option<Routed>,
    pub(crate) secure: bool,
    /// The client's address, from X-Forwarded-For where that is trusted.
    pub(crate) remote: IpAddr,
    /// Whether the response goes without a body.
    pub(crate) is_head: bool,
    pub(crate) is_grpc: bool,
    pub(crate) is_upgrade: bool,
    /// What was sent of the body, for a retry; `None` once it cannot be sent again.
    pub(crate) replay: Option<Vec<u8>>,
    pub(crate) attempts: u32,
    /// Endpoints tried before.
    pub(crate) tried: Vec<String>,
    pub(crate) retry_guard: Option<Guard>,
    /// What arrived of the response and is not yet acted upon.
    pub(crate) heads: Vec<(Head, bool)>,
    /// The final response's head as it was sent on.
    pub(crate) response: Head,
    /// What filters leave behind, and what they keep; whose turn it is.
    pub(crate) facts: Facts,
    pub(crate) filters: Vec<filter::State>,
    pub(crate) at: usize,
    /// So many bytes of the body a filter waits for; more is kept for it than otherwise.
    pub(crate) wants: usize,
    /// The call that a filter waits for.
    pub(crate) call: Option<StreamId>,
    pub(crate) wait: Option<WaitId>,
    /// Kept connections that turned out to be dead, so far.
    pub(crate) stale: u8,
    /// The upgrade was agreed on.
    pub(crate) switched: bool,
}

impl Request {
    /// A request as it came, on its way to its route.
    pub(crate) fn new(hcm: Arc<Hcm>, head: Head, secure: bool, remote: IpAddr) -> Self {
        let is_grpc = head.get_str("content-type").is_some_and(|t| t == "application/grpc" || t.starts_with("application/grpc+"));
        Request {
            is_head: head.method() == "HEAD",
            is_grpc,
            is_upgrade: head.protocol().is_some(),
            secure,
            remote,
            head,
            came: None,
            step: Step::Waiting,
            route: None,
            replay: None,
            attempts: 0,
            tried: Vec::new(),
            retry_guard: None,
            heads: Vec::new(),
            response: Head::new(),
            facts: Facts::default(),
            filters: Vec::new(),
            at: 0,
            wants: 0,
            call: None,
            wait: None,
            stale: 0,
            switched: false,
            hcm,
        }
    }

    /// The head by which policies judge, at first and again.
    pub(crate) fn came(&self) -> &Head {
        self.came.as_deref().unwrap_or(&self.head)
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Waits for its route configuration.
    Waiting,
    /// A filter waits for something.
    Filtering,
    /// On its way to a connection.
    Picking,
    /// Waits before it is tried again.
    Backoff,
    /// On a connection; no response yet.
    Sent,
    /// The response is being sent on.
    Responding,
    /// Answered here.
    Local,
}

/// Where a request goes.
#[derive(Clone)]
pub(crate) struct Routed {
    pub(crate) host: Arc<VirtualHost>,
    pub(crate) route: Arc<Route>,
    pub(crate) forward: Option<Arc<Forward>>,
    pub(crate) mutations: Arc<Mutations>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) cluster_name: Option<Name>,
}

/// One try to get through to a server.
pub(crate) struct Attempt {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) spec: Arc<UpSpec>,
    pub(crate) state: Arc<ClusterState>,
    /// Where it is: in a pool's queue, being dialled for, or on a connection.
    pub(crate) at: At,
    pub(crate) active: Option<Active>,
    pub(crate) _guard: Option<Guard>,
    pub(crate) pending: Option<Guard>,
    pub(crate) started: Duration,
    /// The head was handed to the codec.
    pub(crate) sent: bool,
    /// Where on its connection the head began; and whether that connection had carried other requests before.
    pub(crate) position: u64,
    pub(crate) reused: bool,
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Queue(PoolId),
    Dial(DialId),
    /// Connected, TLS in progress.
    Handshake(ConnId),
    Conn(ConnId, Sid),
    Nowhere,
}

/// One direction of a stream.
#[derive(Debug, Default)]
pub(crate) struct Half {
    /// Received, not yet sent on.
    pub(crate) buf: Buf,
    /// The sender has ended.
    pub(crate) end: bool,
    pub(crate) trailers: Option<Head>,
    /// The head was sent on: the body may follow.
    pub(crate) open: bool,
    /// The end was sent on.
    pub(crate) done: bool,
    /// Bytes of the body so far.
    pub(crate) bytes: u64,
    /// Of those in `buf`, how many the sender was given credit for already.
    pub(crate) credited: usize,
}

/// A stream's deadlines, on the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Due {
    pub(crate) wait: Option<Duration>,
    /// When a filter that waits for a time goes on.
    pub(crate) filter: Option<Duration>,
    /// How long the whole response may take once all of the request has come; and then, when that time ends.
    pub(crate) whole: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) per_try: Option<Duration>,
    /// How long a try may stand still before its response.
    pub(crate) try_idle: Option<Duration>,
    /// When all of the request must have arrived.
    pub(crate) request: Option<Duration>,
    pub(crate) backoff: Option<Duration>,
    pub(crate) max: Option<Duration>,
    /// How long it may stand still, and when it last moved.
    pub(crate) idle: Option<Duration>,
    pub(crate) moved: Duration,
    pub(crate) report: Option<Duration>,
}

impl Due {
    /// The earliest.
    pub(crate) fn next(&self) -> Option<Duration> {
        let idle = self.idle.map(|idle| self.moved + idle);
        let try_idle = self.try_idle.map(|idle| self.moved + idle);
        let fixed = [self.wait, self.filter, self.timeout, self.per_try, self.request, self.backoff, self.max, self.report];
        fixed.into_iter().chain([idle, try_idle]).flatten().min()
    }
}

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
    pub(crate) details: Option<String>,
    pub(crate) termination: Option<String>,
    pub(crate) upstream_failure: Option<String>,
    pub(crate) downstream_failure: Option<String>,
    /// The policy that decided, and why, in words.
    pub(crate) policy: Option<String>,
    pub(crate) route: Option<Name>,
    pub(crate) vhost: Option<Name>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) upstream: Option<String>,
    pub(crate) upstream_local: Option<String>,
    pub(crate) upstream_uri: Option<Name>,
    pub(crate) upstream_tls: Option<&'static str>,
    pub(crate) upstream_h2: Option<bool>,
    pub(crate) attempts: u32,
    pub(crate) endpoint: Option<Arc<mizzen_ir::config::Endpoint>>,
}
