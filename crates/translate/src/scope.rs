//! What one proxy sees of the mesh.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::istio::{GatewayRef, MeshConfig, VirtualService};
use mizzen_model::{PortView, ProxyView, Reader, ServiceView, WorkloadPolicies};
use mizzen_types::{Hostname, Name, Protocol};

use crate::names;

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

    pub(crate) fn namespace(&self) -> &'r Name {
        self.view.namespace(self.reader)
    }

    /// The policies of the proxy's own workload.
    pub(crate) fn policies(&self) -> WorkloadPolicies<'a> {
        self.reader.policies(self.namespace(), |selector| self.view.selected(self.reader, &selector.labels))
    }

    /// Whether the proxy has a filter of Istio's: whether it lists it among its extensions. Who lists nothing has none: a proxy refuses what it
    /// does not know, and with it the whole listener.
    pub(crate) fn has(&self, extension: Extension) -> bool {
        extension.names().iter().any(|name| self.view.has_extension(self.reader, name))
    }

    /// The service that a host means here.
    pub(crate) fn service(&self, host: &Hostname) -> Option<&'a Arc<ServiceView>> {
        self.reader.service(host, self.namespace())
    }

    /// The service that a port of a host means here.
    pub(crate) fn service_at(&self, host: &Hostname, port: u16) -> Option<&'a Arc<ServiceView>> {
        self.reader.service_at(host, port, self.namespace())
    }

    /// The ports of a host, of whichever service: the only one, if there is only one.
    pub(crate) fn only_port(&self, host: &Hostname) -> Option<u16> {
        let mut ports = self.reader.services_under(host, self.namespace()).flat_map(|service| service.ports.iter().map(|port| port.port));
        let first = ports.next()?;
        ports.all(|port| port == first).then_some(first)
    }

    /// All ports that are visible here, each of a host once, by host. UDP is left out.
    pub(crate) fn ports(&self) -> Vec<(&'a Arc<ServiceView>, &'a PortView)> {
        let all = self.reader.services().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let tcp = all.filter(|(_, port)| port.protocol != Protocol::Udp);
        tcp.filter(|(service, port)| self.service_at(&service.host, port.port).is_some_and(|owner| Arc::ptr_eq(owner, service))).collect()
    }

    /// The visible services that have a port, one for each host, by host.
    pub(crate) fn services_at(&self, port: u16) -> Vec<&'a Arc<ServiceView>> {
        let mut seen = BTreeSet::new();
        let services = self.reader.services_at(port).filter(|service| seen.insert(&service.host));
        services.filter_map(|service| self.service_at(&service.host, port)).collect()
    }

    /// The VirtualServices that route a sidecar's calls to a host: the most specific host first, of equal ones the oldest. The first with a rule that
    /// concerns the caller counts; the others are absent.
    pub(crate) fn mesh_rules(&self, host: &Hostname) -> impl Iterator<Item = &'a VirtualService> {
        let found = self.reader.virtual_services(host, self.namespace());
        found.into_iter().map(|(_, service)| service).filter(|service| service.gateways.contains(&GatewayRef::Mesh))
    }

    /// Where calls to unknown destinations go.
    pub(crate) fn unknown_cluster(&self) -> &'static str {
        match self.mesh().outbound_traffic_policy {
            mizzen_api::istio::OutboundTrafficPolicy::AllowAny => names::PASSTHROUGH,
            mizzen_api::istio::OutboundTrafficPolicy::RegistryOnly => names::BLACK_HOLE,
        }
    }

    /// A destination as written by an object of `namespace`, completed.
    pub(crate) fn qualify(&self, host: &Hostname, namespace: &str) -> Hostname {
        host.qualify(namespace, DOMAIN)
    }
}
