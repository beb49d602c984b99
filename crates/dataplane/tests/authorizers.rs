//! Real authorization servers, over HTTP and gRPC, behind the filter `ext_authz`: good ones, slow ones, dead ones, such as come and go, and such as
//! speak something else. Nobody is let in whom none of them has let in.

#[allow(dead_code)]
mod common;

use std::net::SocketAddr;

use common::*;
use http::HeaderMap;
use mizzen_net::ConnectOptions;
use mizzen_protos::envoy::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        service::auth::v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google::rpc,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What lets in.
const WORD: (&str, &str) = ("x-word", "sesame");

/// What an authorizer says of a request: whether it is let in; nothing at all of one to `/slow`.
async fn decide(path: &str, word: Option<&str>) -> bool {
    if path.ends_with("/slow") {
        std::future::pending::<()>().await;
    }
    word == Some(WORD.1)
}

struct OverGrpc;

#[tonic::async_trait]
impl Authorization for OverGrpc {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let http = request.into_inner().attributes.and_then(|a| a.request).and_then(|r| r.http).unwrap_or_default();
        let (code, answer) = if http.path == "/unwell" {
            return Err(Status::internal("unwell"));
        } else if decide(&http.path, http.headers.get(WORD.0).map(String::as_str)).await {
            let user = HeaderValue { key: "x-user".into(), value: "ali".into(), ..Default::default() };
            let headers = vec![HeaderValueOption { header: Some(user), ..Default::default() }];
            (0, HttpResponse::OkResponse(OkHttpResponse { headers, ..Default::default() }))
        } else {
            let status = Some(HttpStatus { code: 401 });
            (7, HttpResponse::DeniedResponse(DeniedHttpResponse { status, body: "no word".into(), ..Default::default() }))
        };
        let status = Some(rpc::Status { code, ..Default::default() });
        Ok(Response::new(CheckResponse { status, http_response: Some(answer), ..Default::default() }))
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn over_grpc() -> SocketAddr {
    let (listener, address) = listen().await;
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(OverGrpc));
    tokio::spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
    address
}

async fn over_http() -> SocketAddr {
    let (listener, address) = listen().await;
    let app = axum::Router::new().fallback(async |uri: http::Uri, headers: HeaderMap| {
        let word = headers.get(WORD.0).and_then(|word| word.to_str().ok());
        if uri.path() == "/unwell" {
            (http::StatusCode::BAD_GATEWAY, [("x-user", "")], "unwell")
        } else if decide(uri.path(), word).await {
            (http::StatusCode::OK, [("x-user", "ali")], "")
        } else {
            (http::StatusCode::UNAUTHORIZED, [("x-user", "")], "no word")
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// Says the same to whoever comes, whatever it is asked.
async fn babbler(words: &'static [u8]) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(words).await;
        }
    });
    address
}

/// Of every second connection the question is read and not answered; on the others one over HTTP is. One that is closed before the question was written
/// would be asked anew elsewhere.
async fn flapping() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        for good in [true, false].into_iter().cycle() {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            if good {
                let word = String::from_utf8_lossy(&head).contains("x-word: sesame");
                let status = if word { "200 OK" } else { "401 Unauthorized" };
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await;
            }
        }
    });
    address
}

const TIMEOUT: &str = "0.5s";

fn grpc(more: &Value) -> Value {
    with(json!({"transport_api_version": "V3", "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": TIMEOUT}}), more)
}

fn http_service(more: &Value) -> Value {
    let service = json!({
        "server_uri": {"uri": "http://authorizer", "cluster": "authorizer", "timeout": TIMEOUT},
        "authorization_response": {"allowed_upstream_headers": {"patterns": [{"exact": "x-user"}]}},
    });
    let asked = json!({"patterns": [{"exact": WORD.0}]});
    with(json!({"transport_api_version": "V3", "http_service": service, "allowed_headers": asked}), more)
}

fn with(mut config: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    config["@type"] = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz".into();
    config
}

/// A proxy in front of a program that tells who the authorizer says that it is, with an authorizer there.
async fn guarded(filter: Value, authorizer: SocketAddr, is_grpc: bool) -> (Mesh, SocketAddr) {
    let (listener_for_app, app) = listen().await;
    let program = axum::Router::new().fallback(async |headers: HeaderMap| {
        let user = headers.get("x-user").and_then(|user| user.to_str().ok());
        format!("hello {}", user.unwrap_or("nobody"))
    });
    tokio::spawn(async move { axum::serve(listener_for_app, program).await.unwrap() });
    let front = free_address();
    let mut manager = http_filter("r");
    let filters = manager["typed_config"]["http_filters"].as_array_mut().unwrap();
    filters.insert(0, json!({"name": "envoy.filters.http.ext_authz", "typed_config": filter}));
    let mut cluster = static_cluster("authorizer", authorizer);
    if is_grpc {
        cluster["http2_protocol_options"] = json!({});
    }
    let first = [
        (CLUSTER, "app", static_cluster("app", app)),
        (CLUSTER, "authorizer", cluster),
        (LISTENER, "web", listener("web", front, manager)),
        (ROUTE, "r", route("r", "app")),
    ];
    let mut mesh = Mesh::start(&first, |_| {}).await;
    let mut ready = mesh.ready.clone();
    tokio::select! {
        ready = ready.wait_for(|ready| *ready) => drop(ready.unwrap()),
        rejected = mesh.control.rejection() => panic!("{rejected:?}"),
    }
    (mesh, front)
}

async fn ask(front: SocketAddr, path: &str, word: &str) -> (u16, String) {
    let mut headers = HeaderMap::new();
    headers.insert(WORD.0, word.parse().unwrap());
    headers.insert("x-user", "mallory".parse().unwrap());
    let stream = mizzen_net::connect(front, &ConnectOptions::default()).await.unwrap();
    let asked = mizzen_net::fetch_up_to(stream, http::Method::GET, "app", path, headers, "", 1 << 16);
    let reply = tokio::time::timeout(LONG, asked).await.expect("an answer in time").unwrap();
    (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
}

/// The filter, who is asked, and what becomes of requests: path, word, status, and what the answer holds.
async fn check(what: &str, filter: Value, authorizer: SocketAddr, is_grpc: bool, calls: &[(&str, &str, u16, &str)]) {
    let (mut mesh, front) = guarded(filter, authorizer, is_grpc).await;
    for (path, word, status, body) in calls {
        let (got, text) = ask(front, path, word).await;
        assert!(got == *status && text.contains(body), "{what}: {path} {word}: {got} {text}");
    }
    mesh.stop();
    mesh.ended().await;
}

#[test]
fn nobody_is_let_in_whom_nobody_has_let_in() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let good = [
        ("/", WORD.1, 200, "hello ali"),
        ("/", "please", 401, "no word"),
        ("/slow", WORD.1, 403, ""),
        ("/unwell", WORD.1, 403, ""),
        ("/", WORD.1, 200, "hello ali"),
    ];
    let down = [("/", WORD.1, 403, ""), ("/", "please", 403, "")];
    let own_status = json!({"status_on_error": {"code": "ServiceUnavailable"}});
    let open = json!({"failure_mode_allow": true});
    runtime.block_on(async {
        for is_grpc in [false, true] {
            let filter = |more: &Value| if is_grpc { grpc(more) } else { http_service(more) };
            let name = if is_grpc { "grpc" } else { "http" };
            let real = if is_grpc { over_grpc().await } else { over_http().await };
            check(name, filter(&json!({})), real, is_grpc, &good).await;
            check("dead", filter(&json!({})), free_address(), is_grpc, &down).await;
            check("dead, with a status", filter(&own_status), free_address(), is_grpc, &[("/", WORD.1, 503, "")]).await;
            // Whom it does not answer it has not refused.
            check("dead, and open", filter(&open), free_address(), is_grpc, &[("/", "please", 200, "hello")]).await;
            check("slow, and open", filter(&open), real, is_grpc, &[("/slow", "please", 200, "hello"), ("/", "please", 401, "no word")])
                .await;
            for words in [
                &b"220 mail.example ESMTP\r\n"[..],
                b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                b"HTTP/1.1 200",
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
            ] {
                check("garbage", filter(&json!({})), babbler(words).await, is_grpc, &down).await;
            }
        }
        // Of HTTP's two kinds of peers each other's.
        check("an HTTP server for gRPC", grpc(&json!({})), over_http().await, true, &down).await;
        check("a gRPC server for HTTP", http_service(&json!({})), over_grpc().await, false, &down).await;
    });
}

#[test]
fn one_that_comes_and_goes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut patient = http_service(&json!({}));
        patient["http_service"]["server_uri"]["timeout"] = json!("30s");
        let (mut mesh, front) = guarded(patient, flapping().await, false).await;
        let mut seen = std::collections::BTreeMap::new();
        for i in 0..40 {
            let word = if i % 2 == 0 { WORD.1 } else { "please" };
            let (status, _) = ask(front, "/", word).await;
            *seen.entry((word, status)).or_insert(0) += 1;
        }
        assert!(seen.keys().all(|at| matches!(at, ("sesame", 200 | 403) | ("please", 401 | 403))), "{seen:?}");
        assert!(seen.contains_key(&("sesame", 200)) && seen.keys().any(|(_, status)| *status == 403), "{seen:?}");
        mesh.stop();
        mesh.ended().await;
    });
}
