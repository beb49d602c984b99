//! Which protocol do these first bytes speak?

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// They may still become HTTP.
    NeedMore,
    /// A request line of HTTP/1.0 or 1.1.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// Something else.
    NotHttp,
}

/// The preface of an HTTP/2 client.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest request line that is waited for.
const LINE: usize = 64 * 1024;
/// Longest method.
const METHOD: usize = 24;

/// Looks at the first bytes of a connection. Never says `NeedMore` beyond 64 KiB and a little: a request target that is longer is HTTP/1.
pub fn sniff(bytes: &[u8]) -> Sniff {
    if bytes.starts_with(PREFACE) {
        return Sniff::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Sniff::NeedMore;
    }
    let method = bytes.iter().take(METHOD + 1).take_while(|&&b| crate::head::is_tchar(b)).count();
    if method == bytes.len() && method <= METHOD {
        return Sniff::NeedMore;
    }
    if method == 0 || method > METHOD || bytes.get(method) != Some(&b' ') {
        return Sniff::NotHttp;
    }
    let rest = bytes.get(method + 1..).unwrap_or_default();
    if rest.len() >= LINE && rest.iter().take(LINE).all(|&b| b > 0x20 && b != 0x7f) {
        // Too long to be waited for: whoever serves HTTP says so.
        let is_target = rest.starts_with(b"/") || rest.starts_with(b"http://") || rest.starts_with(b"https://");
        return if is_target { Sniff::Http1 } else { Sniff::NotHttp };
    }
    let target = rest.iter().take(LINE).take_while(|&&b| b > 0x20 && b != 0x7f).count();
    if target == rest.len() {
        return Sniff::NeedMore;
    }
    let version = rest.get(target..).unwrap_or_default();
    let same = |full: &[u8]| version.iter().zip(full).all(|(a, b)| a == b);
    match (target, same(b" HTTP/1.1\r\n") || same(b" HTTP/1.0\r\n")) {
        (0, _) | (_, false) => Sniff::NotHttp,
        (_, true) if version.len() >= 11 => Sniff::Http1,
        (_, true) => Sniff::NeedMore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_protocols_apart() {
        for (bytes, expected) in [
            (&b""[..], Sniff::NeedMore),
            (b"G", Sniff::NeedMore),
            (b"GET", Sniff::NeedMore),
            (b"GET ", Sniff::NeedMore),
            (b"GET /x", Sniff::NeedMore),
            (b"GET /x HTTP/1.", Sniff::NeedMore),
            (b"GET /x HTTP/1.1\r\n", Sniff::Http1),
            (b"GET /x HTTP/1.0\r\nHost", Sniff::Http1),
            (b"PROPFIND * HTTP/1.1\r\n", Sniff::Http1),
            (b"PRI * HTT", Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Sniff::NotHttp),
            (b"GET /x HTTP/3.0\r\n", Sniff::NotHttp),
            (b"GET /x\r\n", Sniff::NotHttp),
            (b"*1\r\n$4\r\nPING\r\n", Sniff::NotHttp),
            (b"SSH-2.0-OpenSSH_9\r\n", Sniff::NotHttp),
            (b"\x16\x03\x01", Sniff::NotHttp),
            (b"AVERYLONGWORDTHATISNOMETHODATALL /", Sniff::NotHttp),
            (b"EHLO mail\r\n", Sniff::NotHttp),
        ] {
            assert_eq!(sniff(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
        let long = [&b"GET /"[..], &[b'x'; 70_000]].concat();
        assert_eq!(sniff(&long), Sniff::Http1, "its codec answers 414");
        assert_eq!(sniff(&[&b"SET "[..], &[b'x'; 70_000]].concat()), Sniff::NotHttp);
        assert_eq!(sniff(&long[..60_000]), Sniff::NeedMore);
    }
}
