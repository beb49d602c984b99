//! What has to be asked for before it can be decided where something goes: only what the index of the mesh has.

use std::net::SocketAddr;

use mizzen_types::Name;

use crate::config::{MeshIndex, RouteConfig};
use crate::{Config, Trace};

/// What is known of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is there.
    Held,
    /// It was asked for, and there is none.
    Absent,
    /// It was not asked for.
    Unasked,
}

/// A listener that has to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedListener {
    /// Its name.
    pub name: Name,
    /// Whether it is that of one address, else of all.
    pub own: bool,
}

/// The listener that a connection to `destination` has to be asked for, by what is known of the one of its address (`own`) and of the one of all
/// addresses at its port (`any`). None: the one of its address has it if it is there, else that of all addresses, else the one that accepted.
pub fn wanted_listener(mesh: &MeshIndex, destination: SocketAddr, own: Known, any: Known, trace: &mut Trace<'_>) -> Option<WantedListener> {
    let (ip, port) = (destination.ip().to_canonical(), destination.port());
    match own {
        Known::Held => {
            trace.note(true, || format!("listener `{ip}_{port}` is there"));
            return None;
        }
        Known::Unasked if mesh.has_own(destination) => {
            trace.note(true, || format!("listener `{ip}_{port}` is in the index and not there yet"));
            return Some(WantedListener { name: format!("{ip}_{port}").into(), own: true });
        }
        Known::Absent => trace.note(false, || format!("there is no listener `{ip}_{port}`")),
        Known::Unasked => trace.note(false, || format!("no host of the index has a listener `{ip}_{port}`")),
    }
    match any {
        Known::Held => {
            trace.note(true, || format!("listener `0.0.0.0_{port}` is there"));
            None
        }
        Known::Unasked if mesh.has_anywhere(port) => {
            trace.note(true, || format!("listener `0.0.0.0_{port}` is in the index and not there yet"));
            Some(WantedListener { name: format!("0.0.0.0_{port}").into(), own: false })
        }
        Known::Absent | Known::Unasked => {
            trace.note(false, || format!("there is no listener `0.0.0.0_{port}`: the one that accepted has it"));
            None
        }
    }
}

/// The virtual host that a request has to be asked for before these routes can have it. None: they decide.
///
/// A domain that is the authority to the letter decides; a wildcard that is there does not answer for what the index has under a closer name.
pub fn wanted_host(config: &Config, routes: &RouteConfig, authority: &str, trace: &mut Trace<'_>) -> Option<Name> {
    let (port, mesh) = (routes.open?, config.mesh()?);
    let called = routes.called(authority);
    if routes.exact.contains_key(&*called) {
        return None;
    }
    let Some(host) = mesh.find(&called, port) else {
        trace.note(false, || format!("no host of the index is called `{called}` at port {port}"));
        return None;
    };
    if config.own_hosts.get(&routes.name).is_some_and(|hosts| hosts.contains_key(&host.name)) {
        return None;
    }
    trace.note(true, || format!("`{called}` is host `{}` of the index, whose routes are not there yet", host.name));
    Some(format!("{port}/{}", host.name).into())
}
