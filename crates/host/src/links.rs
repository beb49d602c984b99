//! Links, addresses and routes of the calling thread's network namespace.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
};

use mizzen_types::IpRange;
use nlink::netlink::{
    Connection, Route,
    addr::Ipv6Address,
    link::VethLink,
    route::{Ipv4Route, Ipv6Route, RouteType},
    types::route::RouteScope,
};

/// An open netlink socket.
pub(crate) struct Links(Connection<Route>);

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

impl Links {
    /// Inside a tokio runtime with IO.
    pub(crate) fn open() -> io::Result<Links> {
        Connection::<Route>::new().map(Links).map_err(plain)
    }

    pub(crate) async fn up(&self, name: &str) -> io::Result<u32> {
        let link = self.0.get_link_by_name(name).await.map_err(plain)?;
        let index = link.ok_or(io::ErrorKind::NotFound)?.ifindex();
        self.0.set_link_up_by_index(index).await.map_err(plain)?;
        Ok(index)
    }

    /// A pair of connected links: one here, the other in that namespace.
    pub(crate) async fn veth(&self, name: &str, peer: &str, namespace: &impl AsFd) -> io::Result<()> {
        self.0.add_link(VethLink::new(name, peer).peer_netns_fd(namespace)).await.map_err(plain)
    }

    /// Removes a link; one that does not exist is no error.
    pub(crate) async fn delete(&self, name: &str) -> io::Result<()> {
        self.0.del_link_if_exists(name).await.map(drop).map_err(plain)
    }

    pub(crate) async fn address(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        self.0.add_address_by_index(index, IpAddr::V4(address), 32).await.map_err(plain)
    }

    /// One that can be used at once: nobody is asked whether he has it, too.
    pub(crate) async fn address_v6(&self, index: u32, address: Ipv6Addr) -> io::Result<()> {
        self.0.add_address(Ipv6Address::with_index(index, address, 128).nodad()).await.map_err(plain)
    }

    /// `address` is behind this link.
    pub(crate) async fn route_to(&self, address: Ipv4Addr, index: u32, source: Ipv4Addr) -> io::Result<()> {
        let route = Ipv4Route::new(address, 32).dev_index(index).scope(RouteScope::Link).prefsrc(source);
        self.0.replace_route(route).await.map_err(plain)
    }

    /// `address` is behind this link.
    pub(crate) async fn route_to_v6(&self, address: Ipv6Addr, index: u32) -> io::Result<()> {
        self.0.replace_route(Ipv6Route::from_addr(address, 128).dev_index(index)).await.map_err(plain)
    }

    /// `range` is behind the gateway on this link; of IPv4 nothing is set.
    pub(crate) async fn route_v6(&self, range: &IpRange, gateway: Ipv6Addr, index: u32, source: Ipv6Addr) -> io::Result<()> {
        let IpAddr::V6(address) = range.address() else { return Ok(()) };
        let route = Ipv6Route::from_addr(address, range.prefix()).gateway(gateway).dev_index(index).prefsrc(source);
        self.0.replace_route(route).await.map_err(plain)
    }

    /// Everything else is behind the gateway on this link.
    pub(crate) async fn default_route(&self, gateway: Ipv4Addr, index: u32, source: Ipv4Addr) -> io::Result<()> {
        let route = Ipv4Route::default_route().gateway(gateway).dev_index(index).onlink().prefsrc(source);
        self.0.replace_route(route).await.map_err(plain)
    }

    /// What has no more specific route in this range is for this namespace itself, where nobody listens: so a
    /// connection is refused at once. (An unreachable route would answer by ICMP, which the kernel limits to
    /// one a second and `connect` takes as a reason to try again.)
    pub(crate) async fn refuse(&self, range: &IpRange, loopback: u32) -> io::Result<()> {
        let made = match range.address() {
            IpAddr::V4(address) => {
                let route = Ipv4Route::from_addr(address, range.prefix()).dev_index(loopback);
                self.0.replace_route(route.scope(RouteScope::Host).route_type(RouteType::Local)).await
            }
            IpAddr::V6(address) => {
                let route = Ipv6Route::from_addr(address, range.prefix()).dev_index(loopback);
                self.0.replace_route(route.route_type(RouteType::Local)).await
            }
        };
        made.map_err(plain)
    }
}

/// Netlink's error as the error number in it.
fn plain(error: nlink::Error) -> io::Error {
    error.errno().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Writes `value` to `/proc/sys/net/NAME` of the calling thread's namespace.
pub(crate) fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("write {value} to {path}: {error}")))
}
