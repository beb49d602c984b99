//! What is wrong with an object, written where its author looks: a condition in its status, and an event. What proxies refuse because of it is another
//! condition, which goes when none of them does any more.
//!
//! An object in order costs nothing: only one that is not in force, or not in all its parts, has a condition of ours, and one that had it and is mended
//! gets it turned. What others wrote into the status stays.
//!
//! Every control plane knows what is due ([`Due`]), and the one that leads writes it. What proxies refuse it knows of those that are connected to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use mizzen_api::{Key, Problem};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    MANAGER,
    fold::Reading,
    watch::{AGAIN, words},
};
use crate::refusals::{RETURN, Refused};

/// Istio's name of the condition.
const CONDITION: &str = "Reconciled";
/// Ours of what proxies refuse; it is there for as long as one does.
const REFUSED: &str = "RefusedByProxies";
/// Of a condition's message and an event's note, in bytes: an event takes 1,024.
const MAX_WORDS: usize = 1000;
/// How often a status is read and written again where somebody else has written meanwhile.
const TRIES: usize = 5;

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

    /// The same with no more of its object than is needed to write it: it may have to wait for its writer.
    fn slim(mut self) -> Verdict {
        let status = self.object.data["status"].take();
        self.object.data = json!({ "status": status });
        self.object.metadata.managed_fields = None;
        self
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
        // Whoever has written meanwhile brings the object again.
        json!({
            "metadata": {"resourceVersion": self.object.metadata.resource_version},
            "status": {
                "observedGeneration": self.object.metadata.generation,
                "conditions": others.chain([condition]).collect::<Vec<_>>(),
            },
        })
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

/// What an object's status says that proxies refuse because of it.
pub(crate) fn refusal(object: &DynamicObject) -> Option<&str> {
    conditions(object).find(|condition| condition["type"] == REFUSED)?["message"].as_str()
}

/// A status with the condition of what proxies refuse, or without it; `None` if that is what it says.
fn refusal_patch(object: &DynamicObject, text: Option<&str>, now: &str) -> Option<Value> {
    if refusal(object) == text {
        return None;
    }
    let before = conditions(object).find(|condition| condition["type"] == REFUSED);
    let since = before.map(|before| before["lastTransitionTime"].clone()).unwrap_or_else(|| json!(now));
    let condition = text.map(|text| {
        json!({"type": REFUSED, "status": "True", "reason": "Refused", "message": text, "lastTransitionTime": since,
            "observedGeneration": object.metadata.generation})
    });
    let others = conditions(object).filter(|other| other["type"] != REFUSED).cloned();
    Some(json!({
        "metadata": {"resourceVersion": object.metadata.resource_version},
        "status": {"conditions": others.chain(condition).collect::<Vec<_>>()},
    }))
}

/// In so many bytes.
fn cut(text: &str) -> &str {
    let end = (0..=MAX_WORDS.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// What is due to be written about objects, until whoever leads writes it.
#[derive(Debug, Default)]
pub(crate) struct Due {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What objects do not say yet. What has gone since is found out by writing it.
    verdicts: BTreeMap<Key, Arc<Verdict>>,
    /// What statuses say that proxies refuse.
    refused: Refused,
    /// Of these it was this control plane's proxies that did, since it leads.
    own: BTreeSet<Key>,
}

impl State {
    /// Objects of which a status says another thing of what proxies refuse than it should. Until all proxies are back of who has led before, what that has
    /// written stays.
    fn refusals(&mut self, wanted: &Refused, are_back: bool) -> Vec<(Key, Option<String>)> {
        self.own.extend(wanted.keys().cloned());
        let gone = self.refused.keys().filter(|key| !wanted.contains_key(*key) && (are_back || self.own.contains(*key)));
        let gone = gone.map(|key| (key.clone(), None));
        let told = wanted.iter().map(|(key, text)| (key, cut(text)));
        let new = told.filter(|(key, text)| self.refused.get(*key).map(String::as_str) != Some(text));
        gone.chain(new.map(|(key, text)| (key.clone(), Some(text.to_owned())))).collect()
    }

    /// A status says this of what proxies refuse. Whether that is news.
    fn says(&mut self, key: &Key, text: Option<&str>) -> bool {
        match text {
            Some(text) if self.refused.get(key).is_some_and(|known| known == text) => false,
            Some(text) => {
                self.refused.insert(key.clone(), text.to_owned());
                true
            }
            None => {
                self.own.remove(key);
                self.refused.remove(key).is_some()
            }
        }
    }
}

impl Due {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object was read: what its status does not say is due from now on, and nothing else.
    pub(crate) fn read(&self, resource: &ApiResource, object: DynamicObject, reading: &Reading) {
        let mut news = self.state().says(&reading.key, refusal(&object));
        match Verdict::new(resource, object, reading) {
            Some(verdict) => {
                self.state().verdicts.insert(reading.key.clone(), Arc::new(verdict.slim()));
                news = true;
            }
            None => drop(self.state().verdicts.remove(&reading.key)),
        }
        if news {
            self.news.notify_one();
        }
    }

    fn next(&self) -> Option<(Key, Arc<Verdict>)> {
        self.state().verdicts.first_key_value().map(|(key, verdict)| (key.clone(), verdict.clone()))
    }

    /// A verdict is written, or will not be. Another one may have come meanwhile.
    fn done(&self, key: &Key, verdict: &Arc<Verdict>) {
        let mut state = self.state();
        if state.verdicts.get(key).is_some_and(|due| Arc::ptr_eq(due, verdict)) {
            state.verdicts.remove(key);
        }
    }
}

/// Writes what is due of what proxies refuse. What cannot be written is tried again with what comes next.
async fn write_refusals(client: &Client, due: &Due, wanted: &Refused, are_back: bool) -> Result<(), kube::Error> {
    let all = due.state().refusals(wanted, are_back);
    for (key, text) in all {
        let resource = super::resource(key.kind);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
        // Somebody else may write between reading and writing.
        for _ in 0..TRIES {
            let Some(object) = api.get_opt(&key.name).await? else { break };
            let Some(patch) = refusal_patch(&object, text.as_deref(), &Timestamp::now().to_string()) else { break };
            match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        due.state().says(&key, text.as_deref());
    }
    Ok(())
}

/// Writes a verdict, and an event if anything is wrong.
async fn write_verdict(client: &Client, recorder: &Recorder, verdict: &Verdict) -> Result<(), kube::Error> {
    let (namespace, name) = (verdict.object.metadata.namespace.as_deref(), verdict.object.metadata.name.as_deref());
    let (Some(namespace), Some(name)) = (namespace, name) else { return Ok(()) };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &verdict.resource);
    let patch = verdict.patch(&Timestamp::now().to_string());
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    if verdict.condition.is_plain() {
        return Ok(());
    }
    let event = Event {
        type_: EventType::Warning,
        reason: verdict.condition.reason.to_owned(),
        note: Some(verdict.condition.message.clone()),
        action: "Read".to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &verdict.object.object_ref(&verdict.resource)).await
}

/// Writes what is due, one after the other, for as long as it is polled.
pub(crate) async fn write(client: Client, due: Arc<Due>, mut refused: watch::Receiver<Option<Arc<Refused>>>, pod: Option<String>) {
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: pod });
    let (mut told, mut nobody, mut attempt) = (false, false, 1);
    let back = Instant::now() + RETURN;
    due.state().own.clear();
    loop {
        while let Some((key, verdict)) = due.next() {
            match write_verdict(&client, &recorder, &verdict).await {
                // Perhaps soon; but one that nobody ever takes shall not keep all others waiting.
                Err(error) if passes(&error) && attempt < TRIES => {
                    attempt += 1;
                    tracing::debug!(reason = words(&error), "no status written yet");
                    sleep(AGAIN).await;
                    continue;
                }
                // It is gone by now, or has changed and comes again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(
                        reason = words(&error),
                        "what is wrong with an object cannot be written into its status, or as an event"
                    );
                }
                Err(error) => tracing::debug!(reason = words(&error), "no status written"),
                Ok(()) => told = false,
            }
            attempt = 1;
            due.done(&key, &verdict);
        }
        let are_back = Instant::now() >= back;
        let wanted = refused.borrow_and_update().clone();
        // While nothing is known what stands there stays.
        if let Some(wanted) = wanted
            && let Err(error) = write_refusals(&client, &due, &wanted, are_back).await
        {
            tracing::warn!(reason = words(&error), "what proxies refuse cannot be written into the status of an object");
        }
        tokio::select! {
            () = due.news.notified() => {}
            changed = refused.changed(), if !nobody => nobody = changed.is_err(),
            () = sleep_until(back), if !are_back => {}
        }
    }
}

/// Whether the API server may take later what it did not take now.
fn passes(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500 && status.code != 429)
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
    fn what_proxies_refuse() {
        let theirs = || json!({"type": "Theirs", "status": "True"});
        let before = object(json!({}), json!([theirs()]));
        assert_eq!(refusal_patch(&before, None, "now"), None);
        let said = refusal_patch(&before, Some("p refused Cluster c: no"), "now").unwrap();
        let conditions = said["status"]["conditions"].clone();
        assert_eq!(
            (&conditions[0], &conditions[1]["type"], &conditions[1]["message"]),
            (&theirs(), &json!(REFUSED), &json!("p refused Cluster c: no"))
        );
        let after = object(json!({}), conditions);
        assert_eq!((refusal(&after), refusal(&before)), (Some("p refused Cluster c: no"), None));
        assert_eq!(refusal_patch(&after, Some("p refused Cluster c: no"), "later"), None);
        assert_eq!(refusal_patch(&after, Some("another"), "later").unwrap()["status"]["conditions"][1]["lastTransitionTime"], "now");
        assert_eq!(refusal_patch(&after, None, "later").unwrap()["status"]["conditions"], json!([theirs()]));
        // Our other condition leaves it alone, and has nothing to do with it.
        let bad = json!({"hosts": ["a"], "http": [{"timeout": "soon", "route": [{"destination": {"host": "a"}}]}]});
        let verdict = verdict(bad, after.data["status"]["conditions"].clone()).unwrap();
        assert_eq!(verdict["status"]["conditions"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn what_is_due_of_what_proxies_refuse() {
        let key = |name: &str| Key::new(Kind::VirtualService, "shop", name);
        let of = |all: &[(&str, &str)]| -> Refused { all.iter().map(|(name, text)| (key(name), (*text).to_owned())).collect() };
        let mut state = State { refused: of(&[("a", "x"), ("b", "y")]), ..State::default() };
        let wanted = of(&[("b", "z"), ("c", "w")]);
        // Of `a` another control plane has said it, whose proxies may be on their way to this one.
        assert_eq!(state.refusals(&wanted, false), [(key("b"), Some("z".to_owned())), (key("c"), Some("w".to_owned()))]);
        assert_eq!(state.refusals(&wanted, true), [(key("a"), None), (key("b"), Some("z".to_owned())), (key("c"), Some("w".to_owned()))]);
        assert_eq!(state.refusals(&of(&[("a", "x"), ("b", "y")]), true), []);
        // What its own proxies refused and do not any more is told at once.
        assert_eq!(state.refusals(&of(&[("b", "y")]), false), [(key("a"), None)]);
        for (name, text, news) in [("a", Some("x"), false), ("a", None, true), ("a", None, false), ("b", Some("z"), true)] {
            assert_eq!(state.says(&key(name), text), news, "{name} {text:?}");
        }
        assert_eq!(state.refusals(&wanted, true), [(key("c"), Some("w".to_owned()))]);
        let long = "ä".repeat(MAX_WORDS);
        assert!(cut(&long).len() <= MAX_WORDS && long.starts_with(cut(&long)));
    }

    /// What is read while nobody here writes is due until it is written, by this control plane or by another.
    #[test]
    fn what_is_due_waits_for_its_writer() {
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let due = Due::default();
        let reads = |spec: Value, conditions: Value| {
            let object = object(spec, conditions);
            let reading = read(Kind::VirtualService, &mut object.clone());
            due.read(&resource, object, &reading);
            due.next().map(|(_, verdict)| verdict.patch("now"))
        };
        let good = || json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]});
        let bad = || json!({"hosts": ["a"], "http": [{"timeout": "soon", "route": [{"destination": {"host": "a"}}]}]});
        assert_eq!(reads(good(), json!([])), None);
        let said = reads(bad(), json!([])).unwrap();
        assert_eq!(ours(&said).1, "Invalid");
        assert_eq!((due.next().unwrap().1.object.data.get("spec"), &said["status"]["observedGeneration"]), (None, &json!(7)));
        // Another one has written it.
        assert_eq!(reads(bad(), said["status"]["conditions"].clone()), None);
        // What comes while one is being written is not taken for that.
        reads(bad(), json!([])).unwrap();
        let (key, before) = due.next().unwrap();
        reads(json!({"hosts": [], "http": []}), json!([])).unwrap();
        due.done(&key, &before);
        let (_, after) = due.next().unwrap();
        due.done(&key, &after);
        assert!(due.next().is_none());
    }

    #[test]
    fn long_stories_are_cut() {
        let http: Vec<Value> = (0..500).map(|_| json!({"timeout": "soon"})).collect();
        let said = verdict(json!({"hosts": ["a"], "http": http}), json!([])).unwrap();
        let message = ours(&said).2;
        assert!(message.len() <= 1024 && message.ends_with("; and more"), "{}", message.len());
    }
}
