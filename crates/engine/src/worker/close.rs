//! The end of connections.

use mizzen_http::{ConnError, ConnState};

use super::Worker;
use crate::{
    ConnId, How,
    clusters::Owner,
    conn::{Closing, Proto, Role},
    event::{Event, Gone, Lost},
    id::StreamId,
    questions::Waiter,
};

/// How long a peer that does not read may keep a connection open of which all but the last bytes is over.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

impl Worker {
    /// Closes a connection when all is sent (or at once). Its streams must have been told.
    pub(crate) fn close(&mut self, id: ConnId, how: Closing) {
        let now = self.cx.now.mono;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.closing < how {
            conn.closing = how;
            if how >= Closing::Close {
                conn.proto = Proto::Dead;
                conn.input.clear();
                conn.blocked.clear();
                // A peer that does not read must not keep it open for ever.
                conn.deadline = Some(now + LINGER);
            }
        }
        self.conns.mark(id);
        self.conns.regulate(&mut self.cx, id);
        self.arm(id);
    }

    /// Tells all who have to do with a connection that it is gone; it stays in its slot.
    pub(crate) fn drop_conn(&mut self, id: ConnId, gone: Gone, lost: Lost) {
        let Some(conn) = self.conns.get_mut(id) else { return };
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
            Proto::Gate(gate) => {
                self.cx.inbox.push_back(Event::Cancel(gate.call));
                Vec::new()
            }
            Proto::Sniff | Proto::Handshake | Proto::Choose | Proto::Check(_) | Proto::Dead => Vec::new(),
        };
        let handshake = matches!(proto, Proto::Handshake);
        match was_up {
            None => {
                self.cx.inbox.extend(streams.into_iter().map(|stream| Event::DownLost(stream, gone)));
                if matches!(proto, Proto::Sniff | Proto::Handshake) {
                    self.connection_failed(id, None);
                }
            }
            Some(owner) => {
                for stream in streams {
                    let position = self.streams.get(stream).and_then(|s| s.up.as_ref()).map(|up| up.position);
                    let unsent = position.zip(self.conns.get(id)).is_some_and(|(position, conn)| conn.unsent(position));
                    let lost = if unsent && lost == Lost::Closed { Lost::Unsent } else { lost.clone() };
                    self.cx.inbox.push_back(Event::UpLost(stream, lost));
                }
                match owner {
                    Owner::Pool(pool) => self.pool_lost(pool, id, handshake.then_some(lost)),
                    Owner::Stream(stream) if handshake => self.cx.inbox.push_back(Event::UpLost(stream, lost)),
                    Owner::Stream(_) => {}
                    Owner::Check(check) => self.check_lost(check, id),
                }
            }
        }
    }

    /// A TLS session is broken.
    pub(crate) fn tls_failed(&mut self, id: ConnId, error: &rustls::Error) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let handshake = matches!(conn.proto, Proto::Handshake);
        let text = format!("TLS_error:{error}");
        let is_down = conn.down().is_some();
        if is_down && handshake {
            self.connection_failed(id, Some(text.clone()));
            if let Some(conn) = self.conns.get_mut(id) {
                conn.proto = Proto::Dead;
            }
        }
        if let Some(conn) = self.conns.get_mut(id) {
            // Nothing can be sealed any more.
            conn.tx.clear();
        }
        let lost = if handshake { Lost::Connect(text) } else { Lost::Closed };
        self.drop_conn(id, Gone::Closed, lost);
        // The alert is sent before the close.
        self.close(id, Closing::Close);
    }

    /// Takes a connection out for ever. Whoever has to do with it must have been told.
    pub(crate) fn remove(&mut self, id: ConnId, how: Option<How>) {
        if let Some(wait) = self.conns.get_mut(id).and_then(|conn| conn.waits_for.take()) {
            self.questions.leave(wait, Waiter::Conn(id));
        }
        self.conns.remove(&mut self.cx, id, how);
    }

    /// Ends an HTTP connection after a fault of its peer; what the codec wants to say is in `tx`.
    pub(crate) fn http_failed(&mut self, id: ConnId, error: ConnError) {
        self.note_refused(id, error);
        self.drop_conn(id, Gone::Protocol(error.what), Lost::Protocol(error.what));
        self.close(id, Closing::Close);
    }

    /// Closes an HTTP connection that takes no new streams and has none.
    pub(crate) fn end_if_done(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.closing >= Closing::Close {
            return;
        }
        // A tunnel whose write side is shut is closed as a whole when its stream is gone.
        let shut = conn.closing != Closing::No;
        let over = conn.down().is_some_and(|d| d.draining) || conn.up().is_some_and(|up| up.draining) || conn.eof;
        let Some(http) = conn.http() else { return };
        let idle = http.streams.is_empty() && http.codec.active() == 0;
        match http.codec.state() {
            ConnState::Done => {}
            ConnState::Draining if idle => {}
            ConnState::Open if idle && over => {}
            ConnState::WriteEnded => {
                if !shut {
                    self.close(id, Closing::Write);
                }
                return;
            }
            ConnState::Open | ConnState::Draining => return,
        }
        self.drop_conn(id, Gone::Closed, Lost::Closed);
        self.close(id, Closing::Close);
    }
}
