//! Who may do what.

use std::sync::Arc;

use mizzen_types::Name;
use serde_json::{Value, json};

use super::{listener, one_chain, request, tcp_proxy};
use crate::config::{NetworkFilter, Rbac};
use crate::{Peer, PolicyFacts, Trace, Verdict, authorize, bind, nearest_miss};

fn rbac(rules: &Value) -> Arc<Rbac> {
    let filter = json!({"name": "rbac", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "rules": rules, "statPrefix": "tcp."}});
    let listener = listener(&one_chain(json!([filter, tcp_proxy("c")])));
    match &listener.chains[0].filters.before[0] {
        NetworkFilter::Rbac(filter) => filter.rules.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn peer(uri: &str) -> Peer {
    Peer { uris: [Name::from(uri)].into(), ..Peer::default() }
}

/// `FROM -> TO`, then the request's lines, or none on TCP; and the verdict: `allow`, `deny`, with the policy behind it.
fn check(rules: &Value, cases: &[(&str, &str)]) {
    let rbac = rbac(rules);
    for (case, expected) in cases {
        let (conn, lines) = case.split_once('\n').map_or((*case, None), |(c, l)| (c, Some(l)));
        let (from, to) = conn.split_once(" -> ").unwrap();
        let peer = from.starts_with("spiffe").then(|| peer(from));
        let source = if peer.is_some() { "10.0.0.2" } else { from }.parse().unwrap();
        let head = lines.map(request);
        let remote = head.as_ref().and_then(|h| h.get_str("x-forwarded-for")).map_or(source, |ip| ip.parse().unwrap());
        let facts = PolicyFacts {
            destination: to.parse().unwrap(),
            direct_remote: source,
            remote,
            server_name: None,
            peer: peer.as_ref(),
            request: head.as_ref(),
            metadata: None,
        };
        let mut notes = Vec::new();
        let verdict = authorize(&rbac, &facts, &mut Trace::to(&mut notes));
        let got = match &verdict {
            Verdict::Allowed(p) => format!("allow {}", p.as_deref().unwrap_or_default()),
            Verdict::Denied(p) => format!("deny {}", p.as_deref().unwrap_or_default()),
        };
        assert_eq!(got.trim(), *expected, "{case}: {notes:#?}");
        // What is decided once per connection never changes what is decided for its requests.
        if head.is_some() {
            let bound = bind(&rbac, &PolicyFacts { request: None, remote: source, ..facts });
            assert_eq!(bound.authorize(&rbac, &facts), verdict, "{case}");
        }
    }
}

fn any() -> Value {
    json!([{"any": true}])
}

fn name(exact: &str) -> Value {
    json!({"authenticated": {"principalName": {"exact": exact}}})
}

const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/storefront";

#[test]
fn empty_sets() {
    check(&json!({}), &[("10.0.0.2 -> 10.0.0.1:80", "deny")]);
    check(&json!({"action": "DENY"}), &[("10.0.0.2 -> 10.0.0.1:80", "allow")]);
    check(&json!({"action": "LOG"}), &[("10.0.0.2 -> 10.0.0.1:80", "allow")]);
    check(&json!({"policies": {"p": {"permissions": [], "principals": any()}}}), &[("10.0.0.2 -> 10.0.0.1:80", "deny")]);
    check(&json!({"policies": {"p": {"permissions": any(), "principals": any()}}}), &[("10.0.0.2 -> 10.0.0.1:80", "allow p")]);
}

#[test]
fn a_peer_is_known_by_names_of_one_kind() {
    let allow = |exact: &str| rbac(&json!({"policies": {"p": {"permissions": any(), "principals": [name(exact)]}}}));
    let check = |uris: &[&str], dns: &[&str], known: &str| {
        let names = |list: &[&str]| list.iter().map(|n| Name::from(*n)).collect();
        let peer = Peer { uris: names(uris), dns: names(dns), subject: "CN=c".into(), ..Peer::default() };
        let at = "10.0.0.1:80".parse().unwrap();
        let ip = "10.0.0.2".parse().unwrap();
        let facts = PolicyFacts {
            destination: at,
            direct_remote: ip,
            remote: ip,
            server_name: None,
            peer: Some(&peer),
            request: None,
            metadata: None,
        };
        for name in ["spiffe://a/ns/b/sa/c", "d", "CN=c"] {
            let allowed = matches!(authorize(&allow(name), &facts, &mut Trace::off()), Verdict::Allowed(_));
            assert_eq!(allowed, name == known, "{name} of {uris:?} {dns:?}");
        }
    };
    check(&["spiffe://a/ns/b/sa/c"], &["d"], "spiffe://a/ns/b/sa/c");
    check(&[], &["d"], "d");
    check(&[], &[], "CN=c");
}

#[test]
fn istio_allow() {
    let method = json!({"orRules": {"rules": [{"header": {"name": ":method", "stringMatch": {"exact": "GET"}}}]}});
    let path = json!({"orRules": {"rules": [{"urlPath": {"path": {"prefix": "/reviews/"}}}]}});
    let tenant = json!({"orIds": {"ids": [{"header": {"name": "x-tenant", "stringMatch": {"exact": "blue"}}}]}});
    check(
        &json!({"policies": {"p": {
            "permissions": [{"andRules": {"rules": [method, path]}}],
            "principals": [{"andIds": {"ids": [{"orIds": {"ids": [name(FRONT)]}}, tenant]}}]}}}),
        &[
            (&format!("{FRONT} -> 10.0.0.1:9080\nGET h/reviews/1?x\nx-tenant: blue"), "allow p"),
            (&format!("{FRONT} -> 10.0.0.1:9080\nPOST h/reviews/1\nx-tenant: blue"), "deny"),
            (&format!("{FRONT} -> 10.0.0.1:9080\nGET h/reviews\nx-tenant: blue"), "deny"),
            (&format!("{FRONT} -> 10.0.0.1:9080\nGET h/reviews/1"), "deny"),
            ("spiffe://cluster.local/ns/shop/sa/other -> 10.0.0.1:9080\nGET h/reviews/1\nx-tenant: blue", "deny"),
            // Who has no certificate is nobody.
            ("10.0.0.2 -> 10.0.0.1:9080\nGET h/reviews/1\nx-tenant: blue", "deny"),
            // On TCP there is no request.
            (&format!("{FRONT} -> 10.0.0.1:9080"), "deny"),
        ],
    );
}

#[test]
fn deny_and_not() {
    let not_shop = json!([{"notId": {"filterState": {"key": "io.istio.peer_principal", "stringMatch": {
        "safeRegex": {"regex": ".*/ns/shop/.*"}}}}}]);
    check(
        &json!({"action": "DENY", "policies": {
            "admin": {"permissions": [{"urlPath": {"path": {"prefix": "/admin"}}}], "principals": any()},
            "outside": {"permissions": any(), "principals": not_shop}}}),
        &[
            (&format!("{FRONT} -> 10.0.0.1:80\nGET h/"), "allow"),
            (&format!("{FRONT} -> 10.0.0.1:80\nGET h/admin"), "deny admin"),
            ("spiffe://cluster.local/ns/bank/sa/x -> 10.0.0.1:80\nGET h/", "deny outside"),
            // No certificate: not of the shop.
            ("10.0.0.2 -> 10.0.0.1:80\nGET h/", "deny outside"),
            ("10.0.0.2 -> 10.0.0.1:80", "deny outside"),
        ],
    );
}

#[test]
fn addresses_and_ports() {
    let block = |address: &str, length: u32| json!({"addressPrefix": address, "prefixLen": length});
    check(
        &json!({"policies": {
            "direct": {"permissions": [{"destinationPort": 80}], "principals": [{"directRemoteIp": block("10.0.0.0", 8)}]},
            "range": {"permissions": [{"destinationPortRange": {"start": 90, "end": 92}}], "principals": any()},
            "remote": {"permissions": [{"destinationPort": 81}], "principals": [{"remoteIp": block("203.0.113.0", 24)}]},
            "to": {"permissions": [{"destinationIp": block("10.1.0.0", 16)}], "principals": any()}}}),
        &[
            ("10.0.0.2 -> 10.0.0.1:80", "allow direct"),
            ("11.0.0.2 -> 10.0.0.1:80", "deny"),
            ("1.1.1.1 -> 10.0.0.1:90", "allow range"),
            ("1.1.1.1 -> 10.0.0.1:91", "allow range"),
            ("1.1.1.1 -> 10.0.0.1:92", "deny"),
            ("1.1.1.1 -> 10.0.0.1:81\nGET h/\nx-forwarded-for: 203.0.113.9", "allow remote"),
            ("1.1.1.1 -> 10.0.0.1:81\nGET h/", "deny"),
            ("1.1.1.1 -> 10.1.0.1:1", "allow to"),
        ],
    );
}

#[test]
fn nearest() {
    let policy = |who: &str, path: &str| {
        json!({"permissions": [{"andRules": {"rules": [
                {"header": {"name": ":method", "stringMatch": {"exact": "GET"}}}, {"urlPath": {"path": {"exact": path}}}]}}],
            "principals": [name(who)]})
    };
    let rbac = rbac(&json!({"policies": {"far": policy("spiffe://x/ns/a/sa/b", "/a"), "near": policy(FRONT, "/b")}}));
    let (peer, head) = (peer(FRONT), request("POST h/b"));
    let facts = PolicyFacts {
        destination: "10.0.0.1:80".parse().unwrap(),
        direct_remote: "10.0.0.2".parse().unwrap(),
        remote: "10.0.0.2".parse().unwrap(),
        server_name: None,
        peer: Some(&peer),
        request: Some(&head),
        metadata: None,
    };
    let miss = nearest_miss(&rbac, &facts).unwrap();
    assert_eq!(&*miss.policy, "near");
    assert_eq!(miss.lacking, ["header :method is \"GET\" (it is \"POST\")"]);
    let miss = nearest_miss(&rbac, &PolicyFacts { peer: None, ..facts }).unwrap();
    assert_eq!(miss.lacking.len(), 2, "{miss:?}");
}

#[test]
fn one_path_by_any_spelling() {
    let path = |test: Value| json!([{"urlPath": {"path": test}}]);
    let of = |action: &str, test: Value| json!({"action": action, "policies": {"p": {"permissions": path(test), "principals": any()}}});
    for (test, targets) in [
        (json!({"exact": "/caf\u{e9}"}), ["/caf\u{e9}", "/caf%C3%A9", "/caf%c3%a9?x", "/c%61f%C3%A9"]),
        (json!({"exact": "/caf%c3%a9"}), ["/caf\u{e9}", "/caf%C3%A9", "/caf%c3%a9?x", "/%63af%C3%A9"]),
        (json!({"prefix": "/q%22"}), ["/q\"", "/q%22x", "/q\"x/y", "/%71%22"]),
        (json!({"suffix": "{a}"}), ["/{a}", "/%7Ba%7D", "/%7ba%7d", "/x/{a%7d"]),
        (json!({"contains": "|"}), ["/|", "/%7c", "/a%7Cb", "/a|b"]),
        (json!({"exact": "/CAF\u{e9}", "ignoreCase": true}), ["/caf\u{e9}", "/Caf%C3%A9", "/caf%c3%a9?x", "/c%41f%C3%A9"]),
        (json!({"safeRegex": {"regex": "/caf%C3%A9.*"}}), ["/caf%C3%A9", "/caf%C3%A9?x", "/caf%C3%A9/", "/caf%C3%A9x"]),
    ] {
        for target in targets {
            let case = format!("10.0.0.2 -> 10.0.0.1:80\nGET h{target}");
            check(&of("DENY", test.clone()), &[(&case, "deny p")]);
            check(&of("ALLOW", test.clone()), &[(&case, "allow p")]);
        }
        check(&of("DENY", test), &[("10.0.0.2 -> 10.0.0.1:80\nGET h/cafe", "allow")]);
    }
}

/// CVE-2026-26308: who adds another line of a header neither leaves a policy that refuses nor enters one that allows.
#[test]
fn several_lines_of_a_header() {
    let of = |action: &str, wanted: &str, not: bool| {
        let header = json!({"header": {"name": "x-role", "stringMatch": {"exact": wanted}}});
        let principal = if not { json!({"notId": header}) } else { header };
        json!({"action": action, "policies": {"p": {"permissions": any(), "principals": [principal]}}})
    };
    let (one, two) = ("10.0.0.2 -> 10.0.0.1:80\nGET h/\nx-role: user", "10.0.0.2 -> 10.0.0.1:80\nGET h/\nx-role: user\nx-role: admin");
    let joined = "10.0.0.2 -> 10.0.0.1:80\nGET h/\nx-role: user,admin";
    check(&of("DENY", "admin", false), &[(one, "allow"), (two, "deny p"), (joined, "allow")]);
    check(&of("DENY", "user,admin", false), &[(one, "allow"), (two, "deny p"), (joined, "deny p")]);
    check(&of("ALLOW", "user", false), &[(one, "allow p"), (two, "deny"), (joined, "deny")]);
    check(&of("DENY", "user", true), &[(one, "allow"), (two, "deny p"), (joined, "deny p")]);
    check(&of("ALLOW", "admin", true), &[(one, "allow p"), (two, "deny"), (joined, "allow p")]);
}

#[test]
fn templates_of_a_path() {
    let template = |path: &str| {
        json!([{"uriTemplate": {"name": "t", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "pathTemplate": path}}}])
    };
    check(
        &json!({"action": "DENY", "policies": {"p": {"permissions": template("/users/*/keys/**"), "principals": any()}}}),
        &[
            ("10.0.0.2 -> 10.0.0.1:80\nGET h/users/a/keys/b?c", "deny p"),
            ("10.0.0.2 -> 10.0.0.1:80\nGET h/users/caf\u{e9}/keys/b/c", "deny p"),
            ("10.0.0.2 -> 10.0.0.1:80\nGET h/%75sers/*/keys/", "deny p"),
            ("10.0.0.2 -> 10.0.0.1:80\nGET h/users/keys/b", "allow"),
            ("10.0.0.2 -> 10.0.0.1:80", "allow"),
        ],
    );
}

#[test]
fn metadata() {
    let at = |path: &[&str], value: Value| {
        let path: Vec<Value> = path.iter().map(|key| json!({"key": key})).collect();
        json!({"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value})
    };
    let text = |text: &str| json!({"stringMatch": {"exact": text}});
    let either = |one: Value| json!({"orMatch": {"valueMatchers": [one, {"listMatch": {"oneOf": one}}]}});
    let payload: mizzen_protos::wkt::Struct = {
        use mizzen_protos::wkt::{ListValue, Struct, Value, value::Kind};
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let within =
            |fields: Vec<(&str, Value)>| Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() };
        let nested = |fields| Value { kind: Some(Kind::StructValue(within(fields))) };
        let list = |values| Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let claims = vec![
            ("iss", text("i")),
            ("aud", list(vec![text("a"), text("b")])),
            ("realm", nested(vec![("roles", list(vec![text("x")])), ("name", text("r"))])),
        ];
        within(vec![("payload", nested(claims))])
    };
    let check = |principal: Value, left: bool, expected: bool| {
        let rbac = rbac(&json!({"policies": {"p": {"permissions": any(), "principals": [principal.clone()]}}}));
        let mut metadata = crate::Metadata::default();
        if left {
            metadata.merge("envoy.filters.http.jwt_authn", payload.clone());
        }
        let head = request("GET h/");
        let facts = PolicyFacts {
            destination: "10.0.0.1:80".parse().unwrap(),
            direct_remote: "10.0.0.2".parse().unwrap(),
            remote: "10.0.0.2".parse().unwrap(),
            server_name: None,
            peer: None,
            request: Some(&head),
            metadata: Some(&metadata),
        };
        let allowed = matches!(authorize(&rbac, &facts, &mut Trace::off()), Verdict::Allowed(_));
        assert_eq!(allowed, expected, "{principal} {left}");
        assert_eq!(bind(&rbac, &facts).authorize(&rbac, &facts), authorize(&rbac, &facts, &mut Trace::off()));
    };
    for (path, value, expected) in [
        (&["payload", "iss"][..], text("i"), true),
        (&["payload", "iss"], text("j"), false),
        (&["payload", "iss"], either(text("i")), true),
        (&["payload", "aud"], text("a"), false),
        (&["payload", "aud"], either(text("b")), true),
        (&["payload", "aud"], either(text("c")), false),
        (&["payload", "realm", "roles"], either(text("x")), true),
        (&["payload", "realm", "name"], either(text("r")), true),
        (&["payload", "realm"], either(text("r")), false),
        (&["payload", "realm", "none"], either(text("r")), false),
    ] {
        let plain = json!({"metadata": at(path, value.clone())});
        check(plain.clone(), true, expected);
        check(json!({"sourcedMetadata": {"metadataMatcher": at(path, value)}}), true, expected);
        check(plain.clone(), false, false);
        check(json!({"notId": plain}), false, true);
    }
}

/// A set of so many policies: each allows one account one path; and every tenth a namespace, every seventh a host.
fn many(n: usize) -> Arc<Rbac> {
    let policy = |i: usize| {
        let path = json!({"urlPath": {"path": {"exact": format!("/p{i}")}}});
        let permission = match i % 7 {
            0 => json!({"header": {"name": ":authority", "stringMatch": {"exact": format!("H{i}"), "ignoreCase": true}}}),
            _ => json!({"orRules": {"rules": [path, {"urlPath": {"path": {"exact": format!("/q{i}")}}}]}}),
        };
        let namespace = json!({"authenticated": {"principalName": {"safeRegex": {"regex": format!(".*/ns/n-{i}/.*")}}}});
        let principal = if i.is_multiple_of(10) { namespace } else { name(&format!("spiffe://cluster.local/ns/shop/sa/a{i}")) };
        json!({"permissions": [{"andRules": {"rules": [permission]}}], "principals": [{"andIds": {"ids": [{"orIds": {"ids": [principal]}}]}}]})
    };
    let policies: serde_json::Map<String, Value> = (0..n).map(|i| (format!("p{i:05}"), policy(i))).collect();
    rbac(&json!({"policies": policies}))
}

/// What a decision costs does not depend on how many policies there are, for a request that one allows and for one that none does.
#[test]
fn the_number_of_policies_does_not_matter() {
    let cost = |n: usize, uri: &str, lines: &str, expected: &str| {
        let rbac = many(n);
        let (peer, head) = (peer(uri), request(lines));
        let facts = PolicyFacts {
            destination: "10.0.0.1:80".parse().unwrap(),
            direct_remote: "10.0.0.2".parse().unwrap(),
            remote: "10.0.0.2".parse().unwrap(),
            server_name: None,
            peer: Some(&peer),
            request: Some(&head),
            metadata: None,
        };
        let count = |f: &dyn Fn() -> Verdict| {
            let before = crate::steps::evaluated();
            let verdict = f();
            (verdict, crate::steps::evaluated() - before)
        };
        let bound = bind(&rbac, &facts);
        let binding = count(&|| {
            bind(&rbac, &facts);
            Verdict::Allowed(None)
        });
        let all = [count(&|| bound.authorize(&rbac, &facts)), count(&|| authorize(&rbac, &facts, &mut Trace::off()))];
        let traced = authorize(&rbac, &facts, &mut Trace::to(&mut Vec::new()));
        for (verdict, _) in &all {
            assert_eq!(*verdict, traced, "{n} {uri} {lines}");
        }
        let wanted = if expected == "none" { Verdict::Denied(None) } else { Verdict::Allowed(Some(expected.into())) };
        assert_eq!(traced, wanted, "{n} {uri} {lines}");
        (binding.1, all[0].1, all[1].1)
    };
    for (uri, lines, expected) in [
        ("spiffe://cluster.local/ns/shop/sa/a3", "GET h/p3", "p00003"),
        ("spiffe://cluster.local/ns/shop/sa/a4", "GET h/q4?x", "p00004"),
        ("spiffe://cluster.local/ns/n-0/sa/x", "GET h0/", "p00000"),
        ("spiffe://cluster.local/ns/shop/sa/a7", "GET H7/x", "p00007"),
        ("spiffe://cluster.local/ns/shop/sa/a3", "GET h/p4", "none"),
        ("spiffe://cluster.local/ns/shop/sa/nobody", "GET h/", "none"),
    ] {
        let [ten, hundred, thousand] = [10, 100, 1000].map(|n| cost(n, uri, lines, expected));
        assert_eq!((ten, hundred), (hundred, thousand), "{uri} {lines}");
        assert!(thousand.0 + thousand.1 <= 20 && thousand.2 <= 20, "{uri} {lines}: {thousand:?}");
    }
}

/// Looking up says what looking at all of them says, whatever the policies are.
#[test]
fn an_index_changes_no_decision() {
    let mut random = 1_u64;
    let mut next = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let leaf = |next: &mut dyn FnMut(u64) -> u64, permission: bool| match (next(7), permission) {
        (0, true) => json!({"destinationPort": 80 + next(2)}),
        (1 | 2, true) => json!({"urlPath": {"path": {"exact": format!("/{}", next(4))}}}),
        (3, true) => json!({"urlPath": {"path": {"prefix": format!("/{}", next(4))}}}),
        (4, _) => json!({"header": {"name": ":authority", "stringMatch": {"exact": format!("h{}", next(3)), "ignoreCase": next(2) == 0}}}),
        (5, _) => json!({"header": {"name": "x-a", "stringMatch": {"exact": next(2).to_string()}}}),
        (_, true) => json!({"any": true}),
        (0, false) => json!({"authenticated": {"principalName": {"safeRegex": {"regex": format!(".*/ns/n{}/.*", next(3))}}}}),
        (1, false) => {
            json!({"filterState": {"key": "io.istio.peer_principal", "stringMatch": {"exact": format!("spiffe://c/ns/n{}/sa/a", next(3))}}})
        }
        (_, false) => name(&format!("spiffe://c/ns/n{}/sa/{}", next(3), ["a", "b"][next(2) as usize])),
    };
    for round in 0..60 {
        let mut policies = serde_json::Map::new();
        for i in 0..(8 + next(12)) {
            let mut part = |permission: bool| {
                let (and, or, not) = if permission { ("andRules", "orRules", "notRule") } else { ("andIds", "orIds", "notId") };
                let inner = if permission { "rules" } else { "ids" };
                let mut some = || {
                    let list: Vec<Value> = (0..=next(2)).map(|_| leaf(&mut next, permission)).collect();
                    let or = json!({or: {inner: list}});
                    if next(5) == 0 { json!({not: or}) } else { or }
                };
                let list: Vec<Value> = (0..=1).map(|_| some()).collect();
                json!([{and: {inner: list}}])
            };
            policies.insert(format!("p{i:02}"), json!({"permissions": part(true), "principals": part(false)}));
        }
        let rbac = rbac(&json!({"action": if round % 2 == 0 { "ALLOW" } else { "DENY" }, "policies": policies}));
        for _ in 0..20 {
            let peer =
                Peer { uris: (0..next(3)).map(|_| Name::from(format!("spiffe://c/ns/n{}/sa/a", next(3)))).collect(), ..Peer::default() };
            let head = request(&format!("GET {}{}/{}\nx-a: {}", ["h", "H"][next(2) as usize], next(3), next(4), next(2)));
            let facts = PolicyFacts {
                destination: format!("10.0.0.1:{}", 80 + next(2)).parse().unwrap(),
                direct_remote: "10.0.0.2".parse().unwrap(),
                remote: "10.0.0.2".parse().unwrap(),
                server_name: None,
                peer: (next(4) > 0).then_some(&peer),
                request: Some(&head),
                metadata: None,
            };
            let all = authorize(&rbac, &facts, &mut Trace::to(&mut Vec::new()));
            assert_eq!(authorize(&rbac, &facts, &mut Trace::off()), all, "{rbac:?} {facts:?}");
            assert_eq!(bind(&rbac, &facts).authorize(&rbac, &facts), all, "{rbac:?} {facts:?}");
        }
    }
}
