//! The same clusters in an Envoy and in us: whoever hashes picks the same server for each key, and the others spread requests alike.

#[allow(dead_code)]
mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use common::*;
use mizzen_dataplane::{Options, Unknown, parse_bootstrap};
use mizzen_testkit::envoy;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// How many servers there are.
const SERVERS: usize = 7;
/// Requests on their way at a time.
const BATCH: usize = 50;

/// Answers each request with its number.
async fn serve(number: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut bytes, mut got) = (vec![0; 16 << 10], Vec::new());
                while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                    got.extend_from_slice(&bytes[..n]);
                    let requests = got.windows(4).filter(|w| w == b"\r\n\r\n").count();
                    if got.ends_with(b"\r\n\r\n") {
                        got.clear();
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}").repeat(requests);
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// An endpoint: the server's number, its weight, its health, and more of its message.
fn end(servers: &[SocketAddr], number: usize, weight: usize, health: &str) -> Value {
    let name = format!("server-{}.test", number * 37 % 11);
    json!({"endpoint": {"address": socket(servers[number]), "hostname": name}, "load_balancing_weight": weight, "health_status": health})
}

/// All servers in one place, each with this weight.
fn all(servers: &[SocketAddr], weight: impl Fn(usize) -> usize) -> Value {
    json!([{"lb_endpoints": (0..SERVERS).map(|n| end(servers, n, weight(n), "HEALTHY")).collect::<Vec<_>>()}])
}

/// Places with these weights, not in their alphabetical order.
fn places(servers: &[SocketAddr]) -> Value {
    let place = |zone: &str, weight: usize, numbers: std::ops::Range<usize>| {
        let ends: Vec<Value> = numbers.map(|n| end(servers, n, 1 + n % 2, "HEALTHY")).collect();
        json!({"locality": {"region": "r", "zone": zone}, "load_balancing_weight": weight, "lb_endpoints": ends})
    };
    json!([place("b", 5, 0..2), place("c", 1, 2..4), place("a", 2, 4..7)])
}

/// Two priorities: of the first one's servers the first `ill` are.
fn ill(servers: &[SocketAddr], ill: usize, health: &str) -> Value {
    let first: Vec<Value> = (0..4).map(|n| end(servers, n, 1, if n < ill { health } else { "HEALTHY" })).collect();
    let second: Vec<Value> = (4..SERVERS).map(|n| end(servers, n, 1, "HEALTHY")).collect();
    json!([{"lb_endpoints": first}, {"priority": 1, "lb_endpoints": second}])
}

fn with_metadata(servers: &[SocketAddr], metadata: impl Fn(usize) -> Value) -> Value {
    let mut all = all(servers, |n| n + 1);
    for (n, end) in all[0]["lb_endpoints"].as_array_mut().unwrap().iter_mut().enumerate() {
        end["metadata"] = json!({"filter_metadata": {"envoy.lb": metadata(n)}});
    }
    all
}

fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{kind}").into();
    json!({"load_balancing_policy": {"policies": [{"typed_extension_config": {"name": kind, "typed_config": config}}]}})
}

/// Clusters whose picks must be the same, with how many keys are tried.
fn hashing(servers: &[SocketAddr]) -> Vec<(&'static str, Value, Value, usize)> {
    let (ring, maglev) = (json!({"lb_policy": "RING_HASH"}), json!({"lb_policy": "MAGLEV"}));
    let with = |base: &Value, more: Value| {
        let mut all = base.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let weighted = json!({"common_lb_config": {"locality_weighted_lb_config": {}}});
    // An Envoy knows the names of such clusters alone.
    let hostnames = json!({"type": "STRICT_DNS", "common_lb_config": {"consistent_hashing_lb_config": {"use_hostname_for_hashing": true}}});
    let small = json!({"ring_hash_lb_config": {"minimum_ring_size": 9, "maximum_ring_size": 10}});
    let murmur = json!({"ring_hash_lb_config": {"minimum_ring_size": 97, "hash_function": "MURMUR_HASH_2"}});
    let keyed = || with_metadata(servers, |n| json!({"hash_key": format!("key-{n}")}));
    vec![
        ("ring", ring.clone(), all(servers, |_| 1), 10_000),
        ("ring-weights", ring.clone(), all(servers, |n| 1 + n * n), 10_000),
        ("maglev", maglev.clone(), all(servers, |_| 1), 10_000),
        ("maglev-weights", maglev.clone(), all(servers, |n| 1 + n * n), 10_000),
        ("ring-small", with(&ring, small), all(servers, |n| 1 + n), 1000),
        ("ring-murmur", with(&ring, murmur), all(servers, |n| 1 + n), 1000),
        ("ring-places", with(&ring, weighted.clone()), places(servers), 1000),
        ("ring-names", with(&ring, hostnames.clone()), all(servers, |_| 1), 1000),
        ("ring-keys", ring.clone(), keyed(), 1000),
        ("ring-ill", ring, ill(servers, 2, "UNHEALTHY"), 1000),
        ("ring-typed", typed("ring_hash.v3.RingHash", json!({"minimum_ring_size": 300})), all(servers, |_| 1), 1000),
        ("maglev-small", with(&maglev, json!({"maglev_lb_config": {"table_size": 251}})), all(servers, |n| 1 + n), 1000),
        ("maglev-places", with(&maglev, weighted), places(servers), 1000),
        ("maglev-names", with(&maglev, hostnames), all(servers, |_| 1), 1000),
        ("maglev-ill", maglev.clone(), ill(servers, 2, "UNHEALTHY"), 1000),
        (
            "maglev-panic",
            maglev,
            json!([ill(servers, 4, "UNHEALTHY")[0], {"priority": 1, "lb_endpoints": [end(servers, 6, 1, "UNHEALTHY")]}]),
            1000,
        ),
        ("maglev-typed", typed("maglev.v3.Maglev", json!({})), all(servers, |n| 1 + n % 3), 1000),
    ]
}

/// Clusters that spread requests.
fn spreading(servers: &[SocketAddr]) -> Vec<(&'static str, Value, Value)> {
    let policy = |name: &str| json!({"lb_policy": name});
    let weighted = |name: &str| json!({"lb_policy": name, "common_lb_config": {"locality_weighted_lb_config": {}}});
    let subsets =
        json!({"lb_policy": "ROUND_ROBIN", "lb_subset_config": {"fallback_policy": "NO_FALLBACK", "subset_selectors": [{"keys": ["v"]}]}});
    vec![
        ("rr", policy("ROUND_ROBIN"), all(servers, |_| 1)),
        ("rr-weights", policy("ROUND_ROBIN"), all(servers, |n| 1 + n)),
        ("rr-places", weighted("ROUND_ROBIN"), places(servers)),
        ("rr-ill", policy("ROUND_ROBIN"), ill(servers, 2, "UNHEALTHY")),
        ("rr-panic", policy("ROUND_ROBIN"), ill(servers, 4, "UNHEALTHY")),
        ("rr-degraded", policy("ROUND_ROBIN"), json!([ill(servers, 2, "DEGRADED")[0]])),
        ("rr-draining", policy("ROUND_ROBIN"), ill(servers, 2, "DRAINING")),
        ("rr-subset", subsets, with_metadata(servers, |n| json!({"v": (n % 2).to_string()}))),
        ("least", policy("LEAST_REQUEST"), all(servers, |_| 1)),
        ("least-weights", policy("LEAST_REQUEST"), all(servers, |n| 1 + n)),
        ("random", policy("RANDOM"), all(servers, |n| 1 + n)),
        ("random-places", weighted("RANDOM"), places(servers)),
    ]
}

/// Ways to hash, all to the cluster `ring`.
fn hash_policies() -> Vec<(&'static str, Value)> {
    let header = |name: &str| json!({"header": {"header_name": name}});
    let rewrite = json!({"header": {"header_name": "x-key", "regex_rewrite": {"pattern": {"regex": "k(.)"}, "substitution": "\\1\\1"}}});
    let cookie = |ttl: Value| json!({"cookie": {"name": "user", "ttl": ttl, "path": "/p", "attributes": [{"name": "SameSite", "value": "Lax"}, {"name": "Secure"}]}});
    vec![
        ("by-header", json!([header("x-key")])),
        ("by-rewrite", json!([rewrite])),
        ("by-several-values", json!([header("x-several")])),
        ("by-host", json!([header(":authority")])),
        ("by-query", json!([{"query_parameter": {"name": "q"}}])),
        ("by-cookie", json!([{"cookie": {"name": "user"}}])),
        ("by-source", json!([{"connection_properties": {"source_ip": true}}])),
        (
            "by-all",
            json!([header("x-key"), {"query_parameter": {"name": "q"}}, {"connection_properties": {"source_ip": true}}, header("x-several")]),
        ),
        (
            "by-the-first",
            json!([{"header": {"header_name": "x-none"}, "terminal": true}, {"query_parameter": {"name": "q"}, "terminal": true}, header("x-key")]),
        ),
        ("by-new-cookie", json!([cookie(json!("3600s"))])),
        ("by-session-cookie", json!([cookie(json!("0s"))])),
    ]
}

/// A listener at this address with a route to each cluster, by the first part of the path.
fn bootstrap(front: SocketAddr, admin: SocketAddr, servers: &[SocketAddr]) -> String {
    let mut clusters = Vec::new();
    let mut routes = Vec::new();
    let by_key = json!([{"header": {"header_name": "x-key"}}]);
    let mut add = |name: &str, lb: &Value, ends: Value, subset: bool| {
        let mut cluster = json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": ends}});
        cluster.as_object_mut().unwrap().extend(lb.as_object().unwrap().clone());
        clusters.push(cluster);
        let mut action = json!({"cluster": name, "hash_policy": by_key});
        if subset {
            action["metadata_match"] = json!({"filter_metadata": {"envoy.lb": {"v": "1"}}});
        }
        routes.push(json!({"match": {"path_separated_prefix": format!("/{name}")}, "route": action}));
    };
    hashing(servers).into_iter().for_each(|(name, lb, ends, _)| add(name, &lb, ends, false));
    spreading(servers).into_iter().for_each(|(name, lb, ends)| add(name, &lb, ends, name == "rr-subset"));
    for (name, policies) in hash_policies() {
        routes.push(json!({"match": {"path_separated_prefix": format!("/{name}")}, "route": {"cluster": "ring", "hash_policy": policies}}));
    }
    let manager = json!({"name": "hcm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "h", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }});
    let listener = json!({"name": "front", "address": socket(front), "filter_chains": [{"filters": [manager]}]});
    json!({"admin": {"address": socket(admin)}, "static_resources": {"listeners": [listener], "clusters": clusters}}).to_string()
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client's connection to a proxy.
struct Client {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Client {
    async fn connect(front: SocketAddr) -> Client {
        let open = async {
            loop {
                match TcpStream::connect(front).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        let stream = tokio::time::timeout(LONG, open).await.expect("the proxy listens");
        stream.set_nodelay(true).unwrap();
        Client { stream, got: Vec::new() }
    }

    /// The head of the next response, and the server's number.
    async fn answer(&mut self) -> (String, usize) {
        loop {
            if let Some(end) = self.got.windows(4).position(|w| w == b"\r\n\r\n")
                && self.got.len() > end + 4
            {
                let head = String::from_utf8(self.got[..end].to_vec()).unwrap();
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                let number = usize::from(self.got[end + 4] - b'0');
                self.got.drain(..end + 5);
                return (head, number);
            }
            let n = tokio::time::timeout(LONG, self.stream.read_buf(&mut self.got)).await.expect("an answer in time").unwrap();
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&self.got));
        }
    }

    /// Who answers each of `n` requests with keys of their own, by this route.
    async fn servers(&mut self, route: &str, n: usize) -> Vec<usize> {
        let mut all = Vec::with_capacity(n);
        for first in (0..n).step_by(BATCH) {
            let batch: Vec<String> = (first..n.min(first + BATCH)).map(|key| request(route, key)).collect();
            self.stream.write_all(batch.concat().as_bytes()).await.unwrap();
            for _ in batch {
                all.push(self.answer().await.1);
            }
        }
        all
    }
}

fn request(route: &str, key: usize) -> String {
    let (a, b) = (key % 13, key % 17);
    let lines = [
        format!("GET /{route}/x?p=1&q=q{key}&q=other HTTP/1.1"),
        format!("host: h{key}.test"),
        format!("x-key: k{key}"),
        format!("x-several: v{b}"),
        format!("cookie: other=1; user=\"u{key}\""),
        format!("x-several: v{a}"),
    ];
    format!("{}\r\n\r\n", lines.join("\r\n"))
}

/// The cookie that is set, without what is of the connection; and the whole pair.
async fn new_cookie(front: SocketAddr, route: &str) -> (String, String, usize) {
    let mut client = Client::connect(front).await;
    client.stream.write_all(format!("GET /{route} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).await.unwrap();
    let (head, number) = client.answer().await;
    let lines: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")).collect();
    let [line] = lines[..] else { panic!("{head}") };
    let (pair, rest) = line.split_once(';').unwrap();
    let value = pair.strip_prefix("user=\"").and_then(|v| v.strip_suffix('"')).unwrap();
    assert!(value.len() == 16 && value.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
    (rest.to_owned(), pair.to_owned(), number)
}

async fn compare(envoy: SocketAddr, own: SocketAddr, servers: &[SocketAddr]) {
    let (mut theirs, mut ours) = (Client::connect(envoy).await, Client::connect(own).await);
    for (name, _, _, keys) in hashing(servers) {
        let (their, our) = tokio::join!(theirs.servers(name, keys), ours.servers(name, keys));
        let other = their.iter().zip(&our).filter(|(a, b)| a != b).count();
        assert_eq!(other, 0, "{name}: of {keys} keys {other} go elsewhere");
        let used: std::collections::BTreeSet<_> = our.iter().collect();
        assert!(used.len() > 1, "{name}: the keys tell something apart");
    }
    for (name, _) in hash_policies().into_iter().filter(|(name, _)| !name.ends_with("new-cookie") && !name.ends_with("session-cookie")) {
        let (their, our) = tokio::join!(theirs.servers(name, 1000), ours.servers(name, 1000));
        let other = their.iter().zip(&our).filter(|(a, b)| a != b).count();
        assert_eq!(other, 0, "{name}: of 1000 keys {other} go elsewhere");
    }
    for route in ["by-new-cookie", "by-session-cookie"] {
        let ((their_rest, their_pair, their_number), (rest, pair, number)) = (new_cookie(envoy, route).await, new_cookie(own, route).await);
        assert_eq!(their_rest, rest, "{route}");
        // Whoever comes with either's cookie comes to where it was made, through both.
        for front in [envoy, own] {
            for (pair, number) in [(&their_pair, their_number), (&pair, number)] {
                let mut client = Client::connect(front).await;
                client.stream.write_all(format!("GET /{route} HTTP/1.1\r\nhost: h\r\ncookie: {pair}\r\n\r\n").as_bytes()).await.unwrap();
                let (head, again) = client.answer().await;
                assert_eq!((again, head.contains("set-cookie")), (number, false), "{route} {pair} at {front}: {head}");
            }
        }
    }
    for (name, _, _) in spreading(servers) {
        const N: usize = 2000;
        let (their, our) = tokio::join!(theirs.servers(name, N), ours.servers(name, N));
        let shares = |all: Vec<usize>| {
            let mut shares = BTreeMap::<usize, usize>::new();
            all.into_iter().for_each(|number| *shares.entry(number).or_default() += 1);
            shares
        };
        let (their, our) = (shares(their), shares(our));
        assert!(their.keys().eq(our.keys()), "{name}: {their:?} and {our:?}");
        let near = their.iter().all(|(number, n)| n.abs_diff(our[number]) <= N * 4 / 100);
        assert!(near, "{name}: {their:?} and {our:?}");
    }
}

#[test]
fn as_envoy() {
    let Some(program) = envoy() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut servers = Vec::new();
        for number in 0..SERVERS {
            servers.push(serve(number).await);
        }
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (free_address(), free_address());
        let file = dir.path().join("envoy.json");
        std::fs::write(&file, bootstrap(theirs, free_address(), &servers)).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut envoy = Command::new(program);
        envoy.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning", "-c"]).arg(&file);
        let _envoy = Running(envoy.stdout(Stdio::null()).stderr(log).spawn().unwrap());

        let bootstrap = parse_bootstrap(&bootstrap(ours, free_address(), &servers), Unknown::Refused).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = Options { metrics: None, mark: 0, ..Options::default() };
        let proxy = tokio::spawn(mizzen_dataplane::run(bootstrap, options, async {
            let _ = stopped.await;
        }));
        compare(theirs, ours, &servers).await;
        let _ = stop.send(());
        proxy.await.unwrap().unwrap();
    });
}
