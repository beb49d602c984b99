//! `mizzen proxy-status`: which configuration each proxy has, and whether it is the newest.

use anyhow::Result;
use mizzen_control::status::{SyncState, Syncz};

use super::{
    output::{Output, print, render, table},
    place::Where,
};

/// Arguments of `proxy-status`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyStatusArgs {
    /// Only this workload: POD or POD.NAMESPACE. What it rejected is told in words.
    workload: Option<String>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The types that have a column, by their names in the control plane's answer.
const TYPES: [(&str, &str); 4] = [("CDS", "Cluster"), ("LDS", "Listener"), ("EDS", "ClusterLoadAssignment"), ("RDS", "RouteConfiguration")];

pub(crate) async fn run(place: &Where, args: ProxyStatusArgs) -> Result<()> {
    let mesh = place.find().await?;
    let mut found: Syncz = serde_json::from_value(mesh.debug("/debug/syncz").await?)?;
    if let Some(name) = &args.workload {
        let pod = mesh.pod(name, None).await?.name();
        found.proxies.retain(|proxy| proxy.proxy == pod);
    }
    let text = render(args.output, &found, || {
        let header: Vec<&str> = ["NAME"].into_iter().chain(TYPES.map(|(column, _)| column)).chain(["VERSION"]).collect();
        let mut text = table(&header, &rows(&found))?;
        for proxy in &found.proxies {
            for kind in &proxy.types {
                if let Some(error) = &kind.error {
                    text += &format!("{}: {} rejected: {error}\n", proxy.proxy, kind.name);
                }
            }
        }
        Ok(text)
    })?;
    print(&text)
}

fn rows(found: &Syncz) -> Vec<Vec<String>> {
    let row = |proxy: &mizzen_control::status::ProxyStatus| {
        let state =
            |name: &str| match proxy.types.iter().find(|t| t.name == name || t.type_url.ends_with(&format!(".{name}"))).map(|t| t.state) {
                Some(SyncState::Synced) => "SYNCED",
                Some(SyncState::Stale) => "STALE",
                Some(SyncState::Error) => "ERROR",
                Some(SyncState::NotSent) | None => "NOT SENT",
            };
        let states = TYPES.iter().map(|(_, name)| state(name).to_owned());
        [proxy.proxy.clone()].into_iter().chain(states).chain([proxy.proxy_version.clone()]).collect()
    };
    // One row for each proxy: agent and data plane have a stream each, and each of them asks for its own types.
    found.proxies.iter().map(row).collect()
}
