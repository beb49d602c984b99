//! The engine of one thread, with what its sockets' tasks need beside it.

use std::{
    cell::{Cell, RefCell, RefMut},
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use mizzen_engine::{ConnId, Now, Worker};

use super::signal::Signal;

/// A socket is read at most this much at a time.
const READ: usize = 64 * 1024;

/// What the tasks of one thread share. Nothing borrows across an await.
pub(super) struct Shared {
    engine: RefCell<Worker>,
    /// The engine's clock was set since the last turn.
    ticked: Cell<bool>,
    start: Instant,
    /// Something has happened: a turn is due.
    pub(super) due: Signal,
    /// One read buffer for all connections: they read in turn.
    pub(super) buffer: RefCell<Box<[u8]>>,
    /// Connections whose task has panicked.
    pub(super) broken: RefCell<Vec<ConnId>>,
}

impl Shared {
    /// Starts the engine's clock.
    pub(super) fn new(make: impl FnOnce(Now) -> Worker) -> Shared {
        let start = *ORIGIN.get_or_init(Instant::now);
        Shared {
            engine: RefCell::new(make(now(start))),
            ticked: Cell::new(false),
            start,
            due: Signal::default(),
            buffer: RefCell::new(vec![0; READ].into()),
            broken: RefCell::default(),
        }
    }

    /// The engine. Its clock is read once for all that happens up to the end of a turn: what came after a long silence is not dated before it.
    pub(super) fn worker(&self) -> RefMut<'_, Worker> {
        let mut worker = self.engine.borrow_mut();
        if !self.ticked.replace(true) {
            worker.tick(now(self.start));
        }
        worker
    }

    /// When the engine has something to do, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.engine.borrow().deadline().map(|at| self.start + at)
    }

    /// Whether the engine would take another turn at once.
    pub(super) fn ready(&self) -> bool {
        self.engine.borrow().ready()
    }

    /// Whether the engine has put handshakes off.
    pub(super) fn handshakes_wait(&self) -> bool {
        self.engine.borrow().handshakes_wait()
    }

    /// A turn is over: the clock moves on.
    pub(super) fn turned(&self) {
        self.ticked.set(false);
    }
}

/// Where the workers' clock begins: what one of them has dated, the others read.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

fn now(start: Instant) -> Now {
    Now { mono: start.elapsed(), wall: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() }
}
