//! Pods whose capture their node sets: in a namespace that allows no pod a capability, while the node's agent is killed, before it is there, and after it.

use std::{collections::BTreeSet, path::Path};

use mizzen_testkit::{
    eventually,
    kube::{Cluster, ClusterOptions, Programs, image},
};

use super::{MIZZEN, ONE_AT_A_TIME};

/// How many pods start while the agents are killed.
const MANY: usize = 12;

/// A namespace of Kubernetes' strictest level, closed for whoever is not of the mesh. What its pods say of themselves the level asks for.
const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled, pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

fn deployment(name: &str, namespace: &str, replicas: usize, command: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations: {{sidecar.istio.io/proxyCPU: 10m, sidecar.istio.io/proxyMemory: 16Mi}}
    spec:
      securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: app
        image: mizzen.test/echo:1
        imagePullPolicy: IfNotPresent
        args: [{command}]
        ports: [{{containerPort: 8080}}]
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    )
}

struct World(Cluster);

impl World {
    fn mizzen(&self, args: &[&str]) -> String {
        let output = self.0.run(&[&[MIZZEN], args].concat(), "");
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
        output.out
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.0.kubectl(args, "").ok()
    }

    /// Within the longest time for which kubelet waits before it starts a container again, and some.
    fn rolled_out(&self, namespace: &str, name: &str) {
        self.kubectl(&["rollout", "status", "-n", namespace, &format!("deployment/{name}"), "--timeout=420s"]);
    }

    /// What one field of the pods of a deployment is, one for each pod.
    fn pods(&self, namespace: &str, name: &str, path: &str) -> Vec<String> {
        let path = format!("jsonpath={{range .items[*]}}{{{path}}}{{\"\\n\"}}{{end}}");
        let found = self.kubectl(&["get", "pods", "-n", namespace, "-l", &format!("app={name}"), "-o", &path]);
        found.lines().map(str::to_owned).collect()
    }

    /// A call of the client in the mesh.
    fn call(&self, url: &str) -> Result<String, String> {
        let client = self.pods("shop", "client", ".metadata.name");
        match self.0.exec("shop", &client[0], "app", &["/usr/local/bin/echo", "get", url]) {
            found if found.code == 0 && found.out.starts_with("200 ") => Ok(found.out),
            other => Err(format!("{url}: {other:?}")),
        }
    }

    /// Nobody who is not of the mesh gets an answer of any pod of a deployment, whose proxy takes the connection and closes it: a pod that is not
    /// captured would give one.
    fn closed(&self, name: &str) -> usize {
        let addresses = self.pods("shop", name, ".status.podIP");
        for address in &addresses {
            let plain = eventually("a proxy closes it", || {
                match self.0.run(&["curl", "-sS", "-m", "10", &format!("http://{address}:8080/")], "") {
                    plain if matches!(plain.code, 7 | 28) => Err(format!("{plain:?}")),
                    plain => Ok(plain),
                }
            });
            assert!(matches!(plain.code, 52 | 55 | 56) && plain.out.is_empty(), "{name} {address}: {plain:?}");
        }
        addresses.len()
    }

    /// What a node's runtime finds: the configurations of networks with their texts, and the names of programs.
    fn network(&self, node: usize) -> String {
        let look = "cd /etc/cni/net.d && for file in $(ls -A); do echo \"$file:\"; cat \"$file\"; done; ls -A /opt/cni/bin";
        let output = self.0.on(node, &["sh", "-c", look]).output().expect("a node");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the agents have said.
    fn agents_log(&self) -> String {
        self.kubectl(&["logs", "-n", "istio-system", "-l", "k8s-app=istio-cni-node", "--tail=-1", "--prefix"])
    }
}

fn start(folder: &Path) -> Option<World> {
    Programs::for_cluster()?;
    let program = image::without_debug(Path::new(MIZZEN), folder).expect("a copy");
    let written = image::mesh(&image::Source::MultiCall(&program), None, "mizzen", env!("CARGO_PKG_VERSION"), folder).expect("images");
    let images = written.into_iter().map(|written| written.archive).collect();
    Cluster::start(&ClusterOptions { nodes: 2, images }).map(World)
}

#[test]
fn pods_are_captured_by_their_node() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let Some(world) = start(folder.path()) else { return };
    let before = [world.network(1), world.network(2)];
    a_pod_that_was_there_before(&world);
    calls(&world);
    agents_that_are_killed(&world);
    what_others_change(&world);
    world.mizzen(&["verify-install"]);
    let removed = world.mizzen(&["uninstall", "--purge", "-y"]);
    assert!(removed.contains("DaemonSet istio-system/istio-cni-node is removed"), "{removed}");
    assert_eq!([world.network(1), world.network(2)], before, "the nodes are as they were");
    // Pods start as they did.
    world.0.apply(&deployment("after", "default", 2, "serve"));
    world.rolled_out("default", "after");
    world.0.down().expect("it ends");
}

/// Injection leaves the capture to a plugin that is not there yet: the pod's program does not run. The agent finds it, names it, and mends it as it is.
fn a_pod_that_was_there_before(world: &World) {
    world.mizzen(&["install", "-y", "--set", "profile=minimal", "--set", "values.pilot.cni.enabled=true"]);
    // The node's proxy of Services may learn a moment later than the installer that the control plane answers.
    eventually("a namespace", || match world.0.kubectl(&["apply", "--server-side", "-f", "-"], SHOP) {
        applied if applied.code == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.0.apply(&deployment("early", "shop", 1, "serve"));
    let code = ".status.initContainerStatuses[?(@.name==\"istio-validation\")]";
    let uid = eventually("a pod that looks in vain", || {
        let codes = [format!("{code}.state.terminated.exitCode"), format!("{code}.lastState.terminated.exitCode")];
        let found = codes.map(|path| world.pods("shop", "early", &path).concat());
        if found.contains(&"126".to_owned()) { Ok(world.pods("shop", "early", ".metadata.uid")) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(world.pods("shop", "early", ".status.containerStatuses[0].started"), ["false"], "its program waits");
    let installed = world.mizzen(&["install", "-y", "--set", "profile=minimal", "--set", "components.cni.enabled=true"]);
    assert!(installed.contains("✔ node agent: "), "{installed}");
    world.rolled_out("shop", "early");
    assert_eq!(world.pods("shop", "early", ".metadata.uid"), uid, "it is the same pod");
    assert_eq!(world.closed("early"), 1);
    let (name, log) = (world.pods("shop", "early", ".metadata.name").concat(), world.agents_log());
    let named = log.lines().filter(|line| line.contains(&format!("shop/{name}"))).collect::<Vec<_>>();
    assert!(named.iter().any(|line| line.contains("WARN")) && named.iter().any(|line| line.contains("it is done")), "{log}");
}

/// The mesh works in a namespace in which no pod may have a capability, and no pod has one.
fn calls(world: &World) {
    world.0.apply(&deployment("web", "shop", 2, "serve"));
    world.0.apply(&deployment("client", "shop", 1, "sleep"));
    ["web", "client"].iter().for_each(|name| world.rolled_out("shop", name));
    let answer = eventually("a call", || world.call("http://web:8080/"));
    // The server's proxy has called its program.
    assert!(answer.contains("from=127.0.0.6:"), "{answer}");
    assert_eq!(world.closed("web"), 2);
    let added = "jsonpath={.items[*].spec.initContainers[*].securityContext.capabilities.add}{.items[*].spec.containers[*].securityContext.capabilities.add}";
    assert_eq!(world.kubectl(&["get", "pods", "-n", "shop", "-o", added]), "");
    let containers = world.pods("shop", "web", ".spec.initContainers[*].name");
    assert_eq!(containers, ["istio-validation istio-proxy"; 2]);
    // What is no pod of the mesh starts as ever.
    world.0.apply(&deployment("outside", "default", 1, "serve"));
    world.rolled_out("default", "outside");
    let outside = world.pods("default", "outside", ".status.podIP").concat();
    world.0.run(&["curl", "-sSf", "-m", "10", &format!("http://{outside}:8080/")], "").ok();
}

/// Both nodes' agents are killed again and again while the networks of pods are made. None of the pods notices.
fn agents_that_are_killed(world: &World) {
    let agents = ["delete", "pods", "-n", "istio-system", "-l", "k8s-app=istio-cni-node"];
    let kill = [&agents[..], &["--grace-period=0", "--force", "--wait=false", "--ignore-not-found"]].concat();
    world.kubectl(&kill);
    world.0.apply(&deployment("many", "shop", MANY, "serve"));
    eventually("pods have their networks", || {
        world.kubectl(&kill);
        let networks = world.pods("shop", "many", ".status.podIP").into_iter().filter(|address| !address.is_empty()).count();
        if networks == MANY { Ok(()) } else { Err(format!("{networks} of {MANY}")) }
    });
    world.rolled_out("shop", "many");
    // Each was captured from the start, and not mended later.
    let restarts = world.pods("shop", "many", ".status.initContainerStatuses[?(@.name==\"istio-validation\")].restartCount");
    assert!(restarts.len() == MANY && restarts.iter().all(|count| count == "0"), "{restarts:?}");
    assert_eq!(world.closed("many"), MANY);
    let nodes: BTreeSet<String> = world.pods("shop", "many", ".spec.nodeName").into_iter().collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    eventually("a call", || world.call("http://many:8080/"));
    world.kubectl(&["rollout", "status", "-n", "istio-system", "daemonset/istio-cni-node", "--timeout=180s"]);
}

/// Somebody writes the network's configuration anew: the plugin comes back.
fn what_others_change(world: &World) {
    let has = |node: usize| world.network(node).contains("\"istio-cni\"");
    assert!(has(1) && has(2), "{}", world.network(2));
    let change = "cd /etc/cni/net.d && cat \"$(ls -A | grep original)\" >10-kubernetes.conflist && rm -f /opt/cni/bin/istio-cni";
    assert!(world.0.on(2, &["sh", "-c", change]).status().expect("a node").success());
    eventually("the plugin is back", || {
        let network = world.network(2);
        if network.contains("\"istio-cni\"") && network.lines().any(|line| line == "istio-cni") { Ok(()) } else { Err(network) }
    });
}
