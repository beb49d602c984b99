//! Istio's choice of ALPN towards the server by the request's protocol.

use std::sync::Arc;

use mizzen_protos::alpn;
use mizzen_types::Name;

use crate::compile::cx::{Cx, Res, name};

pub(super) const TYPE: &str = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";

/// ALPN towards the upstream by the request's protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpnOverride {
    /// For HTTP/1.1 requests towards the upstream.
    pub http11: Arc<[Name]>,
    /// For HTTP/2 requests towards the upstream.
    pub http2: Arc<[Name]>,
}

pub(super) fn compile(cx: &Cx, m: alpn::FilterConfig) -> Res<AlpnOverride> {
    use alpn::filter_config::Protocol as P;
    let alpn::FilterConfig { alpn_override } = m;
    let mut all = AlpnOverride::default();
    for alpn::filter_config::AlpnOverride { upstream_protocol, alpn_override } in alpn_override {
        let names: Arc<[Name]> = alpn_override.iter().map(|n| name(n)).collect();
        match cx.choice("alpn_override.upstream_protocol", upstream_protocol)? {
            // Nothing is sent as HTTP/1.0.
            P::Http10 => {}
            P::Http11 => all.http11 = names,
            P::Http2 => all.http2 = names,
        }
    }
    Ok(all)
}
