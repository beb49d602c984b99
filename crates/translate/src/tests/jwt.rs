//! RequestAuthentication, and routes by claims.

use std::sync::Arc;

use mizzen_api::{
    Key, Kind, Meta, Object,
    istio::{IssuerKeys, JwksBy, MeshConfig},
};
use mizzen_model::{Change, ProxyType, ProxyView, Reader, Snapshot};
use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            listener::v3::{Listener, filter},
            route::v3::RouteConfiguration,
        },
        extensions::filters::{
            http::jwt_authn::v3::{
                JwtAuthentication, JwtProvider, JwtRequirement, jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType,
            },
            network::http_connection_manager::v3::{HttpConnectionManager, HttpFilter, http_filter},
        },
    },
};

use super::{facts, reviews, shop, summary::decode};
use crate::{ResourceKind, build};

const KEYS: &str = r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#;

fn authn(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{kind: RequestAuthentication, apiVersion: security.istio.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}"
    )
}

fn gateway() -> ProxyView {
    facts(ProxyType::Router, "10.0.0.98", "istio-system", &[("istio", "ingressgateway")]).into()
}

const GATEWAY: &str = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: shop, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
";

fn filters(snapshot: &Snapshot, view: &ProxyView, listener: &str) -> Vec<HttpFilter> {
    let any = build(&Reader::new(snapshot), view, ResourceKind::Listener, &listener.into()).unwrap().any;
    let typed = |config: &Option<filter::ConfigType>| match config {
        Some(filter::ConfigType::TypedConfig(any)) => Some(any.clone()),
        _ => None,
    };
    let managers =
        decode::<Listener>(&any).filter_chains.into_iter().flat_map(|chain| chain.filters).filter(|f| f.name.ends_with("manager"));
    managers.filter_map(|f| typed(&f.config_type)).map(|any| decode::<HttpConnectionManager>(&any).http_filters).next().unwrap()
}

fn config(filter: &HttpFilter) -> &Any {
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{} has no configuration", filter.name) };
    any
}

fn jwt(snapshot: &Snapshot, view: &ProxyView, listener: &str) -> Option<JwtAuthentication> {
    let all = filters(snapshot, view, listener);
    all.iter().find(|filter| filter.name == "envoy.filters.http.jwt_authn").map(|filter| decode(config(filter)))
}

fn keys(provider: &JwtProvider) -> String {
    match provider.jwks_source_specifier.as_ref().unwrap() {
        JwksSourceSpecifier::LocalJwks(source) => match source.specifier.as_ref().unwrap() {
            mizzen_protos::envoy::envoy::config::core::v3::data_source::Specifier::InlineString(text) => text.clone(),
            other => panic!("{other:?}"),
        },
        JwksSourceSpecifier::RemoteJwks(remote) => {
            let uri = remote.http_uri.as_ref().unwrap();
            format!("{} by {:?}", uri.uri, uri.http_upstream_type)
        }
    }
}

fn requires(requirement: &JwtRequirement) -> String {
    let list = |list: &[JwtRequirement]| list.iter().map(requires).collect::<Vec<_>>().join(", ");
    match requirement.requires_type.as_ref().unwrap() {
        RequiresType::ProviderName(name) => name.clone(),
        RequiresType::RequiresAny(any) => format!("any({})", list(&any.requirements)),
        RequiresType::RequiresAll(all) => format!("all({})", list(&all.requirements)),
        RequiresType::AllowMissing(_) => "none".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn requirement(jwt: &JwtAuthentication) -> String {
    use mizzen_protos::envoy::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
    let [rule] = &jwt.rules[..] else { panic!("{:?}", jwt.rules) };
    match rule.requirement_type.as_ref().unwrap() {
        RequirementType::Requires(requirement) => requires(requirement),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_of_a_rule() {
    let all = "selector: {matchLabels: {app: reviews}}, jwtRules: [{issuer: a, audiences: [x, z], jwks: 'KEYS', fromHeaders: [{name: X-Token, prefix: 'T '}], \
        fromParams: [p], fromCookies: [c], outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{header: X-User, claim: sub}], \
        forwardOriginalToken: true, spaceDelimitedClaims: [roles, scope]}]";
    let snapshot = shop(&[&authn("users", "shop", &all.replace("KEYS", KEYS))]);
    let jwt = jwt(&snapshot, &reviews(), "virtualInbound").unwrap();
    assert!(jwt.bypass_cors_preflight);
    assert_eq!(requirement(&jwt), "any(origins-0, none)");
    let provider = &jwt.providers["origins-0"];
    assert_eq!((provider.issuer.as_str(), keys(provider)), ("a", KEYS.to_owned()));
    assert_eq!((&provider.audiences[..], provider.forward), (&["x".to_owned(), "z".to_owned()][..], true));
    assert_eq!((provider.from_headers[0].name.as_str(), provider.from_headers[0].value_prefix.as_str()), ("x-token", "T "));
    assert_eq!((&provider.from_params[..], &provider.from_cookies[..]), (&["p".to_owned()][..], &["c".to_owned()][..]));
    assert_eq!((provider.forward_payload_header.as_str(), provider.payload_in_metadata.as_str()), ("x-payload", "payload"));
    assert_eq!((provider.claim_to_headers[0].header_name.as_str(), provider.claim_to_headers[0].claim_name.as_str()), ("x-user", "sub"));
    let split = &provider.normalize_payload_in_metadata.as_ref().unwrap().space_delimited_claims;
    assert_eq!(split[..], ["scope", "permission", "roles"]);
    assert!(!provider.clear_route_cache, "a sidecar has no routes by claims");
}

#[test]
fn all_that_select_a_workload_hold_together() {
    let rule = |issuer: &str| format!("jwtRules: [{{issuer: {issuer}, jwks: '{KEYS}'}}]");
    let issuers = |texts: &[&str], view: &ProxyView, listener: &str| {
        let jwt = jwt(&shop(texts), view, listener)?;
        let mut all: Vec<_> = jwt.providers.iter().map(|(name, provider)| format!("{name}={}", provider.issuer)).collect();
        all.sort();
        Some(format!("{} {}", all.join(" "), requirement(&jwt)))
    };
    let of_reviews = |texts: &[&str]| issuers(texts, &reviews(), "virtualInbound");
    let own = authn("own", "shop", &format!("selector: {{matchLabels: {{app: reviews}}}}, {}", rule("z")));
    let wide = authn("wide", "shop", &rule("m"));
    let root = authn("root", "istio-system", &rule("a"));
    let other = authn("other", "shop", &format!("selector: {{matchLabels: {{app: ratings}}}}, {}", rule("b")));
    let theirs = authn("theirs", "visit", &rule("c"));
    assert_eq!(of_reviews(&[&other, &theirs]), None);
    assert_eq!(of_reviews(&[&authn("empty", "shop", "selector: {matchLabels: {app: reviews}}")]), None);
    assert_eq!(of_reviews(&[&other, &own]).as_deref(), Some("origins-0=z any(origins-0, none)"));
    assert_eq!(
        of_reviews(&[&own, &wide, &root, &theirs]).as_deref(),
        Some(
            "origins-0=a origins-1=m origins-2=z any(origins-0, origins-1, origins-2, \
             all(any(origins-0, none), any(origins-1, none), any(origins-2, none)))"
        )
    );
    let at_gateway = issuers(&[GATEWAY, &root, &wide], &gateway(), "0.0.0.0_80");
    assert_eq!(at_gateway.as_deref(), Some("origins-0=a any(origins-0, none)"));
}

#[test]
fn the_order_of_filters() {
    let provider = "{kind: ConfigMap, apiVersion: v1, metadata: {name: istio, namespace: istio-system}, data: {mesh: \
        'extensionProviders: [{name: ask, envoyExtAuthzHttp: {service: reviews.shop.svc.cluster.local, port: 9080}}]'}}";
    let policy = |name: &str, spec: &str| {
        format!(
            "{{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{{spec}}}}}"
        )
    };
    let snapshot = shop(&[
        provider,
        &policy("ask", "action: CUSTOM, provider: {name: ask}, rules: [{}]"),
        &policy("deny", "action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]"),
        &policy("allow", "rules: [{}]"),
        &authn("users", "shop", &format!("jwtRules: [{{issuer: a, jwks: '{KEYS}'}}]")),
    ]);
    let all = filters(&snapshot, &reviews(), "virtualInbound");
    let names: Vec<&str> =
        all.iter().map(|f| f.name.rsplit('.').next().unwrap()).filter(|n| ["rbac", "ext_authz", "jwt_authn"].contains(n)).collect();
    assert_eq!(names, ["rbac", "ext_authz", "jwt_authn", "rbac", "rbac"]);
}

#[test]
fn keys_that_are_fetched() {
    let by = |by: JwksBy, fetched: bool, spec: &str| {
        let mut snapshot = shop(&[&authn("users", "shop", spec)]);
        let mesh = MeshConfig { jwks_by: by, ..(**snapshot.mesh()).clone() };
        let mut changes = vec![Change::Apply(Arc::new(mesh.into()))];
        for name in [
            "https://keys.example/k",
            "http://reviews.shop.svc.cluster.local:9080/k",
            "openid https://a.example/.well-known/openid-configuration",
        ] {
            let meta = Meta { name: name.into(), ..Meta::default() };
            changes.push(Change::Apply(Arc::new(Object::IssuerKeys(IssuerKeys { meta, keys: format!("keys of {name}") }))));
        }
        if fetched {
            snapshot = snapshot.apply(changes);
        } else {
            snapshot = snapshot.apply(changes.into_iter().take(1));
        }
        keys(&jwt(&snapshot, &reviews(), "virtualInbound").unwrap().providers["origins-0"])
    };
    let of = |uri: &str| format!("jwtRules: [{{issuer: 'https://a.example', jwksUri: '{uri}', timeout: 2s}}]");
    let (outer, inner) = (of("https://keys.example/k"), of("http://reviews.shop.svc.cluster.local:9080/k"));
    let discovered = "jwtRules: [{issuer: 'https://a.example'}]";
    let cluster = |port: u16, host: &str| format!("by Some(Cluster(\"outbound|{port}||{host}\"))");
    for mode in [JwksBy::Istiod, JwksBy::Hybrid] {
        assert_eq!(by(mode, true, &outer), "keys of https://keys.example/k");
        assert!(by(mode, false, &outer).contains("mizzen-not-fetched"), "no token passes");
    }
    assert_eq!(by(JwksBy::Istiod, true, &inner), "keys of http://reviews.shop.svc.cluster.local:9080/k");
    let asked = format!("http://reviews.shop.svc.cluster.local:9080/k {}", cluster(9080, "reviews.shop.svc.cluster.local"));
    assert_eq!([JwksBy::Hybrid, JwksBy::Envoy].map(|mode| by(mode, true, &inner)), [asked.clone(), asked]);
    assert_eq!(by(JwksBy::Envoy, true, &outer), format!("https://keys.example/k {}", cluster(443, "keys.example")));
    for mode in [JwksBy::Istiod, JwksBy::Hybrid, JwksBy::Envoy] {
        assert_eq!(by(mode, true, discovered), "keys of openid https://a.example/.well-known/openid-configuration");
    }
}

#[test]
fn a_refused_one_closes_to_requests() {
    let snapshot = shop(&[]);
    let closed = mizzen_model::Closed { key: Key::new(Kind::RequestAuthentication, "shop", "users"), selector: None };
    let snapshot = snapshot.apply([Change::Close(closed)]);
    let all = filters(&snapshot, &reviews(), "virtualInbound");
    let rbac: Vec<_> = all.iter().filter(|f| f.name.ends_with("rbac")).collect();
    assert_eq!(rbac.len(), 1);
    let any = build(&Reader::new(&snapshot), &reviews(), ResourceKind::Listener, &"virtualInbound".into()).unwrap().any;
    let tcp =
        decode::<Listener>(&any).filter_chains.iter().flat_map(|chain| &chain.filters).filter(|f| f.name.ends_with("network.rbac")).count();
    assert_eq!(tcp, 0, "connections are not asked for tokens");
}

#[test]
fn routes_by_claims() {
    let rules = "{match: [{headers: {'@request.auth.claims.work.team': {exact: Red}, x-a: {exact: b}}}], route: [{destination: {host: reviews}}]}, \
        {match: [{headers: {'@request.auth.claims[https://a.example/x][y]': {prefix: v}}}], route: [{destination: {host: reviews}}]}, \
        {match: [{withoutHeaders: {'@request.auth.claims.sub': {}}}], route: [{destination: {host: reviews}}]}";
    let service = format!(
        "{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: a, namespace: shop}}, spec: {{hosts: ['*'], gateways: [shop], http: [{rules}]}}}}"
    );
    let snapshot = shop(&[GATEWAY, &service]);
    let any = build(&Reader::new(&snapshot), &gateway(), ResourceKind::Route, &"http.80".into()).unwrap().any;
    let config: RouteConfiguration = decode(&any);
    let shown: Vec<String> = config.virtual_hosts[0]
        .routes
        .iter()
        .map(|route| {
            let m = route.r#match.as_ref().unwrap();
            let one = |m: &mizzen_protos::envoy::envoy::r#type::matcher::v3::MetadataMatcher| {
                use mizzen_protos::envoy::envoy::r#type::matcher::v3::{
                    metadata_matcher::path_segment::Segment, string_matcher::MatchPattern, value_matcher::MatchPattern as V,
                };
                assert_eq!(m.filter, "envoy.filters.http.jwt_authn");
                let path: Vec<String> = m
                    .path
                    .iter()
                    .map(|p| match p.segment.as_ref().unwrap() {
                        Segment::Key(key) => key.clone(),
                    })
                    .collect();
                let value = match m.value.as_ref().unwrap().match_pattern.as_ref().unwrap() {
                    V::PresentMatch(true) => "there".to_owned(),
                    V::OrMatch(or) => match or.value_matchers[1].match_pattern.as_ref().unwrap() {
                        V::StringMatch(text) => match text.match_pattern.as_ref().unwrap() {
                            MatchPattern::Exact(text) => format!("={text}"),
                            MatchPattern::Prefix(text) => format!("{text}*"),
                            other => panic!("{other:?}"),
                        },
                        other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                };
                format!("{}{} {value}", if m.invert { "not " } else { "" }, path.join(" "))
            };
            let headers: Vec<&str> = m.headers.iter().map(|h| h.name.as_str()).collect();
            format!("{:?} {}", headers, m.dynamic_metadata.iter().map(one).collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert_eq!(shown, [r#"["x-a"] payload work team =Red"#, r#"[] payload https://a.example/x y v*"#, r#"[] not payload sub there"#]);
}
