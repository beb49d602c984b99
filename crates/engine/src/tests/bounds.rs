//! What peers can make a proxy hold, and do. `Sim` looks at every bound after every turn; here they are driven at.

use std::{net::SocketAddr, time::Duration};

use mizzen_http::Head;
use serde_json::json;

use super::{calls::*, mesh::*};
use crate::{Accepted, Action, Now, Options, Worker, buf::Buf, sim::Sim, tls::Tls};

const FAR: &str = "93.184.216.34:82";
const MOST: u64 = 1024 * 1024;

/// A mesh whose application and one server far away never answer and never read.
fn deaf() -> Sim {
    let mut sim = mesh(3, &Inbound { permissive: true, ..Inbound::default() });
    for address in ["10.0.0.2:9080", "10.0.0.2:6379"] {
        sim.serve(address, Box::new(|_, _, eof, _| eof));
        sim.deaf_servers.insert(address.parse().unwrap());
    }
    sim.silent.insert(FAR.parse().unwrap());
    sim
}

#[test]
fn what_a_client_sends_ahead_stays_with_it() {
    let body = |head: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n").into_bytes();
    let chunk = [&b"400\r\n"[..], &[b'x'; 1024], b"\r\n"].concat();
    let upgrade = get("/chat", "upgrade: websocket\r\nconnection: upgrade\r\n");
    let h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let ping = b"\0\0\x08\x06\0\0\0\0\0pingping".to_vec();
    let inbound: Option<SocketAddr> = "10.0.0.9:4000".parse().ok();
    for (what, from, to, first, again) in [
        ("requests behind one that is being answered", None, TO, get("/slow", ""), get("/slow", "")),
        ("the same at a server's proxy", inbound, "10.0.0.2:9080", get("/slow", ""), get("/slow", "")),
        ("bytes behind the offer of an upgrade", None, TO, upgrade.clone(), vec![b'x'; 1000]),
        ("the same at a server's proxy", inbound, "10.0.0.2:9080", upgrade, vec![b'x'; 1000]),
        ("a body", None, TO, body("content-length: 1000000000"), vec![b'x'; 1000]),
        ("a body in chunks", None, TO, body("transfer-encoding: chunked"), chunk),
        ("a head without end", None, TO, b"GET / HTTP/1.1\r\nhost: a\r\nx: ".to_vec(), vec![b'x'; 1000]),
        ("a line without end, to be sniffed", inbound, "10.0.0.2:9080", b"GET /".to_vec(), vec![b'x'; 1000]),
        ("half a ClientHello", inbound, "10.0.0.2:9080", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc".to_vec(), vec![0; 1000]),
        ("bytes for a server that is being dialled", None, FAR, Vec::new(), vec![b'x'; 1000]),
        ("bytes for a server that does not read", None, "10.96.0.2:6379", Vec::new(), vec![b'x'; 1000]),
        ("pings", None, TO, h2, ping),
    ] {
        let mut sim = deaf();
        let client = match from {
            Some(from) => sim.connect_from(1, "virtualInbound", from, to),
            None => sim.connect(0, to),
        };
        sim.deaf_clients.insert(client);
        sim.send(client, &first);
        // Two steps: what arrives at first, and what comes when all has come to rest.
        for _ in 0..2 {
            sim.send(client, &again.repeat(2_500_000 / again.len()));
            sim.run();
        }
        for proxy in 0..2 {
            let buffered = sim.snapshot(proxy).buffered;
            assert!(buffered <= MOST, "{what}: proxy {proxy} holds {buffered} bytes");
        }
        sim.abort(client);
        sim.run_for(Duration::from_secs(20));
    }
}

#[test]
fn what_was_sent_ahead_is_answered_in_its_turn() {
    const REQUESTS: usize = 6_000;
    for (seed, split) in [(1, 0), (2, 5000), (3, 70_000)] {
        let mut sim = with_app(mesh(seed, &Inbound::default()));
        sim.split = split;
        let client = sim.connect(0, TO);
        sim.send(client, &get("/", "").repeat(REQUESTS));
        sim.run();
        let text = String::from_utf8_lossy(&sim.received(client)).into_owned();
        assert_eq!(text.matches("HTTP/1.1 200").count(), REQUESTS, "split {split}");
        sim.finish(client);
        sim.run();
        assert_clean(&mut sim);
    }
}

#[test]
fn a_client_that_leaves_behind_its_pipelined_requests_is_noticed() {
    let mut sim = deaf();
    let client = sim.connect(0, TO);
    sim.send(client, &get("/slow", "").repeat(3));
    sim.run();
    sim.abort(client);
    sim.run_for(Duration::from_secs(10));
    assert_clean_but_connections(&mut sim);
}

#[test]
fn timers_that_fire_for_nothing_are_dropped() {
    let retry = json!({"retry_on": "5xx", "num_retries": 1});
    let mut sim =
        mesh_with(2, client(&[route("r", json!({"cluster": CLUSTER, "timeout": "0s", "retry_policy": retry}))]), &Inbound::default());
    sim.serve("10.0.0.2:9080", app(|_, _| (Head::response(503), b"no".to_vec())));
    let client = sim.connect(0, TO);
    for _ in 0..1500 {
        sim.send(client, &get("/", ""));
        sim.run_for(Duration::from_millis(30));
    }
}

#[test]
fn what_nobody_waits_for_is_not_dialled() {
    // (the endpoint, whether the connection is made and TLS is not)
    for handshake in [false, true] {
        let config = client(&[assignment(CLUSTER, &["9.0.0.1:80"], handshake)]);
        let mut sim = mesh_with(2, config, &Inbound::default());
        if handshake {
            sim.serve("9.0.0.1:80", Box::new(|_, _, eof, _| eof));
        } else {
            sim.silent.insert("9.0.0.1:80".parse().unwrap());
        }
        let clients: Vec<usize> = (0..100).map(|_| sim.connect(0, TO)).collect();
        for client in &clients {
            sim.send(*client, &get("/", ""));
        }
        sim.run();
        let (leave, stay) = clients.split_at(97);
        let busy = |sim: &Sim| if handshake { sim.connections(0) } else { sim.connections(0) + sim.dialing() };
        assert_eq!(busy(&sim), 200, "a dial for each");
        leave.iter().for_each(|client| sim.abort(*client));
        sim.run();
        assert_eq!(busy(&sim), 6, "those who stay are dialled for");
        stay.iter().for_each(|client| sim.abort(*client));
        sim.run();
        assert_eq!((busy(&sim), sim.snapshot(0).guards), (0, 0));
    }
}

#[test]
fn a_storm_of_handshakes_leaves_room_for_others() {
    const STORM: usize = 100;
    let now = Now { mono: Duration::from_secs(1), wall: wall() };
    let mut options = Options { node: Default::default(), limits: Default::default(), seed: 1, shared: Default::default(), mark: 0 };
    options.limits.handshakes = 5;
    let mut worker = Worker::new(options, server_config(&Inbound { permissive: true, ..Inbound::default() }), now);
    let accept = |worker: &mut Worker, bytes: &mut [u8]| {
        let to = "10.0.0.2:9080".parse().unwrap();
        let conn =
            worker.accept(&"virtualInbound".into(), Accepted { peer: "10.0.0.9:4000".parse().unwrap(), local: to, original: Some(to) });
        worker.bytes(conn, bytes);
        conn
    };
    let config = mizzen_pki::tls::client_config(None, mizzen_pki::accept_any_server(), &Default::default()).unwrap();
    let mut storm = Vec::new();
    for _ in 0..STORM {
        let mut hello = Buf::default();
        let mut tls = Tls::client(config.clone(), "reviews".try_into().unwrap(), Vec::new()).unwrap();
        tls.read(&[], &mut Buf::default(), &mut hello, 1).unwrap();
        storm.push(accept(&mut worker, hello.as_mut_slice()));
    }
    accept(&mut worker, &mut get("/", ""));
    let mut turns = 0;
    let answered = |worker: &Worker| storm.iter().filter(|conn| !worker.pending(**conn).is_empty()).count();
    while answered(&worker) < STORM {
        let (mut actions, before) = (Vec::new(), answered(&worker));
        worker.turn(&mut actions);
        assert_eq!(actions.iter().any(|action| matches!(action, Action::Dial(_))), turns == 0, "the request goes on at once");
        assert!(answered(&worker) - before <= 5);
        turns += 1;
        assert!(turns <= STORM, "each turn takes some");
        assert_eq!(worker.handshakes_wait(), answered(&worker) < STORM);
    }
}
