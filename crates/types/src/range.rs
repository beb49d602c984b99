//! Ranges of IP addresses.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// A block of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address. Host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange(IpNet);

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an IP address nor a CIDR block such as 10.0.0.0/8")]
pub struct RangeError(String);

impl IpRange {
    /// From an address and a prefix length; a length beyond the address' own is an error.
    ///
    /// # Errors
    /// If `prefix` exceeds 32 (IPv4) or 128 (IPv6).
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, RangeError> {
        IpNet::new(address, prefix).map(|net| IpRange(net.trunc())).map_err(|_| RangeError(format!("{address}/{prefix}")))
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.0.network()
    }

    /// The prefix's length in bits.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether `ip` lies within. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl From<IpAddr> for IpRange {
    fn from(ip: IpAddr) -> Self {
        IpRange(IpNet::from(ip))
    }
}

impl FromStr for IpRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        text.parse::<IpNet>().map(|net| IpRange(net.trunc())).map_err(|_| RangeError(text.to_owned()))
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains() {
        let range: IpRange = "10.1.2.3/8".parse().unwrap();
        assert_eq!(range.to_string(), "10.0.0.0/8");
        assert!(range.contains("::ffff:10.9.9.9".parse().unwrap()));
        assert!(!range.contains("11.0.0.1".parse().unwrap()));
        assert_eq!("10.1.2.3".parse::<IpRange>().unwrap().prefix(), 32);
        for text in ["10.0.0.0/33", "10.0.0", "", "a/8"] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }
}
