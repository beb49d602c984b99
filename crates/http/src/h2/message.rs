//! From decoded fields to a [`Head`] that is surely understood (RFC 9113 §8).

use crate::head::{Head, is_tchar, parse_length, valid_value};
use crate::limits::Limits;

/// What a header block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionKind {
    Request,
    Response,
    Trailers,
}

/// Takes the fields of one block and judges them.
pub(super) struct Builder {
    kind: SectionKind,
    head: Head,
    host: Option<String>,
    length: Option<u64>,
    cookies: Vec<u8>,
    regular: bool,
    size: usize,
    count: usize,
    max: (usize, usize),
    has: u8,
    verdict: Result<(), Refusal>,
}

/// Why a message is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    TooLarge,
}

const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const PATH: u8 = 4;
const AUTHORITY: u8 = 8;
const PROTOCOL: u8 = 16;
const STATUS: u8 = 32;

impl Builder {
    pub(super) fn new(kind: SectionKind, limits: &Limits) -> Builder {
        Builder {
            kind,
            head: Head::with_capacity(512, 16),
            host: None,
            length: None,
            cookies: Vec::new(),
            regular: false,
            size: 0,
            count: 0,
            max: (limits.header_bytes, limits.header_count),
            has: 0,
            verdict: Ok(()),
        }
    }

    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len();
        self.count += usize::from(name.first() != Some(&b':'));
        if self.size > self.max.0 || self.count > self.max.1 {
            self.verdict = Err(Refusal::TooLarge);
        }
        if self.verdict.is_ok() && self.take(name, value).is_none() {
            self.verdict = Err(Refusal::Malformed);
        }
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if !valid_value(value) {
            return None;
        }
        if name.first() == Some(&b':') {
            return self.pseudo(name, std::str::from_utf8(value).ok()?);
        }
        if name.is_empty() || !name.iter().all(|&b| is_tchar(b) && !b.is_ascii_uppercase()) {
            return None;
        }
        self.regular = true;
        match name {
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => return None,
            // Fields about framing, routing or the connection have no meaning this late.
            b"host" | b"te" | b"trailer" if self.kind == SectionKind::Trailers => return Some(()),
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => return None,
            b"http2-settings" => return Some(()),
            b"host" if self.kind == SectionKind::Request => {
                let host = std::str::from_utf8(value).ok()?;
                return self.host.replace(host.to_owned()).is_none().then_some(());
            }
            b"cookie" if self.kind == SectionKind::Request => {
                if !self.cookies.is_empty() {
                    self.cookies.extend_from_slice(b"; ");
                }
                self.cookies.extend_from_slice(value);
                return Some(());
            }
            b"content-length" if self.kind == SectionKind::Trailers => return Some(()),
            b"content-length" if self.length.replace(parse_length(value)?).is_some() => return None,
            _ => {}
        }
        self.head.push(name, value);
        Some(())
    }

    fn pseudo(&mut self, name: &[u8], value: &str) -> Option<()> {
        let (bit, of) = match name {
            b":method" => (METHOD, SectionKind::Request),
            b":scheme" => (SCHEME, SectionKind::Request),
            b":path" => (PATH, SectionKind::Request),
            b":authority" => (AUTHORITY, SectionKind::Request),
            b":protocol" => (PROTOCOL, SectionKind::Request),
            b":status" => (STATUS, SectionKind::Response),
            _ => return None,
        };
        if self.regular || self.kind != of || self.has & bit != 0 {
            return None;
        }
        self.has |= bit;
        let ok = match bit {
            METHOD => self.head.set_method(value),
            SCHEME => !value.is_empty() && self.head.set_scheme(&value.to_ascii_lowercase()),
            PATH => !value.is_empty() && self.head.set_path(value),
            AUTHORITY => self.head.set_authority(value),
            PROTOCOL => !value.is_empty() && self.head.set_protocol(Some(value)),
            _ => value.len() == 3 && parse_length(value.as_bytes()).is_some_and(|n| n >= 100 && self.head.set_status(n as u16)),
        };
        ok.then_some(())
    }

    /// The head and its `content-length`.
    pub(super) fn finish(mut self, limits: &Limits) -> Result<(Head, Option<u64>), Refusal> {
        self.verdict?;
        if !self.cookies.is_empty() {
            let cookies = std::mem::take(&mut self.cookies);
            self.head.push(b"cookie", &cookies);
        }
        let complete = match self.kind {
            SectionKind::Request => self.request(limits),
            SectionKind::Response => self.has == STATUS,
            SectionKind::Trailers => self.has == 0,
        };
        if complete { Ok((self.head, self.length)) } else { Err(Refusal::Malformed) }
    }

    fn request(&mut self, limits: &Limits) -> bool {
        if let Some(host) = self.host.take() {
            if self.has & AUTHORITY == 0 {
                if !self.head.set_authority(&host) {
                    return false;
                }
            } else if !self.head.authority().eq_ignore_ascii_case(&host) {
                return false;
            }
        }
        let connect = self.head.method() == "CONNECT";
        if self.has & PROTOCOL != 0 {
            let all = METHOD | SCHEME | PATH | AUTHORITY | PROTOCOL;
            return connect && limits.extended_connect && self.has == all && self.path_fits();
        }
        if connect {
            return self.has == METHOD | AUTHORITY && !self.head.authority().is_empty();
        }
        let needed = METHOD | SCHEME | PATH;
        self.has & needed == needed && self.path_fits()
    }

    fn path_fits(&self) -> bool {
        self.head.path().starts_with('/') || (self.head.path() == "*" && self.head.method() == "OPTIONS")
    }
}
