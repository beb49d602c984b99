//! Names of fields: a dump has them as the `.proto` files do, results as protojson.

use mizzen_protos::json::Descriptors;
pub(super) use mizzen_protos::json::Names;
use serde_json::{Map, Value};

/// Fields whose keys are no names of fields.
const MAPS: [&str; 8] = [
    "filter_metadata",
    "filterMetadata",
    "typed_filter_metadata",
    "typedFilterMetadata",
    "typed_extension_protocol_options",
    "typedExtensionProtocolOptions",
    "typed_per_filter_config",
    "typedPerFilterConfig",
];

/// Changes names of fields.
pub(crate) struct Style(Descriptors);

impl Style {
    pub(crate) fn load() -> Style {
        Style(Descriptors::load())
    }

    /// A resource as protojson has it, without its type.
    pub(crate) fn resource(&self, value: &Value) -> Value {
        let mut restyled = self.restyled(value, Names::Json);
        if let Some(members) = restyled.as_object_mut() {
            members.remove("@type");
        }
        restyled
    }

    /// The same value with its fields named so. What is of a type that is known is read as that; elsewhere names are changed letter by letter.
    pub(crate) fn restyled(&self, value: &Value, names: Names) -> Value {
        match value {
            Value::Array(list) => list.iter().map(|value| self.restyled(value, names)).collect(),
            Value::Object(members) => self.typed(members, names).unwrap_or_else(|| Value::Object(self.renamed(members, names))),
            other => other.clone(),
        }
    }

    fn typed(&self, members: &Map<String, Value>, names: Names) -> Option<Value> {
        let kind = members.get("@type")?.as_str().filter(|kind| self.0.knows(kind))?;
        let mut fields = members.clone();
        fields.remove("@type");
        // What a dump does not show (keys) it does not write as the field's type either: then it is no such message.
        let message = self.0.any_from_value(kind, Value::Object(fields)).ok()?;
        self.0.any_to_value(&message, names).ok()
    }

    fn renamed(&self, members: &Map<String, Value>, names: Names) -> Map<String, Value> {
        let member = |(key, value): (&String, &Value)| {
            let value = match value {
                Value::Object(map) if MAPS.contains(&key.as_str()) => {
                    Value::Object(map.iter().map(|(key, value)| (key.clone(), self.in_map(value, names))).collect())
                }
                other => self.restyled(other, names),
            };
            (renamed(key, names), value)
        };
        members.iter().map(member).collect()
    }

    /// A value of a map: a message with a type, or a structure whose keys are its own.
    fn in_map(&self, value: &Value, names: Names) -> Value {
        if value["@type"].is_string() { self.restyled(value, names) } else { value.clone() }
    }
}

fn renamed(key: &str, names: Names) -> String {
    let is_name = key.starts_with(|c: char| c.is_ascii_lowercase()) && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match names {
        _ if !is_name => key.to_owned(),
        Names::Json => {
            let mut parts = key.split('_');
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| {
                let mut letters = part.chars();
                let start = letters.next().map(|letter| letter.to_ascii_uppercase());
                text + &start.into_iter().chain(letters).collect::<String>()
            })
        }
        Names::Proto => {
            let letter = |c: char| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.to_string() };
            key.chars().map(letter).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_fields() {
        let style = Style::load();
        let check = |proto: Value, json: Value| {
            assert_eq!(style.restyled(&proto, Names::Json), json);
            assert_eq!(style.restyled(&json, Names::Proto), proto);
        };
        let options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        check(
            json!({"@type": cluster, "name": "a_b", "connect_timeout": "1s", "metadata": {"filter_metadata": {"a_b": {"c_d": 1}}},
                "typed_extension_protocol_options": {"x_y": {"@type": options, "explicit_http_config": {"http2_protocol_options": {}}}}}),
            json!({"@type": cluster, "name": "a_b", "connectTimeout": "1s", "metadata": {"filterMetadata": {"a_b": {"c_d": 1}}},
                "typedExtensionProtocolOptions": {"x_y": {"@type": options, "explicitHttpConfig": {"http2ProtocolOptions": {}}}}}),
        );
        // Of a type that nobody here knows, also within one that is known.
        check(
            json!({"@type": cluster, "transport_socket": {"name": "n", "typed_config": {"@type": "x/some.Thing", "a_field": [{"b_field": 1}]}},
                "metadata": {"filter_metadata": {"k_k": {"v_v": true}}}}),
            json!({"@type": cluster, "transportSocket": {"name": "n", "typedConfig": {"@type": "x/some.Thing", "aField": [{"bField": 1}]}},
                "metadata": {"filterMetadata": {"k_k": {"v_v": true}}}}),
        );
        check(json!({"ns[a]-policy[b_c]-rule[0]": {"and_ids": [1, "x_y"]}}), json!({"ns[a]-policy[b_c]-rule[0]": {"andIds": [1, "x_y"]}}));
        assert_eq!(style.resource(&json!({"@type": cluster, "name": "a"})), json!({"name": "a"}));
    }
}
