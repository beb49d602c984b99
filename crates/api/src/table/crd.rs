//! A kind as the API server gets to know it: its CustomResourceDefinition.

use serde_json::{Map, Value, json};

use super::{Class, Least, Message, Names, Row, Rule, Type, kind_table};
use crate::Kind;

/// The CustomResourceDefinition of one of Istio's kinds; none for kinds that are no custom resources.
///
/// All fields that the mesh knows are in it, also those that it refuses: what the API server does not know it drops before anybody could refuse it.
/// Rules that hold within an object are checked by the API server as far as it can; the mesh checks all of them anew.
pub fn crd(kind: Kind) -> Option<Value> {
    let table = kind_table(kind)?;
    let resource = table.resource.as_ref()?;
    let (group, schema) = (resource.group, root(table.of));
    let columns: Vec<_> = resource.columns.iter().map(|(name, path)| json!({ "name": name, "type": "string", "jsonPath": path })).collect();
    let versions = resource.versions.iter().enumerate().map(|(i, name)| {
        let mut version = json!({
            "name": name, "served": true, "storage": i == 0,
            "schema": { "openAPIV3Schema": schema }, "subresources": { "status": {} },
        });
        if !columns.is_empty() {
            let age = json!({ "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" });
            version["additionalPrinterColumns"] = columns.iter().cloned().chain([age]).collect();
        }
        version
    });
    let mut names = json!({
        "kind": kind.name(), "listKind": format!("{kind}List"), "plural": resource.plural, "singular": kind.name().to_lowercase(),
        "categories": ["istio-io", group.replace('.', "-")],
    });
    if let Some(short) = resource.short {
        names["shortNames"] = json!([short]);
    }
    Some(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{group}", resource.plural) },
        "spec": { "group": group, "names": names, "scope": "Namespaced", "versions": versions.collect::<Vec<_>>() },
    }))
}

/// The schema of an object.
fn root(spec: &Type) -> Value {
    let mut properties = json!({ "spec": schema(spec, 0) });
    properties["status"] = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let mut root = json!({ "type": "object", "properties": properties });
    if root["properties"]["spec"].get("required").is_some() {
        root["required"] = json!(["spec"]);
    }
    root
}

/// The schema of a value that stands in so many lists and maps, one within the other.
fn schema(of: &Type, within: usize) -> Value {
    match of {
        Type::Text => json!({ "type": "string" }),
        Type::Short(most) => json!({ "type": "string", "maxLength": most }),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Int(least, most) => int_or_string(json!({ "minimum": least, "maximum": most })),
        Type::Number(least, most) => {
            let mut number = json!({ "type": "number", "minimum": least });
            if *most < f64::MAX {
                number["maximum"] = json!(most);
            }
            number
        }
        Type::Duration(least) => json!({ "type": "string", "x-kubernetes-validations": [rule(&duration(*least))] }),
        Type::Enum(names) => int_or_string(json!({ "enum": values(names) })),
        Type::List(of) => json!({ "type": "array", "items": schema(of, within + 1) }),
        Type::Map(of) => json!({ "type": "object", "additionalProperties": schema(of, within + 1) }),
        Type::Message(message) => message_schema(message, within),
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

fn duration(least: Least) -> Rule {
    let (cel, message) = match least {
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

fn message_schema(message: &Message, within: usize) -> Value {
    let properties: Map<_, _> = message.rows.iter().map(|row| (row.name.to_owned(), row_schema(row, within))).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    let required: Vec<_> = message.rows.iter().filter(|row| row.required).map(|row| row.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let mut rules: Vec<Value> = Vec::new();
    let mut pairs: Vec<Value> = Vec::new();
    for set in message.one_of {
        // The API server estimates what expressions cost by how often they may stand, and takes none that is in lists of lists.
        if within <= MOST_LISTS {
            rules.push(one_of(set));
        } else {
            let later = |i: usize| set.iter().skip(i + 1);
            pairs.extend(set.iter().enumerate().flat_map(|(i, one)| later(i).map(move |other| json!({ "required": [one, other] }))));
        }
    }
    if !pairs.is_empty() {
        schema["not"] = json!({ "anyOf": pairs });
    }
    rules.extend(message.rules.iter().map(rule));
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = json!(rules);
    }
    schema
}

/// So many lists and maps, one within the other, may be around an expression.
const MOST_LISTS: usize = 1;

/// At most one of these fields.
fn one_of(set: &[&str]) -> Value {
    let counted: Vec<_> = set.iter().map(|name| format!("(has(self.{name}) ? 1 : 0)")).collect();
    json!({ "rule": format!("{} <= 1", counted.join(" + ")), "message": format!("only one of {} may be written", set.join(", ")) })
}

fn row_schema(row: &Row, within: usize) -> Value {
    let mut schema = json!({ "description": description(row) });
    merge(&mut schema, self::schema(&row.of, within));
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
