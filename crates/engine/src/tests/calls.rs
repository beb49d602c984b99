//! Calls through the mesh, and applications that answer them.

use std::{collections::HashMap, time::Duration};

use mizzen_http::{Codec, Event, Head, Limits};
use mizzen_ir::{Config, ResourceKind};
use serde_json::{Value, json};

use super::mesh::*;
use crate::sim::Sim;

pub(super) const TO: &str = "10.96.0.2:9080";

pub(super) const CLUSTER: &str = "outbound|9080||reviews.shop.svc.cluster.local";

/// An application that answers in HTTP of either version, by a function of the request.
pub(super) fn app(mut answer: impl FnMut(&Head, &[u8]) -> (Head, Vec<u8>) + 'static) -> crate::sim::Serve {
    type Open = HashMap<u32, (Head, Vec<u8>)>;
    let mut conns: HashMap<u64, (Codec, Open)> = HashMap::new();
    Box::new(move |id, input, eof, out| {
        if input.is_empty() && !eof && !conns.contains_key(&id) {
            return false;
        }
        let (codec, open) = conns.entry(id).or_insert_with(|| {
            let h2 = input.starts_with(b"PRI");
            (if h2 { Codec::h2_server(Limits::default(), out) } else { Codec::h1_server(Limits::default()) }, HashMap::new())
        });
        let mut whole = std::mem::take(input);
        loop {
            let mut done = None;
            match codec.next(&whole, out) {
                Err(_) => return true,
                Ok((n, event)) => {
                    let last = event.is_none();
                    match event {
                        Some(Event::Head { stream, head, end }) => {
                            open.insert(stream.0, (head, Vec::new()));
                            done = end.then_some(stream);
                        }
                        Some(Event::Data { stream, data, end }) => {
                            let n = data.len();
                            if let Some((_, body)) = open.get_mut(&stream.0) {
                                body.extend_from_slice(data);
                            }
                            done = end.then_some(stream);
                            let mut more = Vec::new();
                            codec.consumed(stream, n, &mut more);
                            out.extend(more);
                        }
                        Some(Event::Trailers { stream, .. }) => done = Some(stream),
                        _ => {}
                    }
                    whole.drain(..n);
                    if let Some(stream) = done {
                        if let Some((head, body)) = open.remove(&stream.0) {
                            let (head, body) = answer(&head, &body);
                            let trailers = head.get("x-trailers").map(<[u8]>::to_vec);
                            let (status, trailers) = (trailers.clone().unwrap_or_default(), trailers.is_some());
                            codec.send_head(stream, &head, body.is_empty() && !trailers, out);
                            if !body.is_empty() {
                                codec.send_data(stream, &body, !trailers, out);
                            }
                            if trailers {
                                let mut end = Head::new();
                                end.set("grpc-status", if status == b"0" { "0" } else { "5" });
                                codec.send_trailers(stream, &end, out);
                            }
                        }
                    } else if last {
                        break;
                    }
                }
            }
        }
        *input = whole;
        eof || codec.state() == mizzen_http::ConnState::Done
    })
}

/// Echoes what it sees: the request's head in the body.
pub(super) fn echo_app() -> crate::sim::Serve {
    app(|head, body| {
        let mut response = Head::response(200);
        let text = format!("{head:?} body={}", body.len());
        response.set("content-length", text.len().to_string());
        response.set("x-app", "1");
        (response, text.into_bytes())
    })
}

pub(super) fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: reviews:9080\r\n{more}\r\n").into_bytes()
}

/// One request of a client on its own connection.
pub(super) fn call(sim: &mut Sim, request: &[u8]) -> String {
    let client = sim.connect(0, TO);
    sim.send(client, request);
    sim.run_for(Duration::from_millis(200));
    let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
    sim.abort(client);
    sim.run();
    text
}

pub(super) fn status(response: &str) -> &str {
    response.get(9..12).unwrap_or_default()
}

pub(super) fn with_app(mut sim: Sim) -> Sim {
    sim.serve("10.0.0.2:9080", echo_app());
    sim
}

pub(super) fn client(resources: &[(ResourceKind, Value)]) -> std::sync::Arc<Config> {
    put(&client_config(secrets("storefront")), resources)
}

pub(super) fn route(name: &str, action: Value) -> (ResourceKind, Value) {
    (ResourceKind::Route, routes("9080", json!([{"name": name, "match": {"prefix": "/"}, "route": action}])))
}

/// A client of HTTP/2.
pub(super) fn h2_calls(sim: &mut Sim, requests: &[(Head, Vec<u8>)]) -> Vec<(u16, Vec<u8>, Option<Head>)> {
    let client = sim.connect(0, TO);
    let mut out = Vec::new();
    let mut codec = Codec::h2_client(Limits::default(), &mut out);
    let mut answers: Vec<(u16, Vec<u8>, Option<Head>)> = vec![Default::default(); requests.len()];
    let mut open = Vec::new();
    for (head, body) in requests {
        let sid = codec.open().unwrap();
        codec.send_head(sid, head, body.is_empty(), &mut out);
        open.push((sid, body.clone(), false));
    }
    let mut input = Vec::new();
    for _ in 0..200 {
        for (sid, body, ended) in &mut open {
            if !*ended && !body.is_empty() {
                let n = codec.send_data(*sid, body, true, &mut out);
                *ended = n == body.len();
                body.drain(..n);
            }
        }
        sim.send(client, &std::mem::take(&mut out));
        sim.run_for(Duration::from_millis(10));
        input.extend(sim.received(client));
        loop {
            let (n, last) = match codec.next(&input, &mut out) {
                Err(error) => panic!("{error}"),
                Ok((n, event)) => {
                    let mut give = None;
                    let last = event.is_none();
                    match event {
                        Some(Event::Head { stream, head, .. }) if head.status() >= 200 => {
                            let at = open.iter().position(|(s, ..)| *s == stream).unwrap();
                            answers[at].0 = head.status();
                        }
                        Some(Event::Data { stream, data, .. }) => {
                            let at = open.iter().position(|(s, ..)| *s == stream).unwrap();
                            answers[at].1.extend_from_slice(data);
                            give = Some((stream, data.len()));
                        }
                        Some(Event::Trailers { stream, head }) => {
                            let at = open.iter().position(|(s, ..)| *s == stream).unwrap();
                            answers[at].2 = Some(head);
                        }
                        _ => {}
                    }
                    if let Some((stream, n)) = give {
                        codec.consumed(stream, n, &mut out);
                    }
                    (n, last)
                }
            };
            input.drain(..n);
            if last {
                break;
            }
        }
    }
    sim.abort(client);
    sim.run();
    answers
}

pub(super) fn assert_clean_but_connections(sim: &mut Sim) {
    for proxy in 0..2 {
        assert_eq!(sim.snapshot(proxy).streams, 0, "proxy {proxy}");
    }
}
