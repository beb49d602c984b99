//! The data path as a state machine without IO.
//!
//! A [`Worker`] owns one thread's connections and streams. Bytes, dial results, configurations and the clock go in; bytes, dials, closes, log lines and
//! counters come out. It steps over [`mizzen_ir::Config`] with the pure steps of `ir`, and speaks HTTP by the state machines of `http`, TLS by rustls'
//! unbuffered API.
//!
//! One turn of the driver:
//! 1. [`Worker::tick`], once, first;
//! 2. [`Worker::accept`], [`Worker::dialed`], [`Worker::bytes`] (or [`Worker::lend`] and [`Worker::filled`], where there is much), [`Worker::ended`],
//!    [`Worker::command`] for what has happened, in bounded numbers;
//! 3. [`Worker::turn`], which runs what is due and fills the list of [`Action`]s;
//! 4. carry the actions out; write [`Worker::pending`] and report [`Worker::wrote`];
//! 5. if [`Worker::ready`], go to 3; if [`Worker::handshakes_wait`], look at the sockets and go to 1; else sleep until IO or [`Worker::deadline`].
//!
//! Deliberately absent: sockets, DNS, files, threads, clocks, and every form of blocking.

mod address;
mod api;
mod bucket;
mod buf;
mod call;
mod ceiling;
mod checks;
mod clusters;
mod conn;
mod conns;
mod context;
mod event;
mod facts;
mod filter;
mod flags;
mod headers;
mod health;
mod id;
mod kept;
pub mod lb;
mod log;
pub mod metrics;
mod outlier;
mod peer;
mod questions;
mod record;
mod same;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod stream;
mod streams;
mod telemetry;
#[cfg(test)]
mod tests;
mod timers;
mod tls;
mod view;
mod worker;

pub use api::{
    Accepted, Action, Addrs, Answer, Command, Dial, DialError, DialId, DialTag, Eof, How, Keepalive, Limits, ListenerId, Node, Now,
    Options, Question, Target, WaitId, WaitTag,
};
pub use call::{Call, CallAnswer};
pub use ceiling::ConnectionLimits;
pub use health::HealthFlags;
pub use id::{ConnId, ConnTag, Id};
pub use worker::Worker;
