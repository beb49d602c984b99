//! The outer half of what leaves the mesh.

use std::net::SocketAddr;

use mizzen_types::IpRange;

/// Who may be reached from inside the mesh. The machine itself, loopback, link-local and multicast
/// addresses are refused unless allowed here.
#[derive(Clone, Debug, Default)]
pub struct RelayPolicy {
    /// Ranges to allow although they would be refused, such as one of the machine's own addresses.
    pub allow: Vec<IpRange>,
    /// Addresses that stand for others.
    pub aliases: Vec<Alias>,
}

/// An address as the mesh sees it, and what is dialled for it: a way to offer one port of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What a workload connects to; outside the mesh's own ranges.
    pub from: SocketAddr,
    /// What the outer process dials: may be on loopback.
    pub to: SocketAddr,
}
