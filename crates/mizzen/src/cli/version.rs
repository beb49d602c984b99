//! `mizzen version`.

use std::collections::BTreeMap;

use anyhow::Result;
use mizzen_control::status::Syncz;
use serde_json::json;

use super::{
    output::{Output, print, render},
    place::{Place, Where},
};

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Where, args: VersionArgs) -> Result<()> {
    let client = env!("CARGO_PKG_VERSION");
    let mut value = json!({"client": client});
    let mut lines = format!("client version: {client}\n");
    match place.running().await.ok().flatten() {
        Some(Place::Host(mesh)) => {
            let control = mesh.file()?.version;
            let proxies = mesh.pods().len();
            value["controlPlane"] = json!(control);
            value["dataPlane"] = json!({"version": control, "proxies": proxies});
            lines += &format!("control plane version: {control}\ndata plane version: {control} ({proxies} proxies)\n");
        }
        // A cluster may have no mesh: the client's version is told all the same.
        Some(cluster @ Place::Cluster(_)) => match of_cluster(&cluster).await {
            Ok((control, proxies)) => {
                let versions = proxies.iter().map(|(version, count)| format!("{version} ({count} proxies)")).collect::<Vec<_>>().join(", ");
                lines += &format!("control plane version: {control}\ndata plane version: {versions}\n");
                let proxies: Vec<_> = proxies.iter().map(|(version, count)| json!({"version": version, "proxies": count})).collect();
                value["controlPlane"] = json!(control);
                value["dataPlane"] = json!(proxies);
            }
            Err(error) => eprintln!("mizzen: the version of the control plane is not known: {error:#}"),
        },
        None => {}
    }
    print(&render(args.output, &value, || Ok(lines))?)
}

/// The control plane's version, and how many proxies of each version are connected to it.
async fn of_cluster(place: &Place) -> Result<(String, BTreeMap<String, usize>)> {
    let control = place.debug("/version").await?["version"].as_str().unwrap_or_default().to_owned();
    let status: Syncz = serde_json::from_value(place.debug("/debug/syncz").await?)?;
    let mut proxies = BTreeMap::new();
    for proxy in status.proxies {
        *proxies.entry(proxy.proxy_version).or_default() += 1;
    }
    Ok((control, proxies))
}
