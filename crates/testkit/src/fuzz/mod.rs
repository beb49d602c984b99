//! The bodies of the fuzz targets below `fuzz/`, as plain functions of bytes: `cargo test` runs them over the committed corpus and over
//! [`mutate`]d copies of it, a fuzzer over whatever it thinks of.
//!
//! Each panics if a property does not hold. Where a target chooses a role or a kind, the first bytes of its input do.

mod config;
mod http;
mod token;

pub use config::{analyze, bootstrap, mesh, xds, yaml};
pub use http::{client_hello, h1, h2, hpack, proxy_protocol, sniff};
pub use token::token;

/// What is done with an input.
pub type Body = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Body); 12] = [
    ("h1", h1),
    ("h2", h2),
    ("hpack", hpack),
    ("sniff", sniff),
    ("client_hello", client_hello),
    ("proxy_protocol", proxy_protocol),
    ("xds", xds),
    ("bootstrap", bootstrap),
    ("yaml", yaml),
    ("mesh", mesh),
    ("token", token),
    ("analyze", analyze),
];

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `most`; 0 if there is none.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % most.max(1) as u64) as usize
    }
}

/// Bytes that parsers like least.
const NASTY: [&[u8]; 16] = [
    b"\0",
    b"\r\n",
    b"\n",
    b"\r",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b" ",
    b":",
    b"\t",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"%2f..",
    "\u{feff}é".as_bytes(),
];

/// A few changes to an input: bytes are flipped, put in, taken away, repeated, or taken from `other`.
pub fn mutate(input: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + 1 + dice.below(16)).min(bytes.len());
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
            2 => drop(bytes.splice(at..at, NASTY[dice.below(NASTY.len())].iter().copied())),
            3 if at < end => drop(bytes.drain(at..end)),
            4 if at < end => {
                let again = bytes[at..end].repeat(1 + dice.below(3));
                drop(bytes.splice(at..at, again));
            }
            5 => {
                let from = dice.below(other.len());
                let to = (from + dice.below(64)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Bytes as a text, and where it may be cut: the first byte chooses the pieces' lengths.
fn pieces(cut: u8, bytes: &[u8]) -> Vec<&[u8]> {
    let mut dice = Dice(cut.into());
    let most = [1, 2, 7, 40][usize::from(cut) % 4];
    let (mut rest, mut all) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (piece, more) = rest.split_at((1 + dice.below(most)).min(rest.len()));
        all.push(piece);
        rest = more;
    }
    all
}
