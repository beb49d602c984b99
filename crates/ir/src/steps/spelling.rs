//! How a path is spelled: what RFC 3986 (section 6.2.2) calls the same is written the same.

use std::borrow::Cow;

/// A path, its query not included, in its one spelling:
/// - what a URI does not allow in a path as it is (every byte that is not ASCII, blanks, `"` and the like) is escaped;
/// - what is always the same escaped or not (letters, digits, `-`, `.`, `_`, `~`) is not escaped;
/// - the digits of an escape are upper case;
/// - a `%` that is no escape stays, unless it would become one with what is decoded behind it: then it is escaped itself.
///
/// So the spelling of a spelling is itself: what was decoded once is not decoded again by whoever comes next.
pub(crate) fn spelled(path: &str) -> Cow<'_, str> {
    if path.bytes().all(stays) {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len() + 16);
    // Where in `out` the last `%` lies that begins no escape.
    let mut stray = None;
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        match (*first, escape(rest)) {
            (b'%', Some(byte)) => {
                if is_unreserved(byte) {
                    plain(byte, &mut stray, &mut out)
                } else {
                    escaped(byte, &mut out)
                }
                rest = rest.get(3..).unwrap_or_default();
                continue;
            }
            (b'%', None) => {
                stray = Some(out.len());
                out.push('%');
            }
            (byte, _) if stays(byte) => plain(byte, &mut stray, &mut out),
            (byte, _) => escaped(byte, &mut out),
        }
        rest = tail;
    }
    if out == path { Cow::Borrowed(path) } else { Cow::Owned(out) }
}

/// The byte that an escape at the beginning of `text` stands for.
pub(super) fn escape(text: &[u8]) -> Option<u8> {
    let hex = |b: u8| char::from(b).to_digit(16);
    match text {
        [b'%', high, low, ..] => u8::try_from(hex(*high)? * 16 + hex(*low)?).ok(),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte stands in a path as it is. A backslash does: whether it is a slash is not a question of spelling.
fn stays(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'/' | b'\\' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

fn plain(byte: u8, stray: &mut Option<usize>, out: &mut String) {
    out.push(char::from(byte));
    if let Some(at) = *stray
        && out.len() == at + 3
        && out.as_bytes().get(at..).and_then(escape).is_some()
    {
        out.insert_str(at + 1, "25");
        *stray = None;
    }
}

fn escaped(byte: u8, out: &mut String) {
    let digit = |n: u8| char::from_digit(n.into(), 16).unwrap_or('0').to_ascii_uppercase();
    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}
