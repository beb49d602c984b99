//! The files of the Helm charts that are made of what is known here: kinds, roles, values and their schemas. Templates are written by hand, and a test
//! holds what they render to what `install` applies.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use mizzen_api::{Class, Kind};
use serde_json::{Value, json};

use super::{
    manifest, settings,
    values::{self, Row, Shape},
};

/// The first line of files that are made.
const MADE: &str = "# Made by `cargo xtask charts`.\n";

/// A chart: its name, what it is, and the tables of its values.
struct Chart {
    name: &'static str,
    about: &'static str,
    tables: &'static [&'static [Row]],
    /// Paths whose last part may stand at the top, too.
    top: &'static str,
    has_mesh_config: bool,
}

const CHARTS: [Chart; 4] = [
    Chart {
        name: "base",
        about: "Istio's kinds, and the control plane's account, roles and validation",
        tables: &[values::GLOBAL, values::REVISION, values::BASE],
        top: "",
        has_mesh_config: false,
    },
    Chart {
        name: "istiod",
        about: "Mizzen's control plane, with its settings and the injection of proxies",
        tables: &[values::PROFILE, values::GLOBAL, values::REVISION, values::ISTIOD],
        top: "pilot.",
        has_mesh_config: true,
    },
    Chart {
        name: "cni",
        about: "what captures the connections of pods on their nodes, so that no pod needs NET_ADMIN",
        tables: &[values::GLOBAL, values::REVISION, values::CNI],
        top: "cni.",
        has_mesh_config: false,
    },
    Chart {
        name: "gateway",
        about: "a gateway of the mesh",
        tables: &[values::GLOBAL, values::REVISION, values::GATEWAY],
        top: "",
        has_mesh_config: false,
    },
];

/// Whether a chart of this name, which says this of itself, is one of these.
pub(super) fn is_ours(name: &str, about: &str) -> bool {
    CHARTS.iter().any(|chart| chart.name == name && chart.about == about)
}

/// The made files of all charts, by their path below the folder of charts.
///
/// # Errors
/// If an object cannot be written as YAML.
pub fn files() -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for chart in &CHARTS {
        let mut add = |name: &str, text: String| files.push((format!("{}/{name}", chart.name), text));
        add("Chart.yaml", head(chart));
        add("values.yaml", chart.values()?);
        add("values.schema.json", format!("{:#}\n", chart.schema()));
    }
    for mut kind in manifest::kinds() {
        let name = kind["metadata"]["name"].as_str().context("a kind without a name")?.to_owned();
        let metadata = json!({ "annotations": { "helm.sh/resource-policy": "keep" }, "labels": labels() });
        settings::merge(&mut kind["metadata"], metadata);
        files.push((format!("base/files/crds/{name}.yaml"), format!("{MADE}{}", serde_saphyr::to_string(&kind)?)));
    }
    files.push(("base/templates/roles.yaml".to_owned(), roles()?));
    files.push(("base/templates/validator.yaml".to_owned(), validator()?));
    Ok(files)
}

fn head(chart: &Chart) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let Chart { name, about, .. } = chart;
    format!("{MADE}apiVersion: v2\nname: {name}\ndescription: {about}\ntype: application\nversion: {version}\nappVersion: \"{version}\"\n")
}

/// Labels of objects that are the same in every release.
fn labels() -> Value {
    json!({ (manifest::COMPONENT): manifest::Component::Base.name(), "istio.io/rev": "default", "app.kubernetes.io/part-of": "istio" })
}

fn labelled(mut object: Value) -> Value {
    settings::merge(&mut object["metadata"], json!({ "labels": labels() }));
    object
}

/// The control plane's account and roles, each rule with its reason.
fn roles() -> Result<String> {
    let mut text = MADE.to_owned();
    for object in manifest::roles() {
        text += "---\n";
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role")) {
            manifest::reasons(name).iter().for_each(|line| text += &format!("# {line}\n"));
        }
        text += &serde_saphyr::to_string(&labelled(object))?;
    }
    Ok(text)
}

/// The configuration of validation. One that the control plane has closed stays closed when the release is upgraded.
fn validator() -> Result<String> {
    let object = labelled(manifest::validator());
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let text = serde_saphyr::to_string(&object)?;
    let open = "failurePolicy: Ignore";
    anyhow::ensure!(text.matches(open).count() == 1, "the validator's policy is not where it was");
    let found = format!(
        "{{{{- $policy := \"Ignore\" }}}}\n\
         {{{{- range (lookup \"admissionregistration.k8s.io/v1\" \"ValidatingWebhookConfiguration\" \"\" \"{name}\").webhooks }}}}\n\
         {{{{- if eq .failurePolicy \"Fail\" }}}}\n{{{{- $policy = \"Fail\" }}}}\n{{{{- end }}}}\n{{{{- end }}}}\n"
    );
    Ok(format!("{MADE}{found}{}", text.replace(open, "failurePolicy: {{ $policy }}")))
}

impl Chart {
    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        self.tables.iter().copied().flatten()
    }

    /// All values with their defaults; those without one as comments.
    fn values(&self) -> Result<String> {
        let mut text = format!("{MADE}# Values that are not here are in values.schema.json, or are refused.\n");
        if self.has_mesh_config {
            text += "# MeshConfig: `mizzen x fields MeshConfig` has all of it\n";
            text += &serde_saphyr::to_string(&json!({ "meshConfig": settings::defaults() }))?;
        }
        let rows: Vec<(Vec<&str>, &Row)> =
            self.rows().filter(|row| !row.about.is_empty()).map(|row| (row.path.split('.').collect(), row)).collect();
        write(&mut text, &rows, 0, "", false)?;
        Ok(text)
    }

    /// What `values.yaml` and `--set` may say.
    fn schema(&self) -> Value {
        let mut schema = map();
        let mut rows: Vec<(&str, &Row)> = self.rows().map(|row| (row.path, row)).collect();
        if !self.top.is_empty() {
            rows.extend(self.rows().filter_map(|row| row.path.strip_prefix(self.top).map(|path| (path, row))));
        }
        for (path, row) in rows {
            let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
            let above = above.split('.').filter(|part| !part.is_empty());
            let at = above.fold(&mut schema, |at, part| member(at, part, map));
            member(at, name, || of_shape(row));
            if name == "maxUnavailable" {
                at["not"] = json!({ "required": ["minAvailable", "maxUnavailable"] });
            }
        }
        if self.has_mesh_config {
            schema["properties"]["meshConfig"] = mesh_config();
        }
        schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
        schema
    }
}

/// Writes rows whose first `depth` parts are the same, in their order. Each line gets the prefix; within a comment nothing is one by itself.
fn write(text: &mut String, rows: &[(Vec<&str>, &Row)], depth: usize, prefix: &str, within: bool) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (path, row) in rows {
        let name = path[depth];
        if !seen.insert(name) {
            continue;
        }
        let hash = if within { "" } else { "# " };
        if path.len() > depth + 1 {
            let below: Vec<(Vec<&str>, &Row)> = rows.iter().filter(|(path, _)| path[depth] == name).cloned().collect();
            if below.iter().any(|(_, row)| row.default().is_some()) {
                *text += &format!("{prefix}{name}:\n");
                write(text, &below, depth + 1, &format!("{prefix}  "), within)?;
            } else {
                *text += &format!("{prefix}{hash}{name}:\n");
                write(text, &below, depth + 1, &format!("{prefix}{hash}  "), true)?;
            }
            continue;
        }
        *text += &format!("{prefix}# {}\n", row.about);
        match row.default() {
            None => *text += &format!("{prefix}{hash}{name}: {}\n", example(row.shape)),
            Some(value) => {
                let yaml = serde_saphyr::to_string(&json!({ name: value }))?;
                yaml.lines().for_each(|line| *text += &format!("{prefix}{line}\n"));
            }
        }
    }
    Ok(())
}

fn example(shape: Shape) -> &'static str {
    match shape {
        Shape::Text | Shape::Word => "\"\"",
        Shape::Flag => "true",
        Shape::Count | Shape::Share => "1",
        Shape::Map | Shape::Words => "{}",
        Shape::List | Shape::Mounts(_) => "[]",
        Shape::Only(allowed) => allowed.iter().find(|text| text.len() > 2).copied().unwrap_or("\"\""),
    }
}

/// A map that takes no names but those that are put into it.
fn map() -> Value {
    json!({ "type": ["object", "null"], "properties": {}, "additionalProperties": false })
}

/// The schema of a member of a map, which is made if it is not there.
fn member<'a>(map: &'a mut Value, name: &str, make: impl FnOnce() -> Value) -> &'a mut Value {
    if map.get("properties").is_none() {
        map["type"] = json!(["object", "null"]);
        map["additionalProperties"] = json!(false);
    }
    let at = &mut map["properties"][name];
    if at.is_null() {
        *at = make();
    }
    at
}

fn of_shape(row: &Row) -> Value {
    let word = json!(["string", "number", "boolean"]);
    let mut schema = match row.shape {
        Shape::Text => json!({ "type": ["string", "null"] }),
        Shape::Word => json!({ "type": ["string", "number", "null"] }),
        Shape::Flag => json!({ "type": ["boolean", "null"] }),
        Shape::Count => json!({ "type": ["integer", "null"], "minimum": 0 }),
        Shape::Share => json!({ "type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]+%$" }),
        Shape::Map => json!({ "type": ["object", "null"] }),
        Shape::Words => json!({ "type": ["object", "null"], "additionalProperties": { "type": word } }),
        Shape::List => json!({ "type": ["array", "null"] }),
        Shape::Mounts(source) => {
            let text = json!({ "type": "string", "minLength": 1 });
            let volume = json!({
                "type": "object",
                "properties": { "name": text, (source): text, "mountPath": text },
                "required": ["name", source, "mountPath"],
                "additionalProperties": false,
            });
            json!({ "type": ["array", "null"], "items": volume })
        }
        Shape::Only(allowed) => {
            let mut values: Vec<Value> = allowed.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
            values.push(Value::Null);
            json!({ "enum": values })
        }
    };
    if !row.about.is_empty() {
        schema["description"] = json!(row.about);
    }
    schema
}

/// MeshConfig as far as names go: what it does not have is refused, and what is refused of it, too. Values are judged by the control plane.
fn mesh_config() -> Value {
    let mut schema = map();
    for field in mizzen_api::fields(Kind::MeshConfig) {
        let mut at = &mut schema;
        let parts: Vec<&str> = field.path.split('.').collect();
        for part in &parts {
            let name = part.trim_end_matches("[]");
            at = match name {
                "*" => &mut at["additionalProperties"],
                name => member(at, name, || json!({})),
            };
            if part.ends_with("[]") {
                at = &mut at["items"];
            }
        }
        *at = of_field(&field);
    }
    schema
}

fn of_field(field: &mizzen_api::Field) -> Value {
    if matches!(field.class, Class::Refused(_)) {
        return json!({ "not": {}, "description": format!("not supported: {}", field.description) });
    }
    json!({ "description": field.description })
}
