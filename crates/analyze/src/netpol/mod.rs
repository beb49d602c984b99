//! The NetworkPolicies that repeat the mesh's policies at L4: documents in, objects and notes out.
//!
//! Whoever has a program run beside the proxies, or around them, is stopped by the network as well. What is written never stops a call that the mesh
//! allows: what L4 does not show (requests, tokens, addresses behind a proxy) is widened and told, and left to the mesh. It is as narrow as L4 can say
//! otherwise. A world of one cluster is meant: callers are its pods, and others as far as documents name them.

mod blocks;
mod callers;
mod egress;
mod ingress;
mod led;
mod object;
mod ports;
mod rule;
#[cfg(test)]
mod tests;
mod world;

use std::str::FromStr;

use mizzen_api::{Key, Kind, Problem, istio::AuthorizationPolicy};
use mizzen_types::{IpRange, check_dns_label};

pub use self::{
    object::{
        EgressRule, IngressRule, IpBlock, LabelSelector, Labelled, Metadata, NetworkPeer, NetworkPolicy, NetworkPort, Requirement, Spec,
    },
    ports::Target,
    world::World,
};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only policies of this namespace.
    pub namespace: Option<String>,
    /// The pods through which alone other pods may leave the cluster; `None`: those that documents name.
    pub through: Option<Through>,
    /// Addresses that pods may reach besides.
    pub reach: Vec<IpRange>,
    /// Whether nothing leaves the mesh that its registry does not name, whatever its settings say.
    pub registry_only: bool,
    /// Whether pods have proxies in a namespace of which nothing says it.
    pub meshed_by_default: bool,
    /// The namespace of the control plane.
    pub control_plane: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            namespace: None,
            through: None,
            reach: Vec::new(),
            registry_only: false,
            meshed_by_default: true,
            control_plane: "istio-system".to_owned(),
        }
    }
}

/// The pods of an egress gateway, written `NAMESPACE/LABEL=VALUE`, with more labels by commas.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Through {
    /// Their namespace.
    pub namespace: String,
    /// Their labels; never none.
    pub labels: Labelled,
}

impl FromStr for Through {
    type Err = String;

    fn from_str(text: &str) -> Result<Through, String> {
        let wrong = || format!("`{text}` is not NAMESPACE/LABEL=VALUE, such as istio-system/istio=egressgateway");
        let (namespace, labels) = text.split_once('/').ok_or_else(wrong)?;
        check_dns_label(namespace).map_err(|_| wrong())?;
        let pair = |label: &str| {
            let (name, value) = label.split_once('=').filter(|(name, value)| !name.is_empty() && !value.contains('='))?;
            Some((name.to_owned(), value.to_owned()))
        };
        let labels = labels.split(',').map(pair).collect::<Option<Labelled>>().ok_or_else(wrong)?;
        Ok(Through { namespace: namespace.to_owned(), labels })
    }
}

/// What was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Netpol {
    /// By namespace and name.
    pub policies: Vec<NetworkPolicy>,
    /// What is said less exactly than the mesh says it, and what is not known.
    pub notes: Vec<Problem>,
}

impl Netpol {
    /// A note about a field of a policy.
    fn note(&mut self, policy: &AuthorizationPolicy, field: &str, message: String) {
        let meta = &policy.meta;
        let object = Key::new(Kind::AuthorizationPolicy, meta.namespace.clone(), meta.name.clone());
        self.notes.push(Problem { pos: meta.position(field), object: Some(object), field: field.to_owned(), message });
    }

    /// A note about nothing in particular.
    fn remark(&mut self, message: String) {
        self.notes.push(Problem { pos: Default::default(), object: None, field: String::new(), message });
    }
}

/// Writes the NetworkPolicies. The same objects make the same ones, in whatever order they were added.
pub fn write(world: &World, options: &Options) -> Netpol {
    let mut made = Netpol { notes: world.problems.clone(), ..Netpol::default() };
    ingress::write(world, options, &mut made);
    if !made.policies.is_empty() {
        made.remark(
            "ports 15021 and 15090 of proxies and the port of their agents (15020, or as settings say) stay open, and ports that are not captured \
             or not of TCP and are declared; probes come from a pod's own node, which no NetworkPolicy stops; who comes to a gateway is left to the mesh: \
             nothing marks its pods as having a proxy"
                .to_owned(),
        );
    }
    if made.policies.iter().any(has_block) {
        made.remark(
            "some network plugins do not compare the addresses of the cluster's own pods with an ipBlock: a policy that names these by address \
             is narrower there"
                .to_owned(),
        );
    }
    egress::write(world, options, &mut made);
    made.policies.sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
    made.notes.sort();
    made.notes.dedup();
    made
}

fn has_block(policy: &NetworkPolicy) -> bool {
    policy.spec.ingress.iter().flatten().flat_map(|rule| &rule.from).any(|peer| peer.ip_block.is_some())
}
