//! `mizzen proxy-config`: what a proxy runs, read from the proxy itself.

mod cluster;
mod endpoint;
mod listener;
mod on_demand;
mod route;
mod secret;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    find::{Mesh, Pod},
    output::{Output, print, render, table},
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
}

/// Rows of one kind: a header, and for each resource its cells and its JSON.
struct Rows {
    header: &'static [&'static str],
    rows: Vec<(Vec<String>, Value)>,
}

pub(crate) async fn run(mesh: Option<&str>, args: ProxyConfigArgs) -> Result<()> {
    let mesh = Mesh::find(mesh)?;
    let pod = mesh.pod(&args.workload, args.namespace.as_deref())?;
    let mut found = match args.what {
        What::Cluster => cluster::rows(&dump(&pod).await?),
        What::Listener => listener::rows(&dump(&pod).await?),
        What::Route => route::rows(&dump(&pod).await?),
        What::Secret => secret::rows(&dump(&pod).await?)?,
        What::OnDemand => on_demand::rows(&pod.admin("/on_demand").await?),
        What::Endpoint => endpoint::rows(&pod.admin("/clusters?format=json").await?),
    };
    if let Some(text) = &args.name {
        found.rows.retain(|(cells, _)| cells.iter().any(|c| c.contains(text.as_str())));
    }
    let values: Vec<&Value> = found.rows.iter().map(|(_, value)| value).collect();
    let cells: Vec<Vec<String>> = found.rows.iter().map(|(cells, _)| cells.clone()).collect();
    print(&render(args.output, &values, || table(found.header, &cells))?)
}

async fn dump(pod: &Pod) -> Result<Value> {
    let dump = pod.admin("/config_dump").await?;
    if !dump["configs"].is_array() {
        bail!("the proxy of {} sent no config dump", pod.name);
    }
    Ok(dump)
}

/// The resources of every dump whose type ends in `kind`, found under any of `keys` at `inner`.
fn resources<'a>(dump: &'a Value, kind: &str, keys: &[&str], inner: &[&str]) -> Vec<&'a Value> {
    let sections = dump["configs"].as_array().into_iter().flatten().filter(|s| s["@type"].as_str().is_some_and(|t| t.ends_with(kind)));
    sections
        .flat_map(|s| keys.iter().flat_map(|key| s[*key].as_array().into_iter().flatten()).collect::<Vec<_>>())
        .map(|entry| inner.iter().fold(entry, |value, key| &value[*key]))
        .filter(|resource| resource.is_object())
        .collect()
}

/// A field as text; empty if it is missing.
fn text(value: &Value) -> String {
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
}
