//! Which of the resources that decide a call the running proxies hold.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_control::status::{SyncState, Syncz};
use mizzen_explain::{Explanation, ResourceType};
use serde_json::Value;

use super::super::{
    place::Place,
    proxy_config::{resources, text},
};

/// Marks the resources of each proxy that answers; says what could not be found out, and which proxies have not taken the newest configuration.
pub(super) async fn mark(mesh: &Place, explanation: &mut Explanation) -> Vec<String> {
    let mut notes = Vec::new();
    let mut held = BTreeMap::new();
    let proxies = explanation.proxies();
    let pods = match mesh.workloads().await {
        Ok(pods) => pods,
        Err(error) => return vec![format!("what proxies hold is not known: {error:#}")],
    };
    for proxy in proxies {
        let Some((namespace, name)) = proxy.split_once('/') else { continue };
        let Some(pod) = pods.iter().find(|pod| pod.name() == format!("{name}.{namespace}")) else { continue };
        let answers = (pod.admin("/config_dump").await, pod.admin("/clusters?format=json").await);
        match answers {
            (Ok(dump), Ok(clusters)) => drop(held.insert(proxy, Held::of(&dump, &clusters))),
            (Err(error), _) | (_, Err(error)) => notes.push(format!("what {} holds is not known: {error:#}", pod.name())),
        }
    }
    explanation.mark(|proxy, kind, name| held.get(proxy).map(|held| held.has(kind, name)));
    notes.extend(late(mesh, held.keys().map(String::as_str)).await);
    notes
}

/// Of which proxies it is not known that they run what is explained here.
pub(crate) async fn late<'a>(mesh: &Place, proxies: impl Iterator<Item = &'a str>) -> Vec<String> {
    let answer = mesh.debug("/debug/syncz").await.and_then(|value| Ok(serde_json::from_value::<Syncz>(value)?));
    let status = match answer {
        Ok(status) => status,
        Err(error) => return vec![format!("which proxies have the newest configuration is not known: {error:#}")],
    };
    let mut notes = Vec::new();
    for proxy in proxies {
        let Some((namespace, name)) = proxy.split_once('/') else { continue };
        match status.proxies.iter().find(|known| known.proxy == format!("{name}.{namespace}")) {
            None => notes.push(format!("{name}.{namespace} is not connected to the control plane: it runs what it had")),
            Some(known) => {
                let rejects = known.types.iter().filter(|kind| kind.state == SyncState::Error).filter_map(|kind| kind.error.as_ref());
                notes.extend(rejects.map(|error| format!("{name}.{namespace} rejects a part of its configuration: {error}")));
                if known.snapshot < status.snapshot {
                    notes.push(format!("{name}.{namespace} has not taken the newest configuration yet"));
                }
            }
        }
    }
    notes
}

/// The names of what a proxy holds.
#[derive(Debug, Default)]
struct Held(BTreeSet<(u8, String)>);

/// The kinds as numbers, since they are compared only here.
fn number(kind: ResourceType) -> u8 {
    match kind {
        ResourceType::Listener => 0,
        ResourceType::VirtualHost => 1,
        ResourceType::Cluster => 2,
        ResourceType::Endpoints => 3,
    }
}

impl Held {
    fn of(dump: &Value, clusters: &Value) -> Held {
        let mut held = BTreeSet::new();
        let mut put = |kind, name: String| {
            held.insert((number(kind), name));
        };
        let listeners = resources(dump, "ListenersConfigDump", &["dynamic_listeners"], &["active_state", "listener"]);
        listeners.iter().for_each(|listener| put(ResourceType::Listener, text(&listener["name"])));
        let found = resources(dump, "ClustersConfigDump", &["dynamic_active_clusters"], &["cluster"]);
        found.iter().for_each(|cluster| put(ResourceType::Cluster, text(&cluster["name"])));
        for routes in resources(dump, "RoutesConfigDump", &["dynamic_route_configs"], &["route_config"]) {
            for host in routes["virtual_hosts"].as_array().into_iter().flatten() {
                put(ResourceType::VirtualHost, format!("{}/{}", text(&routes["name"]), text(&host["name"])));
            }
        }
        let with_hosts = clusters["cluster_statuses"].as_array().into_iter().flatten();
        with_hosts.filter(|one| one["host_statuses"].is_array()).for_each(|one| put(ResourceType::Endpoints, text(&one["name"])));
        Held(held)
    }

    fn has(&self, kind: ResourceType, name: &str) -> bool {
        self.0.contains(&(number(kind), name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_in_dumps() {
        let section = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
        let dump = json!({"configs": [
            {"@type": section("ListenersConfigDump"), "dynamic_listeners": [{"active_state": {"listener": {"name": "virtualInbound"}}}]},
            {"@type": section("ClustersConfigDump"), "dynamic_active_clusters": [{"cluster": {"name": "outbound|80||a"}}]},
            {"@type": section("RoutesConfigDump"), "dynamic_route_configs": [{"route_config": {"name": "80", "virtual_hosts": [{"name": "a:80"}]}}]},
        ]});
        let clusters = json!({"cluster_statuses": [{"name": "outbound|80||a", "host_statuses": []}, {"name": "xds"}]});
        let held = Held::of(&dump, &clusters);
        for (kind, name, expected) in [
            (ResourceType::Listener, "virtualInbound", true),
            (ResourceType::Listener, "0.0.0.0_80", false),
            (ResourceType::Cluster, "outbound|80||a", true),
            (ResourceType::VirtualHost, "80/a:80", true),
            (ResourceType::VirtualHost, "80/b:80", false),
            (ResourceType::Endpoints, "outbound|80||a", true),
            (ResourceType::Endpoints, "xds", false),
        ] {
            assert_eq!(held.has(kind, name), expected, "{kind:?} {name}");
        }
    }
}
