//! An agent against a control plane in this process: CA and ADS over TLS on loopback, SDS and the relay over Unix sockets, DNS over UDP and TCP.

mod control;
mod names;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use control::{ControlPlane, Request};
use hyper_util::rt::TokioIo;
use mizzen_agent::{Agent, Options, bootstrap};
use mizzen_pki::{Ca, CaLimits, Svid, TrustBundle, UnixTime, Validity};
use mizzen_protos::envoy::envoy::config::core::v3::{DataSource, data_source::Specifier};
use mizzen_protos::envoy::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use mizzen_protos::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use mizzen_protos::envoy::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use mizzen_xds::types::{CLUSTER, SECRET};
use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Far longer than anything here takes; it only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn channel(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// A delta stream over one of the agent's sockets.
struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

fn subscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    }
}

async fn sds(dir: &Path, names: &[&str]) -> Delta {
    let (requests, receiver) = mpsc::channel(8);
    requests.send(subscribe(SECRET, names)).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel(&dir.join("SDS")).await);
    let responses = within(client.delta_secrets(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    Delta { requests, responses }
}

impl Delta {
    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = within(self.responses.message()).await.unwrap().unwrap();
        let ack =
            DeltaDiscoveryRequest { type_url: response.type_url.clone(), response_nonce: response.nonce.clone(), ..Default::default() };
        self.requests.send(ack).await.unwrap();
        response
    }

    async fn secret(&mut self) -> (String, Secret) {
        let response = self.next().await;
        assert_eq!(response.resources.len(), 1, "{:?}", response.removed_resources);
        let resource = response.resources.into_iter().next().unwrap();
        (resource.name, Secret::decode(resource.resource.unwrap().value.as_slice()).unwrap())
    }
}

fn text(source: Option<DataSource>) -> String {
    match source.unwrap().specifier.unwrap() {
        Specifier::InlineBytes(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn svid(secret: Secret) -> Svid {
    let Some(secret::Type::TlsCertificate(certificate)) = secret.r#type else { panic!("no certificate") };
    Svid::from_pem(text(certificate.certificate_chain).as_bytes(), &text(certificate.private_key)).unwrap()
}

fn roots(secret: Secret) -> TrustBundle {
    let Some(secret::Type::ValidationContext(context)) = secret.r#type else { panic!("no roots") };
    TrustBundle::from_pem(text(context.trusted_ca).as_bytes()).unwrap()
}

/// An hour, at least: nothing is renewed in a test.
fn later(_: &Validity, _: UnixTime, _: f64) -> Duration {
    Duration::from_secs(3600)
}

fn at_once(_: &Validity, _: UnixTime, _: f64) -> Duration {
    Duration::from_millis(1)
}

struct Setup {
    control: ControlPlane,
    folder: tempfile::TempDir,
    options: Options,
}

async fn setup() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let control = ControlPlane::start(folder.path()).await;
    let mut options = control.options(folder.path());
    options.renewal = later;
    options.dns = None;
    Setup { control, folder, options }
}

/// A stream of the proxy's to the relay, with its first request.
async fn proxy(options: &Options, first: DeltaDiscoveryRequest) -> Delta {
    let (requests, receiver) = mpsc::channel(8);
    requests.send(DeltaDiscoveryRequest { node: bootstrap(options).node, ..first }).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel(&options.dir.join("XDS")).await);
    let responses = within(client.delta_aggregated_resources(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    Delta { requests, responses }
}

#[tokio::test]
async fn a_certificate_by_token() {
    let Setup { mut control, folder, options } = setup().await;
    let agent = Agent::start(options).await.unwrap();
    within(agent.ready()).await;
    let identity = agent.identity().borrow().clone().unwrap();
    assert_eq!(identity.svid.identity().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");
    assert_eq!(identity.svid.chain().len(), 1, "the root is not sent along");
    assert_eq!(identity.trust, *control.roots());
    assert_eq!(control.certificate_request().await, Request { token: Some("token-1".to_owned()), certificate: None });

    let mut stream = sds(folder.path(), &["default"]).await;
    let (name, secret) = stream.secret().await;
    assert_eq!(name, "default");
    assert_eq!(svid(secret).serial(), identity.svid.serial());
    stream.requests.send(subscribe(SECRET, &["ROOTCA"])).await.unwrap();
    let (name, secret) = stream.secret().await;
    assert_eq!((name.as_str(), roots(secret)), ("ROOTCA", control.roots().clone()));
    stream.requests.send(subscribe(SECRET, &["other"])).await.unwrap();
    let response = stream.next().await;
    assert_eq!((response.resources.len(), response.removed_resources), (0, vec!["other".to_owned()]));
    within(agent.shutdown()).await;
}

#[tokio::test]
async fn everything_is_not_given_to_who_asks_for_everything() {
    let Setup { control: _control, folder, options } = setup().await;
    let agent = Agent::start(options).await.unwrap();
    within(agent.ready()).await;
    let mut stream = sds(folder.path(), &["*"]).await;
    assert!(stream.next().await.resources.is_empty());
}

#[tokio::test]
async fn secrets_by_the_older_variant() {
    let Setup { control: _control, folder, options } = setup().await;
    let agent = Agent::start(options).await.unwrap();
    let (requests, receiver) = mpsc::channel(8);
    let ask = |nonce: &str| DiscoveryRequest {
        resource_names: vec!["default".to_owned(), "ROOTCA".to_owned()],
        type_url: SECRET.to_owned(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    };
    requests.send(ask("")).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel(&folder.path().join("SDS")).await);
    let mut responses = within(client.stream_secrets(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    let first = within(responses.message()).await.unwrap().unwrap();
    let names: Vec<String> = first.resources.iter().map(|r| Secret::decode(r.value.as_slice()).unwrap().name).collect();
    assert_eq!(names, ["ROOTCA", "default"]);
    // An ACK is not answered; a question for less is.
    requests.send(ask(&first.nonce)).await.unwrap();
    requests.send(DiscoveryRequest { resource_names: vec!["ROOTCA".to_owned()], ..ask(&first.nonce) }).await.unwrap();
    let second = within(responses.message()).await.unwrap().unwrap();
    assert_eq!(second.resources.len(), 1);
    drop(agent);
}

/// Secrets of files come without a certificate, in both variants, and again when the files change; what is missing holds up nothing else.
#[tokio::test]
async fn secrets_of_files() {
    let Setup { control, folder, options } = setup().await;
    control.hold_certificates();
    let agent = Agent::start(options).await.unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let pair = format!("file-cert:{}~{}", cert.display(), key.display());
    let root = format!("file-root:{}", folder.path().join("root.pem").display());
    let missing = format!("file-root:{}", folder.path().join("missing").display());
    let issue = |account: &str| {
        let ca = Ca::self_signed(&Default::default(), UnixTime::now(), CaLimits::default()).unwrap();
        let id = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
        ca.issue(&id, Duration::from_secs(3600), UnixTime::now()).unwrap()
    };
    let save = |svid: &Svid| {
        std::fs::write(&cert, svid.chain_pem()).unwrap();
        std::fs::write(&key, svid.key_pem().expose()).unwrap();
    };
    let (first, second) = (issue("one"), issue("two"));
    save(&first);

    let mut delta = sds(folder.path(), &["default", &root, &pair, &missing]).await;
    let response = delta.next().await;
    let names: Vec<&str> = response.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, [pair.as_str(), root.as_str()]);
    // What is gone is said after what is there.
    assert_eq!(delta.next().await.removed_resources, std::slice::from_ref(&missing), "`default` is not absent, only late");
    let (requests, receiver) = mpsc::channel(8);
    let names = ["default", &root, &pair, &missing].map(str::to_owned).to_vec();
    requests.send(DiscoveryRequest { resource_names: names, type_url: SECRET.to_owned(), ..Default::default() }).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel(&folder.path().join("SDS")).await);
    let mut whole = within(client.stream_secrets(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    let response = within(whole.message()).await.unwrap().unwrap();
    let held = |response: &mizzen_protos::envoy::envoy::service::discovery::v3::DiscoveryResponse| {
        response.resources.iter().map(|r| Secret::decode(r.value.as_slice()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(held(&response).iter().map(|s| s.name.clone()).collect::<Vec<_>>(), [pair.clone(), root.clone()]);

    save(&second);
    let (name, secret) = delta.secret().await;
    assert_eq!((name, svid(secret).serial()), (pair.clone(), second.serial()));
    let response = within(whole.message()).await.unwrap().unwrap();
    assert_eq!(svid(held(&response).remove(0)).serial(), second.serial());
    std::fs::write(folder.path().join("missing"), control.roots().to_pem()).unwrap();
    let (name, secret) = delta.secret().await;
    assert_eq!((name, roots(secret)), (missing, control.roots().clone()));
    control.release_certificates();
    assert_eq!(delta.secret().await.0, "default");
    drop(agent);
}

#[tokio::test]
async fn the_system_has_roots() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(control::bare_options(folder.path())).await.unwrap();
    let mut stream = sds(folder.path(), &["file-root:system"]).await;
    let (name, secret) = stream.secret().await;
    assert_eq!(name, "file-root:system");
    assert!(!roots(secret).is_empty());
    drop(agent);
}

#[tokio::test]
async fn renewal_by_certificate_and_its_push() {
    let Setup { mut control, folder, mut options } = setup().await;
    options.renewal = at_once;
    let agent = Agent::start(options).await.unwrap();
    let mut stream = sds(folder.path(), &["default"]).await;
    let mut serials = Vec::new();
    for _ in 0..3 {
        serials.push(svid(stream.secret().await.1).serial().to_owned());
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 3, "each is another one");
    assert!(control.certificate_request().await.token.is_some());
    let renewal = control.certificate_request().await;
    assert_eq!(renewal.token, None);
    assert_eq!(renewal.certificate.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/reviews"));
    drop(agent);
}

/// The CA does not know the old certificate any more, as after the loss of its key: a token helps.
#[tokio::test]
async fn renewal_by_token_if_the_certificate_is_refused() {
    let Setup { mut control, folder: _folder, options } = setup().await;
    control.refuse_certificates();
    let mut options = options;
    options.renewal = at_once;
    let agent = Agent::start(options).await.unwrap();
    let mut identity = agent.identity();
    let first = within(identity.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    within(identity.wait_for(|i| i.as_ref().is_some_and(|i| i.svid.serial() != first.svid.serial()))).await.unwrap();
    let seen = [control.certificate_request().await, control.certificate_request().await, control.certificate_request().await];
    assert_eq!(seen.iter().map(|r| r.token.as_deref()).collect::<Vec<_>>(), [Some("token-1"), None, Some("token-2")]);
}

/// While nobody is there, the certificate is neither lost nor are tokens asked for in vain.
#[tokio::test]
async fn renewal_while_the_control_plane_is_away() {
    let Setup { mut control, folder, mut options } = setup().await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    options.renewal = at_once;
    options.token = mizzen_agent::TokenSource::stream(ours.into());
    let mut giver = tokio::io::BufReader::new(UnixStream::from_std(theirs).unwrap());
    let agent = Agent::start(options).await.unwrap();
    let mut line = String::new();
    within(tokio::io::AsyncBufReadExt::read_line(&mut giver, &mut line)).await.unwrap();
    giver.write_all(b"token-1\n").await.unwrap();
    within(agent.ready()).await;
    assert!(control.certificate_request().await.token.is_some());
    control.stop().await;
    // Several attempts later nothing was asked, and the certificate is still served.
    let status = agent.status_address().unwrap();
    let failures = async {
        loop {
            let (_, text) = http(status, http::Method::GET, "/metrics").await;
            let count = text.lines().find_map(|l| l.strip_prefix("istio_agent_certificate_failures_total ")).unwrap().to_owned();
            if count.parse::<u32>().unwrap() >= 3 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    within(failures).await;
    assert_eq!(giver.get_ref().try_read(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(sds(folder.path(), &["default"]).await.next().await.resources.len() == 1);
}

/// Lifetimes of seconds, by the real schedule.
#[tokio::test]
async fn short_lives() {
    let Setup { mut control, folder: _folder, options } = setup().await;
    let mut options = options;
    options.renewal = mizzen_pki::renewal_delay;
    options.certificate_ttl = Duration::from_secs(2);
    let agent = Agent::start(options).await.unwrap();
    let mut identity = agent.identity();
    let first = within(identity.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    within(identity.wait_for(|i| i.as_ref().is_some_and(|i| i.svid.serial() != first.svid.serial()))).await.unwrap();
    control.certificate_request().await;
    assert_eq!(control.certificate_request().await.token, None, "the old one was still valid");
}

#[tokio::test]
async fn failures_are_retried() {
    let Setup { mut control, folder: _folder, options } = setup().await;
    control.fail_next_certificates(2);
    let agent = Agent::start(options).await.unwrap();
    within(agent.ready()).await;
    for _ in 0..3 {
        assert!(control.certificate_request().await.token.is_some());
    }
}

#[tokio::test]
async fn a_foreign_identity_is_not_used() {
    let Setup { mut control, folder: _folder, mut options } = setup().await;
    options.service_account = "other".to_owned();
    let agent = Agent::start(options).await.unwrap();
    for _ in 0..2 {
        control.certificate_request().await;
    }
    assert!(agent.identity().borrow().is_none());
}

#[tokio::test]
async fn the_control_plane_must_be_who_it_should() {
    let Setup { mut control, folder: _folder, mut options } = setup().await;
    let folder = tempfile::tempdir().unwrap();
    let other = mizzen_pki::Ca::self_signed(&Default::default(), UnixTime::now(), Default::default()).unwrap();
    options.root_cert_file = folder.path().join("root.pem");
    std::fs::write(&options.root_cert_file, other.roots().to_pem()).unwrap();
    let agent = Agent::start(options).await.unwrap();
    // It has tried twice, and has said nothing to the impostor.
    within(control.handshake_failures(2)).await;
    assert!(agent.identity().borrow().is_none());
    assert!(control.no_certificate_request());
}

#[tokio::test]
async fn the_relay() {
    let Setup { mut control, folder: _folder, options } = setup().await;
    let node = bootstrap(&options).node.unwrap();
    assert_eq!(node.id, "sidecar~10.244.0.7~reviews-0.shop~shop.svc.cluster.local");
    let agent = Agent::start(options.clone()).await.unwrap();
    let mut stream = proxy(&options, subscribe(CLUSTER, &["*"])).await;
    let first = stream.next().await;
    assert_eq!((first.type_url.as_str(), first.resources[0].name.as_str()), (CLUSTER, "echo of *"));
    let seen = control.stream().await;
    assert_eq!(seen.identity.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/reviews"));
    assert_eq!(seen.node, "sidecar~10.244.0.7~reviews-0.shop~shop.svc.cluster.local");
    stream.requests.send(subscribe(CLUSTER, &["more"])).await.unwrap();
    assert_eq!(stream.next().await.resources[0].name, "echo of more");

    control.stop().await;
    let error = within(stream.responses.message()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    // While it is away, a new stream ends at once in the same way; the old one's end does not matter.
    let mut stream = proxy(&options, subscribe(CLUSTER, &["*"])).await;
    let error = within(stream.responses.message()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    drop(agent);
}

async fn http(address: SocketAddr, method: http::Method, target: &str) -> (u16, String) {
    let reply = mizzen_net::fetch_tcp(address, method, target, "", PATIENCE, &Default::default()).await.unwrap();
    (reply.status.as_u16(), String::from_utf8(reply.body.to_vec()).unwrap())
}

#[tokio::test]
async fn status() {
    use http::Method;
    let Setup { control, folder: _folder, mut options } = setup().await;
    let (proxy, proxy_ready) = tokio::sync::watch::channel(false);
    options.dataplane_ready = Some(proxy_ready);
    options.proxy_metrics = control::metrics_server().await;
    control.hold_certificates();
    let agent = Agent::start(options.clone()).await.unwrap();
    let (readiness, status) = (agent.readiness_address().unwrap(), agent.status_address().unwrap());
    assert_eq!(http(readiness, Method::GET, "/healthz/ready").await, (503, "no valid certificate\n".to_owned()));
    control.release_certificates();
    within(agent.ready()).await;
    assert_eq!(http(readiness, Method::GET, "/healthz/ready").await, (503, "the proxy is not ready\n".to_owned()));
    proxy.send_replace(true);
    for address in [readiness, status] {
        assert_eq!(http(address, Method::GET, "/healthz/ready").await, (200, "ready\n".to_owned()));
    }
    let (code, text) = http(status, Method::GET, "/metrics").await;
    assert_eq!(code, 200);
    for line in ["istio_agent_certificates_total 1\n", "istio_requests_total{app=\"x\"} 7\n"] {
        assert!(text.contains(line), "{text}");
    }
    for (address, method, target, expected) in [
        (readiness, Method::GET, "/metrics", 404),
        (readiness, Method::POST, "/quitquitquit", 404),
        (status, Method::GET, "/quitquitquit", 405),
        (status, Method::POST, "/quitquitquit", 403),
    ] {
        assert_eq!(http(address, method.clone(), target).await.0, expected, "{method} {target}");
    }
    within(agent.shutdown()).await;
    options.allow_quit = true;
    let agent = Agent::start(options).await.unwrap();
    assert_eq!(http(agent.status_address().unwrap(), Method::POST, "/quitquitquit").await.0, 200);
    within(agent.quit()).await;
}

#[test]
fn the_bootstrap() {
    use mizzen_protos::envoy::envoy::config::core::v3::{address, api_config_source::ApiType};
    use mizzen_protos::wkt::value::Kind;
    let mut options = control::bare_options(Path::new("/run/pod"));
    options.labels.insert("app".to_owned(), "reviews".to_owned());
    options.metadata.insert("WORKLOAD_NAME".to_owned(), "reviews-v1".into());
    options.metadata.insert("CLUSTER_ID".to_owned(), "east".into());
    let b = bootstrap(&options);
    let node = b.node.unwrap();
    assert_eq!(node.cluster, "reviews.shop");
    let fields = node.metadata.unwrap().fields;
    for (key, expected) in [
        ("NAMESPACE", "shop"),
        ("SERVICE_ACCOUNT", "reviews"),
        ("WORKLOAD_NAME", "reviews-v1"),
        ("CLUSTER_ID", "east"),
        ("MESH_ID", "cluster.local"),
        ("INSTANCE_IPS", "10.244.0.7"),
        ("DNS_CAPTURE", "true"),
    ] {
        assert_eq!(fields[key].kind, Some(Kind::StringValue(expected.to_owned())), "{key}");
    }
    assert!(matches!(&fields["LABELS"].kind, Some(Kind::StructValue(s)) if s.fields.contains_key("app")));
    let clusters = b.static_resources.unwrap().clusters;
    let pipes: Vec<(String, String)> = clusters
        .into_iter()
        .map(|c| {
            let endpoint = c.load_assignment.unwrap().endpoints.remove(0).lb_endpoints.remove(0).host_identifier.unwrap();
            let mizzen_protos::envoy::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier::Endpoint(e) = endpoint else { panic!() };
            let Some(address::Address::Pipe(pipe)) = e.address.unwrap().address else { panic!() };
            (c.name, pipe.path)
        })
        .collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(pipes, [pair("xds-grpc", "/run/pod/XDS"), pair("sds-grpc", "/run/pod/SDS")]);
    let dynamic = b.dynamic_resources.unwrap();
    assert_eq!(dynamic.ads_config.unwrap().api_type(), ApiType::DeltaGrpc);
    assert!(dynamic.cds_config.is_some() && dynamic.lds_config.is_some());
}
