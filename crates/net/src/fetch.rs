//! One HTTP request, for admin sockets, probes and scrapes.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::{ConnectOptions, connect};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[from] io::Error),
    /// Not a request that can be made.
    #[error("request: {0}")]
    Request(#[from] http::Error),
    /// The connection broke, or the answer is no HTTP.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The body is too long, or broke off.
    #[error("body: {0}")]
    Body(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer is read up to this size.
const MAX_BODY: usize = 64 << 20;

/// One request over a Unix socket.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_unix(
    socket: &Path,
    method: Method,
    target: &str,
    body: impl Into<Bytes> + Send,
    timeout: Duration,
) -> Result<Reply, FetchError> {
    let all = async { fetch(UnixStream::connect(socket).await?, method, "localhost", target, HeaderMap::new(), body).await };
    tokio::time::timeout(timeout, all).await.map_err(|_| FetchError::Timeout(timeout))?
}

/// One request over TCP.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_tcp(
    address: SocketAddr,
    method: Method,
    target: &str,
    body: impl Into<Bytes> + Send,
    timeout: Duration,
    options: &ConnectOptions,
) -> Result<Reply, FetchError> {
    let host = address.to_string();
    let all = async { fetch(connect(address, options).await?, method, &host, target, HeaderMap::new(), body).await };
    tokio::time::timeout(timeout, all).await.map_err(|_| FetchError::Timeout(timeout))?
}

/// One HTTP/1.1 request over a connection that is open already, without a timeout.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    host: &str,
    target: &str,
    headers: HeaderMap,
    body: impl Into<Bytes> + Send,
) -> Result<Reply, FetchError> {
    fetch_up_to(stream, method, host, target, headers, body, MAX_BODY).await
}

/// The status of an answer, whose body is not read; without a timeout.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_status(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    host: &str,
    target: &str,
    headers: HeaderMap,
) -> Result<StatusCode, FetchError> {
    ask(stream, method, host, target, headers, Bytes::new(), async |response| Ok(response.status())).await
}

/// As [`fetch`], with an answer's body of so many bytes at most.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_up_to(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    host: &str,
    target: &str,
    headers: HeaderMap,
    body: impl Into<Bytes> + Send,
    most: usize,
) -> Result<Reply, FetchError> {
    let read = async |response: Response<Incoming>| {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|e| FetchError::Body(e.to_string()))?.to_bytes();
        Ok(Reply { status: head.status, headers: head.headers, body })
    };
    ask(stream, method, host, target, headers, body.into(), read).await
}

/// Sends a request, and drives the connection for as long as its answer is read.
async fn ask<T>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    host: &str,
    target: &str,
    headers: HeaderMap,
    body: Bytes,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let mut request = Request::builder().method(method).uri(target).header(http::header::HOST, host).body(Full::new(body))?;
    request.headers_mut().extend(headers);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async { read(sender.send_request(request).await?).await };
    // Both are driven here, so that nothing is left behind when this future is dropped.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn one_request_over_a_unix_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = crate::listen_unix(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 1024];
            let mut length = 0;
            while !seen[..length].ends_with(b"{}") {
                length += stream.read(&mut seen[length..]).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            String::from_utf8(seen[..length].to_vec()).unwrap()
        });
        let reply = fetch_unix(&path, Method::POST, "/token", "{}", Duration::from_secs(20)).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (201, &b"ok"[..]));
        assert!(server.await.unwrap().starts_with("POST /token HTTP/1.1\r\nhost: localhost\r\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = crate::listen_unix(&path).unwrap();
        let result = fetch_unix(&path, Method::GET, "/", "", Duration::from_secs(5)).await;
        assert!(matches!(result, Err(FetchError::Timeout(_))), "{result:?}");
    }
}
