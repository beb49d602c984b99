//! ServiceEntries: addresses that they need, and protocols that contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_types::Name;

use crate::{
    Cx, Entry, Index, code,
    facts::{self, EntryFacts, scopes},
};

pub(crate) fn look(cx: &Cx<'_>) {
    let Some(entry) = cx.entry.entry_of_service() else { return };
    addresses(cx, entry);
    protocols(cx, entry);
}

/// A port of plain TCP is told apart from others by its address alone.
fn addresses(cx: &Cx<'_>, entry: &EntryFacts) {
    let gets_some = entry.is_allocatable && (entry.is_allocated || cx.mesh().allocates);
    if !entry.addresses.is_empty() || gets_some {
        return;
    }
    for (number, port) in entry.ports.iter().enumerate() {
        if port.protocol.is_empty() || port.protocol.eq_ignore_ascii_case("TCP") {
            let text = "the ServiceEntry needs addresses for a port of this protocol, which is told apart by address alone";
            cx.say(&code::IST0134, format!("spec.ports[{number}].protocol"), text);
        }
    }
}

/// One host and port with several protocols, where a namespace sees all of them.
fn protocols(cx: &Cx<'_>, entry: &EntryFacts) {
    let mut told: Vec<(&Name, u16)> = Vec::new();
    for host in &entry.hosts {
        told.extend(entry.ports.iter().map(|port| (host, port.port)));
    }
    let id = &cx.entry.id;
    for (host, port) in told {
        let mut seen: BTreeMap<Name, Vec<(&Entry, &Name)>> = BTreeMap::new();
        for other in cx.list(Index::Host, &facts::qualified(host, &id.namespace)) {
            let Some(of_other) = other.entry_of_service().filter(|entry| entry.hosts.contains(host)) else { continue };
            for scope in scopes(&of_other.export_to, &other.id.namespace) {
                let ports = of_other.ports.iter().filter(|other| other.port == port);
                seen.entry(scope).or_default().extend(ports.map(|port| (other, &port.protocol)));
            }
        }
        let all: Vec<(&Entry, &Name)> = seen.get("*").cloned().unwrap_or_default();
        for (scope, mut group) in seen {
            if &*scope != "*" {
                group.extend(&all);
            }
            let protocols: BTreeSet<String> = group.iter().map(|(_, protocol)| protocol.to_ascii_uppercase()).collect();
            if protocols.len() < 2 || !group.iter().any(|(other, _)| other.id == *id) {
                continue;
            }
            let names: BTreeSet<String> = group.iter().map(|(other, _)| other.id.place()).collect();
            let join = |all: BTreeSet<String>| all.into_iter().collect::<Vec<_>>().join(", ");
            let text = format!(
                "several ServiceEntries ({}) have the host {host:?} and port {port} with different protocols ({})",
                join(names),
                join(protocols)
            );
            return cx.say(&code::IST0177, "metadata.name", text);
        }
    }
}
