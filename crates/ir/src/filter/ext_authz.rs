//! Asking an outside service, over HTTP or gRPC, whether a request may go on.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::extensions::filters::http::ext_authz::v3 as authz;
use mizzen_protos::envoy::envoy::extensions::filters::network::ext_authz::v3 as network_v3;
use mizzen_protos::envoy::envoy::r#type::matcher::v3 as matcher;
use mizzen_types::Name;

use super::FilterOverride;
use crate::compile::cx::{Cx, Res, flag, harmless, name, refused, silent};
use crate::compile::matchers;
use crate::config::{Fraction, MetadataMatch, StringMatch};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
/// The filter of connections.
pub(crate) const NETWORK: &str = "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz";
pub(super) const PER_ROUTE: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";

/// The longest body of a request that is sent along, whatever is configured: 1 MiB.
pub(super) const MAX_BODY: u32 = 1 << 20;

/// Asks an outside service about requests.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtAuthz {
    /// Whom.
    pub service: Arc<AuthzService>,
    /// How long the answer may take; 200 ms by default.
    pub timeout: Duration,
    /// Whether a request goes on if there was no answer.
    pub failure_mode_allow: bool,
    /// Whether such a request carries `x-envoy-auth-failure-mode-allowed: true`.
    pub failure_mode_header: bool,
    /// Whether the request's body is sent along.
    pub body: Option<RequestBody>,
    /// Whether an answer that changes headers has the route chosen anew.
    pub clear_route_cache: bool,
    /// The status if there was no answer; 403 by default.
    pub status_on_error: u16,
    /// Whether an answer with an invalid header is an error; else that header is left out.
    pub validate_mutations: bool,
    /// Metadata of these filters is sent along.
    pub metadata: Arc<[Name]>,
    /// Which share of the requests is asked about.
    pub enabled: Option<Fraction>,
    /// Only requests with this metadata are asked about (Istio's CUSTOM action).
    pub enabled_metadata: Option<MetadataMatch>,
    /// Whether requests that are not asked about are refused.
    pub deny_at_disable: bool,
    /// Whether the client's certificate is sent along.
    pub peer_certificate: bool,
    /// Which headers are sent along; none: all for gRPC; for HTTP only those that always are.
    pub allowed_headers: Option<Arc<[StringMatch]>>,
    /// Which are not.
    pub disallowed_headers: Arc<[StringMatch]>,
    /// Whether the server name of TLS is sent along.
    pub tls_session: bool,
}

/// Whom to ask, and what of the answer counts.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthzService {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc {
        /// The cluster.
        cluster: Name,
        /// `:authority`; the cluster's name if empty.
        authority: Name,
        /// Metadata that is sent along, lower case.
        headers: Arc<[(Name, Name)]>,
    },
    /// The request's head, sent to an HTTP server; 200 lets it go on.
    Http {
        /// The cluster.
        cluster: Name,
        /// What the path begins with.
        path_prefix: Name,
        /// Headers that are set on the question, lower case.
        headers: Arc<[(Name, Name)]>,
        /// What of the answer counts.
        answer: AuthzHeaders,
    },
}

/// Which headers of an HTTP service's answer are used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthzHeaders {
    /// On success, set on the request.
    pub to_upstream: Arc<[StringMatch]>,
    /// On success, appended to the request's.
    pub append_upstream: Arc<[StringMatch]>,
    /// On refusal, sent to the client; empty: all but `:`-headers.
    pub to_client: Arc<[StringMatch]>,
    /// On success, set on the response.
    pub to_client_on_success: Arc<[StringMatch]>,
    /// On success, left as dynamic metadata.
    pub to_metadata: Arc<[StringMatch]>,
}

/// How the request's body is sent along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestBody {
    /// At most so many bytes.
    pub most: u32,
    /// Whether a longer one is cut; else the request is refused with 413.
    pub partial: bool,
    /// Whether it is sent as bytes, not text (gRPC).
    pub as_bytes: bool,
}

/// What a route changes about the asking.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExtAuthzOverride {
    /// Sent along as `context_extensions`.
    pub context: Arc<[(Name, Name)]>,
    /// Whether no body is sent along here.
    pub without_body: bool,
    /// Another way to send it along.
    pub body: Option<RequestBody>,
}

pub(super) fn compile(cx: &mut Cx, m: authz::ExtAuthz) -> Res<ExtAuthz> {
    let authz::ExtAuthz {
        transport_api_version,
        failure_mode_allow,
        failure_mode_allow_header_add,
        with_request_body,
        clear_route_cache,
        status_on_error,
        validate_mutations,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        route_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        filter_enabled,
        filter_enabled_metadata,
        deny_at_disable,
        include_peer_certificate,
        stat_prefix,
        bootstrap_metadata_labels_key,
        allowed_headers,
        disallowed_headers,
        include_tls_session,
        charge_cluster_response_stats,
        encode_raw_headers,
        decoder_header_mutation_rules,
        enable_dynamic_metadata_ingestion,
        filter_metadata,
        emit_filter_state_stats,
        max_denied_response_body_bytes,
        enforce_response_header_limits,
        shadow_mode,
        emit_client_span,
        services,
    } = m;
    silent!(transport_api_version, stat_prefix, charge_cluster_response_stats, emit_filter_state_stats, emit_client_span);
    // Headers are within the limits of every head here.
    silent!(enforce_response_header_limits);
    harmless!(cx; filter_metadata, bootstrap_metadata_labels_key, max_denied_response_body_bytes);
    refused!(cx; typed_metadata_context_namespaces, route_metadata_context_namespaces, route_typed_metadata_context_namespaces,
        encode_raw_headers, decoder_header_mutation_rules, shadow_mode);
    if flag(enable_dynamic_metadata_ingestion) == Some(false) {
        return cx.refuse("enable_dynamic_metadata_ingestion", "not supported");
    }
    let (service, timeout) = match services {
        Some(authz::ext_authz::Services::GrpcService(m)) => cx.within("grpc_service", |cx| grpc(cx, m))?,
        Some(authz::ext_authz::Services::HttpService(m)) => cx.within("http_service", |cx| http(cx, m))?,
        None => return cx.refuse("services", "it is required"),
    };
    let status_on_error = match status_on_error.map(|s| s.code) {
        None | Some(0) => 403,
        Some(code) => match u16::try_from(code) {
            Ok(code @ 200..=599) => code,
            _ => return cx.refuse("status_on_error", format!("{code} is not from 200 to 599")),
        },
    };
    Ok(ExtAuthz {
        service: service.into(),
        timeout,
        failure_mode_allow,
        failure_mode_header: failure_mode_allow_header_add,
        body: cx.some("with_request_body", with_request_body, body)?,
        clear_route_cache,
        status_on_error,
        validate_mutations,
        metadata: metadata_context_namespaces.iter().map(|n| name(n)).collect(),
        enabled: cx.some("filter_enabled", filter_enabled, matchers::runtime_fraction)?,
        enabled_metadata: cx.some("filter_enabled_metadata", filter_enabled_metadata, matchers::metadata)?,
        deny_at_disable: deny_at_disable.is_some_and(|f| flag(f.default_value) == Some(true)),
        peer_certificate: include_peer_certificate,
        allowed_headers: match allowed_headers {
            None => None,
            some => Some(list(cx, "allowed_headers", some)?),
        },
        disallowed_headers: list(cx, "disallowed_headers", disallowed_headers)?,
        tls_session: include_tls_session,
    })
}

/// The same for connections, about which a service is asked by gRPC alone.
pub(crate) fn network(cx: &mut Cx, m: network_v3::ExtAuthz) -> Res<ExtAuthz> {
    let network_v3::ExtAuthz {
        stat_prefix,
        grpc_service,
        failure_mode_allow,
        include_peer_certificate,
        transport_api_version,
        filter_enabled_metadata,
        bootstrap_metadata_labels_key,
        include_tls_session,
        send_tls_alert_on_denial,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        shadow_mode,
    } = m;
    silent!(stat_prefix, transport_api_version);
    harmless!(cx; bootstrap_metadata_labels_key, send_tls_alert_on_denial);
    refused!(cx; typed_metadata_context_namespaces, shadow_mode);
    let (service, timeout) = cx.must("grpc_service", grpc_service, grpc)?;
    Ok(ExtAuthz {
        service: service.into(),
        timeout,
        failure_mode_allow,
        failure_mode_header: false,
        body: None,
        clear_route_cache: false,
        status_on_error: 403,
        validate_mutations: false,
        metadata: metadata_context_namespaces.iter().map(|n| name(n)).collect(),
        enabled: None,
        enabled_metadata: cx.some("filter_enabled_metadata", filter_enabled_metadata, matchers::metadata)?,
        deny_at_disable: false,
        peer_certificate: include_peer_certificate,
        allowed_headers: None,
        disallowed_headers: Arc::from([]),
        tls_session: include_tls_session,
    })
}

pub(super) fn per_route(cx: &mut Cx, m: authz::ExtAuthzPerRoute) -> Res<FilterOverride> {
    let authz::ExtAuthzPerRoute { r#override } = m;
    match r#override {
        Some(authz::ext_authz_per_route::Override::Disabled(true)) => Ok(FilterOverride::Off),
        Some(authz::ext_authz_per_route::Override::Disabled(false)) => cx.refuse("disabled", "it can only be true"),
        Some(authz::ext_authz_per_route::Override::CheckSettings(m)) => cx.within("check_settings", |cx| settings(cx, m)),
        None => cx.refuse("override", "it is required"),
    }
}

fn settings(cx: &mut Cx, m: authz::CheckSettings) -> Res<FilterOverride> {
    let authz::CheckSettings { context_extensions, disable_request_body_buffering, with_request_body, emit_client_span, service_override } =
        m;
    silent!(emit_client_span);
    refused!(cx; service_override);
    let mut context: Vec<_> = context_extensions.iter().map(|(k, v)| (name(k), name(v))).collect();
    context.sort();
    let body = cx.some("with_request_body", with_request_body, body)?;
    Ok(FilterOverride::ExtAuthz(ExtAuthzOverride { context: context.into(), without_body: disable_request_body_buffering, body }.into()))
}

fn body(cx: &mut Cx, m: authz::BufferSettings) -> Res<RequestBody> {
    let authz::BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes } = m;
    if max_request_bytes == 0 || (max_request_bytes > MAX_BODY && !allow_partial_message) {
        return cx.refuse("max_request_bytes", format!("it has to be from 1 to {MAX_BODY}"));
    }
    if max_request_bytes > MAX_BODY {
        cx.warn("max_request_bytes", format!("bodies are cut to {MAX_BODY} bytes"));
    }
    Ok(RequestBody { most: max_request_bytes.min(MAX_BODY), partial: allow_partial_message, as_bytes: pack_as_bytes })
}

fn list(cx: &mut Cx, field: &str, m: Option<matcher::ListStringMatcher>) -> Res<Arc<[StringMatch]>> {
    let patterns = m.map(|m| m.patterns).unwrap_or_default();
    Ok(cx.within(field, |cx| cx.each("patterns", patterns, matchers::string))?.into())
}

fn grpc(cx: &mut Cx, m: core::GrpcService) -> Res<(AuthzService, Duration)> {
    let core::GrpcService { timeout, initial_metadata, retry_policy, target_specifier } = m;
    refused!(cx; retry_policy);
    let timeout = cx.duration("timeout", timeout)?.unwrap_or(Duration::from_millis(200));
    let envoy = match target_specifier {
        Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(m)) => m,
        Some(core::grpc_service::TargetSpecifier::GoogleGrpc(_)) => return cx.refuse("google_grpc", "not supported"),
        None => return cx.refuse("target_specifier", "it is required"),
    };
    let core::grpc_service::EnvoyGrpc { cluster_name, authority, retry_policy, max_receive_message_length, skip_envoy_headers } = envoy;
    silent!(skip_envoy_headers);
    harmless!(cx; max_receive_message_length);
    refused!(cx; retry_policy);
    let headers = fixed(cx, "initial_metadata", initial_metadata)?;
    Ok((AuthzService::Grpc { cluster: name(&cluster_name), authority: name(&authority), headers }, timeout))
}

fn http(cx: &mut Cx, m: authz::HttpService) -> Res<(AuthzService, Duration)> {
    let authz::HttpService { server_uri, path_prefix, path_override, authorization_request, authorization_response, retry_policy } = m;
    refused!(cx; path_override, retry_policy);
    let Some(core::HttpUri { uri, timeout, http_upstream_type }) = server_uri else { return cx.refuse("server_uri", "it is required") };
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
        return cx.refuse("server_uri.cluster", "it is required");
    };
    let timeout = cx.duration("server_uri.timeout", timeout)?.unwrap_or(Duration::from_millis(200));
    // The question has the request's own host; where it goes is the cluster's.
    silent!(uri);
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        return cx.refuse("path_prefix", "it has to begin with a slash");
    }
    let authz::AuthorizationRequest { allowed_headers, headers_to_add } = authorization_request.unwrap_or_default();
    // Deprecated in favour of the filter's own list.
    refused!(cx; allowed_headers);
    let headers = fixed(cx, "authorization_request.headers_to_add", headers_to_add)?;
    let authz::AuthorizationResponse {
        allowed_upstream_headers,
        allowed_upstream_headers_to_append,
        allowed_client_headers,
        allowed_client_headers_on_success,
        dynamic_metadata_from_headers,
    } = authorization_response.unwrap_or_default();
    let answer = cx.within("authorization_response", |cx| {
        Ok(AuthzHeaders {
            to_upstream: list(cx, "allowed_upstream_headers", allowed_upstream_headers)?,
            append_upstream: list(cx, "allowed_upstream_headers_to_append", allowed_upstream_headers_to_append)?,
            to_client: list(cx, "allowed_client_headers", allowed_client_headers)?,
            to_client_on_success: list(cx, "allowed_client_headers_on_success", allowed_client_headers_on_success)?,
            to_metadata: list(cx, "dynamic_metadata_from_headers", dynamic_metadata_from_headers)?,
        })
    })?;
    Ok((AuthzService::Http { cluster: name(&cluster), path_prefix: name(&path_prefix), headers, answer }, timeout))
}

/// Headers with fixed values.
fn fixed(cx: &mut Cx, field: &str, list: Vec<core::HeaderValue>) -> Res<Arc<[(Name, Name)]>> {
    let all = cx.each(field, list, |cx, core::HeaderValue { key, value, raw_value }| {
        refused!(cx; raw_value);
        if value.contains('%') {
            return cx.refuse("value", "command operators are not supported here");
        }
        let key = matchers::header_name(cx, "key", &key)?;
        Ok((name(&key), name(&value)))
    })?;
    Ok(all.into())
}

impl ExtAuthz {
    /// The cluster of the service.
    pub fn cluster(&self) -> &Name {
        match &*self.service {
            AuthzService::Grpc { cluster, .. } | AuthzService::Http { cluster, .. } => cluster,
        }
    }
}
