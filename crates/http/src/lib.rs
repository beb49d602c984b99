//! HTTP/1.1, HTTP/2 and HPACK as state machines, and the sniffers that tell protocols apart.
//!
//! Bytes go in by [`Codec::next`], which hands back one [`Event`] at a time; heads and bodies go out by `send_head`, `send_data`
//! and `send_trailers`, which encode straight into a buffer of the caller. Both versions offer the same calls, so that a proxy
//! moves a message from one to the other without knowing which is which; [`Head`] is the common form of a request's or a
//! response's head, free of anything that belongs to one connection only (`connection`, `transfer-encoding`, `host` …).
//!
//! These are parsers of hostile bytes: every length has a limit ([`Limits`]), no input panics, and what is not surely understood
//! is refused and never passed on. The same bytes give the same events however they are split.
//!
//! Deliberately absent: sockets, clocks, tasks and locks; TLS (only [`tls::sniff`] looks at a ClientHello); retries, pools and
//! everything else that needs more than one connection (crate `engine`).

mod codec;
mod error;
mod event;
mod head;
mod limits;
mod sniff;
#[cfg(test)]
mod testing;

pub mod h1;
pub mod h2;
pub mod hpack;
pub mod proxy_protocol;
pub mod tls;

pub use codec::Codec;
pub use error::{ConnError, Reason};
pub use event::{ConnState, Event, StreamId};
pub use head::{Head, is_hop_by_hop, valid_name, valid_value};
pub use limits::Limits;
pub use sniff::{Sniff, sniff};
