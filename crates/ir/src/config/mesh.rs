//! The index of the mesh: what there is to be asked for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mizzen_types::Name;
use rpds::{HashTrieMapSync, RedBlackTreeSetSync};

/// The domain of Kubernetes Services.
const SERVICES: &str = ".svc.cluster.local";

/// A host of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshHost {
    /// Its name, which may be a wildcard (`*.example.com`).
    pub name: Name,
    /// The addresses at which it is called. Ranges are no part of it: nothing is asked for by them.
    pub addresses: Box<[IpAddr]>,
    /// Ports with a virtual host in the routes of that port; in order, as the others.
    pub http: Box<[u16]>,
    /// Ports with a listener of their own at each address.
    pub own: Box<[u16]>,
    /// Ports with something else at the listener of all addresses.
    pub any: Box<[u16]>,
    /// A Kubernetes Service, which has short names.
    pub kubernetes: bool,
    /// Whether names below it are its pods'.
    pub headless: bool,
}

impl MeshHost {
    fn has_http(&self, port: u16) -> bool {
        self.http.binary_search(&port).is_ok()
    }

    /// The ports with something at the listener of all addresses.
    fn anywhere(&self) -> impl Iterator<Item = u16> {
        let more = self.any.iter().filter(|port| !self.has_http(**port));
        self.http.iter().chain(more).copied()
    }
}

/// All hosts of the mesh that the proxy sees. Copies share what they have in common: one host's change costs that host.
#[derive(Clone, Debug, Default)]
pub struct MeshIndex {
    /// The proxy's own namespace, of which hosts have names of one word.
    namespace: Name,
    hosts: HashTrieMapSync<Name, Arc<MeshHost>>,
    by_address: HashTrieMapSync<IpAddr, RedBlackTreeSetSync<Name>>,
    /// How many hosts have something at the listener of all addresses, by port.
    anywhere: HashTrieMapSync<u16, u32>,
}

impl MeshIndex {
    /// Empty, for a proxy in this namespace.
    pub fn new(namespace: Name) -> MeshIndex {
        MeshIndex { namespace, ..MeshIndex::default() }
    }

    /// Adds a host, or puts it in place of the one of its name. Whether that changes anything.
    pub fn put(&mut self, host: MeshHost) -> bool {
        if self.hosts.get(&host.name).is_some_and(|old| **old == host) {
            return false;
        }
        self.remove(&host.name.clone());
        for address in &host.addresses {
            match self.by_address.get_mut(address) {
                Some(names) => names.insert_mut(host.name.clone()),
                None => self.by_address.insert_mut(*address, RedBlackTreeSetSync::new_sync().insert(host.name.clone())),
            }
        }
        for port in host.anywhere() {
            let count = self.anywhere.get(&port).copied().unwrap_or_default();
            self.anywhere.insert_mut(port, count + 1);
        }
        self.hosts.insert_mut(host.name.clone(), Arc::new(host));
        true
    }

    /// Removes a host; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(host) = self.hosts.get(name).cloned() else { return false };
        self.hosts.remove_mut(name);
        for address in &host.addresses {
            let Some(names) = self.by_address.get_mut(address) else { continue };
            names.remove_mut(name);
            if names.is_empty() {
                self.by_address.remove_mut(address);
            }
        }
        for port in host.anywhere() {
            match self.anywhere.get(&port).copied() {
                Some(count @ 2..) => self.anywhere.insert_mut(port, count - 1),
                _ => drop(self.anywhere.remove_mut(&port)),
            }
        }
        true
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.hosts.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// A host by its name in full.
    pub fn get(&self, name: &str) -> Option<&Arc<MeshHost>> {
        self.hosts.get(name)
    }

    /// All hosts, in any order.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<MeshHost>> {
        self.hosts.values()
    }

    /// Whether there is a listener for this address and port alone.
    pub fn has_own(&self, address: SocketAddr) -> bool {
        let names = self.by_address.get(&address.ip().to_canonical());
        let mut hosts = names.into_iter().flat_map(|names| names.iter()).filter_map(|name| self.hosts.get(name));
        hosts.any(|host| host.own.binary_search(&address.port()).is_ok())
    }

    /// Whether there is a listener for all addresses at a port.
    pub fn has_anywhere(&self, port: u16) -> bool {
        self.anywhere.contains_key(&port)
    }

    /// The host that is called by this name at this port of the routes: an authority in lower case, without its port.
    pub fn find(&self, name: &str, port: u16) -> Option<&Arc<MeshHost>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let by_name = |name: &str| self.hosts.get(name).filter(|host| host.has_http(port));
        // A wildcard is no name that anybody calls.
        if name.is_empty() || name.contains('*') {
            return None;
        }
        by_name(name).or_else(|| self.service(name).filter(|host| host.has_http(port))).or_else(|| self.at(name, port)).or_else(|| {
            let below = name.match_indices('.').filter_map(|(at, _)| name.get(at + 1..));
            below.filter(|rest| !rest.is_empty()).find_map(|rest| {
                let headless = by_name(rest).or_else(|| self.service(rest).filter(|host| host.has_http(port))).filter(|host| host.headless);
                headless.or_else(|| by_name(&format!("*.{rest}")))
            })
        })
    }

    /// A Kubernetes Service by one of its short names.
    fn service(&self, name: &str) -> Option<&Arc<MeshHost>> {
        let kubernetes = |name: String| self.hosts.get(name.as_str()).filter(|host| host.kubernetes);
        match name.strip_suffix(".svc") {
            Some(rest) => kubernetes(format!("{rest}{SERVICES}")),
            None if name.contains('.') => kubernetes(format!("{name}{SERVICES}")),
            None => kubernetes(format!("{name}.{}{SERVICES}", self.namespace)),
        }
    }

    /// A host by its address in text.
    fn at(&self, text: &str, port: u16) -> Option<&Arc<MeshHost>> {
        let address: IpAddr = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => IpAddr::V6(inner.parse().ok()?),
            None => IpAddr::V4(text.parse().ok()?),
        };
        let mut hosts = self.by_address.get(&address)?.iter().filter_map(|name| self.hosts.get(name));
        hosts.find(|host| host.has_http(port))
    }
}
