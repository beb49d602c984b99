//! What is refused, and what is warned of: one line each, with file, line, object and field.

mod kubernetes;
mod policies;
mod routing;
mod traffic;

use mizzen_api::{Parsed, parse_documents};

/// A document of a kind that is fine but for its spec (from the line after `spec:`).
fn doc(kind: &str, spec: &str) -> String {
    let version = match kind {
        "PeerAuthentication" | "AuthorizationPolicy" => "security.istio.io/v1",
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
