//! TCP through the mesh.

use super::mesh::*;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Command, Eof, metrics::Value::Counter, sim::Sim};

fn echo(sim: &mut Sim, split: usize, body: &[u8]) {
    sim.split = split;
    let client = sim.connect(0, "10.96.0.2:6379");
    sim.send(client, body);
    sim.finish(client);
    sim.run();
    let received = sim.received(client);
    assert!(received == body, "{} of {} bytes, or others", received.len(), body.len());
    assert_eq!(sim.ended(client), Some(Eof::Half), "half-closes travel both ways");
}

#[test]
fn mutual_tls_for_any_split() {
    for seed in 0..8 {
        let mut sim = mesh(seed, &Inbound::default());
        let (split, size) = [(0, 900_000), (7, 5_000), (100, 50_000), (1500, 300_000), (20_000, 900_000)][seed as usize % 5];
        let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
        echo(&mut sim, split, &body);
        let (out, inn) = (lines(&sim.log(0)), lines(&sim.log(1)));
        assert_eq!((out.len(), inn.len()), (1, 1), "one record each: {out:?} {inn:?}");
        assert_eq!(out[0]["upstream_host"], "10.0.0.2:6379");
        assert_eq!(out[0]["bytes_sent"], json!(body.len()));
        assert_eq!(out[0]["destination_principal"], "spiffe://cluster.local/ns/shop/sa/reviews");
        assert_eq!(inn[0]["source_principal"], "spiffe://cluster.local/ns/shop/sa/storefront");
        assert_eq!(inn[0]["sni"], "outbound_.6379_._.reviews.shop.svc.cluster.local");
        assert_clean(&mut sim);
        assert_eq!(sim.snapshot(0).guards, 0);
        assert_eq!(sim.connections(0) + sim.connections(1), 0);
    }
}

#[test]
fn the_unknown_passes_through() {
    let mut sim = mesh(1, &Inbound::default());
    sim.serve(
        "93.184.216.34:80",
        Box::new(|_, input, _, out| {
            // A server that speaks first, and closes after an answer.
            if input.is_empty() {
                out.extend_from_slice(b"220 ready\n");
            }
            !std::mem::take(input).is_empty()
        }),
    );
    let client = sim.connect(0, "93.184.216.34:80");
    sim.run();
    assert_eq!(sim.received(client), b"220 ready\n");
    sim.send(client, b"quit");
    sim.run();
    assert_eq!(sim.ended(client), Some(Eof::Half));
    sim.finish(client);
    sim.run();
    assert_eq!(lines(&sim.log(0))[0]["upstream_cluster"], "PassthroughCluster");
    assert_clean(&mut sim);
    assert_eq!(sim.connections(0), 0);
}

#[test]
fn nobody_there() {
    let mut sim = mesh(1, &Inbound::default());
    let client = sim.connect(0, "93.184.216.34:81");
    sim.run();
    assert!(sim.ended(client).is_some());
    let log = lines(&sim.log(0));
    assert_eq!((log.len(), &log[0]["response_flags"]), (1, &json!("UF,URX")));
    assert_eq!(log[0]["failure"], "Connection refused");
    // Nobody answers: the connect timeout.
    sim.silent.insert("93.184.216.34:82".parse().unwrap());
    let client = sim.connect(0, "93.184.216.34:82");
    sim.run_for(Duration::from_secs(9));
    assert!(sim.ended(client).is_none());
    sim.run_for(Duration::from_secs(2));
    assert!(sim.ended(client).is_some());
    assert_eq!(lines(&sim.log(0))[0]["failure"], "connection timeout");
    assert_clean(&mut sim);
    assert_eq!(sim.snapshot(0).guards, 0);
}

#[test]
fn policies() {
    let check = |rules: Option<(&str, Value)>, through: bool, details: &str| {
        let tcp = rules.into_iter().map(|(action, policies)| network_rbac(action, policies)).collect();
        let mut sim = mesh(3, &Inbound { tcp, ..Inbound::default() });
        let client = sim.connect(0, "10.96.0.2:6379");
        sim.send(client, b"ping");
        sim.run();
        assert_eq!(sim.received(client) == b"ping", through);
        assert_eq!(sim.ended(client).is_none(), through);
        if !through {
            let log = lines(&sim.log(1));
            assert_eq!(log[0]["termination"], details, "{log:?}");
            assert!(log[0]["policy"].is_string());
        }
    };
    check(None, true, "");
    check(Some(("ALLOW", json!({"ns[shop]-policy[a]-rule[0]": from("storefront")}))), true, "");
    check(Some(("ALLOW", json!({"ns[shop]-policy[a]-rule[0]": from("other")}))), false, "rbac_access_denied_matched_policy[none]");
    let deny = "rbac_access_denied_matched_policy[ns[shop]-policy[d]-rule[0]]";
    check(Some(("DENY", json!({"ns[shop]-policy[d]-rule[0]": from("storefront")}))), false, deny);
    check(Some(("DENY", json!({"ns[shop]-policy[d]-rule[0]": from("other")}))), true, "");
}

#[test]
fn strict_and_permissive() {
    let plain = |permissive: bool| {
        let mut sim = mesh(3, &Inbound { permissive, ..Inbound::default() });
        let client = sim.connect_from(1, "virtualInbound", "10.0.0.9:4000".parse().unwrap(), "10.0.0.2:6379");
        sim.send(client, b"plain\n");
        sim.run();
        sim.received(client) == b"plain\n"
    };
    assert!(plain(true));
    assert!(!plain(false), "plaintext is refused under STRICT");
    // A certificate that another CA has signed.
    for split in 0..40 {
        let mut sim = mesh_with(split, client_config(foreign_secrets("storefront")), &Inbound::default());
        sim.split = (split * 37) as usize;
        let client = sim.connect(0, "10.96.0.2:6379");
        sim.send(client, b"ping");
        sim.run();
        assert_eq!(sim.received(client), b"");
        assert!(sim.ended(client).is_some());
    }
}

#[test]
fn wrong_server_is_refused() {
    let config = client_config(secrets("storefront"));
    let other = cluster("outbound|6379||reviews.shop.svc.cluster.local", "somebody-else", json!({}));
    let config = put(&config, &[other]);
    for split in 0..40 {
        let mut sim = mesh_with(split, config.clone(), &Inbound::default());
        sim.split = (split * 37) as usize;
        let client = sim.connect(0, "10.96.0.2:6379");
        sim.send(client, b"ping");
        sim.run();
        assert_eq!(sim.received(client), b"");
        let log = lines(&sim.log(0));
        assert_eq!(log[0]["response_flags"], "UF,URX");
        assert!(log[0]["failure"].as_str().unwrap().starts_with("TLS_error"), "{log:?}");
    }
}

#[test]
fn open_connections_are_judged_again() {
    let mut sim = mesh(5, &Inbound::default());
    let client = sim.connect(0, "10.96.0.2:6379");
    sim.send(client, b"one");
    sim.run();
    assert_eq!(sim.received(client), b"one");
    let allow = |account: &str| inbound(&Inbound { tcp: vec![network_rbac("ALLOW", json!({"p": from(account)}))], ..Inbound::default() });
    let config = put(&server_config(&Inbound::default()), &[allow("storefront")]);
    sim.command(1, Command::Config(config.clone()));
    sim.send(client, b"two");
    sim.run();
    assert_eq!(sim.received(client), b"two", "still allowed: the connection stays");
    sim.command(1, Command::Config(put(&config, &[allow("other")])));
    sim.run();
    assert!(sim.ended(client).is_some(), "no longer allowed: closed");
    assert_eq!(lines(&sim.log(1))[0]["termination"], "rbac_access_denied_matched_policy[none]");
    sim.finish(client);
    sim.run();
    assert_clean(&mut sim);
}

/// Whoever lets go what nothing uses has it marked: connections that carry no requests are among those that are open.
#[test]
fn what_an_open_connection_uses_is_marked() {
    let mut sim = mesh(5, &Inbound::default());
    let client = sim.connect(0, "10.96.0.2:6379");
    sim.send(client, b"one");
    sim.run();
    for proxy in [0, 1] {
        sim.command(proxy, Command::MarkUsed);
    }
    sim.send(client, b"two");
    sim.run();
    assert_eq!(sim.received(client), b"onetwo");
}

#[test]
fn idle_connections_end() {
    let mut sim = mesh(6, &Inbound::default());
    let client = sim.connect(0, "10.96.0.2:6379");
    sim.send(client, b"x");
    sim.run_for(Duration::from_secs(3599));
    assert!(sim.ended(client).is_none());
    let sent = |sim: &mut Sim| {
        let snapshot = sim.snapshot(1);
        let series = snapshot.series.iter().find(|s| s.name == "istio_tcp_received_bytes_total").map(|s| s.value.clone());
        (series, snapshot.streams)
    };
    assert_eq!(sent(&mut sim), (Some(Counter(1)), 1), "counted while it is open");
    sim.run_for(Duration::from_secs(2));
    assert!(sim.ended(client).is_some());
    assert_eq!(lines(&sim.log(0))[0]["response_flags"], "SI");
    assert_clean(&mut sim);
}

#[test]
fn breaker_of_connections() {
    let config = client_config(secrets("storefront"));
    let one = cluster(
        "outbound|6379||reviews.shop.svc.cluster.local",
        "reviews",
        json!({"circuit_breakers": {"thresholds": [{"max_connections": 1}]}}),
    );
    let mut sim = mesh_with(7, put(&config, &[one]), &Inbound::default());
    let first = sim.connect(0, "10.96.0.2:6379");
    let second = sim.connect(0, "10.96.0.2:6379");
    sim.send(first, b"x");
    sim.run();
    assert_eq!(sim.received(first), b"x");
    assert!(sim.ended(second).is_some());
    assert_eq!(lines(&sim.log(0))[0]["response_flags"], "UO");
    sim.abort(first);
    sim.run();
    let third = sim.connect(0, "10.96.0.2:6379");
    sim.send(third, b"y");
    sim.run();
    assert_eq!(sim.received(third), b"y", "the guard came back");
}

#[test]
fn a_server_that_speaks_first_says_nothing_to_who_is_denied() {
    for (action, who, permissive) in [("DENY", "storefront", false), ("ALLOW", "other", false), ("ALLOW", "other", true)] {
        let tcp = vec![network_rbac(action, json!({"p": from(who)}))];
        let mut sim = mesh(3, &Inbound { tcp, permissive, ..Inbound::default() });
        sim.serve(
            "10.0.0.2:6379",
            Box::new(|_, _, eof, out| {
                out.extend_from_slice(b"220 ready");
                eof
            }),
        );
        // Without mutual TLS the listener waits for the first bytes; with it the client says nothing.
        let client = if permissive {
            let client = sim.connect_from(1, "virtualInbound", "10.0.0.9:4000".parse().unwrap(), "10.0.0.2:6379");
            sim.send(client, b"plain\n");
            client
        } else {
            sim.connect(0, "10.96.0.2:6379")
        };
        sim.run();
        assert_eq!(sim.received(client), b"", "{action} {who}");
        assert!(sim.ended(client).is_some(), "closed at once");
        let application = crate::Target::Tcp("10.0.0.2:6379".parse().unwrap());
        let dialled = sim.dials.iter().filter(|to| **to == application).count();
        assert_eq!(dialled, usize::from(!permissive), "the server is not even dialled: what there is goes to its proxy");
        assert!(lines(&sim.log(1))[0]["termination"].as_str().unwrap().starts_with("rbac_access_denied"));
    }
}

#[test]
fn half_closed_connections_end() {
    // (how long the idle timeout is, when the connection is gone)
    for (idle, gone) in [("0s", 3600), ("7200s", 3600), ("600s", 600)] {
        let mut proxy = tcp_proxy("PassthroughCluster");
        proxy["typed_config"]["idle_timeout"] = idle.into();
        let chains = json!({"use_original_dst": true, "filter_chains": [{"filters": [proxy]}]});
        let all = listener("virtualOutbound", "0.0.0.0", 15001, "OUTBOUND", chains);
        for late in [false, true] {
            let mut sim = mesh_with(3, put(&client_config(secrets("storefront")), std::slice::from_ref(&all)), &Inbound::default());
            let answers = std::rc::Rc::new(std::cell::Cell::new(false));
            let now = answers.clone();
            sim.serve(
                "93.184.216.34:80",
                Box::new(move |_, _, _, out| {
                    if now.get() {
                        out.extend_from_slice(b"late");
                    }
                    now.get()
                }),
            );
            let client = sim.connect(0, "93.184.216.34:80");
            sim.send(client, b"ask");
            sim.run_for(Duration::from_secs(100));
            sim.finish(client);
            sim.run_for(Duration::from_secs(75));
            assert!(sim.ended(client).is_none(), "{idle}: a client may shut its side down and wait");
            if late {
                answers.set(true);
                sim.poke("93.184.216.34:80");
                sim.run();
                assert_eq!(sim.received(client), b"late", "{idle}");
                assert_eq!(sim.connections(0), 0);
                continue;
            }
            sim.run_for(Duration::from_secs(gone - 176));
            assert_eq!(sim.connections(0), 2, "{idle}");
            sim.run_for(Duration::from_secs(110));
            assert_eq!(sim.connections(0), 0, "{idle}: neither side has said a word");
            assert_eq!(lines(&sim.log(0))[0]["response_flags"], "SI");
        }
    }
}
