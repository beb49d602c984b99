//! Which addresses are to be listened on, and for which listener: followed from configuration to configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use mizzen_ir::{
    Config,
    config::{Listener, ListenerAddress},
};
use mizzen_net::ListenOptions;
use mizzen_types::Name;

/// The listeners that want a socket, by its address. Of several that want the same one, the one that came last has it.
#[derive(Debug, Default)]
pub(super) struct Listening(BTreeMap<SocketAddr, Vec<(Name, ListenOptions)>>);

impl Listening {
    /// Takes a configuration over; the addresses of what it changed.
    pub(super) fn follow(&mut self, old: &Config, new: &Config) -> BTreeSet<SocketAddr> {
        let mut touched = BTreeSet::new();
        let changes = new.changes_since(old);
        for name in &changes.listeners {
            for (address, _) in old.listeners.get(name).into_iter().flat_map(|listener| sockets(listener)) {
                if let Some(all) = self.0.get_mut(&address) {
                    all.retain(|(other, _)| other != name);
                    if all.is_empty() {
                        self.0.remove(&address);
                    }
                }
                touched.insert(address);
            }
            for (address, options) in new.listeners.get(name).into_iter().flat_map(|listener| sockets(listener)) {
                self.0.entry(address).or_default().push((name.clone(), options));
                touched.insert(address);
            }
        }
        touched
    }

    /// The listener of an address, and how it listens.
    pub(super) fn at(&self, address: &SocketAddr) -> Option<&(Name, ListenOptions)> {
        self.0.get(address)?.last()
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.0.keys().copied().collect()
    }
}

/// The sockets that a listener wants.
fn sockets(listener: &Listener) -> impl Iterator<Item = (SocketAddr, ListenOptions)> {
    listener.addresses.iter().filter(|_| listener.bind).filter_map(|address| {
        let ListenerAddress::Socket(address) = address else { return None };
        let options = ListenOptions {
            backlog: listener.backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(4096),
            freebind: listener.freebind,
            transparent: listener.transparent,
            ..ListenOptions::default()
        };
        Some((*address, options))
    })
}
