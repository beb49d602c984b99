//! JSON of untrusted bytes as a `Struct`: one object, without repeated names, and not deep.

use std::collections::HashMap;
use std::fmt;

use mizzen_protos::wkt::{ListValue, Struct, Value, value::Kind};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How deep objects and lists may lie in each other.
const DEPTH: usize = 16;

/// The object that these bytes are, all of them.
pub(super) fn object(bytes: &[u8]) -> Option<Struct> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(DEPTH).deserialize(&mut from).ok()?;
    from.end().ok()?;
    match value.kind {
        Some(Kind::StructValue(object)) => Some(object),
        _ => None,
    }
}

/// A value as JSON; names are in order.
pub(crate) fn text(value: &Value) -> String {
    to_json(value).to_string()
}

fn to_json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(b)) => (*b).into(),
        Some(Kind::NumberValue(n)) => match whole(*n) {
            Some(whole) => whole.into(),
            None => (*n).into(),
        },
        Some(Kind::StringValue(s)) => s.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StructValue(object)) => {
            let mut names: Vec<_> = object.fields.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            serde_json::Value::Object(names.into_iter().map(|(name, value)| (name.clone(), to_json(value))).collect())
        }
    }
}

/// A number that is a whole one, as such.
#[allow(clippy::cast_possible_truncation)] // Only numbers within the range come there.
pub(crate) fn whole(n: f64) -> Option<i64> {
    (n.fract() == 0.0 && n.abs() < 9.0e18).then_some(n as i64)
}

/// Reads a value in which there may be so many levels.
struct Seed(usize);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

fn of(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(of(Kind::NullValue(0)))
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<Value, E> {
        Ok(of(Kind::BoolValue(b)))
    }

    #[allow(clippy::cast_precision_loss)] // A `Struct` has no other numbers.
    fn visit_i64<E: Error>(self, n: i64) -> Result<Value, E> {
        Ok(of(Kind::NumberValue(n as f64)))
    }

    #[allow(clippy::cast_precision_loss)] // As above.
    fn visit_u64<E: Error>(self, n: u64) -> Result<Value, E> {
        Ok(of(Kind::NumberValue(n as f64)))
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Value, E> {
        Ok(of(Kind::NumberValue(n)))
    }

    fn visit_str<E: Error>(self, s: &str) -> Result<Value, E> {
        Ok(of(Kind::StringValue(s.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let Some(below) = self.0.checked_sub(1) else { return Err(A::Error::custom("too deep")) };
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Seed(below))? {
            values.push(value);
        }
        Ok(of(Kind::ListValue(ListValue { values })))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let Some(below) = self.0.checked_sub(1) else { return Err(A::Error::custom("too deep")) };
        let mut fields = HashMap::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = object.next_value_seed(Seed(below))?;
            // Who reads the token after us may take another one of the two.
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(of(Kind::StructValue(Struct { fields })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects() {
        let deep = |n: usize| format!("{{\"a\":{}1{}}}", "[".repeat(n), "]".repeat(n));
        let check = |text: &str, good: bool| assert_eq!(object(text.as_bytes()).is_some(), good, "{text}");
        check("{}", true);
        check(" {\"a\":[1,null,true,\"x\",{\"b\":-2.5}]} ", true);
        check(&deep(DEPTH - 1), true);
        check(&deep(DEPTH), false);
        check(&"[".repeat(100_000), false);
        for bad in [
            "",
            "1",
            "[]",
            "null",
            "{} {}",
            "{}x",
            "{\"a\":1,\"a\":2}",
            "{\"a\":{\"b\":1,\"b\":1}}",
            "{\"a\":1,\"\\u0061\":2}",
            "{a:1}",
            "{\"a\":1e999}",
        ] {
            check(bad, false);
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn texts() {
        for same in ["{\"a\":[1,null,true,\"x\",{\"b\":-2.5}],\"z\":123456789012}", "{}", "{\"q\":\"\\\"\"}"] {
            let object = object(same.as_bytes()).unwrap();
            assert_eq!(text(&of(Kind::StructValue(object))), same);
        }
    }
}
