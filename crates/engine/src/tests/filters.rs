//! Filters that answer, wait and ask.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::ResourceKind;
use mizzen_protos::envoy::{envoy::service::auth::v3 as auth, google::rpc};
use prost::Message;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::{Call, CallAnswer, Command, sim::Sim};

/// A mesh whose client's proxy has these filters, with more resources beside.
fn with_filters(filters: &[Value], more: &[(ResourceKind, Value)]) -> Sim {
    with_app(mesh_with(3, client(&resources(filters, more)), &Inbound::default()))
}

fn resources(filters: &[Value], more: &[(ResourceKind, Value)]) -> Vec<(ResourceKind, Value)> {
    let chains = json!({"bind_to_port": false, "filter_chains": [{"filters": [hcm(false, json!("9080"), filters)]}]});
    let mut all = vec![listener("0.0.0.0_9080", "0.0.0.0", 9080, "OUTBOUND", chains)];
    all.extend_from_slice(more);
    all
}

fn filter(name: &str, config: Value) -> Value {
    let mut config = config;
    let message = match name {
        "fault" => "HTTPFault",
        "local_ratelimit" => "LocalRateLimit",
        _ => "ExtAuthz",
    };
    config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{name}.v3.{message}").into();
    json!({"name": name, "typed_config": config})
}

/// Routes by prefix, each with what it says of filters.
fn overrides(routes_of: &[(&str, Value)]) -> (ResourceKind, Value) {
    let route = |(prefix, overrides): &(&str, Value)| json!({"name": prefix, "match": {"prefix": prefix}, "route": {"cluster": CLUSTER}, "typed_per_filter_config": overrides});
    let all: Vec<Value> = routes_of.iter().map(route).collect();
    (ResourceKind::Route, routes("9080", json!(all)))
}

fn authz_cluster(h2: bool) -> (ResourceKind, Value) {
    let endpoint = json!({"endpoint": {"address": {"socket_address": {"address": "10.0.0.8", "port_value": 9000}}}});
    let mut value = json!({"name": "authz", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "authz", "endpoints": [{"lb_endpoints": [endpoint]}]}});
    for (key, field) in http_options(if h2 { "h2" } else { "h1" }).as_object().unwrap() {
        value[key] = field.clone();
    }
    (ResourceKind::Cluster, value)
}

fn http_authz(more: Value) -> Value {
    let mut config = json!({"http_service": {
        "server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "0.1s"}, "path_prefix": "/check",
        "authorization_response": {"allowed_upstream_headers": {"patterns": [{"exact": "x-user"}]}, "allowed_client_headers": {"patterns": [{"exact": "x-why"}]}},
    }});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    filter("ext_authz", config)
}

fn last_line(sim: &mut Sim) -> Value {
    lines(&sim.log(0)).pop().unwrap_or_default()
}

#[test]
fn faults() {
    let abort = json!({"abort": {"http_status": 418, "percentage": {"numerator": 100}}});
    let none = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
    let mut other = filter("fault", json!({"abort": {"grpc_status": 14, "percentage": {"numerator": 100}}}))["typed_config"].take();
    let never = filter("fault", json!({"abort": {"http_status": 418, "percentage": {"numerator": 0}}}))["typed_config"].take();
    let table = overrides(&[
        ("/off", json!({"fault": none})),
        ("/other", json!({"fault": other.take()})),
        ("/never", json!({"fault": never})),
        ("/", json!({})),
    ]);
    let mut sim = with_filters(&[filter("fault", abort)], &[table]);
    for (path, expected) in [("/", "418"), ("/off", "200"), ("/other", "503"), ("/never", "200")] {
        let text = call(&mut sim, &get(path, ""));
        assert_eq!(status(&text), expected, "{path}: {text}");
        assert_eq!(last_line(&mut sim)["response_flags"], if expected == "200" { "-" } else { "FI" }, "{path}");
        assert_eq!(text.ends_with("fault filter abort"), expected != "200", "{path}");
    }
    assert_clean(&mut sim);
}

#[test]
fn faults_by_header_and_share() {
    let by_header =
        json!({"abort": {"header_abort": {}, "percentage": {"numerator": 100}}, "headers": [{"name": "x-test", "present_match": true}]});
    let mut sim = with_filters(&[filter("fault", by_header)], &[]);
    for (headers, expected) in [
        ("x-test: 1\r\nx-envoy-fault-abort-request: 429\r\n", "429"),
        ("x-test: 1\r\nx-envoy-fault-abort-request: 999\r\n", "200"),
        ("x-test: 1\r\nx-envoy-fault-abort-request: 429\r\nx-envoy-fault-abort-request-percentage: 0\r\n", "200"),
        ("x-test: 1\r\n", "200"),
        ("x-envoy-fault-abort-request: 429\r\n", "200"),
    ] {
        assert_eq!(status(&call(&mut sim, &get("/", headers))), expected, "{headers}");
    }
    let half = json!({"abort": {"http_status": 418, "percentage": {"numerator": 500_000, "denominator": "MILLION"}}});
    let mut sim = with_filters(&[filter("fault", half)], &[]);
    let hit = (0..200).filter(|_| status(&call(&mut sim, &get("/", ""))) == "418").count();
    assert!((60..140).contains(&hit), "{hit} of 200");
}

#[test]
fn delays() {
    let delay = json!({"delay": {"fixed_delay": "5s", "percentage": {"numerator": 100}}, "max_active_faults": 1});
    let mut sim = with_filters(&[filter("fault", delay)], &[]);
    let first = sim.connect(0, TO);
    sim.send(first, &get("/", ""));
    sim.run_for(Duration::from_millis(4900));
    assert!(sim.received(first).is_empty());
    let second = call(&mut sim, &get("/", ""));
    assert_eq!(status(&second), "200", "one at a time is delayed: {second}");
    sim.run_for(Duration::from_millis(200));
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(first))), "200");
    assert_eq!(last_line(&mut sim)["response_flags"], "DI");
    // A client that leaves gives its place back.
    let third = sim.connect(0, TO);
    sim.send(third, &get("/", ""));
    sim.run_for(Duration::from_millis(100));
    sim.abort(third);
    sim.abort(first);
    sim.run();
    assert!(call(&mut sim, &get("/", "")).is_empty(), "this one is delayed");
    assert_clean(&mut sim);
}

#[test]
fn rates() {
    let limit = |more: Value| {
        let all = json!({"default_value": {"numerator": 100}});
        let mut config = json!({"stat_prefix": "x", "token_bucket": {"max_tokens": 2, "fill_interval": "60s"}, "filter_enabled": all, "filter_enforced": all,
            "response_headers_to_add": [{"header": {"key": "x-limited", "value": "yes"}}]});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        filter("local_ratelimit", config)
    };
    let filters = [limit(json!({}))];
    let base = client(&resources(&filters, &[]));
    let mut sim = with_app(mesh_with(3, base.clone(), &Inbound::default()));
    let codes = |sim: &mut Sim, n: usize| -> Vec<String> { (0..n).map(|_| status(&call(sim, &get("/", ""))).to_owned()).collect() };
    assert_eq!(codes(&mut sim, 3), ["200", "200", "429"]);
    let text = call(&mut sim, &get("/", ""));
    assert!(text.contains("x-limited: yes") && text.ends_with("local_rate_limited"), "{text}");
    let line = last_line(&mut sim);
    assert_eq!((&line["response_flags"], &line["response_code_details"]), (&json!("RL"), &json!("local_rate_limited")));
    sim.command(0, Command::Config(put(&base, &[route("renamed", json!({"cluster": CLUSTER}))])));
    assert_eq!(codes(&mut sim, 1), ["429"], "another change leaves the bucket as it is");
    sim.run_for(Duration::from_secs(61));
    assert_eq!(codes(&mut sim, 2), ["200", "429"]);
    let not_enforced = limit(json!({"filter_enforced": {"default_value": {"numerator": 0}},
        "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-over", "value": "yes"}}]}));
    let mut sim = with_filters(&[not_enforced], &[]);
    assert_eq!(codes(&mut sim, 2), ["200", "200"]);
    let text = call(&mut sim, &get("/", ""));
    assert!(status(&text) == "200" && text.contains("x-over"), "{text}");
    assert_clean(&mut sim);
}

#[test]
fn asking_over_http() {
    let check = |more: Value, answer: Option<u16>, expected: &str, contains: &str, details: &str| {
        let mut sim = with_filters(&[http_authz(more.clone())], &[authz_cluster(false)]);
        let asked: Rc<RefCell<Vec<Head>>> = Rc::default();
        let seen = asked.clone();
        if let Some(status) = answer {
            let serve = app(move |head, _| {
                seen.borrow_mut().push(head.clone());
                let mut response = Head::response(status);
                for (name, value) in [("x-user", "ann"), ("x-why", "because"), ("content-length", "2")] {
                    response.set(name, value);
                }
                (response, b"no".to_vec())
            });
            sim.serve("10.0.0.8:9000", serve);
        }
        let text = call(&mut sim, &get("/a?b=c", "authorization: token\r\nx-user: forged\r\nx-other: 1\r\n"));
        assert_eq!(status(&text), expected, "{more} {answer:?}: {text}");
        assert!(text.contains(contains), "{more} {answer:?}: {text}");
        let line = last_line(&mut sim);
        assert_eq!(line["response_code_details"], details, "{more} {answer:?}");
        assert_eq!(line["response_flags"] == "UAEX", expected != "200", "{line}");
        let asked = asked.borrow();
        assert_eq!(asked.len(), usize::from(answer.is_some()));
        for head in asked.iter() {
            let sent = (head.method(), head.path(), head.authority(), head.get_str("authorization"), head.get_str("x-other"));
            assert_eq!(sent, ("GET", "/check/a?b=c", "reviews:9080", Some("token"), None));
        }
        assert_clean(&mut sim);
    };
    check(json!({}), Some(200), "200", "\"x-user\": \"ann\"", "via_upstream");
    check(json!({}), Some(401), "401", "x-why: because", "ext_authz_denied");
    check(json!({}), Some(401), "401", "\r\n\r\nno", "ext_authz_denied");
    check(json!({}), Some(503), "403", "", "ext_authz_error");
    check(json!({}), None, "403", "", "ext_authz_error");
    check(json!({"status_on_error": {"code": "ServiceUnavailable"}}), None, "503", "", "ext_authz_error");
    let open = json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true});
    check(open.clone(), None, "200", "x-envoy-auth-failure-mode-allowed", "via_upstream");
    check(open.clone(), Some(500), "200", "x-envoy-auth-failure-mode-allowed", "via_upstream");
    check(open, Some(403), "403", "", "ext_authz_denied");
}

#[test]
fn asking_takes_no_longer_than_it_may() {
    let mut sim = with_filters(&[http_authz(json!({}))], &[authz_cluster(false)]);
    sim.serve("10.0.0.8:9000", Box::new(|_, _, _, _| false));
    let first = sim.connect(0, TO);
    sim.send(first, &get("/", ""));
    sim.run_for(Duration::from_millis(90));
    assert!(sim.received(first).is_empty());
    sim.run_for(Duration::from_millis(20));
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(first))), "403");
    // Whoever leaves meanwhile is asked about no longer.
    let second = sim.connect(0, TO);
    sim.send(second, &get("/", ""));
    sim.run_for(Duration::from_millis(50));
    sim.abort(second);
    sim.abort(first);
    sim.run();
    assert_clean(&mut sim);
}

#[test]
fn bodies_are_sent_along() {
    let check = |h2: bool, most: usize, partial: bool, body: usize, expected: &str, sent: usize| {
        let settings = json!({"with_request_body": {"max_request_bytes": most, "allow_partial_message": partial}});
        let mut sim = with_filters(&[http_authz(settings)], &[authz_cluster(false)]);
        let asked: Rc<RefCell<Vec<(usize, String)>>> = Rc::default();
        let seen = asked.clone();
        let serve = app(move |head, body| {
            let partial = head.get_str("x-envoy-auth-partial-body").unwrap_or_default().to_owned();
            seen.borrow_mut().push((body.len(), partial));
            let mut response = Head::response(200);
            response.set("content-length", "0");
            (response, Vec::new())
        });
        sim.serve("10.0.0.8:9000", serve);
        let context = format!("h2={h2} most={most} partial={partial} body={body}");
        let (code, text) = if h2 {
            let (code, text, _) = h2_calls(&mut sim, &[(Head::request("POST", "http", "reviews:9080", "/"), vec![b'b'; body])]).remove(0);
            (code.to_string(), String::from_utf8_lossy(&text).into_owned())
        } else {
            let mut request = format!("POST / HTTP/1.1\r\nhost: reviews:9080\r\ncontent-length: {body}\r\n\r\n").into_bytes();
            request.extend(std::iter::repeat_n(b'b', body));
            let text = call(&mut sim, &request);
            (status(&text).to_owned(), text)
        };
        assert_eq!(code, expected, "{context}: {text}");
        assert_eq!(text.contains(&format!("body={body}")), expected == "200", "{context}: all of it reaches the server: {text}");
        if expected == "200" {
            let cut = (body > most).to_string();
            assert_eq!(*asked.borrow(), [(sent, cut)], "{context}");
        }
        assert_clean(&mut sim);
    };
    for h2 in [false, true] {
        check(h2, 100, false, 10, "200", 10);
        check(h2, 100, true, 1000, "200", 100);
        check(h2, 100, false, 1000, "413", 0);
        check(h2, 300_000, false, 250_000, "200", 250_000);
    }
}

#[test]
fn asking_over_grpc() {
    let check = |code: i32, response: Option<auth::check_response::HttpResponse>, expected: &str, contains: &str| {
        let authz = filter(
            "ext_authz",
            json!({"grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "1s"}, "transport_api_version": "V3"}),
        );
        let context = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
            "check_settings": {"context_extensions": {"who": "shop"}}});
        let table = overrides(&[("/", json!({"ext_authz": context}))]);
        let mut sim = with_filters(&[authz], &[authz_cluster(true), table]);
        let asked: Rc<RefCell<Vec<auth::CheckRequest>>> = Rc::default();
        let seen = asked.clone();
        let serve = app(move |head, body| {
            assert_eq!(
                (head.path(), head.get_str("content-type")),
                ("/envoy.service.auth.v3.Authorization/Check", Some("application/grpc"))
            );
            seen.borrow_mut().push(auth::CheckRequest::decode(&body[5..]).unwrap());
            let status = rpc::Status { code, ..rpc::Status::default() };
            let message =
                auth::CheckResponse { status: Some(status), dynamic_metadata: None, http_response: response.clone() }.encode_to_vec();
            let mut out = vec![0];
            out.extend((message.len() as u32).to_be_bytes());
            out.extend(message);
            let mut response = Head::response(200);
            response.set("content-type", "application/grpc");
            response.set("grpc-status", "0");
            (response, out)
        });
        sim.serve("10.0.0.8:9000", serve);
        let text = call(&mut sim, &get("/a?b=c", "x-other: 1\r\n"));
        assert_eq!(status(&text), expected, "{text}");
        assert!(text.contains(contains), "{text}");
        let asked = asked.borrow();
        let attributes = asked[0].attributes.clone().unwrap();
        let http = attributes.request.unwrap().http.unwrap();
        assert_eq!((http.method.as_str(), http.path.as_str(), http.host.as_str()), ("GET", "/a?b=c", "reviews:9080"));
        assert_eq!(http.headers.get("x-other").map(String::as_str), Some("1"));
        assert_eq!(attributes.context_extensions.get("who").map(String::as_str), Some("shop"));
        assert_clean(&mut sim);
    };
    let header = |key: &str, value: &str| mizzen_protos::envoy::envoy::config::core::v3::HeaderValueOption {
        header: Some(mizzen_protos::envoy::envoy::config::core::v3::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        ..Default::default()
    };
    check(0, None, "200", "x-other");
    check(7, None, "403", "");
    let ok = auth::OkHttpResponse {
        headers: vec![header("X-User", "ann")],
        headers_to_remove: vec!["x-other".to_owned()],
        response_headers_to_add: vec![header("x-extra", "1")],
        ..Default::default()
    };
    check(0, Some(auth::check_response::HttpResponse::OkResponse(ok.clone())), "200", "\"x-user\": \"ann\"");
    check(0, Some(auth::check_response::HttpResponse::OkResponse(ok)), "200", "x-extra: 1");
    let denied = auth::DeniedHttpResponse { headers: vec![header("x-why", "because")], body: "go away".to_owned(), status: None };
    check(16, Some(auth::check_response::HttpResponse::DeniedResponse(denied)), "403", "x-why: because");
}

#[test]
fn only_what_a_policy_selects_is_asked_about() {
    let shadow = json!({"p": {"permissions": [{"url_path": {"path": {"prefix": "/secret"}}}], "principals": [{"any": true}]}});
    let rbac = json!({"name": "envoy.filters.http.rbac", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "shadow_rules": {"action": "DENY", "policies": shadow}, "shadow_rules_stat_prefix": "istio_ext_authz_"}});
    let selected = json!({"filter_enabled_metadata": {"filter": "envoy.filters.http.rbac", "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
        "value": {"string_match": {"prefix": "p"}}}});
    let mut sim = with_filters(&[rbac, http_authz(selected)], &[authz_cluster(false)]);
    assert_eq!(status(&call(&mut sim, &get("/open", ""))), "200", "nobody is asked");
    assert_eq!(status(&call(&mut sim, &get("/secret", ""))), "403", "nobody answers");
    assert_clean(&mut sim);
}

#[test]
fn open_requests_are_judged_as_their_route_says() {
    let policies = json!({"p": {"permissions": [{"any": true}], "principals": [{"any": true}]}});
    let off = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
    for (of_route, stays) in [(json!({"envoy.filters.http.rbac": off}), true), (json!({}), false)] {
        let base = client(&resources(&[http_rbac("ALLOW", policies.clone())], &[overrides(&[("/", of_route.clone())])]));
        let mut sim = mesh_with(3, base.clone(), &Inbound::default());
        let user = sim.connect(0, TO);
        super::peers::upgrade(&mut sim, user);
        sim.command(0, Command::Config(put(&base, &resources(&[http_rbac("DENY", policies.clone())], &[]))));
        sim.run();
        assert_eq!(sim.ended(user).is_none(), stays, "{of_route}");
        sim.abort(user);
        sim.run();
        assert_clean(&mut sim);
    }
}

#[test]
fn calls_of_the_control_thread() {
    let mut sim = with_filters(&[], &[authz_cluster(false)]);
    sim.serve(
        "10.0.0.8:9000",
        app(|head, body| {
            let mut response = Head::response(200);
            let text = format!("{} {}", head.path(), body.len()).into_bytes();
            response.set("content-length", text.len().to_string());
            (response, text)
        }),
    );
    let ask = |sim: &mut Sim, number: u64, cluster: &str, most: usize| {
        let mut head = Head::request("POST", "http", "authz", "/x");
        head.set("content-length", "3");
        let call = Call { cluster: cluster.into(), head, body: b"abc".to_vec(), timeout: Some(Duration::from_secs(1)), most };
        sim.command(0, Command::Call(number, Box::new(call)));
        sim.run_for(Duration::from_secs(2));
        sim.answers.pop().unwrap()
    };
    let (number, answer) = ask(&mut sim, 7, "authz", 100);
    assert!(
        number == 7 && matches!(&answer, CallAnswer::Answered { head, body, .. } if head.status() == 200 && body == b"/x 3"),
        "{answer:?}"
    );
    let (_, answer) = ask(&mut sim, 8, "authz", 3);
    assert!(matches!(&answer, CallAnswer::Failed(why) if why == "response_too_large"), "{answer:?}");
    let (_, answer) = ask(&mut sim, 9, "nobody", 3);
    assert!(matches!(&answer, CallAnswer::Failed(why) if why == "cluster_not_found"), "{answer:?}");
    sim.serve("10.0.0.8:9000", Box::new(|_, _, _, _| false));
    let (_, answer) = ask(&mut sim, 10, "authz", 3);
    assert!(matches!(&answer, CallAnswer::Failed(why) if why == "response_timeout"), "{answer:?}");
    assert_clean(&mut sim);
}
