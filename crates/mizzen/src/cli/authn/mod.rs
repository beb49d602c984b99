//! `mizzen authn tls-check`: for each service what its servers take, what a client sends to them, and whether the two fit.

mod check;
mod seen;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
#[cfg(test)]
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use mizzen_explain::proxy_of;
use mizzen_model::ProxyView;
#[cfg(test)]
use mizzen_model::Snapshot;
use serde_json::Value;

use super::{
    explain::late,
    output::{Output, print, render, table},
    place::{Place, Where},
    proxy_config::resources,
    state::{self, State, find_pod},
};
pub(super) use check::has_proxy;
use check::{Row, Server, Status};

/// What can be asked of mutual TLS.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuthnVerb {
    /// Show for each service what its servers take (PeerAuthentication), what a client sends (DestinationRule, automatic mutual TLS), and whether that fits.
    TlsCheck(TlsCheckArgs),
}

/// Arguments of `authn tls-check`.
#[derive(Debug, clap::Args)]
pub(crate) struct TlsCheckArgs {
    /// The client: POD, POD.NAMESPACE, or the name of its deployment.
    workload: String,
    /// Only this service: a host, NAME or NAME.NAMESPACE, with a port or without. Without it: all that the client can call.
    service: Option<String>,
    /// The namespace of the client, if its name does not say it.
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    of: state::From,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Where, verb: AuthnVerb) -> Result<()> {
    let AuthnVerb::TlsCheck(args) = verb;
    let state = args.of.read(place).await?;
    let (view, held) = client(&state, &args).await?;
    let mut rows = check::rows(&state.snapshot, &view, &held, |host, port| is_meant(&args, &view, host, port))?;
    if let (Some(service), true) = (&args.service, rows.is_empty()) {
        let known = check::rows(&state.snapshot, &view, &held, |_, _| true)?;
        bail!("{}", unknown(service, &view, &known));
    }
    let mut notes = Vec::new();
    if let Some(mesh) = &state.mesh {
        notes.extend(seen::add(mesh, &state.snapshot, &view, &mut rows).await);
        notes.extend(stale(mesh, &view, &rows).await);
    }
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    print(&render(args.output, &rows, || text(&rows))?)
}

/// The clusters that a proxy runs, by name.
type Held = BTreeMap<String, Value>;

/// The client, and what its proxy runs.
async fn client(state: &State, args: &TlsCheckArgs) -> Result<(ProxyView, Held)> {
    let namespace = args.namespace.as_deref();
    let (name, held) = match &state.mesh {
        Some(mesh) => {
            let pod = mesh.pod(&args.workload, namespace).await?;
            let dump = pod.admin("/config_dump").await?;
            (pod.name(), clusters(&dump))
        }
        None => {
            let pod = find_pod(&state.snapshot, &args.workload, namespace)?;
            if !check::has_proxy(&state.snapshot, pod) {
                bail!("{}.{} is not in the mesh: it has no sidecar and is no gateway", pod.meta.name, pod.meta.namespace);
            }
            (format!("{}.{}", pod.meta.name, pod.meta.namespace), Held::new())
        }
    };
    let view = name.rsplit_once('.').and_then(|(pod, namespace)| proxy_of(&state.snapshot, namespace, pod));
    Ok((view.with_context(|| format!("{name} is not known to the control plane yet"))?, held))
}

fn clusters(dump: &Value) -> Held {
    let found = resources(dump, "ClustersConfigDump", &["dynamic_active_clusters"], &["cluster"]);
    found.into_iter().filter_map(|cluster| Some((cluster["name"].as_str()?.to_owned(), cluster.clone()))).collect()
}

/// Whether a port of a service is asked about.
fn is_meant(args: &TlsCheckArgs, view: &ProxyView, host: &str, port: u16) -> bool {
    let Some(wanted) = args.service.as_deref() else { return true };
    let (wanted, of_port) = match wanted.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
        Some((host, port)) => (host, Some(port)),
        None => (wanted, None),
    };
    of_port.is_none_or(|wanted| wanted == port) && names(wanted, &view.facts().namespace).iter().any(|name| name == host)
}

/// What a program of a namespace may mean by a host.
fn names(host: &str, namespace: &str) -> [String; 3] {
    [host.to_owned(), format!("{host}.{namespace}.svc.cluster.local"), format!("{host}.svc.cluster.local")]
}

fn unknown(service: &str, view: &ProxyView, known: &[Row]) -> String {
    let facts = view.facts();
    let short = known.iter().map(|row| row.host.split('.').next().unwrap_or_default());
    let near = mizzen_api::nearest(service, short).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
    let mut hosts: Vec<&str> = known.iter().map(|row| row.host.as_str()).collect();
    hosts.dedup();
    format!("{}.{} can call no service {service}{near} There are: {}", facts.pod, facts.namespace, hosts.join(", "))
}

/// Which of the proxies concerned may not run yet what is told here.
async fn stale(mesh: &Place, view: &ProxyView, rows: &[Row]) -> Vec<String> {
    let facts = view.facts();
    let endpoints = rows.iter().flat_map(|row| &row.endpoints).filter(|endpoint| endpoint.server != Server::NoSidecar);
    let servers = endpoints.filter_map(|endpoint| endpoint.pod.clone());
    let mut proxies: Vec<String> = servers.collect();
    proxies.push(format!("{}/{}", facts.namespace, facts.pod));
    proxies.sort();
    proxies.dedup();
    late(mesh, proxies.iter().map(String::as_str)).await
}

fn text(rows: &[Row]) -> Result<String> {
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let cells = |row: &Row| {
        let subset = row.subset.as_ref().map(|subset| format!("|{subset}")).unwrap_or_default();
        let seen = row.seen.keys().cloned().collect::<Vec<_>>().join(",");
        vec![
            format!("{}:{}{subset}", row.host, row.port),
            row.status.as_str().to_owned(),
            row.server.clone(),
            row.client.clone(),
            dash(row.policies.iter().map(|policy| policy.name.clone()).collect::<Vec<_>>().join(",")),
            dash(row.rule.as_ref().map(|rule| rule.name.clone()).unwrap_or_default()),
            dash(seen),
        ]
    };
    let header = ["HOST:PORT", "STATUS", "SERVER", "CLIENT", "AUTHN POLICY", "DESTINATION RULE", "SEEN"];
    let mut text = table(&header, &rows.iter().map(cells).collect::<Vec<_>>())?;
    for row in rows.iter().filter(|row| row.status == Status::Conflict) {
        let subset = row.subset.as_ref().map(|subset| format!(", subset {subset}")).unwrap_or_default();
        for reason in &row.reasons {
            text += &format!("{}:{}{subset}: {reason}\n", row.host, row.port);
        }
    }
    Ok(text)
}

/// The rows of the files alone, for tests.
#[cfg(test)]
fn of_files(snapshot: &Arc<Snapshot>, client: &str, held: &Held) -> Result<Vec<Row>> {
    let (namespace, pod) = client.split_once('/').context("NAMESPACE/POD")?;
    let view = proxy_of(snapshot, namespace, pod).context("a proxy")?;
    check::rows(snapshot, &view, held, |_, _| true)
}
