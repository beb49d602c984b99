//! The TLS port: who comes in, and with which certificate we answer.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use mizzen_net::{TlsAcceptor, TlsServerStream};
use mizzen_pki::{
    Ca, PkiError, SanMatch, UnixTime, client_verifier, facts, renewal_delay,
    tls::{TlsOptions, server_config},
};
use mizzen_types::{SpiffeId, TrustDomain};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tonic::transport::server::Connected;

use crate::{ca::Authority, metrics::Metrics};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time; further connections wait.
const HANDSHAKES: usize = 256;
/// Of these, from one address: a client that never says a word must not keep all others waiting.
const HANDSHAKES_EACH: usize = 32;
/// How long to wait when the kernel gives no connection, as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is on the other side, as TLS has verified.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    /// Of our trust domain, if there is one.
    pub(crate) identity: Option<SpiffeId>,
    /// Until when the certificate is good.
    pub(crate) until: Option<UnixTime>,
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Accepted {
    stream: TlsServerStream,
    caller: Caller,
}

impl Accepted {
    fn new(stream: TlsServerStream, trust_domain: &TrustDomain) -> Self {
        let peer = stream.peer();
        let leaf = peer.certificates.first().and_then(|leaf| facts(leaf).ok());
        let identity = peer.identity.clone().filter(|id| id.trust_domain == *trust_domain);
        let caller = Caller { address: peer.address, identity, until: leaf.map(|l| l.validity.not_after) };
        Accepted { stream, caller }
    }
}

impl Accepted {
    /// Who is on the other side.
    pub(crate) fn address(&self) -> SocketAddr {
        self.caller.address
    }
}

impl Connected for Accepted {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Who is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Proxies, by gRPC. A client may come without a certificate, for it may be about to ask for its first; but not with a wrong one.
    Proxies,
    /// The API server, which shows no certificate.
    ApiServer,
}

/// The server's own certificate, and the acceptor that shows it.
pub(crate) struct Identity {
    ca: Authority,
    trust_domain: TrustDomain,
    names: Vec<String>,
    serves: Serves,
    /// Until when the certificate in use is good.
    validity: mizzen_pki::Validity,
    pub(crate) acceptor: TlsAcceptor,
}

impl Identity {
    pub(crate) fn new(ca: Authority, trust_domain: TrustDomain, names: Vec<String>, serves: Serves) -> Result<Self, PkiError> {
        let now = UnixTime::now();
        let current = ca.borrow().clone();
        let svid = current.server_certificate(&names, Duration::ZERO, now)?;
        let acceptor = TlsAcceptor::new(config(&current, &trust_domain, &svid, serves)?, HANDSHAKE);
        Ok(Identity { validity: svid.validity(), ca, trust_domain, names, serves, acceptor })
    }

    /// Renews the certificate in time, and when there is another CA, for as long as the future is polled.
    pub(crate) async fn rotate(mut self) {
        loop {
            let due = tokio::time::sleep(renewal_delay(&self.validity, UnixTime::now(), 0.5));
            tokio::select! {
                () = due => {}
                Ok(()) = self.ca.changed() => {}
            }
            match self.renew() {
                Ok(()) => tracing::debug!("the server's certificate is renewed"),
                Err(error) => {
                    tracing::error!(%error, "the server's certificate is not renewed");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn renew(&mut self) -> Result<(), PkiError> {
        let ca = self.ca.borrow_and_update().clone();
        let svid = ca.server_certificate(&self.names, Duration::ZERO, UnixTime::now())?;
        self.acceptor.replace(config(&ca, &self.trust_domain, &svid, self.serves)?);
        self.validity = svid.validity();
        Ok(())
    }
}

fn config(ca: &Ca, trust_domain: &TrustDomain, svid: &mizzen_pki::Svid, serves: Serves) -> Result<Arc<ServerConfig>, PkiError> {
    if serves == Serves::ApiServer {
        let options = TlsOptions { alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()], ..TlsOptions::default() };
        return server_config(svid, None, &options);
    }
    let names = vec![SanMatch::uri_prefix(format!("spiffe://{trust_domain}/"))];
    // A resumed session would keep the identity of a certificate that has expired since.
    let options = TlsOptions { alpn: vec![b"h2".to_vec()], resumption: false, ..TlsOptions::default() };
    server_config(svid, Some(client_verifier(ca.roots(), names, false)?), &options)
}

/// Handshakes in progress, by the client's address.
#[derive(Debug, Default)]
struct Busy(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct Turn {
    all: Arc<Busy>,
    of: IpAddr,
}

impl Busy {
    /// None: this address has as many as it may.
    fn enter(self: &Arc<Self>, of: IpAddr) -> Option<Turn> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(of).or_default();
        if *count >= HANDSHAKES_EACH {
            return None;
        }
        *count += 1;
        Some(Turn { all: self.clone(), of })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.of);
            }
        }
    }
}

/// Accepts connections until the receiver is gone.
pub(crate) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    trust_domain: TrustDomain,
    metrics: Arc<Metrics>,
    out: mpsc::Sender<io::Result<Accepted>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let busy = Arc::new(Busy::default());
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (stream, from) = tokio::select! {
            () = out.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let Some(turn) = busy.enter(from.ip().to_canonical()) else {
            metrics.handshake_failures.inc();
            continue;
        };
        let (acceptor, trust_domain, metrics, out) = (acceptor.clone(), trust_domain.clone(), metrics.clone(), out.clone());
        tokio::spawn(async move {
            let _both = (permit, turn);
            let _ = stream.set_nodelay(true);
            match acceptor.accept(stream).await {
                Ok(stream) => drop(out.send(Ok(Accepted::new(stream, &trust_domain))).await),
                Err(error) => {
                    metrics.handshake_failures.inc();
                    tracing::info!(%error, "no handshake");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share() {
        let busy = Arc::new(Busy::default());
        let (a, b) = ("10.244.0.1".parse().unwrap(), "10.244.0.2".parse().unwrap());
        let mut turns: Vec<Turn> = std::iter::from_fn(|| busy.enter(a)).take(HANDSHAKES).collect();
        assert_eq!(turns.len(), HANDSHAKES_EACH);
        assert!(busy.enter(b).is_some(), "others are not kept waiting");
        turns.pop();
        turns.extend(busy.enter(a));
        assert_eq!(turns.len(), HANDSHAKES_EACH);
        turns.clear();
        assert!(busy.0.lock().unwrap().is_empty());
    }
}
