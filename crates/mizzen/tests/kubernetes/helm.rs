//! The charts on two real nodes, with the bookshop in the mesh that they make: installed, changed and removed by Helm while requests go on.

use std::{
    path::Path,
    process::{Child, Stdio},
};

use mizzen_testkit::{Output, eventually, kube::Cluster};

use super::{CaptureBy, World, cni::network, containers, versions};

const GATEWAY: &str = "istio-ingressgateway";
/// What the gateway has in each of its versions. Nobody gives a cluster of this machine a balancer, for which Helm would wait.
const PORT: &str = "service.type=NodePort";
const ACCOUNT: &str = "serviceAccount.name=istio-ingressgateway-service-account";

/// Runs Helm on node 1. What it keeps beside the cluster is the cluster's.
fn helm(cluster: &Cluster, words: &[&str]) -> Output {
    let home = cluster.dir().join("helm").display().to_string();
    let homes = ["CACHE", "CONFIG", "DATA"].map(|name| format!("HELM_{name}_HOME={home}"));
    let env: Vec<&str> = ["env"].into_iter().chain(homes.iter().map(String::as_str)).collect();
    cluster.run(&[&env[..], &["helm"], words, &["-n", "istio-system"]].concat(), "")
}

/// Installs or upgrades a release, and waits until it is ready.
fn release(cluster: &Cluster, name: &str, chart: &str, settings: &[&str]) {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts").join(chart);
    let chart = chart.to_str().expect("a path");
    let words = ["upgrade", "--install", "--create-namespace", name, chart, "--wait", "--timeout", "300s"];
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    helm(cluster, &words.into_iter().chain(settings).collect::<Vec<_>>()).ok();
}

/// Requests through the gateway, one after another, until somebody wants to know how they were answered.
struct Load {
    running: Child,
    stop: std::path::PathBuf,
}

impl Load {
    fn start(world: &World) -> Load {
        let stop = world.cluster.dir().join("load.stop");
        let load = "until [ -e \"$1\" ]; do curl -s -m 20 -o /dev/null -w '%{http_code}\\n' http://$0/api/books; done | sort | uniq -c";
        let mut load = world.cluster.command(&["bash", "-c", load, &world.gateway, stop.to_str().expect("a path")]);
        Load { running: load.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a load"), stop }
    }

    /// All of them, which were answered well.
    fn end(self) {
        std::fs::write(&self.stop, "").expect("a file");
        let told = self.running.wait_with_output().expect("its end");
        let told = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        let (count, status) = told.split_once(' ').unwrap_or_default();
        assert!(status == "200" && count.parse::<usize>().is_ok_and(|count| count > 50), "{told}");
    }
}

/// In a cluster without a mesh, whose nodes are as `before`. It ends.
pub(crate) fn charts(cluster: Cluster, before: &[String; 2]) {
    release(&cluster, "base", "base", &[]);
    release(&cluster, "istiod", "istiod", &["pilot.cni.enabled=true"]);
    release(&cluster, "istio-cni", "cni", &[]);
    release(&cluster, GATEWAY, "gateway", &[PORT, ACCOUNT]);
    let world = World::with_gateway(cluster, CaptureBy::Node, false);
    world.open_the_shop();
    let looks = containers(&world, "shop");
    assert!(looks.contains("istio-validation") && !looks.contains("istio-init"), "{looks}");
    let verified = world.mizzen(&["verify-install"]);
    assert!(verified.code == 0 && verified.out.contains("of releases base, istio-cni, istio-ingressgateway, istiod"), "{verified:?}");

    let load = Load::start(&world);
    upgraded(&world);
    // What runs goes on without a control plane, and without what has captured it.
    for release in ["istio-cni", "istiod", "base"] {
        helm(&world.cluster, &["uninstall", release, "--wait", "--timeout", "240s"]).ok();
    }
    eventually("the nodes are as they were", || match [network(&world.cluster, 1), network(&world.cluster, 2)] {
        now if now == *before => Ok(()),
        now => Err(now.concat()),
    });
    eventually("no pod of the control plane", || {
        match world.kubectl(&["get", "pods", "-n", "istio-system", "-l", "app=istiod", "-o", "name"]) {
            none if none.is_empty() => Ok(()),
            left => Err(left),
        }
    });
    versions(&world.get("/api/books", &[]).1);
    load.end();

    helm(&world.cluster, &["uninstall", GATEWAY, "--wait", "--timeout", "240s"]).ok();
    let kinds = "mutatingwebhookconfiguration,validatingwebhookconfiguration,clusterrole,clusterrolebinding";
    let left = world.kubectl(&["get", kinds, "-o", "name"]);
    assert!(!left.lines().any(|line| line.contains("istio")), "{left}");
    let kinds = "all,role,rolebinding,networkpolicy,poddisruptionbudget";
    eventually("nothing is left", || match world.kubectl(&["get", kinds, "-n", "istio-system", "-o", "name"]) {
        none if none.is_empty() => Ok(()),
        left => Err(left),
    });
    // Kinds and the objects of them stay, as Istio's do.
    assert!(world.kubectl(&["get", "virtualservices", "-n", "shop", "-o", "name"]).contains("storefront"));
    // And pods start as before there was a mesh.
    world.kubectl(&["rollout", "restart", "-n", "shop", "deployment/ratings"]);
    world.kubectl(&["rollout", "status", "-n", "shop", "deployment/ratings", "--timeout=180s"]);
    world.cluster.down().expect("it ends");
}

/// All of it gets other values, and other pods.
fn upgraded(world: &World) {
    let cluster = &world.cluster;
    release(cluster, "base", "base", &[]);
    let settings = ["pilot.cni.enabled=true", "pilot.replicaCount=2", "meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY"];
    release(cluster, "istiod", "istiod", &settings);
    release(cluster, "istio-cni", "cni", &["cni.excludeNamespaces={kube-system,elsewhere}"]);
    release(cluster, GATEWAY, "gateway", &[PORT, ACCOUNT, "replicaCount=2", "podAnnotations.example\\.com/changed=yes"]);
    let pods = ["get", "pods", "-n", "istio-system", "-l", "app=istio-ingressgateway", "-o"];
    let changed = r"jsonpath={.items[*].metadata.annotations.example\.com/changed}";
    eventually("the gateway's earlier pods are gone", || {
        let all = world.kubectl(&[&pods[..], &["name"]].concat());
        if all.lines().count() == 2 { Ok(()) } else { Err(all) }
    });
    assert_eq!(world.kubectl(&[&pods[..], &[changed]].concat()), "yes yes");
    let of = |what: &str, path: &str| world.kubectl(&["get", what, "-n", "istio-system", "-o", &format!("jsonpath={{{path}}}")]);
    assert_eq!(of("deployment/istiod", ".status.readyReplicas"), "2");
    assert!(of("configmap/istio", ".data.mesh").contains("REGISTRY_ONLY"));
    eventually("the plugin's later settings", || match [network(cluster, 1), network(cluster, 2)] {
        both if both.iter().all(|network| network.contains("\"elsewhere\"")) => Ok(()),
        both => Err(both.concat()),
    });
    // A proxy that starts now works by what there is now, on whichever node.
    world.kubectl(&["rollout", "restart", "-n", "shop", "deployment/catalogue"]);
    world.kubectl(&["rollout", "status", "-n", "shop", "deployment/catalogue", "--timeout=180s"]);
    versions(&world.until("the shop with a new pod", "/api/books", &[], "200"));
}
