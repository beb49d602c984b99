//! Outgoing connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// How to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The mark on the socket. Needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// The address to come from; the kernel chooses the port.
    pub source: Option<IpAddr>,
    /// Whether that may be an address of others (IP_TRANSPARENT). Needs CAP_NET_ADMIN.
    pub transparent: bool,
    /// How long to try.
    pub timeout: Duration,
    /// After how long an idle connection is probed.
    pub keepalive: Option<Duration>,
}

impl Default for ConnectOptions {
    /// No mark, any source, 10 s, no probes.
    fn default() -> Self {
        ConnectOptions { mark: None, source: None, transparent: false, timeout: Duration::from_secs(10), keepalive: None }
    }
}

/// Connects, without Nagle's delay.
///
/// # Errors
/// What the kernel says, or `TimedOut`.
pub async fn connect(address: SocketAddr, options: &ConnectOptions) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    prepare(&socket, options)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(time) = options.keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time))?;
    }
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
    match tokio::time::timeout(options.timeout, connecting).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address} in {:?}", options.timeout))),
    }
}

/// A UDP socket that talks to one address only.
///
/// # Errors
/// What the kernel says.
pub async fn connect_udp(address: SocketAddr, options: &ConnectOptions) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    prepare(&socket, options)?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(address).await?;
    Ok(socket)
}

fn prepare(socket: &Socket, options: &ConnectOptions) -> io::Result<()> {
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    let Some(source) = options.source else { return Ok(()) };
    if !options.transparent {
        // The port is chosen at connect, when the kernel knows the destination: many more connections fit.
        let _ = setsockopt(socket, IpBindAddressNoPort, &true);
        return socket.bind(&SocketAddr::new(source, 0).into());
    }
    let bind = || {
        if source.is_ipv6() {
            socket.set_ip_transparent_v6(true)?
        } else {
            socket.set_ip_transparent_v4(true)?
        }
        // A connection of the address's owner to the same destination may have the same port, and a packet that belongs to either would belong to both. The
        // kernel does not see that; but it gives one half of the ports to those who connect, and the other half to those who bind, as long as it can. So
        // the port is chosen here and not at connect.
        socket.bind(&SocketAddr::new(source, 0).into())
    };
    bind().map_err(|error: io::Error| io::Error::new(error.kind(), format!("come from {source}: {error}{}", need(&error))))
}

/// What those lack who may not be transparent.
pub(crate) fn need(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { ": a transparent socket needs the capability NET_ADMIN" } else { "" }
}
