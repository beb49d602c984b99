//! From rules of AuthorizationPolicies to rules of NetworkPolicies.
//!
//! A rule is read as conditions; those that L4 does not show are taken to hold where a call would be allowed, and not to hold where it would be denied, so
//! that what comes out never admits less than the policy. What a DENY rule takes away is kept as what it leaves: the ways in which a call is not denied.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::istio::{Condition, Operation, Peer as Source, Rule, Values};
use mizzen_types::{IpRange, NamespacedName};

use super::{
    blocks::Addresses,
    callers::{Ask, Namespaces, Peer, Peers, Who, callers, collapsed, union},
    object::Labelled,
    ports::Ports,
    world::World,
};

/// So many ways not to be denied are told apart; what takes more is left to the mesh.
pub(super) const MAX_WAYS: usize = 16;

/// One condition of a rule.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    what: What,
    /// Whether it must be so, or must not.
    is: bool,
    /// As the rule has it.
    field: String,
}

#[derive(Clone, Debug)]
enum What {
    Who(Vec<Ask>),
    Address(Vec<IpRange>),
    Port(Vec<u16>),
    /// L4 does not show it.
    Unseen,
}

/// A rule: one of `from`, one of `to`, and all of `when`.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    from: Vec<Vec<Literal>>,
    to: Vec<Vec<Literal>>,
    when: Vec<Literal>,
}

/// Conditions that all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Constraint {
    who: Who,
    addresses: Addresses,
    ports: Ports,
}

/// What could not be said exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wider {
    /// Who somebody is not: who has no identity is not he either.
    pub(super) anonymous: bool,
    /// Who and where from, together.
    pub(super) both: bool,
    /// Addresses that may be those of any pod.
    pub(super) pods: bool,
    /// Who may be of a foreign trust domain, or is a machine whose address is not known.
    pub(super) foreign: bool,
}

impl Parts {
    pub(super) fn read(rule: &Rule) -> Parts {
        let nest = |name: &str, at: usize, literals: Vec<Literal>| -> Vec<Literal> {
            literals.into_iter().map(|literal| Literal { field: format!("{name}[{at}].{}", literal.field), ..literal }).collect()
        };
        Parts {
            from: rule.from.iter().enumerate().map(|(at, source)| nest("from", at, of_source(source))).collect(),
            to: rule.to.iter().enumerate().map(|(at, operation)| nest("to", at, of_operation(operation))).collect(),
            when: rule.when.iter().enumerate().flat_map(|(at, condition)| nest("when", at, of_condition(condition))).collect(),
        }
    }

    /// The fields that L4 does not show.
    pub(super) fn unseen(&self) -> Vec<&str> {
        let all = self.from.iter().chain(&self.to).flatten().chain(&self.when);
        all.filter(|literal| matches!(literal.what, What::Unseen)).map(|literal| literal.field.as_str()).collect()
    }

    /// The ways in which this does not hold; `None`: L4 does not show it, or there are too many.
    pub(super) fn otherwise(&self) -> Option<Vec<Constraint>> {
        let mut ways = Vec::new();
        for side in [&self.from, &self.to].into_iter().filter(|side| !side.is_empty()) {
            let mut none = vec![Constraint::any()];
            // Whoever is none of several is not this one either, so that those of which L4 shows too little are passed over.
            for entry in side {
                if let Some(others) = entry.iter().map(Literal::otherwise).collect::<Option<Vec<_>>>() {
                    none = product(&none, &others)?;
                }
            }
            ways.extend(none);
        }
        for literal in &self.when {
            ways.push(literal.otherwise()?);
        }
        (ways.len() <= MAX_WAYS && !ways.contains(&Constraint::any())).then_some(ways)
    }
}

/// The ways in which one of each holds; `None` if there are too many.
pub(super) fn product(ones: &[Constraint], others: &[Constraint]) -> Option<Vec<Constraint>> {
    let ways = ones.iter().flat_map(|one| others.iter().map(move |other| one.and(other)));
    (ones.len() * others.len() <= MAX_WAYS).then(|| ways.collect())
}

impl Literal {
    fn otherwise(&self) -> Option<Constraint> {
        let is = !self.is;
        (!matches!(self.what, What::Unseen)).then(|| Constraint::all([&Literal { is, ..self.clone() }]))
    }
}

impl Constraint {
    /// None.
    pub(super) fn any() -> Constraint {
        Constraint { who: Who::default(), addresses: Addresses::default(), ports: Ports::all() }
    }

    /// These, as far as L4 shows them.
    fn all<'l>(literals: impl IntoIterator<Item = &'l Literal>) -> Constraint {
        let mut all = Constraint::any();
        for literal in literals {
            match (&literal.what, literal.is) {
                (What::Who(asks), true) => all.who.of.push(asks.clone()),
                (What::Who(asks), false) => all.who.not.extend(asks.iter().cloned()),
                (What::Address(ranges), true) => all.addresses.of.push(ranges.clone()),
                (What::Address(ranges), false) => all.addresses.not.extend(ranges),
                (What::Port(ports), true) => all.ports = all.ports.and(&Ports::of(ports.iter().copied())),
                (What::Port(ports), false) => all.ports = all.ports.and(&Ports::of(ports.iter().copied()).others()),
                (What::Unseen, _) => {}
            }
        }
        all
    }

    fn and(&self, other: &Constraint) -> Constraint {
        let mut both = self.clone();
        both.who.of.extend(other.who.of.iter().cloned());
        both.who.not.extend(other.who.not.iter().cloned());
        both.addresses.of.extend(other.addresses.of.iter().cloned());
        both.addresses.not.extend(&other.addresses.not);
        both.ports = self.ports.and(&other.ports);
        both
    }

    /// Who meets it.
    fn peers(&self, world: &World, wider: &mut Wider) -> Peers {
        let who = callers(world, &self.who);
        wider.anonymous |= self.who.of.is_empty() && !self.who.not.is_empty();
        wider.foreign |= who.is_none() && !self.who.of.is_empty();
        if self.addresses.is_any() {
            return who;
        }
        let blocks = self.addresses.blocks();
        match who {
            // Nobody has an address that is in none.
            Some(_) if blocks.is_empty() => Some(BTreeSet::new()),
            Some(pods) => {
                wider.both = true;
                Some(pods)
            }
            None => {
                // Many network plugins do not compare the addresses of pods with a block: these would not come where only some addresses are left out.
                let is_wide = blocks.iter().any(|block| block.range.prefix() == 0);
                let mut peers: BTreeSet<Peer> = blocks.into_iter().map(Peer::Block).collect();
                if is_wide && collapsed(peers.clone()).is_some() {
                    wider.pods = true;
                    peers.insert(Peer::Pods { namespaces: Namespaces::All { but: BTreeSet::new() }, labels: Labelled::new() });
                }
                collapsed(peers)
            }
        }
    }
}

/// What these rules let in, in each of these ways: who, and to which ports. The order is that of the content.
pub(super) fn rules(world: &World, allow: &[Parts], ways: &[Constraint], wider: &mut Wider) -> BTreeMap<Peers, Ports> {
    let mut by_ports: BTreeMap<Ports, Peers> = BTreeMap::new();
    for (parts, way) in allow.iter().flat_map(|parts| ways.iter().map(move |way| (parts, way))) {
        let when = Constraint::all(&parts.when).and(way);
        let to = parts.to.iter().map(|to| Constraint::all(to).ports).reduce(|one, other| one.or(&other));
        let ports = to.unwrap_or_else(Ports::all).and(&when.ports);
        let from = parts.from.iter().map(|from| Constraint::all(from).and(&when).peers(world, wider));
        let peers = from.reduce(union).unwrap_or_else(|| when.peers(world, wider));
        if ports.is_empty() || peers.as_ref().is_some_and(BTreeSet::is_empty) {
            continue;
        }
        let peers = match by_ports.remove(&ports) {
            Some(known) => union(known, peers),
            None => peers,
        };
        by_ports.insert(ports, peers);
    }
    let mut by_peers: BTreeMap<Peers, Ports> = BTreeMap::new();
    for (ports, peers) in by_ports {
        let all = by_peers.get(&peers).map_or_else(|| ports.clone(), |known| known.or(&ports));
        by_peers.insert(peers, all);
    }
    if by_peers.get(&None).is_some_and(Ports::is_all) {
        by_peers.retain(|peers, _| peers.is_none());
    }
    by_peers
}

/// A condition for each list that is not empty.
fn literal(what: What, is: bool, field: &str) -> Option<Literal> {
    let is_empty = match &what {
        What::Who(asks) => asks.is_empty(),
        What::Address(ranges) => ranges.is_empty(),
        What::Port(ports) => ports.is_empty(),
        What::Unseen => false,
    };
    (!is_empty).then(|| Literal { what, is, field: field.to_owned() })
}

fn asks<T: Clone>(list: &[T], make: fn(T) -> Ask) -> What {
    What::Who(list.iter().cloned().map(make).collect())
}

fn unseen<T>(list: &[T], field: &str) -> Option<Literal> {
    if list.is_empty() { None } else { literal(What::Unseen, true, field) }
}

fn of_source(source: &Source) -> Vec<Literal> {
    let field = |name: &str| format!("source.{name}");
    let accounts = |list: &[NamespacedName]| asks(list, Ask::Account);
    let all = [
        literal(asks(&source.principals, Ask::Principal), true, &field("principals")),
        literal(asks(&source.not_principals, Ask::Principal), false, &field("notPrincipals")),
        literal(asks(&source.namespaces, Ask::Namespace), true, &field("namespaces")),
        literal(asks(&source.not_namespaces, Ask::Namespace), false, &field("notNamespaces")),
        literal(accounts(&source.service_accounts), true, &field("serviceAccounts")),
        literal(accounts(&source.not_service_accounts), false, &field("notServiceAccounts")),
        literal(asks(&source.trust_domains, Ask::Domain), true, &field("trustDomains")),
        literal(asks(&source.not_trust_domains, Ask::Domain), false, &field("notTrustDomains")),
        literal(What::Address(source.ip_blocks.clone()), true, &field("ipBlocks")),
        literal(What::Address(source.not_ip_blocks.clone()), false, &field("notIpBlocks")),
        unseen(&source.remote_ip_blocks, &field("remoteIpBlocks")),
        unseen(&source.not_remote_ip_blocks, &field("notRemoteIpBlocks")),
        unseen(&source.request_principals, &field("requestPrincipals")),
        unseen(&source.not_request_principals, &field("notRequestPrincipals")),
    ];
    all.into_iter().flatten().collect()
}

fn of_operation(to: &Operation) -> Vec<Literal> {
    let field = |name: &str| format!("operation.{name}");
    let all = [
        literal(What::Port(to.ports.clone()), true, &field("ports")),
        literal(What::Port(to.not_ports.clone()), false, &field("notPorts")),
        unseen(&to.hosts, &field("hosts")),
        unseen(&to.not_hosts, &field("notHosts")),
        unseen(&to.methods, &field("methods")),
        unseen(&to.not_methods, &field("notMethods")),
        unseen(&to.paths, &field("paths")),
        unseen(&to.not_paths, &field("notPaths")),
    ];
    all.into_iter().flatten().collect()
}

fn of_condition(condition: &Condition) -> Vec<Literal> {
    fn both<T: Clone>(v: &Values<T>, what: impl Fn(&[T]) -> What, key: &str) -> Vec<Literal> {
        let all = [literal(what(&v.values), true, &format!("key {key}")), literal(what(&v.not_values), false, &format!("key {key}"))];
        all.into_iter().flatten().collect()
    }
    let unseen = |key: &str| literal(What::Unseen, true, &format!("key {key}")).into_iter().collect();
    match condition {
        Condition::SourceIp(v) => both(v, |list| What::Address(list.to_vec()), "source.ip"),
        Condition::SourceNamespace(v) => both(v, |list| asks(list, Ask::Namespace), "source.namespace"),
        Condition::SourcePrincipal(v) => both(v, |list| asks(list, Ask::Principal), "source.principal"),
        Condition::SourceTrustDomain(v) => both(v, |list| asks(list, Ask::Domain), "source.trustDomain"),
        Condition::SourceServiceAccount(v) => both(v, |list| asks(list, Ask::Account), "source.serviceAccount"),
        Condition::DestinationPort(v) => both(v, |list| What::Port(list.to_vec()), "destination.port"),
        Condition::RemoteIp(_) => unseen("remote.ip"),
        // Which of its addresses it is called at is no matter of who may call.
        Condition::DestinationIp(_) => unseen("destination.ip"),
        Condition::ServerName(_) => unseen("connection.sni"),
        Condition::RequestHeader { name, .. } => unseen(&format!("request.headers[{name}]")),
        Condition::RequestPrincipal(_) => unseen("request.auth.principal"),
        Condition::RequestAudiences(_) => unseen("request.auth.audiences"),
        Condition::RequestPresenter(_) => unseen("request.auth.presenter"),
        Condition::RequestClaim { path, .. } => unseen(&format!("request.auth.claims[{}]", path.join("]["))),
        Condition::Metadata { filter, .. } => unseen(&format!("experimental.{filter}")),
    }
}
