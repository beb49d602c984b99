//! Keeping `mizzend` running, and asking it for workload tokens.

use std::{net::IpAddr, os::fd::AsFd, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use http::Method;
use mizzen_host::{Host, Io, LogFile, ProcessKind, RestartDelay, Spec};
use serde_json::json;
use tokio::time::Instant;

use super::{
    address::CONTROL,
    https,
    mesh::{Mesh, is_set},
    say,
};

/// The control plane's log is kept up to this size, twice.
const LOG_LIMIT: u64 = 8 << 20;
/// How long it may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// How long a token may take.
const TOKEN_WITHIN: Duration = Duration::from_secs(10);
/// How long a token is good for. It serves for the first certificate, and again only if that was not renewed in time.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// The settings of the mesh when the folder has none of its own: Istio's, with access logs as JSON.
const MESH_CONFIG: &str = "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n";

/// Runs `mizzend` in a host of its own until the mesh ends, starting it again whenever it dies.
pub(crate) async fn run(mesh: Arc<Mesh>) -> Result<()> {
    let host = Host::create(&mesh.router, CONTROL).await?;
    let log = LogFile::open(&mesh.dir("mizzend/log"), LOG_LIMIT)?;
    // The CA's key and the tokens' key live here and nowhere else: in memory, over every restart of the control plane.
    let state = mizzen_net::memfd("mizzend-state", b"", false)?;
    std::fs::write(mesh.dir("mizzend/mesh.yaml"), MESH_CONFIG)?;
    let mut ending = mesh.ending.subscribe();
    let mut restart = RestartDelay::default();
    loop {
        let io = Io { others: vec![(3, state.as_fd().try_clone_to_owned()?)], ..Io::to(log.pipe()?)? };
        restart.started(Instant::now().into_std());
        match mesh.supervisor.spawn(&host, &spec(&mesh), io).await {
            Ok(process) => {
                let ended = tokio::select! {
                    ended = process.wait() => ended,
                    () = is_set(&mut ending) => {
                        process.stop(GRACE).await;
                        return Ok(());
                    }
                };
                let ended = say::end(ended, &log).await;
                log.note(&format!("ended: {ended}"));
                say::error(&format!("the control plane ended, it is started again, and traffic goes on meanwhile: {ended}"));
            }
            Err(error) => say::error(&format!("the control plane does not start: {error}")),
        }
        let delay = restart.ended(Instant::now().into_std());
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = is_set(&mut ending) => return Ok(()),
        }
    }
}

fn spec(mesh: &Mesh) -> Spec {
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let mut argv = vec![text(mesh.dir("bin/mizzend"))];
    let options = [
        // What runs here is what this process says: no object of the folder comes before its pods.
        ("--config-dir", text(mesh.told.path().to_owned())),
        ("--config-dir", text(mesh.payload.folder.clone())),
        ("--last-good", text(mesh.dir("last-good"))),
        ("--address", CONTROL.to_string()),
        ("--state-fd", "3".to_owned()),
        ("--socket-dir", text(mesh.dir("mizzend"))),
        ("--root-cert-file", text(mesh.dir("mizzend/root-cert.pem"))),
        ("--mesh-config", text(mesh.dir("mizzend/mesh.yaml"))),
        ("--workload-cert-ttl", format!("{}s", mesh.payload.cert_ttl)),
    ];
    argv.extend(mesh.payload.secure.then(|| "--registry-only".to_owned()));
    argv.extend(mesh.payload.https.iter().flat_map(|_| ["--https-credential".to_owned(), https::CREDENTIAL.to_owned()]));
    argv.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    let mut env = vec![("MIZZEN_LOG".to_owned(), mesh.payload.log.clone())];
    // How keys of issuers of tokens are fetched, and whom Gateways select.
    let passed =
        ["PILOT_JWT_ENABLE_REMOTE_JWKS", "PILOT_JWT_PUB_KEY_REFRESH_INTERVAL", "PILOT_SCOPE_GATEWAY_TO_NAMESPACE", "SSL_CERT_FILE"];
    env.extend(passed.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))));
    Spec { name: "mizzend".to_owned(), argv, env, cwd: Some(mesh.dir("mizzend")), kind: ProcessKind::Control }
}

/// The address of xDS and the CA.
pub(crate) fn address() -> IpAddr {
    IpAddr::V4(CONTROL)
}

/// A token for a workload, signed by the control plane.
///
/// # Errors
/// If the control plane does not answer, as while it starts.
pub(crate) async fn token(mesh: &Mesh, namespace: &str, service_account: &str, pod: &str) -> Result<String> {
    let wanted = json!({
        "namespace": namespace,
        "service_account": service_account,
        "pod": pod,
        "audience": "istio-ca",
        "ttl_seconds": TOKEN_TTL.as_secs(),
    });
    let socket = mesh.dir("mizzend/token.sock");
    let reply = mizzen_net::fetch_unix(&socket, Method::POST, "/token", wanted.to_string(), TOKEN_WITHIN).await?;
    if !reply.status.is_success() {
        bail!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body).trim());
    }
    let answer: serde_json::Value = serde_json::from_slice(&reply.body).context("the control plane's answer is no JSON")?;
    answer["token"].as_str().map(str::to_owned).context("the control plane's answer has no token")
}
