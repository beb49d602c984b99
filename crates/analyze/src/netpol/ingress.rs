//! Who may come: a NetworkPolicy for each ALLOW policy, and for DENY policies of pods that no ALLOW policy selects.
//!
//! Of NetworkPolicies for one pod each admits what it names, and once there is one nothing else is admitted: as with ALLOW policies, so that one becomes one.
//! Pods without a proxy are not selected: no policy of the mesh is about them.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::{
    Problem, Selector,
    istio::{Action, AuthorizationPolicy},
};
use mizzen_types::ports;

use super::{
    Netpol, Options,
    callers::Peers,
    object::{IngressRule, LabelSelector, Labelled, NetworkPolicy, declared, tcp},
    ports::Ports,
    rule::{Constraint, MAX_WAYS, Parts, Wider, product, rules},
    world::{GATEWAY, World, is_within, may_meet},
};

/// Injection gives it to each pod that has a sidecar, and to no gateway.
const HAS_PROXY: (&str, &str) = ("security.istio.io/tlsMode", "istio");
/// What the proxy itself answers, whatever policies say: readiness and metrics. Its agent has a port of its own.
const OF_PROXY: [u16; 2] = [ports::READINESS, ports::METRICS];
/// Without these nobody knows whom the mesh stops.
const NEEDED: [&str; 2] = ["AuthorizationPolicy", "ConfigMap"];

/// A note about addresses.
const ANY_POD: &str =
    "addresses of pods are left to the mesh: not every network plugin compares them with an ipBlock, so that any pod is admitted";

/// The pods of a namespace that a policy selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pods {
    labels: Labelled,
    /// Those of these Gateways alone.
    gateways: BTreeSet<String>,
}

/// A policy that is enforced, with its rules.
struct Enforced<'w> {
    policy: &'w AuthorizationPolicy,
    pods: Pods,
    rules: Vec<Parts>,
}

/// One namespace.
struct Place<'w> {
    world: &'w World,
    name: &'w str,
    allow: Vec<Enforced<'w>>,
    deny: Vec<Enforced<'w>>,
    /// Pods for which a policy cannot be read, or is not written: others for the same pods alone would admit less than all of them do.
    unknown: Vec<Pods>,
}

/// All of them.
pub(super) fn write(world: &World, options: &Options, out: &mut Netpol) {
    if let Some(kind) = world.unseen(&NEEDED) {
        return out.remark(format!("objects of kind {kind} may not be read: no NetworkPolicy is written for who may come"));
    }
    let root = world.mesh().root_namespace.as_str();
    let is_asked = |name: &str| options.namespace.as_deref().is_none_or(|asked| asked == name);
    for policy in world.policies.iter().filter(|policy| is_asked(&policy.meta.namespace) || *policy.meta.namespace == *root) {
        note(policy, out);
    }
    for refused in world.refused.iter().filter(|refused| is_asked(&refused.namespace) || refused.namespace == root) {
        let message = "the policy cannot be read, so that no NetworkPolicy is written for pods that it selects";
        out.notes.push(Problem { message: format!("{}: {message}", refused.problem.message), ..refused.problem.clone() });
    }
    for name in world.namespaces().filter(|name| is_asked(name)) {
        // Where a policy of its own decides, the mesh's do so too.
        let is_own = |policy: &AuthorizationPolicy| *policy.meta.namespace == *name && policy.action == Action::Allow && !policy.dry_run;
        let holds = name == root || world.is_meshed(name, options.meshed_by_default) || world.policies.iter().any(is_own);
        Place::new(world, name, holds).write(out);
    }
}

/// What of a policy is left to the mesh wherever it holds.
fn note(policy: &AuthorizationPolicy, out: &mut Netpol) {
    let mut say = |field: &str, text: String| out.note(policy, field, text);
    match policy.action {
        _ if policy.dry_run => return say("", "is a dry run, which decides nothing: it is passed over".to_owned()),
        Action::Audit => return say("spec.action", "an AUDIT policy decides nothing: it is passed over".to_owned()),
        Action::Custom => {
            return say("spec.action", "a CUSTOM policy is left to the mesh: its provider alone knows whom it refuses".to_owned());
        }
        Action::Allow | Action::Deny => {}
    }
    for (number, rule) in policy.rules.iter().enumerate() {
        let (parts, field) = (Parts::read(rule), format!("spec.rules[{number}]"));
        let unseen = parts.unseen().join(", ");
        if policy.action == Action::Allow && !unseen.is_empty() {
            say(&field, format!("L4 does not show {unseen}: who may come otherwise is admitted, and the mesh decides"));
        }
        if policy.action == Action::Deny && parts.otherwise().is_none() {
            let why = if unseen.is_empty() { "it has too many parts".to_owned() } else { format!("L4 does not show {unseen}") };
            say(&field, format!("the rule is left to the mesh: {why}"));
        }
    }
}

impl Pods {
    fn of(policy: &AuthorizationPolicy) -> Pods {
        Pods { labels: labels(policy.selector.as_ref()), gateways: policy.gateways.iter().cloned().collect() }
    }

    /// Whether all of the others are among them.
    fn hold(&self, others: &Pods) -> bool {
        let of_gateways = self.gateways.is_empty() || (!others.gateways.is_empty() && others.gateways.is_subset(&self.gateways));
        of_gateways && is_within(&self.labels, &others.labels)
    }

    /// Whether some of the others may be among them.
    fn may_hold_some(&self, others: &Pods) -> bool {
        let either = self.gateways.is_empty() || others.gateways.is_empty();
        (either || !self.gateways.is_disjoint(&others.gateways)) && may_meet(&self.labels, &others.labels)
    }

    fn selector(&self) -> LabelSelector {
        let mut labels = self.labels.clone();
        labels.entry(HAS_PROXY.0.to_owned()).or_insert_with(|| HAS_PROXY.1.to_owned());
        LabelSelector::of(labels).with(GATEWAY, "In", self.gateways.iter().cloned().collect())
    }

    /// The labels by which its workloads are known, one set for each Gateway.
    fn sets(&self) -> Vec<Labelled> {
        if self.gateways.is_empty() {
            return vec![self.labels.clone()];
        }
        self.gateways.iter().map(|name| Labelled::from([(GATEWAY.to_owned(), name.clone())])).collect()
    }
}

fn labels(selector: Option<&Selector>) -> Labelled {
    selector.map(|selector| selector.labels.clone()).unwrap_or_default()
}

impl<'w> Place<'w> {
    /// With what holds there: its own policies, and those of the mesh, which hold where proxies are.
    fn new(world: &'w World, name: &'w str, is_of_mesh: bool) -> Place<'w> {
        let root = world.mesh().root_namespace.as_str();
        let holds = |policy: &&AuthorizationPolicy| {
            *policy.meta.namespace == *name || (is_of_mesh && *policy.meta.namespace == *root && policy.gateways.is_empty())
        };
        let of = |action: Action| -> Vec<Enforced<'w>> {
            let mut found: Vec<&AuthorizationPolicy> = world.policies.iter().filter(holds).collect();
            found.retain(|policy| policy.action == action && !policy.dry_run);
            found.sort_by_key(|policy| (*policy.meta.namespace != *root, policy.meta.name.clone()));
            let enforced = |policy: &'w AuthorizationPolicy| Enforced {
                policy,
                pods: Pods::of(policy),
                rules: policy.rules.iter().map(Parts::read).collect(),
            };
            found.into_iter().map(enforced).collect()
        };
        let unknown = world.refused.iter().filter(|refused| refused.namespace == name || refused.namespace == root);
        let unknown = unknown.map(|refused| Pods { labels: labels(refused.selector.as_ref()), gateways: BTreeSet::new() });
        let mut place = Place { world, name, allow: of(Action::Allow), deny: of(Action::Deny), unknown: unknown.collect() };
        place.pass_on();
        place
    }

    /// What is unknown of some pods of an ALLOW policy is so of all of them, and so on.
    fn pass_on(&mut self) {
        loop {
            let touched = self.allow.iter().map(|allow| &allow.pods).filter(|pods| self.is_unknown(pods) && !self.unknown.contains(pods));
            let more: Vec<Pods> = touched.cloned().collect();
            if more.is_empty() {
                return;
            }
            self.unknown.extend(more);
        }
    }

    fn is_unknown(&self, pods: &Pods) -> bool {
        self.unknown.iter().any(|unknown| unknown.may_hold_some(pods))
    }

    fn write(&self, out: &mut Netpol) {
        for allow in self.allow.iter().filter(|allow| !self.is_unknown(&allow.pods)) {
            let (ways, denied_by) = self.ways(&allow.pods, Some(allow), out);
            self.note_wider(allow, &ways, out);
            let admitted = rules(self.world, &allow.rules, &ways, &mut Wider::default());
            out.policies.push(self.policy("allow", allow.policy, &denied_by, &allow.pods, admitted));
        }
        // For pods that no ALLOW policy selects everybody may come who is not denied.
        let mut by_pods: BTreeMap<&Pods, &AuthorizationPolicy> = BTreeMap::new();
        for deny in self.deny.iter().filter(|deny| !self.is_unknown(&deny.pods)) {
            if !self.allow.iter().any(|allow| allow.pods.may_hold_some(&deny.pods)) {
                by_pods.entry(&deny.pods).or_insert(deny.policy);
            } else if !self.allow.iter().any(|allow| allow.pods.hold(&deny.pods))
                && deny.rules.iter().any(|rule| rule.otherwise().is_some())
            {
                // A NetworkPolicy for all of them would admit to the others what no ALLOW policy admits.
                let text = format!("is left to the mesh for pods of {} that no ALLOW policy selects, since some are selected", self.name);
                out.note(deny.policy, "spec.selector", text);
            }
        }
        for (pods, first) in by_pods {
            let (ways, denied_by) = self.ways(pods, None, out);
            let mut wider = Wider::default();
            let admitted = rules(self.world, &[Parts::default()], &ways, &mut wider);
            if wider.pods {
                out.note(first, "spec.rules", ANY_POD.to_owned());
            }
            if admitted.get(&None).is_some_and(Ports::is_all) {
                continue;
            }
            let others: Vec<_> = denied_by.into_iter().filter(|policy| !std::ptr::eq(*policy, first)).collect();
            out.policies.push(self.policy("deny", first, &others, pods, admitted));
        }
    }

    /// The ways in which a call to these pods is not denied, and the policies that leave no others.
    fn ways(&self, pods: &Pods, allow: Option<&Enforced<'w>>, out: &mut Netpol) -> (Vec<Constraint>, Vec<&'w AuthorizationPolicy>) {
        let (mut ways, mut by) = (vec![Constraint::any()], Vec::new());
        for deny in &self.deny {
            if !deny.pods.hold(pods) {
                if let Some(allow) = allow.filter(|_| deny.pods.may_hold_some(pods)) {
                    let whose = format!("{}/{}", allow.policy.meta.namespace, allow.policy.meta.name);
                    let text =
                        format!("is left to the mesh for pods that AuthorizationPolicy {whose} selects: not all of them are its own");
                    out.note(deny.policy, "spec.selector", text);
                }
                continue;
            }
            let mut takes = false;
            for (number, rule) in deny.rules.iter().enumerate() {
                let Some(others) = rule.otherwise() else { continue };
                if let Some(left) = product(&ways, &others) {
                    (ways, takes) = (left, true);
                } else {
                    let text = format!("the rule is left to the mesh: with other DENY rules it leaves more than {MAX_WAYS} ways to come");
                    out.note(deny.policy, &format!("spec.rules[{number}]"), text);
                }
            }
            by.extend(takes.then_some(deny.policy));
        }
        (ways, by)
    }

    /// What of the rules of an ALLOW policy is said less exactly than it could be meant.
    fn note_wider(&self, allow: &Enforced<'_>, ways: &[Constraint], out: &mut Netpol) {
        for (number, rule) in allow.rules.iter().enumerate() {
            let mut wider = Wider::default();
            rules(self.world, std::slice::from_ref(rule), ways, &mut wider);
            let mut say = |is: bool, text: &str| {
                if is {
                    out.note(allow.policy, &format!("spec.rules[{number}]"), text.to_owned());
                }
            };
            say(wider.anonymous, "who a caller is not is left to the mesh: one without an identity is not he either, and has no namespace");
            say(wider.both, "addresses are left to the mesh where callers are named too: a NetworkPolicy has the one or the other");
            say(wider.pods, ANY_POD);
            say(wider.foreign, "callers may come from outside of the cluster's pods: addresses are not known, and any is admitted");
        }
    }

    /// The NetworkPolicy that has the name of the first of the policies of which it is made.
    fn policy(
        &self,
        what: &str,
        first: &AuthorizationPolicy,
        others: &[&AuthorizationPolicy],
        pods: &Pods,
        admitted: BTreeMap<Peers, Ports>,
    ) -> NetworkPolicy {
        let scope = if *first.meta.namespace == *self.name { "" } else { "mesh-" };
        let name = format!("mizzen-{scope}{what}.{}", first.meta.name);
        let title = |policy: &AuthorizationPolicy| format!("AuthorizationPolicy {}/{}", policy.meta.namespace, policy.meta.name);
        let from = others.iter().fold(title(first), |all, other| all + ", " + &title(other));
        let is_open = admitted.get(&None).is_some_and(Ports::is_all);
        let rule =
            |(peers, ports): (Peers, Ports)| IngressRule { from: peers.iter().flatten().map(Into::into).collect(), ports: tcp(&ports) };
        let mut rules: Vec<IngressRule> = admitted.into_iter().map(rule).collect();
        if !is_open {
            rules.push(self.unguarded(pods));
        }
        NetworkPolicy::ingress(&name, self.name, pods.selector(), rules, &from)
    }

    /// What policies of the mesh do not decide about.
    fn unguarded(&self, pods: &Pods) -> IngressRule {
        let sets = pods.sets();
        let beside = sets.iter().map(|labels| self.world.uncaptured(self.name, labels).or(&self.world.of_agents(self.name, labels)));
        let open = beside.fold(Ports::of(OF_PROXY), |all, more| all.or(&more));
        if open.is_all() {
            return IngressRule::default();
        }
        let others: BTreeSet<_> = sets.iter().flat_map(|labels| self.world.declared(self.name, labels)).collect();
        let mut ports = tcp(&open);
        ports.extend(declared(&others));
        IngressRule { from: Vec::new(), ports }
    }
}
