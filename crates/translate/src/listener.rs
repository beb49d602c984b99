//! Listeners of a sidecar.

use std::net::{IpAddr, Ipv4Addr};

use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            core::v3::{Address, CidrRange, SocketAddress, TrafficDirection, address, socket_address::PortSpecifier},
            listener::v3::{
                FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate, listener_filter,
                listener_filter_chain_match_predicate::{MatchSet, Rule},
            },
        },
        extensions::filters::listener::{
            http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst, tls_inspector::v3::TlsInspector,
        },
        r#type::v3::Int32Range,
    },
};
use mizzen_types::{IpRange, Name, ports};

use crate::{access_log, filters, inbound, names, outbound, scope::Scope, wire};

pub(crate) const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// What the HTTP inspector reports of plain HTTP.
pub(crate) const PLAIN_HTTP: [&str; 2] = ["http/1.1", "h2c"];

pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found: Vec<Name> = outbound::list(scope).into_iter().map(|(bind, port)| names::listener(bind, port).into()).collect();
    found.extend([Name::from(names::VIRTUAL_OUTBOUND), Name::from(names::VIRTUAL_INBOUND)]);
    found
}

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Any> {
    let listener = match name {
        names::VIRTUAL_OUTBOUND => virtual_outbound(scope),
        names::VIRTUAL_INBOUND => inbound::build(scope),
        _ => {
            let (bind, port) = names::parse_listener(name)?;
            outbound::build(scope, bind, port)?
        }
    };
    Some(wire::any(&listener))
}

/// A socket address.
pub(crate) fn address(ip: impl ToString, port: u16) -> Address {
    Address { address: Some(address::Address::SocketAddress(socket_address(ip, port))) }
}

/// A socket address, bare.
pub(crate) fn socket_address(ip: impl ToString, port: u16) -> SocketAddress {
    SocketAddress { address: ip.to_string(), port_specifier: Some(PortSpecifier::PortValue(port.into())), ..Default::default() }
}

/// A range of addresses.
pub(crate) fn cidr(range: IpRange) -> CidrRange {
    CidrRange { address_prefix: range.address().to_string(), prefix_len: Some(wire::u32_value(range.prefix().into())) }
}

/// Matches one destination port.
pub(crate) fn port_match(port: u16) -> FilterChainMatch {
    FilterChainMatch { destination_port: Some(wire::u32_value(port.into())), ..Default::default() }
}

fn virtual_outbound(scope: &Scope<'_, '_>) -> Listener {
    let trap = FilterChain {
        filter_chain_match: Some(port_match(ports::OUTBOUND)),
        filters: vec![filters::black_hole()],
        name: "virtualOutbound-blackhole".into(),
        ..Default::default()
    };
    let rest = FilterChain { name: "virtualOutbound-catchall-tcp".into(), ..outbound::unknown_chain(scope) };
    Listener {
        name: names::VIRTUAL_OUTBOUND.into(),
        address: Some(address(ANY, ports::OUTBOUND)),
        filter_chains: vec![trap, rest],
        use_original_dst: Some(wire::bool_value(true)),
        traffic_direction: TrafficDirection::Outbound.into(),
        access_log: access_log::listener_log(scope.mesh()),
        max_connections_to_accept_per_socket_event: Some(wire::u32_value(1)),
        ..Default::default()
    }
}

fn listener_filter(name: &str, config: Any, filter_disabled: Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter {
    ListenerFilter { name: name.into(), filter_disabled, config_type: Some(listener_filter::ConfigType::TypedConfig(config)) }
}

pub(crate) fn original_dst() -> ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", wire::any(&OriginalDst::default()), None)
}

pub(crate) fn tls_inspector(except: Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter {
    let config = TlsInspector { initial_read_buffer_size: Some(wire::u32_value(512)), ..Default::default() };
    listener_filter("envoy.filters.listener.tls_inspector", wire::any(&config), except)
}

pub(crate) fn http_inspector(except: Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter {
    listener_filter("envoy.filters.listener.http_inspector", wire::any(&HttpInspector {}), except)
}

/// Whether a chain is found by what the TLS inspector sees.
pub(crate) fn needs_tls(chain: &FilterChain) -> bool {
    chain.filter_chain_match.as_ref().is_some_and(|m| m.transport_protocol == "tls" || !m.server_names.is_empty())
}

/// Whether a chain is found by what the HTTP inspector sees.
pub(crate) fn needs_http(chain: &FilterChain) -> bool {
    chain.filter_chain_match.as_ref().is_some_and(|m| m.application_protocols.iter().any(|p| PLAIN_HTTP.contains(&p.as_str())))
}

/// Matches these destination ports; `None` for no port.
pub(crate) fn at_ports(ports: impl IntoIterator<Item = u16>) -> Option<ListenerFilterChainMatchPredicate> {
    let range = |port: u16| ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(Int32Range { start: port.into(), end: i32::from(port) + 1 })),
    };
    let mut rules: Vec<_> = ports.into_iter().map(range).collect();
    if rules.len() <= 1 { rules.pop() } else { Some(ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) }) }
}

/// The opposite.
pub(crate) fn not(rule: ListenerFilterChainMatchPredicate) -> ListenerFilterChainMatchPredicate {
    ListenerFilterChainMatchPredicate { rule: Some(Rule::NotMatch(Box::new(rule))) }
}
