//! `mizzen x crds` and `mizzen x fields`: what the mesh knows of Istio's kinds. Neither asks a mesh.

use anyhow::{Result, bail};
use mizzen_api::{Class, Field, Kind, crd, fields};
use serde_json::json;

use super::output::{Objects, Output, print, render, table};

/// Arguments of `x crds`.
#[derive(Debug, clap::Args)]
pub(crate) struct CrdsArgs {
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Objects,
}

/// Arguments of `x fields`.
#[derive(Debug, clap::Args)]
pub(crate) struct FieldsArgs {
    /// A kind, as kubectl takes it: DestinationRule, destinationrules, dr. Without one: how much of each kind is supported.
    kind: Option<String>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn crds(args: &CrdsArgs) -> Result<()> {
    print(&all_crds(args.output)?)
}

pub(crate) fn list(args: &FieldsArgs) -> Result<()> {
    print(&match &args.kind {
        Some(name) => of_kind(find(name)?, args.output)?,
        None => of_all(args.output)?,
    })
}

fn all_crds(form: Objects) -> Result<String> {
    form.render(&Kind::ALL.iter().filter_map(|kind| crd(*kind)).collect::<Vec<_>>())
}

/// The kinds of which the fields are known.
fn kinds() -> impl Iterator<Item = (Kind, Vec<Field>)> {
    Kind::ALL.iter().map(|kind| (*kind, fields(*kind))).filter(|(_, fields)| !fields.is_empty())
}

/// The kind of which somebody speaks.
fn find(name: &str) -> Result<Kind> {
    let Some(kind) = Kind::called(name).filter(|kind| !fields(*kind).is_empty()) else {
        let all: Vec<_> = kinds().map(|(kind, _)| kind.name()).collect();
        bail!("the fields of `{name}` are not listed; they are of {}", all.join(", "));
    };
    Ok(kind)
}

fn of_kind(kind: Kind, output: Output) -> Result<String> {
    let fields = fields(kind);
    render(output, &json!({ "kind": kind.name(), "fields": fields }), || {
        let rows: Vec<_> = fields.iter().map(row).collect();
        table(&["FIELD", "TYPE", "CLASS", "DEFAULT", "MEANING"], &rows)
    })
}

fn row(field: &Field) -> Vec<String> {
    let class = match field.why {
        Some(why) => format!("{} ({why})", field.class.name()),
        None => field.class.name().to_owned(),
    };
    let default = if field.required { "required" } else { field.default.unwrap_or("-") };
    let rules = field.rules.iter().map(|rule| format!(" [{rule}]")).collect::<String>();
    vec![field.path.clone(), field.kind.clone(), class, default.to_owned(), format!("{}{rules}", field.description)]
}

fn of_all(output: Output) -> Result<String> {
    let count = |fields: &[Field], is: fn(Class) -> bool| fields.iter().filter(|field| is(field.class)).count();
    let counts: Vec<_> = kinds()
        .map(|(kind, fields)| {
            let done = count(&fields, |class| class == Class::Done);
            let harmless = count(&fields, |class| class == Class::Harmless);
            (kind, [done, harmless, fields.len() - done - harmless])
        })
        .collect();
    let value: Vec<_> = counts
        .iter()
        .map(|(kind, [done, harmless, refused])| json!({ "kind": kind.name(), "done": done, "harmless": harmless, "refused": refused }))
        .collect();
    render(output, &value, || {
        let rows: Vec<_> = counts
            .iter()
            .map(|(kind, counts)| [kind.name().to_owned()].into_iter().chain(counts.map(|n| n.to_string())).collect())
            .collect();
        table(&["KIND", "DONE", "HARMLESS", "REFUSED"], &rows)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn kinds_by_their_names() {
        for (name, expected) in [
            ("DestinationRule", Some(Kind::DestinationRule)),
            ("destinationrules", Some(Kind::DestinationRule)),
            ("DR", Some(Kind::DestinationRule)),
            ("sidecars", Some(Kind::Sidecar)),
            ("meshconfig", Some(Kind::MeshConfig)),
            ("Pod", None),
            ("", None),
        ] {
            assert_eq!(find(name).ok(), expected, "{name}");
        }
        assert!(find("Pod").unwrap_err().to_string().starts_with("the fields of `Pod` are not listed; they are of PeerAuthentication, "));
    }

    #[test]
    fn tables() {
        let text = of_kind(Kind::PeerAuthentication, Output::Short).unwrap();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("     ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
        assert_eq!(lines[0], ["FIELD", "TYPE", "CLASS", "DEFAULT", "MEANING"]);
        let mode = lines.iter().find(|line| line[0] == "mtls.mode").unwrap();
        assert_eq!(mode[1..4], ["UNSET, DISABLE, PERMISSIVE, STRICT", "done", "UNSET"]);
        let all = of_all(Output::Short).unwrap();
        assert_eq!(all.lines().count(), 11, "a header and ten kinds:\n{all}");
        assert!(row(&fields(Kind::DestinationRule)[0])[3] == "required");
        for output in [Output::Json, Output::Yaml] {
            let value: Value = serde_saphyr::from_str(&of_kind(Kind::DestinationRule, output).unwrap()).unwrap();
            assert_eq!(value["fields"][0]["path"], "host");
        }
    }

    #[test]
    fn definitions() {
        let expected: Vec<Value> = Kind::ALL.iter().filter_map(|kind| crd(*kind)).collect();
        let yaml = all_crds(Objects::Yaml).unwrap();
        let read: Vec<Value> = yaml.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
        assert_eq!(read, expected);
        let json: Value = serde_json::from_str(&all_crds(Objects::Json).unwrap()).unwrap();
        assert_eq!((json["kind"].as_str(), json["items"].as_array()), (Some("List"), Some(&expected)));
    }
}
