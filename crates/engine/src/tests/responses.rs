//! Filters on the way back: what they change, wait for and answer.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::sim::Sim;

fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{name}.v3.{message}").into();
    json!({"name": name, "typed_config": config})
}

/// A mesh whose client's proxy has these filters and this route, towards servers that speak `protocol`.
fn with_filters(protocol: &str, filters: &[Value], route: Value, more: &[(ResourceKind, Value)]) -> Sim {
    let chains = json!({"bind_to_port": false, "filter_chains": [{"filters": [hcm(false, json!("9080"), filters)]}]});
    let mut all = vec![
        listener("0.0.0.0_9080", "0.0.0.0", 9080, "OUTBOUND", chains),
        cluster(CLUSTER, "reviews", http_options(protocol)),
        (ResourceKind::Route, route),
    ];
    all.extend_from_slice(more);
    with_app(mesh_with(3, client(&all), &Inbound::default()))
}

fn default_route() -> Value {
    routes("9080", json!([{"name": "default", "match": {"prefix": "/"}, "route": {"cluster": CLUSTER, "timeout": "5s"}}]))
}

/// The service is a server outside the mesh.
fn plain_server() -> [(ResourceKind, Value); 1] {
    [assignment(CLUSTER, &["10.0.0.9:80"], false)]
}

fn set(name: &str, value: &str) -> Value {
    json!({"append": {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}})
}

/// A server of gRPC whose answer has this body, and trailers.
fn grpc_app(sim: &mut Sim, size: usize) -> Rc<RefCell<Vec<String>>> {
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let kept = seen.clone();
    let app = app(move |head, _| {
        kept.borrow_mut().push(format!("{head:?}"));
        let mut response = Head::response(200);
        response.set("content-type", "application/grpc");
        response.set("x-trailers", "1");
        (response, vec![b'm'; size])
    });
    sim.serve("10.0.0.2:9080", app);
    seen
}

fn grpc_request() -> Vec<u8> {
    b"POST /shop.Ratings/Get HTTP/1.1\r\nhost: reviews:9080\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0"
        .to_vec()
}

#[test]
fn changes_of_headers_and_trailers() {
    let own = json!({"mutations": {
        "request_mutations": [set("x-one", "%REQ(:PATH)%"), {"remove": "x-gone"}],
        "response_mutations": [set("x-two", "%RESP(x-app)%-%REQ(x-one)%"), set("server", "never"), {"remove": "x-envoy-upstream-service-time"}],
    }});
    let mut sim = with_filters("h1", &[filter("header_mutation", "HeaderMutation", own)], default_route(), &[]);
    let text = call(&mut sim, &get("/a", "x-gone: 1\r\n"));
    assert_eq!(status(&text), "200");
    assert!(text.contains("\"x-one\": \"/a\"") && !text.contains("x-gone"), "{text}");
    assert!(text.contains("x-two: 1-/a\r\n") && !text.contains("x-envoy-upstream-service-time"), "{text}");
    // The connection manager has the last word.
    assert!(text.contains("server: istio-envoy\r\n"), "{text}");
    assert_clean(&mut sim);
}

#[test]
fn changes_of_trailers() {
    let own = json!({"mutations": {
        "response_trailers_mutations": [set("x-end", "%REQ(:PATH)%"), set("grpc-status", "7")], "request_trailers_mutations": [set("x-sum", "2")]}});
    let mut sim = with_filters("h2", &[filter("header_mutation", "HeaderMutation", own)], default_route(), &[]);
    grpc_app(&mut sim, 100_000);
    sim.split = 700;
    let mut head = Head::request("POST", "http", "reviews:9080", "/shop.Ratings/Get");
    head.set("content-type", "application/grpc");
    let answers = h2_calls(&mut sim, &[(head, b"\0\0\0\0\0".to_vec())]);
    let trailers = answers[0].2.as_ref().unwrap();
    assert_eq!((answers[0].0, answers[0].1.len()), (200, 100_000));
    assert_eq!((trailers.get_str("x-end"), trailers.get_str("grpc-status")), (Some("/shop.Ratings/Get"), Some("7")));
    assert_clean(&mut sim);
}

#[test]
fn trailers_of_requests() {
    let own = json!({"mutations": {"request_trailers_mutations": [set("x-sum", "2")]}});
    let mut sim = with_filters("h1", &[filter("header_mutation", "HeaderMutation", own)], default_route(), &plain_server());
    let seen: Rc<RefCell<Vec<u8>>> = Rc::default();
    let kept = seen.clone();
    sim.serve(
        "10.0.0.9:80",
        Box::new(move |_, input, eof, out| {
            kept.borrow_mut().append(input);
            if kept.borrow().ends_with(b"\r\n0\r\nx-sum: 2\r\n\r\n") {
                out.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
            eof
        }),
    );
    let text = call(&mut sim, b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(status(&text), "200", "{}", String::from_utf8_lossy(&seen.borrow()));
}

#[test]
fn changes_of_all_levels() {
    let per_route = |value: &str| {
        let mutations = json!({"response_mutations": [set("x-level", value), set(&format!("x-{value}"), "1")]});
        json!({"header_mutation": {"@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute", "mutations": mutations}})
    };
    for (wins, level) in [(false, "table"), (true, "route")] {
        let mut table = default_route();
        table["typed_per_filter_config"] = per_route("table");
        table["virtual_hosts"][0]["typed_per_filter_config"] = per_route("host");
        table["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"] = per_route("route");
        let own = json!({"mutations": {"response_mutations": [set("x-level", "own")]}, "most_specific_header_mutations_wins": wins});
        let mut sim = with_filters("h1", &[filter("header_mutation", "HeaderMutation", own)], table, &[]);
        let text = call(&mut sim, &get("/", ""));
        assert!(text.contains(&format!("x-level: {level}\r\n")), "{text}");
        assert!(["table", "host", "route"].iter().all(|level| text.contains(&format!("x-{level}: 1\r\n"))), "{text}");
    }
}

#[test]
fn answers_made_here_pass_the_filters() {
    let own = json!({"mutations": {"response_mutations": [set("x-two", "%RESPONSE_CODE%")]}});
    let abort = filter("fault", "HTTPFault", json!({"abort": {"http_status": 418, "percentage": {"numerator": 100}}}));
    let mut sim = with_filters("h1", &[filter("header_mutation", "HeaderMutation", own), abort], default_route(), &[]);
    let text = call(&mut sim, &get("/", ""));
    assert!(status(&text) == "418" && text.contains("x-two: "), "{text}");
    assert_clean(&mut sim);
}

#[test]
fn grpc_for_clients_of_http1() {
    let bridge = || filter("grpc_http1_bridge", "Config", json!({}));
    let mut sim = with_filters("h2", &[bridge()], default_route(), &[]);
    let seen = grpc_app(&mut sim, 300_000);
    sim.split = 900;
    let text = call(&mut sim, &grpc_request());
    assert_eq!(status(&text), "503", "a status that is not 0");
    assert!(text.contains("grpc-status: 5\r\n") && text.contains("content-length: 300000\r\n"), "{}", text.get(..400).unwrap_or(&text));
    assert!(!text.contains("transfer-encoding"), "the length says where it ends");
    assert_eq!(text.len() - text.find("\r\n\r\n").unwrap() - 4, 300_000);
    // What is no gRPC, or can read trailers, is left alone.
    let text = call(&mut sim, b"POST / HTTP/1.1\r\nhost: reviews:9080\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(status(&text), "200");
    let mut head = Head::request("POST", "http", "reviews:9080", "/");
    head.set("content-type", "application/grpc");
    let answers = h2_calls(&mut sim, &[(head, b"\0\0\0\0\0".to_vec())]);
    assert_eq!((answers[0].0, answers[0].2.is_some()), (200, true));
    assert_eq!(seen.borrow().len(), 3);
    assert_clean(&mut sim);

    let mut sim = with_filters("h1", &[bridge()], default_route(), &[]);
    grpc_app(&mut sim, (1 << 20) + 1);
    let text = call(&mut sim, &grpc_request());
    assert_eq!(status(&text), "200", "an error of gRPC's is one in the head: {}", text.get(..300).unwrap_or(&text));
    assert!(text.contains("grpc-status: 2\r\n") && text.contains("grpc-message: Internal Server Error"), "{text}");
    assert_eq!(lines(&sim.log(0))[0]["response_code_details"], "response_payload_too_large");
    assert_clean(&mut sim);
}

/// A server whose answer never ends, while a filter waits for its end.
#[test]
fn what_ends_while_a_filter_waits() {
    let check = |what: &str, act: &dyn Fn(&mut Sim, usize), expected: &str, details: &str| {
        let mut sim = with_filters("h1", &[filter("grpc_http1_bridge", "Config", json!({}))], default_route(), &plain_server());
        sim.serve(
            "10.0.0.9:80",
            Box::new(|_, input, eof, out| {
                if !std::mem::take(input).is_empty() {
                    out.extend(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
                }
                eof
            }),
        );
        let client = sim.connect(0, TO);
        sim.send(client, &grpc_request());
        sim.run_for(Duration::from_millis(100));
        assert!(sim.received(client).is_empty(), "{what}: it is kept");
        act(&mut sim, client);
        let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
        assert_eq!(status(&text), expected, "{what}: {text}");
        let log = lines(&sim.log(0));
        assert_eq!((log.len(), &log[0]["response_code_details"]), (1, &json!(details)), "{what}");
        assert!(!text.contains("abc"), "{what}");
        sim.abort(client);
        sim.run();
        assert_clean_but_connections(&mut sim);
    };
    check("the server dies", &|sim, _| sim.stop("10.0.0.9:80"), "200", "upstream_reset_before_response_started{connection_termination}");
    check("the route's time is over", &|sim, _| sim.run_for(Duration::from_secs(6)), "200", "response_timeout");
    check(
        "the client leaves",
        &|sim, client| (sim.abort(client), sim.run_for(Duration::from_millis(1))).1,
        "",
        "downstream_remote_disconnect",
    );
}

#[test]
fn slow_responses() {
    let fault = |limit: Value, more: Value| {
        let mut config = json!({"response_rate_limit": {"percentage": {"numerator": 100}}});
        for (key, value) in limit.as_object().unwrap() {
            config["response_rate_limit"][key] = value.clone();
        }
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        filter("fault", "HTTPFault", config)
    };
    let body = |sim: &mut Sim, client: usize, text: &mut String| {
        text.push_str(&String::from_utf8_lossy(&sim.received(client)));
        text.find("\r\n\r\n").map_or(0, |head| text.len() - head - 4)
    };
    for (protocol, limit, headers) in [
        ("h1", json!({"fixed_limit": {"limit_kbps": 100}}), ""),
        ("h2", json!({"fixed_limit": {"limit_kbps": 100}}), ""),
        ("h2", json!({"header_limit": {}}), "x-envoy-fault-throughput-response: 100\r\n"),
    ] {
        let mut sim = with_filters(protocol, &[fault(limit, json!({"max_active_faults": 1}))], default_route(), &[]);
        grpc_app(&mut sim, 300_000);
        let client = sim.connect(0, TO);
        sim.send(client, &get("/", headers));
        let mut text = String::new();
        for tenths in [1, 5, 10] {
            sim.run_for(Duration::from_millis(if tenths == 1 { 100 } else { 500 - if tenths == 5 { 100 } else { 0 } }));
            let came = body(&mut sim, client, &mut text);
            // A slice more or less, and the framing of chunks.
            assert!((tenths * 10_240 - 6_000..tenths * 10_240 + 7_000).contains(&came), "{protocol}: {came} after {tenths}00 ms");
        }
        // Others are not slowed down: there is one fault at a time.
        let other = call(&mut sim, &get("/", headers));
        assert!(other.len() > 300_000, "{}", other.len());
        sim.run_for(Duration::from_secs(3));
        assert!(body(&mut sim, client, &mut text) >= 300_000, "{protocol}");
        sim.abort(client);
        sim.run();
        assert_clean(&mut sim);
    }
    // Without the header there is no bound, nor with a share of none.
    for headers in ["", "x-envoy-fault-throughput-response: 100\r\nx-envoy-fault-throughput-response-percentage: 0\r\n"] {
        let mut sim = with_filters("h1", &[fault(json!({"header_limit": {}}), json!({}))], default_route(), &[]);
        grpc_app(&mut sim, 300_000);
        assert!(call(&mut sim, &get("/", headers)).len() > 300_000, "{headers}");
    }
}
