//! How connections to a gateway's ports, which are open on the host, reach the gateway inside.
//!
//! Mizzen's own proxy gets the listening sockets themselves. Nobody else's does, and a socket stays in the network namespace in which it was
//! opened: for an Envoy, connections are accepted here and carried to the port on which it listens inside. It sees the router as their origin.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, Result};
use mizzen_net::FdSender;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};

use super::mesh::is_set;

/// Connections of one port at a time that are carried; a further one waits in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// How long the gateway may take to accept one.
const DIAL: Duration = Duration::from_secs(5);

/// The way in.
pub(crate) enum Entrance {
    /// By descriptors.
    Pass {
        sender: FdSender,
        /// The sockets that the proxy has got; none in the place of one that another process may have got.
        passed: BTreeMap<u16, Weak<TcpListener>>,
    },
    /// By carrying connections.
    Carry {
        carriers: BTreeMap<u16, Carrier>,
        /// Whether no more connections are taken.
        closed: watch::Sender<bool>,
    },
}

/// Carries the connections of one port; dropping it closes them.
pub(crate) struct Carrier {
    socket: Weak<TcpListener>,
    task: JoinHandle<()>,
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether it is the very same socket, and not another one that was opened for the same port later.
fn is_same(known: &Weak<TcpListener>, socket: Option<&Arc<TcpListener>>) -> bool {
    socket.is_some_and(|socket| Weak::as_ptr(known) == Arc::as_ptr(socket))
}

impl Entrance {
    /// By descriptors, and the socket over which the proxy gets them.
    pub(crate) fn pass() -> Result<(Entrance, OwnedFd)> {
        let (ours, theirs) = mizzen_net::seqpacket_pair()?;
        Ok((Entrance::Pass { sender: FdSender::new(ours)?, passed: BTreeMap::new() }, theirs))
    }

    /// By carrying connections.
    pub(crate) fn carry() -> Entrance {
        Entrance::Carry { carriers: BTreeMap::new(), closed: watch::Sender::new(false) }
    }

    /// Has the open ports lead to the gateway at `inside`, and no others. Other pods of the gateway may have the same sockets.
    ///
    /// # Errors
    /// If a socket cannot be handed over.
    pub(crate) async fn lead(
        &mut self,
        sockets: &BTreeMap<u16, Arc<TcpListener>>,
        inside: Ipv4Addr,
        ready: &watch::Receiver<bool>,
    ) -> Result<()> {
        match self {
            Entrance::Pass { sender, passed } => {
                let ready = *ready.borrow();
                let name = |port: u16| format!("0.0.0.0:{port}").into_bytes();
                // Of one that is not ready nothing is taken but what is closed: it may be about to begin with nothing.
                let is_old = |port: &u16, known: &Weak<TcpListener>| match ready {
                    true => !is_same(known, sockets.get(port)),
                    false => !sockets.contains_key(port),
                };
                let old: Vec<u16> = passed.iter().filter(|(port, known)| is_old(port, known)).map(|(port, _)| *port).collect();
                for port in old {
                    // Without a descriptor: the proxy closes what it has got.
                    sender.send(&name(port), &[]).await.context("cannot take a port from the gateway")?;
                    passed.remove(&port);
                }
                if !ready {
                    return Ok(());
                }
                for (port, socket) in sockets {
                    if passed.contains_key(port) {
                        continue;
                    }
                    sender.send(&name(*port), &[socket.as_fd()]).await.context("cannot pass a port to the gateway")?;
                    passed.insert(*port, Arc::downgrade(socket));
                }
            }
            Entrance::Carry { carriers, closed } => {
                carriers.retain(|port, carrier| is_same(&carrier.socket, sockets.get(port)));
                for (port, socket) in sockets {
                    if carriers.contains_key(port) {
                        continue;
                    }
                    let listener =
                        socket.try_clone().and_then(tokio::net::TcpListener::from_std).context("cannot serve a port of the gateway")?;
                    let inside = SocketAddr::from((inside, *port));
                    let task = tokio::spawn(accept(listener, inside, ready.clone(), closed.subscribe()));
                    carriers.insert(*port, Carrier { socket: Arc::downgrade(socket), task });
                }
            }
        }
        Ok(())
    }

    /// Those of the sockets that lead to the gateway, by their ports.
    pub(crate) fn led<'s>(&self, sockets: impl Iterator<Item = &'s Arc<TcpListener>>) -> BTreeMap<u16, Arc<TcpListener>> {
        let port_of = |socket: &Arc<TcpListener>| match self {
            Entrance::Pass { passed, .. } => passed.iter().find(|(_, known)| is_same(known, Some(socket))).map(|(port, _)| *port),
            Entrance::Carry { carriers, .. } => {
                carriers.iter().find(|(_, carrier)| is_same(&carrier.socket, Some(socket))).map(|(port, _)| *port)
            }
        };
        sockets.filter_map(|socket| Some((port_of(socket)?, socket.clone()))).collect()
    }

    /// The proxy has most likely ended; the next one needs all of the sockets, and one that has not ended no longer has them twice.
    pub(crate) fn forget(&mut self) {
        if let Entrance::Pass { passed, .. } = self {
            passed.values_mut().for_each(|known| *known = Weak::new());
        }
    }

    /// Takes no more connections; those that are carried go on. A proxy that has the sockets itself knows when it takes no more.
    pub(crate) fn close(&self) {
        if let Entrance::Carry { closed, .. } = self {
            closed.send_replace(true);
        }
    }
}

/// Accepts while the gateway is ready, until `closed`; meanwhile who comes waits in the kernel's queue.
async fn accept(socket: tokio::net::TcpListener, inside: SocketAddr, mut ready: watch::Receiver<bool>, mut closed: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut carried = JoinSet::new();
    loop {
        while carried.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = is_set(&mut closed) => break,
            next = next(&socket, &room, &mut ready) => match next {
                Some((stream, permit)) => drop(carried.spawn(async move {
                    carry(stream, inside).await;
                    drop(permit);
                })),
                None => break,
            },
        }
    }
    drop(socket);
    while carried.join_next().await.is_some() {}
}

/// The next connection that comes while the gateway is ready and there is room for it; `None` if it never will be ready again. Other pods accept from the same
/// socket: who is not ready leaves a connection to them.
async fn next(
    socket: &tokio::net::TcpListener,
    room: &Arc<Semaphore>,
    ready: &mut watch::Receiver<bool>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.ok()?;
    loop {
        if ready.wait_for(|ready| *ready).await.is_err() {
            return None;
        }
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => return Some((stream, permit)),
                // No descriptors: those in use will end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            changed = ready.changed() => changed.ok()?,
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
        let mut sockets = BTreeMap::from([(port, Arc::new(listener))]);
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

    /// What a proxy is told of a port: `+` with a socket, `-` without one.
    #[tokio::test]
    async fn sockets_are_passed_and_taken_away() {
        let open = || Arc::new(mizzen_net::listen("127.0.0.1:0".parse().unwrap(), &mizzen_net::ListenOptions::default()).unwrap());
        let (mut entrance, theirs) = Entrance::pass().unwrap();
        let proxy = mizzen_net::FdReceiver::new(theirs).unwrap();
        let ready = watch::Sender::new(false);
        let mut sockets = BTreeMap::from([(80, open()), (443, open())]);
        let told = async |entrance: &mut Entrance, sockets: &BTreeMap<u16, Arc<TcpListener>>, expected: &[&str]| {
            entrance.lead(sockets, Ipv4Addr::LOCALHOST, &ready.subscribe()).await.unwrap();
            for line in expected {
                let (text, sockets) = proxy.recv(64).await.unwrap().unwrap();
                assert_eq!(format!("{}{}", if sockets.is_empty() { '-' } else { '+' }, String::from_utf8(text).unwrap()), *line);
            }
        };
        told(&mut entrance, &sockets, &[]).await;
        ready.send_replace(true);
        told(&mut entrance, &sockets, &["+0.0.0.0:80", "+0.0.0.0:443"]).await;
        told(&mut entrance, &sockets, &[]).await;
        sockets.insert(80, open());
        sockets.remove(&443);
        told(&mut entrance, &sockets, &["-0.0.0.0:80", "-0.0.0.0:443", "+0.0.0.0:80"]).await;
        entrance.forget();
        told(&mut entrance, &sockets, &["-0.0.0.0:80", "+0.0.0.0:80"]).await;
    }

    /// Two pods of one gateway have one socket: who is not ready, or takes no more, leaves connections to the other.
    #[tokio::test]
    async fn pods_of_one_gateway_share_a_socket() {
        let old = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = old.local_addr().unwrap().port();
        let new = tokio::net::TcpListener::bind(("127.0.0.3", port)).await.unwrap();
        let listener = mizzen_net::listen("127.0.0.1:0".parse().unwrap(), &mizzen_net::ListenOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = BTreeMap::from([(port, Arc::new(listener))]);
        let (old_ready, new_ready) = (watch::Sender::new(true), watch::Sender::new(false));
        let (mut old_entrance, mut new_entrance) = (Entrance::carry(), Entrance::carry());
        old_entrance.lead(&sockets, "127.0.0.2".parse().unwrap(), &old_ready.subscribe()).await.unwrap();
        new_entrance.lead(&sockets, "127.0.0.3".parse().unwrap(), &new_ready.subscribe()).await.unwrap();
        let mut first = TcpStream::connect(address).await.unwrap();
        let (mut first_end, _) = old.accept().await.unwrap();
        new_ready.send_replace(true);
        old_entrance.close();
        for _ in 0..3 {
            let _later = TcpStream::connect(address).await.unwrap();
            new.accept().await.unwrap();
        }
        first.write_all(b"x").await.unwrap();
        assert_eq!(first_end.read(&mut [0]).await.unwrap(), 1, "what is carried goes on");
        // The socket is another one's by now, on another port: the carrier of the old one ends.
        let other = mizzen_net::listen("127.0.0.1:0".parse().unwrap(), &mizzen_net::ListenOptions::default()).unwrap();
        let moved = other.local_addr().unwrap();
        sockets.insert(port, Arc::new(other));
        new_entrance.lead(&sockets, "127.0.0.3".parse().unwrap(), &new_ready.subscribe()).await.unwrap();
        let _client = TcpStream::connect(moved).await.unwrap();
        new.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_told_apart_from_one_that_is_silent() {
        let gone = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap();
        let listener = mizzen_net::listen("127.0.0.1:0".parse().unwrap(), &mizzen_net::ListenOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let ready = watch::Sender::new(true);
        let mut entrance = Entrance::carry();
        entrance
            .lead(&BTreeMap::from([(gone.port(), Arc::new(listener))]), "127.0.0.2".parse().unwrap(), &ready.subscribe())
            .await
            .unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
