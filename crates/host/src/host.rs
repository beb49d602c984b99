//! A host: a network namespace with an address, a link to the router and a default route.

use std::net::Ipv4Addr;

use mizzen_capture::Plan;

use crate::{HostError, Router};

/// One host of the mesh. The namespace lives as long as this value or a process or socket in it.
#[derive(Debug)]
pub struct Host {}

impl Host {
    /// Makes the namespace, links it to the router, gives it `address`, and allows ports below 1024 to all.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub async fn create(router: &Router, address: Ipv4Addr) -> Result<Host, HostError> {
        let _ = (router, address);
        unimplemented!()
    }

    /// Its address in the mesh.
    pub fn address(&self) -> Ipv4Addr {
        unimplemented!()
    }

    /// Sets the capture rules, in place of earlier ones. Before the workload starts.
    ///
    /// # Errors
    /// If the kernel refuses them.
    pub async fn capture(&self, plan: &Plan) -> Result<(), HostError> {
        let _ = plan;
        unimplemented!()
    }

    /// Runs a closure on a thread in this namespace. A socket that it opens stays in this namespace and may
    /// be used anywhere afterwards.
    ///
    /// # Errors
    /// If the namespace cannot be entered; the closure's own result is the value.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, HostError> {
        let _ = job;
        unimplemented!()
    }

    /// Takes the link down and frees the address. Processes must have ended before.
    pub async fn delete(self) {
        unimplemented!()
    }
}
