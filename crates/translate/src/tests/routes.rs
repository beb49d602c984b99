//! Routes of sidecars.

use super::{names, reviews, shop, summary::show, visitor};
use crate::ResourceKind;

fn rules(http: &str) -> String {
    format!(
        "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: reviews, namespace: shop}}
spec:
  hosts: [reviews]
  http:
{http}
"
    )
}

fn routes(http: &str) -> String {
    show(&shop(&[&rules(http)]), &visitor(), ResourceKind::Route, "9080")
}

#[test]
fn without_rules() {
    let snapshot = shop(&[]);
    insta::assert_snapshot!(
        [
            show(&snapshot, &reviews(), ResourceKind::Route, "9080"),
            show(&snapshot, &visitor(), ResourceKind::Route, "anything.shop.svc.cluster.local:5000")
        ]
        .join("\n")
    );
    assert_eq!(names(&snapshot, &visitor(), ResourceKind::Route), ["9080", "9090", "anything.shop.svc.cluster.local:5000"]);
}

#[test]
fn weights_timeouts_retries() {
    insta::assert_snapshot!(routes(
        "
  - name: canary
    match: [{headers: {x-user: {exact: tester}}, uri: {prefix: /}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: patient
    match: [{uri: {exact: /slow}}]
    timeout: 1.5s
    retries: {attempts: 0}
    route: [{destination: {host: reviews}}]
  - name: default
    timeout: 3s
    retries: {attempts: 3, perTryTimeout: 1s, retryOn: '5xx,503'}
    route:
    - {destination: {host: reviews, subset: v1}, weight: 90}
    - {destination: {host: reviews, subset: v2}, weight: 10, headers: {request: {set: {x-canary: '1'}}}}
"
    ));
}

#[test]
fn conditions() {
    insta::assert_snapshot!(routes(
        "
  - match:
    - {name: case, uri: {prefix: /a}, ignoreUriCase: true}
    - {uri: {regex: '/b/[0-9]+'}, method: {exact: GET}, authority: {prefix: reviews}, scheme: {exact: http}}
    - {headers: {x-a: {}, x-b: {regex: 'c.*'}}, withoutHeaders: {x-c: {exact: '1'}, x-d: {}}}
    - {queryParams: {q: {exact: '1'}}}
    - {port: 1, uri: {prefix: /never}}
    - {sourceNamespace: elsewhere, uri: {prefix: /never}}
    - {sourceLabels: {app: other}, uri: {prefix: /never}}
    - {sourceLabels: {app: visitor}, sourceNamespace: visit, uri: {prefix: /visitor}}
    - {gateways: [other], uri: {prefix: /never}}
    route: [{destination: {host: reviews}}]
  - route: [{destination: {host: ratings, port: {number: 9090}}}]
  - match: [{uri: {prefix: /unreachable}}]
    route: [{destination: {host: reviews}}]
"
    ));
}

#[test]
fn other_actions() {
    insta::assert_snapshot!(routes(
        "
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, authority: elsewhere.example.com, redirectCode: 302}
  - match: [{uri: {exact: /teapot}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - match: [{uri: {prefix: /api/}}]
    rewrite: {uri: /, authority: internal}
    route: [{destination: {host: reviews}}]
  - match: [{uri: {regex: '/x/(.*)'}}]
    rewrite: {uriRegexRewrite: {match: '/x/(.*)', rewrite: '/y/\\1'}}
    headers: {request: {set: {a: '1'}, add: {b: '2'}, remove: [c]}, response: {remove: [server]}}
    route: [{destination: {host: reviews}}]
"
    ));
}

#[test]
fn headers_of_the_only_destination_come_last() {
    insta::assert_snapshot!(routes(
        "
  - name: one
    match: [{uri: {prefix: /one}}]
    headers: {request: {set: {x-a: route, host: route.example}, remove: [x-b]}, response: {add: {x-c: route}}}
    route: [{destination: {host: reviews}, headers: {request: {set: {x-a: one, host: one.example}, remove: [x-d]}, response: {add: {x-c: one}}}}]
  - name: other
    route: [{destination: {host: reviews}, headers: {request: {set: {host: other.example}}}}]
"
    ));
}

#[test]
fn ports_of_redirects() {
    for (redirect, expected) in [
        ("authority: new, derivePort: FROM_REQUEST_PORT", "new:9080"),
        ("authority: new, derivePort: FROM_PROTOCOL_DEFAULT", "new:0"),
        ("authority: new, scheme: https, derivePort: FROM_PROTOCOL_DEFAULT", "new:0"),
        ("authority: new, scheme: https, port: 443", "new:0"),
        ("authority: new, scheme: https, port: 80", "new:80"),
        ("authority: new, port: 80", "new:0"),
        ("authority: new, port: 8443", "new:8443"),
        // Where the host stays, a port that is the scheme's own takes the place of the one in the Host header all the same.
        ("scheme: https, port: 443", ":443"),
        ("port: 80", ":80"),
        ("scheme: https, port: 8443", ":8443"),
        ("scheme: https, derivePort: FROM_PROTOCOL_DEFAULT", ":443"),
        ("scheme: http, derivePort: FROM_PROTOCOL_DEFAULT", ":80"),
        ("uri: /x, derivePort: FROM_PROTOCOL_DEFAULT", ":80"),
        ("scheme: https, derivePort: FROM_REQUEST_PORT", ":9080"),
        ("scheme: https", ":0"),
    ] {
        let text = routes(&format!("  - redirect: {{{redirect}}}\n"));
        assert!(text.contains(&format!("redirect MOVED_PERMANENTLY {expected} ")), "{redirect}: {text}");
    }
}

#[test]
fn which_rules_hold() {
    let rule = |name: &str, namespace: &str, host: &str, export: &str| {
        format!(
            "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: ['{host}'], exportTo: ['{export}'], http: [{{name: {name}, route: [{{destination: {{host: reviews.shop.svc.cluster.local}}}}]}}]}}
"
        )
    };
    let check = |rules: &[String], expected: &str| {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let text = show(&shop(&rules), &visitor(), ResourceKind::Route, "9080");
        assert!(text.contains(&format!("\n    {expected}: /* =>")), "{expected}: {text}");
    };
    let host = "reviews.shop.svc.cluster.local";
    check(&[], "default");
    check(&[rule("b", "shop", host, "*"), rule("a", "shop", host, "*")], "a");
    check(&[rule("wide", "shop", "*.shop.svc.cluster.local", "*"), rule("z", "shop", host, "*")], "z");
    check(&[rule("wide", "shop", "*.shop.svc.cluster.local", "*")], "wide");
    check(&[rule("own", "shop", host, ".")], "default");
    check(&[rule("mine", "visit", host, ".")], "mine");
}

#[test]
fn hosts_without_a_service() {
    let text = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: old, namespace: shop}
spec: {hosts: [old.example.com], http: [{route: [{destination: {host: web.shop.svc.cluster.local}}]}]}
---
kind: Service
apiVersion: v1
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.60, selector: {app: web}, ports: [{name: http, port: 80}]}
";
    insta::assert_snapshot!(show(&shop(&[text]), &visitor(), ResourceKind::Route, "80"));
}

#[test]
fn faults() {
    use mizzen_protos::envoy::envoy::config::route::v3::RouteConfiguration;
    let snapshot = shop(&[&rules(
        "
  - fault:
      delay: {fixedDelay: 1.5s, percentage: {value: 0.1}}
      abort: {grpcStatus: UNAVAILABLE, percent: 5}
    route: [{destination: {host: reviews}}]
",
    )]);
    let any = crate::build(&mizzen_model::Reader::new(&snapshot), &visitor(), ResourceKind::Route, &"9080".into()).unwrap().any;
    let table: RouteConfiguration = super::summary::decode(&any);
    let found =
        table.virtual_hosts.iter().flat_map(|h| h.routes.iter()).find_map(|r| r.typed_per_filter_config.get("envoy.filters.http.fault"));
    let fault: mizzen_protos::envoy::envoy::extensions::filters::http::fault::v3::HttpFault = super::summary::decode(found.unwrap());
    let (delay, abort) = (fault.delay.unwrap(), fault.abort.unwrap());
    assert_eq!([delay.percentage.unwrap().numerator, abort.percentage.unwrap().numerator], [1_000, 50_000], "of a million");
    assert_eq!([delay.percentage.unwrap().denominator, abort.percentage.unwrap().denominator], [2, 2]);
    assert!(format!("{:?}", delay.fault_delay_secifier).contains("seconds: 1, nanos: 500000000"), "{:?}", delay.fault_delay_secifier);
    assert!(format!("{:?}", abort.error_type).contains("GrpcStatus(14)"), "{:?}", abort.error_type);
}

#[test]
fn routes_of_delegates() {
    let delegate = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: of-ratings, namespace: visit}
spec:
  http:
  - {name: fast, match: [{uri: {prefix: /ratings/fast}}], route: [{destination: {host: local}}]}
  - {name: far, match: [{uri: {prefix: /elsewhere}}], route: [{destination: {host: local}}]}
  - {timeout: 1s, route: [{destination: {host: ratings.shop.svc.cluster.local}}]}
";
    let root = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: root, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - {name: ratings, match: [{uri: {prefix: /ratings}}], delegate: {name: of-ratings, namespace: visit}, timeout: 9s}
  - {match: [{uri: {prefix: /nobody}}], delegate: {name: nobody}}
  - route: [{destination: {host: reviews}}]
";
    let snapshot = shop(&[root]);
    let of = |snapshot: &mizzen_model::Snapshot| show(snapshot, &visitor(), ResourceKind::Route, "9080");
    assert!(of(&snapshot).contains("outbound|9080||reviews") && !of(&snapshot).contains("/ratings"), "{}", of(&snapshot));
    insta::assert_snapshot!(of(&shop(&[root, delegate])));
}
