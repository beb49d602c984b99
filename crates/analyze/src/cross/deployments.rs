//! Deployments and the services that lead to them; the control plane's own.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::{LabelSet, Node};
use mizzen_types::Name;

use super::{
    injection::{self, INJECT, INJECTION},
    webhooks,
};
use crate::{Cx, Entry, Index, Sort, code, facts, facts::WorkloadFacts};

/// The level of Pod Security below which a namespace admits no pod.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce";

/// How many names a message has at most.
const MAX_NAMES: usize = 5;

pub(crate) fn look(cx: &Cx<'_>) {
    let (Sort::Deployment, Some(workload)) = (cx.entry.sort(), cx.entry.workload()) else { return };
    let labels = &cx.entry.facts.labels;
    if labels.label("gateway.istio.io/managed") != Some("istio.io-mesh-controller") && is_in_mesh(cx, workload) {
        let services = services(cx, workload);
        protocols(cx, &services);
        targets(cx, &services);
        admission(cx, workload);
    }
    // Without Kubernetes there are no webhooks, and no image is run.
    if !cx.is_stand_alone() {
        webhooks::auto_image(cx, workload);
    }
    if labels.label("app") == Some("istiod") {
        key_sets(cx, workload);
    }
}

/// Whether pods of this template get a proxy, as far as labels and annotations say.
fn is_in_mesh(cx: &Cx<'_>, workload: &WorkloadFacts) -> bool {
    let has_proxy = |c: &facts::ContainerFacts| !c.is_init && &*c.name == "istio-proxy" && !c.image.is_empty();
    if workload.containers.iter().any(has_proxy) {
        return true;
    }
    let said = workload.labels.label(INJECT).or_else(|| workload.annotations.get(INJECT).map(|value| &**value));
    match said {
        Some(value) => value == "true",
        None => {
            let namespace = injection::document(cx, &cx.entry.id.namespace);
            namespace.is_some_and(|namespace| namespace.facts.labels.label(INJECTION) == Some("enabled"))
        }
    }
}

/// Whether the namespace forbids the capability that the proxies need.
fn admission(cx: &Cx<'_>, workload: &WorkloadFacts) {
    const MODE: &str = "sidecar.istio.io/interceptionMode";
    const CONFIG: &str = "proxy.istio.io/config";
    let said = |name: &str| workload.annotations.get(name).map(|text| &**text).filter(|text| !text.is_empty());
    let config = said(CONFIG).and_then(|text| Node::of_text(text, 0));
    let of_config = config.as_ref().and_then(|config| config.at("interceptionMode")).and_then(Node::text);
    let (name, mode) = if let Some(mode) = said(MODE) { (MODE, Some(mode)) } else { (CONFIG, of_config) };
    let level = injection::document(cx, &cx.entry.id.namespace).and_then(|namespace| namespace.facts.labels.label(ENFORCED));
    if let (Some("TPROXY"), Some(level @ ("baseline" | "restricted"))) = (mode, level) {
        let text =
            format!("interception mode TPROXY takes the capability NET_ADMIN, which the namespace does not admit ({ENFORCED}={level})");
        cx.say(&code::MZ0114, format!("spec.template.metadata.annotations[\"{name}\"]"), text);
    }
}

fn services<'a>(cx: &Cx<'a>, workload: &WorkloadFacts) -> Vec<&'a Entry> {
    let namespace = &cx.entry.id.namespace;
    let found = workload.labels.iter().flat_map(|(name, value)| cx.list(Index::Selecting, &facts::selecting(namespace, name, value)));
    let selects = |entry: &&Entry| entry.service().is_some_and(|service| service.selector.is_within(&workload.labels));
    let mut services: Vec<&Entry> = found.filter(selects).collect();
    services.sort_by(|a, b| a.id.cmp(&b.id));
    services
}

fn protocols(cx: &Cx<'_>, services: &[&Entry]) {
    let mut ports: BTreeMap<u16, BTreeMap<Name, Vec<String>>> = BTreeMap::new();
    for (entry, service) in services.iter().filter_map(|entry| Some((entry, entry.service()?))) {
        for port in &service.ports {
            let protocol = if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() };
            ports.entry(port.port).or_default().entry(protocol).or_default().push(entry.id.place());
        }
    }
    for (port, protocols) in ports.iter().filter(|(_, protocols)| protocols.len() > 1) {
        let mut names: Vec<&str> = protocols.values().flatten().map(String::as_str).collect();
        names.sort_unstable();
        let text = format!(
            "deployment {} stands behind services that have port {port} with different protocols: {}",
            cx.entry.id.name,
            names.join(", ")
        );
        cx.say(&code::IST0116, "metadata.name", text);
    }
}

fn targets(cx: &Cx<'_>, services: &[&Entry]) {
    let mut targets: BTreeMap<Name, BTreeMap<u16, String>> = BTreeMap::new();
    for (entry, service) in services.iter().filter_map(|entry| Some((entry, entry.service()?))) {
        for port in &service.ports {
            let target = if &*port.target == "0" { port.port.to_string().into() } else { port.target() };
            targets.entry(target).or_default().insert(port.port, entry.id.place());
        }
    }
    for (target, ports) in targets.iter().filter(|(_, ports)| ports.len() > 1) {
        let names: BTreeSet<&str> = ports.values().map(String::as_str).collect();
        let numbers: Vec<String> = ports.keys().map(u16::to_string).collect();
        let text = format!(
            "deployment {} stands behind services ({}) that lead to targetPort \"{target}\" from different ports: {}",
            cx.entry.id.name,
            names.into_iter().collect::<Vec<_>>().join(", "),
            numbers.join(", ")
        );
        cx.say(&code::IST0137, "metadata.name", text);
    }
}

/// Keys of issuers are fetched from wherever a RequestAuthentication says, unless the control plane is told where it may not.
fn key_sets(cx: &Cx<'_>, workload: &WorkloadFacts) {
    let is_bound = |container: &facts::ContainerFacts| {
        !container.is_init && container.env.get("BLOCKED_CIDRS_IN_JWKS_URIS").is_some_and(|value| !value.is_empty())
    };
    if workload.containers.iter().any(is_bound) {
        return;
    }
    let mut names: Vec<String> =
        cx.all(Sort::RequestAuthentication).filter(|entry| !entry.id.is_of_system()).map(|e| e.id.place()).collect();
    if names.is_empty() {
        return;
    }
    names.sort_unstable();
    let count = names.len();
    let more = if count > MAX_NAMES { format!(", and {} more", count - MAX_NAMES) } else { String::new() };
    names.truncate(MAX_NAMES);
    let text = format!(
        "BLOCKED_CIDRS_IN_JWKS_URIS is not set, and {count} RequestAuthentication(s) can have keys fetched from anywhere ({}{more}): \
         set it to the networks that nobody should reach so",
        names.join(", ")
    );
    cx.say(&code::IST0175, "metadata.name", text);
}
