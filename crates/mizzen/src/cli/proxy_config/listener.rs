//! Listeners: one row for each filter chain.

use serde_json::Value;

use super::{Rows, resources, text};

const HEADER: &[&str] = &["ADDRESSES", "PORT", "MATCH", "DESTINATION"];

pub(super) fn rows(dump: &Value) -> Rows {
    let mut found = resources(dump, "ListenersConfigDump", &["dynamic_listeners"], &["active_state", "listener"]);
    found.extend(resources(dump, "ListenersConfigDump", &["static_listeners"], &["listener"]));
    let mut rows = Vec::new();
    for listener in found {
        let address = &listener["address"]["socket_address"];
        let (ip, port) = (text(&address["address"]), text(&address["port_value"]));
        let chains = listener["filter_chains"].as_array().into_iter().flatten();
        for chain in chains.chain(listener.get("default_filter_chain")) {
            rows.push((vec![ip.clone(), port.clone(), matches(&chain["filter_chain_match"]), destination(chain)], listener.clone()));
        }
    }
    rows.sort_by_key(|(cells, _)| (cells[1].parse::<u16>().unwrap_or(0), cells[0].clone()));
    Rows { header: HEADER, rows }
}

fn list(value: &Value) -> String {
    value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(",")
}

fn matches(found: &Value) -> String {
    let mut parts = Vec::new();
    if !found["server_names"].is_null() {
        parts.push(format!("SNI: {}", list(&found["server_names"])));
    }
    if !found["transport_protocol"].is_null() {
        parts.push(format!("Trans: {}", text(&found["transport_protocol"])));
    }
    if !found["application_protocols"].is_null() {
        parts.push(format!("App: {}", list(&found["application_protocols"])));
    }
    for range in found["prefix_ranges"].as_array().into_iter().flatten() {
        parts.push(format!("Addr: {}/{}", text(&range["address_prefix"]), text(&range["prefix_len"])));
    }
    if !found["destination_port"].is_null() {
        parts.push(format!("Addr: *:{}", text(&found["destination_port"])));
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

/// Where a chain sends to: a route, the inline virtual host's cluster, or the cluster of a TCP proxy.
fn destination(chain: &Value) -> String {
    for filter in chain["filters"].as_array().into_iter().flatten() {
        let config = &filter["typed_config"];
        match config["@type"].as_str().unwrap_or_default() {
            kind if kind.ends_with("HttpConnectionManager") => {
                if !config["rds"].is_null() {
                    return format!("Route: {}", text(&config["rds"]["route_config_name"]));
                }
                return format!("Cluster: {}", text(&config["route_config"]["name"]));
            }
            kind if kind.ends_with("TcpProxy") => {
                let clusters = config["weighted_clusters"]["clusters"].as_array().into_iter().flatten();
                let weighted: Vec<String> = clusters.map(|c| text(&c["name"])).collect();
                let one = text(&config["cluster"]);
                return format!("Cluster: {}", if one.is_empty() { weighted.join(",") } else { one });
            }
            _ => {}
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}
