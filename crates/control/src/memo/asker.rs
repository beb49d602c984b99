//! Who asks: the connected proxies, and groups of those that are alike.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use mizzen_model::{ChangeSet, ProxyFacts, ProxyType, ProxyView, Query, Reach};
use mizzen_translate::ResourceKind;
use mizzen_types::Name;
use tokio::{sync::Notify, time::Instant};

use super::{
    index::Number,
    lock,
    slot::{Built, Cohort, Slot},
};

/// What one proxy or one group has, where it is not the same for all.
#[derive(Clone, Debug)]
pub(super) struct Had {
    pub(super) built: Arc<Built>,
    /// What its own answers follow from: another one that got the same answers may have got them for other reasons.
    pub(super) under: Arc<[Query]>,
}

impl Had {
    /// What was built for it.
    pub(super) fn new(built: Arc<Built>) -> Had {
        let under = built.reads.own().into();
        Had { built, under }
    }

    /// Whether it is certain that the proxy would get the same again.
    pub(super) fn is_untouched(&self, changes: &ChangeSet) -> bool {
        !self.built.reads.common().chain(&*self.under).any(|query| changes.touches(query))
    }
}

/// By slot, each with the turn of the slot in which it was so: who did not hold the slot since has to ask anew.
type Results = Mutex<HashMap<Number, (u64, Had)>>;

/// Proxies that are alike in everything but address and name.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) number: u64,
    results: Results,
}

/// One connected proxy.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(super) index: usize,
    pub(super) profile: u32,
    pub(super) group: Arc<Group>,
    pub(crate) view: ProxyView,
    results: Results,
    due: Mutex<Due>,
    /// With whom it has slots.
    cohorts: Mutex<Vec<Weak<Cohort>>>,
    /// It has let go of something that its cohorts have.
    beside: AtomicBool,
    /// Told when something is due.
    pub(crate) wake: Notify,
}

/// What has changed for a proxy since it last took it.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// The resources that may differ, by kind.
    pub(crate) names: Vec<(ResourceKind, Arc<[Name]>)>,
    /// The first snapshot of which something is due.
    pub(crate) since: Option<u64>,
    /// When the change came to be known.
    pub(crate) queued: Option<Instant>,
}

impl Asker {
    /// Takes what is due.
    pub(crate) fn take_due(&self) -> Due {
        std::mem::take(&mut lock(&self.due))
    }

    /// The first snapshot of which something is due that was not taken.
    pub(crate) fn due_since(&self) -> Option<u64> {
        lock(&self.due).since
    }

    /// When the change came to be known that is due.
    pub(crate) fn due_queued(&self) -> Option<Instant> {
        lock(&self.due).queued
    }

    /// Notes that it has slots of which a cohort is noted.
    pub(super) fn join(&self, cohort: &Arc<Cohort>, slots: &[Arc<Slot>]) {
        if cohort.join(self.index) {
            lock(&self.cohorts).push(Arc::downgrade(cohort));
        }
        if self.beside.load(Ordering::Relaxed) {
            slots.iter().for_each(|slot| drop(slot.hold(self.index)));
        }
    }

    /// Notes that it does not have all that its cohorts have.
    pub(super) fn is_beside(&self) {
        self.beside.store(true, Ordering::Relaxed);
    }

    /// Takes it out of all cohorts.
    pub(super) fn leave_cohorts(&self) {
        std::mem::take(&mut *lock(&self.cohorts)).iter().filter_map(Weak::upgrade).for_each(|cohort| cohort.leave(self.index));
    }

    pub(super) fn push_due(&self, version: u64, since: Instant, kind: ResourceKind, names: Arc<[Name]>) {
        let mut due = lock(&self.due);
        due.since.get_or_insert(version);
        due.queued.get_or_insert(since);
        due.names.push((kind, names));
    }

    /// Has it look at resources again of which more is known than the snapshot says.
    pub(crate) fn call(&self, kind: ResourceKind, names: Arc<[Name]>) {
        self.push_due(0, Instant::now(), kind, names);
        self.wake.notify_one();
    }

    /// What it has of a slot, if that is of this turn of the slot.
    pub(super) fn recall(&self, slot: Number, turn: u64) -> Option<Had> {
        let current = |results: &Results| lock(results).get(&slot).filter(|(of, _)| *of == turn).map(|(_, had)| had.clone());
        current(&self.results).or_else(|| current(&self.group.results))
    }

    pub(super) fn remember(&self, slot: Number, turn: u64, had: &Had) {
        match had.built.reads.reach() {
            Reach::All => {}
            Reach::Alike => {
                lock(&self.results).remove(&slot);
                lock(&self.group.results).insert(slot, (turn, had.clone()));
            }
            Reach::Own => drop(lock(&self.results).insert(slot, (turn, had.clone()))),
        }
    }

    /// Forgets what is the proxy's own.
    pub(super) fn forget_own(&self, slot: Number) {
        lock(&self.results).remove(&slot);
    }

    pub(super) fn forget(&self, slot: Number) {
        lock(&self.results).remove(&slot);
        lock(&self.group.results).remove(&slot);
    }
}

/// All that are connected.
#[derive(Debug, Default)]
pub(super) struct Askers {
    /// Places that are free are taken again, so that a set of proxies is small.
    places: Vec<Option<Arc<Asker>>>,
    free: BTreeSet<usize>,
    groups: HashMap<GroupKey, Weak<Group>>,
    numbers: u64,
    profiles: HashMap<(ProxyType, BTreeSet<String>), u32>,
}

/// A proxy's facts without address and name.
#[derive(Debug, PartialEq, Eq, Hash)]
struct GroupKey(Box<str>);

impl Askers {
    pub(super) fn add(&mut self, view: ProxyView) -> Arc<Asker> {
        let facts = view.facts();
        let next = u32::try_from(self.profiles.len()).unwrap_or(u32::MAX);
        let profile = *self.profiles.entry((facts.kind, facts.extensions.clone())).or_insert(next);
        let group = self.group(facts);
        let index = self.free.pop_first().unwrap_or(self.places.len());
        let asker = Arc::new(Asker {
            index,
            profile,
            group,
            view,
            results: Mutex::default(),
            due: Mutex::default(),
            cohorts: Mutex::default(),
            beside: AtomicBool::new(false),
            wake: Notify::new(),
        });
        match self.places.get_mut(index) {
            Some(place) => *place = Some(asker.clone()),
            None => self.places.push(Some(asker.clone())),
        }
        asker
    }

    fn group(&mut self, facts: &ProxyFacts) -> Arc<Group> {
        let bare = ProxyFacts {
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            more_ips: Vec::new(),
            id: "".into(),
            pod: "".into(),
            metadata: Default::default(),
            ..facts.clone()
        };
        let key = GroupKey(format!("{bare:?}").into());
        if let Some(group) = self.groups.get(&key).and_then(Weak::upgrade) {
            return group;
        }
        if self.groups.len() > 2 * self.places.len() + 16 {
            self.groups.retain(|_, group| group.strong_count() > 0);
        }
        self.numbers += 1;
        let group = Arc::new(Group { number: self.numbers, results: Mutex::default() });
        self.groups.insert(key, Arc::downgrade(&group));
        group
    }

    pub(super) fn remove(&mut self, index: usize) {
        if let Some(place) = self.places.get_mut(index) {
            *place = None;
            self.free.insert(index);
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&Arc<Asker>> {
        self.places.get(index)?.as_ref()
    }
}
