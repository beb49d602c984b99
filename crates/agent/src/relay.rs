//! The proxy's ADS stream, carried to the control plane.

use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::Stream;
use mizzen_protos::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient, aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::remembered::FORGET_AFTER;
use crate::tap::{self, Heard, StreamTap, Tap};
use crate::upstream::{MAX_FROM_CONTROL, MAX_FROM_PROXY, SILENCE, dial};
use crate::{Identity, Options};

/// Carries messages both ways, and in between what the agent itself says and hears ([`Tap`]): the proxy and the agent have one connection. When the
/// control plane goes away, the proxy's stream ends with UNAVAILABLE, and the proxy, which keeps its configuration, comes again.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) options: Arc<Options>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) identity: watch::Receiver<Option<Identity>>,
    pub(crate) tap: Arc<Tap>,
}

/// Requests that wait for the control plane to take them, and responses that wait for the proxy.
const IN_FLIGHT: usize = 16;
/// Answers of the agent's own that wait for the control plane to take them. One that sends more without taking any is out of order.
const OWN_IN_FLIGHT: usize = 64;

type Client = AggregatedDiscoveryServiceClient<Channel>;
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Opening<T> = Pin<Box<dyn Future<Output = Result<Response<Streaming<T>>, Status>> + Send>>;

impl Relay {
    /// Carries one stream. The proxy gets its headers at once and not when the control plane sends its own: some servers wait with those for the first
    /// request, some clients with their first request for headers.
    fn carry<R: tap::Response>(
        &self,
        from: Streaming<R::Request>,
        open: fn(Client, ReceiverStream<R::Request>) -> Opening<R>,
    ) -> Response<Responses<R>> {
        let (to, responses) = mpsc::channel(IN_FLIGHT);
        let relay = self.clone();
        tokio::spawn(async move {
            let status = tokio::select! {
                () = to.closed() => return,
                status = relay.run(from, open, &to) => status,
            };
            let _ = to.send(Err(status)).await;
        });
        Response::new(Box::pin(ReceiverStream::new(responses)))
    }

    /// Carries until the stream ends; says with which status.
    async fn run<R: tap::Response>(
        &self,
        from: Streaming<R::Request>,
        open: fn(Client, ReceiverStream<R::Request>) -> Opening<R>,
        to: &mpsc::Sender<Result<R, Status>>,
    ) -> Status {
        let client = match self.client().await {
            Ok(client) => client,
            Err(status) => return status,
        };
        let tap = self.tap.open();
        let (sender, requests) = mpsc::channel(IN_FLIGHT);
        // Beside the proxy's: who reads responses must not wait for requests to be taken, since the control plane may wait for the opposite.
        let (own, answers) = mpsc::channel(OWN_IN_FLIGHT);
        let (asked, first) = oneshot::channel();
        let answered = AtomicBool::new(false);
        let forward = forward(from, answers, sender, asked, &tap);
        // No deadline: when to ask anew is for the proxy to say.
        let silence = async {
            if first.await.is_ok() {
                tokio::time::sleep(SILENCE).await;
                if !answered.load(Ordering::Relaxed) {
                    warn!(seconds = SILENCE.as_secs(), "the control plane has not answered the proxy's first request yet");
                }
                tokio::time::sleep(FORGET_AFTER.saturating_sub(SILENCE)).await;
                tap.forget();
            }
            std::future::pending::<()>().await;
        };
        let backward = async {
            let mut responses = open(client, ReceiverStream::new(requests)).await?.into_inner();
            while let Some(response) = responses.message().await? {
                answered.store(true, Ordering::Relaxed);
                match tap.response(&response) {
                    Heard::Pass if to.send(Ok(response)).await.is_err() => return Ok(()),
                    Heard::Pass => {}
                    Heard::Kept(answer) => {
                        own.try_send(answer)
                            .map_err(|_| Status::resource_exhausted("name tables, and none of the answers to them is taken"))?;
                    }
                }
            }
            Ok(())
        };
        let ended: Result<(), Status> = tokio::select! {
            result = backward => result,
            () = forward => return Status::cancelled("the proxy has ended the stream"),
            () = silence => Ok(()),
            () = tap.is_forsaken() => return Status::unavailable("a newer stream of the proxy has ended"),
        };
        // Whatever the reason, the proxy shall come again; the reason travels as text.
        match ended {
            Ok(()) => Status::unavailable("the control plane has ended the stream"),
            Err(status) => {
                info!(code = %status.code(), message = status.message(), "the control plane's stream broke");
                Status::unavailable(format!("the control plane's stream: {}: {}", status.code(), status.message()))
            }
        }
    }

    /// A connection of its own for each stream, with the newest certificate; waits for the first one.
    async fn client(&self) -> Result<Client, Status> {
        let mut identity = self.identity.clone();
        let held = identity.wait_for(Option::is_some).await.map_err(|_| Status::unavailable("the agent is ending"))?.clone();
        self.metrics.xds_connections.inc();
        match dial(&self.options, &self.options.discovery, held.as_ref().map(|i| &i.svid)).await {
            Ok(channel) => Ok(AggregatedDiscoveryServiceClient::new(channel)
                .max_decoding_message_size(MAX_FROM_CONTROL)
                .max_encoding_message_size(MAX_FROM_PROXY)),
            Err(error) => {
                self.metrics.xds_failures.inc();
                warn!(%error, "the control plane cannot be reached");
                Err(Status::unavailable(error.to_string()))
            }
        }
    }
}

/// Carries what the proxy sends, until it stops, and the agent's `own` messages; a broken stream looks like one that has ended, since there is nobody
/// left to tell. `asked` hears of the first.
async fn forward<Q: tap::Request>(
    mut from: Streaming<Q>,
    mut own: mpsc::Receiver<Q>,
    to: mpsc::Sender<Q>,
    asked: oneshot::Sender<()>,
    tap: &StreamTap,
) {
    let mut asked = Some(asked);
    loop {
        let message = tokio::select! {
            message = from.message() => {
                let Ok(Some(mut message)) = message else { return };
                tap.request(&mut message).then_some(message)
            }
            Some(message) = own.recv() => Some(message),
        };
        let Some(message) = message else { continue };
        // Who waits for the first lives as long as this.
        asked.take().map(|asked| asked.send(()));
        // After what introduces the proxy.
        for message in iter::once(message).chain(tap.question()) {
            if to.send(message).await.is_err() {
                // The other half knows why the control plane takes no more.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let open =
            |mut client: Client, requests| -> Opening<_> { Box::pin(async move { client.stream_aggregated_resources(requests).await }) };
        Ok(self.carry(request.into_inner(), open))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let open =
            |mut client: Client, requests| -> Opening<_> { Box::pin(async move { client.delta_aggregated_resources(requests).await }) };
        Ok(self.carry(request.into_inner(), open))
    }
}
