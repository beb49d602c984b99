//! What a client has of one type: a list that sessions share, and what differs from it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use mizzen_types::Name;

use crate::Version;

/// What the client has under a name, as far as it was sent or the client said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SentVersion {
    /// Nothing was sent yet.
    #[default]
    Unsent,
    Absent,
    Foreign,
    Version(Version),
}

/// One name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entry {
    /// Whether it is subscribed to by name.
    pub(super) explicit: bool,
    pub(super) sent: SentVersion,
    pub(super) acked: Option<Version>,
    pub(super) rejected: Option<Box<(Version, String)>>,
}

/// A name with which all is well: what was sent was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settled {
    name: Name,
    explicit: bool,
    /// `None`: it was told that there is none.
    version: Option<Version>,
}

impl Settled {
    fn entry(&self) -> Entry {
        let sent = self.version.map_or(SentVersion::Absent, SentVersion::Version);
        Entry { explicit: self.explicit, sent, acked: self.version, rejected: None }
    }

    fn of(name: &Name, entry: &Entry) -> Option<Settled> {
        let version = match entry.sent {
            SentVersion::Version(version) if entry.acked == Some(version) => Some(version),
            SentVersion::Absent if entry.acked.is_none() => None,
            _ => return None,
        };
        entry.rejected.is_none().then(|| Settled { name: name.clone(), explicit: entry.explicit, version })
    }
}

/// What sessions share: proxies that are alike have the same lists, and ask for the same names.
#[derive(Debug, Default)]
pub struct Shared {
    lists: Mutex<HashMap<u64, Vec<Weak<[Settled]>>>>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    all: HashSet<Name>,
    /// When they are next looked over for such as nobody has any more.
    full: usize,
}

impl Shared {
    /// A name as others have it.
    pub fn name(&self, name: &str) -> Name {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.all.get(name) {
            return known.clone();
        }
        if names.all.len() >= names.full {
            names.all.retain(|name| Arc::strong_count(name) > 1);
            names.full = 2 * names.all.len() + 1024;
        }
        let name = Name::from(name);
        names.all.insert(name.clone());
        name
    }

    fn share(&self, list: Vec<Settled>) -> Arc<[Settled]> {
        let mut hasher = DefaultHasher::new();
        // Equal lists mostly have the very same names.
        list.iter().for_each(|settled| (settled.name.as_ptr(), settled.explicit, settled.version).hash(&mut hasher));
        let mut all = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = hasher.finish();
        // The hash finds the bucket; what is in it is compared.
        if let Some(same) = all.get(&hash).into_iter().flatten().filter_map(Weak::upgrade).find(|other| **other == *list) {
            return same;
        }
        all.retain(|_, lists| {
            lists.retain(|list| list.strong_count() > 0);
            !lists.is_empty()
        });
        let list: Arc<[Settled]> = list.into();
        all.entry(hash).or_default().push(Arc::downgrade(&list));
        list
    }

    /// How many different lists there are.
    pub fn len(&self) -> usize {
        let all = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().filter(|list| list.strong_count() > 0).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// So many names are worth a pass over all.
const MANY: usize = 64;

/// Equality that is quick where both are one text.
pub(super) fn is_same(one: &Name, other: &Name) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// Everything that a client has of one type, or asks for.
#[derive(Debug, Default)]
pub(super) struct Held {
    base: Option<Arc<[Settled]>>,
    /// Whether the base was sent as a whole and is not answered yet.
    is_open: bool,
    /// What differs from the base; `None`: it is gone.
    over: BTreeMap<Name, Option<Entry>>,
    explicit: usize,
}

impl Held {
    fn based(&self, name: &str) -> Option<&Settled> {
        let base = self.base.as_deref()?;
        base.binary_search_by(|settled| (*settled.name).cmp(name)).ok().and_then(|at| base.get(at))
    }

    pub(super) fn get(&self, name: &str) -> Option<Entry> {
        match self.over.get(name) {
            Some(entry) => entry.clone(),
            None => self.based(name).map(|settled| self.entry(settled)),
        }
    }

    fn entry(&self, settled: &Settled) -> Entry {
        let entry = settled.entry();
        if self.is_open { Entry { acked: None, ..entry } } else { entry }
    }

    /// Notes what is sent, in order. The first of many is kept as a list that others share, before it is answered.
    pub(super) fn send(&mut self, entries: Vec<(Name, Entry)>, shared: &Shared) {
        let is_new =
            |(_, entry): &(Name, Entry)| entry.acked.is_none() && entry.rejected.is_none() && matches!(entry.sent, SentVersion::Version(_));
        let mut names = entries.iter().map(|(name, _)| name);
        let covers = |name: &Name| names.any(|there| is_same(there, name));
        if self.base.is_some() || entries.len() < MANY || !entries.iter().all(is_new) || !self.over.keys().all(covers) {
            return self.set_many(entries);
        }
        self.explicit = entries.iter().filter(|(_, entry)| entry.explicit).count();
        let settled = |(name, entry): (Name, Entry)| match entry.sent {
            SentVersion::Version(version) => Settled { name, explicit: entry.explicit, version: Some(version) },
            SentVersion::Unsent | SentVersion::Absent | SentVersion::Foreign => Settled { name, explicit: entry.explicit, version: None },
        };
        self.base = Some(shared.share(entries.into_iter().map(settled).collect()));
        self.is_open = true;
        self.over.clear();
    }

    /// The client has taken these versions, in the order of their names.
    pub(super) fn accept(&mut self, sent: &[(Name, Version)]) {
        let base = self.base.as_deref().unwrap_or_default();
        let is_whole = self.is_open && sent.len() == base.len() && {
            sent.iter().zip(base).all(|((name, version), settled)| settled.version == Some(*version) && is_same(name, &settled.name))
        };
        if is_whole {
            self.is_open = false;
            for (name, entry) in &mut self.over {
                let version = sent.binary_search_by(|(there, _)| there.cmp(name)).ok().and_then(|at| sent.get(at));
                entry.iter_mut().zip(version).for_each(|(entry, (_, version))| accept(entry, *version));
            }
            return;
        }
        self.change_many(sent.iter().map(|(name, version)| (name, *version)), accept);
    }

    pub(super) fn set(&mut self, name: &Name, entry: Entry) {
        let explicit = usize::from(entry.explicit);
        let before = match self.over.insert(name.clone(), Some(entry)) {
            Some(before) => before.is_some_and(|before| before.explicit),
            None => self.based(name).is_some_and(|settled| settled.explicit),
        };
        self.explicit = self.explicit + explicit - usize::from(before);
    }

    /// Sets many; the names are in order.
    pub(super) fn set_many(&mut self, entries: Vec<(Name, Entry)>) {
        if entries.len() < MANY || entries.len() < self.over.len() / 4 {
            entries.into_iter().for_each(|(name, entry)| self.set(&name, entry));
            return;
        }
        // In one pass, since each look-up compares long names that are much alike.
        let mut news: BTreeMap<Name, Option<Entry>> = entries.into_iter().map(|(name, entry)| (name, Some(entry))).collect();
        self.over.append(&mut news);
        self.explicit = self.iter().filter(|(_, entry)| entry.explicit).count();
    }

    /// [`Held::change`] of many names, in order.
    fn change_many<'n>(&mut self, names: impl ExactSizeIterator<Item = (&'n Name, Version)>, by: impl Fn(&mut Entry, Version)) {
        if self.base.is_some() || names.len() < MANY || names.len() < self.over.len() / 4 {
            names.for_each(|(name, version)| self.change(name, |entry| by(entry, version)));
            return;
        }
        let mut over = self.over.iter_mut().peekable();
        for (name, version) in names {
            while over.next_if(|(there, _)| !is_same(there, name) && *there < name).is_some() {}
            if let Some((_, Some(entry))) = over.next_if(|(there, _)| is_same(there, name)) {
                self.explicit -= usize::from(entry.explicit);
                by(entry, version);
                self.explicit += usize::from(entry.explicit);
            }
        }
    }

    /// Changes what is there under a name, if there is something.
    pub(super) fn change(&mut self, name: &Name, by: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.over.get_mut(name) {
            let Some(entry) = entry else { return };
            let before = usize::from(entry.explicit);
            by(entry);
            self.explicit = self.explicit + usize::from(entry.explicit) - before;
        } else if let Some(mut entry) = self.based(name).map(|settled| self.entry(settled)) {
            by(&mut entry);
            self.set(name, entry);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.explicit -= usize::from(self.is_explicit(name));
        if let Some(based) = self.based(name) {
            let name = based.name.clone();
            self.over.insert(name, None);
        } else {
            self.over.remove(name);
        }
    }

    pub(super) fn is_explicit(&self, name: &str) -> bool {
        match self.over.get(name) {
            Some(entry) => entry.as_ref().is_some_and(|entry| entry.explicit),
            None => self.based(name).is_some_and(|settled| settled.explicit),
        }
    }

    /// How many names are subscribed to one by one.
    pub(super) fn explicit(&self) -> usize {
        self.explicit
    }

    /// All names, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, Entry)> {
        let mut base = self.base.as_deref().unwrap_or_default().iter().peekable();
        let mut over = self.over.iter().peekable();
        let next = move || loop {
            let based = match (base.peek(), over.peek()) {
                (Some(settled), Some((name, _))) if is_same(&settled.name, name) => {
                    base.next();
                    continue;
                }
                (Some(settled), Some((name, _))) => settled.name < **name,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return None,
            };
            if based {
                return base.next().map(|settled| (&settled.name, self.entry(settled)));
            }
            if let Some((name, Some(entry))) = over.next() {
                return Some((name, entry.clone()));
            }
        };
        std::iter::from_fn(next)
    }

    /// Whether something was rejected.
    pub(super) fn has_rejections(&self) -> bool {
        self.over.values().flatten().any(|entry| entry.rejected.is_some())
    }

    /// Makes what has settled a list that can be shared, once it is worth it.
    pub(super) fn settle(&mut self, shared: &Shared) {
        let settled = self.base.as_deref().map_or(0, <[Settled]>::len);
        if self.is_open || self.over.len() < 16 + settled / 8 {
            return;
        }
        let mut list = Vec::with_capacity(settled);
        let mut rest = BTreeMap::new();
        for (name, entry) in self.iter() {
            match Settled::of(name, &entry) {
                Some(settled) => list.push(settled),
                None => drop(rest.insert(name.clone(), Some(entry))),
            }
        }
        // What is not settled yet would make this the same work again and again.
        if rest.len() * 2 < self.over.len() {
            self.base = Some(shared.share(list));
            self.over = rest;
        }
    }
}

/// The client has taken a version.
pub(super) fn accept(entry: &mut Entry, version: Version) {
    if !matches!(entry.sent, SentVersion::Absent | SentVersion::Unsent) {
        entry.acked = Some(version);
        if entry.sent == SentVersion::Version(version) {
            entry.rejected = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(content: u8) -> Entry {
        let version = Version(content.into());
        let sent = if content == 0 { SentVersion::Absent } else { SentVersion::Version(version) };
        let acked = (content != 0).then_some(version);
        Entry {
            explicit: content.is_multiple_of(2),
            sent,
            acked,
            rejected: (content == 7).then(|| Box::new((version, "seven".to_owned()))),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn as_a_plain_map(steps in prop::collection::vec((0..60u8, prop::option::of(0..9u8)), 0..400)) {
            let (mut held, mut plain, shared) = (Held::default(), BTreeMap::new(), Shared::default());
            for (name, content) in steps {
                let name: Name = format!("n{name}").into();
                match content {
                    Some(content) => {
                        held.set(&name, entry(content));
                        plain.insert(name.clone(), entry(content));
                    }
                    None => {
                        held.remove(&name);
                        plain.remove(&name);
                    }
                }
                held.settle(&shared);
                prop_assert_eq!(held.get(&name), plain.get(&name).cloned());
            }
            prop_assert!(held.iter().map(|(name, entry)| (name.clone(), entry)).eq(plain.clone()));
            prop_assert_eq!(held.explicit(), plain.values().filter(|entry| entry.explicit).count());
            prop_assert_eq!(held.has_rejections(), plain.values().any(|entry| entry.rejected.is_some()));
        }
    }

    /// What was sent at once is a list that others share, and is known not to be answered until it is.
    #[test]
    fn sent_and_answered() {
        let shared = Shared::default();
        let version = Version(7);
        let new = |i: usize| {
            (
                shared.name(&format!("n{i:03}")),
                Entry { explicit: i.is_multiple_of(2), sent: SentVersion::Version(version), ..Entry::default() },
            )
        };
        let sent: Vec<(Name, Version)> = (0..100).map(|i| (new(i).0, version)).collect();
        let mut plain = Held::default();
        let (mut one, mut two) = (Held::default(), Held::default());
        (0..100).map(new).for_each(|(name, entry)| plain.set(&name, entry));
        for held in [&mut one, &mut two] {
            // Some are subscribed to already.
            (0..100).step_by(2).map(new).for_each(|(name, entry)| held.set(&name, Entry { sent: SentVersion::Unsent, ..entry }));
            held.send((0..100).map(new).collect(), &shared);
            assert!(held.iter().eq(plain.iter()) && held.explicit() == 50 && held.over.is_empty());
        }
        assert!(Arc::ptr_eq(one.base.as_ref().unwrap(), two.base.as_ref().unwrap()));
        // One that was sent again meanwhile is answered with the rest, as far as it was sent then; one that is gone stays so.
        for held in [&mut one, &mut plain] {
            held.set(&new(3).0, Entry { sent: SentVersion::Version(Version(8)), ..Entry::default() });
            held.remove("n005");
            held.accept(&sent);
        }
        assert!(one.iter().eq(plain.iter()) && one.get("n003").unwrap().acked == Some(version) && one.get("n005").is_none());
        // A part of it is answered as a part.
        two.accept(&sent[..50]);
        assert_eq!((two.get("n010").unwrap().acked, two.get("n060").unwrap().acked), (Some(version), None));
    }

    #[test]
    fn equal_lists_are_one() {
        let shared = Shared::default();
        let make = |content: u8| {
            let mut held = Held::default();
            (0..100).for_each(|i| held.set(&shared.name(&format!("n{i:03}")), entry(content)));
            held.settle(&shared);
            held
        };
        let (one, two, other) = (make(2), make(2), make(4));
        assert!(Arc::ptr_eq(one.base.as_ref().unwrap(), two.base.as_ref().unwrap()) && one.over.is_empty());
        assert_eq!(shared.len(), 2);
        drop(other);
        assert_eq!(shared.len(), 1);
    }
}
