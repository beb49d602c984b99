//! What runs: pods, the templates that they are made from, and workloads outside of Kubernetes.

use std::collections::BTreeMap;

use mizzen_api::{Labels, Node};
use mizzen_types::Name;

use super::{NOTHING, labels, list, text};
use crate::Sort;

/// A pod, or what pods are made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadFacts {
    /// The pods' labels.
    pub labels: Labels,
    /// The pods' annotations.
    pub annotations: BTreeMap<Name, Name>,
    /// The containers, those first that start first.
    pub containers: Vec<ContainerFacts>,
    /// Whether it shares the host's network.
    pub host_network: bool,
    /// Of a pod: `Pending`, `Running`, `Succeeded`, `Failed`; empty if it is not written.
    pub phase: Name,
    /// Of a pod: the kind of what owns it; empty if nothing does.
    pub owner: Name,
    /// Of a pod: the node on which it runs; empty if it is not written.
    pub node: Name,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerFacts {
    /// The name.
    pub name: Name,
    /// The image.
    pub image: Name,
    /// Its ports: name and number.
    pub ports: Vec<(Name, u16)>,
    /// Its environment, as far as it is literal.
    pub env: BTreeMap<Name, Name>,
    /// Whether it is of `initContainers`.
    pub is_init: bool,
}

impl WorkloadFacts {
    pub(crate) fn of_pod(node: &Node) -> Self {
        let owners = node.at("metadata.ownerReferences").map(Node::items).unwrap_or_default();
        WorkloadFacts {
            phase: text(node, "status.phase"),
            node: text(node, "spec.nodeName"),
            owner: owners.first().map(|owner| text(owner, "kind")).unwrap_or_default(),
            ..WorkloadFacts::of_template(node)
        }
    }

    pub(crate) fn of_controller(sort: Sort, spec: &Node) -> Self {
        let path = if sort == Sort::CronJob { "jobTemplate.spec.template" } else { "template" };
        WorkloadFacts::of_template(spec.at(path).unwrap_or(&NOTHING))
    }

    pub(crate) fn of_entry(spec: &Node) -> Self {
        WorkloadFacts { labels: labels(spec.get("labels")), ..WorkloadFacts::default() }
    }

    pub(crate) fn of_group(spec: &Node) -> Self {
        WorkloadFacts { labels: labels(spec.at("metadata.labels")), ..WorkloadFacts::default() }
    }

    fn of_template(template: &Node) -> Self {
        let container = |node: &Node, is_init: bool| ContainerFacts {
            name: text(node, "name"),
            image: text(node, "image"),
            ports: list(node.get("ports"), |port| (text(port, "name"), super::number(port, "containerPort"))),
            env: list(node.get("env"), |var| (text(var, "name"), text(var, "value"))).into_iter().collect(),
            is_init,
        };
        let mut containers = list(template.at("spec.initContainers"), |node| container(node, true));
        containers.extend(list(template.at("spec.containers"), |node| container(node, false)));
        WorkloadFacts {
            labels: labels(template.at("metadata.labels")),
            annotations: super::annotations(template),
            containers,
            host_network: template.at("spec.hostNetwork").is_some_and(Node::is_true),
            ..WorkloadFacts::default()
        }
    }

    /// Whether a proxy stands in it already.
    pub fn has_proxy(&self) -> bool {
        self.containers.iter().any(|container| &*container.name == "istio-proxy")
    }
}
