use super::frame::{self, flag, kind};
use crate::hpack::Encoder;
use crate::sniff::PREFACE;
use crate::testing::{Seen, Side, feed_split, settle};
use crate::{Codec, ConnState, Head, Limits, Reason, StreamId};
use proptest::prelude::*;

type Fields = &'static [(&'static str, &'static str)];

const GET: Fields = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
const POST: Fields = &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("content-length", "4")];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::header(payload.len(), kind, flags, stream, &mut out);
    out.extend_from_slice(payload);
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut e = Encoder::new();
    for (n, v) in fields {
        e.field(n.as_bytes(), v.as_bytes(), &mut out);
    }
    out
}

fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block(fields))
}

fn hello() -> Vec<u8> {
    [PREFACE.to_vec(), frame(kind::SETTINGS, 0, 0, &[])].concat()
}

fn server() -> Side {
    let mut out = Vec::new();
    let mut side = Side::new(Codec::h2_server(Limits::new(), &mut out));
    side.feed(&hello());
    side.out.clear();
    side.seen.clear();
    side
}

fn pair() -> (Side, Side) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut c = Side::new(Codec::h2_client(Limits::new(), &mut a));
    let mut s = Side::new(Codec::h2_server(Limits::new(), &mut b));
    (c.out, s.out) = (a, b);
    settle(&mut c, &mut s);
    c.seen.clear();
    s.seen.clear();
    (c, s)
}

#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Fine,
    Stream(Reason),
    Connection(Reason),
}

fn verdict(side: &Side) -> Verdict {
    if let Some(Seen::Failed(e)) = side.seen.last() {
        return Verdict::Connection(e.code);
    }
    let mut rest = &side.out[..];
    while let Some(f) = frame::FrameHeader::parse(rest) {
        let payload = &rest[frame::HEADER..frame::HEADER + f.len as usize];
        if f.kind == kind::RST_STREAM {
            return Verdict::Stream(Reason(u32::from_be_bytes(payload.try_into().unwrap())));
        }
        rest = &rest[frame::HEADER + f.len as usize..];
    }
    Verdict::Fine
}

fn check(what: &str, wire: &[Vec<u8>], expected: Verdict) {
    for cut in [usize::MAX, 1, 5, 11] {
        let mut side = server();
        feed_split(&mut side, &wire.concat(), &[cut], &mut |_, _, _| {});
        assert_eq!(verdict(&side), expected, "{what}, cut at {cut}");
    }
}

#[test]
fn malformed_messages_are_stream_errors() {
    const END: u8 = flag::END_STREAM;
    let bad = Verdict::Stream(Reason::PROTOCOL_ERROR);
    let base = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
    for (what, fields) in [
        ("upper case", with(&[("X-Y", "1")])),
        ("pseudo field after others", [&[("x", "1")][..], &base].concat()),
        ("unknown pseudo field", [&base[..], &[(":x", "1")]].concat()),
        ("twice", [&base[..], &[(":path", "/")]].concat()),
        ("response's", [&base[..], &[(":status", "200")]].concat()),
        ("no path", vec![base[0], base[1]]),
        ("empty path", vec![base[0], base[1], (":path", "")]),
        ("path without slash", vec![base[0], base[1], (":path", "x")]),
        ("no method", vec![base[1], base[2]]),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("te", with(&[("te", "gzip")])),
        ("host against authority", with(&[("host", "b")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "0")])),
        ("length without body", with(&[("content-length", "1")])),
        ("line feed", with(&[("x", "a\nb")])),
        ("blank at the end", with(&[("x", "a ")])),
        ("bad name", with(&[("x y", "a")])),
        ("CONNECT with a path", vec![(":method", "CONNECT"), base[2], base[3]]),
        ("protocol without CONNECT", with(&[(":protocol", "websocket")])),
    ] {
        check(what, &[headers(1, END, &fields)], Verdict::Stream(Reason::PROTOCOL_ERROR));
    }
    check("body too long", &[headers(1, 0, POST), frame(kind::DATA, 0, 1, b"12345")], Verdict::Stream(Reason::PROTOCOL_ERROR));
    check("body too short", &[headers(1, 0, POST), frame(kind::DATA, END, 1, b"123")], Verdict::Stream(Reason::PROTOCOL_ERROR));
    check("trailers without end", &[headers(1, 0, GET), headers(1, 0, &[("a", "b")])], Verdict::Stream(Reason::PROTOCOL_ERROR));
    check("pseudo field in trailers", &[headers(1, 0, GET), headers(1, END, &[(":path", "/")])], Verdict::Stream(Reason::PROTOCOL_ERROR));
    check("data after the end", &[headers(1, END, GET), frame(kind::DATA, 0, 1, b"x")], Verdict::Stream(Reason::STREAM_CLOSED));
    check("window update of 0", &[headers(1, 0, GET), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])], bad);
    let huge = frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]);
    check("window overflow", &[headers(1, 0, GET), huge], Verdict::Stream(Reason::FLOW_CONTROL_ERROR));
    let own = frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]);
    check("depends on itself", &[headers(1, 0, GET), own], Verdict::Stream(Reason::PROTOCOL_ERROR));
    let short = frame(kind::PRIORITY, 0, 1, &[0; 4]);
    check("short PRIORITY", &[headers(1, 0, GET), short], Verdict::Stream(Reason::FRAME_SIZE_ERROR));
}

#[test]
fn nothing_comes_on_a_closed_stream() {
    let closed = Verdict::Connection(Reason::STREAM_CLOSED);
    let reset = || vec![headers(1, 0, GET), frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])];
    let after = |last: Vec<u8>| [reset(), vec![last]].concat();
    check("data after a reset", &after(frame(kind::DATA, 0, 1, b"x")), Verdict::Stream(Reason::STREAM_CLOSED));
    check("headers after a reset", &after(headers(1, flag::END_STREAM, GET)), closed.clone());
    check("a window update after a reset", &after(frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])), Verdict::Fine);
    check(
        "a second request",
        &[headers(1, flag::END_STREAM, GET), headers(1, flag::END_STREAM, GET)],
        Verdict::Stream(Reason::STREAM_CLOSED),
    );
    check("a lower stream", &[headers(5, 0, GET), headers(3, 0, GET)], closed.clone());
    // The peer resets after we did: what was late is complete.
    let mut side = server();
    side.feed(&headers(1, 0, GET));
    side.codec.reset(StreamId(1), Reason::CANCEL, &mut side.out);
    side.out.clear();
    side.feed(&[frame(kind::DATA, 0, 1, b"late"), frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat());
    assert_eq!(verdict(&side), Verdict::Fine);
    side.feed(&headers(1, 0, GET));
    assert_eq!(verdict(&side), closed);
    // An answer before the end of the request: what is on its way still, trailers included, is no fault.
    let mut side = server();
    side.feed(&headers(1, 0, &[&POST[..4], &[("content-length", "9")]].concat()));
    side.codec.send_head(StreamId(1), &Head::response(200), true, &mut side.out);
    side.out.clear();
    side.feed(&[frame(kind::DATA, 0, 1, b"late"), headers(1, flag::END_STREAM, &[("x-sum", "1")])].concat());
    assert_eq!(verdict(&side), Verdict::Fine);
    // More than are remembered: then it is not said to be a fault.
    let mut side = server();
    for i in 0..400 {
        side.feed(&headers(2 * i + 1, 0, GET));
        side.codec.reset(StreamId(2 * i + 1), Reason::CANCEL, &mut side.out);
    }
    side.out.clear();
    side.feed(&[frame(kind::DATA, 0, 1, b"late"), frame(kind::DATA, 0, 799, b"late")].concat());
    assert_eq!(verdict(&side), Verdict::Fine);
}

#[test]
fn broken_frames_are_connection_errors() {
    let protocol = || Verdict::Connection(Reason::PROTOCOL_ERROR);
    let size = || Verdict::Connection(Reason::FRAME_SIZE_ERROR);
    for (what, wire, expected) in [
        ("data on idle", vec![frame(kind::DATA, 0, 1, b"x")], protocol()),
        ("data on 0", vec![frame(kind::DATA, 0, 0, b"x")], protocol()),
        ("even stream", vec![headers(2, 0, GET)], protocol()),
        ("settings on a stream", vec![frame(kind::SETTINGS, 0, 1, &[])], protocol()),
        ("settings size", vec![frame(kind::SETTINGS, 0, 0, &[0; 5])], size()),
        ("settings ack size", vec![frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])], size()),
        ("enable push 2", vec![frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])], protocol()),
        ("window", vec![frame(kind::SETTINGS, 0, 0, &[0, 4, 0xff, 0, 0, 0])], Verdict::Connection(Reason::FLOW_CONTROL_ERROR)),
        ("frame size", vec![frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])], protocol()),
        ("push", vec![frame(kind::PUSH_PROMISE, 0, 1, &[0; 8])], protocol()),
        ("ping size", vec![frame(kind::PING, 0, 0, &[0; 7])], size()),
        ("ping on a stream", vec![frame(kind::PING, 0, 1, &[0; 8])], protocol()),
        ("goaway size", vec![frame(kind::GOAWAY, 0, 0, &[0; 7])], size()),
        ("priority on 0", vec![frame(kind::PRIORITY, 0, 0, &[0; 5])], protocol()),
        ("reset on idle", vec![frame(kind::RST_STREAM, 0, 1, &[0; 4])], protocol()),
        ("reset size", vec![headers(1, 0, GET), frame(kind::RST_STREAM, 0, 1, &[0; 3])], size()),
        ("window update of 0", vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])], protocol()),
        (
            "window overflow",
            vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            Verdict::Connection(Reason::FLOW_CONTROL_ERROR),
        ),
        ("lone continuation", vec![frame(kind::CONTINUATION, 0, 1, &[])], protocol()),
        ("interrupted block", vec![frame(kind::HEADERS, 0, 1, &block(GET)), frame(kind::PING, 0, 0, &[0; 8])], protocol()),
        ("bad compression", vec![frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xbf])], Verdict::Connection(Reason::COMPRESSION_ERROR)),
        ("padding", vec![headers(1, 0, GET), frame(kind::DATA, flag::PADDED, 1, &[4, 1, 2])], protocol()),
        ("too large", vec![frame(kind::DATA, 0, 1, &[0; 16_385])], size()),
        ("unknown frames are fine", vec![frame(0x42, 0xff, 3, b"abc")], Verdict::Fine),
        ("padded data is fine", vec![headers(1, 0, GET), frame(kind::DATA, flag::PADDED, 1, &[2, 1, 0, 0])], Verdict::Fine),
    ] {
        check(what, &wire, expected);
    }
}

#[test]
fn floods_end_the_connection() {
    let many = |n: usize, f: Vec<u8>| vec![f.repeat(n)];
    let resets = (0..300).flat_map(|i| [headers(2 * i + 1, 0, GET), frame(kind::RST_STREAM, 0, 2 * i + 1, &[0, 0, 0, 8])]).collect();
    let refused = (0..600).map(|i| headers(2 * i + 1, 0, GET)).collect();
    for (what, wire) in [
        ("pings", many(1001, frame(kind::PING, 0, 0, &[0; 8]))),
        ("settings", many(1001, frame(kind::SETTINGS, 0, 0, &[]))),
        ("empty data", [vec![headers(1, 0, GET)], many(1100, frame(kind::DATA, 0, 1, &[]))].concat()),
        ("rapid reset", resets),
        ("streams beyond the limit", refused),
        ("continuations", [vec![frame(kind::HEADERS, 0, 1, &block(GET))], many(9, frame(kind::CONTINUATION, 0, 1, &[]))].concat()),
    ] {
        let mut side = server();
        side.feed(&wire.concat());
        assert_eq!(verdict(&side), Verdict::Connection(Reason::ENHANCE_YOUR_CALM), "{what}");
    }
}

#[test]
fn what_comes_late_for_a_stream_that_was_reset_is_dropped() {
    let (mut c, mut s) = pair();
    for round in 0..2000 {
        let id = c.codec.open().unwrap();
        c.codec.send_head(id, &Head::request("GET", "http", "a", "/"), true, &mut c.out);
        s.feed(&std::mem::take(&mut c.out));
        s.codec.send_head(id, &Head::response(200), false, &mut s.out);
        c.codec.reset(id, Reason::CANCEL, &mut c.out);
        // In small pieces, as many as the window lets through.
        for _ in 0..if round == 0 { 5000 } else { 1 } {
            s.codec.send_data(id, b"x", false, &mut s.out);
        }
        c.feed(&std::mem::take(&mut s.out));
        assert!(!c.failed, "round {round}: {:?}", c.seen);
        s.feed(&std::mem::take(&mut c.out));
        s.codec.refill();
    }
}

#[test]
fn a_request_and_its_response() {
    let (mut c, mut s) = pair();
    let id = c.codec.open().unwrap();
    let mut head = Head::request("POST", "https", "shop:80", "/a?b=c");
    head.append("x-one", "1");
    head.append("cookie", "a=b");
    c.codec.send_head(id, &head, false, &mut c.out);
    c.codec.send_data(id, b"ping", true, &mut c.out);
    settle(&mut c, &mut s);
    assert_eq!(s.seen, [Seen::Head(1, head, false), Seen::Data(1, b"ping".to_vec(), true)]);
    let (mut answer, mut trailers) = (Head::response(200), Head::new());
    answer.append("content-type", "application/grpc");
    trailers.append("grpc-status", "0");
    s.codec.send_head(id, &Head::response(103), false, &mut s.out);
    s.codec.send_head(id, &answer, false, &mut s.out);
    s.codec.send_data(id, b"pong", false, &mut s.out);
    s.codec.send_trailers(id, &trailers, &mut s.out);
    settle(&mut c, &mut s);
    assert_eq!(
        c.seen,
        [
            Seen::Head(1, Head::response(103), false),
            Seen::Head(1, answer, false),
            Seen::Data(1, b"pong".to_vec(), false),
            Seen::Trailers(1, trailers)
        ]
    );
    assert_eq!((c.codec.active(), s.codec.active()), (0, 0));
}

#[test]
fn trailers_say_nothing_of_routing_or_framing() {
    let mut side = server();
    side.feed(&headers(1, 0, GET));
    side.feed(&headers(1, flag::END_STREAM, &[("host", "b"), ("content-length", "7"), ("te", "gzip"), ("trailer", "x"), ("x", "y")]));
    let mut kept = Head::new();
    kept.append("x", "y");
    assert_eq!(side.seen[1..], [Seen::Trailers(1, kept)]);
}

#[test]
fn flow_control_holds_back_and_goes_on() {
    let (mut c, mut s) = pair();
    let id = c.codec.open().unwrap();
    c.codec.send_head(id, &Head::request("POST", "http", "a", "/"), false, &mut c.out);
    settle(&mut c, &mut s);
    s.eager = false;
    let body = vec![7u8; 300 * 1024];
    let window = Limits::new().stream_window as usize;
    assert_eq!(c.codec.send_data(id, &body, true, &mut c.out), window);
    assert_eq!(c.codec.capacity(id), 0);
    settle(&mut c, &mut s);
    assert!(c.seen.is_empty(), "nothing was consumed yet: {:?}", c.seen);
    s.codec.consumed(id, window, &mut s.out);
    settle(&mut c, &mut s);
    assert_eq!(c.seen, [Seen::Window(1)]);
    assert_eq!(c.codec.send_data(id, &body[window..], true, &mut c.out), body.len() - window);
    settle(&mut c, &mut s);
    assert_eq!(s.seen[1..], [Seen::Data(1, body, true)]);
}

#[test]
fn many_streams_together_are_bounded() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut c = Side::new(Codec::h2_client(Limits::new(), &mut a));
    let mut s = Side::new(Codec::h2_server(Limits { unconsumed_bodies: 400 * 1024, ..Limits::new() }, &mut b));
    (c.out, s.out) = (a, b);
    settle(&mut c, &mut s);
    s.eager = false;
    let send = |c: &mut Side, s: &mut Side, n: usize| {
        for _ in 0..n {
            let id = c.codec.open().unwrap();
            c.codec.send_head(id, &Head::request("POST", "http", "a", "/"), false, &mut c.out);
            c.codec.send_data(id, &[7; 200 * 1024], false, &mut c.out);
            settle(c, s);
        }
    };
    let told = |s: &Side| -> usize { s.seen.iter().map(|e| if let Seen::Data(_, d, _) = e { d.len() } else { 0 }).sum() };
    send(&mut c, &mut s, 50);
    let (bound, held) = ((400 + 1024) * 1024, told(&s));
    assert!((400 * 1024..=bound).contains(&held), "{held}");
    // One is consumed, another ends: both make room.
    for end in [false, true] {
        for id in 1..=5 {
            let id = StreamId(id * 2 - 1 + if end { 100 } else { 0 });
            match end {
                false => s.codec.consumed(id, 200 * 1024, &mut s.out),
                true => s.codec.reset(id, Reason::CANCEL, &mut s.out),
            }
        }
        s.feed(&[]);
        let before = told(&s);
        settle(&mut c, &mut s);
        send(&mut c, &mut s, 10);
        assert!(told(&s) >= before + 200 * 1024, "{end} {before} {}", told(&s));
        assert!(told(&s) <= before + bound);
    }
}

#[test]
fn the_peer_must_keep_to_its_window() {
    let mut side = server();
    side.eager = false;
    side.feed(&headers(1, 0, GET));
    for _ in 0..17 {
        side.feed(&frame(kind::DATA, 0, 1, &[0; 16_384]));
    }
    assert_eq!(verdict(&side), Verdict::Stream(Reason::FLOW_CONTROL_ERROR));
}

#[test]
fn drains_without_losing_a_stream() {
    let (mut c, mut s) = pair();
    let id = c.codec.open().unwrap();
    c.codec.send_head(id, &Head::request("GET", "http", "a", "/"), true, &mut c.out);
    s.codec.drain(&mut s.out);
    settle(&mut c, &mut s);
    assert!(matches!(s.seen[0], Seen::Head(1, _, true)), "sent before the GOAWAY was seen: {:?}", s.seen);
    assert_eq!((c.codec.state(), s.codec.state()), (ConnState::Draining, ConnState::Draining));
    assert_eq!(c.codec.open(), None);
    s.codec.send_head(id, &Head::response(200), true, &mut s.out);
    settle(&mut c, &mut s);
    assert_eq!((c.codec.state(), s.codec.state()), (ConnState::Done, ConnState::Done));
}

#[test]
fn goaway_refuses_what_is_above_it() {
    let (mut c, mut s) = pair();
    for _ in 0..2 {
        let id = c.codec.open().unwrap();
        c.codec.send_head(id, &Head::request("GET", "http", "a", "/"), true, &mut c.out);
    }
    s.out.extend(frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    let out = std::mem::take(&mut s.out);
    c.feed(&out);
    assert_eq!(c.seen, [Seen::Goaway(1, 0), Seen::Reset(3, Reason::REFUSED_STREAM.0)]);
}

#[test]
fn a_websocket_travels_as_extended_connect() {
    let (mut c, mut s) = pair();
    let id = c.codec.open().unwrap();
    let mut head = Head::request("GET", "http", "a", "/ws");
    head.set_protocol(Some("websocket"));
    c.codec.send_head(id, &head, false, &mut c.out);
    settle(&mut c, &mut s);
    assert_eq!(s.seen, [Seen::Head(1, head, false)]);
    let mut agree = Head::response(101);
    agree.set_protocol(Some("websocket"));
    s.codec.send_head(id, &agree, false, &mut s.out);
    s.codec.send_data(id, b"x", true, &mut s.out);
    settle(&mut c, &mut s);
    assert_eq!(c.seen, [Seen::Head(1, agree, false), Seen::Data(1, b"x".to_vec(), true)]);
    assert_eq!(s.codec.active(), 1, "half closed only");
}

#[test]
fn an_upgrade_needs_a_server_that_takes_it() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut c = Side::new(Codec::h2_client(Limits::new(), &mut a));
    let mut s = Side::new(Codec::h2_server(Limits { extended_connect: false, ..Limits::new() }, &mut b));
    (c.out, s.out) = (a, b);
    assert_eq!(c.codec.takes_upgrade(), None, "it has not said so yet");
    settle(&mut c, &mut s);
    assert_eq!(c.codec.takes_upgrade(), Some(false));
    let mut head = Head::request("GET", "http", "a", "/chat");
    head.set_protocol(Some("websocket"));
    let id = c.codec.open().unwrap();
    c.codec.send_head(id, &head, false, &mut c.out);
    assert!(c.out.is_empty(), "nothing else is sent instead");
    c.feed(b"");
    assert_eq!(c.seen.last(), Some(&Seen::Reset(id.0, Reason::HTTP_1_1_REQUIRED.0)));
    assert_eq!(pair().0.codec.takes_upgrade(), Some(true));
}

#[test]
fn interim_responses_have_an_end() {
    let (mut c, _) = pair();
    let id = c.codec.open().unwrap();
    c.codec.send_head(id, &Head::request("GET", "http", "a", "/"), true, &mut c.out);
    let early = headers(1, 0, &[(":status", "103")]);
    c.feed(&early.repeat(17));
    assert_eq!(c.seen.len(), 17);
    assert_eq!(c.seen.last(), Some(&Seen::Reset(1, Reason::PROTOCOL_ERROR.0)));
}

#[test]
fn streams_that_were_reset_wait_for_no_window() {
    let mut side = server();
    // The connection's window is used up by one answer; then streams come and go whose answers wait.
    for n in 0..150u32 {
        let id = 2 * n + 1;
        side.feed(&headers(id, flag::END_STREAM, GET));
        side.codec.send_head(StreamId(id), &Head::response(200), false, &mut side.out);
        side.codec.send_data(StreamId(id), &[0; 70_000], true, &mut side.out);
        side.feed(&frame(kind::RST_STREAM, 0, id, &[0, 0, 0, 8]));
    }
    let Codec::H2(h2) = &side.codec else { return };
    assert_eq!((h2.active(), h2.blocked.len()), (0, 0));
}

#[test]
fn an_early_answer_stops_the_upload() {
    let (mut c, mut s) = pair();
    let id = c.codec.open().unwrap();
    c.codec.send_head(id, &Head::request("POST", "http", "a", "/"), false, &mut c.out);
    settle(&mut c, &mut s);
    s.codec.send_head(id, &Head::response(403), true, &mut s.out);
    settle(&mut c, &mut s);
    assert_eq!(c.seen, [Seen::Head(1, Head::response(403), true), Seen::Reset(1, 0)]);
    c.codec.send_data(id, b"late", true, &mut c.out);
    settle(&mut c, &mut s);
    assert_eq!((c.codec.active(), s.codec.active()), (0, 0));
}

#[test]
fn an_answer_to_a_whole_body_waits_for_its_end() {
    let (mut c, mut s) = pair();
    let id = c.codec.open().unwrap();
    let mut head = Head::request("POST", "http", "a", "/");
    head.set("content-length", "4");
    c.codec.send_head(id, &head, false, &mut c.out);
    c.codec.send_data(id, b"body", false, &mut c.out);
    settle(&mut c, &mut s);
    s.codec.send_head(id, &Head::response(201), true, &mut s.out);
    settle(&mut c, &mut s);
    c.codec.send_data(id, b"", true, &mut c.out);
    settle(&mut c, &mut s);
    assert_eq!(c.seen, [Seen::Head(1, Head::response(201), true)], "and no reset");
    assert_eq!((c.codec.active(), s.codec.active()), (0, 0));
}

#[test]
fn large_heads_use_continuation_and_have_limits() {
    let (mut c, mut s) = pair();
    let mut head = Head::request("GET", "http", "a", "/");
    head.append("x", "~".repeat(40_000));
    let id = c.codec.open().unwrap();
    c.codec.send_head(id, &head, true, &mut c.out);
    settle(&mut c, &mut s);
    assert_eq!(s.seen, [Seen::Head(1, head, true)]);
    let mut many = Head::request("GET", "http", "a", "/");
    (0..101).for_each(|i| assert!(many.append(&format!("x{i}"), "y")));
    let id = c.codec.open().unwrap();
    c.codec.send_head(id, &many, true, &mut c.out);
    settle(&mut c, &mut s);
    assert_eq!(c.seen, [Seen::Head(3, Head::response(431), true)]);
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let id = (0u32..6).prop_map(|n| 2 * n + 1);
    prop_oneof![
        id.clone().prop_map(|s| headers(s, flag::END_STREAM, GET)),
        id.clone().prop_map(|s| headers(s, 0, GET)),
        id.clone().prop_map(|s| headers(s, flag::END_STREAM, &[("t", "1")])),
        (id.clone(), 0usize..50, any::<bool>()).prop_map(|(s, n, e)| frame(kind::DATA, u8::from(e), s, &vec![1; n])),
        (id.clone(), 0u8..9).prop_map(|(s, n)| frame(kind::DATA, flag::PADDED | flag::END_STREAM, s, &[&[n][..], &[0; 12]].concat())),
        id.clone().prop_map(|s| frame(kind::RST_STREAM, 0, s, &[0, 0, 0, 8])),
        (0u32..3, 0u8..3).prop_map(|(s, n)| frame(kind::WINDOW_UPDATE, 0, s, &[0, 0, 0, n])),
        Just(frame(kind::PING, 0, 0, &[1; 8])),
        Just(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9])),
        id.prop_map(
            |s| [frame(kind::HEADERS, 0, s, &block(GET)[..3]), frame(kind::CONTINUATION, flag::END_HEADERS, s, &block(GET)[3..])].concat()
        ),
    ]
}

proptest! {
    #[test]
    fn any_split_gives_the_same(pieces in proptest::collection::vec(piece(), 0..12), cuts in proptest::collection::vec(1usize..40, 1..6)) {
        let wire = pieces.concat();
        let answer = &mut |c: &mut Codec, e: &Seen, out: &mut Vec<u8>| {
            if let Seen::Head(id, _, true) | Seen::Trailers(id, _) = e {
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
    fn no_bytes_panic(pieces in proptest::collection::vec((0u8..11, any::<u8>(), 0u32..5, proptest::collection::vec(any::<u8>(), 0..20)), 0..20)) {
        let wire: Vec<u8> = pieces.iter().flat_map(|(k, f, s, p)| frame(*k, *f, *s, p)).collect();
        let mut side = server();
        side.feed(&wire);
        let (mut c, _) = pair();
        let id = c.codec.open().unwrap();
        c.codec.send_head(id, &Head::request("GET", "http", "a", "/"), false, &mut c.out);
        c.feed(&wire);
        c.codec.send_data(id, &[0; 100], true, &mut c.out);
        let _ = c.codec.eof();
    }

    #[test]
    fn heads_go_there_and_back(fields in proptest::collection::vec(("[a-z-]{1,12}", "[!-~]{0,40}"), 0..20)) {
        let (mut c, mut s) = pair();
        let mut head = Head::request("GET", "http", "a:80", "/x");
        for (n, v) in &fields {
            if !matches!(n.as_str(), "te" | "host" | "connection" | "upgrade" | "cookie" | "keep-alive" | "content-length") {
                head.append(n, v);
            }
        }
        for _ in 0..3 {
            let id = c.codec.open().unwrap();
            c.codec.send_head(id, &head, true, &mut c.out);
            settle(&mut c, &mut s);
            prop_assert_eq!(s.seen.pop(), Some(Seen::Head(id.0, head.clone(), true)));
        }
    }
}
