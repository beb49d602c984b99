//! What every compiler of a resource needs: where we are, what was warned of, and how to refuse.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mizzen_protos::{Any, canonical::canonicalize, wkt};
use mizzen_types::Name;
use prost::Message;
use twox_hash::XxHash64;

use super::Warning;
use crate::config::{AccessLog, ContentHash, Forward, Mutations};
use crate::filter::{HttpFilter, RouterOptions};

/// A refusal, before the resource's name is added.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) field: String,
    pub(crate) reason: String,
}

pub(crate) type Res<T> = Result<T, Bad>;

#[derive(Default)]
pub(crate) struct Cx {
    pub(crate) resource: Name,
    path: Vec<String>,
    pub(crate) warnings: Vec<Warning>,
    /// Refusals that concern a part alone, which is closed.
    pub(crate) closed: Vec<Bad>,
    pub(crate) shared: Shared,
}

/// What was made of parts, by their bytes: the chains of a gateway's listener differ by names, certificates and routes, and hold the rest once, however
/// many hosts and policies there are.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) logs: HashMap<Vec<u8>, Arc<[Arc<AccessLog>]>>,
    pub(crate) filters: HashMap<Vec<u8>, (Arc<[HttpFilter]>, RouterOptions)>,
    pub(crate) mutations: Recent<Mutations>,
    pub(crate) forwards: Recent<Forward>,
    names: HashSet<Name>,
}

/// The values that came last: one that is equal is not held again.
pub(crate) struct Recent<T>(VecDeque<Arc<T>>);

/// So many are compared with a new one.
const RECENT: usize = 8;
/// So many names are known at the same time.
const NAMES: usize = 256;

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent(VecDeque::new())
    }
}

impl<T: PartialEq> Recent<T> {
    /// The value, or the equal one that is held already.
    pub(crate) fn hold(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.0.iter().find(|known| ***known == value) {
            return known.clone();
        }
        let value = Arc::new(value);
        self.0.truncate(RECENT - 1);
        self.0.push_front(value.clone());
        value
    }
}

impl Cx {
    /// The path to `field` of where we are.
    pub(crate) fn at(&self, field: &str) -> String {
        let mut path = String::new();
        for part in self.path.iter().map(String::as_str).chain([field.trim_start_matches("r#")]) {
            if !path.is_empty() && !part.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        path
    }

    pub(crate) fn bad(&self, field: &str, reason: impl Into<String>) -> Bad {
        Bad { field: self.at(field), reason: reason.into() }
    }

    pub(crate) fn refuse<T>(&self, field: &str, reason: impl Into<String>) -> Res<T> {
        Err(self.bad(field, reason))
    }

    pub(crate) fn warn(&mut self, field: &str, reason: impl Into<String>) {
        let (field, reason) = (self.at(field), reason.into());
        self.warnings.push(Warning { field, reason });
    }

    /// What was made; none where it is refused, which then concerns this part alone: the caller puts something in its place that serves
    /// nobody, so that the rest of the resource comes into force.
    pub(crate) fn contain<T>(&mut self, result: Res<T>) -> Option<T> {
        result.map_err(|bad| self.closed.push(bad)).ok()
    }

    /// Runs `f` with `field` as a part of the path.
    pub(crate) fn within<T>(&mut self, field: &str, f: impl FnOnce(&mut Cx) -> Res<T>) -> Res<T> {
        self.path.push(field.trim_start_matches("r#").to_owned());
        let result = f(self);
        self.path.pop();
        result
    }

    /// Runs `f` on the value, if there is one.
    pub(crate) fn some<T, U>(&mut self, field: &str, value: Option<T>, f: impl FnOnce(&mut Cx, T) -> Res<U>) -> Res<Option<U>> {
        value.map(|v| self.within(field, |cx| f(cx, v))).transpose()
    }

    /// Runs `f` on the value, which has to be there.
    pub(crate) fn must<T, U>(&mut self, field: &str, value: Option<T>, f: impl FnOnce(&mut Cx, T) -> Res<U>) -> Res<U> {
        match self.some(field, value, f)? {
            Some(value) => Ok(value),
            None => self.refuse(field, "it is required"),
        }
    }

    /// Runs `f` on each.
    pub(crate) fn each<T, U>(
        &mut self,
        field: &str,
        list: impl IntoIterator<Item = T>,
        mut f: impl FnMut(&mut Cx, T) -> Res<U>,
    ) -> Res<Vec<U>> {
        let one = |(i, v)| self.within(&format!("{field}[{i}]"), |cx| f(cx, v));
        list.into_iter().enumerate().map(one).collect()
    }

    /// What is made of these messages, or what was made of the same ones before, if it `may` be shared. What there is to say of a place is said of each.
    pub(crate) fn once<M: Message, T: Clone>(
        &mut self,
        table: fn(&mut Shared) -> &mut HashMap<Vec<u8>, T>,
        messages: Vec<M>,
        make: impl FnOnce(&mut Cx, Vec<M>) -> Res<T>,
        may: impl FnOnce(&T) -> bool,
    ) -> Res<T> {
        let key: Vec<u8> = messages.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
        if let Some(made) = table(&mut self.shared).get(&key) {
            return Ok(made.clone());
        }
        let before = (self.warnings.len(), self.closed.len());
        let made = make(self, messages)?;
        if (self.warnings.len(), self.closed.len()) == before && may(&made) {
            table(&mut self.shared).insert(key, made.clone());
        }
        Ok(made)
    }

    /// A name, held once where others of this resource say the same.
    pub(crate) fn name(&mut self, text: &str) -> Name {
        let names = &mut self.shared.names;
        if let Some(known) = names.get(text) {
            return known.clone();
        }
        if names.len() == NAMES {
            names.clear();
        }
        let name = name(text);
        names.insert(name.clone());
        name
    }

    pub(crate) fn unset(&self, field: &str, value: &impl Unset) -> Res<()> {
        if value.is_unset() { Ok(()) } else { self.refuse(field, "not supported") }
    }

    pub(crate) fn harmless(&mut self, field: &str, value: &impl Unset) {
        if !value.is_unset() {
            self.warn(field, "it does nothing here");
        }
    }

    /// A flag that must be absent or false.
    pub(crate) fn never(&self, field: &str, value: Option<wkt::BoolValue>) -> Res<()> {
        if flag(value) == Some(true) { self.refuse(field, "not supported") } else { Ok(()) }
    }

    pub(crate) fn duration(&self, field: &str, value: Option<wkt::Duration>) -> Res<Option<Duration>> {
        let Some(d) = value else { return Ok(None) };
        let parts = u64::try_from(d.seconds).ok().zip(u32::try_from(d.nanos).ok());
        match parts {
            Some((secs, nanos)) if secs <= 315_576_000_000 && nanos < 1_000_000_000 => Ok(Some(Duration::new(secs, nanos))),
            _ => self.refuse(field, "not a duration of zero or more"),
        }
    }

    /// A duration of which zero means that there is none.
    pub(crate) fn limit(&self, field: &str, value: Option<wkt::Duration>, default: Option<Duration>) -> Res<Option<Duration>> {
        Ok(self.duration(field, value)?.or(default).filter(|d| !d.is_zero()))
    }

    pub(crate) fn port(&self, field: &str, value: u32) -> Res<u16> {
        u16::try_from(value).map_err(|_| self.bad(field, format!("{value} is not a port")))
    }

    /// Decodes an `Any` that has to be of this type.
    pub(crate) fn unpack<M: Message + Default>(&self, any: &Any) -> Res<M> {
        self.decode(&any.value)
    }

    pub(crate) fn decode<M: Message + Default>(&self, bytes: &[u8]) -> Res<M> {
        M::decode(bytes).map_err(|e| self.bad("", format!("not readable: {e}")))
    }

    /// The value of an enumeration.
    pub(crate) fn choice<E: TryFrom<i32>>(&self, field: &str, value: i32) -> Res<E> {
        E::try_from(value).map_err(|_| self.bad(field, format!("unknown value {value}")))
    }
}

/// The name of a type URL, without the part before the slash.
pub(crate) fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

pub(crate) fn flag(value: Option<wkt::BoolValue>) -> Option<bool> {
    value.map(|v| v.value)
}

pub(crate) fn number(value: Option<wkt::UInt32Value>) -> Option<u32> {
    value.map(|v| v.value)
}

/// A name. An empty one holds nothing of its own.
pub(crate) fn name(text: &str) -> Name {
    if text.is_empty() { Name::default() } else { Name::from(text) }
}

/// What a list is held as. An empty one holds nothing of its own, and most lists are empty.
pub(crate) fn held<T>(items: Vec<T>) -> Arc<[T]> {
    if items.is_empty() { Arc::default() } else { items.into() }
}

/// Two hashes of 64 bits with different seeds.
pub(crate) fn hash(bytes: &[u8]) -> ContentHash {
    let half = |seed| u128::from(XxHash64::oneshot(seed, bytes));
    ContentHash(half(0) << 64 | half(0x006d_697a_7a65_6e00))
}

/// The hash of a message of this type. Maps have no order, and are encoded in any: the same content is to have the same hash.
pub(crate) fn stable_hash(type_url: &str, mut bytes: Vec<u8>) -> ContentHash {
    canonicalize(type_url, &mut bytes);
    hash(&bytes)
}

/// The same of a message that was taken apart already.
pub(crate) fn hash_of<M: Message + prost::Name>(m: &M) -> ContentHash {
    stable_hash(&M::type_url(), m.encode_to_vec())
}

/// Whether a field has its default: nobody set it.
pub(crate) trait Unset {
    fn is_unset(&self) -> bool;
}

impl<T> Unset for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T> Unset for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Unset for HashMap<K, V> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl Unset for String {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

macro_rules! unset_numbers {
    ($($t:ty)*) => { $(impl Unset for $t {
        fn is_unset(&self) -> bool {
            *self == <$t>::default()
        }
    })* };
}
unset_numbers!(bool i32 i64 u32 u64 f64);

/// Fields that must not be set.
macro_rules! refused {
    ($cx:expr; $($field:ident),* $(,)?) => { $($cx.unset(stringify!($field), &$field)?;)* };
}

/// Fields that do nothing here, which is said if they are set.
macro_rules! harmless {
    ($cx:expr; $($field:ident),* $(,)?) => { $($cx.harmless(stringify!($field), &$field);)* };
}

/// Fields that mean nothing for us and would be mere noise as warnings: hints to Envoy's own workings, statistics' names.
macro_rules! silent {
    ($($field:ident),* $(,)?) => { $(let _ = $field;)* };
}

pub(crate) use {harmless, refused, silent};
