//! One name's results.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mizzen_model::{ProxyView, Reach, Reader, Reads, Snapshot};
use mizzen_translate::{Part, ResourceKind};
use mizzen_types::Name;
use mizzen_xds::server::{Resource, Shared};

use super::{index::Number, lock, tree::Tree};

/// What is built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Resource(ResourceKind, Name),
    Names(ResourceKind, Part),
    /// The names of the parts from which a resource is joined; that resource is then built without them.
    Parts(ResourceKind, Name),
}

/// What was built.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Resource(Option<Resource>),
    /// In order. None: there is no resource of which they would be parts.
    Names(Option<Arc<[Name]>>),
}

impl Value {
    /// The names of a list.
    pub(super) fn names(&self) -> HashSet<&Name> {
        match self {
            Value::Names(names) => names.iter().flat_map(|names| names.iter()).collect(),
            Value::Resource(_) => HashSet::new(),
        }
    }

    /// Whether a proxy that has the one need not be sent the other.
    pub(super) fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Resource(Some(one)), Value::Resource(Some(other))) => {
                one.version == other.version && one.body.value == other.body.value
            }
            (Value::Resource(None), Value::Resource(None)) => true,
            (Value::Names(one), Value::Names(other)) => one == other,
            _ => false,
        }
    }
}

/// A result, with the record of what was read for it.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) value: Value,
    /// What it names and has to be there first.
    pub(super) brings: Arc<[(ResourceKind, Name)]>,
    pub(super) reads: Reads,
}

impl Built {
    pub(super) fn make(snapshot: &Snapshot, view: &ProxyView, what: &What, pool: &Shared) -> Built {
        let reader = Reader::new(snapshot);
        let mut brings = Vec::new();
        let value = match what {
            What::Resource(kind, name) => {
                let joined = mizzen_translate::joined(view, *kind, name).is_some();
                let build = if joined { mizzen_translate::build_head } else { mizzen_translate::build };
                let built = build(&reader, view, *kind, name).map(|resource| {
                    brings = resource.brings;
                    Resource::new(resource.any)
                });
                Value::Resource(built)
            }
            What::Names(kind, part) => {
                let mut names = mizzen_translate::list_part(&reader, view, *kind, *part);
                names.sort_unstable();
                names.dedup();
                Value::Names(Some(names.iter().map(|name| pool.name(name)).collect()))
            }
            What::Parts(kind, name) => {
                let parts = mizzen_translate::parts(&reader, view, *kind, name);
                Value::Names(parts.map(|parts| parts.iter().map(|part| pool.name(part)).collect()))
            }
        };
        Built { value, brings: brings.into(), reads: reader.finish() }
    }

    pub(super) fn is_for_all(&self) -> bool {
        self.reads.reach() == Reach::All
    }
}

/// One name for proxies of one profile.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: Number,
    pub(super) profile: u32,
    pub(super) what: What,
    state: Mutex<State>,
    /// Held by who builds: what is asked for by many at once is built once.
    pub(super) building: Mutex<()>,
}

/// What a slot holds.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// What all get, if it is the same for all.
    pub(super) all: Option<Arc<Built>>,
    /// Otherwise the results by answers.
    pub(super) tree: Tree,
    /// All results. The tree may lack some that somebody has: of two that hold in one snapshot one may ask what has the same answer for all by now.
    pub(super) results: Vec<Arc<Built>>,
    /// The proxies that have it, or have asked for it, by itself.
    holders: Bits,
    /// Proxies that have it with others at once.
    cohorts: Vec<Arc<Cohort>>,
    /// Those of the cohorts that do not have it any more.
    except: Bits,
    /// Counts the changes of its results by changes of the mesh.
    pub(super) turn: u64,
    /// Counts what happened to it, but for who came with a cohort.
    generation: u64,
}

/// Proxies that have many slots at once: one note in place of one in each of them.
#[derive(Debug, Default)]
pub(super) struct Cohort {
    members: Mutex<Bits>,
    /// Counts who came.
    generation: AtomicU64,
    /// Nobody joins any more.
    closed: AtomicBool,
}

impl Cohort {
    /// Adds a proxy. Returns whether it is new.
    pub(super) fn join(&self, asker: usize) -> bool {
        let new = lock(&self.members).insert(asker);
        self.generation.fetch_add(u64::from(new), Ordering::Relaxed);
        new
    }

    /// Notes that a proxy has none of the slots any more.
    pub(super) fn leave(&self, asker: usize) {
        lock(&self.members).remove(asker);
    }

    /// Notes that nobody joins any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// When a slot has so many cohorts, it notes by itself whom those have that nobody joins any more.
const COHORTS: usize = 4;

impl Slot {
    pub(super) fn new(number: Number, profile: u32, what: What) -> Slot {
        Slot { number, profile, what, state: Mutex::default(), building: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Its state, with one more proxy that has it or waits for it.
    pub(super) fn hold(&self, asker: usize) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.hold(asker);
        state
    }
}

impl State {
    /// The proxies that have it, or have asked for it.
    pub(super) fn holders(&self) -> Bits {
        let mut all = self.holders.clone();
        self.cohorts.iter().for_each(|cohort| all.add(&lock(&cohort.members), &self.except));
        all
    }

    pub(super) fn is_held(&self) -> bool {
        !self.holders.is_empty() || self.cohorts.iter().any(|cohort| lock(&cohort.members).has_beside(&self.except))
    }

    fn hold(&mut self, asker: usize) {
        let with_others = self.is_in_cohort(asker);
        if with_others && !self.except.remove(asker) {
            return;
        }
        if with_others || self.holders.insert(asker) {
            self.count();
        }
    }

    /// Notes that a proxy does not have it any more. Returns whether it has it with others, who do.
    pub(super) fn let_go(&mut self, asker: usize) -> bool {
        self.holders.remove(asker);
        let with_others = self.is_in_cohort(asker);
        if with_others {
            self.except.insert(asker);
        }
        with_others
    }

    /// Forgets a proxy that no cohort has.
    pub(super) fn forget(&mut self, asker: usize) {
        self.holders.remove(asker);
        self.except.remove(asker);
    }

    fn is_in_cohort(&self, asker: usize) -> bool {
        self.cohorts.iter().any(|cohort| lock(&cohort.members).contains(asker))
    }

    /// Notes that who joins this has it.
    pub(super) fn held_by(&mut self, cohort: &Arc<Cohort>) {
        if self.cohorts.len() >= COHORTS {
            let (closed, open): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.cohorts).into_iter().partition(|cohort| cohort.closed.load(Ordering::Relaxed));
            for cohort in closed {
                self.holders.add(&lock(&cohort.members), &self.except);
                self.generation = self.generation.wrapping_add(cohort.generation.load(Ordering::Relaxed));
            }
            self.cohorts = open;
        }
        self.cohorts.push(cohort.clone());
    }

    /// Counts what happened to it.
    pub(super) fn generation(&self) -> u64 {
        self.cohorts.iter().map(|cohort| cohort.generation.load(Ordering::Relaxed)).fold(self.generation, u64::wrapping_add)
    }

    /// Counts something that happened beside it.
    pub(super) fn count(&mut self) {
        self.generation += 1;
    }

    /// Takes a result that was built.
    pub(super) fn add(&mut self, built: &Arc<Built>) {
        self.count();
        self.results.push(built.clone());
        if built.is_for_all() { self.all = Some(built.clone()) } else { self.tree.add(built) }
    }
}

/// A set of small numbers, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// Adds a number. Returns whether it is new.
    pub(super) fn insert(&mut self, number: usize) -> bool {
        let (word, bit) = (number / 64, 1u64 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes a number out. Returns whether it was there.
    pub(super) fn remove(&mut self, number: usize) -> bool {
        let was = self.contains(number);
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !(1u64 << (number % 64));
        }
        was
    }

    fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & (1u64 << (number % 64)) != 0)
    }

    /// Adds those of another set that are not in a third one.
    fn add(&mut self, others: &Bits, except: &Bits) {
        self.0.resize(self.0.len().max(others.0.len()), 0);
        let except = except.0.iter().copied().chain(std::iter::repeat(0));
        self.0.iter_mut().zip(&others.0).zip(except).for_each(|((word, other), except)| *word |= other & !except);
    }

    fn has_beside(&self, except: &Bits) -> bool {
        self.0.iter().zip(except.0.iter().copied().chain(std::iter::repeat(0))).any(|(word, except)| word & !except != 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |word: u64| (0..64usize).filter(move |bit| word & (1 << bit) != 0);
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(move |(at, word)| bits(*word).map(move |bit| at * 64 + bit))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PROXIES: usize = 70;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A cohort that may be joined from now on, in place of the one before.
        Open,
        Join,
        Hold,
        LetGo,
        /// The connection has ended.
        Leave,
    }

    proptest! {
        /// Who has a slot with others has it as if it were noted by itself; and whoever comes is seen to have come.
        #[test]
        fn cohorts_are_proxies(steps in prop::collection::vec((prop::sample::select(&[Step::Open, Step::Join, Step::Hold, Step::LetGo, Step::Leave][..]), 0..PROXIES), 0..200)) {
            let mut state = State::default();
            let (mut open, mut all): (Option<Arc<Cohort>>, Vec<Arc<Cohort>>) = (None, Vec::new());
            let mut expected = BTreeSet::new();
            for (step, proxy) in steps {
                let before = state.generation();
                let new = match step {
                    Step::Open => {
                        open.iter().for_each(|cohort| cohort.close());
                        let cohort = Arc::default();
                        state.held_by(&cohort);
                        all.push(cohort.clone());
                        open = Some(cohort);
                        false
                    }
                    Step::Join => open.as_ref().is_some_and(|open| {
                        open.join(proxy);
                        state.hold(proxy);
                        expected.insert(proxy)
                    }),
                    Step::Hold => {
                        state.hold(proxy);
                        expected.insert(proxy)
                    }
                    Step::LetGo => {
                        state.let_go(proxy);
                        expected.remove(&proxy);
                        false
                    }
                    Step::Leave => {
                        all.iter().for_each(|cohort| cohort.leave(proxy));
                        state.forget(proxy);
                        expected.remove(&proxy);
                        false
                    }
                };
                prop_assert!(!new || state.generation() != before, "{step:?}");
                prop_assert_eq!(state.holders().iter().collect::<BTreeSet<_>>(), expected.clone(), "{:?}", step);
                prop_assert_eq!(state.is_held(), !expected.is_empty());
                prop_assert!(state.cohorts.len() <= COHORTS);
            }
        }
    }
}
