//! Listeners of a sidecar.

use mizzen_protos::{
    Any,
    envoy::envoy::config::{
        core::v3::TrafficDirection,
        listener::v3::{FilterChain, Listener},
    },
};
use mizzen_types::{Name, ports};

use crate::{
    access_log, filters, inbound, index,
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

fn virtual_outbound(scope: &Scope<'_, '_>) -> Listener {
    let trap = FilterChain {
        filter_chain_match: Some(listener::port_match(ports::OUTBOUND)),
        filters: vec![filters::black_hole()],
        name: "virtualOutbound-blackhole".into(),
        ..Default::default()
    };
    let rest = FilterChain { name: "virtualOutbound-catchall-tcp".into(), ..outbound::unknown_chain(scope) };
    Listener {
        name: names::VIRTUAL_OUTBOUND.into(),
        address: Some(listener::address(ANY, ports::OUTBOUND)),
        filter_chains: vec![trap, rest],
        use_original_dst: Some(wire::bool_value(true)),
        traffic_direction: TrafficDirection::Outbound.into(),
        access_log: access_log::listener_log(scope.mesh()),
        max_connections_to_accept_per_socket_event: Some(wire::u32_value(1)),
        ..Default::default()
    }
}
