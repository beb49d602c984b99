//! All that everybody gets of a kind, looked up once for a snapshot: a first sync takes it as it is, and not name by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use mizzen_translate::{Part, ResourceKind};
use mizzen_types::Name;
use mizzen_xds::server::Resource;

use super::{Epoch, asker::Asker, lock, slot::Slot};

/// So many names are worth a sheet.
const MANY: usize = 64;

/// The sheets of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Sheets(Mutex<(u64, ByKind)>);

/// By profile and kind.
type ByKind = HashMap<(u32, ResourceKind), Arc<Sheet>>;

/// What the mesh leads to for all proxies of a profile.
#[derive(Debug)]
struct Sheet {
    /// The list of which it is, so that who has another one does not take it.
    names: Arc<[Name]>,
    lines: Box<[Line]>,
}

#[derive(Debug)]
struct Line {
    slot: Arc<Slot>,
    /// None: it is not the same for all.
    all: Option<Resource>,
}

impl Sheets {
    fn find(&self, version: u64, profile: u32, kind: ResourceKind, names: &Arc<[Name]>) -> Option<Arc<Sheet>> {
        let sheets = lock(&self.0);
        sheets.1.get(&(profile, kind)).filter(|sheet| sheets.0 == version && Arc::ptr_eq(&sheet.names, names)).cloned()
    }

    fn put(&self, version: u64, profile: u32, kind: ResourceKind, sheet: Sheet) -> Arc<Sheet> {
        let sheet = Arc::new(sheet);
        let mut sheets = lock(&self.0);
        if sheets.0 != version {
            *sheets = (version, HashMap::new());
        }
        sheets.1.insert((profile, kind), sheet.clone());
        sheet
    }

    /// Forgets what is of another snapshot.
    pub(super) fn clear(&self) {
        *lock(&self.0) = (0, HashMap::new());
    }
}

impl Epoch<'_> {
    /// These resources of a proxy; the names are in order.
    pub(crate) fn many(&self, asker: &Asker, kind: ResourceKind, names: &[Name]) -> Vec<Option<Resource>> {
        let sheet = if names.len() < MANY { None } else { self.sheet(asker, kind, names.len()) };
        let Some(sheet) = sheet else { return names.iter().map(|name| self.resource(asker, kind, name)).collect() };
        let mut lines = sheet.names.iter().zip(&*sheet.lines).peekable();
        let mut find = |name: &Name| {
            // Names are the same texts mostly, not only equal ones.
            let is_same = |listed: &Name| Arc::ptr_eq(listed, name) || listed == name;
            while lines.next_if(|(listed, _)| !is_same(listed) && *listed < name).is_some() {}
            let line = lines.next_if(|(listed, _)| is_same(listed)).map(|(_, line)| line);
            match line.and_then(|line| Some((line, line.all.as_ref()?))) {
                Some((line, resource)) => {
                    drop(line.slot.hold(asker.index));
                    Some(resource.clone())
                }
                None => self.resource(asker, kind, name),
            }
        };
        names.iter().map(&mut find).collect()
    }

    /// The sheet of a kind; made for who asks for most of it.
    fn sheet(&self, asker: &Asker, kind: ResourceKind, asked: usize) -> Option<Arc<Sheet>> {
        let names = self.names(asker, kind, Part::Mesh);
        if let Some(sheet) = self.memo.sheets.find(self.version(), asker.profile, kind, &names) {
            return Some(sheet);
        }
        (asked * 2 >= names.len()).then(|| {
            let lines = names.iter().map(|name| self.line(asker, kind, name)).collect();
            self.memo.sheets.put(self.version(), asker.profile, kind, Sheet { names, lines })
        })
    }

    fn line(&self, asker: &Asker, kind: ResourceKind, name: &Name) -> Line {
        let slot = self.memo.resource_slot(asker.profile, kind, name);
        let own = self.resource(asker, kind, name);
        let all = own.filter(|_| mizzen_translate::joined(&asker.view, kind, name).is_none() && slot.state().all.is_some());
        Line { slot, all }
    }
}
