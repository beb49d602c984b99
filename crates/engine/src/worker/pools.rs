//! Pools of HTTP connections to endpoints.

use std::sync::atomic::Ordering::Relaxed;

use mizzen_http::{Codec, Limits};
use mizzen_ir::config::{HttpProtocol, UpstreamHttp};

use super::Worker;
use crate::{
    ConnId,
    clusters::{Owner, UpSpec},
    conn::{Closing, Http, Proto},
    event::{Event, Lost},
    filter,
    flags::Flags,
    id::{PoolId, StreamId},
    lb::Guard,
    outlier::Seen,
    stream::At,
};

impl Worker {
    /// Puts a stream on a connection, or in the queue for one.
    pub(crate) fn checkout(&mut self, id: StreamId, pool_id: PoolId) {
        let free = self.free_conn(pool_id);
        if let Some((conn, takes)) = free.and_then(|conn| Some((conn, self.takes(id, conn)?))) {
            self.put_on_if(takes, id, conn);
            return;
        }
        let Some(pool) = self.clusters.pool_mut(pool_id) else { return };
        pool.queue.push_back(id);
        if let Some(up) = self.streams.get_mut(id).and_then(|s| s.up.as_mut()) {
            up.at = At::Queue(pool_id);
        }
        if free.is_some() {
            return self.await_settings(id);
        }
        self.dial_for(pool_id);
    }

    /// Whether a connection takes a request: not an upgrade, if it speaks HTTP/2 without extended CONNECT. `None`: its SETTINGS have to come first.
    fn takes(&self, id: StreamId, conn: ConnId) -> Option<bool> {
        match self.streams.get(id).and_then(|stream| stream.traffic.request()) {
            Some(request) if request.is_upgrade => self.conns.get(conn)?.http()?.codec.takes_upgrade(),
            _ => Some(true),
        }
    }

    fn put_on_if(&mut self, takes: bool, id: StreamId, conn: ConnId) {
        if takes {
            return self.put_on(id, conn);
        }
        let body = "upgrade failed: the upstream speaks HTTP/2 without extended CONNECT";
        self.reply(id, 502, body, Flags::UPSTREAM_PROTOCOL_ERROR, "upgrade_failed:upstream_without_extended_connect");
    }

    /// An upgrade waits for what the server says of itself, no longer than a connection may take.
    fn await_settings(&mut self, id: StreamId) {
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(up) = &stream.up else { return };
        stream.due.wait.get_or_insert(now + up.spec.connect_timeout);
        self.arm_stream(id);
    }

    /// A connection of the pool that takes one more stream.
    fn free_conn(&mut self, pool: PoolId) -> Option<ConnId> {
        let pool = self.clusters.pool(pool)?;
        pool.conns.iter().rev().copied().find(|id| {
            self.conns.get(*id).is_some_and(|conn| {
                let most = conn.up().map_or(0, |up| up.spec.http.max_requests_per_connection);
                conn.closing == Closing::No
                    && !conn.eof
                    && conn.up().is_some_and(|up| !up.draining)
                    && conn.http().is_some_and(|http| http.codec.can_open() && (most == 0 || http.requests < most.into()))
            })
        })
    }

    /// Dials as many connections as the queue needs and the breaker allows.
    fn dial_for(&mut self, id: PoolId) {
        loop {
            let Some(pool) = self.clusters.pool(id) else { return };
            if pool.coming() >= pool.wanted() {
                return;
            }
            let (spec, any) = (pool.spec.clone(), pool.coming() + pool.conns.len() > 0);
            // A check is no traffic, and a host is not ill because others use up what they may.
            let mut guard = if spec.check.is_some() { None } else { self.clusters.connection_guard(&self.cx, &spec) };
            if guard.is_none() && !any && spec.client.is_some() {
                guard = self.place_of_idle(&spec);
            }
            let full = guard.is_none() && spec.check.is_none();
            if full || self.clusters.dials_full(&self.cx) {
                // With a connection there or coming the queue moves on; else nobody would ever serve it.
                if !any {
                    self.fail_queue(id, &Lost::Overflow);
                }
                return;
            }
            let dial = self.clusters.dial(&mut self.cx, spec, Owner::Pool(id), guard);
            if let Some(pool) = self.clusters.pool_mut(id) {
                pool.dials.push(dial);
            }
        }
    }

    /// The place of a connection that another client has left idle. Each has connections of its own, and those of some would keep the others out for as long
    /// as they are kept.
    fn place_of_idle(&mut self, spec: &UpSpec) -> Option<Guard> {
        let pools = self.clusters.pools_of(&spec.cluster).iter().filter_map(|id| self.clusters.pool(*id));
        let others = pools.filter(|pool| pool.spec.client.is_some() && pool.spec.client != spec.client);
        let is_idle = |id: &ConnId| {
            self.conns.get(*id).is_some_and(|conn| conn.closing == Closing::No && conn.http().is_some_and(|http| http.streams.is_empty()))
        };
        let id = others.flat_map(|pool| pool.conns.iter().copied()).find(is_idle)?;
        let up = self.conns.get_mut(id)?.up_mut()?;
        up.draining = true;
        let guard = up.guard.take();
        self.end_if_done(id);
        guard
    }

    /// Gives up the dials and handshakes that nobody waits for any more, the youngest first.
    pub(crate) fn trim_dials(&mut self, id: PoolId) {
        while let Some(pool) = self.clusters.pool_mut(id).filter(|pool| pool.coming() > pool.wanted()) {
            if let Some(dial) = pool.dials.pop() {
                self.clusters.cancel_dial(&mut self.cx, dial);
            } else if let Some(conn) = pool.shaking.pop() {
                if let Some(conn) = self.conns.get_mut(conn) {
                    conn.proto = Proto::Dead;
                }
                self.close(conn, Closing::Reset);
            }
        }
        self.clusters.tidy_pool(id);
    }

    fn fail_queue(&mut self, id: PoolId, lost: &Lost) {
        let Some(pool) = self.clusters.pool_mut(id) else { return };
        let queue = std::mem::take(&mut pool.queue);
        self.cx.inbox.extend(queue.into_iter().map(|stream| Event::UpLost(stream, lost.clone())));
    }

    pub(crate) fn pool_dial_failed(&mut self, id: PoolId, lost: Lost) {
        // Those who waited for it are told; those with a better hope are not: as many as there were dials too few.
        self.fail_queue(id, &lost);
        self.clusters.tidy_pool(id);
    }

    /// A connection is ready: HTTP begins.
    pub(crate) fn pool_connected(&mut self, pool_id: PoolId, id: ConnId) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(up) = conn.up() else { return };
        let alpn = conn.tls.as_ref().and_then(|tls| tls.alpn());
        let h2 = match up.spec.protocol {
            HttpProtocol::Http2 => true,
            HttpProtocol::Http1 | HttpProtocol::Downstream => false,
            HttpProtocol::Alpn => alpn.is_some_and(filter::is_http2),
        };
        let limits = client_limits(&up.spec.http);
        let ping = up.spec.http.h2.ping_interval;
        let codec = if h2 { Codec::h2_client(limits, &mut conn.tx) } else { Codec::h1_client(limits) };
        conn.proto = Proto::Http(Http::new(codec, now, ping));
        conn.last = now;
        self.conns.mark(id);
        self.conns.queue_parse(&mut self.cx, id);
        match self.clusters.pool_mut(pool_id) {
            Some(pool) => {
                pool.shaking.retain(|c| *c != id);
                pool.h2 = h2;
                pool.conns.push(id);
                self.idle(id);
            }
            None => self.close(id, Closing::Close),
        }
        self.arm(id);
    }

    /// A connection may take streams: from its pool's queue.
    pub(crate) fn idle(&mut self, id: ConnId) {
        let Some(Owner::Pool(pool_id)) = self.conns.get(id).and_then(|c| c.up()).map(|up| up.owner) else { return };
        loop {
            let Some(pool) = self.clusters.pool_mut(pool_id) else { return };
            let Some(stream) = pool.queue.front().copied() else { break };
            let alive = self.streams.get(stream).and_then(|s| s.up.as_ref()).is_some_and(|up| up.at == At::Queue(pool_id));
            let free = if alive { self.free_conn(pool_id) } else { None };
            if alive && free.is_none() {
                break;
            }
            let takes = free.and_then(|conn| Some((conn, self.takes(stream, conn)?)));
            if alive && takes.is_none() {
                // Those behind it wait with it: the SETTINGS are the first that comes.
                self.await_settings(stream);
                return self.end_if_done(id);
            }
            if let Some(pool) = self.clusters.pool_mut(pool_id) {
                pool.queue.pop_front();
            }
            if let Some((conn, takes)) = takes {
                self.put_on_if(takes, stream, conn);
            }
        }
        self.dial_for(pool_id);
        self.end_if_done(id);
    }

    /// Opens a stream on a connection and sends the request.
    fn put_on(&mut self, id: StreamId, conn_id: ConnId) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(conn_id) else { return };
        let (addrs, peer, tls) = (conn.addrs, conn.up().and_then(|up| up.peer.clone()), conn.spoken());
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(up) = &mut stream.up else { return };
        let most = up.spec.http.max_requests_per_connection;
        let position = conn.position();
        let Proto::Http(http) = &mut conn.proto else { return };
        let Some(sid) = http.codec.open() else {
            self.cx.inbox.push_back(Event::UpLost(id, Lost::Closed));
            return;
        };
        http.streams.push((sid, id));
        http.requests += 1;
        let h2 = http.codec.is_h2();
        let reused = http.requests > 1;
        conn.last = now;
        if most > 0
            && http.requests >= most.into()
            && let Some(up) = conn.up_mut()
        {
            up.draining = true;
        }
        stream.due.wait = None;
        up.at = At::Conn(conn_id, sid);
        up.position = position;
        up.reused = reused;
        up.pending = None;
        stream.record.upstream_local = Some(addrs.local);
        stream.record.upstream_peer = peer;
        stream.record.upstream_tls = tls;
        stream.record.upstream_h2 = Some(h2);
        stream.record.upstream_local_uri = up.spec.tls.as_ref().and_then(|tls| tls.uri.clone());
        self.host_seen(id, Seen::Connected);
        self.send_request(id);
    }

    /// A pool's connection is gone.
    pub(crate) fn pool_lost(&mut self, pool_id: PoolId, id: ConnId, handshake: Option<Lost>) {
        let Some(pool) = self.clusters.pool_mut(pool_id) else { return };
        match handshake {
            None => {
                pool.conns.retain(|c| *c != id);
                self.dial_for(pool_id);
            }
            Some(lost) => {
                pool.shaking.retain(|c| *c != id);
                pool.spec.host.connect_failures.fetch_add(1, Relaxed);
                self.fail_queue(pool_id, &lost);
            }
        }
        self.clusters.tidy_pool(pool_id);
    }

    /// Takes the pools of a cluster out of use that are not as the configuration wants them; how many were looked at.
    pub(crate) fn retire_stale(&mut self, cluster: &str) -> usize {
        let (stale, looked) = self.clusters.stale_pools(&self.cx.config, cluster);
        for id in stale {
            self.retire_pool(id);
        }
        self.looked += looked as u64;
        looked
    }

    /// Takes all pools out of use.
    pub(crate) fn retire_all(&mut self) {
        for id in self.clusters.pool_ids() {
            self.retire_pool(id);
        }
    }

    /// Takes a pool out of use: idle connections close now, busy ones after their last stream; queued requests are dialled for still.
    pub(crate) fn retire_pool(&mut self, id: PoolId) {
        let Some(conns) = self.clusters.pool(id).map(|pool| pool.conns.clone()) else { return };
        self.clusters.close_pool(id);
        for conn in conns {
            if let Some(up) = self.conns.get_mut(conn).and_then(|c| c.up_mut()) {
                up.draining = true;
            }
            self.end_if_done(conn);
        }
        self.clusters.tidy_pool(id);
    }
}

/// The codec's limits towards servers.
fn client_limits(http: &UpstreamHttp) -> Limits {
    let mut limits = Limits {
        header_bytes: http.max_headers_kb as usize * 1024,
        header_count: http.max_headers as usize,
        open_streams: http.h2.max_streams,
        stream_window: http.h2.stream_window.clamp(65_535, 1 << 20),
        connection_window: http.h2.connection_window.clamp(65_535, 4 << 20),
        // Clients that read slowly share the connection with others, who must not wait for them.
        unconsumed_bodies: u32::MAX,
        ..Limits::default()
    };
    if http.max_headers_kb == 0 {
        limits.header_bytes = Limits::default().header_bytes;
    }
    if http.max_headers == 0 {
        limits.header_count = Limits::default().header_count;
    }
    limits
}
