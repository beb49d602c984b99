//! ServiceEntry.

use std::{collections::BTreeMap, net::IpAddr};

use mizzen_types::{Hostname, IpRange, Locality, Protocol};

use super::ExportTo;
use crate::{Meta, Selector};

/// A service that Kubernetes does not know.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    /// Name, labels, origin.
    pub meta: Meta,
    /// Its names; never empty.
    pub hosts: Vec<Hostname>,
    /// Its addresses; ranges only with [`Resolution::None`] and [`Resolution::Static`].
    pub addresses: Vec<IpRange>,
    /// Its ports; numbers and names are unique.
    pub ports: Vec<ServiceEntryPort>,
    /// Whether it belongs to the mesh.
    pub location: Location,
    /// Where its endpoints come from.
    pub resolution: Resolution,
    /// The endpoints. [`Resolution::Dns`] without endpoints resolves the hosts.
    pub endpoints: Vec<WorkloadEntry>,
    /// Or the pods of the namespace with these labels.
    pub workload_selector: Option<Selector>,
    /// To whom it is visible; empty is the mesh's default.
    pub export_to: Vec<ExportTo>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntryPort {
    /// The number that clients use.
    pub number: u16,
    /// The name.
    pub name: String,
    /// The protocol; [`Protocol::Auto`] if none was written.
    pub protocol: Protocol,
    /// The number at the endpoints.
    pub target_port: u16,
}

/// Whether a service belongs to the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// No: never automatic mutual TLS.
    #[default]
    MeshExternal,
    /// Yes.
    MeshInternal,
}

/// Where a service's endpoints come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// The address that the caller asked for.
    #[default]
    None,
    /// The endpoints' addresses.
    Static,
    /// All addresses that DNS gives.
    Dns,
    /// The first address that DNS gives.
    DnsRoundRobin,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Its address.
    pub address: EndpointAddress,
    /// Port names of the service with other numbers here.
    pub ports: BTreeMap<String, u16>,
    /// Labels, for subsets.
    pub labels: BTreeMap<String, String>,
    /// The network; empty if none was written.
    pub network: String,
    /// The locality.
    pub locality: Locality,
    /// Its share; 0 is 1.
    pub weight: u32,
    /// Its service account, for mutual TLS.
    pub service_account: Option<String>,
}

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A name for DNS.
    Host(Hostname),
}
