//! Parsers of what peers send first: HTTP of both versions in both roles, HPACK, and the sniffers.

use mizzen_http::{
    Codec, Event, Head, Limits, Sniff, StreamId,
    hpack::{Decoder, Encoder},
    tls,
};

use super::pieces;

/// An event that owns what it says. Neighbouring pieces of a body are one, since splits show there and nowhere else.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Head(StreamId, Head, bool),
    Data(StreamId, Vec<u8>, bool),
    Trailers(StreamId, Head),
    Other(String),
}

impl Seen {
    fn of(event: Event<'_>) -> Seen {
        match event {
            Event::Head { stream, head, end } => Seen::Head(stream, head, end),
            Event::Data { stream, data, end } => Seen::Data(stream, data.to_vec(), end),
            Event::Trailers { stream, head } => Seen::Trailers(stream, head),
            other => Seen::Other(format!("{other:?}")),
        }
    }

    /// The stream that ends with this.
    fn ended(&self) -> Option<StreamId> {
        match self {
            Seen::Head(stream, _, true) | Seen::Data(stream, _, true) | Seen::Trailers(stream, _) => Some(*stream),
            _ => None,
        }
    }
}

/// A codec with what its caller keeps.
struct Side {
    codec: Codec,
    wire: Vec<u8>,
    out: Vec<u8>,
    seen: Vec<Seen>,
    failed: bool,
    answers: bool,
}

impl Side {
    fn server(h2: bool) -> Side {
        let mut out = Vec::new();
        let codec = if h2 { Codec::h2_server(Limits::new(), &mut out) } else { Codec::h1_server(Limits::new()) };
        Side { codec, wire: Vec::new(), out, seen: Vec::new(), failed: false, answers: true }
    }

    /// A client that has sent a request; over HTTP/2, one that has sent three.
    fn client(h2: bool, method: &str) -> Side {
        let mut out = Vec::new();
        let codec = if h2 { Codec::h2_client(Limits::new(), &mut out) } else { Codec::h1_client(Limits::new()) };
        let mut side = Side { codec, wire: Vec::new(), out, seen: Vec::new(), failed: false, answers: false };
        let mut head = Head::request(method, "http", "a:1", "/");
        if method == "UPGRADE" {
            head.set_method("GET");
            head.set_protocol(Some("websocket"));
        }
        for _ in 0..if h2 { 3 } else { 1 } {
            side.send(&head, !(method == "CONNECT" || method == "UPGRADE"));
        }
        side
    }

    fn send(&mut self, head: &Head, end: bool) {
        if let Some(stream) = self.codec.open() {
            self.codec.send_head(stream, head, end, &mut self.out);
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.wire.extend_from_slice(bytes);
        while !self.failed {
            let seen = match self.codec.next(&self.wire, &mut self.out) {
                Ok((n, event)) => {
                    let seen = event.map(Seen::of);
                    self.wire.drain(..n);
                    seen
                }
                Err(error) => {
                    self.failed = true;
                    Some(Seen::Other(format!("{error:?}")))
                }
            };
            let Some(seen) = seen else { break };
            self.take(seen);
        }
        // A server's side may hold back what follows an unanswered request; otherwise what waits for more is bounded.
        assert!(self.failed || self.codec.waits() || self.wire.len() <= self.codec.unconsumed(), "{} bytes untaken", self.wire.len());
    }

    fn take(&mut self, seen: Seen) {
        if let Seen::Data(stream, data, _) = &seen {
            self.codec.consumed(*stream, data.len(), &mut self.out);
        }
        if let Some(stream) = seen.ended().filter(|_| self.answers) {
            self.codec.send_head(stream, &Head::response(204), true, &mut self.out);
        }
        match (self.seen.last_mut(), &seen) {
            (Some(Seen::Data(id, bytes, end @ false)), Seen::Data(other, more, ends)) if id == other => {
                bytes.extend_from_slice(more);
                *end = *ends;
            }
            _ => self.seen.push(seen),
        }
    }

    fn end(&mut self) {
        for _ in 0..1_000 {
            match self.codec.eof() {
                Ok(Some(event)) => self.seen.push(Seen::of(event)),
                Ok(None) => return,
                Err(error) => return self.seen.push(Seen::Other(format!("{error:?}"))),
            }
        }
        panic!("the end has no end");
    }
}

/// The same bytes, whole and in pieces, give the same events; the heads that were understood can be sent on, and are understood again.
fn check(make: &dyn Fn() -> Side, cut: u8, wire: &[u8]) {
    let mut whole = make();
    whole.feed(wire);
    let mut split = make();
    for piece in pieces(cut, wire) {
        split.feed(piece);
    }
    if !whole.failed {
        whole.end();
        split.end();
    }
    assert_eq!(whole.seen, split.seen, "in pieces");
    for seen in &whole.seen {
        if let Seen::Head(_, head, _) = seen {
            passed_on(head);
        }
    }
}

/// The cookies as one field, at the end: HTTP/2 may carry them in several, and HTTP/1 must not. An empty one is none.
fn cookies(head: &mut Head) {
    let all: Vec<&[u8]> = head.get_all("cookie").collect();
    if !all.is_empty() {
        let one = all.join(&b"; "[..]);
        head.remove("cookie");
        if !one.is_empty() {
            head.append("cookie", one);
        }
    }
}

/// A head that came from a peer goes out over either version, and is the same at the other end.
fn passed_on(head: &Head) {
    let mut head = head.clone();
    cookies(&mut head);
    // What a proxy settles for each connection: how the body is framed, and whether there is a body at all.
    head.remove("content-length");
    head.remove("expect");
    let tunnel = head.protocol().is_some() || head.method() == "CONNECT";
    if tunnel || !head.is_request() || head.authority().is_empty() {
        return;
    }
    for h2 in [false, true] {
        if head.scheme().is_empty() || !h2 {
            head.set_scheme(if h2 { "http" } else { "" });
        }
        let mut out = Vec::new();
        let codec = if h2 { Codec::h2_client(Limits::new(), &mut out) } else { Codec::h1_client(Limits::new()) };
        let mut client = Side { codec, wire: Vec::new(), out, seen: Vec::new(), failed: false, answers: false };
        client.send(&head, true);
        let mut server = Side::server(h2);
        server.feed(&client.out);
        let mut got = server.seen.iter().find_map(|seen| if let Seen::Head(_, head, _) = seen { Some(head.clone()) } else { None });
        if let Some(got) = &mut got {
            got.remove("content-length");
            cookies(got);
        }
        assert_eq!(
            got.as_ref(),
            Some(&head),
            "passed on by HTTP/{}: {:?} {}",
            if h2 { 2 } else { 1 },
            server.seen,
            String::from_utf8_lossy(&client.out)
        );
    }
}

/// HTTP/1: role and method by the first byte, pieces by the second, then the wire.
pub fn h1(data: &[u8]) {
    let [role, cut, wire @ ..] = data else { return };
    match role % 5 {
        0 => check(&|| Side::server(false), *cut, wire),
        n => check(&|| Side::client(false, ["GET", "HEAD", "CONNECT", "UPGRADE"][usize::from(n) - 1]), *cut, wire),
    }
}

/// HTTP/2: role by the first byte, pieces by the second, then the wire. A role above the first two has the preface and SETTINGS sent already.
pub fn h2(data: &[u8]) {
    let [role, cut, wire @ ..] = data else { return };
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let greeted = match role % 4 {
        2 => [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings, wire].concat(),
        3 => [settings, wire].concat(),
        _ => wire.to_vec(),
    };
    match role % 4 {
        0 | 2 => check(&|| Side::server(true), *cut, &greeted),
        _ => check(&|| Side::client(true, "GET"), *cut, &greeted),
    }
}

/// HPACK: header blocks, each after a byte with its length. What was decoded is the same after being encoded and decoded again.
pub fn hpack(data: &[u8]) {
    let (mut decoder, mut encoder, mut again) = (Decoder::new(4096), Encoder::new(), Decoder::new(4096));
    let mut rest = data;
    while let Some((&length, more)) = rest.split_first() {
        let (block, more) = more.split_at(usize::from(length).min(more.len()));
        rest = more;
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        if decoder.decode(block, 4096, &mut |name, value| fields.push((name.to_vec(), value.to_vec()))).is_err() {
            return;
        }
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for (name, value) in &fields {
            encoder.field(name, value, &mut out);
        }
        let mut same = Vec::new();
        let decoded = again.decode(&out, 1 << 20, &mut |name, value| same.push((name.to_vec(), value.to_vec())));
        assert_eq!((decoded, same), (Ok(()), fields), "encoded and decoded again");
    }
}

/// The sniffer of HTTP: a verdict does not change with what comes later, and there is one in the end.
pub fn sniff(data: &[u8]) {
    let whole = mizzen_http::sniff(data);
    for cut in 0..data.len() {
        let early = mizzen_http::sniff(&data[..cut]);
        assert!(early == Sniff::NeedMore || early == whole, "{early:?} after {cut} bytes, {whole:?} in the end");
    }
    assert!(whole != Sniff::NeedMore || data.len() < 66 * 1024, "more is waited for after {} bytes", data.len());
    // What is taken for HTTP/2 is what its server takes.
    if whole == Sniff::Http2 {
        let mut server = Side::server(true);
        server.feed(&data[..24]);
        assert!(!server.failed);
    }
}

/// The sniffer of TLS: the same; and of a ClientHello that TLS itself takes, it reads the same name and protocols.
pub fn client_hello(data: &[u8]) {
    let whole = tls::sniff(data);
    for cut in 0..data.len() {
        let early = tls::sniff(&data[..cut]);
        assert!(early == tls::Sniff::NeedMore || early == whole, "{early:?} after {cut} bytes, {whole:?} in the end");
    }
    let tls::Sniff::Hello { sni, alpn } = whole else { return };
    let mut acceptor = rustls::server::Acceptor::default();
    let mut input = data;
    while !input.is_empty() && acceptor.read_tls(&mut input).is_ok_and(|n| n > 0) {
        let Ok(accepted) = acceptor.accept() else { return };
        let Some(accepted) = accepted else { continue };
        let hello = accepted.client_hello();
        let theirs: Vec<Vec<u8>> = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        assert_eq!(alpn, theirs, "protocols");
        // A name that is none is passed over by TLS.
        if let Some(name) = hello.server_name() {
            assert_eq!(sni.as_deref(), Some(&*name.to_ascii_lowercase()), "the name");
        }
        return;
    }
}

/// The header of the PROXY protocol: the same; and it is read of its own bytes alone.
pub fn proxy_protocol(data: &[u8]) {
    use mizzen_http::proxy_protocol::{MAX, Read, read};
    let whole = read(data);
    for cut in 0..data.len() {
        let early = read(&data[..cut]);
        assert!(early == Read::NeedMore || early == whole, "{early:?} after {cut} bytes, {whole:?} in the end");
    }
    assert!(whole != Read::NeedMore || data.len() < MAX, "more is waited for after {} bytes", data.len());
    if let Read::Header(header) = whole {
        assert!(header.length <= MAX, "{header:?}");
        assert_eq!(read(&data[..header.length]), whole);
    }
}
