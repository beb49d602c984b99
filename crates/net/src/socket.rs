//! Listening sockets, and what the kernel knows about accepted ones.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::connect::need;

/// How to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Several sockets share the address, and the kernel spreads connections over them.
    pub reuse_port: bool,
    /// How many connections may wait to be accepted.
    pub backlog: i32,
    /// The mark on the socket and on all that it accepts.
    pub mark: Option<u32>,
    /// Whether an IPv6 socket takes IPv4 connections too.
    pub dual_stack: bool,
    /// Whether the address need not be one of this host (IP_FREEBIND).
    pub freebind: bool,
    /// Whether connections to any address are taken that are routed here (IP_TRANSPARENT). Needs CAP_NET_ADMIN.
    pub transparent: bool,
}

impl Default for ListenOptions {
    /// An address of this host for one socket alone, 4096 waiting, no mark, one family.
    fn default() -> Self {
        ListenOptions { reuse_port: false, backlog: 4096, mark: None, dual_stack: false, freebind: false, transparent: false }
    }
}

/// A listening TCP socket: non-blocking, closed on exec, its address reusable while old connections linger.
///
/// # Errors
/// What the kernel says, with the address.
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let make = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.reuse_port)?;
        if address.is_ipv6() {
            socket.set_only_v6(!options.dual_stack)?;
        }
        if let Some(mark) = options.mark {
            socket.set_mark(mark)?;
        }
        if options.freebind {
            if address.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
        }
        if options.transparent {
            let set = if address.is_ipv6() { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) };
            set.map_err(|error| io::Error::new(error.kind(), format!("{error}{}", need(&error))))?;
        }
        socket.bind(&address.into())?;
        socket.listen(options.backlog)?;
        Ok(socket.into())
    };
    make().map_err(|e: io::Error| io::Error::new(e.kind(), format!("listen on {address}: {e}")))
}

/// The address at which all addresses of this host are listened on, by a socket with [`ListenOptions::dual_stack`]: `::` where there is IPv6, else 0.0.0.0.
pub fn any_address() -> IpAddr {
    let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    match listen(both, &ListenOptions { dual_stack: true, ..ListenOptions::default() }) {
        Ok(_) => both.ip(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// A bound UDP socket: non-blocking, closed on exec.
///
/// # Errors
/// What the kernel says, with the address.
pub fn bind_udp(address: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let make = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    make().map_err(|e: io::Error| io::Error::new(e.kind(), format!("bind {address}: {e}")))
}

/// Where a redirected connection was going; `None` if it came directly.
pub fn original_dst(stream: &impl AsFd) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let local = socket.local_addr().ok()?.as_socket()?;
    // An IPv4 connection on an IPv6 socket is known to the IPv4 table only.
    let v4 = local.ip().to_canonical().is_ipv4();
    let original = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = original.ok()?.as_socket()?;
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    // conntrack knows connections that nobody redirected, too; their destination is the socket's own address.
    Some(canonical(original)).filter(|o| *o != canonical(local))
}

/// Marks a socket's packets; the capture leaves those marked [`PROXY_MARK`](mizzen_types::ports::PROXY_MARK) alone. Needs CAP_NET_ADMIN.
///
/// # Errors
/// What the kernel says.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    SockRef::from(socket).set_mark(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_others() {
        // Documentation's addresses (RFC 5737, RFC 3849) are nobody's.
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let options = ListenOptions { freebind: true, ..ListenOptions::default() };
            let error = listen(address, &ListenOptions::default()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("listen on {address}: ")), "{error}");
            match listen(address, &options) {
                Ok(listener) => assert!(SockRef::from(&listener).local_addr().unwrap().as_socket().unwrap().ip() == address.ip()),
                // A kernel without IPv6.
                Err(error) => {
                    assert!(address.is_ipv6() && listen("[::1]:0".parse().unwrap(), &ListenOptions::default()).is_err(), "{error}")
                }
            }
        }
    }

    /// By IPv4 in any case, and by IPv6 where there is any.
    #[test]
    fn all_addresses_of_a_host() {
        let options = ListenOptions { dual_stack: true, ..ListenOptions::default() };
        let port = listen(SocketAddr::new(any_address(), 0), &options).unwrap();
        let to = |ip: IpAddr| std::net::TcpStream::connect((ip, port.local_addr().unwrap().port()));
        to(Ipv4Addr::LOCALHOST.into()).unwrap();
        let own = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
        assert_eq!(to(Ipv6Addr::LOCALHOST.into()).is_ok(), own.is_ok());
    }

    #[test]
    fn transparent_sockets_are_so_or_fail() {
        let options = ListenOptions { transparent: true, ..ListenOptions::default() };
        match listen("127.0.0.1:0".parse().unwrap(), &options) {
            Ok(listener) => assert!(SockRef::from(&listener).ip_transparent_v4().unwrap()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                assert!(error.to_string().ends_with(": a transparent socket needs the capability NET_ADMIN"), "{error}");
            }
        }
    }
}
