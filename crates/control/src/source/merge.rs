//! Several sources as one: each lists and relists on its own, and where two of them have an object of one name, the one that was named first has it.
//!
//! What comes out is the keys whose object is another now, beside the whole: whoever keeps something by key costs what has changed. The first state is
//! out once every source has listed, since half a configuration is a wrong one. A source that says nothing, or breaks off in the middle of a list, keeps
//! the state that it had.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mizzen_api::{Key, Object, Pos, Problem};

use super::{Closed, Event};

/// A source, by its place: an earlier one has precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

/// What is known of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// The object in force.
    Object(Arc<Object>),
    /// A refused policy without a good version: what it would select is closed, also where a later source has a good one. Boxed, since it is seldom
    /// and large.
    Closed(Box<Closed>),
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
    held: BTreeMap<Key, Slot>,
    /// Keys that more than one source has.
    shared: BTreeSet<Key>,
    /// Counts the changes of what is hidden.
    hidden: u64,
    /// What was in force under these keys when it was last told.
    told: BTreeMap<Key, Option<Held>>,
}

#[derive(Debug, Default)]
struct Source {
    /// How many keys it has.
    keys: usize,
    listed: bool,
    /// What a relist has brought so far; it counts once it is complete.
    list: Option<BTreeMap<Key, Held>>,
}

/// What the sources have of a key, in their order. Few keys are of more than one.
#[derive(Debug)]
struct Slot {
    first: (SourceId, Held),
    rest: Vec<(SourceId, Held)>,
}

impl Slot {
    fn iter(&self) -> impl Iterator<Item = &(SourceId, Held)> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    fn of(&self, source: SourceId) -> Option<&Held> {
        self.iter().find(|(other, _)| *other == source).map(|(_, held)| held)
    }

    /// The slot with another entry, or none, of a source; `None` if nothing is left.
    fn with(mut self, source: SourceId, now: Option<Held>) -> Option<Slot> {
        match now {
            Some(now) if self.first.0 == source => self.first.1 = now,
            None if self.first.0 == source && self.rest.is_empty() => return None,
            None if self.first.0 == source => self.first = self.rest.remove(0),
            now => {
                self.rest.retain(|(other, _)| *other != source);
                let entry = now
                    .map(|now| (source, now))
                    .map(|entry| if source < self.first.0 { std::mem::replace(&mut self.first, entry) } else { entry });
                if let Some(entry) = entry {
                    self.rest.insert(self.rest.partition_point(|(other, _)| *other < entry.0), entry);
                }
            }
        }
        self.rest.shrink_to_fit();
        Some(self)
    }
}

impl Held {
    /// Where it stands.
    fn pos(&self) -> &Pos {
        match self {
            Held::Object(object) => &object.meta().origin,
            Held::Closed(closed) => &closed.problem.pos,
        }
    }
}

impl Merge {
    /// So many sources, the first with the highest precedence.
    pub fn new(sources: usize) -> (Merge, Vec<SourceId>) {
        let merge = Merge {
            sources: (0..sources).map(|_| Source::default()).collect(),
            held: BTreeMap::new(),
            shared: BTreeSet::new(),
            hidden: 0,
            told: BTreeMap::new(),
        };
        (merge, (0..).take(sources).map(SourceId).collect())
    }

    /// One more source, of the lowest precedence, which has listed: nobody waits for it.
    pub fn join(&mut self) -> SourceId {
        let id = SourceId(u32::try_from(self.sources.len()).unwrap_or(u32::MAX));
        self.sources.push(Source { listed: true, ..Source::default() });
        id
    }

    /// Takes what a source says. Faults and warnings are none of its business: they are by file, and of one source alone.
    pub fn take(&mut self, source: SourceId, event: Event) {
        let Some(state) = self.state(source) else { return };
        match event {
            Event::Init => state.list = Some(BTreeMap::new()),
            Event::InitDone => self.relisted(source),
            Event::Apply(object) => self.put(source, object.key(), Some(Held::Object(object))),
            Event::Closed(closed) => self.put(source, closed.key.clone(), Some(Held::Closed(Box::new(closed)))),
            Event::Delete(key) => self.put(source, key, None),
            Event::Refused(_) | Event::Mended(_) | Event::Warnings(..) => {}
        }
    }

    /// Whether every source has listed.
    pub fn is_complete(&self) -> bool {
        self.sources.iter().all(|source| source.listed)
    }

    /// Whether a source is in the middle of a list, of which nothing counts before its end.
    pub fn is_listing(&self, source: SourceId) -> bool {
        self.sources.get(source.0 as usize).is_some_and(|state| state.list.is_some())
    }

    /// Whether [`Merge::changes`] may have something to tell.
    pub fn has_changes(&self) -> bool {
        self.is_complete() && !self.told.is_empty()
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
        self.held.get(key).map(|slot| &slot.first.1)
    }

    /// What a source has under a key, be it in force or not.
    pub fn of(&self, source: SourceId, key: &Key) -> Option<&Held> {
        self.held.get(key)?.of(source)
    }

    /// All that is in force, by key.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.held.iter().map(|(key, slot)| (key, &slot.first.1))
    }

    /// A number that is another whenever [`Merge::hidden`] may be.
    pub fn hidden_version(&self) -> u64 {
        self.hidden
    }

    /// What is not in force because an earlier source has an object of the same name; in order. A file that two sources read hides nothing.
    pub fn hidden(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for key in &self.shared {
            let Some(slot) = self.held.get(key) else { continue };
            let (by, how) = match &slot.first.1 {
                Held::Object(object) => (&object.meta().origin, "the one"),
                Held::Closed(closed) => (&closed.problem.pos, "the refused one"),
            };
            for (_, hidden) in slot.rest.iter().filter(|(_, hidden)| hidden.pos().file != by.file) {
                let message = format!("is not in force: {how} at {by} has precedence");
                found.push(Problem { pos: hidden.pos().clone(), object: Some(key.clone()), field: "metadata.name".to_owned(), message });
            }
        }
        found.sort();
        found
    }

    fn state(&mut self, source: SourceId) -> Option<&mut Source> {
        self.sources.get_mut(source.0 as usize)
    }

    fn put(&mut self, source: SourceId, key: Key, now: Option<Held>) {
        let list = self.state(source).and_then(|state| state.list.as_mut());
        match (list, now) {
            (Some(list), Some(now)) => drop(list.insert(key, now)),
            (Some(list), None) => drop(list.remove(&key)),
            (None, now) => self.set(source, key, now),
        }
    }

    /// The list in the place of what the source had.
    fn relisted(&mut self, source: SourceId) {
        let Some(state) = self.state(source) else { return };
        let Some(list) = state.list.take() else { return };
        state.listed = true;
        let had = state.keys > 0;
        if self.held.is_empty() && self.told.is_empty() {
            // Nearly all that there will be. A map that is made of what is in order has full nodes, and one that grows in order half full ones.
            self.told = list.keys().map(|key| (key.clone(), None)).collect();
            self.held = list.into_iter().map(|(key, held)| (key, Slot { first: (source, held), rest: Vec::new() })).collect();
            let keys = self.held.len();
            if let Some(state) = self.state(source) {
                state.keys = keys;
            }
            return;
        }
        // Few relists follow the first list: a look at all keys is cheaper than a second set of them for all times.
        let gone = self.held.iter().filter(|(key, slot)| !list.contains_key(*key) && slot.of(source).is_some());
        let gone: Vec<Key> = if had { gone.map(|(key, _)| key.clone()).collect() } else { Vec::new() };
        for key in gone {
            self.set(source, key, None);
        }
        for (key, held) in list {
            self.set(source, key, Some(held));
        }
    }

    fn set(&mut self, source: SourceId, key: Key, now: Option<Held>) {
        let (before, is_there) = (self.held.remove(&key), now.is_some());
        let (was_there, was_shared) = before.as_ref().map_or((false, false), |slot| (slot.of(source).is_some(), !slot.rest.is_empty()));
        let in_force = before.as_ref().map(|slot| slot.first.1.clone());
        let slot = match before {
            Some(slot) => slot.with(source, now),
            None => now.map(|now| Slot { first: (source, now), rest: Vec::new() }),
        };
        let is_shared = slot.as_ref().is_some_and(|slot| !slot.rest.is_empty());
        if is_shared {
            self.shared.insert(key.clone());
        } else if was_shared {
            self.shared.remove(&key);
        }
        self.hidden += u64::from(was_shared || is_shared);
        if let Some(slot) = slot {
            self.held.insert(key.clone(), slot);
        }
        if let Some(state) = self.state(source) {
            state.keys = state.keys + usize::from(is_there) - usize::from(was_there);
        }
        self.told.entry(key).or_insert(in_force);
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
    use mizzen_api::{Kind, parse_documents};
    use proptest::{prelude::*, sample::Index};

    use super::*;

    /// `NAME=LABEL` is an object, `NAME!` a closed policy, `-NAME` is gone, `init` and `done` are themselves.
    fn event(text: &str) -> Event {
        event_in("f", text)
    }

    fn event_in(file: &str, text: &str) -> Event {
        let key = |name: &str| Key::new(Kind::ServiceAccount, "default", name);
        match (text, text.split_once('='), text.strip_suffix('!'), text.strip_prefix('-')) {
            ("init", ..) => Event::Init,
            ("done", ..) => Event::InitDone,
            (_, Some((name, label)), ..) => {
                let yaml = format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, labels: {{a: \"{label}\"}}}}\n");
                Event::Apply(Arc::new(parse_documents(&yaml, &file.into()).objects.remove(0).unwrap()))
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
    fn an_object_is_taken_over() {
        let steps = [
            (0, "init a=1 done", ""),
            (1, "init a=2 done", "a=1"),
            // Gone from the first, which is no gap; back again.
            (0, "-a", "a=2"),
            (0, "a=3", "a=3"),
            // The same in a relist.
            (0, "init", ""),
            (0, "done", "a=2"),
            // Gone from both between two looks, in either order.
            (0, "a=4", "a=4"),
            (1, "-a", ""),
            (0, "-a", "-a"),
        ];
        check(&steps, "");
    }

    #[test]
    fn what_is_closed_is_of_one_source() {
        let steps = [
            (0, "init a=1 b! done", ""),
            // A later source's refusal closes nothing that an earlier one has a good version of, and its good version opens nothing.
            (1, "init a! b=2 done", "a=1 b!"),
            (0, "-a", "a!"),
            (0, "b=3", "b=3"),
            (1, "a=2", "a=2"),
        ];
        check(&steps, "a=2 b=3");
    }

    #[test]
    fn a_source_that_breaks_off_keeps_its_state() {
        let steps = [
            (0, "init a=1 b=1 done", ""),
            (1, "init c=1 done", "a=1 b=1 c=1"),
            // A list begins, breaks off, and another one begins.
            (0, "init a=2", ""),
            (1, "c=2", "c=2"),
            (0, "init b=2 done", "-a b=2"),
            // What ends no list is nothing.
            (0, "done", ""),
        ];
        check(&steps, "b=2 c=2");
    }

    #[test]
    fn what_is_hidden() {
        let (mut merge, sources) = Merge::new(3);
        let mut version = merge.hidden_version();
        for (number, (source, said, expected)) in [
            (0, "init a=1 b=1 c=1 done", ""),
            (1, "init a=2 d=2 done", "f1:1 a by f0:1"),
            (2, "init a=3 e=3 done", "f1:1 a by f0:1, f2:1 a by f0:1"),
            (0, "-a", "f2:1 a by f1:1"),
            (2, "-a", ""),
            (1, "b=2", "f1:1 b by f0:1"),
            (1, "d=3", "f1:1 b by f0:1"),
            (1, "init done", ""),
        ]
        .into_iter()
        .enumerate()
        {
            said.split_whitespace().for_each(|text| merge.take(sources[source], event_in(&format!("f{source}"), text)));
            let line = |problem: &Problem| {
                let by = problem.message.strip_prefix("is not in force: the one at ").and_then(|rest| rest.strip_suffix(" has precedence"));
                format!("{} {} by {}", problem.pos, problem.object.as_ref().unwrap().name, by.unwrap())
            };
            let found: Vec<String> = merge.hidden().iter().map(line).collect();
            assert_eq!(found.join(", "), expected, "step {number}");
            let differs = merge.hidden_version() != version;
            assert_eq!(differs, !matches!(number, 0 | 6), "step {number}");
            version = merge.hidden_version();
        }
        // One file that two sources read is one text.
        merge.take(sources[2], event_in("f0", "b=1"));
        assert_eq!((merge.hidden(), merge.shared.len()), (vec![], 1));
    }

    const SOURCES: usize = 3;

    fn said() -> impl Strategy<Value = Vec<String>> {
        let change = prop_oneof![
            4 => ("[a-d]", "[12]").prop_map(|(name, label)| format!("{name}={label}")),
            2 => "[a-d]".prop_map(|name| format!("-{name}")),
            1 => "[a-d]".prop_map(|name| format!("{name}!")),
        ];
        let later = prop_oneof![6 => change.clone(), 1 => Just("init".to_owned()), 2 => Just("done".to_owned())];
        (prop::collection::vec(change, 0..6), prop::collection::vec(later, 0..12))
            .prop_map(|(list, later)| [vec!["init".to_owned()], list, vec!["done".to_owned()], later].concat())
    }

    /// What a source has in the end, by another way.
    fn state(said: &[String]) -> BTreeMap<String, String> {
        let (mut state, mut list) = (BTreeMap::new(), None::<BTreeMap<String, String>>);
        for text in said {
            match (text.as_str(), text.trim_start_matches('-').get(..1)) {
                ("init", _) => list = Some(BTreeMap::new()),
                ("done", _) => state = list.take().unwrap_or(state),
                (change, Some(name)) => {
                    let map = list.as_mut().unwrap_or(&mut state);
                    if change.starts_with('-') {
                        map.remove(name)
                    } else {
                        map.insert(name.to_owned(), change.to_owned())
                    };
                }
                (_, None) => unreachable!(),
            }
        }
        state
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// However the sources' words come between each other, and whenever somebody looks: what holds is what the first source has in the end, and
        /// the changes that were told add up to it.
        #[test]
        fn order_and_looks_do_not_matter(
            scripts in prop::collection::vec(said(), SOURCES),
            turns in prop::collection::vec((any::<Index>(), any::<bool>()), 60),
        ) {
            let (mut merge, sources) = Merge::new(SOURCES);
            let mut rest: Vec<_> = scripts.iter().enumerate().map(|(source, script)| (source, script.iter())).collect();
            let mut turns = turns.into_iter().cycle();
            let mut told = BTreeMap::new();
            let mut look = |merge: &mut Merge| {
                for changed in merge.changes() {
                    let line = show(&changed.key, changed.now.as_ref());
                    let name = changed.key.name.to_string();
                    if changed.now.is_some() { told.insert(name, line) } else { told.remove(&name) };
                }
                told.clone()
            };
            while !rest.is_empty() {
                let Some((turn, looks)) = turns.next() else { break };
                let at = turn.index(rest.len());
                let (source, script) = &mut rest[at];
                match script.next() {
                    Some(text) => merge.take(sources[*source], event(text)),
                    None => drop(rest.remove(at)),
                }
                if looks {
                    look(&mut merge);
                }
            }
            let mut expected = BTreeMap::new();
            scripts.iter().rev().for_each(|script| expected.extend(state(script)));
            prop_assert_eq!(look(&mut merge), expected.clone());
            let all: Vec<String> = merge.all().map(|(key, held)| show(key, Some(held))).collect();
            prop_assert_eq!(all, expected.into_values().collect::<Vec<_>>());
            let keys: Vec<usize> = scripts.iter().map(|script| state(script).len()).collect();
            prop_assert_eq!(merge.sources.iter().map(|source| source.keys).collect::<Vec<_>>(), keys);
        }
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
        assert!(size_of::<(Key, Slot)>() <= 88, "what each object costs beside itself");
        assert_eq!(merge.changes().len(), 1);
    }
}
