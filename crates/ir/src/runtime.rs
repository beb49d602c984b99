//! The proxy's configuration at one version: all resources, with the TLS that is built from them.

use std::sync::Arc;

use mizzen_pki::TimeProvider;
use mizzen_types::Name;

use crate::config::{
    Assignment, CertificateSecret, Cluster, Discovery, DownstreamTls, Listener, Names, Roots, RouteConfig, TlsCommon, Transport,
    UpstreamTls, ValidationSecret,
};
use crate::tls::{Secrets, TlsRefusal, TlsTable};

/// What one worker runs by. A stream loads it once and keeps it to its end.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Grows with every published configuration.
    pub generation: u64,
    /// Listeners.
    pub listeners: Names<Listener>,
    /// Route configurations named by listeners (RDS). Inline ones are within their connection manager.
    pub routes: Names<RouteConfig>,
    /// Clusters.
    pub clusters: Names<Cluster>,
    /// Endpoints, by the name that a cluster's [`Discovery::Eds`](crate::config::Discovery::Eds) holds.
    pub assignments: Names<Assignment>,
    /// Certificates with their keys.
    pub certificates: Names<CertificateSecret>,
    /// Roots and further checks of peers' certificates.
    pub validations: Names<ValidationSecret>,
    /// Built TLS configurations; see [`Config::server_tls`] and [`Config::client_tls`].
    pub(crate) tls: TlsTable,
}

impl Config {
    /// A cluster's endpoints, given in place or of their own; none if they are not there, or are wherever a client meant to go.
    pub fn assignment_of<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a Arc<Assignment>> {
        match &cluster.discovery {
            Discovery::Eds { service } => self.assignments.get(service),
            other => other.inline(),
        }
    }

    /// rustls' configuration for a filter chain; none while a secret is missing.
    pub fn server_tls(&self, tls: &DownstreamTls) -> Option<&Arc<rustls::ServerConfig>> {
        self.tls.server(tls)
    }

    /// rustls' configuration for a cluster's transport socket; none while a secret is missing.
    pub fn client_tls(&self, tls: &UpstreamTls) -> Option<&Arc<rustls::ClientConfig>> {
        self.tls.client(tls)
    }

    /// A secret that these options name and that is not there.
    pub fn missing_secret<'a>(&self, tls: &'a TlsCommon) -> Option<&'a Name> {
        let certificate = tls.certificates.iter().map(|c| &c.name).find(|name| !self.certificates.contains_key(*name));
        certificate.or_else(|| match tls.validation.as_ref().map(|v| &v.roots) {
            Some(Roots::Secret(secret)) if !self.validations.contains_key(&secret.name) => Some(&secret.name),
            _ => None,
        })
    }

    /// As [`Config::client_tls`], offering other ALPN protocols. Sessions are shared with it: who is believed is the same.
    pub fn client_tls_with_alpn(&self, tls: &UpstreamTls, alpn: &[Name]) -> Option<Arc<rustls::ClientConfig>> {
        let config = self.client_tls(tls)?;
        if tls.common.alpn.iter().eq(alpn) {
            return Some(config.clone());
        }
        let mut config = rustls::ClientConfig::clone(config);
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        Some(Arc::new(config))
    }

    /// Builds the TLS that listeners and clusters need; what `previous` has built from the same is taken over. What cannot be built is returned.
    pub(crate) fn build_tls(&mut self, previous: &TlsTable, time: &Arc<dyn TimeProvider>) -> Vec<(Name, TlsRefusal)> {
        let secrets = Secrets { certificates: &self.certificates, validations: &self.validations, time };
        let listeners = self.listeners.values().flat_map(|l| l.all_chains().filter_map(|chain| Some((&l.name, chain.tls.as_deref()?))));
        let clusters = self.clusters.values().flat_map(|c| {
            c.transport.all().filter_map(|transport| if let Transport::Tls(tls) = transport { Some((&c.name, &**tls)) } else { None })
        });
        let (tls, problems) = previous.next(listeners, clusters, &secrets);
        self.tls = tls;
        problems
    }
}
