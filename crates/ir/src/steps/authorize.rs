//! Who may do what.

use std::borrow::Cow;

use mizzen_types::Name;

use crate::config::{Expr, Policy, Rbac, RbacAction, RbacIndex};
use crate::steps::matchers::without_query;
use crate::steps::spelling::spelled;
use crate::{Metadata, PolicyFacts, Trace};

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on; the policy that said so, if one did.
    Allowed(Option<Name>),
    /// Refused; the policy that said so, or none: no policy allowed it.
    Denied(Option<Name>),
}

/// The policy that came nearest to allowing what was denied, and what it lacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The policy.
    pub policy: Name,
    /// The conditions that did not hold, each with what was found instead.
    pub lacking: Vec<String>,
}

/// What a connection's facts leave of a policy set: the policies that can still match its requests. Made once per connection and
/// configuration, so that principals are not matched again for every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundRbac {
    /// Indices of policies, in order. The flag: it matches whatever the request is.
    open: Box<[(u32, bool)]>,
}

/// Evaluates what the connection alone decides. `facts.request` is not looked at, nor is the client's address from headers. Policies that ask for the
/// path or the host of a request by its exact value are left to the request, of which there is only one.
pub fn bind(rbac: &Rbac, facts: &PolicyFacts<'_>) -> BoundRbac {
    let eval = Eval { facts, later: true, grants: grants(rbac) };
    let mut open = Vec::new();
    for i in Candidates(rbac.index.connection_lists(facts)) {
        let Some(policy) = rbac.policies.get(i as usize) else { continue };
        match eval.policy(policy) {
            Some(false) => {}
            Some(true) => {
                // The first match decides: what comes after is never asked.
                open.push((i, true));
                break;
            }
            None => open.push((i, false)),
        }
    }
    BoundRbac { open: open.into() }
}

impl BoundRbac {
    /// As [`authorize`], for a request on the connection that this was made for.
    pub fn authorize(&self, rbac: &Rbac, facts: &PolicyFacts<'_>) -> Verdict {
        let eval = Eval { facts, later: false, grants: grants(rbac) };
        let mut open = self.open.iter().copied().peekable();
        let mut asked = Candidates([rbac.index.path_list(facts), rbac.index.host_list(facts)]).peekable();
        let in_order = std::iter::from_fn(|| match (open.peek(), asked.peek()) {
            (Some((i, _)), Some(j)) if i <= j => open.next(),
            (_, Some(_)) => asked.next().map(|j| (j, false)),
            (_, None) => open.next(),
        });
        let mut policies = in_order.filter_map(|(i, always)| Some((rbac.policies.get(i as usize)?, always)));
        verdict(rbac, policies.find(|(policy, always)| *always || eval.policy(policy) == Some(true)).map(|(policy, _)| policy))
    }
}

/// Policies by their places, in their order, out of lists that are in order.
struct Candidates<L>(L);

impl<'a, L: AsMut<[&'a [u32]]>> Iterator for Candidates<L> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let lists = self.0.as_mut();
        let next = *lists.iter().filter_map(|list| list.first()).min()?;
        for list in lists.iter_mut() {
            if let Some((_, rest)) = list.split_first().filter(|(first, _)| **first == next) {
                *list = rest;
            }
        }
        Some(next)
    }
}

/// What is looked up of a request and of its connection.
impl RbacIndex {
    fn path_list(&self, facts: &PolicyFacts<'_>) -> &[u32] {
        match (!self.paths.is_empty()).then(|| path(facts)).flatten() {
            Some(path) => self.paths.get(&*path).map_or(&[], |list| list),
            None => &[],
        }
    }

    fn host_list(&self, facts: &PolicyFacts<'_>) -> &[u32] {
        match facts.request.filter(|_| !self.hosts.is_empty()) {
            Some(head) => self.hosts.get(&*head.authority().to_ascii_lowercase()).map_or(&[], |list| list),
            None => &[],
        }
    }

    /// Those that need nothing that can be looked up, or something that the connection has.
    fn connection_lists(&self, facts: &PolicyFacts<'_>) -> Vec<&[u32]> {
        let mut lists: Vec<&[u32]> = vec![&self.others];
        lists.extend(self.ports.get(&facts.destination.port()).map(|list| &**list));
        for name in names_of(facts) {
            lists.extend(self.principals.get(&**name).map(|list| &**list));
            let namespaces = name.match_indices("/ns/").filter_map(|(at, mark)| name.get(at + mark.len()..)?.split('/').next());
            lists.extend(namespaces.filter_map(|namespace| self.namespaces.get(namespace)).map(|list| &**list));
        }
        lists
    }
}

/// The names by which a peer is known: of one kind, since the others are what its certificate's owner was free to add.
fn names_of<'a>(facts: &PolicyFacts<'a>) -> &'a [Name] {
    facts.peer.map_or(&[], |peer| match (&*peer.uris, &*peer.dns) {
        ([], []) => std::slice::from_ref(&peer.subject),
        ([], dns) => dns,
        (uris, _) => uris,
    })
}

/// The request's path without its query, in its one spelling.
fn path<'a>(facts: &PolicyFacts<'a>) -> Option<Cow<'a, str>> {
    facts.request.map(|head| without_query(head.path())).filter(|path| !path.is_empty()).map(spelled)
}

fn verdict(rbac: &Rbac, matched: Option<&Policy>) -> Verdict {
    let name = matched.map(|p| p.name.clone());
    match (rbac.action, name) {
        (RbacAction::Allow, Some(name)) => Verdict::Allowed(Some(name)),
        (RbacAction::Allow, None) => Verdict::Denied(None),
        (RbacAction::Deny, Some(name)) => Verdict::Denied(Some(name)),
        (RbacAction::Deny, None) => Verdict::Allowed(None),
        (RbacAction::Log, name) => Verdict::Allowed(name),
    }
}

/// The decision of one policy set: the first policy, by name, of which a permission and a principal match.
pub fn authorize(rbac: &Rbac, facts: &PolicyFacts<'_>, trace: &mut Trace<'_>) -> Verdict {
    let eval = Eval { facts, later: false, grants: grants(rbac) };
    if !trace.is_on() {
        let mut lists = rbac.index.connection_lists(facts);
        lists.extend([rbac.index.path_list(facts), rbac.index.host_list(facts)]);
        let mut policies = Candidates(lists).filter_map(|i| rbac.policies.get(i as usize));
        return verdict(rbac, policies.find(|policy| eval.policy(policy) == Some(true)));
    }
    // Who wants to know why is told of each.
    let matched = rbac.policies.iter().find(|policy| {
        let matches = eval.policy(policy) == Some(true);
        trace.note(matches, || match matches {
            true => format!("policy `{}`", policy.name),
            false => format!("policy `{}`: {}", policy.name, eval.lacking_of(policy).join("; ")),
        });
        matches
    });
    verdict(rbac, matched)
}

/// How many policies are looked at for the nearest one: a denial is not to cost more than a request that is served.
const MOST_MISSES: usize = 64;

/// For a denied request: which of the first ALLOW policies came nearest, and why it did not match.
pub fn nearest_miss(rbac: &Rbac, facts: &PolicyFacts<'_>) -> Option<Miss> {
    if rbac.action != RbacAction::Allow {
        return None;
    }
    let eval = Eval { facts, later: false, grants: true };
    let misses = rbac.policies.iter().take(MOST_MISSES).map(|p| Miss { policy: p.name.clone(), lacking: eval.lacking_of(p) });
    misses.filter(|m| !m.lacking.is_empty()).min_by_key(|m| m.lacking.len())
}

#[cfg(test)]
thread_local! {
    /// How many conditions were looked at.
    pub(crate) static EVALUATED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Conditions over facts.
struct Eval<'a> {
    facts: &'a PolicyFacts<'a>,
    /// The request is not known yet: what asks for it yields `None`.
    later: bool,
    /// Whether it is a match that lets the request in. Of several lines of a header all must match then, else one is enough: who adds a line gets no
    /// further by it. (Envoy, since CVE-2026-26308, is content with one in both cases.)
    grants: bool,
}

fn grants(rbac: &Rbac) -> bool {
    rbac.action == RbacAction::Allow
}

/// All, where something may not be known yet.
fn all(results: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut whole = Some(true);
    for result in results {
        match result {
            Some(false) => return Some(false),
            None => whole = None,
            Some(true) => {}
        }
    }
    whole
}

/// One, where something may not be known yet.
fn one(results: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    all(results.map(|r| r.map(|b| !b))).map(|b| !b)
}

impl Eval<'_> {
    fn policy(&self, policy: &Policy) -> Option<bool> {
        let part = |list: &[Expr]| one(list.iter().map(|e| self.expr(e)));
        all([part(&policy.principals), part(&policy.permissions)].into_iter())
    }

    fn expr(&self, expr: &Expr) -> Option<bool> {
        let facts = self.facts;
        #[cfg(test)]
        EVALUATED.with(|n| n.set(n.get() + 1));
        let known = match expr {
            Expr::Any => true,
            Expr::And(list) => return all(list.iter().map(|e| self.expr(e))),
            Expr::Or(list) => return one(list.iter().map(|e| self.expr(e))),
            Expr::Not(inner) => return self.turned().expr(inner).map(|b| !b),
            Expr::Header(_) | Expr::UrlPath(_) | Expr::PathTemplate(_) | Expr::RemoteIp(_) | Expr::Metadata(_) if self.later => {
                return None;
            }
            Expr::Header(m) => match facts.request {
                Some(head) => m.matches_lines(head, self.grants),
                None => m.matches(&mizzen_http::Head::new()),
            },
            // By its spelling, even where the connection manager leaves paths as they are: the server may read another one.
            Expr::UrlPath(m) => path(facts).is_some_and(|path| m.matches(path.as_bytes())),
            Expr::PathTemplate(template) => path(facts).is_some_and(|path| template.matches(path.as_bytes())),
            Expr::DestinationIp(range) => range.contains(facts.destination.ip()),
            Expr::DestinationPort(ports) => ports.contains(&facts.destination.port()),
            Expr::ServerName(m) => m.matches(facts.server_name.unwrap_or_default().as_bytes()),
            Expr::Authenticated(None) => facts.peer.is_some(),
            Expr::Authenticated(Some(m)) => names_of(facts).iter().any(|name| m.matches(name.as_bytes())),
            Expr::PeerPrincipal(m) => facts.peer.and_then(|p| p.uris.first()).is_some_and(|n| m.matches(n.as_bytes())),
            Expr::DirectRemoteIp(range) => range.contains(facts.direct_remote),
            Expr::RemoteIp(range) => range.contains(facts.remote),
            Expr::Metadata(m) => match facts.metadata {
                Some(metadata) => m.matches(metadata),
                None => m.matches(&Metadata::default()),
            },
        };
        Some(known)
    }

    /// Within a negation.
    fn turned(&self) -> Self {
        Eval { grants: !self.grants, ..*self }
    }

    /// What a policy lacks to match; empty if it matches.
    fn lacking_of(&self, policy: &Policy) -> Vec<String> {
        let mut lacking = self.lacking_one(&policy.principals);
        lacking.extend(self.lacking_one(&policy.permissions));
        lacking
    }

    /// Of alternatives, what the nearest lacks; plain conditions are named together.
    fn lacking_one(&self, list: &[Expr]) -> Vec<String> {
        if list.iter().any(|e| self.expr(e) == Some(true)) {
            return Vec::new();
        }
        let plain = |e: &&Expr| !matches!(e, Expr::And(_) | Expr::Or(_) | Expr::Not(_));
        if !list.is_empty() && list.iter().all(|e| plain(&e)) {
            let wanted: Vec<_> = list.iter().map(|e| self.wanted(e)).collect();
            let was = list.first().map(|e| self.was(e)).unwrap_or_default();
            return vec![format!("{} ({was})", wanted.join(" or "))];
        }
        list.iter().map(|e| self.lacking(e)).min_by_key(Vec::len).unwrap_or_else(|| vec!["it has no condition to match".to_owned()])
    }

    fn lacking(&self, expr: &Expr) -> Vec<String> {
        match expr {
            _ if self.expr(expr) == Some(true) => Vec::new(),
            Expr::And(list) => list.iter().flat_map(|e| self.lacking(e)).collect(),
            Expr::Or(list) => self.lacking_one(list),
            Expr::Not(inner) => vec![format!("not: {}", self.describe(inner))],
            leaf => vec![format!("{} ({})", self.wanted(leaf), self.was(leaf))],
        }
    }

    fn describe(&self, expr: &Expr) -> String {
        let list = |l: &[Expr], by: &str| l.iter().map(|e| self.describe(e)).collect::<Vec<_>>().join(by);
        match expr {
            Expr::And(l) => format!("({})", list(l, " and ")),
            Expr::Or(l) => format!("({})", list(l, " or ")),
            Expr::Not(inner) => format!("not {}", self.describe(inner)),
            leaf => format!("{} ({})", self.wanted(leaf), self.was(leaf)),
        }
    }

    fn wanted(&self, expr: &Expr) -> String {
        match expr {
            Expr::Any | Expr::And(_) | Expr::Or(_) | Expr::Not(_) => "anything".to_owned(),
            Expr::Header(m) => m.describe(),
            Expr::UrlPath(m) => format!("path {}", m.describe()),
            Expr::PathTemplate(template) => format!("path matches /{}/", template.source()),
            Expr::DestinationIp(range) => format!("destination address in {range}"),
            Expr::DestinationPort(ports) if ports.start() == ports.end() => format!("destination port is {}", ports.start()),
            Expr::DestinationPort(ports) => format!("destination port from {} to {}", ports.start(), ports.end()),
            Expr::ServerName(m) => format!("server name {}", m.describe()),
            Expr::Authenticated(None) => "a verified certificate".to_owned(),
            Expr::Authenticated(Some(m)) | Expr::PeerPrincipal(m) => format!("principal {}", m.describe()),
            Expr::DirectRemoteIp(range) => format!("source address in {range}"),
            Expr::RemoteIp(range) => format!("client address in {range}"),
            Expr::Metadata(m) => m.describe(),
        }
    }

    fn was(&self, expr: &Expr) -> String {
        let facts = self.facts;
        match expr {
            Expr::Any | Expr::And(_) | Expr::Or(_) | Expr::Not(_) => String::new(),
            Expr::Header(m) => match facts.request.and_then(|head| head.get_joined(&m.name)) {
                Some(_) if matches!(&*m.name, "authorization" | "cookie") => "it has another value".to_owned(),
                Some(value) => format!("it is \"{}\"", String::from_utf8_lossy(&value)),
                None if facts.request.is_none() => "there are no headers on TCP".to_owned(),
                None => "it is absent".to_owned(),
            },
            Expr::UrlPath(_) | Expr::PathTemplate(_) => match facts.request {
                Some(head) => format!("it is \"{}\"", without_query(head.path())),
                None => "there is no path on TCP".to_owned(),
            },
            Expr::DestinationIp(_) => format!("it is {}", facts.destination.ip()),
            Expr::DestinationPort(_) => format!("it is {}", facts.destination.port()),
            Expr::ServerName(_) => format!("it is \"{}\"", facts.server_name.unwrap_or_default()),
            Expr::Authenticated(_) | Expr::PeerPrincipal(_) => match facts.peer {
                Some(peer) => format!("it is \"{}\"", peer.uris.first().or(peer.dns.first()).unwrap_or(&peer.subject)),
                None => "the connection has no verified certificate".to_owned(),
            },
            Expr::DirectRemoteIp(_) => format!("it is {}", facts.direct_remote),
            Expr::RemoteIp(_) => format!("it is {}", facts.remote),
            // Tokens' claims may be in there: nothing of them goes into a log.
            Expr::Metadata(_) => "it has another value or none".to_owned(),
        }
    }
}
