//! What a worker tells itself, so that nothing is done to a connection or stream while it is in hand, and nothing calls itself.

use crate::{
    CallAnswer, ConnId, DialId, Eof,
    id::{CheckId, StreamId, SweepId},
};

/// What happened, or is to be done within this turn.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection was accepted.
    Accepted(ConnId),
    /// Run what is spoken on a connection over its input.
    Parse(ConnId),
    /// A connection's backlog has room again.
    Room(ConnId),
    /// TLS is set up.
    Secured(ConnId),
    /// A new request.
    Request(StreamId),
    /// A request's route is to be found anew: a filter has changed what it depends on.
    Reroute(StreamId),
    /// A filter that holds a head back may go on: what it waited for of the body is there.
    Body(StreamId, Dir),
    /// A request is to be sent to an endpoint.
    Attempt(StreamId),
    /// Something of the response arrived.
    Response(StreamId),
    /// Move body bytes: towards the server, or back.
    Pump(StreamId, Dir),
    /// The server's side of a stream is gone.
    UpLost(StreamId, Lost),
    /// The client's side of a stream is gone.
    DownLost(StreamId, Gone),
    /// An upstream connection may take requests, or has gone idle.
    Idle(ConnId),
    /// What a stream waited for is there, or will not be: it looks again.
    Answered(StreamId),
    /// What a connection waited for is there, or will not be: it looks again.
    ConnAnswered(ConnId),
    /// A call of our own begins.
    Call(StreamId),
    /// A filter's call was answered.
    Called(StreamId, CallAnswer),
    /// The question was answered whether a connection may be served.
    Passed(ConnId, CallAnswer),
    /// A check's call was answered.
    Checked(CheckId, StreamId, CallAnswer),
    /// A call is given up by who made it. What it was to send is still sent.
    Cancel(StreamId),
    /// A dial to a listener of this worker's.
    DialInside(DialId),
    /// Bytes of a connection without a socket are to be carried on.
    Carry(ConnId),
    /// The other end of a connection without a socket has ended.
    Ended(ConnId, Eof),
    /// Everything drains and the last client has gone.
    Deserted,
}

/// Why the client's side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The connection ended.
    Closed,
    /// The client reset the stream.
    Reset,
    /// The client broke the protocol; how.
    Protocol(&'static str),
}

/// Why a try failed before or within its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// No connection was made; why.
    Connect(String),
    /// It took too long to make one.
    ConnectTimeout,
    /// The connection ended.
    Closed,
    /// The connection ended before anything of the request was sent.
    Unsent,
    /// The stream was reset by the server; refused unseen.
    Reset(bool),
    /// The stream crossed the GOAWAY of a server that took others: refused unseen, in good order.
    Crossed,
    /// The server broke the protocol; how.
    Protocol(&'static str),
    /// A breaker.
    Overflow,
}

/// A direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dir {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Whose timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    Conn(ConnId),
    Dial(DialId),
    /// Of a stream without a client's connection.
    Call(StreamId),
    /// Of a cluster's outlier detection.
    Sweep(SweepId),
    /// Of a host's checks.
    Check(CheckId),
}
