//! From what is asked of a caller's identity to the pods that can have it.
//!
//! A proxy's identity is that of its pod's namespace and account, so that conditions on identities are conditions on pods, but for callers that come from
//! elsewhere: gateways that pass mutual TLS on as it came, machines outside of the cluster, pods in their host's network, foreign trust domains.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mizzen_api::istio::Pattern;
use mizzen_types::{NamespacedName, check_dns_label};

use super::{
    blocks::{Block, covers},
    object::Labelled,
    world::World,
};

/// The trust domain by which policies mean the mesh's own, whatever it is called.
const OWN_DOMAIN: &str = "cluster.local";

/// Kinds of which callers may be whose connections do not come from pods of their own.
const ELSEWHERE: [&str; 3] = ["Gateway", "WorkloadEntry", "WorkloadGroup"];

/// One thing that is asked of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    Principal(Pattern),
    /// The namespace.
    Namespace(Pattern),
    /// Namespace and account, in any of the mesh's trust domains.
    Account(NamespacedName),
    /// The trust domain.
    Domain(Pattern),
}

/// What is asked of an identity. Nothing asked positively: a caller without one will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    /// Of each list it is one.
    pub(super) of: Vec<Vec<Ask>>,
    /// It is none of these.
    pub(super) not: Vec<Ask>,
}

/// Who may come, as one entry of a NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// Pods with these labels in these namespaces.
    Pods {
        /// The namespaces.
        namespaces: Namespaces,
        /// The labels; none: all pods.
        labels: Labelled,
    },
    /// Addresses.
    Block(Block),
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Namespaces {
    /// All but these.
    All {
        /// These.
        but: BTreeSet<String>,
    },
    /// This one.
    One(String),
}

/// Who may come; `None`: anybody.
pub(super) type Peers = Option<BTreeSet<Peer>>;

/// What one condition says of where its identities are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum View {
    /// Perhaps outside of the mesh.
    Foreign,
    /// In the mesh, in some namespace.
    Anywhere,
    /// In this namespace, perhaps as this account.
    In(Pair),
}

/// A namespace, and an account if one is meant.
type Pair = (String, Option<String>);

/// Those who can be so.
pub(super) fn callers(world: &World, who: &Who) -> Peers {
    let domains = world.domains();
    let mut lists: Vec<Vec<View>> = who.of.iter().map(|list| list.iter().map(|ask| view(&domains, ask)).collect()).collect();
    let is_named = lists.iter().any(|list| list.contains(&View::Foreign));
    if lists.is_empty() || (is_named && who.of.iter().all(|list| list.iter().any(|ask| may_be_foreign(&domains, ask)))) {
        return None;
    }
    lists.iter_mut().for_each(|list| list.retain(|view| *view != View::Foreign));
    let bounding = |list: &&Vec<View>| !list.contains(&View::Anywhere);
    let pairs = |list: &Vec<View>| -> BTreeSet<Pair> {
        list.iter().filter_map(|view| if let View::In(pair) = view { Some(pair.clone()) } else { None }).collect()
    };
    let found = lists.iter().filter(bounding).map(pairs).reduce(|one, other| both(&one, &other));
    let Some(found) = found else { return everywhere(world, who) };
    let (mut peers, mut accounts) = (BTreeSet::new(), BTreeSet::new());
    for (namespace, account) in found {
        // What is no possible name is that of no namespace.
        if check_dns_label(&namespace).is_err() {
            continue;
        }
        let account = account.as_deref();
        let meets = who.of.iter().all(|list| list.iter().any(|ask| may_be(&domains, ask, &namespace, account)));
        if !meets || who.not.iter().any(|ask| is_surely(&domains, ask, &namespace, account)) {
            continue;
        }
        peers.extend(pods(world, &namespace, account));
        accounts.insert((namespace, account.map(str::to_owned)));
    }
    let is_meant = |namespace: &str, account: &str| {
        accounts.iter().any(|(known, one)| known == namespace && one.as_deref().is_none_or(|one| one == account))
    };
    from_elsewhere(world, peers, &is_meant)
}

/// What two sets of pairs have in common.
fn both(one: &BTreeSet<Pair>, other: &BTreeSet<Pair>) -> BTreeSet<Pair> {
    let common = |(namespace, account): &Pair, (second, other): &Pair| match (account, other) {
        _ if namespace != second => None,
        (Some(one), Some(other)) if one != other => None,
        (one, other) => Some((namespace.clone(), one.clone().or_else(|| other.clone()))),
    };
    one.iter().flat_map(|pair| other.iter().filter_map(move |second| common(pair, second))).collect()
}

/// All of the mesh, but for namespaces of which nobody is meant.
fn everywhere(world: &World, who: &Who) -> Peers {
    let domains = world.domains();
    let named = who.not.iter().filter_map(|ask| if let Ask::Namespace(Pattern::Exact(name)) = ask { Some(name.as_str()) } else { None });
    let known: BTreeSet<&str> = named.chain(world.namespaces()).collect();
    let is_out = |name: &&str| who.not.iter().any(|ask| is_surely(&domains, ask, name, None));
    let but: BTreeSet<String> = known.into_iter().filter(is_out).map(str::to_owned).collect();
    let peers = BTreeSet::from([Peer::Pods { namespaces: Namespaces::All { but: but.clone() }, labels: Labelled::new() }]);
    from_elsewhere(world, peers, &|namespace, _| !but.contains(namespace))
}

/// The pods of a namespace, or of an account in it. Where one of its workloads is not told apart by labels, or none is known and there may be some, all of
/// the namespace.
fn pods(world: &World, namespace: &str, account: Option<&str>) -> BTreeSet<Peer> {
    let peer = |labels: Labelled| Peer::Pods { namespaces: Namespaces::One(namespace.to_owned()), labels };
    let sets = account.map(|account| world.labels_of_account(namespace, account)).unwrap_or_default();
    if sets.is_empty() && account.is_some() && world.has_all_pods {
        return BTreeSet::new();
    }
    if sets.is_empty() || sets.iter().any(Labelled::is_empty) {
        return BTreeSet::from([peer(Labelled::new())]);
    }
    sets.into_iter().map(peer).collect()
}

/// Adds those of the identities that are meant whose connections do not come from pods of their own.
fn from_elsewhere(world: &World, mut peers: BTreeSet<Peer>, is_meant: &dyn Fn(&str, &str) -> bool) -> Peers {
    if !peers.is_empty() && world.unseen(&ELSEWHERE).is_some() {
        return None;
    }
    for machine in world.machines.iter().filter(|machine| is_meant(&machine.namespace, &machine.account)) {
        let range = machine.address?.into();
        peers.insert(Peer::Block(Block { range, except: BTreeSet::new() }));
    }
    if !peers.is_empty() {
        let passing = world.passing.iter().cloned();
        peers.extend(passing.map(|labels| Peer::Pods { namespaces: Namespaces::All { but: BTreeSet::new() }, labels }));
    }
    Some(plain(peers))
}

/// Both.
pub(super) fn union(one: Peers, other: Peers) -> Peers {
    let (mut one, other) = (one?, other?);
    one.extend(other);
    collapsed(one)
}

/// Without those whom another entry names already; `None` if entries together mean all addresses.
pub(super) fn collapsed(one: BTreeSet<Peer>) -> Peers {
    let is_whole = |block: &Block, address| block.range.prefix() == 0 && block.range.contains(address) && block.except.is_empty();
    let whole = |address: IpAddr| one.iter().any(|peer| matches!(peer, Peer::Block(block) if is_whole(block, address)));
    if whole(Ipv4Addr::UNSPECIFIED.into()) && whole(Ipv6Addr::UNSPECIFIED.into()) {
        return None;
    }
    Some(plain(one))
}

fn plain(peers: BTreeSet<Peer>) -> BTreeSet<Peer> {
    let is_said = |peer: &Peer| peers.iter().any(|other| other != peer && says(other, peer));
    peers.iter().filter(|peer| !is_said(peer)).cloned().collect()
}

/// Whether an entry means all whom the other one means.
fn says(one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Pods { namespaces, labels }, Peer::Pods { namespaces: others, labels: more }) => {
            let holds = match (namespaces, others) {
                (Namespaces::All { but }, Namespaces::One(name)) => !but.contains(name),
                (Namespaces::All { but }, Namespaces::All { but: more }) => but.is_subset(more),
                (Namespaces::One(one), Namespaces::One(other)) => one == other,
                (Namespaces::One(_), Namespaces::All { .. }) => false,
            };
            holds && labels.iter().all(|(name, value)| more.get(name) == Some(value))
        }
        (Peer::Block(one), Peer::Block(other)) => {
            let left_out = |except| other.except.iter().any(|more| covers(more, except)) || !covers(&other.range, except);
            covers(&one.range, &other.range) && one.except.iter().all(|except| left_out(except) && !covers(except, &other.range))
        }
        _ => false,
    }
}

fn is_known(domains: &[&str], domain: &str) -> bool {
    domain == OWN_DOMAIN || domains.contains(&domain)
}

fn view(domains: &[&str], ask: &Ask) -> View {
    match ask {
        Ask::Namespace(Pattern::Exact(name)) => View::In((name.clone(), None)),
        Ask::Namespace(_) => View::Anywhere,
        Ask::Account(account) => View::In((account.namespace.to_string(), Some(account.name.to_string()))),
        Ask::Domain(pattern) if domains.iter().any(|domain| matches(pattern, domain)) => View::Anywhere,
        Ask::Domain(_) => View::Foreign,
        Ask::Principal(pattern) => view_of_principal(domains, pattern),
    }
}

fn view_of_principal(domains: &[&str], pattern: &Pattern) -> View {
    match pattern {
        Pattern::Exact(text) => match text.split('/').collect::<Vec<_>>()[..] {
            [domain, "ns", namespace, "sa", account] if is_known(domains, domain) => {
                View::In((namespace.to_owned(), Some(account.to_owned())))
            }
            _ => View::Foreign,
        },
        Pattern::Prefix(text) => match text.split_once('/') {
            Some((domain, _)) if !is_known(domains, domain) => View::Foreign,
            // What stands before the next slash is a whole namespace.
            Some((_, rest)) => match rest.strip_prefix("ns/").and_then(|rest| rest.split_once('/')) {
                Some((namespace, _)) => View::In((namespace.to_owned(), None)),
                None => View::Anywhere,
            },
            None if domains.iter().any(|domain| domain.starts_with(text)) => View::Anywhere,
            None => View::Foreign,
        },
        Pattern::Suffix(text) => {
            let Some((before, account)) = text.rsplit_once("/sa/") else { return View::Anywhere };
            let Some((domain, namespace)) = before.rsplit_once("ns/") else { return View::Anywhere };
            match domain.strip_suffix('/') {
                None if !domain.is_empty() => View::Anywhere,
                Some(end) if !domains.iter().any(|domain| domain.ends_with(end)) => View::Foreign,
                _ => View::In((namespace.to_owned(), Some(account.to_owned()))),
            }
        }
        Pattern::Present => View::Anywhere,
    }
}

fn matches(pattern: &Pattern, text: &str) -> bool {
    match pattern {
        Pattern::Exact(it) => text == it,
        Pattern::Prefix(it) => text.starts_with(it),
        Pattern::Suffix(it) => text.ends_with(it),
        Pattern::Present => !text.is_empty(),
    }
}

/// Whether somebody of a foreign trust domain may be so.
fn may_be_foreign(domains: &[&str], ask: &Ask) -> bool {
    match ask {
        Ask::Namespace(_) | Ask::Principal(Pattern::Present | Pattern::Suffix(_)) => true,
        Ask::Account(_) => false,
        Ask::Domain(pattern) => !matches!(pattern, Pattern::Exact(domain) if domains.contains(&domain.as_str())),
        Ask::Principal(Pattern::Exact(text) | Pattern::Prefix(text)) => {
            text.split_once('/').is_none_or(|(domain, _)| !is_known(domains, domain))
        }
    }
}

/// Whether somebody of a namespace, or of an account in it, may be so.
fn may_be(domains: &[&str], ask: &Ask, namespace: &str, account: Option<&str>) -> bool {
    match (view(domains, ask), ask) {
        (_, Ask::Namespace(pattern)) => matches(pattern, namespace),
        (View::Foreign, _) => false,
        (View::In((other, one)), _) => other == namespace && one.as_deref().is_none_or(|one| account.is_none_or(|account| account == one)),
        (View::Anywhere, _) => true,
    }
}

/// Whether everybody of a namespace, or of an account in it, is so.
fn is_surely(domains: &[&str], ask: &Ask, namespace: &str, account: Option<&str>) -> bool {
    match ask {
        Ask::Namespace(pattern) => matches(pattern, namespace),
        Ask::Account(other) => *other.namespace == *namespace && account == Some(&*other.name),
        // Who comes from a foreign trust domain may be of a namespace that has the same name.
        Ask::Domain(_) => false,
        Ask::Principal(Pattern::Present) => true,
        Ask::Principal(Pattern::Exact(_)) => {
            account.is_some_and(|account| view(domains, ask) == View::In((namespace.to_owned(), Some(account.to_owned()))))
        }
        Ask::Principal(Pattern::Prefix(text)) => text.split_once('/').is_some_and(|(domain, rest)| {
            is_known(domains, domain) && format!("ns/{namespace}/sa/{}", account.unwrap_or_default()).starts_with(rest)
        }),
        Ask::Principal(Pattern::Suffix(text)) => {
            account.is_some_and(|account| format!("/ns/{namespace}/sa/{account}").ends_with(text.as_str()))
        }
    }
}
