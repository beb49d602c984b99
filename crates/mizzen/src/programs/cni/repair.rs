//! Pods of the node that have started without the plugin's work: because they were there before it, or its entry was away for a moment. None of their
//! programs runs, since their first container looks and ends with an exit code of its own. What is done about them, the agent is told.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::{WatchStreamExt, watcher},
};
use mizzen_capture::Plan;
use mizzen_control::inject::VALIDATION;
use serde_json::json;

use super::{
    processes,
    serve::Metrics,
    wanted::{Annotations, wanted},
};
use crate::programs::iptables::NOT_CAPTURED;

/// The label of pods that somebody else is to mend.
const LABEL: (&str, &str) = ("cni.istio.io/uninitialized", "true");

/// What is done about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// The capture is set in its namespace; kubelet starts the container that looks once more.
    Repair,
    /// It is deleted, and whoever has made it makes another one.
    Delete,
    /// It is labelled.
    Label,
    /// Nothing; it is not looked for either.
    Off,
}

impl Mode {
    /// As Istio's metrics have it.
    fn name(self) -> &'static str {
        match self {
            Mode::Repair => "repair",
            Mode::Delete => "delete",
            Mode::Label => "label",
            Mode::Off => "off",
        }
    }
}

/// How pods of a node are mended.
pub(super) struct Repair {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) mode: Mode,
    /// Namespaces whose pods are left alone.
    pub(super) excluded: Vec<String>,
    /// The node's /proc.
    pub(super) proc: PathBuf,
    pub(super) metrics: Arc<Metrics>,
}

/// How a pod is without its capture: how often its container has looked in vain and was started again, of each start one is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Broken {
    starts: i32,
}

/// Whether a pod's container has looked in vain, and will look again.
fn broken(pod: &Pod) -> Option<Broken> {
    let status = pod.status.as_ref()?;
    // One that has ended is not started again.
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let looks: &ContainerStatus = status.init_container_statuses.iter().flatten().find(|status| status.name == VALIDATION)?;
    let in_vain = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == i32::from(NOT_CAPTURED))
    };
    let waits = looks.state.as_ref().is_some_and(|state| state.waiting.is_some());
    (in_vain(&looks.state) || waits && in_vain(&looks.last_state)).then_some(Broken { starts: looks.restart_count })
}

/// A pod's name, for people.
fn title(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

fn annotations(pod: &Pod) -> Annotations {
    pod.metadata.annotations.clone().unwrap_or_default()
}

impl Repair {
    /// Follows the node's pods for as long as it is polled.
    pub(super) async fn run(self) {
        if self.mode == Mode::Off {
            return std::future::pending().await;
        }
        let api: Api<Pod> = Api::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let stream = watcher(api, config).default_backoff();
        pin_mut!(stream);
        let (mut listed, mut done) = (Vec::new(), BTreeMap::new());
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => listed.push(pod),
                Ok(watcher::Event::InitDone) => {
                    done.retain(|uid: &String, _| listed.iter().any(|pod: &Pod| pod.metadata.uid.as_ref() == Some(uid)));
                    for pod in &listed {
                        self.look(pod, &mut done).await;
                    }
                    self.look_into(&listed).await;
                    listed = Vec::new();
                }
                Ok(watcher::Event::Apply(pod)) => self.look(&pod, &mut done).await,
                Ok(watcher::Event::Delete(pod)) => drop(pod.metadata.uid.and_then(|uid| done.remove(&uid))),
                Err(error) => tracing::warn!(reason = super::chain(&error), "pods of this node cannot be followed"),
            }
        }
    }

    /// Mends a pod once for each start of its container that was in vain.
    async fn look(&self, pod: &Pod, done: &mut BTreeMap<String, Broken>) {
        let (Some(found), Some(uid)) = (broken(pod), pod.metadata.uid.clone()) else { return };
        if done.insert(uid, found) == Some(found) {
            return;
        }
        let pod_name = title(pod);
        tracing::warn!(
            pod = pod_name,
            starts = found.starts,
            "a pod has started without its capture: before the plugin, or while that was away"
        );
        let result = match self.mode {
            _ if self.is_excluded(pod) => {
                Err("its namespace is excluded (values.cni.excludeNamespaces), and yet it has a sidecar".to_owned())
            }
            Mode::Repair => self.repair(pod).await,
            Mode::Delete => self.delete(pod).await,
            Mode::Label => self.label(pod).await,
            Mode::Off => return,
        };
        self.told(&pod_name, result);
    }

    fn told(&self, pod: &str, result: Result<(), String>) {
        let name = if result.is_ok() { "success" } else { "fail" };
        self.metrics.repaired.with_label_values(&[self.mode.name(), name]).inc();
        match result {
            Ok(()) => tracing::info!(pod, action = self.mode.name(), "it is done"),
            Err(why) => tracing::error!(pod, action = self.mode.name(), why, "it cannot be done"),
        }
    }

    fn is_excluded(&self, pod: &Pod) -> bool {
        pod.metadata.namespace.as_ref().is_some_and(|namespace| self.excluded.contains(namespace))
    }

    /// Looks into the pods that are there already, whatever their containers have seen.
    async fn look_into(&self, pods: &[Pod]) {
        if self.mode != Mode::Repair {
            return;
        }
        let is_meshs = |pod: &&Pod| {
            let stays = pod.metadata.deletion_timestamp.is_none() && !self.is_excluded(pod);
            stays && wanted(&annotations(pod)).is_ok_and(|wanted| wanted.is_some())
        };
        let mesh: Vec<&Pod> = pods.iter().filter(is_meshs).collect();
        let uids: Vec<&str> = mesh.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        let namespaces = match processes::namespaces(&self.proc, &uids) {
            Ok(namespaces) => namespaces,
            Err(error) => {
                return tracing::warn!(%error, "the node's processes cannot be seen: pods that were there before are known by their containers alone");
            }
        };
        for pod in mesh {
            let Some(netns) = pod.metadata.uid.as_ref().and_then(|uid| namespaces.get(uid)) else { continue };
            let pod_name = title(pod);
            match super::is_captured(netns).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(
                        pod = pod_name,
                        "a pod is there without its capture: it has started before the plugin, or somebody has removed the rules"
                    );
                    let result = self.repair(pod).await;
                    self.told(&pod_name, result);
                }
                Err(why) => tracing::warn!(pod = pod_name, why, "whether a pod is captured cannot be seen"),
            }
        }
    }

    /// Sets the capture where the pod runs.
    async fn repair(&self, pod: &Pod) -> Result<(), String> {
        let settings = wanted(&annotations(pod))?.ok_or("its annotations do not say that it is captured by the plugin")?;
        let uid = pod.metadata.uid.as_deref().ok_or("it has no UID")?;
        let namespaces =
            processes::namespaces(&self.proc, &[uid]).map_err(|error| format!("the node's processes cannot be seen: {error}"))?;
        let netns = namespaces.get(uid).ok_or("no process of it has a network of its own")?;
        super::capture(netns, Plan::new(&settings)).await
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }

    async fn delete(&self, pod: &Pod) -> Result<(), String> {
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        self.api(pod).delete(&pod.name_any(), &params).await.map(drop).map_err(|error| said(&error))
    }

    async fn label(&self, pod: &Pod) -> Result<(), String> {
        let patch = json!({ "metadata": { "uid": pod.metadata.uid, "labels": { LABEL.0: LABEL.1 } } });
        self.api(pod).patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).map_err(|error| said(&error))
    }
}

fn said(error: &kube::Error) -> String {
    mizzen_control::cluster_error(error)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pod(phase: &str, status: Value) -> Pod {
        let mut status = status;
        status["image"] = json!("");
        status["imageID"] = json!("");
        status["ready"] = json!(false);
        status["name"].is_null().then(|| status["name"] = json!(VALIDATION));
        serde_json::from_value(
            json!({ "metadata": { "name": "a", "namespace": "shop" }, "status": { "phase": phase, "initContainerStatuses": [status] } }),
        )
        .unwrap()
    }

    #[test]
    fn which_pods_wait_for_their_capture() {
        let ended = |code: i32| json!({ "terminated": { "exitCode": code } });
        let waits = || json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let runs = || json!({ "running": {} });
        let check = |phase: &str, state: Value, last: Value, want: Option<i32>| {
            let pod = pod(phase, json!({ "state": state, "lastState": last, "restartCount": 2 }));
            assert_eq!(broken(&pod).map(|broken| broken.starts), want, "{phase} {state} {last}");
        };
        check("Pending", ended(126), json!({}), Some(2));
        check("Pending", waits(), ended(126), Some(2));
        check("Pending", ended(126), ended(126), Some(2));
        check("Pending", ended(0), ended(126), None);
        check("Pending", runs(), ended(126), None);
        check("Pending", waits(), ended(1), None);
        check("Pending", ended(1), json!({}), None);
        check("Pending", waits(), json!({}), None);
        // It is not started again.
        check("Failed", ended(126), json!({}), None);
        let other = pod("Pending", json!({ "name": "other", "state": ended(126), "restartCount": 0 }));
        assert_eq!(broken(&other), None);
        let mut leaves = pod("Pending", json!({ "state": ended(126), "restartCount": 0 }));
        leaves.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(broken(&leaves), None);
        assert_eq!(broken(&Pod::default()), None);
    }
}
