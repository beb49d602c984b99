//! HTTP filters, and the payloads of extensions.

use std::sync::Arc;

use mizzen_protos::envoy::envoy::extensions::filters::http as ext;
use mizzen_protos::envoy::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mizzen_protos::{Any, alpn, udpa, wkt};
use mizzen_types::Name;

use super::cx::{Cx, Res, flag, harmless, name, refused, silent, type_name};
use super::rbac;
use crate::config::{AlpnOverride, HttpFilter, HttpFilterKind, PeerExchange, PeerMetadata, RouterOptions, StatsConfig};

/// An extension's configuration.
pub(super) struct Payload {
    /// The name of its type.
    pub(super) kind: String,
    body: Body,
}

enum Body {
    Bytes(Vec<u8>),
    Json(wkt::Struct),
}

/// An extension's configuration, out of its wrapping.
pub(super) fn payload(cx: &Cx, any: &Any) -> Res<Payload> {
    match type_name(any) {
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {
            // Both have the same fields.
            let udpa::TypedStruct { type_url, value } = cx.unpack(any)?;
            let kind = type_url.rsplit('/').next().unwrap_or_default().to_owned();
            Ok(Payload { kind, body: Body::Json(value.unwrap_or_default()) })
        }
        kind => Ok(Payload { kind: kind.to_owned(), body: Body::Bytes(any.value.clone()) }),
    }
}

impl Payload {
    pub(super) fn bytes<M: prost::Message + Default>(&self, cx: &Cx) -> Res<M> {
        match &self.body {
            Body::Bytes(bytes) => cx.decode(bytes),
            Body::Json(_) => cx.refuse("", format!("{} is only read in its binary form", self.kind)),
        }
    }

    /// The members of one of Istio's own configurations, each to be taken out; snake case. They label and count, no more: what is in the
    /// binary form, which is not read, is harmless.
    pub(super) fn json(&self, cx: &mut Cx) -> Json {
        match &self.body {
            Body::Json(json) => Json(json.fields.iter().map(|(k, v)| (snake(k), v.clone())).collect()),
            Body::Bytes(bytes) => {
                if !bytes.is_empty() {
                    cx.warn("", format!("{} is only read as a TypedStruct: its defaults count", self.kind));
                }
                Json::default()
            }
        }
    }
}

/// `camelCase` as `snake_case`.
fn snake(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The members of a JSON object.
#[derive(Default)]
pub(super) struct Json(std::collections::BTreeMap<String, wkt::Value>);

impl Json {
    fn kind(&mut self, key: &str) -> Option<wkt::value::Kind> {
        self.0.remove(key)?.kind
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.kind(key)? {
            wkt::value::Kind::StringValue(s) => Some(s),
            _ => None,
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        matches!(self.kind(key), Some(wkt::value::Kind::BoolValue(true)))
    }

    fn objects(&mut self, key: &str) -> Vec<Json> {
        self.list(key).into_iter().filter_map(Json::of).collect()
    }

    fn texts(&mut self, key: &str) -> Vec<Name> {
        let text = |v: wkt::Value| match v.kind {
            Some(wkt::value::Kind::StringValue(s)) => Some(name(&s)),
            _ => None,
        };
        self.list(key).into_iter().filter_map(text).collect()
    }

    fn list(&mut self, key: &str) -> Vec<wkt::Value> {
        match self.kind(key) {
            Some(wkt::value::Kind::ListValue(list)) => list.values,
            _ => Vec::new(),
        }
    }

    fn of(value: wkt::Value) -> Option<Json> {
        match value.kind? {
            wkt::value::Kind::StructValue(s) => Some(Json(s.fields.into_iter().map(|(k, v)| (snake(&k), v)).collect())),
            _ => None,
        }
    }

    /// What is left does nothing.
    pub(super) fn rest(self, cx: &mut Cx) {
        for key in self.0.keys() {
            cx.warn(key, "it does nothing here");
        }
    }
}

/// Filters before the router, and the router's options.
pub(super) fn list(cx: &mut Cx, filters: Vec<hcm::HttpFilter>) -> Res<(Vec<HttpFilter>, RouterOptions)> {
    let found = cx.each("http_filters", filters, filter)?;
    let (mut before, mut router) = (Vec::new(), None);
    for (i, item) in found.into_iter().enumerate() {
        if router.is_some() {
            return cx.refuse(&format!("http_filters[{i}]"), "nothing comes after the router");
        }
        match item {
            Item::Filter(filter) => before.push(filter),
            Item::Router(options) => router = Some(options),
            Item::Nothing => {}
        }
    }
    match router {
        Some(router) => Ok((before, router)),
        None => cx.refuse("http_filters", "the last filter has to be the router"),
    }
}

enum Item {
    Filter(HttpFilter),
    Router(RouterOptions),
    /// It does nothing unless a route says more, and routes that do are refused.
    Nothing,
}

fn filter(cx: &mut Cx, m: hcm::HttpFilter) -> Res<Item> {
    let hcm::HttpFilter { name: title, is_optional, disabled, config_type } = m;
    let any = match config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
        Some(hcm::http_filter::ConfigType::ConfigDiscovery(_)) => return cx.refuse("config_discovery", "not supported"),
        None => return cx.refuse("typed_config", format!("filter `{title}` has none")),
    };
    // What could switch it on, a route's own configuration, is refused there.
    if disabled {
        return Ok(Item::Nothing);
    }
    cx.within("typed_config", |cx| {
        let payload = payload(cx, &any)?;
        let kind = match payload.kind.as_str() {
            "envoy.extensions.filters.http.router.v3.Router" => return router(cx, payload.bytes(cx)?).map(Item::Router),
            "envoy.extensions.filters.http.rbac.v3.RBAC" => HttpFilterKind::Rbac(rbac::http_filter(cx, payload.bytes(cx)?)?.into()),
            "io.istio.http.peer_metadata.Config" => {
                let json = payload.json(cx);
                HttpFilterKind::PeerMetadata(peer_metadata(cx, json).into())
            }
            "stats.PluginConfig" => {
                let json = payload.json(cx);
                HttpFilterKind::Stats(stats(cx, json)?.into())
            }
            "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
                HttpFilterKind::Alpn(alpn_override(cx, payload.bytes(cx)?)?.into())
            }
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => HttpFilterKind::GrpcStats,
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => return fault(cx, payload.bytes(cx)?).map(|()| Item::Nothing),
            "envoy.extensions.filters.http.compressor.v3.Compressor" => return compressor(cx, payload.bytes(cx)?).map(|()| Item::Nothing),
            // Its policies are in routes, where they are refused.
            "envoy.extensions.filters.http.cors.v3.Cors" => return Ok(Item::Nothing),
            kind if is_optional => {
                cx.warn("", format!("optional filter `{title}` of type {kind} is left out"));
                return Ok(Item::Nothing);
            }
            kind => return cx.refuse("", format!("filter `{title}` of type {kind} is not supported")),
        };
        Ok(Item::Filter(HttpFilter { name: name(&title), kind }))
    })
}

/// A cluster's own filters: only the codec, which is no filter.
pub(super) fn only_upstream_codec(cx: &mut Cx, filters: Vec<hcm::HttpFilter>) -> Res<()> {
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

fn router(cx: &mut Cx, m: ext::router::v3::Router) -> Res<RouterOptions> {
    let ext::router::v3::Router {
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

/// Only the empty one: faults are not done.
fn fault(cx: &mut Cx, m: ext::fault::v3::HttpFault) -> Res<()> {
    let ext::fault::v3::HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        disable_downstream_cluster_stats,
        filter_metadata,
    } = m;
    refused!(cx; delay, abort, response_rate_limit);
    silent!(upstream_cluster, headers, downstream_nodes, max_active_faults, delay_percent_runtime, abort_percent_runtime, filter_metadata);
    silent!(delay_duration_runtime, abort_http_status_runtime, max_active_faults_runtime, response_rate_limit_percent_runtime);
    silent!(abort_grpc_status_runtime, disable_downstream_cluster_stats);
    Ok(())
}

/// An answer that is not compressed is as good for whoever offered to take it compressed. A server that counts on compressed requests
/// would get others.
fn compressor(cx: &mut Cx, m: ext::compressor::v3::Compressor) -> Res<()> {
    let ext::compressor::v3::Compressor {
        content_length,
        content_type,
        disable_on_etag_header,
        remove_accept_encoding_header,
        runtime_enabled,
        compressor_library,
        request_direction_config,
        response_direction_config,
        choose_first,
    } = m;
    silent!(
        content_length,
        content_type,
        disable_on_etag_header,
        remove_accept_encoding_header,
        runtime_enabled,
        response_direction_config
    );
    silent!(choose_first);
    let requests = request_direction_config.map(|c| c.common_config.and_then(|c| c.enabled).and_then(|e| flag(e.default_value)));
    if requests.is_some_and(|enabled| enabled != Some(false)) {
        return cx.refuse("request_direction_config", "requests are not compressed");
    }
    let library = compressor_library.map(|l| l.name).unwrap_or_default();
    cx.warn("", format!("answers are not compressed (`{library}`)"));
    Ok(())
}

fn alpn_override(cx: &Cx, m: alpn::FilterConfig) -> Res<AlpnOverride> {
    use alpn::filter_config::Protocol as P;
    let alpn::FilterConfig { alpn_override } = m;
    let mut all = AlpnOverride::default();
    for alpn::filter_config::AlpnOverride { upstream_protocol, alpn_override } in alpn_override {
        let names: Arc<[Name]> = alpn_override.iter().map(|n| name(n)).collect();
        match cx.choice("alpn_override.upstream_protocol", upstream_protocol)? {
            P::Http10 => all.http10 = names,
            P::Http11 => all.http11 = names,
            P::Http2 => all.http2 = names,
        }
    }
    Ok(all)
}

fn peer_metadata(cx: &mut Cx, mut json: Json) -> PeerMetadata {
    let mut side = |discovery: &str, propagation: &str| {
        let mut exchange = PeerExchange::default();
        for mut method in json.objects(discovery) {
            exchange.from_headers |= method.0.remove("istio_headers").is_some();
            exchange.from_workloads |= method.0.remove("workload_discovery").is_some();
            cx.path_rest(discovery, method);
        }
        for mut method in json.objects(propagation) {
            if let Some(headers) = method.0.remove("istio_headers") {
                exchange.send_headers = true;
                exchange.skip_external = Json::of(headers).is_some_and(|mut h| h.flag("skip_external_clusters"));
            }
            cx.path_rest(propagation, method);
        }
        exchange
    };
    let downstream = side("downstream_discovery", "downstream_propagation");
    let upstream = side("upstream_discovery", "upstream_propagation");
    json.rest(cx);
    PeerMetadata { downstream, upstream }
}

impl Cx {
    fn path_rest(&mut self, field: &str, json: Json) {
        for key in json.0.keys() {
            self.warn(&format!("{field}.{key}"), "peers are not found by it");
        }
    }
}

/// Istio's metrics, for HTTP and TCP.
pub(super) fn stats(cx: &mut Cx, mut json: Json) -> Res<StatsConfig> {
    let tcp_reporting = match json.text("tcp_reporting_duration") {
        None => None,
        Some(text) => {
            let seconds = text.strip_suffix('s').and_then(|s| s.parse::<f64>().ok());
            let duration = seconds.and_then(|s| std::time::Duration::try_from_secs_f64(s).ok());
            Some(duration.ok_or_else(|| cx.bad("tcp_reporting_duration", format!("`{text}` is not a duration")))?)
        }
    };
    let disable_host_header_fallback = json.flag("disable_host_header_fallback");
    let (mut metrics, mut tags) = (Vec::new(), Vec::new());
    for mut metric in json.objects("metrics") {
        let title = metric.text("name").unwrap_or_default();
        let title = name(if title.is_empty() { "*" } else { &title });
        if metric.0.contains_key("match") {
            cx.warn("metrics.match", "the override is left out: its condition is not evaluated");
            continue;
        }
        if metric.flag("drop") {
            metrics.push(title.clone());
        }
        tags.extend(metric.texts("tags_to_remove").into_iter().map(|tag| (title.clone(), tag)));
        cx.within("metrics", |cx| {
            metric.rest(cx);
            Ok(())
        })?;
    }
    json.rest(cx);
    Ok(StatsConfig { disable_host_header_fallback, tcp_reporting, dropped_metrics: metrics.into(), dropped_tags: tags.into() })
}
