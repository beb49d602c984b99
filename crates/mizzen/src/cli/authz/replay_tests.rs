//! Replays of generated logs, and of the policies that are suggested from them.

use super::*;
use crate::cli::{
    authz::{
        record,
        suggest::{Paths, Suggest},
    },
    state::tests::{deployment, snapshot},
};

/// Workloads that are called, and their callers.
const SERVERS: [&str; 3] = ["catalogue", "reviews", "stock"];
const CALLERS: [&str; 4] = ["storefront", "catalogue", "reviews", "visitor"];

fn shop(more: &str) -> Arc<Snapshot> {
    let service = |name: &str, protocol: &str, port: u16| {
        format!(
            "---\n{{kind: Service, apiVersion: v1, metadata: {{name: {name}, namespace: shop}}, spec: {{selector: {{app: {name}}}, ports: [{{name: {protocol}, port: {port}}}]}}}}\n"
        )
    };
    let mut yaml = service("catalogue", "http", 9080) + &service("reviews", "http", 9080) + &service("stock", "tcp", 7070);
    for name in SERVERS.iter().chain(&["storefront", "visitor"]) {
        yaml += &deployment("shop", name, name);
    }
    snapshot(&(yaml + more))
}

/// A call as the generator makes it: number of the server, of the caller (the one after the last calls in plaintext), method, path, and whether it passed.
#[derive(Clone, Debug)]
struct Made {
    server: usize,
    caller: usize,
    method: &'static str,
    path: String,
    passed: bool,
}

impl Made {
    fn line(&self, places: &Places) -> String {
        let server = &places.pods[places.pod("shop", SERVERS[self.server]).expect("the server")];
        let port = if SERVERS[self.server] == "stock" { 7070 } else { 9080 };
        let caller = CALLERS.get(self.caller).map(|name| format!("spiffe://cluster.local/ns/shop/sa/{name}"));
        let details = if self.passed { "via_upstream" } else { "rbac_access_denied_matched_policy[none]" };
        let is_tcp = port == 7070;
        let request = |value: &str| if is_tcp { serde_json::Value::Null } else { value.into() };
        serde_json::json!({
            "method": request(self.method), "path": request(&self.path), "protocol": request("HTTP/1.1"),
            "authority": request(SERVERS[self.server]), "response_code": if is_tcp { 0 } else if self.passed { 200 } else { 403 },
            "response_code_details": if is_tcp { serde_json::Value::Null } else { details.into() },
            "connection_termination_details": if is_tcp && !self.passed { details.into() } else { serde_json::Value::Null },
            "upstream_cluster": format!("inbound|{port}||"),
            "downstream_local_address": format!("{}:{port}", server.ip),
            "downstream_remote_address": format!("203.0.113.{}:{}", self.caller, 10_000 + self.server),
            "downstream_peer_uri_san": caller,
            "requested_server_name": caller.as_ref().map(|_| format!("outbound_.{port}_._.{}.shop.svc.cluster.local", SERVERS[self.server])),
            "request_id": format!("{}-{}", self.server, self.path.len()), "user_agent": "curl", "x_forwarded_for": null,
        })
        .to_string()
    }
}

fn replayed(present: &Arc<Snapshot>, proposed: &Arc<Snapshot>, lines: impl IntoIterator<Item = String>) -> Report {
    let mut replay = Replay::new(present, proposed);
    for text in lines {
        replay.take(&record::line(&text), None);
    }
    replay.finish()
}

const ALLOW: &str = "
---
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/storefront]}}], to: [{operation: {methods: [GET], paths: [/reviews/*]}}]}]
---
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: stock, namespace: shop}
spec:
  selector: {matchLabels: {app: stock}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/catalogue]}}], to: [{operation: {ports: ['7070']}}]}]
";

/// 100,000 records of 3 × 5 × 2 × 50 different calls at most: each is decided once, and every record is counted.
#[test]
fn a_long_log() {
    let (present, proposed) = (shop(""), shop(ALLOW));
    let places = Places::new(&present);
    let mut distinct = std::collections::HashSet::new();
    let (mut refused, mut allowed) = (0, 0);
    let mut seed = 1_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut lines = Vec::new();
    for _ in 0..100_000 {
        let one = Made {
            server: usize::try_from(next(3)).unwrap(),
            caller: usize::try_from(next(5)).unwrap(),
            method: ["GET", "POST"][usize::try_from(next(2)).unwrap()],
            path: format!("/reviews/{}?page={}", next(50), next(1_000)),
            passed: true,
        };
        let server = SERVERS[one.server];
        let path = one.path.split('?').next().unwrap().to_owned();
        let call = if server == "stock" { (one.server, one.caller, "", String::new()) } else { (one.server, one.caller, one.method, path) };
        distinct.insert(call);
        let is_allowed = match server {
            "reviews" => CALLERS.get(one.caller) == Some(&"storefront") && one.method == "GET",
            "stock" => CALLERS.get(one.caller) == Some(&"catalogue"),
            _ => true,
        };
        if is_allowed {
            allowed += 1
        } else {
            refused += 1
        }
        lines.push(one.line(&places));
    }
    let report = replayed(&present, &proposed, lines);
    assert_eq!((report.records, report.still_allowed, report.would_be_refused), (100_000, allowed, refused));
    assert_eq!(report.decisions, distinct.len() as u64);
    assert_eq!(report.changes.iter().map(|change| change.count).sum::<u64>() + report.not_listed, refused);
    assert_eq!(report.code(), LOST);
}

/// More different calls than are remembered: some are decided again, and all are counted.
#[test]
fn more_calls_than_are_remembered() {
    let present = shop("");
    let places = Places::new(&present);
    let one = |n: usize| Made { server: 1, caller: 0, method: "GET", path: format!("/reviews/{n}"), passed: true };
    let mut replay = Replay { most: 100, ..Replay::new(&present, &shop(ALLOW)) };
    for n in 0..110 {
        replay.take(&record::line(&one(n).line(&places)), None);
        assert!(replay.known.len() <= 100);
    }
    replay.take(&record::line(&one(0).line(&places)), None);
    let report = replay.finish();
    assert_eq!((report.still_allowed, report.decisions), (111, 111));
}

fn check(policies: &str, lines: &[String], expected: &[(Kind, &str, &str, &str, &str)], code: u8) {
    let present = shop("");
    let report = replayed(&present, &shop(policies), lines.iter().cloned());
    assert_eq!(report.code(), code, "{report:#?}");
    assert_eq!(report.changes.len(), expected.len(), "{report:#?}");
    for (change, (kind, workload, caller, call, why)) in report.changes.iter().zip(expected) {
        let got = (change.kind, &*change.workload, &*change.caller, &*change.call);
        assert_eq!(got, (*kind, *workload, *caller, *call), "{change:?}");
        assert!(change.why.contains(why), "{change:?}");
    }
}

#[test]
fn what_would_change() {
    let places = Places::new(&shop(""));
    let line = |server, caller, method, path: &str, passed| Made { server, caller, method, path: path.to_owned(), passed }.line(&places);
    let lost = line(1, 3, "GET", "/reviews/1?x=secret", true);
    let gained = line(1, 0, "GET", "/reviews/1", false);
    let same = line(1, 0, "GET", "/reviews/2", true);
    let refused = Kind::WouldBeRefused;
    let why = "nearest is ns[shop]-policy[reviews]-rule[0] (test.yaml:";
    check(ALLOW, std::slice::from_ref(&same), &[], 0);
    check(
        ALLOW,
        &[lost.clone(), gained.clone(), same, lost],
        &[
            (refused, "reviews.shop", "shop/visitor", "GET /reviews/1", why),
            (Kind::WouldBeAllowed, "reviews.shop", "shop/storefront", "GET /reviews/1", ""),
        ],
        LOST,
    );
    check(ALLOW, &[line(2, 3, "", "", true)], &[(refused, "stock.shop", "shop/visitor", "TCP:7070", "no policy allows it")], LOST);
    let strict = "\n---\n{kind: PeerAuthentication, apiVersion: security.istio.io/v1, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: STRICT}}}\n";
    let plain = line(1, 4, "GET", "/", true);
    check(strict, &[plain], &[(refused, "reviews.shop", "plaintext, 203.0.113.4", "GET /", "for plaintext")], LOST);
    check(ALLOW, &[gained], &[(Kind::WouldBeAllowed, "reviews.shop", "shop/storefront", "GET /reviews/1", "")], 0);
}

#[test]
fn what_is_not_recorded_is_unknown() {
    let places = Places::new(&shop(""));
    let header = "
---
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: team, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, rules: [{when: [{key: 'request.headers[x-team]', values: [blue]}]}]}
";
    let one = Made { server: 1, caller: 0, method: "GET", path: "/reviews/1".to_owned(), passed: true }.line(&places);
    let unknown = Kind::UnknownOfAllowed;
    check(header, std::slice::from_ref(&one), &[(unknown, "reviews.shop", "shop/storefront", "GET /reviews/1", "header x-team")], UNKNOWN);
    // An address that nobody has, and no name.
    let lost =
        one.replace("198.18.", "198.51.").replace("outbound_", "other").replace("\"authority\":\"reviews\"", "\"authority\":\"x y\"");
    check(ALLOW, &[lost], &[(unknown, "198.51.0.11:9080", "shop/storefront", "GET /reviews/1", "whose record")], UNKNOWN);
}

/// Istio's line of text names no caller; the pod at the address is taken for it.
#[test]
fn lines_of_text() {
    let present = shop("");
    let places = Places::new(&present);
    let at = |name: &str| places.pods[places.pod("shop", name).unwrap()].ip;
    let line = |remote: std::net::IpAddr| {
        format!(
            "[2026-11-29T10:00:00.000Z] \"GET /reviews/2 HTTP/1.1\" 200 - via_upstream - \"-\" 0 19 0 - \"-\" \"curl/8\" \"1-2\" \"reviews:9080\" \
             \"{0}:9080\" inbound|9080|| - {0}:9080 {remote}:40112 outbound_.9080_._.reviews.shop.svc.cluster.local default",
            at("reviews")
        )
    };
    let proposed = shop(ALLOW);
    let report = replayed(&present, &proposed, [line(at("storefront")), line(at("visitor")), line("203.0.113.1".parse().unwrap())]);
    let counts = (report.still_allowed, report.would_be_refused, report.unknown_of_allowed, report.callers_by_address);
    assert_eq!(counts, (1, 1, 1, 2), "{report:#?}");
    assert!(text(&report).unwrap().contains("2 records name no caller"));
}

/// What is of the client's side, of somebody else, or no record.
#[test]
fn what_is_not_judged() {
    let present = shop("");
    let places = Places::new(&present);
    let one = Made { server: 1, caller: 0, method: "GET", path: "/reviews/1".to_owned(), passed: true }.line(&places);
    let client = one.replace("inbound|9080||", "outbound|9080||reviews.shop.svc.cluster.local");
    let token = one.replace("via_upstream", "jwt_authn_access_denied{Jwt_is_missing}");
    let report = replayed(&present, &shop(ALLOW), [client, token, one[..40].to_owned(), "starting".to_owned()]);
    assert_eq!(report.skipped, Skipped { client_side: 1, refused_before: 1, other_lines: 1, damaged: 1 });
    assert_eq!(report.code(), 0);
    let said = text(&report).unwrap();
    assert!(said.contains("         1  damaged\n") && said.contains("         0  still allowed\n"), "{said}");
}

fn suggested(present: &Arc<Snapshot>, paths: Paths, lines: &[String]) -> String {
    let mut suggest = Suggest::new(present, paths, None);
    for text in lines {
        suggest.take(&record::line(text), None).expect("few paths");
    }
    suggest.yaml(true)
}

#[test]
fn a_suggestion() {
    let present = shop("");
    let places = Places::new(&present);
    let line = |server, caller, method, path: &str, passed| Made { server, caller, method, path: path.to_owned(), passed }.line(&places);
    let lines = [
        line(1, 0, "GET", "/reviews/1?x=1", true),
        line(1, 0, "GET", "/reviews/2", true),
        line(1, 0, "HEAD", "/health", true),
        line(1, 3, "GET", "/admin", false),
        line(2, 1, "", "", true),
    ];
    let head = "# What was seen to be called is allowed, and no more. Made from 5 records; read it before you apply it.
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: \"reviews-seen\"
  namespace: \"shop\"
spec:
  selector:
    matchLabels:
      \"app\": \"reviews\"
      \"at\": \"reviews\"
  action: ALLOW
  rules:
  - from:
    - source:
        principals: [\"cluster.local/ns/shop/sa/storefront\"]
    to:
";
    let exact = suggested(&present, Paths::Exact, &lines);
    assert!(exact.starts_with(head), "{exact}");
    let get = "    - operation:\n        methods: [\"GET\"]\n        paths:\n        - \"/reviews/1\"\n        - \"/reviews/2\"\n";
    assert!(exact.contains(get) && !exact.contains("admin") && exact.contains("        ports: [\"7070\"]\n"), "{exact}");
    let prefix = suggested(&present, Paths::Prefix, &lines);
    assert!(prefix.contains("        - \"/reviews/*\"\n") && prefix.contains("        - \"/health\"\n"), "{prefix}");
    let none = suggested(&present, Paths::None, &lines);
    assert!(none.contains("        methods: [\"GET\", \"HEAD\"]\n") && !none.contains("paths"), "{none}");
    assert!(none.ends_with("  name: allow-nothing\n  namespace: \"shop\"\nspec: {}\n"), "{none}");
}

/// Whatever was allowed is allowed by what is suggested from it, and what nobody did is not.
#[test]
fn a_suggestion_allows_what_was_seen() {
    use proptest::prelude::*;
    let present = shop("");
    let places = Places::new(&present);
    let path = prop_oneof![
        "/[a-c]{1,2}(/[a-c0-9]{0,2}){0,3}",
        "(/[a-z.%{}*;:?#é-]{0,6}){1,3}",
        Just("/a/../b".to_owned()),
        Just("//x".to_owned()),
        Just("/%2e%2E/a%2fb".to_owned()),
        Just("*".to_owned()),
    ];
    let call = (0..3usize, 0..5usize, prop_oneof![Just("GET"), Just("POST"), Just("OPTIONS")], path, proptest::bool::weighted(0.8));
    let made = call.prop_map(|(server, caller, method, path, passed)| Made { server, caller, method, path, passed });
    let paths = prop_oneof![Just(Paths::Exact), Just(Paths::Prefix), Just(Paths::None)];
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(calls in proptest::collection::vec(made, 1..30), paths in paths)| {
        let lines: Vec<String> = calls.iter().map(|call| call.line(&places)).collect();
        // A proxy lets no request through that it does not take at all: such records do not exist.
        let taken: Vec<String> = lines.into_iter().filter(|line| replayed(&present, &present, [line.clone()]).would_be_refused == 0).collect();
        let yaml = suggested(&present, paths, &taken);
        prop_assume!(!yaml.is_empty());
        let proposed = shop(&yaml);
        let report = replayed(&present, &proposed, taken.clone());
        prop_assert_eq!(report.code(), 0, "{}\n{:#?}", yaml, report);
        let nobody = Made { server: 0, caller: 0, method: "DELETE", path: "/never".to_owned(), passed: true };
        prop_assert_eq!(replayed(&present, &proposed, [nobody.line(&places)]).would_be_refused, 1);
    });
}
