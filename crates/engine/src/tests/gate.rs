//! Connections about which an authorization service is asked.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::ResourceKind;
use mizzen_protos::envoy::{envoy::service::auth::v3 as auth, google::rpc};
use prost::Message;
use serde_json::{Value, json};

use super::{calls::app, mesh::*};
use crate::{Command, metrics::Value::Counter, sim::Sim};

const TO: &str = "10.96.0.2:6379";

/// The shadow of rules and who is asked about what they match, as a control plane sends them.
fn asking(principals: &Value, more: &Value) -> Vec<Value> {
    let rbac = json!({"name": "envoy.filters.network.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "tcp.",
        "shadow_rules_stat_prefix": "istio_ext_authz_",
        "shadow_rules": {"action": "DENY", "policies": {"istio-ext-authz-p-rule": {"permissions": [{"any": true}], "principals": [principals]}}}}});
    let mut ask = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz", "stat_prefix": "tcp.",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "0.1s"}, "transport_api_version": "V3",
        "filter_enabled_metadata": {"filter": "envoy.filters.network.rbac", "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": "istio-ext-authz-p"}}}});
    for (key, value) in more.as_object().unwrap() {
        ask[key] = value.clone();
    }
    vec![rbac, json!({"name": "envoy.filters.network.ext_authz", "typed_config": ask})]
}

fn service() -> (ResourceKind, Value) {
    let endpoint = json!({"endpoint": {"address": {"socket_address": {"address": "10.0.0.8", "port_value": 9000}}}});
    let mut value = json!({"name": "authz", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "authz", "endpoints": [{"lb_endpoints": [endpoint]}]}});
    for (key, field) in http_options("h2").as_object().unwrap() {
        value[key] = field.clone();
    }
    (ResourceKind::Cluster, value)
}

/// A mesh whose server's proxy has these filters; and what the service is asked. `None`: it never answers.
fn start(filters: Vec<Value>, code: Option<i32>) -> (Sim, Rc<RefCell<Vec<auth::CheckRequest>>>) {
    let options = Inbound { tcp: filters, ..Inbound::default() };
    let mut sim = mesh(3, &options);
    sim.command(1, Command::Config(put(&server_config(&Inbound::default()), &[service(), inbound(&options)])));
    sim.run();
    let asked: Rc<RefCell<Vec<auth::CheckRequest>>> = Rc::default();
    let seen = asked.clone();
    match code {
        None => sim.serve("10.0.0.8:9000", Box::new(|_, _, _, _| false)),
        Some(code) => sim.serve(
            "10.0.0.8:9000",
            app(move |_, body| {
                seen.borrow_mut().push(auth::CheckRequest::decode(&body[5..]).unwrap());
                let status = Some(rpc::Status { code, ..rpc::Status::default() });
                let message = auth::CheckResponse { status, ..auth::CheckResponse::default() }.encode_to_vec();
                let mut out = vec![0];
                out.extend((message.len() as u32).to_be_bytes());
                out.extend(message);
                let mut response = Head::response(200);
                response.set("content-type", "application/grpc");
                response.set("grpc-status", "0");
                (response, out)
            }),
        ),
    }
    (sim, asked)
}

fn anybody() -> Value {
    json!({"any": true})
}

#[test]
fn the_answer_lets_it_in_or_not() {
    let check = |principals: Value, more: Value, code: Option<i32>, served: bool, asked: usize, details: &str| {
        let (mut sim, seen) = start(asking(&principals, &more), code);
        let client = sim.connect(0, TO);
        sim.send(client, b"hello");
        // All that it has to say may be said before the answer is there.
        sim.finish(client);
        sim.run_for(Duration::from_secs(1));
        let context = format!("{principals} {more} {code:?}");
        assert_eq!(sim.received(client) == b"hello", served, "{context}");
        assert!(sim.ended(client).is_some(), "{context}");
        assert_eq!(seen.borrow().len(), asked, "{context}");
        for question in seen.borrow().iter() {
            let attributes = question.attributes.clone().unwrap();
            assert_eq!(attributes.source.unwrap().principal, "spiffe://cluster.local/ns/shop/sa/storefront");
            assert_eq!(attributes.destination.unwrap().principal, "spiffe://cluster.local/ns/shop/sa/reviews");
            assert!(attributes.request.is_none(), "there is none on TCP");
        }
        let line = lines(&sim.log(1)).pop().unwrap();
        assert_eq!(line["termination"].as_str().unwrap_or_default(), details, "{context}: {line}");
        assert_eq!(line["response_flags"] == "UAEX", !served, "{context}: {line}");
        assert_clean(&mut sim);
        assert_eq!(sim.connections(0), 0, "{context}");
    };
    check(anybody(), json!({}), Some(0), true, 1, "");
    check(anybody(), json!({}), Some(7), false, 1, "ext_authz_denied");
    check(anybody(), json!({}), None, false, 0, "ext_authz_error");
    check(anybody(), json!({"failure_mode_allow": true}), None, true, 0, "");
    check(anybody(), json!({"failure_mode_allow": true}), Some(16), false, 1, "ext_authz_denied");
    // What the rules do not match is not asked about.
    let nobody = from("nobody")["principals"][0].clone();
    check(nobody, json!({}), Some(7), true, 0, "");
}

#[test]
fn policies_after_it_hold_whatever_the_answer_is() {
    let mut filters = asking(&anybody(), &json!({}));
    filters.push(network_rbac("DENY", json!({"no": from("storefront")})));
    let (mut sim, seen) = start(filters, Some(0));
    let client = sim.connect(0, TO);
    sim.send(client, b"hello");
    sim.run_for(Duration::from_secs(1));
    assert!(sim.received(client).is_empty() && sim.ended(client).is_some());
    assert_eq!(seen.borrow().len(), 1);
    let line = lines(&sim.log(1)).pop().unwrap();
    assert_eq!(line["termination"], "rbac_access_denied_matched_policy[no]");
    let snapshot = sim.snapshot(1);
    let decisions = snapshot.series.iter().filter(|series| series.name == "mizzen_authorization_decisions_total");
    let mut decisions: Vec<String> = decisions
        .map(|series| {
            assert_eq!(series.value, Counter(1));
            series.labels.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" ")
        })
        .collect();
    decisions.sort();
    assert_eq!(decisions, ["istio-ext-authz-p-rule asked", "no denied"]);
}

#[test]
fn who_leaves_meanwhile_is_forgotten() {
    let (mut sim, _) = start(asking(&anybody(), &json!({})), None);
    let client = sim.connect(0, TO);
    sim.send(client, b"hello");
    sim.run_for(Duration::from_millis(50));
    assert!(sim.received(client).is_empty() && sim.ended(client).is_none());
    sim.abort(client);
    sim.run();
    sim.run_for(Duration::from_secs(1));
    assert_clean(&mut sim);
    assert_eq!(sim.connections(0), 0);
}

#[test]
fn filters_that_change_meanwhile_are_asked_again() {
    let (mut sim, seen) = start(asking(&anybody(), &json!({})), None);
    let client = sim.connect(0, TO);
    sim.send(client, b"hello");
    sim.finish(client);
    sim.run_for(Duration::from_millis(50));
    // Nobody has to be asked any more.
    sim.command(1, Command::Config(put(&server_config(&Inbound::default()), &[service()])));
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.received(client), b"hello");
    assert!(seen.borrow().is_empty());
    assert_clean(&mut sim);
}

/// A dry run is recorded, and decides nothing.
#[test]
fn dry_runs_are_counted() {
    let rbac = json!({"name": "envoy.filters.network.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "tcp.",
        "shadow_rules_stat_prefix": "istio_dry_run_deny_", "shadow_rules": {"action": "DENY", "policies": {"p": from("storefront")}}}});
    let (mut sim, _) = start(vec![rbac], Some(7));
    let client = sim.connect(0, TO);
    sim.send(client, b"hello");
    sim.finish(client);
    sim.run();
    assert_eq!(sim.received(client), b"hello");
    let snapshot = sim.snapshot(1);
    let found = snapshot.series.iter().find(|series| series.name == "mizzen_authorization_decisions_total").unwrap();
    assert_eq!(found.labels.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["p", "would_deny"]);
}

/// Whoever is refused is told why, if the proxy's node says in which header.
#[test]
fn a_client_may_be_told() {
    let check = |header: Option<&str>, filters: Vec<Value>, path: &str, expected: Option<&str>| {
        let mut sim = Sim::new(1, wall());
        sim.proxy("10.0.0.1", node("storefront", "10.0.0.1"), client_config(secrets("storefront")));
        let mut server = node("reviews", "10.0.0.2");
        if let Some(name) = header {
            let value = mizzen_protos::wkt::Value { kind: Some(mizzen_protos::wkt::value::Kind::StringValue(name.to_owned())) };
            server.metadata.fields.insert("MIZZEN_DENIAL_HEADER".to_owned(), value);
        }
        sim.proxy("10.0.0.2", server, server_config(&Inbound { http: filters, ..Inbound::default() }));
        sim.serve("10.0.0.2:9080", super::calls::echo_app());
        let text = super::calls::call(&mut sim, &super::calls::get(path, ""));
        let told = text.lines().find_map(|line| line.strip_prefix("x-why: "));
        assert_eq!(told, expected, "{header:?} {path}: {text}");
    };
    let allow = |path: &str| {
        let permission = json!({"url_path": {"path": {"exact": path}}});
        vec![http_rbac("ALLOW", json!({"p": {"permissions": [permission], "principals": [{"any": true}]}}))]
    };
    check(None, allow("/a"), "/b", None);
    check(Some("X-Why"), allow("/a"), "/a", None);
    check(Some("X-Why"), allow("/a"), "/b", Some("no policy allows it; nearest is p: path is \"/a\" (it is \"/b\")"));
    check(Some("no header"), allow("/a"), "/b", None);
    check(Some("x-why"), vec![http_rbac("DENY", json!({"no": from("storefront")}))], "/b", Some("denied by no"));
}
