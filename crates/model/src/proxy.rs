//! A proxy as the control plane sees it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mizzen_api::istio::GatewayTopology;
use mizzen_types::{Locality, Name};

/// The extension of a proxy that fetches on demand what it uses.
pub const ON_DEMAND: &str = "mizzen.on_demand";

/// The extension of a proxy whose clusters of names that are found on demand hold to the host and the port that their metadata says (`dynamic_host` and
/// `dynamic_port` of `mizzen`).
pub const DYNAMIC_HOSTS: &str = "mizzen.dynamic_hosts";

/// Stands among the extensions of a proxy that has an address of IPv6.
pub const IPV6: &str = "mizzen.ipv6";

/// Stands among the extensions of a proxy that has no address of IPv4.
pub const NO_IPV4: &str = "mizzen.no_ipv4";

/// The families of addresses that a proxy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Those of these addresses; of none IPv4.
    pub fn of<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Families {
        let (mut v4, mut v6) = (false, false);
        for ip in addresses {
            let is_v4 = ip.to_canonical().is_ipv4();
            v4 |= is_v4;
            v6 |= !is_v4;
        }
        Families { v4: v4 || !v6, v6 }
    }

    /// Whether an address is of one of them.
    pub fn has(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// What stands for them among the extensions: proxies of the same families get the same of all that has no address of their own.
    pub fn extensions(self) -> impl Iterator<Item = &'static str> {
        self.v6.then_some(IPV6).into_iter().chain((!self.v4).then_some(NO_IPV4))
    }
}

/// The extension of a proxy whose agent answers questions for names: it takes connections to addresses of its families that were allocated to ServiceEntries.
/// Nobody says so of itself in this word: it is what its metadata says.
pub const ALLOCATED: &str = "mizzen.allocated";

/// What a proxy is: the first part of its node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyType {
    /// Beside one workload.
    Sidecar,
    /// A gateway.
    Router,
}

impl ProxyType {
    /// The word in a node id.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyType::Sidecar => "sidecar",
            ProxyType::Router => "router",
        }
    }
}

impl std::str::FromStr for ProxyType {
    type Err = UnknownProxyType;

    fn from_str(text: &str) -> Result<Self, UnknownProxyType> {
        match text {
            "sidecar" => Ok(ProxyType::Sidecar),
            "router" => Ok(ProxyType::Router),
            other => Err(UnknownProxyType(other.to_owned())),
        }
    }
}

/// A node id whose first part is no type of proxy that is served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no type of proxy that is served (sidecar, router)")]
pub struct UnknownProxyType(pub String);

/// Everything that is known of a proxy, from its node and its verified identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyFacts {
    /// Sidecar or router.
    pub kind: ProxyType,
    /// The first address of its workload.
    pub ip: IpAddr,
    /// The workload's other addresses, of whichever family.
    pub more_ips: Vec<IpAddr>,
    /// The whole node id: `sidecar~10.0.0.1~reviews-0.shop~shop.svc.cluster.local`.
    pub id: Name,
    /// The name of the workload's pod.
    pub pod: Name,
    /// The workload's namespace.
    pub namespace: Name,
    /// The workload's service account.
    pub service_account: Name,
    /// The workload's name (the Deployment's).
    pub workload: Name,
    /// The Kubernetes cluster; Istio's default is `Kubernetes`.
    pub cluster: Name,
    /// Where the workload runs: by its node, else by its labels.
    pub locality: Locality,
    /// The workload's labels.
    pub labels: BTreeMap<String, String>,
    /// Names of the extensions that the proxy says it has: `istio.alpn`, `istio.stats` and the like.
    pub extensions: BTreeSet<String>,
    /// What stands before it, if it is a gateway, as far as its own settings say.
    pub topology: GatewayTopology,
    /// The node's other metadata, texts only.
    pub metadata: BTreeMap<String, String>,
}

/// One thing that can be read of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViewField {
    /// [`ProxyFacts::kind`].
    Kind,
    /// [`ProxyFacts::ip`].
    Ip,
    /// [`ProxyFacts::id`].
    Id,
    /// [`ProxyFacts::pod`].
    Pod,
    /// [`ProxyFacts::namespace`].
    Namespace,
    /// [`ProxyFacts::service_account`].
    ServiceAccount,
    /// [`ProxyFacts::workload`].
    Workload,
    /// [`ProxyFacts::cluster`].
    Cluster,
    /// [`ProxyFacts::locality`].
    Locality,
    /// [`ProxyFacts::topology`].
    Topology,
    /// One label; its absence is a value too.
    Label(Name),
    /// Whether one extension is there.
    Extension(Name),
    /// One entry of the metadata.
    Metadata(Name),
}

/// A proxy whose fields can only be read through a [`Reader`](crate::Reader), which notes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyView(ProxyFacts);

impl From<ProxyFacts> for ProxyView {
    fn from(facts: ProxyFacts) -> Self {
        ProxyView(facts)
    }
}

impl ProxyFacts {
    /// All addresses of the workload, the first one first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + Clone + '_ {
        std::iter::once(self.ip).chain(self.more_ips.iter().copied())
    }
}

impl ProxyView {
    /// The facts, unrecorded: for logs and status, never for a translation.
    pub fn facts(&self) -> &ProxyFacts {
        &self.0
    }

    /// A field's value as text, unrecorded; `None` is absence.
    pub fn field(&self, field: &ViewField) -> Option<Cow<'_, str>> {
        let facts = &self.0;
        Some(match field {
            ViewField::Kind => facts.kind.as_str().into(),
            ViewField::Ip => facts.ip.to_string().into(),
            ViewField::Id => (&*facts.id).into(),
            ViewField::Pod => (&*facts.pod).into(),
            ViewField::Namespace => (&*facts.namespace).into(),
            ViewField::ServiceAccount => (&*facts.service_account).into(),
            ViewField::Workload => (&*facts.workload).into(),
            ViewField::Cluster => (&*facts.cluster).into(),
            ViewField::Locality => facts.locality.to_string().into(),
            ViewField::Topology => format!("{:?}", facts.topology).into(),
            ViewField::Label(key) => facts.labels.get(&**key)?.into(),
            ViewField::Extension(name) => facts.extensions.get(&**name)?.into(),
            ViewField::Metadata(key) => facts.metadata.get(&**key)?.into(),
        })
    }
}
