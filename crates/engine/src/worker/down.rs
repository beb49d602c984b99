//! A client's connection, from its acceptance to the first byte for what serves it.

use std::sync::Arc;

use mizzen_http::{Sniff, proxy_protocol, sniff, tls};
use mizzen_ir::{
    ConnFacts, Known, ResourceKind, Trace, WantedListener, authenticate, bind,
    config::{ExtAuthz, FilterChain, Listener, ListenerFilter, NetworkFilter, Terminal, TlsCommon, TransportProtocol},
    find_chain, wanted_listener,
};
use mizzen_pki::UnixTime;

use super::Worker;
use crate::{
    Accepted, Action, Addrs, ConnId, How, ListenerId, Question,
    call::{CallAnswer, Caller},
    ceiling::{self, Places},
    clusters::{certificate_subject, certificate_uri},
    conn::{Below, Closing, Conn, Down, Gate, Peeked, Proto, Role},
    event::{Event, Gone, Lost},
    filter::{
        connection_answered, connection_question,
        network::{self, Judged, Refusal},
        policies,
    },
    flags::Flags,
    questions::Waiter,
    record::Record,
    tls::Tls,
};

impl Worker {
    /// Takes a connection that the socket of `listener` accepted. The connection starts by being read.
    pub fn accept(&mut self, listener: &ListenerId, accepted: Accepted) -> ConnId {
        self.accept_from(listener, accepted, Below::Socket)
    }

    /// The same, for what has no socket below.
    pub(crate) fn accept_from(&mut self, listener: &ListenerId, accepted: Accepted, below: Below) -> ConnId {
        let addrs = Addrs { local: accepted.local, peer: accepted.peer };
        let id = self.conns.reserve();
        let limits = &self.cx.options.limits;
        let found = self.cx.config.listeners.get(listener).cloned();
        let full = self.conns.len() > limits.connections;
        let Some(socket) = found.filter(|_| !full && !self.cx.draining) else {
            self.conns.abandon(id);
            if below == Below::Socket {
                self.cx.actions.push(Action::Close(id, How::Reset));
            }
            return id;
        };
        let destination = accepted.original.unwrap_or(accepted.local);
        let handed = if socket.use_original_dst {
            self.listener_at(destination).and_then(|n| self.cx.config.listeners.get(n)).cloned()
        } else {
            None
        };
        let listener = handed.unwrap_or_else(|| socket.clone());
        let places = match below {
            Below::Socket => self.cx.options.shared.ceilings().take(&socket, &listener.name),
            // No socket has accepted it.
            Below::Pipe(_) | Below::Stream(_) => Ok(Places::default()),
        };
        let places = match places {
            Ok(places) => places,
            Err(full) => {
                let table = &mut self.telemetry.table;
                let counter = table.counter(full.counter(), vec![("listener_address", ceiling::stat_name(&socket))]);
                table.add(counter, 1);
                self.conns.abandon(id);
                self.cx.actions.push(Action::Close(id, How::Close));
                return id;
            }
        };
        let now = self.cx.now.mono;
        let down = Down {
            config: None,
            socket: socket.name.clone(),
            chain: None,
            hcm: None,
            destination,
            direct: accepted.peer,
            server_name: None,
            protocols: Vec::new(),
            is_tls: false,
            asked: [false; 2],
            peeked: Peeked::default(),
            peer: None,
            local_uri: None,
            local_subject: None,
            bound: Vec::new(),
            metadata: None,
            draining: false,
            places,
            listener,
        };
        let mut conn = Conn::new(id, addrs, Role::Down(Box::new(down)), Proto::Sniff, now);
        conn.below = below;
        self.conns.insert(conn);
        // The rest happens within the turn, when the clock has been set.
        self.cx.inbox.push_back(Event::Accepted(id));
        id
    }

    /// A connection's life begins.
    pub(crate) fn begin(&mut self, id: ConnId) {
        self.catch_up_with(id);
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        (conn.born, conn.last) = (now, now);
        if self.cx.config.mesh().is_some()
            && let Some(wanted) = self.listener_wanted(id)
        {
            return self.await_listener(id, wanted);
        }
        self.begin_sniffing(id);
    }

    fn begin_sniffing(&mut self, id: ConnId) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if let Some(down) = conn.down() {
            down.listener.used.mark();
        }
        conn.deadline = conn.down().and_then(|down| down.listener.peek_timeout).map(|timeout| now + timeout);
        self.arm(id);
        // Without anything to peek at, a server that speaks first must not wait for the client.
        self.sniff(id);
    }

    /// The listener that a connection has to wait for: the index of the mesh has it, and it is not there yet.
    fn listener_wanted(&self, id: ConnId) -> Option<WantedListener> {
        let mesh = self.cx.config.mesh()?;
        let down = self.conns.get(id)?.down()?;
        if !self.cx.config.listeners.get(&down.socket)?.use_original_dst {
            return None;
        }
        let (own, any) = self.listeners_at(down.destination);
        let known = |held: bool, asked: bool| match (held, asked) {
            (true, _) => Known::Held,
            (false, true) => Known::Absent,
            (false, false) => Known::Unasked,
        };
        let (own, any) = (known(own.is_some(), down.asked[0]), known(any.is_some(), down.asked[1]));
        wanted_listener(mesh, down.destination, own, any, &mut Trace::off())
    }

    fn await_listener(&mut self, id: ConnId, wanted: WantedListener) {
        let Some(destination) = self.conns.get(id).and_then(Conn::down).map(|down| down.destination) else { return };
        let question = Question::Resource { kind: ResourceKind::Listener, name: wanted.name };
        let why = || format!("a connection to {destination}").into();
        let wait = self.questions.ask_for(&mut self.cx, question, Some(Waiter::Conn(id)), why);
        let until = self.cx.now.mono + self.cx.options.limits.resource_wait;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.waits_for = Some(wait);
            conn.deadline.get_or_insert(until);
            if let Some(down) = conn.down_mut() {
                down.asked[usize::from(!wanted.own)] = true;
            }
        }
        self.arm(id);
    }

    /// The listener that a connection has waited for is there, or it is known that there is none: then another one may be asked for, and at last the
    /// one that accepted has it.
    fn listener_found(&mut self, id: ConnId) {
        if let Some(wanted) = self.listener_wanted(id) {
            return self.await_listener(id, wanted);
        }
        let config = self.cx.config.clone();
        let Some(down) = self.conns.get(id).and_then(Conn::down) else { return };
        let found = self.listener_at(down.destination).and_then(|name| config.listeners.get(name)).cloned();
        if let Some(listener) = found.filter(|listener| !Arc::ptr_eq(listener, &down.listener)) {
            self.conns.hand_over(&self.cx, id, listener);
        }
        self.begin_sniffing(id);
    }

    /// Looks at the first bytes as the listener's filters want; chooses the chain once they have what they need.
    pub(crate) fn sniff(&mut self, id: ConnId) {
        let limit = self.cx.options.limits.sniff;
        if !self.take_proxy_header(id) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.waits_for.is_none()) else { return };
        let eof = conn.eof;
        let Role::Down(down) = &mut conn.role else { return };
        if down.chain.is_some() {
            // Only the ClientHello is waited for, for its ALPN.
            return self.begin_tls(id);
        }
        let bytes = conn.input.as_slice();
        let port = down.destination.port();
        let listener = down.listener.clone();
        for filter in listener.listener_filters.iter() {
            match filter {
                ListenerFilter::TlsInspector(off) if !off.holds(port) && !down.peeked.tls => match tls::sniff(bytes) {
                    tls::Sniff::NeedMore if bytes.len() < limit.max(tls::MAX_HELLO) => {
                        if eof {
                            break;
                        }
                        return;
                    }
                    tls::Sniff::Hello { sni, alpn } => {
                        (down.is_tls, down.server_name, down.protocols) = (true, sni, alpn);
                        down.peeked.tls = true;
                    }
                    _ => down.peeked.tls = true,
                },
                ListenerFilter::HttpInspector(off) if !off.holds(port) && !down.peeked.http && !down.is_tls => match sniff(bytes) {
                    Sniff::NeedMore if bytes.len() < limit => {
                        if eof {
                            break;
                        }
                        return;
                    }
                    Sniff::Http1 => {
                        let old = bytes.split(|b| *b == b'\n').next().is_some_and(|line| line.ends_with(b"HTTP/1.0\r"));
                        down.protocols = vec![if old { b"http/1.0".to_vec() } else { b"http/1.1".to_vec() }];
                        down.peeked.http = true;
                    }
                    Sniff::Http2 => {
                        down.protocols = vec![b"h2c".to_vec()];
                        down.peeked.http = true;
                    }
                    _ => down.peeked.http = true,
                },
                ListenerFilter::TlsInspector(_)
                | ListenerFilter::HttpInspector(_)
                | ListenerFilter::OriginalDst(_)
                | ListenerFilter::OriginalSrc(..)
                | ListenerFilter::ProxyProtocol(_) => {}
            }
        }
        // A client that closes without a byte, where bytes were needed, wanted nothing.
        let needs_none = |f: &ListenerFilter| !matches!(f, ListenerFilter::TlsInspector(_) | ListenerFilter::HttpInspector(_));
        if eof && bytes.is_empty() && !listener.listener_filters.iter().all(needs_none) {
            self.remove(id, Some(How::Close));
            return;
        }
        self.choose_chain(id);
    }

    /// Takes the header of the PROXY protocol off a connection that must begin with one. False: it is not there yet, or the connection is refused.
    fn take_proxy_header(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let Role::Down(down) = &mut conn.role else { return true };
        if down.chain.is_some() || !needs_proxy_header(down) {
            return true;
        }
        let why = match proxy_protocol::read(conn.input.as_slice()) {
            proxy_protocol::Read::NeedMore if !conn.eof => return false,
            // Whoever looks whether the port is open says nothing.
            proxy_protocol::Read::NeedMore if conn.input.is_empty() => {
                self.remove(id, Some(How::Close));
                return false;
            }
            proxy_protocol::Read::Header(header) => {
                conn.input.consume(header.length);
                down.peeked.proxied = true;
                if let Some((source, destination)) = header.addresses {
                    conn.addrs.peer = source;
                    down.destination = destination;
                }
                return true;
            }
            proxy_protocol::Read::NeedMore => "it ends too early",
            proxy_protocol::Read::Bad(why) => why,
        };
        self.connection_failed_by(id, Some(format!("PROXY_protocol_error:{why}")), "proxy_protocol_error");
        self.remove(id, Some(How::Close));
        false
    }

    /// The peeking took too long.
    pub(crate) fn peek_timeout(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(down) = conn.down() else { return };
        if conn.waits_for.is_some() && down.chain.is_none() {
            // Without an answer it is not known whether it may go where it wants.
            self.connection_failed_by(id, None, "listener_not_supplied");
            self.remove(id, Some(How::Close));
        } else if conn.waits_for.is_some() {
            self.refuse_tls(id, "TLS_error:secret is not supplied by SDS".to_owned());
        } else if down.listener.continue_on_timeout && down.chain.is_none() && !needs_proxy_header(down) {
            self.choose_chain(id);
        } else {
            self.remove(id, Some(How::Close));
        }
    }

    fn choose_chain(&mut self, id: ConnId) {
        let latest = self.cx.now.mono + self.cx.options.limits.drain;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let addrs = conn.addrs;
        let Role::Down(down) = &mut conn.role else { return };
        // What drains keeps its end, whatever it becomes now: it is not judged again by later policies.
        let end = down.draining.then(|| conn.deadline.unwrap_or(latest));
        conn.deadline = end;
        let facts = ConnFacts {
            destination: down.destination,
            source: addrs.peer,
            direct_source: down.direct,
            server_name: down.server_name.as_deref(),
            transport: if down.is_tls { TransportProtocol::Tls } else { TransportProtocol::RawBuffer },
            application_protocols: &down.protocols,
        };
        let Some(chain) = find_chain(&down.listener, &facts, &mut Trace::off()).cloned() else {
            self.connection_failed(id, None);
            self.remove(id, Some(How::Close));
            return;
        };
        down.chain = Some(chain.clone());
        if chain.tls.is_none() {
            self.serve(id);
            return;
        }
        let handshake = self.cx.now.mono + chain.handshake_timeout.unwrap_or(self.cx.options.limits.handshake);
        conn.deadline = Some(end.map_or(handshake, |end| end.min(handshake)));
        self.arm(id);
        self.begin_tls(id);
    }

    /// Sets TLS up as the chain wants it, once the ClientHello is known.
    fn begin_tls(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.waits_for.is_none()) else { return };
        let Role::Down(down) = &mut conn.role else { return };
        let Some(chain) = down.chain.clone() else { return };
        let Some(tls) = &chain.tls else { return };
        let mut alpn = down.protocols.clone();
        if !down.is_tls {
            match tls::sniff(conn.input.as_slice()) {
                tls::Sniff::NeedMore if !conn.eof => return,
                tls::Sniff::Hello { sni, alpn: offered } => {
                    alpn = offered;
                    down.server_name = sni;
                }
                // rustls says what is wrong with it.
                _ => {}
            }
        }
        if tls.require_sni && down.server_name.is_none() {
            return self.refuse_tls(id, "TLS_error:no server name".to_owned());
        }
        let config = down.config.as_ref().unwrap_or(&self.cx.config);
        let session = config.server_tls(tls).cloned().map(|config| Tls::server(offer(config, &alpn)));
        match session {
            Some(Ok(session)) => {
                conn.tls = Some(Box::new(session));
                conn.proto = Proto::Handshake;
                let wire = std::mem::take(&mut conn.input);
                self.decrypt(id, wire.as_slice());
                self.conns.keep(wire);
                self.arm(id);
            }
            Some(Err(error)) => self.refuse_tls(id, format!("TLS_error:{error}")),
            // A secret is missing: waited for within the handshake's time, never served in plaintext.
            None => self.await_secret(id, &tls.common),
        }
    }

    /// Waits for a secret without which TLS cannot be set up.
    fn await_secret(&mut self, id: ConnId, tls: &TlsCommon) {
        let Some(name) = self.cx.config.missing_secret(tls).cloned() else {
            return self.refuse_tls(id, "TLS_error:the secret does not serve".to_owned());
        };
        let question = Question::Resource { kind: ResourceKind::Secret, name };
        let wait = self.questions.ask(&mut self.cx, question, Some(Waiter::Conn(id)));
        if let Some(conn) = self.conns.get_mut(id) {
            conn.waits_for = Some(wait);
        }
    }

    fn refuse_tls(&mut self, id: ConnId, why: String) {
        self.connection_failed(id, Some(why));
        self.remove(id, Some(How::Close));
    }

    /// What a connection waited for is there, or will not be.
    pub(crate) fn conn_looks_again(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.waits_for.take().is_none() {
            return;
        }
        if conn.down().is_some_and(|down| down.chain.is_none()) {
            return self.listener_found(id);
        }
        let config = self.cx.config.clone();
        let tls = conn.down().and_then(|down| down.chain.as_ref()).and_then(|chain| chain.tls.as_ref());
        let there = tls.is_some_and(|tls| config.server_tls(tls).is_some());
        if let Some(down) = conn.down_mut() {
            down.config = None;
        }
        if there {
            self.begin_tls(id);
        } else {
            self.refuse_tls(id, "TLS_error:secret is not supplied by SDS".to_owned());
        }
    }

    /// TLS is set up, on either side.
    pub(crate) fn secured(&mut self, id: ConnId) {
        self.catch_up_with(id);
        let wall = UnixTime::since_unix_epoch(self.cx.now.wall);
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(tls) = &conn.tls else { return };
        let peer = tls.peer_certificates().map(|chain| authenticate(chain, wall));
        let peer = match peer {
            None => None,
            Some(Ok(peer)) => Some(Arc::new(peer)),
            Some(Err(error)) => {
                self.tls_failed(id, &rustls::Error::General(error.to_string()));
                return;
            }
        };
        match &mut conn.role {
            Role::Down(down) => {
                down.peer = peer;
                let tls = down.chain.as_ref().and_then(|chain| chain.tls.as_ref());
                down.local_uri = tls.and_then(|tls| certificate_uri(&self.cx.config, &tls.common));
                down.local_subject = tls.and_then(|tls| certificate_subject(&self.cx.config, &tls.common));
                if !down.draining {
                    conn.deadline = None;
                }
                self.serve(id);
                self.conns.queue_parse(&mut self.cx, id);
            }
            Role::Up(up) => {
                up.peer = peer;
                self.connected(id);
            }
        }
    }

    /// Judges the connection and hands it to what serves it.
    fn serve(&mut self, id: ConnId) {
        self.serve_from(id, 0);
    }

    /// The same, by the network filters from the one at `from` on.
    fn serve_from(&mut self, id: ConnId, from: usize) {
        let Some(down) = self.conns.get(id).and_then(Conn::down) else { return };
        let Some(chain) = down.chain.clone() else { return };
        match self.judged(id, &chain, from) {
            Judged::Go => {}
            Judged::Refused(refusal) => return self.deny_connection(id, &chain, refusal),
            Judged::Ask(authz, at) => return self.ask_at_the_gate(id, &chain, authz, at),
        }
        match &chain.filters.last {
            Terminal::Tcp(proxy) => self.serve_tcp(id, proxy.clone(), &chain),
            Terminal::Http(hcm) => self.serve_http(id, hcm.clone()),
            Terminal::Close => {
                self.drop_conn(id, Gone::Closed, Lost::Closed);
                self.close(id, Closing::Close);
            }
        }
    }

    /// What the network filters say of a connection that is not served yet.
    fn judged(&mut self, id: ConnId, chain: &FilterChain, from: usize) -> Judged {
        let Some(conn) = self.conns.get_mut(id) else { return Judged::Go };
        let addrs = conn.addrs;
        let Some(down) = conn.down_mut() else { return Judged::Go };
        let mut metadata = down.metadata.take().map(|metadata| *metadata).unwrap_or_default();
        let judged = network::connection(chain, &down.policy_facts(&addrs), from, &mut metadata, &mut self.filters.decisions);
        down.metadata = (!metadata.is_empty()).then(|| Box::new(metadata));
        judged
    }

    /// Why the network filters refuse a connection that is served; none: it may go on.
    pub(crate) fn refused(&self, id: ConnId, chain: &FilterChain) -> Option<Refusal> {
        let conn = self.conns.get(id)?;
        network::open_connection(chain, &conn.down()?.policy_facts(&conn.addrs))
    }

    /// Asks whether a connection may be served. Meanwhile it is not read any further than what there is room for.
    fn ask_at_the_gate(&mut self, id: ConnId, chain: &FilterChain, authz: Arc<ExtAuthz>, at: usize) {
        let question = self.conns.get(id).and_then(|conn| connection_question(&authz, conn));
        let Some(question) = question else {
            let (details, policy) =
                ("ext_authz_error".to_owned(), "the external authorization service cannot be asked about connections".to_owned());
            return self.deny_connection(id, chain, Refusal { details, policy, flags: Flags::UNAUTHORIZED_EXTERNAL_SERVICE });
        };
        let call = self.open_call(question, Caller::Gate(id));
        if let Some(conn) = self.conns.get_mut(id) {
            conn.proto = Proto::Gate(Box::new(Gate { call, authz, at }));
        }
        self.arm(id);
    }

    /// The answer to that.
    pub(crate) fn gate_answered(&mut self, id: ConnId, answer: &CallAnswer) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| matches!(conn.proto, Proto::Gate(_))) else { return };
        let Proto::Gate(gate) = std::mem::replace(&mut conn.proto, Proto::Sniff) else { return };
        let Some(chain) = conn.down().and_then(|down| down.chain.clone()) else { return };
        // Where the chain was changed meanwhile, all of it is asked again.
        let same = matches!(chain.filters.before.get(gate.at), Some(NetworkFilter::ExtAuthz(authz)) if *authz == gate.authz);
        match connection_answered(&gate.authz, answer) {
            Some(refusal) if same => return self.deny_connection(id, &chain, refusal),
            _ => self.serve_from(id, if same { gate.at + 1 } else { 0 }),
        }
        self.conns.queue_parse(&mut self.cx, id);
    }

    fn deny_connection(&mut self, id: ConnId, chain: &FilterChain, refusal: Refusal) {
        self.filters.decisions.tell(&mut self.telemetry.table);
        let record = Record {
            wall: self.cx.now.wall,
            begun: self.conns.get(id).map_or(self.cx.now.mono, |c| c.born),
            details: Some(refusal.details.clone().into()),
            termination: Some(refusal.details),
            policy: Some(refusal.policy),
            flags: refusal.flags,
            ..Record::default()
        };
        if let Terminal::Tcp(proxy) = &chain.filters.last {
            self.log_connection(id, &proxy.access_log, &record);
        }
        if let Some(conn) = self.conns.get_mut(id) {
            conn.proto = Proto::Dead;
        }
        self.close(id, Closing::Close);
    }

    /// A connection for which there is no chain, or whose TLS failed: one record.
    pub(crate) fn connection_failed(&mut self, id: ConnId, failure: Option<String>) {
        self.connection_failed_by(id, failure, "filter_chain_not_found");
    }

    /// The same; `lacking` says what it has come to nothing by, if not by its chain.
    fn connection_failed_by(&mut self, id: ConnId, failure: Option<String>, lacking: &'static str) {
        let Some(down) = self.conns.get(id).and_then(Conn::down) else { return };
        let logs = down.listener.access_log.clone();
        let mut record = Record {
            wall: self.cx.now.wall,
            begun: self.conns.get(id).map_or(self.cx.now.mono, |c| c.born),
            downstream_failure: failure,
            ..Record::default()
        };
        if down.chain.is_none() {
            record.flags.set(Flags::NO_ROUTE);
            record.details = Some(lacking.into());
            record.termination = Some(lacking.to_owned());
        }
        self.log_connection(id, &logs, &record);
    }

    /// Binds the policies of HTTP filters to a connection's facts, so that requests only run what is left.
    pub(crate) fn bind_policies(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(down) = conn.down() else { return };
        let Some(hcm) = &down.hcm else { return };
        let facts = down.policy_facts(&conn.addrs);
        let bound = policies(hcm, &[]).map(|rules| (rules.clone(), bind(rules, &facts))).collect();
        if let Some(down) = self.conns.get_mut(id).and_then(|c| c.down_mut()) {
            down.bound = bound;
        }
    }

    /// Drains one downstream connection: no new requests, and the end after `time`.
    pub(crate) fn drain_conn(&mut self, id: ConnId, time: std::time::Duration) {
        let deadline = self.cx.now.mono + time;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Role::Down(down) = &mut conn.role else { return };
        if down.draining {
            return;
        }
        down.draining = true;
        conn.deadline = Some(conn.deadline.map_or(deadline, |d| d.min(deadline)));
        let mut idle = false;
        if let Proto::Http(http) = &mut conn.proto {
            http.draining = true;
            http.codec.drain(&mut conn.tx);
            idle = http.streams.is_empty();
        }
        self.conns.mark(id);
        self.arm(id);
        if idle {
            self.end_if_done(id);
        }
    }
}

/// Whether a connection must begin with a header of the PROXY protocol that has not come yet.
fn needs_proxy_header(down: &Down) -> bool {
    !down.peeked.proxied && reads_proxy_header(&down.listener, down.destination.port())
}

/// Whether connections of a listener to this port of it begin with such a header.
pub(super) fn reads_proxy_header(listener: &Listener, port: u16) -> bool {
    listener.listener_filters.iter().any(|filter| matches!(filter, ListenerFilter::ProxyProtocol(off) if !off.holds(port)))
}

/// The configuration without ALPN names where a client shares none of them: rustls refuses such a client, Envoy goes on without.
fn offer(config: Arc<rustls::ServerConfig>, client: &[Vec<u8>]) -> Arc<rustls::ServerConfig> {
    if client.is_empty() || config.alpn_protocols.is_empty() || config.alpn_protocols.iter().any(|ours| client.contains(ours)) {
        return config;
    }
    let mut cut = (*config).clone();
    cut.alpn_protocols = Vec::new();
    Arc::new(cut)
}
