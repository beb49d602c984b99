//! The worker: one thread's whole data path.
#![allow(clippy::unimplemented)]

use std::{sync::Arc, time::Duration};

use mizzen_ir::Config;

use crate::{Accepted, Action, Addrs, Command, ConnId, DialError, DialId, Eof, ListenerId, Now, Options};

/// One thread's whole data path.
#[derive(Debug)]
pub struct Worker {
    options: Options,
    config: Arc<Config>,
}

impl Worker {
    /// A worker with its first configuration.
    pub fn new(options: Options, config: Arc<Config>, now: Now) -> Self {
        let _ = now;
        Worker { options, config }
    }

    /// Sets the clocks; once a turn, first.
    pub fn tick(&mut self, now: Now) {
        let _ = (now, &self.options, &self.config);
        unimplemented!()
    }

    /// Takes a connection that the socket of `listener` accepted. The connection starts by being read.
    pub fn accept(&mut self, listener: &ListenerId, accepted: Accepted) -> ConnId {
        let _ = (listener, accepted);
        unimplemented!()
    }

    /// A dial has ended. `None`: nobody waits for it any more, close the socket; always so for an error.
    pub fn dialed(&mut self, dial: DialId, result: Result<Addrs, DialError>) -> Option<ConnId> {
        let _ = (dial, result);
        unimplemented!()
    }

    /// Bytes were read: how many were taken. If fewer than all, present the rest again after `Action::Read(conn, true)`.
    pub fn bytes(&mut self, conn: ConnId, wire: &mut [u8]) -> usize {
        let _ = (conn, wire);
        unimplemented!()
    }

    /// The other side's bytes have ended.
    pub fn ended(&mut self, conn: ConnId, how: Eof) {
        let _ = (conn, how);
        unimplemented!()
    }

    /// Something from the control thread.
    pub fn command(&mut self, command: Command) {
        let _ = command;
        unimplemented!()
    }

    /// Runs what is due and appends what is to be done to `actions`.
    pub fn turn(&mut self, actions: &mut Vec<Action>) {
        let _ = actions;
        unimplemented!()
    }

    /// The bytes to be written to a connection now.
    pub fn pending(&self, conn: ConnId) -> &[u8] {
        let _ = conn;
        unimplemented!()
    }

    /// So many of them were written.
    pub fn wrote(&mut self, conn: ConnId, n: usize) {
        let _ = (conn, n);
        unimplemented!()
    }

    /// Whether `turn` has something to do at once.
    pub fn ready(&self) -> bool {
        unimplemented!()
    }

    /// When `turn` has something to do at the latest, on the monotonic clock.
    pub fn deadline(&self) -> Option<Duration> {
        unimplemented!()
    }

    /// Connections open, both directions.
    pub fn connections(&self) -> usize {
        unimplemented!()
    }
}
