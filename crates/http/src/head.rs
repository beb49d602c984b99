//! The head of a message, in one arena.

use std::borrow::Cow;

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    at: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
}

/// A request's or response's head, or a block of trailers: pseudo fields and ordered fields over one arena.
///
/// The common form of both HTTP versions, as a proxy passes it on:
/// - names are lower case; values have no CR, LF or NUL (the setters refuse what breaks this);
/// - `host` is in [`authority`](Head::authority); fields that belong to one connection (`connection` and what it names, `keep-alive`,
///   `proxy-connection`, `transfer-encoding`, `upgrade`, `http2-settings`, `te` other than `trailers`) are gone: each codec writes its own;
/// - an upgrade (HTTP/1 `upgrade: websocket`, HTTP/2 extended CONNECT) is `GET` with [`protocol`](Head::protocol) set, and the
///   response that agrees is 101 with `protocol` set;
/// - a plain CONNECT has an empty path.
///
/// `get`, `set`, `append` and `remove` also take `:method`, `:path`, `:authority`, `:scheme`, `:status` and `:protocol`.
#[derive(Clone, Default)]
pub struct Head {
    arena: Vec<u8>,
    fields: Vec<Field>,
    method: Span,
    path: Span,
    authority: Span,
    scheme: Span,
    protocol: Span,
    status: u16,
    status_text: [u8; 3],
}

impl Head {
    /// An empty head (trailers).
    pub fn new() -> Head {
        Head::default()
    }

    /// A request. Parts that are not valid stay empty.
    pub fn request(method: &str, scheme: &str, authority: &str, path: &str) -> Head {
        let mut head = Head::new();
        head.set_method(method);
        head.set_scheme(scheme);
        head.set_authority(authority);
        head.set_path(path);
        head
    }

    /// A response.
    pub fn response(status: u16) -> Head {
        let mut head = Head::new();
        head.set_status(status);
        head
    }

    /// Whether there is a method.
    pub fn is_request(&self) -> bool {
        self.method.len > 0
    }

    /// `""` if this is not a request.
    pub fn method(&self) -> &str {
        self.text(self.method)
    }

    /// Path with query; `*` for OPTIONS, `""` for CONNECT.
    pub fn path(&self) -> &str {
        self.text(self.path)
    }

    /// `host:port` as sent; may be `""`.
    pub fn authority(&self) -> &str {
        self.text(self.authority)
    }

    /// `http` or `https` where the peer said so (HTTP/2, absolute form), else `""`.
    pub fn scheme(&self) -> &str {
        self.text(self.scheme)
    }

    /// The protocol of an upgrade; in a request of HTTP/1, all that the client offers, joined by commas, in its order.
    pub fn protocol(&self) -> Option<&str> {
        (self.protocol.len > 0).then(|| self.text(self.protocol))
    }

    /// 0 if this is not a response.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Sets the method: a token.
    pub fn set_method(&mut self, v: &str) -> bool {
        let ok = is_token(v.as_bytes());
        if ok {
            self.method = self.put(v.as_bytes());
        }
        ok
    }

    /// Sets the path: no blanks, control characters or `#`.
    pub fn set_path(&mut self, v: &str) -> bool {
        let ok = valid_target(v.as_bytes());
        if ok {
            self.path = self.put(v.as_bytes());
        }
        ok
    }

    /// Sets the authority: no blanks, control characters, `/`, `?`, `#` or `@`.
    pub fn set_authority(&mut self, v: &str) -> bool {
        let ok = valid_authority(v.as_bytes());
        if ok {
            self.authority = self.put(v.as_bytes());
        }
        ok
    }

    /// Sets the scheme.
    pub fn set_scheme(&mut self, v: &str) -> bool {
        let ok = v.is_empty() || is_scheme(v.as_bytes());
        if ok {
            self.scheme = self.put(v.as_bytes());
        }
        ok
    }

    /// Sets the protocol of an upgrade; `None` removes it.
    pub fn set_protocol(&mut self, v: Option<&str>) -> bool {
        let v = v.unwrap_or_default();
        let ok = v.is_empty() || is_protocol(v.as_bytes());
        if ok {
            self.protocol = self.put(v.as_bytes());
        }
        ok
    }

    /// Sets the protocols that an upgrade offers, joined by commas; the caller has checked them.
    pub(crate) fn set_offer(&mut self, v: &str) {
        self.protocol = self.put(v.as_bytes());
    }

    /// Sets the status, 100 to 999; 0 removes it.
    pub fn set_status(&mut self, status: u16) -> bool {
        let ok = status == 0 || (100..=999).contains(&status);
        if ok {
            self.status = status;
            let digit = |n: u16| b'0' + (n % 10) as u8;
            self.status_text = [digit(status / 100), digit(status / 10), digit(status)];
        }
        ok
    }

    /// The first value of a field (names are lower case).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        if name.starts_with(':') {
            return self.pseudo(name);
        }
        self.find(name.as_bytes()).map(|f| self.bytes(f.value))
    }

    /// As `get`, if the value is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// All values of a field in their order. Not for pseudo fields.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.fields.iter().filter(move |f| self.bytes(f.name) == name.as_bytes()).map(|f| self.bytes(f.value))
    }

    /// All values of a field, joined by `,`: what matchers look at.
    pub fn get_joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if name.starts_with(':') {
            return self.pseudo(name).map(Cow::Borrowed);
        }
        let mut all = self.fields.iter().filter(|f| self.bytes(f.name) == name.as_bytes()).map(|f| self.bytes(f.value));
        let mut joined = Cow::Borrowed(all.next()?);
        for v in all {
            let joined = joined.to_mut();
            joined.push(b',');
            joined.extend_from_slice(v);
        }
        Some(joined)
    }

    /// Whether the field is there.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The fields in their order, without the pseudo fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|f| (self.text(f.name), self.bytes(f.value)))
    }

    /// How many fields, pseudo fields not counted.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are no fields, pseudo fields not counted.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Bytes of all names and values, pseudo fields included.
    pub fn size(&self) -> usize {
        let fields: usize = self.fields.iter().map(|f| (f.name.len + f.value.len) as usize).sum();
        let pseudo = [(7, self.method), (5, self.path), (10, self.authority), (7, self.scheme), (9, self.protocol)];
        let pseudo: usize = pseudo.iter().filter(|(_, s)| s.len > 0).map(|(n, s)| n + s.len as usize).sum();
        fields + pseudo + if self.status > 0 { 10 } else { 0 }
    }

    /// Adds a field after the others; `false` (and nothing is done) if name or value is not valid. The name is lower-cased.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) -> bool {
        let value = value.as_ref();
        if name.starts_with(':') {
            return self.set_pseudo(name, value);
        }
        let ok = valid_name(name.as_bytes()) && valid_value(value);
        if ok {
            self.push(name.as_bytes(), value);
        }
        ok
    }

    /// Puts the field in the place of all of that name, or after the others; `false` (and nothing is done) if name or value is not valid.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> bool {
        let value = value.as_ref();
        if name.starts_with(':') {
            return self.set_pseudo(name, value);
        }
        if !(valid_name(name.as_bytes()) && valid_value(value)) {
            return false;
        }
        let same = |arena: &Vec<u8>, f: &Field| slice(arena, f.name).eq_ignore_ascii_case(name.as_bytes());
        match self.fields.iter().position(|f| same(&self.arena, f)) {
            None => self.push(name.as_bytes(), value),
            Some(i) => {
                let span = self.put(value);
                let arena = &self.arena;
                let mut at = 0;
                self.fields.retain(|f| {
                    at += 1;
                    at <= i + 1 || !same(arena, f)
                });
                if let Some(f) = self.fields.get_mut(i) {
                    f.value = span;
                }
            }
        }
        true
    }

    /// Removes all fields of that name; whether there were any.
    pub fn remove(&mut self, name: &str) -> bool {
        if name.starts_with(':') {
            let had = self.pseudo(name).is_some();
            match name {
                ":method" => self.method = Span::default(),
                ":path" => self.path = Span::default(),
                ":authority" => self.authority = Span::default(),
                ":scheme" => self.scheme = Span::default(),
                ":protocol" => self.protocol = Span::default(),
                ":status" => self.status = 0,
                _ => {}
            }
            return had;
        }
        let before = self.fields.len();
        let arena = &self.arena;
        self.fields.retain(|f| !slice(arena, f.name).eq_ignore_ascii_case(name.as_bytes()));
        self.fields.len() != before
    }

    /// Keeps only the fields for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        let arena = &self.arena;
        self.fields.retain(|f| keep(std::str::from_utf8(slice(arena, f.name)).unwrap_or_default(), slice(arena, f.value)));
    }

    /// Empties it, keeping the memory.
    pub fn clear(&mut self) {
        let (mut arena, mut fields) = (std::mem::take(&mut self.arena), std::mem::take(&mut self.fields));
        arena.clear();
        fields.clear();
        *self = Head { arena, fields, ..Head::default() };
    }

    /// `content-length`, if it is there and a number.
    pub fn content_length(&self) -> Option<u64> {
        parse_length(self.get("content-length")?)
    }

    pub(crate) fn with_capacity(bytes: usize, fields: usize) -> Head {
        Head { arena: Vec::with_capacity(bytes), fields: Vec::with_capacity(fields), ..Head::default() }
    }

    /// Adds a field that the caller has checked; the name is lower-cased.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        let n = self.put(name);
        if let Some(n) = self.arena.get_mut(n.at as usize..) {
            n.make_ascii_lowercase();
        }
        let v = self.put(value);
        self.fields.push(Field { name: n, value: v });
    }

    fn put(&mut self, v: &[u8]) -> Span {
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(v);
        Span { at, len: v.len() as u32 }
    }

    fn bytes(&self, s: Span) -> &[u8] {
        slice(&self.arena, s)
    }

    fn text(&self, s: Span) -> &str {
        std::str::from_utf8(self.bytes(s)).unwrap_or_default()
    }

    fn find(&self, name: &[u8]) -> Option<&Field> {
        self.fields.iter().find(|f| f.name.len as usize == name.len() && self.bytes(f.name) == name)
    }

    fn pseudo(&self, name: &str) -> Option<&[u8]> {
        let span = match name {
            ":method" => self.method,
            ":path" => self.path,
            ":authority" => self.authority,
            ":scheme" => self.scheme,
            ":protocol" => self.protocol,
            ":status" if self.status > 0 => return Some(&self.status_text),
            _ => return None,
        };
        (span.len > 0).then(|| self.bytes(span))
    }

    fn set_pseudo(&mut self, name: &str, value: &[u8]) -> bool {
        let Ok(v) = std::str::from_utf8(value) else { return false };
        match name {
            ":method" => self.set_method(v),
            ":path" => self.set_path(v),
            ":authority" => self.set_authority(v),
            ":scheme" => self.set_scheme(v),
            ":protocol" => self.set_protocol(Some(v)),
            ":status" => v.parse().is_ok_and(|s| self.set_status(s)),
            _ => false,
        }
    }
}

impl PartialEq for Head {
    fn eq(&self, o: &Head) -> bool {
        self.status == o.status
            && (self.method(), self.path(), self.authority(), self.scheme(), self.protocol())
                == (o.method(), o.path(), o.authority(), o.scheme(), o.protocol())
            && self.iter().eq(o.iter())
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        for name in [":status", ":method", ":scheme", ":authority", ":path", ":protocol"] {
            if let Some(v) = self.pseudo(name) {
                map.entry(&name, &String::from_utf8_lossy(v));
            }
        }
        map.entries(self.iter().map(|(n, v)| (n, String::from_utf8_lossy(v)))).finish()
    }
}

/// Whether a field of this (lower case) name belongs to one connection and is never passed on. `te` is one unless it is `trailers`.
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings")
}

/// Whether this is a field name (a token of RFC 9110), in either case.
pub fn valid_name(name: &[u8]) -> bool {
    is_token(name)
}

/// Whether this is a field value: no control characters but tab, no blank at either end.
pub fn valid_value(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f)) && !blank(value.first()) && !blank(value.last())
}

pub(crate) fn is_token(v: &[u8]) -> bool {
    !v.is_empty() && v.iter().all(|&b| is_tchar(b))
}

/// A protocol of an upgrade: a name, and maybe a version behind a slash.
pub(crate) fn is_protocol(v: &[u8]) -> bool {
    !v.is_empty() && v.iter().all(|&b| is_tchar(b) || b == b'/')
}

pub(crate) fn is_tchar(b: u8) -> bool {
    const OK: [bool; 256] = {
        let mut t = [false; 256];
        let mut i = 0;
        while i < 128 {
            let b = i as u8;
            t[i] = b.is_ascii_alphanumeric()
                || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
            i += 1;
        }
        t
    };
    OK[b as usize]
}

pub(crate) fn valid_target(v: &[u8]) -> bool {
    v.iter().all(|&b| b > 0x20 && b != 0x7f && b != b'#')
}

pub(crate) fn valid_authority(v: &[u8]) -> bool {
    v.iter().all(|&b| b > 0x20 && b < 0x7f && !matches!(b, b'/' | b'?' | b'#' | b'@' | b'\\' | b','))
}

pub(crate) fn is_scheme(v: &[u8]) -> bool {
    v.first().is_some_and(u8::is_ascii_alphabetic) && v.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Digits only, no sign, no overflow.
pub(crate) fn parse_length(v: &[u8]) -> Option<u64> {
    if v.is_empty() || v.len() > 19 || !v.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(v.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

fn slice(arena: &[u8], s: Span) -> &[u8] {
    arena.get(s.at as usize..(s.at + s.len) as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let mut h = Head::request("GET", "http", "a", "/");
        for (n, v) in [("X-A", "1"), ("b", "2"), ("x-a", "3"), ("c", "4")] {
            assert!(h.append(n, v));
        }
        h
    }

    fn fields(h: &Head) -> String {
        h.iter().map(|(n, v)| format!("{n}={} ", String::from_utf8_lossy(v))).collect()
    }

    #[test]
    fn fields_keep_their_order() {
        let mut h = head();
        assert_eq!(fields(&h), "x-a=1 b=2 x-a=3 c=4 ");
        assert_eq!(h.get_joined("x-a").as_deref(), Some(&b"1,3"[..]));
        assert_eq!(h.get_all("x-a").count(), 2);
        assert!(h.set("X-a", "5"));
        assert_eq!(fields(&h), "x-a=5 b=2 c=4 ");
        assert!(h.remove("b") && !h.remove("b"));
        h.retain(|n, _| n != "c");
        assert_eq!(fields(&h), "x-a=5 ");
        assert_eq!(h.size(), 4 + ":method".len() + 3 + ":path".len() + 1 + ":authority".len() + 1 + ":scheme".len() + 4);
    }

    #[test]
    fn pseudo_fields_go_by_their_names_too() {
        let mut h = head();
        assert!(h.set(":path", "/x?y") && h.set(":status", "204") && h.set(":authority", "b:1"));
        assert_eq!((h.path(), h.status(), h.authority()), ("/x?y", 204, "b:1"));
        assert_eq!(h.get(":status"), Some(&b"204"[..]));
        assert!(h.remove(":path"));
        assert_eq!(h.get(":path"), None);
    }

    #[test]
    fn refuses_what_would_break_a_message() {
        let mut h = head();
        let before = h.clone();
        for (name, value) in
            [("", "x"), ("a b", "x"), ("a:", "x"), ("a", "x\r\ny: z"), ("a", "x\0"), ("a", " x"), (":path", "/a b"), (":x", "y")]
        {
            assert!(!h.append(name, value) && !h.set(name, value), "{name:?} {value:?}");
        }
        assert!(!h.set_path("/a\r\nb") && !h.set_authority("a/b") && !h.set_method("G T") && !h.set_status(42));
        assert_eq!(h, before);
    }
}
