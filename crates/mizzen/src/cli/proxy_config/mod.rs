//! `mizzen proxy-config`: what a proxy runs, read from the proxy itself or from a dump of it.

mod bootstrap;
mod cluster;
mod ecds;
mod eds;
mod endpoint;
mod listener;
mod log;
mod on_demand;
mod route;
mod secret;
mod source;
mod style;

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    output::{Output, print, render, table},
    place::Where,
};
use source::{Dump, Source, Target};
use style::Names;
pub(super) use style::Style;

/// What to show of a proxy.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ProxyConfigVerb {
    /// Clusters, listeners, routes, endpoints and secrets, one after the other.
    #[command(visible_alias = "a")]
    All(Target),
    /// What the proxy was started with.
    #[command(visible_alias = "b")]
    Bootstrap(bootstrap::BootstrapArgs),
    /// Clusters: where the proxy can send to.
    #[command(visible_aliases = ["clusters", "c"])]
    Cluster(cluster::ClusterArgs),
    /// Extensions that came by themselves (ECDS).
    Ecds(Target),
    /// Endpoints as the control plane has sent them.
    Eds(endpoint::EndpointArgs),
    /// Endpoints: the addresses behind clusters, and how each is.
    #[command(visible_aliases = ["endpoints", "ep"])]
    Endpoint(endpoint::EndpointArgs),
    /// Listeners: what the proxy accepts.
    #[command(visible_aliases = ["listeners", "l"])]
    Listener(listener::ListenerArgs),
    /// Show what a proxy logs, or change it while it runs.
    #[command(visible_alias = "o")]
    Log(log::LogArgs),
    /// What was fetched on first use, and what for.
    #[command(visible_alias = "od")]
    OnDemand(Target),
    /// Routes: how requests find their cluster.
    #[command(visible_aliases = ["routes", "r"])]
    Route(route::RouteArgs),
    /// Certificates and roots; never private keys.
    #[command(visible_aliases = ["secrets", "s"])]
    Secret(Target),
}

/// Which rows are wanted, of each kind that has a table in the control plane's dump too.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Which {
    /// Only rows of which a cell contains this text.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Also what the control plane has for the proxy and the proxy does not hold, since nothing there has used it.
    #[arg(long, conflicts_with = "file")]
    all: bool,
}

/// Rows of one kind: a header, and for each resource its cells and its JSON.
pub(super) struct Rows {
    header: &'static [&'static str],
    rows: Vec<(Vec<String>, Value)>,
}

/// How rows are made of a dump.
type ToRows = fn(&Value) -> Rows;

/// A kind that the control plane can tell of, too: its section there, and how its rows are made.
struct Known {
    section: &'static str,
    rows: ToRows,
}

pub(crate) async fn run(place: &Where, verb: ProxyConfigVerb) -> Result<()> {
    match verb {
        ProxyConfigVerb::All(target) => all(place, &target).await,
        ProxyConfigVerb::Bootstrap(args) => bootstrap::run(place, &args).await,
        ProxyConfigVerb::Cluster(args) => args.run(place).await,
        ProxyConfigVerb::Ecds(target) => {
            let mesh = target.mesh(place).await?;
            let found = ecds::rows(&target.source(mesh.as_ref()).await?.dump(Dump::Plain).await?);
            show(&target, found)
        }
        ProxyConfigVerb::Eds(args) => args.run(place, true).await,
        ProxyConfigVerb::Endpoint(args) => args.run(place, false).await,
        ProxyConfigVerb::Listener(args) => args.run(place).await,
        ProxyConfigVerb::Log(args) => log::run(place, &args).await,
        ProxyConfigVerb::OnDemand(target) => {
            let mesh = target.mesh(place).await?;
            let found = on_demand::rows(&target.source(mesh.as_ref()).await?.page("/on_demand").await?);
            show(&target, found)
        }
        ProxyConfigVerb::Route(args) => args.run(place).await,
        ProxyConfigVerb::Secret(target) => {
            let mesh = target.mesh(place).await?;
            let found = secret::rows(&target.source(mesh.as_ref()).await?.dump(Dump::Plain).await?)?;
            show(&target, found)
        }
    }
}

/// Rows of a kind with all filters applied, and what the proxy does not hold, if that is asked for.
async fn select(
    source: &Source<'_>,
    mut found: Rows,
    which: &Which,
    known: &Known,
    keeps: impl Fn(&[String], &Value) -> bool,
) -> Result<(Rows, bool)> {
    if which.all {
        found = with_all(found, (known.rows)(&source.known(known.section).await?));
    }
    let resource = |value: &Value| if which.all { value["resource"].clone() } else { value.clone() };
    found.rows.retain(|(cells, value)| {
        let named = which.name.as_ref().is_none_or(|text| cells.iter().any(|cell| cell.contains(text.as_str())));
        named && keeps(cells, &resource(value))
    });
    Ok((found, which.all))
}

/// Prints rows.
fn show(target: &Target, found: Rows) -> Result<()> {
    show_with(target, found, false)
}

fn show_with(target: &Target, found: Rows, has_held: bool) -> Result<()> {
    let mut header = found.header.to_vec();
    if has_held {
        header.push("HELD");
    }
    let output = target.output.unwrap_or_default();
    let values = if output == Output::Short { Vec::new() } else { values(&found.rows) };
    let cells: Vec<Vec<String>> = found.rows.into_iter().map(|(cells, _)| cells).collect();
    print(&render(output, &values, || table(&header, &cells))?)
}

/// The resources of rows, each once, as protojson has them.
fn values(rows: &[(Vec<String>, Value)]) -> Vec<Value> {
    let style = Style::load();
    let mut seen = BTreeSet::new();
    rows.iter().filter(|(_, value)| seen.insert(value.to_string())).map(|(_, value)| style.resource(value)).collect()
}

/// All kinds, one below the other; as JSON the whole dump.
async fn all(place: &Where, target: &Target) -> Result<()> {
    let mesh = target.mesh(place).await?;
    let source = target.source(mesh.as_ref()).await?;
    let dump = source.dump(Dump::WithEndpoints).await?;
    let output = target.output.unwrap_or_default();
    if output != Output::Short {
        let whole = Style::load().restyled(&dump, Names::Json);
        return print(&render(output, &whole, || Ok(String::new()))?);
    }
    let endpoints = endpoint::of(&source).await?;
    let kinds = [cluster::rows(&dump), listener::rows(&dump), route::rows(&dump), endpoints, secret::rows(&dump)?, ecds::rows(&dump)];
    let mut tables = Vec::new();
    for found in kinds.into_iter().filter(|found| !found.rows.is_empty()) {
        let cells: Vec<Vec<String>> = found.rows.into_iter().map(|(cells, _)| cells).collect();
        tables.push(table(found.header, &cells)?);
    }
    print(&tables.join("\n"))
}

/// What is held and what is not, each row with one cell more that says which. A row of the control plane is held if the proxy has one for the same.
fn with_all(held: Rows, known: Rows) -> Rows {
    let key = |cells: &[String], value: &Value| match held.header {
        // The status is the proxy's own, and no name says which row it is.
        endpoint::HEADER => vec![cells[0].clone(), cells[3].clone()],
        route::HEADER => cells[..4].to_vec(),
        _ => vec![text(&value["name"])],
    };
    let names: BTreeSet<Vec<String>> = held.rows.iter().map(|(cells, value)| key(cells, value)).collect();
    let missing: Vec<_> = known.rows.into_iter().filter(|(cells, value)| !names.contains(&key(cells, value))).collect();
    let row = |is_held: bool| {
        move |(mut cells, value): (Vec<String>, Value)| {
            cells.push(if is_held { "yes" } else { "no" }.to_owned());
            (cells, serde_json::json!({"held": is_held, "resource": value}))
        }
    };
    let rows = held.rows.into_iter().map(row(true)).chain(missing.into_iter().map(row(false)));
    Rows { header: held.header, rows: rows.collect() }
}

/// The dump of a proxy, or an error if its answer is none.
fn checked(dump: Value, of: &str) -> Result<Value> {
    if !dump["configs"].is_array() {
        bail!("{of} is no config dump: it has no list `configs`");
    }
    Ok(dump)
}

/// The resources of every dump whose type ends in `kind`, found under any of `keys` at `inner`.
pub(super) fn resources<'a>(dump: &'a Value, kind: &str, keys: &[&str], inner: &[&str]) -> Vec<&'a Value> {
    let sections = dump["configs"].as_array().into_iter().flatten().filter(|s| s["@type"].as_str().is_some_and(|t| t.ends_with(kind)));
    sections
        .flat_map(|s| keys.iter().flat_map(|key| s[*key].as_array().into_iter().flatten()).collect::<Vec<_>>())
        .map(|entry| inner.iter().fold(entry, |value, key| &value[*key]))
        .filter(|resource| resource.is_object())
        .collect()
}

/// A field as text; empty if it is missing.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The Istio object that a resource was made from, as `name.namespace`.
fn source(metadata: &Value) -> String {
    source_of(metadata).map(|(namespace, name)| format!("{name}.{namespace}")).unwrap_or_default()
}

/// The same, as namespace and name, out of `/apis/GROUP/VERSION/namespaces/NS/KIND/NAME`.
pub(super) fn source_of(metadata: &Value) -> Option<(&str, &str)> {
    let mut parts = metadata["filter_metadata"]["istio"]["config"].as_str()?.rsplit('/');
    let (name, _kind, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    (!name.is_empty()).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let of = |config: &str| source(&serde_json::json!({"filter_metadata": {"istio": {"config": config}}}));
        assert_eq!(of("/apis/networking.istio.io/v1/namespaces/shop/destination-rule/reviews"), "reviews.shop");
        assert_eq!(of(""), "");
        assert_eq!(source(&Value::Null), "");
    }

    #[test]
    fn held_and_not() {
        let clusters = |names: &[&str]| {
            let list: Vec<Value> = names.iter().map(|name| serde_json::json!({"cluster": {"name": name, "type": "EDS"}})).collect();
            serde_json::json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": list}]})
        };
        let (held, known) = (clusters(&["xds", "outbound|80||b"]), clusters(&["outbound|80||a", "outbound|80||b"]));
        let found = with_all(cluster::rows(&held), cluster::rows(&known));
        let rows: Vec<String> = found.rows.iter().map(|(cells, value)| format!("{} {} {}", cells[0], cells[6], value["held"])).collect();
        assert_eq!(rows, ["b yes true", "xds yes true", "a no false"]);

        let address = |ip: &str| serde_json::json!({"socket_address": {"address": ip, "port_value": 80}});
        let held = serde_json::json!({"cluster_statuses": [{"name": "c", "host_statuses": [{"address": address("10.0.0.1"), "health_status": {}}]}]});
        let of = |ip: &str, health: &str| serde_json::json!({"health_status": health, "endpoint": {"address": address(ip)}});
        let known = serde_json::json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs": [
            {"endpoint_config": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [of("10.0.0.1", "HEALTHY"), of("10.0.0.2", "DRAINING")]}]}},
            {"endpoint_config": {"cluster_name": "d", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address("10.0.0.1")}}]}]}},
        ]}]});
        let found = with_all(endpoint::rows(&held), endpoint::known(&known));
        let rows: Vec<String> = found.rows.iter().map(|(cells, _)| cells.join(" ")).collect();
        assert_eq!(rows, ["10.0.0.1:80 HEALTHY OK c yes", "10.0.0.2:80 DRAINING - c no", "10.0.0.1:80 HEALTHY - d no"]);
    }

    /// A resource that has several rows is printed once.
    #[test]
    fn resources_once() {
        let chain = |port: u16| serde_json::json!({"filter_chain_match": {"destination_port": port}});
        let dump = serde_json::json!({"configs": [{"@type": "x.ListenersConfigDump", "dynamic_listeners": [{"active_state": {"listener":
            {"name": "virtualInbound", "traffic_direction": "INBOUND", "filter_chains": [chain(80), chain(81)]}}}]}]});
        let found = listener::rows(&dump);
        assert_eq!(found.rows.len(), 2);
        let values = values(&found.rows);
        assert_eq!(values.len(), 1);
        assert_eq!(values[0]["trafficDirection"], "INBOUND");
        assert_eq!(values[0]["filterChains"][1]["filterChainMatch"]["destinationPort"], 81);
    }
}
