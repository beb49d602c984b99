//! Requests through the mesh.

use std::time::Duration;

use mizzen_http::Head;
use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::Command;

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
fn a_path_by_any_spelling_meets_the_policy() {
    let check = |action: &str, path: Value, target: &str, expected: &str, sent: &str| {
        let policies = json!({"p": {"permissions": [{"url_path": {"path": path}}], "principals": [{"any": true}]}});
        let mut sim = with_app(mesh(2, &Inbound { http: vec![http_rbac(action, policies)], ..Inbound::default() }));
        let text = call(&mut sim, &get(target, ""));
        assert_eq!(status(&text), expected, "{target}: {text}");
        assert!(sent.is_empty() || text.contains(sent), "{target}: {text}");
        assert_clean(&mut sim);
    };
    let public = || json!({"prefix": "/public/"});
    check("ALLOW", public(), "/public/%%%332e%%%332e/admin/secret.txt", "200", "/public/%%2532e%%2532e/admin/secret.txt");
    check("ALLOW", public(), "/public/%2e%2e/admin/secret.txt", "403", "");
    for (policy, target) in [
        ("/admin", "/%61dmin"),
        ("/caf\u{e9}", "/caf\u{e9}"),
        ("/caf\u{e9}", "/caf%c3%a9"),
        ("/caf%C3%A9", "/caf\u{e9}"),
        ("/q%22x", "/q\"x"),
        ("/%7Ba%7D", "/{a}"),
        ("/a|b", "/a%7cb"),
    ] {
        check("DENY", json!({"exact": policy}), target, "403", "");
        check("ALLOW", json!({"exact": policy}), target, "200", "");
    }
    check("DENY", json!({"exact": "/admin"}), "/caf\u{e9}?\u{e9}={\"}", "200", "/caf%C3%A9?\u{e9}={");
}

#[test]
fn a_refused_filter_answers_503() {
    let unknown = json!({"name": "x", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}});
    let mut sim = with_app(mesh(2, &Inbound { http: vec![unknown], ..Inbound::default() }));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "503");
    let log = lines(&sim.log(1));
    assert_eq!(log[0]["response_code_details"], "http_filter_refused", "{log:?}");
    assert_eq!(sim.dials.len(), 1, "nothing reaches the program");
    assert_clean(&mut sim);
}

#[test]
fn routes_and_answers_made_here() {
    let check = |table: Value, request: &[u8], expected: &str, contains: &str, flags: Option<&str>| {
        let mut sim = with_app(mesh_with(2, client(&[(ResourceKind::Route, table)]), &Inbound::default()));
        let text = call(&mut sim, request);
        assert_eq!(status(&text), expected, "{text}");
        assert!(text.contains(contains), "{text}");
        let log = lines(&sim.log(0));
        assert_eq!(log[0]["response_flags"], flags.unwrap_or("-"), "{log:?}");
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
    let marked = |mut route: Value| {
        route["response_headers_to_add"] = json!([{"header": {"key": "x-mark", "value": "here"}}]);
        one(route)
    };
    check(
        marked(json!({"match": {"prefix": "/"}, "redirect": {"host_redirect": "new.example"}})),
        &get("/", ""),
        "301",
        "x-mark: here",
        None,
    );
    let nowhere = json!({"match": {"prefix": "/"}, "route": {"cluster": "BlackHoleCluster"}});
    check(marked(nowhere), &get("/", ""), "503", "x-mark: here", Some("UH"));
    let tea = json!({"match": {"prefix": "/"}, "direct_response": {"status": 503, "body": {"inline_string": "no tea"}}});
    let grpc = get("/", "content-type: application/grpc\r\n");
    check(one(tea), &grpc, "200", "grpc-message: no tea", None);
    let mut sim = with_app(mesh_with(
        2,
        client(&[(
            ResourceKind::Route,
            one(json!({"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_bytes": "/wD+gA=="}}})),
        )]),
        &Inbound::default(),
    ));
    let raw = sim.connect(0, TO);
    sim.send(raw, &get("/", ""));
    sim.run();
    assert!(sim.received(raw).ends_with(b"\r\n\r\n\xff\x00\xfe\x80"));
    let rewrite = json!({"match": {"prefix": "/old/"}, "route": {"cluster": CLUSTER, "prefix_rewrite": "/new/", "host_rewrite_literal": "h.example"},
        "request_headers_to_add": [{"header": {"key": "x-added", "value": "yes"}}], "response_headers_to_remove": ["x-app"], "request_headers_to_remove": ["x-gone"]});
    let request = get("/old/a", "x-gone: 1\r\n");
    check(one(rewrite.clone()), &request, "200", "/new/a", None);
    check(one(rewrite.clone()), &request, "200", "h.example", None);
    check(one(rewrite.clone()), &request, "200", "x-added", None);
    check(one(rewrite.clone()), &request, "200", "\"x-envoy-original-path\": \"/old/a\"", None);
    let mut sim = with_app(mesh_with(2, client(&[(ResourceKind::Route, one(rewrite))]), &Inbound::default()));
    let text = call(&mut sim, &request);
    assert!(!text.contains("x-gone") && !text.contains("x-app"), "{text}");
    let mut sim = with_app(mesh(1, &Inbound::default()));
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
        assert_eq!(log[0]["response_flags"], flags.unwrap_or("-"), "{log:?}");
        assert_clean(&mut sim);
        assert_eq!(sim.snapshot(0).guards, 2 - 1, "only the kept connection's");
    };
    check(json!({"retry_on": "5xx", "num_retries": 2}), 2, "200", 3, None);
    check(json!({"retry_on": "5xx", "num_retries": 1}), 2, "503", 2, Some("URX"));
    check(json!({"retry_on": "connect-failure,refused-stream", "num_retries": 2}), 1, "503", 1, None);
    check(json!({"retry_on": "retriable-status-codes", "retriable_status_codes": [503], "num_retries": 2}), 1, "200", 2, None);
}

/// With one request in flight.
#[test]
fn retry_budgets() {
    for (limits, expected, flags) in [
        (json!({"max_retries": 0}), "503", "UO"),
        (json!({"max_retries": 1}), "200", "-"),
        // A budget takes the number's place; it is a fifth by default, but three always.
        (json!({"max_retries": 0, "retry_budget": {}}), "200", "-"),
        (json!({"max_retries": 9, "retry_budget": {"min_retry_concurrency": 0}}), "503", "UO"),
        (json!({"retry_budget": {"budget_percent": {"value": 99.9}, "min_retry_concurrency": 0}}), "503", "UO"),
        (json!({"retry_budget": {"budget_percent": {"value": 100}, "min_retry_concurrency": 0}}), "200", "-"),
        (json!({"retry_budget": {"budget_percent": {"value": 0}, "min_retry_concurrency": 1}}), "200", "-"),
    ] {
        let limited = cluster(CLUSTER, "reviews", json!({"circuit_breakers": {"thresholds": [limits]}}));
        let retry = json!({"retry_on": "5xx", "num_retries": 1});
        let config = client(&[limited, route("r", json!({"cluster": CLUSTER, "timeout": "0s", "retry_policy": retry}))]);
        let mut sim = mesh_with(2, config, &Inbound::default());
        let mut first = true;
        let serve = app(move |_, _| (Head::response(if std::mem::take(&mut first) { 503 } else { 200 }), Vec::new()));
        sim.serve("10.0.0.2:9080", serve);
        let text = call(&mut sim, &get("/", ""));
        assert_eq!(status(&text), expected, "{limits}");
        let log = lines(&sim.log(0));
        assert_eq!(log[0]["response_flags"], flags, "{limits}: {log:?}");
        assert_clean(&mut sim);
    }
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

/// Nobody listens at the first priority's endpoint: after so many tries, what goes on is tried at the second one's.
#[test]
fn other_priorities_are_tried() {
    for (frequency, expected, tries) in [(None, "503", 3), (Some(1), "200", 2), (Some(2), "200", 3), (Some(3), "503", 3)] {
        let (kind, mut hosts) = assignment(CLUSTER, &["10.0.0.3:9080"], true);
        let mut second = assignment(CLUSTER, &["10.0.0.2:9080"], true).1["endpoints"][0].take();
        second["priority"] = 1.into();
        hosts["endpoints"].as_array_mut().unwrap().push(second);
        let mut retry = json!({"retry_on": "connect-failure", "num_retries": 2});
        if let Some(frequency) = frequency {
            let of = "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
            retry["retry_priority"] = json!({"name": "p", "typed_config": {"@type": of, "update_frequency": frequency}});
        }
        let config = client(&[(kind, hosts), route("r", json!({"cluster": CLUSTER, "timeout": "0s", "retry_policy": retry}))]);
        let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
        assert_eq!(status(&call(&mut sim, &get("/", ""))), expected, "{frequency:?}");
        let first = |d: &&crate::Target| matches!(d, crate::Target::Tcp(a) if a.ip().to_string() == "10.0.0.3");
        assert_eq!(sim.dials.iter().filter(first).count(), tries - usize::from(expected == "200"), "{frequency:?}");
        assert_clean(&mut sim);
    }
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

#[test]
fn the_time_for_an_answer_begins_with_the_end_of_the_request() {
    let retry = json!({"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "1s"});
    for (action, attempts) in
        [(json!({"cluster": CLUSTER, "timeout": "1s"}), 1), (json!({"cluster": CLUSTER, "timeout": "0s", "retry_policy": retry}), 2)]
    {
        let mut sim = mesh_with(2, client(&[route("r", action)]), &Inbound::default());
        sim.serve("10.0.0.2:9080", Box::new(|_, _, eof, _| eof));
        let c = sim.connect(0, TO);
        sim.send(c, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab");
        sim.run_for(Duration::from_secs(5));
        assert!(sim.received(c).is_empty() && sim.ended(c).is_none(), "the upload may take its time");
        sim.send(c, b"c");
        sim.run_for(Duration::from_millis(900));
        assert!(sim.received(c).is_empty());
        sim.run_for(Duration::from_millis(1300));
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(c))), "504");
        assert_eq!(lines(&sim.log(0))[0]["attempts"], json!(attempts));
    }
}

#[test]
fn what_was_sent_is_repeated_at_most_once_and_only_if_it_changes_nothing() {
    let retry = json!({"retry_on": "connect-failure", "num_retries": 2});
    for (method, retry, expected) in
        [("GET", Some(&retry), 2), ("GET", None, 1), ("DELETE", Some(&retry), 1), ("PUT", Some(&retry), 1), ("POST", Some(&retry), 1)]
    {
        let mut action = json!({"cluster": CLUSTER, "timeout": "0s"});
        if let Some(retry) = retry {
            action["retry_policy"] = retry.clone();
        }
        let config = client(&[assignment(CLUSTER, &["10.0.0.9:80"], false), route("r", action)]);
        let mut sim = mesh_with(2, config, &Inbound::default());
        // Answers what is asked for first on a connection, and ends it at the next request, which has been read.
        let seen = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = seen.clone();
        let mut conns = std::collections::HashSet::new();
        let serve = move |conn: u64, input: &mut Vec<u8>, eof: bool, out: &mut Vec<u8>| {
            if input.is_empty() {
                return eof;
            }
            let first = input.starts_with(b"GET /first");
            input.clear();
            if !first {
                counted.set(counted.get() + 1);
                return true;
            }
            conns.insert(conn);
            out.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            false
        };
        sim.serve("10.0.0.9:80", Box::new(serve));
        // Several connections are kept.
        let clients: Vec<usize> = (0..4).map(|_| sim.connect(0, TO)).collect();
        for c in &clients {
            sim.send(*c, &get("/first", ""));
        }
        sim.run();
        let text = call(&mut sim, format!("{method} /second HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        assert_eq!((status(&text), seen.get()), ("503", expected), "{method} {text}");
    }
}

#[test]
fn what_waits_in_order_gets_its_connection() {
    let mut one = http_options("h1");
    one["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["common_http_protocol_options"] =
        json!({"max_requests_per_connection": 1});
    one["circuit_breakers"] = json!({"thresholds": [{"max_connections": 1, "max_pending_requests": 1}]});
    let config = client(&[cluster(CLUSTER, "reviews", one), assignment(CLUSTER, &["10.0.0.9:80"], false)]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    sim.serve("10.0.0.9:80", echo_app());
    let clients = [sim.connect(0, TO), sim.connect(0, TO), sim.connect(0, TO)];
    for c in clients {
        sim.send(c, &get("/", ""));
    }
    sim.run();
    let mut statuses: Vec<String> = clients.iter().map(|c| status(&String::from_utf8_lossy(&sim.received(*c))).to_owned()).collect();
    statuses.sort();
    assert_eq!(statuses, ["200", "200", "503"], "one is served, one waits for its turn, one is too many");
    assert_eq!(sim.dials.len(), 2);
}

#[test]
fn requests_that_do_not_come() {
    let check = |field: Option<&str>, request: &[u8], expected: &str| {
        let mut slow = hcm(false, json!("9080"), &[]);
        if let Some(field) = field {
            slow["typed_config"][field] = "2s".into();
        }
        let after = Duration::from_secs(if field.is_some() { 2 } else { 60 });
        let config = client(&[listener(
            "0.0.0.0_9080",
            "0.0.0.0",
            9080,
            "OUTBOUND",
            json!({"bind_to_port": false, "filter_chains": [{"filters": [slow]}]}),
        )]);
        let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
        let c = sim.connect(0, TO);
        sim.send(c, request);
        sim.run_for(after - Duration::from_millis(100));
        assert!(sim.received(c).is_empty() && sim.ended(c).is_none());
        sim.run_for(Duration::from_millis(200));
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(c))), expected);
        assert!(!expected.is_empty() || sim.ended(c).is_some(), "without an answer the connection ends");
        sim.finish(c);
        sim.run_for(Duration::from_secs(10));
        assert_clean_but_connections(&mut sim);
    };
    check(Some("request_timeout"), b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", "408");
    check(Some("request_headers_timeout"), b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ", "");
    check(None, b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ", "");
}

#[test]
fn tls_without_an_inspector() {
    let (kind, mut value) = inbound(&Inbound::default());
    value["listener_filters"] = json!([]);
    for chain in value["filter_chains"].as_array_mut().unwrap() {
        chain["filter_chain_match"].as_object_mut().unwrap().remove("transport_protocol");
    }
    let server = put(&server_config(&Inbound::default()), &[(kind, value)]);
    let mut sim = with_app(mesh(2, &Inbound::default()));
    sim.command(1, Command::Config(server));
    sim.split = 100;
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    let tcp = sim.connect(0, "10.96.0.2:6379");
    sim.send(tcp, b"hello");
    sim.run();
    assert_eq!(sim.received(tcp), b"hello");
}
