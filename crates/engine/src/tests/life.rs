//! What changes while requests go on: configuration, certificates, endpoints, names.

use std::time::Duration;

use mizzen_ir::ResourceKind;
use serde_json::json;

use super::{calls::*, mesh::*};
use crate::{Command, HealthFlags};

#[test]
fn a_chain_that_changes_takes_over() {
    let mut sim = with_app(mesh(2, &Inbound::default()));
    let client = sim.connect(0, TO);
    sim.send(client, &get("/", ""));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200");
    let deny = inbound(&Inbound { http: vec![http_rbac("ALLOW", json!({"p": from("other")}))], ..Inbound::default() });
    let config = put(&server_config(&Inbound::default()), &[deny]);
    sim.command(1, Command::Config(config));
    sim.send(client, &get("/", ""));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "403", "the next request on the same connection is judged anew");
    assert_eq!(sim.dials.len(), 2, "no connection was lost");
}

#[test]
fn what_begins_on_a_listener_that_is_gone_ends_with_its_drain() {
    let permissive = Inbound { permissive: true, ..Inbound::default() };
    let mut gone = mizzen_ir::Draft::new(&server_config(&permissive));
    gone.remove(ResourceKind::Listener, "virtualInbound");
    let gone = gone.finish().0;
    for (to, first, rest) in [("10.0.0.2:6379", "P", "OST it\n"), ("10.0.0.2:9080", "G", "ET / HTTP/1.1\r\nhost: a\r\n\r\n")] {
        let mut sim = with_app(mesh(2, &permissive));
        let client = sim.connect_from(1, "virtualInbound", "10.0.0.9:4000".parse().unwrap(), to);
        sim.send(client, first.as_bytes());
        sim.run();
        sim.command(1, Command::Config(gone.clone()));
        sim.run();
        sim.send(client, rest.as_bytes());
        sim.run_for(Duration::from_secs(44));
        assert!(!sim.received(client).is_empty(), "{to}: it is served while it drains");
        sim.run_for(Duration::from_secs(2));
        assert!(sim.ended(client).is_some(), "{to}");
    }
}

#[test]
fn new_certificates_lose_no_request() {
    let base = client_config(secrets("storefront"));
    let mut sim = with_app(mesh_with(2, base.clone(), &Inbound::default()));
    let client = sim.connect(0, TO);
    for round in 0..4 {
        sim.send(client, &get("/", ""));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200");
        sim.command(0, Command::Config(put(&base, &secrets("storefront"))));
        sim.run();
        assert_eq!(sim.connections(0), 1, "round {round}: the idle connection with the old certificate is closed");
    }
    sim.abort(client);
    sim.run();
    assert_clean(&mut sim);
}

#[test]
fn removed_endpoints() {
    let base = client(&[assignment(CLUSTER, &["10.0.0.2:9080"], true)]);
    let mut sim = with_app(mesh_with(2, base.clone(), &Inbound::default()));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    assert_eq!(sim.connections(0), 1);
    sim.command(0, Command::Config(put(&base, &[assignment(CLUSTER, &[], true)])));
    sim.run();
    assert_eq!(sim.connections(0), 0);
    let text = call(&mut sim, &get("/", ""));
    assert!(text.contains("no healthy upstream"), "{text}");
    assert_eq!(sim.snapshot(0).guards, 0);
}

#[test]
fn a_route_configuration_that_comes_late() {
    let full = client_config(secrets("storefront"));
    let mut draft = mizzen_ir::Draft::new(&full);
    draft.remove(ResourceKind::Route, "9080");
    let mut sim = with_app(mesh_with(2, draft.finish().0, &Inbound::default()));
    let late = sim.connect(0, TO);
    sim.send(late, &get("/", ""));
    sim.run_for(Duration::from_secs(1));
    assert!(sim.received(late).is_empty());
    sim.command(0, Command::Config(full));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(late))), "200");
    let mut draft = mizzen_ir::Draft::new(&client_config(secrets("storefront")));
    draft.remove(ResourceKind::Route, "9080");
    let mut sim = mesh_with(2, draft.finish().0, &Inbound::default());
    let never = sim.connect(0, TO);
    sim.send(never, &get("/", ""));
    sim.run_for(Duration::from_secs(16));
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(never))), "404");
}

#[test]
fn a_kept_connection_that_is_dead_costs_no_request() {
    let mut sim = with_app(mesh(2, &Inbound::default()));
    for method in ["GET", "POST"] {
        assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
        // The application closes what it kept, unseen so far, and the next request comes at the same moment.
        sim.stop("10.0.0.2:9080");
        sim.refused.clear();
        sim.serve("10.0.0.2:9080", echo_app());
        let request = format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc");
        assert_eq!(status(&call(&mut sim, request.as_bytes())), "200", "{method}");
    }
}

/// Takes the first stream of each connection, and says so with a GOAWAY when the others are on their way already.
fn one_each() -> crate::sim::Serve {
    Box::new(|_, input, eof, out| {
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            let mut bytes = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
            bytes.extend_from_slice(payload);
            bytes
        };
        if input.is_empty() {
            return eof;
        }
        out.extend(frame(4, 0, 0, &[]));
        // HEADERS with END_STREAM and END_HEADERS: `:status: 200` from HPACK's static table.
        out.extend(frame(1, 5, 1, &[0x88]));
        out.extend(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
        input.clear();
        true
    })
}

#[test]
fn a_server_that_ends_its_connections_costs_no_request() {
    let config = client(&[cluster(CLUSTER, "reviews", http_options("h2")), assignment(CLUSTER, &["10.0.0.9:80"], false)]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    sim.serve("10.0.0.9:80", one_each());
    let requests = vec![(mizzen_http::Head::request("GET", "http", "a", "/"), Vec::new()); 12];
    let statuses: Vec<u16> = h2_calls(&mut sim, &requests).into_iter().map(|(status, ..)| status).collect();
    assert_eq!(statuses, [200; 12]);
    assert_eq!(sim.dials.len(), 12, "each connection answered one request");
    assert_clean(&mut sim);
}

#[test]
fn draining() {
    for h2 in [false, true] {
        let config = client(&[cluster(CLUSTER, "reviews", http_options(if h2 { "h2" } else { "h1" }))]);
        let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
        let open = sim.connect(0, TO);
        sim.send(open, &get("/", ""));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(open))), "200");
        // The server's proxy drains: the client's one learns of it and takes another connection; no request is lost.
        sim.command(1, Command::Drain(Some("virtualInbound".into())));
        sim.run();
        assert_eq!(sim.connections(1), 1, "idle connections end at once, but for the one to the application (h2: {h2})");
        sim.send(open, &get("/", ""));
        sim.run();
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(open))), "200");
        sim.command(0, Command::Drain(None));
        sim.run();
        assert!(sim.ended(open).is_some());
        sim.finish(open);
        sim.run_for(Duration::from_secs(60));
        assert_eq!(sim.connections(0), 0, "the pool's too, once the last client has gone");
    }
}

#[test]
fn outliers_are_ejected() {
    let outlier = json!({"outlier_detection": {"consecutive_5xx": 3, "max_ejection_percent": 50, "base_ejection_time": "30s"}});
    let config = client(&[cluster(CLUSTER, "reviews", outlier), assignment(CLUSTER, &["10.0.0.2:9080", "10.0.0.3:9080"], true)]);
    let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(status(&call(&mut sim, &get("/", ""))) != "200");
    }
    assert_eq!(failed, 3, "the dead endpoint is left out after three failures");
    // Hosts are looked at every 10 s: its 30 s are over at the next time.
    sim.run_for(Duration::from_secs(41));
    let again = (0..4).filter(|_| status(&call(&mut sim, &get("/", ""))) != "200").count();
    assert!(again > 0, "and let back in");
}

#[test]
fn ejections_grow_and_shrink() {
    let outlier =
        json!({"outlier_detection": {"consecutive_5xx": 2, "max_ejection_percent": 50, "base_ejection_time": "30s", "interval": "10s"}});
    let config = client(&[cluster(CLUSTER, "reviews", outlier), assignment(CLUSTER, &["10.0.0.2:9080", "10.0.0.3:9080"], true)]);
    let mut sim = with_app(mesh_with(2, config, &Inbound::default()));
    let fail = |sim: &mut crate::sim::Sim| (0..8).for_each(|_| drop(call(sim, &get("/", ""))));
    let check = |sim: &mut crate::sim::Sim, expected: bool, why: &str| {
        let clusters = sim.snapshot(0).clusters;
        let hosts = clusters.iter().filter(|c| *c.name == *CLUSTER).flat_map(|c| &c.hosts);
        let ejected: Vec<_> = hosts.filter(|h| h.flags.any(HealthFlags::FAILED_OUTLIER)).map(|h| h.address.as_str()).collect();
        assert_eq!(ejected, if expected { vec!["10.0.0.3:9080"] } else { vec![] }, "{why}");
    };
    check(&mut sim, false, "nothing has failed");
    fail(&mut sim);
    check(&mut sim, true, "for 30 s");
    sim.run_for(Duration::from_secs(29));
    check(&mut sim, true, "its time is not over");
    sim.run_for(Duration::from_secs(12));
    check(&mut sim, false, "its time was over when hosts were looked at");
    fail(&mut sim);
    sim.run_for(Duration::from_secs(55));
    check(&mut sim, true, "for 60 s, since it had only just been let back in");
    sim.run_for(Duration::from_secs(16));
    check(&mut sim, false, "its time is over");
    // One less for each interval that it was not ejected.
    sim.run_for(Duration::from_secs(60));
    fail(&mut sim);
    check(&mut sim, true, "for 30 s again");
    sim.run_for(Duration::from_secs(41));
    check(&mut sim, false, "its time is over");
}

#[test]
fn changed_options_reach_a_busy_pool() {
    let options = |more: serde_json::Value, http: serde_json::Value, h2: serde_json::Value| {
        let mut options = http_options("h2");
        let found = &mut options["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
        found["common_http_protocol_options"] = http;
        found["explicit_http_config"]["http2_protocol_options"] = h2;
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cluster(CLUSTER, "reviews", options)
    };
    let none = || json!({});
    for (more, http, h2, reaches) in [
        (json!({"lb_policy": "RANDOM"}), none(), none(), false),
        (json!({"connect_timeout": "3s"}), none(), none(), true),
        (json!({"circuit_breakers": {"thresholds": [{"max_connections": 7}]}}), none(), none(), true),
        (json!({"upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 7}}}), none(), none(), true),
        (none(), json!({"idle_timeout": "7s"}), none(), true),
        (none(), none(), json!({"max_concurrent_streams": 7}), true),
        (none(), none(), json!({"connection_keepalive": {"interval": "7s", "timeout": "1s"}}), true),
    ] {
        let base = client(&[options(none(), none(), none()), assignment(CLUSTER, &["10.0.0.9:80"], false)]);
        let mut sim = mesh_with(2, base.clone(), &Inbound::default());
        // The first connection never answers.
        let (mut first, mut inner) = (None, echo_app());
        sim.serve("10.0.0.9:80", Box::new(move |id, input, eof, out| *first.get_or_insert(id) != id && inner(id, input, eof, out)));
        let waits = sim.connect(0, TO);
        sim.send(waits, &get("/", ""));
        sim.run();
        let changed = options(more.clone(), http.clone(), h2.clone());
        sim.command(0, Command::Config(put(&base, &[changed])));
        let next = sim.connect(0, TO);
        sim.send(next, &get("/", ""));
        sim.run();
        let context = format!("{more} {http} {h2}");
        assert_eq!(sim.dials.len(), 1 + usize::from(reaches), "{context}");
        assert_eq!(!sim.received(next).is_empty(), reaches, "{context}");
        assert!(sim.ended(waits).is_none(), "{context}: what is open stays");
        sim.abort(waits);
        sim.run();
        assert_eq!(sim.connections(0), 2, "{context}: the old connection ends with its last request");
        sim.abort(next);
        sim.run();
        assert_clean(&mut sim);
    }
}

#[test]
fn names_are_resolved() {
    let dns = json!({"name": "dns", "type": "STRICT_DNS", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN", "load_assignment": {"cluster_name": "dns",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "api.example.com", "port_value": 80}}}}]}]}});
    let config = client(&[(ResourceKind::Cluster, dns), route("r", json!({"cluster": "dns", "timeout": "0s"}))]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    sim.serve("93.184.216.34:80", echo_app());
    let text = call(&mut sim, &get("/", ""));
    assert!(text.contains("no healthy upstream"), "no such name: {text}");
    sim.run_for(Duration::from_secs(6));
    sim.names.insert("api.example.com".to_owned(), vec!["93.184.216.34".parse().unwrap()]);
    call(&mut sim, &get("/", ""));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
}

#[test]
fn localities_by_weight() {
    let near = |weight: u32, address: &str| {
        let (ip, port) = address.split_once(':').unwrap();
        json!({"locality": {"zone": address}, "load_balancing_weight": weight, "lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": ip, "port_value": port.parse::<u16>().unwrap()}}}}]})
    };
    let endpoints =
        (ResourceKind::Assignment, json!({"cluster_name": CLUSTER, "endpoints": [near(90, "9.0.0.1:80"), near(10, "9.0.0.2:80")]}));
    let weighted =
        cluster(CLUSTER, "reviews", json!({"common_lb_config": {"healthy_panic_threshold": {}, "locality_weighted_lb_config": {}}}));
    let mut sim = mesh_with(2, client(&[endpoints, weighted]), &Inbound::default());
    sim.serve("9.0.0.1:80", echo_app());
    sim.serve("9.0.0.2:80", echo_app());
    for _ in 0..200 {
        assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    }
    let clusters = sim.snapshot(0).clusters;
    let cluster = clusters.iter().find(|c| *c.name == *CLUSTER).unwrap();
    let second = cluster.hosts.iter().find(|h| h.address == "9.0.0.2:80").unwrap().requests;
    assert!((8..40).contains(&second), "about a tenth: {second}");
}

#[test]
fn dead_peers_are_noticed() {
    let mut options = http_options("h2");
    options["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["explicit_http_config"]["http2_protocol_options"] =
        json!({"connection_keepalive": {"interval": "30s", "timeout": "5s"}});
    let config = client(&[cluster(CLUSTER, "reviews", options), assignment(CLUSTER, &["9.0.0.1:80"], false)]);
    let mut sim = mesh_with(2, config, &Inbound::default());
    let alive = std::rc::Rc::new(std::cell::Cell::new(true));
    let (answer, mut inner) = (alive.clone(), echo_app());
    sim.serve("9.0.0.1:80", Box::new(move |id, input, eof, out| if answer.get() { inner(id, input, eof, out) } else { false }));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    sim.run_for(Duration::from_secs(120));
    assert_eq!(sim.connections(0), 1, "it answers");
    alive.set(false);
    sim.run_for(Duration::from_secs(36));
    assert_eq!(sim.connections(0), 0, "it does not answer");
}
