//! Two small judges of a call: one by AuthorizationPolicies, as proxies decide, and one by NetworkPolicies, as Kubernetes describes them.

use std::{collections::BTreeMap, net::IpAddr};

use mizzen_api::istio::{Action, AuthorizationPolicy, Condition, Operation, Pattern, Peer, Rule, Values};
use mizzen_types::{IpRange, NamespacedName};

use crate::netpol::{LabelSelector, NetworkPeer, NetworkPolicy, NetworkPort, Target};

/// The names of the mesh's trust domain; the first is its own.
pub(super) const DOMAINS: [&str; 2] = ["cluster.local", "old.domain"];
pub(super) const ROOT: &str = "istio-system";

/// A pod.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) namespace: &'static str,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) account: &'static str,
    pub(super) ip: IpAddr,
    pub(super) has_proxy: bool,
}

/// Namespace and account of a caller's certificate, if it has one.
pub(super) type Identity = Option<(&'static str, &'static str)>;

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    /// Whose connection it is; `None`: nobody's of the cluster.
    pub(super) from: Option<&'a Pod>,
    pub(super) ip: IpAddr,
    pub(super) identity: Identity,
    pub(super) to: &'a Pod,
    pub(super) port: u16,
}

/// Whether proxies may let it in: some request of it, with some token.
pub(super) fn may_pass(policies: &[AuthorizationPolicy], call: &Call<'_>) -> bool {
    if !call.to.has_proxy {
        return true;
    }
    let holds = |policy: &&AuthorizationPolicy| {
        let is_near = *policy.meta.namespace == *call.to.namespace || &*policy.meta.namespace == ROOT;
        let is_selected = policy.selector.as_ref().is_none_or(|selector| selector.matches(&call.to.labels));
        is_near && is_selected && !policy.dry_run
    };
    let of = |action| policies.iter().filter(holds).filter(move |policy| policy.action == action);
    let is_denied = of(Action::Deny).flat_map(|policy| &policy.rules).any(|rule| Judge { call, unseen: false }.rule(rule));
    let is_allowed = of(Action::Allow).flat_map(|policy| &policy.rules).any(|rule| Judge { call, unseen: true }.rule(rule));
    !is_denied && (is_allowed || of(Action::Allow).next().is_none())
}

struct Judge<'c> {
    call: &'c Call<'c>,
    /// Whether conditions hold that are not about the connection.
    unseen: bool,
}

impl Judge<'_> {
    fn rule(&self, rule: &Rule) -> bool {
        (rule.from.is_empty() || rule.from.iter().any(|peer| self.peer(peer)))
            && (rule.to.is_empty() || rule.to.iter().any(|to| self.operation(to)))
            && rule.when.iter().all(|condition| self.condition(condition))
    }

    fn lists<T>(&self, yes: &[T], no: &[T], is: impl Fn(&T) -> bool) -> bool {
        (yes.is_empty() || yes.iter().any(&is)) && !no.iter().any(&is)
    }

    fn unseen<T>(&self, list: &[T]) -> bool {
        list.is_empty() || self.unseen
    }

    fn peer(&self, p: &Peer) -> bool {
        self.lists(&p.principals, &p.not_principals, |pattern| self.principal(pattern))
            && self.lists(&p.namespaces, &p.not_namespaces, |pattern| self.namespace(pattern))
            && self.lists(&p.service_accounts, &p.not_service_accounts, |account| self.account(account))
            && self.lists(&p.trust_domains, &p.not_trust_domains, |pattern| self.domain(pattern))
            && self.lists(&p.ip_blocks, &p.not_ip_blocks, |range| self.address(range))
            && self.unseen(&p.remote_ip_blocks)
            && self.unseen(&p.not_remote_ip_blocks)
            && self.unseen(&p.request_principals)
            && self.unseen(&p.not_request_principals)
    }

    fn operation(&self, to: &Operation) -> bool {
        self.lists(&to.ports, &to.not_ports, |port| *port == self.call.port)
            && [&to.hosts, &to.not_hosts, &to.methods, &to.not_methods].into_iter().all(|list| self.unseen(list))
            && self.unseen(&to.paths)
            && self.unseen(&to.not_paths)
    }

    fn condition(&self, condition: &Condition) -> bool {
        fn both<T>(judge: &Judge<'_>, v: &Values<T>, is: impl Fn(&T) -> bool) -> bool {
            judge.lists(&v.values, &v.not_values, is)
        }
        match condition {
            Condition::SourceIp(v) => both(self, v, |range| self.address(range)),
            Condition::SourceNamespace(v) => both(self, v, |pattern| self.namespace(pattern)),
            Condition::SourcePrincipal(v) => both(self, v, |pattern| self.principal(pattern)),
            Condition::SourceTrustDomain(v) => both(self, v, |pattern| self.domain(pattern)),
            Condition::SourceServiceAccount(v) => both(self, v, |account| self.account(account)),
            Condition::DestinationPort(v) => both(self, v, |port| *port == self.call.port),
            _ => self.unseen,
        }
    }

    fn principal(&self, pattern: &Pattern) -> bool {
        let Some((namespace, account)) = self.call.identity else { return false };
        let rest = format!("ns/{namespace}/sa/{account}");
        if let Pattern::Exact(text) | Pattern::Prefix(text) = pattern
            && let Some((domain, asked)) = text.split_once('/')
            && DOMAINS.contains(&domain)
        {
            return if matches!(pattern, Pattern::Exact(_)) { rest == asked } else { rest.starts_with(asked) };
        }
        is_like(pattern, &format!("{}/{rest}", DOMAINS[0]))
    }

    fn namespace(&self, pattern: &Pattern) -> bool {
        self.call.identity.is_some_and(|(namespace, _)| is_like(pattern, namespace))
    }

    fn account(&self, account: &NamespacedName) -> bool {
        self.call.identity.is_some_and(|(namespace, name)| *account.namespace == *namespace && *account.name == *name)
    }

    fn domain(&self, pattern: &Pattern) -> bool {
        let is_other_name = matches!(pattern, Pattern::Exact(name) if DOMAINS.contains(&name.as_str()));
        self.call.identity.is_some() && (is_other_name || is_like(pattern, DOMAINS[0]))
    }

    fn address(&self, range: &IpRange) -> bool {
        range.contains(self.call.ip)
    }
}

fn is_like(pattern: &Pattern, text: &str) -> bool {
    match pattern {
        Pattern::Exact(it) => text == it,
        Pattern::Prefix(it) => text.starts_with(it.as_str()),
        Pattern::Suffix(it) => text.ends_with(it.as_str()),
        Pattern::Present => !text.is_empty(),
    }
}

/// Whether the network lets it in.
pub(super) fn is_admitted(policies: &[NetworkPolicy], call: &Call<'_>) -> bool {
    let mut labels = call.to.labels.clone();
    if call.to.has_proxy {
        labels.insert("security.istio.io/tlsMode".to_owned(), "istio".to_owned());
    }
    let selects = |policy: &&NetworkPolicy| {
        policy.metadata.namespace == call.to.namespace
            && policy.spec.policy_types.contains(&"Ingress")
            && has(&policy.spec.pod_selector, &labels)
    };
    let mut selecting = policies.iter().filter(selects).peekable();
    if selecting.peek().is_none() {
        return true;
    }
    selecting.flat_map(|policy| policy.spec.ingress.iter().flatten()).any(|rule| {
        (rule.from.is_empty() || rule.from.iter().any(|peer| is_peer(peer, call)))
            && (rule.ports.is_empty() || rule.ports.iter().any(|port| is_port(port, call.port)))
    })
}

fn has(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value))
        && selector.match_expressions.iter().all(|term| {
            let is_one = labels.get(&term.key).is_some_and(|value| term.values.contains(value));
            match term.operator {
                "In" => is_one,
                "NotIn" => !is_one,
                other => panic!("{other}"),
            }
        })
}

fn is_peer(peer: &NetworkPeer, call: &Call<'_>) -> bool {
    if let Some(block) = &peer.ip_block {
        return block.cidr.contains(call.ip) && !block.except.iter().any(|range| range.contains(call.ip));
    }
    let Some(pod) = call.from else { return false };
    let namespace = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), pod.namespace.to_owned())]);
    peer.namespace_selector.as_ref().is_some_and(|selector| has(selector, &namespace))
        && peer.pod_selector.as_ref().is_none_or(|selector| has(selector, &pod.labels))
}

fn is_port(port: &NetworkPort, number: u16) -> bool {
    let Target::Number(first) = port.port else { return false };
    port.protocol == "TCP" && (first..=port.end_port.unwrap_or(first)).contains(&number)
}
