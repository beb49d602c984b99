//! A connection: its buffers, its TLS, what is spoken on it, whose it is.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use mizzen_http::{Codec, StreamId as Sid};
use mizzen_ir::{
    BoundRbac, Config, Metadata, Peer, PolicyFacts,
    config::{ExtAuthz, FilterChain, Hcm, Listener, Rbac},
};
use mizzen_types::Name;

use crate::{
    Addrs, ConnId, Limits, WaitId,
    buf::Buf,
    ceiling::Places,
    clusters::{ClientAddress, Owner, UpSpec},
    id::{CheckId, StreamId},
    lb::Guard,
    tls::Tls,
};

/// What carries a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// A socket of the driver's.
    Socket,
    /// Another connection of this worker: the two ends of a connection to an internal listener.
    Pipe(ConnId),
    /// A call's body, both ways: a tunnel through an HTTP proxy.
    Stream(StreamId),
}

/// One connection.
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) below: Below,
    pub(crate) addrs: Addrs,
    pub(crate) tls: Option<Box<Tls>>,
    /// Plain bytes received and not yet taken by what is spoken. While sniffing: wire bytes.
    pub(crate) input: Buf,
    /// Plain bytes to send; sealed into `out` at the end of the turn.
    pub(crate) tx: Vec<u8>,
    /// Wire bytes to send.
    pub(crate) out: Buf,
    pub(crate) proto: Proto,
    pub(crate) role: Role,
    /// What is spoken must not take input now: its partner is full.
    pub(crate) held: bool,
    /// What the driver was told last, or did by itself when not all bytes were taken.
    pub(crate) reading: bool,
    /// In the list of handshakes that wait for their turn.
    pub(crate) shaking: bool,
    /// The peer sends no more; and whether what is spoken knows.
    pub(crate) eof: bool,
    pub(crate) eof_told: bool,
    pub(crate) closing: Closing,
    /// In the inbox for parsing; in the list for flushing.
    pub(crate) queued: bool,
    pub(crate) dirty: bool,
    /// Streams that wait until `out` has room.
    pub(crate) blocked: Vec<StreamId>,
    /// The earliest timer entry.
    pub(crate) armed: Option<Duration>,
    pub(crate) born: Duration,
    /// Plain bytes ever sealed, wire bytes ever written; and for each sealing not wholly written where it began in either count.
    pub(crate) sealed: u64,
    pub(crate) wrote: u64,
    pub(crate) batches: VecDeque<(u64, u64)>,
    /// When bytes last moved, or the last stream ended.
    pub(crate) last: Duration,
    /// The question whose answer it waits for before its TLS can be set up.
    pub(crate) waits_for: Option<WaitId>,
    /// The end of the present phase: sniffing, handshake, drain, close.
    pub(crate) deadline: Option<Duration>,
}

/// What is spoken.
pub(crate) enum Proto {
    /// Not known yet (downstream).
    Sniff,
    /// TLS is being set up.
    Handshake,
    /// Bytes of one stream.
    Tcp(StreamId),
    /// Bytes of a host's check.
    Check(CheckId),
    /// Nothing yet: somebody is asked whether it may be served.
    Gate(Box<Gate>),
    /// HTTP of a version that the first bytes will tell.
    Choose,
    /// HTTP.
    Http(Http),
    /// Nothing: being closed.
    Dead,
}

/// Whether a connection may be served is asked.
pub(crate) struct Gate {
    /// The question.
    pub(crate) call: StreamId,
    /// The filter that asks, and its place in the chain.
    pub(crate) authz: Arc<ExtAuthz>,
    pub(crate) at: usize,
}

/// HTTP on a connection.
pub(crate) struct Http {
    pub(crate) codec: Codec,
    /// Streams on it, by the codec's number.
    pub(crate) streams: Vec<(Sid, StreamId)>,
    /// Requests ever begun.
    pub(crate) requests: u64,
    /// When the codec's budgets were last refilled.
    pub(crate) refilled: Duration,
    /// Draining was begun.
    pub(crate) draining: bool,
    /// When the next PING is due, or its answer if one was sent.
    pub(crate) ping: Option<Duration>,
    pub(crate) pinged: bool,
    pub(crate) ping_interval: Option<Duration>,
}

impl Http {
    pub(crate) fn new(codec: Codec, now: Duration, ping_interval: Option<Duration>) -> Self {
        let ping_interval = ping_interval.filter(|_| codec.is_h2());
        let ping = ping_interval.map(|interval| now + interval);
        Http { codec, streams: Vec::new(), requests: 0, refilled: now, draining: false, ping, pinged: false, ping_interval }
    }

    pub(crate) fn find(&self, sid: Sid) -> Option<StreamId> {
        self.streams.iter().rev().find(|(s, _)| *s == sid).map(|(_, id)| *id)
    }

    pub(crate) fn forget(&mut self, sid: Sid) {
        if let Some(at) = self.streams.iter().position(|(s, _)| *s == sid) {
            self.streams.swap_remove(at);
        }
    }
}

/// Whose it is.
pub(crate) enum Role {
    /// A client's, that we accepted.
    Down(Box<Down>),
    /// To a server, that we dialled.
    Up(Box<Up>),
}

/// What is known of a client's connection.
pub(crate) struct Down {
    /// The configuration that it ends by, since the newest one would not make it; none: the newest.
    pub(crate) config: Option<Arc<Config>>,
    /// The listener whose chain it has, and the one whose socket accepted it.
    pub(crate) listener: Arc<Listener>,
    pub(crate) socket: Name,
    pub(crate) chain: Option<Arc<FilterChain>>,
    /// The HTTP connection manager's `Arc`, where HTTP is spoken.
    pub(crate) hcm: Option<Arc<Hcm>>,
    /// Where the client meant to go.
    pub(crate) destination: SocketAddr,
    /// The peer of the socket: the connection's own peer, unless a proxy in front has told of another.
    pub(crate) direct: SocketAddr,
    pub(crate) server_name: Option<String>,
    /// ALPN of the ClientHello, or what the HTTP inspector found.
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) is_tls: bool,
    /// Whether listeners were asked for that are on demand: that of the destination's address, and that of all addresses.
    pub(crate) asked: [bool; 2],
    /// What the peeking has settled.
    pub(crate) peeked: Peeked,
    pub(crate) peer: Option<Arc<Peer>>,
    /// Our own certificate's first URI name, and its subject.
    pub(crate) local_uri: Option<Name>,
    pub(crate) local_subject: Option<Name>,
    /// Policy sets that were bound to this connection's facts, in the filters' order.
    pub(crate) bound: Vec<(Arc<Rbac>, BoundRbac)>,
    /// What network filters have left; none: nothing.
    pub(crate) metadata: Option<Box<Metadata>>,
    /// No new requests: the listener or the process drains, until the deadline.
    pub(crate) draining: bool,
    /// What it takes of how many connections there may be.
    pub(crate) places: Places,
}

/// How far the peeking came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peeked {
    pub(crate) proxied: bool,
    pub(crate) tls: bool,
    pub(crate) http: bool,
}

impl Down {
    /// The client's address, if servers are to be called from it.
    pub(crate) fn client_address(&self, addrs: &Addrs) -> Option<ClientAddress> {
        let mark = self.listener.original_src(self.destination.port())?;
        let ip = addrs.peer.ip().to_canonical();
        // What has come by a Unix socket has none.
        (!ip.is_unspecified()).then_some(ClientAddress { ip, mark })
    }

    pub(crate) fn policy_facts<'a>(&'a self, addrs: &Addrs) -> PolicyFacts<'a> {
        PolicyFacts {
            destination: self.destination,
            direct_remote: self.direct.ip(),
            remote: addrs.peer.ip(),
            server_name: self.server_name.as_deref(),
            peer: self.peer.as_deref(),
            request: None,
            metadata: self.metadata.as_deref(),
        }
    }
}

/// What is known of a connection to a server.
pub(crate) struct Up {
    pub(crate) spec: Arc<UpSpec>,
    pub(crate) owner: Owner,
    /// One of the cluster's connections.
    pub(crate) guard: Option<Guard>,
    /// Takes no new streams.
    pub(crate) draining: bool,
    /// The server's GOAWAY says that it took at least one stream.
    pub(crate) served: bool,
    pub(crate) peer: Option<Arc<Peer>>,
}

/// Bytes that a connection may store of what it received, beyond what its codec needs at once.
const STORED: usize = 128 * 1024;
/// The same of a TCP connection that is relayed.
const STORED_TCP: usize = 256 * 1024;
/// The same on the wire where it is encrypted: as many full records as the plain bytes make, so that none is left in part.
const STORED_TLS: usize = STORED_TCP + STORED_TCP / 64;
/// Plaintext that a TLS session may put before what is spoken at a time.
const ROOM: usize = 64 * 1024;
/// Bytes read ahead of an answer that must be sent first: a client that is gone is noticed behind a few pipelined requests.
const AHEAD: usize = 16 * 1024;

/// How far the closing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closing {
    /// Open.
    No,
    /// The write half is to be shut when all is sent.
    Write,
    /// It was.
    WriteDone,
    /// To be closed when all is sent.
    Close,
    /// To be reset now.
    Reset,
}

impl Conn {
    pub(crate) fn new(id: ConnId, addrs: Addrs, role: Role, proto: Proto, now: Duration) -> Box<Self> {
        Box::new(Conn {
            id,
            below: Below::Socket,
            addrs,
            tls: None,
            input: Buf::default(),
            tx: Vec::new(),
            out: Buf::default(),
            proto,
            role,
            held: false,
            reading: true,
            shaking: false,
            eof: false,
            eof_told: false,
            closing: Closing::No,
            queued: false,
            dirty: false,
            blocked: Vec::new(),
            armed: None,
            sealed: 0,
            wrote: 0,
            batches: VecDeque::new(),
            born: now,
            last: now,
            waits_for: None,
            deadline: None,
        })
    }

    /// Bytes on their way out.
    pub(crate) fn backlog(&self) -> usize {
        self.tx.len() + self.out.len()
    }

    /// Bytes received and not yet taken, decrypted or not.
    pub(crate) fn stored(&self) -> usize {
        self.input.len() + self.tls.as_ref().map_or(0, |tls| tls.stored())
    }

    /// How many there may be: what a codec needs at once to go on, a TLS handshake, or the first bytes that tell a protocol, and more than one
    /// read beyond. What comes on top is not taken.
    pub(crate) fn most_stored(&self) -> usize {
        match &self.proto {
            Proto::Tcp(_) if self.tls.is_some() => STORED_TLS,
            Proto::Tcp(_) => STORED_TCP,
            Proto::Http(http) => STORED + http.codec.unconsumed(),
            _ => STORED,
        }
    }

    /// How much plaintext a TLS session may put before what is spoken at a time.
    pub(crate) fn room(&self) -> usize {
        if self.is_tcp() { STORED_TCP } else { ROOM }
    }

    /// Bytes on their way out beyond which partners wait.
    pub(crate) fn high(&self, limits: &Limits) -> usize {
        if self.is_tcp() { limits.tcp_buffer } else { limits.stream_buffer }
    }

    /// Version and cipher suite of its TLS.
    pub(crate) fn spoken(&self) -> [Option<&'static str>; 2] {
        let tls = self.tls.as_ref();
        [tls.and_then(|tls| tls.version()), tls.and_then(|tls| tls.cipher())]
    }

    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.proto, Proto::Tcp(_))
    }

    /// How many more may come.
    pub(crate) fn left(&self) -> usize {
        self.most_stored().saturating_sub(self.stored())
    }

    /// What comes is dropped: nobody is there who would take it.
    pub(crate) fn is_deaf(&self) -> bool {
        self.closing >= Closing::Close || self.eof
    }

    /// What bytes of the wire are appended to.
    pub(crate) fn wire(&mut self) -> &mut Buf {
        match &mut self.tls {
            Some(tls) => tls.wire(),
            None => &mut self.input,
        }
    }

    /// Whether more bytes are wanted. `most_out`: bytes on their way out beyond which a peer that only sends is not listened to.
    pub(crate) fn wants_bytes(&self, most_out: usize) -> bool {
        let most = if self.http().is_some_and(|http| http.codec.waits()) { AHEAD } else { self.most_stored() };
        // What is relayed does not answer what comes, so that it does not pile up by that.
        let most_out = if self.is_tcp() { usize::MAX } else { most_out };
        // What comes for a connection that is being closed is dropped, so that its end is seen.
        self.closing >= Closing::Close || (!self.held && self.stored() < most && self.backlog() <= most_out)
    }

    pub(crate) fn down(&self) -> Option<&Down> {
        match &self.role {
            Role::Down(down) => Some(down),
            Role::Up(_) => None,
        }
    }

    pub(crate) fn down_mut(&mut self) -> Option<&mut Down> {
        match &mut self.role {
            Role::Down(down) => Some(down),
            Role::Up(_) => None,
        }
    }

    pub(crate) fn up(&self) -> Option<&Up> {
        match &self.role {
            Role::Up(up) => Some(up),
            Role::Down(_) => None,
        }
    }

    pub(crate) fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.role {
            Role::Up(up) => Some(up),
            Role::Down(_) => None,
        }
    }

    pub(crate) fn http(&self) -> Option<&Http> {
        match &self.proto {
            Proto::Http(http) => Some(http),
            _ => None,
        }
    }

    pub(crate) fn http_mut(&mut self) -> Option<&mut Http> {
        match &mut self.proto {
            Proto::Http(http) => Some(http),
            _ => None,
        }
    }

    /// The codec and where it writes to.
    pub(crate) fn codec(&mut self) -> Option<(&mut Codec, &mut Vec<u8>)> {
        match &mut self.proto {
            Proto::Http(http) => Some((&mut http.codec, &mut self.tx)),
            _ => None,
        }
    }

    pub(crate) fn is_h2(&self) -> bool {
        self.http().is_some_and(|http| http.codec.is_h2())
    }

    /// Where the next plain byte will be.
    pub(crate) fn position(&self) -> u64 {
        self.sealed + self.tx.len() as u64
    }

    /// Whether nothing from this place on has been given to the kernel.
    pub(crate) fn unsent(&self, position: u64) -> bool {
        let batch = self.batches.iter().rev().find(|(plain, _)| *plain <= position);
        position >= self.sealed || batch.is_some_and(|(_, wire)| self.wrote <= *wire)
    }

    /// Wire bytes were written.
    pub(crate) fn written(&mut self, n: usize) {
        self.out.consume(n);
        self.wrote += n as u64;
        while self.batches.get(1).is_some_and(|(_, wire)| *wire <= self.wrote) {
            self.batches.pop_front();
        }
    }

    /// Seals what is to be sent.
    pub(crate) fn seal(&mut self) -> Result<(), rustls::Error> {
        if self.tx.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            return Ok(());
        }
        self.batches.push_back((self.sealed, self.wrote + self.out.len() as u64));
        self.sealed += self.tx.len() as u64;
        match &mut self.tls {
            Some(tls) => tls.seal(&self.tx, &mut self.input, &mut self.out)?,
            None => self.out.append(&mut self.tx),
        }
        self.tx.clear();
        Ok(())
    }
}
