//! What all kinds have in common: kind, name, metadata.

use std::{collections::BTreeMap, fmt, sync::Arc};

use mizzen_types::NamespacedName;

use crate::{
    LabelSet, Pos, Source, core, istio,
    kind::{APPS, CORE, DISCOVERY, NETWORKING, NETWORKING_BETA, NONE, Row, SECURITY},
};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($ty:ty) = $row:expr;)*) => {
        /// The kinds of object that the mesh knows: each is one name of one group.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $kind),* }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            pub(crate) fn row(self) -> &'static Row {
                match self { $(Kind::$kind => const { &$row }),* }
            }
        }

        /// An object of any kind. `==` compares content and leaves positions out.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $($(#[$doc])* $kind($ty)),* }

        impl Object {
            /// The kind.
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind),* }
            }

            /// Name, labels, origin.
            pub fn meta(&self) -> &Meta {
                match self { $(Object::$kind(object) => &object.meta),* }
            }

            /// As [`Object::meta`], to be changed.
            pub fn meta_mut(&mut self) -> &mut Meta {
                match self { $(Object::$kind(object) => &mut object.meta),* }
            }
        }

        $(impl From<$ty> for Object {
            fn from(object: $ty) -> Object {
                Object::$kind(object)
            }
        })*
    };
}

// The one table of kinds: type, group with its versions, `kind:`, plural, short names.
kinds! {
    /// A Kubernetes namespace.
    Namespace(core::Namespace) = Row::new(&CORE, "Namespace", "namespaces", &["ns"]).of_cluster();
    /// A Kubernetes service.
    Service(core::Service) = Row::new(&CORE, "Service", "services", &["svc"]);
    /// A Kubernetes service account.
    ServiceAccount(core::ServiceAccount) = Row::new(&CORE, "ServiceAccount", "serviceaccounts", &["sa"]);
    /// A Kubernetes deployment.
    Deployment(core::Deployment) = Row::new(&APPS, "Deployment", "deployments", &["deploy"]);
    /// A Kubernetes pod.
    Pod(core::Pod) = Row::new(&CORE, "Pod", "pods", &["po"]);
    /// Endpoints of a Kubernetes service.
    EndpointSlice(core::EndpointSlice) = Row::new(&DISCOVERY, "EndpointSlice", "endpointslices", &[]);
    /// A Kubernetes config map.
    ConfigMap(core::ConfigMap) = Row::new(&CORE, "ConfigMap", "configmaps", &["cm"]);
    /// A Kubernetes secret.
    Secret(core::Secret) = Row::new(&CORE, "Secret", "secrets", &[]);
    /// Who must speak mutual TLS to a workload.
    PeerAuthentication(istio::PeerAuthentication) = Row::new(&SECURITY, "PeerAuthentication", "peerauthentications", &["pa"]);
    /// Who may call a workload.
    AuthorizationPolicy(istio::AuthorizationPolicy) = Row::new(&SECURITY, "AuthorizationPolicy", "authorizationpolicies", &["ap"]);
    /// Whose tokens requests to a workload may bear.
    RequestAuthentication(istio::RequestAuthentication) = Row::new(&SECURITY, "RequestAuthentication", "requestauthentications", &["ra"]);
    /// How requests to hosts are routed.
    VirtualService(istio::VirtualService) = Row::new(&NETWORKING, "VirtualService", "virtualservices", &["vs"]);
    /// How connections to a host are made.
    DestinationRule(istio::DestinationRule) = Row::new(&NETWORKING, "DestinationRule", "destinationrules", &["dr"]);
    /// A service that Kubernetes does not know.
    ServiceEntry(istio::ServiceEntry) = Row::new(&NETWORKING, "ServiceEntry", "serviceentries", &["se"]);
    /// The ports of a gateway: Istio's kind, not the Gateway API's.
    Gateway(istio::Gateway) = Row::new(&NETWORKING, "Gateway", "gateways", &["gw"]);
    /// What workloads see of the mesh.
    Sidecar(istio::Sidecar) = Row::new(&NETWORKING, "Sidecar", "sidecars", &[]);
    /// Settings of the proxies of workloads.
    ProxyConfig(istio::WorkloadProxyConfig) = Row::new(&NETWORKING_BETA, "ProxyConfig", "proxyconfigs", &[]);
    /// The mesh's own settings: a file, or key `mesh` of ConfigMap `istio-system/istio`. Boxed, since it is twice as large as any other and there is one.
    MeshConfig(Box<istio::MeshConfig>) = Row::new(&NONE, "MeshConfig", "meshconfigs", &[]);
    /// Keys of an issuer of tokens, as the control plane has fetched them; never a document.
    IssuerKeys(istio::IssuerKeys) = Row::new(&NONE, "IssuerKeys", "issuerkeysets", &[]);
}

impl From<istio::MeshConfig> for Object {
    fn from(config: istio::MeshConfig) -> Object {
        Box::new(config).into()
    }
}

/// What identifies an object; displayed as `Kind namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for a [`Kind::Namespace`].
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// From its parts.
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Key {
        Key { kind, namespace: namespace.into(), name: name.into() }
    }

    /// Without the kind.
    pub fn namespaced_name(&self) -> NamespacedName {
        NamespacedName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Object {
    /// What identifies it.
    pub fn key(&self) -> Key {
        let meta = self.meta();
        Key { kind: self.kind(), namespace: meta.namespace.clone(), name: meta.name.clone() }
    }
}

/// An object's metadata. `==` leaves `origin` and `source` out, so that a line inserted above an object does not make it another.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// `apiVersion` as written.
    pub api_version: Arc<str>,
    /// The namespace, `default` if none was written; empty for a [`Kind::Namespace`].
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The annotations.
    pub annotations: BTreeMap<String, String>,
    /// `creationTimestamp` in seconds since 1970; 0 if none was written. The oldest wins where Istio says so; equal ages by namespace and name.
    pub created: i64,
    /// Where the object starts; line 0 if it comes from no file.
    pub origin: Pos,
    /// The object as it was written, of which the position of each of its fields can be told; empty if it comes from no file.
    pub source: Source,
}

impl Meta {
    /// The name with its namespace.
    pub fn namespaced_name(&self) -> NamespacedName {
        NamespacedName { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Where the field with this path stands (`spec.http[0].timeout`), or the nearest field above it that is written. What comes from no file stands
    /// nowhere.
    pub fn position(&self, path: &str) -> Pos {
        if self.origin.line == 0 {
            return self.origin.clone();
        }
        let (line, column) = self.source.position(path);
        Pos { file: self.origin.file.clone(), line, column }
    }
}

impl PartialEq for Meta {
    fn eq(&self, other: &Meta) -> bool {
        self.namespace == other.namespace
            && self.name == other.name
            && self.api_version == other.api_version
            && self.labels == other.labels
            && self.annotations == other.annotations
            && self.created == other.created
    }
}

/// Which workloads of a namespace: those that carry all these labels. No labels select all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether a workload with these labels is meant.
    pub fn matches(&self, labels: &impl LabelSet) -> bool {
        self.labels.iter().all(|(key, value)| labels.label(key) == Some(value.as_str()))
    }

    /// Whether it names no label, and so selects all.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Problem;

    #[test]
    fn what_comes_from_no_file_stands_nowhere() {
        let meta = Meta { name: "r".into(), namespace: "shop".into(), ..Meta::default() };
        assert_eq!(meta.position("spec.http[0]"), Pos::default());
        let object = Some(Key::new(Kind::VirtualService, "shop", "r"));
        let problem = Problem { pos: meta.position("spec.hosts"), object, field: "spec.hosts".to_owned(), message: "is wrong".to_owned() };
        assert_eq!(problem.to_string(), "VirtualService shop/r: spec.hosts: is wrong");
        // No tree is held for it, nor for what comes from a file: that holds its text, from which a tree is made when somebody asks.
        assert!(size_of::<Source>() <= 32 && size_of::<Pos>() <= 24);
    }
}
