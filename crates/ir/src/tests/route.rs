//! Which route a request gets, and what it does to it.

use serde_json::{Value, json};

use super::{request, routes};
use crate::config::{Action, Command, HeaderSource};
use crate::{RequestFacts, Trace, Values, apply_headers, find_route, pick_cluster, redirect_location, rewrite_path};

fn to(cluster: &str) -> Value {
    json!({"cluster": cluster})
}

/// Requests and the cluster (or status) that each gets, `host/route` otherwise `none`.
fn check(config: &Value, cases: &[(&str, &str)]) {
    let config = routes(config);
    for (lines, expected) in cases {
        let head = request(lines);
        let mut notes = Vec::new();
        let facts = RequestFacts { head: &head, secure: false, metadata: None };
        let found = find_route(&config, &facts, 0, &mut Trace::to(&mut notes));
        let got = match found.map(|f| &f.route.action) {
            None => "none".to_owned(),
            Some(Action::Forward(f)) => pick_cluster(f, &head, 0, &mut Trace::off()).map_or("?".to_owned(), |p| p.cluster.to_string()),
            Some(Action::Redirect(r)) => r.status.to_string(),
            Some(Action::Direct(d)) => d.status.to_string(),
        };
        assert_eq!(got, *expected, "{lines}\n{notes:#?}");
    }
}

#[test]
fn hosts() {
    let host =
        |name: &str, domains: &[&str]| json!({"name": name, "domains": domains, "routes": [{"match": {"prefix": "/"}, "route": to(name)}]});
    let mut config = json!({"name": "80", "ignorePortInHostMatching": true, "virtualHosts": [
        host("exact", &["a.example.com", "10.96.0.1"]), host("suffix", &["*.example.com"]), host("longer", &["*.b.example.com"]),
        host("prefix", &["shop.*"]), host("any", &["*"])]});
    check(
        &config,
        &[
            ("GET a.example.com/", "exact"),
            ("GET A.Example.COM:8080/", "exact"),
            ("GET 10.96.0.1:80/", "exact"),
            ("GET x.example.com/", "suffix"),
            ("GET x.b.example.com/", "longer"),
            ("GET .example.com/", "any"),
            ("GET example.com/", "any"),
            ("GET shop.de/", "prefix"),
            ("GET shop./", "any"),
            ("GET [::1]:80/", "any"),
        ],
    );
    config["ignorePortInHostMatching"] = json!(false);
    config["virtualHosts"].as_array_mut().unwrap().pop();
    check(&config, &[("GET a.example.com/", "exact"), ("GET a.example.com:80/", "none"), ("GET x/", "none")]);
}

/// What the trace of a step says.
#[test]
fn reasons() {
    let made_from = |config: &str| json!({"filterMetadata": {"istio": {"config": config}}});
    let many: Vec<String> = (0..10).map(|n| format!("{n}.example")).collect();
    let config = json!({"name": "80", "virtualHosts": [{"name": "h", "domains": many, "routes": [
        {"name": "a", "match": {"path": "/a"}, "route": to("a"), "metadata": made_from("/apis/x/reviews")},
        {"name": "b", "match": {"prefix": "/"}, "route": to("b")}]}]});
    let says = |lines: &str| {
        let (config, head, mut notes) = (routes(&config), request(lines), Vec::new());
        find_route(&config, &RequestFacts { head: &head, secure: false, metadata: None }, 0, &mut Trace::to(&mut notes));
        notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let host = |n: u8| format!("+ virtual host `h` by domain `{n}.example` for `{n}.example`");
    assert_eq!(says("GET 0.example/a"), [host(0), "  + route `a` of /apis/x/reviews".to_owned()]);
    let not_a = "  - route `a` of /apis/x/reviews: path is `/a` (it is `/b`)".to_owned();
    assert_eq!(says("GET 1.example/b"), [host(1), not_a, "  + route `b`".to_owned()]);
    let shown: Vec<String> = (0..8).map(|n| format!("`{n}.example`")).collect();
    assert_eq!(says("GET x/"), [format!("- no virtual host of `80` is for `x`, but for {} and 2 more", shown.join(", "))]);
}

fn one_host(routes: Value) -> Value {
    json!({"name": "80", "virtualHosts": [{"name": "h", "domains": ["*"], "routes": routes}]})
}

#[test]
fn paths() {
    let config = one_host(json!([
        {"match": {"path": "/exact"}, "route": to("exact")},
        {"match": {"path": "/Case", "caseSensitive": false}, "route": to("anycase")},
        {"match": {"pathSeparatedPrefix": "/seg"}, "route": to("segments")},
        {"match": {"safeRegex": {"regex": r"/v\d+/\Qa.b\E"}}, "route": to("regex")},
        {"match": {"prefix": "/pre"}, "route": to("prefix")},
        {"match": {"safeRegex": {"regex": "/a|/b"}}, "route": to("or")},
        {"match": {"prefix": "/gone"}, "directResponse": {"status": 410}},
        {"match": {"prefix": "/moved"}, "redirect": {"pathRedirect": "/x"}},
    ]));
    check(
        &config,
        &[
            ("GET h/exact", "exact"),
            ("GET h/exact?q=1", "exact"),
            ("GET h/exact/", "none"),
            ("GET h/cASE", "anycase"),
            ("GET h/seg", "segments"),
            ("GET h/seg/x", "segments"),
            ("GET h/segx", "none"),
            ("GET h/v12/a.b", "regex"),
            ("GET h/v12/aXb", "none"),
            // RE2's \d is ASCII only.
            ("GET h/v\u{664}/a.b", "none"),
            ("GET h/prefixed", "prefix"),
            ("GET h/b", "or"),
            ("GET h/bc", "none"),
            ("GET h/gone", "410"),
            ("GET h/moved", "301"),
            ("CONNECT h", "none"),
        ],
    );
}

#[test]
fn headers_and_parameters() {
    let exact = |v: &str| json!({"exact": v});
    let config = one_host(json!([
        {"match": {"prefix": "/", "headers": [{"name": "X-User", "stringMatch": exact("tester")}]}, "route": to("user")},
        {"match": {"prefix": "/", "headers": [{"name": ":method", "stringMatch": exact("POST")}]}, "route": to("post")},
        {"match": {"prefix": "/", "headers": [{"name": "n", "rangeMatch": {"start": -5, "end": 10}}]}, "route": to("number")},
        {"match": {"prefix": "/", "headers": [{"name": "i", "stringMatch": {"prefix": "AB", "ignoreCase": true}}]}, "route": to("prefix")},
        {"match": {"prefix": "/", "headers": [{"name": "host", "stringMatch": {"suffix": ".org"}}]}, "route": to("org")},
        {"match": {"prefix": "/", "grpc": {}}, "route": to("grpc")},
        {"match": {"prefix": "/", "queryParameters": [{"name": "q", "stringMatch": {"contains": "bc"}}]}, "route": to("param")},
        {"match": {"prefix": "/", "queryParameters": [{"name": "flag"}]}, "route": to("flag")},
        {"match": {"prefix": "/w", "headers": [
            {"name": "without", "stringMatch": exact("v"), "invertMatch": true, "treatMissingHeaderAsEmpty": true}]}, "route": to("without")},
        {"match": {"prefix": "/i", "headers": [{"name": "without", "stringMatch": exact("v"), "invertMatch": true}]}, "route": to("inverted")},
        {"match": {"prefix": "/p", "headers": [{"name": "p", "presentMatch": true}]}, "route": to("present")},
        {"match": {"prefix": "/p", "headers": [{"name": "q", "presentMatch": true, "invertMatch": true}]}, "route": to("absent")},
        {"match": {"prefix": "/"}, "route": to("rest")},
    ]));
    check(
        &config,
        &[
            ("GET h/\nx-user: tester", "user"),
            ("GET h/\nx-user: a\nx-user: tester", "rest"),
            ("POST h/", "post"),
            ("GET h/\nn: -5", "number"),
            ("GET h/\nn: 10", "rest"),
            ("GET h/\nn: 1x", "rest"),
            ("GET h/\ni: abc", "prefix"),
            ("GET a.org/", "org"),
            ("POST h/\ncontent-type: application/grpc", "post"),
            ("GET h/\ncontent-type: application/grpc+proto", "grpc"),
            ("GET h/\ncontent-type: application/grpc-web", "rest"),
            ("GET h/?a=1&q=abcd", "param"),
            ("GET h/?a=1&q=b&q=bc", "rest"),
            ("GET h/?flag", "flag"),
            ("GET h/w", "without"),
            ("GET h/w\nwithout: u", "without"),
            ("GET h/w\nwithout: v", "rest"),
            // Absent is neither equal nor unequal.
            ("GET h/i", "rest"),
            ("GET h/i\nwithout: u", "inverted"),
            ("GET h/p\np: 1", "present"),
            ("GET h/p", "absent"),
            ("GET h/p\nq: 1", "rest"),
        ],
    );
}

#[test]
fn shares_and_weights() {
    let config = routes(&one_host(json!([
        {"match": {"prefix": "/", "runtimeFraction": {"defaultValue": {"numerator": 10}}}, "route": to("tenth")},
        {"match": {"prefix": "/"}, "route": {"weightedClusters": {"clusters": [
            {"name": "v1", "weight": 90}, {"name": "none", "weight": 0}, {"name": "v2", "weight": 10}]}}},
    ])));
    let head = request("GET h/");
    let mut counts = std::collections::BTreeMap::new();
    for random in 0..1000u64 {
        let found =
            find_route(&config, &RequestFacts { head: &head, secure: false, metadata: None }, random % 100, &mut Trace::off()).unwrap();
        let Action::Forward(forward) = &found.route.action else { panic!() };
        *counts.entry(pick_cluster(forward, &head, random, &mut Trace::off()).unwrap().cluster.to_string()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("tenth".to_owned(), 100), ("v1".to_owned(), 800), ("v2".to_owned(), 100)]);
}

struct Fixed;

impl Values for Fixed {
    fn value(&self, command: &Command, out: &mut Vec<u8>) -> bool {
        match command {
            Command::DownstreamRemoteAddress { port: false } => {
                out.extend_from_slice(b"10.0.0.9");
                true
            }
            _ => false,
        }
    }
}

fn add(key: &str, value: &str, action: &str) -> Value {
    json!({"header": {"key": key, "value": value}, "appendAction": action})
}

/// Which changes, and the headers that a request with `a: 1` and `b: 2` then has.
fn check_headers(level: [&Value; 3], specific_wins: bool, expected: &str) {
    let config = routes(&json!({
        "name": "r", "mostSpecificHeaderMutationsWins": specific_wins, "requestHeadersToAdd": level[0],
        "virtualHosts": [{"name": "h", "domains": ["*"], "requestHeadersToAdd": level[1], "requestHeadersToRemove": ["b"],
            "routes": [{"match": {"prefix": "/"}, "requestHeadersToAdd": level[2], "route": to("c")}]}],
    }));
    let mut head = request("GET h/\na: 1\nb: 2");
    let facts = head.clone();
    let found = find_route(&config, &RequestFacts { head: &facts, secure: false, metadata: None }, 0, &mut Trace::off()).unwrap();
    let Action::Forward(forward) = &found.route.action else { panic!() };
    let picked = pick_cluster(forward, &facts, 0, &mut Trace::off()).unwrap();
    apply_headers(&picked.headers.request, &mut head, HeaderSource::Request, &Fixed);
    let got: Vec<_> = head.iter().map(|(n, v)| format!("{n}={}", String::from_utf8_lossy(v))).collect();
    assert_eq!(got.join(" "), expected);
}

#[test]
fn header_changes() {
    let none = json!([]);
    let of = |v: &str, action| json!([add("X", v, action)]);
    let (append, over) = ("APPEND_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS_OR_ADD");
    check_headers([&none, &none, &of("%REQ(a)%-%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%-100%%", append)], false, "a=1 x=1-10.0.0.9-100%");
    // The least specific level is applied last, and so wins, unless the other way is asked for.
    check_headers([&of("config", over), &of("host", over), &of("route", over)], false, "a=1 x=config");
    check_headers([&of("config", over), &of("host", over), &of("route", over)], true, "a=1 x=route");
    check_headers([&of("config", append), &of("host", append), &of("route", append)], false, "a=1 x=route x=host x=config");
    check_headers([&none, &none, &json!([add("a", "z", "ADD_IF_ABSENT"), add("c", "z", "ADD_IF_ABSENT")])], false, "a=1 c=z");
    check_headers([&none, &none, &json!([add("a", "z", "OVERWRITE_IF_EXISTS"), add("c", "z", "OVERWRITE_IF_EXISTS")])], false, "a=z");
    // Without a value nothing is written; what breaks a header is not written.
    check_headers([&none, &none, &json!([add("c", "%REQ(nope)%", append), add("d", "a\nb", append)])], false, "a=1");
    check_headers([&none, &none, &json!([add("c", "%REQ(nope?a):0%%REQ(b?a)%", append)])], false, "a=1 c=2");
}

#[test]
fn one_path_by_any_spelling() {
    for matching in [json!({"prefix": "/caf\u{e9}"}), json!({"path": "/caf%C3%A9"}), json!({"pathSeparatedPrefix": "/c%61f%c3%a9"})] {
        let config = one_host(json!([{"match": matching, "route": to("c")}]));
        check(&config, &[("GET h/caf\u{e9}", "c"), ("GET h/caf%c3%A9?x", "c"), ("GET h/%63af%C3%A9", "c"), ("GET h/cafe", "none")]);
    }
    // An expression matches what is there.
    let config = one_host(json!([{"match": {"safeRegex": {"regex": "/caf\u{e9}"}}, "route": to("c")}]));
    check(&config, &[("GET h/caf\u{e9}", "c"), ("GET h/caf%C3%A9", "none")]);
}

#[test]
fn rewrites() {
    for (matching, action, path, expected) in [
        (json!({"prefix": "/api"}), json!({"prefixRewrite": "/"}), "/api/x?q", Some("//x?q")),
        (json!({"prefix": "/api/"}), json!({"prefixRewrite": "/"}), "/api/x?q", Some("/x?q")),
        (json!({"path": "/api"}), json!({"prefixRewrite": "/new"}), "/api?q=/api", Some("/new?q=/api")),
        (json!({"prefix": "/caf\u{e9}/"}), json!({"prefixRewrite": "/"}), "/caf\u{e9}/x?\u{e9}", Some("/x?\u{e9}")),
        (json!({"prefix": "/caf%c3%a9/"}), json!({"prefixRewrite": "/"}), "/caf\u{e9}/x", Some("/x")),
        (json!({"pathSeparatedPrefix": "/a"}), json!({"prefixRewrite": "/b"}), "/a/c", Some("/b/c")),
        (
            json!({"prefix": "/"}),
            json!({"regexRewrite": {"pattern": {"regex": "^/svc/([^/]+)(/.*)$"}, "substitution": r"\2/$/\1"}}),
            "/svc/foo/v1?q",
            Some("/v1/$/foo?q"),
        ),
        (json!({"prefix": "/"}), json!({}), "/x", None),
    ] {
        let mut route = to("c");
        route.as_object_mut().unwrap().extend(action.as_object().unwrap().clone());
        let config = routes(&one_host(json!([{"match": matching, "route": route}])));
        let found = config.hosts[0].routes[0].clone();
        let Action::Forward(forward) = &found.action else { panic!() };
        assert_eq!(rewrite_path(forward, &found.matching, path).as_deref(), expected, "{action} of {path}");
    }
}

#[test]
fn redirects() {
    for (action, authority, secure, expected) in [
        (json!({"httpsRedirect": true}), "a.com:80", false, "https://a.com/p/x?q"),
        (json!({"httpsRedirect": true}), "a.com:8080", false, "https://a.com:8080/p/x?q"),
        (json!({"hostRedirect": "b.com", "stripQuery": true}), "a.com", true, "https://b.com/p/x"),
        (json!({"portRedirect": 8443, "httpsRedirect": true}), "a.com:80", false, "https://a.com:8443/p/x?q"),
        (json!({"pathRedirect": "/new"}), "a.com", false, "http://a.com/new?q"),
        (json!({"pathRedirect": "/new?z"}), "a.com", false, "http://a.com/new?z"),
        (json!({"prefixRewrite": "/other"}), "[::1]:80", false, "http://[::1]:80/other/x?q"),
    ] {
        let config = routes(&one_host(json!([{"match": {"prefix": "/p"}, "redirect": action}])));
        let route = &config.hosts[0].routes[0];
        let Action::Redirect(redirect) = &route.action else { panic!() };
        let head = request(&format!("GET {authority}/p/x?q"));
        assert_eq!(redirect_location(redirect, &route.matching, &head, secure), expected, "{action}");
    }
}

#[test]
fn a_refused_host_is_closed_alone() {
    let host = |name: &str, more: Value| {
        let mut host = json!({"name": name, "domains": [name], "routes": [{"match": {"prefix": "/"}, "route": to(name)}]});
        host.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        host
    };
    let config = json!({"name": "80", "virtualHosts": [
        host("a", json!({})),
        host("b", json!({"cors": {}})),
        host("c", json!({"routes": [{"match": {"prefix": "/"}, "route": to("c")}, {"match": {"connectMatcher": {}}, "route": to("c")}]})),
        host("d", json!({"domains": ["d", "*"]}))]});
    check(&config, &[("GET a/", "a"), ("GET b/x", "503"), ("GET c/", "503"), ("GET d/", "d"), ("GET x/", "d")]);
    let closed = super::compiled(crate::ResourceKind::Route, &config).unwrap().closed;
    let closed: Vec<_> = closed.iter().map(|c| (c.resource.to_string(), c.field.clone())).collect();
    assert_eq!(closed[0], ("80".to_owned(), "virtual_hosts[b].cors".to_owned()), "{closed:?}");
    assert!(closed.len() == 2 && closed[1].1.starts_with("virtual_hosts[c].routes[1].match."), "{closed:?}");
    // Without a domain there is nobody to answer.
    let config = json!({"name": "80", "virtualHosts": [host("a", json!({"domains": []}))]});
    assert!(super::compiled(crate::ResourceKind::Route, &config).is_err());
}
