//! What the driver says to a worker, and what a worker says to its driver.

use std::{net::IpAddr, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use mizzen_ir::{Config, ResourceKind};
use mizzen_protos::wkt::Struct;
use mizzen_types::Name;

use crate::{
    call::{Call, CallAnswer},
    id::{ConnId, Id},
    metrics::Snapshot,
};

/// A dial in progress.
pub type DialId = Id<DialTag>;
/// Somebody waits for an answer from outside.
pub type WaitId = Id<WaitTag>;
/// A listener, by its resource's name.
pub type ListenerId = Name;

/// Names the ids of dials.
#[derive(Debug)]
pub enum DialTag {}
/// Names the ids of waits.
#[derive(Debug)]
pub enum WaitTag {}

/// The two clocks, read once per turn by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since an arbitrary point in the past; never goes back.
    pub mono: Duration,
    /// Since the Unix epoch.
    pub wall: Duration,
}

/// Limits, each with its default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of one worker, both directions (default 65,536). New downstream connections beyond are closed at once.
    pub connections: usize,
    /// Streams of one worker in flight (default 262,144). Requests beyond get 503 with the flag `OM`.
    pub streams: usize,
    /// Bytes that one direction of a stream may hold before its sender is stopped (default 64 KiB; hard bound twice that plus one read).
    pub stream_buffer: usize,
    /// The same for a TCP connection that is relayed (default 256 KiB): what moves much at once costs less for each byte.
    pub tcp_buffer: usize,
    /// Bytes of request kept for a retry (default 1 MiB, as Envoy's buffers).
    pub replay: usize,
    /// Bytes peeked at before a protocol must be known (default 64 KiB and a little: the longest request line is 64 KiB).
    pub sniff: usize,
    /// Dials in progress (default 4,096).
    pub dials: usize,
    /// Steps of TLS handshakes in one turn, both directions (default 16; each takes about as long as ten requests).
    pub handshakes: usize,
    /// How long a TCP connection or tunnel may stand still of which one direction has ended, where no shorter idle timeout is configured, or none
    /// (default 1 hour, Envoy's idle timeout of TCP). The driver's keep-alive notices peers that have vanished long before.
    pub half_closed: Duration,
    /// How long a request or a connection waits for a resource that is not there yet (default 15 s).
    pub resource_wait: Duration,
    /// How long a TLS handshake may take downstream, where the chain does not say (default 15 s).
    pub handshake: Duration,
    /// How long the head of a request may take from its first byte on, where the listener does not say (default 60 s; Envoy: for ever).
    pub request_head: Duration,
    /// How long changed chains may drain, and `Command::Drain` (default 45 s, Istio's `drainDuration`).
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 65_536,
            streams: 262_144,
            stream_buffer: 64 * 1024,
            tcp_buffer: 256 * 1024,
            replay: 1024 * 1024,
            sniff: 65 * 1024,
            dials: 4_096,
            handshakes: 16,
            half_closed: Duration::from_secs(3600),
            resource_wait: Duration::from_secs(15),
            handshake: Duration::from_secs(15),
            request_head: Duration::from_secs(60),
            drain: Duration::from_secs(45),
        }
    }
}

/// Who this proxy is, from the bootstrap's node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `type~ip~name.namespace~domain`.
    pub id: String,
    /// The node's cluster.
    pub cluster: String,
    /// The node's metadata: Istio's names (`NAMESPACE`, `WORKLOAD_NAME`, `LABELS`, `CLUSTER_ID` …).
    pub metadata: Struct,
}

/// What a worker is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// This proxy.
    pub node: Node,
    /// Limits.
    pub limits: Limits,
    /// Seed of the worker's random numbers; another one for each worker.
    pub seed: u64,
    /// The state that all workers of the process share; the same for each worker.
    pub shared: Arc<crate::lb::Shared>,
    /// The socket mark of every upstream connection.
    pub mark: u32,
}

/// A connection that a listener accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The other side's address.
    pub peer: SocketAddr,
    /// This side's address, as the socket has it.
    pub local: SocketAddr,
    /// Where the client wanted to go before the capture redirected it, if it did.
    pub original: Option<SocketAddr>,
}

/// The two addresses of a dialled connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addrs {
    /// This side's; unspecified for Unix sockets.
    pub local: SocketAddr,
    /// The other side's; unspecified for Unix sockets.
    pub peer: SocketAddr,
}

/// Why a dial failed; the text is for logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialError(pub String);

/// Where to dial to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Pipe(PathBuf),
    /// A listener without a socket, by its name, and the endpoint's own id; the worker connects to it by itself and asks for no dial.
    Internal(Name, Name),
}

/// A dial to make. The engine bounds its time and takes it back by `Action::Cancel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Its id.
    pub id: DialId,
    /// Where to.
    pub target: Target,
    /// Bind to this address first (`InboundPassthroughCluster`: 127.0.0.6).
    pub source: Option<IpAddr>,
    /// Whether that is the client's own address and not one of this host (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// `SO_MARK`, 0 for none.
    pub mark: u32,
    /// TCP keep-alive: idle time, interval, probes.
    pub keepalive: Option<Keepalive>,
}

/// TCP keep-alive; `None` is the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// Until the first probe.
    pub idle: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
    /// Probes until the connection counts as dead.
    pub probes: Option<u32>,
}

/// How the other side's bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// It will send no more; it may still read.
    Half,
    /// It is gone: reset.
    Reset,
    /// The socket failed otherwise.
    Error,
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Shut the writing half down; go on reading. The connection's id lives on.
    Write,
    /// Close. The id is dead.
    Close,
    /// Close with a reset (linger 0) where the kernel can. The id is dead.
    Reset,
}

/// A question to the outside; waiters for the same thing share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// The addresses of a host, for a cluster that names it, or that was asked for it. Answer by `Answer::Dns`.
    Dns {
        /// The host.
        host: Name,
    },
    /// A resource that is named but not there: subscribe to it. Answered by the next `Command::Config` that has it, or by `Answer::Absent`.
    Resource {
        /// Its kind.
        kind: ResourceKind,
        /// Its name.
        name: Name,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Addresses and how long they may be kept.
    Dns {
        /// The addresses; empty if there are none.
        addresses: Vec<IpAddr>,
        /// How long.
        ttl: Duration,
    },
    /// There is no such thing, or it could not be had.
    Absent,
}

/// What the driver asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// A new configuration; everything in it is warm.
    Config(Arc<Config>),
    /// An answer to a question.
    Answer(WaitId, Answer),
    /// Mark the resources that open connections and streams use, where somebody looks at it.
    MarkUsed,
    /// Drain: `None` everything, else one listener. Connections close as they become idle, at the latest after the drain time.
    Drain(Option<ListenerId>),
    /// Call somebody; answered by `Action::Answer` with the same number.
    Call(u64, Box<Call>),
    /// Give the counters and the state of pools: answered by `Action::Snapshot` in the same turn.
    Snapshot(u64),
}

/// What a worker asks of its driver.
#[derive(Debug)]
pub enum Action {
    /// Dial; answer by `Worker::dialed`.
    Dial(Dial),
    /// Nobody waits for this dial any more. `Worker::dialed` for it would return `None`.
    Cancel(DialId),
    /// There are bytes to write: `Worker::pending`, then `Worker::wrote`.
    Write(ConnId),
    /// Go on reading (true) or stop reading (false). Connections start by reading.
    Read(ConnId, bool),
    /// Close. Only emitted when nothing is pending (`How::Reset` drops what is).
    Close(ConnId, How),
    /// Answer by `Command::Answer`, whenever it may be. What it is asked for, in words, where that matters.
    Ask(WaitId, Question, Name),
    /// Access-log lines, each with its line feed, for one log file.
    Log(Arc<str>, Vec<u8>),
    /// The answer to `Command::Call`.
    Answer(u64, Box<CallAnswer>),
    /// The answer to `Command::Snapshot`.
    Snapshot(u64, Box<Snapshot>),
    /// A configuration that no stream uses any more: free it on another thread.
    Dispose(Arc<Config>),
}
