//! Versions as content hashes.

use std::{fmt, str::FromStr};

/// The hash of a resource's content; on the wire 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A text that is no [`Version`]: some other server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a content hash of 16 hexadecimal digits")]
pub struct Foreign;

impl Version {
    /// Of these bytes.
    pub fn of(content: &[u8]) -> Self {
        Version(twox_hash::XxHash64::oneshot(0, content))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Version {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Self, Foreign> {
        let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(digits) {
            return Err(Foreign);
        }
        u64::from_str_radix(text, 16).map(Version).map_err(|_| Foreign)
    }
}
