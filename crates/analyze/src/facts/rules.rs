//! How calls are routed, and how connections are made.

use mizzen_api::{Labels, Node};
use mizzen_types::Name;

use super::{labels, list, number, qualified, text, texts};
use crate::{Id, Index, base::covering};

/// A VirtualService.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteFacts {
    /// The hosts as written.
    pub hosts: Vec<Name>,
    /// The gateways as written; empty is `mesh`.
    pub gateways: Vec<Name>,
    /// `exportTo`; empty is the mesh's default.
    pub export_to: Vec<Name>,
    /// Gateways in matches, with their paths.
    pub matched_gateways: Vec<(Name, String)>,
    /// All destinations, mirrors included.
    pub destinations: Vec<DestinationFacts>,
    /// `delegate`s, each as `namespace/name` or `name`, with its path.
    pub delegates: Vec<(Name, String)>,
    /// Claims of tokens by which it routes, `@request.auth.claims…`, with their paths.
    pub claims: Vec<(Name, String)>,
}

/// What a destination is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutedTo {
    /// Calls go there.
    #[default]
    Route,
    /// Copies go there.
    Mirror,
}

/// A destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationFacts {
    /// Its path, such as `spec.http[0].route[1].destination`.
    pub path: String,
    /// The host as written.
    pub host: Name,
    /// The subset; empty if none is named.
    pub subset: Name,
    /// The port; 0 if none is named.
    pub port: u16,
    /// What for.
    pub routed: RoutedTo,
}

/// A DestinationRule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleOfHost {
    /// The host as written.
    pub host: Name,
    /// The subsets.
    pub subsets: Vec<SubsetFacts>,
    /// `exportTo`; empty is the mesh's default.
    pub export_to: Vec<Name>,
    /// `workloadSelector.matchLabels`.
    pub selector: Labels,
    /// `trafficPolicy.tls.mode`; empty if it is not written.
    pub tls_mode: Name,
}

/// A subset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubsetFacts {
    /// The name.
    pub name: Name,
    /// The labels of its pods.
    pub labels: Labels,
}

impl RouteFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        let mut facts = RouteFacts {
            hosts: texts(spec.get("hosts")),
            gateways: texts(spec.get("gateways")),
            export_to: texts(spec.get("exportTo")),
            ..RouteFacts::default()
        };
        for protocol in ["http", "tls", "tcp"] {
            let routes = spec.get(protocol).map(Node::items).unwrap_or_default();
            for (number, route) in routes.iter().enumerate() {
                facts.route(route, &format!("spec.{protocol}[{number}]"));
            }
        }
        facts
    }

    fn route(&mut self, route: &Node, path: &str) {
        let mut to = |node: Option<&Node>, path: String, routed: RoutedTo| {
            let Some(node) = node else { return };
            let (host, subset, port) = (text(node, "host"), text(node, "subset"), number(node, "port.number"));
            self.destinations.push(DestinationFacts { path, host, subset, port, routed });
        };
        for (at, weighted) in route.get("route").map(Node::items).unwrap_or_default().iter().enumerate() {
            to(weighted.get("destination"), format!("{path}.route[{at}].destination"), RoutedTo::Route);
        }
        to(route.get("mirror"), format!("{path}.mirror"), RoutedTo::Mirror);
        for (at, mirror) in route.get("mirrors").map(Node::items).unwrap_or_default().iter().enumerate() {
            to(mirror.get("destination"), format!("{path}.mirrors[{at}].destination"), RoutedTo::Mirror);
        }
        if let Some(delegate) = route.get("delegate") {
            let (namespace, name) = (text(delegate, "namespace"), text(delegate, "name"));
            let name = if namespace.is_empty() { name } else { format!("{namespace}/{name}").into() };
            self.delegates.push((name, format!("{path}.delegate")));
        }
        for (at, matched) in route.get("match").map(Node::items).unwrap_or_default().iter().enumerate() {
            for (number, gateway) in matched.get("gateways").map(Node::items).unwrap_or_default().iter().enumerate() {
                let gateway = gateway.text().unwrap_or_default();
                self.matched_gateways.push((gateway.into(), format!("{path}.match[{at}].gateways[{number}]")));
            }
            for field in ["headers", "withoutHeaders"] {
                let headers = matched.get(field).map(Node::entries).unwrap_or_default();
                for header in headers.iter().filter(|header| header.key.starts_with("@request.auth.claims")) {
                    self.claims.push((Name::from(&*header.key), format!("{path}.match[{at}].{field}[\"{}\"]", header.key)));
                }
            }
        }
    }

    /// Under which words it is found.
    pub(crate) fn words(&self, id: &Id) -> impl Iterator<Item = (Index, String)> {
        let hosts: Vec<String> = self.hosts.iter().map(|host| qualified(host, &id.namespace)).collect();
        let is_scoped = self.is_of_mesh() && !self.is_exported_to_all();
        let above = hosts.iter().filter(|_| is_scoped).flat_map(|host| covering(host).into_iter().skip(1));
        let above: Vec<(Index, String)> = above.map(|word| (Index::ScopedBelow, word)).collect();
        let subsets = self.destinations_with_subset().map(|to| (Index::SubsetOfHost, to.host.to_string()));
        let subsets: Vec<(Index, String)> = subsets.collect();
        hosts.into_iter().map(|host| (Index::RoutedHost, host)).chain(above).chain(subsets)
    }

    /// The destinations of HTTP calls that name a subset of a host that is one of its own hosts.
    pub(crate) fn destinations_with_subset(&self) -> impl Iterator<Item = &DestinationFacts> {
        self.destinations.iter().filter(|to| to.is_http() && !to.subset.is_empty() && self.hosts.contains(&to.host))
    }

    /// Whether all namespaces see it.
    pub fn is_exported_to_all(&self) -> bool {
        is_exported_to_all(&self.export_to)
    }

    /// Whether it holds for calls within the mesh.
    pub fn is_of_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|gateway| &**gateway == "mesh")
    }
}

impl DestinationFacts {
    /// Whether HTTP calls go there, and not copies of them.
    pub(crate) fn is_http(&self) -> bool {
        self.routed == RoutedTo::Route && self.path.starts_with("spec.http")
    }
}

/// Whether `exportTo` names all namespaces, as it does where it is not written.
pub(crate) fn is_exported_to_all(export_to: &[Name]) -> bool {
    export_to.is_empty() || export_to.iter().any(|namespace| &**namespace == "*")
}

/// The namespaces that `exportTo` names; `*` alone if it names all.
pub(crate) fn scopes(export_to: &[Name], namespace: &str) -> Vec<Name> {
    if is_exported_to_all(export_to) {
        return vec!["*".into()];
    }
    let mut scopes: Vec<Name> = export_to.iter().map(|scope| if &**scope == "." { namespace.into() } else { scope.clone() }).collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

impl RuleOfHost {
    pub(crate) fn read(spec: &Node) -> Self {
        RuleOfHost {
            host: text(spec, "host"),
            subsets: list(spec.get("subsets"), |subset| SubsetFacts { name: text(subset, "name"), labels: labels(subset.get("labels")) }),
            export_to: texts(spec.get("exportTo")),
            selector: labels(spec.at("workloadSelector.matchLabels")),
            tls_mode: text(spec, "trafficPolicy.tls.mode"),
        }
    }
}
