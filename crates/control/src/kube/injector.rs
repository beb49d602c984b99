//! The webhook that puts the proxy into pods: what is known of the cluster beside what [`crate::inject`] decides.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1 as k8s;
use kube::{
    Api, Client,
    core::{
        DynamicObject,
        admission::{AdmissionRequest, AdmissionResponse},
    },
};
use mizzen_api::{Kind, Object, istio::MeshConfig};
use serde_json::Value;
use tokio::sync::watch;

use super::watch::{Told, one};
use crate::{
    inject::{InjectConfig, NamespaceFacts, Outcome, ProxyConfigs, inject},
    names::{INJECTOR, VALUES},
    writer::Published,
};

/// The first version of Kubernetes, 1.33, of which native sidecars are taken for good everywhere, as Istio does.
const NATIVE: (u32, u32) = (1, 33);

/// Answers what the API server asks about new pods.
#[derive(Clone)]
pub(crate) struct Injector {
    published: watch::Receiver<Option<Published>>,
    /// The values of the installation; `None` if they cannot be read.
    values: watch::Receiver<Result<Arc<Value>, String>>,
    native: bool,
    /// The settings that were made last, and of what.
    made: Arc<Mutex<Option<Made>>>,
}

/// Settings, with what they were made of.
struct Made {
    mesh: Arc<MeshConfig>,
    values: Arc<Value>,
    config: Arc<InjectConfig>,
}

impl Injector {
    pub(crate) fn new(
        published: watch::Receiver<Option<Published>>,
        values: watch::Receiver<Result<Arc<Value>, String>>,
        native: bool,
    ) -> Injector {
        Injector { published, values, native, made: Arc::default() }
    }

    /// The settings as they are now.
    fn config(&self) -> Result<Arc<InjectConfig>, String> {
        let values = self.values.borrow().clone()?;
        let mesh = self.published.borrow().as_ref().map(|published| published.snapshot.mesh().clone()).unwrap_or_default();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made
            && Arc::ptr_eq(&made.mesh, &mesh)
            && Arc::ptr_eq(&made.values, &values)
        {
            return Ok(made.config.clone());
        }
        let config = Arc::new(InjectConfig::new(&mesh, &values, self.native).map_err(|error| error.to_string())?);
        config.warnings.iter().for_each(|warning| tracing::warn!(warning, "injection"));
        *made = Some(Made { mesh, values, config: config.clone() });
        Ok(config)
    }

    fn namespace(&self, name: &str) -> NamespaceFacts {
        let Some(snapshot) = self.published.borrow().as_ref().map(|published| published.snapshot.clone()) else {
            return NamespaceFacts { name: name.to_owned(), ..NamespaceFacts::default() };
        };
        let configs = |namespace: &str| {
            let mut found: Vec<Arc<Object>> = snapshot.within(Kind::ProxyConfig, namespace).map(|(object, _)| object.clone()).collect();
            found.sort_by(|a, b| mizzen_model::by_age(a.meta(), b.meta()));
            found
        };
        let root = snapshot.mesh().root_namespace.as_str();
        // What selects workloads of the root namespace says nothing of others.
        let own = configs(name);
        let proxies = ProxyConfigs { root: if name == root { own.clone() } else { configs(root) }, own };
        NamespaceFacts { name: name.to_owned(), proxies }
    }

    /// What becomes of a new pod. One that is to be in the mesh and cannot is refused: without its proxy it would talk in the clear.
    pub(crate) fn judge(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let response = AdmissionResponse::from(request);
        let Some(object) = request.object.as_ref().filter(|_| request.kind.kind == "Pod" && request.kind.group.is_empty()) else {
            return response;
        };
        let namespace = self.namespace(request.namespace.as_deref().unwrap_or_default());
        let pod = match serde_json::to_value(object) {
            Ok(pod) => pod,
            Err(error) => return response.deny(format!("no pod: {error}")),
        };
        let outcome = self.config().and_then(|config| inject(&pod, &namespace, &config).map_err(|error| error.to_string()));
        match outcome {
            Ok(Outcome::Skip(reason)) => {
                tracing::debug!(namespace = namespace.name, %reason, "not injected");
                response
            }
            Ok(Outcome::Patched { patch, warnings, .. }) => {
                let mut response = response;
                if !warnings.is_empty() {
                    response.warnings = Some(warnings);
                }
                response.clone().with_patch(patch).unwrap_or_else(|error| response.deny(error))
            }
            Err(reason) => {
                tracing::warn!(namespace = namespace.name, pod = pod_name(request), reason, "a pod is refused: it cannot get a proxy");
                response.deny(format!("the pod cannot get its proxy: {reason}"))
            }
        }
    }
}

/// Most pods have no name yet, but a beginning of one.
fn pod_name(request: &AdmissionRequest<DynamicObject>) -> &str {
    let metadata = request.object.as_ref().map(|object| &object.metadata);
    metadata.and_then(|metadata| metadata.name.as_deref().or(metadata.generate_name.as_deref())).unwrap_or_default()
}

/// Whether injection makes native sidecars in this cluster by default: by the version of Kubernetes; not if it cannot be asked.
pub async fn has_native_sidecars(client: &Client) -> bool {
    let Ok(version) = client.apiserver_version().await else { return false };
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap_or_default();
    (number(&version.major), number(&version.minor)) >= NATIVE
}

/// Follows the values of the installation: ConfigMap `istio-sidecar-injector`, key `values`. What cannot be read keeps pods that need it from being made.
pub(crate) async fn follow_values(client: Client, namespace: String, values: watch::Sender<Result<Arc<Value>, String>>) {
    let api: Api<k8s::ConfigMap> = Api::namespaced(client, &namespace);
    let told = Told::of_own(format!("configmaps {INJECTOR}"), "the values of the installation that are known stay in force");
    let maps = one(api, INJECTOR, told);
    pin_mut!(maps);
    while let Some(map) = maps.next().await {
        // Defaults hold where there is none.
        let read = map.as_ref().map_or(Ok(Arc::new(Value::Null)), read);
        if let Err(reason) = &read {
            tracing::error!(reason, "no pod gets a proxy, and pods that need one are refused");
        }
        drop(values.send_replace(read));
    }
}

fn read(map: &k8s::ConfigMap) -> Result<Arc<Value>, String> {
    let text = map.data.as_ref().and_then(|data| data.get(VALUES)).map(String::as_str).unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(Arc::new(Value::Null));
    }
    serde_json::from_str(text).map(Arc::new).map_err(|error| format!("ConfigMap {INJECTOR}: {VALUES}: {error}"))
}
