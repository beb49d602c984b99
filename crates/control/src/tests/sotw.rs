//! Clients that ask for the state of the world.

use std::collections::BTreeMap;

use mizzen_pki::Svid;
use mizzen_protos::envoy::envoy::service::discovery::v3::{
    DiscoveryRequest, DiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use mizzen_xds::{
    client::Event as Change,
    sotw::Client,
    types::{CLUSTER, ENDPOINT, INDEX, LISTENER, NAME_TABLE},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    NODE, REVIEWS, endpoints,
    harness::{MESH, PATIENCE, World, node, objects},
};
use crate::{
    source::Event,
    status::{SyncState, Syncz},
};

/// A proxy that takes everything but a cluster that it is told to reject.
struct Proxy {
    client: Client,
    reject: Option<&'static str>,
    /// Types of the responses that came, and how many resources each held.
    responses: Vec<(String, usize)>,
    accepted: BTreeMap<(String, String), Vec<u8>>,
    out: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Proxy {
    async fn connect(world: &World, svid: &Svid, id: &str) -> Result<Proxy, Status> {
        let mut client = Client::new(node(id, "storefront"));
        client.connected();
        let (out, answers) = Self::stream(world, svid).await?;
        Ok(Proxy { client, reject: None, responses: Vec::new(), accepted: BTreeMap::new(), out, answers })
    }

    async fn stream(world: &World, svid: &Svid) -> Result<(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>), Status> {
        let (out, requests) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel(Some(svid)).await.unwrap());
        Ok((out, client.stream_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner()))
    }

    fn get(&self, type_url: &str, name: &str) -> Option<&[u8]> {
        self.accepted.get(&(type_url.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    async fn flush(&mut self) {
        while let Some(request) = self.client.next_request() {
            self.out.send(request).await.unwrap();
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Proxy) -> bool) {
        while !wanted(self) {
            self.flush().await;
            let message = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("it never is so");
            self.take(message.unwrap().expect("the stream has ended"));
        }
        self.flush().await;
    }

    fn take(&mut self, response: DiscoveryResponse) {
        assert_eq!(response.version_info.len(), 16);
        assert!(response.control_plane.as_ref().is_some_and(|c| !c.identifier.is_empty()));
        self.responses.push((response.type_url.clone(), response.resources.len()));
        let (receipt, changes) = self.client.receive(response).unwrap();
        let type_url = receipt.type_url().to_string();
        let mut rejected = Vec::new();
        for change in changes {
            let key = (type_url.clone(), change.name().to_string());
            match change {
                Change::Removed { .. } => drop(self.accepted.remove(&key)),
                Change::Added { name, .. } if type_url == CLUSTER && self.reject == Some(&*name) => {
                    rejected.push((name, "not today".to_owned()));
                }
                Change::Added { body, .. } => drop(self.accepted.insert(key, body.value)),
            }
        }
        self.client.settle(receipt, rejected);
    }
}

const SECOND: &str = "
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: shop, labels: {app: reviews}}
spec: {serviceAccountName: reviews, containers: [{name: app}]}
status: {podIP: 10.244.0.8, phase: Running, conditions: [{type: Ready, status: 'True'}]}
";
const RATINGS: &str = "
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.0.8, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
";
const RATINGS_CLUSTER: &str = "outbound|9080||ratings.shop.svc.cluster.local";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_configuration() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    let mut proxy = Proxy::connect(&world, &svid, NODE).await.unwrap();
    for type_url in [INDEX, CLUSTER, LISTENER, NAME_TABLE] {
        proxy.client.watch_all(type_url);
    }
    proxy.client.subscribe(ENDPOINT, [REVIEWS.into()]);
    let has = |proxy: &Proxy, type_url: &str, name: &str| proxy.get(type_url, name).is_some();
    proxy.until(|p| has(p, LISTENER, "virtualInbound") && has(p, ENDPOINT, REVIEWS) && has(p, NAME_TABLE, "")).await;
    assert!(proxy.responses.iter().all(|(type_url, _)| type_url != INDEX), "on demand is for the other variant");
    let synced = |s: &Syncz| s.proxies.iter().all(|p| p.types.len() == 4 && p.types.iter().all(|t| t.state == SyncState::Synced));
    let status: Syncz = world.until("/debug/syncz", synced).await;
    let clusters = &status.proxies[0].types[0];
    assert_eq!((clusters.name.as_str(), status.proxies[0].proxy.as_str()), ("Cluster", "storefront-0.shop"));
    assert!(clusters.resources.len() > 3 && clusters.resources.iter().all(|r| r.acked.is_some() && r.acked == r.sent));
    let all = clusters.resources.len();

    // Of endpoints what changed is sent, of clusters everything.
    proxy.responses.clear();
    world.apply(SECOND);
    proxy.until(|p| endpoints(p.get(ENDPOINT, REVIEWS).unwrap()) == 2).await;
    assert_eq!(proxy.responses, [(ENDPOINT.to_owned(), 1)]);
    world.apply(RATINGS);
    proxy.until(|p| has(p, CLUSTER, RATINGS_CLUSTER)).await;
    assert!(proxy.responses.contains(&(CLUSTER.to_owned(), all + 1)), "{:?}", proxy.responses);
    world.send(Event::Delete(objects(RATINGS)[0].key()));
    proxy.until(|p| !has(p, CLUSTER, RATINGS_CLUSTER)).await;
    world.until("/debug/syncz", synced).await;

    // After a restart all comes again, and is the same.
    let before = proxy.accepted.clone();
    let second = world.restart().await;
    second.apply(SECOND);
    (proxy.out, proxy.answers) = Proxy::stream(&second, &svid).await.unwrap();
    proxy.client.connected();
    proxy.responses.clear();
    proxy.until(|p| [CLUSTER, LISTENER, ENDPOINT, NAME_TABLE].iter().all(|t| p.responses.iter().any(|(type_url, _)| type_url == t))).await;
    proxy.until(|p| p.accepted == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    let mut proxy = Proxy::connect(&world, &svid, NODE).await.unwrap();
    proxy.client.watch_all(CLUSTER);
    proxy.until(|p| p.get(CLUSTER, REVIEWS).is_some()).await;
    proxy.reject = Some(RATINGS_CLUSTER);
    world.apply(RATINGS);
    proxy.until(|p| p.responses.len() == 2).await;
    let rejected = |s: &Syncz| s.proxies[0].types[0].state == SyncState::Error;
    let status: Syncz = world.until("/debug/syncz", rejected).await;
    let clusters = &status.proxies[0].types[0];
    assert_eq!((clusters.nacked, clusters.error.as_deref()), (1, Some("outbound|9080||ratings.shop.svc.cluster.local: not today")));
    let marked: Vec<_> = clusters.resources.iter().filter(|r| r.rejected.is_some()).collect();
    assert_eq!((marked.len(), marked[0].name.as_str(), marked[0].acked.as_deref()), (1, RATINGS_CLUSTER, None));
    assert!(world.metrics().await.contains("pilot_total_xds_rejects{type=\"cds\"} 1\n"));

    proxy.reject = None;
    world.apply(&RATINGS.replace("9080", "9081"));
    // What is new comes before what is gone goes.
    let new = RATINGS_CLUSTER.replace("9080", "9081");
    proxy.until(|p| p.get(CLUSTER, &new).is_some() && p.get(CLUSTER, RATINGS_CLUSTER).is_none()).await;
    world.until("/debug/syncz", |s: &Syncz| s.proxies[0].types[0].state == SyncState::Synced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_for_everybody() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    for (id, code) in [(NODE.replace(".shop~", ".vault~"), Code::PermissionDenied), ("x".to_owned(), Code::InvalidArgument)] {
        let mut proxy = Proxy::connect(&world, &svid, &id).await.unwrap();
        proxy.client.watch_all(CLUSTER);
        proxy.flush().await;
        assert_eq!(proxy.answers.message().await.unwrap_err().code(), code, "{id}");
    }
    let mut client = AggregatedDiscoveryServiceClient::new(world.channel(None).await.unwrap());
    let requests = tokio_stream::iter([DiscoveryRequest::default()]);
    assert_eq!(client.stream_aggregated_resources(requests).await.unwrap_err().code(), Code::Unauthenticated);
}
