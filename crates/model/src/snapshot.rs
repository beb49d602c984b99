//! The snapshot: the objects, with the indexes over them.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::{Key, Kind, Object, istio};
use mizzen_types::Name;

use crate::{
    changes::ChangeSet,
    derive::Derived,
    objects::{Closed, Objects, Typed, VIPS},
    query::Query,
    routes::RouteRules,
    rules::Rules,
};

/// One change of the mesh's configuration.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object appeared or changed. It lifts a [`Closed`] of the same key.
    Apply(Arc<Object>),
    /// An object is gone. It lifts a [`Closed`] of the same key.
    Delete(Key),
    /// An AuthorizationPolicy or a PeerAuthentication was refused, and there is no last good version of it: nobody may call what it selects, or only
    /// over mutual TLS.
    Close(Closed),
}

impl From<Object> for Change {
    fn from(object: Object) -> Self {
        Change::Apply(Arc::new(object))
    }
}

/// The mesh at one version. Immutable; the next one shares what did not change.
#[derive(Debug, Default)]
pub struct Snapshot {
    objects: Objects,
    derived: Arc<Derived>,
    rules: Arc<Rules>,
    changes: ChangeSet,
}

impl Snapshot {
    /// An empty mesh, version 0.
    pub fn empty() -> Arc<Snapshot> {
        Arc::default()
    }

    /// The version: higher than that of every snapshot from which this one was made.
    pub fn version(&self) -> u64 {
        self.objects.version
    }

    /// The mesh's settings; Istio's defaults if there are none.
    pub fn mesh(&self) -> &Arc<istio::MeshConfig> {
        self.objects.mesh()
    }

    /// The next snapshot. If nothing differs, it is this one.
    #[must_use]
    pub fn apply(self: &Arc<Self>, changes: impl IntoIterator<Item = Change>) -> Arc<Snapshot> {
        let mut objects = self.objects.next();
        let mut touched = Vec::new();
        let mut moved = false;
        for change in changes {
            match change {
                Change::Apply(object) => {
                    let key = object.key();
                    objects.unclose(&key, &mut touched);
                    moved |= objects.put(key, object, &mut touched);
                }
                Change::Delete(key) => {
                    objects.unclose(&key, &mut touched);
                    objects.remove(&key, &mut touched);
                }
                Change::Close(closed) => objects.close(closed, &mut touched),
            }
        }
        if touched.is_empty() && !moved {
            return self.clone();
        }
        touched.sort();
        touched.dedup();
        Arc::new(self.reindexed(objects, &touched))
    }

    /// The next snapshot, in which there is exactly this: a relist of everything.
    #[must_use]
    pub fn replace(
        self: &Arc<Self>,
        objects: impl IntoIterator<Item = Arc<Object>>,
        closed: impl IntoIterator<Item = Closed>,
    ) -> Arc<Snapshot> {
        let mut changes: Vec<Change> = objects.into_iter().map(Change::Apply).collect();
        changes.extend(closed.into_iter().map(Change::Close));
        let kept: BTreeSet<Key> = changes
            .iter()
            .map(|change| match change {
                Change::Apply(object) => object.key(),
                Change::Close(closed) => closed.key.clone(),
                Change::Delete(key) => key.clone(),
            })
            .collect();
        let gone = self.keys().chain(self.closed().map(|closed| closed.key.clone())).filter(|key| !kept.contains(key)).map(Change::Delete);
        let all: Vec<Change> = gone.chain(changes).collect();
        self.apply(all)
    }

    /// All objects' keys.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.objects.keys()
    }

    /// One object, unrecorded: for analysis and status, never for a translation.
    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.stored(key).map(|stored| &stored.value)
    }

    /// All objects of a kind, by namespace and name, unrecorded.
    pub fn objects<T: Typed + 'static>(&self) -> impl Iterator<Item = &T> {
        self.objects.of_kind(T::KIND).filter_map(|stored| T::of(&stored.value))
    }

    /// The kinds and namespaces of which any object has come, gone or changed since a version, unrecorded.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = (Kind, &Name)> {
        self.objects.changed_since(version)
    }

    /// The objects of a kind in a namespace, each with the version that last changed its content, unrecorded.
    pub fn within(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = (&Arc<Object>, u64)> {
        self.objects.in_namespace(kind, namespace).map(|stored| (&stored.value, stored.stamp))
    }

    /// The policies that could not be read.
    pub fn closed(&self) -> impl Iterator<Item = &Closed> {
        self.objects.closed()
    }

    /// The version that last changed the content of an object.
    pub fn content_version(&self, key: &Key) -> Option<u64> {
        self.objects.stored(key).map(|stored| stored.stamp)
    }

    /// The stamp of a query's answer: equal stamps, equal answers. 0 is no answer.
    pub fn stamp(&self, query: &Query) -> u64 {
        match query {
            Query::Object(_)
            | Query::Namespace(..)
            | Query::Kind(_)
            | Query::AnySidecar
            | Query::Plain(_)
            | Query::Mesh
            | Query::Closed(_) => self.objects.stamp(query),
            Query::Services
            | Query::ServicesOf(_)
            | Query::ServiceView(_)
            | Query::Service(_)
            | Query::Alias(_)
            | Query::Aliases
            | Query::Port(_)
            | Query::Endpoints(_)
            | Query::Accounts(_)
            | Query::Instances(_)
            | Query::Pod(_) => self.derived.stamp(query),
            Query::Routes(_)
            | Query::BoundTo(_)
            | Query::DestinationRules(_)
            | Query::RoutedHosts
            | Query::RoutesToWildcards
            | Query::TlsRoutes => self.rules.stamp(query),
        }
    }

    pub(crate) fn all(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn has_sidecars(&self) -> bool {
        self.objects.has(Kind::Sidecar)
    }

    pub(crate) fn derived(&self) -> &Derived {
        &self.derived
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What this snapshot changed of the one that it was made from.
    pub fn changes(&self) -> &ChangeSet {
        &self.changes
    }

    fn reindexed(&self, mut objects: Objects, touched: &[Key]) -> Snapshot {
        let any = |kinds: &[Kind]| touched.iter().any(|key| kinds.contains(&key.kind));
        if any(&[Kind::MeshConfig]) {
            objects.read_mesh();
        }
        let mut changes = ChangeSet::default();
        objects.note(&self.objects, touched, &mut changes);
        let (mut derived, mut rules) = (self.derived.clone(), self.rules.clone());
        let vips = touched.iter().any(|key| key.kind == Kind::ConfigMap && (&*key.namespace, &*key.name) == VIPS);
        if vips || any(&[Kind::Service, Kind::ServiceEntry, Kind::Pod, Kind::EndpointSlice, Kind::MeshConfig]) {
            derived = Arc::new(derived.update(&self.objects, &objects, touched, &mut changes));
        }
        let defaults = any(&[Kind::MeshConfig]) && rules.has_delegates();
        if any(RouteRules::KINDS) || any(&[Kind::DestinationRule]) || defaults {
            rules = Arc::new(rules.update(&self.objects, &objects, touched, &mut changes));
        }
        Snapshot { objects, derived, rules, changes }
    }
}
