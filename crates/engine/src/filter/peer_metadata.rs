//! Istio's exchange of workload metadata by headers. What peers say of themselves labels metrics; policies never see it.

use mizzen_ir::config::PeerMetadata;

use super::{Cx, Flow};
use crate::facts::Facts;

pub(super) fn request(exchange: &PeerMetadata, cx: &mut Cx<'_>) -> Flow {
    cx.filters.node.exchange_request(cx.head, &mut cx.facts.peers, exchange);
    Flow::Go
}

pub(super) fn response(cx: &mut Cx<'_>) -> Flow {
    cx.filters.node.exchange_response(cx.head, &cx.facts.peers);
    Flow::Go
}

/// Istio's keys: `downstream_peer`, `upstream_peer`.
pub(super) fn text<'a>(key: &str, facts: &'a Facts) -> Option<&'a str> {
    let peer = match key {
        "downstream_peer" => &facts.peers.down,
        "upstream_peer" => &facts.peers.up,
        _ => return None,
    };
    peer.as_ref().map(|p| p.workload.as_str())
}
