//! HTTP through the mesh.

use std::time::Duration;

use mizzen_http::{Codec, Event, Head, Limits};
use mizzen_ir::{Config, Kind};
use serde_json::{Value, json};

use super::mesh::*;
use crate::{Command, sim::Sim};

const TO: &str = "10.96.0.2:9080";
const CLUSTER: &str = "outbound|9080||reviews.shop.svc.cluster.local";

/// An application that answers in HTTP of either version, by a function of the request.
fn app(mut answer: impl FnMut(&Head, &[u8]) -> (Head, Vec<u8>) + 'static) -> crate::sim::Serve {
    use std::collections::HashMap;
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
                            let trailers = head.get("x-trailers").is_some();
                            codec.send_head(stream, &head, body.is_empty() && !trailers, out);
                            if !body.is_empty() {
                                codec.send_data(stream, &body, !trailers, out);
                            }
                            if trailers {
                                let mut end = Head::new();
                                end.set("grpc-status", "5");
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
        eof || codec.state() == mizzen_http::State::Done
    })
}

/// Echoes what it sees: the request's head in the body.
fn echo_app() -> crate::sim::Serve {
    app(|head, body| {
        let mut response = Head::response(200);
        let text = format!("{head:?} body={}", body.len());
        response.set("content-length", text.len().to_string());
        response.set("x-app", "1");
        (response, text.into_bytes())
    })
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: reviews:9080\r\n{more}\r\n").into_bytes()
}

/// One request of a client on its own connection.
fn call(sim: &mut Sim, request: &[u8]) -> String {
    let client = sim.connect(0, TO);
    sim.send(client, request);
    sim.run_for(Duration::from_millis(200));
    let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
    sim.abort(client);
    sim.run();
    text
}

fn status(response: &str) -> &str {
    response.get(9..12).unwrap_or_default()
}

fn with_app(mut sim: Sim) -> Sim {
    sim.serve("10.0.0.2:9080", echo_app());
    sim
}

fn client(resources: &[(Kind, Value)]) -> std::sync::Arc<Config> {
    put(&client_config(secrets("storefront")), resources)
}

fn route(name: &str, action: Value) -> (Kind, Value) {
    (Kind::Route, routes("9080", json!([{"name": name, "match": {"prefix": "/"}, "route": action}])))
}

#[test]
fn a_request_for_any_split() {
    for seed in 0..6 {
        let mut sim = with_app(mesh(seed, &Inbound::default()));
        sim.split = [0, 1, 3, 50, 700, 9000][seed as usize];
        let client = sim.connect(0, TO);
        for n in 0..3 {
            sim.send(client, &get(&format!("/reviews/{n}"), "user-agent: test\r\nx-envoy-peer-metadata: forged\r\n"));
        }
        sim.run();
        let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
        assert_eq!(text.matches("HTTP/1.1 200").count(), 3, "{text}");
        assert!(text.contains("/reviews/2") && text.contains("x-app: 1"), "{text}");
        assert!(text.contains("server: "), "{text}");
        assert!(!text.contains("x-envoy-peer-metadata"), "neither the application nor the client sees the exchange: {text}");
        let uri = "By=spiffe://cluster.local/ns/shop/sa/reviews;Hash=";
        assert!(text.contains(uri) && text.contains("URI=spiffe://cluster.local/ns/shop/sa/storefront"), "{text}");
        assert_eq!((lines(&sim.log(0)).len(), lines(&sim.log(1)).len()), (3, 3));
        assert_eq!(sim.dials.len(), 2, "one connection each, kept");
        sim.abort(client);
        sim.run();
        assert_clean(&mut sim);
        let series = sim.snapshot(1).series;
        let total = series.iter().find(|s| s.name == "istio_requests_total").unwrap();
        assert_eq!(total.value, crate::metrics::Value::Counter(3));
        for (label, value) in [
            ("reporter", "destination"),
            ("source_workload", "storefront-v1"),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/storefront"),
            ("destination_service", "reviews.shop.svc.cluster.local"),
            ("connection_security_policy", "mutual_tls"),
            ("response_code", "200"),
        ] {
            assert!(total.labels.contains(&(label, value.to_owned())), "{label}: {:?}", total.labels);
        }
        let series = sim.snapshot(0).series;
        let total = series.iter().find(|s| s.name == "istio_requests_total").unwrap();
        assert!(total.labels.contains(&("destination_workload", "reviews-v1".to_owned())), "{:?}", total.labels);
    }
}

#[test]
fn policies() {
    let check = |action: &str, policies: Value, request: &[u8], expected: &str, details: &str| {
        let mut sim = with_app(mesh(2, &Inbound { http: vec![http_rbac(action, policies)], ..Inbound::default() }));
        let text = call(&mut sim, request);
        assert_eq!(status(&text), expected, "{text}");
        let log = lines(&sim.log(1));
        assert_eq!(log[0]["response_code_details"], details, "{log:?}");
        if expected == "403" {
            assert!(text.ends_with("\r\n\r\nRBAC: access denied"), "{text}");
            assert!(log[0]["policy"].is_string());
        }
    };
    check("ALLOW", json!({"p": from("storefront")}), &get("/", ""), "200", "via_upstream");
    check("ALLOW", json!({"p": from("other")}), &get("/", ""), "403", "rbac_access_denied_matched_policy[none]");
    check("ALLOW", json!({}), &get("/", ""), "403", "rbac_access_denied_matched_policy[none]");
    let admin = json!({"deny": {"permissions": [{"url_path": {"path": {"prefix": "/admin"}}}], "principals": [{"any": true}]}});
    check("DENY", admin.clone(), &get("/admin/x", ""), "403", "rbac_access_denied_matched_policy[deny]");
    check("DENY", admin.clone(), &get("/a/../admin/x", ""), "403", "rbac_access_denied_matched_policy[deny]");
    check("DENY", admin, &get("/reviews", ""), "200", "via_upstream");
}

#[test]
fn routes_and_answers_made_here() {
    let check = |table: Value, request: &[u8], expected: &str, contains: &str, flags: Option<&str>| {
        let mut sim = with_app(mesh_with(2, client(&[(Kind::Route, table)]), &Inbound::default()));
        let text = call(&mut sim, request);
        assert_eq!(status(&text), expected, "{text}");
        assert!(text.contains(contains), "{text}");
        let log = lines(&sim.log(0));
        assert_eq!(log[0]["response_flags"].as_str(), flags, "{log:?}");
        assert_clean(&mut sim);
    };
    let one = |action: Value| routes("9080", json!([action]));
    let none = json!({"name": "9080", "virtual_hosts": [{"name": "v", "domains": ["other"], "routes": []}]});
    check(none, &get("/", ""), "404", "", Some("NR"));
    check(one(json!({"match": {"prefix": "/x"}, "route": {"cluster": CLUSTER}})), &get("/", ""), "404", "", Some("NR"));
    check(one(json!({"match": {"prefix": "/"}, "route": {"cluster": "nowhere"}})), &get("/", ""), "503", "", Some("NC"));
    check(
        one(json!({"match": {"prefix": "/"}, "route": {"cluster": "BlackHoleCluster"}})),
        &get("/", ""),
        "503",
        "no healthy upstream",
        Some("UH"),
    );
    check(
        one(json!({"match": {"prefix": "/"}, "direct_response": {"status": 418, "body": {"inline_string": "tea"}}})),
        &get("/", ""),
        "418",
        "tea",
        None,
    );
    check(
        one(json!({"match": {"prefix": "/"}, "redirect": {"host_redirect": "new.example", "response_code": "FOUND"}})),
        &get("/p?q=1", ""),
        "302",
        "location: http://new.example/p?q=1",
        None,
    );
    let rewrite = json!({"match": {"prefix": "/old/"}, "route": {"cluster": CLUSTER, "prefix_rewrite": "/new/", "host_rewrite_literal": "h.example"},
        "request_headers_to_add": [{"header": {"key": "x-added", "value": "yes"}}], "response_headers_to_remove": ["x-app"], "request_headers_to_remove": ["x-gone"]});
    let request = get("/old/a", "x-gone: 1\r\n");
    check(one(rewrite.clone()), &request, "200", "/new/a", None);
    check(one(rewrite.clone()), &request, "200", "h.example", None);
    check(one(rewrite.clone()), &request, "200", "x-added", None);
    check(one(rewrite.clone()), &request, "200", "\"x-envoy-original-path\": \"/old/a\"", None);
    let mut sim = with_app(mesh_with(2, client(&[(Kind::Route, one(rewrite))]), &Inbound::default()));
    let text = call(&mut sim, &request);
    assert!(!text.contains("x-gone") && !text.contains("x-app"), "{text}");
    let mut sim = with_app(mesh(1, &Inbound::default()));
    assert_eq!(status(&call(&mut sim, &get("/", "upgrade: other\r\nconnection: upgrade\r\n"))), "403");
    assert_eq!(status(&call(&mut sim, b"GET / HTTP/1.1\r\n\r\n")), "400");
}

#[test]
fn retries() {
    // The application answers 503 twice, then 200.
    let flaky = |times: usize| {
        let mut left = times;
        app(move |_, body| {
            let ok = left == 0;
            left = left.saturating_sub(1);
            let mut head = Head::response(if ok { 200 } else { 503 });
            let text = format!("{}", body.len());
            head.set("content-length", text.len().to_string());
            (head, text.into_bytes())
        })
    };
    let check = |retry: Value, fails: usize, expected: &str, attempts: u64, flags: Option<&str>| {
        let config = client(&[route("r", json!({"cluster": CLUSTER, "timeout": "0s", "retry_policy": retry}))]);
        let mut sim = mesh_with(2, config, &Inbound::default());
        sim.serve("10.0.0.2:9080", flaky(fails));
        let mut request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\n".to_vec();
        request.extend(vec![b'x'; 30_000]);
        let text = call(&mut sim, &request);
        assert_eq!(status(&text), expected, "{text}");
        if expected == "200" {
            assert!(text.ends_with("30000"), "the whole body is sent again");
        }
        let log = lines(&sim.log(0));
        assert_eq!(log.len(), 1);
        assert_eq!(log[0]["attempts"], json!(attempts), "{log:?}");
        assert_eq!(log[0]["response_flags"].as_str(), flags, "{log:?}");
        assert_clean(&mut sim);
        assert_eq!(sim.snapshot(0).guards, 2 - 1, "only the kept connection's");
    };
    check(json!({"retry_on": "5xx", "num_retries": 2}), 2, "200", 3, None);
    check(json!({"retry_on": "5xx", "num_retries": 1}), 2, "503", 2, Some("URX"));
    check(json!({"retry_on": "connect-failure,refused-stream", "num_retries": 2}), 1, "503", 1, None);
    check(json!({"retry_on": "retriable-status-codes", "retriable_status_codes": [503], "num_retries": 2}), 1, "200", 2, None);
}

#[test]
fn other_endpoints_are_tried() {
    let hosts = assignment(CLUSTER, &["10.0.0.3:9080", "10.0.0.2:9080"], true);
    let retry = json!({"retry_on": "connect-failure", "num_retries": 2, "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}]});
    let config = client(&[hosts, route("r", json!({"cluster": CLUSTER, "timeout": "0s", "retry_policy": retry}))]);
    let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
    for _ in 0..10 {
        assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    }
    assert!(sim.dials.iter().any(|d| matches!(d, crate::Target::Tcp(a) if a.ip().to_string() == "10.0.0.3")));
    assert_clean(&mut sim);
}

#[test]
fn no_connection() {
    let config = client(&[assignment(CLUSTER, &["10.0.0.3:9080"], true)]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    let text = call(&mut sim, &get("/", ""));
    assert_eq!(status(&text), "503");
    let body = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: Connection refused";
    assert!(text.contains(body), "{text}");
    let log = lines(&sim.log(0));
    assert_eq!(log[0]["response_flags"], "UF");
    // gRPC clients get it as a status.
    let text = call(&mut sim, &get("/", "content-type: application/grpc\r\n"));
    assert!(text.contains("grpc-status: 14"), "{text}");
}

#[test]
fn timeouts() {
    // An application that never answers.
    let silent = || -> crate::sim::Serve { Box::new(|_, _, eof, _| eof) };
    let check = |action: Value, after: u64, expected: &str, flags: &str, attempts: u64| {
        let mut sim = mesh_with(2, client(&[route("r", action)]), &Inbound::default());
        sim.serve("10.0.0.2:9080", silent());
        let c = sim.connect(0, TO);
        sim.send(c, &get("/", ""));
        sim.run_for(Duration::from_millis(after - 10));
        assert!(sim.received(c).is_empty());
        sim.run_for(Duration::from_millis(500));
        let text = String::from_utf8_lossy(&sim.received(c)).into_owned();
        assert_eq!(status(&text), expected, "{text}");
        let log = lines(&sim.log(0));
        assert_eq!((log[0]["response_flags"].as_str(), &log[0]["attempts"]), (Some(flags), &json!(attempts)), "{log:?}");
        assert_clean_but_connections(&mut sim);
        let inbound = lines(&sim.log(1));
        assert_eq!(inbound.len() as u64, attempts, "the server's side sees each try end: {inbound:?}");
    };
    check(json!({"cluster": CLUSTER, "timeout": "3s"}), 3000, "504", "UT", 1);
    let retry = json!({"retry_on": "gateway-error", "num_retries": 2, "per_try_timeout": "1s"});
    check(json!({"cluster": CLUSTER, "timeout": "0s", "retry_policy": retry}), 3000, "504", "UT,URX", 3);
}

fn assert_clean_but_connections(sim: &mut Sim) {
    for proxy in 0..2 {
        assert_eq!(sim.snapshot(proxy).streams, 0, "proxy {proxy}");
    }
}

/// A client of HTTP/2.
fn h2_calls(sim: &mut Sim, requests: &[(Head, Vec<u8>)]) -> Vec<(u16, Vec<u8>, Option<Head>)> {
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

#[test]
fn versions_are_translated() {
    // (the outbound cluster's protocol, whether the client speaks HTTP/2)
    for (seed, (protocol, down_h2)) in
        [("h1", false), ("h2", false), ("h1", true), ("h2", true), ("downstream", true)].into_iter().enumerate()
    {
        let config = client(&[cluster(CLUSTER, "reviews", http_options(protocol))]);
        let mut sim = with_app(mesh_with(seed as u64, config, &Inbound::default()));
        sim.split = [0, 333, 2000][seed % 3];
        let size = 300_000;
        if down_h2 {
            let head = Head::request("POST", "http", "reviews:9080", "/big");
            let requests: Vec<_> = (0..5).map(|n| (head.clone(), vec![b'x'; n * size / 4])).collect();
            let answers = h2_calls(&mut sim, &requests);
            for (n, (status, body, _)) in answers.iter().enumerate() {
                let text = String::from_utf8_lossy(body);
                assert!(*status == 200 && text.ends_with(&format!("body={}", n * size / 4)), "{protocol} {n}: {status} {text}");
            }
        } else {
            let mut request = format!("POST /big HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n").into_bytes();
            request.extend(vec![b'x'; size]);
            let text = call(&mut sim, &request);
            assert!(status(&text) == "200" && text.ends_with(&format!("body={size}")), "{protocol}: {text}");
        }
        assert_clean(&mut sim);
        let count = if down_h2 { 5 } else { 1 };
        assert_eq!((lines(&sim.log(0)).len(), lines(&sim.log(1)).len()), (count, count));
    }
}

#[test]
fn large_responses_and_slow_readers() {
    let big = 2_000_000;
    for (protocol, down_h2) in [("h1", false), ("h2", false), ("h2", true), ("h1", true)] {
        let config = client(&[cluster(CLUSTER, "reviews", http_options(protocol))]);
        let mut sim = mesh_with(9, config, &Inbound::default());
        sim.window = 20_000;
        // HTTP/1.1 only: the application's codec keeps no queue.
        sim.serve(
            "10.0.0.2:9080",
            Box::new(move |_, input, eof, out| {
                if input.starts_with(b"PRI") {
                    return true;
                }
                if input.ends_with(b"\r\n\r\n") {
                    input.clear();
                    out.extend(format!("HTTP/1.1 200 OK\r\ncontent-length: {big}\r\n\r\n").bytes());
                    out.extend(std::iter::repeat_n(b'y', big));
                }
                eof
            }),
        );
        if down_h2 && protocol == "h2" {
            continue;
        }
        if down_h2 {
            let answers = h2_calls(&mut sim, &[(Head::request("GET", "http", "a", "/"), Vec::new())]);
            assert_eq!((answers[0].0, answers[0].1.len()), (200, big));
        } else if protocol == "h1" {
            let text = call(&mut sim, &get("/", ""));
            assert_eq!(text.len() - text.find("\r\n\r\n").unwrap() - 4, big);
        }
        assert_clean(&mut sim);
    }
}

#[test]
fn a_chain_that_changes_takes_over() {
    let mut sim = with_app(mesh(2, &Inbound::default()));
    let client = sim.connect(0, TO);
    sim.send(client, &get("/", ""));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200");
    let deny = inbound(&Inbound { http: vec![http_rbac("ALLOW", json!({"p": from("other")}))], ..Inbound::default() });
    let config = put(&server_config(&Inbound::default()), &[deny]);
    sim.command(1, Command::Config(config));
    sim.send(client, &get("/", ""));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "403", "the next request on the same connection is judged anew");
    assert_eq!(sim.dials.len(), 2, "no connection was lost");
}

#[test]
fn new_certificates_lose_no_request() {
    let base = client_config(secrets("storefront"));
    let mut sim = with_app(mesh_with(2, base.clone(), &Inbound::default()));
    let client = sim.connect(0, TO);
    for round in 0..4 {
        sim.send(client, &get("/", ""));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200");
        sim.command(0, Command::Config(put(&base, &secrets("storefront"))));
        sim.run();
        assert_eq!(sim.connections(0), 1, "round {round}: the idle connection with the old certificate is closed");
    }
    sim.abort(client);
    sim.run();
    assert_clean(&mut sim);
}

#[test]
fn removed_endpoints() {
    let base = client(&[assignment(CLUSTER, &["10.0.0.2:9080"], true)]);
    let mut sim = with_app(mesh_with(2, base.clone(), &Inbound::default()));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    assert_eq!(sim.connections(0), 1);
    sim.command(0, Command::Config(put(&base, &[assignment(CLUSTER, &[], true)])));
    sim.run();
    assert_eq!(sim.connections(0), 0);
    let text = call(&mut sim, &get("/", ""));
    assert!(text.contains("no healthy upstream"), "{text}");
    assert_eq!(sim.snapshot(0).guards, 0);
}

#[test]
fn a_route_configuration_that_comes_late() {
    let full = client_config(secrets("storefront"));
    let mut draft = mizzen_ir::Draft::new(&full);
    draft.remove(Kind::Route, "9080");
    let mut sim = with_app(mesh_with(2, draft.finish().0, &Inbound::default()));
    let late = sim.connect(0, TO);
    sim.send(late, &get("/", ""));
    sim.run_for(Duration::from_secs(1));
    assert!(sim.received(late).is_empty());
    sim.command(0, Command::Config(full));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(late))), "200");
    let mut draft = mizzen_ir::Draft::new(&client_config(secrets("storefront")));
    draft.remove(Kind::Route, "9080");
    let mut sim = mesh_with(2, draft.finish().0, &Inbound::default());
    let never = sim.connect(0, TO);
    sim.send(never, &get("/", ""));
    sim.run_for(Duration::from_secs(16));
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(never))), "404");
}

#[test]
fn websockets() {
    let mut sim = mesh(2, &Inbound::default());
    sim.serve(
        "10.0.0.2:9080",
        Box::new(|_, input, eof, out| {
            if input.starts_with(b"GET") {
                if !input.ends_with(b"\r\n\r\n") {
                    return false;
                }
                input.clear();
                out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello");
            } else {
                out.append(input);
            }
            eof
        }),
    );
    let client = sim.connect(0, TO);
    sim.send(client, &get("/chat", "upgrade: websocket\r\nconnection: Upgrade\r\n"));
    sim.run();
    let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
    assert!(status(&text) == "101" && text.ends_with("\r\n\r\nhello"), "{text}");
    sim.send(client, b"frame");
    sim.run();
    assert_eq!(sim.received(client), b"frame");
    sim.finish(client);
    sim.run();
    assert!(sim.ended(client).is_some());
    assert_clean(&mut sim);
}

#[test]
fn outliers_are_ejected() {
    let outlier = json!({"outlier_detection": {"consecutive_5xx": 3, "max_ejection_percent": 50, "base_ejection_time": "30s"}});
    let config = client(&[cluster(CLUSTER, "reviews", outlier), assignment(CLUSTER, &["10.0.0.2:9080", "10.0.0.3:9080"], true)]);
    let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(status(&call(&mut sim, &get("/", ""))) != "200");
    }
    assert_eq!(failed, 3, "the dead endpoint is left out after three failures");
    sim.run_for(Duration::from_secs(31));
    let again = (0..4).filter(|_| status(&call(&mut sim, &get("/", ""))) != "200").count();
    assert!(again > 0, "and let back in");
}

#[test]
fn a_kept_connection_that_is_dead_costs_no_request() {
    let mut sim = with_app(mesh(2, &Inbound::default()));
    for method in ["GET", "POST"] {
        assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
        // The application closes what it kept, unseen so far, and the next request comes at the same moment.
        sim.stop("10.0.0.2:9080");
        sim.refused.clear();
        sim.serve("10.0.0.2:9080", echo_app());
        let request = format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc");
        assert_eq!(status(&call(&mut sim, request.as_bytes())), "200", "{method}");
    }
}

#[test]
fn draining() {
    for h2 in [false, true] {
        let config = client(&[cluster(CLUSTER, "reviews", http_options(if h2 { "h2" } else { "h1" }))]);
        let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
        let open = sim.connect(0, TO);
        sim.send(open, &get("/", ""));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(open))), "200");
        // The server's proxy drains: the client's one learns of it and takes another connection; no request is lost.
        sim.command(1, Command::Drain(Some("virtualInbound".into())));
        sim.run();
        assert_eq!(sim.connections(1), 1, "idle connections end at once, but for the one to the application (h2: {h2})");
        sim.send(open, &get("/", ""));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(open))), "200");
        sim.command(0, Command::Drain(None));
        sim.run();
        assert!(sim.ended(open).is_some());
        sim.finish(open);
        sim.run_for(Duration::from_secs(60));
        assert_eq!(sim.connections(0), 0, "the pool's too, once the last client has gone");
    }
}

#[test]
fn a_gateway_believes_nobody() {
    let mut gateway = hcm(false, json!("9080"), &[]);
    gateway["typed_config"]["use_remote_address"] = true.into();
    gateway["typed_config"]["forward_client_cert_details"] = "SANITIZE_SET".into();
    let config = client(&[listener("0.0.0.0_80", "0.0.0.0", 80, "OUTBOUND", json!({"filter_chains": [{"filters": [gateway]}]}))]);
    let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
    let outside = sim.connect_from(0, "0.0.0.0_80", "8.8.8.8:4000".parse().unwrap(), "10.0.0.1:80");
    let forged = "x-forwarded-for: 1.1.1.1\r\nx-forwarded-proto: https\r\nx-forwarded-client-cert: URI=spiffe://forged\r\nx-envoy-retry-on: 5xx\r\nx-request-id: mine\r\n";
    sim.send(outside, &get("/", forged));
    sim.run();
    let text = String::from_utf8_lossy(&sim.received(outside)).into_owned();
    assert_eq!(status(&text), "200");
    assert!(text.contains("\"x-forwarded-for\": \"1.1.1.1, 8.8.8.8\"") && text.contains("\"x-forwarded-proto\": \"http\""), "{text}");
    assert!(!text.contains("spiffe://forged") && !text.contains("x-envoy-retry-on") && !text.contains("\"mine\""), "{text}");
    assert!(text.contains("\"x-envoy-external-address\": \"8.8.8.8\""), "{text}");
}

#[test]
fn grpc() {
    let config = client(&[cluster(CLUSTER, "reviews", http_options("h2"))]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    sim.split = 40;
    sim.serve(
        "10.0.0.2:9080",
        app(|head, body| {
            assert_eq!(head.get_str("te"), Some("trailers"));
            let mut response = Head::response(200);
            response.set("content-type", "application/grpc");
            response.set("x-trailers", "1");
            (response, body.to_vec())
        }),
    );
    let mut head = Head::request("POST", "http", "reviews:9080", "/shop.Ratings/Get");
    head.set("content-type", "application/grpc");
    head.set("te", "trailers");
    let message = b"\0\0\0\0\x03abc\0\0\0\0\0".to_vec();
    let answers = h2_calls(&mut sim, &[(head, message.clone())]);
    assert_eq!((answers[0].0, &answers[0].1), (200, &message));
    assert_eq!(answers[0].2.as_ref().and_then(|t| t.get_str("grpc-status")), Some("5"));
    for proxy in 0..2 {
        let series = sim.snapshot(proxy).series;
        let find = |name: &str| series.iter().find(|s| s.name == name).unwrap();
        let total = find("istio_requests_total");
        assert!(total.labels.contains(&("grpc_response_status", "5".to_owned())), "{:?}", total.labels);
        assert!(total.labels.contains(&("request_protocol", "grpc".to_owned())));
        assert_eq!(find("istio_request_messages_total").value, crate::metrics::Value::Counter(2));
        assert_eq!(find("istio_response_messages_total").value, crate::metrics::Value::Counter(2));
    }
    assert_clean(&mut sim);
}

#[test]
fn expect_continue() {
    let mut sim = mesh(2, &Inbound::default());
    sim.serve(
        "10.0.0.2:9080",
        Box::new(|_, input, eof, out| {
            if input.ends_with(b"\r\n\r\n") {
                input.clear();
                out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            } else if input.ends_with(b"body") {
                input.clear();
                out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
            eof
        }),
    );
    let client = sim.connect(0, TO);
    sim.send(client, b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    sim.run();
    assert_eq!(sim.received(client), b"HTTP/1.1 100 Continue\r\n\r\n");
    sim.send(client, b"body");
    sim.run();
    assert!(sim.received(client).ends_with(b"\r\n\r\nok"));
}

#[test]
fn passthrough_of_requests() {
    let mut sim =
        mesh_with(2, client(&[route("allow_any", json!({"cluster": "PassthroughCluster", "timeout": "0s"}))]), &Inbound::default());
    sim.serve("93.184.216.34:9080", echo_app());
    let out = sim.connect(0, "93.184.216.34:9080");
    sim.send(out, &get("/", ""));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(out))), "200");
    let series = sim.snapshot(0).series;
    let total = series.iter().find(|s| s.name == "istio_requests_total").unwrap();
    assert!(total.labels.contains(&("destination_service_name", "PassthroughCluster".to_owned())), "{:?}", total.labels);
}

#[test]
fn names_are_resolved() {
    let dns = json!({"name": "dns", "type": "STRICT_DNS", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN", "load_assignment": {"cluster_name": "dns",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "api.example.com", "port_value": 80}}}}]}]}});
    let config = client(&[(Kind::Cluster, dns), route("r", json!({"cluster": "dns", "timeout": "0s"}))]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    sim.serve("93.184.216.34:80", echo_app());
    let text = call(&mut sim, &get("/", ""));
    assert!(text.contains("no healthy upstream"), "no such name: {text}");
    sim.run_for(Duration::from_secs(6));
    sim.names.insert("api.example.com".to_owned(), vec!["93.184.216.34".parse().unwrap()]);
    call(&mut sim, &get("/", ""));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
}

#[test]
fn hostile_bytes() {
    let mut random = crate::lb::Rng::new(77);
    let good =
        [get("/", "x: y\r\n"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\0\0\0\x01\x82\x86\x84\x41\x01a".to_vec()];
    for seed in 0..60 {
        let mut sim = with_app(mesh(seed, &Inbound { permissive: true, ..Inbound::default() }));
        sim.split = 30;
        for _ in 0..6 {
            let mut bytes = good[(random.next() % 2) as usize].clone();
            for _ in 0..random.next() % 6 {
                let at = (random.next() % bytes.len() as u64) as usize;
                match random.next() % 3 {
                    0 => bytes[at] = random.next() as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, random.next() as u8),
                }
            }
            let client = if random.next().is_multiple_of(2) {
                sim.connect(0, TO)
            } else {
                sim.connect_from(1, "virtualInbound", "10.0.0.7:99".parse().unwrap(), "10.0.0.2:9080")
            };
            sim.send(client, &bytes);
            sim.run();
            match random.next() % 3 {
                0 => sim.abort(client),
                _ => sim.finish(client),
            }
            sim.run();
            sim.abort(client);
            sim.run();
        }
        sim.run_for(Duration::from_secs(10));
        assert_clean(&mut sim);
    }
}
