//! Listeners of a sidecar.

use mizzen_protos::envoy::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, Listener as Head},
};
use mizzen_types::{Name, ports};

use crate::{
    access_log,
    draft::{Chain, Listener},
    filters, inbound, index,
    listener::{self, ANY},
    names, outbound,
    scope::Scope,
    wire,
};

pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found: Vec<Name> = if scope.is_on_demand() {
        index::given_listeners(scope)
    } else {
        outbound::list(scope).into_iter().map(|(bind, port)| names::listener(bind, port).into()).collect()
    };
    found.extend([Name::from(names::VIRTUAL_OUTBOUND), Name::from(names::VIRTUAL_INBOUND)]);
    found
}

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Listener> {
    match name {
        names::VIRTUAL_OUTBOUND => Some(virtual_outbound(scope)),
        names::VIRTUAL_INBOUND => Some(inbound::build(scope)),
        _ => {
            let (bind, port) = names::parse_listener(name)?;
            outbound::build(scope, bind, port)
        }
    }
}

fn virtual_outbound(scope: &Scope<'_, '_>) -> Listener {
    let trap = Chain {
        head: FilterChain {
            filter_chain_match: Some(listener::port_match(ports::OUTBOUND)),
            name: "virtualOutbound-blackhole".into(),
            ..Default::default()
        },
        filters: vec![filters::black_hole()].into(),
        ..Default::default()
    };
    let rest = outbound::unknown_chain(scope, "virtualOutbound-catchall-tcp", None);
    Listener {
        head: Head {
            name: names::VIRTUAL_OUTBOUND.into(),
            use_original_dst: Some(wire::bool_value(true)),
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::u32_value(1)),
            ..listener::at(scope, ANY, ports::OUTBOUND)
        },
        chains: vec![trap, rest],
        log: access_log::listener_log(scope.mesh()),
        ..Default::default()
    }
}
