//! TCP: a client's connection and its partner.

use std::sync::Arc;

use mizzen_http::StreamId as Sid;
use mizzen_ir::{
    config::{FilterChain, TcpProxy},
    source_hash,
};

use super::Worker;
use crate::{
    ConnId, How,
    clusters::{Ask, DNS_WAIT, NoHost, Owner, UpSpec, Wish},
    conn::{Closing, Conn, Proto},
    conns::Conns,
    event::{Dir, Event, Gone, Lost},
    filter::network,
    flags::Flags,
    id::StreamId,
    outlier::Seen,
    questions::Waiter,
    record::Record,
    stream::{At, Attempt, Client, Due, Half, Progress, Stream, Tcp, TcpStep, Traffic},
};

impl Worker {
    /// Begins to relay a connection.
    pub(crate) fn serve_tcp(&mut self, id: ConnId, proxy: Arc<TcpProxy>, chain: &FilterChain) {
        let now = self.cx.now;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(down) = conn.down() else { return };
        let record = Record { wall: now.wall, begun: conn.born, ..Record::default() };
        let due = Due { idle: proxy.idle_timeout, moved: now.mono, max: proxy.max_duration.map(|max| conn.born + max), ..Due::default() };
        let tcp = Tcp { proxy, attempts: 0, stats: network::relayed(chain), step: TcpStep::Picking(None) };
        let stream = Stream {
            config: down.config.as_ref().unwrap_or(&self.cx.config).clone(),
            client: Client::Conn(id, Sid(1)),
            traffic: Traffic::Tcp(Box::new(tcp)),
            up: None,
            req: Half::default(),
            resp: Half::default(),
            due,
            record,
        };
        let stream = self.streams.insert(stream);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.proto = Proto::Tcp(stream);
        }
        self.arm_stream(stream);
        self.tcp_connect(stream);
    }

    /// Picks a cluster and an endpoint, and dials.
    pub(crate) fn tcp_connect(&mut self, id: StreamId) {
        let random = self.cx.rng.next();
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.due.wait = None;
        let Some(tcp) = stream.traffic.tcp_mut() else { return };
        let proxy = tcp.proxy.clone();
        let target = proxy.pick(random);
        let (config, Some(down)) = (stream.config.clone(), stream.client.conn()) else { return };
        let find = |name| config.clusters.get(name).or_else(|| self.cx.config.clusters.get(name)).cloned();
        let cluster = target.and_then(|target| find(&target.cluster));
        let Some(cluster) = cluster else { return self.tcp_refuse(id, Flags::NO_CLUSTER, "cluster_not_found") };
        stream.record.cluster = Some(cluster.clone());
        if let Some(tunnel) = tcp.proxy.tunnel.clone() {
            tcp.attempts += 1;
            stream.record.attempts = tcp.attempts;
            return self.open_tunnel(id, &cluster, &tunnel);
        }
        let Some(conn) = self.conns.get(down) else { return };
        let Some(down) = conn.down() else { return };
        let destination = down.destination;
        let hash = (proxy.hash_source && cluster.lb.hashes()).then(|| source_hash(conn.addrs.peer.ip()));
        let subset = target.and_then(|target| target.subset.as_ref());
        let wish = Wish { client: down.client_address(&conn.addrs), ..Wish::default() };
        let named = down.server_name.as_deref().map(|name| (name, proxy.named_port));
        let ask = Ask { destination, again: None, hash, subset, named };
        let host = match self.clusters.pick(&mut self.cx, &mut self.questions, &config, &cluster, ask) {
            Ok(host) => host,
            Err(NoHost::None) => return self.tcp_refuse(id, Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream"),
            Err(NoHost::Unresolved) => return self.tcp_refuse(id, Flags::DNS_RESOLUTION_FAILED, "dns_resolution_failure"),
            Err(NoHost::Overflow) => return self.tcp_refuse(id, Flags::UPSTREAM_OVERFLOW, "dns_cache_overflow"),
            Err(NoHost::Wait(question)) => {
                let wait = self.questions.ask(&mut self.cx, question, Some(Waiter::Stream(id)));
                stream.due.wait = Some(self.cx.now.mono + DNS_WAIT);
                tcp.step = TcpStep::Picking(Some(wait));
                return self.arm_stream(id);
            }
        };
        tcp.attempts += 1;
        stream.record.attempts = tcp.attempts;
        let spec = match UpSpec::new(&self.cx, &config, &cluster, &host, cluster.http.protocol, wish) {
            Ok(spec) => Arc::new(spec),
            Err(error) => {
                stream.record.upstream_failure = Some(error);
                return self.tcp_refuse(id, Flags::UPSTREAM_CONNECTION_FAILURE, "upstream_secret_missing");
            }
        };
        let guard = self.clusters.connection_guard(&self.cx, &spec);
        if guard.is_none() || self.clusters.dials_full(&self.cx) {
            return self.tcp_refuse(id, Flags::UPSTREAM_OVERFLOW, "upstream_overflow");
        }
        let state = self.clusters.state(&self.cx, &cluster.name);
        let dial = self.clusters.dial(&mut self.cx, spec.clone(), Owner::Stream(id), guard);
        tcp.step = TcpStep::Dialing;
        stream.record.upstream = Some(spec.address().clone());
        stream.record.endpoint.clone_from(&spec.endpoint);
        let active = Some(spec.host.begin());
        stream.up = Some(Attempt { at: At::Dial(dial), active, ..Attempt::uncounted(cluster, spec, state, self.cx.now.mono) });
    }

    /// There is no way on: the connection is closed.
    fn tcp_refuse(&mut self, id: StreamId, flag: Flags, details: &'static str) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.record.flags.set(flag);
            stream.record.details = Some(details.into());
        }
        self.tcp_end(id, Closing::Close);
    }

    /// The partner is there.
    pub(crate) fn tcp_connected(&mut self, id: StreamId, conn_id: ConnId) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(conn_id) else { return };
        conn.proto = Proto::Tcp(id);
        let (addrs, peer, tls) = (conn.addrs, conn.up().and_then(|up| up.peer.clone()), conn.spoken());
        let Some(stream) = self.streams.get_mut(id) else {
            self.close(conn_id, Closing::Reset);
            return;
        };
        if let Some(up) = &mut stream.up {
            up.at = At::Conn(conn_id, Sid(1));
            stream.record.upstream_local_uri = up.spec.tls.as_ref().and_then(|tls| tls.uri.clone());
        }
        stream.record.upstream_local = Some(addrs.local);
        stream.record.upstream_peer = peer;
        stream.record.upstream_tls = tls;
        stream.req.sent = Progress::Head;
        stream.resp.sent = Progress::Head;
        stream.due.moved = now;
        let Some(down) = stream.client.conn() else { return };
        self.tcp_opened(id);
        self.tcp_seen(id, Seen::Served);
        self.conns.hold(&mut self.cx, down, false);
        self.tcp_pump(id, Dir::Up);
        self.conns.queue_parse(&mut self.cx, conn_id);
        self.arm_stream(id);
    }

    /// Bytes or the end arrived on either connection.
    pub(crate) fn tcp_input(&mut self, conn: ConnId, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        let dir = if stream.client.conn() == Some(conn) { Dir::Up } else { Dir::Down };
        self.tcp_pump(id, dir);
    }

    /// Moves bytes in one direction.
    pub(crate) fn tcp_pump(&mut self, id: StreamId, dir: Dir) {
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let (up, Some(down)) = (stream.upstream().map(|(conn, _)| conn), stream.client.conn()) else { return };
        let (source, target) = match dir {
            Dir::Up => (down, up),
            Dir::Down => match up {
                Some(up) => (up, Some(down)),
                None => return,
            },
        };
        let half = if dir == Dir::Up { &mut stream.req } else { &mut stream.resp };
        let Some(src) = self.conns.get_mut(source) else { return };
        let Some(target) = target.filter(|_| half.open()) else {
            // Not connected yet: keep a little, then stop reading.
            if src.input.len() >= self.cx.options.limits.stream_buffer {
                self.conns.hold(&mut self.cx, source, true);
            }
            return;
        };
        if half.done() {
            src.input.clear();
            return;
        }
        let mut data = std::mem::take(&mut src.input);
        let ended = src.eof && src.tls.as_ref().is_none_or(|tls| !tls.holds());
        let was_held = src.held;
        let Some(dst) = self.conns.get_mut(target) else { return };
        let full = dst.backlog() >= dst.high(&self.cx.options.limits) && !data.is_empty();
        if full {
            Conns::block(dst, id);
        } else {
            half.bytes += data.len() as u64;
            if !data.is_empty() {
                stream.due.moved = now;
                data.move_to(&mut dst.tx);
            }
            half.end |= ended;
        }
        let finished = half.end && !half.done() && data.is_empty();
        if finished {
            half.sent = Progress::All;
        }
        let both = stream.req.done() && stream.resp.done();
        if let Some(src) = self.conns.get_mut(source) {
            src.input = data;
        }
        self.conns.mark(target);
        if full && !was_held {
            self.conns.hold(&mut self.cx, source, true);
        } else if !full && was_held {
            self.conns.hold(&mut self.cx, source, false);
        }
        if both {
            self.tcp_end(id, Closing::Close);
        } else if finished {
            self.close(target, Closing::Write);
            self.half_closed(id);
        }
    }

    /// One direction has ended: the other may go on, but not stand still for ever.
    pub(crate) fn half_closed(&mut self, id: StreamId) {
        let most = self.cx.options.limits.half_closed;
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.due.idle = Some(stream.due.idle.map_or(most, |idle| idle.min(most)));
        self.arm_stream(id);
    }

    /// The server's side is gone, or was not reached.
    pub(crate) fn tcp_up_lost(&mut self, id: StreamId, lost: Lost) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(tcp) = stream.traffic.tcp_mut() else { return };
        if tcp.step == TcpStep::Open {
            // What it sent before is still delivered.
            return self.tcp_end(id, Closing::Close);
        }
        self.tcp_seen(id, if lost == Lost::ConnectTimeout { Seen::TooLong } else { Seen::Failed });
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(tcp) = stream.traffic.tcp_mut() else { return };
        stream.up = None;
        let mut why = match lost {
            Lost::Connect(why) => why,
            Lost::ConnectTimeout => "connection timeout".to_owned(),
            _ => "connection closed".to_owned(),
        };
        let down = stream.client.conn().and_then(|conn| self.conns.get(conn)).and_then(Conn::down);
        if down.is_some_and(|down| down.protocols.iter().any(|name| name == b"http/1.0")) {
            // The address of a service, as a rule, which nobody serves: that alone would mislead.
            why.push_str("; the client speaks HTTP/1.0, which no HTTP filter chain of the listener takes");
        }
        stream.record.upstream_failure = Some(why);
        if tcp.attempts < tcp.proxy.max_connect_attempts.max(1) {
            return self.tcp_connect(id);
        }
        stream.record.flags.set(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        self.tcp_refuse(id, Flags::UPSTREAM_CONNECTION_FAILURE, "upstream_connection_failure");
    }

    /// Tells outlier detection whether a host was reached.
    fn tcp_seen(&mut self, id: StreamId, seen: Seen) {
        let Some(up) = self.streams.get(id).and_then(|s| s.up.as_ref()) else { return };
        let (cluster, state, host) = (up.cluster.clone(), up.state.clone(), up.spec.host.clone());
        self.clusters.host_seen(&mut self.cx, &cluster, &state, &host, seen);
    }

    /// The client's side is gone.
    pub(crate) fn tcp_down_lost(&mut self, id: StreamId, _gone: Gone) {
        if let Some(stream) = self.streams.get_mut(id) {
            let open = stream.traffic.tcp_mut().is_some_and(|tcp| tcp.step == TcpStep::Open);
            if !open {
                stream.record.flags.set(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
            }
        }
        self.tcp_end(id, Closing::Close);
    }

    /// Ends a relay: both connections are closed once all is sent, and there is one record.
    pub(crate) fn tcp_end(&mut self, id: StreamId, how: Closing) {
        let Some(stream) = self.streams.get(id) else { return };
        let Some(down) = stream.client.conn() else { return };
        let at = stream.up.as_ref().map(|up| up.at);
        if let Traffic::Tcp(tcp) = &stream.traffic
            && let TcpStep::Tunneling(call) = tcp.step
        {
            self.cx.inbox.push_back(Event::Cancel(call));
        }
        self.finish(id);
        match at {
            Some(At::Conn(conn, _) | At::Handshake(conn)) => {
                if let Some(conn) = self.conns.get_mut(conn) {
                    conn.proto = Proto::Dead;
                }
                self.close(conn, how);
            }
            Some(At::Dial(dial)) => self.clusters.cancel_dial(&mut self.cx, dial),
            Some(At::Queue(_) | At::Nowhere) | None => {}
        }
        if let Some(conn) = self.conns.get_mut(down) {
            conn.proto = Proto::Dead;
            let eof = conn.eof && conn.backlog() == 0;
            if eof && how == Closing::Close && conn.closing == Closing::WriteDone {
                self.remove(down, Some(How::Close));
                return;
            }
        }
        self.close(down, how);
    }
}
