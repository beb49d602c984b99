//! A control plane, and proxies that talk to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use http::Method;
use hyper_util::rt::TokioIo;
use mizzen_api::Object;
use mizzen_pki::{
    KeyPair, Secret, Svid, TrustBundle, server_verifier_by_name,
    tls::{TlsOptions, client_config},
};
use mizzen_protos::{
    ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    envoy::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    wkt::{Struct, Value, value::Kind},
};
use mizzen_xds::{
    client::{Client, Event as Change},
    types::CLUSTER,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    ClusterOptions, Options, Running,
    run::start_with,
    source::{Event, Merge, SourceId},
    token::Tokens,
};

/// Far more than any step takes; only a failure waits so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-0, namespace: shop, labels: {app: reviews}}
spec: {serviceAccountName: reviews, containers: [{name: app}]}
status: {podIP: 10.244.0.7, phase: Running, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: storefront-0, namespace: shop, labels: {app: storefront}}
spec: {serviceAccountName: storefront, containers: [{name: app}]}
status: {podIP: 10.244.0.9, phase: Running, conditions: [{type: Ready, status: 'True'}]}
";

pub(super) fn objects(yaml: &str) -> Vec<Arc<Object>> {
    let parsed = mizzen_api::parse_documents(yaml, &"test.yaml".into());
    parsed.objects.into_iter().map(|o| Arc::new(o.unwrap())).collect()
}

pub(super) struct World {
    pub(super) running: Running,
    source: SourceId,
    events: mpsc::UnboundedSender<(SourceId, Event)>,
    pub(super) root: String,
    folder: tempfile::TempDir,
    state: OwnedFd,
    yaml: &'static str,
}

impl World {
    pub(super) async fn start(yaml: &'static str) -> World {
        Self::with(yaml, mizzen_net::memfd("state", b"", false).unwrap()).await
    }

    /// Follows a real folder, with one file in it.
    pub(super) async fn of_folder(yaml: &'static str) -> World {
        Self::of_folders(&["mesh"], yaml).await
    }

    /// Follows real folders, the first with one file in it.
    pub(super) async fn of_folders(names: &[&str], yaml: &'static str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let state = mizzen_net::memfd("state", b"", false).unwrap();
        let ((events, _), (_, sources)) = (mpsc::unbounded_channel(), Merge::new(1));
        let config_dirs: Vec<_> = names.iter().map(|name| folder.path().join(name)).collect();
        config_dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        std::fs::write(config_dirs[0].join("all.yaml"), yaml).unwrap();
        let last_good = Some(folder.path().join("last-good"));
        let running = crate::start(Options { config_dirs, last_good, ..Self::options(&folder, &state) }).await.unwrap();
        let root = std::fs::read_to_string(folder.path().join("root.pem")).unwrap();
        World { running, source: sources[0], events, root, folder, state, yaml }
    }

    /// Follows a cluster, as this kubeconfig reaches it; no keys are kept but in the cluster.
    pub(super) async fn of_cluster(kubeconfig: &std::path::Path) -> World {
        Self::of_cluster_with(kubeconfig, |_| ()).await
    }

    /// The same with other options.
    pub(super) async fn of_cluster_with(kubeconfig: &std::path::Path, change: impl FnOnce(&mut Options)) -> World {
        let folder = tempfile::tempdir().unwrap();
        let state = mizzen_net::memfd("state", b"", false).unwrap();
        let ((events, _), (_, sources)) = (mpsc::unbounded_channel(), Merge::new(1));
        let cluster = ClusterOptions { kubeconfig: Some(kubeconfig.to_owned()), webhook_port: Some(0), ..ClusterOptions::default() };
        let mut options = Options { cluster: Some(cluster), ..Self::options(&folder, &state) };
        change(&mut options);
        let running = tokio::time::timeout(PATIENCE, crate::start(options)).await.expect("it starts").unwrap();
        let root = std::fs::read_to_string(folder.path().join("root.pem")).unwrap();
        World { running, source: sources[0], events, root, folder, state, yaml: "" }
    }

    /// The same folders and keys after a restart.
    pub(super) async fn again(self, names: &[&str]) -> World {
        let World { running, source, events, folder, state, yaml, .. } = self;
        running.stop().await;
        let config_dirs = names.iter().map(|name| folder.path().join(name)).collect();
        let last_good = Some(folder.path().join("last-good"));
        let running = crate::start(Options { config_dirs, last_good, ..Self::options(&folder, &state) }).await.unwrap();
        let root = std::fs::read_to_string(folder.path().join("root.pem")).unwrap();
        World { running, source, events, root, folder, state, yaml }
    }

    /// Replaces a file of the folder in one step.
    pub(super) fn save(&self, name: &str, yaml: &str) {
        self.save_in("mesh", name, yaml);
    }

    /// Replaces a file of one of the folders in one step.
    pub(super) fn save_in(&self, dir: &str, name: &str, yaml: &str) {
        let temporary = self.folder.path().join("new");
        std::fs::write(&temporary, yaml).unwrap();
        std::fs::rename(temporary, self.path(dir).join(name)).unwrap();
    }

    /// Where one of the folders is.
    pub(super) fn path(&self, dir: &str) -> std::path::PathBuf {
        self.folder.path().join(dir)
    }

    fn options(folder: &tempfile::TempDir, state: &OwnedFd) -> Options {
        Options {
            xds_port: 0,
            monitoring_port: 0,
            state: Some(state.try_clone().unwrap()),
            socket_dir: folder.path().to_owned(),
            root_cert_file: Some(folder.path().join("root.pem")),
            ..Options::default()
        }
    }

    async fn with(yaml: &'static str, state: OwnedFd) -> World {
        let folder = tempfile::tempdir().unwrap();
        let ((events, received), (merge, sources)) = (mpsc::unbounded_channel(), Merge::new(1));
        for event in [Event::Init].into_iter().chain(objects(yaml).into_iter().map(Event::Apply)).chain([Event::InitDone]) {
            events.send((sources[0], event)).unwrap();
        }
        let running =
            start_with(Self::options(&folder, &state), None, merge, (events.downgrade(), received), std::future::pending()).await.unwrap();
        let root = std::fs::read_to_string(folder.path().join("root.pem")).unwrap();
        World { running, source: sources[0], events, root, folder, state, yaml }
    }

    /// The same keys and files in another process, as it were.
    pub(super) async fn restart(self) -> World {
        drop(self.running);
        Self::with(self.yaml, self.state).await
    }

    pub(super) fn apply(&self, yaml: &str) {
        objects(yaml).into_iter().for_each(|o| self.send(Event::Apply(o)));
    }

    pub(super) fn send(&self, event: Event) {
        self.events.send((self.source, event)).unwrap();
    }

    /// What signs tokens as the control plane does.
    pub(super) fn tokens(&self) -> Tokens {
        let stored: serde_json::Value = serde_json::from_slice(&mizzen_net::read_fd(&self.state, 1 << 20).unwrap()).unwrap();
        Tokens::new(&Secret::new(stored["token_key"].as_str().unwrap().to_owned()), &Default::default()).unwrap()
    }

    pub(super) async fn post_token(&self, body: &str) -> (u16, String) {
        let socket = self.folder.path().join("token.sock");
        let reply = mizzen_net::fetch_unix(&socket, Method::POST, "/token", body.to_owned(), PATIENCE).await.unwrap();
        (reply.status.as_u16(), String::from_utf8(reply.body.to_vec()).unwrap())
    }

    pub(super) async fn token(&self, namespace: &str, account: &str) -> String {
        let body = serde_json::json!({"namespace": namespace, "service_account": account, "pod": "pod-0", "audience": "istio-ca", "ttl_seconds": 60});
        let (status, text) = self.post_token(&body.to_string()).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn svid(&self, namespace: &str, account: &str) -> Svid {
        let key = KeyPair::generate().unwrap();
        let token = self.token(namespace, account).await;
        let chain = self.csr(None, Some(&token), &key.csr(None).unwrap(), 0).await.unwrap();
        Svid::from_chain(&chain, &key).unwrap()
    }

    pub(super) async fn csr(&self, svid: Option<&Svid>, token: Option<&str>, csr: &str, seconds: i64) -> Result<Vec<String>, Status> {
        let mut client = IstioCertificateServiceClient::new(self.channel(svid).await.unwrap());
        let mut request = Request::new(IstioCertificateRequest { csr: csr.to_owned(), validity_duration: seconds, metadata: None });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Ok(client.create_certificate(request).await?.into_inner().cert_chain)
    }

    /// A connection that believes only the root that was written for agents.
    pub(super) async fn channel(&self, svid: Option<&Svid>) -> Result<Channel, tonic::transport::Error> {
        let roots = TrustBundle::from_pem(self.root.as_bytes()).unwrap();
        let options = TlsOptions { alpn: vec![b"h2".to_vec()], ..TlsOptions::default() };
        let config = client_config(svid, server_verifier_by_name(&roots).unwrap(), &options).unwrap();
        let address = self.running.xds;
        let connect = tower::service_fn(move |_: Uri| {
            let config = config.clone();
            async move {
                let stream = mizzen_net::connect(address, &Default::default()).await?;
                let stream = mizzen_net::connect_tls(stream, config, "istiod.istio-system.svc", PATIENCE).await;
                stream.map(TokioIo::new).map_err(std::io::Error::other)
            }
        });
        Endpoint::from_static("http://istiod.istio-system.svc").connect_with_connector(connect).await
    }

    pub(super) async fn debug<T: DeserializeOwned>(&self, path: &str) -> T {
        let socket = self.folder.path().join("debug.sock");
        let reply = mizzen_net::fetch_unix(&socket, Method::GET, path, "", PATIENCE).await.unwrap();
        assert_eq!(reply.status, 200, "{path}: {}", String::from_utf8_lossy(&reply.body));
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// What is answered at a path of which nothing can be told.
    pub(super) async fn refused(&self, path: &str) -> (u16, String) {
        let socket = self.folder.path().join("debug.sock");
        let reply = mizzen_net::fetch_unix(&socket, Method::GET, path, "", PATIENCE).await.unwrap();
        (reply.status.as_u16(), String::from_utf8(reply.body.to_vec()).unwrap())
    }

    /// Asks until the answer is as it will be.
    pub(super) async fn until<T: DeserializeOwned + std::fmt::Debug>(&self, path: &str, wanted: impl Fn(&T) -> bool) -> T {
        let asking = async {
            loop {
                let answer: T = self.debug(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("it never is so")
    }

    pub(super) async fn metrics(&self) -> String {
        let reply =
            mizzen_net::fetch_tcp(self.running.monitoring, Method::GET, "/metrics", "", PATIENCE, &Default::default()).await.unwrap();
        String::from_utf8(reply.body.to_vec()).unwrap()
    }
}

pub(super) fn node(id: &str, account: &str) -> Node {
    let account = Value { kind: Some(Kind::StringValue(account.to_owned())) };
    let metadata = Struct { fields: [("SERVICE_ACCOUNT".to_owned(), account)].into() };
    Node { id: id.to_owned(), metadata: Some(metadata), ..Default::default() }
}

/// What is answered to a stream's first request.
pub(super) async fn first_answer(
    client: &mut AggregatedDiscoveryServiceClient<Channel>,
    id: &str,
    account: &str,
) -> Result<DeltaDiscoveryResponse, Status> {
    first_answer_to(client, id, account, None).await
}

/// The same, with a token.
pub(super) async fn first_answer_to(
    client: &mut AggregatedDiscoveryServiceClient<Channel>,
    id: &str,
    account: &str,
    token: Option<&str>,
) -> Result<DeltaDiscoveryResponse, Status> {
    let request = DeltaDiscoveryRequest { node: Some(node(id, account)), type_url: CLUSTER.into(), ..Default::default() };
    let mut call = Request::new(tokio_stream::StreamExt::chain(tokio_stream::iter([request]), tokio_stream::pending()));
    if let Some(token) = token {
        call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut answers = client.delta_aggregated_resources(call).await?.into_inner();
    answers.message().await?.ok_or_else(|| Status::unknown("the stream ended"))
}

/// A proxy that takes everything but what it is told to reject.
pub(super) struct Proxy {
    pub(super) client: Client,
    pub(super) reject: Option<(&'static str, &'static str)>,
    pub(super) rejected: usize,
    /// Resources that came.
    pub(super) received: usize,
    pub(super) responses: usize,
    accepted: BTreeMap<(String, String), Vec<u8>>,
    /// What it was told there is none of, and has not come since.
    absent: BTreeSet<(String, String)>,
    out: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Proxy {
    pub(super) async fn connect(world: &World, svid: &Svid, id: &str) -> Result<Proxy, Status> {
        Self::connect_as(world, svid, node(id, "storefront")).await
    }

    pub(super) async fn connect_as(world: &World, svid: &Svid, node: Node) -> Result<Proxy, Status> {
        let mut client = Client::new(node);
        client.connected();
        let (out, answers) = Self::stream(world, svid).await?;
        let (accepted, absent) = (BTreeMap::new(), BTreeSet::new());
        Ok(Proxy { client, reject: None, rejected: 0, received: 0, responses: 0, accepted, absent, out, answers })
    }

    async fn stream(
        world: &World,
        svid: &Svid,
    ) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), Status> {
        let (out, requests) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel(Some(svid)).await.unwrap());
        let answers = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
        Ok((out, answers))
    }

    pub(super) async fn reconnect(&mut self, world: &World, svid: &Svid) -> Result<(), Status> {
        (self.out, self.answers) = Self::stream(world, svid).await?;
        self.client.connected();
        Ok(())
    }

    pub(super) fn get(&self, type_url: &str, name: &str) -> Option<&[u8]> {
        self.accepted.get(&(type_url.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    pub(super) fn has(&self, type_url: &str, name: &str) -> bool {
        self.get(type_url, name).is_some()
    }

    /// Whether the last word about a resource is that there is none.
    pub(super) fn lacks(&self, type_url: &str, name: &str) -> bool {
        self.absent.contains(&(type_url.to_owned(), name.to_owned()))
    }

    /// Sends what is due.
    pub(super) async fn flush(&mut self) {
        while let Some(request) = self.client.next_request() {
            self.out.send(request).await.unwrap();
        }
    }

    /// Takes responses until it is as it will be.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Proxy) -> bool) {
        while !wanted(self) {
            self.flush().await;
            let message = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("it never is so");
            self.take(message.unwrap().expect("the stream has ended"));
        }
        self.flush().await;
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        self.responses += 1;
        let (receipt, changes) = self.client.receive(response).unwrap();
        let type_url = receipt.type_url().to_string();
        let mut rejected = Vec::new();
        for change in changes {
            let key = (type_url.clone(), change.name().to_string());
            match change {
                Change::Removed { .. } => {
                    self.accepted.remove(&key);
                    self.absent.insert(key);
                }
                Change::Added { name, .. } if self.reject == Some((&*type_url, &*name)) => {
                    self.rejected += 1;
                    rejected.push((name, "not today".to_owned()));
                }
                Change::Added { body, .. } => {
                    self.received += 1;
                    self.absent.remove(&key);
                    self.accepted.insert(key, body.value);
                }
            }
        }
        self.client.settle(receipt, rejected);
    }

    /// With which code the stream ends.
    pub(super) async fn end(&mut self) -> Code {
        loop {
            match self.answers.message().await {
                Ok(Some(response)) => self.take(response),
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }
}
