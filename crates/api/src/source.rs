//! A document as a tree of values, each with its position. This is the one module that knows the YAML library.
//!
//! The tree lives as long as its object is read. What stays is the text, from which the tree is made again when somebody asks where a field stands:
//! that is seldom, and the tree is ten times as large.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter, options::DuplicateKeyPolicy};

use crate::{
    limits::{MAX_ALIASES, MAX_DEPTH, MAX_NODES, MAX_REPLAYED, MAX_TEXT},
    plain,
};

/// An object as it was written. What comes from no text has none.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The document, shared by the objects of a list.
    text: Option<Arc<str>>,
    /// How many lines of its file stand before it.
    line: u32,
    /// Which item of a list.
    item: Option<u32>,
}

/// A value as it was written, whatever a kind says of it, with its place.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

/// A value.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(Box<str>),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order in which it was written.
    Map(Vec<Entry>),
}

/// One field of a map, with the place of its key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Box<str>,
    /// The key's line, from 1.
    pub line: u32,
    /// The key's column, from 1.
    pub column: u32,
    /// The value.
    pub value: Node,
}

/// Why a text is no YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) message: String,
}

impl Source {
    /// A document that was read from this text.
    pub(crate) fn new(text: Arc<str>, line: u32) -> Source {
        Source { text: Some(text), line, item: None }
    }

    /// An item of it, if it is a list.
    pub(crate) fn item(&self, number: usize) -> Source {
        Source { item: u32::try_from(number).ok(), ..self.clone() }
    }

    /// Whether there is no text from which anything could be read.
    pub fn is_empty(&self) -> bool {
        self.text.is_none()
    }

    /// Line and column of the field with this path (`spec.http[0].timeout`, `metadata.labels["app.kubernetes.io/name"]`), or of the nearest
    /// field above it that is written.
    pub fn position(&self, path: &str) -> (u32, u32) {
        self.node().position(path)
    }

    /// The text of the object's document, and how many lines of its file stand before it; `None` if there is more in it than the object, or none.
    pub fn document(&self) -> Option<(&str, u32)> {
        self.text.as_deref().filter(|_| self.item.is_none()).map(|text| (text, self.line))
    }

    /// The object as JSON on one line: enough to read it again without its file.
    pub fn to_json(&self) -> String {
        self.node().to_json().to_string()
    }

    /// The values again. What was read once can be read twice.
    pub fn node(&self) -> Node {
        let text = self.text.as_deref().unwrap_or_default();
        let node = Node::parse(text, self.line, false).unwrap_or_default();
        match self.item {
            Some(number) => node.into_items().into_iter().nth(number as usize).unwrap_or_default(),
            None => node,
        }
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The steps of a path; what is no path ends it.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]")?;
            rest = after;
            return Some(Step::Key(key));
        }
        if let Some(indexed) = rest.strip_prefix('[') {
            let (index, after) = indexed.split_once(']')?;
            rest = after;
            return index.parse().ok().map(Step::Index);
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        rest = after;
        Some(Step::Key(key))
    })
}

/// The path of a field below `path`.
pub(crate) fn child_path(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && !key.bytes().any(|b| matches!(b, b'.' | b'[' | b']' | b'"' | b'/' | b' '));
    let (before, after) = match (path.is_empty(), plain) {
        (true, true) => ("", ""),
        (false, true) => (".", ""),
        (_, false) => ("[\"", "\"]"),
    };
    // Each value that is read has a path: one step, and no more room than it needs.
    [path, before, key, after].concat()
}

impl Node {
    /// Reads one document; `line` lines of its file stand before it. With `lenient`, the first of two equal keys counts.
    pub(crate) fn parse(text: &str, line: u32, lenient: bool) -> Result<Node, SyntaxError> {
        plain::parse(text, line).map_or_else(|| Node::parse_any(text, line, lenient), Ok)
    }

    /// The same by the library, whatever is in it.
    pub(crate) fn parse_any(text: &str, line: u32, lenient: bool) -> Result<Node, SyntaxError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, flow_nesting_limit: MAX_DEPTH, max_nodes: MAX_NODES, max_total_scalar_bytes: 2 * MAX_TEXT },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED, max_replay_stack_depth: MAX_ALIASES },
            duplicate_keys: if lenient { DuplicateKeyPolicy::FirstWins } else { DuplicateKeyPolicy::Error },
            emit_comments: false,
            with_snippet: false,
        };
        match serde_saphyr::from_str_with_options::<Node>(text, options) {
            Ok(mut node) => {
                node.shift(line);
                Ok(node)
            }
            Err(error) => {
                let place = error.location().map(|l| (small(l.line()), small(l.column()))).unwrap_or((1, 1));
                let message = UserMessageFormatter.format_message(error.without_snippet());
                let message = message.lines().next().unwrap_or_default().trim_end_matches('.').replace(char::is_control, " ");
                let message = match message.strip_prefix("duplicate mapping key: ") {
                    Some(key) => format!("`{}` is written twice", key.trim_end_matches(" not allowed here")),
                    None => message,
                };
                Err(SyntaxError { line: line + place.0.max(1), column: place.1, message })
            }
        }
    }

    /// Reads a text that is a field's value, such as that of a config map's key; `line` lines of its file stand before it. `None`: it is no YAML.
    pub fn of_text(text: &str, line: u32) -> Option<Node> {
        (text.len() <= MAX_TEXT).then(|| Node::parse(text, line, false).ok()).flatten()
    }

    /// Line and column of the field with this path, or of the nearest one above it that is written.
    pub fn position(&self, path: &str) -> (u32, u32) {
        let (mut node, mut place) = (self, (self.line, self.column));
        for step in steps(path) {
            let next = match (&node.value, step) {
                (Value::Map(entries), Step::Key(key)) => {
                    entries.iter().find(|e| &*e.key == key).map(|entry| (&entry.value, (entry.line, entry.column)))
                }
                (Value::List(items), Step::Index(index)) => items.get(index).map(|item| (item, (item.line, item.column))),
                _ => None,
            };
            match next {
                Some(found) => (node, place) = found,
                None => break,
            }
        }
        place
    }

    /// Whether this is a `kind: List` with its objects.
    pub(crate) fn is_list(&self) -> bool {
        let named = self.get("kind").and_then(Node::text).is_some_and(|kind| kind.ends_with("List"));
        named && self.get("items").is_some_and(|items| matches!(items.value, Value::List(_)))
    }

    /// The objects of a [`Node::is_list`].
    pub(crate) fn into_items(self) -> Vec<Node> {
        let Value::Map(entries) = self.value else { return Vec::new() };
        let items = entries.into_iter().find(|entry| &*entry.key == "items").map(|entry| entry.value.value);
        if let Some(Value::List(items)) = items { items } else { Vec::new() }
    }

    fn shift(&mut self, lines: u32) {
        self.line += lines;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.shift(lines)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.line += lines;
                    entry.value.shift(lines);
                }
            }
            _ => {}
        }
    }

    /// The value of a field, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
    }

    /// The value with this path (`spec.http[0].timeout`), if there is one.
    pub fn at(&self, path: &str) -> Option<&Node> {
        steps(path).try_fold(self, |node, step| match step {
            Step::Key(key) => node.get(key),
            Step::Index(index) => node.items().get(index),
        })
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        let Value::Text(text) = &self.value else { return None };
        Some(text)
    }

    /// The whole number, if this is one, or a text that holds one.
    pub fn int(&self) -> Option<i64> {
        match &self.value {
            Value::Int(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether this is `true`, or a text that says so.
    pub fn is_true(&self) -> bool {
        matches!(self.value, Value::Bool(true)) || self.text() == Some("true")
    }

    /// The items, if this is a list; else none.
    pub fn items(&self) -> &[Node] {
        let Value::List(items) = &self.value else { return &[] };
        items
    }

    /// The entries, if this is a map; else none.
    pub fn entries(&self) -> &[Entry] {
        let Value::Map(entries) = &self.value else { return &[] };
        entries
    }

    /// The values as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => (**value).into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| ((*entry.key).to_owned(), entry.value.to_json())).collect::<serde_json::Map<_, _>>().into()
            }
        }
    }
}

impl Value {
    /// What this is, for a message.
    pub(crate) fn describe(&self) -> String {
        match self {
            Value::Null => "empty".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(text) => format!("`{}`", shorten(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// A text for a message: on one line and not long.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node { value: spanned.value, line: small(spanned.referenced.line()), column: small(spanned.referenced.column()) })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
                Value::deserialize(deserializer)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
                Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
            }

            fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
                Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.into()))
            }

            fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
                Ok(Value::Text(String::from_utf8_lossy(value).into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let (line, column) = (small(key.referenced.line()), small(key.referenced.column()));
                    entries.push(Entry { key: key.value.into(), line, column, value: map.next_value()? });
                }
                Ok(Value::Map(entries))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a:\n  b: [1, {c: x}]\n  \"d.e/f\": >\n    text\n\n# comment\ng: yes\n\"0\": {h: 1.5}\n";

    #[test]
    fn positions() {
        let source = Source::new(TEXT.into(), 10);
        for (path, line, column) in [
            ("", 11, 1),
            ("a", 11, 1),
            ("a.b", 12, 3),
            ("a.b[0]", 12, 7),
            ("a.b[1].c", 12, 11),
            ("a.b[1].nothing", 12, 10),
            ("a.b[7]", 12, 3),
            ("a[\"d.e/f\"]", 13, 3),
            ("g", 17, 1),
            ("0.h", 18, 7),
        ] {
            assert_eq!(source.position(path), (line, column), "{path}");
        }
        assert_eq!(source.to_json(), r#"{"a":{"b":[1,{"c":"x"}],"d.e/f":"text\n"},"g":true,"0":{"h":1.5}}"#);
    }

    #[test]
    fn an_item_of_a_list() {
        let source = Source::new("kind: List\nitems:\n- a: 1\n- b: 2\n  c: 3\n".into(), 4).item(1);
        assert_eq!((source.position("c"), source.to_json().as_str()), ((9, 3), r#"{"b":2,"c":3}"#));
        assert_eq!((Source::default().position("a"), Source::default().to_json().as_str()), ((1, 1), "null"));
    }

    #[test]
    fn syntax_errors() {
        for (text, line) in [
            ("a: [1", 1),
            ("a: 1\na: 2\n", 2),
            ("a: 1\n b: 2", 2),
            ("a: *b", 1),
            ("a:\n\t- b", 2),
            (&"[".repeat(500), 1),
            ("a: \"\\q\"", 1),
        ] {
            let error = Node::parse(text, 0, false).unwrap_err();
            assert_eq!(error.line, line, "{text}: {}", error.message);
        }
    }

    #[test]
    fn bombs() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..12 {
            let last = format!("*a{}", i - 1);
            text += &format!("a{i}: &a{i} [{}]\n", [last.as_str(); 10].join(","));
        }
        assert!(Node::parse(&text, 0, false).is_err());
        let wide = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), ["*a"; 99].join(","));
        assert!(Node::parse(&wide, 0, false).is_err());
        // As deep as may be needs little of a thread's stack.
        let deep = format!("{}x{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        let parse = move || Node::parse(&deep, 0, false).map(|node| node.to_json().to_string().len());
        let length = std::thread::Builder::new().stack_size(1 << 20).spawn(parse).unwrap().join().unwrap();
        assert_eq!(length.unwrap(), 2 * MAX_DEPTH + 3);
    }
}
