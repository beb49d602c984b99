//! One connection, either version.

use crate::error::{ConnError, Reason};
use crate::event::{ConnState, Event, StreamId};
use crate::head::Head;
use crate::limits::Limits;
use crate::{h1, h2};

/// An HTTP/1 or HTTP/2 connection, of either role. See the methods of [`h1::H1`] and [`h2::H2`].
#[derive(Debug)]
pub enum Codec {
    /// HTTP/1.1 (and 1.0).
    H1(Box<h1::H1>),
    /// HTTP/2.
    H2(Box<h2::H2>),
}

macro_rules! both {
    ($self:ident, $c:ident => $e:expr) => {
        match $self {
            Codec::H1($c) => $e,
            Codec::H2($c) => $e,
        }
    };
}

impl Codec {
    /// The server's side of HTTP/1.
    pub fn h1_server(limits: Limits) -> Codec {
        Codec::H1(Box::new(h1::H1::server(limits)))
    }

    /// The client's side of HTTP/1.
    pub fn h1_client(limits: Limits) -> Codec {
        Codec::H1(Box::new(h1::H1::client(limits)))
    }

    /// The server's side of HTTP/2; writes our SETTINGS.
    pub fn h2_server(limits: Limits, out: &mut Vec<u8>) -> Codec {
        Codec::H2(Box::new(h2::H2::server(limits, out)))
    }

    /// The client's side of HTTP/2; writes the preface and our SETTINGS.
    pub fn h2_client(limits: Limits, out: &mut Vec<u8>) -> Codec {
        Codec::H2(Box::new(h2::H2::client(limits, out)))
    }

    /// Whether this is HTTP/2.
    pub fn is_h2(&self) -> bool {
        matches!(self, Codec::H2(_))
    }

    /// Decodes the next event from `wire`: (bytes taken, event).
    ///
    /// Call again with the rest until the event is `None`; what was not taken then has to be presented again, in front of what
    /// arrives next. Own answers (SETTINGS and PING acknowledgements, window updates, resets) are appended to `out`. On HTTP/1 the
    /// server's side takes nothing of the next request before the response to the last one was sent to its end: call again
    /// after that. After an error, flush `out` and close.
    pub fn next<'b>(&mut self, wire: &'b [u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event<'b>>), ConnError> {
        both!(self, c => c.next(wire, out))
    }

    /// The peer closed its write side, with no bytes left untaken (or with some: a message cut short). Yields the end of a
    /// message that is ended by the close; otherwise open streams are lost: an error if there are any. Call it again until
    /// it yields `None`.
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ConnError> {
        both!(self, c => c.eof())
    }

    /// A new stream for a request (client), if one may be opened now. It exists once `send_head` was called on it.
    pub fn open(&mut self) -> Option<StreamId> {
        both!(self, c => c.open())
    }

    /// Whether `open` would yield a stream.
    pub fn can_open(&self) -> bool {
        both!(self, c => c.can_open())
    }

    /// Sends a request's or a response's head; interim responses (1xx) are sent by the same call, before the final one.
    /// On a stream that is gone, this and the other `send_*` do nothing.
    pub fn send_head(&mut self, stream: StreamId, head: &Head, end: bool, out: &mut Vec<u8>) {
        both!(self, c => c.send_head(stream, head, end, out))
    }

    /// Sends some of a body: how many bytes were taken (all, unless flow control of HTTP/2 forbids). `end` counts only
    /// if all bytes were taken. On a stream that is gone all bytes are taken and dropped.
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end: bool, out: &mut Vec<u8>) -> usize {
        both!(self, c => c.send_data(stream, data, end, out))
    }

    /// Sends trailer fields and ends the message. Where they cannot be carried (HTTP/1 body with a length), only ends it.
    pub fn send_trailers(&mut self, stream: StreamId, trailers: &Head, out: &mut Vec<u8>) {
        both!(self, c => c.send_trailers(stream, trailers, out))
    }

    /// Ends a stream by force. HTTP/1 has no other way than to end the connection: `state` is `Done` after it, unless nothing of
    /// the exchange was sent yet (client).
    pub fn reset(&mut self, stream: StreamId, code: Reason, out: &mut Vec<u8>) {
        both!(self, c => c.reset(stream, code, out))
    }

    /// Takes no new streams (server: tells the peer so; HTTP/1 by `connection: close` on the next response); those open go on.
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        both!(self, c => c.drain(out))
    }

    /// Ends the connection with a code; `state` is `Done` after it.
    pub fn goaway(&mut self, code: Reason, out: &mut Vec<u8>) {
        both!(self, c => c.goaway(code, out))
    }

    /// `n` received bytes of the body were passed on: the peer may send as many more. Withholding this is the backpressure of
    /// HTTP/2; on HTTP/1 it does nothing (stop presenting bytes instead).
    pub fn consumed(&mut self, stream: StreamId, n: usize, out: &mut Vec<u8>) {
        both!(self, c => c.consumed(stream, n, out))
    }

    /// How many bytes `send_data` would take now; `usize::MAX` on HTTP/1, 0 on a stream that is gone.
    pub fn capacity(&self, stream: StreamId) -> usize {
        both!(self, c => c.capacity(stream))
    }

    /// Asks the peer for a sign of life (HTTP/2; `false` on HTTP/1, which has none).
    pub fn ping(&mut self, payload: [u8; 8], out: &mut Vec<u8>) -> bool {
        both!(self, c => c.ping(payload, out))
    }

    /// Call about once a second: gives back the budgets against floods (HTTP/2).
    pub fn refill(&mut self) {
        both!(self, c => c.refill())
    }

    /// What the connection is good for now.
    pub fn state(&self) -> ConnState {
        both!(self, c => c.state())
    }

    /// The offer to switch protocols is not taken (server of HTTP/1): the request is an ordinary one, and complete (RFC 9110 §7.8). Without this the
    /// answer decides. An extended CONNECT is no offer: it can only be refused.
    pub fn decline_upgrade(&mut self, stream: StreamId) {
        both!(self, c => c.decline_upgrade(stream))
    }

    /// Whether the peer (a server) may be asked for an upgrade: HTTP/1 always, HTTP/2 if its SETTINGS allow extended CONNECT; `None` until they have
    /// come.
    pub fn takes_upgrade(&self) -> Option<bool> {
        both!(self, c => c.takes_upgrade())
    }

    /// Whether what comes next is not taken before the answer that is due (HTTP/1: a pipelined request, or bytes behind the offer of an
    /// upgrade): there is no use in reading more of it.
    pub fn waits(&self) -> bool {
        both!(self, c => c.waits())
    }

    /// The most bytes that `next` may leave untaken while it needs more to go on, see [`Limits::unconsumed`].
    pub fn unconsumed(&self) -> usize {
        both!(self, c => c.unconsumed())
    }

    /// Streams that have not ended in both directions.
    pub fn active(&self) -> usize {
        both!(self, c => c.active())
    }
}
