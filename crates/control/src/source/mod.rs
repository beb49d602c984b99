//! Where configuration comes from: folders of YAML files.
//!
//! [`files`] follows folders and yields one stream of [`Event`]s; the decisions (what a save means, what stays, when something is gone) are a
//! pure fold in `fold`, which knows no disk and no clock, and [`load_once`] is that fold over one reading. [`Merge`] makes one of several sources.

pub mod files;
mod fold;
pub(crate) mod jwks;
pub(crate) mod key_fetch;
mod last_good;
pub mod merge;
mod scan;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use mizzen_api::{Key, Object, Problem, Selector};
use mizzen_model::Change;

pub use files::{Files, Options};
pub use merge::{Changed, Held, Merge, SourceId};

/// A change of the configuration. A source yields `Init`, the first state, `InitDone`, and then what changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What follows until [`Event::InitDone`] is the whole state.
    Init,
    /// This object is new or changed (or only moved within its files: `==` on objects leaves positions out). It ends a [`Closed`] of its key.
    Apply(Arc<Object>),
    /// This object is gone. It ends a [`Closed`] of its key.
    Delete(Key),
    /// The first state is complete.
    InitDone,
    /// A refused AuthorizationPolicy or PeerAuthentication that has no last good version: the workloads that it would select must be closed, to
    /// all or to plaintext, until an `Apply` or a `Delete` of this key.
    Closed(Closed),
    /// A document is refused; the object's last good version stays, if there is one.
    Refused(Refused),
    /// What was refused under this name is in order again, or gone.
    Mended(Fault),
    /// All that is known and not acted on in this file now; replaces what was said of it before. Empty: nothing more.
    Warnings(Arc<str>, Vec<Problem>),
}

/// Workloads that must be closed.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    /// The policy. Where its name could not be read, `FILE#N` stands for it.
    pub key: Key,
    /// Its workloads; `None`: all of its namespace.
    pub selector: Option<Selector>,
    /// Why it is refused.
    pub problem: Problem,
}

/// A refused document.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Under which name it can be mended.
    pub fault: Fault,
    /// Why; never empty.
    pub problems: Vec<Problem>,
    /// Whether the last good version of the object is in force.
    pub kept: bool,
}

/// What identifies a refused document over time: the file, and the object or else the document's number in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    /// The file.
    pub file: Arc<str>,
    /// The object, if it could be read which one it is.
    pub key: Option<Key>,
    /// The number of the document in its file, from 0; always 0 if `key` is known, unless it is a duplicate.
    pub document: usize,
}

/// One reading of folders.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The good objects, in the order of files and documents.
    pub objects: Vec<Arc<Object>>,
    /// All that is refused.
    pub problems: Vec<Problem>,
    /// What is known and not acted on.
    pub warnings: Vec<Problem>,
}

/// Reads folders (or single files) once.
pub fn load_once(paths: &[PathBuf]) -> Loaded {
    let mut fold = fold::Fold::new(Duration::ZERO, Vec::new());
    let events = fold.update(Instant::now(), scan::Scan::default().changes(paths));
    let mut loaded = Loaded { objects: fold.objects().cloned().collect(), ..Loaded::default() };
    loaded.objects.sort_by(|a, b| a.meta().origin.cmp(&b.meta().origin));
    for event in events {
        match event {
            Event::Refused(refused) => loaded.problems.extend(refused.problems),
            Event::Warnings(_, warnings) => loaded.warnings.extend(warnings),
            _ => {}
        }
    }
    let snapshot = mizzen_model::Snapshot::empty().apply(loaded.objects.iter().cloned().map(mizzen_model::Change::Apply));
    loaded.warnings.extend(mizzen_model::check(&snapshot));
    loaded.problems.sort();
    loaded
}

/// What a control plane that follows these folders has in force, by one reading of them: of objects with one name that of the earliest folder, and where a
/// document is refused its last good version of `last_good`, the folder that [`crate::Options::last_good`] names. All that is refused comes with it.
pub fn load_state(dirs: &[PathBuf], last_good: Option<&Path>) -> (Vec<Change>, Vec<Problem>) {
    let (mut merge, ids) = Merge::new(dirs.len());
    let mut problems = Vec::new();
    for (id, dir) in ids.into_iter().zip(dirs) {
        let remembered = last_good.map(|folder| files::last_good_of(folder, dir)).filter(|folder| folder.is_dir());
        let remembered = remembered.and_then(|folder| last_good::LastGood::open(&folder).ok()).map(|mut log| log.load());
        let mut fold = fold::Fold::new(Duration::ZERO, remembered.unwrap_or_default());
        for event in fold.update(Instant::now(), scan::Scan::default().changes(std::slice::from_ref(dir))) {
            if let Event::Refused(refused) = &event {
                problems.extend(refused.problems.iter().cloned());
            }
            merge.take(id, event);
        }
    }
    problems.sort();
    (in_force(&mut merge), problems)
}

/// What several sources say, as changes of an empty snapshot.
pub(crate) fn in_force(merge: &mut Merge) -> Vec<Change> {
    let change = |changed: Changed| match changed.now {
        Some(Held::Object(object)) => Some(Change::Apply(object)),
        Some(Held::Closed(closed)) => Some(Change::Close(mizzen_model::Closed { key: closed.key, selector: closed.selector })),
        None => None,
    };
    merge.changes().into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod tests;
