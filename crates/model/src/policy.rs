//! Which PeerAuthentications and AuthorizationPolicies bear on a workload.

use std::collections::BTreeMap;

use mizzen_api::{
    Key, Kind, Selector,
    istio::{AuthorizationPolicy, MtlsMode, PeerAuthentication},
};

use crate::{
    objects::{Closed, Typed},
    query::Query,
    reader::Reader,
    rules::by_age,
};

/// The effective mode of mutual TLS of a workload; never `Unset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerModes {
    /// For ports that nothing else is said of.
    pub workload: MtlsMode,
    /// For single ports of the workload.
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl PeerModes {
    /// The mode of a port of the workload.
    pub fn port(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.workload)
    }
}

/// The policies that the modes of a workload come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSources {
    /// For ports that nothing else is said of; `None`: no policy says anything.
    pub workload: Option<Key>,
    /// For single ports of the workload.
    pub ports: BTreeMap<u16, Key>,
}

impl PeerSources {
    /// The policy that says the mode of a port of the workload.
    pub fn port(&self, port: u16) -> Option<&Key> {
        self.ports.get(&port).or(self.workload.as_ref())
    }
}

/// The AuthorizationPolicies of a workload: those of the root namespace first, then by name.
#[derive(Clone, Debug, Default)]
pub struct WorkloadPolicies<'a> {
    /// Those that could be read.
    pub policies: Vec<&'a AuthorizationPolicy>,
    /// Those that were refused, RequestAuthentications too: each denies all, the latter all requests.
    pub closed: Vec<&'a Closed>,
}

impl<'a> Reader<'a> {
    /// The effective mode of a workload of `namespace`; `selected` says whether a selector means it.
    ///
    /// Workload before namespace before mesh, the oldest in each scope; `Unset` inherits; the end is PERMISSIVE. A policy of the root namespace
    /// that has a selector bears on nobody outside of it: what Istio's code does, against its text. A refused one counts as STRICT in its scope.
    pub fn peer_modes(&self, namespace: &str, selected: impl Fn(&Selector) -> bool) -> PeerModes {
        self.peer_sources(namespace, selected).0
    }

    /// The same, with the policies that say so.
    pub fn peer_sources(&self, namespace: &str, selected: impl Fn(&Selector) -> bool) -> (PeerModes, PeerSources) {
        let root = self.mesh().root_namespace.as_str();
        let (mut mode, mut source) = (MtlsMode::Permissive, None);
        // The scope's policy, unless a refused one closes it.
        let mut inherit = |scope: &str, fits: &dyn Fn(Option<&Selector>) -> bool| {
            let closed = self.closed(scope);
            if let Some(closed) = closed.iter().find(|c| c.key.kind == Kind::PeerAuthentication && fits(c.selector.as_ref())) {
                (mode, source) = (MtlsMode::Strict, Some(closed.key.clone()));
                return None;
            }
            let policy = self.oldest::<PeerAuthentication>(scope, |p| fits(p.selector.as_ref()))?;
            if policy.mtls != MtlsMode::Unset {
                (mode, source) = (policy.mtls, Some(key(policy)));
            }
            Some(policy)
        };
        let wide = |selector: Option<&Selector>| selector.is_none_or(Selector::is_empty);
        inherit(root, &wide);
        let (mut ports, mut by_port) = (BTreeMap::new(), BTreeMap::new());
        if namespace != root {
            inherit(namespace, &wide);
            if let Some(own) = inherit(namespace, &|selector| selector.is_some_and(|s| !s.is_empty() && selected(s))) {
                ports = own.port_level_mtls.iter().map(|(&port, &m)| (port, if m == MtlsMode::Unset { mode } else { m })).collect();
                let said = own.port_level_mtls.iter().filter(|(_, mode)| **mode != MtlsMode::Unset);
                by_port = said.map(|(&port, _)| (port, key(own))).collect();
            }
        }
        (PeerModes { workload: mode, ports }, PeerSources { workload: source, ports: by_port })
    }

    /// Whether some workload of a namespace may take plain text alone. What else is asked about modes is asked only then: most changes of a mode
    /// concern no caller.
    pub fn may_be_plain(&self, namespace: &str) -> bool {
        let says = |namespace: &str| self.ask(Query::Plain(namespace.into())).all().has_plain(namespace);
        says(namespace) || says(&self.mesh().root_namespace)
    }

    /// The policies of a workload of `namespace`; `selected` says whether a selector means it, `gateway` which Gateway it is a proxy of. A policy for
    /// Gateways bears on those of its own namespace and on nobody else.
    pub fn policies(&self, namespace: &str, gateway: Option<&str>, selected: impl Fn(&Selector) -> bool) -> WorkloadPolicies<'a> {
        let root = self.mesh().root_namespace.as_str();
        let mut found = WorkloadPolicies::default();
        let scopes = if namespace == root { vec![root] } else { vec![root, namespace] };
        for scope in scopes {
            let bears = |selector: &Option<Selector>| selector.as_ref().is_none_or(&selected);
            let means = |policy: &AuthorizationPolicy| match &*policy.gateways {
                [] => bears(&policy.selector),
                named => scope == namespace && gateway.is_some_and(|own| named.iter().any(|name| name == own)),
            };
            found.policies.extend(self.in_namespace::<AuthorizationPolicy>(scope).filter(|policy| means(policy)));
            let closed =
                self.closed(scope).into_iter().filter(|c| matches!(c.key.kind, Kind::AuthorizationPolicy | Kind::RequestAuthentication));
            found.closed.extend(closed.filter(|c| bears(&c.selector)));
        }
        found
    }

    fn oldest<T: Typed + Metadata + 'static>(&self, namespace: &str, fits: impl Fn(&T) -> bool) -> Option<&'a T> {
        self.in_namespace::<T>(namespace).filter(|object| fits(object)).min_by(|a, b| by_age(a.meta(), b.meta()))
    }
}

fn key(policy: &PeerAuthentication) -> Key {
    Key::new(Kind::PeerAuthentication, policy.meta.namespace.clone(), policy.meta.name.clone())
}

/// A type whose metadata can be had.
pub(crate) trait Metadata {
    fn meta(&self) -> &mizzen_api::Meta;
}

impl Metadata for PeerAuthentication {
    fn meta(&self) -> &mizzen_api::Meta {
        &self.meta
    }
}
