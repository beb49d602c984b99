//! Helpers of this crate's tests.

use crate::{Codec, ConnError, Event, Head, StreamId};

/// An event that owns its bytes; neighbouring pieces of one body are merged, since splits show there and nowhere else.
#[derive(Debug, PartialEq, Clone)]
pub(crate) enum Seen {
    Head(u32, Head, bool),
    Data(u32, Vec<u8>, bool),
    Trailers(u32, Head),
    Reset(u32, u32),
    Window(u32),
    Goaway(u32, u32),
    Settings,
    Pong([u8; 8]),
    Failed(ConnError),
}

pub(crate) fn own(e: Event<'_>) -> Seen {
    match e {
        Event::Head { stream, head, end } => Seen::Head(stream.0, head, end),
        Event::Data { stream, data, end } => Seen::Data(stream.0, data.to_vec(), end),
        Event::Trailers { stream, head } => Seen::Trailers(stream.0, head),
        Event::Reset { stream, code, .. } => Seen::Reset(stream.0, code.0),
        Event::Window { stream } => Seen::Window(stream.0),
        Event::Goaway { last, code } => Seen::Goaway(last.0, code.0),
        Event::Settings => Seen::Settings,
        Event::Pong(p) => Seen::Pong(p),
    }
}

pub(crate) fn note(all: &mut Vec<Seen>, seen: Seen) {
    if let (Some(Seen::Data(id, bytes, end @ false)), Seen::Data(other, more, ends)) = (all.last_mut(), &seen)
        && id == other
    {
        bytes.extend_from_slice(more);
        *end = *ends;
        return;
    }
    all.push(seen);
}

/// A codec with what its caller keeps: untaken bytes and bytes to send.
pub(crate) struct Side {
    pub(crate) codec: Codec,
    pub(crate) wire: Vec<u8>,
    pub(crate) out: Vec<u8>,
    pub(crate) seen: Vec<Seen>,
    /// Give windows back, as a caller that keeps up.
    pub(crate) eager: bool,
    pub(crate) failed: bool,
}

impl Side {
    pub(crate) fn new(codec: Codec) -> Side {
        Side { codec, wire: Vec::new(), out: Vec::new(), seen: Vec::new(), eager: true, failed: false }
    }

    /// Presents more bytes, and calls `then` for each event.
    pub(crate) fn feed_with(&mut self, bytes: &[u8], then: &mut dyn FnMut(&mut Codec, &Seen, &mut Vec<u8>)) {
        self.wire.extend_from_slice(bytes);
        while !self.failed {
            let (n, event) = match self.codec.next(&self.wire, &mut self.out) {
                Ok((n, event)) => (n, event.map(own)),
                Err(e) => {
                    self.failed = true;
                    self.seen.push(Seen::Failed(e));
                    return;
                }
            };
            self.wire.drain(..n);
            let Some(event) = event else { return };
            if let (Seen::Data(id, data, _), true) = (&event, self.eager) {
                self.codec.consumed(StreamId(*id), data.len(), &mut self.out);
            }
            then(&mut self.codec, &event, &mut self.out);
            note(&mut self.seen, event);
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.feed_with(bytes, &mut |_, _, _| {});
    }
}

/// Moves bytes both ways until both are quiet.
pub(crate) fn settle(a: &mut Side, b: &mut Side) {
    while !(a.out.is_empty() && b.out.is_empty()) {
        let out = std::mem::take(&mut a.out);
        b.feed(&out);
        let out = std::mem::take(&mut b.out);
        a.feed(&out);
    }
}

/// Feeds `bytes` cut into pieces whose lengths repeat `cuts`.
pub(crate) fn feed_split(side: &mut Side, bytes: &[u8], cuts: &[usize], then: &mut dyn FnMut(&mut Codec, &Seen, &mut Vec<u8>)) {
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            return;
        }
        let (now, later) = rest.split_at((*cut).clamp(1, rest.len()));
        side.feed_with(now, then);
        rest = later;
    }
}
