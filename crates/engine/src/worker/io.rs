//! Bytes in and out of connections, and their closing.

use mizzen_http::{ConnError, Reason};

use super::{Event, Gone, Lost, Worker};
use crate::{
    Action, ConnId, Eof, How,
    conn::{Closing, Conn, Owner, Proto, Role},
    stream::StreamId,
};

/// Plaintext that a TLS session may put before what is spoken at a time.
const ROOM: usize = 64 * 1024;

impl Worker {
    /// Bytes were read: how many were taken (all, if the connection is known). If fewer than all, present the rest again after
    /// `Action::Read(conn, true)`.
    pub fn bytes(&mut self, id: ConnId, wire: &mut [u8]) -> usize {
        let (now, all) = (self.now.mono, wire.len());
        let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) else { return all };
        conn.last = now;
        if conn.closing >= Closing::Close || conn.eof {
            return all;
        }
        let room = conn.most_stored().saturating_sub(conn.stored());
        let taken = wire.len().min(room);
        let wire = wire.get(..taken).unwrap_or_default();
        if taken < all {
            // The driver stops reading by itself.
            conn.reading = false;
        }
        conn.input.ready(&mut self.spare);
        if conn.tls.is_some() {
            self.decrypt(id, wire);
        } else {
            conn.input.extend(wire);
        }
        self.queue_parse(id);
        taken
    }

    /// Feeds a TLS session, with nothing to have it go on where it stopped for lack of room. A handshake's next step waits for its turn.
    pub(crate) fn decrypt(&mut self, id: ConnId, wire: &[u8]) {
        let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) else { return };
        let side = usize::from(conn.down().is_some());
        let Some(tls) = &mut conn.tls else { return };
        if !tls.is_handshaking() {
            return self.open_records(id, wire);
        }
        tls.store(wire);
        if !std::mem::replace(&mut conn.shaking, true)
            && let Some(waiting) = self.handshakes.get_mut(side)
        {
            waiting.push_back(id);
        }
    }

    /// Takes the next steps of some handshakes, of either side in turn: each costs as much as many requests, and a storm of new connections must
    /// not stop those that there are.
    pub(crate) fn run_handshakes(&mut self) {
        let mut left = self.options.limits.handshakes;
        let mut side = 0;
        while left > 0 && self.handshakes_wait() {
            side = 1 - side;
            let Some(id) = self.handshakes.get_mut(side).and_then(std::collections::VecDeque::pop_front) else { continue };
            let Some(conn) = self.conn(id) else { continue };
            conn.shaking = false;
            left -= 1;
            self.open_records(id, &[]);
            if self.conn_ref(id).is_some_and(|conn| conn.eof) {
                self.queue_parse(id);
            }
        }
    }

    /// Whether handshakes wait for their turn: take another turn once the sockets were looked at.
    pub fn handshakes_wait(&self) -> bool {
        self.handshakes.iter().any(|waiting| !waiting.is_empty())
    }

    fn open_records(&mut self, id: ConnId, wire: &[u8]) {
        let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) else { return };
        let Some(tls) = &mut conn.tls else { return };
        let was = tls.is_handshaking();
        let room = if conn.held { conn.input.len().max(1) } else { ROOM.max(conn.input.len() + 1) };
        let result = tls.read(wire, &mut conn.input, &mut conn.out, room);
        let finished = was && !tls.is_handshaking();
        if tls.peer_closed() {
            conn.eof = true;
        }
        let dirty = !conn.out.is_empty();
        match result {
            Ok(()) if finished => self.inbox.push_back(Event::Secured(id)),
            Ok(()) => {}
            Err(error) => {
                self.tls_failed(id, &error);
                return;
            }
        }
        if dirty {
            self.mark(id);
        }
    }

    /// Has what is spoken on a connection look at its input, later in this turn.
    pub(crate) fn queue_parse(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id)
            && !conn.queued
        {
            conn.queued = true;
            self.inbox.push_back(Event::Parse(id));
        }
    }

    /// The other side's bytes have ended.
    pub fn ended(&mut self, id: ConnId, how: Eof) {
        let Some(conn) = self.conn(id) else { return };
        if how == Eof::Half && conn.closing != Closing::Reset {
            conn.eof = true;
            if conn.closing == Closing::Close {
                return;
            }
            // A TLS stream cut off without its closing alert: the message may be cut short, so it is no orderly end.
            self.queue_parse(id);
        } else {
            self.drop_conn(id, Gone::Closed, Lost::Closed);
            self.remove(id, Some(How::Close));
        }
    }

    /// The bytes to be written to a connection now.
    pub fn pending(&self, id: ConnId) -> &[u8] {
        self.conn_ref(id).map(|conn| conn.out.as_slice()).unwrap_or_default()
    }

    /// So many of them were written.
    pub fn wrote(&mut self, id: ConnId, n: usize) {
        let (now, low) = (self.now.mono, self.options.limits.stream_buffer / 2);
        let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) else { return };
        conn.last = now;
        conn.written(n);
        let backlog = conn.backlog();
        if backlog <= low && (!conn.reading || !conn.blocked.is_empty()) {
            self.inbox.push_back(Event::Room(id));
        }
        if conn.out.is_empty() {
            conn.out.rest(&mut self.spare);
            if conn.closing != Closing::No || !conn.tx.is_empty() {
                self.mark(id);
            }
        }
    }

    /// Puts a connection on the list of those to be flushed at the end of the turn.
    pub(crate) fn mark(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Seals what is to be sent, asks for the writing, and closes what is to be closed.
    pub(crate) fn flush(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(conn) = self.conn(id) else { continue };
            conn.dirty = false;
            let held = conn.input.len();
            if let Err(error) = conn.seal() {
                self.tls_failed(id, &error);
                continue;
            }
            if conn.closing >= Closing::Write
                && conn.tx.is_empty()
                && let Some(tls) = &mut conn.tls
                && !tls.is_handshaking()
            {
                tls.close(&mut conn.input, &mut conn.out);
            }
            if conn.tx.is_empty() && conn.tx.capacity() > 4096 {
                let tx = std::mem::take(&mut conn.tx);
                self.spare.put(tx);
            }
            let Some(conn) = self.conn(id) else { continue };
            if conn.input.len() > held && !conn.queued {
                conn.queued = true;
                self.inbox.push_back(Event::Parse(id));
            }
            let Some(conn) = self.conn(id) else { continue };
            let pending = !conn.out.is_empty();
            let closing = conn.closing;
            match closing {
                Closing::Reset => self.remove(id, Some(How::Reset)),
                _ if pending => self.actions.push(Action::Write(id)),
                Closing::Close => self.remove(id, Some(How::Close)),
                Closing::Write => {
                    conn.closing = Closing::WriteDone;
                    // With TLS the closing alert has said it; the socket stays open for what still comes in.
                    self.actions.push(Action::Close(id, How::Write));
                }
                Closing::No | Closing::WriteDone => {}
            }
        }
        for (log, lines) in self.logs.iter_mut().filter(|(_, lines)| !lines.is_empty()) {
            self.actions.push(Action::Log(log.clone(), std::mem::take(lines)));
        }
    }

    /// Stops or restarts a connection's reading and parsing.
    pub(crate) fn hold(&mut self, id: ConnId, hold: bool) {
        let Some(conn) = self.conn(id) else { return };
        conn.held = hold;
        self.regulate(id);
        if !hold {
            self.queue_parse(id);
        }
    }

    /// Tells the driver whether more bytes of a connection are wanted, if that has changed.
    pub(crate) fn regulate(&mut self, id: ConnId) {
        let most = self.most_out();
        let Some(conn) = self.conn(id) else { return };
        let wanted = conn.wants_bytes(most);
        if conn.reading != wanted {
            conn.reading = wanted;
            self.actions.push(Action::Read(id, wanted));
        }
    }

    /// Bytes on their way to a peer beyond which nothing more of it is read: its HTTP/2 pings and settings, its pipelined requests and its key
    /// updates are answered, and must not pile up if it does not read.
    pub(crate) fn most_out(&self) -> usize {
        4 * self.options.limits.stream_buffer
    }

    /// Runs what is spoken on a connection over its input.
    pub(crate) fn parse(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.queued = false;
        if conn.closing >= Closing::Close {
            return;
        }
        let stuck = !conn.held && conn.tls.as_ref().is_some_and(|tls| tls.holds()) && conn.input.len() < ROOM;
        if stuck {
            self.decrypt(id, &[]);
        }
        let Some(conn) = self.conn(id) else { return };
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
        let Some(conn) = self.conn(id) else { return };
        let more = !conn.held && conn.tls.as_ref().is_some_and(|tls| tls.holds() && !tls.is_handshaking()) && conn.input.len() < ROOM;
        if more {
            self.queue_parse(id);
        }
        self.regulate(id);
        if let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) {
            conn.input.rest(&mut self.spare);
        }
    }

    /// A connection's backlog has room: the streams that waited for it go on.
    pub(crate) fn room(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let is_down = conn.down().is_some();
        let blocked = std::mem::take(&mut conn.blocked);
        let tcp = matches!(conn.proto, Proto::Tcp(_));
        for stream in blocked {
            let dir = if is_down { super::Dir::Down } else { super::Dir::Up };
            if tcp {
                self.tcp_pump(stream, dir);
            } else {
                self.pump(stream, dir);
            }
        }
        self.regulate(id);
        let Some(conn) = self.conn_ref(id).filter(|conn| conn.held) else { return };
        let Some(http) = conn.http() else { return };
        // HTTP/1 may be held for its partner's sake too.
        let high = self.options.limits.stream_buffer;
        let full = |stream: &crate::stream::Stream| (if is_down { &stream.req } else { &stream.resp }).buf.len() >= high;
        let full = !http.codec.is_h2() && http.streams.iter().any(|(_, id)| self.streams.get(*id).is_some_and(full));
        if !full {
            self.hold(id, false);
        }
    }

    /// Waits in `conn`'s list until it has room.
    pub(crate) fn block(conn: &mut Conn, stream: StreamId) {
        if !conn.blocked.contains(&stream) {
            conn.blocked.push(stream);
        }
    }

    /// Closes a connection when all is sent (or at once). Its streams must have been told.
    pub(crate) fn close(&mut self, id: ConnId, how: Closing) {
        let now = self.now.mono;
        let Some(conn) = self.conn(id) else { return };
        if conn.closing < how {
            conn.closing = how;
            if how >= Closing::Close {
                conn.proto = Proto::Dead;
                conn.input.clear();
                conn.blocked.clear();
                // A peer that does not read must not keep it open for ever.
                conn.deadline = Some(now + std::time::Duration::from_secs(5));
            }
        }
        self.mark(id);
        self.regulate(id);
        self.arm(id);
    }

    /// Tells all who have to do with a connection that it is gone; it stays in its slot.
    pub(crate) fn drop_conn(&mut self, id: ConnId, gone: Gone, lost: Lost) {
        let Some(conn) = self.conn(id) else { return };
        let was_up = match &mut conn.role {
            Role::Up(up) => {
                // It makes room for another one at once, not when its last bytes are out.
                up.guard = None;
                Some(up.owner)
            }
            Role::Down(_) => None,
        };
        let proto = std::mem::replace(&mut conn.proto, Proto::Dead);
        let streams: Vec<StreamId> = match &proto {
            Proto::Tcp(stream) => vec![*stream],
            Proto::Http(http) => http.streams.iter().map(|(_, stream)| *stream).collect(),
            Proto::Sniff | Proto::Handshake | Proto::Choose | Proto::Dead => Vec::new(),
        };
        let handshake = matches!(proto, Proto::Handshake);
        match was_up {
            None => {
                self.inbox.extend(streams.into_iter().map(|stream| Event::DownLost(stream, gone)));
                if matches!(proto, Proto::Sniff | Proto::Handshake) {
                    self.connection_failed(id, None);
                }
            }
            Some(owner) => {
                for stream in streams {
                    let position = self.streams.get(stream).and_then(|s| s.up.as_ref()).map(|up| up.position);
                    let unsent = position.zip(self.conn_ref(id)).is_some_and(|(position, conn)| conn.unsent(position));
                    let lost = if unsent && lost == Lost::Closed { Lost::Unsent } else { lost.clone() };
                    self.inbox.push_back(Event::UpLost(stream, lost));
                }
                match owner {
                    Owner::Pool(pool) => self.pool_lost(pool, id, handshake.then_some(lost)),
                    Owner::Stream(stream) if handshake => self.inbox.push_back(Event::UpLost(stream, lost)),
                    Owner::Stream(_) => {}
                }
            }
        }
    }

    /// A TLS session is broken.
    pub(crate) fn tls_failed(&mut self, id: ConnId, error: &rustls::Error) {
        let Some(conn) = self.conn(id) else { return };
        let handshake = matches!(conn.proto, Proto::Handshake);
        let text = format!("TLS_error:{error}");
        let is_down = conn.down().is_some();
        if is_down && handshake {
            self.connection_failed(id, Some(text.clone()));
            if let Some(conn) = self.conn(id) {
                conn.proto = Proto::Dead;
            }
        }
        if let Some(conn) = self.conn(id) {
            // Nothing can be sealed any more.
            conn.tx.clear();
        }
        let lost = if handshake { Lost::Connect(text) } else { Lost::Closed };
        self.drop_conn(id, Gone::Closed, lost);
        // The alert is sent before the close.
        self.close(id, Closing::Close);
    }

    /// Takes a connection out of its slot.
    pub(crate) fn remove(&mut self, id: ConnId, how: Option<How>) {
        let Some(Some(mut conn)) = self.conns.remove(id) else { return };
        conn.input.clear();
        conn.input.rest(&mut self.spare);
        conn.out.clear();
        conn.out.rest(&mut self.spare);
        match &conn.role {
            Role::Up(up) => {
                up.spec.host.connections.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            }
            Role::Down(_) => {
                self.downs = self.downs.saturating_sub(1);
                if self.draining && self.downs == 0 {
                    self.inbox.push_back(Event::Deserted);
                }
            }
        }
        if let Some(how) = how {
            self.close_action(id, how);
        }
    }

    /// Ends an HTTP connection after a fault of its peer; what the codec wants to say is in `tx`.
    pub(crate) fn http_failed(&mut self, id: ConnId, error: ConnError) {
        self.note_refused(id, error);
        self.drop_conn(id, Gone::Protocol(error.what), Lost::Protocol(error.what));
        self.close(id, Closing::Close);
    }

    /// Resets one stream at the codec; nothing if it is gone.
    pub(crate) fn codec_reset(&mut self, id: ConnId, sid: mizzen_http::StreamId, code: Reason) {
        let Some(conn) = self.conn(id) else { return };
        if let Some((codec, tx)) = conn.codec() {
            codec.reset(sid, code, tx);
        }
        self.mark(id);
    }
}
