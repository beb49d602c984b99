//! Which pods get a proxy.

use mizzen_api::core::SYSTEM_NAMESPACES;
use serde_json::Value;

use super::{InjectConfig, InjectError, NamespaceFacts, Skip, annotations::INJECT, pod::Pod};

/// The annotation of pods that have their proxy.
pub const STATUS: &str = "sidecar.istio.io/status";

/// Why a pod for which one was asked gets none; `None`: it gets one.
pub(super) fn decide(pod: &Pod, namespace: &NamespaceFacts, config: &InjectConfig) -> Result<Option<Skip>, InjectError> {
    if pod.spec().get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Ok(Some(Skip::HostNetwork));
    }
    if SYSTEM_NAMESPACES.contains(&namespace.name.as_str()) {
        return Ok(Some(Skip::SystemNamespace));
    }
    if pod.annotation(STATUS).is_some() {
        return Ok(Some(Skip::Injected));
    }
    // The label is for the API server's selectors, which know no annotations: where both are, it holds.
    let says = pod.label(INJECT).or_else(|| pod.annotation(INJECT)).map(str::to_lowercase).unwrap_or_default();
    let says = match says.as_str() {
        "" => None,
        "y" | "yes" | "true" | "on" => Some(true),
        // As in Istio, whatever is no yes is a no.
        _ => Some(false),
    };
    Ok(match says {
        Some(true) => None,
        Some(false) => Some(Skip::PodDisabled),
        None if config.never.iter().any(|selector| selector.matches(pod)) => Some(Skip::NeverSelector),
        None if config.always.iter().any(|selector| selector.matches(pod)) => None,
        None if config.enabled => None,
        None => Some(Skip::PolicyDisabled),
    })
}
