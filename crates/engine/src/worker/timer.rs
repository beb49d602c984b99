//! What is due.

use std::time::Duration;

use super::Worker;
use crate::{
    ConnId, How,
    conn::{Closing, Conn, Proto, Role},
    event::{Event, Gone, Lost, TimerKey},
    flags::Flags,
    id::StreamId,
};

impl Worker {
    /// Drops timer entries that would fire for nothing, once there are too many.
    pub(crate) fn tidy_timers(&mut self) {
        // Each deadline that is earlier than the one before leaves that one's entry behind, maybe for an hour.
        if self.cx.timers.len() > self.most_timers() {
            let (conns, clusters, streams, checks) = (&self.conns, &self.clusters, &self.streams, &self.checks);
            self.cx.timers.retain(|at, key| match key {
                TimerKey::Conn(id) => conns.get(*id).is_some_and(|conn| conn.armed == Some(at)),
                TimerKey::Dial(id) => clusters.is_dialing(*id),
                TimerKey::Sweep(id) => clusters.sweeps(*id),
                TimerKey::Check(id) => checks.as_ref().is_some_and(|checks| checks.is_due(*id, at)),
                TimerKey::Call(id) => streams.get(*id).and_then(|s| s.client.call()).is_some_and(|origin| origin.armed == Some(at)),
            });
        }
    }

    pub(crate) fn run_timers(&mut self) {
        while let Some((at, key)) = self.cx.timers.pop(self.cx.now.mono) {
            match key {
                TimerKey::Conn(id) => {
                    let Some(conn) = self.conns.get_mut(id) else { continue };
                    // Entries that were overtaken by an earlier one fire for nothing.
                    if conn.armed == Some(at) {
                        conn.armed = None;
                        self.conn_due(id);
                    }
                }
                TimerKey::Call(id) => self.call_due(id, at),
                TimerKey::Dial(id) => self.dial_timeout(id),
                TimerKey::Sweep(id) => self.clusters.sweep(&mut self.cx, id),
                TimerKey::Check(id) => self.check_due(id, at),
            }
        }
    }

    /// Makes sure that a connection's timer fires at its own deadlines. Those of its streams see to themselves ([`Worker::arm_stream`]): there may be
    /// hundreds, and this is called for each request.
    pub(crate) fn arm(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let own = [conn.deadline, conn.http().and_then(|http| http.ping), idle_due(conn), lifetime(conn)];
        self.arm_by(id, own.into_iter().flatten().min());
    }

    /// The same, for the deadlines of all its streams too.
    pub(crate) fn arm_all(&mut self, id: ConnId) {
        self.arm(id);
        let Some(conn) = self.conns.get(id).filter(|conn| conn.down().is_some()) else { return };
        let first = streams(conn).filter_map(|stream| self.streams.get(stream)?.due.next()).min();
        self.arm_by(id, first);
    }

    /// Makes sure that a connection's timer fires no later than this.
    fn arm_by(&mut self, id: ConnId, at: Option<Duration>) {
        let Some((conn, at)) = self.conns.get_mut(id).zip(at) else { return };
        if conn.armed.is_none_or(|armed| at < armed) {
            conn.armed = Some(at);
            self.cx.timers.arm(at, TimerKey::Conn(id));
        }
    }

    fn conn_due(&mut self, id: ConnId) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get(id) else { return };
        let own: Vec<StreamId> = if conn.down().is_some() { streams(conn).collect() } else { Vec::new() };
        for stream in own {
            self.stream_due(stream);
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.deadline.is_some_and(|at| at <= now) {
            conn.deadline = None;
            self.phase_due(id);
        } else if conn.http().and_then(|http| http.ping).is_some_and(|at| at <= now) {
            self.ping(id);
        } else if lifetime(conn).is_some_and(|at| at <= now) {
            if conn.down().is_some() {
                self.drain_conn(id, Duration::from_secs(5));
            } else if let Some(up) = conn.up_mut() {
                up.draining = true;
                self.end_if_done(id);
            }
        } else if idle_due(conn).is_some_and(|at| at <= now) {
            self.idle_close(id);
        }
        self.arm_all(id);
    }

    /// Asks an HTTP/2 peer for a sign of life; one that did not answer the last time is gone.
    fn ping(&mut self, id: ConnId) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let options = match &conn.role {
            Role::Down(down) => down.hcm.as_ref().map(|hcm| hcm.h2),
            Role::Up(up) => Some(up.spec.http.h2),
        };
        let Some(options) = options else { return };
        let Proto::Http(http) = &mut conn.proto else { return };
        if http.pinged {
            self.drop_conn(id, Gone::Closed, Lost::Closed);
            self.close(id, Closing::Reset);
            return;
        }
        http.pinged = http.codec.ping(*b"mizzen..", &mut conn.tx);
        http.ping = Some(now + options.ping_timeout);
        self.conns.mark(id);
    }

    /// A phase took too long.
    fn phase_due(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        match &conn.proto {
            Proto::Sniff => self.peek_timeout(id),
            Proto::Handshake => self.handshake_timeout(id),
            _ if conn.closing >= Closing::Close => self.remove(id, Some(How::Reset)),
            // The drain is over, or the request's head never ends.
            Proto::Choose | Proto::Http(_) | Proto::Tcp(_) | Proto::Check(_) | Proto::Gate(_) => {
                self.drop_conn(id, Gone::Closed, Lost::Closed);
                self.close(id, Closing::Close);
            }
            Proto::Dead => self.close(id, Closing::Close),
        }
    }

    fn idle_close(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let is_down = conn.down().is_some();
        if let Some((codec, tx)) = conn.codec() {
            codec.drain(tx);
        }
        if !is_down {
            self.drop_conn(id, Gone::Closed, Lost::Closed);
        }
        self.close(id, Closing::Close);
    }

    pub(crate) fn stream_due(&mut self, id: StreamId) {
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let due = &mut stream.due;
        let hit = |at: &mut Option<Duration>| at.take_if(|at| *at <= now).is_some();
        let is_tcp = stream.traffic.is_tcp();
        if hit(&mut due.report) {
            self.tcp_report(id);
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        let due = &mut stream.due;
        if hit(&mut due.wait) {
            if is_tcp {
                let named = stream.record.finds_names();
                stream.record.flags.set(if named { Flags::DNS_RESOLUTION_FAILED } else { Flags::NO_HEALTHY_UPSTREAM });
                self.tcp_end(id, Closing::Close);
            } else {
                self.wait_timeout(id);
            }
        } else if hit(&mut due.filter) {
            self.filter_due(id);
        } else if hit(&mut due.backoff) {
            self.attempt(id);
        } else if hit(&mut due.timeout) {
            self.route_timeout(id);
        } else if hit(&mut due.per_try) {
            self.per_try_timeout(id);
        } else if hit(&mut due.request) {
            if !stream.req.end {
                self.reply(id, 408, "request timeout", Flags::default(), "request_overall_timeout");
            }
        } else if due.try_idle.is_some_and(|idle| due.moved + idle <= now) {
            due.try_idle = None;
            self.per_try_timeout(id);
        } else if hit(&mut due.max) {
            if is_tcp {
                stream.record.flags.set(Flags::DURATION_TIMEOUT);
                stream.record.details = Some("max_duration".into());
                self.tcp_end(id, Closing::Close);
            } else {
                self.max_duration(id);
            }
        } else if due.idle.is_some_and(|idle| due.moved + idle <= now) {
            if is_tcp {
                stream.record.flags.set(Flags::STREAM_IDLE_TIMEOUT);
                self.tcp_end(id, Closing::Close);
            } else {
                self.stream_idle(id);
            }
        }
    }

    /// Wakes a stream's deadlines up: they are kept by its client's connection.
    pub(crate) fn arm_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        match stream.client.conn() {
            Some(conn) => {
                let at = stream.due.next();
                self.arm_by(conn, at);
            }
            None => self.arm_call(id),
        }
    }

    /// Says that something moved, where that is asked for.
    pub(crate) fn poke(&mut self, id: ConnId) {
        self.cx.inbox.push_back(Event::Idle(id));
    }
}

/// The streams of a client's connection, or of a server's.
pub(super) fn streams(conn: &Conn) -> impl Iterator<Item = StreamId> + '_ {
    let one = match &conn.proto {
        Proto::Tcp(stream) => Some(*stream),
        _ => None,
    };
    one.into_iter().chain(conn.http().into_iter().flat_map(|http| http.streams.iter().map(|(_, id)| *id)))
}

/// When a connection without a stream has been idle for too long.
fn idle_due(conn: &Conn) -> Option<Duration> {
    let http = conn.http().filter(|http| http.streams.is_empty())?;
    let idle = match &conn.role {
        Role::Down(down) => down.hcm.as_ref()?.idle_timeout,
        Role::Up(up) => up.spec.http.idle_timeout,
    };
    let _ = http;
    idle.map(|idle| conn.last + idle)
}

/// When a connection has lived long enough.
fn lifetime(conn: &Conn) -> Option<Duration> {
    let http = conn.http().filter(|http| !http.draining)?;
    let _ = http;
    let life = match &conn.role {
        Role::Down(down) => down.hcm.as_ref()?.max_connection_duration,
        Role::Up(up) if !up.draining => up.spec.http.max_connection_duration,
        Role::Up(_) => None,
    };
    life.map(|life| conn.born + life)
}
