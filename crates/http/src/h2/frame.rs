//! Frames: their header, their kinds, and how each is written.

use crate::error::Reason;

pub(super) const HEADER: usize = 9;
/// Largest stream id and largest window.
pub(super) const MAX_31: u32 = 0x7fff_ffff;
/// Windows and frames before any SETTINGS.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;
pub(super) const DEFAULT_FRAME: u32 = 16_384;

pub(super) mod kind {
    pub(in crate::h2) const DATA: u8 = 0;
    pub(in crate::h2) const HEADERS: u8 = 1;
    pub(in crate::h2) const PRIORITY: u8 = 2;
    pub(in crate::h2) const RST_STREAM: u8 = 3;
    pub(in crate::h2) const SETTINGS: u8 = 4;
    pub(in crate::h2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::h2) const PING: u8 = 6;
    pub(in crate::h2) const GOAWAY: u8 = 7;
    pub(in crate::h2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::h2) const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    pub(in crate::h2) const END_STREAM: u8 = 0x1;
    pub(in crate::h2) const ACK: u8 = 0x1;
    pub(in crate::h2) const END_HEADERS: u8 = 0x4;
    pub(in crate::h2) const PADDED: u8 = 0x8;
    pub(in crate::h2) const PRIORITY: u8 = 0x20;
}

pub(super) mod setting {
    pub(in crate::h2) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::h2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::h2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::h2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::h2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::h2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in crate::h2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// A frame's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHeader {
    pub(super) fn parse(wire: &[u8]) -> Option<FrameHeader> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *wire.first_chunk::<HEADER>()?;
        let len = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & MAX_31;
        Some(FrameHeader { len, kind, flags, stream })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

pub(super) fn header(len: usize, kind: u8, flags: u8, stream: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&bytes_of(len, kind, flags, stream));
}

/// The nine bytes before a frame's payload.
fn bytes_of(len: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER] {
    let [_, a, b, c] = (len as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [a, b, c, kind, flags, s0, s1, s2, s3]
}

pub(super) fn settings(all: &[(u16, u32)], out: &mut Vec<u8>) {
    header(all.len() * 6, kind::SETTINGS, 0, 0, out);
    for (id, value) in all {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn ping(payload: [u8; 8], ack: bool, out: &mut Vec<u8>) {
    header(8, kind::PING, if ack { flag::ACK } else { 0 }, 0, out);
    out.extend_from_slice(&payload);
}

pub(super) fn rst_stream(stream: u32, code: Reason, out: &mut Vec<u8>) {
    header(4, kind::RST_STREAM, 0, stream, out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn window_update(stream: u32, n: u32, out: &mut Vec<u8>) {
    header(4, kind::WINDOW_UPDATE, 0, stream, out);
    out.extend_from_slice(&n.to_be_bytes());
}

pub(super) fn goaway(last: u32, code: Reason, out: &mut Vec<u8>) {
    header(8, kind::GOAWAY, 0, 0, out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Turns `out[start..]`, 9 bytes of room and a header block, into HEADERS and, if it is too long for one frame, CONTINUATION.
pub(super) fn finish_headers(start: usize, stream: u32, end_stream: bool, max: usize, out: &mut Vec<u8>) {
    let end = if end_stream { flag::END_STREAM } else { 0 };
    let len = out.len().saturating_sub(start + HEADER);
    if len <= max {
        let head = bytes_of(len, kind::HEADERS, end | flag::END_HEADERS, stream);
        if let Some(room) = out.get_mut(start..start + HEADER) {
            room.copy_from_slice(&head);
        }
        return;
    }
    let block = out.split_off(start + HEADER);
    out.truncate(start);
    let frames = block.len().div_ceil(max);
    for (i, part) in block.chunks(max).enumerate() {
        let last = if i + 1 == frames { flag::END_HEADERS } else { 0 };
        let (kind, flags) = if i == 0 { (kind::HEADERS, end | last) } else { (kind::CONTINUATION, last) };
        header(part.len(), kind, flags, stream, out);
        out.extend_from_slice(part);
    }
}
