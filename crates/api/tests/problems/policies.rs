//! Policies.

use mizzen_api::Kind;

use crate::{WHO, check, check_spec, parse};

#[test]
fn a_refused_policy_says_whom_it_closes() {
    let head = "apiVersion: security.istio.io/v1\nkind: KIND\nmetadata:\n  name: x\n  namespace: shop\nspec:\n";
    let check = |spec: &str, labels: Option<&str>| {
        for kind in [Kind::AuthorizationPolicy, Kind::PeerAuthentication] {
            let parsed = parse(&format!("{}{spec}", head.replace("KIND", kind.name())));
            let closes = parsed.objects[0].as_ref().unwrap_err().closes.clone().unwrap();
            assert_eq!((closes.kind, &*closes.namespace), (kind, "shop"));
            assert_eq!(closes.selector.map(|s| s.labels["app"].clone()).as_deref(), labels, "{spec}");
        }
    };
    for (spec, labels) in [
        ("  selector: {matchLabels: {app: a}}\n  action: AUDIT\n", Some("a")),
        ("  selector: {matchLabels: {app: a}}\n  rules: [\n", None),
        ("  selector: {matchLabels: {app: a}}\n  rules: []\n  rules: []\n", Some("a")),
        ("  selector: {matchLabels: {app: 1}}\n", None),
        ("  selector: {matchLabels: {app: '*'}}\n  action: ALLOW\n", None),
        ("  selector: {matchLabels: {app: a, 'b c': x}}\n  action: ALLOW\n", None),
        ("  selector: {matchLabels: {app: a, 'b/': x}}\n  action: ALLOW\n", None),
        ("  action: AUDIT\n", None),
    ] {
        check(spec, labels);
    }
    let closes = |kind: &str| {
        let parsed = parse(&head.replace("KIND", kind));
        parsed.objects[0].as_ref().unwrap_err().closes.as_ref().map(|closes| closes.kind)
    };
    assert_eq!(closes("AuthorizationPolicie"), Some(Kind::AuthorizationPolicy));
    assert_eq!(closes("RequestAuthentication"), None, "another one");
    assert_eq!(closes("Servce"), None);
}

const CUSTOM_WITHOUT_RULES: &str = "spec: a CUSTOM policy without rules asks about nothing: write `rules: [{}]` to ask about all";

#[test]
fn authorization_policies() {
    for (spec, expected) in [
        ("action: AUDIT", vec![(1, format!("spec.action: AUDIT {WHO}"))]),
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
        ("targetRefs: []", vec![(1, format!("spec.targetRefs: {WHO}"))]),
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
            "rules:\n- from: [{source: {requestPrincipals: ['*']}}]\n",
            vec![(2, format!("spec.rules[0].from[0].source.requestPrincipals: {WHO}"))],
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
            vec![(2, "spec.rules[0].from[0].source: serviceAccounts exclude principals and namespaces".to_owned())],
        ),
        (
            "rules:\n- to: [{operation: {ports: [80]}}]\n",
            vec![(2, "spec.rules[0].to[0].operation.ports[0]: must be a text, is the number 80: put it in quotes".to_owned())],
        ),
        (
            "rules:\n- to: [{operation: {ports: ['70000']}}]\n",
            vec![(2, "spec.rules[0].to[0].operation.ports[0]: must be a port from 1 to 65535, is `70000`".to_owned())],
        ),
        (
            "rules:\n- to: [{operation: {paths: ['/a/{*}/b']}}]\n",
            vec![
                (2, "spec.rules[0].to[0].operation.paths[0]: `/a/{*}/b` may have one `*`, as its first or its last character".to_owned()),
                (2, format!("spec.rules[0].to[0].operation.paths[0]: a template {WHO}")),
            ],
        ),
        ("rules:\n- when: [{key: source.ip}]\n", vec![(2, "spec.rules[0].when[0]: must have values or notValues".to_owned())]),
        (
            "rules:\n- when: [{key: sorce.ip, values: [a]}]\n",
            vec![(2, "spec.rules[0].when[0].key: unknown key `sorce.ip`, did you mean `source.ip`?".to_owned())],
        ),
        (
            "rules:\n- when:\n  - key: request.auth.claims[a]\n    values: [b]\n",
            vec![(3, format!("spec.rules[0].when[0].key: `request.auth.claims[a]` {WHO}"))],
        ),
        (
            "rules:\n- when: [{key: 'request.headers[a b]', values: [b]}]\n",
            vec![(2, "spec.rules[0].when[0].key: `a b` is no header name".to_owned())],
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
    let dry = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, annotations: {istio.io/dry-run: 'true'}}\n";
    check(dry, &[&format!("a.yaml:1: AuthorizationPolicy default/x: annotation istio.io/dry-run {WHO}")]);
}
