//! What is wrong with an object, written where its author looks: a condition in its status, and an event.
//!
//! An object in order costs nothing: only one that is not in force, or not in all its parts, has a condition of ours, and one that had it and is mended
//! gets it turned. What others wrote into the status stays.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use mizzen_api::Problem;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{MANAGER, fold::Reading, watch::words};

/// Istio's name of the condition.
const CONDITION: &str = "Reconciled";
/// Of a condition's message and an event's note, in bytes: an event takes 1,024.
const MAX_WORDS: usize = 1000;

/// What is to be written about an object.
#[derive(Debug)]
pub(crate) struct Verdict {
    resource: ApiResource,
    object: DynamicObject,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    good: bool,
    reason: &'static str,
    message: String,
}

impl Condition {
    /// What a reading says of its object.
    fn of(reading: &Reading) -> Condition {
        let (reason, problems): (_, &[Problem]) = match &reading.object {
            Err(refusal) if refusal.problems.iter().all(Problem::is_unsupported) => ("NotSupportedYet", &refusal.problems),
            Err(refusal) => ("Invalid", &refusal.problems),
            Ok(_) if !reading.warnings.is_empty() => ("PartlyIgnored", &reading.warnings),
            Ok(_) => ("InForce", &[]),
        };
        let mut message = String::new();
        for problem in problems {
            let line = Problem { object: None, ..problem.clone() }.to_string();
            if message.len() + line.len() > MAX_WORDS {
                message.push_str("; and more");
                break;
            }
            message.push_str(if message.is_empty() { "" } else { "; " });
            message.push_str(&line);
        }
        Condition { good: reading.object.is_ok(), reason, message }
    }

    fn is_plain(&self) -> bool {
        self.good && self.message.is_empty()
    }
}

impl Verdict {
    /// What is to be written about an object; `None` if its status says it already.
    pub(crate) fn new(resource: &ApiResource, object: DynamicObject, reading: &Reading) -> Option<Verdict> {
        let condition = Condition::of(reading);
        let ours = ours(&object);
        let said = ours.map(|ours| (&ours["status"], &ours["reason"], &ours["message"]));
        let same = match said {
            None => condition.is_plain(),
            Some((status, reason, message)) => {
                *status == json!(truth(condition.good)) && *reason == json!(condition.reason) && *message == json!(condition.message)
            }
        };
        (!same).then(|| Verdict { resource: resource.clone(), object, condition })
    }

    /// The status, with what others wrote into it.
    fn patch(&self, now: &str) -> Value {
        let before = ours(&self.object);
        let turned = before.is_none_or(|before| before["status"] != json!(truth(self.condition.good)));
        let since = before.map(|before| &before["lastTransitionTime"]).filter(|since| !turned && since.is_string());
        let condition = json!({
            "type": CONDITION,
            "status": truth(self.condition.good),
            "reason": self.condition.reason,
            "message": self.condition.message,
            "lastTransitionTime": since.cloned().unwrap_or_else(|| json!(now)),
        });
        let others = conditions(&self.object).filter(|other| other["type"] != CONDITION).cloned();
        json!({"status": {
            "observedGeneration": self.object.metadata.generation,
            "conditions": others.chain([condition]).collect::<Vec<_>>(),
        }})
    }
}

fn truth(good: bool) -> &'static str {
    if good { "True" } else { "False" }
}

fn conditions(object: &DynamicObject) -> impl Iterator<Item = &Value> {
    object.data["status"]["conditions"].as_array().into_iter().flatten()
}

fn ours(object: &DynamicObject) -> Option<&Value> {
    conditions(object).find(|condition| condition["type"] == CONDITION)
}

/// Writes what comes, one after the other, until nobody can send any more.
pub(crate) async fn write(client: Client, mut verdicts: mpsc::UnboundedReceiver<Verdict>, pod: Option<String>) {
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: pod });
    let mut told = false;
    while let Some(verdict) = verdicts.recv().await {
        let (namespace, name) = (verdict.object.metadata.namespace.clone(), verdict.object.metadata.name.clone());
        let (Some(namespace), Some(name)) = (namespace, name) else { continue };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &verdict.resource);
        let patch = verdict.patch(&Timestamp::now().to_string());
        let mut failed = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.err();
        if failed.is_none() && !verdict.condition.is_plain() {
            let event = Event {
                type_: EventType::Warning,
                reason: verdict.condition.reason.to_owned(),
                note: Some(verdict.condition.message.clone()),
                action: "Read".to_owned(),
                secondary: None,
            };
            failed = recorder.publish(&event, &verdict.object.object_ref(&verdict.resource)).await.err();
        }
        match failed {
            // It is gone by now.
            Some(kube::Error::Api(status)) if status.code == 404 => {}
            Some(error) if !told => {
                told = true;
                tracing::warn!(reason = words(&error), "what is wrong with an object cannot be written into its status, or as an event");
            }
            Some(error) => tracing::debug!(reason = words(&error), "no status written"),
            None => told = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use mizzen_api::Kind;

    use super::*;
    use crate::kube::istio::read;

    fn object(spec: Value, conditions: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "a", "namespace": "shop", "generation": 7},
            "spec": spec, "status": {"conditions": conditions, "other": 1},
        }))
        .unwrap()
    }

    fn verdict(spec: Value, conditions: Value) -> Option<Value> {
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let mut object = object(spec, conditions);
        let reading = read(Kind::VirtualService, &mut object);
        Some(Verdict::new(&resource, object, &reading)?.patch("now"))
    }

    fn ours(patch: &Value) -> (&str, &str, &str, &str) {
        let last = patch["status"]["conditions"].as_array().unwrap().last().unwrap();
        let text = |name: &str| last[name].as_str().unwrap();
        (text("status"), text("reason"), text("message"), text("lastTransitionTime"))
    }

    #[test]
    fn conditions_of_objects() {
        let good = || json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]});
        let bad = || json!({"hosts": ["a"], "http": [{"timeout": "soon", "route": [{"destination": {"host": "a"}}]}]});
        assert_eq!(verdict(good(), json!([])), None, "what is in order costs nothing");
        let said = verdict(bad(), json!([{"type": "Theirs", "status": "True"}])).unwrap();
        assert_eq!(said["status"]["observedGeneration"], 7);
        assert_eq!(said["status"]["conditions"][0]["type"], "Theirs");
        let (status, reason, message, since) = ours(&said);
        assert_eq!((status, reason, since), ("False", "Invalid", "now"));
        assert!(message.starts_with("spec.http[0].timeout: "), "{message}");
        // Said once.
        assert_eq!(verdict(bad(), said["status"]["conditions"].clone()), None);
        // Mended.
        let mended = verdict(good(), said["status"]["conditions"].clone()).unwrap();
        assert_eq!(ours(&mended), ("True", "InForce", "", "now"));
        assert_eq!(verdict(good(), mended["status"]["conditions"].clone()), None);
        // Wrong in another way since the same time.
        let worse = json!({"hosts": [], "http": []});
        let mut before = said["status"]["conditions"].clone();
        before[1]["lastTransitionTime"] = "then".into();
        assert_eq!(ours(&verdict(worse, before).unwrap()).3, "then");
    }

    #[test]
    fn long_stories_are_cut() {
        let http: Vec<Value> = (0..500).map(|_| json!({"timeout": "soon"})).collect();
        let said = verdict(json!({"hosts": ["a"], "http": http}), json!([])).unwrap();
        let message = ours(&said).2;
        assert!(message.len() <= 1024 && message.ends_with("; and more"), "{}", message.len());
    }
}
