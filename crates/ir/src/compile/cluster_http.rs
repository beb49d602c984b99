//! HTTP's options, of clusters and of connection managers.

use std::time::Duration;

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::extensions::upstreams::http::v3 as http;

use super::cx::{Cx, Res, flag, harmless, number, refused, silent};
use crate::config::{H2Options, HttpProtocol, UpstreamHttp};

/// One hour.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

impl Default for UpstreamHttp {
    fn default() -> Self {
        UpstreamHttp {
            protocol: HttpProtocol::Http1,
            idle_timeout: Some(HOUR),
            max_connection_duration: None,
            max_stream_duration: None,
            max_requests_per_connection: 0,
            max_headers: 100,
            max_headers_kb: 60,
            h2: H2Options::default(),
            auto_sni: false,
        }
    }
}

/// What versions of HTTP share.
pub(super) struct Common {
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) max_requests_per_connection: u32,
    pub(super) max_headers: u32,
    pub(super) max_response_headers_kb: Option<u32>,
}

pub(super) fn common(cx: &mut Cx, m: Option<core::HttpProtocolOptions>) -> Res<Common> {
    let core::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = m.unwrap_or_default();
    refused!(cx; headers_with_underscores_action);
    harmless!(cx; max_connection_duration_jitter);
    Ok(Common {
        idle_timeout: cx.limit("idle_timeout", idle_timeout, Some(HOUR))?,
        max_connection_duration: cx.limit("max_connection_duration", max_connection_duration, None)?,
        max_stream_duration: cx.limit("max_stream_duration", max_stream_duration, None)?,
        max_requests_per_connection: number(max_requests_per_connection).unwrap_or(0),
        max_headers: number(max_headers_count).unwrap_or(100),
        max_response_headers_kb: number(max_response_headers_kb),
    })
}

/// HTTP/1's options: whether HTTP/1.0 is served, and its default host.
pub(super) fn http1(cx: &mut Cx, m: core::Http1ProtocolOptions) -> Res<(bool, String)> {
    let core::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = m;
    // The absolute form is always read; trailers are always passed on.
    silent!(allow_absolute_url, enable_trailers, use_balsa_parser, allow_custom_methods, override_stream_error_on_invalid_http_message);
    refused!(cx; allow_chunked_length, send_fully_qualified_url, ignore_http_11_upgrade);
    // Names are case-insensitive by the standard; they are sent in lower case.
    harmless!(cx; header_key_format);
    Ok((accept_http_10, default_host_for_http_10))
}

pub(super) fn http2(cx: &mut Cx, m: core::Http2ProtocolOptions) -> Res<H2Options> {
    let core::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = m;
    // Our codec has limits of its own against floods.
    silent!(hpack_table_size, max_outbound_frames, max_outbound_control_frames, max_consecutive_inbound_frames_with_empty_payload);
    silent!(max_inbound_priority_frames_per_stream, max_inbound_window_update_frames_per_data_frame_sent, use_oghttp2_codec);
    silent!(stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message, enable_huffman_encoding);
    silent!(max_header_field_size_kb, max_metadata_size, stream_reset_burst, stream_reset_rate);
    harmless!(cx; disallow_obs_text, custom_settings_parameters);
    refused!(cx; allow_metadata);
    let default = H2Options::default();
    let (mut ping_interval, mut ping_timeout) = (None, default.ping_timeout);
    if let Some(core::KeepaliveSettings { interval, timeout, interval_jitter, connection_idle_interval }) = connection_keepalive {
        silent!(interval_jitter);
        harmless!(cx; connection_idle_interval);
        ping_interval = cx.limit("connection_keepalive.interval", interval, None)?;
        ping_timeout = cx.duration("connection_keepalive.timeout", timeout)?.unwrap_or(ping_timeout);
    }
    let window = |cx: &Cx, field: &str, value, default: u32| match number(value) {
        None => Ok(default),
        Some(v @ 65_535..=0x7fff_ffff) => Ok(v),
        Some(v) => cx.refuse(field, format!("{v} is not between 65535 and 2147483647")),
    };
    Ok(H2Options {
        max_streams: number(max_concurrent_streams).unwrap_or(default.max_streams).max(1),
        stream_window: window(cx, "initial_stream_window_size", initial_stream_window_size, default.stream_window)?,
        connection_window: window(cx, "initial_connection_window_size", initial_connection_window_size, default.connection_window)?,
        ping_interval,
        ping_timeout,
        allow_connect,
    })
}

/// `HttpProtocolOptions` of a cluster, and whether its certificates must name the request's authority (`auto_san_validation`).
pub(super) fn upstream(cx: &mut Cx, m: http::HttpProtocolOptions) -> Res<(UpstreamHttp, bool)> {
    use http::http_protocol_options::UpstreamProtocolOptions as U;
    use http::http_protocol_options::explicit_http_config::ProtocolConfig as P;
    let http::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = m;
    refused!(cx; header_validation_config, request_mirror_policies, hash_policy, retry_policy, outlier_detection);
    crate::filter::only_upstream_codec(cx, http_filters)?;
    let common = cx.within("common_http_protocol_options", |cx| common(cx, common_http_protocol_options))?;
    let (auto_sni, auto_san_validation) = match upstream_http_protocol_options {
        None => (false, false),
        Some(core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header }) => {
            refused!(cx; override_auto_sni_header);
            (auto_sni, auto_san_validation)
        }
    };
    let (protocol, h1, h2) = match upstream_protocol_options {
        None => return cx.refuse("upstream_protocol_options", "it is required"),
        Some(U::ExplicitHttpConfig(c)) => match c.protocol_config {
            None => return cx.refuse("explicit_http_config.protocol_config", "it is required"),
            Some(P::HttpProtocolOptions(h1)) => (HttpProtocol::Http1, Some(h1), None),
            Some(P::Http2ProtocolOptions(h2)) => (HttpProtocol::Http2, None, Some(h2)),
            Some(P::Http3ProtocolOptions(_)) => return cx.refuse("explicit_http_config.http3_protocol_options", "not supported"),
        },
        Some(U::UseDownstreamProtocolConfig(c)) => {
            let http::http_protocol_options::UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = c;
            harmless!(cx; http3_protocol_options);
            (HttpProtocol::Downstream, http_protocol_options, http2_protocol_options)
        }
        Some(U::AutoConfig(c)) => {
            let http::http_protocol_options::AutoHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
                alternate_protocols_cache_options,
            } = c;
            harmless!(cx; http3_protocol_options, alternate_protocols_cache_options);
            (HttpProtocol::Alpn, http_protocol_options, http2_protocol_options)
        }
    };
    cx.some("http_protocol_options", h1, http1)?;
    let h2 = cx.some("http2_protocol_options", h2, http2)?.unwrap_or_default();
    let http = UpstreamHttp {
        protocol,
        idle_timeout: common.idle_timeout,
        max_connection_duration: common.max_connection_duration,
        max_stream_duration: common.max_stream_duration,
        max_requests_per_connection: common.max_requests_per_connection,
        max_headers: common.max_headers,
        max_headers_kb: common.max_response_headers_kb.unwrap_or(60),
        h2,
        auto_sni,
    };
    Ok((http, auto_san_validation))
}

/// A flag's value where true is the default.
pub(super) fn default_true(value: Option<mizzen_protos::wkt::BoolValue>) -> bool {
    flag(value).unwrap_or(true)
}
