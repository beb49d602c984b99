//! What every part of a worker needs beside what it owns.

use std::{collections::VecDeque, sync::Arc};

use mizzen_ir::Config;

use crate::{
    Action, Now, Options,
    event::{Event, TimerKey},
    lb::Rng,
    timers::Timers,
};

/// The clock, the configuration, and what is to be done: passed to the owners, owned by the worker.
pub(crate) struct Context {
    pub(crate) options: Options,
    pub(crate) now: Now,
    pub(crate) rng: Rng,
    /// The newest configuration.
    pub(crate) config: Arc<Config>,
    /// What is to be done within this turn.
    pub(crate) inbox: VecDeque<Event>,
    /// What the driver is to do.
    pub(crate) actions: Vec<Action>,
    pub(crate) timers: Timers<TimerKey>,
    /// Everything drains.
    pub(crate) draining: bool,
}

impl Context {
    /// Bytes on their way to a peer beyond which nothing more of it is read: its HTTP/2 pings and settings, its pipelined requests and its key
    /// updates are answered, and must not pile up if it does not read.
    pub(crate) fn most_out(&self) -> usize {
        4 * self.options.limits.stream_buffer
    }
}
