//! The streams of a connection.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// No final head yet.
    Head,
    Body,
    Ended,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) recv: Side,
    pub(super) send: Side,
    /// What we may send.
    pub(super) send_window: i64,
    /// What the peer may send.
    pub(super) recv_window: i64,
    /// Consumed, not yet given back.
    pub(super) owed: u32,
    /// Bytes of body told and not consumed.
    pub(super) held: u32,
    /// What is left of the announced body.
    pub(super) expect: Option<u64>,
    /// Interim responses received.
    pub(super) interim: u8,
    /// `send_data` refused bytes.
    pub(super) blocked: bool,
    /// The request is HEAD.
    pub(super) head: bool,
    /// The request is CONNECT, plain or extended.
    pub(super) tunnel: bool,
    /// The protocol of an extended CONNECT.
    pub(super) protocol: Option<Box<str>>,
}

impl Stream {
    pub(super) fn new(send_window: i64, recv_window: i64) -> Stream {
        Stream {
            recv: Side::Head,
            send: Side::Head,
            send_window,
            recv_window,
            owed: 0,
            held: 0,
            expect: None,
            interim: 0,
            blocked: false,
            head: false,
            tunnel: false,
            protocol: None,
        }
    }

    pub(super) fn over(&self) -> bool {
        self.recv == Side::Ended && self.send == Side::Ended
    }

    /// Counts `n` bytes of body; `false` if they, or the end now, contradict `content-length`.
    pub(super) fn count(&mut self, n: u64, end: bool) -> bool {
        match &mut self.expect {
            None => true,
            Some(left) => match left.checked_sub(n) {
                None => false,
                Some(rest) => {
                    *left = rest;
                    !end || rest == 0
                }
            },
        }
    }
}

/// The streams that we reset while the peer was still sending: what it had sent before it knew is no fault of its.
#[derive(Debug, Default)]
pub(super) struct Late {
    ids: VecDeque<u32>,
    /// Up to here some are forgotten.
    floor: u32,
}

impl Late {
    const MOST: usize = 256;

    pub(super) fn add(&mut self, id: u32) {
        if self.ids.len() == Self::MOST
            && let Some(oldest) = self.ids.pop_front()
        {
            self.floor = self.floor.max(oldest);
        }
        self.ids.push_back(id);
    }

    /// Nothing more comes for it.
    pub(super) fn ended(&mut self, id: u32) {
        self.ids.retain(|i| *i != id);
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        id <= self.floor || self.ids.contains(&id)
    }
}

/// Ids are small numbers that the peer chooses in order: one multiplication spreads them.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u32(u32::from(*b));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(super) type Streams = HashMap<u32, Stream, BuildHasherDefault<IdHasher>>;
