//! Services and endpoints in one form, wherever they were declared.

use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr, sync::Arc};

use mizzen_api::{
    LabelSet, Labels, Selector,
    core::TargetPort,
    istio::{EndpointAddress, ExportTo, TrafficDistribution},
};
use mizzen_types::{Hostname, IpRange, Locality, Name, NamespacedName, Protocol};

/// The cluster of all that runs here, by Istio's default name: what the proxies call it is their own word.
pub const CLUSTER: &str = "Kubernetes";

/// The label that says that an endpoint has a sidecar: `istio`.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// The label with a workload's region.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// The label with a workload's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The label with the node on which a workload runs.
pub const NODE_LABEL: &str = "kubernetes.io/hostname";
/// The label with a workload's subzone.
pub const SUBZONE_LABEL: &str = "topology.istio.io/subzone";

/// Where a service was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A ServiceEntry.
    External,
}

/// How a service's endpoints are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolve {
    /// The control plane lists them.
    Endpoints,
    /// The proxy asks DNS and takes all addresses.
    Dns,
    /// The proxy asks DNS and takes the first address.
    DnsRoundRobin,
    /// The proxy asks DNS for the name that a request or a TLS handshake brings, one that the host covers.
    DynamicDns,
    /// The address that the caller asked for.
    OriginalDestination,
}

/// What tells a service from all others, those under the same host included: host, registry and object.
pub type ServiceKey = (Hostname, Registry, NamespacedName);

/// A service under one host name: a Kubernetes Service, or one host of a ServiceEntry. Without its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// The host name.
    pub host: Hostname,
    /// The object's namespace and name.
    pub object: NamespacedName,
    /// Where it was declared.
    pub registry: Registry,
    /// When, in seconds since 1970.
    pub created: i64,
    /// Its virtual addresses. None for a headless service, or where none is known.
    pub addresses: Vec<IpRange>,
    /// Those that a control plane has allocated to it where it names none, of both families: which of them a proxy uses is
    /// [`ProxyView::addresses`](crate::ProxyView::addresses).
    pub allocated: Vec<IpAddr>,
    /// Whether its name stands for its pods (`clusterIP: None`).
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<PortView>,
    /// How its endpoints are found.
    pub resolve: Resolve,
    /// Whether it is outside of the mesh.
    pub external: bool,
    /// To whom it is visible, the mesh's default filled in.
    pub export_to: Vec<ExportTo>,
    /// Who its endpoints may be, by their certificates, beside their service accounts.
    pub subject_alt_names: Vec<String>,
    /// The pods that it selects.
    pub selector: Option<Selector>,
    /// Whether pods count that are not ready.
    pub publish_not_ready: bool,
    /// Whether a caller reaches the endpoints of its own node alone.
    pub node_local: bool,
    /// Which endpoints are called as long as they are well, where no rule says otherwise.
    pub distribution: TrafficDistribution,
}

/// Another name of a host: a Service of type ExternalName. It has no ports, endpoints or rules of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasView {
    /// The name.
    pub host: Hostname,
    /// The object's namespace and name.
    pub object: NamespacedName,
    /// The host that it names, which may be an alias too: see [`crate::Reader::meaning`].
    pub target: Hostname,
    /// To whom it is visible, the mesh's default filled in.
    pub export_to: Vec<ExportTo>,
}

impl AliasView {
    /// Whether it is visible everywhere.
    pub fn visible_to_all(&self) -> bool {
        self.export_to.is_empty() || self.export_to.contains(&ExportTo::All)
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// The name; may be empty.
    pub name: String,
    /// The number that clients use.
    pub port: u16,
    /// The port of the endpoints.
    pub target: TargetPort,
    /// The protocol.
    pub protocol: Protocol,
}

impl ServiceView {
    /// The namespace.
    pub fn namespace(&self) -> &Name {
        &self.object.namespace
    }

    /// The name under which telemetry knows it: a Kubernetes Service's own, else the host.
    pub fn name(&self) -> &str {
        match self.registry {
            Registry::Kubernetes => &self.object.name,
            Registry::External => self.host.as_str(),
        }
    }

    /// What tells it from all others.
    pub fn key(&self) -> ServiceKey {
        (self.host.clone(), self.registry, self.object.clone())
    }

    /// The port with this number. TCP before UDP, where both have it.
    pub fn port(&self, number: u16) -> Option<&PortView> {
        let mut found = self.ports.iter().filter(|p| p.port == number);
        found.clone().find(|p| p.protocol != Protocol::Udp).or_else(|| found.next())
    }

    /// Whether it is visible in a namespace.
    pub fn visible_in(&self, namespace: &str) -> bool {
        ExportTo::visible(&self.export_to, self.namespace(), namespace)
    }

    /// Whether it is visible everywhere.
    pub fn visible_to_all(&self) -> bool {
        self.export_to.is_empty() || self.export_to.contains(&ExportTo::All)
    }

    /// The order in which services of one host are meant by those in a namespace: their own namespace's, then Kubernetes' before others, then the oldest.
    pub(crate) fn before(&self, other: &ServiceView, namespace: &str) -> Ordering {
        let rank = |service: &ServiceView| (&**service.namespace() != namespace, service.registry, service.created);
        rank(self).cmp(&rank(other)).then_with(|| self.object.cmp(&other.object))
    }

    /// Its virtual addresses that are single addresses, without those that were allocated to it.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        single(&self.addresses)
    }
}

/// Those of ranges that are one address.
pub fn single(ranges: &[IpRange]) -> impl Iterator<Item = IpAddr> + '_ {
    ranges.iter().filter(|r| r.prefix() == if r.address().is_ipv4() { 32 } else { 128 }).map(IpRange::address)
}

/// The endpoints of a service, by the service's port. Those that are not ready are among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoints {
    /// By port number, in order of their addresses.
    pub by_port: BTreeMap<u16, Vec<Endpoint>>,
}

impl Endpoints {
    /// The endpoints of a port that may get traffic.
    pub fn ready(&self, port: u16) -> impl Iterator<Item = &Endpoint> {
        self.by_port.get(&port).into_iter().flatten().filter(|e| e.ready)
    }
}

/// One endpoint of one port.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub address: EndpointAddress,
    /// Of a pod: its address of the other family, if the service is to be reached by both.
    pub second_ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Whether it may get traffic.
    pub ready: bool,
    /// Its labels.
    pub labels: Labels,
    /// Its namespace.
    pub namespace: Name,
    /// Its service account.
    pub service_account: Option<Name>,
    /// Its workload's name.
    pub workload: Name,
    /// Whether a sidecar is there that takes mutual TLS.
    pub tls: bool,
    /// Where it runs.
    pub locality: Locality,
    /// Its share.
    pub weight: u32,
}

impl Endpoint {
    /// Its addresses, that of the service's first family before the other; none if it has a name.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let first = match self.address {
            EndpointAddress::Ip(ip) => Some(ip),
            EndpointAddress::Host(_) => None,
        };
        first.into_iter().chain(self.second_ip)
    }

    /// Istio's canonical service name of the workload.
    pub fn canonical_name(&self) -> &str {
        canonical_name(&self.labels, &self.workload)
    }

    /// Istio's canonical revision of the workload; empty if it has none.
    pub fn canonical_revision(&self) -> &str {
        ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]
            .iter()
            .find_map(|key| self.labels.label(key))
            .unwrap_or_default()
    }
}

/// Where a workload runs, by its labels: one of Istio's with all parts, else those that Kubernetes copies from the node.
pub fn locality_of(labels: &impl LabelSet) -> Locality {
    let label = |name: &str| labels.label(name).unwrap_or_default();
    // A label's value cannot hold a slash.
    let whole = ["topology.istio.io/locality", "istio-locality"].into_iter().map(label).find(|text| !text.is_empty());
    if let Some(whole) = whole {
        let Ok(locality) = whole.replacen('.', "/", 2).parse();
        return locality;
    }
    Locality { region: label(REGION_LABEL).to_owned(), zone: label(ZONE_LABEL).to_owned(), subzone: label(SUBZONE_LABEL).to_owned() }
}

fn canonical_name<'a>(labels: &'a Labels, workload: &'a str) -> &'a str {
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"].iter().find_map(|key| labels.label(key)).unwrap_or(workload)
}

/// A port of a service that one workload serves.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The service.
    pub service: Arc<ServiceView>,
    /// The service's port.
    pub port: u16,
    /// The workload's port.
    pub target: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// A pod, as far as traffic to it is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Its name.
    pub object: NamespacedName,
    /// Its address; the first of two.
    pub ip: IpAddr,
    /// Its address of the other family, if it has one of each.
    pub second_ip: Option<IpAddr>,
    /// Whether it may get traffic.
    pub ready: bool,
    /// Its labels.
    pub labels: Labels,
    /// Its service account.
    pub service_account: Name,
    /// Its workload's name.
    pub workload: Name,
    /// Whether it has a sidecar.
    pub tls: bool,
    /// Its named TCP ports.
    pub named_ports: BTreeMap<String, u16>,
}

impl PodView {
    /// Its addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.ip), self.second_ip].into_iter().flatten()
    }
}
