//! The router, always the last filter: its options.

use mizzen_protos::envoy::envoy::extensions::filters::http::router::v3::Router;
use mizzen_protos::envoy::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use crate::compile::cx::{Cx, Res, harmless, refused, silent, type_name};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.router.v3.Router";

/// The router's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterOptions {
    /// Whether no `x-envoy-*` header is written.
    pub suppress_envoy_headers: bool,
}

pub(super) fn compile(cx: &mut Cx, m: Router) -> Res<RouterOptions> {
    let Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = m;
    silent!(dynamic_stats, suppress_grpc_request_failure_code_stats, reject_connect_request_early_data, upstream_log_options);
    harmless!(cx; start_child_span, upstream_log, respect_expected_rq_timeout);
    refused!(cx; strict_check_headers);
    cx.within("upstream_http_filters", |cx| only_upstream_codec(cx, upstream_http_filters))?;
    Ok(RouterOptions { suppress_envoy_headers })
}

/// A cluster's own filters: only the codec, which is no filter.
pub(crate) fn only_upstream_codec(cx: &mut Cx, filters: Vec<hcm::HttpFilter>) -> Res<()> {
    cx.each("http_filters", filters, |cx, f| match &f.config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any))
            if type_name(any) == "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec" =>
        {
            Ok(())
        }
        _ => cx.refuse("", format!("filter `{}` is not supported in a cluster", f.name)),
    })?;
    Ok(())
}
