//! The objects of an installation in a cluster: applied, looked at, removed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use super::{
    super::kube::{is_missing, say},
    manifest::{OWNER, title},
};

/// Under this name the API server remembers which fields are the installer's.
const MANAGER: &str = "mizzen-install";
/// How long is waited before it is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// A kind of which something is installed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Installed {
    version: &'static str,
    pub(super) kind: &'static str,
    plural: &'static str,
    pub(super) namespaced: bool,
}

const fn of_cluster(version: &'static str, kind: &'static str, plural: &'static str) -> Installed {
    Installed { version, kind, plural, namespaced: false }
}

const fn namespaced(version: &'static str, kind: &'static str, plural: &'static str) -> Installed {
    Installed { version, kind, plural, namespaced: true }
}

/// In the order in which they are removed: who asks before who answers, what runs before what it needs.
pub(super) const KINDS: [Installed; 20] = [
    of_cluster("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
    of_cluster("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    namespaced("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    namespaced("apps/v1", "DaemonSet", "daemonsets"),
    namespaced("apps/v1", "Deployment", "deployments"),
    namespaced("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    namespaced("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    namespaced("v1", "ResourceQuota", "resourcequotas"),
    namespaced("v1", "Service", "services"),
    namespaced("v1", "ConfigMap", "configmaps"),
    LEASES,
    namespaced("security.istio.io/v1", "AuthorizationPolicy", "authorizationpolicies"),
    namespaced("security.istio.io/v1", "PeerAuthentication", "peerauthentications"),
    namespaced("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    namespaced("rbac.authorization.k8s.io/v1", "Role", "roles"),
    of_cluster("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
    of_cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    namespaced("v1", "ServiceAccount", "serviceaccounts"),
    of_cluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
    of_cluster("v1", "Namespace", "namespaces"),
];

impl Installed {
    /// The kind of an object.
    pub(super) fn of(object: &Value) -> Result<Installed> {
        let (version, kind) = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
        let found = KINDS.iter().find(|known| known.version == version && known.kind == kind);
        found.copied().with_context(|| format!("{version} {kind} is no kind of an installation"))
    }

    fn resource(self) -> ApiResource {
        let (group, version) = self.version.split_once('/').unwrap_or(("", self.version));
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, self.kind), self.plural)
    }

    fn api(self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource()),
            None => Api::all_with(client.clone(), &self.resource()),
        }
    }
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Made,
    Changed,
    Same,
}

/// A cluster, for whoever installs or only says what would be done.
pub(super) struct Cluster {
    client: Client,
    /// Nothing is changed.
    pub(super) dry_run: bool,
}

impl Cluster {
    pub(super) fn new(client: Client, dry_run: bool) -> Cluster {
        Cluster { client, dry_run }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What the cluster has of this object, by its kind, namespace and name.
    pub(super) async fn find(&self, object: &Value) -> Result<Option<Value>> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).context("an object without a name")?;
        self.get(Installed::of(object)?, object.pointer("/metadata/namespace").and_then(Value::as_str), name).await
    }

    async fn get(&self, kind: Installed, namespace: Option<&str>, name: &str) -> Result<Option<Value>> {
        match kind.api(&self.client, namespace).get(name).await {
            Ok(found) => Ok(Some(serde_json::to_value(found)?)),
            // A kind that is not there yet has no objects either.
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(say(error).context(format!("{} {name}", kind.kind))),
        }
    }

    /// Makes the cluster's object as this one: what others have written beside it stays.
    pub(super) async fn apply(&self, object: &Value) -> Result<Outcome> {
        let what = title(object);
        let before = self.find(object).await?;
        if self.dry_run && before.is_none() {
            // Its namespace or its kind may be missing too, and would only then be there.
            return Ok(Outcome::Made);
        }
        let mut wanted = object.clone();
        keep_closed(&mut wanted, before.as_ref());
        let mut params = PatchParams::apply(MANAGER).force();
        params.dry_run = self.dry_run;
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let kind = Installed::of(object)?;
        let api = kind.api(&self.client, object.pointer("/metadata/namespace").and_then(Value::as_str));
        let after = api.patch(name, &params, &Patch::Apply(&wanted)).await.map_err(|error| say(error).context(what))?;
        let mut after = serde_json::to_value(after)?;
        Ok(match before {
            None => Outcome::Made,
            Some(mut before) => {
                [&mut before, &mut after].into_iter().for_each(forget_bookkeeping);
                if before == after { Outcome::Same } else { Outcome::Changed }
            }
        })
    }

    /// All that carries the installer's label, in the order in which it is removed.
    pub(super) async fn installed(&self) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        for kind in KINDS {
            found.extend(self.list(kind, &ListParams::default().labels(&format!("{}={}", OWNER.0, OWNER.1))).await?);
        }
        Ok(found)
    }

    /// Removes an object and what belongs to it, and waits until it is gone. Whether it was there.
    pub(super) async fn remove(&self, object: &Value, until: Instant) -> Result<bool> {
        if self.dry_run {
            return Ok(self.find(object).await?.is_some());
        }
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let api = Installed::of(object)?.api(&self.client, object.pointer("/metadata/namespace").and_then(Value::as_str));
        let policy = match object["kind"].as_str() {
            // Its pods are gone when it is.
            Some("Deployment" | "DaemonSet") => PropagationPolicy::Foreground,
            _ => PropagationPolicy::Background,
        };
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        match api.delete(name, &params).await {
            Ok(_) => {}
            Err(error) if is_missing(&error) => return Ok(false),
            Err(error) => return Err(say(error).context(title(object))),
        }
        while self.find(object).await?.is_some() {
            if Instant::now() >= until {
                bail!("{} is still there: something holds it (its finalizers)", title(object));
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(true)
    }

    /// Waits until an object is as it is to be: `missing` says what it lacks.
    pub(super) async fn wait(&self, object: &Value, until: Instant, missing: fn(&Value) -> Option<String>) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        loop {
            let lacks = match self.find(object).await? {
                Some(found) => missing(&found),
                None => Some("it is gone".to_owned()),
            };
            let Some(lacks) = lacks else { return Ok(()) };
            if Instant::now() >= until {
                let why = self.why(object).await;
                bail!("{} is not ready: {lacks}{why}", title(object));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What the pods of a Deployment or a DaemonSet wait for.
    async fn why(&self, object: &Value) -> String {
        if object["kind"] != "Deployment" && object["kind"] != "DaemonSet" {
            return String::new();
        }
        let labels = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
        let selector: Vec<String> =
            labels.into_iter().flatten().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let pods = namespaced("v1", "Pod", "pods").api(&self.client, namespace);
        let list = pods.list(&ListParams::default().labels(&selector.join(","))).await;
        let pods: Vec<Value> = list.into_iter().flatten().filter_map(|pod| serde_json::to_value(pod).ok()).collect();
        let reasons: BTreeSet<String> = pods.iter().flat_map(waits_for).collect();
        if reasons.is_empty() {
            return match object["kind"] == "DaemonSet" {
                true => "; it has no pods, see its events".to_owned(),
                false => "; it has no pods, see its events and those of its ReplicaSet".to_owned(),
            };
        }
        format!("; {}", reasons.into_iter().collect::<Vec<_>>().join("; "))
    }

    /// Whether the API server serves this resource of the core group.
    pub(super) async fn serves(&self, resource: &str) -> Result<bool> {
        let list = self.client.list_core_api_resources("v1").await.map_err(say)?;
        Ok(list.resources.iter().any(|served| served.name == resource))
    }

    /// The version of the API server.
    pub(super) async fn version(&self) -> Result<String> {
        Ok(self.client.apiserver_version().await.map_err(say)?.git_version)
    }

    /// The objects of a kind in all namespaces for which `is` holds.
    pub(super) async fn those(&self, kind: Installed, is: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let mut found = self.list(kind, &ListParams::default()).await?;
        found.retain(is);
        Ok(found)
    }

    /// The objects of a kind in all namespaces; none of a kind that is not there.
    async fn list(&self, kind: Installed, params: &ListParams) -> Result<Vec<Value>> {
        let list = match kind.api(&self.client, None).list(params).await {
            Ok(list) => list,
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            Err(error) => return Err(say(error).context(format!("listing {}", kind.plural))),
        };
        let typed = |object: DynamicObject| {
            let mut object = serde_json::to_value(object)?;
            // Elements of lists do not say what they are.
            object["apiVersion"] = json!(kind.version);
            object["kind"] = json!(kind.kind);
            Ok(object)
        };
        list.into_iter().map(typed).collect()
    }
}

/// A validator that its control plane has closed stays closed: nobody would close it again before the control plane looks.
fn keep_closed(wanted: &mut Value, before: Option<&Value>) {
    let closed = |object: &Value| object.pointer("/webhooks/0/failurePolicy") == Some(&json!("Fail"));
    if wanted["kind"] == "ValidatingWebhookConfiguration"
        && before.is_some_and(closed)
        && let Some(policy) = wanted.pointer_mut("/webhooks/0/failurePolicy")
    {
        *policy = json!("Fail");
    }
}

/// Removes what changes although nothing does.
fn forget_bookkeeping(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for name in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(name);
        }
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
}

/// What a Deployment lacks of being rolled out.
pub(super) fn not_rolled_out(found: &Value) -> Option<String> {
    let number = |pointer: &str| found.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let wanted = found.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Some("nobody has seen its change yet".to_owned());
    }
    let (updated, available, all) = (number("/status/updatedReplicas"), number("/status/availableReplicas"), number("/status/replicas"));
    if updated < wanted || available < wanted {
        return Some(format!("{} of {wanted} replicas are available", available.min(updated)));
    }
    (all > updated).then(|| format!("{} replicas of an earlier version are still there", all - updated))
}

/// What a DaemonSet lacks of running on all its nodes, of which there may be none.
pub(super) fn not_on_all_nodes(found: &Value) -> Option<String> {
    let number = |name: &str| found.pointer(&format!("/status/{name}")).and_then(Value::as_i64).unwrap_or(0);
    let generation = found.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    if number("observedGeneration") < generation || generation == 0 {
        return Some("nobody has seen its change yet".to_owned());
    }
    let (wanted, there) = (number("desiredNumberScheduled"), number("updatedNumberScheduled").min(number("numberAvailable")));
    (there < wanted).then(|| format!("it is available on {there} of {wanted} nodes"))
}

/// What a CustomResourceDefinition lacks of being served.
pub(super) fn not_established(found: &Value) -> Option<String> {
    let conditions = found.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let holds = |name: &str| conditions.iter().any(|condition| condition["type"] == name && condition["status"] == "True");
    if holds("Established") {
        return None;
    }
    let refused = conditions.iter().find(|condition| condition["type"] == "NamesAccepted" && condition["status"] == "False");
    Some(refused.and_then(|condition| condition["message"].as_str()).unwrap_or("it is not established yet").to_owned())
}

/// What a webhook's configuration lacks of being asked.
pub(super) fn without_authority(found: &Value) -> Option<String> {
    let webhooks = found["webhooks"].as_array().cloned().unwrap_or_default();
    let has = |webhook: &Value| webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str).is_some_and(|bundle| !bundle.is_empty());
    let lacking = webhooks.iter().find(|webhook| !has(webhook))?;
    Some(format!("the control plane has not written its authority into {}", lacking["name"].as_str().unwrap_or("a webhook")))
}

fn waits_for(pod: &Value) -> Vec<String> {
    let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("-");
    let all = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut reasons = Vec::new();
    for status in [all("/status/initContainerStatuses"), all("/status/containerStatuses")].concat() {
        let container = status["name"].as_str().unwrap_or("-");
        let state = |of: &str| status.pointer(&format!("/{of}/reason")).and_then(Value::as_str);
        let message = |of: &str| status.pointer(&format!("/{of}/message")).and_then(Value::as_str);
        let text = |of: &str| state(of).map(|reason| [Some(reason), message(of)].into_iter().flatten().collect::<Vec<_>>().join(": "));
        if let Some(text) = text("state/waiting").or_else(|| text("state/terminated")).or_else(|| text("lastState/terminated")) {
            reasons.push(format!("pod {name}, container {container}: {text}"));
        } else if status["ready"] == false {
            reasons.push(format!("pod {name}, container {container}: it runs and is not ready"));
        }
    }
    for condition in all("/status/conditions") {
        if condition["type"] == "PodScheduled" && condition["status"] == "False" {
            reasons.push(format!("pod {name}: {}", condition["message"].as_str().unwrap_or("no node takes it")));
        }
    }
    reasons
}

/// Config maps, for [`Cluster::those`].
pub(super) const CONFIG_MAPS: Installed = namespaced("v1", "ConfigMap", "configmaps");
/// Leases, for the same.
pub(super) const LEASES: Installed = namespaced("coordination.k8s.io/v1", "Lease", "leases");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_deployment_is_rolled_out() {
        let deployment = |status: Value| json!({ "metadata": { "generation": 2 }, "spec": { "replicas": 2 }, "status": status });
        let status = |generation, replicas, updated, available| {
            json!({
                "observedGeneration": generation, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available,
            })
        };
        for (found, lacks) in [
            (json!({}), Some("nobody has seen its change yet")),
            (status(1, 2, 2, 2), Some("nobody has seen its change yet")),
            (status(2, 2, 1, 2), Some("1 of 2 replicas are available")),
            (status(2, 2, 2, 0), Some("0 of 2 replicas are available")),
            (status(2, 3, 2, 2), Some("1 replicas of an earlier version are still there")),
            (status(2, 2, 2, 2), None),
        ] {
            assert_eq!(not_rolled_out(&deployment(found.clone())).as_deref(), lacks, "{found}");
        }
    }

    #[test]
    fn when_a_daemon_set_is_everywhere() {
        let status = |generation, wanted, updated, available| {
            json!({
                "metadata": { "generation": 2 },
                "status": { "observedGeneration": generation, "desiredNumberScheduled": wanted, "updatedNumberScheduled": updated, "numberAvailable": available },
            })
        };
        for (found, lacks) in [
            (json!({}), Some("nobody has seen its change yet")),
            (status(1, 2, 2, 2), Some("nobody has seen its change yet")),
            (status(2, 2, 1, 2), Some("it is available on 1 of 2 nodes")),
            (status(2, 2, 2, 0), Some("it is available on 0 of 2 nodes")),
            (status(2, 2, 2, 2), None),
            (status(2, 0, 0, 0), None),
        ] {
            assert_eq!(not_on_all_nodes(&found).as_deref(), lacks, "{found}");
        }
    }

    #[test]
    fn what_a_pod_waits_for() {
        let pod = json!({ "metadata": { "name": "a" }, "status": {
            "containerStatuses": [
                { "name": "c", "ready": false, "state": { "waiting": { "reason": "ErrImageNeverPull", "message": "no image" } } },
                { "name": "d", "ready": false, "state": { "running": {} } },
                { "name": "e", "ready": true, "state": { "running": {} } },
            ],
            "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no room" }],
        } });
        let expected =
            ["pod a, container c: ErrImageNeverPull: no image", "pod a, container d: it runs and is not ready", "pod a: no room"];
        assert_eq!(waits_for(&pod), expected);
    }

    #[test]
    fn a_closed_validator_stays_closed() {
        let with = |policy: &str| json!({ "kind": "ValidatingWebhookConfiguration", "webhooks": [{ "failurePolicy": policy }] });
        for (before, after) in [(None, "Ignore"), (Some(with("Ignore")), "Ignore"), (Some(with("Fail")), "Fail")] {
            let mut wanted = with("Ignore");
            keep_closed(&mut wanted, before.as_ref());
            assert_eq!(wanted, with(after));
        }
    }
}
