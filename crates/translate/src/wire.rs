//! Values as messages have them: JSON, metadata, durations, wrapped numbers.

use mizzen_protos::{
    envoy::envoy::config::core::v3::Metadata,
    udpa::TypedStruct,
    wkt::{self, Struct, Value, value::Kind},
};

/// A text in JSON.
pub(crate) fn text(value: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(value.into())) }
}

/// A number in JSON.
pub(crate) fn number(value: u32) -> Value {
    Value { kind: Some(Kind::NumberValue(value.into())) }
}

/// A truth value in JSON.
pub(crate) fn flag(value: bool) -> Value {
    Value { kind: Some(Kind::BoolValue(value)) }
}

/// A list in JSON.
pub(crate) fn list(values: Vec<Value>) -> Value {
    Value { kind: Some(Kind::ListValue(wkt::ListValue { values })) }
}

/// An object in JSON, within another.
pub(crate) fn nested(fields: Struct) -> Value {
    Value { kind: Some(Kind::StructValue(fields)) }
}

/// An object in JSON.
pub(crate) fn object<'k>(fields: impl IntoIterator<Item = (&'k str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

/// The same of an object as `serde_json` has it.
pub(crate) fn json_object(members: &serde_json::Map<String, serde_json::Value>) -> Struct {
    object(members.iter().map(|(key, value)| (key.as_str(), json(value))))
}

fn json(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => return text(value),
        serde_json::Value::Array(items) => return list(items.iter().map(json).collect()),
        serde_json::Value::Object(members) => return nested(json_object(members)),
    };
    Value { kind: Some(kind) }
}

/// Metadata, by who reads it.
pub(crate) fn metadata<'k>(namespaces: impl IntoIterator<Item = (&'k str, Struct)>) -> Metadata {
    let filter_metadata = namespaces.into_iter().map(|(name, fields)| (name.to_owned(), fields)).collect();
    Metadata { filter_metadata, ..Default::default() }
}

/// Istio's way to configure filters whose messages are not published: a `udpa.type.v1.TypedStruct`.
pub(crate) fn typed_struct(type_url: &str, value: Struct) -> TypedStruct {
    TypedStruct { type_url: type_url.into(), value: Some(value) }
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
