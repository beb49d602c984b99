//! Istio's values, as far as an installation takes them: what may stand where, what holds if nothing does, and what it is for.
//!
//! One table leads `mizzen install`, which judges by it what is said, and the charts, whose `values.yaml` and `values.schema.json` are made of it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    Text,
    /// A text that may look like a number.
    Word,
    Flag,
    /// A whole number that is not negative.
    Count,
    /// A number of pods, or a share of them, as `25%`.
    Share,
    /// A map, whose contents Kubernetes or somebody else judges.
    Map,
    /// A map of texts, numbers and flags.
    Words,
    List,
    /// A list of volumes: the name of each, its source, which stands in this field, and where it is mounted.
    Mounts(&'static str),
    /// One of these, as JSON. What Istio has beside them is not supported.
    Only(&'static [&'static str]),
}

/// A value: its path, what it may be, its default as JSON (empty: none), and what it is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) path: &'static str,
    pub(super) shape: Shape,
    default: &'static str,
    pub(super) about: &'static str,
}

const fn row(path: &'static str, shape: Shape, default: &'static str, about: &'static str) -> Row {
    Row { path, shape, default, about }
}

/// A value of which only what does nothing is taken.
const fn only(path: &'static str, allowed: &'static [&'static str]) -> Row {
    Row { path, shape: Only(allowed), default: "", about: "" }
}

impl Row {
    /// What holds if nothing is said.
    pub(super) fn default(&self) -> Option<Value> {
        match self.default {
            "" => None,
            "VERSION" => Some(json!(env!("CARGO_PKG_VERSION"))),
            text => serde_json::from_str(text).ok(),
        }
    }
}

use Shape::{Count, Flag, List, Mounts, Only, Share, Text, Word, Words};

const OFF: &[&str] = &["false"];
const EMPTY: &[&str] = &[r#""""#];
pub(super) const EVICTION: Shape = Only(&[r#""IfHealthyBudget""#, r#""AlwaysAllow""#]);
const BUDGET: &str = "how many pods stay while nodes are drained: 1 where nothing is said";

/// What every chart takes.
pub(super) const GLOBAL: &[Row] = &[
    row("global.hub", Text, r#""mizzen""#, "where the images are"),
    row("global.tag", Word, "VERSION", "their tag"),
    row(
        "global.istioNamespace",
        Only(&[r#""istio-system""#]),
        r#""istio-system""#,
        "the control plane's namespace, which is always this one",
    ),
    row("global.imagePullPolicy", Only(&[r#""""#, r#""Always""#, r#""IfNotPresent""#, r#""Never""#]), "", "of all images"),
    row("global.imagePullSecrets", List, "", "names of Secrets by which images are pulled"),
    row("global.priorityClassName", Text, "", "of the control plane and of gateways; for both the class must be there"),
    row(
        "global.networkPolicy.enabled",
        Flag,
        "false",
        "NetworkPolicies that leave open the ports of the mesh's own components, and no others",
    ),
    row("global.defaultPodDisruptionBudget.enabled", Flag, "true", "PodDisruptionBudgets for the mesh's own components"),
    row(
        "global.jwtPolicy",
        Only(&[r#""third-party-jwt""#, r#""first-party-jwt""#]),
        "",
        "which tokens proxies show: first-party-jwt where a cluster issues no others",
    ),
    row("global.meshID", Text, "", "a name of the mesh, for metrics"),
    row("global.network", Text, "", "the network of the proxies"),
    row("global.caAddress", Text, "", "where proxies have their certificates signed, if not at the control plane"),
    row("global.multiCluster.clusterName", Text, "", "the cluster's name"),
    row("global.logging.level", Text, "", "what the agents of proxies log, as default:info"),
    row("global.proxy.image", Text, "", "the proxy's image: a name below hub, or a whole one"),
    row("global.proxy.resources", Shape::Map, "", "requests and limits of sidecars"),
    row("global.proxy.logLevel", Text, "", "what proxies log"),
    row("global.proxy.componentLogLevel", Text, "", "what parts of an Envoy log"),
    row("global.proxy.autoInject", Only(&[r#""enabled""#, r#""disabled""#]), "", "whether namespaces that ask for proxies get them"),
    row("global.proxy.clusterDomain", Text, "", "the domain of the cluster's names"),
    row("global.proxy.includeIPRanges", Text, "", "addresses to which connections are captured"),
    row("global.proxy.excludeIPRanges", Text, "", "addresses to which they are not"),
    row("global.proxy.includeInboundPorts", Word, "", "ports on which connections are captured"),
    row("global.proxy.excludeInboundPorts", Word, "", "ports on which they are not"),
    row("global.proxy.includeOutboundPorts", Word, "", "ports to which connections are captured, whatever their address"),
    row("global.proxy.excludeOutboundPorts", Word, "", "ports to which they are not"),
    row("global.proxy.readinessInitialDelaySeconds", Count, "", "of the proxy's readiness probe"),
    row("global.proxy.readinessPeriodSeconds", Count, "", "of the proxy's readiness probe"),
    row("global.proxy.readinessFailureThreshold", Count, "", "of the proxy's readiness probe"),
    row("global.proxy.startupProbe.enabled", Flag, "", "whether proxies have a startup probe"),
    row("global.proxy.startupProbe.failureThreshold", Count, "", "how often it may fail, a second each"),
    row("global.proxy.lifecycle", Shape::Map, "", "hooks of the proxy's container"),
    row("global.proxy.holdApplicationUntilProxyStarts", Flag, "", "programs start when their proxy is ready"),
    row("global.proxy.seccompProfile", Shape::Map, "", "of the proxy's container"),
    row("global.proxy.statusPort", Count, "", "where the agent answers probes"),
    row("global.dualStack", Flag, "", "both families of addresses; whatever is said, what pods have of them is captured and served"),
    row("global.ipFamilies", FAMILIES, "", "the families of the mesh's own Services, where they are not said for one of them"),
    row("global.ipFamilyPolicy", POLICY, "", "whether these Services have one of them or both"),
    row("global.proxy_init.image", Text, "", "the image of istio-init"),
    row("global.proxy_init.resources", Shape::Map, "", "requests and limits of istio-init"),
    only("global.autoscalingv2API", &["true"]),
    only("global.caName", &[r#""""#, r#""Istiod""#]),
    only("global.certSigners", &["[]"]),
    only("global.configCluster", OFF),
    only("global.configValidation", &["true"]),
    only("global.externalIstiod", OFF),
    only("global.logAsJson", OFF),
    only("global.meshNetworks", &["{}"]),
    only("global.mountMtlsCerts", OFF),
    only("global.multiCluster.enabled", OFF),
    only("global.omitSidecarInjectorConfigMap", OFF),
    only("global.oneNamespace", OFF),
    only("global.operatorManageWebhooks", OFF),
    only("global.pilotCertProvider", &[r#""istiod""#]),
    only("global.platform", EMPTY),
    only("global.proxy.enableCoreDump", OFF),
    only("global.proxy.outlierLogPath", EMPTY),
    only("global.proxy.privileged", OFF),
    only("global.remotePilotAddress", EMPTY),
    only("global.trustBundleName", &[r#""istio-ca-root-cert""#]),
    only("global.variant", EMPTY),
];

/// What says which of several control planes is meant: there is one.
pub(super) const REVISION: &[Row] = &[only("revision", &[r#""""#, r#""default""#])];

/// Which profile the control plane's chart has. A gateway is a chart of its own, so that `minimal` is as `default`.
pub(super) const PROFILE: &[Row] = &[row(
    "profile",
    Only(&[r#""default""#, r#""secure""#, r#""minimal""#]),
    r#""default""#,
    "secure closes the mesh: STRICT mutual TLS, and nobody may call anybody until a policy allows it",
)];

/// What chart `base` takes beside it.
pub(super) const BASE: &[Row] = &[
    row("base.excludedCRDs", List, "", "names of CustomResourceDefinitions that somebody else installs"),
    only("defaultRevision", &[r#""""#, r#""default""#]),
];

/// What the control plane's chart takes beside it.
pub(super) const ISTIOD: &[Row] = &[
    row("pilot.replicaCount", Count, "1", "how many control planes, where none are scaled"),
    row("pilot.autoscaleEnabled", Flag, "false", "scaled by load; unlike with Istio only if it is said"),
    row("pilot.autoscaleMin", Count, "1", "how many at least"),
    row("pilot.autoscaleMax", Count, "5", "how many at most"),
    row("pilot.cpu.targetAverageUtilization", Count, "80", "how much of the CPU that they request is used, in percent"),
    row("pilot.memory.targetAverageUtilization", Count, "", "the same of memory"),
    row("pilot.autoscaleBehavior", Shape::Map, "", "how fast they are scaled"),
    row("pilot.rollingMaxSurge", Share, r#""100%""#, "how many more may run while they are replaced"),
    row("pilot.rollingMaxUnavailable", Share, "0", "how many may be missing meanwhile"),
    row("pilot.hub", Text, "", "where its image is, if not at global.hub"),
    row("pilot.tag", Word, "", "its tag, if not global.tag"),
    row("pilot.image", Text, r#""pilot""#, "its image: a name below hub, or a whole one"),
    row("pilot.resources", Shape::Map, r#"{"requests":{"cpu":"100m","memory":"128Mi"}}"#, "requests and limits"),
    row("pilot.env", Words, "", "more variables of its environment"),
    row("pilot.envVarFrom", List, "", "variables, as Kubernetes writes them"),
    row("pilot.extraContainerArgs", List, "", "more arguments"),
    row("pilot.volumes", List, "", "more volumes"),
    row("pilot.volumeMounts", List, "", "where they are mounted"),
    row("pilot.podAnnotations", Words, "", "more annotations of its pods"),
    row("pilot.podLabels", Words, "", "more labels of its pods"),
    row("pilot.deploymentAnnotations", Words, "", "annotations of its Deployment"),
    row("pilot.deploymentLabels", Words, "", "more labels of its Deployment"),
    row("pilot.serviceAnnotations", Words, "", "annotations of its Service"),
    row("pilot.seccompProfile", Shape::Map, r#"{"type":"RuntimeDefault"}"#, "of its pods"),
    row("pilot.nodeSelector", Words, "", "on which nodes it runs"),
    row("pilot.tolerations", List, "", "which taints it tolerates"),
    row("pilot.affinity", Shape::Map, "", "beside what it runs"),
    row("pilot.topologySpreadConstraints", List, "", "how its pods are spread"),
    row("pilot.pdb.minAvailable", Share, "", BUDGET),
    row("pilot.pdb.maxUnavailable", Share, "", "the other way round"),
    row("pilot.pdb.unhealthyPodEvictionPolicy", EVICTION, "", "whether pods that are not ready are counted"),
    row(
        "pilot.cni.enabled",
        Flag,
        "false",
        "pods leave their capture to the plugin of their node (chart cni), and have no container with NET_ADMIN",
    ),
    only("pilot.cni.provider", &[r#""default""#]),
    row(
        "pilot.taint.enabled",
        Flag,
        "false",
        "nodes lose the taint cni.istio.io/not-ready, with which somebody has made them, when the plugin's agent on them is ready",
    ),
    row("pilot.taint.namespace", Text, "", "the namespace of the agents, if it is not the control plane's"),
    row("pilot.ipFamilies", FAMILIES, "", "the families of its Service, if not global.ipFamilies"),
    row("pilot.ipFamilyPolicy", POLICY, "", "whether it has one of them or both, if not global.ipFamilyPolicy"),
    row("sidecarInjectorWebhook.enableNamespacesByDefault", Flag, "false", "pods get a proxy unless they or their namespace say no"),
    row(
        "sidecarInjectorWebhook.reinvocationPolicy",
        Only(&[r#""Never""#, r#""IfNeeded""#]),
        r#""Never""#,
        "whether it is asked again when others have changed a pod",
    ),
    row("sidecarInjectorWebhook.rewriteAppHTTPProbe", Flag, "", "programs are probed through the agent"),
    row("sidecarInjectorWebhook.injectedAnnotations", Words, "", "annotations for all pods with a proxy"),
    row("sidecarInjectorWebhook.neverInjectSelector", List, "", "labels of pods that never get one"),
    row("sidecarInjectorWebhook.alwaysInjectSelector", List, "", "labels of pods that always get one"),
    only("sidecarInjectorWebhook.defaultTemplates", &["[]", r#"["sidecar"]"#]),
    only("sidecarInjectorWebhook.templates", &["{}"]),
];

/// What the chart of the node's plugin takes beside what every chart takes.
pub(super) const CNI: &[Row] = &[
    row("cni.hub", Text, "", "where its image is, if not at global.hub"),
    row("cni.tag", Word, "", "its tag, if not global.tag"),
    row("cni.image", Text, r#""install-cni""#, "its image: a name below hub, or a whole one"),
    row("cni.cniBinDir", Text, r#""/opt/cni/bin""#, "the nodes' folder of plugins"),
    row("cni.cniConfDir", Text, r#""/etc/cni/net.d""#, "the nodes' folder of configurations of networks"),
    row("cni.cniConfFileName", Text, "", "the file among them to whose plugins this one is added; the first where nothing is said"),
    row("cni.excludeNamespaces", List, r#"["kube-system"]"#, "namespaces whose pods are left alone"),
    row("cni.logging.level", Text, r#""default:info""#, "what the agent logs"),
    row("cni.repair.enabled", Flag, "true", "pods that have started without their capture are looked for"),
    row("cni.repair.repairPods", Flag, "true", "their capture is set where they run; comes before the others"),
    row("cni.repair.deletePods", Flag, "false", "they are deleted, and made again by whoever has made them"),
    row("cni.repair.labelPods", Flag, "false", "they get the label cni.istio.io/uninitialized=true"),
    row("cni.resources", Shape::Map, r#"{"requests":{"cpu":"100m","memory":"100Mi"}}"#, "requests and limits of the agent"),
    row("cni.podAnnotations", Words, "", "more annotations of its pods"),
    row("cni.podLabels", Words, "", "more labels of its pods"),
    row("cni.rollingMaxUnavailable", Share, "1", "on how many nodes it may be missing while it is replaced; the plugin works meanwhile"),
    row("cni.seccompProfile", Shape::Map, r#"{"type":"RuntimeDefault"}"#, "of its container"),
    row(
        "cni.resourceQuotas.enabled",
        Flag,
        "false",
        "a ResourceQuota, where a cluster has the agents' class only in namespaces with one for it",
    ),
    row("cni.resourceQuotas.pods", Count, "5000", "how many pods of that class it allows"),
    row("cni.nodeSelector", Words, r#"{"kubernetes.io/os":"linux"}"#, "on which nodes it runs"),
    row("cni.tolerations", List, TOLERATIONS, "which taints it tolerates: all, since pods of all nodes need it"),
    row("cni.affinity", Shape::Map, "", "beside what it runs"),
    only("cni.ambient.enabled", OFF),
    only("cni.chained", &["true"]),
    only("cni.privileged", OFF),
    only("cni.provider", &[r#""default""#]),
    only("cni.psp_cluster_role", EMPTY),
    only("cni.repair.brokenPodLabelKey", &[r#""cni.istio.io/uninitialized""#]),
    only("cni.repair.brokenPodLabelValue", &[r#""true""#]),
    only("cni.repair.initContainerName", &[r#""istio-validation""#]),
];

const TOLERATIONS: &str = r#"[{"effect":"NoSchedule","operator":"Exists"},{"effect":"NoExecute","operator":"Exists"},{"key":"CriticalAddonsOnly","operator":"Exists"}]"#;

/// What `install` takes for its gateways, below `gateways.istio-ingressgateway` and `gateways.istio-egressgateway`, by the names of Istio's installer.
const INSTALLED_GATEWAY: &[Row] = &[
    row("enabled", Flag, "", ""),
    row("kind", WORKLOAD, r#""Deployment""#, ""),
    row("replicaCount", Count, "1", ""),
    row("autoscaleEnabled", Flag, "false", ""),
    row("autoscaleMin", Count, "1", ""),
    row("autoscaleMax", Count, "5", ""),
    row("cpu.targetAverageUtilization", Count, "80", ""),
    row("memory.targetAverageUtilization", Count, "", ""),
    row("autoscaleBehavior", Shape::Map, "", ""),
    row("rollingMaxSurge", Share, r#""100%""#, ""),
    row("rollingMaxUnavailable", Share, "0", ""),
    row("type", SERVICE, r#""LoadBalancer""#, ""),
    row("ports", List, PORTS, ""),
    row("serviceAnnotations", Words, "", ""),
    row("loadBalancerIP", Text, "", ""),
    row("loadBalancerSourceRanges", List, "", ""),
    row("externalTrafficPolicy", TRAFFIC, "", ""),
    row("ipFamilies", FAMILIES, "", ""),
    row("ipFamilyPolicy", POLICY, "", ""),
    row("resources", Shape::Map, RESOURCES, ""),
    row("env", Words, "", ""),
    row("envVarFrom", List, "", ""),
    row("podAnnotations", Words, "", ""),
    row("volumes", List, "", ""),
    row("volumeMounts", List, "", ""),
    row("secretVolumes", SECRETS, "", ""),
    row("configVolumes", CONFIG_MAPS, "", ""),
    row("serviceAccount.annotations", Words, "", ""),
    row("nodeSelector", Words, "", ""),
    row("tolerations", List, "", ""),
    row("affinity", Shape::Map, "", ""),
    row("topologySpreadConstraints", List, "", ""),
    row("podDisruptionBudget.minAvailable", Share, "", ""),
    row("podDisruptionBudget.maxUnavailable", Share, "", ""),
    row("podDisruptionBudget.unhealthyPodEvictionPolicy", EVICTION, "", ""),
];

/// Where an egress gateway differs from an ingress gateway: it is called from within.
const INSTALLED_EGRESS: &[Row] = &[row("type", SERVICE, r#""ClusterIP""#, ""), row("ports", List, EGRESS_PORTS, "")];

const WORKLOAD: Shape = Only(&[r#""Deployment""#, r#""DaemonSet""#]);
const SECRETS: Shape = Mounts("secretName");
const CONFIG_MAPS: Shape = Mounts("configMapName");
pub(super) const SERVICE: Shape = Only(&[r#""LoadBalancer""#, r#""NodePort""#, r#""ClusterIP""#]);
pub(super) const FAMILIES: Shape = Only(&["[]", r#"["IPv4"]"#, r#"["IPv6"]"#, r#"["IPv4","IPv6"]"#, r#"["IPv6","IPv4"]"#]);
pub(super) const POLICY: Shape = Only(&[r#""""#, r#""SingleStack""#, r#""PreferDualStack""#, r#""RequireDualStack""#]);
pub(super) const TRAFFIC: Shape = Only(&[r#""Cluster""#, r#""Local""#]);
const RESOURCES: &str = r#"{"requests":{"cpu":"100m","memory":"64Mi"}}"#;
const PORTS: &str = r#"[
    {"name":"status-port","port":15021,"targetPort":15021,"protocol":"TCP"},
    {"name":"http2","port":80,"targetPort":80,"protocol":"TCP"},
    {"name":"https","port":443,"targetPort":443,"protocol":"TCP"}
]"#;
const EGRESS_PORTS: &str = r#"[
    {"name":"http2","port":80,"targetPort":80,"protocol":"TCP"},
    {"name":"https","port":443,"targetPort":443,"protocol":"TCP"}
]"#;

/// What the chart of gateways takes beside what every chart takes.
pub(super) const GATEWAY: &[Row] = &[
    row("name", Text, r#""""#, "of all its objects; the release's where nothing is said"),
    row("kind", WORKLOAD, r#""Deployment""#, "what runs it"),
    row("labels", Words, "{}", "more labels of all its objects; app and istio replace those by which Gateways select it"),
    row("replicaCount", Count, "1", "how many, where none are scaled"),
    row("autoscaling.enabled", Flag, "false", "scaled by load; unlike with Istio only if it is said"),
    row("autoscaling.minReplicas", Count, "1", "how many at least"),
    row("autoscaling.maxReplicas", Count, "5", "how many at most"),
    row("autoscaling.targetCPUUtilizationPercentage", Count, "80", "how much of the CPU that they request is used"),
    row("autoscaling.targetMemoryUtilizationPercentage", Count, "", "the same of memory"),
    row("autoscaling.autoscaleBehavior", Shape::Map, "", "how fast they are scaled"),
    row("strategy", Shape::Map, r#"{"rollingUpdate":{"maxSurge":"100%","maxUnavailable":0}}"#, "how a Deployment's pods are replaced"),
    row("minReadySeconds", Count, "", "how long a pod is ready before it counts"),
    row("terminationGracePeriodSeconds", Count, "", "how long a pod may take to end"),
    row("rbac.enabled", Flag, "true", "roles by which the gateway has the Secrets that Gateways name, and the control plane reads them"),
    row("serviceAccount.create", Flag, "true", "whether its account is made"),
    row("serviceAccount.name", Text, r#""""#, "its account; as the gateway where nothing is said"),
    row("serviceAccount.annotations", Words, "", "of its account"),
    row(
        "service.type",
        Only(&[r#""LoadBalancer""#, r#""NodePort""#, r#""ClusterIP""#, r#""None""#]),
        r#""LoadBalancer""#,
        "of its Service; None for none",
    ),
    row("service.ports", List, PORTS, "the Service's ports"),
    row("service.annotations", Words, "", "of its Service"),
    row("service.ipFamilies", FAMILIES, "", "its families, if not global.ipFamilies"),
    row("service.ipFamilyPolicy", POLICY, "", "whether it has one of them or both, if not global.ipFamilyPolicy"),
    row("service.clusterIP", Text, "", "an address of the Service's own choice"),
    row("service.externalIPs", List, "", "more addresses"),
    row("service.externalTrafficPolicy", TRAFFIC, "", "Local leaves callers their addresses"),
    row("service.loadBalancerClass", Text, "", "who balances"),
    row("service.loadBalancerIP", Text, "", "the address that is asked for"),
    row("service.loadBalancerSourceRanges", List, "", "who may come in"),
    row("resources", Shape::Map, RESOURCES, "requests and limits"),
    row("env", Words, "", "variables of the proxy's environment"),
    row("envVarFrom", List, "", "variables, as Kubernetes writes them"),
    row("podAnnotations", Words, "", "more annotations of its pods"),
    row("volumes", List, "", "volumes of its pods"),
    row("volumeMounts", List, "", "where they are mounted"),
    row("secretVolumes", SECRETS, "", "Secrets that are mounted: name, secretName and mountPath of each"),
    row("configVolumes", CONFIG_MAPS, "", "ConfigMaps that are mounted: name, configMapName and mountPath of each"),
    row("imagePullPolicy", Only(&[r#""""#, r#""Always""#, r#""IfNotPresent""#, r#""Never""#]), "", "of the proxy's image"),
    row("imagePullSecrets", List, "", "Secrets by which images are pulled, if not global.imagePullSecrets"),
    row("priorityClassName", Text, "", "if not global.priorityClassName"),
    row("nodeSelector", Words, "", "on which nodes it runs"),
    row("tolerations", List, "", "which taints it tolerates"),
    row("affinity", Shape::Map, "", "beside what it runs"),
    row("topologySpreadConstraints", List, "", "how its pods are spread"),
    row("podDisruptionBudget.minAvailable", Share, "", BUDGET),
    row("podDisruptionBudget.maxUnavailable", Share, "", "the other way round"),
    row("podDisruptionBudget.unhealthyPodEvictionPolicy", EVICTION, "", "whether pods that are not ready are counted"),
    only("networkGateway", EMPTY),
];

/// What `install` takes beside the values of gateways.
fn installed() -> impl Iterator<Item = &'static Row> {
    [GLOBAL, REVISION, ISTIOD, CNI].into_iter().flatten()
}

/// Names of gateways below which values of installed ones stand, and what is different for them.
const GATEWAYS: [(&str, &[Row]); 2] = [("istio-ingressgateway", &[]), ("istio-egressgateway", INSTALLED_EGRESS)];

/// Refuses what nothing acts on, and what is not what it has to be.
pub(super) fn judge(values: &Value) -> Result<()> {
    let mut rows: Vec<(String, Shape)> = installed().map(|row| (row.path.to_owned(), row.shape)).collect();
    let mut budgets = vec!["/pilot/pdb".to_owned()];
    for (name, _) in GATEWAYS {
        rows.extend(INSTALLED_GATEWAY.iter().map(|row| (format!("gateways.{name}.{}", row.path), row.shape)));
        budgets.push(format!("/gateways/{name}/podDisruptionBudget"));
    }
    Table { at: "values".to_owned(), rows, is_small: false }.judge(values)?;
    for budget in &budgets {
        let at = || format!("values{}", budget.replace('/', "."));
        values.pointer(budget).map_or(Ok(()), |said| one_bound(at, said))?;
    }
    Ok(())
}

/// Refuses a budget that says twice how many pods stay.
pub(super) fn one_bound(at: impl Fn() -> String, budget: &Value) -> Result<()> {
    let said = |name: &str| budget.get(name).is_some_and(|value| !value.is_null());
    if said("minAvailable") && said("maxUnavailable") {
        bail!("{}: only one of minAvailable and maxUnavailable may be said", at());
    }
    Ok(())
}

/// What may stand below a place of the settings, by its path from there.
pub(super) struct Table {
    /// The place, for people.
    pub(super) at: String,
    pub(super) rows: Vec<(String, Shape)>,
    /// Whoever says something else is told all that there is.
    pub(super) is_small: bool,
}

impl Table {
    /// Refuses what the table has not, and what is not what it has to be.
    pub(super) fn judge(&self, value: &Value) -> Result<()> {
        self.walk("", value)
    }

    fn walk(&self, path: &str, value: &Value) -> Result<()> {
        let place = || if path.is_empty() { self.at.clone() } else { format!("{}.{path}", self.at) };
        if let Some((_, shape)) = self.rows.iter().find(|(row, _)| row == path) {
            return match wrong(*shape, value) {
                Some(must) if !value.is_null() => bail!("{}: must be {must}", place()),
                _ => Ok(()),
            };
        }
        let has_more = path.is_empty() || self.below(path).next().is_some();
        match value {
            Value::Object(map) if has_more => {
                let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                map.iter().try_for_each(|(name, value)| self.walk(&join(name), value))
            }
            Value::Null if has_more => Ok(()),
            _ if has_more => bail!("{}: must be a map", place()),
            _ if self.is_small => {
                let above = path.rsplit_once('.').map_or("", |(above, _)| above);
                let known: BTreeSet<&str> = self.below(above).collect();
                bail!("{} is not supported: must be {}", place(), known.into_iter().collect::<Vec<_>>().join(" or "))
            }
            _ => bail!("{} is not supported", place()),
        }
    }

    /// The names that may stand in the map at a path.
    fn below(&self, path: &str) -> impl Iterator<Item = &str> {
        self.rows.iter().filter_map(move |(row, _)| {
            let rest = if path.is_empty() { Some(row.as_str()) } else { row.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')) };
            rest.map(|rest| rest.split('.').next().unwrap_or_default())
        })
    }
}

/// What a value has to be, if it is not.
fn wrong(shape: Shape, value: &Value) -> Option<String> {
    let word = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    let (fine, must) = match shape {
        Text => (value.is_string(), "a text"),
        Word => (value.is_string() || value.is_number(), "a text"),
        Flag => (value.is_boolean(), "true or false"),
        Count => (value.is_u64(), "a whole number that is not negative"),
        Share => (value.is_u64() || value.as_str().is_some_and(is_percent), "a number or a share as 25%"),
        Shape::Map => (value.is_object(), "a map"),
        Words => (value.as_object().is_some_and(|map| map.values().all(word)), "a map of texts"),
        List => (value.is_array(), "a list"),
        Mounts(source) => {
            let is_text = |field: &Value| field.as_str().is_some_and(|text| !text.is_empty());
            let fields = ["name", source, "mountPath"];
            let is_volume = |volume: &Value| {
                volume.as_object().is_some_and(|volume| volume.len() == fields.len()) && fields.iter().all(|field| is_text(&volume[*field]))
            };
            let fine = value.as_array().is_some_and(|list| list.iter().all(is_volume));
            return (!fine).then(|| format!("a list of maps with name, {source} and mountPath"));
        }
        Only(allowed) => {
            let fine = allowed.iter().any(|text| serde_json::from_str::<Value>(text).is_ok_and(|allowed| allowed == *value));
            return (!fine).then(|| allowed.join(" or ").replace('"', "").trim().to_owned()).map(|text| match text.as_str() {
                "" => "empty".to_owned(),
                _ => text.strip_prefix("or ").unwrap_or(&text).to_owned(),
            });
        }
    };
    (!fine).then(|| must.to_owned())
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The defaults of rows, as one tree.
pub(super) fn defaults<'a>(rows: impl Iterator<Item = &'a Row>) -> Value {
    let mut tree = json!({});
    for row in rows {
        let Some(value) = row.default() else { continue };
        *place(&mut tree, row.path) = value;
    }
    tree
}

/// Where a path leads to in a tree, which gets what is missing.
pub(super) fn place<'a>(tree: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(tree, |at, name| {
        if !at.is_object() {
            *at = json!({});
        }
        // It is a map: see above.
        match at {
            Value::Object(map) => map.entry(name).or_insert(Value::Null),
            other => other,
        }
    })
}

/// The values of an installation of which this is said.
pub(super) fn completed(said: &Value) -> Value {
    let mut whole = defaults(installed());
    for (name, own) in GATEWAYS {
        *place(&mut whole, &format!("gateways.{name}")) = defaults(INSTALLED_GATEWAY.iter().chain(own));
    }
    overlay(&mut whole, said);
    whole
}

/// Lays `over` over `into` as Helm does: maps by their keys, anything else whole, and null takes a default away.
pub(super) fn overlay(into: &mut Value, over: &Value) {
    let Value::Object(over) = over else {
        *into = over.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(into) = into else { return };
    for (name, value) in over {
        match value {
            Value::Null => drop(into.remove(name)),
            value => overlay(into.entry(name).or_insert(Value::Null), value),
        }
    }
}

#[cfg(test)]
mod tests;
