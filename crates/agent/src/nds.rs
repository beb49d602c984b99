//! The subscription to the control plane's name table.

use std::sync::Arc;
use std::time::Duration;

use mizzen_net::Backoff;
use mizzen_protos::envoy::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use mizzen_protos::envoy::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mizzen_protos::nds;
use mizzen_xds::client::{Client, Event};
use mizzen_xds::types::NAME_TABLE;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{debug, warn};

use crate::upstream::{DialError, MAX_FROM_CONTROL, dial, first_answer};
use crate::{DnsOptions, Identity, NameTable, Options, node};

/// By this name of the node's agent the control plane can tell this stream from the proxy's own, whose id it shares.
const USER_AGENT: &str = "mizzen-agent";

/// The first and the longest wait after a stream's end.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error(transparent)]
    Protocol(#[from] mizzen_xds::client::Unasked),
}

/// Follows the table, for ever. While the control plane is away the last one stays.
pub(crate) async fn follow(
    options: Arc<Options>,
    dns: DnsOptions,
    mut identity: watch::Receiver<Option<Identity>>,
    table: watch::Sender<Arc<NameTable>>,
) {
    let mut introduced = node(&options);
    introduced.user_agent_name = USER_AGENT.to_owned();
    let mut client = Client::new(introduced);
    client.watch_all(NAME_TABLE);
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    loop {
        let Ok(held) = identity.wait_for(Option::is_some).await.map(|i| i.clone()) else { return };
        let result = stream(&options, &dns, held.as_ref(), &mut client, &table, &mut backoff).await;
        client.disconnected();
        let wait = backoff.spread_wait(Duration::MAX);
        match result {
            Ok(()) => debug!(retry_in = ?wait, "the name table's stream has ended"),
            Err(error) => warn!(%error, retry_in = ?wait, "no name table's stream"),
        }
        tokio::time::sleep(wait).await;
    }
}

async fn stream(
    options: &Options,
    dns: &DnsOptions,
    identity: Option<&Identity>,
    client: &mut Client,
    table: &watch::Sender<Arc<NameTable>>,
    backoff: &mut Backoff,
) -> Result<(), StreamError> {
    let channel = dial(options, &options.discovery, identity.map(|i| &i.svid)).await?;
    let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_FROM_CONTROL);
    let (sender, requests) = mpsc::channel(8);
    client.connected();
    // Before the call: a server may wait with its headers for the first request.
    flush(client, &sender).await;
    let opening = async {
        let mut responses = service.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
        let first = responses.message().await?;
        Ok::<_, Status>((responses, first))
    };
    let (mut responses, mut next) = first_answer("name table", opening).await?;
    while let Some(response) = next {
        backoff.reset();
        take(options, dns, client, response, table)?;
        flush(client, &sender).await;
        next = responses.message().await?;
    }
    Ok(())
}

async fn flush(client: &mut Client, sender: &mpsc::Sender<mizzen_protos::envoy::envoy::service::discovery::v3::DeltaDiscoveryRequest>) {
    while let Some(request) = client.next_request() {
        // If the stream has ended, reading from it says so.
        let _ = sender.send(request).await;
    }
}

fn take(
    options: &Options,
    dns: &DnsOptions,
    client: &mut Client,
    response: DeltaDiscoveryResponse,
    table: &watch::Sender<Arc<NameTable>>,
) -> Result<(), StreamError> {
    let (receipt, events) = client.receive(response)?;
    let mut rejected = Vec::new();
    for event in events {
        // There is one table; a removal empties nothing, since names that vanish come as a new table.
        let Event::Added { name, body, .. } = event else { continue };
        match nds::NameTable::decode(body.value.as_slice()) {
            Ok(message) => {
                let new = NameTable::new(&message, &options.namespace, &dns.local_domains);
                debug!(names = new.len(), "name table");
                table.send_replace(Arc::new(new));
            }
            Err(error) => rejected.push((name, error.to_string())),
        }
    }
    client.settle(receipt, rejected);
    Ok(())
}
