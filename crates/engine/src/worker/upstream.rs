//! Connections to servers: dials and their ends.

use std::sync::atomic::Ordering::Relaxed;

use super::Worker;
use crate::{
    Addrs, ConnId, DialError, DialId,
    clusters::{Dialing, Owner},
    conn::{Below, Closing, Conn, Proto, Role, Up},
    event::{Event, Gone, Lost},
    id::StreamId,
    stream::At,
    tls::Tls,
};

impl Worker {
    pub(crate) fn dial_ended(&mut self, id: DialId, result: Result<Addrs, DialError>) -> Option<ConnId> {
        let dialing = self.clusters.dial_over(id)?;
        match result {
            Ok(addrs) => Some(self.established(dialing, addrs, Below::Socket)),
            Err(DialError(error)) => {
                dialing.spec.host.connect_failures.fetch_add(1, Relaxed);
                self.dial_failed(dialing.owner, Lost::Connect(error));
                None
            }
        }
    }

    /// A connection to a server is there: TLS, if it is to be, and then whoever wanted it.
    pub(crate) fn established(&mut self, dialing: Dialing, addrs: Addrs, below: Below) -> ConnId {
        let Dialing { spec, owner, guard, deadline } = dialing;
        let id = self.conns.reserve();
        let up = Up { spec: spec.clone(), owner, guard, draining: false, served: false, peer: None };
        let mut conn = Conn::new(id, addrs, Role::Up(Box::new(up)), Proto::Handshake, self.cx.now.mono);
        conn.below = below;
        conn.deadline = Some(deadline);
        let session = spec.tls.as_ref().map(|tls| Tls::client(tls.config.0.clone(), tls.name.clone(), tls.alpn.clone())).transpose();
        let broken = session.map(|session| conn.tls = session.map(Box::new)).err();
        let plain = conn.tls.is_none();
        self.conns.insert(conn);
        match owner {
            Owner::Stream(stream) => self.tcp_handshake(stream, id),
            Owner::Check(check) => self.check_handshake(check, id),
            Owner::Pool(pool) => {
                if let Some(pool) = self.clusters.pool_mut(pool) {
                    pool.shaking.push(id);
                }
            }
        }
        if let Some(error) = broken {
            self.tls_failed(id, &error);
        } else if plain {
            self.connected(id);
        } else {
            self.decrypt(id, &[]);
            self.arm(id);
        }
        id
    }

    /// A dial took too long.
    pub(crate) fn dial_timeout(&mut self, id: DialId) {
        let Some(dialing) = self.clusters.dial_over(id) else { return };
        dialing.cancel(&mut self.cx, id);
        dialing.spec.host.connect_failures.fetch_add(1, Relaxed);
        self.dial_failed(dialing.owner, Lost::ConnectTimeout);
    }

    fn dial_failed(&mut self, owner: Owner, lost: Lost) {
        match owner {
            Owner::Stream(stream) => self.cx.inbox.push_back(Event::UpLost(stream, lost)),
            Owner::Pool(pool) => self.pool_dial_failed(pool, lost),
            Owner::Check(check) => self.check_unreached(check),
        }
    }

    /// A handshake took too long.
    pub(crate) fn handshake_timeout(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.down().is_some() {
            self.connection_failed(id, Some("TLS handshake timed out".to_owned()));
            if let Some(conn) = self.conns.get_mut(id) {
                conn.proto = Proto::Dead;
            }
        } else if let Some(up) = conn.up() {
            up.spec.host.connect_failures.fetch_add(1, Relaxed);
        }
        self.drop_conn(id, Gone::Closed, Lost::ConnectTimeout);
        self.close(id, Closing::Reset);
    }

    /// An upstream connection is ready for its owner.
    pub(crate) fn connected(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.deadline = None;
        let Some(up) = conn.up() else { return };
        match up.owner {
            Owner::Stream(stream) => self.tcp_connected(stream, id),
            Owner::Pool(pool) => self.pool_connected(pool, id),
            Owner::Check(check) => self.check_connected(check, id),
        }
    }

    /// A stream of TCP knows on which connection its handshake runs.
    fn tcp_handshake(&mut self, stream: StreamId, conn: ConnId) {
        if let Some(up) = self.streams.get_mut(stream).and_then(|s| s.up.as_mut()) {
            up.at = At::Handshake(conn);
        }
    }
}
