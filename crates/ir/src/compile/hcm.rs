//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mizzen_protos::envoy::envoy::extensions::request_id::uuid::v3 as uuid;
use mizzen_types::Name;

use super::cluster::is_true;
use super::cluster_http::default_true;
use super::cx::{Cx, Res, flag, harmless, hash_of, held, name, number, refused, silent, type_name};
use super::{access_log, cluster_http, route};
use crate::config::{CertDetails, CodecKind, EscapedSlashes, ForwardClientCert, Hcm, HttpRoutes, PathOptions, ServerHeader, StripPort};
use crate::filter::{self, HttpFilter, RouterOptions};

#[allow(clippy::too_many_lines)] // One message of very many fields, each of which is decided here.
pub(super) fn compile(cx: &mut Cx, m: hcm::HttpConnectionManager) -> Res<Hcm> {
    let hcm::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = m;
    silent!(
        stat_prefix,
        http1_safe_max_connection_duration,
        stream_flush_timeout,
        append_local_overload,
        add_proxy_protocol_connection_state
    );
    silent!(access_log_flush_interval, flush_access_log_on_new_request, represent_ipv4_remote_address_as_ipv4_mapped_ipv6);
    harmless!(cx; delayed_close_timeout, stream_error_on_invalid_http_message, http3_protocol_options, drain_timeout_jitter, access_log_options, internal_address_config);
    refused!(cx; scheme_header_transformation, original_ip_detection_extensions, early_header_mutation_extensions, local_reply_config,
        forward_client_cert_matcher, path_normalization_options, proxy_status_config, typed_header_validation_config,
        append_x_forwarded_port, forward_proto_config);
    cx.never("add_user_agent", add_user_agent)?;
    tracing_of(cx, tracing);
    request_id(cx, request_id_extension)?;

    let listed =
        cx.once(|shared| &mut shared.filters, http_filters, filter::list, |(filters, _)| filters.iter().all(HttpFilter::is_same_anywhere));
    let listed = cx.contain(listed);
    let closed = listed.is_none();
    let (filters, router) = listed.unwrap_or_else(|| (Arc::default(), RouterOptions::default()));
    let routes = routes(cx, route_specifier)?;
    let common = cx.within("common_http_protocol_options", |cx| cluster_http::common(cx, common_http_protocol_options))?;
    let (accept_http_10, default_host) = cx.some("http_protocol_options", http_protocol_options, cluster_http::http1)?.unwrap_or_default();
    let h2 = cx.some("http2_protocol_options", http2_protocol_options, cluster_http::http2)?.unwrap_or_default();
    let seconds = Duration::from_secs;
    Ok(Hcm {
        codec: match cx.choice("codec_type", codec_type)? {
            hcm::http_connection_manager::CodecType::Auto => CodecKind::Auto,
            hcm::http_connection_manager::CodecType::Http1 => CodecKind::Http1,
            hcm::http_connection_manager::CodecType::Http2 => CodecKind::Http2,
            hcm::http_connection_manager::CodecType::Http3 => return cx.refuse("codec_type", "HTTP3 is not supported"),
        },
        routes,
        filters,
        closed,
        router,
        access_log: access_log::list(cx, access_log)?,
        server_name: cx.name(if server_name.is_empty() { "envoy" } else { &server_name }),
        server_header: match cx.choice("server_header_transformation", server_header_transformation)? {
            hcm::http_connection_manager::ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
            hcm::http_connection_manager::ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
            hcm::http_connection_manager::ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
        use_remote_address: is_true(use_remote_address),
        xff_trusted_hops: xff_num_trusted_hops,
        skip_xff_append,
        via: cx.name(&via),
        generate_request_id: default_true(generate_request_id),
        preserve_external_request_id,
        request_id_in_response: always_set_request_id_in_response,
        client_cert: client_cert(cx, forward_client_cert_details)?,
        cert_details: cert_details(cx, set_current_client_cert_details)?,
        path: PathOptions {
            normalize: is_true(normalize_path),
            merge_slashes,
            escaped_slashes: escaped_slashes(cx, path_with_escaped_slashes_action)?,
        },
        strip_port: match strip_port_mode {
            Some(hcm::http_connection_manager::StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if strip_matching_host_port => StripPort::Matching,
            _ => StripPort::No,
        },
        strip_trailing_dot: strip_trailing_host_dot,
        idle_timeout: common.idle_timeout,
        stream_idle_timeout: cx.limit("stream_idle_timeout", stream_idle_timeout, Some(seconds(300)))?,
        request_timeout: cx.limit("request_timeout", request_timeout, None)?,
        request_headers_timeout: cx.limit("request_headers_timeout", request_headers_timeout, None)?,
        max_connection_duration: common.max_connection_duration,
        max_stream_duration: common.max_stream_duration,
        drain_timeout: cx.duration("drain_timeout", drain_timeout)?.unwrap_or(seconds(5)),
        max_requests_per_connection: common.max_requests_per_connection,
        max_headers: common.max_headers,
        max_headers_kb: number(max_request_headers_kb).unwrap_or(60),
        h2,
        accept_http_10,
        default_host: cx.name(&default_host),
        upgrades: held(upgrades(cx, upgrade_configs)?),
        proxy_100_continue,
    })
}

/// Spans are exported where a provider is named; without one there is nothing to do.
fn tracing_of(cx: &mut Cx, m: Option<hcm::http_connection_manager::Tracing>) {
    let Some(m) = m else { return };
    let hcm::http_connection_manager::Tracing {
        client_sampling,
        random_sampling,
        overall_sampling,
        verbose,
        max_path_tag_length,
        custom_tags,
        provider,
        spawn_upstream_span,
        operation,
        upstream_operation,
        no_context_propagation,
    } = m;
    silent!(client_sampling, random_sampling, overall_sampling, verbose, max_path_tag_length, custom_tags, spawn_upstream_span);
    silent!(operation, upstream_operation, no_context_propagation);
    if provider.is_some() {
        cx.warn("tracing.provider", "spans are not exported");
    }
}

fn request_id(cx: &mut Cx, m: Option<hcm::RequestIdExtension>) -> Res<()> {
    let Some(any) = m.and_then(|m| m.typed_config) else { return Ok(()) };
    cx.within("request_id_extension.typed_config", |cx| match type_name(&any) {
        "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" => {
            let uuid::UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling } = cx.unpack(&any)?;
            // Both concern sampling: a random id is as good without a reason packed into it.
            silent!(pack_trace_reason, use_request_id_for_trace_sampling);
            Ok(())
        }
        other => cx.refuse("", format!("{other} is not supported")),
    })
}

fn routes(cx: &mut Cx, m: Option<hcm::http_connection_manager::RouteSpecifier>) -> Res<HttpRoutes> {
    use hcm::http_connection_manager::RouteSpecifier as S;
    match m {
        Some(S::Rds(hcm::Rds { config_source, route_config_name })) => {
            silent!(config_source);
            if route_config_name.is_empty() {
                return cx.refuse("rds.route_config_name", "it is required");
            }
            Ok(HttpRoutes::Named(name(&route_config_name)))
        }
        Some(S::RouteConfig(m)) => cx.within("route_config", |cx| {
            let hash = hash_of(&m);
            cx.unset("vhds", &m.vhds)?;
            Ok(HttpRoutes::Inline(route::config(cx, m, hash)?.into()))
        }),
        Some(S::ScopedRoutes(_)) => cx.refuse("scoped_routes", "not supported"),
        None => cx.refuse("route_specifier", "it is required"),
    }
}

fn client_cert(cx: &Cx, value: i32) -> Res<ForwardClientCert> {
    use hcm::http_connection_manager::ForwardClientCertDetails as F;
    Ok(match cx.choice("forward_client_cert_details", value)? {
        F::Sanitize => ForwardClientCert::Sanitize,
        F::ForwardOnly => ForwardClientCert::ForwardOnly,
        F::AppendForward => ForwardClientCert::AppendForward,
        F::SanitizeSet => ForwardClientCert::SanitizeSet,
        F::AlwaysForwardOnly => ForwardClientCert::AlwaysForward,
    })
}

fn cert_details(cx: &mut Cx, m: Option<hcm::http_connection_manager::SetCurrentClientCertDetails>) -> Res<CertDetails> {
    let hcm::http_connection_manager::SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } =
        m.unwrap_or_default();
    refused!(cx; issuer, format);
    Ok(CertDetails { subject: flag(subject).unwrap_or(false), cert, chain, dns, uri })
}

fn escaped_slashes(cx: &Cx, value: i32) -> Res<EscapedSlashes> {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as P;
    Ok(match cx.choice("path_with_escaped_slashes_action", value)? {
        P::ImplementationSpecificDefault | P::KeepUnchanged => EscapedSlashes::Keep,
        P::RejectRequest => EscapedSlashes::Reject,
        P::UnescapeAndRedirect => EscapedSlashes::Redirect,
        P::UnescapeAndForward => EscapedSlashes::Forward,
    })
}

fn upgrades(cx: &mut Cx, list: Vec<hcm::http_connection_manager::UpgradeConfig>) -> Res<Vec<Name>> {
    let found = cx.each("upgrade_configs", list, |cx, m| {
        let hcm::http_connection_manager::UpgradeConfig { upgrade_type, filters, enabled } = m;
        refused!(cx; filters);
        if upgrade_type.eq_ignore_ascii_case("CONNECT") && default_true(enabled) {
            return cx.refuse("upgrade_type", "CONNECT is not supported");
        }
        Ok(default_true(enabled).then(|| name(&upgrade_type.to_ascii_lowercase())))
    })?;
    Ok(found.into_iter().flatten().collect())
}
