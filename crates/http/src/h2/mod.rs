//! HTTP/2 (RFC 9113), with extended CONNECT (RFC 8441). No server push, no priorities.

mod frame;
mod message;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

use crate::error::{ConnError, Reason};
use crate::event::{ConnState, Event, StreamId};
use crate::hpack::{Decoder, Encoder};
use crate::limits::Limits;
use crate::sniff::PREFACE;
use frame::{DEFAULT_FRAME, DEFAULT_WINDOW, MAX_31, setting};
use std::collections::VecDeque;
use stream::{Late, Side, Streams};

/// One HTTP/2 connection, of either role.
#[derive(Debug)]
pub struct H2 {
    limits: Limits,
    client: bool,
    /// Bytes of the client's preface that have still to come (server).
    preface: usize,
    /// The peer's first SETTINGS came.
    greeted: bool,
    /// The peer acknowledged our SETTINGS.
    acknowledged: bool,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    late: Late,
    /// Client: the id of the next stream. Server: the highest of the peer's.
    edge: u32,
    peer: Peer,
    /// What we may send on the connection.
    send_window: i64,
    /// What the peer may send on the connection.
    recv_window: i64,
    /// Received, not yet given back to the connection's window.
    owed: u32,
    /// Bytes of body that all streams together were given and have not consumed.
    held: u64,
    /// The DATA frame whose bytes are arriving.
    data: Option<DataFrame>,
    /// The header block whose frames are arriving.
    block: Option<Block>,
    events: VecDeque<Event<'static>>,
    /// Streams with `blocked`, in the order in which they ran dry.
    blocked: VecDeque<u32>,
    drain: Drain,
    /// The peer said GOAWAY.
    leaving: bool,
    done: bool,
    resets: i64,
    control: i64,
}

/// The peer's SETTINGS.
#[derive(Debug)]
struct Peer {
    frame: u32,
    window: u32,
    streams: u32,
    extended_connect: bool,
}

#[derive(Debug, Clone, Copy)]
struct DataFrame {
    stream: u32,
    /// Bytes of body to come.
    left: u32,
    /// Bytes of padding to come after them.
    pad: u32,
    end: bool,
    /// Nobody wants them.
    drop: bool,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end: bool,
    frames: u32,
    bytes: Vec<u8>,
    /// The stream depends on itself.
    refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// GOAWAY without a last stream was sent, and a PING after it: what the peer sends before its answer still counts.
    Announced,
    /// The GOAWAY that names the last stream was sent.
    Final(u32),
}

/// The payload of the PING that ends the first step of a drain.
const DRAIN_PING: [u8; 8] = *b"mzdrain\0";

impl H2 {
    /// The server's side; writes our SETTINGS.
    pub fn server(limits: Limits, out: &mut Vec<u8>) -> H2 {
        H2::new(limits, false, out)
    }

    /// The client's side; writes the preface and our SETTINGS.
    pub fn client(limits: Limits, out: &mut Vec<u8>) -> H2 {
        out.extend_from_slice(PREFACE);
        H2::new(limits, true, out)
    }

    fn new(limits: Limits, client: bool, out: &mut Vec<u8>) -> H2 {
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window.min(MAX_31)),
            (setting::MAX_HEADER_LIST_SIZE, limits.header_bytes as u32),
        ];
        if client {
            settings.push((setting::ENABLE_PUSH, 0));
        } else {
            settings.push((setting::MAX_CONCURRENT_STREAMS, limits.concurrent_streams));
            if limits.extended_connect {
                settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
            }
        }
        if limits.hpack_table != 4096 {
            settings.push((setting::HEADER_TABLE_SIZE, limits.hpack_table));
        }
        if limits.frame_size != DEFAULT_FRAME {
            settings.push((setting::MAX_FRAME_SIZE, limits.frame_size));
        }
        frame::settings(&settings, out);
        let window = limits.connection_window.clamp(DEFAULT_WINDOW, MAX_31);
        if window > DEFAULT_WINDOW {
            frame::window_update(0, window - DEFAULT_WINDOW, out);
        }
        H2 {
            client,
            preface: if client { 0 } else { PREFACE.len() },
            greeted: false,
            acknowledged: false,
            decoder: Decoder::new(limits.hpack_table as usize),
            encoder: Encoder::new(),
            streams: Streams::default(),
            late: Late::default(),
            edge: u32::from(client),
            peer: Peer { frame: DEFAULT_FRAME, window: DEFAULT_WINDOW, streams: 100, extended_connect: false },
            send_window: DEFAULT_WINDOW.into(),
            recv_window: window.into(),
            owed: 0,
            held: 0,
            data: None,
            block: None,
            events: VecDeque::new(),
            blocked: VecDeque::new(),
            drain: Drain::No,
            leaving: false,
            done: false,
            resets: limits.resets.into(),
            control: limits.control_frames.into(),
            limits,
        }
    }

    /// See [`Codec::next`](crate::Codec::next).
    pub fn next<'b>(&mut self, wire: &'b [u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event<'b>>), ConnError> {
        let mut at = 0;
        // Streams that ended may have made room.
        self.replenish(out);
        loop {
            if self.done {
                return Ok((wire.len(), None));
            }
            if let Some(event) = self.events.pop_front().or_else(|| self.unblock()) {
                return Ok((at, Some(event)));
            }
            self.settle();
            if self.done {
                return Ok((wire.len(), None));
            }
            let rest = wire.get(at..).unwrap_or_default();
            let (n, event) = self.step(rest, out).inspect_err(|e| self.goaway(e.code, out))?;
            at += n;
            if event.is_some() {
                return Ok((at, event));
            }
            if n == 0 && self.events.is_empty() {
                return Ok((at, None));
            }
        }
    }

    /// See [`Codec::eof`](crate::Codec::eof).
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ConnError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let lost = !self.done && !self.streams.is_empty();
        self.done = true;
        if lost { Err(ConnError::h2(Reason::NO_ERROR, "closed with streams open")) } else { Ok(None) }
    }

    /// See [`Codec::drain`](crate::Codec::drain).
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        if self.done || self.drain != Drain::No {
            return;
        }
        if self.client {
            self.drain = Drain::Final(0);
            frame::goaway(0, Reason::NO_ERROR, out);
        } else {
            self.drain = Drain::Announced;
            frame::goaway(MAX_31, Reason::NO_ERROR, out);
            frame::ping(DRAIN_PING, false, out);
        }
        self.settle();
    }

    /// See [`Codec::goaway`](crate::Codec::goaway).
    pub fn goaway(&mut self, code: Reason, out: &mut Vec<u8>) {
        if !self.done {
            frame::goaway(if self.client { 0 } else { self.edge }, code, out);
        }
        self.done = true;
    }

    /// See [`Codec::ping`](crate::Codec::ping).
    pub fn ping(&mut self, payload: [u8; 8], out: &mut Vec<u8>) -> bool {
        if !self.done {
            frame::ping(payload, false, out);
        }
        !self.done
    }

    /// See [`Codec::refill`](crate::Codec::refill).
    pub fn refill(&mut self) {
        self.resets = self.limits.resets.into();
        self.control = self.limits.control_frames.into();
    }

    /// See [`Codec::state`](crate::Codec::state).
    pub fn state(&self) -> ConnState {
        if self.done {
            ConnState::Done
        } else if self.drain != Drain::No || self.leaving || (self.client && self.edge > MAX_31) {
            ConnState::Draining
        } else {
            ConnState::Open
        }
    }

    /// See [`Codec::active`](crate::Codec::active).
    pub fn active(&self) -> usize {
        self.streams.len()
    }

    /// See [`Codec::unconsumed`](crate::Codec::unconsumed).
    pub fn unconsumed(&self) -> usize {
        self.limits.unconsumed()
    }

    /// See [`Codec::decline_upgrade`](crate::Codec::decline_upgrade).
    pub fn decline_upgrade(&mut self, _stream: StreamId) {}

    /// See [`Codec::takes_upgrade`](crate::Codec::takes_upgrade).
    pub fn takes_upgrade(&self) -> Option<bool> {
        self.greeted.then_some(self.peer.extended_connect)
    }

    /// See [`Codec::waits`](crate::Codec::waits).
    pub fn waits(&self) -> bool {
        false
    }

    /// Drops a stream that is over, and ends the connection if it was the last of a draining one.
    fn remove(&mut self, id: u32) {
        if let Some(s) = self.streams.remove(&id) {
            if s.blocked {
                // With the connection's window shut nobody else would take it off the list.
                self.blocked.retain(|b| *b != id);
            }
            self.held = self.held.saturating_sub(s.held.into());
            if s.recv != Side::Ended {
                self.late.add(id);
            }
            if s.over() {
                self.resets = (self.resets + 1).min(self.limits.resets.into());
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        let drained = matches!(self.drain, Drain::Final(_)) || self.leaving;
        if drained && self.streams.is_empty() && self.events.is_empty() {
            self.done = true;
        }
    }

    /// The next stream that may send again.
    fn unblock(&mut self) -> Option<Event<'static>> {
        if self.blocked.is_empty() || self.send_window <= 0 {
            return None;
        }
        // Each is looked at once: those whose own window is still shut go to the end.
        for _ in 0..self.blocked.len() {
            let id = self.blocked.pop_front()?;
            let Some(s) = self.streams.get_mut(&id).filter(|s| s.blocked) else { continue };
            if s.send_window > 0 {
                s.blocked = false;
                return Some(Event::Window { stream: StreamId(id) });
            }
            self.blocked.push_back(id);
        }
        None
    }
}
