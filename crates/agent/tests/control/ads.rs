//! The ADS, in both variants.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::Stream;
use mizzen_protos::envoy::envoy::config::core::v3::Node;
use mizzen_protos::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use mizzen_protos::{Any, nds};
use mizzen_xds::types::{INDEX, NAME_TABLE, short};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Rpc, Response, Status, Streaming};

use super::{Index, Seen, Service, Shared};

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        rpc: Rpc<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let ads = self.open(&rpc);
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(ads.state_of_the_world(rpc.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_aggregated_resources(
        &self,
        rpc: Rpc<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let ads = self.open(&rpc);
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(ads.delta(rpc.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One stream.
struct Ads {
    shared: Arc<Shared>,
    identity: Option<String>,
    /// How many responses there were of each type.
    nonces: BTreeMap<String, u32>,
}

impl Service {
    fn open<T>(&self, rpc: &Rpc<T>) -> Ads {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        let identity = rpc.extensions().get::<Option<String>>().cloned().flatten();
        Ads { shared: self.0.clone(), identity, nonces: BTreeMap::new() }
    }
}

impl Ads {
    async fn delta(mut self, mut requests: Streaming<DeltaDiscoveryRequest>, sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>) {
        let (mut names, mut index) = (self.shared.names.subscribe(), self.shared.index.subscribe());
        let (mut table, mut indexed) = (false, false);
        loop {
            let (type_url, resources, removed) = tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { return };
                    self.introduce(request.node.as_ref());
                    if !request.response_nonce.is_empty() {
                        self.answered(request.response_nonce);
                        continue;
                    }
                    match request.type_url.as_str() {
                        // The last of the types, so that who waits for it has the others.
                        NAME_TABLE => {
                            table = true;
                            let resources = if indexed { vec![] } else { vec![("".to_owned(), self.table())] };
                            (NAME_TABLE.to_owned(), resources, vec![])
                        }
                        INDEX if index.borrow_and_update().is_some() => {
                            indexed = true;
                            let all = index.borrow().as_ref().map(|index| index.all.keys().cloned().collect::<Vec<_>>());
                            let (resources, removed) = entries(index.borrow().as_ref(), &all.unwrap_or_default());
                            (INDEX.to_owned(), resources, removed)
                        }
                        INDEX => continue,
                        other => {
                            let body = Any { type_url: other.to_owned(), value: Vec::new() };
                            let echo = |name: &String| (format!("echo of {name}"), body.clone());
                            (other.to_owned(), request.resource_names_subscribe.iter().map(echo).collect(), vec![])
                        }
                    }
                }
                _ = names.changed(), if table && !indexed => (NAME_TABLE.to_owned(), vec![("".to_owned(), self.table())], vec![]),
                _ = index.changed(), if indexed => {
                    let index = index.borrow();
                    let changed = index.as_ref().map(|index| index.changed.clone()).unwrap_or_default();
                    let (resources, removed) = entries(index.as_ref(), &changed);
                    (INDEX.to_owned(), resources, removed)
                }
            };
            let nonce = self.nonce(&type_url).0;
            let resource = |(name, body)| Resource { name, version: "1".to_owned(), resource: Some(body), ..Default::default() };
            let resources = resources.into_iter().map(resource).collect();
            let response = DeltaDiscoveryResponse { type_url, nonce, resources, removed_resources: removed, ..Default::default() };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }

    async fn state_of_the_world(
        mut self,
        mut requests: Streaming<DiscoveryRequest>,
        sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) {
        let mut names = self.shared.names.subscribe();
        let mut table = false;
        loop {
            let type_url = tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { return };
                    self.introduce(request.node.as_ref());
                    if !request.response_nonce.is_empty() {
                        self.answered(format!("{} {}", request.response_nonce, request.version_info));
                        continue;
                    }
                    table |= request.type_url == NAME_TABLE;
                    request.type_url
                }
                _ = names.changed(), if table => NAME_TABLE.to_owned(),
            };
            let (nonce, count) = self.nonce(&type_url);
            let resources = if type_url == NAME_TABLE { vec![self.table()] } else { vec![] };
            let response = DiscoveryResponse { type_url, nonce, version_info: count.to_string(), resources, ..Default::default() };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }

    fn introduce(&self, node: Option<&Node>) {
        if let Some(node) = node {
            let _ = self.shared.streams.send(Seen { identity: self.identity.clone(), node: node.id.clone() });
        }
    }

    fn answered(&self, answer: String) {
        let _ = self.shared.answers.send(answer);
    }

    /// The next nonce of a type, and its number.
    fn nonce(&mut self, type_url: &str) -> (String, u32) {
        let count = self.nonces.entry(type_url.to_owned()).or_default();
        *count += 1;
        (format!("{} {count}", short(type_url)), *count)
    }

    fn table(&self) -> Any {
        let table = nds::NameTable { table: self.shared.names.borrow().clone().into_iter().collect() };
        Any { type_url: NAME_TABLE.to_owned(), value: table.encode_to_vec() }
    }
}

/// These entries of the index, and those of them that are not there.
fn entries(index: Option<&Index>, hosts: &[String]) -> (Vec<(String, Any)>, Vec<String>) {
    let body = |host: &String| Some(Any { type_url: INDEX.to_owned(), value: index?.all.get(host)?.encode_to_vec() });
    let (there, gone): (Vec<String>, Vec<String>) = hosts.iter().cloned().partition(|host| body(host).is_some());
    (there.into_iter().filter_map(|host| body(&host).map(|body| (host, body))).collect(), gone)
}
