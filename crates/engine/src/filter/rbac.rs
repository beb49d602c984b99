//! Policies over requests: `envoy.filters.http.rbac`.

use std::sync::Arc;

use mizzen_ir::{
    PolicyFacts, Trace, Verdict, authorize,
    config::{FilterOverride, Hcm, HttpFilterKind, Rbac, RbacFilter},
    nearest_miss,
};
use mizzen_types::Name;

use super::{Cx, Flow, Reply};
use crate::{flags::Flags, record::Record};

/// Under which name the shadow's decision is left in the dynamic metadata.
const METADATA: &str = "envoy.filters.http.rbac";

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
    let Verdict::Denied(denied) = verdict else { return Flow::Go };
    cx.record.policy = Some(explain(denied.as_deref(), || nearest_miss(rules, &facts)));
    Reply::flow(403, "RBAC: access denied", Flags::default(), denial(denied.as_deref()))
}

/// Evaluates what is not enforced, and leaves the outcome for those who come after: other filters, logs.
fn watch(shadow: &Rbac, prefix: &str, cx: &mut Cx<'_>) {
    let Some(down) = cx.conn.down() else { return };
    let facts =
        PolicyFacts { remote: cx.remote, request: Some(cx.head), metadata: Some(&cx.facts.metadata), ..down.policy_facts(&cx.conn.addrs) };
    let (result, policy) = match authorize(shadow, &facts, &mut Trace::off()) {
        Verdict::Allowed(policy) => ("allowed", policy),
        Verdict::Denied(policy) => ("denied", policy),
    };
    if let Some(policy) = policy {
        cx.facts.metadata.put(METADATA, &format!("{prefix}shadow_effective_policy_id"), &policy);
    }
    cx.facts.metadata.put(METADATA, &format!("{prefix}shadow_engine_result"), result);
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

/// The reason for a refusal, under a key of our own.
pub(super) fn text<'a>(key: &str, record: &'a Record) -> Option<&'a str> {
    record.policy.as_deref().filter(|_| key == "mizzen.policy")
}
