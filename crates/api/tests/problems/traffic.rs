//! Traffic policies: balancers, limits, detection of failing endpoints, localities.

use crate::{WHAT, WHERE, check, check_spec, check_warnings, doc};

fn policy(policy: &str) -> String {
    format!("host: a\ntrafficPolicy:\n  {policy}\n")
}

fn refused(rows: &[(&str, &str)]) {
    for (blocks, expected) in rows {
        check_spec("DestinationRule", &policy(blocks), &[(3, &format!("spec.trafficPolicy.{expected}"))]);
    }
}

fn warned(rows: &[(&str, &str)]) {
    for (blocks, expected) in rows {
        check_warnings("DestinationRule", &policy(blocks), &[(3, &format!("spec.trafficPolicy.{expected}"))]);
    }
}

#[test]
fn hashes() {
    const HASH: &str = "loadBalancer.consistentHash";
    let row = |hash: &str, expected: &str| (format!("loadBalancer: {{consistentHash: {{{hash}}}}}"), format!("{HASH}.{expected}"));
    let rows = [
        row(
            "httpHeaderName: a, useSourceIp: true",
            "useSourceIp: excludes `httpHeaderName`: only one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName may be written",
        ),
        row("httpHeaderName: 'a b'", "httpHeaderName: `a b` is no header name: letters, digits and `-`, `_`, `.`"),
        row("httpQueryParameterName: ''", "httpQueryParameterName: must not be empty"),
        row("httpCookie: {}", "httpCookie.name: is required"),
        row("httpCookie: {name: 'a=b'}", "httpCookie.name: `a=b` is no name of a cookie or of its attribute"),
        row("httpCookie: {name: a, path: '/;x'}", "httpCookie.path: `/;x` cannot stand in a cookie's attribute"),
        row("httpCookie: {name: a, ttl: -1s}", "httpCookie.ttl: must not be negative, is -1s"),
        row("httpCookie: {name: a, attributes: [{value: x}]}", "httpCookie.attributes[0].name: is required"),
        row(
            "httpCookie: {name: a, attributes: [{name: b, value: \"x\\r\\ny\"}]}",
            "httpCookie.attributes[0].value: `x\\r\\ny` cannot stand in a cookie's attribute",
        ),
        row("httpHeaderName: a, ringHash: {}, maglev: {}", "maglev: excludes `ringHash`: only one of ringHash, maglev may be written"),
        row(
            "httpHeaderName: a, ringHash: {minimumRingSize: 8388609}",
            "ringHash.minimumRingSize: must be between 0 and 8388608, is 8388609",
        ),
        row("httpHeaderName: a, maglev: {tableSize: 1000}", "maglev.tableSize: must be a prime number, is 1000"),
        row("httpHeaderName: a, maglev: {tableSize: 1}", "maglev.tableSize: must be a prime number, is 1"),
        row("httpHeaderName: a, maglev: {tableSize: 5000012}", "maglev.tableSize: must be between 0 and 5000011, is 5000012"),
    ];
    refused(&rows.each_ref().map(|(blocks, expected)| (blocks.as_str(), expected.as_str())));
    refused(&[
        (
            "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "loadBalancer.consistentHash: excludes `simple`: only one of simple, consistentHash may be written",
        ),
        ("loadBalancer: {zoneAwareLbSetting: {}}", &format!("loadBalancer.zoneAwareLbSetting: {WHERE}")),
        ("loadBalancer: {backendUtilization: {}}", &format!("loadBalancer.backendUtilization: {WHERE}")),
    ]);
    const NO_KEY: &str =
        "has no key, so that endpoints are taken at random: write httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName";
    warned(&[
        ("loadBalancer: {consistentHash: {}}", &format!("{HASH}: {NO_KEY}")),
        ("loadBalancer: {consistentHash: {useSourceIp: false}}", &format!("{HASH}: {NO_KEY}")),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 9, maglev: {}}}",
            &format!("{HASH}.minimumRingSize: has no effect beside ringHash and maglev"),
        ),
    ]);
}

#[test]
fn warm_up() {
    refused(&[
        ("loadBalancer: {warmup: {}}", "loadBalancer.warmup.duration: is required"),
        ("loadBalancer: {warmup: {duration: 0s}}", "loadBalancer.warmup.duration: must be at least 1ms"),
        (
            "loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}",
            "loadBalancer.warmup.minimumPercent: must be a number from 0 to 100, is the number 101",
        ),
        (
            "loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 1s}",
            "loadBalancer.warmupDurationSecs: excludes `warmup`, which takes its place",
        ),
    ]);
    warned(&[
        (
            "loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}",
            "loadBalancer.warmup: has an effect only with LEAST_REQUEST and ROUND_ROBIN",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true}, warmupDurationSecs: 1s}",
            "loadBalancer.warmupDurationSecs: has an effect only with LEAST_REQUEST and ROUND_ROBIN",
        ),
    ]);
}

#[test]
fn localities() {
    const AT: &str = "loadBalancer.localityLbSetting";
    let row = |setting: &str, expected: &str| (format!("loadBalancer: {{localityLbSetting: {{{setting}}}}}"), format!("{AT}.{expected}"));
    let no_locality =
        |text: &str| format!("`{text}` is no locality: region, region/zone or region/zone/subzone, of which the last may be `*`");
    let rows = [
        row("distribute: [{to: {a: 100}}]", "distribute[0].from: is required"),
        row("distribute: [{from: a}]", "distribute[0].to: is required"),
        row("distribute: [{from: a, to: {a: 60, b: 30}}]", "distribute[0].to: the sum of the weights must be 100, is 90"),
        row("distribute: [{from: a/b/c/d, to: {a: 100}}]", &format!("distribute[0].from: {}", no_locality("a/b/c/d"))),
        row("distribute: [{from: '*/a', to: {a: 100}}]", &format!("distribute[0].from: {}", no_locality("*/a"))),
        row("distribute: [{from: a//b, to: {a: 100}}]", &format!("distribute[0].from: {}", no_locality("a//b"))),
        row("distribute: [{from: a/b*, to: {a: 100}}]", &format!("distribute[0].from: {}", no_locality("a/b*"))),
        row("distribute: [{from: a, to: {a: 50, a/b: 50}}]", r#"distribute[0].to["a/b"]: overlaps with another one"#),
        row("distribute: [{from: a/b, to: {a: 100}}, {from: a/*, to: {a: 100}}]", "distribute[1]: from overlaps with another one"),
        row("distribute: [{from: a, to: {a: 100}}], failover: [{from: a, to: b}]", "failover: excludes `distribute`"),
        row("failover: [{from: a}]", "failover[0].to: is required"),
        row("failover: [{from: a, to: a}]", "failover[0]: from and to are the same region"),
        row("failover: [{from: a/b, to: c}]", "failover[0].from: `a/b` is no region: zones and `*` have no place here"),
        row("failoverPriority: ['a b']", "failoverPriority[0]: `a b` is neither a label's name nor `name=value`"),
        row("failoverPriority: ['a=-']", "failoverPriority[0]: `a=-` is neither a label's name nor `name=value`"),
        row(
            "failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]",
            "failover: excludes labels of the topology in `failoverPriority`",
        ),
    ];
    for (blocks, expected) in &rows {
        let text = doc("DestinationRule", &policy(&format!("outlierDetection: {{}}\n  {blocks}")));
        check(&text, &[&format!("a.yaml:8: DestinationRule shop/x: spec.trafficPolicy.{expected}")]);
    }
    warned(&[
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}",
            "loadBalancer: failover has no effect without outlierDetection",
        ),
        ("loadBalancer: {localityLbSetting: {failoverPriority: [a]}}", "loadBalancer: failover has no effect without outlierDetection"),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 100}}], failoverPriority: [a]}}\n  outlierDetection: {}",
            &format!("{AT}.failoverPriority: has no effect beside distribute"),
        ),
    ]);
    check_spec(
        "Service",
        "ports: [{port: 1}]\ntrafficDistribution: Near",
        &[(2, "spec.trafficDistribution: must be PreferClose, PreferSameZone or PreferSameNode, is `Near`")],
    );
    let annotated = "apiVersion: v1\nkind: Service\nmetadata: {name: x, annotations: {networking.istio.io/traffic-distribution: Near}}\nspec: {ports: [{port: 1}]}\n";
    check(
        annotated,
        &[
            "a.yaml:1: Service default/x: annotation networking.istio.io/traffic-distribution: must be PreferClose, PreferSameZone or PreferSameNode, is `Near`",
        ],
    );
}

#[test]
fn limits() {
    refused(&[
        ("connectionPool: {tcp: {tcpKeepalive: {time: 500ms}}}", "connectionPool.tcp.tcpKeepalive.time: must be at least 1s"),
        (
            "connectionPool: {tcp: {tcpKeepalive: {interval: 1.5s}}}",
            "connectionPool.tcp.tcpKeepalive.interval: is counted in whole seconds",
        ),
        ("connectionPool: {tcp: {maxConnectionDuration: 0s}}", "connectionPool.tcp.maxConnectionDuration: must be at least 1ms"),
        (
            "connectionPool: {http: {h2UpgradePolicy: ALWAYS}}",
            "connectionPool.http.h2UpgradePolicy: must be one of DEFAULT, DO_NOT_UPGRADE, UPGRADE, is `ALWAYS`",
        ),
        (
            "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}",
            "connectionPool.http.useClientProtocol: excludes h2UpgradePolicy UPGRADE",
        ),
        (
            "outlierDetection: {consecutiveLocalOriginFailures: 3}",
            "outlierDetection.consecutiveLocalOriginFailures: counts only with splitExternalLocalOriginErrors",
        ),
        ("outlierDetection: {interval: 0s}", "outlierDetection.interval: must be at least 1ms"),
        ("outlierDetection: {outlierDetectionHttpErrorCodes: {}}", &format!("outlierDetection.outlierDetectionHttpErrorCodes: {WHERE}")),
        ("retryBudget: {percent: 101}", "retryBudget.percent: must be a number from 0 to 100, is the number 101"),
        ("retryBudget: {budgetInterval: 1s}", &format!("retryBudget.budgetInterval: {WHAT}")),
    ]);
    warned(&[(
        "outlierDetection: {consecutiveErrors: 3}",
        "outlierDetection.consecutiveErrors: has no effect any more: write consecutive5xxErrors or consecutiveGatewayErrors",
    )]);
}
