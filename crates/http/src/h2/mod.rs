//! HTTP/2.
#![allow(clippy::unimplemented)]

use crate::codec::{Event, State, StreamId};
use crate::error::{ConnError, Reason};
use crate::head::Head;
use crate::limits::Limits;

/// One HTTP/2 connection, of either role.
#[derive(Debug)]
pub struct H2 {
    limits: Limits,
}

impl H2 {
    /// The server's side; writes our SETTINGS.
    pub fn server(limits: Limits, out: &mut Vec<u8>) -> H2 {
        let _ = out;
        H2 { limits }
    }

    /// The client's side; writes the preface and our SETTINGS.
    pub fn client(limits: Limits, out: &mut Vec<u8>) -> H2 {
        let _ = out;
        H2 { limits }
    }

    /// See [`Codec::next`](crate::Codec::next).
    pub fn next<'b>(&mut self, wire: &'b [u8], out: &mut Vec<u8>) -> Result<(usize, Option<Event<'b>>), ConnError> {
        unimplemented!("{wire:?} {out:?}")
    }

    /// See [`Codec::eof`](crate::Codec::eof).
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ConnError> {
        unimplemented!()
    }

    /// See [`Codec::open`](crate::Codec::open).
    pub fn open(&mut self) -> Option<StreamId> {
        unimplemented!()
    }

    /// See [`Codec::can_open`](crate::Codec::can_open).
    pub fn can_open(&self) -> bool {
        unimplemented!()
    }

    /// See [`Codec::send_head`](crate::Codec::send_head).
    pub fn send_head(&mut self, stream: StreamId, head: &Head, end: bool, out: &mut Vec<u8>) {
        unimplemented!("{stream:?} {head:?} {end} {out:?}")
    }

    /// See [`Codec::send_data`](crate::Codec::send_data).
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end: bool, out: &mut Vec<u8>) -> usize {
        unimplemented!("{stream:?} {data:?} {end} {out:?}")
    }

    /// See [`Codec::send_trailers`](crate::Codec::send_trailers).
    pub fn send_trailers(&mut self, stream: StreamId, trailers: &Head, out: &mut Vec<u8>) {
        unimplemented!("{stream:?} {trailers:?} {out:?}")
    }

    /// See [`Codec::reset`](crate::Codec::reset).
    pub fn reset(&mut self, stream: StreamId, code: Reason, out: &mut Vec<u8>) {
        unimplemented!("{stream:?} {code:?} {out:?}")
    }

    /// See [`Codec::drain`](crate::Codec::drain).
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        unimplemented!("{out:?}")
    }

    /// See [`Codec::goaway`](crate::Codec::goaway).
    pub fn goaway(&mut self, code: Reason, out: &mut Vec<u8>) {
        unimplemented!("{code:?} {out:?}")
    }

    /// See [`Codec::consumed`](crate::Codec::consumed).
    pub fn consumed(&mut self, stream: StreamId, n: usize, out: &mut Vec<u8>) {
        unimplemented!("{stream:?} {n} {out:?}")
    }

    /// See [`Codec::capacity`](crate::Codec::capacity).
    pub fn capacity(&self, stream: StreamId) -> usize {
        unimplemented!("{stream:?}")
    }

    /// See [`Codec::ping`](crate::Codec::ping).
    pub fn ping(&mut self, payload: [u8; 8], out: &mut Vec<u8>) -> bool {
        unimplemented!("{payload:?} {out:?}")
    }

    /// See [`Codec::refill`](crate::Codec::refill).
    pub fn refill(&mut self) {}

    /// See [`Codec::state`](crate::Codec::state).
    pub fn state(&self) -> State {
        unimplemented!()
    }

    /// See [`Codec::active`](crate::Codec::active).
    pub fn active(&self) -> usize {
        unimplemented!()
    }
}
