//! Wire messages and gRPC stubs: Envoy's (from a crate), and the few of Istio's own.
//!
//! Everything that crosses a wire between the control plane, an agent and a proxy is defined here, with the two things that need to know all
//! messages: [`json`], which is protojson, and [`canonical`], which makes equal messages equal bytes. Deliberately absent: logic.

pub mod canonical;
pub mod json;

pub use envoy_types::pb as envoy;
pub use envoy_types::pb::google::protobuf as wkt;
pub use envoy_types::pb::google::protobuf::Any;

/// Istio's certificate authority: `istio.v1.auth.IstioCertificateService`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// The index of the mesh, of Mizzen's own: `mizzen.index.v1.Host`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod index {
    tonic::include_proto!("mizzen.index.v1");
}

/// The agent's name table: `istio.networking.nds.v1.NameTable`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod nds {
    tonic::include_proto!("istio.networking.nds.v1");
}

/// `udpa.type.v1.TypedStruct`, which wraps the configuration of Istio's own filters.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod udpa {
    tonic::include_proto!("udpa.r#type.v1");
}

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod alpn {
    tonic::include_proto!("istio.envoy.config.filter.http.alpn.v2alpha1");
}
