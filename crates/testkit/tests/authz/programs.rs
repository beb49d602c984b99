//! The programs behind the proxies: an application, which answers whoever has sent a whole head, and a doorman, who is asked by policies.
//!
//! The doorman refuses whatever has `bad` in a value of `x-role`, as far as it is told. Over HTTP it is asked at the application's address, under `/door`.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use bytes::{BufMut, Bytes, BytesMut};
use mizzen_protos::envoy::{
    envoy::service::auth::v3::{CheckRequest, CheckResponse},
    google::rpc,
};
use prost::Message;

/// The header that the doorman looks at.
const ROLE: &str = "x-role";
/// `PERMISSION_DENIED` of gRPC.
const DENIED: i32 = 7;

const SERVED: &[u8] = b"HTTP/1.1 200 OK\r\nx-served-by: app\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The application, and the doorman over HTTP.
pub(crate) fn application(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let (mut head, mut buffer) = (Vec::new(), [0; 16 * 1024]);
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                head.extend_from_slice(&buffer[..n]);
                if head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let _ = stream.write_all(answer(&String::from_utf8_lossy(&head)));
                    return;
                }
            }
        });
    }
}

fn answer(head: &str) -> &'static [u8] {
    let is_asked = head.split(' ').nth(1).is_some_and(|path| path.starts_with("/door"));
    let is_bad = |line: &str| line.split_once(':').is_some_and(|(name, value)| name.eq_ignore_ascii_case(ROLE) && value.contains("bad"));
    match (is_asked, head.lines().any(is_bad)) {
        (false, _) => SERVED,
        (true, false) => FINE,
        (true, true) => REFUSED,
    }
}

/// The doorman over gRPC.
pub(crate) fn doorman(listener: TcpListener) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        listener.set_nonblocking(true).expect("a listener for tokio");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of tokio");
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(check(request.into_body(), respond));
                }
            });
        }
    });
}

/// One question. What goes wrong ends without an answer.
async fn check(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) -> Option<()> {
    let mut asked = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        body.flow_control().release_capacity(part.len()).ok()?;
        asked.extend_from_slice(&part);
    }
    // A flag and a length stand before a message.
    let question = CheckRequest::decode(asked.get(5..)?).ok()?;
    let http = question.attributes?.request?.http?;
    let is_bad = http.headers.get(ROLE).is_some_and(|value| value.contains("bad"));
    let status = rpc::Status { code: if is_bad { DENIED } else { 0 }, ..Default::default() };
    let message = CheckResponse { status: Some(status), ..Default::default() }.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).ok()?);
    framed.extend_from_slice(&message);
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let mut send = respond.send_response(head, false).ok()?;
    send.send_data(framed.freeze(), false).ok()?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    send.send_trailers(trailers).ok()
}
