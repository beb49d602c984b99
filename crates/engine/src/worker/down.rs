//! A client's connection, from its acceptance to the first byte for what serves it.

use std::sync::Arc;

use mizzen_http::{Sniff, sniff, tls};
use mizzen_ir::{
    ConnFacts, Trace, Verdict, authenticate, authorize, bind,
    config::{Direction, FilterChain, ListenerFilter, NetworkFilter, RbacFilter, Terminal, TransportProtocol},
    find_chain, nearest_miss,
};
use mizzen_pki::UnixTime;

use super::{Gone, Lost, Worker};
use crate::{
    Accepted, Addrs, ConnId, ConnTag, How, ListenerId,
    conn::{Closing, Conn, Down, Peeked, Proto, Role},
    filter::{denial, explain, policies},
    flags::Flags,
    stream::Record,
    tls::Tls,
};

/// What a filter chain's policies say of a connection.
pub(crate) struct Judged {
    pub(crate) details: String,
    pub(crate) policy: String,
}

impl Worker {
    /// Takes a connection that the socket of `listener` accepted. The connection starts by being read.
    pub fn accept(&mut self, listener: &ListenerId, accepted: Accepted) -> ConnId {
        let addrs = Addrs { local: accepted.local, peer: accepted.peer };
        let id = self.conns.insert::<ConnTag>(None);
        let limits = &self.options.limits;
        let found = self.config.listeners.get(listener).cloned();
        let full = self.conns.len() > limits.connections;
        let Some(socket) = found.filter(|_| !full && !self.draining) else {
            self.conns.remove(id);
            self.close_action(id, How::Reset);
            return id;
        };
        let destination = accepted.original.unwrap_or(accepted.local);
        let handed =
            if socket.use_original_dst { self.listener_at(destination).and_then(|n| self.config.listeners.get(n)).cloned() } else { None };
        let listener = handed.unwrap_or_else(|| socket.clone());
        let now = self.now.mono;
        let down = Down {
            config: self.config.clone(),
            socket: socket.name.clone(),
            chain: None,
            hcm: None,
            destination,
            server_name: None,
            protocols: Vec::new(),
            is_tls: false,
            peeked: Peeked::default(),
            peer: None,
            local_uri: None,
            bound: Vec::new(),
            draining: false,
            listener,
        };
        let conn = Conn::new(id, addrs, Role::Down(Box::new(down)), Proto::Sniff, now);
        if let Some(place) = self.conns.get_mut(id) {
            *place = Some(conn);
            self.downs += 1;
        }
        // The rest happens within the turn, when the clock has been set.
        self.inbox.push_back(super::Event::Accepted(id));
        id
    }

    /// A connection's life begins.
    pub(crate) fn begin(&mut self, id: ConnId) {
        let now = self.now.mono;
        let Some(conn) = self.conn(id) else { return };
        (conn.born, conn.last) = (now, now);
        conn.deadline = conn.down().and_then(|down| down.listener.peek_timeout).map(|timeout| now + timeout);
        self.arm(id);
        // Without anything to peek at, a server that speaks first must not wait for the client.
        self.sniff(id);
    }

    /// Looks at the first bytes as the listener's filters want; chooses the chain once they have what they need.
    pub(crate) fn sniff(&mut self, id: ConnId) {
        let limit = self.options.limits.sniff;
        let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) else { return };
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
                ListenerFilter::TlsInspector(_) | ListenerFilter::HttpInspector(_) | ListenerFilter::OriginalDst(_) => {}
            }
        }
        // A client that closes without a byte, where bytes were needed, wanted nothing.
        if eof && bytes.is_empty() && !listener.listener_filters.iter().all(|f| matches!(f, ListenerFilter::OriginalDst(_))) {
            self.remove(id, Some(How::Close));
            return;
        }
        self.choose_chain(id);
    }

    /// The peeking took too long.
    pub(crate) fn peek_timeout(&mut self, id: ConnId) {
        let Some(down) = self.conn_ref(id).and_then(Conn::down) else { return };
        if down.listener.continue_on_timeout && down.chain.is_none() {
            self.choose_chain(id);
        } else {
            self.remove(id, Some(How::Close));
        }
    }

    fn choose_chain(&mut self, id: ConnId) {
        let latest = self.now.mono + self.options.limits.drain;
        let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) else { return };
        let addrs = conn.addrs;
        let Role::Down(down) = &mut conn.role else { return };
        // What drains keeps its end, whatever it becomes now: it is not judged again by later policies.
        let end = down.draining.then(|| conn.deadline.unwrap_or(latest));
        conn.deadline = end;
        let facts = ConnFacts {
            destination: down.destination,
            source: addrs.peer,
            direct_source: addrs.peer,
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
        let handshake = self.now.mono + chain.handshake_timeout.unwrap_or(self.options.limits.handshake);
        conn.deadline = Some(end.map_or(handshake, |end| end.min(handshake)));
        self.arm(id);
        self.begin_tls(id);
    }

    /// Sets TLS up as the chain wants it, once the ClientHello is known.
    fn begin_tls(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) else { return };
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
            self.connection_failed(id, Some("TLS_error:no server name".to_owned()));
            self.remove(id, Some(How::Close));
            return;
        }
        let session = down.config.server_tls(tls).cloned().map(|config| Tls::server(offer(config, &chain, &alpn)));
        match session {
            Some(Ok(session)) => {
                conn.tls = Some(Box::new(session));
                conn.proto = Proto::Handshake;
                let mut wire = std::mem::take(&mut conn.input);
                self.decrypt(id, wire.as_slice());
                wire.clear();
                wire.rest(&mut self.spare);
                self.arm(id);
            }
            // A secret is missing: closed, never served in plaintext.
            Some(Err(_)) | None => {
                self.connection_failed(id, Some("TLS_error:secret is not supplied by SDS".to_owned()));
                self.remove(id, Some(How::Close));
            }
        }
    }

    /// TLS is set up, on either side.
    pub(crate) fn secured(&mut self, id: ConnId) {
        let wall = UnixTime::since_unix_epoch(self.now.wall);
        let Some(conn) = self.conn(id) else { return };
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
                let chain = down.chain.clone();
                if !down.draining {
                    conn.deadline = None;
                }
                let uri = chain.and_then(|chain| self.chain_uri(&chain));
                if let Some(down) = self.conn(id).and_then(|c| c.down_mut()) {
                    down.local_uri = uri;
                }
                self.serve(id);
                self.queue_parse(id);
            }
            Role::Up(up) => {
                up.peer = peer;
                self.connected(id);
            }
        }
    }

    /// Judges the connection and hands it to what serves it.
    fn serve(&mut self, id: ConnId) {
        let Some(down) = self.conn_ref(id).and_then(Conn::down) else { return };
        let Some(chain) = down.chain.clone() else { return };
        let listener = down.listener.clone();
        if let Some(judged) = self.judge(id, &chain) {
            self.deny_connection(id, &chain, judged);
            return;
        }
        match &chain.filters.last {
            Terminal::Tcp(proxy) => self.serve_tcp(id, proxy.clone(), &chain),
            Terminal::Http(hcm) => self.serve_http(id, hcm.clone(), listener.direction == Direction::Inbound),
            Terminal::Close => {
                self.drop_conn(id, Gone::Closed, Lost::Closed);
                self.close(id, Closing::Close);
            }
        }
    }

    /// What the network filters' policies say of a connection; none: it may go on.
    pub(crate) fn judge(&self, id: ConnId, chain: &FilterChain) -> Option<Judged> {
        let conn = self.conn_ref(id)?;
        let facts = conn.down()?.policy_facts(&conn.addrs);
        let policies = chain.filters.before.iter().filter_map(|filter| match filter {
            NetworkFilter::Rbac(rbac) => Some(rbac),
            NetworkFilter::MetadataExchange { .. } | NetworkFilter::Stats(_) => None,
        });
        for RbacFilter { rules, .. } in policies.map(Arc::as_ref) {
            let Some(rules) = rules else { continue };
            if let Verdict::Denied(policy) = authorize(rules, &facts, &mut Trace::off()) {
                return Some(Judged {
                    details: denial(policy.as_deref()),
                    policy: explain(policy.as_deref(), || nearest_miss(rules, &facts)),
                });
            }
        }
        None
    }

    fn deny_connection(&mut self, id: ConnId, chain: &FilterChain, judged: Judged) {
        let record = Record {
            wall: self.now.wall,
            begun: self.conn_ref(id).map_or(self.now.mono, |c| c.born),
            details: Some(judged.details.clone()),
            termination: Some(judged.details),
            policy: Some(judged.policy),
            ..Record::default()
        };
        if let Terminal::Tcp(proxy) = &chain.filters.last {
            self.log_connection(id, &proxy.access_log, &record);
        }
        if let Some(conn) = self.conn(id) {
            conn.proto = Proto::Dead;
        }
        self.close(id, Closing::Close);
    }

    /// A connection for which there is no chain, or whose TLS failed: one record.
    pub(crate) fn connection_failed(&mut self, id: ConnId, failure: Option<String>) {
        let Some(down) = self.conn_ref(id).and_then(Conn::down) else { return };
        let logs = down.listener.access_log.clone();
        let mut record = Record {
            wall: self.now.wall,
            begun: self.conn_ref(id).map_or(self.now.mono, |c| c.born),
            downstream_failure: failure,
            ..Record::default()
        };
        if down.chain.is_none() {
            record.flags.set(Flags::NO_ROUTE);
            record.details = Some("filter_chain_not_found".to_owned());
            record.termination.clone_from(&record.details);
        }
        self.log_connection(id, &logs, &record);
    }

    /// Binds the policies of HTTP filters to a connection's facts, so that requests only run what is left.
    pub(crate) fn bind_policies(&mut self, id: ConnId) {
        let Some(conn) = self.conn_ref(id) else { return };
        let Some(down) = conn.down() else { return };
        let Some(hcm) = &down.hcm else { return };
        let facts = down.policy_facts(&conn.addrs);
        let bound = policies(hcm, &[]).map(|rules| (rules.clone(), bind(rules, &facts))).collect();
        if let Some(down) = self.conn(id).and_then(|c| c.down_mut()) {
            down.bound = bound;
        }
    }

    /// Drains one downstream connection: no new requests, and the end after `time`.
    pub(crate) fn drain_conn(&mut self, id: ConnId, time: std::time::Duration) {
        let deadline = self.now.mono + time;
        let Some(conn) = self.conn(id) else { return };
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
        self.mark(id);
        self.arm(id);
        if idle {
            self.end_if_done(id);
        }
    }
}

/// The configuration with the ALPN names cut to the one to be agreed on, or none: rustls refuses a client with whom it shares no name, Envoy goes
/// on without. `istio-peer-exchange` is not agreed on: its exchange is not spoken here yet.
fn offer(config: Arc<rustls::ServerConfig>, chain: &FilterChain, client: &[Vec<u8>]) -> Arc<rustls::ServerConfig> {
    let exchange = chain.filters.before.iter().find_map(|filter| match filter {
        NetworkFilter::MetadataExchange { protocol } => Some(protocol.as_bytes()),
        NetworkFilter::Rbac(_) | NetworkFilter::Stats(_) => None,
    });
    let agreed = config.alpn_protocols.iter().find(|ours| client.contains(ours) && Some(ours.as_slice()) != exchange).cloned();
    let first = config.alpn_protocols.iter().find(|ours| client.contains(ours));
    if client.is_empty() || config.alpn_protocols.is_empty() || (agreed.is_some() && first == agreed.as_ref()) {
        return config;
    }
    let mut cut = (*config).clone();
    cut.alpn_protocols = agreed.into_iter().collect();
    Arc::new(cut)
}
