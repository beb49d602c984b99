//! Which other resources a resource names.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_types::Name;

use super::Resource;
use crate::config::{
    Action, Cluster, ClusterChoice, Discovery, HttpFilter, HttpRoutes, Listener, NetworkFilter, Roots, SecretRef, Terminal, TlsCommon,
    Transport, VirtualHost,
};

/// The names of other resources in a resource: what has to be there, or known to be absent, before it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refs {
    /// Clusters.
    pub clusters: BTreeSet<Name>,
    /// Route configurations.
    pub routes: BTreeSet<Name>,
    /// Endpoints, by the name that they are asked for.
    pub assignments: BTreeSet<Name>,
    /// Secrets.
    pub secrets: BTreeSet<SecretRef>,
}

impl Refs {
    pub(super) fn of(resource: &Resource) -> Refs {
        let mut refs = Refs::default();
        match resource {
            Resource::Listener(l) => refs.listener(l),
            Resource::Route(r) => refs.hosts(&r.hosts),
            Resource::VirtualHost(r) => refs.hosts(std::slice::from_ref(&r.host)),
            Resource::Cluster(c) => refs.cluster(c),
            Resource::Assignment(_) | Resource::Certificate(_) | Resource::Validation(_) => {}
        }
        refs
    }

    fn listener(&mut self, listener: &Listener) {
        for chain in listener.all_chains() {
            if let Some(tls) = &chain.tls {
                self.tls(&tls.common);
            }
            let asked = chain.filters.before.iter().filter_map(|filter| match filter {
                NetworkFilter::ExtAuthz(authz) => Some(authz.cluster().clone()),
                NetworkFilter::Rbac(_) | NetworkFilter::Stats(_) => None,
            });
            self.clusters.extend(asked);
            match &chain.filters.last {
                Terminal::Tcp(proxy) => self.clusters.extend(proxy.clusters.iter().map(|target| target.cluster.clone())),
                Terminal::Http(hcm) => {
                    self.clusters.extend(hcm.filters.iter().flat_map(HttpFilter::clusters).cloned());
                    match &hcm.routes {
                        HttpRoutes::Named(name) => {
                            self.routes.insert(name.clone());
                        }
                        HttpRoutes::Inline(config) => self.hosts(&config.hosts),
                    }
                }
                Terminal::Close => {}
            }
        }
    }

    fn hosts(&mut self, hosts: &[Arc<VirtualHost>]) {
        for route in hosts.iter().flat_map(|h| h.routes.iter()) {
            let Action::Forward(forward) = &route.action else { continue };
            match &forward.cluster {
                ClusterChoice::One(target) => {
                    self.clusters.insert(target.cluster.clone());
                }
                ClusterChoice::Weighted(all) => self.clusters.extend(all.iter().map(|(_, t)| t.cluster.clone())),
                ClusterChoice::Header(..) => {}
            }
        }
    }

    fn cluster(&mut self, cluster: &Cluster) {
        if let Discovery::Eds { service } = &cluster.discovery {
            self.assignments.insert(service.clone());
        }
        for transport in cluster.transport.all() {
            if let Transport::Tls(tls) = transport {
                self.tls(&tls.common);
            }
        }
    }

    fn tls(&mut self, common: &TlsCommon) {
        self.secrets.extend(common.certificates.iter().cloned());
        if let Some(Roots::Secret(secret)) = common.validation.as_ref().map(|v| &v.roots) {
            self.secrets.insert(secret.clone());
        }
    }
}
