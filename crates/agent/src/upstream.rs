//! The way to the control plane: gRPC over TLS, on marked sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mizzen_net::{ConnectOptions, TlsError};
use mizzen_pki::tls::{TlsOptions, client_config};
use mizzen_pki::{PkiError, Svid, TrustBundle, server_verifier_by_name};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{Address, Options};

/// The largest message from the control plane: all clusters of a large mesh in one.
pub(crate) const MAX_FROM_CONTROL: usize = 256 << 20;
/// The largest message from a proxy: the names and versions of all that.
pub(crate) const MAX_FROM_PROXY: usize = 64 << 20;

const CONNECT: Duration = Duration::from_secs(5);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// An idle connection is probed by TCP, so that a control plane that has vanished without a word is noticed.
const PROBE: Duration = Duration::from_secs(10);
/// HTTP/2's pings notice one that hangs. Servers count them: gRPC's in Go end a connection on which more come than they allow, and Istio's
/// control plane allows one in 15 s.
const PING: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// A control plane that has said nothing to the first question for so long is warned of.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// Why the control plane cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The file with its roots.
    #[error("roots of the control plane, {path}: {reason}")]
    Roots {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name has no address.
    #[error("{0}: the name has no address")]
    Name(String),
    /// No connection.
    #[error("{address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No TLS configuration.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// No HTTP/2.
    #[error("gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

impl DialError {
    /// Whether nobody was reached at all, so that another way to prove who we are would not help.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            DialError::Roots { .. } | DialError::Name(_) | DialError::Connect { .. } => true,
            DialError::Tls(_) | DialError::Pki(_) | DialError::Grpc(_) => false,
        }
    }
}

/// The roots by which the control plane is verified, read anew each time.
pub(crate) async fn roots(options: &Options) -> Result<TrustBundle, DialError> {
    let path = &options.root_cert_file;
    let error = |reason: String| DialError::Roots { path: path.display().to_string(), reason };
    let pem = tokio::fs::read(path).await.map_err(|e| error(e.to_string()))?;
    TrustBundle::from_pem(&pem).map_err(|e| error(e.to_string()))
}

/// Dials, shows the certificate if there is one, and gives a channel over that one connection. When it breaks, whoever uses it dials anew.
pub(crate) async fn dial(options: &Options, to: &Address, svid: Option<&Svid>) -> Result<Channel, DialError> {
    let tls = TlsOptions { time: options.time.clone(), alpn: vec![b"h2".to_vec()], resumption: false, ..TlsOptions::default() };
    let config = client_config(svid, server_verifier_by_name(&roots(options).await?)?, &tls)?;
    let mut last = None;
    for address in resolve(to).await? {
        let connect = ConnectOptions { mark: options.mark, timeout: CONNECT, keepalive: Some(PROBE), ..ConnectOptions::default() };
        match mizzen_net::connect(address, &connect).await {
            Ok(stream) => {
                let stream = mizzen_net::connect_tls(stream, config, &options.server_name, HANDSHAKE).await?;
                return channel(options, stream).await;
            }
            Err(source) => last = Some(DialError::Connect { address: address.to_string(), source }),
        }
    }
    Err(last.unwrap_or_else(|| DialError::Name(to.host.clone())))
}

async fn resolve(to: &Address) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(ip) = to.host.parse() {
        return Ok(vec![SocketAddr::new(ip, to.port)]);
    }
    let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
    found.map(Iterator::collect).map_err(|source| DialError::Connect { address: to.to_string(), source })
}

async fn channel<S>(options: &Options, stream: S) -> Result<Channel, DialError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let mut once = Some(stream);
    let connector = service_fn(move |_: http::Uri| {
        let stream = once.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)))
    });
    let origin = http::Uri::builder().scheme("https").authority(options.server_name.as_str()).path_and_query("/").build();
    let origin = origin.map_err(|_| DialError::Name(options.server_name.clone()))?;
    let endpoint = Endpoint::from_static("https://control-plane")
        .origin(origin)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector(connector).await?)
}

#[cfg(test)]
mod tests {
    use mizzen_protos::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const PREFACE: usize = 24;
    const SETTINGS: u8 = 4;
    const PING_FRAME: u8 = 6;
    const ACK: u8 = 1;

    /// One frame: its type, flags and payload.
    async fn frame(stream: &mut DuplexStream) -> (u8, u8, Vec<u8>) {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; (usize::from(head[1]) << 8) | usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        (head[3], head[4], payload)
    }

    /// A server that answers pings and nothing else. The clock stands still but for the client's own timers.
    #[tokio::test(start_paused = true)]
    async fn pings_are_rare_while_nothing_happens() {
        let folder = tempfile::tempdir().unwrap();
        let options = crate::options::tests::plain(folder.path());
        let (client, mut server) = tokio::io::duplex(1 << 16);
        let mut client = IstioCertificateServiceClient::new(channel(&options, client).await.unwrap());
        let call = tokio::spawn(async move { client.create_certificate(IstioCertificateRequest::default()).await });
        let mut preface = [0; PREFACE];
        server.read_exact(&mut preface).await.unwrap();
        server.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
        let mut last = tokio::time::Instant::now();
        let mut pings = 0;
        while pings < 3 {
            match frame(&mut server).await {
                (SETTINGS, 0, _) => server.write_all(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]).await.unwrap(),
                (PING_FRAME, 0, payload) => {
                    let now = tokio::time::Instant::now();
                    assert!(now - last >= Duration::from_secs(30), "a ping after {:?}", now - last);
                    (last, pings) = (now, pings + 1);
                    server.write_all(&[&[0, 0, 8, PING_FRAME, ACK, 0, 0, 0, 0], &payload[..]].concat()).await.unwrap();
                }
                _ => {}
            }
        }
        call.abort();
    }
}
