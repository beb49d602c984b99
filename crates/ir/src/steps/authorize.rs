//! Who may do what.

use std::borrow::Cow;

use mizzen_types::Name;

use crate::config::{Expr, Policy, Rbac, RbacAction};
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

/// Evaluates what the connection alone decides. `facts.request` is not looked at, nor is the client's address from headers.
pub fn bind(rbac: &Rbac, facts: &PolicyFacts<'_>) -> BoundRbac {
    let eval = Eval { facts, later: true, grants: grants(rbac) };
    let mut open = Vec::new();
    for (i, policy) in (0u32..).zip(rbac.policies.iter()) {
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
        let mut open = self.open.iter().filter_map(|(i, always)| Some((rbac.policies.get(*i as usize)?, *always)));
        verdict(rbac, open.find(|(policy, always)| *always || eval.policy(policy) == Some(true)).map(|(policy, _)| policy))
    }

    /// Whether the connection alone decides: requests need not be asked about.
    pub fn decided(&self) -> bool {
        self.open.iter().all(|(_, always)| *always)
    }
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

/// For a denied request: which ALLOW policy came nearest, and why it did not match.
pub fn nearest_miss(rbac: &Rbac, facts: &PolicyFacts<'_>) -> Option<Miss> {
    if rbac.action != RbacAction::Allow {
        return None;
    }
    let eval = Eval { facts, later: false, grants: true };
    let misses = rbac.policies.iter().map(|p| Miss { policy: p.name.clone(), lacking: eval.lacking_of(p) });
    misses.filter(|m| !m.lacking.is_empty()).min_by_key(|m| m.lacking.len())
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
        let known = match expr {
            Expr::Any => true,
            Expr::And(list) => return all(list.iter().map(|e| self.expr(e))),
            Expr::Or(list) => return one(list.iter().map(|e| self.expr(e))),
            Expr::Not(inner) => return self.turned().expr(inner).map(|b| !b),
            Expr::Header(_) | Expr::UrlPath(_) | Expr::PathTemplate(_) | Expr::RemoteIp(_) | Expr::Metadata(_) if self.later => return None,
            Expr::Header(m) => match facts.request {
                Some(head) => m.matches_lines(head, self.grants),
                None => m.matches(&mizzen_http::Head::new()),
            },
            // By its spelling, even where the connection manager leaves paths as they are: the server may read another one.
            Expr::UrlPath(m) => self.path().is_some_and(|path| m.matches(path.as_bytes())),
            Expr::PathTemplate(template) => self.path().is_some_and(|path| template.matches(path.as_bytes())),
            Expr::DestinationIp(range) => range.contains(facts.destination.ip()),
            Expr::DestinationPort(ports) => ports.contains(&facts.destination.port()),
            Expr::ServerName(m) => m.matches(facts.server_name.unwrap_or_default().as_bytes()),
            Expr::Authenticated(None) => facts.peer.is_some(),
            // A certificate is known by names of one kind: the others are what its owner was free to add.
            Expr::Authenticated(Some(m)) => facts.peer.is_some_and(|p| {
                let any = |names: &[Name]| names.iter().any(|n| m.matches(n.as_bytes()));
                match (&*p.uris, &*p.dns) {
                    ([], []) => m.matches(p.subject.as_bytes()),
                    ([], dns) => any(dns),
                    (uris, _) => any(uris),
                }
            }),
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

    /// The request's path without its query, in its one spelling.
    fn path(&self) -> Option<Cow<'_, str>> {
        self.facts.request.map(|head| without_query(head.path())).filter(|path| !path.is_empty()).map(spelled)
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
