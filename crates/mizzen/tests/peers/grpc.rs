//! gRPC by tonic, on both sides: all kinds of calls, their ends and their limits.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::uri::PathAndQuery;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, StreamExt, iter, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::Grpc as Caller,
    server::{Grpc, NamedService},
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use super::{mesh, workloads};

/// Both a request and an answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Note {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(bytes = "vec", tag = "2")]
    text: Vec<u8>,
}

const LARGEST: usize = 64 << 20;
/// Some streams that nobody reads leave room for others on the connections of tonic.
const STREAM_WINDOW: u32 = 65_535;
const CONNECTION_WINDOW: u32 = 16 << 20;
type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

fn note(number: u32) -> Note {
    Note { number, text: Vec::new() }
}

/// The server.
#[derive(Clone, Default)]
struct Served {
    /// Streams whose client went away.
    cancelled: Arc<AtomicU32>,
}

impl NamedService for Served {
    const NAME: &'static str = "peers.v1.Notes";
}

impl Service<http::Request<Body>> for Served {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let served = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Note, Note>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Echo" => grpc.unary(service_fn(echo), request).await,
                "Fail" => grpc.unary(service_fn(fail), request).await,
                "Never" => {
                    grpc.unary(service_fn(|_: Request<Note>| std::future::pending::<Result<Response<Note>, Status>>()), request).await
                }
                "Sum" => grpc.client_streaming(service_fn(sum), request).await,
                "Count" => grpc.server_streaming(service_fn(move |r| count(served.clone(), r)), request).await,
                "Talk" => grpc.streaming(service_fn(talk), request).await,
                "Cancelled" => {
                    let cancelled = served.cancelled.load(SeqCst);
                    grpc.unary(service_fn(move |_: Request<Note>| async move { Ok(Response::new(note(cancelled))) }), request).await
                }
                _ => Status::unimplemented(method).into_http(),
            })
        })
    }
}

/// The same note, the same metadata; and one more in the trailers.
async fn echo(request: Request<Note>) -> Result<Response<Note>, Status> {
    let metadata = request.metadata().clone();
    let mut response = Response::new(request.into_inner());
    for key in ["x-word", "x-user-agent"] {
        if let Some(value) = metadata.get(key) {
            response.metadata_mut().insert(key, value.clone());
        }
    }
    if let Some(value) = metadata.get_bin("x-raw-bin") {
        response.metadata_mut().insert_bin("x-raw-bin", value.clone());
    }
    Ok(response)
}

/// The status that the number asks for, without anything before it.
async fn fail(request: Request<Note>) -> Result<Response<Note>, Status> {
    let code = Code::from_i32(request.get_ref().number.try_into().unwrap_or_default());
    let mut status = Status::with_details(code, "as asked: 100 % & ünusual", vec![1, 2, 3].into());
    status.metadata_mut().insert("x-why", "asked".parse().expect("a value"));
    Err(status)
}

async fn sum(request: Request<Streaming<Note>>) -> Result<Response<Note>, Status> {
    let (mut sum, mut stream) = (0, request.into_inner());
    while let Some(note) = stream.next().await {
        sum += note?.number;
    }
    Ok(Response::new(note(sum)))
}

/// Counts up to the number, then fails if the text says so; 0 is without an end.
async fn count(served: Served, request: Request<Note>) -> Result<Response<Notes>, Status> {
    let (asked, (send, receive)) = (request.into_inner(), mpsc::channel(4));
    tokio::spawn(async move {
        let last = if asked.number == 0 { u32::MAX } else { asked.number };
        for number in 1..=last {
            if send.send(Ok(note(number))).await.is_err() {
                served.cancelled.fetch_add(1, SeqCst);
                return;
            }
        }
        if !asked.text.is_empty() {
            let _ = send.send(Err(Status::data_loss("in the middle"))).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

/// Answers each note when it comes.
async fn talk(request: Request<Streaming<Note>>) -> Result<Response<Notes>, Status> {
    let answers = request.into_inner().map(|heard| heard.map(|n| Note { number: n.number + 1, text: n.text }));
    Ok(Response::new(Box::pin(answers)))
}

pub(crate) async fn serve(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.expect("listen");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = Server::builder().initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    server.add_service(Served::default()).serve_with_incoming(incoming).await.expect("serve gRPC");
}

/// The client.
#[derive(Clone)]
struct Client(Caller<Channel>);

impl Client {
    fn new(address: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let endpoint = endpoint.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let channel = endpoint.connect_lazy();
        Client(Caller::new(channel).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|e| Status::unavailable(e.to_string()))
    }

    async fn unary(&mut self, method: &'static str, request: Request<Note>) -> Result<Response<Note>, Status> {
        self.ready().await?;
        self.0.unary(request, PathAndQuery::from_static(method), ProstCodec::<Note, Note>::default()).await
    }

    async fn one(&mut self, method: &'static str, number: u32) -> Result<u32, Status> {
        Ok(self.unary(method, Request::new(note(number))).await?.into_inner().number)
    }

    async fn count(&mut self, asked: Note) -> Result<Streaming<Note>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(COUNT);
        Ok(self.0.server_streaming(Request::new(asked), path, ProstCodec::<Note, Note>::default()).await?.into_inner())
    }

    async fn sum(&mut self, numbers: impl Stream<Item = Note> + Send + 'static) -> Result<u32, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/peers.v1.Notes/Sum");
        Ok(self.0.client_streaming(Request::new(numbers), path, ProstCodec::<Note, Note>::default()).await?.into_inner().number)
    }

    async fn talk(&mut self, notes: impl Stream<Item = Note> + Send + 'static) -> Result<Streaming<Note>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/peers.v1.Notes/Talk");
        Ok(self.0.streaming(Request::new(notes), path, ProstCodec::<Note, Note>::default()).await?.into_inner())
    }
}

const ECHO: &str = "/peers.v1.Notes/Echo";
const FAIL: &str = "/peers.v1.Notes/Fail";
const NEVER: &str = "/peers.v1.Notes/Never";
const COUNT: &str = "/peers.v1.Notes/Count";
const CANCELLED: &str = "/peers.v1.Notes/Cancelled";

/// Makes all kinds of calls.
///
/// # Panics
/// If an answer is not the expected one.
pub(crate) async fn calls(address: &str) {
    let mut client = Client::new(address);
    metadata(&mut client).await;
    statuses(&mut client).await;
    streams(&mut client).await;
    sizes(&mut client).await;
    ends(&mut client).await;
    slow(&mut client).await;
    many(&client).await;
}

async fn metadata(client: &mut Client) {
    let mut request = Request::new(note(7));
    request.metadata_mut().insert("x-word", "hello".parse().expect("a value"));
    request.metadata_mut().insert_bin("x-raw-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 255, 10, 13]));
    let response = client.unary(ECHO, request).await.expect("an echo");
    assert_eq!(response.get_ref().number, 7);
    assert_eq!(response.metadata().get("x-word").expect("metadata"), "hello");
    let raw = response.metadata().get_bin("x-raw-bin").expect("binary metadata");
    assert_eq!(raw.to_bytes().expect("bytes"), [0, 255, 10, 13].as_slice());
}

async fn statuses(client: &mut Client) {
    for code in 1..=16 {
        let status = client.one(FAIL, code).await.expect_err("a status");
        assert_eq!((status.code(), status.message()), (Code::from_i32(code as i32), "as asked: 100 % & ünusual"));
        assert_eq!((status.details(), status.metadata().get("x-why").map(|v| v.as_bytes())), (&[1, 2, 3][..], Some(&b"asked"[..])));
    }
    let status = client.one("/peers.v1.Notes/Nothing", 1).await.expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    // What was sent before the failure arrives before it.
    let mut stream = client.count(Note { number: 3, text: b"fail".to_vec() }).await.expect("a stream");
    for number in 1..=3 {
        assert_eq!(stream.message().await.expect("a note"), Some(note(number)));
    }
    let status = stream.message().await.expect_err("the failure");
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "in the middle"));
}

async fn streams(client: &mut Client) {
    assert_eq!(client.sum(iter((1..=2000).map(note))).await.expect("a sum"), 2_001_000);
    let mut stream = client.count(note(2000)).await.expect("a stream");
    for number in 1..=2000 {
        assert_eq!(stream.message().await.expect("a note"), Some(note(number)));
    }
    assert_eq!(stream.message().await.expect("the end"), None);
    // In turns: each note is sent only when the last one was answered.
    let (send, receive) = mpsc::channel(1);
    send.send(note(0)).await.expect("send");
    let mut answers = client.talk(ReceiverStream::new(receive)).await.expect("a stream");
    for number in 1..=100 {
        assert_eq!(answers.message().await.expect("a note"), Some(note(number)));
        send.send(note(number)).await.expect("send");
    }
    drop(send);
    assert_eq!(answers.message().await.expect("a note"), Some(note(101)));
    assert_eq!(answers.message().await.expect("the end"), None);
}

async fn sizes(client: &mut Client) {
    let text: Vec<u8> = (0..10_000_000_u32).map(|n| (n / 7) as u8).collect();
    let large = Note { number: 1, text };
    let response = client.unary(ECHO, Request::new(large.clone())).await.expect("an echo");
    assert!(response.into_inner() == large, "another note came back");
    let notes: Vec<Note> = (0..30).map(|number| Note { number, text: vec![number as u8; 500_000] }).collect();
    let mut answers = client.talk(iter(notes.clone())).await.expect("a stream");
    for note in notes {
        let answer = answers.message().await.expect("a note").expect("not the end");
        assert!(answer.number == note.number + 1 && answer.text == note.text, "another note came back");
    }
}

/// Calls that do not end by themselves.
async fn ends(client: &mut Client) {
    let mut request = Request::new(note(1));
    request.metadata_mut().insert("grpc-timeout", "200m".parse().expect("a value"));
    let status = client.unary(NEVER, request).await.expect_err("too late");
    // Each proxy has this deadline, and calls it `Unavailable` as Envoy does; so has the server, by another name.
    assert!([Code::Unavailable, Code::Cancelled].contains(&status.code()), "{status:?}");
    let before = client.one(CANCELLED, 0).await.expect("a count");
    let mut stream = client.count(note(0)).await.expect("a stream");
    for number in 1..=50 {
        assert_eq!(stream.message().await.expect("a note"), Some(note(number)));
    }
    drop(stream);
    let until = tokio::time::Instant::now() + mizzen_testkit::PATIENCE;
    while client.one(CANCELLED, 0).await.expect("a count") == before {
        assert!(tokio::time::Instant::now() < until, "the server does not hear of the client's end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A stream that nobody reads stops itself, and no other on its connection.
async fn slow(client: &mut Client) {
    let chunks = (0..200).map(|number| Note { number, text: vec![1; 100_000] });
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(client.talk(iter(chunks.clone())).await.expect("a stream"));
    }
    for number in 0..100 {
        assert_eq!(client.one(ECHO, number).await.expect("an echo"), number);
    }
    for mut stream in unread {
        for number in 1..=200 {
            let note = stream.message().await.expect("a note").expect("not the end");
            assert_eq!((note.number, note.text.len()), (number, 100_000));
        }
    }
}

/// Many calls share a connection.
async fn many(client: &Client) {
    let calls: Vec<_> = (0..500)
        .map(|number| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let text = vec![number as u8; 10 * number as usize];
                let sent = Note { number, text };
                let answer = client.unary(ECHO, Request::new(sent.clone())).await.expect("an echo").into_inner();
                assert!(answer == sent, "another note came back for {number}");
            })
        })
        .collect();
    for call in calls {
        call.await.expect("a call");
    }
}

#[test]
fn on_a_declared_port() {
    workloads::client(&mesh(), "grpc", &["notes:9090"]);
}

#[test]
fn on_an_undeclared_port() {
    workloads::client(&mesh(), "grpc", &["notes:9091"]);
}

#[test]
fn through_the_gateway() {
    let mesh = mesh();
    let address = mesh.address().trim_start_matches("http://").to_owned();
    workloads::block_on(async move { calls(&address).await });
}
