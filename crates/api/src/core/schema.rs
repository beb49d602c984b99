//! Kubernetes' own schema: which fields it does not know, and which are of the wrong type, also where the mesh does not look.

use std::{collections::BTreeSet, fmt};

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use crate::source::{Node, Value, child_path};

/// What the schema says of an object.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Paths of unknown fields.
    pub(crate) unknown: BTreeSet<String>,
    /// The first value of a wrong type: path and message.
    pub(crate) wrong: Option<(String, String)>,
}

/// Holds an object against the schema of `T`.
pub(crate) fn check<T: DeserializeOwned>(node: &Node) -> Verdict {
    let mut verdict = Verdict::default();
    let result = serde_ignored::deserialize::<_, _, T>(Reader { node, loose: false }, |path| {
        verdict.unknown.insert(written(&path));
    });
    if let Err(Error { path, message }) = result {
        verdict.wrong = Some((path.into_iter().rev().fold(String::new(), |path, step| step.below(&path)), message));
    }
    verdict
}

/// The path as this crate writes paths.
fn written(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", written(parent)),
        Path::Map { parent, key } => child_path(&written(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => written(parent),
    }
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn below(&self, path: &str) -> String {
        match self {
            Step::Key(key) => child_path(path, key),
            Step::Index(index) => format!("{path}[{index}]"),
        }
    }
}

/// A message, and the way to its place from the inside out.
#[derive(Debug)]
struct Error {
    path: Vec<Step>,
    message: String,
}

impl Error {
    fn below(mut self, step: Step) -> Error {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error { path: Vec::new(), message: message.to_string() }
    }
}

/// Serde's view of a node. `loose`: a number is taken for a text, as Kubernetes does for quantities.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    loose: bool,
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) if self.loose => visitor.visit_string(value.to_string()),
            Value::Float(value) if self.loose => visitor.visit_string(value.to_string()),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.node.value, Value::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(Reader { loose: name == "Quantity", ..self })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(Reader { node, loose: false }).map(Some).map_err(|error| error.below(Step::Index(index)))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, crate::source::Entry>,
    value: Option<&'a crate::source::Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.value = self.entries.next();
        let Some(entry) = self.value else { return Ok(None) };
        seed.deserialize((&*entry.key).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(Reader { node: &entry.value, loose: false }).map_err(|error| error.below(Step::Key(entry.key.to_string())))
    }
}
