//! Which hosts beyond the cluster proxies send elsewhere: to an egress gateway.

use mizzen_api::{
    istio::{ExportTo, GatewayRef, ServiceEntry, ServiceEntryPort, VirtualService},
    routing::{Destination, HttpAction, HttpMatch, TcpMatch},
};
use mizzen_types::{Hostname, Protocol};

use super::world::World;

/// The domain of services.
const DOMAIN: &str = "cluster.local";

/// Whether no proxy of a namespace goes to any host of the entry itself, since routes lead all that it calls there to other services.
pub(super) fn is_led(world: &World, entry: &ServiceEntry, namespace: &str) -> bool {
    let default = &world.mesh().default_virtual_service_export_to;
    let is_visible = |route: &&VirtualService| {
        let list: &[ExportTo] = if route.export_to.is_empty() { default } else { &route.export_to };
        ExportTo::visible(list, &route.meta.namespace, namespace)
    };
    let of_proxies: Vec<&VirtualService> =
        world.routes.iter().filter(|route| route.gateways.contains(&GatewayRef::Mesh)).filter(is_visible).collect();
    entry.hosts.iter().all(|host| {
        let about: Vec<&VirtualService> =
            of_proxies.iter().copied().filter(|route| route.hosts.iter().any(|routed| routed.overlaps(host))).collect();
        !about.iter().any(|route| may_lead_to(route, &entry.hosts))
            && entry.ports.iter().all(|port| about.iter().any(|route| leads(route, host, port)))
    })
}

/// Whether proxies get it by these gateways.
fn is_for_proxies(gateways: &[GatewayRef]) -> bool {
    gateways.is_empty() || gateways.contains(&GatewayRef::Mesh)
}

/// Whether some rule for proxies sends to one of these hosts, or is another object's.
fn may_lead_to(route: &VirtualService, hosts: &[Hostname]) -> bool {
    let is_one = |to: &Destination| {
        let to = to.host.qualify(&route.meta.namespace, DOMAIN);
        hosts.iter().any(|host| host.overlaps(&to))
    };
    let mut of_http =
        route.http.iter().filter(|rule| rule.matches.is_empty() || rule.matches.iter().any(|one| is_for_proxies(&one.gateways)));
    let by_http = of_http.any(|rule| match &rule.action {
        HttpAction::Route(to) => to.iter().any(|to| is_one(&to.destination)),
        HttpAction::Delegate(_) => true,
        HttpAction::Redirect(_) | HttpAction::DirectResponse(_) => false,
    });
    let of_tls = route.tls.iter().filter(|rule| rule.matches.iter().any(|one| is_for_proxies(&one.connection.gateways)));
    let of_tcp = route.tcp.iter().filter(|rule| rule.matches.is_empty() || rule.matches.iter().any(|one| is_for_proxies(&one.gateways)));
    let mut others = of_tls.flat_map(|rule| &rule.route).chain(of_tcp.flat_map(|rule| &rule.route));
    by_http || others.any(|to| is_one(&to.destination))
}

/// Whether all that proxies send to this port of the host is decided by a rule.
fn leads(route: &VirtualService, host: &Hostname, port: &ServiceEntryPort) -> bool {
    if !route.hosts.iter().any(|routed| routed.covers(host)) {
        return false;
    }
    let is_all_http = |one: &HttpMatch| {
        let is_anybody = one.source_labels.is_empty() && one.source_namespace.is_none();
        is_for_proxies(&one.gateways) && is_anybody && one.port.is_none_or(|number| number == port.number)
    };
    let is_all = |one: &TcpMatch| {
        let is_anybody = one.source_labels.is_empty() && one.source_namespace.is_none() && one.destination_subnets.is_empty();
        is_for_proxies(&one.gateways) && is_anybody && one.port.is_none_or(|number| number == port.number)
    };
    // What no rule for HTTP matches is answered, and goes nowhere.
    let by_http = || route.http.iter().any(|rule| rule.matches.is_empty() || rule.matches.iter().any(is_all_http));
    let is_all_tls = |name: &Hostname, connection: &TcpMatch| name.covers(host) && is_all(connection);
    let by_tls = || {
        let mut matches = route.tls.iter().flat_map(|rule| &rule.matches);
        matches.any(|one| one.sni_hosts.iter().any(|name| is_all_tls(name, &one.connection)))
    };
    let by_tcp = || route.tcp.iter().any(|rule| rule.matches.is_empty() || rule.matches.iter().any(is_all));
    match port.protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => by_http(),
        Protocol::Https | Protocol::Tls => by_tls(),
        _ => by_tcp(),
    }
}
