//! The proxy's configuration at one version: all resources, with the TLS that is built from them.

use std::borrow::Cow;
use std::sync::Arc;

use mizzen_pki::TimeProvider;
use mizzen_types::Name;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use crate::changes::Changes;
use crate::config::{
    Assignment, CertificateSecret, Cluster, Discovery, DownstreamTls, Listener, MeshIndex, Names, OwnHost, Roots, RouteConfig, TlsCommon,
    UpstreamTls, ValidationSecret,
};
use crate::index::Index;
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
    pub(crate) index: Index,
    /// The index of the mesh, where virtual hosts and listeners are asked for on demand; see [`Config::mesh`].
    pub(crate) mesh: Option<Arc<MeshIndex>>,
    /// Open route configurations without the virtual hosts that come on their own.
    pub(crate) heads: Names<RouteConfig>,
    /// Virtual hosts that came on their own, by route configuration and host.
    pub(crate) own_hosts: HashTrieMapSync<Name, Table>,
    /// Which one it is: another one for each that a draft makes.
    id: Arc<()>,
    /// The one that it was made of, and what it changed; none if that is so much that looking at all of it costs no more.
    made_of: Option<(Arc<()>, Arc<Changes>)>,
}

/// Virtual hosts that came on their own for one route configuration, by host.
pub(crate) type Table = RedBlackTreeMapSync<Name, Arc<OwnHost>>;

/// One in so many resources may have changed for the names to be kept.
const MUCH: usize = 4;
/// So many are always kept.
const FEW: usize = 64;

impl Config {
    /// A cluster's endpoints, given in place or of their own; none if they are not there, or are wherever a client meant to go.
    pub fn assignment_of<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a Arc<Assignment>> {
        match &cluster.discovery {
            Discovery::Eds { service } => self.assignments.get(service),
            other => other.inline(),
        }
    }

    /// What there is to be asked for; none: all that there is was told without being asked for.
    pub fn mesh(&self) -> Option<&MeshIndex> {
        self.mesh.as_deref()
    }

    /// A virtual host that came on its own, by its name as a resource.
    pub fn own_host(&self, name: &str) -> Option<&Arc<OwnHost>> {
        let (table, host) = name.split_once('/')?;
        self.own_hosts.get(table)?.get(host)
    }

    /// How many virtual hosts came on their own.
    pub fn own_hosts(&self) -> usize {
        self.own_hosts.values().map(Table::size).sum()
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

    /// What this configuration changed in `before`: known if it was made of that, else found by looking at all of both.
    pub fn changes_since(&self, before: &Config) -> Cow<'_, Changes> {
        match &self.made_of {
            _ if Arc::ptr_eq(&self.id, &before.id) => Cow::Owned(Changes::default()),
            Some((of, changes)) if Arc::ptr_eq(of, &before.id) => Cow::Borrowed(changes),
            _ => Cow::Owned(Changes::between(before, self)),
        }
    }

    /// The clusters that have this host resolved.
    pub fn clusters_of_host(&self, host: &str) -> impl Iterator<Item = &Arc<Cluster>> {
        self.index.of_host(host).filter_map(|name| self.clusters.get(name))
    }

    /// How many resources there are.
    fn len(&self) -> usize {
        let secrets = self.certificates.size() + self.validations.size();
        self.listeners.size() + self.routes.size() + self.clusters.size() + self.assignments.size() + secrets
    }

    /// Becomes another one, made of `before` by these changes.
    pub(crate) fn made_of(mut self, before: &Config, changes: Changes) -> Config {
        let few = changes.len() <= FEW.max(self.len() / MUCH);
        self.id = Arc::new(());
        self.made_of = few.then(|| (before.id.clone(), Arc::new(changes)));
        self
    }

    /// Builds the TLS that what has changed needs. Clusters that get another one are reached by the change.
    pub(crate) fn build_tls(&mut self, before: &Config, changes: &mut Changes, time: &Arc<dyn TimeProvider>) {
        let secrets = Secrets { certificates: &self.certificates, validations: &self.validations, time };
        for name in &changes.listeners {
            self.tls.replace_listener(before.listeners.get(name).map(|l| &**l), self.listeners.get(name).map(|l| &**l));
        }
        for name in &changes.clusters {
            self.tls.replace_cluster(before.clusters.get(name).map(|c| &**c), self.clusters.get(name).map(|c| &**c));
        }
        let rebuilt = self.tls.build(&changes.secrets, &secrets);
        changes.reached.extend(rebuilt);
    }

    /// What of TLS could not be built: the listener or cluster, and why.
    pub(crate) fn unfit(&self) -> Vec<(Name, TlsRefusal)> {
        self.tls.unfit()
    }
}
