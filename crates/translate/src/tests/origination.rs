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

/// A cluster without what has nothing to do with TLS.
fn cluster(snapshot: &Snapshot, view: &ProxyView, name: &str) -> String {
    show(snapshot, view, ResourceKind::Cluster, name)
}

#[test]
fn by_the_protocol_of_the_port() {
    let snapshot = shop(&[
        ENTRY,
        &tls("mode: SIMPLE, caCertificates: /ca.pem"),
        &rule("wide", "host: '*.wide.example', trafficPolicy: {tls: {mode: SIMPLE}}"),
    ]);
    let names = ["80||api.example", "81||api.example", "82||api.example", "83||api.example", "443||api.example", "90||*.wide.example"];
    let all: Vec<String> = names.iter().map(|name| cluster(&snapshot, &visitor(), &format!("outbound|{name}"))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn by_what_is_written() {
    let all: Vec<String> = [
        "mode: SIMPLE",
        "mode: SIMPLE, caCertificates: system, caCrl: /crl.pem",
        "mode: SIMPLE, insecureSkipVerify: true",
        "mode: SIMPLE, insecureSkipVerify: true, sni: b.example",
        "mode: SIMPLE, caCertificates: /ca.pem, sni: b.example",
        "mode: SIMPLE, caCertificates: /ca.pem, subjectAltNames: [b.example, 'spiffe://c']",
        "mode: SIMPLE, caCertificates: /ca.pem, caCrl: /crl.pem, sni: b.example, subjectAltNames: [c.example]",
        "mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem",
    ]
    .iter()
    .map(|written| format!("{written}\n{}", cluster(&shop(&[ENTRY, &tls(written)]), &visitor(), "outbound|80||api.example")))
    .collect();
    insta::assert_snapshot!(all.join("\n"));
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
