//! What is refused, and what is warned of: one line each, with file, line, object and field.

use mizzen_api::{Kind, Parsed, parse_documents};

/// A document of a kind that is fine but for its spec (from the line after `spec:`).
fn doc(kind: &str, spec: &str) -> String {
    let version = match kind {
        "PeerAuthentication" | "AuthorizationPolicy" => "security.istio.io/v1",
        "VirtualService" | "DestinationRule" | "ServiceEntry" | "Gateway" => "networking.istio.io/v1",
        "Deployment" => "apps/v1",
        _ => "v1",
    };
    let body: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec:\n{body}")
}

fn parse(text: &str) -> Parsed {
    parse_documents(text, &"a.yaml".into())
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found: Vec<String> = parse(text).problems().map(ToString::to_string).collect();
    assert_eq!(found, expected, "of\n{text}");
}

/// `expected`: line after `spec:` and what follows the object's name.
#[track_caller]
fn check_spec(kind: &str, spec: &str, expected: &[(u32, &str)]) {
    let lines: Vec<String> = expected.iter().map(|(line, rest)| format!("a.yaml:{}: {kind} shop/x: {rest}", line + 4)).collect();
    check(&doc(kind, spec), &lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[track_caller]
fn check_warnings(kind: &str, spec: &str, expected: &[(u32, &str)]) {
    let parsed = parse(&doc(kind, spec));
    let problems: Vec<_> = parsed.problems().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:?}");
    let found: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    let expected: Vec<String> = expected.iter().map(|(line, rest)| format!("a.yaml:{}: {kind} shop/x: {rest}", line + 4)).collect();
    assert_eq!(found, expected, "of {spec}");
}

const WHO: &str = "is not supported yet, and ignoring it could change who may talk";
const WHERE: &str = "is not supported yet, and ignoring it could change where traffic goes";
const WHAT: &str = "is not supported yet, and ignoring it could change what is sent";
const RUNS: &str = "is not supported yet, and ignoring it could change what runs";

#[test]
fn documents() {
    for (text, expected) in [
        ("", &[][..]),
        ("---\n# nothing\n---\n", &[]),
        ("null\n", &[]),
        ("- 1\n", &["a.yaml:1: must be a map with apiVersion, kind and metadata, is a list"]),
        ("a: [\n", &["a.yaml:1: unclosed bracket '['"]),
        ("foo: bar\n", &["a.yaml:1: apiVersion: is required", "a.yaml:1: kind: is required"]),
        ("apiVersion: v1\nkind: Servce\nmetadata: {name: x}\n", &["a.yaml:2: kind: unknown kind `Servce`, did you mean Service?"]),
        ("apiVersion: v1\nkind: List\nitems: {}\n", &["a.yaml:2: kind: a List has its objects in a list `items`"]),
        ("apiVersion: v1\nkind: List\nitems: [1]\n", &["a.yaml:3: must be a map with apiVersion, kind and metadata, is the number 1"]),
        ("apiVersion: v1\nkind: Zebra\n", &["a.yaml:2: kind: unknown kind `Zebra`"]),
        ("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x}\n", &["a.yaml:2: kind: StatefulSet is not supported yet"]),
        (
            "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: x}\n",
            &["a.yaml:1: apiVersion: Deployment is read in apps/v1, not in `apps/v1beta1`"],
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: x}\n",
            &[
                "a.yaml:1: apiVersion: Gateway is read in networking.istio.io/v1, networking.istio.io/v1beta1, networking.istio.io/v1alpha3, not in `gateway.networking.k8s.io/v1`",
            ],
        ),
        // What follows from an unquoted word that YAML takes for something else is not told beside it.
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: y}\n", &["a.yaml:3: metadata.name: must be a text, is true: put it in quotes"]),
        (
            "apiVersion: 1\nkind: Namespace\nmetadata: {name: x}\n",
            &["a.yaml:1: Namespace x: apiVersion: must be a text, is the number 1: put it in quotes"],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: 1, creationTimestamp: 2}\nspec: {type: 3, ports: [{port: 1, protocol: 4}]}\n",
            &[
                "a.yaml:3: Service default/x: metadata.namespace: must be a text, is the number 1: put it in quotes",
                "a.yaml:3: Service default/x: metadata.creationTimestamp: must be a text, is the number 2: put it in quotes",
                "a.yaml:4: Service default/x: spec.type: must be a text, is the number 3: put it in quotes",
                "a.yaml:4: Service default/x: spec.ports[0].protocol: must be a text, is the number 4: put it in quotes",
            ],
        ),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {}\n", &["a.yaml:3: metadata.name: is required"]),
        ("apiVersion: v1\nkind: Namespace\n", &["a.yaml:1: metadata.name: is required"]),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: Shop, namespace: a}\n",
            &[
                "a.yaml:3: Namespace Shop: metadata.name: `Shop` is not a valid name: 1 to 63 lower-case letters, digits and inner hyphens",
                "a.yaml:3: Namespace Shop: metadata.namespace: a Namespace belongs to no namespace",
            ],
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: x\n  labels: {a: -b, c: 1}\n",
            &[
                "a.yaml:5: ServiceAccount default/x: metadata.labels.a: `-b` is no label value: letters, digits and inner `-`, `_`, `.`, at most 63",
                "a.yaml:5: ServiceAccount default/x: metadata.labels.c: must be a text, is the number 1: put it in quotes",
            ],
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: x\n  name: y\n",
            &["a.yaml:5: ServiceAccount default/x: `name` is written twice"],
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x, nmae: y}\n",
            &["a.yaml:3: ServiceAccount default/x: metadata.nmae: unknown field, did you mean `name`?"],
        ),
    ] {
        check(text, expected);
    }
}

#[test]
fn one_bad_document_leaves_the_others() {
    let good = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n";
    let text = format!("{good}---\nkind: Service\nmetadata:\n  name: b\n  x: [\n---\n{good}");
    let parsed = parse(&text);
    assert_eq!(parsed.good().count(), 2);
    let refusal = parsed.objects[1].as_ref().unwrap_err();
    assert_eq!(refusal.key.as_ref().unwrap().to_string(), "Service default/b");
    assert!(refusal.problems[0].to_string().starts_with("a.yaml:8: Service default/b: "), "{}", refusal.problems[0]);
}

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

#[test]
fn virtual_services() {
    let route = |route: &str| format!("hosts: [reviews]\nhttp:\n- {route}\n");
    for (spec, line, expected) in [
        (String::new(), 0, "spec.hosts: is required".to_owned()),
        ("hosts: [a]".to_owned(), 0, "spec: must have at least one route in http or tcp".to_owned()),
        ("hosts: [a, A]\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(), 1, "spec.hosts[1]: a is listed twice".to_owned()),
        (
            "hosts: ['a_b!']\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            1,
            "spec.hosts[0]: `a_b!` is not a valid part of a host name (letters, digits and inner hyphens, 1 to 63 of them)".to_owned(),
        ),
        (
            "hosts: ['*']\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            0,
            "spec: host `*` is not allowed for the sidecars: name `gateways` without `mesh`, or the host".to_owned(),
        ),
        ("hosts: [a]\ntls: [{}]".to_owned(), 2, format!("spec.tls: {WHERE}")),
        (route("match: []"), 3, "spec.http[0]: must have one of route, redirect, directResponse".to_owned()),
        (
            route("{route: [{destination: {host: a}}], redirect: {uri: /}}"),
            3,
            "spec.http[0].redirect: excludes `route`: only one of route, redirect, directResponse may be written".to_owned(),
        ),
        (route("{redirect: {uri: /}, rewrite: {uri: /}}"), 3, "spec.http[0]: rewrite needs a route".to_owned()),
        (route("route: []"), 3, "spec.http[0].route: must have at least one destination".to_owned()),
        (route("route: [{weight: 1}]"), 3, "spec.http[0].route[0].destination: is required".to_owned()),
        (route("route: [{destination: {subset: v1}}]"), 3, "spec.http[0].route[0].destination.host: is required".to_owned()),
        (route("route: [{destination: {host: '*.a'}}]"), 3, "spec.http[0].route[0].destination.host: must not be a wildcard".to_owned()),
        (
            route("route: [{destination: {host: a, port: {number: 0}}}]"),
            3,
            "spec.http[0].route[0].destination.port.number: must be between 1 and 65535, is 0".to_owned(),
        ),
        (
            route("route: [{destination: {host: a}, weight: -1}]"),
            3,
            "spec.http[0].route[0].weight: must be between 0 and 2147483647, is -1".to_owned(),
        ),
        (
            route("route: [{destination: {host: a}, weight: 1.5}]"),
            3,
            "spec.http[0].route[0].weight: must be a whole number, is the number 1.5".to_owned(),
        ),
        (
            route("route: [{destination: {host: a}}, {destination: {host: b}}]"),
            3,
            "spec.http[0].route: the sum of the weights must not be 0".to_owned(),
        ),
        (route("{route: [{destination: {host: a}}], corsPolicy: {}}"), 3, format!("spec.http[0].corsPolicy: {WHAT}")),
        (route("{route: [{destination: {host: a}}], mirror: {host: b}}"), 3, format!("spec.http[0].mirror: {WHERE}")),
        (route("delegate: {name: b}"), 3, format!("spec.http[0].delegate: {WHERE}")),
        (
            route("{route: [{destination: {host: a}}], timeoutt: 1s}"),
            3,
            "spec.http[0].timeoutt: unknown field, did you mean `timeout`?".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], timeout: 5}"),
            3,
            "spec.http[0].timeout: must be a text, is the number 5: put it in quotes".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], timeout: 5d}"),
            3,
            "spec.http[0].timeout: `5d` is no duration: write it as 1.5s, 300ms or 1h30m".to_owned(),
        ),
        (route("{route: [{destination: {host: a}}], timeout: -5s}"), 3, "spec.http[0].timeout: must not be negative, is -5s".to_owned()),
        (route("{route: [{destination: {host: a}}], timeout: 1us}"), 3, "spec.http[0].timeout: must be at least 1ms".to_owned()),
        (
            route("{route: [{destination: {host: a}}], retries: {attempts: 2, retryOn: '5xx,conect-failure'}}"),
            3,
            "spec.http[0].retries.retryOn: unknown condition `conect-failure`, did you mean `connect-failure`?".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], retries: {perTryTimeout: 1s}}"),
            3,
            "spec.http[0].retries: attempts is 0, so that nothing is retried; leave the other fields out or raise it".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], fault: {abort: {grpcStatus: UNAVAILABEL, percentage: {value: 1}}}}"),
            3,
            "spec.http[0].fault.abort.grpcStatus: unknown gRPC status `UNAVAILABEL`, did you mean `UNAVAILABLE`?".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], fault: {abort: {httpStatus: 503, percentage: {value: 101}}}}"),
            3,
            "spec.http[0].fault.abort.percentage.value: must be a number from 0 to 100, is the number 101".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], fault: {delay: {fixedDelay: 0s, percentage: {value: 1}}}}"),
            3,
            "spec.http[0].fault.delay.fixedDelay: must be at least 1ms".to_owned(),
        ),
        (route("{route: [{destination: {host: a}}], fault: {}}"), 3, "spec.http[0].fault: must have delay or abort".to_owned()),
        (
            route("{route: [{destination: {host: a}}], match: [{uri: {exact: a, prefix: b}}]}"),
            3,
            "spec.http[0].match[0].uri.prefix: excludes `exact`: only one of exact, prefix, regex may be written".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], match: [{uri: {}}]}"),
            3,
            "spec.http[0].match[0].uri: must have one of exact, prefix, regex".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], match: [{uri: {regex: 'a('}}]}"),
            3,
            "spec.http[0].match[0].uri.regex: `a(` is no regular expression: unclosed group".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], match: [{headers: {':path': {exact: a}}}]}"),
            3,
            "spec.http[0].match[0].headers.:path: `:path` has a field of its own: uri, scheme, method or authority".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {'a b': c}}}}"),
            3,
            "spec.http[0].headers.request.set[\"a b\"]: `a b` is no header name".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {a: \"b\\nc\"}}}}"),
            3,
            "spec.http[0].headers.request.set.a: a header's value has one line".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {a: '5%'}}}}"),
            3,
            "spec.http[0].headers.request.set.a: a lone percent sign is written `%%`".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {a: '%DURATON%'}}}}"),
            3,
            format!("spec.http[0].headers.request.set.a: command `DURATON` {WHAT}, did you mean `DURATION`?"),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {remove: [Host]}}}"),
            3,
            "spec.http[0].headers.request.remove[0]: `host` can only be set, and only in requests".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {response: {set: {':authority': b}}}}"),
            3,
            "spec.http[0].headers.response.set.:authority: `:authority` can only be set, and only in requests".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], rewrite: {uriRegexRewrite: {match: '(a)', rewrite: '\\2'}}}"),
            3,
            "spec.http[0].rewrite.uriRegexRewrite.rewrite: the expression has no group \\2".to_owned(),
        ),
        (route("directResponse: {body: {string: a}}"), 3, "spec.http[0].directResponse.status: is required".to_owned()),
        (
            route("redirect: {redirectCode: 200}"),
            3,
            "spec.http[0].redirect.redirectCode: must be one of 301, 302, 303, 307, 308, is the number 200".to_owned(),
        ),
        (
            "hosts: [a]\nexportTo: [A]\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            2,
            "spec.exportTo[0]: must be `*`, `.`, `~` or a namespace, is `A`".to_owned(),
        ),
        (
            "hosts: [a]\ngateways: [a/b/c]\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            2,
            "spec.gateways[0]: must be `mesh`, a Gateway's name or namespace/name, is `a/b/c`".to_owned(),
        ),
        (
            "hosts: [a]\ntcp: [{match: [{sourceSubnet: 1.2.3.4}], route: [{destination: {host: b}}]}]".to_owned(),
            2,
            format!("spec.tcp[0].match[0].sourceSubnet: {WHERE}"),
        ),
        (
            "hosts: [a]\nexport_to: ['*']\nexportTo: ['*']\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            3,
            "spec.exportTo: is the same field as `export_to` in line 6".to_owned(),
        ),
    ] {
        check_spec("VirtualService", &spec, &[(line, &expected)]);
    }
}

#[test]
fn destination_rules() {
    let policy = |policy: &str| format!("host: a\ntrafficPolicy:\n  {policy}\n");
    for (spec, line, expected) in [
        ("subsets: []".to_owned(), 0, "spec.host: is required".to_owned()),
        ("host: a\nsubsets:\n- labels: {a: b}".to_owned(), 3, "spec.subsets[0].name: is required".to_owned()),
        ("host: a\nsubsets:\n- name: v1\n- name: v1".to_owned(), 4, "spec.subsets[1]: there are two subsets `v1`".to_owned()),
        ("host: a\nworkloadSelector: {}".to_owned(), 2, format!("spec.workloadSelector: {WHERE}")),
        (policy("loadBalancer: {consistentHash: {}}"), 3, format!("spec.trafficPolicy.loadBalancer.consistentHash: {WHERE}")),
        (policy("loadBalancer: {simple: ROUNDROBIN}"), 3, "spec.trafficPolicy.loadBalancer.simple: must be one of UNSPECIFIED, LEAST_CONN, RANDOM, PASSTHROUGH, ROUND_ROBIN, LEAST_REQUEST, is `ROUNDROBIN`".to_owned()),
        (policy("tls: {mode: SIMPLE}"), 3, format!("spec.trafficPolicy.tls.mode: SIMPLE {WHO}")),
        (policy("tls: {mode: ISTIO_MUTUAL, sni: a}"), 3, format!("spec.trafficPolicy.tls.sni: {WHO}")),
        (policy("tunnel: {}"), 3, format!("spec.trafficPolicy.tunnel: {WHAT}")),
        (policy("connectionPool: {tcp: {connectTimeout: 0s}}"), 3, "spec.trafficPolicy.connectionPool.tcp.connectTimeout: must be at least 1ms".to_owned()),
        (policy("connectionPool: {http: {useClientProtocol: true}}"), 3, format!("spec.trafficPolicy.connectionPool.http.useClientProtocol: {WHAT}")),
        (policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE}}"), 3, format!("spec.trafficPolicy.connectionPool.http.h2UpgradePolicy: UPGRADE {WHAT}")),
        (policy("outlierDetection: {maxEjectionPercent: 101}"), 3, "spec.trafficPolicy.outlierDetection.maxEjectionPercent: must be between 0 and 100, is 101".to_owned()),
        (policy("portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]"), 3, "spec.trafficPolicy.portLevelSettings[1]: port 80 is set twice".to_owned()),
        (policy("portLevelSettings: [{port: {number: 80}, portLevelSettings: []}]"), 3, "spec.trafficPolicy.portLevelSettings[0].portLevelSettings: unknown field".to_owned()),
    ] {
        check_spec("DestinationRule", &spec, &[(line, &expected)]);
    }
}

#[test]
fn service_entries_and_gateways() {
    let entry = |rest: &str| format!("hosts: [a.example]\nports: [{{number: 80, name: http}}]\n{rest}\n");
    for (spec, line, expected) in [
        ("ports: [{number: 80, name: http}]".to_owned(), 0, "spec.hosts: is required".to_owned()),
        ("hosts: []\nports: [{number: 80, name: http}]".to_owned(), 1, "spec.hosts: is required".to_owned()),
        ("hosts: [a.example]".to_owned(), 0, "spec.ports: is required".to_owned()),
        ("hosts: [a.example]\nports: [{number: 80}]".to_owned(), 2, "spec.ports[0].name: is required".to_owned()),
        (
            "hosts: [a.example]\nports: [{number: 80, name: a, protocol: HTPP}]".to_owned(),
            2,
            "spec.ports[0].protocol: unknown protocol `HTPP`: HTTP, HTTP2, HTTPS, GRPC, GRPC-Web, TLS, TCP, Mongo, MySQL, Redis or UDP"
                .to_owned(),
        ),
        (
            "hosts: [a.example]\nports: [{number: 80, name: a}, {number: 80, name: b}]".to_owned(),
            2,
            "spec.ports[1]: port 80 is listed twice".to_owned(),
        ),
        (
            "hosts: ['*.a']\nports: [{number: 80, name: a}]\nresolution: DNS".to_owned(),
            1,
            "spec.hosts: *.a cannot be resolved: a wildcard needs endpoints, or resolution NONE".to_owned(),
        ),
        (entry("resolution: STATIC"), 3, "spec.resolution: STATIC needs endpoints or a workloadSelector".to_owned()),
        (entry("endpoints: [{address: 1.2.3.4}]"), 3, "spec.endpoints: need resolution STATIC or DNS".to_owned()),
        (
            entry("endpoints: [{address: b.example}]\nresolution: STATIC"),
            3,
            "spec.endpoints: resolution STATIC needs IP addresses".to_owned(),
        ),
        (
            entry("endpoints: [{address: 1.2.3.4, ports: {web: 1}}]\nresolution: STATIC"),
            3,
            "spec.endpoints[0]: port `web` is none of this service's".to_owned(),
        ),
        (entry("endpoints: [{address: 'unix:///a'}]\nresolution: DNS"), 3, format!("spec.endpoints[0].address: a Unix socket {WHERE}")),
        (entry("resolution: DYNAMIC_DNS"), 3, format!("spec.resolution: DYNAMIC_DNS {WHERE}")),
        (entry("addresses: [10.0.0.0/8]\nresolution: DNS"), 3, "spec.addresses: a range needs resolution NONE or STATIC".to_owned()),
        (entry("subjectAltNames: [a]"), 3, format!("spec.subjectAltNames: {WHO}")),
    ] {
        check_spec("ServiceEntry", &spec, &[(line, &expected)]);
    }
    let server = |rest: &str| format!("servers:\n- {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']{rest}}}\n");
    for (spec, line, expected) in [
        ("selector: {}".to_owned(), 0, "spec.servers: is required".to_owned()),
        ("servers: []".to_owned(), 1, "spec.servers: must have at least one server".to_owned()),
        ("servers: [{hosts: ['*']}]".to_owned(), 1, "spec.servers[0].port: is required".to_owned()),
        (
            "servers: [{port: {number: 443, protocol: HTTPS}, hosts: ['*']}]".to_owned(),
            1,
            format!("spec.servers[0].port.protocol: HTTPS {WHERE}: a gateway's port is HTTP, HTTP2 or GRPC"),
        ),
        ("servers: [{port: {number: 80, protocol: HTTP}}]".to_owned(), 1, "spec.servers[0].hosts: is required".to_owned()),
        (server(", tls: {}"), 2, format!("spec.servers[0].tls: {WHO}")),
        (server(", bind: 1.2.3.4"), 2, format!("spec.servers[0].bind: {WHERE}")),
    ] {
        check_spec("Gateway", &spec, &[(line, &expected)]);
    }
}

#[test]
fn services() {
    for (spec, line, expected) in [
        ("selector: {a: b}", 0, "spec.ports: is required".to_owned()),
        ("ports: [{name: a}]", 1, "spec.ports[0].port: is required".to_owned()),
        ("ports: [{port: 70000}]", 1, "spec.ports[0].port: must be between 1 and 65535, is 70000".to_owned()),
        ("ports: [{port: '80'}]", 1, "spec.ports[0].port: must be a whole number, is `80`".to_owned()),
        ("ports: [{port: 1, name: a}, {port: 2}]", 1, "spec.ports[1]: needs a name, since there are several ports".to_owned()),
        ("ports: [{port: 1, name: a}, {port: 1, name: b}]", 1, "spec.ports[1]: port 1 is listed twice".to_owned()),
        (
            "ports: [{port: 1, targetPort: '80'}]",
            1,
            "spec.ports[0].targetPort: `80` is no port's name: at most 15 lower-case letters, digits and hyphens, and a letter".to_owned(),
        ),
        ("ports: [{port: 1, protocol: SCTP}]", 1, format!("spec.ports[0].protocol: SCTP {WHERE}")),
        ("ports: [{port: 1}]\ntype: ExternalName", 2, format!("spec.type: ExternalName {WHERE}; use a ServiceEntry")),
        ("ports: [{port: 1}]\nclusterIP: no", 2, "spec.clusterIP: must be a text, is false: put it in quotes".to_owned()),
        ("ports: [{port: 1}]\nselectr: {a: b}", 2, "spec.selectr: unknown field, did you mean `selector`?".to_owned()),
        (
            "ports: [{port: 1}]\nsessionAffinityConfig: {clientIP: {timeout: 1}}",
            2,
            "spec.sessionAffinityConfig.clientIP.timeout: unknown field".to_owned(),
        ),
    ] {
        check_spec("Service", spec, &[(line, &expected)]);
    }
    check_warnings(
        "Service",
        "ports: [{port: 1, nodePort: 30000}]\ntype: NodePort\nsessionAffinity: ClientIP\nexternalIPs: [1.2.3.4]",
        &[
            (2, "spec.type: is treated as ClusterIP"),
            (3, "spec.sessionAffinity: is not acted on yet"),
            (4, "spec.externalIPs: is not acted on yet"),
        ],
    );
}

#[test]
fn deployments() {
    let pod = |rest: &str| {
        format!(
            "selector: {{matchLabels: {{app: x}}}}\ntemplate:\n  metadata: {{labels: {{app: x}}}}\n  spec:\n    containers:\n    - name: a\n      command: [a]\n      {rest}\n"
        )
    };
    let spec = "spec.template.spec";
    for (text, line, expected) in [
        ("template: {spec: {containers: [{name: a, command: [a]}]}}".to_owned(), 0, "spec.selector: is required".to_owned()),
        (
            "selector: {matchLabels: {a: b}}\ntemplate: {spec: {containers: [{name: a, command: [a]}]}}".to_owned(),
            1,
            "spec.selector: selects labels that spec.template.metadata.labels does not carry".to_owned(),
        ),
        (
            pod("env: [{name: A, value: 1}]"),
            8,
            format!("{spec}.containers[0].env[0].value: must be a text, is the number 1: put it in quotes"),
        ),
        (
            pod("env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]"),
            8,
            format!("{spec}.containers[0].env[0].valueFrom.secretKeyRef: {RUNS}"),
        ),
        (
            pod("env: [{name: A, valueFrom: {fieldRef: {fieldPath: a.b}}}]"),
            8,
            format!("{spec}.containers[0].env[0].valueFrom.fieldRef.fieldPath: `a.b` is no field of a pod that can be read here"),
        ),
        (pod("readinessProbe: {grpc: {port: 1}}"), 8, format!("{spec}.containers[0].readinessProbe.grpc: {RUNS}")),
        (
            pod("readinessProbe: {periodSeconds: 1}"),
            8,
            format!("{spec}.containers[0].readinessProbe: must have one of httpGet, tcpSocket, exec"),
        ),
        (
            pod("readinessProbe: {tcpSocket: {port: web}}"),
            8,
            format!("{spec}.containers[0].readinessProbe.tcpSocket.port: the container has no port `web`"),
        ),
        (pod("volumeMounts: [{name: v, mountPath: /v}]"), 8, format!("{spec}.containers[0].volumeMounts[0].name: there is no volume `v`")),
        (pod("lifecycle: {}"), 8, format!("{spec}.containers[0].lifecycle: {RUNS}")),
        (pod("comand: [b]"), 8, format!("{spec}.containers[0].comand: unknown field, did you mean `command`?")),
        (pod("resources: {limit: {cpu: 1}}"), 8, format!("{spec}.containers[0].resources.limit: unknown field")),
        (pod("resources: {limits: 1}"), 8, format!("{spec}.containers[0].resources.limits: invalid type: integer `1`, expected a map")),
        (pod("\n    initContainers: []"), 9, format!("{spec}.initContainers: {RUNS}")),
        (pod("\n    - name: b\n      command: [b]"), 5, format!("{spec}.containers: 2 containers: more than one {RUNS}")),
        (
            pod("\n    volumes: [{name: v, hostPath: {path: /}}]"),
            9,
            format!("{spec}.volumes[0]: must have configMap or emptyDir, the kinds of volume that are supported so far"),
        ),
        (pod("\n    hostNetwork: true"), 9, format!("{spec}.hostNetwork: {RUNS}")),
    ] {
        check_spec("Deployment", &text, &[(line, &expected)]);
    }
    let no_command =
        "selector: {matchLabels: {app: x}}\ntemplate:\n  metadata: {labels: {app: x}}\n  spec: {containers: [{name: a, image: b}]}";
    check_spec(
        "Deployment",
        no_command,
        &[(4, "spec.template.spec.containers[0].command: is required: images are not run here, the program is started by its command")],
    );
    check_warnings(
        "Deployment",
        &pod("image: a\n      resources: {limits: {cpu: 1, memory: 1Gi}}\n      livenessProbe: {tcpSocket: {port: 1}}"),
        &[
            (9, "spec.template.spec.containers[0].resources: is not acted on yet"),
            (10, "spec.template.spec.containers[0].livenessProbe: is not acted on yet"),
        ],
    );
}

#[test]
fn warnings_of_deployments() {
    check_warnings(
        "Deployment",
        "selector: {matchLabels: {app: a}}\nstrategy: {type: Recreate}\ntemplate:\n  metadata:\n    labels: {app: a}\n    annotations: {sidecar.istio.io/inject: 'false'}\n  spec:\n    dnsPolicy: Default\n    nodeSelector: {disk: fast}\n    containers:\n    - {name: a, image: x, command: [a], resources: {limits: {memory: 1Gi}}}\n",
        &[
            (2, "spec.strategy: is not acted on yet"),
            (
                6,
                "spec.template.metadata.annotations[\"sidecar.istio.io/inject\"]: is not acted on: every program that the mesh starts has a sidecar",
            ),
            (9, "spec.template.spec.nodeSelector: is not acted on yet"),
            (8, "spec.template.spec.dnsPolicy: is not acted on yet"),
            (11, "spec.template.spec.containers[0].resources: is not acted on yet"),
        ],
    );
}

#[test]
fn warnings_of_istio() {
    check_warnings(
        "VirtualService",
        "hosts: [a]\nhttp:\n- match: [{statPrefix: a, ignoreUriCase: true, uri: {regex: b}}]\n  route: [{destination: {host: a}}]",
        &[
            (3, "spec.http[0].match[0]: ignoreUriCase has no effect on a regex"),
            (3, "spec.http[0].match[0].statPrefix: is not acted on yet"),
        ],
    );
    check_warnings(
        "DestinationRule",
        "host: a\ntrafficPolicy:\n  connectionPool:\n    tcp: {tcpKeepalive: {time: 1s}}\n    http: {http2KeepAlive: {}, h2UpgradePolicy: DO_NOT_UPGRADE, useClientProtocol: false}\n",
        &[
            (4, "spec.trafficPolicy.connectionPool.tcp.tcpKeepalive: is not acted on yet"),
            (5, "spec.trafficPolicy.connectionPool.http.http2KeepAlive: is not acted on yet"),
        ],
    );
    check_warnings(
        "AuthorizationPolicy",
        "action: DENY",
        &[(0, "spec: a DENY policy without rules never denies; write `rules: [{}]` to deny all")],
    );
}
