//! Clusters.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::config::cluster::v3 as cluster;
use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::r#type::v3 as types;
use mizzen_protos::wkt;

use super::cx::{Cx, Res, flag, harmless, hash_of, name, number, refused, silent, type_name};
use super::{Resource, address, cluster_health, cluster_http, cluster_lb, dynamic, endpoint, tls};
use crate::config::{
    Assignment, BindFrom, Breakers, Cluster, ContentHash, Discovery, Dns, Dynamic, Fallible, IstioService, RetryLimit, Transport,
    TransportMatch, TransportSelect, UpstreamHttp,
};

#[allow(clippy::too_many_lines)] // One message of very many fields, each of which is decided here.
pub(super) fn compile(cx: &mut Cx, bytes: &[u8], hash: ContentHash) -> Res<Resource> {
    let m: cluster::Cluster = cx.decode(bytes)?;
    let cluster::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name: title,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = m;
    cx.resource = name(&title);
    silent!(stats_matcher, wait_for_warm_on_init, cleanup_interval, track_timeout_budgets, track_cluster_stats, queuing_policies);
    silent!(per_connection_buffer_high_watermark_timeout);
    // Where names are asked for is the host's business, which its resolver knows.
    silent!(typed_dns_resolver_config, dns_resolution_config, use_tcp_for_dns_lookups);
    harmless!(cx; lrs_server, lrs_report_endpoint_metrics, preconnect_policy);
    refused!(cx; transport_socket_matcher, upstream_http_protocol_options, common_http_protocol_options, http_protocol_options,
        upstream_config, protocol_selection, dns_resolvers, close_connections_on_host_health_failure);
    // A connection of its own for each downstream connection: ours are never shared across identities, which is what it is for.
    harmless!(cx; connection_pool_per_downstream_connection);

    let dns = Dns {
        refresh: cx.duration("dns_refresh_rate", dns_refresh_rate)?.unwrap_or(Duration::from_secs(5)).max(Duration::from_millis(1)),
        jitter: cx.duration("dns_jitter", dns_jitter)?.unwrap_or_default(),
        on_failure: cx.some("dns_failure_refresh_rate", dns_failure_refresh_rate, refresh_rate)?,
        respect_ttl: respect_dns_ttl,
        least: Duration::ZERO,
        family: dynamic::family(cx, dns_lookup_family)?,
    };
    let (kind, dynamic) = kind(cx, cluster_discovery_type)?;
    let original_dst_port = match (&lb_config, kind) {
        (Some(cluster::cluster::LbConfig::OriginalDstLbConfig(c)), Type::OriginalDst) if dynamic.is_none() => {
            cx.within("original_dst_lb_config", |cx| original_dst(cx, c.clone()))?
        }
        _ => None,
    };
    let (discovery, needs_names) = match dynamic {
        None => (discovery(cx, kind, eds_cluster_config, load_assignment, dns, original_dst_port)?, false),
        Some((mut dynamic, insecure)) => {
            refused!(cx; load_assignment);
            dynamic::hold(cx, &mut dynamic, metadata.as_ref())?;
            (Discovery::Dynamic(Arc::new(dynamic)), !insecure)
        }
    };
    let ignores_unchecked = common_lb_config.as_ref().is_some_and(|common| common.ignore_new_hosts_until_first_hc);
    let given = cluster_lb::Given {
        kind,
        policy: lb_policy,
        config: lb_config,
        subsets: lb_subset_config,
        common: common_lb_config,
        typed: load_balancing_policy,
    };
    let lb = cluster_lb::balancing(cx, given)?.into();
    let (breakers, breakers_high) = breakers(cx, circuit_breakers)?;
    let (mut http, by_authority) = http_of(cx, typed_extension_protocol_options, http2_protocol_options)?;
    if let Some(max) = number(max_requests_per_connection) {
        http.max_requests_per_connection = max;
    }
    let mut transport = transport_of(cx, transport_socket_matches, transport_socket)?;
    if needs_names && !(by_authority && http.auto_sni) && transport.all().any(|transport| *transport != Transport::Raw) {
        return cx
            .refuse("transport_socket", "whoever is called by its name has to be verified by it, unless `allow_insecure_cluster_options`");
    }
    if by_authority {
        transport = by_server_name(transport);
    }
    let speaks_h2 = http.protocol != crate::config::HttpProtocol::Http1;
    let health_check = cluster_health::check(cx, health_checks, kind == Type::OriginalDst, speaks_h2)?;
    if health_check.is_some() && !ignore_health_on_host_removal {
        cx.warn("ignore_health_on_host_removal", "hosts that are named no more are not used any longer, however well checks find them");
    }
    let bind = cx.some("upstream_bind_config", upstream_bind_config, bind_from)?.flatten();
    let keepalive = cx.some("upstream_connection_options", upstream_connection_options, |cx, o| {
        let cluster::UpstreamConnectionOptions { tcp_keepalive, set_local_interface_name_on_upstream_connections, happy_eyeballs_config } =
            o;
        silent!(set_local_interface_name_on_upstream_connections);
        harmless!(cx; happy_eyeballs_config);
        Ok(tcp_keepalive.map(address::keepalive))
    })?;
    cx.each("filters", filters, filter)?;
    let Istio { services, external, alpn_override } = istio(metadata);
    harmless!(cx; per_connection_buffer_limit_bytes);
    let stat_name = if alt_stat_name.is_empty() { &title } else { &alt_stat_name };
    Ok(Resource::Cluster(Arc::new(Cluster {
        name: name(&title),
        hash,
        stat_name: name(stat_name),
        discovery,
        lb,
        connect_timeout: cx.limit("connect_timeout", connect_timeout, None)?.unwrap_or(Duration::from_secs(5)),
        breakers,
        breakers_high,
        health_check: health_check.map(Arc::new),
        ignores_unchecked,
        outlier: cx.some("outlier_detection", outlier_detection, cluster_health::outlier)?.map(Arc::new),
        transport,
        http,
        bind,
        keepalive: keepalive.flatten(),
        services: services.into(),
        external,
        alpn_override,
    })))
}

use cluster::cluster::DiscoveryType as Type;

/// A cluster's kind. One of names that are found on demand is like one of original destinations otherwise: it has no list of endpoints.
fn kind(cx: &mut Cx, m: Option<cluster::cluster::ClusterDiscoveryType>) -> Res<(Type, Option<(Dynamic, bool)>)> {
    match m {
        None => Ok((Type::Static, None)),
        Some(cluster::cluster::ClusterDiscoveryType::Type(t)) => Ok((cx.choice("type", t)?, None)),
        Some(cluster::cluster::ClusterDiscoveryType::ClusterType(cluster::cluster::CustomClusterType { name: title, typed_config })) => {
            let dynamic = cx.within("cluster_type", |cx| dynamic::of_cluster(cx, &title, typed_config))?;
            Ok((Type::OriginalDst, Some(dynamic)))
        }
    }
}

pub(super) fn refresh_rate(cx: &mut Cx, m: cluster::cluster::RefreshRate) -> Res<Fallible> {
    let cluster::cluster::RefreshRate { base_interval, max_interval } = m;
    let base = cx.duration("base_interval", base_interval)?.unwrap_or(Duration::from_secs(5));
    Ok(Fallible { base, max: cx.duration("max_interval", max_interval)?.unwrap_or(base * 10) })
}

fn original_dst(cx: &mut Cx, m: cluster::cluster::OriginalDstLbConfig) -> Res<Option<u16>> {
    let cluster::cluster::OriginalDstLbConfig { use_http_header, http_header_name, upstream_port_override, metadata_key } = m;
    refused!(cx; use_http_header, http_header_name, metadata_key);
    number(upstream_port_override).map(|p| cx.port("upstream_port_override", p)).transpose()
}

fn discovery(
    cx: &mut Cx,
    kind: Type,
    eds: Option<cluster::cluster::EdsClusterConfig>,
    load: Option<mizzen_protos::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment>,
    dns: Dns,
    port: Option<u16>,
) -> Res<Discovery> {
    let names = matches!(kind, Type::StrictDns | Type::LogicalDns);
    let load = cx.some("load_assignment", load, |cx, m| {
        let hash = hash_of(&m);
        endpoint::assignment(cx, m, hash, names)
    })?;
    let given = |load: Option<Assignment>| Arc::new(load.unwrap_or_else(|| Assignment::empty(cx.resource.clone())));
    Ok(match kind {
        Type::Eds => {
            let cluster::cluster::EdsClusterConfig { eds_config, service_name } = eds.unwrap_or_default();
            silent!(eds_config);
            Discovery::Eds { service: if service_name.is_empty() { cx.resource.clone() } else { name(&service_name) } }
        }
        Type::Static => Discovery::Static(given(load)),
        Type::StrictDns => Discovery::StrictDns(given(load), dns),
        Type::LogicalDns => {
            let load = given(load);
            if load.endpoints().count() != 1 {
                return cx.refuse("load_assignment", "a LOGICAL_DNS cluster has exactly one endpoint");
            }
            Discovery::LogicalDns(load, dns)
        }
        Type::OriginalDst => Discovery::OriginalDst { port },
    })
}

const DEFAULT: Breakers = Breakers { connections: 1024, pending: 1024, requests: 1024, retries: RetryLimit::Most(3) };

fn breakers(cx: &mut Cx, m: Option<cluster::CircuitBreakers>) -> Res<(Breakers, Breakers)> {
    let cluster::CircuitBreakers { thresholds, per_host_thresholds } = m.unwrap_or_default();
    refused!(cx; per_host_thresholds);
    let (mut default, mut high) = (DEFAULT, DEFAULT);
    let all = cx.each("circuit_breakers.thresholds", thresholds, |cx, t| {
        let cluster::circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = t;
        silent!(track_remaining);
        harmless!(cx; max_connection_pools);
        let breakers = Breakers {
            connections: number(max_connections).unwrap_or(DEFAULT.connections),
            pending: number(max_pending_requests).unwrap_or(DEFAULT.pending),
            requests: number(max_requests).unwrap_or(DEFAULT.requests),
            // A budget takes the place of the number.
            retries: match retry_budget {
                Some(budget) => retry_limit(cx, budget)?,
                None => number(max_retries).map_or(DEFAULT.retries, RetryLimit::Most),
            },
        };
        Ok((cx.choice("priority", priority)?, breakers))
    })?;
    // Of several for one priority, the first counts.
    for (priority, breakers) in all.into_iter().rev() {
        match priority {
            core::RoutingPriority::Default => default = breakers,
            core::RoutingPriority::High => high = breakers,
        }
    }
    Ok((default, high))
}

fn retry_limit(cx: &Cx, m: cluster::circuit_breakers::thresholds::RetryBudget) -> Res<RetryLimit> {
    let cluster::circuit_breakers::thresholds::RetryBudget { budget_percent, min_retry_concurrency, budget_interval } = m;
    // Requests that have ended count no more.
    if cx.duration("retry_budget.budget_interval", budget_interval)?.is_some_and(|interval| !interval.is_zero()) {
        return cx.refuse("retry_budget.budget_interval", "not supported");
    }
    let percent = budget_percent.map_or(20.0, |types::Percent { value }| value);
    if !(0.0..=100.0).contains(&percent) {
        return cx.refuse("retry_budget.budget_percent", format!("{percent} is not between 0 and 100"));
    }
    Ok(RetryLimit::Budget { percent, least: number(min_retry_concurrency).unwrap_or(3) })
}

/// HTTP towards the endpoints, and whether their certificates must name the request's authority.
fn http_of(
    cx: &mut Cx,
    options: std::collections::HashMap<String, mizzen_protos::Any>,
    h2: Option<core::Http2ProtocolOptions>,
) -> Res<(UpstreamHttp, bool)> {
    let (mut http, mut by_authority) = (UpstreamHttp::default(), false);
    if let Some(h2) = h2 {
        http.protocol = crate::config::HttpProtocol::Http2;
        http.h2 = cx.within("http2_protocol_options", |cx| cluster_http::http2(cx, h2))?;
    }
    for (key, any) in options {
        let field = format!("typed_extension_protocol_options[{key}]");
        (http, by_authority) = cx.within(&field, |cx| match type_name(&any) {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" => cluster_http::upstream(cx, cx.unpack(&any)?),
            other => cx.refuse("", format!("{other} is not supported")),
        })?;
    }
    Ok((http, by_authority))
}

fn transport_of(
    cx: &mut Cx,
    matches: Vec<cluster::cluster::TransportSocketMatch>,
    socket: Option<core::TransportSocket>,
) -> Res<TransportSelect> {
    let matches = cx.each("transport_socket_matches", matches, |cx, m| {
        let cluster::cluster::TransportSocketMatch { name: title, r#match, transport_socket } = m;
        let labels = r#match.map(endpoint::labels).unwrap_or_default();
        let transport = cx.must("transport_socket", transport_socket, tls::upstream)?;
        Ok(TransportMatch { name: name(&title), labels: labels.into(), transport })
    })?;
    let default = cx.some("transport_socket", socket, tls::upstream)?.unwrap_or(Transport::Raw);
    Ok(TransportSelect { matches: matches.into(), default })
}

/// Certificates have to name the server name that is sent, which is the request's authority.
fn by_server_name(select: TransportSelect) -> TransportSelect {
    let turn = |transport: &Transport| match transport {
        Transport::Raw => Transport::Raw,
        Transport::Tls(tls) if tls.common.validation.is_none() || tls.verify_server_name => Transport::Tls(tls.clone()),
        Transport::Tls(tls) => {
            let hash = ContentHash(!tls.hash.0);
            Transport::Tls(Arc::new(crate::config::UpstreamTls { verify_server_name: true, hash, ..(**tls).clone() }))
        }
    };
    let matches = select.matches.iter().map(|m| TransportMatch { transport: turn(&m.transport), ..m.clone() }).collect();
    TransportSelect { matches, default: turn(&select.default) }
}

fn bind_from(cx: &mut Cx, m: core::BindConfig) -> Res<Option<BindFrom>> {
    let core::BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = m;
    refused!(cx; socket_options, local_address_selector, validate_network_namespaces);
    cx.never("freebind", freebind)?;
    let source = cx.some("source_address", source_address, |cx, a| address::socket(cx, a))?;
    let mut extra = cx.each("extra_source_addresses", extra_source_addresses, |cx, a| {
        let core::ExtraSourceAddress { address, socket_options } = a;
        refused!(cx; socket_options);
        cx.must("address", address, |cx, a| address::socket(cx, a))
    })?;
    extra.extend(cx.each("additional_source_addresses", additional_source_addresses, |cx, a| address::socket(cx, a))?);
    Ok(source.map(|source| BindFrom { source, extra: extra.into() }))
}

/// Istio's metadata exchange on the upstream's side, which only labels.
fn filter(cx: &mut Cx, m: cluster::Filter) -> Res<()> {
    let cluster::Filter { name: title, typed_config, config_discovery } = m;
    refused!(cx; config_discovery);
    let kind = cx.some("typed_config", typed_config, |cx, any| crate::filter::payload::payload(cx, &any).map(|p| p.kind))?;
    match kind.as_deref() {
        Some(crate::filter::metadata_exchange::TYPE) => Ok(()),
        Some(kind) => cx.refuse("typed_config", format!("filter `{title}` of type {kind} is not supported")),
        None => cx.refuse("typed_config", format!("filter `{title}` has none")),
    }
}

/// What Istio says of a cluster.
struct Istio {
    services: Vec<IstioService>,
    external: bool,
    alpn_override: bool,
}

fn istio(metadata: Option<core::Metadata>) -> Istio {
    use wkt::value::Kind as K;
    let fields = metadata.and_then(|mut m| m.filter_metadata.remove("istio")).map(|s| s.fields);
    let mut fields = fields.unwrap_or_default();
    let external = matches!(fields.remove("external").and_then(|v| v.kind), Some(K::BoolValue(true)));
    let alpn_override = !matches!(fields.remove("alpn_override").and_then(|v| v.kind), Some(K::StringValue(text)) if text == "false");
    let services = match fields.remove("services").and_then(|v| v.kind) {
        Some(K::ListValue(list)) => list.values,
        _ => Vec::new(),
    };
    let service = |v: wkt::Value| {
        let Some(K::StructValue(mut s)) = v.kind else { return None };
        let mut text = |key: &str| match s.fields.remove(key).and_then(|v| v.kind) {
            Some(K::StringValue(t)) => name(&t),
            _ => name(""),
        };
        Some(IstioService { host: text("host"), name: text("name"), namespace: text("namespace") })
    };
    Istio { services: services.into_iter().filter_map(service).collect(), external, alpn_override }
}

/// Whether a flag is set, where unset is false.
pub(super) fn is_true(value: Option<wkt::BoolValue>) -> bool {
    flag(value).unwrap_or(false)
}
