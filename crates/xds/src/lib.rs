//! The xDS protocol without IO: both variants, both ends.
//!
//! [`server::Session`] is one client's stream as the server sees it: what it subscribes to, what was sent to it, what it acknowledged. It takes
//! the client's requests and gives the responses that are due, reading resources through [`server::ResourceSource`]; a client that speaks the older,
//! state-of-the-world variant is served from the same session. [`client::Client`] is the other end: what it subscribes to, what it accepted, and which
//! request must be sent next; [`sotw::Client`] is the same for servers that know the older variant only. All survive a broken stream in the way the
//! protocol means it: the client tells the versions that it accepted, a delta server sends only what differs.
//!
//! A version is the hash of a resource's content, so two servers, or one before and after a restart, agree on it.
//!
//! Deliberately absent: sockets, tasks, clocks, and any knowledge of what a resource means, but for one
//! thing: the order in which types must be sent so that nothing is referred to before it is there ([`types::rank`]).

pub mod client;
mod nack;
pub mod server;
pub mod sotw;
mod stream;
pub mod types;
mod version;

pub use version::Version;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod sotw_tests;
#[cfg(test)]
mod tests;
