//! A control plane in the process, a proxy that it drives, and small peers for traffic.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::Stream;
use http::Method;
use mizzen_dataplane::{Options, RunError, Unknown, parse_bootstrap};
use mizzen_net::{ConnectOptions, Reply};
use mizzen_protos::{
    Any,
    envoy::envoy::service::{
        discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
        },
        secret::v3::secret_discovery_service_server::{SecretDiscoveryService, SecretDiscoveryServiceServer},
    },
    json::Descriptors,
};
use mizzen_types::Name;
use mizzen_xds::server::{Heard, Resource, ResourceSource, Session, Verdict};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(crate) const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub(crate) const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub(crate) const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Nothing here takes this long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What the control plane has.
#[derive(Clone, Default)]
struct Resources(Arc<Mutex<BTreeMap<(String, String), Resource>>>);

impl ResourceSource for Resources {
    fn names(&mut self, type_url: &str) -> Vec<Name> {
        let all = self.0.lock().unwrap();
        // Listeners of addresses are for those who ask for them by name.
        let on_demand = |name: &str| name.starts_with("127.0.0.1_");
        all.keys().filter(|(kind, name)| kind == type_url && !on_demand(name)).map(|(_, name)| Name::from(name.as_str())).collect()
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        self.0.lock().unwrap().get(&(type_url.to_owned(), name.to_owned())).cloned()
    }
}

/// A server of resources.
#[derive(Clone)]
struct Service {
    resources: Resources,
    changed: watch::Receiver<u64>,
    verdicts: mpsc::UnboundedSender<(String, Verdict)>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// Its headers come after the first request only, as from servers that send them with their first message.
    async fn serve(&self, mut requests: Streaming<DeltaDiscoveryRequest>) -> Result<Responses<DeltaDiscoveryResponse>, Status> {
        let first = requests.message().await?.ok_or_else(|| Status::cancelled("nothing was asked"))?;
        let (out, responses) = mpsc::channel(16);
        let mut this = self.clone();
        tokio::spawn(async move {
            let mut session = Session::new();
            session.request(first).unwrap();
            loop {
                for response in session.poll(&mut this.resources) {
                    if out.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => {
                            let Heard { type_url, verdict, .. } = session.request(request).unwrap();
                            if let Some(verdict) = verdict {
                                let _ = this.verdicts.send((type_url.to_string(), verdict));
                            }
                        }
                        _ => return,
                    },
                    changed = this.changed.changed() => match changed {
                        Ok(()) => session.changed(),
                        Err(_) => return,
                    },
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(responses)))
    }

    /// The same in the state-of-the-world variant.
    async fn serve_whole(&self, mut requests: Streaming<DiscoveryRequest>) -> Result<Responses<DiscoveryResponse>, Status> {
        let mut request = Some(requests.message().await?.ok_or_else(|| Status::cancelled("nothing was asked"))?);
        let (out, responses) = mpsc::channel(16);
        let mut this = self.clone();
        tokio::spawn(async move {
            // By type: what is asked for, and what was sent last.
            let mut asked: BTreeMap<String, (Vec<String>, Option<Vec<Any>>)> = BTreeMap::new();
            for nonce in 1u64.. {
                if let Some(DiscoveryRequest { type_url, resource_names, error_detail, response_nonce, .. }) = request.take() {
                    let verdict = match error_detail {
                        Some(error) => Verdict::Nack { rejected: vec![("".into(), error.message.clone())], message: error.message },
                        None => Verdict::Ack,
                    };
                    if !response_nonce.is_empty() {
                        let _ = this.verdicts.send((type_url.clone(), verdict));
                    }
                    let (names, sent) = asked.entry(type_url).or_default();
                    if *names != resource_names {
                        *sent = None;
                    }
                    *names = resource_names;
                }
                for (type_url, (names, sent)) in &mut asked {
                    let root = type_url == CLUSTER || type_url == LISTENER;
                    let all = if root { this.resources.names(type_url) } else { names.iter().map(|n| n.as_str().into()).collect() };
                    let found: Vec<Any> = all.iter().filter_map(|n| Some((*this.resources.resource(type_url, n)?.body).clone())).collect();
                    if sent.as_ref() == Some(&found) || found.is_empty() && !root {
                        continue;
                    }
                    *sent = Some(found.clone());
                    let text = nonce.to_string();
                    let response = DiscoveryResponse {
                        version_info: text.clone(),
                        resources: found,
                        type_url: type_url.clone(),
                        nonce: text,
                        ..Default::default()
                    };
                    if out.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    next = requests.message() => match next {
                        Ok(Some(next)) => request = Some(next),
                        _ => return,
                    },
                    changed = this.changed.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(responses)))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve_whole(request.into_inner()).await?))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve(request.into_inner()).await?))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(self.serve(request.into_inner()).await?))
    }

    async fn stream_secrets(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(self.serve_whole(request.into_inner()).await?))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

/// The control plane, which can be stopped and started again.
pub(crate) struct ControlPlane {
    resources: Resources,
    changes: watch::Sender<u64>,
    verdicts: mpsc::UnboundedReceiver<(String, Verdict)>,
    verdict_sender: mpsc::UnboundedSender<(String, Verdict)>,
    path: PathBuf,
    running: Option<(JoinHandle<()>, oneshot::Sender<()>)>,
    descriptors: Descriptors,
}

impl ControlPlane {
    fn new(path: PathBuf) -> ControlPlane {
        let (verdict_sender, verdicts) = mpsc::unbounded_channel();
        let mut plane = ControlPlane {
            resources: Resources::default(),
            changes: watch::channel(0).0,
            verdicts,
            verdict_sender,
            path,
            running: None,
            descriptors: Descriptors::load(),
        };
        plane.start();
        plane
    }

    /// Serves on its socket.
    pub(crate) fn start(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let incoming = UnixListenerStream::new(UnixListener::bind(&self.path).unwrap());
        let service =
            Service { resources: self.resources.clone(), changed: self.changes.subscribe(), verdicts: self.verdict_sender.clone() };
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(service.clone()))
            .add_service(SecretDiscoveryServiceServer::new(service));
        let task = tokio::spawn(async move {
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.unwrap(),
                _ = stopped => {}
            }
        });
        self.running = Some((task, stop));
    }

    /// Is gone, with all its streams.
    pub(crate) async fn stop(&mut self) {
        if let Some((task, stop)) = self.running.take() {
            let _ = stop.send(());
            task.await.unwrap();
        }
        // Streams end with the sender of changes.
        self.changes = watch::channel(0).0;
    }

    /// Has these resources from now on, each as protojson.
    pub(crate) fn put(&self, all: &[(&str, &str, Value)]) {
        let mut resources = self.resources.0.lock().unwrap();
        for (kind, name, body) in all {
            let any: Any = self.descriptors.any_from_value(kind, body.clone()).unwrap();
            resources.insert(((*kind).to_owned(), (*name).to_owned()), Resource::new(any));
        }
        drop(resources);
        self.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn remove(&self, kind: &str, name: &str) {
        self.resources.0.lock().unwrap().remove(&(kind.to_owned(), name.to_owned()));
        self.changes.send_modify(|n| *n += 1);
    }

    /// The next rejection.
    pub(crate) async fn rejection(&mut self) -> Vec<(Name, String)> {
        loop {
            match tokio::time::timeout(LONG, self.verdicts.recv()).await.unwrap().unwrap() {
                (_, Verdict::Nack { rejected, .. }) => return rejected,
                _ => continue,
            }
        }
    }
}

/// A proxy with its control plane.
pub(crate) struct Mesh {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) control: ControlPlane,
    pub(crate) ready: watch::Receiver<bool>,
    /// The admin interface's address.
    pub(crate) localhost: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    proxy: JoinHandle<Result<(), RunError>>,
}

impl Mesh {
    /// Starts both. What the control plane has at first is up to `first`.
    pub(crate) async fn start(first: &[(&str, &str, Value)], change: impl FnOnce(&mut Options)) -> Mesh {
        Mesh::start_as("DELTA_GRPC", first, change).await
    }

    /// The same, by this `api_type`.
    pub(crate) async fn start_as(api_type: &str, first: &[(&str, &str, Value)], change: impl FnOnce(&mut Options)) -> Mesh {
        Mesh::start_with(api_type, None, first, change).await
    }

    /// Starts a proxy that another server drives, at this socket.
    pub(crate) async fn start_by(api_type: &str, server: PathBuf) -> Mesh {
        Mesh::start_with(api_type, Some(server), &[], |_| {}).await
    }

    async fn start_with(api_type: &str, server: Option<PathBuf>, first: &[(&str, &str, Value)], change: impl FnOnce(&mut Options)) -> Mesh {
        let dir = tempfile::tempdir().unwrap();
        let control = ControlPlane::new(dir.path().join("XDS"));
        control.put(first);
        let server = server.unwrap_or_else(|| dir.path().join("XDS"));
        let pipe = |name: &str| {
            json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"pipe": {"path": server}}}}]}]}})
        };
        let localhost = free_address();
        let bootstrap = json!({
            "admin": {"address": socket(localhost)},
            "node": {"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "cluster": "a.b", "metadata": {"NAMESPACE": "b", "WORKLOAD_NAME": "a"}},
            "static_resources": {"clusters": [pipe("xds-grpc"), pipe("sds-grpc")]},
            "dynamic_resources": {
                "lds_config": {"ads": {}}, "cds_config": {"ads": {}},
                "ads_config": {"api_type": api_type, "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]},
            },
        });
        let (ready_sender, ready) = watch::channel(false);
        let mut options = Options {
            admin_socket: Some(dir.path().join("admin.sock")),
            metrics: None,
            mark: 0,
            ready: Some(ready_sender),
            ..Options::default()
        };
        change(&mut options);
        let (stop, stopped) = oneshot::channel::<()>();
        let bootstrap = parse_bootstrap(&bootstrap.to_string(), Unknown::Refused).unwrap();
        let proxy = tokio::spawn(mizzen_dataplane::run(bootstrap, options, async {
            let _ = stopped.await;
        }));
        let open = async {
            while tokio::net::UnixStream::connect(dir.path().join("admin.sock")).await.is_err() && !proxy.is_finished() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, open).await.expect("the admin socket is opened");
        Mesh { dir, control, ready, localhost, stop: Some(stop), proxy }
    }

    pub(crate) async fn until_ready(&mut self) {
        let ready = tokio::time::timeout(LONG, self.ready.wait_for(|r| *r)).await;
        ready.expect("the proxy becomes ready").expect("the proxy runs");
    }

    /// What the admin socket answers.
    pub(crate) async fn admin(&self, method: Method, path: &str) -> Reply {
        mizzen_net::fetch_unix(&self.dir.path().join("admin.sock"), method, path, "", LONG).await.unwrap()
    }

    pub(crate) async fn admin_json(&self, path: &str) -> Value {
        let reply = self.admin(Method::GET, path).await;
        assert_eq!(reply.status, 200, "{path}");
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// Asks until the answer is as expected.
    pub(crate) async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let attempts = async {
            while !holds().await {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(LONG, attempts).await.is_ok(), "{what}; {}", self.admin_json("/config_dump").await["warnings"]);
    }

    /// Tells the proxy to stop.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(LONG, self.proxy).await.expect("it ends").unwrap().unwrap();
    }
}

/// An address that nobody listens on at the moment.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// GETs a path over TCP.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let reply = mizzen_net::fetch_tcp(address, Method::GET, path, "", LONG, &ConnectOptions::default()).await;
    reply.map(|r| (r.status.as_u16(), String::from_utf8_lossy(&r.body).into_owned())).map_err(|e| e.to_string())
}

/// An HTTP server that answers with its name.
pub(crate) async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(move || async move { name });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

pub(crate) fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

pub(crate) fn endpoints(cluster: &str, addresses: &[SocketAddr]) -> Value {
    let all: Vec<Value> = addresses.iter().map(|a| json!({"endpoint": {"address": socket(*a)}})).collect();
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": all}]})
}

pub(crate) fn eds_cluster(name: &str) -> Value {
    json!({"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": {"eds_config": {"ads": {}}}})
}

pub(crate) fn static_cluster(name: &str, address: SocketAddr) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpoints(name, &[address])})
}

pub(crate) fn tcp_filter(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": cluster, "cluster": cluster}})
}

pub(crate) fn http_filter(route: &str) -> Value {
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "rds": {"route_config_name": route, "config_source": {"ads": {}}},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}})
}

pub(crate) fn listener(name: &str, address: SocketAddr, filter: Value) -> Value {
    json!({"name": name, "address": socket(address), "filter_chains": [{"filters": [filter]}]})
}

pub(crate) fn route(name: &str, cluster: &str) -> Value {
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]})
}
