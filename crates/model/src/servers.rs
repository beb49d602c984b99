//! Servers of Gateways that meet on a port.

use std::collections::BTreeMap;

use mizzen_api::istio::{Gateway, Server};
use mizzen_types::Hostname;

/// A server of a Gateway.
#[derive(Clone, Copy, Debug)]
pub struct OpenServer<'a> {
    /// Whose it is.
    pub gateway: &'a Gateway,
    /// It.
    pub server: &'a Server,
}

/// Why a server cannot stand beside an older one on its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict<'a> {
    /// There what comes is told apart in another way, or not at all.
    Kind,
    /// This host over TLS is the other one's.
    Host(&'a Hostname),
    /// The routes of both would have one name, by the port's.
    PortName,
}

impl<'a> OpenServer<'a> {
    /// Why it cannot stand beside an older one on the same port. Requests in plain text are told apart by their hosts, TLS by the server names that clients
    /// ask for, and bytes by nothing.
    pub fn conflict(&self, older: &OpenServer<'a>) -> Option<Conflict<'a>> {
        let (server, theirs) = (self.server, older.server);
        match (theirs.is_tls(), server.is_tls()) {
            (false, false) if server.is_http() && theirs.is_http() => None,
            (true, true) => {
                let taken = server.hosts.iter().find(|host| theirs.hosts.iter().any(|other| other.host == host.host));
                let of_one = self.gateway.meta.namespaced_name() == older.gateway.meta.namespaced_name();
                let same_name = of_one && server.is_http() && theirs.is_http() && server.port.name == theirs.port.name;
                taken.map(|host| Conflict::Host(&host.host)).or(same_name.then_some(Conflict::PortName))
            }
            _ => Some(Conflict::Kind),
        }
    }
}

/// The servers that stand, by their port: of all, with the oldest Gateway first, those that can stand beside all earlier ones.
pub fn standing<'a>(gateways: impl IntoIterator<Item = &'a Gateway>) -> BTreeMap<u16, Vec<OpenServer<'a>>> {
    let mut found: BTreeMap<u16, Vec<OpenServer<'a>>> = BTreeMap::new();
    for gateway in gateways {
        for server in &gateway.servers {
            let (open, on_port) = (OpenServer { gateway, server }, found.entry(server.port.number).or_default());
            if on_port.iter().all(|older| open.conflict(older).is_none()) {
                on_port.push(open);
            }
        }
    }
    found
}
