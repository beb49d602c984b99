//! Webhooks of injection: what two of them take, where they lead, and what none of them takes.

use std::collections::BTreeSet;

use mizzen_api::{LabelSet, Labels};
use mizzen_types::Name;

use super::injection;
use crate::{
    Cx, Entry, Sort, code,
    facts::{Of, WebhookFacts, WorkloadFacts},
};

const REVISION: &str = "istio.io/rev";

pub(crate) fn look(cx: &Cx<'_>) {
    if cx.entry.sort() != Sort::MutatingWebhook || !is_of_injection(cx.entry) {
        return;
    }
    overlaps(cx);
    for (at, hook) in hooks(cx.entry).iter().enumerate() {
        let Some((namespace, name)) = &hook.service else { continue };
        if cx.named(Sort::Service, namespace, name).is_none() {
            let text = format!("injector refers to the service {namespace}/{name} of a control plane, which does not exist");
            cx.say(&code::IST0139, format!("webhooks[{at}].clientConfig.service.name"), text);
        }
    }
}

/// A deployment whose proxy's image is to be put in by injection, and no webhook will.
pub(crate) fn auto_image(cx: &Cx<'_>, workload: &WorkloadFacts) {
    let is_auto = |container: &crate::facts::ContainerFacts| &*container.name == "istio-proxy" && &*container.image == "auto";
    let of_pods = || workload.containers.iter().filter(|container| !container.is_init);
    let Some(at) = of_pods().position(is_auto) else { return };
    let none = Labels::default();
    let namespace = injection::document(cx, &cx.entry.id.namespace).map_or(&none, |namespace| &namespace.facts.labels);
    let takes = |hook: &WebhookFacts| hook.name.ends_with("istio.io") && takes(hook, namespace, &workload.labels);
    if !cx.all(Sort::MutatingWebhook).any(|entry| hooks(entry).iter().any(takes)) {
        let field = format!("spec.template.spec.containers[{at}].image");
        let text = format!(
            "Deployment {} has the image \"auto\", and no webhook of Istio's takes its pods: it will not be replaced",
            cx.entry.id.name
        );
        cx.say(&code::IST0146, field, text);
    }
}

fn hooks(entry: &Entry) -> &[WebhookFacts] {
    if let Of::Webhooks(hooks) = &entry.facts.of { hooks } else { &[] }
}

fn is_of_injection(entry: &Entry) -> bool {
    hooks(entry).iter().any(|hook| hook.name.ends_with("istio.io")) || !revisions(entry).is_empty()
}

/// The revisions that a configuration is for.
fn revisions(entry: &Entry) -> BTreeSet<&str> {
    let mut all: BTreeSet<&str> = entry.facts.labels.label(REVISION).into_iter().collect();
    for hook in hooks(entry) {
        all.extend([&hook.namespaces, &hook.objects].into_iter().filter_map(|labels| labels.label(REVISION)));
        let terms = hook.namespace_terms.iter().chain(&hook.object_terms).filter(|(key, ..)| &**key == REVISION);
        all.extend(terms.flat_map(|(_, _, values)| values.iter().map(|value| &**value)));
    }
    all
}

/// Labels of something that might be: one about injection, one of a revision.
struct Imagined<'a>([Option<(&'a str, &'a str)>; 2]);

impl LabelSet for Imagined<'_> {
    fn label(&self, name: &str) -> Option<&str> {
        self.0.iter().flatten().find(|(label, _)| *label == name).map(|(_, value)| *value)
    }
}

fn imagined<'a>(label: &'a str, values: [&'a str; 2], revisions: &BTreeSet<&'a str>) -> Vec<Imagined<'a>> {
    let firsts = [None, Some((label, values[0])), Some((label, values[1]))];
    let seconds = || [None].into_iter().chain(revisions.iter().map(|revision| Some((REVISION, *revision))));
    firsts.into_iter().flat_map(|first| seconds().map(move |second| Imagined([first, second]))).collect()
}

/// Webhooks that would both take a pod, whose namespace and labels are any that injection knows.
fn overlaps(cx: &Cx<'_>) {
    let all: Vec<&Entry> = cx.all(Sort::MutatingWebhook).filter(|entry| is_of_injection(entry)).collect();
    let known: BTreeSet<&str> = all.iter().flat_map(|entry| revisions(entry)).collect();
    let namespaces = imagined("istio-injection", ["enabled", "disabled"], &known);
    let objects = imagined("sidecar.istio.io/inject", ["true", "false"], &known);
    for (at, hook) in hooks(cx.entry).iter().enumerate() {
        let taken = |namespace: &&Imagined<'_>, hook: &WebhookFacts| fits(&hook.namespaces, &hook.namespace_terms, *namespace);
        let my_namespaces: Vec<&Imagined<'_>> = namespaces.iter().filter(|namespace| taken(namespace, hook)).collect();
        let my_objects: Vec<&Imagined<'_>> = objects.iter().filter(|object| fits(&hook.objects, &hook.object_terms, *object)).collect();
        let mut others = BTreeSet::new();
        for (entry, other) in all.iter().flat_map(|entry| hooks(entry).iter().map(move |hook| (entry, hook))) {
            let is_same = entry.id == cx.entry.id && other.name == hook.name;
            let meets = || {
                my_namespaces.iter().any(|namespace| taken(namespace, other))
                    && my_objects.iter().any(|object| fits(&other.objects, &other.object_terms, *object))
            };
            if !is_same && meets() {
                others.insert(format!("{}/{}", entry.id.name, other.name));
            }
        }
        if !others.is_empty() {
            let others: Vec<String> = others.into_iter().collect();
            let text = format!("webhook {} takes what others take too ({}): pods would be injected twice", hook.name, others.join(", "));
            cx.say(&code::IST0139, format!("webhooks[{at}].name"), text);
        }
    }
}

fn takes(hook: &WebhookFacts, namespace: &impl LabelSet, object: &impl LabelSet) -> bool {
    fits(&hook.namespaces, &hook.namespace_terms, namespace) && fits(&hook.objects, &hook.object_terms, object)
}

/// Whether a selector takes these labels; one that is malformed takes nothing.
fn fits(labels: &Labels, terms: &[(Name, Name, Vec<Name>)], found: &impl LabelSet) -> bool {
    let holds = |(key, operator, values): &(Name, Name, Vec<Name>)| {
        let value = found.label(key);
        let is_listed = || value.is_some_and(|value| values.iter().any(|listed| **listed == *value));
        match &**operator {
            "In" => is_listed(),
            "NotIn" => !values.is_empty() && !is_listed(),
            "Exists" => values.is_empty() && value.is_some(),
            "DoesNotExist" => values.is_empty() && value.is_none(),
            _ => false,
        }
    };
    labels.is_within(found) && terms.iter().all(holds)
}
