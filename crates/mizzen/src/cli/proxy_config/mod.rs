//! `mizzen proxy-config`: what a proxy runs, read from the proxy itself.

mod cluster;
mod endpoint;
mod listener;
mod on_demand;
mod route;
mod secret;

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    output::{Output, print, render, table},
    place::{Where, Workload},
};

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// Clusters: where the proxy can send to.
    #[value(aliases = ["clusters", "c"])]
    Cluster,
    /// Listeners: what the proxy accepts.
    #[value(aliases = ["listeners", "l"])]
    Listener,
    /// Routes: how requests find their cluster.
    #[value(aliases = ["routes", "r"])]
    Route,
    /// Endpoints: the addresses behind clusters.
    #[value(aliases = ["endpoints", "ep"])]
    Endpoint,
    /// Certificates and roots; never private keys.
    #[value(aliases = ["secrets", "s"])]
    Secret,
    /// What was fetched on first use, and what for.
    #[value(aliases = ["od"])]
    OnDemand,
}

/// Arguments of `proxy-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyConfigArgs {
    /// What to show.
    what: What,
    /// The workload: POD, POD.NAMESPACE, or the name of its deployment.
    workload: String,
    /// The namespace, if the workload's name does not say it.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Only names that contain this text.
    #[arg(long)]
    name: Option<String>,
    /// Also what the control plane has for the proxy and the proxy does not hold, since nothing there has used it.
    #[arg(long)]
    all: bool,
}

/// Rows of one kind: a header, and for each resource its cells and its JSON.
struct Rows {
    header: &'static [&'static str],
    rows: Vec<(Vec<String>, Value)>,
}

pub(crate) async fn run(place: &Where, args: ProxyConfigArgs) -> Result<()> {
    let mesh = place.find().await?;
    let pod = mesh.pod(&args.workload, args.namespace.as_deref()).await?;
    let section = args.what.section();
    if args.all && section.is_none() {
        bail!("--all is for clusters, listeners, routes and endpoints: of anything else a proxy holds all that there is for it");
    }
    let mut found = match args.what {
        What::Cluster => cluster::rows(&dump(&pod).await?),
        What::Listener => listener::rows(&dump(&pod).await?),
        What::Route => route::rows(&dump(&pod).await?),
        What::Secret => secret::rows(&dump(&pod).await?)?,
        What::OnDemand => on_demand::rows(&pod.admin("/on_demand").await?),
        What::Endpoint => endpoint::rows(&pod.admin("/clusters?format=json").await?),
    };
    let mut header = found.header.to_vec();
    if let Some((section, kind)) = section.filter(|_| args.all) {
        let path = format!("/debug/config_dump?proxyID={}&section={section}", pod.name());
        let dump = mesh.debug(&path).await?;
        found = with_all(found, kind(&dump));
        header.push("HELD");
    }
    if let Some(text) = &args.name {
        found.rows.retain(|(cells, _)| cells.iter().any(|c| c.contains(text.as_str())));
    }
    let values: Vec<&Value> = found.rows.iter().map(|(_, value)| value).collect();
    let cells: Vec<Vec<String>> = found.rows.iter().map(|(cells, _)| cells.clone()).collect();
    print(&render(args.output, &values, || table(&header, &cells))?)
}

/// How rows are made of a dump.
type ToRows = fn(&Value) -> Rows;

impl What {
    /// The section of the control plane's dump that has all of it, and how its rows are made.
    fn section(self) -> Option<(&'static str, ToRows)> {
        match self {
            What::Cluster => Some(("clusters", cluster::rows)),
            What::Listener => Some(("listeners", listener::rows)),
            What::Route => Some(("routes", route::rows)),
            What::Endpoint => Some(("endpoints", endpoint::known)),
            What::Secret | What::OnDemand => None,
        }
    }
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

async fn dump(pod: &Workload<'_>) -> Result<Value> {
    let dump = pod.admin("/config_dump").await?;
    if !dump["configs"].is_array() {
        bail!("the proxy of {} sent no config dump", pod.name());
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

/// The Istio object that a resource was made from, as `name.namespace`, out of `/apis/GROUP/VERSION/namespaces/NS/KIND/NAME`.
fn source(metadata: &Value) -> String {
    let path = text(&metadata["filter_metadata"]["istio"]["config"]);
    let mut parts = path.rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(_kind), Some(namespace)) if !name.is_empty() => format!("{name}.{namespace}"),
        _ => String::new(),
    }
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
}
