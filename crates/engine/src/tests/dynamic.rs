//! Names that requests and connections bring, found on demand.

use std::time::Duration;

use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::{Command, sim::Sim};

/// A cluster of such names, with `more` about its cache. `held`: to these names and this port, as Mizzen's control plane says it.
fn names(more: &Value, held: Option<(&str, u16)>) -> (ResourceKind, Value) {
    let mut cache = json!({"name": "c", "dns_lookup_family": "V4_ONLY",
        "resolved_address_filter": {"ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}});
    for (key, value) in more.as_object().unwrap() {
        cache[key] = value.clone();
    }
    let mut cluster = json!({"name": "dyn", "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig", "dns_cache_config": cache}}});
    if let Some((host, port)) = held {
        cluster["metadata"] = json!({"filter_metadata": {"mizzen": {"dynamic_host": host, "dynamic_port": port}}});
    }
    (ResourceKind::Cluster, cluster)
}

fn sim(resources: &[(ResourceKind, Value)], known: &[(&str, &[&str])]) -> Sim {
    let mut sim = mesh_with(1, client(resources), &Inbound::default());
    for address in ["192.0.2.1:8080", "192.0.2.2:8080", "192.0.2.1:80", "127.0.0.1:8080"] {
        sim.serve(address, echo_app());
    }
    for (name, addresses) in known {
        sim.names.insert((*name).to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect());
    }
    sim
}

/// A request for a host, whose line in the log is `STATUS FLAGS DETAILS ADDRESS`.
#[track_caller]
fn check(sim: &mut Sim, host: &str, expected: &str) {
    sim.log(0);
    call(sim, format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
    let line = lines(&sim.log(0)).pop().unwrap();
    let field = |name: &str| line[name].as_str().map_or_else(|| line[name].to_string(), str::to_owned);
    let found = ["response_code", "response_flags", "response_code_details", "upstream_host"].map(field).join(" ");
    assert_eq!(found, expected, "{host}");
}

fn to_names() -> (ResourceKind, Value) {
    route("r", json!({"cluster": "dyn", "timeout": "0s"}))
}

const NOT_FOUND: &str = "503 DF dns_resolution_failure null";
const FULL: &str = "503 UO dns_cache_overflow null";

#[test]
fn by_host() {
    let known: &[(&str, &[&str])] = &[
        ("a.example.test", &["192.0.2.1"]),
        ("b.example.test", &["192.0.2.2"]),
        ("loop.example.test", &["127.0.0.1"]),
        ("both.example.test", &["127.0.0.1", "192.0.2.2"]),
        ("six.example.test", &["2001:db8::1"]),
        ("example.test", &["192.0.2.1"]),
        ("a.other.test", &["192.0.2.1"]),
    ];
    let mut held = sim(&[names(&json!({}), Some(("*.example.test", 8080))), to_names()], known);
    for (host, expected) in [
        ("a.example.test", "200 - via_upstream 192.0.2.1:8080"),
        ("A.Example.test:80", "200 - via_upstream 192.0.2.1:8080"),
        ("b.example.test:9999", "200 - via_upstream 192.0.2.2:8080"),
        ("both.example.test", "200 - via_upstream 192.0.2.2:8080"),
        ("loop.example.test", NOT_FOUND),
        ("six.example.test", NOT_FOUND),
        ("none.example.test", NOT_FOUND),
        ("example.test", NOT_FOUND),
        ("a.other.test", NOT_FOUND),
        ("192.0.2.1", NOT_FOUND),
        ("localhost", NOT_FOUND),
    ] {
        check(&mut held, host, expected);
    }
    assert_clean(&mut held);
    // Where nothing is said of names and ports, they are the client's, as with Envoy.
    let mut open = sim(&[names(&json!({}), None), to_names()], known);
    check(&mut open, "a.example.test:8080", "200 - via_upstream 192.0.2.1:8080");
    check(&mut open, "a.other.test", "200 - via_upstream 192.0.2.1:80");
    check(&mut open, "loop.example.test:8080", NOT_FOUND);
}

#[test]
fn another_address_is_tried() {
    let retried = json!({"cluster": "dyn", "timeout": "0s", "retry_policy": {"retry_on": "connect-failure", "num_retries": 2,
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}]}});
    let known: &[(&str, &[&str])] = &[("a.example.test", &["192.0.2.9", "192.0.2.1"])];
    let mut sim = sim(&[names(&json!({}), Some(("*.example.test", 8080))), route("r", retried)], known);
    check(&mut sim, "a.example.test", "200 - via_upstream 192.0.2.1:8080");
}

#[test]
fn names_are_kept_and_asked_for_again() {
    let mut sim = sim(&[names(&json!({}), Some(("*.example.test", 8080))), to_names()], &[("a.example.test", &["192.0.2.1"])]);
    let to = |last: u8| format!("200 - via_upstream 192.0.2.{last}:8080");
    check(&mut sim, "a.example.test", &to(1));
    sim.names.insert("a.example.test".to_owned(), vec!["192.0.2.2".parse().unwrap()]);
    check(&mut sim, "a.example.test", &to(1));
    // Its time is over: it is still used, and asked for beside that.
    sim.run_for(Duration::from_secs(31));
    check(&mut sim, "a.example.test", &to(1));
    check(&mut sim, "a.example.test", &to(2));
    // Nobody has used it for long: what it stood for says nothing.
    sim.names.insert("a.example.test".to_owned(), vec!["192.0.2.1".parse().unwrap()]);
    sim.run_for(Duration::from_secs(301));
    check(&mut sim, "a.example.test", &to(1));
    // One that was not found is asked for again, not at once.
    check(&mut sim, "b.example.test", NOT_FOUND);
    sim.names.insert("b.example.test".to_owned(), vec!["192.0.2.2".parse().unwrap()]);
    check(&mut sim, "b.example.test", NOT_FOUND);
    sim.run_for(Duration::from_secs(6));
    check(&mut sim, "b.example.test", &to(2));
}

#[test]
fn bounds() {
    let known: &[(&str, &[&str])] =
        &[("a.example.test", &["192.0.2.1"]), ("b.example.test", &["192.0.2.2"]), ("c.example.test", &["192.0.2.1"])];
    let held = Some(("*.example.test", 8080));
    let mut few = sim(&[names(&json!({"max_hosts": 2}), held), to_names()], known);
    for (host, expected) in [("a.example.test", "192.0.2.1:8080"), ("b.example.test", "192.0.2.2:8080")] {
        check(&mut few, host, &format!("200 - via_upstream {expected}"));
    }
    check(&mut few, "c.example.test", FULL);
    few.run_for(Duration::from_secs(200));
    check(&mut few, "a.example.test", "200 - via_upstream 192.0.2.1:8080");
    few.run_for(Duration::from_secs(101));
    check(&mut few, "c.example.test", "200 - via_upstream 192.0.2.1:8080");
    check(&mut few, "b.example.test", FULL);
    let of_names = |sim: &Sim| sim.sizes(0).into_iter().find(|(name, _)| *name == "names").unwrap().1;
    assert_eq!(of_names(&few), 2);
    // With the cluster its names go.
    let other = route("r", json!({"cluster": CLUSTER, "timeout": "0s"}));
    few.command(0, Command::Config(client(&[other])));
    few.run();
    assert_eq!(of_names(&few), 0);
    let mut none = sim(&[names(&json!({"dns_cache_circuit_breaker": {"max_pending_requests": 0}}), held), to_names()], known);
    check(&mut none, "a.example.test", FULL);
}

/// A ClientHello with a server name, or none.
fn hello(name: Option<&str>) -> Vec<u8> {
    let with_len = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let names = name.map(|name| [&[0, 0][..], &with_len(&with_len(&[&[0][..], &with_len(name.as_bytes())].concat()))].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &with_len(&[0x13, 1]), &[1, 0], &with_len(&names.unwrap_or_default())].concat();
    let message = [&[1, 0][..], &with_len(&body)].concat();
    [&[22, 3, 1][..], &with_len(&message)].concat()
}

#[test]
fn by_server_name() {
    let cache = json!({"name": "c", "dns_lookup_family": "V4_ONLY"});
    let sni = json!({"name": "sni", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
        "dns_cache_config": cache, "port_value": 8443}});
    let inspector = json!([{"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
    let chains = json!([{"filters": [sni, tcp_proxy("dyn")]}]);
    let at = listener(
        "0.0.0.0_443",
        "0.0.0.0",
        443,
        "OUTBOUND",
        json!({"bind_to_port": false, "listener_filters": inspector, "filter_chains": chains}),
    );
    let known: &[(&str, &[&str])] = &[("a.example.test", &["192.0.2.1"]), ("a.other.test", &["192.0.2.1"])];
    for (held, name, expected) in [
        // The filter's port, and the cluster's before it.
        (None, Some("a.example.test"), Some("192.0.2.1:8443")),
        (None, Some("a.other.test"), Some("192.0.2.1:8443")),
        (Some(("*.example.test", 9443)), Some("A.example.test"), Some("192.0.2.1:9443")),
        (Some(("*.example.test", 9443)), Some("a.other.test"), None),
        (Some(("*.example.test", 9443)), Some("none.example.test"), None),
        (None, None, None),
    ] {
        let mut sim = sim(&[names(&json!({}), held), at.clone()], known);
        for address in ["192.0.2.1:8443", "192.0.2.1:9443"] {
            sim.serve(
                address,
                Box::new(|_, input, eof, out| {
                    out.append(input);
                    eof
                }),
            );
        }
        let sent = hello(name);
        let client = sim.connect(0, "198.51.100.7:443");
        sim.send(client, &sent);
        sim.finish(client);
        sim.run_for(Duration::from_secs(1));
        let context = format!("{name:?} {held:?}");
        assert_eq!(sim.received(client), if expected.is_some() { sent } else { Vec::new() }, "{context}");
        let line = lines(&sim.log(0)).pop().unwrap();
        let flags = if expected.is_some() { "-" } else { "DF" };
        assert_eq!((line["upstream_host"].as_str(), line["response_flags"].as_str()), (expected, Some(flags)), "{context}: {line}");
    }
}
