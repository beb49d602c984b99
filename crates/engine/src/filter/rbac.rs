//! Policies over requests: `envoy.filters.http.rbac`.

use std::sync::Arc;

use mizzen_ir::{
    Metadata, PolicyFacts, Trace, Verdict, authorize,
    config::{FilterOverride, Hcm, HttpFilterKind, Rbac, RbacAction, RbacFilter},
    nearest_miss,
};
use mizzen_types::Name;

use super::{
    Cx, Flow, Reply,
    decisions::{Decision, Decisions},
};
use crate::{flags::Flags, record::Record};

/// Under which name the shadow's decision is left in the dynamic metadata.
const METADATA: &str = "envoy.filters.http.rbac";
/// What the prefixes of Istio's dry runs begin with.
const DRY_RUN: &str = "istio_dry_run_";

/// The policies that a connection manager enforces, in their order, with what a route says of them.
pub(crate) fn policies<'a>(hcm: &'a Hcm, overrides: &'a [(Name, FilterOverride)]) -> impl Iterator<Item = &'a Arc<Rbac>> {
    hcm.filters.iter().filter_map(|filter| {
        let HttpFilterKind::Rbac(own) = &filter.kind else { return None };
        let route = filter.overridden(overrides);
        if filter.is_on(route) { own.in_force(route).rules.as_ref() } else { None }
    })
}

pub(super) fn request(own: &RbacFilter, cx: &mut Cx<'_>) -> Flow {
    let rbac = own.in_force(cx.route);
    if let Some(shadow) = &rbac.shadow {
        watch(shadow, &rbac.shadow_prefix, cx);
    }
    let (Some(rules), Some(down)) = (&rbac.rules, cx.conn.down()) else { return Flow::Go };
    let facts =
        PolicyFacts { remote: cx.remote, request: Some(cx.head), metadata: Some(&cx.facts.metadata), ..down.policy_facts(&cx.conn.addrs) };
    // What X-Forwarded-For says differs from request to request: such policies are not bound.
    let bound = down.bound.iter().find(|(bound, _)| Arc::ptr_eq(bound, rules)).filter(|_| cx.remote == cx.conn.addrs.peer.ip());
    let verdict = match bound {
        Some((_, bound)) => bound.authorize(rules, &facts),
        None => authorize(rules, &facts, &mut Trace::off()),
    };
    count(rules, &verdict, &mut cx.filters.decisions);
    match verdict {
        Verdict::Denied(denied) => {
            cx.record.policy = Some(explain(denied.as_deref(), || nearest_miss(rules, &facts)));
            Reply::flow(403, "RBAC: access denied", Flags::default(), denial(denied.as_deref()))
        }
        Verdict::Allowed(matched) => {
            if rules.action == RbacAction::Log {
                mark(&mut cx.facts.metadata, matched.is_some());
            }
            Flow::Go
        }
    }
}

/// Evaluates what is not enforced, and leaves the outcome for those who come after: other filters, logs.
fn watch(shadow: &Rbac, prefix: &Name, cx: &mut Cx<'_>) {
    let Some(down) = cx.conn.down() else { return };
    let facts =
        PolicyFacts { remote: cx.remote, request: Some(cx.head), metadata: Some(&cx.facts.metadata), ..down.policy_facts(&cx.conn.addrs) };
    let watched = Watched::by(shadow, prefix, &facts);
    if watched.dry && watched.denied {
        let policy = watched.policy.as_deref();
        let why = match policy {
            Some(policy) => format!("would be denied by {policy}"),
            None => format!("would be denied: {}", explain(None, || nearest_miss(shadow, &facts))),
        };
        cx.record.dry_run.get_or_insert(why);
    }
    watched.leave(METADATA, &mut cx.facts.metadata, &mut cx.filters.decisions);
}

/// What policies that are not enforced say.
pub(super) struct Watched<'a> {
    prefix: &'a Name,
    /// Whether it is one of Istio's dry runs, and not its way of asking others.
    dry: bool,
    denied: bool,
    policy: Option<Name>,
}

impl<'a> Watched<'a> {
    pub(super) fn by(shadow: &Rbac, prefix: &'a Name, facts: &PolicyFacts<'_>) -> Watched<'a> {
        let (denied, policy) = match authorize(shadow, facts, &mut Trace::off()) {
            Verdict::Allowed(policy) => (false, policy),
            Verdict::Denied(policy) => (true, policy),
        };
        Watched { prefix, dry: prefix.starts_with(DRY_RUN), denied, policy }
    }

    /// Leaves it in the dynamic metadata, under Envoy's keys, and counts it.
    pub(super) fn leave(self, filter: &str, metadata: &mut Metadata, decisions: &mut Decisions) {
        let Watched { prefix, dry, denied, policy } = self;
        let decision = match (dry, denied) {
            (true, true) => Decision::WouldDeny,
            (true, false) => Decision::WouldAllow,
            (false, _) => Decision::Asked,
        };
        match &policy {
            Some(policy) => {
                decisions.count(policy, decision);
                metadata.put(filter, &format!("{prefix}shadow_effective_policy_id"), policy);
            }
            None if dry && denied => decisions.count(&"none".into(), decision),
            None => {}
        }
        metadata.put(filter, &format!("{prefix}shadow_engine_result"), if denied { "denied" } else { "allowed" });
    }
}

/// Counts what an enforced set of policies said.
pub(super) fn count(rules: &Rbac, verdict: &Verdict, decisions: &mut Decisions) {
    match (rules.action, verdict) {
        (RbacAction::Log, Verdict::Allowed(Some(policy))) => decisions.count(policy, Decision::Marked),
        _ => decisions.count_verdict(verdict),
    }
}

/// What an audit leaves, for whoever logs by it.
pub(super) fn mark(metadata: &mut Metadata, matched: bool) {
    metadata.put_flag("envoy.common", "access_log_hint", matched);
}

/// Envoy's words for a refusal by policy.
pub(crate) fn denial(policy: Option<&str>) -> String {
    format!("rbac_access_denied_matched_policy[{}]", policy.unwrap_or("none"))
}

/// The words for a refusal.
pub(crate) fn explain(policy: Option<&str>, miss: impl FnOnce() -> Option<mizzen_ir::Miss>) -> String {
    match policy {
        Some(policy) => format!("denied by {policy}"),
        None => match miss() {
            Some(miss) => format!("no policy allows it; nearest is {}: {}", miss.policy, miss.lacking.join("; ")),
            None => "no policy allows it".to_owned(),
        },
    }
}

/// The reason for a refusal, or for one that a dry run would have made, under keys of our own.
pub(super) fn text<'a>(key: &str, record: &'a Record) -> Option<&'a str> {
    match key {
        "mizzen.policy" => record.policy.as_deref(),
        "mizzen.dry_run" => record.dry_run.as_deref(),
        _ => None,
    }
}
