//! What goes with a Deployment of ours: how many pods it has, how many of them stay, and who may call them.

use serde_json::{Value, json};

use super::super::settings::Settings;

/// A Deployment of which pods are counted: the metadata of it and of what goes with it, the labels by which its pods are found, and the path of its values.
pub(super) struct Scaled<'a> {
    pub(super) metadata: &'a Value,
    pub(super) selector: &'a Value,
    pub(super) values: &'a str,
    /// Where the values of its budget stand.
    pub(super) budget: &'a str,
}

impl Scaled<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.values)
    }

    /// Writes the number of replicas, unless somebody else does.
    pub(super) fn count(&self, spec: &mut Value, settings: &Settings) {
        if !settings.flag(&self.path("autoscaleEnabled"))
            && let Some(count) = settings.value(&self.path("replicaCount"))
        {
            spec["replicas"] = count.clone();
        }
    }

    /// How its pods are replaced: by default the new one serves before the old one goes.
    pub(super) fn strategy(&self, settings: &Settings) -> Value {
        let share = |name: &str| settings.value(&self.path(name)).cloned().unwrap_or(Value::Null);
        json!({ "rollingUpdate": { "maxSurge": share("rollingMaxSurge"), "maxUnavailable": share("rollingMaxUnavailable") } })
    }

    /// The budget and the scaler, where they are wanted.
    pub(super) fn objects(&self, settings: &Settings) -> Vec<Value> {
        let budget = settings.flag("global.defaultPodDisruptionBudget.enabled").then(|| self.budget(settings));
        let scaler = settings.flag(&self.path("autoscaleEnabled")).then(|| self.scaler(settings));
        budget.into_iter().chain(scaler).collect()
    }

    /// By default a drained node leaves one of several.
    fn budget(&self, settings: &Settings) -> Value {
        let said = |name: &str| settings.value(&format!("{}.{name}", self.budget)).cloned();
        let mut spec = json!({ "selector": { "matchLabels": self.selector } });
        match said("maxUnavailable") {
            Some(share) => spec["maxUnavailable"] = share,
            None => spec["minAvailable"] = said("minAvailable").unwrap_or_else(|| json!(1)),
        }
        if let Some(policy) = said("unhealthyPodEvictionPolicy") {
            spec["unhealthyPodEvictionPolicy"] = policy;
        }
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": self.metadata, "spec": spec,
        })
    }

    fn scaler(&self, settings: &Settings) -> Value {
        let metric = |name: &str| {
            let share = settings.value(&self.path(&format!("{name}.targetAverageUtilization")))?;
            let target = json!({ "type": "Utilization", "averageUtilization": share });
            Some(json!({ "type": "Resource", "resource": { "name": name, "target": target } }))
        };
        let metrics: Vec<Value> = ["cpu", "memory"].into_iter().filter_map(metric).collect();
        let mut spec = json!({
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": self.metadata["name"] },
            "metrics": metrics,
        });
        for (field, value) in [("minReplicas", "autoscaleMin"), ("maxReplicas", "autoscaleMax")] {
            if let Some(count) = settings.value(&self.path(value)) {
                spec[field] = count.clone();
            }
        }
        if let Some(behavior) = settings.filled(&self.path("autoscaleBehavior")) {
            spec["behavior"] = behavior.clone();
        }
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": self.metadata, "spec": spec,
        })
    }

    /// Everybody may call these ports and no others, where policies of the network are wanted. What it calls itself is not known here.
    pub(super) fn network_policy(&self, settings: &Settings, ports: &[Value]) -> Option<Value> {
        if !settings.flag("global.networkPolicy.enabled") {
            return None;
        }
        let open: Vec<Value> = ports.iter().map(|port| json!({ "port": port, "protocol": "TCP" })).collect();
        Some(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": self.metadata,
            "spec": {
                "podSelector": { "matchLabels": self.selector },
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{ "ports": open }],
                "egress": [{}],
            },
        }))
    }
}
