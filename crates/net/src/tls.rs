//! TLS for control traffic. The data path's TLS is the engine's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use mizzen_pki::{CertificateDer, peer_identity};
use mizzen_types::SpiffeId;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Why a TLS connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The handshake failed, the peer was refused, or the connection broke.
    #[error("TLS with {peer}: {source}")]
    Handshake {
        /// The other side.
        peer: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// The handshake took too long.
    #[error("TLS with {0}: no handshake in time")]
    Timeout(SocketAddr),
    /// Not a name that a server can have.
    #[error("`{0}` is not a server's name")]
    Name(String),
    /// The connection was gone before it was looked at.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
}

/// Who is on the other side of a TLS connection, as verified in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its workload identity, if it showed a certificate with exactly one.
    pub identity: Option<SpiffeId>,
    /// Its certificates, leaf first; empty if it showed none.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Connects TLS over `stream`, to a server that the configuration's verifier accepts under `name`.
///
/// # Errors
/// If the name is none, or the handshake fails or takes longer than `timeout`.
pub async fn connect_tls(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    name: &str,
    timeout: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, TlsError> {
    let server = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
    let peer = stream.peer_addr()?;
    match tokio::time::timeout(timeout, tokio_rustls::TlsConnector::from(config).connect(server, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(TlsError::Handshake { peer, source }),
        Err(_) => Err(TlsError::Timeout(peer)),
    }
}

/// Accepts TLS with the newest configuration: [`TlsAcceptor::replace`] changes it for later connections, as when a certificate rotates.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    timeout: Duration,
}

impl TlsAcceptor {
    /// With a first configuration; a handshake may take `timeout`.
    pub fn new(config: Arc<ServerConfig>, timeout: Duration) -> Self {
        TlsAcceptor { config: Arc::new(RwLock::new(config)), timeout }
    }

    /// Uses another configuration from now on. Connections that are open stay.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Makes the handshake.
    ///
    /// # Errors
    /// If it fails, the client is refused, or it takes too long.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsServerStream, TlsError> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let address = stream.peer_addr()?;
        let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
        let inner = match tokio::time::timeout(self.timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(TlsError::Handshake { peer: address, source }),
            Err(_) => return Err(TlsError::Timeout(address)),
        };
        let certificates: Vec<_> =
            inner.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
        let identity = certificates.first().and_then(|leaf| peer_identity(leaf).ok());
        Ok(TlsServerStream { inner, peer: Peer { address, identity, certificates } })
    }
}

/// A TLS connection of a client whose certificate, if it showed one, was verified.
#[derive(Debug)]
pub struct TlsServerStream {
    inner: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Peer,
}

impl TlsServerStream {
    /// The client.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl AsyncRead for TlsServerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_pki::tls::{TlsOptions, client_config, server_config};
    use mizzen_pki::{Ca, CaLimits, UnixTime, client_verifier, server_verifier_by_name};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// One connection: what the server learnt of the client, or why there is none.
    async fn check(with_certificate: bool, dialled: &str) -> Result<Option<SpiffeId>, TlsError> {
        let now = UnixTime::now();
        let ca = Ca::self_signed(&Default::default(), now, CaLimits::default()).unwrap();
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/reviews".parse().unwrap();
        let server = ca.server_certificate(&["istiod.istio-system.svc"], Duration::ZERO, now).unwrap();
        let verifier = client_verifier(ca.roots(), vec![], false).unwrap();
        let acceptor = TlsAcceptor::new(server_config(&server, Some(verifier), &TlsOptions::default()).unwrap(), Duration::from_secs(20));
        let svid = with_certificate.then(|| ca.issue(&id, Duration::ZERO, now).unwrap());
        let client = client_config(svid.as_ref(), server_verifier_by_name(ca.roots()).unwrap(), &TlsOptions::default()).unwrap();

        let listener = crate::listen("127.0.0.1:0".parse().unwrap(), &Default::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await?;
            Ok(stream.peer().identity.clone())
        });
        let stream = crate::connect(address, &Default::default()).await.unwrap();
        let mut stream = connect_tls(stream, client, dialled, Duration::from_secs(20)).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        assert_eq!(text, "hello");
        server.await.unwrap()
    }

    #[tokio::test]
    async fn the_server_knows_who_came() {
        let peer = check(true, "istiod.istio-system.svc").await.unwrap();
        assert_eq!(peer.unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");
        assert_eq!(check(false, "istiod.istio-system.svc").await.unwrap(), None);
    }

    #[tokio::test]
    async fn another_name_is_refused() {
        assert!(matches!(check(true, "other.istio-system.svc").await, Err(TlsError::Handshake { .. })));
        assert!(matches!(check(true, "no name").await, Err(TlsError::Name(_))));
    }
}
