//! Hosts that others name: whether they exist, with which ports and subsets.

use std::collections::BTreeMap;

use mizzen_api::{LabelSet, Labels};
use mizzen_types::Name;

use super::missing;
use crate::{
    Cx, Entry, Index, Sort, code,
    facts::{self, DestinationFacts, RoutedTo, RuleOfHost, SubsetFacts, scopes},
};

/// What a VirtualService routes to.
pub(crate) fn destinations(cx: &Cx<'_>) {
    let Some(route) = cx.entry.route() else { return };
    for to in &route.destinations {
        let what = if to.routed == RoutedTo::Mirror { "mirror host" } else { "host" };
        let named = services(cx, &to.host, &route.export_to);
        if named.is_empty() {
            missing(cx, what, &to.host, format!("{}.host", to.path));
        } else {
            port(cx, to, &named);
        }
        if !to.subset.is_empty() && !has_subset(cx, to) {
            let what =
                if to.routed == RoutedTo::Mirror { "mirror+subset in a DestinationRule" } else { "host+subset in a DestinationRule" };
            missing(cx, what, &format!("{}+{}", to.host, to.subset), format!("{}.subset", to.path));
        }
    }
    shadowed_subsets(cx);
}

/// The Services and ServiceEntries that Istio takes a host for, as one namespace sees them: those that have the very host, or else those with a wildcard
/// that covers it.
fn services<'a>(cx: &Cx<'a>, host: &str, export_to: &[Name]) -> Vec<&'a Entry> {
    let namespace = &cx.entry.id.namespace;
    let own: Vec<Name> = if export_to.is_empty() {
        vec![namespace.clone()]
    } else {
        export_to.iter().map(|scope| if &**scope == "." { namespace.clone() } else { scope.clone() }).collect()
    };
    let exact: Vec<&Entry> = cx.list(Index::Host, &facts::qualified(host, namespace)).collect();
    for scope in [vec!["*".into()], own] {
        let seen: Vec<&Entry> = exact.iter().copied().filter(|entry| scope.iter().any(|scope| is_seen(entry, scope))).collect();
        if !seen.is_empty() {
            return seen;
        }
    }
    let wide = crate::base::covering(host).into_iter().filter(|word| word.starts_with('*'));
    let wide = wide.flat_map(|word| cx.list(Index::Host, &word).collect::<Vec<_>>());
    wide.filter(|entry| is_seen(entry, "*") || is_seen(entry, namespace)).collect()
}

/// Whether a service is exported to just this scope.
fn is_seen(entry: &Entry, scope: &str) -> bool {
    let namespace = &entry.id.namespace;
    match entry.entry_of_service() {
        Some(service) => scopes(&service.export_to, namespace).iter().any(|seen| &**seen == scope),
        None => match entry.facts.annotations.get("networking.istio.io/exportTo").filter(|text| !text.is_empty()) {
            Some(text) => text.split(',').any(|seen| (if seen == "." { &**namespace } else { seen }) == scope),
            None => scope == "*",
        },
    }
}

fn ports(entry: &Entry) -> Vec<u16> {
    let ports = entry.service().map(|service| &service.ports).or_else(|| entry.entry_of_service().map(|service| &service.ports));
    ports.map(|ports| ports.iter().map(|port| port.port).collect()).unwrap_or_default()
}

fn port(cx: &Cx<'_>, to: &DestinationFacts, named: &[&Entry]) {
    // Several may have the host: nothing is said that does not hold for each.
    let ports: Vec<Vec<u16>> = named.iter().map(|entry| ports(entry)).collect();
    if to.port == 0 {
        if let Some(first) = ports.first().filter(|_| ports.iter().all(|ports| ports.len() > 1)) {
            let numbers: Vec<String> = first.iter().map(u16::to_string).collect();
            let text = format!(
                "the VirtualService routes to {:?} and names no port, while the service has several: [{}]; name one in port.number",
                to.host,
                numbers.join(" ")
            );
            cx.say(&code::IST0112, to.path.clone(), text);
        }
    } else if !ports.iter().any(|ports| ports.contains(&to.port)) {
        missing(cx, "host:port", &format!("{}:{}", to.host, to.port), format!("{}.port.number", to.path));
    }
}

fn has_subset(cx: &Cx<'_>, to: &DestinationFacts) -> bool {
    let key = name_of_host(&to.host, &cx.entry.id.namespace);
    cx.list(Index::RuledHost, &facts::qualified(&to.host, &cx.entry.id.namespace)).any(|entry| {
        let has = |rule: &RuleOfHost| {
            name_of_host(&rule.host, &entry.id.namespace) == key && rule.subsets.iter().any(|set| set.name == to.subset)
        };
        entry.rule_of_host().is_some_and(has)
    })
}

/// What Istio takes a host for where it looks for subsets: namespace and name of a Service, else the host as it stands in the namespace that names it.
fn name_of_host(host: &str, namespace: &str) -> (String, String) {
    let host = host.to_ascii_lowercase();
    match host
        .strip_suffix(".svc.cluster.local")
        .and_then(|name| name.rsplit_once('.'))
        .filter(|(name, ns)| !name.is_empty() && !ns.is_empty())
    {
        Some((name, namespace)) => (namespace.to_owned(), name.to_owned()),
        None => (namespace.to_owned(), host),
    }
}

/// Subsets by which another VirtualService, for the mesh, splits a host: calls through a gateway that go to the host as a whole are not split.
fn shadowed_subsets(cx: &Cx<'_>) {
    let Some(route) = cx.entry.route().filter(|route| !route.gateways.is_empty()) else { return };
    let name = cx.entry.id.place();
    for to in route.destinations.iter().filter(|to| to.is_http() && to.subset.is_empty()) {
        for other in cx.list(Index::SubsetOfHost, &to.host) {
            let text = format!(
                "the subset in the VirtualService {} does not hold for calls of the VirtualService {name} through gateways, which go to the host {:?} as a whole",
                other.id.place(),
                to.host
            );
            cx.say(&code::IST0140, format!("{}.host", to.path), text);
        }
    }
}

/// Whether a DestinationRule's host exists, and its subsets hold a pod each.
pub(crate) fn rule(cx: &Cx<'_>) {
    let Some(rule) = cx.entry.rule_of_host() else { return };
    let named = services(cx, &rule.host, &rule.export_to);
    if named.is_empty() {
        let text = format!("the host {} of the DestinationRule is that of no Service and no ServiceEntry in the mesh", rule.host);
        cx.say(&code::IST0174, "spec.host", text);
        return;
    }
    let mut told = BTreeMap::new();
    for (number, subset) in rule.subsets.iter().enumerate() {
        told.insert(&subset.name, (number, subset));
    }
    for (number, subset) in told.into_values() {
        if !named.iter().any(|service| has_endpoint(cx, service, subset)) {
            let text = format!(
                "the subset {} of the DestinationRule selects no pod: calls to it fail with 503 (no healthy upstream)",
                subset.name
            );
            cx.say(&code::IST0173, format!("spec.subsets[{number}].labels"), text);
        }
    }
}

/// Whether a subset selects anything. Where a service selects workloads, these are looked at; a Service's own selector is not, as in Istio.
fn has_endpoint(cx: &Cx<'_>, service: &Entry, subset: &SubsetFacts) -> bool {
    let selector = service.entry_of_service().map(|entry| entry.selector.clone()).unwrap_or_default();
    let wanted: Labels = selector.iter().chain(subset.labels.iter()).map(|(name, value)| (Name::from(name), Name::from(value))).collect();
    let (placed, plain): (Vec<_>, Vec<_>) = wanted.iter().partition(|(name, _)| NODE_LABELS.contains(name));
    if placed.is_empty() && cx.labelled(&wanted).next().is_some() {
        return true;
    }
    // Labels that an endpoint has from its node.
    let plain: Labels = plain.into_iter().map(|(name, value)| (Name::from(name), Name::from(value))).collect();
    let on_node = |entry: &Entry| placed.iter().all(|(name, value)| node_label(cx, entry, name).is_some_and(|label| label == *value));
    if !placed.is_empty() && cx.labelled(&plain).any(on_node) {
        return true;
    }
    service.entry_of_service().is_some_and(|entry| entry.endpoints.iter().any(|labels| subset.labels.is_within(labels)))
}

const NODE_LABELS: [&str; 4] = [HOSTNAME, "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
const HOSTNAME: &str = "kubernetes.io/hostname";

fn node_label<'a>(cx: &Cx<'a>, entry: &'a Entry, name: &str) -> Option<&'a str> {
    let workload = entry.workload()?;
    let node = Some(&workload.node).filter(|node| !node.is_empty()).and_then(|node| cx.named(Sort::Node, "", node));
    match (node, name) {
        (Some(node), HOSTNAME) => Some(&*node.id.name),
        (Some(node), _) => node.facts.labels.label(name).or_else(|| workload.labels.label(name)),
        (None, _) => workload.labels.label(name),
    }
}
