//! Connections that stop being HTTP: a websocket's handshake and bytes after it, through the sidecars, nginx and the Gateway.

use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use mizzen_testkit::peer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{mesh, workloads};

/// Upgrades a connection to `address` by `GET path`, and talks over it in both directions at once and in turns.
pub(crate) async fn chat(address: &str, path: &str) {
    let stream = TcpStream::connect(address).await.expect("connect");
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    let conn = tokio::spawn(conn.with_upgrades());
    let request = Request::get(path).header(header::HOST, address).header(header::CONNECTION, "Upgrade");
    let request = request.header(header::UPGRADE, "websocket").header(header::SEC_WEBSOCKET_VERSION, "13");
    let request = request.header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
    let response = sender.send_request(request.body(String::new()).expect("a request")).await.expect("a response");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS, "{response:?}");
    assert_eq!(response.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let upgraded = TokioIo::new(hyper::upgrade::on(response).await.expect("upgraded"));
    let (mut read, mut write) = tokio::io::split(upgraded);
    for word in ["hello", "and", "again"] {
        write.write_all(word.as_bytes()).await.expect("write");
        let mut back = vec![0; word.len()];
        read.read_exact(&mut back).await.expect("read");
        assert_eq!(back, word.as_bytes());
    }
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 / 3) as u8).collect();
    let all = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&all).await.expect("write");
        write
    });
    let mut back = vec![0; sent.len()];
    read.read_exact(&mut back).await.expect("read");
    assert!(back == sent, "other bytes came back");
    let mut write = writer.await.expect("the writer");
    write.write_all(b"END").await.expect("write");
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.expect("the end");
    assert_eq!(rest, b"END", "the server closes after this word");
    drop(write);
    conn.await.expect("the connection").expect("no error");
}

#[test]
fn between_workloads() {
    workloads::client(&mesh(), "chat", &["chat:9000", "/chat"]);
}

#[test]
fn through_nginx() {
    if peer("nginx", "nginx").is_some() {
        workloads::client(&mesh(), "chat", &["web:80", "/chat"]);
    }
}

#[test]
fn through_the_gateway() {
    let mesh = mesh();
    let address = mesh.address().trim_start_matches("http://").to_owned();
    workloads::block_on(chat(&address, "/chat"));
}
