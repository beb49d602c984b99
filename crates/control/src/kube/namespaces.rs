//! Which namespaces of the cluster belong to the mesh: `discoverySelectors` of its settings, by the namespaces' labels.
//!
//! Followers of namespaced kinds wait for the first [`Selection`], and keep nothing of other namespaces. A namespace that comes in later is listed by
//! itself. The namespaces of the control plane and of the whole mesh's policies always belong to it: who forgets to select these would otherwise open what
//! they close. Who gets a proxy is not decided here: a pod outside can be injected, as with Istio.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use mizzen_api::{
    Kind, Object,
    istio::{MeshConfig, NamespaceSelector},
};
use mizzen_types::Name;
use tokio::sync::watch;

use crate::source::Event;

/// Labels by which pods of a namespace get proxies.
const INJECTED: [&str; 2] = ["istio-injection", "istio.io/rev"];
/// Of so many namespaces that come in at a time each is listed by itself; with more, everything is listed anew.
const FEW: usize = 16;

/// The namespaces that belong to the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// These; `None`: all.
    only: Option<BTreeSet<Name>>,
}

impl Selection {
    /// Whether what stands in a namespace belongs to the mesh. What stands in none does.
    pub(crate) fn has(&self, namespace: &str) -> bool {
        namespace.is_empty() || self.only.as_ref().is_none_or(|only| only.contains(namespace))
    }

    /// What has come since an earlier one.
    fn since(&self, earlier: &Selection) -> Came {
        match (&earlier.only, &self.only) {
            (None, _) => Came::These(Vec::new()),
            (Some(_), None) => Came::Everything,
            (Some(before), Some(now)) => {
                let came: Vec<Name> = now.difference(before).cloned().collect();
                if came.len() > FEW { Came::Everything } else { Came::These(came) }
            }
        }
    }
}

/// What must be listed that was not part of the mesh before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// What these namespaces have.
    These(Vec<Name>),
    /// All there is.
    Everything,
}

/// Finds the selection out by what is told of namespaces and settings.
#[derive(Debug)]
pub(crate) struct Discovery {
    state: Mutex<State>,
    selection: watch::Sender<Option<Arc<Selection>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The control plane's own namespace.
    own: Name,
    namespaces: BTreeMap<Name, BTreeMap<String, String>>,
    /// What a list of them that is under way has named so far.
    listed: Option<BTreeSet<Name>>,
    selectors: Vec<NamespaceSelector>,
    root: Name,
    /// Whether a list of the settings that is under way has named any.
    has_settings: bool,
    /// Whether namespaces, and settings, were listed.
    known: [bool; 2],
    /// Namespaces of which it was said that their pods get proxies and that they do not belong to the mesh.
    told: BTreeSet<Name>,
}

impl Discovery {
    pub(crate) fn new(own: &str) -> Discovery {
        let root = MeshConfig::default().root_namespace.as_str().into();
        Discovery { state: Mutex::new(State { own: own.into(), root, ..State::default() }), selection: watch::channel(None).0 }
    }

    /// Who wants to know. `None` until it is known.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Selection>>> {
        self.selection.subscribe()
    }

    /// Takes what is told of namespaces, or of the settings ([`Kind::MeshConfig`]).
    pub(crate) fn hear(&self, kind: Kind, events: &[Event]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().for_each(|event| state.hear(kind, event));
        let Some(selection) = state.selection() else { return };
        state.warn(&selection);
        self.selection.send_if_modified(|known| {
            let differs = known.as_deref() != Some(&selection);
            if differs {
                *known = Some(Arc::new(selection));
            }
            differs
        });
    }
}

impl State {
    fn hear(&mut self, kind: Kind, event: &Event) {
        match event {
            Event::Init if kind == Kind::Namespace => self.listed = Some(BTreeSet::new()),
            Event::Init => self.has_settings = false,
            Event::InitDone => self.done(kind),
            Event::Apply(object) => match &**object {
                Object::Namespace(namespace) => {
                    if let Some(listed) = &mut self.listed {
                        listed.insert(namespace.meta.name.clone());
                    }
                    self.namespaces.insert(namespace.meta.name.clone(), namespace.meta.labels.clone());
                }
                Object::MeshConfig(mesh) => {
                    self.has_settings = true;
                    self.set(mesh);
                }
                _ => {}
            },
            Event::Delete(key) => match key.kind {
                Kind::Namespace => drop(self.namespaces.remove(&key.name)),
                Kind::MeshConfig => self.set(&MeshConfig::default()),
                _ => {}
            },
            _ => {}
        }
    }

    fn set(&mut self, mesh: &MeshConfig) {
        self.selectors.clone_from(&mesh.discovery_selectors);
        self.root = mesh.root_namespace.as_str().into();
    }

    fn done(&mut self, kind: Kind) {
        if kind == Kind::Namespace {
            if let Some(listed) = self.listed.take() {
                self.namespaces.retain(|name, _| listed.contains(name));
            }
            self.known[0] = true;
        } else {
            if !self.has_settings {
                self.set(&MeshConfig::default());
            }
            self.known[1] = true;
        }
    }

    /// `None` while something that it hangs on is not known, or is listed anew.
    fn selection(&self) -> Option<Selection> {
        if self.known != [true, true] || self.listed.is_some() {
            return None;
        }
        if self.selectors.is_empty() {
            return Some(Selection::default());
        }
        let selected = |labels: &BTreeMap<String, String>| self.selectors.iter().any(|selector| selector.matches(labels));
        let mut only: BTreeSet<Name> =
            self.namespaces.iter().filter(|(_, labels)| selected(labels)).map(|(name, _)| name.clone()).collect();
        only.extend([self.own.clone(), self.root.clone()]);
        Some(Selection { only: Some(only) })
    }

    /// Says once of each namespace that its pods get proxies for which nothing of it is in force.
    fn warn(&mut self, selection: &Selection) {
        let outside = |name: &Name, labels: &BTreeMap<String, String>| {
            let injected = INJECTED.iter().any(|label| labels.get(*label).is_some_and(|value| value != "disabled"));
            injected && !selection.has(name)
        };
        let now: BTreeSet<Name> =
            self.namespaces.iter().filter(|(name, labels)| outside(name, labels)).map(|(name, _)| name.clone()).collect();
        for namespace in now.difference(&self.told) {
            tracing::warn!(
                namespace = &**namespace,
                "its pods get proxies, and no discoverySelector of the MeshConfig selects it: its services are not known, and none of its policies is in force"
            );
        }
        self.told = now;
    }
}

/// One follower's view of it.
#[derive(Debug)]
pub(crate) struct Within {
    known: watch::Receiver<Option<Arc<Selection>>>,
    current: Arc<Selection>,
}

impl Within {
    /// Waits for the first selection.
    pub(crate) async fn first(mut known: watch::Receiver<Option<Arc<Selection>>>) -> Within {
        let current = match known.wait_for(Option::is_some).await {
            Ok(found) => found.clone().unwrap_or_default(),
            // Nobody finds one out any more: the control plane ends.
            Err(_) => Arc::default(),
        };
        known.mark_unchanged();
        Within { known, current }
    }

    /// Of a kind that stands in no namespace.
    pub(crate) fn everywhere() -> Within {
        Within { known: watch::channel(None).1, current: Arc::default() }
    }

    /// Whether what stands in a namespace belongs to the mesh.
    pub(crate) fn has(&self, namespace: &str) -> bool {
        self.current.has(namespace)
    }

    /// Waits for another selection; returns what came with it. What left does not [`Within::has`] it any more.
    pub(crate) async fn changed(&mut self) -> Came {
        loop {
            if self.known.changed().await.is_err() {
                // Nobody changes it any more.
                std::future::pending::<()>().await;
            }
            let Some(next) = self.known.borrow_and_update().clone() else { continue };
            let came = next.since(&self.current);
            self.current = next;
            return came;
        }
    }
}

#[cfg(test)]
mod tests {
    use mizzen_api::{Key, core::Namespace, parse_mesh_config};

    use super::*;

    fn namespace(name: &str, label: &str) -> Event {
        let mut metadata = serde_json::json!({"name": name});
        if let Some((key, value)) = label.split_once('=') {
            metadata["labels"] = serde_json::json!({key: value});
        }
        Event::Apply(Arc::new(Namespace::from_cluster(serde_json::from_value(metadata).unwrap()).into()))
    }

    fn settings(text: &str) -> Event {
        let (mesh, warnings) = parse_mesh_config(text, &"mesh".into()).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        Event::Apply(Arc::new(mesh.into()))
    }

    fn shown(selection: &Option<Arc<Selection>>) -> String {
        match selection.as_deref() {
            None => "unknown".to_owned(),
            Some(Selection { only: None }) => "all".to_owned(),
            Some(Selection { only: Some(only) }) => only.iter().map(|name| &**name).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn namespaces_come_and_go() {
        let discovery = Discovery::new("istio-system");
        let known = discovery.subscribe();
        let check_of = |kind: Kind, events: &[Event], expected: &str| {
            discovery.hear(kind, events);
            assert_eq!(shown(&known.borrow()), expected);
        };
        let check = |events: &[Event], expected: &str| {
            let of_mesh = events.iter().any(|event| matches!(event, Event::Apply(object) if object.kind() == Kind::MeshConfig));
            check_of(if of_mesh { Kind::MeshConfig } else { Kind::Namespace }, events, expected);
        };
        check(&[Event::Init, namespace("shop", "mesh=yes"), namespace("bank", "mesh=no"), namespace("istio-system", "")], "unknown");
        check(&[Event::InitDone], "unknown");
        let only = "discoverySelectors: [{matchLabels: {mesh: 'yes'}}, {matchExpressions: [{key: team, operator: In, values: [a]}]}]";
        check(&[Event::Init, settings(only)], "unknown");
        check_of(Kind::MeshConfig, &[Event::InitDone], "istio-system shop");
        check(&[namespace("lab", "team=a")], "istio-system lab shop");
        check(&[namespace("shop", "mesh=no")], "istio-system lab");
        check(&[Event::Delete(Key::new(Kind::Namespace, "", "lab"))], "istio-system");
        check(&[settings("rootNamespace: policies\ndiscoverySelectors: [{matchLabels: {a: b}}]")], "istio-system policies");
        check(&[settings("discoverySelectors: [{}]")], "bank istio-system shop");
        check(&[settings("{}")], "all");
        // What a list does not name is gone, and nothing is decided in the middle of it.
        check(&[settings(only)], "istio-system");
        check(&[namespace("shop", "mesh=yes")], "istio-system shop");
        check(&[Event::Init, namespace("lab", "team=a")], "istio-system shop");
        check(&[Event::InitDone], "istio-system lab");
        // Settings that are gone select nothing.
        check_of(Kind::MeshConfig, &[Event::Init, Event::InitDone], "all");
    }

    #[test]
    fn what_must_be_listed() {
        let of = |names: &[&str]| Selection { only: Some(names.iter().map(|name| Name::from(*name)).collect()) };
        let these = |names: &[&str]| Came::These(names.iter().map(|name| Name::from(*name)).collect());
        let many: Vec<String> = (0..=FEW).map(|number| format!("n{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (before, now, expected) in [
            (of(&["a"]), of(&["a", "b"]), these(&["b"])),
            (of(&["a", "b"]), of(&["b"]), these(&[])),
            (Selection::default(), of(&["b"]), these(&[])),
            (of(&["b"]), Selection::default(), Came::Everything),
            (of(&[]), of(&many), Came::Everything),
        ] {
            assert_eq!(now.since(&before), expected, "{before:?} {now:?}");
        }
    }

    #[tokio::test]
    async fn followers_wait_and_see_changes() {
        let discovery = Discovery::new("istio-system");
        let early = tokio::spawn(Within::first(discovery.subscribe()));
        discovery.hear(Kind::Namespace, &[namespace("shop", "mesh=yes"), namespace("bank", ""), Event::InitDone]);
        tokio::task::yield_now().await;
        assert!(!early.is_finished());
        let only = settings("discoverySelectors: [{matchLabels: {mesh: 'yes'}}]");
        discovery.hear(Kind::MeshConfig, &[Event::Init, only, Event::InitDone]);
        let mut within = early.await.unwrap();
        assert_eq!([within.has("shop"), within.has("bank"), within.has("istio-system"), within.has("")], [true, false, true, true]);
        discovery.hear(Kind::Namespace, &[namespace("bank", "mesh=yes")]);
        assert_eq!(within.changed().await, Came::These(vec!["bank".into()]));
        assert!(within.has("bank"));
    }
}
