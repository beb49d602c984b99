//! The root certificate in every namespace, where sidecars find it: ConfigMap `istio-ca-root-cert`, key `root-cert.pem`.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1 as k8s;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};

use super::watch::{Told, trouble, words};

/// The name of the config map.
pub(crate) const ROOTS: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Namespaces in which nothing of a mesh runs, as Istio has them.
const PASSED_OVER: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// After how long a write that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps the root in every namespace, whatever becomes of the config maps, for as long as it is polled.
pub(crate) async fn keep(client: Client, root: String) {
    let (mut namespaces_told, mut maps_told) = (Told::new("namespaces".to_owned()), Told::new("configmaps".to_owned()));
    let namespaces = watcher(Api::<PartialObjectMeta<k8s::Namespace>>::all(client.clone()), watcher::Config::default()).default_backoff();
    let named = watcher::Config::default().fields(&format!("metadata.name={ROOTS}"));
    let maps = watcher(Api::<k8s::ConfigMap>::all(client.clone()), named).default_backoff();
    pin_mut!(namespaces, maps);
    let mut due = BTreeSet::<String>::new();
    let mut known = BTreeSet::<String>::new();
    // Namespaces that have it, and whether these are known.
    let (mut right, mut looked) = (BTreeSet::<String>::new(), false);
    loop {
        tokio::select! {
            biased;
            Some(event) = namespaces.next() => match event {
                Ok(watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace)) => {
                    let name = namespace.metadata.name.clone().unwrap_or_default();
                    if leaves(&namespace) {
                        known.remove(&name);
                        due.remove(&name);
                    } else if !PASSED_OVER.contains(&name.as_str()) && known.insert(name.clone()) {
                        due.insert(name);
                    }
                }
                Ok(watcher::Event::Delete(namespace)) => {
                    let name = namespace.metadata.name.unwrap_or_default();
                    known.remove(&name);
                    due.remove(&name);
                }
                Ok(watcher::Event::InitDone) => drop(namespaces_told.well()),
                Ok(watcher::Event::Init) => {}
                Err(error) => trouble(&error).iter().for_each(|trouble| drop(namespaces_told.trouble(trouble))),
            },
            Some(event) = maps.next() => match event {
                Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                    let is_right = map.data.as_ref().and_then(|data| data.get(KEY)) == Some(&root);
                    let name = map.metadata.namespace.unwrap_or_default();
                    if is_right {
                        right.insert(name);
                    } else {
                        right.remove(&name);
                        due.extend(known.contains(&name).then_some(name));
                    }
                }
                Ok(watcher::Event::Delete(map)) => {
                    let name = map.metadata.namespace.unwrap_or_default();
                    right.remove(&name);
                    due.extend(known.contains(&name).then_some(name));
                }
                Ok(watcher::Event::InitDone) => {
                    looked = true;
                    maps_told.well();
                }
                Ok(watcher::Event::Init) => {}
                Err(error) => {
                    looked = true;
                    trouble(&error).iter().for_each(|trouble| drop(maps_told.trouble(trouble)));
                }
            },
            // One at a time: what comes meanwhile is looked at first.
            () = std::future::ready(()), if looked && !due.is_empty() => {
                let Some(namespace) = due.pop_first().filter(|namespace| !right.contains(namespace)) else { continue };
                if let Err(error) = write(&client, &namespace, &root).await {
                    // A namespace that is on its way out takes nothing any more.
                    let ends = matches!(&error, kube::Error::Api(status) if status.code == 404 || status.message.contains("being terminated"));
                    if !ends {
                        tracing::warn!(namespace, reason = words(&error), "the root certificate cannot be written (ConfigMap {ROOTS})");
                        due.insert(namespace);
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
            else => return,
        }
    }
}

fn leaves(namespace: &PartialObjectMeta<k8s::Namespace>) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

async fn write(client: &Client, namespace: &str, root: &str) -> Result<(), kube::Error> {
    let api: Api<k8s::ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ROOTS, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": {KEY: root},
    });
    api.patch(ROOTS, &PatchParams::apply(super::MANAGER).force(), &Patch::Apply(&map)).await?;
    tracing::debug!(namespace, "the root certificate is written");
    Ok(())
}
