//! EndpointSlice.

use std::net::IpAddr;

use super::service::{port_name, transport};
use crate::{Meta, read::Fields};

/// The label that names a slice's service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Some of the endpoints of a service, as Kubernetes found them or as somebody wrote them.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// The endpoints. None of a slice of names, which are not called.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the service's port; may be empty.
    pub name: String,
    /// The number.
    pub port: u16,
    /// Whether it is UDP; else TCP.
    pub udp: bool,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address. Kubernetes lets several stand for one, of which the first counts.
    pub address: IpAddr,
    /// Whether it may get traffic.
    pub ready: bool,
    /// The pod behind it, of the slice's namespace.
    pub pod: Option<String>,
    /// The zone in which it is; empty if that is not known.
    pub zone: String,
}

impl EndpointSlice {
    /// The service of which it has endpoints, in its own namespace.
    pub fn service(&self) -> Option<&str> {
        self.meta.labels.get(SERVICE_NAME_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        let family = root.opt_text("addressType").unwrap_or_else(|| "IPv4".to_owned());
        let called = match family.as_str() {
            "IPv4" | "IPv6" => true,
            "FQDN" => {
                root.harmless(&["addressType"]);
                false
            }
            _ => {
                root.slot("addressType").expected("IPv4, IPv6 or FQDN");
                false
            }
        };
        let port = |f: &Fields<'_>| {
            f.ignore(&["appProtocol"]);
            let port = SlicePort { name: port_name(f), port: f.port("port").unwrap_or_default(), udp: transport(f) == "UDP" };
            (port.port != 0).then_some(port)
        };
        let ports = root.list("ports").iter().filter_map(|at| at.fields(port)).collect();
        let endpoint = |f: &Fields<'_>| {
            f.ignore(&["hostname", "nodeName", "hints", "deprecatedTopology"]);
            let ready = f.opt_sub("conditions", |f| {
                f.ignore(&["serving", "terminating"]);
                f.get("ready").is_none_or(|at| at.flag())
            });
            let pod = f.opt_sub("targetRef", |f| {
                f.ignore_rest();
                (f.text("kind") == "Pod").then(|| f.text("name"))
            });
            let zone = f.text("zone");
            let addresses = f.list("addresses");
            let address = addresses.first().filter(|_| called).and_then(|at| at.parse::<IpAddr>());
            address.map(|address| SliceEndpoint { address, ready: ready.unwrap_or(true), pod: pod.flatten(), zone })
        };
        let endpoints = root.list("endpoints").iter().filter_map(|at| at.fields(endpoint)).collect();
        EndpointSlice { meta, ports, endpoints }
    }
}
