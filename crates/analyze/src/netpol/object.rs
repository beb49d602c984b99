//! Kubernetes' NetworkPolicy, as far as it is written here.

use std::collections::BTreeMap;

use mizzen_types::IpRange;
use serde::{Serialize, Serializer};

use super::{
    blocks::Block,
    callers::{Namespaces, Peer},
    ports::{Open, Ports, Target},
};

/// The label of each namespace that holds its name; the API server sets it.
const NAME_OF_NAMESPACE: &str = "kubernetes.io/metadata.name";
/// The longest name of an object.
const MAX_NAME: usize = 253;

/// Labels by name.
pub type Labelled = BTreeMap<String, String>;

/// A NetworkPolicy; serialized it is the object that Kubernetes takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// `networking.k8s.io/v1`.
    pub api_version: &'static str,
    /// `NetworkPolicy`.
    pub kind: &'static str,
    /// Name, namespace, labels, annotations.
    pub metadata: Metadata,
    /// For whom it is, and what it admits.
    pub spec: Spec,
}

/// What the object is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// The name.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// Whose it is.
    pub labels: Labelled,
    /// Of which policies it was made.
    pub annotations: Labelled,
}

/// For whom it is, and what it admits: of policies for the same pods each admits what it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The pods of its namespace.
    pub pod_selector: LabelSelector,
    /// `Ingress` or `Egress`.
    pub policy_types: Vec<&'static str>,
    /// Who may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,
    /// Where pods may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
}

/// Labels that are asked for; none: all are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// These, with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labelled,
    /// Further conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// A condition about one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// `In` or `NotIn`.
    pub operator: &'static str,
    /// The values.
    pub values: Vec<String>,
}

/// One rule about who may come: one of `from`, to one of `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IngressRule {
    /// Who; none: anybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<NetworkPeer>,
    /// To which ports; none: to all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkPort>,
}

/// One rule about where pods may go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EgressRule {
    /// Where; none: anywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<NetworkPeer>,
    /// To which ports; none: to all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NetworkPort>,
}

/// Pods, or addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPeer {
    /// The namespaces of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The pods in these; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// Addresses of one range, without those of others within it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IpBlock {
    /// The range.
    #[serde(serialize_with = "as_text")]
    pub cidr: IpRange,
    /// What of it is not meant.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    pub except: Vec<IpRange>,
}

/// A port, a range of ports, or a port by the name that the container gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The port, or the first of the range.
    pub port: Target,
    /// The last of the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
}

fn as_text<S: Serializer>(range: &IpRange, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(range)
}

fn as_texts<S: Serializer>(ranges: &[IpRange], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ranges.iter().map(ToString::to_string))
}

impl NetworkPolicy {
    /// About who may come to these pods.
    pub(super) fn ingress(name: &str, namespace: &str, pods: LabelSelector, rules: Vec<IngressRule>, made_from: &str) -> NetworkPolicy {
        let spec = Spec { pod_selector: pods, policy_types: vec!["Ingress"], ingress: Some(rules), egress: None };
        NetworkPolicy::of(name, namespace, made_from, spec)
    }

    /// About where these pods may go.
    pub(super) fn egress(name: &str, namespace: &str, pods: LabelSelector, rules: Vec<EgressRule>, made_from: &str) -> NetworkPolicy {
        let spec = Spec { pod_selector: pods, policy_types: vec!["Egress"], ingress: None, egress: Some(rules) };
        NetworkPolicy::of(name, namespace, made_from, spec)
    }

    fn of(name: &str, namespace: &str, made_from: &str, spec: Spec) -> NetworkPolicy {
        let one = |name: &str, value: &str| Labelled::from([(name.to_owned(), value.to_owned())]);
        let metadata = Metadata {
            name: shortened(name),
            namespace: namespace.to_owned(),
            labels: one("app.kubernetes.io/managed-by", "mizzen"),
            annotations: one("mizzen/made-from", made_from),
        };
        NetworkPolicy { api_version: "networking.k8s.io/v1", kind: "NetworkPolicy", metadata, spec }
    }
}

/// The name as an object may have it. A hash that never changes keeps two long ones apart.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let kept = name.get(..MAX_NAME - 17).unwrap_or_default().trim_end_matches(['-', '.']);
    format!("{kept}-{hash:016x}")
}

impl LabelSelector {
    /// What bears these labels.
    pub(super) fn of(labels: Labelled) -> LabelSelector {
        LabelSelector { match_labels: labels, match_expressions: Vec::new() }
    }

    /// The same, and one more condition, unless it has no values.
    pub(super) fn with(mut self, key: &str, operator: &'static str, values: Vec<String>) -> LabelSelector {
        if !values.is_empty() {
            self.match_expressions.push(Requirement { key: key.to_owned(), operator, values });
        }
        self
    }
}

impl NetworkPeer {
    /// The pods of a namespace.
    pub(super) fn namespace(name: &str) -> NetworkPeer {
        NetworkPeer::from(&Peer::Pods { namespaces: Namespaces::One(name.to_owned()), labels: Labelled::new() })
    }

    /// These addresses.
    pub(super) fn range(cidr: IpRange) -> NetworkPeer {
        NetworkPeer { ip_block: Some(IpBlock { cidr, except: Vec::new() }), ..NetworkPeer::default() }
    }
}

impl From<&Peer> for NetworkPeer {
    fn from(peer: &Peer) -> NetworkPeer {
        match peer {
            Peer::Pods { namespaces, labels } => {
                let namespace_selector = match namespaces {
                    Namespaces::All { but } => LabelSelector::default().with(NAME_OF_NAMESPACE, "NotIn", but.iter().cloned().collect()),
                    Namespaces::One(name) => LabelSelector::of(Labelled::from([(NAME_OF_NAMESPACE.to_owned(), name.clone())])),
                };
                let pod_selector = (!labels.is_empty()).then(|| LabelSelector::of(labels.clone()));
                NetworkPeer { namespace_selector: Some(namespace_selector), pod_selector, ip_block: None }
            }
            Peer::Block(Block { range, except }) => {
                let ip_block = Some(IpBlock { cidr: *range, except: except.iter().copied().collect() });
                NetworkPeer { ip_block, ..NetworkPeer::default() }
            }
        }
    }
}

/// The ports of TCP as a rule has them; none for all.
pub(super) fn tcp(ports: &Ports) -> Vec<NetworkPort> {
    if ports.is_all() {
        return Vec::new();
    }
    let port = |&(first, last): &(u16, u16)| NetworkPort {
        protocol: "TCP",
        port: Target::Number(first),
        end_port: (last > first).then_some(last),
    };
    ports.ranges().iter().map(port).collect()
}

/// Ports of other protocols.
pub(super) fn declared<'a>(open: impl IntoIterator<Item = &'a Open>) -> Vec<NetworkPort> {
    let port = |open: &Open| NetworkPort { protocol: open.protocol, port: open.port.clone(), end_port: None };
    open.into_iter().map(port).collect()
}
