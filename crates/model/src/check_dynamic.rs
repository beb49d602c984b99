//! Routes to names that are found on demand which name what these do not cover: they lead nowhere.

use std::collections::BTreeSet;

use mizzen_api::{
    Kind, Problem,
    istio::{GatewayRef, VirtualService},
    routing::{HttpAction, HttpDestination, HttpRoute, TcpDestination},
};
use mizzen_types::Hostname;

use crate::{
    check::warn,
    derive::DOMAIN,
    service::{Resolve, ServiceView},
    snapshot::Snapshot,
};

/// Warns of routes that lead to wildcard hosts with resolution DYNAMIC_DNS, and of which such a host is not the request's or the connection's own.
pub(crate) fn check(snapshot: &Snapshot, services: &[&ServiceView], found: &mut Vec<Problem>) {
    let dynamic: BTreeSet<&Hostname> =
        services.iter().filter(|service| service.resolve == Resolve::DynamicDns).map(|service| &service.host).collect();
    if dynamic.is_empty() {
        return;
    }
    for rules in snapshot.objects::<VirtualService>() {
        for (at, rule) in rules.http.iter().enumerate() {
            let HttpAction::Route(to) = &rule.action else { continue };
            for (number, to) in to.iter().enumerate().filter(|(_, to)| dynamic.contains(&to.destination.host)) {
                if let Some(message) = of_requests(rules, rule, to, &dynamic) {
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

/// Why some requests of a route do not come to a destination, if so.
fn of_requests(rules: &VirtualService, rule: &HttpRoute, to: &HttpDestination, dynamic: &BTreeSet<&Hostname>) -> Option<String> {
    let host = &to.destination.host;
    if let Some(name) = rule.rewrite.as_ref().and_then(|rewrite| rewrite.authority.as_deref()) {
        let bare = name.rsplit_once(':').map_or(name, |(bare, _)| bare);
        if !bare.parse().is_ok_and(|name: Hostname| !name.is_wildcard() && host.covers(&name)) {
            return Some(format!(
                "its names are those of requests, and the route makes {name} of them, which {host} does not cover: it leads nowhere"
            ));
        }
    }
    let is_mesh = |gateways: &[GatewayRef]| gateways.is_empty() || gateways.contains(&GatewayRef::Mesh);
    let at_sidecars = rules.gateways.contains(&GatewayRef::Mesh)
        && (rule.matches.is_empty() || rule.matches.iter().any(|condition| is_mesh(&condition.gateways)));
    let called = rules.hosts.iter().map(|called| called.qualify(&rules.meta.namespace, DOMAIN));
    let other = called.into_iter().find(|called| at_sidecars && !dynamic.contains(called))?;
    Some(format!(
        "its names are those of requests for that host itself: sidecars send requests for {other} nowhere; a gateway may, for names that {host} covers"
    ))
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
        let text = format!(
            "{ENTRY}{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: v, namespace: shop}}, spec: {{{spec}}}}}\n"
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
    fn names_found_on_demand() {
        let to = "route: [{destination: {host: '*.wide.example'}}]";
        let nowhere = "http[0].route[0].destination.host: its names are those of requests for that host itself: sidecars send requests for a.example nowhere; \
                       a gateway may, for names that *.wide.example covers";
        check(&format!("hosts: ['*.wide.example'], http: [{{{to}}}]"), &[]);
        check(&format!("hosts: [a.example], http: [{{{to}}}]"), &[nowhere]);
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
