//! Istio's exchange of peer metadata by headers.

use super::payload::Json;
use crate::compile::cx::Cx;

pub(super) const TYPE: &str = "io.istio.http.peer_metadata.Config";

/// Istio's exchange of peer metadata by headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerMetadata {
    /// On the side of the client.
    pub downstream: PeerExchange,
    /// On the side of the server.
    pub upstream: PeerExchange,
}

/// What is done on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerExchange {
    /// The peer's `x-envoy-peer-metadata` is read and removed.
    pub from_headers: bool,
    /// Ours is written.
    pub send_headers: bool,
    /// Headers of the peer are passed through, for it to be seen by those behind us.
    pub skip_external: bool,
}

pub(super) fn compile(cx: &mut Cx, mut json: Json) -> PeerMetadata {
    let mut side = |discovery: &str, propagation: &str| {
        let mut exchange = PeerExchange::default();
        for mut method in json.objects(discovery) {
            exchange.from_headers |= method.take("istio_headers").is_some();
            // The peer's address is looked up in an index of workloads, which no control plane sends to this proxy: nobody is found.
            let _ = method.take("workload_discovery");
            unknown_methods(cx, discovery, &method);
        }
        for mut method in json.objects(propagation) {
            if let Some(headers) = method.take("istio_headers") {
                exchange.send_headers = true;
                exchange.skip_external = Json::of(headers).is_some_and(|mut h| h.flag("skip_external_clusters"));
            }
            unknown_methods(cx, propagation, &method);
        }
        exchange
    };
    let downstream = side("downstream_discovery", "downstream_propagation");
    let upstream = side("upstream_discovery", "upstream_propagation");
    json.rest(cx);
    PeerMetadata { downstream, upstream }
}

/// Ways to find peers that are not gone.
fn unknown_methods(cx: &mut Cx, field: &str, json: &Json) {
    for key in json.left() {
        cx.warn(&format!("{field}.{key}"), "peers are not found by it");
    }
}
