//! Requests over HTTP/2 as nobody would write them: each field as it is said, in the order in which it is said.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use mizzen_http::hpack::Decoder;

use crate::table::Call;

/// A field of a head.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What a peer takes without having said so.
const FRAME: usize = 16 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(body.len()).expect("a short frame").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

/// A length in HPACK's form, without its text's being compressed.
fn length(n: usize, out: &mut Vec<u8>) {
    let Some(mut rest) = n.checked_sub(127) else { return out.push(u8::try_from(n).expect("below 127")) };
    out.push(127);
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).expect("below 128") | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).expect("below 128"));
}

/// The first bytes of a connection with one request on it, without a body.
pub(crate) fn request(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal that is kept in no table.
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(SETTINGS, 0, 0, &[], &mut out);
    let parts: Vec<&[u8]> = block.chunks(FRAME).collect();
    for (at, part) in parts.iter().enumerate() {
        let kind = if at == 0 { HEADERS } else { CONTINUATION };
        let end = if at + 1 == parts.len() { END_HEADERS } else { 0 };
        let first = if at == 0 { END_STREAM } else { 0 };
        frame(kind, end | first, 1, part, &mut out);
    }
    out
}

/// Sends the call, and returns the answer's head as HTTP/1.1 would have it; empty: there is none.
///
/// # Errors
/// If nothing comes in time.
pub(crate) fn exchange(stream: &mut (impl Read + Write), call: &Call, now: Duration) -> io::Result<Vec<u8>> {
    let closed = |error: io::Error| if is_late(&error) { Err(error) } else { Ok(Vec::new()) };
    if stream.write_all(&call.bytes(now)).and_then(|()| stream.flush()).is_err() {
        return Ok(Vec::new());
    }
    loop {
        let mut head = [0; 9];
        if let Err(error) = stream.read_exact(&mut head) {
            return closed(error);
        }
        let mut body = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        if let Err(error) = stream.read_exact(&mut body) {
            return closed(error);
        }
        match head[3] {
            SETTINGS if head[4] & ACK == 0 => {
                let mut out = Vec::new();
                frame(SETTINGS, ACK, 0, &[], &mut out);
                // Whoever has closed its side may still have said something.
                let _ = stream.write_all(&out).and_then(|()| stream.flush());
            }
            HEADERS => return Ok(text(&body)),
            RST_STREAM => return Ok(Vec::new()),
            // Without an error, and with this one among those that are answered, it is only the last call of this connection.
            GOAWAY if body.get(4..8) != Some(&[0; 4]) || body.get(..4) == Some(&[0; 4]) => return Ok(Vec::new()),
            _ => {}
        }
    }
}

/// Whether nothing came in time.
pub(crate) fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn text(block: &[u8]) -> Vec<u8> {
    let mut out = b"HTTP/1.1 ".to_vec();
    Decoder::new(4096)
        .decode(block, 1 << 20, &mut |name, value| {
            if name != b":status" {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
            }
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        })
        .expect("an answer's head");
    out
}
