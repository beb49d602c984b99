//! From one snapshot to the next: what may differ is asked again, what differs is built, and whom it concerns is told.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
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
    slot::{Built, Slot, State, Value, What},
    tree::Tree,
};

/// So many slots, or so many results of one, are worth a second thread; in tests, few are many.
const SHARED_OUT: usize = if cfg!(test) { 3 } else { 64 };

/// A slot as it will be.
pub(super) struct Step {
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
    /// All that somebody has.
    results: Vec<Arc<Built>>,
    /// Whether only the questions were asked again, and all results stand.
    stands: bool,
    own: Vec<(Arc<Asker>, Had)>,
    /// What the proxies' own answers follow from.
    under: Vec<Arc<[Query]>>,
    due: Vec<(Arc<Asker>, Arc<[Name]>)>,
    /// Parts that a proxy's resource had and has no more.
    gone: Vec<(Arc<Asker>, Arc<[Name]>)>,
}

/// What a slot held, and takes time to take apart: nobody waits for that.
type Spent = (Tree, Vec<Arc<Built>>);

impl Memo {
    /// Takes everything to the next snapshot, which differs from the memo's by `changes`, and tells the proxies of which something differs. Returns how many.
    pub(crate) fn advance(&self, new: &Arc<Snapshot>, changes: &ChangeSet) -> usize {
        let since = Instant::now();
        let (touched, steps) = self.prepared(new, changes);
        self.swap_in(new, changes, since, &touched, steps)
    }

    /// What a change means, as far as can be said while everybody goes on asking.
    pub(super) fn prepared(&self, new: &Snapshot, changes: &ChangeSet) -> (BTreeSet<Number>, Vec<Step>) {
        let touched = lock(&self.index).touched(changes);
        let steps = self.prepare(new, changes, &touched);
        (touched, steps)
    }

    pub(super) fn swap_in(
        &self,
        new: &Arc<Snapshot>,
        changes: &ChangeSet,
        since: Instant,
        touched: &BTreeSet<Number>,
        steps: Vec<Step>,
    ) -> usize {
        let told;
        let mut spent = Vec::new();
        {
            let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            *gate = new.clone();
            self.sheets.clear();
            let mut due = Vec::new();
            // What was asked for while this was prepared is looked at once more, now that nobody asks.
            let late: BTreeSet<Number> = lock(&self.index).touched(changes).difference(touched).copied().collect();
            for step in steps.into_iter().chain(self.prepare(new, changes, &late)) {
                let fresh = step.slot.state().generation() == step.generation;
                let step = if fresh { step } else { self.step(step.slot, new, changes) };
                self.commit(step, &mut due, &mut spent);
            }
            self.sweep();
            told = tell(new.version(), since, due);
        }
        told.iter().for_each(|asker| asker.wake.notify_one());
        drop(spent);
        told.len()
    }

    fn prepare(&self, new: &Snapshot, changes: &ChangeSet, touched: &BTreeSet<Number>) -> Vec<Step> {
        let slots: Vec<Arc<Slot>> = {
            let all = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            touched.iter().filter_map(|number| all.by_number.get(number).cloned()).collect()
        };
        self.asked_again.fetch_add(slots.len() as u64, Ordering::Relaxed);
        let threads = if slots.len() < SHARED_OUT { 1 } else { threads() };
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
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        // In one order, whichever was ready first.
        done.sort_unstable_by_key(|step| step.slot.number);
        done
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
            let standing: Vec<&Arc<Built>> = state.results.iter().filter(|built| stands(built)).collect();
            let mut kept = Tree::default();
            if standing.len() == state.results.len() {
                kept = state.tree.clone();
            } else {
                standing.into_iter().for_each(|built| kept.add(built));
            }
            Maker::new(self, &slot, new, changes, &state, kept).make(&holders)
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

    fn commit(&self, step: Step, due: &mut Vec<News>, spent: &mut Vec<Spent>) {
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
            let queries = next.results.iter().flat_map(|built| built.reads.queries());
            lock(&self.index).set(slot.number, queries.chain(next.under.iter().flat_map(|under| under.iter())));
            state.all = next.all;
            spent.push((std::mem::replace(&mut state.tree, next.tree), std::mem::replace(&mut state.results, next.results)));
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
    made: RwLock<Made>,
}

/// What holds in the new snapshot, as far as it is known.
#[derive(Default)]
struct Made {
    known: Tree,
    by_group: HashMap<u64, Had>,
    /// Of proxies that have a result of their own, by their number.
    own: HashMap<usize, Had>,
    under: Vec<Arc<[Query]>>,
    /// What was made anew.
    built: Vec<Arc<Built>>,
    /// What there is and was, by [`key`].
    contents: HashMap<u64, Vec<Value>>,
}

impl Maker<'_> {
    /// `known` are results that hold in the new snapshot.
    fn new<'m>(memo: &'m Memo, slot: &'m Slot, new: &'m Snapshot, changes: &'m ChangeSet, state: &'m State, known: Tree) -> Maker<'m> {
        let mut contents: HashMap<u64, Vec<Value>> = HashMap::new();
        state.results.iter().for_each(|built| contents.entry(key(&built.value)).or_default().push(built.value.clone()));
        Maker { memo, slot, new, changes, state, made: RwLock::new(Made { known, contents, ..Made::default() }) }
    }

    fn make(self, holders: &[Arc<Asker>]) -> Next {
        self.make_ahead(holders);
        let mut next = Next::default();
        // Names of a change are the same for all that had the same and get the same.
        let mut differences: HashMap<(usize, usize), Option<Difference>> = HashMap::new();
        for asker in holders {
            let was = self.was(asker);
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
        match &next.all {
            Some(all) => next.results.push(all.clone()),
            None => {
                let made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
                // Only what somebody has is kept; what is new goes in last, since what is in its way has questions of an earlier snapshot.
                let mut seen = HashSet::new();
                next.results
                    .extend(next.own.iter().filter(|(_, had)| seen.insert(Arc::as_ptr(&had.built))).map(|(_, had)| had.built.clone()));
                let new: HashSet<_> = made.built.iter().map(Arc::as_ptr).collect();
                next.results.sort_by_key(|built| new.contains(&Arc::as_ptr(built)));
                next.results.iter().for_each(|built| next.tree.add(built));
                next.under = made.under;
            }
        }
        next
    }

    /// What a proxy had.
    fn was(&self, asker: &Asker) -> Option<Had> {
        self.state.all.clone().map(Had::new).or_else(|| asker.recall(self.slot.number, self.state.turn))
    }

    /// Makes the results of many groups on several threads: of one listener each of a thousand workloads may have its own.
    fn make_ahead(&self, holders: &[Arc<Asker>]) {
        let mut seen = HashSet::new();
        let groups: Vec<&Arc<Asker>> = holders.iter().filter(|asker| seen.insert(asker.group.number)).collect();
        let (Some((first, rest)), true) = (groups.split_first(), groups.len() >= SHARED_OUT) else { return };
        if self.result(first, self.was(first).as_ref()).built.is_for_all() {
            return;
        }
        // Those that lie side by side get the same more often than others, which is then made once.
        // This thread only waits: a new one is mostly started where another core is idle, but may share this one's for tens of milliseconds if it goes on.
        std::thread::scope(|scope| {
            for some in rest.chunks(rest.len().div_ceil(threads())) {
                scope.spawn(move || some.iter().for_each(|asker| drop(self.result(asker, self.was(asker).as_ref()))));
            }
        });
    }

    fn result(&self, asker: &Asker, was: Option<&Had>) -> Had {
        {
            let made = read(&self.made);
            if let Some(had) = made.by_group.get(&asker.group.number).or_else(|| made.own.get(&asker.index)) {
                return had.clone();
            }
        }
        let had = self.find(asker, was);
        let mut made = write(&self.made);
        made.under.push(had.under.clone());
        if had.built.reads.reach() <= Reach::Alike {
            made.by_group.insert(asker.group.number, had.clone());
        } else {
            made.own.insert(asker.index, had.clone());
        }
        had
    }

    fn find(&self, asker: &Asker, was: Option<&Had>) -> Had {
        // A pod that comes or goes concerns one of many proxies that each have their own.
        if let Some(was) = was.filter(|was| was.is_untouched(self.changes)) {
            return was.clone();
        }
        self.memo.walked.fetch_add(1, Ordering::Relaxed);
        let mut under = Vec::new();
        if let Some(built) = read(&self.made).known.find(self.new, &asker.view, &mut under) {
            return Had { built, under: under.into() };
        }
        // Where it stops on its way down is covered by what is read for the new one.
        self.build(&asker.view)
    }

    fn build(&self, view: &ProxyView) -> Had {
        let mut built = self.memo.build(self.new, view, &self.slot.what);
        let mut made = write(&self.made);
        // Another thread may have been faster: of two results with the same answers only one is there. Why the proxy got them is its own matter.
        if let Some(there) = made.known.follow(built.reads.asked()) {
            return Had { built: there, under: built.reads.under().cloned().collect() };
        }
        self.memo.count_built(&self.slot.what);
        // Equal contents stay where they are.
        let alike = made.contents.entry(key(&built.value)).or_default();
        match alike.iter().find(|there| there.same(&built.value)) {
            Some(same) => built.value = same.clone(),
            None => alike.push(built.value.clone()),
        }
        if let Some(other) = made.known.any() {
            built.reads.share(&other.reads);
        }
        let built = Arc::new(built);
        made.known.add(&built);
        made.built.push(built.clone());
        Had::new(built)
    }
}

/// Equal contents have equal keys, and others hardly ever.
fn key(value: &Value) -> u64 {
    match value {
        Value::Resource(resource) => resource.as_ref().map_or(0, |resource| resource.version.0),
        Value::Names(names) => names.as_ref().map_or(0, |names| names.len() as u64),
    }
}

fn read(made: &RwLock<Made>) -> RwLockReadGuard<'_, Made> {
    made.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(made: &RwLock<Made>) -> RwLockWriteGuard<'_, Made> {
    made.write().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads make what is worth several.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(8))
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
