//! Listening sockets that somebody else opens for us, as `mizzen up` does for the ports of gateways on the host: they come over a Unix socket, at any time.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use mizzen_net::FdReceiver;
use tokio::sync::mpsc;

use crate::options::Options;

/// Longest address of a socket.
const ADDRESS: usize = 128;

/// What has come.
#[derive(Debug)]
pub(crate) enum Inherited {
    /// A socket, for this address.
    Opened(SocketAddr, TcpListener),
    /// An address without a socket: those that came for it are closed.
    Closed(SocketAddr),
}

/// Receives until the other end is gone.
///
/// # Errors
/// What the kernel says of the Unix socket.
pub(crate) fn receive(options: &mut Options) -> io::Result<mpsc::Receiver<Inherited>> {
    let (sender, receiver) = mpsc::channel(16);
    let Some(socket) = options.inherited.take() else { return Ok(receiver) };
    let other_end = FdReceiver::new(socket.try_clone()?)?;
    tokio::spawn(async move {
        loop {
            let (text, sockets) = match other_end.recv(ADDRESS).await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "no more sockets can be inherited");
                    return;
                }
            };
            let Some(address) = std::str::from_utf8(&text).ok().and_then(|t| t.trim().parse::<SocketAddr>().ok()) else {
                tracing::error!(text = %String::from_utf8_lossy(&text), "an inherited socket without an address");
                continue;
            };
            let inherited = match sockets.into_iter().next() {
                Some(socket) => Inherited::Opened(address, TcpListener::from(socket)),
                None => Inherited::Closed(address),
            };
            if sender.send(inherited).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
