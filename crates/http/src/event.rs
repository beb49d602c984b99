//! What either version tells of a connection.

use crate::error::Reason;
use crate::head::Head;

/// A request and its response on one connection: the HTTP/2 stream id; on HTTP/1 the exchanges are counted 1, 3, 5 …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// What arrived. `'b` is the wire: body bytes are lent, not copied.
#[derive(Debug, PartialEq)]
pub enum Event<'b> {
    /// A request's head (server) or a response's (client). A response's status may be 1xx: then more heads follow on the stream,
    /// except for 101, after which `Data` is the raw bytes of the new protocol.
    Head {
        /// The stream; new when this is a request.
        stream: StreamId,
        /// The head, in the common form (see [`Head`]).
        head: Head,
        /// Nothing follows on this stream in this direction.
        end: bool,
    },
    /// Some of the body. May be empty when `end` is set. Give the bytes back by `consumed` once they were passed on.
    Data {
        /// The stream.
        stream: StreamId,
        /// Bytes of the body, without chunk sizes or padding.
        data: &'b [u8],
        /// The message is complete.
        end: bool,
    },
    /// Trailer fields; the message is complete.
    Trailers {
        /// The stream.
        stream: StreamId,
        /// The fields; no pseudo fields.
        head: Head,
    },
    /// The stream is dead, by the peer's RST_STREAM or since the codec had to reset it for a fault of the peer.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why. `REFUSED_STREAM`: the peer did nothing with the request, it may be sent again elsewhere.
        code: Reason,
        /// The peer's fault, for the log; empty where the peer reset the stream itself.
        why: &'static str,
    },
    /// `send_data` had taken less than it was given; now `capacity` is above zero again.
    Window {
        /// The stream.
        stream: StreamId,
    },
    /// The peer opens nothing more and takes no new streams. Own streams above `last` were not processed (each also gets a
    /// `Reset` with `REFUSED_STREAM`).
    Goaway {
        /// The last stream that the peer may have acted upon.
        last: StreamId,
        /// `NO_ERROR` for a peaceful end.
        code: Reason,
    },
    /// The peer's SETTINGS were taken over (HTTP/2): more streams may be open now.
    Settings,
    /// The answer to `ping`.
    Pong([u8; 8]),
}

/// What the connection is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnState {
    /// Takes new streams.
    Open,
    /// No new streams; those that are there go on.
    Draining,
    /// Nothing more will be sent (a tunnel's end was sent): flush `out`, then shut the write side down; reading goes on.
    WriteEnded,
    /// All is over: flush `out`, then close.
    Done,
}
