//! One gRPC call over HTTP/2 over mutual TLS.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Request};
use mizzen_net::{ConnectOptions, connect, connect_tls};
use mizzen_pki::{
    Svid, TrustBundle, server_verifier_by_name,
    tls::{TlsOptions, client_config},
};
use prost::Message;
use rustls::ClientConfig;
use tokio::task::JoinHandle;

use super::wire;

/// What Istio's agent grants for a stream, and for a connection.
const WINDOW: u32 = 1 << 20;
const HANDSHAKE: Duration = Duration::from_secs(60);

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) name: String,
    /// From where it is dialled.
    pub(super) source: Option<IpAddr>,
}

impl Target {
    pub(super) fn new(port: u16, name: &str) -> Target {
        Target { address: (Ipv4Addr::LOCALHOST, port).into(), name: name.to_owned(), source: None }
    }

    /// The same for this client: each has an address of its own, as proxies do.
    pub(super) fn from(&self, client: usize) -> Target {
        let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
        let source = Ipv4Addr::from(first + u32::try_from(client).unwrap_or_default());
        Target { source: Some(source.into()), ..self.clone() }
    }
}

/// A call whose both directions are open.
pub(super) struct Stream {
    pub(super) send: SendStream<Bytes>,
    pub(super) receive: RecvStream,
    /// Moves the connection's bytes for as long as the call lives.
    connection: JoinHandle<()>,
}

/// With which status a call has ended.
#[derive(Debug, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub(super) struct Status {
    pub(super) code: u32,
    message: String,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// How a client proves who it is, and whom it believes.
pub(super) fn tls(svid: Option<&Svid>, roots: &TrustBundle) -> Result<Arc<ClientConfig>> {
    let options = TlsOptions { alpn: vec![b"h2".to_vec()], ..TlsOptions::default() };
    Ok(client_config(svid, server_verifier_by_name(roots)?, &options)?)
}

impl Stream {
    /// Calls, with the first messages.
    pub(super) async fn open(target: &Target, tls: Arc<ClientConfig>, path: &str, first: Vec<Bytes>) -> Result<Stream> {
        Stream::call(target, tls, path, None, first, false).await
    }

    /// With `last`, these are all the messages that there will be: a server may answer nothing before it knows.
    async fn call(
        target: &Target,
        tls: Arc<ClientConfig>,
        path: &str,
        token: Option<&str>,
        messages: Vec<Bytes>,
        last: bool,
    ) -> Result<Stream> {
        let socket = connect(target.address, &ConnectOptions { source: target.source, ..ConnectOptions::default() }).await?;
        let socket = connect_tls(socket, tls, &target.name, HANDSHAKE).await?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake::<_, Bytes>(socket).await?;
        // How it ends is what its stream says.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let request =
            Request::post(format!("https://{}{path}", target.name)).header("content-type", "application/grpc").header("te", "trailers");
        let request = match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let (response, mut send) = sender.ready().await?.send_request(request.body(())?, false)?;
        for bytes in messages {
            // What the window has no room for waits within, and is no more than a proxy's names.
            send.send_data(bytes, false)?;
        }
        if last {
            send.send_data(Bytes::new(), true)?;
        }
        let response = response.await?;
        status(response.headers())?;
        if !response.status().is_success() {
            bail!("answered {}", response.status());
        }
        Ok(Stream { send, receive: response.into_body(), connection })
    }

    /// The next bytes; at the end an error that says why.
    pub(super) async fn data(&mut self) -> Result<Bytes> {
        match self.receive.data().await {
            Some(data) => {
                let data = data?;
                self.receive.flow_control().release_capacity(data.len())?;
                Ok(data)
            }
            None => {
                status(&self.receive.trailers().await?.unwrap_or_default())?;
                bail!("the call has ended");
            }
        }
    }
}

/// A call with one message each way.
pub(super) async fn unary<T: Message + Default>(
    target: &Target,
    tls: Arc<ClientConfig>,
    path: &str,
    token: &str,
    message: &impl Message,
) -> Result<T> {
    let mut stream = Stream::call(target, tls, path, Some(token), vec![wire::frame(message)], true).await?;
    let mut answer = BytesMut::new();
    while let Some(data) = stream.receive.data().await {
        answer.extend_from_slice(&data?);
    }
    status(&stream.receive.trailers().await?.unwrap_or_default())?;
    if answer.len() < wire::PREFIX {
        bail!("no answer");
    }
    answer.advance(wire::PREFIX);
    Ok(T::decode(answer)?)
}

/// An error if these headers hold a status that is one.
fn status(headers: &HeaderMap) -> Result<()> {
    let Some(code) = headers.get("grpc-status") else { return Ok(()) };
    let code: u32 = code.to_str()?.parse().context("grpc-status")?;
    let message = headers.get("grpc-message").map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()).unwrap_or_default();
    if code == 0 { Ok(()) } else { Err(Status { code, message }.into()) }
}
