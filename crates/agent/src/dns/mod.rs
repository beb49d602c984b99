//! The workload's DNS server: the mesh's names from the control plane, all others from upstream.

mod answer;
mod forward;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::metrics::Metrics;
use crate::{DnsOptions, NameTable};

pub(crate) use forward::Upstream;

/// Questions in work at the same time, over all transports. More are dropped (UDP) or wait (TCP).
const QUESTIONS: usize = 1024;
/// Open TCP connections. More wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// What fits into a response by UDP without EDNS, and what we put into one at most with it: no fragments on a usual link.
const UDP_MIN: u16 = 512;
const UDP_MAX: u16 = 1232;

/// The bound sockets; nothing is answered before [`Server::run`].
pub(crate) struct Server {
    /// Of each address one for each transport; there is at least one address.
    sockets: Vec<(UdpSocket, TcpListener)>,
    work: Arc<Work>,
}

/// What every question needs.
struct Work {
    names: watch::Receiver<NameTable>,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    questions: Arc<Semaphore>,
}

impl Server {
    /// Binds. With port 0 both transports get the same free port.
    pub(crate) fn bind(
        options: &DnsOptions,
        names: watch::Receiver<NameTable>,
        upstream: Upstream,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for listen in [Some(options.listen), options.also].into_iter().flatten() {
            let (udp, tcp) = both(listen)?;
            sockets.push((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?));
        }
        let questions = Arc::new(Semaphore::new(QUESTIONS));
        Ok(Server { sockets, work: Arc::new(Work { names, upstream, metrics, questions }) })
    }

    /// Where it listens, at first.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.sockets.first().map_or_else(|| Err(io::ErrorKind::NotConnected.into()), |(udp, _)| udp.local_addr())
    }

    /// Answers, for ever.
    pub(crate) async fn run(self) {
        let mut all = JoinSet::new();
        for (of_udp, of_tcp) in self.sockets {
            all.spawn(udp(Arc::new(of_udp), self.work.clone()));
            all.spawn(tcp(of_tcp, self.work.clone()));
        }
        all.join_all().await;
    }
}

/// UDP and TCP on one port. A free port of the one may be taken in the other: with port 0 a few are tried.
fn both(listen: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let mut attempts = if listen.port() == 0 { 32 } else { 1 };
    loop {
        let udp = mizzen_net::bind_udp(listen, None)?;
        let address = SocketAddr::new(listen.ip(), udp.local_addr()?.port());
        attempts -= 1;
        match mizzen_net::listen(address, &mizzen_net::ListenOptions::default()) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if attempts == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

async fn udp(socket: Arc<UdpSocket>, work: Arc<Work>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP answer to an earlier response of ours shows up here; it concerns no question.
                debug!(%error, "DNS by UDP");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Ok(permit) = work.questions.clone().try_acquire_owned() else { continue };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, work) = (socket.clone(), work.clone());
        tokio::spawn(async move {
            if let Some(response) = work.respond(&question, true).await {
                let _ = socket.send_to(&response, from).await;
            }
            drop(permit);
        });
    }
}

async fn tcp(listener: TcpListener, work: Arc<Work>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let work = work.clone();
                tokio::spawn(async move {
                    let _ = conversation(stream, &work).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "DNS by TCP");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Question and answer in turn, until the client is silent or leaves.
async fn conversation(mut stream: TcpStream, work: &Work) -> io::Result<()> {
    loop {
        let question = tokio::time::timeout(IDLE, read_message(&mut stream)).await??;
        let Ok(_permit) = work.questions.acquire().await else { return Ok(()) };
        let Some(response) = work.respond(&question, false).await else { return Ok(()) };
        tokio::time::timeout(IDLE, write_message(&mut stream, &response)).await??;
    }
}

impl Work {
    /// The response to one message; `None` if it deserves none.
    async fn respond(&self, message: &[u8], udp: bool) -> Option<Vec<u8>> {
        self.metrics.dns_requests.inc();
        let decision = answer::decide(message, &self.names.borrow(), udp);
        let (question, limit, alias) = match decision {
            answer::Decision::Respond(response) => return Some(response),
            answer::Decision::Drop => return None,
            answer::Decision::Forward { question, limit, alias } => (question, limit, alias),
        };
        self.metrics.dns_upstream_requests.inc();
        let asked = match &alias {
            Some(target) => answer::about(&question, target)?,
            None => message.to_vec(),
        };
        match self.upstream.ask(&asked).await {
            Ok(response) => {
                let response = match &alias {
                    Some(target) => answer::under(&question, target, &response),
                    None => Some(response),
                };
                response.map(|response| answer::fit(response, &question, limit)).or_else(|| answer::failure(&question))
            }
            Err(error) => {
                self.metrics.dns_upstream_failures.inc();
                self.metrics.dns_failures.inc();
                debug!(%error, "DNS upstream");
                answer::failure(&question)
            }
        }
    }
}

/// A message with its length before it, as TCP carries it.
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
