//! How often each policy decided, as a metric.

use std::collections::HashMap;

use mizzen_ir::Verdict;
use mizzen_types::Name;

use crate::metrics::{Handle, Table};

const METRIC: &str = "mizzen_authorization_decisions_total";

/// What became of what a policy matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Decision {
    Allowed,
    Denied,
    /// Marked only (AUDIT).
    Marked,
    /// Somebody else is asked (CUSTOM).
    Asked,
    /// A dry run would have allowed it.
    WouldAllow,
    /// A dry run would have denied it.
    WouldDeny,
}

impl Decision {
    fn label(self) -> &'static str {
        match self {
            Decision::Allowed => "allowed",
            Decision::Denied => "denied",
            Decision::Marked => "marked",
            Decision::Asked => "asked",
            Decision::WouldAllow => "would_allow",
            Decision::WouldDeny => "would_deny",
        }
    }
}

/// Decisions by the policy, `none` where none matched and that meant no.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    counted: HashMap<(Name, Decision), Count>,
    /// Whether something is not in the table yet.
    fresh: bool,
}

#[derive(Debug, Default)]
struct Count {
    fresh: u64,
    handle: Option<Handle>,
}

impl Decisions {
    /// One more decision.
    pub(crate) fn count(&mut self, policy: &Name, decision: Decision) {
        self.fresh = true;
        // The name is copied by its pointer.
        self.counted.entry((policy.clone(), decision)).or_default().fresh += 1;
    }

    /// What an enforced set of policies said; an allowance by none of them is nobody's decision.
    pub(crate) fn count_verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Allowed(Some(policy)) => self.count(policy, Decision::Allowed),
            Verdict::Allowed(None) => {}
            Verdict::Denied(Some(policy)) => self.count(policy, Decision::Denied),
            Verdict::Denied(None) => self.count(&"none".into(), Decision::Denied),
        }
    }

    /// Puts what is new into the table.
    pub(crate) fn tell(&mut self, table: &mut Table) {
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        for ((policy, decision), count) in self.counted.iter_mut().filter(|(_, count)| count.fresh > 0) {
            let labels = || vec![("policy", policy.to_string()), ("decision", decision.label().to_owned())];
            let handle = *count.handle.get_or_insert_with(|| table.counter(METRIC, labels()));
            table.add(handle, std::mem::take(&mut count.fresh));
        }
    }

    /// Policies may be gone: only what is not told yet is kept.
    pub(crate) fn forget(&mut self) {
        self.counted.retain(|_, count| count.fresh > 0);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.counted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Value;

    #[test]
    fn are_counted_by_policy() {
        let (mut decisions, mut table) = (Decisions::default(), Table::default());
        for verdict in [
            Verdict::Denied(None),
            Verdict::Denied(Some("p".into())),
            Verdict::Allowed(Some("p".into())),
            Verdict::Denied(Some("p".into())),
            Verdict::Allowed(None),
        ] {
            decisions.count_verdict(&verdict);
        }
        decisions.tell(&mut table);
        decisions.forget();
        assert_eq!(decisions.len(), 0);
        decisions.count(&"p".into(), Decision::WouldDeny);
        decisions.count_verdict(&Verdict::Denied(Some("p".into())));
        decisions.tell(&mut table);
        let line = |series: &crate::metrics::Series| {
            let labels: Vec<&str> = series.labels.iter().map(|(_, value)| value.as_str()).collect();
            format!("{} {:?}", labels.join(" "), series.value)
        };
        let mut lines: Vec<String> = table.series().iter().map(line).collect();
        lines.sort();
        let counter = |text: &str, n: u64| format!("{text} {:?}", Value::Counter(n));
        assert_eq!(lines, [counter("none denied", 1), counter("p allowed", 1), counter("p denied", 3), counter("p would_deny", 1)]);
    }
}
