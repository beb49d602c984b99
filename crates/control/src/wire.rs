//! The discovery streams on the wire: responses are written from the contents that all connections share, piece by piece as a stream takes them. A whole
//! response may be megabytes, and after a restart hundreds of proxies wait for theirs.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Body as HttpBody, Frame};
use mizzen_protos::envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use mizzen_types::Name;
use mizzen_xds::server::{Parts, Resource, Response};
use prost::{
    bytes::{BufMut, Bytes, BytesMut},
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tokio_stream::Stream;
use tonic::{
    Request, Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{self, HeaderMap},
    },
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::NamedService,
};

use crate::{
    ads::{Discovery, Question, Responses},
    requests::Requests,
};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// Pieces of responses are as long as this at least, but for the last one: longer by the resource that fills them up.
pub(crate) const PIECE: usize = 64 << 10;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The two variants of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Delta,
    /// The state of the world.
    Sotw,
}

/// A response as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) response: Response,
    pub(crate) variant: Variant,
    /// The snapshot that it is of; or, of the state of the world, its contents' version.
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
            Ok(match request.uri().path() {
                DELTA => service.open::<DeltaDiscoveryRequest>(request).await,
                SOTW => service.open::<DiscoveryRequest>(request).await,
                path => Status::unimplemented(format!("there is no method {path}")).into_http(),
            })
        })
    }
}

impl Ads {
    async fn open<Q: Question>(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let requests = Requests::<Q>::new(body);
        let request = Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, requests);
        let responses = match self.0.open(request).await {
            Ok(responses) => responses.into_inner(),
            Err(status) => return status.into_http(),
        };
        let mut answer = http::Response::new(Body::new(Gathered { responses, pieces: Pieces::of(Vec::new()), over: false }));
        answer.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        answer
    }
}

/// The body of an answer: responses as they come, in pieces, and the status at the end.
struct Gathered {
    responses: Responses,
    /// What is being written.
    pieces: Pieces,
    over: bool,
}

impl HttpBody for Gathered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.pieces.next() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.over {
                return Poll::Ready(None);
            }
            let status = match ready!(Pin::new(&mut self.responses).poll_next(cx)) {
                Some(Ok(together)) => {
                    self.pieces = Pieces::of(together);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.over = true;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over && self.pieces.is_over()
    }
}

/// Responses that are written one after the other. What is little of one shares a piece with the next.
struct Pieces {
    waiting: std::vec::IntoIter<Outgoing>,
    now: Option<Written>,
}

impl Pieces {
    fn of(together: Vec<Outgoing>) -> Pieces {
        let mut waiting = together.into_iter();
        let now = waiting.next().map(Written::new);
        Pieces { waiting, now }
    }

    fn is_over(&self) -> bool {
        self.now.is_none()
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while let Some(now) = &mut self.now {
            if now.shared.is_some() {
                // What is before it goes first.
                return if out.is_empty() { now.shared_piece() } else { Some(out.freeze()) };
            }
            now.write(&mut out);
            if now.over {
                self.now = self.waiting.next().map(Written::new);
            }
            if out.len() >= PIECE {
                break;
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

/// A response that is being written, as a message of gRPC.
struct Written {
    outgoing: Outgoing,
    /// Its sheet, until its beginning is written.
    sheet: Option<Arc<Vec<Bytes>>>,
    /// What others write as well and comes next.
    shared: Option<SharedPieces>,
    /// Resources beside the sheet written so far; none: not even its beginning was.
    resources: Option<usize>,
    /// Parts of the next resource written so far; none: not even its beginning was.
    part: Option<usize>,
    /// Bytes of its own that are not written.
    left: usize,
    length: usize,
    over: bool,
}

/// Bytes that many responses share, and how many of their pieces are written.
enum SharedPieces {
    Sheet(Arc<Vec<Bytes>>, usize),
    Parts(Arc<Parts>, usize),
}

impl SharedPieces {
    /// The next piece, and whether it is the last one.
    fn next(&mut self) -> Option<(Bytes, bool)> {
        let (pieces, written) = match self {
            SharedPieces::Sheet(pieces, written) => (pieces.as_slice(), written),
            SharedPieces::Parts(parts, written) => (parts.written(PIECE)?, written),
        };
        let piece = pieces.get(*written)?.clone();
        *written += 1;
        Some((piece, *written == pieces.len()))
    }
}

impl Written {
    fn new(outgoing: Outgoing) -> Self {
        let sheet = outgoing.response.sheet.as_ref().map(|sheet| sheet.written(|lines| outgoing.encode_sheet(lines)));
        let parts = outgoing.response.resources.iter().filter_map(|(_, resource)| resource.parts.as_ref());
        let shared: usize = parts.filter(|parts| parts.written(PIECE).is_some()).map(|parts| parts.encoded_len()).sum();
        let own = outgoing.encoded_len();
        let length = own + sheet.iter().flat_map(|pieces| pieces.iter()).map(Bytes::len).sum::<usize>();
        let left = PREFIX + own - shared;
        Written { outgoing, sheet, shared: None, resources: None, part: None, left, length, over: false }
    }

    /// The piece of what others write as well that comes next.
    fn shared_piece(&mut self) -> Option<Bytes> {
        let (piece, is_last) = self.shared.as_mut()?.next()?;
        if is_last {
            self.shared = None;
        }
        Some(piece)
    }

    /// Writes until there is a piece, or something comes that others write as well.
    fn write(&mut self, out: &mut BytesMut) {
        out.reserve(self.left.min(PIECE + PIECE / 4));
        let before = out.len();
        if self.resources.is_none() {
            // A message that is not compressed, and its length.
            out.put_u8(0);
            out.put_u32(u32::try_from(self.length).unwrap_or(u32::MAX));
            self.outgoing.encode_head(out);
            self.resources = Some(0);
            self.shared = self.sheet.take().filter(|sheet| !sheet.is_empty()).map(|sheet| SharedPieces::Sheet(sheet, 0));
        }
        if self.shared.is_none() {
            self.write_rest(out);
        }
        self.left = self.left.saturating_sub(out.len() - before);
    }

    /// Writes resources, and the end after the last one, as long as that makes no piece.
    fn write_rest(&mut self, out: &mut BytesMut) {
        let mut next = self.resources.unwrap_or_default();
        while out.len() < PIECE
            && self.shared.is_none()
            && let Some((name, resource)) = self.outgoing.response.resources.get(next)
        {
            let mut part = self.part.unwrap_or_else(|| {
                self.outgoing.encode_resource(name, resource, out);
                0
            });
            let parts = resource.parts.as_ref();
            let all = parts.map_or(0, |parts| parts.messages().len());
            if let Some(shared) = parts.filter(|parts| part == 0 && parts.written(PIECE).is_some()) {
                self.shared = Some(SharedPieces::Parts(shared.clone(), 0));
                self.part = Some(all);
                break;
            }
            while out.len() < PIECE
                && let Some((parts, (_, message))) = parts.and_then(|parts| Some((parts, parts.messages().get(part)?)))
            {
                parts.encode(message, out);
                part += 1;
            }
            self.part = (part < all).then_some(part);
            if self.part.is_none() {
                self.outgoing.encode_name(name, out);
                next += 1;
            }
        }
        self.resources = Some(next);
        if out.len() < PIECE && self.shared.is_none() && self.part.is_none() {
            self.outgoing.encode_end(out);
            self.over = true;
        }
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

/// The length of a resource's content, its parts included.
fn value_length(resource: &Resource) -> usize {
    resource.body.value.len() + resource.parts.as_ref().map_or(0, |parts| parts.encoded_len())
}

/// The length of an `Any`.
fn any_length(resource: &Resource) -> usize {
    let value = value_length(resource);
    text_length(1, &resource.body.type_url) + if value == 0 { 0 } else { length_of(2, value) }
}

/// The length of a `Resource` that holds it.
fn resource_length(name: &str, any: usize) -> usize {
    // A version is 16 digits.
    length_of(1, 16) + length_of(2, any) + text_length(3, name)
}

impl Outgoing {
    /// Its length without its sheet.
    fn encoded_len(&self) -> usize {
        let Response { type_url, nonce, sheet: _, resources, removed } = &self.response;
        let resource = |(name, resource): &(Name, Resource)| match self.variant {
            Variant::Delta => length_of(2, resource_length(name, any_length(resource))),
            Variant::Sotw => length_of(2, any_length(resource)),
        };
        let resources: usize = resources.iter().map(resource).sum();
        let removed: usize = removed.iter().map(|name| length_of(6, name.len())).sum();
        let control = length_of(self.control(), text_length(1, &self.identifier));
        text_length(1, &self.version) + resources + text_length(4, type_url) + text_length(5, nonce) + removed + control
    }

    /// The number of the field `control_plane`.
    fn control(&self) -> u32 {
        match self.variant {
            Variant::Delta => 7,
            Variant::Sotw => 6,
        }
    }

    /// The beginning of an `envoy.service.discovery.v3.DeltaDiscoveryResponse` or `DiscoveryResponse`: their first five fields are alike, but for
    /// what holds a resource.
    fn encode_head(&self, out: &mut impl BufMut) {
        text(out, 1, &self.version);
    }

    /// The resources of a sheet, in pieces. Only a client that hears of what is new is sent one, and no resource in it has parts.
    fn encode_sheet(&self, lines: &[(Name, Resource)]) -> Vec<Bytes> {
        let (mut pieces, mut out) = (Vec::new(), BytesMut::with_capacity(PIECE + PIECE / 4));
        for (name, resource) in lines {
            self.encode_resource(name, resource, &mut out);
            self.encode_name(name, &mut out);
            if out.len() >= PIECE {
                pieces.push(std::mem::replace(&mut out, BytesMut::with_capacity(PIECE + PIECE / 4)).freeze());
            }
        }
        pieces.extend((!out.is_empty()).then(|| out.freeze()));
        pieces
    }

    /// A resource, up to its parts.
    fn encode_resource(&self, name: &str, resource: &Resource, out: &mut impl BufMut) {
        let any = any_length(resource);
        if self.variant == Variant::Delta {
            head(out, 2, resource_length(name, any));
            field(out, 1, resource.version.to_string().as_bytes());
        }
        head(out, 2, any);
        text(out, 1, &resource.body.type_url);
        let value = value_length(resource);
        if value > 0 {
            head(out, 2, value);
            out.put_slice(&resource.body.value);
        }
    }

    /// What comes after a resource's parts.
    fn encode_name(&self, name: &str, out: &mut impl BufMut) {
        if self.variant == Variant::Delta {
            text(out, 3, name);
        }
    }

    /// What comes after them. In a state of the world nothing is removed by name.
    fn encode_end(&self, out: &mut impl BufMut) {
        let Response { type_url, nonce, sheet: _, resources: _, removed } = &self.response;
        text(out, 4, type_url);
        text(out, 5, nonce);
        removed.iter().for_each(|name| field(out, 6, name.as_bytes()));
        head(out, self.control(), text_length(1, &self.identifier));
        text(out, 1, &self.identifier);
    }
}

#[cfg(test)]
mod tests {
    use mizzen_protos::{
        Any,
        envoy::envoy::{
            config::core::v3::ControlPlane,
            service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
        },
    };
    use mizzen_xds::{Version, server::Sheet};
    use prost::Message;

    use super::*;

    #[test]
    fn as_prost_writes_it() {
        let resource = |value: &[u8]| Resource::new(Any { type_url: "type.googleapis.com/a.B".into(), value: value.to_vec() });
        for (names, removed) in [(&[][..], &[][..]), (&["", "a", "long"], &[]), (&["a"], &["b", ""]), (&[], &["b"])] {
            let resources = names.iter().map(|name: &&str| ((*name).into(), resource(&name.as_bytes().repeat(100)))).collect();
            let removed = removed.iter().map(|name: &&str| (*name).into()).collect();
            let response = Response { type_url: "type.googleapis.com/a.B".into(), nonce: "17".into(), sheet: None, resources, removed };
            let control_plane = Some(ControlPlane { identifier: "mizzend".into() });
            let delta = DeltaDiscoveryResponse {
                system_version_info: "300".into(),
                control_plane: control_plane.clone(),
                ..response.clone().into()
            };
            written_as(Variant::Delta, &response, &delta.encode_to_vec());
            // What others get alike comes first.
            let sheet = Sheet::new(vec![("0".into(), resource(b"x")), ("1".into(), resource(&[b'y'; PIECE]))]);
            let with_sheet = Response { sheet: Some(Arc::new(sheet)), ..response.clone() };
            let all = DeltaDiscoveryResponse { resources: DeltaDiscoveryResponse::from(with_sheet.clone()).resources, ..delta.clone() };
            assert_eq!(all.resources.len(), names.len() + 2);
            written_as(Variant::Delta, &with_sheet, &all.encode_to_vec());
            let response = Response { removed: Vec::new(), ..response };
            let sotw = DiscoveryResponse { version_info: "300".into(), control_plane, ..response.clone().into() };
            written_as(Variant::Sotw, &response, &sotw.encode_to_vec());
        }
    }

    fn written_as(variant: Variant, response: &Response, expected: &[u8]) {
        let outgoing = Outgoing { response: response.clone(), variant, version: "300".into(), identifier: "mizzend".into() };
        let length = Written::new(outgoing.clone()).length;
        let whole: Vec<u8> = Pieces::of(vec![outgoing]).flatten().collect();
        let (frame, bytes) = whole.split_at(5);
        assert_eq!(frame, [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat());
        assert_eq!(bytes, expected, "{variant:?}");
    }

    /// What is joined from many parts is written part by part, to the bytes that it has as a whole; what many get alike is written once.
    #[test]
    fn parts_in_pieces() {
        let part = |n: usize| (Version(n as u64), Arc::new(Any { type_url: String::new(), value: vec![n as u8; n % 700] }));
        let of = [(0, Variant::Delta), (1, Variant::Delta), (700, Variant::Delta), (700, Variant::Sotw)];
        for ((count, variant), make) in of.into_iter().flat_map(|of| [(of, Parts::new as fn(_, _) -> Parts), (of, Parts::alike)]) {
            let head = Resource::new(Any { type_url: "type.googleapis.com/a.B".into(), value: vec![10, 1, 65] });
            let parts = make(2, (0..count).map(part).collect());
            let is_shared = parts.written(PIECE).is_some();
            let joined = head.joined(parts);
            let resources = ["a", "b"].map(|name| (name.into(), joined.clone())).to_vec();
            let response =
                Response { type_url: "type.googleapis.com/a.B".into(), nonce: "1".into(), sheet: None, resources, removed: vec![] };
            let control_plane = Some(ControlPlane { identifier: "mizzend".into() });
            let expected = match variant {
                Variant::Delta => {
                    let all = DeltaDiscoveryResponse::from(response.clone());
                    DeltaDiscoveryResponse { system_version_info: "1".into(), control_plane, ..all }.encode_to_vec()
                }
                Variant::Sotw => {
                    let (type_url, nonce) = (response.type_url.to_string(), response.nonce.clone());
                    let resources = vec![joined.whole(), joined.whole()];
                    DiscoveryResponse { version_info: "1".into(), resources, type_url, nonce, control_plane, ..Default::default() }
                        .encode_to_vec()
                }
            };
            let outgoing = Outgoing { response, variant, version: "1".into(), identifier: "mizzend".into() };
            let again: Vec<Bytes> = Pieces::of(vec![outgoing.clone()]).collect();
            let pieces: Vec<Bytes> = Pieces::of(vec![outgoing]).collect();
            let shared = pieces.iter().filter(|piece| again.iter().any(|other| piece.as_ptr() == other.as_ptr())).count();
            assert_eq!(shared > 4, is_shared, "{count}: {shared} of {}", pieces.len());
            assert!(pieces.iter().all(|piece| piece.len() < PIECE + 1000), "{count}");
            assert_eq!(&pieces.concat()[5..], expected, "{count} {variant:?}");
        }
    }

    #[test]
    fn in_pieces() {
        let resource = Resource::new(Any { type_url: "type.googleapis.com/a.B".into(), value: vec![7; 1000] });
        let resources = (0..1000).map(|n| (format!("{n}").as_str().into(), resource.clone())).collect();
        let response = Response {
            type_url: "type.googleapis.com/a.B".into(),
            nonce: "1".into(),
            sheet: None,
            resources,
            removed: vec!["gone".into()],
        };
        let outgoing = Outgoing { response, variant: Variant::Delta, version: "1".into(), identifier: "mizzend".into() };
        let length = outgoing.encoded_len();
        let pieces: Vec<Bytes> = Pieces::of(vec![outgoing]).collect();
        let (last, full) = pieces.split_last().unwrap();
        assert!(full.len() > 10 && full.iter().all(|piece| (PIECE..PIECE + 1200).contains(&piece.len())) && last.len() < PIECE);
        let whole = pieces.concat();
        let read = DeltaDiscoveryResponse::decode(&whole[5..]).unwrap();
        assert_eq!((whole.len(), read.resources.len(), read.removed_resources), (length + 5, 1000, vec!["gone".to_owned()]));
    }

    /// Small responses share a piece; the bytes are those that they have one by one.
    #[test]
    fn together() {
        let resource = |length| Resource::new(Any { type_url: "type.googleapis.com/a.B".into(), value: vec![7; length] });
        let outgoing = |nonce: &str, lengths: &[usize], sheet: Option<usize>| {
            let lines = |lengths: &[usize]| {
                lengths.iter().map(|length| (format!("{length}").as_str().into(), resource(*length))).collect::<Vec<_>>()
            };
            let sheet = sheet.map(|length| Arc::new(Sheet::new(lines(&[length]))));
            let response = Response {
                type_url: "type.googleapis.com/a.B".into(),
                nonce: nonce.into(),
                sheet,
                resources: lines(lengths),
                removed: vec![],
            };
            Outgoing { response, variant: Variant::Delta, version: "1".into(), identifier: "mizzend".into() }
        };
        for (all, pieces) in [
            (vec![], 0),
            (vec![outgoing("1", &[], None), outgoing("2", &[10, 20], None), outgoing("3", &[30], None)], 1),
            // The beginning of a response goes ahead of its sheet, with what is before it.
            (vec![outgoing("1", &[10], None), outgoing("2", &[20], Some(PIECE)), outgoing("3", &[30], None)], 3),
            (vec![outgoing("1", &[10], None), outgoing("2", &[PIECE, PIECE + 1], None), outgoing("3", &[30], None)], 3),
        ] {
            let one_by_one: Vec<u8> = all.iter().flat_map(|one| Pieces::of(vec![one.clone()])).flatten().collect();
            let together: Vec<Bytes> = Pieces::of(all).collect();
            assert_eq!((together.concat(), together.len()), (one_by_one, pieces));
        }
    }

    /// What a stream ends with is told in trailers, after what was sent before.
    #[tokio::test]
    async fn the_status_comes_last() {
        for (last, expected) in [(None, "0"), (Some(Status::resource_exhausted("later")), "8")] {
            let (out, responses) = tokio::sync::mpsc::channel(2);
            let response = Response { type_url: "t".into(), nonce: "1".into(), sheet: None, resources: vec![], removed: vec![] };
            let outgoing = Outgoing { response, variant: Variant::Delta, version: "1".into(), identifier: "mizzend".into() };
            out.send(Ok(vec![outgoing])).await.unwrap();
            if let Some(status) = last {
                out.send(Err(status)).await.unwrap();
            }
            drop(out);
            let responses = tokio_stream::wrappers::ReceiverStream::new(responses);
            let mut body = Gathered { responses, pieces: Pieces::of(Vec::new()), over: false };
            let mut frames = Vec::new();
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                frames.push(frame.unwrap());
            }
            assert_eq!(frames.len(), 2);
            assert!(frames[0].is_data() && body.is_end_stream());
            assert_eq!(frames[1].trailers_ref().unwrap()["grpc-status"], expected);
        }
    }
}
