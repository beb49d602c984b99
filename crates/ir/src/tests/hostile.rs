//! No bytes and no request panic.

use mizzen_http::Head;
use proptest::prelude::*;
use serde_json::json;

use super::{bytes, hcm, one_chain, routes};
use crate::config::{EscapedSlashes, PathOptions};
use crate::{PathOutcome, RequestFacts, ResourceKind, Trace, compile, find_route, normalize_path};

fn kind() -> impl Strategy<Value = ResourceKind> {
    prop::sample::select(ResourceKind::ALL.to_vec())
}

/// A resource with most of the messages in it.
fn sample(kind: ResourceKind) -> Vec<u8> {
    let route = json!({"name": "r", "requestHeadersToAdd": [{"header": {"key": "a", "value": "%REQ(b?c):3%"}}], "virtualHosts": [
        {"name": "h", "domains": ["*.a", "b.*"], "routes": [
            {"match": {"safeRegex": {"regex": r"/\Qa\E(b|c)"}, "headers": [{"name": "x", "rangeMatch": {"start": 1, "end": 2}}]},
             "route": {"weightedClusters": {"clusters": [{"name": "c", "weight": 1}]}, "timeout": "3s",
                "regexRewrite": {"pattern": {"regex": "(a)"}, "substitution": r"\1"}, "retryPolicy": {"retryOn": "5xx"}}},
            {"match": {"prefix": "/"}, "redirect": {"prefixRewrite": "/x", "portRedirect": 5}}]}]});
    let value = match kind {
        ResourceKind::VirtualHost => {
            json!({"name": "h:80", "domains": ["*.a", "b.*"], "routes": route["virtualHosts"][0]["routes"]})
        }
        ResourceKind::Listener => one_chain(json!([hcm(json!({"routeConfig": route}))])),
        ResourceKind::Route => route,
        ResourceKind::Cluster => {
            json!({"name": "c", "type": "STRICT_DNS", "connectTimeout": "1s", "outlierDetection": {"consecutive5xx": 1},
            "circuitBreakers": {"thresholds": [{"maxConnections": 1}]}, "metadata": {"filterMetadata": {"istio": {"services": [{"host": "h"}]}}},
            "transportSocketMatches": [{"name": "t", "match": {"tlsMode": "istio"}, "transportSocket": {"name": "tls", "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "commonTlsContext": {"tlsParams": {"cipherSuites": ["[A|ECDHE-RSA-AES128-GCM-SHA256]"]}}}}}]})
        }
        ResourceKind::Assignment => json!({"clusterName": "c", "endpoints": [{"priority": 3, "lbEndpoints": [{"loadBalancingWeight": 9,
            "endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 80}}}}]}]}),
        ResourceKind::Secret => {
            json!({"name": "ROOTCA", "validationContext": {"trustedCa": {"inlineString": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}}})
        }
    };
    let mut value = value;
    if kind == ResourceKind::Listener {
        // One specifier only.
        value["filterChains"][0]["filters"][0]["typedConfig"].as_object_mut().unwrap().remove("rds");
    }
    bytes(kind, &value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes(kind in kind(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = compile(kind, &bytes);
    }

    #[test]
    fn nearly_right_bytes(kind in kind(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sample(kind);
        for (at, b) in changes {
            let i = at.index(bytes.len());
            bytes[i] = b;
        }
        if let Ok(compiled) = compile(kind, &bytes) {
            prop_assert_eq!(compiled.resource.hash(), compile(kind, &bytes).unwrap().resource.hash());
        }
    }

    #[test]
    fn any_path(path in r"(/|%2[eEfF]|\.|%5c|\\|[a-c]|%|\?|é){0,20}", normalize: bool, merge_slashes: bool) {
        for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Reject, EscapedSlashes::Redirect, EscapedSlashes::Forward] {
            let options = PathOptions { normalize, merge_slashes, escaped_slashes };
            if let PathOutcome::Changed(new) | PathOutcome::Redirect(new) = normalize_path(&path, &options) {
                prop_assert!(new.starts_with('/'));
                if normalize {
                    let plain = new.split('?').next().unwrap();
                    let dots = plain.split('/').any(|s| s == ".." || s == ".");
                    prop_assert!(!dots, "{} became {}", path, new);
                }
            }
        }
    }

    #[test]
    fn what_is_normal_stays(path in "/(%|%%|2|5|f|e|6|1|0|3|c|/|\\.|%2[eEfF]|%3[0-9]|%5[cC]|%6[1-6]|\\\\|a|\\?|é|\"|\\{){0,24}", merge_slashes: bool, forward: bool) {
        let escaped_slashes = if forward { EscapedSlashes::Forward } else { EscapedSlashes::Keep };
        let options = PathOptions { normalize: true, merge_slashes, escaped_slashes };
        let once = match normalize_path(&path, &options) {
            PathOutcome::Keep => path.clone(),
            PathOutcome::Changed(once) => once,
            other => { prop_assert_eq!(other, PathOutcome::Reject); return Ok(()) }
        };
        prop_assert_eq!(normalize_path(&once, &options), PathOutcome::Keep, "{} became {}", path, once);
        let query = |p: &str| p.split_once('?').map(|(_, q)| q.to_owned());
        prop_assert_eq!(query(&once), query(&path));
        // Whoever decodes it once sees as many segments up as a policy has seen: none.
        let plain = once.split('?').next().unwrap();
        prop_assert!(plain.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>[]^`{|}\\".contains(&b)), "{}", once);
        prop_assert!(!plain.split('/').any(|s| matches!(s.replace("%2e", ".").replace("%2E", ".").as_str(), "." | "..")), "{}", once);
    }

    #[test]
    fn any_request(authority in ".{0,20}", path in ".{0,20}", value in ".{0,10}", random: u64) {
        let config = routes(&json!({"name": "r", "virtualHosts": [{"name": "h", "domains": ["*.a", "b.*", "*"], "routes": [
            {"match": {"pathSeparatedPrefix": "/é", "headers": [{"name": "x", "stringMatch": {"contains": "é", "ignoreCase": true}}]}, "route": {"cluster": "c"}},
            {"match": {"prefix": "/Ab", "caseSensitive": false, "queryParameters": [{"name": "a"}]}, "route": {"cluster": "c"}}]}]}));
        let mut head = Head::request("GET", "http", &authority, &path);
        head.append("x", value.as_bytes());
        let _ = find_route(&config, &RequestFacts { head: &head, secure: false, metadata: None }, random, &mut Trace::to(&mut Vec::new()));
    }
}
