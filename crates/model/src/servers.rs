//! Servers of Gateways that meet on a port.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::{
    istio::{Gateway, GatewayHost, GatewayNamespace, GatewayRef, Server},
    routing::{TcpMatch, TlsMatch},
};
use mizzen_types::Hostname;

use crate::routes::RouteRules;

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

impl OpenServer<'_> {
    /// Its Gateway, as routes name it.
    pub fn parent(&self) -> GatewayRef {
        GatewayRef::Named(self.gateway.meta.namespaced_name())
    }

    /// Whether a condition of routes that are bound to its Gateway is about this server, as far as it says so itself.
    pub fn is_meant(&self, m: &TcpMatch) -> bool {
        (m.gateways.is_empty() || m.gateways.contains(&self.parent())) && m.port.is_none_or(|port| port == self.server.port.number)
    }

    /// The server names of a condition that lead on from here: those that are this server's as well, and only of objects that may bind to it.
    pub fn passed(&self, rules: RouteRules<'_>, m: &TlsMatch) -> BTreeSet<Hostname> {
        let hosts = self.welcoming(rules);
        m.sni_hosts.iter().flat_map(|name| hosts.iter().filter_map(|host| narrower(host, name))).collect()
    }
}

impl<'a> OpenServer<'a> {
    /// Its hosts to which an object may bind.
    pub fn welcoming(&self, rules: RouteRules<'_>) -> Vec<&'a Hostname> {
        let gateway = &self.gateway.meta;
        let is_bound = rules.parents.contains(&self.parent());
        let is_welcome = |host: &&GatewayHost| match &host.namespace {
            GatewayNamespace::Any => is_bound,
            GatewayNamespace::Own => is_bound && gateway.namespace == rules.meta.namespace,
            GatewayNamespace::Named(namespace) => is_bound && **namespace == *rules.meta.namespace,
        };
        self.server.hosts.iter().filter(is_welcome).map(|host| &host.host).collect()
    }
}

/// What two hosts have in common: the narrower one, if they overlap.
pub fn narrower(one: &Hostname, other: &Hostname) -> Option<Hostname> {
    if one.covers(other) { Some(other.clone()) } else { other.covers(one).then(|| one.clone()) }
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
