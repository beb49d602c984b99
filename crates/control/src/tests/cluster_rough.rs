//! A control plane beside an API server that is cut off, slow, has forgotten the past, or asks a lot; and what it says there about proxies.

use std::sync::Arc;

use mizzen_pki::{
    KeyPair, Svid, TrustBundle, server_verifier_by_name,
    tls::{TlsOptions, client_config},
};
use mizzen_testkit::{eventually, kube::ApiServer};
use mizzen_xds::types::{CLUSTER, LISTENER};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    cluster::{ROUTE, api, get, has, run_pod},
    cluster_tokens::token,
    harness::{PATIENCE, Proxy, World, node},
};
use crate::status::Configz;

/// How the way to the API server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// What the API server says stays on the way.
    Held,
    /// Connections are closed, and none is taken.
    Cut,
}

/// A way to the API server.
struct Gate {
    way: watch::Sender<Way>,
    kubeconfig: std::path::PathBuf,
}

impl Gate {
    async fn before(api: &ApiServer) -> Gate {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (way, ways) = watch::channel(Way::Open);
        let server = api.url().strip_prefix("https://").unwrap().to_owned();
        let kubeconfig = api.dir().join("gate.kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig().replace(&server, &format!("127.0.0.1:{port}"))).unwrap();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(client, server.clone(), ways.clone()));
            }
        });
        Gate { way, kubeconfig }
    }

    fn is(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn carry(mut client: TcpStream, server: String, mut ways: watch::Receiver<Way>) {
    if *ways.borrow() == Way::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut held = ways.clone();
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut buffer = vec![0; 16 << 10];
        while held.wait_for(|way| *way != Way::Held).await.is_ok() {
            let length = from_server.read(&mut buffer).await.unwrap_or_default();
            let is_open = held.wait_for(|way| *way != Way::Held).await.is_ok();
            if length == 0 || !is_open || to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let cut = ways.wait_for(|way| *way == Way::Cut);
    tokio::select! {
        _ = there => {}
        () = back => {}
        _ = cut => {}
    }
}

fn route(name: &str, seconds: usize) -> String {
    ROUTE.replace("name: reviews, namespace", &format!("name: {name}, namespace")).replace("timeout: 3s", &format!("timeout: {seconds}s"))
}

fn versions(config: &Configz, kind: &str) -> Vec<String> {
    config.objects.iter().filter(|object| object.kind == kind).map(|object| object.name.clone()).collect()
}

/// The watch cannot be taken up where it broke off: what has happened meanwhile is found by a list, what went is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_past_is_forgotten() {
    let Some(mut api) = api() else { return };
    for name in ["stays", "goes", "changes"] {
        api.apply(&route(name, 3));
    }
    let gate = Gate::before(&api).await;
    let world = World::of_cluster(&gate.kubeconfig).await;
    let all = ["changes", "goes", "stays"];
    world.until("/debug/configz", |config: &Configz| versions(config, "VirtualService") == all).await;
    let listed = api.kubectl(&["get", "--raw", "/apis/networking.istio.io/v1/virtualservices"], "").ok();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let known = listed["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    gate.is(Way::Cut);
    api.kubectl(&["delete", "virtualservice", "goes", "-n", "shop"], "").ok();
    api.apply(&route("changes", 7));
    api.apply(&route("comes", 3));
    // What the API server remembers of changes begins anew with it.
    api.outage();
    api.back();
    let watch = format!("/apis/networking.istio.io/v1/virtualservices?watch=true&timeoutSeconds=1&resourceVersion={known}");
    let said = eventually("the past is forgotten", || match api.kubectl(&["get", "--raw", &watch], "") {
        said if said.out.contains("\"code\":410") || said.err.contains("too old") => Ok(said),
        said => Err(said.out + &said.err),
    });
    assert!(said.out.contains("410") || said.err.contains("too old"), "{said:?}");
    gate.is(Way::Open);
    let config: Configz =
        world.until("/debug/configz", |config: &Configz| versions(config, "VirtualService") == ["changes", "comes", "stays"]).await;
    assert!(config.warnings.iter().all(|warning| !warning.contains("virtualservices")), "it is no trouble: {:?}", config.warnings);
    world.running.stop().await;
}

/// Events that come late leave what was known in force, and the last state is the one that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watch() {
    let Some(api) = api() else { return };
    api.apply(&route("first", 3));
    let gate = Gate::before(&api).await;
    let world = World::of_cluster(&gate.kubeconfig).await;
    world.until("/debug/configz", |config: &Configz| has(config, "VirtualService", "first")).await;
    gate.is(Way::Held);
    for turn in 0..10 {
        api.apply(&route("second", 1 + turn));
    }
    api.kubectl(&["delete", "virtualservice", "first", "-n", "shop"], "").ok();
    api.apply(&route("third", 3));
    api.apply("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: second, namespace: shop}, spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}}");
    let config: Configz = world.debug("/debug/configz").await;
    assert_eq!(versions(&config, "VirtualService"), ["first"], "nothing has come yet");
    gate.is(Way::Open);
    world.until("/debug/configz", |config: &Configz| versions(config, "VirtualService") == ["second", "third"]).await;
    let served: Value = world.debug("/debug/configz").await;
    assert!(served["refused"].as_array().unwrap().is_empty(), "{served}");
    world.running.stop().await;
}

const NARROW: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'discoverySelectors: [{matchLabels: {mesh: \"yes\"}}]'}
---
{apiVersion: v1, kind: Namespace, metadata: {name: bank}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mesh: 'yes'}}}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec: {clusterIP: 10.96.0.80, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ledger, namespace: bank}
spec: {rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_belong_to_the_mesh() {
    let Some(api) = api() else { return };
    api.apply(NARROW);
    run_pod(&api);
    api.apply(ROUTE);
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let of = |config: &Configz, namespace: &str| config.objects.iter().filter(|object| object.namespace == namespace).count();
    let whole = |config: &Configz| has(config, "VirtualService", "reviews") && has(config, "Pod", "reviews-0");
    let config: Configz = world.until("/debug/configz", whole).await;
    assert_eq!(of(&config, "bank"), 0, "{config:?}");
    // The whole mesh's policies stand in the root namespace, which is always part of it; labels of all namespaces are known.
    assert!(has(&config, "PeerAuthentication", "default") && has(&config, "Namespace", "bank"));
    let root = |namespace: &str| get(&api, &["configmap", "istio-ca-root-cert", "-n", namespace], "{.data.root-cert\\.pem}");
    eventually("the root", || root("shop").map(drop));
    assert!(root("bank").is_err() && root("default").is_err());
    // It comes in, with all that it had before, and gets the root.
    api.kubectl(&["label", "namespace", "bank", "mesh=yes"], "").ok();
    world
        .until("/debug/configz", |config: &Configz| has(config, "AuthorizationPolicy", "ledger") && has(config, "Service", "ledger"))
        .await;
    eventually("the root", || root("bank").map(drop));
    // What changes there is followed from then on.
    api.kubectl(&["delete", "authorizationpolicy", "ledger", "-n", "bank"], "").ok();
    world.until("/debug/configz", |config: &Configz| !has(config, "AuthorizationPolicy", "ledger")).await;
    // It leaves, and nothing of it is held.
    api.kubectl(&["label", "namespace", "shop", "mesh-"], "").ok();
    let config: Configz = world.until("/debug/configz", |config: &Configz| of(config, "shop") == 0).await;
    assert!(has(&config, "Service", "ledger"));
    api.apply(&route("outside", 3));
    // Without selectors all namespaces are part of it.
    api.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: ''}}");
    world.until("/debug/configz", |config: &Configz| whole(config) && has(config, "VirtualService", "outside")).await;
    world.running.stop().await;
}

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";

/// A rule because of which a proxy refuses something says so, for as long as it does.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses() {
    let Some(api) = api() else { return };
    run_pod(&api);
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}
";
    api.apply(rule);
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let key = KeyPair::generate().unwrap();
    let own = token(&api, "shop", "reviews", &["--audience=istio-ca", "--bound-object-kind=Pod", "--bound-object-name=reviews-0"]);
    let chain = world.csr(None, Some(&own), &key.csr(None).unwrap(), 0).await.unwrap();
    let svid = Svid::from_chain(&chain, &key).unwrap();
    let mut proxy =
        Proxy::connect_as(&world, &svid, node("sidecar~10.244.0.7~reviews-0.shop~shop.svc.cluster.local", "reviews")).await.unwrap();
    proxy.reject = Some((CLUSTER, REVIEWS));
    proxy.client.watch_all(CLUSTER);
    proxy.client.watch_all(LISTENER);
    proxy.until(|proxy| proxy.rejected > 0 && proxy.has(LISTENER, "virtualInbound")).await;
    let said = || {
        let path = "{.status.conditions[?(@.type==\"RefusedByProxies\")].message}";
        get(&api, &["destinationrule", "reviews", "-n", "shop"], path)
    };
    let expected = format!("reviews-0.shop refused Cluster {REVIEWS}: not today");
    eventually("the condition", || match said()? {
        found if found == expected => Ok(()),
        other => Err(other),
    });
    assert_eq!(get(&api, &["virtualservices", "-n", "shop"], "{.items[*].status}"), Ok(String::new()));
    // The next version is taken.
    proxy.reject = None;
    api.apply(&rule.replace("maxConnections: 7", "maxConnections: 8"));
    proxy.until(|proxy| proxy.has(CLUSTER, REVIEWS)).await;
    eventually("no condition", || match said()? {
        none if none.is_empty() => Ok(()),
        other => Err(other),
    });
    world.running.stop().await;
}

/// Resident memory of this process, in MiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() / 1024
}

fn review(kind: &str, object: &Value) -> String {
    let (group, plural) = if kind == "Pod" { ("", "pods") } else { ("networking.istio.io", "virtualservices") };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "name": "a", "namespace": "shop", "object": object, "oldObject": null, "dryRun": false,
        "kind": {"group": group, "version": "v1", "kind": kind}, "resource": {"group": group, "version": "v1", "resource": plural},
        "userInfo": {"username": "alice"}, "options": null,
    }})
    .to_string()
}

/// One connection to the port of the webhooks, as the API server has it.
struct Caller(BufReader<mizzen_net::TlsClientStream<TcpStream>>);

impl Caller {
    async fn connect(world: &World) -> Caller {
        let roots = TrustBundle::from_pem(world.root.as_bytes()).unwrap();
        let options = TlsOptions { alpn: vec![b"http/1.1".to_vec()], ..TlsOptions::default() };
        let config = client_config(None, server_verifier_by_name(&roots).unwrap(), &options).unwrap();
        let address = std::net::SocketAddr::new([127, 0, 0, 1].into(), world.running.webhooks.unwrap().port());
        let stream = mizzen_net::connect(address, &Default::default()).await.unwrap();
        Caller(BufReader::new(mizzen_net::connect_tls(stream, config, "istiod.istio-system.svc", PATIENCE).await.unwrap()))
    }

    /// The status of the answer, and its body.
    async fn ask(&mut self, path: &str, body: &str) -> (u16, String) {
        self.ask_of(path, body.len(), body).await
    }

    /// The same of a body that says to have another length.
    async fn ask_of(&mut self, path: &str, length: usize, body: &str) -> (u16, String) {
        let head = format!("POST {path} HTTP/1.1\r\nhost: istiod\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        self.0.write_all(head.as_bytes()).await.unwrap();
        self.0.write_all(body.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        loop {
            line.clear();
            self.0.read_line(&mut line).await.unwrap();
            let text = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            }
            if let Some(value) = text.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

/// Of 10,000 requests each is answered, and none is left in memory.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_questions() {
    const CALLERS: usize = 20;
    const EACH: usize = 500;
    let Some(api) = api() else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio-injection: enabled}}}");
    api.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: istio-sidecar-injector, namespace: istio-system}, data: {values: '{}'}}");
    let world = Arc::new(World::of_cluster(&api.kubeconfig_file()).await);
    world.until("/debug/configz", |config: &Configz| has(config, "Namespace", "shop")).await;
    let routes: Vec<Value> =
        (0..40).map(|n| json!({"match": [{"uri": {"prefix": format!("/{n}")}}], "route": [{"destination": {"host": "a"}}]})).collect();
    let object = |spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a", "namespace": "shop"}, "spec": spec});
    let good = review("VirtualService", &object(json!({"hosts": ["a"], "http": routes})));
    let wrong = review("VirtualService", &object(json!({"hosts": ["a"], "http": [{"timeout": "soon"}]})));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "shop"}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let pod = review("Pod", &pod);
    let ready = async {
        let mut caller = Caller::connect(&world).await;
        while !caller.ask("/inject", &pod).await.1.contains("JSONPatch") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("pods are injected");
    let bodies =
        Arc::new([("/validate", good, "\"allowed\":true"), ("/validate", wrong, "spec.http[0].timeout"), ("/inject", pod, "JSONPatch")]);
    let round = async |each: usize| {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..CALLERS {
            let (world, bodies) = (world.clone(), bodies.clone());
            callers.spawn(async move {
                let mut way = Caller::connect(&world).await;
                for turn in 0..each {
                    let (path, body, expected) = &bodies[(caller + turn) % bodies.len()];
                    let (status, answer) = way.ask(path, body).await;
                    assert!(status == 200 && answer.contains(expected), "{path} {status} {answer}");
                }
                each
            });
        }
        callers.join_all().await.iter().sum::<usize>()
    };
    // What is kept for ever is there after some.
    assert_eq!(round(10).await, CALLERS * 10);
    let before = resident();
    assert_eq!(round(EACH).await, 10_000);
    let grown = resident().saturating_sub(before);
    // Each has 4 KB or more: kept, they would be far more.
    assert!(grown < 48, "{grown} MiB more than before");
    Arc::into_inner(world).unwrap().running.stop().await;
}

/// What is as large or as deep as an API server lets through is judged or refused, and nothing ends by it.
#[tokio::test(flavor = "multi_thread")]
async fn large_and_deep_objects() {
    let Some(api) = api() else { return };
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let mut caller = Caller::connect(&world).await;
    // Deeper than anything is read, by itself and within an object.
    for deep in [
        "[".repeat(1 << 20),
        format!("{{\"a\":{}", "[".repeat(1 << 20)),
        review("VirtualService", &Value::Null).replace("null", &"[".repeat(200_000)),
    ] {
        let (status, said) = caller.ask("/validate", &deep).await;
        assert_eq!(status, 400, "{said}");
    }
    // More than a review may have. The API server would say the same of such an object itself.
    let (status, _) = caller.ask_of("/validate", (8 << 20) + 1, "").await;
    assert_eq!(status, 413);
    let mut caller = Caller::connect(&world).await;
    let object = |spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "large", "namespace": "shop"}, "spec": spec});
    let mut nested = json!("x");
    for _ in 0..100 {
        nested = json!({"a": nested});
    }
    let (status, said) =
        caller.ask("/validate", &review("VirtualService", &object(json!({"hosts": ["a"], "http": [{"headers": nested}]})))).await;
    assert!(status == 200 && said.contains("\"allowed\":false"), "{status} {said}");
    // A megabyte that is in order is taken, stored, read and in force.
    let path = "/x".repeat(100);
    let routes: Vec<Value> = (0..4_000)
        .map(|n| json!({"match": [{"uri": {"prefix": format!("{path}/{n}")}}], "route": [{"destination": {"host": "a"}}]}))
        .collect();
    let large = object(json!({"hosts": ["a"], "http": routes}));
    let text = large.to_string();
    assert!(text.len() > 1 << 20, "{}", text.len());
    let (status, said) = caller.ask("/validate", &review("VirtualService", &large)).await;
    assert!(status == 200 && said.contains("\"allowed\":true"), "{status} {said}");
    api.kubectl(&["create", "-f", "-"], &text).ok();
    world.until("/debug/configz", |config: &Configz| has(config, "VirtualService", "large")).await;
    world.running.stop().await;
}
