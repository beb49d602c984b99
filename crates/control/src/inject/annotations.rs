//! What a pod's annotations say of its proxy.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{
    LabelSet, Object,
    core::{TEMPLATES, names_of_templates},
    istio::{GatewayTopology, Interception, ProxyConfig, WorkloadProxyConfig},
};
use mizzen_model::Typed;
use mizzen_types::IpRange;
use serde_json::{Map, Value};

use super::{InjectConfig, InjectError, NamespaceFacts, ProxyConfigs, config::ProxyValues, pod::Pod};

/// The label, and the older annotation, by which a pod says whether it wants a proxy.
pub(super) const INJECT: &str = "sidecar.istio.io/inject";

const PROXY_CONFIG: &str = "proxy.istio.io/config";
pub(super) const OVERRIDES: &str = "proxy.istio.io/overrides";
const DUAL_STACK: &str = "ISTIO_DUAL_STACK";
/// The variable by which the agent is asked for names: it tells the agent, and whoever sets the capture.
const DNS: &str = "ISTIO_META_DNS_CAPTURE";
pub(super) const INTERCEPTION: &str = "sidecar.istio.io/interceptionMode";
const STATUS_PORT: &str = "status.sidecar.istio.io/port";
const CAPTURE: &str = "traffic.sidecar.istio.io/";
const READINESS: &str = "readiness.status.sidecar.istio.io/";

/// Annotations below the prefixes in which all should be known, that this reads or that are for somebody else.
const KNOWN: &[&str] = &[
    INJECT,
    PROXY_CONFIG,
    TEMPLATES,
    OVERRIDES,
    STATUS_PORT,
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyCPULimit",
    "sidecar.istio.io/proxyMemory",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/logLevel",
    "sidecar.istio.io/componentLogLevel",
    "sidecar.istio.io/agentLogLevel",
    "sidecar.istio.io/userVolume",
    "sidecar.istio.io/userVolumeMount",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "sidecar.istio.io/nativeSidecar",
    INTERCEPTION,
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
    "readiness.status.sidecar.istio.io/failureThreshold",
    "prometheus.istio.io/merge-metrics",
];

/// Annotations that would change what is captured: whoever writes one must not believe that it holds.
const REFUSED: &[&str] = &[
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "istio.io/reroute-virtual-interfaces",
    "sidecar.istio.io/discoveryAddress",
];

const PREFIXES: [&str; 7] =
    ["sidecar.istio.io/", CAPTURE, READINESS, "status.sidecar.istio.io/", "proxy.istio.io/", "inject.istio.io/", "prometheus.istio.io/"];

/// What the proxy is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Template {
    /// Beside the pod's program.
    Sidecar,
    /// The pod's program itself.
    Gateway,
}

/// What is wanted for one pod: its annotations over the settings of all.
pub(super) struct Wanted {
    pub(super) template: Template,
    pub(super) proxy: ProxyConfig,
    /// How inbound connections come to a sidecar; to a gateway nothing is captured.
    pub(super) interception: Interception,
    pub(super) native: bool,
    pub(super) hold: bool,
    pub(super) status_port: u16,
    pub(super) rewrite_probes: bool,
    pub(super) merge_metrics: bool,
    /// Whether questions for names are captured.
    pub(super) dns: bool,
    /// By the names of the annotations, without the prefix.
    pub(super) capture: BTreeMap<&'static str, String>,
    pub(super) readiness: [u32; 3],
    pub(super) image: Option<String>,
    pub(super) resources: Option<Map<String, Value>>,
    pub(super) log_level: String,
    pub(super) component_log_level: String,
    pub(super) agent_log_level: String,
    pub(super) volumes: Vec<Value>,
    pub(super) volume_mounts: Vec<Value>,
}

pub(super) fn wrong(name: &str, reason: impl Into<String>) -> InjectError {
    InjectError::Annotation { name: name.to_owned(), reason: reason.into() }
}

impl Wanted {
    pub(super) fn read(
        pod: &Pod,
        namespace: &NamespaceFacts,
        config: &InjectConfig,
        warnings: &mut Vec<String>,
    ) -> Result<Wanted, InjectError> {
        known(pod, warnings)?;
        let values = &config.proxy;
        let proxy = proxy_config(pod, namespace, config, warnings)?;
        dual_stack(&proxy).map_err(|reason| wrong(PROXY_CONFIG, reason))?;
        let template = template(pod)?;
        let interception = if template == Template::Gateway { Interception::default() } else { interception(pod, &proxy)? };
        if interception == Interception::Tproxy && config.cni {
            warnings.push(
                "interceptionMode TPROXY: container istio-proxy runs as root with the capability NET_ADMIN, which a namespace of the levels baseline and \
                 restricted (pod-security.kubernetes.io/enforce) does not admit"
                    .to_owned(),
            );
        }
        let status_port = match pod.annotation(STATUS_PORT) {
            Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong(STATUS_PORT, not_a_port(text)))?,
            None => values.status_port.unwrap_or(proxy.status_port),
        };
        let text = |name: &str, default: &str| pod.annotation(name).filter(|text| !text.is_empty()).unwrap_or(default).to_owned();
        Ok(Wanted {
            template,
            interception,
            native: match pod.annotation("sidecar.istio.io/nativeSidecar").unwrap_or_default() {
                "" => config.native_sidecars,
                text => flag("sidecar.istio.io/nativeSidecar", text)?,
            },
            hold: proxy.hold_application || values.hold,
            dns: captures_names(&proxy).map_err(|reason| wrong(PROXY_CONFIG, reason))?,
            proxy,
            status_port,
            rewrite_probes: match pod.annotation("sidecar.istio.io/rewriteAppHTTPProbers").unwrap_or_default() {
                "" => config.rewrite_probes,
                text => flag("sidecar.istio.io/rewriteAppHTTPProbers", text)?,
            },
            merge_metrics: match pod.annotation("prometheus.istio.io/merge-metrics").unwrap_or_default() {
                "" => config.mesh.enable_prometheus_merge,
                text => flag("prometheus.istio.io/merge-metrics", text)?,
            },
            capture: capture(pod, values)?,
            readiness: readiness(pod, values)?,
            image: pod.annotation("sidecar.istio.io/proxyImage").filter(|image| !image.is_empty()).map(str::to_owned),
            resources: resources(pod),
            log_level: text("sidecar.istio.io/logLevel", &values.log_level),
            component_log_level: text("sidecar.istio.io/componentLogLevel", &values.component_log_level),
            agent_log_level: text("sidecar.istio.io/agentLogLevel", &values.agent_log_level),
            volumes: named_maps(pod, "sidecar.istio.io/userVolume")?,
            volume_mounts: named_maps(pod, "sidecar.istio.io/userVolumeMount")?,
        })
    }
}

/// Refuses annotations that cannot be done, and warns of those that have no effect.
fn known(pod: &Pod, warnings: &mut Vec<String>) -> Result<(), InjectError> {
    for (name, value) in pod.annotations() {
        if REFUSED.contains(&name.as_str()) && value.as_str().is_some_and(|value| !value.is_empty()) {
            return Err(wrong(name, "is not supported, and ignoring it could change where traffic goes"));
        }
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !KNOWN.contains(&name.as_str()) && !REFUSED.contains(&name.as_str()) {
            warnings.push(format!("annotation {name} has no effect"));
        }
    }
    Ok(())
}

/// The settings of this pod's proxy, by Istio's precedence: MeshConfig's, over them the ProxyConfig of the root namespace, that of the pod's namespace, the
/// pod's annotation, and that which selects the pod. Of several the oldest counts.
fn proxy_config(
    pod: &Pod,
    namespace: &NamespaceFacts,
    config: &InjectConfig,
    warnings: &mut Vec<String>,
) -> Result<ProxyConfig, InjectError> {
    let mut settings = config.mesh.default_config.clone();
    // The control plane lays a gateway's own over MeshConfig's, which may change while the pod lives.
    settings.gateway_topology = GatewayTopology::default();
    let ProxyConfigs { root, own } = &namespace.proxies;
    for wider in [root, own].into_iter().filter_map(|all| configs(all).find(|config| config.selector.is_none())) {
        lay_over(&mut settings, wider);
    }
    let mut settings = annotated(pod, settings, warnings)?;
    let selects = |config: &&WorkloadProxyConfig| config.selector.as_ref().is_some_and(|selector| selector.matches(&PodLabels(pod)));
    if let Some(nearest) = configs(own).find(selects) {
        lay_over(&mut settings, nearest);
    }
    Ok(settings)
}

fn configs(objects: &[Arc<Object>]) -> impl Iterator<Item = &WorkloadProxyConfig> {
    objects.iter().filter_map(|object| WorkloadProxyConfig::of(object))
}

/// The labels of a pod as JSON.
struct PodLabels<'p>(&'p Pod);

impl LabelSet for PodLabels<'_> {
    fn label(&self, name: &str) -> Option<&str> {
        self.0.label(name)
    }
}

fn lay_over(settings: &mut ProxyConfig, config: &WorkloadProxyConfig) {
    settings.concurrency = config.concurrency.or(settings.concurrency);
    settings.proxy_metadata.extend(config.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
}

/// These settings with those of the pod's annotation over them.
fn annotated(pod: &Pod, base: ProxyConfig, warnings: &mut Vec<String>) -> Result<ProxyConfig, InjectError> {
    let Some(text) = pod.annotation(PROXY_CONFIG).filter(|text| !text.trim().is_empty()) else { return Ok(base) };
    let file: Arc<str> = "".into();
    match mizzen_api::parse_proxy_config(text, &base, &file) {
        Ok((proxy, told)) => {
            // What the mesh on one host does not act on is acted on here, if it is read.
            let told = told.into_iter().filter(|problem| !ProxyConfig::READ.contains(&problem.field.as_str()));
            warnings.extend(told.map(|problem| format!("annotation {PROXY_CONFIG}: {problem}")));
            Ok(proxy)
        }
        Err(problems) => Err(wrong(PROXY_CONFIG, problems.first().map(ToString::to_string).unwrap_or_default())),
    }
}

/// Whether somebody asks for both families changes nothing: what a pod has of addresses is captured and served.
///
/// # Errors
/// If it is neither asked for nor not.
pub(super) fn dual_stack(proxy: &ProxyConfig) -> Result<(), String> {
    match proxy.proxy_metadata.get(DUAL_STACK).map(String::as_str) {
        None | Some("" | "true" | "false") => Ok(()),
        Some(text) => Err(format!("proxyMetadata.{DUAL_STACK}: {text}: must be true or false")),
    }
}

/// Whether questions for names are captured, by whoever sets the capture.
///
/// # Errors
/// If it is neither said nor denied: the agent would understand something else than `istio-init`.
pub(super) fn captures_names(proxy: &ProxyConfig) -> Result<bool, String> {
    match proxy.proxy_metadata.get(DNS).map(String::as_str) {
        None | Some("" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(text) => Err(format!("proxyMetadata.{DNS}: {text}: must be true or false")),
    }
}

/// How inbound connections come to a pod's proxy: as its annotation says, else as its settings do.
fn interception(pod: &Pod, proxy: &ProxyConfig) -> Result<Interception, InjectError> {
    match pod.annotation(INTERCEPTION).unwrap_or_default() {
        "" => Ok(proxy.interception),
        "REDIRECT" => Ok(Interception::Redirect),
        "TPROXY" => Ok(Interception::Tproxy),
        other => Err(wrong(INTERCEPTION, format!("{other} is not supported: it must be REDIRECT or TPROXY"))),
    }
}

fn template(pod: &Pod) -> Result<Template, InjectError> {
    let mut names = names_of_templates(pod.annotation(TEMPLATES).unwrap_or("sidecar"));
    let template = match names.next() {
        None | Some("sidecar") => Template::Sidecar,
        Some("gateway") => Template::Gateway,
        Some(other) => return Err(wrong(TEMPLATES, format!("there is no template {other}: it must be sidecar or gateway"))),
    };
    match names.next() {
        Some(more) => {
            Err(wrong(TEMPLATES, format!("several templates, here also {more}, are not supported: it must be sidecar or gateway")))
        }
        None => Ok(template),
    }
}

fn capture(pod: &Pod, values: &ProxyValues) -> Result<BTreeMap<&'static str, String>, InjectError> {
    let mut capture = values.capture.clone();
    for (name, text) in &mut capture {
        let annotation = format!("{CAPTURE}{name}");
        if let Some(own) = pod.annotation(&annotation) {
            check_capture(name, own).map_err(|reason| wrong(&annotation, reason))?;
            own.clone_into(text);
        }
    }
    Ok(capture)
}

/// Whether a list of ports or ranges can be used; `*` is for what is included, as in Istio.
pub(super) fn check_capture(name: &str, text: &str) -> Result<(), String> {
    if text.trim() == "*" {
        let fine = matches!(name, "includeInboundPorts" | "includeOutboundIPRanges");
        return if fine { Ok(()) } else { Err("`*` is not possible here, only a list".to_owned()) };
    }
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        if name.ends_with("IPRanges") {
            item.parse::<IpRange>().map_err(|error| error.to_string())?;
        } else if item.parse::<u16>().is_ok_and(|port| port > 0) {
            // A port.
        } else {
            return Err(not_a_port(item));
        }
    }
    Ok(())
}

fn not_a_port(text: &str) -> String {
    format!("`{text}` is not a port between 1 and 65535")
}

fn readiness(pod: &Pod, values: &ProxyValues) -> Result<[u32; 3], InjectError> {
    let mut readiness = values.readiness;
    for (name, value) in ["initialDelaySeconds", "periodSeconds", "failureThreshold"].into_iter().zip(&mut readiness) {
        let annotation = format!("{READINESS}{name}");
        if let Some(text) = pod.annotation(&annotation) {
            let number = text.parse().ok().filter(|number| i32::try_from(*number).is_ok());
            *value = number.ok_or_else(|| wrong(&annotation, format!("`{text}` is not a whole number that is not negative")))?;
        }
    }
    Ok(readiness)
}

/// What is said of resources takes the place of all that the values say, as in Istio.
fn resources(pod: &Pod) -> Option<Map<String, Value>> {
    let mut resources = Map::new();
    for (kind, cpu, memory) in [
        ("requests", "sidecar.istio.io/proxyCPU", "sidecar.istio.io/proxyMemory"),
        ("limits", "sidecar.istio.io/proxyCPULimit", "sidecar.istio.io/proxyMemoryLimit"),
    ] {
        let mut of = Map::new();
        for (resource, annotation) in [("cpu", cpu), ("memory", memory)] {
            if let Some(text) = pod.annotation(annotation).filter(|text| !text.is_empty()) {
                of.insert(resource.to_owned(), text.into());
            }
        }
        if !of.is_empty() {
            resources.insert(kind.to_owned(), of.into());
        }
    }
    (!resources.is_empty()).then_some(resources)
}

/// `{"NAME": {...}}` as `[{"name": "NAME", ...}]`; a list stays one.
fn named_maps(pod: &Pod, annotation: &str) -> Result<Vec<Value>, InjectError> {
    let Some(text) = pod.annotation(annotation).filter(|text| !text.trim().is_empty()) else { return Ok(Vec::new()) };
    let malformed = || wrong(annotation, "must be JSON: a map from names to volumes, or a list of volumes with names");
    let value: Value = serde_json::from_str(text).map_err(|_| malformed())?;
    let items = match value {
        Value::Array(items) => items,
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| {
                let Value::Object(mut value) = value else { return Err(malformed()) };
                value.insert("name".to_owned(), name.into());
                Ok(value.into())
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(malformed()),
    };
    let named = |item: &Value| item.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if items.iter().all(named) { Ok(items) } else { Err(malformed()) }
}

fn flag(name: &str, text: &str) -> Result<bool, InjectError> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "t" | "yes" | "y" | "on" => Ok(true),
        "false" | "0" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(wrong(name, format!("must be true or false, is `{text}`"))),
    }
}
