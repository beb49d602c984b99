//! Rules of routing, whatever kind of object they were written as.
//!
//! Who finds, orders and translates routes asks for [`RouteRules`] and not for a kind: a further kind of route is read into the same
//! [`mizzen_api::routing`] and named in [`RouteRules::of`] and [`RouteRules::KINDS`], and nothing else.

use mizzen_api::{
    Key, Kind, Meta, Object,
    istio::{ExportTo, GatewayRef, VirtualService},
    routing::{Destination, HttpAction, HttpDestination, HttpRoute, TcpRoute, TlsRoute},
};
use mizzen_types::Hostname;

/// The routes of one object.
#[derive(Clone, Copy, Debug)]
pub struct RouteRules<'a> {
    /// As what they were written.
    pub kind: Kind,
    /// The object's name, labels and age.
    pub meta: &'a Meta,
    /// The hosts, as written: short names are completed by the object's namespace.
    pub hosts: &'a [Hostname],
    /// To what they are attached: Gateways, the calls of the mesh's own workloads.
    pub parents: &'a [GatewayRef],
    /// To whom they are visible; empty is the mesh's default.
    pub export_to: &'a [ExportTo],
    /// For HTTP, the first match wins.
    pub http: &'a [HttpRoute],
    /// For TLS that is not ended on the way, the first match wins.
    pub tls: &'a [TlsRoute],
    /// For TCP, the first match wins.
    pub tcp: &'a [TcpRoute],
}

impl<'a> RouteRules<'a> {
    /// The kinds of object that hold routes.
    pub const KINDS: &'static [Kind] = &[Kind::VirtualService];

    /// Those of an object, if it is of such a kind.
    pub fn of(object: &'a Object) -> Option<RouteRules<'a>> {
        match object {
            Object::VirtualService(service) => Some(RouteRules::from(service)),
            _ => None,
        }
    }

    /// All that requests and connections are sent to.
    pub fn destinations(&self) -> impl Iterator<Item = &'a Destination> + use<'a> {
        let tls = self.tls.iter().flat_map(|route| &route.route);
        let bytes = tls.chain(self.tcp.iter().flat_map(|route| &route.route));
        self.http_destinations().map(|to| &to.destination).chain(bytes.map(|to| &to.destination))
    }

    /// The destinations of requests.
    pub fn http_destinations(&self) -> impl Iterator<Item = &'a HttpDestination> + use<'a> {
        self.http.iter().flat_map(|route| match &route.action {
            HttpAction::Route(to) => to.as_slice(),
            HttpAction::Redirect(_) | HttpAction::DirectResponse(_) | HttpAction::Delegate(_) => &[],
        })
    }

    /// Whether requests are sent to a host with a wildcard.
    pub(crate) fn lead_to_wildcards(&self) -> bool {
        self.http_destinations().any(|to| to.destination.host.is_wildcard())
    }

    /// What identifies the object.
    pub fn key(&self) -> Key {
        Key { kind: self.kind, namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }
}

impl<'a> From<&'a VirtualService> for RouteRules<'a> {
    fn from(service: &'a VirtualService) -> Self {
        RouteRules {
            kind: Kind::VirtualService,
            meta: &service.meta,
            hosts: &service.hosts,
            parents: &service.gateways,
            export_to: &service.export_to,
            http: &service.http,
            tls: &service.tls,
            tcp: &service.tcp,
        }
    }
}
