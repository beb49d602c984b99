//! What one proxy sees of the mesh.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::istio::{GatewayRef, MeshConfig, VirtualService};
use mizzen_model::{ProxyView, Reader, ServiceView};
use mizzen_types::{Hostname, Name};

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

    /// Whether the proxy has a filter of Istio's: by its list of extensions. An Envoy always has one; who has none, but says that it follows a version
    /// of Istio, is a proxy of Istio's own kind.
    pub(crate) fn has(&self, extension: Extension) -> bool {
        if self.view.lists_extensions(self.reader) {
            return extension.names().iter().any(|name| self.view.has_extension(self.reader, name));
        }
        self.view.metadata(self.reader, "ISTIO_VERSION").is_some()
    }

    /// The service that a host means here.
    pub(crate) fn service(&self, host: &Hostname) -> Option<&'a Arc<ServiceView>> {
        self.reader.service(host, self.namespace())
    }

    /// All services that are visible here, one for each host, by host.
    pub(crate) fn services(&self) -> Vec<&'a Arc<ServiceView>> {
        self.one_each(self.reader.services())
    }

    /// The visible services that have a port, one for each host, by host.
    pub(crate) fn services_at(&self, port: u16) -> Vec<&'a Arc<ServiceView>> {
        let found = self.one_each(self.reader.services_at(port));
        found.into_iter().filter(|service| service.port(port).is_some()).collect()
    }

    fn one_each(&self, services: impl Iterator<Item = &'a Arc<ServiceView>>) -> Vec<&'a Arc<ServiceView>> {
        let mut seen = BTreeSet::new();
        services.filter(|service| seen.insert(&service.host)).filter_map(|service| self.service(&service.host)).collect()
    }

    /// The VirtualService that routes a sidecar's calls to a host: of the most specific host, the oldest.
    pub(crate) fn mesh_routes(&self, host: &Hostname) -> Option<&'a VirtualService> {
        let found = self.reader.virtual_services(host, self.namespace());
        found.into_iter().map(|(_, service)| service).find(|service| service.gateways.contains(&GatewayRef::Mesh))
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
