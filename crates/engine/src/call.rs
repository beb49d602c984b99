//! Calls that the data path makes itself: requests without a client's connection, over clusters, pools, TLS, breakers and timeouts as any other.

use std::time::Duration;

use mizzen_http::Head;
use mizzen_types::Name;

use crate::id::{CheckId, ConnId, StreamId};

/// A call to make.
#[derive(Clone, Debug)]
pub struct Call {
    /// The cluster that is called.
    pub cluster: Name,
    /// The request's head.
    pub head: Head,
    /// The request's body.
    pub body: Vec<u8>,
    /// How long the whole answer may take; none: for ever.
    pub timeout: Option<Duration>,
    /// The longest body of an answer, in bytes; a longer one is a failure.
    pub most: usize,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub enum CallAnswer {
    /// The server's answer.
    Answered {
        /// The final response's head.
        head: Head,
        /// Its body.
        body: Vec<u8>,
        /// Its trailers, if it had any.
        trailers: Option<Head>,
    },
    /// There was none; why, in Envoy's words for response code details.
    Failed(String),
}

/// Who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A filter of this request, which waits.
    Filter(StreamId),
    /// A connection that is served if the answer lets it.
    Gate(ConnId),
    /// The control thread, by a number of its own.
    Control(u64),
    /// A TCP stream, for a way through an HTTP proxy, which is not there yet.
    Tunnel(StreamId),
    /// The connection that lies above the tunnel.
    Conn(ConnId),
    /// The connection that lay above the tunnel, and is gone.
    Gone,
    /// A host's checks: to this host, however it is, and with nothing counted.
    Check(CheckId),
}

/// The client's side of a stream that is a call.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) caller: Caller,
    pub(crate) most: usize,
    /// When the stream's timer fires, if it is set.
    pub(crate) armed: Option<Duration>,
}
