//! Heads, from bytes to [`Head`] and framing.

use super::chunk::Chunk;
use super::{H1, Recv, Send};
use crate::error::ConnError;
use crate::event::{Event, StreamId};
use crate::head::{Head, is_hop_by_hop, is_protocol, is_scheme, parse_length, valid_authority, valid_target, valid_value};
use crate::limits::{INTERIM, Limits};
use std::mem::MaybeUninit;

/// Fields that are parsed at most, whatever the limits say.
const FIELDS: usize = 256;
/// Empty lines before a request line.
const BLANK: u8 = 4;

const fn bad(what: &'static str) -> ConnError {
    ConnError::h1(400, what)
}

/// What the fields say about connection and framing.
#[derive(Default)]
struct Facts<'w> {
    host: Option<&'w [u8]>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    upgrade: Option<&'w [u8]>,
    trailers: bool,
    /// Values of `connection`: names of fields to remove.
    named: bool,
}

/// Room in a head for what is added to it on its way.
const MORE_BYTES: usize = 256;
const MORE_FIELDS: usize = 8;

impl H1 {
    pub(super) fn request<'b>(&mut self, wire: &'b [u8], stream: StreamId) -> Result<(usize, Option<Event<'b>>), ConnError> {
        match wire {
            [b'\r', b'\n', ..] => {
                self.blank += 1;
                return if self.blank > BLANK { Err(bad("empty lines")) } else { Ok((2, None)) };
            }
            [b'\r'] => return Ok((0, None)),
            _ => {}
        }
        let end = match block_end(wire, &mut self.scanned, self.limits.header_bytes) {
            Ok(Some(end)) => end,
            Ok(None) => return Ok((0, None)),
            Err(e) if e.status == 431 && find_newline(wire, 0).is_none_or(|at| at >= self.limits.header_bytes) => {
                return Err(ConnError::h1(414, "request line too long"));
            }
            Err(e) => return Err(e),
        };
        self.scanned = 0;
        let block = wire.get(..end).unwrap_or_default();
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let room = fields.get_mut(..self.limits.header_count.min(FIELDS)).unwrap_or_default();
        let parsed = request.parse_with_uninit_headers(block, room);
        if !matches!(parsed.map_err(|e| refused(e, block))?, httparse::Status::Complete(n) if n == end) {
            return Err(bad("malformed head"));
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(bad("malformed request line"));
        };
        let http_10 = version == 0;
        if http_10 && !self.limits.accept_http_10 {
            return Err(ConnError::h1(426, "HTTP/1.0 is not accepted"));
        }
        let mut head = Head::with_capacity(block.len() + MORE_BYTES, request.headers.len() + MORE_FIELDS);
        head.set_method(method);
        let facts = facts(request.headers, http_10, &mut head)?;
        let host = match facts.host {
            None if !http_10 => return Err(bad("no host")),
            host => std::str::from_utf8(host.unwrap_or_default()).map_err(|_| bad("bad host"))?,
        };
        set_target(&mut head, method, target, host)?;
        self.asked.head = method == "HEAD";
        self.asked.connect = method == "CONNECT";
        self.asked.http_10 = http_10;
        self.asked.keep_alive_10 = http_10 && facts.keep_alive && !facts.close;
        self.close = facts.close || (http_10 && !self.asked.keep_alive_10);
        if let (false, true, Some(protocol)) = (http_10 || self.asked.connect, facts.upgrade_option, facts.upgrade) {
            self.asked.upgrade = offered(protocol);
            head.set_offer(self.asked.upgrade.as_deref().unwrap_or_default());
        }
        self.active = true;
        let tunnel = self.asked.connect || self.asked.upgrade.is_some();
        if self.asked.connect && (facts.chunked || facts.length.is_some()) {
            return Err(bad("CONNECT with a body"));
        }
        self.recv = match (facts.chunked, facts.length) {
            (true, _) => Recv::Chunked(Chunk::Size),
            (_, Some(n)) if n > 0 => Recv::Body(n),
            _ if tunnel => Recv::Wait,
            _ => Recv::Ended,
        };
        if tunnel && self.recv != Recv::Wait {
            // An upgrade with a body is served as an ordinary request.
            self.asked.upgrade = None;
            head.set_protocol(None);
        }
        let end_of_message = self.recv == Recv::Ended;
        Ok((end, Some(Event::Head { stream, head, end: end_of_message })))
    }

    pub(super) fn response<'b>(&mut self, wire: &'b [u8], stream: StreamId) -> Result<(usize, Option<Event<'b>>), ConnError> {
        let Some(end) = block_end(wire, &mut self.scanned, self.limits.header_bytes)? else { return Ok((0, None)) };
        self.scanned = 0;
        let block = wire.get(..end).unwrap_or_default();
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
        let mut response = httparse::Response::new(&mut []);
        // A blank before the colon is removed from answers, and refused in requests (RFC 9112 §5.1).
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        let room = fields.get_mut(..self.limits.header_count.min(FIELDS)).unwrap_or_default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, block, room);
        if !matches!(parsed.map_err(|e| refused(e, block))?, httparse::Status::Complete(n) if n == end) {
            return Err(bad("malformed head"));
        }
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(bad("malformed status line"));
        };
        let mut head = Head::with_capacity(block.len(), response.headers.len());
        if !head.set_status(status) {
            return Err(bad("bad status"));
        }
        let mut facts = facts(response.headers, version == 0, &mut head)?;
        if status == 101 {
            self.switch(&facts, &mut head)?;
        } else if status < 200 {
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(bad("too many interim responses"));
            }
            head.remove("content-length");
            return Ok((end, Some(Event::Head { stream, head, end: false })));
        } else {
            self.final_response(status, version == 0, &mut facts, &mut head);
        }
        let end_of_message = self.recv == Recv::Ended;
        Ok((end, Some(Event::Head { stream, head, end: end_of_message })))
    }

    fn switch(&mut self, facts: &Facts<'_>, head: &mut Head) -> Result<(), ConnError> {
        let (Some(asked), Some(protocol)) = (self.asked.upgrade.as_ref(), facts.upgrade) else {
            return Err(bad("switches protocols without being asked"));
        };
        if !asked.split(',').any(|one| one.as_bytes().eq_ignore_ascii_case(protocol)) {
            return Err(bad("switches to a protocol that was not asked for"));
        }
        head.set_protocol(std::str::from_utf8(protocol).ok());
        head.remove("content-length");
        self.become_tunnel();
        Ok(())
    }

    fn final_response(&mut self, status: u16, http_10: bool, facts: &mut Facts<'_>, head: &mut Head) {
        self.close |= facts.close || (http_10 && !facts.keep_alive);
        if self.asked.connect && status < 300 {
            head.remove("content-length");
            return self.become_tunnel();
        }
        if self.send == Send::Wait {
            // The tunnel was refused: nothing more is sent on this exchange.
            self.send = Send::Ended;
            self.blocked = false;
        }
        if status == 204 {
            head.remove("content-length");
        }
        self.recv = if self.asked.head || status == 204 || status == 304 {
            Recv::Ended
        } else if facts.chunked {
            Recv::Chunked(Chunk::Size)
        } else {
            match facts.length {
                Some(0) => Recv::Ended,
                Some(n) => Recv::Body(n),
                None => {
                    self.close = true;
                    Recv::UntilClose
                }
            }
        };
    }

    pub(super) fn become_tunnel(&mut self) {
        self.tunnel = true;
        if self.recv != Recv::Ended || self.client {
            self.recv = Recv::UntilClose;
        }
        if self.send != Send::Ended || !self.client {
            self.send = Send::UntilClose;
        }
    }
}

/// Parses a trailer block, its last empty line included.
pub(super) fn trailers(block: &[u8], limits: &Limits) -> Result<Head, ConnError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let room = fields.get_mut(..limits.header_count.min(FIELDS)).unwrap_or_default();
    let fields = match httparse::parse_headers(block, room) {
        Ok(httparse::Status::Complete((n, fields))) if n == block.len() => fields,
        Err(e) => return Err(refused(e, block)),
        _ => return Err(bad("malformed trailers")),
    };
    let mut head = Head::with_capacity(block.len(), fields.len());
    for f in fields {
        let name = f.name.to_ascii_lowercase();
        // Fields about framing, routing or the connection have no meaning this late.
        if !is_hop_by_hop(&name) && !matches!(name.as_str(), "content-length" | "host" | "te" | "trailer") {
            head.append(&name, trim(f.value));
        }
    }
    Ok(head)
}

/// Where a block of lines ends, after its empty line. `scanned` remembers how far was searched, so that slow bytes are not searched twice.
pub(super) fn block_end(wire: &[u8], scanned: &mut usize, max: usize) -> Result<Option<usize>, ConnError> {
    let mut from = (*scanned).min(wire.len());
    while let Some(at) = find_newline(wire, from) {
        if at > max {
            break;
        }
        if at == 0 || wire.get(at - 1) != Some(&b'\r') {
            return Err(bad("bare line feed"));
        }
        if at >= 3 && wire.get(at - 3..at) == Some(b"\r\n\r") {
            *scanned = 0;
            return if at < max { Ok(Some(at + 1)) } else { Err(ConnError::h1(431, "head too large")) };
        }
        from = at + 1;
    }
    *scanned = wire.len();
    if wire.len() > max { Err(ConnError::h1(431, "head too large")) } else { Ok(None) }
}

/// The next line feed.
fn find_newline(wire: &[u8], from: usize) -> Option<usize> {
    memchr::memchr(b'\n', wire.get(from..)?).map(|at| from + at)
}

fn refused(e: httparse::Error, block: &[u8]) -> ConnError {
    match e {
        httparse::Error::TooManyHeaders => ConnError::h1(431, "too many fields"),
        httparse::Error::Version if block.contains(&b'/') => ConnError::h1(505, "unknown HTTP version"),
        httparse::Error::HeaderName => bad("malformed field name"),
        httparse::Error::HeaderValue => bad("malformed field value"),
        httparse::Error::Status => bad("malformed status"),
        httparse::Error::Token => bad("malformed request line"),
        _ => bad("malformed head"),
    }
}

/// Sorts the fields: what concerns the connection into facts, the rest into `head`.
fn facts<'w>(fields: &[httparse::Header<'w>], http_10: bool, head: &mut Head) -> Result<Facts<'w>, ConnError> {
    let mut facts = Facts::default();
    for f in fields {
        let value = trim(f.value);
        if !valid_value(value) {
            return Err(bad("malformed field value"));
        }
        // Only names of these lengths are special.
        let special = matches!(f.name.len(), 2 | 4 | 7 | 10 | 14 | 16 | 17);
        if !special || !fact(&mut facts, f.name, value, http_10)? {
            head.push(f.name.as_bytes(), value);
        }
    }
    if facts.chunked && facts.length.is_some() {
        return Err(bad("both transfer-encoding and content-length"));
    }
    if facts.named {
        let named: Vec<String> = fields
            .iter()
            .filter(|f| f.name.eq_ignore_ascii_case("connection"))
            .flat_map(|f| tokens(f.value))
            .map(|t| String::from_utf8_lossy(t).to_ascii_lowercase())
            .collect();
        head.retain(|name, _| name == "content-length" || !named.iter().any(|n| n == name));
    }
    if facts.trailers {
        head.push(b"te", b"trailers");
    }
    Ok(facts)
}

/// Takes over a field that is about the connection; `false` if it is not. `content-length` is counted and also passed on.
fn fact<'w>(facts: &mut Facts<'w>, name: &str, value: &'w [u8], http_10: bool) -> Result<bool, ConnError> {
    let is = |n: &str| name.eq_ignore_ascii_case(n);
    if is("host") {
        if facts.host.replace(value).is_some() {
            return Err(bad("more than one host"));
        }
    } else if is("content-length") {
        let n = parse_length(value).ok_or(bad("malformed content-length"))?;
        if facts.length.replace(n).is_some() {
            return Err(bad("more than one content-length"));
        }
        return Ok(false);
    } else if is("transfer-encoding") {
        if http_10 || facts.chunked {
            return Err(bad("transfer-encoding out of place"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(ConnError::h1(501, "unknown transfer-encoding"));
        }
        facts.chunked = true;
    } else if is("connection") {
        for token in tokens(value) {
            match token.to_ascii_lowercase().as_slice() {
                b"close" => facts.close = true,
                b"keep-alive" => facts.keep_alive = true,
                b"upgrade" => facts.upgrade_option = true,
                b"te" => {}
                _ => facts.named = true,
            }
        }
    } else if is("upgrade") {
        facts.upgrade = facts.upgrade.or(Some(value));
    } else if is("te") {
        facts.trailers |= tokens(value).any(|t| t.eq_ignore_ascii_case(b"trailers"));
    } else {
        return Ok(is("keep-alive") || is("proxy-connection") || is("http2-settings"));
    }
    Ok(true)
}

/// The protocols that an upgrade offers, joined by commas. HTTP/2 is not begun this way.
fn offered(value: &[u8]) -> Option<String> {
    let protocols = tokens(value).filter_map(|t| std::str::from_utf8(t).ok());
    let protocols: Vec<&str> = protocols.filter(|p| is_protocol(p.as_bytes()) && !p.eq_ignore_ascii_case("h2c")).collect();
    (!protocols.is_empty()).then(|| protocols.join(","))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim).filter(|t| !t.is_empty())
}

fn trim(mut v: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = v {
        v = rest;
    }
    v
}

/// The four forms of a request target (RFC 9112 §3.2).
fn set_target(head: &mut Head, method: &str, target: &str, host: &str) -> Result<(), ConnError> {
    let bad_target = bad("malformed request target");
    if !valid_target(target.as_bytes()) || !valid_authority(host.as_bytes()) {
        return Err(bad("malformed request target or host"));
    }
    if method == "CONNECT" {
        let port = target.rsplit_once(':').and_then(|(name, port)| (!name.is_empty()).then(|| port.parse::<u16>()));
        return if matches!(port, Some(Ok(_))) && head.set_authority(target) { Ok(()) } else { Err(bad_target) };
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        head.set_path(target);
        head.set_authority(host);
        return Ok(());
    }
    let (scheme, rest) = target.split_once("://").ok_or(bad("malformed request target"))?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(at).ok_or(bad("malformed request target"))?;
    let scheme = scheme.to_ascii_lowercase();
    if !is_scheme(scheme.as_bytes()) || !matches!(scheme.as_str(), "http" | "https") || authority.is_empty() {
        return Err(bad_target);
    }
    head.set_scheme(&scheme);
    let path = match path {
        "" if method == "OPTIONS" => "*".into(),
        p if p.starts_with('/') => std::borrow::Cow::Borrowed(p),
        p => format!("/{p}").into(),
    };
    if head.set_authority(authority) && head.set_path(&path) { Ok(()) } else { Err(bad_target) }
}
