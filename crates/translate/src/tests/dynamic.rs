//! Names that are found on demand: what leads to them says which names and which port.

use mizzen_model::{DYNAMIC_HOSTS, ProxyType, ProxyView, Snapshot};

use super::{facts, shop, summary::show, visitor};
use crate::ResourceKind;

const ENTRY: &str = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: wide, namespace: shop}
spec:
  hosts: ['*.wide.example']
  location: MESH_EXTERNAL
  resolution: DYNAMIC_DNS
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 8080}
  - {number: 443, name: tls, protocol: TLS, targetPort: 8443}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: near, namespace: shop}
spec:
  hosts: [near.wide.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: tls, protocol: TLS}
";

fn rule(tls: &str) -> String {
    format!(
        "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {{name: wide, namespace: shop}}
spec: {{host: '*.wide.example', trafficPolicy: {{tls: {{{tls}}}}}}}
"
    )
}

fn routes(spec: &str) -> String {
    format!("\nkind: VirtualService\napiVersion: networking.istio.io/v1\nmetadata: {{name: wide, namespace: shop}}\nspec: {{{spec}}}\n")
}

const GATEWAY: &str = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: egress}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.wide.example', '*.other.example'], tls: {mode: PASSTHROUGH}}
";

fn egress() -> ProxyView {
    facts(ProxyType::Router, "10.0.0.98", "shop", &[("istio", "egress")]).into()
}

/// A proxy of Mizzen's own in the place of this one.
fn own(view: &ProxyView) -> ProxyView {
    let mut facts = view.facts().clone();
    facts.extensions.insert(DYNAMIC_HOSTS.to_owned());
    facts.into()
}

/// The lines of a resource that have this.
fn lines(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, name: &str, part: &str) -> Vec<String> {
    let text = show(snapshot, view, kind, name);
    text.lines().filter(|line| line.contains(part)).map(|line| line.trim().to_owned()).collect()
}

const GUARD: &str = r":authority: ~(?i)[a-z0-9_.-]+\.wide\.example(:[0-9]+)?~";
const LEFT: &str = " dynamic_host=%DYNAMIC_METADATA(mizzen.dynamic:host)% dynamic_port=8080 by-host";
const FILTERS: &str = "header_to_metadata set_filter_state dynamic_forward_proxy router";

#[test]
fn clusters() {
    const MIZZEN: &str = " mizzen{dynamic_host: *.wide.example, dynamic_port: NumberValue(8080.0)}";
    for (rule_of, name, first, tls) in [
        ("mode: DISABLE", "80", "ON_DEMAND CLUSTER_PROVIDED", None),
        (
            "mode: SIMPLE, caCertificates: /ca.pem",
            "80",
            "ON_DEMAND CLUSTER_PROVIDED http1 auto-sni auto-san",
            Some(r#"always: tls shows [] verified by file-root:/ca.pem names [] sni "" alpn []"#),
        ),
        (
            "mode: SIMPLE, insecureSkipVerify: true",
            "80",
            "ON_DEMAND (unverified) CLUSTER_PROVIDED http1 auto-sni",
            Some(r#"always: tls shows [] verified by nobody sni "" alpn []"#),
        ),
        (
            "mode: SIMPLE, caCertificates: /ca.pem, sni: a.example",
            "80",
            "ON_DEMAND (unverified) CLUSTER_PROVIDED",
            Some(r#"always: tls shows [] verified by file-root:/ca.pem names [] sni "a.example" alpn []"#),
        ),
        // Whose identity nobody knows has to have the name that is called.
        (
            "mode: ISTIO_MUTUAL",
            "80",
            "ON_DEMAND CLUSTER_PROVIDED http1 auto-sni auto-san",
            Some("always: mtls to  sni outbound_.80_._.*.wide.example (verified) alpn istio-peer-exchange,istio"),
        ),
        (
            "mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://a']",
            "80",
            "ON_DEMAND (unverified) CLUSTER_PROVIDED http1 auto-sni",
            Some("always: mtls to spiffe://a sni outbound_.80_._.*.wide.example alpn istio-peer-exchange,istio"),
        ),
    ] {
        let snapshot = shop(&[ENTRY, &rule(rule_of)]);
        let name = format!("outbound|{name}||*.wide.example");
        let text = show(&snapshot, &visitor(), ResourceKind::Cluster, &name);
        let mut all = text.lines();
        assert_eq!(all.next().unwrap(), format!("{name} {first}"), "{rule_of}");
        assert_eq!(all.clone().find(|line| line.starts_with("  always")).map(str::trim), tls, "{rule_of}");
        assert!(all.any(|line| line.ends_with(MIZZEN)), "{text}");
    }
    // TLS around TLS.
    let text = show(&shop(&[ENTRY, &rule("mode: SIMPLE")]), &visitor(), ResourceKind::Cluster, "outbound|443||*.wide.example");
    assert!(text.starts_with("outbound|443||*.wide.example STATIC LEAST_REQUEST\n") && !text.contains("always"), "{text}");
    // A client's own destination is none: neither by a rule, nor where it would be passed on otherwise.
    let passed = "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: wide, namespace: shop}
spec: {host: '*.wide.example', trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}
";
    let text = show(&shop(&[ENTRY, passed]), &egress(), ResourceKind::Cluster, "outbound|443||*.wide.example");
    assert!(text.starts_with("outbound|443||*.wide.example ON_DEMAND CLUSTER_PROVIDED"), "{text}");
}

#[test]
fn sidecars() {
    let snapshot = shop(&[ENTRY]);
    let cluster = "outbound|80||*.wide.example";
    let of_route = |snapshot: &Snapshot, view: &ProxyView| lines(snapshot, view, ResourceKind::Route, "80", cluster);
    let (theirs, ours) = (visitor(), own(&visitor()));
    assert_eq!(of_route(&snapshot, &theirs), [format!("default: /* {GUARD} => {cluster} retries{LEFT}")]);
    assert_eq!(of_route(&snapshot, &ours), [format!("default: /* {GUARD} => {cluster} retries")]);
    // Only who has such routes has the filters, and other hosts' routes say nothing of them.
    let filters = |view: &ProxyView, name: &str, part: &str| lines(&snapshot, view, ResourceKind::Listener, name, part).len();
    assert_eq!((filters(&theirs, "0.0.0.0_80", FILTERS), filters(&theirs, "0.0.0.0_9080", "dynamic_forward_proxy")), (1, 0));
    assert_eq!((filters(&ours, "0.0.0.0_80", "dynamic_forward_proxy router"), filters(&ours, "0.0.0.0_80", "set_filter_state")), (1, 0));
    let near = lines(&snapshot, &theirs, ResourceKind::Route, "80", "outbound|80||near.wide.example");
    assert_eq!(near, ["default: /* => outbound|80||near.wide.example retries"]);
    // By server name, and the nearer one for itself.
    let chains = lines(&snapshot, &theirs, ResourceKind::Listener, "0.0.0.0_443", "sni=");
    assert_eq!(
        chains,
        [
            "- sni=near.wide.example => stats tcp(outbound|443||near.wide.example)",
            "- sni=*.wide.example => stats by-sni(:8443) tcp(outbound|443||*.wide.example)",
        ]
    );
}

#[test]
fn whatever_address_it_has() {
    let entry =
        ENTRY.replace("  location: MESH_EXTERNAL\n  resolution: DYNAMIC_DNS", "  addresses: [192.0.2.7]\n  resolution: DYNAMIC_DNS");
    let chains = lines(&shop(&[&entry]), &visitor(), ResourceKind::Listener, "192.0.2.7_443", "=>");
    assert_eq!(chains, ["- sni=*.wide.example => stats by-sni(:8443) tcp(outbound|443||*.wide.example)"]);
}

/// `expected`: what a route of another object leads to.
#[track_caller]
fn check(view: &ProxyView, resource: (ResourceKind, &str), spec: &str, part: &str, expected: &[String]) {
    let snapshot = shop(&[ENTRY, GATEWAY, &routes(spec)]);
    assert_eq!(lines(&snapshot, view, resource.0, resource.1, part), expected, "{spec}");
}

#[test]
fn routes_of_others() {
    let to = "route: [{destination: {host: '*.wide.example', port: {number: 80}}}]";
    let cluster = "outbound|80||*.wide.example";
    let at_gateway = (ResourceKind::Route, "http.80");
    let (theirs, ours) = (egress(), own(&egress()));
    let spec = |rule: &str| format!("hosts: ['*'], gateways: [edge], http: [{{{rule}}}]");
    check(&theirs, at_gateway, &spec(to), "=>", &[format!("-: /* {GUARD} => {cluster} retries{LEFT}")]);
    check(&ours, at_gateway, &spec(to), "=>", &[format!("-: /* {GUARD} => {cluster} retries")]);
    // Another name for the request has to be covered too.
    let named = " dynamic_host=a.wide.example dynamic_port=8080";
    let rewritten = |host: &str| spec(&format!("rewrite: {{authority: '{host}'}}, {to}"));
    check(
        &theirs,
        at_gateway,
        &rewritten("a.wide.example:9"),
        "=>",
        &[format!("-: /* => {cluster} host:=a.wide.example:9 retries{named}")],
    );
    for host in ["wide.example", "a.other.example", "a.wide.example.other"] {
        for view in [&theirs, &ours] {
            check(view, at_gateway, &rewritten(host), "=>", &[format!("-: /* => BlackHoleCluster host:={host} retries")]);
        }
    }
    // Beside others by weight.
    let both = "route: [{destination: {host: '*.wide.example', port: {number: 80}}, weight: 1}, {destination: {host: reviews, port: {number: 9080}}, weight: 2}]";
    check(
        &theirs,
        at_gateway,
        &spec(both),
        "=>",
        &[format!("-: /* {GUARD} => 1*{cluster}{LEFT} 2*outbound|9080||reviews.shop.svc.cluster.local retries")],
    );
    let filters = |spec: &str| {
        let snapshot = shop(&[ENTRY, GATEWAY, &routes(spec)]);
        lines(&snapshot, &egress(), ResourceKind::Listener, "0.0.0.0_80", FILTERS).len()
    };
    assert_eq!((filters(&spec(to)), filters(&spec("route: [{destination: {host: reviews}}]"))), (1, 0));
    // A sidecar has the filters where the host itself is called, and leads nobody else there.
    let other = format!("hosts: [reviews], http: [{{{to}}}]");
    check(&visitor(), (ResourceKind::Route, "9080"), &other, "BlackHole", &["-: /* => BlackHoleCluster retries".to_owned()]);
}

#[test]
fn server_names_of_others() {
    let rule = |name: &str| {
        let route = "route: [{destination: {host: '*.wide.example', port: {number: 443}}}]";
        format!("hosts: ['*.wide.example', '*.other.example'], gateways: [edge], tls: [{{match: [{{sniHosts: ['{name}']}}], {route}}}]")
    };
    let at = (ResourceKind::Listener, "0.0.0.0_443");
    for (name, to) in [
        ("a.wide.example", "by-sni(:8443) tcp(outbound|443||*.wide.example)"),
        ("*.wide.example", "by-sni(:8443) tcp(outbound|443||*.wide.example)"),
        ("a.other.example", "tcp(BlackHoleCluster)"),
    ] {
        check(&egress(), at, &rule(name), "sni=", &[format!("- sni={name} => stats {to}")]);
    }
}
