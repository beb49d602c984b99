//! Listeners, filter chains and network filters.

use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::config::listener::v3 as listener;
use mizzen_protos::envoy::envoy::extensions::filters::listener::original_src::v3 as original_src;
use mizzen_protos::envoy::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;
use mizzen_protos::envoy::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
use mizzen_protos::envoy::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use mizzen_protos::envoy::envoy::r#type::v3 as types;

use super::cluster_http::{HOUR, default_true};
use super::cx::{Cx, Res, harmless, hash_of, held, name, number, refused, silent, type_name};
use super::{Resource, access_log, address, cluster, cluster_lb, dynamic, format, hash_policy, hcm, headers, parts, tls};
use crate::config::{
    ChainMatch, ContentHash, Direction, EndpointAddress, FilterChain, Filters, Listener, ListenerAddress, ListenerFilter, NetworkFilter,
    PortPredicate, SourceType, TcpProxy, TcpTarget, Terminal, TransportProtocol, Tunnel, Used,
};
use crate::filter;

/// The number of the field.
const FILTER_CHAINS: u32 = 3;

#[allow(clippy::too_many_lines)] // One message of very many fields, each of which is decided here.
pub(super) fn compile(cx: &mut Cx, bytes: &[u8], hash: ContentHash) -> Res<Resource> {
    let (rest, chains) = parts::split(bytes, FILTER_CHAINS).ok_or_else(|| cx.bad("", "not readable"))?;
    let m: listener::Listener = cx.decode(&rest)?;
    let listener::Listener {
        name: title,
        address,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains: _,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        access_log,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive,
        listener_specifier,
    } = m;
    cx.resource = name(&title);
    silent!(stat_prefix, stats_matcher, metadata, drain_type, tcp_fast_open_queue_length, connection_balance_config, reuse_port);
    silent!(enable_reuse_port, max_connections_to_accept_per_socket_event, bypass_overload_manager);
    silent!(enable_mptcp, per_connection_buffer_high_watermark_timeout);
    harmless!(cx; per_connection_buffer_limit_bytes);
    refused!(cx; fcds_config, filter_chain_matcher, socket_options, udp_listener_config, api_listener);
    let internal = match listener_specifier {
        None => false,
        Some(listener::listener::ListenerSpecifier::InternalListener(listener::listener::InternalListenerConfig {})) => true,
    };
    let bind = !internal
        && default_true(bind_to_port)
        && deprecated_v1.is_none_or(|listener::listener::DeprecatedV1 { bind_to_port }| default_true(bind_to_port));

    let mut addresses = Vec::new();
    if internal {
        refused!(cx; address, additional_addresses);
    } else {
        addresses.push(cx.must("address", address, one_address)?);
    }
    addresses.extend(cx.each("additional_addresses", additional_addresses, |cx, a| {
        let listener::AdditionalAddress { address, socket_options, tcp_keepalive } = a;
        refused!(cx; socket_options);
        silent!(tcp_keepalive);
        cx.must("address", address, one_address)
    })?);
    // One after the other: what a thousand of them take while they are read would be spread among what is kept of them.
    let chains: Vec<Arc<FilterChain>> = cx.each("filter_chains", chains, |cx, bytes| {
        let message = cx.decode(bytes)?;
        chain(cx, message).map(Arc::new)
    })?;
    for (i, chain) in chains.iter().enumerate() {
        if chains.iter().take(i).any(|other| other.matching == chain.matching) {
            return cx.refuse(&format!("filter_chains[{i}].filter_chain_match"), "another chain has the same");
        }
    }
    let default_chain = cx.some("default_filter_chain", default_filter_chain, chain)?.map(Arc::new);
    if chains.is_empty() && default_chain.is_none() {
        return cx.refuse("filter_chains", "there is none");
    }
    let use_original_dst = cluster::is_true(use_original_dst);
    let listener_filters = listener_filters_of(cx, listener_filters, use_original_dst)?;
    let tunnels = |chain: &Arc<FilterChain>| matches!(&chain.filters.last, Terminal::Tcp(proxy) if proxy.tunnel.is_some());
    if let Some(i) = listener_filters.iter().position(|filter| matches!(filter, ListenerFilter::OriginalSrc(..)))
        && chains.iter().chain(&default_chain).any(tunnels)
    {
        return cx.refuse(&format!("listener_filters[{i}]"), "a tunnel through an HTTP proxy does not come from the client's address");
    }
    Ok(Resource::Listener(Arc::new(Listener {
        name: name(&title),
        hash,
        addresses: addresses.into(),
        internal,
        bind,
        use_original_dst,
        listener_filters,
        peek_timeout: cx.limit("listener_filters_timeout", listener_filters_timeout, Some(Duration::from_secs(15)))?,
        continue_on_timeout: continue_on_listener_filters_timeout,
        chains: chains.into(),
        default_chain,
        direction: match cx.choice("traffic_direction", traffic_direction)? {
            core::TrafficDirection::Unspecified => Direction::Unspecified,
            core::TrafficDirection::Inbound => Direction::Inbound,
            core::TrafficDirection::Outbound => Direction::Outbound,
        },
        access_log: access_log::list(cx, access_log)?,
        backlog: number(tcp_backlog_size),
        keepalive: tcp_keepalive.map(address::keepalive),
        freebind: cluster::is_true(freebind),
        transparent: cluster::is_true(transparent),
        ignores_global_limit: ignore_global_conn_limit,
        used: Used::default(),
    })))
}

fn one_address(cx: &mut Cx, m: core::Address) -> Res<ListenerAddress> {
    match address::address(cx, m, false)? {
        EndpointAddress::Socket(address) => Ok(ListenerAddress::Socket(address)),
        EndpointAddress::Pipe(path) => Ok(ListenerAddress::Pipe(path)),
        EndpointAddress::Dns(..) => cx.refuse("", "not an IP address"),
        EndpointAddress::Internal(..) => cx.refuse("", "an internal listener has `internal_listener` and no address"),
    }
}

fn listener_filters_of(cx: &mut Cx, list: Vec<listener::ListenerFilter>, use_original_dst: bool) -> Res<Arc<[ListenerFilter]>> {
    let found = cx.each("listener_filters", list, |cx, m| {
        let listener::ListenerFilter { name: title, filter_disabled, config_type } = m;
        let disabled = cx.some("filter_disabled", filter_disabled, predicate)?.unwrap_or_default();
        let any = match config_type {
            Some(listener::listener_filter::ConfigType::TypedConfig(any)) => any,
            _ => return cx.refuse("typed_config", format!("listener filter `{title}` has none")),
        };
        match type_name(&any) {
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => Ok(ListenerFilter::OriginalDst(disabled)),
            "envoy.extensions.filters.listener.original_src.v3.OriginalSrc" => {
                let mark = cx.within("typed_config", |cx| source_mark(cx, &any))?;
                Ok(ListenerFilter::OriginalSrc(disabled, mark))
            }
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => Ok(ListenerFilter::HttpInspector(disabled)),
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
                let tls_inspector::TlsInspector {
                    enable_ja3_fingerprinting,
                    enable_ja4_fingerprinting,
                    initial_read_buffer_size,
                    close_connection_on_client_hello_parsing_errors,
                    max_client_hello_size,
                } = cx.within("typed_config", |cx| cx.unpack(&any))?;
                silent!(initial_read_buffer_size, max_client_hello_size);
                cx.never("typed_config.enable_ja3_fingerprinting", enable_ja3_fingerprinting)?;
                cx.never("typed_config.enable_ja4_fingerprinting", enable_ja4_fingerprinting)?;
                refused!(cx; close_connection_on_client_hello_parsing_errors);
                Ok(ListenerFilter::TlsInspector(disabled))
            }
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
                cx.within("typed_config", |cx| proxy_header(cx, &any))?;
                Ok(ListenerFilter::ProxyProtocol(disabled))
            }
            other => cx.refuse("typed_config", format!("listener filter `{title}` of type {other} is not supported")),
        }
    })?;
    // What looks at the first bytes would see the header.
    let looks = |filter: &ListenerFilter| matches!(filter, ListenerFilter::TlsInspector(_) | ListenerFilter::HttpInspector(_));
    let headers = found.iter().enumerate().filter(|(_, filter)| matches!(filter, ListenerFilter::ProxyProtocol(_)));
    for (at, (i, _)) in headers.enumerate() {
        let reason = if at > 0 {
            "one header is read"
        } else if found.iter().take(i).any(looks) {
            "the PROXY protocol's header comes before what other filters look at"
        } else if use_original_dst {
            "a listener with `use_original_dst` does not read the PROXY protocol"
        } else {
            continue;
        };
        return cx.refuse(&format!("listener_filters[{i}]"), reason);
    }
    let sources = found.iter().enumerate().filter(|(_, filter)| matches!(filter, ListenerFilter::OriginalSrc(..)));
    for (at, (i, _)) in sources.enumerate() {
        let reason = if at > 0 {
            "connections come from one address"
        } else if found.iter().skip(i).any(|filter| matches!(filter, ListenerFilter::ProxyProtocol(_))) {
            "the PROXY protocol's header says where a connection comes from: it is read before"
        } else {
            continue;
        };
        return cx.refuse(&format!("listener_filters[{i}]"), reason);
    }
    Ok(found.into())
}

fn proxy_header(cx: &mut Cx, any: &mizzen_protos::Any) -> Res<()> {
    let proxy_protocol::ProxyProtocol {
        rules,
        allow_requests_without_proxy_protocol,
        pass_through_tlvs,
        disallowed_versions,
        stat_prefix,
        tlv_location,
    } = cx.unpack(any)?;
    silent!(stat_prefix, tlv_location);
    // Where the header may be missing, anybody could say by one of his own that he is somebody else.
    refused!(cx; rules, pass_through_tlvs, disallowed_versions, allow_requests_without_proxy_protocol);
    Ok(())
}

fn source_mark(cx: &mut Cx, any: &mizzen_protos::Any) -> Res<u32> {
    let original_src::OriginalSrc { bind_port, mark } = cx.unpack(any)?;
    // The client's own connection to the same destination has that port.
    refused!(cx; bind_port);
    Ok(mark)
}

fn predicate(cx: &mut Cx, m: listener::ListenerFilterChainMatchPredicate) -> Res<PortPredicate> {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule as R};
    let listener::ListenerFilterChainMatchPredicate { rule } = m;
    Ok(match rule {
        Some(R::AnyMatch(true)) => PortPredicate::Always,
        Some(R::AnyMatch(false)) | None => PortPredicate::Never,
        Some(R::DestinationPortRange(types::Int32Range { start, end })) => PortPredicate::Range(start, end),
        Some(R::NotMatch(inner)) => PortPredicate::Not(cx.within("not_match", |cx| predicate(cx, *inner))?.into()),
        Some(R::AndMatch(MatchSet { rules })) => PortPredicate::And(cx.each("and_match", rules, predicate)?.into()),
        Some(R::OrMatch(MatchSet { rules })) => PortPredicate::Or(cx.each("or_match", rules, predicate)?.into()),
    })
}

fn chain(cx: &mut Cx, m: listener::FilterChain) -> Res<FilterChain> {
    let hash = hash_of(&m);
    let listener::FilterChain {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name: title,
    } = m;
    silent!(metadata);
    cx.never("use_proxy_proto", use_proxy_proto)?;
    let matching = cx.some("filter_chain_match", filter_chain_match, chain_match)?.unwrap_or_default();
    // What is wrong with how a chain serves is its own affair; whom it is for concerns the others too.
    let tls = cx.some("transport_socket", transport_socket, tls::downstream);
    let filters = network_filters(cx, filters);
    let (tls, filters) = match (cx.contain(tls), cx.contain(filters)) {
        (Some(tls), Some(filters)) => (tls.flatten(), filters),
        _ => (None, Filters { before: Arc::default(), last: Terminal::Close }),
    };
    Ok(FilterChain {
        name: name(&title),
        hash,
        matching,
        tls,
        handshake_timeout: cx.limit("transport_socket_connect_timeout", transport_socket_connect_timeout, None)?,
        filters,
    })
}

fn chain_match(cx: &mut Cx, m: listener::FilterChainMatch) -> Res<ChainMatch> {
    use listener::filter_chain_match::ConnectionSourceType as S;
    let listener::FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = m;
    refused!(cx; address_suffix, suffix_len);
    let names = cx.each("server_names", server_names, |cx, n| {
        let wild = n.strip_prefix("*.").unwrap_or(&n);
        if wild.is_empty() || wild.contains('*') {
            return cx.refuse("", format!("`{n}`: a wildcard can only be the first label"));
        }
        Ok(cx.name(&n.to_ascii_lowercase()))
    })?;
    let transport = match transport_protocol.as_str() {
        "" => None,
        "tls" => Some(TransportProtocol::Tls),
        "raw_buffer" => Some(TransportProtocol::RawBuffer),
        other => return cx.refuse("transport_protocol", format!("`{other}` is not supported")),
    };
    Ok(ChainMatch {
        destination_port: number(destination_port).map(|p| cx.port("destination_port", p)).transpose()?,
        destination: held(cx.each("prefix_ranges", prefix_ranges, address::range)?),
        server_names: held(names),
        transport,
        application_protocols: held(application_protocols.iter().map(|p| cx.name(p)).collect::<Vec<_>>()),
        direct_source: held(cx.each("direct_source_prefix_ranges", direct_source_prefix_ranges, address::range)?),
        source_type: match cx.choice("source_type", source_type)? {
            S::Any => SourceType::Any,
            S::SameIpOrLoopback => SourceType::Local,
            S::External => SourceType::External,
        },
        source: held(cx.each("source_prefix_ranges", source_prefix_ranges, address::range)?),
        source_ports: held(cx.each("source_ports", source_ports, |cx, p| cx.port("", p))?),
    })
}

enum Item {
    Before(NetworkFilter),
    Last(Terminal),
    /// Server names are found on demand, at this port.
    Named(Option<u16>),
    /// One that does nothing here.
    Nothing,
}

fn network_filters(cx: &mut Cx, list: Vec<listener::Filter>) -> Res<Filters> {
    let empty = list.is_empty();
    let (mut before, mut last, mut named) = (Vec::new(), None, None);
    for (i, item) in cx.each("filters", list, network_filter)?.into_iter().enumerate() {
        match item {
            _ if last.is_some() => return cx.refuse(&format!("filters[{i}]"), "nothing comes after the filter that serves"),
            Item::Before(filter) => before.push(filter),
            Item::Last(Terminal::Tcp(mut proxy)) => {
                Arc::make_mut(&mut proxy).named_port = named.take().flatten();
                last = Some(Terminal::Tcp(proxy));
            }
            Item::Last(_) if named.is_some() => {
                return cx.refuse(&format!("filters[{i}]"), "names of connections are found for a TCP proxy alone");
            }
            Item::Last(terminal) => last = Some(terminal),
            Item::Named(port) => named = Some(port),
            Item::Nothing => {}
        }
    }
    match last {
        Some(last) => Ok(Filters { before: held(before), last }),
        None if empty => Ok(Filters { before: held(before), last: Terminal::Close }),
        None => cx.refuse("filters", "none of them serves the connection"),
    }
}

fn network_filter(cx: &mut Cx, m: listener::Filter) -> Res<Item> {
    let listener::Filter { name: title, config_type } = m;
    let any = match config_type {
        Some(listener::filter::ConfigType::TypedConfig(any)) => any,
        Some(listener::filter::ConfigType::ConfigDiscovery(_)) => return cx.refuse("config_discovery", "not supported"),
        None => return cx.refuse("typed_config", format!("filter `{title}` has none")),
    };
    cx.within("typed_config", |cx| {
        let payload = filter::payload::payload(cx, &any)?;
        Ok(match payload.kind.as_str() {
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
                Item::Last(Terminal::Http(hcm::compile(cx, payload.bytes(cx)?)?.into()))
            }
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
                Item::Last(Terminal::Tcp(tcp_proxy(cx, payload.bytes(cx)?)?.into()))
            }
            "envoy.extensions.filters.network.rbac.v3.RBAC" => {
                Item::Before(NetworkFilter::Rbac(filter::network_rbac(cx, payload.bytes(cx)?)?.into()))
            }
            filter::NETWORK_EXT_AUTHZ => Item::Before(NetworkFilter::ExtAuthz(filter::network_ext_authz(cx, payload.bytes(cx)?)?.into())),
            dynamic::SNI => Item::Named(dynamic::of_connections(cx, payload.bytes(cx)?)?),
            filter::metadata_exchange::TYPE => {
                let json = payload.json(cx);
                filter::metadata_exchange::check(cx, json);
                Item::Nothing
            }
            "stats.PluginConfig" => {
                let json = payload.json(cx);
                Item::Before(NetworkFilter::Stats(filter::compile_stats(cx, json)?.into()))
            }
            other => return cx.refuse("", format!("filter `{title}` of type {other} is not supported")),
        })
    })
}

fn tcp_proxy(cx: &mut Cx, m: tcp::TcpProxy) -> Res<TcpProxy> {
    let tcp::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = m;
    silent!(stat_prefix, max_early_data_bytes, check_drain_close, proxy_protocol_tlv_merge_policy, flush_access_log_on_connected);
    silent!(access_log_flush_interval);
    harmless!(cx; downstream_idle_timeout, upstream_idle_timeout, backoff_options, max_downstream_connection_duration_jitter_percentage,
        access_log_options);
    refused!(cx; on_demand, proxy_protocol_tlvs, upstream_connect_mode);
    let subset = metadata_match.and_then(cluster_lb::criteria);
    let clusters = match cluster_specifier {
        Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster)) => vec![TcpTarget { cluster: name(&cluster), weight: 1, subset }],
        Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(tcp::tcp_proxy::WeightedCluster { clusters })) => {
            cx.each("weighted_clusters.clusters", clusters, |_, c| {
                let tcp::tcp_proxy::weighted_cluster::ClusterWeight { name: title, weight, metadata_match } = c;
                let subset = cluster_lb::merged(subset.as_ref(), metadata_match.and_then(cluster_lb::criteria));
                Ok(TcpTarget { cluster: name(&title), weight, subset })
            })?
        }
        None => return cx.refuse("cluster_specifier", "it is required"),
    };
    if clusters.iter().all(|target| target.weight == 0) {
        return cx.refuse("weighted_clusters", "no cluster has a weight");
    }
    let tunnel = cx.some("tunneling_config", tunneling_config, tunnel)?.map(Arc::new);
    Ok(TcpProxy {
        tunnel,
        clusters: clusters.into(),
        hash_source: hash_policy::of_connections(cx, hash_policy)?,
        idle_timeout: cx.limit("idle_timeout", idle_timeout, Some(HOUR))?,
        max_connect_attempts: number(max_connect_attempts).unwrap_or(1).max(1),
        max_duration: cx.limit("max_downstream_connection_duration", max_downstream_connection_duration, None)?,
        access_log: access_log::list(cx, access_log)?,
        named_port: None,
    })
}

/// The way through an HTTP proxy.
fn tunnel(cx: &mut Cx, m: tcp::tcp_proxy::TunnelingConfig) -> Res<Tunnel> {
    let tcp::tcp_proxy::TunnelingConfig {
        hostname,
        use_post,
        headers_to_add,
        propagate_response_headers,
        post_path,
        propagate_response_trailers,
        request_id_extension,
        request_id_header,
        request_id_metadata_key,
        formatters,
    } = m;
    refused!(cx; use_post, post_path, propagate_response_headers, propagate_response_trailers, request_id_extension, request_id_header, request_id_metadata_key, formatters);
    if hostname.is_empty() {
        return cx.refuse("hostname", "it is required");
    }
    let authority = cx.within("hostname", |cx| format::template(cx, &hostname, format::Unknown::Refuse))?;
    Ok(Tunnel { authority, headers: headers::additions(cx, "headers_to_add", headers_to_add)? })
}
