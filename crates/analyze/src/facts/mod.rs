//! What is remembered of an object, once its tree is gone: what rules about several objects ask for.
//!
//! Facts are read leniently: what is missing or of a wrong type is left out, since what is wrong with one object alone is told by others.

mod certificate;
mod filter;
mod gateway;
mod policy;
mod rules;
mod service;
mod settings;
mod workload;

use std::collections::BTreeMap;

use mizzen_api::{LabelSet, Labels, Node};
use mizzen_types::Name;

pub use filter::{FilterFacts, PatchFacts, TelemetryFacts};
pub use gateway::{GatewayFacts, ListenerFacts, ServerFacts};
pub use policy::{Mode, PeerFacts, PolicyFacts, RuleFacts, SelectedFacts, SourceFacts, TargetRef};
pub use rules::{DestinationFacts, RouteFacts, RoutedTo, RuleOfHost, SubsetFacts};
pub use service::{EntryFacts, PortFacts, ServiceFacts};
pub use settings::{InjectorFacts, MeshFacts, SecretFacts, WebhookFacts};
pub use workload::{ContainerFacts, WorkloadFacts};

pub(crate) use rules::scopes;

use crate::{Id, Index, Sort};

/// What rules ask of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Its labels.
    pub labels: Labels,
    /// Of its annotations those of Istio and Kubernetes' that a rule asks for.
    pub annotations: BTreeMap<Name, Name>,
    /// `creationTimestamp` as written, which sorts by age; empty if it is not.
    pub created: Name,
    /// What its kind says.
    pub of: Of,
}

/// What the kinds say.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Of {
    /// Nothing that a rule asks for.
    #[default]
    Nothing,
    /// A namespace that stands in no document, and has objects.
    ImpliedNamespace,
    /// A service.
    Service(ServiceFacts),
    /// A pod, a controller's template, a WorkloadEntry or a WorkloadGroup.
    Workload(WorkloadFacts),
    /// A VirtualService.
    Route(RouteFacts),
    /// A DestinationRule.
    Destination(RuleOfHost),
    /// A ServiceEntry.
    Entry(EntryFacts),
    /// An Istio Gateway.
    Gateway(GatewayFacts),
    /// A Gateway of the Gateway API.
    K8sGateway(Vec<ListenerFacts>),
    /// A Sidecar, RequestAuthentication, WasmPlugin or ProxyConfig: whom it selects.
    Selected(SelectedFacts),
    /// A Telemetry.
    Telemetry(TelemetryFacts),
    /// An EnvoyFilter.
    Filter(FilterFacts),
    /// A PeerAuthentication.
    Peer(PeerFacts),
    /// An AuthorizationPolicy.
    Policy(PolicyFacts),
    /// The mesh's settings.
    Mesh(MeshFacts),
    /// The settings of injection.
    Injector(InjectorFacts),
    /// A secret.
    Secret(SecretFacts),
    /// A configuration of webhooks.
    Webhooks(Vec<WebhookFacts>),
}

impl Facts {
    /// Reads them.
    pub(crate) fn read(id: &Id, node: &Node) -> Facts {
        let spec = node.get("spec");
        let spec = spec.unwrap_or(const { &NOTHING });
        let of = match id.sort() {
            Sort::Service => Of::Service(ServiceFacts::read(spec)),
            Sort::Pod => Of::Workload(WorkloadFacts::of_pod(node)),
            Sort::WorkloadEntry => Of::Workload(WorkloadFacts::of_entry(spec)),
            Sort::WorkloadGroup => Of::Workload(WorkloadFacts::of_group(spec)),
            sort if sort.is_controller() => Of::Workload(WorkloadFacts::of_controller(sort, spec)),
            Sort::VirtualService => Of::Route(RouteFacts::read(spec)),
            Sort::DestinationRule => Of::Destination(RuleOfHost::read(spec)),
            Sort::ServiceEntry => Of::Entry(EntryFacts::read(node, spec)),
            Sort::Gateway => Of::Gateway(GatewayFacts::read(spec)),
            Sort::K8sGateway => Of::K8sGateway(list(spec.get("listeners"), ListenerFacts::read)),
            Sort::PeerAuthentication => Of::Peer(PeerFacts::read(spec)),
            Sort::AuthorizationPolicy => Of::Policy(PolicyFacts::read(spec)),
            Sort::Telemetry => Of::Telemetry(TelemetryFacts::read(spec)),
            Sort::EnvoyFilter => Of::Filter(FilterFacts::read(spec)),
            Sort::RequestAuthentication | Sort::WasmPlugin | Sort::ProxyConfig | Sort::Sidecar => Of::Selected(SelectedFacts::read(spec)),
            Sort::ConfigMap => settings::of_config_map(id, node),
            Sort::MeshConfig => Of::Mesh(MeshFacts::read(node)),
            Sort::MeshNetworks => Of::Mesh(MeshFacts { registries: settings::registries(node, None), ..MeshFacts::default() }),
            Sort::Secret => Of::Secret(SecretFacts::read(node)),
            Sort::MutatingWebhook | Sort::ValidatingWebhook => Of::Webhooks(list(node.get("webhooks"), WebhookFacts::read)),
            _ => Of::Nothing,
        };
        Facts {
            labels: labels(node.at("metadata.labels")),
            annotations: annotations(node),
            created: text(node, "metadata.creationTimestamp"),
            of,
        }
    }

    /// Under which words it is found.
    pub(crate) fn words(&self, id: &Id) -> Vec<(Index, Name)> {
        let sort = id.sort();
        let mut words = vec![(Index::All(sort), Name::default())];
        if !id.namespace.is_empty() {
            words.push((Index::In(sort), id.namespace.clone()));
        }
        words.push((Index::Named(sort), id.place().into()));
        let mut add = |index: Index, word: &str| words.push((index, word.into()));
        match &self.of {
            Of::Service(service) => {
                add(Index::Host, &format!("{}.{}.svc.cluster.local", id.name, id.namespace));
                // Of all labels the last by name tells services apart best: `app.kubernetes.io/name` rather than `…/instance`.
                if let Some((name, value)) = service.selector.iter().last() {
                    add(Index::Selecting, &selecting(&id.namespace, name, value));
                }
            }
            Of::Injector(_) => add(Index::Injector, &id.name),
            Of::Secret(secret) if self.labels.label("istio/multiCluster") == Some("true") => {
                secret.keys.keys().for_each(|cluster| add(Index::Registry, cluster));
            }
            Of::Entry(entry) => entry.hosts.iter().for_each(|host| add(Index::Host, &qualified(host, &id.namespace))),
            Of::Workload(workload) => {
                add(Index::Workloads, &id.namespace);
                add(Index::Workloads, "");
                workload.labels.iter().for_each(|(name, value)| add(Index::Labelled, &label_word(name, value)));
            }
            Of::Route(route) => {
                route.words(id).for_each(|(index, word)| add(index, &word));
                for gateway in route.gateways.iter().filter(|gateway| &***gateway != "mesh") {
                    let whole = if gateway.contains('/') { gateway.to_string() } else { format!("{}/{gateway}", id.namespace) };
                    add(Index::Bound, &whole);
                }
                if !route.claims.is_empty() {
                    add(Index::ByClaims, "");
                }
            }
            Of::Destination(rule) => add(Index::RuledHost, &qualified(&rule.host, &id.namespace)),
            Of::Gateway(gateway) => {
                gateway.servers.iter().filter_map(|server| server.certificate.as_ref()).for_each(|name| add(Index::Certificate, name));
                for server in &gateway.servers {
                    server.hosts.iter().for_each(|host| add(Index::Listener, &listener_word(server.port, host)));
                }
            }
            // The last by name tells apart best, as with Services.
            Of::Selected(SelectedFacts { selector, .. })
            | Of::Telemetry(TelemetryFacts { selected: SelectedFacts { selector, .. }, .. }) => {
                if let Some((name, value)) = selector.iter().last() {
                    add(Index::SelectingLike(sort), &selecting(&id.namespace, name, value));
                }
            }
            Of::Filter(filter) => {
                filter.patches.iter().filter(|patch| patch.is_versioned).for_each(|patch| add(Index::VersionedPatch, &patch.name));
            }
            _ => {}
        }
        words.sort();
        words.dedup();
        words
    }
}

/// The word of [`Index::Selecting`].
pub(crate) fn selecting(namespace: &str, label: &str, value: &str) -> String {
    format!("{namespace}/{label}={value}")
}

/// A value that is not written.
pub(crate) const NOTHING: Node = Node { value: mizzen_api::Value::Null, line: 0, column: 0 };

/// A host in full, in lower case: a short name is one of the namespace.
pub fn qualified(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host.contains('*') { host } else { format!("{host}.{namespace}.svc.cluster.local") }
}

/// The word under which workloads with a label are found.
pub(crate) fn label_word(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

/// The word under which Gateways with a host on a port are found.
pub(crate) fn listener_word(port: u16, host: &str) -> String {
    format!("{port} {host}")
}

pub(crate) fn list<T>(node: Option<&Node>, read: impl Fn(&Node) -> T) -> Vec<T> {
    node.map(|node| node.items().iter().map(read).collect()).unwrap_or_default()
}

pub(crate) fn texts(node: Option<&Node>) -> Vec<Name> {
    node.map(|node| node.items().iter().filter_map(Node::text).map(Name::from).collect()).unwrap_or_default()
}

pub(crate) fn text(node: &Node, path: &str) -> Name {
    node.at(path).and_then(Node::text).unwrap_or_default().into()
}

pub(crate) fn number(node: &Node, path: &str) -> u16 {
    node.at(path).and_then(Node::int).and_then(|number| u16::try_from(number).ok()).unwrap_or_default()
}

pub(crate) fn labels(node: Option<&Node>) -> Labels {
    let entries = node.map(Node::entries).unwrap_or_default();
    entries.iter().filter_map(|entry| Some((Name::from(&*entry.key), Name::from(entry.value.text()?)))).collect()
}

fn annotations(node: &Node) -> BTreeMap<Name, Name> {
    let entries = node.at("metadata.annotations").map(Node::entries).unwrap_or_default();
    let ours = entries.iter().filter(|entry| entry.key.contains("istio.io/"));
    ours.filter_map(|entry| Some((Name::from(&*entry.key), Name::from(entry.value.text()?)))).collect()
}
