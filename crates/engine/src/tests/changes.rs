//! What a change costs and reaches: connections of changed clusters, tables after what is gone, a few connections in each turn.

use std::{sync::Arc, time::Duration};

use mizzen_ir::{Config, Draft, ResourceKind};
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::{Accepted, Action, Command, ConnId, Options, Worker, sim::Sim};

/// Whether a second request takes a connection of its own, after this change, while a first one keeps the pool's busy.
fn check(base: &Arc<Config>, changed: &[(ResourceKind, Value)], reaches: bool, context: &str) {
    let permissive = Inbound { permissive: true, ..Inbound::default() };
    let mut sim = mesh_with(2, base.clone(), &permissive);
    sim.serve("10.0.0.2:9080", echo_app());
    let waits = sim.connect(0, TO);
    sim.send(waits, b"POST / HTTP/1.1\r\nhost: reviews:9080\r\ncontent-length: 9\r\n\r\nnot all");
    sim.run();
    assert_eq!(sim.connections(0), 2, "{context}");
    sim.command(0, Command::Config(put(base, changed)));
    let next = sim.connect(0, TO);
    sim.send(next, &get("/", ""));
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(next))), "200", "{context}");
    assert_eq!(sim.connections(0), 3 + usize::from(reaches), "{context}");
    sim.send(waits, b"..");
    sim.run();
    assert_eq!(status(&String::from_utf8_lossy(&sim.received(waits))), "200", "{context}: what is open goes on");
    assert_eq!(sim.connections(0), 3, "{context}: the old connection ends with its last request");
    sim.abort(waits);
    sim.abort(next);
    sim.run();
    assert_clean(&mut sim);
}

/// The cluster, changed at a path of its fields.
fn changed(path: &str, value: Value) -> (ResourceKind, Value) {
    let (kind, mut cluster) = cluster(CLUSTER, "reviews", http_options("h2"));
    let mut place = &mut cluster;
    for part in path.split('/') {
        place = match part.parse::<usize>() {
            Ok(at) => &mut place[at],
            Err(_) => &mut place[part],
        };
    }
    *place = value;
    (kind, cluster)
}

#[test]
fn every_option_reaches_a_busy_pool() {
    let base = client(&[cluster(CLUSTER, "reviews", http_options("h2"))]);
    let tls = "transport_socket_matches/0/transport_socket/typed_config";
    let validation = format!("{tls}/common_tls_context/combined_validation_context/default_validation_context/match_subject_alt_names");
    let http = "typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let at = |more: &str| http.to_owned() + more;
    let names = json!([{"exact": "spiffe://cluster.local/ns/shop/sa/reviews"}, {"exact": "spiffe://cluster.local/ns/shop/sa/other"}]);
    for (path, value, reaches) in [
        ("lb_policy".to_owned(), json!("RANDOM"), false),
        ("circuit_breakers".to_owned(), json!({"thresholds": [{"max_retries": 7}]}), false),
        ("circuit_breakers".to_owned(), json!({"thresholds": [{"max_connections": 7}]}), true),
        ("connect_timeout".to_owned(), json!("3s"), true),
        ("upstream_connection_options".to_owned(), json!({"tcp_keepalive": {"keepalive_probes": 7}}), true),
        ("upstream_bind_config".to_owned(), json!({"source_address": {"address": "10.0.0.1", "port_value": 0}}), true),
        (format!("{tls}/sni"), json!("outbound_.9080_.v2_.reviews.shop.svc.cluster.local"), true),
        (format!("{tls}/common_tls_context/alpn_protocols"), json!(["istio-peer-exchange", "istio", "h2"]), true),
        (validation, names, true),
        (at("/common_http_protocol_options"), json!({"idle_timeout": "7s"}), true),
        (at("/common_http_protocol_options"), json!({"max_requests_per_connection": 7}), true),
        (at("/common_http_protocol_options"), json!({"max_connection_duration": "700s"}), true),
        (at("/common_http_protocol_options"), json!({"max_headers_count": 77}), true),
        (at("/explicit_http_config"), json!({"http2_protocol_options": {"initial_stream_window_size": 70_000}}), true),
        (at("/explicit_http_config"), json!({"http2_protocol_options": {"max_concurrent_streams": 7}}), true),
        (at("/explicit_http_config"), json!({"http_protocol_options": {}}), true),
    ] {
        check(&base, &[changed(&path, value.clone())], reaches, &format!("{path}: {value}"));
    }
    check(&base, &secrets("storefront"), true, "another certificate of the same name");
    check(&base, &secrets("other"), true, "another identity");
    check(&base, &[assignment(CLUSTER, &["10.0.0.2:9080"], false)], true, "an endpoint without TLS");
    check(
        &base,
        &[assignment(CLUSTER, &["10.0.0.2:9080", "10.0.0.9:80"], true)].map(|(kind, mut value)| {
            // It is there, and nothing goes to it.
            value["endpoints"][0]["lb_endpoints"][1]["health_status"] = "DRAINING".into();
            (kind, value)
        }),
        false,
        "another endpoint",
    );
}

#[test]
fn an_option_that_changes_back_keeps_the_pool() {
    let base = client(&[cluster(CLUSTER, "reviews", http_options("h2"))]);
    let mut sim = with_app(mesh_with(2, base.clone(), &Inbound::default()));
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    let there = put(&base, &[changed("connect_timeout", json!("3s"))]);
    let back = put(&there, &[changed("connect_timeout", json!("10s"))]);
    // Both come before the next turn.
    sim.commands(0, [Command::Config(there), Command::Config(back)]);
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    assert_eq!(sim.dials.len(), 2);
}

/// Clusters of one round, found by their addresses or by names, each with a route that has a limit of its own.
fn round(number: usize, size: usize) -> Vec<(ResourceKind, Value)> {
    let (mut resources, mut all) = (Vec::new(), Vec::new());
    for n in number * size..(number + 1) * size {
        let (kind, host) = if n % 4 == 0 { ("STRICT_DNS", format!("h{n}.example")) } else { ("STATIC", "10.0.0.9".to_owned()) };
        resources.push((
            ResourceKind::Cluster,
            json!({"name": format!("c{n}"), "type": kind, "connect_timeout": "1s", "load_assignment": {"cluster_name": format!("c{n}"), "endpoints": [{
                "lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": host, "port_value": 80}}},
                    "metadata": {"filter_metadata": {"istio": {"workload": format!("w{n};shop;w;v1;Kubernetes")}}}}]}]}}),
        ));
        let limit = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "x",
            "token_bucket": {"max_tokens": 1000 + n, "tokens_per_fill": 1000, "fill_interval": "1s"},
            "filter_enabled": {"default_value": {"numerator": 100}}, "filter_enforced": {"default_value": {"numerator": 100}}});
        all.push(json!({"name": format!("r{n}"), "match": {"path": format!("/{n}")}, "route": {"cluster": format!("c{n}")},
            "typed_per_filter_config": {"local_ratelimit": limit}}));
    }
    resources.push((ResourceKind::Route, routes("9080", json!(all))));
    resources
}

fn without_clusters(config: &Config) -> Arc<Config> {
    let mut draft = Draft::new(config);
    let gone: Vec<_> = config.clusters.keys().filter(|name| name.starts_with('c')).cloned().collect();
    for name in gone {
        draft.remove(ResourceKind::Cluster, &name);
    }
    draft.finish().0
}

/// A client's proxy whose requests may be limited by their routes.
fn limiting() -> Arc<Config> {
    let filter = json!({"name": "local_ratelimit", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "x"}});
    let chains = json!({"bind_to_port": false, "filter_chains": [{"filters": [hcm(false, json!("9080"), &[filter])]}]});
    client(&[listener("0.0.0.0_9080", "0.0.0.0", 9080, "OUTBOUND", chains)])
}

#[test]
fn ten_thousand_clusters_come_and_go() {
    const ROUNDS: usize = 50;
    const SIZE: usize = 200;
    let base = limiting();
    let mut config = base.clone();
    let mut sim = mesh_with(2, config.clone(), &Inbound::default());
    sim.serve("10.0.0.9:80", echo_app());
    let before = sim.sizes(0);
    let client = sim.connect(0, TO);
    for number in 0..ROUNDS {
        // The old ones are gone when the new ones come, at once or a configuration before.
        let start = if number % 2 == 0 { without_clusters(&config) } else { config.clone() };
        config = put(&start, &round(number, SIZE));
        if number % 2 == 1 {
            config = {
                let mut draft = Draft::new(&config);
                for n in (number - 1) * SIZE..number * SIZE {
                    draft.remove(ResourceKind::Cluster, &format!("c{n}"));
                }
                draft.finish().0
            };
        }
        sim.command(0, Command::Config(config.clone()));
        for n in number * SIZE..(number + 1) * SIZE {
            if n % 4 == 0 {
                sim.names.insert(format!("h{n}.example"), vec!["10.0.0.9".parse().unwrap()]);
            }
            sim.send(client, &get(&format!("/{n}"), ""));
            sim.run();
            assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200", "{n}");
        }
        let full: Vec<usize> = sim.sizes(0).into_iter().map(|(_, size)| size).collect();
        assert!(full.iter().all(|size| *size <= 3 * SIZE), "{number}: {:?}", sim.sizes(0));
        // The buckets fill.
        sim.run_for(Duration::from_secs(2));
    }
    sim.command(0, Command::Config(put(&without_clusters(&config), &[route("none", json!({"cluster": CLUSTER}))])));
    sim.run();
    assert_eq!(sim.sizes(0), before);
    assert_eq!(sim.connections(0), 1, "the client's");
    assert_clean(&mut sim);
}

#[test]
fn what_goes_on_keeps_what_it_needs() {
    let base = put(&limiting(), &round(0, 2));
    let mut sim = mesh_with(2, base.clone(), &Inbound::default());
    let before = sim.sizes(0);
    sim.serve("10.0.0.9:80", Box::new(|_, _, eof, _| eof));
    let client = sim.connect(0, TO);
    sim.send(client, &get("/1", ""));
    sim.run();
    sim.command(0, Command::Config(put(&without_clusters(&base), &[route("none", json!({"cluster": CLUSTER}))])));
    sim.run();
    let size = |sim: &Sim, name: &str| sim.sizes(0).into_iter().find(|(other, _)| *other == name).unwrap().1;
    assert_eq!((size(&sim, "states of clusters"), size(&sim, "pools"), sim.snapshot(0).guards), (1, 1, 2), "the request still waits");
    sim.abort(client);
    sim.run();
    assert_eq!((size(&sim, "states of clusters"), size(&sim, "pools"), sim.snapshot(0).guards), (0, 0, 0));
    // What its end has left goes with the next configuration; the bucket when it is full.
    sim.run_for(Duration::from_secs(2));
    sim.command(0, Command::Config(put(&base, &[route("other", json!({"cluster": CLUSTER, "timeout": "1s"}))])));
    sim.command(0, Command::Config(put(&without_clusters(&base), &[route("none", json!({"cluster": CLUSTER}))])));
    assert_eq!(sim.sizes(0), before);
    assert_clean(&mut sim);
}

/// A worker with so many connections of clients to one listener.
fn worker(config: Arc<Config>, conns: usize) -> (Worker, Vec<ConnId>) {
    let options = Options { node: Default::default(), limits: Default::default(), seed: 1, shared: Arc::default(), mark: 0 };
    let now = crate::Now { mono: Duration::from_secs(1), wall: wall() };
    let mut worker = Worker::new(options, config, now);
    let accept = |n: usize| {
        let peer = std::net::SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 4000));
        worker.accept(
            &"virtualInbound".into(),
            Accepted { peer, local: "10.0.0.2:15006".parse().unwrap(), original: Some("10.0.0.2:6379".parse().unwrap()) },
        )
    };
    let ids: Vec<ConnId> = (0..conns).map(accept).collect();
    for id in &ids {
        worker.bytes(*id, &mut b"PING\r\n".to_vec());
    }
    let mut actions = Vec::new();
    while worker.ready() {
        worker.turn(&mut actions);
    }
    (worker, ids)
}

fn closed(worker: &mut Worker) -> Vec<ConnId> {
    let mut actions = Vec::new();
    worker.turn(&mut actions);
    actions.into_iter().filter_map(|action| if let Action::Close(id, _) = action { Some(id) } else { None }).collect()
}

#[test]
fn a_few_connections_are_judged_in_each_turn() {
    const ALL: usize = 300;
    let allow = |ip: &str| {
        let from = json!({"permissions": [{"any": true}], "principals": [{"direct_remote_ip": {"address_prefix": ip, "prefix_len": 16}}]});
        Inbound { permissive: true, tcp: vec![network_rbac("ALLOW", json!({"p": from}))], ..Inbound::default() }
    };
    let base = server_config(&allow("10.1.0.0"));
    let (mut worker, ids) = worker(base.clone(), ALL);
    assert_eq!(worker.connections(), ALL);
    // Something else changes: none is looked at.
    worker.command(Command::Config(put(&base, &secrets("reviews"))));
    assert!(closed(&mut worker).is_empty() && worker.looked() == 0);
    worker.command(Command::Config(put(&base, &[inbound(&allow("10.2.0.0"))])));
    // Whoever says something is judged before what it says is passed on.
    let eager = ids[ALL / 2];
    worker.bytes(eager, &mut b"PING\r\n".to_vec());
    let mut gone = closed(&mut worker);
    assert!(gone.contains(&eager), "{}: {gone:?}", worker.connections());
    for turn in 1.. {
        let expected = (turn * crate::worker::EACH_TURN + 1).min(ALL);
        assert!(gone.len() == expected || gone.len() + 1 == expected, "{} after {turn} turns", gone.len());
        if !worker.ready() {
            break;
        }
        gone.extend(closed(&mut worker));
    }
    assert_eq!((gone.len(), worker.connections()), (ALL, 0));
}

#[test]
fn requests_on_connections_that_are_behind_run_by_what_is_new() {
    let base = client_config(secrets("storefront"));
    let mut sim = with_app(mesh_with(2, base.clone(), &Inbound::default()));
    let clients: Vec<usize> = (0..200).map(|_| sim.connect(0, TO)).collect();
    for client in &clients {
        sim.send(*client, &get("/", ""));
    }
    sim.run();
    // Routes and the listener change; then the next requests come, all within the same turn.
    let chains = json!({"bind_to_port": false, "filter_chains": [{"filters": [hcm(false, json!("9080"), &[http_rbac("DENY", json!({"p": {
        "permissions": [{"url_path": {"path": {"prefix": "/no"}}}], "principals": [{"any": true}]}}))])]}]});
    let news = put(&base, &[listener("0.0.0.0_9080", "0.0.0.0", 9080, "OUTBOUND", chains)]);
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(*client))), "200");
        sim.send(*client, &get(if n % 2 == 0 { "/no" } else { "/yes" }, ""));
    }
    sim.command(0, Command::Config(news));
    sim.run();
    for (n, client) in clients.iter().enumerate() {
        let expected = if n % 2 == 0 { "403" } else { "200" };
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(*client))), expected, "{n}");
    }
}
