//! What one kind's list and changes in the API server mean over time; knows neither network nor clock.
//!
//! The API server has objects that were admitted while nobody looked, or by an older version: one that cannot be read keeps its last good version in
//! force, and a policy that never had one closes what it would select, as with files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mizzen_api::{Key, Object, Pos, Problem, Refusal};

use crate::source::{Closed, Event, Fault, Refused};

/// An object of the API server as the mesh understands it.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Which one it is.
    pub(crate) key: Key,
    pub(crate) object: Result<Object, Refusal>,
    pub(crate) warnings: Vec<Problem>,
}

impl Reading {
    /// Of an object in which nothing can be wrong.
    pub(crate) fn of(object: impl Into<Object>) -> Reading {
        let object = object.into();
        Reading { key: object.key(), object: Ok(object), warnings: Vec::new() }
    }
}

/// What is known of one kind.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    /// What is in force.
    good: BTreeMap<Key, Arc<Object>>,
    /// What is said of objects: a status that is written brings an object again, and nothing new.
    refused: BTreeMap<Key, Vec<Problem>>,
    warned: BTreeMap<Key, Vec<Problem>>,
    /// What a list that is under way has named so far.
    list: Option<BTreeSet<Key>>,
}

/// Under which name what is wrong with an object is kept.
fn fault(key: &Key) -> Fault {
    Fault { file: "".into(), key: Some(key.clone()), document: 0 }
}

impl Fold {
    /// A list begins.
    pub(crate) fn init(&mut self) -> Vec<Event> {
        self.list = Some(BTreeSet::new());
        vec![Event::Init]
    }

    /// An object, of a list or changed.
    pub(crate) fn apply(&mut self, reading: Reading) -> Vec<Event> {
        let Reading { key, object, warnings } = reading;
        if let Some(list) = &mut self.list {
            list.insert(key.clone());
        }
        let mut events = Vec::new();
        if self.warned.get(&key).map_or(&[][..], Vec::as_slice) != warnings {
            if warnings.is_empty() {
                self.warned.remove(&key);
            } else {
                self.warned.insert(key.clone(), warnings.clone());
            }
            events.push(Event::Warnings(key.to_string().into(), warnings));
        }
        match object {
            Ok(mut object) => {
                // It stands in no file.
                object.meta_mut().origin = Pos::default();
                if self.refused.remove(&key).is_some() {
                    events.push(Event::Mended(fault(&key)));
                }
                let object = Arc::new(object);
                self.good.insert(key, object.clone());
                events.push(Event::Apply(object));
            }
            Err(refusal) => {
                let kept = self.good.get(&key).cloned();
                let known = self.refused.insert(key.clone(), refusal.problems.clone());
                if known.as_ref() != Some(&refusal.problems) {
                    events.push(Event::Refused(Refused { fault: fault(&key), problems: refusal.problems.clone(), kept: kept.is_some() }));
                }
                match (kept, refusal.closes, refusal.problems.into_iter().next()) {
                    (Some(kept), ..) => events.push(Event::Apply(kept)),
                    (None, Some(closes), Some(problem)) => {
                        events.push(Event::Closed(Closed { key, selector: closes.selector, problem }));
                    }
                    _ => {}
                }
            }
        }
        events
    }

    /// An object is gone.
    pub(crate) fn delete(&mut self, key: &Key) -> Vec<Event> {
        if let Some(list) = &mut self.list {
            list.remove(key);
        }
        let mut events = self.forget(key);
        events.push(Event::Delete(key.clone()));
        events
    }

    /// What is not kept any more is gone.
    pub(crate) fn keep(&mut self, kept: impl Fn(&Key) -> bool) -> Vec<Event> {
        let known = self.good.keys().chain(self.refused.keys()).chain(self.warned.keys()).chain(self.list.iter().flatten());
        let gone: BTreeSet<Key> = known.filter(|key| !kept(key)).cloned().collect();
        gone.iter().flat_map(|key| self.delete(key)).collect()
    }

    /// A list is complete: what it has not named is gone.
    pub(crate) fn done(&mut self) -> Vec<Event> {
        let Some(list) = self.list.take() else { return Vec::new() };
        let known = self.good.keys().chain(self.refused.keys()).chain(self.warned.keys());
        let gone: BTreeSet<Key> = known.filter(|key| !list.contains(*key)).cloned().collect();
        let mut events: Vec<Event> = gone.iter().flat_map(|key| self.forget(key)).collect();
        events.push(Event::InitDone);
        events
    }

    fn forget(&mut self, key: &Key) -> Vec<Event> {
        self.good.remove(key);
        let mut events = Vec::new();
        if self.refused.remove(key).is_some() {
            events.push(Event::Mended(fault(key)));
        }
        if self.warned.remove(key).is_some() {
            events.push(Event::Warnings(key.to_string().into(), Vec::new()));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use mizzen_api::Kind;

    use super::*;
    use crate::kube::istio::read;

    /// `NAME` is a good policy, `NAME!` one that cannot be read, `NAME?` one with a warning.
    fn reading(text: &str) -> Reading {
        let name = text.trim_end_matches(['!', '?']);
        let mut object = serde_json::json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"host": "a"},
        });
        if name.starts_with('p') {
            object = serde_json::json!({
                "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "a"}}},
            });
        }
        if text.ends_with('!') {
            object["spec"]["wrong"] = true.into();
        }
        if text.ends_with('?') {
            object["spec"]["trafficPolicy"] = serde_json::json!({"outlierDetection": {"consecutiveErrors": 1}});
        }
        read(
            if name.starts_with('p') { Kind::AuthorizationPolicy } else { Kind::DestinationRule },
            &mut serde_json::from_value(object).unwrap(),
        )
    }

    fn show(event: &Event) -> String {
        match event {
            Event::Init => "init".to_owned(),
            Event::InitDone => "done".to_owned(),
            Event::Apply(object) => format!("+{}", object.meta().name),
            Event::Delete(key) => format!("-{}", key.name),
            Event::Closed(closed) => format!("closed {} {:?}", closed.key.name, closed.selector.as_ref().map(|s| s.labels.len())),
            Event::Refused(refused) => format!("refused{}", if refused.kept { " kept" } else { "" }),
            Event::Mended(fault) => format!("mended {}", fault.key.as_ref().unwrap().name),
            Event::Warnings(_, warnings) => format!("{} warnings", warnings.len()),
        }
    }

    #[track_caller]
    fn check(steps: &[(&str, &str)]) {
        let mut fold = Fold::default();
        for (said, expected) in steps {
            let events = match *said {
                "init" => fold.init(),
                "done" => fold.done(),
                "only a" => fold.keep(|key| *key.name == *"a"),
                gone if gone.starts_with('-') => fold.delete(&reading(&gone[1..]).key),
                object => fold.apply(reading(object)),
            };
            assert_eq!(events.iter().map(show).collect::<Vec<_>>().join(", "), *expected, "{said}");
        }
    }

    #[test]
    fn changes() {
        check(&[
            ("init", "init"),
            ("a", "+a"),
            ("done", "done"),
            ("a!", "refused kept, +a"),
            ("a!", "+a"),
            ("a", "mended a, +a"),
            ("c?", "1 warnings, +c"),
            ("c?", "+c"),
            ("c", "0 warnings, +c"),
            ("b!", "refused"),
            ("-b", "mended b, -b"),
            ("p1!", "refused, closed p1 Some(1)"),
            ("-p1", "mended p1, -p1"),
        ]);
    }

    #[test]
    fn a_list_forgets_what_it_does_not_name() {
        check(&[
            ("init", "init"),
            ("a", "+a"),
            ("b!", "refused"),
            ("done", "done"),
            ("init", "init"),
            ("a!", "refused kept, +a"),
            ("done", "mended b, done"),
            ("init", "init"),
            ("done", "mended a, done"),
        ]);
    }

    #[test]
    fn what_is_not_kept_is_gone() {
        check(&[
            ("init", "init"),
            ("a", "+a"),
            ("b!", "refused"),
            ("only a", "mended b, -b"),
            ("done", "done"),
            ("c?", "1 warnings, +c"),
            ("only a", "0 warnings, -c"),
            ("only a", ""),
        ]);
    }

    #[test]
    fn nothing_stands_in_a_file() {
        let events = Fold::default().apply(reading("a"));
        let Some(Event::Apply(object)) = events.last() else { panic!() };
        assert_eq!(object.meta().position("spec.host"), Pos::default());
    }
}
