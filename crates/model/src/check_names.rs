//! Server names of routes that lead nowhere at the gateways to which these are bound.

use std::collections::BTreeMap;

use mizzen_api::{
    Kind, Problem,
    istio::{Passthrough, VirtualService},
};
use mizzen_types::Hostname;

use crate::{check::warn, routes::RouteRules, rules::by_age, servers::OpenServer, snapshot::Snapshot};

/// Warns of conditions of routes for TLS of which no server has a name, or of which a name is another one's already. `standing` are the servers of each port of the
/// same pods.
pub(crate) fn check<'a>(snapshot: &'a Snapshot, standing: impl Iterator<Item = &'a Vec<OpenServer<'a>>> + Clone, found: &mut Vec<Problem>) {
    let all = snapshot.objects::<VirtualService>().map(RouteRules::from);
    let mut all: Vec<RouteRules<'a>> = all.filter(|rules| !rules.tls.is_empty()).collect();
    all.sort_by(|a, b| by_age(a.meta, b.meta));
    // By object, route and condition: whether any server has a name of it.
    let mut has_server: BTreeMap<(usize, usize, usize), bool> = BTreeMap::new();
    for open in standing {
        let mut taken: BTreeMap<Hostname, String> = BTreeMap::new();
        for ended in open.iter().filter(|open| open.server.tls.is_some()) {
            let meta = &ended.gateway.meta;
            let who = format!("Gateway {} ({}), which ends its TLS", meta.namespaced_name(), meta.origin);
            taken.extend(ended.server.hosts.iter().map(|host| (host.host.clone(), who.clone())));
        }
        for server in open.iter().filter(|open| open.server.passthrough == Some(Passthrough::Routes)) {
            for (at, rules) in all.iter().enumerate().filter(|(_, rules)| rules.parents.contains(&server.parent())) {
                let conditions =
                    rules.tls.iter().enumerate().flat_map(|(route, of)| of.matches.iter().enumerate().map(move |(m, of)| (route, m, of)));
                for (route, m, condition) in conditions.filter(|(_, _, condition)| server.is_meant(&condition.connection)) {
                    let names = server.passed(*rules, condition);
                    *has_server.entry((at, route, m)).or_default() |= !names.is_empty();
                    if let Some((name, who)) = names.iter().find_map(|name| Some((name, taken.get(name)?))) {
                        let message = format!("is left out on port {}: {name} belongs to {who}", server.server.port.number);
                        warn(found, Kind::VirtualService, rules.meta, field(route, m), message);
                        continue;
                    }
                    // Who is asked for by its source alone may leave the name to others.
                    if condition.connection.source_labels.is_empty() && condition.connection.source_namespace.is_none() {
                        let who = format!("VirtualService {} ({})", rules.meta.namespaced_name(), rules.meta.origin);
                        taken.extend(names.into_iter().map(|name| (name, who.clone())));
                    }
                }
            }
        }
    }
    for ((at, route, m), _) in has_server.into_iter().filter(|(_, has_server)| !has_server) {
        if let Some(rules) = all.get(at) {
            let message = "none of these is a host of a server with mode PASSTHROUGH to which this object may bind".to_owned();
            warn(found, Kind::VirtualService, rules.meta, field(route, m), message);
        }
    }
}

fn field(route: usize, condition: usize) -> String {
    format!("spec.tls[{route}].match[{condition}].sniHosts")
}
