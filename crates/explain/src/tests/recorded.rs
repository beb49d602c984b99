//! Recorded calls, and what they do not hold.

use super::{object, shop, shop_with};
use crate::{Caller, Explainer, Recorded, RecordedRequest, Replayed};

/// `CALLER METHOD POD:PORT/PATH [name=value …]`: the caller is an account of namespace shop, `plain` or `somebody`; the method `TCP` is none; `from=IP` is
/// the caller's address, else nobody knows it; a header without a value was not there.
fn recorded(text: &str) -> (String, Recorded) {
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (caller, method, to) = (next(), next(), next());
    let (at, path) = to.split_at(to.find('/').unwrap_or(to.len()));
    let (pod, port) = at.split_once(':').expect("a port");
    let (mut source, mut headers) = (None, Vec::new());
    for word in words {
        match word.split_once('=').expect("name=value") {
            ("from", ip) => source = Some(format!("{ip}:4000").parse().expect("an address")),
            (name, "") => headers.push((name.to_owned(), None)),
            (name, value) => headers.push((name.to_owned(), Some(value.to_owned()))),
        }
    }
    let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().expect("an identity");
    let caller = match &*caller {
        "plain" => Caller::Nobody,
        "somebody" => Caller::Unknown,
        account => Caller::Known(id(account)),
    };
    let is_request = method != "TCP";
    let request = RecordedRequest { method, path: path.to_owned(), authority: Some("reviews:9080".to_owned()), http2: false, headers };
    let call = Recorded {
        source,
        is_direct: true,
        destination: format!("10.0.0.11:{port}").parse().expect("an address"),
        server_name: (caller != Caller::Nobody).then(|| "outbound_.9080_._.reviews.shop.svc.cluster.local".to_owned()),
        caller,
        request: is_request.then_some(request),
    };
    (pod.to_owned(), call)
}

fn check(policies: &[String], mesh: &str, rows: &[(&str, &str)]) {
    let mut explainer = Explainer::new(&if mesh.is_empty() { shop(policies) } else { shop_with(mesh, policies) });
    let mut wrong = Vec::new();
    for (text, expected) in rows {
        let (pod, call) = recorded(text);
        let got = match explainer.replay("shop", &pod, &call, &mut |_| None) {
            Replayed::Allowed => "allowed".to_owned(),
            Replayed::Refused { rule: Some(rule), .. } => format!("refused by {rule}"),
            Replayed::Refused { rule: None, why } if why.starts_with("no policy") => "refused by none".to_owned(),
            Replayed::Refused { rule: None, why } => format!("refused: {why}"),
            Replayed::Unknown { missing } => format!("unknown: {}", missing.into_iter().collect::<Vec<_>>().join(", ")),
        };
        if got != *expected {
            wrong.push(format!("{text}\n  got      {got}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn policy(name: &str, action: &str, rules: &str) -> String {
    object("AuthorizationPolicy", name, &format!("{{selector: {{matchLabels: {{app: reviews}}}}, action: {action}, rules: [{rules}]}}"))
}

#[test]
fn what_a_record_holds_is_decided() {
    let web = policy(
        "web",
        "ALLOW",
        "{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {methods: [GET], paths: [/api/*]}}]}",
    );
    let admin = policy("admin", "DENY", "{to: [{operation: {paths: [/api/admin*]}}]}");
    check(
        &[web, admin],
        "",
        &[
            ("web GET v1:8080/api/1", "allowed"),
            ("web GET v1:8080/api/../other", "refused by none"),
            ("web GET v1:8080/api/%61dmin", "refused by ns[shop]-policy[admin]-rule[0]"),
            ("web POST v1:8080/api/1", "refused by none"),
            ("guest GET v1:8080/api/1", "refused by none"),
            ("plain GET v1:8080/api/1", "refused by none"),
            ("somebody GET v1:8080/api/1", "unknown: the caller's identity"),
            // It hangs on nothing that is missing.
            ("somebody POST v1:8080/api/1", "refused by none"),
            ("somebody GET v1:8080/api/admin", "refused by ns[shop]-policy[admin]-rule[0]"),
            ("web GET nobody:8080/api/1", "unknown: pod shop/nobody"),
        ],
    );
}

#[test]
fn what_it_does_not_hold_is_unknown() {
    let header =
        policy("header", "ALLOW", "{when: [{key: 'request.headers[x-team]', values: [blue]}]}, {to: [{operation: {paths: [/open]}}]}");
    check(
        &[header],
        "",
        &[
            ("web GET v1:8080/closed", "unknown: header x-team"),
            ("web GET v1:8080/closed x-team=blue", "allowed"),
            ("web GET v1:8080/closed x-team=red", "refused by none"),
            ("web GET v1:8080/closed x-team=", "refused by none"),
            ("web GET v1:8080/open", "allowed"),
        ],
    );
    let not = policy("not", "DENY", "{when: [{key: 'request.headers[x-team]', notValues: [blue]}]}");
    check(
        &[not],
        "",
        &[
            ("web GET v1:8080/", "unknown: header x-team"),
            ("web GET v1:8080/ x-team=blue", "allowed"),
            ("web GET v1:8080/ x-team=", "refused by ns[shop]-policy[not]-rule[0]"),
        ],
    );
    let block = policy("block", "DENY", "{from: [{source: {ipBlocks: [10.0.0.22/32]}}]}");
    check(
        &[block],
        "",
        &[
            ("web GET v1:8080/", "unknown: the address of the connection's other end"),
            ("web GET v1:8080/ from=10.0.0.22", "refused by ns[shop]-policy[block]-rule[0]"),
            ("web GET v1:8080/ from=10.0.0.23", "allowed"),
        ],
    );
}

#[test]
fn plaintext_where_only_mutual_tls_is_taken() {
    check(
        &[object("PeerAuthentication", "default", "{mtls: {mode: STRICT}}")],
        "",
        &[
            ("web GET v1:8080/", "allowed"),
            ("somebody GET v1:8080/", "allowed"),
            ("plain GET v1:8080/", "refused: closed: no filter chain of virtualInbound is for plaintext"),
        ],
    );
}

#[test]
fn whom_a_policy_asks_is_not_in_a_record() {
    let mesh = "extensionProviders: [{name: judge, envoyExtAuthzHttp: {service: ratings.shop.svc.cluster.local, port: 9080}}]";
    let ask = object(
        "AuthorizationPolicy",
        "ask",
        "{selector: {matchLabels: {app: reviews}}, action: CUSTOM, provider: {name: judge}, rules: [{to: [{operation: {paths: [/asked*]}}]}]}",
    );
    let answer = "unknown: the answer of outbound|9080||ratings.shop.svc.cluster.local";
    check(std::slice::from_ref(&ask), mesh, &[("web GET v1:8080/", "allowed"), ("web GET v1:8080/asked", answer)]);
    let mut explainer = Explainer::new(&shop_with(mesh, &[ask]));
    let (pod, call) = recorded("web GET v1:8080/asked");
    let mut told = Vec::new();
    let mut replay = |answer| {
        explainer.replay("shop", &pod, &call, &mut |cluster| {
            told.push(cluster.to_owned());
            Some(answer)
        })
    };
    assert_eq!(replay(true), Replayed::Allowed);
    assert!(matches!(replay(false), Replayed::Refused { .. }));
    assert_eq!(told, ["outbound|9080||ratings.shop.svc.cluster.local"; 2]);
}

#[test]
fn templates() {
    let rules = "{to: [{operation: {paths: ['/books/{*}/pages']}}]}";
    check(
        &[policy("t", "ALLOW", rules)],
        "",
        &[("web GET v1:8080/books/1/pages", "allowed"), ("web GET v1:8080/books/1", "refused by none")],
    );
}

/// What is not enforced decides nothing.
#[test]
fn dry_runs_and_audits() {
    let dry = policy("dry", "DENY", "{}").replace("name: dry,", "name: dry, annotations: {istio.io/dry-run: 'true'},");
    check(&[dry, policy("audit", "AUDIT", "{}")], "", &[("web GET v1:8080/", "allowed")]);
}

/// A gateway whose port somebody else has opened, under another number.
#[test]
fn gateways() {
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: get, namespace: istio-system}, \
                  spec: {selector: {matchLabels: {istio: ingressgateway}}, rules: [{to: [{operation: {methods: [GET]}}]}]}}";
    let mut explainer = Explainer::new(&shop(&[policy.to_owned()]));
    for (text, is_allowed) in [
        ("plain GET door:80/a from=192.0.2.9", true),
        ("plain GET door:8080/a from=192.0.2.9", true),
        ("plain POST door:8080/a from=192.0.2.9", false),
    ] {
        let (pod, call) = recorded(text);
        let found = explainer.replay("istio-system", &pod, &call, &mut |_| None);
        assert_eq!(found == Replayed::Allowed, is_allowed, "{text}: {found:?}");
    }
}

#[test]
fn connections() {
    let stock = object(
        "AuthorizationPolicy",
        "stock",
        "{selector: {matchLabels: {app: stock}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {ports: ['6379']}}]}]}",
    );
    check(
        &[stock],
        "",
        &[
            ("web TCP stock:6379", "allowed"),
            ("guest TCP stock:6379", "refused by none"),
            ("web TCP stock:6380", "refused by none"),
            ("somebody TCP stock:6379", "unknown: the caller's identity"),
        ],
    );
}
