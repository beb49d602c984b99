//! ServiceEntry.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mizzen_types::{Hostname, IpRange, Locality, Protocol};

use super::{ExportTo, TrafficDistribution};
use crate::{
    Labels, Meta, Selector,
    metadata::{selector, shared_labels},
    read::{At, Fields, Why, quoted},
    table,
};

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
    /// Who its endpoints may be, by their certificates; empty: by where they are from.
    pub subject_alt_names: Vec<String>,
    /// Which endpoints are called as long as they are well; by annotation.
    pub distribution: TrafficDistribution,
    /// The addresses that a control plane has allocated to its hosts, where [`ServiceEntry::is_allocatable`]. No file has any: whoever reads it from where a
    /// status can be believed adds them.
    pub allocated: Vec<(Hostname, IpAddr)>,
}

/// The label by which no addresses are allocated to an entry: `false`.
pub const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

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
    /// What DNS says of the name that a request has in its Host header, or TLS as its server name: the hosts are wildcards.
    DynamicDns,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Its address.
    pub address: EndpointAddress,
    /// Port names of the service with other numbers here.
    pub ports: BTreeMap<String, u16>,
    /// Labels, for subsets.
    pub labels: Labels,
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A name for DNS.
    Host(Hostname),
}

pub(crate) const LOCATIONS: &[(&str, i64, Option<Location>); 2] =
    &[("MESH_EXTERNAL", 0, Some(Location::MeshExternal)), ("MESH_INTERNAL", 1, Some(Location::MeshInternal))];

pub(crate) const RESOLUTIONS: &[(&str, i64, Option<Resolution>); 5] = &[
    ("NONE", 0, Some(Resolution::None)),
    ("STATIC", 1, Some(Resolution::Static)),
    ("DNS", 2, Some(Resolution::Dns)),
    ("DNS_ROUND_ROBIN", 3, Some(Resolution::DnsRoundRobin)),
    ("DYNAMIC_DNS", 4, Some(Resolution::DynamicDns)),
];

impl ServiceEntry {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::SERVICE_ENTRY, |f| {
            let distribution = TrafficDistribution::read(None, &meta, root);
            let entry = ServiceEntry {
                meta,
                distribution,
                hosts: f.need("hosts").map(|at| at.list()).unwrap_or_default().iter().filter_map(At::parse).collect(),
                addresses: f.parse_list("addresses"),
                ports: ports(f),
                location: f.get("location").and_then(|at| at.choice(LOCATIONS)).unwrap_or_default(),
                resolution: f.get("resolution").and_then(|at| at.choice(RESOLUTIONS)).unwrap_or_default(),
                // A list of this length is not known beforehand, and entries are many.
                endpoints: f.list("endpoints").iter().filter_map(|at| at.fields(WorkloadEntry::read)).collect::<Box<[_]>>().into_vec(),
                workload_selector: f.get("workloadSelector").map(|at| selector(&at, "labels")),
                export_to: ExportTo::read_list(f, "exportTo"),
                subject_alt_names: f.list("subjectAltNames").iter().map(At::word).collect(),
                allocated: Vec::new(),
            };
            entry.check(f);
            entry
        })
    }

    /// Whether addresses are allocated to its hosts, by Istio's rules: it names none, its endpoints are not what the caller asked for, and no label says that
    /// it shall have none.
    pub fn is_allocatable(&self) -> bool {
        let says_no = self.meta.labels.get(AUTO_ALLOCATE).is_some_and(|value| value.eq_ignore_ascii_case("false"));
        self.addresses.is_empty() && self.resolution != Resolution::None && !says_no
    }

    /// The hosts to which addresses are allocated, each once: a wildcard is none unless its names are found on demand.
    pub fn allocatable_hosts(&self) -> impl Iterator<Item = &Hostname> {
        let is_one = |host: &&Hostname| !host.is_wildcard() || self.resolution == Resolution::DynamicDns;
        let hosts = if self.is_allocatable() { &self.hosts[..] } else { &[] };
        let mut seen = BTreeSet::new();
        hosts.iter().filter(is_one).filter(move |host| seen.insert(*host))
    }

    /// What must hold between the fields.
    fn check(&self, f: &Fields<'_>) {
        let at = |name| f.get(name).unwrap_or_else(|| f.at.clone());
        let dynamic = self.resolution == Resolution::DynamicDns;
        let dns = matches!(self.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if self.hosts.is_empty() && f.get("hosts").is_some_and(|at| matches!(&at.node.value, crate::source::Value::List(l) if l.is_empty()))
        {
            f.missing("hosts");
        }
        for host in &self.hosts {
            if host.as_str() == "*" {
                at("hosts").fail("host `*` stands for everything; name a host or *.suffix");
            } else if host.is_wildcard() && dns && self.endpoints.is_empty() {
                at("hosts").fail(format!("{host} cannot be resolved: a wildcard needs endpoints, or resolution NONE or DYNAMIC_DNS"));
            } else if dynamic && !host.is_wildcard() {
                at("hosts").fail(format!("{host} is no wildcard: resolution DYNAMIC_DNS is for *.suffix, DNS for one name"));
            }
        }
        if self.addresses.iter().any(|range| range.prefix() != IpRange::from(range.address()).prefix()) && (dns || dynamic) {
            at("addresses").fail("a range needs resolution NONE or STATIC");
        }
        if self.workload_selector.is_some() && !self.endpoints.is_empty() {
            at("workloadSelector").fail("excludes endpoints");
        }
        let names: Vec<_> = self.endpoints.iter().filter(|e| matches!(e.address, EndpointAddress::Host(_))).collect();
        match self.resolution {
            Resolution::None if !self.endpoints.is_empty() => at("endpoints").fail("need resolution STATIC or DNS"),
            Resolution::Static if self.endpoints.is_empty() && self.workload_selector.is_none() => {
                at("resolution").fail("STATIC needs endpoints or a workloadSelector");
            }
            Resolution::Static if !names.is_empty() => at("endpoints").fail("resolution STATIC needs IP addresses"),
            Resolution::DnsRoundRobin if self.endpoints.len() > 1 => at("endpoints").fail("DNS_ROUND_ROBIN takes one endpoint at most"),
            Resolution::DynamicDns if !self.endpoints.is_empty() => {
                at("endpoints").fail("resolution DYNAMIC_DNS takes none: who is called says whom to look for");
            }
            _ if (dns || dynamic) && self.workload_selector.is_some() => at("workloadSelector").fail("needs resolution STATIC"),
            _ => {}
        }
        for (port, item) in self.ports.iter().zip(f.list("ports")).filter(|_| dynamic) {
            if !port.protocol.is_http() && !port.protocol.is_tls() {
                item.fail(
                    "resolution DYNAMIC_DNS needs protocol HTTP, HTTP2, GRPC, GRPC-Web, HTTPS or TLS: of other bytes nobody knows whom they are for",
                );
            }
        }
        for (endpoint, item) in self.endpoints.iter().zip(f.list("endpoints")) {
            for name in endpoint.ports.keys().filter(|name| !self.ports.iter().any(|port| port.name == **name)) {
                item.fail(format!("port {} is none of this service's", quoted(name)));
            }
        }
    }
}

fn ports(f: &Fields<'_>) -> Vec<ServiceEntryPort> {
    let Some(list) = f.need("ports") else { return Vec::new() };
    let mut ports: Vec<ServiceEntryPort> = Vec::new();
    for at in list.list() {
        let port = at.fields(|f| {
            let number = f.need("number").map(|at| at.port()).unwrap_or_default();
            let protocol = f.get("protocol").map(|at| (at.text(), at));
            ServiceEntryPort {
                number,
                name: f.need("name").map(|at| at.word()).unwrap_or_default(),
                protocol: protocol.map_or(Protocol::Auto, |(text, at)| protocol_name(&at, &text)),
                target_port: f.port("targetPort").unwrap_or(number),
            }
        });
        if ports.iter().any(|other| other.number == port.number && port.number != 0) {
            at.fail(format!("port {} is listed twice", port.number));
        }
        if ports.iter().any(|other| other.name == port.name && !port.name.is_empty()) {
            at.fail(format!("there are two ports {}", quoted(&port.name)));
        }
        ports.push(port);
    }
    if ports.is_empty() {
        list.fail("must have at least one port");
    }
    ports
}

/// A protocol by its whole name.
pub(crate) fn protocol_name(at: &At<'_>, text: &str) -> Protocol {
    let known = Protocol::from_name(text).filter(|protocol| protocol.name().eq_ignore_ascii_case(text));
    if known.is_none() && !text.is_empty() {
        at.fail(format!("unknown protocol {}: HTTP, HTTP2, HTTPS, GRPC, GRPC-Web, TLS, TCP, Mongo, MySQL, Redis or UDP", quoted(text)));
    }
    known.unwrap_or(Protocol::Auto)
}

impl WorkloadEntry {
    fn read(f: &Fields<'_>) -> Option<WorkloadEntry> {
        let address = f.need("address").and_then(|at| {
            let text = at.word();
            if text.starts_with("unix:") {
                at.fail(format!("a Unix socket {}", Why::Where.text()));
                return None;
            }
            match text.parse() {
                Ok(ip) => Some(EndpointAddress::Ip(ip)),
                Err(_) => at.parse().map(EndpointAddress::Host),
            }
        });
        let ports = f.get("ports").map(|at| at.entries()).unwrap_or_default();
        let ports = ports.into_iter().map(|(name, at)| (name.to_owned(), at.port())).collect();
        let labels = f.get("labels").map(|at| shared_labels(&at)).unwrap_or_default();
        let entry = |address| WorkloadEntry {
            address,
            ports,
            labels,
            network: f.text("network"),
            locality: f.text("locality").parse().unwrap_or_else(|never: std::convert::Infallible| match never {}),
            weight: f.count("weight").unwrap_or_default(),
            service_account: f.opt_text("serviceAccount"),
        };
        address.map(entry)
    }
}
