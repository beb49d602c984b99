//! The delta stream on the wire: responses are written from the contents that all connections share, without a copy of a message first.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use mizzen_protos::envoy::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mizzen_xds::server::{Resource, Response};
use prost::{
    bytes::BufMut,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::{
    Request, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService},
};

use crate::ads::{Discovery, Responses};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A request may be this long: one that names all resources that a proxy holds is.
const MAX_REQUEST: usize = 32 << 20;

/// A response as it is written.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) response: Response,
    /// The snapshot that it is of.
    pub(crate) version: String,
    /// Who sends it.
    pub(crate) identifier: Arc<str>,
}

/// The discovery service as tonic's server takes it.
#[derive(Clone)]
pub(crate) struct Ads(pub(crate) Discovery);

impl NamedService for Ads {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for Ads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != DELTA {
                let status =
                    Status::unimplemented("only incremental xDS is served here: use DeltaAggregatedResources (api_type DELTA_GRPC)");
                return Ok(status.into_http());
            }
            let mut grpc = Grpc::new(Delta).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Ads {
    type Response = Outgoing;
    type ResponseStream = Responses;
    type Future = BoxFuture<tonic::Response<Responses>, Status>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let discovery = self.0.clone();
        Box::pin(async move { discovery.delta(request) })
    }
}

/// How requests are read and responses written.
#[derive(Clone, Copy, Debug, Default)]
struct Delta;

impl Codec for Delta {
    type Encode = Outgoing;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = Delta;
    type Decoder = Delta;

    fn encoder(&mut self) -> Delta {
        Delta
    }

    fn decoder(&mut self) -> Delta {
        Delta
    }
}

impl Encoder for Delta {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, item: Outgoing, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer);
        Ok(())
    }
}

impl Decoder for Delta {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        prost::Message::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn length_of(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

fn head(out: &mut impl BufMut, tag: u32, length: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn field(out: &mut impl BufMut, tag: u32, bytes: &[u8]) {
    head(out, tag, bytes.len());
    out.put_slice(bytes);
}

/// As prost writes them, empty texts are left out.
fn text(out: &mut impl BufMut, tag: u32, text: &str) {
    if !text.is_empty() {
        field(out, tag, text.as_bytes());
    }
}

fn text_length(tag: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { length_of(tag, text.len()) }
}

/// The length of the `Any` in a `Resource`, and of the `Resource`.
fn lengths(name: &str, resource: &Resource) -> (usize, usize) {
    let value = &resource.body.value;
    let any = text_length(1, &resource.body.type_url) + if value.is_empty() { 0 } else { length_of(2, value.len()) };
    // A version is 16 digits.
    (any, length_of(1, 16) + length_of(2, any) + text_length(3, name))
}

impl Outgoing {
    fn encoded_len(&self) -> usize {
        let Response { type_url, nonce, resources, removed } = &self.response;
        let resources: usize = resources.iter().map(|(name, resource)| length_of(2, lengths(name, resource).1)).sum();
        let removed: usize = removed.iter().map(|name| length_of(6, name.len())).sum();
        let control = length_of(7, text_length(1, &self.identifier));
        text_length(1, &self.version) + resources + text_length(4, type_url) + text_length(5, nonce) + removed + control
    }

    /// An `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
    fn encode(&self, out: &mut impl BufMut) {
        let Response { type_url, nonce, resources, removed } = &self.response;
        text(out, 1, &self.version);
        for (name, resource) in resources {
            let (any, whole) = lengths(name, resource);
            head(out, 2, whole);
            field(out, 1, resource.version.to_string().as_bytes());
            head(out, 2, any);
            text(out, 1, &resource.body.type_url);
            if !resource.body.value.is_empty() {
                field(out, 2, &resource.body.value);
            }
            text(out, 3, name);
        }
        text(out, 4, type_url);
        text(out, 5, nonce);
        removed.iter().for_each(|name| field(out, 6, name.as_bytes()));
        head(out, 7, text_length(1, &self.identifier));
        text(out, 1, &self.identifier);
    }
}

#[cfg(test)]
mod tests {
    use mizzen_protos::{
        Any,
        envoy::envoy::{config::core::v3::ControlPlane, service::discovery::v3::DeltaDiscoveryResponse},
    };
    use prost::Message;

    use super::*;

    #[test]
    fn as_prost_writes_it() {
        let resource = |value: &[u8]| Resource::new(Any { type_url: "type.googleapis.com/a.B".into(), value: value.to_vec() });
        for (names, removed) in [(&[][..], &[][..]), (&["", "a", "long"], &[]), (&["a"], &["b", ""]), (&[], &["b"])] {
            let resources = names.iter().map(|name: &&str| ((*name).into(), resource(&name.as_bytes().repeat(100)))).collect();
            let removed = removed.iter().map(|name: &&str| (*name).into()).collect();
            let response = Response { type_url: "type.googleapis.com/a.B".into(), nonce: "17".into(), resources, removed };
            let mut expected = DeltaDiscoveryResponse::from(response.clone());
            expected.system_version_info = "300".into();
            expected.control_plane = Some(ControlPlane { identifier: "mizzend".into() });
            let outgoing = Outgoing { response, version: "300".into(), identifier: "mizzend".into() };
            let mut bytes = Vec::new();
            outgoing.encode(&mut bytes);
            assert_eq!(bytes.len(), outgoing.encoded_len());
            assert_eq!(DeltaDiscoveryResponse::decode(&*bytes).unwrap(), expected);
            assert_eq!(bytes, expected.encode_to_vec());
        }
    }
}
