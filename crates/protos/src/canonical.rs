//! Equal messages, equal bytes.
//!
//! A map has no order, and encoders write it in whatever order their hash table has. Whoever compares encodings (a content hash, a cache) must
//! first put the entries of every map into one order, at every depth, inside `Any` too.

use crate::Any;

include!(concat!(env!("OUT_DIR"), "/maps.rs"));

const ANY: &str = "google.protobuf.Any";
/// Messages inside messages beyond this depth are left as they are.
const DEPTH: usize = 100;

type Fields = &'static [(u32, bool, u16)];

/// Puts the entries of all maps into the order of their keys. What is malformed or of an unknown type is left as it is.
pub fn canonicalize(any: &mut Any) {
    if let Some(fields) = find(&any.type_url)
        && let Some(bytes) = message(&any.value, fields, 0)
    {
        any.value = bytes;
    }
}

fn find(type_url: &str) -> Option<Fields> {
    let name = type_url.rsplit('/').next()?;
    let at = MESSAGES.binary_search_by(|(n, _)| (*n).cmp(name)).ok()?;
    MESSAGES.get(at).map(|(_, fields)| *fields)
}

/// One field with its tag, as it stands in the message; `body` is where its length-delimited value starts.
struct Field<'a> {
    number: u32,
    whole: &'a [u8],
    body: Option<usize>,
}

/// The canonical bytes of a message, or `None` if it is malformed.
fn message(bytes: &[u8], fields: Fields, depth: usize) -> Option<Vec<u8>> {
    if depth > DEPTH {
        return None;
    }
    if std::ptr::eq(fields.as_ptr(), any_fields().as_ptr()) {
        return inner_any(bytes, depth);
    }
    let mut out = Vec::with_capacity(bytes.len());
    // Where the entries of the map that is being written lie in `out`, and which it is.
    let mut entries: Vec<(usize, usize)> = Vec::new();
    let mut map = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let field = take(&mut rest)?;
        let known = fields.iter().find(|(number, ..)| *number == field.number);
        if map.is_some() && known.is_none_or(|(number, is_map, _)| !is_map || Some(*number) != map) {
            sort(&mut out, &mut entries);
            map = None;
        }
        let start = out.len();
        match (known, field.body) {
            (Some((number, is_map, child)), Some(body)) => {
                match MESSAGES.get(usize::from(*child)) {
                    Some((_, child)) => nested(&mut out, &field, body, child, depth),
                    None => out.extend_from_slice(field.whole),
                }
                if *is_map {
                    map = Some(*number);
                    entries.push((start, out.len()));
                }
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    sort(&mut out, &mut entries);
    Some(out)
}

fn any_fields() -> Fields {
    find(ANY).unwrap_or_default()
}

fn nested(out: &mut Vec<u8>, field: &Field<'_>, body: usize, child: Fields, depth: usize) {
    let value = field.whole.get(body..).unwrap_or_default();
    match message(value, child, depth + 1) {
        Some(value) => length_delimited(out, field.number, &value),
        None => out.extend_from_slice(field.whole),
    }
}

fn inner_any(bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
    let mut any: Any = prost::Message::decode(bytes).ok()?;
    let fields = find(&any.type_url)?;
    any.value = message(&any.value, fields, depth + 1)?;
    Some(prost::Message::encode_to_vec(&any))
}

/// Sorts the entries of one map, which lie next to each other. Each starts with its key, so their bytes sort them.
fn sort(out: &mut Vec<u8>, entries: &mut Vec<(usize, usize)>) {
    if let (Some((start, _)), true) = (entries.first().copied(), entries.len() > 1) {
        let mut parts: Vec<Vec<u8>> = entries.iter().filter_map(|(from, to)| out.get(*from..*to).map(<[u8]>::to_vec)).collect();
        parts.sort_unstable();
        out.truncate(start);
        parts.iter().for_each(|part| out.extend_from_slice(part));
    }
    entries.clear();
}

fn length_delimited(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Takes the first field off `rest`.
fn take<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let start = *rest;
    let key = varint(rest)?;
    let number = u32::try_from(key >> 3).ok()?;
    let mut body = None;
    let skip = match key & 7 {
        0 => varint(rest).map(|_| 0)?,
        1 => 8,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            body = Some(start.len() - rest.len());
            length
        }
        5 => 4,
        _ => return None,
    };
    *rest = rest.get(skip..)?;
    Some(Field { number, whole: start.get(..start.len() - rest.len())?, body })
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
        envoy::envoy::{
            config::{cluster::v3::Cluster, core::v3::Metadata, listener::v3 as listener},
            extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
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

    fn any<M: Message + Name>(message: &M) -> Any {
        Any { type_url: M::type_url(), value: message.encode_to_vec() }
    }

    /// Encodings of the same message by hash tables that differ become the same bytes, and stay the same message.
    fn check<M: Message + Name + Default + PartialEq>(make: impl Fn() -> M) {
        let encoded: Vec<Any> = (0..8)
            .map(|_| {
                let mut any = any(&make());
                canonicalize(&mut any);
                any
            })
            .collect();
        assert!(encoded.windows(2).all(|w| w[0] == w[1]));
        let mut again = encoded[0].clone();
        canonicalize(&mut again);
        assert_eq!(again, encoded[0]);
        assert_eq!(again.value.len(), make().encode_to_vec().len());
    }

    #[test]
    fn maps_at_every_depth() {
        check(metadata);
        let cluster = || Cluster { name: "a".into(), alt_stat_name: "b".into(), metadata: Some(metadata()), ..Default::default() };
        check(cluster);
        let mut any_cluster = any(&cluster());
        canonicalize(&mut any_cluster);
        assert_eq!(Cluster::decode(any_cluster.value.as_slice()).unwrap(), cluster());
    }

    #[test]
    fn inside_any() {
        check(|| {
            let manager = HttpConnectionManager {
                stat_prefix: "x".into(),
                http_filters: vec![],
                route_specifier: Some(
                    crate::envoy::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier::RouteConfig(
                        crate::envoy::envoy::config::route::v3::RouteConfiguration {
                            name: "r".into(),
                            metadata: Some(metadata()),
                            ..Default::default()
                        },
                    ),
                ),
                ..Default::default()
            };
            let filter =
                listener::Filter { name: "hcm".into(), config_type: Some(listener::filter::ConfigType::TypedConfig(any(&manager))) };
            let chain = listener::FilterChain { filters: vec![filter], ..Default::default() };
            listener::Listener { name: "l".into(), filter_chains: vec![chain.clone(), chain], ..Default::default() }
        });
    }

    #[test]
    fn malformed_or_unknown_is_left_alone() {
        let good = any(&metadata()).value;
        for (type_url, value) in [
            ("type.googleapis.com/nobody.Knows", good.clone()),
            ("type.googleapis.com/envoy.config.core.v3.Metadata", good[..good.len() - 1].to_vec()),
            ("type.googleapis.com/envoy.config.core.v3.Metadata", vec![0x0b]),
            ("", vec![1]),
        ] {
            let mut any = Any { type_url: type_url.into(), value };
            let before = any.clone();
            canonicalize(&mut any);
            assert_eq!(any, before);
        }
    }
}
