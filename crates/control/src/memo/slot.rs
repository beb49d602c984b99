//! One name's results.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
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
    /// The proxies that have it, or have asked for it.
    pub(super) holders: Bits,
    /// Counts the changes of its results by changes of the mesh.
    pub(super) turn: u64,
    /// Counts what happened to it.
    pub(super) generation: u64,
}

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
        if state.holders.insert(asker) {
            state.generation += 1;
        }
        state
    }
}

impl State {
    /// All results.
    pub(super) fn results(&self) -> Vec<&Arc<Built>> {
        self.all.iter().chain(self.tree.leaves()).collect()
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

    pub(super) fn remove(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !(1u64 << (number % 64));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |word: u64| (0..64usize).filter(move |bit| word & (1 << bit) != 0);
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(move |(at, word)| bits(*word).map(move |bit| at * 64 + bit))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}
