//! What objects say of each other.

mod exposure;
mod mutual_tls;
mod policies;

use crate::Cx;

/// Looks at one object among all others.
pub(crate) fn look(cx: &Cx<'_>) {
    exposure::look(cx);
    mutual_tls::look(cx);
    policies::look(cx);
}
