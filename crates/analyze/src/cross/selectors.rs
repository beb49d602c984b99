//! Whom policies and the like select, and whether others select the same.

use std::collections::BTreeSet;

use mizzen_api::LabelSet;

use super::{label_path, missing, written};
use crate::{
    Code, Cx, Entry, Index, Sort, code,
    facts::{self, Of, PolicyFacts, SelectedFacts},
};

const INJECT: &str = "sidecar.istio.io/inject";
const AMBIENT: &str = "ambient.istio.io/redirection";
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";

pub(crate) fn sidecar(cx: &Cx<'_>) {
    let Some(selected) = cx.entry.selected() else { return };
    let is_for_all = selected.selector.iter().next().is_none();
    if is_for_all {
        let namespace = &cx.entry.id.namespace;
        if cx.named(Sort::Namespace, "", namespace).is_some_and(is_ambient_namespace) {
            return no_impact(cx, "metadata.namespace", "the namespace is in ambient mode");
        }
        without_selector(cx, Sort::Sidecar, &code::IST0111, true);
        return;
    }
    let pods = own_pods(cx, "spec.workloadSelector.labels");
    if pods.iter().copied().any(is_redirected) {
        no_impact(cx, "spec.workloadSelector", "a workload that is selected is in ambient mode");
    }
    let pods: Vec<&Entry> = pods.into_iter().filter(|pod| !is_redirected(pod)).collect();
    select_same(cx, Sort::Sidecar, &code::IST0110, &pods);
}

fn no_impact(cx: &Cx<'_>, field: &str, why: &str) {
    cx.say(&code::IST0167, field, format!("the policy has no effect: {why}"));
}

pub(crate) fn telemetry(cx: &Cx<'_>) {
    let Of::Telemetry(telemetry) = &cx.entry.facts.of else { return };
    let selected = &telemetry.selected;
    if !selected.has_selector && selected.targets.is_empty() {
        without_selector(cx, Sort::Telemetry, &code::IST0160, false);
    } else if selected.selector.iter().next().is_some() {
        let pods = own_pods(cx, "spec.selector.matchLabels");
        select_same(cx, Sort::Telemetry, &code::IST0159, &pods);
    }
    if cx.mesh().default_providers.get("accessLogging").is_none_or(Vec::is_empty) {
        for number in &telemetry.unprovided {
            let text = format!(
                "the Telemetry {:?} in namespace {:?} names no provider, and neither do the mesh's settings: it is ignored",
                cx.entry.id.name, cx.entry.id.namespace
            );
            cx.say(&code::IST0157, format!("spec.accessLogging[{number}]"), text);
        }
    }
    ineffective(cx);
}

/// The pods of the namespace that are selected; that nothing is, is told.
fn own_pods<'a>(cx: &Cx<'a>, path: &str) -> Vec<&'a Entry> {
    let Some(selected) = cx.entry.selected() else { return Vec::new() };
    let pods = cx.pods(Some(&cx.entry.id.namespace), &selected.selector);
    let in_place = |entry: &Entry| entry.id.namespace == cx.entry.id.namespace;
    if pods.is_empty() && !cx.labelled(&selected.selector).any(in_place) {
        missing(cx, "selector", &written(&selected.selector), label_path(path, &selected.selector));
    }
    pods
}

/// Others of the kind that select a pod of these.
fn select_same(cx: &Cx<'_>, sort: Sort, code: &'static Code, pods: &[&Entry]) {
    let namespace = &cx.entry.id.namespace;
    for pod in pods {
        let Some(labels) = pod.workload().map(|workload| &workload.labels) else { continue };
        let like = labels.iter().flat_map(|(name, value)| cx.list(Index::SelectingLike(sort), &facts::selecting(namespace, name, value)));
        let selects = |entry: &&Entry| entry.selected().is_some_and(|selected| selected.selector.is_within(labels));
        let names: BTreeSet<&str> = like.filter(selects).map(|entry| &*entry.id.name).collect();
        if names.len() > 1 {
            let text = format!(
                "the {} [{}] in namespace {:?} select the same pod {:?}, and which of them holds is not defined",
                plural(sort),
                names.into_iter().collect::<Vec<_>>().join(" "),
                namespace,
                pod.id.name
            );
            cx.say(code, "metadata.name", text);
        }
    }
}

/// Others of the kind that are for the whole namespace.
fn without_selector(cx: &Cx<'_>, sort: Sort, code: &'static Code, is_empty_all: bool) {
    let is_for_all = |entry: &&Entry| {
        let is_for_all = |selected: &SelectedFacts| {
            let has_none = !selected.has_selector || (is_empty_all && selected.selector.iter().next().is_none());
            has_none && selected.targets.is_empty()
        };
        entry.selected().is_some_and(is_for_all)
    };
    let names: Vec<&str> = cx.within(sort, &cx.entry.id.namespace).filter(is_for_all).map(|entry| &*entry.id.name).collect();
    if names.len() > 1 {
        let text = format!(
            "the {} [{}] in namespace {:?} have no workload selector, and which of them holds is not defined",
            plural(sort),
            names.join(" "),
            cx.entry.id.namespace
        );
        cx.say(code, "metadata.name", text);
    }
}

fn plural(sort: Sort) -> &'static str {
    if sort == Sort::Sidecar { "Sidecars" } else { "Telemetries" }
}

/// A selector that selects a pod of the Gateway API's, where it is a `targetRef` that counts.
pub(crate) fn ineffective(cx: &Cx<'_>) {
    let Some(selected) = cx.entry.selected().filter(|selected| selected.has_selector && selected.targets.is_empty()) else { return };
    let gateways: BTreeSet<&str> = (cx.pods(Some(&cx.entry.id.namespace), &selected.selector).into_iter())
        .filter_map(|pod| pod.workload().and_then(|workload| workload.labels.label(GATEWAY)))
        .collect();
    for gateway in gateways {
        let text = format!("the selector has no effect on the Kubernetes Gateway {gateway}: name it by targetRefs");
        cx.say(&code::IST0166, "spec.selector", text);
    }
}

pub(crate) fn policy(cx: &Cx<'_>) {
    let Some(policy) = cx.entry.policy() else { return };
    let selector = &policy.selected.selector;
    let namespace = &cx.entry.id.namespace;
    let is_of_mesh = cx.mesh().root == *namespace;
    let in_mesh = |entry: &Entry| is_in_mesh(cx, entry);
    let is_matched = match (policy.selected.has_selector, is_of_mesh) {
        // What is attached to a Gateway or a Service is for calls, not for the namespace's workloads.
        (false, _) if !policy.selected.targets.is_empty() => true,
        (false, true) => true,
        (true, true) => cx.labelled(selector).any(in_mesh),
        (true, false) if selector.iter().next().is_some() => {
            cx.labelled(selector).filter(|entry| entry.id.namespace == *namespace).any(in_mesh)
        }
        (_, false) => cx.list(Index::Workloads, namespace).any(in_mesh),
    };
    if !is_matched {
        let text = format!("no workload of the mesh has the labels that this policy selects: {}", written(selector));
        let field = if policy.selected.has_selector { label_path("spec.selector.matchLabels", selector) } else { String::new() };
        cx.say(&code::IST0127, field, text);
    }
    namespaces(cx, policy);
    ineffective(cx);
}

/// Namespaces that a policy names and that stand nowhere.
fn namespaces(cx: &Cx<'_>, policy: &PolicyFacts) {
    for (rule, from, field, number, written) in policy.namespaces() {
        let (name, path) = (written.to_ascii_lowercase(), format!("spec.rules[{rule}].from[{from}].source.{field}[{number}]"));
        let counts = |namespace: &Entry| cx.is_stand_alone() || namespace.is_written();
        let is_there = match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(end), _) => cx.all(Sort::Namespace).any(|namespace| counts(namespace) && namespace.id.name.ends_with(end)),
            (None, Some(start)) => cx.all(Sort::Namespace).any(|namespace| counts(namespace) && namespace.id.name.starts_with(start)),
            (None, None) => cx.named(Sort::Namespace, "", &name).is_some_and(counts),
        };
        if !is_there && name != "*" {
            missing(cx, "namespace", written, path);
        }
    }
}

/// Whether a workload has a proxy, or will have one when it starts.
fn is_in_mesh(cx: &Cx<'_>, entry: &Entry) -> bool {
    if cx.is_stand_alone() || !entry.is_pod() || entry.is_assumed || is_redirected(entry) {
        return true;
    }
    let Some(workload) = entry.workload() else { return false };
    if workload.containers.iter().any(|container| &*container.name == "istio-proxy" && !container.image.is_empty()) {
        return true;
    }
    let written = workload.labels.label(INJECT).or_else(|| workload.annotations.get(INJECT).map(|text| &**text));
    if let Some(written) = written {
        return written == "true";
    }
    let Some(namespace) = cx.named(Sort::Namespace, "", &entry.id.namespace) else { return false };
    let labels = &namespace.facts.labels;
    // What runs shows what became of it; of a template it is told what will.
    let will_be = entry.sort().is_controller()
        && (is_ambient_namespace(namespace) || (labels.label("istio-injection").is_none() && labels.label("istio.io/rev").is_some()));
    labels.label("istio-injection") == Some("enabled") || will_be
}

/// Whether a pod's calls go through the proxy of its node.
fn is_redirected(entry: &Entry) -> bool {
    entry.workload().is_some_and(|workload| workload.annotations.get(AMBIENT).is_some_and(|text| &**text == "enabled"))
}

fn is_ambient_namespace(namespace: &Entry) -> bool {
    let label = |name: &str| namespace.facts.labels.label(name).unwrap_or_default();
    label("istio-injection") != "enabled" && label("istio.io/rev").is_empty() && label("istio.io/dataplane-mode") == "ambient"
}

/// Patches that are placed beside others, in an order that nothing defines.
pub(crate) fn filter(cx: &Cx<'_>) {
    let Of::Filter(filter) = &cx.entry.facts.of else { return };
    if !filter.is_unordered {
        return;
    }
    for patch in filter.patches.iter().filter(|patch| patch.is_relative) {
        // What comes before: in this filter, or in one that stands before it.
        let is_before = |entry: &Entry| match &entry.facts.of {
            Of::Filter(other) => other.has_versioned(&patch.name, if entry.id == cx.entry.id { patch.number } else { usize::MAX }),
            _ => false,
        };
        let order = |entry: &&Entry| entry.id <= cx.entry.id;
        let is_versioned = cx.list(Index::VersionedPatch, &patch.name).filter(order).any(is_before);
        let code = if is_versioned { &code::IST0155 } else { &code::IST0151 };
        let also =
            if is_versioned { "; another is there for some versions of proxies, so that an upgrade may change what holds" } else { "" };
        let text = format!(
            "the EnvoyFilter has no priority and an operation that depends on what is there already, and may not be applied{also}: set a priority, \
             or use INSERT_FIRST or ADD"
        );
        cx.say(code, format!("spec.configPatches[{}].patch.operation", patch.number), text);
    }
}
