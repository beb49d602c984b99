//! Upgrades that are taken, declined or impossible, and interim answers.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mizzen_http::{Codec, Event, Head, Limits};
use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::sim::{Serve, Sim};

/// Agrees to every websocket, greets, and echoes; speaks the version of HTTP that it is spoken to.
fn tunnel(limits: Limits, seen: Rc<RefCell<Vec<Head>>>) -> Serve {
    let mut conns: std::collections::HashMap<u64, Codec> = Default::default();
    Box::new(move |id, input, eof, out| {
        if input.is_empty() {
            return eof;
        }
        let codec = conns
            .entry(id)
            .or_insert_with(|| if input.starts_with(b"PRI") { Codec::h2_server(limits, out) } else { Codec::h1_server(limits) });
        let whole = std::mem::take(input);
        let mut at = 0;
        loop {
            let mut echo = None;
            let Ok((n, event)) = codec.next(&whole[at..], out) else { return true };
            at += n;
            match event {
                None => break,
                Some(Event::Head { stream, head, .. }) => {
                    let mut agree = Head::response(if head.protocol().is_some() { 101 } else { 204 });
                    agree.set_protocol(head.protocol());
                    echo = head.protocol().is_some().then(|| (stream, b"hello".to_vec()));
                    codec.send_head(stream, &agree, head.protocol().is_none(), out);
                    seen.borrow_mut().push(head);
                }
                Some(Event::Data { stream, data, .. }) => echo = Some((stream, data.to_vec())),
                _ => {}
            }
            if let Some((stream, data)) = echo {
                codec.send_data(stream, &data, false, out);
            }
        }
        *input = whole[at..].to_vec();
        eof
    })
}

fn gateway(upgrades: Value) -> (ResourceKind, Value) {
    let mut manager = hcm(false, json!("9080"), &[]);
    manager["typed_config"]["upgrade_configs"] = upgrades;
    listener("0.0.0.0_9080", "0.0.0.0", 9080, "OUTBOUND", json!({"bind_to_port": false, "filter_chains": [{"filters": [manager]}]}))
}

/// A client's proxy before a server of plain text that takes upgrades.
fn before_a_server(hop: &str, limits: Limits, upgrades: Value) -> (Sim, Rc<RefCell<Vec<Head>>>) {
    let seen = Rc::default();
    let hosts = assignment(CLUSTER, &["10.0.0.9:80"], false);
    let mut sim = mesh_with(2, client(&[gateway(upgrades), cluster(CLUSTER, "reviews", http_options(hop)), hosts]), &Inbound::default());
    sim.serve("10.0.0.9:80", tunnel(limits, Rc::clone(&seen)));
    (sim, seen)
}

#[test]
fn offers_are_taken_as_configured_or_ignored() {
    let websocket = || json!([{"upgrade_type": "websocket"}]);
    let other = || json!([{"upgrade_type": "spdy/3.1"}, {"upgrade_type": "websocket"}]);
    for (offer, upgrades, expected, asked) in [
        ("TLS/1.2", websocket(), "204", None),
        ("h2c", websocket(), "204", None),
        ("h2c, TLS/1.3, foo", websocket(), "204", None),
        ("no token, at all", websocket(), "204", None),
        ("websocket", websocket(), "101", Some("websocket")),
        ("WebSocket", websocket(), "101", Some("WebSocket")),
        ("TLS/1.2, websocket", websocket(), "101", Some("websocket")),
        ("SPDY/3.1", other(), "101", Some("SPDY/3.1")),
        ("SPDY/3.1", websocket(), "204", None),
        ("websocket", json!([]), "403", None),
        ("TLS/1.2, websocket", json!([]), "403", None),
    ] {
        let (mut sim, seen) = before_a_server("h1", Limits::default(), upgrades);
        let client = sim.connect(0, TO);
        sim.send(client, &get("/", &format!("connection: keep-alive, upgrade\r\nupgrade: {offer}\r\n")));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), expected, "{offer}");
        let heads = std::mem::take(&mut *seen.borrow_mut());
        let sent = heads.first().and_then(|head| head.protocol());
        assert_eq!((sent, heads.len()), (asked, usize::from(expected != "403")), "{offer}");
        if expected != "101" {
            assert!(heads.iter().all(|head| !head.contains("upgrade") && !head.contains("connection")), "{heads:?}");
            sim.send(client, &get("/next", ""));
            sim.run();
            assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "204", "{offer}: the connection goes on");
        }
    }
}

#[test]
fn bytes_behind_an_offer_follow_the_agreement_at_once() {
    for (seed, hop) in [(0, "h1"), (1, "h1"), (2, "h2")] {
        let (mut sim, _) = before_a_server(hop, Limits::default(), json!([{"upgrade_type": "websocket"}]));
        sim.split = seed * 7;
        let client = sim.connect(0, TO);
        let mut bytes = get("/chat", "upgrade: websocket\r\nconnection: Upgrade\r\n");
        bytes.extend(b"first frame");
        sim.send(client, &bytes);
        sim.run();
        let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
        assert!(text.ends_with("\r\n\r\nhellofirst frame"), "{hop}: {text}");
    }
}

#[test]
fn an_upgrade_that_the_server_cannot_take_is_an_error_at_once() {
    let none = Limits { extended_connect: false, ..Limits::default() };
    for kept in [false, true] {
        let (mut sim, seen) = before_a_server("h2", none, json!([{"upgrade_type": "websocket"}]));
        if kept {
            assert_eq!(status(&call(&mut sim, &get("/", ""))), "204");
            seen.borrow_mut().clear();
        }
        sim.log(0);
        let text = call(&mut sim, &get("/chat", "upgrade: websocket\r\nconnection: Upgrade\r\n"));
        assert!(status(&text) == "502" && text.contains("extended CONNECT"), "{text}");
        assert!(seen.borrow().is_empty(), "nothing else is sent instead");
        let log = lines(&sim.log(0));
        assert_eq!(log[0]["response_code_details"], "upgrade_failed:upstream_without_extended_connect", "{log:?}");
        assert_eq!(status(&call(&mut sim, &get("/", ""))), "204", "the connection is of use for others");
        assert_clean(&mut sim);
    }
    // A server that never says what it takes.
    let (mut sim, _) = before_a_server("h2", none, json!([{"upgrade_type": "websocket"}]));
    sim.serve("10.0.0.9:80", Box::new(|_, _, eof, _| eof));
    let client = sim.connect(0, TO);
    sim.send(client, &get("/chat", "upgrade: websocket\r\nconnection: Upgrade\r\n"));
    sim.run_for(Duration::from_secs(9));
    assert!(sim.received(client).is_empty());
    sim.run_for(Duration::from_secs(2));
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "503");
    assert_eq!(sim.dials.len(), 1);
}

#[test]
fn a_half_closed_tunnel_ends() {
    let (mut sim, _) = before_a_server("h1", Limits::default(), json!([{"upgrade_type": "websocket"}]));
    sim.serve(
        "10.0.0.9:80",
        Box::new(|_, input, _, out| {
            if std::mem::take(input).ends_with(b"\r\n\r\n") {
                out.extend(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
            }
            false
        }),
    );
    let client = sim.connect(0, TO);
    sim.send(client, &get("/chat", "upgrade: websocket\r\nconnection: Upgrade\r\n"));
    sim.run();
    sim.finish(client);
    sim.run_for(Duration::from_secs(3599));
    assert_eq!(sim.connections(0), 2, "the server may still speak");
    sim.run_for(Duration::from_secs(10));
    assert_eq!(sim.connections(0), 0);
}

#[test]
fn interim_answers_are_passed_on() {
    for hop in ["h1", "h2"] {
        let config = client(&[cluster(CLUSTER, "reviews", http_options(hop))]);
        let mut sim = mesh_with(2, config, &Inbound::default());
        let mut inner = echo_app();
        let mut conns: std::collections::HashMap<u64, Codec> = Default::default();
        sim.serve(
            "10.0.0.2:9080",
            Box::new(move |id, input, eof, out| {
                if input.is_empty() {
                    return eof;
                }
                if !input.starts_with(b"PRI") && !conns.contains_key(&id) {
                    out.extend(
                        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nx-envoy-peer-metadata: x\r\n\r\n",
                    );
                    return inner(id, input, eof, out);
                }
                let codec = conns.entry(id).or_insert_with(|| Codec::h2_server(Limits::default(), out));
                let whole = std::mem::take(input);
                let mut at = 0;
                while let Ok((n, Some(event))) = codec.next(&whole[at..], out) {
                    at += n;
                    if let Event::Head { stream, .. } = event {
                        let mut early = Head::response(103);
                        early.set("link", "</a.css>");
                        codec.send_head(stream, &Head::response(102), false, out);
                        codec.send_head(stream, &early, false, out);
                        codec.send_head(stream, &Head::response(200), true, out);
                    }
                }
                eof
            }),
        );
        let text = call(&mut sim, &get("/", ""));
        let early = text.find("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 102 ") && early < text.find("HTTP/1.1 200 "), "{hop}: {text}");
        assert!(early.is_some(), "{hop}: {text}");
        let old = call(&mut sim, b"GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n");
        assert!(!old.contains(" 103 "), "not to clients of HTTP/1.0: {old}");
        // There is an end of them.
        sim.serve(
            "10.0.0.2:9080",
            Box::new(|_, input, eof, out| {
                if !std::mem::take(input).is_empty() {
                    out.extend(b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100));
                }
                eof
            }),
        );
        if hop == "h1" {
            let text = call(&mut sim, &get("/", ""));
            assert!(text.matches(" 103 ").count() <= 16 && text.contains("HTTP/1.1 502 "), "{text}");
        }
    }
}
