//! The ClientHello, looked at before TLS begins.

/// What the first bytes of a connection are, as far as TLS goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// They may still become a ClientHello.
    NeedMore,
    /// No TLS, or a ClientHello that is broken or too long.
    NotTls,
    /// A whole ClientHello.
    Hello {
        /// Server name, lower-cased, where one was sent.
        sni: Option<String>,
        /// Application protocols in the client's order.
        alpn: Vec<Vec<u8>>,
    },
}

/// Longest ClientHello that is waited for.
pub const MAX_HELLO: usize = 16 * 1024;

/// Bytes of a record's header.
const RECORD: usize = 5;
/// Records that one ClientHello may be spread over.
const RECORDS: usize = 32;

/// Looks at the first bytes of a connection. Never says `NeedMore` beyond [`MAX_HELLO`].
pub fn sniff(bytes: &[u8]) -> Sniff {
    match hello(bytes) {
        Progress::More if bytes.len() < MAX_HELLO => Sniff::NeedMore,
        Progress::More | Progress::Never => Sniff::NotTls,
        Progress::Whole(body) => parse(&body).unwrap_or(Sniff::NotTls),
    }
}

enum Progress {
    More,
    Never,
    /// The ClientHello, without the handshake header.
    Whole(Vec<u8>),
}

/// Collects the handshake message from its records.
fn hello(bytes: &[u8]) -> Progress {
    let mut message = Vec::new();
    let mut rest = bytes;
    for _ in 0..RECORDS {
        // Content type handshake, version 3.x: both are known from the first bytes on.
        let starts_well = rest.iter().zip([0x16, 0x03]).all(|(a, b)| *a == b);
        if !starts_well {
            return Progress::Never;
        }
        let Some((header, body)) = rest.split_at_checked(RECORD) else { return Progress::More };
        let len = match header {
            [_, _, _, a, b] => usize::from(u16::from_be_bytes([*a, *b])),
            _ => return Progress::Never,
        };
        if len == 0 || len > 16_384 {
            return Progress::Never;
        }
        message.extend_from_slice(body.get(..len.min(body.len())).unwrap_or_default());
        if message.first().is_some_and(|kind| *kind != 1) {
            return Progress::Never;
        }
        if let [_, a, b, c, body @ ..] = message.as_slice() {
            let want = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if want > MAX_HELLO {
                return Progress::Never;
            }
            if let Some(whole) = body.get(..want) {
                return Progress::Whole(whole.to_vec());
            }
        }
        match body.get(len..) {
            Some(next) => rest = next,
            None => return Progress::More,
        }
    }
    Progress::Never
}

fn parse(body: &[u8]) -> Option<Sniff> {
    let mut r = Reader(body);
    r.take(2 + 32)?;
    r.vec8()?;
    r.vec16()?;
    r.vec8()?;
    let (mut sni, mut alpn) = (None, Vec::new());
    if !r.0.is_empty() {
        let mut extensions = Reader(r.vec16()?);
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let data = extensions.vec16()?;
            match kind {
                0 => sni = server_name(data)?,
                16 => alpn = protocols(data)?,
                _ => {}
            }
        }
    }
    Some(Sniff::Hello { sni, alpn })
}

fn server_name(data: &[u8]) -> Option<Option<String>> {
    let mut names = Reader(Reader(data).vec16()?);
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.vec16()?;
        if kind == 0 {
            let valid = !name.is_empty() && name.len() <= 255 && name.iter().all(|b| b.is_ascii_graphic());
            return valid.then(|| Some(String::from_utf8_lossy(name).to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn protocols(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = Reader(Reader(data).vec16()?);
    let mut all = Vec::new();
    while !list.0.is_empty() {
        all.push(list.vec8().filter(|p| !p.is_empty())?.to_vec());
    }
    Some(all)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (a, b) = self.0.split_at_checked(n)?;
        self.0 = b;
        Some(a)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(n.into())
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(n.into())
    }
}
