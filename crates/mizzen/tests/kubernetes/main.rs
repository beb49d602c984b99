//! The mesh in a real cluster of two nodes: installed by the CLI, with the sample and its steps in it, seen by the CLI, and removed.

mod cni;
mod envoy;
mod families;
mod helm;
mod kubelet;
mod netpol;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
};

use mizzen_testkit::{
    Output, Sniffer, eventually,
    kube::{Cluster, ClusterOptions, Programs, image},
    peer,
};
use serde_json::Value;

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// Two clusters at once are more than a small machine carries.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")
}

/// The images, of the program that this test has anyway, and whether that with an Envoy is there.
fn images(folder: &Path) -> (Vec<PathBuf>, bool) {
    let program = image::without_debug(Path::new(MIZZEN), folder).expect("a copy");
    let written = image::mesh(&image::Source::MultiCall(&program), None, "mizzen", env!("CARGO_PKG_VERSION"), folder).expect("images");
    let with_envoy = envoy::image(&program, folder);
    let has_envoy = with_envoy.is_some();
    (written.into_iter().map(|written| written.archive).chain(with_envoy).collect(), has_envoy)
}

/// Who sets the capture of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaptureBy {
    /// A container of each.
    Pod,
    /// The agent of their node.
    Node,
}

impl CaptureBy {
    /// The words of `install` for it.
    fn settings(self) -> &'static [&'static str] {
        match self {
            CaptureBy::Pod => &[],
            CaptureBy::Node => &["--set", "components.cni.enabled=true", "--set", "values.pilot.cni.enabled=true"],
        }
    }

    /// The container of a pod that sets it, or that looks whether it is set.
    fn container(self) -> &'static str {
        match self {
            CaptureBy::Pod => "istio-init",
            CaptureBy::Node => "istio-validation",
        }
    }
}

/// A cluster, and where its gateway can be reached.
struct World {
    cluster: Cluster,
    capture: CaptureBy,
    gateway: String,
    /// Whether it has the image with an Envoy.
    has_envoy: bool,
}

impl World {
    /// A cluster in which the gateway is installed.
    fn with_gateway(cluster: Cluster, capture: CaptureBy, has_envoy: bool) -> World {
        let port = "jsonpath={.spec.ports[?(@.port==80)].nodePort}";
        let port = cluster.kubectl(&["get", "service", "-n", "istio-system", "istio-ingressgateway", "-o", port], "").ok();
        let node = "jsonpath={.items[1].status.addresses[?(@.type==\"InternalIP\")].address}";
        let node = cluster.kubectl(&["get", "nodes", "-o", node], "").ok();
        // One with addresses of both families has two.
        let node = node.split(' ').next().unwrap_or_default();
        World { cluster, capture, gateway: format!("{node}:{port}"), has_envoy }
    }

    /// The bookshop, in a namespace whose pods get proxies.
    fn open_the_shop(&self) {
        self.cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio-injection: enabled}}}");
        self.apply("bookshop");
        self.kubectl(&["label", "namespace", "shop", "istio-injection=enabled", "--overwrite"]);
        self.rolled_out();
        // Programs of both nodes are called, each of them through its proxy.
        versions(&self.until("the shop is open", "/api/books", &[], "200"));
    }

    fn mizzen(&self, args: &[&str]) -> Output {
        let words: Vec<&str> = [MIZZEN].into_iter().chain(args.iter().copied()).collect();
        self.cluster.run(&words, "")
    }

    /// Installs the mesh with these settings beside those of the capture.
    fn install(&self, settings: &[&str]) {
        let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
        let words: Vec<&str> = ["install", "-y"].into_iter().chain(self.capture.settings().iter().copied()).chain(settings).collect();
        let installed = self.mizzen(&words);
        assert_eq!(installed.code, 0, "{}{}", installed.out, installed.err);
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(args, "").ok()
    }

    /// Applies the files of a folder of samples.
    fn apply(&self, folder: &str) {
        let folder = samples().join(folder);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).expect("samples").map(|entry| entry.expect("a file").path()).collect();
        // Namespaces come first.
        files.sort_by_key(|path| (!path.ends_with("namespace.yaml"), path.clone()));
        files.iter().for_each(|path| self.cluster.apply(&std::fs::read_to_string(path).expect("a text")));
    }

    /// One request through the gateway: status and body.
    fn get(&self, path: &str, headers: &[&str]) -> (String, String) {
        let url = format!("http://{}{path}", self.gateway);
        let mut words = vec!["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", &url];
        headers.iter().for_each(|header| words.extend(["-H", *header]));
        let found = self.cluster.run(&words, "");
        let (body, status) = found.out.rsplit_once('\n').unwrap_or_default();
        (status.to_owned(), if body.is_empty() { found.err } else { body.to_owned() })
    }

    fn until(&self, what: &str, path: &str, headers: &[&str], status: &str) -> String {
        eventually(what, || match self.get(path, headers) {
            (found, body) if found == status => Ok(body),
            other => Err(format!("{other:?}")),
        })
    }

    fn rolled_out(&self) {
        self.kubectl(&["wait", "--for=condition=Available", "deployment", "--all", "-n", "shop", "--timeout=180s"]);
    }
}

fn start(folder: &Path, capture: CaptureBy) -> Option<World> {
    Programs::for_cluster()?;
    let (images, has_envoy) = images(folder);
    let cluster = Cluster::start(&ClusterOptions { nodes: 2, images, ..ClusterOptions::default() })?;
    let installed = cluster.run(&[&[MIZZEN, "install", "-y"], capture.settings()].concat(), "");
    assert_eq!(installed.code, 0, "{}{}", installed.out, installed.err);
    Some(World::with_gateway(cluster, capture, has_envoy))
}

/// The version of the reviews of each book; each book has all of its parts.
fn versions(page: &str) -> Vec<String> {
    let page: Value = serde_json::from_str(page).unwrap_or_else(|error| panic!("{error}: {page}"));
    let books = page["books"]["Ok"].as_array().cloned().unwrap_or_default();
    assert_eq!(books.len(), 3, "{page}");
    assert!(books.iter().all(|book| book["book"]["stock"]["Ok"].is_u64()), "{page}");
    books.iter().map(|book| book["reviews"]["Ok"]["version"].as_str().unwrap_or_else(|| panic!("{page}")).to_owned()).collect()
}

#[test]
fn the_bookshop_in_a_cluster() {
    the_bookshop(CaptureBy::Pod);
}

#[test]
fn the_bookshop_in_a_cluster_whose_nodes_capture() {
    the_bookshop(CaptureBy::Node);
}

fn the_bookshop(capture: CaptureBy) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let Some(world) = start(folder.path(), capture) else { return };
    world.open_the_shop();
    the_page_in_a_browser(&world);
    let nodes = world.kubectl(&["get", "pods", "-n", "shop", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    assert!(nodes.contains("node1") && nodes.contains("node2"), "{nodes}");
    for container in ["istio-proxy", capture.container()] {
        assert_eq!(
            containers(&world, "shop").split(' ').filter(|name| *name == container).count(),
            nodes.split(' ').count(),
            "{container}"
        );
    }

    steps(&world);
    pods_that_are_meant_by_name(&world);
    kubelet::pods(&world);
    nothing_is_readable(&world);
    if world.has_envoy {
        envoy::envoys(&world);
    }
    seen_by_the_cli(&world);
    netpol::policies(&world);
    no_request_is_lost(&world);
    kubelet::by_first_party_tokens(&world);
    // What is for the other kind of capture is in no pod.
    let other = if capture == CaptureBy::Pod { CaptureBy::Node } else { CaptureBy::Pod };
    for namespace in ["shop", "sets", "envoys"] {
        assert!(!containers(&world, namespace).contains(other.container()), "{namespace}");
    }

    let removed = world.mizzen(&["uninstall", "--purge", "-y"]);
    assert_eq!(removed.code, 0, "{}{}", removed.out, removed.err);
    let kinds = "crd,mutatingwebhookconfiguration,validatingwebhookconfiguration,clusterrole,clusterrolebinding";
    let left = world.kubectl(&["get", kinds, "-o", "name"]) + &world.kubectl(&["get", "configmap", "-A", "-o", "name"]);
    assert!(!left.lines().any(|line| line.contains("istio")), "{left}");
    world.cluster.down().expect("it ends");
}

/// The init containers of all pods of a namespace.
fn containers(world: &World, namespace: &str) -> String {
    world.kubectl(&["get", "pods", "-n", namespace, "-o", "jsonpath={.items[*].spec.initContainers[*].name}"])
}

/// The shop's page at the Gateway's node port, as a browser has it.
fn the_page_in_a_browser(world: &World) {
    let Some(chromium) = peer("chromium", "chromium") else { return };
    let chromium = chromium.to_str().expect("a path");
    // A profile of its own, and no sandbox of its own, which root has none of. It is in the node's namespaces, and there is nothing else to be reached.
    let profile = format!("--user-data-dir={}", world.cluster.dir().join("chromium").display());
    let url = format!("http://{}/", world.gateway);
    let flags =
        ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"];
    let page = eventually("the page in a browser", || {
        let words = [&["timeout", "60", chromium], &flags[..], &[&profile, "--timeout=30000", "--dump-dom", &url]].concat();
        let found = world.cluster.run(&words, "");
        if found.code == 0 && found.out.contains("</article>") { Ok(found.out) } else { Err(format!("{found:?}")) }
    });
    assert!(page.contains("<h1>The bookshop</h1>") && page.contains("The Voyage of the Beagle"), "{page}");
    assert_eq!((page.matches("<article>").count(), page.matches(" in stock</p>").count()), (3, 3), "{page}");
    assert!(page.contains("reviews v") && !page.contains("is not to be had") && !page.contains("are not to be had"), "{page}");
}

/// The steps of the sample, each with a call that must work or one that must not.
fn steps(world: &World) {
    world.apply("bookshop-steps/01-strict-and-deny");
    world.until("nobody may call anybody", "/", &[], "403");
    world.apply("bookshop-steps/02-allow");
    versions(&world.until("what the shop needs is allowed", "/api/books", &[], "200"));
    world.apply("bookshop-steps/04-header-route");
    eventually("a tester sees v2", || {
        let found = versions(&world.get("/api/books", &["x-user: tester"]).1);
        if found.iter().all(|version| version == "v2") { Ok(()) } else { Err(found.join(" ")) }
    });
    assert!(versions(&world.get("/api/books", &[]).1).iter().all(|version| version == "v1"));
    world.apply("bookshop-steps/06-external-authorizer");
    world.rolled_out();
    assert_eq!(world.until("the doorman refuses", "/", &[], "403").trim(), "members only");
    world.until("a member comes in", "/", &["x-member: yes"], "200");
    world.apply("bookshop-steps/08-end-user-tokens");
    world.until("the data needs a token", "/api/books", &["x-member: yes"], "403");
    let token = std::fs::read_to_string(samples().join("bookshop-tokens/ann.jwt")).expect("a token");
    let bearer = format!("authorization: Bearer {}", token.trim());
    world.until("a reader has one", "/api/books", &["x-member: yes", &bearer], "200");
    for step in ["08-end-user-tokens/tokens.yaml", "06-external-authorizer/doorman.yaml"] {
        let file = samples().join("bookshop-steps").join(step);
        world.cluster.kubectl(&["delete", "-f", "-"], &std::fs::read_to_string(file).expect("a step")).ok();
    }
    world.until("the shop is open to all again", "/api/books", &[], "200");
}

/// A StatefulSet, whose pods are called one by one, and a Job, which ends although it has a sidecar. Mutual TLS is the mesh's rule by now.
const SET: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: sets, labels: {istio-injection: enabled}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: sets}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: sets}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: mizzen.test/echo:1
        imagePullPolicy: IfNotPresent
        args: [serve]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}}
        livenessProbe: {tcpSocket: {port: 8080}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: sets}
spec:
  template:
    spec: {restartPolicy: OnFailure, containers: [{name: once, image: 'mizzen.test/echo:1', imagePullPolicy: IfNotPresent, args: [get, 'http://web:8080/']}]}
";

fn pods_that_are_meant_by_name(world: &World) {
    world.cluster.apply(SET);
    world.kubectl(&["rollout", "status", "-n", "sets", "statefulset/web", "--timeout=180s"]);
    for name in ["web-1.web", "web-1.web.sets", "web-1.web.sets.svc.cluster.local"] {
        let url = format!("http://{name}:8080/");
        eventually("a pod by its name", || match world.cluster.exec("sets", "web-0", "web", &["/usr/local/bin/echo", "get", &url]) {
            found if found.out.starts_with("200 pod=web-1 ") && found.out.contains("from=127.0.0.6:") => Ok(()),
            other => Err(format!("{name}: {other:?}")),
        });
    }
    world.kubectl(&["wait", "-n", "sets", "--for=condition=Complete", "job/once", "--timeout=180s"]);
}

/// What is on the wire of the first node, over which all calls between the nodes go, too: the visitor's request to the Gateway, and of all other calls
/// nothing that can be read. What is not encrypted gets no answer.
fn nothing_is_readable(world: &World) {
    let sniffer = Sniffer::of(world.cluster.process());
    for _ in 0..5 {
        world.until("a visit", "/api/books", &[], "200");
    }
    let seen = sniffer.finish();
    assert!(seen.holds(b"GET /api/books"), "the visit is not seen");
    for call in ["GET /books", "GET /reviews", "ratings.Ratings"] {
        assert!(!seen.holds(call.as_bytes()), "{call} is readable");
    }
    let address = world.kubectl(&["get", "pod", "-n", "shop", "-l", "app=catalogue", "-o", "jsonpath={.items[0].status.podIP}"]);
    let plain = world.cluster.run(&["curl", "-sS", "-m", "10", &format!("http://{address}:9080/books")], "");
    assert!(plain.code != 0 && plain.out.is_empty(), "{plain:?}");
    let log = world.mizzen(&["logs", "reviews-v1", "-n", "shop", "--proxy"]).ok();
    assert!(log.contains("spiffe://cluster.local/ns/shop/sa/storefront"), "{log}");
}

fn seen_by_the_cli(world: &World) {
    eventually("all proxies have all", || {
        let text = world.mizzen(&["proxy-status"]).ok();
        let settled = text.lines().count() > 8 && !text.contains("STALE") && !text.contains("ERROR");
        if settled { Ok(()) } else { Err(text) }
    });
    let clusters = world.mizzen(&["proxy-config", "cluster", "storefront", "-n", "shop"]).ok();
    assert!(clusters.contains("reviews.shop.svc.cluster.local"), "{clusters}");
    let secrets = world.mizzen(&["proxy-config", "secret", "storefront", "-n", "shop"]).ok();
    assert!(secrets.contains("ROOTCA") && secrets.contains("default"), "{secrets}");
    let refused = world.mizzen(&["proxy-config", "cluster", "coredns.kube-system"]);
    assert!(refused.code != 0 && refused.err.contains("is not in the mesh"), "{refused:?}");
    by_both_names(world);
    let version = world.mizzen(&["version"]).ok();
    assert!(version.contains("control plane version: "), "{version}");
    let analyzed = world.mizzen(&["analyze", "--all-namespaces"]);
    assert!(analyzed.err.is_empty() && !analyzed.out.contains("Error ["), "{analyzed:?}");
    let decided = world.mizzen(&["explain", "--from", "stock.shop", "--to", "reviews.shop", "--path", "/reviews/1"]);
    assert!(decided.out.contains("REFUSED: no policy allows it") && decided.out.contains("[held]"), "{decided:?}");
    for (kind, column, row) in [("peerauthentication", "MODE", "STRICT"), ("authorizationpolicy", "ACTION", "ALLOW")] {
        let table = world.kubectl(&["get", kind, "-A"]);
        assert!(table.contains(column) && table.contains(row), "{table}");
    }
    let log = world.kubectl(&["logs", "-n", "istio-system", "-l", "app=istiod", "--tail=-1"]);
    assert!(log.lines().any(|line| line.contains("authz")), "{log}");
}

/// What istioctl answers of a mesh, under its name too.
fn by_both_names(world: &World) {
    let link = world.cluster.dir().join("istioctl");
    std::os::unix::fs::symlink(MIZZEN, &link).expect("a link");
    let link = link.to_str().expect("a path");
    let pod = world.kubectl(&["get", "pod", "-n", "shop", "-l", "app=storefront", "-o", "jsonpath={.items[0].metadata.name}"]);
    let pod = format!("{pod}.shop");
    let pod = pod.as_str();
    let reviews = "reviews.shop.svc.cluster.local:9080 OK STRICT ISTIO_MUTUAL ";
    for (args, part) in [
        (vec!["analyze", "-n", "shop"], ""),
        (vec!["analyze", "--all-namespaces"], ""),
        (vec!["proxy-config", "cluster", pod], "reviews.shop.svc.cluster.local 9080"),
        (vec!["proxy-config", "cluster", "deployment/storefront.shop"], "reviews.shop.svc.cluster.local 9080"),
        (vec!["proxy-config", "cluster", "service/storefront", "-n", "shop"], "reviews.shop.svc.cluster.local 9080"),
        (vec!["proxy-config", "secret", "svc/storefront.shop"], "ROOTCA CA ACTIVE true"),
        (vec!["proxy-config", "secret", pod], "ROOTCA CA ACTIVE true"),
        (vec!["proxy-config", "log", pod], "active loggers:"),
        (vec!["authn", "tls-check", pod], reviews),
        (vec!["proxy-status", pod], "Clusters Match"),
        (vec!["x", "describe", "pod", pod], "Workload mTLS mode: STRICT"),
    ] {
        for program in [MIZZEN, link] {
            let answer = world.cluster.run(&[&[program], &args[..]].concat(), "");
            let lines: Vec<String> = answer.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            assert!(answer.code == 0 && (part.is_empty() || lines.iter().any(|line| line.contains(part))), "{args:?}: {answer:?}");
            assert!(!answer.out.contains("Error [") && !answer.err.contains("it runs what it had"), "{args:?}: {answer:?}");
        }
    }
    for args in [vec!["authn", "tls-check", "coredns.kube-system"], vec!["proxy-status", "coredns.kube-system"]] {
        let refused = world.mizzen(&args);
        assert!(refused.code != 0 && refused.err.contains("is not in the mesh"), "{args:?}: {refused:?}");
    }
    for (service, why) in [
        ("service/kube-dns.kube-system", "no pod with a proxy that runs is behind it"),
        ("service/kubernetes.default", "selects no pods"),
        ("service/noSuch.shop", "there is no service noSuch in shop"),
    ] {
        let refused = world.mizzen(&["proxy-config", "cluster", service]);
        assert!(refused.code != 0 && refused.err.contains(why), "{service}: {refused:?}");
    }
    // A program takes changes by a socket in its pod alone.
    for (args, line, is_set) in [
        (vec!["proxy-config", "log", pod, "--level", "debug"], "engine: debug", true),
        (vec!["proxy-config", "log", pod, "--reset"], "engine: debug", false),
        (vec!["admin", "log", "--level", "ca:debug"], "ca Certificates that are signed. debug", true),
        (vec!["admin", "log", "--reset"], "ca Certificates that are signed. debug", false),
    ] {
        let changed = world.mizzen(&args).ok();
        let mut lines = changed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(lines.any(|found| found == line), is_set, "{args:?}: {changed}");
    }
}

/// Requests go on while half of the shop is replaced.
fn no_request_is_lost(world: &World) {
    let load = "for i in $(seq 400); do curl -s -m 20 -o /dev/null -w '%{http_code}\\n' http://$0/api/books; done | sort | uniq -c";
    let mut load = world.cluster.command(&["bash", "-c", load, &world.gateway]);
    let load = load.stdout(Stdio::piped()).spawn().expect("a load");
    world.kubectl(&["rollout", "restart", "-n", "shop", "deployment/reviews-v1", "deployment/catalogue", "deployment/storefront"]);
    for deployment in ["reviews-v1", "catalogue", "storefront"] {
        world.kubectl(&["rollout", "status", "-n", "shop", &format!("deployment/{deployment}"), "--timeout=180s"]);
    }
    let answered = load.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&answered.stdout).trim(), "400 200");
}
