//! What the filters of a connection manager do with a request.

use std::{sync::Arc, time::Duration};

use mizzen_api::istio::{KeySource, KeysUrl};
use mizzen_ir::{
    Head, JWT_METADATA, Jwks, Metadata, PolicyFacts, Token, TokenStore, Trace, Values, Verdict as Judged, apply_headers, authorize,
    check_tokens,
    config::{
        AbortWith, AlpnOverride, Command, ExtAuthz, Fault, FilterOverride, Fraction, Hcm, HeaderMutation, HeaderSource, HttpFilterKind,
        JwtAuthn, MessageMutations, RbacFilter, RemoteJwks,
    },
    has_tokens, keys_needed, token_requirement,
};
use mizzen_model::{Reader, Snapshot};
use mizzen_types::Name;

use super::{
    Given,
    conn::{Conn, judge},
    http::Request,
};
use crate::call::{Step, StepKind, Verdict};

/// Under which name the shadow's decision is left in the dynamic metadata.
const RBAC: &str = "envoy.filters.http.rbac";

/// What the filters left of a request.
pub(super) struct Filtered {
    pub(super) head: Head,
    pub(super) alpn: Option<Arc<AlpnOverride>>,
    /// Who was asked, if nobody says what the answer is.
    pub(super) unknown: Option<String>,
    /// What the filters left, if the route is to be chosen anew by it.
    pub(super) reroute: Option<Metadata>,
    /// What some of such requests are answered, by shares that nobody decides.
    pub(super) also: Vec<Verdict>,
}

/// Values that only a proxy has: there are none.
pub(super) struct Unvalued;

impl Values for Unvalued {
    fn value(&self, _: &Command, _: &mut Vec<u8>) -> bool {
        false
    }
}

/// The filters in order. The error is the answer of one.
pub(super) fn filtered(
    hcm: &Hcm,
    overrides: &[(Name, FilterOverride)],
    conn: &Conn,
    request: &Request,
    given: Given,
    snapshot: &Arc<Snapshot>,
    steps: &mut Vec<Step>,
) -> Result<Filtered, Verdict> {
    let mut left = Filtered { head: request.head.clone(), alpn: None, unknown: None, reroute: None, also: Vec::new() };
    let mut metadata = Metadata::default();
    for filter in hcm.filters.iter() {
        let route = filter.overridden(overrides);
        if !filter.is_on(route) {
            continue;
        }
        match &filter.kind {
            HttpFilterKind::Rbac(own) => {
                let rbac = own.in_force(route);
                let facts = PolicyFacts { remote: request.remote, request: Some(&left.head), ..conn.facts() };
                watch(rbac, RBAC, &facts, &mut metadata, steps);
                if let Some(rules) = &rbac.rules {
                    let facts = PolicyFacts { metadata: Some(&metadata), ..facts };
                    judge(rules, &facts, "request", steps)?;
                }
            }
            HttpFilterKind::ExtAuthz(authz) => {
                let wanted = authz.enabled_metadata.as_ref().is_none_or(|wanted| wanted.matches(&metadata));
                let share = authz.enabled.map_or(Share::All, |share| hits(share, given));
                if !wanted || share == Share::None {
                    if wanted && authz.deny_at_disable {
                        return Err(Verdict::answered(authz.status_on_error, "nobody is asked, and so it is refused"));
                    }
                    continue;
                }
                let cluster = authz.cluster();
                let end = ask(authz, given, &mut left.unknown, steps);
                // Who is asked about a part alone may not be asked about this one.
                match (end, share) {
                    (Err(_), Share::Some) => left.unknown = Some(format!("whether {cluster} is asked")),
                    (end, _) => end?,
                }
            }
            HttpFilterKind::JwtAuthn(authn) => {
                let named = match route {
                    Some(FilterOverride::JwtRequirement(name)) => Some(name),
                    _ => None,
                };
                if tokens(authn, named, &mut left.head, &mut metadata, given, &mut Fetched(snapshot), steps)? {
                    left.reroute = Some(metadata.clone());
                }
            }
            HttpFilterKind::Fault(own) => {
                let fault = match route {
                    Some(FilterOverride::Fault(other)) => other,
                    _ => own,
                };
                left.also.extend(faulty(fault, &left.head, given, steps)?);
            }
            HttpFilterKind::HeaderMutation(own) => {
                for one in mutations(own, route) {
                    apply_headers(&one.request, &mut left.head, HeaderSource::Request, &Unvalued);
                }
            }
            HttpFilterKind::LocalRateLimit(_) => {
                steps.push(Step::new(StepKind::Filter, format!("`{}` answers 429 to requests beyond its rate", filter.name)));
            }
            HttpFilterKind::Alpn(alpn) => left.alpn = Some(alpn.clone()),
            HttpFilterKind::GrpcHttp1Bridge | HttpFilterKind::PeerMetadata(_) | HttpFilterKind::Stats(_) | HttpFilterKind::GrpcStats => {}
        }
    }
    Ok(left)
}

/// Asks an authorization service: the error is its refusal; `unknown` tells who was asked if nobody knows the answer.
pub(super) fn ask(authz: &ExtAuthz, given: Given, unknown: &mut Option<String>, steps: &mut Vec<Step>) -> Result<(), Verdict> {
    let cluster = authz.cluster();
    let (outcome, end) = match given.outside {
        Some(true) => (format!("{cluster} is asked, and allows it"), Ok(())),
        Some(false) => {
            let why = format!("{cluster} is asked, and refuses it");
            (why.clone(), Err(Verdict::Denied { policy: Some(cluster.to_string()), why }))
        }
        None => {
            *unknown = Some(format!("what {cluster} answers"));
            (format!("{cluster} is asked: nobody knows its answer"), Ok(()))
        }
    };
    steps.push(Step::new(StepKind::Policy, outcome));
    end
}

/// The keys that the control plane has fetched, in the place of those that a proxy fetches itself.
struct Fetched<'a>(&'a Arc<Snapshot>);

impl TokenStore for Fetched<'_> {
    fn keys(&mut self, from: &Arc<RemoteJwks>) -> Option<Arc<Jwks>> {
        let scheme = if from.secure { "https" } else { "http" };
        let url: KeysUrl = format!("{scheme}://{}{}", from.authority, from.path).parse().ok()?;
        let reader = Reader::new(self.0);
        let found = reader.fetched_keys(&KeySource::Url(url))?;
        Jwks::parse(found.keys.as_bytes()).ok().map(Arc::new)
    }

    fn known(&mut self, _: &Jwks, _: &str) -> Option<Arc<Token>> {
        None
    }

    fn keep(&mut self, _: &Jwks, _: &str, _: &Arc<Token>) {}

    fn lacks(&mut self, _: &Arc<RemoteJwks>) {}
}

/// Checks the request's tokens. Whether the route is to be chosen anew.
fn tokens(
    authn: &JwtAuthn,
    named: Option<&Name>,
    head: &mut Head,
    metadata: &mut Metadata,
    given: Given,
    fetched: &mut Fetched<'_>,
    steps: &mut Vec<Step>,
) -> Result<bool, Verdict> {
    let requirement = match token_requirement(authn, named, head, given.random.unwrap_or(0)) {
        Ok(Some(requirement)) => requirement,
        Ok(None) => {
            steps.push(Step::new(StepKind::Policy, "request authentication asks for nothing"));
            return Ok(false);
        }
        Err(why) => return Err(Verdict::answered(403, why)),
    };
    if let Some(from) = keys_needed(authn, requirement, head, |from| fetched.keys(from).is_none()) {
        return Err(Verdict::unknown(format!("whether {} has signed the token", from.authority)));
    }
    let Some(at) = given.at.or_else(|| (!has_tokens(authn, head)).then_some(0)) else {
        return Err(Verdict::unknown("when the call is made: its token may not be good then"));
    };
    let mut notes = Vec::new();
    let (result, findings) = check_tokens(authn, requirement, Duration::from_secs(at), head, fetched, &mut Trace::to(&mut notes));
    let outcome = match &result {
        Ok(()) if findings.metadata.fields.is_empty() => "request authentication: there is no token, and none is needed".to_owned(),
        Ok(()) => "request authentication: the token is good".to_owned(),
        Err(refusal) => format!("request authentication: {}", refusal.why),
    };
    steps.push(Step::new(StepKind::Policy, outcome).because(notes));
    metadata.merge(JWT_METADATA, findings.metadata);
    match result {
        Ok(()) => Ok(findings.reroute),
        Err(refusal) => Err(Verdict::answered(refusal.fault.status(), format!("{}: {}", refusal.fault, refusal.why))),
    }
}

/// Evaluates what is not enforced, and leaves the outcome for those who come after, under the name of the filter.
pub(super) fn watch(rbac: &RbacFilter, filter: &str, facts: &PolicyFacts<'_>, metadata: &mut Metadata, steps: &mut Vec<Step>) {
    let Some(shadow) = &rbac.shadow else { return };
    let facts = PolicyFacts { metadata: Some(metadata), ..*facts };
    let mut notes = Vec::new();
    let (result, policy) = match authorize(shadow, &facts, &mut Trace::to(&mut notes)) {
        Judged::Allowed(policy) => ("allowed", policy),
        Judged::Denied(policy) => ("denied", policy),
    };
    let prefix = &rbac.shadow_prefix;
    let matched = policy.as_ref().map_or_else(|| "no policy matches".to_owned(), |policy| format!("{policy} matches"));
    steps.push(Step::new(StepKind::Policy, format!("not enforced: {matched}, {result}")).because(notes));
    if let Some(policy) = policy {
        metadata.put(filter, &format!("{prefix}shadow_effective_policy_id"), &policy);
    }
    metadata.put(filter, &format!("{prefix}shadow_engine_result"), result);
}

/// How much of a share is hit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    None,
    Some,
    All,
}

fn hits(share: Fraction, given: Given) -> Share {
    match given.random {
        Some(random) if share.holds(random) => Share::All,
        Some(_) => Share::None,
        None if share.numerator == 0 => Share::None,
        None if share.numerator >= share.denominator => Share::All,
        None => Share::Some,
    }
}

/// What some requests are answered on purpose; the error: all.
fn faulty(fault: &Fault, head: &Head, given: Given, steps: &mut Vec<Step>) -> Result<Option<Verdict>, Verdict> {
    if !fault.headers.iter().all(|header| header.matches(head)) {
        return Ok(None);
    }
    if let Some(delay) = fault.delay.as_ref().filter(|delay| hits(delay.share, given) != Share::None) {
        let Fraction { numerator, denominator } = delay.share;
        steps.push(Step::new(StepKind::Filter, format!("{numerator} of {denominator} requests are delayed")));
    }
    let Some(abort) = &fault.abort else { return Ok(None) };
    let status = match abort.with {
        AbortWith::Http(status) => status,
        AbortWith::Grpc(_) => 200,
        AbortWith::Header => return Ok(None),
    };
    match hits(abort.share, given) {
        Share::None => Ok(None),
        Share::All => Err(Verdict::answered(status, "on purpose, for tests")),
        Share::Some => {
            let Fraction { numerator, denominator } = abort.share;
            steps.push(Step::new(StepKind::Filter, format!("{numerator} of {denominator} requests are answered {status} on purpose")));
            Ok(Some(Verdict::answered(status, "on purpose, for tests")))
        }
    }
}

/// The filter's own changes, and then the route's.
fn mutations<'a>(own: &'a HeaderMutation, route: Option<&'a FilterOverride>) -> Vec<&'a MessageMutations> {
    let mut levels: Vec<&MessageMutations> = match route {
        Some(FilterOverride::HeaderMutation(levels)) => levels.iter().map(|level| &**level).collect(),
        _ => Vec::new(),
    };
    if own.most_specific_wins {
        levels.reverse();
    }
    std::iter::once(&own.own).chain(levels).collect()
}
