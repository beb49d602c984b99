//! gRPC for clients that speak HTTP/1.1 and cannot read trailers: `envoy.filters.http.grpc_http1_bridge`.
//!
//! The answer is kept until its trailers are there, whose gRPC status then goes into its head.

use super::{Cx, Flow, News, Reply, Wait};
use crate::flags::Flags;

/// How long an answer may be, in bytes: what Envoy buffers of one by default.
const MOST: usize = 1 << 20;

pub(super) fn response(news: &News, cx: &mut Cx<'_>) -> Flow {
    if !cx.is_grpc || cx.conn.is_h2() {
        return Flow::Go;
    }
    if !cx.body_ended {
        return match news {
            News::Body => Reply::flow(500, "Internal Server Error", Flags::default(), "response_payload_too_large"),
            _ => Flow::Wait(Wait::Body(MOST)),
        };
    }
    let Some(trailers) = cx.trailers.take() else { return Flow::Go };
    let status = trailers.get_str("grpc-status").map(str::to_owned);
    if status.as_deref() != Some("0") {
        cx.head.set_status(503);
    }
    if let Some(status) = status {
        cx.head.set("grpc-status", &status);
    }
    if let Some(message) = trailers.get("grpc-message") {
        cx.head.set("grpc-message", message);
    }
    cx.head.set("content-length", itoa::Buffer::new().format(cx.body.len()));
    Flow::Go
}
