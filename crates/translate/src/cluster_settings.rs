//! What a traffic policy says of a cluster: its balancer, limits, detection of failing endpoints, and how HTTP is written.

use mizzen_api::istio::{HashTable, HttpPool, LbPolicy as Wanted, OutlierDetection, SimpleLb, Warmup};
use mizzen_protos::{
    envoy::envoy::{
        config::{
            cluster::v3::{
                CircuitBreakers, OutlierDetection as Outlier, UpstreamConnectionOptions,
                circuit_breakers::{Thresholds, thresholds::RetryBudget},
                cluster::{
                    DiscoveryType, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
                    SlowStartConfig,
                },
            },
            core::v3::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, RuntimeDouble, TcpKeepalive},
        },
        extensions::upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
            },
        },
        r#type::v3::Percent,
    },
    wkt,
};
use mizzen_types::Protocol;

use crate::{scope::Scope, traffic::Policy, wire};

pub(crate) fn balancer(kind: DiscoveryType, policy: &Policy) -> (LbPolicy, Option<LbConfig>) {
    if kind == DiscoveryType::OriginalDst {
        return (LbPolicy::ClusterProvided, None);
    }
    let Some(wanted) = &policy.load_balancer else { return (LbPolicy::LeastRequest, None) };
    let warmup = wanted.warmup.map(slow_start);
    match &wanted.policy {
        Wanted::Simple(SimpleLb::LeastRequest) => {
            let config =
                |start| LbConfig::LeastRequestLbConfig(LeastRequestLbConfig { slow_start_config: Some(start), ..Default::default() });
            (LbPolicy::LeastRequest, warmup.map(config))
        }
        Wanted::Simple(SimpleLb::RoundRobin) => {
            let config = |start| LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(start) });
            (LbPolicy::RoundRobin, warmup.map(config))
        }
        Wanted::Simple(SimpleLb::Passthrough) => (LbPolicy::RoundRobin, None),
        Wanted::Simple(SimpleLb::Random) => (LbPolicy::Random, None),
        Wanted::Hash(hash) => match hash.table {
            HashTable::Ring(size) => {
                let config = |size| RingHashLbConfig { minimum_ring_size: Some(wkt::UInt64Value { value: size }), ..Default::default() };
                (LbPolicy::RingHash, size.map(config).map(LbConfig::RingHashLbConfig))
            }
            HashTable::Maglev(size) => {
                let config = |size| MaglevLbConfig { table_size: Some(wkt::UInt64Value { value: size }) };
                (LbPolicy::Maglev, size.map(config).map(LbConfig::MaglevLbConfig))
            }
        },
    }
}

fn slow_start(warmup: Warmup) -> SlowStartConfig {
    // The key has to be there, and is meant to name nothing: Istio sends this one.
    let aggression = |value| RuntimeDouble { default_value: value, runtime_key: "(".into() };
    SlowStartConfig {
        slow_start_window: Some(wire::duration(warmup.duration)),
        aggression: warmup.aggression.map(aggression),
        min_weight_percent: warmup.minimum_percent.map(|value| Percent { value }),
    }
}

pub(crate) fn limits(policy: &Policy) -> CircuitBreakers {
    let of = |limit: Option<u32>| Some(wire::u32_value(limit.unwrap_or(u32::MAX)));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: of(policy.pool.tcp.max_connections),
            max_pending_requests: of(policy.pool.http.http1_max_pending_requests),
            max_requests: of(policy.pool.http.http2_max_requests),
            max_retries: of(policy.pool.http.max_retries),
            retry_budget: policy.retry_budget.map(|budget| RetryBudget {
                budget_percent: Some(Percent { value: budget.percent }),
                min_retry_concurrency: Some(wire::u32_value(budget.min_retry_concurrency)),
                budget_interval: None,
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Probes of silent connections, by the rule or else the mesh.
pub(crate) fn keepalive(scope: &Scope<'_, '_>, policy: &Policy) -> Option<UpstreamConnectionOptions> {
    let wanted = policy.pool.tcp.keepalive.or(scope.mesh().tcp_keepalive);
    let seconds = |time: std::time::Duration| wire::u32_value(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    (wanted != Default::default()).then(|| UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: wanted.probes.map(wire::u32_value),
            keepalive_time: wanted.time.map(seconds),
            keepalive_interval: wanted.interval.map(seconds),
        }),
        ..Default::default()
    })
}

pub(crate) fn outlier(wanted: &OutlierDetection) -> Outlier {
    let enforced = |count: u32| Some(wire::u32_value(if count > 0 { 100 } else { 0 }));
    let mut made = Outlier {
        interval: wanted.interval.map(wire::duration),
        base_ejection_time: wanted.base_ejection_time.map(wire::duration),
        max_ejection_percent: wanted.max_ejection_percent.filter(|p| *p > 0).map(wire::u32_value),
        enforcing_success_rate: Some(wire::u32_value(0)),
        ..Default::default()
    };
    if let Some(count) = wanted.consecutive_5xx_errors {
        made.consecutive_5xx = Some(wire::u32_value(count));
        made.enforcing_consecutive_5xx = enforced(count);
    }
    if let Some(count) = wanted.consecutive_gateway_errors {
        made.consecutive_gateway_failure = Some(wire::u32_value(count));
        made.enforcing_consecutive_gateway_failure = enforced(count);
    }
    if wanted.split_external_local_origin_errors {
        made.split_external_local_origin_errors = true;
        made.enforcing_local_origin_success_rate = Some(wire::u32_value(0));
        if let Some(count) = wanted.consecutive_local_origin_failures {
            made.consecutive_local_origin_failure = Some(wire::u32_value(count));
            made.enforcing_consecutive_local_origin_failure = enforced(count);
        }
    }
    made
}

fn http2(pool: &HttpPool) -> Http2ProtocolOptions {
    Http2ProtocolOptions { max_concurrent_streams: pool.max_concurrent_streams.map(wire::u32_value), ..Default::default() }
}

/// Requests go on in the version in which they came.
pub(crate) fn as_downstream(pool: Option<&HttpPool>) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(pool.map(http2).unwrap_or_default()),
        ..Default::default()
    })
}

/// How requests are written: HTTP/2 where that is sure, as received where nothing is or the rule says so, else HTTP/1.1, which needs no word unless
/// there are limits.
pub(crate) fn http_options(policy: &Policy, protocol: Protocol, is_http2: bool) -> Option<HttpProtocolOptions> {
    let (tcp, http) = (&policy.pool.tcp, &policy.pool.http);
    let common = CommonOptions {
        idle_timeout: http.idle_timeout.or(tcp.idle_timeout).map(wire::duration),
        max_connection_duration: tcp.max_connection_duration.map(wire::duration),
        max_requests_per_connection: http.max_requests_per_connection.filter(|n| *n > 0).map(wire::u32_value),
        ..Default::default()
    };
    let limited = common != CommonOptions::default();
    let upstream = if is_http2 {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2(http))),
        })
    } else if protocol == Protocol::Auto || http.use_client_protocol {
        as_downstream(Some(http))
    } else if limited {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
        })
    } else {
        return None;
    };
    Some(HttpProtocolOptions {
        common_http_protocol_options: limited.then_some(common),
        upstream_protocol_options: Some(upstream),
        ..Default::default()
    })
}
