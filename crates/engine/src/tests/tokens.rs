//! Tokens of requests: checked, remembered, and what they say.

use std::{cell::RefCell, rc::Rc, sync::LazyLock, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use mizzen_http::Head;
use mizzen_ir::ResourceKind;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::{Command, metrics, sim::Sim};

static KEYS: LazyLock<[Ed25519KeyPair; 2]> = LazyLock::new(|| std::array::from_fn(|_| Ed25519KeyPair::generate().unwrap()));

/// The key set of one of the two keys.
fn keys(at: usize) -> String {
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": B64.encode(KEYS[at].public_key().as_ref())}]}).to_string()
}

/// A token that one of the two keys has signed, good for so many seconds.
fn token(at: usize, seconds: u64, more: Value) -> String {
    let mut claims = json!({"iss": "a", "sub": "ann", "exp": wall().as_secs() + seconds});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let text = format!("{}.{}", B64.encode(r#"{"alg":"EdDSA"}"#), B64.encode(claims.to_string()));
    format!("{text}.{}", B64.encode(KEYS[at].sign(text.as_bytes()).as_ref()))
}

fn authn(source: Value) -> Value {
    let mut provider = json!({"issuer": "a", "payload_in_metadata": "payload", "clear_route_cache": true, "claim_to_headers": [{"header_name": "x-user", "claim_name": "sub"}]});
    for (name, value) in source.as_object().unwrap() {
        provider[name] = value.clone();
    }
    let either = json!({"requires_any": {"requirements": [{"provider_name": "origins-0"}, {"allow_missing": {}}]}});
    json!({"name": "jwt", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"origins-0": provider}, "rules": [{"match": {"prefix": "/"}, "requires": either}],
        "requirement_map": {"must": {"provider_name": "origins-0"}}}})
}

fn here(at: usize) -> Value {
    authn(json!({"local_jwks": {"inline_string": keys(at)}}))
}

fn claim(path: &[&str], value: Value) -> Value {
    let path: Vec<Value> = ["payload"].iter().chain(path).map(|key| json!({"key": key})).collect();
    json!({"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value})
}

fn resources(filters: &[Value], more: &[(ResourceKind, Value)]) -> Vec<(ResourceKind, Value)> {
    let chains = json!({"bind_to_port": false, "filter_chains": [{"filters": [hcm(false, json!("9080"), filters)]}]});
    let mut all = vec![listener("0.0.0.0_9080", "0.0.0.0", 9080, "OUTBOUND", chains)];
    all.extend_from_slice(more);
    all
}

fn with_filters(filters: &[Value], more: &[(ResourceKind, Value)]) -> Sim {
    with_app(mesh_with(3, client(&resources(filters, more)), &Inbound::default()))
}

fn ask(sim: &mut Sim, path: &str, token: &str) -> String {
    call(sim, &get(path, &if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") }))
}

fn counted(sim: &mut Sim) -> String {
    let series = sim.snapshot(0).series;
    let mut all: Vec<String> = series
        .iter()
        .filter_map(|s| match (s.name.strip_prefix("envoy_http_jwt_authn_"), &s.value) {
            (Some(name), metrics::Value::Counter(n)) => Some(format!("{name}={n}")),
            _ => None,
        })
        .collect();
    all.sort();
    all.join(" ")
}

#[test]
fn refusals() {
    let must =
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", "requirement_name": "must"});
    let wrong = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", "requirement_name": "x"});
    let off = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", "disabled": true});
    let of = |prefix: &str, what: Value| json!({"name": prefix, "match": {"prefix": prefix}, "route": {"cluster": CLUSTER}, "typed_per_filter_config": what});
    let table = routes(
        "9080",
        json!([
            of("/must", json!({"jwt": must})),
            of("/wrong", json!({"jwt": wrong})),
            of("/off", json!({"jwt": off})),
            of("/", json!({}))
        ]),
    );
    let mut sim = with_filters(&[here(0)], &[(ResourceKind::Route, table)]);
    let (good, bad) = (token(0, 100, json!({})), token(1, 100, json!({})));
    for (path, token, code, body, details) in [
        ("/x?y=1", &*good, "200", "", "via_upstream"),
        ("/x", "", "200", "", "via_upstream"),
        ("/x?y=1", &bad, "401", "Jwt verification fails", "jwt_authn_access_denied{Jwt_verification_fails}"),
        ("/must/it", "", "401", "Jwt is missing", "jwt_authn_access_denied{Jwt_is_missing}"),
        ("/must", &good, "200", "", "via_upstream"),
        ("/wrong", &good, "403", "Failed JWT authentication", "jwt_authn_access_denied"),
        ("/off", &bad, "200", "", "via_upstream"),
    ] {
        let text = ask(&mut sim, path, token);
        assert_eq!(status(&text), code, "{path}: {text}");
        if code == "200" {
            assert_eq!(text.contains("\"x-user\": \"ann\""), !token.is_empty() && path != "/off", "{text}");
            assert_eq!(text.contains("authorization"), path == "/off", "it is not forwarded: {text}");
        } else {
            assert!(text.ends_with(body), "{text}");
            let error = if body == "Jwt is missing" { "" } else { ", error=\"invalid_token\"" };
            let bare = path.split('?').next().unwrap();
            let realm = format!("www-authenticate: Bearer realm=\"http://reviews:9080{bare}\"{error}\r\n");
            assert_eq!(text.contains(&realm), code == "401", "{text}");
        }
        let line = lines(&sim.log(0)).pop().unwrap();
        assert_eq!(line["response_code_details"], details, "{line}");
    }
    assert_eq!(counted(&mut sim), "allowed=3 denied=3 jwt_cache_hit=1 jwt_cache_miss=2");
    assert_clean(&mut sim);
}

#[test]
fn a_token_is_remembered_as_long_as_it_is_good() {
    let base = client(&resources(&[here(0)], &[]));
    let mut sim = with_app(mesh_with(3, base.clone(), &Inbound::default()));
    let (good, short) = (token(0, 3600, json!({})), token(0, 1, json!({"sub": "bob"})));
    let check = |sim: &mut Sim, token: &str, code: &str, counts: &str| {
        let text = ask(sim, "/", token);
        assert_eq!((status(&text), counted(sim).as_str()), (code, counts), "{text}");
    };
    check(&mut sim, &good, "200", "allowed=1 jwt_cache_miss=1");
    check(&mut sim, &good, "200", "allowed=2 jwt_cache_hit=1 jwt_cache_miss=1");
    check(&mut sim, &short, "200", "allowed=3 jwt_cache_hit=1 jwt_cache_miss=2");
    // One whose time is over is looked at twice: as one of the issuer, and as one where there may be none.
    // 60 s are for clocks that differ; after that it does not help that it is known.
    sim.run_for(Duration::from_secs(59));
    check(&mut sim, &short, "200", "allowed=4 jwt_cache_hit=2 jwt_cache_miss=2");
    sim.run_for(Duration::from_secs(3));
    check(&mut sim, &short, "401", "allowed=4 denied=1 jwt_cache_hit=4 jwt_cache_miss=2");
    check(&mut sim, &good, "200", "allowed=5 denied=1 jwt_cache_hit=5 jwt_cache_miss=2");
    // Other keys: what the old ones have signed is worth nothing from the first request on.
    sim.command(0, Command::Config(put(&base, &resources(&[here(1)], &[]))));
    check(&mut sim, &good, "401", "allowed=5 denied=2 jwt_cache_hit=5 jwt_cache_miss=3");
    check(&mut sim, &token(1, 3600, json!({})), "200", "allowed=6 denied=2 jwt_cache_hit=5 jwt_cache_miss=4");
    assert_clean(&mut sim);
}

#[test]
fn claims_decide() {
    let exact = |text: &str| json!({"string_match": {"exact": text}});
    let policy = json!({"permissions": [{"any": true}], "principals": [{"metadata": claim(&["groups"], json!({"list_match": {"one_of": exact("staff")}}))}]});
    let route = |name: &str, more: Value, code: u64| {
        let mut matching = json!({"prefix": "/"});
        for (key, value) in more.as_object().unwrap() {
            matching[key] = value.clone();
        }
        json!({"name": name, "match": matching, "direct_response": {"status": code}})
    };
    let table = routes(
        "9080",
        json!([
            route("team", json!({"dynamic_metadata": [claim(&["work", "team"], exact("red"))]}), 201),
            route(
                "not",
                json!({"dynamic_metadata": [json!({"filter": "envoy.filters.http.jwt_authn", "invert": true, "path": [{"key": "payload"}, {"key": "sub"}], "value": exact("ann")})]}),
                202
            ),
            route("rest", json!({}), 203),
        ]),
    );
    let mut sim = with_filters(&[here(0), http_rbac("ALLOW", json!({"staff": policy}))], &[(ResourceKind::Route, table)]);
    for (claims, code) in [
        (json!({"groups": ["staff"], "work": {"team": "red"}}), "201"),
        (json!({"groups": ["x", "staff"], "work": {"team": "blue"}}), "203"),
        (json!({"groups": ["staff"], "work": "red"}), "203"),
        (json!({"groups": ["staff"], "sub": "bob"}), "202"),
        (json!({"groups": ["nobody"], "work": {"team": "red"}}), "403"),
        (json!({"groups": {"staff": "staff"}}), "403"),
        (json!({}), "403"),
    ] {
        let text = ask(&mut sim, "/", &token(0, 100, claims.clone()));
        assert_eq!(status(&text), code, "{claims}: {text}");
    }
    assert_eq!(status(&ask(&mut sim, "/", "")), "403");
    assert_clean(&mut sim);
}

fn keys_cluster() -> (ResourceKind, Value) {
    let endpoint = json!({"endpoint": {"address": {"socket_address": {"address": "10.0.0.8", "port_value": 9000}}}});
    let mut value = json!({"name": "keys", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "keys", "endpoints": [{"lb_endpoints": [endpoint]}]}});
    for (key, field) in http_options("h1").as_object().unwrap() {
        value[key] = field.clone();
    }
    (ResourceKind::Cluster, value)
}

#[test]
fn keys_that_are_fetched() {
    let remote = authn(
        json!({"remote_jwks": {"http_uri": {"uri": "http://keys.example/jwks", "cluster": "keys", "timeout": "1s"}, "cache_duration": "100s"}}),
    );
    let mut sim = with_filters(&[remote], &[keys_cluster()]);
    let state: Rc<RefCell<(usize, usize, u16)>> = Rc::new(RefCell::new((0, 0, 200)));
    let seen = state.clone();
    let serve = app(move |head, _| {
        assert_eq!((head.method(), head.path(), head.authority(), head.contains("authorization")), ("GET", "/jwks", "keys.example", false));
        let (asked, key, status) = &mut *seen.borrow_mut();
        *asked += 1;
        let body = if *status == 201 { "{}".to_owned() } else { keys(*key) };
        let mut response = Head::response(if *status == 201 { 200 } else { *status });
        response.set("content-length", body.len().to_string());
        (response, body.into_bytes())
    });
    // Nobody is there: no token passes, and what bears none does.
    let (old, new) = (token(0, 10_000, json!({})), token(1, 10_000, json!({})));
    let text = ask(&mut sim, "/", &old);
    assert!(status(&text) == "401" && text.ends_with("Jwks remote fetch is failed"), "{text}");
    assert_eq!(status(&ask(&mut sim, "/", "")), "200");
    sim.serve("10.0.0.8:9000", serve);
    assert_eq!(status(&ask(&mut sim, "/", &old)), "401", "it is not asked again at once");
    sim.run_for(Duration::from_secs(1));
    // Many at once ask once.
    let clients: Vec<usize> = (0..5).map(|_| sim.connect(0, TO)).collect();
    let request = get("/", &format!("authorization: Bearer {old}\r\n"));
    clients.iter().for_each(|client| sim.send(*client, &request));
    sim.run_for(Duration::from_millis(500));
    for client in clients {
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200");
        sim.abort(client);
    }
    assert_eq!(state.borrow().0, 1);
    assert_eq!(status(&ask(&mut sim, "/", &new)), "401");
    // The keys change at the issuer: they are known when the old ones have had their time.
    state.borrow_mut().1 = 1;
    sim.run_for(Duration::from_secs(101));
    assert_eq!((status(&ask(&mut sim, "/", &new)), status(&ask(&mut sim, "/", &old)), state.borrow().0), ("200", "401", 2));
    // The issuer fails in one way or another: the last good keys do.
    for broken in [503, 201] {
        state.borrow_mut().2 = broken;
        sim.run_for(Duration::from_secs(101));
        assert_eq!((status(&ask(&mut sim, "/", &new)), status(&ask(&mut sim, "/", &old))), ("200", "401"), "{broken}");
    }
    assert_eq!(state.borrow().0, 4);
    let counts = counted(&mut sim);
    assert!(counts.contains("jwks_fetch_failed=3 jwks_fetch_success=2"), "{counts}");
    assert_clean_but_connections(&mut sim);
}

/// A token by a key that the issuer has had for a shorter time than its old ones are kept: it is asked again, and not by every such token.
#[test]
fn a_key_that_is_not_known_is_asked_for_early() {
    let keys_by_name = |names: &[usize]| {
        let key =
            |at: &usize| json!({"kty": "OKP", "crv": "Ed25519", "kid": format!("k{at}"), "x": B64.encode(KEYS[*at].public_key().as_ref())});
        json!({"keys": names.iter().map(key).collect::<Vec<_>>()}).to_string()
    };
    let by_name = |kid: &str, at: usize| {
        let text = format!("{}.{}", B64.encode(json!({"alg": "EdDSA", "kid": kid}).to_string()), B64.encode(r#"{"iss":"a","sub":"ann"}"#));
        format!("{text}.{}", B64.encode(KEYS[at].sign(text.as_bytes()).as_ref()))
    };
    let remote = authn(
        json!({"remote_jwks": {"http_uri": {"uri": "http://keys.example/jwks", "cluster": "keys", "timeout": "1s"}, "cache_duration": "1000s"}}),
    );
    let mut sim = with_filters(&[remote], &[keys_cluster()]);
    let state: Rc<RefCell<(usize, Vec<usize>)>> = Rc::new(RefCell::new((0, vec![0])));
    let seen = state.clone();
    let serve = app(move |_, _| {
        let (asked, names) = &mut *seen.borrow_mut();
        *asked += 1;
        let body = keys_by_name(names);
        let mut response = Head::response(200);
        response.set("content-length", body.len().to_string());
        (response, body.into_bytes())
    });
    sim.serve("10.0.0.8:9000", serve);
    let (old, new) = (by_name("k0", 0), by_name("k1", 1));
    let check = |sim: &mut Sim, token: &str, code: &str, asked: usize| {
        assert_eq!((status(&ask(sim, "/", token)), state.borrow().0), (code, asked));
    };
    check(&mut sim, &old, "200", 1);
    // At once after they were fetched nobody asks again, whatever the names are.
    for name in ["k1", "x", "y"] {
        check(&mut sim, &by_name(name, 1), "401", 1);
    }
    sim.run_for(Duration::from_secs(5));
    state.borrow_mut().1 = vec![0, 1];
    // The very request that names it gets through, and those beside it with one question.
    let clients: Vec<usize> = (0..5).map(|_| sim.connect(0, TO)).collect();
    let request = get("/", &format!("authorization: Bearer {new}\r\n"));
    clients.iter().for_each(|client| sim.send(*client, &request));
    sim.run_for(Duration::from_millis(500));
    for client in clients {
        assert_eq!(status(&String::from_utf8_lossy(&sim.received(client))), "200");
        sim.abort(client);
    }
    assert_eq!(state.borrow().0, 2);
    // Names that nobody has cost a question in some seconds; a wrong signature costs none.
    let begun = sim.now().mono;
    for _ in 0..20 {
        sim.run_for(Duration::from_secs(1));
        let before = state.borrow().0;
        check(&mut sim, &by_name("k0", 1), "401", before);
        assert_eq!(status(&ask(&mut sim, "/", &by_name("x", 1))), "401");
        assert_eq!(status(&ask(&mut sim, "/", &by_name("y", 1))), "401");
    }
    let (asked, passed) = (state.borrow().0 - 2, (sim.now().mono - begun).as_secs() as usize);
    assert!((3..=passed / 5 + 1).contains(&asked), "{asked} in {passed} s");
    check(&mut sim, &old, "200", asked + 2);
    assert_clean_but_connections(&mut sim);
}
