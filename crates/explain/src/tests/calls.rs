//! Where calls go: names, routes, weights, subsets, what is unknown.

use std::{net::IpAddr, sync::Arc};

use mizzen_api::{Object, istio::ServiceEntry};
use mizzen_model::{Change, Snapshot};

use super::{SUBSETS, check, explain, object, read, shop, shop_with};
use crate::{CallError, Explainer, Security, Side, StepKind, Verdict};

#[test]
fn plain() {
    check(
        &shop(&[]),
        &[
            ("shop/web GET reviews:9080/a", "outbound|9080||reviews [shop/v1 shop/v2] = delivered"),
            ("visit/guest GET reviews.shop:9080/", "outbound|9080||reviews [shop/v1 shop/v2] = delivered"),
            ("shop/web GET reviews.shop.svc.cluster.local:9080/", "outbound|9080||reviews [shop/v1 shop/v2] = delivered"),
            ("shop/web GET 10.96.0.12:9080/", "outbound|9080||ratings [shop/ratings] = delivered"),
            ("shop/web GET legacy:9080/", "outbound|9080||legacy [shop/legacy] = delivered"),
            ("shop/web GET empty:9080/", "outbound|9080||empty [] = 503"),
            ("shop/web TCP stock:6379", "outbound|6379||stock [shop/stock] = delivered"),
            ("shop/web GET example.com/x", "PassthroughCluster [192.0.2.1:80] = delivered"),
            ("shop/web GET example.com:9080/x", "PassthroughCluster [192.0.2.1:9080] = delivered"),
            ("shop/web TCP 198.51.100.7:22", "PassthroughCluster [198.51.100.7:22] = delivered"),
            ("shop/legacy GET reviews:9080/", "reviews:9080 [shop/v1 shop/v2] = delivered"),
            ("192.0.2.9 GET 10.0.0.11:8080/", "10.0.0.11:8080 [shop/v1] = delivered"),
            ("192.0.2.9 GET 10.0.0.99:8080/", "10.0.0.99:8080 [10.0.0.99:8080] = delivered"),
        ],
    );
}

/// By whichever family, through both proxies.
#[test]
fn by_both_families() {
    let pod = |name: &str, ips: &[&str]| {
        let all: Vec<String> = ips.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
        format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, namespace: shop, labels: {{app: {name}, security.istio.io/tlsMode: istio}}}},
              spec: {{serviceAccountName: {name}, containers: [{{name: main, image: x}}]}},
              status: {{phase: Running, podIP: '{}', podIPs: [{}], conditions: [{{type: Ready, status: 'True'}}]}}}}",
            ips[0],
            all.join(", ")
        )
    };
    let service = "{kind: Service, apiVersion: v1, metadata: {name: two, namespace: shop}, spec: {clusterIP: 10.96.0.60,
      clusterIPs: [10.96.0.60, 'fd00:96::60'], selector: {app: two}, ports: [{name: http, port: 9080}, {name: tcp, port: 7070}]}}";
    let policy = "{selector: {matchLabels: {app: two}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/six, cluster.local/ns/shop/sa/both]}}]}]}";
    let snapshot = shop(&[
        service.to_owned(),
        object("AuthorizationPolicy", "two", policy),
        pod("two", &["10.0.0.62", "fd00::62"]),
        pod("both", &["10.0.0.63", "fd00::63"]),
        pod("six", &["fd00::64"]),
    ]);
    check(
        &snapshot,
        &[
            ("shop/both GET [fd00:96::60]:9080/", "outbound|9080||two [shop/two] = delivered"),
            ("shop/both TCP [fd00:96::60]:7070", "outbound|7070||two [shop/two] = delivered"),
            ("shop/six GET two:9080/", "outbound|9080||two [shop/two] = delivered"),
            ("shop/six TCP [fd00:96::60]:7070", "outbound|7070||two [shop/two] = delivered"),
            ("shop/web TCP two:7070", "outbound|7070||two [shop/two] = denied by none"),
            ("192.0.2.9 GET [fd00::62]:9080/", "[fd00::62]:9080 [shop/two] = denied by none"),
            ("shop/both TCP [2001:db8::9]:22", "PassthroughCluster [[2001:db8::9]:22] = delivered"),
            // A proxy that has no such address does not listen for what is called by it.
            ("shop/web GET [2001:db8::9]:9080/", "PassthroughCluster [[2001:db8::9]:9080] = delivered"),
        ],
    );
    let reached = |text: &str| explain(&snapshot, text).hop.ways[0].to[0].address.clone();
    assert_eq!(reached("shop/both GET [fd00:96::60]:9080/"), "10.0.0.62:9080", "the service's first family");
    assert_eq!(reached("shop/six GET two:9080/"), "[fd00::62]:9080");
}

#[test]
fn nothing_beyond_the_registry() {
    check(
        &shop_with("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", &[]),
        &[
            ("shop/web GET reviews:9080/", "outbound|9080||reviews [shop/v1 shop/v2] = delivered"),
            ("shop/web GET example.com:9080/", "502"),
            ("shop/web TCP example.com:22", "BlackHoleCluster [] = closed"),
            ("shop/web TCP 198.51.100.7:9080", "BlackHoleCluster [] = closed"),
        ],
    );
}

const RULES: &str = "{hosts: [reviews], http: [
  {match: [{uri: {prefix: /old/}}], rewrite: {uri: /new/}, route: [{destination: {host: reviews, subset: v1}}]},
  {match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: reviews, subset: v2}}]},
  {match: [{uri: {exact: /moved}}], redirect: {uri: /there, redirectCode: 302}},
  {match: [{uri: {exact: /teapot}}], directResponse: {status: 418}},
  {match: [{uri: {exact: /broken}}], fault: {abort: {httpStatus: 500, percentage: {value: 100}}}, route: [{destination: {host: reviews}}]},
  {match: [{uri: {exact: /flaky}}], fault: {abort: {httpStatus: 500, percentage: {value: 10}}}, route: [{destination: {host: reviews, subset: v1}}]},
  {match: [{uri: {exact: /third}}], route: [{destination: {host: reviews, subset: v3}}]},
  {match: [{uri: {prefix: /split}}], route: [
    {destination: {host: reviews, subset: v1}, weight: 80}, {destination: {host: reviews, subset: v2}, weight: 20}]},
  {match: [{uri: {prefix: /only}}], route: [{destination: {host: reviews}}]}]}";

#[test]
fn routes() {
    let snapshot = shop(&[object("VirtualService", "reviews", RULES), object("DestinationRule", "reviews", SUBSETS)]);
    check(
        &snapshot,
        &[
            ("shop/web GET reviews:9080/ end-user=jason", "outbound|9080|v2|reviews [shop/v2] = delivered"),
            ("shop/web GET reviews:9080/", "404"),
            ("shop/web GET reviews:9080/moved", "302"),
            ("shop/web GET reviews:9080/teapot", "418"),
            ("shop/web GET reviews:9080/broken", "500"),
            (
                "shop/web GET reviews:9080/flaky",
                "outbound|9080|v1|reviews [shop/v1] = it depends: answered 500: on purpose, for tests; or delivered",
            ),
            ("shop/web GET reviews:9080/flaky random=5", "500"),
            ("shop/web GET reviews:9080/third", "outbound|9080|v3|reviews [] = 503"),
            (
                "shop/web GET reviews:9080/split",
                "outbound|9080|v1|reviews 80/100 [shop/v1], outbound|9080|v2|reviews 20/100 [shop/v2] = delivered",
            ),
            ("shop/web GET reviews:9080/split random=79", "outbound|9080|v1|reviews 80/100 [shop/v1] = delivered"),
            ("shop/web GET reviews:9080/split random=180", "outbound|9080|v2|reviews 20/100 [shop/v2] = delivered"),
        ],
    );
    let explanation = explain(&snapshot, "shop/web GET reviews:9080/nowhere");
    let route = explanation.hop.steps.iter().find(|step| step.step == StepKind::Route).unwrap();
    assert!(route.reasons.iter().any(|reason| !reason.matched && reason.text.contains("end-user")), "{route:?}");
    let explanation = explain(&snapshot, "shop/web GET reviews:9080/old/a");
    let rewrites = explanation.hop.ways[0].steps.iter().filter(|step| step.step == StepKind::Rewrite);
    assert_eq!(rewrites.map(|step| &*step.outcome).collect::<Vec<_>>(), ["path /old/a becomes /new/a"]);
}

#[test]
fn tcp_weights() {
    let rules = "{hosts: [stock], tcp: [{route: [{destination: {host: stock}, weight: 30}, {destination: {host: legacy, port: {number: 9080}}, weight: 70}]}]}";
    check(
        &shop(&[object("VirtualService", "stock", rules)]),
        &[
            ("shop/web TCP stock:6379", "outbound|6379||stock 30/100 [shop/stock], outbound|9080||legacy 70/100 [shop/legacy] = delivered"),
            ("shop/web TCP stock:6379 random=129", "outbound|6379||stock 30/100 [shop/stock] = delivered"),
            ("shop/web TCP stock:6379 random=30", "outbound|9080||legacy 70/100 [shop/legacy] = delivered"),
        ],
    );
}

#[test]
fn gateways() {
    let rules = "{hosts: [shop.example.com], gateways: [door], http: [{match: [{uri: {prefix: /reviews}}], route: [{destination: {host: reviews}}]}]}";
    let snapshot = shop(&[object("VirtualService", "door", rules)]);
    check(
        &snapshot,
        &[
            ("192.0.2.9 GET 10.0.0.98/reviews host=shop.example.com", "10.0.0.98:80 [istio-system/door] = delivered"),
            ("192.0.2.9 GET 10.0.0.98/else host=shop.example.com", "10.0.0.98:80 [istio-system/door] = 404"),
            ("192.0.2.9 GET 10.0.0.98/reviews host=example.net", "10.0.0.98:80 [istio-system/door] = 404"),
            ("192.0.2.9 TCP 10.0.0.98:81", "10.0.0.98:81 [istio-system/door] = closed"),
        ],
    );
    let explanation = explain(&snapshot, "192.0.2.9 GET 10.0.0.98/reviews host=shop.example.com");
    let gateway = explanation.hop.ways[0].to[0].next.as_ref().unwrap();
    assert_eq!((gateway.side, &*gateway.ways[0].cluster), (Side::Gateway, "outbound|9080||reviews.shop.svc.cluster.local"));
    let Security::MutualTls { identity, server_name, protocols } = &gateway.ways[0].to[0].security else { panic!("{explanation}") };
    assert_eq!(identity, "spiffe://cluster.local/ns/istio-system/sa/door");
    assert_eq!(server_name, "outbound_.9080_._.reviews.shop.svc.cluster.local");
    assert!(protocols.iter().any(|name| name == "istio-http/1.1" || name == "istio"), "{protocols:?}");
}

#[test]
fn names_found_on_demand() {
    let entry = "{hosts: ['*.wide.example'], resolution: DYNAMIC_DNS, ports: [\
                 {number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}]}";
    check(
        &shop(&[object("ServiceEntry", "wide", entry)]),
        &[
            ("shop/web GET a.wide.example/", "outbound|80||*.wide.example [a.wide.example:8080] = delivered"),
            ("shop/web GET a.wide.example/ host=b.c.wide.example:9", "outbound|80||*.wide.example [b.c.wide.example:8080] = delivered"),
            ("shop/web TLS a.wide.example:443", "outbound|443||*.wide.example [a.wide.example:443] = delivered"),
            ("shop/web GET a.other.example/", "PassthroughCluster [192.0.2.1:80] = delivered"),
        ],
    );
}

#[test]
fn who_cannot_call() {
    let mut explainer = Explainer::new(&shop(&[]));
    let mut error = |text: &str| explainer.call(&read(text)).unwrap_err();
    assert_eq!(error("shop/nobody GET reviews:9080/"), CallError::Workload("shop/nobody".to_owned()));
    assert_eq!(error("web GET reviews:9080/"), CallError::Form("web".to_owned()));
    assert!(matches!(error("shop/web GET re!views:9080/"), CallError::Host(..)));
    assert!(matches!(error("shop/web GET reviews:9080/ a:b=c"), CallError::Header(..)));
}

/// One call builds what its steps name, however large the mesh is.
#[test]
fn only_what_is_named_is_built() {
    let services: Vec<String> = (0..200)
        .map(|i| {
            format!(
                "{{kind: Service, apiVersion: v1, metadata: {{name: s{i}, namespace: shop}}, spec: {{clusterIP: 10.97.0.{i}, selector: {{app: s}}, \
                 ports: [{{name: http, port: 9080}}]}}}}"
            )
        })
        .collect();
    let mut explainer = Explainer::new(&shop(&services));
    let explanation = explainer.call(&read("shop/web GET ratings:9080/")).unwrap();
    assert_eq!(explanation.verdict, Verdict::Delivered);
    // Listener, routes, cluster and endpoints; at the server its listener and cluster.
    assert_eq!(explainer.built(), 6);
    explainer.call(&read("shop/web GET ratings:9080/again")).unwrap();
    assert_eq!(explainer.built(), 6, "the same resources serve the next call");
    let explanation = explainer.call(&read("shop/web GET reviews:9080/ endpoints=1")).unwrap();
    let followed: Vec<bool> = explanation.hop.ways[0].to.iter().map(|to| to.next.is_some()).collect();
    assert_eq!(followed, [true, false]);
}

/// Entries of plain TCP on one port, each with an endpoint, and with what a control plane has allocated to it.
fn allocated(mesh: &str, more: &[String]) -> Arc<Snapshot> {
    let entry = |(name, address): (&str, &str)| {
        let port = "{number: 5432, name: tcp, protocol: TCP}";
        let spec = format!("{{hosts: [{name}.example.com], ports: [{port}], resolution: STATIC, endpoints: [{{address: {address}}}]}}");
        object("ServiceEntry", name, &spec)
    };
    let entries = [("db", "192.0.2.1"), ("other", "192.0.2.2")].map(entry);
    let snapshot = shop_with(mesh, &entries.into_iter().chain(more.iter().cloned()).collect::<Vec<_>>());
    let give = |(entry, last): (&ServiceEntry, u8)| {
        let ips = [IpAddr::from([240, 240, 0, last]), IpAddr::from([0x2001, 2, 0, 0, 0, 0, 0, last.into()])];
        let allocated = ips.map(|ip| (entry.hosts[0].clone(), ip)).into();
        Change::from(Object::from(ServiceEntry { allocated, ..entry.clone() }))
    };
    let given: Vec<Change> = snapshot.objects::<ServiceEntry>().zip(1..).map(give).collect();
    snapshot.apply(given)
}

/// Two entries with one port of plain TCP are told apart by what was allocated to them, for those whose agent answers questions for names.
#[test]
fn allocated_addresses() {
    let names = r#"defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: "true"}}"#;
    let mesh = allocated(names, &[]);
    check(
        &mesh,
        &[
            ("shop/web TCP db.example.com:5432", "outbound|5432||db.example.com [192.0.2.1:5432] = delivered"),
            ("shop/web TCP other.example.com:5432", "outbound|5432||other.example.com [192.0.2.2:5432] = delivered"),
            ("shop/web TCP 240.240.0.2:5432", "outbound|5432||other.example.com [192.0.2.2:5432] = delivered"),
        ],
    );
    let resolved = |mesh: &Arc<Snapshot>| explain(mesh, "shop/web TCP db.example.com:5432").steps[0].outcome.clone();
    assert_eq!(resolved(&mesh), "240.240.0.1, of service db.example.com in shop");
    // Who is answered by the cluster's name server does not get to know them.
    let settings = |namespace: &str, value: &str| {
        let spec = format!("{{environmentVariables: {{ISTIO_META_DNS_CAPTURE: '{value}'}}}}");
        format!(
            "{{kind: ProxyConfig, apiVersion: networking.istio.io/v1beta1, metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}"
        )
    };
    for (mesh, more, knows) in [
        ("", vec![], false),
        ("", vec![settings("istio-system", "true")], true),
        ("", vec![settings("visit", "true")], false),
        (names, vec![settings("shop", "false"), settings("istio-system", "true")], false),
    ] {
        let outcome = resolved(&allocated(mesh, &more));
        let unknown = "the addresses that were allocated to db.example.com in shop are answered to pods with ISTIO_META_DNS_CAPTURE alone";
        assert_eq!((outcome.starts_with("240.240.0.1,"), outcome.starts_with(unknown)), (knows, !knows), "{mesh} {more:?} {outcome}");
    }
}
