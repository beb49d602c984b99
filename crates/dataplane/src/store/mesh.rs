//! What is there on demand: the index of the mesh, and virtual hosts that come on their own.

use std::collections::BTreeSet;

use mizzen_ir::{Resource, ResourceKind, config::MeshIndex, mesh_host};
use mizzen_protos::envoy::envoy::config::route::v3::RouteConfiguration;
use mizzen_types::Name;
use prost::Message;

use super::{Kept, Key, Store, Stored};

impl Store {
    /// From now on clusters, listeners and virtual hosts are there on demand, by an index that begins empty; or, without one, all that there is
    /// comes without being asked for.
    pub fn set_mesh(&mut self, mesh: Option<MeshIndex>) {
        if self.mesh.is_none() && mesh.is_none() {
            return;
        }
        let turned = self.mesh.is_some() != mesh.is_some();
        self.mesh = mesh;
        self.mesh_changed = true;
        if turned {
            let all = self.resources.iter().flat_map(|(kind, all)| all.iter().map(|(name, stored)| ((*kind, name.clone()), stored)));
            self.graph.want_clusters(self.mesh.is_some(), all);
            // What was known to be absent may not be any more, or the other way round.
            let waiting: Vec<Key> = self.waiting.values().flat_map(|wait| wait.waiters()).cloned().collect();
            waiting.into_iter().for_each(|waiter| self.doubts.add(waiter));
        }
    }

    /// The index of the mesh; none: nothing is there on demand.
    pub fn mesh(&self) -> Option<&MeshIndex> {
        self.mesh.as_ref()
    }

    /// Takes a host of the index. Nothing where nothing is on demand.
    ///
    /// # Errors
    /// Why it is refused; what was there before stays.
    pub fn put_host(&mut self, name: &Name, body: &[u8]) -> Result<(), String> {
        let host = mesh_host(name, body).map_err(|bad| bad.to_string())?;
        if let Some(mesh) = &mut self.mesh {
            self.mesh_changed |= mesh.put(host);
        }
        Ok(())
    }

    /// A host of the index is there no more.
    pub fn remove_host(&mut self, name: &str) {
        if let Some(mesh) = &mut self.mesh {
            self.mesh_changed |= mesh.remove(name);
        }
    }

    /// The clusters that a resource names.
    pub(crate) fn clusters_of(&self, kind: ResourceKind, name: &Name) -> BTreeSet<Name> {
        let refs = self.stored(kind, name).into_iter().flat_map(Stored::refs);
        refs.flat_map(|refs| refs.clusters.iter().cloned()).collect()
    }

    /// A resource that is held.
    pub fn stored(&self, kind: ResourceKind, name: &Name) -> Option<&Stored> {
        self.resources.get(&kind)?.get(name)
    }

    /// Whether a resource was in use since the last call, as far as that is known.
    pub(crate) fn take_used(&self, kind: ResourceKind, name: &Name) -> bool {
        let entry = self.stored(kind, name).and_then(Stored::any);
        entry.is_some_and(|entry| entry.compiled.resource.used().is_none_or(|used| !used.is_followed() || used.take()))
    }

    /// A route configuration in force as it is used: an open one with the virtual hosts in force, in front of its own.
    pub(crate) fn whole_route(&self, name: &Name) -> Option<Kept> {
        let active = |kind: ResourceKind, name: &Name| self.stored(kind, name)?.active.as_ref();
        let head = active(ResourceKind::Route, name)?;
        let Resource::Route(route) = &head.compiled.resource else { return None };
        route.open?;
        let mut whole = RouteConfiguration::decode(head.body.bytes().as_slice()).ok()?;
        let own = self.resources.get(&ResourceKind::VirtualHost)?.values().filter_map(|stored| stored.active.as_ref());
        let own = own.filter(|entry| matches!(&entry.compiled.resource, Resource::VirtualHost(host) if host.parts().0 == &**name));
        let mut hosts: Vec<_> = own.filter_map(|entry| Message::decode(entry.body.bytes().as_slice()).ok()).collect();
        hosts.append(&mut whole.virtual_hosts);
        whole.virtual_hosts = hosts;
        Some(Kept::new(whole.encode_to_vec()))
    }
}
