//! Dynamic metadata: what a request's filters leave behind, for other filters, policies, logs and header formats to read.

use mizzen_protos::wkt::{Struct, Value, value::Kind};
use mizzen_types::Name;

use crate::config::{MetadataMatch, ValueMatch};

/// What filters left, by the filter's name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(Name, Struct)>);

impl Metadata {
    /// Whether nobody left anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a filter left.
    pub fn of(&self, filter: &str) -> Option<&Struct> {
        self.0.iter().find(|(name, _)| **name == *filter).map(|(_, values)| values)
    }

    /// Merges `values` into what `filter` left before; they win.
    pub fn merge(&mut self, filter: &str, values: Struct) {
        match self.0.iter_mut().find(|(name, _)| **name == *filter) {
            Some((_, known)) => known.fields.extend(values.fields),
            None => self.0.push((filter.into(), values)),
        }
    }

    /// Leaves a text.
    pub fn put(&mut self, filter: &str, key: &str, text: &str) {
        let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
        self.merge(filter, Struct { fields: [(key.to_owned(), value)].into() });
    }

    /// Leaves a truth value.
    pub fn put_flag(&mut self, filter: &str, key: &str, flag: bool) {
        let value = Value { kind: Some(Kind::BoolValue(flag)) };
        self.merge(filter, Struct { fields: [(key.to_owned(), value)].into() });
    }

    /// The value at a path within what a filter left.
    pub fn value<'a>(&self, filter: &str, path: impl IntoIterator<Item = &'a str>) -> Option<&Value> {
        let mut path = path.into_iter();
        let mut at = self.of(filter)?.fields.get(path.next()?)?;
        for key in path {
            let Some(Kind::StructValue(inner)) = &at.kind else { return None };
            at = inner.fields.get(key)?;
        }
        Some(at)
    }
}

impl MetadataMatch {
    /// Whether the metadata passes.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        let value = metadata.value(&self.filter, self.path.iter().map(|key| &**key));
        self.value.matches(value) != self.invert
    }

    /// For people.
    pub fn describe(&self) -> String {
        let path: Vec<&str> = self.path.iter().map(|key| &**key).collect();
        let not = if self.invert { "not " } else { "" };
        let wanted = match &self.value {
            ValueMatch::Text(m) => m.describe(),
            other => format!("{other:?}"),
        };
        format!("{not}metadata {} {}: {wanted}", self.filter, path.join("."))
    }
}

impl ValueMatch {
    /// Whether a value passes; none: there is no such value.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        let kind = value.and_then(|v| v.kind.as_ref());
        match (self, kind) {
            (ValueMatch::Any(all), _) => all.iter().any(|m| m.matches(value)),
            (ValueMatch::Present(wanted), kind) => kind.is_some_and(|k| !matches!(k, Kind::NullValue(_))) == *wanted,
            (ValueMatch::Null, Some(Kind::NullValue(_))) => true,
            (ValueMatch::Number(range), Some(Kind::NumberValue(n))) => range.contains(n),
            (ValueMatch::Exactly(wanted), Some(Kind::NumberValue(n))) => (wanted - n).abs() < f64::EPSILON,
            (ValueMatch::Text(m), Some(Kind::StringValue(text))) => m.matches(text.as_bytes()),
            (ValueMatch::Bool(wanted), Some(Kind::BoolValue(b))) => wanted == b,
            (ValueMatch::OneOf(m), Some(Kind::ListValue(list))) => list.values.iter().any(|v| m.matches(Some(v))),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{StringMatch, StringTest};

    #[test]
    fn values_by_path() {
        let mut metadata = Metadata::default();
        metadata.put("a", "k", "v");
        let inner = Struct { fields: [("deep".to_owned(), Value { kind: Some(Kind::NumberValue(3.0)) })].into() };
        let value = Value { kind: Some(Kind::StructValue(inner)) };
        metadata.merge("a", Struct { fields: [("s".to_owned(), value)].into() });
        let check = |filter: &str, path: &[&str], value: ValueMatch, invert: bool| {
            let path = path.iter().map(|p| Name::from(*p)).collect();
            MetadataMatch { filter: filter.into(), path, value, invert }.matches(&metadata)
        };
        let text = |t: &str| ValueMatch::Text(StringMatch { test: StringTest::Exact(t.into()), ignore_case: false });
        assert!(check("a", &["k"], text("v"), false), "what was put stays when more is merged");
        assert!(!check("a", &["k"], text("w"), false));
        assert!(check("a", &["k"], text("w"), true));
        assert!(check("a", &["s", "deep"], ValueMatch::Number(3.0..4.0), false));
        assert!(!check("a", &["s", "deep"], ValueMatch::Number(2.0..3.0), false), "the end is excluded");
        assert!(!check("b", &["k"], ValueMatch::Present(true), false));
        assert!(check("b", &["k"], ValueMatch::Present(false), false));
        assert!(check("a", &["k"], ValueMatch::Any([ValueMatch::Null, text("v")].into()), false));
    }
}
