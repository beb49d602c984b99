//! Protojson: typed messages and `Any` to JSON, and back.
//!
//! The descriptors of all messages take several megabytes once they are unpacked, so they are a value: [`Descriptors::load`] makes it, and
//! dropping it gives the memory back. Written here rather than by the reflection crate's serializer for three reasons: an `Any` of an unknown
//! type is written in base64 instead of failing the whole, numbers look as Go prints them, and secrets are not written.

use std::io::Read;

use base64::Engine;
use prost::{Message, Name as MessageName};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value as Field,
};
use serde_json::{Map, Number, Value};

use crate::Any;

include!(concat!(env!("OUT_DIR"), "/sensitive.rs"));

const REDACTED: &str = "[redacted]";
/// An `Any` in an `Any` beyond this depth is written in base64.
const DEPTH: usize = 32;

/// How fields are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As in the `.proto` file: `connect_timeout`. Envoy's own dumps.
    Proto,
    /// `connectTimeout`.
    Json,
}

/// What is done about fields that a message does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The text is refused.
    Refused,
    /// They are passed over.
    Skipped,
}

/// Why a message cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No descriptor.
    #[error("`{0}` is not a known message type")]
    UnknownType(String),
    /// The text is JSON or YAML, but not such a message.
    #[error("not a {message}: {reason}")]
    Read {
        /// The message's name.
        message: String,
        /// What the reader says.
        reason: String,
    },
    /// The bytes are no such message.
    #[error("malformed {0}")]
    Malformed(String),
}

/// The descriptors of all messages, unpacked.
#[derive(Clone, Debug)]
pub struct Descriptors(DescriptorPool);

/// A message as JSON; loads the descriptors for this one call.
///
/// # Errors
/// If the bytes are not a message of that type. An unknown type is no error.
pub fn to_value(any: &Any, names: Names) -> Result<Value, JsonError> {
    Descriptors::load().any_to_value(any, names)
}

impl Descriptors {
    /// Unpacks them; some tens of milliseconds.
    ///
    /// # Panics
    /// Never: what is unpacked was packed by the build.
    #[allow(clippy::expect_used)]
    pub fn load() -> Self {
        let packed: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.gz"));
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).expect("packed by the build");
        Descriptors(DescriptorPool::decode(bytes.as_slice()).expect("encoded by the build"))
    }

    /// Whether messages of this type can be converted.
    pub fn knows(&self, type_url: &str) -> bool {
        self.descriptor(type_url).is_ok()
    }

    /// A typed message as JSON.
    ///
    /// # Errors
    /// If the type is not among the descriptors.
    pub fn to_value<M: Message + MessageName>(&self, message: &M, names: Names) -> Result<Value, JsonError> {
        let message = self.decode(&M::full_name(), &message.encode_to_vec())?;
        Ok(Writer { names, pool: self }.message(&message, false, 0))
    }

    /// An `Any` as JSON, with its `@type`.
    ///
    /// # Errors
    /// If the bytes are not a message of that type. An unknown type is no error.
    pub fn any_to_value(&self, any: &Any, names: Names) -> Result<Value, JsonError> {
        if self.knows(&any.type_url) {
            self.decode(&any.type_url, &any.value)?;
        }
        Ok(Writer { names, pool: self }.any(&any.type_url, &any.value, false, 0))
    }

    /// Reads a typed message from JSON, or from YAML through its deserializer. Names may be in either style; an unknown field is an error.
    ///
    /// # Errors
    /// If it is not such a message.
    pub fn from_value<'de, M, D>(&self, value: D) -> Result<M, JsonError>
    where
        M: Message + MessageName + Default,
        D: serde::Deserializer<'de>,
    {
        self.from_value_with(value, Unknown::Refused)
    }

    /// As [`Descriptors::from_value`], with a choice about unknown fields.
    ///
    /// # Errors
    /// If it is not such a message.
    pub fn from_value_with<'de, M, D>(&self, value: D, unknown: Unknown) -> Result<M, JsonError>
    where
        M: Message + MessageName + Default,
        D: serde::Deserializer<'de>,
    {
        let name = M::full_name();
        let message = self.read(&name, value, unknown)?;
        message.transcode_to().map_err(|_| JsonError::Malformed(name))
    }

    /// Reads a message of a type that is known by its name or URL only.
    ///
    /// # Errors
    /// If the type is unknown, or it is not such a message.
    pub fn any_from_value<'de, D: serde::Deserializer<'de>>(&self, type_url: &str, value: D) -> Result<Any, JsonError> {
        let message = self.read(type_url, value, Unknown::Refused)?;
        let name = message.descriptor().full_name().to_owned();
        Ok(Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() })
    }

    fn read<'de, D: serde::Deserializer<'de>>(&self, name: &str, value: D, unknown: Unknown) -> Result<DynamicMessage, JsonError> {
        let descriptor = self.descriptor(name)?;
        let options = DeserializeOptions::new().deny_unknown_fields(unknown == Unknown::Refused);
        let error = |e: D::Error| JsonError::Read { message: name.to_owned(), reason: e.to_string() };
        DynamicMessage::deserialize_with_options(descriptor, value, &options).map_err(error)
    }

    fn descriptor(&self, type_url: &str) -> Result<MessageDescriptor, JsonError> {
        let name = type_url.rsplit('/').next().unwrap_or_default();
        self.0.get_message_by_name(name).ok_or_else(|| JsonError::UnknownType(name.to_owned()))
    }

    fn decode(&self, type_url: &str, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
        DynamicMessage::decode(self.descriptor(type_url)?, bytes).map_err(|_| JsonError::Malformed(type_url.to_owned()))
    }
}

struct Writer<'a> {
    names: Names,
    pool: &'a Descriptors,
}

impl Writer<'_> {
    fn message(&self, message: &DynamicMessage, secret: bool, depth: usize) -> Value {
        match well_known(message) {
            Some(WellKnown::Any(url, bytes)) => self.any(&url, &bytes, secret, depth),
            Some(WellKnown::Plain(value)) => value,
            Some(WellKnown::Wrapped(field)) => {
                let field = message.get_field(&field).into_owned();
                self.plain(&field, None, secret, depth)
            }
            Some(WellKnown::Struct) => {
                message.fields().next().map_or_else(|| Value::Object(Map::new()), |(d, v)| self.field(&d, v, secret, depth))
            }
            Some(WellKnown::List) => {
                message.fields().next().map_or_else(|| Value::Array(Vec::new()), |(d, v)| self.field(&d, v, secret, depth))
            }
            Some(WellKnown::Value) => self.struct_value(message, secret, depth),
            None => Value::Object(self.object(message, secret, depth)),
        }
    }

    fn object(&self, message: &DynamicMessage, secret: bool, depth: usize) -> Map<String, Value> {
        let name = |field: &FieldDescriptor| match self.names {
            Names::Proto => field.name().to_owned(),
            Names::Json => field.json_name().to_owned(),
        };
        message.fields().map(|(field, value)| (name(&field), self.field(&field, value, secret, depth))).collect()
    }

    fn field(&self, field: &FieldDescriptor, value: &Field, secret: bool, depth: usize) -> Value {
        let secret = secret || SENSITIVE.binary_search(&field.full_name()).is_ok();
        let kind = field.kind();
        let kind = match &kind {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
            _ => kind,
        };
        self.plain(value, Some(&kind), secret, depth)
    }

    fn plain(&self, value: &Field, kind: Option<&Kind>, secret: bool, depth: usize) -> Value {
        match value {
            Field::Bool(b) => Value::Bool(*b),
            Field::I32(n) => (*n).into(),
            Field::U32(n) => (*n).into(),
            Field::I64(n) => n.to_string().into(),
            Field::U64(n) => n.to_string().into(),
            Field::F32(n) => float(n.to_string().parse().unwrap_or(f64::from(*n))),
            Field::F64(n) => float(*n),
            Field::String(_) | Field::Bytes(_) if secret => REDACTED.into(),
            Field::String(text) => text.as_str().into(),
            Field::Bytes(bytes) => base64(bytes).into(),
            Field::EnumNumber(n) => match kind {
                Some(Kind::Enum(e)) => e.get_value(*n).map_or_else(|| (*n).into(), |v| v.name().into()),
                _ => (*n).into(),
            },
            Field::Message(message) => self.message(message, secret, depth),
            Field::List(list) => list.iter().map(|v| self.plain(v, kind, secret, depth)).collect(),
            Field::Map(map) => {
                let mut entries: Vec<(String, Value)> = map.iter().map(|(k, v)| (key(k), self.plain(v, kind, secret, depth))).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(entries.into_iter().collect())
            }
        }
    }

    fn struct_value(&self, message: &DynamicMessage, secret: bool, depth: usize) -> Value {
        match message.fields().next() {
            Some((field, value)) if field.name() != "null_value" => self.field(&field, value, secret, depth),
            _ => Value::Null,
        }
    }

    fn any(&self, type_url: &str, bytes: &[u8], secret: bool, depth: usize) -> Value {
        let mut object = Map::new();
        if type_url.is_empty() && bytes.is_empty() {
            return Value::Object(object);
        }
        object.insert("@type".to_owned(), type_url.into());
        let message = if depth < DEPTH { self.pool.decode(type_url, bytes).ok() } else { None };
        match message {
            None if secret => drop(object.insert("value".to_owned(), REDACTED.into())),
            None => drop(object.insert("value".to_owned(), base64(bytes).into())),
            Some(message) if well_known(&message).is_some() => {
                object.insert("value".to_owned(), self.message(&message, secret, depth + 1));
            }
            Some(message) => object.extend(self.object(&message, secret, depth + 1)),
        }
        Value::Object(object)
    }
}

/// The messages that have a form of their own in JSON.
enum WellKnown {
    Any(String, Vec<u8>),
    Plain(Value),
    Wrapped(FieldDescriptor),
    Struct,
    List,
    Value,
}

fn well_known(message: &DynamicMessage) -> Option<WellKnown> {
    let descriptor = message.descriptor();
    let name = descriptor.full_name().strip_prefix("google.protobuf.")?;
    let numbers = || {
        let seconds = message.get_field_by_name("seconds").and_then(|v| v.as_i64()).unwrap_or_default();
        (seconds, message.get_field_by_name("nanos").and_then(|v| v.as_i32()).unwrap_or_default())
    };
    Some(match name {
        "Any" => {
            let url = message.get_field_by_name("type_url")?.as_str()?.to_owned();
            WellKnown::Any(url, message.get_field_by_name("value")?.as_bytes()?.to_vec())
        }
        "Duration" => {
            let (seconds, nanos) = numbers();
            let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
            WellKnown::Plain(format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs())).into())
        }
        "Timestamp" => {
            let (seconds, nanos) = numbers();
            WellKnown::Plain(format!("{}{}Z", date(seconds), fraction(nanos.unsigned_abs())).into())
        }
        "FieldMask" => {
            let paths = message.get_field_by_name("paths")?.as_list()?.iter().filter_map(|p| p.as_str()).collect::<Vec<_>>().join(",");
            WellKnown::Plain(paths.into())
        }
        "Struct" => WellKnown::Struct,
        "ListValue" => WellKnown::List,
        "Value" => WellKnown::Value,
        "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value" | "BoolValue" | "StringValue"
        | "BytesValue" => WellKnown::Wrapped(descriptor.get_field_by_name("value")?),
        _ => return None,
    })
}

/// A fraction of a second in 0, 3, 6 or 9 digits.
fn fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    }
}

/// Seconds since 1970 as `2024-02-29T12:00:00`, by the proleptic Gregorian calendar.
fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years are counted from March of the year 0, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// A number as Go prints it: without a fraction if it has none.
fn float(number: f64) -> Value {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    // Beyond 2^53 not every integer is a double; those are printed with their exponent.
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        #[allow(clippy::cast_possible_truncation)]
        return Value::Number(Number::from(number as i64));
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(b) => b.to_string(),
        MapKey::I32(n) => n.to_string(),
        MapKey::I64(n) => n.to_string(),
        MapKey::U32(n) => n.to_string(),
        MapKey::U64(n) => n.to_string(),
        MapKey::String(text) => text.clone(),
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
