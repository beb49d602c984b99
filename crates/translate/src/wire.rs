//! Deterministic encoding of what prost keeps in hash maps.
//!
//! A resource is compared by the hash of its bytes, and prost writes a map in the order of its hash table: another one each time. So maps of more
//! than one entry (structs, metadata, RBAC policies) are written here, in order, and spliced into the encoded message: in protobuf, fields may come
//! in any order, and a sub-message may come in pieces.

use mizzen_protos::{Any, wkt};
use prost::Message;

/// A JSON value whose objects keep the order in which they are written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Val {
    Str(String),
    Bool(bool),
    List(Vec<Val>),
    Obj(Vec<(&'static str, Val)>),
}

impl From<&str> for Val {
    fn from(text: &str) -> Self {
        Val::Str(text.to_owned())
    }
}

impl Val {
    /// As a `google.protobuf.Struct`; empty unless it is an object.
    pub(crate) fn to_struct(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Val::Obj(fields) = self {
            for (key, value) in fields {
                entry(&mut out, 1, key, &value.to_value());
            }
        }
        out
    }

    /// As a `google.protobuf.Value`.
    fn to_value(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Val::Str(text) => field(&mut out, 3, text.as_bytes()),
            Val::Bool(flag) => out.extend([4 << 3, u8::from(*flag)]),
            Val::Obj(_) => field(&mut out, 5, &self.to_struct()),
            Val::List(items) => {
                let mut list = Vec::new();
                for item in items {
                    field(&mut list, 1, &item.to_value());
                }
                field(&mut out, 6, &list);
            }
        }
        out
    }
}

/// Appends a length-delimited field.
pub(crate) fn field(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends one entry of a map from strings to messages.
pub(crate) fn entry(out: &mut Vec<u8>, tag: u32, key: &str, value: &[u8]) {
    field(out, tag, &map_entry(key, value));
}

/// An entry of a map from strings to messages, as a message.
pub(crate) fn map_entry(key: &str, value: &[u8]) -> Vec<u8> {
    let mut pair = Vec::with_capacity(key.len() + value.len() + 8);
    field(&mut pair, 1, key.as_bytes());
    field(&mut pair, 2, value);
    pair
}

/// An `envoy.config.core.v3.Metadata` with these namespaces, in this order.
pub(crate) fn metadata(namespaces: &[(&str, Val)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in namespaces {
        entry(&mut out, 1, name, &value.to_struct());
    }
    out
}

/// A message as an `Any`; it must hold no map of more than one entry.
pub(crate) fn any<M: Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A message as an `Any`, followed by pieces that it lacks.
pub(crate) fn any_with<M: Message + prost::Name>(message: &M, pieces: &[(u32, Vec<u8>)]) -> Any {
    let mut value = message.encode_to_vec();
    for (tag, bytes) in pieces {
        field(&mut value, *tag, bytes);
    }
    Any { type_url: M::type_url(), value }
}

/// Istio's way to configure filters whose messages are not published: a `udpa.type.v1.TypedStruct`.
pub(crate) fn typed_struct(type_url: &str, value: &Val) -> Any {
    let mut out = Vec::new();
    field(&mut out, 1, type_url.as_bytes());
    field(&mut out, 2, &value.to_struct());
    Any { type_url: "type.googleapis.com/udpa.type.v1.TypedStruct".into(), value: out }
}

/// A duration.
pub(crate) fn duration(value: std::time::Duration) -> wkt::Duration {
    wkt::Duration { seconds: value.as_secs().try_into().unwrap_or(i64::MAX), nanos: value.subsec_nanos() as i32 }
}

/// Seconds.
pub(crate) fn seconds(seconds: i64) -> wkt::Duration {
    wkt::Duration { seconds, nanos: 0 }
}

/// A wrapped number.
pub(crate) fn u32_value(value: u32) -> wkt::UInt32Value {
    wkt::UInt32Value { value }
}

/// A wrapped truth value.
pub(crate) fn bool_value(value: bool) -> wkt::BoolValue {
    wkt::BoolValue { value }
}

/// The type URL of a message.
pub(crate) fn type_url<M: prost::Name>() -> String {
    M::type_url()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_protos::{envoy::envoy::config::core::v3::Metadata, udpa::TypedStruct};

    #[test]
    fn prost_reads_what_is_written() {
        let value = Val::Obj(vec![("a", "x".into()), ("b", Val::Bool(true)), ("c", Val::List(vec![Val::Obj(vec![("d", "y".into())])]))]);
        let read = Metadata::decode(&*metadata(&[("istio", value.clone()), ("other", Val::Obj(vec![]))])).unwrap();
        assert_eq!(read.filter_metadata.len(), 2);
        let fields = &read.filter_metadata["istio"].fields;
        assert_eq!(fields.len(), 3);
        assert_eq!(fields["b"].kind, Some(wkt::value::Kind::BoolValue(true)));
        let typed = TypedStruct::decode(&*typed_struct("some.Type", &value).value).unwrap();
        assert_eq!(typed.type_url, "some.Type");
        assert_eq!(typed.value.unwrap().fields.len(), 3);
        assert_eq!(type_url::<Metadata>(), "type.googleapis.com/envoy.config.core.v3.Metadata");
    }
}
