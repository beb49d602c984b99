//! VirtualServices at gateways, and beside each other.

use std::collections::BTreeMap;

use mizzen_types::Name;

use super::missing;
use crate::{
    Cx, Entry, Index, Sort,
    base::covering,
    code,
    facts::{self, GatewayFacts, ListenerFacts, Of, RouteFacts, scopes},
    own,
};

pub(crate) fn look(cx: &Cx<'_>) {
    let Some(route) = cx.entry.route() else { return };
    gateways(cx, route);
    tokens(cx, route);
    same_host(cx, route);
}

/// Namespace and name of a Gateway that is named.
fn place<'a>(cx: &Cx<'a>, gateway: &'a str) -> (&'a str, &'a str) {
    gateway.split_once('/').unwrap_or((&cx.entry.id.namespace, gateway))
}

fn gateways(cx: &Cx<'_>, route: &RouteFacts) {
    for (number, gateway) in route.gateways.iter().enumerate().filter(|(_, gateway)| &***gateway != "mesh" && !own::is_internal(gateway)) {
        let path = format!("spec.gateways[{number}]");
        let (namespace, name) = place(cx, gateway);
        let istio = cx.named(Sort::Gateway, namespace, name);
        let other = if istio.is_none() { cx.named(Sort::K8sGateway, namespace, name) } else { None };
        let hosts = match (istio.and_then(Entry::gateway), other.map(|other| &other.facts.of)) {
            (Some(gateway), _) => hosts_for(gateway, namespace, &cx.entry.id.namespace),
            (None, Some(Of::K8sGateway(listeners))) => listeners.iter().map(any_host).collect(),
            _ => {
                missing(cx, "gateway", gateway, path.clone());
                Vec::new()
            }
        };
        let is_served = hosts.iter().any(|served| route.hosts.iter().any(|host| overlap(served, host)));
        if !is_served {
            let text = format!(
                "no host of the VirtualService {}, [{}], is one of the Gateway {namespace}/{name}",
                cx.entry.id.place(),
                route.hosts.join(" ")
            );
            cx.say(&code::IST0132, path, text);
        }
    }
}

fn any_host(listener: &ListenerFacts) -> String {
    if listener.host.is_empty() { "*".to_owned() } else { listener.host.to_string() }
}

/// The hosts of a Gateway that VirtualServices of a namespace may have.
fn hosts_for(gateway: &GatewayFacts, of_gateway: &str, namespace: &str) -> Vec<String> {
    let host = |host: &Name| match host.split_once('/') {
        None => Some(host.to_string()),
        Some(("*", host)) => Some(host.to_owned()),
        Some((".", host)) => (of_gateway == namespace).then(|| host.to_owned()),
        Some((allowed, host)) => (allowed == namespace).then(|| host.to_owned()),
    };
    gateway.servers.iter().flat_map(|server| server.hosts.iter().filter_map(host)).collect()
}

/// Whether there is a name that both cover; each may be a wildcard.
fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
        (Some(one), None) => other.ends_with(one),
        (None, Some(other)) => one.ends_with(other),
        (None, None) => one == other,
    }
}

/// Routes by claims of a token, at gateways where nothing verifies tokens.
fn tokens(cx: &Cx<'_>, route: &RouteFacts) {
    let Some((claim, path)) = route.claims.iter().find(|(_, path)| path.starts_with("spec.http")) else { return };
    for gateway in route.gateways.iter().filter(|gateway| &***gateway != "mesh") {
        let (namespace, name) = place(cx, gateway);
        let Some(found) = cx.named(Sort::Gateway, namespace, name).and_then(Entry::gateway) else { continue };
        for pod in cx.pods(None, &found.selector) {
            let Some(labels) = pod.workload().map(|workload| &workload.labels) else { continue };
            let is_verified = ["istio-system", &*pod.id.namespace].iter().any(|namespace| {
                let mut all = cx.within(Sort::RequestAuthentication, namespace);
                all.any(|policy| policy.selected().is_some_and(|selected| selected.selector.is_within(labels)))
            });
            if !is_verified {
                let text = format!(
                    "the VirtualService routes by the JWT claim {claim}, and no RequestAuthentication is there for the pod {} of the gateway {namespace}/{name}, \
                     so that no token is verified there and no claim is known",
                    pod.id.name
                );
                cx.say(&code::IST0149, path.clone(), text);
            }
        }
    }
}

/// VirtualServices for the mesh with the same host, where a namespace sees both.
fn same_host(cx: &Cx<'_>, route: &RouteFacts) {
    if !route.is_of_mesh() {
        return;
    }
    let hosts: Vec<String> = route.hosts.iter().map(|host| facts::qualified(host, &cx.entry.id.namespace)).collect();
    // By scope and host, who is there.
    let mut groups: BTreeMap<(Name, String), BTreeMap<String, ()>> = BTreeMap::new();
    for scope in scopes(&route.export_to, &cx.entry.id.namespace) {
        for host in &hosts {
            let mut names = BTreeMap::new();
            for other in with_host(cx, host, Some(&scope)) {
                names.insert(other.id.place(), ());
            }
            if &*scope != "*" {
                overlapping(cx, host, Some("*")).into_iter().for_each(|other| _ = names.insert(other.id.place(), ()));
            }
            groups.insert((scope.clone(), host.clone()), names);
        }
    }
    if route.is_exported_to_all() {
        for host in &hosts {
            // Those that some namespaces alone see, with a host that this one has too.
            for other in
                overlapping(cx, host, None).into_iter().filter(|other| other.route().is_some_and(|other| !other.is_exported_to_all()))
            {
                let Some(of_other) = other.route() else { continue };
                for scope in scopes(&of_other.export_to, &other.id.namespace) {
                    let theirs = of_other.hosts.iter().map(|host| facts::qualified(host, &other.id.namespace));
                    for theirs in theirs.filter(|theirs| overlap(theirs, host)) {
                        let names = groups.entry((scope.clone(), theirs)).or_default();
                        names.insert(other.id.place(), ());
                        names.insert(cx.entry.id.place(), ());
                    }
                }
            }
        }
    }
    if let Some(((scope, host), names)) = groups.iter().find(|(_, names)| names.len() > 1) {
        let names: Vec<&str> = names.keys().map(String::as_str).collect();
        let text = format!(
            "the VirtualServices {} for the mesh have the same host {scope}/{host}, and which of them holds is not defined; merge them into one",
            names.join(",")
        );
        cx.say(&code::IST0109, "metadata.name", text);
    }
}

/// VirtualServices for the mesh with this very host; those that are exported to just this scope, if one is given.
fn with_host<'a>(cx: &Cx<'a>, host: &str, scope: Option<&str>) -> Vec<&'a Entry> {
    let in_scope = |entry: &&Entry| entry.route().is_some_and(|route| is_in(route, entry, scope));
    cx.list(Index::RoutedHost, host).filter(in_scope).collect()
}

fn is_in(route: &RouteFacts, entry: &Entry, scope: Option<&str>) -> bool {
    route.is_of_mesh() && scope.is_none_or(|scope| scopes(&route.export_to, &entry.id.namespace).iter().any(|seen| &**seen == scope))
}

/// VirtualServices for the mesh with a host that overlaps this one.
fn overlapping<'a>(cx: &Cx<'a>, host: &str, scope: Option<&str>) -> Vec<&'a Entry> {
    let mut all: Vec<&Entry> = covering(host).iter().flat_map(|word| with_host(cx, word, scope)).collect();
    if host.starts_with('*') {
        // What is below a wildcard is found by it only where some namespaces alone see it; there are few such wildcards.
        let below: Vec<&Entry> =
            if scope.is_none() { cx.list(Index::ScopedBelow, host).collect() } else { cx.all(Sort::VirtualService).collect() };
        let is_below = |entry: &&Entry| {
            let Some(route) = entry.route().filter(|route| is_in(route, entry, scope)) else { return false };
            route.hosts.iter().any(|theirs| overlap(&facts::qualified(theirs, &entry.id.namespace), host))
        };
        all.extend(below.into_iter().filter(is_below));
    }
    all
}
