//! What documents say that NetworkPolicies depend on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mizzen_api::{
    Kind, Node, Object, Pos, Problem, Refusal, Selector,
    core::SYSTEM_NAMESPACES,
    istio::{AuthorizationPolicy, Gateway, MeshConfig, ServiceEntry, Sidecar, VirtualService},
    parse_documents, see_documents,
};

use super::{
    object::Labelled,
    ports::{Open, Ports, Target},
};
use crate::{Id, Item, Sort, facts};

/// Labels that a pod gets from what makes it, and that the next pod of the same workload does not have, or that injection writes.
const GENERATED: [&str; 15] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "rollouts-pod-template-hash",
    "security.istio.io/tlsMode",
    "service.istio.io/canonical-name",
    "service.istio.io/canonical-revision",
    "statefulset.kubernetes.io/pod-name",
    "topology.istio.io/network",
];
const INJECT: &str = "sidecar.istio.io/inject";
/// The port at which the agent beside a proxy is asked for metrics and probes.
const STATUS_PORT: &str = "status.sidecar.istio.io/port";
/// What pods are made from.
const MAKERS: [&str; 6] = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"];
/// By which the pods of one of the Gateway API's Gateways are known.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";

/// Namespace and name of the service that the API server is.
pub(super) const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// All that is known. Of objects with one name the first is in force.
#[derive(Debug, Default)]
pub struct World {
    known: BTreeSet<Id>,
    mesh: MeshConfig,
    has_mesh: bool,
    /// `None`: named by something that stands in it.
    namespaces: BTreeMap<String, Option<Labelled>>,
    pub(super) policies: Vec<AuthorizationPolicy>,
    /// Policies that cannot be read.
    pub(super) refused: Vec<Refused>,
    pub(super) gateways: Vec<Gateway>,
    pub(super) entries: Vec<ServiceEntry>,
    pub(super) routes: Vec<VirtualService>,
    pub(super) sidecars: Vec<Sidecar>,
    pub(super) services: Vec<Service>,
    workloads: Vec<Workload>,
    pub(super) machines: Vec<Machine>,
    /// The labels of gateways that pass mutual TLS on as it came.
    pub(super) passing: BTreeSet<Labelled>,
    /// Those with labels that have no address of a pod: in their host's network, or outside of the cluster.
    beside: Vec<Beside>,
    /// Whether all endpoints that somebody has written for a service are pods, by its namespace and name.
    endpoints: BTreeMap<(String, String), bool>,
    /// What is injected everywhere; of several it is not known which holds.
    injectors: BTreeSet<Injector>,
    /// Kinds of which there may be objects that nobody may see.
    unseen: BTreeSet<String>,
    /// Whether there are no other pods.
    pub(super) has_all_pods: bool,
    /// What could not be read.
    pub(super) problems: Vec<Problem>,
}

/// A policy that cannot be read.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) namespace: String,
    /// `None`: all of the namespace.
    pub(super) selector: Option<Selector>,
    pub(super) problem: Problem,
}

/// A Kubernetes service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) id: Id,
    pub(super) pos: Pos,
    pub(super) selector: Labelled,
    /// What it is another name of.
    pub(super) external_name: Option<String>,
    open: BTreeSet<Open>,
}

/// A pod, or what pods are made from.
#[derive(Debug)]
struct Workload {
    namespace: String,
    account: String,
    labels: Labelled,
    /// Those by which what makes pods knows them.
    selector: Labelled,
    annotations: Labelled,
    is_pod: bool,
    /// Its kind and name.
    title: String,
    /// Those of what has made it.
    owner: Option<String>,
    has_proxy: bool,
    open: BTreeSet<Open>,
}

/// Who has an identity of the mesh and no address of a pod.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) namespace: String,
    pub(super) account: String,
    /// `None`: not known.
    pub(super) address: Option<IpAddr>,
}

/// Who has labels and no address of a pod.
#[derive(Debug)]
struct Beside {
    namespace: String,
    labels: Labelled,
}

/// What injection does if no annotation says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Injector {
    /// Ports that it leaves out of the capture.
    excluded: String,
    /// Ports that it captures; `None`: all.
    included: Option<String>,
    /// The agent's port; `None`: as MeshConfig says.
    status: Option<u16>,
}

impl World {
    /// Adds the documents of a file. What names no namespace is in `namespace`.
    pub fn add(&mut self, text: &str, file: &Arc<str>, namespace: &str) {
        let mut seen_ones = BTreeSet::new();
        let parsed = see_documents(text, file, &mut |seen| {
            seen_ones.insert(seen.number);
            let item = Item::of(seen.node, seen.source.clone(), file, namespace);
            self.see(&item, seen.object.as_ref());
        });
        // What has no tree of its own: texts that are no YAML, and settings of the mesh in a config map.
        for (_, object) in parsed.objects.into_iter().enumerate().filter(|(number, _)| !seen_ones.contains(number)) {
            match object {
                Ok(Object::MeshConfig(config)) => self.settings(*config),
                Ok(_) => {}
                Err(refusal) => {
                    let namespace = refusal.closes.as_ref().map_or(namespace, |closes| &closes.namespace);
                    self.refuse(&refusal, namespace, true);
                }
            }
        }
    }

    /// Adds an object that was read before. Of the mesh's settings those count that were read, whatever they came in.
    pub fn put(&mut self, object: &Object) {
        match object {
            Object::MeshConfig(config) => self.settings((**config).clone()),
            object => {
                let (meta, node) = (object.meta(), object.meta().source.node());
                self.see(&Item::of(&node, meta.source.clone(), &meta.origin.file, "default"), Ok(object));
            }
        }
    }

    /// Takes the mesh's settings, unless there are others already.
    pub fn settings(&mut self, config: MeshConfig) {
        if !self.has_mesh {
            (self.mesh, self.has_mesh) = (config, true);
        }
    }

    /// Says that there are no other pods than those that were added: whom none of them is, nobody is.
    pub fn has_all_pods(&mut self) {
        self.has_all_pods = true;
    }

    /// Says that there may be objects of this kind that nobody may see.
    pub fn lacks(&mut self, kind: &str) {
        self.unseen.insert(kind.to_owned());
    }

    /// The first of these kinds of which there may be objects that nobody may see.
    pub(super) fn unseen<'k>(&self, kinds: &[&'k str]) -> Option<&'k str> {
        kinds.iter().copied().find(|kind| self.unseen.contains(*kind))
    }

    /// The mesh's settings.
    pub(super) fn mesh(&self) -> &MeshConfig {
        &self.mesh
    }

    /// The names of the mesh's trust domain.
    pub(super) fn domains(&self) -> Vec<&str> {
        let aliases = self.mesh.trust_domain_aliases.iter().map(String::as_str);
        std::iter::once(self.mesh.trust_domain.as_str()).chain(aliases).collect()
    }

    fn see(&mut self, item: &Item<'_>, object: Result<&Object, &Refusal>) {
        let has_kind = item.node.get("kind").and_then(Node::text).is_some();
        if has_kind && !self.known.insert(item.id.clone()) {
            return;
        }
        self.facts(item);
        match object {
            Ok(object) => {
                let moved = (*object.meta().namespace != *item.id.namespace).then(|| moved(object, item.node, &item.id.namespace));
                self.take(moved.flatten().unwrap_or_else(|| object.clone()));
            }
            Err(refusal) => self.refuse(refusal, &item.id.namespace, !has_kind),
        }
    }

    fn take(&mut self, object: Object) {
        match object {
            Object::AuthorizationPolicy(policy) => {
                self.namespaces.entry(policy.meta.namespace.to_string()).or_default();
                self.policies.push(policy);
            }
            Object::Gateway(gateway) => {
                if gateway.servers.iter().any(|server| server.passthrough.is_some()) {
                    self.passing.insert(gateway.selector.labels.clone());
                }
                self.gateways.push(gateway);
            }
            Object::ServiceEntry(entry) => self.entries.push(entry),
            Object::VirtualService(route) => self.routes.push(route),
            Object::Sidecar(sidecar) => self.sidecars.push(sidecar),
            _ => {}
        }
    }

    /// What may be an object of the mesh, or what is asked about, is told.
    fn refuse(&mut self, refusal: &Refusal, namespace: &str, may_be_any: bool) {
        let closes = refusal.closes.as_ref().filter(|closes| closes.kind == Kind::AuthorizationPolicy);
        if let (Some(closes), Some(problem)) = (closes, refusal.problems.first()) {
            self.refused.push(Refused { namespace: namespace.to_owned(), selector: closes.selector.clone(), problem: problem.clone() });
            return;
        }
        let asked = [Kind::Gateway, Kind::ServiceEntry, Kind::VirtualService, Kind::Sidecar, Kind::MeshConfig];
        let counts = match &refusal.key {
            Some(key) => asked.contains(&key.kind),
            None => may_be_any,
        };
        if counts {
            self.problems.extend(refusal.problems.iter().cloned());
        }
    }

    /// What is looked at of documents whether the mesh takes them or not.
    fn facts(&mut self, item: &Item<'_>) {
        let (id, node) = (&item.id, item.node);
        match id.sort() {
            Sort::Namespace => _ = self.namespaces.insert(id.name.to_string(), Some(labelled(node.at("metadata.labels")))),
            Sort::Service => self.services.push(Service::read(item)),
            Sort::ConfigMap if id.name.starts_with("istio-sidecar-injector") => self.injector(node),
            Sort::WorkloadEntry => {
                let address = text(node, "spec.address").parse().ok();
                self.machine(id, &text(node, "spec.serviceAccount"), address);
                self.is_beside(id, labelled(node.at("spec.labels")));
                self.is_beside(id, labelled(node.at("metadata.labels")));
            }
            // Its members write their own entries when they come.
            Sort::WorkloadGroup => {
                self.machine(id, &text(node, "spec.template.serviceAccount"), None);
                self.is_beside(id, labelled(node.at("spec.metadata.labels")));
                self.is_beside(id, labelled(node.at("spec.template.labels")));
            }
            Sort::Other if &*id.kind == "EndpointSlice" => self.endpoints(id, node),
            sort if sort == Sort::Pod || sort.is_controller() => {
                let template = match sort {
                    Sort::Pod => Some(node),
                    Sort::CronJob => node.at("spec.jobTemplate.spec.template"),
                    _ => node.at("spec.template"),
                };
                self.workload(id, node, template.unwrap_or(&facts::NOTHING));
            }
            _ => {}
        }
    }

    fn machine(&mut self, id: &Id, account: &str, address: Option<IpAddr>) {
        let account = if account.is_empty() { "default" } else { account };
        self.machines.push(Machine { namespace: id.namespace.to_string(), account: account.to_owned(), address });
    }

    fn is_beside(&mut self, id: &Id, labels: Labelled) {
        self.beside.push(Beside { namespace: id.namespace.to_string(), labels });
    }

    fn endpoints(&mut self, id: &Id, node: &Node) {
        let labels = labelled(node.at("metadata.labels"));
        let Some(service) = labels.get("kubernetes.io/service-name") else { return };
        let endpoints = node.get("endpoints").map(Node::items).unwrap_or_default();
        let are_pods = endpoints.iter().all(|endpoint| text(endpoint, "targetRef.kind") == "Pod");
        *self.endpoints.entry((id.namespace.to_string(), service.clone())).or_insert(true) &= are_pods;
    }

    fn injector(&mut self, node: &Node) {
        let values = node.at("data.values").and_then(Node::text).and_then(|text| Node::of_text(text, 0));
        let Some(values) = values else { return };
        let said = |name: &str| values.at(&format!("global.proxy.{name}")).and_then(word);
        let status = said("statusPort").and_then(|port| port.parse().ok());
        let excluded = said("excludeInboundPorts").unwrap_or_default();
        self.injectors.insert(Injector { excluded, included: said("includeInboundPorts"), status });
    }

    /// What injection may do where no annotation says otherwise.
    fn injectors(&self) -> Vec<Injector> {
        if self.injectors.is_empty() { vec![Injector::default()] } else { self.injectors.iter().cloned().collect() }
    }

    fn workload(&mut self, id: &Id, node: &Node, template: &Node) {
        // Of the two names of the field the second is the older one.
        let accounts = ["spec.serviceAccountName", "spec.serviceAccount"].map(|path| text(template, path));
        let account = accounts.into_iter().find(|account| !account.is_empty()).unwrap_or_else(|| "default".to_owned());
        let containers = ["spec.initContainers", "spec.containers"].map(|path| template.at(path).map(Node::items).unwrap_or_default());
        let containers: Vec<&Node> = containers.into_iter().flatten().collect();
        let has_proxy = containers.iter().any(|container| text(container, "name") == "istio-proxy");
        self.namespaces.entry(id.namespace.to_string()).or_default();
        if template.at("spec.hostNetwork").is_some_and(Node::is_true) {
            // Injection leaves it alone: only a proxy that stands in it already has an identity, and its address is the node's.
            if has_proxy {
                self.machine(id, &account, None);
            }
            self.is_beside(id, labelled(template.at("metadata.labels")));
            return;
        }
        let ports = containers.iter().flat_map(|container| container.get("ports").map(Node::items).unwrap_or_default());
        let open = ports.filter_map(|port| Some(Open { protocol: other_protocol(port)?, port: number(port, "containerPort")? })).collect();
        self.workloads.push(Workload {
            namespace: id.namespace.to_string(),
            account,
            labels: labelled(template.at("metadata.labels")),
            selector: labelled(node.at("spec.selector.matchLabels")),
            annotations: labelled(template.at("metadata.annotations")),
            is_pod: id.sort() == Sort::Pod,
            title: format!("{}/{}", id.kind, id.name),
            owner: owner(node),
            has_proxy,
            open,
        });
    }

    /// The namespaces that are named anywhere.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// Whether pods of a namespace have proxies. What says nothing of it counts as what is not told yet, or as a no.
    pub(super) fn is_meshed(&self, namespace: &str, by_default: bool) -> bool {
        if SYSTEM_NAMESPACES.contains(&namespace) {
            return false;
        }
        let asks = |workload: &Workload| {
            let written = workload.labels.get(INJECT).or_else(|| workload.annotations.get(INJECT));
            written.is_some_and(|written| written == "true")
        };
        let mut own = self.workloads.iter().filter(|workload| workload.namespace == namespace);
        // A proxy that is there is there whatever the label says now.
        if own.clone().any(|workload| workload.has_proxy) {
            return true;
        }
        match (self.label(namespace, "istio-injection"), self.label(namespace, "istio.io/rev")) {
            (Some("enabled"), _) | (None, Some(_)) => true,
            (Some(_), _) => false,
            (None, None) => by_default || own.any(asks),
        }
    }

    /// Whether a namespace's label says that its pods get no proxies.
    pub(super) fn is_left_alone(&self, namespace: &str) -> bool {
        self.label(namespace, "istio-injection").is_some_and(|value| value != "enabled")
    }

    fn label(&self, namespace: &str, name: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether gateways are known in a namespace: proxies that are nobody's sidecars.
    pub(super) fn has_gateways(&self, namespace: &str) -> bool {
        let selectors = || self.gateways.iter().map(|gateway| &gateway.selector.labels).filter(|labels| !labels.is_empty());
        let is_one = |workload: &Workload| {
            let templates = workload.annotations.get("inject.istio.io/templates");
            templates.is_some_and(|names| names.split(',').any(|name| name.trim() == "gateway"))
                || workload.labels.contains_key(GATEWAY)
                || selectors().any(|labels| is_within(labels, &workload.labels))
        };
        self.workloads.iter().any(|workload| workload.namespace == namespace && is_one(workload))
    }

    /// The labels of each workload of an account, as far as they stay the same from one version to the next: without any, its pods cannot be told apart.
    pub(super) fn labels_of_account(&self, namespace: &str, account: &str) -> BTreeSet<Labelled> {
        if self.unseen(&MAKERS).is_some() || self.unseen(&["Pod"]).is_some() {
            return BTreeSet::new();
        }
        let of = |workload: &&Workload| workload.namespace == namespace && workload.account == account;
        let makers = || self.workloads.iter().filter(of).filter(|workload| !workload.is_pod);
        let is_made = |pod: &Workload| {
            pod.owner.as_ref().is_some_and(|owner| {
                // Between a Deployment and its pods there is a ReplicaSet.
                let is_between = |maker: &Workload| owner.starts_with("ReplicaSet/") && maker.title.starts_with("Deployment/");
                let selects = |maker: &Workload| !maker.selector.is_empty() && is_within(&maker.selector, &pod.labels);
                makers().any(|maker| maker.title == *owner || is_between(maker) && selects(maker))
            })
        };
        // A template's labels change from version to version, its selector never does. What has made a pod is not known: its next one may have others.
        let lasting = |workload: &Workload| -> Labelled {
            let labels = match (workload.is_pod, &workload.owner) {
                (false, _) => Some(&workload.selector),
                (true, None) => Some(&workload.labels),
                (true, Some(_)) => None,
            };
            labels.into_iter().flatten().filter(|(name, _)| !GENERATED.contains(&name.as_str())).map(owned).collect()
        };
        self.workloads.iter().filter(of).filter(|workload| !workload.is_pod || !is_made(workload)).map(lasting).collect()
    }

    /// The workloads of a namespace with these labels. Those that injection writes are not in templates.
    fn selected(&self, namespace: &str, labels: &Labelled) -> impl Iterator<Item = &Workload> {
        let bears = |workload: &Workload, name: &String, value: &String| match workload.labels.get(name) {
            Some(own) => own == value,
            None => !workload.is_pod && GENERATED.contains(&name.as_str()),
        };
        let is_meant =
            move |workload: &&Workload| workload.namespace == namespace && labels.iter().all(|(name, value)| bears(workload, name, value));
        self.workloads.iter().filter(is_meant)
    }

    /// The namespaces in which pods with these labels are known.
    pub(super) fn namespaces_of(&self, labels: &Labelled) -> BTreeSet<&str> {
        self.workloads.iter().filter(|workload| is_within(labels, &workload.labels)).map(|workload| workload.namespace.as_str()).collect()
    }

    /// Ports of TCP that do not come before the proxies of these pods, or of some of them.
    pub(super) fn uncaptured(&self, namespace: &str, labels: &Labelled) -> Ports {
        let general = self.not_captured(&Labelled::new());
        self.selected(namespace, labels).map(|workload| self.not_captured(&workload.annotations)).fold(general, |all, more| all.or(&more))
    }

    fn not_captured(&self, annotations: &Labelled) -> Ports {
        let said = |name: &str| annotations.get(&format!("traffic.sidecar.istio.io/{name}")).map(String::as_str);
        if annotations.get("sidecar.istio.io/interceptionMode").is_some_and(|mode| mode == "NONE") {
            return Ports::all();
        }
        let listed = |text: &str| Ports::of(text.split(',').filter_map(|port| port.trim().parse().ok()));
        let of = |injector: &Injector| {
            let excluded = listed(said("excludeInboundPorts").unwrap_or(&injector.excluded));
            match said("includeInboundPorts").or(injector.included.as_deref()) {
                None | Some("*") => excluded,
                Some(included) => excluded.or(&listed(included).others()),
            }
        };
        self.injectors().iter().fold(Ports::of([]), |all, injector| all.or(&of(injector)))
    }

    /// The ports at which the agents beside the proxies of these pods are asked.
    pub(super) fn of_agents(&self, namespace: &str, labels: &Labelled) -> Ports {
        let general = self.mesh.default_config.status_port;
        let of_some = self.selected(namespace, labels).flat_map(|workload| {
            let config = workload.annotations.get("proxy.istio.io/config").and_then(|text| Node::of_text(text, 0));
            let own = config.as_ref().and_then(|config| config.get("statusPort")).and_then(word);
            own.into_iter().chain(workload.annotations.get(STATUS_PORT).cloned()).filter_map(|port| port.trim().parse().ok())
        });
        Ports::of(self.injectors().iter().map(|injector| injector.status.unwrap_or(general)).chain(of_some))
    }

    /// Whether what these labels select has, or may have, addresses of no pods.
    pub(super) fn is_any_beside(&self, namespace: &str, labels: &Labelled) -> bool {
        self.beside.iter().any(|one| one.namespace == namespace && is_within(labels, &one.labels))
    }

    /// Whether calls to a service, or some of them, go to addresses of no pods.
    pub(super) fn leads_beside(&self, service: &Service) -> bool {
        let (namespace, name) = (&*service.id.namespace, &*service.id.name);
        if service.external_name.is_some() || (namespace, name) == API_SERVER {
            return false;
        }
        if !service.selector.is_empty() {
            return self.is_any_beside(namespace, &service.selector);
        }
        // Somebody writes its endpoints.
        !self.endpoints.get(&(namespace.to_owned(), name.to_owned())).copied().unwrap_or_default()
    }

    /// What these pods offer over other protocols than TCP, by their containers and by services that may mean them.
    pub(super) fn declared(&self, namespace: &str, labels: &Labelled) -> BTreeSet<Open> {
        let may_mean =
            |service: &&Service| *service.id.namespace == *namespace && !service.selector.is_empty() && may_meet(&service.selector, labels);
        let of_services = self.services.iter().filter(may_mean).flat_map(|service| &service.open);
        self.selected(namespace, labels).flat_map(|workload| &workload.open).chain(of_services).cloned().collect()
    }
}

impl Service {
    fn read(item: &Item<'_>) -> Service {
        let node = item.node;
        let ports = node.at("spec.ports").map(Node::items).unwrap_or_default().iter();
        let target = |port: &Node| match port.get("targetPort") {
            Some(target) => number(port, "targetPort").or_else(|| target.text().map(|name| Target::Name(name.to_owned()))),
            None => number(port, "port"),
        };
        Service {
            id: item.id.clone(),
            pos: item.pos.clone(),
            selector: labelled(node.at("spec.selector")),
            external_name: Some(text(node, "spec.externalName")).filter(|_| text(node, "spec.type") == "ExternalName"),
            open: ports.filter_map(|port| Some(Open { protocol: other_protocol(port)?, port: target(port)? })).collect(),
        }
    }
}

/// The object as it is in this namespace: what it says of its own namespace is read anew.
fn moved(object: &Object, node: &Node, namespace: &str) -> Option<Object> {
    let meta = object.meta();
    let mut value = node.to_json();
    value["metadata"]["namespace"] = namespace.into();
    let mut again = parse_documents(&value.to_string(), &meta.origin.file).objects.into_iter().next()?.ok()?;
    (again.meta_mut().origin, again.meta_mut().source) = (meta.origin.clone(), meta.source.clone());
    Some(again)
}

/// Whether other labels hold all of these.
pub(super) fn is_within(labels: &Labelled, others: &Labelled) -> bool {
    labels.iter().all(|(name, value)| others.get(name) == Some(value))
}

/// Whether a pod can have all of these labels.
pub(super) fn may_meet(one: &Labelled, other: &Labelled) -> bool {
    one.iter().all(|(name, value)| other.get(name).is_none_or(|other| other == value))
}

/// Kind and name of what owns an object.
fn owner(node: &Node) -> Option<String> {
    let owners = node.at("metadata.ownerReferences").map(Node::items).unwrap_or_default();
    let is_controller = |owner: &&Node| owner.get("controller").is_some_and(Node::is_true);
    let owner = owners.iter().find(is_controller).or(owners.first())?;
    Some(format!("{}/{}", text(owner, "kind"), text(owner, "name")))
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

fn other_protocol(port: &Node) -> Option<&'static str> {
    match port.get("protocol").and_then(Node::text)? {
        "UDP" => Some("UDP"),
        "SCTP" => Some("SCTP"),
        _ => None,
    }
}

fn number(node: &Node, path: &str) -> Option<Target> {
    let number = node.at(path).and_then(Node::int).and_then(|number| u16::try_from(number).ok())?;
    (number > 0).then_some(Target::Number(number))
}

/// A text, or a number as one.
fn word(node: &Node) -> Option<String> {
    node.text().map(str::to_owned).or_else(|| node.int().map(|number| number.to_string()))
}

fn text(node: &Node, path: &str) -> String {
    node.at(path).and_then(Node::text).unwrap_or_default().to_owned()
}

fn labelled(node: Option<&Node>) -> Labelled {
    let entries = node.map(Node::entries).unwrap_or_default();
    entries.iter().filter_map(|entry| Some((entry.key.to_string(), entry.value.text()?.to_owned()))).collect()
}
