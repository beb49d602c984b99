//! Istio's values: which are acted on, which say nothing to a proxy, and which are refused.

use serde_json::{Map, Value};

use super::{InjectError, pod::describe};

/// What is done with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// It is acted on.
    Done,
    /// It concerns something else than injection, or says what is the case anyway.
    Passed,
    /// It has no effect, and its author should know.
    Warned,
    /// Any value but these, and but an empty one, is refused: without it the pod would not be what its author thinks.
    Only(&'static [&'static str]),
}

use Class::{Done, Only, Passed, Warned};

const OFF: Class = Only(&["false"]);

/// Paths of values, and of maps that are judged as a whole.
const TABLE: &[(&str, Class)] = &[
    ("revision", Done),
    ("revisionTags", Passed),
    ("defaultRevision", Passed),
    ("meshConfig", Passed),
    ("profile", Passed),
    ("base", Passed),
    ("ambient", Passed),
    ("cni", Passed),
    ("istio_cni.enabled", Done),
    ("istio_cni.chained", Only(&["true"])),
    ("istio_cni.provider", Only(&["default"])),
    ("pilot.cni.enabled", Done),
    ("pilot.cni.provider", Only(&["default"])),
    ("pilot.env.ENABLE_NATIVE_SIDECARS", Done),
    ("pilot.env.ENABLE_LEGACY_FSGROUP_INJECTION", Done),
    ("pilot.env", Passed),
    ("pilot", Passed),
    ("gateways.securityContext", Done),
    ("gateways.seccompProfile", Done),
    ("gateways", Passed),
    ("sidecarInjectorWebhook.rewriteAppHTTPProbe", Done),
    ("sidecarInjectorWebhook.injectedAnnotations", Done),
    ("sidecarInjectorWebhook.neverInjectSelector", Done),
    ("sidecarInjectorWebhook.alwaysInjectSelector", Done),
    ("sidecarInjectorWebhook.enableNamespacesByDefault", Passed),
    ("sidecarInjectorWebhook.defaultTemplates", Only(&["sidecar"])),
    ("sidecarInjectorWebhook.templates", Only(&[])),
    ("sidecarInjectorWebhook.reinvocationPolicy", Passed),
    ("sidecarInjectorWebhook.injectionURL", Passed),
    ("sidecarInjectorWebhook.injectionPath", Passed),
    ("global.hub", Done),
    ("global.tag", Done),
    ("global.variant", Warned),
    ("global.imagePullPolicy", Done),
    ("global.imagePullSecrets", Done),
    ("global.jwtPolicy", Done),
    ("global.istioNamespace", Done),
    ("global.meshID", Done),
    ("global.network", Done),
    ("global.caAddress", Done),
    ("global.multiCluster.clusterName", Done),
    ("global.multiCluster", Passed),
    ("global.logging.level", Done),
    ("global.logAsJson", Warned),
    ("global.caName", Only(&["Istiod"])),
    ("global.certSigners", Only(&[])),
    ("global.remotePilotAddress", Only(&[])),
    ("global.pilotCertProvider", Only(&["istiod"])),
    ("global.mountMtlsCerts", OFF),
    ("global.sts.servicePort", Only(&["0"])),
    ("global.externalIstiod", Passed),
    ("global.autoscalingv2API", Passed),
    ("global.configCluster", Passed),
    ("global.configValidation", Passed),
    ("global.configRootNamespace", Passed),
    ("global.createRemoteSvcEndpoints", Passed),
    ("global.defaultConfigVisibilitySettings", Passed),
    ("global.defaultNodeSelector", Passed),
    ("global.defaultPodDisruptionBudget", Passed),
    ("global.defaultResources", Passed),
    ("global.defaultTolerations", Passed),
    ("global.dualStack", Passed),
    ("global.ipFamilies", Passed),
    ("global.ipFamilyPolicy", Passed),
    ("global.istiod", Passed),
    ("global.meshNetworks", Passed),
    ("global.mode", Passed),
    ("global.nativeNftables", Passed),
    ("global.networkPolicy", Passed),
    ("global.omitSidecarInjectorConfigMap", Passed),
    ("global.oneNamespace", Passed),
    ("global.operatorManageWebhooks", Passed),
    ("global.platform", Passed),
    ("global.priorityClassName", Passed),
    ("global.resourceScope", Passed),
    ("global.tracer", Passed),
    ("global.trustBundleName", Only(&[crate::names::ROOT])),
    ("global.useMCP", Passed),
    ("global.waypoint", Passed),
    ("global.agentgateway", Passed),
    ("global.proxy.image", Done),
    ("global.proxy.resources", Done),
    ("global.proxy.logLevel", Done),
    ("global.proxy.componentLogLevel", Done),
    ("global.proxy.includeIPRanges", Done),
    ("global.proxy.excludeIPRanges", Done),
    ("global.proxy.includeInboundPorts", Done),
    ("global.proxy.excludeInboundPorts", Done),
    ("global.proxy.includeOutboundPorts", Done),
    ("global.proxy.excludeOutboundPorts", Done),
    ("global.proxy.readinessInitialDelaySeconds", Done),
    ("global.proxy.readinessPeriodSeconds", Done),
    ("global.proxy.readinessFailureThreshold", Done),
    ("global.proxy.startupProbe.enabled", Done),
    ("global.proxy.startupProbe.failureThreshold", Done),
    ("global.proxy.privileged", OFF),
    ("global.proxy.enableCoreDump", OFF),
    ("global.proxy.autoInject", Done),
    ("global.proxy.clusterDomain", Done),
    ("global.proxy.lifecycle", Done),
    ("global.proxy.holdApplicationUntilProxyStarts", Done),
    ("global.proxy.seccompProfile", Done),
    ("global.proxy.statusPort", Done),
    ("global.proxy.tracer", Passed),
    ("global.proxy.outlierLogPath", Warned),
    ("global.proxy_init.image", Done),
    ("global.proxy_init.resources", Done),
    ("global.proxy_init.forceApplyIptables", Passed),
];

/// Values that were judged.
pub(super) struct Values<'a>(&'a Value);

pub(super) fn wrong(path: &str, reason: impl Into<String>) -> InjectError {
    InjectError::Values { path: path.to_owned(), reason: reason.into() }
}

impl<'a> Values<'a> {
    /// Judges all that is written.
    ///
    /// # Errors
    /// By the first value that is refused.
    pub(super) fn new(values: &'a Value, warnings: &mut Vec<String>) -> Result<Self, InjectError> {
        match values {
            Value::Object(map) => judge(map, &mut String::new(), warnings)?,
            Value::Null => {}
            other => return Err(wrong("", format!("must be a map, is {}", describe(other)))),
        }
        Ok(Values(values))
    }

    /// What is written at a path; null and nothing are the same.
    pub(super) fn get(&self, path: &'static str) -> Option<&'a Value> {
        debug_assert!(TABLE.iter().any(|(row, class)| *row == path && *class == Done), "{path} is read, and the table does not say so");
        path.split('.').try_fold(self.0, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// A text; numbers and flags are taken as they are written, as Istio's templates do.
    pub(super) fn text(&self, path: &'static str) -> Result<Option<String>, InjectError> {
        self.get(path)
            .map(|value| match value {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) => Ok(number.to_string()),
                Value::Bool(flag) => Ok(flag.to_string()),
                other => Err(wrong(path, format!("must be a text, is {}", describe(other)))),
            })
            .transpose()
    }

    /// A text that is not empty.
    pub(super) fn word(&self, path: &'static str) -> Result<Option<String>, InjectError> {
        Ok(self.text(path)?.filter(|text| !text.is_empty()))
    }

    pub(super) fn flag(&self, path: &'static str) -> Result<Option<bool>, InjectError> {
        self.get(path)
            .map(|value| match value {
                Value::Bool(flag) => Ok(*flag),
                Value::String(text) if text == "true" => Ok(true),
                Value::String(text) if text == "false" => Ok(false),
                other => Err(wrong(path, format!("must be true or false, is {other}"))),
            })
            .transpose()
    }

    pub(super) fn count(&self, path: &'static str) -> Result<Option<u32>, InjectError> {
        self.get(path)
            .map(|value| {
                let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
                let number = number.and_then(|number| i32::try_from(number).ok()).and_then(|number| u32::try_from(number).ok());
                number.ok_or_else(|| wrong(path, format!("must be a whole number that is not negative, is {value}")))
            })
            .transpose()
    }

    pub(super) fn map(&self, path: &'static str) -> Result<Map<String, Value>, InjectError> {
        match self.get(path) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(other) => Err(wrong(path, format!("must be a map, is {}", describe(other)))),
        }
    }

    pub(super) fn list(&self, path: &'static str) -> Result<&'a [Value], InjectError> {
        match self.get(path) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(wrong(path, format!("must be a list, is {}", describe(other)))),
        }
    }
}

fn judge(map: &Map<String, Value>, path: &mut String, warnings: &mut Vec<String>) -> Result<(), InjectError> {
    let length = path.len();
    for (key, value) in map {
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        let row = TABLE.iter().find(|(row, _)| row == path);
        // A map of which single members are judged is gone into before it is passed over as a whole.
        let below = TABLE.iter().any(|(row, _)| row.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.')));
        match (row.map(|(_, class)| class), value) {
            (_, Value::Null) => {}
            (Some(Passed), Value::Object(members)) if below => {
                let known = members.iter().filter(|(member, _)| {
                    let start = format!("{path}.{member}");
                    TABLE.iter().any(|(row, _)| *row == start || row.starts_with(&format!("{start}.")))
                });
                judge(&known.map(|(k, v)| (k.clone(), v.clone())).collect(), path, warnings)?;
            }
            (Some(Done | Passed), _) => {}
            (Some(_), value) if is_empty(value) => {}
            (Some(Warned), _) => warnings.push(format!("values: {path}: has no effect")),
            (Some(Only(allowed)), value) => only(path, value, allowed)?,
            (None, Value::Object(members)) if below => judge(members, path, warnings)?,
            (None, _) => warnings.push(format!("values: {path}: is not known, and has no effect")),
        }
        path.truncate(length);
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(_) => false,
    }
}

fn only(path: &str, value: &Value, allowed: &[&str]) -> Result<(), InjectError> {
    let is_allowed = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        allowed.contains(&text.as_str())
    };
    let fine = if let Value::Array(list) = value { list.iter().all(is_allowed) } else { is_allowed(value) };
    if fine {
        return Ok(());
    }
    let else_ = if allowed.is_empty() { "it must be empty".to_owned() } else { format!("it must be {}", allowed.join(" or ")) };
    Err(wrong(path, format!("{value} is not supported: {else_}")))
}
