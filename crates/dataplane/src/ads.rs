//! Delta streams to a server of resources: the aggregated service, or the one for secrets, over a Unix socket or TCP.
//!
//! [`keep_open`] keeps one stream open, with back-off, and does nothing but carry messages; what they mean is up to
//! [`mizzen_xds::client::Client`] and its owner.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use mizzen_protos::envoy::envoy::service::{
    discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
    secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Where a server of resources is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Server {
    /// A Unix socket.
    Pipe(PathBuf),
    /// TCP in plaintext: a server on loopback.
    Tcp(SocketAddr),
}

/// Which service it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
    Aggregated,
    /// `envoy.service.secret.v3.SecretDiscoveryService`.
    Secrets,
}

/// What happens on the stream.
#[derive(Debug)]
pub enum Happened {
    /// A new stream is open; requests go here.
    Open(mpsc::Sender<DeltaDiscoveryRequest>),
    /// The server has answered.
    Response(Box<DeltaDiscoveryResponse>),
    /// The stream is gone, with the reason. The next one is opened by itself.
    Closed(String),
}

/// A message of a configuration can be large: every cluster of a large mesh.
const MAX_MESSAGE: usize = 256 << 20;
/// Requests that may wait for the network.
const QUEUE: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Keeps a stream open until the receiver of `events` is gone.
pub async fn keep_open<T: Clone + Send>(server: Server, service: Service, tag: T, events: mpsc::Sender<(T, Happened)>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let reason = match open(&server, service).await {
            Ok((requests, responses)) => {
                if events.send((tag.clone(), Happened::Open(requests))).await.is_err() {
                    return;
                }
                let (reason, answered) = carry(responses, &tag, &events).await;
                if answered {
                    pause = FIRST_PAUSE;
                }
                reason
            }
            Err(error) => error.to_string(),
        };
        if events.send((tag.clone(), Happened::Closed(reason))).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Carries responses until the stream ends; says why, and whether there was any.
async fn carry<T: Clone>(
    mut responses: Streaming<DeltaDiscoveryResponse>,
    tag: &T,
    events: &mpsc::Sender<(T, Happened)>,
) -> (String, bool) {
    let mut answered = false;
    loop {
        match responses.message().await {
            Ok(Some(response)) => {
                answered = true;
                if events.send((tag.clone(), Happened::Response(Box::new(response)))).await.is_err() {
                    return ("nobody listens".to_owned(), answered);
                }
            }
            Ok(None) => return ("the server has closed the stream".to_owned(), answered),
            Err(status) => return (format!("{}: {}", status.code(), status.message()), answered),
        }
    }
}

type Open = (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>);

async fn open(server: &Server, service: Service) -> Result<Open, Status> {
    let channel = connect(server).await.map_err(|e| Status::unavailable(format!("cannot connect: {e}")))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let requests = ReceiverStream::new(receiver);
    let responses = match service {
        Service::Aggregated => {
            let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            client.delta_aggregated_resources(requests).await?.into_inner()
        }
        Service::Secrets => {
            let mut client = SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            client.delta_secrets(requests).await?.into_inner()
        }
    };
    Ok((sender, responses))
}

async fn connect(server: &Server) -> Result<Channel, tonic::transport::Error> {
    // The address is never looked up: the connector below knows where to go.
    let endpoint = Endpoint::from_static("http://xds").connect_timeout(CONNECT_WITHIN);
    let server = server.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let server = server.clone();
        async move {
            Ok::<_, io::Error>(match server {
                Server::Pipe(path) => TokioIo::new(Either::Unix(UnixStream::connect(path).await?)),
                Server::Tcp(address) => TokioIo::new(Either::Tcp(TcpStream::connect(address).await?)),
            })
        }
    });
    endpoint.connect_with_connector(connector).await
}

/// A stream of either kind.
enum Either {
    Unix(UnixStream),
    Tcp(TcpStream),
}

mod either {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Either;

    macro_rules! forward {
        ($self:ident, $stream:ident => $call:expr) => {
            match $self.get_mut() {
                Either::Unix($stream) => {
                    let $stream = Pin::new($stream);
                    $call
                }
                Either::Tcp($stream) => {
                    let $stream = Pin::new($stream);
                    $call
                }
            }
        };
    }

    impl AsyncRead for Either {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            forward!(self, s => s.poll_read(cx, buf))
        }
    }

    impl AsyncWrite for Either {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            forward!(self, s => s.poll_write(cx, buf))
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            forward!(self, s => s.poll_flush(cx))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            forward!(self, s => s.poll_shutdown(cx))
        }
    }
}
