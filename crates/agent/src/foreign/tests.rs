use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, extract::Request};
use mizzen_net::ConnectOptions;
use serde_json::json;

use super::*;

fn foreign() -> Foreign {
    // A port that was free a moment ago.
    let admin = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap();
    Foreign { name_servers: vec!["10.244.0.1:53".parse().unwrap()], admin, farewell: Duration::ZERO, drain: Some(Duration::from_secs(3)) }
}

fn options(folder: &Path) -> Options {
    let vars = [
        ("POD_NAME", "reviews-0"),
        ("POD_NAMESPACE", "shop"),
        ("SERVICE_ACCOUNT", "reviews"),
        ("INSTANCE_IP", "10.244.0.7"),
        ("CA_ADDR", "10.244.0.2:15012"),
        ("CA_ROOT_CERT", "/root.pem"),
        ("PROXY_CONFIG_DIR", &folder.display().to_string()),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Options::from_vars(vars, Some(crate::TokenSource::File("/token".into()))).unwrap()
}

#[test]
fn what_an_envoy_is_started_with() {
    use mizzen_protos::{envoy::envoy::config::bootstrap::v3::Bootstrap, json::Descriptors};
    let written = bootstrap(&options(Path::new("/run/pod")), &foreign()).unwrap();
    // No field that Envoy's descriptors do not have.
    let read: Bootstrap = Descriptors::load().from_value(written.clone()).unwrap();
    assert_eq!(read.node.unwrap().id, "sidecar~10.244.0.7~reviews-0.shop~shop.svc.cluster.local");
    let option = &written["cluster_manager"]["upstream_bind_config"]["socket_options"][0];
    assert_eq!((&option["int_value"], &option["state"]), (&1337.into(), &"STATE_PREBIND".into()));
    assert_eq!(written["admin"]["address"]["pipe"]["path"], "/run/pod/admin.sock");
    assert!(written["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC", "{written:#}");
    let clusters: Vec<&str> =
        written["static_resources"]["clusters"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(clusters, ["xds-grpc", "sds-grpc", "prometheus_stats", "agent"]);

    let agent = |written: &serde_json::Value| {
        let clusters = written["static_resources"]["clusters"].as_array().unwrap().clone();
        clusters[3].pointer("/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value").cloned()
    };
    let elsewhere = Options { status: Some("0.0.0.0:16020".parse().unwrap()), ..options(Path::new("/run/pod")) };
    assert_eq!((agent(&written), agent(&bootstrap(&elsewhere, &foreign()).unwrap())), (Some(15020.into()), Some(16020.into())));

    // Whoever probes it, or counts, comes through where others do not.
    assert_eq!(written["admin"]["ignore_global_conn_limit"], true);
    let own = written["static_resources"]["listeners"].as_array().unwrap();
    assert!(own.len() == 2 && own.iter().all(|listener| listener["ignore_global_conn_limit"] == true), "{own:#?}");
    let settings = json!({ "runtimeValues": { "overload.global_downstream_max_connections": "7", "a.switch": "true", "none": "" } });
    let limited = Options { metadata: [("PROXY_CONFIG".to_owned(), settings)].into(), ..options(Path::new("/run/pod")) };
    let limited = bootstrap(&limited, &foreign()).unwrap();
    assert_eq!(
        limited["layered_runtime"]["layers"],
        json!([
            { "name": "global config", "static_layer": { "overload.global_downstream_max_connections": "7", "a.switch": true } },
            { "name": "admin", "admin_layer": {} },
        ])
    );
    let _: Bootstrap = Descriptors::load().from_value(limited).unwrap();
    assert!(written["layered_runtime"].is_null(), "nothing is set that nobody has asked for");

    let unmarked = Options { mark: None, ..options(Path::new("/run/pod")) };
    assert!(bootstrap(&unmarked, &foreign()).unwrap()["cluster_manager"].is_null());
}

#[test]
fn arguments() {
    let check = |given: &[&str], expected: Result<&str, &str>| {
        let given: Vec<String> = given.iter().map(|arg| (*arg).to_owned()).collect();
        let all = complete(&given, Path::new("/b"), &foreign());
        match (all, expected) {
            (Ok(all), Ok(expected)) => assert_eq!(all.join(" "), expected),
            (Err(error), Err(expected)) => assert!(error.to_string().starts_with(expected), "{error}"),
            (all, _) => panic!("{given:?}: {all:?}"),
        }
    };
    const REST: &str = "--drain-time-s 3 --drain-strategy immediate --file-flush-interval-msec 1000";
    check(&[], Ok(&format!("--config-path /b --disable-hot-restart --concurrency 1 --log-level warning {REST}")));
    check(
        &["--base-id", "4", "-l", "debug", "--concurrency=2"],
        Ok(&format!("--base-id 4 -l debug --concurrency=2 --config-path /b {REST}")),
    );
    check(&["-c", "mine"], Err("-c: "));
    check(&["--config-yaml={}"], Err("--config-yaml: "));
}

#[test]
fn connections_that_are_open() {
    let stats = "http.outbound.downstream_cx_active: 7\nlistener.0.0.0.0_15006.downstream_cx_active: 2\n\
        listener.0.0.0.0_15006.worker_0.downstream_cx_active: 2\nlistener.admin.downstream_cx_active: 1\n\
        listener.agent_15021.downstream_cx_active: 1\nlistener.0.0.0.0_9080.downstream_cx_active: 3\n";
    assert_eq!((open_connections(stats), open_connections("")), (5, 0));
}

#[test]
fn exit_codes() {
    for (raw, code) in [(0, 0), (3 << 8, 3), (9, 137), (15, 143)] {
        assert_eq!(exit_code(ExitStatus::from_raw(raw)), code);
    }
}

/// The admin interface of a proxy: what it was asked for, and whether a client has a connection still.
#[derive(Clone, Default)]
struct Proxy {
    asked: Arc<Mutex<Vec<String>>>,
    busy: Arc<AtomicBool>,
}

impl Proxy {
    fn serve(&self, folder: &Path) {
        let listener = mizzen_net::listen_unix(&folder.join(ADMIN_SOCKET)).unwrap();
        let proxy = self.clone();
        let answer = move |request: Request| async move { proxy.answer(&format!("{} {}", request.method(), request.uri())) };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    }

    fn answer(&self, asked: &str) -> (StatusCode, String) {
        let mut all = self.asked.lock().unwrap();
        let known = all.iter().any(|before| before == asked);
        all.push(asked.to_owned());
        match asked {
            "GET /ready" if !known => (StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING".to_owned()),
            "GET /stats?filter=downstream_cx_active" => {
                (StatusCode::OK, format!("listener.x.downstream_cx_active: {}", u8::from(self.busy.load(Ordering::SeqCst))))
            }
            _ => (StatusCode::OK, format!("{asked}\n")),
        }
    }

    /// Waits until it was asked for this so often.
    async fn was_asked(&self, what: &str, times: usize) {
        let seen = async {
            while self.asked.lock().unwrap().iter().filter(|asked| *asked == what).count() < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.asked.lock().unwrap()));
    }
}

/// Options of an agent without a control plane, on no fixed port.
fn local(folder: &Path) -> Options {
    Options { dns: None, status: None, mark: None, ..options(folder) }
}

fn script(folder: &Path, text: &str) -> Vec<String> {
    let path = folder.join("proxy.sh");
    std::fs::write(&path, text).unwrap();
    vec![path.display().to_string()]
}

#[tokio::test]
async fn a_proxy_is_followed_drained_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (proxy, foreign) = (Proxy::default(), Foreign { drain: Some(Duration::from_secs(3600)), ..foreign() });
    let admin = foreign.admin;
    proxy.serve(folder.path());
    proxy.busy.store(true, Ordering::SeqCst);
    let started = folder.path().join("started");
    let text = format!("trap 'exit 9' TERM\n: > '{}'\nwhile :; do sleep 0.02 & wait $!; done\n", started.display());
    let arguments = script(folder.path(), &text);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let options = local(folder.path());
    let running = tokio::spawn(async move { run(options, foreign, ("sh", &arguments), |_| (), async { drop(stopped.await) }).await });
    // It is asked until it is ready, and goes on being asked.
    proxy.was_asked("GET /ready", 2).await;

    let ask = async |method: Method, target: &str| {
        mizzen_net::fetch_tcp(admin, method, target, "", Duration::from_secs(20), &ConnectOptions::default()).await.unwrap()
    };
    let dump = ask(Method::GET, "/config_dump?resource=x").await;
    assert_eq!((dump.status, &dump.body[..]), (StatusCode::OK, &b"GET /config_dump?resource=x\n"[..]));
    let order = ask(Method::POST, "/quitquitquit").await;
    assert_eq!(order.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(!proxy.asked.lock().unwrap().iter().any(|asked| asked.contains("quit")), "the workload gives no orders");

    while !started.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    proxy.was_asked("POST /drain_listeners?graceful&inboundonly", 1).await;
    proxy.was_asked("GET /stats?filter=downstream_cx_active", 3).await;
    assert!(!running.is_finished(), "a client is there still");
    proxy.busy.store(false, Ordering::SeqCst);
    assert_eq!(exit_code(running.await.unwrap().unwrap()), 9);
}

#[tokio::test(start_paused = true)]
async fn connections_are_taken_until_the_farewell_is_over() {
    let seconds = Duration::from_secs;
    for (busy, drain, lasts) in [(false, Some(seconds(5)), 30), (true, Some(seconds(5)), 35), (false, None, 30)] {
        let folder = tempfile::tempdir().unwrap();
        let (proxy, foreign) = (Proxy::default(), Foreign { farewell: seconds(30), drain, ..foreign() });
        proxy.serve(folder.path());
        proxy.busy.store(busy, Ordering::SeqCst);
        let start = Instant::now();
        drained(&folder.path().join(ADMIN_SOCKET), ProxyType::Router, &foreign).await;
        assert_eq!((start.elapsed().as_secs(), busy, drain), (lasts, busy, drain));
        assert_eq!(proxy.asked.lock().unwrap()[0], "POST /drain_listeners?graceful");
        let arguments = complete(&[], Path::new("/b"), &foreign).unwrap().join(" ");
        assert!(arguments.contains("--drain-time-s 30 "), "{arguments}");
    }
}

#[tokio::test]
async fn the_agent_ends_with_its_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let ends = async |program: &str, arguments: &[String]| {
        run(local(folder.path()), foreign(), (program, arguments), |_| (), std::future::pending()).await
    };
    let arguments = script(folder.path(), "[ \"$1\" = --config-path ] && [ -s \"$2\" ] && [ -z \"$(env | grep ^MIZZEN_)\" ] && exit 7\n");
    assert_eq!(exit_code(ends("sh", &arguments).await.unwrap()), 7);
    let arguments = script(folder.path(), "kill -KILL $$\n");
    assert_eq!(exit_code(ends("sh", &arguments).await.unwrap()), 137);
    let error = ends("/no/such/proxy", &[]).await.unwrap_err().to_string();
    assert!(error.starts_with("/no/such/proxy: No such file"), "{error}");
}
