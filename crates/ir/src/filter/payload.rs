//! What an extension is configured by: a message, or Istio's own configurations as JSON in a `TypedStruct`.

use mizzen_protos::{Any, udpa, wkt};
use mizzen_types::Name;

use crate::compile::cx::{Cx, Res, name, type_name};

/// An extension's configuration.
pub(crate) struct Payload {
    /// The name of its type.
    pub(crate) kind: String,
    body: Body,
}

enum Body {
    Bytes(Vec<u8>),
    Json(wkt::Struct),
}

/// An extension's configuration, out of its wrapping.
pub(crate) fn payload(cx: &Cx, any: &Any) -> Res<Payload> {
    match type_name(any) {
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {
            // Both have the same fields.
            let udpa::TypedStruct { type_url, value } = cx.unpack(any)?;
            let kind = type_url.rsplit('/').next().unwrap_or_default().to_owned();
            Ok(Payload { kind, body: Body::Json(value.unwrap_or_default()) })
        }
        kind => Ok(Payload { kind: kind.to_owned(), body: Body::Bytes(any.value.clone()) }),
    }
}

impl Payload {
    pub(crate) fn bytes<M: prost::Message + Default>(&self, cx: &Cx) -> Res<M> {
        match &self.body {
            Body::Bytes(bytes) => cx.decode(bytes),
            Body::Json(_) => cx.refuse("", format!("{} is only read in its binary form", self.kind)),
        }
    }

    /// The members of one of Istio's own configurations, each to be taken out; snake case. They label and count, no more: what is in the
    /// binary form, which is not read, is harmless.
    pub(crate) fn json(&self, cx: &mut Cx) -> Json {
        match &self.body {
            Body::Json(json) => Json(json.fields.iter().map(|(k, v)| (snake(k), v.clone())).collect()),
            Body::Bytes(bytes) => {
                if !bytes.is_empty() {
                    cx.warn("", format!("{} is only read as a TypedStruct: its defaults count", self.kind));
                }
                Json::default()
            }
        }
    }
}

/// `camelCase` as `snake_case`.
fn snake(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The members of a JSON object.
#[derive(Default)]
pub(crate) struct Json(std::collections::BTreeMap<String, wkt::Value>);

impl Json {
    fn kind(&mut self, key: &str) -> Option<wkt::value::Kind> {
        self.0.remove(key)?.kind
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        match self.kind(key)? {
            wkt::value::Kind::StringValue(s) => Some(s),
            _ => None,
        }
    }

    pub(crate) fn flag(&mut self, key: &str) -> bool {
        matches!(self.kind(key), Some(wkt::value::Kind::BoolValue(true)))
    }

    pub(crate) fn objects(&mut self, key: &str) -> Vec<Json> {
        self.list(key).into_iter().filter_map(Json::of).collect()
    }

    pub(crate) fn texts(&mut self, key: &str) -> Vec<Name> {
        let text = |v: wkt::Value| match v.kind {
            Some(wkt::value::Kind::StringValue(s)) => Some(name(&s)),
            _ => None,
        };
        self.list(key).into_iter().filter_map(text).collect()
    }

    fn list(&mut self, key: &str) -> Vec<wkt::Value> {
        match self.kind(key) {
            Some(wkt::value::Kind::ListValue(list)) => list.values,
            _ => Vec::new(),
        }
    }

    pub(crate) fn of(value: wkt::Value) -> Option<Json> {
        match value.kind? {
            wkt::value::Kind::StructValue(s) => Some(Json(s.fields.into_iter().map(|(k, v)| (snake(&k), v)).collect())),
            _ => None,
        }
    }

    /// Takes a member out, whatever it is.
    pub(crate) fn take(&mut self, key: &str) -> Option<wkt::Value> {
        self.0.remove(key)
    }

    /// Whether there is such a member.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The members that nobody took out.
    pub(crate) fn left(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is left does nothing.
    pub(crate) fn rest(self, cx: &mut Cx) {
        for key in self.0.keys() {
            cx.warn(key, "it does nothing here");
        }
    }
}
