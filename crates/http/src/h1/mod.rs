//! HTTP/1.1 (RFC 9112), and what is left of 1.0.

mod chunk;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

use crate::error::{ConnError, Reason};
use crate::event::{ConnState, Event, StreamId};
use crate::head::Head;
use crate::limits::Limits;
use chunk::Chunk;

/// One HTTP/1 connection, of either role: one exchange at a time, on a connection that is kept if both sides allow it.
#[derive(Debug)]
pub struct H1 {
    limits: Limits,
    client: bool,
    /// The number of this exchange, or of the next one.
    stream: u32,
    /// An exchange is going on.
    active: bool,
    recv: Recv,
    send: Send,
    /// Bytes of an unfinished head or trailer block that were already searched for its end.
    scanned: usize,
    /// Empty lines dropped before a request.
    blank: u8,
    /// Interim responses seen in this exchange.
    interim: u8,
    asked: Asked,
    /// The exchange became a tunnel.
    tunnel: bool,
    /// The connection ends after this exchange.
    close: bool,
    /// No new exchanges.
    draining: bool,
    /// All is over.
    done: bool,
    /// Bytes of an unwanted request body that were dropped.
    dropped: usize,
    /// `send_data` refused bytes, and may take them now.
    blocked: bool,
}

/// What the rest of the exchange depends on in the request.
#[derive(Debug, Default)]
struct Asked {
    head: bool,
    connect: bool,
    upgrade: Option<String>,
    http_10: bool,
    keep_alive_10: bool,
}

/// What the next bytes of the peer are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Recv {
    /// Nothing is expected (client between exchanges).
    Idle,
    Head,
    Body(u64),
    Chunked(Chunk),
    UntilClose,
    /// The answer decides whether a tunnel or a new request follows.
    Wait,
    Ended,
}

/// What we may send.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Send {
    Idle,
    Body(u64),
    Chunked,
    UntilClose,
    /// A body that the message must not have.
    Drop,
    /// The peer's answer decides whether a tunnel follows.
    Wait,
    Ended,
}

impl H1 {
    /// The server's side.
    pub fn server(limits: Limits) -> H1 {
        H1::new(limits, false)
    }

    /// The client's side: one exchange at a time.
    pub fn client(limits: Limits) -> H1 {
        H1::new(limits, true)
    }

    fn new(limits: Limits, client: bool) -> H1 {
        H1 {
            limits,
            client,
            stream: 1,
            active: false,
            recv: if client { Recv::Idle } else { Recv::Head },
            send: Send::Idle,
            scanned: 0,
            blank: 0,
            interim: 0,
            asked: Asked::default(),
            tunnel: false,
            close: false,
            draining: false,
            done: false,
            dropped: 0,
            blocked: false,
        }
    }

    /// See [`Codec::next`](crate::Codec::next).
    pub fn next<'b>(&mut self, wire: &'b [u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event<'b>>), ConnError> {
        let mut at = 0;
        loop {
            if self.done {
                return Ok((wire.len(), None));
            }
            if self.blocked && self.send != Send::Wait {
                self.blocked = false;
                return Ok((at, Some(Event::Window { stream: StreamId(self.stream) })));
            }
            let stream = StreamId(self.stream);
            // An unwanted body goes on to be read, and its events are dropped.
            let dropping = !self.client && self.active && self.send == Send::Ended && !self.tunnel;
            let rest = wire.get(at..).unwrap_or_default();
            let (n, event) = self.step(rest, stream).inspect_err(|e| self.fail(e, out))?;
            at += n;
            let Some(event) = event else {
                if n == 0 || self.done {
                    return Ok((at, None));
                }
                continue;
            };
            if dropping {
                self.dropped += n;
                self.done |= self.dropped > self.limits.drain_body;
            }
            self.settle();
            if dropping {
                continue;
            }
            return Ok((at, Some(event)));
        }
    }

    /// See [`Codec::eof`](crate::Codec::eof).
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ConnError> {
        let stream = StreamId(self.stream);
        if self.done {
            return Ok(None);
        }
        self.close = true;
        match self.recv {
            Recv::UntilClose => {
                self.recv = Recv::Ended;
                self.settle();
                Ok(Some(Event::Data { stream, data: &[], end: true }))
            }
            Recv::Wait if !self.client => {
                self.recv = Recv::Ended;
                self.settle();
                Ok(Some(Event::Data { stream, data: &[], end: true }))
            }
            Recv::Idle | Recv::Head if !self.active => {
                self.done = true;
                Ok(None)
            }
            Recv::Ended => Ok(None),
            _ => {
                self.done = true;
                if self.send == Send::Ended && !self.client { Ok(None) } else { Err(ConnError::h1(0, "closed in the middle of a message")) }
            }
        }
    }

    /// See [`Codec::open`](crate::Codec::open).
    pub fn open(&mut self) -> Option<StreamId> {
        self.can_open().then_some(StreamId(self.stream))
    }

    /// See [`Codec::can_open`](crate::Codec::can_open).
    pub fn can_open(&self) -> bool {
        self.client && !(self.active || self.close || self.draining || self.done)
    }

    /// See [`Codec::send_head`](crate::Codec::send_head).
    pub fn send_head(&mut self, stream: StreamId, head: &Head, end: bool, out: &mut Vec<u8>) {
        if stream.0 != self.stream || self.done || self.send != Send::Idle {
            return;
        }
        if self.client {
            if !self.active && self.can_open() {
                self.send_request(head, end, out);
            }
        } else if self.active {
            self.send_response(head, end, out);
        }
        self.settle();
    }

    /// See [`Codec::send_data`](crate::Codec::send_data).
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end: bool, out: &mut Vec<u8>) -> usize {
        if stream.0 != self.stream || self.done || !self.active {
            return data.len();
        }
        match &mut self.send {
            Send::Idle | Send::Ended => return data.len(),
            Send::Wait => {
                if end && data.is_empty() {
                    // The peer may still agree; then the tunnel is closed in this direction at once.
                    self.send = Send::Ended;
                    self.settle();
                } else {
                    self.blocked = true;
                }
                return 0;
            }
            Send::Drop => {}
            Send::UntilClose => out.extend_from_slice(data),
            Send::Chunked => chunk::write(data, end, out),
            Send::Body(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                out.extend_from_slice(data.get(..n).unwrap_or_default());
                *left -= n as u64;
                // More than was announced is cut; less leaves the peer waiting: only the end of the connection tells.
                if n < data.len() || (end && *left > 0) {
                    self.done = true;
                }
            }
        }
        if end {
            self.send = Send::Ended;
            self.settle();
        }
        data.len()
    }

    /// See [`Codec::send_trailers`](crate::Codec::send_trailers).
    pub fn send_trailers(&mut self, stream: StreamId, trailers: &Head, out: &mut Vec<u8>) {
        if stream.0 == self.stream && self.send == Send::Chunked && self.active && !self.done {
            chunk::write_trailers(trailers, out);
            self.send = Send::Ended;
            self.settle();
        } else {
            self.send_data(stream, &[], true, out);
        }
    }

    /// See [`Codec::reset`](crate::Codec::reset).
    pub fn reset(&mut self, stream: StreamId, _code: Reason, _out: &mut Vec<u8>) {
        if stream.0 == self.stream && self.active {
            self.done = true;
        }
    }

    /// See [`Codec::drain`](crate::Codec::drain).
    pub fn drain(&mut self, _out: &mut Vec<u8>) {
        self.draining = true;
        if !self.active {
            self.done = true;
        }
    }

    /// See [`Codec::goaway`](crate::Codec::goaway).
    pub fn goaway(&mut self, _code: Reason, _out: &mut Vec<u8>) {
        self.done = true;
    }

    /// See [`Codec::consumed`](crate::Codec::consumed).
    pub fn consumed(&mut self, _stream: StreamId, _n: usize, _out: &mut Vec<u8>) {}

    /// See [`Codec::capacity`](crate::Codec::capacity).
    pub fn capacity(&self, stream: StreamId) -> usize {
        let gone = stream.0 != self.stream || self.done || matches!(self.send, Send::Ended | Send::Wait);
        if gone { 0 } else { usize::MAX }
    }

    /// See [`Codec::ping`](crate::Codec::ping).
    pub fn ping(&mut self, _payload: [u8; 8], _out: &mut Vec<u8>) -> bool {
        false
    }

    /// See [`Codec::refill`](crate::Codec::refill).
    pub fn refill(&mut self) {}

    /// See [`Codec::state`](crate::Codec::state).
    pub fn state(&self) -> ConnState {
        if self.done {
            ConnState::Done
        } else if self.tunnel && self.send == Send::Ended {
            ConnState::WriteEnded
        } else if self.draining || self.close || self.tunnel {
            ConnState::Draining
        } else {
            ConnState::Open
        }
    }

    /// See [`Codec::active`](crate::Codec::active).
    pub fn active(&self) -> usize {
        usize::from(self.active && !self.done)
    }

    /// See [`Codec::decline_upgrade`](crate::Codec::decline_upgrade).
    pub fn decline_upgrade(&mut self, stream: StreamId) {
        if stream.0 == self.stream && self.active && self.recv == Recv::Wait && !self.asked.connect {
            self.asked.upgrade = None;
            self.recv = Recv::Ended;
            self.settle();
        }
    }

    /// See [`Codec::takes_upgrade`](crate::Codec::takes_upgrade).
    pub fn takes_upgrade(&self) -> Option<bool> {
        Some(true)
    }

    /// See [`Codec::waits`](crate::Codec::waits).
    pub fn waits(&self) -> bool {
        self.active && !self.done && matches!(self.recv, Recv::Wait | Recv::Ended)
    }

    /// See [`Codec::unconsumed`](crate::Codec::unconsumed).
    pub fn unconsumed(&self) -> usize {
        self.limits.unconsumed()
    }

    /// Whether the peer of this exchange speaks HTTP/1.0.
    pub fn is_http_10(&self) -> bool {
        self.asked.http_10
    }

    /// Takes the next step of the peer's bytes: (bytes taken, event). Nothing taken and no event: more bytes are needed.
    fn step<'b>(&mut self, wire: &'b [u8], stream: StreamId) -> Result<(usize, Option<Event<'b>>), ConnError> {
        if wire.is_empty() {
            return Ok((0, None));
        }
        match &mut self.recv {
            Recv::Idle => Err(ConnError::h1(0, "bytes without a request")),
            Recv::Wait | Recv::Ended => Ok((0, None)),
            Recv::Head if self.client => self.response(wire, stream),
            Recv::Head => self.request(wire, stream),
            Recv::UntilClose => Ok((wire.len(), Some(Event::Data { stream, data: wire, end: false }))),
            Recv::Body(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(wire.len());
                *left -= n as u64;
                let end = *left == 0;
                if end {
                    self.recv = Recv::Ended;
                }
                Ok((n, Some(Event::Data { stream, data: wire.get(..n).unwrap_or_default(), end })))
            }
            Recv::Chunked(chunk) => {
                let (n, got) = chunk.step(wire, &mut self.scanned, &self.limits)?;
                let event = match got {
                    None => None,
                    Some(chunk::Got::Data(data)) => Some(Event::Data { stream, data, end: false }),
                    Some(chunk::Got::End(trailers)) => {
                        self.recv = Recv::Ended;
                        Some(match trailers {
                            Some(head) => Event::Trailers { stream, head },
                            None => Event::Data { stream, data: &[], end: true },
                        })
                    }
                };
                Ok((n, event))
            }
        }
    }

    /// Moves on to the next exchange, or ends, when both directions of this one have ended.
    fn settle(&mut self) {
        if !self.active || self.done {
            return;
        }
        match (self.recv == Recv::Ended, self.send == Send::Ended) {
            (true, true) if self.close || self.draining || self.tunnel => self.done = true,
            (true, true) => {
                self.stream += 2;
                self.active = false;
                self.recv = if self.client { Recv::Idle } else { Recv::Head };
                self.send = Send::Idle;
                (self.scanned, self.blank, self.interim, self.dropped) = (0, 0, 0, 0);
                self.asked = Asked::default();
            }
            // The response is complete, the request is not: the rest of it is of no use.
            (true, false) if self.client && !self.tunnel => self.done = true,
            (false, true) if !self.client && !self.tunnel => {
                let too_long = matches!(self.recv, Recv::Body(left) if left > self.limits.drain_body as u64);
                self.done = self.close || self.draining || too_long;
            }
            _ => {}
        }
    }

    fn fail(&mut self, e: &ConnError, out: &mut Vec<u8>) {
        let unanswered = !self.client && (!self.active || self.send == Send::Idle);
        if e.status > 0 && unanswered {
            encode::bare_response(e.status, out);
        }
        self.done = true;
    }
}
