//! All that everybody gets of a kind, looked up once for a snapshot: a first sync takes it as it is, and not name by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
};

use mizzen_translate::{Part, ResourceKind};
use mizzen_types::Name;
use mizzen_xds::server::{Sheet, Whole};

use super::{Epoch, asker::Asker, lock, slot::Slot};

/// So many names are worth a page; in tests, few are many.
const MANY: usize = if cfg!(test) { 3 } else { 64 };

/// The pages of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Sheets(Mutex<(u64, ByKind)>);

/// By profile and kind.
type ByKind = HashMap<(u32, ResourceKind), Arc<Page>>;

/// What the mesh leads to for all proxies of a profile.
#[derive(Debug)]
struct Page {
    /// The list of which it is, so that who has another one does not take it.
    names: Arc<[Name]>,
    /// What is the same for all.
    all: Arc<Sheet>,
    /// Where that is held.
    slots: Box<[Arc<Slot>]>,
    /// The names of what is not.
    others: Box<[Name]>,
}

impl Sheets {
    fn find(&self, version: u64, profile: u32, kind: ResourceKind, names: &Arc<[Name]>) -> Option<Arc<Page>> {
        let sheets = lock(&self.0);
        sheets.1.get(&(profile, kind)).filter(|page| sheets.0 == version && Arc::ptr_eq(&page.names, names)).cloned()
    }

    fn put(&self, version: u64, profile: u32, kind: ResourceKind, page: Page) -> Arc<Page> {
        let page = Arc::new(page);
        let mut sheets = lock(&self.0);
        if sheets.0 != version {
            *sheets = (version, HashMap::new());
        }
        sheets.1.insert((profile, kind), page.clone());
        page
    }

    /// Forgets what is of another snapshot.
    pub(super) fn clear(&self) {
        *lock(&self.0) = (0, HashMap::new());
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
        page.slots.iter().for_each(|slot| drop(slot.hold(asker.index)));
        self.memo.shared.fetch_add(page.slots.len() as u64, Ordering::Relaxed);
        let own = rest.into_iter().map(|name| (name.clone(), self.resource(asker, kind, &name))).collect();
        Some(Whole { sheet: page.all.clone(), own })
    }

    /// The page of a kind.
    fn page(&self, asker: &Asker, kind: ResourceKind, names: Arc<[Name]>) -> Arc<Page> {
        if let Some(page) = self.memo.sheets.find(self.version(), asker.profile, kind, &names) {
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
        let page = Page { names, all: Arc::new(Sheet::new(lines)), slots: slots.into(), others: others.into() };
        self.memo.sheets.put(self.version(), asker.profile, kind, page)
    }
}
