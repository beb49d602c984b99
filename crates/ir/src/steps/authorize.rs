//! Who may do what.

use mizzen_types::Name;

use crate::config::Rbac;
use crate::{PolicyFacts, Trace};

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

/// What a connection's facts leave of a policy set: policies that can still match its requests. Made once per connection and
/// configuration, so that principals are not matched again for every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundRbac {
    open: Box<[u32]>,
    always: Option<u32>,
}

/// Evaluates what the connection alone decides. `facts.request` must be none.
pub fn bind(rbac: &Rbac, facts: &PolicyFacts<'_>) -> BoundRbac {
    let _ = (rbac, facts);
    unimplemented!()
}

impl BoundRbac {
    /// As [`authorize`], for a request on the connection that this was made for.
    pub fn authorize(&self, rbac: &Rbac, facts: &PolicyFacts<'_>) -> Verdict {
        let _ = (rbac, facts, &self.open, self.always);
        unimplemented!()
    }
}

/// The decision of one policy set. Whatever cannot be evaluated does not match an ALLOW and does match a DENY.
pub fn authorize(rbac: &Rbac, facts: &PolicyFacts<'_>, trace: &mut Trace<'_>) -> Verdict {
    let _ = (rbac, facts, trace);
    unimplemented!()
}

/// For a denied request: which ALLOW policy came nearest, and why it did not match.
pub fn nearest_miss(rbac: &Rbac, facts: &PolicyFacts<'_>) -> Option<Miss> {
    let _ = (rbac, facts);
    unimplemented!()
}
