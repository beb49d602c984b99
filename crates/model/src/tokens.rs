//! Which RequestAuthentications bear on a workload, and the keys that they name.

use std::collections::BTreeMap;
use std::time::Duration;

use mizzen_api::{
    Key, Kind, Selector,
    istio::{IssuerKeys, JwtRule, KeySource, RequestAuthentication},
};
use mizzen_types::NamespacedName;

use crate::{
    proxy::ProxyView,
    question::{Item, Question, Reach},
    reader::Reader,
    snapshot::Snapshot,
};

/// A key set that somebody has to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedKeys {
    /// From where.
    pub source: KeySource,
    /// How long it may take: the longest that a rule allows.
    pub timeout: Duration,
    /// The RequestAuthentications that ask for it, each with the place of its rule.
    pub by: Vec<(Key, usize)>,
}

impl<'a> Reader<'a> {
    /// The RequestAuthentications of a workload of `namespace`: those of the root namespace first, then by name; `selected` says whether a selector
    /// means it.
    pub fn request_authentications(&self, namespace: &str, selected: impl Fn(&Selector) -> bool) -> Vec<&'a RequestAuthentication> {
        let root = self.mesh().root_namespace.as_str();
        let scopes = if namespace == root { vec![root] } else { vec![root, namespace] };
        let of = |scope: &str| self.in_namespace::<RequestAuthentication>(scope);
        let all = scopes.into_iter().flat_map(of);
        all.filter(|policy| policy.selector.as_ref().is_none_or(&selected)).collect()
    }

    /// The keys that were fetched from a source; none: not yet.
    pub fn fetched_keys(&self, source: &KeySource) -> Option<&'a IssuerKeys> {
        self.get::<IssuerKeys>(&NamespacedName { namespace: "".into(), name: source.name()?.into() })
    }
}

impl ProxyView {
    /// The rules about tokens of the proxy's own workload, by issuer; of one issuer those that were found first come first.
    pub fn jwt_rules<'a>(&self, reader: &Reader<'a>) -> Vec<&'a JwtRule> {
        let policies = reader.question(Question::Tokens, || {
            let found = reader.request_authentications(&self.facts().namespace, |selector| selector.matches(&self.facts().labels));
            let answer = found.iter().map(|policy| {
                let key = Key::new(Kind::RequestAuthentication, policy.meta.namespace.clone(), policy.meta.name.clone());
                let stamp = reader.snapshot().content_version(&key).unwrap_or_default();
                Item::Object(key, stamp)
            });
            let answer = answer.collect();
            (found, answer, Reach::Alike)
        });
        let mut rules: Vec<&JwtRule> = policies.into_iter().flat_map(|policy| &policy.rules).collect();
        rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        rules
    }
}

/// The key sets that the RequestAuthentications of a snapshot need and do not bring, by [`KeySource::name`].
pub fn wanted_keys(snapshot: &Snapshot) -> BTreeMap<String, WantedKeys> {
    let mut all: BTreeMap<String, WantedKeys> = BTreeMap::new();
    for policy in snapshot.objects::<RequestAuthentication>() {
        let key = Key::new(Kind::RequestAuthentication, policy.meta.namespace.clone(), policy.meta.name.clone());
        for (at, rule) in policy.rules.iter().enumerate() {
            let Some(name) = rule.keys.name() else { continue };
            let wanted = all.entry(name).or_insert_with(|| WantedKeys { source: rule.keys.clone(), timeout: rule.timeout, by: Vec::new() });
            wanted.timeout = wanted.timeout.max(rule.timeout);
            wanted.by.push((key.clone(), at));
        }
    }
    all
}
