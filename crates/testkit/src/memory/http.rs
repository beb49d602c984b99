//! Programs of a mesh in memory: one that says what it sees, and a client's side.

use std::collections::HashMap;

use mizzen_engine::sim::Serve;
use mizzen_http::{Codec, ConnState, Event, Head, Limits, StreamId};

/// The header in which a program says who it is.
pub const SERVED_BY: &str = "x-served-by";
/// The header by which a request makes programs fail: their names, separated by commas.
pub const FAILS: &str = "x-fails";

/// A program that answers each request with its own name, and with the request's head as the body: a line for each field. Whom the request's
/// [`FAILS`] names answers with 503.
pub(super) fn program(name: String) -> Serve {
    let mut conns: HashMap<u64, (Codec, HashMap<StreamId, Head>)> = HashMap::new();
    Box::new(move |id, input, eof, out| {
        if input.is_empty() && !eof && !conns.contains_key(&id) {
            return false;
        }
        let (codec, open) = conns.entry(id).or_insert_with(|| {
            let h2 = input.starts_with(b"PRI");
            (if h2 { Codec::h2_server(Limits::default(), out) } else { Codec::h1_server(Limits::default()) }, HashMap::new())
        });
        let mut failed = false;
        while let Some(seen) = step(codec, input, out, &mut failed) {
            let done = match seen {
                Seen::Head(stream, head, end) => {
                    open.insert(stream, head);
                    end.then_some(stream)
                }
                Seen::Data(stream, _, end) => end.then_some(stream),
                Seen::End(stream) => Some(stream),
                Seen::Reset(stream) => {
                    open.remove(&stream);
                    None
                }
                Seen::Other => None,
            };
            let Some((stream, head)) = done.and_then(|stream| Some((stream, open.remove(&stream)?))) else { continue };
            let body = fields(&head);
            let fails = head.get_str(FAILS).is_some_and(|names| names.split(',').any(|one| one == name));
            let mut answer = Head::response(if fails { 503 } else { 200 });
            answer.set(SERVED_BY, &name);
            answer.set("content-length", body.len().to_string());
            codec.send_head(stream, &answer, false, out);
            codec.send_data(stream, body.as_bytes(), true, out);
        }
        failed || eof || codec.state() == ConnState::Done
    })
}

/// A head as lines, pseudo fields first.
fn fields(head: &Head) -> String {
    let mut text = String::new();
    for name in [":method", ":scheme", ":authority", ":path"] {
        text.push_str(&format!("{name}: {}\n", head.get_str(name).unwrap_or_default()));
    }
    for (name, value) in head.iter() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value)));
    }
    text
}

/// An event that owns what it says.
enum Seen {
    Head(StreamId, Head, bool),
    Data(StreamId, Vec<u8>, bool),
    End(StreamId),
    Reset(StreamId),
    Other,
}

/// The next event, taken off the front of `input`; `None` if there is none yet, or never will be.
fn step(codec: &mut Codec, input: &mut Vec<u8>, out: &mut Vec<u8>, failed: &mut bool) -> Option<Seen> {
    let Ok((n, event)) = codec.next(input, out) else {
        *failed = true;
        return None;
    };
    let seen = event.map(|event| match event {
        Event::Head { stream, head, end } => Seen::Head(stream, head, end),
        Event::Data { stream, data, end } => Seen::Data(stream, data.to_vec(), end),
        Event::Trailers { stream, .. } => Seen::End(stream),
        Event::Reset { stream, .. } => Seen::Reset(stream),
        _ => Seen::Other,
    });
    input.drain(..n);
    if let Some(Seen::Data(stream, data, _)) = &seen {
        codec.consumed(*stream, data.len(), out);
    }
    seen
}

/// A client's exchange over HTTP/1.1.
pub(super) struct Exchange {
    codec: Codec,
    input: Vec<u8>,
    /// The final answer, once its head is there.
    pub(super) head: Option<Head>,
    /// Its body.
    pub(super) body: Vec<u8>,
    /// Nothing follows.
    pub(super) done: bool,
}

impl Exchange {
    /// Begins with a request; the second are the bytes to send.
    pub(super) fn new(head: &Head) -> (Exchange, Vec<u8>) {
        let mut codec = Codec::h1_client(Limits::default());
        let mut out = Vec::new();
        if let Some(stream) = codec.open() {
            codec.send_head(stream, head, true, &mut out);
        }
        (Exchange { codec, input: Vec::new(), head: None, body: Vec::new(), done: false }, out)
    }

    /// Takes what has come.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let mut failed = false;
        while let Some(seen) = step(&mut self.codec, &mut self.input, &mut Vec::new(), &mut failed) {
            match seen {
                Seen::Head(_, head, end) if head.status() >= 200 => {
                    self.head = Some(head);
                    self.done |= end;
                }
                Seen::Data(_, data, end) => {
                    self.body.extend(data);
                    self.done |= end;
                }
                Seen::End(_) => self.done = true,
                _ => {}
            }
        }
        self.done |= failed;
    }
}
