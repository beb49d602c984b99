//! Nodes that wait for the agent of their plugin: where that is ready a taint is taken from the node, so that pods are given to nodes that can capture them,
//! and to no others. Whoever makes nodes sets it; nothing here does.
//!
//! Followed are the agents alone, one pod for each node. A node is asked for when its agent becomes ready, and all are looked through at the start and
//! every few minutes, in pages, since a taint may come later than the agent: nodes are large, and tell of themselves all the time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1 as k8s;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::watch::{AGAIN, Told, words};
use crate::names::{CLUSTER_ROLE, UNTAINT_ROLE};

/// The label of agents, as Istio's have it.
const AGENTS: &str = "k8s-app=istio-cni-node";
/// How often all nodes are looked through.
const AROUND: Duration = Duration::from_secs(5 * 60);
/// How many nodes are asked for at a time.
const PAGE: u32 = 100;
/// How often a node is read again that somebody else has changed meanwhile.
const ATTEMPTS: usize = 5;

/// From which nodes a taint is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untaint {
    /// The namespace of the agents.
    pub namespace: String,
    /// The taint's key.
    pub taint: String,
}

/// Agents that are ready, and the nodes that are to be looked at; knows no network.
#[derive(Debug, Default)]
struct Agents {
    /// By the pod's name, its node.
    ready: BTreeMap<String, String>,
    /// In their order: one that cannot be changed keeps none of the others waiting.
    due: VecDeque<String>,
    /// Whether all nodes are to be looked through.
    around: bool,
}

impl Agents {
    fn apply(&mut self, pod: &k8s::Pod) {
        let Some(node) = ready_on(pod) else { return self.delete(pod) };
        if self.ready.insert(pod.name_any(), node.clone()).as_ref() != Some(&node) && !self.around {
            self.add(node);
        }
    }

    fn delete(&mut self, pod: &k8s::Pod) {
        self.ready.remove(&pod.name_any());
    }

    /// A list begins: all nodes are looked through when it has ended.
    fn init(&mut self) {
        self.ready.clear();
        self.around = true;
    }

    fn has(&self, node: &str) -> bool {
        self.ready.values().any(|found| found == node)
    }

    fn add(&mut self, node: String) {
        if !self.due.contains(&node) {
            self.due.push_back(node);
        }
    }

    /// The next node, if its agent is still ready.
    fn next(&mut self) -> Option<String> {
        while let Some(node) = self.due.pop_front() {
            if self.has(&node) {
                return Some(node);
            }
        }
        None
    }
}

/// The node of an agent that is ready.
fn ready_on(pod: &k8s::Pod) -> Option<String> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let is_ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let node = pod.spec.as_ref()?.node_name.clone()?;
    (is_ready && pod.metadata.deletion_timestamp.is_none()).then_some(node)
}

/// What makes of a node the same without the taint, as long as nobody else has changed it; `None`: it has none.
fn without(node: &k8s::Node, taint: &str) -> Option<Value> {
    let all = node.spec.as_ref()?.taints.as_ref()?;
    let rest: Vec<&k8s::Taint> = all.iter().filter(|found| found.key != taint).collect();
    if rest.len() == all.len() {
        return None;
    }
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    Some(json!({ "metadata": { "resourceVersion": node.metadata.resource_version }, "spec": { "taints": rest } }))
}

/// Takes the taint from nodes with an agent that is ready, for as long as it is polled.
pub(crate) async fn follow(client: Client, of: Untaint) {
    let mut told = Told::new(format!("pods of {AGENTS} in namespace {}", of.namespace));
    let labelled = watcher::Config::default().labels(AGENTS);
    let agents = watcher(Api::<k8s::Pod>::namespaced(client.clone(), &of.namespace), labelled).default_backoff();
    pin_mut!(agents);
    let nodes: Api<k8s::Node> = Api::all(client);
    let mut known = Agents::default();
    let mut listed = false;
    let mut around = interval_at(Instant::now() + AROUND, AROUND);
    around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(event) = agents.next() => match event {
                Ok(watcher::Event::Init) => {
                    known.init();
                    listed = false;
                }
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => known.apply(&pod),
                Ok(watcher::Event::Delete(pod)) => known.delete(&pod),
                Ok(watcher::Event::InitDone) => {
                    listed = true;
                    told.well();
                }
                Err(error) => drop(told.failed(&error)),
            },
            _ = around.tick() => known.around = true,
            // One at a time: what comes meanwhile is looked at first.
            () = std::future::ready(()), if listed && (known.around || !known.due.is_empty()) => {
                if let Err((what, error)) = step(&nodes, &mut known, &of.taint).await {
                    let forbidden = matches!(&error, kube::Error::Api(status) if status.code == 403);
                    let right = match forbidden {
                        true => format!(": ClusterRole {CLUSTER_ROLE} must allow list, and {UNTAINT_ROLE} get and patch of nodes"),
                        false => String::new(),
                    };
                    tracing::warn!(what, reason = words(&error), "taint {} stays for now{right}", of.taint);
                    tokio::time::sleep(AGAIN).await;
                }
            }
            else => return,
        }
    }
}

/// Looks at one node, or through all for those that have the taint and an agent that is ready. What failed is to be done again.
async fn step(nodes: &Api<k8s::Node>, known: &mut Agents, taint: &str) -> Result<(), (String, kube::Error)> {
    if known.around {
        let tainted = tainted(nodes, known, taint).await.map_err(|error| ("all nodes".to_owned(), error))?;
        known.around = false;
        tainted.into_iter().for_each(|node| known.add(node));
        return Ok(());
    }
    let Some(node) = known.next() else { return Ok(()) };
    match untaint(nodes, &node, taint).await {
        Ok(true) => tracing::info!(node, "its agent is ready: taint {taint} is taken from it"),
        Ok(false) => {}
        Err(error) => {
            known.add(node.clone());
            return Err((node, error));
        }
    }
    Ok(())
}

/// The nodes with the taint and an agent that is ready.
async fn tainted(nodes: &Api<k8s::Node>, known: &Agents, taint: &str) -> Result<Vec<String>, kube::Error> {
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = nodes.list(&params).await?;
        let tainted = page.items.iter().filter(|node| without(node, taint).is_some()).map(ResourceExt::name_any);
        found.extend(tainted.filter(|node| known.has(node)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Takes the taint from a node; whether it had one.
async fn untaint(nodes: &Api<k8s::Node>, name: &str, taint: &str) -> Result<bool, kube::Error> {
    let mut attempt = 1;
    loop {
        let Some(node) = nodes.get_opt(name).await? else { return Ok(false) };
        let Some(patch) = without(&node, taint) else { return Ok(false) };
        match nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAINT: &str = "cni.istio.io/not-ready";

    fn pod(name: &str, node: Option<&str>, ready: &str, more: Value) -> k8s::Pod {
        let mut pod = json!({
            "metadata": { "name": name }, "spec": { "nodeName": node, "containers": [] },
            "status": { "conditions": [{ "type": "PodScheduled", "status": "True" }, { "type": "Ready", "status": ready }] },
        });
        pod["metadata"].as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn agents_that_are_ready() {
        let mut known = Agents::default();
        let mut next = |change: &dyn Fn(&mut Agents)| {
            change(&mut known);
            known.next()
        };
        let ready = |name: &str, node: &str| pod(name, Some(node), "True", Value::Null);
        assert_eq!(next(&|known| known.apply(&pod("a", Some("n1"), "False", Value::Null))), None);
        assert_eq!(next(&|known| known.apply(&pod("a", None, "True", Value::Null))), None);
        assert_eq!(next(&|known| known.apply(&ready("a", "n1"))).as_deref(), Some("n1"));
        assert_eq!(next(&|known| known.apply(&ready("a", "n1"))), None, "it was ready before");
        assert_eq!(next(&|known| known.apply(&k8s::Pod::default())), None);
        // Once more, and of another one on the node.
        next(&|known| known.apply(&pod("a", Some("n1"), "False", Value::Null)));
        assert_eq!(next(&|known| known.apply(&ready("a", "n1"))).as_deref(), Some("n1"));
        next(&|known| known.delete(&ready("a", "n1")));
        assert_eq!(next(&|known| known.apply(&ready("b", "n1"))).as_deref(), Some("n1"));
        let leaves = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        assert_eq!(next(&|known| known.apply(&pod("c", Some("n3"), "True", leaves.clone()))), None);
        // It has gone before it was its turn, and comes only once.
        let gone = |known: &mut Agents| {
            ["n4", "n5"].iter().for_each(|node| known.apply(&ready(node, node)));
            known.add("n5".to_owned());
            known.delete(&ready("n4", "n4"));
        };
        assert_eq!(next(&gone).as_deref(), Some("n5"));
        assert_eq!(next(&|_| ()), None);
    }

    #[test]
    fn a_list_begins() {
        let mut known = Agents::default();
        known.apply(&pod("a", Some("n1"), "True", Value::Null));
        known.init();
        known.apply(&pod("b", Some("n2"), "True", Value::Null));
        assert!(known.around && !known.has("n1") && known.has("n2"));
        // All nodes are looked through anyway; what was due and has no agent any more is not.
        assert_eq!(known.next(), None);
    }

    #[test]
    fn a_node_without_its_taint() {
        let node = |taints: Value| -> k8s::Node {
            serde_json::from_value(json!({ "metadata": { "name": "n", "resourceVersion": "7" }, "spec": { "taints": taints } })).unwrap()
        };
        let check = |taints: Value, rest: Option<Value>| {
            let patch = without(&node(taints.clone()), TAINT);
            let wanted = rest.map(|rest| json!({ "metadata": { "resourceVersion": "7" }, "spec": { "taints": rest } }));
            assert_eq!(patch, wanted, "{taints}");
        };
        let ours = || json!({ "key": TAINT, "effect": "NoSchedule" });
        let other = || json!({ "key": "dedicated", "value": "db", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z" });
        check(json!([ours()]), Some(Value::Null));
        check(json!([other(), ours(), { "key": TAINT, "value": "true", "effect": "NoExecute" }]), Some(json!([other()])));
        check(json!([other()]), None);
        check(json!([]), None);
        check(Value::Null, None);
        assert_eq!(without(&k8s::Node::default(), TAINT), None);
    }
}
