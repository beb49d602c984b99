//! Connections that a proxy in front hands on by the PROXY protocol.

use std::time::Duration;

use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::{Command, sim::Sim};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n";
/// The proxy in front.
const FRONT: &str = "10.0.0.9:4000";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// Who was handed on, by version 2, with something more behind the addresses.
fn by_v2() -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1];
    v2(0x21, 0x11, &[&addresses[..], &5000u16.to_be_bytes(), &443u16.to_be_bytes(), &[4, 0, 1, 0]].concat())
}

fn listener_filter(name: &str, kind: &str) -> Value {
    json!({"name": name, "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.filters.listener.{kind}")}})
}

/// A listener that reads the header, or does not, whose one chain matches this and has these HTTP filters.
fn edge_listener(reads: bool, matches: &Value, filters: &[Value]) -> (ResourceKind, Value) {
    let mut manager = hcm(false, json!("9080"), filters);
    manager["typed_config"]["use_remote_address"] = true.into();
    let header = listener_filter("envoy.filters.listener.proxy_protocol", "proxy_protocol.v3.ProxyProtocol");
    let inspector = listener_filter("envoy.filters.listener.tls_inspector", "tls_inspector.v3.TlsInspector");
    let read = if reads { json!([header, inspector]) } else { json!([inspector]) };
    let chains = json!([{"filter_chain_match": matches, "filters": [manager]}]);
    let more = json!({"listener_filters": read, "filter_chains": chains, "access_log": access_log(),
        "listener_filters_timeout": "1s", "continue_on_listener_filters_timeout": true});
    listener("edge", "0.0.0.0", 8080, "OUTBOUND", more)
}

/// A mesh whose first proxy has such a listener.
fn mesh_of(seed: u64, edge: (ResourceKind, Value)) -> Sim {
    with_app(mesh_with(seed, client(&[edge]), &Inbound::default()))
}

/// The same with one that reads the header.
fn edge(seed: u64, filters: &[Value]) -> Sim {
    mesh_of(seed, edge_listener(true, &json!({}), filters))
}

fn connect(sim: &mut Sim, bytes: &[u8]) -> usize {
    let client = sim.connect_from(0, "edge", FRONT.parse().unwrap(), "10.0.0.1:8080");
    sim.send(client, bytes);
    client
}

fn call_behind(sim: &mut Sim, header: &[u8]) -> String {
    let client = connect(sim, &[header, &get("/", "")].concat());
    sim.run_for(Duration::from_millis(200));
    let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
    sim.abort(client);
    sim.run();
    text
}

#[test]
fn the_client_is_who_the_header_names() {
    let check = |split: usize, header: &[u8], forwarded: &str, [remote, local]: [&str; 2]| {
        let mut sim = edge(split as u64, &[]);
        sim.split = split;
        let text = call_behind(&mut sim, header);
        assert_eq!(status(&text), "200", "{text}");
        assert!(text.contains(&format!("\"x-forwarded-for\": \"{forwarded}\"")), "{text}");
        let log = lines(&sim.log(0));
        assert_eq!((log.len(), &log[0]["remote"], &log[0]["local"], &log[0]["direct"]), (1, &json!(remote), &json!(local), &json!(FRONT)));
        assert_clean(&mut sim);
    };
    let told = ["192.0.2.7:5000", "198.51.100.1:443"];
    for split in [0, 1, 5, 20] {
        check(split, V1, "192.0.2.7", told);
        check(split, &by_v2(), "192.0.2.7", told);
    }
    let own = [FRONT, "10.0.0.1:8080"];
    check(0, &v2(0x20, 0, &[]), "10.0.0.9", own);
    check(3, b"PROXY UNKNOWN\r\n", "10.0.0.9", own);
}

#[test]
fn policies_tell_both_apart() {
    let check = |principal: &str, ip: &str, expected: &str| {
        let range = json!({principal: {"address_prefix": ip, "prefix_len": 32}});
        let deny = http_rbac("DENY", json!({"p": {"permissions": [{"any": true}], "principals": [range]}}));
        let mut sim = edge(1, &[deny]);
        let text = call_behind(&mut sim, V1);
        assert_eq!(status(&text), expected, "{principal} {ip}: {text}");
    };
    check("remote_ip", "192.0.2.7", "403");
    check("remote_ip", "10.0.0.9", "200");
    check("direct_remote_ip", "10.0.0.9", "403");
    check("direct_remote_ip", "192.0.2.7", "200");
}

#[test]
fn chains_tell_both_apart() {
    let check = |by: &str, ip: &str, is_served: bool| {
        let range = json!({by: [{"address_prefix": ip, "prefix_len": 32}]});
        let text = call_behind(&mut mesh_of(1, edge_listener(true, &range, &[])), V1);
        assert_eq!(text.starts_with("HTTP/1.1 200"), is_served, "{by} {ip}: {text}");
    };
    check("source_prefix_ranges", "192.0.2.7", true);
    check("source_prefix_ranges", "10.0.0.9", false);
    check("direct_source_prefix_ranges", "10.0.0.9", true);
    check("direct_source_prefix_ranges", "192.0.2.7", false);
}

/// Who the client is was found out in another way than it would be now: the connection ends. What else changes leaves it.
#[test]
fn a_listener_that_reads_the_header_from_now_on() {
    for (before, now, stays) in [(true, false, false), (false, true, false), (true, true, true), (false, false, true)] {
        let mut sim = mesh_of(4, edge_listener(before, &json!({}), &[]));
        let header = if before { V1 } else { &[] };
        let open = connect(&mut sim, &[header, &get("/", "")].concat());
        sim.run_for(Duration::from_millis(200));
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(open))), "200");
        let everybody = json!({"source_prefix_ranges": [{"address_prefix": "0.0.0.0", "prefix_len": 0}]});
        sim.command(0, Command::Config(client(&[edge_listener(now, &everybody, &[])])));
        sim.run_for(Duration::from_secs(120));
        assert_eq!(sim.ended(open).is_none(), stays, "{before} {now}");
    }
}

#[test]
fn what_has_no_header_is_refused() {
    let local_only = v2(0x21, 0x31, &[0; 216]);
    for (bytes, why) in [
        (&get("/", "")[..], "there is none"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 5000\r\n", "an address or a port is missing"),
        (b"PROXY TCP4 0.0.0.0 198.51.100.1 5000 443\r\n", "an address is none of a single host"),
        (&local_only, "it is not of TCP"),
        (&V1[..20], "it ends too early"),
    ] {
        let mut sim = edge(2, &[]);
        let client = connect(&mut sim, bytes);
        sim.finish(client);
        sim.run();
        assert!(sim.ended(client).is_some() && sim.received(client).is_empty(), "{why}");
        let log = lines(&sim.log(0));
        assert_eq!((log.len(), &log[0]["response_code_details"]), (1, &json!("proxy_protocol_error")), "{log:?}");
        assert_eq!(log[0]["downstream_failure"], json!(format!("PROXY_protocol_error:{why}")));
        assert_eq!((sim.connections(0), sim.dials.len()), (0, 0));
    }
}

#[test]
fn who_says_nothing() {
    // Somebody who looks whether the port is open.
    let mut sim = edge(3, &[]);
    let client = connect(&mut sim, b"");
    sim.finish(client);
    sim.run();
    assert_eq!((sim.log(0).as_str(), sim.connections(0)), ("", 0));
    // The time for listener filters ends it, though others would go on without.
    let client = connect(&mut sim, &V1[..10]);
    sim.run_for(Duration::from_millis(900));
    assert!(sim.ended(client).is_none());
    sim.run_for(Duration::from_millis(200));
    assert!(sim.ended(client).is_some());
    assert_eq!(sim.connections(0), 0);
}
