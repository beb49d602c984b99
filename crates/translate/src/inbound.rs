//! The inbound listener of a sidecar: for each port of the workload the chains that its mode of mutual TLS and its protocol ask for.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::istio::MtlsMode;
use mizzen_model::{PeerModes, ServiceView};
use mizzen_protos::envoy::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, FilterChainMatch, Listener as Head, ListenerFilterChainMatchPredicate},
    route::v3::{RouteConfiguration, VirtualHost},
};
use mizzen_types::{Protocol, ports};

use crate::{
    access_log,
    draft::{Chain, Listener, ListenerFilter, NetworkFilter},
    filters::{self, Routes, Side},
    listener::{self, ANY, PLAIN_HTTP},
    names, rbac, route,
    scope::Scope,
    tls, wire,
};

/// Applications' protocols that a sidecar offers for HTTP over mutual TLS.
const MTLS_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// The same for bytes.
const MTLS_TCP: [&str; 2] = ["istio-peer-exchange", "istio"];

/// All protocols of mutual TLS of the mesh.
pub(crate) fn mtls_protocols() -> impl Iterator<Item = &'static str> {
    MTLS_TCP.iter().chain(&MTLS_HTTP).copied()
}

/// A port of the workload.
pub(crate) struct Served {
    /// The workload's port.
    pub(crate) target: u16,
    /// The protocol of the oldest service that it belongs to.
    pub(crate) protocol: Protocol,
    /// The services that it belongs to, the oldest first.
    pub(crate) services: Vec<(Arc<ServiceView>, u16)>,
}

/// The ports of the workload that belong to services, by number.
pub(crate) fn served(scope: &Scope<'_, '_>) -> Vec<Served> {
    let mut found = scope.view.served(scope.reader);
    found.sort_by_key(|i| (i.target, i.service.created, i.service.object.name.clone(), i.service.object.namespace.clone(), i.port));
    let mut by_port: BTreeMap<u16, Served> = BTreeMap::new();
    for instance in found {
        let served =
            by_port.entry(instance.target).or_insert(Served { target: instance.target, protocol: instance.protocol, services: Vec::new() });
        served.services.push((instance.service, instance.port));
    }
    by_port.into_values().collect()
}

/// The effective modes of the proxy's own workload.
pub(crate) fn modes(scope: &Scope<'_, '_>) -> PeerModes {
    scope.view.peer_modes(scope.reader)
}

/// What a group of chains leads to.
struct Target<'t> {
    /// The workload's port; `None`: all others.
    port: Option<u16>,
    cluster: String,
    protocol: Protocol,
    /// The service by which traces call it.
    operation: String,
    rbac: &'t rbac::Filters,
}

pub(crate) fn build(scope: &Scope<'_, '_>) -> Listener {
    let modes = modes(scope);
    let rbac = rbac::filters(scope, Side::Inbound);
    let trap = {
        let mut list: Vec<_> = metadata(scope);
        list.push(filters::black_hole());
        let head = FilterChain {
            filter_chain_match: Some(listener::port_match(ports::INBOUND)),
            name: "virtualInbound-blackhole".into(),
            ..Default::default()
        };
        Chain { head, filters: list.into(), ..Default::default() }
    };
    let mut chains = vec![trap];
    let served = served(scope);
    let unknown = |port| Target {
        port,
        cluster: names::INBOUND_PASSTHROUGH.into(),
        protocol: Protocol::Auto,
        operation: format!(":{}/*", port.unwrap_or(0)),
        rbac: &rbac,
    };
    chains.extend(group(scope, &unknown(None), modes.workload));
    // A mode may be set for a port that no service has.
    let known = |port: &u16| served.iter().any(|s| s.target == *port);
    for (&port, &mode) in modes.ports.iter().filter(|(port, _)| !known(port)) {
        chains.extend(group(scope, &unknown(Some(port)), mode));
    }
    for port in &served {
        let operation = port.services.first().map_or_else(String::new, |(service, number)| format!("{}:{number}/*", service.host));
        let target =
            Target { port: Some(port.target), cluster: names::inbound(port.target), protocol: port.protocol, operation, rbac: &rbac };
        chains.extend(group(scope, &target, modes.port(port.target)));
    }
    // By TPROXY connections come with their own destination, and go on from their own source.
    let transparent = scope.view.metadata(scope.reader, "INTERCEPTION_MODE") == Some("TPROXY");
    let mut inspectors = vec![listener::original_dst()];
    inspectors.extend(transparent.then(listener::original_src));
    inspectors.extend(inspector(&chains, listener::needs_tls, listener::tls_inspector));
    inspectors.extend(inspector(&chains, listener::needs_http, listener::http_inspector));
    let head = Head {
        name: names::VIRTUAL_INBOUND.into(),
        listener_filters_timeout: Some(wire::duration(scope.mesh().protocol_detection_timeout)),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Inbound.into(),
        transparent: transparent.then(|| wire::bool_value(true)),
        max_connections_to_accept_per_socket_event: Some(wire::u32_value(1)),
        ..listener::at(scope, ANY, ports::INBOUND)
    };
    Listener { head, chains, default: None, filters: inspectors, log: access_log::listener_log(scope.mesh()) }
}

/// An inspector, left out at the ports that do not need it: it would wait for bytes that a server-first protocol's client never sends.
fn inspector(
    chains: &[Chain],
    needs: fn(&Chain) -> bool,
    make: fn(Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter,
) -> Option<ListenerFilter> {
    let port = |chain: &Chain| chain.head.filter_chain_match.as_ref().and_then(|m| m.destination_port).map(|p| p.value as u16);
    let mut by_port: BTreeMap<Option<u16>, bool> = BTreeMap::new();
    for chain in chains {
        *by_port.entry(port(chain)).or_default() |= needs(chain);
    }
    let elsewhere = by_port.get(&None).copied().unwrap_or(false);
    let exceptions = by_port.iter().filter(|(_, on)| **on != elsewhere).filter_map(|(port, _)| *port);
    if elsewhere {
        return Some(make(listener::at_ports(exceptions)));
    }
    listener::at_ports(exceptions).map(|on| make(Some(listener::not(on))))
}

/// How the bytes of a chain are wrapped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrap {
    Mutual,
    Plain,
}

/// The chains of one port.
fn group(scope: &Scope<'_, '_>, target: &Target<'_>, mode: MtlsMode) -> Vec<Chain> {
    let istio_all = mtls_protocols().collect::<Vec<_>>();
    let (http, tcp) = (true, false);
    let protocol = target.protocol;
    let rows: Vec<(&str, &[&str], bool, Wrap)> = match mode {
        MtlsMode::Strict if protocol.is_http() => vec![("tls", &[], http, Wrap::Mutual)],
        MtlsMode::Strict if protocol == Protocol::Auto => {
            vec![("tls", &MTLS_HTTP, http, Wrap::Mutual), ("tls", &[], tcp, Wrap::Mutual)]
        }
        MtlsMode::Strict => vec![("tls", &[], tcp, Wrap::Mutual)],
        MtlsMode::Disable if protocol.is_http() => vec![("", &[], http, Wrap::Plain)],
        MtlsMode::Disable if protocol == Protocol::Auto => {
            vec![("raw_buffer", &PLAIN_HTTP, http, Wrap::Plain), ("", &[], tcp, Wrap::Plain)]
        }
        MtlsMode::Disable => vec![("", &[], tcp, Wrap::Plain)],
        MtlsMode::Permissive | MtlsMode::Unset if protocol.is_http() => {
            vec![("tls", &istio_all, http, Wrap::Mutual), ("raw_buffer", &[], http, Wrap::Plain)]
        }
        MtlsMode::Permissive | MtlsMode::Unset if protocol == Protocol::Auto => vec![
            ("tls", &MTLS_HTTP, http, Wrap::Mutual),
            ("raw_buffer", &PLAIN_HTTP, http, Wrap::Plain),
            ("tls", &MTLS_TCP, tcp, Wrap::Mutual),
            ("raw_buffer", &[], tcp, Wrap::Plain),
            ("tls", &[], tcp, Wrap::Plain),
        ],
        MtlsMode::Permissive | MtlsMode::Unset => {
            vec![("tls", &istio_all, tcp, Wrap::Mutual), ("tls", &[], tcp, Wrap::Plain), ("raw_buffer", &[], tcp, Wrap::Plain)]
        }
    };
    let (mut of_http, mut of_tcp) = (None, None);
    let chain = |(transport, alpn, is_http, wrap)| {
        let made = if is_http { &mut of_http } else { &mut of_tcp };
        let filters: &mut Arc<Vec<NetworkFilter>> = made.get_or_insert_with(|| chain_filters(scope, target, is_http).into());
        let socket = (wrap == Wrap::Mutual).then(|| tls::server(scope.mesh(), !is_http));
        Chain { head: head(target, transport, alpn, is_http), socket, filters: filters.clone() }
    };
    rows.into_iter().map(chain).collect()
}

fn head(target: &Target<'_>, transport: &str, alpn: &[&str], http: bool) -> FilterChain {
    let matched = FilterChainMatch {
        destination_port: target.port.map(|port| wire::u32_value(port.into())),
        transport_protocol: transport.into(),
        application_protocols: alpn.iter().map(|&a| a.into()).collect(),
        ..Default::default()
    };
    let name = match target.port {
        Some(port) => names::listener(ANY, port),
        None if http => "virtualInbound-catchall-http".into(),
        None => names::VIRTUAL_INBOUND.into(),
    };
    FilterChain { filter_chain_match: Some(matched), name, ..Default::default() }
}

fn chain_filters(scope: &Scope<'_, '_>, target: &Target<'_>, http: bool) -> Vec<NetworkFilter> {
    let mut list = metadata(scope);
    if http {
        list.push(http_manager(scope, target));
    } else {
        list.extend(target.rbac.tcp.clone());
        list.extend(filters::tcp_stats(scope, Side::Inbound));
        list.push(filters::tcp_to(scope, &target.cluster));
    }
    list
}

fn metadata(scope: &Scope<'_, '_>) -> Vec<NetworkFilter> {
    filters::tcp_metadata(scope).map(NetworkFilter::MetadataExchange).into_iter().collect()
}

fn http_manager(scope: &Scope<'_, '_>, target: &Target<'_>) -> NetworkFilter {
    let stat = match target.port {
        Some(port) if target.cluster != names::INBOUND_PASSTHROUGH => format!("inbound_{}", names::listener(ANY, port)),
        _ => target.cluster.clone(),
    };
    // A gRPC client has retries of its own, and knows which calls may be repeated.
    let retries = !matches!(target.protocol, Protocol::Grpc | Protocol::GrpcWeb);
    let host = VirtualHost {
        name: format!("inbound|http|{}", target.port.unwrap_or(0)),
        domains: vec!["*".into()],
        routes: vec![route::inbound(&target.cluster, &target.operation, retries)],
        ..Default::default()
    };
    let config = RouteConfiguration {
        name: target.cluster.clone(),
        virtual_hosts: vec![host],
        validate_clusters: Some(wire::bool_value(false)),
        ..Default::default()
    };
    filters::http_manager(
        scope,
        Side::Inbound,
        names::stat(&stat),
        Routes::Inline(Box::new(config)),
        (target.rbac.http.clone(), Vec::new()),
    )
}
