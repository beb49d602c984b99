//! The limits of what is read.

/// The longest text that is read, in bytes.
pub const MAX_TEXT: usize = 8 << 20;
/// How deep a document may nest.
pub const MAX_DEPTH: usize = 64;
/// The most nodes of a document.
pub(crate) const MAX_NODES: usize = 200_000;
/// The most nodes that come of aliases.
pub(crate) const MAX_REPLAYED: usize = 100_000;
/// How deep aliases may lead to aliases.
pub(crate) const MAX_ALIASES: usize = 16;
/// The longest expression, in characters, as in Istio.
pub(crate) const MAX_REGEX: usize = 1024;
/// The largest compiled expression, in bytes.
pub(crate) const MAX_COMPILED: usize = 1 << 20;
/// The longest duration of protojson, in nanoseconds.
pub(crate) const MAX_NANOS: u128 = 315_576_000_000 * 1_000_000_000;
