//! The header of the PROXY protocol, versions 1 and 2, by which a proxy in front says whose connection it hands on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the first bytes of a connection are, where they have to be such a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// They may still become one.
    NeedMore,
    /// They are none, or one that cannot be believed: why.
    Bad(&'static str),
    /// A whole one.
    Header(Header),
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it takes; at most [`MAX`].
    pub length: usize,
    /// Where the connection comes from and where it was going to; none: the proxy speaks for itself, or does not know.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Longest header that is waited for, with all that version 2 appends to the addresses.
pub const MAX: usize = 16 * 1024;

/// With its line's end.
const LONGEST_LINE: usize = 107;
const LINE: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const FIXED: usize = 16;

/// Looks at the first bytes of a connection. Never says `NeedMore` beyond [`MAX`].
pub fn read(bytes: &[u8]) -> Read {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    let read = if begins(SIGNATURE) {
        version_2(bytes)
    } else if begins(LINE) {
        version_1(bytes)
    } else {
        Err("there is none")
    };
    match read {
        Ok(Some(header)) => Read::Header(header),
        Ok(None) => Read::NeedMore,
        Err(why) => Read::Bad(why),
    }
}

/// None: more is needed.
fn version_1(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let seen = bytes.get(..LONGEST_LINE).unwrap_or(bytes);
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() < LONGEST_LINE { Ok(None) } else { Err("its line does not end") };
    };
    let line = std::str::from_utf8(seen.get(LINE.len()..end).unwrap_or_default()).map_err(|_| "its line is no text")?;
    let mut parts = line.split(' ');
    let family = parts.next().unwrap_or_default();
    let addresses = match family {
        // What else stands in the line means nothing.
        "UNKNOWN" => None,
        "TCP4" | "TCP6" => {
            let mut next = || parts.next().ok_or("an address or a port is missing");
            let (source, destination) = (next()?, next()?);
            let (from, to) = (port(next()?)?, port(next()?)?);
            if parts.next().is_some() {
                return Err("something stands behind the ports");
            }
            let ip = |text: &str| {
                let ip = if family == "TCP4" { text.parse().map(IpAddr::V4).ok() } else { text.parse().map(IpAddr::V6).ok() };
                ip.ok_or("an address is none of its family")
            };
            Some(ends(ip(source)?, from, ip(destination)?, to)?)
        }
        _ => return Err("it is neither of TCP4 nor of TCP6"),
    };
    Ok(Some(Header { length: end + 2, addresses }))
}

fn port(text: &str) -> Result<u16, &'static str> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or("a port is none")
}

/// None: more is needed.
fn version_2(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else { return Ok(None) };
    let [.., command, family, high, low] = fixed else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX - FIXED {
        return Err("it is too long");
    }
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err("its version or its command is not known"),
    };
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let short = "it is too short for its addresses";
    let addresses = match (is_local, family) {
        (true, _) => None,
        (false, 0x11) => {
            let ([source, destination], ports) = split::<4>(body).ok_or(short)?;
            Some(ends(Ipv4Addr::from(source).into(), ports[0], Ipv4Addr::from(destination).into(), ports[1])?)
        }
        (false, 0x21) => {
            let ([source, destination], ports) = split::<16>(body).ok_or(short)?;
            Some(ends(Ipv6Addr::from(source).into(), ports[0], Ipv6Addr::from(destination).into(), ports[1])?)
        }
        _ => return Err("it is not of TCP"),
    };
    Ok(Some(Header { length: FIXED + length, addresses }))
}

/// Two addresses of `N` bytes, and two ports.
fn split<const N: usize>(body: &[u8]) -> Option<([[u8; N]; 2], [u16; 2])> {
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let [a, b, c, d, ..] = rest else { return None };
    Some(([*source, *destination], [u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])]))
}

/// The two ends of a connection. Whoever has no address, or one of many, has none.
fn ends(source: IpAddr, from: u16, destination: IpAddr, to: u16) -> Result<(SocketAddr, SocketAddr), &'static str> {
    let is_one = |ip: &IpAddr| {
        let is_all = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        !ip.is_unspecified() && !ip.is_multicast() && !is_all
    };
    if !is_one(&source) || !is_one(&destination) {
        return Err("an address is none of a single host");
    }
    Ok((SocketAddr::new(source, from), SocketAddr::new(destination, to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    /// What is read of the bytes, and of none of their beginnings.
    fn check(bytes: &[u8], expected: Option<(&str, &str)>) {
        let addresses = expected.map(|(source, destination)| (source.parse().unwrap(), destination.parse().unwrap()));
        let header = Read::Header(Header { length: bytes.len(), addresses });
        assert_eq!(read(&[bytes, b"GET / HTTP/1.1\r\n"].concat()), header, "{bytes:?}");
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Read::NeedMore, "{cut} of {bytes:?}");
        }
    }

    #[test]
    fn both_versions() {
        let four = Some(("192.0.2.7:56324", "198.51.100.1:443"));
        let six = Some(("[2001:db8::7]:1", "[2001:db8::1]:65535"));
        check(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", four);
        check(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n", six);
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 whatever\r\n", None);
        let body = [&[192, 0, 2, 7, 198, 51, 100, 1][..], &56324u16.to_be_bytes(), &443u16.to_be_bytes()].concat();
        check(&v2(0x21, 0x11, &body), four);
        let more = [&body[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        check(&v2(0x21, 0x11, &more), four);
        let addresses = ["2001:db8::7", "2001:db8::1"].map(|ip| ip.parse::<Ipv6Addr>().unwrap().octets()).concat();
        check(&v2(0x21, 0x21, &[&addresses[..], &[0, 1, 255, 255]].concat()), six);
        // A proxy that looks whether anybody is there.
        check(&v2(0x20, 0, &[]), None);
        check(&v2(0x20, 0x11, &body), None);
    }

    #[test]
    fn refused() {
        let body = [10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2];
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 93]].concat();
        let rows: &[&[u8]] = &[
            b"G",
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"proxy TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
            b"PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 \r\n",
            b"PROXY TCP4 10.0.0.01 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 0.0.0.0 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 224.0.0.1 1 2\r\n",
            b"PROXY TCP4 255.255.255.255 10.0.0.1 1 2\r\n",
            b"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY \xff\r\n",
            &long,
            &v2(0x11, 0x11, &body),
            &v2(0x22, 0x11, &body),
            &v2(0x21, 0x11, &body[..11]),
            &v2(0x21, 0x21, &body),
            &v2(0x21, 0x12, &body),
            &v2(0x21, 0x31, &[1; 216]),
            &v2(0x21, 0, &[]),
            &v2(0x21, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[1; MAX]),
        ];
        for bytes in rows {
            assert!(matches!(read(bytes), Read::Bad(_)), "{bytes:?}: {:?}", read(bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0usize..40, bytes in proptest::collection::vec(any::<u8>(), 1..30)) {
            let mut wire = v2(0x21, 0x11, &[10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 3, 0, 4, 1, 2, 3, 4]);
            for (i, b) in bytes.iter().enumerate() {
                if let Some(w) = wire.get_mut(at + i) {
                    *w = *b;
                }
            }
            let _ = read(&wire);
            let _ = read(&[LINE, &bytes].concat());
        }
    }
}
