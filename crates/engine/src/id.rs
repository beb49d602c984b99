//! Ids: a slot and a generation. Late news for a dead id finds nobody.

use std::{fmt, marker::PhantomData};

/// Names the ids of connections.
#[derive(Debug)]
pub enum ConnTag {}
/// A connection, downstream or upstream.
pub type ConnId = Id<ConnTag>;

/// Names the ids of streams.
#[derive(Debug)]
pub(crate) enum StreamTag {}
/// A stream's id.
pub(crate) type StreamId = Id<StreamTag>;

/// Names the ids of pools.
#[derive(Debug)]
pub(crate) enum PoolTag {}
/// A pool's id.
pub(crate) type PoolId = Id<PoolTag>;

/// Names the ids of checks.
#[derive(Debug)]
pub(crate) enum CheckTag {}
/// A host's checks.
pub(crate) type CheckId = Id<CheckTag>;

/// Names the ids of sweeps.
#[derive(Debug)]
pub(crate) enum SweepTag {}
/// A sweep's id.
pub(crate) type SweepId = Id<SweepTag>;

/// A slab's key: slot in the low half, generation in the high half.
pub struct Id<T>(u64, PhantomData<fn() -> T>);

impl<T> Id<T> {
    /// From its number, as another program part kept it.
    pub fn from_u64(raw: u64) -> Self {
        Id(raw, PhantomData)
    }

    /// Its number, unique among this worker's ids of the kind, for ever.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    fn new(slot: u32, generation: u32) -> Self {
        Id(u64::from(generation) << 32 | u64::from(slot), PhantomData)
    }

    fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> std::hash::Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.slot(), self.generation())
    }
}

/// Values found by id; a removed value's slot is used again under the next generation.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts a value in.
    pub(crate) fn insert<K>(&mut self, value: T) -> Id<K> {
        self.len += 1;
        if let Some(slot) = self.free.pop()
            && let Some((generation, place)) = self.slots.get_mut(slot as usize)
        {
            *place = Some(value);
            return Id::new(slot, *generation);
        }
        self.slots.push((1, Some(value)));
        Id::new((self.slots.len() - 1) as u32, 1)
    }

    pub(crate) fn get<K>(&self, id: Id<K>) -> Option<&T> {
        self.slots.get(id.slot()).filter(|(generation, _)| *generation == id.generation()).and_then(|(_, value)| value.as_ref())
    }

    pub(crate) fn get_mut<K>(&mut self, id: Id<K>) -> Option<&mut T> {
        self.slots.get_mut(id.slot()).filter(|(generation, _)| *generation == id.generation()).and_then(|(_, value)| value.as_mut())
    }

    pub(crate) fn remove<K>(&mut self, id: Id<K>) -> Option<T> {
        let (generation, place) = self.slots.get_mut(id.slot())?;
        if *generation != id.generation() {
            return None;
        }
        let value = place.take()?;
        *generation = generation.wrapping_add(1).max(1);
        self.free.push(id.slot() as u32);
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn ids<K>(&self) -> impl Iterator<Item = Id<K>> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, (_, value))| value.is_some())
            .map(|(slot, (generation, _))| Id::new(slot as u32, *generation))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|(_, value)| value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_news_finds_nobody() {
        let mut slab = Slab::default();
        let a: Id<()> = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b: Id<()> = slab.insert("b");
        assert_eq!((slab.get(a), slab.get(b), slab.len()), (None, Some(&"b"), 1));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.ids::<()>().collect::<Vec<_>>(), [b]);
    }
}
