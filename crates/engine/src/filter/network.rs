//! Network filters: they judge a connection before it is served, and count the bytes that are relayed.

use mizzen_ir::{
    PolicyFacts, Trace, Verdict, authorize,
    config::{FilterChain, NetworkFilter},
    nearest_miss,
};

use super::{Filters, rbac, stats};
use crate::{kept::TcpStats, metrics::Table, view::View};

/// What a filter chain's policies say of a connection that is refused.
pub(crate) struct Refusal {
    pub(crate) details: String,
    pub(crate) policy: String,
}

/// Whether a connection may be served; why not, if it may not.
pub(crate) fn connection(chain: &FilterChain, facts: &PolicyFacts<'_>) -> Option<Refusal> {
    chain.filters.before.iter().find_map(|filter| match filter {
        NetworkFilter::Rbac(rbac) => {
            let rules = rbac.rules.as_ref()?;
            let Verdict::Denied(policy) = authorize(rules, facts, &mut Trace::off()) else { return None };
            let details = rbac::denial(policy.as_deref());
            Some(Refusal { details, policy: rbac::explain(policy.as_deref(), || nearest_miss(rules, facts)) })
        }
        NetworkFilter::Stats(_) => None,
    })
}

/// What the filters of a chain keep of a connection whose bytes are relayed.
pub(crate) fn relayed(chain: &FilterChain) -> Option<TcpStats> {
    chain.filters.before.iter().find_map(|filter| match filter {
        NetworkFilter::Stats(config) => Some(TcpStats::new(config.clone())),
        NetworkFilter::Rbac(_) => None,
    })
}

/// A connection has its partner.
pub(crate) fn opened(filters: &mut Filters, table: &mut Table, stats: &mut TcpStats, view: &View<'_>) {
    stats::tcp_opened(filters, table, stats, view);
}

/// Bytes were relayed, so many in all by now; or it is over.
pub(crate) fn progress(table: &mut Table, stats: &mut TcpStats, (received, sent): (u64, u64), over: bool) {
    stats::tcp_progress(table, stats, sent, received, over);
}
