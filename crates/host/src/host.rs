//! A host: a network namespace with an address, a link to the router and a default route.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use mizzen_capture::Plan;
use mizzen_types::IpRange;

use crate::{
    HostError, Router,
    links::{Links, sysctl},
    netns::{NetNs, block_on},
    router::v6_of,
};

/// One host of the mesh. The namespace lives as long as this value or a process or socket in it.
#[derive(Debug)]
pub struct Host {
    address: Ipv4Addr,
    address_v6: Option<Ipv6Addr>,
    namespace: NetNs,
}

/// The name of the link on the host's side.
const LINK: &str = "eth0";

impl Host {
    /// Makes the namespace, links it to the router, gives it `address`, and allows ports below 1024 to all.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub async fn create(router: &Router, address: Ipv4Addr) -> Result<Host, HostError> {
        let step = |what: &str| HostError::io(format!("host {address}: {what}"));
        let namespace = NetNs::create().await.map_err(step("make a network namespace"))?;
        let links = router.links();
        let name = link_name(address);
        links.delete(&name).await.map_err(step("remove an old link"))?;
        links.veth(&name, LINK, &namespace).await.map_err(step("make a link"))?;
        let index = links.up(&name).await.map_err(step("bring the link up"))?;
        let gateway = router.options().address;
        // An address here makes the router answer on this link, and is what the redirect needs.
        links.address(index, gateway).await.map_err(step("set the router's address"))?;
        links.route_to(address, index, gateway).await.map_err(step("set the router's route"))?;
        let mut v6 = None;
        if let Some(gateway) = router.address_v6() {
            let address = v6_of(address);
            links.address_v6(index, gateway).await.map_err(step("set the router's address of IPv6"))?;
            links.route_to_v6(address, index).await.map_err(step("set the router's route of IPv6"))?;
            v6 = Some(V6 { address, gateway, services: router.options().services.clone() });
        }
        let address_v6 = v6.as_ref().map(|v6| v6.address);
        let inside = move || block_on(inside(address, gateway, v6))?;
        namespace.run(inside).await.and_then(|done| done).map_err(step("configure it"))?;
        Ok(Host { address, address_v6, namespace })
    }

    /// Its address in the mesh.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its address of IPv6, if there is IPv6: what its programs call from there reaches virtual addresses of services, if it is captured, and
    /// nobody else.
    pub fn address_v6(&self) -> Option<Ipv6Addr> {
        self.address_v6
    }

    /// Sets the capture rules, in place of earlier ones. Before the workload starts.
    ///
    /// # Errors
    /// If the kernel refuses them.
    pub async fn capture(&self, plan: &Plan) -> Result<(), HostError> {
        let plan = plan.clone();
        let applied = self.run(move || (block_on(mizzen_capture::apply(&plan)), mizzen_capture::remember_half_closed())).await?;
        let (applied, remembered) = applied;
        applied.map_err(HostError::io("set capture rules"))??;
        if let Err(error) = remembered {
            // Proxies keep such connections alive by probes of their own.
            tracing::warn!(host = %self.address, %error, "the kernel forgets half-closed connections early");
        }
        Ok(())
    }

    /// Runs a closure on a thread in this namespace. A socket that it opens stays in this namespace and may
    /// be used anywhere afterwards.
    ///
    /// # Errors
    /// If the namespace cannot be entered; the closure's own result is the value.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, HostError> {
        self.namespace.run(job).await.map_err(HostError::io(format!("enter host {}", self.address)))
    }

    /// Takes the link down and frees the address. Processes should have ended before.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete(self, router: &Router) -> Result<(), HostError> {
        let deleted = router.links().delete(&link_name(self.address)).await;
        deleted.map_err(HostError::io(format!("remove host {}", self.address)))
    }

    pub(crate) fn namespace(&self) -> &NetNs {
        &self.namespace
    }
}

/// The router's side: at most 15 bytes.
fn link_name(address: Ipv4Addr) -> String {
    format!("h{:08x}", u32::from(address))
}

/// What a host has of IPv6.
struct V6 {
    address: Ipv6Addr,
    gateway: Ipv6Addr,
    /// Where services have virtual addresses; those of IPv4 mean nothing.
    services: Vec<IpRange>,
}

async fn inside(address: Ipv4Addr, gateway: Ipv4Addr, v6: Option<V6>) -> io::Result<()> {
    let links = Links::open()?;
    let settings = [
        ("ipv4/ip_unprivileged_port_start", "0"),
        // The proxy hands connections over from 127.0.0.6, and redirects change paths.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/eth0/rp_filter", "0"),
    ];
    let of_v6 = v6.as_ref().map(|_| ("ipv6/conf/eth0/accept_ra", "0"));
    for (name, value) in settings.into_iter().chain(of_v6) {
        sysctl(name, value)?;
    }
    links.up("lo").await?;
    let index = links.up(LINK).await?;
    links.address(index, address).await?;
    links.route_to(gateway, index, address).await?;
    links.default_route(gateway, index, address).await?;
    if let Some(V6 { address, gateway, services }) = v6 {
        links.address_v6(index, address).await?;
        links.route_to_v6(gateway, index).await?;
        for range in &services {
            links.route_v6(range, gateway, index, address).await?;
        }
    }
    Ok(())
}
