//! Service.

use std::{collections::BTreeMap, net::IpAddr};

use mizzen_types::{Hostname, Protocol, check_dns_label};

use crate::{
    Meta,
    istio::{ExportTo, TrafficDistribution},
    metadata::labels,
    read::{At, Fields, Why, quoted},
};

/// A service. NodePort and LoadBalancer are read as ClusterIP; an ExternalName has neither address nor ports nor pods, but a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Name, labels, origin.
    pub meta: Meta,
    /// Its address. An ExternalName has [`ClusterIp::Headless`].
    pub cluster_ip: ClusterIp,
    /// Its address of the other family, if it has one of each (`clusterIPs`).
    pub second_ip: Option<IpAddr>,
    /// Of an ExternalName: the host that it is another name of.
    pub external_name: Option<Hostname>,
    /// Its ports; numbers per transport, and names, are unique.
    pub ports: Vec<ServicePort>,
    /// The labels of its pods; empty: it has none.
    pub selector: BTreeMap<String, String>,
    /// Whether pods count that are not ready.
    pub publish_not_ready_addresses: bool,
    /// Annotation `networking.istio.io/exportTo`; empty is the mesh's default.
    pub export_to: Vec<ExportTo>,
    /// Whether a caller reaches pods of its own node alone (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// Which pods are called as long as they are well; by field `trafficDistribution`, or Istio's annotation.
    pub distribution: TrafficDistribution,
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

const NODE_PORT: &str = "is treated as ClusterIP";

impl Service {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        let mut export_to = Vec::new();
        if let Some(text) = meta.annotations.get("networking.istio.io/exportTo") {
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                match ExportTo::parse(part) {
                    Ok(to) => export_to.push(to),
                    Err(message) => root.at.fail(format!("annotation networking.istio.io/exportTo: {message}")),
                }
            }
        }
        root.sub("spec", |f| {
            if let Some(at) = f.get("type") {
                match at.text().as_str() {
                    "ClusterIP" | "" => {}
                    "NodePort" | "LoadBalancer" => at.warn(NODE_PORT),
                    "ExternalName" => return Service::read_external(f, meta, export_to),
                    _ => at.expected("ClusterIP, NodePort, LoadBalancer or ExternalName"),
                }
            }
            f.harmless(&["externalName"]);
            let cluster_ip = f.get("clusterIP").map(|at| ClusterIp::read(&at)).unwrap_or_default();
            let all: Vec<IpAddr> =
                f.list("clusterIPs").iter().filter(|at| at.node.text() != Some("None")).filter_map(|at| at.parse()).collect();
            quiet(f, "sessionAffinity", "None");
            let node_local = f.get("internalTrafficPolicy").is_some_and(|at| match at.text().as_str() {
                "Local" => true,
                "Cluster" | "" => false,
                _ => {
                    at.expected("Cluster or Local");
                    false
                }
            });
            f.ignore(&IGNORED);
            let ports = ports(f);
            if ports.is_empty() && cluster_ip != ClusterIp::Headless && f.get("ports").is_none() {
                f.missing("ports");
            }
            let distribution = TrafficDistribution::read(f.get("trafficDistribution").as_ref(), &meta, root);
            Service {
                meta,
                second_ip: cluster_ip.beside(&all),
                cluster_ip,
                external_name: None,
                ports,
                selector: f.get("selector").map(|at| labels(&at)).unwrap_or_default(),
                publish_not_ready_addresses: f.flag("publishNotReadyAddresses"),
                export_to,
                node_local,
                distribution,
            }
        })
    }

    fn read_external(f: &Fields<'_>, meta: Meta, export_to: Vec<ExportTo>) -> Service {
        let external_name = f.need("externalName").and_then(|at| {
            let host: Option<Hostname> = at.parse();
            if host.as_ref().is_some_and(Hostname::is_wildcard) {
                at.expected("a host name without a wildcard");
            }
            host
        });
        for at in ["ports", "selector"].into_iter().filter_map(|name| f.get(name)) {
            at.warn("has no effect: an ExternalName is another name of its host, at all ports");
        }
        if let Some(at) = f.get("clusterIP").filter(|at| !at.text().is_empty()) {
            at.fail("an ExternalName has no address");
        }
        f.ignore(&IGNORED);
        f.ignore(&["clusterIPs", "sessionAffinity", "internalTrafficPolicy", "trafficDistribution", "publishNotReadyAddresses"]);
        Service {
            meta,
            cluster_ip: ClusterIp::Headless,
            second_ip: None,
            external_name,
            ports: Vec::new(),
            selector: BTreeMap::new(),
            publish_not_ready_addresses: false,
            export_to,
            node_local: false,
            distribution: TrafficDistribution::default(),
        }
    }
}

/// What changes nothing here.
const IGNORED: [&str; 4] = ["ipFamilies", "ipFamilyPolicy", "allocateLoadBalancerNodePorts", "externalTrafficPolicy"];

/// A field that is harmless, and not worth a word at its default.
fn quiet(f: &Fields<'_>, name: &'static str, default: &str) {
    if f.get(name).is_some_and(|at| at.node.text() != Some(default)) {
        f.harmless(&[name]);
    }
}

impl ClusterIp {
    /// Of a service's addresses that of the other family.
    pub(super) fn beside(self, all: &[IpAddr]) -> Option<IpAddr> {
        let ClusterIp::Address(first) = self else { return None };
        all.iter().copied().find(|ip| ip.is_ipv4() != first.is_ipv4())
    }

    fn read(at: &At<'_>) -> ClusterIp {
        match at.text().as_str() {
            "" => ClusterIp::Auto,
            "None" => ClusterIp::Headless,
            text => text.parse().map(ClusterIp::Address).unwrap_or_else(|_| {
                at.expected("an IP address or None");
                ClusterIp::Auto
            }),
        }
    }
}

fn ports(f: &Fields<'_>) -> Vec<ServicePort> {
    let list = f.list("ports");
    let several = list.len() > 1;
    let mut ports: Vec<ServicePort> = Vec::new();
    for at in &list {
        let port = at.fields(ServicePort::read);
        if several && port.name.is_empty() {
            at.fail("needs a name, since there are several ports");
        }
        let udp = port.protocol == Protocol::Udp;
        if ports.iter().any(|p| p.port == port.port && (p.protocol == Protocol::Udp) == udp && port.port != 0) {
            at.fail(format!("port {} is listed twice", port.port));
        }
        if ports.iter().any(|p| p.name == port.name && !port.name.is_empty()) {
            at.fail(format!("there are two ports {}", quoted(&port.name)));
        }
        ports.push(port);
    }
    ports
}

impl ServicePort {
    fn read(f: &Fields<'_>) -> ServicePort {
        let port = f.need("port").map(|at| at.port()).unwrap_or_default();
        let name = port_name(f);
        let transport = transport(f);
        let app = f.opt_text("appProtocol");
        f.ignore(&["nodePort"]);
        let protocol = Protocol::of_port(Some(transport), app.as_deref(), Some(name.as_str()).filter(|name| !name.is_empty()), port);
        let target_port = f.get("targetPort").map(|at| TargetPort::read(&at)).unwrap_or(TargetPort::Number(port));
        ServicePort { name, port, target_port, protocol }
    }
}

pub(super) fn port_name(f: &Fields<'_>) -> String {
    let name = f.text("name");
    if let (false, Some(at)) = (name.is_empty(), f.get("name"))
        && let Err(error) = check_dns_label(&name)
    {
        at.fail(error.to_string());
    }
    name
}

/// `TCP` or `UDP`.
pub(super) fn transport(f: &Fields<'_>) -> &'static str {
    let Some(at) = f.get("protocol") else { return "TCP" };
    match at.text().as_str() {
        "TCP" | "" => {}
        "UDP" => return "UDP",
        "SCTP" => at.fail(format!("SCTP {}", Why::Where.text())),
        _ => at.expected("TCP or UDP"),
    }
    "TCP"
}

impl TargetPort {
    pub(super) fn read(at: &At<'_>) -> TargetPort {
        match at.node.text() {
            None => TargetPort::Number(at.port()),
            Some(text) if check_dns_label(text).is_ok() && text.len() <= 15 && text.bytes().any(|b| b.is_ascii_lowercase()) => {
                TargetPort::Name(text.to_owned())
            }
            Some(text) => {
                at.fail(format!("{} is no port's name: at most 15 lower-case letters, digits and hyphens, and a letter", quoted(text)));
                TargetPort::Number(0)
            }
        }
    }
}
