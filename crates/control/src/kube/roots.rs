//! The root certificate in every namespace of the mesh, where sidecars find it: ConfigMap `istio-ca-root-cert`, key `root-cert.pem`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1 as k8s;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use mizzen_api::core::SYSTEM_NAMESPACES;
use tokio::sync::watch;

use super::{
    namespaces::{Selection, Within},
    watch::{Told, words},
};
use crate::{
    ca::Authority,
    names::{ROOT, ROOT_KEY},
};

/// After how long a write that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps the root in every namespace of the mesh, whatever becomes of the config maps, for as long as it is polled. Where one leaves the mesh it stays:
/// pods that are there may mount it.
pub(crate) async fn keep(client: Client, selection: watch::Receiver<Option<Arc<Selection>>>, mut ca: Authority) {
    let (mut namespaces_told, mut maps_told) = (Told::new("namespaces".to_owned()), Told::new("configmaps".to_owned()));
    let namespaces = watcher(Api::<PartialObjectMeta<k8s::Namespace>>::all(client.clone()), watcher::Config::default()).default_backoff();
    let named = watcher::Config::default().fields(&format!("metadata.name={ROOT}"));
    let maps = watcher(Api::<k8s::ConfigMap>::all(client.clone()), named).default_backoff();
    pin_mut!(namespaces, maps);
    let mut places = Places::default();
    let mut within = Within::first(selection).await;
    let mut root = ca.borrow_and_update().roots().to_pem();
    loop {
        tokio::select! {
            biased;
            _ = within.changed() => {}
            Ok(()) = ca.changed() => {
                let now = ca.borrow_and_update().roots().to_pem();
                if std::mem::replace(&mut root, now.clone()) != now {
                    places.right.clear();
                }
            }
            Some(event) = namespaces.next() => match event {
                Ok(watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace)) => places.namespace(&namespace),
                Ok(watcher::Event::Delete(namespace)) => drop(places.known.remove(&namespace.metadata.name.unwrap_or_default())),
                Ok(watcher::Event::InitDone) => drop(namespaces_told.well()),
                Ok(watcher::Event::Init) => places.known.clear(),
                Err(error) => drop(namespaces_told.failed(&error)),
            },
            Some(event) = maps.next() => match event {
                Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                    let is_right = map.data.as_ref().and_then(|data| data.get(ROOT_KEY)) == Some(&root);
                    places.map(map.metadata.namespace.unwrap_or_default(), is_right);
                }
                Ok(watcher::Event::Delete(map)) => places.map(map.metadata.namespace.unwrap_or_default(), false),
                Ok(watcher::Event::InitDone) => {
                    places.looked = true;
                    maps_told.well();
                }
                Ok(watcher::Event::Init) => places.relisted(),
                Err(error) => {
                    places.looked = true;
                    maps_told.failed(&error);
                }
            },
            // One at a time: what comes meanwhile is looked at first.
            () = std::future::ready(()), if places.due(&within).is_some() => {
                let Some(namespace) = places.due(&within).cloned() else { continue };
                match write(&client, &namespace, &root).await {
                    Ok(()) => places.map(namespace, true),
                    // A namespace that is on its way out takes nothing any more.
                    Err(kube::Error::Api(status)) if status.code == 404 || status.message.contains("being terminated") => {
                        places.known.remove(&namespace);
                    }
                    Err(error) => {
                        tracing::warn!(namespace, reason = words(&error), "the root certificate cannot be written (ConfigMap {ROOT})");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
            else => return,
        }
    }
}

/// Where the root must be, and where it is.
#[derive(Debug, Default)]
struct Places {
    /// Namespaces in which pods of a mesh may run.
    known: BTreeSet<String>,
    /// Namespaces that have it.
    right: BTreeSet<String>,
    /// Whether these are known, or cannot be.
    looked: bool,
}

impl Places {
    fn namespace(&mut self, namespace: &PartialObjectMeta<k8s::Namespace>) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        if leaves(namespace) {
            self.known.remove(&name);
        } else if !SYSTEM_NAMESPACES.contains(&name.as_str()) {
            self.known.insert(name);
        }
    }

    fn map(&mut self, namespace: String, is_right: bool) {
        if is_right {
            self.right.insert(namespace)
        } else {
            self.right.remove(&namespace)
        };
    }

    /// What a list does not name is gone.
    fn relisted(&mut self) {
        self.right.clear();
        self.looked = false;
    }

    /// A namespace in which it is to be written.
    fn due(&self, within: &Within) -> Option<&String> {
        self.known.difference(&self.right).find(|namespace| within.has(namespace)).filter(|_| self.looked)
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
        "metadata": {"name": ROOT, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": {ROOT_KEY: root},
    });
    api.patch(ROOT, &PatchParams::apply(super::MANAGER).force(), &Patch::Apply(&map)).await?;
    tracing::debug!(namespace, "the root certificate is written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, more: serde_json::Value) -> PartialObjectMeta<k8s::Namespace> {
        let mut metadata = serde_json::json!({"name": name});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(serde_json::json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}))
            .unwrap()
    }

    #[test]
    fn where_it_is_due() {
        let mut places = Places::default();
        let within = Within::everywhere();
        let due = |places: &Places| places.due(&within).cloned().unwrap_or_default();
        for name in ["shop", "kube-system"] {
            places.namespace(&namespace(name, serde_json::json!({})));
        }
        assert_eq!(due(&places), "", "what is there is not known yet");
        places.looked = true;
        assert_eq!(due(&places), "shop");
        places.map("shop".to_owned(), true);
        assert_eq!(due(&places), "");
        places.map("shop".to_owned(), false);
        assert_eq!(due(&places), "shop");
        places.map("shop".to_owned(), true);
        // A list that does not name it any more: it went while nobody looked.
        places.relisted();
        assert_eq!(due(&places), "");
        places.looked = true;
        assert_eq!(due(&places), "shop");
        places.namespace(&namespace("shop", serde_json::json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})));
        assert_eq!(due(&places), "");
    }
}
