//! Whom CUSTOM policies ask: an extension provider's service among those of the mesh, found as istiod's `LookupCluster` does.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::istio::{Action, AuthorizationPolicy, ExtAuthz, MeshConfig, ProviderKind};
use mizzen_types::{Hostname, Protocol};

use crate::{
    policy::WorkloadPolicies,
    query::Query,
    reader::Reader,
    service::{PortView, Resolve, ServiceView},
    snapshot::Snapshot,
};

/// An authorization service that can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// How.
    pub authz: &'a ExtAuthz,
    /// The service, whether or not it is visible to who asks.
    pub service: &'a Arc<ServiceView>,
    /// Its port.
    pub port: &'a PortView,
}

impl<'a> WorkloadPolicies<'a> {
    /// Those of action CUSTOM.
    pub fn custom(&self) -> impl Iterator<Item = &'a AuthorizationPolicy> {
        self.policies.iter().copied().filter(|policy| policy.action == Action::Custom)
    }
}

impl<'a> Reader<'a> {
    /// Whom a workload's CUSTOM policies ask; `None`: there are no such policies. The error says why nobody can be asked: then what their rules match is to
    /// be refused. As with Istio, a workload has one provider only.
    pub fn asked(&self, policies: &WorkloadPolicies<'a>) -> Option<Result<Asked<'a>, String>> {
        let mut names = policies.custom().map(|policy| policy.provider.as_str());
        let first = names.next()?;
        if let Some(other) = names.find(|other| *other != first) {
            return Some(Err(format!("only one provider can be asked, and these are two: {first}, {other}")));
        }
        let under = |host: &Hostname| services(self.ask(Query::Service(host.clone())), host);
        Some(provider(self.mesh(), first, under))
    }
}

/// The same for one provider, unrecorded.
pub(crate) fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<Asked<'a>, String> {
    provider(snapshot.mesh(), name, |host| services(snapshot, host))
}

/// The other service by which the provider's host and port are meant in a namespace, where the provider cannot be asked for that.
pub(crate) fn other_here<'a>(snapshot: &'a Snapshot, asked: &Asked<'_>, namespace: &str) -> Option<&'a Arc<ServiceView>> {
    let reader = Reader::new(snapshot);
    reader.service_at(&asked.service.host, asked.port.port, namespace).filter(|other| other.key() != asked.service.key())
}

fn services<'a>(snapshot: &'a Snapshot, host: &Hostname) -> Vec<&'a Arc<ServiceView>> {
    snapshot.derived().under_host(host).map(|stored| &stored.value).collect()
}

fn provider<'a>(mesh: &'a MeshConfig, name: &str, under: impl FnOnce(&Hostname) -> Vec<&'a Arc<ServiceView>>) -> Result<Asked<'a>, String> {
    let Some(found) = mesh.extension_providers.iter().find(|provider| provider.name == name) else {
        return Err(format!("MeshConfig has no extension provider `{name}`"));
    };
    let authz = match &found.kind {
        ProviderKind::ExtAuthz(authz) => authz,
        ProviderKind::Other(kind) => return Err(format!("extension provider `{name}` is of kind {kind}, which does not authorize")),
    };
    let ExtAuthz { host, port: number, .. } = &**authz;
    let mut services = under(host);
    services.retain(|service| authz.namespace.as_ref().is_none_or(|namespace| namespace == service.namespace()));
    let namespaces: BTreeSet<&str> = services.iter().map(|service| &**service.namespace()).collect();
    if namespaces.len() > 1 {
        let list: Vec<_> = namespaces.into_iter().collect();
        let list = list.join(", ");
        return Err(format!("provider `{name}`: there is a service {host} in each of {list}: write NAMESPACE/{host}"));
    }
    if services.is_empty() {
        let namespace = authz.namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        return Err(format!("provider `{name}`: there is no service {host}{namespace}"));
    }
    let with_port = services.into_iter().filter_map(|service| {
        let port = service.port(*number).filter(|port| port.protocol != Protocol::Udp)?;
        Some((service, port))
    });
    let Some((service, port)) = with_port.min_by_key(|(service, _)| (service.registry, service.created, service.object.clone())) else {
        return Err(format!("provider `{name}`: service {host} has no port {number}"));
    };
    if service.resolve == Resolve::OriginalDestination && !service.headless {
        return Err(format!("provider `{name}`: service {host} has resolution NONE, and so no endpoint that could be asked"));
    }
    if service.resolve == Resolve::DynamicDns {
        return Err(format!("provider `{name}`: service {host} has resolution DYNAMIC_DNS, and so no endpoint that could be asked"));
    }
    Ok(Asked { authz, service, port })
}
