//! A proxy by its bootstrap alone: certificates in files, and faults that concern one listener only.

#[allow(dead_code)]
mod common;

use std::{net::SocketAddr, path::Path, time::SystemTime};

use common::*;
use mizzen_dataplane::{Options, Places, RunError, Unknown, parse_bootstrap};
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_types::TrustDomain;
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

/// A running proxy.
struct Proxy {
    admin: SocketAddr,
    ready: watch::Receiver<bool>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Proxy {
    fn start(listeners: &Value, clusters: &Value) -> Proxy {
        let admin = free_address();
        let text =
            json!({"admin": {"address": socket(admin)}, "static_resources": {"listeners": listeners, "clusters": clusters}}).to_string();
        let (sender, ready) = watch::channel(false);
        let places = Places::new("b.json", &text);
        let options = Options { metrics: None, mark: 0, ready: Some(sender), places, ..Options::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let bootstrap = parse_bootstrap(&text, Unknown::Refused).unwrap();
        let task = tokio::spawn(mizzen_dataplane::run(bootstrap, options, async {
            let _ = stopped.await;
        }));
        Proxy { admin, ready, stop, task }
    }

    async fn until_ready(&mut self) {
        tokio::time::timeout(LONG, self.ready.wait_for(|r| *r)).await.expect("it becomes ready").expect("it runs");
    }

    async fn end(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(LONG, self.task).await.expect("it ends").unwrap().unwrap();
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let attempts = async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, attempts).await.is_ok(), "{what}");
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap())
}

fn ca() -> Ca {
    Ca::self_signed(&TrustDomain::default(), now(), CaLimits::default()).unwrap()
}

/// Writes a new certificate and its key; returns the serial number.
fn write_certificate(ca: &Ca, dir: &Path) -> String {
    let id = "spiffe://cluster.local/ns/shop/sa/a".parse().unwrap();
    let svid = ca.issue(&id, std::time::Duration::from_secs(3600), now()).unwrap();
    std::fs::write(dir.join("cert.pem"), svid.chain_pem()).unwrap();
    std::fs::write(dir.join("key.pem"), svid.key_pem().expose()).unwrap();
    svid.serial().to_owned()
}

fn tls(kind: &str, context: Value) -> Value {
    let kind = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}");
    let mut context = context;
    context["@type"] = kind.into();
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn direct_http() -> Value {
    let mut filter = http_filter("r");
    let config = &mut filter["typed_config"];
    config.as_object_mut().unwrap().remove("rds");
    config["route_config"] = route("r", "back");
    filter
}

/// Plain on `front`, TLS to `middle`, plain to `back`; the certificates stand in `dir`, or in `place`.
fn hop(front: SocketAddr, middle: SocketAddr, back: SocketAddr, certificate: &Value, roots: &Value) -> (Value, Value) {
    let common = json!({"tls_certificates": [certificate], "validation_context": {"trusted_ca": roots,
        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": "spiffe://cluster.local/ns/shop/sa/a"}}]}});
    let mut inner = listener("inner", middle, direct_http());
    inner["filter_chains"][0]["transport_socket"] =
        tls("DownstreamTlsContext", json!({"require_client_certificate": true, "common_tls_context": common}));
    let mut hop = static_cluster("hop", middle);
    hop["transport_socket"] = tls("UpstreamTlsContext", json!({"sni": "a", "common_tls_context": common}));
    // Names of listeners are optional.
    let mut outer = listener("", front, tcp_filter("hop"));
    outer.as_object_mut().unwrap().remove("name");
    (json!([inner, outer]), json!([hop, static_cluster("back", back)]))
}

async fn serials(admin: SocketAddr) -> Vec<String> {
    let certs: Value = serde_json::from_str(&get(admin, "/certs").await.unwrap().1).unwrap();
    let all = certs["certificates"].as_array().unwrap().iter().filter_map(|c| c["cert_chain"][0]["serial_number"].as_str());
    let mut all: Vec<String> = all.map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn certificates_in_files_are_followed() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| json!({"filename": dir.path().join(name)});
        let (front, middle, back) = (free_address(), free_address(), server("back").await);
        let (ours, foreign) = (ca(), ca());
        let serial = write_certificate(&ours, dir.path());
        let certificate = json!({"certificate_chain": file("cert.pem"), "private_key": file("key.pem")});
        let (listeners, clusters) = hop(front, middle, back, &certificate, &file("roots.pem"));
        let mut proxy = Proxy::start(&listeners, &clusters);
        eventually("it says which file is missing", async || {
            get(proxy.admin, "/ready").await.is_ok_and(|(status, text)| status == 503 && text.contains("roots.pem: No such file"))
        })
        .await;
        std::fs::write(dir.path().join("roots.pem"), ours.roots().to_pem()).unwrap();
        proxy.until_ready().await;
        assert_eq!(get(front, "/").await, Ok((200, "back".to_owned())));
        assert_eq!(serials(proxy.admin).await, [serial]);

        let serial = write_certificate(&ours, dir.path());
        eventually("the new certificate is in force", async || serials(proxy.admin).await == [serial.clone()]).await;
        assert_eq!(get(front, "/").await, Ok((200, "back".to_owned())));
        std::fs::write(dir.path().join("cert.pem"), "half a certi").unwrap();
        std::fs::write(dir.path().join("roots.pem"), foreign.roots().to_pem()).unwrap();
        eventually("foreign roots are in force", async || get(front, "/").await.is_err()).await;
        assert_eq!(serials(proxy.admin).await, [serial], "the last good certificate stays");
        proxy.end().await;
    });
}

#[test]
fn certificates_in_place() {
    run(async {
        let (front, middle, back) = (free_address(), free_address(), server("back").await);
        let (ours, dir) = (ca(), tempfile::tempdir().unwrap());
        write_certificate(&ours, dir.path());
        let text = |name: &str| json!({"inline_string": std::fs::read_to_string(dir.path().join(name)).unwrap()});
        let certificate = json!({"certificate_chain": text("cert.pem"), "private_key": text("key.pem")});
        let (listeners, clusters) = hop(front, middle, back, &certificate, &json!({"inline_string": ours.roots().to_pem()}));
        let mut proxy = Proxy::start(&listeners, &clusters);
        proxy.until_ready().await;
        assert_eq!(get(front, "/").await, Ok((200, "back".to_owned())));
        let dump = get(proxy.admin, "/config_dump").await.unwrap().1;
        assert!(!dump.contains("PRIVATE KEY") && dump.contains("[redacted]"), "{dump}");
        proxy.end().await;
    });
}

#[test]
fn secrets_in_a_file_of_resources() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (front, middle, back) = (free_address(), free_address(), server("back").await);
        let ours = ca();
        let serial = write_certificate(&ours, dir.path());
        std::fs::write(dir.path().join("roots.pem"), ours.roots().to_pem()).unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let yaml = format!(
            "resources:\n- '@type': {SECRET}\n  name: mine\n  tls_certificate:\n    certificate_chain: {{filename: {}}}\n    private_key: {{filename: {}}}\n",
            file("cert.pem"),
            file("key.pem")
        );
        std::fs::write(dir.path().join("sds.yaml"), yaml).unwrap();
        let (mut listeners, mut clusters) = hop(front, middle, back, &json!({}), &json!({"filename": file("roots.pem")}));
        let source = json!([{"name": "mine", "sds_config": {"path_config_source": {"path": file("sds.yaml")}}}]);
        for socket in [&mut listeners[0]["filter_chains"][0]["transport_socket"], &mut clusters[0]["transport_socket"]] {
            let common = &mut socket["typed_config"]["common_tls_context"];
            common.as_object_mut().unwrap().remove("tls_certificates");
            common["tls_certificate_sds_secret_configs"] = source.clone();
        }
        let mut proxy = Proxy::start(&listeners, &clusters);
        proxy.until_ready().await;
        assert_eq!(get(front, "/").await, Ok((200, "back".to_owned())));
        assert_eq!(serials(proxy.admin).await, [serial]);
        proxy.end().await;
    });
}

#[test]
fn one_listener_does_not_stop_the_others() {
    run(async {
        let back = server("back").await;
        let (good, bad, taken) = (free_address(), free_address(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let mut lua = listener("lua", bad, direct_http());
        lua["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"name": "l", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}}));
        let twice = listener("good", free_address(), direct_http());
        let closed = listener("closed", taken.local_addr().unwrap(), direct_http());
        let proxy =
            Proxy::start(&json!([lua, listener("good", good, direct_http()), twice, closed]), &json!([static_cluster("back", back)]));
        eventually("the good one serves", async || get(good, "/").await == Ok((200, "back".to_owned()))).await;
        let expected = [
            "b.json:1: Listener `lua`: filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: filter `l`",
            "b.json:1: `good`: there is another one of this name",
            &format!("{}: ", taken.local_addr().unwrap()),
        ];
        eventually("it is not ready, and says why", async || {
            let (status, text) = get(proxy.admin, "/ready").await.unwrap();
            status == 503 && expected.iter().all(|fault| text.contains(fault))
        })
        .await;
        proxy.end().await;
    });
}

#[test]
fn istios_compressors_are_harmless() {
    run(async {
        let (front, back) = (free_address(), server("back").await);
        let mut metrics = listener("metrics", front, direct_http());
        let filters = metrics["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].as_array_mut().unwrap();
        for name in ["brotli.compressor.v3.Brotli", "zstd.compressor.v3.Zstd", "gzip.compressor.v3.Gzip"] {
            let library =
                json!({"name": name, "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.compression.{name}")}});
            let config = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
                "response_direction_config": {"common_config": {"min_content_length": 860}}, "compressor_library": library});
            filters.insert(0, json!({"name": "envoy.filters.http.compressor", "typed_config": config}));
        }
        let mut proxy = Proxy::start(&json!([metrics]), &json!([static_cluster("back", back)]));
        proxy.until_ready().await;
        assert_eq!(get(front, "/").await, Ok((200, "back".to_owned())));
        let (_, stats) =
            get(proxy.admin, "/stats?usedonly&filter=%5E(server%5C.state%7Clistener_manager%5C.workers_started)%24").await.unwrap();
        assert_eq!(stats, "listener_manager.workers_started: 1\nserver.state: 0\n");
        proxy.end().await;
    });
}
