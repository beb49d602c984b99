//! A proxy driven by servers that nobody here wrote: gRPC's own implementations in Go and Python, which send their headers with their first
//! message. Both speak both variants of the protocol.

#[allow(dead_code)]
mod common;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use base64::Engine;
use common::*;
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_protos::json::Descriptors;
use mizzen_testkit::{peer, require_peers, skip};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Says what is missing and how it is installed.
fn missing(hint: &str) -> Option<Command> {
    assert!(!require_peers(), "{hint}");
    skip(hint);
    None
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// The server of grpc-go, built once below `target`.
fn go() -> Option<Command> {
    let go = peer("go", "golang-go")?;
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("discovery-server");
    let built = Command::new(go).args(["build", "-o"]).arg(&program).arg(".").current_dir(sources().join("go")).output().expect("go");
    if !built.status.success() {
        let why = String::from_utf8_lossy(&built.stderr).into_owned();
        return missing(&format!("the server of grpc-go cannot be built: `go mod download` in {}: {why}", sources().join("go").display()));
    }
    Some(Command::new(program))
}

/// The server of grpcio, which `.ci/run` installs below `target`.
fn python() -> Option<Command> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers").join("bin/python");
    let there = Command::new(&python).args(["-c", "import grpc"]).output().is_ok_and(|o| o.status.success());
    if !there {
        return missing("grpcio is not installed: `python3 -m venv target/peers && target/peers/bin/pip install grpcio==1.85.3`");
    }
    let mut command = Command::new(python);
    command.arg(sources().join("server.py"));
    Some(command)
}

/// A server, and what it prints.
struct Server {
    process: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    async fn start(mut command: Command, folder: &Path, resources: &[(&str, &str, Value)], mode: &str) -> Server {
        let descriptors = Descriptors::load();
        let mut file = std::fs::File::create(folder.join("resources")).unwrap();
        for (kind, name, body) in resources {
            let content = descriptors.any_from_value(kind, body.clone()).unwrap().value;
            writeln!(file, "{kind} {name} {}", base64::engine::general_purpose::STANDARD.encode(content)).unwrap();
        }
        command.arg(folder.join("socket")).arg(folder.join("resources")).arg(mode).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the server starts");
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Server { process, lines };
        server.until("serving").await;
        server
    }

    /// Waits for a line; returns those before it.
    async fn until(&mut self, wanted: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match tokio::time::timeout(LONG, self.lines.recv()).await {
                Ok(Some(line)) if line == wanted => return before,
                Ok(Some(line)) => before.push(line),
                _ => panic!("no line `{wanted}` after {before:?}"),
            }
        }
    }
}

/// A certificate of a workload, as the secret of this name.
fn certificate(name: &str, account: &str) -> Value {
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let ca = Ca::self_signed(&Default::default(), now, CaLimits::default()).unwrap();
    let svid = ca.issue(&format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap(), Duration::from_secs(3600), now).unwrap();
    json!({"name": name, "tls_certificate": {
        "certificate_chain": {"inline_string": svid.chain_pem()}, "private_key": {"inline_string": svid.key_pem().expose()}}})
}

/// A listener of TLS whose certificate comes by SDS, a plain one with a route, and a cluster with endpoints.
fn resources(
    api_type: &str,
    plain: std::net::SocketAddr,
    tls: std::net::SocketAddr,
    back: std::net::SocketAddr,
) -> Vec<(&'static str, &'static str, Value)> {
    let sds = json!({"name": "default", "sds_config": {"resource_api_version": "V3", "initial_fetch_timeout": "0s", "api_config_source": {
        "api_type": api_type, "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}}});
    let mut secure = listener("tls", tls, tcp_filter("a"));
    secure["filter_chains"][0]["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [sds]}}});
    vec![
        (CLUSTER, "a", eds_cluster("a")),
        (ENDPOINT, "a", endpoints("a", &[back])),
        (LISTENER, "plain", listener("plain", plain, http_filter("r"))),
        (LISTENER, "tls", secure),
        (ROUTE, "r", route("r", "a")),
        (SECRET, "default", certificate("default", "reviews")),
        (SECRET, "other", certificate("other", "other")),
    ]
}

/// What is served in each mode, in each variant.
fn check(program: fn() -> Option<Command>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
        for (api_type, variant) in [("GRPC", "whole"), ("DELTA_GRPC", "delta")] {
            for mode in ["late", "never", "other"] {
                let Some(command) = program() else { return };
                let folder = tempfile::tempdir().unwrap();
                let (plain, tls) = (free_address(), free_address());
                let resources = resources(api_type, plain, tls, server("a").await);
                let mut server = Server::start(command, folder.path(), &resources, mode).await;
                let mut mesh = Mesh::start_by(api_type, folder.path().join("socket")).await;
                // The first request comes though the server sends no headers.
                server.until(&format!("{variant} Cluster - - ok")).await;
                match mode {
                    "late" => {
                        mesh.until_ready().await;
                        assert_eq!(get(plain, "/").await, Ok((200, "a".to_owned())), "{api_type}");
                        assert!(mesh.admin_json("/certs").await.to_string().contains("sa/reviews"), "{api_type}");
                        let seen =
                            server.until(&format!("{variant} Secret {} 1 ok", if variant == "whole" { "default" } else { "-" })).await;
                        assert!(!seen.iter().any(|line| line.ends_with("nack")), "{seen:?}");
                        assert!(seen.contains(&format!("{variant} Secret default - ok")), "{seen:?}");
                    }
                    "never" => assert!(!*mesh.ready.borrow()),
                    _ => {
                        // The other secret is taken note of, and is not taken for the one that was asked for.
                        let seen =
                            server.until(&format!("{variant} Secret {} 1 ok", if variant == "whole" { "default" } else { "-" })).await;
                        assert!(seen.contains(&format!("{variant} Secret default - ok")), "{seen:?}");
                        assert!(!mesh.admin_json("/certs").await.to_string().contains("sa/reviews"), "{api_type}");
                    }
                }
                mesh.stop();
                mesh.ended().await;
            }
        }
    });
}

#[test]
fn servers_in_go() {
    check(go);
}

#[test]
fn servers_in_python() {
    check(python);
}
