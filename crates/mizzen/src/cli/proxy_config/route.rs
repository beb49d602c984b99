//! Routes: one row for each route of each virtual host.

use anyhow::Result;
use serde_json::Value;

use super::{super::place::Where, Dump, Known, Rows, Target, Which, resources, select, show_with, source, text};

pub(super) const HEADER: &[&str] = &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"];

const SUMMARY: &[&str] = &["NAME", "VIRTUAL HOSTS"];

/// Arguments of `proxy-config route`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RouteArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    /// One row for each route; `--verbose=false`: one for each table of routes, with the number of its virtual hosts.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    verbose: bool,
}

impl RouteArgs {
    pub(super) async fn run(&self, place: &Where) -> Result<()> {
        let mesh = self.target.mesh(place).await?;
        let source = self.target.source(mesh.as_ref()).await?;
        let found = rows(&source.dump(Dump::Plain).await?);
        let known = Known { section: "routes", rows };
        let (mut found, has_held) = select(&source, found, &self.which, &known, |_, _| true).await?;
        if !self.verbose {
            found = summary(found, has_held);
        }
        show_with(&self.target, found, has_held)
    }
}

/// One row for each table.
fn summary(found: Rows, has_held: bool) -> Rows {
    let mut rows: Vec<(Vec<String>, Value)> = Vec::new();
    for (cells, value) in found.rows {
        let config = if has_held { &value["resource"] } else { &value };
        let hosts = config["virtual_hosts"].as_array().map_or(0, Vec::len);
        let mut short = vec![cells[0].clone(), hosts.to_string()];
        short.extend(cells.get(HEADER.len()).cloned());
        if rows.iter().all(|(known, _)| *known != short) {
            rows.push((short, value));
        }
    }
    Rows { header: SUMMARY, rows }
}

pub(super) fn rows(dump: &Value) -> Rows {
    let found = resources(dump, "RoutesConfigDump", &["static_route_configs", "dynamic_route_configs"], &["route_config"]);
    let mut rows = Vec::new();
    for config in found {
        let name = text(&config["name"]);
        for host in config["virtual_hosts"].as_array().into_iter().flatten() {
            for route in host["routes"].as_array().into_iter().flatten() {
                let cells =
                    vec![name.clone(), text(&host["name"]), domains(&host["domains"]), path(&route["match"]), source(&route["metadata"])];
                rows.push((cells, config.clone()));
            }
        }
    }
    Rows { header: HEADER, rows }
}

/// The first domain, and how many more there are.
fn domains(list: &Value) -> String {
    let list: Vec<String> = list.as_array().into_iter().flatten().map(text).collect();
    match list.len() {
        0 => String::new(),
        1 => list[0].clone(),
        n => format!("{}, + {} more...", list[0], n - 1),
    }
}

fn path(found: &Value) -> String {
    for (key, suffix) in [("path", ""), ("prefix", "*"), ("path_separated_prefix", "*")] {
        if let Some(text) = found[key].as_str() {
            return format!("{text}{suffix}");
        }
    }
    match found["safe_regex"]["regex"].as_str() {
        Some(regex) => format!("regex {regex}"),
        None => "/*".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_and_tables() {
        let host =
            |name: &str| json!({"name": name, "domains": [name, "x"], "routes": [{"match": {"prefix": "/"}}, {"match": {"path": "/a"}}]});
        let config = json!({"route_config": {"name": "80", "virtual_hosts": [host("a:80"), host("b:80")]}});
        let found = rows(&json!({"configs": [{"@type": "x.RoutesConfigDump", "dynamic_route_configs": [config]}]}));
        let cells: Vec<String> = found.rows.iter().map(|(cells, _)| cells.join("|")).collect();
        assert_eq!(cells[..2], ["80|a:80|a:80, + 1 more...|/*|", "80|a:80|a:80, + 1 more...|/a|"]);
        let short: Vec<String> = summary(found, false).rows.iter().map(|(cells, _)| cells.join(" ")).collect();
        assert_eq!(short, ["80 2"]);
    }
}
