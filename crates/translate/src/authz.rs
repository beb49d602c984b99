//! CUSTOM policies: whom a workload's proxy asks about requests, as `ext_authz` after RBAC rules in the shadow, which say about which requests.
//!
//! As istiod's `pilot/pkg/security/authz/builder`: the shadow leaves the name of the rule that matched in the dynamic metadata, and only requests with
//! such a name are asked about. Where nobody can be asked, what the rules match is refused. Only a gRPC provider is asked about connections: an HTTP provider
//! leaves them alone, as with Istio.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::istio::{AuthzProtocol, ExtAuthz, HttpAuthz, Pattern, ProviderKind};
use mizzen_model::{Asked, ServiceView, WorkloadPolicies};
use mizzen_protos::{
    envoy::envoy::{
        config::core::v3::{
            ApiVersion, GrpcService, HeaderValue, HttpUri,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
            http_uri::HttpUpstreamType,
        },
        extensions::filters::{
            http::ext_authz::v3::{
                AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz as Filter, HttpService, ext_authz::Services,
            },
            network::ext_authz::v3::ExtAuthz as TcpFilter,
        },
        r#type::{
            matcher::v3::{
                ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher,
                metadata_matcher::{PathSegment, path_segment::Segment},
                string_matcher::MatchPattern,
                value_matcher,
            },
            v3::HttpStatus,
        },
    },
    wkt,
};
use mizzen_types::Hostname;

use crate::{discovery, names, scope::Scope, traffic, wire};

/// Stands before the names of what the shadow of CUSTOM rules leaves.
pub(crate) const SHADOW_PREFIX: &str = "istio_ext_authz_";
/// Stands before the names of CUSTOM rules.
pub(crate) const RULE_PREFIX: &str = "istio-ext-authz";
/// Stands behind the names of the rules that refuse what they match, where nobody can be asked.
pub(crate) const NOBODY: &str = "-deny-due-to-bad-CUSTOM-action";

/// Whom a workload with these policies asks: the provider, and the cluster by which it is reached. `None`: nobody need be asked; the error: nobody can.
pub(crate) fn asked<'a>(scope: &Scope<'_, 'a>, policies: &WorkloadPolicies<'a>) -> Option<Result<(Asked<'a>, String), String>> {
    Some(scope.reader.asked(policies)?.and_then(|asked| Ok((asked, cluster(scope, &asked)?))))
}

fn cluster(scope: &Scope<'_, '_>, asked: &Asked<'_>) -> Result<String, String> {
    let Asked { service, port, .. } = asked;
    // A cluster has the name of a host: who may declare services here could put another one in the provider's place.
    if scope.service_at(&service.host, port.port).is_some_and(|other| other.key() != service.key()) {
        return Err(format!("{} port {} is another service here", service.host, port.port));
    }
    // There is no address that was dialled.
    let subset = if discovery::has_all(scope, service) { names::ALL } else { "" };
    if discovery::is_original(scope, service, subset, &traffic::policy(scope, service, port.port, "")) {
        return Err(format!("{} is sent to the address that was dialled, and there is none", service.host));
    }
    Ok(names::outbound(port.port, subset, &service.host))
}

/// The provider that the proxy's own workload asks, if its policies name one that can be asked.
pub(crate) fn own<'a>(scope: &Scope<'_, 'a>) -> Option<(Asked<'a>, String)> {
    // Without a provider no policy need be looked at.
    let providers = &scope.mesh().extension_providers;
    if !providers.iter().any(|provider| matches!(provider.kind, ProviderKind::ExtAuthz(_))) {
        return None;
    }
    asked(scope, &scope.policies())?.ok()
}

/// The service of an outbound cluster: one that is visible here, or else the provider that is asked, which need not be.
pub(crate) fn service_of<'a>(scope: &Scope<'_, 'a>, host: &Hostname, port: u16) -> Option<&'a Arc<ServiceView>> {
    let provider =
        || own(scope).filter(|(asked, _)| asked.service.host == *host && asked.port.port == port).map(|(asked, _)| asked.service);
    scope.service_at(host, port).or_else(provider)
}

/// The filter that asks.
pub(crate) fn filter(asked: &Asked<'_>, cluster: &str) -> Filter {
    let ExtAuthz { timeout, fail_open, clear_route_cache, status_on_error, body, protocol, .. } = asked.authz;
    let host = asked.service.host.as_str();
    let timeout = Some(wire::duration(*timeout));
    let (services, allowed) = match protocol {
        AuthzProtocol::Grpc => (Services::GrpcService(grpc(cluster, host, timeout)), None),
        AuthzProtocol::Http(http) => (self::http(http, cluster, host, timeout), headers(&http.include_request_headers)),
    };
    Filter {
        services: Some(services),
        transport_api_version: ApiVersion::V3.into(),
        failure_mode_allow: *fail_open,
        clear_route_cache: *clear_route_cache,
        status_on_error: status_on_error.map(|code| HttpStatus { code: code.into() }),
        with_request_body: body.map(|body| BufferSettings {
            max_request_bytes: body.max_request_bytes,
            allow_partial_message: body.allow_partial_message,
            pack_as_bytes: body.pack_as_bytes,
        }),
        filter_enabled_metadata: Some(matched("envoy.filters.http.rbac")),
        allowed_headers: allowed,
        ..Default::default()
    }
}

/// The filter that asks about connections; none: the provider cannot be asked about them.
pub(crate) fn tcp_filter(asked: &Asked<'_>, cluster: &str) -> Option<TcpFilter> {
    let ExtAuthz { timeout, fail_open, protocol, .. } = asked.authz;
    (*protocol == AuthzProtocol::Grpc).then(|| TcpFilter {
        stat_prefix: "tcp.".into(),
        grpc_service: Some(grpc(cluster, asked.service.host.as_str(), Some(wire::duration(*timeout)))),
        failure_mode_allow: *fail_open,
        transport_api_version: ApiVersion::V3.into(),
        filter_enabled_metadata: Some(matched("envoy.filters.network.rbac")),
        ..Default::default()
    })
}

/// That one of the shadow's rules matched; `rbac` is the filter that evaluates them.
fn matched(rbac: &str) -> MetadataMatcher {
    let key = format!("{SHADOW_PREFIX}shadow_effective_policy_id");
    let name = StringMatcher { match_pattern: Some(MatchPattern::Prefix(RULE_PREFIX.into())), ..Default::default() };
    MetadataMatcher {
        filter: rbac.into(),
        path: vec![PathSegment { segment: Some(Segment::Key(key)) }],
        value: Some(ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::StringMatch(name)) }),
        ..Default::default()
    }
}

fn grpc(cluster: &str, host: &str, timeout: Option<wkt::Duration>) -> GrpcService {
    // A cluster's name is no authority that a server has to take.
    let envoy = EnvoyGrpc { cluster_name: cluster.into(), authority: host.into(), ..Default::default() };
    GrpcService { timeout, target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..Default::default() }
}

fn http(http: &HttpAuthz, cluster: &str, host: &str, timeout: Option<wkt::Duration>) -> Services {
    let add: &BTreeMap<String, String> = &http.include_additional_headers;
    let add: Vec<_> = add.iter().map(|(key, value)| HeaderValue { key: key.clone(), value: value.clone(), ..Default::default() }).collect();
    let answer = AuthorizationResponse {
        allowed_upstream_headers: headers(&http.to_upstream_on_allow),
        allowed_client_headers: headers(&http.to_downstream_on_deny),
        allowed_client_headers_on_success: headers(&http.to_downstream_on_allow),
        ..Default::default()
    };
    Services::HttpService(HttpService {
        // The address is asked for and not used: where the question goes is the cluster's.
        server_uri: Some(HttpUri {
            uri: format!("http://{host}"),
            timeout,
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.into())),
        }),
        path_prefix: http.path_prefix.clone(),
        authorization_request: (!add.is_empty()).then(|| AuthorizationRequest { headers_to_add: add, ..Default::default() }),
        authorization_response: (answer != AuthorizationResponse::default()).then_some(answer),
        ..Default::default()
    })
}

fn headers(names: &[Pattern]) -> Option<ListStringMatcher> {
    let matcher = |name: &Pattern| {
        let pattern = match name {
            Pattern::Exact(name) => MatchPattern::Exact(name.clone()),
            Pattern::Prefix(name) => MatchPattern::Prefix(name.clone()),
            Pattern::Suffix(name) => MatchPattern::Suffix(name.clone()),
            // Refused where it is read.
            Pattern::Present => return None,
        };
        Some(StringMatcher { ignore_case: true, match_pattern: Some(pattern) })
    };
    (!names.is_empty()).then(|| ListStringMatcher { patterns: names.iter().filter_map(matcher).collect() })
}
