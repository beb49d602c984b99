//! A kind's fields as a list for people.

use std::ptr;

use serde::{Serialize, Serializer};

use super::{Class, Least, Message, Names, Row, Type, Why, kind_table};
use crate::Kind;

/// A field of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Where it stands, below `spec`: `http[].match[].uri`. `[]` stands for each item of a list, `.*` for each entry of a map.
    pub path: String,
    /// What its value is, in words.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is acted on.
    #[serde(serialize_with = "class")]
    pub class: Class,
    /// If it is refused: what ignoring it could change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// Whether it must be written.
    pub required: bool,
    /// What holds if it is not written: a value, or words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<&'static str>,
    /// What it is for.
    pub description: &'static str,
    /// What else must hold of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

fn class<S: Serializer>(class: &Class, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(class.name())
}

/// The fields of one of Istio's kinds, in the order of its table; empty for Kubernetes' own kinds. A message that stands in several places
/// is written out at the first, to which the others point.
pub fn fields(kind: Kind) -> Vec<Field> {
    let mut list = List { fields: Vec::new(), seen: Vec::new() };
    if let Some(Type::Message(message)) = kind_table(kind).map(|table| table.of) {
        list.message(message, "");
    }
    list.fields
}

struct List {
    fields: Vec<Field>,
    /// Messages that are written out, and where.
    seen: Vec<(&'static Message, String)>,
}

impl List {
    fn message(&mut self, message: &'static Message, at: &str) {
        self.seen.push((message, at.to_owned()));
        for row in message.rows {
            let path = if at.is_empty() { row.name.to_owned() } else { format!("{at}.{}", row.name) };
            let (inner, below) = innermost(&row.of, path.clone());
            let known = inner.and_then(|inner| self.seen.iter().find(|(other, _)| ptr::eq(*other, inner)));
            let like = known.map(|(_, place)| format!(", as {place}")).unwrap_or_default();
            self.fields.push(field(message, row, path, &like));
            if let (Some(inner), true) = (inner, like.is_empty()) {
                self.message(inner, &below);
            }
        }
    }
}

/// The message in lists and maps, and where its fields stand.
fn innermost(of: &'static Type, path: String) -> (Option<&'static Message>, String) {
    match of {
        Type::List(of) => innermost(of, path + "[]"),
        Type::Map(of) => innermost(of, path + ".*"),
        Type::Message(message) => (Some(message), path),
        _ => (None, path),
    }
}

fn field(message: &Message, row: &'static Row, path: String, like: &str) -> Field {
    let sets = message.one_of.iter().filter(|set| set.contains(&row.name));
    let sets = sets.map(|set| format!("only one of {} may be written", set.join(", ")));
    // What holds between the fields of a message is told at each of those that it names.
    let named = |cel: &str| cel.match_indices("self.").any(|(at, found)| word(&cel[at + found.len()..]) == row.name);
    let between = message.rules.iter().chain(message.rules_outside_lists).filter(|rule| named(rule.cel));
    Field {
        path,
        kind: name(&row.of) + like,
        class: row.class,
        why: if let Class::Refused(why) = row.class { Some(reason(why)) } else { None },
        required: row.required,
        default: [row.default, row.otherwise].into_iter().find(|text| !text.is_empty()),
        description: row.text,
        rules: sets.chain(between.chain(row.rules).map(|rule| rule.message.to_owned())).collect(),
    }
}

/// The letters at the start.
fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::Who => "who may talk",
        Why::Where => "where traffic goes",
        Why::What => "what is sent",
        Why::Runs => "what runs",
    }
}

fn name(of: &Type) -> String {
    match of {
        Type::Text | Type::Short(_) => "text".to_owned(),
        Type::Bool => "true or false".to_owned(),
        Type::Int(least, most) => range("integer", least, Some(most)),
        Type::Number(least, most) => range("number", least, Some(most).filter(|most| **most < f64::MAX)),
        Type::Duration(least) => match least {
            Least::Zero => "duration".to_owned(),
            Least::MillisecondOrZero => "duration, 0s or from 1ms".to_owned(),
            Least::Millisecond => "duration from 1ms".to_owned(),
            Least::Second => "duration in whole seconds".to_owned(),
        },
        Type::Enum(names) => enumeration(names),
        Type::List(of) => format!("list of {}", name(of)),
        Type::Map(of) => format!("map to {}", name(of)),
        Type::Message(message) => message.name.to_owned(),
        Type::Open => "message".to_owned(),
    }
}

fn range<T: std::fmt::Display>(name: &str, least: &T, most: Option<&T>) -> String {
    match most {
        Some(most) => format!("{name} from {least} to {most}"),
        None => format!("{name} from {least}"),
    }
}

fn enumeration(names: &Names) -> String {
    let some = |supported| names.names.iter().filter(move |name| name.supported == supported).map(|name| name.name).collect::<Vec<_>>();
    let refused = some(false);
    let tail = if refused.is_empty() { String::new() } else { format!(" (refused: {})", refused.join(", ")) };
    some(true).join(", ") + &tail
}
