//! Pods, each with where its node is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1 as k8s;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use mizzen_api::{Key, Kind, Object, core::Pod};
use mizzen_model::{NODE_LABEL, REGION_LABEL, SUBZONE_LABEL, ZONE_LABEL};

use super::{
    key_of,
    namespaces::{Came, Within},
    watch::{Due, Sink, Told, Trouble, list_of, of_client, trouble},
};
use crate::source::Event;

/// Where a node is, by its labels.
type Place = BTreeMap<String, String>;

/// Pods and nodes; knows no network.
#[derive(Debug, Default)]
struct Placed {
    nodes: HashMap<String, Place>,
    /// As they came, each with its node.
    pods: BTreeMap<Key, (Arc<Pod>, Option<String>)>,
    on: HashMap<String, BTreeSet<Key>>,
    /// What a list that is under way has named so far.
    listed: Option<BTreeSet<Key>>,
}

impl Placed {
    /// A pod with the labels of its node that it does not have itself, and the node's name as Istio has it.
    fn placed(&self, pod: &Pod, node: Option<&str>) -> Arc<Object> {
        let mut pod = pod.clone();
        for (name, value) in node.and_then(|node| self.nodes.get(node)).into_iter().flatten() {
            pod.meta.labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if let Some(node) = node {
            pod.meta.labels.entry(NODE_LABEL.to_owned()).or_insert_with(|| node.to_owned());
        }
        Arc::new(pod.into())
    }

    fn apply(&mut self, pod: k8s::Pod) -> Event {
        let (pod, node) = Pod::from_cluster(pod);
        let key = Key::new(Kind::Pod, pod.meta.namespace.clone(), pod.meta.name.clone());
        self.forget(&key);
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        if let Some(node) = &node {
            self.on.entry(node.clone()).or_default().insert(key.clone());
        }
        let object = self.placed(&pod, node.as_deref());
        self.pods.insert(key, (Arc::new(pod), node));
        Event::Apply(object)
    }

    /// What does not stand in the mesh any more is gone.
    fn keep(&mut self, within: &Within) -> Vec<Event> {
        let all = self.pods.keys().chain(self.listed.iter().flatten());
        let gone: BTreeSet<Key> = all.filter(|key| !within.has(&key.namespace)).cloned().collect();
        gone.into_iter().map(|key| self.delete(key)).collect()
    }

    fn delete(&mut self, key: Key) -> Event {
        self.forget(&key);
        if let Some(listed) = &mut self.listed {
            listed.remove(&key);
        }
        Event::Delete(key)
    }

    fn forget(&mut self, key: &Key) {
        let Some((_, Some(node))) = self.pods.remove(key) else { return };
        if let Some(keys) = self.on.get_mut(&node) {
            keys.remove(key);
            if keys.is_empty() {
                self.on.remove(&node);
            }
        }
    }

    fn init(&mut self) -> Event {
        self.listed = Some(BTreeSet::new());
        Event::Init
    }

    fn done(&mut self) -> Event {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<Key> = self.pods.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.forget(key));
        Event::InitDone
    }

    /// A node is there, somewhere else, or gone: what runs on it is, too.
    fn node(&mut self, name: &str, place: Option<Place>) -> Vec<Event> {
        let before = match place {
            Some(place) if self.nodes.get(name) == Some(&place) => return Vec::new(),
            Some(place) => self.nodes.insert(name.to_owned(), place),
            None => self.nodes.remove(name),
        };
        if before.as_ref() == self.nodes.get(name) {
            return Vec::new();
        }
        let keys = self.on.get(name).into_iter().flatten();
        keys.filter_map(|key| self.pods.get(key)).map(|(pod, node)| Event::Apply(self.placed(pod, node.as_deref()))).collect()
    }
}

fn place(node: &PartialObjectMeta<k8s::Node>) -> Place {
    let labels = node.metadata.labels.iter().flatten();
    labels
        .filter(|(name, _)| [REGION_LABEL, ZONE_LABEL, SUBZONE_LABEL].contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Whether a pod stands in the mesh.
fn stands(pod: &k8s::Pod, within: &Within) -> bool {
    within.has(pod.metadata.namespace.as_deref().unwrap_or_default())
}

/// Follows pods and nodes for as long as somebody wants to know. Pods wait for the first list of nodes, so that none is nowhere at first.
pub(crate) async fn follow(client: Client, mut within: Within, sink: Sink) {
    let mut placed = Placed::default();
    let (mut nodes_told, mut pods_told) = (Told::new("nodes".to_owned()), Told::new("pods".to_owned()));
    let nodes = watcher(Api::<PartialObjectMeta<k8s::Node>>::all(client.clone()), watcher::Config::default()).default_backoff();
    let mut nodes = nodes.boxed();
    let api = Api::<k8s::Pod>::all(client);
    let watch = || watcher(api.clone(), watcher::Config::default()).default_backoff().boxed();
    let (mut pods, mut due) = (watch(), Due::new());
    let (mut nodes_known, mut pods_listed) = (false, false);
    loop {
        let events = tokio::select! {
            biased;
            Some(event) = nodes.next() => match event {
                Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                    placed.node(node.metadata.name.as_deref().unwrap_or_default(), Some(place(&node)))
                }
                Ok(watcher::Event::Delete(node)) => placed.node(node.metadata.name.as_deref().unwrap_or_default(), None),
                // A node that went during a relist keeps its place: nothing runs on it.
                Ok(watcher::Event::Init) => Vec::new(),
                Ok(watcher::Event::InitDone) => {
                    nodes_known = true;
                    nodes_told.well()
                }
                Err(error) => {
                    let trouble = trouble(&error);
                    nodes_known |= matches!(trouble, Some(Trouble::Forbidden(_) | Trouble::Missing));
                    trouble.iter().flat_map(|trouble| nodes_told.trouble(trouble)).collect()
                }
            },
            came = within.changed() => {
                match came {
                    Came::These(namespaces) => due.add(namespaces),
                    Came::Everything => {
                        due.clear();
                        pods = watch();
                    }
                }
                placed.keep(&within)
            }
            // As where other kinds are followed, the watch waits for it.
            namespace = due.next(), if nodes_known => match list_of(&api, &namespace).await {
                Ok(found) => {
                    due.done(&namespace);
                    let mut events = pods_told.well();
                    events.extend(found.into_iter().filter(|pod| stands(pod, &within)).map(|pod| placed.apply(pod)));
                    events
                }
                Err(error) => {
                    due.later();
                    pods_told.trouble(&of_client(&error))
                }
            },
            Some(event) = pods.next(), if nodes_known => match event {
                Ok(watcher::Event::Init) => vec![placed.init()],
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                    if stands(&pod, &within) { vec![placed.apply(pod)] } else { Vec::new() }
                }
                Ok(watcher::Event::Delete(pod)) => {
                    if stands(&pod, &within) { vec![placed.delete(key_of(Kind::Pod, &pod.metadata))] } else { Vec::new() }
                }
                Ok(watcher::Event::InitDone) => {
                    pods_listed = true;
                    let mut events = pods_told.well();
                    events.push(placed.done());
                    events
                }
                Err(error) => {
                    let trouble = trouble(&error);
                    let mut events: Vec<Event> = trouble.iter().flat_map(|trouble| pods_told.trouble(trouble)).collect();
                    if !pods_listed && matches!(trouble, Some(Trouble::Forbidden(_) | Trouble::Missing)) {
                        pods_listed = true;
                        events.extend([placed.init(), placed.done()]);
                    }
                    events
                }
            },
            else => return,
        };
        if !sink.send(events) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use mizzen_api::LabelSet;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str) -> k8s::Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"nodeName": node, "containers": []}})).unwrap()
    }

    fn zone(zone: &str) -> Option<Place> {
        Some(Place::from([(ZONE_LABEL.to_owned(), zone.to_owned())]))
    }

    fn show(events: &[Event]) -> String {
        let show = |event: &Event| match event {
            Event::Apply(object) => format!("{}@{}", object.meta().name, object.meta().labels.label(ZONE_LABEL).unwrap_or("?")),
            Event::Delete(key) => format!("-{}", key.name),
            other => format!("{other:?}"),
        };
        events.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_are_where_their_nodes_are() {
        let mut placed = Placed::default();
        let check = |events: &[Event], expected: &str| assert_eq!(show(events), expected);
        check(&placed.node("n1", zone("x")), "");
        check(&[placed.init(), placed.apply(pod("a", "n1")), placed.apply(pod("b", "n2")), placed.done()], "Init a@x b@? InitDone");
        check(&placed.node("n2", zone("y")), "b@y");
        check(&placed.node("n2", zone("y")), "");
        check(&placed.node("n1", None), "a@?");
        check(&[placed.delete(key_of(Kind::Pod, &pod("a", "n1").metadata))], "-a");
        check(&placed.node("n1", zone("z")), "");
        // A relist without it: nothing of it is left.
        check(&[placed.init(), placed.done()], "Init InitDone");
        check(&placed.node("n2", zone("z")), "");
        assert!(placed.on.is_empty() && placed.pods.is_empty());
    }
}
