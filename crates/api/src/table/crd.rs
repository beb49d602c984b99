//! A kind as the API server gets to know it: its CustomResourceDefinition.

use serde_json::{Map, Value, json};

use super::{Class, Least, Message, Names, Row, Rule, Type, kind_table};
use crate::Kind;

/// The CustomResourceDefinition of one of Istio's kinds; none for kinds that are no custom resources.
///
/// All fields that the mesh knows are in it, also those that it refuses: what the API server does not know it drops before anybody could
/// refuse it. Rules that hold within an object are checked by the API server as far as it can; the mesh checks all of them anew.
pub fn crd(kind: Kind) -> Option<Value> {
    let stored = kind.stored_version()?;
    let table = kind_table(kind)?;
    let (group, schema) = (kind.group(), root(table.of));
    let column = |(name, path): &(&str, &str)| json!({ "name": name, "type": "string", "jsonPath": path });
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    let version = |name: &&str| {
        let mut version = json!({
            "name": name, "served": true, "storage": *name == stored,
            "schema": { "openAPIV3Schema": schema }, "subresources": { "status": {} },
        });
        if !columns.is_empty() {
            let age = json!({ "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" });
            version["additionalPrinterColumns"] = columns.iter().cloned().chain([age]).collect();
        }
        version
    };
    let versions: Vec<_> = kind.versions().iter().map(version).collect();
    let name = kind.name();
    let mut names = json!({
        "kind": name, "listKind": format!("{name}List"), "plural": kind.plural(), "singular": name.to_lowercase(),
        "categories": ["istio-io", group.replace('.', "-")],
    });
    if !kind.short_names().is_empty() {
        names["shortNames"] = json!(kind.short_names());
    }
    Some(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{group}", kind.plural()) },
        "spec": { "group": group, "names": names, "scope": "Namespaced", "versions": versions },
    }))
}

/// The schema of an object.
fn root(spec: &Type) -> Value {
    let mut properties = json!({ "spec": schema(spec, false) });
    properties["status"] = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let mut root = json!({ "type": "object", "properties": properties });
    if root["properties"]["spec"].get("required").is_some() {
        root["required"] = json!(["spec"]);
    }
    root
}

/// The schema of a value, which perhaps stands in a list or map. There expressions must be cheap: see [`Message::rules_outside_lists`].
fn schema(of: &Type, listed: bool) -> Value {
    match of {
        Type::Text => json!({ "type": "string" }),
        Type::Short(most) => json!({ "type": "string", "maxLength": most }),
        Type::Bool => json!({ "type": "boolean" }),
        // Without a bound of its length, no expression could compare it.
        Type::Int(least, most) => int_or_string(json!({ "minimum": least, "maximum": most, "maxLength": 20 })),
        Type::Number(least, most) => {
            let mut number = json!({ "type": "number", "minimum": least });
            if *most < f64::MAX {
                number["maximum"] = json!(most);
            }
            number
        }
        Type::Duration(least) => json!({ "type": "string", "x-kubernetes-validations": [rule(&duration(*least, listed))] }),
        Type::Enum(names) => int_or_string(json!({ "enum": values(names) })),
        Type::List(of) => json!({ "type": "array", "items": schema(of, true) }),
        Type::Map(of) => json!({ "type": "object", "additionalProperties": schema(of, true) }),
        Type::Message(message) => message_schema(message, listed),
        Type::Open => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
    }
}

/// Protojson takes a number in quotes too.
fn int_or_string(mut of: Value) -> Value {
    of["anyOf"] = json!([{ "type": "integer" }, { "type": "string" }]);
    of["x-kubernetes-int-or-string"] = json!(true);
    of
}

/// The names, and protojson's numbers for them.
fn values(names: &Names) -> Vec<Value> {
    let numbers = names.names.iter().map(|name| json!(name.number));
    names.names.iter().map(|name| json!(name.name)).chain(numbers).collect()
}

fn duration(least: Least, listed: bool) -> Rule {
    let (cel, message) = match least {
        Least::MillisecondOrZero if listed => return duration(Least::Zero, listed),
        Least::Zero => ("duration(self) >= duration('0s')", "must be a duration such as 1.5s, and not negative"),
        Least::MillisecondOrZero => (
            "duration(self) == duration('0s') || duration(self) >= duration('1ms')",
            "must be a duration such as 1.5s, of 1ms or more, or 0s",
        ),
        Least::Millisecond => ("duration(self) >= duration('1ms')", "must be a duration such as 1.5s, of 1ms or more"),
        Least::Second => ("duration(self) >= duration('1s')", "must be a duration in whole seconds, of 1s or more"),
    };
    Rule { cel, message }
}

fn rule(rule: &Rule) -> Value {
    json!({ "rule": rule.cel, "message": rule.message })
}

fn message_schema(message: &Message, listed: bool) -> Value {
    let properties: Map<_, _> = message.rows.iter().map(|row| (row.name.to_owned(), row_schema(row, listed))).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    let required: Vec<_> = message.rows.iter().filter(|row| row.required).map(|row| row.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let mut rules: Vec<&Rule> = message.rules.iter().collect();
    if !listed {
        rules.extend(message.rules_outside_lists);
    }
    let mut rules: Vec<_> = rules.into_iter().map(rule).collect();
    if listed {
        let pairs: Vec<_> = message.one_of.iter().flat_map(|set| pairs(set)).collect();
        if !pairs.is_empty() {
            schema["not"] = json!({ "anyOf": pairs });
        }
    } else {
        rules.extend(message.one_of.iter().map(|set| one_of(set)));
    }
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = json!(rules);
    }
    schema
}

/// All pairs of fields that exclude each other.
fn pairs(set: &[&str]) -> Vec<Value> {
    let later = |i: usize| set.iter().skip(i + 1);
    set.iter().enumerate().flat_map(|(i, one)| later(i).map(move |other| json!({ "required": [one, other] }))).collect()
}

/// At most one of these fields.
fn one_of(set: &[&str]) -> Value {
    let counted: Vec<_> = set.iter().map(|name| format!("(has(self.{name}) ? 1 : 0)")).collect();
    json!({ "rule": format!("{} <= 1", counted.join(" + ")), "message": format!("only one of {} may be written", set.join(", ")) })
}

fn row_schema(row: &Row, listed: bool) -> Value {
    let mut schema = json!({ "description": description(row) });
    merge(&mut schema, self::schema(&row.of, listed));
    if row.filled {
        schema["minItems"] = json!(1);
    }
    if let Some(most) = row.most {
        schema[if matches!(row.of, Type::Map(_)) { "maxProperties" } else { "maxItems" }] = json!(most);
    }
    if let Some(key) = row.key {
        schema["x-kubernetes-list-type"] = json!("map");
        schema["x-kubernetes-list-map-keys"] = json!([key]);
    }
    if !row.rules.is_empty() {
        schema["x-kubernetes-validations"] = row.rules.iter().map(rule).collect();
    }
    schema
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

fn description(row: &Row) -> String {
    let mut text = row.text.to_owned();
    match row.class {
        Class::Done => {}
        Class::Harmless => text += " Not acted on yet.",
        Class::Refused(_) => text += " Refused: not supported yet.",
    }
    let default = if row.default.is_empty() { row.otherwise } else { row.default };
    if !default.is_empty() {
        text += &format!(" Default: {default}.");
    }
    text
}
