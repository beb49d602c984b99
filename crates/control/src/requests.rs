//! The requests of a stream, read from the body of its call. What a request needed is not kept for the next one: the first may name all that a proxy
//! holds, those that follow are of some bytes, and a stream lives for hours.

use std::{future::poll_fn, marker::PhantomData, pin::Pin};

use http_body::Body as _;
use prost::{
    Message,
    bytes::{Buf, BytesMut},
};
use tonic::{Status, body::Body};

/// A request may be this long: one that names all resources that a proxy holds is.
const MAX: usize = 32 << 20;
/// The flag of compression and the length.
const HEAD: usize = 5;

/// The requests of one stream.
pub(crate) struct Requests<Q> {
    body: Body,
    buffer: BytesMut,
    kind: PhantomData<fn() -> Q>,
}

impl<Q: Message + Default> Requests<Q> {
    pub(crate) fn new(body: Body) -> Self {
        Requests { body, buffer: BytesMut::new(), kind: PhantomData }
    }

    /// The next one; `None` at the end. Nothing is lost if it is not waited for to the end.
    ///
    /// # Errors
    /// If the stream breaks, or what comes is no such request, too long, or compressed.
    pub(crate) async fn message(&mut self) -> Result<Option<Q>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ends within a request")),
            }
        }
    }

    /// The first request of the buffer, if it is there as a whole.
    fn take(&mut self) -> Result<Option<Q>, Status> {
        let Some([flag, length @ ..]) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        if *flag != 0 {
            return Err(Status::unimplemented("a compressed request: none is taken"));
        }
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX {
            return Err(Status::out_of_range(format!("a request of {length} bytes; {MAX} is the most")));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(HEAD + length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        message.advance(HEAD);
        Q::decode(message).map(Some).map_err(|error| Status::invalid_argument(format!("no request: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use mizzen_protos::envoy::envoy::service::discovery::v3::DiscoveryRequest;
    use prost::bytes::Bytes;

    use super::*;

    /// A body of these pieces.
    struct Pieces(std::vec::IntoIter<Vec<u8>>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Result<Frame<Bytes>, Status>>> {
            std::task::Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece.into()))))
        }
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    fn requests(bytes: &[u8], piece: usize) -> Requests<DiscoveryRequest> {
        let pieces: Vec<Vec<u8>> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
        Requests::new(Body::new(Pieces(pieces.into_iter())))
    }

    #[tokio::test]
    async fn in_any_pieces() {
        let sent =
            ["a", "", "long name of a type"].map(|type_url| DiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() });
        let bytes: Vec<u8> = sent.iter().flat_map(|request| framed(0, &request.encode_to_vec())).collect();
        for piece in 1..=bytes.len() {
            let mut requests = requests(&bytes, piece);
            for expected in &sent {
                assert_eq!(requests.message().await.unwrap().as_ref(), Some(expected), "{piece}");
            }
            assert!(requests.message().await.unwrap().is_none() && requests.buffer.capacity() == 0, "nothing is kept");
        }
    }

    #[tokio::test]
    async fn what_is_no_request() {
        let long = [&[0][..], &(MAX as u32 + 1).to_be_bytes()].concat();
        for (bytes, code) in [
            (framed(1, b""), tonic::Code::Unimplemented),
            (long, tonic::Code::OutOfRange),
            (framed(0, &[255; 9]), tonic::Code::InvalidArgument),
            (framed(0, b"abc")[..6].to_vec(), tonic::Code::Internal),
            (vec![0, 0], tonic::Code::Internal),
        ] {
            assert_eq!(requests(&bytes, 3).message().await.unwrap_err().code(), code, "{bytes:?}");
        }
    }
}
