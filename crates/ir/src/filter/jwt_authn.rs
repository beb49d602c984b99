//! Checking the tokens of requests: `envoy.filters.http.jwt_authn`.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
use mizzen_types::Name;

use super::FilterOverride;
use crate::compile::cx::{Cx, Res, harmless, name, refused, silent};
use crate::compile::{matchers, route};
use crate::config::{RouteMatch, StringMatch};
use crate::jwt::Jwks;

pub(super) const TYPE: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
pub(super) const PER_ROUTE: &str = "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig";

/// How deep requirements may lie in each other.
const DEPTH: usize = 8;
/// The most providers of a filter.
const MOST_PROVIDERS: usize = 256;

/// Checks the tokens of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtAuthn {
    /// Who issues tokens, by name.
    pub providers: Arc<[JwtProvider]>,
    /// What requests need: the first rule that matches counts.
    pub rules: Arc<[JwtRule]>,
    /// Requirements by name, for routes.
    pub named: Arc<[(Name, JwtRequirement)]>,
    /// Whether requests by which browsers ask for permission go on without a token.
    pub bypass_preflight: bool,
    /// Whether a refusal says nothing of its reason.
    pub strip_failure: bool,
}

/// A header, and the path of the claim that it is to hold.
pub type ClaimHeader = (Arc<str>, Arc<[Name]>);

/// An issuer, and what is done with its tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtProvider {
    /// Its name in the configuration.
    pub name: Name,
    /// The issuer that its tokens must name; empty: any.
    pub issuer: Name,
    /// The audiences of which tokens must name one; none: any.
    pub audiences: Arc<[Name]>,
    /// About whom tokens must be.
    pub subjects: Option<StringMatch>,
    /// Whether tokens must have an end.
    pub require_expiration: bool,
    /// How far in the future that may lie.
    pub max_lifetime: Option<Duration>,
    /// Whether a token that was checked stays in the request.
    pub forward: bool,
    /// Where tokens are.
    pub locations: Arc<[TokenLocation]>,
    /// The header that gets the claims, as they are encoded in the token, and whether they are padded.
    pub payload_header: Option<(Arc<str>, bool)>,
    /// Under which key the claims are left in the metadata.
    pub payload_key: Option<Name>,
    /// Claims that are left there as lists, split at spaces.
    pub split: Arc<[Name]>,
    /// Under which key the token's header is left there.
    pub header_key: Option<Name>,
    /// Under which key the reason of a refusal is left there.
    pub failure_key: Option<Name>,
    /// How much clocks may differ; 60 s by default.
    pub skew: Duration,
    /// Headers that get claims, each by its path.
    pub claim_headers: Arc<[ClaimHeader]>,
    /// Whether the route is chosen anew after a token was checked.
    pub clear_route_cache: bool,
    /// The keys.
    pub keys: JwtKeys,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtKeys {
    /// They are in the configuration.
    Here(Arc<Jwks>),
    /// They are fetched by the proxy.
    Remote(Arc<RemoteJwks>),
}

/// Where keys are fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteJwks {
    /// The cluster.
    pub cluster: Name,
    /// The host of the URI.
    pub authority: Name,
    /// Its path and query.
    pub path: Name,
    /// Whether it is `https`.
    pub secure: bool,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long keys are good; 10 min by default.
    pub lifetime: Duration,
    /// After how long it is tried again where it failed; 1 s by default.
    pub retry: Duration,
}

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLocation {
    /// In a header (lower case), after this text.
    Header(Arc<str>, Name),
    /// In a query parameter.
    Param(Name),
    /// In a cookie.
    Cookie(Name),
}

/// What some requests need.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// Which ones.
    pub matching: RouteMatch,
    /// What.
    pub requirement: JwtRequirement,
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtRequirement {
    /// Nothing.
    Nothing,
    /// A token of the provider with this index, for one of these audiences if they are given.
    Provider(u16, Option<Arc<[Name]>>),
    /// One of these.
    Any(Arc<[JwtRequirement]>),
    /// All of these.
    All(Arc<[JwtRequirement]>),
    /// No token, or good ones of any provider.
    AllowMissing,
    /// Nothing, but good tokens are checked.
    AllowMissingOrFailed,
}

impl JwtAuthn {
    /// The clusters from which keys are fetched.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        self.providers.iter().filter_map(|provider| match &provider.keys {
            JwtKeys::Remote(remote) => Some(&remote.cluster),
            JwtKeys::Here(_) => None,
        })
    }
}

pub(super) fn compile(cx: &mut Cx, m: jwt::JwtAuthentication) -> Res<JwtAuthn> {
    let jwt::JwtAuthentication {
        providers,
        rules,
        filter_state_rules,
        bypass_cors_preflight,
        requirement_map,
        strip_failure_response,
        stat_prefix,
    } = m;
    silent!(stat_prefix);
    refused!(cx; filter_state_rules);
    if providers.len() > MOST_PROVIDERS {
        return cx.refuse("providers", format!("more than {MOST_PROVIDERS}"));
    }
    let mut sorted: Vec<_> = providers.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let one = |(title, m): (String, jwt::JwtProvider)| cx.within(&format!("providers[{title}]"), |cx| provider(cx, &title, m));
    let providers: Vec<JwtProvider> = sorted.into_iter().map(one).collect::<Res<_>>()?;
    let mut named: Vec<_> = requirement_map.into_iter().collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    let one = |(title, m): (String, jwt::JwtRequirement)| {
        let made = cx.within(&format!("requirement_map[{title}]"), |cx| requirement(cx, m, &providers, DEPTH))?;
        Ok((name(&title), made))
    };
    let named: Vec<_> = named.into_iter().map(one).collect::<Res<_>>()?;
    let rules = cx.each("rules", rules, |cx, m| rule(cx, m, &providers, &named))?;
    Ok(JwtAuthn {
        rules: rules.into(),
        named: named.into(),
        providers: providers.into(),
        bypass_preflight: bypass_cors_preflight,
        strip_failure: strip_failure_response,
    })
}

/// Another requirement for a route, by its name in the filter's configuration.
pub(super) fn per_route(cx: &mut Cx, m: jwt::PerRouteConfig) -> Res<FilterOverride> {
    use jwt::per_route_config::RequirementSpecifier as S;
    let jwt::PerRouteConfig { requirement_specifier } = m;
    match requirement_specifier {
        Some(S::Disabled(true)) => Ok(FilterOverride::Off),
        Some(S::Disabled(false)) => cx.refuse("disabled", "it can only be true"),
        Some(S::RequirementName(title)) => Ok(FilterOverride::JwtRequirement(name(&title))),
        None => cx.refuse("requirement_specifier", "it is required"),
    }
}

fn rule(cx: &mut Cx, m: jwt::RequirementRule, providers: &[JwtProvider], named: &[(Name, JwtRequirement)]) -> Res<JwtRule> {
    use jwt::requirement_rule::RequirementType as T;
    let jwt::RequirementRule { r#match, requirement_type } = m;
    let matching = cx.must("match", r#match, route::matching)?;
    if !matching.metadata.is_empty() {
        // Metadata is what comes of the check.
        return cx.refuse("match.dynamic_metadata", "not supported here");
    }
    let requirement = match requirement_type {
        Some(T::Requires(m)) => cx.within("requires", |cx| requirement(cx, m, providers, DEPTH))?,
        Some(T::RequirementName(title)) => match named.iter().find(|(known, _)| **known == *title) {
            Some((_, known)) => known.clone(),
            None => return cx.refuse("requirement_name", format!("there is no requirement `{title}`")),
        },
        None => JwtRequirement::Nothing,
    };
    Ok(JwtRule { matching, requirement })
}

fn requirement(cx: &mut Cx, m: jwt::JwtRequirement, providers: &[JwtProvider], depth: usize) -> Res<JwtRequirement> {
    use jwt::jwt_requirement::RequiresType as T;
    let Some(depth) = depth.checked_sub(1) else { return cx.refuse("", "requirements lie too deep in each other") };
    let find = |cx: &Cx, field: &str, title: &str| {
        let at = providers.iter().position(|p| *p.name == *title);
        at.and_then(|at| u16::try_from(at).ok()).ok_or_else(|| cx.bad(field, format!("there is no provider `{title}`")))
    };
    let list = |cx: &mut Cx, field: &str, all: Vec<jwt::JwtRequirement>| -> Res<Arc<[JwtRequirement]>> {
        if all.is_empty() {
            return cx.refuse(field, "it is empty");
        }
        Ok(cx.each(&format!("{field}.requirements"), all, |cx, m| requirement(cx, m, providers, depth))?.into())
    };
    let jwt::JwtRequirement { requires_type } = m;
    Ok(match requires_type {
        None => JwtRequirement::Nothing,
        Some(T::ProviderName(title)) => JwtRequirement::Provider(find(cx, "provider_name", &title)?, None),
        Some(T::ProviderAndAudiences(jwt::ProviderWithAudiences { provider_name, audiences })) => {
            let at = find(cx, "provider_and_audiences.provider_name", &provider_name)?;
            JwtRequirement::Provider(at, Some(audiences.iter().map(|a| name(audience(a))).collect()))
        }
        Some(T::RequiresAny(jwt::JwtRequirementOrList { requirements })) => JwtRequirement::Any(list(cx, "requires_any", requirements)?),
        Some(T::RequiresAll(jwt::JwtRequirementAndList { requirements })) => JwtRequirement::All(list(cx, "requires_all", requirements)?),
        Some(T::AllowMissing(_)) => JwtRequirement::AllowMissing,
        Some(T::AllowMissingOrFailed(_)) => JwtRequirement::AllowMissingOrFailed,
        Some(T::ExtractOnlyWithoutValidation(_)) => {
            return cx.refuse("extract_only_without_validation", "not supported: claims that nobody has checked are not believed");
        }
    })
}

fn provider(cx: &mut Cx, title: &str, m: jwt::JwtProvider) -> Res<JwtProvider> {
    let jwt::JwtProvider {
        issuer,
        audiences,
        subjects,
        require_expiration,
        max_lifetime,
        forward,
        from_headers,
        from_params,
        from_cookies,
        forward_payload_header,
        pad_forward_payload_header,
        payload_in_metadata,
        normalize_payload_in_metadata,
        header_in_metadata,
        failed_status_in_metadata,
        clock_skew_seconds,
        jwt_cache_config,
        claim_to_headers,
        clear_route_cache,
        jwks_source_specifier,
    } = m;
    // There is always a cache, with bounds of its own.
    silent!(jwt_cache_config);
    let some = |text: String| (!text.is_empty()).then(|| name(&text));
    let payload_header = match forward_payload_header.is_empty() {
        true => None,
        false => Some((matchers::header_name(cx, "forward_payload_header", &forward_payload_header)?, pad_forward_payload_header)),
    };
    let jwt::jwt_provider::NormalizePayload { space_delimited_claims } = normalize_payload_in_metadata.unwrap_or_default();
    let keys = match jwks_source_specifier {
        Some(jwt::jwt_provider::JwksSourceSpecifier::LocalJwks(m)) => JwtKeys::Here(local(cx, m)?.into()),
        Some(jwt::jwt_provider::JwksSourceSpecifier::RemoteJwks(m)) => {
            JwtKeys::Remote(cx.within("remote_jwks", |cx| remote(cx, m))?.into())
        }
        None => return cx.refuse("jwks_source_specifier", "it is required"),
    };
    Ok(JwtProvider {
        name: name(title),
        issuer: name(&issuer),
        audiences: audiences.iter().map(|a| name(audience(a))).collect(),
        subjects: cx.some("subjects", subjects, matchers::string)?,
        require_expiration,
        max_lifetime: cx.duration("max_lifetime", max_lifetime)?,
        forward,
        locations: locations(cx, from_headers, from_params, from_cookies)?,
        payload_header,
        payload_key: some(payload_in_metadata),
        split: space_delimited_claims.iter().map(|claim| name(claim)).collect(),
        header_key: some(header_in_metadata),
        failure_key: some(failed_status_in_metadata),
        skew: Duration::from_secs(if clock_skew_seconds == 0 { 60 } else { clock_skew_seconds.into() }),
        claim_headers: cx.each("claim_to_headers", claim_to_headers, claim_header)?.into(),
        clear_route_cache,
        keys,
    })
}

fn claim_header(cx: &mut Cx, m: jwt::JwtClaimToHeader) -> Res<(Arc<str>, Arc<[Name]>)> {
    let jwt::JwtClaimToHeader { header_name, claim_name, claim_path } = m;
    let header = matchers::header_name(cx, "header_name", &header_name)?;
    if header.starts_with(':') {
        return cx.refuse("header_name", "a claim cannot say where a request goes");
    }
    let mut path: Vec<Name> = claim_path.iter().map(|jwt::jwt_claim_to_header::PathSegment { key }| name(key)).collect();
    if path.is_empty() {
        path = claim_name.split('.').map(name).collect();
    }
    if path.iter().any(|part| part.is_empty()) {
        return cx.refuse("claim_name", "a claim has a name");
    }
    Ok((header, path.into()))
}

/// Where tokens are; without a word of it, where RFC 6750 has them.
fn locations(cx: &mut Cx, headers: Vec<jwt::JwtHeader>, params: Vec<String>, cookies: Vec<String>) -> Res<Arc<[TokenLocation]>> {
    let mut all = cx.each("from_headers", headers, |cx, jwt::JwtHeader { name: header, value_prefix }| {
        Ok(TokenLocation::Header(matchers::header_name(cx, "name", &header)?, name(&value_prefix)))
    })?;
    all.extend(params.iter().map(|param| TokenLocation::Param(name(param))));
    all.extend(cookies.iter().map(|cookie| TokenLocation::Cookie(name(cookie))));
    if all.is_empty() {
        all = vec![TokenLocation::Header("authorization".into(), name("Bearer ")), TokenLocation::Param(name("access_token"))];
    }
    Ok(all.into())
}

/// An audience as it is compared: without scheme and last slash.
pub(crate) fn audience(text: &str) -> &str {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// Keys in the configuration. Without one of use no token passes, and requests without a token do, as far as they may.
fn local(cx: &mut Cx, m: core::DataSource) -> Res<Jwks> {
    use core::data_source::Specifier as S;
    let core::DataSource { watched_directory, specifier } = m;
    refused!(cx; watched_directory);
    let bytes = match specifier {
        Some(S::InlineString(text)) => text.into_bytes(),
        Some(S::InlineBytes(bytes)) => bytes,
        Some(S::Filename(_)) => return cx.refuse("local_jwks.filename", "not supported"),
        Some(S::EnvironmentVariable(_)) => return cx.refuse("local_jwks.environment_variable", "not supported"),
        None => return cx.refuse("local_jwks", "it is empty"),
    };
    match Jwks::parse(&bytes) {
        Ok(keys) => {
            for why in keys.skipped() {
                cx.warn("local_jwks", format!("a key is left out: {why}"));
            }
            Ok(keys)
        }
        Err(why) => {
            cx.warn("local_jwks", format!("no token passes: {why}"));
            Ok(Jwks::none())
        }
    }
}

fn remote(cx: &mut Cx, m: jwt::RemoteJwks) -> Res<RemoteJwks> {
    let jwt::RemoteJwks { http_uri, cache_duration, async_fetch, retry_policy } = m;
    // It is asked again after a while in any case.
    harmless!(cx; retry_policy);
    let Some(core::HttpUri { uri, timeout, http_upstream_type }) = http_uri else { return cx.refuse("http_uri", "it is required") };
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
        return cx.refuse("http_uri.cluster", "it is required");
    };
    let (secure, rest) = match (uri.strip_prefix("https://"), uri.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return cx.refuse("http_uri.uri", format!("`{uri}` begins neither with http:// nor with https://")),
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let head = mizzen_http::Head::request("GET", "http", authority, path);
    if authority.is_empty() || head.path() != path || head.authority() != authority {
        return cx.refuse("http_uri.uri", format!("`{uri}` is not a URI of a host and a path"));
    }
    let jwt::JwksAsyncFetch { fast_listener, failed_refetch_duration } = async_fetch.unwrap_or_default();
    // Keys are fetched when the first token comes that needs them, which waits for them; no listener waits.
    silent!(fast_listener);
    Ok(RemoteJwks {
        cluster: name(&cluster),
        authority: name(authority),
        path: name(path),
        secure,
        timeout: cx.duration("http_uri.timeout", timeout)?.filter(|t| !t.is_zero()).unwrap_or(Duration::from_secs(5)),
        lifetime: cx.duration("cache_duration", cache_duration)?.unwrap_or(Duration::from_secs(600)),
        retry: cx.duration("async_fetch.failed_refetch_duration", failed_refetch_duration)?.unwrap_or(Duration::from_secs(1)),
    })
}
