//! Links, addresses and routes of the calling thread's network namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd},
};

use futures_util::TryStreamExt;
use mizzen_types::IpRange;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth},
        route::{RouteScope, RouteType},
    },
};

/// An open netlink socket.
#[derive(Debug)]
pub(crate) struct Links {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Links {
    pub(crate) fn open() -> io::Result<Links> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Links { handle, driver: tokio::spawn(connection) })
    }

    pub(crate) async fn index(&self, name: &str) -> io::Result<u32> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.map_err(plain)?;
        Ok(link.ok_or(io::ErrorKind::NotFound)?.header.index)
    }

    pub(crate) async fn up(&self, name: &str) -> io::Result<u32> {
        let index = self.index(name).await?;
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(plain)?;
        Ok(index)
    }

    /// A pair of connected links: one here, the other in that namespace.
    pub(crate) async fn veth(&self, name: &str, peer: &str, namespace: &impl AsFd) -> io::Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(peer.to_owned()).setns_by_fd(namespace.as_fd().as_raw_fd()).build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, "unused").set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        self.handle.link().add(pair.build()).execute().await.map_err(plain)
    }

    /// Removes a link; one that does not exist is no error.
    pub(crate) async fn delete(&self, name: &str) -> io::Result<()> {
        let Ok(index) = self.index(name).await else { return Ok(()) };
        self.handle.link().del(index).execute().await.map_err(plain)
    }

    pub(crate) async fn address(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        self.handle.address().add(index, IpAddr::V4(address), 32).execute().await.map_err(plain)
    }

    /// `address` is behind this link.
    pub(crate) async fn route_to(&self, address: Ipv4Addr, index: u32, source: Ipv4Addr) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .pref_source(source);
        self.handle.route().add(route.build()).replace().execute().await.map_err(plain)
    }

    /// Everything else is behind the gateway on this link.
    pub(crate) async fn default_route(&self, gateway: Ipv4Addr, index: u32, source: Ipv4Addr) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .gateway(gateway)
            .output_interface(index)
            .onlink()
            .pref_source(source);
        self.handle.route().add(route.build()).replace().execute().await.map_err(plain)
    }

    /// What has no more specific route in this range is for this namespace itself, where nobody listens: so a
    /// connection is refused at once. (An unreachable route would answer by ICMP, which the kernel limits to
    /// one a second and `connect` takes as a reason to try again.)
    pub(crate) async fn refuse(&self, range: &IpRange, loopback: u32) -> io::Result<()> {
        let IpAddr::V4(address) = range.address() else { return Ok(()) };
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, range.prefix())
            .output_interface(loopback)
            .scope(RouteScope::Host)
            .kind(RouteType::Local);
        self.handle.route().add(route.build()).replace().execute().await.map_err(plain)
    }
}

/// Netlink's error as the error number in it.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Writes `value` to `/proc/sys/net/NAME` of the calling thread's namespace.
pub(crate) fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("write {value} to {path}: {error}")))
}
