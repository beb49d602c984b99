//! The objects by kind, namespace and name.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{Key, Kind, Object, Selector, core, istio, istio::MtlsMode};
use mizzen_types::Name;
use rpds::RedBlackTreeMapSync as Map;

use crate::{
    changes::ChangeSet,
    index::{Stamped, stamp_of},
    query::Query,
};

/// The config map in which the virtual addresses of services stand that `mizzen up` has allocated: namespace and name. Its keys are host names, or
/// `namespace/name` of the object; a value is an address, or several with commas.
pub const VIPS: (&str, &str) = ("kube-system", "mizzen-vips");

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
    Namespace: core::Namespace, Service: core::Service, ServiceAccount: core::ServiceAccount, Deployment: core::Deployment, Pod: core::Pod, EndpointSlice: core::EndpointSlice,
    ConfigMap: core::ConfigMap, Secret: core::Secret, PeerAuthentication: istio::PeerAuthentication,
    AuthorizationPolicy: istio::AuthorizationPolicy, VirtualService: istio::VirtualService, DestinationRule: istio::DestinationRule,
    ServiceEntry: istio::ServiceEntry, Gateway: istio::Gateway, Sidecar: istio::Sidecar, ProxyConfig: istio::WorkloadProxyConfig, MeshConfig: istio::MeshConfig,
    RequestAuthentication: istio::RequestAuthentication, IssuerKeys: istio::IssuerKeys,
}

/// The objects of one kind in one namespace.
#[derive(Clone, Debug, Default)]
struct Bucket {
    stamp: u64,
    objects: Map<Name, Stamped<Object>>,
}

/// All objects at one version, each with the version that last changed it. A copy shares all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) version: u64,
    buckets: Map<(Kind, Name), Bucket>,
    /// The version that last changed anything of a kind.
    kinds: BTreeMap<Kind, u64>,
    closed: Arc<BTreeMap<Key, Stamped<Closed>>>,
    mesh: Arc<istio::MeshConfig>,
    mesh_stamp: u64,
}

impl Objects {
    /// A copy to be changed, of the next version.
    pub(crate) fn next(&self) -> Objects {
        Objects { version: self.version + 1, ..self.clone() }
    }

    /// The mesh's settings; Istio's defaults if there are none.
    pub(crate) fn mesh(&self) -> &Arc<istio::MeshConfig> {
        &self.mesh
    }

    /// Takes the mesh's settings from their object.
    pub(crate) fn read_mesh(&mut self) {
        let config = self.of_kind(Kind::MeshConfig).find_map(|stored| istio::MeshConfig::of(&stored.value)).cloned();
        self.mesh = Arc::new(config.unwrap_or_default());
        self.mesh_stamp = self.version;
    }

    /// All objects' keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.buckets.iter().flat_map(|((kind, namespace), bucket)| {
            bucket.objects.keys().map(move |name| Key { kind: *kind, namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// The kinds and namespaces of which anything has changed since a version.
    pub(crate) fn changed_since(&self, version: u64) -> impl Iterator<Item = (Kind, &Name)> {
        let changed = self.kinds.iter().filter(move |(_, stamp)| **stamp > version).map(|(kind, _)| *kind);
        changed.flat_map(move |kind| {
            let from = (kind, Name::from(""));
            let of_kind = self.buckets.range(from..).take_while(move |((k, _), _)| *k == kind);
            of_kind.filter(move |(_, bucket)| bucket.stamp > version).map(move |((_, namespace), _)| (kind, namespace))
        })
    }

    pub(crate) fn closed(&self) -> impl Iterator<Item = &Closed> {
        self.closed.values().map(|stored| &*stored.value)
    }

    pub(crate) fn stamp(&self, query: &Query) -> u64 {
        match query {
            Query::Object(key) => self.stored(key).map_or(0, |stored| stored.stamp),
            Query::Namespace(kind, namespace) => self.buckets.get(&(*kind, namespace.clone())).map_or(0, |bucket| bucket.stamp),
            Query::Kind(kind) => self.kinds.get(kind).copied().unwrap_or(0),
            Query::Mesh => self.mesh_stamp,
            Query::AnySidecar => self.has(Kind::Sidecar).into(),
            Query::Plain(namespace) => self.has_plain(namespace).into(),
            Query::Closed(namespace) => stamp_of(self.closed_in(namespace).map(|stored| stored.stamp)),
            _ => 0,
        }
    }

    pub(crate) fn object(&self, key: &Key) -> Option<&Object> {
        self.stored(key).map(|stored| &*stored.value)
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

    /// Whether there is any object of a kind.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.of_kind(kind).next().is_some()
    }

    /// Whether a PeerAuthentication of a namespace says DISABLE of anything.
    pub(crate) fn has_plain(&self, namespace: &str) -> bool {
        let mut all =
            self.in_namespace(Kind::PeerAuthentication, namespace).filter_map(|stored| istio::PeerAuthentication::of(&stored.value));
        all.any(|policy| policy.mtls == MtlsMode::Disable || policy.port_level_mtls.values().any(|mode| *mode == MtlsMode::Disable))
    }

    pub(crate) fn closed_in(&self, namespace: &str) -> impl Iterator<Item = &Stamped<Closed>> {
        self.closed.iter().filter(move |(key, _)| &*key.namespace == namespace).map(|(_, stored)| stored)
    }

    /// Whether an object with the same content now stands elsewhere in its file: it is kept fresh for messages, its stamp is not touched.
    pub(crate) fn put(&mut self, key: Key, object: Arc<Object>, touched: &mut Vec<Key>) -> bool {
        let Some(stored) = self.stored(&key).filter(|stored| *stored.value == *object) else {
            let stored = Stamped { stamp: self.version, value: object };
            self.bucket(&key, |objects| objects.insert_mut(key.name.clone(), stored));
            touched.push(key);
            return false;
        };
        let moved = stored.value.meta().origin != object.meta().origin;
        if moved {
            let stored = Stamped { stamp: stored.stamp, value: object };
            if let Some(bucket) = self.buckets.get_mut(&(key.kind, key.namespace.clone())) {
                bucket.objects.insert_mut(key.name, stored);
            }
        }
        moved
    }

    pub(crate) fn remove(&mut self, key: &Key, touched: &mut Vec<Key>) {
        if self.stored(key).is_some() {
            self.bucket(key, |objects| {
                objects.remove_mut(&key.name);
            });
            touched.push(key.clone());
        }
    }

    /// Changes the bucket of a key: it gets this version's stamp. It stays when its last object goes, so that scans see the change.
    fn bucket(&mut self, key: &Key, change: impl FnOnce(&mut Map<Name, Stamped<Object>>)) {
        self.kinds.insert(key.kind, self.version);
        let at = (key.kind, key.namespace.clone());
        let mut bucket = self.buckets.get(&at).cloned().unwrap_or_default();
        // While the old tree still holds the bucket's map, every step of a change would copy its path again.
        self.buckets.remove_mut(&at);
        change(&mut bucket.objects);
        bucket.stamp = self.version;
        self.buckets.insert_mut(at, bucket);
    }

    /// Notes what touched objects change.
    pub(crate) fn note(&self, old: &Objects, touched: &[Key], changes: &mut ChangeSet) {
        if old.has(Kind::Sidecar) != self.has(Kind::Sidecar) {
            changes.insert(Query::AnySidecar);
        }
        for Key { namespace, .. } in touched.iter().filter(|key| key.kind == Kind::PeerAuthentication) {
            if old.has_plain(namespace) != self.has_plain(namespace) {
                changes.insert(Query::Plain(namespace.clone()));
            }
        }
        for key in touched {
            changes.insert(Query::Object(key.clone()));
            changes.insert(Query::Namespace(key.kind, key.namespace.clone()));
            changes.insert(Query::Kind(key.kind));
            if matches!(key.kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication) {
                changes.insert(Query::Closed(key.namespace.clone()));
            }
        }
        if self.mesh_stamp == self.version {
            changes.insert(Query::Mesh);
        }
    }

    pub(crate) fn close(&mut self, closed: Closed, touched: &mut Vec<Key>) {
        if self.closed.get(&closed.key).is_none_or(|old| *old.value != closed) {
            touched.push(closed.key.clone());
            let stored = Stamped { stamp: self.version, value: Arc::new(closed) };
            Arc::make_mut(&mut self.closed).insert(stored.value.key.clone(), stored);
        }
    }

    pub(crate) fn unclose(&mut self, key: &Key, touched: &mut Vec<Key>) {
        if self.closed.contains_key(key) {
            Arc::make_mut(&mut self.closed).remove(key);
            touched.push(key.clone());
        }
    }
}
