//! Paths, retries, timeouts, templates.

use std::time::Duration;

use mizzen_http::Head;
use serde_json::{Value, json};

use super::{request, routes};
use crate::config::{Action, EscapedSlashes, Forward, PathOptions};
use crate::{Outcome, PathOutcome, normalize_path, request_timeout, should_retry};

#[test]
fn normalized_paths() {
    let all = PathOptions { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Forward };
    let only = PathOptions { normalize: true, ..PathOptions::default() };
    let escaped = |escaped_slashes| PathOptions { escaped_slashes, ..PathOptions::default() };
    let changed = |p: &str| PathOutcome::Changed(p.to_owned());
    for (path, options, expected) in [
        ("/a/b", only, PathOutcome::Keep),
        ("/a/../b", only, changed("/b")),
        ("/a/%2e%2E/b?x=/../", only, changed("/b?x=/../")),
        ("/../../b", only, changed("/b")),
        ("/a/b/..", only, changed("/a/")),
        ("/a/.", only, changed("/a/")),
        ("/%61dmin", only, changed("/admin")),
        ("/a%2fb", only, changed("/a%2Fb")),
        ("/a\\..\\b", only, changed("/b")),
        ("/a//b", only, PathOutcome::Keep),
        ("/a//../b", only, changed("/a/b")),
        ("/a%00b", only, PathOutcome::Reject),
        ("/100%", only, PathOutcome::Keep),
        ("/%zz%", only, PathOutcome::Keep),
        ("/\u{e9}/../x", only, changed("/x")),
        // What is decoded beside a stray `%` never makes another escape.
        ("/public/%%%332e%%%332e/admin", only, changed("/public/%%2532e%%2532e/admin")),
        ("/%%36%31dmin", only, changed("/%2561dmin")),
        ("/admin%%300x", only, changed("/admin%2500x")),
        ("/%%30%30", only, changed("/%2500")),
        ("/%4%31", only, changed("/%2541")),
        ("/x%%32fadmin", all, changed("/x%252fadmin")),
        ("/%%332e%2e", only, changed("/%2532e.")),
        // One path has one spelling.
        ("/caf\u{e9}", only, changed("/caf%C3%A9")),
        ("/caf%c3%a9", only, changed("/caf%C3%A9")),
        ("/caf%C3%A9", only, PathOutcome::Keep),
        ("/q\"x", only, changed("/q%22x")),
        ("/{a}|^`<>[1]?\u{e9}\"%2e", only, changed("/%7Ba%7D%7C%5E%60%3C%3E%5B1%5D?\u{e9}\"%2e")),
        ("/a!$&'()*+,;=:@b", only, PathOutcome::Keep),
        ("/a%21%40", only, PathOutcome::Keep),
        ("*", only, PathOutcome::Keep),
        ("", only, PathOutcome::Keep),
        ("/a//b///c", all, changed("/a/b/c")),
        ("/a%2F..%5cb", all, changed("/b")),
        ("/a%2Fb", escaped(EscapedSlashes::Reject), PathOutcome::Reject),
        ("/a%2Fb?c", escaped(EscapedSlashes::Redirect), PathOutcome::Redirect("/a/b?c".to_owned())),
        ("/a%2Fb?%2f", escaped(EscapedSlashes::Forward), changed("/a/b?%2f")),
        ("/a/../b", PathOptions::default(), PathOutcome::Keep),
    ] {
        assert_eq!(normalize_path(path, &options), expected, "{path}");
    }
}

fn forward(action: Value) -> Forward {
    let mut route = json!({"cluster": "c"});
    route.as_object_mut().unwrap().extend(action.as_object().unwrap().clone());
    let config = routes(&json!({"name": "r", "virtualHosts": [
        {"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]}));
    match &config.hosts[0].routes[0].action {
        Action::Forward(f) => (**f).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn retries() {
    let response = |status: u16, grpc: &str| {
        let mut head = Head::response(status);
        if !grpc.is_empty() {
            head.append("grpc-status", grpc);
        }
        head
    };
    let istio = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    let (bad, gateway, conflict, grpc) = (response(500, ""), response(503, ""), response(409, ""), response(200, "14"));
    for (on, outcome, expected) in [
        (istio, Outcome::ConnectFailure, true),
        (istio, Outcome::Refused, true),
        (istio, Outcome::Reset { sent: false }, false),
        (istio, Outcome::Response(&gateway), true),
        (istio, Outcome::Response(&bad), false),
        (istio, Outcome::Response(&grpc), true),
        ("reset-before-request", Outcome::Reset { sent: false }, true),
        ("reset-before-request", Outcome::Reset { sent: true }, false),
        ("reset-before-request", Outcome::ConnectFailure, true),
        ("5xx", Outcome::Response(&bad), true),
        ("5xx", Outcome::Reset { sent: true }, true),
        ("5xx", Outcome::PerTryTimeout, true),
        ("gateway-error", Outcome::Response(&bad), false),
        ("gateway-error", Outcome::Response(&gateway), true),
        ("retriable-4xx", Outcome::Response(&conflict), true),
        ("nonsense", Outcome::Response(&gateway), false),
    ] {
        let policy = forward(json!({"retryPolicy": {"retryOn": on, "retriableStatusCodes": [503]}})).retry.unwrap();
        assert_eq!(should_retry(&policy, &request("GET h/"), &outcome), expected, "{on}: {outcome:?}");
    }
    let policy = forward(
        json!({"retryPolicy": {"retryOn": "5xx", "retriableRequestHeaders": [{"name": ":method", "stringMatch": {"exact": "GET"}}]}}),
    );
    assert!(!should_retry(&policy.retry.unwrap(), &request("POST h/"), &Outcome::ConnectFailure));
}

#[test]
fn timeouts() {
    let grpc = |timeout: &str| {
        format!(
            "POST h/\ncontent-type: application/grpc{}",
            if timeout.is_empty() { String::new() } else { format!("\ngrpc-timeout: {timeout}") }
        )
    };
    for (action, lines, millis) in [
        (json!({}), "GET h/".to_owned(), Some(15_000)),
        (json!({"timeout": "0s"}), "GET h/".to_owned(), None),
        (json!({"timeout": "3s"}), "GET h/".to_owned(), Some(3_000)),
        (json!({"timeout": "3s"}), grpc("1S"), Some(3_000)),
        (json!({"timeout": "3s", "maxGrpcTimeout": "3s"}), grpc("1S"), Some(1_000)),
        (json!({"timeout": "3s", "maxGrpcTimeout": "3s"}), grpc("1M"), Some(3_000)),
        (json!({"timeout": "3s", "maxGrpcTimeout": "3s"}), grpc(""), Some(3_000)),
        (json!({"timeout": "0s", "maxGrpcTimeout": "0s"}), grpc("250m"), Some(250)),
        (json!({"timeout": "0s", "maxGrpcTimeout": "0s"}), grpc(""), None),
        (json!({"timeout": "0s", "maxGrpcTimeout": "0s"}), grpc("123456789S"), None),
        (json!({"maxGrpcTimeout": "0s", "grpcTimeoutOffset": "0.1s"}), grpc("1S"), Some(900)),
    ] {
        assert_eq!(request_timeout(&forward(action.clone()), &request(&lines)), millis.map(Duration::from_millis), "{action} {lines}");
    }
}
