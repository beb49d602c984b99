//! Compression, which is not done: what is harmless about that, and what is not.

use mizzen_protos::envoy::envoy::extensions::filters::http::compressor::v3::Compressor;

use crate::compile::cx::{Cx, Res, flag, silent};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.compressor.v3.Compressor";

/// An answer that is not compressed is as good for whoever offered to take it compressed. A server that counts on compressed requests
/// would get others.
pub(super) fn compile(cx: &mut Cx, m: Compressor) -> Res<()> {
    let Compressor {
        content_length,
        content_type,
        disable_on_etag_header,
        remove_accept_encoding_header,
        runtime_enabled,
        compressor_library,
        request_direction_config,
        response_direction_config,
        choose_first,
    } = m;
    silent!(
        content_length,
        content_type,
        disable_on_etag_header,
        remove_accept_encoding_header,
        runtime_enabled,
        response_direction_config
    );
    silent!(choose_first);
    let requests = request_direction_config.map(|c| c.common_config.and_then(|c| c.enabled).and_then(|e| flag(e.default_value)));
    if requests.is_some_and(|enabled| enabled != Some(false)) {
        return cx.refuse("request_direction_config", "requests are not compressed");
    }
    let library = compressor_library.map(|l| l.name).unwrap_or_default();
    cx.warn("", format!("answers are not compressed (`{library}`)"));
    Ok(())
}
