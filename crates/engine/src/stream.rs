//! A stream: a request and its response, or a TCP connection and its partner.

use std::{net::IpAddr, sync::Arc, time::Duration};

use mizzen_http::{Head, StreamId as Sid};
use mizzen_ir::{
    Config,
    config::{Cluster, Criteria, Forward, Hcm, Mutations, Route, TcpProxy, VirtualHost},
};
use mizzen_types::Name;

use crate::{
    ConnId, DialId, WaitId,
    buf::Buf,
    call::{Caller, Origin},
    clusters::{Tried, UpSpec},
    event::Dir,
    facts::Facts,
    id::{CheckId, PoolId, StreamId},
    kept::{State, TcpStats},
    lb::{Active, ClusterState, Guard},
    record::Record,
};

/// One stream.
pub(crate) struct Stream {
    pub(crate) config: Arc<Config>,
    pub(crate) client: Client,
    pub(crate) traffic: Traffic,
    pub(crate) up: Option<Attempt>,
    /// From the client to the server, and back.
    pub(crate) req: Half,
    pub(crate) resp: Half,
    pub(crate) due: Due,
    pub(crate) record: Record,
}

impl Stream {
    /// The question whose answer it waits for.
    pub(crate) fn waits_for(&self) -> Option<WaitId> {
        match &self.traffic {
            Traffic::Http(request) => match request.step {
                Step::Waiting(wait) | Step::Picking(wait) => wait,
                _ => None,
            },
            Traffic::Tcp(tcp) => match tcp.step {
                TcpStep::Picking(wait) => wait,
                TcpStep::Dialing | TcpStep::Tunneling(_) | TcpStep::Open => None,
            },
        }
    }

    /// Whether the final response's head, the server's or one made here, was taken: from then on nothing is tried again.
    pub(crate) fn answered(&self) -> bool {
        let step = self.traffic.http().map(|request| request.step);
        self.resp.open() || matches!(step, Some(Step::Responding | Step::Tunnel | Step::Local))
    }

    /// The calls that filters wait for.
    pub(crate) fn calls(&self) -> impl Iterator<Item = StreamId> + use<> {
        let call = |pause| match pause {
            Pause::Call(call) => Some(call),
            Pause::Time | Pause::Body(_) => None,
        };
        [self.req.pause, self.resp.pause].into_iter().flatten().filter_map(call)
    }

    /// One direction.
    pub(crate) fn half(&self, dir: Dir) -> &Half {
        match dir {
            Dir::Up => &self.req,
            Dir::Down => &self.resp,
        }
    }

    /// The same, to be changed.
    pub(crate) fn half_mut(&mut self, dir: Dir) -> &mut Half {
        match dir {
            Dir::Up => &mut self.req,
            Dir::Down => &mut self.resp,
        }
    }

    /// The server's connection that it is on, with the codec's number.
    pub(crate) fn upstream(&self) -> Option<(ConnId, Sid)> {
        match self.up.as_ref()?.at {
            At::Conn(conn, sid) => Some((conn, sid)),
            _ => None,
        }
    }
}

/// Whose stream it is.
pub(crate) enum Client {
    /// A client's: its connection, and the codec's number there; 1 for TCP.
    Conn(ConnId, Sid),
    /// Our own.
    Call(Box<Origin>),
}

impl Client {
    /// The client's connection and the codec's number there; none for our own calls.
    pub(crate) fn place(&self) -> Option<(ConnId, Sid)> {
        match self {
            Client::Conn(conn, sid) => Some((*conn, *sid)),
            Client::Call(_) => None,
        }
    }

    /// The client's connection; none for our own calls.
    pub(crate) fn conn(&self) -> Option<ConnId> {
        self.place().map(|(conn, _)| conn)
    }

    /// Who called, if nobody's connection did.
    pub(crate) fn call(&self) -> Option<&Origin> {
        match self {
            Client::Conn(..) => None,
            Client::Call(origin) => Some(origin),
        }
    }

    /// The same, to be changed.
    pub(crate) fn call_mut(&mut self) -> Option<&mut Origin> {
        match self {
            Client::Conn(..) => None,
            Client::Call(origin) => Some(origin),
        }
    }

    pub(crate) fn is_call(&self) -> bool {
        self.call().is_some()
    }

    /// Whose check it is, if it is one.
    pub(crate) fn check(&self) -> Option<CheckId> {
        match self.call()?.caller {
            Caller::Check(check) => Some(check),
            _ => None,
        }
    }

    /// Whether it is a call whose body carries a connection.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.call().is_some_and(|origin| matches!(origin.caller, Caller::Tunnel(_) | Caller::Conn(_) | Caller::Gone))
    }
}

/// What a stream carries.
pub(crate) enum Traffic {
    Tcp(Box<Tcp>),
    Http(Box<Request>),
}

impl Traffic {
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self, Traffic::Tcp(_))
    }

    /// The request of a stream that is known to carry one.
    pub(crate) fn request(&self) -> Option<&Request> {
        debug_assert!(!self.is_tcp(), "TCP carries no request");
        self.http()
    }

    /// The same, to be changed.
    pub(crate) fn request_mut(&mut self) -> Option<&mut Request> {
        debug_assert!(!self.is_tcp(), "TCP carries no request");
        match self {
            Traffic::Http(request) => Some(request),
            Traffic::Tcp(_) => None,
        }
    }

    /// The request, if it is one.
    pub(crate) fn http(&self) -> Option<&Request> {
        match self {
            Traffic::Http(request) => Some(request),
            Traffic::Tcp(_) => None,
        }
    }

    /// The TCP connection of a stream that is known to carry one.
    pub(crate) fn tcp_mut(&mut self) -> Option<&mut Tcp> {
        debug_assert!(self.is_tcp(), "a request is no TCP");
        match self {
            Traffic::Tcp(tcp) => Some(tcp),
            Traffic::Http(_) => None,
        }
    }
}

/// A TCP connection to be relayed.
pub(crate) struct Tcp {
    pub(crate) proxy: Arc<TcpProxy>,
    pub(crate) attempts: u32,
    /// What network filters keep of it.
    pub(crate) stats: Option<TcpStats>,
    pub(crate) step: TcpStep,
}

/// How far a TCP connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcpStep {
    /// Looks for an endpoint; waits for a name, if it does.
    Picking(Option<WaitId>),
    /// Its partner is dialled, or shakes hands.
    Dialing,
    /// This call asks an HTTP proxy for the way to its partner.
    Tunneling(StreamId),
    /// Its partner is there.
    Open,
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
    /// The virtual host that was asked for on its behalf.
    pub(crate) sought: Option<Name>,
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
    /// By what a balancer that hashes chooses; none: at random.
    pub(crate) hash: Option<u64>,
    /// Where it was tried before.
    pub(crate) tried: Tried,
    pub(crate) retry_guard: Option<Guard>,
    /// What arrived of the response and is not yet acted upon.
    pub(crate) heads: Vec<Head>,
    /// The final response's head, on its way through the filters and then as it was sent on.
    pub(crate) response: Head,
    /// What filters leave behind, and what they keep; whose turn it is at a head: for the response, that of the one before.
    pub(crate) facts: Facts,
    pub(crate) filters: Vec<State>,
    pub(crate) at: usize,
    /// Kept connections that turned out to be dead, so far.
    pub(crate) stale: u8,
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
            step: Step::Waiting(None),
            route: None,
            sought: None,
            replay: None,
            attempts: 0,
            hash: None,
            tried: Tried::default(),
            retry_guard: None,
            heads: Vec::new(),
            response: Head::new(),
            facts: Facts::default(),
            filters: Vec::new(),
            at: 0,
            stale: 0,
            hcm,
        }
    }

    /// Notes where a try went that is over, if that matters for the next one.
    pub(crate) fn tried_at(&mut self, up: &Attempt) {
        let forward = self.route.as_ref().and_then(|route| route.forward.as_ref());
        if forward.and_then(|forward| forward.retry.as_ref()).is_some_and(|retry| retry.elsewhere.is_any()) {
            self.tried.note(up.spec.address(), up.priority);
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
    /// On its way to its route, whose configuration it may wait for.
    Waiting(Option<WaitId>),
    /// A filter waits for something: see [`Half::pause`].
    Filtering,
    /// On its way to a connection; a name may be waited for.
    Picking(Option<WaitId>),
    /// Waits before it is tried again.
    Backoff,
    /// On a connection; no response yet.
    Sent,
    /// The response is being sent on.
    Responding,
    /// The upgrade was agreed on: bytes of another protocol, both ways.
    Tunnel,
    /// Answered here.
    Local,
}

/// What a filter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The answer of this call.
    Call(StreamId),
    /// The time of [`Due::filter`].
    Time,
    /// So many bytes of the body; more is kept for it than otherwise.
    Body(usize),
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
    /// What its endpoint must have, where the cluster has groups.
    pub(crate) subset: Option<Criteria>,
}

/// One try to get through to a server.
pub(crate) struct Attempt {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) spec: Arc<UpSpec>,
    pub(crate) state: Arc<ClusterState>,
    /// The endpoint's.
    pub(crate) priority: usize,
    /// Where it is: in a pool's queue, being dialled for, or on a connection.
    pub(crate) at: At,
    pub(crate) active: Option<Active>,
    pub(crate) _guard: Option<Guard>,
    pub(crate) pending: Option<Guard>,
    pub(crate) started: Duration,
    /// Where on its connection the head began; and whether that connection had carried other requests before.
    pub(crate) position: u64,
    pub(crate) reused: bool,
}

impl Attempt {
    /// One that nothing is counted of, and that is nowhere yet.
    pub(crate) fn uncounted(cluster: Arc<Cluster>, spec: Arc<UpSpec>, state: Arc<ClusterState>, now: Duration) -> Self {
        Attempt {
            cluster,
            spec,
            state,
            priority: 0,
            at: At::Nowhere,
            active: None,
            _guard: None,
            pending: None,
            started: now,
            position: 0,
            reused: false,
        }
    }
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Queue(PoolId),
    Dial(DialId),
    /// Connected, TLS in progress.
    Handshake(ConnId),
    /// Its head was sent on it.
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
    pub(crate) sent: Progress,
    /// Bytes of the body so far.
    pub(crate) bytes: u64,
    /// Of those in `buf`, how many the sender was given credit for already.
    pub(crate) credited: usize,
    /// What a filter waits for before the head, or more, is sent on.
    pub(crate) pause: Option<Pause>,
    /// Whether filters are asked about the body and the trailers; and whose turn it is at the latter, by how many have had theirs.
    pub(crate) watched: bool,
    pub(crate) turn: usize,
}

impl Half {
    /// How many bytes are wanted by a filter.
    pub(crate) fn wants(&self) -> usize {
        match self.pause {
            Some(Pause::Body(bytes)) => bytes,
            _ => 0,
        }
    }

    /// How many bytes of the body were sent on.
    pub(crate) fn passed(&self) -> u64 {
        self.bytes.saturating_sub(self.buf.len() as u64)
    }

    /// Whether the head was sent on: the body may follow.
    pub(crate) fn open(&self) -> bool {
        self.sent != Progress::Nothing
    }

    /// Whether the end was sent on.
    pub(crate) fn done(&self) -> bool {
        self.sent == Progress::All
    }
}

/// What of one direction was sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Progress {
    #[default]
    Nothing,
    Head,
    All,
}

impl Progress {
    /// The head was sent on; its end too, if it is one.
    pub(crate) fn head(end: bool) -> Self {
        if end { Progress::All } else { Progress::Head }
    }
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
