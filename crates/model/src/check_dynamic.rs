//! Routes to names that are found on demand which name what these do not cover, and rules of TLS by which nobody is called: they lead nowhere.

use std::collections::BTreeSet;

use mizzen_api::{
    Kind, Problem,
    istio::{ClientTls, DestinationRule, GatewayRef, HeaderOps, VirtualService},
    routing::{HttpAction, HttpDestination, HttpRoute, TcpDestination},
};
use mizzen_types::{Hostname, Protocol};

use crate::{
    check::{traffic_policies, warn},
    derive::DOMAIN,
    service::{Resolve, ServiceView},
    snapshot::Snapshot,
};

/// Warns of routes that lead to wildcard hosts with resolution DYNAMIC_DNS, which do not cover the request's or the connection's own name.
pub(crate) fn check(snapshot: &Snapshot, services: &[&ServiceView], found: &mut Vec<Problem>) {
    let dynamic: BTreeSet<&Hostname> =
        services.iter().filter(|service| service.resolve == Resolve::DynamicDns).map(|service| &service.host).collect();
    if dynamic.is_empty() {
        return;
    }
    around(snapshot, services, found);
    for rules in snapshot.objects::<VirtualService>() {
        for (at, rule) in rules.http.iter().enumerate() {
            let HttpAction::Route(to) = &rule.action else { continue };
            for (number, to) in to.iter().enumerate().filter(|(_, to)| dynamic.contains(&to.destination.host)) {
                if let Some(message) = of_requests(rules, rule, to) {
                    warn(found, Kind::VirtualService, &rules.meta, format!("spec.http[{at}].route[{number}].destination.host"), message);
                }
            }
        }
        for (at, rule) in rules.tls.iter().enumerate() {
            let names: Vec<&Hostname> = rule.matches.iter().flat_map(|m| &m.sni_hosts).collect();
            of_connections(&rule.route, &names, &dynamic, &mut |number, message| {
                warn(found, Kind::VirtualService, &rules.meta, format!("spec.tls[{at}].route[{number}].destination.host"), message);
            });
        }
    }
}

/// Rules that would have TLS put around that of programs. The name that is called is within it, so that nobody would be verified by it.
fn around(snapshot: &Snapshot, services: &[&ServiceView], found: &mut Vec<Problem>) {
    for rule in snapshot.objects::<DestinationRule>() {
        let host = rule.host.qualify(&rule.meta.namespace, DOMAIN);
        let of_rule = |service: &&&ServiceView| host == service.host || host.covers(&service.host);
        let called = services.iter().filter(|service| service.resolve == Resolve::DynamicDns).filter(of_rule);
        let ports = called.flat_map(|service| &service.ports).filter(|port| port.protocol == Protocol::Tls);
        let ports: BTreeSet<u16> = ports.map(|port| port.port).collect();
        for (path, policy) in traffic_policies(rule) {
            for port in &ports {
                let (tls, below) = match policy.port_level_settings.get(port) {
                    Some(exact) => (&exact.tls, "portLevelSettings"),
                    None => (&policy.tls, "tls"),
                };
                if matches!(tls, Some(ClientTls::Foreign(_))) {
                    let message = format!(
                        "connections to port {port} of {host} are TLS already, and the name that they call is within: nobody would be verified by \
                         another TLS around it, and they lead nowhere"
                    );
                    warn(found, Kind::DestinationRule, &rule.meta, format!("{path}.{below}"), message);
                }
            }
        }
    }
}

/// The name that an authority (`name`, `name:port`) asks for, if a host whose names are found on demand covers it.
pub fn dynamic_name(host: &Hostname, authority: &str) -> Option<Hostname> {
    let bare = authority.rsplit_once(':').map_or(authority, |(bare, _)| bare);
    bare.parse().ok().filter(|name: &Hostname| !name.is_wildcard() && host.covers(name))
}

/// Why some requests of a route do not come to a destination, if so.
fn of_requests(rules: &VirtualService, rule: &HttpRoute, to: &HttpDestination) -> Option<String> {
    let host = &to.destination.host;
    if let Some(name) = authority(rule, to) {
        return dynamic_name(host, name).is_none().then(|| {
            format!("its names are those of requests, and the route makes {name} of them, which {host} does not cover: it leads nowhere")
        });
    }
    let is_mesh = |gateways: &[GatewayRef]| gateways.is_empty() || gateways.contains(&GatewayRef::Mesh);
    let at_sidecars = rules.gateways.contains(&GatewayRef::Mesh)
        && (rule.matches.is_empty() || rule.matches.iter().any(|condition| is_mesh(&condition.gateways)));
    let called = rules.hosts.iter().map(|called| called.qualify(&rules.meta.namespace, DOMAIN));
    let other = called.into_iter().find(|called| at_sidecars && !host.overlaps(called))?;
    Some(format!(
        "its names are those of requests, and {host} does not cover {other}: sidecars send requests for that nowhere, unless the route makes a name of them that \
         it covers"
    ))
}

/// The authority that a route makes of a request's on the way to a destination, if it does: as it is rewritten, or as header `Host` is set.
fn authority<'a>(rule: &'a HttpRoute, to: &'a HttpDestination) -> Option<&'a str> {
    let is_host = |name: &str| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority");
    let set = |ops: &'a HeaderOps| ops.set.iter().find(|(name, _)| is_host(name)).map(|(_, value)| value.as_str());
    let of_rule = || rule.rewrite.as_ref().and_then(|rewrite| rewrite.authority.as_deref()).or_else(|| set(&rule.headers.request));
    match &rule.action {
        // Of several each has its own before the route's; of one it is the other way round.
        HttpAction::Route(all) if all.len() > 1 => set(&to.headers.request).or_else(of_rule),
        _ => of_rule().or_else(|| set(&to.headers.request)),
    }
}

/// The same of connections, by their server names.
fn of_connections(route: &[TcpDestination], names: &[&Hostname], dynamic: &BTreeSet<&Hostname>, tell: &mut impl FnMut(usize, String)) {
    for (number, to) in route.iter().enumerate().filter(|(_, to)| dynamic.contains(&to.destination.host)) {
        let host = &to.destination.host;
        if let Some(name) = names.iter().find(|name| !host.covers(name)) {
            tell(
                number,
                format!("its names are the server names of connections, and {host} does not cover {name}: the route leads nowhere"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{Change, Snapshot};

    const ENTRY: &str = "
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: wide, namespace: shop}, spec: {hosts: ['*.wide.example'], resolution: DYNAMIC_DNS,
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]}}
---
";

    /// Checks what is said of a VirtualService.
    #[track_caller]
    fn check(spec: &str, expected: &[&str]) {
        check_of("VirtualService", spec, expected);
    }

    /// The same of an object of this kind.
    #[track_caller]
    fn check_of(kind: &str, spec: &str, expected: &[&str]) {
        let text = format!(
            "{ENTRY}{{kind: {kind}, apiVersion: networking.istio.io/v1, metadata: {{name: v, namespace: shop}}, spec: {{{spec}}}}}\n"
        );
        let parsed = mizzen_api::parse_documents(&text, &Arc::from("test.yaml"));
        let object = |object: Result<_, mizzen_api::Refusal>| object.unwrap_or_else(|refusal| panic!("{:#?}", refusal.problems));
        let changes: Vec<Change> = parsed.objects.into_iter().map(|result| Change::from(object(result))).collect();
        let found = crate::check(&Snapshot::empty().apply(changes));
        let found: Vec<String> = found.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
        let expected: Vec<String> = expected.iter().map(|line| format!("spec.{line}")).collect();
        assert_eq!(found, expected, "{spec}");
    }

    #[test]
    fn names_of_authorities() {
        let host = "*.wide.example".parse().unwrap();
        for (authority, expected) in [
            ("a.wide.example", Some("a.wide.example")),
            ("a.wide.example:8080", Some("a.wide.example")),
            ("a.b.wide.example", Some("a.b.wide.example")),
            ("wide.example", None),
            ("*.wide.example", None),
            ("a.example:80", None),
            ("", None),
        ] {
            let name = super::dynamic_name(&host, authority);
            assert_eq!(name.as_ref().map(|name| name.as_str()), expected, "{authority}");
        }
    }

    #[test]
    fn tls_around_tls() {
        let rule = |policy: &str, expected: &[&str]| check_of("DestinationRule", &format!("host: '*.wide.example', {policy}"), expected);
        let warned = |place: &str| {
            format!(
                "{place}: connections to port 443 of *.wide.example are TLS already, and the name that they call is within: nobody would be verified by another \
                 TLS around it, and they lead nowhere"
            )
        };
        rule("trafficPolicy: {tls: {mode: SIMPLE}}", &[&warned("trafficPolicy.tls")]);
        rule("trafficPolicy: {tls: {mode: DISABLE}}", &[]);
        let at = |port: u16, mode: &str| format!("portLevelSettings: [{{port: {{number: {port}}}, tls: {{mode: {mode}}}}}]");
        rule(&format!("trafficPolicy: {{{}}}", at(443, "SIMPLE")), &[&warned("trafficPolicy.portLevelSettings")]);
        // The other port is one of requests.
        rule(&format!("trafficPolicy: {{{}}}", at(80, "SIMPLE")), &[]);
        rule(&format!("trafficPolicy: {{tls: {{mode: SIMPLE}}, {}}}", at(443, "DISABLE")), &[]);
        check_of("DestinationRule", "host: a.example, trafficPolicy: {tls: {mode: SIMPLE}}", &[]);
    }

    #[test]
    fn names_found_on_demand() {
        let to = "route: [{destination: {host: '*.wide.example'}}]";
        let nowhere = "http[0].route[0].destination.host: its names are those of requests, and *.wide.example does not cover a.example: sidecars send requests \
                       for that nowhere, unless the route makes a name of them that it covers";
        check(&format!("hosts: ['*.wide.example'], http: [{{{to}}}]"), &[]);
        check(&format!("hosts: [a.example], http: [{{{to}}}]"), &[nowhere]);
        check(&format!("hosts: [a.wide.example, a.example], http: [{{{to}}}]"), &[nowhere]);
        for hosts in ["a.wide.example", "'*.b.wide.example'", "'*.example'"] {
            check(&format!("hosts: [{hosts}], http: [{{{to}}}]"), &[]);
        }
        check(&format!("hosts: [a.example], http: [{{rewrite: {{authority: b.wide.example}}, {to}}}]"), &[]);
        let set = |host: &str| format!("headers: {{request: {{set: {{Host: {host}}}}}}}");
        check(&format!("hosts: [a.example], http: [{{{}, {to}}}]", set("b.wide.example")), &[]);
        let both = |first: &str| {
            format!(
                "route: [{{destination: {{host: '*.wide.example'}}, {}, weight: 1}}, {{destination: {{host: b}}, weight: 1}}]",
                set(first)
            )
        };
        check(&format!("hosts: [a.example], http: [{{rewrite: {{authority: b.example}}, {}}}]", both("b.wide.example")), &[]);
        let other = "http[0].route[0].destination.host: its names are those of requests, and the route makes b.example of them, which *.wide.example does not \
                     cover: it leads nowhere";
        check(&format!("hosts: [a.example], http: [{{rewrite: {{authority: b.wide.example}}, {}}}]", both("b.example")), &[other]);
        check(&format!("hosts: [a.wide.example], http: [{{{}, {to}}}]", set("b.example")), &[other]);
        check(&format!("hosts: [a.example], gateways: [g], http: [{{{to}}}]"), &[]);
        check(&format!("hosts: [a.example], gateways: [g, mesh], http: [{{match: [{{gateways: [g]}}], {to}}}]"), &[]);
        check(&format!("hosts: [a.example], gateways: [g], http: [{{rewrite: {{authority: 'b.wide.example:80'}}, {to}}}]"), &[]);
        check(
            &format!("hosts: [a.example], gateways: [g], http: [{{rewrite: {{authority: wide.example}}, {to}}}]"),
            &[
                "http[0].route[0].destination.host: its names are those of requests, and the route makes wide.example of them, which *.wide.example does \
               not cover: it leads nowhere",
            ],
        );
        check(&format!("hosts: ['*.wide.example'], tls: [{{match: [{{sniHosts: [a.wide.example]}}], {to}}}]"), &[]);
        check(
            &format!("hosts: [a.example], tls: [{{match: [{{sniHosts: [a.example]}}], {to}}}]"),
            &[
                "tls[0].route[0].destination.host: its names are the server names of connections, and *.wide.example does not cover a.example: the route \
               leads nowhere",
            ],
        );
    }
}
