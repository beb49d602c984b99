//! What is refused here though its YAML is in order: what this host could not run.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{Key, Object, Problem, core::Deployment, istio::Interception};
use mizzen_capture::{Mode, Settings};

use super::{desired::Objects, settings};

/// At most so many replicas of one Deployment.
const MAX_REPLICAS: u32 = 1_000;
/// At most so many programs of all Deployments: each is three processes, of which many hosts allow 32,768.
const MAX_PROGRAMS: u32 = 5_000;

/// The objects of the folder that are in force, and those that wait until they can be.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// In force.
    pub(crate) objects: Objects,
    refused: BTreeMap<Key, Arc<Object>>,
}

impl Folder {
    /// Puts an object into force, or refuses it: then its last good version stays.
    pub(crate) fn apply(&mut self, object: Arc<Object>) -> Result<(), Problem> {
        let key = object.key();
        match refusal(&object, &self.objects) {
            Some(problem) => {
                self.refused.insert(key, object);
                Err(problem)
            }
            None => {
                self.refused.remove(&key);
                self.objects.insert(key, object);
                Ok(())
            }
        }
    }

    /// Removes an object; whether it was refused.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        self.objects.remove(key);
        self.refused.remove(key).is_some()
    }

    /// Whether the object's newest version is refused.
    pub(crate) fn refuses(&self, key: &Key) -> bool {
        self.refused.contains_key(key)
    }

    /// Puts into force what was refused for the sake of others that are gone by now; returns what that is.
    pub(crate) fn retry(&mut self) -> Vec<Key> {
        let waiting: Vec<Arc<Object>> = self.refused.values().cloned().collect();
        waiting.into_iter().map(|object| (object.key(), self.apply(object))).filter(|(_, r)| r.is_ok()).map(|(key, _)| key).collect()
    }
}

/// Why an object cannot be in force beside the others.
fn refusal(object: &Object, others: &Objects) -> Option<Problem> {
    let (field, message) = match object {
        Object::Pod(_) => ("", "pods are not started here: write a Deployment".to_owned()),
        Object::EndpointSlice(_) => {
            ("", "endpoints are those of the programs that are started here: write a ServiceEntry for others".to_owned())
        }
        Object::Deployment(deployment) => {
            let wanted = deployment.replicas;
            let sum = |sum: u32, other: &Arc<Object>| match &**other {
                Object::Deployment(other)
                    if other.meta.name != deployment.meta.name || other.meta.namespace != deployment.meta.namespace =>
                {
                    sum.saturating_add(other.replicas)
                }
                _ => sum,
            };
            if let Some(error) = capture_fault(deployment) {
                ("spec.template.metadata.annotations", error)
            } else if let Some(error) = settings_fault(deployment) {
                ("spec.template.metadata.annotations", error)
            } else if wanted > MAX_REPLICAS {
                ("spec.replicas", format!("must be at most {MAX_REPLICAS}, is {wanted}"))
            } else if others.values().fold(wanted, sum) > MAX_PROGRAMS {
                (
                    "spec.replicas",
                    format!("one host runs at most {MAX_PROGRAMS} programs, and the other Deployments leave less than {wanted}"),
                )
            } else {
                return None;
            }
        }
        Object::MeshConfig(mesh) if mesh.default_config.interception == Interception::Tproxy => {
            ("defaultConfig.interceptionMode", TRANSPARENT.to_owned())
        }
        _ => return None,
    };
    Some(Problem { pos: object.meta().origin.clone(), object: Some(object.key()), field: field.to_owned(), message })
}

/// A mark tells the proxy's connections from others here, which is what TPROXY needs it for.
const TRANSPARENT: &str = "TPROXY is for pods of a cluster: on a host it must be REDIRECT";

/// What is wrong with what is to be captured of a Deployment's pods.
fn capture_fault(deployment: &Deployment) -> Option<String> {
    match Settings::from_annotations(&deployment.template.annotations) {
        Err(error) => Some(error.to_string()),
        Ok(settings) if settings.mode != Mode::Redirect => Some(format!("annotation sidecar.istio.io/interceptionMode: {TRANSPARENT}")),
        Ok(_) => None,
    }
}

/// What is wrong with the settings of their proxies.
fn settings_fault(deployment: &Deployment) -> Option<String> {
    match settings::own(&deployment.template.annotations) {
        Err(error) => Some(error),
        Ok((own, _)) if own.interception == Interception::Tproxy => Some(format!("proxy.istio.io/config: interceptionMode: {TRANSPARENT}")),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Arc<Object> {
        let parsed = mizzen_api::parse_documents(text, &"a.yaml".into());
        Arc::new(parsed.objects.into_iter().next().expect("a document").unwrap_or_else(|r| panic!("{r:?}")))
    }

    fn deployment(name: &str, replicas: u32, annotation: &str) -> Arc<Object> {
        annotated(name, replicas, &format!("traffic.sidecar.istio.io/excludeOutboundPorts: '{annotation}'"))
    }

    fn annotated(name: &str, replicas: u32, annotation: &str) -> Arc<Object> {
        object(&format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}, annotations: {{{annotation}}}}}
    spec: {{containers: [{{name: web, image: any, command: [serve]}}]}}
"
        ))
    }

    #[test]
    fn what_cannot_run_is_named() {
        let mut folder = Folder::default();
        let mut refused = |object| folder.apply(object).expect_err("a refusal").to_string();
        let pod = object("apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: shop}\nspec: {}\n");
        assert_eq!(refused(pod), "a.yaml:1: Pod shop/x: pods are not started here: write a Deployment");
        assert_eq!(
            refused(deployment("web", 100_000, "")),
            "a.yaml:1: Deployment shop/web: spec.replicas: must be at most 1000, is 100000"
        );
        let line = refused(deployment("web", 1, "abc"));
        let start = "a.yaml:1: Deployment shop/web: spec.template.metadata.annotations: ";
        assert!(line.starts_with(start) && line.contains("excludeOutboundPorts") && line.contains("`abc`"), "{line}");
        let transparent = "TPROXY is for pods of a cluster: on a host it must be REDIRECT";
        assert_eq!(
            refused(annotated("web", 1, "sidecar.istio.io/interceptionMode: TPROXY")),
            format!("{start}annotation sidecar.istio.io/interceptionMode: {transparent}")
        );
        assert_eq!(
            refused(annotated("web", 1, "proxy.istio.io/config: 'interceptionMode: TPROXY'")),
            format!("{start}proxy.istio.io/config: interceptionMode: {transparent}")
        );
        let mesh = mizzen_api::parse_mesh_config("defaultConfig: {interceptionMode: TPROXY}", &"a.yaml".into()).expect("settings").0;
        let line = refused(Arc::new(mesh.into()));
        assert!(line.ends_with(&format!(": defaultConfig.interceptionMode: {transparent}")), "{line}");
        let gateway = object(
            "apiVersion: apps/v1
kind: Deployment
metadata: {name: gate, namespace: shop}
spec:
  selector: {matchLabels: {istio: gate}}
  template:
    metadata:
      labels: {istio: gate}
      annotations: {inject.istio.io/templates: gateway, proxy.istio.io/config: 'gatewayTopology: {numTrustedProxies: many}'}
    spec: {containers: [{name: istio-proxy, image: auto}]}
",
        );
        let line = refused(gateway);
        let start = "a.yaml:1: Deployment shop/gate: spec.template.metadata.annotations: proxy.istio.io/config: ";
        assert!(line.starts_with(start) && line.contains("numTrustedProxies"), "{line}");
        assert!(folder.objects.is_empty());
    }

    #[test]
    fn a_good_version_stays_and_a_full_host_gets_room() {
        let mut folder = Folder::default();
        for number in 0..5 {
            folder.apply(deployment(&format!("web-{number}"), 1_000, "")).expect("room");
        }
        let small = deployment("small", 1, "");
        assert!(folder.apply(small.clone()).expect_err("no room").to_string().contains("at most 5000 programs"));
        folder.apply(deployment("web-0", 2_000, "")).expect_err("too many");
        let first = deployment("web-0", 1_000, "");
        assert_eq!(folder.objects[&first.key()], first, "its last good version stays");
        assert!(folder.retry().is_empty() && folder.refuses(&first.key()));
        assert!(!folder.remove(&deployment("web-1", 1, "").key()));
        assert_eq!(folder.retry(), [small.key()]);
        assert!(folder.remove(&first.key()) && folder.objects.contains_key(&small.key()));
    }
}
