//! Several sources as one: each lists and relists on its own, and where two of them have an object of one name, the one that was named first has it.
//!
//! What comes out is the keys whose object is another now, beside the whole: whoever keeps something by key costs what has changed. The first state is
//! out once every source has listed, since half a configuration is a wrong one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mizzen_api::{Key, Object};

use super::{Closed, Event};

/// A source, by its place: an earlier one has precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(usize);

/// What is known of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// The object in force.
    Object(Arc<Object>),
    /// A refused policy without a good version: what it would select is closed, also where a later source has a good one.
    Closed(Closed),
}

/// A key whose object is another than it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// The key.
    pub key: Key,
    /// What holds now; `None`: it is gone.
    pub now: Option<Held>,
}

/// The sources' states, and what of them is in force.
#[derive(Debug)]
pub struct Merge {
    sources: Vec<Source>,
    /// Of each key what the sources have, in their order.
    held: BTreeMap<Key, Vec<(SourceId, Held)>>,
    /// What was in force under these keys when it was last told.
    told: BTreeMap<Key, Option<Held>>,
}

#[derive(Debug, Default)]
struct Source {
    keys: BTreeSet<Key>,
    listed: bool,
    /// What a relist has brought so far; it counts once it is complete.
    list: Option<BTreeMap<Key, Held>>,
}

impl Merge {
    /// So many sources, the first with the highest precedence.
    pub fn new(sources: usize) -> (Merge, Vec<SourceId>) {
        let merge = Merge { sources: (0..sources).map(|_| Source::default()).collect(), held: BTreeMap::new(), told: BTreeMap::new() };
        (merge, (0..sources).map(SourceId).collect())
    }

    /// Takes what a source says. Faults and warnings are none of its business: they are by file, and of one source alone.
    pub fn take(&mut self, source: SourceId, event: Event) {
        match event {
            Event::Init => self.sources[source.0].list = Some(BTreeMap::new()),
            Event::InitDone => self.relisted(source),
            Event::Apply(object) => self.put(source, object.key(), Some(Held::Object(object))),
            Event::Closed(closed) => self.put(source, closed.key.clone(), Some(Held::Closed(closed))),
            Event::Delete(key) => self.put(source, key, None),
            Event::Refused(_) | Event::Mended(_) | Event::Warnings(..) => {}
        }
    }

    /// Whether every source has listed.
    pub fn is_complete(&self) -> bool {
        self.sources.iter().all(|source| source.listed)
    }

    /// What has changed since the last call; nothing until the state is complete.
    pub fn changes(&mut self) -> Vec<Changed> {
        if !self.is_complete() {
            return Vec::new();
        }
        let told = std::mem::take(&mut self.told).into_iter();
        let changed = told.filter_map(|(key, before)| {
            let now = self.get(&key).cloned();
            (!same(before.as_ref(), now.as_ref())).then_some(Changed { key, now })
        });
        changed.collect()
    }

    /// What is in force under a key.
    pub fn get(&self, key: &Key) -> Option<&Held> {
        self.held.get(key)?.first().map(|(_, held)| held)
    }

    /// All that is in force, by key.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.held.iter().filter_map(|(key, held)| Some((key, &held.first()?.1)))
    }

    fn put(&mut self, source: SourceId, key: Key, now: Option<Held>) {
        match (&mut self.sources[source.0].list, now) {
            (Some(list), Some(now)) => drop(list.insert(key, now)),
            (Some(list), None) => drop(list.remove(&key)),
            (None, now) => self.set(source, key, now),
        }
    }

    /// The list in the place of what the source had.
    fn relisted(&mut self, source: SourceId) {
        let state = &mut self.sources[source.0];
        let Some(list) = state.list.take() else { return };
        state.listed = true;
        let gone: Vec<Key> = state.keys.iter().filter(|key| !list.contains_key(*key)).cloned().collect();
        for key in gone {
            self.set(source, key, None);
        }
        for (key, held) in list {
            self.set(source, key, Some(held));
        }
    }

    fn set(&mut self, source: SourceId, key: Key, now: Option<Held>) {
        let before = self.get(&key).cloned();
        let keys = &mut self.sources[source.0].keys;
        if now.is_some() {
            keys.insert(key.clone())
        } else {
            keys.remove(&key)
        };
        let all = self.held.entry(key.clone()).or_default();
        all.retain(|(other, _)| *other != source);
        if let Some(now) = now {
            all.insert(all.partition_point(|(other, _)| *other < source), (source, now));
        }
        if all.is_empty() {
            self.held.remove(&key);
        }
        self.told.entry(key).or_insert(before);
    }
}

/// Whether nobody could tell one from the other. Objects are compared without their places, which matter too.
fn same(before: Option<&Held>, now: Option<&Held>) -> bool {
    match (before, now) {
        (Some(Held::Object(before)), Some(Held::Object(now))) => {
            Arc::ptr_eq(before, now) || (before == now && before.meta().origin == now.meta().origin)
        }
        (before, now) => before == now,
    }
}

#[cfg(test)]
mod tests {
    use mizzen_api::{Kind, Pos, Problem, parse_documents};

    use super::*;

    /// `NAME=LABEL` is an object, `NAME!` a closed policy, `-NAME` is gone, `init` and `done` are themselves.
    fn event(text: &str) -> Event {
        let key = |name: &str| Key::new(Kind::ServiceAccount, "default", name);
        match (text, text.split_once('='), text.strip_suffix('!'), text.strip_prefix('-')) {
            ("init", ..) => Event::Init,
            ("done", ..) => Event::InitDone,
            (_, Some((name, label)), ..) => {
                let yaml = format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, labels: {{a: \"{label}\"}}}}\n");
                Event::Apply(Arc::new(parse_documents(&yaml, &"f".into()).objects.remove(0).unwrap()))
            }
            (_, _, Some(name), _) => {
                let problem = Problem { pos: Pos::default(), object: None, field: String::new(), message: String::new() };
                Event::Closed(Closed { key: key(name), selector: None, problem })
            }
            (_, _, _, Some(name)) => Event::Delete(key(name)),
            _ => panic!("{text}"),
        }
    }

    fn show(key: &Key, now: Option<&Held>) -> String {
        match now {
            Some(Held::Object(object)) => format!("{}={}", key.name, object.meta().labels["a"]),
            Some(Held::Closed(_)) => format!("{}!", key.name),
            None => format!("-{}", key.name),
        }
    }

    /// Which source says what, and what comes of it.
    type Step<'a> = (usize, &'a str, &'a str);

    #[track_caller]
    fn check(steps: &[Step<'_>], whole: &str) {
        let (mut merge, sources) = Merge::new(2);
        for (number, (source, said, expected)) in steps.iter().enumerate() {
            said.split_whitespace().for_each(|text| merge.take(sources[*source], event(text)));
            let found: Vec<String> = merge.changes().iter().map(|changed| show(&changed.key, changed.now.as_ref())).collect();
            assert_eq!(found.join(" "), *expected, "step {number}");
        }
        assert_eq!(merge.all().map(|(key, held)| show(key, Some(held))).collect::<Vec<_>>().join(" "), whole);
    }

    #[test]
    fn nothing_is_out_before_all_have_listed() {
        check(&[(0, "init a=1 done", ""), (1, "init b=1", ""), (1, "c=1 done", "a=1 b=1 c=1"), (1, "c=1", ""), (0, "-a", "-a")], "b=1 c=1");
    }

    #[test]
    fn the_first_source_has_precedence() {
        let steps = [
            (0, "init a=1 done", ""),
            (1, "init a=2 b=2 done", "a=1 b=2"),
            (1, "a=3", ""),
            (0, "b=1", "b=1"),
            (0, "-b", "b=2"),
            (0, "-a", "a=3"),
            (0, "a!", "a!"),
            // What is closed stays closed, whatever others have.
            (1, "a=4", ""),
            (0, "a=5 -a", "a=4"),
            (1, "-a", "-a"),
        ];
        check(&steps, "b=2");
    }

    #[test]
    fn a_relist_is_of_one_source_and_as_a_whole() {
        let steps = [
            (0, "init a=1 b=1 done", ""),
            (1, "init c=2 done", "a=1 b=1 c=2"),
            (0, "init b=1 d=1", ""),
            (1, "c=3", "c=3"),
            (0, "-d done", "-a"),
            (1, "init done", "-c"),
            // There and back between two looks.
            (0, "b=7 b=1", ""),
        ];
        check(&steps, "b=1");
    }

    #[test]
    fn a_change_is_compared_alone() {
        let (mut merge, sources) = Merge::new(1);
        merge.take(sources[0], Event::Init);
        (0..1000).for_each(|n| merge.take(sources[0], event(&format!("n{n}=1"))));
        merge.take(sources[0], Event::InitDone);
        assert_eq!(merge.changes().len(), 1000);
        merge.take(sources[0], event("n500=2"));
        assert_eq!(merge.told.len(), 1, "the only key that is looked at");
        assert_eq!(merge.changes().len(), 1);
    }
}
