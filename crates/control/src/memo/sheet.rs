//! All that everybody gets of a kind, looked up once for a snapshot: a first sync takes it as it is, and not name by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
};

use mizzen_translate::{Part, ResourceKind};
use mizzen_types::Name;
use mizzen_xds::server::{Resource, Sheet, Whole};

use super::{
    Epoch,
    asker::Asker,
    lock,
    slot::{Cohort, Slot},
};

/// So many names are worth a page; in tests, few are many.
const MANY: usize = if cfg!(test) { 3 } else { 64 };

/// Proxies of one profile may be led to different things, as by rules of Sidecars: so many pages of a kind are kept for one profile.
const PAGES: usize = 8;

/// The pages of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Sheets {
    all: Mutex<OfSnapshot>,
    /// Held by who makes a page: what many ask for at once is gone through once, and not name by name by all of them side by side.
    paging: Mutex<()>,
    /// The same of who joins a resource, as one who makes a page may have to.
    pub(super) joining: Mutex<()>,
}

#[derive(Debug, Default)]
struct OfSnapshot {
    version: u64,
    /// By profile and kind.
    pages: HashMap<(u32, ResourceKind), Vec<Arc<Page>>>,
    /// By profile and kind, then by name.
    whole: HashMap<(u32, ResourceKind), HashMap<Name, Arc<Joint>>>,
}

/// A resource that is joined from parts and is the same for all.
#[derive(Debug)]
pub(super) struct Joint {
    resource: Resource,
    /// Its head, the list of its parts, and these.
    held: Held,
}

impl Joint {
    pub(super) fn new(resource: Resource, slots: Vec<Arc<Slot>>) -> Joint {
        Joint { resource, held: Held::new(slots) }
    }

    /// The resource, for a proxy that has it from now on.
    pub(super) fn take(&self, asker: &Asker) -> Resource {
        self.held.take(asker);
        self.resource.clone()
    }
}

/// Slots that proxies have all at once.
#[derive(Debug)]
struct Held {
    slots: Box<[Arc<Slot>]>,
    by: Arc<Cohort>,
}

impl Held {
    fn new(slots: Vec<Arc<Slot>>) -> Held {
        let by = Arc::default();
        slots.iter().for_each(|slot| slot.state().held_by(&by));
        Held { slots: slots.into(), by }
    }

    fn take(&self, asker: &Asker) {
        asker.join(&self.by, &self.slots);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.by.close();
    }
}

/// What the mesh leads to for all proxies of a profile.
#[derive(Debug)]
struct Page {
    /// The list of which it is, so that who has another one does not take it.
    names: Arc<[Name]>,
    /// What is the same for all.
    all: Arc<Sheet>,
    /// Where that is.
    held: Held,
    /// The names of what is not.
    others: Box<[Name]>,
}

impl Sheets {
    /// What is held of this snapshot.
    fn of(&self, version: u64) -> MutexGuard<'_, OfSnapshot> {
        let mut held = lock(&self.all);
        if held.version != version {
            *held = OfSnapshot { version, ..OfSnapshot::default() };
        }
        held
    }

    fn find(&self, version: u64, profile: u32, kind: ResourceKind, names: &Arc<[Name]>) -> Option<Arc<Page>> {
        self.of(version).pages.get(&(profile, kind))?.iter().find(|page| Arc::ptr_eq(&page.names, names)).cloned()
    }

    fn put(&self, version: u64, profile: u32, kind: ResourceKind, page: Page) -> Arc<Page> {
        let page = Arc::new(page);
        let mut held = self.of(version);
        let pages = held.pages.entry((profile, kind)).or_default();
        // The oldest goes.
        let _gone = (pages.len() == PAGES).then(|| pages.remove(0));
        pages.push(page.clone());
        drop(held);
        page
    }

    /// A joined resource that is the same for all.
    pub(super) fn joint(&self, version: u64, profile: u32, kind: ResourceKind, name: &str) -> Option<Arc<Joint>> {
        self.of(version).whole.get(&(profile, kind))?.get(name).cloned()
    }

    pub(super) fn put_joint(&self, version: u64, profile: u32, kind: ResourceKind, name: &str, joint: Joint) {
        self.of(version).whole.entry((profile, kind)).or_default().insert(name.into(), Arc::new(joint));
    }

    /// Notes that a proxy does not have a joined resource any more.
    pub(super) fn release(&self, asker: &Asker, kind: ResourceKind, name: &str) {
        if let Some(joint) = lock(&self.all).whole.get(&(asker.profile, kind)).and_then(|of_kind| of_kind.get(name)) {
            joint.held.by.leave(asker.index);
        }
    }

    /// Forgets what is of another snapshot.
    pub(super) fn clear(&self) {
        *lock(&self.all) = OfSnapshot::default();
    }
}

impl Epoch<'_> {
    /// All of a kind that a proxy gets to which nothing of it was sent: everything that is listed, or what it has asked for by name, in order. `None` if
    /// little of that is the same for all.
    pub(crate) fn whole(&self, asker: &Asker, kind: ResourceKind, asked: Option<&Arc<[Name]>>) -> Option<Whole> {
        let names = self.names(asker, kind, Part::Mesh);
        if names.len() < MANY || asked.is_some_and(|asked| asked.len() < names.len() / 2) {
            return None;
        }
        let page = self.page(asker, kind, names);
        let rest: Vec<Name> = match asked {
            Some(asked) => page.all.rest_of(asked)?.to_vec(),
            None => {
                let own = self.names(asker, kind, Part::Own);
                let mut rest: Vec<Name> = page.others.iter().chain(own.iter().filter(|name| !page.all.has(name))).cloned().collect();
                rest.sort_unstable();
                rest.dedup();
                rest
            }
        };
        page.held.take(asker);
        self.memo.shared.fetch_add(page.held.slots.len() as u64, Ordering::Relaxed);
        let own = rest.into_iter().map(|name| (name.clone(), self.resource(asker, kind, &name))).collect();
        Some(Whole { sheet: page.all.clone(), own })
    }

    /// The page of a kind.
    fn page(&self, asker: &Asker, kind: ResourceKind, names: Arc<[Name]>) -> Arc<Page> {
        let find = || self.memo.sheets.find(self.version(), asker.profile, kind, &names);
        if let Some(page) = find() {
            return page;
        }
        let _paging = lock(&self.memo.sheets.paging);
        if let Some(page) = find() {
            return page;
        }
        let (mut lines, mut slots, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for name in &*names {
            let slot = self.memo.resource_slot(asker.profile, kind, name);
            let own = self.resource(asker, kind, name);
            match own.filter(|_| mizzen_translate::joined(&asker.view, kind, name).is_none() && slot.state().all.is_some()) {
                Some(resource) => {
                    lines.push((name.clone(), resource));
                    slots.push(slot);
                }
                None => others.push(name.clone()),
            }
        }
        let page = Page { names, all: Arc::new(Sheet::new(lines)), held: Held::new(slots), others: others.into() };
        self.memo.sheets.put(self.version(), asker.profile, kind, page)
    }
}
