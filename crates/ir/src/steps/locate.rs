//! Where in a request tokens are.

use std::fmt;

use mizzen_http::Head;

use crate::config::TokenLocation;

/// A text in the place of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where.
    pub(super) at: TokenLocation,
    /// It.
    pub(super) text: String,
}

impl fmt::Display for TokenLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenLocation::Header(name, _) => write!(f, "header {name}"),
            TokenLocation::Param(name) => write!(f, "query parameter {name}"),
            TokenLocation::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

/// The tokens in these places, at most so many. Of a place that has several all are found: who comes after us may take any of them.
pub(super) fn find(places: &[TokenLocation], head: &Head, most: usize) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for place in places {
        let texts = match place {
            TokenLocation::Header(name, prefix) => header(head, name, prefix),
            TokenLocation::Param(name) => params(head.path(), name),
            TokenLocation::Cookie(name) => cookies(head, name),
        };
        for text in texts {
            let found = Found { at: place.clone(), text };
            if all.len() < most && !all.contains(&found) {
                all.push(found);
            }
        }
    }
    all
}

/// What stands after each `prefix`, up to the next; without one the values, joined as one. Whatever else stands there makes a token a bad one.
fn header(head: &Head, name: &str, prefix: &str) -> Vec<String> {
    let Some(joined) = head.get_joined(name) else { return Vec::new() };
    let joined = String::from_utf8_lossy(&joined);
    if prefix.is_empty() {
        return vec![joined.into_owned()];
    }
    joined.split(prefix).skip(1).map(str::to_owned).collect()
}

/// The values of a query parameter, decoded.
fn params(path: &str, name: &str) -> Vec<String> {
    pairs(path).filter(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value)).collect()
}

fn pairs(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = path.split_once('?').map_or("", |(_, query)| query.split('#').next().unwrap_or_default());
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// What percent signs stand for. What is not UTF-8 then is no token.
fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn cookies(head: &Head, name: &str) -> Vec<String> {
    let lines = head.get_all("cookie").flat_map(|line| line.split(|b| *b == b';'));
    let one = |part: &[u8]| {
        let part = part.trim_ascii();
        let at = part.iter().position(|b| *b == b'=')?;
        let (key, value) = part.split_at(at);
        let value = value.get(1..).unwrap_or_default();
        let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
        (key == name.as_bytes()).then(|| String::from_utf8_lossy(bare).into_owned())
    };
    lines.filter_map(one).collect()
}

/// Takes a token out of a request. In a cookie it stays, as with Envoy: whoever set it is the server.
pub(super) fn forget(found: &Found, head: &mut Head) {
    match &found.at {
        TokenLocation::Header(name, _) => {
            head.remove(name);
        }
        TokenLocation::Param(name) => {
            let path = head.path().to_owned();
            let Some((before, _)) = path.split_once('?') else { return };
            let kept: Vec<String> = pairs(&path)
                .filter(|(key, _)| decoded(key) != **name)
                .map(|(key, value)| if value.is_empty() { key.to_owned() } else { format!("{key}={value}") })
                .collect();
            let path = if kept.is_empty() { before.to_owned() } else { format!("{before}?{}", kept.join("&")) };
            head.set_path(&path);
        }
        TokenLocation::Cookie(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str, lines: &[(&str, &str)]) -> Head {
        let mut head = Head::request("GET", "http", "a", path);
        lines.iter().for_each(|(name, value)| assert!(head.append(name, value)));
        head
    }

    #[test]
    fn places() {
        let check = |place: TokenLocation, head: &Head, wanted: &[&str]| {
            let found: Vec<String> = find(&[place], head, 99).into_iter().map(|found| found.text).collect();
            assert_eq!(found, wanted, "{head:?}");
        };
        let bearer = || TokenLocation::Header("authorization".into(), "Bearer ".into());
        let of = |value: &str| head("/", &[("authorization", value)]);
        check(bearer(), &of("Bearer a.b.c"), &["a.b.c"]);
        check(bearer(), &of("bearer a.b.c"), &[]);
        check(bearer(), &of("Basic Bearer"), &[]);
        check(bearer(), &of("Bearer \"a.b-_.c\", x"), &["\"a.b-_.c\", x"]);
        check(bearer(), &of("Basic x, Bearer a.b.c=="), &["a.b.c=="]);
        check(bearer(), &of("Bearer a, Bearer b"), &["a, ", "b"]);
        check(bearer(), &head("/", &[("authorization", "Bearer a"), ("authorization", "Bearer b")]), &["a,", "b"]);
        check(TokenLocation::Header("x-token".into(), "".into()), &head("/", &[("x-token", "a.b.c")]), &["a.b.c"]);
        check(TokenLocation::Header("x-token".into(), "".into()), &head("/", &[("x-token", "a"), ("x-token", "b")]), &["a,b"]);
        let param = || TokenLocation::Param("t".into());
        for (path, wanted) in [
            ("/x", &[][..]),
            ("/x?t=a.b.c", &["a.b.c"]),
            ("/x?t=a&u=1&t=b", &["a", "b"]),
            ("/x?%74=a%2Eb", &["a.b"]),
            ("/x?tt=a&T=b", &[]),
            ("/x?t", &[""]),
            ("/t=a", &[]),
        ] {
            check(param(), &head(path, &[]), wanted);
        }
        let cookie = || TokenLocation::Cookie("s".into());
        check(cookie(), &head("/", &[("cookie", "a=1; s=x.y.z"), ("cookie", "s=\"q\"; ss=no")]), &["x.y.z", "q"]);
        let many = format!("/?{}", (0..50).map(|i| format!("t={i}")).collect::<Vec<_>>().join("&"));
        assert_eq!(find(&[param()], &head(&many, &[]), 17).len(), 17);
    }

    #[test]
    fn forgetting() {
        let check = |path: &str, wanted: &str| {
            let mut head = head(path, &[]);
            forget(&Found { at: TokenLocation::Param("t".into()), text: String::new() }, &mut head);
            assert_eq!(head.path(), wanted);
        };
        check("/x?t=a", "/x");
        check("/x?a=1&t=a&b=2&%74=c", "/x?a=1&b=2");
        check("/x?a&t=a", "/x?a");
    }
}
