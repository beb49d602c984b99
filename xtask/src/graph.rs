//! The crate graph: the table of ARCHITECTURE.md against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::Value;

/// What a pure crate must not name as a direct dependency: it would do IO, or draw in what does.
const IO: [&str; 9] = ["tokio", "tonic", "hyper", "hyper-util", "kube", "socket2", "nix", "axum", "tokio-rustls"];

/// One row of the table.
#[derive(Debug, PartialEq)]
struct Row {
    layer: String,
    may_use: Option<BTreeSet<String>>,
}

/// Rows of the table whose header starts with `| layer | crate |`. `all` in the last column allows everything.
fn rows(markdown: &str) -> BTreeMap<String, Row> {
    let table = markdown.lines().skip_while(|l| !l.starts_with("| layer | crate |")).skip(2).take_while(|l| l.starts_with('|'));
    let mut rows = BTreeMap::new();
    for line in table {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [layer, names, _, may_use] = cells[..] else { continue };
        let uses = may_use.split(',').map(|u| u.trim().trim_matches('`').to_owned()).filter(|u| u != "–" && !u.is_empty());
        let may_use = if may_use == "all" { None } else { Some(uses.collect()) };
        for name in names.split(',') {
            let row = Row { layer: layer.to_owned(), may_use: may_use.clone() };
            rows.insert(name.trim().trim_matches('`').to_owned(), row);
        }
    }
    rows
}

fn short(package: &str) -> &str {
    package.strip_prefix("mizzen-").unwrap_or(package)
}

/// The problems found.
pub(crate) fn check(metadata: &Value, architecture: &str) -> Result<Vec<String>> {
    let rows = rows(architecture);
    ensure!(rows.len() > 10, "ARCHITECTURE.md has no table of crates (a header `| layer | crate |`)");
    let mut problems = Vec::new();
    let members: BTreeSet<&str> = metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !members.contains(package["id"].as_str().unwrap_or_default()) {
            continue;
        }
        let name = short(package["name"].as_str().unwrap_or_default());
        let Some(row) = rows.get(name) else {
            problems.push(format!("crate {name} is not in the table of ARCHITECTURE.md"));
            continue;
        };
        let used: BTreeSet<&str> =
            package["dependencies"].as_array().into_iter().flatten().filter_map(|d| Some(short(d["name"].as_str()?))).collect();
        for allowed in row.may_use.iter().flatten().filter(|allowed| !used.contains(allowed.as_str())) {
            problems.push(format!("the row of crate {name} allows {allowed}, which it does not use"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let (target, dev) = (dependency["name"].as_str().unwrap_or_default(), dependency["kind"] == "dev");
            let internal = dependency["path"].is_string();
            if internal && row.may_use.as_ref().is_some_and(|allowed| !allowed.contains(short(target))) && !dev {
                problems.push(format!("crate {name} uses {target}, which its row does not allow"));
            }
            let excused = name == "protos" && target == "tonic";
            if !internal && !dev && !excused && matches!(&*row.layer, "base" | "pure") && IO.contains(&target) {
                problems.push(format!("crate {name} is {} and must not name {target}", row.layer));
            }
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| layer | crate | what | may use |\n| --- | --- | --- | --- |\n| base | `types` | x | – |\n| pure | `a`, `b` | y | types, c |\n| dev | `t` | z | all |\n\nend";

    #[test]
    fn table() {
        let rows = rows(TABLE);
        assert_eq!(rows.keys().collect::<Vec<_>>(), ["a", "b", "t", "types"]);
        assert_eq!(rows["b"].may_use, Some(BTreeSet::from(["types".to_owned(), "c".to_owned()])));
        assert_eq!(rows["types"].may_use, Some(BTreeSet::new()));
        assert_eq!(rows["t"].may_use, None);
    }
}
