//! HPACK (RFC 7541): header compression of HTTP/2.

mod decode;
mod encode;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub use decode::{Broken, Decoder};
pub use encode::Encoder;
