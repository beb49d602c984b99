//! Equal messages, equal bytes.
//!
//! A map has no order, and encoders write it in whatever order their hash table has. Whoever compares encodings (a content hash, a cache) must
//! first put the entries of every map into one order, at every depth, inside `Any` too. That moves bytes within a message and changes no length, so it
//! is done in place.

use std::ops::Range;

include!(concat!(env!("OUT_DIR"), "/maps.rs"));

/// The fields of a message that lead to maps: `(number, is a map, message)`.
type Fields = &'static [(u32, bool, u16)];

/// Messages inside messages beyond this depth are left as they are.
const DEPTH: usize = 100;

/// Puts the entries of all maps of a message into the order of their keys, those of one key in the order that they have: the last one counts. What is
/// malformed or of an unknown type is left as it is.
pub fn canonicalize(type_url: &str, bytes: &mut [u8]) {
    if let Some(kind) = find(type_url) {
        message(bytes, kind, 0, &mut Vec::new());
    }
}

/// The place of a type among [`MESSAGES`]; `None` if no message of it holds a map.
fn find(type_url: &str) -> Option<u16> {
    let name = type_url.rsplit('/').next()?;
    MESSAGES.binary_search_by(|(n, _)| (*n).cmp(name)).ok()?.try_into().ok()
}

/// A field that leads to maps, and where it lies in its message.
#[derive(Clone, Copy)]
struct Known {
    number: u32,
    is_map: bool,
    kind: u16,
    start: usize,
    body: usize,
    end: usize,
}

/// One message of a kind. `stack` holds the fields of the messages around it; what is put on it is taken off again.
fn message(bytes: &mut [u8], kind: u16, depth: usize, stack: &mut Vec<Known>) {
    if depth > DEPTH {
        return;
    }
    if kind == ANY {
        return any(bytes, depth, stack);
    }
    let Some((_, fields)) = MESSAGES.get(usize::from(kind)) else { return };
    let base = stack.len();
    if collect(bytes, fields, stack).is_some() {
        for at in base..stack.len() {
            if let Some(Known { kind, body, end, .. }) = stack.get(at).copied()
                && let Some(value) = bytes.get_mut(body..end)
            {
                message(value, kind, depth + 1, stack);
            }
        }
        let found = stack.get(base..).unwrap_or_default();
        // A map's entries lie next to each other.
        found.chunk_by(|a, b| a.is_map && a.number == b.number && a.end == b.start).for_each(|run| sort(bytes, run));
    }
    stack.truncate(base);
}

/// Notes the fields that lead to maps; `None` if the message is malformed.
fn collect(bytes: &[u8], fields: Fields, into: &mut Vec<Known>) -> Option<()> {
    let mut end = 0;
    while end < bytes.len() {
        let start = end;
        let field = take(bytes, &mut end)?;
        if let (Value::Bytes(body), Some((number, is_map, kind))) =
            (field.value, fields.iter().find(|(number, ..)| *number == field.number))
        {
            into.push(Known { number: *number, is_map: *is_map, kind: *kind, start, body: body.start, end });
        }
    }
    Some(())
}

/// The message inside an `Any`.
fn any(bytes: &mut [u8], depth: usize, stack: &mut Vec<Known>) {
    let (mut kind, mut value, mut at) = (None, None, 0);
    while at < bytes.len() {
        match take(bytes, &mut at) {
            Some(Field { number: 1, value: Value::Bytes(body) }) => {
                kind = bytes.get(body).and_then(|name| find(std::str::from_utf8(name).ok()?));
            }
            Some(Field { number: 2, value: Value::Bytes(body) }) => value = Some(body),
            Some(_) => {}
            None => return,
        }
    }
    if let (Some(kind), Some(value)) = (kind, value.and_then(|value| bytes.get_mut(value))) {
        message(value, kind, depth + 1, stack);
    }
}

/// Sorts the entries of one map.
fn sort(bytes: &mut [u8], entries: &[Known]) {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
    let key_of = |entry: &Known| key(bytes.get(entry.body..entry.end).unwrap_or_default());
    if !first.is_map || entries.is_sorted_by_key(key_of) {
        return;
    }
    let mut order: Vec<&Known> = entries.iter().collect();
    order.sort_by_key(|entry| key_of(entry));
    let sorted: Vec<u8> = order.iter().flat_map(|entry| bytes.get(entry.start..entry.end).unwrap_or_default()).copied().collect();
    if let Some(place) = bytes.get_mut(first.start..last.end) {
        place.copy_from_slice(&sorted);
    }
}

/// The key of a map's entry. All keys of a map are of one type; negative numbers come after the others. A default need not be written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Default,
    Number(u64),
    Text(&'a [u8]),
}

fn key(entry: &[u8]) -> Key<'_> {
    let (mut key, mut at) = (Key::Default, 0);
    while let Some(Field { number, value }) = take(entry, &mut at) {
        if number == 1 {
            key = match value {
                Value::Number(0) => Key::Default,
                Value::Number(number) => Key::Number(number),
                Value::Bytes(text) if text.is_empty() => Key::Default,
                Value::Bytes(text) => Key::Text(entry.get(text).unwrap_or_default()),
            };
        }
    }
    key
}

/// One field of a message.
struct Field {
    number: u32,
    value: Value,
}

enum Value {
    Number(u64),
    /// Where they lie.
    Bytes(Range<usize>),
}

/// The field at a place, which moves to the next; `None` at the end, and if it is malformed.
fn take(bytes: &[u8], at: &mut usize) -> Option<Field> {
    let mut rest = bytes.get(*at..).filter(|rest| !rest.is_empty())?;
    let tag = varint(&mut rest)?;
    let fixed = |rest: &mut &[u8], length: usize| {
        let (number, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(number.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let value = match tag & 7 {
        0 => Value::Number(varint(&mut rest)?),
        1 => Value::Number(fixed(&mut rest, 8)?),
        2 => {
            let length = usize::try_from(varint(&mut rest)?).ok()?;
            let start = bytes.len() - rest.len();
            rest = rest.get(length..)?;
            Value::Bytes(start..start + length)
        }
        5 => Value::Number(fixed(&mut rest, 4)?),
        _ => return None,
    };
    *at = bytes.len() - rest.len();
    Some(Field { number: u32::try_from(tag >> 3).ok()?, value })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(rest).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prost::{Message, Name};

    use super::*;
    use crate::{
        Any,
        envoy::envoy::{
            config::{cluster::v3::Cluster, core::v3::Metadata, listener::v3 as listener, route::v3::RouteConfiguration},
            extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
        },
        wkt::{Struct, Value, value::Kind},
    };

    fn structure(depth: usize) -> Struct {
        let value = |i: usize| match depth {
            0 => Kind::NumberValue(i as f64),
            _ => Kind::StructValue(structure(depth - 1)),
        };
        Struct { fields: (0..12).map(|i| (format!("k{i}"), Value { kind: Some(value(i)) })).collect() }
    }

    fn metadata() -> Metadata {
        let filter_metadata: HashMap<_, _> = (0..9).map(|i| (format!("f{i}"), structure(1))).collect();
        Metadata { filter_metadata, ..Default::default() }
    }

    fn canonical<M: Message + Name>(message: &M) -> Vec<u8> {
        let mut bytes = message.encode_to_vec();
        canonicalize(&M::type_url(), &mut bytes);
        bytes
    }

    /// Encodings of the same message by hash tables that differ become the same bytes, and stay the same message.
    fn check<M: Message + Name + Default + PartialEq>(make: impl Fn() -> M) {
        let encoded: Vec<Vec<u8>> = (0..8).map(|_| canonical(&make())).collect();
        assert!(encoded.windows(2).all(|w| w[0] == w[1]));
        let mut again = encoded[0].clone();
        canonicalize(&M::type_url(), &mut again);
        assert_eq!(again, encoded[0]);
        assert_eq!(again.len(), make().encode_to_vec().len());
    }

    #[test]
    fn maps_at_every_depth() {
        check(metadata);
        let cluster = || Cluster { name: "a".into(), alt_stat_name: "b".into(), metadata: Some(metadata()), ..Default::default() };
        check(cluster);
        assert_eq!(Cluster::decode(canonical(&cluster()).as_slice()).unwrap(), cluster());
    }

    #[test]
    fn inside_any() {
        let manager = || HttpConnectionManager {
            stat_prefix: "x".into(),
            route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
                name: "r".into(),
                metadata: Some(metadata()),
                ..Default::default()
            })),
            ..Default::default()
        };
        check(|| {
            let config = Any { type_url: HttpConnectionManager::type_url(), value: manager().encode_to_vec() };
            let filter = listener::Filter { name: "hcm".into(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) };
            let chain = listener::FilterChain { filters: vec![filter], ..Default::default() };
            listener::Listener { name: "l".into(), filter_chains: vec![chain.clone(), chain], ..Default::default() }
        });
        let packed = Any { type_url: HttpConnectionManager::type_url(), value: manager().encode_to_vec() };
        let whole = Any::decode(canonical(&packed).as_slice()).unwrap();
        assert_eq!(whole.value, canonical(&manager()));
        assert_eq!(HttpConnectionManager::decode(whole.value.as_slice()).unwrap(), manager());
    }

    /// A message of length-delimited fields.
    fn fields(fields: &[(u8, &[u8])]) -> Vec<u8> {
        fields.iter().flat_map(|(number, body)| [&[number << 3 | 2, body.len() as u8], *body].concat()).collect()
    }

    /// Entries of the first field, which is a map, with these bodies.
    fn entries(bodies: &[&[u8]]) -> Vec<u8> {
        fields(&bodies.iter().map(|body| (1, *body)).collect::<Vec<_>>())
    }

    #[test]
    fn by_key() {
        let check = |type_url: &str, before: &[&[u8]], after: &[&[u8]]| {
            let mut bytes = entries(before);
            canonicalize(type_url, &mut bytes);
            assert_eq!(bytes, entries(after), "{type_url} {before:?}");
        };
        let entry = |key: &str, value: &str| fields(&[(1, key.as_bytes()), (2, value.as_bytes())]);
        // Neither the length of an entry nor that of its key counts.
        let (short, long, last) = (entry("b", ""), entry("aa", "\x1a\x06longer"), entry("ba", ""));
        let structure = "type.googleapis.com/google.protobuf.Struct";
        check(structure, &[&last, &short, &long], &[&long, &short, &last]);
        // An empty key is written or not. Of entries with one key the last one counts, and stays the last one.
        let (empty, none, other) = (entry("", "\x1a\x01x"), fields(&[(2, b"\x1a\x01y")]), entry("a", "\x1a\x01z"));
        check(structure, &[&other, &none, &empty, &short], &[&none, &empty, &other, &short]);
        check(structure, &[&other, &empty, &none], &[&empty, &none, &other]);
        // The key need not be what is written first.
        let turned = fields(&[(2, b""), (1, b"ab")]);
        check(structure, &[&short, &turned, &other], &[&other, &turned, &short]);
        check(&Any::type_url(), &[b"b", b"a"], &[b"b", b"a"]);
    }

    #[test]
    fn by_number() {
        // `reference_map`, from 64-bit numbers, little-endian in groups of seven bits.
        let mut bytes = [258u64, 3, 0, 129].iter().flat_map(|key| fields(&[(2, &entry_of(*key))])).collect::<Vec<u8>>();
        canonicalize("type.googleapis.com/google.api.expr.v1alpha1.CheckedExpr", &mut bytes);
        let expected: Vec<u8> = [0u64, 3, 129, 258].iter().flat_map(|key| fields(&[(2, &entry_of(*key))])).collect();
        assert_eq!(bytes, expected);
    }

    fn entry_of(number: u64) -> Vec<u8> {
        let mut entry = vec![1 << 3];
        prost::encoding::encode_varint(number, &mut entry);
        entry
    }

    #[test]
    fn malformed_or_unknown_is_left_alone() {
        let good = entries(&[b"\x0a\x01b", b"\x0a\x01a"]);
        let metadata = "type.googleapis.com/envoy.config.core.v3.Metadata";
        let (typed, packed) = (fields(&[(1, metadata.as_bytes()), (2, &good)]), "type.googleapis.com/google.protobuf.Any");
        for (type_url, bytes) in [
            ("type.googleapis.com/nobody.Knows", good.clone()),
            (metadata, good[..good.len() - 1].to_vec()),
            (metadata, [&good, &[0x0b][..]].concat()),
            ("", vec![1]),
            (packed, [&typed, &[0x12][..]].concat()),
            (packed, fields(&[(1, metadata.as_bytes()), (2, &good[..good.len() - 1])])),
            (packed, fields(&[(2, &good)])),
        ] {
            let mut left = bytes.clone();
            canonicalize(type_url, &mut left);
            assert_eq!(left, bytes, "{type_url}");
        }
        // The others of its kind are in order.
        for (type_url, mut bytes) in [(metadata, good), (packed, typed)] {
            let before = bytes.clone();
            canonicalize(type_url, &mut bytes);
            assert!(bytes != before, "{type_url}");
        }
    }
}
