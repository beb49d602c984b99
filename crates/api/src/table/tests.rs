//! The tables and the readers are of one mind.
//!
//! Objects are made of the tables: every field that is acted on, with some value. Whether they are good does not matter, since readers do
//! not stop at a fault; that a reader asks for what its table lacks or refuses, or reads it as something else, trips over an assertion.

use std::{cell::RefCell, collections::BTreeSet, ptr};

use serde_json::{Map, Value, json};

use super::{
    AUTHORIZATION_POLICY, Class, DESTINATION_RULE, GATEWAY, MESH_CONFIG, Message, PEER_AUTHENTICATION, Row, SERVICE_ENTRY, SIDECAR, Type,
    VIRTUAL_SERVICE,
};
use crate::{Problem, parse_documents, parse_mesh_config};

thread_local! {
    static ASKED: RefCell<BTreeSet<(*const Message, &'static str)>> = const { RefCell::new(BTreeSet::new()) };
}

/// A reader has asked for a field.
pub(crate) fn note(table: &'static Message, name: &'static str) {
    ASKED.with_borrow_mut(|asked| asked.insert((ptr::from_ref(table), name)));
}

const TABLES: [(&str, &str, &Type); 8] = [
    ("security.istio.io/v1", "PeerAuthentication", &PEER_AUTHENTICATION),
    ("security.istio.io/v1", "AuthorizationPolicy", &AUTHORIZATION_POLICY),
    ("networking.istio.io/v1", "Sidecar", &SIDECAR),
    ("networking.istio.io/v1", "Gateway", &GATEWAY),
    ("networking.istio.io/v1", "ServiceEntry", &SERVICE_ENTRY),
    ("networking.istio.io/v1", "DestinationRule", &DESTINATION_RULE),
    ("networking.istio.io/v1", "VirtualService", &VIRTUAL_SERVICE),
    ("", "MeshConfig", &MESH_CONFIG),
];

/// As many objects of a kind are enough for each of a set of fields that exclude each other, also where such sets are in each other.
const VARIANTS: usize = 60;

/// A message's row that is written though it usually is not (`true`), or left out though it usually is written.
type Change<'a> = Option<(&'a Message, &'a str, bool)>;

fn sample(of: &'static Type, variant: usize, change: Change<'_>) -> Value {
    match of {
        Type::Text | Type::Short(_) => json!("x"),
        Type::Bool => json!(true),
        Type::Int(least, _) => json!(least),
        Type::Number(least, _) => json!(least),
        Type::Duration(_) => json!("2s"),
        Type::Enum(names) => json!(names.names[variant % names.names.len()].name),
        Type::List(of) => json!([sample(of, variant, change)]),
        Type::Map(of) => json!({ "80": sample(of, variant, change) }),
        // One set further in, others go together.
        Type::Message(message) => message_sample(message, variant + variant / 7, change),
        Type::Open => json!({}),
    }
}

fn message_sample(message: &'static Message, variant: usize, change: Change<'_>) -> Value {
    let changed = |row: &Row| change.filter(|(other, name, _)| ptr::eq(*other, message) && *name == row.name).map(|(_, _, add)| add);
    let chosen = |row: &Row| {
        let mut sets = message.one_of.iter().filter(|set| set.contains(&row.name));
        sets.all(|set| set[variant % set.len()] == row.name)
    };
    let usual = |row: &Row| !matches!(row.class, Class::Refused(_)) && chosen(row);
    let rows = message.rows.iter().filter(|row| changed(row).unwrap_or_else(|| usual(row)));
    let value = |row: &'static Row| if row.name == "key" { json!("source.ip") } else { sample(&row.of, variant, change) };
    rows.map(|row| (row.name.to_owned(), value(row))).collect::<Map<_, _>>().into()
}

/// Reads an object of the kind; all that is wrong with it.
fn read(version: &str, kind: &str, spec: &Value) -> Vec<Problem> {
    let file = "a.yaml".into();
    if version.is_empty() {
        return parse_mesh_config(&spec.to_string(), &file).err().unwrap_or_default();
    }
    let object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "x" }, "spec": spec });
    parse_documents(&object.to_string(), &file).problems().cloned().collect()
}

/// The message and all that are in it, each once.
fn messages(of: &'static Type, found: &mut Vec<&'static Message>) {
    match of {
        Type::List(of) | Type::Map(of) => messages(of, found),
        Type::Message(message) if !found.iter().any(|other| ptr::eq(*other, *message)) => {
            found.push(message);
            message.rows.iter().for_each(|row| messages(&row.of, found));
        }
        _ => {}
    }
}

fn each(mut check: impl FnMut(&str, &str, &'static Type, &'static Message)) {
    for (version, kind, of) in TABLES {
        let mut found = Vec::new();
        messages(of, &mut found);
        found.into_iter().for_each(|message| check(version, kind, of, message));
    }
}

#[test]
fn all_that_is_done_is_read() {
    for (version, kind, of) in TABLES {
        (0..VARIANTS).for_each(|variant| drop(read(version, kind, &sample(of, variant, None))));
    }
    let asked = ASKED.take();
    each(|_, kind, _, message| {
        let unread = message.rows.iter().filter(|row| row.class == Class::Done && !asked.contains(&(ptr::from_ref(message), row.name)));
        let unread: Vec<_> = unread.map(|row| row.name).collect();
        assert!(unread.is_empty(), "{kind}, {}: {unread:?}", message.name);
    });
}

#[test]
fn required_and_refused() {
    each(|version, kind, of, message| {
        for row in message.rows {
            let (change, expected) = match row.class {
                Class::Refused(why) => ((message, row.name, true), why.text()),
                _ if row.required => ((message, row.name, false), "is required"),
                _ => continue,
            };
            let told = |problem: &Problem| {
                let last = problem.field.rsplit('.').next().unwrap_or_default();
                last == row.name && problem.message == expected
            };
            let seen = (0..VARIANTS).any(|variant| read(version, kind, &sample(of, variant, Some(change))).iter().any(told));
            assert!(seen, "{kind}, {}: {} {expected}", message.name, row.name);
        }
    });
}

#[test]
fn tables_are_whole() {
    each(|_, kind, _, message| {
        let place = |name: &str| format!("{kind}, {}: {name}", message.name);
        let names: BTreeSet<_> = message.names().collect();
        assert_eq!(names.len(), message.rows.len(), "{}", place("a name twice"));
        for name in message.one_of.iter().flat_map(|set| set.iter()) {
            assert!(names.contains(name), "{}", place(name));
        }
        for row in message.rows {
            let place = place(row.name);
            assert!(row.text.ends_with('.') && !row.text.contains('\n'), "{place}: a sentence");
            assert!(!row.required || (row.default.is_empty() && row.otherwise.is_empty()), "{place}: is required, and has a default");
            assert!(row.default.is_empty() || row.otherwise.is_empty(), "{place}: two defaults");
            assert!(!row.filled || matches!(row.of, Type::List(_)), "{place}: no list");
            if let (Type::Enum(table), false) = (&row.of, row.default.is_empty()) {
                assert!(table.names.iter().any(|name| name.name == row.default && name.supported), "{place}: {}", row.default);
            }
            for rule in row.rules.iter().chain(message.rules).chain(message.rules_outside_lists) {
                assert!(!rule.cel.contains('\n') && !rule.message.is_empty() && !rule.message.ends_with('.'), "{place}: {}", rule.cel);
            }
        }
    });
}
