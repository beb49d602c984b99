//! What a client has of one type: a list that sessions share, and what differs from it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use foldhash::fast::RandomState;
use mizzen_types::Name;

use super::{MANY, Resource, Sheet};
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

/// A list that is the same for many.
#[derive(Debug)]
enum Base {
    /// It was sent; `is_open`: as a whole, and is not answered yet.
    Sent { list: Arc<[Settled]>, is_open: bool },
    /// It was asked for by name, and nothing of it was sent.
    Asked(Arc<[Name]>),
}

impl Base {
    fn len(&self) -> usize {
        match self {
            Base::Sent { list, .. } => list.len(),
            Base::Asked(names) => names.len(),
        }
    }

    fn get(&self, at: usize) -> Option<(&Name, Entry)> {
        match self {
            Base::Sent { list, is_open } => list.get(at).map(|settled| {
                let entry = settled.entry();
                (&settled.name, if *is_open { Entry { acked: None, ..entry } } else { entry })
            }),
            Base::Asked(names) => names.get(at).map(|name| (name, Entry { explicit: true, ..Entry::default() })),
        }
    }

    fn find(&self, name: &str) -> Option<(&Name, Entry)> {
        let at = match self {
            Base::Sent { list, .. } => list.binary_search_by(|settled| (*settled.name).cmp(name)),
            Base::Asked(names) => names.binary_search_by(|there| (**there).cmp(name)),
        };
        at.ok().and_then(|at| self.get(at))
    }
}

/// What sessions share: proxies that are alike have the same lists, and ask for the same names.
#[derive(Debug, Default)]
pub struct Shared {
    lists: Mutex<HashMap<u64, Vec<Weak<[Settled]>>>>,
    asked: Mutex<HashMap<u64, Vec<Weak<[Name]>>>>,
    /// Lists with which clients came, by a hash in which order plays no part.
    returned: Mutex<HashMap<u64, Weak<[Settled]>>>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    all: HashSet<Name, RandomState>,
    /// When they are next looked over for such as nobody has any more.
    full: usize,
}

impl Names {
    fn get(&mut self, name: &str) -> Name {
        if let Some(known) = self.all.get(name) {
            return known.clone();
        }
        if self.all.len() >= self.full {
            self.all.retain(|name| Arc::strong_count(name) > 1);
            self.full = 2 * self.all.len() + 1024;
        }
        let name = Name::from(name);
        self.all.insert(name.clone());
        name
    }
}

/// The list that is equal to this one, if somebody has it; the hash finds the bucket, and what is in it is compared.
fn share<T: PartialEq>(all: &Mutex<HashMap<u64, Vec<Weak<[T]>>>>, hash: u64, list: Vec<T>) -> Arc<[T]> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = all.get(&hash).into_iter().flatten().filter_map(Weak::upgrade).find(|other| **other == *list) {
        return same;
    }
    all.retain(|_, lists| {
        lists.retain(|list| list.strong_count() > 0);
        !lists.is_empty()
    });
    let list: Arc<[T]> = list.into();
    all.entry(hash).or_default().push(Arc::downgrade(&list));
    list
}

impl Shared {
    /// A name as others have it.
    pub fn name(&self, name: &str) -> Name {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(name)
    }

    /// Names as others have them.
    pub(super) fn names<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<Name> {
        let mut known = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.map(|name| known.get(name)).collect()
    }

    fn share(&self, list: Vec<Settled>) -> Arc<[Settled]> {
        let mut hasher = DefaultHasher::new();
        // Equal lists mostly have the very same names.
        list.iter().for_each(|settled| (settled.name.as_ptr(), settled.explicit, settled.version).hash(&mut hasher));
        share(&self.lists, hasher.finish(), list)
    }

    /// A list of names, in order and each once, as others ask for it.
    fn ask(&self, names: Vec<Name>) -> Arc<[Name]> {
        let mut hasher = DefaultHasher::new();
        names.iter().for_each(|name| name.as_ptr().hash(&mut hasher));
        share(&self.asked, hasher.finish(), names)
    }

    /// The list with which a client comes back, as others came with it: what each of them says is compared with it, not sorted once more. `None` if it
    /// holds a version that is none of ours.
    fn returned(&self, versions: &HashMap<String, String>, explicit: bool) -> Option<Arc<[Settled]>> {
        let one = |(name, version): (&String, &String)| {
            let mut hasher = twox_hash::XxHash64::with_seed(explicit.into());
            hasher.write(name.as_bytes());
            hasher.write(version.as_bytes());
            hasher.finish()
        };
        let hash = versions.iter().map(one).fold(0, u64::wrapping_add);
        let known = self.returned.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).and_then(Weak::upgrade);
        let is_same = |settled: &Settled| {
            let version = versions.get(&*settled.name).and_then(|version| version.parse().ok());
            version.is_some() && version == settled.version && settled.explicit == explicit
        };
        if let Some(list) = known.filter(|list| list.len() == versions.len() && list.iter().all(is_same)) {
            return Some(list);
        }
        let settled = |(name, version): (&String, &String)| {
            let version: Option<Version> = version.parse().ok();
            version.map(|version| Settled { name: self.name(name), explicit, version: Some(version) })
        };
        let mut list: Vec<Settled> = versions.iter().map(settled).collect::<Option<_>>()?;
        list.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let list = self.share(list);
        let mut all = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, list| list.strong_count() > 0);
        all.insert(hash, Arc::downgrade(&list));
        Some(list)
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

/// Equality that is quick where both are one text.
pub(super) fn is_same(one: &Name, other: &Name) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// What a client has that was sent all of these.
#[derive(Debug)]
pub(super) struct Sent(Arc<[Settled]>);

impl Sent {
    pub(super) fn new(lines: impl Iterator<Item = (Name, Version)>, explicit: bool) -> Sent {
        Sent(lines.map(|(name, version)| Settled { name, explicit, version: Some(version) }).collect())
    }
}

/// Everything that a client has of one type, or asks for.
#[derive(Debug, Default)]
pub(super) struct Held {
    base: Option<Base>,
    /// What differs from the base; `None`: it is gone.
    over: BTreeMap<Name, Option<Entry>>,
    explicit: usize,
}

impl Held {
    fn based(&self, name: &str) -> Option<(&Name, Entry)> {
        self.base.as_ref()?.find(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Entry> {
        match self.over.get(name) {
            Some(entry) => entry.clone(),
            None => self.based(name).map(|(_, entry)| entry),
        }
    }

    /// Notes that a client which has asked for nothing yet asks for these names, in order and each once.
    pub(super) fn ask(&mut self, names: Vec<Name>, shared: &Shared) {
        self.explicit = names.len();
        self.base = Some(Base::Asked(shared.ask(names)));
    }

    /// Notes what a client comes with that has many; `explicit`: it asks for all of these by name. False: nothing is noted.
    pub(super) fn come_with(&mut self, versions: &HashMap<String, String>, explicit: bool, shared: &Shared) -> bool {
        if versions.len() < MANY || self.base.is_some() || !self.over.is_empty() {
            return false;
        }
        let Some(list) = shared.returned(versions, explicit) else { return false };
        self.explicit = if explicit { list.len() } else { 0 };
        self.base = Some(Base::Sent { list, is_open: false });
        true
    }

    /// If the client has all of a sheet as it is: the names of what else it has.
    pub(super) fn beside(&self, sheet: &[(Name, Resource)]) -> Option<Vec<Name>> {
        let Some(Base::Sent { list, is_open: false }) = &self.base else { return None };
        if !self.over.is_empty() {
            return None;
        }
        let mut lines = sheet.iter().peekable();
        let mut others = Vec::new();
        for settled in &**list {
            match lines.next_if(|(name, _)| is_same(name, &settled.name)) {
                Some((_, resource)) if settled.version != Some(resource.version) => return None,
                Some(_) => {}
                None => others.push(settled.name.clone()),
            }
        }
        lines.next().is_none().then_some(others)
    }

    /// What is asked for of a client to which nothing was sent: nothing by name, or this list and no more.
    pub(super) fn asked(&self) -> Option<Option<&Arc<[Name]>>> {
        match &self.base {
            _ if !self.over.is_empty() => None,
            None => Some(None),
            Some(Base::Asked(names)) => Some(Some(names)),
            Some(Base::Sent { .. }) => None,
        }
    }

    /// Notes that a client to which nothing was sent is sent all of a sheet. `rest` is what it has asked for by name beside it.
    pub(super) fn send_sheet(&mut self, sent: &Sent, rest: &[Name]) {
        let explicit = sent.0.iter().filter(|settled| settled.explicit).count();
        self.explicit = explicit + rest.len();
        self.base = Some(Base::Sent { list: sent.0.clone(), is_open: true });
        self.over = rest.iter().map(|name| (name.clone(), Some(Entry { explicit: true, ..Entry::default() }))).collect();
    }

    /// The client has taken all of a sheet. False: that is not what it was sent last.
    pub(super) fn accept_sheet(&mut self, sheet: &Sheet) -> bool {
        let Some(Base::Sent { list, is_open }) = &mut self.base else { return false };
        if !*is_open || !sheet.was_sent().any(|sent| Arc::ptr_eq(list, &sent.0)) {
            return false;
        }
        *is_open = false;
        for (name, entry) in &mut self.over {
            let settled = list.binary_search_by(|settled| settled.name.cmp(name)).ok().and_then(|at| list.get(at));
            let version = settled.and_then(|settled| settled.version);
            entry.iter_mut().zip(version).for_each(|(entry, version)| accept(entry, version));
        }
        true
    }

    /// Notes what is sent, in order. The first of many is kept as a list that others share, before it is answered.
    pub(super) fn send(&mut self, entries: Vec<(Name, Entry)>, shared: &Shared) {
        let is_new =
            |(_, entry): &(Name, Entry)| entry.acked.is_none() && entry.rejected.is_none() && matches!(entry.sent, SentVersion::Version(_));
        let covers = || {
            let mut names = entries.iter().map(|(name, _)| name);
            move |name: &Name| names.any(|there| is_same(there, name))
        };
        let is_based = match &self.base {
            None => false,
            Some(Base::Asked(names)) => !names.iter().all(covers()),
            Some(Base::Sent { .. }) => true,
        };
        if is_based || entries.len() < MANY || !entries.iter().all(is_new) || !self.over.keys().all(covers()) {
            return self.set_many(entries);
        }
        self.explicit = entries.iter().filter(|(_, entry)| entry.explicit).count();
        let settled = |(name, entry): (Name, Entry)| match entry.sent {
            SentVersion::Version(version) => Settled { name, explicit: entry.explicit, version: Some(version) },
            SentVersion::Unsent | SentVersion::Absent | SentVersion::Foreign => Settled { name, explicit: entry.explicit, version: None },
        };
        let list = shared.share(entries.into_iter().map(settled).collect());
        self.base = Some(Base::Sent { list, is_open: true });
        self.over.clear();
    }

    /// The client has taken these versions, in the order of their names.
    pub(super) fn accept(&mut self, sent: &[(Name, Version)]) {
        if let Some(Base::Sent { list, is_open }) = &mut self.base
            && *is_open
            && sent.len() == list.len()
            && sent.iter().zip(&**list).all(|((name, version), settled)| settled.version == Some(*version) && is_same(name, &settled.name))
        {
            *is_open = false;
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
            None => self.based(name).is_some_and(|(_, entry)| entry.explicit),
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
        } else if let Some((_, mut entry)) = self.based(name) {
            by(&mut entry);
            self.set(name, entry);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.explicit -= usize::from(self.is_explicit(name));
        if let Some(name) = self.based(name).map(|(name, _)| name.clone()) {
            self.over.insert(name, None);
        } else {
            self.over.remove(name);
        }
    }

    pub(super) fn is_explicit(&self, name: &str) -> bool {
        match self.over.get(name) {
            Some(entry) => entry.as_ref().is_some_and(|entry| entry.explicit),
            None => self.based(name).is_some_and(|(_, entry)| entry.explicit),
        }
    }

    /// How many names are subscribed to one by one.
    pub(super) fn explicit(&self) -> usize {
        self.explicit
    }

    /// All names, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, Entry)> {
        let mut based = self.base.iter().flat_map(|base| (0..base.len()).filter_map(|at| base.get(at))).peekable();
        let mut over = self.over.iter().peekable();
        let next = move || loop {
            let is_based = match (based.peek(), over.peek()) {
                (Some((there, _)), Some((name, _))) if is_same(there, name) => {
                    based.next();
                    continue;
                }
                (Some((there, _)), Some((name, _))) => *there < *name,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return None,
            };
            if is_based {
                return based.next();
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

    /// What was rejected, and why.
    pub(super) fn rejections(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.over.iter().filter_map(|(name, entry)| Some((name, entry.as_ref()?.rejected.as_ref()?.1.as_str())))
    }

    /// Makes what has settled a list that can be shared, once it is worth it.
    pub(super) fn settle(&mut self, shared: &Shared) {
        let settled = self.base.as_ref().map_or(0, Base::len);
        if matches!(self.base, Some(Base::Sent { is_open: true, .. })) || self.over.len() < 16 + settled / 8 {
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
            self.base = Some(Base::Sent { list: shared.share(list), is_open: false });
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

    fn list(held: &Held) -> &Arc<[Settled]> {
        let Some(Base::Sent { list, .. }) = &held.base else { panic!("no list: {held:?}") };
        list
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
        assert!(Arc::ptr_eq(list(&one), list(&two)));
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
        assert!(Arc::ptr_eq(list(&one), list(&two)) && one.over.is_empty());
        assert_eq!(shared.len(), 2);
        drop(other);
        assert_eq!(shared.len(), 1);
    }
}
