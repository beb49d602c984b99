//! Network filters: they judge a connection before it is served, and count the bytes that are relayed.

use std::sync::Arc;

use mizzen_ir::{
    Metadata, PolicyFacts, Trace, Verdict, authorize,
    config::{ExtAuthz, FilterChain, NetworkFilter, Rbac, RbacAction},
    nearest_miss,
};

use super::{
    Filters,
    decisions::Decisions,
    rbac::{self, Watched},
    stats,
};
use crate::{flags::Flags, kept::TcpStats, metrics::Table, view::View};

/// Under which name policies over connections leave what they found.
const METADATA: &str = "envoy.filters.network.rbac";

/// What a filter chain's policies say of a connection that is refused.
pub(crate) struct Refusal {
    pub(crate) details: String,
    pub(crate) policy: String,
    pub(crate) flags: Flags,
}

/// What the filters before the one that serves say of a connection.
pub(crate) enum Judged {
    /// It may be served.
    Go,
    /// It may not.
    Refused(Refusal),
    /// Somebody is to be asked, and then the filters after this one.
    Ask(Arc<ExtAuthz>, usize),
}

/// Whether a connection may be served, by the filters from the one at `from` on; `metadata` is what those before have left.
pub(crate) fn connection(
    chain: &FilterChain,
    facts: &PolicyFacts<'_>,
    from: usize,
    metadata: &mut Metadata,
    decisions: &mut Decisions,
) -> Judged {
    for (at, filter) in chain.filters.before.iter().enumerate().skip(from) {
        match filter {
            NetworkFilter::Rbac(filter) => {
                if let Some(shadow) = &filter.shadow {
                    let facts = PolicyFacts { metadata: Some(metadata), ..*facts };
                    Watched::by(shadow, &filter.shadow_prefix, &facts).leave(METADATA, metadata, decisions);
                }
                let Some(rules) = &filter.rules else { continue };
                let facts = PolicyFacts { metadata: Some(metadata), ..*facts };
                let verdict = authorize(rules, &facts, &mut Trace::off());
                rbac::count(rules, &verdict, decisions);
                if let Verdict::Denied(policy) = verdict {
                    return Judged::Refused(refusal(rules, policy.as_deref(), &facts));
                }
                if rules.action == RbacAction::Log {
                    rbac::mark(metadata, matches!(verdict, Verdict::Allowed(Some(_))));
                }
            }
            NetworkFilter::ExtAuthz(authz) => {
                if authz.enabled_metadata.as_ref().is_none_or(|wanted| wanted.matches(metadata)) {
                    return Judged::Ask(authz.clone(), at);
                }
            }
            NetworkFilter::Stats(_) => {}
        }
    }
    Judged::Go
}

/// Whether policies refuse a connection that is served already. Who was asked about it is not asked again.
pub(crate) fn open_connection(chain: &FilterChain, facts: &PolicyFacts<'_>) -> Option<Refusal> {
    chain.filters.before.iter().find_map(|filter| {
        let NetworkFilter::Rbac(filter) = filter else { return None };
        let rules = filter.rules.as_ref()?;
        match authorize(rules, facts, &mut Trace::off()) {
            Verdict::Denied(policy) => Some(refusal(rules, policy.as_deref(), facts)),
            Verdict::Allowed(_) => None,
        }
    })
}

fn refusal(rules: &Rbac, policy: Option<&str>, facts: &PolicyFacts<'_>) -> Refusal {
    let policy_text = rbac::explain(policy, || nearest_miss(rules, facts));
    Refusal { details: rbac::denial(policy), policy: policy_text, flags: Flags::default() }
}

/// What the filters of a chain keep of a connection whose bytes are relayed.
pub(crate) fn relayed(chain: &FilterChain) -> Option<TcpStats> {
    chain.filters.before.iter().find_map(|filter| match filter {
        NetworkFilter::Stats(config) => Some(TcpStats::new(config.clone())),
        NetworkFilter::Rbac(_) | NetworkFilter::ExtAuthz(_) => None,
    })
}

/// A connection has its partner.
pub(crate) fn opened(filters: &mut Filters, table: &mut Table, stats: &mut TcpStats, view: &View<'_>) {
    filters.decisions.tell(table);
    stats::tcp_opened(filters, table, stats, view);
}

/// Bytes were relayed, so many in all by now; or it is over.
pub(crate) fn progress(table: &mut Table, stats: &mut TcpStats, (received, sent): (u64, u64), over: bool) {
    stats::tcp_progress(table, stats, sent, received, over);
}
