//! The proxy's ADS stream, carried to the control plane.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use mizzen_protos::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient, aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::upstream::{MAX_FROM_CONTROL, MAX_FROM_PROXY, dial};
use crate::{Identity, Options};

/// Carries frames both ways; it knows nothing of what they say. When the control plane goes away, the proxy's stream ends with UNAVAILABLE, and the
/// proxy, which keeps its configuration, comes again.
pub(crate) struct Relay {
    pub(crate) options: Arc<Options>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) identity: watch::Receiver<Option<Identity>>,
}

/// Requests that wait for the control plane to take them.
const IN_FLIGHT: usize = 64;

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Relay {
    /// A connection of its own for each stream, with the newest certificate.
    async fn upstream(&self) -> Result<AggregatedDiscoveryServiceClient<Channel>, Status> {
        let mut identity = self.identity.clone();
        let held = identity.wait_for(Option::is_some).await.map_err(|_| Status::unavailable("the agent is ending"))?.clone();
        self.metrics.xds_connections.add();
        match dial(&self.options, &self.options.discovery, held.as_ref().map(|i| &i.svid)).await {
            Ok(channel) => Ok(AggregatedDiscoveryServiceClient::new(channel)
                .max_decoding_message_size(MAX_FROM_CONTROL)
                .max_encoding_message_size(MAX_FROM_PROXY)),
            Err(error) => {
                self.metrics.xds_failures.add();
                warn!(%error, "the control plane cannot be reached");
                Err(Status::unavailable(error.to_string()))
            }
        }
    }
}

/// What the proxy sends, until it stops; a broken stream looks like one that has ended, since there is nobody left to tell.
fn forward<T: Send + 'static>(mut from: Streaming<T>) -> ReceiverStream<T> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                message = from.message() => match message {
                    Ok(Some(message)) => if sender.send(message).await.is_err() { return },
                    Ok(None) | Err(_) => return,
                },
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// What the control plane sends; its end, however it came, is UNAVAILABLE for the proxy.
fn backward<T: Send + 'static>(from: Streaming<T>) -> Responses<T> {
    let ended = futures_util::stream::once(async { Err(Status::unavailable("the control plane has ended the stream")) });
    let from = from.map(|message| {
        message.map_err(|status| {
            info!(code = %status.code(), message = status.message(), "the control plane's stream broke");
            Status::unavailable(format!("the control plane's stream: {}: {}", status.code(), status.message()))
        })
    });
    Box::pin(from.chain(ended))
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let mut upstream = self.upstream().await?;
        let responses = upstream.stream_aggregated_resources(forward(request.into_inner())).await.map_err(unavailable)?;
        Ok(Response::new(backward(responses.into_inner())))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut upstream = self.upstream().await?;
        let responses = upstream.delta_aggregated_resources(forward(request.into_inner())).await.map_err(unavailable)?;
        Ok(Response::new(backward(responses.into_inner())))
    }
}

/// Whatever the reason, the proxy shall try again; the reason travels as text.
fn unavailable(status: Status) -> Status {
    warn!(code = %status.code(), message = status.message(), "the control plane refuses the stream");
    Status::unavailable(format!("the control plane: {}: {}", status.code(), status.message()))
}
