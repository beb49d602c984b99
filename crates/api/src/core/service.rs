//! Service.

use std::{collections::BTreeMap, net::IpAddr};

use mizzen_types::Protocol;

use crate::{Meta, istio::ExportTo};

/// A service. NodePort and LoadBalancer are read as ClusterIP.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Name, labels, origin.
    pub meta: Meta,
    /// Its address.
    pub cluster_ip: ClusterIp,
    /// Its ports; numbers per transport, and names, are unique.
    pub ports: Vec<ServicePort>,
    /// The labels of its pods; empty: it has none.
    pub selector: BTreeMap<String, String>,
    /// Whether pods count that are not ready.
    pub publish_not_ready_addresses: bool,
    /// Annotation `networking.istio.io/exportTo`; empty is the mesh's default.
    pub export_to: Vec<ExportTo>,
}

/// The address of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterIp {
    /// To be allocated.
    #[default]
    Auto,
    /// None: its name stands for its pods.
    Headless,
    /// This one.
    Address(IpAddr),
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The name; empty if none was written.
    pub name: String,
    /// The number that clients use.
    pub port: u16,
    /// The port of the pods.
    pub target_port: TargetPort,
    /// By Istio's rules from transport, `appProtocol`, name and number; [`Protocol::Auto`] is to be detected.
    pub protocol: Protocol,
}

/// A port by number, or by the name that the container gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}
