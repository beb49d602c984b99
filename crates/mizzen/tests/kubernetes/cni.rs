//! Pods whose capture their node sets: in a namespace that allows no pod a capability, while the node's agent is killed and replaced, before it is there,
//! after it, and when the node itself starts again.

use std::{collections::BTreeSet, path::Path, process::Stdio};

use mizzen_capture::has_ipv6;
use mizzen_testkit::{
    PATIENCE, eventually,
    kube::{Cluster, ClusterOptions, Programs, image},
    within,
};
use serde_json::json;

use super::{MIZZEN, ONE_AT_A_TIME, helm};

/// How many pods start while the agents are killed and replaced.
const MANY: usize = 30;
/// How many pods there are when a node starts again.
const FEWER: usize = 6;
/// Names that the mesh alone knows; two of them are of the same port, and are told apart by the addresses that they are given.
const NAMES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: books, namespace: shop}
spec: {hosts: [books.example], addresses: [10.97.0.9], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: NONE}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: one, namespace: shop}
spec:
  hosts: [one.example]
  location: MESH_INTERNAL
  ports: [{number: 8080, name: tcp, protocol: TCP}]
  resolution: STATIC
  workloadSelector: {labels: {app: web}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other, namespace: shop}
spec:
  hosts: [other.example]
  location: MESH_INTERNAL
  ports: [{number: 8080, name: tcp, protocol: TCP}]
  resolution: STATIC
  workloadSelector: {labels: {app: early}}
";

/// The command that installs the control plane for pods that leave their capture to the node.
const INSTALL: [&str; 8] =
    ["install", "-y", "--set", "profile=minimal", "--set", "values.pilot.cni.enabled=true", "--set", "values.pilot.taint.enabled=true"];
/// The taint of a node that waits for its agent.
const TAINT: &str = "cni.istio.io/not-ready";
/// Where kubelet tells of the container that looks.
const LOOKS: &str = ".status.initContainerStatuses[?(@.name==\"istio-validation\")]";

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
        let addresses = self.pods("shop", name, ".status.podIPs[*].ip");
        for address in addresses.iter().flat_map(|both| both.split(' ')) {
            let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            let plain = eventually("a proxy closes it", || {
                match self.0.run(&["curl", "-g", "-sS", "-m", "10", &format!("http://{address}:8080/")], "") {
                    plain if matches!(plain.code, 7 | 28) => Err(format!("{plain:?}")),
                    plain => Ok(plain),
                }
            });
            assert!(matches!(plain.code, 52 | 55 | 56) && plain.out.is_empty(), "{name} {address}: {plain:?}");
        }
        addresses.len()
    }

    /// Installs with these settings beside [`INSTALL`].
    fn install(&self, settings: &[&str]) -> String {
        let more = settings.iter().flat_map(|setting| ["--set", *setting]);
        self.mizzen(&INSTALL.into_iter().chain(more).collect::<Vec<_>>())
    }

    fn network(&self, node: usize) -> String {
        network(&self.0, node)
    }

    /// Waits until the one pod of a deployment has looked in vain and its program waits. Its UID.
    fn in_vain(&self, name: &str) -> Vec<String> {
        let uid = eventually("a pod that looks in vain", || {
            let codes = ["state", "lastState"].map(|state| format!("{LOOKS}.{state}.terminated.exitCode"));
            let found = codes.map(|path| self.pods("shop", name, &path).concat());
            if found.contains(&"126".to_owned()) { Ok(self.pods("shop", name, ".metadata.uid")) } else { Err(format!("{found:?}")) }
        });
        assert_eq!(self.pods("shop", name, ".status.containerStatuses[0].started"), ["false"], "its program waits");
        uid
    }

    fn agents_are_there(&self) {
        self.kubectl(&["rollout", "status", "-n", "istio-system", "daemonset/istio-cni-node", "--timeout=240s"]);
    }

    /// What the agents have said.
    fn agents_log(&self) -> String {
        self.kubectl(&["logs", "-n", "istio-system", "-l", "k8s-app=istio-cni-node", "--tail=-1", "--prefix"])
    }
}

/// What a node's runtime finds: the configurations of networks with their texts, and the names of programs.
pub(crate) fn network(cluster: &Cluster, node: usize) -> String {
    let look = "cd /etc/cni/net.d && for file in $(ls -A); do echo \"$file:\"; cat \"$file\"; done; ls -A /opt/cni/bin";
    let output = cluster.on(node, &["sh", "-c", look]).output().expect("a node");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn start(folder: &Path) -> Option<World> {
    Programs::for_cluster()?;
    Programs::for_helm()?;
    let program = image::without_debug(Path::new(MIZZEN), folder).expect("a copy");
    let written = image::mesh(&image::Source::MultiCall(&program), None, "mizzen", env!("CARGO_PKG_VERSION"), folder).expect("images");
    let images = written.into_iter().map(|written| written.archive).collect();
    Cluster::start(&ClusterOptions { nodes: 2, images, dual_stack: has_ipv6() }).map(World)
}

#[test]
fn pods_are_captured_by_their_node() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a folder");
    let Some(world) = start(folder.path()) else { return };
    one_plugin(&world);
    let before = [world.network(1), world.network(2)];
    a_pod_that_was_there_before(&world);
    calls(&world);
    names(&world);
    clients_are_seen(&world);
    agents_that_are_killed_and_replaced(&world);
    what_others_change(&world);
    a_node_that_starts_again(&world);
    other_ways_to_mend(&world);
    world.mizzen(&["verify-install"]);
    let removed = world.mizzen(&["uninstall", "--purge", "-y"]);
    assert!(removed.contains("DaemonSet istio-system/istio-cni-node is removed"), "{removed}");
    assert_eq!([world.network(1), world.network(2)], before, "the nodes are as they were");
    // Pods start as they did.
    world.0.apply(&deployment("after", "default", 2, "serve"));
    world.rolled_out("default", "after");
    world.kubectl(&["delete", "namespace", "shop", "--timeout=240s"]);
    helm::charts(world.0, &before);
}

/// The first node has its network in a file of the older kind, with one plugin and no list.
fn one_plugin(world: &World) {
    let list = world.0.run(&["cat", "/etc/cni/net.d/10-kubernetes.conflist"], "").ok();
    let list: serde_json::Value = serde_json::from_str(&list).expect("a list");
    let mut one = list["plugins"][0].clone();
    ["name", "cniVersion"].iter().for_each(|name| one[*name] = list[*name].clone());
    let change = "cd /etc/cni/net.d && cat >10-kubernetes.conf && rm 10-kubernetes.conflist";
    world.0.run(&["sh", "-c", change], &one.to_string()).ok();
}

/// Injection leaves the capture to a plugin that is not there yet: the pod's program does not run. The agent finds it, names it, and mends it as it is.
fn a_pod_that_was_there_before(world: &World) {
    world.install(&[]);
    // The node's proxy of Services may learn a moment later than the installer that the control plane answers.
    eventually("a namespace", || match world.0.kubectl(&["apply", "--server-side", "-f", "-"], SHOP) {
        applied if applied.code == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.0.apply(&deployment("early", "shop", 1, "serve"));
    let uid = world.in_vain("early");
    let installed = world.install(&["components.cni.enabled=true"]);
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

/// Questions for names go to the agent of the proxy where the pod's settings say so, on either node.
fn names(world: &World) {
    world.0.apply(NAMES);
    let annotation = "annotations: {proxy.istio.io/config: '{proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}}', ";
    world.0.apply(&deployment("asker", "shop", 4, "sleep").replace("annotations: {", annotation));
    world.rolled_out("shop", "asker");
    let asks = |pod: &str| world.0.exec("shop", pod, "app", &["/usr/local/bin/echo", "lookup", "books.example", "web"]);
    for pod in world.pods("shop", "asker", ".metadata.name") {
        let found = eventually("a name of the mesh", || match asks(&pod) {
            found if found.code == 0 => Ok(found.out),
            other => Err(format!("{other:?}")),
        });
        assert!(found.starts_with("books.example 10.97.0.9\nweb 10.96."), "{found}");
    }
    let asker = world.pods("shop", "asker", ".metadata.name").swap_remove(0);
    let run = |words: [&str; 2]| {
        eventually("an answer", || match world.0.exec("shop", &asker, "app", &[&["/usr/local/bin/echo"], &words[..]].concat()) {
            found if found.code == 0 => Ok(found.out),
            other => Err(format!("{other:?}")),
        })
    };
    for (host, app) in [("one.example", "web"), ("other.example", "early")] {
        let found = run(["lookup", host]);
        let addresses: Vec<&str> = found.split_whitespace().skip(1).collect();
        let of = |start: &str| addresses.iter().filter(|address| address.starts_with(start)).count();
        assert_eq!([of("240.240."), of("2001:2::")], [1, usize::from(has_ipv6())], "{found}");
        let literal = |address: &&str| if address.contains(':') { format!("[{address}]") } else { (*address).to_owned() };
        for called in addresses.iter().map(literal).chain([host.to_owned()]) {
            let answer = run(["get", &format!("http://{called}:8080/")]);
            assert!(answer.starts_with("200 ") && answer.contains(&format!("pod={app}-")), "{called}: {answer}");
        }
    }
    // Whoever asks the cluster's own server learns nothing of it.
    let client = world.pods("shop", "client", ".metadata.name").concat();
    let web = world.0.exec("shop", &client, "app", &["/usr/local/bin/echo", "lookup", "web"]);
    assert_eq!(web.code, 0, "{web:?}");
    assert!(asks(&client).code != 0, "{:?}", asks(&client));
    world.kubectl(&["delete", "deployment/asker", "-n", "shop"]);
}

/// Where a namespace admits the capability that its proxies need for it, programs see whose pod calls them, and who calls from beyond the mesh.
fn clients_are_seen(world: &World) {
    world.0.apply("{apiVersion: v1, kind: Namespace, metadata: {name: open, labels: {istio-injection: enabled}}}");
    let annotation = "annotations: {sidecar.istio.io/interceptionMode: TPROXY, ";
    world.0.apply(&deployment("seen", "open", 2, "serve").replace("annotations: {", annotation));
    world.rolled_out("open", "seen");
    let client = world.pods("shop", "client", ".status.podIP").concat();
    for _ in 0..10 {
        let answer = eventually("a call", || world.call("http://seen.open:8080/"));
        assert!(answer.contains(&format!("from={client}:")), "{answer}");
    }
    for address in world.pods("open", "seen", ".status.podIP") {
        let answer = world.0.run(&["curl", "-sSf", "-m", "10", &format!("http://{address}:8080/")], "").ok();
        assert!(answer.contains("from=") && !answer.contains("from=127.") && !answer.contains(&format!("from={address}:")), "{answer}");
    }
    world.kubectl(&["delete", "namespace", "open", "--timeout=240s"]);
}

/// Both nodes' agents are killed again and again, and replaced by others with other settings, which write the network's configuration anew, while the
/// networks of pods are made. None of the pods notices.
fn agents_that_are_killed_and_replaced(world: &World) {
    // One that does not run yet is left alone: the controller would make new ones as fast as they are deleted.
    let agents = ["delete", "pods", "-n", "istio-system", "-l", "k8s-app=istio-cni-node", "--field-selector=status.phase=Running"];
    let kill = [&agents[..], &["--grace-period=0", "--force", "--wait=false", "--ignore-not-found"]].concat();
    world.kubectl(&kill);
    world.0.apply(&deployment("many", "shop", MANY, "serve"));
    let other = ["components.cni.enabled=true", "values.cni.excludeNamespaces[0]=kube-system", "values.cni.excludeNamespaces[1]=elsewhere"];
    let words: Vec<&str> = [MIZZEN].into_iter().chain(INSTALL).chain(other.iter().flat_map(|setting| ["--set", *setting])).collect();
    let mut install = world.0.command(&words);
    let install = install.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("an installer");
    within(4 * PATIENCE, "pods have their networks", || {
        world.kubectl(&kill);
        let networks = world.pods("shop", "many", ".status.podIP").into_iter().filter(|address| !address.is_empty()).count();
        if networks == MANY { Ok(()) } else { Err(format!("{networks} of {MANY}")) }
    });
    let installed = install.wait_with_output().expect("its end");
    assert!(installed.status.success(), "{installed:?}");
    world.rolled_out("shop", "many");
    // Each was captured from the start, and not mended later.
    let restarts = world.pods("shop", "many", &format!("{LOOKS}.restartCount"));
    assert!(restarts.len() == MANY && restarts.iter().all(|count| count == "0"), "{restarts:?}");
    assert_eq!(world.closed("many"), MANY);
    let nodes: BTreeSet<String> = world.pods("shop", "many", ".spec.nodeName").into_iter().collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    eventually("a call", || world.call("http://many:8080/"));
    world.agents_are_there();
    eventually("the later settings on both nodes", || match [world.network(1), world.network(2)] {
        both if both.iter().all(|network| network.contains("\"elsewhere\"")) => Ok(()),
        both => Err(both.concat()),
    });
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
    let anew = "cd /etc/cni/net.d && cp 10-kubernetes.conf.istio-cni-original 10-kubernetes.conf";
    world.0.run(&["sh", "-c", anew], "").ok();
    eventually("the file is put away", || match world.network(1) {
        network if network.lines().any(|line| line == "10-kubernetes.conf:") => Err(network),
        network if network.contains("\"istio-cni\"") => Ok(()),
        network => Err(network),
    });
}

/// A node fails and starts again, where its network has its own configuration alone, and pods come before the agent: none of their programs runs until an
/// agent has found and mended them.
fn a_node_that_starts_again(world: &World) {
    world.kubectl(&["delete", "deployment/many", "-n", "shop"]);
    let few = deployment("few", "shop", FEWER, "serve");
    let spread = "    spec:\n      topologySpreadConstraints:\n      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, \
                  labelSelector: {matchLabels: {app: few}}}\n";
    world.0.apply(&few.replace("    spec:\n", spread));
    world.rolled_out("shop", "few");
    let of_node = |path: &str| -> Vec<String> {
        let path = format!("jsonpath={{range .items[*]}}{{{path}}}{{\"\\n\"}}{{end}}");
        let args = ["get", "pods", "-n", "shop", "-l", "app=few", "--field-selector", "spec.nodeName=node2", "-o", &path];
        world.kubectl(&args).lines().map(str::to_owned).collect()
    };
    let (uids, names) = (of_node(".metadata.uid"), of_node(".metadata.name"));
    assert!(!uids.is_empty(), "{:?}", world.pods("shop", "few", ".spec.nodeName"));
    let allow = |node: Option<&str>| {
        let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { "kubernetes.io/hostname": node } } } } }).to_string();
        world.kubectl(&["patch", "daemonset/istio-cni-node", "-n", "istio-system", "-p", &patch]);
    };
    // The agent that starts with the node may be faster than its pods: it comes later.
    allow(Some("node1"));
    let agents = ["get", "pods", "-n", "istio-system", "-l", "k8s-app=istio-cni-node", "-o", "jsonpath={.items[*].spec.nodeName}"];
    eventually("no agent is on the node", || match world.kubectl(&agents) {
        nodes if nodes == "node1" => Ok(()),
        nodes => Err(nodes),
    });
    assert!(world.network(2).contains("\"istio-cni\""), "the plugin stays: {}", world.network(2));

    world.0.reboot(2).expect("it starts again");
    // kubelet says so, or whoever misses kubelet.
    let wait = ["wait", "pods", "-n", "shop", "-l", "app=few", "--field-selector", "spec.nodeName=node2", "--timeout=180s"];
    world.kubectl(&[&wait[..], &["--for=condition=Ready=false"]].concat());
    within(2 * PATIENCE, "all pods of the node look in vain", || {
        let codes = of_node(&format!("{LOOKS}.state.terminated.exitCode}} {{{LOOKS}.lastState.terminated.exitCode"));
        if codes.len() == uids.len() && codes.iter().all(|codes| codes.contains("126")) { Ok(()) } else { Err(format!("{codes:?}")) }
    });
    assert!(of_node(".status.containerStatuses[0].started").iter().all(|started| started == "false"), "programs wait");
    assert!(!world.network(2).contains("\"istio-cni\""), "{}", world.network(2));
    // A new pod waits for the node, which waits for its agent.
    world.kubectl(&["taint", "node", "node2", &format!("{TAINT}=true:NoSchedule")]);
    world.0.apply(
        &deployment("new", "shop", 1, "serve").replace("    spec:\n", "    spec:\n      nodeSelector: {kubernetes.io/hostname: node2}\n"),
    );
    let reason = ".status.conditions[?(@.type==\"PodScheduled\")].reason";
    eventually("a pod without a node", || match world.pods("shop", "new", reason) {
        reasons if reasons == ["Unschedulable"] => Ok(()),
        reasons => Err(format!("{reasons:?}")),
    });

    allow(None);
    world.agents_are_there();
    for deployment in ["few", "web", "client", "early", "new"] {
        world.rolled_out("shop", deployment);
    }
    let taints = world.kubectl(&["get", "node", "node2", "-o", "jsonpath={.spec.taints[*].key}"]);
    assert!(!taints.contains(TAINT), "{taints}");
    assert_eq!(world.pods("shop", "new", &format!("{LOOKS}.restartCount")), ["0"], "it was captured from the start");
    assert_eq!(world.closed("new"), 1);
    assert_eq!(of_node(".metadata.uid"), uids, "they are the same pods");
    assert_eq!(world.closed("few"), FEWER);
    let log = world.agents_log();
    for name in names {
        let mended = log.lines().any(|line| line.contains(&format!("shop/{name}")) && line.contains("it is done"));
        assert!(mended, "{name}: {log}");
    }
    for (namespace, name) in [("kube-system", "coredns"), ("istio-system", "istiod")] {
        world.rolled_out(namespace, name);
    }
    eventually("a call", || world.call("http://few:8080/"));
}

/// A pod without its capture gets a label, which somebody else may act on; another agent deletes it, so that there is a new one.
fn other_ways_to_mend(world: &World) {
    let removed = world.install(&[]);
    assert!(removed.contains("DaemonSet istio-system/istio-cni-node is removed"), "{removed}");
    eventually("no plugin on either node", || match [world.network(1), world.network(2)] {
        both if both.iter().any(|network| network.contains("\"istio-cni\"")) => Err(both.concat()),
        _ => Ok(()),
    });
    world.0.apply(&deployment("late", "shop", 1, "serve"));
    let uid = world.in_vain("late");

    let ways = |way: &str| world.install(&["components.cni.enabled=true", "values.cni.repair.repairPods=false", way]);
    ways("values.cni.repair.labelPods=true");
    let label = r".metadata.labels.cni\.istio\.io/uninitialized";
    eventually("its label", || match world.pods("shop", "late", label) {
        labels if labels == ["true"] => Ok(()),
        labels => Err(format!("{labels:?}")),
    });
    assert_eq!(world.in_vain("late"), uid, "it is the same pod, and waits");

    ways("values.cni.repair.deletePods=true");
    let is_new = || {
        let uids = world.pods("shop", "late", ".metadata.uid");
        if uids.len() == 1 && uids != uid { Ok(()) } else { Err(format!("{uids:?}")) }
    };
    eventually("another pod", is_new);
    world.rolled_out("shop", "late");
    assert_eq!(world.pods("shop", "late", label), [""]);
    assert_eq!(world.pods("shop", "late", &format!("{LOOKS}.restartCount")), ["0"], "it was captured from the start");
    assert_eq!(world.closed("late"), 1);
}
