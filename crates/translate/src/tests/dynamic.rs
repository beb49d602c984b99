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
}

#[test]
fn routes_of_others_at_sidecars() {
    let to = "route: [{destination: {host: '*.wide.example', port: {number: 80}}}]";
    let cluster = "outbound|80||*.wide.example";
    let named = "rewrite: {authority: a.wide.example}, ";
    let (theirs, ours) = (visitor(), own(&visitor()));
    let at = |port: &'static str| (ResourceKind::Route, port);
    let leading = |hosts: &str, rewrite: &str| format!("hosts: [{hosts}], http: [{{{rewrite}{to}}}]");
    for (view, left, fixed) in [(&theirs, LEFT, " dynamic_host=a.wide.example dynamic_port=8080"), (&ours, "", "")] {
        // Another name for the requests of any host, on any port.
        let rewritten = format!("-: /* => {cluster} host:=a.wide.example retries{fixed}");
        check(view, at("9080"), &leading("reviews", named), cluster, std::slice::from_ref(&rewritten));
        let set = "headers: {request: {set: {Host: a.wide.example}}}, ";
        check(view, at("9080"), &leading("reviews", set), cluster, std::slice::from_ref(&rewritten));
        check(view, at("80"), &leading("a.example", named), &format!("{cluster} host:"), &[rewritten]);
        // A name that is covered, with a service of its own and without.
        let own = format!("-: /* {GUARD} => {cluster} retries{left}");
        for host in ["b.wide.example", "near.wide.example", "'*.b.wide.example'"] {
            let expected: &[String] = if host.starts_with('\'') { &[] } else { std::slice::from_ref(&own) };
            check(view, at("80"), &leading(host, ""), &format!("-: /* {GUARD} => {cluster}"), expected);
        }
        // None of the requests could be for a name that is covered.
        let nowhere = |host: &str| format!("-: /* => BlackHoleCluster{host} retries");
        check(view, at("9080"), &leading("reviews", ""), "BlackHole", &[nowhere("")]);
        check(view, at("9080"), &leading("reviews", "rewrite: {authority: a.example}, "), "BlackHole", &[nowhere(" host:=a.example")]);
    }
}

#[test]
fn filters_of_others_at_sidecars() {
    let to = "http: [{rewrite: {authority: a.wide.example}, route: [{destination: {host: '*.wide.example', port: {number: 80}}}]}]";
    let count = |view: &ProxyView, more: &[&str], listener: &str| {
        let snapshot = shop(&[&[ENTRY, GATEWAY][..], more].concat());
        lines(&snapshot, view, ResourceKind::Listener, listener, FILTERS).len()
    };
    let check = |rules: &str, more: &str, listener: &str, expected: usize| {
        let rules = routes(rules);
        let (theirs, ours) = (visitor(), own(&visitor()));
        assert_eq!(count(&theirs, &[&rules, more], listener), expected, "{rules}{more}");
        assert_eq!(count(&ours, &[&rules, more], listener), 0, "our own need none: {rules}{more}");
    };
    let sidecar = |hosts: &str| {
        format!(
            "{{kind: Sidecar, apiVersion: networking.istio.io/v1, metadata: {{name: s, namespace: visit}}, spec: {{egress: [{{hosts: [{hosts}]}}]}}}}"
        )
    };
    let of = |hosts: &str, more: &str| format!("hosts: [{hosts}], {more}{to}");
    check(&of("reviews", ""), "", "0.0.0.0_9080", 1);
    check(&of("'*.shop.svc.cluster.local'", ""), "", "0.0.0.0_9080", 1);
    // Those of others, or that others see, say nothing.
    check(&of("a.example", ""), "", "0.0.0.0_9080", 0);
    check(&of("reviews", "gateways: [edge], "), "", "0.0.0.0_9080", 0);
    check(&of("reviews", "exportTo: [.], "), "", "0.0.0.0_9080", 0);
    check("hosts: [reviews], http: [{route: [{destination: {host: '*.unknown.example'}}]}]", "", "0.0.0.0_9080", 0);
    // What a rule sends to is reached though no Sidecar lists it.
    check(&of("reviews", ""), &sidecar("shop/reviews.shop.svc.cluster.local"), "0.0.0.0_9080", 1);
    let snapshot = shop(&[ENTRY, &routes(&of("reviews", "")), &sidecar("shop/reviews.shop.svc.cluster.local")]);
    let clusters = super::names(&snapshot, &visitor(), ResourceKind::Cluster);
    assert!(clusters.contains(&"outbound|80||*.wide.example".to_owned()), "{clusters:?}");
}

/// A chain is found by the server name, whosever port it is.
#[test]
fn server_names_of_others_at_sidecars() {
    let rule = |name: &str| {
        let route = "route: [{destination: {host: '*.wide.example', port: {number: 443}}}]";
        format!("hosts: [near.wide.example, a.other.example], tls: [{{match: [{{sniHosts: ['{name}']}}], {route}}}]")
    };
    let other = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: other, namespace: shop}
spec: {hosts: [a.other.example], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
";
    for (name, to) in
        [("near.wide.example", "by-sni(:8443) tcp(outbound|443||*.wide.example)"), ("a.other.example", "tcp(BlackHoleCluster)")]
    {
        let snapshot = shop(&[ENTRY, other, &routes(&rule(name))]);
        let chains = lines(&snapshot, &visitor(), ResourceKind::Listener, "0.0.0.0_443", &format!("sni={name} "));
        assert_eq!(chains, [format!("- sni={name} => stats {to}")]);
    }
}

/// A name that the wildcard covers may have routes without a service of its own; the others' way stays.
#[test]
fn routes_of_server_names_below_a_wildcard() {
    let at_wildcard = "- sni=*.wide.example => stats by-sni(:8443) tcp(outbound|443||*.wide.example)";
    let near = "- sni=near.wide.example => stats tcp(outbound|443||near.wide.example)";
    let stock = |name: &str| format!("- sni={name} => stats tcp(outbound|6379||stock.shop.svc.cluster.local)");
    let rule = |hosts: &str, more: &str, name: &str| {
        let to = "route: [{destination: {host: stock, port: {number: 6379}}}]";
        format!("hosts: [{hosts}], {more}tls: [{{match: [{{sniHosts: ['{name}']}}], {to}}}]")
    };
    for (rule, own) in [
        (rule("a.wide.example", "", "a.wide.example"), Some(stock("a.wide.example"))),
        (rule("'*.b.wide.example'", "", "*.b.wide.example"), Some(stock("*.b.wide.example"))),
        (rule("a.wide.example", "gateways: [edge], ", "a.wide.example"), None),
        (rule("a.wide.example", "exportTo: [.], ", "a.wide.example"), None),
        (rule("a.other.example", "", "a.other.example"), None),
    ] {
        let snapshot = shop(&[ENTRY, GATEWAY, &routes(&rule)]);
        let mut chains = lines(&snapshot, &visitor(), ResourceKind::Listener, "0.0.0.0_443", "sni=");
        let mut expected: Vec<String> = own.into_iter().chain([near.to_owned(), at_wildcard.to_owned()]).collect();
        chains.sort();
        expected.sort();
        assert_eq!(chains, expected, "{rule}");
    }
    // One that is a service's own is routed there; and rules of the wildcard itself say all of the rest.
    for (rule, mut expected) in [
        (rule("near.wide.example", "", "near.wide.example"), vec![stock("near.wide.example"), at_wildcard.to_owned()]),
        (rule("'*.wide.example'", "", "a.wide.example"), vec![stock("a.wide.example")]),
    ] {
        let snapshot = shop(&[ENTRY, &routes(&rule)]);
        let mut chains = lines(&snapshot, &visitor(), ResourceKind::Listener, "0.0.0.0_443", "sni=");
        chains.sort();
        expected.sort();
        assert_eq!(chains, expected, "{rule}");
    }
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
