//! The snapshot: objects by kind, namespace and name, with the indexes over them.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{Key, Kind, Object, Selector, core, istio};
use mizzen_types::Name;

use crate::{
    derive::Derived,
    index::{Stamped, stamp_of},
    reader::Query,
    routing::Rules,
};

/// The config map in which the virtual addresses of services stand that `mizzen up` has allocated: namespace and name. Its keys are host names, or
/// `namespace/name` of the object.
pub const VIPS: (&str, &str) = ("kube-system", "mizzen-vips");

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

/// A policy that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What it is called.
    pub key: Key,
    /// The workloads that it selects; `None`: all of its namespace.
    pub selector: Option<Selector>,
}

/// A kind whose objects can be asked for by type.
pub trait Typed: Sized {
    /// The kind.
    const KIND: Kind;

    /// The object as this type.
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! typed {
    ($($kind:ident: $ty:ty),* $(,)?) => {
        $(impl Typed for $ty {
            const KIND: Kind = Kind::$kind;

            fn of(object: &Object) -> Option<&Self> {
                match object { Object::$kind(it) => Some(it), _ => None }
            }
        })*
    };
}

typed! {
    Namespace: core::Namespace, Service: core::Service, ServiceAccount: core::ServiceAccount, Deployment: core::Deployment, Pod: core::Pod,
    ConfigMap: core::ConfigMap, Secret: core::Secret, PeerAuthentication: istio::PeerAuthentication,
    AuthorizationPolicy: istio::AuthorizationPolicy, VirtualService: istio::VirtualService, DestinationRule: istio::DestinationRule,
    ServiceEntry: istio::ServiceEntry, Gateway: istio::Gateway, MeshConfig: istio::MeshConfig,
}

/// The objects of one kind in one namespace.
#[derive(Clone, Debug, Default)]
struct Bucket {
    stamp: u64,
    objects: BTreeMap<Name, Stamped<Object>>,
}

/// The mesh at one version. Immutable; the next one shares what did not change.
#[derive(Debug, Default)]
pub struct Snapshot {
    version: u64,
    buckets: BTreeMap<(Kind, Name), Arc<Bucket>>,
    /// The version that last changed anything of a kind.
    kinds: BTreeMap<Kind, u64>,
    closed: Arc<BTreeMap<Key, Stamped<Closed>>>,
    mesh: Arc<istio::MeshConfig>,
    mesh_stamp: u64,
    derived: Arc<Derived>,
    rules: Arc<Rules>,
}

impl Snapshot {
    /// An empty mesh, version 0.
    pub fn empty() -> Arc<Snapshot> {
        Arc::default()
    }

    /// The version: higher than that of every snapshot from which this one was made.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The mesh's settings; Istio's defaults if there are none.
    pub fn mesh(&self) -> &Arc<istio::MeshConfig> {
        &self.mesh
    }

    /// The next snapshot. If nothing differs, it is this one.
    #[must_use]
    pub fn apply(self: &Arc<Self>, changes: impl IntoIterator<Item = Change>) -> Arc<Snapshot> {
        let mut next = Snapshot {
            version: self.version + 1,
            buckets: self.buckets.clone(),
            kinds: self.kinds.clone(),
            closed: self.closed.clone(),
            mesh: self.mesh.clone(),
            mesh_stamp: self.mesh_stamp,
            derived: self.derived.clone(),
            rules: self.rules.clone(),
        };
        let mut touched = Vec::new();
        let mut moved = false;
        for change in changes {
            match change {
                Change::Apply(object) => {
                    let key = object.key();
                    next.unclose(&key, &mut touched);
                    moved |= next.put(key, object, &mut touched);
                }
                Change::Delete(key) => {
                    next.unclose(&key, &mut touched);
                    next.remove(&key, &mut touched);
                }
                Change::Close(closed) => next.close(closed, &mut touched),
            }
        }
        if touched.is_empty() && !moved {
            return self.clone();
        }
        next.reindex(&touched);
        Arc::new(next)
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
        let kept: std::collections::BTreeSet<Key> = changes
            .iter()
            .map(|change| match change {
                Change::Apply(object) => object.key(),
                Change::Close(closed) => closed.key.clone(),
                Change::Delete(key) => key.clone(),
            })
            .collect();
        let gone = self.keys().chain(self.closed.keys().cloned()).filter(|key| !kept.contains(key)).map(Change::Delete);
        let all: Vec<Change> = gone.chain(changes).collect();
        self.apply(all)
    }

    /// All objects' keys.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.buckets.iter().flat_map(|((kind, namespace), bucket)| {
            bucket.objects.keys().map(move |name| Key { kind: *kind, namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// One object, unrecorded: for analysis and status, never for a translation.
    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.stored(key).map(|stored| &stored.value)
    }

    /// All objects of a kind, by namespace and name, unrecorded.
    pub fn objects<T: Typed + 'static>(&self) -> impl Iterator<Item = &T> {
        self.of_kind(T::KIND).filter_map(|stored| T::of(&stored.value))
    }

    /// The policies that could not be read.
    pub fn closed(&self) -> impl Iterator<Item = &Closed> {
        self.closed.values().map(|stored| &*stored.value)
    }

    /// The version that last changed the content of an object.
    pub fn content_version(&self, key: &Key) -> Option<u64> {
        self.stored(key).map(|stored| stored.stamp)
    }

    /// The stamp of a query's answer: equal stamps, equal answers. 0 is no answer.
    pub fn stamp(&self, query: &Query) -> u64 {
        match query {
            Query::Object(key) => self.stored(key).map_or(0, |stored| stored.stamp),
            Query::Namespace(kind, namespace) => self.buckets.get(&(*kind, namespace.clone())).map_or(0, |bucket| bucket.stamp),
            Query::Kind(kind) => self.kinds.get(kind).copied().unwrap_or(0),
            Query::Mesh => self.mesh_stamp,
            Query::Closed(namespace) => stamp_of(self.closed_in(namespace).map(|stored| stored.stamp)),
            Query::Services
            | Query::Service(_)
            | Query::Port(_)
            | Query::Endpoints(_)
            | Query::Accounts(_)
            | Query::Instances(_)
            | Query::Pod(_) => self.derived.stamp(query),
            Query::VirtualServices(_) | Query::BoundTo(_) | Query::DestinationRules(_) | Query::RoutedHosts => self.rules.stamp(query),
        }
    }

    pub(crate) fn derived(&self) -> &Derived {
        &self.derived
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) fn stored(&self, key: &Key) -> Option<&Stamped<Object>> {
        self.buckets.get(&(key.kind, key.namespace.clone()))?.objects.get(&key.name)
    }

    pub(crate) fn in_namespace(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Stamped<Object>> {
        self.buckets.get(&(kind, namespace.into())).into_iter().flat_map(|bucket| bucket.objects.values())
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Stamped<Object>> {
        let from = (kind, Name::from(""));
        self.buckets.range(from..).take_while(move |((k, _), _)| *k == kind).flat_map(|(_, bucket)| bucket.objects.values())
    }

    pub(crate) fn closed_in(&self, namespace: &str) -> impl Iterator<Item = &Stamped<Closed>> {
        self.closed.iter().filter(move |(key, _)| &*key.namespace == namespace).map(|(_, stored)| stored)
    }

    /// Whether an object with the same content now stands elsewhere in its file: it is kept fresh for messages, its stamp is not touched.
    fn put(&mut self, key: Key, object: Arc<Object>, touched: &mut Vec<Key>) -> bool {
        if let Some(stored) = self.stored(&key).filter(|stored| *stored.value == *object) {
            let moved = stored.value.meta().origin != object.meta().origin;
            if moved && let Some(bucket) = self.buckets.get_mut(&(key.kind, key.namespace.clone())) {
                let stored = Stamped { stamp: stored_stamp(bucket, &key.name), value: object };
                Arc::make_mut(bucket).objects.insert(key.name, stored);
            }
            return moved;
        }
        let stored = Stamped { stamp: self.version, value: object };
        self.bucket(&key).objects.insert(key.name.clone(), stored);
        touched.push(key);
        false
    }

    fn remove(&mut self, key: &Key, touched: &mut Vec<Key>) {
        if self.stored(key).is_some() {
            self.bucket(key).objects.remove(&key.name);
            touched.push(key.clone());
        }
    }

    /// The bucket of a key, to be changed: it gets this version's stamp. It stays when its last object goes, so that scans see the change.
    fn bucket(&mut self, key: &Key) -> &mut Bucket {
        self.kinds.insert(key.kind, self.version);
        let bucket = Arc::make_mut(self.buckets.entry((key.kind, key.namespace.clone())).or_default());
        bucket.stamp = self.version;
        bucket
    }

    fn close(&mut self, closed: Closed, touched: &mut Vec<Key>) {
        if self.closed.get(&closed.key).is_none_or(|old| *old.value != closed) {
            touched.push(closed.key.clone());
            let stored = Stamped { stamp: self.version, value: Arc::new(closed) };
            Arc::make_mut(&mut self.closed).insert(stored.value.key.clone(), stored);
        }
    }

    fn unclose(&mut self, key: &Key, touched: &mut Vec<Key>) {
        if self.closed.contains_key(key) {
            Arc::make_mut(&mut self.closed).remove(key);
            touched.push(key.clone());
        }
    }

    fn reindex(&mut self, touched: &[Key]) {
        let any = |kinds: &[Kind]| touched.iter().any(|key| kinds.contains(&key.kind));
        if any(&[Kind::MeshConfig]) {
            let config = self.of_kind(Kind::MeshConfig).find_map(|stored| istio::MeshConfig::of(&stored.value)).cloned();
            self.mesh = Arc::new(config.unwrap_or_default());
            self.mesh_stamp = self.version;
        }
        let vips = touched.iter().any(|key| key.kind == Kind::ConfigMap && (&*key.namespace, &*key.name) == VIPS);
        if vips || any(&[Kind::Service, Kind::ServiceEntry, Kind::Pod, Kind::MeshConfig]) {
            self.derived = Arc::new(Derived::build(self, &self.derived));
        }
        if any(&[Kind::VirtualService, Kind::DestinationRule, Kind::MeshConfig]) {
            self.rules = Arc::new(Rules::build(self));
        }
    }
}

fn stored_stamp(bucket: &Bucket, name: &str) -> u64 {
    bucket.objects.get(name).map_or(0, |stored| stored.stamp)
}
