//! Nodes that wait for the agent of their plugin, beside a real API server.

use mizzen_testkit::eventually;

use super::{
    cluster::{api, get, role},
    harness::World,
};
use crate::{Options, Untaint, names, status::Selfz};

/// Nodes that were made with a taint, which others have, too.
const NODES: &str = "
{apiVersion: v1, kind: ServiceAccount, metadata: {name: istio-cni, namespace: istio-system}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {taints: [{key: dedicated, value: db, effect: NoSchedule}, {key: cni.istio.io/not-ready, effect: NoSchedule}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {taints: [{key: cni.istio.io/not-ready, value: 'true', effect: NoExecute}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n3}, spec: {taints: [{key: cni.istio.io/not-ready, effect: NoSchedule}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent-1, namespace: istio-system, labels: {k8s-app: istio-cni-node}}, spec: {serviceAccountName: istio-cni, nodeName: n1, containers: [{name: a, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent-2, namespace: istio-system, labels: {k8s-app: istio-cni-node}}, spec: {serviceAccountName: istio-cni, nodeName: n2, containers: [{name: a, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: other, namespace: istio-system}, spec: {serviceAccountName: istio-cni, nodeName: n3, containers: [{name: a, image: x}]}}
";

/// A control plane that takes a taint away may do what its roles say and no more; one that is not asked to takes none.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_agent_is_ready_lose_their_taint() {
    let Some(api) = api() else { return };
    api.apply(NODES);
    let most = "
- {apiGroups: [''], resources: [nodes], verbs: [list, watch]}
- {apiGroups: [''], resources: [namespaces, services, pods, serviceaccounts, configmaps, secrets, events], verbs: ['*']}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
- {apiGroups: [security.istio.io, networking.istio.io], resources: ['*'], verbs: [get, list, watch, patch]}";
    api.apply(&role("most", most));
    let file = api.dir().join("mizzen.kubeconfig");
    std::fs::write(&file, api.kubeconfig_for("mizzen", &[])).unwrap();
    let becomes_ready = |pod: &str| {
        let status = r#"{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}"#;
        api.kubectl(&["patch", "pod", pod, "-n", "istio-system", "--subresource=status", "--type=merge", "-p", status], "").ok();
    };
    let taints = |node: &str, wanted: &[&str]| {
        // The API server has a taint of its own for nodes of which nobody has said yet that they are ready.
        let found = get(&api, &["node", node], "{.spec.taints[*].key}")?;
        let mut found: Vec<&str> = found.split_whitespace().filter(|key| !key.starts_with("node.kubernetes.io/")).collect();
        found.sort_unstable();
        if found == wanted { Ok(()) } else { Err(format!("{node}: {found:?}")) }
    };
    let taint = names::NOT_READY;
    ["agent-1", "other"].into_iter().for_each(becomes_ready);

    let untaint = || Untaint { namespace: "istio-system".to_owned(), taint: taint.to_owned() };
    let with = |options: &mut Options| options.cluster.as_mut().unwrap().untaint = Some(untaint());
    let world = World::of_cluster_with(&file, with).await;
    // Without the right it is tried again and again, so that it need not be started anew.
    taints("n1", &[taint, "dedicated"]).unwrap();
    api.apply(&role(names::UNTAINT_ROLE, "[{apiGroups: [''], resources: [nodes], verbs: [get, patch]}]"));
    eventually("a node whose agent was ready before", || taints("n1", &["dedicated"]));
    taints("n2", &[taint]).unwrap();
    becomes_ready("agent-2");
    eventually("a node whose agent becomes ready", || taints("n2", &[]));
    taints("n3", &[taint]).unwrap();

    // A taint that comes again, and an agent that does.
    api.kubectl(&["taint", "node", "n2", &format!("{taint}=:NoSchedule")], "").ok();
    api.kubectl(&["delete", "pod", "agent-2", "-n", "istio-system", "--grace-period=0", "--force"], "").ok();
    api.apply(NODES.split("---").find(|object| object.contains("agent-2")).unwrap());
    becomes_ready("agent-2");
    eventually("a node with another agent", || taints("n2", &[]));
    world.running.stop().await;

    api.kubectl(&["taint", "node", "n1", &format!("{taint}=:NoSchedule")], "").ok();
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    world.until("/debug/selfz", |found: &Selfz| found.election.as_ref().is_some_and(|election| election.leads)).await;
    taints("n1", &[taint, "dedicated"]).unwrap();
    world.running.stop().await;
    // A control plane that starts looks through all nodes.
    let world = World::of_cluster_with(&file, with).await;
    eventually("a node that was looked at", || taints("n1", &["dedicated"]));
    taints("n3", &[taint]).unwrap();
    world.running.stop().await;
}
