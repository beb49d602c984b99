//! What proxies refuse, told of the objects because of which they do: what a proxy has said no to is built again, and of the objects that are read for it
//! that one is told which says most of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mizzen_api::{Key, Kind};
use mizzen_model::{ProxyView, Reader, Snapshot};
use mizzen_translate::{ResourceKind, build, joined, parts};
use mizzen_types::Name;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::{connection::Connections, writer::Published};

/// What is refused, by the object because of which it is.
pub(crate) type Refused = BTreeMap<Key, String>;

/// After a word of a proxy's others may follow.
const QUIET: Duration = Duration::from_millis(300);
/// After a start proxies come back in this time: before that nothing is known of who refuses nothing.
pub(crate) const RETURN: Duration = Duration::from_secs(60);
/// So many resources are looked at, at most; more are refused for few reasons.
const RESOURCES: usize = 100;

/// Kinds that are told of, those first that say most of a resource. What selects and what is selected come behind.
const KINDS: [Kind; 8] = [
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::AuthorizationPolicy,
    Kind::RequestAuthentication,
    Kind::PeerAuthentication,
    Kind::Gateway,
    Kind::ServiceEntry,
    Kind::Sidecar,
];

/// Tells it until the control plane ends.
pub(crate) async fn follow(
    mut published: watch::Receiver<Option<Published>>,
    connections: Arc<Connections>,
    told: watch::Sender<Option<Arc<Refused>>>,
) {
    let (mut changed, returned) = (connections.refusals(), Instant::now() + RETURN);
    loop {
        changed.borrow_and_update();
        let snapshot = published.borrow_and_update().as_ref().map(|published| published.snapshot.clone());
        let mut any = false;
        if let Some(snapshot) = snapshot {
            let connections = connections.clone();
            match tokio::task::spawn_blocking(move || find(&snapshot, &connections)).await {
                Ok((refused, there_are)) => {
                    any = there_are;
                    if any || Instant::now() >= returned {
                        told.send_if_modified(|known| {
                            let differs = known.as_deref() != Some(&refused);
                            if differs {
                                *known = Some(Arc::new(refused));
                            }
                            differs
                        });
                    }
                }
                Err(error) => tracing::error!(%error, "what proxies refuse could not be looked at"),
            }
        }
        let late = Instant::now() < returned;
        let ended = tokio::select! {
            word = changed.changed() => word.is_err(),
            // Without a refusal nothing hangs on the configuration.
            next = published.changed(), if any => next.is_err(),
            () = sleep_until(returned), if late => false,
        };
        if ended {
            return;
        }
        sleep(QUIET).await;
    }
}

/// What is refused now, and whether anything is.
fn find(snapshot: &Snapshot, connections: &Connections) -> (Refused, bool) {
    // By what is refused and why: who does, as an example, and how many.
    let mut all: BTreeMap<(ResourceKind, Name, String), (Arc<crate::connection::Connection>, usize)> = BTreeMap::new();
    for connection in connections.all() {
        for what in connection.refused() {
            all.entry(what).or_insert_with(|| (connection.clone(), 0)).1 += 1;
        }
    }
    let mut refused: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for ((kind, name, why), (connection, count)) in all.iter().take(RESOURCES) {
        let Some(key) = because_of(snapshot, connection.view(), *kind, name, why) else { continue };
        let others = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        let line = format!("{}{others} refused {kind:?} {name}: {why}", connection.proxy()).replace('\n', " ");
        refused.entry(key).or_default().push(line);
    }
    (refused.into_iter().map(|(key, lines)| (key, lines.join("; "))).collect(), !all.is_empty())
}

/// The object because of which a resource is refused; none if its reason names no part of a resource that is joined from many objects' parts.
fn because_of(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, name: &Name, why: &str) -> Option<Key> {
    let reader = Reader::new(snapshot);
    match joined(view, kind, name) {
        None => drop(build(&reader, view, kind, name)),
        Some(whole) => {
            let host =
                |part: &Name| part.split_once('/').map_or(part.clone(), |(_, host)| host.split('!').next().unwrap_or_default().into());
            let all = parts(&Reader::new(snapshot), view, kind, name)?;
            let part = all.iter().find(|part| !host(part).is_empty() && why.contains(&*host(part)))?;
            drop(build(&reader, view, whole.part, part));
        }
    }
    let rank = |key: &Key| KINDS.iter().position(|kind| *kind == key.kind);
    reader.finish().objects().into_iter().filter_map(|key| Some((rank(&key)?, key))).min().map(|(_, key)| key)
}
