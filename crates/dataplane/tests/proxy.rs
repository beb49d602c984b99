//! A proxy over real sockets, driven by a control plane in the process.

#[allow(dead_code)]
mod common;

use std::os::fd::AsFd;
use std::sync::Arc;

use common::*;
use http::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

type Test = tokio::runtime::Runtime;

fn runtime() -> Test {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn http_mesh(address: std::net::SocketAddr, upstream: std::net::SocketAddr) -> Vec<(&'static str, &'static str, serde_json::Value)> {
    vec![
        (CLUSTER, "a", eds_cluster("a")),
        (ENDPOINT, "a", endpoints("a", &[upstream])),
        (LISTENER, "web", listener("web", address, http_filter("r"))),
        (ROUTE, "r", route("r", "a")),
    ]
}

#[test]
fn tcp_passes_both_ways_and_half_closes() {
    runtime().block_on(async {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (front, back) = (free_address(), upstream.local_addr().unwrap());
        let first = [(CLUSTER, "echo", static_cluster("echo", back)), (LISTENER, "tcp", listener("tcp", front, tcp_filter("echo")))];
        let mut mesh = Mesh::start(&first, |_| {}).await;
        mesh.until_ready().await;
        let mut client = TcpStream::connect(front).await.unwrap();
        client.write_all(b"to the server").await.unwrap();
        let (mut server, _) = tokio::time::timeout(LONG, upstream.accept()).await.unwrap().unwrap();
        let mut bytes = [0; 13];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"to the server");
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut bytes).await.unwrap(), 0, "the end is passed on");
        let large = vec![7; 3_000_000];
        let sent = large.clone();
        tokio::spawn(async move { server.write_all(&sent).await.unwrap() });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert!(got == large, "{} of {} bytes", got.len(), large.len());
        mesh.stop();
        mesh.ended().await;
    });
}

#[test]
fn changes_reach_the_traffic() {
    changes("DELTA_GRPC");
}

#[test]
fn changes_reach_the_traffic_as_states_of_the_world() {
    changes("GRPC");
}

fn changes(api_type: &str) {
    runtime().block_on(async {
        let (one, two, front) = (server("one").await, server("two").await, free_address());
        let mut mesh = Mesh::start_as(api_type, &http_mesh(front, one), |_| {}).await;
        mesh.until_ready().await;
        assert_eq!(get(front, "/").await, Ok((200, "one".to_owned())));
        mesh.control.put(&[(ENDPOINT, "a", endpoints("a", &[two]))]);
        mesh.eventually("the other endpoint", async || get(front, "/").await == Ok((200, "two".to_owned()))).await;
        mesh.control.put(&[(CLUSTER, "b", eds_cluster("b")), (ENDPOINT, "b", endpoints("b", &[one])), (ROUTE, "r", route("r", "b"))]);
        mesh.eventually("the other cluster", async || {
            let answer = get(front, "/").await;
            assert!(matches!(&answer, Ok((200, _))), "no request is lost: {answer:?}");
            answer == Ok((200, "one".to_owned()))
        })
        .await;
        let other = free_address();
        mesh.control.put(&[(LISTENER, "web", listener("web", other, http_filter("r")))]);
        mesh.eventually("the other address", async || get(other, "/").await.is_ok()).await;
        mesh.eventually("the old address is closed", async || get(front, "/").await.is_err()).await;
        mesh.control.remove(LISTENER, "web");
        mesh.eventually("no address", async || get(other, "/").await.is_err()).await;
    });
}

#[test]
fn a_bad_resource_is_refused_alone() {
    runtime().block_on(async {
        let (one, two, front) = (server("one").await, server("two").await, free_address());
        let mut mesh = Mesh::start(&http_mesh(front, one), |_| {}).await;
        mesh.until_ready().await;
        let mut bad = route("r", "a");
        bad["virtual_hosts"][0]["domains"] = json!([]);
        mesh.control.put(&[(ROUTE, "r", bad), (ENDPOINT, "a", endpoints("a", &[two]))]);
        let rejected = mesh.control.rejection().await;
        assert_eq!(rejected.len(), 1);
        assert_eq!(&*rejected[0].0, "r");
        mesh.eventually("what came with it is taken", async || get(front, "/").await == Ok((200, "two".to_owned()))).await;
        let dump = mesh.admin_json("/config_dump?resource=dynamic_route_configs").await;
        assert!(dump["configs"][0]["error_state"]["details"].as_str().unwrap().contains("domains"), "{dump}");
        mesh.control.put(&[(ROUTE, "r", route("r", "a"))]);
        mesh.eventually("mended", async || {
            let dump = mesh.admin_json("/config_dump?resource=dynamic_route_configs").await;
            dump["configs"][0]["error_state"].is_null()
        })
        .await;
    });
}

#[test]
fn a_refused_filter_freezes_nothing() {
    runtime().block_on(async {
        let (one, two, web, other) = (server("one").await, server("two").await, free_address(), free_address());
        let unknown = || {
            let mut filter = http_filter("r");
            let lua = json!({"name": "lua", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}});
            filter["typed_config"]["http_filters"].as_array_mut().unwrap().insert(0, lua);
            [(LISTENER, "web", listener("web", web, filter))]
        };
        let mut first = http_mesh(other, one);
        first[2] = (LISTENER, "other", listener("other", other, http_filter("r")));
        first.extend(unknown());
        let mut mesh = Mesh::start(&first, |_| {}).await;
        let refused = |rejected: Vec<(mizzen_types::Name, String)>, name: &str, says: &str| {
            assert!(rejected.len() == 1 && *rejected[0].0 == *name && rejected[0].1.contains(says), "{rejected:?}");
        };
        refused(mesh.control.rejection().await, "web", "filter `lua`");
        mesh.eventually("the other listener serves", async || get(other, "/").await == Ok((200, "one".to_owned()))).await;
        mesh.eventually("it listens, and is closed", async || matches!(get(web, "/").await, Ok((503, _)))).await;
        assert_eq!(mesh.admin(Method::GET, "/ready").await.status, 503);
        mesh.control.put(&[(LISTENER, "web", listener("web", web, http_filter("r")))]);
        mesh.until_ready().await;
        mesh.eventually("mended", async || get(web, "/").await == Ok((200, "one".to_owned()))).await;
        // The same while it runs: what came with it is in force, and the proxy says that it is lame.
        mesh.control.put(&unknown());
        refused(mesh.control.rejection().await, "web", "filter `lua`");
        mesh.eventually("closed again", async || matches!(get(web, "/").await, Ok((503, _)))).await;
        assert_eq!(mesh.admin(Method::GET, "/ready").await.status, 503);
        mesh.control.put(&[(LISTENER, "web", listener("web", web, http_filter("r")))]);
        mesh.until_ready().await;
        // One host's unknown feature does not keep the others from what is new.
        let mut hosts = route("r", "b");
        let mut bad = hosts["virtual_hosts"][0].clone();
        (bad["name"], bad["domains"], bad["cors"]) = (json!("bad"), json!(["bad.example"]), json!({}));
        hosts["virtual_hosts"].as_array_mut().unwrap().push(bad);
        mesh.control.put(&[(CLUSTER, "b", eds_cluster("b")), (ENDPOINT, "b", endpoints("b", &[two])), (ROUTE, "r", hosts)]);
        refused(mesh.control.rejection().await, "r", "virtual_hosts[bad].cors");
        mesh.eventually("the others' new route", async || get(web, "/").await == Ok((200, "two".to_owned()))).await;
    });
}

#[test]
fn the_control_plane_may_go_and_come_back() {
    runtime().block_on(async {
        let (one, two, front) = (server("one").await, server("two").await, free_address());
        let mut mesh = Mesh::start(&http_mesh(front, one), |_| {}).await;
        mesh.until_ready().await;
        mesh.control.stop().await;
        for _ in 0..20 {
            assert_eq!(get(front, "/").await, Ok((200, "one".to_owned())));
        }
        mesh.control.put(&[(ENDPOINT, "a", endpoints("a", &[two]))]);
        mesh.control.start();
        mesh.eventually("the news after the return", async || get(front, "/").await == Ok((200, "two".to_owned()))).await;
    });
}

#[test]
fn the_admin_interface_tells_everything() {
    runtime().block_on(async {
        let (one, front) = (server("one").await, free_address());
        let mut mesh = Mesh::start(&http_mesh(front, one), |_| {}).await;
        mesh.until_ready().await;
        get(front, "/").await.unwrap();
        let dump = mesh.admin_json("/config_dump?include_eds").await;
        let kinds: Vec<&str> =
            dump["configs"].as_array().unwrap().iter().map(|c| c["@type"].as_str().unwrap().rsplit('.').next().unwrap()).collect();
        let expected = [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "EndpointsConfigDump",
            "ListenersConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(dump["configs"][1]["dynamic_active_clusters"][0]["cluster"]["name"], "a");
        assert_eq!(dump["configs"][3]["dynamic_listeners"][0]["active_state"]["listener"]["name"], "web");
        assert!(dump["warnings"].is_array());
        let clusters = mesh.admin_json("/clusters?format=json").await;
        let a = clusters["cluster_statuses"].as_array().unwrap().iter().find(|c| c["name"] == "a").unwrap();
        assert_eq!(a["host_statuses"][0]["address"], socket(one));
        assert_eq!(a["host_statuses"][0]["health_status"]["eds_health_status"], "HEALTHY");
        let listeners = mesh.admin_json("/listeners?format=json").await;
        assert_eq!(listeners["listener_statuses"][0], json!({"name": "web", "local_address": socket(front)}));
        assert_eq!(mesh.admin_json("/server_info").await["state"], "LIVE");
        let ready = mesh.admin(Method::GET, "/ready").await;
        assert_eq!((ready.status.as_u16(), &ready.body[..]), (200, &b"LIVE\n"[..]));
        let stats = mesh.admin(Method::GET, "/stats/prometheus").await;
        let stats = String::from_utf8_lossy(&stats.body).into_owned();
        assert!(
            stats.contains("envoy_server_live 1\n") && stats.contains("envoy_cluster_upstream_rq_total{cluster_name=\"a\"} 1\n"),
            "{stats}"
        );
        assert_eq!(mesh.admin(Method::GET, "/nothing").await.status, 404);
        assert_eq!(mesh.admin(Method::POST, "/drain_listeners").await.status, 200);
        mesh.eventually("listeners are closed", async || get(front, "/").await.is_err()).await;
        assert_eq!(mesh.admin(Method::GET, "/ready").await.status, 503);
        assert_eq!(mesh.admin(Method::POST, "/quitquitquit").await.status, 200);
        mesh.ended().await;
    });
}

#[test]
fn a_request_in_flight_outlives_the_order_to_stop() {
    runtime().block_on(async {
        let (front, upstream) = (free_address(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let mut mesh = Mesh::start(&http_mesh(front, upstream.local_addr().unwrap()), |_| {}).await;
        mesh.until_ready().await;
        let asked = tokio::spawn(get(front, "/slow"));
        let (mut server, _) = upstream.accept().await.unwrap();
        let mut head = [0; 16];
        server.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"GET /slow HTTP/1");
        mesh.stop();
        mesh.ready.wait_for(|r| !r).await.unwrap();
        mesh.eventually("no more connections", async || TcpStream::connect(front).await.is_err()).await;
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        assert_eq!(asked.await.unwrap(), Ok((200, "done".to_owned())));
        mesh.ended().await;
    });
}

#[test]
fn connections_are_taken_after_the_order_to_stop_for_as_long_as_there_are_some() {
    runtime().block_on(async {
        let (front, upstream) = (free_address(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let mut mesh = Mesh::start(&http_mesh(front, upstream.local_addr().unwrap()), |options| options.until_deserted = true).await;
        mesh.until_ready().await;
        let answer = async |asked: tokio::task::JoinHandle<Result<(u16, String), String>>| {
            let (mut server, _) = upstream.accept().await.unwrap();
            let mut head = [0; 4];
            server.read_exact(&mut head).await.unwrap();
            server.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
            assert_eq!(asked.await.unwrap(), Ok((200, "done".to_owned())));
        };
        // In flight when the order comes: it waits until somebody accepts.
        let first = tokio::spawn(get(front, "/first"));
        mesh.eventually("the first request has come", async || open_connections(&mesh).await == 1).await;
        mesh.stop();
        mesh.ready.wait_for(|ready| !ready).await.unwrap();
        let second = tokio::spawn(get(front, "/second"));
        mesh.eventually("the second is taken", async || open_connections(&mesh).await == 2).await;
        answer(first).await;
        answer(second).await;
        mesh.ended().await;
    });
}

/// How many connections the proxy has from its clients.
async fn open_connections(mesh: &Mesh) -> u64 {
    let stats = mesh.admin(Method::GET, "/stats/prometheus").await;
    let stats = String::from_utf8_lossy(&stats.body).into_owned();
    let lines = stats.lines().filter(|line| line.starts_with("envoy_listener_downstream_cx_active"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn sockets_that_somebody_else_opened_are_served() {
    runtime().block_on(async {
        let (one, front) = (server("one").await, free_address());
        let (ours, theirs) = mizzen_net::seqpacket_pair().unwrap();
        let mut mesh = Mesh::start(&http_mesh(front, one), |options| options.inherited = Some(Arc::new(theirs))).await;
        let opened = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let outside = opened.local_addr().unwrap();
        mizzen_net::send_with_fds(ours.as_fd(), front.to_string().as_bytes(), &[opened.as_fd()]).unwrap();
        mesh.until_ready().await;
        mesh.eventually("the inherited socket is served", async || get(outside, "/").await == Ok((200, "one".to_owned()))).await;
        // An address without a socket closes what came for it, and not what the proxy has opened itself.
        mizzen_net::send_with_fds(ours.as_fd(), front.to_string().as_bytes(), &[]).unwrap();
        drop(opened);
        mesh.eventually("the inherited socket is closed", async || TcpStream::connect(outside).await.is_err()).await;
        assert_eq!(get(front, "/").await, Ok((200, "one".to_owned())));
    });
}

#[test]
fn a_refused_upload_still_gets_its_answer() {
    runtime().block_on(async {
        let front = free_address();
        let mut refusing = route("r", "a");
        refusing["virtual_hosts"][0]["routes"][0] =
            json!({"match": {"prefix": "/"}, "direct_response": {"status": 403, "body": {"inline_string": "no"}}});
        let first = [(LISTENER, "web", listener("web", front, http_filter("r"))), (ROUTE, "r", refusing)];
        let mut mesh = Mesh::start(&first, |_| {}).await;
        mesh.until_ready().await;
        let mut client = TcpStream::connect(front).await.unwrap();
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n").await.unwrap();
        let (mut read, mut write) = client.split();
        let body = vec![0; 300_000];
        let (_, answer) = tokio::join!(write.write_all(&body), async {
            let mut answer = Vec::new();
            read.read_to_end(&mut answer).await.map(|_| String::from_utf8_lossy(&answer).into_owned())
        });
        assert!(answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 403 ") && a.ends_with("no")), "{answer:?}");
    });
}

#[test]
fn names_are_resolved() {
    runtime().block_on(async {
        let (one, front) = (server("one").await, free_address());
        let address = json!({"socket_address": {"address": "localhost", "port_value": one.port()}});
        let cluster = json!({"name": "a", "type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY", "connect_timeout": "1s", "load_assignment": {
            "cluster_name": "a", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}});
        let first = [(CLUSTER, "a", cluster), (LISTENER, "web", listener("web", front, http_filter("r"))), (ROUTE, "r", route("r", "a"))];
        let mut mesh = Mesh::start(&first, |_| {}).await;
        mesh.until_ready().await;
        assert_eq!(get(front, "/").await, Ok((200, "one".to_owned())));
    });
}

#[test]
fn several_workers_share_the_work_and_the_counts() {
    runtime().block_on(async {
        let (one, front) = (server("one").await, free_address());
        let mut mesh = Mesh::start(&http_mesh(front, one), |options| options.workers = 3).await;
        mesh.until_ready().await;
        for _ in 0..30 {
            assert_eq!(get(front, "/").await, Ok((200, "one".to_owned())));
        }
        let clusters = mesh.admin_json("/clusters?format=json").await;
        let a = clusters["cluster_statuses"].as_array().unwrap().iter().find(|c| c["name"] == "a").unwrap();
        let total = a["host_statuses"][0]["stats"].as_array().unwrap().iter().find(|s| s["name"] == "rq_total").unwrap();
        assert_eq!(total["value"], "30");
        mesh.stop();
        mesh.ended().await;
    });
}

#[test]
fn what_is_known_of_hosts_is_told() {
    runtime().block_on(async {
        let (one, dead, front) = (server("one").await, free_address(), free_address());
        let mut cluster = eds_cluster("a");
        let check = json!({"timeout": "5s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1});
        cluster["health_checks"] = json!([check]);
        cluster["health_checks"][0]["http_health_check"] = json!({"path": "/"});
        cluster["outlier_detection"] = json!({});
        let mut hosts = endpoints("a", &[one, dead]);
        hosts["endpoints"][0]["locality"] = json!({"region": "r", "zone": "z", "sub_zone": "s"});
        let mut first = http_mesh(front, one);
        first.retain(|(kind, ..)| *kind != CLUSTER && *kind != ENDPOINT);
        first.extend([(CLUSTER, "a", cluster.clone()), (ENDPOINT, "a", hosts)]);
        // Whichever of them checks the hosts, all know what it found.
        let mut mesh = Mesh::start(&first, |options| options.workers = 2).await;
        mesh.until_ready().await;
        let text = async || String::from_utf8_lossy(&mesh.admin(Method::GET, "/clusters").await.body).into_owned();
        mesh.eventually("the host that is there is well", async || text().await.contains(&format!("a::{one}::health_flags::healthy\n")))
            .await;
        for _ in 0..8 {
            assert_eq!(get(front, "/").await, Ok((200, "one".to_owned())));
        }
        let told = text().await;
        for line in
            ["rq_total::8", "rq_success::8", "cx_connect_fail::0", "weight::1", "region::r", "zone::z", "sub_zone::s", "priority::0"]
        {
            assert!(told.contains(&format!("a::{one}::{line}\n")), "{line}: {told}");
        }
        assert!(told.contains(&format!("a::{dead}::health_flags::/failed_active_hc\n")), "{told}");
        assert!(told.contains("a::outlier::success_rate_average::-1\n") && told.contains("a::added_via_api::true\n"), "{told}");
        let clusters = mesh.admin_json("/clusters?format=json").await;
        let a = clusters["cluster_statuses"].as_array().unwrap().iter().find(|c| c["name"] == "a").unwrap();
        let [well, ill] = [&a["host_statuses"][0], &a["host_statuses"][1]];
        assert_eq!(well["health_status"], json!({"eds_health_status": "HEALTHY"}));
        assert_eq!(ill["health_status"], json!({"eds_health_status": "HEALTHY", "failed_active_health_check": true}));
        assert_eq!(ill["locality"], json!({"region": "r", "zone": "z", "sub_zone": "s"}));
        // A host that no configuration names any more is told of no more.
        mesh.control.put(&[(ENDPOINT, "a", endpoints("a", &[one]))]);
        mesh.eventually("the other one is forgotten", async || !text().await.contains(&dead.to_string())).await;
        mesh.stop();
        mesh.ended().await;
    });
}

#[test]
fn localhost_only_reads() {
    runtime().block_on(async {
        let metrics = free_address();
        let mut mesh = Mesh::start(&[], |options| options.metrics = Some(metrics)).await;
        mesh.until_ready().await;
        assert_eq!(get(mesh.localhost, "/ready").await, Ok((200, "LIVE\n".to_owned())));
        assert!(matches!(get(mesh.localhost, "/config_dump").await, Ok((200, _))));
        assert!(get(metrics, "/stats/prometheus").await.is_ok_and(|(status, text)| status == 200 && text.contains("istio_build{")));
        assert!(matches!(get(metrics, "/config_dump").await, Ok((404, _))));
        assert!(get(mesh.localhost, "/logging").await.is_ok_and(|(status, text)| status == 200 && text.contains("engine: info")));
        for verb in ["/quitquitquit", "/drain_listeners", "/logging"] {
            let options = mizzen_net::ConnectOptions::default();
            let reply = mizzen_net::fetch_tcp(mesh.localhost, Method::POST, verb, "", LONG, &options).await.unwrap();
            assert_eq!(reply.status, 403, "{verb}");
        }
        assert_eq!(get(mesh.localhost, "/ready").await, Ok((200, "LIVE\n".to_owned())));
    });
}
