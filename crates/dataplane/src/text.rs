//! A bootstrap as somebody wrote it: YAML or JSON, each field with its line.

use std::{fmt, sync::OnceLock};

use mizzen_protos::json::{Descriptors, JsonError, Unknown};
use prost::Message;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use crate::error::BootstrapError;

/// The longest bootstrap that is read, in bytes.
const MAX_TEXT: usize = 16 << 20;
/// How deep it may nest.
const MAX_DEPTH: usize = 96;

/// Where the fields of a bootstrap are written.
#[derive(Clone, Debug, Default)]
pub struct Places {
    file: String,
    text: String,
    /// Read when the first place is asked for: mostly none is.
    root: OnceLock<Option<Node>>,
}

/// A value with its line, counted from 1.
#[derive(Clone, Debug)]
struct Node {
    line: u64,
    value: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    Leaf(Value),
    List(Vec<Node>),
    /// Each with the line of its key.
    Map(Vec<(String, u64, Node)>),
}

impl Places {
    /// The text's places; `file` is how it is called in messages. What is no YAML has none.
    pub fn new(file: impl Into<String>, text: &str) -> Places {
        Places { file: file.into(), text: text.to_owned(), root: OnceLock::new() }
    }

    /// `FILE:LINE` of the field with this path (`static_resources.listeners[0].name`) or the nearest above it that is written; or the file alone.
    pub fn at(&self, path: &str) -> String {
        match self.line(path) {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }

    fn line(&self, path: &str) -> Option<u64> {
        let mut node = self.root.get_or_init(|| parse(&self.text).ok()).as_ref()?;
        let mut line = node.line;
        for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty()) {
            match &node.value {
                Inner::Map(entries) => {
                    let found = entries.iter().find(|(key, ..)| same_field(key, step));
                    let Some((_, at, value)) = found else { break };
                    (line, node) = (*at, value);
                }
                Inner::List(items) => {
                    let Some(item) = step.parse().ok().and_then(|index: usize| items.get(index)) else { break };
                    (line, node) = (item.line, item);
                }
                Inner::Leaf(_) => break,
            }
        }
        Some(line)
    }
}

/// Names of fields may be written in snake or in camel case.
fn same_field(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect::<String>();
    a == b || plain(a) == plain(b)
}

/// Reads a message from YAML or JSON, of which the second is nearly the first.
pub(crate) fn read<M: Message + prost::Name + Default>(text: &str, unknown: Unknown) -> Result<M, BootstrapError> {
    if text.len() > MAX_TEXT {
        return Err(BootstrapError::Text { line: 1, field: String::new(), reason: format!("more than {MAX_TEXT} bytes") });
    }
    // JSON's escapes and its tabs are not all YAML's.
    let value = if text.trim_start().starts_with('{') { serde_json::from_str(text).ok().map(any_types_first) } else { None };
    let value = match value {
        Some(value) => value,
        None => any_types_first(parse(text)?.into_json()),
    };
    let mut track = serde_path_to_error::Track::new();
    // The descriptors of all messages are large: they live for this call only.
    let result = Descriptors::load().from_value_with(serde_path_to_error::Deserializer::new(value, &mut track), unknown);
    result.map_err(|error| {
        let reason = match error {
            JsonError::Read { reason, .. } => reason,
            other => other.to_string(),
        };
        let mut field = track.path().to_string();
        let name = reason.strip_prefix("unrecognized field name '").and_then(|rest| rest.split('\'').next());
        if let Some(name) = name {
            field = if field == "." { name.to_owned() } else { format!("{field}.{name}") };
        }
        let line = Places::new("", text).line(&field).unwrap_or(1);
        BootstrapError::Text { line, field, reason: if name.is_some() { "unknown field".to_owned() } else { reason } }
    })
}

/// With `@type` before all else, so that what comes after it is read in place, with its path.
fn any_types_first(value: Value) -> Value {
    match value {
        Value::Object(mut map) => {
            let kind = map.shift_remove("@type");
            let first = kind.map(|kind| ("@type".to_owned(), kind));
            first.into_iter().chain(map.into_iter().map(|(key, value)| (key, any_types_first(value)))).collect()
        }
        Value::Array(items) => items.into_iter().map(any_types_first).collect(),
        leaf => leaf,
    }
}

fn parse(text: &str) -> Result<Node, BootstrapError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH, flow_nesting_limit: MAX_DEPTH, max_nodes: 2_000_000, max_total_scalar_bytes: 2 * MAX_TEXT,
        },
        emit_comments: false,
        with_snippet: false,
    };
    // JSON may be indented by tabs, YAML may not.
    let spaced = if text.trim_start().starts_with('{') { text.replace('\t', " ") } else { String::new() };
    let text = if spaced.is_empty() { text } else { &spaced };
    serde_saphyr::from_str_with_options::<Node>(text, options).map_err(|error| {
        let line = error.location().map_or(1, |l| l.line()).max(1);
        let message = UserMessageFormatter.format_message(error.without_snippet());
        BootstrapError::Text { line, field: String::new(), reason: message.lines().next().unwrap_or_default().to_owned() }
    })
}

impl Node {
    fn into_json(self) -> Value {
        match self.value {
            Inner::Leaf(value) => value,
            Inner::List(items) => items.into_iter().map(Node::into_json).collect(),
            Inner::Map(entries) => Value::Object(entries.into_iter().map(|(key, _, node)| (key, node.into_json())).collect()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let spanned = Spanned::<Inner>::deserialize(deserializer)?;
        Ok(Node { line: spanned.referenced.line(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Inner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Inner, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Inner;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Inner, E> {
        Ok(Inner::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Inner, E> {
        Ok(Inner::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Inner, D::Error> {
        Inner::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Inner, E> {
        Ok(Inner::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Inner, E> {
        Ok(Inner::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Inner, E> {
        Ok(Inner::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Inner, E> {
        Ok(Inner::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Inner, E> {
        Ok(Inner::Leaf(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Inner, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Inner::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Inner, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push((key.value, key.referenced.line(), map.next_value()?));
        }
        Ok(Inner::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use mizzen_protos::envoy::envoy::config::bootstrap::v3::Bootstrap;

    use super::*;

    const HCM: &str = "\
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 80}}
    filterChains:
    - filters:
      - name: hcm
        typed_config:
          stat_prefix: web
          HERE
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
";

    fn check(text: &str, expected: &str) {
        let got = match read::<Bootstrap>(text, Unknown::Refused) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(got == expected || (expected != "ok" && got.starts_with(expected)), "{got}\nexpected {expected}\n{text}");
    }

    #[test]
    fn errors_name_line_and_field() {
        let chain = "static_resources.listeners[0].filterChains[0].filters[0].typed_config";
        check(&HCM.replace("HERE", "http_filters: []"), "ok");
        check(&HCM.replace("HERE", "stat_prefx: x"), &format!("10: {chain}.stat_prefx: unknown field"));
        check(&HCM.replace("HERE", "http_filters: [{nmae: x}]"), &format!("10: {chain}.http_filters[0].nmae: unknown field"));
        check(&HCM.replace("HERE", "codec_type: HTTP9"), &format!("10: {chain}.codec_type: "));
        check(&HCM.replace("HERE", "stream_idle_timeout: 5"), &format!("10: {chain}.stream_idle_timeout: "));
        check(&HCM.replace("HERE", "}"), "10: ");
        check(&HCM.replace("HERE", "stat_prefix: twice"), "10: ");
        check("node: {id: x}\nnodes: 1\n", "2: nodes: unknown field");
        check("admin:\nnode: {id: 0x10}\n", "2: node.id: ");
        check("{\"node\": {\"id\": \"a\\/b\"},\n\t\"admin\": null}", "ok");
        check("{\"node\": {\"id\": \"a\"},\n\t\"admin\": {\"nothing\": 1}}", "2: admin.nothing: unknown field");
        check("{\n\"node\": {\"id\": ", "2: ");
        check("- a\n", "1: ");
        check("a: &a [*a]\n", "1: ");
    }

    #[test]
    fn unknown_fields_are_skipped_on_demand() {
        let text = HCM.replace("HERE", "stat_prefx: x");
        assert_eq!(
            read::<Bootstrap>(&text, Unknown::Skipped).unwrap(),
            read(&HCM.replace("          HERE\n", ""), Unknown::Refused).unwrap()
        );
    }

    #[test]
    fn places() {
        let places = Places::new("b.yaml", &HCM.replace("          HERE\n", ""));
        for (path, expected) in [
            ("static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefix", "b.yaml:9"),
            ("static_resources.listeners[0].traffic_direction", "b.yaml:3"),
            ("static_resources.clusters[4]", "b.yaml:1"),
        ] {
            assert_eq!(places.at(path), expected, "{path}");
        }
        assert_eq!(Places::new("b.yaml", "a: [").at("a"), "b.yaml");
    }
}
