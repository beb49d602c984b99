//! Istio's choice of ALPN: remembered here, used by the router when it knows what is spoken to the server.

use std::sync::Arc;

use mizzen_ir::config::AlpnOverride;

use super::{Cx, Flow};

pub(super) fn request(alpn: &Arc<AlpnOverride>, cx: &mut Cx<'_>) -> Flow {
    cx.facts.alpn = Some(alpn.clone());
    Flow::Go
}
