//! From NetworkPolicies and the pods that run to what the router admits. Pure.
//!
//! It reads the policies as Kubernetes describes them: of those that select a pod each admits what it names, and nothing else is admitted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use mizzen_analyze::netpol::{LabelSelector, NetworkPeer, NetworkPolicy, NetworkPort, Target};
use mizzen_capture::{Addresses, Admit, PortRange, Side};

use crate::up::desired::Wanted;

/// Pods by their addresses.
pub(crate) type Pods = BTreeMap<Ipv4Addr, Arc<Wanted>>;

/// The label of each namespace that holds its name.
const NAME_OF_NAMESPACE: &str = "kubernetes.io/metadata.name";

/// A pod with all labels that it has.
struct Member<'p> {
    pod: &'p Wanted,
    labels: BTreeMap<String, String>,
}

type Members<'p> = BTreeMap<Ipv4Addr, Member<'p>>;

/// Who may come to whom, and who may go where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) inbound: Vec<Side>,
    pub(super) outbound: Vec<Side>,
}

impl Plan {
    pub(super) fn new(policies: &[NetworkPolicy], pods: &Pods) -> Plan {
        let all: Members<'_> = pods.iter().map(|(address, pod)| (*address, Member { pod, labels: pod.told_labels() })).collect();
        let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
        for policy in policies {
            if let Some(rules) = &policy.spec.ingress {
                inbound.push((policy, rules.iter().map(|rule| (&rule.from[..], &rule.ports[..])).collect()));
            }
            if let Some(rules) = &policy.spec.egress {
                outbound.push((policy, rules.iter().map(|rule| (&rule.to[..], &rule.ports[..])).collect()));
            }
        }
        Plan { inbound: sides(&inbound, &all), outbound: sides(&outbound, &all) }
    }
}

/// A policy with its rules for one direction: who, and which ports.
type Ruled<'n> = (&'n NetworkPolicy, Vec<(&'n [NetworkPeer], &'n [NetworkPort])>);

/// A side for all pods that the same policies select.
fn sides(policies: &[Ruled<'_>], all: &Members<'_>) -> Vec<Side> {
    let mut groups: BTreeMap<Vec<usize>, Vec<Ipv4Addr>> = BTreeMap::new();
    for (address, member) in all {
        let selects = |policy: &NetworkPolicy| {
            policy.metadata.namespace == member.pod.namespace
                && meets(&policy.spec.pod_selector, |name| member.labels.get(name).map(String::as_str))
        };
        let selecting: Vec<usize> = policies.iter().enumerate().filter(|(_, (policy, _))| selects(policy)).map(|(at, _)| at).collect();
        if !selecting.is_empty() {
            groups.entry(selecting).or_default().push(*address);
        }
    }
    let side = |(selecting, addresses): (Vec<usize>, Vec<Ipv4Addr>)| {
        let own: Vec<&Wanted> = addresses.iter().filter_map(|address| Some(all.get(address)?.pod)).collect();
        let rules = selecting.iter().filter_map(|at| policies.get(*at)).flat_map(|(_, rules)| rules);
        let admits: BTreeSet<Admit> = rules.filter_map(|(peers, ports)| admit(peers, ports, all, &own)).collect();
        let is_open = admits.iter().any(|admit| admit.peers.is_none() && admit.ports.is_empty());
        (!is_open).then(|| Side { of: addresses.into_iter().collect(), admits })
    };
    groups.into_iter().filter_map(side).collect()
}

/// What a rule admits; `None`: nothing, for nobody is meant.
fn admit(peers: &[NetworkPeer], ports: &[NetworkPort], all: &Members<'_>, own: &[&Wanted]) -> Option<Admit> {
    let named: Option<Addresses> =
        (!peers.is_empty()).then(|| peers.iter().map(|peer| addresses(peer, all)).fold(Addresses::default(), Addresses::and));
    let numbers: BTreeSet<PortRange> = ports.iter().flat_map(|port| ranges(port, own)).collect();
    let is_nobody = named.as_ref().is_some_and(Addresses::is_empty) || (numbers.is_empty() && !ports.is_empty());
    (!is_nobody).then_some(Admit { peers: named, ports: numbers })
}

fn addresses(peer: &NetworkPeer, all: &Members<'_>) -> Addresses {
    if let Some(block) = &peer.ip_block {
        let except = block.except.iter().map(Addresses::of).fold(Addresses::default(), Addresses::and);
        return Addresses::of(&block.cidr).without(&except);
    }
    let is_meant = |member: &Member<'_>| {
        let namespace = |name: &str| (name == NAME_OF_NAMESPACE).then_some(member.pod.namespace.as_str());
        peer.namespace_selector.as_ref().is_some_and(|selector| meets(selector, namespace))
            && peer.pod_selector.as_ref().is_none_or(|selector| meets(selector, |name| member.labels.get(name).map(String::as_str)))
    };
    all.iter().filter(|(_, member)| is_meant(member)).map(|(address, _)| *address).collect()
}

fn meets<'v>(selector: &LabelSelector, label: impl Fn(&str) -> Option<&'v str>) -> bool {
    let is_one = |name: &str, values: &[String]| label(name).is_some_and(|own| values.iter().any(|value| value == own));
    selector.match_labels.iter().all(|(name, value)| label(name) == Some(value.as_str()))
        && selector.match_expressions.iter().all(|term| is_one(&term.key, &term.values) == (term.operator == "In"))
}

/// The numbers of a port: of a name those that it has in the pods that are selected.
fn ranges(port: &NetworkPort, own: &[&Wanted]) -> BTreeSet<PortRange> {
    const UDP: u8 = 17;
    let protocol = match port.protocol {
        "UDP" => UDP,
        "SCTP" => 132,
        _ => 6,
    };
    match &port.port {
        Target::Number(first) => BTreeSet::from([PortRange { protocol, first: *first, last: port.end_port.unwrap_or(*first) }]),
        Target::Name(name) => {
            let ports = own.iter().flat_map(|pod| &pod.container().ports);
            let ports = ports.filter(|port| port.name == *name && port.udp == (protocol == UDP));
            ports.map(|port| PortRange { protocol, first: port.port, last: port.port }).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use mizzen_analyze::netpol::{Options, World, write};

    use super::*;
    use crate::up::desired::{tests::objects, wanted};

    /// The pods of Deployments in the order of their names, from 10.244.0.16 on, and what is admitted to them, a line for each.
    fn check(yaml: &str, options: &Options, expected: &str) {
        let objects = objects(yaml);
        let pods: Pods = (16..).map(|last| Ipv4Addr::new(10, 244, 0, last)).zip(wanted(&objects).into_values().map(Arc::new)).collect();
        let mut world = World::default();
        objects.values().for_each(|object| world.put(object));
        world.has_all_pods();
        let plan = Plan::new(&write(&world, options).policies, &pods);
        assert_eq!(shown(&plan), expected);
    }

    fn shown(plan: &Plan) -> String {
        let addresses = |addresses: &Addresses| {
            let range = |(first, last): &(Ipv4Addr, Ipv4Addr)| if first == last { first.to_string() } else { format!("{first}-{last}") };
            addresses.ranges().iter().map(range).collect::<Vec<_>>().join(" ").replace("10.244.0", "")
        };
        let mut text = String::new();
        for (word, side) in plan.inbound.iter().map(|side| ("to", side)).chain(plan.outbound.iter().map(|side| ("from", side))) {
            let _ = write!(text, "{word} {}:", addresses(&side.of));
            for admit in &side.admits {
                let ports = admit.ports.iter().map(|port| format!("{}/{}-{}", port.protocol, port.first, port.last)).collect::<Vec<_>>();
                let _ = write!(text, " [{} {}]", admit.peers.as_ref().map_or("any".to_owned(), addresses), ports.join(" "));
            }
            text += "\n";
        }
        text
    }

    /// `web` and `data`, two each, and a namespace of guests with one more.
    const PODS: &str = "
{apiVersion: apps/v1, kind: Deployment, metadata: {name: data, namespace: shop}, spec: {replicas: 2, selector: {matchLabels: {app: data}}, template: {metadata: {labels: {app: data}}, spec: {serviceAccountName: data, containers: [{name: c, image: x, command: [x], ports: [{name: sync, containerPort: 99, protocol: UDP}]}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{name: c, image: x, command: [x]}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: guest, namespace: guests}, spec: {selector: {matchLabels: {app: guest}}, template: {metadata: {labels: {app: guest}}, spec: {containers: [{name: c, image: x, command: [x]}]}}}}
---
";

    fn policy(namespace: &str, spec: &str) -> String {
        format!(
            "{PODS}{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}\n"
        )
    }

    const OWN: &str = "[any 6/15020-15021 6/15090-15090]";
    const OWN_AND_UDP: &str = "[any 6/15020-15021 6/15090-15090 17/99-99]";

    #[test]
    fn who_may_come() {
        let check = |namespace: &str, spec: &str, expected: &str| check(&policy(namespace, spec), &Options::default(), expected);
        let web = "{selector: {matchLabels: {app: data}}, \
                   rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {ports: ['70']}}]}]}";
        check("shop", web, &format!("to .17-.18: {OWN_AND_UDP} [.19-.20 6/70-70]\n"));
        check("shop", "{rules: [{from: [{source: {namespaces: [guests]}}]}]}", &format!("to .17-.20: {OWN_AND_UDP} [.16 ]\n"));
        // An account that no pod has is nobody's.
        let nobody = "{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/nobody]}}]}]}";
        check("shop", nobody, &format!("to .17-.20: {OWN_AND_UDP}\n"));
        // What L4 does not show admits anybody.
        check("shop", "{rules: [{to: [{operation: {methods: [GET]}}]}]}", "");
        let blocks = "{rules: [{from: [{source: {ipBlocks: [10.244.0.0/28, 10.244.0.17]}}]}]}";
        check("guests", blocks, &format!("to .16: {OWN} [.0-.15 .17 ]\n"));
        check("istio-system", "{}", &format!("to .16: {OWN}\nto .17-.20: {OWN_AND_UDP}\n"));
    }

    /// A gateway has an identity by which it may come, and what is said of sidecars is not said of it.
    #[test]
    fn gateways() {
        const GATE: &str = "---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: gate, namespace: gates}, spec: {selector: {matchLabels: {istio: gate}}, template: {metadata: {labels: {istio: gate}, annotations: {inject.istio.io/templates: gateway}}, spec: {serviceAccountName: gate, containers: [{name: istio-proxy, image: auto}]}}}}
";
        let check = |namespace: &str, spec: &str, expected: &str| check(&(policy(namespace, spec) + GATE), &Options::default(), expected);
        let gate = "{selector: {matchLabels: {app: data}}, rules: [{from: [{source: {principals: [cluster.local/ns/gates/sa/gate]}}]}]}";
        check("shop", gate, &format!("to .18-.19: {OWN_AND_UDP} [.16 ]\n"));
        check("istio-system", "{}", &format!("to .17: {OWN}\nto .18-.21: {OWN_AND_UDP}\n"));
    }

    #[test]
    fn who_may_leave() {
        let through = Options { through: "shop/app=web".parse().ok(), reach: vec!["192.0.2.0/24".parse().unwrap()], ..Options::default() };
        // Anybody may go to any pod, and the gateway anywhere.
        check(PODS, &through, "from .16: [.16-.20 ] [192.0.2.0-192.0.2.255 ]\nfrom .17-.18: [.16-.20 ] [192.0.2.0-192.0.2.255 ]\n");
        check(PODS, &Options::default(), "");
    }
}
