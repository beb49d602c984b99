//! What policies say.

use std::sync::Arc;

use mizzen_api::{
    Meta, Object,
    istio::{IssuerKeys, JwksBy, MeshConfig},
};
use mizzen_model::{Change, Snapshot};

use super::{check, explain, object, shop, shop_with};
use crate::{Side, StepKind, Verdict};

const ALLOW: &str = "{selector: {matchLabels: {app: reviews}}, rules: [
  {from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {methods: [GET], paths: [/api/*]}}]}]}";

#[test]
fn allow() {
    let snapshot = shop(&[object("AuthorizationPolicy", "web", ALLOW)]);
    check(
        &snapshot,
        &[
            ("shop/web GET reviews:9080/api/1", "outbound|9080||reviews [shop/v1 shop/v2] = delivered"),
            ("shop/web POST reviews:9080/api/1", "outbound|9080||reviews [shop/v1 shop/v2] = denied by none"),
            ("visit/guest GET reviews.shop:9080/api/1", "outbound|9080||reviews [shop/v1 shop/v2] = denied by none"),
            ("shop/legacy GET reviews:9080/api/1", "reviews:9080 [shop/v1 shop/v2] = denied by none"),
            ("shop/web GET ratings:9080/", "outbound|9080||ratings [shop/ratings] = delivered"),
        ],
    );
    let explanation = explain(&snapshot, "shop/web POST reviews:9080/api/1");
    let Verdict::Denied { policy: None, why } = &explanation.verdict else { panic!("{explanation}") };
    assert!(why.contains("nearest is ns[shop]-policy[web]-rule[0]") && why.contains("POST"), "{why}");
    let server = explanation.hop.ways[0].to[0].next.as_ref().unwrap();
    assert_eq!(server.side, Side::Inbound);
    let kinds: Vec<StepKind> = server.steps.iter().map(|step| step.step).collect();
    let expected = [StepKind::Listener, StepKind::Chain, StepKind::Tls, StepKind::Route, StepKind::Policy];
    assert_eq!(kinds, expected, "{explanation}");
}

#[test]
fn deny_before_allow() {
    let deny = object("AuthorizationPolicy", "no-admin", "{action: DENY, rules: [{to: [{operation: {paths: [/api/admin*]}}]}]}");
    let rewrite = object(
        "VirtualService",
        "reviews",
        "{hosts: [reviews], http: [{match: [{uri: {exact: /back}}], rewrite: {uri: /api/admin}, route: [{destination: {host: reviews}}]}, \
         {route: [{destination: {host: reviews}}]}]}",
    );
    let denied = "outbound|9080||reviews [shop/v1 shop/v2] = denied by ns[shop]-policy[no-admin]-rule[0]";
    check(
        &shop(&[object("AuthorizationPolicy", "web", ALLOW), deny, rewrite]),
        &[
            ("shop/web GET reviews:9080/api/admin", denied),
            ("shop/web GET reviews:9080/api/%61dmin", denied),
            // As the server sees it.
            ("shop/web GET reviews:9080/back", denied),
            ("shop/web GET reviews:9080/api/1", "outbound|9080||reviews [shop/v1 shop/v2] = delivered"),
        ],
    );
}

#[test]
fn connections() {
    let policy =
        "{selector: {matchLabels: {app: stock}}, rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ['6379']}}]}]}";
    check(
        &shop(&[object("AuthorizationPolicy", "stock", policy)]),
        &[
            ("shop/web TCP stock:6379", "outbound|6379||stock [shop/stock] = delivered"),
            ("visit/guest TCP stock.shop:6379", "outbound|6379||stock [shop/stock] = denied by none"),
            ("shop/legacy TCP stock:6379", "stock:6379 [shop/stock] = denied by none"),
        ],
    );
}

/// The connection's own address counts, whatever a header says.
#[test]
fn addresses() {
    let policy = "{selector: {matchLabels: {app: ratings}}, action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.22/32]}}]}]}";
    let to = "outbound|9080||ratings [shop/ratings]";
    check(
        &shop(&[object("AuthorizationPolicy", "far", policy)]),
        &[
            ("shop/web GET ratings:9080/", &format!("{to} = delivered")),
            ("shop/web GET ratings:9080/ x-forwarded-for=10.0.0.22", &format!("{to} = delivered")),
            ("visit/guest GET ratings.shop:9080/", &format!("{to} = denied by ns[shop]-policy[far]-rule[0]")),
        ],
    );
}

/// One endpoint's policy is not the other's.
#[test]
fn it_depends() {
    let policy = "{selector: {matchLabels: {version: v2}}, action: DENY, rules: [{}]}";
    let explanation = explain(&shop(&[object("AuthorizationPolicy", "v2", policy)]), "shop/web GET reviews:9080/");
    let Verdict::Differs { verdicts } = &explanation.verdict else { panic!("{explanation}") };
    assert_eq!(verdicts.len(), 2);
    assert_eq!(explanation.hop.ways[0].to[0].verdict, Some(Verdict::Delivered));
    assert!(matches!(explanation.hop.ways[0].to[1].verdict, Some(Verdict::Denied { .. })));
}

#[test]
fn somebody_else_is_asked() {
    let mesh = "extensionProviders: [{name: judge, envoyExtAuthzHttp: {service: ratings.shop.svc.cluster.local, port: 9080}}]";
    let custom = "{selector: {matchLabels: {app: reviews}}, action: CUSTOM, provider: {name: judge}, rules: [{to: [{operation: {paths: [/asked*]}}]}]}";
    let deny = "{selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{to: [{operation: {paths: [/asked/never]}}]}]}";
    let snapshot = shop_with(mesh, &[object("AuthorizationPolicy", "ask", custom), object("AuthorizationPolicy", "never", deny)]);
    let to = "outbound|9080||reviews [shop/v1 shop/v2]";
    check(
        &snapshot,
        &[
            ("shop/web GET reviews:9080/", &format!("{to} = delivered")),
            ("shop/web GET reviews:9080/asked", &format!("{to} = unknown")),
            ("shop/web GET reviews:9080/asked outside=true", &format!("{to} = delivered")),
            ("shop/web GET reviews:9080/asked outside=false", &format!("{to} = denied by outbound|9080||ratings.shop.svc.cluster.local")),
            // Whatever the answer is.
            ("shop/web GET reviews:9080/asked/never", &format!("{to} = denied by ns[shop]-policy[never]-rule[0]")),
        ],
    );
}

/// Of issuer `a`, about `ann`, good until 2,000,000,000; who has the key has thrown it away.
const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJhIiwic3ViIjoiYW5uIiwiZXhwIjoyMDAwMDAwMDAwfQ.6cAfrLu2NZst0D39Jm31Jmc82v9Zs4tMoqf2caI-wHjJEXJkcqOWVXV5DAXe_Grcmc7roV99BHXLV_LfD7dfBA";
const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"xdP_Bu4LNw12p2wI8rqMu_BvKwxF4bVERgZsHRvj4sM"}]}"#;

#[test]
fn tokens() {
    let users = |issuer: &str, keys: &str| {
        let spec = format!(
            "{{selector: {{matchLabels: {{app: reviews}}}}, jwtRules: [{{issuer: {issuer}, {keys}, fromHeaders: [{{name: x-token}}]}}]}}"
        );
        object("RequestAuthentication", "users", &spec)
    };
    let to = "outbound|9080||reviews [shop/v1 shop/v2]";
    let call = |more: &str| format!("shop/web GET reviews:9080/ {more}").trim_end().to_owned();
    let good = call(&format!("x-token={TOKEN} at=1999999999"));
    let check = |snapshot: &Arc<Snapshot>, call: &str, end: &str| check(snapshot, &[(call, &format!("{to} = {end}"))]);
    let snapshot = shop(&[users("a", &format!("jwks: '{KEYS}'"))]);
    check(&snapshot, &call(""), "delivered");
    check(&snapshot, &good, "delivered");
    check(&snapshot, &call(&format!("x-token={TOKEN}")), "unknown");
    check(&snapshot, &call(&format!("x-token={TOKEN} at=2000000061")), "401");
    check(&snapshot, &call("x-token=a.b.c at=1"), "401");
    check(&shop(&[users("b", &format!("jwks: '{KEYS}'"))]), &good, "401");
    // Keys that nobody has fetched let nobody in, whose token it may be; those that the control plane has fetched count.
    let url = "https://a.example/keys";
    let fetched = |snapshot: &Arc<Snapshot>, name: &str| {
        let meta = Meta { name: name.into(), ..Meta::default() };
        snapshot.apply([Change::Apply(Arc::new(Object::IssuerKeys(IssuerKeys { meta, keys: KEYS.to_owned() })))])
    };
    let outer = shop(&[users("a", &format!("jwksUri: '{url}'"))]);
    check(&outer, &good, "401");
    check(&fetched(&outer, "https://b.example/keys"), &good, "401");
    check(&fetched(&outer, url), &good, "delivered");
    check(&fetched(&outer, url), &call("x-token=a.b.c at=1"), "401");
    // Where the proxy asks for itself, nobody knows what it got; it is taken to be what the control plane got, if that has asked too.
    let url = "http://ratings.shop.svc.cluster.local:9080/keys";
    let inner = shop(&[users("a", &format!("jwksUri: '{url}'"))]);
    let mesh = MeshConfig { jwks_by: JwksBy::Hybrid, ..(**inner.mesh()).clone() };
    let inner = inner.apply([Change::Apply(Arc::new(mesh.into()))]);
    check(&inner, &good, "unknown");
    check(&fetched(&inner, url), &good, "delivered");
    check(&fetched(&inner, url), &call(&format!("x-token={TOKEN} at=2000000061")), "401");
    let text = explain(&snapshot, &call(&format!("x-token={TOKEN} at=2000000061"))).to_string();
    assert!(text.contains("it has expired 61 s ago (clocks may differ by 60 s)"), "{text}");
    assert!(text.contains("request authentication: "), "{text}");
}

/// The whole result can be written as JSON, and read as text.
#[test]
fn told() {
    let explanation = explain(&shop(&[object("AuthorizationPolicy", "web", ALLOW)]), "visit/guest GET reviews.shop:9080/api/1");
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["verdict"]["result"], "denied");
    assert_eq!(json["hop"]["ways"][0]["to"][0]["security"]["mode"], "mutualTls");
    assert_eq!(json["hop"]["ways"][0]["to"][0]["next"]["side"], "inbound");
    let call: crate::Call = serde_json::from_value(json["call"].clone()).unwrap();
    assert_eq!(call, explanation.call);
    let text = explanation.to_string();
    for line in [
        "visit/guest: GET http://reviews.shop:9080/api/1\n=> denied: no policy allows it; nearest is ns[shop]-policy[web]-rule[0]: ",
        "outbound, at visit/guest: denied",
        "  listener: 0.0.0.0_9080 for 10.96.0.11:9080",
        "  to outbound|9080||reviews.shop.svc.cluster.local: denied",
        "    10.0.0.11:8080 (shop/v1), mutual TLS as spiffe://cluster.local/ns/visit/sa/guest",
        "      inbound, at shop/v1: denied",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}
