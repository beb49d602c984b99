//! Policies.

use mizzen_api::Kind;

use crate::{WHO, check, check_spec, check_warnings, parse};

#[test]
fn a_refused_policy_says_whom_it_closes() {
    let head = "apiVersion: security.istio.io/v1\nkind: KIND\nmetadata:\n  name: x\n  namespace: shop\nspec:\n";
    let check = |spec: &str, labels: Option<&str>| {
        for kind in [Kind::AuthorizationPolicy, Kind::PeerAuthentication, Kind::RequestAuthentication] {
            let parsed = parse(&format!("{}{spec}", head.replace("KIND", kind.name())));
            let closes = parsed.objects[0].as_ref().unwrap_err().closes.clone().unwrap();
            assert_eq!((closes.kind, &*closes.namespace), (kind, "shop"));
            assert_eq!(closes.selector.map(|s| s.labels["app"].clone()).as_deref(), labels, "{spec}");
        }
    };
    for (spec, labels) in [
        ("  selector: {matchLabels: {app: a}}\n  action: NONE\n", Some("a")),
        ("  selector: {matchLabels: {app: a}}\n  rules: [\n", None),
        ("  selector: {matchLabels: {app: a}}\n  rules: []\n  rules: []\n", Some("a")),
        ("  selector: {matchLabels: {app: 1}}\n", None),
        ("  selector: {matchLabels: {app: '*'}}\n  action: ALLOW\n", None),
        ("  selector: {matchLabels: {app: a, 'b c': x}}\n  action: ALLOW\n", None),
        ("  selector: {matchLabels: {app: a, 'b/': x}}\n  action: ALLOW\n", None),
        ("  action: NONE\n", None),
    ] {
        check(spec, labels);
    }
    let closes = |kind: &str| {
        let parsed = parse(&head.replace("KIND", kind));
        parsed.objects[0].as_ref().unwrap_err().closes.as_ref().map(|closes| closes.kind)
    };
    assert_eq!(closes("AuthorizationPolicie"), Some(Kind::AuthorizationPolicy));
    assert_eq!(closes("RequestAuthentications"), Some(Kind::RequestAuthentication));
    assert_eq!(closes("Servce"), None);
}

const CUSTOM_WITHOUT_RULES: &str = "spec: a CUSTOM policy without rules asks about nothing: write `rules: [{}]` to ask about all";

#[test]
fn authorization_policies() {
    for (spec, expected) in [
        ("action: AUDIT\nprovider: {name: p}", vec![(2, "spec.provider: is for `action: CUSTOM` only".to_owned())]),
        ("action: 3\nprovider: {name: p}", vec![(0, CUSTOM_WITHOUT_RULES.to_owned())]),
        ("action: CUSTOM\nrules: [{}]", vec![(0, "spec.provider: is required".to_owned())]),
        ("action: CUSTOM\nrules: [{}]\nprovider: {}", vec![(3, "spec.provider.name: is required".to_owned())]),
        ("action: CUSTOM\nrules: [{}]\nprovider: {name: ''}", vec![(3, "spec.provider.name: must not be empty".to_owned())]),
        (
            "action: CUSTOM\nrules: [{}]\nprovider: {name: a, nane: b}",
            vec![(3, "spec.provider.nane: unknown field, did you mean `name`?".to_owned())],
        ),
        ("provider: {name: p}", vec![(1, "spec.provider: is for `action: CUSTOM` only".to_owned())]),
        ("action: DENY\nrules: [{}]\nprovider: {name: p}", vec![(3, "spec.provider: is for `action: CUSTOM` only".to_owned())]),
        (
            "action: custom\nprovider: {name: p}",
            vec![(1, "spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is `custom`".to_owned())],
        ),
        ("action: allow", vec![(1, "spec.action: must be one of ALLOW, DENY, AUDIT, CUSTOM, is `allow`".to_owned())]),
        ("rules:\n- from:\n", vec![(2, "spec.rules[0].from: must not be empty: leave it out to match all".to_owned())]),
        ("rules:\n- from: []\n", vec![(2, "spec.rules[0].from: must not be empty: leave it out to match all".to_owned())]),
        ("rules:\n- from: [{}]\n", vec![(2, "spec.rules[0].from[0].source: is required".to_owned())]),
        (
            "rules:\n- from: [{source: {}}]\n",
            vec![(2, "spec.rules[0].from[0].source: must not be empty: leave `from` out to match all callers".to_owned())],
        ),
        (
            "rules:\n- from: [{source: {principals: []}}]\n",
            vec![(2, "spec.rules[0].from[0].source.principals: must not be empty: leave it out to match all".to_owned())],
        ),
        (
            "rules:\n- from: [{source: {principal: [a]}}]\n",
            vec![(2, "spec.rules[0].from[0].source.principal: unknown field, did you mean `principals`?".to_owned())],
        ),
        (
            "rules:\n- from: [{source: {ipBlocks: [10.0.0.0/33]}}]\n",
            vec![(
                2,
                "spec.rules[0].from[0].source.ipBlocks[0]: `10.0.0.0/33` is neither an IP address nor a CIDR block such as 10.0.0.0/8"
                    .to_owned(),
            )],
        ),
        (
            "rules:\n- from: [{source: {namespaces: ['a*b']}}]\n",
            vec![(2, "spec.rules[0].from[0].source.namespaces[0]: `a*b` may have one `*`, as its first or its last character".to_owned())],
        ),
        (
            "rules:\n- from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]\n",
            vec![(
                2,
                "spec.rules[0].from[0].source.principals[0]: is written without `spiffe://`: TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
                    .to_owned(),
            )],
        ),
        (
            "rules:\n- from: [{source: {serviceAccounts: [a], namespaces: [b]}}]\n",
            vec![(
                2,
                "spec.rules[0].from[0].source: serviceAccounts exclude principals and namespaces: write them in a source of their own"
                    .to_owned(),
            )],
        ),
        (
            "rules:\n- to: [{operation: {ports: [80]}}]\n",
            vec![(2, "spec.rules[0].to[0].operation.ports[0]: must be a text, is the number 80: put it in quotes".to_owned())],
        ),
        (
            "rules:\n- to: [{operation: {ports: ['70000']}}]\n",
            vec![(2, "spec.rules[0].to[0].operation.ports[0]: must be a port from 1 to 65535, is `70000`".to_owned())],
        ),
        ("rules:\n- when: [{key: source.ip}]\n", vec![(2, "spec.rules[0].when[0]: must have values or notValues".to_owned())]),
        (
            "rules:\n- when: [{key: sorce.ip, values: [a]}]\n",
            vec![(2, "spec.rules[0].when[0].key: unknown key `sorce.ip`, did you mean `source.ip`?".to_owned())],
        ),
        (
            "rules:\n- when: [{key: 'request.headers[a b]', values: [b]}]\n",
            vec![(2, "spec.rules[0].when[0].key: `a b` is no header name: letters, digits and `-`, `_`, `.`".to_owned())],
        ),
        (
            "rules:\n- when: [{key: 'request.headers[Upgrade]', values: [websocket]}]\n",
            vec![(2, "spec.rules[0].when[0].key: `Upgrade` is of one connection only and is not seen by policies".to_owned())],
        ),
        ("selector: {matchLabel: {a: b}}", vec![(1, "spec.selector.matchLabel: unknown field, did you mean `matchLabels`?".to_owned())]),
        ("rules: {}", vec![(1, "spec.rules: must be a list, is a map".to_owned())]),
        ("rules: [null]", vec![(1, "spec.rules[0]: is empty".to_owned())]),
    ] {
        let expected: Vec<_> = expected.iter().map(|(line, text)| (*line, text.as_str())).collect();
        check_spec("AuthorizationPolicy", spec, &expected);
    }
    check_spec("PeerAuthentication", "portLevelMtls: {80: {mode: STRICT}}", &[(1, "spec.portLevelMtls: needs a selector with labels")]);
    check_spec(
        "PeerAuthentication",
        "mtls: {mode: STRIKT}",
        &[(1, "spec.mtls.mode: must be one of UNSET, DISABLE, PERMISSIVE, STRICT, is `STRIKT`")],
    );
    check_spec(
        "PeerAuthentication",
        "selector: {matchLabels: {a: b}}\nportLevelMtls:\n  web: {}",
        &[(3, "spec.portLevelMtls.web: the key must be a port from 1 to 65535, is `web`")],
    );
}

/// A field of a source or an operation, or a condition; with what is wrong with its first value.
#[test]
fn sources_operations_and_conditions() {
    let one = "may have one `*`, as its first or its last character";
    let range = "is neither an IP address nor a CIDR block such as 10.0.0.0/8";
    let empty = "must not be empty: leave it out to match all";
    let check = |place: &str, spec: &str, message: &str| {
        check_spec("AuthorizationPolicy", spec, &[(2, &format!("spec.rules[0].{place}: {message}"))])
    };
    for (field, value, message) in [
        ("requestPrincipals", "a*b", format!("`a*b` {one}")),
        ("notRequestPrincipals", "*/*", format!("`*/*` {one}")),
        ("requestPrincipals", "", "must not be empty".to_owned()),
        ("remoteIpBlocks", "10.0.0", format!("`10.0.0` {range}")),
        ("notRemoteIpBlocks", "1::/129", format!("`1::/129` {range}")),
        ("trustDomains", "a/ns/b", "`a/ns/b` is no trust domain, which has no `/`".to_owned()),
        ("notTrustDomains", "a/*", "`a/` is no trust domain, which has no `/`".to_owned()),
        ("trustDomains", "a*b", format!("`a*b` {one}")),
    ] {
        check(&format!("from[0].source.{field}[0]"), &format!("rules:\n- from: [{{source: {{{field}: ['{value}']}}}}]"), &message);
        check(&format!("from[0].source.{field}"), &format!("rules:\n- from: [{{source: {{{field}: []}}}}]"), empty);
    }
    let last = "`{**}` must be the last of its templates";
    let whole = "`{*}` and `{**}` are whole segments, and braces have no other use";
    for (value, message) in [
        ("/{**}/{*}", last),
        ("/{**}/a/{**}", last),
        ("/a{*}", whole),
        ("/{*}.html", whole),
        ("/{id}", whole),
        ("/a}", whole),
        ("/{*}/*", "beside a template there is no other `*`"),
        ("a/{*}", "a template begins with `/`"),
        ("/a//{*}", "an empty segment matches nothing"),
        ("/a b/{*}", "beside a template, `a b` must be written with escapes"),
    ] {
        for field in ["paths", "notPaths"] {
            let spec = format!("rules:\n- to: [{{operation: {{{field}: ['{value}']}}}}]");
            check(&format!("to[0].operation.{field}[0]"), &spec, &format!("`{value}`: {message}"));
        }
    }
    for (key, message) in [
        ("request.auth.claim[a]", "unknown key `request.auth.claim[a]`, did you mean `request.auth.claims[NAME]`?"),
        ("request.auth.claims", "unknown key `request.auth.claims`, did you mean `request.auth.claims[NAME]`?"),
        (
            "request.auth.claims[]",
            "`request.auth.claims[]` must be request.auth.claims[NAME] or, for a claim within another, request.auth.claims[NAME][NAME]",
        ),
        (
            "request.auth.claims[a][b",
            "`request.auth.claims[a][b` must be request.auth.claims[NAME] or, for a claim within another, request.auth.claims[NAME][NAME]",
        ),
        (
            "request.auth.claims[a[b]]",
            "`request.auth.claims[a[b]]` must be request.auth.claims[NAME] or, for a claim within another, request.auth.claims[NAME][NAME]",
        ),
        ("request.auth.principals", "unknown key `request.auth.principals`, did you mean `request.auth.principal`?"),
        ("request.header[a]", "unknown key `request.header[a]`, did you mean `request.headers[NAME]`?"),
        ("remote.ipp", "unknown key `remote.ipp`, did you mean `remote.ip`?"),
        ("connection.snl", "unknown key `connection.snl`, did you mean `connection.sni`?"),
        (
            "destination.labels[a]",
            "unknown key `destination.labels[a]`, there are source.ip, remote.ip, source.namespace, source.principal, source.trustDomain, \
             source.serviceAccount, destination.ip, destination.port, connection.sni, request.auth.principal, request.auth.audiences, \
             request.auth.presenter, request.headers[NAME], request.auth.claims[NAME] and experimental.envoy.filters.NAME[KEY]",
        ),
        ("experimental.envoy.filters.a", "`experimental.envoy.filters.a` must be experimental.envoy.filters.NAME[KEY]"),
        ("experimental.envoy.filters.[k]", "`experimental.envoy.filters.[k]` must be experimental.envoy.filters.NAME[KEY]"),
        ("experimental.envoy.filters.a[k][l]", "`experimental.envoy.filters.a[k][l]` must be experimental.envoy.filters.NAME[KEY]"),
    ] {
        check("when[0].key", &format!("rules:\n- when: [{{key: '{key}', values: [x]}}]"), message);
    }
    for (key, value, message) in [
        ("remote.ip", "a", format!("`a` {range}")),
        ("source.trustDomain", "a/b", "`a/b` is no trust domain, which has no `/`".to_owned()),
        ("source.serviceAccount", "a/b/c", "must be a service account or NAMESPACE/SERVICE-ACCOUNT, without `*`, is `a/b/c`".to_owned()),
        ("destination.port", "0", "must be a port from 1 to 65535, is `0`".to_owned()),
        ("connection.sni", "*a*", format!("`*a*` {one}")),
        ("request.auth.principal", "a*/*", format!("`a*/*` {one}")),
        ("request.auth.audiences", "a*b", format!("`a*b` {one}")),
        ("request.auth.presenter", "a*b", format!("`a*b` {one}")),
        ("request.auth.claims[a]", "a*b", format!("`a*b` {one}")),
        ("experimental.envoy.filters.a.b[c]", "[a*b]", format!("`a*b` {one}")),
    ] {
        for list in ["values", "notValues"] {
            let spec = format!("rules:\n- when: [{{key: '{key}', {list}: ['{value}']}}]");
            check(&format!("when[0].{list}[0]"), &spec, &message);
        }
    }
}

#[test]
fn targets() {
    let gateway = "group: gateway.networking.k8s.io, kind: Gateway, name: g";
    for (target, expected) in [
        ("kind: Gateway, name: g", "a Gateway is of `group: gateway.networking.k8s.io`"),
        (
            "group: networking.istio.io, kind: Gateway, name: g",
            "a target is a Gateway of gateway.networking.k8s.io: for one of networking.istio.io write a selector",
        ),
        ("kind: Service, name: s", "Service is a target for waypoints, which are not supported yet"),
        (
            "group: networking.istio.io, kind: ServiceEntry, name: s",
            "ServiceEntry.networking.istio.io is a target for waypoints, which are not supported yet",
        ),
        (
            "group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint",
            "GatewayClass.gateway.networking.k8s.io is a target for waypoints, which are not supported yet",
        ),
        ("group: apps, kind: Deployment, name: d", "`Deployment.apps` is no target: it must be Gateway.gateway.networking.k8s.io"),
    ] {
        check_spec("AuthorizationPolicy", &format!("targetRefs: [{{{target}}}]"), &[(1, &format!("spec.targetRefs[0]: {expected}"))]);
        check_spec("AuthorizationPolicy", &format!("targetRef: {{{target}}}"), &[(1, &format!("spec.targetRef: {expected}"))]);
    }
    check_warnings("AuthorizationPolicy", &format!("targetRefs: [{{{gateway}}}]"), &[]);
    let other = "spec.targetRefs[0].namespace: a policy holds for Gateways of its own namespace: leave it out";
    check_spec("AuthorizationPolicy", &format!("targetRefs: [{{{gateway}, namespace: x}}]"), &[(1, other)]);
    check_spec(
        "AuthorizationPolicy",
        "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway}]",
        &[(1, "spec.targetRefs[0].name: is required")],
    );
    check_spec("AuthorizationPolicy", "targetRefs: [{name: x}]", &[(1, "spec.targetRefs[0].kind: is required")]);
}

#[test]
fn what_is_taken_with_a_warning() {
    let audit = "spec: an AUDIT policy decides nothing: requests that match are only marked, for a plugin that acts on the mark";
    check_warnings("AuthorizationPolicy", "action: AUDIT\nrules: [{}]", &[(0, audit)]);
    check_warnings(
        "AuthorizationPolicy",
        "action: DENY",
        &[(0, "spec: a DENY policy without rules never denies; write `rules: [{}]` to deny all")],
    );
    let from = |principal: &str, warning: &str| {
        let spec = format!("rules: [{{from: [{{source: {{requestPrincipals: ['{principal}']}}}}]}}]");
        check_warnings("AuthorizationPolicy", &spec, &[(1, &format!("spec.rules[0].from[0].source.requestPrincipals[0]: {warning}"))]);
    };
    from("alice", "`alice` is not ISSUER/SUBJECT and matches no token with a subject");
    from("https://issuer*", "the issuer is `https:/` here, since the last `/` ends it: write ISSUER/*");
}

#[test]
fn dry_runs() {
    let policy = |value: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, annotations: {{istio.io/dry-run: '{value}'}}}}\nspec: {spec}\n"
        )
    };
    check(&policy("true", "{}"), &[]);
    check(&policy("F", "{}"), &[]);
    check(&policy("yes", "{}"), &["a.yaml:1: AuthorizationPolicy default/x: annotation istio.io/dry-run: must be true or false, is `yes`"]);
    let custom = "annotation istio.io/dry-run: a CUSTOM policy cannot be a dry run: its provider would be asked all the same";
    let spec = "{action: CUSTOM, provider: {name: p}, rules: [{}]}";
    check(&policy("1", spec), &[&format!("a.yaml:1: AuthorizationPolicy default/x: {custom}")]);
    check(&policy("0", spec), &[]);
}

#[test]
fn request_authentications() {
    let rule = |more: &str| format!("jwtRules:\n- issuer: https://a.example\n  {more}");
    let at = |line, rest: &str| vec![(line, format!("spec.jwtRules[0].{rest}"))];
    let keys = r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#;
    let url = |is: &str| format!("jwksUri: must be http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH, is `{is}`");
    let no_key = "jwks: has no key of use: ";
    for (spec, expected) in [
        ("jwtRules: [{}]".to_owned(), at(1, "issuer: is required")),
        ("jwtRules: [{issuer: ''}]".to_owned(), at(1, "issuer: must not be empty")),
        ("jwtRules: [{issuer: 7}]".to_owned(), at(1, "issuer: must be a text, is the number 7: put it in quotes")),
        (
            "jwtRules: [{issuer: somebody}]".to_owned(),
            at(1, "issuer: must be a URL where neither jwks nor jwksUri is written, is `somebody`"),
        ),
        (
            rule(&format!("jwks: '{keys}'\n  jwksUri: https://a.example/k")),
            at(4, "jwksUri: excludes `jwks`: only one of jwks, jwksUri may be written"),
        ),
        (rule("jwksUri: ''"), at(3, "jwksUri: must not be empty")),
        (rule("jwksUri: a.example/keys"), at(3, &url("a.example/keys"))),
        (rule("jwksUri: ftp://a.example/keys"), at(3, &url("ftp://a.example/keys"))),
        (rule("jwksUri: file:///etc/passwd"), at(3, &url("file:///etc/passwd"))),
        (rule("jwksUri: https://user@a.example/keys"), at(3, &url("https://user@a.example/keys"))),
        (rule("jwks: ''"), at(3, "jwks: must not be empty")),
        (rule("jwks: '{'"), at(3, "jwks: is no JSON: EOF while parsing an object at line 1 column 1")),
        (rule("jwks: '{}'"), at(3, "jwks: is no key set: it has no `keys`")),
        (rule("jwks: '{\"keys\":7}'"), at(3, "jwks: has `keys` that are no list")),
        (rule("jwks: '{\"keys\":[]}'"), at(3, "jwks: has no key")),
        (rule("jwks: '{\"keys\":[{}]}'"), at(3, &format!("{no_key}keys[0] has no `kty`"))),
        (rule("jwks: '{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQAB\"}]}'"), at(3, &format!("{no_key}keys[0] has no `n`"))),
        (rule("jwks: '{\"keys\":[{\"kty\":\"x\"}]}'"), at(3, &format!("{no_key}keys[0] is of the type `x`, which is not supported"))),
        (
            rule("jwks: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}'"),
            at(3, &format!("{no_key}keys[0] is a shared secret (`oct`), which is not supported")),
        ),
        (
            rule("jwks: '{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-1\",\"x\":\"A\",\"y\":\"A\"}]}'"),
            at(3, &format!("{no_key}keys[0] is on the curve `P-1`, which is not supported")),
        ),
        (rule("fromHeaders: [{prefix: a}]"), at(3, "fromHeaders[0].name: is required")),
        (rule("fromHeaders: [{name: ''}]"), at(3, "fromHeaders[0].name: must not be empty")),
        (rule("fromHeaders: [{name: a b}]"), at(3, "fromHeaders[0].name: `a b` is no header name: letters, digits and `-`, `_`, `.`")),
        (rule("fromParams: ['']"), at(3, "fromParams[0]: must not be empty")),
        (rule("fromCookies: ['']"), at(3, "fromCookies[0]: must not be empty")),
        (rule("audiences: ['']"), at(3, "audiences[0]: must not be empty")),
        (rule("spaceDelimitedClaims: ['']"), at(3, "spaceDelimitedClaims[0]: must not be empty")),
        (rule("outputPayloadToHeader: a b"), at(3, "outputPayloadToHeader: `a b` is no header name: letters, digits and `-`, `_`, `.`")),
        (
            rule("outputPayloadToHeader: Host"),
            at(3, "outputPayloadToHeader: `host` is no header for claims: it says where a request goes or how it is framed"),
        ),
        (rule("outputPayloadToHeader: ''"), at(3, "outputPayloadToHeader: must not be empty")),
        (rule("outputClaimToHeaders: [{claim: sub}]"), at(3, "outputClaimToHeaders[0].header: is required")),
        (rule("outputClaimToHeaders: [{header: x}]"), at(3, "outputClaimToHeaders[0].claim: is required")),
        (rule("outputClaimToHeaders: [{header: x, claim: ''}]"), at(3, "outputClaimToHeaders[0].claim: must not be empty")),
        (
            rule("outputClaimToHeaders: [{header: content-length, claim: a}]"),
            at(
                3,
                "outputClaimToHeaders[0].header: `content-length` is no header for claims: it says where a request goes or how it is framed",
            ),
        ),
        (
            rule("outputClaimToHeaders: [{header: ':authority', claim: a}]"),
            at(3, "outputClaimToHeaders[0].header: `:authority` is no header for claims: it says where a request goes or how it is framed"),
        ),
        (rule("timeout: 0s"), at(3, "timeout: must be at least 1ms")),
        (rule("timeout: fast"), at(3, "timeout: `fast` is no duration: write it as 1.5s, 300ms or 1h30m")),
        (rule("presence: REQUIRED"), at(3, &format!("presence: REQUIRED {WHO}"))),
        (rule("presence: never"), at(3, "presence: must be one of OPTIONAL, REQUIRED, is `never`")),
        (rule("jwksUrl: x"), at(3, "jwksUrl: unknown field, did you mean `jwksUri`?")),
        ("targetRefs: []".to_owned(), vec![(1, format!("spec.targetRefs: {WHO}"))]),
        ("targetRef: {}".to_owned(), vec![(1, format!("spec.targetRef: {WHO}"))]),
        (
            "selector: {matchLabels: {app: '*'}}".to_owned(),
            vec![(
                1,
                "spec.selector.matchLabels.app: `*` is no label value: letters, digits and inner `-`, `_`, `.`, at most 63".to_owned(),
            )],
        ),
    ] {
        let expected: Vec<(u32, &str)> = expected.iter().map(|(line, rest)| (*line, rest.as_str())).collect();
        check_spec("RequestAuthentication", &spec, &expected);
    }
    let mixed = r#"jwks: '{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}'"#;
    let warning = "spec.jwtRules[0].jwks: keys[0] is a shared secret (`oct`), which is not supported";
    check_warnings("RequestAuthentication", &rule(mixed), &[(3, warning)]);
}

#[test]
fn peer_authentications() {
    let mode = "must be one of UNSET, DISABLE, PERMISSIVE, STRICT, is";
    let with = |ports: &str| format!("selector: {{matchLabels: {{a: b}}}}\nportLevelMtls:\n  {ports}");
    for (spec, expected) in [
        ("mtls: STRICT".to_owned(), vec![(1, "spec.mtls: must be a map, is `STRICT`".to_owned())]),
        ("mtls: {mode: strict}".to_owned(), vec![(1, format!("spec.mtls.mode: {mode} `strict`"))]),
        ("mtls: {mod: STRICT}".to_owned(), vec![(1, "spec.mtls.mod: unknown field, did you mean `mode`?".to_owned())]),
        ("mtl: {}".to_owned(), vec![(1, "spec.mtl: unknown field, did you mean `mtls`?".to_owned())]),
        ("selector: {}\nportLevelMtls: {80: {}}".to_owned(), vec![(2, "spec.portLevelMtls: needs a selector with labels".to_owned())]),
        (with("0: {}"), vec![(3, "spec.portLevelMtls.0: the key must be a port from 1 to 65535, is `0`".to_owned())]),
        (with("65536: {}"), vec![(3, "spec.portLevelMtls.65536: the key must be a port from 1 to 65535, is `65536`".to_owned())]),
        (with("80: {mode: ALWAYS}"), vec![(3, format!("spec.portLevelMtls.80.mode: {mode} `ALWAYS`"))]),
    ] {
        let expected: Vec<_> = expected.iter().map(|(line, text)| (*line, text.as_str())).collect();
        check_spec("PeerAuthentication", &spec, &expected);
    }
}
