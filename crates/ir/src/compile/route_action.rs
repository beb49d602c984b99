//! What routes do.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::config::route::v3 as route;
use mizzen_protos::envoy::envoy::extensions::retry::{
    host::omit_host_metadata::v3::OmitHostMetadataConfig, priority::previous_priorities::v3::PreviousPrioritiesConfig,
};
use mizzen_types::Name;

use super::cx::{Cx, Res, harmless, held, name, number, refused, silent, type_name};
use super::headers::{self, Fields, Level};
use super::inherited::Inherited;
use super::{cluster_lb, hash_policy, matchers};
use crate::config::{
    Action, ClusterChoice, Criteria, Direct, Elsewhere, Forward, HostRewrite, PathRewrite, Redirect, RedirectPath, RetryOn, RetryPolicy,
    Target,
};

pub(super) fn action(cx: &mut Cx, m: Option<route::route::Action>, level: &Level, above: &Inherited) -> Res<Action> {
    use route::route::Action as A;
    match m {
        Some(A::Route(m)) => {
            cx.within("route", |cx| forward(cx, m, level, above).map(|forward| Action::Forward(cx.shared.forwards.hold(forward))))
        }
        Some(A::Redirect(m)) => cx.within("redirect", |cx| Ok(Action::Redirect(redirect(cx, m)?.into()))),
        Some(A::DirectResponse(m)) => cx.within("direct_response", |cx| Ok(Action::Direct(direct(cx, m, above.max_body)?.into()))),
        Some(A::FilterAction(_)) => cx.refuse("filter_action", "not supported"),
        Some(A::NonForwardingAction(_)) => cx.refuse("non_forwarding_action", "not supported"),
        None => cx.refuse("action", "it is required"),
    }
}

fn forward(cx: &mut Cx, m: route::RouteAction, level: &Level, above: &Inherited) -> Res<Forward> {
    let route::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = m;
    use route::route_action::ClusterNotFoundResponseCode as N;
    silent!(flush_timeout, early_data_policy, include_vh_rate_limits, max_internal_redirects);
    refused!(cx; path_rewrite_policy, path_rewrite, retry_policy_typed_config, request_mirror_policies, rate_limits, cors,
        internal_redirect_policy, internal_redirect_action, hedge_policy);
    let stream = cx.some("max_stream_duration", max_stream_duration, stream_duration)?.unwrap_or_default();
    let retry = match retry_policy {
        Some(policy) => Some(cx.within("retry_policy", |cx| retry_policy_of(cx, policy))?),
        None => above.retry.clone().map(|policy| cx.within("retry_policy", |cx| retry_policy_of(cx, policy))).transpose()?,
    };
    let path_rewrite = match (prefix_rewrite.is_empty(), regex_rewrite) {
        (true, None) => PathRewrite::Keep,
        (false, None) => PathRewrite::Matched(prefix_rewrite.into()),
        (true, Some(m)) => PathRewrite::Regex(cx.within("regex_rewrite", |cx| matchers::rewrite(cx, m))?),
        (false, Some(_)) => return cx.refuse("regex_rewrite", "not together with prefix_rewrite"),
    };
    // Both names mean: what a gRPC request asks for counts, up to this.
    let grpc_max = cx.duration("max_grpc_timeout", max_grpc_timeout)?;
    let grpc_offset = cx.duration("grpc_timeout_offset", grpc_timeout_offset)?.unwrap_or_default();
    Ok(Forward {
        cluster: choice(cx, cluster_specifier, level, above, metadata_match.and_then(cluster_lb::criteria))?,
        not_found_status: match cx.choice("cluster_not_found_response_code", cluster_not_found_response_code)? {
            N::ServiceUnavailable => 503,
            N::NotFound => 404,
            N::InternalServerError => 500,
        },
        timeout: cx.limit("timeout", timeout, Some(Duration::from_secs(15)))?,
        idle_timeout: cx.duration("idle_timeout", idle_timeout)?,
        max_stream_duration: stream.max,
        grpc_timeout_max: grpc_max.or(stream.grpc_max),
        grpc_timeout_offset: if grpc_max.is_some() { grpc_offset } else { stream.grpc_offset },
        retry: retry.map(Arc::new),
        path_rewrite,
        host_rewrite: host_rewrite(cx, host_rewrite_specifier)?,
        append_forwarded_host: append_x_forwarded_host,
        upgrades: held(upgrades(cx, upgrade_configs)?),
        high_priority: cx.choice::<core::RoutingPriority>("priority", priority)? == core::RoutingPriority::High,
        hash: hash_policy::of_requests(cx, hash_policy)?,
    })
}

#[derive(Default)]
struct StreamDuration {
    max: Option<Duration>,
    grpc_max: Option<Duration>,
    grpc_offset: Duration,
}

fn stream_duration(cx: &mut Cx, m: route::route_action::MaxStreamDuration) -> Res<StreamDuration> {
    let route::route_action::MaxStreamDuration { max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset } = m;
    Ok(StreamDuration {
        max: cx.duration("max_stream_duration", max_stream_duration)?,
        grpc_max: cx.duration("grpc_timeout_header_max", grpc_timeout_header_max)?,
        grpc_offset: cx.duration("grpc_timeout_header_offset", grpc_timeout_header_offset)?.unwrap_or_default(),
    })
}

fn choice(
    cx: &mut Cx,
    m: Option<route::route_action::ClusterSpecifier>,
    level: &Level,
    above: &Inherited,
    subset: Option<Criteria>,
) -> Res<ClusterChoice> {
    use route::route_action::ClusterSpecifier as C;
    match m {
        Some(C::Cluster(cluster)) if cluster.is_empty() => cx.refuse("cluster", "it is empty"),
        Some(C::Cluster(cluster)) => {
            Ok(ClusterChoice::One(Target { cluster: cx.name(&cluster), headers: above.joined(cx, level, None), host: None, subset }))
        }
        Some(C::ClusterHeader(header)) => {
            Ok(ClusterChoice::Header(matchers::header_name(cx, "cluster_header", &header)?, above.joined(cx, level, None), subset))
        }
        Some(C::WeightedClusters(m)) => cx.within("weighted_clusters", |cx| weighted(cx, m, level, above, subset.as_ref())),
        Some(C::ClusterSpecifierPlugin(plugin)) => cx.refuse("cluster_specifier_plugin", format!("`{plugin}` is not supported")),
        Some(C::InlineClusterSpecifierPlugin(_)) => cx.refuse("inline_cluster_specifier_plugin", "not supported"),
        None => cx.refuse("cluster_specifier", "it is required"),
    }
}

fn weighted(cx: &mut Cx, m: route::WeightedCluster, level: &Level, above: &Inherited, subset: Option<&Criteria>) -> Res<ClusterChoice> {
    let route::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } = m;
    // The total is the sum of the weights.
    silent!(total_weight);
    harmless!(cx; runtime_key_prefix);
    refused!(cx; random_value_specifier);
    let mut sum = 0u64;
    let targets = cx.each("clusters", clusters, |cx, c| {
        let route::weighted_cluster::ClusterWeight {
            name: title,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = c;
        // Filters have run before a cluster is chosen.
        refused!(cx; cluster_header, typed_per_filter_config);
        let own = headers::level(
            cx,
            Fields {
                request_add: request_headers_to_add,
                request_remove: request_headers_to_remove,
                response_add: response_headers_to_add,
                response_remove: response_headers_to_remove,
            },
        )?;
        if title.is_empty() {
            return cx.refuse("name", "it is required");
        }
        let host = host_rewrite_specifier.map(|h| match h {
            route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host) => name(&host),
        });
        sum += u64::from(number(weight).unwrap_or(0));
        let subset = cluster_lb::merged(subset, metadata_match.and_then(cluster_lb::criteria));
        Ok((sum, Target { cluster: cx.name(&title), headers: above.joined(cx, level, Some(&own)), host, subset }))
    })?;
    if sum == 0 || sum > u64::from(u32::MAX) {
        return cx.refuse("clusters", format!("the weights add up to {sum}"));
    }
    Ok(ClusterChoice::Weighted(targets.into()))
}

fn host_rewrite(cx: &mut Cx, m: Option<route::route_action::HostRewriteSpecifier>) -> Res<HostRewrite> {
    use route::route_action::HostRewriteSpecifier as H;
    Ok(match m {
        None => HostRewrite::Keep,
        Some(H::HostRewriteLiteral(host) | H::HostRewrite(host)) => HostRewrite::Literal(name(&host)),
        Some(H::AutoHostRewrite(auto)) => {
            if auto.value {
                HostRewrite::Endpoint
            } else {
                HostRewrite::Keep
            }
        }
        Some(H::HostRewriteHeader(header)) => HostRewrite::Header(matchers::header_name(cx, "host_rewrite_header", &header)?),
        Some(H::HostRewritePathRegex(m)) => HostRewrite::Path(cx.within("host_rewrite_path_regex", |cx| matchers::rewrite(cx, m))?),
    })
}

fn upgrades(cx: &mut Cx, list: Vec<route::route_action::UpgradeConfig>) -> Res<Vec<(Name, bool)>> {
    cx.each("upgrade_configs", list, |cx, m| {
        let route::route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = m;
        refused!(cx; connect_config);
        let enabled = super::cluster_http::default_true(enabled);
        if enabled && upgrade_type.eq_ignore_ascii_case("CONNECT") {
            return cx.refuse("upgrade_type", "CONNECT is not supported");
        }
        Ok((name(&upgrade_type.to_ascii_lowercase()), enabled))
    })
}

fn retry_policy_of(cx: &mut Cx, m: route::RetryPolicy) -> Res<RetryPolicy> {
    let route::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = m;
    harmless!(cx; retry_options_predicates, rate_limited_retry_back_off, refresh_cluster_on_retry);
    let host_attempts = u32::try_from(host_selection_retry_max_attempts).unwrap_or(1).clamp(1, 100);
    let mut elsewhere = Elsewhere { host_attempts, ..Elsewhere::default() };
    cx.each("retry_host_predicate", retry_host_predicate, |cx, m| avoided(cx, m, &mut elsewhere))?;
    elsewhere.priorities_after = cx.some("retry_priority", retry_priority, other_priorities)?.unwrap_or(0);
    let (mut backoff_base, mut backoff_max) = (Duration::from_millis(25), None);
    if let Some(route::retry_policy::RetryBackOff { base_interval, max_interval }) = retry_back_off {
        backoff_base = cx.duration("retry_back_off.base_interval", base_interval)?.unwrap_or(backoff_base).max(Duration::from_millis(1));
        backoff_max = cx.duration("retry_back_off.max_interval", max_interval)?;
    }
    let on = retry_on_of(cx, &retry_on);
    let status = |cx: &mut Cx, s: u32| u16::try_from(s).map_err(|_| cx.bad("", format!("{s} is not a status")));
    Ok(RetryPolicy {
        on,
        attempts: number(num_retries).unwrap_or(1),
        per_try_timeout: cx.limit("per_try_timeout", per_try_timeout, None)?,
        per_try_idle_timeout: cx.limit("per_try_idle_timeout", per_try_idle_timeout, None)?,
        statuses: held(cx.each("retriable_status_codes", retriable_status_codes, status)?),
        headers: held(cx.each("retriable_headers", retriable_headers, matchers::header)?),
        request_headers: held(cx.each("retriable_request_headers", retriable_request_headers, matchers::header)?),
        backoff_base,
        backoff_max: backoff_max.unwrap_or(backoff_base * 10).max(backoff_base),
        elsewhere,
    })
}

/// Endpoints that a retry avoids.
fn avoided(cx: &mut Cx, m: route::retry_policy::RetryHostPredicate, all: &mut Elsewhere) -> Res<()> {
    let route::retry_policy::RetryHostPredicate { name: title, config_type } = m;
    let config = config_type.map(|route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)| any);
    let of = config.as_ref().map(type_name).unwrap_or_default();
    // Envoy knows them by the name if there is no message.
    match if of.is_empty() { &*title } else { of } {
        "envoy.retry_host_predicates.previous_hosts" | "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" => {
            all.avoid_previous_hosts = true;
        }
        "envoy.retry_host_predicates.omit_canary_hosts" | "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate" => {
            all.avoid_canaries = true;
        }
        "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig" => {
            let OmitHostMetadataConfig { metadata_match } = config.map(|any| cx.unpack(&any)).transpose()?.unwrap_or_default();
            all.avoid = metadata_match.and_then(cluster_lb::criteria);
        }
        other => return cx.refuse("", format!("`{other}` is not supported")),
    }
    Ok(())
}

/// After how many tries the priorities tried are left out.
fn other_priorities(cx: &mut Cx, m: route::retry_policy::RetryPriority) -> Res<u32> {
    let route::retry_policy::RetryPriority { name: _, config_type } = m;
    let Some(route::retry_policy::retry_priority::ConfigType::TypedConfig(any)) = config_type else {
        return cx.refuse("typed_config", "it is required");
    };
    match type_name(&any) {
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig" => {
            let PreviousPrioritiesConfig { update_frequency } = cx.unpack(&any)?;
            match u32::try_from(update_frequency) {
                Ok(0) | Err(_) => cx.refuse("update_frequency", "it must be above 0"),
                Ok(n) => Ok(n),
            }
        }
        other => cx.refuse("typed_config", format!("`{other}` is not supported")),
    }
}

fn retry_on_of(cx: &mut Cx, text: &str) -> RetryOn {
    let mut on = RetryOn::default();
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word {
            "5xx" => on.any_5xx = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "connect-failure" => on.connect_failure = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "refused-stream" => on.refused_stream = true,
            "retriable-status-codes" => on.statuses = true,
            "retriable-headers" => on.headers = true,
            "cancelled" => on.grpc_cancelled = true,
            "deadline-exceeded" => on.grpc_deadline_exceeded = true,
            "internal" => on.grpc_internal = true,
            "resource-exhausted" => on.grpc_resource_exhausted = true,
            "unavailable" => on.grpc_unavailable = true,
            other => cx.warn("retry_on", format!("`{other}` is not known: nothing is tried again because of it")),
        }
    }
    on
}

fn redirect(cx: &mut Cx, m: route::RedirectAction) -> Res<Redirect> {
    use route::redirect_action::{PathRewriteSpecifier as P, RedirectResponseCode as C, SchemeRewriteSpecifier as S};
    let route::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = m;
    let path = match path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(P::PathRedirect(path)) => RedirectPath::Path(path.into()),
        Some(P::PrefixRewrite(prefix)) => RedirectPath::Matched(prefix.into()),
        Some(P::RegexRewrite(m)) => RedirectPath::Regex(cx.within("regex_rewrite", |cx| matchers::rewrite(cx, m))?),
        Some(P::PathRewrite(_)) => return cx.refuse("path_rewrite", "not supported"),
    };
    Ok(Redirect {
        status: match cx.choice("response_code", response_code)? {
            C::MovedPermanently => 301,
            C::Found => 302,
            C::SeeOther => 303,
            C::TemporaryRedirect => 307,
            C::PermanentRedirect => 308,
        },
        scheme: match scheme_rewrite_specifier {
            Some(S::HttpsRedirect(true)) => Some(name("https")),
            Some(S::SchemeRedirect(scheme)) if !scheme.is_empty() => Some(name(&scheme)),
            _ => None,
        },
        host: (!host_redirect.is_empty()).then(|| name(&host_redirect)),
        port: if port_redirect == 0 { None } else { Some(cx.port("port_redirect", port_redirect)?) },
        path,
        strip_query,
    })
}

fn direct(cx: &mut Cx, m: route::DirectResponseAction, max: usize) -> Res<Direct> {
    let route::DirectResponseAction { status, body, body_format } = m;
    refused!(cx; body_format);
    let body = cx.some("body", body, |cx, source| super::access_log::inline(cx, source))?.unwrap_or_default();
    if body.len() > max {
        return cx.refuse("body", format!("longer than {max} bytes"));
    }
    match u16::try_from(status) {
        Ok(status @ 200..=599) => Ok(Direct { status, body: body.into() }),
        _ => cx.refuse("status", format!("{status} is not between 200 and 599")),
    }
}
