//! What we send: heads, bodies, resets, and windows given back.

use super::H2;
use super::frame::{self, HEADER, MAX_31, flag, kind};
use super::stream::{Side, Stream};
use crate::error::Reason;
use crate::event::{Event, StreamId};
use crate::head::{Head, is_hop_by_hop};

/// Largest DATA frame that we send.
const FRAME: usize = 16_384;

impl H2 {
    /// See [`Codec::open`](crate::Codec::open).
    pub fn open(&mut self) -> Option<StreamId> {
        self.can_open().then_some(StreamId(self.edge))
    }

    /// See [`Codec::can_open`](crate::Codec::can_open).
    pub fn can_open(&self) -> bool {
        let free = self.streams.len() < self.peer.streams.min(self.limits.open_streams) as usize;
        self.client && free && self.edge <= MAX_31 && !self.leaving && !self.done && self.drain == super::Drain::No
    }

    /// See [`Codec::send_head`](crate::Codec::send_head).
    pub fn send_head(&mut self, stream: StreamId, head: &Head, end: bool, out: &mut Vec<u8>) {
        let id = stream.0;
        if self.done {
            return;
        }
        if self.client {
            if id != self.edge || !self.can_open() {
                return;
            }
            if head.protocol().is_some() && !self.peer.extended_connect {
                // Anything else that could be sent would be another request than was meant.
                let why = "no extended CONNECT";
                self.events.push_back(Event::Reset { stream, code: Reason::HTTP_1_1_REQUIRED, why });
                return;
            }
            self.edge += 2;
            let mut s = Stream::new(self.peer.window.into(), self.recv_start());
            s.head = head.method() == "HEAD";
            s.protocol = head.protocol().map(Into::into);
            s.tunnel = head.method() == "CONNECT" || s.protocol.is_some();
            s.send = if end { Side::Ended } else { Side::Body };
            self.streams.insert(id, s);
            return self.send_request(id, head, end, out);
        }
        let Some(s) = self.streams.get_mut(&id).filter(|s| s.send == Side::Head) else { return };
        let status = match head.status() {
            0 => 500,
            101 if s.protocol.is_some() => 200,
            status => status,
        };
        if status == 101 {
            return;
        }
        let end = end && status >= 200;
        if status >= 200 {
            s.send = Side::Body;
        }
        self.send_response(id, status, head, end, out);
        if end {
            self.ended(id, out);
        }
    }

    fn send_request(&mut self, id: u32, head: &Head, end: bool, out: &mut Vec<u8>) {
        let start = self.begin(out);
        let e = &mut self.encoder;
        let extended = head.protocol();
        let method = if extended.is_some() { "CONNECT" } else { head.method() };
        e.field(b":method", method.as_bytes(), out);
        if method != "CONNECT" || extended.is_some() {
            let scheme = if head.scheme().is_empty() { "http" } else { head.scheme() };
            let path = if head.path().is_empty() { "/" } else { head.path() };
            e.field(b":scheme", scheme.as_bytes(), out);
            e.field(b":path", path.as_bytes(), out);
        }
        if !head.authority().is_empty() {
            e.field(b":authority", head.authority().as_bytes(), out);
        }
        if let Some(protocol) = extended {
            e.field(b":protocol", protocol.as_bytes(), out);
        }
        self.fields(start, id, head, end, out);
    }

    fn send_response(&mut self, id: u32, status: u16, head: &Head, end: bool, out: &mut Vec<u8>) {
        let start = self.begin(out);
        let digit = |n: u16| b'0' + (n % 10) as u8;
        self.encoder.field(b":status", &[digit(status / 100), digit(status / 10), digit(status)], out);
        self.fields(start, id, head, end, out);
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        self.encoder.begin(out);
        start
    }

    fn fields(&mut self, start: usize, id: u32, head: &Head, end: bool, out: &mut Vec<u8>) {
        for (name, value) in head.iter() {
            let te = name == "te" && !value.eq_ignore_ascii_case(b"trailers");
            if !(is_hop_by_hop(name) || name == "host" || te) {
                self.encoder.field(name.as_bytes(), value, out);
            }
        }
        frame::finish_headers(start, id, end, (self.peer.frame as usize).min(FRAME), out);
    }

    /// See [`Codec::send_data`](crate::Codec::send_data).
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end: bool, out: &mut Vec<u8>) -> usize {
        let id = stream.0;
        let Some(s) = self.streams.get_mut(&id).filter(|s| s.send == Side::Body && !self.done) else { return data.len() };
        if data.is_empty() && !end {
            return 0;
        }
        let room = usize::try_from(s.send_window.min(self.send_window)).unwrap_or(0);
        let (now, later) = data.split_at(room.min(data.len()));
        let max = (self.peer.frame as usize).min(FRAME);
        let ends = end && later.is_empty();
        let mut rest = now;
        while !rest.is_empty() || (ends && now.is_empty()) {
            let (part, next) = rest.split_at(max.min(rest.len()));
            let last = ends && next.is_empty();
            frame::header(part.len(), kind::DATA, if last { flag::END_STREAM } else { 0 }, id, out);
            out.extend_from_slice(part);
            self.control = (self.control + 2).min(self.limits.control_frames.into());
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        s.send_window -= now.len() as i64;
        self.send_window -= now.len() as i64;
        if !later.is_empty() && !s.blocked {
            s.blocked = true;
            self.blocked.push_back(id);
        }
        if ends {
            self.ended(id, out);
        }
        now.len()
    }

    /// See [`Codec::send_trailers`](crate::Codec::send_trailers).
    pub fn send_trailers(&mut self, stream: StreamId, trailers: &Head, out: &mut Vec<u8>) {
        let id = stream.0;
        if self.done || !self.streams.get(&id).is_some_and(|s| s.send == Side::Body) {
            return;
        }
        if trailers.is_empty() {
            self.send_data(stream, &[], true, out);
            return;
        }
        let start = self.begin(out);
        self.fields(start, id, trailers, true, out);
        self.ended(id, out);
    }

    /// We have sent the end of the stream.
    fn ended(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(s) = self.streams.get_mut(&id) else { return };
        s.send = Side::Ended;
        if s.over() {
            self.remove(id);
        } else if !self.client && !s.tunnel && s.expect != Some(0) {
            // The answer is complete: the rest of the request is of no use (RFC 9113 §8.1). Of one whose whole body has come only the
            // mark of its end is missing, which is on its way; clients are known to take a reset then for a failure.
            frame::rst_stream(id, Reason::NO_ERROR, out);
            s.recv = Side::Ended;
            self.remove(id);
            self.late.add(id);
        }
    }

    /// See [`Codec::reset`](crate::Codec::reset).
    pub fn reset(&mut self, stream: StreamId, code: Reason, out: &mut Vec<u8>) {
        if self.streams.contains_key(&stream.0) && !self.done {
            frame::rst_stream(stream.0, code, out);
            self.remove(stream.0);
            // The head and the trailers that the peer may have sent before it knew are no fault of its.
            self.control = (self.control + 2).min(self.limits.control_frames.into());
        }
    }

    /// See [`Codec::consumed`](crate::Codec::consumed).
    pub fn consumed(&mut self, stream: StreamId, n: usize, out: &mut Vec<u8>) {
        self.free(stream.0, n, out);
        self.replenish(out);
    }

    /// Gives a stream's window back.
    fn free(&mut self, id: u32, n: usize, out: &mut Vec<u8>) {
        let half = self.limits.stream_window.min(MAX_31) / 2;
        let Some(s) = self.streams.get_mut(&id) else { return };
        let freed = s.held.min(n as u32);
        s.held -= freed;
        self.held = self.held.saturating_sub(freed.into());
        if s.recv != Side::Body {
            return;
        }
        s.owed = s.owed.saturating_add(n as u32);
        if s.owed >= half.max(1) {
            let n = i64::from(s.owed).min(i64::from(MAX_31) - s.recv_window);
            s.owed = 0;
            if n > 0 {
                s.recv_window += n;
                frame::window_update(id, n as u32, out);
            }
        }
    }

    /// Gives the connection's window back. Not only as bodies are consumed, for one slow stream must not stop the others; but not without end
    /// either, for many slow ones must not fill the memory.
    pub(super) fn replenish(&mut self, out: &mut Vec<u8>) {
        let window = self.limits.connection_window.clamp(frame::DEFAULT_WINDOW, MAX_31);
        if self.owed >= window / 2 && self.held < self.limits.unconsumed_bodies.into() && !self.done {
            frame::window_update(0, self.owed, out);
            self.recv_window += i64::from(self.owed);
            self.owed = 0;
        }
    }

    /// See [`Codec::capacity`](crate::Codec::capacity).
    pub fn capacity(&self, stream: StreamId) -> usize {
        let s = self.streams.get(&stream.0).filter(|s| s.send == Side::Body && !self.done);
        s.map_or(0, |s| usize::try_from(s.send_window.min(self.send_window)).unwrap_or(0))
    }

    /// What the peer may send on a stream at its start. Before it knows our SETTINGS, the default holds for it.
    pub(super) fn recv_start(&self) -> i64 {
        let ours = self.limits.stream_window.min(MAX_31);
        i64::from(if self.acknowledged { ours } else { ours.max(frame::DEFAULT_WINDOW) })
    }
}
