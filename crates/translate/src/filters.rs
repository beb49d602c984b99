//! Filters: the HTTP connection manager with its list, the TCP proxy, and Istio's own.

use std::sync::LazyLock;

use mizzen_api::istio::{Fault, FaultStatus, ForwardClientCert, GatewayTopology, PathNormalization};
use mizzen_protos::{
    alpn,
    envoy::envoy::{
        config::route::v3::RouteConfiguration,
        extensions::{
            filters::{
                common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
                http::{
                    cors::v3::Cors,
                    fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
                    grpc_stats,
                    router::v3::Router,
                },
                network::{
                    http_connection_manager::v3::{
                        HttpConnectionManager, Rds,
                        http_connection_manager::{
                            ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, SetCurrentClientCertDetails,
                            UpgradeConfig,
                        },
                    },
                    tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
                },
            },
            request_id::uuid::v3::UuidRequestIdConfig,
        },
        r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
};

use crate::{
    access_log,
    draft::{Http, Istio, Log, Manager, NetworkFilter, Tcp},
    hash,
    scope::{Extension, Scope},
    tls,
    traffic::Policy,
    wire,
};

/// On which side of the proxy a filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Towards the own workload.
    Inbound,
    /// From the own workload.
    Outbound,
    /// A gateway.
    Gateway,
}

/// The TCP metadata exchange, if the proxy has it.
pub(crate) fn tcp_metadata(scope: &Scope<'_, '_>) -> Option<&'static Istio> {
    static CONFIG: LazyLock<Istio> = LazyLock::new(|| {
        let value = wire::object([("enable_discovery", wire::flag(true)), ("protocol", wire::text("istio-peer-exchange"))]);
        Istio::new(wire::typed_struct("type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange", value))
    });
    scope.has(Extension::TcpMetadata).then(|| &*CONFIG)
}

/// Istio's metrics of connections, if the proxy has them.
pub(crate) fn tcp_stats(scope: &Scope<'_, '_>, side: Side) -> Option<NetworkFilter> {
    scope.has(Extension::TcpStats).then(|| NetworkFilter::Stats(stats_config(side)))
}

fn stats_config(side: Side) -> &'static Istio {
    static BY_SIDE: LazyLock<[Istio; 2]> = LazyLock::new(|| {
        // On the server's side the Host header is the caller's word, no name for a metric.
        [true, false].map(|is_server| {
            let own = is_server.then(|| ("disable_host_header_fallback", wire::flag(true)));
            Istio::new(wire::typed_struct("type.googleapis.com/stats.PluginConfig", wire::object(own)))
        })
    });
    let [of_server, of_client] = &*BY_SIDE;
    if side == Side::Inbound { of_server } else { of_client }
}

fn http_metadata(side: Side) -> &'static Istio {
    static BY_SIDE: LazyLock<[Istio; 2]> = LazyLock::new(|| {
        let flows = [["downstream_discovery", "downstream_propagation"], ["upstream_discovery", "upstream_propagation"]];
        flows.map(|[discovery, propagation]| {
            let empty = |name| wire::nested(wire::object([(name, wire::nested(wire::object([])))]));
            let value = wire::object([
                (discovery, wire::list(vec![empty("istio_headers"), empty("workload_discovery")])),
                (propagation, wire::list(vec![empty("istio_headers")])),
            ]);
            Istio::new(wire::typed_struct("type.googleapis.com/io.istio.http.peer_metadata.Config", value))
        })
    });
    let [of_server, of_client] = &*BY_SIDE;
    if side == Side::Inbound { of_server } else { of_client }
}

fn alpn_config() -> alpn::FilterConfig {
    use alpn::filter_config::{AlpnOverride, Protocol};
    let rule = |protocol: Protocol, names: [&str; 3]| AlpnOverride {
        upstream_protocol: protocol.into(),
        alpn_override: names.iter().map(|&n| n.into()).collect(),
    };
    alpn::FilterConfig {
        alpn_override: vec![
            rule(Protocol::Http10, ["istio-http/1.0", "istio", "http/1.0"]),
            rule(Protocol::Http11, ["istio-http/1.1", "istio", "http/1.1"]),
            rule(Protocol::Http2, ["istio-h2", "istio", "h2"]),
        ],
    }
}

/// The HTTP filters of one side, in Istio's order, with these authorization filters, and these before the router.
fn http_filters(scope: &Scope<'_, '_>, side: Side, rbac: Vec<Http>, last: Vec<Http>) -> Vec<Http> {
    let mut filters = Vec::new();
    if scope.has(Extension::HttpMetadata) {
        filters.push(Http::PeerMetadata(http_metadata(side)));
    }
    filters.extend(rbac);
    let grpc = grpc_stats::v3::FilterConfig {
        emit_filter_state: true,
        per_method_stat_specifier: Some(grpc_stats::v3::filter_config::PerMethodStatSpecifier::StatsForAllMethods(wire::bool_value(false))),
        ..Default::default()
    };
    filters.push(Http::GrpcStats(grpc));
    if side != Side::Inbound && scope.has(Extension::Alpn) {
        filters.push(Http::Alpn(alpn_config()));
    }
    filters.push(Http::Fault(Box::default()));
    filters.push(Http::Cors(Cors::default()));
    if scope.has(Extension::HttpStats) {
        filters.push(Http::Stats(stats_config(side)));
    }
    filters.extend(last);
    filters.push(Http::Router(Router::default()));
    filters
}

/// What a route has the fault filter do.
pub(crate) fn fault(fault: &Fault) -> HttpFault {
    let share = |of_a_million| Some(FractionalPercent { numerator: of_a_million, denominator: DenominatorType::Million.into() });
    HttpFault {
        delay: fault.delay.as_ref().map(|delay| FaultDelay {
            percentage: share(delay.of_a_million),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(wire::duration(delay.fixed))),
        }),
        abort: fault.abort.as_ref().map(|abort| FaultAbort {
            percentage: share(abort.of_a_million),
            error_type: Some(match abort.status {
                FaultStatus::Http(status) => ErrorType::HttpStatus(status.into()),
                FaultStatus::Grpc(status) => ErrorType::GrpcStatus(status),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Where a connection manager's routes come from.
pub(crate) enum Routes {
    /// A resource of its own.
    Rds(String),
    /// Within.
    Inline(Box<RouteConfiguration>),
}

/// An HTTP connection manager, with these authorization filters, and these before the router.
pub(crate) fn http_manager(
    scope: &Scope<'_, '_>,
    side: Side,
    stat_prefix: String,
    routes: Routes,
    (rbac, last): (Vec<Http>, Vec<Http>),
) -> NetworkFilter {
    let details =
        |cert| SetCurrentClientCertDetails { subject: Some(wire::bool_value(true)), cert, dns: true, uri: true, ..Default::default() };
    let topology = match side {
        Side::Gateway => scope.view.topology(scope.reader),
        Side::Inbound | Side::Outbound => GatewayTopology::default(),
    };
    let (forward, set) = match side {
        Side::Inbound => (ForwardClientCertDetails::AppendForward, Some(details(false))),
        Side::Outbound => (ForwardClientCertDetails::Sanitize, None),
        Side::Gateway => (forwarded(topology.client_cert.unwrap_or_default()), Some(details(true))),
    };
    let request_id = UuidRequestIdConfig { use_request_id_for_trace_sampling: Some(wire::bool_value(true)), ..Default::default() };
    let paths = scope.mesh().path_normalization;
    let escaped = match paths {
        PathNormalization::DecodeAndMergeSlashes => PathWithEscapedSlashesAction::UnescapeAndForward,
        _ => PathWithEscapedSlashesAction::KeepUnchanged,
    };
    let head = HttpConnectionManager {
        stat_prefix,
        http_protocol_options: (side == Side::Gateway).then(Default::default),
        server_name: if side == Side::Outbound { String::new() } else { "istio-envoy".into() },
        stream_idle_timeout: Some(wire::seconds(0)),
        use_remote_address: Some(wire::bool_value(side == Side::Gateway)),
        xff_num_trusted_hops: topology.trusted_proxies.unwrap_or_default(),
        forward_client_cert_details: forward.into(),
        set_current_client_cert_details: set,
        proxy_100_continue: true,
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }],
        normalize_path: Some(wire::bool_value(paths != PathNormalization::None)),
        merge_slashes: matches!(paths, PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes),
        path_with_escaped_slashes_action: escaped.into(),
        route_specifier: Some(match routes {
            Routes::Rds(name) => RouteSpecifier::Rds(Rds { config_source: Some(tls::ads()), route_config_name: name }),
            Routes::Inline(config) => RouteSpecifier::RouteConfig(*config),
        }),
        ..Default::default()
    };
    let filters = http_filters(scope, side, rbac, last);
    NetworkFilter::Http(Box::new(Manager { head, filters, request_id: Some(request_id), log: access_log::log(scope.mesh()) }))
}

fn forwarded(forward: ForwardClientCert) -> ForwardClientCertDetails {
    match forward {
        ForwardClientCert::Sanitize => ForwardClientCertDetails::Sanitize,
        ForwardClientCert::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        ForwardClientCert::AppendForward => ForwardClientCertDetails::AppendForward,
        ForwardClientCert::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        ForwardClientCert::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    }
}

/// A TCP proxy to one cluster, or several by weight, with the limits of a policy.
pub(crate) fn tcp_proxy(stat_prefix: &str, to: ClusterSpecifier, log: Option<Log>, policy: &Policy) -> NetworkFilter {
    let limits = &policy.pool.tcp;
    let head = TcpProxy {
        stat_prefix: stat_prefix.into(),
        idle_timeout: limits.idle_timeout.map(wire::duration),
        max_downstream_connection_duration: limits.max_connection_duration.map(wire::duration),
        hash_policy: policy.hashes_source().then(hash::of_connections).into_iter().collect(),
        cluster_specifier: Some(to),
        ..Default::default()
    };
    NetworkFilter::Tcp(Box::new(Tcp { head, log }))
}

/// A TCP proxy to one cluster, logged unless it is the black hole of a port that nobody may call.
pub(crate) fn tcp_to(scope: &Scope<'_, '_>, cluster: &str) -> NetworkFilter {
    tcp_proxy(cluster, ClusterSpecifier::Cluster(cluster.into()), access_log::log(scope.mesh()), &Policy::default())
}

/// A TCP proxy to the black hole, without a log.
pub(crate) fn black_hole() -> NetworkFilter {
    tcp_proxy(crate::names::BLACK_HOLE, ClusterSpecifier::Cluster(crate::names::BLACK_HOLE.into()), None, &Policy::default())
}
