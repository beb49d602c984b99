//! What a proxy would say of everything that it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use mizzen_api::core::Pod;
use mizzen_ir::{Config, Draft, TlsRefusal};
use mizzen_model::{ProxyView, Snapshot};
use mizzen_translate::ResourceKind;
use mizzen_types::NamespacedName;
use serde::Serialize;

use crate::{
    complete::complete,
    mesh::proxy_of,
    resources::{Built, build, list},
};

/// What a proxy would say of its resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Review {
    /// The proxy: `namespace/pod`.
    pub proxy: String,
    /// How many resources it has.
    pub resources: usize,
    /// Resources that are refused whole: the last good version stays, or there is none.
    pub refused: Vec<Finding>,
    /// Parts that are refused alone: filter chains and virtual hosts that serve nobody.
    pub closed: Vec<Finding>,
    /// Fields that are accepted and do nothing.
    pub warnings: Vec<Finding>,
}

/// One thing that a proxy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind of the resource: `Listener`, `Route`, `Cluster`, `Assignment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The field.
    pub field: String,
    /// Why.
    pub reason: String,
    /// The objects that were looked at for the resource, as `Kind namespace/name`: what is refused comes from one of them.
    pub objects: Vec<String>,
}

impl Finding {
    fn new(kind: mizzen_ir::ResourceKind, built: &Built, field: &str, reason: &str) -> Finding {
        Finding {
            kind: format!("{kind:?}"),
            name: built.name.to_string(),
            field: field.to_owned(),
            reason: reason.to_owned(),
            objects: built.objects.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Builds and compiles all that a proxy has.
pub fn review(snapshot: &Snapshot, view: &ProxyView) -> Review {
    let facts = view.facts();
    let names = |kind: ResourceKind| list(snapshot, view, kind).into_iter().map(move |name| (kind, name));
    let all = ResourceKind::ALL.into_iter().flat_map(names);
    review_of(format!("{}/{}", facts.namespace, facts.pod), all.filter_map(|(kind, name)| build(snapshot, view, kind, &name)))
}

/// What proxies of a mesh would refuse, each finding once; at most about `most` resources are made, after which proxies are left out, the last ones by name.
/// Those come first that are alike for all: a sidecar of each namespace, and gateways.
pub fn review_all(snapshot: &Arc<Snapshot>, most: usize) -> Vec<Finding> {
    let whole = complete(snapshot);
    let mut pods: Vec<&Pod> = whole.objects::<Pod>().filter(|pod| pod.status.pod_ip.is_some()).collect();
    let mut seen = BTreeSet::new();
    let is_first: BTreeMap<NamespacedName, bool> =
        pods.iter().map(|pod| (pod.meta.namespaced_name(), seen.insert(pod.meta.namespace.clone()))).collect();
    pods.sort_by_key(|pod| !is_first.get(&pod.meta.namespaced_name()).copied().unwrap_or_default());
    let (mut findings, mut made) = (Vec::new(), 0);
    for pod in pods {
        if made >= most {
            break;
        }
        let Some(view) = proxy_of(&whole, &pod.meta.namespace, &pod.meta.name) else { continue };
        let review = review(&whole, &view);
        made += review.resources;
        for finding in review.refused.into_iter().chain(review.closed) {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

/// Compiles resources, whoever made them.
pub(crate) fn review_of(proxy: String, resources: impl Iterator<Item = Built>) -> Review {
    let mut review = Review { proxy, ..Review::default() };
    let mut draft = Draft::new(&Config::default());
    for built in resources {
        // The name table is the agent's.
        let Some(kind) = mizzen_ir::ResourceKind::of(&built.any.type_url) else { continue };
        review.resources += 1;
        match mizzen_ir::compile(kind, &built.any.value) {
            Err(refusal) => review.refused.push(Finding::new(kind, &built, &refusal.field, &refusal.reason)),
            Ok(compiled) => {
                let closed = compiled.closed.iter().map(|refusal| Finding::new(kind, &built, &refusal.field, &refusal.reason));
                review.closed.extend(closed);
                review.warnings.extend(compiled.warnings.iter().map(|w| Finding::new(kind, &built, &w.field, &w.reason)));
                draft.put(&compiled.resource);
            }
        }
    }
    for (name, refusal) in draft.finish().1 {
        // Secrets are the agent's: none is here.
        if let TlsRefusal::Unfit(reason) = refusal {
            let finding = Finding { kind: "TLS".to_owned(), name: name.to_string(), field: String::new(), reason, objects: Vec::new() };
            review.refused.push(finding);
        }
    }
    review
}

impl Review {
    /// Whether the proxy takes all of it.
    pub fn is_good(&self) -> bool {
        self.refused.is_empty() && self.closed.is_empty()
    }
}

impl fmt::Display for Review {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let good = if self.is_good() { ", all of which it takes" } else { "" };
        writeln!(f, "{}: {} resources{good}", self.proxy, self.resources)?;
        let parts = [("refused", &self.refused), ("closed", &self.closed), ("does nothing", &self.warnings)];
        for (what, finding) in parts.into_iter().flat_map(|(what, list)| list.iter().map(move |finding| (what, finding))) {
            writeln!(f, "  {what}: {} {}: {}: {}", finding.kind, finding.name, finding.field, finding.reason)?;
            if !finding.objects.is_empty() {
                writeln!(f, "    from {}", finding.objects.join(", "))?;
            }
        }
        Ok(())
    }
}
