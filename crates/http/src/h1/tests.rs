use crate::testing::{Seen, Side, feed_split, settle};
use crate::{Codec, ConnState, Head, Limits, Reason, StreamId};
use proptest::prelude::*;

fn server() -> Side {
    Side::new(Codec::h1_server(Limits::new()))
}

/// A client that has sent `method`.
fn client(method: &str) -> Side {
    let mut side = Side::new(Codec::h1_client(Limits::new()));
    let mut head = Head::request(method, "http", "a:1", "/");
    if method == "UPGRADE" {
        head.set_method("GET");
        head.set_protocol(Some("websocket"));
    }
    let s = side.codec.open().unwrap();
    side.codec.send_head(s, &head, !(method == "CONNECT" || method == "UPGRADE"), &mut side.out);
    side
}

/// One line for each event: short enough for a table.
fn show(all: &[Seen]) -> Vec<String> {
    let fields = |h: &Head| h.iter().map(|(n, v)| format!(" {n}={}", String::from_utf8_lossy(v))).collect::<String>();
    let end = |e: &bool| if *e { " ." } else { "" };
    let line = |s: &Seen| match s {
        Seen::Head(_, h, e) if h.is_request() => {
            let protocol = h.protocol().map(|p| format!(" +{p}")).unwrap_or_default();
            format!("{} {}|{}|{}{protocol}{}{}", h.method(), h.scheme(), h.authority(), h.path(), fields(h), end(e))
        }
        Seen::Head(_, h, e) => {
            let protocol = h.protocol().map(|p| format!(" +{p}")).unwrap_or_default();
            format!("{}{protocol}{}{}", h.status(), fields(h), end(e))
        }
        Seen::Data(_, d, e) => format!("'{}'{}", String::from_utf8_lossy(d), end(e)),
        Seen::Trailers(_, h) => format!("trailers{}", fields(h)),
        Seen::Failed(e) => format!("! {} {}", e.status, e.what),
        other => format!("{other:?}"),
    };
    all.iter().map(line).collect()
}

fn check(make: &dyn Fn() -> Side, wire: &str, expected: &[&str]) {
    for cut in [usize::MAX, 1, 2, 3, 7] {
        let mut side = make();
        feed_split(&mut side, wire.as_bytes(), &[cut], &mut |_, _, _| {});
        assert_eq!(show(&side.seen), expected, "{wire:?} cut at {cut}");
    }
}

#[test]
fn requests() {
    for (wire, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", vec!["GET |a|/ ."]),
        ("\r\nGET /x?y=1 HTTP/1.1\r\nhOsT: a:80\r\nX-Y:  two words \t\r\n\r\n", vec!["GET |a:80|/x?y=1 x-y=two words ."]),
        ("GET http://b/p HTTP/1.1\r\nHost: a\r\n\r\n", vec!["GET http|b|/p ."]),
        ("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", vec!["GET http|b|/?q ."]),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", vec!["OPTIONS |a|* ."]),
        ("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", vec!["OPTIONS http|b|* ."]),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nearly", vec!["CONNECT |a:443|"]),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", vec!["POST |a|/ content-length=5", "'hello' ."]),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", vec!["POST |a|/ content-length=0 ."]),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n3;x=\"y\"\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n",
            vec!["POST |a|/", "'abc0123456789' ."],
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers, deflate\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n",
            vec!["POST |a|/ te=trailers", "trailers x-t=1"],
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
            vec!["POST |a|/ expect=100-continue content-length=1"],
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 3\r\nX-End: 2\r\n\r\n",
            vec!["GET |a|/ x-end=2 ."],
        ),
        (
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nraw",
            vec!["GET |a|/ws +websocket sec-websocket-key=k"],
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
            vec!["GET |a|/ ."],
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2, no token, h2c, websocket\r\n\r\n",
            vec!["GET |a|/ +TLS/1.2,websocket"],
        ),
        ("GET /ü HTTP/1.1\r\nHost: a\r\n\r\n", vec!["GET |a|/ü ."]),
        ("GET / HTTP/1.0\r\n\r\n", vec!["GET ||/ ."]),
    ] {
        check(&server, wire, &expected);
    }
}

#[test]
fn requests_refused() {
    for (wire, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", "! 400 no host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "! 400 more than one host"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "! 400 malformed request target or host"),
        ("GET / HTTP/1.1\nHost: a\n\n", "! 400 bare line feed"),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "! 400 bare line feed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", "! 400 malformed field name"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", "! 400 malformed field name"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", "! 400 malformed field value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n", "! 400 malformed field value"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 malformed request line"),
        ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 malformed request target or host"),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 malformed request target"),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 malformed request target"),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 malformed request target"),
        ("CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 malformed request target"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", "! 400 CONNECT with a body"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "! 505 unknown HTTP version"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "! 400 more than one content-length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", "! 400 malformed content-length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", "! 400 malformed content-length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "! 400 malformed content-length"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "! 400 both transfer-encoding and content-length",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "! 501 unknown transfer-encoding"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "! 400 transfer-encoding out of place",
        ),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "! 400 transfer-encoding out of place"),
    ] {
        check(&server, wire, &[expected]);
    }
}

#[test]
fn chunks_refused() {
    for (body, expected) in [
        ("g\r\n", "! 400 bad chunk size"),
        ("\r\n", "! 400 bad chunk size"),
        ("-1\r\n", "! 400 bad chunk size"),
        ("0x1\r\n", "! 400 bad chunk size"),
        ("1 x\r\n", "! 400 bad chunk size"),
        ("1234567890123456\r\n", "! 400 bad chunk size"),
        ("1\n", "! 400 bare line feed after a chunk size"),
    ] {
        let wire = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        check(&server, &wire, &["POST |a|/", expected]);
    }
    check(
        &server,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        &["POST |a|/", "'a'", "! 400 chunk longer than its size"],
    );
}

#[test]
fn responses() {
    for (method, wire, expected) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", vec!["200 content-length=2", "'ok' ."]),
        ("GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", vec!["200 content-length=0 ."]),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", vec!["200 content-length=2 ."]),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", vec!["304 content-length=2 ."]),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", vec!["204 ."]),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            vec!["100", "103 link=x", "200 content-length=0 ."],
        ),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n", vec!["200", "'ok'", "trailers t=1"]),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nuntil close", vec!["200", "'until close'"]),
        ("CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nraw", vec!["200", "'raw'"]),
        ("CONNECT", "HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx", vec!["403 content-length=1", "'x' ."]),
        (
            "UPGRADE",
            "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\nA: b\r\n\r\nraw",
            vec!["101 +websocket a=b", "'raw'"],
        ),
        ("UPGRADE", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", vec!["200 content-length=1", "'x' ."]),
        ("GET", "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", vec!["! 400 switches protocols without being asked"]),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            vec!["! 400 both transfer-encoding and content-length"],
        ),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore", vec!["200 content-length=0 .", "! 0 bytes without a request"]),
        ("GET", "SSH-2.0-x\r\n\r\n", vec!["! 400 malformed head"]),
        ("GET", "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length\t: 0\r\n\r\n", vec!["200 x-a=b content-length=0 ."]),
        ("UPGRADE", "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", vec!["! 400 switches to a protocol that was not asked for"]),
    ] {
        check(&|| client(method), wire, &expected);
    }
}

#[test]
fn responses_sent() {
    let body = |h: &Head| (h.clone(), "ok");
    let mut length = Head::response(200);
    length.set("content-length", "2");
    let plain = Head::response(200);
    for (request, (head, data), expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", body(&length), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", body(&plain), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            body(&length),
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", body(&length), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        ("GET / HTTP/1.0\r\n\r\n", body(&plain), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            body(&length),
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", (Head::response(204), ""), "HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let mut side = server();
        side.feed(request.as_bytes());
        let s = StreamId(1);
        let end = data.is_empty();
        side.codec.send_head(s, &head, end, &mut side.out);
        if !end {
            assert_eq!(side.codec.send_data(s, data.as_bytes(), true, &mut side.out), data.len());
        }
        assert_eq!(String::from_utf8_lossy(&side.out), expected, "{request:?}");
        let closes = expected.contains("connection: close");
        assert_eq!(side.codec.state(), if closes { ConnState::Done } else { ConnState::Open }, "{request:?}");
    }
}

#[test]
fn pipelined_requests_wait_for_their_turn() {
    let mut side = server();
    side.feed(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(show(&side.seen), ["GET |a|/1 ."]);
    side.codec.send_head(StreamId(1), &Head::response(200), true, &mut side.out);
    side.feed(b"");
    assert_eq!(show(&side.seen), ["GET |a|/1 .", "GET |a|/2 ."]);
    assert_eq!(side.codec.active(), 1);
}

#[test]
fn an_unwanted_body_is_dropped_or_ends_the_connection() {
    let mut side = server();
    side.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    side.codec.send_head(StreamId(1), &Head::response(403), true, &mut side.out);
    side.feed(b"defGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(show(&side.seen), ["POST |a|/ content-length=6", "'abc'", "GET |a|/2 ."]);
    let mut side = server();
    side.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n");
    side.codec.send_head(StreamId(1), &Head::response(403), true, &mut side.out);
    assert_eq!(side.codec.state(), ConnState::Done);
}

#[test]
fn ends_of_the_connection() {
    let mut side = client("GET");
    side.feed(b"HTTP/1.1 200 OK\r\n\r\nbody");
    let end = side.codec.eof().unwrap().map(crate::testing::own);
    assert_eq!(end, Some(Seen::Data(1, vec![], true)));
    assert_eq!(side.codec.state(), ConnState::Done);
    let mut side = client("GET");
    side.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody");
    assert!(side.codec.eof().is_err());
    let mut side = server();
    side.codec.drain(&mut side.out);
    assert_eq!(side.codec.state(), ConnState::Done, "idle");
    let mut side = server();
    side.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    side.codec.drain(&mut side.out);
    assert_eq!(side.codec.state(), ConnState::Draining);
    side.codec.send_head(StreamId(1), &Head::response(200), true, &mut side.out);
    assert!(String::from_utf8_lossy(&side.out).contains("connection: close"));
    assert_eq!(side.codec.state(), ConnState::Done);
    let mut side = client("GET");
    side.codec.reset(StreamId(1), Reason::CANCEL, &mut side.out);
    assert_eq!(side.codec.state(), ConnState::Done);
}

#[test]
fn a_websocket_is_raw_after_101() {
    let (mut c, mut s) = (client("UPGRADE"), server());
    settle(&mut c, &mut s);
    assert_eq!(c.codec.send_data(StreamId(1), b"early", false, &mut c.out), 0, "not before it is agreed");
    let mut agree = Head::response(101);
    agree.set_protocol(Some("websocket"));
    s.codec.send_head(StreamId(1), &agree, false, &mut s.out);
    settle(&mut c, &mut s);
    assert_eq!(show(&c.seen), ["101 +websocket", "Window(1)"]);
    c.codec.send_data(StreamId(1), b"to server", false, &mut c.out);
    s.codec.send_data(StreamId(1), b"to client", true, &mut s.out);
    settle(&mut c, &mut s);
    assert_eq!(s.codec.state(), ConnState::WriteEnded);
    assert_eq!(show(&s.seen), ["GET |a:1|/ +websocket", "'to server'"]);
    assert!(matches!(c.codec.eof(), Ok(Some(crate::Event::Data { end: true, .. }))));
    c.codec.send_data(StreamId(1), b"", true, &mut c.out);
    assert_eq!(c.codec.state(), ConnState::Done);
}

#[test]
fn an_offer_that_is_declined_leaves_an_ordinary_request() {
    let mut side = server();
    side.feed(b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(side.codec.waits());
    side.codec.decline_upgrade(StreamId(1));
    side.codec.send_head(StreamId(1), &Head::response(200), true, &mut side.out);
    side.feed(b"");
    assert_eq!(show(&side.seen), ["GET |a|/1 +TLS/1.2", "GET |a|/2 ."]);
    assert_eq!(side.codec.state(), ConnState::Open);
    assert!(side.codec.waits(), "for the second answer");
    side.codec.send_head(StreamId(3), &Head::response(200), true, &mut side.out);
    assert!(!side.codec.waits());
}

#[test]
fn heads_have_limits() {
    let mut side = server();
    side.feed(format!("GET /{}", "y".repeat(61 * 1024)).as_bytes());
    assert_eq!(show(&side.seen), ["! 414 request line too long"]);
    let many: String = (0..101).map(|i| format!("x{i}: y\r\n")).collect();
    check(&server, &format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), &["! 431 too many fields"]);
    let long = "y".repeat(61 * 1024);
    let mut side = server();
    side.feed(format!("GET / HTTP/1.1\r\nHost: a\r\nx: {long}").as_bytes());
    assert_eq!(show(&side.seen), ["! 431 head too large"]);
    assert!(String::from_utf8_lossy(&side.out).starts_with("HTTP/1.1 431 "));
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Just("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"),
        Just("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1\r\nx\r\n0\r\n\r\n"),
        Just("POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n"),
        Just("\r\n"),
        Just("GET / HTTP/1.1\n\n"),
        Just("x"),
    ];
    proptest::collection::vec(piece, 1..8).prop_map(|p| p.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_split_gives_the_same(wire in message(), cuts in proptest::collection::vec(1usize..40, 1..6)) {
        let answer = &mut |c: &mut Codec, e: &Seen, out: &mut Vec<u8>| {
            if let Seen::Head(id, _, true) | Seen::Data(id, _, true) | Seen::Trailers(id, _) = e {
                c.send_head(StreamId(*id), &Head::response(200), true, out);
            }
        };
        let mut whole = server();
        feed_split(&mut whole, &wire, &[usize::MAX], answer);
        let mut split = server();
        feed_split(&mut split, &wire, &cuts, answer);
        prop_assert_eq!(&whole.seen, &split.seen);
        prop_assert_eq!(&whole.out, &split.out);
    }

    #[test]
    fn no_bytes_panic(start in prop_oneof![Just(""), Just("GET / HTTP/1.1\r\n"), Just("HTTP/1.1 200 OK\r\n"), Just("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")],
                      bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b':'), Just(b'0')], 0..200)) {
        for mut side in [server(), client("GET"), client("CONNECT"), client("UPGRADE")] {
            side.feed(start.as_bytes());
            side.feed(&bytes);
            let _ = side.codec.eof();
        }
    }
}
