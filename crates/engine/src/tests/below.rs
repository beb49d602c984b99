//! Connections without a socket: to internal listeners, and through HTTP proxies; and what a connection waits for.

use std::{sync::Arc, time::Duration};

use mizzen_http::{Codec, Event, Head, Limits};
use mizzen_ir::{Config, Draft, ResourceKind};
use serde_json::{Value, json};

use super::mesh::*;
use crate::{Command, Eof, sim::Sim};

/// The client's side with more listeners and clusters.
fn with(more: &[(ResourceKind, Value)]) -> Arc<Config> {
    put(&client_config(secrets("storefront")), more)
}

fn fixed(name: &str, address: Value, more: Value) -> (ResourceKind, Value) {
    let mut value = json!({"name": name, "type": "STATIC", "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}});
    for (key, field) in more.as_object().unwrap() {
        value[key] = field.clone();
    }
    (ResourceKind::Cluster, value)
}

fn internal(name: &str, filters: Value) -> (ResourceKind, Value) {
    (ResourceKind::Listener, json!({"name": name, "internal_listener": {}, "filter_chains": [{"filters": filters}]}))
}

fn to(ip: &str, port: u16, filters: Value) -> (ResourceKind, Value) {
    listener(ip, ip, port, "OUTBOUND", json!({"bind_to_port": false, "filter_chains": [{"filters": filters}]}))
}

fn inside(name: &str) -> Value {
    json!({"envoy_internal_address": {"server_listener_name": name, "endpoint_id": "1"}})
}

fn echoes(sim: &mut Sim, at: &str, split: usize, size: usize) {
    sim.split = split;
    let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
    let client = sim.connect(0, at);
    sim.send(client, &body);
    sim.finish(client);
    sim.run();
    let received = sim.received(client);
    assert!(received == body, "{} of {} bytes, or others", received.len(), body.len());
    assert_eq!(sim.ended(client), Some(Eof::Half), "half-closes travel both ways");
    assert_clean(sim);
    assert_eq!(sim.connections(0), 0);
}

#[test]
fn tcp_through_internal_listeners() {
    for (seed, (split, size)) in [(0, 900_000), (7, 5_000), (1500, 300_000)].into_iter().enumerate() {
        let config = with(&[
            to("10.96.0.9", 7000, json!([tcp_proxy("outer")])),
            fixed("outer", inside("middle"), json!({})),
            internal("middle", json!([tcp_proxy("inner")])),
            fixed("inner", inside("last"), json!({})),
            internal("last", json!([tcp_proxy("outbound|6379||reviews.shop.svc.cluster.local")])),
        ]);
        let mut sim = mesh_with(seed as u64, config, &Inbound::default());
        echoes(&mut sim, "10.96.0.9:7000", split, size);
        let lines = lines(&sim.log(0));
        assert_eq!(lines.len(), 3, "one record of each connection: {lines:?}");
        let hosts: Vec<_> = lines.iter().map(|line| line["upstream_host"].as_str().unwrap_or_default()).collect();
        for host in ["envoy://middle/1", "envoy://last/1", "10.0.0.2:6379"] {
            assert!(hosts.contains(&host), "{host} in {hosts:?}");
        }
        assert_eq!(sim.dials.len(), 2, "only what leaves a proxy is dialled: {:?}", sim.dials);
    }
}

#[test]
fn http_through_an_internal_listener() {
    let direct = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "from within"}}}]);
    for kind in ["h1", "h2"] {
        let config = with(&[
            to("10.96.0.9", 80, json!([hcm(false, routes("r", json!([{"match": {"prefix": "/"}, "route": {"cluster": "inside"}}])), &[])])),
            fixed("inside", inside("inner"), http_options(kind)),
            internal("inner", json!([hcm(true, routes("r", direct.clone()), &[])])),
        ]);
        let mut sim = mesh_with(1, config, &Inbound::default());
        let client = sim.connect(0, "10.96.0.9:80");
        for _ in 0..3 {
            sim.send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            sim.run_for(Duration::from_millis(100));
            let answer = String::from_utf8(sim.received(client)).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("from within"), "{kind}: {answer}");
        }
        assert_eq!(sim.connections(0), 3, "{kind}: the client's, and the two ends of one that is kept");
        sim.finish(client);
        sim.command(0, Command::Drain(None));
        sim.run_for(Duration::from_secs(60));
        assert_eq!(sim.connections(0), 0, "{kind}");
    }
}

#[test]
fn an_internal_listener_that_is_not_there() {
    let config = with(&[to("10.96.0.9", 7000, json!([tcp_proxy("outer")])), fixed("outer", inside("nowhere"), json!({}))]);
    let mut sim = mesh_with(1, config, &Inbound::default());
    let client = sim.connect(0, "10.96.0.9:7000");
    sim.run();
    assert!(sim.ended(client).is_some());
    let line = &lines(&sim.log(0))[0];
    assert_eq!((&line["failure"], &line["response_flags"]), (&json!("there is no internal listener `nowhere`"), &json!("UF,URX")));
    assert_clean(&mut sim);
}

/// A proxy for CONNECT that answers with `status` and then gives everything back.
fn http_proxy(sim: &mut Sim, at: &str, status: &'static str) {
    let mut open = std::collections::HashSet::new();
    sim.serve(
        at,
        Box::new(move |conn, input, eof, out| {
            if !open.contains(&conn) {
                let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") else { return eof };
                let head = String::from_utf8(input.drain(..end + 4).collect()).unwrap();
                assert!(head.starts_with("CONNECT db.example:5432 HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("x-from: 10.96.0.9:5432\r\n"), "{head}");
                out.extend_from_slice(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes());
                open.insert(conn);
                if !status.starts_with("200") {
                    return true;
                }
            }
            out.append(input);
            eof
        }),
    );
}

/// The same over HTTP/2: all connections are streams of one.
fn h2_proxy(sim: &mut Sim, at: &str, status: u16) {
    let mut conns: std::collections::HashMap<u64, Codec> = std::collections::HashMap::new();
    sim.serve(
        at,
        Box::new(move |conn, input, eof, out| {
            let codec = conns.entry(conn).or_insert_with(|| Codec::h2_server(Limits::default(), out));
            // What flow control has not let go yet.
            loop {
                let (n, event) = codec.next(input, out).unwrap();
                let Some(event) = event else {
                    input.drain(..n);
                    return eof;
                };
                let mut back = None;
                match event {
                    Event::Head { stream, head, end } => {
                        assert_eq!((head.method(), head.authority()), ("CONNECT", "db.example:5432"));
                        assert_eq!((head.get_str("x-from"), end), (Some("10.96.0.9:5432"), false));
                        codec.send_head(stream, &Head::response(status), status != 200, out);
                    }
                    Event::Data { stream, data, end } => back = Some((stream, data.to_vec(), end)),
                    _ => {}
                }
                if let Some((stream, data, end)) = back {
                    let sent = codec.send_data(stream, &data, end, out);
                    assert_eq!(sent, data.len(), "the client's window is wide enough for what the tests send");
                    codec.consumed(stream, data.len(), out);
                }
                input.drain(..n);
            }
        }),
    );
}

fn tunnelled() -> Arc<Config> {
    tunnelled_by(json!({}))
}

fn tunnelled_by(protocol: Value) -> Arc<Config> {
    let mut proxy = tcp_proxy("proxy");
    proxy["typed_config"]["tunneling_config"] = json!({"hostname": "db.example:5432",
        "headers_to_add": [{"header": {"key": "x-from", "value": "%DOWNSTREAM_LOCAL_ADDRESS%"}}]});
    with(&[
        to("10.96.0.9", 5432, json!([proxy])),
        fixed("proxy", json!({"socket_address": {"address": "10.9.9.9", "port_value": 3128}}), protocol),
    ])
}

#[test]
fn tcp_through_an_http2_proxy() {
    for (seed, (split, size)) in [(0, 50_000), (7, 5_000), (1500, 60_000)].into_iter().enumerate() {
        let mut sim = mesh_with(seed as u64, tunnelled_by(http_options("h2")), &Inbound::default());
        h2_proxy(&mut sim, "10.9.9.9:3128", 200);
        sim.split = split;
        let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let clients: Vec<usize> = (0..3).map(|_| sim.connect(0, "10.96.0.9:5432")).collect();
        for client in &clients {
            sim.send(*client, &body);
            sim.finish(*client);
        }
        sim.run();
        for client in clients {
            let received = sim.received(client);
            assert!(received == body, "split by {split}: {} of {} bytes, or others", received.len(), body.len());
            assert_eq!(sim.ended(client), Some(Eof::Half), "half-closes travel both ways");
        }
        let lines = lines(&sim.log(0));
        assert_eq!((lines.len(), &lines[0]["upstream_host"], &lines[0]["bytes_sent"]), (3, &json!("10.9.9.9:3128"), &json!(size)));
        assert_eq!((sim.dials.len(), sim.connections(0)), (1, 1), "the streams of one connection, which is kept");
        assert_clean(&mut sim);
    }
}

/// A client whose proxy for CONNECT does not let it through.
fn refused(sim: &mut Sim) {
    let client = sim.connect(0, "10.96.0.9:5432");
    sim.send(client, b"hello");
    sim.run();
    assert!(sim.received(client).is_empty() && sim.ended(client).is_some());
    assert_eq!(lines(&sim.log(0))[0]["failure"], "the proxy answered 403");
    assert_clean(sim);
}

#[test]
fn an_http2_proxy_that_refuses_or_breaks() {
    let mut sim = mesh_with(1, tunnelled_by(http_options("h2")), &Inbound::default());
    h2_proxy(&mut sim, "10.9.9.9:3128", 403);
    refused(&mut sim);

    let mut sim = mesh_with(1, tunnelled_by(http_options("h2")), &Inbound::default());
    h2_proxy(&mut sim, "10.9.9.9:3128", 200);
    let clients: Vec<usize> = (0..2).map(|_| sim.connect(0, "10.96.0.9:5432")).collect();
    sim.send(clients[0], b"hello");
    sim.run_for(Duration::from_millis(100));
    assert_eq!(sim.received(clients[0]), b"hello");
    // One client leaves; the other's tunnel stays.
    sim.abort(clients[0]);
    sim.send(clients[1], b"still");
    sim.run_for(Duration::from_millis(100));
    assert_eq!(sim.received(clients[1]), b"still");
    sim.stop("10.9.9.9:3128");
    sim.run_for(Duration::from_millis(100));
    assert!(sim.ended(clients[1]).is_some(), "a client that says nothing learns of it");
    assert_clean(&mut sim);
    assert_eq!(sim.connections(0), 0);
}

#[test]
fn tcp_through_an_http_proxy() {
    for (seed, (split, size)) in [(0, 900_000), (7, 5_000), (1500, 300_000)].into_iter().enumerate() {
        let mut sim = mesh_with(seed as u64, tunnelled(), &Inbound::default());
        http_proxy(&mut sim, "10.9.9.9:3128", "200 OK");
        echoes(&mut sim, "10.96.0.9:5432", split, size);
        let lines = lines(&sim.log(0));
        assert_eq!(lines.len(), 1, "the call leaves no record of its own: {lines:?}");
        assert_eq!((&lines[0]["upstream_host"], &lines[0]["bytes_sent"]), (&json!("10.9.9.9:3128"), &json!(size)));
    }
}

#[test]
fn an_http_proxy_that_refuses() {
    let mut sim = mesh_with(1, tunnelled(), &Inbound::default());
    http_proxy(&mut sim, "10.9.9.9:3128", "403 Forbidden");
    refused(&mut sim);
}

#[test]
fn an_http_proxy_that_says_nothing() {
    let mut sim = mesh_with(1, tunnelled(), &Inbound::default());
    sim.serve("10.9.9.9:3128", Box::new(|_, _, eof, _| eof));
    let client = sim.connect(0, "10.96.0.9:5432");
    sim.run_for(Duration::from_secs(9));
    assert!(sim.ended(client).is_none());
    sim.run_for(Duration::from_secs(2));
    assert!(sim.ended(client).is_some(), "no longer than a connection may take");
    assert_clean(&mut sim);
    // A client that goes away takes its call with it.
    let client = sim.connect(0, "10.96.0.9:5432");
    sim.run_for(Duration::from_millis(100));
    sim.abort(client);
    sim.run_for(Duration::from_millis(100));
    assert_clean(&mut sim);
    assert_eq!(sim.connections(0), 0);
}

fn without_secrets(config: &Config) -> Arc<Config> {
    let mut draft = Draft::new(config);
    draft.remove(ResourceKind::Secret, "default");
    draft.finish().0
}

#[test]
fn a_tunnel_that_breaks() {
    let mut sim = mesh_with(1, tunnelled(), &Inbound::default());
    http_proxy(&mut sim, "10.9.9.9:3128", "200 OK");
    let client = sim.connect(0, "10.96.0.9:5432");
    sim.send(client, b"hello");
    sim.run_for(Duration::from_millis(100));
    assert_eq!(sim.received(client), b"hello");
    sim.stop("10.9.9.9:3128");
    sim.run_for(Duration::from_millis(100));
    assert!(sim.ended(client).is_some(), "a client that says nothing learns of it");
    assert_clean(&mut sim);
    assert_eq!(sim.connections(0), 0);
}

#[test]
fn a_connection_waits_for_its_certificate() {
    let whole = server_config(&Inbound::default());
    let bare = without_secrets(&whole);
    let mut sim = mesh(1, &Inbound::default());
    sim.command(1, Command::Config(bare.clone()));
    let client = sim.connect(0, "10.96.0.2:6379");
    sim.send(client, b"hello");
    sim.run_for(Duration::from_secs(2));
    assert!(sim.received(client).is_empty() && sim.ended(client).is_none(), "nothing is served in plaintext");
    assert_eq!(sim.asked(1), ["Secret default"], "once");
    sim.command(1, Command::Config(whole));
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.received(client), b"hello");
    // One that never comes.
    sim.command(1, Command::Config(bare));
    let late = sim.connect(0, "10.96.0.2:6379");
    sim.run_for(Duration::from_secs(30));
    assert!(sim.ended(late).is_some());
    assert_eq!(lines(&sim.log(0))[0]["failure"], "connection timeout");
    sim.abort(client);
    sim.run_for(Duration::from_secs(1));
    assert_clean(&mut sim);
}
