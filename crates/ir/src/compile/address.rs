//! Addresses.

use std::net::{IpAddr, SocketAddr};

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_types::IpRange;

use super::cx::{Cx, Res, name, number, refused};
use crate::config::{EndpointAddress, Keepalive};

/// A socket's host and port.
pub(super) fn host_port(cx: &Cx, a: core::SocketAddress) -> Res<(String, u16)> {
    let core::SocketAddress { protocol, address, resolver_name, ipv4_compat, network_namespace_filepath, port_specifier } = a;
    refused!(cx; protocol, resolver_name, ipv4_compat, network_namespace_filepath);
    let port = match port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(port)) => cx.port("port_value", port)?,
        Some(core::socket_address::PortSpecifier::NamedPort(_)) => return cx.refuse("named_port", "not supported"),
        None => return cx.refuse("port_specifier", "it is required"),
    };
    Ok((address, port))
}

pub(super) fn socket(cx: &Cx, a: core::SocketAddress) -> Res<SocketAddr> {
    let (host, port) = host_port(cx, a)?;
    let ip: IpAddr = host.parse().map_err(|_| cx.bad("address", format!("`{host}` is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

/// An address; names only where they are resolved.
pub(super) fn address(cx: &mut Cx, a: core::Address, names: bool) -> Res<EndpointAddress> {
    use core::address::Address as A;
    let core::Address { address } = a;
    match address {
        Some(A::SocketAddress(a)) => cx.within("socket_address", |cx| {
            let (host, port) = host_port(cx, a)?;
            match host.parse::<IpAddr>() {
                Ok(ip) => Ok(EndpointAddress::Socket(SocketAddr::new(ip, port))),
                Err(_) if names && !host.is_empty() => Ok(EndpointAddress::Dns(name(&host), port)),
                Err(_) => cx.refuse("address", format!("`{host}` is not an IP address")),
            }
        }),
        Some(A::Pipe(core::Pipe { path, mode })) => {
            refused!(cx; mode);
            Ok(EndpointAddress::Pipe(name(&path)))
        }
        Some(A::EnvoyInternalAddress(core::EnvoyInternalAddress { endpoint_id, address_name_specifier })) => match address_name_specifier {
            Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(listener)) if !listener.is_empty() => {
                Ok(EndpointAddress::Internal(name(&listener), name(&endpoint_id)))
            }
            _ => cx.refuse("envoy_internal_address.server_listener_name", "it is required"),
        },
        None => cx.refuse("address", "it is required"),
    }
}

pub(super) fn range(cx: &mut Cx, r: core::CidrRange) -> Res<IpRange> {
    let core::CidrRange { address_prefix, prefix_len } = r;
    let ip: IpAddr = address_prefix.parse().map_err(|_| cx.bad("address_prefix", format!("`{address_prefix}` is not an IP address")))?;
    let length = number(prefix_len).unwrap_or(0);
    let range = u8::try_from(length).ok().and_then(|l| IpRange::new(ip, l).ok());
    range.ok_or_else(|| cx.bad("prefix_len", format!("{length} is too long")))
}

pub(super) fn keepalive(k: core::TcpKeepalive) -> Keepalive {
    let core::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = k;
    let seconds = |v| number(v).map(|s| std::time::Duration::from_secs(s.into()));
    Keepalive { probes: number(keepalive_probes), time: seconds(keepalive_time), interval: seconds(keepalive_interval) }
}
