//! Who may call whom, and what else selects workloads.

use std::collections::BTreeMap;

use mizzen_api::{Labels, Node};
use mizzen_types::Name;

use super::{labels, list, text, texts};

/// Whom a policy is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelectedFacts {
    /// The labels of its workloads.
    pub selector: Labels,
    /// Whether a selector is written, empty or not.
    pub has_selector: bool,
    /// `targetRefs`, or `targetRef`.
    pub targets: Vec<TargetRef>,
    /// Of a ProxyConfig: `image.imageType`; empty if it is not written.
    pub image_type: Name,
}

/// An object that a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetRef {
    /// The group.
    pub group: Name,
    /// The kind.
    pub kind: Name,
    /// The name.
    pub name: Name,
    /// The namespace; empty is the policy's.
    pub namespace: Name,
    /// Its path.
    pub path: String,
}

/// A mode of mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// That of the next policy above.
    #[default]
    Unset,
    /// Plaintext only.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// A PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerFacts {
    /// Whom it is for.
    pub selected: SelectedFacts,
    /// The mode.
    pub mode: Mode,
    /// Modes of ports, as written.
    pub ports: BTreeMap<Name, Mode>,
}

/// An AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyFacts {
    /// Whom it is for.
    pub selected: SelectedFacts,
    /// The action in upper case; `ALLOW` if none is written.
    pub action: Name,
    /// The rules; none match nothing.
    pub rules: Vec<RuleFacts>,
}

/// A rule of an AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleFacts {
    /// `from`; empty is anybody.
    pub from: Vec<SourceFacts>,
    /// `to`, each a map of fields to values; empty is anything.
    pub to: Vec<BTreeMap<Name, Vec<Name>>>,
    /// `when`: key, `values` and `notValues`.
    pub when: Vec<(Name, Vec<Name>, Vec<Name>)>,
}

/// A source: fields to values.
pub type SourceFacts = BTreeMap<Name, Vec<Name>>;

impl SelectedFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        let selector = [spec.at("selector.matchLabels"), spec.at("workloadSelector.labels")].into_iter().flatten().next();
        let target = |node: &Node, path: String| TargetRef {
            group: text(node, "group"),
            kind: text(node, "kind"),
            name: text(node, "name"),
            namespace: text(node, "namespace"),
            path,
        };
        let many = spec.get("targetRefs").map(Node::items).unwrap_or_default().iter().enumerate();
        let many = many.map(|(at, node)| target(node, format!("spec.targetRefs[{at}]")));
        let targets = spec.get("targetRef").map(|node| target(node, "spec.targetRef".to_owned())).into_iter().chain(many).collect();
        SelectedFacts {
            selector: labels(selector),
            has_selector: spec.get("selector").is_some() || spec.get("workloadSelector").is_some(),
            targets,
            image_type: text(spec, "image.imageType"),
        }
    }
}

impl Mode {
    fn read(node: Option<&Node>) -> Mode {
        match node.and_then(|node| node.get("mode")).and_then(Node::text) {
            Some("STRICT") => Mode::Strict,
            Some("PERMISSIVE") => Mode::Permissive,
            Some("DISABLE") => Mode::Disable,
            _ => Mode::Unset,
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Unset => "UNSET",
            Mode::Disable => "DISABLE",
            Mode::Permissive => "PERMISSIVE",
            Mode::Strict => "STRICT",
        }
    }
}

impl PeerFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        let ports = spec.get("portLevelMtls").map(Node::entries).unwrap_or_default();
        PeerFacts {
            selected: SelectedFacts::read(spec),
            mode: Mode::read(spec.get("mtls")),
            ports: ports.iter().map(|entry| (Name::from(&*entry.key), Mode::read(Some(&entry.value)))).collect(),
        }
    }
}

impl PolicyFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        let action = text(spec, "action").to_ascii_uppercase();
        PolicyFacts {
            selected: SelectedFacts::read(spec),
            action: if action.is_empty() { "ALLOW".into() } else { action.into() },
            rules: list(spec.get("rules"), RuleFacts::read),
        }
    }
}

impl PolicyFacts {
    /// The namespaces that sources name: number of the rule, of the source, field, number in it, name.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (usize, usize, &'static str, usize, &Name)> {
        let sources =
            self.rules.iter().enumerate().flat_map(|(rule, of)| of.from.iter().enumerate().map(move |(from, source)| (rule, from, source)));
        sources.flat_map(|(rule, from, source)| {
            let fields = ["namespaces", "notNamespaces"].into_iter();
            fields.flat_map(move |field| {
                let names = source.get(field).into_iter().flatten().enumerate();
                names.map(move |(number, name)| (rule, from, field, number, name))
            })
        })
    }
}

impl RuleFacts {
    fn read(rule: &Node) -> Self {
        RuleFacts {
            from: list(rule.get("from"), |from| fields(from.get("source"))),
            to: list(rule.get("to"), |to| fields(to.get("operation"))),
            when: list(rule.get("when"), |when| (text(when, "key"), texts(when.get("values")), texts(when.get("notValues")))),
        }
    }
}

fn fields(node: Option<&Node>) -> BTreeMap<Name, Vec<Name>> {
    let entries = node.map(Node::entries).unwrap_or_default();
    entries.iter().map(|entry| (Name::from(&*entry.key), texts(Some(&entry.value)))).collect()
}
