//! Resources that were built already, shared by all proxies that get the same answers.
//!
//! A slot holds the results of one name. Where all answers were such as everybody gets, there is one result for all; otherwise the results form a tree
//! by the answers (`tree`), and each group of proxies that are alike, or each proxy, remembers its own. A change finds the slots that asked about what
//! it touches (`index`), asks their questions again, builds anew what has other answers, and tells those proxies whose bytes differ (`advance`).
//!
//! All that is held is of one snapshot. Who reads holds the gate open; a new snapshot is prepared beside the readers, and swapped in behind the gate.

mod advance;
mod asker;
mod index;
mod sheet;
mod slot;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use mizzen_model::{ProxyView, Snapshot};
use mizzen_translate::{Joined, Part, ResourceKind};
use mizzen_types::Name;
use mizzen_xds::server::{Parts, Resource, Shared};

pub(crate) use asker::Asker;
use asker::{Askers, Had};
use index::{Index, Number};
use sheet::{Joint, Sheets};
use slot::{Built, Slot, Value, What};
use tree::Tree;

/// The memory of all connections.
#[derive(Debug)]
pub(crate) struct Memo {
    /// The snapshot of which everything is.
    gate: RwLock<Arc<Snapshot>>,
    slots: RwLock<Slots>,
    index: Mutex<Index>,
    askers: Mutex<Askers>,
    sheets: Sheets,
    /// Names and lists of names that all share: sessions, too.
    pub(crate) lists: Arc<Shared>,
    /// Slots that nobody had any more when last looked at; the next change drops them.
    bare: Mutex<BTreeSet<Number>>,
    built: AtomicU64,
    shared: AtomicU64,
    asked_again: AtomicU64,
    walked: AtomicU64,
}

#[derive(Debug, Default)]
struct Slots {
    resources: HashMap<(u32, ResourceKind), HashMap<Name, Arc<Slot>, RandomState>>,
    lists: HashMap<(u32, ResourceKind, Part), Arc<Slot>>,
    parts: HashMap<(u32, ResourceKind, Name), Arc<Slot>>,
    by_number: HashMap<Number, Arc<Slot>>,
    next: Number,
}

impl Slots {
    fn make(&mut self, profile: u32, what: What) -> Arc<Slot> {
        self.next += 1;
        let slot = Arc::new(Slot::new(self.next, profile, what));
        self.by_number.insert(slot.number, slot.clone());
        slot
    }

    fn resource(&self, profile: u32, kind: ResourceKind, name: &str) -> Option<Arc<Slot>> {
        self.resources.get(&(profile, kind))?.get(name).cloned()
    }

    fn remove(&mut self, slot: &Slot) {
        self.by_number.remove(&slot.number);
        match &slot.what {
            What::Names(kind, part) => drop(self.lists.remove(&(slot.profile, *kind, *part))),
            What::Parts(kind, name) => drop(self.parts.remove(&(slot.profile, *kind, name.clone()))),
            What::Resource(kind, name) => {
                if let Some(of_kind) = self.resources.get_mut(&(slot.profile, *kind)) {
                    of_kind.remove(name);
                }
            }
        }
    }
}

/// What the memo has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Resources that were built.
    pub(crate) built: u64,
    /// Resources that were there when they were asked for.
    pub(crate) shared: u64,
    /// Slots whose questions were asked again, since a change touched what they had asked about.
    pub(crate) asked_again: u64,
    /// Proxies for which the questions of such a slot were asked.
    pub(crate) walked: u64,
    /// Names that are held.
    pub(crate) slots: usize,
}

impl Default for Memo {
    fn default() -> Self {
        Memo {
            gate: RwLock::new(Snapshot::empty()),
            slots: RwLock::default(),
            index: Mutex::default(),
            askers: Mutex::default(),
            sheets: Sheets::default(),
            lists: Arc::default(),
            bare: Mutex::default(),
            built: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            asked_again: AtomicU64::new(0),
            walked: AtomicU64::new(0),
        }
    }
}

/// A memo that stays at one snapshot as long as this lives.
pub(crate) struct Epoch<'m> {
    memo: &'m Memo,
    snapshot: RwLockReadGuard<'m, Arc<Snapshot>>,
}

impl Memo {
    /// A proxy that asks from now on. [`Memo::leave`] when it is gone.
    pub(crate) fn enter(&self, view: ProxyView) -> Arc<Asker> {
        lock(&self.askers).add(view)
    }

    /// Forgets a proxy.
    pub(crate) fn leave(&self, asker: &Asker) {
        // Nobody may step into its place before its marks are gone.
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        asker.leave_cohorts();
        let slots: Vec<Arc<Slot>> = self.slots.read().unwrap_or_else(PoisonError::into_inner).by_number.values().cloned().collect();
        let mut bare = Vec::new();
        for slot in slots {
            let mut state = slot.state();
            state.forget(asker.index);
            if !state.is_held() {
                bare.push(slot.number);
            }
        }
        lock(&self.bare).extend(bare);
        lock(&self.askers).remove(asker.index);
    }

    /// Notes that a proxy does not have what a slot holds any more.
    fn leave_slot(&self, asker: &Asker, slot: &Slot) {
        asker.forget_own(slot.number);
        let mut state = slot.state();
        if state.let_go(asker.index) {
            asker.is_beside();
        }
        if !state.is_held() {
            lock(&self.bare).insert(slot.number);
        }
    }

    /// Holds the snapshot.
    pub(crate) fn read(&self) -> Epoch<'_> {
        Epoch { memo: self, snapshot: self.gate.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The same, if nobody has to be waited for.
    pub(crate) fn try_read(&self) -> Option<Epoch<'_>> {
        let snapshot = match self.gate.try_read() {
            Ok(snapshot) => snapshot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Epoch { memo: self, snapshot })
    }

    /// What was done, and what is held.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            built: self.built.load(Ordering::Relaxed),
            shared: self.shared.load(Ordering::Relaxed),
            asked_again: self.asked_again.load(Ordering::Relaxed),
            walked: self.walked.load(Ordering::Relaxed),
            slots: self.slots.read().unwrap_or_else(PoisonError::into_inner).by_number.len(),
        }
    }

    /// Whether nothing is held, so that a change has nothing to do here.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).by_number.is_empty()
    }

    fn list_slot(&self, profile: u32, kind: ResourceKind, part: Part) -> Arc<Slot> {
        let find = |slots: &Slots| slots.lists.get(&(profile, kind, part)).cloned();
        if let Some(slot) = find(&self.slots.read().unwrap_or_else(PoisonError::into_inner)) {
            return slot;
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        find(&slots).unwrap_or_else(|| {
            let slot = slots.make(profile, What::Names(kind, part));
            slots.lists.insert((profile, kind, part), slot.clone());
            slot
        })
    }

    fn parts_slot(&self, profile: u32, kind: ResourceKind, name: &str) -> Arc<Slot> {
        let key = (profile, kind, Name::from(name));
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.parts.get(&key) {
            return slot.clone();
        }
        let slot = slots.make(profile, What::Parts(kind, key.2.clone()));
        slots.parts.insert(key, slot.clone());
        slot
    }

    fn resource_slot(&self, profile: u32, kind: ResourceKind, name: &str) -> Arc<Slot> {
        let find = |slots: &Slots| slots.resource(profile, kind, name);
        if let Some(slot) = find(&self.slots.read().unwrap_or_else(PoisonError::into_inner)) {
            return slot;
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        find(&slots).unwrap_or_else(|| {
            let name = self.lists.name(name);
            let slot = slots.make(profile, What::Resource(kind, name.clone()));
            slots.resources.entry((profile, kind)).or_default().insert(name, slot.clone());
            slot
        })
    }

    /// Notes that a result was there. Lists of names count neither here nor where they are built.
    fn hit(&self, what: &What) {
        if matches!(what, What::Resource(..)) {
            self.shared.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn build(&self, snapshot: &Snapshot, view: &ProxyView, what: &What) -> Built {
        Built::make(snapshot, view, what, &self.lists)
    }

    /// Notes that something was built and is kept.
    fn count_built(&self, what: &What) {
        if matches!(what, What::Resource(..)) {
            self.built.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Epoch<'_> {
    /// The snapshot.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The version of the snapshot.
    pub(crate) fn version(&self) -> u64 {
        self.snapshot.version()
    }

    /// The names of a part of a proxy's resources of a kind, in order.
    pub(crate) fn names(&self, asker: &Asker, kind: ResourceKind, part: Part) -> Arc<[Name]> {
        match &self.get(asker, &self.memo.list_slot(asker.profile, kind, part)).value {
            Value::Names(names) => names.clone().unwrap_or_default(),
            Value::Resource(_) => Arc::default(),
        }
    }

    /// One resource of a proxy.
    pub(crate) fn resource(&self, asker: &Asker, kind: ResourceKind, name: &str) -> Option<Resource> {
        match mizzen_translate::joined(&asker.view, kind, name) {
            None => self.built(asker, kind, name),
            Some(joined) => self.join(asker, kind, name, joined),
        }
    }

    fn join(&self, asker: &Asker, kind: ResourceKind, name: &str, joined: Joined) -> Option<Resource> {
        let take = || {
            let joint = self.memo.sheets.joint(self.version(), asker.profile, kind, name)?;
            self.memo.shared.fetch_add(1, Ordering::Relaxed);
            Some(joint.take(asker))
        };
        if let Some(resource) = take() {
            return Some(resource);
        }
        let list = self.memo.parts_slot(asker.profile, kind, name);
        let Value::Names(Some(parts)) = &self.get(asker, &list).value else { return None };
        // Where proxies differ nothing is kept for others to wait for.
        let is_same = list.state().all.is_some();
        let _joining = is_same.then(|| lock(&self.memo.sheets.joining));
        if let Some(resource) = take() {
            return Some(resource);
        }
        let mut slots = vec![self.memo.resource_slot(asker.profile, kind, name), list];
        let mut messages = Vec::with_capacity(parts.len());
        for part in parts.iter() {
            let slot = self.memo.resource_slot(asker.profile, joined.part, part);
            if let Value::Resource(Some(part)) = &self.get(asker, &slot).value {
                messages.push((part.version, part.body.clone()));
            }
            slots.push(slot);
        }
        let head = self.built(asker, kind, name)?;
        let is_same = slots.iter().all(|slot| slot.state().all.is_some());
        let parts = if is_same { Parts::alike(joined.field, messages) } else { Parts::new(joined.field, messages) };
        let resource = head.joined(parts);
        if is_same {
            self.memo.sheets.put_joint(self.version(), asker.profile, kind, name, Joint::new(resource.clone(), slots));
        }
        Some(resource)
    }

    fn built(&self, asker: &Asker, kind: ResourceKind, name: &str) -> Option<Resource> {
        match &self.get(asker, &self.memo.resource_slot(asker.profile, kind, name)).value {
            Value::Resource(resource) => resource.clone(),
            Value::Names(_) => None,
        }
    }

    /// What one resource of a proxy names and has to be there first.
    pub(crate) fn brings(&self, asker: &Asker, kind: ResourceKind, name: &str) -> Arc<[(ResourceKind, Name)]> {
        self.get(asker, &self.memo.resource_slot(asker.profile, kind, name)).brings.clone()
    }

    /// What one resource of a proxy brings along, if it is there: to look it up builds nothing then. `listed`: neither does the question whether it is
    /// among all of its kind.
    pub(crate) fn find_built(&self, asker: &Asker, kind: ResourceKind, name: &str, listed: bool) -> Option<Arc<[(ResourceKind, Name)]>> {
        if listed {
            let mut is_listed = false;
            for part in Part::ALL {
                let list = self.find(asker, &self.memo.list_slot(asker.profile, kind, part))?;
                is_listed |=
                    matches!(&list.value, Value::Names(Some(names)) if names.binary_search_by(|there| (**there).cmp(name)).is_ok());
            }
            if !is_listed {
                return Some(Arc::default());
            }
        }
        if mizzen_translate::joined(&asker.view, kind, name).is_some() {
            return self.memo.sheets.joint(self.version(), asker.profile, kind, name).map(|_| Arc::default());
        }
        Some(self.find(asker, &self.memo.resource_slot(asker.profile, kind, name))?.brings.clone())
    }

    /// Notes that a proxy does not have a resource any more.
    pub(crate) fn release(&self, asker: &Asker, kind: ResourceKind, name: &Name) {
        if let Some(joined) = mizzen_translate::joined(&asker.view, kind, name) {
            self.memo.sheets.release(asker, kind, name);
            let list = self.memo.parts_slot(asker.profile, kind, name);
            if let Some(Value::Names(Some(parts))) = self.find(asker, &list).map(|built| built.value.clone()) {
                parts.iter().for_each(|part| self.memo.leave_slot(asker, &self.memo.resource_slot(asker.profile, joined.part, part)));
            }
            self.memo.leave_slot(asker, &list);
        }
        self.memo.leave_slot(asker, &self.memo.resource_slot(asker.profile, kind, name));
    }

    fn get(&self, asker: &Asker, slot: &Slot) -> Arc<Built> {
        let seen = match self.look(asker, slot) {
            Ok(found) => {
                self.memo.hit(&slot.what);
                return found;
            }
            Err(seen) => seen,
        };
        let _building = lock(&slot.building);
        let is_new = {
            let state = slot.state();
            state.all.is_some() || !state.tree.is(&seen)
        };
        // Who holds a tree has it copied where something is added.
        drop(seen);
        if is_new && let Ok(found) = self.look(asker, slot) {
            self.memo.hit(&slot.what);
            return found;
        }
        let mut built = self.memo.build(&self.snapshot, &asker.view, &slot.what);
        self.memo.count_built(&slot.what);
        {
            let mut state = slot.state();
            if let Some(other) = state.results.first() {
                built.reads.share(&other.reads);
            }
            let built = Arc::new(built);
            lock(&self.memo.index).add(slot.number, built.reads.queries());
            state.add(&built);
            asker.remember(slot.number, state.turn, &Had::new(built.clone()));
            built
        }
    }

    /// What is there for a proxy. It is noted as one that has it, or waits for it.
    fn find(&self, asker: &Asker, slot: &Slot) -> Option<Arc<Built>> {
        self.look(asker, slot).ok()
    }

    /// The same; if there is nothing, what was looked through.
    fn look(&self, asker: &Asker, slot: &Slot) -> Result<Arc<Built>, Tree> {
        let (tree, turn) = {
            let state = slot.hold(asker.index);
            if let Some(all) = &state.all {
                return Ok(all.clone());
            }
            (state.tree.clone(), state.turn)
        };
        if let Some(known) = asker.recall(slot.number, turn) {
            return Ok(known.built);
        }
        // The questions are asked outside of all locks.
        let mut under = Vec::new();
        let Some(found) = tree.find(&self.snapshot, &asker.view, &mut under) else { return Err(tree) };
        lock(&self.memo.index).add(slot.number, under.iter());
        asker.remember(slot.number, turn, &Had { built: found.clone(), under: under.into() });
        // A change that is being prepared may have looked at what it had before.
        slot.state().count();
        Ok(found)
    }
}

/// What lies under these locks stays whole if somebody panics: nothing lies under those that are held while something is built.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
