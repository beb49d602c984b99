//! The API server and the cluster of the tests: they are real, the server comes back with what it held, and nothing of them stays.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use mizzen_testkit::{
    Signal, eventually,
    kube::{ApiOptions, ApiServer, Cluster, ClusterOptions, Programs},
};
use nix::{sys::signal::kill, unistd::Pid};

#[test]
fn an_api_server() {
    let Some(mut api) = ApiServer::start_with(ApiOptions { controllers: "*", ..ApiOptions::default() }) else { return };
    let version = api.kubectl(&["get", "--raw", "/version"], "").ok();
    assert!(version.contains("\"v1.34."), "{version}");
    api.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a, namespace: default }\ndata: { k: v }\n");
    // A controller makes it.
    eventually("the default service account", || match api.kubectl(&["get", "serviceaccount", "default"], "") {
        found if found.code == 0 => Ok(()),
        missing => Err(missing.err),
    });
    let nobody = api.dir().join("nobody.kubeconfig");
    std::fs::write(&nobody, api.kubeconfig_for("nobody", &["people"])).unwrap();
    let who = api.kubectl(&["--kubeconfig", nobody.to_str().unwrap(), "auth", "whoami"], "").ok();
    assert!(who.contains("nobody") && who.contains("people"), "{who}");
    let refused = api.kubectl(&["--kubeconfig", nobody.to_str().unwrap(), "get", "configmap", "a"], "");
    assert!(refused.code != 0 && refused.err.contains("forbidden"), "{refused:?}");
    api.outage();
    assert!(api.ended().is_some());
    assert!(api.kubectl(&["get", "configmap", "a"], "").err.contains("refused"));
    api.back();
    assert_eq!(api.kubectl(&["get", "configmap", "a", "-o", "jsonpath={.data.k}"], "").ok(), "v");
}

/// What the next test starts: an API server, until somebody kills it.
#[test]
#[ignore = "only a part of the test that kills it"]
fn to_be_killed() {
    let Some(api) = ApiServer::start() else { return };
    println!("\nready {}", api.dir().display());
    std::thread::park();
}

#[test]
fn no_server_outlives_who_started_it() {
    if Programs::for_api().is_some() {
        nothing_outlives("to_be_killed", &["/etcd", "/kube-apiserver"]);
    }
}

/// Runs a test of this file until it says that it is ready, kills it, and waits for the end of these programs of its.
fn nothing_outlives(test: &str, programs: &[&str]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ready = lines.find_map(|line| Some(line.strip_prefix("ready ")?.to_owned())).expect("it is ready");
    let started = mizzen_testkit::descendants(pid);
    for program in programs {
        let runs = started.iter().any(|seen| seen.command.split(' ').next().is_some_and(|first| first.ends_with(program)));
        assert!(runs, "{program}: {started:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the end of what it started", || {
        let left: Vec<_> = started.iter().filter(|seen| kill(Pid::from_raw(seen.pid), None::<Signal>).is_ok()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    std::fs::remove_dir_all(ready).unwrap();
}

/// Two pods that call each other by name, on different nodes.
const ECHO: &str = "
apiVersion: v1
kind: Service
metadata: { name: echo, namespace: default }
spec: { selector: { app: echo }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: echo, namespace: default }
spec:
  replicas: 2
  selector: { matchLabels: { app: echo } }
  template:
    metadata: { labels: { app: echo } }
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - { maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: { matchLabels: { app: echo } } }
      containers:
      - name: echo
        image: mizzen.test/echo:1
        imagePullPolicy: Never
        readinessProbe: { httpGet: { path: /ready, port: 8080 }, periodSeconds: 1 }
";

#[test]
fn a_cluster() {
    let Some(cluster) = Cluster::start(&ClusterOptions { nodes: 2, ..ClusterOptions::default() }) else { return };
    cluster.apply(ECHO);
    cluster.kubectl(&["rollout", "status", "deployment/echo", "--timeout=120s"], "").ok();
    let nodes = cluster.kubectl(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[*].spec.nodeName}"], "").ok();
    let mut nodes: Vec<&str> = nodes.split(' ').collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node1", "node2"]);
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}"], "").ok();
    let ask = |words: &[&str]| cluster.exec("default", &pod, "echo", words);
    // By name, until both have answered: one is the pod itself.
    let mut answered = std::collections::BTreeSet::new();
    eventually("answers of both pods", || {
        let output = ask(&["echo", "get", "http://echo.default.svc.cluster.local/a"]);
        answered.extend(output.out.split_whitespace().find(|word| word.starts_with("pod=")).map(str::to_owned));
        if answered.len() == 2 { Ok(()) } else { Err(format!("{output:?}")) }
    });
    a_node_that_starts_again(&cluster);
    let groups = std::fs::read_to_string(cluster.dir().join("cgroups")).unwrap();
    cluster.down().unwrap();
    for group in groups.lines() {
        assert!(!std::path::Path::new(group).exists(), "{group} is left");
    }
}

/// Its pod is the same one, in a new network; that of the other node has seen nothing.
fn a_node_that_starts_again(cluster: &Cluster) {
    let pods = |node: &str, path: &str| {
        let (node, path) = (format!("spec.nodeName={node}"), format!("jsonpath={{.items[*]{path}}}"));
        cluster.kubectl(&["get", "pods", "-l", "app=echo", "--field-selector", &node, "-o", &path], "").ok()
    };
    let (name, started) = (".metadata.name", ".status.containerStatuses[0].restartCount");
    let before = [pods("node1", name), pods("node2", name)];
    assert_eq!([pods("node1", started), pods("node2", started)], ["0", "0"]);
    assert!(cluster.reboot(1).is_err() && cluster.reboot(3).is_err());
    cluster.reboot(2).unwrap();
    eventually("its pod starts again", || match pods("node2", started) {
        count if count == "0" => Err("not yet".to_owned()),
        count => Ok(count),
    });
    cluster.kubectl(&["wait", "pods", "-l", "app=echo", "--for=condition=Ready", "--timeout=120s"], "").ok();
    assert_eq!([pods("node1", name), pods("node2", name)], before);
    assert_eq!(pods("node1", started), "0");
    let address = pods("node2", ".status.podIP");
    let asked = cluster.exec("default", &before[0], "echo", &["echo", "get", &format!("http://{address}:8080/a")]).ok();
    assert!(asked.contains(&format!("pod={}", before[1])), "{asked}");
}

/// What the next test starts.
#[test]
#[ignore = "only a part of the test that kills it"]
fn cluster_to_be_killed() {
    let Some(cluster) = Cluster::start(&ClusterOptions::default()) else { return };
    println!("\nready {}", cluster.dir().display());
    std::thread::park();
}

#[test]
fn no_cluster_outlives_who_started_it() {
    if Programs::for_cluster().is_some() {
        nothing_outlives("cluster_to_be_killed", &["containerd", "/kubelet", "/kube-proxy", "/etcd", "/kube-apiserver"]);
    }
}
