//! Telling that the mesh is ready: on the terminal, and in the file that was asked for.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use http::{HeaderMap, Method, StatusCode};
use mizzen_control::status::Live;
use mizzen_net::ConnectOptions;
use owo_colors::OwoColorize;
use tokio::io::AsyncWriteExt;

use super::{https, say};
use crate::cli::find::{Mesh, MeshFile};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the proxies may take to hear of the workloads.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until the inner process has written `mesh.json` and the Gateway answers, then says so.
pub(crate) async fn announce(run_dir: PathBuf, ready_file: Option<PathBuf>, shown: PathBuf) {
    if let Err(error) = run(&run_dir, ready_file.as_deref(), &shown).await {
        say::error(&format!("{error:#}"));
    }
}

async fn run(run_dir: &Path, ready_file: Option<&Path>, shown: &Path) -> Result<()> {
    let path = run_dir.join("mesh.json");
    let text = loop {
        match std::fs::read(&path) {
            Ok(text) => break text,
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    };
    let mesh: MeshFile = serde_json::from_slice(&text)?;
    // Better late than never: a proxy that does not answer the control plane must not keep the rest from being used.
    let _ = tokio::time::timeout(SETTLE_WITHIN, settled(run_dir)).await;
    while !mesh.address.is_empty() && !answers(&mesh.address).await {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if let Some(file) = ready_file {
        // Written beside and renamed: whoever waits for the file never sees half of it.
        let partial = file.with_extension("partial");
        std::fs::write(&partial, &text).and_then(|()| std::fs::rename(&partial, file)).with_context(|| file.display().to_string())?;
    }
    show(&mesh, run_dir, shown);
    Ok(())
}

/// Waits until every proxy knows that every workload is ready.
async fn settled(run_dir: &Path) {
    let mesh = Mesh { dir: run_dir.to_owned() };
    for pod in mesh.pods() {
        let Some((name, namespace)) = pod.name.rsplit_once('.') else { continue };
        let path = format!("/debug/live?kind=Pod&namespace={namespace}&name={name}");
        let known = async || -> Result<bool> {
            let live: Live = serde_json::from_value(mesh.debug(&path).await?)?;
            Ok(live.ready == Some(true) && live.pending.is_empty())
        };
        while !known().await.unwrap_or(false) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether a call to the address has an answer that does not come from a proxy without its servers.
async fn answers(address: &str) -> bool {
    let Some(socket) = address.strip_prefix("http://").and_then(|a| a.trim_end_matches('/').parse::<SocketAddr>().ok()) else {
        return true;
    };
    // A gateway that expects the PROXY protocol's header closes what has none.
    for header in ["", "PROXY UNKNOWN\r\n"] {
        if let Ok(Ok(status)) = tokio::time::timeout(CALL_TIMEOUT, status(socket, header)).await {
            // One that expects none answers to the header that this was no request.
            return !status.is_server_error() && (header.is_empty() || status != StatusCode::BAD_REQUEST);
        }
    }
    false
}

async fn status(socket: SocketAddr, header: &str) -> Result<StatusCode> {
    let mut stream = mizzen_net::connect(socket, &ConnectOptions::default()).await?;
    stream.write_all(header.as_bytes()).await?;
    Ok(mizzen_net::fetch_status(stream, Method::GET, &socket.to_string(), "/", HeaderMap::new()).await?)
}

fn show(mesh: &MeshFile, run_dir: &Path, shown: &Path) {
    let pods = std::fs::read_dir(run_dir.join("pods")).map_or(0, Iterator::count);
    say::good(&format!("the mesh is ready: {pods} workloads"));
    // Of one gateway alone it is plain whose they are.
    let several = mesh.gateways.windows(2).any(|pair| pair[0].gateway != pair[1].gateway);
    for port in &mesh.gateways {
        let whose = if several { format!("   port {} of gateway {}", port.port, port.gateway) } else { String::new() };
        say::line(format_args!("\n  open    {}{whose}", port.address.bold()));
    }
    if let (Some(root), Some(port)) = (&mesh.https_root, mesh.gateways.iter().find(|port| port.address.starts_with("https:"))) {
        say::line(format_args!("{}", https::advice(root, &port.address)));
    }
    say::line(format_args!(
        "  edit    {}: what you save is live within a second\n  try     mizzen proxy-status\n          mizzen proxy-config cluster WORKLOAD\n          \
         mizzen logs WORKLOAD --proxy\n          mizzen explain --from WORKLOAD --to SERVICE\n          mizzen run --namespace NAMESPACE --service-account NAME -- COMMAND\n  end     Ctrl-C\n",
        shown.display()
    ));
}
