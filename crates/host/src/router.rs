//! The inner process' own network namespace: every host's default route.
//!
//! It forwards between hosts, and redirects TCP that is for neither a host nor a service to a listening
//! socket that the outer process serves (see `relay`). A connection to an address of the mesh that nobody
//! has is refused; everything else beyond the mesh is answered as unreachable. A guard decides before all that,
//! if one is set, who may open a connection at all.
//!
//! All of that is IPv4. Hosts have an address of IPv6, too, so that their programs can call virtual addresses of it, of
//! which their proxies make calls by IPv4; what comes here by IPv6 is refused or answered as unreachable, and never forwarded.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use mizzen_capture::{Guard, Guarding, Refused, Side};
use mizzen_types::IpRange;
use nlink::netlink::{
    Connection, Nftables,
    nftables::{BaseChain, Chain, Family, FilterHook, NatHook, Policy, Priority, Rule},
};
use tokio::sync::Mutex;

use crate::{
    HostError, Link,
    inner::Ask,
    links::{Links, sysctl},
};

/// The addresses of the mesh.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// The router's own address, also of its DNS (port 53).
    pub address: Ipv4Addr,
    /// Where hosts have their addresses: routed between them, never relayed.
    pub hosts: IpRange,
    /// Where services have virtual addresses, of either family: a connection that was not captured is refused at once.
    pub services: Vec<IpRange>,
}

impl Default for RouterOptions {
    /// 10.244.0.1, 10.244.0.0/16, and of services 10.96.0.0/16, 240.240.0.0/16 and 2001:2::/48, of which the last two are Istio's for ServiceEntries.
    fn default() -> Self {
        let range = |address: IpAddr, prefix| IpRange::new(address, prefix).unwrap_or_else(|_| unreachable!("a length of its family"));
        let v4 = |a, b| range(Ipv4Addr::new(a, b, 0, 0).into(), 16);
        let v6 = range(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).into(), 48);
        RouterOptions { address: Ipv4Addr::new(10, 244, 0, 1), hosts: v4(10, 244), services: vec![v4(10, 96), v4(240, 240), v6] }
    }
}

impl RouterOptions {
    fn inside(&self) -> Vec<IpRange> {
        [self.hosts].into_iter().chain(self.services.iter().copied()).collect()
    }
}

/// The address of IPv6 of who has this one: of a range that is only ever used within a site (RFC 4193).
pub(crate) fn v6_of(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets().map(u16::from);
    Ipv6Addr::new(0xfd6d, 0x697a, 0x7a65, 0x6e00, 0, 0, a << 8 | b, c << 8 | d)
}

/// The running router. Only the inner process has one.
#[derive(Debug)]
pub struct Router {
    options: RouterOptions,
    /// Whether IPv6 is there, and not turned off.
    has_ipv6: bool,
    links: Links,
    guarding: Mutex<Guarding>,
}

const TABLE: &str = "mizzen-router";

impl Router {
    /// Turns the calling process' network namespace into the router, and hands the relay's and the DNS
    /// sockets to the outer process through `link`.
    ///
    /// # Errors
    /// If the kernel refuses a step, or the outer process is gone.
    pub async fn start(link: &Link, options: RouterOptions) -> Result<Router, HostError> {
        let step = |what: &str| HostError::io(format!("router: {what}"));
        let links = Links::open().map_err(step("open netlink"))?;
        let loopback = links.up("lo").await.map_err(step("bring lo up"))?;
        links.address(loopback, options.address).await.map_err(step("set its address"))?;
        let has_ipv6 = mizzen_capture::has_ipv6();
        for range in options.inside().iter().filter(|range| has_ipv6 || range.address().is_ipv4()) {
            links.refuse(range, loopback).await.map_err(step("set a route"))?;
        }
        let settings = [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "1")];
        // What a host says of routes is none of the router's business. The links to hosts come later.
        let v6 = [("ipv6/conf/all/forwarding", "0"), ("ipv6/conf/default/accept_ra", "0")];
        for (name, value) in settings.into_iter().chain(v6.into_iter().filter(|_| has_ipv6)) {
            sysctl(name, value).map_err(step("configure"))?;
        }
        let tcp = |port| mizzen_net::listen(SocketAddr::from((options.address, port)), &mizzen_net::ListenOptions::default());
        // The redirect goes to the address of the link on which a packet came: one of many, hence any.
        let relay = mizzen_net::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), &mizzen_net::ListenOptions::default());
        let relay = relay.map_err(step("open the relay's socket"))?;
        let port = relay.local_addr().map_err(step("open the relay's socket"))?.port();
        let dns_tcp = tcp(53).map_err(step("open the DNS socket"))?;
        let dns_udp = mizzen_net::bind_udp(SocketAddr::from((options.address, 53)), None).map_err(step("open the DNS socket"))?;
        redirect(&options, port)
            .await
            .map_err(|error| HostError::io("router: set the redirect")(std::io::Error::other(error.to_string())))?;
        mizzen_capture::remember_half_closed().map_err(step("have half-closed connections remembered"))?;
        let sockets: [OwnedFd; 3] = [relay.into(), dns_udp.into(), dns_tcp.into()];
        let mesh = options.inside().iter().map(IpRange::to_string).collect();
        link.ask(&Ask::Relay { mesh }, &[&sockets[0], &sockets[1], &sockets[2]]).await?;
        Ok(Router { options, has_ipv6, links, guarding: Mutex::default() })
    }

    /// Its options.
    pub fn options(&self) -> &RouterOptions {
        &self.options
    }

    /// Lets hosts open connections to these hosts, and these hosts beyond the mesh, as far as is said, instead of what was said before, and returns what
    /// that has refused. What the mesh itself sends from here is no matter of it.
    ///
    /// # Errors
    /// If the kernel refuses it; what was said before then holds on.
    pub async fn guard(&self, inbound: Vec<Side>, outbound: Vec<Side>) -> Result<Refused, HostError> {
        let guard = Guard { inside: self.options.inside(), inbound, outbound };
        Ok(self.guarding.lock().await.set(&guard).await?)
    }

    /// What [`guard`](Self::guard) has refused since it was called last.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn refused(&self) -> Result<Refused, HostError> {
        Ok(self.guarding.lock().await.refused().await?)
    }

    /// Its own address of IPv6, if there is IPv6.
    pub(crate) fn address_v6(&self) -> Option<Ipv6Addr> {
        self.has_ipv6.then(|| v6_of(self.options.address))
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }
}

async fn redirect(options: &RouterOptions, port: u16) -> Result<(), nlink::Error> {
    const TCP: u8 = 6;
    let connection = Connection::<Nftables>::new()?;
    let nat = BaseChain::nat(NatHook::Prerouting, Priority::DstNat).policy(Policy::Accept);
    let filter = BaseChain::filter(FilterHook::Forward, Priority::Filter).policy(Policy::Accept);
    let rule = |chain: &str| Rule::new(TABLE, chain).family(Family::Inet);
    let mut transaction = connection
        .transaction()
        .add_table(TABLE, Family::Inet)
        .add_chain(Chain::new(TABLE, "prerouting")?.family(Family::Inet).base(nat))
        .add_chain(Chain::new(TABLE, "forward")?.family(Family::Inet).base(filter));
    for range in options.inside() {
        transaction = transaction.add_rule(rule("prerouting").match_daddr(range.address(), range.prefix()).accept());
    }
    transaction.add_rule(rule("prerouting").match_l4proto(TCP).redirect(Some(port))).commit(&connection).await
}
