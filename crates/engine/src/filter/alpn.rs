//! Istio's choice of ALPN: remembered here, used by the router when it knows what is spoken to the server.

use std::sync::Arc;

use mizzen_ir::config::AlpnOverride;

use super::{Cx, Flow};

pub(super) fn request(alpn: &Arc<AlpnOverride>, cx: &mut Cx<'_>) -> Flow {
    cx.facts.alpn = Some(alpn.clone());
    Flow::Go
}

/// Whether HTTP/2 was agreed on: by its own name, or by the one that Istio's filter offers for it.
pub(crate) fn is_http2(protocol: &[u8]) -> bool {
    matches!(protocol, b"h2" | b"istio-h2")
}
