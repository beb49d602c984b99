//! Asking about a proxy itself, with a record of every question.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use mizzen_api::{Key, Kind, core::Secret, istio::GatewayTopology};
use mizzen_types::{IpRange, Locality};

use crate::{
    objects::Typed,
    proxy::{ALLOCATED, Families, IPV6, NO_IPV4, ON_DEMAND, ProxyType, ProxyView, ViewField},
    query::Query,
    question::{Answer, Item, Question, Reach},
    reader::Reader,
    service::{NODE_LABEL, ServiceView, single},
};

impl ProxyView {
    /// Sidecar or router.
    pub fn kind(&self, reader: &Reader<'_>) -> ProxyType {
        reader.note_view(self, ViewField::Kind);
        self.facts().kind
    }

    /// Where the workload runs.
    pub fn locality(&self, reader: &Reader<'_>) -> &Locality {
        reader.note_view(self, ViewField::Locality);
        &self.facts().locality
    }

    /// What stands before the gateway: as its own settings say, else as those of all proxies do.
    pub fn topology(&self, reader: &Reader<'_>) -> GatewayTopology {
        reader.note_view(self, ViewField::Topology);
        self.facts().topology.over(reader.mesh().default_config.gateway_topology)
    }

    /// One label.
    pub fn label(&self, reader: &Reader<'_>, key: &str) -> Option<&str> {
        reader.note_view(self, ViewField::Label(key.into()));
        self.facts().labels.get(key).map(String::as_str)
    }

    /// Whether the proxy's labels hold all of `selector`. An empty selector selects all, and is no question.
    pub fn selected(&self, reader: &Reader<'_>, selector: &BTreeMap<String, String>) -> bool {
        selector.is_empty()
            || reader.question(Question::Selected(selector.clone()), || {
                let labels = &self.facts().labels;
                flag(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), Reach::Alike)
            })
    }

    /// Whether the proxy is of a namespace.
    pub fn is_in(&self, reader: &Reader<'_>, namespace: &str) -> bool {
        reader.question(Question::InNamespace(namespace.into()), || flag(*self.facts().namespace == *namespace, Reach::Alike))
    }

    /// Whether the proxy has one of these extensions.
    pub fn has_extension(&self, reader: &Reader<'_>, names: &'static [&'static str]) -> bool {
        let extensions = &self.facts().extensions;
        reader.question(Question::Extension(names), || flag(names.iter().any(|name| extensions.contains(*name)), Reach::All))
    }

    /// Whether the proxy fetches what it uses on first use: [`ON_DEMAND`].
    pub fn is_on_demand(&self, reader: &Reader<'_>) -> bool {
        self.has_extension(reader, &[ON_DEMAND])
    }

    /// The families of the proxy's addresses.
    pub fn families(&self, reader: &Reader<'_>) -> Families {
        // Nearly all have IPv4: there is one question to ask about them.
        let v6 = self.has_extension(reader, &[IPV6]);
        Families { v4: !v6 || !self.has_extension(reader, &[NO_IPV4]), v6 }
    }

    /// The virtual addresses that a service has for this proxy: its own, or those that were allocated to it, of the families that the proxy has, if the
    /// proxy's workload gets to know them: if the agent answers its questions for names.
    pub fn addresses<'s>(&self, reader: &Reader<'_>, service: &'s ServiceView) -> Cow<'s, [IpRange]> {
        if service.allocated.is_empty() {
            return Cow::Borrowed(&service.addresses);
        }
        if !self.has_extension(reader, &[ALLOCATED]) {
            return Cow::Borrowed(&[]);
        }
        let families = self.families(reader);
        service.allocated.iter().copied().filter(|ip| families.has(*ip)).map(IpRange::from).collect()
    }

    /// Those of [`ProxyView::addresses`] that are single addresses.
    pub fn vips(&self, reader: &Reader<'_>, service: &ServiceView) -> Vec<IpAddr> {
        single(&self.addresses(reader, service)).collect()
    }

    /// The node on which the workload runs; empty if that is not known.
    pub fn node(&self, reader: &Reader<'_>) -> &str {
        self.label(reader, NODE_LABEL).or_else(|| self.metadata(reader, "NODE_NAME")).unwrap_or_default()
    }

    /// A Secret of the namespace that the proxy has proved to be of; there is no way to another's.
    pub fn own_secret<'a>(&self, reader: &Reader<'a>, name: &str) -> Option<&'a Secret> {
        reader.question(Question::OwnSecret(name.into()), || {
            let key = Key::new(Kind::Secret, self.facts().namespace.clone(), name);
            let snapshot = reader.ask(Query::Object(key.clone()));
            let found = snapshot.object(&key).and_then(|object| Secret::of(object));
            let stamp = snapshot.content_version(&key);
            (found, stamp.map(|stamp| Item::Object(key, stamp)).into_iter().collect(), Reach::Alike)
        })
    }

    /// One entry of the metadata.
    pub fn metadata(&self, reader: &Reader<'_>, key: &str) -> Option<&str> {
        reader.note_view(self, ViewField::Metadata(key.into()));
        self.facts().metadata.get(key).map(String::as_str)
    }
}

pub(crate) fn flag(value: bool, reach: Reach) -> (bool, Answer, Reach) {
    (value, Answer::Flag(value), reach)
}
