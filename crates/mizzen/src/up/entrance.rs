//! How connections to the Gateway's ports, which are open on the host, reach the gateway inside.
//!
//! Mizzen's own proxy gets the listening sockets themselves. Nobody else's does, and a socket stays in the network namespace in which it was
//! opened: for an Envoy, connections are accepted here and carried to the port on which it listens inside. It sees the router as their origin.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use mizzen_net::FdSender;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
};

/// Connections of one port at a time that are carried; a further one waits in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// How long the gateway may take to accept one.
const DIAL: Duration = Duration::from_secs(5);

/// The way in.
pub(crate) enum Entrance {
    /// By descriptors.
    Pass {
        sender: FdSender,
        /// The ports whose sockets the proxy that runs now has got.
        passed: BTreeSet<u16>,
    },
    /// By carrying connections; dropping a port's task closes its connections.
    Carry(BTreeMap<u16, Carrier>),
}

/// Carries the connections of one port until it is dropped.
pub(crate) struct Carrier(JoinHandle<()>);

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Entrance {
    /// By descriptors, and the socket over which the proxy gets them.
    pub(crate) fn pass() -> Result<(Entrance, OwnedFd)> {
        let (ours, theirs) = mizzen_net::seqpacket_pair()?;
        Ok((Entrance::Pass { sender: FdSender::new(ours)?, passed: BTreeSet::new() }, theirs))
    }

    /// By carrying connections.
    pub(crate) fn carry() -> Entrance {
        Entrance::Carry(BTreeMap::new())
    }

    /// Has the open ports lead to the gateway at `inside`, and no others.
    ///
    /// # Errors
    /// If a socket cannot be handed over.
    pub(crate) async fn lead(
        &mut self,
        sockets: &BTreeMap<u16, TcpListener>,
        inside: Ipv4Addr,
        ready: &watch::Receiver<bool>,
    ) -> Result<()> {
        match self {
            Entrance::Pass { sender, passed } => {
                passed.retain(|port| sockets.contains_key(port));
                if !*ready.borrow() {
                    return Ok(());
                }
                for (port, socket) in sockets.iter().filter(|(port, _)| passed.insert(**port)) {
                    let name = format!("0.0.0.0:{port}");
                    sender.send(name.as_bytes(), &[socket.as_fd()]).await.context("cannot pass a port to the gateway")?;
                }
            }
            Entrance::Carry(carriers) => {
                carriers.retain(|port, _| sockets.contains_key(port));
                for (port, socket) in sockets.iter().filter(|(port, _)| !carriers.contains_key(port)).collect::<Vec<_>>() {
                    let socket =
                        socket.try_clone().and_then(tokio::net::TcpListener::from_std).context("cannot serve a port of the gateway")?;
                    let task = tokio::spawn(accept(socket, SocketAddr::from((inside, *port)), ready.clone()));
                    carriers.insert(*port, Carrier(task));
                }
            }
        }
        Ok(())
    }

    /// The proxy has most likely ended; the next one needs all of the sockets.
    pub(crate) fn forget(&mut self) {
        if let Entrance::Pass { passed, .. } = self {
            passed.clear();
        }
    }
}

/// Accepts while the gateway is ready; meanwhile who comes waits in the kernel's queue.
async fn accept(socket: tokio::net::TcpListener, inside: SocketAddr, mut ready: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut carried = JoinSet::new();
    loop {
        while carried.try_join_next().is_some() {}
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        if ready.wait_for(|ready| *ready).await.is_err() {
            return;
        }
        match socket.accept().await {
            Ok((stream, _)) => {
                carried.spawn(async move {
                    carry(stream, inside).await;
                    drop(permit);
                });
            }
            // No descriptors: those in use will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn carry(mut outside: TcpStream, inside: SocketAddr) {
    let Ok(Ok(mut inside)) = tokio::time::timeout(DIAL, TcpStream::connect(inside)).await else {
        let _ = outside.set_zero_linger();
        return;
    };
    let _ = (outside.set_nodelay(true), inside.set_nodelay(true));
    if tokio::io::copy_bidirectional(&mut outside, &mut inside).await.is_err() {
        // Has the close that follows say that something went wrong.
        let _ = (outside.set_zero_linger(), inside.set_zero_linger());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Whoever comes before the gateway is ready waits; a port that is gone takes its connections along.
    #[tokio::test]
    async fn connections_are_carried() {
        let gateway = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = gateway.local_addr().unwrap().port();
        let listener = mizzen_net::listen("127.0.0.1:0".parse().unwrap(), &mizzen_net::ListenOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = BTreeMap::from([(port, listener)]);
        let ready = watch::Sender::new(false);
        let mut entrance = Entrance::carry();
        entrance.lead(&sockets, "127.0.0.2".parse().unwrap(), &ready.subscribe()).await.unwrap();

        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        ready.send_replace(true);
        let (mut server, _) = gateway.accept().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((text.as_str(), answer.as_str()), ("ping", "pong"), "each direction ends by itself");

        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = gateway.accept().await.unwrap();
        sockets.clear();
        entrance.lead(&sockets, "127.0.0.2".parse().unwrap(), &ready.subscribe()).await.unwrap();
        assert_eq!((server.read(&mut [0]).await.unwrap_or(0), client.read(&mut [0]).await.unwrap_or(0)), (0, 0), "both ends are closed");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_told_apart_from_one_that_is_silent() {
        let gone = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap();
        let listener = mizzen_net::listen("127.0.0.1:0".parse().unwrap(), &mizzen_net::ListenOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let ready = watch::Sender::new(true);
        let mut entrance = Entrance::carry();
        entrance.lead(&BTreeMap::from([(gone.port(), listener)]), "127.0.0.2".parse().unwrap(), &ready.subscribe()).await.unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
