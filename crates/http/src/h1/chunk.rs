//! The chunked coding (RFC 9112 §7.1).

use super::decode::{block_end, trailers};
use crate::error::ConnError;
use crate::head::{Head, is_hop_by_hop};
use crate::limits::Limits;

/// Longest line of a chunk's size with its extensions.
const LINE: usize = 256;

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    /// The line end after a chunk.
    Line,
    Trailers,
}

pub(super) enum Got<'b> {
    Data(&'b [u8]),
    End(Option<Head>),
}

impl Chunk {
    pub(super) fn step<'b>(&mut self, wire: &'b [u8], scanned: &mut usize, limits: &Limits) -> Result<(usize, Option<Got<'b>>), ConnError> {
        match *self {
            Chunk::Size => {
                let Some(end) = line_end(wire)? else { return Ok((0, None)) };
                let size = size(wire.get(..end).unwrap_or_default())?;
                *self = if size == 0 { Chunk::Trailers } else { Chunk::Data(size) };
                Ok((end + 2, None))
            }
            Chunk::Data(left) => {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(wire.len());
                let left = left - n as u64;
                *self = if left == 0 { Chunk::Line } else { Chunk::Data(left) };
                Ok((n, Some(Got::Data(wire.get(..n).unwrap_or_default()))))
            }
            Chunk::Line => match wire {
                [b'\r', b'\n', ..] => {
                    *self = Chunk::Size;
                    Ok((2, None))
                }
                [b'\r'] => Ok((0, None)),
                _ => Err(ConnError::h1(400, "chunk longer than its size")),
            },
            Chunk::Trailers => match wire {
                [b'\r', b'\n', ..] => Ok((2, Some(Got::End(None)))),
                [b'\r'] => Ok((0, None)),
                _ => {
                    let Some(end) = block_end(wire, scanned, limits.header_bytes)? else { return Ok((0, None)) };
                    let head = trailers(wire.get(..end).unwrap_or_default(), limits)?;
                    Ok((end, Some(Got::End(Some(head)))))
                }
            },
        }
    }
}

/// Where the line ends (at its CR).
fn line_end(wire: &[u8]) -> Result<Option<usize>, ConnError> {
    let line = wire.iter().take(LINE).position(|&b| b == b'\n');
    match line {
        Some(end) if end > 0 && wire.get(end - 1) == Some(&b'\r') => Ok(Some(end - 1)),
        Some(_) => Err(ConnError::h1(400, "bare line feed after a chunk size")),
        None if wire.len() >= LINE => Err(ConnError::h1(400, "chunk size line too long")),
        None => Ok(None),
    }
}

/// `1*HEXDIG [ chunk-ext ]`; extensions are looked at only for bytes that must not be there.
fn size(line: &[u8]) -> Result<u64, ConnError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at_checked(digits).unwrap_or_default();
    let bad = Err(ConnError::h1(400, "bad chunk size"));
    if digits.is_empty() || digits.len() > 15 {
        return bad;
    }
    let extension = rest.iter().skip_while(|b| matches!(b, b' ' | b'\t'));
    if !rest.is_empty() && (extension.clone().next() != Some(&b';') || rest.iter().any(|&b| (b < 0x20 && b != b'\t') || b == 0x7f)) {
        return bad;
    }
    let value = |d: &u8| (*d as char).to_digit(16).unwrap_or(0);
    Ok(digits.iter().fold(0, |n, d| (n << 4) | u64::from(value(d))))
}

/// Appends `data` as one chunk, and the end of the body.
pub(super) fn write(data: &[u8], end: bool, out: &mut Vec<u8>) {
    if !data.is_empty() {
        let mut digits = [0u8; 16];
        let (mut n, mut at) = (data.len(), digits.len());
        while n > 0 {
            at -= 1;
            if let (Some(d), Some(h)) = (digits.get_mut(at), b"0123456789abcdef".get(n & 15)) {
                *d = *h;
            }
            n >>= 4;
        }
        out.extend_from_slice(digits.get(at..).unwrap_or_default());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
    if end {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

/// Appends the end of the body with trailers.
pub(super) fn write_trailers(trailers: &Head, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter().filter(|(n, _)| !is_hop_by_hop(n)) {
        super::encode::field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}
