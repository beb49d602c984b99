//! Routes: one row for each route of each virtual host.

use serde_json::Value;

use super::{Rows, resources, source, text};

pub(super) const HEADER: &[&str] = &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"];

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
