//! Namespaces and their pods: who gets a proxy, who has none, and whose is another than the one that is injected now.

use mizzen_api::{LabelSet, Node};
use mizzen_types::Name;

use crate::{
    Cx, Entry, Index, Sort, code,
    facts::{InjectorFacts, Of, SelectedFacts},
};

pub(crate) const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";
const MODE: &str = "istio.io/dataplane-mode";
pub(crate) const INJECT: &str = "sidecar.istio.io/inject";

pub(crate) fn look(cx: &Cx<'_>) {
    match cx.entry.sort() {
        Sort::Namespace if cx.entry.facts.of != Of::ImpliedNamespace => {
            if &*cx.entry.id.name != "istio-system" {
                namespace(cx);
            }
            images(cx);
        }
        Sort::Pod if !cx.is_stand_alone() => pod(cx),
        _ => {}
    }
}

/// The document of a namespace, if there is one.
pub(crate) fn document<'a>(cx: &Cx<'a>, namespace: &str) -> Option<&'a Entry> {
    cx.named(Sort::Namespace, "", namespace).filter(|entry| entry.facts.of != Of::ImpliedNamespace)
}

fn injector<'a>(cx: &Cx<'a>, revision: Option<&str>) -> Option<&'a InjectorFacts> {
    let name = match revision {
        None | Some("" | "default") => "istio-sidecar-injector".to_owned(),
        Some(revision) => format!("istio-sidecar-injector-{revision}"),
    };
    cx.list(Index::Injector, &name).find_map(|entry| match &entry.facts.of {
        Of::Injector(injector) => Some(injector),
        _ => None,
    })
}

fn namespace(cx: &Cx<'_>) {
    let (labels, name) = (&cx.entry.facts.labels, &cx.entry.id.name);
    let (injection, revision, mode) = (labels.label(INJECTION), labels.label(REVISION), labels.label(MODE));
    // A namespace that opts out of injection may say elsewhere how it takes part.
    let others = [(REVISION, revision), (MODE, mode)].into_iter().filter(|_| injection.is_none_or(|value| value == "enabled"));
    let written: Vec<(&str, &str)> =
        [(INJECTION, injection)].into_iter().chain(others).filter_map(|(label, value)| Some((label, value?))).collect();
    if let [(first, _), _, ..] = &*written {
        let list: Vec<String> = written.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let text =
            format!("the namespace has more than one label about injection ({}): which one holds is undefined; keep one", list.join(", "));
        cx.say(&code::IST0123, format!("metadata.labels[\"{first}\"]"), text);
    }
    if mode == Some("ambient") || !injection.unwrap_or_default().is_empty() || revision.is_some() {
        return;
    }
    if injector(cx, None).is_some_and(|injector| injector.by_default) {
        let text = "pods of this namespace get a proxy without a label, since injection is on for namespaces by default";
        return cx.say(&code::IST0148, "metadata.name", text);
    }
    if cx.is_stand_alone() {
        return;
    }
    let text = format!(
        "pods of this namespace get no proxy: label it with 'kubectl label namespace {name} istio-injection=enabled', \
         or with 'kubectl label namespace {name} istio-injection=disabled' if none are wanted"
    );
    cx.say(&code::IST0102, "metadata.name", text);
}

fn pod(cx: &Cx<'_>) {
    let (entry, Some(pod)) = (cx.entry, cx.entry.workload()) else { return };
    if &*entry.id.namespace == "istio-system" || pod.host_network {
        return;
    }
    let has_proxy = pod.containers.iter().any(|container| &*container.name == "istio-proxy" && !container.image.is_empty());
    let said = entry.facts.labels.label(INJECT).or_else(|| entry.facts.annotations.get(INJECT).map(|value| &**value));
    if has_proxy || said.is_some_and(|value| value.eq_ignore_ascii_case("false")) {
        return;
    }
    let Some(namespace) = document(cx, &entry.id.namespace) else { return };
    let labels = &namespace.facts.labels;
    if labels.label(INJECTION) == Some("enabled") && labels.label(MODE) != Some("ambient") {
        let text = format!("the pod {} has no Istio proxy, though its namespace asks for one: start it anew", entry.id.place());
        cx.say(&code::IST0103, "metadata.name", text);
    }
}

/// Pods whose proxy is of another image than the injected one.
fn images(cx: &Cx<'_>) {
    let (labels, name) = (&cx.entry.facts.labels, &cx.entry.id.name);
    let revision = labels.label(REVISION);
    if labels.label(INJECTION) != Some("enabled") && revision.is_none() {
        return;
    }
    let Some(image) = injector(cx, revision).map(|injector| &*injector.image).filter(|image| !image.is_empty()) else { return };
    let variants = Variants::of(cx, name);
    let is_other = |pod: &&Entry| {
        let proxies = pod.workload().into_iter().flat_map(|pod| &pod.containers).filter(|container| &*container.name == "istio-proxy");
        let fits = |found: &Name| {
            &**found == image || found.strip_prefix(image).is_some_and(|rest| rest == format!("-{}", variants.image_of(pod)))
        };
        let is_own = pod.facts.annotations.get("sidecar.istio.io/proxyImage").is_some_and(|image| !image.is_empty());
        !is_own && proxies.into_iter().any(|container| !fits(&container.image))
    };
    let mut others: Vec<&str> = cx.within(Sort::Pod, name).filter(is_other).map(|pod| &*pod.id.name).collect();
    others.sort_unstable();
    if !others.is_empty() {
        let text = format!(
            "proxies of pods of this namespace are not of the image that is injected now, {image} (pods: {}): start them anew",
            others.join(", ")
        );
        cx.say(&code::IST0158, "metadata.name", text);
    }
}

/// Which image a proxy is asked to have, from the widest to the narrowest.
struct Variants<'a> {
    wide: Name,
    of_workloads: Vec<&'a SelectedFacts>,
}

impl<'a> Variants<'a> {
    fn of(cx: &Cx<'a>, namespace: &str) -> Variants<'a> {
        let mesh = cx.mesh();
        let configs = |namespace: &str| {
            let all = cx.within(Sort::ProxyConfig, namespace);
            let read = |entry: &'a Entry| if let Of::Selected(selected) = &entry.facts.of { Some(selected) } else { None };
            all.filter_map(read).collect::<Vec<&SelectedFacts>>()
        };
        let root = configs(&mesh.root);
        let own = if *mesh.root == *namespace { Vec::new() } else { configs(namespace) };
        let (of_workloads, of_namespace): (Vec<_>, Vec<_>) = own.into_iter().partition(|config| config.has_selector);
        // The last one of a place counts.
        let wide = [root.last(), of_namespace.last()].into_iter().flatten().map(|config| &config.image_type);
        let wide = [&mesh.image_type].into_iter().chain(wide).rfind(|image| !image.is_empty()).cloned();
        Variants { wide: wide.unwrap_or_default(), of_workloads }
    }

    fn image_of(&self, pod: &Entry) -> Name {
        let own = pod.facts.annotations.get("proxy.istio.io/config").and_then(|text| Node::of_text(text, 0));
        let own = own.and_then(|config| config.at("image.imageType").and_then(Node::text).map(Name::from));
        let selected = self.of_workloads.iter().filter(|config| config.selector.is_within(&pod.facts.labels));
        let selected = selected.map(|config| config.image_type.clone()).rfind(|image| !image.is_empty());
        let found = own.filter(|image| !image.is_empty()).or(selected).unwrap_or_else(|| self.wide.clone());
        if &*found == "default" { Name::default() } else { found }
    }
}
