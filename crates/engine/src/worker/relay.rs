//! Bytes of HTTP: from a connection's codec to the partner's, with backpressure.

use mizzen_http::{Event as Http2, Reason, StreamId as Sid};

use super::Worker;
use crate::{
    ConnId, Eof,
    call::Caller,
    conn::{Closing, Conn, Role},
    conns::Conns,
    event::{Dir, Event, Gone, Lost},
    filter,
    id::StreamId,
    stream::{At, Progress, Step, Traffic},
};

impl Worker {
    /// Runs the codec over what has arrived.
    pub(crate) fn parse_http(&mut self, id: ConnId) {
        let Some(mut conn) = self.conns.take(id) else { return };
        let mut input = std::mem::take(&mut conn.input);
        let mut failed = None;
        let now = self.cx.now.mono;
        if let Some(http) = conn.http_mut().filter(|http| now.saturating_sub(http.refilled).as_secs() >= 1) {
            http.refilled = now;
            http.codec.refill();
        }
        loop {
            if conn.held || conn.backlog() > self.cx.most_out() {
                // The driver is told when the connection is back in its place.
                conn.held = true;
                break;
            }
            let Some((codec, tx)) = conn.codec() else { break };
            match codec.next(input.as_slice(), tx) {
                Ok((n, None)) => {
                    input.consume(n);
                    break;
                }
                Ok((n, Some(event))) => {
                    self.event(&mut conn, event);
                    input.consume(n);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let ended = conn.eof && conn.tls.as_ref().is_none_or(|tls| !tls.holds());
        let mut cut = false;
        if ended && failed.is_none() && !conn.held && !conn.eof_told {
            conn.eof_told = true;
            cut = !self.end_of_input(&mut conn);
        }
        // A request's head has begun and does not end.
        let open = conn.down().filter(|d| !d.draining && conn.closing == Closing::No).and_then(|d| d.hcm.as_ref());
        let headers = open.map(|hcm| hcm.request_headers_timeout.unwrap_or(self.cx.options.limits.request_head));
        let partial = !input.is_empty() && !conn.held && conn.http().is_some_and(|http| http.streams.is_empty());
        if let Some(timeout) = headers {
            conn.deadline = partial.then(|| conn.deadline.unwrap_or(now + timeout));
        }
        conn.input = input;
        let dirty = !conn.tx.is_empty() || !conn.out.is_empty();
        self.conns.put_back(conn);
        if dirty {
            self.conns.mark(id);
        }
        if let Some(error) = failed {
            self.http_failed(id, error);
        } else if cut {
            self.drop_conn(id, Gone::Closed, Lost::Closed);
            self.close(id, Closing::Close);
        } else {
            if headers.is_some() && partial {
                self.arm(id);
            }
            self.end_if_done(id);
        }
    }

    /// The peer sends no more: `false` if that cut something off.
    fn end_of_input(&mut self, conn: &mut Conn) -> bool {
        loop {
            let Some(http) = conn.http_mut() else { return true };
            match http.codec.eof() {
                Ok(Some(event)) => self.event(conn, event),
                Ok(None) if conn.down().is_none() || self.all_tunnels(conn) => return true,
                Ok(None) | Err(_) => {
                    // Not the peer's fault as a rule: a client that went away. One that only shut its side down is held for gone too, as
                    // Envoy does: otherwise nobody would stop what is done for a client that is no more.
                    let (gone, lost) = (Gone::Closed, Lost::Closed);
                    let down = conn.down().is_some();
                    let streams: Vec<StreamId> = conn.http_mut().map(|h| h.streams.drain(..).map(|(_, s)| s).collect()).unwrap_or_default();
                    for stream in streams {
                        let position = self.streams.get(stream).and_then(|s| s.up.as_ref()).map(|up| up.position);
                        let unsent = position.is_some_and(|position| conn.unsent(position));
                        let lost = if unsent { Lost::Unsent } else { lost.clone() };
                        self.cx.inbox.push_back(if down { Event::DownLost(stream, gone) } else { Event::UpLost(stream, lost) });
                    }
                    return false;
                }
            }
        }
    }

    /// Whether no request on a connection waits for its answer.
    fn all_tunnels(&self, conn: &Conn) -> bool {
        let streams = conn.http().into_iter().flat_map(|http| http.streams.iter());
        let tunnel = |id: StreamId| self.streams.get(id).and_then(|s| s.traffic.request()).is_some_and(|r| r.step == Step::Tunnel);
        streams.into_iter().all(|(_, id)| tunnel(*id))
    }

    /// One event of the codec, with its connection in hand.
    fn event(&mut self, conn: &mut Conn, event: Http2<'_>) {
        let is_down = conn.down().is_some();
        let find = |conn: &Conn, sid: Sid| conn.http().and_then(|http| http.find(sid));
        match event {
            Http2::Head { stream, head, end } if is_down => self.new_request(conn, stream, head, end),
            Http2::Head { stream, head, end } => {
                let Some(id) = find(conn, stream) else { return };
                if let Some(s) = self.streams.get_mut(id) {
                    s.due.moved = self.cx.now.mono;
                    // Only the final head may end the message.
                    s.resp.end |= end;
                    if let Some(request) = s.traffic.request_mut() {
                        request.heads.push(head);
                        self.cx.inbox.push_back(Event::Response(id));
                    }
                }
            }
            Http2::Data { stream, data, end } => match find(conn, stream) {
                Some(id) => self.data(conn, id, stream, data, end),
                None => {
                    if let Some((codec, tx)) = conn.codec() {
                        codec.consumed(stream, data.len(), tx);
                    }
                }
            },
            Http2::Trailers { stream, mut head } => {
                let Some(id) = find(conn, stream) else { return };
                if is_down {
                    head.retain(|name, _| !crate::headers::is_late(name));
                }
                let dir = if is_down { Dir::Up } else { Dir::Down };
                if let Some(s) = self.streams.get_mut(id) {
                    s.due.moved = self.cx.now.mono;
                    let half = if is_down { &mut s.req } else { &mut s.resp };
                    half.end = true;
                    if !is_down {
                        s.record.grpc_status = head.get_str("grpc-status").and_then(|v| v.parse().ok()).or(s.record.grpc_status);
                    }
                    let half = if is_down { &mut s.req } else { &mut s.resp };
                    half.trailers = Some(head);
                    self.cx.inbox.push_back(Event::Pump(id, dir));
                }
            }
            Http2::Reset { stream, code, why } => {
                let Some(id) = find(conn, stream) else { return };
                if let Some(http) = conn.http_mut() {
                    http.forget(stream);
                }
                let refused = code == Reason::REFUSED_STREAM;
                self.cx.inbox.push_back(match conn.up() {
                    None if !why.is_empty() => Event::DownLost(id, Gone::Protocol(why)),
                    Some(_) if !why.is_empty() => Event::UpLost(id, Lost::Protocol(why)),
                    None => Event::DownLost(id, Gone::Reset),
                    Some(up) if refused && up.served => Event::UpLost(id, Lost::Crossed),
                    Some(_) => Event::UpLost(id, Lost::Reset(refused)),
                });
            }
            Http2::Window { stream } => {
                if let Some(id) = find(conn, stream) {
                    self.cx.inbox.push_back(Event::Pump(id, if is_down { Dir::Down } else { Dir::Up }));
                }
            }
            Http2::Goaway { last, .. } => {
                if let Role::Up(up) = &mut conn.role {
                    up.draining = true;
                    up.served = last.0 > 0;
                }
            }
            Http2::Settings => self.poke(conn.id),
            Http2::Pong(_) => {
                let now = self.cx.now.mono;
                if let Some(http) = conn.http_mut() {
                    http.pinged = false;
                    http.ping = http.ping_interval.map(|interval| now + interval);
                }
            }
        }
    }

    /// Some of a body: straight into the partner's buffer if it has room, else kept.
    fn data(&mut self, conn: &mut Conn, id: StreamId, sid: Sid, data: &[u8], end: bool) {
        let high = self.cx.options.limits.stream_buffer;
        let is_down = conn.down().is_some();
        let dir = if is_down { Dir::Up } else { Dir::Down };
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.due.moved = self.cx.now.mono;
        let target = if is_down { stream.upstream() } else { stream.client.place() };
        let half = if is_down { &mut stream.req } else { &mut stream.resp };
        half.bytes += data.len() as u64;
        half.end |= end;
        let mut taken = 0;
        let wants = half.wants();
        if let Some(request) = stream.traffic.request_mut() {
            filter::data(request.is_grpc, &mut request.facts, !is_down, data);
        }
        if stream.client.is_call() && !stream.client.is_tunnel() && !is_down {
            // What a call is answered is kept here; whether it is too much is seen when it is looked at, within this turn.
            half.buf.extend(data);
            if let Some((codec, tx)) = conn.codec() {
                codec.consumed(sid, data.len(), tx);
            }
            self.cx.inbox.push_back(Event::Pump(id, dir));
            return;
        }
        if half.sent == Progress::Head
            && !half.watched
            && half.buf.is_empty()
            && !data.is_empty()
            && let Some((target, to)) = target
            && let Some(partner) = self.conns.get_mut(target).filter(|p| p.backlog() < high)
        {
            if let Some((codec, tx)) = partner.codec() {
                // The end goes with what is left, if anything is.
                taken = codec.send_data(to, data, end, tx);
                half.sent = Progress::head(end && taken == data.len());
            }
            self.conns.mark(target);
        }
        let (sent, rest) = data.split_at_checked(taken).unwrap_or((data, &[]));
        half.buf.extend(rest);
        let over = half.buf.len() >= high.max(wants);
        // What a filter waits for must not wait for credit in turn.
        let credit = if half.buf.len() <= wants { rest.len() } else { 0 };
        half.credited += credit;
        if is_down {
            keep(&mut stream.traffic, sent, self.cx.options.limits.replay);
        }
        if let Some((codec, tx)) = conn.codec() {
            let h2 = codec.is_h2();
            codec.consumed(sid, taken + credit, tx);
            if over && !h2 {
                conn.held = true;
            }
        }
        if end || !rest.is_empty() {
            self.cx.inbox.push_back(Event::Pump(id, dir));
        }
    }

    /// Moves what is kept of a body, and its end.
    pub(crate) fn pump(&mut self, id: StreamId, dir: Dir) {
        let (high, replay) = (self.cx.options.limits.stream_buffer, self.cx.options.limits.replay);
        if dir == Dir::Down && self.streams.get(id).is_some_and(|stream| stream.client.is_call()) {
            return self.call_progress(id);
        }
        if self.filter_has_body(id, dir) {
            return;
        }
        if dir == Dir::Up && self.streams.get(id).is_some_and(|stream| stream.req.end) {
            self.request_came(id);
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        let (source, target) = match dir {
            Dir::Up => (stream.client.place(), stream.upstream()),
            Dir::Down => (stream.upstream(), stream.client.place()),
        };
        let half = if dir == Dir::Up { &mut stream.req } else { &mut stream.resp };
        if half.done() {
            return self.check_done(id);
        }
        let Some((target, sid)) = target.filter(|_| half.open()) else { return };
        let Some(most) = self.watched(id, dir) else { return };
        let Some(stream) = self.streams.get_mut(id) else { return };
        let half = if dir == Dir::Up { &mut stream.req } else { &mut stream.resp };
        let Some(dst) = self.conns.get_mut(target) else { return };
        if dst.backlog() >= high && !half.buf.is_empty() {
            Conns::block(dst, id);
            return;
        }
        let room = (2 * high).saturating_sub(dst.backlog());
        // What a filter holds back is no matter of the connection's room.
        let (held_back, room) = (most < room.min(half.buf.len()), room.min(most));
        let Some((codec, tx)) = dst.codec() else { return };
        let whole = half.buf.as_slice();
        // A connection's backlog stays far below what stops its reading: two proxies that both did would wait for each other.
        let data = whole.get(..room).unwrap_or(whole);
        let last = half.end && half.trailers.is_none() && data.len() == whole.len();
        let mut n = 0;
        if !data.is_empty() || last {
            n = codec.send_data(sid, data, last, tx);
        }
        if dir == Dir::Up {
            keep(&mut stream.traffic, data.get(..n).unwrap_or_default(), replay);
        }
        // Stopped by the backlog, not by the peer's window.
        let cut = n == data.len() && n < whole.len();
        half.buf.consume(n);
        let owed = n.saturating_sub(half.credited);
        half.credited = half.credited.saturating_sub(n);
        if half.buf.is_empty() && half.end {
            if let Some(trailers) = half.trailers.take() {
                codec.send_trailers(sid, &trailers, tx);
                if dir == Dir::Up
                    && let Some(request) = stream.traffic.request_mut()
                {
                    request.replay = None;
                }
            }
            half.sent = Progress::All;
        }
        let (done, low) = (half.done(), half.buf.len() < high / 2);
        let tunnel = dir == Dir::Up && (n > 0 || done) && stream.client.is_tunnel();
        if !held_back && (cut || (!half.buf.is_empty() && codec.capacity(sid) > 0)) {
            Conns::block(dst, id);
        }
        self.conns.mark(target);
        if tunnel {
            self.tunnel_sent(id);
        }
        if let Some((source, sid)) = source {
            let mut release = false;
            if let Some(src) = self.conns.get_mut(source) {
                release = src.held && low && !src.is_h2();
                if let Some((codec, tx)) = src.codec() {
                    codec.consumed(sid, owed, tx);
                }
            }
            if n > 0 {
                self.conns.mark(source);
            }
            if release {
                self.conns.hold(&mut self.cx, source, false);
            }
        }
        if done {
            self.check_done(id);
        }
    }

    /// Ends a stream of which nothing is left to be sent.
    pub(crate) fn check_done(&mut self, id: StreamId) {
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.req.done() && stream.record.request_done.is_none() {
            stream.record.request_done = Some(now);
        }
        let Some(request) = stream.traffic.request() else { return };
        let tunnel = request.step == Step::Tunnel;
        if stream.resp.done() && (!tunnel || stream.req.done()) {
            return self.finish_http(id, true);
        }
        if tunnel {
            // One direction of a tunnel has ended: that side of the connection is shut.
            self.half_closed(id);
            let Some(stream) = self.streams.get(id) else { return };
            let ends = [stream.client.conn(), stream.upstream().map(|(conn, _)| conn)];
            for conn in ends.into_iter().flatten() {
                self.end_if_done(conn);
            }
        }
    }

    /// Ends an HTTP stream in every table, and leaves its record.
    pub(crate) fn finish_http(&mut self, id: StreamId, complete: bool) {
        let Some(stream) = self.streams.get(id) else { return };
        let place = stream.client.place();
        if let Some(Caller::Conn(above)) = stream.client.call().map(|origin| origin.caller)
            && !complete
        {
            // A tunnel that broke: what lies above it is cut off too.
            self.cx.inbox.push_back(Event::Ended(above, Eof::Reset));
        }
        let up = stream.up.as_ref().map(|up| up.at);
        let up_over = stream.req.done() && stream.resp.end && stream.resp.buf.is_empty();
        self.finish(id);
        self.leave_upstream(id, up, if up_over { None } else { Some(Reason::CANCEL) });
        let Some((down, sid)) = place else { return };
        if let Some(conn) = self.conns.get_mut(down) {
            let mut left = false;
            if let Some(http) = conn.http_mut() {
                left = http.find(sid) == Some(id);
                http.forget(sid);
            }
            // A client that reads nothing and resets its streams would have them pile up.
            conn.blocked.retain(|s| *s != id);
            conn.last = conn.last.max(conn.born);
            if left && !complete {
                self.conns.codec_reset(down, sid, Reason::INTERNAL_ERROR);
            }
        }
        self.hold_off(down);
        self.end_if_done(down);
        self.arm(down);
    }

    /// A client's HTTP/1 connection may go on with its next request.
    fn hold_off(&mut self, down: ConnId) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(down) else { return };
        conn.last = now;
        if conn.held && !conn.is_h2() {
            self.conns.hold(&mut self.cx, down, false);
        } else if conn.closing == Closing::No {
            self.conns.queue_parse(&mut self.cx, down);
        }
    }

    /// Takes a stream off its upstream connection, its queue or its dial.
    pub(crate) fn leave_upstream(&mut self, id: StreamId, at: Option<At>, reset: Option<Reason>) {
        match at {
            Some(At::Conn(conn, sid)) => {
                if let Some(code) = reset {
                    self.conns.codec_reset(conn, sid, code);
                }
                if let Some(c) = self.conns.get_mut(conn) {
                    let h2 = c.is_h2();
                    if let Some(http) = c.http_mut() {
                        http.forget(sid);
                    }
                    c.blocked.retain(|s| *s != id);
                    if c.held && !h2 {
                        self.conns.hold(&mut self.cx, conn, false);
                    }
                    // A close that came with the last bytes is seen before the connection is used again.
                    self.conns.queue_parse(&mut self.cx, conn);
                }
                let now = self.cx.now.mono;
                if let Some(c) = self.conns.get_mut(conn) {
                    c.last = now;
                }
                self.poke(conn);
                self.arm(conn);
            }
            Some(At::Queue(pool)) => {
                if let Some(pool) = self.clusters.pool_mut(pool) {
                    pool.queue.retain(|s| *s != id);
                }
                self.trim_dials(pool);
            }
            Some(At::Dial(dial)) => self.clusters.cancel_dial(&mut self.cx, dial),
            Some(At::Handshake(_) | At::Nowhere) | None => {}
        }
    }
}

/// Keeps what was sent of a request's body, for a retry, up to `most` bytes.
fn keep(traffic: &mut Traffic, sent: &[u8], most: usize) {
    let Some(request) = traffic.request_mut() else { return };
    let Some(replay) = &mut request.replay else { return };
    if replay.len() + sent.len() > most {
        request.replay = None;
    } else {
        replay.extend_from_slice(sent);
    }
}
