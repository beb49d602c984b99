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
const LINE: usize = 16 * 1024;
/// Longest method.
const METHOD: usize = 24;

/// Looks at the first bytes of a connection. Never says `NeedMore` beyond 16 KiB.
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
    let target = rest.iter().take(LINE).take_while(|&&b| b > 0x20 && b != 0x7f).count();
    if target == rest.len() && target < LINE {
        return Sniff::NeedMore;
    }
    let version = rest.get(target..).unwrap_or_default();
    let same = |full: &[u8]| version.iter().zip(full).all(|(a, b)| a == b);
    match (target, same(b" HTTP/1.1\r\n") || same(b" HTTP/1.0\r\n")) {
        (0, _) | (_, false) => Sniff::NotHttp,
        (LINE.., true) => Sniff::NotHttp,
        (_, true) if version.len() >= 11 => Sniff::Http1,
        (_, true) => Sniff::NeedMore,
    }
}
