//! What is refused, and what is warned of: one line each, with file, line, object and field.

mod kubernetes;
mod policies;
mod routing;
mod rules;
mod traffic;

use mizzen_api::{Parsed, parse_documents};

/// A document of a kind that is fine but for its spec (from the line after `spec:`).
fn doc(kind: &str, spec: &str) -> String {
    let version = match kind {
        "PeerAuthentication" | "RequestAuthentication" | "AuthorizationPolicy" => "security.istio.io/v1",
        "VirtualService" | "DestinationRule" | "ServiceEntry" | "Gateway" | "Sidecar" => "networking.istio.io/v1",
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
        ("apiVersion: v1\nkind: List\nitems: {}\n", &["a.yaml:2: kind: a List has its objects in a list `items`"]),
        ("apiVersion: v1\nkind: List\nitems: [1]\n", &["a.yaml:3: must be a map with apiVersion, kind and metadata, is the number 1"]),
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

/// `apiVersion` and `kind` of an object named `x`, and what is wrong with them.
#[test]
fn kinds() {
    const ISTIO: &str = "Gateway is read in networking.istio.io/v1, networking.istio.io/v1beta1, networking.istio.io/v1alpha3, not in";
    let istio = |what: &str, version: &str| format!("1: {what}apiVersion: {ISTIO} `{version}`");
    for (api_version, kind, expected) in [
        // Two groups have a Gateway.
        ("gateway.networking.k8s.io/v1", "Gateway", "2: kind: Gateway.gateway.networking.k8s.io is not supported yet".to_owned()),
        ("gateway.networking.k8s.io/v1beta1", "Gateway", "2: kind: Gateway.gateway.networking.k8s.io is not supported yet".to_owned()),
        ("gateway.networking.k8s.io/v1", "Gatway", "2: kind: unknown kind `Gatway`, did you mean Gateway?".to_owned()),
        ("networking.istio.io/v1", "Gatway", "2: kind: unknown kind `Gatway`, did you mean Gateway?".to_owned()),
        ("v1", "Gatway", "2: kind: unknown kind `Gatway`, did you mean Gateway or Gateway.gateway.networking.k8s.io?".to_owned()),
        ("v1", "Gateway", istio("", "v1")),
        ("gateway.networking.k8s.io", "Gateway", istio("", "gateway.networking.k8s.io")),
        ("networking.istio.io/v2", "Gateway", istio("Gateway default/x: ", "networking.istio.io/v2")),
        ("", "Gateway", "1: apiVersion: is required: Gateway is a kind of networking.istio.io and of gateway.networking.k8s.io".to_owned()),
        // A wrong group.
        ("policy/v1", "Service", "1: apiVersion: Service is read in v1, not in `policy/v1`".to_owned()),
        ("v1", "StatefulSet", "1: apiVersion: StatefulSet is a kind of apps, not of `v1`".to_owned()),
        ("apps/v1", "Node", "1: apiVersion: Node is a kind of v1, not of `apps/v1`".to_owned()),
        // A version that is not read.
        (
            "apps/v1beta1",
            "Deployment",
            "1: Deployment default/x: apiVersion: Deployment is read in apps/v1, not in `apps/v1beta1`".to_owned(),
        ),
        ("/v1", "Service", "1: Service default/x: apiVersion: Service is read in v1, not in `/v1`".to_owned()),
        // No apiVersion.
        ("", "Service", "1: Service default/x: apiVersion: is required".to_owned()),
        ("", "Job", "1: apiVersion: is required\n2: kind: Job is not supported yet".to_owned()),
        ("", "Servce", "1: apiVersion: is required\n2: kind: unknown kind `Servce`, did you mean Service?".to_owned()),
        // Another kind, or none.
        ("v1", "Servce", "2: kind: unknown kind `Servce`, did you mean Service?".to_owned()),
        ("v1", "service", "2: kind: unknown kind `service`, did you mean Service?".to_owned()),
        ("v1", "Zebra", "2: kind: unknown kind `Zebra`".to_owned()),
        ("v1", "MeshConfig", "2: kind: unknown kind `MeshConfig`".to_owned()),
        ("v1", "''", "2: kind: is required".to_owned()),
        ("apps/v1", "StatefulSet", "2: kind: StatefulSet is not supported yet".to_owned()),
        ("telemetry.istio.io/v1", "Telemetry", "2: kind: Telemetry is not supported yet".to_owned()),
        ("v1", "IssuerKeys", "2: kind: unknown kind `IssuerKeys`".to_owned()),
    ] {
        let check_lines = |text: String, expected: String| {
            let lines: Vec<String> = expected.lines().map(|line| format!("a.yaml:{line}")).collect();
            check(&text, &lines.iter().map(String::as_str).collect::<Vec<_>>());
        };
        let rest = format!("kind: {kind}\nmetadata: {{name: x}}\n");
        if api_version.is_empty() {
            // The field is not there; a line above, so that the others stand where they stood.
            check_lines(format!("---\n{rest}"), expected.replace("1: ", "2: "));
        }
        check_lines(format!("apiVersion: '{api_version}'\n{rest}"), expected);
    }
}

#[test]
fn two_kinds_of_one_name_side_by_side() {
    let gateway = |version: &str, spec: &str| format!("apiVersion: {version}\nkind: Gateway\nmetadata: {{name: x}}\nspec: {spec}\n");
    let istio = gateway("networking.istio.io/v1", "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}");
    let other = gateway("gateway.networking.k8s.io/v1", "{gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}]}");
    for text in [format!("{istio}---\n{other}"), format!("{other}---\n{istio}")] {
        let parsed = parse(&text);
        assert_eq!(parsed.good().map(|object| object.key().to_string()).collect::<Vec<_>>(), ["Gateway default/x"]);
        let refused: Vec<_> = parsed.objects.iter().filter_map(|object| object.as_ref().err()).collect();
        // It is no claim to the object of the other kind, whose last good version it would otherwise hold in force.
        assert_eq!(refused.iter().map(|refusal| (refusal.key.clone(), refusal.is_other)).collect::<Vec<_>>(), [(None, true)]);
    }
}

/// What a refused document leaves open: whether it may be one of the objects that are read.
#[test]
fn documents_of_other_kinds() {
    for (text, is_other) in [
        ("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x}\n", true),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: x}\n", true),
        // No YAML, but what it was to be is clear.
        ("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x\n", true),
        ("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x, name: y}\n", true),
        ("kind: Node\nmetadata: {name: x}\n", false),
        ("kind: Gateway\nmetadata: {name: x}\n", false),
        ("apiVersion: v1\nkind: StatefulSet\nmetadata: {name: x}\n", false),
        ("apiVersion: v1\nkind: Servce\nmetadata: {name: x}\n", false),
    ] {
        let refused: Vec<bool> = parse(text).objects.iter().filter_map(|o| o.as_ref().err()).map(|refusal| refusal.is_other).collect();
        assert_eq!(refused, [is_other], "{text}");
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
