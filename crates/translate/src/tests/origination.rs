//! TLS to servers that are not of the mesh, and who is given what for it.

use mizzen_model::{ProxyType, ProxyView, Reader, Snapshot};

use super::{facts, reviews, shop, summary::show, visitor};
use crate::{ResourceKind, build};

/// A server beyond the mesh with ports of several kinds.
const ENTRY: &str = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 443}
  - {number: 81, name: grpc, protocol: GRPC, targetPort: 443}
  - {number: 82, name: tcp, protocol: TCP, targetPort: 443}
  - {number: 83, name: any, targetPort: 443}
  - {number: 443, name: https, protocol: HTTPS}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: all, namespace: shop}
spec: {hosts: ['*.wide.example'], location: MESH_EXTERNAL, resolution: NONE, ports: [{number: 90, name: tcp, protocol: TCP}]}
";

fn rule(name: &str, spec: &str) -> String {
    format!(
        "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: shop}}
spec: {{{spec}}}
"
    )
}

fn tls(tls: &str) -> String {
    rule("outside", &format!("host: api.example, trafficPolicy: {{tls: {{{tls}}}}}"))
}

fn egress() -> ProxyView {
    facts(ProxyType::Router, "10.0.0.98", "shop", &[("istio", "egressgateway")]).into()
}

fn cluster(snapshot: &Snapshot, view: &ProxyView, name: &str) -> String {
    show(snapshot, view, ResourceKind::Cluster, name)
}

/// `expected`: what of HTTP's options the first line has, and what TLS does.
#[track_caller]
fn check(snapshot: &Snapshot, name: &str, expected: [&str; 2]) {
    let text = cluster(snapshot, &visitor(), name);
    let first = text.lines().next().unwrap_or_default();
    let options = first.split(' ').filter(|word| matches!(*word, "http1" | "http2" | "as-received" | "auto-sni" | "auto-san"));
    let tls = text.lines().find_map(|line| line.strip_prefix("  always: tls ")).unwrap_or_default();
    assert_eq!([options.collect::<Vec<_>>().join(" ").as_str(), tls], expected, "{name}\n{text}");
}

#[test]
fn by_the_protocol_of_the_port() {
    let wide = rule("wide", "host: '*.wide.example', trafficPolicy: {tls: {mode: SIMPLE}}");
    let snapshot = shop(&[ENTRY, &tls("mode: SIMPLE, caCertificates: /ca.pem"), &wide]);
    for (name, options, tls) in [
        ("80||api.example", "http1 auto-sni auto-san", r#"shows [] verified by file-root:/ca.pem names [] sni "" alpn []"#),
        ("81||api.example", "http2 auto-sni auto-san", r#"shows [] verified by file-root:/ca.pem names [] sni "" alpn ["h2"]"#),
        ("82||api.example", "", r#"shows [] verified by file-root:/ca.pem names ["api.example"] sni "api.example" alpn []"#),
        (
            "443||api.example",
            "http1 auto-sni auto-san",
            r#"shows [] verified by file-root:/ca.pem names [] sni "api.example (verified)" alpn []"#,
        ),
        ("90||*.wide.example", "", r#"shows [] verified by file-root:system names [] sni "" alpn []"#),
    ] {
        check(&snapshot, &format!("outbound|{name}"), [options, tls]);
    }
    // What is not declared is either.
    let text = cluster(&snapshot, &visitor(), "outbound|83||api.example");
    assert!(text.contains(" as-received auto-sni auto-san") && text.contains(r#"names [] sni "api.example (verified)" alpn []"#), "{text}");
}

#[test]
fn by_what_is_written() {
    let auto = "http1 auto-sni auto-san";
    for (written, options, tls_is) in [
        ("mode: SIMPLE", auto, r#"shows [] verified by file-root:system names [] sni "" alpn []"#),
        (
            "mode: SIMPLE, caCertificates: system, caCrl: /crl.pem",
            auto,
            r#"shows [] verified by file-root:system~/crl.pem names [] sni "" alpn []"#,
        ),
        ("mode: SIMPLE, insecureSkipVerify: true", "http1 auto-sni", r#"shows [] verified by nobody sni "" alpn []"#),
        ("mode: SIMPLE, insecureSkipVerify: true, sni: b.example", "", r#"shows [] verified by nobody sni "b.example" alpn []"#),
        (
            "mode: SIMPLE, caCertificates: /ca.pem, sni: b.example",
            "",
            r#"shows [] verified by file-root:/ca.pem names [] sni "b.example" alpn []"#,
        ),
        (
            "mode: SIMPLE, caCertificates: /ca.pem, subjectAltNames: [b.example, 'spiffe://c']",
            "http1 auto-sni",
            r#"shows [] verified by file-root:/ca.pem names ["b.example", "spiffe://c"] sni "" alpn []"#,
        ),
        (
            "mode: SIMPLE, caCertificates: /ca.pem, caCrl: /crl.pem, sni: b.example, subjectAltNames: [c.example]",
            "",
            r#"shows [] verified by file-root:/ca.pem~/crl.pem names ["c.example"] sni "b.example" alpn []"#,
        ),
        (
            "mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem",
            auto,
            r#"shows ["file-cert:/c.pem~/k.pem"] verified by file-root:/ca.pem names [] sni "" alpn []"#,
        ),
    ] {
        check(&shop(&[ENTRY, &tls(written)]), "outbound|80||api.example", [options, tls_is]);
    }
}

#[test]
fn names_of_the_entry() {
    let entry = ENTRY.replace("hosts: [api.example]", "hosts: [api.example]\n  subjectAltNames: [a.example, 'spiffe://b']");
    let named = r#"names ["a.example", "spiffe://b"]"#;
    for (written, name, options, tls_is) in [
        ("mode: SIMPLE", "80", "http1 auto-sni", format!(r#"shows [] verified by file-root:system {named} sni "" alpn []"#)),
        ("mode: SIMPLE, sni: c.example", "80", "", format!(r#"shows [] verified by file-root:system {named} sni "c.example" alpn []"#)),
        ("mode: SIMPLE", "82", "", format!(r#"shows [] verified by file-root:system {named} sni "api.example" alpn []"#)),
        (
            "mode: SIMPLE, subjectAltNames: [c.example]",
            "80",
            "http1 auto-sni",
            r#"shows [] verified by file-root:system names ["c.example"] sni "" alpn []"#.to_owned(),
        ),
        ("mode: SIMPLE, insecureSkipVerify: true", "80", "http1 auto-sni", r#"shows [] verified by nobody sni "" alpn []"#.to_owned()),
    ] {
        check(&shop(&[&entry, &tls(written)]), &format!("outbound|{name}||api.example"), [options, &tls_is]);
    }
    // In mutual TLS of the mesh, beside the accounts of endpoints.
    let inside = entry.replace("a.example, ", "").replace(
        "MESH_EXTERNAL\n  resolution: DNS",
        "MESH_INTERNAL\n  resolution: STATIC\n  endpoints: [{address: 192.0.2.1, serviceAccount: api}]",
    );
    let text = cluster(&shop(&[&inside]), &visitor(), "outbound|80||api.example");
    assert!(text.contains("mtls to spiffe://cluster.local/ns/shop/sa/api,spiffe://b sni"), "{text}");
}

#[test]
fn of_a_port_and_of_a_part() {
    let spec = "host: api.example
  trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, caCertificates: /port.pem}}]}
  subsets:
  - {name: plain}
  - {name: tls, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /subset.pem}}}";
    let spec = format!(
        "\nkind: DestinationRule\napiVersion: networking.istio.io/v1\nmetadata: {{name: outside, namespace: shop}}\nspec:\n  {spec}\n"
    );
    let snapshot = shop(&[ENTRY, &spec]);
    let roots = |name: &str| {
        let text = cluster(&snapshot, &visitor(), &format!("outbound|{name}|api.example"));
        text.split_once("file-root:").map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned())
    };
    for (name, expected) in [
        ("80|", None),
        ("80|plain", None),
        ("80|tls", Some("/subset.pem")),
        ("443|", Some("/port.pem")),
        ("443|plain", Some("/port.pem")),
        ("443|tls", Some("/subset.pem")),
    ] {
        assert_eq!(roots(name).as_deref(), expected, "{name}");
    }
}

#[test]
fn names_of_the_mesh_s_own() {
    let rule = rule(
        "reviews",
        "host: reviews, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: x.example, subjectAltNames: ['spiffe://a/ns/b/sa/c']}}",
    );
    let text = cluster(&shop(&[&rule]), &visitor(), "outbound|9080||reviews.shop.svc.cluster.local");
    assert!(text.contains("\n  always: mtls to spiffe://a/ns/b/sa/c sni x.example alpn "), "{text}");
}

const SECRETS: &str = "
kind: Secret
apiVersion: v1
metadata: {name: client, namespace: shop}
stringData: {tls.crt: chain, tls.key: key, ca.crt: own}
---
kind: Secret
apiVersion: v1
metadata: {name: client-cacert, namespace: shop}
stringData: {ca.crt: companion}
---
kind: Secret
apiVersion: v1
metadata: {name: unnamed, namespace: shop}
stringData: {tls.crt: chain, tls.key: key, ca.crt: own}
";

fn has(snapshot: &Snapshot, view: &ProxyView, name: &str) -> bool {
    build(&Reader::new(snapshot), view, ResourceKind::Secret, &name.into()).is_some()
}

/// What gateways, the workload that is selected, and others have of a rule.
fn check_secrets(rule: &str, expected: [[bool; 2]; 4]) {
    let snapshot = shop(&[ENTRY, SECRETS, rule]);
    let elsewhere = facts(ProxyType::Router, "10.0.0.97", "visit", &[("istio", "egressgateway")]).into();
    let views = [egress(), reviews(), visitor(), elsewhere];
    let found = views.each_ref().map(|view| ["kubernetes://client", "kubernetes://client-cacert"].map(|name| has(&snapshot, view, name)));
    assert_eq!(found, expected, "{rule}");
    for view in &views {
        assert!(!has(&snapshot, view, "kubernetes://unnamed") && !has(&snapshot, view, "kubernetes://unnamed-cacert"));
    }
}

#[test]
fn secrets_to_connect_with() {
    let (none, roots, both) = ([false, false], [false, true], [true, true]);
    check_secrets("", [none; 4]);
    check_secrets(&tls("mode: SIMPLE, credentialName: client"), [roots, none, none, none]);
    check_secrets(&tls("mode: MUTUAL, credentialName: client"), [both, none, none, none]);
    check_secrets(&tls("mode: MUTUAL, credentialName: client, insecureSkipVerify: true"), [[true, false], none, none, none]);
    let selected = |labels: &str, more: &str| {
        let tls = "trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}";
        rule("outside", &format!("host: api.example, {tls}, workloadSelector: {{matchLabels: {{{labels}}}}}{more}"))
    };
    check_secrets(&selected("app: reviews", ""), [none, both, none, none]);
    // It is for its own namespace alone.
    check_secrets(&selected("app: visitor", ""), [none; 4]);
    check_secrets(&selected("istio: egressgateway", ""), [both, none, none, none]);
    check_secrets(&selected("", ""), [both, both, none, none]);
    let hidden = rule("outside", "host: api.example, exportTo: [visit], trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}");
    check_secrets(&hidden, [none; 4]);
    let in_a_part = rule(
        "outside",
        "host: api.example, subsets: [{name: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: MUTUAL, credentialName: client}}]}}]",
    );
    check_secrets(&in_a_part, [both, none, none, none]);
}

#[test]
fn a_secret_that_a_sidecar_is_not_given() {
    let name = "outbound|80||api.example";
    let snapshot = shop(&[ENTRY, SECRETS, &tls("mode: SIMPLE, credentialName: client")]);
    assert_eq!(cluster(&snapshot, &visitor(), name).lines().next(), Some("outbound|80||api.example STATIC LEAST_REQUEST"));
    assert!(!cluster(&snapshot, &visitor(), name).contains("10.") && !cluster(&snapshot, &visitor(), name).contains("tls"));
    assert!(cluster(&snapshot, &egress(), name).contains("verified by kubernetes://client-cacert"));
}

#[test]
fn a_rule_for_some_workloads() {
    let part = |name: &str| format!("host: reviews, subsets: [{{name: {name}}}]");
    let wide = rule("a", &part("wide"));
    let narrow = |labels: &str| rule("b", &(part("narrow") + &format!(", workloadSelector: {{matchLabels: {{{labels}}}}}")));
    let check = |rules: &[&str], view: &ProxyView, expected: &[&str]| {
        let snapshot = shop(rules);
        let found = ["wide", "narrow"].into_iter().filter(|subset| {
            let name = format!("outbound|9080|{subset}|reviews.shop.svc.cluster.local");
            build(&Reader::new(&snapshot), view, ResourceKind::Cluster, &name.as_str().into()).is_some()
        });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{rules:?}");
    };
    let own = narrow("app: reviews");
    check(&[&wide, &own], &reviews(), &["narrow"]);
    check(&[&own, &wide], &reviews(), &["narrow"]);
    check(&[&wide, &own], &egress(), &["wide"]);
    check(&[&wide, &own], &visitor(), &["wide"]);
    check(&[&narrow("app: visitor")], &visitor(), &[]);
    check(&[&own], &reviews(), &["narrow"]);
}
