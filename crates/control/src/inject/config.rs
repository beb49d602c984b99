//! The settings of injection: what MeshConfig and Istio's values say.

use std::collections::BTreeMap;

use mizzen_api::istio::MeshConfig;
use serde_json::{Map, Value, json};

use super::{
    InjectError,
    pod::{Pod, describe},
    values::{Values, wrong},
};

/// The settings of injection.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectConfig {
    /// The control plane's revision.
    pub revision: String,
    /// What of the values has no effect, a line each; for the log, since it concerns no pod.
    pub warnings: Vec<String>,
    /// Whether the proxy is an init container that goes on running, where the pod does not say.
    pub native_sidecars: bool,
    /// Whether the node's plugin sets the capture, and no container of the pod.
    pub(super) cni: bool,
    pub(super) mesh: MeshConfig,
    /// Whether pods get a proxy that say nothing, in namespaces that are chosen.
    pub(super) enabled: bool,
    pub(super) never: Vec<LabelSelector>,
    pub(super) always: Vec<LabelSelector>,
    pub(super) annotations: Map<String, Value>,
    pub(super) rewrite_probes: bool,
    pub(super) proxy: ProxyValues,
    pub(super) gateway_security_context: Map<String, Value>,
    pub(super) gateway_seccomp: Map<String, Value>,
    /// Whether the pod's volumes belong to the proxy's group.
    pub(super) fs_group: bool,
    /// Of the workload token: whether it is the service account's own.
    pub(super) first_party_token: bool,
}

/// What the values say of the proxy's containers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProxyValues {
    pub(super) hub: String,
    pub(super) tag: String,
    pub(super) image: String,
    pub(super) init_image: String,
    pub(super) pull_policy: String,
    pub(super) pull_secrets: Vec<String>,
    pub(super) resources: Map<String, Value>,
    pub(super) init_resources: Option<Map<String, Value>>,
    pub(super) log_level: String,
    pub(super) component_log_level: String,
    pub(super) agent_log_level: String,
    pub(super) capture: BTreeMap<&'static str, String>,
    pub(super) readiness: [u32; 3],
    pub(super) startup: Option<u32>,
    pub(super) lifecycle: Map<String, Value>,
    pub(super) seccomp: Map<String, Value>,
    pub(super) hold: bool,
    pub(super) status_port: Option<u16>,
    pub(super) cluster_domain: String,
    pub(super) cluster_id: String,
    pub(super) network: String,
    pub(super) mesh_id: Option<String>,
    pub(super) ca_address: String,
}

/// Readiness, in seconds and failures, where nothing is said: Istio's.
const READINESS: [u32; 3] = [0, 15, 4];
/// How often the proxy may fail to be ready at its start, a second each.
const STARTUP: u32 = 600;

impl InjectConfig {
    /// From MeshConfig and Istio's `values`, as JSON (`null`: all defaults). `native_sidecars` is what `auto` means for the cluster: whether all its
    /// nodes run containers of `restartPolicy: Always` well, which Istio believes from Kubernetes 1.33 on.
    ///
    /// # Errors
    /// By the first value that is malformed, or refused because a pod would not be what its author thinks.
    pub fn new(mesh: &MeshConfig, values: &Value, native_sidecars: bool) -> Result<InjectConfig, InjectError> {
        let mut warnings = Vec::new();
        let values = Values::new(values, &mut warnings)?;
        let native_sidecars = match values.text("pilot.env.ENABLE_NATIVE_SIDECARS")?.as_deref() {
            None | Some("" | "auto") => native_sidecars,
            Some("true") => true,
            Some("false") => false,
            Some(other) => return Err(wrong("pilot.env.ENABLE_NATIVE_SIDECARS", format!("must be true, false or auto, is {other}"))),
        };
        let first_party_token = match values.word("global.jwtPolicy")?.as_deref() {
            None | Some("third-party-jwt") => false,
            Some("first-party-jwt") => {
                warnings.push(
                    "values: global.jwtPolicy: first-party-jwt gives proxies the service account's own token, which the API server takes as well and \
                     which does not expire with the pod: third-party-jwt is safer"
                        .to_owned(),
                );
                true
            }
            Some(other) => return Err(wrong("global.jwtPolicy", format!("must be third-party-jwt or first-party-jwt, is {other}"))),
        };
        let of_mesh = |reason: String| InjectError::Mesh { path: "defaultConfig".to_owned(), reason };
        super::annotations::dual_stack(&mesh.default_config).map_err(of_mesh)?;
        super::annotations::captures_names(&mesh.default_config).map_err(of_mesh)?;
        Ok(InjectConfig {
            revision: values.word("revision")?.unwrap_or_else(|| "default".to_owned()),
            native_sidecars,
            cni: values.flag("pilot.cni.enabled")?.or(values.flag("istio_cni.enabled")?).unwrap_or(false),
            mesh: mesh.clone(),
            enabled: match values.word("global.proxy.autoInject")?.as_deref() {
                None | Some("enabled") => true,
                Some("disabled") => false,
                Some(other) => return Err(wrong("global.proxy.autoInject", format!("must be enabled or disabled, is {other}"))),
            },
            never: selectors(&values, "sidecarInjectorWebhook.neverInjectSelector")?,
            always: selectors(&values, "sidecarInjectorWebhook.alwaysInjectSelector")?,
            annotations: texts(&values, "sidecarInjectorWebhook.injectedAnnotations")?,
            rewrite_probes: values.flag("sidecarInjectorWebhook.rewriteAppHTTPProbe")?.unwrap_or(true),
            proxy: ProxyValues::read(&values, mesh)?,
            gateway_security_context: values.map("gateways.securityContext")?,
            gateway_seccomp: values.map("gateways.seccompProfile")?,
            fs_group: values.flag("pilot.env.ENABLE_LEGACY_FSGROUP_INJECTION")?.unwrap_or(false),
            first_party_token,
            warnings,
        })
    }
}

impl ProxyValues {
    fn read(values: &Values<'_>, mesh: &MeshConfig) -> Result<ProxyValues, InjectError> {
        let or = |path: &'static str, default: &str| Ok::<_, InjectError>(values.word(path)?.unwrap_or_else(|| default.to_owned()));
        let resources = values.get("global.proxy.resources").map(|_| values.map("global.proxy.resources")).transpose()?;
        let mut capture = BTreeMap::new();
        for (name, path, default) in [
            ("includeOutboundIPRanges", "global.proxy.includeIPRanges", "*"),
            ("excludeOutboundIPRanges", "global.proxy.excludeIPRanges", ""),
            ("includeInboundPorts", "global.proxy.includeInboundPorts", "*"),
            ("excludeInboundPorts", "global.proxy.excludeInboundPorts", ""),
            ("includeOutboundPorts", "global.proxy.includeOutboundPorts", ""),
            ("excludeOutboundPorts", "global.proxy.excludeOutboundPorts", ""),
        ] {
            let text = values.text(path)?.unwrap_or_else(|| default.to_owned());
            super::annotations::check_capture(name, &text).map_err(|reason| wrong(path, reason))?;
            capture.insert(name, text);
        }
        let [delay, period, failures] = READINESS;
        let status_port = match values.count("global.proxy.statusPort")? {
            None => None,
            Some(port) => match u16::try_from(port) {
                Ok(port) if port > 0 => Some(port),
                _ => return Err(wrong("global.proxy.statusPort", format!("must be a port between 1 and 65535, is {port}"))),
            },
        };
        let image = or("global.proxy.image", "proxyv2")?;
        Ok(ProxyValues {
            hub: or("global.hub", "mizzen")?,
            tag: or("global.tag", env!("CARGO_PKG_VERSION"))?,
            init_image: values.word("global.proxy_init.image")?.unwrap_or_else(|| image.clone()),
            image,
            pull_policy: or("global.imagePullPolicy", "")?,
            pull_secrets: names(values.list("global.imagePullSecrets")?)?,
            resources: resources.unwrap_or_else(default_resources),
            init_resources: values.get("global.proxy_init.resources").map(|_| values.map("global.proxy_init.resources")).transpose()?,
            log_level: or("global.proxy.logLevel", "warning")?,
            component_log_level: values.text("global.proxy.componentLogLevel")?.unwrap_or_else(|| "misc:error".to_owned()),
            agent_log_level: or("global.logging.level", "default:info")?,
            capture,
            readiness: [
                values.count("global.proxy.readinessInitialDelaySeconds")?.unwrap_or(delay),
                values.count("global.proxy.readinessPeriodSeconds")?.unwrap_or(period),
                values.count("global.proxy.readinessFailureThreshold")?.unwrap_or(failures),
            ],
            startup: values
                .flag("global.proxy.startupProbe.enabled")?
                .unwrap_or(true)
                .then(|| Ok::<_, InjectError>(values.count("global.proxy.startupProbe.failureThreshold")?.unwrap_or(STARTUP)))
                .transpose()?,
            lifecycle: values.map("global.proxy.lifecycle")?,
            seccomp: values.map("global.proxy.seccompProfile")?,
            hold: values.flag("global.proxy.holdApplicationUntilProxyStarts")?.unwrap_or(false),
            status_port,
            cluster_domain: or("global.proxy.clusterDomain", "cluster.local")?,
            cluster_id: or("global.multiCluster.clusterName", "Kubernetes")?,
            network: or("global.network", "")?,
            mesh_id: values.word("global.meshID")?,
            // The authority is beside the control plane, of whichever namespace and revision.
            ca_address: match values.word("global.caAddress")? {
                Some(address) => address,
                None => or("global.istioNamespace", "").map(|namespace| mesh_address(mesh, &namespace))?,
            },
        })
    }
}

fn mesh_address(mesh: &MeshConfig, namespace: &str) -> String {
    let default = mizzen_api::istio::ProxyConfig::default().discovery_address;
    let address = &mesh.default_config.discovery_address;
    if *address == default && !namespace.is_empty() { format!("istiod.{namespace}.svc:15012") } else { address.clone() }
}

fn default_resources() -> Map<String, Value> {
    let resources = json!({ "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "cpu": "2000m", "memory": "1024Mi" } });
    if let Value::Object(map) = resources { map } else { Map::new() }
}

/// Names of secrets: `name`, or `{name: name}`, both of which Istio's charts have had.
fn names(list: &[Value]) -> Result<Vec<String>, InjectError> {
    let name = |item: &Value| {
        let name = item.as_str().or_else(|| item.get("name").and_then(Value::as_str)).filter(|name| !name.is_empty());
        name.map(str::to_owned).ok_or_else(|| wrong("global.imagePullSecrets", format!("must be a list of names, has {item}")))
    };
    list.iter().map(name).collect()
}

fn texts(values: &Values<'_>, path: &'static str) -> Result<Map<String, Value>, InjectError> {
    let map = values.map(path)?;
    match map.iter().find(|(_, value)| !value.is_string()) {
        Some((key, value)) => Err(wrong(&format!("{path}.{key}"), format!("must be a text, is {}", describe(value)))),
        None => Ok(map),
    }
}

fn selectors(values: &Values<'_>, path: &'static str) -> Result<Vec<LabelSelector>, InjectError> {
    values.list(path)?.iter().map(|value| LabelSelector::read(value).map_err(|reason| wrong(path, reason))).collect()
}

/// Kubernetes' selector of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LabelSelector {
    labels: BTreeMap<String, String>,
    expressions: Vec<(String, Operator)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    fn read(value: &Value) -> Result<Self, String> {
        let read: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector =
            serde_json::from_value(value.clone()).map_err(|error| format!("must be a list of label selectors: {error}"))?;
        let mut expressions = Vec::new();
        for expression in read.match_expressions.unwrap_or_default() {
            let values = expression.values.unwrap_or_default();
            let operator = match expression.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => return Err(format!("{} of {} needs values", expression.operator, expression.key)),
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("operator {other} is none of In, NotIn, Exists, DoesNotExist")),
            };
            expressions.push((expression.key, operator));
        }
        Ok(LabelSelector { labels: read.match_labels.unwrap_or_default(), expressions })
    }

    /// Whether the pod's labels are those. A selector without conditions matches nothing here, as in Istio.
    pub(super) fn matches(&self, pod: &Pod) -> bool {
        if self.labels.is_empty() && self.expressions.is_empty() {
            return false;
        }
        self.labels.iter().all(|(key, value)| pod.label(key) == Some(value))
            && self.expressions.iter().all(|(key, operator)| match (operator, pod.label(key)) {
                (Operator::In(values), label) => label.is_some_and(|label| values.iter().any(|value| value == label)),
                (Operator::NotIn(values), label) => label.is_none_or(|label| values.iter().all(|value| value != label)),
                (Operator::Exists, label) => label.is_some(),
                (Operator::DoesNotExist, label) => label.is_none(),
            })
    }
}
