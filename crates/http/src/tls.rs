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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_len(n: usize, bytes: &[u8]) -> Vec<u8> {
        let len = (bytes.len() as u32).to_be_bytes();
        [&len[4 - n..], bytes].concat()
    }

    /// A ClientHello in records of at most `max` bytes.
    fn client_hello(sni: Option<&str>, alpn: &[&str], max: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        if let Some(name) = sni {
            let list = with_len(2, &[&[0][..], &with_len(2, name.as_bytes())].concat());
            extensions.extend([&[0, 0][..], &with_len(2, &list)].concat());
        }
        extensions.extend([0xaa, 0xaa, 0, 0]);
        if !alpn.is_empty() {
            let list: Vec<u8> = alpn.iter().flat_map(|p| with_len(1, p.as_bytes())).collect();
            extensions.extend([&[0, 16][..], &with_len(2, &with_len(2, &list))].concat());
        }
        let body = [&[3, 3][..], &[7; 32], &[0], &with_len(2, &[0x13, 1]), &[1, 0], &with_len(2, &extensions)].concat();
        let message = [&[1][..], &with_len(3, &body)].concat();
        message.chunks(max).flat_map(|part| [&[0x16, 3, 1][..], &with_len(2, part)].concat()).collect()
    }

    #[test]
    fn finds_name_and_protocols() {
        for max in [16_384, 20, 7] {
            let wire = client_hello(Some("Outbound_.80_._.a.b"), &["istio-peer-exchange", "h2"], max);
            let alpn = vec![b"istio-peer-exchange".to_vec(), b"h2".to_vec()];
            assert_eq!(sniff(&wire), Sniff::Hello { sni: Some("outbound_.80_._.a.b".into()), alpn }, "{max}");
            for cut in 0..wire.len() {
                assert_eq!(sniff(&wire[..cut]), Sniff::NeedMore, "{cut} of {max}");
            }
        }
        assert_eq!(sniff(&client_hello(None, &[], 100)), Sniff::Hello { sni: None, alpn: vec![] });
    }

    #[test]
    fn refuses_the_rest() {
        for bytes in [&b"GET"[..], &[0x16, 2], &[0x16, 3, 1, 0, 0], &[0x16, 3, 1, 0x7f, 0xff], &[0x16, 3, 1, 0, 1, 2], &[0x17]] {
            assert_eq!(sniff(bytes), Sniff::NotTls, "{bytes:?}");
        }
        let mut lies = client_hello(Some("a"), &["h2"], 16_384);
        lies[5 + 4 + 34] = 200;
        assert_eq!(sniff(&lies), Sniff::NotTls);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 5usize..80, bytes in proptest::collection::vec(any::<u8>(), 1..30)) {
            let mut wire = client_hello(Some("name"), &["h2", "http/1.1"], 16_384);
            for (i, b) in bytes.iter().enumerate() {
                if let Some(w) = wire.get_mut(at + i) {
                    *w = *b;
                }
            }
            let _ = sniff(&wire);
            let _ = sniff(&bytes);
        }
    }
}
