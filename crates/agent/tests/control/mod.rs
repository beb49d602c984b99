//! A control plane of a few lines: a CA that believes tokens, an ADS that serves a name table and an index, and echoes all other questions.

mod ads;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use mizzen_agent::{DnsOptions, Options, ProxyType, TokenSource};
use mizzen_net::{TlsAcceptor, TlsServerStream};
use mizzen_pki::tls::{TlsOptions, server_config};
use mizzen_pki::{Ca, CaLimits, TrustBundle, UnixTime, client_verifier};
use mizzen_protos::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use mizzen_protos::ca::{IstioCertificateRequest, IstioCertificateResponse};
use mizzen_protos::envoy::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use mizzen_protos::{index, nds};
use mizzen_types::SpiffeId;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request as Rpc, Response, Status};

/// What a request for a certificate showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) token: Option<String>,
    pub(crate) certificate: Option<String>,
}

/// A new ADS stream of a proxy.
pub(crate) struct Seen {
    pub(crate) identity: Option<String>,
    pub(crate) node: String,
}

pub(crate) struct ControlPlane {
    shared: Arc<Shared>,
    address: SocketAddr,
    tasks: JoinSet<()>,
    token: std::os::fd::OwnedFd,
    requests: mpsc::UnboundedReceiver<Request>,
    streams: mpsc::UnboundedReceiver<Seen>,
    answers: mpsc::UnboundedReceiver<String>,
}

struct Shared {
    ca: Ca,
    requests: mpsc::UnboundedSender<Request>,
    streams: mpsc::UnboundedSender<Seen>,
    fail: AtomicU32,
    only_tokens: AtomicBool,
    hold: watch::Sender<bool>,
    names: watch::Sender<BTreeMap<String, nds::name_table::NameInfo>>,
    /// Once it is told of the index: what has changed last, and all of it.
    index: watch::Sender<Option<Index>>,
    opened: AtomicU32,
    answers: mpsc::UnboundedSender<String>,
    failures: Mutex<u32>,
    failed: Notify,
}

#[derive(Default)]
struct Index {
    all: BTreeMap<String, index::Host>,
    changed: Vec<String>,
}

fn info(ip: &str, short: &str) -> nds::name_table::NameInfo {
    let namespace = if short.is_empty() { "" } else { "shop" };
    nds::name_table::NameInfo {
        ips: vec![ip.to_owned()],
        registry: String::new(),
        shortname: short.to_owned(),
        namespace: namespace.to_owned(),
        ..Default::default()
    }
}

impl ControlPlane {
    pub(crate) async fn start(folder: &Path) -> Self {
        let now = UnixTime::now();
        let limits = CaLimits { slack: Duration::from_secs(5), ..CaLimits::default() };
        let ca = Ca::self_signed(&Default::default(), now, limits).unwrap();
        std::fs::write(folder.join("root.pem"), ca.roots().to_pem()).unwrap();
        let server = ca.server_certificate(&["istiod.istio-system.svc"], Duration::from_secs(3600), now).unwrap();
        let tls = TlsOptions { alpn: vec![b"h2".to_vec()], ..TlsOptions::default() };
        let config = server_config(&server, Some(client_verifier(ca.roots(), vec![], false).unwrap()), &tls).unwrap();
        let (requests, request_receiver) = mpsc::unbounded_channel();
        let (streams, stream_receiver) = mpsc::unbounded_channel();
        let (answers, answer_receiver) = mpsc::unbounded_channel();
        let names = [
            ("reviews.shop.svc.cluster.local", info("10.96.0.1", "reviews")),
            ("api.example.com", info("240.0.0.1", "")),
            ("*.wild.example", info("240.0.0.2", "")),
        ];
        let shared = Arc::new(Shared {
            ca,
            requests,
            streams,
            fail: AtomicU32::new(0),
            only_tokens: AtomicBool::new(false),
            hold: watch::channel(false).0,
            names: watch::channel(names.map(|(n, i)| (n.to_owned(), i)).into()).0,
            index: watch::channel(None).0,
            opened: AtomicU32::new(0),
            answers,
            failures: Mutex::new(0),
            failed: Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, TlsAcceptor::new(config, Duration::from_secs(30)), shared.clone()));
        let (token, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        tasks.spawn(tokens(UnixStream::from_std(theirs).unwrap()));
        let (requests, streams, answers) = (request_receiver, stream_receiver, answer_receiver);
        ControlPlane { shared, address, tasks, token: token.into(), requests, streams, answers }
    }

    pub(crate) fn options(&self, folder: &Path) -> Options {
        let mut options = bare_options(folder);
        options.discovery = self.address.into();
        options.ca = self.address.into();
        options.token = TokenSource::stream(self.token.try_clone().unwrap());
        options
    }

    pub(crate) fn roots(&self) -> &TrustBundle {
        self.shared.ca.roots()
    }

    /// The next request for a certificate that came.
    pub(crate) async fn certificate_request(&mut self) -> Request {
        tokio::time::timeout(Duration::from_secs(60), self.requests.recv()).await.expect("a request").unwrap()
    }

    pub(crate) fn no_certificate_request(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }

    pub(crate) async fn stream(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(60), self.streams.recv()).await.expect("a stream").unwrap()
    }

    pub(crate) fn fail_next_certificates(&self, count: u32) {
        self.shared.fail.store(count, Ordering::Relaxed);
    }

    pub(crate) fn refuse_certificates(&self) {
        self.shared.only_tokens.store(true, Ordering::Relaxed);
    }

    pub(crate) fn hold_certificates(&self) {
        self.shared.hold.send_replace(true);
    }

    pub(crate) fn release_certificates(&self) {
        self.shared.hold.send_replace(false);
    }

    pub(crate) async fn handshake_failures(&self, count: u32) {
        while *self.shared.failures.lock().unwrap() < count {
            self.shared.failed.notified().await;
        }
    }

    pub(crate) fn name(&self, name: &str, ip: &str) {
        self.shared.names.send_modify(|names| {
            names.insert(name.to_owned(), info(ip, ""));
        });
    }

    /// Changes entries of the index: their addresses, or that there are none. From the first on it is what names come from.
    pub(crate) fn index(&self, hosts: impl IntoIterator<Item = (String, Option<u32>)>) {
        self.shared.index.send_modify(|index| {
            let index = index.get_or_insert_default();
            index.changed.clear();
            for (host, ip) in hosts {
                index.changed.push(host.clone());
                match ip {
                    Some(ip) => {
                        let addresses = vec![ip.to_be_bytes().to_vec()];
                        index.all.insert(host, index::Host { addresses, kubernetes: true, ..Default::default() })
                    }
                    None => index.all.remove(&host),
                };
            }
        });
    }

    /// How many ADS streams there were.
    pub(crate) fn streams_opened(&self) -> u32 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// The next answers to responses: type, nonce (without the type), and the version of one of state of the world.
    pub(crate) async fn answers_to(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(tokio::time::timeout(Duration::from_secs(60), self.answers.recv()).await.expect("an answer").unwrap());
        }
        all
    }

    /// Closes the port and every connection.
    pub(crate) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

pub(crate) fn bare_options(folder: &Path) -> Options {
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Options {
        proxy_type: ProxyType::Sidecar,
        pod_name: "reviews-0".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "reviews".to_owned(),
        instance_ips: vec!["10.244.0.7".parse().unwrap()],
        labels: BTreeMap::new(),
        metadata: BTreeMap::new(),
        delta: true,
        domain: "cluster.local".to_owned(),
        trust_domain: Default::default(),
        discovery: local.into(),
        ca: local.into(),
        server_name: "istiod.istio-system.svc".to_owned(),
        root_cert_file: folder.join("root.pem"),
        token: TokenSource::File(folder.join("token")),
        certificate_ttl: Duration::ZERO,
        dir: folder.to_owned(),
        dns: Some(DnsOptions { listen: local, also: None, upstreams: vec![], local_domains: vec!["cluster.local".to_owned()] }),
        readiness: Some(local),
        status: Some(local),
        proxy_metrics: local,
        probes: mizzen_agent::Probes::default(),
        program_metrics: None,
        allow_quit: false,
        mark: None,
        dataplane_ready: None,
        time: mizzen_pki::system_time(),
        renewal: mizzen_pki::renewal_delay,
    }
}

/// Answers `token-1`, `token-2`, …
async fn tokens(stream: UnixStream) {
    let mut stream = BufReader::new(stream);
    for n in 1.. {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let _ = stream.write_all(format!("token-{n}\n").as_bytes()).await;
    }
}

/// All of a connection's tasks die with this one.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let (sender, receiver) = mpsc::channel::<io::Result<Conn>>(8);
    let (kill, killed) = watch::channel(());
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            match acceptor.accept(stream).await {
                Ok(stream) => {
                    let _ = sender.send(Ok(Conn { stream, killed: killed.clone(), wake: None })).await;
                }
                Err(_) => {
                    *shared.failures.lock().unwrap() += 1;
                    shared.failed.notify_one();
                }
            }
        }
    };
    let server = tonic::transport::Server::builder()
        .add_service(IstioCertificateServiceServer::new(Service(shared.clone())))
        .add_service(AggregatedDiscoveryServiceServer::new(Service(shared.clone())))
        .serve_with_incoming(ReceiverStream::new(receiver));
    tokio::join!(accept, async { drop(server.await) });
    drop(kill);
}

/// A connection that breaks when the control plane stops: tonic's own tasks outlive the server.
struct Conn {
    stream: TlsServerStream,
    killed: watch::Receiver<()>,
    wake: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Connected for Conn {
    type ConnectInfo = Option<String>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.peer().identity.as_ref().map(ToString::to_string)
    }
}

impl tokio::io::AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut killed = self.killed.clone();
        let wake = self.wake.get_or_insert_with(|| Box::pin(async move { while killed.changed().await.is_ok() {} }));
        if wake.as_mut().poll(cx).is_ready() {
            self.wake = Some(Box::pin(std::future::ready(())));
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(&self, rpc: Rpc<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        let certificate = rpc.extensions().get::<Option<String>>().cloned().flatten();
        let token = rpc.metadata().get("authorization").and_then(|v| v.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned));
        let _ = self.0.hold.subscribe().wait_for(|hold| !*hold).await;
        let _ = self.0.requests.send(Request { token: token.clone(), certificate: certificate.clone() });
        let failing = self.0.fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if failing.is_ok() {
            return Err(Status::internal("not now"));
        }
        if token.is_none() && (certificate.is_none() || self.0.only_tokens.load(Ordering::Relaxed)) {
            return Err(Status::unauthenticated("who is that?"));
        }
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/reviews".parse().unwrap();
        let request = rpc.into_inner();
        let ttl = Duration::from_secs(request.validity_duration.try_into().unwrap());
        let cert_chain =
            self.0.ca.sign_csr(&request.csr, &id, ttl, UnixTime::now()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// A name server outside the mesh, by UDP and TCP on one port: `outside.example` exists, `big.example` needs TCP, `broken.example` is garbage.
pub(crate) async fn name_server() -> SocketAddr {
    // A port that is free for UDP may be taken for TCP.
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let _ = udp.send_to(&outside(&buffer[..length], true), from).await;
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut question = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut question).await.unwrap();
            let response = outside(&question, false);
            stream.write_u16(response.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&response).await.unwrap();
        }
    });
    address
}

fn outside(question: &[u8], udp: bool) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let mut response = Message::response(question.metadata.id, question.metadata.op_code);
    response.add_queries(question.queries.clone());
    let name = question.queries[0].name().clone();
    let count = match name.to_ascii().as_str() {
        "outside.example." => 1,
        "big.example." if udp => {
            response.metadata.truncation = true;
            0
        }
        "big.example." => 100,
        // As by a server that is out of order: the agent must give up on it, at once.
        "broken.example." => {
            response.metadata.response_code = ResponseCode::ServFail;
            0
        }
        _ => {
            response.metadata.response_code = ResponseCode::NXDomain;
            0
        }
    };
    for i in 0..count {
        let ip = std::net::Ipv4Addr::new(192, 0, 2, i + 1);
        response.add_answer(Record::from_rdata(name.clone(), 60, RData::A(ip.into())));
    }
    response.to_vec().unwrap()
}

/// A proxy's metrics port.
pub(crate) async fn metrics_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/stats/prometheus", axum::routing::get(async || "istio_requests_total{app=\"x\"} 7\n"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
