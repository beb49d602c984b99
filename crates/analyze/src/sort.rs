//! The kinds that analysis tells apart.

use std::sync::{Arc, LazyLock};

use mizzen_types::Name;

macro_rules! sorts {
    ($($sort:ident = $group:literal $kind:literal;)*) => {
        /// A kind that rules know by name; all others are [`Sort::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Sort { $($sort,)* Other }

        /// Sorts with group and `kind:`.
        const TABLE: &[(Sort, &str, &str)] = &[$((Sort::$sort, $group, $kind)),*];
    };
}

sorts! {
    Namespace = "" "Namespace";
    Service = "" "Service";
    ServiceAccount = "" "ServiceAccount";
    Pod = "" "Pod";
    Node = "" "Node";
    ConfigMap = "" "ConfigMap";
    Secret = "" "Secret";
    Deployment = "apps" "Deployment";
    StatefulSet = "apps" "StatefulSet";
    DaemonSet = "apps" "DaemonSet";
    ReplicaSet = "apps" "ReplicaSet";
    Job = "batch" "Job";
    CronJob = "batch" "CronJob";
    CustomResourceDefinition = "apiextensions.k8s.io" "CustomResourceDefinition";
    MutatingWebhook = "admissionregistration.k8s.io" "MutatingWebhookConfiguration";
    ValidatingWebhook = "admissionregistration.k8s.io" "ValidatingWebhookConfiguration";
    Ingress = "networking.k8s.io" "Ingress";
    PeerAuthentication = "security.istio.io" "PeerAuthentication";
    AuthorizationPolicy = "security.istio.io" "AuthorizationPolicy";
    RequestAuthentication = "security.istio.io" "RequestAuthentication";
    VirtualService = "networking.istio.io" "VirtualService";
    DestinationRule = "networking.istio.io" "DestinationRule";
    ServiceEntry = "networking.istio.io" "ServiceEntry";
    WorkloadEntry = "networking.istio.io" "WorkloadEntry";
    WorkloadGroup = "networking.istio.io" "WorkloadGroup";
    Gateway = "networking.istio.io" "Gateway";
    Sidecar = "networking.istio.io" "Sidecar";
    EnvoyFilter = "networking.istio.io" "EnvoyFilter";
    ProxyConfig = "networking.istio.io" "ProxyConfig";
    Telemetry = "telemetry.istio.io" "Telemetry";
    WasmPlugin = "extensions.istio.io" "WasmPlugin";
    K8sGateway = "gateway.networking.k8s.io" "Gateway";
    GatewayClass = "gateway.networking.k8s.io" "GatewayClass";
    HttpRoute = "gateway.networking.k8s.io" "HTTPRoute";
    GrpcRoute = "gateway.networking.k8s.io" "GRPCRoute";
    TcpRoute = "gateway.networking.k8s.io" "TCPRoute";
    TlsRoute = "gateway.networking.k8s.io" "TLSRoute";
    MeshConfig = "mizzen" "MeshConfig";
    MeshNetworks = "mizzen" "MeshNetworks";
}

static NAMES: LazyLock<Vec<(Sort, Name, Name)>> =
    LazyLock::new(|| TABLE.iter().map(|(sort, group, kind)| (*sort, Arc::from(*group), Arc::from(*kind))).collect());

impl Sort {
    /// The sort of a document, by its group and `kind:`.
    pub fn of(group: &str, kind: &str) -> Sort {
        TABLE.iter().find(|(_, g, k)| (*g, *k) == (group, kind)).map_or(Sort::Other, |(sort, ..)| *sort)
    }

    /// Group and `kind:`; empty for [`Sort::Other`].
    pub fn names(self) -> (Name, Name) {
        NAMES.iter().find(|(sort, ..)| *sort == self).map_or_else(Default::default, |(_, group, kind)| (group.clone(), kind.clone()))
    }

    /// Whether its objects belong to no namespace.
    pub fn is_of_cluster(self) -> bool {
        use Sort::{CustomResourceDefinition, GatewayClass, MutatingWebhook, Namespace, Node, ValidatingWebhook};
        matches!(self, Namespace | Node | CustomResourceDefinition | MutatingWebhook | ValidatingWebhook | GatewayClass)
    }

    /// Whether pods are made from a template of it.
    pub fn is_controller(self) -> bool {
        use Sort::{CronJob, DaemonSet, Deployment, Job, ReplicaSet, StatefulSet};
        matches!(self, Deployment | StatefulSet | DaemonSet | ReplicaSet | Job | CronJob)
    }
}
