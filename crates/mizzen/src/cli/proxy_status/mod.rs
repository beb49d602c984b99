//! `mizzen proxy-status`: which configuration each proxy has, and whether it is the newest; of one proxy, what differs from what it should have.

mod diff;

use anyhow::Result;
use mizzen_control::status::{ProxyStatus, SyncState, Syncz, TypeStatus};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    output::{Output, print, render, table},
    place::{Place, Where, Workload},
};
use diff::Difference;

/// Arguments of `proxy-status`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyStatusArgs {
    /// Only this workload: POD, POD.NAMESPACE, deployment/NAME or service/NAME. What it runs is compared with what the control plane has for it now.
    workload: Option<String>,
    /// The namespace, if the workload's name does not say it.
    #[arg(short, long, requires = "workload")]
    namespace: Option<String>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The types that have a column, by their names in the control plane's answer.
const TYPES: [(&str, &str); 4] = [("CDS", "Cluster"), ("LDS", "Listener"), ("EDS", "ClusterLoadAssignment"), ("RDS", "RouteConfiguration")];

/// What is known of one proxy.
#[derive(Debug, Serialize)]
struct OfOne {
    #[serde(flatten)]
    found: Syncz,
    /// What it runs otherwise than it should.
    differences: Vec<Difference>,
}

pub(crate) async fn run(place: &Where, args: ProxyStatusArgs) -> Result<()> {
    let mesh = place.find().await?;
    let mut found: Syncz = serde_json::from_value(mesh.debug("/debug/syncz").await?)?;
    let Some(name) = &args.workload else {
        return print(&render(args.output, &found, || overview(&found))?);
    };
    let pod = mesh.pod(name, args.namespace.as_deref()).await?;
    found.proxies.retain(|proxy| proxy.proxy == pod.name());
    let Some(proxy) = found.proxies.first().cloned() else {
        // Who has no proxy says so here.
        pod.admin("/server_info").await?;
        anyhow::bail!("{} is not connected to the control plane: it runs what it had", pod.name());
    };
    let differences = differences(&mesh, &pod).await?;
    let of_one = OfOne { found, differences };
    print(&render(args.output, &of_one, || Ok(detail(&proxy)? + &diff::text(&of_one.differences)))?)
}

async fn differences(mesh: &Place, pod: &Workload<'_>) -> Result<Vec<Difference>> {
    let due = mesh.debug(&format!("/debug/config_dump?proxyID={}&sent=true", pod.name())).await?;
    let held = pod.admin("/config_dump?include_eds").await?;
    Ok(diff::all(&due, &held))
}

fn overview(found: &Syncz) -> Result<String> {
    let columns = TYPES.map(|(column, _)| column);
    let header: Vec<&str> = ["NAME"].into_iter().chain(columns).chain(["LAST ACK", "VERSION"]).collect();
    // One row for each proxy: agent and data plane have a stream each, and each of them asks for its own types.
    let mut text = table(&header, &found.proxies.iter().map(row).collect::<Vec<_>>())?;
    text.extend(found.proxies.iter().map(rejections));
    Ok(text)
}

fn row(proxy: &ProxyStatus) -> Vec<String> {
    let of_type = |name: &str| proxy.types.iter().find(|t| t.name == name || t.type_url.ends_with(&format!(".{name}")));
    let states = TYPES.iter().map(|(_, name)| of_type(name).map_or("NOT SENT", |found| word(found.state)).to_owned());
    let last = proxy.types.iter().filter_map(|of_type| of_type.last_ack).max();
    [proxy.proxy.clone()].into_iter().chain(states).chain([time(last), proxy.proxy_version.clone()]).collect()
}

fn word(state: SyncState) -> &'static str {
    match state {
        SyncState::Synced => "SYNCED",
        SyncState::Stale => "STALE",
        SyncState::Error => "ERROR",
        SyncState::NotSent => "NOT SENT",
    }
}

fn time(seconds: Option<u64>) -> String {
    let at = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "-".to_owned())
}

/// What a proxy rejects, in its words.
fn rejections(proxy: &ProxyStatus) -> String {
    let line = |of_type: &TypeStatus| Some(format!("{}: {} rejected: {}\n", proxy.proxy, of_type.name, of_type.error.as_ref()?));
    proxy.types.iter().filter_map(line).collect()
}

/// Type by type.
fn detail(proxy: &ProxyStatus) -> Result<String> {
    let cells = |of_type: &TypeStatus| -> Vec<String> {
        let counts = [of_type.sent, of_type.acked, of_type.nacked].map(|count| count.to_string());
        let held = of_type.resources.iter().filter(|resource| resource.sent.is_some()).count();
        let first = [of_type.name.clone(), word(of_type.state).to_owned(), held.to_string()];
        first.into_iter().chain(counts).chain([time(of_type.last_ack), time(of_type.last_nack)]).collect()
    };
    let header = ["TYPE", "STATE", "RESOURCES", "SENT", "ACKED", "NACKED", "LAST ACK", "LAST NACK"];
    Ok(table(&header, &proxy.types.iter().map(cells).collect::<Vec<_>>())? + &rejections(proxy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed() {
        let of_type = |name: &str, state, error: Option<&str>| TypeStatus {
            name: name.to_owned(),
            type_url: format!("type.googleapis.com/x.{name}"),
            state,
            sent: 3,
            acked: 2,
            nacked: u64::from(error.is_some()),
            last_ack: Some(1_700_000_000),
            last_nack: error.map(|_| 1_700_000_001),
            error: error.map(str::to_owned),
            resources: Vec::new(),
        };
        let proxy = ProxyStatus {
            proxy: "web.shop".to_owned(),
            node: String::new(),
            connection: 1,
            identity: String::new(),
            address: String::new(),
            proxy_version: "1.30.0".to_owned(),
            snapshot: 1,
            types: vec![of_type("Cluster", SyncState::Synced, None), of_type("Listener", SyncState::Error, Some("no such filter"))],
        };
        let text = detail(&proxy).unwrap();
        let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "TYPE STATE RESOURCES SENT ACKED NACKED LAST ACK LAST NACK",
                "Cluster SYNCED 0 3 2 0 2023-11-14T22:13:20Z -",
                "Listener ERROR 0 3 2 1 2023-11-14T22:13:20Z 2023-11-14T22:13:21Z",
                "web.shop: Listener rejected: no such filter",
            ]
        );
        let text = overview(&Syncz { snapshot: 1, proxies: vec![proxy] }).unwrap();
        let rows: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(rows[1], "web.shop SYNCED ERROR NOT SENT NOT SENT 2023-11-14T22:13:20Z 1.30.0");
        assert_eq!(rows[2], "web.shop: Listener rejected: no such filter");
    }
}
