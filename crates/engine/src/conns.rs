//! The worker's connections: where they live, which are to be flushed, whose handshakes wait, the buffers that nobody uses.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use mizzen_http::Codec;
use mizzen_ir::config::Listener;
use mizzen_types::Name;

use crate::{
    Action, ConnId, Eof, How,
    buf::{Buf, Spare},
    conn::{Below, Closing, Conn, Role},
    context::Context,
    event::{Dir, Event},
    id::{Slab, StreamId},
};

/// All connections of a worker.
#[derive(Default)]
pub(crate) struct Conns {
    /// A connection that is in hand is out of its place.
    slab: Slab<Option<Box<Conn>>>,
    /// Those to be flushed at the end of the turn.
    dirty: Vec<ConnId>,
    /// Those whose TLS handshake has something to do: to servers, and of clients.
    handshakes: [VecDeque<ConnId>; 2],
    spare: Spare,
    /// Connections of clients.
    downs: usize,
    /// Those of a listener, and those that its socket accepted.
    by_listener: ByListener,
}

impl Conns {
    /// A connection by its id; none if it is gone. It must not be in hand.
    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn> {
        let place = self.slab.get(id)?;
        debug_assert!(place.is_some(), "{id:?} is in hand");
        place.as_deref()
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let place = self.slab.get_mut(id)?;
        debug_assert!(place.is_some(), "{id:?} is in hand");
        place.as_deref_mut()
    }

    /// A place for a connection that is about to be made.
    pub(crate) fn reserve(&mut self) -> ConnId {
        self.slab.insert(None)
    }

    /// Puts a new connection into its place.
    pub(crate) fn insert(&mut self, conn: Box<Conn>) {
        match &conn.role {
            Role::Up(up) => {
                up.spec.host.connections.fetch_add(1, Relaxed);
                up.spec.host.connections_total.fetch_add(1, Relaxed);
            }
            Role::Down(down) => {
                self.downs += 1;
                list(&mut self.by_listener, &down.listener.name, conn.id);
                list(&mut self.by_listener, &down.socket, conn.id);
            }
        }
        self.put_back(conn);
    }

    /// Gives a place back that nothing was put into.
    pub(crate) fn abandon(&mut self, id: ConnId) {
        self.slab.remove(id);
    }

    /// Takes a connection in hand: nobody else sees it until it is put back.
    pub(crate) fn take(&mut self, id: ConnId) -> Option<Box<Conn>> {
        let place = self.slab.get_mut(id)?;
        debug_assert!(place.is_some(), "{id:?} is in hand already");
        place.take()
    }

    /// Puts a connection back that was in hand.
    pub(crate) fn put_back(&mut self, conn: Box<Conn>) {
        let place = self.slab.get_mut(conn.id);
        debug_assert!(place.as_ref().is_some_and(|place| place.is_none()), "{:?} was not in hand", conn.id);
        if let Some(place) = place {
            *place = Some(conn);
        }
    }

    /// Takes a connection out for ever. Whoever has to do with it must have been told.
    pub(crate) fn remove(&mut self, cx: &mut Context, id: ConnId, how: Option<How>) {
        let Some(Some(mut conn)) = self.slab.remove(id) else { return };
        conn.input.clear();
        conn.input.rest(&mut self.spare);
        conn.out.clear();
        conn.out.rest(&mut self.spare);
        match &conn.role {
            Role::Up(up) => {
                up.spec.host.connections.fetch_sub(1, Relaxed);
            }
            Role::Down(down) => {
                unlist(&mut self.by_listener, &down.listener.name, id);
                unlist(&mut self.by_listener, &down.socket, id);
                self.downs = self.downs.saturating_sub(1);
                if cx.draining && self.downs == 0 {
                    cx.inbox.push_back(Event::Deserted);
                }
            }
        }
        let Some(how) = how else { return };
        match conn.below {
            Below::Socket => cx.actions.push(Action::Close(id, how)),
            Below::Pipe(other) => cx.inbox.push_back(Event::Ended(other, if how == How::Reset { Eof::Reset } else { Eof::Half })),
            Below::Stream(call) => cx.inbox.push_back(Event::Cancel(call)),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// How many of clients there are.
    pub(crate) fn downs(&self) -> usize {
        self.downs
    }

    /// A connection is handed over to another listener than its socket's.
    pub(crate) fn hand_over(&mut self, cx: &Context, id: ConnId, listener: Arc<Listener>) {
        let Some(down) = self.slab.get_mut(id).and_then(Option::as_deref_mut).and_then(Conn::down_mut) else { return };
        if down.listener.name != down.socket {
            unlist(&mut self.by_listener, &down.listener.name, id);
        }
        list(&mut self.by_listener, &listener.name, id);
        cx.options.shared.ceilings().hand_over(&mut down.places, &listener.name);
        // The newest configuration is the one that has it.
        (down.listener, down.config) = (listener, None);
    }

    /// The connections of a listener, and those that its socket accepted.
    pub(crate) fn of_listener(&self, name: &str) -> impl Iterator<Item = ConnId> {
        self.by_listener.get(name).into_iter().flatten().copied()
    }

    pub(crate) fn ids(&self) -> Vec<ConnId> {
        self.slab.ids().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.slab.values().filter_map(Option::as_deref)
    }

    /// Whether something is to be flushed.
    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Those to be flushed; the list is given back by [`Conns::flushed`].
    pub(crate) fn take_dirty(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.dirty)
    }

    /// Takes the list of flushed connections back, for its memory.
    pub(crate) fn flushed(&mut self, mut list: Vec<ConnId>) {
        if self.dirty.is_empty() {
            list.clear();
            self.dirty = list;
        }
    }

    /// A connection's codec and where it writes to, with memory to write to.
    pub(crate) fn codec(&mut self, id: ConnId) -> Option<(&mut Codec, &mut Vec<u8>)> {
        let conn = self.slab.get_mut(id).and_then(Option::as_deref_mut)?;
        if conn.tx.capacity() == 0 {
            conn.tx = self.spare.take();
        }
        conn.codec()
    }

    /// Puts a connection on the list of those to be flushed at the end of the turn.
    pub(crate) fn mark(&mut self, id: ConnId) {
        if let Some(conn) = self.get_mut(id)
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// Has what is spoken on a connection look at its input, later in this turn.
    pub(crate) fn queue_parse(&mut self, cx: &mut Context, id: ConnId) {
        if let Some(conn) = self.get_mut(id)
            && !std::mem::replace(&mut conn.queued, true)
        {
            cx.inbox.push_back(Event::Parse(id));
        }
    }

    /// Stops or restarts a connection's reading and parsing.
    pub(crate) fn hold(&mut self, cx: &mut Context, id: ConnId, hold: bool) {
        let Some(conn) = self.get_mut(id) else { return };
        conn.held = hold;
        self.regulate(cx, id);
        if !hold {
            self.queue_parse(cx, id);
        }
    }

    /// Tells the driver whether more bytes of a connection are wanted, if that has changed.
    pub(crate) fn regulate(&mut self, cx: &mut Context, id: ConnId) {
        let Some(conn) = self.get_mut(id) else { return };
        let wanted = conn.wants_bytes(cx.most_out());
        if conn.reading != wanted {
            conn.reading = wanted;
            match conn.below {
                Below::Socket => cx.actions.push(Action::Read(id, wanted)),
                Below::Pipe(other) if wanted => cx.inbox.push_back(Event::Carry(other)),
                Below::Stream(call) if wanted => cx.inbox.push_back(Event::Pump(call, Dir::Down)),
                Below::Pipe(_) | Below::Stream(_) => {}
            }
        }
    }

    /// Gives a connection buffers to put bytes into.
    pub(crate) fn ready(&mut self, id: ConnId) {
        if let Some(conn) = self.slab.get_mut(id).and_then(Option::as_deref_mut) {
            conn.input.ready(&mut self.spare);
            if let Some(tls) = &mut conn.tls {
                tls.wire().ready(&mut self.spare);
            }
        }
    }

    /// Takes buffers back that hold nothing.
    pub(crate) fn rest(&mut self, id: ConnId) {
        if let Some(conn) = self.slab.get_mut(id).and_then(Option::as_deref_mut) {
            conn.input.rest(&mut self.spare);
            conn.out.rest(&mut self.spare);
            if let Some(tls) = &mut conn.tls {
                tls.wire().rest(&mut self.spare);
            }
        }
    }

    /// Keeps a buffer for the next one who needs one.
    pub(crate) fn keep(&mut self, mut buf: Buf) {
        buf.clear();
        buf.rest(&mut self.spare);
    }

    /// Feeds a TLS session, with nothing to have it go on where it stopped for lack of room. A handshake's next step waits for its turn.
    ///
    /// # Errors
    /// If the session is broken.
    pub(crate) fn decrypt(&mut self, cx: &mut Context, id: ConnId, wire: &[u8]) -> Result<(), rustls::Error> {
        let Some(conn) = self.get_mut(id) else { return Ok(()) };
        let side = usize::from(conn.down().is_some());
        let Some(tls) = &mut conn.tls else { return Ok(()) };
        if !tls.is_handshaking() {
            return self.open_records(cx, id, wire);
        }
        tls.store(wire);
        if !std::mem::replace(&mut conn.shaking, true)
            && let Some(waiting) = self.handshakes.get_mut(side)
        {
            waiting.push_back(id);
        }
        Ok(())
    }

    /// Decrypts, or takes the next step of a handshake.
    ///
    /// # Errors
    /// If the session is broken.
    pub(crate) fn open_records(&mut self, cx: &mut Context, id: ConnId, wire: &[u8]) -> Result<(), rustls::Error> {
        let Some(conn) = self.get_mut(id) else { return Ok(()) };
        let room = if conn.held { conn.input.len().max(1) } else { conn.room().max(conn.input.len() + 1) };
        let Some(tls) = &mut conn.tls else { return Ok(()) };
        let was = tls.is_handshaking();
        let result = tls.read(wire, &mut conn.input, &mut conn.out, room);
        let finished = was && !tls.is_handshaking();
        if tls.peer_closed() {
            conn.eof = true;
        }
        let dirty = !conn.out.is_empty();
        result?;
        if finished {
            cx.inbox.push_back(Event::Secured(id));
        }
        if dirty {
            self.mark(id);
        }
        Ok(())
    }

    /// Whether decrypting stopped for lack of room, and there is some now.
    pub(crate) fn may_decrypt(conn: &Conn) -> bool {
        !conn.held && conn.tls.as_ref().is_some_and(|tls| tls.holds()) && conn.input.len() < conn.room()
    }

    /// Whether handshakes wait for their turn.
    pub(crate) fn handshakes_wait(&self) -> bool {
        self.handshakes.iter().any(|waiting| !waiting.is_empty())
    }

    /// The next connection whose handshake goes on, of the given side: to servers, or of clients.
    pub(crate) fn next_handshake(&mut self, side: usize) -> Option<ConnId> {
        let id = self.handshakes.get_mut(side)?.pop_front()?;
        self.get_mut(id)?.shaking = false;
        Some(id)
    }

    /// How many handshakes wait, of connections that there are.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn waiting_handshakes(&self) -> usize {
        self.handshakes.iter().flatten().filter(|id| self.slab.get(**id).is_some()).count()
    }

    /// Seals what is to be sent on a connection, and says goodbye in TLS where its end is near. Whether all that was sealed before has gone.
    ///
    /// # Errors
    /// If the session is broken.
    pub(crate) fn seal(&mut self, cx: &mut Context, id: ConnId) -> Result<(), rustls::Error> {
        let Some(conn) = self.slab.get_mut(id).and_then(Option::as_deref_mut) else { return Ok(()) };
        let before = conn.input.len();
        conn.seal()?;
        if conn.closing >= Closing::Write
            && conn.tx.is_empty()
            && let Some(tls) = &mut conn.tls
            && !tls.is_handshaking()
        {
            tls.close(&mut conn.input, &mut conn.out);
        }
        // An idle connection keeps none.
        if conn.tx.is_empty() && conn.tx.capacity() > 0 {
            self.spare.put(std::mem::take(&mut conn.tx));
        }
        if conn.input.len() > before {
            self.queue_parse(cx, id);
        }
        Ok(())
    }

    /// Resets one stream at the codec; nothing if it is gone.
    pub(crate) fn codec_reset(&mut self, id: ConnId, sid: mizzen_http::StreamId, code: mizzen_http::Reason) {
        let Some(conn) = self.get_mut(id) else { return };
        if let Some((codec, tx)) = conn.codec() {
            codec.reset(sid, code, tx);
        }
        self.mark(id);
    }

    /// Puts a stream on the list of those that wait until a connection has room.
    pub(crate) fn block(conn: &mut Conn, stream: StreamId) {
        if !conn.blocked.contains(&stream) {
            conn.blocked.push(stream);
        }
    }
}

/// Connections by listener.
type ByListener = HashMap<Name, HashSet<ConnId>>;

fn list(by_listener: &mut ByListener, name: &Name, id: ConnId) {
    match by_listener.get_mut(name) {
        Some(all) => {
            all.insert(id);
        }
        None => {
            by_listener.insert(name.clone(), HashSet::from([id]));
        }
    }
}

fn unlist(by_listener: &mut ByListener, name: &Name, id: ConnId) {
    if let Some(all) = by_listener.get_mut(name) {
        all.remove(&id);
        if all.is_empty() {
            by_listener.remove(name);
        }
    }
}
