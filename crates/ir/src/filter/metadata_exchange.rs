//! Istio's metadata exchange on TCP. It is not spoken: its ALPN name is left out wherever TLS offers or accepts names, so that no peer waits for it.

use super::payload::Json;
use crate::compile::cx::Cx;

pub(crate) const TYPE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";

/// The ALPN name by which the exchange is agreed on.
pub(crate) const PROTOCOL: &str = "istio-peer-exchange";

/// Looks whether it is the exchange that is left out.
pub(crate) fn check(cx: &mut Cx, mut json: Json) {
    if json.text("protocol").is_some_and(|protocol| protocol != PROTOCOL) {
        cx.warn("protocol", format!("only `{PROTOCOL}` is kept out of what TLS agrees on"));
    }
    // It would look peers up at the control plane, for the labels of metrics.
    json.take("enable_discovery");
    json.rest(cx);
}
