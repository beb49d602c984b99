//! What the peer sends, frame by frame.

use super::frame::{self, FrameHeader, HEADER, MAX_31, flag, kind, setting};
use super::message::{Builder, Refusal, SectionKind};
use super::stream::{Side, Stream};
use super::{Block, DRAIN_PING, DataFrame, Drain, H2};
use crate::error::{ConnError, Reason};
use crate::event::{Event, StreamId};
use crate::head::Head;
use crate::limits::INTERIM;
use crate::sniff::PREFACE;

type Step<'b> = Result<(usize, Option<Event<'b>>), ConnError>;

const fn protocol(what: &'static str) -> ConnError {
    ConnError::h2(Reason::PROTOCOL_ERROR, what)
}

const fn wrong_size(what: &'static str) -> ConnError {
    ConnError::h2(Reason::FRAME_SIZE_ERROR, what)
}

impl H2 {
    /// Takes one frame, or some of a DATA frame. Nothing taken and no event: more bytes are needed.
    pub(super) fn step<'b>(&mut self, wire: &'b [u8], out: &mut Vec<u8>) -> Step<'b> {
        if self.preface > 0 {
            return self.greeting(wire);
        }
        if let Some(data) = self.data {
            return self.data_bytes(data, wire, out);
        }
        let Some(f) = FrameHeader::parse(wire) else { return Ok((0, None)) };
        if f.len > self.limits.frame_size.max(frame::DEFAULT_FRAME) {
            return Err(wrong_size("frame too large"));
        }
        self.in_order(&f)?;
        if f.kind == kind::DATA {
            return self.data_header(f, wire, out);
        }
        let total = HEADER + f.len as usize;
        let Some(payload) = wire.get(HEADER..total) else { return Ok((0, None)) };
        match f.kind {
            kind::HEADERS => self.headers(f, payload, out)?,
            kind::CONTINUATION => self.continuation(f, payload, out)?,
            kind::PRIORITY => self.priority(f, payload, out)?,
            kind::RST_STREAM => self.rst_stream(f, payload)?,
            kind::SETTINGS => self.settings(f, payload, out)?,
            kind::PUSH_PROMISE => return Err(protocol("push is not enabled")),
            kind::PING => self.pinged(f, payload, out)?,
            kind::GOAWAY => self.goaway_frame(f, payload)?,
            kind::WINDOW_UPDATE => self.window_update(f, payload, out)?,
            _ => self.spend()?,
        }
        Ok((total, None))
    }

    fn greeting<'b>(&mut self, wire: &[u8]) -> Step<'b> {
        let want = PREFACE.get(PREFACE.len() - self.preface..).unwrap_or_default();
        let n = want.len().min(wire.len());
        if wire.get(..n) != want.get(..n) {
            return Err(protocol("not the preface of HTTP/2"));
        }
        self.preface -= n;
        Ok((n, None))
    }

    /// What must come first, and what must not come between.
    fn in_order(&mut self, f: &FrameHeader) -> Result<(), ConnError> {
        if !self.greeted && (f.kind != kind::SETTINGS || f.has(flag::ACK)) {
            return Err(protocol("the first frame is not SETTINGS"));
        }
        match &self.block {
            Some(block) if f.kind != kind::CONTINUATION || f.stream != block.stream => Err(protocol("a frame inside a header block")),
            None if f.kind == kind::CONTINUATION => Err(protocol("CONTINUATION without HEADERS")),
            _ => Ok(()),
        }
    }

    /// Counts a frame that costs the peer nothing.
    fn spend(&mut self) -> Result<(), ConnError> {
        self.control -= 1;
        if self.control < 0 { Err(ConnError::h2(Reason::ENHANCE_YOUR_CALM, "too many control frames")) } else { Ok(()) }
    }

    fn earn(&mut self) {
        self.control = (self.control + 1).min(self.limits.control_frames.into());
    }

    /// Counts a stream that ended before its time.
    fn spend_reset(&mut self) -> Result<(), ConnError> {
        self.resets -= 1;
        if self.resets < 0 { Err(ConnError::h2(Reason::ENHANCE_YOUR_CALM, "too many streams reset")) } else { Ok(()) }
    }

    /// Whether the stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
        id.is_multiple_of(2) || if self.client { id >= self.edge } else { id > self.edge }
    }

    /// Resets a stream for a fault of the peer; its owner is told if there is one.
    fn stream_error(&mut self, id: u32, code: Reason, why: &'static str, out: &mut Vec<u8>) -> Result<(), ConnError> {
        frame::rst_stream(id, code, out);
        if self.streams.contains_key(&id) {
            self.events.push_back(Event::Reset { stream: StreamId(id), code, why });
            self.remove(id);
        } else {
            self.late.add(id);
        }
        self.spend_reset()
    }

    /// Whether the peer may still send on a stream that is not there any more: it was reset by us, or never looked at.
    fn may_be_late(&self, id: u32) -> bool {
        matches!(self.drain, Drain::Final(last) if id > last) || self.late.contains(id)
    }

    fn data_header<'b>(&mut self, f: FrameHeader, wire: &[u8], out: &mut Vec<u8>) -> Step<'b> {
        let padded = f.has(flag::PADDED);
        let pad = match (padded, wire.get(HEADER)) {
            (false, _) => 0,
            (true, _) if f.len == 0 => return Err(wrong_size("padded DATA without a length")),
            (true, None) => return Ok((0, None)),
            (true, Some(n)) => u32::from(*n),
        };
        let taken = HEADER + usize::from(padded);
        let Some(left) = f.len.checked_sub(pad + u32::from(padded)) else { return Err(protocol("more padding than frame")) };
        if self.is_idle(f.stream) {
            return Err(protocol("DATA on an idle stream"));
        }
        self.recv_window -= i64::from(f.len);
        if self.recv_window < 0 {
            return Err(ConnError::h2(Reason::FLOW_CONTROL_ERROR, "connection window exceeded"));
        }
        self.owed += f.len;
        self.replenish(out);
        let end = f.has(flag::END_STREAM);
        let mut data = DataFrame { stream: f.stream, left, pad, end, drop: false };
        let fault = match self.streams.get_mut(&f.stream) {
            None => {
                data.drop = true;
                let late = self.may_be_late(f.stream);
                if late && end {
                    self.late.ended(f.stream);
                }
                (!late).then_some(Reason::STREAM_CLOSED)
            }
            Some(s) => {
                s.recv_window -= i64::from(f.len);
                let overhead = f.len - left;
                s.owed = s.owed.saturating_add(overhead);
                if s.recv_window < 0 {
                    Some(Reason::FLOW_CONTROL_ERROR)
                } else if s.recv == Side::Ended {
                    Some(Reason::STREAM_CLOSED)
                } else if s.recv == Side::Head || !s.count(left.into(), end) {
                    Some(Reason::PROTOCOL_ERROR)
                } else {
                    None
                }
            }
        };
        if let Some(code) = fault {
            let why = match code {
                Reason::FLOW_CONTROL_ERROR => "window exceeded",
                Reason::STREAM_CLOSED => "DATA after the end",
                _ => "body out of place or of another length than announced",
            };
            self.stream_error(f.stream, code, why, out)?;
            data.drop = true;
        }
        if left == 0 && (data.drop || !end) {
            self.spend()?;
        } else if !data.drop {
            self.earn();
        }
        let nothing = left == 0 && pad == 0 && (data.drop || !end);
        self.data = (!nothing).then_some(data);
        Ok((taken, None))
    }

    fn data_bytes<'b>(&mut self, mut data: DataFrame, wire: &'b [u8], out: &mut Vec<u8>) -> Step<'b> {
        let id = data.stream;
        // The stream may have been reset by us since the frame began.
        let dropped = data.drop || !self.streams.contains_key(&id);
        let n = (data.left as usize).min(wire.len());
        data.left -= n as u32;
        let bytes = wire.get(..n).unwrap_or_default();
        let pad = if data.left == 0 { (data.pad as usize).min(wire.len() - n) } else { 0 };
        data.pad -= pad as u32;
        let ends = data.end && data.left == 0;
        // The end is told once: with the last byte of the body, or alone.
        data.end &= !ends;
        self.data = (data.left > 0 || data.pad > 0).then_some(data);
        let taken = n + pad;
        if dropped || (n == 0 && !ends) {
            // An empty frame is done without any byte taken.
            return if taken > 0 || self.data.is_some() { Ok((taken, None)) } else { self.step(wire, out) };
        }
        if let Some(s) = self.streams.get_mut(&id) {
            s.held = s.held.saturating_add(n as u32);
            self.held += n as u64;
        }
        if ends {
            self.peer_ended(id);
        }
        Ok((taken, Some(Event::Data { stream: StreamId(id), data: bytes, end: ends })))
    }

    fn peer_ended(&mut self, id: u32) {
        if let Some(s) = self.streams.get_mut(&id) {
            s.recv = Side::Ended;
            if s.over() {
                self.remove(id);
            }
        }
    }

    fn headers(&mut self, f: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ConnError> {
        if f.stream.is_multiple_of(2) || (self.client && self.is_idle(f.stream)) {
            return Err(protocol("HEADERS on a stream that is not the peer's to open"));
        }
        let mut block = payload;
        let mut pad = 0;
        if f.has(flag::PADDED) {
            let (n, rest) = block.split_first().ok_or(wrong_size("padded HEADERS without a length"))?;
            (pad, block) = (usize::from(*n), rest);
        }
        let mut refused = false;
        if f.has(flag::PRIORITY) {
            let (priority, rest) = block.split_first_chunk::<5>().ok_or(wrong_size("HEADERS too short for its priority"))?;
            refused = depends_on(priority) == f.stream;
            block = rest;
        }
        let block = block.len().checked_sub(pad).and_then(|n| block.get(..n)).ok_or(protocol("more padding than frame"))?;
        let end = f.has(flag::END_STREAM);
        if f.has(flag::END_HEADERS) {
            return self.header_block(f.stream, end, refused, block, out);
        }
        self.block = Some(Block { stream: f.stream, end, frames: 0, bytes: block.to_vec(), refused });
        Ok(())
    }

    fn continuation(&mut self, f: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ConnError> {
        let Some(block) = &mut self.block else { return Err(protocol("CONTINUATION without HEADERS")) };
        block.frames += 1;
        block.bytes.extend_from_slice(payload);
        if block.frames > self.limits.continuations || block.bytes.len() > self.limits.header_bytes {
            return Err(ConnError::h2(Reason::ENHANCE_YOUR_CALM, "header block too large"));
        }
        if f.has(flag::END_HEADERS)
            && let Some(block) = self.block.take()
        {
            return self.header_block(block.stream, block.end, block.refused, &block.bytes, out);
        }
        Ok(())
    }

    /// A whole header block: a request, a response or trailers.
    fn header_block(&mut self, id: u32, end: bool, refused: bool, block: &[u8], out: &mut Vec<u8>) -> Result<(), ConnError> {
        let known = self.streams.get(&id);
        let fresh = !self.client && id > self.edge;
        let kind = match known {
            None => SectionKind::Request,
            Some(s) if s.recv == Side::Head => SectionKind::Response,
            Some(_) => SectionKind::Trailers,
        };
        let ended = known.is_some_and(|s| s.recv == Side::Ended);
        let mut message = Builder::new(kind, &self.limits);
        self.decoder
            .decode(block, self.limits.header_bytes, &mut |n, v| message.field(n, v))
            .map_err(|e| ConnError::h2(Reason::COMPRESSION_ERROR, e.0))?;
        if fresh {
            self.edge = id;
        } else if known.is_none() {
            // What comes late is decoded and dropped.
            return match self.may_be_late(id) {
                false => Err(ConnError::h2(Reason::STREAM_CLOSED, "HEADERS on a closed stream")),
                true if end => {
                    self.late.ended(id);
                    self.spend()
                }
                true => self.spend(),
            };
        }
        if ended {
            return self.stream_error(id, Reason::STREAM_CLOSED, "HEADERS after the end", out);
        }
        if refused {
            return self.stream_error(id, Reason::PROTOCOL_ERROR, "stream depends on itself", out);
        }
        self.earn();
        match (message.finish(&self.limits), kind) {
            (Err(Refusal::TooLarge), SectionKind::Request) => self.too_large(id, out),
            (Err(Refusal::TooLarge), _) => self.stream_error(id, Reason::PROTOCOL_ERROR, "head too large", out),
            (Err(Refusal::Malformed), _) => self.stream_error(id, Reason::PROTOCOL_ERROR, "malformed head", out),
            (Ok((head, length)), SectionKind::Request) => self.request(id, head, length, end, out),
            (Ok((head, length)), SectionKind::Response) => self.response(id, head, length, end, out),
            (Ok((head, _)), SectionKind::Trailers) => self.trailers(id, head, end, out),
        }
    }

    fn too_large(&mut self, id: u32, out: &mut Vec<u8>) -> Result<(), ConnError> {
        self.streams.insert(id, Stream::new(self.peer.window.into(), 0));
        self.send_head(StreamId(id), &Head::response(431), true, out);
        self.spend_reset()
    }

    fn request(&mut self, id: u32, mut head: Head, length: Option<u64>, end: bool, out: &mut Vec<u8>) -> Result<(), ConnError> {
        if let Drain::Final(_) = self.drain {
            // The peer was told that these are not looked at.
            return Ok(());
        }
        if self.streams.len() >= self.limits.concurrent_streams as usize {
            return self.stream_error(id, Reason::REFUSED_STREAM, "too many streams", out);
        }
        let mut s = Stream::new(self.peer.window.into(), self.recv_start());
        s.head = head.method() == "HEAD";
        s.tunnel = head.method() == "CONNECT";
        s.protocol = head.protocol().map(Into::into);
        if s.protocol.is_some() {
            head.set_method("GET");
        }
        s.expect = length;
        s.recv = if end { Side::Ended } else { Side::Body };
        if end && !s.count(0, true) {
            return self.stream_error(id, Reason::PROTOCOL_ERROR, "body shorter than content-length", out);
        }
        self.streams.insert(id, s);
        self.events.push_back(Event::Head { stream: StreamId(id), head, end });
        Ok(())
    }

    fn response(&mut self, id: u32, mut head: Head, length: Option<u64>, end: bool, out: &mut Vec<u8>) -> Result<(), ConnError> {
        let Some(s) = self.streams.get_mut(&id) else { return Ok(()) };
        let status = head.status();
        s.interim += u8::from(status < 200);
        if status == 101 || (status < 200 && end) || s.interim > INTERIM {
            return self.stream_error(id, Reason::PROTOCOL_ERROR, "interim response out of place", out);
        }
        if status >= 200 {
            s.recv = Side::Body;
            s.expect = length.filter(|_| !(s.head || status == 304 || status == 204 || (s.tunnel && status < 300)));
            if let Some(protocol) = s.protocol.as_deref().filter(|_| status < 300) {
                head.set_protocol(Some(protocol));
                head.set_status(101);
            }
            if end && !s.count(0, true) {
                return self.stream_error(id, Reason::PROTOCOL_ERROR, "body shorter than content-length", out);
            }
        }
        self.events.push_back(Event::Head { stream: StreamId(id), head, end });
        if end {
            self.peer_ended(id);
        }
        Ok(())
    }

    fn trailers(&mut self, id: u32, head: Head, end: bool, out: &mut Vec<u8>) -> Result<(), ConnError> {
        let Some(s) = self.streams.get_mut(&id) else { return Ok(()) };
        if !end || !s.count(0, true) {
            return self.stream_error(id, Reason::PROTOCOL_ERROR, "trailers out of place", out);
        }
        self.events.push_back(Event::Trailers { stream: StreamId(id), head });
        self.peer_ended(id);
        Ok(())
    }

    fn priority(&mut self, f: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ConnError> {
        if f.stream == 0 {
            return Err(protocol("PRIORITY on stream 0"));
        }
        let code = match payload.first_chunk::<5>() {
            Some(p) if payload.len() == 5 && depends_on(p) != f.stream => return self.spend(),
            Some(_) if payload.len() == 5 => Reason::PROTOCOL_ERROR,
            _ => Reason::FRAME_SIZE_ERROR,
        };
        if self.is_idle(f.stream) {
            // An idle stream cannot be reset.
            return Err(ConnError::h2(code, "malformed PRIORITY"));
        }
        self.stream_error(f.stream, code, "malformed PRIORITY", out)
    }

    fn rst_stream(&mut self, f: FrameHeader, payload: &[u8]) -> Result<(), ConnError> {
        let code = <[u8; 4]>::try_from(payload).map_err(|_| wrong_size("RST_STREAM of wrong size"))?;
        if self.is_idle(f.stream) {
            return Err(protocol("RST_STREAM on an idle stream"));
        }
        if !self.streams.contains_key(&f.stream) {
            self.late.ended(f.stream);
            return self.spend();
        }
        self.events.push_back(Event::Reset { stream: StreamId(f.stream), code: Reason(u32::from_be_bytes(code)), why: "" });
        self.remove(f.stream);
        self.late.ended(f.stream);
        if self.client { Ok(()) } else { self.spend_reset() }
    }

    fn settings(&mut self, f: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ConnError> {
        if f.stream != 0 {
            return Err(protocol("SETTINGS on a stream"));
        }
        if f.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(wrong_size("SETTINGS acknowledgement with a payload"));
            }
            if !self.acknowledged {
                self.acknowledged = true;
                self.decoder.acknowledged(self.limits.hpack_table as usize);
            }
            return self.spend();
        }
        let (all, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(wrong_size("SETTINGS of wrong size"));
        }
        for [i0, i1, v @ ..] in all {
            self.setting(u16::from_be_bytes([*i0, *i1]), u32::from_be_bytes(*v))?;
        }
        if !self.greeted {
            // Until the peer says otherwise, it sets no limit of its own.
            self.greeted = true;
            let told = all.iter().any(|[i0, i1, ..]| u16::from_be_bytes([*i0, *i1]) == setting::MAX_CONCURRENT_STREAMS);
            self.peer.streams = if told { self.peer.streams } else { u32::MAX };
        }
        frame::header(0, kind::SETTINGS, flag::ACK, 0, out);
        self.events.push_back(Event::Settings);
        self.spend()
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), ConnError> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.set_table_size(value as usize),
            setting::ENABLE_PUSH if value > 1 || (self.client && value == 1) => return Err(protocol("bad ENABLE_PUSH")),
            setting::MAX_CONCURRENT_STREAMS => self.peer.streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if value > MAX_31 {
                    return Err(ConnError::h2(Reason::FLOW_CONTROL_ERROR, "bad INITIAL_WINDOW_SIZE"));
                }
                let change = i64::from(value) - i64::from(self.peer.window);
                self.peer.window = value;
                for s in self.streams.values_mut() {
                    s.send_window += change;
                    if s.send_window > i64::from(MAX_31) {
                        return Err(ConnError::h2(Reason::FLOW_CONTROL_ERROR, "window overflow by SETTINGS"));
                    }
                }
            }
            setting::MAX_FRAME_SIZE => {
                if !(frame::DEFAULT_FRAME..=0x00ff_ffff).contains(&value) {
                    return Err(protocol("bad MAX_FRAME_SIZE"));
                }
                self.peer.frame = value;
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                if value > 1 {
                    return Err(protocol("bad ENABLE_CONNECT_PROTOCOL"));
                }
                self.peer.extended_connect = value == 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn pinged(&mut self, f: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ConnError> {
        if f.stream != 0 {
            return Err(protocol("PING on a stream"));
        }
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| wrong_size("PING of wrong size"))?;
        if !f.has(flag::ACK) {
            frame::ping(payload, true, out);
        } else if payload == DRAIN_PING && self.drain == Drain::Announced {
            self.drain = Drain::Final(self.edge);
            frame::goaway(self.edge, Reason::NO_ERROR, out);
            self.settle();
        } else {
            self.events.push_back(Event::Pong(payload));
        }
        self.spend()
    }

    fn goaway_frame(&mut self, f: FrameHeader, payload: &[u8]) -> Result<(), ConnError> {
        if f.stream != 0 {
            return Err(protocol("GOAWAY on a stream"));
        }
        let Some([l0, l1, l2, l3, c0, c1, c2, c3]) = payload.first_chunk::<8>().copied() else {
            return Err(wrong_size("GOAWAY too short"));
        };
        let last = u32::from_be_bytes([l0, l1, l2, l3]) & MAX_31;
        let code = Reason(u32::from_be_bytes([c0, c1, c2, c3]));
        self.leaving = true;
        self.events.push_back(Event::Goaway { last: StreamId(last), code });
        if self.client {
            let mut refused: Vec<u32> = self.streams.keys().copied().filter(|id| *id > last).collect();
            refused.sort_unstable();
            for id in refused {
                self.remove(id);
                self.events.push_back(Event::Reset { stream: StreamId(id), code: Reason::REFUSED_STREAM, why: "" });
            }
        }
        self.spend()
    }

    fn window_update(&mut self, f: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ConnError> {
        let n = <[u8; 4]>::try_from(payload).map_err(|_| wrong_size("WINDOW_UPDATE of wrong size"))?;
        let n = i64::from(u32::from_be_bytes(n) & MAX_31);
        self.spend()?;
        if f.stream == 0 {
            if n == 0 {
                return Err(protocol("WINDOW_UPDATE of 0"));
            }
            self.send_window += n;
            if self.send_window > i64::from(MAX_31) {
                return Err(ConnError::h2(Reason::FLOW_CONTROL_ERROR, "connection window overflow"));
            }
            return Ok(());
        }
        if self.is_idle(f.stream) {
            return Err(protocol("WINDOW_UPDATE on an idle stream"));
        }
        let Some(s) = self.streams.get_mut(&f.stream) else { return Ok(()) };
        s.send_window += n;
        if n == 0 {
            self.stream_error(f.stream, Reason::PROTOCOL_ERROR, "WINDOW_UPDATE of 0", out)
        } else if s.send_window > i64::from(MAX_31) {
            self.stream_error(f.stream, Reason::FLOW_CONTROL_ERROR, "window overflow", out)
        } else {
            Ok(())
        }
    }
}

fn depends_on(priority: &[u8; 5]) -> u32 {
    let [a, b, c, d, _] = *priority;
    u32::from_be_bytes([a, b, c, d]) & MAX_31
}
