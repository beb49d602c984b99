//! Settings of the mesh and of injection, secrets, webhooks.

use std::{collections::BTreeMap, ops::RangeInclusive};

use mizzen_api::{Labels, Node};
use mizzen_types::Name;

use super::{Of, certificate, labels, list, text, texts};
use crate::Id;

/// What is asked of MeshConfig.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeshFacts {
    /// `rootNamespace`; `istio-system` if it is not written.
    pub root: Name,
    /// `trustDomain` and `trustDomainAliases`; the first is the mesh's own.
    pub trust_domains: Vec<Name>,
    /// Names of `extensionProviders`.
    pub providers: Vec<Name>,
    /// `outboundTrafficPolicy.mode`.
    pub outbound: Name,
    /// `defaultConfig.image.imageType`; empty if it is not written.
    pub image_type: Name,
    /// Of the networks: their names, the registries that their endpoints come from, and where that is written.
    pub registries: Vec<(Name, Name, String)>,
    /// Default providers of telemetry, by what they are for (`metrics`, `tracing`, `accessLogging`).
    pub default_providers: BTreeMap<Name, Vec<Name>>,
    /// Whether proxies answer DNS, and so with the addresses that are allocated to ServiceEntries that name none.
    pub allocates: bool,
}

/// What is asked of the injector's settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InjectorFacts {
    /// `values.sidecarInjectorWebhook.enableNamespacesByDefault`.
    pub by_default: bool,
    /// The image of the proxy: `hub/image:tag`, or what `global.proxy.image` says in full; empty if it is not told.
    pub image: Name,
}

/// A secret: its type, and which keys it has. Never what they hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretFacts {
    /// `type`.
    pub of_type: Name,
    /// The keys, each with whether it holds something.
    pub keys: BTreeMap<Name, bool>,
    /// When the certificate is valid, in seconds since 1970, if there are one and its key, as `cert` and `key` or as `tls.crt` and `tls.key`.
    pub validity: Option<RangeInclusive<i64>>,
}

/// One webhook.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebhookFacts {
    /// The name.
    pub name: Name,
    /// `namespaceSelector.matchLabels`.
    pub namespaces: Labels,
    /// `namespaceSelector.matchExpressions`: key, operator, values.
    pub namespace_terms: Vec<(Name, Name, Vec<Name>)>,
    /// `objectSelector.matchLabels`.
    pub objects: Labels,
    /// `objectSelector.matchExpressions`.
    pub object_terms: Vec<(Name, Name, Vec<Name>)>,
    /// `clientConfig.service`: namespace and name.
    pub service: Option<(Name, Name)>,
    /// `clientConfig.url`; empty if it is not written.
    pub url: Name,
}

/// The mesh's settings, those of injection, or nothing.
pub(crate) fn of_config_map(id: &Id, node: &Node) -> Of {
    let data = |key: &str| {
        let path = format!("data[\"{key}\"]");
        node.at(&path).and_then(Node::text).and_then(|text| Node::of_text(text, 0))
    };
    match (&*id.namespace, &*id.name) {
        ("istio-system", "istio") => {
            let (mesh, networks) = (data("mesh"), data("meshNetworks"));
            if mesh.is_none() && networks.is_none() {
                return Of::Nothing;
            }
            let registries = networks.map(|networks| registries(&networks, Some("data.meshNetworks"))).unwrap_or_default();
            Of::Mesh(MeshFacts { registries, ..MeshFacts::read(mesh.as_ref().unwrap_or(&super::NOTHING)) })
        }
        (_, name) if name.starts_with("istio-sidecar-injector") => {
            data("values").map_or(Of::Nothing, |values| Of::Injector(InjectorFacts::read(&values)))
        }
        _ => Of::Nothing,
    }
}

/// The registries of MeshNetworks, which stand in the field with this path, or are the document itself.
pub(crate) fn registries(networks: &Node, within: Option<&str>) -> Vec<(Name, Name, String)> {
    let mut all = Vec::new();
    for network in networks.get("networks").map(Node::entries).unwrap_or_default() {
        let endpoints = network.value.get("endpoints").map(Node::items).unwrap_or_default();
        for (at, endpoint) in endpoints.iter().enumerate() {
            let registry = text(endpoint, "fromRegistry");
            if !registry.is_empty() {
                let path = || format!("networks[\"{}\"].endpoints[{at}].fromRegistry", network.key);
                all.push((Name::from(&*network.key), registry, within.map_or_else(path, str::to_owned)));
            }
        }
    }
    all
}

impl MeshFacts {
    /// From the values of MeshConfig.
    pub(crate) fn read(mesh: &Node) -> Self {
        let written = |path: &str, default: &str| {
            let text = text(mesh, path);
            if text.is_empty() { default.into() } else { text }
        };
        let mut trust_domains = vec![written("trustDomain", "cluster.local")];
        trust_domains.extend(texts(mesh.get("trustDomainAliases")));
        let metadata = |name: &str| mesh.at(&format!("defaultConfig.proxyMetadata.{name}")).is_some_and(Node::is_true);
        let defaults = mesh.get("defaultProviders").map(Node::entries).unwrap_or_default();
        MeshFacts {
            root: written("rootNamespace", "istio-system"),
            trust_domains,
            providers: list(mesh.get("extensionProviders"), |provider| text(provider, "name")),
            outbound: written("outboundTrafficPolicy.mode", "ALLOW_ANY"),
            image_type: text(mesh, "defaultConfig.image.imageType"),
            registries: Vec::new(),
            default_providers: defaults.iter().map(|entry| (Name::from(&*entry.key), texts(Some(&entry.value)))).collect(),
            allocates: metadata("ISTIO_META_DNS_CAPTURE"),
        }
    }
}

impl InjectorFacts {
    fn read(values: &Node) -> Self {
        let value = |path: &str| text(values, path);
        let (hub, image) = (value("global.hub"), value("global.proxy.image"));
        let tag = values.at("global.tag");
        let tag = tag.and_then(|tag| tag.text().map(str::to_owned).or_else(|| tag.int().map(|n| n.to_string()))).unwrap_or_default();
        let whole = image.contains('/');
        InjectorFacts {
            by_default: values.at("sidecarInjectorWebhook.enableNamespacesByDefault").is_some_and(Node::is_true),
            image: if whole || (image.is_empty() && hub.is_empty()) { image } else { format!("{hub}/{image}:{tag}").into() },
        }
    }
}

impl SecretFacts {
    pub(crate) fn read(node: &Node) -> Self {
        let mut keys = BTreeMap::new();
        for field in ["data", "stringData"] {
            for entry in node.get(field).map(Node::entries).unwrap_or_default() {
                keys.insert(Name::from(&*entry.key), entry.value.text().is_some_and(|text| !text.trim().is_empty()));
            }
        }
        SecretFacts { of_type: text(node, "type"), keys, validity: certificate::validity(node) }
    }
}

impl WebhookFacts {
    pub(crate) fn read(node: &Node) -> Self {
        let terms = |path: &str| list(node.at(path), |term| (text(term, "key"), text(term, "operator"), texts(term.get("values"))));
        let service = node.at("clientConfig.service").map(|service| (text(service, "namespace"), text(service, "name")));
        WebhookFacts {
            name: text(node, "name"),
            namespaces: labels(node.at("namespaceSelector.matchLabels")),
            namespace_terms: terms("namespaceSelector.matchExpressions"),
            objects: labels(node.at("objectSelector.matchLabels")),
            object_terms: terms("objectSelector.matchExpressions"),
            service,
            url: text(node, "clientConfig.url"),
        }
    }
}
