//! Injection: a pod becomes a pod of the mesh.
//!
//! A pod as JSON, what is known of its namespace, and the mesh's settings go in ([`inject`]); out comes why it stays as it is, or the same pod with the
//! proxy beside its containers, and the JSON patch that leads there. Names, defaults and precedence are Istio's, so that annotations, overrides and tools
//! fit: what chooses a pod is in `decide`, what is read of it in `annotations`, what it gets in `sidecar`, `init`, `probes` and `metadata`.
//!
//! Pure: no IO, no clock, nothing of the cluster. The webhook and `mizzen kube-inject` call the same function.

mod annotations;
mod config;
mod decide;
mod init;
mod merge;
mod metadata;
mod pod;
mod probes;
mod proxy_env;
mod sidecar;
#[cfg(test)]
mod tests;
mod values;

use std::{fmt, sync::Arc};

use mizzen_api::Object;
use serde_json::Value;

pub use config::InjectConfig;
pub use decide::STATUS;
pub use metadata::DNS_CAPTURE;
pub use pod::{PROXY_ID, VALIDATION};
pub use proxy_env::topology as gateway_topology;

/// What is known of the namespace that a pod is made in. Its labels are not: whether it asks for proxies, or the pod where it says nothing, the API server
/// knows by the selectors of its webhook, and sooner than whoever follows namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
    /// The ProxyConfigs that bear on its pods.
    pub proxies: ProxyConfigs,
}

/// The ProxyConfigs of the root namespace and of a pod's own one, each oldest first. Those with a selector are the own namespace's business alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyConfigs {
    /// Of the root namespace.
    pub root: Vec<Arc<Object>>,
    /// Of the pod's.
    pub own: Vec<Arc<Object>>,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It stays as it is.
    Skip(Skip),
    /// It gets a proxy.
    Patched {
        /// The pod with its proxy.
        pod: Value,
        /// What leads from the pod as it was to the pod with its proxy.
        patch: json_patch::Patch,
        /// What its author should know, a line each, without a full stop.
        warnings: Vec<String>,
    },
}

/// Why a pod stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// It has the host's network, in which nothing can be captured.
    HostNetwork,
    /// Its namespace is one of Kubernetes' own.
    SystemNamespace,
    /// It has a proxy already.
    Injected,
    /// It says that it wants none.
    PodDisabled,
    /// A selector of `neverInjectSelector` matches it.
    NeverSelector,
    /// Injection is off unless it is asked for (`global.proxy.autoInject: disabled`).
    PolicyDisabled,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Skip::HostNetwork => "the pod has the host's network",
            Skip::SystemNamespace => "the namespace is one of Kubernetes' own",
            Skip::Injected => "the pod has a proxy already",
            Skip::PodDisabled => "the pod says sidecar.istio.io/inject=false",
            Skip::NeverSelector => "sidecarInjectorWebhook.neverInjectSelector matches the pod",
            Skip::PolicyDisabled => "global.proxy.autoInject is disabled, and the pod does not ask for it",
        })
    }
}

/// Why a pod cannot be injected, or the settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// The pod is not what Kubernetes takes for one.
    #[error("{path}: {reason}")]
    Pod {
        /// Where in the pod.
        path: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// An annotation of the pod.
    #[error("annotation {name}: {reason}")]
    Annotation {
        /// Its name.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// The mesh's settings.
    #[error("meshConfig: {path}: {reason}")]
    Mesh {
        /// Where in them.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value of the injection's settings.
    #[error("values: {path}: {reason}")]
    Values {
        /// Where in the values.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Decides whether a pod gets a proxy, and gives it one.
///
/// `pod` is a Pod as JSON: `metadata` and `spec`; whatever else is in it stays. Where its metadata names no namespace it is in `namespace`.
///
/// # Errors
/// If the pod is malformed, or asks for what is not supported. A pod that is to be in the mesh must not run without its proxy: whoever calls this
/// has to refuse it then.
pub fn inject(pod: &Value, namespace: &NamespaceFacts, config: &InjectConfig) -> Result<Outcome, InjectError> {
    let original = pod;
    let mut pod = pod::Pod::read(pod.clone())?;
    if let Some(skip) = decide::decide(&pod, namespace, config)? {
        return Ok(Outcome::Skip(skip));
    }
    let mut warnings = Vec::new();
    let wanted = annotations::Wanted::read(&pod, namespace, config, &mut warnings)?;
    let owner = metadata::Owner::of(&pod, &namespace.name);
    let given = merge::Given::take(&mut pod)?;
    if config.cni && given.init.is_some() {
        warnings.push(format!("container {} has no effect: the capture is set by the node's plugin", pod::INIT));
    }
    let made = sidecar::Made::new(&pod, &given, &wanted, &owner, config);
    let env = [
        wanted.rewrite_probes.then(|| probes::rewrite(&mut pod, wanted.status_port, &mut warnings)).transpose()?.flatten(),
        metadata::merge_prometheus(&mut pod, &wanted)?,
    ];
    let added = made.put(&mut pod, &given, env.into_iter().flatten().collect(), &wanted, config)?;
    metadata::label(&mut pod, &owner, &added, &given, &wanted, config)?;
    pod.warn_of_reserved_user(&mut warnings);
    let pod = pod.into_value();
    let patch = json_patch::diff(original, &pod);
    Ok(Outcome::Patched { pod, patch, warnings })
}
