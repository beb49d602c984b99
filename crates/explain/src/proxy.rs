//! One proxy's configuration, of which only that is built which is asked for.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
};

use mizzen_ir::{
    Resource,
    config::{Assignment, Cluster, Listener, RouteConfig},
};
use mizzen_model::{ProxyView, Snapshot};
use mizzen_translate::ResourceKind;
use mizzen_types::{Name, SpiffeId};

use crate::resources::build;

/// A proxy and what has been built of its configuration.
pub(crate) struct Proxy {
    /// `namespace/pod`
    pub(crate) name: String,
    pub(crate) view: ProxyView,
    pub(crate) id: SpiffeId,
    snapshot: Arc<Snapshot>,
    known: RefCell<HashMap<(ResourceKind, Name), Found<Resource>>>,
    built: Cell<usize>,
}

/// A resource that was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Found<T> {
    There(T),
    /// The proxy has none of that name.
    Absent,
    /// It has one and would refuse it.
    Refused(String),
}

impl Proxy {
    pub(crate) fn new(snapshot: &Arc<Snapshot>, view: ProxyView) -> Proxy {
        let facts = view.facts();
        let id = SpiffeId {
            trust_domain: snapshot.mesh().trust_domain.clone(),
            namespace: facts.namespace.clone(),
            service_account: facts.service_account.clone(),
        };
        let name = format!("{}/{}", facts.namespace, facts.pod);
        Proxy { name, view, id, snapshot: snapshot.clone(), known: RefCell::default(), built: Cell::new(0) }
    }

    /// How many resources have been built.
    pub(crate) fn built(&self) -> usize {
        self.built.get()
    }

    pub(crate) fn listener(&self, name: &str) -> Found<Arc<Listener>> {
        self.find(ResourceKind::Listener, name).only(|found| match found {
            Resource::Listener(listener) => Some(listener),
            _ => None,
        })
    }

    pub(crate) fn routes(&self, name: &str) -> Found<Arc<RouteConfig>> {
        self.find(ResourceKind::Route, name).only(|found| match found {
            Resource::Route(routes) => Some(routes),
            _ => None,
        })
    }

    pub(crate) fn cluster(&self, name: &str) -> Found<Arc<Cluster>> {
        self.find(ResourceKind::Cluster, name).only(|found| match found {
            Resource::Cluster(cluster) => Some(cluster),
            _ => None,
        })
    }

    pub(crate) fn assignment(&self, name: &str) -> Found<Arc<Assignment>> {
        self.find(ResourceKind::Endpoints, name).only(|found| match found {
            Resource::Assignment(assignment) => Some(assignment),
            _ => None,
        })
    }

    fn find(&self, kind: ResourceKind, name: &str) -> Found<Resource> {
        let key = (kind, Name::from(name));
        if let Some(known) = self.known.borrow().get(&key) {
            return known.clone();
        }
        let found = self.make(kind, &key.1);
        self.known.borrow_mut().insert(key, found.clone());
        found
    }

    fn make(&self, kind: ResourceKind, name: &Name) -> Found<Resource> {
        let Some(compiled_as) = mizzen_ir::ResourceKind::of(&kind.type_url()) else { return Found::Absent };
        let Some(built) = build(&self.snapshot, &self.view, kind, name) else { return Found::Absent };
        self.built.set(self.built.get() + 1);
        match mizzen_ir::compile(compiled_as, &built.any.value) {
            Ok(compiled) => Found::There(compiled.resource),
            Err(refusal) => Found::Refused(refusal.to_string()),
        }
    }
}

impl<T> Found<T> {
    fn only<U>(self, of: impl FnOnce(T) -> Option<U>) -> Found<U> {
        match self {
            Found::There(found) => of(found).map_or(Found::Absent, Found::There),
            Found::Absent => Found::Absent,
            Found::Refused(why) => Found::Refused(why),
        }
    }
}
