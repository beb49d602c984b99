//! Routes that one object leaves to another.

use super::snapshot;
use crate::Reader;

/// The routes of `root`, whose one route has these fields beside its delegate, as they hold: name, first condition and timeout of each.
fn routes(root: &str, delegate: &str) -> Vec<String> {
    let text = |name: &str, spec: &str| {
        format!(
            "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: {}}}
spec: {{{spec}}}
",
            if name == "root" { "shop" } else { "bank" }
        )
    };
    let root = format!("hosts: [a.example], gateways: [edge], http: [{{delegate: {{name: of, namespace: bank}}, {root}}}]");
    let snapshot = snapshot(&[&text("root", &root), &text("of", delegate)]);
    let reader = Reader::new(&snapshot);
    let found = reader.bound_to(&"shop/edge".parse().unwrap());
    let of = |route: &mizzen_api::routing::HttpRoute| {
        let matches: Vec<String> =
            route.matches.iter().map(|m| format!("{:?} {:?} {:?} {:?}", m.uri, m.port, m.headers, m.source_labels)).collect();
        format!("{} {:?} {:?} {:?}", route.name.as_deref().unwrap_or("-"), matches, route.timeout, route.action)
    };
    found[0].http.iter().map(of).collect()
}

#[test]
fn conditions_within_conditions() {
    for (root, of, expected) in [
        ("", "", Some("")),
        ("match: [{uri: {prefix: /a}}]", "", Some("Prefix(\"/a\")")),
        ("", "match: [{uri: {prefix: /a}}]", Some("Prefix(\"/a\")")),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /a/b}}]", Some("Prefix(\"/a/b\")")),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {exact: /a/b}}]", Some("Exact(\"/a/b\")")),
        ("match: [{uri: {prefix: /a/b}}]", "match: [{uri: {prefix: /a}}]", None),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {exact: /b}}]", None),
        ("match: [{uri: {exact: /a}}]", "match: [{uri: {exact: /a}}]", Some("Exact(\"/a\")")),
        ("match: [{uri: {exact: /a}}]", "match: [{uri: {exact: /b}}]", None),
        ("match: [{uri: {exact: /a}}]", "match: [{uri: {prefix: /a}}]", None),
        ("match: [{uri: {regex: /a}}]", "match: [{uri: {exact: /a}}]", None),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {regex: /a/b}}]", None),
        ("match: [{uri: {regex: /a}}]", "match: [{headers: {x: {exact: a}}}]", Some("Some(Regex(\"/a\")) None {\"x\": Exact(\"a\")}")),
        ("match: [{uri: {prefix: /a}, ignoreUriCase: true}]", "match: [{uri: {prefix: /a}}]", None),
        ("match: [{port: 80}]", "match: [{port: 81}]", None),
        ("match: [{port: 80}]", "match: [{uri: {exact: /a}}]", Some("Some(Exact(\"/a\")) Some(80)")),
        (
            "match: [{headers: {x: {prefix: a}}}]",
            "match: [{headers: {x: {exact: ab}, y: {}}}]",
            Some("{\"x\": Exact(\"ab\"), \"y\": Present}"),
        ),
        ("match: [{headers: {x: {exact: a}}}]", "match: [{headers: {x: {}}}]", Some("{\"x\": Exact(\"a\")}")),
        ("match: [{headers: {x: {exact: a}}}]", "match: [{headers: {x: {exact: b}}}]", None),
        ("match: [{sourceLabels: {a: b}}]", "match: [{sourceLabels: {c: d}}]", Some("{\"a\": \"b\", \"c\": \"d\"}")),
        ("match: [{sourceLabels: {a: b}}]", "match: [{sourceLabels: {a: c}}]", None),
        ("match: [{sourceNamespace: a}]", "match: [{sourceNamespace: b}]", None),
        // One that fits none leaves out the whole route.
        ("match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}]", "match: [{uri: {exact: /b/c}}]", Some("[\"Some(Exact(\\\"/b/c\\\")")),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {exact: /a/c}}, {uri: {exact: /b}}]", None),
    ] {
        let delegate = format!("http: [{{route: [{{destination: {{host: x}}}}]{}{of}}}]", if of.is_empty() { "" } else { ", " });
        let found = routes(root, &delegate);
        match expected {
            None => assert!(found.is_empty(), "{root} with {of}: {found:?}"),
            Some(part) => {
                let text = found.concat();
                assert!(
                    found.len() == 1 && (text.contains(part) || text.replace("\\\"", "\"").contains(part)),
                    "{root} with {of}: {found:#?}"
                );
            }
        }
    }
}

#[test]
fn what_the_delegate_does_not_say() {
    let own =
        "http: [{name: own, timeout: 1s, route: [{destination: {host: x}}]}, {route: [{destination: {host: y.z}}]}, {redirect: {uri: /}}]";
    let found = routes("name: root, timeout: 5s", own);
    assert_eq!(found.len(), 3);
    let parts =
        [("root-own ", "Some(1s)", "\"x.bank.svc.cluster.local\""), ("root ", "Some(5s)", "\"y.z\""), ("root ", "Some(5s)", "Redirect")];
    for (route, (name, timeout, to)) in found.iter().zip(parts) {
        assert!(route.starts_with(name) && route.contains(timeout) && route.contains(to), "{route}");
    }
}

#[test]
fn who_is_no_delegate() {
    for spec in [
        // It has hosts, or is not for the other one's namespace.
        "hosts: [b.example], http: [{route: [{destination: {host: x}}]}]",
        "exportTo: ['.'], http: [{route: [{destination: {host: x}}]}]",
    ] {
        assert!(routes("", spec).is_empty(), "{spec}");
    }
}

#[test]
fn what_is_left_out_is_told() {
    let text = |name: &str, spec: &str| {
        format!(
            "{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{{spec}}}}}"
        )
    };
    let root = text(
        "root",
        "hosts: [a.example], gateways: [edge], http: [{match: [{uri: {prefix: /a}}], delegate: {name: of}}, {delegate: {name: nobody}}, {delegate: {name: root}}]",
    );
    let of = text("of", "http: [{route: [{destination: {host: x}}]}, {match: [{uri: {prefix: /b}}], route: [{destination: {host: x}}]}]");
    let said: Vec<String> =
        crate::check(&snapshot(&[&root, &of])).iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
    let missing =
        |name: &str| format!("there is no VirtualService shop/{name} without hosts that namespace shop may use: nothing is routed so");
    assert_eq!(
        said,
        [
            "spec.http[0].delegate: route 1 of shop/of (test.yaml:1) is left out: its conditions are not within those that stand here"
                .to_owned(),
            format!("spec.http[1].delegate: {}", missing("nobody")),
            format!("spec.http[2].delegate: {}", missing("root")),
        ]
    );
}
