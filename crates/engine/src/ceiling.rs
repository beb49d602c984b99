//! How many connections there may be that listeners have accepted: of one listener, and of all together, over all workers of the process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use mizzen_ir::config::{Listener, ListenerAddress};
use mizzen_types::Name;

/// The most connections that listeners may have open. One beyond is accepted, closed at once, and counted, as Envoy does it. Without a number there is no
/// limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of all listeners together (Envoy's `overload.global_downstream_max_connections`).
    pub global: Option<u64>,
    /// Of single listeners, by name (Envoy's `envoy.resource_limits.listener.NAME.connection_limit`).
    pub listeners: BTreeMap<Name, u64>,
}

/// The limits with what counts against them; the same for all workers. What has no limit is not counted.
#[derive(Debug, Default)]
pub(crate) struct Ceilings {
    global: Option<Arc<Ceiling>>,
    listeners: HashMap<Name, Arc<Ceiling>>,
}

#[derive(Debug)]
struct Ceiling {
    most: u64,
    open: AtomicU64,
}

/// A connection below a ceiling, as long as it lives.
#[derive(Debug)]
pub(crate) struct Place(Arc<Ceiling>);

/// What one connection takes of the limits.
#[derive(Debug, Default)]
pub(crate) struct Places {
    _global: Option<Place>,
    listener: Option<Place>,
}

/// Which limit a connection would have gone beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Global,
    Listener,
}

impl Ceilings {
    pub(crate) fn new(limits: &ConnectionLimits) -> Ceilings {
        let of = |most: &u64| Arc::new(Ceiling { most: *most, open: AtomicU64::new(0) });
        Ceilings {
            global: limits.global.as_ref().map(of),
            listeners: limits.listeners.iter().map(|(name, most)| (name.clone(), of(most))).collect(),
        }
    }

    /// The places of a connection that a listener's socket has accepted and that `holder` has, which is another one where connections are handed over by
    /// where they were going. The socket's listener alone refuses, and the holder counts, as in Envoy.
    ///
    /// # Errors
    /// If there are as many as there may be.
    pub(crate) fn take(&self, socket: &Listener, holder: &Name) -> Result<Places, Full> {
        let global = match &self.global {
            Some(ceiling) => Some(ceiling.place(socket.ignores_global_limit).ok_or(Full::Global)?),
            None => None,
        };
        let listener = match self.listeners.get(&socket.name) {
            Some(ceiling) => Some(ceiling.place(false).ok_or(Full::Listener)?),
            None => None,
        };
        let mut places = Places { _global: global, listener };
        if *holder != socket.name {
            self.hand_over(&mut places, holder);
        }
        Ok(places)
    }

    /// A connection is another listener's from now on, whether that has room or not.
    pub(crate) fn hand_over(&self, places: &mut Places, holder: &Name) {
        places.listener = self.listeners.get(holder).and_then(|ceiling| ceiling.place(true));
    }
}

impl Ceiling {
    /// `None`: there is none left, unless it is taken `anyway`.
    fn place(self: &Arc<Self>, anyway: bool) -> Option<Place> {
        self.open.fetch_update(Relaxed, Relaxed, |open| (anyway || open < self.most).then_some(open + 1)).ok()?;
        Some(Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Full {
    /// What counts the connections that were closed for it.
    pub(crate) fn counter(self) -> &'static str {
        match self {
            Full::Global => "envoy_listener_downstream_global_cx_overflow",
            Full::Listener => "envoy_listener_downstream_cx_overflow",
        }
    }
}

/// A listener by its address, as its statistics are called in Envoy: `0.0.0.0_8080`.
pub(crate) fn stat_name(listener: &Listener) -> String {
    match listener.addresses.first() {
        Some(ListenerAddress::Socket(address)) => address.to_string().replace(':', "_"),
        Some(ListenerAddress::Pipe(path)) => path.replace(':', "_"),
        None => listener.name.to_string(),
    }
}
