//! Connections to servers that come from their clients' addresses.

use std::time::Duration;

use mizzen_http::Head;
use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::sim::Sim;

const A: &str = "10.0.0.8:4000";
const B: &str = "10.0.0.9:4000";

fn listening(name: &str, more: Value) -> Value {
    let mut filter = json!({"name": name, "typed_config": more});
    filter["typed_config"]["@type"] = format!("type.googleapis.com/envoy.extensions.filters.listener.{name}").into();
    filter
}

/// The filter, with a mark.
fn source(mark: u32) -> Value {
    listening("original_src.v3.OriginalSrc", json!({ "mark": mark }))
}

/// A mesh whose second proxy takes plain connections, too, and has these filters before its others; its cluster of port 9080 has this besides.
fn mesh_of(filters: &[Value], cluster: Value) -> Sim {
    let options = Inbound { permissive: true, ..Inbound::default() };
    let (kind, mut listener) = inbound(&options);
    listener["listener_filters"].as_array_mut().unwrap().splice(0..0, filters.iter().cloned());
    let mut inward = json!({"name": "inbound|9080||", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s",
        "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}}});
    inward.as_object_mut().unwrap().extend(cluster.as_object().unwrap().clone());
    let config = put(&server_config(&options), &[(kind, listener), (ResourceKind::Cluster, inward)]);
    let mut sim = Sim::new(5, wall());
    sim.proxy("10.0.0.1", node("storefront", "10.0.0.1"), client_config(secrets("storefront")));
    sim.proxy("10.0.0.2", node("reviews", "10.0.0.2"), config);
    with_app(sim)
}

/// A client at this address opens a connection and sends something.
fn send(sim: &mut Sim, from: &str, to: &str, bytes: &[u8]) -> usize {
    let client = sim.connect_from(1, "virtualInbound", from.parse().unwrap(), to);
    sim.send(client, bytes);
    sim.run_for(Duration::from_millis(200));
    client
}

fn answered(sim: &mut Sim, from: &str) -> String {
    let client = send(sim, from, "10.0.0.2:9080", &get("/", ""));
    let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
    sim.abort(client);
    sim.run();
    status(&text).to_owned()
}

/// Where dials came from: the address, `*` if it is the client's, and the mark.
fn sources(sim: &Sim) -> Vec<String> {
    let text = |(ip, transparent, mark): &(Option<std::net::IpAddr>, bool, u32)| {
        let ip = ip.map_or_else(|| "any".to_owned(), |ip| ip.to_string());
        format!("{ip}{} {mark}", if *transparent { "*" } else { "" })
    };
    sim.sources.iter().map(text).collect()
}

#[test]
fn clients_share_nothing() {
    for kind in ["h1", "h2", "downstream"] {
        let mut sim = mesh_of(&[source(7)], http_options(kind));
        for from in [A, B, A, "10.0.0.8:4002", B] {
            assert_eq!(answered(&mut sim, from), "200");
        }
        assert_eq!(sources(&sim), ["10.0.0.8* 7", "10.0.0.9* 7"], "{kind}: each has a connection, and keeps it");
        assert_clean(&mut sim);
        // Without the filter they do.
        let mut sim = mesh_of(&[], http_options(kind));
        for from in [A, B, A] {
            assert_eq!(answered(&mut sim, from), "200");
        }
        assert_eq!(sources(&sim), ["127.0.0.6 1337"], "{kind}");
    }
}

#[test]
fn at_the_same_time() {
    let mut sim = mesh_of(&[source(7)], http_options("h2"));
    let to = "10.0.0.2:9080".parse().unwrap();
    sim.deaf_servers.insert(to);
    let waiting = [A, B, A].map(|from| send(&mut sim, from, "10.0.0.2:9080", &get("/", "")));
    assert_eq!(sources(&sim), ["10.0.0.8* 7", "10.0.0.9* 7"], "of one client, streams share a connection");
    waiting.into_iter().for_each(|client| sim.abort(client));
    sim.run();
    assert_clean(&mut sim);
}

#[test]
fn of_whom_and_whereto() {
    let check = |filters: &[Value], cluster: Value, from: &str, bytes: &[u8], port: u16, expected: &str| {
        let mut sim = mesh_of(filters, cluster);
        sim.serve("127.0.0.1:9080", echo_app());
        sim.serve(
            "10.0.0.2:6379",
            Box::new(|_, input, eof, out| {
                out.append(input);
                eof
            }),
        );
        let client = send(&mut sim, from, &format!("10.0.0.2:{port}"), bytes);
        assert!(!sim.received(client).is_empty(), "{expected}");
        assert_eq!(sources(&sim), [expected]);
    };
    let http = get("/", "");
    let usual = || http_options("h1");
    check(&[source(7)], usual(), B, &http, 9080, "10.0.0.9* 7");
    check(&[source(7)], usual(), B, b"ping\n", 6379, "10.0.0.9* 7");
    check(&[source(0)], usual(), B, &http, 9080, "10.0.0.9* 1337");
    check(&[source(7)], usual(), "[::ffff:10.0.0.9]:4000", &http, 9080, "10.0.0.9* 7");
    // From an address of another family nobody gets there.
    check(&[source(7)], usual(), "[fd00::9]:4000", &http, 9080, "127.0.0.6 1337");
    // A program at a loopback address could not answer.
    let local = json!({"type": "STATIC", "lb_policy": "ROUND_ROBIN", "upstream_bind_config": null, "load_assignment": {
        "cluster_name": "inbound|9080||",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9080}}}}]}]}});
    check(&[source(7)], local.clone(), B, &http, 9080, "any 1337");
    check(&[source(7)], local, "127.0.0.1:4000", &http, 9080, "127.0.0.1* 7");
    let mut at_others = source(7);
    at_others["filter_disabled"] = json!({"destination_port_range": {"start": 9080, "end": 9081}});
    check(&[at_others.clone()], usual(), B, &http, 9080, "127.0.0.6 1337");
    check(&[at_others], usual(), B, b"ping\n", 6379, "10.0.0.9* 7");
    // Whom a proxy in front has told of.
    let header = listening("proxy_protocol.v3.ProxyProtocol", json!({}));
    let told = [&b"PROXY TCP4 192.0.2.7 10.0.0.2 5000 9080\r\n"[..], &http].concat();
    check(&[header, source(7)], usual(), B, &told, 9080, "192.0.2.7* 7");
}

#[test]
fn limits_are_of_all_clients() {
    let mut one = http_options("h1");
    one["circuit_breakers"] = json!({"thresholds": [{"max_connections": 1}]});
    let mut sim = mesh_of(&[source(7)], one.clone());
    for from in [A, B, A] {
        assert_eq!(answered(&mut sim, from), "200", "what a client has left idle keeps no other out");
    }
    assert_eq!(sources(&sim), ["10.0.0.8* 7", "10.0.0.9* 7", "10.0.0.8* 7"]);
    assert_eq!(sim.connections(1), 1);
    assert_clean(&mut sim);
    // One that is in use does.
    let mut sim = mesh_of(&[source(7)], one);
    sim.serve("10.0.0.2:9080", app(|_, _| (Head::response(200), Vec::new())));
    sim.deaf_servers.insert("10.0.0.2:9080".parse().unwrap());
    let first = send(&mut sim, A, "10.0.0.2:9080", &get("/", ""));
    assert_eq!(answered(&mut sim, B), "503");
    assert_eq!(lines(&sim.log(1))[0]["response_flags"], "UO");
    sim.abort(first);
    sim.run();
    assert_clean(&mut sim);
}
