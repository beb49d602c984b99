//! From one snapshot to the next: what may differ is asked again, what differs is built, and whom it concerns is told.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use mizzen_model::{ChangeSet, ProxyView, Query, Reach, Snapshot};
use mizzen_translate::{ResourceKind, joined, whole_of};
use mizzen_types::Name;
use tokio::time::Instant;

use super::{
    Memo,
    asker::{Asker, Had},
    index::Number,
    lock,
    slot::{Built, Slot, State, What},
    tree::Tree,
};

/// So many slots are worth a second thread.
const SHARED_OUT: usize = 64;

/// A slot as it will be.
struct Step {
    slot: Arc<Slot>,
    /// As of which the slot was looked at.
    generation: u64,
    /// `None`: nobody has it any more.
    next: Option<Next>,
}

/// To whom which names of a kind may be due.
type News = (Arc<Asker>, ResourceKind, Arc<[Name]>);

#[derive(Default)]
struct Next {
    all: Option<Arc<Built>>,
    tree: Tree,
    /// Whether only the questions were asked again, and all results stand.
    stands: bool,
    own: Vec<(Arc<Asker>, Had)>,
    /// What the proxies' own answers follow from.
    under: HashSet<Query>,
    due: Vec<(Arc<Asker>, Arc<[Name]>)>,
    /// Parts that a proxy's resource had and has no more.
    gone: Vec<(Arc<Asker>, Arc<[Name]>)>,
}

impl Memo {
    /// Takes everything to the next snapshot, which differs from the memo's by `changes`, and tells the proxies of which something differs. Returns how many.
    pub(crate) fn advance(&self, new: &Arc<Snapshot>, changes: &ChangeSet) -> usize {
        let since = Instant::now();
        let touched = lock(&self.index).touched(changes);
        let steps = self.prepare(new, changes, &touched);
        let told;
        {
            let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            *gate = new.clone();
            self.sheets.clear();
            let mut due = Vec::new();
            // What was asked for while this was prepared is looked at once more, now that nobody asks.
            let late: BTreeSet<Number> = lock(&self.index).touched(changes).difference(&touched).copied().collect();
            for step in steps.into_iter().chain(self.prepare(new, changes, &late)) {
                let fresh = step.slot.state().generation() == step.generation;
                let step = if fresh { step } else { self.step(step.slot, new, changes) };
                self.commit(step, &mut due);
            }
            self.sweep();
            told = tell(new.version(), since, due);
        }
        told.iter().for_each(|asker| asker.wake.notify_one());
        told.len()
    }

    fn prepare(&self, new: &Arc<Snapshot>, changes: &ChangeSet, touched: &BTreeSet<Number>) -> Vec<Step> {
        let slots: Vec<Arc<Slot>> = {
            let all = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            touched.iter().filter_map(|number| all.by_number.get(number).cloned()).collect()
        };
        self.asked_again.fetch_add(slots.len() as u64, Ordering::Relaxed);
        let threads = if slots.len() < SHARED_OUT { 1 } else { std::thread::available_parallelism().map_or(1, |n| n.get().min(8)) };
        if threads == 1 {
            return slots.into_iter().map(|slot| self.step(slot, new, changes)).collect();
        }
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(slots.len())));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let step = self.step(slot.clone(), new, changes);
                        lock(&done).push(step);
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, slot: Arc<Slot>, new: &Snapshot, changes: &ChangeSet) -> Step {
        let state = slot.state().clone();
        // Ahead of the holders: who comes meanwhile is then seen to have come.
        let generation = state.generation();
        let holders: Vec<Arc<Asker>> = {
            let askers = lock(&self.askers);
            state.holders().iter().filter_map(|index| askers.get(index).cloned()).collect()
        };
        let next = holders.first().map(|first| {
            let stands = |built: &Built| built.reads.stands_in(new, &first.view);
            if state.all.as_ref().is_some_and(|all| stands(all)) {
                return Next { stands: true, all: state.all.clone(), ..Next::default() };
            }
            let kept = state.tree.leaves().into_iter().filter(|leaf| stands(leaf)).fold(Tree::default(), |tree, leaf| tree.with(leaf));
            Maker { memo: self, slot: &slot, new, changes, state: &state, known: kept, by_group: HashMap::new(), under: HashSet::new() }
                .make(&holders)
        });
        Step { slot, generation, next }
    }

    /// Drops what nobody has any more.
    fn sweep(&self) {
        for number in std::mem::take(&mut *lock(&self.bare)) {
            let slot = self.slots.read().unwrap_or_else(PoisonError::into_inner).by_number.get(&number).cloned();
            if let Some(slot) = slot.filter(|slot| !slot.state().is_held()) {
                self.discard(&slot);
            }
        }
    }

    fn discard(&self, slot: &Slot) {
        self.slots.write().unwrap_or_else(PoisonError::into_inner).remove(slot);
        lock(&self.index).set(slot.number, std::iter::empty());
    }

    fn commit(&self, step: Step, due: &mut Vec<News>) {
        let Step { slot, next, .. } = step;
        let Some(next) = next else {
            self.discard(&slot);
            return;
        };
        if next.stands {
            return;
        }
        let (was_for_all, turn) = {
            let mut state = slot.state();
            state.turn += 1;
            let was_for_all = state.all.is_some();
            (state.all, state.tree) = (next.all, next.tree);
            let queries = state.results().into_iter().flat_map(|built| built.reads.queries());
            lock(&self.index).set(slot.number, queries.chain(&next.under));
            (was_for_all, state.turn)
        };
        for (asker, had) in next.own {
            if !was_for_all {
                asker.forget(slot.number);
            }
            asker.remember(slot.number, turn, &had);
        }
        for (asker, gone) in next.gone {
            self.part_with(&asker, &slot, &gone);
        }
        let kind = match &slot.what {
            What::Resource(kind, _) | What::Names(kind, _) | What::Parts(kind, _) => *kind,
        };
        for (asker, names) in next.due {
            // Of a part the whole is due.
            let whole =
                names.first().and_then(|part| whole_of(kind, part)).filter(|(kind, name)| joined(&asker.view, *kind, name).is_some());
            due.push(match whole {
                Some((kind, name)) => (asker, kind, Arc::from([name])),
                None => (asker, kind, names),
            });
        }
    }

    /// A proxy's resource does not have these parts any more.
    fn part_with(&self, asker: &Asker, list: &Slot, gone: &[Name]) {
        let What::Parts(kind, name) = &list.what else { return };
        let Some(joined) = joined(&asker.view, *kind, name) else { return };
        for part in gone {
            let slot = self.slots.read().unwrap_or_else(PoisonError::into_inner).resource(asker.profile, joined.part, part);
            slot.iter().for_each(|slot| self.leave_slot(asker, slot));
        }
    }
}

/// Makes a slot's results for all that have it.
struct Maker<'m> {
    memo: &'m Memo,
    slot: &'m Slot,
    new: &'m Snapshot,
    changes: &'m ChangeSet,
    /// What was.
    state: &'m State,
    /// Results that hold in the new snapshot.
    known: Tree,
    by_group: HashMap<u64, Had>,
    under: HashSet<Query>,
}

impl Maker<'_> {
    fn make(mut self, holders: &[Arc<Asker>]) -> Next {
        let mut next = Next::default();
        // Names of a change are the same for all that had the same and get the same.
        let mut differences: HashMap<(usize, usize), Option<Difference>> = HashMap::new();
        for asker in holders {
            let was = self.state.all.clone().map(Had::new).or_else(|| asker.recall(self.slot.number, self.state.turn));
            let had = match &next.all {
                Some(all) => Had::new(all.clone()),
                None => self.result(asker, was.as_ref()),
            };
            let (was, is) = (was.map(|was| was.built), &had.built);
            let between = (was.as_ref().map_or(0, |was| Arc::as_ptr(was) as usize), Arc::as_ptr(is) as usize);
            let difference = differences.entry(between).or_insert_with(|| difference(&self.slot.what, was.as_deref(), is));
            if let Some(Difference { due, gone }) = difference.clone() {
                next.due.push((asker.clone(), due));
                next.gone.extend(gone.map(|gone| (asker.clone(), gone)));
            }
            if is.is_for_all() {
                next.all = Some(is.clone());
            }
            if self.state.all.is_none() || next.all.is_none() {
                next.own.push((asker.clone(), had));
            }
        }
        if next.all.is_none() {
            // Only what somebody has is kept.
            next.tree = next
                .own
                .iter()
                .fold((Tree::default(), HashSet::new()), |(tree, mut seen), (_, had)| {
                    let tree = if seen.insert(Arc::as_ptr(&had.built)) { tree.with(&had.built) } else { tree };
                    (tree, seen)
                })
                .0;
            next.under = self.under;
        }
        next
    }

    fn result(&mut self, asker: &Asker, was: Option<&Had>) -> Had {
        if let Some(of_group) = self.by_group.get(&asker.group.number) {
            return of_group.clone();
        }
        let had = self.find(asker, was);
        self.under.extend(had.under.iter().cloned());
        if had.built.reads.reach() <= Reach::Alike {
            self.by_group.insert(asker.group.number, had.clone());
        }
        had
    }

    fn find(&mut self, asker: &Asker, was: Option<&Had>) -> Had {
        // A pod that comes or goes concerns one of many proxies that each have their own.
        if let Some(was) = was.filter(|was| was.is_untouched(self.changes)) {
            return was.clone();
        }
        self.memo.walked.fetch_add(1, Ordering::Relaxed);
        let mut under = Vec::new();
        match self.known.find(self.new, &asker.view, &mut under) {
            Some(built) => Had { built, under: under.into() },
            // Where it stops on its way down is covered by what is read for the new one.
            None => Had::new(self.build(&asker.view, was.map(|was| &was.built))),
        }
    }

    fn build(&mut self, view: &ProxyView, was: Option<&Arc<Built>>) -> Arc<Built> {
        let mut built = self.memo.build(self.new, view, &self.slot.what);
        // Equal contents stay where they are.
        let mut like = was.into_iter().chain(self.known.leaves()).chain(self.state.results());
        if let Some(same) = like.find(|other| other.value.same(&built.value)) {
            built.value = same.value.clone();
        }
        if let Some(other) = self.known.leaves().first() {
            built.reads.share(&other.reads);
        }
        let built = Arc::new(built);
        self.known = self.known.with(&built);
        built
    }
}

/// What a result's change means for a proxy.
#[derive(Clone)]
struct Difference {
    /// The names of what has to be sent.
    due: Arc<[Name]>,
    /// Names that are not on the list any more.
    gone: Option<Arc<[Name]>>,
}

/// What a proxy has to be told that had `was`.
fn difference(what: &What, was: Option<&Built>, is: &Built) -> Option<Difference> {
    // Somebody that asks just now had nothing.
    let (was, is) = (&was?.value, &is.value);
    if was.same(is) {
        return None;
    }
    let (had, has) = (was.names(), is.names());
    let due = match what {
        What::Names(..) => had.symmetric_difference(&has).map(|name| (*name).clone()).collect(),
        What::Resource(_, name) | What::Parts(_, name) => Arc::from([name.clone()]),
    };
    let gone = matches!(what, What::Parts(..)).then(|| had.difference(&has).map(|name| (*name).clone()).collect());
    Some(Difference { due, gone })
}

/// Notes for each proxy what is due to it.
fn tell(version: u64, since: Instant, due: Vec<News>) -> Vec<Arc<Asker>> {
    let mut told: HashMap<usize, Arc<Asker>> = HashMap::new();
    for (asker, kind, names) in due {
        asker.push_due(version, since, kind, names);
        told.entry(asker.index).or_insert(asker);
    }
    told.into_values().collect()
}
