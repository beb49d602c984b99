//! Streams to a server of resources, of either variant: the aggregated service, or the one for secrets, over a Unix socket or TCP.
//!
//! [`keep_open`] keeps one stream open, with back-off, and does nothing but carry messages; what they mean is up to
//! `sources`.

use std::{future::Future, io, net::SocketAddr, path::PathBuf, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, TryFutureExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use mizzen_net::Backoff;
use mizzen_protos::envoy::envoy::service::{
    discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
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

/// Which of the two variants of the protocol it is asked in, by its `api_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// `DELTA_GRPC`.
    Delta,
    /// `GRPC`: state of the world.
    Sotw,
}

/// A request of either variant.
#[derive(Debug)]
pub enum Request {
    /// Of the delta variant.
    Delta(DeltaDiscoveryRequest),
    /// State of the world.
    Sotw(DiscoveryRequest),
}

/// A response of either variant.
#[derive(Debug)]
pub enum Answer {
    /// Of the delta variant.
    Delta(DeltaDiscoveryResponse),
    /// State of the world.
    Sotw(DiscoveryResponse),
}

/// What happens on the stream.
#[derive(Debug)]
pub enum Happened {
    /// The server is reached; requests go here. The call begins with the first of them.
    Open(mpsc::Sender<Request>),
    /// The server has answered.
    Response(Box<Answer>),
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
/// A server that has said nothing to the first question for so long is warned of.
const SILENCE: Duration = Duration::from_secs(10);
/// After this it is asked anew. An agent that has no certificate yet is silent too, so this is no fault by itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Keeps a stream open until the receiver of `events` is gone.
pub async fn keep_open<T: Clone + Send + std::fmt::Debug>(
    server: Server,
    service: Service,
    variant: Variant,
    tag: T,
    events: mpsc::Sender<(T, Happened)>,
) {
    let mut pause = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let reason = match connect(&server).await {
            Ok(channel) => {
                let (requests, receiver) = mpsc::channel(QUEUE);
                // Before the call: there are servers that send their headers with their first message only.
                if events.send((tag.clone(), Happened::Open(requests))).await.is_err() {
                    return;
                }
                let (asked, first) = oneshot::channel();
                let answers = call(channel, service, variant, receiver, asked);
                let (reason, answered) = carry(answers, first, &tag, &events).await;
                if answered {
                    pause.reset();
                }
                reason
            }
            Err(error) => format!("cannot connect: {}", causes(&error)),
        };
        if events.send((tag.clone(), Happened::Closed(reason))).await.is_err() {
            return;
        }
        tokio::time::sleep(pause.spread_wait(Duration::MAX)).await;
    }
}

/// An error with all that is behind it: tonic's own words are only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let all: Vec<String> = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect();
    all.join(": ")
}

/// Carries responses until the stream ends; says why, and whether there was any.
async fn carry<T: Clone + std::fmt::Debug>(
    mut answers: Answers,
    asked: oneshot::Receiver<()>,
    tag: &T,
    events: &mpsc::Sender<(T, Happened)>,
) -> (String, bool) {
    let mut answered = false;
    let mut silence = std::pin::pin!(silence(asked, tag));
    loop {
        let answer = tokio::select! {
            answer = answers.next() => answer,
            () = &mut silence, if !answered => return (format!("no answer within {} s", ANSWER_WITHIN.as_secs()), false),
        };
        match answer {
            Some(Ok(answer)) => {
                answered = true;
                if events.send((tag.clone(), Happened::Response(Box::new(answer)))).await.is_err() {
                    return ("nobody listens".to_owned(), answered);
                }
            }
            None => return ("the server has closed the stream".to_owned(), answered),
            Some(Err(status)) => return (format!("{}: {}", status.code(), status.message()), answered),
        }
    }
}

/// Ends when the first question has had no answer for too long.
async fn silence<T: std::fmt::Debug>(asked: oneshot::Receiver<()>, tag: &T) {
    if asked.await.is_err() {
        // The stream has ended before anything was asked, and says why.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(SILENCE).await;
    tracing::warn!(source = ?tag, seconds = SILENCE.as_secs(), "a server of resources has not answered yet");
    tokio::time::sleep(ANSWER_WITHIN - SILENCE).await;
}

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

/// Calls the service's method for the variant. `asked` is told when the first request leaves.
fn call(channel: Channel, service: Service, variant: Variant, requests: mpsc::Receiver<Request>, asked: oneshot::Sender<()>) -> Answers {
    let mut asked = Some(asked);
    let requests = ReceiverStream::new(requests).inspect(move |_| {
        // Who waited for it has gone if there was an answer already.
        let _ = asked.take().map(|asked| asked.send(()));
    });
    let delta = |request: Request| async move { if let Request::Delta(request) = request { Some(request) } else { None } };
    let sotw = |request: Request| async move { if let Request::Sotw(request) = request { Some(request) } else { None } };
    let ads = AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let sds = SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (mut ads, mut sds) = (ads, sds);
    match (service, variant) {
        (Service::Aggregated, Variant::Delta) => {
            answers(async move { ads.delta_aggregated_resources(requests.filter_map(delta)).await }, Answer::Delta)
        }
        (Service::Aggregated, Variant::Sotw) => {
            answers(async move { ads.stream_aggregated_resources(requests.filter_map(sotw)).await }, Answer::Sotw)
        }
        (Service::Secrets, Variant::Delta) => answers(async move { sds.delta_secrets(requests.filter_map(delta)).await }, Answer::Delta),
        (Service::Secrets, Variant::Sotw) => answers(async move { sds.stream_secrets(requests.filter_map(sotw)).await }, Answer::Sotw),
    }
}

/// The headers' arrival and what follows them, as one stream.
fn answers<R: Send + 'static>(
    opening: impl Future<Output = Result<tonic::Response<tonic::Streaming<R>>, Status>> + Send + 'static,
    answer: fn(R) -> Answer,
) -> Answers {
    Box::pin(opening.map_ok(tonic::Response::into_inner).try_flatten_stream().map_ok(answer))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Neither headers nor anything else comes. The clock stands still but for timers.
    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("silent");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        for variant in [Variant::Delta, Variant::Sotw] {
            let (events, mut happened) = mpsc::channel(8);
            let task = tokio::spawn(keep_open(Server::Pipe(path.clone()), Service::Secrets, variant, "silent", events));
            for _ in 0..2 {
                let Some((_, Happened::Open(requests))) = happened.recv().await else { panic!("the server is there") };
                let request = match variant {
                    Variant::Delta => Request::Delta(DeltaDiscoveryRequest::default()),
                    Variant::Sotw => Request::Sotw(DiscoveryRequest::default()),
                };
                requests.send(request).await.unwrap();
                match happened.recv().await {
                    Some((_, Happened::Closed(reason))) => assert!(reason.contains("no answer within"), "{reason}"),
                    other => panic!("{other:?}"),
                }
            }
            task.abort();
        }
    }
}
