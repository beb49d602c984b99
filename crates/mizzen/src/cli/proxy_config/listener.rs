//! Listeners: one row for each filter chain.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::{super::place::Where, Dump, Known, Rows, Target, Which, resources, select, show_with, text};

const HEADER: &[&str] = &["ADDRESSES", "PORT", "MATCH", "DESTINATION"];
const SUMMARY: &[&str] = &["ADDRESSES", "PORT", "TYPE"];

/// Arguments of `proxy-config listener`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ListenerArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    /// Only listeners at this address.
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Only listeners at this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only listeners of this type: HTTP, TCP, HTTP+TCP or UNKNOWN.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// One row for each filter chain; `--verbose=false`: one for each listener, with its type.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    verbose: bool,
}

impl ListenerArgs {
    pub(super) async fn run(&self, place: &Where) -> Result<()> {
        let mesh = self.target.mesh(place).await?;
        let source = self.target.source(mesh.as_ref()).await?;
        let found = rows(&source.dump(Dump::Plain).await?);
        let known = Known { section: "listeners", rows };
        let (mut found, has_held) = select(&source, found, &self.which, &known, |cells, value| self.keeps(cells, value)).await?;
        if !self.verbose {
            found = summary(found, has_held);
        }
        show_with(&self.target, found, has_held)
    }

    fn keeps(&self, cells: &[String], listener: &Value) -> bool {
        self.address.as_ref().is_none_or(|address| *address == cells[0])
            && self.port.is_none_or(|port| port.to_string() == cells[1])
            && self.kind.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(kind(listener)))
    }
}

/// One row for each listener, with its type in the place of what its chains match.
fn summary(found: Rows, has_held: bool) -> Rows {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for (cells, value) in found.rows {
        let listener = if has_held { &value["resource"] } else { &value };
        let mut short = vec![cells[0].clone(), cells[1].clone(), kind(listener).to_owned()];
        short.extend(cells.get(HEADER.len()).cloned());
        if seen.insert((text(&listener["name"]), short.clone())) {
            rows.push((short, value));
        }
    }
    Rows { header: SUMMARY, rows }
}

/// What a listener's chains speak.
fn kind(listener: &Value) -> &'static str {
    let chains = listener["filter_chains"].as_array().into_iter().flatten().chain(listener.get("default_filter_chain"));
    let filters = chains.flat_map(|chain| chain["filters"].as_array().into_iter().flatten());
    let (mut http, mut tcp) = (false, false);
    for filter in filters {
        let kind = filter["typed_config"]["@type"].as_str().unwrap_or_default();
        http |= kind.ends_with("HttpConnectionManager");
        tcp |= kind.ends_with("TcpProxy");
    }
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_and_types() {
        let filter = |kind: &str| json!({"typed_config": {"@type": format!("type.googleapis.com/x.{kind}")}});
        let listener = |port: u16, kinds: &[&str]| {
            let chains: Vec<Value> = kinds.iter().map(|kind| json!({"filters": [filter(kind)]})).collect();
            let address = json!({"socket_address": {"address": "0.0.0.0", "port_value": port}});
            json!({"active_state": {"listener": {"name": port.to_string(), "address": address, "filter_chains": chains}}})
        };
        let list = [listener(80, &["HttpConnectionManager", "TcpProxy"]), listener(90, &["TcpProxy"]), listener(91, &[])];
        let found = rows(&json!({"configs": [{"@type": "x.ListenersConfigDump", "dynamic_listeners": list}]}));
        let args = |address: Option<&str>, port, kind: Option<&str>| ListenerArgs {
            target: Target::default(),
            which: Which::default(),
            address: address.map(str::to_owned),
            port,
            kind: kind.map(str::to_owned),
            verbose: true,
        };
        let check = |args: ListenerArgs, expected: &[&str]| {
            let kept = found.rows.iter().filter(|(cells, value)| args.keeps(cells, value));
            assert_eq!(kept.map(|(cells, _)| cells[1].as_str()).collect::<Vec<_>>(), expected, "{args:?}");
        };
        check(args(None, None, None), &["80", "80", "90"]);
        check(args(Some("0.0.0.0"), Some(90), None), &["90"]);
        check(args(Some("10.0.0.1"), None, None), &[]);
        check(args(None, None, Some("http+tcp")), &["80", "80"]);
        check(args(None, None, Some("TCP")), &["90"]);
        let short: Vec<String> = summary(found, false).rows.iter().map(|(cells, _)| cells.join(" ")).collect();
        assert_eq!(short, ["0.0.0.0 80 HTTP+TCP", "0.0.0.0 90 TCP"]);
    }
}
