//! All kinds of peers: both versions, gRPC, upgrades, slow ones, hostile ones.

use std::time::Duration;

use mizzen_http::Head;
use serde_json::json;

use super::{calls::*, mesh::*};

/// A connection that has become a websocket.
fn websocket(sim: &mut crate::sim::Sim) -> usize {
    let client = sim.connect(0, TO);
    upgrade(sim, client);
    client
}

pub(super) fn upgrade(sim: &mut crate::sim::Sim, client: usize) {
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
    sim.send(client, &get("/chat", "upgrade: websocket\r\nconnection: Upgrade\r\n"));
    sim.run();
    let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
    assert!(status(&text) == "101" && text.ends_with("\r\n\r\nhello"), "{text}");
}

#[test]
fn open_requests_are_judged_again() {
    let deny = |who: &str| {
        let denied = inbound(&Inbound { http: vec![http_rbac("DENY", json!({"p": from(who)}))], ..Inbound::default() });
        crate::Command::Config(put(&server_config(&Inbound::default()), &[denied]))
    };
    let mut sim = mesh(2, &Inbound::default());
    let client = websocket(&mut sim);
    sim.command(1, deny("other"));
    sim.send(client, b"frame");
    sim.run();
    assert_eq!(sim.received(client), b"frame", "another one's policy");
    sim.command(1, deny("storefront"));
    sim.run();
    assert!(sim.ended(client).is_some());
    sim.finish(client);
    sim.run();
    assert_clean(&mut sim);
    // A request that is no tunnel has the time of the drain.
    let mut sim = mesh(2, &Inbound::default());
    sim.serve("10.0.0.2:9080", Box::new(|_, _, eof, _| eof));
    let client = sim.connect(0, TO);
    sim.send(client, &get("/", ""));
    sim.run();
    sim.command(1, deny("storefront"));
    sim.run_for(Duration::from_secs(44));
    assert!(sim.received(client).is_empty());
    sim.run_for(Duration::from_secs(2));
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "408");
}

#[test]
fn open_requests_are_judged_by_what_came() {
    let gateway = |action: &str, permission: serde_json::Value| {
        let policies = json!({"p": {"permissions": [permission], "principals": [{"any": true}]}});
        let filters = json!({"filter_chains": [{"filters": [hcm(false, json!("9080"), &[http_rbac(action, policies)])]}]});
        listener("0.0.0.0_80", "0.0.0.0", 80, "OUTBOUND", filters)
    };
    let path = |exact: &str| json!({"url_path": {"path": {"exact": exact}}});
    let header = |name: &str, exact: &str| json!({"header": {"name": name, "string_match": {"exact": exact}}});
    let (kind, mut changes) =
        route("r", json!({"cluster": CLUSTER, "timeout": "0s", "prefix_rewrite": "/inner/", "host_rewrite_literal": "inner"}));
    changes["virtual_hosts"][0]["routes"][0]["request_headers_to_add"] = json!([{"header": {"key": "x-added", "value": "1"}}]);
    let base = client(&[(kind, changes), gateway("ALLOW", json!({"any": true}))]);
    for (action, permission, stays) in [
        ("DENY", path("/inner/chat"), true),
        ("DENY", header(":authority", "inner"), true),
        ("DENY", header("x-added", "1"), true),
        ("ALLOW", path("/chat"), true),
        ("DENY", path("/chat"), false),
        ("DENY", header(":authority", "reviews:9080"), false),
        ("ALLOW", path("/inner/chat"), false),
    ] {
        let mut sim = mesh_with(2, base.clone(), &Inbound::default());
        let client = sim.connect_from(0, "0.0.0.0_80", "10.0.0.9:4000".parse().unwrap(), TO);
        upgrade(&mut sim, client);
        sim.command(0, crate::Command::Config(put(&base, &[gateway(action, permission.clone())])));
        sim.run();
        assert_eq!(sim.ended(client).is_none(), stays, "{action} {permission}");
        sim.abort(client);
        sim.run();
        assert_clean(&mut sim);
    }
}

#[test]
fn websockets() {
    let mut sim = mesh(2, &Inbound::default());
    let client = websocket(&mut sim);
    sim.send(client, b"frame");
    sim.run();
    assert_eq!(sim.received(client), b"frame");
    sim.finish(client);
    sim.run();
    assert!(sim.ended(client).is_some());
    assert_clean(&mut sim);
}

#[test]
fn nobody_steers_a_proxy() {
    let mut gateway = hcm(false, json!("9080"), &[]);
    gateway["typed_config"]["use_remote_address"] = true.into();
    let config = client(&[listener("0.0.0.0_80", "0.0.0.0", 80, "OUTBOUND", json!({"filter_chains": [{"filters": [gateway]}]}))]);
    let forged =
        "x-envoy-internal: forged\r\nx-envoy-retry-on: forged\r\nx-envoy-upstream-rq-timeout-ms: forged\r\nx-envoy-max-retries: forged\r\n";
    let edge = "x-envoy-original-path: forged\r\nx-envoy-decorator-operation: forged\r\nx-envoy-external-address: forged\r\n";
    let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
    let near = sim.connect_from(0, "0.0.0.0_80", "127.0.0.1:4000".parse().unwrap(), "10.0.0.1:80");
    sim.send(near, &get("/", &format!("{forged}{edge}")));
    sim.run();
    let text = String::from_utf8_lossy(&sim.received(near)).into_owned();
    assert!(status(&text) == "200" && !text.contains("forged"), "{text}");
    let text = call(&mut sim, &get("/", forged));
    assert!(status(&text) == "200" && !text.contains("forged"), "{text}");
}

#[test]
fn trailers_say_nothing_of_who_calls() {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let kept = seen.clone();
    let config = client(&[assignment(CLUSTER, &["10.0.0.9:80"], false)]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    sim.serve(
        "10.0.0.9:80",
        Box::new(move |_, input, eof, out| {
            kept.borrow_mut().append(input);
            if kept.borrow().ends_with(b"\r\n0\r\nx-sum: 1\r\n\r\n") {
                out.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
            eof
        }),
    );
    let trailers = "x-forwarded-client-cert: URI=forged\r\nAuthorization: forged\r\nx-sum: 1\r\nX-Envoy-Internal: forged\r\n";
    let text =
        call(&mut sim, format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{trailers}\r\n").as_bytes());
    assert_eq!(status(&text), "200", "{}", String::from_utf8_lossy(&seen.borrow()));
    assert!(!String::from_utf8_lossy(&seen.borrow()).contains("forged"));
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
fn who_calls_nobody_names_no_series() {
    let mut table = routes("9080", json!([{"name": "block_all", "match": {"prefix": "/"}, "direct_response": {"status": 502}}]));
    table["virtual_hosts"][0]["name"] = "block_all".into();
    let mut sim = mesh_with(2, client(&[(mizzen_ir::ResourceKind::Route, table)]), &Inbound::default());
    for host in ["a.example", "b.example"] {
        assert_eq!(status(&call(&mut sim, format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())), "502");
    }
    let series = sim.snapshot(0).series;
    let totals: Vec<_> = series.iter().filter(|s| s.name == "istio_requests_total").collect();
    assert_eq!(totals.len(), 1);
    for label in ["destination_service", "destination_service_name"] {
        assert!(totals[0].labels.contains(&(label, "BlackHoleCluster".to_owned())), "{:?}", totals[0].labels);
    }
}

#[test]
fn services_outside_have_their_whole_name() {
    let outside =
        json!({"filter_metadata": {"istio": {"services": [{"host": "api.foo.com", "name": "api.foo.com", "namespace": "shop"}]}}});
    let (kind, mut value) = cluster(CLUSTER, "reviews", json!({}));
    value["metadata"] = outside;
    let mut sim = with_app(mesh_with(2, client(&[(kind, value)]), &Inbound::default()));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    let series = sim.snapshot(0).series;
    let total = series.iter().find(|s| s.name == "istio_requests_total").unwrap();
    assert!(total.labels.contains(&("destination_service_name", "api.foo.com".to_owned())), "{:?}", total.labels);
}

#[test]
fn labels_follow_the_configuration() {
    fn count(sim: &mut crate::sim::Sim, holds: impl Fn(&[(&'static str, String)]) -> bool) -> u64 {
        let series = sim.snapshot(0).series;
        let of = |s: &&crate::metrics::Series| s.name == "istio_requests_total" && holds(&s.labels);
        let values = series.iter().filter(of).map(|s| match s.value {
            crate::metrics::Value::Counter(n) => n,
            _ => 0,
        });
        values.sum()
    }
    // A cluster is called as before, and stands for another service.
    let base = client_config(secrets("storefront"));
    let mut sim = with_app(mesh_with(2, base.clone(), &Inbound::default()));
    call(&mut sim, &get("/", ""));
    let (kind, mut value) = cluster(CLUSTER, "reviews", json!({}));
    value["metadata"]["filter_metadata"]["istio"]["services"][0]["name"] = "renamed".into();
    sim.command(0, crate::Command::Config(put(&base, &[(kind, value)])));
    call(&mut sim, &get("/", ""));
    for name in ["reviews", "renamed"] {
        assert_eq!(count(&mut sim, |labels| labels.contains(&("destination_service_name", name.to_owned()))), 1, "{name}");
    }
    // A configuration's place in memory is soon another one's.
    let gateway = |without: bool| {
        let mut gateway = hcm(false, json!("9080"), &[]);
        let filters = gateway["typed_config"]["http_filters"].as_array_mut().unwrap();
        let stats = filters.iter_mut().find(|f| f["name"] == "istio.stats").unwrap();
        let metrics = json!([{"tags_to_remove": if without { json!(["source_app"]) } else { json!([]) }}]);
        stats["typed_config"]["value"] = json!({"metrics": metrics});
        listener("0.0.0.0_80", "0.0.0.0", 80, "OUTBOUND", json!({"filter_chains": [{"filters": [gateway]}]}))
    };
    let mut sim = with_app(mesh_with(2, put(&base, &[gateway(false)]), &Inbound::default()));
    for round in 0..30 {
        sim.command(0, crate::Command::Config(put(&base, &[gateway(round % 3 == 0)])));
        let client = sim.connect_from(0, "0.0.0.0_80", "10.0.0.9:4000".parse().unwrap(), TO);
        sim.send(client, &get("/", ""));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200");
        sim.abort(client);
        sim.run();
    }
    let has = |labels: &[(&'static str, String)]| labels.iter().any(|(name, _)| *name == "source_app");
    assert_eq!((count(&mut sim, |labels| !has(labels)), count(&mut sim, has)), (10, 20));
}

#[test]
fn labels_that_peers_choose_are_short() {
    let none = json!({"name": "9080", "virtual_hosts": [{"name": "v", "domains": ["other"], "routes": []}]});
    let mut sim = mesh_with(2, client(&[(mizzen_ir::ResourceKind::Route, none)]), &Inbound::default());
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "é".repeat(10_000)).replace('é', "xy");
    assert_eq!(status(&call(&mut sim, request.as_bytes())), "404");
    let series = sim.snapshot(0).series;
    let longest = series.iter().flat_map(|s| &s.labels).map(|(_, value)| value.len()).max();
    assert_eq!(longest, Some(253));
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

#[test]
fn large_responses_and_slow_readers() {
    let big = 2_000_000;
    for (protocol, down_h2) in [("h1", false), ("h2", false), ("h2", true), ("h1", true)] {
        let config = client(&[cluster(CLUSTER, "reviews", http_options(protocol))]);
        let mut sim = mesh_with(9, config, &Inbound::default());
        sim.window = 20_000;
        sim.serve("10.0.0.2:9080", super::flow::store());
        if down_h2 {
            let answers = h2_calls(&mut sim, &[(Head::request("GET", "http", "a", &format!("/{big}")), Vec::new())]);
            assert_eq!((answers[0].0, answers[0].1.len()), (200, big), "{protocol}");
            assert!(answers[0].1.iter().all(|b| *b == b'x'), "{protocol}");
        } else {
            let text = call(&mut sim, &get(&format!("/{big}"), ""));
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!((status(&text), body.len()), ("200", big), "{protocol}");
            assert!(body.bytes().all(|b| b == b'x'), "{protocol}");
        }
        assert_clean(&mut sim);
    }
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
