//! The client of a gateway, and the server behind it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::Request;
use mizzen_net::{ConnectOptions, ListenOptions, TlsClientStream, connect, connect_tls, listen};
use mizzen_pki::{
    Svid, TrustBundle, restricted_provider, server_verifier_by_name,
    tls::{TlsOptions, Version, client_config},
};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, crypto::CryptoProvider};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::config::{HOST, host};

/// What the server answers to everything.
const ANSWER: &str = "hello\n";
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection with one request may take.
const VISIT: Duration = Duration::from_secs(15);
/// How much longer than it should a load may take.
const LATE: Duration = Duration::from_secs(20);
/// Clients that make handshakes at the same time.
const CLIENTS: usize = 8;
/// Connections over HTTP/1.1 that are kept; over HTTP/2 as many requests at the same time, of which each connection carries [`SHARE`].
const KEPT: usize = 100;
const SHARE: usize = 10;

type TlsStream = TlsClientStream<TcpStream>;

/// Starts the server: plain HTTP/1.1, connections are kept. It ends with the set.
pub(super) fn serve(tasks: &mut JoinSet<()>) -> Result<u16> {
    let listener = TcpListener::from_std(listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default())?)?;
    let port = listener.local_addr()?.port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            // A gateway that has ended takes its connections with it.
            connections.spawn(async move { drop(answer(stream).await) });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(port)
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => head.extend_from_slice(&buffer[..read]),
        }
        // No request has a body, and none comes before the last one's answer.
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(whole.as_bytes()).await?;
        }
    }
}

/// Ends a load: after so many, or when its time is over.
#[derive(Debug)]
pub(super) struct Bound {
    taken: AtomicU32,
    most: u32,
    time: Duration,
    begun: Instant,
}

impl Bound {
    pub(super) fn new(most: u32, time: Duration) -> Arc<Bound> {
        Arc::new(Bound { taken: AtomicU32::new(0), most, time, begun: Instant::now() })
    }

    /// The number of the next one.
    fn take(&self) -> Option<u32> {
        if self.begun.elapsed() >= self.time {
            return None;
        }
        let number = self.taken.fetch_add(1, Relaxed);
        (number < self.most).then_some(number)
    }

    /// How long whoever uses it may take.
    fn late(&self) -> Duration {
        self.time + LATE
    }
}

/// What a load has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Handshakes or requests.
    pub(super) count: u32,
    /// Handshakes that resumed a session.
    pub(super) resumed: u32,
}

/// How a client speaks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    /// It shows a certificate.
    pub(super) mutual: bool,
    pub(super) resumption: bool,
    /// HTTP/2 in place of HTTP/1.1.
    pub(super) h2: bool,
}

/// Who asks, and whom it believes.
pub(super) struct Client {
    roots: TrustBundle,
    shown: Svid,
    provider: Arc<CryptoProvider>,
}

impl Client {
    /// It offers TLS 1.3 with one curve and one cipher suite: what a handshake costs does not depend on what each contender would rather have.
    pub(super) fn new(roots: TrustBundle, shown: Svid) -> Result<Client> {
        let provider = restricted_provider(&[] as &[&str], &["X25519"]).context("X25519")?;
        let mut provider = CryptoProvider::clone(&provider);
        provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        Ok(Client { roots, shown, provider: Arc::new(provider) })
    }

    /// A configuration with sessions of its own.
    pub(super) fn tls(&self, manner: Manner) -> Result<Arc<ClientConfig>> {
        let alpn = if manner.h2 { "h2" } else { "http/1.1" };
        let options = TlsOptions {
            provider: self.provider.clone(),
            alpn: vec![alpn.as_bytes().to_vec()],
            min: Version::Tls13,
            max: Version::Tls13,
            resumption: manner.resumption,
            ..TlsOptions::default()
        };
        Ok(client_config(manner.mutual.then_some(&self.shown), server_verifier_by_name(&self.roots)?, &options)?)
    }

    /// Clients that make handshakes, each with sessions of its own. Those that resume one need one of their own: a ticket is good for once.
    pub(super) fn many(&self, manner: Manner) -> Result<Vec<Arc<ClientConfig>>> {
        (0..CLIENTS).map(|_| self.tls(manner)).collect()
    }
}

async fn dial(config: Arc<ClientConfig>, address: SocketAddr, name: &str) -> Result<TlsStream> {
    let stream = connect(address, &ConnectOptions::default()).await?;
    Ok(connect_tls(stream, config, name, HANDSHAKE).await?)
}

/// One connection with one request; whether it resumed a session.
pub(super) async fn visit(config: Arc<ClientConfig>, address: SocketAddr, name: &str) -> Result<bool> {
    let whole = async {
        let mut stream = dial(config, address, name).await?;
        ask(&mut stream, name).await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        // The answer is there: how the connection ends is nobody's concern.
        let _ = stream.shutdown().await;
        Ok(resumed)
    };
    tokio::time::timeout(VISIT, whole).await.context("no answer in time")?
}

async fn ask(stream: &mut TlsStream, name: &str) -> Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {name}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n").as_bytes()).await?;
    stream.flush().await?;
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_whole(&seen)? {
        match stream.read(&mut buffer).await? {
            0 => bail!("closed after {}", String::from_utf8_lossy(&seen)),
            read => seen.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(())
}

/// Whether an answer of HTTP/1.1 is there as a whole.
fn is_whole(seen: &[u8]) -> Result<bool> {
    let start = b"HTTP/1.1 200 ";
    let known = seen.len().min(start.len());
    ensure!(seen[..known] == start[..known], "answered {}", String::from_utf8_lossy(seen));
    Ok(seen.ends_with(format!("\r\n\r\n{ANSWER}").as_bytes()))
}

/// Makes handshakes with a listener of one host, as many at the same time as there are configurations.
pub(super) async fn handshakes(configs: &[Arc<ClientConfig>], address: SocketAddr, bound: &Arc<Bound>) -> Result<Done> {
    visits(configs, address, bound, |_| HOST.to_owned()).await
}

/// Makes one with each host of many.
pub(super) async fn each_host(configs: &[Arc<ClientConfig>], address: SocketAddr, bound: &Arc<Bound>) -> Result<Done> {
    visits(configs, address, bound, host).await
}

async fn visits(configs: &[Arc<ClientConfig>], address: SocketAddr, bound: &Arc<Bound>, name: fn(u32) -> String) -> Result<Done> {
    let mut tasks = JoinSet::new();
    for config in configs {
        let (config, bound) = (config.clone(), bound.clone());
        tasks.spawn(async move {
            let mut done = Done::default();
            while let Some(number) = bound.take() {
                let name = name(number);
                done.resumed += u32::from(visit(config.clone(), address, &name).await.with_context(|| name.clone())?);
                done.count += 1;
            }
            Ok::<_, anyhow::Error>(done)
        });
    }
    let all = async {
        let mut done = Done::default();
        // One that has failed makes all of it worthless.
        while let Some(one) = tasks.join_next().await {
            let one = one??;
            done.count += one.count;
            done.resumed += one.resumed;
        }
        Ok(done)
    };
    tokio::time::timeout(bound.late(), all).await.context("the handshakes do not end")?
}

/// What carries requests one after the other.
enum Kept {
    Http1(Box<TlsStream>),
    Http2(SendRequest<Bytes>),
}

impl Kept {
    async fn ask(&mut self) -> Result<()> {
        let sender = match self {
            Kept::Http1(stream) => return ask(stream, HOST).await,
            Kept::Http2(sender) => sender,
        };
        let mut sender = sender.clone().ready().await?;
        let request = Request::get(format!("https://{HOST}/")).header("user-agent", "bench").header("accept", "*/*").body(())?;
        let response = sender.send_request(request, true)?.0.await?;
        ensure!(response.status().is_success(), "answered {}", response.status());
        let (mut body, mut seen) = (response.into_body(), Vec::new());
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            seen.extend_from_slice(&data);
        }
        ensure!(seen == ANSWER.as_bytes(), "answered {}", String::from_utf8_lossy(&seen));
        Ok(())
    }
}

/// Connections that are kept while requests are counted. They close with this.
pub(super) struct Connections {
    kept: Vec<Kept>,
    /// Move the bytes of those over HTTP/2.
    drivers: JoinSet<()>,
}

impl Connections {
    /// Opens all of them.
    pub(super) async fn open(client: &Client, address: SocketAddr, h2: bool) -> Result<Connections> {
        let config = client.tls(Manner { h2, ..Manner::default() })?;
        let mut all = Connections { kept: Vec::with_capacity(KEPT), drivers: JoinSet::new() };
        while all.kept.len() < KEPT {
            let stream = dial(config.clone(), address, HOST).await?;
            if !h2 {
                all.kept.push(Kept::Http1(Box::new(stream)));
                continue;
            }
            ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the gateway does not speak HTTP/2");
            let (sender, connection) = client::Builder::new().handshake::<_, Bytes>(stream).await?;
            // How it ends is what its requests say.
            all.drivers.spawn(async move { drop(connection.await) });
            all.kept.extend((0..SHARE).map(|_| Kept::Http2(sender.clone())));
        }
        Ok(all)
    }

    /// Asks over all of them at the same time.
    pub(super) async fn load(&mut self, bound: &Arc<Bound>) -> Result<Done> {
        let mut tasks = JoinSet::new();
        for mut one in self.kept.drain(..) {
            let bound = bound.clone();
            tasks.spawn(async move {
                let mut count = 0;
                while bound.take().is_some() {
                    one.ask().await?;
                    count += 1;
                }
                Ok::<_, anyhow::Error>((count, one))
            });
        }
        let all = async {
            let mut done = Done::default();
            while let Some(one) = tasks.join_next().await {
                let (count, one) = one??;
                done.count += count;
                self.kept.push(one);
            }
            Ok(done)
        };
        tokio::time::timeout(bound.late(), all).await.context("the requests do not end")?
    }
}

#[cfg(test)]
mod tests {
    use mizzen_testkit::Authority;

    use super::*;

    #[test]
    fn loads_are_bounded() {
        let bound = Bound::new(2, Duration::from_secs(3600));
        assert_eq!([bound.take(), bound.take(), bound.take(), bound.take()], [Some(0), Some(1), None, None]);
        assert_eq!(Bound::new(2, Duration::ZERO).take(), None);
    }

    #[test]
    fn answers() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n".as_bytes();
        for (seen, expected) in [(whole, Some(true)), (&whole[..20], Some(false)), (&whole[..4], Some(false)), (b"", Some(false))] {
            assert_eq!(is_whole(seen).ok(), expected);
        }
        assert!(is_whole(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
    }

    #[test]
    fn one_curve_and_one_suite() {
        let authority = Authority::new("edge");
        let shown = authority.issue(&["client.example.com"]);
        let shown = Svid::from_pem(shown.certificate.as_bytes(), &shown.key).unwrap();
        let client = Client::new(TrustBundle::from_pem(authority.root.as_bytes()).unwrap(), shown).unwrap();
        assert_eq!((client.provider.kx_groups.len(), client.provider.cipher_suites.len()), (1, 1));
        for (manner, alpn) in [(Manner::default(), "http/1.1"), (Manner { h2: true, mutual: true, resumption: true }, "h2")] {
            let config = client.tls(manner).unwrap();
            assert_eq!(config.alpn_protocols, [alpn.as_bytes()]);
            assert_eq!(config.client_auth_cert_resolver.has_certs(), manner.mutual);
        }
    }
}
