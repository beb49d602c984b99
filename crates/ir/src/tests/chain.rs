//! Which chain a connection gets.

use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::{core::v3 as core, listener::v3::Listener};
use prost::Message;
use serde_json::{Value, json};

use super::{hcm, listener, tcp_proxy};
use crate::config::{Action, Hcm, HttpRoutes, Route, Terminal, TransportProtocol};
use crate::{ConnFacts, Trace, find_chain};

/// `to`, `from`, then `tls`, `sni=…`, `alpn=a,b`.
fn check(chains: &[(&str, serde_json::Value)], default: bool, cases: &[(&str, &str)]) {
    let chains: Vec<_> =
        chains.iter().map(|(name, matching)| json!({"name": name, "filterChainMatch": matching, "filters": [tcp_proxy(name)]})).collect();
    let mut value = json!({"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 15006}}, "filterChains": chains});
    if default {
        value["defaultFilterChain"] = json!({"name": "default", "filters": [tcp_proxy("default")]});
    }
    let listener = listener(&value);
    for (facts, expected) in cases {
        let mut words = facts.split(' ');
        let (to, from) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
        let (mut tls, mut sni, mut alpn) = (TransportProtocol::RawBuffer, None, Vec::new());
        for word in words {
            match word.split_once('=') {
                None => tls = TransportProtocol::Tls,
                Some(("sni", name)) => sni = Some(name),
                Some((_, list)) => alpn = list.split(',').map(|a| a.as_bytes().to_vec()).collect(),
            }
        }
        let facts = ConnFacts {
            destination: to,
            source: from,
            direct_source: from,
            server_name: sni,
            transport: tls,
            application_protocols: &alpn,
        };
        let mut notes = Vec::new();
        let found = find_chain(&listener, &facts, &mut Trace::to(&mut notes)).map_or("none", |c| &c.name);
        assert_eq!(found, *expected, "{facts:?}: {notes:#?}");
        assert!(!notes.is_empty());
    }
}

#[test]
fn inbound() {
    let mtls = json!({"transportProtocol": "tls", "applicationProtocols": ["istio-http/1.1", "istio-h2"]});
    check(
        &[
            ("blackhole", json!({"destinationPort": 15006})),
            ("mesh-http", mtls),
            ("mesh-tcp", json!({"transportProtocol": "tls"})),
            ("plain-http", json!({"transportProtocol": "raw_buffer", "applicationProtocols": ["http/1.1", "h2c"]})),
            ("plain", json!({"transportProtocol": "raw_buffer"})),
            ("9080", json!({"destinationPort": 9080, "transportProtocol": "tls"})),
        ],
        false,
        &[
            ("10.0.0.1:15006 10.0.0.2:5", "blackhole"),
            ("10.0.0.1:80 10.0.0.2:5 tls alpn=istio-h2", "mesh-http"),
            ("10.0.0.1:80 10.0.0.2:5 tls alpn=h2", "mesh-tcp"),
            ("10.0.0.1:80 10.0.0.2:5 alpn=h2c", "plain-http"),
            ("10.0.0.1:80 10.0.0.2:5", "plain"),
            ("10.0.0.1:9080 10.0.0.2:5 tls alpn=istio-h2", "9080"),
            // The port has chosen; there is no way back to the plain chains.
            ("10.0.0.1:9080 10.0.0.2:5", "none"),
        ],
    );
}

#[test]
fn server_names() {
    check(
        &[
            ("exact", json!({"serverNames": ["a.example.com"]})),
            ("wild", json!({"serverNames": ["*.example.com"]})),
            ("wilder", json!({"serverNames": ["*.com", "B.Example.COM"]})),
        ],
        true,
        &[
            ("10.0.0.1:443 10.0.0.2:5 tls sni=a.example.com", "exact"),
            ("10.0.0.1:443 10.0.0.2:5 tls sni=x.example.com", "wild"),
            ("10.0.0.1:443 10.0.0.2:5 tls sni=x.y.example.com", "wild"),
            ("10.0.0.1:443 10.0.0.2:5 tls sni=b.example.com", "wilder"),
            ("10.0.0.1:443 10.0.0.2:5 tls sni=example.com", "wilder"),
            ("10.0.0.1:443 10.0.0.2:5 tls sni=com", "default"),
            ("10.0.0.1:443 10.0.0.2:5", "default"),
        ],
    );
}

#[test]
fn ranges_sources_and_alpn_order() {
    let range = |address: &str, length: u32| json!([{"addressPrefix": address, "prefixLen": length}]);
    check(
        &[
            ("net", json!({"prefixRanges": range("10.0.0.0", 8)})),
            ("subnet", json!({"prefixRanges": range("10.1.0.0", 16)})),
            ("local", json!({"prefixRanges": range("192.168.0.0", 16), "sourceType": "SAME_IP_OR_LOOPBACK"})),
            ("from", json!({"prefixRanges": range("192.168.0.0", 16), "sourcePrefixRanges": range("10.9.0.0", 16)})),
            ("port", json!({"prefixRanges": range("192.168.0.0", 16), "sourcePrefixRanges": range("10.9.0.0", 16), "sourcePorts": [77]})),
            ("h2", json!({"prefixRanges": range("172.16.0.0", 12), "applicationProtocols": ["h2"]})),
            ("http1", json!({"prefixRanges": range("172.16.0.0", 12), "applicationProtocols": ["http/1.1"]})),
        ],
        false,
        &[
            ("10.2.0.1:80 1.1.1.1:5", "net"),
            ("10.1.0.1:80 1.1.1.1:5", "subnet"),
            ("192.168.0.1:80 127.0.0.1:5", "local"),
            ("192.168.0.1:80 192.168.0.1:5", "local"),
            ("192.168.0.1:80 10.9.0.1:5", "from"),
            ("192.168.0.1:80 10.9.0.1:77", "port"),
            ("192.168.0.1:80 10.8.0.1:5", "none"),
            // The client's order decides.
            ("172.16.0.1:80 1.1.1.1:5 alpn=http/1.1,h2", "http1"),
            ("172.16.0.1:80 1.1.1.1:5 alpn=h2,http/1.1", "h2"),
            ("[::1]:80 [::2]:5", "none"),
        ],
    );
}

/// A gateway has a chain for each host, and all its policies in each.
#[test]
fn what_chains_have_in_common_is_held_once() {
    let filter = |name: &str, kind: &str, mut config: Value| {
        config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{kind}").into();
        json!({"name": name, "typedConfig": config})
    };
    let router = || filter("router", "router.v3.Router", json!({}));
    let rbac = |action: &str| filter("rbac", "rbac.v3.RBAC", json!({"rules": {"action": action}}));
    let limit = || filter("limit", "local_ratelimit.v3.LocalRateLimit", json!({"tokenBucket": {"maxTokens": 1, "fillInterval": "1s"}}));
    let log = |text: &str| {
        json!([{"name": "f", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/stdout",
            "logFormat": {"textFormatSource": {"inlineString": text}}}}])
    };
    // Whether the second of two chains has the first one's filters, and its logs.
    let shared = |one: [Value; 2], other: [Value; 2]| {
        let chain = |name: &str, [filters, log]: [Value; 2]| {
            let manager =
                hcm(json!({"httpFilters": filters, "accessLog": log, "rds": {"configSource": {"ads": {}}, "routeConfigName": name}}));
            json!({"filterChainMatch": {"serverNames": [name]}, "filters": [manager]})
        };
        let address = json!({"socketAddress": {"address": "0.0.0.0", "portValue": 443}});
        let listener =
            listener(&json!({"name": "l", "address": address, "filterChains": [chain("a.example", one), chain("b.example", other)]}));
        let managers: Vec<&Arc<Hcm>> = listener
            .chains
            .iter()
            .map(|chain| match &chain.filters.last {
                Terminal::Http(hcm) => hcm,
                other => panic!("{other:?}"),
            })
            .collect();
        let [one, other] = managers[..] else { panic!("two chains") };
        assert_ne!(one.routes, other.routes);
        (Arc::ptr_eq(&one.filters, &other.filters), Arc::ptr_eq(&one.access_log, &other.access_log))
    };
    let policies = || json!([rbac("DENY"), rbac("ALLOW"), router()]);
    assert_eq!(shared([policies(), log("a\n")], [policies(), log("a\n")]), (true, true));
    assert_eq!(shared([policies(), log("a\n")], [json!([rbac("DENY"), router()]), log("b\n")]), (false, false));
    assert_eq!(shared([json!([rbac("DENY"), router()]), log("a\n")], [json!([rbac("ALLOW"), router()]), log("a\n")]), (false, true));
    // Each place counts for itself, and what is warned of is said of each.
    assert_eq!(shared([json!([limit(), router()]), log("%WHAT%")], [json!([limit(), router()]), log("%WHAT%")]), (false, false));
}

/// A gateway whose hosts differ by their names: what their routes do is held once.
#[test]
fn what_routes_have_in_common_is_held_once() {
    let chain = |host: &str, cluster: &str, value: &str| {
        let hosts = json!([{"name": host, "domains": [host], "routes": [{"name": "default", "match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]);
        let routes = json!({"name": host, "virtualHosts": hosts, "requestHeadersToAdd": [{"header": {"key": "x-shop", "value": value}}]});
        let mut manager = hcm(json!({"routeConfig": routes}));
        manager["typedConfig"].as_object_mut().unwrap().remove("rds");
        json!({"filterChainMatch": {"serverNames": [host]}, "filters": [manager]})
    };
    // Whether the second of two chains has the first one's name of a route, headers, and action.
    let shared = |one: [&str; 2], other: [&str; 2]| {
        let chains = [chain("a.example", one[0], one[1]), chain("b.example", other[0], other[1])];
        let listener =
            listener(&json!({"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 443}}, "filterChains": chains}));
        let routes: Vec<&Arc<Route>> = listener
            .chains
            .iter()
            .map(|chain| match &chain.filters.last {
                Terminal::Http(hcm) => match &hcm.routes {
                    HttpRoutes::Inline(routes) => {
                        let host = &routes.hosts[0];
                        // The host is the same text in four places.
                        let name = &chain.matching.server_names[0];
                        assert!(Arc::ptr_eq(name, &host.name) && Arc::ptr_eq(name, &host.domains[0]));
                        &host.routes[0]
                    }
                    other @ HttpRoutes::Named(_) => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
            .collect();
        let [one, other] = routes[..] else { panic!("two routes") };
        let (Action::Forward(forward), Action::Forward(other_forward)) = (&one.action, &other.action) else { panic!("{one:?}") };
        (Arc::ptr_eq(&one.name, &other.name), Arc::ptr_eq(&one.headers, &other.headers), Arc::ptr_eq(forward, other_forward))
    };
    assert_eq!(shared(["shop", "1"], ["shop", "1"]), (true, true, true));
    assert_eq!(shared(["shop", "1"], ["reviews", "1"]), (true, true, false));
    // The headers of the target differ too.
    assert_eq!(shared(["shop", "1"], ["shop", "2"]), (true, false, false));
}

#[test]
fn a_chain_that_cannot_be_read_is_told_by_its_place() {
    let socket = core::SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(443)),
        ..Default::default()
    };
    let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
    let mut bytes = Listener { name: "l".to_owned(), address: Some(address), ..Default::default() }.encode_to_vec();
    // Two chains that have nothing but a name, of which the second is longer than its chain.
    bytes.extend([0x1a, 3, 0x3a, 1, b'a', 0x1a, 3, 0x3a, 9, b'b']);
    let refused = |bytes: &[u8]| crate::compile(crate::ResourceKind::Listener, bytes).unwrap_err();
    let refusal = refused(&bytes);
    assert_eq!((&*refusal.resource, refusal.field.as_str()), ("l", "filter_chains[1]"));
    assert!(refusal.reason.starts_with("not readable"), "{refusal}");
    // The chain itself is cut off.
    let refusal = refused(&bytes[..bytes.len() - 1]);
    assert!(refusal.field.is_empty() && refusal.reason.starts_with("not readable"), "{refusal}");
}
