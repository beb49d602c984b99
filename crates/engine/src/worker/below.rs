//! Connections without a socket: to internal listeners, and through HTTP proxies.

use mizzen_http::Head;
use mizzen_ir::{
    apply_headers,
    config::{HeaderSource, Tunnel},
};

use super::{Worker, calls::NOWHERE};
use crate::{
    Accepted, Addrs, Call, CallAnswer, DialError, DialId, Eof, Target,
    call::Caller,
    clusters::{Dialing, Owner},
    conn::Below,
    event::{Dir, Event},
    id::StreamId,
    stream::{Attempt, Progress, Step, TcpStep},
};

impl Worker {
    /// Connects to a listener of this worker's own.
    pub(crate) fn dial_inside(&mut self, id: DialId) {
        let Some(Target::Internal(name, _)) = self.clusters.dial_target(id).cloned() else { return };
        if !self.cx.config.listeners.get(&name).is_some_and(|listener| listener.internal) {
            self.dial_ended(id, Err(DialError(format!("there is no internal listener `{name}`"))));
            return;
        }
        // Each end must know the other: the one that is accepted learns of it last, before anything is carried.
        let accepted = Accepted { peer: NOWHERE, local: NOWHERE, original: None };
        let below = self.accept_from(&name, accepted, Below::Pipe(crate::ConnId::from_u64(0)));
        if self.conns.get(below).is_none() {
            self.dial_ended(id, Err(DialError("the internal listener takes no connection".to_owned())));
            return;
        }
        let Some(dialing) = self.clusters.dial_over(id) else { return };
        let above = self.established(dialing, Addrs { local: NOWHERE, peer: NOWHERE }, Below::Pipe(below));
        if let Some(conn) = self.conns.get_mut(below) {
            conn.below = Below::Pipe(above);
        }
    }

    /// Carries a connection's bytes on to what lies below it, as far as there is room.
    pub(crate) fn carry(&mut self, id: crate::ConnId) {
        let high = self.cx.options.limits.stream_buffer;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let below = conn.below;
        let mut wire = std::mem::take(&mut conn.out);
        let taken = match below {
            Below::Socket => 0,
            Below::Pipe(other) => match self.conns.get(other).map(|other| other.reading) {
                Some(true) => self.bytes(other, wire.as_mut_slice()),
                Some(false) => 0,
                None => {
                    self.cx.inbox.push_back(Event::Ended(id, Eof::Reset));
                    0
                }
            },
            Below::Stream(call) => match self.streams.get_mut(call) {
                Some(stream) => {
                    let room = high.saturating_sub(stream.req.buf.len()).min(wire.len());
                    let part = wire.as_slice().get(..room).unwrap_or_default();
                    stream.req.buf.extend(part);
                    stream.req.bytes += room as u64;
                    if room > 0 {
                        self.cx.inbox.push_back(Event::Pump(call, Dir::Up));
                    }
                    room
                }
                None => {
                    self.cx.inbox.push_back(Event::Ended(id, Eof::Reset));
                    0
                }
            },
        };
        if let Some(conn) = self.conns.get_mut(id) {
            conn.out = wire;
        }
        self.wrote(id, taken);
    }

    /// Asks an HTTP proxy for a way to a TCP stream's partner.
    pub(crate) fn open_tunnel(&mut self, id: StreamId, cluster: &mizzen_ir::config::Cluster, tunnel: &Tunnel) {
        let mut authority = Vec::new();
        tunnel.authority.render(&self.view(id), b"-", &mut authority);
        let mut head = Head::request("CONNECT", "", &String::from_utf8_lossy(&authority), "");
        apply_headers(&tunnel.headers, &mut head, HeaderSource::Request, &self.view(id));
        let call = Call { cluster: cluster.name.clone(), head, body: Vec::new(), timeout: Some(cluster.connect_timeout), most: 0 };
        let call = self.open_call(call, Caller::Tunnel(id));
        if let Some(tcp) = self.streams.get_mut(id).and_then(|s| s.traffic.tcp_mut()) {
            tcp.step = TcpStep::Tunneling(call);
        }
    }

    /// The HTTP proxy has answered: if it agrees, a connection lies above the call from now on.
    pub(crate) fn tunnel_answered(&mut self, id: StreamId, head: &Head) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(Caller::Tunnel(waiter)) = stream.client.call().map(|origin| origin.caller) else { return };
        if !(200..300).contains(&head.status()) {
            return self.call_over(id, CallAnswer::Failed(format!("the proxy answered {}", head.status())));
        }
        stream.due = crate::stream::Due { moved: self.cx.now.mono, ..Default::default() };
        stream.resp.sent = Progress::Head;
        if let Some(request) = stream.traffic.request_mut() {
            request.step = Step::Tunnel;
        }
        let Some(up) = &stream.up else { return };
        let mut spec = (*up.spec).clone();
        // What is within the tunnel is as the client sent it.
        spec.key.tls = None;
        let (cluster, state, record) = (up.cluster.clone(), up.state.clone(), stream.record.clone());
        let peer = match &up.spec.target {
            Target::Tcp(address) => *address,
            Target::Pipe(_) | Target::Internal(..) => NOWHERE,
        };
        let addrs = Addrs { local: record.upstream_local.unwrap_or(NOWHERE), peer };
        let spec = std::sync::Arc::new(spec);
        let now = self.cx.now.mono;
        let Some(waiting) = self.streams.get_mut(waiter) else { return self.give_up(id) };
        waiting.record.upstream = record.upstream;
        waiting.record.endpoint = record.endpoint;
        waiting.up = Some(Attempt::uncounted(cluster, spec.clone(), state, now));
        let dialing = Dialing { deadline: now + spec.connect_timeout, spec, owner: Owner::Stream(waiter), guard: None };
        let conn = self.established(dialing, addrs, Below::Stream(id));
        if let Some(origin) = self.streams.get_mut(id).and_then(|s| s.client.call_mut()) {
            origin.caller = Caller::Conn(conn);
        }
    }

    /// Some of what comes through a tunnel is there: up to the connection that lies above it.
    pub(crate) fn tunnel_progress(&mut self, id: StreamId) {
        let low = self.cx.options.limits.stream_buffer / 2;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(Caller::Conn(conn)) = stream.client.call().map(|origin| origin.caller) else { return };
        if !self.conns.get(conn).is_some_and(|conn| conn.reading) {
            return;
        }
        let mut data = std::mem::take(&mut stream.resp.buf);
        let source = stream.upstream();
        let taken = self.bytes(conn, data.as_mut_slice());
        data.consume(taken);
        let Some(stream) = self.streams.get_mut(id) else { return };
        let over = data.is_empty() && stream.resp.end && !stream.resp.done();
        let release = data.len() < low;
        stream.resp.buf = data;
        if over {
            stream.resp.sent = Progress::All;
            self.cx.inbox.push_back(Event::Ended(conn, Eof::Half));
        }
        if over {
            self.check_done(id);
        }
        let Some((source, sid)) = source else { return };
        let Some(src) = self.conns.get_mut(source) else { return };
        let release = release && src.held && !src.is_h2();
        if let Some((codec, tx)) = src.codec() {
            codec.consumed(sid, taken, tx);
        }
        self.conns.mark(source);
        if release {
            self.conns.hold(&mut self.cx, source, false);
        }
    }

    /// The connection above a tunnel sends no more.
    pub(crate) fn end_tunnel(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.req.end = true;
            self.cx.inbox.push_back(Event::Pump(id, Dir::Up));
        }
    }

    /// Who made a call wants nothing more of it. What a tunnel was to carry is still sent.
    pub(crate) fn give_up(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let rest = stream.client.is_tunnel() && stream.req.open() && !stream.req.done();
        match stream.client.call_mut() {
            Some(origin) if rest => {
                origin.caller = Caller::Gone;
                self.end_tunnel(id);
            }
            _ => self.finish_http(id, false),
        }
    }

    /// Some of what a tunnel carries was sent: there is room for more, or that was all.
    pub(crate) fn tunnel_sent(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        match stream.client.call().map(|origin| origin.caller) {
            Some(Caller::Conn(conn)) if self.conns.get(conn).is_some_and(|conn| !conn.out.is_empty()) => {
                self.cx.inbox.push_back(Event::Carry(conn));
            }
            Some(Caller::Gone) if stream.req.done() => self.finish_http(id, false),
            _ => {}
        }
    }
}
