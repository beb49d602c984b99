//! Bytes in and out of connections.

use super::Worker;
use crate::{
    Action, ConnId, Eof, How,
    conn::{Below, Closing, Proto},
    conns::Conns,
    event::{Dir, Event, Gone, Lost},
};

impl Worker {
    /// Bytes were read: how many were taken (all, if the connection is known). If fewer than all, present the rest again after
    /// `Action::Read(conn, true)`.
    pub fn bytes(&mut self, id: ConnId, wire: &mut [u8]) -> usize {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return wire.len() };
        conn.last = now;
        if conn.is_deaf() {
            return wire.len();
        }
        let taken = wire.len().min(conn.left());
        if taken < wire.len() {
            // The driver stops reading by itself.
            conn.reading = false;
        }
        let wire = wire.get(..taken).unwrap_or_default();
        let plain = conn.tls.is_none();
        self.conns.ready(id);
        if !plain {
            self.decrypt(id, wire);
        } else if let Some(conn) = self.conns.get_mut(id) {
            conn.input.extend(wire);
        }
        self.conns.queue_parse(&mut self.cx, id);
        taken
    }

    /// How many bytes of a connection would be taken now. With 0 the driver stops reading by itself, as if not all bytes had been taken.
    pub fn room(&mut self, id: ConnId) -> usize {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| !conn.is_deaf()) else { return usize::MAX };
        let left = conn.left();
        if left == 0 {
            conn.reading = false;
        }
        left
    }

    /// Lends a connection's own buffer, to read at most `most` bytes to its end, where so many are read at a time that copying them would cost.
    /// It is given back by [`Worker::filled`] before anything else happens. `None`: read elsewhere, for [`Worker::bytes`].
    pub fn lend(&mut self, id: ConnId, most: usize) -> Option<Vec<u8>> {
        let conn = self.conns.get_mut(id)?;
        let shaking = conn.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        if shaking || conn.is_deaf() || most > conn.left() {
            return None;
        }
        self.conns.ready(id);
        Some(self.conns.get_mut(id)?.wire().lend(most))
    }

    /// Takes a lent buffer back; `read`: how many bytes were appended to it.
    pub fn filled(&mut self, id: ConnId, buffer: Vec<u8>, read: usize) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.wire().restore(buffer);
        if read == 0 {
            return self.conns.rest(id);
        }
        conn.last = now;
        self.decrypt(id, &[]);
        self.conns.queue_parse(&mut self.cx, id);
    }

    /// Feeds a TLS session, with nothing to have it go on where it stopped for lack of room.
    pub(crate) fn decrypt(&mut self, id: ConnId, wire: &[u8]) {
        if let Err(error) = self.conns.decrypt(&mut self.cx, id, wire) {
            self.tls_failed(id, &error);
        }
    }

    /// Takes the next steps of some handshakes, of either side in turn: each costs as much as many requests, and a storm of new connections must
    /// not stop those that there are.
    pub(crate) fn run_handshakes(&mut self) {
        let mut left = self.cx.options.limits.handshakes;
        let mut side = 0;
        while left > 0 && self.handshakes_wait() {
            side = 1 - side;
            let Some(id) = self.conns.next_handshake(side) else { continue };
            left -= 1;
            if let Err(error) = self.conns.open_records(&mut self.cx, id, &[]) {
                self.tls_failed(id, &error);
            }
            if self.conns.get(id).is_some_and(|conn| conn.eof) {
                self.conns.queue_parse(&mut self.cx, id);
            }
        }
    }

    /// Whether handshakes wait for their turn: take another turn once the sockets were looked at.
    pub fn handshakes_wait(&self) -> bool {
        self.conns.handshakes_wait()
    }

    /// The other side's bytes have ended.
    pub fn ended(&mut self, id: ConnId, how: Eof) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if how == Eof::Half && conn.closing != Closing::Reset {
            conn.eof = true;
            if conn.closing == Closing::Close {
                return;
            }
            // A TLS stream cut off without its closing alert: the message may be cut short, so it is no orderly end.
            self.conns.queue_parse(&mut self.cx, id);
        } else {
            self.drop_conn(id, Gone::Closed, Lost::Closed);
            self.remove(id, Some(How::Close));
        }
    }

    /// The bytes to be written to a connection now.
    pub fn pending(&self, id: ConnId) -> &[u8] {
        self.conns.get(id).map(|conn| conn.out.as_slice()).unwrap_or_default()
    }

    /// So many of them were written.
    pub fn wrote(&mut self, id: ConnId, n: usize) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.last = now;
        conn.written(n);
        let low = conn.high(&self.cx.options.limits) / 2;
        if conn.backlog() <= low && (!conn.reading || !conn.blocked.is_empty()) {
            self.cx.inbox.push_back(Event::Room(id));
        }
        if conn.out.is_empty() {
            let more = conn.closing != Closing::No || !conn.tx.is_empty();
            self.conns.rest(id);
            if more {
                self.conns.mark(id);
            }
        }
    }

    /// Seals what is to be sent, asks for the writing, and closes what is to be closed.
    pub(crate) fn flush(&mut self) {
        let mut dirty = self.conns.take_dirty();
        for id in dirty.drain(..) {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.dirty = false;
            if let Err(error) = self.conns.seal(&mut self.cx, id) {
                self.tls_failed(id, &error);
                continue;
            }
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let pending = !conn.out.is_empty();
            let closing = conn.closing;
            match closing {
                Closing::Reset => self.remove(id, Some(How::Reset)),
                _ if pending => match conn.below {
                    Below::Socket => self.cx.actions.push(Action::Write(id)),
                    Below::Pipe(_) | Below::Stream(_) => self.cx.inbox.push_back(Event::Carry(id)),
                },
                Closing::Close => self.remove(id, Some(How::Close)),
                Closing::Write => {
                    conn.closing = Closing::WriteDone;
                    // With TLS the closing alert has said it; the socket stays open for what still comes in.
                    match conn.below {
                        Below::Socket => self.cx.actions.push(Action::Close(id, How::Write)),
                        Below::Pipe(other) => self.cx.inbox.push_back(Event::Ended(other, Eof::Half)),
                        Below::Stream(call) => self.end_tunnel(call),
                    }
                }
                Closing::No | Closing::WriteDone => {}
            }
        }
        self.conns.flushed(dirty);
        self.telemetry.flush(&mut self.cx);
    }

    /// Runs what is spoken on a connection over its input.
    pub(crate) fn parse(&mut self, id: ConnId) {
        self.catch_up_with(id);
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.queued = false;
        if conn.closing >= Closing::Close {
            return;
        }
        if Conns::may_decrypt(conn) {
            self.decrypt(id, &[]);
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        match &conn.proto {
            Proto::Sniff => self.sniff(id),
            Proto::Handshake => {
                if conn.eof && !conn.shaking {
                    self.drop_conn(id, Gone::Closed, Lost::Connect("connection closed in the TLS handshake".to_owned()));
                    self.remove(id, Some(How::Close));
                }
            }
            Proto::Tcp(stream) => {
                let stream = *stream;
                self.tcp_input(id, stream);
            }
            Proto::Check(check) => {
                let check = *check;
                self.check_input(check, id);
            }
            // What comes waits; a client that has said all it has to say may still be served.
            Proto::Gate(_) => {}
            Proto::Choose => self.choose_codec(id),
            Proto::Http(_) => self.parse_http(id),
            Proto::Dead => {
                conn.input.clear();
                if conn.eof {
                    self.close(id, Closing::Close);
                }
            }
        }
        // What TLS still holds is decrypted after what was decrypted has been taken.
        let Some(conn) = self.conns.get_mut(id) else { return };
        let more = Conns::may_decrypt(conn) && conn.tls.as_ref().is_some_and(|tls| !tls.is_handshaking());
        if more {
            self.conns.queue_parse(&mut self.cx, id);
        }
        self.conns.regulate(&mut self.cx, id);
        self.conns.rest(id);
    }

    /// A connection's backlog has room: the streams that waited for it go on.
    pub(crate) fn has_room(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let is_down = conn.down().is_some();
        let blocked = std::mem::take(&mut conn.blocked);
        let tcp = matches!(conn.proto, Proto::Tcp(_));
        for stream in blocked {
            let dir = if is_down { Dir::Down } else { Dir::Up };
            if tcp {
                self.tcp_pump(stream, dir);
            } else {
                self.pump(stream, dir);
            }
        }
        self.conns.regulate(&mut self.cx, id);
        let Some(conn) = self.conns.get(id).filter(|conn| conn.held) else { return };
        let Some(http) = conn.http() else { return };
        // HTTP/1 may be held for its partner's sake too.
        let high = self.cx.options.limits.stream_buffer;
        let full = |stream: &crate::stream::Stream| (if is_down { &stream.req } else { &stream.resp }).buf.len() >= high;
        let full = !http.codec.is_h2() && http.streams.iter().any(|(_, id)| self.streams.get(*id).is_some_and(full));
        if !full {
            self.conns.hold(&mut self.cx, id, false);
        }
    }
}
