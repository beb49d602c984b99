//! What many clients get alike, as one list: a first answer takes it as it is, and not name by name.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use mizzen_types::Name;
use prost::bytes::Bytes;

use super::{Resource, held::Sent};

/// Resources that many clients get alike, in the order of their names.
#[derive(Debug)]
pub struct Sheet {
    lines: Box<[(Name, Resource)]>,
    /// Of their contents.
    length: usize,
    /// What a client has that was sent all of it: one that takes all there is, and one that has asked by name.
    sent: [OnceLock<Sent>; 2],
    /// What was last asked for.
    rest: Mutex<Option<Asked>>,
    /// As it is written, as long as somebody writes it.
    written: Mutex<Weak<Vec<Bytes>>>,
    /// The same, if that is little.
    kept: OnceLock<Arc<Vec<Bytes>>>,
}

/// So many bytes are little beside what a stream takes.
const LITTLE: usize = 256 << 10;

/// Names that were asked for, and those of them that are not in a sheet.
#[derive(Clone, Debug)]
struct Asked {
    names: Arc<[Name]>,
    rest: Arc<[Name]>,
}

/// All that a client gets of a type for the first time.
#[derive(Clone, Debug)]
pub struct Whole {
    /// What others get alike.
    pub sheet: Arc<Sheet>,
    /// The rest, in order; none of it is in the sheet.
    pub own: Vec<(Name, Option<Resource>)>,
}

impl Sheet {
    /// Of these, which are in the order of their names.
    pub fn new(lines: Vec<(Name, Resource)>) -> Sheet {
        let length = lines.iter().map(|(_, resource)| resource.len()).sum();
        Sheet {
            lines: lines.into(),
            length,
            sent: Default::default(),
            rest: Mutex::default(),
            written: Mutex::default(),
            kept: OnceLock::new(),
        }
    }

    /// All of it.
    pub fn lines(&self) -> &[(Name, Resource)] {
        &self.lines
    }

    /// The length of all contents, as [`Resource::len`] has it.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is a line for a name.
    pub fn has(&self, name: &Name) -> bool {
        self.lines.binary_search_by(|(there, _)| there.cmp(name)).is_ok()
    }

    /// Those of `asked`, which are in order, that are not in it; `None` if it has others that are not asked for.
    pub fn rest_of(&self, asked: &Arc<[Name]>) -> Option<Arc<[Name]>> {
        // Clients that are alike ask for the very same list.
        let known = self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.names, asked)) {
            return Some(known.rest);
        }
        let mut lines = self.lines.iter().map(|(name, _)| name).peekable();
        let rest: Arc<[Name]> = asked.iter().filter(|name| lines.next_if(|there| there == name).is_none()).cloned().collect();
        if lines.next().is_some() {
            return None;
        }
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Asked { names: asked.clone(), rest: rest.clone() });
        Some(rest)
    }

    /// As it is written. Who writes at the same time shares the bytes; they are not kept longer, unless they are few.
    pub fn written(&self, write: impl FnOnce(&[(Name, Resource)]) -> Vec<Bytes>) -> Arc<Vec<Bytes>> {
        if self.length <= LITTLE {
            return self.kept.get_or_init(|| Arc::new(write(&self.lines))).clone();
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.upgrade().unwrap_or_else(|| {
            let pieces = Arc::new(write(&self.lines));
            *written = Arc::downgrade(&pieces);
            pieces
        })
    }

    pub(super) fn sent(&self, explicit: bool) -> &Sent {
        let lines = || self.lines.iter().map(|(name, resource)| (name.clone(), resource.version));
        self.sent[usize::from(explicit)].get_or_init(|| Sent::new(lines(), explicit))
    }

    /// What clients may have been sent of it.
    pub(super) fn was_sent(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter_map(OnceLock::get)
    }
}

impl PartialEq for Sheet {
    fn eq(&self, other: &Sheet) -> bool {
        self.lines == other.lines
    }
}

#[cfg(test)]
mod tests {
    use mizzen_protos::Any;

    use super::*;

    #[test]
    fn what_is_asked_for_beside_it() {
        let name = |name: &&str| Name::from(*name);
        let sheet = Sheet::new(["b", "d"].iter().map(|n| (name(n), Resource::new(Any::default()))).collect());
        assert!(sheet.has(&"b".into()) && !sheet.has(&"c".into()));
        for (asked, expected) in [
            (&["a", "b", "c", "d", "e"][..], Some(&["a", "c", "e"][..])),
            (&["b", "d"], Some(&[])),
            (&["a", "b"], None),
            (&["d"], None),
            (&[], None),
        ] {
            let asked: Arc<[Name]> = asked.iter().map(name).collect();
            let expected: Option<Arc<[Name]>> = expected.map(|names| names.iter().map(name).collect());
            assert_eq!(sheet.rest_of(&asked), expected, "{asked:?}");
            assert_eq!(sheet.rest_of(&asked), expected, "{asked:?}, asked again");
        }
    }

    #[test]
    fn bytes_live_as_long_as_somebody_writes() {
        for (length, twice) in [(LITTLE + 1, 2), (LITTLE, 1)] {
            let sheet = Sheet::new(vec![("a".into(), Resource::new(Any { type_url: String::new(), value: vec![0; length] }))]);
            let count = std::cell::Cell::new(0);
            let write = |_: &[(Name, Resource)]| {
                count.set(count.get() + 1);
                vec![Bytes::from_static(b"x")]
            };
            let (one, two) = (sheet.written(write), sheet.written(write));
            assert!(Arc::ptr_eq(&one, &two) && count.get() == 1);
            drop((one, two));
            sheet.written(write);
            assert_eq!(count.get(), twice, "{length}");
        }
    }
}
