//! What one proxy sees of the mesh.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc};

use mizzen_api::istio::{GatewayRef, MeshConfig};
use mizzen_model::{DYNAMIC_HOSTS, PortView, ProxyView, Reader, RouteRules, ServiceView, WorkloadPolicies, by_age};
use mizzen_types::{Hostname, IpRange, Protocol};

/// The domain of Kubernetes services.
pub(crate) const DOMAIN: &str = "cluster.local";

/// A reader together with the proxy for which it reads.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'r, 'a> {
    pub(crate) reader: &'r Reader<'a>,
    pub(crate) view: &'r ProxyView,
}

/// Istio's own filters, which not every proxy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    /// Peer metadata in HTTP headers.
    HttpMetadata,
    /// Peer metadata on TCP connections.
    TcpMetadata,
    /// Istio's metrics of requests.
    HttpStats,
    /// Istio's metrics of connections.
    TcpStats,
    /// ALPN by the request's protocol.
    Alpn,
    /// None of Istio's: clusters of names that are found on demand hold to what their metadata says.
    DynamicHosts,
}

impl Extension {
    /// The filter's name in a configuration, and the names of its factory in a proxy.
    fn names(self) -> &'static [&'static str] {
        match self {
            Extension::HttpMetadata => &["istio.metadata_exchange", "envoy.filters.http.peer_metadata"],
            Extension::TcpMetadata => &["envoy.filters.network.metadata_exchange"],
            Extension::HttpStats => &["istio.stats", "envoy.filters.http.istio_stats"],
            Extension::TcpStats => &["istio.stats", "envoy.filters.network.istio_stats"],
            Extension::Alpn => &["istio.alpn", "envoy.filters.http.alpn"],
            Extension::DynamicHosts => &[DYNAMIC_HOSTS],
        }
    }
}

impl<'r, 'a> Scope<'r, 'a> {
    pub(crate) fn new(reader: &'r Reader<'a>, view: &'r ProxyView) -> Self {
        Scope { reader, view }
    }

    pub(crate) fn mesh(&self) -> &'a Arc<MeshConfig> {
        self.reader.mesh()
    }

    /// Whether the proxy is of a namespace.
    pub(crate) fn is_in(&self, namespace: &str) -> bool {
        self.view.is_in(self.reader, namespace)
    }

    /// Whether the proxy is a source that a condition asks for.
    pub(crate) fn is_source(&self, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        namespace.is_none_or(|namespace| self.is_in(namespace)) && self.view.selected(self.reader, labels)
    }

    /// The policies of the proxy's own workload.
    pub(crate) fn policies(&self) -> WorkloadPolicies<'a> {
        self.view.policies(self.reader)
    }

    /// Whether the proxy has a filter of Istio's: whether it lists it among its extensions. Who lists nothing has none: a proxy refuses what it
    /// does not know, and with it the whole listener.
    pub(crate) fn has(&self, extension: Extension) -> bool {
        self.view.has_extension(self.reader, extension.names())
    }

    /// Of these addresses those of the proxy's families, as Istio chooses them; all of them if none is.
    pub(crate) fn reachable(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        // Nothing is asked where there is nothing to choose: what does not depend on the families is the same for all.
        if addresses.iter().all(IpAddr::is_ipv4) {
            return addresses;
        }
        let families = self.view.families(self.reader);
        let found: Vec<IpAddr> = addresses.iter().copied().filter(|ip| families.has(*ip)).collect();
        if found.is_empty() { addresses } else { found }
    }

    /// Whether the proxy fetches what it uses on first use.
    pub(crate) fn is_on_demand(&self) -> bool {
        self.view.is_on_demand(self.reader)
    }

    /// The virtual addresses that a service has here.
    pub(crate) fn addresses<'s>(&self, service: &'s ServiceView) -> Cow<'s, [IpRange]> {
        self.view.addresses(self.reader, service)
    }

    /// Those of [`Scope::addresses`] that are single addresses.
    pub(crate) fn vips(&self, service: &ServiceView) -> Vec<IpAddr> {
        self.view.vips(self.reader, service)
    }

    /// The service that a host means here.
    pub(crate) fn service(&self, host: &Hostname) -> Option<&'a Arc<ServiceView>> {
        self.view.service(self.reader, host)
    }

    /// The service that a port of a host means here.
    pub(crate) fn service_at(&self, host: &Hostname, port: u16) -> Option<&'a Arc<ServiceView>> {
        self.view.service_at(self.reader, host, port)
    }

    /// The other names of a host that are visible here and that no service has.
    pub(crate) fn aliases_of(&self, host: &Hostname) -> Vec<&'a Hostname> {
        let aliases = self.view.aliases(self.reader).into_iter().map(|alias| &alias.host);
        aliases.filter(|alias| self.reader.meaning(alias) == *host && self.service(alias).is_none()).collect()
    }

    /// The ports of a host, of whichever service: the only one, if there is only one.
    pub(crate) fn only_port(&self, host: &Hostname) -> Option<u16> {
        self.view.only_port(self.reader, host)
    }

    /// All ports that are visible here, each of a host once, by host. UDP is left out.
    pub(crate) fn ports(&self) -> Vec<(&'a Arc<ServiceView>, &'a PortView)> {
        self.view.ports(self.reader)
    }

    /// The ports of [`Scope::ports`], and those to which rules send though they are not among them: there are clusters for all of these.
    pub(crate) fn cluster_ports(&self) -> Vec<(&'a Arc<ServiceView>, &'a PortView)> {
        let mut found = self.ports();
        for service in self.view.routed_to(self.reader) {
            found.extend(service.ports.iter().filter(|port| port.protocol != Protocol::Udp).map(|port| (service, port)));
        }
        found
    }

    /// Those of [`Scope::ports`] that a host has.
    pub(crate) fn ports_of(&self, host: &Hostname) -> Vec<(&'a Arc<ServiceView>, &'a PortView)> {
        self.view.ports_of(self.reader, host)
    }

    /// The visible services that have a port, one for each host, by host.
    pub(crate) fn services_at(&self, port: u16) -> Vec<&'a Arc<ServiceView>> {
        self.view.services_at(self.reader, port)
    }

    /// What routes a sidecar's calls to a host: the most specific host first, of equal ones the oldest. The first with a rule that
    /// concerns the caller counts; the others are absent.
    pub(crate) fn mesh_rules(&self, host: &Hostname) -> impl Iterator<Item = RouteRules<'a>> {
        self.view.routes(self.reader, host).into_iter().filter(|routes| routes.parents.contains(&GatewayRef::Mesh))
    }

    /// What routes a sidecar's TLS to names that a host covers, which are no services' own, the oldest first. What routes the host itself is not among it.
    pub(crate) fn tls_rules_within(&self, host: &Hostname) -> Vec<RouteRules<'a>> {
        let within = |rules: &RouteRules<'a>| {
            let mut hosts = rules.hosts.iter().map(|own| self.qualify(own, &rules.meta.namespace));
            hosts.any(|own| host.covers(&own)) && !rules.hosts.iter().any(|own| own.covers(host))
        };
        let of_mesh = self.reader.tls_routes().filter(|rules| rules.parents.contains(&GatewayRef::Mesh));
        let mut found: Vec<_> = of_mesh.filter(|rules| within(rules) && self.view.sees(self.reader, *rules)).collect();
        found.sort_by(|a, b| by_age(a.meta, b.meta));
        found
    }

    /// A destination as written by an object of `namespace`, completed.
    pub(crate) fn qualify(&self, host: &Hostname, namespace: &str) -> Hostname {
        host.qualify(namespace, DOMAIN)
    }
}
