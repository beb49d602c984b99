//! Active checks of hosts.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::{Command, sim::Sim};

const HOST: &str = "10.0.0.9:80";
const OTHER: &str = "10.0.0.10:80";

type Header = (&'static str, &'static str);

/// What a test's server answers (status, headers, body), and what it was asked.
#[derive(Clone, Default)]
struct App {
    answer: Rc<RefCell<(u16, Vec<Header>, &'static str)>>,
    asked: Rc<RefCell<Vec<Head>>>,
}

impl App {
    fn set(&self, status: u16, headers: &[Header], body: &'static str) {
        *self.answer.borrow_mut() = (status, headers.to_vec(), body);
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        std::mem::take(&mut *self.asked.borrow_mut()).len()
    }

    fn serve(&self) -> crate::sim::Serve {
        let this = self.clone();
        let mut inner = app(move |head, _| {
            this.asked.borrow_mut().push(head.clone());
            let (status, headers, body) = this.answer.borrow().clone();
            let mut response = Head::response(status);
            for (name, value) in headers {
                response.set(name, value);
            }
            if !response.contains("x-trailers") {
                response.set("content-length", body.len().to_string());
            }
            (response, body.as_bytes().to_vec())
        });
        let answer = self.answer.clone();
        // Status 0: it says nothing.
        Box::new(move |id, input, eof, out| if answer.borrow().0 == 0 { eof } else { inner(id, input, eof, out) })
    }
}

fn check_of(kind: &str, what: Value, more: Value) -> Value {
    let mut check =
        json!({"timeout": "1s", "interval": "5s", "no_traffic_interval": "5s", "unhealthy_threshold": 2, "healthy_threshold": 2});
    check[kind] = what;
    for (key, value) in more.as_object().unwrap() {
        check[key] = value.clone();
    }
    check
}

fn http(what: Value, more: Value) -> Value {
    let mut http = json!({"path": "/health"});
    for (key, value) in what.as_object().unwrap() {
        http[key] = value.clone();
    }
    check_of("http_health_check", http, more)
}

fn checked(check: &Value, more: Value) -> (ResourceKind, Value) {
    let mut fields = json!({"health_checks": [check]});
    for (key, value) in more.as_object().unwrap() {
        fields[key] = value.clone();
    }
    cluster(CLUSTER, "reviews", fields)
}

fn sim_of(check: &Value, more: Value, app: &App) -> Sim {
    let mut sim = mesh_with(3, client(&[checked(check, more), assignment(CLUSTER, &[HOST], false)]), &Inbound::default());
    sim.serve(HOST, app.serve());
    sim
}

/// What is held against the hosts.
fn flags(sim: &mut Sim) -> String {
    let clusters = sim.snapshot(0).clusters;
    let hosts = clusters.iter().filter(|c| *c.name == *CLUSTER).flat_map(|c| &c.hosts);
    hosts.map(|host| host.flags.to_string()).collect::<Vec<_>>().join(" ")
}

fn seconds(sim: &mut Sim, seconds: u64) {
    sim.run_for(Duration::from_secs(seconds));
}

#[test]
fn what_a_request_looks_like() {
    for (what, expected) in [
        (json!({}), ("GET", CLUSTER, "/health", "Envoy/HC")),
        (json!({"host": "h", "method": "OPTIONS"}), ("OPTIONS", "h", "/health", "Envoy/HC")),
        (json!({"host": "h", "path": "/x?y", "codec_client_type": "HTTP2"}), ("GET", "h", "/x?y", "Envoy/HC")),
        (
            json!({"request_headers_to_add": [{"header": {"key": "user-agent", "value": "me"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]}),
            ("GET", CLUSTER, "/health", "me"),
        ),
    ] {
        let app = App::default();
        app.set(200, &[], "");
        let mut sim = sim_of(&http(what, json!({})), json!({}), &app);
        sim.run();
        let asked = app.asked.borrow();
        let head = &asked[0];
        let seen = (head.method(), head.authority(), head.path(), head.get_str("user-agent").unwrap());
        assert_eq!((asked.len(), seen), (1, expected));
    }
}

#[test]
fn answers_and_thresholds() {
    let failed = "/failed_active_hc";
    // What is answered from one check to the next, and what the host is after each.
    type Steps = &'static [(u16, &'static [Header], &'static str, &'static str)];
    let expected = |status: Value| json!({"expected_statuses": [{"start": status, "end": 300}]});
    let ways: [(Value, Steps); 6] = [
        // The first of all is enough; then it takes two, and one answer that says that it is ill.
        (
            json!({}),
            &[
                (200, &[], "", "healthy"),
                (500, &[], "", "/failed_active_hc"),
                (200, &[], "", "/failed_active_hc"),
                (200, &[], "", "healthy"),
            ],
        ),
        (
            json!({}),
            &[
                (500, &[], "", "/failed_active_hc"),
                (200, &[], "", "/failed_active_hc"),
                (500, &[], "", "/failed_active_hc"),
                (200, &[], "", "/failed_active_hc"),
            ],
        ),
        (
            json!({"retriable_statuses": [{"start": 429, "end": 430}]}),
            &[
                (200, &[], "", "healthy"),
                (429, &[], "", "healthy"),
                (200, &[], "", "healthy"),
                (429, &[], "", "healthy"),
                (429, &[], "", "/failed_active_hc"),
            ],
        ),
        (expected(204.into()), &[(204, &[], "", "healthy"), (200, &[], "", "/failed_active_hc")]),
        // No answer, twice.
        (
            json!({}),
            &[
                (200, &[], "", "healthy"),
                (0, &[], "", "healthy"),
                (0, &[], "", "/failed_active_hc/active_hc_timeout"),
                (500, &[], "", "/failed_active_hc"),
            ],
        ),
        (
            json!({"receive": [{"text": "6f6b"}, {"binary": "IQ=="}]}),
            &[
                (200, &[], "ok, then!", "healthy"),
                (200, &[("x-envoy-degraded", "1")], "ok!", "/degraded_active_hc"),
                (200, &[], "!ok", "/failed_active_hc/degraded_active_hc"),
            ],
        ),
    ];
    for (at, (what, steps)) in ways.into_iter().enumerate() {
        let app = App::default();
        let (status, headers, body, _) = steps[0];
        app.set(status, headers, body);
        let mut sim = sim_of(&http(what, json!({})), json!({}), &app);
        assert_eq!(flags(&mut sim), failed, "nothing is known of it at first");
        for (step, (status, headers, body, expected)) in steps.iter().enumerate() {
            app.set(*status, headers, body);
            if step > 0 {
                seconds(&mut sim, 5);
            }
            seconds(&mut sim, 1);
            assert_eq!(flags(&mut sim), *expected, "way {at}, step {step}");
        }
    }
}

#[test]
fn hosts_that_are_not_reached() {
    let app = App::default();
    app.set(200, &[], "");
    let mut sim = sim_of(&http(json!({}), json!({})), json!({}), &app);
    seconds(&mut sim, 1);
    assert_eq!(flags(&mut sim), "healthy");
    sim.stop(HOST);
    seconds(&mut sim, 5);
    assert_eq!(flags(&mut sim), "healthy", "the threshold is two");
    seconds(&mut sim, 5);
    assert_eq!(flags(&mut sim), "/failed_active_hc");
    let text = call(&mut sim, &get("/", ""));
    assert!(text.contains("no healthy upstream"), "{text}");
    sim.refused.clear();
    sim.serve(HOST, app.serve());
    seconds(&mut sim, 10);
    assert_eq!(flags(&mut sim), "healthy");
    app.asked();
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    let clusters = sim.snapshot(0).clusters;
    let host = &clusters.iter().find(|c| *c.name == *CLUSTER).unwrap().hosts[0];
    assert_eq!((host.requests, host.connections_total, host.connect_failures), (1, 1, 0), "checks are no traffic");
    assert_clean_but_connections(&mut sim);
}

#[test]
fn intervals() {
    let more = json!({
        "no_traffic_interval": "7s", "no_traffic_healthy_interval": "11s", "unhealthy_interval": "3s", "unhealthy_edge_interval": "2s",
        "healthy_edge_interval": "4s", "initial_jitter": "0s",
    });
    let app = App::default();
    app.set(500, &[], "");
    let mut sim = sim_of(&http(json!({"retriable_statuses": [{"start": 429, "end": 430}]}), more), json!({}), &app);
    // The number of checks in each stretch of seconds, after which its last moment was one.
    let wait = |sim: &mut Sim, expected: u64, why: &str| {
        seconds(sim, expected - 1);
        assert_eq!(app.asked(), 0, "{why}");
        seconds(sim, 1);
        assert_eq!(app.asked(), 1, "{why}");
    };
    sim.run();
    app.asked();
    wait(&mut sim, 7, "no traffic");
    app.set(200, &[], "");
    wait(&mut sim, 7, "no traffic");
    wait(&mut sim, 7, "one success of two");
    wait(&mut sim, 11, "no traffic, and well");
    let asked = app.asked.borrow().len();
    assert_eq!(asked, 0);
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    app.asked();
    sim.run_for(Duration::from_millis(11_000 - 200));
    assert_eq!(app.asked(), 1, "it was set before");
    wait(&mut sim, 5, "well");
    app.set(429, &[], "");
    wait(&mut sim, 5, "well");
    wait(&mut sim, 2, "one failure of two");
    wait(&mut sim, 3, "ill");
    app.set(200, &[], "");
    wait(&mut sim, 3, "ill");
    wait(&mut sim, 4, "one success of two");
    wait(&mut sim, 5, "well");
}

#[test]
fn jitter() {
    let mut seen = Vec::new();
    for seed in 0..8 {
        let app = App::default();
        app.set(200, &[], "");
        let check = http(json!({}), json!({"initial_jitter": "4s", "interval_jitter": "2s", "interval_jitter_percent": 20}));
        let config = client(&[checked(&check, json!({})), assignment(CLUSTER, &[HOST], false)]);
        let mut sim = mesh_with(seed, config, &Inbound::default());
        sim.serve(HOST, app.serve());
        let mut at = Vec::new();
        for tenth in 0..200u32 {
            sim.run_for(Duration::from_millis(100));
            at.extend(std::iter::repeat_n(tenth, app.asked()));
        }
        assert!(at[0] < 40 && at.windows(2).all(|two| (49..81).contains(&(two[1] - two[0]))), "{at:?}");
        seen.push(at);
    }
    seen.dedup();
    assert!(seen.len() > 4, "{seen:?}");
}

#[test]
fn connections_are_kept_or_not() {
    for (reuse, dials) in [(true, 1), (false, 4)] {
        for codec in ["HTTP1", "HTTP2"] {
            let app = App::default();
            app.set(200, &[], "");
            let check = http(json!({"codec_client_type": codec}), json!({"reuse_connection": reuse}));
            let mut sim = sim_of(&check, json!({}), &app);
            seconds(&mut sim, 16);
            assert_eq!((app.asked(), sim.dials.len(), sim.connections(0)), (4, dials, usize::from(reuse)), "{codec}");
        }
    }
}

#[test]
fn checks_over_tcp() {
    let echo = || -> crate::sim::Serve {
        Box::new(|_, input, eof, out| {
            out.append(input);
            eof
        })
    };
    let once = || -> crate::sim::Serve {
        Box::new(|_, input, _, out| {
            out.append(input);
            !out.is_empty()
        })
    };
    let silent = || -> crate::sim::Serve { Box::new(|_, _, eof, _| eof) };
    let ping = json!({"send": {"text": "70696e67"}, "receive": [{"text": "70"}, {"text": "6e67"}]});
    let other = json!({"send": {"text": "70696e67"}, "receive": [{"text": "706f6e67"}]});
    for (what, more, serve, dials, expected) in [
        (json!({}), json!({}), silent(), 3, "healthy"),
        (ping.clone(), json!({}), echo(), 1, "healthy"),
        (ping.clone(), json!({"reuse_connection": false}), echo(), 3, "healthy"),
        (other, json!({}), echo(), 3, "/failed_active_hc/active_hc_timeout"),
        (ping.clone(), json!({}), silent(), 3, "/failed_active_hc/active_hc_timeout"),
    ] {
        let check = check_of("tcp_health_check", what.clone(), more.clone());
        let config = client(&[checked(&check, json!({})), assignment(CLUSTER, &[HOST], false)]);
        let mut sim = mesh_with(3, config, &Inbound::default());
        sim.serve(HOST, serve);
        seconds(&mut sim, 13);
        assert_eq!((flags(&mut sim).as_str(), sim.dials.len()), (expected, dials), "{what} {more}");
    }
    // A kept connection that its server ends says something too.
    let config = client(&[checked(&check_of("tcp_health_check", ping, json!({})), json!({})), assignment(CLUSTER, &[HOST], false)]);
    let mut sim = mesh_with(3, config, &Inbound::default());
    sim.serve(HOST, once());
    seconds(&mut sim, 1);
    assert_eq!(flags(&mut sim), "healthy", "the threshold is two");
    // Nobody listens.
    let config = client(&[checked(&check_of("tcp_health_check", json!({}), json!({})), json!({})), assignment(CLUSTER, &[HOST], false)]);
    let mut sim = mesh_with(3, config, &Inbound::default());
    sim.serve(HOST, silent());
    seconds(&mut sim, 1);
    assert_eq!(flags(&mut sim), "healthy");
    sim.stop(HOST);
    seconds(&mut sim, 10);
    assert_eq!(flags(&mut sim), "/failed_active_hc");
}

#[test]
fn checks_over_grpc() {
    let serving = "\0\0\0\0\u{2}\u{8}\u{1}";
    for (status, trailers, body, expected) in [
        (200, "0", serving, "healthy"),
        (200, "0", "\0\0\0\0\u{2}\u{8}\u{2}", "/failed_active_hc"),
        (200, "5", serving, "/failed_active_hc"),
        (503, "0", serving, "/failed_active_hc"),
    ] {
        let app = App::default();
        app.set(200, &[("content-type", "application/grpc"), ("x-trailers", "0")], serving);
        let what = json!({"service_name": "s", "authority": "a", "initial_metadata": [{"header": {"key": "x-more", "value": "m"}}]});
        let mut sim = sim_of(&check_of("grpc_health_check", what, json!({})), http_options("h2"), &app);
        seconds(&mut sim, 1);
        assert_eq!(flags(&mut sim), "healthy");
        {
            let asked = app.asked.borrow();
            let head = &asked[0];
            let seen = (head.method(), head.authority(), head.path(), head.get_str("grpc-timeout"), head.get_str("x-more"));
            assert_eq!(seen, ("POST", "a", "/grpc.health.v1.Health/Check", Some("1000m"), Some("m")));
        }
        app.set(
            status,
            if trailers == "0" {
                &[("content-type", "application/grpc"), ("x-trailers", "0")]
            } else {
                &[("content-type", "application/grpc"), ("x-trailers", "5")]
            },
            body,
        );
        seconds(&mut sim, 5);
        assert_eq!(flags(&mut sim), expected, "{status} {trailers} {body:?}");
    }
}

/// Two hosts, the second one checked in another way.
fn pair(check: &Value, more: Value, second: Value) -> std::sync::Arc<mizzen_ir::Config> {
    let (kind, mut hosts) = assignment(CLUSTER, &[HOST, OTHER], false);
    hosts["endpoints"][0]["lb_endpoints"][1]["endpoint"]["health_check_config"] = second;
    client(&[checked(check, more), (kind, hosts)])
}

#[test]
fn hosts_with_checks_of_their_own() {
    let (first, second, elsewhere) = (App::default(), App::default(), App::default());
    for app in [&first, &second, &elsewhere] {
        app.set(200, &[], "");
    }
    for (own, at, authority, expected) in [
        (json!({"port_value": 81}), 1, CLUSTER, "healthy healthy"),
        (json!({"port_value": 81, "hostname": "named"}), 1, "named", "healthy healthy"),
        (
            json!({"address": {"socket_address": {"address": "10.0.0.11", "port_value": 81}}, "hostname": "named"}),
            2,
            "named",
            "healthy healthy",
        ),
        (json!({"disable_active_health_check": true}), 3, "", "healthy healthy"),
        (json!({}), 0, CLUSTER, "healthy healthy"),
    ] {
        let mut sim = mesh_with(3, pair(&http(json!({}), json!({})), json!({}), own.clone()), &Inbound::default());
        sim.serve(HOST, first.serve());
        sim.serve(OTHER, second.serve());
        sim.serve("10.0.0.10:81", elsewhere.serve());
        sim.serve("10.0.0.11:81", elsewhere.serve());
        seconds(&mut sim, 1);
        assert_eq!(flags(&mut sim), expected, "{own}");
        let where_asked = if at == 0 { &second } else { &elsewhere };
        let names: Vec<String> = where_asked.asked.borrow().iter().map(|head| head.authority().to_owned()).collect();
        assert_eq!(names, if at == 3 { vec![] } else { vec![authority.to_owned()] }, "{own}");
        let targets: Vec<String> = sim.dials.iter().map(crate::address::target).collect();
        let target = ["10.0.0.10:80", "10.0.0.10:81", "10.0.0.11:81"].get(at);
        assert_eq!(targets.get(1).map(String::as_str), target.copied(), "{own}: {targets:?}");
        for app in [&first, &second, &elsewhere] {
            app.asked();
        }
    }
}

#[test]
fn traffic_goes_where_checks_succeed() {
    let (good, bad) = (App::default(), App::default());
    good.set(200, &[], "");
    bad.set(503, &[], "");
    let mut sim = mesh_with(3, pair(&http(json!({}), json!({})), json!({}), json!({})), &Inbound::default());
    sim.serve(HOST, good.serve());
    sim.serve(OTHER, bad.serve());
    seconds(&mut sim, 1);
    assert_eq!(flags(&mut sim), "healthy /failed_active_hc");
    assert!((0..6).all(|_| status(&call(&mut sim, &get("/", ""))) == "200"));
    // A host that is well may ask to be left out, by any answer, until a check finds it well again.
    good.set(200, &[("x-envoy-immediate-health-check-fail", "true")], "");
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    assert_eq!(flags(&mut sim), "/failed_active_hc/excluded_via_immediate_hc_fail /failed_active_hc");
    good.set(200, &[], "");
    seconds(&mut sim, 11);
    assert_eq!(flags(&mut sim), "healthy /failed_active_hc");
}

#[test]
fn configurations_change_under_checks() {
    let app = App::default();
    app.set(500, &[], "");
    let check = http(json!({}), json!({}));
    let with = |more: Value, hosts: &[&str]| client(&[checked(&check, more), assignment(CLUSTER, hosts, false)]);
    let mut sim = mesh_with(3, with(json!({}), &[HOST]), &Inbound::default());
    sim.serve(HOST, app.serve());
    sim.serve(OTHER, app.serve());
    seconds(&mut sim, 1);
    assert_eq!(flags(&mut sim), "/failed_active_hc");
    // What was found holds; a new host has to show itself first.
    sim.command(0, Command::Config(with(json!({"connect_timeout": "3s"}), &[HOST, OTHER])));
    assert_eq!(flags(&mut sim), "/failed_active_hc /failed_active_hc");
    app.set(200, &[], "");
    seconds(&mut sim, 1);
    assert_eq!(flags(&mut sim), "/failed_active_hc healthy", "the first success of a host is enough, of one that was ill it is not");
    // A host that is named no more is not checked any more.
    sim.command(0, Command::Config(with(json!({}), &[OTHER])));
    sim.run();
    app.asked();
    seconds(&mut sim, 10);
    assert_eq!(app.asked(), 2);
    // Without checks nothing of theirs is held against anybody.
    app.set(500, &[], "");
    seconds(&mut sim, 5);
    let ignoring = json!({"common_lb_config": {"healthy_panic_threshold": {}, "ignore_new_hosts_until_first_hc": true}});
    sim.command(0, Command::Config(with(ignoring, &[OTHER, HOST])));
    assert_eq!(flags(&mut sim), "/failed_active_hc /failed_active_hc/pending_active_hc");
    seconds(&mut sim, 1);
    assert_eq!(flags(&mut sim), "/failed_active_hc /failed_active_hc");
    sim.command(0, Command::Config(client(&[cluster(CLUSTER, "reviews", json!({})), assignment(CLUSTER, &[HOST], false)])));
    app.set(200, &[], "");
    assert_eq!(status(&call(&mut sim, &get("/", ""))), "200");
    assert_eq!(flags(&mut sim), "healthy");
    app.asked();
    seconds(&mut sim, 60);
    assert_eq!(app.asked(), 0);
    sim.command(0, Command::Drain(None));
    seconds(&mut sim, 60);
    assert_eq!(sim.connections(0), 0);
}

#[test]
fn names_are_resolved_for_checks() {
    let app = App::default();
    app.set(200, &[], "");
    let hosts = json!({"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "a.example", "port_value": 80}}}}]}]});
    let more = json!({"type": "STRICT_DNS", "load_assignment": hosts, "eds_cluster_config": null});
    let (kind, mut value) = checked(&http(json!({}), json!({})), more);
    value.as_object_mut().unwrap().remove("eds_cluster_config");
    let mut sim = mesh_with(3, client(&[(kind, value)]), &Inbound::default());
    sim.names.insert("a.example".to_owned(), vec!["10.0.0.9".parse().unwrap()]);
    sim.serve(HOST, app.serve());
    seconds(&mut sim, 1);
    assert_eq!((flags(&mut sim).as_str(), app.asked()), ("healthy", 1));
}

#[test]
fn a_check_ends_an_ejection() {
    let app = App::default();
    app.set(200, &[], "");
    let more = |ends: bool| {
        let outlier = json!({"consecutive_5xx": 1, "max_ejection_percent": 100, "successful_active_health_check_uneject_host": ends});
        json!({"outlier_detection": outlier})
    };
    for (ends, expected) in [(true, "healthy"), (false, "/failed_outlier_check")] {
        let mut sim = sim_of(&http(json!({}), json!({})), more(ends), &app);
        seconds(&mut sim, 1);
        app.set(500, &[], "");
        assert_eq!(status(&call(&mut sim, &get("/", ""))), "500");
        assert_eq!(flags(&mut sim), "/failed_outlier_check");
        app.set(200, &[], "");
        seconds(&mut sim, 5);
        assert_eq!(flags(&mut sim), expected);
    }
}
