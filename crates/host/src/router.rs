//! The inner process' own network namespace: every host's default route.

use std::net::Ipv4Addr;

use mizzen_types::IpRange;

use crate::{HostError, Link};

/// The addresses of the mesh.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// The router's own address, also of its DNS (port 53).
    pub address: Ipv4Addr,
    /// Where hosts have their addresses: routed between them, never relayed.
    pub hosts: IpRange,
    /// Where services have virtual addresses: a connection that was not captured is refused at once.
    pub services: IpRange,
}

impl Default for RouterOptions {
    /// 10.244.0.1, 10.244.0.0/16 and 10.96.0.0/16.
    fn default() -> Self {
        unimplemented!()
    }
}

/// The running router. Only the inner process has one.
#[derive(Debug)]
pub struct Router {}

impl Router {
    /// Turns the calling process' network namespace into the router, and hands the relay's and the DNS
    /// sockets to the outer process through `link`.
    ///
    /// # Errors
    /// If the kernel refuses a step, or the outer process is gone.
    pub async fn start(link: &Link, options: RouterOptions) -> Result<Router, HostError> {
        let _ = (link, options);
        unimplemented!()
    }

    /// Its options.
    pub fn options(&self) -> &RouterOptions {
        unimplemented!()
    }
}
