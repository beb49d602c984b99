//! For whom a rule holds, and whose an address, a host or a port is.

use mizzen_model::{ProxyType, ProxyView, Snapshot};

use super::{facts, names, reviews, shop, summary::show, visitor};
use crate::ResourceKind;

fn entry(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}"
    )
}

fn rules(name: &str, host: &str, spec: &str) -> String {
    format!(
        "{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{hosts: ['{host}'], {spec}}}}}"
    )
}

fn shop_with(texts: &[String]) -> std::sync::Arc<Snapshot> {
    shop(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_service_keeps_its_address() {
    let check = |addresses: &str, number: u16, protocol: &str, listener: &str, expected: Option<&str>| {
        let spec = format!(
            "hosts: [evil.example.com], addresses: ['{addresses}'], resolution: STATIC, endpoints: [{{address: 192.0.2.66}}], \
             ports: [{{number: {number}, name: p, protocol: {protocol}}}]"
        );
        let snapshot = shop_with(&[entry("aaa", "aaa", &spec)]);
        let what = format!("{addresses} {number} {protocol}: {listener}");
        let Some(expected) = expected else {
            let names = names(&snapshot, &visitor(), ResourceKind::Listener);
            return assert!(!names.contains(&listener.to_owned()), "{what}: {names:?}");
        };
        let text = show(&snapshot, &visitor(), ResourceKind::Listener, listener);
        assert!(text.contains(expected), "{what}: {text}");
        assert!(addresses.contains('/') || !text.contains("evil"), "{what}: {text}");
    };
    let stock = "tcp(outbound|6379||stock.shop.svc.cluster.local)";
    for protocol in ["TCP", "TLS", "MySQL"] {
        check("10.96.0.13", 6379, protocol, "10.96.0.13_6379", Some(stock));
    }
    check("10.96.0.0/16", 6379, "TCP", "10.96.0.13_6379", Some(stock));
    // A detected protocol, a declared one, and the pods of a headless service.
    check("10.96.0.14", 5000, "TCP", "10.96.0.14_5000", Some("else - => stats tcp(outbound|5000||anything.shop.svc.cluster.local)"));
    check("10.96.0.11", 9080, "TCP", "10.96.0.11_9080", None);
    check("10.0.0.15", 7000, "TCP", "10.0.0.15_7000", Some("tcp(outbound|7000||store.shop.svc.cluster.local)"));
    // Of a range, HTTP to a Service's address is told apart first.
    check("10.96.0.0/16", 9080, "TCP", "0.0.0.0_9080", Some("- to=10.96.0.11/32 raw_buffer alpn=http/1.1,h2c => http(rds 9080"));
    check("10.96.0.11", 9080, "HTTP", "0.0.0.0_9080", Some("rds 9080"));
    // What no Service has is anybody's.
    check("10.96.0.13", 6380, "UDP", "10.96.0.13_6380", None);
    let free = entry("aaa", "aaa", "hosts: [free.example.com], addresses: [10.97.0.1], ports: [{number: 6379, name: p, protocol: TCP}]");
    assert!(show(&shop_with(&[free]), &visitor(), ResourceKind::Listener, "10.97.0.1_6379").contains("free.example.com"));
}

#[test]
fn a_pod_serves_no_entry_of_another_namespace() {
    let of = |namespace: &str| {
        let spec = "hosts: [evil.example.com], resolution: STATIC, endpoints: [{address: 10.0.0.11}], ports: [{number: 8181, name: p, protocol: TCP}]";
        names(&shop_with(&[entry("aaa", namespace, spec)]), &reviews(), ResourceKind::Cluster).contains(&"inbound|8181||".to_owned())
    };
    assert!(of("shop") && !of("aaa"));
}

/// Conditions that do not concern `visitor` at port 9080 or 6379.
const ELSEWHERE: [&str; 4] = ["port: 1", "gateways: [shop/other]", "sourceLabels: {app: other}", "sourceNamespace: elsewhere"];

#[test]
fn http_rules_that_do_not_concern_the_caller_are_absent() {
    let to = |condition: &str| {
        format!(
            "gateways: [mesh, shop/other], http: [{{name: first, match: [{{{condition}}}], route: [{{destination: {{host: ratings}}}}]}}]"
        )
    };
    for condition in ELSEWHERE {
        let first = rules("a", "reviews", &to(condition));
        let check = |more: &[String], expected: &str| {
            let texts: Vec<String> = std::iter::once(&first).chain(more).cloned().collect();
            let text = show(&shop_with(&texts), &visitor(), ResourceKind::Route, "9080");
            assert!(text.contains(&format!("\n    {expected}: /* => outbound|9080||reviews")), "{condition}: {expected}: {text}");
        };
        check(&[], "default");
        let second =
            |name: &str, host: &str| rules(name, host, &format!("http: [{{name: {name}, route: [{{destination: {{host: reviews}}}}]}}]"));
        check(&[second("second", "reviews")], "second");
        check(&[second("wide", "*.shop.svc.cluster.local")], "wide");
        // One that routes other protocols only is absent too.
        check(&[rules("b", "reviews", "tcp: [{route: [{destination: {host: stock}}]}]"), second("third", "reviews")], "third");
        // A host without a service.
        let text = show(
            &shop_with(&[
                rules("a", "old.example.com", &to(condition)),
                rules("w", "web.example.com", "http: [{redirect: {uri: /}}]"),
                web(),
            ]),
            &visitor(),
            ResourceKind::Route,
            "80",
        );
        assert!(!text.contains("old.example.com") && text.contains("web.example.com"), "{condition}: {text}");
    }
    // A condition on the request is no condition on the caller.
    let text = show(&shop_with(&[rules("a", "reviews", &to("uri: {prefix: /a}"))]), &visitor(), ResourceKind::Route, "9080");
    assert!(text.contains("first: /a* =>") && !text.contains("default:"), "{text}");
}

fn web() -> String {
    "{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.60, selector: {app: web}, ports: [{name: http, port: 80}]}}"
        .to_owned()
}

#[test]
fn tcp_rules_that_do_not_concern_the_caller_are_absent() {
    let to =
        |matches: &str| format!("gateways: [mesh, shop/other], tcp: [{{match: [{matches}], route: [{{destination: {{host: ratings}}}}]}}]");
    let listener = |texts: &[String]| show(&shop_with(texts), &visitor(), ResourceKind::Listener, "10.96.0.13_6379");
    for condition in ELSEWHERE {
        let first = rules("a", "stock", &to(&format!("{{{condition}}}")));
        let text = listener(std::slice::from_ref(&first));
        assert!(text.contains("- => stats tcp(outbound|6379||stock"), "{condition}: {text}");
        let second = rules("b", "stock", "tcp: [{route: [{destination: {host: stock, subset: second}}]}]");
        let text = listener(&[first, second]);
        assert!(text.contains("- => stats tcp(outbound|6379|second|stock"), "{condition}: {text}");
        // The ranges of a condition that does not hold do not hold either.
        let text = listener(&[rules("a", "stock", &to(&format!("{{{condition}, destinationSubnets: [192.0.2.0/24]}}, {{port: 6379}}")))]);
        assert!(text.contains("- => stats tcp(outbound|9090||ratings") && !text.contains("192.0.2"), "{condition}: {text}");
    }
}

#[test]
fn rules_at_a_gateway_that_do_not_concern_it_are_absent() {
    let gateway: ProxyView = facts(ProxyType::Router, "10.0.0.98", "istio-system", &[("istio", "ingressgateway")]).into();
    let server = "{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: g, namespace: shop}, spec: {selector: {istio: ingressgateway}, \
                  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}";
    let to =
        |condition: &str| format!("gateways: [mesh, g], http: [{{match: [{{{condition}}}], route: [{{destination: {{host: ratings}}}}]}}]");
    for condition in ["port: 1", "gateways: [mesh]", "sourceLabels: {app: other}", "sourceNamespace: elsewhere"] {
        let narrow = rules("a", "www.example.com", &to(condition));
        let text = show(&shop_with(&[server.to_owned(), narrow]), &gateway, ResourceKind::Route, "http.80");
        assert!(!text.contains("www.example.com"), "{condition}: {text}");
    }
}

#[test]
fn entries_of_one_host() {
    let of = |name: &str, namespace: &str, port: &str, more: &str| {
        entry(name, namespace, &format!("hosts: [api.example.com], ports: [{port}], {more}"))
    };
    let plain = "{number: 80, name: http, protocol: HTTP}";
    let redis = "{number: 6379, name: tcp, protocol: TCP}";
    let fixed = "addresses: [10.97.0.7], resolution: STATIC, endpoints: [{address: 192.0.2.7}]";
    for namespace in ["shop", "other"] {
        let snapshot = shop_with(&[of("a", "shop", plain, "resolution: DNS"), of("b", namespace, redis, fixed)]);
        let clusters = names(&snapshot, &visitor(), ResourceKind::Cluster);
        let expected = ["outbound|80||api.example.com", "outbound|6379||api.example.com"];
        for name in expected {
            assert_eq!(clusters.iter().filter(|cluster| *cluster == name).count(), 1, "{namespace}: {name}: {clusters:?}");
        }
        assert!(show(&snapshot, &visitor(), ResourceKind::Cluster, expected[0]).contains("STRICT_DNS"));
        assert!(show(&snapshot, &visitor(), ResourceKind::Endpoints, expected[1]).contains("192.0.2.7"));
        assert!(show(&snapshot, &visitor(), ResourceKind::Listener, "10.97.0.7_6379").contains(expected[1]));
        assert!(show(&snapshot, &visitor(), ResourceKind::Route, "80").contains(expected[0]));
    }
    // A port that both have is the older one's.
    let snapshot = shop_with(&[of("a", "shop", plain, "resolution: DNS"), of("b", "shop", plain, fixed)]);
    assert!(show(&snapshot, &visitor(), ResourceKind::Cluster, "outbound|80||api.example.com").contains("STRICT_DNS"));
    assert!(!names(&snapshot, &visitor(), ResourceKind::Endpoints).contains(&"outbound|80||api.example.com".to_owned()));
}

#[test]
fn rules_to_a_headless_service_reach_its_endpoints() {
    let all = "outbound|7000|*|store.shop.svc.cluster.local";
    let to = |host: &str, kind: &str, port: u16| {
        rules("a", host, &format!("{kind}: [{{route: [{{destination: {{host: store, port: {{number: {port}}}}}}}]}}]"))
    };
    let web = "
kind: Service
apiVersion: v1
metadata: {name: store, namespace: shop}
spec: {clusterIP: None, selector: {app: store}, ports: [{name: tcp, port: 7000}, {name: http, port: 7001}]}
"
    .to_owned();
    let snapshot = shop_with(&[web.clone(), to("stock", "tcp", 7000)]);
    assert!(show(&snapshot, &visitor(), ResourceKind::Listener, "10.96.0.13_6379").contains(all));
    assert!(show(&snapshot, &visitor(), ResourceKind::Cluster, all).contains("EDS"));
    assert!(names(&snapshot, &visitor(), ResourceKind::Cluster).contains(&all.to_owned()));
    let endpoints = show(&snapshot, &visitor(), ResourceKind::Endpoints, all);
    assert!(endpoints.contains("10.0.0.15") && endpoints.contains("10.0.0.16"), "{endpoints}");
    let snapshot = shop_with(&[web.clone(), to("reviews", "http", 7001)]);
    assert!(show(&snapshot, &visitor(), ResourceKind::Route, "9080").contains("outbound|7001|*|store"));
    // Who has dialled one of its pods has chosen.
    let snapshot = shop_with(&[web.clone(), to("store", "http", 7001)]);
    assert!(show(&snapshot, &visitor(), ResourceKind::Route, "7001").contains("outbound|7001||store"));
    // A part of it is chosen among the part.
    let subsets = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: r, namespace: shop}, spec: {host: store, subsets: [{name: v1, labels: {version: v1}}]}}";
    let snapshot = shop_with(&[web, subsets.to_owned()]);
    let part = "outbound|7000|v1|store.shop.svc.cluster.local";
    assert!(show(&snapshot, &visitor(), ResourceKind::Cluster, part).contains("EDS"));
    assert!(!show(&snapshot, &visitor(), ResourceKind::Endpoints, part).contains("10.0.0.15"));
}
