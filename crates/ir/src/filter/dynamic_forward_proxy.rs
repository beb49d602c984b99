//! Names that requests bring, found on demand: a cluster of such names finds them by itself, so that the filter has nothing to do.

use mizzen_protos::envoy::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as proxy;

use crate::compile::cx::{Cx, Res, silent};
use crate::compile::dynamic;

pub(super) const TYPE: &str = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig";

pub(super) fn compile(cx: &mut Cx, m: proxy::FilterConfig) -> Res<()> {
    use proxy::filter_config::ImplementationSpecifier as I;
    let proxy::FilterConfig { save_upstream_address, allow_dynamic_host_from_filter_state, implementation_specifier } = m;
    // Nothing here leaves a host or a port for it.
    silent!(save_upstream_address, allow_dynamic_host_from_filter_state);
    match implementation_specifier {
        Some(I::DnsCacheConfig(cache)) => cx.within("dns_cache_config", |cx| dynamic::of_cache(cx, cache)).map(|_| ()),
        Some(I::SubClusterConfig(_)) => cx.refuse("sub_cluster_config", "not supported"),
        None => Ok(()),
    }
}
