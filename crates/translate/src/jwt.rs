//! RequestAuthentication: a workload's rules about tokens as the filter `jwt_authn`.
//!
//! As istiod's `pilot/pkg/security/authn`: each rule is a provider, and a request may bear a token of any of them or none. With several, a place that
//! they share holds one token of one of them: it is enough that one provider takes it; else each has to take what is in its places.

use mizzen_api::istio::{JwksBy, JwtRule, KeySource, KeysUrl};
use mizzen_protos::envoy::envoy::{
    config::{
        core::v3::{DataSource, HttpUri, data_source::Specifier, http_uri::HttpUpstreamType},
        route::v3::{RouteMatch, route_match::PathSpecifier},
    },
    extensions::filters::http::jwt_authn::v3::{
        JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList, JwtRequirementOrList,
        RemoteJwks, RequirementRule,
        jwt_provider::{JwksSourceSpecifier, NormalizePayload},
        jwt_requirement::RequiresType,
        requirement_rule::RequirementType,
    },
};
use mizzen_types::Hostname;

use crate::{discovery, filters::Side, names, scope::Scope, traffic, wire};

/// The name under which the filter leaves claims in the metadata.
pub(crate) const FILTER: &str = "envoy.filters.http.jwt_authn";
/// The key of the claims there.
pub(crate) const PAYLOAD: &str = "payload";

/// The keys of an issuer that were not fetched yet: a key that nobody has the other half of, so that no token passes. (An empty set would be a fault
/// of the configuration for some proxies.)
const NOBODY: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"mizzen-not-fetched","x":"JqyLa13yiK4dWSbABQ3Czeyg2ithA-1RpL7ru0Va3ns"}]}"#;

/// The filter of the proxy's own workload, if any rule is about its tokens.
pub(crate) fn filter(scope: &Scope<'_, '_>, side: Side) -> Option<JwtAuthentication> {
    let rules = scope.view.jwt_rules(scope.reader);
    if rules.is_empty() {
        return None;
    }
    let names: Vec<String> = (0..rules.len()).map(|at| format!("origins-{at}")).collect();
    let providers = names.iter().cloned().zip(rules.iter().map(|rule| provider(scope, rule, side)));
    let of = |name: &String| requirement(RequiresType::ProviderName(name.clone()));
    let or_none = |name: &String| any(vec![of(name), requirement(RequiresType::AllowMissing(Default::default()))]);
    let requires = match &names[..] {
        [one] => or_none(one),
        all => {
            let every = JwtRequirementAndList { requirements: all.iter().map(or_none).collect() };
            let mut either: Vec<JwtRequirement> = all.iter().map(of).collect();
            either.push(requirement(RequiresType::RequiresAll(every)));
            any(either)
        }
    };
    Some(JwtAuthentication {
        providers: providers.collect(),
        rules: vec![RequirementRule {
            r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }),
            requirement_type: Some(RequirementType::Requires(requires)),
        }],
        bypass_cors_preflight: true,
        ..Default::default()
    })
}

fn requirement(kind: RequiresType) -> JwtRequirement {
    JwtRequirement { requires_type: Some(kind) }
}

fn any(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
}

fn provider(scope: &Scope<'_, '_>, rule: &JwtRule, side: Side) -> JwtProvider {
    let mut split = vec!["scope".to_owned(), "permission".to_owned()];
    split.extend(rule.space_delimited.iter().filter(|claim| !matches!(claim.as_str(), "scope" | "permission")).cloned());
    JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward,
        from_headers: rule
            .from_headers
            .iter()
            .map(|(name, prefix)| JwtHeader { name: name.clone(), value_prefix: prefix.clone() })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        forward_payload_header: rule.payload_header.clone().unwrap_or_default(),
        payload_in_metadata: PAYLOAD.into(),
        normalize_payload_in_metadata: Some(NormalizePayload { space_delimited_claims: split }),
        claim_to_headers: rule
            .claim_headers
            .iter()
            .map(|(header, claim)| JwtClaimToHeader { header_name: header.clone(), claim_name: claim.clone(), ..Default::default() })
            .collect(),
        // Routes of a gateway may ask for claims.
        clear_route_cache: side == Side::Gateway,
        jwks_source_specifier: Some(keys(scope, rule)),
        ..Default::default()
    }
}

/// The keys, or who has them.
fn keys(scope: &Scope<'_, '_>, rule: &JwtRule) -> JwksSourceSpecifier {
    if let KeySource::Url(url) = &rule.keys {
        match (scope.mesh().jwks_by, cluster(scope, url)) {
            (JwksBy::Istiod, _) | (JwksBy::Hybrid, None) => {}
            (_, Some(cluster)) => return remote(rule, url, cluster),
            // A cluster that is not there: no token passes.
            (JwksBy::Envoy, None) => return remote(rule, url, format!("outbound|{}||{}", url.port, url.host)),
        }
    }
    let text = match &rule.keys {
        KeySource::Inline(text) => text.clone(),
        source => scope.reader.fetched_keys(source).map_or_else(|| NOBODY.to_owned(), |keys| keys.keys.clone()),
    };
    JwksSourceSpecifier::LocalJwks(DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() })
}

/// The cluster of the mesh at a URL's host and port.
fn cluster(scope: &Scope<'_, '_>, url: &KeysUrl) -> Option<String> {
    let host: Hostname = url.host.parse().ok()?;
    let service = scope.service_at(&host, url.port)?;
    let subset = if discovery::has_all(scope, service) { names::ALL } else { "" };
    // There is no address that was dialled.
    let is_original = discovery::is_original(scope, service, subset, &traffic::policy(scope, service, url.port, ""));
    (!is_original).then(|| names::outbound(url.port, subset, &service.host))
}

fn remote(rule: &JwtRule, url: &KeysUrl, cluster: String) -> JwksSourceSpecifier {
    JwksSourceSpecifier::RemoteJwks(RemoteJwks {
        http_uri: Some(HttpUri {
            uri: url.to_string(),
            timeout: Some(wire::duration(rule.timeout)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
        }),
        cache_duration: Some(wire::seconds(5 * 60)),
        ..Default::default()
    })
}
