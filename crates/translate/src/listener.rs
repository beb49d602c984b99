//! Addresses, matches and listener filters, as all listeners have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mizzen_model::Families;
use mizzen_protos::envoy::envoy::{
    config::{
        core::v3::{Address, CidrRange, SocketAddress, address, socket_address::PortSpecifier},
        listener::v3::{
            AdditionalAddress, FilterChainMatch, Listener as Head, ListenerFilterChainMatchPredicate,
            listener_filter_chain_match_predicate::{MatchSet, Rule},
        },
    },
    extensions::filters::listener::{
        http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst, original_src::v3::OriginalSrc, proxy_protocol::v3::ProxyProtocol,
        tls_inspector::v3::TlsInspector,
    },
    r#type::v3::Int32Range,
};
use mizzen_types::{IpRange, ports};

use crate::{
    draft::{Chain, Inspector, ListenerFilter},
    scope::Scope,
    wire,
};

/// Any address. In names it stands for those of IPv6, too, so that a listener has the same name for all proxies.
pub(crate) const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// What the HTTP inspector reports of plain HTTP.
pub(crate) const PLAIN_HTTP: [&str; 2] = ["http/1.1", "h2c"];

/// A socket address.
pub(crate) fn address(ip: impl ToString, port: u16) -> Address {
    Address { address: Some(address::Address::SocketAddress(socket_address(ip, port))) }
}

/// A listener at an address, or at any of the families that the proxy has ([`ANY`]).
///
/// Unlike with Istio, where `ISTIO_DUAL_STACK` has to ask for it, a proxy with addresses of two families listens at both: what is captured of the other
/// would find nobody.
pub(crate) fn at(scope: &Scope<'_, '_>, ip: IpAddr, port: u16) -> Head {
    let families = if ip == ANY { scope.view.families(scope.reader) } else { Families { v4: true, v6: false } };
    let first = if families.v4 { ip } else { ANY_V6 };
    let more = (families.v4 && families.v6).then(|| AdditionalAddress { address: Some(address(ANY_V6, port)), ..Default::default() });
    Head { address: Some(address(first, port)), additional_addresses: more.into_iter().collect(), ..Default::default() }
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

pub(crate) fn original_dst() -> ListenerFilter {
    ListenerFilter { disabled: None, config: Inspector::OriginalDst(OriginalDst::default()) }
}

/// Goes on from the client's address, with the mark by which the capture sends the answers back.
pub(crate) fn original_src() -> ListenerFilter {
    ListenerFilter { disabled: None, config: Inspector::OriginalSrc(OriginalSrc { mark: ports::PROXY_MARK, ..OriginalSrc::default() }) }
}

/// Takes a header of the PROXY protocol off each connection, and refuses what has none.
pub(crate) fn proxy_protocol() -> ListenerFilter {
    ListenerFilter { disabled: None, config: Inspector::ProxyProtocol(ProxyProtocol::default()) }
}

pub(crate) fn tls_inspector(disabled: Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter {
    let config = TlsInspector { initial_read_buffer_size: Some(wire::u32_value(512)), ..Default::default() };
    ListenerFilter { disabled, config: Inspector::Tls(config) }
}

pub(crate) fn http_inspector(disabled: Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter {
    ListenerFilter { disabled, config: Inspector::Http(HttpInspector {}) }
}

/// Whether a chain is found by what the TLS inspector sees.
pub(crate) fn needs_tls(chain: &Chain) -> bool {
    chain.head.filter_chain_match.as_ref().is_some_and(|m| m.transport_protocol == "tls" || !m.server_names.is_empty())
}

/// Whether a chain is found by what the HTTP inspector sees.
pub(crate) fn needs_http(chain: &Chain) -> bool {
    chain.head.filter_chain_match.as_ref().is_some_and(|m| m.application_protocols.iter().any(|p| PLAIN_HTTP.contains(&p.as_str())))
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
