//! How many connections listeners may have: one beyond is closed at once and counted, whichever worker has the others.

use std::sync::Arc;

use mizzen_ir::{Config, Draft, ResourceKind};
use serde_json::{Value, json};

use super::mesh::*;
use crate::{Command, ConnectionLimits, lb::Shared, metrics, sim::Sim};

/// Beyond the mesh; it sends back what comes.
const ECHO: &str = "203.0.113.1:7";
const LISTENER: &str = "envoy_listener_downstream_cx_overflow";
const GLOBAL: &str = "envoy_listener_downstream_global_cx_overflow";

fn door(name: &str, port: u16, more: Value) -> (ResourceKind, Value) {
    let mut fields = json!({"filter_chains": [{"filters": [tcp_proxy("PassthroughCluster")]}]});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    listener(name, "0.0.0.0", port, "OUTBOUND", fields)
}

fn doors() -> Arc<Config> {
    let back = door("back", 8081, json!({"ignore_global_conn_limit": true}));
    put(&client_config(secrets("storefront")), &[door("front", 8080, json!({})), back])
}

/// Two workers of a process with these limits, and who is behind them.
fn workers(global: Option<u64>, listeners: &[(&str, u64)]) -> Sim {
    let listeners = listeners.iter().map(|(name, most)| ((*name).into(), *most)).collect();
    let shared = Arc::new(Shared::limited(&ConnectionLimits { global, listeners }));
    let mut sim = Sim::new(3, wall());
    for ip in ["10.0.0.1", "10.0.0.3"] {
        sim.worker(ip, node("storefront", ip), doors(), shared.clone());
    }
    sim.serve(
        ECHO,
        Box::new(|_, input, eof, out| {
            out.append(input);
            eof
        }),
    );
    sim
}

/// Whether a connection that is open serves.
fn serves(sim: &mut Sim, client: usize) -> bool {
    sim.send(client, b"x");
    sim.run();
    let received = sim.received(client);
    assert_eq!(received == b"x", sim.ended(client).is_none(), "closed at once, or served: {received:?}");
    received == b"x"
}

fn open(sim: &mut Sim, worker: usize, listener: &str) -> usize {
    sim.connect_from(worker, listener, "10.9.9.9:4000".parse().unwrap(), ECHO)
}

/// Opens a connection, which is served or not.
#[track_caller]
fn check(sim: &mut Sim, worker: usize, listener: &str, expected: bool) -> usize {
    let client = open(sim, worker, listener);
    assert_eq!(serves(sim, client), expected, "{listener} of worker {worker}");
    client
}

/// How many connections were closed at a port for lack of room.
fn counted(sim: &mut Sim, name: &str, port: u16) -> u64 {
    let of = vec![("listener_address", format!("0.0.0.0_{port}"))];
    let all = (0..2).flat_map(|worker| sim.snapshot(worker).series).filter(|series| series.name == name && series.labels == of);
    all.map(|series| if let metrics::Value::Counter(n) = series.value { n } else { panic!("{series:?}") }).sum()
}

#[test]
fn of_one_listener() {
    let mut sim = workers(None, &[("front", 2)]);
    let first = check(&mut sim, 0, "front", true);
    let second = check(&mut sim, 1, "front", true);
    let dials = sim.dials.len();
    for worker in [0, 1] {
        check(&mut sim, worker, "front", false);
    }
    assert_eq!((sim.dials.len(), counted(&mut sim, LISTENER, 8080), counted(&mut sim, GLOBAL, 8080)), (dials, 2, 0));
    check(&mut sim, 0, "back", true);
    // Those that are open stay, and one that ends makes room.
    assert!(serves(&mut sim, first));
    sim.abort(first);
    sim.run();
    check(&mut sim, 1, "front", true);
    check(&mut sim, 0, "front", false);
    assert!(serves(&mut sim, second));
    assert_eq!(counted(&mut sim, LISTENER, 8080), 3);
}

#[test]
fn of_all_listeners() {
    let mut sim = workers(Some(2), &[("back", 3)]);
    let first = check(&mut sim, 0, "back", true);
    check(&mut sim, 1, "back", true);
    check(&mut sim, 0, "front", false);
    assert_eq!((counted(&mut sim, GLOBAL, 8080), counted(&mut sim, LISTENER, 8080)), (1, 0));
    // One that does not look at it counts all the same, and has its own limit.
    check(&mut sim, 0, "back", true);
    check(&mut sim, 0, "back", false);
    assert_eq!((counted(&mut sim, GLOBAL, 8081), counted(&mut sim, LISTENER, 8081)), (0, 1));
    sim.abort(first);
    sim.run();
    check(&mut sim, 1, "front", false);
}

#[test]
fn of_none() {
    let mut sim = workers(Some(0), &[]);
    check(&mut sim, 0, "front", false);
    check(&mut sim, 0, "back", true);
    let mut sim = workers(None, &[]);
    for worker in [0, 1, 0, 1] {
        check(&mut sim, worker, "front", true);
    }
}

/// What a listener hands over to another counts there, where nobody refuses it.
#[test]
fn of_who_is_handed_connections() {
    let mut sim = workers(None, &[("virtualOutbound", 1), ("10.96.0.2_6379", 1)]);
    // They wait for an answer of the server's.
    sim.silent.insert("10.0.0.2:6379".parse().unwrap());
    for _ in 0..3 {
        let client = sim.connect_from(0, "virtualOutbound", "10.9.9.9:4000".parse().unwrap(), "10.96.0.2:6379");
        sim.run();
        assert!(sim.ended(client).is_none());
    }
    check(&mut sim, 0, "virtualOutbound", true);
    check(&mut sim, 1, "virtualOutbound", false);
    assert_eq!(counted(&mut sim, LISTENER, 15001), 1);
}

/// Connections of a listener that has changed, or is gone, are of it still.
#[test]
fn over_changes() {
    let mut sim = workers(None, &[("front", 1)]);
    let first = check(&mut sim, 0, "front", true);
    let publish = |sim: &mut Sim, config: &Arc<Config>| {
        for worker in [0, 1] {
            sim.command(worker, Command::Config(config.clone()));
        }
        sim.run();
    };
    let changed = put(&doors(), &[door("front", 8080, json!({"access_log": access_log()}))]);
    publish(&mut sim, &changed);
    check(&mut sim, 1, "front", false);
    let mut gone = Draft::new(&changed);
    gone.remove(ResourceKind::Listener, "front");
    publish(&mut sim, &gone.finish().0);
    publish(&mut sim, &doors());
    check(&mut sim, 1, "front", false);
    sim.abort(first);
    sim.run();
    check(&mut sim, 1, "front", true);
}
