//! gRPC for clients that speak HTTP/1.1.

use mizzen_protos::envoy::envoy::extensions::filters::http::grpc_http1_bridge::v3 as bridge;

use crate::compile::cx::{Cx, Res, refused};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config";

pub(super) fn compile(cx: &mut Cx, m: bridge::Config) -> Res<()> {
    let bridge::Config { upgrade_protobuf_to_grpc, ignore_query_parameters } = m;
    refused!(cx; upgrade_protobuf_to_grpc, ignore_query_parameters);
    Ok(())
}
