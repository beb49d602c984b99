//! Istio's Gateways: the pods that they select, what these serve, and other Gateways at the same pods.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::{LabelSet, Labels};
use mizzen_types::Name;

use super::{label_path, missing, written};
use crate::{
    Cx, Entry, Index, Sort, code,
    facts::{self, GatewayFacts, ServerFacts},
};

pub(crate) fn look(cx: &Cx<'_>) {
    let Some(gateway) = cx.entry.gateway() else { return };
    let pods: Vec<&Entry> = cx.labelled(&gateway.selector).filter(|entry| entry.is_pod()).collect();
    if pods.is_empty() {
        missing(cx, "selector", &written(&gateway.selector), label_path("spec.selector", &gateway.selector));
    } else {
        if !cx.is_stand_alone() {
            ports(cx, gateway, &pods);
        }
        if cx.knows_secrets() {
            secrets(cx, gateway, &pods);
        }
    }
    certificates(cx, gateway);
    conflicts(cx, gateway);
}

/// Ports on which the pods listen, and that no Service of theirs leads to.
fn ports(cx: &Cx<'_>, gateway: &GatewayFacts, pods: &[&Entry]) {
    let mut reached = BTreeSet::new();
    let namespaces: BTreeSet<&Name> = pods.iter().map(|pod| &pod.id.namespace).collect();
    for service in namespaces.iter().flat_map(|namespace| cx.within(Sort::Service, namespace)) {
        let Some(of_service) = service.service() else { continue };
        let selects = |pod: &&&Entry| pod.id.namespace == service.id.namespace && has(pod, &of_service.selector);
        if pods.iter().any(|pod| selects(&pod)) {
            let ports = of_service.ports.iter().filter(|port| port.protocol.is_empty() || &*port.protocol == "TCP");
            // A target that is a name is no number to compare with: then the port counts.
            reached.extend(ports.map(|port| port.target.parse().ok().filter(|target| *target != 0).unwrap_or(port.port)));
        }
    }
    for (number, server) in gateway.servers.iter().enumerate().filter(|(_, server)| server.has_port && !reached.contains(&server.port)) {
        let text = format!(
            "the gateway listens on the target port {} of its pods (selector {}), and no port of their Services leads there, so that it is not reached \
             through a Service",
            server.port,
            written(&gateway.selector)
        );
        cx.say(&code::IST0162, format!("spec.servers[{number}].port.number"), text);
    }
}

fn has(pod: &Entry, selector: &Labels) -> bool {
    pod.workload().is_some_and(|workload| selector.is_within(&workload.labels))
}

/// Secrets of certificates: they are looked for beside the pods, not beside the Gateway.
fn secrets(cx: &Cx<'_>, gateway: &GatewayFacts, pods: &[&Entry]) {
    let namespaces: BTreeSet<&Name> = pods.iter().map(|pod| &pod.id.namespace).collect();
    for (number, server) in gateway.servers.iter().enumerate() {
        let Some(credential) = &server.credential else { continue };
        let path = format!("spec.servers[{number}].tls.credentialName");
        let secret = match credential.split_once('/') {
            Some((namespace, name)) => cx.named(Sort::Secret, namespace, name),
            None => namespaces.iter().find_map(|namespace| cx.named(Sort::Secret, namespace, credential)),
        };
        match secret.map(|secret| &secret.facts.of) {
            None => missing(cx, "credentialName", credential, path),
            Some(facts::Of::Secret(secret))
                if secret.validity.as_ref().is_some_and(|valid| cx.now().is_none_or(|now| valid.contains(&now))) => {}
            Some(_) => {
                let namespace = namespaces.first().map(|namespace| &***namespace).unwrap_or_default();
                let text = format!(
                    "the credential of the Gateway {} in namespace {namespace} cannot be used: the Secret holds no certificate that is valid now, with its key (tls.crt, tls.key)",
                    cx.entry.id.name
                );
                cx.say(&code::IST0161, path, text);
            }
        }
    }
}

/// A certificate in several Gateways of the same pods: a client that has a connection for one uses it for hosts of the other.
fn certificates(cx: &Cx<'_>, gateway: &GatewayFacts) {
    let mut told = BTreeMap::new();
    for (number, server) in gateway.servers.iter().enumerate() {
        let Some(certificate) = &server.certificate else { continue };
        for other in cx.list(Index::Certificate, certificate).filter(|other| other.id != cx.entry.id) {
            let Some(of_other) = other.gateway().filter(|other| gateway.selector.is_within(&other.selector)) else { continue };
            if of_other.servers.iter().any(|other| is_same_certificate(server, other)) {
                told.entry(other.id.place()).or_insert(number);
            }
        }
    }
    for (other, number) in told {
        let field = if gateway.servers.get(number).is_some_and(|server| server.credential.is_some()) {
            "credentialName"
        } else {
            "serverCertificate"
        };
        let text = format!(
            "a certificate is in several Gateways [{} {other}]: clients that use an HTTP/2 connection again may get 404",
            cx.entry.id.place()
        );
        cx.say(&code::IST0138, format!("spec.servers[{number}].tls.{field}"), text);
    }
}

fn is_same_certificate(one: &ServerFacts, other: &ServerFacts) -> bool {
    let is_same_file = one.credential.is_some() || (one.key.is_some() && one.key == other.key);
    one.certificate == other.certificate && one.credential == other.credential && is_same_file
}

/// Hosts that two Gateways have on one port of the same pods.
fn conflicts(cx: &Cx<'_>, gateway: &GatewayFacts) {
    let mut shares: BTreeMap<&crate::Id, bool> = BTreeMap::new();
    for (number, server) in gateway.servers.iter().enumerate() {
        let mut names = BTreeSet::new();
        for host in &server.hosts {
            for other in cx.list(Index::Listener, &facts::listener_word(server.port, host)).filter(|other| other.id != cx.entry.id) {
                let Some(of_other) = other.gateway() else { continue };
                // As Istio has it: of several servers of a Gateway on one port the last one is compared.
                let last = of_other.servers.iter().rev().find(|other| other.port == server.port);
                let is_same = last.is_some_and(|last| last.bind == server.bind && last.hosts.contains(host));
                if is_same && *shares.entry(&other.id).or_insert_with(|| share_pods(cx, &gateway.selector, &of_other.selector)) {
                    names.insert(other.id.place());
                }
            }
        }
        if !names.is_empty() {
            let text = format!(
                "the Gateways {} have a host of this server on the same port of the same pods (workload selector {}, port {}, hosts {})",
                names.into_iter().collect::<Vec<_>>().join(","),
                written(&gateway.selector),
                server.port,
                server.hosts.join(",")
            );
            cx.say(&code::IST0145, format!("spec.servers[{number}]"), text);
        }
    }
}

/// Whether two selectors are equal, or the text of one is part of the other's and a pod has the labels of both.
fn share_pods(cx: &Cx<'_>, one: &Labels, other: &Labels) -> bool {
    if one == other {
        return true;
    }
    let (a, b) = (written(one), written(other));
    let is_consistent = one.iter().all(|(name, value)| other.label(name).is_none_or(|other| other == value));
    if !is_consistent || !(a.contains(&b) || b.contains(&a)) {
        return false;
    }
    let both: Labels = one.iter().chain(other.iter()).map(|(name, value)| (Name::from(name), Name::from(value))).collect();
    cx.labelled(&both).any(Entry::is_pod)
}
