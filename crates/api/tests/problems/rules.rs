//! The rules of the kinds that say who may talk to whom, field by field: what the others do not have, with the line that somebody gets who breaks it.

use crate::{WHO, check, check_spec, check_warnings};

const PEER: &str = "PeerAuthentication";
const TOKENS: &str = "RequestAuthentication";
const POLICY: &str = "AuthorizationPolicy";

/// Kind, spec, and the lines: the line after `spec:`, and what follows the object's name.
type Row<'a> = (&'a str, &'a str, &'a [(u32, &'a str)]);

fn check_all(rows: &[Row<'_>]) {
    for (kind, spec, lines) in rows {
        check_spec(kind, spec, lines);
    }
}

/// What all three have.
#[test]
fn selectors_and_forms() {
    let label = "letters, digits and inner `-`, `_`, `.`, at most 63";
    for kind in [PEER, TOKENS, POLICY] {
        let rows: &[(&str, u32, String)] = &[
            ("selector: app", 1, "spec.selector: must be a map, is `app`".to_owned()),
            ("selector: [app]", 1, "spec.selector: must be a map, is a list".to_owned()),
            ("selector: {app: reviews}", 1, "spec.selector.app: unknown field".to_owned()),
            ("selector: {labels: {app: a}}", 1, "spec.selector.labels: unknown field".to_owned()),
            ("selector: {matchLabels: [app]}", 1, "spec.selector.matchLabels: must be a map, is a list".to_owned()),
            ("selector: {matchLabels: {app: 1}}", 1, "spec.selector.matchLabels.app: must be a text, is the number 1: put it in quotes".to_owned()),
            ("selector: {matchLabels: {app: true}}", 1, "spec.selector.matchLabels.app: must be a text, is true: put it in quotes".to_owned()),
            ("selector:\n  matchLabels:\n    app: 'rev*'", 3, format!("spec.selector.matchLabels.app: `rev*` is no label value: {label}")),
            (
                "selector: {matchLabels: {'a b': x}}",
                1,
                "spec.selector.matchLabels[\"a b\"]: `a b` is no label name: letters, digits, `-`, `_`, `.`, at most 63, after an optional `domain/`"
                    .to_owned(),
            ),
            ("selector: {matchLabels: {}}\nselectr: {}", 2, "spec.selectr: unknown field, did you mean `selector`?".to_owned()),
            ("selector: {}\nselector: {}", 2, "`selector` is written twice".to_owned()),
        ];
        for (spec, line, message) in rows {
            check_spec(kind, spec, &[(*line, message)]);
        }
        let document =
            |rest: &str| format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\n{rest}\n");
        check(&document("spec: 7"), &[&format!("a.yaml:4: {kind} shop/x: spec: must be a map, is the number 7")]);
        check(&document("spec: []"), &[&format!("a.yaml:4: {kind} shop/x: spec: must be a map, is a list")]);
        check(&document("sepc: {}"), &[&format!("a.yaml:4: {kind} shop/x: sepc: unknown field, did you mean `spec`?")]);
        check(
            &document("spec: {}").replace("/v1", "/v2"),
            &[&format!(
                "a.yaml:1: {kind} shop/x: apiVersion: {kind} is read in security.istio.io/v1, security.istio.io/v1beta1, not in `security.istio.io/v2`"
            )],
        );
        check(&document("spec: {}").replace("name: x, ", ""), &["a.yaml:3: metadata.name: is required"]);
    }
}

#[test]
fn peer_authentications() {
    let labels = "selector: {matchLabels: {a: b}}\n";
    let with = |ports: &str| format!("{labels}{ports}");
    check_all(&[
        (PEER, "mtls: {mode: 7}", &[(1, "spec.mtls.mode: must be one of UNSET, DISABLE, PERMISSIVE, STRICT, is the number 7")]),
        (PEER, "mtls: {mode: true}", &[(1, "spec.mtls.mode: must be one of UNSET, DISABLE, PERMISSIVE, STRICT, is true")]),
        (PEER, "mtls: {mode: STRICT, port: 80}", &[(1, "spec.mtls.port: unknown field")]),
        (
            PEER,
            "portLevelMtls: {80: {mode: STRICT}}\nmtls: {mode: NONE}",
            &[
                (1, "spec.portLevelMtls: needs a selector with labels"),
                (2, "spec.mtls.mode: must be one of UNSET, DISABLE, PERMISSIVE, STRICT, is `NONE`"),
            ],
        ),
        (PEER, &with("portLevelMtls: [80]"), &[(2, "spec.portLevelMtls: must be a map, is a list")]),
        (PEER, &with("portLevelMtls: {80: STRICT}"), &[(2, "spec.portLevelMtls.80: must be a map, is `STRICT`")]),
        (PEER, &with("portLevelMtls: {80: {mod: STRICT}}"), &[(2, "spec.portLevelMtls.80.mod: unknown field, did you mean `mode`?")]),
        (PEER, &with("portLevelMtls: {-1: {}}"), &[(2, "spec.portLevelMtls.-1: the key must be a port from 1 to 65535, is `-1`")]),
        (
            PEER,
            &with("portLevelMtls: {80: {}}\nport_level_mtls: {}"),
            &[(3, "spec.port_level_mtls: is the same field as `portLevelMtls` in line 6")],
        ),
        (PEER, &with("portLevelMTLS: {80: {}}"), &[(2, "spec.portLevelMTLS: unknown field, did you mean `portLevelMtls`?")]),
        (PEER, "rules: []", &[(1, "spec.rules: unknown field")]),
    ]);
}

#[test]
fn whom_a_policy_is_for() {
    let both = "only one of selector, targetRef, targetRefs may be written";
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: g}";
    let selector = "selector: {matchLabels: {app: a}}";
    for (spec, message) in [
        (format!("{selector}\ntargetRefs: [{gateway}]"), format!("spec.targetRefs: excludes `selector`: {both}")),
        (format!("{selector}\ntargetRef: {gateway}"), format!("spec.targetRef: excludes `selector`: {both}")),
        (format!("targetRef: {gateway}\ntargetRefs: [{gateway}]"), format!("spec.targetRefs: excludes `targetRef`: {both}")),
    ] {
        check_spec(POLICY, &spec, &[(2, &message)]);
    }
    check_all(&[
        (POLICY, "targetRefs: {name: g}", &[(1, "spec.targetRefs: must be a list, is a map")]),
        (
            POLICY,
            "targetRefs: [{group: 7, kind: Gateway, name: g}]",
            &[(1, "spec.targetRefs[0].group: must be a text, is the number 7: put it in quotes")],
        ),
        (
            POLICY,
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: ''}]",
            &[(1, "spec.targetRefs[0].name: must not be empty")],
        ),
        (
            POLICY,
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: x}]",
            &[(1, "spec.targetRefs[0].sectionName: unknown field")],
        ),
        (POLICY, "action: [DENY]", &[(1, "spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is a list")]),
        (POLICY, "action: 9", &[(1, "spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is the number 9")]),
        (POLICY, "provider: p\naction: CUSTOM\nrules: [{}]", &[(1, "spec.provider: must be a map, is `p`")]),
    ]);
    let annotated = |value: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: x\n  annotations: {{istio.io/dry-run: {value}}}\n"
        )
    };
    check(
        &annotated("true"),
        &["a.yaml:5: AuthorizationPolicy default/x: metadata.annotations[\"istio.io/dry-run\"]: must be a text, is true: put it in quotes"],
    );
}

#[test]
fn the_parts_of_rules() {
    let none = "must not be empty: leave it out to match all";
    check_all(&[
        (POLICY, "rules: [GET]", &[(1, "spec.rules[0]: must be a map, is `GET`")]),
        (POLICY, "rules: [{form: []}]", &[(1, "spec.rules[0].form: unknown field, did you mean `from`?")]),
        (POLICY, "rules:\n- to: {operation: {methods: [GET]}}", &[(2, "spec.rules[0].to: must be a list, is a map")]),
        (POLICY, "rules: [{to: []}]", &[(1, &format!("spec.rules[0].to: {none}"))]),
        (POLICY, "rules: [{when: []}]", &[(1, &format!("spec.rules[0].when: {none}"))]),
        (POLICY, "rules: [{from: [null]}]", &[(1, "spec.rules[0].from[0]: is empty")]),
        (POLICY, "rules: [{from: [{source: null}]}]", &[(1, "spec.rules[0].from[0].source: is required")]),
        (
            POLICY,
            "rules: [{from: [{principals: [a]}]}]",
            &[(1, "spec.rules[0].from[0].source: is required"), (1, "spec.rules[0].from[0].principals: unknown field")],
        ),
        (POLICY, "rules: [{to: [{}]}]", &[(1, "spec.rules[0].to[0].operation: is required")]),
        (
            POLICY,
            "rules: [{to: [{operation: {}}]}]",
            &[(1, "spec.rules[0].to[0].operation: must not be empty: leave `to` out to match all operations")],
        ),
        (
            POLICY,
            "rules: [{to: [{operation: {method: [GET]}}]}]",
            &[(1, "spec.rules[0].to[0].operation.method: unknown field, did you mean `methods`?")],
        ),
        (POLICY, "rules: [{to: [{operation: {methods: GET}}]}]", &[(1, "spec.rules[0].to[0].operation.methods: must be a list, is `GET`")]),
        (POLICY, "rules: [{when: [{values: [a]}]}]", &[(1, "spec.rules[0].when[0].key: is required")]),
        (POLICY, "rules: [{when: [{key: '', values: [a]}]}]", &[(1, "spec.rules[0].when[0].key: must not be empty")]),
        (
            POLICY,
            "rules: [{when: [{key: 7, values: [a]}]}]",
            &[(1, "spec.rules[0].when[0].key: must be a text, is the number 7: put it in quotes")],
        ),
        (
            POLICY,
            "rules: [{when: [{key: source.ip, value: [a]}]}]",
            &[
                (1, "spec.rules[0].when[0]: must have values or notValues"),
                (1, "spec.rules[0].when[0].value: unknown field, did you mean `values`?"),
            ],
        ),
        (POLICY, "rules: [{when: [{key: source.ip, values: []}]}]", &[(1, &format!("spec.rules[0].when[0].values: {none}"))]),
        (
            POLICY,
            "rules: [{when: [{key: 'request.headers[]', values: [a]}]}]",
            &[(1, "spec.rules[0].when[0].key: `` is no header name: letters, digits and `-`, `_`, `.`")],
        ),
        (
            POLICY,
            "rules: [{when: [{key: 'request.headers', values: [a]}]}]",
            &[(1, "spec.rules[0].when[0].key: unknown key `request.headers`, did you mean `request.headers[NAME]`?")],
        ),
    ]);
}

/// Each field of a source and of an operation, with a value that it cannot have, and without any.
#[test]
fn values_of_sources_and_operations() {
    let star = "may have one `*`, as its first or its last character";
    let range = "is neither an IP address nor a CIDR block such as 10.0.0.0/8";
    let account = "must be a service account or NAMESPACE/SERVICE-ACCOUNT, without `*`, is";
    let scheme = "is written without `spiffe://`: TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
    let port = "must be a port from 1 to 65535, is";
    let check = |part: &str, inner: &str, field: &str, value: &str, message: &str| {
        let spec = format!("rules:\n- {part}: [{{{inner}: {{{field}: [{value}]}}}}]");
        check_spec(POLICY, &spec, &[(2, &format!("spec.rules[0].{part}[0].{inner}.{field}[0]: {message}"))]);
    };
    let sources = [
        ("principals", "'a*b'", format!("`a*b` {star}")),
        ("principals", "'**'", format!("`**` {star}")),
        ("principals", "''", "must not be empty".to_owned()),
        ("principals", "'spiffe://a/*'", scheme.to_owned()),
        ("namespaces", "'*a*'", format!("`*a*` {star}")),
        ("namespaces", "1", "must be a text, is the number 1: put it in quotes".to_owned()),
        ("requestPrincipals", "'*a*'", format!("`*a*` {star}")),
        ("serviceAccounts", "'a*'", format!("{account} `a*`")),
        ("serviceAccounts", "'*'", format!("{account} `*`")),
        ("serviceAccounts", "a/b/c", format!("{account} `a/b/c`")),
        ("ipBlocks", "10.0.0.0/x", format!("`10.0.0.0/x` {range}")),
        ("ipBlocks", "a.example", format!("`a.example` {range}")),
        ("ipBlocks", "10", "must be a text, is the number 10: put it in quotes".to_owned()),
        ("remoteIpBlocks", "'*'", format!("`*` {range}")),
        ("trustDomains", "'a*b'", format!("`a*b` {star}")),
    ];
    let operations = [
        ("hosts", "'a.*.b'", format!("`a.*.b` {star}")),
        ("hosts", "''", "must not be empty".to_owned()),
        ("methods", "'*E*'", format!("`*E*` {star}")),
        ("methods", "{}", "must be a text, is a map".to_owned()),
        ("paths", "'/a/*/b'", format!("`/a/*/b` {star}")),
        ("paths", "''", "must not be empty".to_owned()),
        ("ports", "'0'", format!("{port} `0`")),
        ("ports", "http", format!("{port} `http`")),
        ("ports", "'80-90'", format!("{port} `80-90`")),
        ("ports", "'*'", format!("{port} `*`")),
    ];
    for (part, inner, rows) in [("from", "source", &sources[..]), ("to", "operation", &operations[..])] {
        for (field, value, message) in rows {
            let other = format!("not{}{}", field[..1].to_uppercase(), &field[1..]);
            check(part, inner, field, value, message);
            check(part, inner, &other, value, message);
            for field in [*field, &other] {
                let spec = format!("rules:\n- {part}: [{{{inner}: {{{field}: []}}}}]");
                let message = format!("spec.rules[0].{part}[0].{inner}.{field}: must not be empty: leave it out to match all");
                check_spec(POLICY, &spec, &[(2, &message)]);
            }
        }
    }
    for (one, other) in [
        ("serviceAccounts", "principals"),
        ("notServiceAccounts", "namespaces"),
        ("serviceAccounts", "notPrincipals"),
        ("notServiceAccounts", "notNamespaces"),
    ] {
        let spec = format!("rules:\n- from: [{{source: {{{one}: [a], {other}: ['*']}}}}]");
        let message =
            "spec.rules[0].from[0].source: serviceAccounts exclude principals and namespaces: write them in a source of their own";
        check_spec(POLICY, &spec, &[(2, message)]);
    }
}

#[test]
fn conditions() {
    let star = "may have one `*`, as its first or its last character";
    let range = "is neither an IP address nor a CIDR block such as 10.0.0.0/8";
    for (key, value, message) in [
        ("source.ip", "10.0.0.0/99", format!("`10.0.0.0/99` {range}")),
        ("destination.ip", "host", format!("`host` {range}")),
        ("source.namespace", "a*b", format!("`a*b` {star}")),
        ("source.principal", "a*b", format!("`a*b` {star}")),
        (
            "source.principal",
            "spiffe://a/ns/b/sa/c",
            "is written without `spiffe://`: TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT".to_owned(),
        ),
        ("destination.port", "http", "must be a port from 1 to 65535, is `http`".to_owned()),
        ("request.headers[x]", "*a*", format!("`*a*` {star}")),
        ("request.headers[x]", "", "must not be empty".to_owned()),
        ("experimental.envoy.filters.a.b[c]", "*a*", format!("`*a*` {star}")),
    ] {
        for list in ["values", "notValues"] {
            let spec = format!("rules:\n- when: [{{key: '{key}', {list}: ['{value}']}}]");
            check_spec(POLICY, &spec, &[(2, &format!("spec.rules[0].when[0].{list}[0]: {message}"))]);
        }
    }
    let number = "spec.rules[0].when[0].values[0]: must be a text, is the number 80: put it in quotes";
    check_spec(POLICY, "rules: [{when: [{key: destination.port, values: [80]}]}]", &[(1, number)]);
    // What is of one connection is seen by nobody behind it.
    for name in ["connection", "upgrade", "keep-alive", "proxy-connection", "te", "transfer-encoding"] {
        let message = format!("spec.rules[0].when[0].key: `{name}` is of one connection only and is not seen by policies");
        check_spec(POLICY, &format!("rules: [{{when: [{{key: 'request.headers[{name}]', values: [a]}}]}}]"), &[(1, &message)]);
    }
}

/// What can be read, and is not likely to be meant.
#[test]
fn warnings() {
    let name = "is not TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT and matches no workload of the mesh";
    for (field, place) in [("principals", "principals[0]"), ("notPrincipals", "notPrincipals[0]")] {
        let spec = format!("rules: [{{from: [{{source: {{{field}: [web]}}}}]}}]");
        check_warnings(POLICY, &spec, &[(1, &format!("spec.rules[0].from[0].source.{place}: `web` {name}"))]);
    }
    let when = "rules: [{when: [{key: source.principal, values: [cluster.local/sa/web]}]}]";
    check_warnings(POLICY, when, &[(1, &format!("spec.rules[0].when[0].values[0]: `cluster.local/sa/web` {name}"))]);
    let token = "rules: [{when: [{key: request.auth.principal, notValues: [ann]}]}]";
    let nobody = "spec.rules[0].when[0].notValues[0]: `ann` is not ISSUER/SUBJECT and matches no token with a subject";
    check_warnings(POLICY, token, &[(1, nobody)]);
}

#[test]
fn request_authentications() {
    let rule = |more: &str| format!("jwtRules:\n- issuer: https://a.example\n  {more}");
    let no_key = "jwks: has no key of use: keys[0]";
    let jwks = |key: &str| format!("jwks: '{{\"keys\":[{key}]}}'");
    let rows: &[(String, u32, String)] = &[
        ("audiences: shop".to_owned(), 3, "audiences: must be a list, is `shop`".to_owned()),
        ("audiences: [7]".to_owned(), 3, "audiences[0]: must be a text, is the number 7: put it in quotes".to_owned()),
        ("audience: [shop]".to_owned(), 3, "audience: unknown field, did you mean `audiences`?".to_owned()),
        ("jwks: {keys: []}".to_owned(), 3, "jwks: must be the key set's JSON as a text: put it in quotes, is a map".to_owned()),
        ("jwks: '[]'".to_owned(), 3, "jwks: is no key set: it has no `keys`".to_owned()),
        (
            "jwksUri: 'https:///keys'".to_owned(),
            3,
            "jwksUri: must be http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH, is `https:///keys`".to_owned(),
        ),
        ("jwksUri: 7".to_owned(), 3, "jwksUri: must be a text, is the number 7: put it in quotes".to_owned()),
        (jwks(r#"{"kty":"EC","x":"A","y":"A"}"#), 3, format!("{no_key} has no `crv`")),
        (jwks(r#"{"kty":"EC","crv":"P-256","x":"A"}"#), 3, format!("{no_key} has no `y`")),
        (jwks(r#"{"kty":"OKP","crv":"X25519","x":"A"}"#), 3, format!("{no_key} is on the curve `X25519`, which is not supported")),
        (jwks(r#"{"kty":"RSA","n":"AQAB","e":""}"#), 3, format!("{no_key} has no `e`")),
        (jwks(r#"{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}"#), 3, format!("{no_key} is a private key, which does not belong here")),
        ("fromHeaders: [x-token]".to_owned(), 3, "fromHeaders[0]: must be a map, is `x-token`".to_owned()),
        (
            "fromHeaders: [{name: x, prefix: 7}]".to_owned(),
            3,
            "fromHeaders[0].prefix: must be a text, is the number 7: put it in quotes".to_owned(),
        ),
        ("fromHeaders: [{name: x, prefx: a}]".to_owned(), 3, "fromHeaders[0].prefx: unknown field, did you mean `prefix`?".to_owned()),
        ("fromParams: t".to_owned(), 3, "fromParams: must be a list, is `t`".to_owned()),
        ("fromCookies: {a: b}".to_owned(), 3, "fromCookies: must be a list, is a map".to_owned()),
        ("spaceDelimitedClaims: scope".to_owned(), 3, "spaceDelimitedClaims: must be a list, is `scope`".to_owned()),
        ("outputPayloadToHeader: [x]".to_owned(), 3, "outputPayloadToHeader: must be a text, is a list".to_owned()),
        ("outputClaimToHeaders: {header: x, claim: a}".to_owned(), 3, "outputClaimToHeaders: must be a list, is a map".to_owned()),
        (
            "outputClaimToHeaders: [{header: x, claims: a, claim: b}]".to_owned(),
            3,
            "outputClaimToHeaders[0].claims: unknown field, did you mean `claim`?".to_owned(),
        ),
        ("forwardOriginalToken: sometimes".to_owned(), 3, "forwardOriginalToken: must be true or false, is `sometimes`".to_owned()),
        ("timeout: 5".to_owned(), 3, "timeout: must be a text, is the number 5: put it in quotes".to_owned()),
        ("timeout: -1s".to_owned(), 3, "timeout: must not be negative, is -1s".to_owned()),
        ("presence: 1".to_owned(), 3, format!("presence: REQUIRED {WHO}")),
        ("presence: 7".to_owned(), 3, "presence: must be one of OPTIONAL, REQUIRED, is the number 7".to_owned()),
    ];
    for (more, line, message) in rows {
        check_spec(TOKENS, &rule(more), &[(*line, &format!("spec.jwtRules[0].{message}"))]);
    }
    for name in ["Connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"] {
        let message = format!("`{}` is no header for claims: it says where a request goes or how it is framed", name.to_lowercase());
        check_spec(
            TOKENS,
            &rule(&format!("outputPayloadToHeader: {name}")),
            &[(3, &format!("spec.jwtRules[0].outputPayloadToHeader: {message}"))],
        );
    }
    check_all(&[
        (TOKENS, "jwtRules: {issuer: a}", &[(1, "spec.jwtRules: must be a list, is a map")]),
        (TOKENS, "jwtRules: [null]", &[(1, "spec.jwtRules[0]: is empty")]),
        (TOKENS, "jwtRules: [a]", &[(1, "spec.jwtRules[0]: must be a map, is `a`")]),
        (TOKENS, "jwtRules: [{issuer: null}]", &[(1, "spec.jwtRules[0].issuer: is required")]),
        (TOKENS, "jwtRule: []", &[(1, "spec.jwtRule: unknown field, did you mean `jwtRules`?")]),
    ]);
}
