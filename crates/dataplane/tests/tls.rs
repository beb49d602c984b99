//! Mutual TLS between two listeners of one proxy, with certificates from a server of secrets.

#[allow(dead_code)]
mod common;

use std::time::{Duration, SystemTime};

use common::*;
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_types::TrustDomain;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const TTL: Duration = Duration::from_secs(3600);

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap())
}

fn ca() -> Ca {
    Ca::self_signed(&TrustDomain::default(), now(), CaLimits::default()).unwrap()
}

/// A new certificate for an account: its serial number and the secret.
fn certificate(ca: &Ca, account: &str) -> (String, Value) {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
    let svid = ca.issue(&id, TTL, now()).unwrap();
    let secret = json!({"name": "default", "tls_certificate": {
        "certificate_chain": {"inline_string": svid.chain_pem()}, "private_key": {"inline_string": svid.key_pem().expose()}}});
    (svid.serial().to_owned(), secret)
}

fn roots(ca: &Ca) -> Value {
    json!({"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": ca.roots().to_pem()}}})
}

/// One of the two secrets comes in each variant.
fn sds(name: &str) -> Value {
    let api_type = if name == "default" { "GRPC" } else { "DELTA_GRPC" };
    json!({"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": {
        "api_type": api_type, "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}}})
}

fn common_context(account: &str) -> Value {
    json!({
        "tls_certificate_sds_secret_configs": [sds("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": format!("spiffe://cluster.local/ns/shop/sa/{account}")}}]},
            "validation_context_sds_secret_config": sds("ROOTCA"),
        },
    })
}

/// Plain on `front`, then TLS to `middle`, then plain to `back`; the server must be `account`.
fn chain(
    front: std::net::SocketAddr,
    middle: std::net::SocketAddr,
    back: std::net::SocketAddr,
    account: &str,
) -> Vec<(&'static str, &'static str, Value)> {
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{name}");
    let mut hop = static_cluster("hop", middle);
    hop["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": kind("UpstreamTlsContext"), "sni": "shop", "common_tls_context": common_context(account)}});
    let mut inner = listener("inner", middle, tcp_filter("back"));
    inner["filter_chains"][0]["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": kind("DownstreamTlsContext"), "require_client_certificate": true, "common_tls_context": common_context("reviews")}});
    vec![
        (CLUSTER, "back", static_cluster("back", back)),
        (CLUSTER, "hop", hop),
        (LISTENER, "inner", inner),
        (LISTENER, "outer", listener("outer", front, tcp_filter("hop"))),
    ]
}

/// An echo server.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Sends a word and waits for it to come back.
async fn says(stream: &mut TcpStream, word: &[u8]) -> bool {
    let mut back = vec![0; word.len()];
    stream.write_all(word).await.is_ok() && stream.read_exact(&mut back).await.is_ok() && back == word
}

async fn works(address: std::net::SocketAddr) -> bool {
    match TcpStream::connect(address).await {
        Ok(mut stream) => says(&mut stream, b"hello").await,
        Err(_) => false,
    }
}

fn serials(certs: &Value) -> Vec<String> {
    let all = certs["certificates"].as_array().unwrap().iter().flat_map(|c| c["cert_chain"].as_array().unwrap().first().cloned());
    all.map(|c| c["serial_number"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn certificates_come_change_and_are_checked() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (front, middle, back) = (free_address(), free_address(), echo().await);
        let mut mesh = Mesh::start(&chain(front, middle, back, "reviews"), |_| {}).await;
        mesh.eventually("all but the secrets has come", async || {
            mesh.admin_json("/config_dump?resource=dynamic_listeners").await["configs"].as_array().is_some_and(|all| all.len() == 2)
        })
        .await;
        assert!(!*mesh.ready.borrow(), "listeners wait for their certificates");
        let ours = ca();
        let (serial, first) = certificate(&ours, "reviews");
        mesh.control.put(&[(SECRET, "default", first), (SECRET, "ROOTCA", roots(&ours))]);
        mesh.until_ready().await;
        let mut kept = TcpStream::connect(front).await.unwrap();
        assert!(says(&mut kept, b"before").await);
        assert!(!works(middle).await, "plaintext is refused");
        let certs = mesh.admin_json("/certs").await;
        assert_eq!(serials(&certs), [serial]);
        assert!(certs.to_string().contains("spiffe://cluster.local/ns/shop/sa/reviews"), "{certs}");
        assert!(!mesh.admin_json("/config_dump").await.to_string().contains("PRIVATE KEY"));

        let (serial, second) = certificate(&ours, "reviews");
        mesh.control.put(&[(SECRET, "default", second)]);
        mesh.eventually("the new certificate is in force", async || serials(&mesh.admin_json("/certs").await) == [serial.clone()]).await;
        assert!(says(&mut kept, b"after").await, "an open connection outlives the change");
        assert!(works(front).await);

        let foreign = ca();
        mesh.control.put(&[(SECRET, "default", certificate(&foreign, "reviews").1)]);
        mesh.eventually("a certificate of another authority is refused", async || !works(front).await).await;
        mesh.control.put(&[(SECRET, "default", certificate(&ours, "ratings").1)]);
        mesh.eventually("that of another account is refused", async || {
            let third = mesh.admin_json("/certs").await.to_string().contains("sa/ratings");
            third && !works(front).await
        })
        .await;
        mesh.control.put(&[(SECRET, "default", certificate(&ours, "reviews").1)]);
        mesh.eventually("all is well again", async || works(front).await).await;
        assert!(says(&mut kept, b"still").await);
    });
}
